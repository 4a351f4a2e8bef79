"""``flux token list``: who may ask this server, with which scope, until when."""

from collections.abc import Sequence

import click

from flux.cli.client import open_client
from flux.cli.record import Record
from flux.cli.screen import Line, Piece, Screen, cells, pad
from flux.cli.settings import settings


@click.command()
def command() -> None:
    """Tokens that were made, the latest first, and when each was last used. Tokens themselves are never shown again."""
    answer = open_client().get("tokens")
    tokens = answer.record.of_schema("flux.tokens/1").records("tokens")
    said = settings()
    if said.json:
        Screen.stdout().write_raw_json(answer.text)
        return
    if not tokens and not said.quiet:
        Screen.stderr(colour=False if said.no_color else None).line("no tokens: flux token create NAME")
    Screen.stdout().page(lines(tokens))


def lines(tokens: Sequence[Record]) -> list[Line]:
    """A line a token."""
    width = max((cells(token.text("name")) for token in tokens), default=0)
    return [
        [
            Piece("● ", "green") if token.flag("good") else Piece("○ ", "dim"),
            Piece(pad(token.text("name"), width), "bold"), "  ", Piece(describe(token), "dim"),
        ]
        for token in tokens
    ]  # fmt: skip


def describe(token: Record) -> str:
    """What it is for and until when, in words."""
    kind = "api key" if token.text("kind") == "api" else "token"
    parts = [f"{kind}: {', '.join(map(str, token.items('scopes'))) or 'no scopes'}"]
    if (revoked := token.maybe_text("revoked_at")) is not None:
        parts.append(f"{'its old value, refused from' if token.flag('good') else 'revoked'} {_day(revoked)}")
    elif (expires := token.maybe_text("expires_at")) is not None:
        parts.append(f"{'expires' if token.flag('good') else 'expired'} {_day(expires)}")
    else:
        parts.append("does not expire")
    used = token.maybe_text("last_used_at")
    parts.append(f"last used {_day(used)}" if used is not None else "never used")
    return " · ".join(parts)


def _day(moment: str) -> str:
    return moment[:16].replace("T", " ")
