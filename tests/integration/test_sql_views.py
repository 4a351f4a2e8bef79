"""The views for reports: what they show, to whom, how much of the tables they read, and that their page is true.

All is asked by psql, in the session of a role that was made as docs/sql-views.md says.
"""

import re
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from flux.execution import Trigger
from flux.store import migrate as migrating
from flux.store.migrate import ensure_guest, list_schema_migrations, prepare
from flux.store.postgres import connect
from tests.conftest import Database, create_database
from tests.console_world import World, make_call, make_execution, open_world, raised
from tests.postgres_server import PostgresServer

PAGE = Path(__file__).parents[2] / "docs" / "sql-views.md"
SECRET = "s3cr3t-value"
VIEWS = ("deployments", "error_groups", "executions", "incidents", "jobs", "mutations", "row_versions")

DESCRIBED = """
select format(E'## %s\\n\\n%s\\n\\n| column | type | |\\n|---|---|---|\\n%s\\n', c.relname,
       obj_description(c.oid, 'pg_class'),
       string_agg(format('| `%s` | %s | %s |', a.attname, format_type(a.atttypid, null),
                         replace(col_description(c.oid, a.attnum), '|', '\\|')), E'\\n' order by a.attnum))
from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0
where c.relnamespace = 'flux_views'::regnamespace and c.relkind = 'v' group by c.oid, c.relname order by c.relname
"""


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    async with open_world(database) as opened:
        yield opened


def asking(database: Database, role: str) -> Callable[[str], str]:
    """What asks as that role, in a session of its own."""
    return lambda sql: database.server.psql(sql, database.name, user=role)


def make_reader(database: Database, name: str) -> Callable[[str], str]:
    """Make a role as the page says; return what asks as it."""
    (script,) = re.findall(r"```sql\n(create role .*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    database.psql(script.replace("reports", name).replace("DATABASE", database.name))
    return asking(database, name)


def refused(ask: Callable[[str], str], sql: str) -> str:
    """What PostgreSQL says to a statement that it refuses."""
    with pytest.raises(subprocess.CalledProcessError) as caught:
        ask(sql)
    return str(caught.value.stderr)


def test_the_page_has_every_view_and_column_as_the_database_describes_them(database: Database) -> None:
    described = database.psql(DESCRIBED)
    assert described.count("## ") == len(VIEWS) and "|  |" not in described
    assert described in PAGE.read_text(encoding="utf-8")


async def test_a_reader_sees_what_happened_and_no_value_of_it_and_can_do_nothing(world: World) -> None:
    ask = make_reader(world.database, f"reports_{world.database.name}")
    calls = (make_call(1, "db.query", {"sql": SECRET}, SECRET),)
    written = await world.run_as_guest(
        make_execution(body=f'{{"email":"{SECRET}"}}'.encode(), calls=calls),
        f"insert into users values (42, '{SECRET}', 'free')", "update users set plan = 'pro' where id = 42",
    )  # fmt: skip
    world.database.psql("update users set plan = 'past Flux' where id = 42; delete from users where id = 42")
    failed = [make_execution(raised(), at_s=at_s) for at_s in (1, 2)]
    replay = make_execution(raised(), at_s=3, replay_of=failed[0].id, trigger=Trigger("replay"))
    await world.add(*failed, replay)
    world.database.psql(
        f"""insert into flux.job (id, tenant, function, payload, parent, run_at, state, error)
            values (gen_random_uuid(), 'main', 'mail', '{SECRET}', '{written.id}', now(), 'dead', '{SECRET}');
            insert into flux.deployment (id, tenant, sha, dirty, artifact_hash, functions)
            values ('d1', 'main', 'a', false, 'h', '[]');
            insert into flux.deploy (tenant, deployment, sha, dirty, functions, cause, runtime)
            values ('main', 'd1', 'a', false, '["mail"]', 'deploy', '{{}}'),
                   ('main', 'd1', 'a', false, '["mail"]', 'rollback', '{{}}');
            insert into flux.incident (tenant, name, since, until) values ('main', 'outage', now(), now())"""
    )
    assert ask("select name, status, failed, calls, elapsed_ms from flux_views.executions "
               f"where id = '{written.id}'") == f"{written.name}|201|f|1|14.2"  # fmt: skip
    groups = ask("select executions, functions, latest from flux_views.error_groups")
    assert groups == f"2|{{create_user}}|{failed[1].id}"
    assert ask("select op, columns, committed, outside, execution from flux_views.mutations order by seq") == "\n".join(
        (f"insert|{{email,id,plan}}|t|f|{written.id}", f"update|{{plan}}|t|f|{written.id}", "update|{plan}|t|t|",
         "delete|{email,id,plan}|t|t|")
    )  # fmt: skip
    row = "row_hash = flux_views.row_hash('public', 'users', '{\"id\":42}')"
    assert ask("select version, op, until is null, execution from flux_views.row_versions "
               f"where {row} order by version") == "\n".join([
        f"1|insert|f|{written.id}", f"2|update|f|{written.id}", "3|update|f|", "4|delete|t|",
    ])  # fmt: skip
    assert ask("select function, state, pushed_by from flux_views.jobs") == f"mail|dead|{written.id}"
    assert ask("select cause, until is null from flux_views.deployments order by since") == "deploy|f\nrollback|t"
    assert ask("select name from flux_views.incidents") == "outage"
    for view in VIEWS:
        assert SECRET not in ask(f"select v::text from flux_views.{view} v"), view
    for sql, reason in (
        ("select body from flux.execution", "permission denied for schema flux"),
        ("select * from flux.summary", "permission denied for schema flux"),
        ("select * from users", "permission denied for table users"),
        ("create temporary table mine (id int)", "read-only transaction"),
        ("insert into flux_views.incidents values ('main', 'x', now(), now(), now())", "permission denied for view"),
        # Who lifts that for himself has no more rights for it.
        ("begin read write; delete from flux_views.incidents", "permission denied for view"),
        ("begin read write; create view flux_views.mine as select 1", "permission denied for schema"),
    ):
        assert reason in refused(ask, sql), sql


async def test_the_functions_of_tenants_see_nothing_of_the_views(
    postgres: PostgresServer, make_database: Callable[[PostgresServer], Database]
) -> None:
    database = make_database(postgres)
    connection = await connect(database.options())
    await ensure_guest(connection, "main", "public", "")
    await connection.aclose()
    named = database.psql(
        "select c.relname from pg_class c where c.relnamespace = 'flux_views'::regnamespace order by c.relname"
    )
    assert tuple(named.split()) == VIEWS
    wanted = "'usage') or has_schema_privilege('flux_guest_main', 'flux_views', 'create"
    assert database.psql(f"select has_schema_privilege('flux_guest_main', 'flux_views', {wanted}')") == "f"
    guest = asking(database, "flux_guest_main")
    for view in VIEWS:
        may = database.psql(f"select has_any_column_privilege('flux_guest_main', 'flux_views.{view}', 'select')")
        assert may == "f", view
        assert "permission denied for schema flux_views" in refused(guest, f"select * from flux_views.{view}")
    assert "permission denied for schema" in refused(guest, "select flux_views.first_id(now())")
    # Who may read one database's views may not read another's: a tenant has a database.
    reader = f"reports_{database.name}"
    make_reader(database, reader)
    other = asking(make_database(postgres), reader)
    assert "permission denied for schema flux_views" in refused(other, "select * from flux_views.executions")


def test_a_bound_keeps_a_query_to_its_days_and_a_key_to_its_row(database: Database) -> None:
    database.psql("select flux.ensure_partition(t, '2025-11-20'::date + n) "
                  "from unnest('{execution,mutation}'::text[]) t, generate_series(0, 9) n")  # fmt: skip
    ask = make_reader(database, f"reports_{database.name}")

    def read(sql: str, table: str) -> tuple[set[str], str]:
        plan = ask(f"explain {sql}")
        return set(re.findall(rf"\b({table}_(?:p\d+|default))\b", plan)), plan

    days, _ = read("select * from flux_views.executions where id >= flux_views.first_id('2025-11-22Z') "
                   "and id < flux_views.first_id('2025-11-24Z')", "execution")  # fmt: skip
    assert days == {"execution_p20251122", "execution_p20251123"}
    days, plan = read("select count(*) from flux_views.mutations where at >= '2025-11-22Z' and at < '2025-11-23Z'",
                      "mutation")  # fmt: skip
    assert days == {"mutation_p20251122"} and "SubPlan" not in plan and "execution_" not in plan
    plan = ask("explain select * from flux_views.row_versions "
               "where row_hash = flux_views.row_hash('public', 'users', '{}')")  # fmt: skip
    assert re.search(r"Index Cond: \(+hashtextextended\(", plan) and "Seq Scan on mutation" not in plan
    # Since when is known only when it is run: partitions are left out then.
    explain = "explain (analyze, costs off, timing off, summary off)"
    plan = ask(f"{explain} select * from flux_views.executions where id >= flux_views.first_id(now() - interval '1 h')")
    assert re.search(r"Subplans Removed: \d\d", plan)
    database.psql("create table users (id int); insert into users values (1)")
    plan = ask(f"{explain} select execution from flux_views.mutations where at > now() - interval '1 hour'")
    looked_into = re.findall(r" on execution_p\d+ e_\d+ \(actual", plan)
    assert 1 <= len(looked_into) <= 3 and len(re.findall(r" on execution_p\d+ e_\d+ \(never executed", plan)) > 10


async def test_an_upgrade_that_makes_the_views_is_no_change_of_the_users_schema(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = create_database(postgres)
    all_of_them = list_schema_migrations()
    (made,) = (each for each in all_of_them if each.name == "views")
    before = all_of_them[: all_of_them.index(made)]
    connection = await connect(database.options())
    monkeypatch.setattr(migrating, "list_schema_migrations", lambda: before)
    await prepare(connection)
    assert database.psql("select count(*) from pg_namespace where nspname = 'flux_views'") == "0"
    monkeypatch.setattr(migrating, "list_schema_migrations", lambda: all_of_them)
    await prepare(connection)
    await connection.aclose()
    assert database.psql(f"select count(*) from flux.schema_version where version = {made.version}") == "1"
    assert database.psql("select count(*) from flux.ddl") == "0"
    database.psql("create table users (id int)")
    assert database.psql("select command, object_identity from flux.ddl") == "CREATE TABLE|public.users"
    database.psql("drop schema flux_views cascade")
    assert database.psql("select count(*) from flux.ddl") == "1"
