"""``flux token revoke``: have a token refused from now on."""

import json

import click

from flux.cli.client import open_client
from flux.cli.screen import Screen
from flux.cli.settings import settings
from flux.cli.token_list import lines


@click.command()
@click.argument("name", metavar="NAME")
@click.option("--api-key", is_flag=True, help="An API key of that name, not a token for the server.")
def command(name: str, api_key: bool) -> None:
    """Have a token refused from the next request on. What it has begun goes on to its end."""
    which = {"name": name, "kind": "api" if api_key else "console"}
    answer = open_client().post("tokens", "revoke", body=json.dumps(which))
    tokens = answer.record.of_schema("flux.tokens/1").records("tokens")
    if settings().json:
        Screen.stdout().write_raw_json(answer.text)
        return
    Screen.stdout().page(lines(tokens))
