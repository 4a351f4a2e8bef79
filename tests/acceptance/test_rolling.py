"""A rolling upgrade and a rolling deploy under load: clients notice neither, and nothing is recorded by halves.

The next version of Flux is this one with a migration more, which adds to what all servers write. It starts beside a
server of this version, on the same database, while clients write through both. Then other code is deployed on each, and
the older server ends. A balancer is played by a list of the servers that are sent requests.

What was done is asked of a second psql, and compared with what clients were answered.
"""

import itertools
import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import attrs

import flux
from tests.conftest import Database
from tests.dev_process import START_S_MAX, DevServer, database_url, serving, start_server, write_project

FUNCTIONS = """\
import asyncio

from flux_guest import function
from functions.lib import early


@function("POST /write")
async def write(ctx, input):
    row = await ctx.db.query_one("insert into written (n, code) values ($1, $2) returning n", input["n"], early.version)
    await asyncio.sleep(0.02)
    from functions.lib import later  # Loaded by the first execution in each worker, in the middle of it.
    await ctx.db.execute("update written set code_then = $2 where n = $1", row["n"], later.version)
    return {"codes": [early.version, later.version]}
"""
TABLE = "create table written (n int not null, code text, code_then text);"
NEXT = """\
alter table flux.execution add column of_the_next text not null default 'as older ones write it';
create table flux.next (n int);
"""
CLIENTS = 4
ENOUGH = 12
"""Requests that each step is given."""


@attrs.define
class Load:
    """Clients that write, one request after the other, until they are told to stop."""

    rotation: list[DevServer]
    """Who is sent requests."""
    answers: dict[int, tuple[DevServer, int, list[str]]] = attrs.field(factory=dict)
    """By number: who answered, with which status, and which code it named."""
    is_over: bool = False
    busy: dict[int, DevServer] = attrs.field(factory=dict)
    lock: threading.Lock = attrs.field(factory=threading.Lock)

    def write(self, client: int, numbers: "itertools.count[int]") -> None:
        while not self.is_over:
            n = next(numbers)
            with self.lock:
                server = self.busy[client] = self.rotation[n % len(self.rotation)]
            answer = server.request("POST", "/write", {"n": n})
            self.answers[n] = (server, answer.status, answer.json.get("codes", []))
            with self.lock:
                del self.busy[client]

    def wait_more(self, server: DevServer, code: str) -> None:
        """Wait until a server has answered some more requests with some code."""

        def count() -> int:
            return sum(who is server and codes == [code, code] for who, _, codes in list(self.answers.values()))

        before = count()
        wait_until(lambda: count() >= before + ENOUGH)

    def take_out(self, server: DevServer) -> None:
        """Send it no more requests, and wait until it has answered."""
        with self.lock:
            self.rotation.remove(server)
        wait_until(lambda: server not in list(self.busy.values()))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_S_MAX
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


def write_code(folder: Path, version: str) -> Path:
    (folder / "functions" / "lib").mkdir(parents=True, exist_ok=True)
    for name in ("early", "later"):
        (folder / "functions" / "lib" / f"{name}.py").write_text(f"version = {version!r}\n")
    return write_project(
        folder, {"write.py": FUNCTIONS},
        toml="[recording]\nself_check_s = 0\n[sandbox]\nwarm = 20\n", migrations={"001_written.sql": TABLE},
    )  # fmt: skip


def make_next_flux(folder: Path) -> Path:
    """The next version of Flux, in a folder of its own."""
    here = Path(flux.__file__).parent
    shutil.copytree(here, folder / "flux", ignore=shutil.ignore_patterns("__pycache__"))
    for beside in ("guest-sdk", "docs"):
        (folder / beside).symlink_to(here.parent / beside)
    (folder / "flux" / "store" / "migrations" / "999_next.sql").write_text(NEXT)
    return folder


def deploy(server: DevServer) -> None:
    token = json.loads((server.project / ".flux" / "dev.json").read_text())["token"]
    answer = server.request("POST", "/_flux/api/deploy", {}, {"authorization": f"Bearer {token}"})
    assert answer.status == 200 and answer.json["deployed"], answer.body


def test_an_upgrade_and_a_deploy_from_server_to_server_lose_no_request_and_mix_no_code(
    database: Database, tmp_path: Path
) -> None:
    tmp_path.chmod(0o755)
    arguments = ("serve", "--deploy", "--bind", "127.0.0.1:0", "--database-url", database_url(database))
    older_folder, newer_folder = write_code(tmp_path / "older", "first"), write_code(tmp_path / "newer", "first")
    next_flux = make_next_flux(tmp_path / "next")
    with serving(start_server(older_folder, *arguments)) as older:
        load = Load([older])
        numbers = itertools.count()
        threads = [threading.Thread(target=load.write, args=(each, numbers)) for each in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            load.wait_more(older, "first")
            with serving(start_server(newer_folder, *arguments, flux=next_flux)) as newer:
                assert database.psql("select max(version) from flux.schema_version") == "999"
                load.wait_more(older, "first")  # It goes on, on the newer schema.
                load.rotation.append(newer)
                load.wait_more(newer, "first")
                # Who starts now is not of this version any more.
                late = start_server(write_code(tmp_path / "late", "first"), *arguments)
                assert late.process.wait(START_S_MAX) != 0
                late.reader.join()
                assert "FLX233" in "\n".join(late.story)

                for server in (older, newer):
                    write_code(server.project, "second")
                    deploy(server)
                    load.wait_more(server, "second")
                load.take_out(older)
                assert older.stop() == 0, "\n".join(older.story)
                load.wait_more(newer, "second")
                load.is_over = True
                for thread in threads:
                    thread.join()
        finally:
            load.is_over = True
    assert {status for _, status, _ in load.answers.values()} == {200}
    written = database.psql("select n, code, code_then from public.written order by n").splitlines()
    assert written == [f"{n}|{'|'.join(codes)}" for n, (_, _, codes) in sorted(load.answers.items())]
    assert all(codes[0] == codes[1] for _, _, codes in load.answers.values()), "one execution ran two deployments"
    count = str(len(load.answers))
    records = "from flux.execution where function = 'write' and outcome = 'returned' and completeness = 'whole'"
    assert database.psql(f"select count(*) {records}") == count
    assert database.psql(f"select count(distinct xid) {records} and xid in (select xid from flux.mutation)") == count
    assert database.psql("select count(*) from flux.execution where function = 'write'") == count
