"""The console's question about all executions of a window: what would become of each on this code?

The body says which, and how many are to be run at once::

    {"q": "since:14:00 until:14:05 status:>=500", "at_once": 2, "calls": true}

The answer is a stream of JSON lines, so that whoever asks sees how far it is: first how many there are, then each
replay when it has ended, in whatever order that is, and a last line that says that these were all, or what ended it::

    {"schema": "flux.replays/1", "on": ".", "total": 23, "not_stored": 0}
    {"schema": "flux.replay/1", "number": 4, ...}
    {"heartbeat": true}
    {"end": {"replayed": 23, "problem": null}}

``number`` is its place in the window, the oldest has 0. A reader that goes ends it: what is running is stopped, the
rest is not begun. So does the end of the server. One that reads slowly is waited for. ``not_stored`` counts executions
that have just ended, may be meant, and are not among them. Records can be large: without ``calls`` each replay is told
without its calls and its answer.
"""

import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime

import msgspec
import trio

from flux.errors import FluxError, OperatorError
from flux.execution import Execution
from flux.filter import Filter, parse
from flux.message import HttpResponse
from flux.store import reading
from flux.store.postgres import Pool
from flux.supervisor.console_query import BadQueryError, Query
from flux.supervisor.present import Document, encode, summary_json
from flux.supervisor.present_replay import replay_json
from flux.supervisor.replay import Replay
from flux.supervisor.replay_many import AT_ONCE, ReplayHost, Told, replay_many
from flux.verdict import Verdict

EXECUTIONS_MAX = 10_000
"""More than this in one window are refused."""
AT_ONCE_MAX = 32
PAGE = 500
_LINES = (("content-type", "application/x-ndjson"), ("cache-control", "no-store"))
Start = Callable[[Callable[[], Awaitable[None]]], None]
"""Runs something for as long as it takes, beside whoever asks for it."""


class TooManyExecutionsError(OperatorError):
    """More executions match than are replayed at a time."""

    code = "FLX346"


class ServerStoppingError(OperatorError):
    """The server ended before all of them were replayed."""

    code = "FLX347"
    exit_code = 5


class Asked(msgspec.Struct, forbid_unknown_fields=True):
    """What the body says."""

    q: str
    """A filter."""
    at_once: int = AT_ONCE
    calls: bool = True
    """Each replay is told with its calls and its answer."""


class ReplaysDesk:
    """Answers it."""

    def __init__(
        self, pool: Pool, host: ReplayHost, start: Start, now: Callable[[], datetime], heartbeat_s: float
    ) -> None:
        self._pool = pool
        self._host = host
        self._start = start
        self._now = now
        self._heartbeat_s = heartbeat_s
        self._streams: set[ReplayStream] = set()

    async def replay(self, body: bytes, not_stored: int, query: Query) -> HttpResponse:
        """Replay the executions of a window."""
        asked = _read(body)
        summaries = await self._list(parse(asked.q, self._now()))
        stream = ReplayStream(
            summaries, not_stored, query.get("on"), asked, self._pool, self._host, self._start,
            self._heartbeat_s, self._streams,
        )  # fmt: skip
        return HttpResponse(200, _LINES, stream)

    async def _list(self, filter_: Filter) -> list[reading.Summary]:
        """Return all that match, the oldest first."""
        found: list[reading.Summary] = []
        while True:
            page = await reading.list_summaries(self._pool, filter_, PAGE, found[-1].id if found else None)
            found += page
            if len(found) > EXECUTIONS_MAX:
                raise TooManyExecutionsError(
                    f"more than {EXECUTIONS_MAX:,} executions match", remedy="a narrower window, or -q"
                )
            if len(page) < PAGE:
                return found[::-1]

    def close(self) -> None:
        """End all streams: the supervisor shuts down."""
        for stream in list(self._streams):
            stream.end()


class ReplayStream:
    """A body of JSON lines. The replays run in a task of their own, begun with the first line that is asked for.

    A class and not a generator: a generator that holds a nursery can't be left at any moment.
    """

    def __init__(
        self,
        summaries: Sequence[reading.Summary],
        not_stored: int,
        on: str | None,
        asked: Asked,
        pool: Pool,
        host: ReplayHost,
        start: Start,
        heartbeat_s: float,
        streams: "set[ReplayStream]",
    ) -> None:
        """``streams`` are those that are under way, this one among them while it is."""
        self._summaries = summaries
        self._not_stored = not_stored
        self._on = on
        self._asked = asked
        self._pool = pool
        self._host = host
        self._start = start
        self._heartbeat_s = heartbeat_s
        self._streams = streams
        self._send, self._receive = trio.open_memory_channel[Document](0)
        self._scope = trio.CancelScope()
        self._has_begun = self._is_stopping = False
        self._replayed = 0
        self._crash: Exception | None = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self._has_begun:
            self._has_begun = True
            self._streams.add(self)
            self._start(self._run)
            total = len(self._summaries)
            return _line(
                {"schema": "flux.replays/1", "on": self._on, "total": total, "not_stored": self._not_stored}
            )
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
                    await self._replay()
                if self._is_stopping and self._scope.cancelled_caught:
                    problem = ServerStoppingError(
                        f"the server is stopping: {self._replayed} of {len(self._summaries)} were replayed",
                        remedy="ask again when it is back",
                    )
            except FluxError as error:
                problem = error
            except Exception as crash:  # Told by whoever sends this body, which it cuts off.
                self._crash = crash
                return
            finally:
                self._streams.discard(self)
            with contextlib.suppress(trio.BrokenResourceError):  # Nobody reads any more.
                await self._send.send({"end": {"replayed": self._replayed, "problem": _describe(problem)}})

    async def _replay(self) -> None:
        async def read(id: uuid.UUID) -> Execution:
            return (await reading.get_execution(self._pool, id))[1]

        ids = [summary.id for summary in self._summaries]
        async with replay_many(
            ids, self._on, read=read, host=self._host, at_once=self._asked.at_once
        ) as results:
            async for told in results:
                await self._send.send(self._show(told))
                self._replayed += 1

    def _show(self, told: Told) -> Document:
        summary = summary_json(self._summaries[told.number])
        if isinstance(told.result, Replay):
            document = {**replay_json(summary, told.result), "number": told.number}
            if not self._asked.calls:
                del document["calls"]
                document["replayed"] = {**document["replayed"], "output": None}
            return document
        reason = f"{told.result.code} {told.result.message}"
        verdict = Verdict.UNREPLAYABLE.value
        return {"execution": summary, "verdict": verdict, "reason": reason, "number": told.number}


def _line(document: Document) -> bytes:
    return encode(document) + b"\n"


def _describe(problem: FluxError | None) -> Document | None:
    if problem is None:
        return None
    return {
        "code": problem.code,
        "detail": problem.message,
        "remedy": problem.remedy,
        "exit": problem.exit_code,
    }


def _read(body: bytes) -> Asked:
    try:
        asked = msgspec.json.decode(body, type=Asked)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadQueryError(
            f"the body can't be read: {error}", remedy='send {"q": "since:15m status:>=500"}'
        ) from error
    if not 1 <= asked.at_once <= AT_ONCE_MAX:
        raise BadQueryError(f'"at_once" is {asked.at_once}', remedy=f"write a number from 1 to {AT_ONCE_MAX}")
    return asked
