"""Something that the server does while somebody listens: JSON lines, and it stops when nobody reads.

A `Work` says what the first line is, tells of its progress while it is done, and says how it ended; a `WorkStream` is
the body of the answer that all of it is sent in::

    {"schema": "flux.replays/1", ...}      the head
    {...}                                  what is told while it is done
    {"heartbeat": true}                    nothing has been told for a while, and it lives
    {"end": {..., "problem": null}}        how it ended, whatever that was; a stream without it was cut off

A reader that goes ends the work at once, and so does the end of the server. One that reads slowly is waited for.
"""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

import trio

from flux.errors import FluxError, OperatorError
from flux.message import HttpResponse
from flux.supervisor.present import Document, encode

_LINES = (("content-type", "application/x-ndjson"), ("cache-control", "no-store"))
Start = Callable[[Callable[[], Awaitable[None]]], None]
"""Runs something for as long as it takes, beside whoever asks for it."""
Tell = Callable[[Document], Awaitable[None]]
"""Sends a line; waits for whoever reads."""


class ServerStoppingError(OperatorError):
    """The server ended before all of it was done."""

    code = "FLX347"
    exit_code = 5


class Work(Protocol):
    """What is to be done. Cancelled at any moment, it leaves nothing behind."""

    def head(self) -> Document:
        """Return the first line."""

    async def do(self, tell: Tell) -> None:
        """Do it. A `FluxError` is told in the last line."""

    def stopped(self) -> ServerStoppingError:
        """Return what to say when the server ends before it is done."""

    def end(self) -> Document:
        """Return what the last line says beside the problem."""


class WorkStreams:
    """Those that are under way."""

    def __init__(self, start: Start, heartbeat_s: float) -> None:
        self._start = start
        self._heartbeat_s = heartbeat_s
        self._streams: set[WorkStream] = set()

    def answer(self, work: Work) -> HttpResponse:
        """Return an answer that does ``work`` while it is sent."""
        return HttpResponse(200, _LINES, WorkStream(work, self._start, self._heartbeat_s, self._streams))

    def close(self) -> None:
        """End all: the supervisor shuts down."""
        for stream in list(self._streams):
            stream.end()


class WorkStream:
    """A body of JSON lines. The work runs in a task of its own, begun with the first line that is asked for.

    A class and not a generator: a generator that holds a nursery can't be left at any moment.
    """

    def __init__(self, work: Work, start: Start, heartbeat_s: float, streams: "set[WorkStream]") -> None:
        """``streams`` are those that are under way, this one among them while it is."""
        self._work = work
        self._start = start
        self._heartbeat_s = heartbeat_s
        self._streams = streams
        self._send, self._receive = trio.open_memory_channel[Document](0)
        self._scope = trio.CancelScope()
        self._has_begun = self._is_stopping = False
        self._crash: Exception | None = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self._has_begun:
            self._has_begun = True
            self._streams.add(self)
            self._start(self._run)
            return _line(self._work.head())
        with trio.move_on_after(self._heartbeat_s):
            try:
                return _line(await self._receive.receive())
            except trio.EndOfChannel:
                if self._crash is not None:
                    raise self._crash from None
                raise StopAsyncIteration from None
        return b'{"heartbeat":true}\n'

    def end(self) -> None:
        """Stop, and say so: the server ends."""
        self._is_stopping = True
        self._scope.cancel()

    async def aclose(self) -> None:
        """Stop: nobody reads any more."""
        self._receive.close()
        self._scope.cancel()
        await trio.lowlevel.checkpoint()

    async def _run(self) -> None:
        problem: FluxError | None = None
        with self._send:
            try:
                with self._scope:
                    await self._work.do(self._send.send)
                if self._is_stopping and self._scope.cancelled_caught:
                    problem = self._work.stopped()
            except FluxError as error:
                problem = error
            except Exception as crash:  # Told by whoever sends this body, which it cuts off.
                self._crash = crash
                return
            finally:
                self._streams.discard(self)
            with contextlib.suppress(trio.BrokenResourceError):  # Nobody reads any more.
                await self._send.send({"end": {**self._work.end(), "problem": describe_problem(problem)}})


def _line(document: Document) -> bytes:
    return encode(document) + b"\n"


def describe_problem(problem: FluxError | None) -> Document | None:
    """Return an error as the last line of a stream has it."""
    if problem is None:
        return None
    return {
        "code": problem.code,
        "detail": problem.message,
        "remedy": problem.remedy,
        "exit": problem.exit_code,
    }
