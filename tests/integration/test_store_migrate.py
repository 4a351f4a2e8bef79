"""Bringing a database to where Flux needs it: again, at once, without rights, half done, from another version."""

import base64
import contextlib
import hashlib
import hmac
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from flux.store import migrate as migrating
from flux.store.migrate import (
    GuestRoleError,
    MigrationChangedError,
    MigrationFailedError,
    SchemaMismatchError,
    SchemaNotInstalledError,
    ServerTooOldError,
    WrongEncodingError,
    apply_user_migrations,
    ensure_guest,
    list_schema_migrations,
    migrate,
    prepare,
)
from flux.store.postgres import Connection, connect
from flux.store.reading import get_execution
from flux.store.records import RecordStore
from tests.conftest import Database, create_database
from tests.postgres_server import PostgresServer
from tests.stored_executions import make_execution

SCHEMA = Path(migrating.__file__).with_name("schema.sql")

OBJECTS = """
select 'column', format('%s.%s %s %s %s %s %s', c.relname, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod),
       a.attnotnull, a.attstorage, pg_get_expr(d.adbin, d.adrelid))
from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
where c.relnamespace in ('flux'::regnamespace, 'flux_views'::regnamespace)
union all
select 'class', format('%s %s %s %s %s', c.relname, c.relkind, pg_get_partkeydef(c.oid),
                       pg_get_expr(c.relpartbound, c.oid), c.relacl)
from pg_class c where c.relnamespace in ('flux'::regnamespace, 'flux_views'::regnamespace)
union all
select 'index', indexdef from pg_indexes where schemaname in ('flux', 'flux_views')
union all
select 'constraint', conname || pg_get_constraintdef(oid) from pg_constraint
where connamespace in ('flux'::regnamespace, 'flux_views'::regnamespace)
union all
select 'function', pg_get_functiondef(oid) || coalesce(proacl::text, 'default') from pg_proc
where pronamespace in ('flux'::regnamespace, 'flux_views'::regnamespace)
union all
select 'view', viewname || definition from pg_views where schemaname in ('flux', 'flux_views')
union all
select 'sequence', sequencename || increment_by || cache_size || data_type from pg_sequences
where schemaname in ('flux', 'flux_views')
union all
select 'comment', c.relname || obj_description(c.oid, 'pg_class') from pg_class c
where c.relnamespace in ('flux'::regnamespace, 'flux_views'::regnamespace)
union all
select 'schema', nspacl::text from pg_namespace where nspname in ('flux', 'flux_views')
union all
select 'column comment', format('%s.%s %s', c.relname, a.attname, col_description(c.oid, a.attnum))
from pg_class c join pg_attribute a on a.attrelid = c.oid
where c.relnamespace in ('flux'::regnamespace, 'flux_views'::regnamespace)
  and col_description(c.oid, a.attnum) is not null
order by 1, 2
"""


@contextlib.asynccontextmanager
async def connected(database: Database, user: str = "") -> AsyncIterator[Connection]:
    connection = await connect(database.options(user))
    try:
        yield connection
    finally:
        await connection.aclose()


@attrs.frozen
class File:
    """A file in ``migrations/``."""

    number: int
    sql: str

    @property
    def path(self) -> str:
        """As it is named."""
        return f"migrations/{self.number:03}.sql"


@pytest.fixture
async def guest(database: Database) -> AsyncIterator[Connection]:
    """A connection to a database with a tenant."""
    async with connected(database) as connection:
        await ensure_guest(connection, "acme", "shop", "secret")
        yield connection


# --- Flux's own schema -----------------------------------------------------------------------------


async def test_all_migrations_together_are_the_schema(postgres: PostgresServer) -> None:
    migrated, direct = create_database(postgres), create_database(postgres)
    async with connected(migrated) as connection:
        assert await migrate(connection) == len(list_schema_migrations())
    async with connected(direct) as connection:
        await connection.execute(SCHEMA.read_text())
    objects = direct.psql(OBJECTS)
    assert migrated.psql(OBJECTS) == objects
    assert "flux.commit_record" in objects and "execution_signature" in objects


async def test_a_database_is_prepared_once_and_again(postgres: PostgresServer) -> None:
    database = create_database(postgres)
    database.psql("create table before_flux (id int primary key); create table loose (x int) ")
    async with connected(database) as connection:
        first = await prepare(connection)
        database.psql("insert into before_flux values (1)")
        assert first == await prepare(connection)
    assert (first.installed_version, first.coverage) == (len(list_schema_migrations()), ())
    assert first.rights.captures_new_tables and first.rights.may_create_databases
    assert database.psql("select table_name, op, key from flux.mutation") == 'before_flux|I|{"id":1}'
    applied = database.psql("select version, name from flux.schema_version order by version")
    assert applied == "\n".join(f"{m.version}|{m.name}" for m in list_schema_migrations())
    # Today, and seven days ahead, of changes and of records.
    assert database.psql("select count(*) from pg_class where relname ~ '^(mutation|execution)_p[0-9]{8}$'") == "16"


async def test_a_day_that_nobody_prepared_gets_its_partition_at_the_next_start(database: Database) -> None:
    old = make_execution(started_at_ns=1_764_000_000_000_000_000)
    pool = database.pool()
    await RecordStore(pool).add(old)
    database.psql("insert into flux.mutation (at, xid, ordinal, relid, schema_name, table_name, op, depth) "
                  "values ('2025-11-24 23:59:59.999999Z', '7', 1, 0, 's', 't', 'I', 1)")  # fmt: skip
    where = "select tableoid::regclass from flux.execution union all select tableoid::regclass from flux.mutation"
    assert database.psql(where) == "flux.execution_default\nflux.mutation_default"
    async with pool.acquire() as connection:
        await prepare(connection)
    assert database.psql(where) == "flux.execution_p20251124\nflux.mutation_p20251124"
    assert (await get_execution(pool, old.id))[1] == old
    await pool.aclose()


FLOORS = {
    "1970-01-01Z": "00000000-0000-0000-0000-000000000000",
    "1969-12-31Z": "00000000-0000-0000-0000-000000000000",
    "0044-03-15Z BC": "00000000-0000-0000-0000-000000000000",
    "1970-01-01 00:00:00.001Z": "00000000-0001-0000-0000-000000000000",
    "1970-01-01 00:00:00.001999Z": "00000000-0001-0000-0000-000000000000",
    "2025-11-24 16:00:00Z": "019ab697-e800-0000-0000-000000000000",
    "12000-01-01Z": "ffffffff-ffff-0000-0000-000000000000",
}


def test_the_smallest_id_of_an_instant_is_not_beyond_it(database: Database) -> None:
    for instant, floor in FLOORS.items():
        assert database.psql(f"select flux.uuid_floor('{instant}')") == floor, instant


async def test_programs_that_migrate_at_once_take_turns(postgres18: PostgresServer) -> None:
    database = create_database(postgres18)

    async def one() -> None:
        async with connected(database) as connection:
            await prepare(connection)

    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(one)
    assert database.psql("select count(*) from flux.schema_version") == str(len(list_schema_migrations()))


async def test_an_owner_without_superuser_gets_everything_but_event_triggers(postgres: PostgresServer) -> None:
    database = create_database(postgres)
    role = f"owner_{database.name}"
    database.psql(f"create role {role} login createrole; alter database {database.name} owner to {role}")
    async with connected(database, role) as connection:
        prepared = await prepare(connection)
        missing = " / ".join(prepared.rights.describe_missing())
        assert "event triggers" in missing and "CREATEDB" in missing, missing
        await ensure_guest(connection, f"t_{database.name}", "shop", "secret")
        await apply_user_migrations(connection, f"t_{database.name}", [File(1, "create table t (id int primary key)")])
        database.psql("insert into shop.t values (1)")
    assert database.psql("select key from flux.mutation") == '{"id":1}'


async def test_tables_that_are_not_wholly_captured_are_reported(database: Database) -> None:
    database.psql("create table t (id int primary key); alter table t disable trigger all")
    async with connected(database) as connection:
        prepared = await prepare(connection)
    # What somebody disabled by hand is put back.
    assert prepared.coverage == ()
    database.psql("create table parent (id int); create table child () inherits (parent)")
    async with connected(database) as connection:
        prepared = await prepare(connection)
    ((schema, table, reason),) = prepared.coverage
    assert (schema, table) == ("public", "parent") and "INHERITS" in reason


async def test_a_newer_schema_is_refused(database: Database) -> None:
    known = list_schema_migrations()[-1].version
    database.psql(f"insert into flux.schema_version values ({known + 1}, 'future', 'x')")
    async with connected(database) as connection:
        with pytest.raises(SchemaMismatchError, match=f"has version {known + 1} .* knows {known}") as caught:
            await migrate(connection)
    assert "upgrade" in caught.value.remedy


async def test_a_schema_of_another_making_is_refused(database: Database) -> None:
    database.psql("update flux.schema_version set sha256 = 'x'")
    async with connected(database) as connection:
        with pytest.raises(SchemaMismatchError, match="version 1"):
            await migrate(connection)


async def test_a_schema_of_that_name_that_is_not_fluxs_is_left_alone(postgres18: PostgresServer) -> None:
    database = create_database(postgres18)
    database.psql("create schema flux; create table flux.capacitor (x int)")
    async with connected(database) as connection:
        with pytest.raises(SchemaNotInstalledError, match="did not make"):
            await migrate(connection)
    assert database.psql("select count(*) from pg_class where relnamespace = 'flux'::regnamespace") == "1"


async def test_a_role_that_may_not_create_is_told_what_to_grant(postgres: PostgresServer) -> None:
    database = create_database(postgres)
    database.psql(f"create role nobody_{database.name} login")
    async with connected(database, f"nobody_{database.name}") as connection:
        with pytest.raises(SchemaNotInstalledError, match="permission denied") as caught:
            await migrate(connection)
    assert caught.value.remedy.endswith(f'grant create on database "{database.name}" to "nobody_{database.name}"')
    assert database.psql("select to_regnamespace('flux') is null") == "t"


async def test_a_schema_that_is_another_roles_is_refused(database: Database) -> None:
    database.psql(f"create role other_{database.name} login")
    async with connected(database, f"other_{database.name}") as connection:
        with pytest.raises(SchemaNotInstalledError):
            await migrate(connection)


async def test_a_database_that_is_not_unicode_is_refused(postgres18: PostgresServer) -> None:
    name = "sql_ascii"
    postgres18.psql(f"create database {name} encoding 'SQL_ASCII' template template0")
    async with connected(Database(postgres18, name)) as connection:
        with pytest.raises(WrongEncodingError, match="SQL_ASCII"):
            await migrate(connection)


async def test_a_server_that_is_too_old_is_refused() -> None:
    class OldServer:
        """Answers as PostgreSQL 13 does; there is none to ask."""

        async def fetch_row(self, _sql: str) -> dict[str, Any]:
            await trio.lowlevel.checkpoint()
            return {"server_version_num": 130022, "server_version": "13.22"}

    with pytest.raises(ServerTooOldError, match=r"PostgreSQL 13\.22"):
        await migrate(OldServer())  # type: ignore[arg-type]


async def test_nothing_of_a_schema_stays_when_it_is_interrupted(postgres18: PostgresServer) -> None:
    database = create_database(postgres18)
    async with connected(database) as connection:
        for delay_s in (0.001, 0.01, 0.05):
            with trio.move_on_after(delay_s):
                await migrate(connection)
            installed = database.psql("select to_regclass('flux.schema_version') is not null")
            assert installed == database.psql("select to_regclass('flux.ddl') is not null")
        assert await migrate(connection) == len(list_schema_migrations())


# --- guests ----------------------------------------------------------------------------------------


async def test_a_guests_role_is_made_and_repaired(database: Database) -> None:
    async with connected(database) as connection:
        tenant = f"a_{database.name}"
        role = await ensure_guest(connection, tenant, "shop", "one")
        database.psql(f"alter role {role} set tcp_keepalives_idle = 7000; alter role {role} set work_mem = '1GB'")
        assert role == await ensure_guest(connection, tenant, "shop", "two") == f"flux_guest_{tenant}"
        kept = database.psql(f"select unnest(setconfig) from pg_db_role_setting where setrole = '{role}'::regrole")
        assert kept.splitlines() == [
            "search_path=shop", "tcp_keepalives_idle=30", "tcp_keepalives_interval=10", "tcp_keepalives_count=6",
            "tcp_user_timeout=120000", "client_connection_check_interval=10000",
        ]  # fmt: skip
        database.psql(f"alter role {role} createdb")
        with pytest.raises(GuestRoleError, match="must not have") as caught:
            await ensure_guest(connection, tenant, "shop", "three")
        assert role in caught.value.remedy
        with pytest.raises(GuestRoleError, match="not usable"):
            await ensure_guest(connection, "No Tenant", "shop", "x")
        with pytest.raises(GuestRoleError, match="can't be a tenant's"):
            await ensure_guest(connection, tenant, "flux", "x")


async def test_a_role_that_another_database_alters_meanwhile_is_altered_again(database: Database) -> None:
    async with connected(database) as connection, connected(database) as other:
        tenant = f"a_{database.name}"
        role = await ensure_guest(connection, tenant, "shop", "one")
        await other.execute("begin")
        await other.execute(f"alter role {role} password 'theirs'")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ensure_guest, connection, tenant, "shop", "two")
            waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query ~ 'ensure_guest'"
            while database.psql(waits) != "1":  # noqa: ASYNC110 - the server tells nobody
                await trio.sleep(0.01)
            await other.execute("commit")
        # The password is ours, by the definition of SCRAM (RFC 5802, 3).
        kept = database.psql(f"select rolpassword from pg_authid where rolname = '{role}'")
        _, rounds, salt, stored, _ = re.split("[$:]", kept)
        salted = hashlib.pbkdf2_hmac("sha256", b"two", base64.b64decode(salt), int(rounds))
        key = hmac.digest(salted, b"Client Key", "sha256")
        assert base64.b64decode(stored) == hashlib.sha256(key).digest()

        # An error of the server's own is told at once, though its SQLSTATE is the same.
        database.psql(
            "create sequence tried; create or replace function flux.ensure_guest_role("
            "tenant_name text, schema_name_wanted text, password text) returns text language plpgsql as $$ begin "
            "perform nextval('public.tried'); "
            "raise exception 'cache lookup failed for role 77' using errcode = 'XX000'; end $$"
        )
        with pytest.raises(GuestRoleError, match="cache lookup failed"):
            await ensure_guest(connection, tenant, "shop", "three")
        assert database.psql("select last_value from tried") == "1"


# --- the users' migrations -------------------------------------------------------------------------


async def test_migrations_are_applied_once_and_in_order(database: Database, guest: Connection) -> None:
    files = [
        File(10, "insert into notes values (2, 'ten')"),
        File(1, "create table notes (id int primary key, body text); insert into notes values (1, 'one');"),
    ]
    assert await apply_user_migrations(guest, "acme", files) == ["migrations/001.sql", "migrations/010.sql"]
    assert await apply_user_migrations(guest, "acme", files) == []
    assert database.psql("select * from shop.notes") == "1|one\n2|ten"
    assert database.psql("select tenant, name from flux.migration_applied order by name") == (
        "acme|migrations/001.sql\nacme|migrations/010.sql"
    )
    # They are captured like all else, as changes from outside.
    assert database.psql("select key, outside from flux.mutation order by seq") == '{"id":1}|t\n{"id":2}|t'


FAILING = {
    "syntax": ("create table a (id int);\n\nselec 1;", 3, "syntax error"),
    "a word within": ("create table a (id int);\nselect\n  1,\n  nothing_like_it\nfrom a;", 4, "nothing_like_it"),
    "at run time": ("create table a (id int primary key);\ninsert into a values (1);\n\ninsert into a values (1);",
                    4, "duplicate key"),
    "in a block": ("create table a (id int);\n\ndo $$ begin\n  perform 1/0;\nend $$;", 3, "division by zero"),
    "unclosed": ("create table a (id int);\nselect 'x;\n", 2, "unterminated"),
    "copy": ("create table a (id int);\ncopy a from stdin;\n1\n\\.", 2, "COPY"),
    "psql": ("create table a (id int);\n\\connect other", 2, "syntax error"),
    "not in a transaction": ("create table a (id int);\n\nvacuum;", 3, "transaction block"),
    "commit by a procedure": ("create table a (id int);\n\ndo $$ begin commit; end $$;", 3, "transaction"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAILING)
async def test_a_migration_that_fails_says_where_and_leaves_nothing(
    database: Database, guest: Connection, name: str
) -> None:
    sql, line, said = FAILING[name]
    files = [File(1, "create table kept (id int)"), File(2, sql), File(3, "create table later (id int)")]
    with pytest.raises(MigrationFailedError) as caught:
        await apply_user_migrations(guest, "acme", files)
    assert caught.value.message.startswith(f"migrations/002.sql:{line}  ")
    assert said in caught.value.message and "nothing of this migration was kept" in caught.value.message
    assert database.psql("select string_agg(relname, ',') from pg_class where relnamespace = 'shop'::regnamespace") == (
        "kept"
    )
    assert not guest.in_transaction
    # And once it is corrected, it goes on where it stopped.
    files[1] = File(2, "create table a (id int)")
    assert await apply_user_migrations(guest, "acme", files) == ["migrations/002.sql", "migrations/003.sql"]


@pytest.mark.parametrize("word", ["begin", "COMMIT", "/* x */ rollback", "start transaction", "end", "savepoint s",
                                  "prepare transaction 'x'"])  # fmt: skip
async def test_a_migration_does_not_end_its_transaction(database: Database, guest: Connection, word: str) -> None:
    with pytest.raises(MigrationFailedError, match=r"001\.sql:2 .* in a migration"):
        await apply_user_migrations(guest, "acme", [File(1, f"create table a (id int);\n{word};")])
    assert database.psql("select to_regclass('shop.a') is null") == "t"


async def test_an_applied_migration_that_was_changed_is_refused(database: Database, guest: Connection) -> None:
    await apply_user_migrations(guest, "acme", [File(1, "create table a (id int);\n")])
    # Other ends of lines are no change: git makes them.
    assert await apply_user_migrations(guest, "acme", [File(1, "create table a (id int);\r\n")]) == []
    with pytest.raises(MigrationChangedError, match=r"migrations/001\.sql was changed"):
        await apply_user_migrations(guest, "acme", [File(1, "create table a (id bigint);\n"), File(2, "select 1")])
    assert database.psql("select count(*) from flux.migration_applied") == "1"


async def test_what_a_migration_sets_ends_with_it(database: Database, guest: Connection) -> None:
    role = f"somebody_{database.name}"
    database.psql(f"create role {role}; grant all on schema shop to {role}")
    files = [
        File(1, "set search_path to public; set statement_timeout to 1; reset statement_timeout; "
                f"set role {role}; create table shop.a (id int)"),
        File(2, "create table b (id int); select set_config('flux.x', current_user, false)"),
    ]  # fmt: skip
    await apply_user_migrations(guest, "acme", files)
    assert database.psql(
        "select relname, pg_get_userbyid(relowner) from pg_class where relnamespace = 'shop'::regnamespace order by 1"
    ) == f"a|{role}\nb|{database.server.user}"
    assert await guest.fetch_value("select current_setting('flux.x', true)") in (None, "")
    assert await guest.fetch_value("select current_user::text") == database.server.user


async def test_a_migration_may_hold_functions_of_every_kind(database: Database, guest: Connection) -> None:
    sql = """\ufeff
        create function one() returns int language plpgsql as $body$ begin return 1; end; $body$;
        create function two() returns int begin atomic select case when true then 2 end; end;
        create table log (id int);
        create rule r as on insert to log do also (select 1; select 2);
        insert into log select one() + two(); -- three;
    """
    await apply_user_migrations(guest, "acme", [File(1, sql)])
    assert database.psql("select id from shop.log") == "3"


async def test_programs_that_apply_the_same_migrations_take_turns(database: Database, guest: Connection) -> None:
    files = [File(number, f"create table t{number} (id int)") for number in range(1, 6)]
    done: list[str] = []

    async def one() -> None:
        async with connected(database) as connection:
            done.extend(await apply_user_migrations(connection, "acme", files))

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(one)
    assert sorted(done) == [file.path for file in files]


async def test_a_guest_may_use_what_a_migration_makes(
    postgres: PostgresServer, make_database: Callable[[PostgresServer], Database]
) -> None:
    database = make_database(postgres)
    async with connected(database) as connection:
        tenant = f"m_{database.name}"
        role = await ensure_guest(connection, tenant, "shop", "secret")
        await apply_user_migrations(connection, tenant, [File(1, "create table t (id serial primary key, v text)")])
    async with connected(database, role) as connection:
        await connection.execute("insert into t (v) values ($1)", "hers")
    assert database.psql("select v, (select outside from flux.mutation) from shop.t") == "hers|f"
