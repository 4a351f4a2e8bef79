"""A replay's database: `flux.store.world` with a guest's statements in it.

`WorldDatabase` offers what an execution's database offers, in one transaction that is never
committed: an execution's own transactions and the blocks in them are savepoints.

Where the recording saw more than one snapshot (`flux.supervisor.world_timeline`), the world moves: before a
statement that was recorded, to what that statement saw; before a new one not at all, so that it sees what the
recorded one before it saw. Which of two snapshots a statement had is not always known. Then its recorded answer
tells, as it tells in which order rows came that nobody asked an order of.

A statement that writes a table which is not copied yet can't be helped from inside (Postgres
makes no tables in a READ ONLY transaction), so the run is given up with `needed`, and made
again in a world that has it.
"""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping, Sequence
from collections.abc import Set as AbstractSet

import attrs
import trio

from flux.hostcall import HostCall, HostCallError
from flux.hostcalls.base import HostCallFailed, QueryResult
from flux.mutation import Mutation
from flux.sql_world import find_names, find_targets, locks_rows
from flux.store.postgres import Connection, DatabaseError, Isolation, Pool
from flux.store.world import NEEDS_TABLE, REFUSED, WorldError, WorldPlan
from flux.supervisor.statements import check_depth, check_isolation, describe_failure, inward, make_answer
from flux.supervisor.world_build import Built, build, read_changes
from flux.supervisor.world_changes import WorldChanges
from flux.supervisor.world_oracle import agrees, find_refusal, in_recorded_order
from flux.supervisor.world_overtaken import Claims
from flux.supervisor.world_timeline import Moment, RowState, Snapshot, Span, Timeline
from flux.supervisor.world_waits import Location, Way, list_ways

READ_ONLY = "25006"
"""SQLSTATE of a statement that would write to what is not a world's."""
TRIES_MAX = 8
"""Worlds that are built for one replay, each with the tables that the one before lacked."""

_SET_CALL = "select pg_catalog.set_config('flux.call', $1, false)"
FindCounterpart = Callable[[int], HostCall | None]
"""Gives the recorded call that a call of the replay, by its number, is asked like."""


@contextlib.asynccontextmanager
async def open_world(
    pool: Pool,
    token: bytes,
    plan: WorldPlan,
    timeline: Timeline | None = None,
    *,
    atomic: bool = True,
    isolation: str = "",
) -> AsyncIterator["WorldDatabase"]:
    """Give the world of ``plan`` on a connection of the guests'; raise `WorldError` when it can't be built.

    ``timeline`` is the recording's: without, nothing moves. ``atomic`` and ``isolation`` are those of the code that
    is to run; without the latter, the recording's.

    At the end the connection is cleaned as after a guest: nothing of the world is left to others.
    """
    connection = await pool.take()
    try:
        span = None if timeline is None else Span.of([timeline])
        built = await build(connection, token, plan, span)
        if timeline is not None:
            timeline.take_changes(read_changes(built.changes, timeline))
        world = WorldDatabase(connection, built, timeline, atomic=atomic, isolation=isolation)
        await world.start()
        yield world
    finally:
        connection.is_dirty = True
        with trio.CancelScope(shield=True):
            await pool.give_back(connection)


@attrs.frozen
class _Place:
    """Where a world is: what a savepoint takes back to."""

    here: Snapshot
    """What the tables are as of."""
    transaction: int
    """Which recorded transaction's time it is."""
    done: frozenset[int]
    """Recorded calls whose counterparts have run."""
    aside: frozenset[str] = frozenset()
    """Tables of which rows are set aside."""


class WorldDatabase:
    """See the module, and `flux.hostcalls.base.Database`."""

    def __init__(
        self,
        connection: Connection,
        built: Built,
        timeline: Timeline | None,
        *,
        atomic: bool,
        isolation: str,
    ) -> None:
        self._connection = connection
        self.since = built.plan.snapshot
        """What it was built as of; it may have moved on."""
        self._world = built.world
        self._mover = built.mover
        self._changes = WorldChanges(connection, built.world)
        self._copied = built.copied
        self._timeline = timeline
        self._atomic = atomic
        recorded = timeline.transactions[0].isolation if timeline is not None else Isolation.REPEATABLE_READ
        self._isolation = isolation or recorded
        self._level: str | None = None
        """Isolation of the transaction in progress."""
        self._has_snapshot = atomic
        """The transaction in progress sees what it is to see, until its end unless it is READ COMMITTED."""
        self._place = _Place(Snapshot.parse(built.plan.snapshot), 0, frozenset())
        self._places: list[_Place] = []
        """For each open block, where the world was when it began."""
        self._wrote_otherwise = False
        """Something was written that the recording has no counterpart of."""
        self._moved_over: set[str] = set()
        """Tables whose rows were moved after that."""
        self.is_comparable = True
        """Statements were shown what their counterparts saw: their answers must be the recorded ones."""
        self._find_counterpart: FindCounterpart = lambda _seq: None
        self._lock = trio.Lock()
        self._begun_by = 0
        """The call that began the transaction in progress."""
        self._call_seq = 0
        """The call that is performed now, or was last."""
        self.needed: set[str] = set()
        """Tables that the run would write and the world has no copy of."""
        self.needed_whole: set[str] = set()
        """Tables of which the run needs more than the copied rows."""
        self.needed_aside: set[str] = set()
        """Copied tables whose rows are to be set aside, and that have no place for them."""
        self._in_the_way: set[str] = set()
        """Tables of which rows are in the way of others that had been overtaken then."""
        self.trespass: str | None = None
        """A statement that would write past the world, which no other world could help."""
        self.refusal: str | None = None
        """Why a statement could not be answered as it was then."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What is not as it was, a sentence each."""
        notes = list(self._world.notes)
        if self._timeline is not None and self._timeline.has_unknown:
            notes.append(
                "what each statement saw is not on record, so all see what the first of its transaction saw"
            )
        if not self.is_comparable:
            notes.append(
                "it sees one snapshot where the recording saw several, so answers may differ for that reason"
            )
        notes += [
            f"rows of {table} that others changed meanwhile are as they left them, whatever the replay wrote there"
            for table in sorted(self._moved_over)
        ]
        notes += [
            f"rows of {table} that others had changed by then are in the way, or can be changed, as they were not then"
            for table in sorted(self._in_the_way)
        ]
        return tuple(notes)

    def follow(self, find_counterpart: FindCounterpart) -> None:
        """Say where to find the recorded call that a statement is asked like."""
        self._find_counterpart = find_counterpart

    async def start(self, inserted: Mapping[str, Sequence[Mapping[str, object]]] | None = None) -> None:
        """Show what the recording saw first, and the time of then. Raises `WorldError`.

        ``inserted`` is for a world that was built for several recordings: what this one inserted, by table.
        """
        timeline = self._timeline
        if timeline is None:
            return
        try:
            await self._set_rows(list(timeline.find_moved(self._place.here, timeline.first, frozenset())))
            if inserted is not None:
                await self._mover.set_sequences(inserted)
            await self._set_time(0)
        except HostCallFailed as failed:
            raise WorldError(
                f"it can't be shown as this execution saw it: {failed.error.message}",
                remedy="replay on the code that made the record, which needs no database",
            ) from failed
        self._place = attrs.evolve(self._place, here=timeline.first)

    async def run(self, sql: str, arguments: list[object], call_seq: int) -> QueryResult:
        """See `flux.hostcalls.base.Database.run`."""
        async with self._lock:
            self._call_seq = call_seq
            refusal = self._world.find_refusal(sql)
            if refusal is not None:
                self.refusal = refusal
                raise HostCallFailed("DatabaseError", refusal, code="FLX313")
            self.needed |= self._world.find_needed(sql)
            self.needed_whole |= self._world.find_needed_whole(sql)
            if self.needed or self.needed_whole:
                raise HostCallFailed(
                    "DatabaseError", "the world is built again with the table that this writes"
                )
            call = self._find_counterpart(call_seq)
            if self._atomic or self._places:
                self._level = self._level or self._isolation
                return await self._answer(sql, arguments, call)
            # A transaction of its own.
            await self._open_block()
            self._level, self._has_snapshot = self._isolation, False
            try:
                result = await self._answer(sql, arguments, call)
                await self._check_deferred()
            except BaseException as error:
                if isinstance(error, Exception):
                    await self._undo_block()
                raise
            await self._close_block()
            return result

    async def begin(self, isolation: str | None, call_seq: int) -> int:
        """See `flux.hostcalls.base.Database.begin`."""
        async with self._lock:
            self._call_seq = call_seq
            if self._level is None:
                self._level = isolation or self._isolation
            else:
                check_isolation(isolation, self._level)
            is_transaction = not self._atomic and not self._places
            await self._open_block()
            if is_transaction:
                self._has_snapshot = False
                moment = self._find_moment(self._find_counterpart(call_seq))
                if moment is not None:
                    await self._move(moment.before, moment)
            return len(self._places)

    async def commit(self, depth: int, call_seq: int) -> None:  # noqa: ARG002 - the protocol's
        """See `flux.hostcalls.base.Database.commit`."""
        async with self._lock:
            check_depth("commit", depth, len(self._places))
            if not self._atomic and depth == 1:
                try:
                    await self._check_deferred()
                except HostCallFailed:
                    await self._undo_block()
                    raise
            await self._close_block()

    async def rollback(self, depth: int, call_seq: int) -> None:  # noqa: ARG002 - the protocol's
        """See `flux.hostcalls.base.Database.rollback`."""
        async with self._lock:
            check_depth("roll back", depth, len(self._places))
            await self._undo_block()

    async def finish(self) -> HostCallError | None:
        """Check what is left to COMMIT, as it would be there; return what it would fail with."""
        if not self._atomic:
            return None  # Each transaction has been checked at its own end.
        try:
            await self._check_deferred()
        except HostCallFailed as failed:
            return failed.error
        return None

    async def list_changes(self) -> tuple[Mutation, ...] | None:
        """Return the rows that were changed and not taken back, as committed; None when they are beyond asking."""
        return await self._changes.list_all()

    # Statements

    async def _answer(self, sql: str, arguments: list[object], call: HostCall | None) -> QueryResult:
        """Run a statement where its counterpart ran, or where the world is."""
        given = sql if call is None or self._timeline is None else self._timeline.give_draws(call, sql)
        text = self._world.rewrite(given)
        moment = self._find_moment(call)
        if call is None and find_targets(sql):
            self._wrote_otherwise = True
        if call is None or self._timeline is None:
            return await self._ask(sql, text, arguments, call)
        if moment is None:
            return await self._ask_beside_others(self._timeline.claims, sql, text, arguments, call)
        candidates = list(self._timeline.list_candidates(moment))
        if len(candidates) > 1:

            async def ask() -> QueryResult:
                return await self._ask(sql, text, arguments, call)

            outcome = await self._try(list_ways(self._timeline, call, candidates, self._place.done), moment, call, ask)
            if outcome is not None:
                return outcome
        # There is no choice, or nothing tells: the likeliest.
        await self._move(candidates[0], moment, call.request.seq)
        return await self._ask_beside_others(self._timeline.claims, sql, text, arguments, call)

    async def _try(
        self,
        ways: Generator[Way, frozenset[Location], None],
        moment: Moment,
        call: HostCall,
        ask: Callable[[], Awaitable[QueryResult]],
    ) -> QueryResult | None:
        """Run a statement in each way in which it may have run, until it comes out as recorded; None: it never does.

        It has come out so when its answer is the recorded one, and the rows are those that it changed. Where only the
        former can be had, that has to do.
        """
        assert self._timeline is not None, "ways are a timeline's"
        place, written = self._place, self._timeline.find_written(call.request.seq)
        second: Way | None = None
        way: Way | None = next(ways)
        while way is not None:
            await self._execute("savepoint flux_try")
            outcome: QueryResult | HostCallFailed
            touched: frozenset[Location] = frozenset()
            is_second = way is second
            changed: AbstractSet[Location] = written
            try:
                await self._move(way.snapshot, moment, call.request.seq)
                await self._set_rows([way.contended[row].now for row in way.waited])
                places = await self._mover.locate_rows(way.contended)
                outcome = await ask()
                after = await self._mover.locate_rows(way.contended)
                touched = frozenset(row for row in way.contended if places.get(row) != after.get(row))
                changed = await self._changes.list_rows(self._call_seq)
            except Exception as error:
                outcome = describe_failure(error)
            if agrees(call, outcome):
                if isinstance(outcome, HostCallFailed):
                    raise outcome  # It has ended what it ran in, as it did then.
                if changed == written or is_second:
                    # What it waited for and then did not want is, to whoever comes next, as the snapshot has it.
                    await self._set_rows([way.contended[row].then for row in way.waited - touched])
                    await self._execute("release savepoint flux_try")
                    return outcome
                second = second or way
            await self._execute("rollback to savepoint flux_try")
            await self._execute("release savepoint flux_try")
            self._place = place
            if is_second:
                return None
            try:
                way = ways.send(touched)
            except StopIteration:
                way = second
        return None

    async def _ask(self, sql: str, text: str, arguments: list[object], call: HostCall | None) -> QueryResult:
        try:
            if self._world.may_write(sql):
                await self._connection.fetch_value(_SET_CALL, str(self._call_seq))
            aside = self._place.aside if locks_rows(sql) else frozenset()
            unlocked = await self._mover.locate_aside(aside)
            result = await self._connection.run(text, [inward(argument) for argument in arguments])
            if await self._mover.locate_aside(aside) != unlocked:
                await self._mover.refuse_lock()
        except Exception as error:
            if isinstance(error, DatabaseError):
                self._note_bound(error, sql)
            raise describe_failure(error) from error
        finally:
            if call is not None:
                self._place = attrs.evolve(self._place, done=self._place.done | {call.request.seq})
        answer = make_answer(result)
        return answer if call is None else in_recorded_order(call, answer)

    # Moving

    def _find_moment(self, call: HostCall | None) -> Moment | None:
        """Return what a statement is to see as ``call`` saw it; None where it sees what the one before it saw."""
        if call is None or self._timeline is None:
            return None
        moment = self._timeline.moments.get(call.request.seq)
        if moment is not None and self._has_snapshot and self._level != Isolation.READ_COMMITTED:
            self.is_comparable &= moment.before == self._place.here and moment.after is None
            return None
        return moment

    async def _move(self, there: Snapshot, moment: Moment, call_seq: int | None = None) -> None:
        """Show the tables as of ``there``; for a statement, also the rows that it found when it had waited for them."""
        timeline, place = self._timeline, self._place
        assert timeline is not None, "a moment is a timeline's"
        if place.aside:
            # Only the transaction that it was done for could see them.
            try:
                await self._mover.drop_aside(place.aside)
            except Exception as error:
                raise describe_failure(error) from error
            place = attrs.evolve(place, aside=frozenset())
        states = list(timeline.find_moved(place.here, there, place.done))
        if call_seq is not None:
            states += timeline.find_relocked(call_seq, there, place.done)
        await self._set_rows(states)
        if place.transaction != moment.transaction:
            await self._set_time(moment.transaction)
        self._place = attrs.evolve(place, here=there, transaction=moment.transaction)
        self._has_snapshot = True

    async def _ask_beside_others(
        self, claims: Claims, sql: str, text: str, arguments: list[object], call: HostCall
    ) -> QueryResult:
        """Run a statement where its counterpart ran, among rows that others had changed and that it saw unchanged."""
        if self._level == Isolation.READ_COMMITTED:
            return await self._ask(sql, text, arguments, call)
        seq = call.request.seq
        for table, images in claims.find_images(seq).items():
            await self._set_aside(table, await self._find_in_the_way(claims, seq, table, images))
        refusal = find_refusal(call, sql, arguments)
        if refusal is None:
            return await self._ask(sql, text, arguments, call)
        # It failed for a row that it was to change or to lock. Where it failed for what it had read (SERIALIZABLE), no
        # row that it touches need be anybody else's; then it does not fail here, and is told apart.
        await self._execute("savepoint flux_try")
        place = self._place
        lockable = sorted(find_names(sql) & self._world.settable - self._world.large) if locks_rows(sql) else []
        try:
            await self._mover.set_refusal(refusal)
            before = [await self._mover.list_locked(table) for table in lockable]
            await self._ask(sql, text, arguments, call)
            touched = set(await self._changes.list_rows(self._call_seq))
            for table, known in zip(lockable, before, strict=True):
                locked = await self._mover.list_locked(table)
                found = (self._changes.make_key(table, locked[where]) for where in locked.keys() - known.keys())
                touched |= {(table, key) for key in found if key is not None}
        except Exception as error:
            raise describe_failure(error) from error
        await self._execute("rollback to savepoint flux_try")
        await self._execute("release savepoint flux_try")
        self._place = place
        for table in sorted({table for table, _ in touched}):
            keys = [key for name, key in sorted(touched) if name == table]
            keys = [key for key in keys if claims.is_overtaken(seq, table, key, at_commit=False)]
            await self._set_aside(table, await self._leave_to_others(table, dict(zip(keys, keys, strict=True))))
        await self._mover.set_refusal(refusal)
        result = await self._ask(sql, text, arguments, call)
        await self._mover.set_refusal("")
        return result

    async def _set_aside(self, table: str, rows: Sequence[str]) -> None:
        """Keep rows to be seen and no more: others had changed them by then."""
        if not rows:
            return
        if table in self._world.aside:
            try:
                await self._mover.set_aside(table, rows)
            except Exception as error:
                raise describe_failure(error) from error
            self._place = attrs.evolve(self._place, aside=self._place.aside | {table})
        elif table in self._world.settable:
            self.needed_aside.add(table)
            raise HostCallFailed("DatabaseError", "the world is built again with a place for rows of then")
        else:
            self._in_the_way.add(table)

    async def _find_in_the_way(self, claims: Claims, call: int, table: str, images: Sequence[str]) -> list[str]:
        """Return the rows that others had changed, and that are in the way of ``images``, which were written then."""
        try:
            conflicts = await self._mover.find_conflicts(table, images)
        except Exception as error:
            raise describe_failure(error) from error
        found = {
            key: row["image"]
            for row in conflicts
            if (key := self._changes.make_key(table, row["image"])) is not None
            and claims.is_overtaken(call, table, key, at_commit=row["is_deferrable"])
        }
        return await self._leave_to_others(table, found)

    async def _leave_to_others(self, table: str, rows: Mapping[str, str]) -> list[str]:
        """Return those of ``rows``, by their keys, that somebody has changed since and that the replay has not.

        What nobody has changed to this day was nobody else's then; what the replay made or changed itself is its own.
        """
        if not rows:
            return []
        try:
            changed = await self._mover.list_changed_by_anybody(table, list(rows))
            own = {key for name, key in await self._changes.list_rows(self._begun_by) if name == table}
        except Exception as error:
            raise describe_failure(error) from error
        return [row for key, row in rows.items() if key in changed - own]

    async def _set_rows(self, states: list[RowState]) -> None:
        if self._wrote_otherwise:
            self._moved_over |= {state.table for state in states} & self._copied
        try:
            await self._mover.set_rows([(state.table, state.key, state.image) for state in states])
        except Exception as error:
            raise describe_failure(error) from error

    async def _set_time(self, transaction: int) -> None:
        assert self._timeline is not None
        if now := self._timeline.transactions[transaction].now:
            await self._connection.fetch_value(
                "select pg_catalog.set_config('flux.world_now', $1, true)", now
            )

    # Blocks

    async def _open_block(self) -> None:
        if not self._atomic and not self._places:
            self._begun_by = self._call_seq
        await self._execute(f"savepoint flux_savepoint_{len(self._places) + 1}")
        self._places.append(self._place)

    async def _close_block(self) -> None:
        await self._execute(f"release savepoint flux_savepoint_{len(self._places)}")
        self._places.pop()
        self._forget_transaction()

    async def _undo_block(self) -> None:
        name = f"flux_savepoint_{len(self._places)}"
        await self._execute(f"rollback to savepoint {name}")
        await self._execute(f"release savepoint {name}")
        self._place = self._places.pop()
        self._forget_transaction()

    def _forget_transaction(self) -> None:
        if not self._atomic and not self._places:
            self._level = None

    async def _check_deferred(self) -> None:
        try:
            await self._mover.check_deferred()
        except Exception as error:
            raise describe_failure(error) from error

    def _note_bound(self, error: DatabaseError, sql: str) -> None:
        """Note that a statement came to where the world ends, and why."""
        sqlstate, table = error.report.sqlstate, error.report.table
        if sqlstate == READ_ONLY:
            self.trespass = sql
        elif sqlstate == NEEDS_TABLE and table is not None:
            self.needed.add(table)
        elif sqlstate == REFUSED:
            self.refusal = error.report.message

    async def _execute(self, sql: str) -> None:
        try:
            await self._connection.execute(sql)
        except Exception as error:
            raise describe_failure(error) from error
