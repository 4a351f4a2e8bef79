"""A database for executions to run again at once: the same tables, another role, nothing of production in reach.

What it is like is asked of the catalogs of both databases through ``psql``, as is what is left behind.
"""

import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from hashlib import sha256

import attrs
import pytest
import trio

from flux.store.ephemeral import PREFIX, EphemeralDatabaseError, Original, Place, drop_leftovers, open_place
from flux.store.migrate import ensure_guest, prepare
from flux.store.postgres import ConnectionLost, DatabaseError, Pool
from flux.store.queries import QUERIES
from flux.store.world import WorldPlan, build_world
from tests.conftest import Database, create_database
from tests.postgres_server import PostgresServer

TOKEN = b"token of the tests"
GUEST = "flux_guest_main"
SCHEMA = """
create type mood as enum ('glad', 'so so');
create domain cents as int check (value >= 0);
create type place as (street text, number int);
create table users (
    id bigint generated always as identity primary key, email text not null unique, feels mood default 'glad',
    home place, tags text[] not null default '{}', born date, at timestamptz not null default now(),
    shout text generated always as (upper(email)) stored, check (email like '%@%'));
create table orders (
    id uuid primary key default gen_random_uuid(), buyer bigint not null references users on delete cascade,
    total cents not null default 0, note json, exclude using btree (total with =) deferrable initially deferred);
create table logged (what text, at timestamptz default clock_timestamp()) partition by list (what);
create table logged_order partition of logged for values in ('order');
create table logged_rest partition of logged default;
create table untouched (n serial primary key, what text);
create index orders_by_buyer on orders (buyer, (total + 1)) where total > 0;
create function log_order() returns trigger language plpgsql as $$
begin insert into public.logged (what) values ('order'); return new; end $$;
create function double(n int) returns int immutable language sql begin atomic select n * 2; end;
create trigger order_is_logged after insert on orders for each row execute function log_order();
create view rich as select buyer, sum(total) as total from orders group by buyer;
create table secret (n int, owner text);
alter table secret enable row level security;
create policy own on secret using (owner = 'anyone');
insert into users (email, feels, home, tags, born)
    values ('a@b', 'so so', ('high "street"', 3), '{x,"y, z"}', '2000-02-29'), ('c@d', null, null, '{}', null);
insert into orders (buyer, total, note) values (1, 5, '{"n":  -0.0, "s": "\\u00e9"}');
insert into untouched (what) values ('x');
insert into secret values (1, 'anyone'), (2, 'somebody');
"""
TABLES = ("users", "orders", "logged", "untouched", "secret")
LIKENESS = """
select 'constraint ' || conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid)
from pg_constraint where connamespace = 'public'::regnamespace and contype <> 't' and contype <> 'n'
union all select 'index ' || pg_get_indexdef(indexrelid) from pg_index i join pg_class c on c.oid = i.indrelid
where c.relnamespace = 'public'::regnamespace
union all select 'column ' || attrelid::regclass || ' ' || attname || ' ' || format_type(atttypid, atttypmod) || ' ' ||
       attnotnull::text || attgenerated::text || ' ' || attcollation::text
from pg_attribute a join pg_class c on c.oid = a.attrelid
where c.relnamespace = 'public'::regnamespace and attnum > 0 and relkind in ('r', 'p', 'v', 'c')
union all select 'trigger ' || pg_get_triggerdef(t.oid) from pg_trigger t join pg_proc p on p.oid = tgfoid
where not tgisinternal and p.pronamespace = 'public'::regnamespace
union all select 'function ' || pg_get_functiondef(oid) from pg_proc where pronamespace = 'public'::regnamespace
union all select 'view ' || pg_get_viewdef(oid) from pg_class
where relnamespace = 'public'::regnamespace and relkind = 'v'
union all select 'policy ' || polname || polcmd::text || pg_get_expr(polqual, polrelid) from pg_policy
union all select 'label ' || enumlabel || enumsortorder::text from pg_enum
order by 1
"""


@pytest.fixture
def production(postgres18: PostgresServer, make_database: Callable[[PostgresServer], Database]) -> Database:
    database = make_database(postgres18)
    database.psql(SCHEMA)
    return database


@pytest.fixture
def either(postgres: PostgresServer, make_database: Callable[[PostgresServer], Database]) -> Database:
    """On each of the servers: their catalogs differ."""
    database = make_database(postgres)
    database.psql(SCHEMA)
    return database


@attrs.frozen
class Parts:
    """What an original is made with."""

    production: Database
    owner: Pool
    guests: Pool
    guest_role: str = GUEST

    @contextlib.asynccontextmanager
    async def open_original(self, names: frozenset[str]) -> AsyncIterator[tuple[Place, Original]]:
        """An original of the tables as they are now."""
        snapshot = self.production.psql("select pg_current_snapshot()")
        async with open_place(self.owner, "public", self.guest_role) as place, self.guests.acquire() as world:
            try:
                plan = WorldPlan("public", snapshot, datetime(2026, 1, 2, tzinfo=UTC), frozenset())
                await build_world(world, TOKEN, plan)
                async with self.owner.acquire() as connection:
                    original = await place.make(connection, world, names)
                await world.settle()
                yield place, original
            finally:
                world.is_dirty = True


@contextlib.asynccontextmanager
async def open_parts(database: Database) -> AsyncIterator[Parts]:
    owner = Pool(database.options(), 4)
    async with owner.acquire() as connection:
        role = await ensure_guest(connection, "main", "public", "of no use on this socket")
        await connection.run(QUERIES.add_supervisor, [sha256(TOKEN).digest(), "tests"])
    guests = Pool(database.options(role), 2)
    try:
        yield Parts(database, owner, guests)
    finally:
        await guests.aclose()
        await owner.aclose()


def count_left(database: Database) -> str:
    return database.psql(
        f"select (select count(*) from pg_database where datname like '{PREFIX}%') || ' ' || "
        f"(select count(*) from pg_roles where rolname like '{PREFIX}%')"
    )


async def test_it_has_the_same_tables_rows_and_rights_and_is_gone_in_the_end(either: Database) -> None:
    async with open_parts(either) as parts:
        before = either.psql(LIKENESS)
        async with parts.open_original(frozenset({"orders", "secret"})) as (_, original):
            copy = Database(either.server, original.name)
            assert copy.psql(LIKENESS) == before
            # What a statement on orders leads to: the users by key, the log by a trigger's text. No more.
            assert original.filled == {"users", "orders", "logged", "secret"}
            for table in ("users", "orders", "logged"):
                rows = f"select to_json(t)::text from {table} t order by 1"
                assert copy.psql(rows) == either.psql(rows) != ""
            # The functions see no other rows of it, so there are none.
            assert copy.psql("select n from secret") == "1"
            assert copy.psql("select count(*) from untouched") == "0"
            for table in TABLES:
                rights = f"select has_table_privilege('%s', '{table}', 'insert, select, update, delete')"
                assert copy.psql(rights % original.role) == either.psql(rights % GUEST) == "t"
            assert copy.psql(f"select has_table_privilege('{original.role}', 'users', 'truncate')") == "f"
            assert either.psql(LIKENESS) == before
        assert count_left(either) == "0 0"


async def test_the_role_that_runs_there_has_rights_on_nothing_of_production(production: Database) -> None:
    async with (
        open_parts(production) as parts,
        parts.open_original(frozenset({"orders"})) as (place, original),
    ):
        for role in (original.role, f"{original.role}_owner"):
            assert production.psql(
                "select count(*) from pg_class c where relnamespace in ('public'::regnamespace, 'flux'::regnamespace) "
                "and relkind in ('r', 'p', 'v') "
                f"and has_table_privilege('{role}', oid, 'select, insert, update, delete')"
            ) == "0"  # fmt: skip
            assert production.psql(
                f"select has_schema_privilege('{role}', 'public', 'create'), "
                f"has_schema_privilege('{role}', 'flux', 'usage')"
            ) == "f|f"  # fmt: skip
            assert production.psql(
                "select rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls, "
                f"(select count(*) from pg_auth_members where member = r.oid) from pg_roles r where rolname = '{role}'"
            ) == "f|f|f|f|f|0"  # fmt: skip
        copy = Database(production.server, original.name)
        assert copy.psql(f"select count(*) from pg_class where relowner <> '{original.role}_owner'::regrole "
                         "and relnamespace = 'public'::regnamespace") == "0"  # fmt: skip
        assert (
            copy.psql("select has_database_privilege('flux_guest_main', current_database(), 'connect')")
            == "f"
        )
        checksum = "select md5(string_agg(t::text, ',' order by t::text)) from (select users::text t from users " \
                   "union all select orders::text from orders) all_rows"  # fmt: skip
        before = production.psql(checksum)
        async with place.open_run(original, 2, is_last=True) as (guests, _), guests.acquire() as connection:
            await connection.execute("delete from users")
            for sql in (
                f"select from {production.name}.public.users",
                "create extension dblink",
                "set role postgres",
                f"set role {original.role}_owner",
                "alter table users disable trigger all",
                "copy users to program 'cat'",
            ):
                with pytest.raises(DatabaseError):
                    await connection.execute(sql)
        assert copy.psql("select count(*) from users") == "0"
        assert production.psql(checksum) == before


async def test_columns_are_given_the_values_of_the_record_and_make_up_their_own_else(
    production: Database,
) -> None:
    async with (
        open_parts(production) as parts,
        parts.open_original(frozenset({"orders"})) as (place, original),
    ):
        async with place.open_run(original, 2, is_last=False) as (guests, _), guests.acquire() as connection:
            await connection.begin()
            await connection.fetch(
                "select set_config('flux.world_now', '2020-02-02T02:02:02Z', true), set_config('flux.given', $1, true)",
                '{"users.id": ["77", "70"], "orders.id": ["00000000-0000-0000-0000-00000000abcd"]}',
            )
            ids = "insert into users (email) values ('e@f'), ('g@h'), ('i@j') returning id"
            first, second, third = [row["id"] for row in await connection.fetch(ids)]
            assert (first, second) == (77, 70)
            assert third > 1000, "of its own, and none that the record may give"
            row = await connection.fetch_row(
                "insert into orders (buyer, total) values (77, 9) "
                "returning id::text, (select at from users where id = 77)"
            )
            assert row is not None
            assert tuple(row) == (
                "00000000-0000-0000-0000-00000000abcd",
                datetime(2020, 2, 2, 2, 2, 2, tzinfo=UTC),
            )
            await connection.commit()
        # A copy takes nothing from the original.
        async with place.open_run(original, 2, is_last=True) as (guests, owner):
            async with guests.acquire() as connection:
                assert await connection.fetch_value("select count(*) from users") == 2
            async with owner.acquire() as connection:
                assert await connection.fetch_value("select current_user") == production.server.user


async def test_what_a_crash_leaves_is_dropped_and_what_is_in_use_is_not(production: Database) -> None:
    async with open_parts(production) as parts:
        dead = Pool(production.options(), 2)
        with contextlib.suppress(ConnectionLost):
            async with open_place(dead, "public", GUEST) as place:
                # The supervisor dies: nothing is tidied up, and the server ends its sessions.
                names = (place.name, place.role, f"{place.role}_owner")
                production.psql(f"create database {place.name}_1")
                async with parts.open_original(frozenset({"users"})) as (_, original):
                    async with parts.owner.acquire() as connection:
                        assert await drop_leftovers(connection, parts.owner.options) == []
                    assert count_left(production) == "2 4"
                    production.psql(
                        "select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and granted "
                        f"and objid = (hashtextextended('{place.name}', 0) & 4294967295)::oid"
                    )
                    async with parts.owner.acquire() as connection:
                        while not (dropped := await drop_leftovers(connection, parts.owner.options)):  # noqa: ASYNC110 - the server's own time
                            await trio.sleep(0.01)
                    assert dropped == [names[0]]
                    assert (
                        production.psql(f"select datname from pg_database where datname like '{PREFIX}%'")
                        == original.name
                    )
        assert count_left(production) == "0 0"
        await dead.aclose()


async def test_without_the_right_to_create_databases_it_is_refused_with_the_remedy(
    production: Database,
) -> None:
    production.psql(
        "create role modest login; grant usage on schema flux to modest; grant select on flux.instance to modest"
    )
    pool = Pool(production.options("modest"), 2)
    with pytest.raises(EphemeralDatabaseError, match='role "modest" may not create databases') as refused:
        async with open_place(pool, "public", GUEST):
            raise AssertionError("it was made")
    assert "createdb" in refused.value.remedy
    await pool.aclose()
    production.psql("drop owned by modest; drop role modest")
    assert count_left(production) == "0 0"


async def test_a_role_that_is_no_superuser_needs_no_more_than_to_create_databases_and_roles(
    postgres: PostgresServer,
) -> None:
    postgres.psql("create role plain login createdb createrole")
    database = create_database(postgres)
    database.psql(f"alter database {database.name} owner to plain; alter schema public owner to plain")
    pool = Pool(database.options("plain"), 4)
    try:
        async with pool.acquire() as connection:
            await prepare(connection)
            await connection.execute(SCHEMA)
            role = await ensure_guest(connection, "plain", "public", "of no use on this socket")
            await connection.run(QUERIES.add_supervisor, [sha256(TOKEN).digest(), "tests"])
        guests = Pool(database.options(role), 2)
        parts = Parts(database, pool, guests, role)
        async with (
            parts.open_original(frozenset({"orders"})) as (place, original),
            place.open_run(original, 1, is_last=True) as (runs, _),
            runs.acquire() as connection,
        ):
            assert await connection.fetch_value("select count(*) from users") == 2
        await guests.aclose()
        assert count_left(database) == "0 0"
    finally:
        await pool.aclose()
        postgres.psql(f"drop database {database.name} with (force)")
        postgres.psql("drop role flux_guest_plain; drop role plain")


async def test_what_reaches_out_of_the_schema_is_refused_by_name(production: Database) -> None:
    production.psql(
        "create schema other; create type other.kind as enum ('x'); create table odd (k other.kind)"
    )
    async with open_parts(production) as parts:
        with pytest.raises(EphemeralDatabaseError, match="table odd can't be made there"):
            async with parts.open_original(frozenset({"users"})):
                raise AssertionError("it was made")
        assert count_left(production) == "0 0"
