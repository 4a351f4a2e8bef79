"""A database that was restored into another cluster: its records, and what is recorded there next, are told apart.

Once by what is asked of the store, once with real servers, whose role is no superuser, as with a managed database. In
the other cluster, ids of transactions begin again and tables have other oids. The oracle is the database that the
backup was made of: what it answers of a time before the backup, the copy answers too.
"""

import json
import subprocess
import uuid
from collections.abc import Iterator
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from flux.execution import Interrupted, Returned, Transaction
from flux.store import migrate, restored
from flux.store.migrate import list_schema_migrations, prepare
from flux.store.moments import Moment, add_mark
from flux.store.postgres import Pool, connect
from flux.store.queries import QUERIES
from flux.store.reading import get_execution
from flux.store.records import RecordStore, commit_parameters, make_record
from flux.store.restored import (
    FROM_ELSEWHERE,
    Adopted,
    IdsOutOfReachError,
    RecordedOnCopyError,
    WritersOnCopyError,
)
from flux.store.row_blame import find_blame
from flux.store.row_states import find_state
from flux.store.row_versions import list_row_history
from flux.supervisor.recovery_store import DatabaseStore
from tests.conftest import Database, create_database
from tests.dev_process import running_serve, write_project
from tests.postgres_server import PostgresServer, older_bin_dir, running_postgres
from tests.stored_executions import TOKEN, commit_record, guest_connection, make_execution

TABLES = """
create schema if not exists shop;
create table shop.users (id int primary key, unused text, plan text, note text);
create table shop.gone (id int primary key);
grant all on all tables in schema shop to flux_guest_default;
insert into shop.gone values (1);
"""
STEPS = [
    "insert into shop.users values (1, 'x', 'free', 'a'), (2, 'x', 'free', 'b')",
    "update shop.users set plan = 'pro' where id = 1",
    "delete from shop.users where id = 2; insert into shop.users values (2, 'y', 'again', null)",
]


@pytest.fixture(scope="module")
def here() -> Iterator[PostgresServer]:
    """The cluster where a backup is made."""
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[PostgresServer]:
    """A new cluster, that notes when its own transactions commit."""
    with running_postgres(extra_settings=["track_commit_timestamp=on"]) as server:
        yield server


async def run(database: Database, sql: str, **changes: Any) -> uuid.UUID:
    """Have an execution do something in a transaction of its own."""
    async with guest_connection(database) as connection:
        await connection.begin("repeatable read")
        snapshot = await connection.fetch_value("select pg_current_snapshot()::text")
        for statement in sql.split(";"):
            await connection.execute(statement)
        transaction = Transaction("repeatable read", snapshot, None, committed=True, begun_by=1)
        execution = make_execution(transactions=(transaction,), **changes)
        await commit_record(connection, commit_parameters(make_record(execution), TOKEN))
        await connection.commit()
    return execution.id


async def ask(pool: Pool, moment: Moment) -> list[dict[str, Any]]:
    """The users as of a moment, without the column that is dropped meanwhile."""
    found = await find_state(pool, "shop", "users", None, moment, 100)
    rows = [{name: json.loads(value) for name, value in row.values.items()} for row in found.rows]
    one = await find_state(pool, "shop", "users", "1", moment, 100)
    assert [dict(row.values) for row in one.rows] == [dict(row.values) for row in found.rows[:1]]
    return [{name: value for name, value in row.items() if name != "unused"} for row in rows]


def in_savepoint(sql: str) -> str:
    """The block that has statements run in a transaction within the transaction."""
    return f"do $do$ begin {sql} exception when division_by_zero then raise; end $do$"


def restore(database: Database, server: PostgresServer, path: Path) -> Database:
    """Copy a database to another server, as docs/operations.md has it."""
    there = create_database(server)
    there.psql("do $$ begin create role flux_guest_default login; exception when duplicate_object then null; end $$")
    dump = ["pg_dump", "-Fc", "-f", str(path), database.name]
    load = ["pg_restore", "--exit-on-error", "--single-transaction", "-d", there.name, str(path)]
    for of, (program, *arguments) in ((database.server, dump), (server, load)):
        where = ["-h", of.host, "-p", str(of.port), "-U", of.user]
        subprocess.run([of.bin_dir / program, *where, *arguments], check=True)
    return there


async def start(database: Database) -> Adopted | None:
    """What each start of a server does."""
    connection = await connect(database.options())
    try:
        return (await prepare(connection)).adopted
    finally:
        await connection.aclose()


async def test_what_was_recorded_before_a_restore_stays_apart_from_what_is_recorded_after_it(
    here: PostgresServer, elsewhere: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = create_database(here)
    await start(database)
    async with guest_connection(database):
        database.psql(TABLES)
    pool = database.pool()
    old_ids: list[uuid.UUID] = []
    seen: list[tuple[Moment, list[dict[str, Any]]]] = []
    for step in STEPS:
        old_ids.append(await run(database, step))
        await add_mark(pool)
        row = database.psql("select pg_current_snapshot(), clock_timestamp()").split("|")
        await add_mark(pool)
        for moment in (Moment(snapshot=row[0]), Moment(time=datetime.fromisoformat(row[1]))):
            seen.append((moment, await ask(pool, moment)))
    # After this, columns have other numbers in the copy, and a table of the log is gone.
    database.psql("alter table shop.users drop column unused; drop table shop.gone")
    before = [await get_execution(pool, each) for each in old_ids]
    history = await list_row_history(pool, "shop", "users", "1")
    await pool.aclose()
    highest = int(database.psql("select max(xid::text::bigint) from flux.mutation"))

    there = await trio.to_thread.run_sync(restore, database, elsewhere, tmp_path / "backup")
    # Somebody repairs a row before Flux has started: by an id that a record has, or that is lower.
    there.psql("update shop.users set note = 'repaired' where id = 2")
    assert int(there.psql("select xid from flux.mutation where after ->> 'note' = 'repaired'")) < highest

    # What is refused changes nothing. An execution that was recorded on the copy has ids that others have too.
    served = create_database(elsewhere, there.name)
    await run(served, "update shop.users set plan = 'early' where id = 1")
    with pytest.raises(RecordedOnCopyError, match="were recorded on the copy"):
        await start(served)
    await check_writers(there, monkeypatch)
    # A cluster that is too far behind is refused, and nothing is half done.
    with monkeypatch.context() as patched:
        patched.setattr(restored, "SKIPPED_MAX", 1)
        with pytest.raises(IdsOutOfReachError, match="skips 1 ids at most"):
            await start(there)
    with monkeypatch.context() as patched:
        # The server's clock, by which executions get their ids, is not the database's.
        patched.setattr(restored, "datetime", Ahead)
        adopted = await start(there)
    assert there.psql("select since from flux.cluster order by number desc limit 1") == "2100-01-01 00:00:00+00"
    there.psql("update flux.cluster set since = clock_timestamp() where since > clock_timestamp()")
    assert adopted is not None and adopted.is_other_cluster and adopted.skipped > 0 and adopted.tables == 1
    assert "was restored from another cluster" in adopted.describe()
    assert await start(there) is None

    pool = there.pool()
    new = await run(there, "update shop.users set plan = 'max' where id = 1")
    log = there.psql("select xid, after ->> 'plan' from flux.mutation where table_name = 'users' order by seq")
    xids = [int(line.split("|")[0]) for line in log.splitlines()]
    assert log.endswith("|max") and xids[-1] > max(highest, *xids[:-1])
    assert [await get_execution(pool, each) for each in old_ids] == before
    assert [each.after for each in (await get_execution(pool, new))[1].mutations] == [
        '{"id":1,"plan":"max","note":"a"}'
    ]

    # What the old database said of a time, the copy says, though its rows have changed since.
    for moment, rows in seen:
        assert await ask(pool, moment) == rows, moment
    versions = await list_row_history(pool, "shop", "users", "1")
    assert versions[1:] == history and versions[0].execution == new
    assert not any(version.gap for version in versions)
    later, repaired, *_ = await list_row_history(pool, "shop", "users", "2")
    assert later.mutation.xid > highest and later.execution is None and later.mutation.after is not None
    assert "late" in later.mutation.after
    assert repaired.mutation.xid > highest and repaired.execution is None and repaired.mutation.after is not None
    assert "repaired" in repaired.mutation.after
    blame = await find_blame(pool, "shop", "users", "1")
    assert [(name, blame.versions[each.seq or 0].execution) for name, each in blame.columns.items()] == [
        ("id", old_ids[0]), ("plan", new), ("note", old_ids[0])
    ]  # fmt: skip
    await check_journals(there, pool, old_ids[0])
    await pool.aclose()

    # The way out that the refusal names: without records, with all rows.
    there.psql("drop schema flux, flux_views, flux_world cascade")
    assert await start(there) is None
    assert there.psql("select plan from shop.users order by id") == "max\nagain"


class Ahead(datetime):
    """A clock that goes wrong."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> "Ahead":
        return cls(2100, 1, 1, tzinfo=tz)


async def check_writers(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is made right while somebody may still log a row under an id of before."""
    with monkeypatch.context() as patched:
        patched.setattr(restored, "TRIES", 2)
        patched.setattr(restored, "PAUSE_S", 0)
        somebody = await connect(database.options())
        await somebody.begin()
        pid = await somebody.fetch_value("select pg_backend_pid() from pg_current_xact_id()")
        with pytest.raises(WritersOnCopyError, match=rf"those of PID .*\b{pid}\b.* don't"):
            await start(database)
        # It holds the log as well.
        await somebody.execute("update shop.users set note = 'late' where id = 2")
        with pytest.raises(WritersOnCopyError, match=rf"those of PID .*\b{pid}\b.* don't"):
            await start(database)
        await somebody.commit()
        await somebody.aclose()


async def check_journals(database: Database, pool: Pool, early: uuid.UUID) -> None:
    """An execution that ran in the other cluster after the backup names nothing of this one."""
    journal = DatabaseStore(pool)
    async with guest_connection(database) as somebody:
        await somebody.begin("repeatable read")
        await somebody.execute("update shop.users set note = 'b' where id = 2")
        xid = int(await somebody.fetch_value("select pg_current_xact_id()::text"))
        # It neither waits for somebody else's transaction nor ends it.
        assert await journal.list_committed(early, {xid}) == frozenset()
        await somebody.rollback()
    late = Transaction("repeatable read", f"{xid}:{xid + 1}:", xid, committed=True, begun_by=1)
    cut = make_execution(Interrupted("its server ended"), started_at_ns=1_764_079_339_504_000_000, transactions=(late,))
    assert await journal.add(cut)
    _, told = await get_execution(pool, cut.id)
    assert told.completeness == (FROM_ELSEWHERE,)
    assert [(each.snapshot, each.xid) for each in told.transactions] == [("", None)]
    # The same of a record whose snapshot is higher than what the log has.
    whole = make_execution(Returned(200, (), b""), started_at_ns=1_764_079_339_504_000_000, transactions=(late,))
    await RecordStore(pool).insert(make_record(whole))
    assert (await get_execution(pool, whole.id))[1].completeness == (FROM_ELSEWHERE,)


async def test_a_copy_within_the_cluster_keeps_what_was_recorded_on_it_before_a_start(
    here: PostgresServer, tmp_path: Path
) -> None:
    database = create_database(here)
    await start(database)
    async with guest_connection(database):
        database.psql(TABLES)
    first = await run(database, STEPS[0])
    copy = await trio.to_thread.run_sync(restore, database, here, tmp_path / "backup")
    # In a savepoint too: the server has its row under another id than the transaction's.
    copy.psql(in_savepoint("update shop.users set note = 'c' where id = 1;"))
    second = await run(copy, STEPS[1])
    adopted = await start(copy)
    assert adopted is not None and not adopted.is_other_cluster and adopted.skipped == 0
    pool = copy.pool()
    history = await list_row_history(pool, "shop", "users", "1")
    assert [version.execution for version in history] == [second, None, first]
    oid = copy.psql("select 'shop.users'::regclass::oid")
    assert copy.psql("select distinct relid from flux.mutation where table_name = 'users'") == oid
    await pool.aclose()


RECORDS = """
select 'mutation', m::text from flux.mutation m union all select 'execution', e::text from flux.execution e
union all select 'transaction', t::text from flux.transaction t union all select 'ddl', d::text from flux.ddl d
union all select 'shape', s::text from flux.table_shape s union all select 'mark', o::text from flux.moment o
order by 1, 2
"""


async def ask_world(database: Database, moments: list[Moment]) -> list[list[str]]:
    """What worlds of some moments are made of."""
    parts = ("world_changes", "world_undo", "world_ddl", "world_shapes")
    async with guest_connection(database) as guest:
        asked = [
            await guest.fetch(f"select w::text from flux.{part}($1, $2::text::pg_snapshot) w", TOKEN, moment.snapshot)
            for moment in moments
            for part in parts
        ]
    return [[row[0] for row in rows] for rows in asked]


async def test_an_upgraded_cluster_has_another_identifier_and_the_same_records(
    elsewhere: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_postgres(older_bin_dir()) as old:
        database = create_database(old)
        # By a Flux that did not note the cluster yet. A shape that is noted in a savepoint has two ids.
        earlier = tuple(each for each in list_schema_migrations() if each.version < 12)
        connection = await connect(database.options())
        with monkeypatch.context() as patched:
            patched.setattr(migrate, "list_schema_migrations", lambda: earlier)
            await migrate.migrate(connection)
        await connection.fetch_value(QUERIES.install_event_triggers)
        await connection.aclose()
        database.psql(f"create role flux_guest_default; {in_savepoint(TABLES)}")
        assert database.psql("select every(xmin <> xid::xid) from flux.table_shape") == "t"
        copy = await trio.to_thread.run_sync(restore, database, elsewhere, tmp_path / "backup")
        copied = await start(copy)
        assert copied is not None and copied.is_other_cluster
        assert await start(database) is None
        assert database.psql("select system_identifier = 0 from flux.cluster") == "f"

        pool = database.pool()
        executions = []
        seen = []
        for step in STEPS:
            executions.append(await run(database, step))
            await add_mark(pool)
            moment = Moment(snapshot=database.psql("select pg_current_snapshot()"))
            seen.append((moment, await ask(pool, moment)))
        traced = [await get_execution(pool, each) for each in executions]
        history = await list_row_history(pool, "shop", "users", "1")
        blame = await find_blame(pool, "shop", "users", "1")
        await pool.aclose()
        world = await ask_world(database, [moment for moment, _ in seen])
        assert sum(map(len, world)) > len(seen)
        records = database.psql(RECORDS)
        cluster = "select system_identifier from pg_control_system()"
        identifier = database.psql(cluster)
        with running_postgres(upgraded=old) as new:
            upgraded = Database(new, database.name)
            assert upgraded.psql(cluster) != identifier
            assert [await start(upgraded), await start(upgraded)] == [None, None]
            assert upgraded.psql("select count(*), count(distinct first_xid), max(since) from flux.cluster") == (
                "2|1|1970-01-01 00:00:00+00"
            )
            assert upgraded.psql(RECORDS) == records
            assert await ask_world(upgraded, [moment for moment, _ in seen]) == world
            pool = upgraded.pool()
            assert [await get_execution(pool, each) for each in executions] == traced
            assert await find_blame(pool, "shop", "users", "1") == blame
            later = await run(upgraded, "update shop.users set plan = 'max' where id = 1")
            assert [await ask(pool, moment) for moment, _ in seen] == [rows for _, rows in seen]
            newest, *others = await list_row_history(pool, "shop", "users", "1")
            assert newest.execution == later and others == history
            await pool.aclose()


FUNCTIONS = """\
from flux_guest import function


@function("POST /plan")
def plan(ctx, input):
    user = ctx.db.query_one("select id, plan from users where id = $1", input["id"])
    ctx.db.execute("update users set plan = $1 where id = $2", input["plan"], input["id"])
    return {"was": user["plan"]}


@function("POST /steps", atomic=False)
def steps(ctx, input):
    for number in (1, 2):
        with ctx.db.transaction():
            ctx.db.execute("update users set seen = seen + 1 where id = $1", number)
    return {}
"""
SCHEMA = """
create table users (id int primary key, unused text, plan text, seen int not null default 0);
insert into users values (1, 'x', 'free'), (2, 'x', 'free');
"""


@attrs.frozen
class Managed:
    """A database as a provider gives it: to a role that is no superuser."""

    database: Database
    """As that role."""
    by_superuser: Database

    def dump(self, path: Path) -> None:
        self._run("pg_dump", "-Fc", "-f", str(path), self.database.name)

    def load(self, path: Path) -> None:
        # First, and by that role: only who has made a role may give it a password.
        self.database.psql("create role flux_guest_main login")
        self._run("pg_restore", "--exit-on-error", "--single-transaction", "-d", self.database.name, str(path))

    def _run(self, program: str, *arguments: str) -> None:
        server = self.database.server
        where = ["-h", server.host, "-p", str(server.port), "-U", server.user]
        subprocess.run([server.bin_dir / program, *where, *arguments], check=True)


def make_managed(server: PostgresServer) -> Managed:
    server.psql("create role team login createrole createdb")
    server.psql("create database shop owner team")
    return Managed(Database(attrs.evolve(server, user="team"), "shop"), Database(server, "shop"))


def test_a_role_without_superuser_serves_a_database_and_its_copy_in_another_cluster(
    here: PostgresServer, elsewhere: PostgresServer, tmp_path: Path
) -> None:
    first, second = make_managed(here), make_managed(elsewhere)
    project = write_project(tmp_path, {"main.py": FUNCTIONS}, migrations={"001_users.sql": SCHEMA})
    with running_serve(project, first.database) as server:
        rights = next(check for check in server.json("doctor")["checks"] if check["name"] == "rights")
        assert "event triggers" in rights["detail"] and "track_commit_timestamp" in rights["detail"]
        old = server.request("POST", "/plan", b'{"id": 1, "plan": "pro"}')
        steps = server.request("POST", "/steps", b"{}")
        assert (old.status, old.json, steps.status) == (200, {"was": "free"}, 200)
        traced = server.json("trace", old.flux_id)
        assert traced["completeness"] == "whole"
        assert [row["after"]["plan"] for row in traced["mutations"]] == ["pro"]
        first.by_superuser.psql("update users set plan = 'outside' where id = 2")
        history = server.json("state", "history", "users", "1")
        last = server.json("state", "history", "users", "2")["versions"][0]
        assert last["outside"] and last["after"]["plan"] == "outside"
        # The backup is made while it serves.
        first.dump(tmp_path / "backup")
        server.request("POST", "/plan", b'{"id": 1, "plan": "after the backup"}')
    second.load(tmp_path / "backup")
    with running_serve(project, second.database) as server:
        server.wait_story("was restored from another cluster")
        new = server.request("POST", "/plan", b'{"id": 1, "plan": "max"}')
        assert new.json == {"was": "pro"} and server.request("POST", "/steps", b"{}").status == 200
        assert server.json("trace", old.flux_id) == traced
        newest, *others = server.json("state", "history", "users", "1")["versions"]
        assert (newest["after"]["seen"], others[0]["execution"]) == (2, new.flux_id)
        assert others[1:] == history["versions"]
        # Another question has no recorded answer: it is asked of the database of then, which is rebuilt.
        (project / "functions" / "main.py").write_text(FUNCTIONS.replace("select id, plan", "select plan, seen"))
        for execution, plan, seen in ((old, "free", 0), (new, "pro", 1)):
            (row,) = server.json("state", "at", "users", "1", "--before", execution.flux_id)["rows"]
            assert row["plan"] == plan
            replay = server.json("replay", execution.flux_id, "--on", ".", exit_code=1)
            assert (replay["verdict"], replay["reason"]) == ("changed", "it differs in what it asks"), replay
            assert replay["fidelity"] == {"matched": 1, "equal": 1} and replay["answers"]["world"] == 2
            assert replay["calls"][0]["replayed"]["result"]["rows"] == [[plan, seen]]
