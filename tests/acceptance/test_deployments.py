"""``flux serve``, ``deploy``, ``deployments`` and ``rollback`` as people type them.

What is served is asked over HTTP, what is on record of ``psql``, and what became of the user's checkout of ``git``.
"""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import Database
from tests.dev_process import (
    CountingStub,
    DevServer,
    counting_stub,
    database_url,
    environment,
    running_serve,
    start_dev,
    wait_ready,
    write_project,
)
from tests.postgres_server import PostgresServer
from tests.wheels import write_wheel

SHOP = """\
import sys

import plain
from flux_guest import function

found = [name for name in sys.modules if name.startswith(("flux.supervisor", "trio"))]
print(f"the supervisor's modules: {found}")
try:
    open(__file__, "a")
except OSError as error:
    print(f"writing: {type(error).__name__}")


@function("GET /version")
def version(ctx, input):
    return {"version": VERSION, "plain": plain.answer}


@function("GET /slow")
def slow(ctx, input):
    try:
        ctx.http.get("STUB/hang", timeout=100)
    except Exception:
        pass
    return {"version": VERSION}
"""
PATIENCE_S = 120


class Shop:
    """A project with a history, and whoever works on it."""

    def __init__(self, root: Path, stub: CountingStub) -> None:
        self.root = root
        self.stub = stub
        (root / "functions").mkdir(parents=True)
        migrations = {"001.sql": "create table things (id int primary key);"}
        toml = f'[http]\nallow = ["127.0.0.1:{stub.port}"]\n[limits]\ntimeout = "120s"\n'
        write_project(root, {}, toml=toml, migrations=migrations)
        write_wheel(root / "wheels", "plain", {"plain/__init__.py": "answer = 42\n"})
        (root / "requirements.txt").write_text("./wheels/plain-1.0-py3-none-any.whl\n")
        self.git("init", "-q", "-b", "main")
        self.git("config", "user.name", "somebody")
        self.git("config", "user.email", "somebody@example.com")

    def git(self, *arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=self.root, check=True, capture_output=True, text=True,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )  # fmt: skip
        return done.stdout

    def write(self, version: int, more: str = "") -> None:
        source = SHOP.replace("VERSION", str(version)).replace("STUB", self.stub.url(""))
        (self.root / "functions/shop.py").write_text(more + source)

    def commit(self, version: int, more: str = "") -> str:
        self.write(version, more)
        self.git("add", "-A")
        self.git("commit", "-qm", f"version {version}")
        return self.git("rev-parse", "HEAD").strip()

    def state(self) -> Mapping[str, str]:
        """All that belongs to the user: files, index, HEAD, stash, reflogs, branches."""
        files = {
            str(path.relative_to(self.root)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in self.root.rglob("*")
            if path.is_file() and ".flux" not in path.parts and ".git" not in path.relative_to(self.root).parts[:1]
        }
        asked = ("status --porcelain=v2 --branch", "ls-files -s", "stash list", "reflog --all", "show-ref --head")
        index = hashlib.sha256((self.root / ".git/index").read_bytes()).hexdigest()
        return {**files, **{text: self.git(*text.split()) for text in asked}, "index": index}


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with counting_stub() as stub:
        yield Shop(tmp_path / "shop", stub)


@pytest.fixture
def database(postgres18: PostgresServer, make_database: Callable[[PostgresServer], Database]) -> Database:
    return make_database(postgres18)


def version_of(server: DevServer) -> int:
    answer = server.request("GET", "/version")
    assert answer.status == 200 and answer.json["plain"] == 42, answer
    version = answer.json["version"]
    assert isinstance(version, int)
    return version


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what}: it never was"
        time.sleep(0.005)


def test_commits_are_served_and_taken_back_and_nobodys_checkout_is_touched(shop: Shop, database: Database) -> None:
    one = shop.commit(1)
    broken = shop.commit(3, "import no_such_module\n")
    two = shop.commit(2)
    before = shop.state()
    with running_serve(shop.root, database) as server, ThreadPoolExecutor() as threads:
        assert version_of(server) == 2, "nothing was on record, so it is the folder"
        slow = threads.submit(server.request, "GET", "/slow")
        wait_until(lambda: bool(shop.stub.seen), "the slow request is under way")
        deployed = server.json("deploy", "--on", one[:8])
        assert deployed["schema"] == "flux.deploy/1" and sorted(deployed["functions"]) == ["slow", "version"]
        assert (deployed["sha"], deployed["dirty"], deployed["before"]["sha"]) == (one, False, two)
        on_one = server.request("GET", "/version")
        assert on_one.json["version"] == 1
        assert not slow.done()
        shop.stub.release()
        assert slow.result(PATIENCE_S).json == {"version": 2}, "it ends on the code that it began on"
        record = server.json("trace", slow.result().flux_id)
        assert (record["sha"], record["dirty"]) == (two, False)

        refused = server.command("deploy", "--on", broken)
        assert refused.returncode == 2 and "no_such_module" in refused.stderr
        assert version_of(server) == 1

        back = server.json("rollback")
        assert (back["schema"], back["sha"], back["deployed"]) == ("flux.rollback/1", two, True)
        assert version_of(server) == 2
        found = server.json("trace", "list", "-q", f"sha:{one[:7]}", "-n", "100")["executions"]
        assert on_one.flux_id in [summary["name"] for summary in found]
        assert {summary["sha"] for summary in found} == {one}
        listed = server.json("deployments")["deployments"]
        assert [(row["sha"], row["current"], row["cause"]) for row in listed] == [
            (two, True, "rollback"),
            (one, False, "deploy"),
        ]
        counted = {row["sha"]: (row["executions"], row["failed"]) for row in listed}
        oracle = database.psql("select sha, count(*) from flux.execution group by sha").splitlines()
        assert {f"{sha}|{count}" for sha, (count, _) in counted.items()} == set(oracle)
        assert database.psql("select to_regclass('things')") == "things"
        assert shop.state() == before

        # What anybody wrote into kept code is not run. The commit gives the first one again; nothing gives the other.
        kept = shop.root / ".flux/artifacts"
        (kept / deployed["deployment"] / "functions/shop.py").write_text("raise SystemExit\n")
        assert server.json("rollback", one)["sha"] == one
        server.wait_story(f"made again from commit {one[:7]}")
        assert version_of(server) == 1
        shop.write(5)
        dirty = server.json("deploy")
        assert (dirty["sha"], dirty["dirty"], version_of(server)) == (two, True, 5)
        server.json("rollback")
        (kept / dirty["deployment"] / "functions/planted.py").write_text("")
        refused = server.command("rollback", dirty["deployment"][:10])
        assert refused.returncode == 6 and "FLX540" in refused.stderr and dirty["deployment"] in refused.stderr
        assert version_of(server) == 1

        told = "\n".join(server.story)
        assert told.count("installed 1 package ") == 1, "three commits with the same list share one environment"
        assert len([path for path in (shop.root / ".flux/environments").iterdir() if path.is_dir()]) == 1
        assert "the supervisor's modules: []" in told, "what a commit declares is found out in the jail"
        assert "writing: " in told

        # A deploy that is cut by kill -9.
        kept_before = len(list(kept.iterdir()))
        six = shop.commit(6)
        deploying = subprocess.Popen(
            [sys.executable, "-m", "flux", "deploy", "--on", six], cwd=shop.root, env=environment(),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_until(lambda: len(list(kept.iterdir())) > kept_before, "the deploy is half way")
        server.kill()
        deploying.wait(PATIENCE_S)
    [on_record, cause] = database.psql("select sha, cause from flux.deploy order by id desc limit 1").split("|")
    shop.write(7)  # What lies in the folder is nobody's deploy.
    with running_serve(shop.root, database) as server:
        assert (on_record, cause, version_of(server)) in [(one, "rollback", 1), (six, "deploy", 6)]
        [current] = [row for row in server.json("deployments")["deployments"] if row["current"]]
        assert (current["sha"], current["cause"]) == (on_record, "start")
        server.wait_story("the project's folder has other code")
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(PATIENCE_S) == 0


def test_what_was_deployed_under_flux_dev_is_held_until_a_file_is_saved(shop: Shop, database: Database) -> None:
    one, two = shop.commit(1), shop.commit(2)
    shop.write(2, "import no_such_module\n")
    server = start_dev(shop.root, "--database-url", database_url(database))
    try:
        server.wait_story("nothing is served until it is mended and saved")
        server.json("deploy", "--on", one)
        wait_ready(server)
        assert "held until a file is saved" in server.wait_story(f"deploy  {one[:7]} is served")
        assert version_of(server) == 1
        told = len(server.story)
        shop.write(3)
        server.wait_story("reload", after=told)
        assert version_of(server) == 3
        listed = server.json("deployments")["deployments"]
        assert [(row["sha"], row["dirty"], row["cause"], row["current"]) for row in listed] == [
            (two, True, "save", True), (one, False, "deploy", False),
        ]  # fmt: skip
        checks = {check["name"]: check for check in server.json("doctor")["checks"]}
        assert checks["deployment"]["detail"] == f"{two[:7]}+ is served, deployment {listed[0]['deployment']}"
        for wrong in (["rollback", "zzzz"], ["rollback", "ab"], ["deploy", "--on", "no-such-ref"]):
            assert server.command(*wrong).returncode == 3, wrong
        # The database was named by its URL, so what is saved may not take from it, nor what is deployed unasked.
        told = len(server.story)
        (shop.root / "migrations/002.sql").write_text("drop table things;")
        server.wait_story("FLX591", after=told)
        refused = server.command("deploy")
        assert refused.returncode == 2 and "FLX591  migrations/002.sql:1  drops table things" in refused.stderr
        assert database.psql("select to_regclass('things')") == "things"
        done = server.command("deploy", "--allow-destructive")
        assert done.returncode == 0 and "  ! migrations/002.sql:1  drops table things\n" in done.stdout
        assert database.psql("select to_regclass('things')") == ""
        assert server.stop() == 0
    finally:
        server.kill()
