"""Rows that an execution changed and that were undone all the same: what their histories are told of them.

The log of changes has what stays. What a savepoint or an exception block took back is known from NOTICEs alone, and
where that leaves a doubt the log is asked (`flux.supervisor.changes`). It is asked when everything is over, and nobody
waits long for it: later it is done behind the caller's back.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TypeVar

import trio

from flux.execution import Execution
from flux.mutation import Mutation
from flux.store.postgres import CannotConnect, ConnectionLost, DatabaseError, Pool
from flux.store.queries import QUERIES
from flux.store.records import RecordWriter
from flux.supervisor.database import ExecutionDatabase

DAY_S = 86400.0
ASK_AGAIN_S = 0.1
"""Between two questions to a database that does not answer."""
TELL_S = 5.0
"""How long a caller waits for what is only added to the histories of rows. Later it is added behind his back."""

_T = TypeVar("_T")


async def insist(ask: Callable[[], Awaitable[_T]]) -> _T:
    """Ask the database until it answers; the deadline is the caller's."""
    while True:
        try:
            return await ask()
        except (DatabaseError, CannotConnect, ConnectionLost):
            await trio.sleep(ASK_AGAIN_S)


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
            self._writer.submit_addition(tell)

    def add_later(self) -> None:
        """Add what is in doubt to the histories of its rows once the database answers."""

        async def add() -> bool:
            await self._writer.add_rolled_back(self._head.id, await self.find())
            return True

        self._writer.submit_addition(add)

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
