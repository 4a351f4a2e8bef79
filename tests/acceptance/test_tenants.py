"""Two tenants of one server, one of them hostile: what it tries on the other, and the wall that each attempt meets.

One server for all. The wolf tries as its functions (SQL over HTTP), as the role that its migrations run as (a psql of
its own, since what a migration says is any SQL), with its tokens, and through its flux.toml. What the lamb has is
looked at with a superuser's psql.
"""

import json
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import pytest

from flux.supervisor.turns import TURNS_MAX
from tests.browser import open_browser
from tests.conftest import Database
from tests.dev_process import Answer, DevServer, run_flux, running_serve, write_project
from tests.postgres_server import PostgresServer
from tests.shell_blocks import read_steps

FUNCTIONS = {
    "app.py": """
from flux_guest import Context, function


@function("POST /sql", atomic=False, timeout="120s")
async def sql(ctx: Context, input):
    try:
        return {"rows": [[str(value) for value in dict(row).values()] for row in await ctx.db.query(input["sql"])]}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


@function("POST /secret")
async def secret(ctx: Context, input):
    try:
        return {"value": await ctx.secrets.reveal(input["name"])}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


@function("POST /notes")
async def add(ctx: Context, input):
    await ctx.db.execute("insert into notes (text) values ($1)", input["text"])
    await ctx.queue.push("later", {"text": input["text"]}, delay=86400)
    return {"ok": True}


@function("POST /burn")
async def burn(ctx: Context, input):
    return {"sum": sum(n * n for n in range(input["n"]))}


@function()
async def later(ctx: Context, input):
    return None
"""
}
MIGRATIONS = {"001.sql": "create table notes (id int generated always as identity primary key, text text)"}
TREASURE = "the lamb's own 4711"
LOCK = 4711
PATIENCE_S = 120.0


@attrs.frozen
class Two:
    """A server with a wolf and a lamb."""

    server: DevServer
    database: Database
    wolf: Path
    lamb: Path

    def ask(self, tenant: str, method: str, path: str, body: object = None, **headers: str) -> Answer:
        fields = {"host": f"{tenant}.localhost:{self.server.port}"} | headers
        return self.server.request(method, path, body, fields)

    def console(self, tenant: str, token_of: str, path: str, body: object = None) -> Answer:
        """Ask a tenant's console with the token of another."""
        token = json.loads((getattr(self, token_of) / ".flux" / "dev.json").read_bytes())["token"]
        method = "GET" if body is None else "POST"
        return self.ask(tenant, method, f"/_flux/api/{path}", body, authorization=f"Bearer {token}")

    def flux(self, tenant: str, *arguments: str, value: str = "") -> subprocess.CompletedProcess[str]:
        return run_flux(getattr(self, tenant), *arguments, stdin=value)

    def as_guest(self, sql: str) -> str:
        """What the wolf's function hears of its SQL."""
        answer = self.ask("wolf", "POST", "/sql", {"sql": sql})
        assert answer.status == 200, answer.body
        return str(answer.json.get("error") or f"rows: {answer.json['rows']}")

    def as_owner(self, sql: str, database: str = "flux_tenant_wolf") -> str:
        """What the role of the wolf's migrations hears."""
        try:
            return "rows: " + self.database.server.psql(sql, database, user="flux_owner_wolf")
        except subprocess.CalledProcessError as error:
            return str(error.stderr)

    def wait_use(self, tenant: str, *, running: int, waiting: int) -> None:
        """Wait until so many of a tenant's executions run and so many wait for a turn."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            [seen] = self.server.json("tenant", "show", tenant)["tenants"]
            if (seen["use"]["running"], seen["use"]["waiting"]) == (running, waiting):
                return
            assert time.monotonic() < deadline, seen["use"]
            time.sleep(0.2)

    def in_lamb(self, sql: str) -> str:
        """What a superuser sees in the lamb's database."""
        return self.database.server.psql(sql, "flux_tenant_lamb")


@pytest.fixture(scope="module")
def two(
    postgres18: PostgresServer, make_database: Callable[[PostgresServer], Database],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Two]:  # fmt: skip
    folder = tmp_path_factory.mktemp("tenants")
    home, wolf, lamb = (
        write_project(folder / name, FUNCTIONS, migrations=MIGRATIONS) for name in ("home", "wolf", "lamb")
    )
    database = make_database(postgres18)
    with running_serve(home, database) as server:
        refused = server.command("tenant", "add", "wolf", "--folder", str(wolf))
        assert refused.returncode == 2 and "FLX812" in refused.stderr, "PUBLIC can connect to a database that was given"
        statements = re.findall(r"(?:revoke|grant) connect [^;\n]*", refused.stderr)
        assert len(statements) == 2
        database.psql("; ".join(statements))
        server.json("tenant", "add", "wolf", "--folder", str(wolf), "--host", "api.wolf.test", "--concurrency", "2")
        server.json("tenant", "add", "lamb", "--folder", str(lamb))
        both = Two(server, database, wolf, lamb)
        assert both.flux("lamb", "secrets", "set", "LAMB_KEY", value=TREASURE).returncode == 0
        assert both.ask("lamb", "POST", "/notes", {"text": TREASURE}).status == 200
        both.in_lamb(f"select lo_from_bytea(777777, '{TREASURE.replace(chr(39), '')}')")
        yield both
        assert [each["up"] for each in server.json("tenant", "list")["tenants"]] == [True, True], server.story
        for name in ("wolf", "lamb"):
            server.json("tenant", "remove", name, "--yes", "--drop-data")
        left = "select count(*) from pg_roles where rolname ~ 'wolf|lamb'"
        assert database.psql(left) == "0"


GUEST = [
    ("select * from flux_tenant_lamb.public.notes", "cross-database references"),
    ("select * from flux.secret", "permission denied"),
    ("select * from flux.token", "permission denied"),
    ("select * from flux.execution", "permission denied"),
    ("select * from flux.tenant", "permission denied"),
    ("select set_config('search_path', 'flux', false), (select count(*) from flux.job)", "permission denied"),
    ("set role flux_guest_lamb", "FLX|refused|permission denied|not allowed|can't"),
    ("select set_config('role', 'flux_guest_lamb', false)", "permission denied"),
    ("select set_config('session_authorization', 'flux_guest_lamb', false)", "permission denied"),
    ("select query from pg_stat_activity", "permission denied"),
    ("select * from pg_stat_get_activity(null)", "permission denied"),
    ("select * from pg_locks", "permission denied"),
    ("select * from pg_lock_status()", "permission denied"),
    ("select * from pg_stat_database", "permission denied"),
    ("select rolpassword from pg_authid", "permission denied"),
    ("select pg_terminate_backend({lamb_pid})", "permission denied"),
    ("select pg_cancel_backend({lamb_pid})", "permission denied"),
    ("select pg_read_file('/etc/passwd')", "permission denied"),
    ("select pg_ls_dir('.')", "permission denied"),
    ("select lo_import('/etc/passwd')", "permission denied"),
    ("select lo_get(777777)", "does not exist"),
    ("copy (select 1) to program 'true'", "COPY|copy|permission denied"),
    ("create extension dblink", "permission denied"),
    ("alter role flux_guest_lamb password 'mine'", "permission denied"),
    ("alter role flux_guest_wolf connection limit -1", "permission denied"),
    ("grant flux_owner_lamb to flux_guest_wolf", "permission denied"),
    ("create database mine", "permission denied|transaction block"),
    ("drop database flux_tenant_lamb", "must be owner|transaction block"),
    ("alter database flux_tenant_lamb connection limit 0", "must be owner"),
    ("select pg_database_size('flux_tenant_lamb')", "permission denied"),
    ("select pg_reload_conf()", "permission denied"),
    ("select pg_switch_wal()", "permission denied"),
    ("alter system set max_connections = 1", "permission denied|transaction block"),
    ("select flux.end_job('\\x00', '{uuid}', '{uuid}', 1, '{uuid}')", "only a supervisor"),
]
"""SQL of the wolf's functions, and what it meets."""

OWNER = [
    ("create role mine", "permission denied"),
    ("alter role flux_owner_lamb password 'mine'", "permission denied"),
    ("alter role flux_guest_lamb password 'mine'", "permission denied"),
    ("alter role flux_owner_wolf superuser", "permission denied"),
    ("alter role flux_guest_wolf connection limit -1", "permission denied"),
    ("grant pg_read_all_data to flux_owner_wolf", "permission denied"),
    ("create event trigger mine on ddl_command_end execute function flux.on_ddl()", "permission denied"),
    ("create table t (x text); copy t to program 'true'", "permission denied"),
    ("create table t (x text); copy t from '/etc/passwd'", "permission denied"),
    ("create extension dblink", "permission denied"),
    ("create extension postgres_fdw", "permission denied"),
    ("create function f() returns int language c as 'libc', 'getpid'", "permission denied"),
    ("create database mine", "permission denied"),
    ("alter database flux_tenant_lamb rename to mine", "must be owner"),
    ("select pg_terminate_backend({lamb_pid})", "permission denied"),
    ("select pg_database_size('flux_tenant_lamb')", "permission denied"),
    ("select lo_get(777777)", "does not exist"),
    (
        "select distinct query from pg_stat_activity where datname = 'flux_tenant_lamb'",
        "^rows: <insufficient privilege>$",
    ),
]  # fmt: skip
"""SQL of the wolf's migrations, and what it meets."""


def test_no_sql_of_a_tenant_reaches_another(two: Two) -> None:
    before = two.in_lamb("select text from notes")
    pid = two.in_lamb("select min(pid) from pg_stat_activity where usename = 'flux_owner_lamb'")
    given = {"{lamb_pid}": pid, "{uuid}": "00000000-0000-0000-0000-000000000000"}
    met = []
    for ask, attempts in ((two.as_guest, GUEST), (two.as_owner, OWNER)):
        for sql, wall in attempts:
            for name, value in given.items():
                sql = sql.replace(name, value)
            said = ask(sql)
            met.append((sql, said, re.search(wall, said) is not None and TREASURE not in said))
    for database in ("flux_tenant_lamb", two.database.name):
        said = two.as_owner("select 1", database)
        met.append((f"connect {database}", said, "permission denied for database" in said))
    assert [each[:2] for each in met if not each[2]] == []
    assert two.in_lamb("select text from notes") == before == TREASURE


def test_locks_and_notifications_of_a_tenant_are_its_own(two: Two) -> None:
    with subprocess.Popen(
        [two.database.server.bin_dir / "psql", "-XAtq", "-h", two.database.server.host, "-p",
         str(two.database.server.port), "-U", two.database.server.user, "-d", "flux_tenant_lamb"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as listener:  # fmt: skip
        assert listener.stdin is not None and listener.stdout is not None
        listener.stdin.write("listen flux_job; select 'listening';\n")
        listener.stdin.flush()
        assert listener.stdout.readline() == "listening\n"
        assert two.as_guest("select pg_notify('flux_job', 'wolf')").startswith("rows")
        assert two.as_guest(f"select pg_try_advisory_lock({LOCK})") == "rows: [['True']]"
        # Its own database hears both; the lamb's hears neither.
        said, _ = listener.communicate(f"select pg_try_advisory_lock({LOCK});\nnotify flux_job, 'lamb';\n")
    assert "wolf" not in said and said.startswith("t\n") and '"lamb"' in said


def test_a_flood_of_executions_that_last_leaves_the_turns_that_are_kept_for_others(two: Two) -> None:
    # Held from outside until the lamb has been answered: nothing here depends on how fast anything is.
    with subprocess.Popen(
        [two.database.server.bin_dir / "psql", "-XAtq", "-h", two.database.server.host, "-p",
         str(two.database.server.port), "-U", two.database.server.user, "-d", "flux_tenant_wolf"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as holder, ThreadPoolExecutor(TURNS_MAX) as clients:  # fmt: skip
        assert holder.stdin is not None and holder.stdout is not None
        holder.stdin.write("select pg_advisory_lock(1); select 'held';\n")
        holder.stdin.flush()
        assert [holder.stdout.readline(), holder.stdout.readline()][-1] == "held\n"
        body = {"sql": "select pg_advisory_lock_shared(1), pg_advisory_unlock_shared(1)"}
        flood = [clients.submit(two.ask, "wolf", "POST", "/sql", body) for _ in range(TURNS_MAX)]
        two.wait_use("wolf", running=2, waiting=TURNS_MAX - 2)
        # Its quota is raised above all that there is, and of that it does not get what is kept for two others.
        two.server.json("tenant", "set", "wolf", "--concurrency", "100", "--memory", "100GiB")
        kept = TURNS_MAX // 2 // 3
        two.wait_use("wolf", running=TURNS_MAX - 2 * kept, waiting=2 * kept)
        answers = [two.ask("lamb", "POST", "/sql", {"sql": "select 1"}) for _ in range(5)]
        assert [answer.json for answer in answers] == [{"rows": [["1"]]}] * 5
        assert not any(each.done() for each in flood)
        two.server.json("tenant", "set", "wolf", "--concurrency", "2", "--memory", "2GiB")
        holder.stdin.close()
        assert {each.result().status for each in flood} == {200}


def test_processor_time_is_counted_and_above_the_quota_requests_are_refused_by_name(two: Two) -> None:
    two.server.json("tenant", "set", "lamb", "--cpu", "100ms")
    assert two.ask("lamb", "POST", "/burn", {"n": 5_000_000}).status == 200
    deadline = time.monotonic() + PATIENCE_S
    while (refused := two.ask("lamb", "POST", "/sql", {"sql": "select 1"})).status == 200:
        assert time.monotonic() < deadline, "what it has used is never counted"
        time.sleep(0.1)
    assert (refused.status, refused.json["code"]) == (429, "RATE_LIMITED")
    assert "processor time" in refused.json["detail"] and int(refused.headers["retry-after"]) >= 1
    assert two.ask("wolf", "POST", "/sql", {"sql": "select 1"}).status == 200
    [lamb] = two.server.json("tenant", "show", "lamb")["tenants"]
    assert lamb["quotas"]["cpu_ms_per_minute"] == 100 < lamb["use"]["cpu_ms"]
    assert lamb["use"]["refused"] == {"turns": 0, "memory": 0, "requests": 0, "cpu": 1, "storage": 0, "stopped": 0}
    two.server.json("tenant", "set", "lamb", "--cpu", "any", "--requests", "1")
    assert [two.ask("lamb", "POST", "/sql", {"sql": "select 1"}).status for _ in range(2)] == [200, 429]
    shown = two.server.command("tenant", "show", "lamb").stdout
    assert "1 refused: too many in a minute" in shown
    two.server.json("tenant", "set", "lamb", "--requests", "any")
    assert two.ask("lamb", "POST", "/sql", {"sql": "select 1"}).status == 200
    for words, code in (
        (["nobody", "--cpu", "1s"], "FLX811"), (["lamb"], "FLX810"), (["lamb", "--cpu", "1ms"], "FLX810"),
        (["lamb", "--weight", "0"], "FLX810"), (["lamb", "--requests", "x"], "FLX100"),
    ):  # fmt: skip
        wrong = two.server.command("tenant", "set", *words)
        assert wrong.returncode in (2, 3) and code in wrong.stderr, (words, wrong.stderr)


def test_no_token_id_host_or_name_of_a_tenant_is_good_for_another(two: Two) -> None:
    [execution] = two.console("lamb", "lamb", "executions?q=route:/notes").json["executions"][:1]
    name, uuid = execution["name"], execution["id"]
    [job] = two.console("lamb", "lamb", "queue").json["jobs"]
    deployment = two.console("lamb", "lamb", "deployments").json["deployments"][0]["deployment"]
    made = two.flux("wolf", "token", "create", "key", "--scope", "admin", "--json")
    token = json.loads(made.stdout)["token"]
    refused = [
        two.console("lamb", "wolf", "executions"),
        two.console("api.wolf.test.", "lamb", "executions"),
        two.ask("lamb", "GET", "/_flux/api/executions", authorization=f"Bearer {token}"),
        two.server.request("GET", "/_flux/api/executions", None, {"authorization": f"Bearer {token}"}),
        two.ask("LAMB", "GET", "/_flux/api/executions", authorization=f"Bearer {token}"),
        two.ask("wolf", "GET", f"http://lamb.localhost:{two.server.port}/_flux/api/executions",
                authorization=f"Bearer {token}"),
    ]  # fmt: skip
    assert {answer.status for answer in refused} <= {400, 401, 403}, [answer.body for answer in refused]
    assert two.ask("wolf", "GET", "/_flux/api/executions", authorization=f"Bearer {token}").status == 200
    absent = [
        two.console("wolf", "wolf", f"executions/{name}"),
        two.console("wolf", "wolf", f"executions/{uuid}"),
        two.console("wolf", "wolf", f"executions/{name}/why"),
        two.console("wolf", "wolf", f"executions/{name}/case"),
        two.console("wolf", "wolf", f"executions/{name}/replay", {}),
        two.console("wolf", "wolf", f"queue/{job['id']}/retry", {}),
        two.console("wolf", "wolf", "rollback", {"to": deployment}),
        two.console("wolf", "wolf", "secrets/LAMB_KEY/delete", {}),
        two.console("wolf", "wolf", "tokens/revoke", {"name": "main"}),
    ]
    # Both have the same code, so it is the same deployment: for the wolf it is its own, and served already.
    assert [answer.status for answer in absent if answer.status != 404] in ([], [200]), [a.body for a in absent]
    nothing = two.console("wolf", "wolf", "tenants")
    assert (nothing.status, nothing.json["code"]) == (400, "FLX815")
    assert two.console("wolf", "wolf", "secrets").json["secrets"] == []
    hears = two.ask("wolf", "POST", "/secret", {"name": "LAMB_KEY"}).json
    assert "no secret is named LAMB_KEY; this project has none" in hears["error"]
    assert two.ask("lamb", "POST", "/secret", {"name": "LAMB_KEY"}).json == {"value": TREASURE}
    asked = ("executions", "queue?state=all", "checks")
    listed = json.dumps([two.console("wolf", "wolf", path).json for path in asked])
    assert name not in listed and job["id"] not in listed and TREASURE not in listed


def test_the_console_shows_what_each_tenant_uses_to_who_may_look_after_all(two: Two, tmp_path: Path) -> None:
    link = re.search(r"\bhttp://127\.0\.0\.1:\d+/_flux/", two.server.wait_story("/_flux/"))
    assert link is not None
    token = json.loads((two.server.project / ".flux" / "dev.json").read_bytes())["token"]
    with open_browser() as browser:
        browser.go(f"{link[0]}#t={token}")
        browser.wait_for("Executions", "h1")
        browser.take_complaints()  # A page that wants a token says so with its status.
        browser.click("Tenants", "nav")
        browser.wait_for("All are up.")
        shown = browser.text("main")
        for tenant in two.server.json("tenant", "list")["tenants"]:
            assert tenant["name"] in shown and tenant["url"] in shown and tenant["database"] in shown, shown
        assert "api.wolf.test" in shown and TREASURE not in shown
        browser.look(tmp_path, "tenants")
        assert browser.take_complaints() == []


def test_another_master_key_is_the_installations_affair_and_no_server_is_started_again(two: Two) -> None:
    file = two.server.project / ".flux" / "master.key"
    before = file.read_text()
    refused = two.flux("wolf", "secrets", "rotate")
    assert refused.returncode == 2 and "FLX742" in refused.stderr and file.read_text() == before
    seen = two.server.json("secrets", "rotate")
    assert seen["tenants"] == [
        {"name": "lamb", "secrets": 1, "closed": 0}, {"name": "wolf", "secrets": 0, "closed": 0},
    ]  # fmt: skip
    assert file.read_text() != before
    assert two.flux("lamb", "secrets", "set", "rotate", value="new").returncode == 0
    assert two.ask("lamb", "POST", "/secret", {"name": "rotate"}).json == {"value": "new"}
    assert two.ask("lamb", "POST", "/secret", {"name": "LAMB_KEY"}).json == {"value": TREASURE}
    assert two.flux("lamb", "secrets", "delete", "rotate").returncode == 0


def test_a_tenants_flux_toml_has_no_say_in_its_walls(two: Two) -> None:
    toml = two.wolf / "flux.toml"
    said = toml.read_text()
    database = f"postgresql:///{two.database.name}?host={two.database.server.host}"
    try:
        for inward in (
            f'[http]\nallow = ["127.0.0.1:{two.database.server.port}"]',
            '[http]\nallow = ["localhost:5432"]',
            f'[http.auth]\njwks = "http://127.0.0.1:{two.server.port}/keys"\nissuer = "i"\naudience = ["a"]',
        ):
            toml.write_text(f"{said}\n{inward}\n")
            refused = two.flux("wolf", "deploy")
            assert refused.returncode != 0 and "FLX814" in refused.stderr, (inward, refused.stderr)
        toml.write_text(f'{said}\n[telemetry]\notlp = "http://127.0.0.1:{two.server.port}"\n')
        refused = two.flux("wolf", "deploy")
        assert refused.returncode != 0 and "FLX724" in refused.stderr, refused.stderr
        toml.write_text(f'{said}\n[sandbox]\nisolation = "core"\n[database]\nurl = "{database}"\n')
        (two.wolf / "functions" / "more.py").write_text("MORE = 1\n")
        assert two.flux("wolf", "deploy").returncode == 0
        assert two.as_guest("select current_database()") == "rows: [['flux_tenant_wolf']]"
        latest = two.console("wolf", "wolf", "executions/@-1").json
        assert latest["sandbox"]["isolation"] == "strict"
    finally:
        toml.write_text(said)


def test_the_commands_that_the_page_of_tenants_shows_do_it(two: Two, tmp_path: Path) -> None:
    acme = write_project(tmp_path / "acme", FUNCTIONS, migrations=MIGRATIONS)
    *kept, remove = read_steps("docs/tenants.md")
    for step in kept:
        # Roles are the whole cluster's, and other tests have a tenant "acme" there.
        program, *arguments = [str(acme) if word == "/srv/acme" else re.sub(r"^acme\b", "paged", word)
                               for word in shlex.split(step.line)]  # fmt: skip
        done = two.server.command(*arguments)
        assert program == "flux" and done.returncode == 0, (step.line, done.stdout, done.stderr)
    [shown] = two.server.json("tenant", "show", "paged")["tenants"]
    assert (shown["hosts"], shown["up"]) == (["paged.localhost", "api.acme.com"], True)
    quotas = shown["quotas"]
    assert (quotas["requests_per_minute"], quotas["storage_bytes"], quotas["cpu_ms_per_minute"]) == (
        6000, 20 * 2**30, 30_000,
    )  # fmt: skip
    assert remove.line == "flux tenant remove acme"
    removed = two.server.command("tenant", "remove", "paged", "--yes")  # On a terminal it asks.
    assert removed.returncode == 0, removed.stderr


def test_what_a_migration_puts_in_the_place_of_fluxs_functions_gets_nobodys_rights(two: Two) -> None:
    two.as_owner(
        "create or replace function flux.ensure_guest_role(tenant_name text, schema_name_wanted text, password text) "
        "returns text language plpgsql as $$ begin "
        "execute 'alter role flux_owner_wolf superuser'; return 'flux_guest_wolf'; end $$"
    )
    removed = run_flux(two.server.project, "tenant", "remove", "wolf", "--yes")
    assert removed.returncode == 0, removed.stderr
    again: dict[str, Any] = two.server.json("tenant", "add", "wolf", "--folder", str(two.wolf), exit_code=1)
    [wolf] = again["tenants"]
    assert not wolf["up"]
    assert two.database.psql("select rolsuper from pg_roles where rolname = 'flux_owner_wolf'") == "f"
    assert two.ask("wolf", "POST", "/sql", {"sql": "select 1"}).status == 503, "its name is nobody else's meanwhile"
    assert two.ask("lamb", "POST", "/sql", {"sql": "select 1"}).status == 200
    two.as_owner("create or replace function flux.ensure_guest_role(tenant_name text, schema_name_wanted text, "
                 "password text) returns text language sql as $$ select 'flux_guest_wolf' $$")  # fmt: skip
    assert run_flux(two.server.project, "tenant", "remove", "wolf", "--yes").returncode == 0
    two.server.json("tenant", "add", "wolf", "--folder", str(two.wolf))
    assert two.as_guest("select 1") == "rows: [['1']]", "its database was taken up again"
