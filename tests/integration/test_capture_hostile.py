"""A guest cannot write history, hide from it, or read what keeps it honest.

The guest here is as hostile as its role allows: it speaks SQL directly, with no
check of statements before the database. What it may do is what Postgres lets
``flux_guest_acme`` do, and the log is read by a second client.
"""

import hashlib
import json
import re
import subprocess
from collections.abc import Callable

import pytest

from flux.store.postgres import Connection, DatabaseError, connect
from flux.store.queries import QUERIES
from tests.capture_oracle import (
    GUEST,
    CapturedDatabase,
    apply,
    images,
    open_guest,
    told_images,
    without_empty,
)
from tests.conftest import Database
from tests.postgres_server import PostgresServer

TABLES = (
    "create table shop.shown (id int primary key, f float8, t timestamptz, b bytea, i interval, m money, j json,"
    " ts timestamptz[], during tstzrange, named regclass);"
    "insert into shop.shown values (1, 0.1, '2026-01-01 00:00+00', 'x', '1 day', 1, '{}');"
    # Only the setting that matters to it may be looked at for each of these.
    "create table shop.zoned (id int primary key, at timestamptz);"
    "create table shop.plain (id int primary key, f float8, b bytea, at timestamp, ns numeric[]);"
)
TOKEN = b"a supervisor's token, thirty-two."


@pytest.fixture(scope="module", params=["postgres18", "postgres15"])
def installed(
    request: pytest.FixtureRequest, make_database: Callable[[PostgresServer], Database]
) -> CapturedDatabase:
    made = make_database(request.getfixturevalue(request.param))
    return CapturedDatabase(made.server, made.name)


@pytest.fixture
def database(installed: CapturedDatabase) -> CapturedDatabase:
    installed.start_over()
    installed.script(TABLES)
    installed.forget_changes()
    return installed


async def refusal(connection: Connection, sql: str) -> str:
    """The SQLSTATE with which the database refuses ``sql``."""
    with pytest.raises(DatabaseError) as caught:
        await connection.execute(sql)
    return caught.value.sqlstate


# Writing and reading what is Flux's.


async def test_a_guest_can_touch_nothing_of_flux_but_what_takes_a_token(database: CapturedDatabase) -> None:
    named = database.psql(
        "select c.oid::regclass from pg_class c "
        "where c.relnamespace = 'flux'::regnamespace and c.relkind in ('r', 'p', 'v')"
    ).split()
    assert "flux.supervisor" in named and "flux.instance" in named and "flux.mutation" in named
    sequences = database.psql(
        "select c.oid::regclass from pg_class c where c.relnamespace = 'flux'::regnamespace and c.relkind = 'S'"
    ).split()
    functions = database.psql(
        "select p.oid::regprocedure from pg_proc p where p.pronamespace = 'flux'::regnamespace "
        f"and has_function_privilege('{GUEST}', p.oid, 'execute')"
    ).split("\n")
    assert sorted(function.partition("(")[0] for function in functions) == [
        "flux.commit_record", "flux.end_job", "flux.mark_transaction", "flux.push_job", "flux.world_changes",
        "flux.world_ddl", "flux.world_has_written", "flux.world_images", "flux.world_migrations", "flux.world_moves",
        "flux.world_rows", "flux.world_shapes", "flux.world_undo",
    ]  # fmt: skip
    async with open_guest(database) as guest:
        for place in named:
            for sql in (
                f"select * from {place}", f"select count(*) from {place}", f"delete from {place}",
                f"insert into {place} default values", f"truncate {place}", f"drop table {place}",
                f"alter table {place} rename to mine", f"copy {place} to '/dev/null'",
            ):  # fmt: skip
                assert await refusal(guest.connection, sql) in ("42501", "42809"), sql
        for sequence in sequences:
            assert await refusal(guest.connection, f"select nextval('{sequence}')") == "42501"
            assert await refusal(guest.connection, f"select setval('{sequence}', 1)") == "42501"
        for sql in (
            "create table flux.mine (id int)", "create function flux.f() returns int language sql as 'select 1'",
            "select flux.capture()", "select flux.ensure_partitions()", "select flux.check_token('x')",
            "select flux.ensure_guest_role('other', 'shop', 'x')", "drop schema flux cascade",
            "select flux.world_changes('x', pg_current_snapshot())",
            "select flux.world_undo('x', pg_current_snapshot())",
            "select * from flux.world_ddl(null, pg_current_snapshot())",
            "select * from flux.world_shapes('x', pg_current_snapshot())",
            "select * from flux.world_migrations('x', pg_current_snapshot())",
            "select * from flux.world_images('x', pg_current_snapshot(), 'customers')",
            "select * from flux.world_rows('x', 'customers') as r(id int)",
            "select flux.world_has_written('x')",
            "select flux.push_job('x', gen_random_uuid(), 'acme', 'f', '', null, null, null, 0)",
            "select flux.end_job('x', gen_random_uuid(), gen_random_uuid(), 1, gen_random_uuid())",
        ):  # fmt: skip
            assert await refusal(guest.connection, sql) in ("42501", "0A000"), sql


async def test_a_guest_cannot_stop_the_capture(database: CapturedDatabase) -> None:
    async with open_guest(database) as guest:
        for sql in (
            "alter table shown disable trigger all",
            "alter table shown disable trigger \"!flux_update\"",
            "drop trigger \"!flux_update\" on shown",
            "set session_replication_role = replica",
            "select set_config('session_replication_role', 'replica', false)",
            "alter event trigger flux_ddl disable",
            "alter role flux_guest_acme superuser",
            "set session authorization postgres",
            "set role postgres",
            "alter function flux.capture() owner to flux_guest_acme",
            "create or replace function flux.capture() returns trigger language plpgsql as 'begin return null; end'",
            "create table shop.mine (id int)",
            "create function shop.f() returns int language sql as 'select 1'",
            "create event trigger mine on ddl_command_end execute function pg_catalog.now()",
            "alter table shown owner to flux_guest_acme",
            "truncate shown",
        ):  # fmt: skip
            assert await refusal(guest.connection, sql) in ("42501", "42704"), sql
        await guest.connection.execute("update shown set f = 2")
    assert len(database.changes()) == 1
    assert len(guest.told(database.notice_secret())) == 1


SETTINGS = """
client_min_messages = error | client_encoding = latin1 | extra_float_digits = -15 | timezone = 'Asia/Kathmandu'
datestyle = 'German' | bytea_output = 'escape' | intervalstyle = 'sql_standard' | lc_monetary = 'C'
search_path = pg_temp | standard_conforming_strings = off | quote_all_identifiers = on | row_security = off
transform_null_equals = on | array_nulls = off | xmlbinary = hex | escape_string_warning = off
backslash_quote = on | default_transaction_isolation = serializable | enable_hashjoin = off
enable_mergejoin = off | enable_nestloop = off | enable_seqscan = off | enable_sort = off | jit_above_cost = 0
plan_cache_mode = force_generic_plan | work_mem = '64kB' | constraint_exclusion = off
enable_partition_pruning = off | flux.ordinal = 'x' | flux.ordinal = '99999999 7' | flux.ordinal = '-1 1'
role = none | check_function_bodies = off | default_table_access_method = heap | synchronous_commit = off
client_min_messages = debug5 | timezone = 'Etc/UTC' | timezone = 'GMT' | timezone = 'UTC+3' | extra_float_digits = 3
extra_float_digits = 0 | datestyle = 'SQL, DMY' | intervalstyle = iso_8601 | plpgsql.extra_errors = 'all'
plpgsql.extra_warnings = 'all' | plan_cache_mode = force_custom_plan | cursor_tuple_fraction = 1
""".replace("\n", " | ").strip(" |").split(" | ")


async def test_no_setting_of_a_guests_silences_or_bends_the_log(database: CapturedDatabase) -> None:
    before = database.rows()
    secret = database.notice_secret()
    for setting in SETTINGS:
        async with open_guest(database) as guest:
            await guest.connection.execute(f"set {setting}")
            await guest.connection.execute(
                "insert into shop.shown values (2, 0.1::float8 + 0.2, '2026-07-01 12:00+02', decode('6162', 'hex'), "
                "'1 day 2 hours', 1.5, '{\"ä\": -0}', array['2026-07-01 12:00+02'::timestamptz], "
                "tstzrange('2026-07-01 12:00+02', null), 'shop.plain')"
            )
            await guest.connection.execute("insert into shop.zoned values (1, '2026-07-01 12:00+02')")
            await guest.connection.execute(
                "insert into shop.plain values "
                "(1, 0.1::float8 + 0.2, decode('6162', 'hex'), '2026-07-01 12:00', '{1.50}')"
            )
            await guest.connection.execute("delete from shop.zoned; delete from shop.plain")
            await guest.connection.execute("update shop.shown set f = -f")
            await guest.connection.execute("delete from shop.shown where id = 2")
        told = guest.told(secret)
        assert [each.header["op"] for each in told if each.is_genuine] == [*"IIIDDUD"], setting
        after = without_empty(database.rows())
        assert apply(before, told_images(told)) == after, setting
        log = database.changes()
        assert apply(before, images(log)) == after, setting
        inserted = json.loads(str(log[0].after))
        del inserted["j"]  # What a client sends in one encoding and calls another, nobody can read.
        assert inserted == {
            "id": 2, "f": 0.30000000000000004, "t": "2026-07-01T10:00:00+00:00", "b": "\\x6162",
            "i": "1 day 02:00:00", "m": "$1.50", "ts": ["2026-07-01T10:00:00+00:00"],
            "during": '["2026-07-01 10:00:00+00",)', "named": "shop.plain",
        }, setting  # fmt: skip
        assert json.loads(str(log[1].after)) == {"id": 1, "at": "2026-07-01T10:00:00+00:00"}, setting
        assert json.loads(str(log[2].after)) == {
            "id": 1, "f": 0.30000000000000004, "b": "\\x6162", "at": "2026-07-01T12:00:00", "ns": [1.5],
        }, setting  # fmt: skip
        assert not any(change.outside for change in log)
        database.psql("update shop.shown set f = -f; truncate flux.mutation")
        before = database.rows()


async def test_what_a_guest_has_set_is_its_own_again_after_a_change(database: CapturedDatabase) -> None:
    wanted = {
        "client_min_messages": "error", "extra_float_digits": "-3", "timezone": "Asia/Kathmandu",
        "datestyle": "German, DMY", "intervalstyle": "sql_standard", "bytea_output": "escape",
        "quote_all_identifiers": "on", "search_path": '"shop"', "row_security": "on",
    }  # fmt: skip
    change = "insert into shop.shown (id, t) values (3, now())"

    async def settings() -> dict[str, str]:
        return {name: str(await guest.connection.fetch_value(f"show {name}")) for name in wanted}

    async with open_guest(database) as guest:
        for name, value in wanted.items():
            await guest.connection.execute(f"select set_config('{name}', '{value}', false)")
        assert await settings() == wanted
        await guest.connection.execute(change)
        assert await settings() == wanted, "alone"
        async with guest.connection.transaction():
            await guest.connection.execute("delete from shop.shown where id = 3")
            assert await settings() == wanted, "in a transaction"
            with pytest.raises(DatabaseError):
                async with guest.connection.transaction():
                    await guest.connection.execute(change)
                    await guest.connection.execute(change)
            assert await settings() == wanted, "after a savepoint"
            await guest.connection.execute("set local timezone = 'America/Caracas'")
            await guest.connection.execute("set extra_float_digits = -4")
            await guest.connection.execute(change)
            inside = await settings()
            assert (inside["timezone"], inside["extra_float_digits"]) == ("America/Caracas", "-4")
        assert await settings() == wanted | {"extra_float_digits": "-4"}, "SET stays, SET LOCAL does not"
    assert len(guest.told(database.notice_secret())) == 4


async def test_a_guest_that_is_shown_its_plans_does_not_see_the_secret(database: CapturedDatabase) -> None:
    secret = database.notice_secret()
    async with open_guest(database) as guest:
        for setting in ("debug_print_parse", "debug_print_rewritten", "debug_print_plan"):
            await guest.connection.execute(f"set {setting} = on")
        await guest.connection.execute("set client_min_messages = debug5")
        for change in ("update shop.shown set f = 3", "delete from shop.shown"):
            await guest.connection.execute(change)
    assert any("PLANNEDSTMT" in (notice.detail or "") for notice in guest.notices), "it is shown plans"
    shown = json.dumps([[notice.message, notice.detail, notice.hint, notice.where] for notice in guest.notices])
    # A plan shows a constant as numbers, a byte each.
    in_plan = " ".join(map(str, secret.encode()))
    assert secret not in shown and in_plan not in shown
    assert [each.is_genuine for each in guest.told(secret)] == [True, True]


async def test_things_of_the_same_names_in_the_guests_temporary_schema_are_not_used(
    database: CapturedDatabase,
) -> None:
    before = database.rows()
    async with open_guest(database) as guest:
        await guest.connection.execute("set search_path = pg_temp, shop")
        for sql in (
            "create temp table flux__old (id int)", "create temp table flux__new (id int)",
            "create temp table mutation (id int)", "create temp table instance (key text, value text)",
            "create temp table pg_class (oid oid, relname text)",
            "create function pg_temp.to_json(anyelement) returns json language sql as $$ select '1'::json $$",
            "create function pg_temp.pg_current_xact_id() returns xid8 language sql as $$ select '1'::xid8 $$",
            "create function pg_temp.starts_with(text, text) returns boolean language sql as $$ select false $$",
            "create function pg_temp.set_config(text, text, boolean) returns text language sql as $$ select 'x' $$",
            "create function pg_temp.sha256(bytea) returns bytea language sql as $$ select 'x'::bytea $$",
            "create domain pg_temp.json as text check (false)", "create domain pg_temp.int as int4 check (false)",
            "create domain pg_temp.xid8 as text check (false)", "create domain pg_temp.text as varchar check (false)",
        ):  # fmt: skip
            await guest.connection.execute(sql)
        await guest.connection.execute("update shop.shown set f = 7")
        await guest.connection.execute("insert into shop.shown (id) select i from generate_series(100, 200) i")
        await guest.connection.execute("delete from shop.shown where id > 150")
    log = database.changes()
    assert apply(before, images(log)) == without_empty(database.rows())
    assert len({change.xid for change in log}) == 3
    told = guest.told(database.notice_secret())
    assert [each.is_genuine for each in told] == [True, True, True]


# NOTICEs.


async def test_a_notice_that_a_guest_makes_up_does_not_verify(database: CapturedDatabase) -> None:
    secret = database.notice_secret()
    async with open_guest(database) as guest:
        await guest.connection.execute("update shown set f = 3")
        (genuine,) = guest.told(secret)
        real = next(notice for notice in guest.notices if notice.sqlstate == "FX001")
        forged_header = real.message.replace(f",{genuine.seq},", ",999999,")
        for header in (
            forged_header,
            real.message[: -len('"]') - 32] + hashlib.sha256(b"guess").hexdigest()[:32] + '"]',
            real.message.replace('"U"', '"D"'),
            re.sub(r',"[0-9a-f]{32}"', "", real.message),
            "[1]",
        ):
            guest.notices.clear()
            body = f"raise notice using errcode = 'FX001', message = $m${header}$m$, schema = 'shop', table = 'shown', "
            await guest.connection.execute(f"do $do$ begin {body} detail = '[]', hint = '[]'; end $do$")
            (told,) = guest.told(secret)
            assert not told.is_genuine
    assert genuine.is_genuine
    assert len(database.changes()) == 1


async def test_a_notice_said_twice_has_one_seq(database: CapturedDatabase) -> None:
    # A guest that had somehow heard a NOTICE could only say it again, and it would be the same change.
    secret = database.notice_secret()
    async with open_guest(database) as guest:
        await guest.connection.execute("update shown set f = 3")
        real = next(notice for notice in guest.notices if notice.sqlstate == "FX001")
        await guest.connection.execute(
            "do $do$ begin raise notice using errcode = 'FX001', schema = 'shop', table = 'shown', "
            f"message = $m${real.message}$m$, detail = $d${real.detail}$d$, hint = $h${real.hint}$h$; end $do$"
        )
    first, second = guest.told(secret)
    assert first.is_genuine and first.header == second.header


# Records on the guest's connection.


def register_token(database: CapturedDatabase) -> None:
    digest = hashlib.sha256(TOKEN).hexdigest()
    database.psql(f"delete from flux.supervisor; insert into flux.supervisor values ('\\x{digest}', 'test')")


async def mark(connection: Connection, token: object) -> object:
    """Marks the open transaction as an execution's, as the supervisor does."""
    return await connection.fetch_value(
        QUERIES.mark_transaction, token, "018f0000-0000-7000-8000-000000000001", "1:1:", "read committed"
    )


async def test_only_a_supervisors_token_writes_a_record(database: CapturedDatabase) -> None:
    register_token(database)
    digest = hashlib.sha256(TOKEN).digest()
    async with open_guest(database) as guest:
        for wrong in (b"", b"x", digest, TOKEN + b"\0", None):
            async with guest.connection.transaction():
                await guest.connection.execute("update shown set f = 4")
                with pytest.raises(DatabaseError) as caught:
                    async with guest.connection.transaction():
                        await mark(guest.connection, wrong)
                assert caught.value.sqlstate == "42501", wrong
        async with guest.connection.transaction():
            await guest.connection.execute("update shown set f = 5")
            xid = await mark(guest.connection, TOKEN)
    assert database.psql("select xid from flux.transaction") == str(xid) == database.changes()[-1].xid
    database.psql("truncate flux.transaction")


async def test_a_guest_never_gets_to_see_the_token(database: CapturedDatabase) -> None:
    register_token(database)
    secret = TOKEN.hex()
    async with open_guest(database) as guest, open_guest(database) as spy:
        connection = guest.connection
        await connection.execute("set search_path = pg_temp, shop")
        await connection.execute("create temp table seen (what text)")
        # What a call could pass through, all of it the guest's own and telling on it.
        note = "insert into pg_temp.seen values ($1::pg_catalog.text)"
        for name in ("sha256(pg_catalog.bytea)", "mark_transaction(pg_catalog.bytea)", "md5(pg_catalog.bytea)"):
            await connection.execute(
                f"create function pg_temp.{name} returns pg_catalog.bytea language sql as $f$ {note} returning $1 $f$"
            )
        await connection.execute(
            "create function pg_temp.tell(pg_catalog.bytea) returns pg_catalog.bool language plpgsql as "
            "$f$ begin insert into pg_temp.seen values ($1); return true; end $f$"
        )
        for domain, base in (("bytea", "pg_catalog.bytea"), ("uuid", "pg_catalog.uuid"), ("xid8", "pg_catalog.xid8")):
            check = " check (pg_temp.tell(value))" if domain == "bytea" else ""
            await connection.execute(f"create domain pg_temp.{domain} as {base}{check}")
        await connection.begin()
        await connection.execute("update shop.shown set f = 6")
        await mark(connection, TOKEN)
        looked = [
            *(await spy.connection.fetch("select to_json(a)::text from pg_stat_activity a")),
            *(await connection.fetch("select to_json(p)::text from pg_prepared_statements p")),
            *(await connection.fetch("select to_json(s)::text from pg_temp.seen s")),
            *(await connection.fetch("select to_json(s)::text from pg_settings s")),
            *(await connection.fetch("select to_json(c)::text from pg_cursors c")),
        ]
        await connection.commit()
        assert all(secret not in row[0] and TOKEN.decode() not in row[0] for row in looked)
        assert await connection.fetch("select * from pg_temp.seen") == []
        assert await refusal(connection, "select token_sha256 from flux.supervisor") == "42501"
        assert await refusal(connection, "select pg_read_file('postgresql.conf')") == "42501"
        assert await refusal(connection, "select value from flux.instance") == "42501"
    database.psql("truncate flux.transaction")


# The role.


def test_a_role_that_could_do_more_is_refused_as_a_guests(database: CapturedDatabase) -> None:
    database.psql("drop role if exists flux_guest_strong; create role flux_guest_strong login createdb")
    with pytest.raises(subprocess.CalledProcessError) as caught:
        database.psql("select flux.ensure_guest_role('strong', 'strong', 'x')")
    assert "has rights that a guest must not have" in "".join(caught.value.__notes__)
    database.psql("drop role flux_guest_strong")
    for tenant, schema in (("Acme", "shop"), ("a'b", "shop"), ("", "shop"), ("ok", "flux"), ("ok", "pg_catalog")):
        escaped = tenant.replace("'", "''")
        with pytest.raises(subprocess.CalledProcessError):
            database.psql(f"select flux.ensure_guest_role('{escaped}', '{schema}', 'x')")


async def test_one_tenants_guest_sees_nothing_of_anothers(database: CapturedDatabase) -> None:
    database.psql("select flux.ensure_guest_role('globex', 'globex', 'pw')")
    database.psql("create table if not exists globex.secrets (id int primary key, v text)")
    async with open_guest(database) as guest:
        for sql in ("select * from globex.secrets", "insert into globex.secrets values (1, 'x')",
                    "create table globex.mine (id int)"):  # fmt: skip
            assert await refusal(guest.connection, sql) == "42501"
    other = await connect(database.options("flux_guest_globex"))
    await other.execute("insert into secrets values (1, 'mine')")
    assert await refusal(other, "select * from shop.shown") == "42501"
    await other.aclose()
    database.psql("drop schema globex cascade")
