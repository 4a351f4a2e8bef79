"""``flux queue retry``: have a dead job run again."""

import click

from flux.cli.client import open_client
from flux.cli.screen import Piece, Screen
from flux.cli.settings import settings


@click.command()
@click.argument("id", metavar="ID")
def command(id: str) -> None:
    """Have a dead job run again, with as many retries as a new one.

    ID is the job's, or the beginning of it: `flux queue dead-letter` shows them.
    """
    said = settings()
    answer = open_client().post("queue", id, "retry", body="{}")
    job = answer.record.of_schema("flux.job/1").record("job")
    screen = Screen.stdout()
    if said.json:
        screen.write_raw_json(answer.text)
        return
    screen.line(Piece(job.text("id"), "bold"), f" of {job.text('function')} is {job.text('state')} again")
