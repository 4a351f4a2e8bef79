"""``flux logs``: what functions logged.

The lines of an execution are reported when it ends. So a connection that was lost is taken up again
from a while before the last line, and a line that was shown is known by its execution and number.
"""

from collections import OrderedDict
from datetime import datetime
from typing import Any

import click

from flux.cli import moments
from flux.cli.client import Answer, Client, Stream, open_client, open_client_again
from flux.cli.complete import function_names
from flux.cli.failures import EXIT_NOT_WHOLE
from flux.cli.follow import endless
from flux.cli.record import Record
from flux.cli.screen import Piece, Screen, json_text, pad
from flux.cli.settings import settings
from flux.cli.tail import OVERLAP, SEEN_MAX
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
    """What has been shown, and where to go on after a lost connection."""

    def __init__(self, client: Client, function: str | None, since: str | None) -> None:
        self._client = client
        self._function = function
        self._since = since
        said = settings()
        self._json = said.json
        self._screen = Screen.stdout()
        self.story = None if said.quiet else Screen.stderr(colour=False if said.no_color else None)
        """Where to say what is going on; None when nothing is to be said."""
        self._seen: OrderedDict[tuple[str, float], None] = OrderedDict()
        self._latest: datetime | None = None
        self._began_at: datetime | None = None
        self._asked = False
        self._resumed = False
        self.shown = 0
        """Lines on the screen."""
        self.lost = 0
        """Lines that the server had to leave out."""

    def ask(self, *, follow: bool) -> Stream:
        """Ask for the stream, from where the last one ended."""
        if self._asked:
            self._client = open_client_again(self._client)
        stream = self._client.stream(
            "logs", endless=follow, function=self._function, since=self._resume_from(),
            follow=1 if follow else 0,
        )  # fmt: skip
        self._resumed = self._asked
        if not self._asked:
            self._asked = True
            if stream.began_at is not None:
                self._began_at = moments.read_moment(stream.began_at, "the Date header")
        return stream

    def _resume_from(self) -> str | None:
        known = self._latest or self._began_at
        if not self._asked or known is None:
            return self._since
        resume = known - OVERLAP
        if self._since is not None and moments.read_moment(self._since, "--since") > resume:
            return self._since
        return moments.utc_text(resume)

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
        if self._is_old(record):
            return
        self.shown += 1
        if self._json:
            self._screen.write_raw_json(answer.text)
        else:
            self._show_line(record)

    def _is_old(self, log: Record) -> bool:
        """Whether this line was shown, or is older than what was asked for. Remembers it, too."""
        at = moments.read_moment(log.text("at"), log.path("at"))
        # A resumed stream begins earlier than the first did, for the sake of executions that were running.
        if self._resumed and self._since is None and self._began_at is not None and at < self._began_at:
            return True
        key = log.text("execution"), log.number("line")
        if key in self._seen:
            return True
        self._seen[key] = None
        if len(self._seen) > SEEN_MAX:
            self._seen.popitem(last=False)
        self._latest = max(self._latest or at, at)
        return False

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
            Piece(log.maybe_text("execution") or "", "dim"), " ",
            Piece(log.maybe_text("function") or "?", "bold"), "  ",
            message if isinstance(message, str) else json_text(message),
            Piece("  " + fields_text(fields) if isinstance(fields, dict) and fields else "", "cyan"),
        )  # fmt: skip
