"""Connections to share among tasks."""

import contextlib
import math
from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType

import attrs
import trio

from flux.store.connect_options import ConnectOptions
from flux.store.database_errors import (
    CannotConnect,
    ConnectionLost,
    DatabaseError,
    PoolClosed,
    UnreadableAnswer,
)
from flux.store.postgres_connect import connect
from flux.store.postgres_connection import Connection
from flux.store.postgres_wire import CANCEL_GRACE_S

_TOO_MANY = "53300"
"""The SQLSTATE of a server, a database or a role that has all the connections it may have."""
OPEN_AGAIN_S = 1.0
"""After such a refusal no further connection is asked for so long: each try costs the server a process."""
REFUSED_S_MAX = 10.0
"""How long a task waits for one of the pool's other connections then; afterwards it hears of the refusal."""


class _Place:
    """A task's place in the line of those who wait for a connection."""

    __slots__ = ("asking", "connection", "refusal", "woken")

    def __init__(self) -> None:
        self.connection: Connection | None = None
        """What was handed to it; then it is no longer in the line."""
        self.refusal: CannotConnect | None = None
        """Why none can come."""
        self.asking: trio.CancelScope | None = None
        """Around its asking the server for a connection, while it does."""
        self.woken = trio.Event()

    def call(self) -> None:
        """It need not wait any longer, nor ask."""
        self.woken.set()
        if self.asking is not None:
            self.asking.cancel()


@attrs.frozen
class PoolCounts:
    """What a pool has at one moment."""

    open: int
    """Connections open, in use or idle; those that are being opened are not among them."""

    idle: int
    """Connections open and in nobody's hands."""

    waiting: int
    """Tasks that wait for a connection."""


class Pool:
    """Connections to share: at most ``size``, opened when wanted, handed out first come, first served.

    What comes back is settled first: an open transaction is rolled back, a dirty session reset, both
    shielded; a connection for which that fails is closed. One whose server died is noticed when it is
    next taken, and replaced. One on which nothing was answered takes those that are idle along: they are likely to
    be as dead, and each would be waited for as long as the first.
    Where the server lets no further one in, because others have them all, the
    pool does with those that it has: tasks wait in line, and the last of them asks the server again now and
    then. That one has longest to wait; what comes back for it ends its question. Once there is none that
    could come back, all of them are told what the server said. A pool has no task of its own; who wants
    ``min_idle`` connections open ahead of time and those idle for ``max_idle_s`` closed without traffic, runs
    `keep` in a nursery.
    """

    def __init__(
        self,
        options: ConnectOptions,
        size: int,
        *,
        min_idle: int = 0,
        max_idle_s: float = 600.0,
        on_connect: Callable[[Connection], Awaitable[None]] | None = None,
        reset: bool = True,
    ) -> None:
        self.options = options
        self.size = size
        self._min_idle = min_idle
        self._max_idle_s = max_idle_s
        self._on_connect = on_connect
        self._reset = reset
        self._slots = trio.Semaphore(size, max_value=size)
        self._idle: deque[tuple[float, Connection]] = deque()
        self._open_count = 0
        self._opening_count = 0
        """Attempts under way. A task makes them in the place of a connection, so both together are at most ``size``."""
        self._is_closed = False
        self._line: deque[_Place] = deque()
        """Who has a slot and was let in by no server, first come first. While one waits there, none is idle."""
        self._open_again = -math.inf
        """Not before this time is the server asked for more connections than the pool has; set while it refuses."""
        self._refusal: CannotConnect | None = None
        """The latest."""

    @property
    def counts(self) -> PoolCounts:
        """How many connections there are, and how many tasks wait for one."""
        waiting = self._slots.statistics().tasks_waiting + len(self._line)
        return PoolCounts(self._open_count, len(self._idle), waiting)

    def acquire(self) -> "_Lease":
        """``async with pool.acquire() as connection``: yours until the block ends."""
        return _Lease(self)

    async def take(self) -> Connection:
        """A connection, to be handed back with `give_back`; `acquire` does both."""
        try:
            self._slots.acquire_nowait()
        except trio.WouldBlock:
            await self._slots.acquire()
        try:
            if self._is_closed:
                raise _closed()
            connection = self._find_idle()
            if connection is None:
                connection = await self._open_or_wait(trio.current_time() + REFUSED_S_MAX)
            return connection
        except BaseException:
            self._slots.release()
            raise

    async def give_back(self, connection: Connection) -> None:
        """Settle ``connection`` and keep it for the next, or close it."""
        try:
            await connection.settle()
            if connection.is_dirty and self._reset:
                await self._reset_or_close(connection)
        except BaseException:
            connection.terminate()  # Whatever it was: what is not settled is nobody's next one.
            raise
        finally:
            connection.on_notice = None
            connection.answer_bytes_max = self.options.answer_bytes_max
            if self._is_closed:
                connection.terminate()
            if connection.is_closed:
                self._count_lost()
                if connection.is_silent:
                    self._close_idle()
            else:
                self._hand_on_or_keep(connection)
            self._slots.release()
            self._trim()

    async def keep(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep ``min_idle`` connections open, and close those idle for too long, until cancelled.

        The first time, what stands in the way of a connection is raised. Later it is not: the server may
        be back for the next round, and until then whoever wants a connection is told.
        """
        await self._fill()
        task_status.started()
        while not self._is_closed:
            self._trim()
            with contextlib.suppress(CannotConnect):
                await self._fill()
            await trio.sleep(min(self._max_idle_s / 2, 30.0))

    async def aclose(self) -> None:
        """Close what is idle now, and the rest when it comes back; who waits gets `PoolClosed`."""
        self._is_closed = True
        self._close_idle()
        for place in self._line:
            place.call()
        await trio.lowlevel.checkpoint()

    async def _fill(self) -> None:
        while self._lacks_idle():
            await self._slots.acquire()
            try:
                # Meanwhile one may have come back.
                connection = await self._open() if self._lacks_idle() else None
            except BaseException:
                self._slots.release()
                raise
            if connection is None:
                self._slots.release()
            else:
                await self.give_back(connection)

    def _lacks_idle(self) -> bool:
        has_room = self._open_count + self._opening_count < self.size
        return has_room and len(self._idle) < self._min_idle and not self._is_closed

    def _find_idle(self) -> Connection | None:
        # The one used last: its server process is warm, and the others may grow old.
        while self._idle:
            _, connection = self._idle.pop()
            if connection.check_alive():
                return connection
            self._count_lost()
        return None

    def _hand_on_or_keep(self, connection: Connection) -> None:
        if self._is_closed:
            self._close(connection)
            return
        if not self._line:
            self._idle.append((trio.current_time(), connection))
            return
        place = self._line.popleft()
        place.connection = connection
        place.call()

    async def _open_or_wait(self, deadline: float) -> Connection:
        """A new connection; where the server lets no more in, the next that comes back, until ``deadline``."""
        if self._open_again == -math.inf and not self._line:
            try:
                return await self._open()
            except CannotConnect as error:
                # What came back meanwhile lies there: nobody was in the line for it.
                if (connection := self._find_idle()) is not None:
                    return connection
                if error.sqlstate != _TOO_MANY:
                    raise
                self._note_refused(error)
        place = _Place()
        self._line.append(place)
        try:
            return await self._wait_in_line(place, deadline)
        except BaseException:
            if place.connection is not None:
                self._hand_on_or_keep(place.connection)
            raise
        finally:
            if place in self._line:
                self._line.remove(place)
                if self._line:
                    self._line[-1].woken.set()  # Asking may have become its part.

    async def _wait_in_line(self, place: _Place, deadline: float) -> Connection:
        while True:
            if place.connection is not None:
                connection, place.connection = place.connection, None
                if connection.check_alive():
                    return connection
                self._line.appendleft(place)
                self._count_lost()
            if place.refusal is not None:
                raise _again(place.refusal)
            if self._is_closed:
                raise _closed()
            now = trio.current_time()
            if now >= deadline:
                assert self._refusal is not None, "a line begins with a refusal"
                raise _again(self._refusal)
            asks = place is self._line[-1]
            if asks and now >= self._open_again:
                await self._ask(place, deadline)
                continue
            place.woken = trio.Event()
            with trio.move_on_at(min(self._open_again, deadline) if asks else deadline):
                await place.woken.wait()

    async def _ask(self, place: _Place, deadline: float) -> None:
        """Ask the server once more: for whoever has waited longest, not for who asks."""
        self._open_again = trio.current_time() + OPEN_AGAIN_S  # One of those who wait is enough.
        try:
            with trio.CancelScope(deadline=deadline) as place.asking:
                try:
                    connection = await self._open()
                except CannotConnect as error:
                    self._note_refused(error)
                else:
                    self._hand_on_or_keep(connection)
                    self._let_one_ask()
        finally:
            place.asking = None

    def _note_refused(self, error: CannotConnect) -> None:
        """Go on if there is something to wait for, whatever the server says just now; raise ``error`` otherwise."""
        if self._is_alone:
            raise error
        self._refusal = error
        self._open_again = trio.current_time() + OPEN_AGAIN_S

    @property
    def _is_alone(self) -> bool:
        """Whether there is no connection that could come back, and none under way."""
        return not self._open_count and not self._opening_count

    def _let_one_ask(self) -> None:
        """The server may let one in now, as it just has, or as one of ours is gone."""
        self._open_again = -math.inf
        if self._line:
            self._line[-1].woken.set()

    def _count_lost(self) -> None:
        self._open_count -= 1
        self._let_one_ask()

    async def _open(self) -> Connection:
        self._opening_count += 1
        try:
            connection = await connect(self.options)
        except CannotConnect as error:
            self._opening_count -= 1
            if self._is_alone:
                self._open_again = -math.inf
                for place in self._line:
                    place.refusal = error
                    place.woken.set()
            raise
        except BaseException:
            self._opening_count -= 1
            if self._is_alone:
                self._let_one_ask()
            raise
        self._opening_count -= 1
        self._open_count += 1
        try:
            if self._on_connect is not None:
                await self._on_connect(connection)
                connection.is_dirty = False
        except BaseException:
            self._close(connection)
            raise
        return connection

    async def _reset_or_close(self, connection: Connection) -> None:
        deadline = trio.current_time() + CANCEL_GRACE_S
        with trio.CancelScope(shield=True, deadline=deadline) as scope:
            try:
                if not connection.is_closed:
                    await connection.reset()
            except (DatabaseError, ConnectionLost, UnreadableAnswer):
                connection.terminate()  # A session in an unknown state is worth less than a new one.
        if scope.cancelled_caught:
            connection.terminate()

    def _trim(self) -> None:
        oldest_wanted = trio.current_time() - self._max_idle_s
        while len(self._idle) > self._min_idle and self._idle[0][0] < oldest_wanted:
            self._close(self._idle.popleft()[1])

    def _close_idle(self) -> None:
        while self._idle:
            self._close(self._idle.popleft()[1])

    def _close(self, connection: Connection) -> None:
        connection.terminate()
        self._count_lost()


def _closed() -> PoolClosed:
    return PoolClosed("the pool is closed", remedy="this happens while Flux shuts down")


def _again(refusal: CannotConnect) -> CannotConnect:
    """The same for one more task: of one exception, each that raises it would add its own traceback."""
    return CannotConnect(refusal.message, remedy=refusal.remedy, sqlstate=refusal.sqlstate)


class _Lease:
    """A connection on loan. A class, since ``asynccontextmanager`` costs as much as a third of a query."""

    __slots__ = ("_connection", "_pool")

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def __aenter__(self) -> Connection:
        self._connection = await self._pool.take()
        return self._connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._pool.give_back(self._connection)
