"""More than one statement in a packet, although asyncpg's protocol core asks one thing at a time.

A *bracket* stands between the protocol and the socket for the length of one statement. To the packet that goes out it
adds statements of its own, before the Sync; of what comes in it takes out what asyncpg has not asked for. The server
does all of it in one go and answers in one go: a round trip less for each statement that travels along. What
follows a statement that fails is skipped by the server, up to the Sync: so the order is also a condition.

A bracket begins between two whole messages: where it is used a transaction is open, and while one is, the server says
nothing but answers, or good-bye. It ends with the packet's ReadyForQuery. Behind that may come anything, from
notifications that waited for the end of the transaction to a good-bye, and of its last message only the beginning: so
that goes on to asyncpg as it comes, and nothing is left here when the bracket is taken off.
"""

import struct
from abc import ABC, abstractmethod

SYNC = b"S\x00\x00\x00\x04"
EXECUTE = b"E\x00\x00\x00\x09\x00\x00\x00\x00\x00"
"""Of the unnamed portal, all rows."""
_ENDS = b"CIs"
"""CommandComplete, EmptyQueryResponse, PortalSuspended: a statement's last message unless it fails."""
_READY = ord("Z")
"""ReadyForQuery: the answer to Sync."""


def bind(statement_name: str) -> bytes:
    """Return the message that binds a prepared statement, without parameters, to the unnamed portal; rows as text."""
    return _message(b"B", b"\x00" + statement_name.encode() + b"\x00" + bytes(6))


def parse(sql: str) -> bytes:
    """Return the message that prepares ``sql``, without parameters, as the unnamed statement."""
    return _message(b"P", b"\x00" + sql.encode() + b"\x00" + bytes(2))


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", 4 + len(body)) + body


class Bracket(ABC):
    """See the module. Used for one statement; a subclass says what it adds, and hears the answers to it."""

    NOT_ASKED_FOR: bytes
    """Kinds of messages that what was added is answered with."""

    def __init__(self, before: bytes, after: bytes) -> None:
        """``before`` and ``after`` are the messages to add."""
        self._before = before
        self._after = after
        self._is_theirs = not before
        """What comes now answers asyncpg's own statement."""
        self._is_over = False
        """That has ended."""
        self._is_answered = False
        """The whole packet has been answered."""
        self._seen = bytearray()

    def wrap(self, data: bytes) -> bytes:
        """Return the packet that is to be sent instead of ``data``, which is a whole statement with its Sync."""
        assert data.endswith(SYNC), "asyncpg sends a statement in one packet"
        return self._before + data[: -len(SYNC)] + self._after + SYNC

    def take(self, data: bytes) -> bytes:
        """Return what of the server's bytes is for asyncpg; the beginning of an answer's message waits for its end."""
        if self._is_answered:
            return data
        seen = self._seen
        seen += data
        kept: list[bytes] = []
        offset = start = 0
        while len(seen) - offset >= 5:
            end = offset + 1 + int.from_bytes(seen[offset + 1 : offset + 5], "big")
            if end > len(seen) or end < offset + 5:
                break
            kind = seen[offset]
            if kind == _READY:
                self._is_answered = True
                offset = len(seen)
                break
            if self._is_theirs:
                if kind in _ENDS:
                    self._is_theirs, self._is_over = False, True
            elif kind in self.NOT_ASKED_FOR:
                kept.append(bytes(seen[start:offset]))
                start = end
                self._note(kind, seen[offset + 5 : end], is_after=self._is_over)
                self._is_theirs = kind == ord("C") and not self._is_over
            offset = end
        kept.append(bytes(seen[start:offset]))
        del seen[:offset]
        return b"".join(kept)

    @abstractmethod
    def _note(self, kind: int, body: bytearray, *, is_after: bool) -> None:
        """Hear a message that was taken out; ``is_after`` says on which side of the statement."""


class CommitBehind(Bracket):
    """COMMIT, in the packet of the transaction's last statement: where that fails, it is not committed."""

    NOT_ASKED_FOR = b"12C"
    """ParseComplete, BindComplete, CommandComplete."""

    def __init__(self) -> None:
        super().__init__(b"", _COMMIT)
        self.tag: str | None = None
        """What the server answered to COMMIT, ROLLBACK where the transaction had failed before; None without answer."""

    def _note(self, kind: int, body: bytearray, *, is_after: bool) -> None:
        assert is_after, "nothing was asked before"
        if kind == ord("C"):
            self.tag = bytes(body).rstrip(b"\x00").decode()


_COMMIT = parse("commit") + bind("") + EXECUTE
