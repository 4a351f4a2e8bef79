"""What plain bytes of a connection say, as far as it takes to hide parts of them.

Functions' libraries speak over connections of which the host sees plain bytes in
chunks (``net.send``, ``net.recv``). Rules of redaction name header fields and JSON
paths. So a chunk is taken apart into parts which, joined, are the chunk again; whoever
hides replaces some of them.

`Sent` and `Received` are one direction of one connection each. A direction keeps its
own state and never looks at the other one: a replay has what its guest sends, and
must hide the same in it.

Known are HTTP/1 (a chunk that begins with a request or status line begins a message; a
head may go on in later chunks) and, among what is sent, the messages of Postgres in
which clients send passwords. Everything else, HTTP bodies included, is one part.
"""

import enum
import re
from collections.abc import Iterator

import attrs

_REQUEST = re.compile(rb"([A-Z]{1,32} )([^ \r\n]+)( HTTP/1\.[01]\r?\n)")
_STATUS = re.compile(rb"HTTP/1\.[01] [0-9]{3}[^\r\n]*\r?\n")
LINE_BYTES_MAX = 64 * 1024
"""A longer line is no header field."""

_PROTOCOL_3 = 3 << 16
_SSL_REQUEST = 80877103
_GSS_REQUEST = 80877104
_STARTUP_BYTES_MAX = 10_000


class Kind(enum.Enum):
    """What a part is."""

    PLAIN = "plain"
    """Nothing that a rule could name."""
    TARGET = "target"
    """The target of a request: path and query."""
    HEADER = "header"
    """The value of a header field, or a piece of it."""
    BODY = "body"
    """What comes behind a head, or something that is not known."""
    PASSWORD = "password"
    """What a client of Postgres answers when it is asked who it is."""


@attrs.frozen
class Part:
    """A piece of a chunk."""

    kind: Kind
    data: bytes
    name: str = ""
    """Name of the header field."""


class _Head:
    """Takes the head of an HTTP/1 message apart, over as many chunks as it comes in."""

    def __init__(self) -> None:
        self.open = False
        """A head has begun and not ended."""
        self._carried = b""
        """The beginning of a line that an earlier chunk had."""

    def begin(self) -> None:
        self.open, self._carried = True, b""

    def split(self, data: bytes) -> Iterator[Part]:
        """Yield the parts of ``data``, which goes on in the head."""
        while data and self.open:
            line, newline, rest = data.partition(b"\n")
            piece = line + newline
            whole = self._carried + piece
            if len(whole) > LINE_BYTES_MAX:
                self.open = False
                yield Part(Kind.BODY, data)
                return
            yield from _split_line(self._carried, piece)
            if newline:
                self._carried = b""
                self.open = bool(whole.strip())
            else:
                self._carried = whole
            data = rest
        if data:
            yield Part(Kind.BODY, data)


def _split_line(carried: bytes, piece: bytes) -> Iterator[Part]:
    """Yield the parts of ``piece``, which goes on in a line that began with ``carried``."""
    name, colon, _value = (carried + piece).partition(b":")
    if not colon:
        yield Part(Kind.PLAIN, piece)
        return
    before = max(0, len(name) + 1 - len(carried))
    value = piece[before:]
    if len(name) + 1 >= len(carried):  # It begins here: white space in front of it is no part of it.
        before += len(value) - len(value.lstrip(b" \t"))
        value = piece[before:]
    stripped = value.rstrip(b"\r\n")
    if before:
        yield Part(Kind.PLAIN, piece[:before])
    if stripped:
        yield Part(Kind.HEADER, stripped, name.decode("latin-1").strip())
    if len(stripped) < len(value):
        yield Part(Kind.PLAIN, value[len(stripped) :])


class Received:
    """What is heard over one connection."""

    def __init__(self) -> None:
        self._head = _Head()

    def split(self, data: bytes) -> list[Part]:
        """Return the parts of the next chunk."""
        if not self._head.open:
            found = _STATUS.match(data)
            if found is None:
                return [Part(Kind.BODY, data)]
            self._head.begin()
            return [Part(Kind.PLAIN, found[0]), *self._head.split(data[found.end() :])]
        return list(self._head.split(data))


class Sent:
    """What is said over one connection."""

    def __init__(self) -> None:
        self._head = _Head()
        self._is_first = True
        self._postgres: _Messages | None = None

    def split(self, data: bytes) -> list[Part]:
        """Return the parts of the next chunk."""
        if self._postgres is not None:
            return list(self._postgres.split(data))
        if self._is_first and data:
            number = int.from_bytes(data[4:8]) if len(data) >= 8 else 0
            length = int.from_bytes(data[:4])
            if (length, number) in ((8, _SSL_REQUEST), (8, _GSS_REQUEST)):
                return [Part(Kind.PLAIN, data)]  # What it really wants to say comes next.
            self._is_first = False
            if number == _PROTOCOL_3 and 8 <= length <= min(len(data), _STARTUP_BYTES_MAX):
                self._postgres = _Messages()
                return [Part(Kind.PLAIN, data[:length]), *self._postgres.split(data[length:])]
        found = _REQUEST.match(data)
        if found is not None:
            self._head.begin()
            before, target, after = found.groups()
            line = [Part(Kind.PLAIN, before), Part(Kind.TARGET, target), Part(Kind.PLAIN, after)]
            return [*line, *self._head.split(data[found.end() :])]
        return list(self._head.split(data)) if self._head.open else [Part(Kind.BODY, data)]


class _Messages:
    """The messages of a client of Postgres: a letter, a length, and what they say."""

    def __init__(self) -> None:
        self._begun = b""
        """Letter and length of a message, as far as they have come."""
        self._left = 0
        """Bytes of the message that are still to come."""

    def split(self, data: bytes) -> Iterator[Part]:
        while data:
            if not self._left:
                taken = data[: 5 - len(self._begun)]
                self._begun += taken
                data = data[len(taken) :]
                yield Part(Kind.PLAIN, taken)
                if len(self._begun) < 5:
                    return
                self._left = max(0, int.from_bytes(self._begun[1:]) - 4)
                if not self._left:
                    self._begun = b""
                continue
            is_password = self._begun[:1] == b"p"
            taken = data[: self._left]
            self._left -= len(taken)
            data = data[len(taken) :]
            if not self._left:
                self._begun = b""
            yield Part(Kind.PASSWORD if is_password else Kind.PLAIN, taken)
