"""``flux invoke``: run a function once, now.

stdout gets what the function returned; how it went stands on stderr. The exit
code is 1 when the function failed or answered with a status of 400 or more.
"""

import json
import sys
from pathlib import Path

import click

from flux.cli import render
from flux.cli.client import INVOKE_TIMEOUT_S, open_client
from flux.cli.complete import function_names
from flux.cli.failures import EXIT_FINDING, UsageError
from flux.cli.screen import Piece, Screen
from flux.cli.settings import settings


@click.command()
@click.argument("name", metavar="NAME", shell_complete=function_names)
@click.option("--data", metavar="JSON", help="The input: JSON, @FILE, or - for stdin. Without it, {}.")
def command(name: str, data: str | None) -> int:
    """Run the function NAME once, now, and print what it returns."""
    said = settings()
    body = '{"data": ' + _checked_json(data) + "}"
    answer = open_client().post("invoke", name, body=body, timeout_s=INVOKE_TIMEOUT_S)
    result = answer.record.of_schema("flux.invoke/1")
    status, returned, summary = result.maybe_number("status"), result.get("body"), result.record("execution")
    screen = Screen.stdout()
    if said.json:
        screen.write_raw_json(answer.text)
    elif isinstance(returned, str):
        screen.write_text(returned)
    elif returned is not None:
        screen.write_raw_json(json.dumps(returned, ensure_ascii=False, indent=2))
    wrong = render.failed(summary) or (status is not None and status >= 400)
    if not said.quiet:
        calls = render.calls_text(summary.get("calls")) or "no calls"
        story = Screen.stderr(colour=False if said.no_color else None)
        outcome = (
            render.status_piece(summary)
            if status is None
            else Piece(f"{status:g}", "red" if wrong else "green")
        )
        story.line(
            Piece("→ ", "dim"), outcome, f" in {render.took(summary)}",
            Piece(f" · {calls} · {render.code(summary)}", "dim"),
            "   ", Piece(f"flux {'why' if wrong else 'trace'} {summary.text('name')}", "cyan"),
        )  # fmt: skip
        for line in render.error_lines(summary, story.width, whole=True):
            story.line(*line)
    return EXIT_FINDING if wrong else 0


def _checked_json(data: str | None) -> str:
    """The input as it was written, if it is JSON; sent as it is, so no number loses a digit."""
    if data is None:
        return "{}"  # As of an HTTP request without a body.
    source = "--data"
    if data == "-":
        source, data = "stdin", sys.stdin.read()
    elif data.startswith("@"):
        source = data[1:]
        try:
            data = Path(source).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            cause = getattr(error, "strerror", None) or str(error)
            raise UsageError(f"flux invoke: cannot read {source}: {cause}", remedy="--data @FILE") from error
    try:
        json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"flux invoke: {source} is not JSON: {error}",
            remedy="""for text, quote it twice: --data '"text"'""",
        ) from error
    return data
