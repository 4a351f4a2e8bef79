"""``flux cron resume``: have a function's schedules run again."""

import click

from flux.cli.cron_pause import show_verb


@click.command()
@click.argument("name", metavar="NAME")
def command(name: str) -> None:
    """Have a function's schedules run again, from now on.

    NAME is the function's. Times that have passed while it was paused are not caught up with.
    """
    show_verb(name, "resume")
