"""What is old goes, and what is to be kept stays: asked of the tables by another client."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import attrs
import pytest
import trio

from flux.execution import Execution, Transaction
from flux.store import incidents, reading, row_diff, row_states
from flux.store.incidents import pin_incident
from flux.store.moments import Moment, MomentOutOfReachError, Resolved, add_mark, resolve
from flux.store.postgres import Connection, Pool
from flux.store.queries import QUERIES
from flux.store.records import RecordStore
from flux.store.retention import SLACK, ClocksApartError, Pruned, PruningElsewhereError, Retention, prune
from flux.store.row_states import find_state
from flux.supervisor import replay
from flux.supervisor.world import WorldDatabase, open_world
from flux.verdict import Replayed
from tests.conftest import Database
from tests.stored_executions import make_execution, raised
from tests.world_harness import TOKEN, ask, open_guests
from tests.world_harness import plan as plan_of

NOW = datetime.now(UTC)
KEEP = Retention(30, 90)


@pytest.fixture
async def pool(database: Database) -> AsyncIterator[Pool]:
    pool = database.pool()
    yield pool
    await pool.aclose()


async def add_old(pool: Pool, database: Database, days: int, *, failed: bool = False, now: datetime = NOW) -> str:
    """Store an execution of so many days ago, in its day's partition; return its name."""
    at = now - timedelta(days=days)
    for parent in ("execution", "mutation"):
        database.psql(f"select flux.ensure_partition('{parent}', '{at.date()}')")
    execution = make_execution(raised() if failed else None, started_at_ns=int(at.timestamp() * 1e9))
    execution = attrs.evolve(execution, transactions=(Transaction("repeatable read", "3:3:", None, True, 1),))
    await RecordStore(pool).add(execution)
    return execution.name


def names(database: Database) -> set[str]:
    return set(database.psql("select name from flux.execution").split())


def days(database: Database, table: str) -> int:
    return int(database.psql(f"select count(*) from pg_inherits where inhparent = 'flux.{table}'::regclass"))


async def test_what_succeeded_goes_first_failures_later_and_pinned_windows_never(
    pool: Pool, database: Database
) -> None:
    old, error, older_error, pinned, fresh = [
        await add_old(pool, database, age, failed=failed)
        for age, failed in ((40, False), (41, True), (100, True), (120, False), (2, False))
    ]
    at = NOW - timedelta(days=120)
    assert await pin_incident(pool, "default", "kept", at - timedelta(minutes=5), at + timedelta(minutes=5))
    before = names(database), days(database, "execution")
    wanted = await prune(pool, KEEP, NOW, dry_run=True)
    assert (names(database), days(database, "execution")) == before, "a dry run takes nothing"
    done = await prune(pool, KEEP, NOW)
    assert done == wanted
    assert (done.executions, done.kept_errors, done.kept_pinned) == (2, 1, 1)
    assert names(database) == {error, pinned, fresh} and not {old, older_error} & names(database)
    assert days(database, "execution") == before[1] - 2, "days without a record are dropped"
    assert done.log_days == 0, "the log is kept from the pinned window on"
    again = await prune(pool, KEEP, NOW)
    assert (again.executions, again.log_days) == (0, 0)


async def test_a_day_with_few_failures_gives_back_the_disk_of_its_successes(pool: Pool, database: Database) -> None:
    error = await add_old(pool, database, 40, failed=True)
    for _ in range(30):
        await add_old(pool, database, 40)
    day = f"flux.execution_p{NOW - timedelta(days=40):%Y%m%d}"
    before = database.psql(f"select pg_relation_filenode('{day}'), pg_get_expr(relpartbound, oid) from pg_class "
                           f"where oid = '{day}'::regclass")  # fmt: skip
    async with pool.acquire() as reader, reader.transaction():
        # Whoever reads it for long is waited for, but not for ever: then the day goes the next time.
        await reader.fetch(f"select from {day}")
        held = await prune(pool, KEEP, NOW)
        assert (held.executions, held.waiting, len(names(database))) == (0, 1, 31)
    done = await prune(pool, KEEP, NOW)
    assert (done.executions, done.kept_errors, done.waiting) == (30, 1, 0)
    assert names(database) == {error}
    after = database.psql(f"select pg_relation_filenode('{day}'), pg_get_expr(relpartbound, oid) from pg_class "
                          f"where oid = '{day}'::regclass")  # fmt: skip
    assert before.split("|")[0] != after.split("|")[0] and before.split("|")[1] == after.split("|")[1]
    indexes = "select count(*) from pg_index where indrelid = '{}'::regclass and indisvalid"
    assert database.psql(indexes.format(day)) == database.psql(indexes.format("flux.execution"))
    assert database.psql("select count(*) from flux.execution_default") == "0"
    late = await add_old(pool, database, 40, failed=True)
    assert (await reading.get_execution(pool, (await reading.find_summary(pool, error)).id))[1].name == error
    assert names(database) == {error, late}, "the day takes records as before"
    (again,) = [await prune(pool, KEEP, NOW)]
    assert again.executions == 0 and database.psql(f"select pg_relation_filenode('{day}')") == after.split("|")[0]


async def test_of_a_day_that_stays_for_the_most_part_the_rest_is_deleted(pool: Pool, database: Database) -> None:
    errors = {await add_old(pool, database, 40, failed=True) for _ in range(3)}
    await add_old(pool, database, 40)
    day = f"flux.execution_p{NOW - timedelta(days=40):%Y%m%d}"
    node = database.psql(f"select pg_relation_filenode('{day}')")
    assert (await prune(pool, KEEP, NOW)).executions == 1
    assert names(database) == errors and database.psql(f"select pg_relation_filenode('{day}')") == node


async def test_behind_a_long_reader_no_other_day_is_tried(pool: Pool, database: Database) -> None:
    await add_old(pool, database, 40)
    # The first has no records.
    database.psql(f"select flux.ensure_partition('execution', '{(NOW - timedelta(days=41)).date()}')")
    async with pool.acquire() as reader, reader.transaction():
        await reader.fetch(f"select from flux.execution_p{NOW - timedelta(days=41):%Y%m%d}")
        held = await prune(pool, KEEP, NOW)
    assert (held.executions, held.waiting, len(names(database))) == (0, 1, 1)
    assert (await prune(pool, KEEP, NOW)).executions == 1


async def test_a_day_takes_its_place_without_being_read(database: Database) -> None:
    """Everybody waits while it does. Made then, its indexes and its bounds would each read all of it."""
    pool = database.pool(1)
    await add_old(pool, database, 40, failed=True)
    for _ in range(3):
        await add_old(pool, database, 40)
    await prune(pool, KEEP, NOW)
    async with pool.acquire() as connection:
        await connection.fetch("select pg_stat_force_next_flush()")
    await pool.aclose()
    day = f"'flux.execution_p{NOW - timedelta(days=40):%Y%m%d}'::regclass"
    seen = database.psql(f"select pg_stat_get_tuples_inserted({day}), pg_stat_get_tuples_returned({day})")
    assert seen == "1|0"
    checks = database.psql(f"select count(*) from pg_constraint where conrelid = {day} and contype = 'c'")
    assert checks == "0"


async def test_a_window_that_is_pinned_meanwhile_is_kept(pool: Pool, database: Database) -> None:
    name = await add_old(pool, database, 40)
    log = days(database, "mutation")
    at = NOW - timedelta(days=40)
    done: list[Pruned] = []

    async def take_out() -> None:
        done.append(await prune(pool, KEEP, NOW))

    waits = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
    async with trio.open_nursery() as nursery, pool.acquire() as pinning, pinning.transaction():
        # As `pin_incident` does, with a pause: by then it has been decided what is old.
        await pinning.fetch(QUERIES.share_pins)
        nursery.start_soon(take_out)
        while not done and database.psql(waits) == "0":  # noqa: ASYNC110 - the server tells nobody
            await trio.sleep(0.01)
        await pinning.fetch(QUERIES.pin_incident, "default", "kept", at - SLACK, at + SLACK)
    assert names(database) == {name} and done[0].executions == 0
    assert (done[0].log_days, days(database, "mutation")) == (0, log)


async def test_whoever_pins_waits_for_a_day_that_goes_and_not_for_ever(
    pool: Pool, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incidents, "PRUNING_WAIT", "50ms")
    async with pool.acquire() as pruning, pruning.transaction():
        await pruning.fetch(QUERIES.lock_pins)
        with pytest.raises(PruningElsewhereError, match="is not pinned"):
            await pin_incident(pool, "default", "kept", NOW - SLACK, NOW)
    assert database.psql("select count(*) from flux.incident") == "0"
    pinned = await pin_incident(pool, "default", "kept", NOW - SLACK, NOW)
    assert pinned is not None and pinned.log_since is None


async def test_a_clock_that_is_ahead_takes_nothing_out(pool: Pool, database: Database) -> None:
    now = datetime.now(UTC)  # A midnight since this file was read would make it old by the database's clock too.
    name = await add_old(pool, database, 30, now=now)
    with pytest.raises(ClocksApartError, match="nothing is taken out"):
        await prune(pool, KEEP, now + timedelta(days=365))
    # Less is no reason to stop: what is old is so by both clocks.
    assert (await prune(pool, KEEP, now + timedelta(hours=23, minutes=50))).executions == 0
    assert names(database) == {name}


async def test_two_do_not_prune_at_the_same_time(pool: Pool, database: Database) -> None:
    lock = "select pg_advisory_{}(hashtextextended('flux.prune', 0))"
    async with pool.acquire() as other:
        await other.fetch(lock.format("lock"))
        with pytest.raises(PruningElsewhereError):
            await prune(pool, KEEP, NOW)
        await other.fetch(lock.format("unlock"))
    await prune(pool, KEEP, NOW)
    await prune(pool, KEEP, NOW)


async def read_plan(pool: Pool, snapshot: str) -> str:
    found = await find_state(pool, "public", "users", "1", Moment(snapshot=snapshot), 1)
    return found.rows[0].values["plan"]


async def test_what_lies_before_the_log_is_refused(pool: Pool, database: Database) -> None:
    database.psql(
        "create table public.users (id int primary key, plan text); insert into users values (1, 'a')"
    )
    first = await add_old(pool, database, 40)
    snapshot = database.psql("select pg_current_snapshot()")
    database.psql("update users set plan = 'b'")
    # As if that had been forty days ago.
    database.psql("update flux.mutation set at = at - interval '40 days'")
    error = await add_old(pool, database, 41, failed=True)
    assert (await find_state(pool, "public", "users", "1", Moment(snapshot=snapshot), 1)).rows[0].values[
        "plan"
    ] == '"a"'
    done = await prune(pool, KEEP, NOW)
    assert (done.log_days, done.log_rows) == (2, 2)
    with pytest.raises(MomentOutOfReachError, match="older than what is left of the log"):
        await read_plan(pool, snapshot)
    later = database.psql("select pg_current_snapshot()")
    assert (await find_state(pool, "public", "users", "1", Moment(snapshot=later), 1)).rows[0].values[
        "plan"
    ] == '"b"'
    assert first not in names(database)
    summary = await reading.find_summary(pool, error)
    _, execution = await reading.get_execution(pool, summary.id)
    assert reading.LOG_GONE in execution.completeness
    late = await pin_incident(pool, "default", "late", NOW - timedelta(days=41), NOW)
    assert late is not None and late.log_since is not None and NOW - late.log_since > timedelta(days=38)


async def make_old_change(pool: Pool, database: Database) -> str:
    """A row that is changed, as if that had been forty days ago; the snapshot of before, which nobody has open."""
    await add_old(pool, database, 40)
    database.psql(
        "create table public.users (id int primary key, plan text); insert into users values (1, 'a')"
    )
    snapshot = database.psql("select pg_current_snapshot()")
    database.psql("update users set plan = 'b'; update flux.mutation set at = at - interval '40 days'")
    return snapshot


async def test_a_log_that_goes_while_it_is_asked_is_no_answer(
    pool: Pool, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What began before does not see that it is noted, and finds nothing where the log was."""
    snapshot = await make_old_change(pool, database)
    moment, now = Moment(snapshot=snapshot), Moment(snapshot=database.psql("select pg_current_snapshot()"))

    async def resolve_and_prune(connection: Connection, asked: Moment) -> Resolved:
        resolved = await resolve(connection, asked)
        await prune(pool, KEEP, NOW)
        return resolved

    monkeypatch.setattr(row_states, "resolve", resolve_and_prune)
    with pytest.raises(MomentOutOfReachError, match="older than what is left of the log"):
        await find_state(pool, "public", "users", "1", moment, 1)
    # The log has gone; by what began before, it was there.
    monkeypatch.setattr(row_diff, "resolve", without_a_check)
    with pytest.raises(MomentOutOfReachError, match="older than what is left of the log"):
        await row_diff.find_diff(pool, "public", "users", moment, now, 5)


async def without_a_check(_connection: Connection, asked: Moment) -> Resolved:
    assert asked.snapshot is not None
    return Resolved(asked.snapshot)


class Run(replay._Run):
    """A replay that only says which worlds it was given."""

    def __init__(self, original: Execution, guests: Pool, owner: Pool) -> None:
        self._original = original
        self._backing = SimpleNamespace(guests=guests, owner=owner, token=TOKEN)  # type: ignore[assignment]
        self._runnable = SimpleNamespace(function=SimpleNamespace(atomic=True), isolation="")  # type: ignore[assignment]
        self._schema, self._worlds, self._migrations = "public", None, ()
        self.notes: tuple[str, ...] = ()
        self.answers: list[object] = []

    async def _run_in(self, world: WorldDatabase | None) -> Replayed:
        answer = None if world is None else await ask(world, "select plan from users")
        self.answers.append(answer)
        return Replayed(self._original, None)


async def test_a_replay_has_no_world_of_a_log_that_went_since_its_record_was_read(
    pool: Pool, database: Database
) -> None:
    snapshot = await make_old_change(pool, database)
    transaction = Transaction("repeatable read", snapshot, None, True, 1)
    original = attrs.evolve(make_execution(), transactions=(transaction,))
    guests = await open_guests(database)
    run = Run(original, guests, pool)
    await run.run_changed()
    assert (run.answers, run.notes) == ([[{"plan": "a"}]], ())
    async with open_world(guests, TOKEN, plan_of(snapshot)):
        assert (await prune(pool, KEEP, NOW)).log_days == 0, "a world holds the log until it ends"
    assert (await prune(pool, KEEP, NOW)).log_days == 1
    run = Run(original, guests, pool)
    await run.run_changed()
    assert run.answers == [None], "the row of now would have been taken for that of then"
    assert reading.LOG_GONE in run.notes[0]
    await guests.aclose()


async def test_marks_tell_times_where_the_server_notes_no_commits(pool: Pool, database: Database) -> None:
    assert database.psql("show track_commit_timestamp") == "off"
    database.psql("create table public.users (id int primary key, plan text)")

    async def settled() -> Moment:
        """A time with a mark on either side."""
        await add_mark(pool)
        moment = Moment(time=datetime.fromisoformat(database.psql("select clock_timestamp()")))
        database.psql("insert into flux.moment select now(), pg_current_snapshot(), clock_timestamp(), 0")
        return moment

    moments = []
    for plan in ("a", "b", "c"):
        database.psql(
            f"insert into users values (1, '{plan}') on conflict (id) do update set plan = '{plan}'"
        )
        moments.append(await settled())
    for moment, plan in zip(moments, ("a", "b", "c"), strict=True):
        found = await find_state(pool, "public", "users", None, moment, 10)
        assert [row.values["plan"] for row in found.rows] == [f'"{plan}"']


async def test_a_mark_is_made_only_where_something_has_changed(pool: Pool, database: Database) -> None:
    database.psql("create table public.users (id int primary key)")
    for _ in range(3):
        await add_mark(pool)
    assert database.psql("select count(*) from flux.moment") == "1"
    database.psql("insert into users values (1)")
    for _ in range(3):
        await add_mark(pool)
    assert database.psql("select count(*) from flux.moment") == "2"
