"""What ``flux dev`` tells while it runs, and what it notices: read from its own stderr."""

import fcntl
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import documents
from tests.conftest import Database
from tests.dev_process import (
    STOP_S_MAX,
    DevServer,
    database_url,
    environment,
    run_flux,
    running_dev,
    start_dev,
    wait_ready,
    write_project,
)
from tests.postgres_server import PostgresServer

HELLO = """\
from flux_guest import function


@function("GET /hello")
def hello(ctx, input):
    return {"version": 1}
"""
BYE = HELLO.replace("hello", "bye")
REDACTION = '[recording]\nredact = ["header:x-key", "json:$.password", "column:users.ssn"]\n'


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return write_project(tmp_path, {"hello.py": HELLO}, toml=REDACTION)


@pytest.fixture
def database(postgres18: PostgresServer, make_database: Callable[[PostgresServer], Database]) -> Database:
    return make_database(postgres18)


@pytest.fixture(scope="module")
def shared_database(postgres18: PostgresServer, make_database: Callable[[PostgresServer], Database]) -> Database:
    return make_database(postgres18)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, shared_database: Database) -> Iterator[DevServer]:
    """One for those who look and for those who save files: each reads what is told after its own doing."""
    project = write_project(tmp_path_factory.mktemp("dev"), {"hello.py": HELLO}, toml=REDACTION)
    with running_dev(project, shared_database) as server:
        yield server


def test_the_banner_says_what_is_in_force(server: DevServer) -> None:
    said = "\n".join(server.story)
    # Four header fields always, and three of the project's, on the fourth line of its flux.toml.
    assert "redacting 7 fields (flux.toml:4)" in said
    assert "repeatable read" in said
    walls = re.search(r"process workers ×4 · isolation (\w+), clock (\w+)", said)
    assert walls is not None
    checks = {check["name"]: check["detail"] for check in server.json("doctor")["checks"]}
    assert checks["redaction"].endswith("header:x-key, json:$.password, column:users.ssn")
    assert checks["transactions"].startswith("repeatable read")
    # Which walls can be had depends on the machine. What the banner says is what records say.
    level = server.json("trace", server.request("GET", "/hello").flux_id)["sandbox"]
    assert (level["isolation"], level["clock"]) == walls.groups()
    assert checks["isolation"] and checks["clock"].startswith(walls[2])


def test_a_program_that_starts_flux_dev_is_told_where_it_is(project: Path, database: Database) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "flux", "dev", "--json", "--port", "0", "--database-url", database_url(database)],
        cwd=project, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        document = json.loads(process.stdout.readline())
        documents.check(document)
        assert (document["schema"], document["pid"]) == ("flux.dev/1", process.pid)
        assert [function["path"] for function in document["functions"]] == ["/hello"]
        with urllib.request.urlopen(document["url"] + "/hello", timeout=STOP_S_MAX) as answer:
            assert json.load(answer) == {"version": 1}
        process.terminate()
        assert process.wait(STOP_S_MAX) == 0
        assert process.stdout.read() == b""
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_second_flux_dev_in_the_same_folder_is_told_who_was_first(
    server: DevServer, shared_database: Database
) -> None:
    second = run_flux(server.project, "dev", "--port", "0", "--database-url", database_url(shared_database))
    assert second.returncode == 2
    assert "FLX523" in second.stderr
    assert f"http://127.0.0.1:{server.port}" in second.stderr and str(server.process.pid) in second.stderr
    assert server.json("function", "list")["functions"], "the first one is still found by what it wrote down"


def test_a_killed_flux_dev_keeps_nobody_out(project: Path, database: Database) -> None:
    first = start_dev(project, "--database-url", database_url(database))
    wait_ready(first)
    first.kill()
    gone = run_flux(project, "errors")
    assert gone.returncode == 5 and "did not end by itself" in gone.stderr
    with running_dev(project, database) as second:
        assert second.request("GET", "/hello").status == 200


def test_a_reload_names_the_routes_that_came_and_went(server: DevServer) -> None:
    told = len(server.story)
    (server.project / "functions" / "bye.py").write_text(BYE)
    assert server.wait_story("+ GET /bye", after=told).split()[2:] == ["/bye", "functions.bye:bye", "db"]
    assert "functions/bye.py changed" in server.wait_story("reload", after=told)
    told = len(server.story)
    (server.project / "functions" / "bye.py").unlink()
    server.wait_story("− GET /bye", after=told)


def test_code_that_is_mended_to_what_is_served_already_is_told(server: DevServer) -> None:
    told = len(server.story)
    path = server.project / "functions" / "hello.py"
    path.write_text(HELLO + "def broken(:\n")
    server.wait_story("the last good code is served", after=told)
    problem = [line.strip() for line in server.story[told:]]
    assert "functions/hello.py:7  SyntaxError: invalid syntax" in problem
    assert not [line for line in problem if "importlib" in line], "how Flux imports is nobody's question"
    told = len(server.story)
    path.write_text(HELLO)
    server.wait_story("reload", after=told)
    assert not server.json("function", "list")["functions"][0].get("error")


def test_a_folder_that_is_made_later_is_watched(server: DevServer, shared_database: Database) -> None:
    migrations = server.project / "migrations"
    migrations.mkdir()
    (migrations / "001.sql").write_text("create table things (id int primary key);")
    server.wait_story("001.sql applied")
    told = len(server.story)
    (migrations / "002.sql").write_text("create table more (id int primary key);")
    server.wait_story("002.sql applied", after=told)
    assert shared_database.psql("select count(*) from pg_tables where schemaname = 'public'").strip() == "2"

    functions = server.project / "functions"
    shutil.rmtree(functions)
    told = len(server.story)
    functions.mkdir()
    (functions / "hello.py").write_text(HELLO.replace('"version": 1', '"version": 2'))
    server.wait_story("reload", after=told)
    assert server.request("GET", "/hello").json == {"version": 2}


@pytest.mark.parametrize("columns", [44, 80])
def test_no_line_of_the_banner_is_broken_by_the_terminal(columns: int, project: Path, database: Database) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "flux", "dev", "--port", "0", "--database-url", database_url(database)],
        cwd=project, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    text = bytearray()

    def read() -> None:
        while chunk := _read_or_end(ours):
            text.extend(chunk)
            if b"ctrl-c to stop" in text and process.poll() is None:
                process.terminate()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        assert process.wait(STOP_S_MAX) == 0
    finally:
        process.kill()
        reader.join()
        os.close(ours)
    said = text.decode()
    lines = re.split(r"\r?\n", said)
    place = next(number for number, line in enumerate(lines) if "postgres" in line)
    last = next(number for number, line in enumerate(lines) if "api " in line)
    assert [line for line in lines[place:last] if len(line) > columns] == []
    words = " ".join(said.split())
    assert "redacting 7 fields" in re.sub(r"\s+[0-9.]+ s\b", "", words)


def _read_or_end(descriptor: int) -> bytes:
    """What is there; nothing once the other side has closed, which Linux says with EIO."""
    try:
        return os.read(descriptor, 65536)
    except OSError:
        return b""
