"""Between which two snapshots a statement ran, at the price of no round trip.

In READ COMMITTED each statement has a snapshot of its own, and nothing tells it: PostgreSQL
takes it when the statement begins, and what is asked afterwards has another. So the question is
put right before and right after, in the same packet as the statement itself::

    Bind Execute (snapshot) | Bind Execute (the statement) | Bind Execute (snapshot) | Sync

The server does the three in one go and answers in one go. Where both snapshots are equal, and they
are unless somebody commits in these few microseconds, the statement had that one. Otherwise it
had one of those between them, and a replay has to find out which.

How a packet comes to hold more than the one statement is told in `flux.store.postgres_bracket`.
"""

from flux.store.postgres_bracket import EXECUTE, Bracket, bind

SNAPSHOT_SQL = "select pg_catalog.pg_current_snapshot()"
"""What is asked. It must be prepared under a name."""


class SnapshotBracket(Bracket):
    """See the module. Used for one statement."""

    NOT_ASKED_FOR = b"2DC"
    """BindComplete, DataRow, CommandComplete."""

    def __init__(self) -> None:
        super().__init__(b"", b"")
        self.before: str | None = None
        """The snapshot right before the statement; None when it was not told."""
        self.after: str | None = None
        """The snapshot right after it; None when the statement failed."""

    def set_name(self, statement_name: str) -> None:
        """Say under which name `SNAPSHOT_SQL` is prepared."""
        ask = bind(statement_name) + EXECUTE
        super().__init__(ask, ask)

    def _note(self, kind: int, body: bytearray, *, is_after: bool) -> None:
        if kind == ord("D"):
            # One column; its length, then its text.
            text = bytes(body[6:]).decode()
            if is_after:
                self.after = text
            else:
                self.before = text
