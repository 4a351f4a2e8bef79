"""``flux token rotate``: give a token another value. It is shown once."""

import json

import click

from flux.cli.client import open_client
from flux.cli.screen import Screen
from flux.cli.settings import settings
from flux.cli.token_list import describe


@click.command()
@click.argument("name", metavar="NAME")
@click.option("--api-key", is_flag=True, help="An API key of that name, not a token for the server.")
@click.option("--grace", metavar="T", help="The old value is good for so long: 1h. Without it, it is refused at once.")
def command(name: str, api_key: bool, grace: str | None) -> None:
    """Make another value for a token. Its name, its scopes and the time at which it expires stay.

    The new value goes to stdout, once; the server keeps a digest of it.
    """
    order: dict[str, object] = {"name": name, "kind": "api" if api_key else "console"}
    if grace is not None:
        order["grace"] = grace
    answer = open_client().post("tokens", "rotate", body=json.dumps(order))
    token = answer.record.of_schema("flux.token/1")
    said = settings()
    screen = Screen.stdout()
    if said.json:
        screen.write_raw_json(answer.text)
        return
    screen.line(token.text("token"))
    if not said.quiet:
        old = f"the old value is good for {grace} more" if grace is not None else "the old value is refused from now on"
        Screen.stderr(colour=False if said.no_color else None).line(
            f"{describe(token)} · {old} · it is not shown again"
        )
