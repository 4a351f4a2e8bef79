"""Connections to share among tasks."""

import contextlib
import math
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

_TOO_MANY = "53300"
"""The SQLSTATE of a server, a database or a role that has all the connections it may have."""
OPEN_AGAIN_S = 1.0
"""After such a refusal no further connection is asked for so long: each try costs the server a process."""
REFUSED_S_MAX = 10.0
"""How long a task waits for one of the pool's other connections then; afterwards it hears of the refusal."""


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
    next taken, and replaced. Where the server lets no further one in, because others have them all, the
    pool does with those that it has. A pool has no task of its own; who wants ``min_idle`` connections open
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
        # To those who have a slot and were let in by no server: without a buffer, so never to nobody.
        self._hand_on, self._handed_on = trio.open_memory_channel[Connection](0)
        self._refused_alone_at = -math.inf
        """When last the server refused one while the pool had no other."""
        self._refused_count = 0
        """Tasks that wait for that."""
        self._open_again = -math.inf
        """Not before this time is the server asked for more connections than the pool has; set while it refuses."""

    @property
    def counts(self) -> PoolCounts:
        """How many connections there are, and how many tasks wait for one."""
        waiting = self._slots.statistics().tasks_waiting + self._refused_count
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
            while True:
                if self._is_closed:
                    raise _closed()
                if not self._idle:
                    return await self._open_or_wait(trio.current_time() + REFUSED_S_MAX)
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
                self._keep_or_hand_on(connection)
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
        self._hand_on.close()
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

    def _keep_or_hand_on(self, connection: Connection) -> None:
        try:
            self._hand_on.send_nowait(connection)
        except trio.WouldBlock:
            self._idle.append((trio.current_time(), connection))

    async def _open_or_wait(self, deadline: float) -> Connection:
        """A new connection; where the server lets no more in, the next that comes back, until ``deadline``."""
        if self._open_again == -math.inf:
            try:
                return await self._open()
            except CannotConnect as error:
                if error.sqlstate != _TOO_MANY or self._is_alone():
                    raise
                self._open_again = trio.current_time() + OPEN_AGAIN_S
        self._refused_count += 1
        try:
            return await self._wait_returned(deadline)
        finally:
            self._refused_count -= 1

    def _is_alone(self) -> bool:
        if not self._open_count:
            self._refused_alone_at = trio.current_time()
        return not self._open_count

    async def _wait_returned(self, deadline: float) -> Connection:
        began = trio.current_time()
        while True:
            now = trio.current_time()
            is_last = now >= deadline or self._refused_alone_at >= began
            if is_last or now >= self._open_again or not self._open_count:
                self._open_again = now + OPEN_AGAIN_S  # One of those who wait is enough.
                try:
                    connection = await self._open()
                except CannotConnect as error:
                    # Without any other there is none that could come back.
                    if error.sqlstate != _TOO_MANY or is_last or self._is_alone():
                        raise
                else:
                    self._open_again = -math.inf
                    return connection
            with trio.move_on_at(min(self._open_again, deadline)):
                try:
                    connection = await self._handed_on.receive()
                except trio.EndOfChannel:
                    raise _closed() from None
                if connection.check_alive():
                    return connection
                self._open_count -= 1

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


def _closed() -> PoolClosed:
    return PoolClosed("the pool is closed", remedy="this happens while Flux shuts down")


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
