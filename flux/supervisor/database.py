"""One execution's database: its connection, its transactions, what they saw and changed.

The connection is taken from the tenant's pool at the first statement, so a
function that asks nothing of the database holds none. An *atomic* execution has
one transaction from then to its end, and savepoints inside it; one that is not
has a transaction for each statement or for each block that it opens itself.

Each transaction's snapshot is taken down at its start: what it could see is what
a replay must show it. What it changed comes from the capture triggers' NOTICEs
(`flux.supervisor.changes`). At the end there are three cases, and the executor
writes the record accordingly: nothing was begun; nothing was written (committed,
the record goes another way); something was written, and then the record is put
into the same transaction, so that both exist or neither.

Statements of concurrent tasks wait in line here: a connection answers one at a time.
"""

import ipaddress
from collections.abc import Callable, Sequence

import attrs
import trio

from flux import values
from flux.execution import Read, Transaction
from flux.hostcalls.base import HostCallFailed, QueryResult
from flux.sql_rules import get_first_word
from flux.store.postgres import (
    BadQueryArgument,
    CannotConnect,
    Column,
    CommitUnknown,
    Connection,
    ConnectionLost,
    DatabaseError,
    Interval,
    Notice,
    Pool,
    PoolClosed,
    Range,
    StatementRefused,
    UnreadableAnswer,
)
from flux.store.queries import QUERIES
from flux.supervisor.changes import CapturedStatement, Changes
from flux.supervisor.tables import TableCatalog

_PLAIN_CHANGES = frozenset({"insert", "update", "delete", "merge"})
"""Statements whose captured changes are all their own, unless triggers or functions add some."""


class ExecutionDatabase:
    """See the module. `finish_reads`, `commit_with` and `roll_back` are for whoever ends the execution."""

    def __init__(
        self,
        pool: Pool,
        changes: Changes,
        tables: TableCatalog,
        *,
        atomic: bool,
        isolation: str,
        mark: Callable[[str, str], tuple[object, ...]],
        now_ns: Callable[[], int],
        elapsed_ns: Callable[[], int],
        tell: Callable[[Transaction], None],
    ) -> None:
        self._pool = pool
        self._changes = changes
        self._tables = tables
        self._atomic = atomic
        self._isolation = isolation
        self._mark = mark
        """Gives the parameters of `QUERIES.mark_transaction`: takes snapshot and isolation."""
        self._now_ns = now_ns
        self._elapsed_ns = elapsed_ns
        self._tell = tell
        self._connection: Connection | None = None
        self._lock = trio.Lock()
        self._open: Transaction | None = None
        """The transaction in progress, as far as it is known."""
        self._savepoints: list[int] = []
        """For each open savepoint, where it stands among the changes."""
        self._lost: HostCallFailed | None = None
        self.transactions: list[Transaction] = []
        """Those that have ended."""
        self.reads: list[Read] = []
        self.unsettled: list[CapturedStatement] = []
        """Statements of committed transactions whose rows may have been undone inside them."""

    # What the host call `db` asks

    async def run(self, sql: str, arguments: list[object], call_seq: int) -> QueryResult:
        """See `flux.hostcalls.base.Database.run`."""
        async with self._lock:
            connection = await self._get_connection()
            self._changes.call = call_seq
            alone = not self._atomic and self._open is None
            if self._open is None:
                await self._begin(connection, None, call_seq)
            try:
                result = await connection.run(sql, [_inward(argument) for argument in arguments])
                if get_first_word(sql) not in _PLAIN_CHANGES:
                    self._changes.expect_hidden()
            except BaseException as error:
                if alone:
                    await self._undo(connection)
                if not isinstance(error, Exception):
                    raise
                raise self._failed(error) from error
            if result.rows:
                await self._note_reads(call_seq, result.columns)
            if alone:
                await self._commit_own(connection)
            return QueryResult(
                tuple(column.name for column in result.columns),
                tuple(column.type_name for column in result.columns),
                [[_outward(value) for value in row] for row in result.rows],
                result.tag,
            )

    async def begin(self, isolation: str | None, call_seq: int) -> int:
        """See `flux.hostcalls.base.Database.begin`."""
        async with self._lock:
            connection = await self._get_connection()
            self._changes.call = call_seq
            if self._open is None:
                await self._begin(connection, isolation, call_seq)
                if not self._atomic:
                    return 1
            elif isolation is not None and isolation != self._open.isolation:
                raise HostCallFailed(
                    "InvalidArguments",
                    f"the transaction is open already, with isolation {self._open.isolation!r}: "
                    f"a part of it can't have {isolation!r}",
                    code="FLX428",
                )
            name = f"flux_savepoint_{len(self._savepoints) + 1}"
            await self._execute(connection, f"savepoint {name}")
            self._savepoints.append(self._changes.mark())
            return self._depth

    async def commit(self, depth: int, call_seq: int) -> None:
        """See `flux.hostcalls.base.Database.commit`."""
        async with self._lock:
            connection = await self._get_connection()
            self._check_depth("commit", depth)
            self._changes.call = call_seq
            if self._savepoints:
                await self._execute(connection, f"release savepoint flux_savepoint_{len(self._savepoints)}")
                self._savepoints.pop()
            else:
                await self._commit_own(connection)

    async def rollback(self, depth: int, call_seq: int) -> None:
        """See `flux.hostcalls.base.Database.rollback`."""
        async with self._lock:
            connection = await self._get_connection()
            self._check_depth("roll back", depth)
            self._changes.call = call_seq
            if self._savepoints:
                name = f"flux_savepoint_{len(self._savepoints)}"
                await self._execute(connection, f"rollback to savepoint {name}")
                await self._execute(connection, f"release savepoint {name}")
                self._changes.undo_to(self._savepoints.pop())
            else:
                await self._undo(connection)

    @property
    def _depth(self) -> int:
        """Blocks that the function has open; an atomic execution's own transaction is none of them."""
        return len(self._savepoints) + (not self._atomic and self._open is not None)

    def _check_depth(self, verb: str, depth: int) -> None:
        if depth == 0 or depth != self._depth:
            raise HostCallFailed(
                "TransactionOrder",
                f"can't {verb} transaction block {depth}: the innermost open one is {self._depth}; "
                "blocks of concurrent tasks must not overlap",
                code="FLX428",
            )

    # What whoever ends the execution asks

    @property
    def is_open(self) -> bool:
        """A transaction is in progress."""
        return self._open is not None and self._lost is None

    def describe_commit(self) -> Transaction:
        """Return the transaction in progress as it will have been once it is committed."""
        assert self._open is not None
        return attrs.evolve(self._open, xid=self._changes.xid, committed=True, ended_ns=self._elapsed_ns())

    async def finish_reads(self) -> bool:
        """Commit the transaction in progress if it has written nothing at all; say whether it did.

        Raises `HostCallFailed` when the transaction can't be committed: it was aborted by an error that the
        function has caught.
        """
        connection = self._connection
        assert connection is not None and self._open is not None
        try:
            if not self._changes.has_any and await connection.fetch_value(_XID) is None:
                await connection.commit()
                self._end(None, committed=True)
                return True
            if self._changes.needs_ordinal:
                self._changes.compare_ordinal(await connection.fetch_value(_ORDINAL))
        except Exception as error:
            raise self._failed(error) from error
        return False

    async def commit_with(self, sql: str, parameters: Sequence[object]) -> int | None:
        """Run one more statement and commit; return the transaction's id.

        `CommitUnknown` passes: nobody but the database knows then.

        ``sql`` answers with the transaction's id. Any other failure is a `HostCallFailed`, and what was in the
        transaction is undone.
        """
        connection = self._connection
        assert connection is not None and self._open is not None
        try:
            xid = await connection.fetch_value(sql, *parameters)
            await connection.commit()
        except CommitUnknown:
            raise
        except Exception as error:
            failed = self._failed(error)
            await self._undo(connection)
            raise failed from error
        self.unsettled += self._changes.keep_all()
        self._end(xid, committed=True)
        return None if xid is None else int(xid)

    def settle_unknown(self, *, committed: bool) -> None:
        """Say what became of a transaction whose COMMIT was not answered."""
        if committed:
            xid = self._changes.xid
            self.unsettled += self._changes.keep_all()
            self._end(xid, committed=True)
        else:
            self._changes.undo_all()
            self._end(None, committed=False)

    async def roll_back(self) -> None:
        """Undo the transaction in progress, if there is one."""
        if self._open is not None and self._connection is not None:
            await self._undo(self._connection)

    async def close(self) -> None:
        """Give the connection back."""
        connection, self._connection = self._connection, None
        if connection is not None:
            # A guest may have changed its session in ways that no statement's text shows.
            connection.is_dirty = True
            await self._pool.give_back(connection)

    # Inside

    async def _get_connection(self) -> Connection:
        if self._lost is not None:
            raise self._lost
        if self._connection is None:
            try:
                self._connection = await self._pool.take()
            except (CannotConnect, PoolClosed) as error:
                raise HostCallFailed("DatabaseError", error.message, code=error.code) from error
            self._connection.on_notice = self._take_notice
        return self._connection

    def _take_notice(self, notice: Notice) -> None:
        self._changes.take(notice, self._now_ns())

    async def _begin(self, connection: Connection, isolation: str | None, call_seq: int) -> None:
        level = isolation or self._isolation
        try:
            await connection.begin(level)
            snapshot = await connection.fetch_value(_SNAPSHOT)
        except Exception as error:
            raise self._failed(error) from error
        self._open = Transaction(level, str(snapshot), None, committed=False, begun_by=call_seq)
        self._tell(self._open)

    async def _commit_own(self, connection: Connection) -> None:
        """Commit a transaction of an execution that makes several, marked as the execution's."""
        assert self._open is not None
        parameters = self._mark(self._open.snapshot, self._open.isolation)
        try:
            if self._changes.needs_ordinal:
                self._changes.compare_ordinal(await connection.fetch_value(_ORDINAL))
            await self.commit_with(QUERIES.mark_transaction, parameters)
        except HostCallFailed:
            raise
        except Exception as error:
            # CommitUnknown among them: the log table has its rows if it took place, and says whose they are.
            raise self._failed(error) from error

    async def _execute(self, connection: Connection, sql: str) -> None:
        try:
            await connection.execute(sql)
        except Exception as error:
            raise self._failed(error) from error

    async def _undo(self, connection: Connection) -> None:
        """Roll back, whatever the state of the connection; the server does it itself when that is gone."""
        await connection.settle()
        self._changes.undo_all()
        self._end(None, committed=False)

    def _end(self, xid: int | None, *, committed: bool) -> None:
        if self._open is not None:
            ended = attrs.evolve(self._open, xid=xid, committed=committed, ended_ns=self._elapsed_ns())
            self.transactions.append(ended)
            self._tell(ended)
        self._open = None
        self._savepoints.clear()

    async def _note_reads(self, call_seq: int, columns: tuple[Column, ...]) -> None:
        self.reads += [Read(call_seq, *found) for found in await self._tables.find_reads(columns)]

    def _failed(self, error: Exception) -> HostCallFailed:
        failed = describe_failure(error)
        if isinstance(error, ConnectionLost) or (self._connection is not None and self._connection.is_closed):
            # The transaction is gone with its connection, and a new one would not be the same.
            self._lost = failed
            self._changes.undo_all()
            self._end(None, committed=False)
        return failed


_XID = "select pg_catalog.pg_current_xact_id_if_assigned()"
_SNAPSHOT = "select pg_catalog.pg_current_snapshot()"
_ORDINAL = "select pg_catalog.current_setting('flux.ordinal', true)"


def describe_failure(error: Exception) -> HostCallFailed:
    """Return what the guest sees raised for a failure of its database."""
    match error:
        case HostCallFailed():
            return error
        case DatabaseError(report=report):
            details: dict[str, object] = {
                name: value
                for name in ("severity", "detail", "hint", "schema", "table", "column", "data_type", "constraint",
                             "position", "where")
                if (value := getattr(report, name)) is not None
            }  # fmt: skip
            message = report.message
            if report.sqlstate == "25P02":
                message += "; an earlier statement failed. To go on after one, put it into ctx.db.transaction()"
            return HostCallFailed("DatabaseError", message, code=report.sqlstate, details=details)
        case StatementRefused():
            return HostCallFailed("StatementRefused", error.message, code=error.code)
        case BadQueryArgument() | UnreadableAnswer() | ConnectionLost() | CannotConnect() | PoolClosed():
            return HostCallFailed("DatabaseError", error.message, code=error.code)
    raise error


def _inward(value: object) -> object:
    """A value of the guest's as the driver takes it."""
    kind = type(value)
    if kind in _SCALARS:
        return value
    if isinstance(value, list):
        return [_inward(item) for item in value]
    if isinstance(value, values.Range):
        if value.empty:
            return Range(empty=True)
        return Range(
            _inward(value.lower), _inward(value.upper),
            lower_inc=value.bounds[0] == "[", upper_inc=value.bounds[1] == "]",
        )  # fmt: skip
    if isinstance(value, values.Interval):
        return Interval(value.months, value.days, value.microseconds)
    return value


def _outward(value: object) -> object:
    """A value of the driver's in terms of `flux.values`."""
    kind = type(value)
    if kind in _SCALARS:
        return value
    if isinstance(value, list | tuple):
        return [_outward(item) for item in value]
    if isinstance(value, dict):
        return {key: _outward(item) for key, item in value.items()}
    if isinstance(value, Range):
        if value.isempty:
            return values.Range(empty=True)
        bounds = ("[" if value.lower_inc else "(") + ("]" if value.upper_inc else ")")
        return values.Range(_outward(value.lower), _outward(value.upper), bounds)
    if isinstance(value, Interval):
        return values.Interval(value.months, value.days, value.microseconds)
    if isinstance(value, _ADDRESSES):
        return str(value)
    return value


_SCALARS = frozenset({str, int, bool, type(None), float, bytes})
_ADDRESSES = (
    ipaddress.IPv4Address, ipaddress.IPv6Address, ipaddress.IPv4Interface, ipaddress.IPv6Interface,
    ipaddress.IPv4Network, ipaddress.IPv6Network,
)  # fmt: skip
