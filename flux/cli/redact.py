"""``flux redact``: what the rules of redaction take out of a document, or of an execution on record."""

import json
import sys
from pathlib import Path

import click

from flux.cli.client import open_client
from flux.cli.failures import UsageError
from flux.cli.record import Record
from flux.cli.screen import Line, Piece, Screen, json_text
from flux.cli.settings import settings


@click.command()
@click.argument("what", metavar="FILE|ID")
@click.option(
    "--test", is_flag=True, required=True, help="Only show what the rules would do: nothing is changed."
)
def command(what: str, test: bool) -> None:  # noqa: ARG001 - there is no other way yet, and none by default
    """What the rules in flux.toml take out.

    A JSON file, - for stdin, or the ID of an execution that is on record.
    """
    said = settings()
    body = {"execution": what}
    text = json.dumps(body)
    if what == "-" or Path(what).is_file():
        text = '{"document": ' + _read_document(what) + "}"
    answer = open_client().post("redact", "test", body=text)
    record = answer.record.of_schema("flux.redact-test/1")
    screen = Screen.stdout()
    if said.json:
        screen.write_raw_json(answer.text)
        return
    screen.page(lines(record, quiet=said.quiet))


def _read_document(what: str) -> str:
    try:
        data = sys.stdin.buffer.read() if what == "-" else Path(what).read_bytes()
        text = data.decode("utf-8-sig")
        json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{what} can't be read as JSON: {error}", remedy="give a JSON file, or - for stdin"
        ) from error
    return text


def lines(record: Record, *, quiet: bool) -> list[Line]:
    """The document as it would be stored, and what was taken out."""
    taken = record.records("taken")
    result: list[Line] = []
    if not quiet:
        rules = ", ".join(str(rule) for rule in record.items("rules"))
        what = record.maybe_text("execution") or "the document"
        count = f"{len(taken)} value{'s' * (len(taken) != 1)} of {what} would be taken out"
        result += [
            [Piece(count if taken else f"nothing of {what} would be taken out", "bold")],
            [f"  by {rules}"],
            [],
        ]
    for each in taken:
        path = each.maybe_text("path")
        result.append(["  ", Piece(each.text("part"), "bold"), f"  {path}" if path else ""])
    if record.data.get("document") is not None:
        result += (
            [[], [json_text(record.data["document"])]]
            if taken and not quiet
            else [[json_text(record.data["document"])]]
        )
    return result
