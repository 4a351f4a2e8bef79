"""What is looked up around a failure, over real records, real row histories and real snapshots."""

import datetime
import time
import uuid
from collections.abc import AsyncIterator, Callable

import attrs
import pytest
import trio

from flux import values
from flux.evidence import Count, Evidence
from flux.execution import Execution, Read, Transaction
from flux.hostcall import HostCallError
from flux.store.postgres import connect
from flux.store.queries import QUERIES
from flux.store.reading import get_execution
from flux.supervisor.evidence import LOOKUPS_AT_A_TIME, gather_evidence
from tests.conftest import Database
from tests.console_world import World, make_call, make_execution, open_world, raised
from tests.postgres_server import PostgresServer


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    async with open_world(database) as opened:
        yield opened


@pytest.fixture(params=["postgres18", "postgres15"])
async def each_world(
    request: pytest.FixtureRequest, make_database: Callable[[PostgresServer], Database]
) -> AsyncIterator[World]:
    async with open_world(make_database(request.getfixturevalue(request.param))) as opened:
        yield opened


async def look_up(world: World, execution: Execution) -> Evidence:
    summary, stored = await get_execution(world.pool, execution.id)
    return await gather_evidence(world.pool, summary, stored)


async def add_deployment(world: World, name: str, sha: str) -> None:
    async with world.pool.acquire() as connection:
        await connection.execute(QUERIES.add_deployment, name, "main", sha, False, name, "[]")
        await connection.execute(QUERIES.activate_deployment, name)


# --- counts, peers, hosts --------------------------------------------------------------------------


async def test_a_healthy_execution_needs_no_look_up(world: World) -> None:
    execution = make_execution()
    await world.add(execution)
    summary, stored = await get_execution(world.pool, execution.id)
    async with world.pool.acquire() as connection, connection.transaction():
        await connection.execute("lock table flux.execution in access exclusive mode")
        with trio.fail_after(120):
            assert await gather_evidence(world.pool, summary, stored) == Evidence(stored)


async def test_the_failure_is_counted_on_this_code_and_on_the_deployment_before(world: World) -> None:
    await add_deployment(world, "d0", "aaaaaaa1")
    await add_deployment(world, "d1", "bbbbbbb2")
    old = {"sha": "aaaaaaa1", "deployment": "d0"}
    new = {"sha": "bbbbbbb2", "deployment": "d1"}
    await world.add(
        *(make_execution(at_s=n, **old) for n in range(4)),
        make_execution(raised(message="'plan'"), at_s=5, **old),
        make_execution(raised("ValueError", "another failure"), at_s=6, **new),
        make_execution(at_s=7, **new),
        make_execution(raised(), at_s=7, function="another_function", **new),
    )
    failed = [make_execution(raised(line=n), at_s=8 + n, **new) for n in range(2)]
    await world.add(*failed)
    evidence = await look_up(world, failed[0])
    assert evidence.count == Count("bbbbbbb2", 2, 4)
    assert evidence.previous_count == Count("aaaaaaa1", 1, 5)
    assert evidence.unavailable == ()


async def test_without_deployments_the_code_that_began_before_is_the_previous_one(world: World) -> None:
    await world.add(make_execution(at_s=0, sha="older"), make_execution(at_s=1, sha="old"))
    failed = make_execution(raised(), at_s=2, sha="new")
    await world.add(failed, make_execution(at_s=3, sha="newer"))
    evidence = await look_up(world, failed)
    assert (evidence.count, evidence.previous_count) == (Count("new", 1, 1), Count("old", 0, 1))


async def test_what_is_too_old_to_be_counted_is_said_to_be(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flux.supervisor.evidence.COUNTED_MAX", 3)
    failed = make_execution(raised(), at_s=0)
    await world.add(failed, *(make_execution(at_s=n) for n in range(1, 5)))
    evidence = await look_up(world, failed)
    assert evidence.count is None
    assert evidence.unavailable == ("the counts: 3 executions of the function came after it",)


async def test_counts_of_a_part_are_said_to_be_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flux.supervisor.evidence.COUNTED_MAX", 3)
    failed = make_execution(raised(), at_s=4)
    await world.add(failed, *(make_execution(raised(), at_s=n) for n in range(4)))
    evidence = await look_up(world, failed)
    assert evidence.count == Count("3f9c1e2d", 3, 3)
    assert evidence.unavailable == ("counts beyond the function's latest 3 executions",)


async def test_peers_are_those_that_passed_on_the_same_code_the_nearest_first(world: World) -> None:
    near, far = make_execution(at_s=5), make_execution(at_s=1)
    failed = make_execution(raised(), at_s=9)
    await world.add(
        make_execution(at_s=2, sha="other"), make_execution(raised(), at_s=3), near, far, failed,
        make_execution(raised("HTTPError", "gone", status=404), at_s=4), make_execution(at_s=6, function="other"),
    )  # fmt: skip
    assert [peer.id for peer in (await look_up(world, failed)).peers] == [near.id, far.id]


async def test_an_answer_of_4xx_is_compared_and_not_counted(world: World) -> None:
    peer = make_execution(at_s=0)
    answered = make_execution(raised("HTTPError", "gone", status=404), at_s=1)
    await world.add(peer, answered)
    evidence = await look_up(world, answered)
    assert ([each.id for each in evidence.peers], evidence.count) == ([peer.id], None)


def lost_host(at_s: float, host: str = "api.test") -> Execution:
    error = HostCallError(
        "HttpTimeout", "no answer", "FLX409", values.encode_canonical({"host": host, "port": 443})
    )
    call = make_call(1, "http.request", ["GET", f"https://{host}/", {}], error=error)
    return make_execution(attrs.evolve(raised("HttpTimeoutError", "no answer"), call=1), at_s=at_s, calls=(call,))


async def test_who_else_lost_the_host_within_five_minutes(world: World) -> None:
    long_before, before, failed, after = (lost_host(at_s) for at_s in (0, 400, 600, 800))
    await world.add(long_before, before, failed, after, lost_host(610, "other.test"), make_execution(at_s=605))
    evidence = await look_up(world, failed)
    assert [other.name for other in evidence.host_failures] == [before.name, after.name]
    assert evidence.host_failures[0].started_at_ns == before.started_at_ns
    assert evidence.host_failures[0].function == "create_user"


async def test_the_next_attempt_at_the_same_request_is_named(world: World) -> None:
    error = HostCallError("DatabaseError", "could not serialize access", "40001")
    outcome = attrs.evolve(raised("DatabaseError", "could not serialize access"), call=1)
    given_up = make_execution(outcome, calls=(make_call(1, "db.execute", ["update", []], error=error),))
    again = make_execution(at_s=1, attempt=2, parent=given_up.id)
    await world.add(given_up, make_execution(at_s=1, parent=given_up.id, function="nightly"), again)
    assert (await look_up(world, given_up)).retried_as == again.name


# --- rows ------------------------------------------------------------------------------------------


def reading(row: list[object], **changes: object) -> Execution:
    """A failure whose second call had read a user."""
    columns = ["id", "email", "plan"]
    answer = {"columns": columns, "types": ["int4", "text", "text"], "rows": [row], "tag": "SELECT 1"}
    call = make_call(2, "db.query", ["select * from users", []], answer)
    read = Read(2, "public", "users", (("id", 0),), (("email", 1), ("plan", 2)))
    return make_execution(raised("TypeError", "plan is None"), calls=(call,), reads=(read,), **changes)


async def fail_reading(world: World, row: list[object], **changes: object) -> Execution:
    """Such a failure, with what the database really saw at this moment as its snapshot."""
    connection = await connect(world.database.options())
    snapshot = await connection.fetch_value("select pg_current_snapshot()")
    await connection.aclose()
    failed = reading(row, transactions=(Transaction("repeatable read", str(snapshot), None, False, 1),), **changes)
    await world.add(failed)
    return failed


async def test_who_wrote_each_column_that_was_read_as_of_the_snapshot(each_world: World) -> None:
    world = each_world
    created = await world.run_as_guest(make_execution(), "insert into users values (1, 'a@b.com', 'free')")
    emptied = await world.run_as_guest(
        make_execution(function="cancel", sha="0ld"), "update users set plan = null where id = 1"
    )
    failed = await fail_reading(world, [1, "a@b.com", None])
    await world.run_as_guest(make_execution(), "update users set plan = 'late', email = 'c@d.com' where id = 1")
    email, plan = (await look_up(world, failed)).row_writers
    assert (email.column, email.value, email.before, email.execution) == ("email", '"a@b.com"', None, created.name)
    assert attrs.evolve(plan, at_ns=0) == attrs.evolve(
        email, column="plan", value="null", before='"free"', execution=emptied.name, execution_id=emptied.id,
        function="cancel", sha="0ld", at_ns=0, xid=plan.xid,
    )  # fmt: skip
    assert plan.xid > email.xid > 0
    assert (plan.call, plan.schema, plan.table, plan.key, plan.outside) == (2, "public", "users", '{"id":1}', False)
    assert plan.at_ns > email.at_ns > 0


async def test_a_write_from_outside_is_told_as_such(world: World) -> None:
    world.database.psql("insert into users values (1, 'a@b.com', 'free')")
    failed = await fail_reading(world, [1, "a@b.com", "free"])
    writers = (await look_up(world, failed)).row_writers
    assert [(writer.outside, writer.execution) for writer in writers] == [(True, None), (True, None)]


async def test_a_value_that_nobody_on_record_wrote_has_no_writer(world: World) -> None:
    await world.run_as_guest(make_execution(), "insert into users values (1, 'a@b.com', 'free')")
    # As if something past the capture had changed the plan: the one on record did not write what was read.
    failed = await fail_reading(world, [1, "a@b.com", "gold"])
    assert [writer.column for writer in (await look_up(world, failed)).row_writers] == ["email"]


async def test_what_the_execution_wrote_itself_before_is_not_looked_up(world: World) -> None:
    await world.run_as_guest(make_execution(), "insert into users values (1, 'a@b.com', 'free')")
    connection = await connect(world.database.options("flux_guest_main"))
    await connection.aclose()
    failed = await world.run_as_guest(
        reading([1, "a@b.com", "gold"]), "update users set plan = 'gold' where id = 1"
    )
    summary, stored = await get_execution(world.pool, failed.id)
    own = attrs.evolve(stored, mutations=tuple(attrs.evolve(m, call=1) for m in stored.mutations))
    assert own.mutations
    assert (await gather_evidence(world.pool, summary, own)).row_writers == ()


@pytest.mark.parametrize(
    ("definition", "literal", "shown"),
    [
        ("uuid", "'1b4e28ba-2fa1-11d2-883f-0016d3cca427'", uuid.UUID("1b4e28ba-2fa1-11d2-883f-0016d3cca427")),
        ("text", "'a, id=7 \"b\"'", 'a, id=7 "b"'),
        ("bytea", "'\\xff00'", b"\xff\x00"),
        ("bigint", "9007199254740993", 9007199254740993),
        ("date", "'2026-01-02'", datetime.date(2026, 1, 2)),
        ("boolean", "true", True),
    ],
)
async def test_rows_are_found_by_keys_of_every_type(
    world: World, definition: str, literal: str, shown: object
) -> None:
    world.database.psql(
        f'create table "T" ("Id" {definition}, "a b" int, v text, primary key ("Id", "a b"));'
        'grant all on "T" to flux_guest_main'
    )
    writer = await world.run_as_guest(make_execution(), f"insert into \"T\" values ({literal}, 3, 'x')")
    answer = {"columns": ["Id", "a b", "v"], "types": [], "rows": [[shown, 3, "x"]], "tag": "SELECT 1"}
    call = make_call(2, "db.query", ["select", []], answer)
    read = Read(2, "public", "T", (("Id", 0), ("a b", 1)), (("v", 2),))
    failed = await fail_reading(world, [1, "", ""])
    failed = attrs.evolve(failed, id=uuid.UUID(int=failed.id.int + 1), calls=(call,), reads=(read,))
    await world.add(failed)
    evidence = await look_up(world, failed)
    assert evidence.unavailable == ()
    assert [(each.column, each.value, each.execution) for each in evidence.row_writers] == [("v", '"x"', writer.name)]


def colliding(detail: str, constraint: str) -> Execution:
    error = HostCallError(
        "DatabaseError", "duplicate key value violates unique constraint", "23505",
        values.encode_canonical(
            {"schema": "public", "table": "users", "constraint": constraint, "detail": detail}
        ),
    )  # fmt: skip
    call = make_call(3, "db.execute", ["insert into users ...", []], error=error)
    outcome = attrs.evolve(raised("DatabaseError", "duplicate key"), call=3)
    at_s = time.time() - 1_764_079_339.504
    return make_execution(outcome, at_s=at_s, elapsed_ns=60_000_000_000, calls=(call,))


@pytest.mark.parametrize(
    ("detail", "constraint"),
    [
        ("Key (email)=(a@b.com) already exists.", "users_email_key"),
        ("Key (id)=(1) already exists.", "users_pkey"),
    ],
)
async def test_who_was_there_first_is_found_by_the_values_that_collided(
    world: World, detail: str, constraint: str
) -> None:
    first = await world.run_as_guest(make_execution(), "insert into users values (1, 'a@b.com', 'free')")
    await world.run_as_guest(make_execution(), "update users set plan = 'gold' where id = 1")
    failed = colliding(detail, constraint)
    await world.add(failed)
    (writer,) = (await look_up(world, failed)).row_writers
    assert (writer.call, writer.execution, writer.key, writer.column) == (3, first.name, '{"id":1}', None)


@pytest.mark.parametrize(
    "detail",
    [
        "Key (lower(email))=(a@b.com) already exists.", "Key (email)=(gone@b.com) already exists.",
        "Key (id, email)=(1, a, b) already exists.", "", "Key (\"no such\")=(1) already exists.",
    ],
)  # fmt: skip
async def test_a_collision_that_can_not_be_traced_names_nobody(world: World, detail: str) -> None:
    await world.run_as_guest(make_execution(), "insert into users values (1, 'a@b.com', 'free')")
    failed = colliding(detail, "c")
    await world.add(failed)
    evidence = await look_up(world, failed)
    assert evidence.row_writers == ()
    assert all("was there first" in sentence for sentence in evidence.unavailable)


# --- look-ups that fail ----------------------------------------------------------------------------


async def test_a_look_up_that_fails_is_named_and_the_others_stand(world: World) -> None:
    await world.run_as_guest(make_execution(), "insert into users values (1, 'a@b.com', 'free')")
    failed = await fail_reading(world, [1, "a@b.com", None])
    world.database.psql("alter table flux.deployment rename to away; drop table users")
    evidence = await look_up(world, failed)
    assert evidence.count is None
    rows, counts = sorted(evidence.unavailable, reverse=True)
    assert counts.startswith("the counts: FLX221")
    assert rows.startswith("who wrote the row of users that call 2 read: FLX120")
    why = await world.get(f"executions/{failed.name}/why")
    assert "the counts" in " ".join(fact["text"] for fact in why["facts"]), "it is said aloud"


@pytest.mark.parametrize(
    "limit, said",
    [("LOOKUP_TIMEOUT_S", "the database took longer"), ("LOOKUPS_TIMEOUT_S", "all look-ups together took longer")],
)
async def test_a_look_up_that_hangs_is_given_up(
    world: World, monkeypatch: pytest.MonkeyPatch, limit: str, said: str
) -> None:
    monkeypatch.setattr(f"flux.supervisor.evidence.{limit}", 0.3)
    failed = make_execution(raised())
    await world.add(failed)
    summary, stored = await get_execution(world.pool, failed.id)
    async with world.pool.acquire() as connection, connection.transaction():
        await connection.execute("lock table flux.execution in access exclusive mode")
        with trio.fail_after(120):
            evidence = await gather_evidence(world.pool, summary, stored)
    assert evidence.peers == ()
    # Two ask that table. Those who wait for their turn behind them are as many as were not before them.
    assert len(evidence.unavailable) == 2 or (limit == "LOOKUPS_TIMEOUT_S" and len(evidence.unavailable) > 2)
    assert all(f"{said} than 0.3 s" in sentence for sentence in evidence.unavailable)


async def test_readers_who_wait_leave_connections_to_those_who_write(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in ("LOOKUP_TIMEOUT_S", "LOOKUPS_TIMEOUT_S"):
        monkeypatch.setattr(f"flux.supervisor.evidence.{limit}", 300.0)
    failed = make_execution(raised())
    await world.add(failed)
    summary, stored = await get_execution(world.pool, failed.id)
    waiting = "select count(*) from pg_locks where not granted and relation = 'flux.execution'::regclass"
    found: list[Evidence] = []

    async def explain() -> None:
        found.append(await gather_evidence(world.pool, summary, stored))

    with trio.fail_after(120):
        async with trio.open_nursery() as nursery, world.pool.acquire() as holder, holder.transaction():
            await holder.execute("lock table flux.execution in access exclusive mode")
            for _ in range(3):
                nursery.start_soon(explain)
            while await holder.fetch_value(waiting) < LOOKUPS_AT_A_TIME:  # noqa: ASYNC110 - only the database knows.
                await trio.sleep(0.01)
            assert not found
            in_use = world.pool.counts.open - world.pool.counts.idle
            assert (in_use, world.pool.counts.waiting) == (1 + LOOKUPS_AT_A_TIME, 0)
    assert [evidence.unavailable for evidence in found] == [()] * 3, "and each has its turn"
