"""Executions as they happen: what ``flux tail`` and ``flux logs --follow`` read.

Whoever runs executions publishes each one when it has ended; whoever watches
subscribes. Publishing never waits: a subscription holds so many lines and no
more, and a reader that is too slow gets ``{"gap": n}`` in their place, so that it
knows what it missed and how much.

The store learns of most executions a moment *after* they are published, because
records are written in batches. So `Live` remembers what was published and is not
stored yet. That closes the seam between history and the present, whatever the order
of events. A watcher subscribes first and reads the store afterwards:

    stored before the subscription        only the store has it
    published before, stored after it     in `Subscription.waiting`, perhaps in the store as well
    published after it                    in the subscription, perhaps in the store as well

What may come twice is recognised by its id: `stream_lines` gives each once.

Everything here runs in one trio thread, so there are no locks.
"""

import uuid
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import attrs
import trio

from flux.supervisor.present import encode

LINES_MAX = 10_000
"""How many lines a reader may be behind."""
BYTES_MAX = 16 * 1024 * 1024
"""How many bytes a reader may be behind."""
PIECE_BYTES = 64 * 1024
"""Lines leave together up to about this size: a write for each would cost more than the line."""
HEARTBEAT_S = 10.0
"""A stream that is silent for so long says that it lives."""
OVERLAP = timedelta(minutes=5)
"""History that ended longer than this before the subscription began can't come again from the live side."""

Document = Mapping[str, Any]


@attrs.frozen
class Line:
    """One line of a stream, ready to be sent."""

    id: str
    """The execution it is about."""
    data: bytes
    """JSON, without the line's end."""
    ended_at: datetime | None = None
    """When that execution ended, where it is known: history is forgotten by it."""


@attrs.define(eq=False)
class Published:
    """An execution that has ended."""

    id: str
    """Its UUID."""
    summary: Document
    """As `flux.supervisor.present` describes it."""
    logs: Sequence[Document]
    """What it logged, a document a line."""
    _summary_line: Line | None = None

    @property
    def summary_line(self) -> Line:
        """The summary as it is sent, encoded once for all readers."""
        if self._summary_line is None:
            self._summary_line = Line(self.id, encode(self.summary))
        return self._summary_line


Select = Callable[[Published], Iterable[Line]]
"""Which lines a reader wants of an execution."""


class Subscription:
    """One reader's queue. Close it, or it fills up and stays."""

    def __init__(self, live: "Live", select: Select, lines_max: int, bytes_max: int) -> None:
        self._live = live
        self._select = select
        self._lines_max = lines_max
        self._bytes_max = bytes_max
        self._queue: deque[Line] = deque()
        self._queue_bytes = 0
        self._lost = 0
        self._changed = trio.Event()
        self.is_closed = False
        """True once nothing will come any more; what has come can still be taken."""
        self._at_end: list[Callable[[], object]] = []
        self.waiting: tuple[Line, ...] = tuple(
            line for published in live.not_stored for line in select(published)
        )
        """Lines of what was published before this reader came and is perhaps not in the store yet."""

    def push(self, published: Published) -> None:
        """Queue what the reader wants of it, or count it as lost. Never waits."""
        for line in self._select(published):
            # Once something is lost all is, until the reader has caught up: so the gap is one, in its place.
            if (
                self._lost
                or len(self._queue) >= self._lines_max
                or self._queue_bytes + len(line.data) > self._bytes_max
            ):
                self._lost += 1
                self._live.count_lost()
            else:
                self._queue.append(line)
                self._queue_bytes += len(line.data)
        self._changed.set()

    def lose(self, count: int) -> None:
        """Say that so many lines never came here: what another process was too slow for."""
        self._lost += count
        self._changed.set()

    def wait_for(self, published: Published) -> None:
        """Add what had ended elsewhere before this reader came, and is perhaps not in the store yet."""
        self.waiting += tuple(self._select(published))

    def on_close(self, call: Callable[[], object]) -> None:
        """Have something called when it ends: it is closed, or nothing will come any more."""
        if self.is_closed:
            call()
        self._at_end.append(call)

    def take_nowait(self) -> list[Line | int]:
        """Return some lines, in order; a number stands for so many that are lost."""
        taken: list[Line | int] = []
        size = 0
        while self._queue and size < PIECE_BYTES:
            line = self._queue.popleft()
            size += len(line.data)
            taken.append(line)
        self._queue_bytes -= size
        if not self._queue and self._lost:
            taken.append(self._lost)
            self._lost = 0
        return taken

    async def take(self) -> list[Line | int]:
        """Return some lines as `take_nowait` does; wait for one. Empty: there will be none."""
        await trio.lowlevel.checkpoint()
        while True:
            taken = self.take_nowait()
            if taken or self.is_closed:
                return taken
            self._changed = trio.Event()
            await self._changed.wait()

    def close(self) -> None:
        """Stop listening."""
        self._live.forget(self)
        self.end()

    def end(self) -> None:
        """Let the reader come to its end."""
        self.is_closed = True
        for call in self._at_end:
            call()
        self._changed.set()


@attrs.frozen
class LiveCounts:
    """What `Live` has seen and holds."""

    subscribers: int
    """Readers at this moment."""
    not_stored: int
    """Executions that have ended and are not known to be stored."""
    lost: int
    """Lines that readers were too slow for."""
    ended: Mapping[str, int]
    """Executions since the start, by outcome."""


class Live:
    """Where executions are published and watched."""

    def __init__(self, *, lines_max: int = LINES_MAX, bytes_max: int = BYTES_MAX) -> None:
        self._lines_max = lines_max
        self._bytes_max = bytes_max
        self._subscriptions: set[Subscription] = set()
        self._not_stored: dict[str, Published] = {}
        self._stored = trio.Event()
        self._lost = 0
        self._ended: dict[str, int] = {}
        self._is_closed = False

    @property
    def not_stored(self) -> Iterable[Published]:
        """What has ended and is not known to be stored, in the order of ending."""
        return self._not_stored.values()

    @property
    def not_stored_count(self) -> int:
        """How many executions have ended and are not known to be stored, wherever they ran."""
        return len(self._not_stored)

    @property
    def unheard(self) -> Sequence[int]:
        """Workers that did not say what they could not store, when they were asked last."""
        return ()

    @property
    def counts(self) -> LiveCounts:
        """What there is to count."""
        return LiveCounts(len(self._subscriptions), len(self._not_stored), self._lost, dict(self._ended))

    def publish(self, summary: Document, logs: Sequence[Document] = (), *, stored: bool) -> None:
        """Tell every reader that an execution has ended.

        Call it before the client gets its answer, so that whoever asks right afterwards finds the
        execution. ``stored``: its record is committed already. If not, `mark_stored` has to follow, and
        so publish before the record is handed to whoever stores it.
        """
        published = Published(str(summary["id"]), summary, logs)
        outcome = str(summary["outcome"])
        self._ended[outcome] = self._ended.get(outcome, 0) + 1
        if not stored:
            self._not_stored[published.id] = published
        for subscription in self._subscriptions:
            subscription.push(published)

    def mark_stored(self, execution_id: str | uuid.UUID) -> None:
        """Say that the record of a published execution is committed: the store answers for it from now on."""
        if self._not_stored.pop(str(execution_id), None) is not None:
            self._stored.set()
            self._stored = trio.Event()

    def find_not_stored(self, prefix: str) -> Published | None:
        """Return an execution that has ended, is not stored, and whose name or id begins so."""
        for published in self._not_stored.values():
            if published.id.startswith(prefix) or str(published.summary["name"]).startswith(prefix):
                return published
        return None

    async def wait_stored(self) -> None:
        """Wait until all that has ended by now is stored. The deadline is the caller's."""
        ids = set(self._not_stored)
        while ids := {execution_id for execution_id in ids if execution_id in self._not_stored}:
            await self._stored.wait()

    def subscribe(self, select: Select) -> Subscription:
        """Begin to listen."""
        subscription = Subscription(self, select, self._lines_max, self._bytes_max)
        if self._is_closed:
            subscription.end()
        else:
            self._subscriptions.add(subscription)
        return subscription

    async def complete(self, subscription: Subscription) -> None:
        """Return once all is heard that is to be heard, so that the store may be read. Here that is so already."""
        assert subscription in self._subscriptions or subscription.is_closed, "it hears from when it subscribes"
        await trio.lowlevel.checkpoint()

    def forget(self, subscription: Subscription) -> None:
        """Let go of a subscription that is being closed."""
        self._subscriptions.discard(subscription)

    def count_lost(self) -> None:
        """Count one line that a reader was too slow for."""
        self._lost += 1

    def close(self) -> None:
        """End all streams, after what is in them: the supervisor shuts down."""
        self._is_closed = True
        for subscription in self._subscriptions:
            subscription.end()


class LineStream:
    """A body of JSON lines: history first, then what happens.

    A class and not just a generator: a generator that was never begun runs none of its clean-up,
    and a client can be gone before the first line.
    """

    def __init__(
        self, subscription: Subscription, history: AsyncIterator[Sequence[Line]] | None, now: datetime, *,
        follow: bool, heartbeat_s: float = HEARTBEAT_S,
    ) -> None:  # fmt: skip
        self._subscription = subscription
        self._history = history
        self._lines = stream_lines(subscription, history, now, follow=follow, heartbeat_s=heartbeat_s)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        return await anext(self._lines)

    async def aclose(self) -> None:
        """Stop listening and let go of the store."""
        self._subscription.close()
        await self._lines.aclose()
        aclose = getattr(self._history, "aclose", None)
        if aclose is not None:
            await aclose()


async def stream_lines(
    subscription: Subscription, history: AsyncIterator[Sequence[Line]] | None, now: datetime, *,
    follow: bool, heartbeat_s: float = HEARTBEAT_S,
) -> AsyncGenerator[bytes, None]:  # fmt: skip
    """Give each line once: history, what waits to be stored, and with ``follow`` what happens from ``now`` on.

    An execution can have several lines (logs) and they always come together, so what came from one
    side is left out whole when the other side brings it.
    """
    given: set[str] = set()
    if history is not None:
        async for lines in history:
            if lines:
                yield b"".join(line.data + b"\n" for line in lines)
            given.update(
                line.id for line in lines if line.ended_at is None or line.ended_at > now - OVERLAP
            )
    waiting = [line for line in subscription.waiting if line.id not in given]
    given.update(line.id for line in waiting)
    if waiting:
        yield b"".join(line.data + b"\n" for line in waiting)
    while follow:
        taken: list[Line | int] | None = None
        with trio.move_on_after(heartbeat_s):
            taken = await subscription.take()
        if taken is None:
            yield b'{"heartbeat":true}\n'
        elif not taken:
            return
        elif piece := b"".join(_sent(item, given) for item in taken):
            yield piece


def _sent(item: Line | int, given: set[str]) -> bytes:
    if isinstance(item, int):
        return b'{"gap":%d}\n' % item
    return b"" if item.id in given else item.data + b"\n"
