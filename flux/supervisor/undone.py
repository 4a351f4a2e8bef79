"""Rows that an execution changed and that were undone all the same: what their histories are told of them.

The log of changes has what stays. What a savepoint or an exception block took back is known from NOTICEs alone, and
where that leaves a doubt the log is asked (`flux.supervisor.changes`). It is asked when everything is over, and nobody
waits long for it: later it is done behind the caller's back.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Protocol, TypeVar

import trio

from flux.execution import Execution
from flux.mutation import Mutation
from flux.store.postgres import CannotConnect, ConnectionLost, DatabaseError, Pool, sending_s
from flux.store.queries import QUERIES
from flux.store.records import RecordWriter, count_bytes
from flux.supervisor.database import ExecutionDatabase

DAY_S = 86400.0
ASK_AGAIN_S = 0.1
"""Between two questions to a database that does not answer."""
TELL_S = 5.0
"""How long a caller waits for what is only added to the histories of rows. Later it is added behind his back."""

TRY_S = 5.0
"""How long the first question to the database may take. Each further one has twice as long as the one before."""

_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)


class Ask(Protocol[_T_co]):
    """Something to ask the database; asked more than once, it is answered as if it was asked once."""

    async def __call__(self, over: Pool, most_s: float, /) -> _T_co:
        """Ask over a connection of ``over``. After ``most_s`` seconds nobody waits: then the server need not either."""


async def insist(owner: Pool, ask: Ask[_T], *, is_doubtful: bool = False, size_bytes: int = 0) -> _T:
    """Ask the database until it answers; the deadline is the caller's.

    No question has all of the caller's patience: ``owner`` may have connections whose lines are dead and say nothing.
    After one that was not answered in time, a connection is opened for the next. ``is_doubtful``: so it is for the
    first one, because a line of this process has just broken. ``size_bytes`` is how much ``ask`` sends.
    """
    try_s = TRY_S
    while True:
        try:
            with trio.fail_after(most_s := try_s + sending_s(size_bytes)):
                return await (_ask_anew(owner, ask, most_s) if is_doubtful else ask(owner, most_s))
        except trio.TooSlowError:
            is_doubtful = True
            try_s *= 2
        except (DatabaseError, CannotConnect, ConnectionLost):
            is_doubtful = not is_doubtful  # It may let no further connection in, or may have ended those that were.
        await trio.sleep(ASK_AGAIN_S)


async def _ask_anew(owner: Pool, ask: Ask[_T], most_s: float) -> _T:
    fresh = Pool(owner.options, 1)
    try:
        return await ask(fresh, most_s)
    finally:
        with trio.CancelScope(shield=True):
            await fresh.aclose()


async def ask_once(ask: Callable[[], Awaitable[_T]]) -> _T | None:
    """Ask the database once; None when it does not answer."""
    try:
        return await ask()
    except (DatabaseError, CannotConnect, ConnectionLost):
        return None


class Undone:
    """Of one execution."""

    def __init__(self, head: Execution, database: ExecutionDatabase, owner: Pool, writer: RecordWriter) -> None:
        """``head`` has the execution's id and its start."""
        self._head = head
        self._database = database
        self._owner = owner
        self._writer = writer

    async def tell_later(self, execution: Execution) -> None:
        """Tell histories of the rows that were undone inside the transaction of ``execution``, which was committed."""
        if not execution.mutations and not self._database.unsettled:
            return

        async def tell() -> bool:
            undone = (*execution.mutations, *await self.find())
            await self._writer.add_rolled_back(execution.id, undone)
            return True

        told = None
        with trio.move_on_after(TELL_S):
            told = await ask_once(tell)
        if told is None:
            self._writer.submit_addition(tell, count_bytes(execution.mutations) + self._count_doubtful_bytes())

    def add_later(self) -> None:
        """Add what is in doubt to the histories of its rows once the database answers."""

        async def add() -> bool:
            await self._writer.add_rolled_back(self._head.id, await self.find())
            return True

        self._writer.submit_addition(add, self._count_doubtful_bytes())

    def _count_doubtful_bytes(self) -> int:
        return sum(count_bytes(statement.mutations) for statement in self._database.unsettled)

    async def find(self) -> list[Mutation]:
        """Ask the log which of the statements in doubt it still has; return the rows of the others."""
        undone: list[Mutation] = []
        doubtful = self._database.unsettled
        for xid in sorted({statement.xid for statement in doubtful}):
            statements = [statement for statement in doubtful if statement.xid == xid]
            since = datetime.fromtimestamp(self._head.started_at_ns / 1e9 - DAY_S, UTC)
            async with self._owner.acquire() as connection:
                rows = await connection.fetch(
                    QUERIES.find_surviving_mutations, str(xid), [statement.seq for statement in statements], since
                )
            surviving = {row["seq"] for row in rows}
            undone += [row for statement in statements if statement.seq not in surviving for row in statement.mutations]
        return undone
