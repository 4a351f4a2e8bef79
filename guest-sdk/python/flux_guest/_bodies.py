"""Bodies of any size: the request's read piece by piece, and an answer written as it is made.

An answer whose body is an iterator is drained once the handler and its middleware have returned, while the execution's
transaction is still open: what goes wrong meanwhile is a failure of the function like any other. Its pieces are put
together, or cut, into what one host call carries, so neither many small ones nor a large one cost much.
"""

import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Protocol

PIECE_BYTES = 1 << 20
"""What one host call carries: of the answer, and of the request."""
BODY_FREE = (204, 205, 304)
"""Statuses whose answers have no body (RFC 9110, sections 15.3.5, 15.3.6, 15.4.5)."""


class Door(Protocol):
    """How the host is asked: with an answer, or with something to await."""

    @property
    def is_async(self) -> bool:
        """It is something to await."""

    def __call__(self, name: str, arguments: list[Any], convert: Callable[[Any], Any]) -> Any: ...


class AsyncDoor(Door, Protocol):
    """The same where there is an event loop."""

    async def run_blocking(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call what is ``def`` throughout, with calls that answer directly."""


class AnswerError(Exception):
    """A function returned what can't be answered; the message says what and where."""


class Streamed:
    """A body that the host has taken already."""

    def __init__(self, is_text: bool) -> None:
        self.is_text = is_text
        """All of its pieces were text."""


def is_stream(body: Any) -> bool:
    """Whether ``body`` is to be written as it is made: an iterator or a generator, ``async`` or not."""
    return hasattr(body, "__anext__") or hasattr(body, "__next__")


class _Pieces:
    """Puts together what is yielded, and cuts it, into pieces of one size."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._count = 0
        self.is_text = True

    def add(self, piece: Any) -> bool:
        """Take what was yielded; whether there is something to be written now."""
        self._count += 1
        if isinstance(piece, str):
            self._buffer += piece.encode()
        elif isinstance(piece, bytes | bytearray | memoryview):
            self._buffer += piece
            self.is_text = False
        else:
            kind = type(piece).__name__
            raise AnswerError(f"a streamed answer is made of text or bytes, and piece {self._count} is a {kind}")
        return len(self._buffer) >= PIECE_BYTES

    def take(self, *, at_end: bool = False) -> Iterator[bytes]:
        """Give what is to be written, and keep what is less than a whole piece, but for the end."""
        buffer, written = self._buffer, 0
        while len(buffer) - written >= (1 if at_end else PIECE_BYTES):
            yield bytes(buffer[written : written + PIECE_BYTES])
            written += PIECE_BYTES
        del buffer[:written]


def _same(value: Any) -> Any:
    return value


def write_blocking(door: Door, body: Any) -> Streamed:
    """Write an answer where all is ``def``."""
    if hasattr(body, "__anext__"):
        raise AnswerError("a def function can't stream an async generator: make it async def")
    pieces = _Pieces()
    try:
        for piece in body:
            if pieces.add(piece):
                for whole in pieces.take():
                    door("response.write", [whole], _same)
        for whole in pieces.take(at_end=True):
            door("response.write", [whole], _same)
        door("response.end", [], _same)
    except Exception as error:
        if inspect.isgenerator(body):
            body.throw(error)  # Raised where it yielded: so the error has the function's own line.
        raise
    finally:
        if inspect.isgenerator(body):
            body.close()
    return Streamed(pieces.is_text)


async def write(door: AsyncDoor, body: Any) -> Streamed:
    """Write an answer where there is an event loop."""
    pieces = _Pieces()
    try:
        async for piece in body if hasattr(body, "__anext__") else _iterate_blocking(door, body):
            if pieces.add(piece):
                for whole in pieces.take():
                    await door("response.write", [whole], _same)
        for whole in pieces.take(at_end=True):
            await door("response.write", [whole], _same)
        await door("response.end", [], _same)
    except Exception as error:
        # Raised where it yielded: so the error has the function's own line.
        if inspect.isasyncgen(body):
            await body.athrow(error)
        elif inspect.isgenerator(body):
            body.throw(error)
        raise
    finally:
        if inspect.isasyncgen(body):
            await body.aclose()
        elif inspect.isgenerator(body):
            body.close()
    return Streamed(pieces.is_text)


def check_status(status: Any) -> None:
    """Refuse to stream what is sent without a body, before anything of it is made."""
    if status in BODY_FREE:
        raise AnswerError(f"a response with status {status} has no body; this one has an iterator")


async def _iterate_blocking(door: AsyncDoor, body: Iterator[Any]) -> AsyncIterator[Any]:
    """Go through a plain iterator. It can't await, so its calls on ``ctx`` answer it directly."""
    ended = object()
    while True:
        piece = await door.run_blocking(next, body, ended)
        if piece is ended:
            return
        yield piece


class RequestStream:
    """The request's body, piece by piece: for ``async for`` in an ``async def`` handler, for ``for`` in a ``def`` one.

    Each iteration begins at the body's beginning.
    """

    def __init__(self, door: Door, body: bytes | None, size: int) -> None:
        """``body`` is None where it is the host's to hand out."""
        self._door = door
        self._body = body
        self._size = size

    def __iter__(self) -> Iterator[bytes]:
        if self._door.is_async:
            raise TypeError("in an async def handler a body is read with: async for piece in ctx.request.stream()")
        if self._body is not None:
            yield from [self._body] if self._body else []
            return
        offset = 0
        while offset < self._size:
            piece = self._door("request.read", [offset, PIECE_BYTES], _to_bytes)
            offset += len(piece)
            yield piece

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if not self._door.is_async:
            raise TypeError("in a def handler a body is read with: for piece in ctx.request.stream()")
        if self._body is not None:
            if self._body:
                yield self._body
            return
        offset = 0
        while offset < self._size:
            piece = await self._door("request.read", [offset, PIECE_BYTES], _to_bytes)
            offset += len(piece)
            yield piece


def _to_bytes(piece: Any) -> bytes:
    return piece if isinstance(piece, bytes) else bytes(piece)
