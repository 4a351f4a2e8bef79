"""Running recorded executions again at once, as they ran then, in a database of their own.

What a replay of one execution can't show is a mistake that takes two. Here all executions of a window
run again together: each in its sandbox, its outbound calls answered from its record and anything
else stopped, its statements performed in an ephemeral database (`flux.store.ephemeral`) that begins
with the rows that the earliest of them saw. Beginnings and commits come in the recorded order as far
as it mattered (`flux.interleave`), so on the code of then the same rows come out, wrong ones included.

What comes out is laid beside what came out then: statuses, the final rows of every table that is
there, and a question of the user's for what must not be (``check``). Whether rows are *right* nobody
else can tell. With ``in_turn`` the same is done once more one after another: what is wrong then too
is no race.

An attempt that the database gives up is made again, as in production.
"""

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime

import attrs
import trio

from flux.calls import read_statement
from flux.deployment import Deployment
from flux.errors import FluxError, OperatorError
from flux.execution import Execution, Transaction
from flux.interleave import (
    Claim,
    Gate,
    Interleaving,
    Kind,
    Part,
    Run,
    Snapshot,
    View,
    count_at_once,
    find_earliest,
)
from flux.matching_session import READING_WORDS, Fidelity
from flux.project import Migration
from flux.sql_rules import get_first_word
from flux.sql_world import find_names, locks_rows, rewrite
from flux.store.ephemeral import Original, open_place
from flux.store.postgres import Connection, DatabaseError, Pool, quote_identifier
from flux.store.queries import QUERIES
from flux.store.world import World, WorldPlan, build_world
from flux.supervisor.execute import ATTEMPTS, Backing, may_run_again
from flux.supervisor.interleave_attempt import Attempt
from flux.supervisor.interleave_database import READ_COMMITTED, Conductor, GatedDatabase
from flux.supervisor.replay import (
    WORKING_TREE,
    UnreplayableError,
    check_whole,
    read_value,
)
from flux.supervisor.replay_redaction import RulesInForce
from flux.supervisor.runnable import Runnable
from flux.supervisor.shelf import Shelf
from flux.supervisor.world_build import check_log
from flux.verdict import Judgement, Replayed, judge

EXECUTIONS_MAX = 1000
AT_ONCE_MAX = 64
"""Executions that ran at one moment: each has a worker and a connection while it waits for its turn."""
RUN_S_MAX = 600.0
"""How long all of them together may take."""
TRIES_MAX = 4
"""Databases that are made for one replay, each with the rows that the one before lacked."""
ROWS_COMPARED_MAX = 100_000
FINDINGS_MAX = 100
"""Rows of a check, and differences of a table, that are told."""


class CheckFailedError(OperatorError):
    """The question for what must not be can't be asked."""

    code = "FLX316"


@attrs.frozen
class RunResult:
    """One request and what became of it."""

    original: Execution
    """The last of its recorded attempts."""
    replayed: Replayed
    """The last attempt of the replay."""
    attempts: int
    judgement: Judgement


@attrs.frozen
class TableRows:
    """The final rows of a table, then and in the replay."""

    table: str
    recorded: int
    replayed: int
    only_recorded: tuple[str, ...]
    """Rows as JSON that the replay does not end with."""
    only_replayed: tuple[str, ...]

    @property
    def is_same(self) -> bool:
        """Whether they are the same rows."""
        return not self.only_recorded and not self.only_replayed


@attrs.frozen
class Together:
    """All of the runs, once through."""

    runs: tuple[RunResult, ...]
    rows: tuple[TableRows, ...]
    """Of each table that is there, in alphabetical order."""
    found: tuple[str, ...] | None
    """Rows of the check, as JSON; None without one."""
    held_back: int
    """How often somebody was held back."""
    relaxed: tuple[str, ...]
    """Gates that were opened, a sentence each."""

    @property
    def fidelity(self) -> Fidelity:
        """Statements that were asked as recorded, and those of them that were answered as recorded."""
        each = [run.replayed.fidelity for run in self.runs]
        return Fidelity(sum(one.matched for one in each), sum(one.equal for one in each))


@attrs.frozen
class Interleaved:
    """What a replay of executions at once shows."""

    on: str | None
    deployment: Deployment
    is_recorded: bool
    """It is the code that made all of the records."""
    gated: Together
    """As recorded."""
    in_turn: Together | None
    """One after another, if that was asked for."""
    found_then: tuple[str, ...] | None
    """Rows of the check in what was recorded."""
    transactions: int
    """Of the records."""
    notes: tuple[str, ...]


class Interleaver:
    """Replays executions of one tenant at once."""

    def __init__(self, shelf: Shelf, backing: Backing, schema: str) -> None:
        """``schema`` is where the tenant's tables are."""
        self._shelf = shelf
        self._backing = backing
        self._schema = schema
        self._lock = trio.Lock()
        """One at a time: each takes as many workers and connections as ran at one moment then."""

    async def interleave(
        self,
        executions: Sequence[Execution],
        on: str | None,
        *,
        check: str | None = None,
        in_turn: bool = False,
    ) -> Interleaved:
        """Run ``executions`` again together, on the code that ``on`` names as for `flux.supervisor.replay.Replayer`.

        Each has its committed mutations too. ``check`` is a query of what must not be: it shall find no row.
        """
        chains = _chain(executions)
        runs = [_read_run(chain) for chain in chains]
        earliest = find_earliest(runs)
        if earliest is None:
            raise UnreplayableError(
                "none of them has asked the database, which is where executions meet",
                remedy="replay them without --interleave",
            )
        at_once = count_at_once([(run.began_ns, run.ended_ns) for run in runs])
        if at_once > AT_ONCE_MAX:
            raise UnreplayableError(
                f"{at_once} of them ran at one moment, and {AT_ONCE_MAX} is the most",
                remedy="a narrower window",
            )
        sha = None if on in (None, WORKING_TREE) else await self._shelf.find_commit(str(on))
        async with self._lock, contextlib.AsyncExitStack() as stack:
            if on is None:
                live = await stack.enter_async_context(self._shelf.borrow_recorded(chains[0][0]))
            elif sha is None:
                live = await stack.enter_async_context(self._shelf.borrow_working_tree())
            else:
                live = await stack.enter_async_context(self._shelf.borrow_commit(sha))
            deployment = (
                live.deployment if sha is None else attrs.evolve(live.deployment, sha=sha, dirty=False)
            )
            rules = [await self._shelf.find_rules(chain[0]) for chain in chains]
            group = _Group(self._backing, self._schema, chains, runs, earliest, live.runnables, rules, check)
            migrations = () if on is None else await self._list_new_migrations(sha)
            try:
                with trio.fail_after(RUN_S_MAX):
                    gated, turns, found_then, notes = await group.run(migrations, in_turn=in_turn)
            except trio.TooSlowError:
                raise UnreplayableError(
                    f"they took longer than {RUN_S_MAX:g} s together", remedy="a narrower window"
                ) from None
        return Interleaved(
            on,
            deployment,
            all(execution.deployment == live.deployment.id for execution in executions),
            gated,
            turns,
            found_then,
            sum(len(run.parts) for run in runs),
            notes,
        )

    async def _list_new_migrations(self, sha: str | None) -> tuple[Migration, ...]:
        migrations = await self._shelf.list_migrations(sha)
        async with self._backing.owner.acquire() as connection:
            rows = await connection.fetch(QUERIES.list_migrations_applied, self._backing.tenant)
        applied = {row["name"] for row in rows}
        return tuple(migration for migration in migrations if migration.path not in applied)


class _Group:
    """The executions of one replay, and the databases that it takes."""

    def __init__(
        self,
        backing: Backing,
        schema: str,
        chains: Sequence[Sequence[Execution]],
        runs: Sequence[Run],
        earliest: Snapshot,
        runnables: Mapping[str, Runnable],
        rules: Sequence[RulesInForce],
        check: str | None,
    ) -> None:
        """``rules`` are beside ``chains``."""
        self._backing = backing
        self._schema = schema
        self._chains = chains
        self._runs = runs
        self._earliest = earliest
        self._rules = rules
        self._check = check
        self._runnables: list[Runnable] = []
        for chain in chains:
            runnable = runnables.get(chain[0].function)
            if runnable is None:
                raise UnreplayableError(
                    f"there is no function {chain[0].function} in the code to replay {chain[0].name} on",
                    remedy="flux function list shows what there is",
                )
            self._runnables.append(runnable)
        self._told: set[str] = set()
        """What of the secrets was not as it was."""
        self._rows_then: Mapping[str, Counter[str]] = {}
        self._values = [read_value(chain[0].trigger) for chain in chains]

    async def run(
        self, migrations: Sequence[Migration], *, in_turn: bool
    ) -> tuple[Together, Together | None, tuple[str, ...] | None, tuple[str, ...]]:
        """Return what came out: as recorded, one after another, and the check's rows of then; and notes."""
        guest_role = self._backing.guests.options.user
        names = self._find_names()
        async with open_place(self._backing.owner, self._schema, guest_role) as place:
            for _ in range(TRIES_MAX):
                async with (
                    self._open_world(str(self._earliest)) as (world_connection, world),
                    self._backing.owner.acquire() as production,
                ):
                    if self._check is not None:
                        # Before anything is made: one that can't be asked is told at once.
                        await _ask(world_connection, world.rewrite(self._check))
                    original = await place.make(production, world_connection, names, migrations)
                notes = (*world.notes, *original.notes)
                async with self._open_world(str(self._end_snapshot())) as (end, world):
                    found_then = await self._find_then(end, world, original)
                needed: set[str] = set()
                count = len(self._runs)
                async with place.open_run(original, count, is_last=not in_turn) as (guests, owner):
                    gated = await self._run_all(Interleaving(self._runs), original, guests, owner, needed)
                turns = None
                if in_turn and not needed:
                    async with place.open_run(original, count, is_last=True) as (guests, owner):
                        turns = await self._run_all(_line_up(self._runs), original, guests, owner, needed)
                if not needed:
                    notes = (*notes, *await self._list_others(), *sorted(self._told))
                    return gated, turns, found_then, notes
                await place.drop(original)
                names |= needed
        raise UnreplayableError(
            f"its statements name more tables at each of {TRIES_MAX} tries: {', '.join(sorted(needed))}",
            remedy="replay without --interleave, one execution at a time",
        )

    def _find_names(self) -> frozenset[str]:
        """Return every name that a recorded statement has, and every table that was written."""
        names: set[str] = set()
        for chain in self._chains:
            for execution in chain:
                names |= {mutation.table for mutation in execution.mutations}
                for call in execution.calls:
                    statement = read_statement(call)
                    if statement is not None:
                        names |= find_names(statement.sql)
        return frozenset(names)

    def _end_snapshot(self) -> Snapshot:
        """Return a snapshot that sees all that they did, and as little else as can be told."""
        views = [view for run in self._runs for part in run.parts for view in part.views]
        latest = max((view.most for view in views), key=lambda snapshot: snapshot.size)
        xids = [part.xid for run in self._runs for part in run.parts if part.xid is not None]
        return Snapshot(max([latest.xmax, *(xid + 1 for xid in xids)]), latest.in_progress - set(xids))

    @contextlib.asynccontextmanager
    async def _open_world(self, snapshot: str) -> AsyncIterator[tuple[Connection, World]]:
        """Give a connection of the guests' on which the tables are as ``snapshot`` saw them."""
        pool = self._backing.guests
        connection = await pool.take()
        try:
            began = datetime.fromtimestamp(self._chains[0][0].started_at_ns / 1e9, UTC)
            plan = WorldPlan(self._schema, snapshot, began, frozenset())
            world = await build_world(connection, self._backing.token, plan)
            await check_log(self._backing.owner, snapshot)
            yield connection, world
        finally:
            connection.is_dirty = True
            with trio.CancelScope(shield=True):
                await pool.give_back(connection)

    async def _find_then(
        self, connection: Connection, world: World, original: Original
    ) -> tuple[str, ...] | None:
        """Ask the check of what was recorded, and take down the final rows of then."""
        found = None
        if self._check is not None:
            found = await _ask(connection, world.rewrite(self._check))
        self._rows_then = {
            table: await _list_rows(connection, quote_identifier(table), table)
            for table in sorted(original.filled & world.tables)
        }
        return found

    async def _list_others(self) -> tuple[str, ...]:
        """Return a note on each table that somebody else changed between the first and the last of them."""
        xids = [str(part.xid) for run in self._runs for part in run.parts if part.xid is not None]
        async with self._backing.owner.acquire() as connection:
            rows = await connection.fetch(
                QUERIES.list_changes_of_others,
                self._schema,
                str(self._earliest),
                str(self._end_snapshot()),
                xids,
            )
        return tuple(
            f"{row['table_name']} was changed meanwhile by {row['transactions']} "
            f"transaction{'s' * (row['transactions'] != 1)} of others, which are not replayed"
            for row in rows
        )

    # Once through

    async def _run_all(
        self, gates: Interleaving, original: Original, guests: Pool, owner: Pool, needed: set[str]
    ) -> Together:
        conductor = Conductor(gates, owner)
        results: dict[int, RunResult] = {}

        async def run(number: int) -> None:
            await conductor.wait(gates.start(number))
            results[number] = await self._run_one(number, conductor, original, guests, needed)
            conductor.left(number)

        for number in range(len(self._chains)):
            conductor.joined(number)
        async with trio.open_nursery() as watching:
            watching.start_soon(conductor.watch)
            try:
                async with trio.open_nursery() as running:
                    for number in range(len(self._chains)):
                        running.start_soon(run, number)
            except* FluxError as group:
                raise _first(group) from None
            watching.cancel_scope.cancel()
        found = None
        async with guests.acquire() as connection:
            await connection.begin("repeatable read", read_only=True)
            rows = [
                await self._compare(connection, table)
                for table in sorted(original.filled & self._rows_then.keys())
            ]
            if self._check is not None:
                found = await _ask(connection, rewrite(self._check, self._schema, frozenset()))
        return Together(
            tuple(results[number] for number in sorted(results)),
            tuple(rows),
            found,
            conductor.held_back,
            tuple(self._describe_relaxed(gate) for gate, _ in gates.relaxed),
        )

    async def _run_one(
        self, number: int, conductor: Conductor, original: Original, guests: Pool, needed: set[str]
    ) -> RunResult:
        chain, runnable = self._chains[number], self._runnables[number]
        attempts = ATTEMPTS + runnable.function.retries
        for attempt in range(1, attempts + 1):
            recorded = chain[min(attempt, len(chain)) - 1]
            database = GatedDatabase(
                guests,
                conductor,
                original,
                self._schema,
                number,
                attempt,
                recorded,
                is_recorded=attempt <= len(chain),
                atomic=runnable.function.atomic,
                isolation=runnable.isolation,
            )
            again = Attempt(
                self._backing, runnable, self._values[number], recorded, database, self._rules[number]
            )
            try:
                replayed = await again.run()
            finally:
                with trio.CancelScope(shield=True):
                    await database.close()
            needed |= database.needed
            if attempt == attempts or not may_run_again(replayed.execution):
                break
            conductor.attempt_ended(number, attempt)
        is_recorded = recorded.deployment == runnable.deployment.id
        # What others write otherwise is read otherwise: on changed code that says nothing about the database.
        judged = replayed if is_recorded else attrs.evolve(replayed, fidelity=Fidelity())
        self._told |= set(again.secrets.tell())
        return RunResult(chain[-1], replayed, attempt, again.secrets.explain(judge(again.redact(chain[-1]), judged)))

    async def _compare(self, connection: Connection, table: str) -> TableRows:
        then = self._rows_then[table]
        now = await _list_rows(
            connection, f"{quote_identifier(self._schema)}.{quote_identifier(table)}", table
        )
        return TableRows(
            table,
            then.total(),
            now.total(),
            tuple(sorted((then - now).elements())[:FINDINGS_MAX]),
            tuple(sorted((now - then).elements())[:FINDINGS_MAX]),
        )

    def _describe_relaxed(self, gate: Gate) -> str:
        name = self._chains[gate.run][0].name
        if gate.kind is Kind.COMMIT:
            return f"{name} committed before others had begun that began before its end then"
        return f"{name} went on before others had ended whose rows it saw then"


def _chain(executions: Sequence[Execution]) -> list[list[Execution]]:
    """Return each request's attempts in their order, requests in the order in which they began."""
    if not executions:
        raise UnreplayableError("there are none in the window", remedy="a wider window, or another filter")
    if len(executions) > EXECUTIONS_MAX:
        raise UnreplayableError(
            f"there are {len(executions):,} executions, and {EXECUTIONS_MAX:,} is the most",
            remedy="a narrower window",
        )
    by_id = {execution.id: execution for execution in executions}
    chains: dict[object, list[Execution]] = {}
    for execution in sorted(by_id.values(), key=lambda one: (one.started_at_ns, one.id)):
        check_whole(execution)
        first = execution
        while first.attempt > 1 and not first.trigger.job:  # Attempts at a job have its pusher for parent.
            if first.parent not in by_id:
                raise UnreplayableError(
                    f"{execution.name} is attempt {execution.attempt} of a request whose first is not in the window",
                    remedy="a wider window",
                )
            first = by_id[first.parent]
        chains.setdefault(first.id, []).append(execution)
    return list(chains.values())


def _read_run(chain: Sequence[Execution]) -> Run:
    """Return what the record has of a request's transactions."""
    parts = []
    for attempt, execution in enumerate(chain, 1):
        # Recorded in the order in which they ended.
        ordered = sorted(execution.transactions, key=lambda one: one.begun_by)
        for transaction in ordered:
            snapshot = Snapshot.parse(transaction.snapshot)
            views = [View((attempt, transaction.begun_by), snapshot, snapshot)]
            if transaction.isolation == READ_COMMITTED:
                views += [
                    View(
                        (attempt, statement.call),
                        Snapshot.parse(statement.before),
                        Snapshot.parse(statement.after or statement.before),
                    )
                    for statement in transaction.statements
                    if statement.before
                ]
            claims = _list_claims(execution, attempt, transaction.begun_by, ordered)
            ended_ns = execution.started_at_ns + transaction.ended_ns
            parts.append(Part(tuple(views), transaction.xid, transaction.committed, claims, ended_ns))
    last = chain[-1]
    return Run(tuple(parts), chain[0].started_at_ns, last.started_at_ns + last.elapsed_ns)


def _list_claims(
    execution: Execution, attempt: int, begun_by: int, transactions: Sequence[Transaction]
) -> tuple[Claim, ...]:
    """Return the statements of one of an execution's transactions that may have waited for a lock."""
    end = min((one.begun_by for one in transactions if one.begun_by > begun_by), default=None)
    # Of one that failed, the snapshot behind it is not known.
    bracketed = {one.call for transaction in transactions for one in transaction.statements if one.after}
    claims = []
    for call in execution.calls:
        seq, statement = call.request.seq, read_statement(call)
        if statement is None or call.result is None or seq < begun_by or (end is not None and seq >= end):
            continue
        if get_first_word(statement.sql) not in READING_WORDS or locks_rows(statement.sql):
            asked_ns = execution.started_at_ns + call.started_ns
            answered_ns = asked_ns + call.result.elapsed_ns
            failed, is_bracketed = call.result.error is not None, seq in bracketed
            claims.append(Claim((attempt, seq), asked_ns, answered_ns, failed, is_bracketed))
    return tuple(claims)


def _line_up(runs: Sequence[Run]) -> Interleaving:
    """Return gates that let one run begin when the one before it has ended, and nothing else."""
    return Interleaving([Run((), 2 * number, 2 * number + 1) for number in range(len(runs))])


async def _list_rows(connection: Connection, place: str, table: str) -> Counter[str]:
    """Return the rows of a table as JSON; raise where they can't be compared."""
    try:
        rows = await connection.fetch(
            f"select pg_catalog.to_json(flux__r)::pg_catalog.text as image from {place} flux__r "
            f"limit {ROWS_COMPARED_MAX + 1}"
        )
    except DatabaseError as error:
        raise UnreplayableError(
            f"the rows of {table} can't be compared: {error.report.message}", remedy="flux doctor"
        ) from error
    if len(rows) > ROWS_COMPARED_MAX:
        raise UnreplayableError(
            f"{table} has more than {ROWS_COMPARED_MAX:,} rows, too many to compare those of then and of now",
            remedy="replay without --interleave, one execution at a time",
        )
    return Counter(row["image"] for row in rows)


async def _ask(connection: Connection, check: str) -> tuple[str, ...]:
    """Return the first rows of a check."""
    asked = check.rstrip().rstrip(";")
    try:
        rows = await connection.fetch(
            f"select pg_catalog.to_json(flux__r)::pg_catalog.text as image from ({asked}\n) flux__r "
            f"limit {FINDINGS_MAX}"
        )
    except DatabaseError as error:
        raise CheckFailedError(
            f"the check can't be asked: {error.report.message}",
            remedy="--check takes one SELECT of what must not be, and any row is a finding",
        ) from error
    return tuple(sorted(row["image"] for row in rows))


def _first(group: BaseExceptionGroup[FluxError]) -> FluxError:
    one = group.exceptions[0]
    return _first(one) if isinstance(one, BaseExceptionGroup) else one
