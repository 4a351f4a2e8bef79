"""``flux secrets set``: keep a value, read from stdin, for functions to ask for by its name."""

import json
import sys

import click

from flux.cli.client import open_client
from flux.cli.failures import UsageError
from flux.cli.screen import Screen
from flux.cli.secrets_list import lines
from flux.cli.settings import settings

VALUE_CHARACTERS_MAX = 1_000_000
"""The server has a narrower limit; this one keeps a whole disk from being read."""


@click.command()
@click.argument("name", metavar="NAME")
def command(name: str) -> None:
    """Keep a value for functions, which ask for it as ctx.secrets["NAME"].

    The value is read from stdin, so that it stands in no list of processes and no history of a shell: `flux secrets set
    NAME < file`. One line end at its end is left out. On a terminal it is asked for, and not shown.
    """
    value = _read_value(name)
    answer = open_client().post("secrets", name, body=json.dumps({"value": value}))
    secrets = answer.record.of_schema("flux.secrets/1").records("secrets")
    if settings().json:
        Screen.stdout().write_raw_json(answer.text)
        return
    Screen.stdout().page(lines(secrets))
    if secrets[0].flag("local"):
        Screen.stderr(colour=False if settings().no_color else None).line(
            f"! .env.local has {name} too, and on this machine that one is used: take the line out there"
        )


def _read_value(name: str) -> str:
    if sys.stdin.isatty():
        value: str = click.prompt(f"value of {name}", hide_input=True, err=True)
        return value
    try:
        value = sys.stdin.buffer.read(VALUE_CHARACTERS_MAX + 1).decode()
    except UnicodeDecodeError:
        raise UsageError("the value on stdin is not UTF-8", remedy="encode it first: base64 -w0 < file") from None
    return value[:-2] if value.endswith("\r\n") else value.removesuffix("\n")
