"""``flux db``: migrations, one statement, a prompt, beginning again. What it did is asked of a second psql.

Most commands run in this process, where a start costs nothing; the last test has real ones beside a real ``flux dev``.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from flux.cli import main
from tests import documents
from tests.conftest import Database, create_database
from tests.dev_process import database_url, running_dev, write_project
from tests.postgres_server import PostgresServer

USERS = "create table users (id int primary key, plan text);\ninsert into users values (1, 'free');\n"
FUNCTION = """
from flux_guest import function

@function("POST /users")
async def add(ctx, input):
    await ctx.db.execute("insert into users values ($1, 'pro')", input["id"])
"""


@pytest.fixture
def bare(postgres18: PostgresServer) -> Database:
    """A database in which Flux has never been."""
    return create_database(postgres18)


@attrs.frozen
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def flux(project: Path, database: Database, *arguments: str, stdin: str = "") -> Done:
    """Run ``flux db ARGUMENTS`` on a database."""
    return flux_here(project, *arguments, "--database-url", database_url(database), stdin=stdin)


def flux_here(project: Path, *arguments: str, stdin: str = "") -> Done:
    """Run ``flux db ARGUMENTS`` on whatever database is the project's."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.chdir(project))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        stack.enter_context(pytest.MonkeyPatch.context()).setattr(sys, "stdin", io.StringIO(stdin))
        code = main(["db", *arguments])
    if "--json" in arguments:
        documents.check_command(arguments, out.getvalue(), err.getvalue())
    return Done(code, out.getvalue(), err.getvalue())


def project_of(folder: Path, **migrations: str) -> Path:
    """A project with a function, and migrations by number."""
    files = {f"{name[1:]}.sql": sql for name, sql in migrations.items()}
    return write_project(folder, {"users.py": FUNCTION}, migrations=files)


def test_migrations_are_looked_at_then_applied_once(tmp_path: Path, bare: Database) -> None:
    project = project_of(tmp_path, _001=USERS)
    looked = flux(project, bare, "migrate", "--dry-run")
    assert (looked.returncode, looked.stdout) == (0, "would apply migrations/001.sql\n")
    assert bare.psql("select count(*) from pg_namespace where nspname = 'flux'") == "0", "a dry run changes nothing"

    assert flux(project, bare, "migrate").stdout == "✓ migrations/001.sql\n"
    assert bare.psql("select plan from users") == "free"
    again = flux(project, bare, "migrate", "--json")
    assert json.loads(again.stdout)["done"] == [] and again.returncode == 0
    assert bare.psql("select count(*) from users") == "1"

    (project / "migrations" / "001.sql").write_text(USERS + "-- since then\n")
    changed = flux(project, bare, "migrate")
    assert changed.returncode == 2 and "FLX235  migrations/001.sql was changed" in changed.stderr


def test_a_step_that_takes_data_away_is_named_and_refused_until_it_is_allowed(tmp_path: Path, bare: Database) -> None:
    project = project_of(tmp_path, _001=USERS)
    flux(project, bare, "migrate")
    (project / "migrations" / "002.sql").write_text("alter table users add x int;\nalter table users drop column plan")
    refused = flux(project, bare, "migrate")
    assert refused.returncode == 2
    assert "FLX591  migrations/002.sql:2  drops column users.plan" in refused.stderr
    assert bare.psql("select plan from users") == "free", "nothing of the migration was applied"
    assert flux(project, bare, "migrate", "--dry-run").returncode == 1
    assert flux(project, bare, "migrate", "--allow-destructive").returncode == 0
    assert bare.psql("select count(*) from information_schema.columns where table_name = 'users'") == "2"


def test_files_and_a_database_of_two_histories_are_refused_until_it_is_allowed(tmp_path: Path, bare: Database) -> None:
    project = project_of(tmp_path, _001=USERS, _003="create table c (id int)")
    flux(project, bare, "migrate")
    (project / "migrations" / "003.sql").unlink()
    (project / "migrations" / "002.sql").write_text("create table b (id int)")
    missing = flux(project, bare, "migrate")
    assert missing.returncode == 2 and "FLX590  migrations/003.sql was applied to this database" in missing.stderr
    (project / "migrations" / "003.sql").write_text("create table c (id int)")
    early = flux(project, bare, "migrate")
    assert "migrations/002.sql comes before migrations/003.sql" in early.stderr
    assert flux(project, bare, "migrate", "--allow-drift").stdout == "✓ migrations/002.sql\n"


def test_a_statement_has_the_rights_of_functions_and_a_write_is_on_record_as_from_outside(
    tmp_path: Path, bare: Database
) -> None:
    project = project_of(tmp_path, _001=USERS)
    assert "FLX596" in flux(project, bare, "query", "select 1").stderr, "Flux has never been there"
    flux(project, bare, "migrate")
    found = json.loads(flux(project, bare, "query", "select id, plan, 1.50::numeric as n from users", "--json").stdout)
    assert found["rows"] == [[1, "free", {"$decimal": "1.50"}]]
    assert [column["name"] for column in found["columns"]] == ["id", "plan", "n"]

    before = bare.psql("select * from users")
    for statement, why in [
        ("update users set plan = 'x'", "the statement writes"),
        ("select * from flux.execution", "functions may not do that"),
        ("drop table users", "the statement writes"),
        ("commit", "COMMIT is refused"),
        ("select 1; select 2", "these are 2 statements"),
        ("set role none", "SET is refused"),
    ]:
        refused = flux(project, bare, "query", statement)
        assert (refused.returncode, why in refused.stderr) == (2, True), refused.stderr
    assert "functions may not do that" in flux(project, bare, "query", "--write", "drop table users").stderr
    assert bare.psql("select * from users") == before

    assert flux(project, bare, "query", "--write", "update users set plan = 'pro'").stdout == "UPDATE 1\n"
    assert bare.psql("select outside, after->>'plan' from flux.mutation where op = 'U'") == "t|pro"


def test_hostile_rows_do_not_reach_the_terminal(tmp_path: Path, bare: Database) -> None:
    project = project_of(tmp_path, _001=USERS)
    flux(project, bare, "migrate")
    bare.psql(r"update users set plan = E'\x1b]0;owned\x07'")
    shown = flux(project, bare, "query", "select plan from users").stdout
    assert "owned" in shown and "\x1b" not in shown and "\x07" not in shown


def test_a_prompt_runs_statements_and_says_what_failed(tmp_path: Path, bare: Database) -> None:
    project = project_of(tmp_path, _001=USERS)
    flux(project, bare, "migrate")
    script = "select count(*)\nfrom users;\nnonsense;\nupdate users set plan = ';';\n"
    plain = flux(project, bare, "shell", "--plain", stdin=script)
    assert plain.stdout == "count\n1\nUPDATE 1\n" and "nonsense" in plain.stderr
    assert plain.returncode == 1, "a script in which a statement failed has failed"
    assert bare.psql("select plan from users") == ";"
    bare.psql("update users set plan = 'free'")

    words = [sys.executable, "-m", "flux", "db", "shell", "--database-url", database_url(bare)]
    psql = subprocess.run(words, cwd=project, input=script, capture_output=True, text=True, timeout=120, check=False)
    assert "(1 row)" in psql.stdout and "nonsense" in psql.stderr
    assert bare.psql("select plan from users") == ";"


def test_a_reset_is_for_devs_own_database(tmp_path: Path, bare: Database) -> None:
    project = project_of(tmp_path, _001=USERS)
    flux(project, bare, "migrate")
    refused = flux(project, bare, "reset", "--yes")
    assert refused.returncode == 2 and "FLX593" in refused.stderr
    bare.psql("update users set plan = 'pro'; create type mood as enum ('a'); create table other (m mood)")
    bare.psql("create view pros as select * from users; create schema apart; create table apart.kept (id int)")
    bare.psql("create table days (id int generated always as identity, d date) partition by range (d)")
    bare.psql("create table days_1 partition of days default; create sequence alone")
    bare.psql("create function f() returns int language sql as 'select 1'")
    assert flux(project, bare, "reset", "--allow-external").returncode == 2, "it asks, and there is nobody to ask"
    done = flux(project, bare, "reset", "--yes", "--allow-external")
    assert done.returncode == 0, done.stderr
    kinds = "('r', 'p', 'v', 'S')"
    left = f"select relname from pg_class where relnamespace = 'public'::regnamespace and relkind in {kinds}"
    assert bare.psql(left) == "users"
    assert bare.psql("select count(*) from pg_proc where pronamespace = 'public'::regnamespace") == "0"
    assert bare.psql("select count(*) from pg_type where typname = 'mood'") == "0"
    assert bare.psql("select plan from users") == "free"
    assert bare.psql("select count(*) from flux.mutation") != "0", "records stay"
    assert bare.psql("select count(*) from apart.kept") == "0", "another schema of somebody's is let be"
    assert flux(project, bare, "query", "select id from users").returncode == 0, "functions may read the new table"
    assert flux(project, bare, "reset", "--yes", "--allow-external", "--records").returncode == 0
    assert bare.psql("select count(*) from flux.mutation") == "1", "what the migration has just written"


RICH = """
create type mood as enum ('ok', 'bad');
create domain positive as int check (value > 0);
create table users (id bigserial primary key, plan text default 'free' not null, m mood, email varchar(80) unique);
create table orders (id int generated by default as identity primary key,
                     owner bigint references users on delete cascade, total numeric(10,2) check (total > 0),
                     twice numeric generated always as (total * 2) stored);
create index orders_owner on orders (owner) where total > 10;
create function next_one(x int) returns int language sql as 'select x + 1';
create function keep() returns trigger language plpgsql as $$ begin return new; end $$;
create trigger kept before insert on users for each row execute function keep();
create view plans as select id, plan from users;
create view pros as select id from plans where plan = 'pro';
create materialized view counted as select count(*) as n, max(next_one(id::int)) as m from pros;
create unique index counted_n on counted (n);
create type nothing as enum ();
create table days (id int, d date) partition by range (d);
create table days_2026 partition of days for values from ('2026-01-01') to ('2027-01-01');
alter table users enable row level security;
create policy everybody on users for select using (true);
"""
OTHER = """
create type mood as enum ('ok', 'so so', 'bad');
create table users (id bigserial primary key, plan text, m mood, email text, extra jsonb default '{}');
create table orders (id int generated by default as identity primary key, total numeric(10,2),
                     twice numeric generated always as (total * 2) stored);
create table notes (id serial primary key, order_id int references orders, up int references notes, text text);
create function next_one(x int) returns int language sql as 'select x + 2';
create view plans as select id, plan, email from users;
create view pros as select id from plans where plan = 'pro';
create materialized view counted as select count(*) as n, max(next_one(id::int)) as m from pros;
create unique index counted_n on counted (n);
create type nothing as enum ('something');
create unique index users_email on users (lower(email));
"""
CATALOG = """
select table_name, column_name, data_type, udt_name, character_maximum_length, numeric_precision, numeric_scale,
       column_default, is_nullable, is_identity, generation_expression from information_schema.columns
where table_schema = 'public' order by 1, 2;
select tablename, indexname, indexdef from pg_indexes where schemaname = 'public' order by 1, 2;
select conrelid::regclass::text, conname, pg_get_constraintdef(oid) from pg_constraint
where connamespace = 'public'::regnamespace and contype <> 'n' order by 1, 2;
select tgrelid::regclass::text, tgname from pg_trigger
where not tgisinternal and tgname not like '!flux%' order by 1, 2;
select proname, prosrc from pg_proc where pronamespace = 'public'::regnamespace order by 1;
select typname, enumlabel from pg_enum join pg_type t on t.oid = enumtypid order by 1, enumsortorder;
select tablename, policyname from pg_policies order by 1; select matviewname from pg_matviews;
select viewname, definition from pg_views where schemaname = 'public' order by 1;
"""


def test_a_schema_changed_by_hand_is_seen_and_put_back(tmp_path: Path, bare: Database) -> None:
    project = project_of(tmp_path, _001=RICH)
    assert flux(project, bare, "diff").returncode == 2, "Flux has never been there"
    flux(project, bare, "migrate")
    bare.psql("insert into users (plan) values ('pro')")
    same = flux(project, bare, "diff")
    assert (same.returncode, same.stdout) == (0, "the live schema is what the applied migrations make\n"), same.stdout
    before = bare.psql(CATALOG)

    bare.psql("alter table users alter plan drop not null; drop index orders_owner; drop view plans cascade")
    bare.psql("create table extra ()")
    told = json.loads((done := flux(project, bare, "diff", "--json")).stdout)
    assert done.returncode == 1 and told["against"] == "migrations"
    assert [(each["change"], each["kind"], each["name"]) for each in told["differences"]] == [
        ("changed", "column", "users.plan"), ("missing", "index", "counted_n"), ("missing", "index", "orders_owner"),
        ("missing", "materialized view", "counted"), ("extra", "table", "extra"), ("missing", "view", "plans"),
        ("missing", "view", "pros"),
    ]  # fmt: skip
    assert "FLX593" in flux(project, bare, "push").stderr, "it is not dev's own database"
    refused = flux(project, bare, "push", "--allow-external")
    assert refused.returncode == 2 and "FLX591  drops table extra" in refused.stderr
    assert flux(project, bare, "push", "--allow-external", "--allow-destructive").returncode == 0
    assert bare.psql(CATALOG) == before
    assert bare.psql("select plan from users") == "pro"
    assert bare.psql("select count(*) from pg_database where datname like 'flux_rehearsal%'") == "0"


def test_a_live_schema_is_brought_to_schema_sql_and_keeps_its_rows(
    tmp_path: Path, bare: Database, postgres18: PostgresServer
) -> None:
    project = project_of(tmp_path)
    other = create_database(postgres18)
    other.psql(OTHER)
    wanted = other.psql(CATALOG)
    (project / "schema.sql").write_text(RICH)
    assert flux(project, bare, "push", "--allow-external").returncode == 0
    bare.psql("insert into users (plan, m, email) values ('pro', 'bad', 'a@b.c')")
    bare.psql("insert into orders (owner, total) values (1, 5)")
    (project / "schema.sql").write_text(OTHER)
    assert flux(project, bare, "diff").returncode == 1
    assert "FLX591" in flux(project, bare, "push", "--allow-external").stderr
    assert bare.psql("select count(*) from days") == "0", "nothing was changed"
    pushed = flux(project, bare, "push", "--allow-external", "--allow-destructive")
    assert pushed.returncode == 0, pushed.stderr
    assert bare.psql(CATALOG) == wanted
    assert bare.psql("select plan, m, email, extra from users") == "pro|bad|a@b.c|{}"
    assert bare.psql("select total, twice from orders") == "5.00|10.00"
    again = flux(project, bare, "push", "--allow-external")
    assert again.stdout == "nothing to do: the live schema is what schema.sql says\n"

    (project / "schema.sql").write_text(OTHER.replace("text text", "text text not null, x int check (x > 0)"))
    bare.psql("insert into notes (text) values (null)")
    stuck = flux(project, bare, "push", "--allow-external")
    assert stuck.returncode == 2 and "FLX592" in stuck.stderr and "null values" in stuck.stderr
    assert bare.psql(CATALOG) == wanted, "nothing of a push that fails stays"


def test_commands_use_the_database_of_the_server_that_runs(tmp_path: Path, bare: Database) -> None:
    project = project_of(tmp_path, _001=USERS)
    ids = ("query", "select id from users order by 1", "--json")
    with running_dev(project) as server:
        assert server.request("POST", "/users", {"id": 2}).status == 204
        assert server.json("db", *ids[:2])["rows"] == [[1], [2]]
        assert "embedded, the running server's" in flux_here(project, "query", "select 1").stderr
        refused = flux(project, bare, "query", "select 1")
        assert refused.returncode == 2 and "FLX594" in refused.stderr
        assert "FLX598" in flux_here(project, "reset", "--yes", "--records").stderr
        assert json.loads(flux_here(project, "reset", "--yes", "--json").stdout)["done"] == ["migrations/001.sql"]
        assert server.request("POST", "/users", {"id": 2}).status == 204, "functions work on the new table"
        assert json.loads(flux_here(project, *ids).stdout)["rows"] == [[1], [2]]
        (project / "migrations" / "001.sql").write_text(USERS.replace("'free'", "'paid'"))
        server.wait_story("was changed after it had been applied")
        told = len(server.story)
        assert flux_here(project, "reset", "--yes").returncode == 0
        server.wait_story("reload", after=told)  # Nothing was saved since.
        assert json.loads(flux_here(project, "query", "select plan from users", "--json").stdout)["rows"] == [["paid"]]
        assert server.request("POST", "/users", {"id": 2}).status == 204
    assert json.loads(flux_here(project, *ids).stdout)["rows"] == [[1], [2]], "started when no server runs"


def test_a_database_that_only_the_server_was_told_of_is_never_guessed(tmp_path: Path, bare: Database) -> None:
    project = project_of(tmp_path, _001=USERS)
    (project / ".flux").mkdir()
    said = {"url": "http://127.0.0.1:1", "token": "t", "pid": os.getpid(), "database": bare.options().place}
    (project / ".flux" / "dev.json").write_text(json.dumps(said))
    refused = flux_here(project, "migrate")
    assert refused.returncode == 2 and "FLX594" in refused.stderr and bare.options().place in refused.stderr
    assert not (project / ".flux" / "pg").exists(), "no other database was made"
    assert flux(project, bare, "migrate").returncode == 0


def test_a_variable_names_the_database_where_no_other_user_reads_it(
    tmp_path: Path, bare: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = project_of(tmp_path)
    monkeypatch.setenv("FLUXRT_DATABASE_URL", database_url(bare))
    assert flux_here(project, "migrate").returncode == 0
    asked = flux_here(project, "query", "select current_database() as name", "--json")
    assert asked.returncode == 0 and bare.name in asked.stdout, asked
    # What is typed counts for more.
    other = flux_here(project, "query", "select 1", "--database-url", "mysql://x")
    assert other.returncode != 0 and "FLX203" in other.stderr, other
    # Nothing that a server starts inherits it.
    assert main(["dev", "--clean"]) == 2
    assert "FLUXRT_DATABASE_URL" not in os.environ
    monkeypatch.setenv("FLUXRT_DATABASE_URL", database_url(bare))
    assert main(["serve", "--tls-key", "key.pem"]) == 2
    assert "FLUXRT_DATABASE_URL" not in os.environ
