"""``flux rollback``: serve earlier code again.

Its files are kept, so the switch takes as long as it takes to import them. Each rollback goes further back: what was
rolled back from is not returned to.
"""

import json

import click

from flux.cli.client import INVOKE_TIMEOUT_S, open_client
from flux.cli.deployed import switch_lines
from flux.cli.screen import Screen
from flux.cli.settings import settings


@click.command()
@click.argument("deployment", metavar="[ID]", required=False)
def command(deployment: str | None) -> None:
    """Serve the code before the current one again, or that of ID: the beginning of a deployment's id or of a commit.

    Migrations are not undone: the database stays as it is.
    """
    said = settings()
    body = json.dumps({} if deployment is None else {"to": deployment})
    answer = open_client().post("rollback", body=body, timeout_s=INVOKE_TIMEOUT_S)
    switch = answer.record.of_schema("flux.rollback/1")
    screen = Screen.stdout()
    if said.json:
        screen.write_raw_json(answer.text)
        return
    screen.page(switch_lines(switch, "rolled back", verbose=said.verbose))
