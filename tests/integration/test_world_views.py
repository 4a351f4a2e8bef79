"""A table that has changed since, and that a replay only reads, answers as it did, and as quickly finds what is asked.

The oracle is the transaction that is open since then, as in ``test_world``. How rows are found, PostgreSQL itself says.
"""

import json
from collections.abc import Callable, Iterator

import pytest

from flux.supervisor.world import WorldDatabase, open_world
from tests.conftest import Database
from tests.postgres_server import PostgresServer
from tests.world_harness import TOKEN, Watcher, ask, open_guests, plan

SCHEMA = """
create type mood as enum ('sad', 'glad');
create table items (
    id bigint primary key, region int not null, name varchar(20) collate "C" unique, feeling mood default 'sad',
    doubled int generated always as (region * 2) stored, note json, price numeric(8, 2), code bytea);
create index items_region on items (region, name desc);
create index items_lower on items (lower(name)) where region > 2;
create table pairs (a int, "the B" text, n int, primary key ("the B", a));
create table parts (id int, what text, primary key (id)) partition by range (id);
create table parts_low partition of parts for values from (0) to (1000);
create table parts_high partition of parts for values from (1000) to (10000);
create table orders (id int primary key, item_id bigint);
insert into items (id, region, name, note, price, code)
    select n, n % 200, 'n' || n, json_build_object('n', n), n / 7.0, decode(lpad(to_hex(n), 8, '0'), 'hex')
    from generate_series(1, 6000) n;
insert into pairs select n, 'b' || n % 3, n from generate_series(1, 300) n;
insert into parts select n, 'p' || n from generate_series(1, 2000) n;
insert into orders select n, n * 3 from generate_series(1, 500) n;
analyze;
"""
CHANGES = (
    "update items set region = region + 1 where id % 10 = 3",
    "update items set name = null where id % 100 = 7",
    "delete from items where id % 50 = 9",
    "insert into items (id, region, name) select n, n % 200, 'new' || n from generate_series(30000, 30400) n",
    "update items set id = id + 100000 where id between 40 and 44",
    "update items set region = 0 where region > 190; update items set region = 5 where region = 0",
    "begin; delete from items; rollback",
    "update pairs set \"the B\" = 'b9' where a < 20; delete from pairs where a > 290",
    "update parts set id = id + 5000 where id between 900 and 999",
    "delete from parts where id % 2 = 0; insert into parts values (9000, 'far')",
    # Rows of then had none of what is required now.
    "update items set price = 0 where price is null; alter table items alter column name drop not null",
    "alter table items alter column price set not null",
)
QUESTIONS = (
    "select id, region, name, feeling, doubled, note::text, price, code from items "
    "where id in (3, 9, 13, 42, 100042) order by id",
    "select * from (select id, name from items where region = 17 order by name desc) i",
    "select id from items order by id limit 12",
    "select id from items order by id desc limit 12",
    "select count(*), sum(region), sum(doubled), min(name), max(price) from items",
    "select o.id, i.region, i.name from orders o join items i on i.id = o.item_id where o.id < 40 order by o.id",
    "select id from items where lower(name) = 'n1003'",
    "select a, \"the B\", n from pairs order by 1, 2",
    "select id, what from parts where id between 890 and 1105 order by id",
    "select id, what from parts_high order by id limit 300",
    "select exists (select from items where name = 'n13') as there, "
    "exists (select from items where name = 'new30000') as new",
)
FOUND_BY_INDEX = (
    "select * from items where id = 103",
    "select * from items where region = 17",
    "select * from items order by id limit 10",
    "select o.id, i.name from orders o join items i on i.id = o.item_id where o.id = 7",
    "select * from items where name = 'n19'",
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


async def explain(world: WorldDatabase, sql: str) -> str:
    answer = await world.run(f"explain (format json, costs off) {sql}", [], 1)
    plan = answer.rows[0][0]
    return plan if isinstance(plan, str) else json.dumps(plan)


async def test_rows_are_those_of_then_and_are_found_by_index(database: Database, watcher: Watcher) -> None:
    for question in QUESTIONS:
        watcher.rows(question)  # Its locks let nobody drop or add a column now, so shapes stay.
    for change in CHANGES[:-2]:
        database.psql(change)
    pool = await open_guests(database)
    async with open_world(pool, TOKEN, plan(watcher.snapshot)) as world:
        for question in QUESTIONS:
            assert await ask(world, question) == watcher.rows(question), question
        for sql in FOUND_BY_INDEX:
            found = await explain(world, sql)
            assert '"Relation Name": "items"' in found and "Index" in found, found
            assert "Seq Scan" not in "".join(
                part for part in found.split("{") if '"items"' in part or '"items%then"' in part
            ), found
    await pool.aclose()


async def test_what_is_required_now_is_not_asked_of_rows_of_then(database: Database) -> None:
    database.psql("update items set price = null where id = 5")
    snapshot = database.psql("select pg_current_snapshot()")
    for change in CHANGES[-2:]:
        database.psql(change)
    pool = await open_guests(database)
    async with open_world(pool, TOKEN, plan(snapshot)) as world:
        assert await ask(world, "select price from items where id in (5, 6) order by id") == [
            {"price": None}, {"price": 0.86}
        ]  # fmt: skip
    await pool.aclose()


async def test_a_session_that_had_a_world_has_nothing_of_it_left(
    database: Database, watcher: Watcher
) -> None:
    database.psql(CHANGES[0])
    pool = await open_guests(database)
    async with open_world(pool, TOKEN, plan(watcher.snapshot)):
        pass
    async with pool.acquire() as connection:
        assert await connection.fetch_value("select current_setting('jit')") == database.psql("show jit")
        assert not await connection.fetch(
            "select from pg_class where relnamespace = pg_my_temp_schema() and relkind in ('r', 'v')"
        )
    await pool.aclose()
