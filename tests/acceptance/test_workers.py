"""``flux serve --workers N``: several processes that are one server, also when one of them is killed."""

import contextlib
import http.client
import itertools
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs
import pytest
import trio

from flux.store.embedded import SUPERUSER
from flux.store.embedded_running import find_running_postgres
from flux.store.postgres import connect
from tests import documents
from tests.dev_process import (
    START_S_MAX,
    CountingStub,
    DevServer,
    counting_stub,
    serving,
    start_server,
    write_project,
)

TOML = '[recording]\nself_check_s = 0\n[http]\nallow = ["127.0.0.1:PORT"]\n[limits]\ntimeout = "120s"\n'
FUNCTIONS = """
import contextlib
from flux_guest import Context, function

@function("GET /said")
async def said(ctx: Context, input: dict) -> dict:
    return {"said": "first"}

@function("POST /slow")
async def slow(ctx: Context, input: dict) -> dict:
    await ctx.db.execute("insert into item (n) values ($1)", input["n"])
    if input["waits"]:  # Until the stub lets it go, without an answer.
        with contextlib.suppress(Exception):
            await ctx.http.get("http://127.0.0.1:PORT/hang", timeout=100)
    return {"n": input["n"]}
"""
MIGRATION = {"001_item.sql": "create table item (n int not null)"}


@pytest.fixture
def stub() -> Iterator[CountingStub]:
    with counting_stub() as made:
        yield made


@pytest.fixture
def project(tmp_path: Path, stub: CountingStub) -> Path:
    functions, toml = (text.replace("PORT", str(stub.port)) for text in (FUNCTIONS, TOML))
    return write_project(tmp_path, {"item.py": functions}, toml=toml, migrations=MIGRATION)


def test_several_processes_are_one_server(project: Path, stub: CountingStub) -> None:
    told_in_json = ("--log-format", "json", "--log-requests")
    with serving(start_server(project, "serve", "--bind", "127.0.0.1:0", "--workers", "2", *told_in_json)) as server:
        workers = list_workers(server)
        assert len(workers) == 2

        # Whoever watches sees what each of them does, once; and so does whoever asks afterwards.
        with Watching(server) as lines:
            ids = ask_until_both_served(server)
            wait_until(lambda: set(ids) <= {line["name"] for line in lines if "name" in line})
            names = [line["name"] for line in lines if "name" in line]
        assert len(names) == len(set(names)) == len(ids)
        listed = ask_console(server, "GET", "executions?n=1000")["executions"]
        assert {one["name"] for one in listed} == set(ids)

        # What is counted of records is counted in all of them.
        told = f"since the start {len(ids)} stored, 0 reduced; 0 waiting"
        wait_until(lambda: find_check(server, "recording")["detail"] == told)
        assert ask_database(project, "select count(*) from flux.execution") == [len(ids)]
        workers_check = find_check(server, "workers")
        assert (workers_check["ok"], workers_check["detail"]) == (True, "2 of 2 answer")

        # A deploy is everybody's, whichever was asked for it, and is on record once.
        code = project / "functions" / "item.py"
        code.write_text(code.read_text().replace("first", "second"))
        assert ask_console(server, "POST", "deploy")["deployed"]
        assert {server.request("GET", "/said").json["said"] for _ in range(10)} == {"second"}
        assert [one["deploys"] for one in ask_console(server, "GET", "deployments")["deployments"]] == [1, 1]

        # Their console is on one port, and who signs in at any of them is signed in at all.
        console = urlsplit(server.request("GET", "/_flux/").headers["location"])
        assert console.path == "/_flux/" and console.port not in (None, server.port)
        pages = attrs.evolve(server, port=console.port)
        ours = {"origin": f"http://{console.netloc}", "host": console.netloc}
        opened = pages.request("POST", "/_flux/session", {"token": read_token(server)["authorization"][7:]}, ours)
        cookie = {"host": console.netloc, "cookie": opened.headers["set-cookie"].partition(";")[0]}
        assert {pages.request("GET", "/_flux/errors", headers=cookie).status for _ in range(20)} == {200}
        assert server.request("GET", "/_flux/errors", headers=cookie).status == 307

        # One is killed in the middle of a request. Its successor says what became of that, and serves the same code.
        victim = kill_while_it_works(server, stub)
        wait_until(lambda: len(list_workers(server)) == 2 and victim not in list_workers(server))
        wait_until(lambda: count_served(server).keys() == {"0", "1"})
        cut = ask_console(server, "GET", "executions?q=outcome:interrupted")["executions"]
        assert [one["path"] for one in cut] == ["/slow"]
        assert ask_database(project, "select n from item") == []
        assert {server.request("GET", "/said").json["said"] for _ in range(10)} == {"second"}

        # The database is restarted under load. What was accepted is committed and on record, once, and what could
        # not be done was refused, with the advice to come again.
        answers = load_through_a_restart(server)
        done = {n: flux_id for n, (status, flux_id, _) in answers.items() if status == 200}
        refused = {n: again for n, (status, _, again) in answers.items() if status != 200}
        assert {status for status, _, _ in answers.values()} <= {200, 503}
        assert set(refused.values()) <= {"1"}
        assert ask_database(project, "select n from item order by n") == sorted(done)
        recorded = ask_database(
            project,
            "select e.name from flux.execution e join flux.mutation m on m.xid = e.xid where m.table_name = 'item'",
        )
        assert sorted(recorded) == sorted(done.values())
        # Each worker looks for itself whether the database is back.
        wait_until(lambda: server.request("GET", "/_flux/health").json["reasons"] == [])
        assert server.request("GET", "/_flux/health").status == 200

        # What runs in any of them has ended before a row is looked for that is to be forgotten: this table has no key.
        slow: list[int] = []
        threads = [threading.Thread(target=ask_slowly, args=(server, n, slow)) for n in range(10, 14)]
        for thread in threads:
            thread.start()
        wait_until(lambda: count_hanging(stub) == 1 + 4)
        threading.Timer(0.5, stub.release).start()  # While it is waited for them, unless the machine is very slow.
        forgotten = server.request("POST", "/_flux/api/records/forget?table=item&key=1", {}, read_token(server))
        assert forgotten.status == 400 and forgotten.json["code"] != "FLX617", forgotten.body
        assert count_running(server) == 0
        for thread in threads:
            thread.join()
        assert slow == [200] * 4

        # Told to stop, all finish what they have begun.
        last: list[int] = []
        threads = [threading.Thread(target=ask_slowly, args=(server, n, last)) for n in range(4)]
        for thread in threads:
            thread.start()
        wait_until(lambda: count_hanging(stub) == 1 + 4 + 4)
        workers = list_workers(server)
        threading.Timer(0.5, stub.release).start()
        assert server.stop() == 0, "\n".join(server.story)
        for thread in threads:
            thread.join()
        assert last == [200] * 4
        assert not any(Path(f"/proc/{pid}").exists() for pid in workers)

        # All of them, and their parent, have told their story into one pipe: a whole object a line, and who says it.
        documents.check_log(server.story)
        lines = [json.loads(line) for line in server.story]
        assert all(line.keys() >= {"time", "level", "event", "message"} for line in lines)
        executions = [line for line in lines if line["event"] == "execution"]
        told_of = [line["name"] for line in executions]
        assert len(told_of) == len(set(told_of)) and set(told_of) >= {*ids, *done.values()}
        assert {line["worker"] for line in executions} == {0, 1}


def read_token(server: DevServer) -> dict[str, str]:
    document = json.loads((server.project / ".flux" / "dev.json").read_text())
    return {"authorization": f"Bearer {document['token']}"}


def ask_console(server: DevServer, method: str, question: str) -> Any:
    """Ask the console as the command line does."""
    body = {} if method == "POST" else None
    answer = server.request(method, f"/_flux/api/{question}", body, read_token(server))
    assert answer.status == 200, "\n".join([answer.body.decode(), *server.story])
    return answer.json


def find_check(server: DevServer, name: str) -> Any:
    """What ``flux doctor`` says of one thing."""
    return next(check for check in ask_console(server, "GET", "checks")["checks"] if check["name"] == name)


def ask_database(project: Path, sql: str) -> list[Any]:
    """What a second client sees in the embedded database: the first column."""

    async def ask() -> list[Any]:
        options = find_running_postgres(project / ".flux" / "pg", user=SUPERUSER, database="flux")
        assert options is not None
        connection = await connect(options)
        await connection.execute("set search_path to main, public")
        rows = await connection.fetch(sql)
        await connection.aclose()
        return [row[0] for row in rows]

    return trio.run(ask)


def load_through_a_restart(server: DevServer) -> dict[int, tuple[int, str, str]]:
    """Restart the database while requests write to it; return each request's status, name and Retry-After."""
    answers: dict[int, tuple[int, str, str]] = {}
    numbers = itertools.count(1000)
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            n = next(numbers)
            answer = server.request("POST", "/slow", {"n": n, "waits": False})
            answers[n] = (answer.status, answer.headers.get("flux-id", ""), answer.headers.get("retry-after", ""))
            time.sleep(0.02)

    def count_done() -> int:
        return sum(status == 200 for status, _, _ in list(answers.values()))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: count_done() >= 10)
    pid = int((server.project / ".flux" / "pg" / "data" / "postmaster.pid").read_text().split()[0])
    os.kill(pid, signal.SIGINT)  # A "fast shutdown": sessions are ended at once.
    server.wait_story("PostgreSQL is back")
    again = count_done()
    wait_until(lambda: count_done() >= again + 10)
    is_over.set()
    for thread in threads:
        thread.join()
    return answers


def list_workers(server: DevServer) -> list[int]:
    """The processes that the server has started, as the kernel has them."""
    # The kernel lists children by the thread that started them.
    children: list[str] = []
    for one in Path(f"/proc/{server.process.pid}/task").iterdir():
        with contextlib.suppress(OSError):  # The thread has just ended.
            children += (one / "children").read_text().split()
    workers = []
    for child in children:
        with contextlib.suppress(OSError):  # It has just ended.
            if b"serve_worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                workers.append(int(child))
    return workers


def count_served(server: DevServer) -> dict[str, float]:
    """How many executions each worker says it has ended."""
    counts: dict[str, float] = {}
    for line in server.request("GET", "/_flux/metrics").body.decode().splitlines():
        if line.startswith("flux_executions_running{"):
            counts.setdefault(line.partition('worker="')[2].partition('"')[0], 0.0)
        if line.startswith("flux_executions_total{"):
            number = line.partition('worker="')[2].partition('"')[0]
            counts[number] = counts.get(number, 0.0) + float(line.rpartition(" ")[2])
    return counts


def count_hanging(stub: CountingStub) -> int:
    """How many executions have ever come to where they wait."""
    return sum(seen.path == "/hang" for seen in stub.seen)


def count_running(server: DevServer) -> float:
    return sum(list_running(server).values())


def list_running(server: DevServer) -> dict[int, float]:
    """How many executions run in each worker."""
    counts = {}
    for line in server.request("GET", "/_flux/metrics").body.decode().splitlines():
        if line.startswith("flux_executions_running{"):
            counts[int(line.partition('worker="')[2].partition('"')[0])] = float(line.rpartition(" ")[2])
    return counts


def ask_until_both_served(server: DevServer) -> list[str]:
    """Send requests until both workers have had some; return what they were called."""
    ids = []
    for _ in range(200):
        ids.append(server.request("GET", "/said").flux_id)
        if len(ids) >= 6 and all(count_served(server).get(number) for number in "01"):
            return ids
    raise AssertionError(f"one worker has got no request of {len(ids)}")


def kill_while_it_works(server: DevServer, stub: CountingStub) -> int:
    """Kill the worker that a request has come to; return its process id."""
    thread = threading.Thread(target=ask_slowly, args=(server, 99, []), daemon=True)
    thread.start()
    wait_until(lambda: count_hanging(stub) == 1 and count_running(server) == 1)
    number = next(number for number, count in list_running(server).items() if count)
    # They are started one after the other, the first one first.
    victim = sorted(list_workers(server))[number]
    os.kill(victim, signal.SIGKILL)
    thread.join()
    return victim


def ask_slowly(server: DevServer, n: int, answers: list[int]) -> None:
    try:
        answers.append(server.request("POST", "/slow", {"n": n, "waits": True}).status)
    except (ConnectionError, http.client.HTTPException):
        answers.append(0)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_S_MAX
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)


class Watching:
    """Read the server's live stream beside: what it says, line by line, in a list that grows."""

    def __init__(self, server: DevServer) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=START_S_MAX)
        self._connection.request("GET", "/_flux/api/tail", headers=read_token(server))
        self._socket = self._connection.sock
        self._response = self._connection.getresponse()
        assert self._response.status == 200
        self._lines: list[Any] = []
        self._thread = threading.Thread(target=self._read, daemon=True)

    def _read(self) -> None:
        for line in self._iterate():
            self._lines.append(json.loads(line))

    def _iterate(self) -> Iterator[bytes]:
        try:
            while line := self._response.readline():
                yield line
        except (OSError, ValueError, http.client.HTTPException):
            return  # It was closed.

    def __enter__(self) -> list[Any]:
        self._thread.start()
        return self._lines

    def __exit__(self, *_error: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._connection.close()
