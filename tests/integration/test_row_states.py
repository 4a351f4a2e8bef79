"""Rows as of a moment, who wrote their values, and what became of them between two times.

The oracle is another client: what psql saw in a transaction that was open at that moment, or what it was told to write.
"""

import json
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest

from flux.execution import Execution
from flux.mutation import Mutation, Operation
from flux.store.moments import Moment, MomentOutOfReachError
from flux.store.postgres import Connection, Pool, connect
from flux.store.records import RecordStore, commit_parameters, make_record
from flux.store.row_blame import NoSuchRowError, find_blame
from flux.store.row_diff import find_diff
from flux.store.row_history import KeyDoesNotFitError, NoSuchTableError
from flux.store.row_states import (
    MomentOpenError,
    NotThereThenError,
    StateFound,
    StateNotKnownError,
    find_state,
)
from tests.conftest import Database
from tests.postgres_server import PostgresServer, running_postgres
from tests.stored_executions import TOKEN, commit_record, guest_connection, make_execution

TABLES = """
create table shop.users (id int primary key, plan text, note text);
create table shop.pairs (b text, a int, v int, primary key (a, b));
create table shop.loose (x int, y text);
create table shop.parted (id int primary key, v int) partition by range (id);
create table shop.parted_low partition of shop.parted for values from (0) to (100);
create table shop.parted_high partition of shop.parted for values from (100) to (200);
grant all on all tables in schema shop to flux_guest_default;
"""


@pytest.fixture(scope="module")
def stamping() -> Iterator[PostgresServer]:
    """A server that notes when transactions commit, as the embedded one does."""
    with running_postgres(extra_settings=["track_commit_timestamp=on"]) as server:
        yield server


@pytest.fixture
def database(stamping: PostgresServer, make_database: Callable[[PostgresServer], Database]) -> Database:
    return make_database(stamping)


@pytest.fixture
async def pool(database: Database) -> AsyncIterator[Pool]:
    pool = database.pool()
    yield pool
    await pool.aclose()


@pytest.fixture
async def guest(database: Database) -> AsyncIterator[Connection]:
    async with guest_connection(database) as connection:
        database.psql(TABLES)
        yield connection


def take_snapshot(database: Database) -> Moment:
    return Moment(snapshot=database.psql("select pg_current_snapshot()"))


async def read_all(connection: Connection, table: str) -> list[str]:
    """What another client sees: each row as JSON, in no order."""
    await connection.execute("set timezone to 'UTC'")
    return sorted(
        json.dumps(json.loads(row[0]), sort_keys=True)
        for row in await connection.fetch(f"select to_json(t)::text from {table} t")
    )


def rows_of(found: StateFound) -> list[str]:
    return sorted(
        json.dumps({name: json.loads(value) for name, value in row.values.items()}, sort_keys=True)
        for row in found.rows
    )


async def at(pool: Pool, table: str, moment: Moment, key: str | None = None, limit: int = 1000) -> list[Any]:
    found = await find_state(pool, "shop", table, key, moment, limit)
    return [{name: json.loads(value) for name, value in row.values.items()} for row in found.rows]


# --- as of a moment --------------------------------------------------------------------------------


STEPS = [
    "insert into shop.users select n, 'free', 'n' || n from generate_series(1, 6) n",
    "insert into shop.pairs values ('x', 1, 1), ('y,c=2', 1, 2), ('ü\"\\', 2, 3)",
    "insert into shop.loose values (1, 'a'), (1, 'a'), (2, null)",
    "insert into shop.parted select n, n from generate_series(50, 150, 25) n",
    "update shop.users set plan = 'pro' where id % 2 = 0",
    "update shop.users set id = id + 100 where id = 3",
    "delete from shop.loose where ctid = (select min(ctid) from shop.loose)",
    "update shop.parted set id = id + 60 where id = 50",
    "delete from shop.pairs where v = 2",
    "truncate shop.loose",
    "insert into shop.users values (3, 'again', null) on conflict (id) do update set plan = 'up'",
    "delete from shop.parted where id = 100; insert into shop.parted values (100, 7)",
]
NAMES = ["users", "pairs", "loose", "parted"]


async def test_a_table_is_as_whoever_read_it_then_saw_it(
    pool: Pool, guest: Connection, database: Database
) -> None:
    seen: list[tuple[Moment, Moment, dict[str, list[str]]]] = []
    reader = await connect(database.options())
    for step in STEPS:
        database.psql(step)
        row = await reader.fetch_row("select pg_current_snapshot()::text, clock_timestamp()")
        assert row is not None
        tables = {name: await read_all(reader, f"shop.{name}") for name in NAMES}
        seen.append((Moment(snapshot=row[0]), Moment(time=row[1]), tables))
    await reader.aclose()
    for by_snapshot, by_time, tables in seen:
        for name, rows in tables.items():
            for moment in (by_snapshot, by_time):
                found = await find_state(pool, "shop", name, None, moment, 1000)
                assert rows_of(found) == rows, (name, moment)
                assert not (found.more or found.lost or found.notes) and not any(r.is_gap for r in found.rows)
    # And each row by its key.
    for moment, _, tables in seen:
        for number in (1, 2, 3, 103):
            wanted = [json.loads(row) for row in tables["users"] if json.loads(row)["id"] == number]
            assert await at(pool, "users", moment, str(number)) == wanted
        wanted = [json.loads(row) for row in tables["pairs"] if json.loads(row)["b"] == "y,c=2"]
        assert await at(pool, "pairs", moment, "a=1,b=y,c=2") == wanted


async def test_a_snapshot_tells_who_was_still_at_work(
    pool: Pool, guest: Connection, database: Database
) -> None:
    database.psql("insert into shop.users values (1, 'free'), (2, 'free')")
    writer = await connect(database.options())
    await writer.begin("read committed")
    await writer.execute("update shop.users set plan = 'slow' where id = 1")
    database.psql("update shop.users set plan = 'fast' where id = 2")
    meanwhile = take_snapshot(database)
    time = Moment(time=datetime.fromisoformat(database.psql("select clock_timestamp()")))
    await writer.commit()
    await writer.aclose()
    for moment in (meanwhile, time):
        assert [row["plan"] for row in await at(pool, "users", moment)] == ["free", "fast"]
    assert [row["plan"] for row in await at(pool, "users", take_snapshot(database))] == ["slow", "fast"]


async def test_rows_beyond_the_limit_are_said_to_be_there(
    pool: Pool, guest: Connection, database: Database
) -> None:
    database.psql("insert into shop.users select n from generate_series(1, 20) n")
    then = take_snapshot(database)
    database.psql("delete from shop.users where id < 15; insert into shop.users values (0), (21), (22)")
    for limit in (1, 3, 19, 20, 21):
        found = await find_state(pool, "shop", "users", None, then, limit)
        assert [row.values["id"] for row in found.rows] == [str(n) for n in range(1, min(limit, 20) + 1)]
        assert found.more == (limit < 20)


async def test_columns_are_called_as_they_were(pool: Pool, guest: Connection, database: Database) -> None:
    database.psql("insert into shop.users values (1, 'free', 'a'), (2, 'free', 'b')")
    then = take_snapshot(database)
    database.psql("update shop.users set plan = 'pro' where id = 1")
    database.psql("alter table shop.users rename plan to tier; alter table shop.users rename id to user_id")
    database.psql(
        "alter table shop.users add column age int default 7; update shop.users set tier = 'max' where user_id = 1"
    )
    between = take_snapshot(database)
    database.psql("alter table shop.users rename to people; alter table shop.people drop column note")
    assert await at(pool, "people", then, "1") == [{"id": 1, "plan": "free", "note": "a"}]
    found = await find_state(pool, "shop", "people", None, then, 10)
    assert [dict(row.values) for row in found.rows] == [
        {"id": "1", "plan": '"free"', "note": '"a"'}, {"id": "2", "plan": '"free"'},
    ]  # fmt: skip
    assert list(found.lost) == ["note"], "row 2 is only known as it is now, without that column"
    assert await at(pool, "people", between, "1") == [{"user_id": 1, "tier": "max", "age": 7}]
    blame = await find_blame(pool, "shop", "people", "1")
    assert [(name, each.seq is not None, each.reason[:16]) for name, each in blame.columns.items()] == [
        ("user_id", True, ""), ("tier", True, ""), ("age", False, "it came with the"),
    ]  # fmt: skip


async def test_a_change_past_the_capture_is_marked_and_never_made_up(
    pool: Pool, guest: Connection, database: Database
) -> None:
    database.psql("insert into shop.users values (1, 'free'), (2, 'free')")
    then = take_snapshot(database)
    database.psql(
        "set session_replication_role = replica; update shop.users set plan = 'sneaked' where id = 1"
    )
    found = await find_state(pool, "shop", "users", None, then, 10)
    assert [(row.values["id"], row.is_gap) for row in found.rows] == [("1", True), ("2", False)]
    assert [row.is_gap for row in (await find_state(pool, "shop", "users", "1", then, 1)).rows] == [True]
    blame = await find_blame(pool, "shop", "users", "1")
    assert blame.columns["plan"].seq is None and "past the capture" in blame.columns["plan"].reason
    assert blame.columns["id"].seq is not None
    database.psql("insert into shop.loose values (1, 'a')")
    before = take_snapshot(database)
    database.psql(
        "insert into shop.loose values (2, 'b'); set session_replication_role = replica;"
        "delete from shop.loose where x = 2"
    )
    with pytest.raises(StateNotKnownError, match="log has rows come that are not there"):
        await find_state(pool, "shop", "loose", None, before, 10)


async def test_what_is_not_known_is_an_error_with_its_reason(
    pool: Pool, guest: Connection, database: Database
) -> None:
    database.psql("insert into shop.users values (1, 'free')")
    then = take_snapshot(database)
    database.psql("create table shop.later (id int primary key)")
    with pytest.raises(NotThereThenError, match="then: it was made"):
        await at(pool, "later", then)
    soon, long_ago = datetime.now(UTC) + timedelta(hours=1), datetime.now(UTC) - timedelta(days=1)
    with pytest.raises(MomentOutOfReachError, match="has not come yet"):
        await at(pool, "users", Moment(time=soon))
    with pytest.raises(MomentOutOfReachError, match="changes are recorded since"):
        await at(pool, "users", Moment(time=long_ago))
    for text in ("", "1", "1:2", "2:1:", "5:9:9", "5:9:4", "5:9:7,6", "x:y:z", "1:1:\n", "9" * 30 + ":1:"):
        with pytest.raises(MomentOutOfReachError, match="not a snapshot"):
            await at(pool, "users", Moment(snapshot=text))
    with pytest.raises(MomentOutOfReachError, match="not of this database"):
        await at(pool, "users", Moment(snapshot="5:99999999:"))
    with pytest.raises(NoSuchTableError):
        await at(pool, "nothing", then)
    with pytest.raises(KeyDoesNotFitError):
        await at(pool, "users", then, "x")
    database.psql(
        "alter table shop.users drop constraint users_pkey, add primary key (id, plan);"
        "update shop.users set note = 'n'"
    )
    with pytest.raises(StateNotKnownError, match="primary key has changed"):
        await at(pool, "users", then)
    parted = take_snapshot(database)
    database.psql("alter table shop.parted detach partition shop.parted_low")
    with pytest.raises(StateNotKnownError, match="ALTER TABLE changed"):
        await at(pool, "parted", parted)


async def test_where_the_server_notes_no_commits_a_time_is_only_told_when_it_is_sure(
    postgres18: PostgresServer, make_database: Callable[[PostgresServer], Database]
) -> None:
    database = make_database(postgres18)
    assert database.psql("show track_commit_timestamp") == "off"
    pool = database.pool()
    async with guest_connection(database):
        database.psql(TABLES)
        database.psql("insert into shop.users values (1, 'free')")
        moment = Moment(time=datetime.fromisoformat(database.psql("select clock_timestamp()")))
        with pytest.raises(MomentOpenError, match="notes no times of commits"):
            await at(pool, "users", moment)
    await pool.aclose()


# --- blame -----------------------------------------------------------------------------------------


async def commit(guest: Connection, execution: Execution, *statements: str) -> None:
    await guest.begin("repeatable read")
    for statement in statements:
        await guest.execute(statement)
    await commit_record(guest, commit_parameters(make_record(execution), TOKEN))
    await guest.commit()


async def test_each_value_has_its_last_committed_writer(
    pool: Pool, guest: Connection, database: Database
) -> None:
    first, second, lost = make_execution(), make_execution(function="charge"), make_execution(function="try")
    await commit(guest, first, "insert into users values (42, 'free', 'hello')")
    await commit(guest, second, "update users set plan = 'pro', note = 'hello'")
    database.psql("update shop.users set note = 'by hand' where id = 42; update shop.users set note = note")
    await RecordStore(pool).add(attrs.evolve(lost, mutations=(rolled_back(42),), mutation_count=1))
    found = await find_blame(pool, "shop", "users", "42")
    writers = {name: found.versions[each.seq] for name, each in found.columns.items() if each.seq is not None}
    assert {name: (each.name, each.outside) for name, each in writers.items()} == {
        "id": (first.name, False), "plan": (second.name, False), "note": (None, True),
    }  # fmt: skip
    assert [(version.name, version.mutation.after) for version in found.rolled_back] == [
        (lost.name, '{"id":42,"plan":"never","note":null}')
    ]
    database.psql("delete from shop.users")
    gone = await find_blame(pool, "shop", "users", "42")
    assert (gone.is_there, dict(gone.columns)) == (False, {})
    assert gone.gone is not None and gone.gone.outside
    with pytest.raises(NoSuchRowError, match=r"no row shop.users\[43\]"):
        await find_blame(pool, "shop", "users", "43")
    with pytest.raises(KeyDoesNotFitError, match="no primary key"):
        await find_blame(pool, "shop", "loose", "1")


def rolled_back(number: int) -> Mutation:
    after = json.dumps({"id": number, "plan": "never", "note": None}, separators=(",", ":"))
    return Mutation(
        "shop",
        "users",
        f'{{"id":{number}}}',
        Operation.UPDATE,
        None,
        after,
        False,
        7,
        1,
        at_ns=time.time_ns(),
    )


async def test_blame_is_what_a_fold_of_the_log_says(
    pool: Pool, guest: Connection, database: Database
) -> None:
    chance = random.Random(5)
    database.psql("insert into shop.users select n, 'p', 'n' from generate_series(1, 4) n")
    for _ in range(60):
        number, column, value = chance.randint(1, 4), chance.choice(["plan", "note"]), chance.randint(0, 3)
        database.psql(
            chance.choice(
                [f"update shop.users set {column} = '{value}' where id = {number}"] * 5
                + [f"delete from shop.users where id = {number}"]
                + [
                    f"insert into shop.users values ({number}, '{value}') "
                    f"on conflict (id) do update set plan = '{value}'"
                ]
            )
        )
    # The fold goes forward: whoever gives a column another value is its writer.
    wanted: dict[str, dict[str, int]] = {}
    log = database.psql(
        "select json_build_object('seq', seq, 'key', key, 'op', op, 'before', before, 'after', after) "
        "from flux.mutation where table_name = 'users' order by seq"
    )
    for line in log.splitlines():
        entry = json.loads(line)
        if entry["op"] == "D":
            del wanted[entry["key"]]
        else:
            row = wanted.setdefault(entry["key"], {})
            for name, value in entry["after"].items():
                if entry["before"] is None or entry["before"][name] != value:
                    row[name] = entry["seq"]
    for number in range(1, 5):
        row = wanted.get(f'{{"id":{number}}}', {})
        found = await find_blame(pool, "shop", "users", str(number))
        assert {name: each.seq for name, each in found.columns.items()} == row


# --- what became of them ---------------------------------------------------------------------------


async def test_a_difference_has_what_came_went_and_changed_and_who_did_it(
    pool: Pool, guest: Connection, database: Database
) -> None:
    charged = make_execution(function="charge")
    database.psql(
        "insert into shop.users values (1, 'a'), (2, 'a'), (3, 'a'), (4, 'a');"
        "insert into shop.loose values (1), (1), (2)"
    )
    since = take_snapshot(database)
    await commit(guest, charged, "update users set plan = 'b' where id = 1", "delete from users where id = 2")
    database.psql(
        "update shop.users set plan = 'x' where id = 3; update shop.users set plan = 'a' where id = 3"
    )
    database.psql(
        "insert into shop.users values (5, 'c'); insert into shop.users values (6); delete from shop.users where id = 6"
    )
    database.psql("delete from shop.loose where x = 2; insert into shop.loose values (1), (1), (1)")
    until = take_snapshot(database)
    database.psql("update shop.users set plan = 'later'; truncate shop.loose")
    found = await find_diff(pool, "shop", "users", since, until, 100)
    assert [
        (each.key, each.before and each.before["plan"], each.after and each.after["plan"], each.count)
        for each in found.changes
    ] == [('{"id":1}', '"a"', '"b"', 1), ('{"id":2}', '"a"', None, 1), ('{"id":5}', None, '"c"', 1)]
    assert (found.undone, found.more) == (2, False)
    assert [[(w.execution, w.outside) for w in each.writers] for each in found.changes] == [
        [(charged.name, False)], [(charged.name, False)], [(None, True)],
    ]  # fmt: skip
    assert (await find_diff(pool, "shop", "users", since, until, 1)).more
    loose = await find_diff(pool, "shop", "loose", since, until, 100)
    told = [(each.before and each.before["x"], each.after and each.after["x"], each.count) for each in loose.changes]
    assert told == [
        (None, "1", 3), ("2", None, 1),
    ]  # fmt: skip
    same = await find_diff(pool, "shop", "users", until, until, 100)
    assert (same.changes, same.undone) == ((), 0)
