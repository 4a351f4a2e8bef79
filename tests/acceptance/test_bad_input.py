"""What people do wrong, and what breaks around them: each is told clearly, and nothing is lost."""

import os
import re
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.acceptance.test_isolation import wait_until
from tests.conftest import Database, create_database
from tests.dev_process import (
    DevServer,
    database_url,
    run_flux,
    running_dev,
    start_dev,
    wait_ready,
    write_project,
)
from tests.postgres_server import PostgresServer, running_postgres
from tests.zygote_world import children_of, state_of

HELLO = '''\
from flux_guest import Context, function


@function("GET /hello")
async def hello(ctx: Context, input: dict) -> dict:
    return {"version": 1}


@function("POST /rows/{n}")
async def add(ctx: Context, input: dict) -> dict:
    await ctx.db.execute("insert into rows (n) values ($1)", int(input["n"]))
    return {"n": input["n"]}
'''
FORGOTTEN = '''\
from flux_guest import Context, function


@function("GET /forgotten/{what}")
async def forgotten(ctx: Context, input: dict) -> dict:
    match input["what"]:
        case "item":
            return {"n": ctx.db.query_one("select 1 as n")["n"]}
        case "member":
            return {"n": ctx.db.query_one("select 1 as n").values()}
        case "answer":
            return {"rows": ctx.db.query("select 1 as n")}
        case "coroutine":
            return forgotten(ctx, {"what": ""})
        case "file":
            open("/tmp/written", "w")
    return {}
'''
ROWS = "create table rows (n int primary key);"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return write_project(tmp_path, {"hello.py": HELLO}, migrations={"001.sql": ROWS})


@pytest.fixture
def database(postgres18: PostgresServer, make_database: Callable[[PostgresServer], Database]) -> Database:
    return make_database(postgres18)


@pytest.fixture
def server(project: Path, database: Database) -> Iterator[DevServer]:
    with running_dev(project, database) as server:
        yield server


@pytest.fixture(scope="module")
def untouched(
    tmp_path_factory: pytest.TempPathFactory,
    postgres18: PostgresServer,
    make_database: Callable[[PostgresServer], Database],
) -> Iterator[DevServer]:
    """A server for those who only ask: nobody changes its files, its limits or its database."""
    folder = write_project(tmp_path_factory.mktemp("untouched"), {"hello.py": HELLO}, migrations={"001.sql": ROWS})
    with running_dev(folder, make_database(postgres18)) as server:
        yield server


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("[limits]\ntimeout = 30\n", ["flux.toml:4", "limits.timeout", '"30s"']),
        ("[limts]\ntimeout = \"3s\"\n", ["flux.toml:3", "limts", "limits"]),
        ("[dev]\nport = \"many\"\n", ["flux.toml:4", "dev.port", "65535"]),
        ("[http\n", ["flux.toml:3", "TOML"]),
    ],
)  # fmt: skip
def test_an_unreadable_flux_toml_names_line_key_and_what_is_allowed(project: Path, toml: str, says: list[str]) -> None:
    (project / "flux.toml").write_text(f'[project]\nname = "test"\n{toml}')
    done = run_flux(project, "dev", "--port", "0")
    assert done.returncode == 2
    assert re.search(r"FLX50\d", done.stderr)
    for text in says:
        assert text in done.stderr


def test_a_function_that_does_not_import_leaves_the_last_good_code_serving(server: DevServer) -> None:
    path = server.project / "functions" / "hello.py"
    path.write_text(HELLO + "\nimport no_such_module\n")
    server.wait_story("FLX517" if any("FLX517" in line for line in server.story) else "no_such_module")
    server.wait_story("the last good code is served")
    story = "\n".join(server.story)
    line = HELLO.count("\n") + 2
    assert f"functions/hello.py:{line}" in story
    assert "Traceback" in story and "ModuleNotFoundError" in story
    assert server.request("GET", "/hello").json == {"version": 1}
    path.write_text(HELLO.replace('"version": 1', '"version": 2'))
    server.wait_story("reload")
    assert server.request("GET", "/hello").json == {"version": 2}


def test_a_forgotten_await_a_route_twice_and_a_file_are_named_and_slow_code_is_told_of(server: DevServer) -> None:
    path = server.project / "functions" / "other.py"
    path.write_text(HELLO.partition("@function(\"POST")[0].replace("def hello", "def again"))
    server.wait_story("FLX521")
    both = 'functions/other.py:4  route "GET /hello" answers the same requests as "GET /hello" of functions/hello.py:4'
    server.wait_story(both)
    path.write_text(f"import time\ntime.sleep(3.5)\n{FORGOTTEN}")
    server.wait_story("functions/other.py changed: its code is still imported, or its packages installed, after 3 s")
    server.wait_story("+ GET /forgotten/{what}")
    said = {}
    for what in ("item", "member", "answer", "coroutine", "file"):
        answer = server.request("GET", f"/forgotten/{what}")
        assert answer.status == 500
        said[what] = answer.json["detail"].partition(" (functions/")[0]
    advice = "was not awaited: write await before it"
    assert said == {
        "item": f"TypeError: db.query (call 1) {advice}",
        "member": f"AttributeError: db.query (call 1) {advice}; it has no values itself",
        "answer": f"AnswerError: the answer can't be JSON: $.rows is a HostFuture that {advice}",
        "coroutine": f"AnswerError: the answer can't be JSON: $ is a coroutine that {advice}",
        "file": "PermissionError: [Errno 1] Operation not permitted: '/tmp/written'",
    }
    assert "sandbox refused that: a function writes no files" in server.command("why", "@-1").stdout


def test_code_that_is_broken_at_the_start_is_served_once_it_is_mended(project: Path, database: Database) -> None:
    path = project / "functions" / "hello.py"
    path.write_text("def broken(:\n")
    server = start_dev(project, "--database-url", database_url(database))
    try:
        server.wait_story("nothing is served until it is mended")
        assert any("functions/hello.py:1" in line and "SyntaxError" in line for line in server.story)
        path.write_text(HELLO)
        wait_ready(server)
        assert server.request("GET", "/hello").json == {"version": 1}
        assert server.stop() == 0
    finally:
        server.kill()


def test_no_request_is_dropped_while_code_is_swapped(server: DevServer) -> None:
    path = server.project / "functions" / "hello.py"
    statuses: list[int] = []
    versions: set[int] = set()
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            answer = server.request("GET", "/hello")
            statuses.append(answer.status)
            versions.add(answer.json["version"])

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for version in range(2, 8):
            told = len(server.story)
            wait_until(lambda last=version - 1: last in versions, "the last code was never served")
            path.write_text(HELLO.replace('"version": 1', f'"version": {version}'))
            server.wait_story("reload", after=told)
        wait_until(lambda: 7 in versions, "the last code was never served")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert set(statuses) == {200}
    assert versions == set(range(1, 8))


def test_a_port_in_use_names_who_has_it(project: Path, database: Database) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        done = run_flux(project, "dev", "--port", str(port), "--database-url", database_url(database))
    assert done.returncode == 2
    assert "FLX601" in done.stderr
    assert f"port {port}" in done.stderr and str(os.getpid()) in done.stderr


def test_a_database_that_is_down_at_the_start_is_named(project: Path) -> None:
    done = run_flux(project, "dev", "--port", "0", "--database-url", "postgresql://flux@127.0.0.1:1/flux")
    assert done.returncode == 2
    assert "FLX202" in done.stderr
    assert "127.0.0.1" in done.stderr and "start the server there" in done.stderr
    assert "✓ postgres" not in done.stderr, "nobody has seen it"


def test_a_database_that_dies_in_flight_loses_nothing_that_was_confirmed(project: Path) -> None:
    """The embedded server is killed; requests fail with a code meanwhile, and it comes back by itself."""
    with running_dev(project) as server:
        assert server.request("POST", "/rows/1").status == 200
        pid = int((project / ".flux" / "pg" / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGKILL)
        refused = server.request("POST", "/rows/2")
        server.wait_story("PostgreSQL is back")
        confirmed = [1] if refused.status != 200 else [1, 2]
        if refused.status != 200:
            assert refused.status >= 500
            assert refused.json["code"] and refused.json["detail"]
        deadline = time.monotonic() + 120
        while (answer := server.request("POST", "/rows/3")).status != 200 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert answer.status == 200
        listed = server.json("trace", "list", "-q", "function:add status:200", "-n", "100")["executions"]
        written = [one for one in listed if one["mutations"]]
        assert len(written) == len(confirmed) + 1
        if refused.status != 200:
            why = server.json("why", refused.flux_id)
            assert why["failure"]["kind"] in ("database_error", "commit_failed", "host_error")


def test_a_database_that_is_away_is_an_error_and_never_an_empty_answer(project: Path) -> None:
    with running_postgres() as postgres:
        database = create_database(postgres)
        with running_dev(project, database) as server:
            name = server.request("POST", "/rows/1").flux_id
            backends = children_of(postgres.pid)
            os.kill(postgres.pid, signal.SIGKILL)
            while any(state_of(pid) not in ("", "Z") for pid in backends):
                time.sleep(0.02)  # They end by themselves once they see that it has.
            for command in (["trace", "list"], ["errors"], ["why", name], ["state", "history", "rows", "1"]):
                done = server.command(*command)
                assert done.returncode in (2, 5), (command, done)
                assert re.search(r"FLX\d\d\d", done.stderr)
                assert done.stdout == ""
            server.kill()


def test_a_full_disk_refuses_work_rather_than_run_it_unrecorded(server: DevServer, database: Database) -> None:
    """The journal may grow no further: what is confirmed is recorded, the rest is refused with its code."""
    assert server.request("POST", "/rows/0").status == 200
    # No file of the server's may grow beyond this, as on a disk without a free block.
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))
    confirmed, refused = ["0"], []
    for n in range(1, 20):
        answer = server.request("POST", f"/rows/{n}")
        if answer.status == 200:
            confirmed.append(str(n))
        else:
            assert answer.status == 503
            assert "FLX70" in answer.json["detail"]
            refused.append(str(n))
    assert len(refused) == 19
    rows = database.psql("select n from rows order by n").split()
    assert rows == confirmed
    recorded = database.psql("select count(*) from flux.execution where function = 'add' and outcome = 'returned'")
    assert int(recorded) == len(confirmed)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert server.request("POST", "/rows/99").status == 200, "with room again, work goes on"


def test_a_wrong_id_exits_with_three_and_says_what_there_is(untouched: DevServer) -> None:
    name = untouched.request("GET", "/hello").flux_id
    for command in ("why", "trace"):
        done = untouched.command(command, "zzzzzzzz")
        assert done.returncode == 3
        assert "FLX101" in done.stderr and name in done.stderr
        assert done.stdout == ""
    for _ in range(40):
        untouched.request("GET", "/hello")
    assert untouched.command("trace", "nothing-like-a-name").returncode == 3
    several = untouched.command("why", "0")  # UUIDs all begin so, names never do
    assert several.returncode == 3
    assert "FLX102" in several.stderr


def test_without_a_server_commands_exit_with_five(project: Path) -> None:
    done = run_flux(project, "why", "@-1")
    assert done.returncode == 5
    assert "FLX108" in done.stderr and "flux dev" in done.stderr


@pytest.mark.parametrize("body", [b"{", b'{"n": NaN}', b"\xff\xfe", b"[" * 5000, b'{"a": "\\ud800"}'])
def test_a_body_that_is_not_json_is_the_clients_mistake_and_is_on_record(untouched: DevServer, body: bytes) -> None:
    answer = untouched.request("POST", "/rows/1", body, {"content-type": "application/json"})
    assert answer.status == 400
    assert answer.json["code"] == "INPUT_VALIDATION_ERROR"
    assert untouched.json("why", answer.flux_id)["failure"]["kind"] == "validation"
