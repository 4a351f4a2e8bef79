"""``flux token create``: make a token for the console. It is shown once."""

import json

import click

from flux.cli.client import open_client
from flux.cli.screen import Screen
from flux.cli.settings import settings
from flux.cli.token_list import describe


@click.command()
@click.argument("name", metavar="NAME")
@click.option("--scope", "scopes", multiple=True, metavar="SCOPE",
              help="read (the default), write, deploy or admin: each has those before it. Of an API key any.")
@click.option("--api-key", is_flag=True, help="A key for functions with auth = \"api_key\".")
@click.option("--expires", metavar="T", help="After so long it is refused: 30d, 12h. Without it, never.")
def command(name: str, scopes: tuple[str, ...], api_key: bool, expires: str | None) -> None:
    """Make a token with which FLUXRT_TOKEN lets somebody ask this server, or an API key for the project's functions.

    It goes to stdout, once; the server keeps a digest of it. NAME is for `flux token list` and `flux token revoke`.
    """
    order: dict[str, object] = {"name": name, "kind": "api" if api_key else "console"}
    if scopes:
        order["scopes"] = list(scopes)
    if expires is not None:
        order["expires"] = expires
    answer = open_client().post("tokens", body=json.dumps(order))
    token = answer.record.of_schema("flux.token/1")
    said = settings()
    screen = Screen.stdout()
    if said.json:
        screen.write_raw_json(answer.text)
        return
    screen.line(token.text("token"))
    if not said.quiet:
        Screen.stderr(colour=False if said.no_color else None).line(
            f"{describe(token)} · it is not shown again"
        )
