"""Connections to share among tasks."""

import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType

import attrs
import trio

from flux.store.connect_options import ConnectOptions
from flux.store.database_errors import CannotConnect, ConnectionLost, DatabaseError, PoolClosed
from flux.store.postgres_connect import connect
from flux.store.postgres_connection import Connection
from flux.store.postgres_wire import CANCEL_GRACE_S


@attrs.frozen
class PoolCounts:
    """What a pool has at one moment."""

    open: int
    """Connections open, in use or idle."""

    idle: int
    """Connections open and in nobody's hands."""

    waiting: int
    """Tasks that wait for a connection."""


class Pool:
    """Connections to share: at most ``size``, opened when wanted, handed out first come, first served.

    What comes back is settled first: an open transaction is rolled back, a dirty session reset, both
    shielded; a connection for which that fails is closed. One whose server died is noticed when it is
    next taken, and replaced. A pool has no task of its own; who wants ``min_idle`` connections open
    ahead of time and those idle for ``max_idle_s`` closed without traffic, runs `keep` in a nursery.
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
        self._is_closed = False

    @property
    def counts(self) -> PoolCounts:
        """How many connections there are, and how many tasks wait for one."""
        return PoolCounts(self._open_count, len(self._idle), self._slots.statistics().tasks_waiting)

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
            while True:
                if self._is_closed:
                    raise PoolClosed("the pool is closed", remedy="this happens while Flux shuts down")
                if not self._idle:
                    return await self._open()
                # The one used last: its server process is warm, and the others may grow old.
                _, connection = self._idle.pop()
                if connection.check_alive():
                    return connection
                self._open_count -= 1
        except BaseException:
            self._slots.release()
            raise

    async def give_back(self, connection: Connection) -> None:
        """Settle ``connection`` and keep it for the next, or close it."""
        try:
            await connection.settle()
            if connection.is_dirty and self._reset:
                await self._reset_or_close(connection)
        finally:
            connection.on_notice = None
            connection.answer_bytes_max = self.options.answer_bytes_max
            if self._is_closed:
                connection.terminate()
            if connection.is_closed:
                self._open_count -= 1
            else:
                self._idle.append((trio.current_time(), connection))
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
        while self._idle:
            self._close(self._idle.popleft()[1])
        await trio.lowlevel.checkpoint()

    async def _fill(self) -> None:
        while len(self._idle) < self._min_idle and self._open_count < self.size and not self._is_closed:
            await self.give_back(await self._open_in_slot())

    async def _open_in_slot(self) -> Connection:
        await self._slots.acquire()
        try:
            return await self._open()
        except BaseException:
            self._slots.release()
            raise

    async def _open(self) -> Connection:
        self._open_count += 1
        try:
            connection = await connect(self.options)
        except BaseException:
            self._open_count -= 1
            raise
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
            except (DatabaseError, ConnectionLost):
                connection.terminate()  # A session in an unknown state is worth less than a new one.
        if scope.cancelled_caught:
            connection.terminate()

    def _trim(self) -> None:
        oldest_wanted = trio.current_time() - self._max_idle_s
        while len(self._idle) > self._min_idle and self._idle[0][0] < oldest_wanted:
            self._close(self._idle.popleft()[1])

    def _close(self, connection: Connection) -> None:
        connection.terminate()
        self._open_count -= 1


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
