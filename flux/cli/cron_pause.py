"""``flux cron pause``: let the times of a function's schedules pass."""

import click

from flux.cli.client import open_client
from flux.cli.cron_list import lines
from flux.cli.screen import Screen
from flux.cli.settings import settings


@click.command()
@click.argument("name", metavar="NAME")
def command(name: str) -> None:
    """Let the times of a function's schedules pass, until `flux cron resume NAME`. What runs goes on to its end.

    NAME is the function's. Nothing is owed for the time in between.
    """
    show_verb(name, "pause")


def show_verb(name: str, verb: str) -> None:
    """Ask for it, and show the function's schedules as they are then."""
    answer = open_client().post("cron", name, verb, body="{}")
    schedules = answer.record.of_schema("flux.cron/1").records("schedules")
    screen = Screen.stdout()
    if settings().json:
        screen.write_raw_json(answer.text)
        return
    screen.page(lines(schedules))
