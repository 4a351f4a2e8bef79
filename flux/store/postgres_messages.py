"""What asyncpg's protocol core does not tell, taken from the messages themselves, and COPY's two ends.

A *tap* is a callable that sees the server's bytes before the protocol does; a
`Wire` has at most one, for the length of one statement. Message forms:
https://www.postgresql.org/docs/current/protocol-message-formats.html.
"""

import secrets
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from flux.store.postgres_answers import Column
from flux.store.postgres_wire import Wire

LOG_IN_BYTES_MAX = 30000
"""No message of a log-in is longer; libpq's own limit."""

SEND_QUEUE_BYTES_MAX = 262144
SEND_QUEUE_BYTES_LOW = 65536
"""COPY stops taking rows when more than the former waits to be sent, until the latter is left."""


class LogInCheck:
    """Refuses what no Postgres server says before it has let a client in.

    asyncpg's protocol core trusts its server: of a message with an impossible length it never comes back,
    and with it the whole process stands still. A wrong port is enough for that, so the first messages are
    looked at here; libpq does the same, with the same limits.
    """

    def __init__(self) -> None:
        self._seen = bytearray()

    def __call__(self, data: bytes) -> None:
        self._seen += data
        for _, body in split_messages(self._seen):
            self._check_head()
            del self._seen[: 5 + len(body)]
        self._check_head()

    def _check_head(self) -> None:
        if not self._seen:
            return
        length = int.from_bytes(self._seen[1:5], "big")
        if self._seen[0] not in b"RESKNvZ" or (len(self._seen) >= 5 and not 4 <= length <= LOG_IN_BYTES_MAX):
            raise NotPostgres(f"it begins with {bytes(self._seen[:16])!r}")


class NotPostgres(Exception):
    """At the other end is something else."""


class RowDescription:
    """Takes the RowDescription out of what the server says: asyncpg keeps the columns' origins to itself."""

    def __init__(self) -> None:
        self._seen = bytearray()

    def __call__(self, data: bytes) -> None:
        self._seen += data

    def columns(self, attributes: Sequence[Any]) -> tuple[Column, ...]:
        """The columns of the statement described; ``attributes`` are asyncpg's, in the same order."""
        return tuple(
            Column(attribute.name, attribute.type.name, attribute.type.oid, table_oid, number)
            for attribute, (table_oid, number) in zip(attributes, self._origins(), strict=True)
        )

    def _origins(self) -> Iterator[tuple[int, int]]:
        for kind, body in split_messages(self._seen):
            if kind == b"T":
                offset = 2
                for _ in range(int.from_bytes(body[:2], "big")):
                    offset = body.index(0, offset) + 1
                    yield struct.unpack_from("!Ih", body, offset)
                    offset += 18


class MarkedValue:
    """Takes one value out of what the server says: of a script, asyncpg gives only the tag.

    The value's row is known by a mark that stands before it, and by nothing else. The first byte seen here need not
    begin a message: where a session listens, notifications come behind the answer of a COMMIT, in pieces that end
    anywhere, and the rest of one is seen here. What it holds is whatever somebody wrote there, a row of our shape too.
    The mark is drawn anew for each question, and Postgres sends no notification between a question and its answer: so
    who could have read it comes too late.
    """

    def __init__(self) -> None:
        self.mark = secrets.token_hex(16)
        """To be the first of the row's two columns."""
        self._seen = bytearray()

    def __call__(self, data: bytes) -> None:
        self._seen += data

    def find_text(self) -> str | None:
        """The second column's text, once the script is over; None where no row has come, or a null in it."""
        before, marked, behind = self._seen.partition(struct.pack("!HI", 2, len(self.mark)) + self.mark.encode())
        if not marked or before[-5:-4] != b"D":
            return None
        length = int.from_bytes(behind[:4], "big", signed=True)
        return None if length < 0 else behind[4 : 4 + length].decode()


class FirstTag:
    """Takes what the server says of a script's first statement: asyncpg gives only the tag of the last.

    For scripts in an open transaction: while one is open, what comes first begins a message.
    """

    def __init__(self) -> None:
        self.tag: str | None = None
        """The command's tag; None where it failed, or was not answered."""
        self._seen = bytearray()

    def __call__(self, data: bytes) -> None:
        if self.tag is not None:
            return
        self._seen += data
        for kind, body in split_messages(self._seen):
            del self._seen[: 5 + len(body)]
            if kind == b"C":  # CommandComplete
                self.tag = body.rstrip(b"\x00").decode()
                return


class CopyRefusal:
    """Answers the server when a script makes it wait for COPY's rows: there are none to come."""

    _FAIL = b"Flux sends rows with copy_records, not with COPY ... FROM STDIN\x00"

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._seen = bytearray()

    def __call__(self, data: bytes) -> None:
        self._seen += data
        for kind, body in split_messages(self._seen):
            del self._seen[: 5 + len(body)]
            if kind == b"G":  # CopyInResponse
                self._wire.write(b"f" + struct.pack("!i", 4 + len(self._FAIL)) + self._FAIL)


def split_messages(data: bytes | bytearray) -> list[tuple[bytes, bytes]]:
    """The whole messages at the start of ``data``: kind and body."""
    messages, offset = [], 0
    while len(data) - offset >= 5:
        end = offset + 1 + int.from_bytes(data[offset + 1 : offset + 5], "big")
        if end > len(data) or end < offset + 5:
            break
        messages.append((bytes(data[offset : offset + 1]), bytes(data[offset + 5 : end])))
        offset = end
    return messages


class CopyFeed:
    """Hands COPY its records, and waits while the socket is full.

    asyncpg ends a COPY properly when its source raises an ``Exception``. Cancellation is none, so it is
    carried through as one, and raised again when the COPY is over.
    """

    def __init__(self, wire: Wire, records: Iterable[Sequence[object]]) -> None:
        self._wire = wire
        self._records = iter(records)
        self.count = 0
        """Records handed out."""
        self.interruption: BaseException | None = None
        """What ended the source: cancellation, or an error of the caller's own iterator."""

    def __aiter__(self) -> "CopyFeed":
        return self

    async def __anext__(self) -> Sequence[object]:
        try:
            if len(self._wire.outgoing) > SEND_QUEUE_BYTES_MAX:
                await self._wire.flush(SEND_QUEUE_BYTES_LOW)
            record = next(self._records)
        except StopIteration:
            raise StopAsyncIteration from None
        except BaseException as error:
            self.interruption = error
            raise _CopyInterrupted from error
        self.count += 1
        return record


class _CopyInterrupted(Exception):
    """Stands for `CopyFeed.interruption` while asyncpg ends the COPY."""
