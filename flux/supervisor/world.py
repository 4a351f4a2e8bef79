"""A replay's database: `flux.store.world` with a guest's statements in it.

`WorldDatabase` offers what an execution's database offers, in one transaction that is never
committed: the execution's own transaction is all of it, blocks of the guest's are savepoints.
A statement that writes a table which is not copied yet can't be helped from inside (Postgres
makes no tables in a READ ONLY transaction), so the run is given up with `needed`, and made
again in a world that has it.
"""

import contextlib
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime

import msgspec
import trio

from flux.execution import Execution
from flux.hostcall import HostCallError
from flux.hostcalls.base import HostCallFailed, QueryResult
from flux.mutation import Operation
from flux.sql_world import find_names, find_targets, locks_rows, rewrite
from flux.store.postgres import Connection, DatabaseError, Pool
from flux.store.world import World, WorldError, WorldPlan, build_world
from flux.supervisor.database import describe_failure, inward, outward

READ_ONLY = "25006"
"""SQLSTATE of a statement that would write to what is not a world's."""
BUILD_S_MAX = 60.0
"""How long a world may take to be built. Its transaction keeps the server from cleaning up behind others."""
TRIES_MAX = 8
"""Worlds that are built for one replay, each with the tables that the one before lacked."""


def plan_world(original: Execution, schema: str, written: frozenset[str]) -> WorldPlan | None:
    """Return the plan of the world that ``original`` saw, or None when it saw no database.

    ``written`` are tables that are to be copied beside those that it wrote itself.
    """
    if not original.transactions:
        return None
    first = original.transactions[0]
    inserted: dict[str, list[Mapping[str, object]]] = {}
    own = set(written)
    for mutation in original.mutations:
        if mutation.schema != schema:
            continue
        own.add(mutation.table)
        if mutation.op is Operation.INSERT and mutation.after is not None:
            inserted.setdefault(mutation.table, []).append(msgspec.json.decode(mutation.after))
    began_ns = next((call.started_ns for call in original.calls if call.request.seq == first.begun_by), 0)
    return WorldPlan(
        schema=schema,
        snapshot=first.snapshot,
        started_at=datetime.fromtimestamp((original.started_at_ns + began_ns) / 1e9, UTC),
        written=frozenset(own),
        inserted=inserted,
    )


@contextlib.asynccontextmanager
async def open_world(pool: Pool, token: bytes, plan: WorldPlan) -> AsyncIterator["WorldDatabase"]:
    """Give the world of ``plan`` on a connection of the guests'; raise `WorldError` when it can't be built.

    At the end the connection is cleaned as after a guest: nothing of the world is left to others.
    """
    connection = await pool.take()
    try:
        try:
            with trio.fail_after(BUILD_S_MAX):
                world = await build_world(connection, token, plan)
        except trio.TooSlowError:
            raise WorldError(
                f"it took longer than {BUILD_S_MAX:g} s to take back all that has changed since",
                remedy="replay on the code that made the record, which needs no database",
            ) from None
        except DatabaseError as error:
            raise WorldError(
                f"the database refused a part of the world: {error.report.message}",
                remedy="replay on the code that made the record, which needs no database",
            ) from error
        yield WorldDatabase(connection, plan, world)
    finally:
        connection.is_dirty = True
        with trio.CancelScope(shield=True):
            await pool.give_back(connection)


class WorldDatabase:
    """See the module, and `flux.hostcalls.base.Database`."""

    def __init__(self, connection: Connection, plan: WorldPlan, world: World) -> None:
        self._connection = connection
        self._plan = plan
        self._world = world
        self._depth = 0
        self._lock = trio.Lock()
        self.needed: set[str] = set()
        """Tables that the run would write and the world has no copy of."""
        self.trespass: str | None = None
        """A statement that would write past the world, which no other world could help."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What is not as it was, a sentence each."""
        return self._world.notes

    async def run(self, sql: str, arguments: list[object], call_seq: int) -> QueryResult:  # noqa: ARG002 - the protocol's
        """See `flux.hostcalls.base.Database.run`."""
        async with self._lock:
            self.needed |= self._find_needed(sql)
            if self.needed:
                raise HostCallFailed(
                    "DatabaseError", "the world is built again with the table that this writes"
                )
            text = rewrite(sql, self._plan.schema, self._world.shadowed)
            try:
                result = await self._connection.run(text, [inward(argument) for argument in arguments])
            except Exception as error:
                if isinstance(error, DatabaseError) and error.report.sqlstate == READ_ONLY:
                    self.trespass = sql
                raise describe_failure(error) from error
            return QueryResult(
                tuple(column.name for column in result.columns),
                tuple(column.type_name for column in result.columns),
                [[outward(value) for value in row] for row in result.rows],
                result.tag,
            )

    async def begin(self, isolation: str | None, call_seq: int) -> int:  # noqa: ARG002 - the protocol's
        """See `flux.hostcalls.base.Database.begin`."""
        async with self._lock:
            await self._execute(f"savepoint flux_savepoint_{self._depth + 1}")
            self._depth += 1
            return self._depth

    async def commit(self, depth: int, call_seq: int) -> None:  # noqa: ARG002 - the protocol's
        """See `flux.hostcalls.base.Database.commit`."""
        async with self._lock:
            self._check_depth(depth)
            await self._execute(f"release savepoint flux_savepoint_{depth}")
            self._depth -= 1

    async def rollback(self, depth: int, call_seq: int) -> None:  # noqa: ARG002 - the protocol's
        """See `flux.hostcalls.base.Database.rollback`."""
        async with self._lock:
            self._check_depth(depth)
            await self._execute(f"rollback to savepoint flux_savepoint_{depth}")
            await self._execute(f"release savepoint flux_savepoint_{depth}")
            self._depth -= 1

    async def finish(self) -> HostCallError | None:
        """Check what is left to COMMIT, as it would be there; return what it would fail with."""
        try:
            await self._execute("set constraints all immediate")
        except HostCallFailed as failed:
            return failed.error
        return None

    def _find_needed(self, sql: str) -> frozenset[str]:
        """Return the tables that ``sql`` can only be run on as copies, and that are none."""
        names = {target.name for target in find_targets(sql) if target.schema in (None, self._plan.schema)}
        if locks_rows(sql):
            names |= find_names(sql)
        return frozenset(names & self._world.tables - self._plan.written)

    def _check_depth(self, depth: int) -> None:
        if depth == 0 or depth != self._depth:
            raise HostCallFailed(
                "TransactionOrder", f"transaction block {depth} is not the innermost open one", code="FLX428"
            )

    async def _execute(self, sql: str) -> None:
        try:
            await self._connection.execute(sql)
        except Exception as error:
            raise describe_failure(error) from error
