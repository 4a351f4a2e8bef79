"""The database of an execution that runs again beside others, and what holds it back.

`GatedDatabase` is to a guest what `flux.supervisor.database.ExecutionDatabase` was when it was recorded:
real transactions on a connection of its own, each begun and committed where `flux.interleave` says. A
`Conductor` lets the runs wait in front of their gates, and when none can go on by itself it asks the server who
waits for whose locks, and opens the gate that is in the way. It needs no clock for that: a machine that is
slow opens no gate that a fast one would keep shut.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

import attrs
import msgspec
import trio

from flux.execution import Execution, Transaction
from flux.hostcall import HostCall, HostCallError
from flux.hostcalls.base import HostCallFailed, QueryResult
from flux.interleave import Blocked, Call, Gate, Interleaving, Standing
from flux.mutation import Operation
from flux.sql_world import find_names, rewrite
from flux.store.ephemeral import Original
from flux.store.postgres import Connection, Pool
from flux.store.queries import QUERIES
from flux.supervisor.statements import check_depth, check_isolation, describe_failure, inward, make_answer
from flux.supervisor.world_timeline import give_recorded_draws, list_written_rows

LOOK_S = 0.01
"""Between two looks at the server's locks while somebody waits for one."""
_BEGUN = (
    "select pg_catalog.set_config('flux.world_now', $1, true), pg_catalog.set_config('flux.world_seed', $2, true), "
    "pg_catalog.pg_current_snapshot()"
)
_GIVE = "select pg_catalog.set_config('flux.given', $1, true)"
_XID = "select pg_catalog.pg_current_xact_id_if_assigned()"
READ_COMMITTED = "read committed"


class Conductor:
    """See the module. Use `watch` as a task beside the runs."""

    def __init__(self, gates: Interleaving, owner: Pool) -> None:
        """``owner`` has connections of Flux's own to the database of the runs."""
        self.gates = gates
        self._owner = owner
        self._standings: dict[int, Gate | None] = {}
        """Of the runs that have not ended: the gate before which one waits, or None."""
        self._pids: dict[int, int] = {}
        """The server process of each run that has a statement under way."""
        self._runs_of: dict[int, int] = {}
        """The run whose connection a server process is, or was last."""
        self._moves = 0
        """Counts all that changes, so that what was seen of the server can be told to be of this moment."""
        self._moved = trio.Event()
        self._lot = trio.lowlevel.ParkingLot()
        self.held_back = 0
        """Gates that somebody had to wait for."""

    def joined(self, run: int) -> None:
        """A run begins to wait for its start."""
        self._stand(run, None)

    def left(self, run: int) -> None:
        """All of a run is over."""
        self.gates.ended(run)
        self._standings.pop(run, None)
        self._move()

    async def wait(self, gate: Gate) -> None:
        """Wait until ``gate`` is open, by what happens or because it is relaxed."""
        run = gate.run
        if self.gates.is_open(gate):
            return
        self.held_back += 1
        self._stand(run, gate)
        try:
            while not self.gates.is_open(self._standings[run] or gate):
                await self._lot.park()
        finally:
            self._stand(run, None)

    def passed(self, gate: Gate) -> None:
        """What ``gate`` was in front of is done."""
        self.gates.passed(gate)
        self._move()

    def rolled_back(self, run: int) -> None:
        """The run's open transaction is gone."""
        self.gates.rolled_back(run)
        self._move()

    def attempt_ended(self, run: int, attempt: int) -> None:
        """The run will be run again."""
        self.gates.attempt_ended(run, attempt)
        self._move()

    @contextlib.contextmanager
    def stating(self, run: int, pid: int) -> Iterator[None]:
        """A statement of the run's is under way in the server process ``pid``."""
        self._pids[run] = pid
        self._move()
        try:
            yield
        finally:
            del self._pids[run]
            self._move()

    async def watch(self) -> None:
        """Open gates that would never open by themselves, until cancelled."""
        while True:
            moves = self._moves
            standings = await self._find_standings()
            stuck = None
            if standings is not None and moves == self._moves:
                stuck = self.gates.find_stuck(standings)
            if stuck is not None:
                self._standings[stuck.run] = self.gates.relax(stuck)
                self._move()
            if moves != self._moves:
                continue
            if self._pids and any(self._standings.values()):
                await trio.sleep(LOOK_S)
            else:
                await self._moved.wait()

    async def _find_standings(self) -> dict[int, Standing] | None:
        """Return where each run stands; None when one is at work."""
        await trio.lowlevel.checkpoint()
        if not any(self._standings.values()):
            return None
        found: dict[int, Standing] = {run: gate for run, gate in self._standings.items() if gate is not None}
        others = [run for run in self._standings if run not in found]
        if any(run not in self._pids for run in others):
            return None
        if others:
            pids = {self._pids[run]: run for run in others}
            async with self._owner.acquire() as connection:
                rows = await connection.fetch(QUERIES.list_blockers, sorted(pids))
            for row in rows:
                if row["pid"] not in pids or not row["blockers"]:
                    return None
                by = frozenset(self._runs_of[pid] for pid in row["blockers"] if pid in self._runs_of)
                found[pids[row["pid"]]] = Blocked(by)
        return found

    def connected(self, run: int, pid: int) -> None:
        """The run's connection is that of server process ``pid``."""
        self._runs_of[pid] = run

    def _stand(self, run: int, gate: Gate | None) -> None:
        self._standings[run] = gate
        self._move()

    def _move(self) -> None:
        self._moves += 1
        self._moved.set()
        self._moved = trio.Event()
        self._lot.unpark_all()


class GatedDatabase:
    """One attempt's database. See the module, and `flux.hostcalls.base.Database`.

    `counterparts` is filled by whoever performs: by a call's seq, the recorded call that asked the same.
    """

    def __init__(
        self,
        pool: Pool,
        conductor: Conductor,
        original: Original,
        schema: str,
        run: int,
        attempt: int,
        recorded: Execution,
        *,
        is_recorded: bool,
        atomic: bool,
        isolation: str,
    ) -> None:
        """``is_recorded``: ``recorded`` is the record of this very attempt, and not of the last one that there was."""
        self._pool = pool
        self._conductor = conductor
        self._gates = conductor.gates
        self._original = original
        self._schema = schema
        self._run = run
        self._attempt = attempt
        self._recorded = recorded
        self._is_recorded = is_recorded
        self._atomic = atomic
        self._isolation = isolation
        self._inserted = _list_given(recorded, schema, original)
        self._written = list_written_rows(recorded, schema)
        self._connection: Connection | None = None
        self._lock = trio.Lock()
        self._open: Transaction | None = None
        self._savepoints = 0
        self._is_giving = False
        self.counterparts: dict[int, HostCall] = {}
        self.transactions: list[Transaction] = []
        """Those that have ended."""
        self.needed: set[str] = set()
        """Tables that a statement names and whose rows are not there: the run proves nothing."""

    async def run(self, sql: str, arguments: list[object], call_seq: int) -> QueryResult:
        """See `flux.hostcalls.base.Database.run`."""
        async with self._lock:
            self._check_filled(sql)
            alone = not self._atomic and self._open is None
            if self._open is None:
                await self._begin(None, call_seq)
            connection = self._get_connected()
            try:
                gate = self._gates.state(self._run, self._find_call(call_seq))
                await self._conductor.wait(gate)
                takes_snapshot = self._open is not None and self._open.isolation == READ_COMMITTED
                if not takes_snapshot:
                    self._conductor.passed(gate)
                await self._give(connection, call_seq)
                text = rewrite(self._give_draws(sql, call_seq), self._schema, frozenset())
                with self._conductor.stating(self._run, connection.backend_pid):
                    result = await connection.run(text, [inward(argument) for argument in arguments])
                if takes_snapshot:
                    self._conductor.passed(gate)
                if alone:
                    await self._commit()
            except BaseException as error:
                if alone:
                    await self._undo()
                if not isinstance(error, Exception):
                    raise
                raise describe_failure(error) from error
            return make_answer(result)

    async def begin(self, isolation: str | None, call_seq: int) -> int:
        """See `flux.hostcalls.base.Database.begin`."""
        async with self._lock:
            if self._open is None:
                await self._begin(isolation, call_seq)
                if not self._atomic:
                    return 1
            else:
                check_isolation(isolation, self._open.isolation)
            await self._execute(f"savepoint flux_savepoint_{self._savepoints + 1}")
            self._savepoints += 1
            return self._depth

    async def commit(self, depth: int, call_seq: int) -> None:  # noqa: ARG002 - the protocol's
        """See `flux.hostcalls.base.Database.commit`."""
        async with self._lock:
            check_depth("commit", depth, self._depth)
            if self._savepoints:
                await self._execute(f"release savepoint flux_savepoint_{self._savepoints}")
                self._savepoints -= 1
                return
            try:
                await self._commit()
            except BaseException as error:
                await self._undo()
                if not isinstance(error, Exception):
                    raise
                raise describe_failure(error) from error

    async def rollback(self, depth: int, call_seq: int) -> None:  # noqa: ARG002 - the protocol's
        """See `flux.hostcalls.base.Database.rollback`."""
        async with self._lock:
            check_depth("roll back", depth, self._depth)
            if not self._savepoints:
                await self._undo()
                return
            name = f"flux_savepoint_{self._savepoints}"
            await self._execute(f"rollback to savepoint {name}")
            await self._execute(f"release savepoint {name}")
            self._savepoints -= 1

    async def finish(self, *, keeps: bool) -> HostCallError | None:
        """End what is open as the end of an execution does: an atomic one that answered keeps it.

        Returns what the COMMIT fails with.
        """
        if self._open is None:
            return None
        if not (keeps and self._atomic):
            await self._undo()
            return None
        try:
            await self._commit()
        except Exception as error:
            await self._undo()
            return describe_failure(error).error
        return None

    async def close(self) -> None:
        """Give the connection back."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.is_dirty = True
            await self._pool.give_back(connection)

    # Inside

    @property
    def _depth(self) -> int:
        return self._savepoints + (not self._atomic and self._open is not None)

    def _check_filled(self, sql: str) -> None:
        missing = (find_names(sql) & self._original.columns.keys()) - self._original.filled
        if missing:
            self.needed |= missing
            raise HostCallFailed(
                "DatabaseError", "the database is made again with the rows that this asks for"
            )

    def _find_call(self, call_seq: int) -> Call | None:
        counterpart = self.counterparts.get(call_seq)
        if counterpart is None or not self._is_recorded:
            return None
        return self._attempt, counterpart.request.seq

    def _get_connected(self) -> Connection:
        assert self._connection is not None, "a transaction is open on a connection"
        return self._connection

    async def _begin(self, isolation: str | None, call_seq: int) -> None:
        gate = self._gates.begin(self._run, self._find_call(call_seq), self._attempt)
        await self._conductor.wait(gate)
        if self._connection is None:
            self._connection = await self._pool.take()
            self._conductor.connected(self._run, self._connection.backend_pid)
        level = isolation or self._isolation
        try:
            await self._connection.begin(level)
            # It takes the snapshot, as the question for it did when this was recorded.
            # What is drawn in it is drawn again in each replay, and not in another transaction.
            seed = f"{self._recorded.name} {self._attempt} {len(self.transactions)}"
            await self._connection.fetch(_BEGUN, self._find_now(call_seq), seed)
        except BaseException as error:
            await self._connection.settle()
            self._conductor.rolled_back(self._run)
            if not isinstance(error, Exception):
                raise
            raise describe_failure(error) from error
        self._open = Transaction(level, "", None, committed=False, begun_by=call_seq)
        self._conductor.passed(gate)

    def _find_now(self, call_seq: int) -> str:
        """Return what ``now()`` said in the recorded transaction that this one stands for, or about so."""
        recorded = self._recorded
        counterpart = self.counterparts.get(call_seq)
        if counterpart is not None:
            begun = [one for one in recorded.transactions if one.begun_by <= counterpart.request.seq]
        else:
            begun = list(recorded.transactions[: len(self.transactions) + 1])
        if begun and begun[-1].now:
            return begun[-1].now
        at_ns = recorded.started_at_ns + (0 if counterpart is None else counterpart.started_ns)
        return datetime.fromtimestamp(at_ns / 1e9, UTC).isoformat()

    async def _give(self, connection: Connection, call_seq: int) -> None:
        """Give the columns that make up their values those that this statement's counterpart was seen to make."""
        counterpart = self.counterparts.get(call_seq)
        given = None if counterpart is None else self._inserted.get(counterpart.request.seq)
        if given or self._is_giving:
            await connection.fetch(_GIVE, json.dumps(given) if given else "")
            self._is_giving = bool(given)

    def _give_draws(self, sql: str, call_seq: int) -> str:
        counterpart = self.counterparts.get(call_seq)
        return sql if counterpart is None else give_recorded_draws(counterpart, sql, self._written)

    async def _commit(self) -> None:
        assert self._open is not None, "what is committed has begun"
        connection = self._get_connected()
        await connection.execute("set constraints all immediate")
        xid = await connection.fetch_value_anew(_XID)
        gate = self._gates.commit(self._run, wrote=xid is not None)
        await self._conductor.wait(gate)
        with self._conductor.stating(self._run, connection.backend_pid):
            await connection.commit()
        self._end(None if xid is None else int(xid), committed=True)
        self._conductor.passed(gate)

    async def _undo(self) -> None:
        if self._open is None:
            return
        await self._get_connected().settle()
        self._end(None, committed=False)
        self._conductor.rolled_back(self._run)

    def _end(self, xid: int | None, *, committed: bool) -> None:
        assert self._open is not None, "what ends has begun"
        self.transactions.append(attrs.evolve(self._open, xid=xid, committed=committed))
        self._open, self._savepoints, self._is_giving = None, 0, False

    async def _execute(self, sql: str) -> None:
        try:
            await self._get_connected().execute(sql)
        except Exception as error:
            raise describe_failure(error) from error


def _list_given(
    recorded: Execution, schema: str, original: Original
) -> Mapping[int, Mapping[str, Sequence[str]]]:
    """Return for each recorded call the values of the rows that it inserted, by table and column, in their order.

    Of columns alone that make up their values, and only what is written as one word: no arrays, no objects.
    """
    given: dict[int, dict[str, list[str]]] = {}
    for mutation in recorded.mutations:
        if (
            mutation.schema != schema
            or mutation.op is not Operation.INSERT
            or mutation.call is None
            or mutation.after is None
        ):
            continue
        row = msgspec.json.decode(mutation.after)
        for column in original.columns.get(mutation.table, ()):
            value = row.get(column.name)
            if column.is_given and isinstance(value, str | int | float):
                text = json.dumps(value) if not isinstance(value, str) else value
                key = f"{mutation.table}.{column.name}"
                given.setdefault(mutation.call, {}).setdefault(key, []).append(text)
    return given
