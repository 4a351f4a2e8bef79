"""Flux replays a sample of what ran by itself, and tells which executions do not repeat themselves, and where."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.conftest import Database
from tests.dev_process import DevServer, running_dev, write_project
from tests.postgres_server import PostgresServer

FUNCTIONS = {
    "app.py": """
from flux_guest import function

calls = 0
kept = []


@function("POST /same")
def same(ctx, input):
    return {"drawn": ctx.db.query_one("select 1 as n")["n"]}


@function("POST /count")
def count(ctx, input):
    global calls
    calls += 1
    ctx.log.info(f"call {calls} of the process")
    return {"ok": True}


class Seat:
    pass


@function("POST /shuffle")
def shuffle(ctx, input):
    seats = {Seat(): number for number in range(40)}
    for seat in set(seats):
        ctx.log.info(f"seat {seats[seat]}")
    kept.append([Seat() for _ in range(5000)])
    return {"ok": True}

""",
}


def wait_check(server: DevServer, name: str) -> Any:
    """Wait until Flux has checked an execution; return what it found."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        for replay in server.json("trace", name)["replays"]:
            if replay["is_check"]:
                return replay
        time.sleep(0.3)
    raise AssertionError("it was not checked")


def test_what_repeats_is_checked_and_what_does_not_is_told_with_its_line(
    tmp_path: Path, postgres18: PostgresServer, make_database: Callable[[PostgresServer], Database]
) -> None:
    # What a module keeps in a warm worker is in no record: the plainest thing that does not repeat itself.
    toml = "[sandbox]\nwarm = 50\n[recording]\nself_check_s = 1\n"
    project = write_project(tmp_path, FUNCTIONS, toml=toml)
    with running_dev(project, make_database(postgres18)) as server:
        same = server.request("POST", "/same", {}).flux_id
        found = wait_check(server, same)
        assert (found["verdict"], found["on"], found["divergence"], found["execution"]) == (
            "identical", None, None, None
        )  # fmt: skip

        # A worker comes back in a moment; until then others are asked, who have served nobody.
        names = (server.request("POST", "/count", {}).flux_id for _ in range(50))
        second = next(
            name for name in names if "call 1 " not in server.json("trace", name)["logs"][0]["message"]
        )
        escaped = wait_check(server, second)
        line = 1 + FUNCTIONS["app.py"].splitlines().index('    ctx.log.info(f"call {calls} of the process")')
        location = escaped["divergence"]["location"]
        assert (location["file"], location["line"]) == ("functions/app.py", line)
        told = server.wait_story(second)
        assert f"{second} (count) does not repeat itself: at functions/app.py:{line} in count it left" in told
        # All runs of the experiment are alike, and none is as recorded: what differs is outside of it.
        assert "depends on something outside of it" in told and "the same run in 4 orders of objects" in told
        assert "what they left in module state is in no record" in told
        again = server.json("trace", escaped["execution"])
        assert (again["trigger"], again["replay_of"]) == ("replay", second)
        check = next(
            one for one in server.json("doctor", exit_code=1)["checks"] if one["name"] == "self-check"
        )
        assert (check["ok"], f"functions/app.py:{line}" in check["detail"]) == (False, True)

        # A worker that has served has its memory in another order than a fresh one, and so the record has.
        names = (server.request("POST", "/shuffle", {}).flux_id for _ in range(50))
        second = next(name for name in names if server.json("trace", name)["sandbox"]["served_before"])
        assert wait_check(server, second)["verdict"] != "identical"
        told = server.wait_story(f"{second} (shuffle) does not repeat itself")
        line = 1 + FUNCTIONS["app.py"].splitlines().index('        ctx.log.info(f"seat {seats[seat]}")')
        assert f"at functions/app.py:{line} in shuffle it left its record" in told
        assert "depends on where objects lie in memory" in told and "sort what comes out of a set" in told


def test_the_checks_can_be_switched_off(
    tmp_path: Path, postgres18: PostgresServer, make_database: Callable[[PostgresServer], Database]
) -> None:
    project = write_project(tmp_path, FUNCTIONS, toml="[recording]\nself_check_s = 0\n")
    with running_dev(project, make_database(postgres18)) as server:
        checks = server.json("doctor")["checks"]
        assert [one["detail"] for one in checks if one["name"] == "self-check"] == [
            "off: self_check_s is 0 under [recording]"
        ]
