"""Replays on commits that bring migrations, and of statements that draw and tell the time in a database of their own.

Production is asked by a second ``psql``, before and after: it has none of what a replay made, and no row is another.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.conftest import Database
from tests.dev_process import DevServer, environment, running_dev, write_project
from tests.postgres_server import PostgresServer
from tests.races import MOMENT
from tests.world_harness import Watcher
from tests.zygote_world import children_of, state_of

SCHEMA = """
create table users (id int primary key, email text not null);
insert into users select n, 'u' || n || '@b.com' from generate_series(1, 5) n;
create table draws (
    id uuid primary key default gen_random_uuid(), note text, share float8, at timestamptz default now(), code uuid);
create function stamp() returns timestamptz language sql set search_path = public as
    $$ select pg_catalog.now() $$;
create function count_draws() returns bigint language sql stable as $$ select count(*) from public.draws $$;
create view recent as select id, note from draws where at >= current_timestamp;
"""
FUNCTIONS = """\
from flux_guest import function


@function("POST /plan")
def plan(ctx, input):
    user = ctx.db.query_one("select id, email from users where id = $1", input["id"])
    ctx.db.execute("insert into draws (note) values ($1)", user["email"])
    return {"plan": user["plan"]}


@function("POST /spin", timeout="1s")
def spin(ctx, input):
    while True:
        pass


@function("POST /token")
def token(ctx, input):
    row = ctx.db.query_one(
        "insert into draws (id, note, at) values (gen_random_uuid(), $1, clock_timestamp()) returning id, at",
        input["note"])
    chance = ctx.db.query_one("select random() as share, gen_random_uuid()")
    ctx.db.execute("update draws set code = gen_random_uuid() where id = $1", row["id"])
    kept = ctx.db.query_one("select code from draws where id = $1", row["id"])
    return {"id": str(row["id"]), "code": str(kept["code"]), "share": chance["shares"]}


@function("POST /rejoin")
def rejoin(ctx, input):
    ctx.db.query_one("select id from users where id = $1", input["id"])
    ctx.db.query("select pg_advisory_xact_lock(7)")
    ctx.db.execute("insert into users values ($1, 'again@b.com')", input["id"])
    both = ctx.db.query("select email from users where id = $1 order by email", input["id"])
    return {"emails": [row["mail"] for row in both]}


@function("POST /draw")
def draw(ctx, input):
    ctx.db.execute(
        "insert into draws (note, share, code) values ($1, pg_catalog.random(), pg_catalog.gen_random_uuid())",
        input["note"])
    ctx.db.execute("insert into draws (note, at) values ($1, pg_catalog.now())", input["note"] + " again")
    row = ctx.db.query_one(
        "select now() = pg_catalog.now() as same, stamp() = now() as stamped, clock_timestamp() >= now() as later, "
        "(select count(*) from recent) as recent, age(now()) < interval '1 day' as young, "
        "position('20' in timeofday()) > 0 as told")
    return dict(row)
"""
FIX = (
    ("select id, email from", "select id, email, plan from"),
    ('values ($1)", user["email"])', 'values ($1)", user["plan"])'),
)
MIGRATION = """
alter table users add column plan text not null default 'free';
update users set plan = 'pro' where id < 3;
"""
BAD_MIGRATION = "alter table users add column plan text not null;\n"
LOOK = """
select string_agg(format('%s.%s', table_name, column_name), ',' order by table_name, column_name)
from information_schema.columns where table_schema = 'public'
union all select md5(string_agg(users::text, ',' order by id)) from users
union all select coalesce(md5(string_agg(draws::text, ',' order by id)), '') from draws
union all select string_agg(name, ',' order by name) from flux.migration_applied
"""


@attrs.frozen
class Shop:
    """A server, its repository, and a psql."""

    server: DevServer
    database: Database

    def branch(self, name: str, changes: tuple[tuple[str, str], ...], migrations: Mapping[str, str]) -> None:
        """Commit code that the project's folder never has: on a branch, in a worktree beside it."""
        project = self.server.project
        beside = project.parent / name
        git(project, "worktree", "add", "-qb", name, str(beside))
        text = FUNCTIONS
        for old, new in changes:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        write_project(beside, {"shop.py": text}, migrations=migrations)
        git(beside, "add", "-A")
        git(beside, "commit", "-qm", name)

    def fail(self, id: int) -> str:
        answer = self.server.request("POST", "/plan", {"id": id})
        assert answer.status == 500, answer.body
        return answer.flux_id

    def json(self, *arguments: str, exit_code: int) -> Any:
        """Run a command; assert that production is as it was."""
        before = self.database.psql(LOOK)
        answer = self.server.json(*arguments, exit_code=exit_code)
        assert self.database.psql(LOOK) == before
        return answer


def git(folder: Path, *words: str) -> None:
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@example.com", *words]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def shop(
    tmp_path_factory: pytest.TempPathFactory,
    postgres18: PostgresServer,
    make_database: Callable[[PostgresServer], Database],
) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("replay-database")
    folder.chmod(0o755)
    project = write_project(folder / "shop", {"shop.py": FUNCTIONS}, migrations={"001.sql": SCHEMA})
    (project / ".gitignore").write_text(".flux/\n")
    git(project, "init", "-qb", "main")
    git(project, "add", "-A")
    git(project, "commit", "-qm", "as it is")
    database = make_database(postgres18)
    with running_dev(project, database) as server:
        shop = Shop(server, database)
        shop.branch("fix", FIX, {"002_plan.sql": MIGRATION})
        shop.branch("bad", FIX, {"002_plan.sql": BAD_MIGRATION})
        yield shop


def test_a_fix_that_needs_a_column_of_its_migration_passes_and_production_never_has_the_column(shop: Shop) -> None:
    name = shop.fail(1)
    assert "users.plan" not in shop.database.psql(LOOK)
    replay = shop.json("replay", name, "--on", "fix", exit_code=0)
    assert (replay["verdict"], replay["replayed"]["output"]["body"]) == ("passed", {"plan": "pro"})
    assert (replay["notes"], replay["answers"]["world"]) == ([], 2)
    # The code of then knows nothing of it.
    assert shop.json("replay", name, "--on", "main", exit_code=1)["verdict"] == "same failure"


def test_an_incident_is_replayed_with_the_migrations_of_the_commit(shop: Shop) -> None:
    since = shop.database.psql(MOMENT)
    names = [shop.fail(id) for id in (1, 2, 3)]
    told = shop.json("incident", "replay", f"{since}..2100-01-01", "--on", "fix", exit_code=0)
    assert told["verdicts"] == {"passed": 3}
    by_name = {one["execution"]["name"]: one["replayed"]["output"]["body"]["plan"] for one in told["executions"]}
    assert by_name == dict(zip(names, ("pro", "pro", "free"), strict=True))


def test_a_migration_that_fails_in_the_world_is_said_to_and_decides_nothing(shop: Shop) -> None:
    since = shop.database.psql(MOMENT)
    name = shop.fail(4)
    replay = shop.json("replay", name, "--on", "bad", exit_code=1)
    reason = 'FLX313 migrations/002_plan.sql can\'t be applied to the world: column "plan" of relation "users"'
    assert len(replay["notes"]) == 1 and reason in replay["notes"][0]
    assert replay["verdict"] == "diverged"
    told = shop.json("incident", "replay", f"{since}..2100-01-01", "--on", "bad", exit_code=1)
    assert told["verdicts"] == {"diverged": 1}
    shown = shop.server.command("incident", "replay", f"{since}..2100-01-01", "--on", "bad").stdout
    words = " ".join(shown.split())
    assert reason in words and "(1 of 1)" in words


def test_what_a_statement_drew_in_its_own_text_is_drawn_again_by_repaired_code(shop: Shop) -> None:
    failed = shop.server.request("POST", "/token", {"note": "token"})
    assert failed.status == 500
    changes = (
        ('chance["shares"]', 'chance["share"]'),
        ('"select random() as share, gen_random_uuid()"', '"SELECT random()  AS share, gen_random_uuid()"'),
    )
    shop.branch("mended", changes, {})
    replay = shop.json("replay", failed.flux_id, "--on", "mended", exit_code=0)
    assert (replay["verdict"], replay["fidelity"]) == ("passed", {"matched": 4, "equal": 4})
    answers = [call["recorded"]["result"] for call in replay["calls"]]
    told = replay["replayed"]["output"]["body"]
    assert told["id"] == answers[0]["rows"][0][0]["$uuid"]
    assert told["share"] == answers[1]["rows"][0][0]
    assert told["code"] == answers[3]["rows"][0][0]["$uuid"]


def test_what_was_written_over_a_row_that_somebody_else_had_deleted_is_beside_it_in_a_replay_too(
    shop: Shop,
) -> None:
    other = Watcher(shop.database)
    other.say("select pg_advisory_lock(7)")
    waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
    with ThreadPoolExecutor(1) as executor:
        asked = executor.submit(shop.server.request, "POST", "/rejoin", {"id": 5})
        while shop.database.psql(waiting) == "0":
            assert not asked.done(), asked.result().body
            time.sleep(0.02)
        other.say("delete from users where id = 5; commit; select pg_advisory_unlock(7)")
        failed = asked.result()
    other.close()
    assert failed.status == 500
    shop.branch("rejoined", (('row["mail"]', 'row["email"]'),), {})
    replay = shop.json("replay", failed.flux_id, "--on", "rejoined", exit_code=0)
    assert (replay["verdict"], replay["fidelity"]) == ("passed", {"matched": 4, "equal": 4}), replay
    assert replay["replayed"]["output"]["body"] == {"emails": ["again@b.com", "u5@b.com"]}


def test_what_statements_draw_and_tell_of_the_time_is_the_same_in_each_replay_at_once(shop: Shop) -> None:
    answers = [shop.server.request("POST", "/draw", {"note": f"n{n}"}) for n in range(2)]
    assert [answer.status for answer in answers] == [200, 200], answers
    names = [answer.flux_id for answer in answers]
    place = json.loads((shop.server.project / ".flux" / "dev.json").read_text())

    def interleave(check: str) -> Any:
        before = shop.database.psql(LOOK)
        answer = shop.server.request(
            "POST", "/_flux/api/interleave?on=.", {"executions": names, "check": check},
            {"authorization": f"Bearer {place['token']}"},
        )  # fmt: skip
        assert (answer.status, shop.database.psql(LOOK)) == (200, before), answer.body
        return answer.json

    drawn = "select * from draws where note like 'n_%' order by note"
    first, second = interleave(drawn), interleave(drawn)
    # What they answered of the time is the same, whichever way they asked for it.
    assert [one["verdict"] for one in first["together"]["executions"]] == ["identical"] * 2, first
    assert first["together"]["fidelity"] == {"matched": 6, "equal": 6}
    rows = first["check"]["replayed"]
    assert rows == second["check"]["replayed"] != []
    # Given by the record, whether a column drew it or the statement's own text, and the transaction's own time.
    assert rows == first["check"]["recorded"]
    assert len({row["share"] for row in rows if row["share"] is not None}) == 2
    # A function that names its schema is asked of the rows of then, too, though the table is another one by now.
    shop.server.request("POST", "/draw", {"note": "later"})
    counted = interleave("select count_draws() as draws, (select count(*) from draws) as counted")["check"]
    assert all(row["draws"] == row["counted"] for side in ("recorded", "replayed") for row in counted[side])


def test_a_rule_that_is_newer_than_the_code_and_the_record_holds_for_what_a_replay_stores(shop: Shop) -> None:
    name, email = shop.fail(1), "u1@b.com"
    shop.branch("unmended", (('{"plan": user["plan"]}', '{"plan": user["plan"], "is": "the same"}'),), {})
    config = shop.server.project / "flux.toml"
    before, told = config.read_text(), len(shop.server.story)
    config.write_text(f'{before}\n[recording]\nredact = ["column:users.email", "column:draws.note"]\n')
    try:
        shop.server.wait_story("reload", after=told)
        # Neither of these commits has the rule: the one repairs nothing, the other does.
        for on, exit_code, verdict in (("unmended", 1, "same failure"), ("fix", 0, "passed")):
            replay = shop.json("replay", name, "--on", on, exit_code=exit_code)
            assert (replay["verdict"], replay["fidelity"]["equal"]) == (verdict, replay["fidelity"]["matched"]), replay
            assert email not in json.dumps(replay) and "redacted:" in json.dumps(replay)
            traced = json.dumps(shop.server.json("trace", replay["replayed"]["execution"]))
            assert email not in traced and "redacted:" in traced
        divergences = shop.database.psql("select coalesce(string_agg(divergence::text, ''), '') from flux.replay")
        assert email not in divergences
    finally:
        told = len(shop.server.story)
        config.write_text(before)
        shop.server.wait_story("reload", after=told)


def begin_incident(shop: Shop, window: str) -> subprocess.Popen[str]:
    """Have a window replayed, and wait until it is being replayed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "flux", "incident", "replay", window, "-q", "function:spin"],
        cwd=shop.server.project, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        # A shell in the background has its children ignore ctrl-c.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stderr is not None
    assert "executions match" in process.stderr.readline()
    return process


def count_spinning(pid: int) -> int:
    """Processes below ``pid`` that compute."""
    children = children_of(pid)
    return sum((state_of(child) == "R") + count_spinning(child) for child in children)


def test_who_gives_up_waiting_stops_the_replays_and_so_does_the_end_of_the_server(shop: Shop) -> None:
    since = shop.database.psql(MOMENT)
    with ThreadPoolExecutor(8) as executor:
        asked = [executor.submit(shop.server.request, "POST", "/spin", {}) for _ in range(8)]
        assert {each.result().status for each in asked} == {504}
    window, counting = f"{since}..2100-01-01", "select count(*) from flux.replay where not is_check"
    before = int(shop.database.psql(counting))

    process = begin_incident(shop, window)
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 130
    deadline = time.monotonic() + 180
    while count_spinning(shop.server.process.pid):
        assert time.monotonic() < deadline, "it goes on"
        time.sleep(0.05)
    assert int(shop.database.psql(counting)) < before + 8

    # The last of all: it ends the server.
    process = begin_incident(shop, window)
    assert shop.server.stop() == 0
    _, told = process.communicate()
    assert (process.returncode, "FLX347" in told, "of 8 were replayed" in told) == (5, True, True), told
    assert int(shop.database.psql(counting)) < before + 16
