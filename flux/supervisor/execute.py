"""One execution from its trigger to its record.

`Executor.execute` gives a function its worker, its database and its door, lets
`drive` run it, and settles what it leaves: the transaction is committed or rolled
back, and the record is stored. The order at the end is what the record's truth
rests on::

    the guest has ended, nothing of it runs any more
    the whole record is in the journal
    written something?  record and COMMIT in the guest's own transaction
    otherwise           transaction ended first, record through the batcher
    the record is marked stored in the journal, when the database has it
    only then the caller gets the outcome

So whenever the process dies, the journal and the database together say what
happened (`flux.supervisor.recovery`). Nothing here decides what is replayed or why
something failed; it waits, and hands values on.
"""

import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Protocol

import attrs
import trio

from flux import ids
from flux.errors import BrokenInvariantError, FluxError, OperatorError
from flux.execution import (
    Execution,
    Interrupted,
    Outcome,
    Raised,
    Returned,
    Transaction,
    Trigger,
)
from flux.failure import Kind, find_failure
from flux.hostcall import Effect
from flux.hostcalls import all_kinds
from flux.hostcalls.base import CallContext, Clock, Entropy, HostCallFailed
from flux.hostcalls.clock import SteadyClock
from flux.hostcalls.http import HttpClient
from flux.hostcalls.secret import TenantSecrets
from flux.limits import format_duration, format_size
from flux.mutation import Mutation
from flux.redact import Redactor
from flux.session import RecordSession
from flux.store.postgres import CommitUnknown, Connection, Pool, sending_s
from flux.store.queries import QUERIES
from flux.store.records import Record, RecordWriter, commit_parameters, make_record
from flux.supervisor.changes import Changes
from flux.supervisor.database import ExecutionDatabase
from flux.supervisor.drive import Driven, drive
from flux.supervisor.in_flight import InFlight
from flux.supervisor.job_attempt import JobAttempt
from flux.supervisor.journal import Journal, JournalError
from flux.supervisor.journal_scribe import JournalScribe
from flux.supervisor.other_functions import NOBODY, Cause, OtherFunctions
from flux.supervisor.perform import HostTable
from flux.supervisor.recovery_store import DatabaseStore
from flux.supervisor.runnable import Runnable
from flux.supervisor.spool import Spool, SpoolFolder
from flux.supervisor.start_document import make_document
from flux.supervisor.statements import commit_failed, describe_failure
from flux.supervisor.streams import ExecutionStreams
from flux.supervisor.tables import TableCatalog
from flux.supervisor.undone import TELL_S, Undone, ask_once, insist
from flux.trace_context import read_trace

ATTEMPTS = 3
"""Runs of one request that is given up by the database each time, the first one included."""
RETRY_PAUSE_S = 0.02
"""Before the second attempt; it doubles with each further one, and a random part is added."""
SETTLE_S = 60.0
"""How long ending a transaction may take once the function has ended, cancelled or not."""
INTERRUPTED_SETTLE_S = 5.0
FIND_OUT_S = 30.0
"""How long we ask the database what became of a COMMIT that it did not answer."""
ROOM_S = 10.0
"""How long a request waits while too many records are not stored yet. Then it is refused."""


class StoreStalledError(OperatorError):
    """The database takes no records and too many wait, so no function is run."""

    code = "FLX722"


@attrs.frozen
class Executed:
    """An execution that has ended."""

    execution: Execution
    """As it is recorded, so redacted."""
    outcome: Outcome
    """What the caller gets, unredacted."""
    stored: bool
    """The database has its record; otherwise the journal has it, and the writer is on it."""
    stream: Spool | None = attrs.field(default=None, eq=False)
    """The answer's body, where the function has streamed it: the caller's to send, and to close."""


class Audience(Protocol):
    """Who hears of executions that have ended."""

    def done(self, execution: Execution, *, stored: bool) -> None:
        """It has ended; ``stored`` as in `Executed`."""

    def stored(self, execution_id: uuid.UUID) -> None:
        """The database has the record of one that was not stored at its end."""


@attrs.frozen
class Backing:
    """What all executions of one tenant share."""

    tenant: str
    guests: Pool
    """Connections of the tenant's own role."""
    owner: Pool
    """Connections of Flux's role."""
    writer: RecordWriter
    journal: Journal
    http: HttpClient
    spools: SpoolFolder
    """Where bodies lie that are too large to hold."""
    secrets: TenantSecrets
    tables: TableCatalog
    clock: Clock
    entropy: Entropy
    token: bytes
    """Lets us write records on a guest's connection; its digest is in ``flux.supervisor``."""
    notice_secret: str
    """Authenticates the capture triggers' NOTICEs."""
    give_back: Callable[[Pool, Connection], None]
    """Takes a connection back to its pool without making anybody wait: cleaning a session takes a round trip."""


class Executor:
    """Runs functions and keeps their records."""

    def __init__(
        self, backing: Backing, audience: Audience, report: Callable[[BaseException], None] = lambda _error: None
    ) -> None:
        """``report`` hears of failures of Flux itself; the execution that met one is on record all the same."""
        self._backing = backing
        self._audience = audience
        self._report = report
        self.in_flight = InFlight()
        """Executions in progress."""

    async def execute(
        self,
        runnable: Runnable,
        trigger: Trigger,
        value: object,
        cause: Cause = NOBODY,
        upload: Spool | None = None,
    ) -> Executed:
        """Run the function, again if the database gave it up for others' sake; return the last attempt.

        ``value`` is the function's input, ``upload`` the request's body where it was too large to hold. Raises
        `JournalError` or `StoreStalledError` when nothing can be recorded: then nothing ran.
        """
        attempts = ATTEMPTS + runnable.function.retries
        with self.in_flight.counted():
            await self._wait_room()
            executed: Executed | None = None
            for attempt in range(1, attempts + 1):
                run = self._make_run(runnable, trigger, cause, attempt)
                try:
                    run.begin()
                except JournalError:
                    if executed is None:
                        raise
                    return executed  # What can't be recorded is not run again; of the attempt before there is a record.
                executed = await run.run(value, upload)
                if attempt == attempts or not may_run_again(executed.execution):
                    return executed
                cause = attrs.evolve(cause, parent=executed.execution.id)
                jitter = 1 + int.from_bytes(self._backing.entropy.take(2)) / 65536
                await trio.sleep(RETRY_PAUSE_S * 2 ** (attempt - 1) * jitter)
            raise AssertionError("the last attempt returns")

    async def execute_job(self, runnable: Runnable, trigger: Trigger, value: object, job: JobAttempt) -> Executed:
        """Run one attempt at a job, which says itself what becomes of it; otherwise as `execute`."""
        with self.in_flight.counted():
            await self._wait_room()
            cause = Cause(parent=job.claimed.parent)
            run = self._make_run(runnable, trigger, cause, job.claimed.attempt, job)
            run.begin()
            return await run.run(value)

    def _make_run(
        self, runnable: Runnable, trigger: Trigger, cause: Cause, attempt: int, job: JobAttempt | None = None
    ) -> "_Run":
        return _Run(self, self._backing, self._audience, runnable, trigger, cause, attempt, job, self._report)

    def refuse(self, runnable: Runnable, trigger: Trigger, refusal: Raised) -> Executed:
        """Record a request that was answered without running the function: its input can't be read."""
        run = self._make_run(runnable, trigger, NOBODY, 1)
        run.begin()
        return run.refuse(refusal)

    async def _wait_room(self) -> None:
        if self._backing.writer.has_room:
            return
        try:
            with trio.fail_after(ROOM_S):
                await self._backing.writer.wait_room()
        except trio.TooSlowError:
            counts = self._backing.writer.counts
            raise StoreStalledError(
                f"{counts.waiting:,} records ({counts.waiting_bytes:,} bytes) wait for the database: "
                f"{counts.last_error or 'it takes them too slowly'}",
                remedy="see whether the database runs and has room; requests are taken again once it takes records",
            ) from None


def may_run_again(execution: Execution) -> bool:
    """Whether the database gave the execution up for another's sake, and nothing of it has left Flux."""
    failure = find_failure(execution)
    if failure is None or failure.kind not in (Kind.SERIALIZATION_FAILURE, Kind.DEADLOCK):
        return False
    if any(transaction.committed and transaction.xid is not None for transaction in execution.transactions):
        return False
    kinds = all_kinds()
    return not any(
        kinds[call.request.name].effect is Effect.LEAVES for call in execution.calls if call.request.name in kinds
    )


async def _list_committed(execution_id: uuid.UUID, xid: int, over: Pool, _most_s: float) -> frozenset[int]:
    # The server has no limit of its own for it: it only reads, and nobody waits for what it holds.
    return await DatabaseStore(over).list_committed(execution_id, [xid])


class _Run:
    """One attempt."""

    def __init__(
        self,
        executor: Executor,
        backing: Backing,
        audience: Audience,
        runnable: Runnable,
        trigger: Trigger,
        cause: Cause,
        attempt: int,
        job: JobAttempt | None,
        report: Callable[[BaseException], None],
    ) -> None:
        self._executor = executor
        self._cause = cause
        self._job = job
        self._backing = backing
        self._audience = audience
        self._report = report
        self._runnable = runnable
        self._trigger = trigger
        self._clock = SteadyClock(backing.clock)
        started_at_ns, self._began_ns = self._clock.now_ns(), time.perf_counter_ns()
        execution_id = ids.make_execution_id(started_at_ns // 1_000_000, backing.entropy.take(ids.ENTROPY_BYTES))
        seed = backing.entropy.take(32)
        self._secrets = backing.secrets.of_execution(seed)
        self._redactor = Redactor(runnable.rules, seed, self._secrets.stand_ins())
        self._head = Execution(
            id=execution_id,
            tenant=backing.tenant,
            function=runnable.function.name,
            deployment=runnable.deployment.id,
            sha=runnable.deployment.sha,
            dirty=runnable.deployment.dirty,
            trigger=self._redactor.trigger(trigger),
            started_at_ns=started_at_ns,
            seed=seed,
            level=runnable.sandbox.level,
            limits=runnable.limits,
            parent=cause.parent,
            attempt=attempt,
        )
        # Of what is on record, so that spans that are made of the record are those that others were told of.
        self._trace = read_trace(execution_id, self._head.trigger.correlation)
        self._scribe = JournalScribe(backing.journal, execution_id)
        self._session = RecordSession()
        self._changes = Changes(backing.notice_secret, self._redactor, self._scribe.mutated)
        self._database = ExecutionDatabase(
            backing.guests,
            self._changes,
            backing.tables,
            atomic=runnable.function.atomic,
            isolation=runnable.isolation,
            mark=lambda snapshot, isolation: (backing.token, execution_id, snapshot, isolation),
            now_ns=self._clock.now_ns,
            elapsed_ns=self._elapsed_ns,
            tell=self._scribe.transaction,
        )
        self._undone = Undone(self._head, self._database, backing.owner, backing.writer)
        self._streams: ExecutionStreams[Spool] | None = None
        """None where nobody waits for an answer in pieces."""
        self._driven: Driven | None = None
        self._served_before: int | None = None
        """See `Execution.served_before`: known once there is a worker."""
        self._missing: list[str] = []
        """What is missing from the record, a sentence each."""
        self._must_flush = False
        """The journal could not take the record."""

    def begin(self) -> None:
        """Put it into the journal. What raises `JournalError` here has not begun."""
        self._backing.journal.begin(self._head)

    async def run(self, value: object, upload: Spool | None = None) -> Executed:
        """Run the function, settle its transaction and record it; once it has begun."""
        limits = self._runnable.bounds.limits
        if self._trigger.kind == "http":
            self._streams = ExecutionStreams(self._backing.spools.open, limits, self._head.function, upload)
        try:
            outcome: Outcome | None = None
            try:
                outcome = await self._drive(value)
            finally:
                if outcome is None:
                    # Cancelled (by itself or in a group, as nurseries have it): the server is being stopped, and
                    # this took longer than the drain allows.
                    with trio.CancelScope(shield=True):
                        interrupted = Interrupted(self._cause.interruption)
                        await self._give_up(interrupted, INTERRUPTED_SETTLE_S)
            # What was begun is ended, whoever loses patience meanwhile. Each part of it has a limit of its own.
            with trio.CancelScope(shield=True):
                executed = await self._settle(outcome)
            if self._must_flush:
                await self._backing.writer.flush()
            is_streamed = isinstance(executed.outcome, Returned) and executed.outcome.streamed is not None
            if is_streamed and self._streams is not None:
                executed = attrs.evolve(executed, stream=self._streams.take_answer())
            return executed
        finally:
            if self._streams is not None:
                self._streams.close()
            connection = self._database.take_connection()
            if connection is not None:
                self._backing.give_back(self._backing.guests, connection)

    def refuse(self, refusal: Raised) -> Executed:
        """Record an execution whose function never ran."""
        return self._submit(refusal)

    def _elapsed_ns(self) -> int:
        return self._clock.now_ns() - self._head.started_at_ns

    # Running

    async def _drive(self, value: object) -> Outcome:
        runnable, sandbox = self._runnable, self._runnable.sandbox
        worker = None
        try:
            # Waiting for a worker is not the function's own time, but it must not last for ever either.
            with trio.move_on_after(runnable.bounds.limits.timeout_s):
                worker = await sandbox.acquire()
            if worker is None:
                limit = format_duration(runnable.bounds.limits.timeout_s)
                return Raised("NoWorker", f"no worker was free within {limit}", status=503, code="OVERLOADED")
            self._served_before = worker.served
            with HostTable(self._make_context()) as host:
                self._driven = await drive(
                    worker,
                    make_document(self._head, self._trigger, runnable.bounds.limits, runnable.chain, value),
                    self._session,
                    host,
                    runnable.bounds,
                    redactor=self._redactor,
                    scribe=self._scribe,
                    keep_worker=runnable.warm > 1,
                    began_ns=self._began_ns,
                    is_document_on_record=self._head.trigger == self._trigger,
                )
            assert self._driven.outcome is not None, "a recording is never stopped"
            return self._driven.outcome
        except FluxError as error:
            # Not the function's fault: a host call that crashed, a journal that is full, a sandbox that can't fork.
            if isinstance(error, BrokenInvariantError):
                self._report(error)
            return Raised(type(error).__name__, f"{error.code} {error.message}", status=503, code="OVERLOADED")
        except Exception as crash:
            self._report(crash)
            message = f"Flux itself failed: {type(crash).__name__}: {crash}"
            return Raised("FluxFailure", message, status=503, code="OVERLOADED")
        finally:
            if worker is not None:
                reusable = self._driven is not None and self._driven.reusable
                await sandbox.release(worker, reusable=reusable)

    def _make_context(self) -> CallContext:
        backing, runnable = self._backing, self._runnable
        return CallContext(
            tenant=backing.tenant,
            function=runnable.function.name,
            grants=runnable.grants,
            limits=runnable.bounds.limits,
            clock=self._clock,
            entropy=backing.entropy,
            database=self._database,
            http=backing.http,
            secrets=self._secrets,
            streams=self._streams,
            functions=OtherFunctions(
                runnable.siblings, self._run_sibling, self._head, self._cause, self._database, backing.token,
                backing.secrets, self._clock, backing.entropy, self._trace,
            ),
            trace=self._trace,
            propagation=runnable.propagation,
        )

    async def _run_sibling(
        self, name: str, trigger: Trigger, value: object, cause: Cause
    ) -> tuple[Execution, Outcome]:
        executed = await self._executor.execute(self._runnable.siblings[name], trigger, value, cause)
        return executed.execution, executed.outcome

    # Settling

    async def _settle(self, outcome: Outcome) -> Executed:
        database, is_atomic = self._database, self._runnable.function.atomic
        if is_atomic and isinstance(outcome, Returned) and database.lost_transaction is not None:
            # The function has caught that, as it may; but what it did before is gone, and nobody shall be told
            # that it is done.
            error = database.lost_transaction.error
            outcome = commit_failed(error.code, f"{error.message}; its transaction went with it")
        if not isinstance(outcome, Returned) or not database.is_open or not is_atomic:
            # Not atomic and open: a block that the function never closed. What it did not commit it does not get.
            return await self._give_up(outcome, FIND_OUT_S)
        execution: Execution | None = None
        try:
            # The limit is for what precedes the packet of record and COMMIT: that has one of its own (`COMMIT_S_MAX`),
            # and is not cancelled before. Nothing that comes behind it can be cancelled.
            with trio.fail_after(SETTLE_S) as patience:
                if not await database.finish_reads():
                    execution, record = await self._prepare_commit(outcome, patience)
                    parameters = commit_parameters(record, self._backing.token)
                    if self._job is None:
                        await database.commit_with(QUERIES.commit_record, parameters)
                    else:
                        await database.commit_with(QUERIES.commit_job_record, (*parameters, *self._job.parameters))
        except CommitUnknown as unknown:
            assert execution is not None, "a COMMIT without the record is a failure like any other"
            return await self._find_out(execution, outcome, unknown)
        except HostCallFailed as failed:
            error = failed.error
            failure = commit_failed(error.code, error.message)
        except trio.TooSlowError:
            failure = Raised("CommitFailed", "the database did not answer in time", status=503)
        except FluxError as refused:
            # Without the journal a crash now would leave a commit without its record: so it is not made.
            failure = Raised("CommitFailed", f"{refused.code} {refused.message}", status=503, code="OVERLOADED")
        else:
            if execution is None:  # It has written nothing.
                return await self._end(outcome, FIND_OUT_S)
            return await self._announce_committed(execution, outcome)
        return await self._give_up(failure, FIND_OUT_S)

    async def _prepare_commit(self, outcome: Outcome, patience: trio.CancelScope) -> tuple[Execution, Record]:
        """Return execution and record as they go into the transaction, once all is safe that must be before that.

        ``patience`` is prolonged by what the record's blobs may be on their way.
        """
        execution = self._make_execution(outcome, self._database.describe_commit())
        record = make_record(execution)
        if record.blobs:
            patience.deadline += sending_s(record.size_bytes)
            try:
                await self._backing.writer.write_blobs(record.blobs)
            except FluxError as error:
                raise describe_failure(error) from error
        self._backing.journal.ended(execution.id.bytes, execution, in_transaction=True)
        return execution, record

    async def _announce_committed(self, execution: Execution, outcome: Outcome) -> Executed:
        """The transaction is committed, its record with it: from here on, nothing that fails changes that."""
        await self._undone.tell_later(execution)
        self._backing.journal.stored(execution.id.bytes)
        return self._announce(execution, outcome, stored=True)

    async def _give_up(self, outcome: Outcome, patience_s: float) -> Executed:
        """Roll back what is open and record the execution, whose transactions have then all ended."""
        await self._database.roll_back()
        await self._settle_doubts(patience_s)
        undone: list[Mutation] | None = None
        if self._database.unsettled:
            with trio.move_on_after(min(TELL_S, patience_s)):
                undone = await ask_once(self._undone.find)
            if undone is None:
                self._undone.add_later()
        self._changes.rolled_back += undone or ()
        return await self._end(outcome, patience_s)

    async def _settle_doubts(self, patience_s: float) -> None:
        """Ask what became of the transactions whose COMMIT was not answered, where an execution makes several."""
        for doubt in tuple(self._database.doubts):
            xid = doubt.transaction.xid
            committed: bool | None = False  # Without an id it wrote nothing.
            if xid is not None:
                ask = partial(_list_committed, self._head.id, xid)
                with trio.move_on_after(patience_s):
                    committed = None
                    committed = xid in await insist(self._backing.owner, ask, is_doubtful=True)
            if committed is None:
                self._missing.append(
                    f"whether transaction {xid} was committed: the connection broke during COMMIT, and the database "
                    "could not be asked since"
                )
            self._database.settle_doubt(doubt, committed=committed)

    async def _find_out(self, execution: Execution, outcome: Outcome, unknown: CommitUnknown) -> Executed:
        """COMMIT was not answered. The record went with it, so the database knows what became of both.

        It is asked by writing the record of a failure under the same id: that waits for the other transaction
        if it is still on its way, and is refused if it took place. When it does not answer in time either, the
        caller hears that nobody knows; the writer goes on, and what it finds in the end is true.
        """
        database = self._database
        doubt = database.set_doubt()
        failed = commit_failed(unknown.code, f"{unknown.message}; it did not take place")
        undone = (*doubt.statements.sure, *doubt.statements.doubtful)
        record_of_failure = attrs.evolve(
            self._make_execution(failed),
            mutations=(*self._changes.rolled_back, *(row for statement in undone for row in statement.mutations)),
            transactions=(*database.transactions, doubt.transaction),
        )
        record = make_record(record_of_failure)
        size_bytes = record.size_bytes
        did_not_take_place: bool | None = None
        with trio.move_on_after(FIND_OUT_S + sending_s(size_bytes)):
            ask = partial(self._backing.writer.insert, record)
            did_not_take_place = await insist(self._backing.owner, ask, is_doubtful=True, size_bytes=size_bytes)
        if did_not_take_place is not None:  # What is done with the answer has no part in the time for it.
            database.settle_doubt(doubt, committed=not did_not_take_place)
            if not did_not_take_place:
                return await self._announce_committed(execution, outcome)
            self._backing.journal.stored(execution.id.bytes)
            return self._announce(record_of_failure, failed, stored=True)
        unsettled = Raised("CommitUnknown", unknown.message, status=503, code="OVERLOADED")
        known = attrs.evolve(record_of_failure, outcome=unsettled, mutations=())
        executed = self._announce(known, unsettled, stored=False)
        self._backing.writer.submit(record, self._on_stored)
        return executed

    async def _end(self, outcome: Outcome, patience_s: float) -> Executed:
        """Record an execution whose transactions have all ended; of a job's attempt, with what becomes of the job."""
        if self._job is None:
            return self._submit(outcome)
        execution = self._make_execution(outcome)
        record = make_record(execution)
        # The server is being stopped: no time for dead lines, nor for slow ones. The journal keeps the record.
        is_hurried = patience_s < FIND_OUT_S
        settled: bool | None = None
        try:
            # As of a transaction that may not come to its end: without its record, the attempt has not happened.
            self._backing.journal.ended(execution.id.bytes, execution, in_transaction=True)
            with trio.move_on_after(patience_s + (0.0 if is_hurried else sending_s(record.size_bytes))):
                ask = partial(self._job.store, execution, record)
                settled = await insist(
                    self._backing.owner, ask, is_doubtful=is_hurried, size_bytes=record.size_bytes
                )
        except JournalError:
            settled = None  # What it says comes with the record, which `_submit` makes.
        if settled:
            self._backing.journal.stored(execution.id.bytes)
            return self._announce(execution, outcome, stored=True)
        if isinstance(outcome, Returned):
            why = "its job's end could not be stored" if settled is None else "another server had taken its job over"
            outcome = Raised("CommitFailed", f"{why}; the job runs again", status=503, code="OVERLOADED")
        return self._submit(outcome)

    def _submit(self, outcome: Outcome) -> Executed:
        """Record an execution whose transactions have all ended."""
        backing = self._backing
        execution = self._make_execution(outcome)
        try:
            backing.journal.ended(execution.id.bytes, execution, in_transaction=False)
        except JournalError as error:
            # The record still goes to the database, and `run` waits until it is there before anybody is answered.
            self._must_flush = True
            execution = attrs.evolve(
                execution, completeness=(*execution.completeness, f"the journal could not be written: {error.code}")
            )

        executed = self._announce(execution, outcome, stored=False)  # First: `stored` may come at any moment.
        backing.writer.submit(make_record(execution), self._on_stored)
        return executed

    def _on_stored(self) -> None:
        self._backing.journal.stored(self._head.id.bytes)
        self._audience.stored(self._head.id)

    def _announce(self, execution: Execution, outcome: Outcome, *, stored: bool) -> Executed:
        self._audience.done(execution, stored=stored)
        return Executed(execution, outcome, stored)

    def _make_execution(self, outcome: Outcome, committing: Transaction | None = None) -> Execution:
        """Return the record as it is now."""
        database, changes, driven = self._database, self._changes, self._driven
        outcome = self._redactor.outcome(outcome)
        missing = list(self._missing)
        if driven is not None and driven.log_bytes_dropped:
            limit = format_size(self._runnable.bounds.limits.log_bytes_max)
            missing.append(f"{driven.log_bytes_dropped:,} bytes of log lines beyond the limit of {limit}")
        missing += [
            f"call {call} changed more rows than their images are kept of, should they be rolled back"
            for call in sorted(changes.cut_calls)
        ]
        return attrs.evolve(
            self._head,
            outcome=outcome,
            elapsed_ns=self._elapsed_ns(),
            calls=self._session.calls,
            logs=self._session.logs,
            mutations=tuple(changes.rolled_back),
            mutation_count=changes.row_count,
            ordinals=tuple(changes.ordinals_with_open() if committing else changes.ordinals),
            transactions=(*database.transactions, *([committing] if committing else [])),
            reads=tuple(database.reads),
            completeness=tuple(missing),
            fuel=None if driven is None else driven.fuel,
            user=b"" if driven is None else driven.user,
            served_before=self._served_before,
        )
