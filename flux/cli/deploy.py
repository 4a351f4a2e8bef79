"""``flux deploy``: serve other code, without a request lost.

The server makes the code ready beside what it serves and switches once it is; requests that are under way end on the
code that they began on. It is the server's own copy of the project that is deployed: its folder, or a commit of it.
"""

import json

import click

from flux.cli.client import INVOKE_TIMEOUT_S, open_client
from flux.cli.deployed import switch_lines
from flux.cli.failures import EXIT_FINDING
from flux.cli.screen import Screen
from flux.cli.settings import settings


@click.command()
@click.option("--on", metavar="REF", help="Deploy this commit; without it, the project's folder as it is.")
def command(on: str | None) -> int:
    """Serve the project's folder as it is, or a commit. Requests that are under way end on the code before."""
    said = settings()
    body = json.dumps({} if on is None else {"on": on})
    answer = open_client().post("deploy", body=body, timeout_s=INVOKE_TIMEOUT_S)
    switch = answer.record.of_schema("flux.deploy/1")
    screen = Screen.stdout()
    if said.json:
        screen.write_raw_json(answer.text)
    else:
        screen.page(switch_lines(switch, "deployed", verbose=said.verbose))
    return 0 if switch.flag("deployed") else EXIT_FINDING
