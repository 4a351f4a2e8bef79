"""``flux secrets list``: names of secrets and where they are. Values are never shown."""

from collections.abc import Sequence

import click

from flux.cli.client import open_client
from flux.cli.record import Record
from flux.cli.screen import Line, Piece, Screen, cells, pad
from flux.cli.settings import settings


@click.command()
def command() -> None:
    """Names of secrets, and whether they are kept by the server or stand in .env.local. Nothing shows a value."""
    answer = open_client().get("secrets")
    secrets = answer.record.of_schema("flux.secrets/1").records("secrets")
    said = settings()
    if said.json:
        Screen.stdout().write_raw_json(answer.text)
        return
    if not secrets and not said.quiet:
        Screen.stderr(colour=False if said.no_color else None).line("no secrets: flux secrets set NAME")
    Screen.stdout().page(lines(secrets))


def lines(secrets: Sequence[Record]) -> list[Line]:
    """A line a secret."""
    width = max((cells(secret.text("name")) for secret in secrets), default=0)
    result: list[Line] = []
    for secret in secrets:
        moment = secret.maybe_text("changed_at")
        kept = f"kept since {moment[:16].replace('T', ' ')}" if moment is not None else ""
        local = ".env.local" + (" (which is used)" if kept else "") if secret.flag("local") else ""
        where = " · ".join(part for part in (kept, local) if part)
        result.append([Piece(pad(secret.text("name"), width), "bold"), "  ", Piece(where, "dim")])
    return result
