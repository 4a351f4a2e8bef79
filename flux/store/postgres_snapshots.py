"""Between which two snapshots a statement ran, at the price of no round trip.

In READ COMMITTED each statement has a snapshot of its own, and nothing tells it: PostgreSQL
takes it when the statement begins, and what is asked afterwards has another. So the question is
put right before and right after, in the same packet as the statement itself::

    Bind Execute (snapshot) | Bind Execute (the statement) | Bind Execute (snapshot) | Sync

The server does the three in one go and answers in one go. Where both snapshots are equal, and they
are unless somebody commits in these few microseconds, the statement had that one. Otherwise it
had one of those between them, and a replay has to find out which.

asyncpg's protocol core asks one thing at a time. A `SnapshotBracket` stands between it and the
socket for the length of one statement: it adds to what goes out, and takes out of what comes in
what asyncpg has not asked for.
"""

import struct

SNAPSHOT_SQL = "select pg_catalog.pg_current_snapshot()"
"""What is asked. It must be prepared under a name."""

_SYNC = b"S\x00\x00\x00\x04"
_EXECUTE = b"E\x00\x00\x00\x09\x00\x00\x00\x00\x00"
_BEFORE, _DURING, _AFTER = range(3)
_NOT_ASKED_FOR = b"2DC"
"""BindComplete, DataRow, CommandComplete: what our own questions are answered with."""
_ENDS = b"CIs"
"""CommandComplete, EmptyQueryResponse, PortalSuspended: a statement's last message unless it fails."""


class SnapshotBracket:
    """See the module. Used for one statement."""

    def __init__(self) -> None:
        self.before: str | None = None
        """The snapshot right before the statement; None when it was not told."""
        self.after: str | None = None
        """The snapshot right after it; None when the statement failed."""
        self._ask = b""
        self._phase = _BEFORE
        self._seen = bytearray()

    def set_name(self, statement_name: str) -> None:
        """Say under which name `SNAPSHOT_SQL` is prepared."""
        # Unnamed portal; no formats of parameters, no parameters, no formats of columns: text.
        body = b"\x00" + statement_name.encode() + b"\x00" + bytes(6)
        self._ask = b"B" + struct.pack("!i", 4 + len(body)) + body + _EXECUTE

    def wrap(self, data: bytes) -> bytes:
        """Return the packet that is to be sent instead of ``data``, which is a whole statement with its Sync."""
        assert data.endswith(_SYNC), "asyncpg sends a statement in one packet"
        return self._ask + data[: -len(_SYNC)] + self._ask + _SYNC

    def take(self, data: bytes) -> bytes:
        """Return what of the server's bytes is for asyncpg; the beginning of a message waits for its end."""
        seen = self._seen
        seen += data
        kept: list[bytes] = []
        offset = start = 0
        while len(seen) - offset >= 5:
            end = offset + 1 + int.from_bytes(seen[offset + 1 : offset + 5], "big")
            if end > len(seen) or end < offset + 5:
                break
            kind = seen[offset]
            if self._phase == _DURING:
                if kind in _ENDS:
                    self._phase = _AFTER
            elif kind in _NOT_ASKED_FOR:
                kept.append(bytes(seen[start:offset]))
                start = end
                self._note(kind, seen[offset + 5 : end])
            offset = end
        kept.append(bytes(seen[start:offset]))
        del seen[:offset]
        return b"".join(kept)

    def _note(self, kind: int, body: bytearray) -> None:
        if kind == ord("D"):
            # One column; its length, then its text.
            text = bytes(body[6:]).decode()
            if self._phase == _BEFORE:
                self.before = text
            else:
                self.after = text
        elif kind == ord("C") and self._phase == _BEFORE:
            self._phase = _DURING
