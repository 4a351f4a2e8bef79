"""One execution's database: its connection, its transactions, what they saw and changed.

The connection is taken from the tenant's pool at the first statement, so a
function that asks nothing of the database holds none. An *atomic* execution has
one transaction from then to its end, and savepoints inside it; one that is not
has a transaction for each statement or for each block that it opens itself.

Each transaction's snapshot is taken down at its start: what it could see is what
a replay must show it. In READ COMMITTED each statement's is, too, in the same round trip
(`flux.store.postgres_snapshots`). What it changed comes from the capture triggers' NOTICEs
(`flux.supervisor.changes`). At the end there are three cases, and the executor
writes the record accordingly: nothing was begun; nothing was written (committed,
the record goes another way); something was written, and then the record is put
into the same transaction, so that both exist or neither.

Statements of concurrent tasks wait in line here: a connection answers one at a time.
"""

import contextlib
from collections.abc import Callable, Sequence

import attrs
import trio

from flux.execution import Read, StatementSnapshot, Transaction
from flux.hostcalls.base import HostCallFailed, QueryResult
from flux.sql_rules import get_first_word
from flux.store.postgres import (
    CannotConnect,
    Column,
    CommitUnknown,
    Connection,
    ConnectionLost,
    Isolation,
    Notice,
    Pool,
    PoolClosed,
    Result,
    SnapshotBracket,
)
from flux.store.queries import QUERIES
from flux.supervisor.changes import CapturedStatement, Changes, SetAside
from flux.supervisor.journal import JournalError
from flux.supervisor.statements import (
    ANSWER_BYTES_MAX,
    check_depth,
    check_isolation,
    describe_failure,
    inward,
    make_answer,
)
from flux.supervisor.tables import TableCatalog

_PLAIN_CHANGES = frozenset({"insert", "update", "delete", "merge"})
"""Statements whose captured changes are all their own, unless triggers or functions add some."""

COMMIT_OWN_S = 30.0
"""How long what precedes the COMMIT of a transaction may take, where an execution makes several."""
NOTE_READS_S = 2.0
"""How long an answer waits for the names of the tables that it came from, which are asked for once."""


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
        self._line = _Line()
        self._open: Transaction | None = None
        """The transaction in progress, as far as it is known."""
        self._statements: list[StatementSnapshot] = []
        """Those of the transaction in progress, where they are listed at all."""
        self._savepoints: list[int] = []
        """For each open savepoint, where it stands among the changes."""
        self._lost: HostCallFailed | None = None
        self._xid: int | None = None
        """Of the transaction in progress, where it changed nothing that is captured."""
        self._notice_failure: Exception | None = None
        self.lost_transaction: HostCallFailed | None = None
        """Why a transaction in progress is gone although nobody ended it."""
        self.transactions: list[Transaction] = []
        """Those that have ended."""
        self.reads: list[Read] = []
        self.unsettled: list[CapturedStatement] = []
        """Statements of committed transactions whose rows may have been undone inside them."""
        self.doubts: list[Doubt] = []
        """Transactions whose COMMIT was not answered; `settle_doubt` takes what the database says of them."""

    # What the host call `db` asks

    async def run(self, sql: str, arguments: list[object], call_seq: int) -> QueryResult:
        """See `flux.hostcalls.base.Database.run`."""
        async with self._line:
            connection = await self._get_connection()
            self._changes.call = call_seq
            alone = not self._atomic and self._open is None
            if self._open is None:
                await self._begin(connection, None, call_seq)
            try:
                result = await self._run(connection, sql, arguments, call_seq)
                self._raise_notice_failure()
                self._changes.ran(_count_own_rows(sql, result.tag))
                if alone:
                    await self._commit_own(connection)
            except BaseException as error:
                # It may have run to its end all the same, unheard, and then stands with the rest.
                self._changes.ran(None)
                if alone:
                    await self._undo(connection)
                if not isinstance(error, Exception):
                    raise
                raise self._failed(error) from error
            if result.rows:
                await self._note_reads(call_seq, result.columns)
            return make_answer(result)

    async def state(self, sql: str, parameters: Sequence[object], call_seq: int) -> object:
        """Run a statement of Flux's own in the execution's transaction, as a part of it; return its value.

        Rolled back with the rest, by a savepoint too. Raises `HostCallFailed`.
        """
        async with self._line:
            connection = await self._get_connection()
            self._changes.call = call_seq
            alone = not self._atomic and self._open is None
            if self._open is None:
                await self._begin(connection, None, call_seq)
            if not self._atomic:
                self._statements.append(StatementSnapshot(call_seq))
            try:
                # Sent along each time, as in `commit_with`, and for the same reason.
                value = await connection.fetch_value_anew(sql, *parameters)
                self._raise_notice_failure()
                if alone:
                    await self._commit_own(connection)
            except BaseException as error:
                if alone:
                    await self._undo(connection)
                if not isinstance(error, Exception):
                    raise
                raise self._failed(error) from error
            return value

    async def begin(self, isolation: str | None, call_seq: int) -> int:
        """See `flux.hostcalls.base.Database.begin`."""
        async with self._line:
            connection = await self._get_connection()
            self._changes.call = call_seq
            if self._open is None:
                await self._begin(connection, isolation, call_seq)
                if not self._atomic:
                    return 1
            else:
                check_isolation(isolation, self._open.isolation)
            name = f"flux_savepoint_{len(self._savepoints) + 1}"
            await self._execute(connection, f"savepoint {name}")
            self._savepoints.append(self._changes.mark())
            return self._depth

    async def commit(self, depth: int, call_seq: int) -> None:
        """See `flux.hostcalls.base.Database.commit`."""
        async with self._line:
            connection = await self._get_connection()
            check_depth("commit", depth, self._depth)
            self._changes.call = call_seq
            if self._savepoints:
                await self._execute(connection, f"release savepoint flux_savepoint_{len(self._savepoints)}")
                self._savepoints.pop()
            else:
                await self._commit_own(connection)

    async def rollback(self, depth: int, call_seq: int) -> None:
        """See `flux.hostcalls.base.Database.rollback`."""
        async with self._line:
            connection = await self._get_connection()
            check_depth("roll back", depth, self._depth)
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

    # What whoever ends the execution asks

    @property
    def is_open(self) -> bool:
        """A transaction is in progress."""
        return self._open is not None and self._lost is None

    def describe_commit(self) -> Transaction:
        """Return the transaction in progress as it will have been once it is committed."""
        assert self._open is not None
        return self._as_ended(self._changes.xid, committed=True)

    async def finish_reads(self) -> bool:
        """Commit the transaction in progress if it has written nothing at all; say whether it did. It is the last one:
        the session is made as new with it.

        Raises `HostCallFailed` when the transaction can't be committed: it was aborted by an error that the
        function has caught, or a constraint that was deferred to its end does not hold.
        """
        connection = self._connection
        assert connection is not None and self._open is not None
        try:
            await self._run_deferred(connection)
            self._raise_notice_failure()
            if not self._changes.has_any:
                self._xid = await connection.fetch_value_anew(_XID)
                if self._xid is None:
                    await connection.commit_and_reset()
                    self._end(None, committed=True)
                    return True
        except BaseException as error:
            if not isinstance(error, Exception):
                raise
            raise self._failed(error) from error
        return False

    async def commit_with(self, sql: str, parameters: Sequence[object]) -> int | None:
        """Run one more statement and commit; return the transaction's id.

        `CommitUnknown` passes: nobody but the database knows then. After any other failure, cancellation
        included, nothing was committed, and what was in the transaction is undone.

        ``sql`` answers with the transaction's id.
        """
        connection = self._connection
        assert connection is not None and self._open is not None
        try:
            # Not prepared before: the guest's SQL may have put something else under that name, and what
            # travels here is what lets us write records.
            if self._atomic:
                # In one packet. Should it not be answered, the record that is in it says what became of it.
                xid = await connection.commit_with(sql, *parameters)
                self._xid = None if xid is None else int(xid)
            else:
                # Of several transactions each is asked for by its id, which is to be known before.
                xid = await connection.fetch_value_anew(sql, *parameters)
                self._xid = None if xid is None else int(xid)
                await connection.commit()
        except CommitUnknown:
            raise
        except BaseException as error:
            await self._undo(connection)
            if not isinstance(error, Exception):
                raise
            raise self._failed(error) from error
        # From here on it is committed: nothing may fail any more. Of an answer that was not heard out, the rows tell.
        xid = self._xid or self._changes.xid
        self.unsettled += self._changes.keep(self._changes.set_aside())
        self._end(xid, committed=True)
        return xid

    def set_doubt(self) -> "Doubt":
        """The COMMIT of the transaction in progress was not answered. It is over; what became of it, is open."""
        assert self._open is not None
        transaction = self._as_ended(self._xid or self._changes.xid, committed=False)
        doubt = Doubt(transaction, self._changes.set_aside())
        self._forget_open()
        self.doubts.append(doubt)
        return doubt

    def settle_doubt(self, doubt: "Doubt", *, committed: bool | None) -> None:
        """Say what became of a transaction whose COMMIT was not answered; None: that can't be found out."""
        self.doubts.remove(doubt)
        if committed:
            self.unsettled += self._changes.keep(doubt.statements)
        elif committed is not None:
            self._changes.undo(doubt.statements)
        ended = attrs.evolve(doubt.transaction, committed=bool(committed))
        self.transactions.append(ended)
        self._tell_ended(ended)

    async def roll_back(self) -> None:
        """Undo the transaction in progress, if there is one."""
        if self._open is not None and self._connection is not None:
            await self._undo(self._connection)

    def take_connection(self) -> Connection | None:
        """Let go of the connection, if there is one: it is the caller's to give back."""
        connection, self._connection = self._connection, None
        return connection

    async def close(self) -> None:
        """Give the connection back."""
        connection = self.take_connection()
        if connection is not None:
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
            self._connection.answer_bytes_max = ANSWER_BYTES_MAX
        return self._connection

    def _take_notice(self, notice: Notice) -> None:
        # Never raises: notices come in the middle of any answer, that of COMMIT included.
        try:
            self._changes.take(notice, self._now_ns())
        except Exception as failure:
            self._notice_failure = self._notice_failure or failure

    def _raise_notice_failure(self) -> None:
        if self._notice_failure is not None:
            raise self._notice_failure

    async def _begin(self, connection: Connection, isolation: str | None, call_seq: int) -> None:
        level = isolation or self._isolation
        # A guest may change its session in ways that no statement's text shows.
        connection.is_dirty = True
        try:
            begun = await connection.begin_and_fetch(level, _SNAPSHOT)
        except BaseException as error:
            await connection.settle()  # A BEGIN that was cancelled may have run.
            if not isinstance(error, Exception):
                raise
            raise self._failed(error) from error
        snapshot, _, now = begun.partition(" ")
        self._open = Transaction(level, snapshot, None, committed=False, begun_by=call_seq, now=now)
        self._tell(self._open)

    async def _run(self, connection: Connection, sql: str, arguments: list[object], call_seq: int) -> Result:
        """Run a statement of the guest's, and take down what it could see."""
        assert self._open is not None
        values_inward = [inward(argument) for argument in arguments]
        if self._open.isolation != Isolation.READ_COMMITTED:
            if not self._atomic:
                self._statements.append(StatementSnapshot(call_seq))
            return await connection.run(sql, values_inward)
        bracket = SnapshotBracket()
        try:
            return await connection.run_between(sql, values_inward, bracket)
        finally:
            before, after = bracket.before or "", bracket.after or ""
            self._statements.append(StatementSnapshot(call_seq, before, "" if after == before else after))

    async def _run_deferred(self, connection: Connection) -> None:
        """Have checked and run now what is deferred to COMMIT: its rows belong into the record, its failure too."""
        if await self._tables.has_deferrable():
            await connection.execute("set constraints all immediate")

    async def _commit_own(self, connection: Connection) -> None:
        """Commit a transaction of an execution that makes several, marked as the execution's.

        Not interrupted by the guest's giving up: what it hears is what happened.
        """
        assert self._open is not None
        parameters = self._mark(self._open.snapshot, self._open.isolation)
        with trio.CancelScope(shield=True, deadline=trio.current_time() + COMMIT_OWN_S):
            try:
                await self._run_deferred(connection)
                self._raise_notice_failure()
                await self.commit_with(QUERIES.mark_transaction, parameters)
                return
            except CommitUnknown as unknown:
                self.set_doubt()
                raise self._failed(unknown) from unknown
            except BaseException as error:
                await self._undo(connection)
                if not isinstance(error, Exception):
                    raise
                raise self._failed(error) from error
        message = f"the database did not answer in {COMMIT_OWN_S:g} s; the transaction was rolled back"
        raise HostCallFailed("DatabaseError", message, code=ConnectionLost.code)

    async def _execute(self, connection: Connection, sql: str) -> None:
        try:
            await connection.execute(sql)
        except Exception as error:
            raise self._failed(error) from error

    async def _undo(self, connection: Connection) -> None:
        """Roll back, whatever the state of the connection; the server does it itself when that is gone."""
        if self._open is None:
            return
        await connection.settle()
        self._changes.undo_all()
        self._end(None, committed=False)

    def _end(self, xid: int | None, *, committed: bool) -> None:
        if self._open is not None:
            ended = self._as_ended(xid, committed=committed)
            self.transactions.append(ended)
            self._tell_ended(ended)
        self._forget_open()

    def _as_ended(self, xid: int | None, *, committed: bool) -> Transaction:
        assert self._open is not None
        return attrs.evolve(
            self._open,
            xid=xid,
            committed=committed,
            ended_ns=self._elapsed_ns(),
            statements=tuple(self._statements),
        )

    def _forget_open(self) -> None:
        self._open, self._xid = None, None
        self._savepoints.clear()
        self._statements.clear()

    def _tell_ended(self, transaction: Transaction) -> None:
        # It has ended, whether that can be written down or not. The journal counts what it could not take,
        # recovery asks the database instead, and the next event of this execution meets the same error.
        with contextlib.suppress(JournalError):
            self._tell(transaction)

    async def _note_reads(self, call_seq: int, columns: tuple[Column, ...]) -> None:
        if not self._tables.knows(columns):
            # Not interrupted: the statement has run, and whoever gives it up now must hear so.
            with trio.CancelScope(shield=True, deadline=trio.current_time() + NOTE_READS_S):
                await self._tables.learn(columns)
        self.reads += [Read(call_seq, *found) for found in self._tables.list_reads(columns)]

    def _failed(self, error: Exception) -> HostCallFailed:
        failed = describe_failure(error)
        if isinstance(error, ConnectionLost) or (self._connection is not None and self._connection.is_closed):
            # The transaction is gone with its connection, and a new one would not be the same.
            self._lost = failed
            if self._open is not None:
                self.lost_transaction = failed
            self._changes.undo_all()
            self._end(None, committed=False)
        return failed


class _Line:
    """Statements of concurrent tasks wait here for the one before. A `trio.Lock`, but for the turn of the event loop
    that it takes when nobody is before: each statement would pay for it, and waits for its answer anyway."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = trio.Lock()

    async def __aenter__(self) -> None:
        try:
            self._lock.acquire_nowait()
        except trio.WouldBlock:
            await self._lock.acquire()
            return
        try:
            # What was given up before it began is not sent.
            await trio.lowlevel.checkpoint_if_cancelled()
        except BaseException:
            self._lock.release()
            raise

    async def __aexit__(self, *_failure: object) -> None:
        self._lock.release()


_XID = "select pg_catalog.pg_current_xact_id_if_assigned()"
_SNAPSHOT = """
select pg_catalog.concat(pg_catalog.pg_current_snapshot(), ' ', pg_catalog.to_char(
    pg_catalog.timezone('UTC', pg_catalog.now()), 'YYYY-MM-DD"T"HH24:MI:SS.US"+00"'))
"""
"""The transaction's snapshot and its time, as one word each."""


@attrs.frozen
class Doubt:
    """A transaction whose COMMIT was sent and not answered."""

    transaction: Transaction
    """With its id, if it wrote anything."""
    statements: SetAside


def _count_own_rows(sql: str, tag: str) -> int | None:
    """Return how many rows a statement changed by itself; None when it may hold other statements."""
    if tag.startswith("SELECT"):
        return None
    last = tag.rpartition(" ")[2]
    return int(last) if last.isdigit() and get_first_word(sql) in _PLAIN_CHANGES else None
