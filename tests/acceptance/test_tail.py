"""``flux tail``: nothing missed, nothing doubled, whatever the pace and whatever the store does."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import documents
from tests.conftest import Database, create_database
from tests.dev_process import (
    COMMAND_S_MAX,
    STOP_S_MAX,
    DevServer,
    environment,
    running_dev,
    start_dev,
    wait_ready,
    write_project,
)
from tests.faults.test_kill_9 import list_processes
from tests.postgres_server import PostgresServer, running_postgres

FUNCTIONS = '''\
from flux_guest import Context, function


@function("GET /quick/{n}")
def quick(ctx: Context, input: dict) -> dict:
    return {"n": input["n"]}


@function("GET /write/{n}")
async def write(ctx: Context, input: dict) -> dict:
    await ctx.db.execute("insert into seen (n) values ($1)", int(input["n"]))
    return {"n": input["n"]}
'''
SCHEMA = "create table seen (n int primary key);"


@contextmanager
def tailing(server: DevServer, *arguments: str) -> Iterator[list[dict[str, object]]]:
    """Run ``flux tail --json`` and collect what it prints."""
    process = subprocess.Popen(
        [sys.executable, "-m", "flux", "tail", "--json", *arguments], cwd=server.project,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(),
    )  # fmt: skip
    lines: list[dict[str, object]] = []

    def read() -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                lines.append(json.loads(line))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield lines
    finally:
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        with process.stderr:
            process.stderr.read()
        assert process.wait(STOP_S_MAX) == 130
        reader.join()
    documents.check_lines(lines)


def wait_count(lines: list[dict[str, object]], count: int) -> None:
    """Wait until ``count`` lines are there, then a little longer, in case there are more."""
    wait_until(lambda: len(lines) >= count)
    time.sleep(0.5)


def wait_tailing(server: DevServer, lines: list[dict[str, object]]) -> str:
    """Wait until the tail is connected: a request is shown, and the last one too. Return its name."""
    deadline = time.monotonic() + COMMAND_S_MAX
    while not lines and time.monotonic() < deadline:
        server.request("GET", "/quick/0")
        time.sleep(0.2)
    # Others may be on their way: they come before this one.
    last = server.request("GET", "/quick/0").flux_id
    wait_until(lambda: any(line["name"] == last for line in lines))
    return last


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + COMMAND_S_MAX
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert condition()


@pytest.fixture
def server(
    tmp_path: Path, postgres18: PostgresServer, make_database: Callable[[PostgresServer], Database]
) -> Iterator[DevServer]:
    project = write_project(tmp_path, {"f.py": FUNCTIONS}, migrations={"001.sql": SCHEMA})
    with running_dev(project, make_database(postgres18)) as server:
        yield server


def test_five_hundred_requests_at_once_are_each_shown_once(server: DevServer) -> None:
    with tailing(server) as lines:
        wait_tailing(server, lines)
        before = len(lines)
        with ThreadPoolExecutor(32) as pool:
            answers = list(
                pool.map(lambda n: server.request("GET", f"/{'write' if n % 2 else 'quick'}/{n}"), range(500))
            )
        assert {answer.status for answer in answers} == {200}
        wait_count(lines, before + 500)
    shown = Counter(line["name"] for line in lines[before:])
    assert shown == Counter(answer.flux_id for answer in answers)


def test_what_is_asked_for_since_and_what_comes_are_joined_without_a_seam(server: DevServer) -> None:
    first = [server.request("GET", f"/quick/{n}").flux_id for n in range(50)]
    with ThreadPoolExecutor(8) as pool:
        coming = pool.map(lambda n: server.request("GET", f"/quick/{n}"), range(300))
        with tailing(server, "--since", "1h") as lines:
            names = first + [answer.flux_id for answer in coming]
            wait_count(lines, 350)
    assert Counter(line["name"] for line in lines) == Counter(names)


def test_with_the_store_stalled_for_ten_seconds_nothing_is_lost(tmp_path: Path) -> None:
    project = write_project(tmp_path, {"f.py": FUNCTIONS}, migrations={"001.sql": SCHEMA})
    with running_postgres() as postgres:
        database = create_database(postgres)
        with running_dev(project, database) as server, tailing(server) as lines:
            wait_tailing(server, lines)
            before = len(lines)
            stopped = [postgres.pid, *list_processes(postgres.pid)]
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            try:
                stalled_until = time.monotonic() + 10
                names, n = [], 0
                while time.monotonic() < stalled_until:
                    answer = server.request("GET", f"/quick/{n}")
                    assert answer.status == 200
                    names.append(answer.flux_id)
                    n += 1
                    time.sleep(0.02)
                counted = server.request("GET", "/_flux/metrics").body.decode()
                waiting = next(line for line in counted.splitlines() if line.startswith("flux_records_waiting "))
                assert float(waiting.split()[1]) >= len(names), "what waits is said"
            finally:
                for pid in stopped:
                    os.kill(pid, signal.SIGCONT)
            wait_count(lines, before + len(names))
            shown = Counter(line["name"] for line in lines[before:])
            assert shown == Counter(names)
        recorded = database.psql("select name from flux.execution where function = 'quick'").split()
        assert set(names) <= set(recorded)
        assert len(recorded) == len(set(recorded))


def test_a_tail_goes_on_when_the_server_is_started_anew(server: DevServer, tmp_path: Path) -> None:
    """Killed, and started again: with another token and on another port, both written down in the project."""
    arguments = server.process.args
    assert isinstance(arguments, list)
    url = arguments[arguments.index("--database-url") + 1]
    with tailing(server) as lines:
        wait_tailing(server, lines)
        before = len(lines)
        server.kill()
        again = start_dev(tmp_path, "--database-url", url)
        try:
            wait_ready(again)
            assert again.port != server.port
            names = [again.request("GET", f"/quick/{n}").flux_id for n in range(100, 120)]
            wait_count(lines, before + len(names))
            # What ended within the second in which the tail began may be told by the second connection.
            shown = Counter(line["name"] for line in lines if len(str(line["path"])) == len("/quick/100"))
            assert shown == Counter(names)
            assert max(Counter(line["name"] for line in lines).values()) == 1
        finally:
            again.kill()
