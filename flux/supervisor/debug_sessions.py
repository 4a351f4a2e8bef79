"""Executions that pages of the console step through: what has been seen of each, kept for as long as somebody looks.

A session stands at no place. Where one stands is in the page's address, so two pages may look at the same execution,
each somewhere else, and a link leads where it was copied. What a session has is the window of events that the last run
told of, and the answers that were given: without it the next step would be a run of its own, and nothing else would
be different. So none is ever missed: one that has ended is opened again by the next question.

It holds no process. A run is begun by a question and has ended with its answer; it is cancelled when the session ends,
and what is held is memory of this server. So a server that is killed leaves nothing of a session behind.

Few are open at a time, and fewer runs are made at a time, since each takes a processor from requests. One ends
when it has not been asked for a while, when the page that opened it is left, and when another takes its place or needs
its room: that of all servers of a process together is bounded (`flux.supervisor.debug_room`). Answers are kept as the
bytes that are sent.

When records are forgotten all end, and what was read of a record before that makes no session: it is read again. Where
another server of the same database took a row out, they end when they are next asked; those that are not asked have no
more than their time.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from functools import partial
from typing import TypeVar
from uuid import UUID

import attrs
import trio

from flux.errors import OperatorError
from flux.execution import Execution
from flux.supervisor.debug_history import History
from flux.supervisor.debug_room import OBJECTS_TIMES, DebugPart, measure_lines, measure_record
from flux.supervisor.debug_walk import Walk
from flux.supervisor.present import Document
from flux.supervisor.work_stream import Start

SESSIONS_MAX = 4
"""Of one server, open at a time: each has a record in memory, a window of it, values of names and answers. What they
take with those of other servers of the process is `flux.supervisor.debug_room.HELD_BYTES_MAX`."""
IDLE_S = 600.0
"""How long one is kept that is not asked anything."""
SEEN_BYTES_MAX = 8 * 2**20
"""Of a session's answers, as JSON. The latest is kept whatever it takes."""
_T = TypeVar("_T")


class TooManySessionsError(OperatorError):
    """As many executions are stepped through as may be."""

    code = "FLX685"


class SessionEndedError(OperatorError):
    """The session ended while it was asked."""

    code = "FLX686"


@attrs.frozen
class Stand:
    """Where one stands and what one looks at there: what a page's address says."""

    at: int | None = None
    """Number of an event; None: where it failed, or the last."""
    up: int = 0
    """Whose names are shown: 0, those of the function that runs; 1, of who called it; and so on."""
    expression: str = ""
    """Looked up there."""
    watch: str = ""
    """A name, or an expression, of which all values are shown."""


@attrs.define(eq=False)
class DebugSession:
    """What has been seen of one execution."""

    number: int
    """Among those of this server, since it began."""
    execution: Execution
    """With all of its mutations."""
    summary: Document
    walk: Walk
    opened_at: datetime
    used_at: float
    """By trio's clock."""
    erasures: int
    """See `flux.store.erasures.count_erasures`; from before its record was read."""
    sources: dict[str, Sequence[str] | None] = attrs.field(factory=dict)
    """Lines of files as they ran; None of those that are not kept."""
    histories: OrderedDict[str, History] = attrs.field(factory=OrderedDict)
    """Values of names that were watched, that of the latest last."""
    asking: int = 0
    """Questions that go on."""
    lock: trio.Lock = attrs.field(factory=trio.Lock)
    """One question at a time: what the last one has read is what the next one needs."""
    ended: trio.Event = attrs.field(factory=trio.Event)
    _scopes: set[trio.CancelScope] = attrs.field(factory=set)
    _seen: OrderedDict[Stand, bytes] = attrs.field(factory=OrderedDict)
    _seen_bytes: int = 0
    _record_bytes: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._record_bytes = measure_record(self.execution)

    @property
    def held_bytes(self) -> int:
        """What it takes in memory, about."""
        sources = sum(measure_lines(lines) for lines in self.sources.values() if lines is not None)
        histories = sum(history.held_bytes for history in self.histories.values())
        return self._record_bytes + OBJECTS_TIMES * self.walk.kept_bytes + histories + sources + self._seen_bytes

    def keep(self, stand: Stand, data: bytes) -> None:
        """Keep an answer, and forget the oldest ones where there are too many."""
        self._drop(stand)
        self._seen[stand] = data
        self._seen_bytes += len(data)
        while self._seen_bytes > SEEN_BYTES_MAX and len(self._seen) > 1:
            self._drop(next(iter(self._seen)))

    def find(self, stand: Stand) -> bytes | None:
        """Return an answer that was given before."""
        return self._seen.get(stand)

    def shed(self) -> None:
        """Give up all but the record and the latest answer."""
        self.walk.forget()
        self.histories.clear()
        self.sources.clear()
        for stand in list(self._seen)[:-1]:
            self._drop(stand)

    def end(self) -> None:
        """Cancel what goes on."""
        self.ended.set()
        for scope in self._scopes:
            scope.cancel()

    async def do(self, work: Callable[["DebugSession"], Awaitable[_T]], part: DebugPart) -> _T:
        """Answer a question, once it is its turn; raise `SessionEndedError` where the session ends before."""
        self.asking += 1
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                async with self.lock, part.limiter, part.room.limiter:
                    answer = await work(self)
                    if not self.ended.is_set():  # Else it is of a record that may have been forgotten.
                        return answer
            finally:
                self._scopes.discard(scope)
                self.asking -= 1
                self.used_at = trio.current_time()
                part.room.settle(self)
        raise SessionEndedError(
            f"the session about {self.execution.name} was ended while it was asked",
            remedy="ask again: it is opened anew",
        )

    def _drop(self, stand: Stand) -> None:
        if stand in self._seen:
            self._seen_bytes -= len(self._seen.pop(stand))


Open = Callable[[int], Awaitable[DebugSession]]
"""Makes a session of this number."""


class DebugSessions:
    """Those of one server."""

    def __init__(self, start: Start, part: DebugPart, idle_s: float = IDLE_S) -> None:
        """``start`` runs something beside whoever asks for it; ``part`` is what they may take."""
        self._start = start
        self._part = part
        self._idle_s = idle_s
        self._open: dict[UUID, DebugSession] = {}
        self._opened = 0
        self._closings = 0
        """How often all were ended: what was read before the last time is not kept."""

    def find(self, key: UUID) -> DebugSession | None:
        """Return the session about an execution, if one is open; whoever looks at it keeps it open."""
        session = self._open.get(key)
        if session is not None:
            session.used_at = trio.current_time()
        return session

    async def ask(self, key: UUID, make: Open, work: Callable[[DebugSession], Awaitable[_T]]) -> _T:
        """Answer a question about an execution, in its session; ``make`` makes one where none is open."""
        while (session := self._open.get(key)) is None:
            self._make_room()
            self._opened += 1
            closings = self._closings
            made = await make(self._opened)
            # Meanwhile somebody else may have asked about the same, or about others, or a row was forgotten that the
            # record had when it was read.
            if closings == self._closings and key not in self._open:
                self._make_room()
                self._enter(key, made)
        return await session.do(work, self._part)

    def end(self, key: UUID, number: int | None = None) -> bool:
        """End the session about an execution, if it is the one of this number; return whether it was."""
        session = self._open.get(key)
        if session is None or number not in (None, session.number):
            return False
        del self._open[key]
        self._part.room.leave(session)
        session.end()
        return True

    def forget(self, erasures: int) -> None:
        """End those whose record was read before so many erasures."""
        for key, session in list(self._open.items()):
            if session.erasures < erasures:
                self.end(key, session.number)

    def close(self) -> None:
        """End all: the server ends, or what was seen is to be forgotten."""
        self._closings += 1
        for key in list(self._open):
            self.end(key)

    def _enter(self, key: UUID, session: DebugSession) -> None:
        if not self._part.room.enter(session, self._part, partial(self.end, key, session.number)):
            raise TooManySessionsError(
                f"there is no memory for {session.execution.name}, beside the executions that others wait for",
                remedy="try again when those have been answered, or use flux trace debug",
            )
        self._open[key] = session
        self._start(partial(self._watch, key, session))

    def _make_room(self) -> None:
        if len(self._open) < SESSIONS_MAX:
            return
        idle = [key for key, session in self._open.items() if not session.asking]
        if not idle:
            names = ", ".join(session.execution.name for session in self._open.values())
            raise TooManySessionsError(
                f"{len(self._open)} executions are being stepped through, and no more are at a time: {names}",
                remedy="try again when one of them has answered, or use flux trace debug",
            )
        self.end(min(idle, key=lambda key: self._open[key].used_at))

    async def _watch(self, key: UUID, session: DebugSession) -> None:
        """End a session that has not been asked for a while."""
        try:
            while not session.ended.is_set():
                since = trio.current_time() if session.asking else session.used_at
                if trio.current_time() >= since + self._idle_s:
                    self.end(key, session.number)
                with trio.move_on_at(since + self._idle_s):
                    await session.ended.wait()
        finally:
            self.end(key, session.number)  # Where the server fails, others have its room.
