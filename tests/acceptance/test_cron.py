"""Schedules as people have them: two servers on one database, killed and paused; what ran is asked of a second psql.

A tick comes once a minute at most, and no test waits for one. What a server was not there for is made by setting back,
from outside, up to when a schedule is decided: with ``catch_up = "all"`` each tick since then is owed.
"""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Database, create_database
from tests.dev_process import DevServer, running_dev, start_dev, wait_ready, write_project
from tests.dev_process import database_url as url_of
from tests.postgres_server import PostgresServer

FUNCTIONS = """
from flux_guest import function

@function(cron="* * * * *")
async def every(ctx, input):
    await ctx.db.execute("insert into ran (function, tick) values ('every', $1)", input["tick"])

@function(cron="0 3 1 1 *")
async def yearly(ctx, input):
    await ctx.db.execute("insert into ran (function, tick) values ('yearly', $1)", input["tick"])
    raise ValueError("not this year")

@function("GET /x")
async def unplanned(ctx, input):
    return 1
"""
TOML = """
[[cron]]
function = "every"
schedule = "* * * * *"
catch_up = "all"
[queue]
lease = "2s"
"""
RAN = "create table ran (n serial primary key, function text, tick text);"
MINUTES = 40


@pytest.fixture
def bare(postgres18: PostgresServer) -> Database:
    """A database in which Flux has never been."""
    return create_database(postgres18)


@contextlib.contextmanager
def killed_at_the_end(server: DevServer) -> Iterator[DevServer]:
    try:
        yield server
    finally:
        server.kill()


def owe(database: Database, function: str, minutes: int) -> None:
    """Make it so that nobody was there for some minutes."""
    database.psql(
        f"update flux.cron_schedule set since = date_trunc('minute', now()) - interval '{minutes} minutes' "
        f"where function = '{function}'"
    )


def ask_console(server: DevServer, method: str, path: str) -> Any:
    """What a command asks, at once: before a process for it has begun."""
    told = json.loads((server.project / ".flux" / "dev.json").read_text())
    headers = {"authorization": f"Bearer {told['token']}"}
    answer = server.request(method, f"/_flux/api/{path}", {} if method == "POST" else None, headers)
    assert answer.status == 200, answer.body
    return answer.json


def wait_until(database: Database, sql: str, wanted: str) -> None:
    deadline = time.monotonic() + 120
    while (found := database.psql(sql)) != wanted:
        assert time.monotonic() < deadline, f"{sql}: {found}, not {wanted}"
        time.sleep(0.1)


def test_each_tick_runs_once_over_two_servers_of_which_one_is_killed(tmp_path: Path, bare: Database) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        write_project(folder, {"jobs.py": FUNCTIONS}, toml=TOML, migrations={"001.sql": RAN})
    with running_dev(folders[0], bare) as first:
        assert "cron   * * * * *  functions.jobs:every" in "\n".join(first.story)
        wait_until(bare, "select count(*) from flux.cron_schedule", "2")
        with killed_at_the_end(start_dev(folders[1], "--database-url", url_of(bare))) as second:
            wait_ready(second)
            owe(bare, "every", MINUTES)
            wait_until(bare, "select count(*) > 4 from ran", "t")
            second.kill()
            wait_until(bare, "select count(*) from flux.job where state <> 'done'", "0")
        steps = "select tick::timestamptz - lag(tick::timestamptz) over (order by tick) as step from ran"
        assert bare.psql(f"select count(*) from ({steps}) s where step <> interval '1 minute'") == "0"
        assert bare.psql(f"select count(*) >= {MINUTES} from ran") == "t"

        paused = first.json("cron", "pause", "every")["schedules"]
        assert paused[0]["paused_at"] is not None and paused[0]["next"] is None
        wait_until(bare, "select count(*) from flux.job where state <> 'done'", "0")
        latest = first.json("trace", "list", "-q", "trigger:cron outcome:returned")["executions"][0]
        assert (latest["function"], latest["trigger"]) == ("every", "cron")
        assert first.json("replay", latest["id"])["verdict"] == "identical"
        shown = first.command("replay", latest["id"], "--on", ".").stdout
        assert "nothing left the sandbox" in shown and max(map(len, shown.splitlines())) <= 80, shown
        history = first.json("cron", "history", "every", "-n", "5")["ticks"]
        assert [(tick["fate"], tick["state"]) for tick in history] == [("run", "done")] * 5
        assert history[0]["execution"] is not None

        owe(bare, "every", 10)
        moved = "select since > now() - interval '2 minutes' from flux.cron_schedule where function = 'every'"
        wait_until(bare, moved, "t")
        owed = first.json("cron", "resume", "every")["schedules"]
        assert owed[0]["paused_at"] is None and owed[0]["next"] is not None
        assert bare.psql("select count(*) = count(distinct tick) from ran") == "t", "a pause owes nothing"

        unknown = first.command("cron", "pause", "evry")
        assert unknown.returncode == 3 and "FLX599" in unknown.stderr and "every, yearly" in unknown.stderr
        bare.psql("update flux.cron_schedule set since = now() - interval '800 days' where function = 'yearly'")
        wait_until(bare, "select count(*) from flux.job where function = 'yearly' and state = 'dead'", "1")
        (tick,) = first.json("cron", "history", "yearly")["ticks"]
        assert (tick["fate"], tick["state"], tick["outcome"]) == ("run", "dead", "raised")
        assert bare.psql("select count(*) from ran where function = 'yearly'") == "0", "it was rolled back"
        assert "dead" in first.command("cron", "list").stdout

        for month in range(2, 8):  # As soon as a reload is told its schedules are there, and can be paused.
            told = len(first.story)
            name = f"month_{month}"
            renamed = FUNCTIONS.replace("yearly", name).replace("0 3 1 1 *", f"0 3 1 {month} *")
            (folders[0] / "functions" / "jobs.py").write_text(renamed)
            first.wait_story(" reload ", after=told)
            answer = ask_console(first, "POST", f"cron/{name}/pause")
            assert [each["schedule"] for each in answer["schedules"]] == [f"0 3 1 {month} *"], answer
            listed = {each["function"] for each in ask_console(first, "GET", "cron")["schedules"]}
            assert listed == {"every", name}
        (folders[0] / "functions" / "jobs.py").write_text(FUNCTIONS.replace("0 3 1 1 *", "0 25 * * *"))
        first.wait_story("FLX597")
        first.wait_story('functions/jobs.py:8  "0 25 * * *" is no schedule')


def test_a_server_that_is_killed_and_starts_again_owes_what_came_meanwhile(tmp_path: Path, bare: Database) -> None:
    project = write_project(tmp_path, {"jobs.py": FUNCTIONS}, toml=TOML, migrations={"001.sql": RAN})
    with killed_at_the_end(start_dev(project, "--database-url", url_of(bare))) as server:
        wait_ready(server)
        wait_until(bare, "select count(*) from flux.cron_schedule", "2")
        owe(bare, "every", 20)
        wait_until(bare, "select count(*) > 2 from flux.job", "t")
        server.kill()
    owe(bare, "every", 25)  # Some of these are decided already: they are not decided again.
    with running_dev(project, bare):
        wait_until(bare, "select count(*) >= 25 from ran", "t")
        wait_until(bare, "select count(*) from flux.job where state <> 'done'", "0")
    assert bare.psql("select count(*) = count(distinct tick) from ran") == "t"
