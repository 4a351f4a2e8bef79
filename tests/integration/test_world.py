"""A world shows the tables as a snapshot saw them, whatever has been done to them since.

The oracle is the transaction that took the snapshot: it is kept open, so it still sees what it saw, and says so
through ``psql``'s driver and not through ours.
"""

import random
from collections.abc import Callable, Iterator

import pytest

from flux.hostcalls.base import HostCallFailed
from flux.store.postgres import DatabaseError
from flux.store.queries import QUERIES
from flux.store.world import WorldError
from flux.supervisor.world import open_world
from tests.conftest import Database
from tests.postgres_server import PostgresServer
from tests.world_harness import NOW, TOKEN, Watcher, ask, open_guests, plan

SCHEMA = """
create table accounts (
    id bigint generated always as identity primary key, name text unique, amount numeric not null check (amount >= 0));
create table pairs (
    a int, b text, note json, at timestamptz default now(), double int generated always as (a * 2) stored,
    primary key (b, a));
create table still (id int primary key, what text);
create table keyless (what text);
insert into accounts (name, amount) select 'n' || n, n from generate_series(1, 50) n;
insert into pairs (a, b, note) select n, 'b' || n % 3, '{"n": -0.0}' from generate_series(1, 50) n;
insert into still values (1, 'one'), (2, 'two');
"""
QUESTIONS = (
    "select id, name, amount from accounts order by id",
    "select a, b, note::text, at::text, double from pairs order by a, b",
    "select * from still order by id",
    "select count(*), sum(amount) from accounts where amount > 20",
    "select a.id, p.b from accounts a join public.pairs p on p.a = a.id where a.id < 9 order by 1, 2",
)


@pytest.fixture
def database(postgres: PostgresServer, make_database: Callable[[PostgresServer], Database]) -> Database:
    database = make_database(postgres)
    database.psql(SCHEMA)
    return database


@pytest.fixture
def watcher(database: Database) -> Iterator[Watcher]:
    watcher = Watcher(database)
    yield watcher
    watcher.close()


def change_much(database: Database, seed: int) -> None:
    """Change the tables in many ways, some of them rolled back."""
    chance = random.Random(seed)
    for _ in range(30):
        n = chance.randint(1, 60)
        database.psql(
            chance.choice(
                [
                    f"update accounts set amount = amount + {n} where id % 7 = {n % 7}",
                    f"delete from accounts where id = {n}",
                    f"insert into accounts (name, amount) values ('new{n}', {n}) on conflict (name) do nothing",
                    f"update pairs set b = b || 'x' where a = {n}",
                    f"update pairs set a = a + 1000 where a = {n}",
                    f"delete from pairs where a % 11 = {n % 11}",
                    f"insert into pairs (a, b, note) values ({n + 5000}, 'p', '[1, 2]') on conflict do nothing",
                    f"begin; delete from pairs; delete from accounts where id > {n}; rollback",
                    f"begin; savepoint s; update accounts set amount = 1; rollback to s; "
                    f"update accounts set name = name || '+' where id = {n}; commit",
                    "truncate pairs" if n == 1 else "select 1",
                ]
            )
        )


@pytest.mark.parametrize("written", [(), ("accounts", "pairs"), ("pairs",)])
async def test_every_question_is_answered_as_the_snapshot_answers_it(
    database: Database, watcher: Watcher, written: tuple[str, ...]
) -> None:
    change_much(database, seed=len(written))
    pool = await open_guests(database)
    async with open_world(pool, TOKEN, plan(watcher.snapshot, *written)) as world:
        for question in QUESTIONS:
            assert await ask(world, question) == watcher.rows(question), question
    await pool.aclose()


async def test_what_changes_while_a_world_stands_is_not_seen_in_it(
    database: Database, watcher: Watcher
) -> None:
    pool = await open_guests(database)
    async with open_world(pool, TOKEN, plan(watcher.snapshot, "accounts")) as world:
        for seed in range(3):
            change_much(database, seed)
            for question in QUESTIONS:
                assert await ask(world, question) == watcher.rows(question), question
    await pool.aclose()


async def test_its_own_writes_are_seen_checked_and_gone_with_it(database: Database, watcher: Watcher) -> None:
    database.psql("delete from accounts where id = 7; insert into accounts (name, amount) values ('late', 1)")
    before = database.psql(
        "select md5(string_agg(a::text, ',' order by id)), (select last_value from accounts_id_seq) from accounts a"
    )
    pool = await open_guests(database)
    inserted = {"accounts": [{"id": 51, "name": "x"}]}
    async with open_world(pool, TOKEN, plan(watcher.snapshot, "accounts", inserted=inserted)) as world:
        made = await world.run(
            "insert into public.accounts (name, amount) values ('x', 5) returning id", [], 1
        )
        assert made.rows == [[51]]
        assert (await world.run("update accounts set amount = 8 where id = 7", [], 2)).tag == "UPDATE 1"
        assert await ask(world, "select count(*) as n from accounts") == [{"n": 51}]
        depth = await world.begin(None, 3)
        with pytest.raises(HostCallFailed, match="duplicate key"):
            await world.run("insert into accounts (name, amount) values ('n7', 1)", [], 4)
        await world.rollback(depth, 5)
        depth = await world.begin(None, 6)
        with pytest.raises(HostCallFailed, match="check constraint"):
            await world.run("update accounts set amount = -1 where id = 1", [], 7)
        await world.rollback(depth, 8)
        upsert = (
            "insert into accounts (name, amount) values ('n7', 3) on conflict (name) do update set amount = 3"
        )
        assert (await world.run(upsert, [], 9)).tag == "INSERT 0 1"
    assert before == database.psql(
        "select md5(string_agg(a::text, ',' order by id)), (select last_value from accounts_id_seq) from accounts a"
    )
    connection = await pool.take()
    assert (
        await connection.fetch_value(
            "select count(*)::int from pg_class where relpersistence = 't' and pg_table_is_visible(oid)"
        )
        == 0
    )
    await pool.give_back(connection)
    await pool.aclose()


async def test_the_clock_stands_where_the_record_says(database: Database, watcher: Watcher) -> None:
    pool = await open_guests(database)
    async with open_world(pool, TOKEN, plan(watcher.snapshot, "pairs")) as world:
        told = await world.run(
            "select now() = $1, current_timestamp = $1, current_date = $1::date, clock_timestamp() = $1",
            [NOW],
            1,
        )
        assert told.rows == [[True, True, True, True]]
        made = await world.run(
            "insert into pairs (a, b) values (99, 'z') returning at = $1, double", [NOW], 2
        )
        assert made.rows == [[True, 198]]
    await pool.aclose()


@pytest.mark.parametrize(
    "sql",
    [
        "do $$ begin perform nextval('public.accounts_id_seq'); end $$",
        "do $$ begin perform setval('public.accounts_id_seq', 9); end $$",
        "select 1 from still for update",
        "do $$ begin execute 'delete from public.still'; end $$",
        "do $$ begin execute 'create table public.mine (a int)'; end $$",
    ],
)
async def test_postgres_refuses_what_would_leave_the_world(
    database: Database, watcher: Watcher, sql: str
) -> None:
    before = database.psql("select last_value from accounts_id_seq union all select count(*) from still")
    pool = await open_guests(database)
    async with open_world(pool, TOKEN, plan(watcher.snapshot)) as world:
        with pytest.raises(HostCallFailed) as refused:
            await world.run(sql, [], 1)
        assert world.trespass == sql or world.needed == {"still"} or "permission denied" in str(refused.value)
    assert (
        database.psql("select last_value from accounts_id_seq union all select count(*) from still") == before
    )
    await pool.aclose()


async def test_what_can_not_be_rebuilt_is_told(database: Database, watcher: Watcher) -> None:
    pool = await open_guests(database)
    with pytest.raises(WorldError, match="no table nowhere"):
        async with open_world(pool, TOKEN, plan(watcher.snapshot, "nowhere")):
            pass
    await pool.aclose()


async def test_a_guest_learns_nothing_of_the_log_without_a_supervisors_token(
    database: Database, watcher: Watcher
) -> None:
    pool = await open_guests(database)
    connection = await pool.take()
    for query in (QUERIES.world_changes, QUERIES.world_ddl):
        with pytest.raises(DatabaseError, match="only a supervisor"):
            await connection.fetch(query, b"a guess", watcher.snapshot)
    await pool.give_back(connection)
    await pool.aclose()
