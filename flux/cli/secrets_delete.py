"""``flux secrets delete``: take a kept value out."""

import click

from flux.cli.client import open_client
from flux.cli.screen import Screen
from flux.cli.secrets_list import lines
from flux.cli.settings import settings


@click.command()
@click.argument("name", metavar="NAME")
def command(name: str) -> None:
    """Take out a value that `flux secrets set` kept. Executions that have begun keep it to their end.

    What is left is shown. Backups of the database still hold the value, sealed.
    """
    answer = open_client().post("secrets", name, "delete", body="{}")
    secrets = answer.record.of_schema("flux.secrets/1").records("secrets")
    if settings().json:
        Screen.stdout().write_raw_json(answer.text)
        return
    Screen.stdout().page(lines(secrets))
