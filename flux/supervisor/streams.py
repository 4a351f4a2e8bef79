"""What one execution writes and reads piece by piece, and how much of it.

The answer goes into a spool of its own, which is opened by its first piece; the upload lies in one that the gateway has
filled. Both are bounded by the function's limit ``stream``. Where that is not set there is no streaming at all: an
operator who never thought of bodies on the disk has none.
"""

import hashlib
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import trio

from flux.errors import OperatorError
from flux.hostcalls.base import HostCallFailed
from flux.http_rules import HttpRefusal
from flux.limits import Limits, format_size
from flux.streamed import END, READ, WRITE, StreamedBody
from flux.supervisor.console_machines import RETRY_AFTER_S
from flux.supervisor.spool import Spool, SpoolError, SpoolFolder


class Sink(Protocol):
    """Where an answer goes: a `Spool`, or a `Digest`."""

    size_bytes: int
    """What was written so far."""

    @property
    def body(self) -> StreamedBody:
        """What it is, as far as it was written."""

    async def write(self, piece: bytes) -> None:
        """Take the next piece; raise `SpoolError`."""

    def close(self) -> None:
        """Let go of it."""


class Digest:
    """An answer that nobody waits for, of a replay: only what it would have been is asked for."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self.size_bytes = 0

    @property
    def body(self) -> StreamedBody:
        """See `Sink.body`."""
        return StreamedBody(self._digest.hexdigest(), self.size_bytes)

    async def write(self, piece: bytes) -> None:
        """See `Sink.write`."""
        await trio.lowlevel.checkpoint()
        self._digest.update(piece)
        self.size_bytes += len(piece)

    def close(self) -> None:
        """See `Sink.close`."""


_S = TypeVar("_S", bound=Sink)


class ExecutionStreams(Generic[_S]):
    """See `flux.hostcalls.base.Streams`, and the module."""

    def __init__(
        self, open_answer: Callable[[], _S], limits: Limits, function: str, upload: Spool | None = None
    ) -> None:
        """``upload`` is the body of the request, where it was too large to hold. It stays its opener's to close."""
        self._open_answer = open_answer
        self._bytes_max = limits.stream_bytes_max
        self._function = function
        self._upload = upload
        self._answer: _S | None = None
        self._ended: StreamedBody | None = None
        self._failed: HostCallFailed | None = None
        """Why the answer has no further pieces: one of them is missing."""

    async def write(self, piece: bytes) -> None:
        """See `flux.hostcalls.base.Streams.write`."""
        spool = self._open(WRITE)
        if spool.size_bytes + len(piece) > self._bytes_max:
            raise self._fail(
                HostCallFailed(
                    "StreamTooLarge",
                    f"{WRITE}: the answer would have {spool.size_bytes + len(piece):,} bytes; "
                    f"{format_size(self._bytes_max)} are allowed (stream under [limits])",
                    code="FLX715",
                    details={"stream_bytes_max": self._bytes_max},
                )
            )
        try:
            await spool.write(piece)
        except SpoolError as error:
            raise self._fail(_no_room(WRITE, error)) from error

    async def end(self) -> StreamedBody:
        """See `flux.hostcalls.base.Streams.end`."""
        self._ended = self._open(END).body
        return self._ended

    def _open(self, call: str) -> _S:
        if not self._bytes_max:
            raise HostCallFailed(
                "StreamRefused",
                f'{call}: {self._function} may not stream: set stream, as in stream = "1GiB", under [limits] or '
                f"[functions.{self._function}] in flux.toml",
                code="FLX711",
            )
        if self._failed is not None:
            raise self._failed
        if self._ended is not None:
            raise HostCallFailed("StreamEnded", f"{call}: this answer has had its end", code="FLX712")
        if self._answer is None:
            self._answer = self._open_answer()
        return self._answer

    def _fail(self, failed: HostCallFailed) -> HostCallFailed:
        self._failed = failed
        return failed

    async def read(self, offset: int, size: int) -> bytes:
        """See `flux.hostcalls.base.Streams.read`."""
        if self._upload is None:
            raise HostCallFailed(
                "StreamRefused", f"{READ}: the body of this request is not read by pieces: it is in the request",
                code="FLX711",
            )  # fmt: skip
        try:
            return await self._upload.read(offset, size)
        except SpoolError as error:
            raise _no_room(READ, error) from error

    def take_answer(self) -> _S | None:
        """Return the answer that was ended, which is the caller's to close from now on; None where there is none."""
        spool = self._answer if self._ended is not None else None
        if spool is not None:
            self._answer = None
        return spool

    def close(self) -> None:
        """Let go of an answer that nobody has taken."""
        if self._answer is not None:
            self._answer.close()
            self._answer = None


class SpooledUpload:
    """A request's body on its way to the disk. A `flux.message.Upload`."""

    def __init__(self, folder: SpoolFolder, count: Callable[[str, str], None]) -> None:
        """``count`` takes the code and the reason of a refusal: of one here, no execution can tell."""
        self._count = count
        self.spool = folder.open()

    async def write(self, piece: bytes) -> None:
        """See `flux.message.Upload.write`."""
        try:
            await self.spool.write(piece)
        except SpoolError as error:
            raise self._refuse(error) from error

    def close(self) -> None:
        """See `flux.message.Upload.close`."""
        self.spool.close()

    def _refuse(self, error: SpoolError) -> HttpRefusal:
        self._count("OVERLOADED", f"there was no room on the disk for an upload ({error.code})")
        detail = f"there is no room for this body at present: {error.code}"
        return HttpRefusal(503, "OVERLOADED", detail, headers=(("retry-after", str(RETRY_AFTER_S)),))


def _no_room(call: str, error: OperatorError) -> HostCallFailed:
    # Not with the folder's name: a guest need not know where it is served from.
    said = "there is no room on the host's disk" if error.code == "FLX713" else "the host's disk failed"
    return HostCallFailed("StreamFailed", f"{call}: {said} ({error.code})", code=error.code)
