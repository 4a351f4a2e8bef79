"""``flux logs``: what functions logged."""

from collections import Counter
from typing import Any

import click

from flux.cli import moments
from flux.cli.client import Answer, Client, Stream, open_client
from flux.cli.complete import function_names
from flux.cli.failures import EXIT_NOT_WHOLE
from flux.cli.follow import endless
from flux.cli.record import Record
from flux.cli.screen import Piece, Screen, json_text, pad
from flux.cli.settings import settings
from flux.cli.trace_list import canonical_since
from flux.cli.trace_show import LEVELS, fields_text


@click.command()
@click.argument("function", required=False, shell_complete=function_names)
@click.option("--since", metavar="T", help="Begin then: 15m (ago), 14:00, a date, RFC 3339.")
@click.option("-f", "--follow", is_flag=True, help="Go on until ctrl-c.")
def command(function: str | None, since: str | None, follow: bool) -> int:
    """What functions logged; of one FUNCTION, or of all."""
    logs = Logs(open_client(), function, canonical_since(since))
    for answer in endless(logs.ask_on, logs.story) if follow else logs.ask(follow=False):
        logs.show(answer)
    if not logs.shown and logs.story is not None:
        logs.story.line("nothing was logged" + (f" by {function}" if function else ""))
    return EXIT_NOT_WHOLE if logs.lost else 0


class Logs:
    """The lines so far. Without ids, those of the last instant are remembered, in case they come again."""

    def __init__(self, client: Client, function: str | None, since: str | None) -> None:
        self._client = client
        self._function = function
        self._since = since
        said = settings()
        self._json = said.json
        self._screen = Screen.stdout()
        self.story = None if said.quiet else Screen.stderr(colour=False if said.no_color else None)
        """Where to say what is going on; None when nothing is to be said."""
        self._last_instant: Counter[str] = Counter()
        self._again: Counter[str] = Counter()
        self.shown = 0
        """Lines on the screen."""
        self.lost = 0
        """Lines that the server had to leave out."""

    def ask(self, *, follow: bool) -> Stream:
        """Ask for the stream, from where the last one ended."""
        self._again = self._last_instant.copy()
        stream = self._client.stream(
            "logs", endless=follow, function=self._function, since=self._since, follow=1 if follow else 0
        )
        if follow and self._since is None:
            # Nothing was asked for but what comes from now on: after a lost connection, from here on.
            self._since = stream.began_at
        return stream

    def ask_on(self) -> Stream:
        """Ask for a stream that does not end."""
        return self.ask(follow=True)

    def show(self, answer: Answer) -> None:
        """Print one line of the stream."""
        record = answer.record
        if "heartbeat" in record.data:
            return
        if "gap" in record.data:
            self.lost += int(record.number("gap"))
            Screen.stderr().line(
                Piece(
                    f"  ! {record.number('gap'):g} lines are missing here: this reader was too slow",
                    "bold yellow",
                )
            )
            return
        at = record.text("at")
        if at == self._since and self._again[answer.text] > 0:
            self._again[answer.text] -= 1
            return
        if at != self._since:
            self._since = at
            self._last_instant.clear()
        self._last_instant[answer.text] += 1
        self.shown += 1
        if self._json:
            self._screen.write_raw_json(answer.text)
        else:
            self._show_line(record)

    def _show_line(self, log: Record) -> None:
        level = log.text("level")
        message: Any = log.get("message")
        fields = log.data.get("fields")
        time = moments.clock(
            moments.read_moment(log.text("at"), "at"), moments.local_now(), milliseconds=True
        )
        self._screen.line(
            Piece(time, "dim"), " ",
            Piece(pad(level, 7), LEVELS.get(level, "")), " ",
            Piece(log.maybe_text("function") or "?", "bold"), "  ",
            message if isinstance(message, str) else json_text(message),
            Piece("  " + fields_text(fields) if isinstance(fields, dict) and fields else "", "cyan"),
            Piece("  " + (log.maybe_text("execution") or ""), "dim"),
        )  # fmt: skip
