"""``flux tail``: executions as they happen.

One line an execution, and one beneath it when something went wrong or another
execution caused it. A lost connection is taken up again from a little before the last
line, and what was already shown is recognised by its id. What the server had
to leave out because this reader was too slow is said loudly.
"""

from collections import OrderedDict
from datetime import datetime, timedelta

import click

from flux.cli import moments, render
from flux.cli.client import Answer, Client, Stream, open_client, open_client_again
from flux.cli.complete import filter_words
from flux.cli.failures import EXIT_NOT_WHOLE
from flux.cli.follow import endless
from flux.cli.record import Record
from flux.cli.screen import Piece, Screen
from flux.cli.settings import settings
from flux.cli.trace_list import canonical_filter, canonical_since

SEEN_MAX = 100_000
"""Ids remembered to recognise what comes twice."""

OVERLAP = timedelta(minutes=5)
"""How far before the last line a new connection begins: an execution is reported when it ends, so one
that began earlier may still be to come."""


@click.command()
@click.option("-q", "--query", "query", metavar="FILTER", shell_complete=filter_words,
              help="Only those that match: 'status:>=500 route:/signup'.")  # fmt: skip
@click.option("--since", metavar="T", help="Begin then: 15m (ago), 14:00, a date, RFC 3339.")
@click.option("--follow/--no-follow", default=True, help="Go on until ctrl-c (the default), or stop at now.")
def command(query: str | None, since: str | None, follow: bool) -> int:
    """Executions as they happen, until ctrl-c."""
    tail = Tail(open_client(), canonical_filter(query), canonical_since(since))
    is_cut = False
    try:
        if follow:
            for answer in endless(tail.ask_on, tail.story):
                tail.show(answer)
        else:
            for answer in tail.ask(follow=False):
                tail.show(answer)
    except KeyboardInterrupt:
        is_cut = True
        raise  # main turns it into exit code 130.
    finally:
        tail.tell_sum(is_cut=is_cut)
    return EXIT_NOT_WHOLE if tail.lost else 0


class Tail:
    """What has been shown, and how the next line will look."""

    def __init__(self, client: Client, query: str | None, since: str | None) -> None:
        self._client = client
        self._query = query
        self._since = since
        said = settings()
        self._json, self._whole = said.json, said.verbose
        self._screen = Screen.stdout()
        self.story = None if said.quiet else Screen.stderr(colour=False if said.no_color else None)
        """Where to say what is going on; None when nothing is to be said."""
        self._warnings = Screen.stderr(colour=False if said.no_color else None)
        self._names: OrderedDict[str, str] = OrderedDict()
        self._prefixes = render.Prefixes()
        self._latest: datetime | None = None
        self._began_at: datetime | None = None
        self._asked = False
        self._resumed = False
        self.shown = 0
        """Executions on the screen."""
        self.failed = 0
        """Of these, how many went wrong."""
        self.lost = 0
        """Executions that the server had to leave out."""

    def ask(self, *, follow: bool) -> Stream:
        """Ask for the stream, from where the last one ended."""
        if self._asked:
            self._client = open_client_again(self._client)
        stream = self._client.stream(
            "tail", endless=follow, q=self._query, since=self._resume_from(), follow=1 if follow else 0
        )
        self._resumed = self._asked
        if not self._asked:
            self._asked = True
            if stream.began_at is not None:
                self._began_at = moments.read_moment(stream.began_at, "the Date header")
            if not (self._json or self.story is None):
                self._screen.cut_line(*render.table_head(self._screen.width, 12))
        return stream

    def ask_on(self) -> Stream:
        """Ask for a stream that does not end."""
        return self.ask(follow=True)

    def _resume_from(self) -> str | None:
        if not self._asked:
            return self._since
        known = self._latest or self._began_at
        if known is None:
            return self._since
        resume = moments.utc_text(known - OVERLAP)
        # Both are UTC in RFC 3339: the later one is what was asked for.
        return (
            self._since
            if self._since and moments.read_moment(self._since, "--since") > known - OVERLAP
            else resume
        )

    def show(self, answer: Answer) -> None:
        """Print one line of the stream."""
        record = answer.record
        if "heartbeat" in record.data:
            return
        if "gap" in record.data:
            count = int(record.number("gap"))
            self.lost += count
            self._warnings.line(
                Piece(f"  ! {count} executions are missing here: this reader was too slow", "bold yellow")
            )
            self._warnings.line(Piece("    they are recorded: flux trace list", "yellow"))
            return
        summary = record.of_schema("flux.summary/1")
        if self._is_old(summary):
            return
        # Counted first: ctrl-c that comes with the line on the screen must find it counted.
        self.shown += 1
        self.failed += render.failed(summary)
        if self._json:
            self._screen.write_raw_json(answer.text)
        else:
            self._show_line(summary)

    def _is_old(self, summary: Record) -> bool:
        """Whether this was shown, or ended before anybody looked. Remembers it, too."""
        identity, name = summary.text("id"), summary.text("name")
        started_at = moments.read_moment(summary.text("started_at"), summary.path("started_at"))
        if identity in self._names:
            return True
        # A resumed stream begins earlier than the first one did; what ended before that was not asked for.
        elapsed_ms = summary.maybe_number("elapsed_ms")
        if self._resumed and self._since is None and self._began_at is not None and elapsed_ms is not None:
            ended_at = started_at + timedelta(milliseconds=elapsed_ms)
            if ended_at < self._began_at - timedelta(seconds=1):
                return True
        self._names[identity] = name
        if len(self._names) > SEEN_MAX:
            self._names.popitem(last=False)
        self._prefixes.add(name)
        self._latest = max(self._latest or started_at, started_at)
        return False

    def _show_line(self, summary: Record) -> None:
        width = self._screen.width
        self._screen.cut_line(*render.summary_line(summary, self._prefixes, width, moments.local_now(), 12))
        for line in render.error_lines(summary, width, whole=self._whole):
            self._screen.cut_line(*line)
        parent = render.parent_line(summary, self._names)
        if parent is not None:
            self._screen.cut_line(*parent)

    def tell_sum(self, *, is_cut: bool) -> None:
        """The last words, on stderr; ``is_cut`` when ctrl-c brought the end."""
        if self.story is None or not self._asked:
            return
        parts = [f"{self.shown} execution{'s' * (self.shown != 1)}", f"{self.failed} failed"]
        if self.lost:
            parts.append(f"{self.lost} missing")
        if self.failed:
            parts.append("flux why @last-error")
        if is_cut and self.story.is_terminal:
            self.story.line()  # The terminal has written "^C" where this line would begin.
        self.story.line(Piece(" · ".join(parts), "bold"))
