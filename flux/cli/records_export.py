"""``flux records export``: whole records as JSON lines, the oldest first.

stdout (or the file) has records and nothing else, so that ``jq`` and others take it as it is; how many there were and
where to go on is told on stderr. What ends early is exit code 6, and what was written by then is whole lines.
"""

import os
import sys
from typing import BinaryIO

import click

from flux.cli.client import ANSWER_BYTES_MAX, Client, open_client
from flux.cli.complete import execution_ids, filter_words
from flux.cli.failures import EXIT_NOT_WHOLE, CutAnswer, MalformedAnswer, ServerUnreachable, UsageError
from flux.cli.record import Record
from flux.cli.screen import Piece, Screen
from flux.cli.settings import settings
from flux.cli.trace_list import canonical_filter
from flux.cli.window import find_window
from flux.sanitize import sanitize_json

MAY_LACK_SOME = "FLX617"
"""Of an answer that came to its end."""


@click.command()
@click.argument("window", metavar="[WINDOW]", required=False)
@click.option("-q", "--query", metavar="FILTER", shell_complete=filter_words,
              help="Only those that match: 'status:>=500 route:/signup'.")  # fmt: skip
@click.option("--after", metavar="ID", shell_complete=execution_ids, help="Go on behind this execution.")
@click.option("-o", "--output", metavar="FILE", help="A new file for them. Without it, stdout.")
def command(window: str | None, query: str | None, after: str | None, output: str | None) -> int:
    """Whole records as JSON lines, the oldest first.

    WINDOW is 14:00..14:05, dates, last:15m, or the name of a pinned incident; without it, all. The lines are what
    flux trace ID --json prints.
    """
    client = open_client()
    terms = [canonical_filter(query), None if window is None else find_window(client, window, "flux records export")]
    asked = " ".join(term for term in terms if term) or None
    if output is None or output == "-":
        return _write(client, asked, after, sys.stdout.buffer)
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise UsageError(
            f"flux records export: cannot write {output}: {error.strerror}", remedy="-o FILE names another place"
        ) from error
    with open(descriptor, "wb") as file:
        return _write(client, asked, after, file)


def _write(client: Client, asked: str | None, after: str | None, file: BinaryIO) -> int:
    last: str | None = None
    count = 0
    end: Record | None = None
    try:
        stream = client.stream(
            "records", "export", endless=False, line_bytes_max=ANSWER_BYTES_MAX, q=asked, after=after
        )
        for answer in stream:
            end = answer.record.maybe_record("end")
            if end is None:
                last = answer.record.of_schema("flux.record/1").text("id")
                file.write(sanitize_json(answer.text).encode() + b"\n")
                count += 1
        file.flush()
    except (CutAnswer, ServerUnreachable):
        _tell(count, last, f"the server was lost: these are not all. {_go_on(last)}")
        raise
    if end is None:
        raise MalformedAnswer("the answer ends without saying that these were all", remedy=_go_on(last))
    problem = end.maybe_record("problem")
    _tell(count, last, None if problem is None else _tell_problem(problem, last))
    not_stored = int(end.number("not_stored"))
    if not_stored:
        screen = Screen.stderr(colour=False if settings().no_color else None)
        screen.line(Piece(f"{not_stored} that have just ended are not stored yet, and are not among them", "yellow"))
    return EXIT_NOT_WHOLE if problem is not None or not_stored else 0


def _tell(count: int, last: str | None, problem: str | None) -> None:
    screen = Screen.stderr(colour=False if settings().no_color else None)
    if problem is not None:
        screen.line(Piece("! ", "yellow"), problem)
    if not settings().quiet:
        screen.line(f"{count:,} record{'s' * (count != 1)}" + (f" · the last is {last}" if last else ""))


def _tell_problem(problem: Record, last: str | None) -> str:
    if problem.text("code") == MAY_LACK_SOME:
        return f"{problem.text('message')}. Export again to have them"  # They can lie before the last one.
    return f"{problem.text('message')}: these are not all. {_go_on(last)}"


def _go_on(last: str | None) -> str:
    return "begin again" if last is None else f"go on with --after {last}"
