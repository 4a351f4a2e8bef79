"""A tenant on a PostgreSQL server of its own, which goes away: nobody else is touched, and it comes back by itself."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.conftest import Database
from tests.dev_process import Answer, DevServer, running_serve, write_project
from tests.postgres_server import AS_UID_1000, PostgresServer, running_postgres

FUNCTIONS = {
    "app.py": """
from flux_guest import Context, function


@function("POST /notes", timeout="5s")
async def add(ctx: Context, input):
    await ctx.db.execute("insert into notes (text) values ($1)", input["text"])
    return {"count": (await ctx.db.query_one("select count(*) as n from notes"))["n"]}
"""
}
MIGRATIONS = {"001.sql": "create table notes (id int generated always as identity primary key, text text)"}
PATIENCE_S = 180.0
ROLE = "far_owner"


@attrs.frozen
class Served:
    """A server with a tenant beside its own database, ``near``, and one on another PostgreSQL server, ``far``."""

    server: DevServer
    elsewhere: PostgresServer
    options: str
    """What the other one was started with."""

    def add_note(self, tenant: str) -> Answer:
        host = f"{tenant}.localhost" if tenant else "localhost"
        return self.server.request("POST", "/notes", {"text": "x"}, {"host": f"{host}:{self.server.port}"})

    def wait_answer(self, tenant: str, status: int) -> Answer:
        return wait_for(lambda: self.add_note(tenant), lambda answer: answer.status == status)

    def control(self, *words: str) -> None:
        """Stop or start the other PostgreSQL server."""
        prefix = AS_UID_1000 if os.geteuid() == 0 else ()
        command = [*prefix, self.elsewhere.bin_dir / "pg_ctl", "-D", self.elsewhere.data_dir, "-w", "-t", "120", *words]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=PATIENCE_S)


def wait_for(look: Callable[[], Any], is_so: Callable[[Any], bool]) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so(seen := look()):
        assert time.monotonic() < deadline, seen
        time.sleep(0.1)
    return seen


@pytest.fixture
def served(
    postgres18: PostgresServer, make_database: Callable[[PostgresServer], Database], tmp_path: Path
) -> Iterator[Served]:
    folders = [write_project(tmp_path / name, FUNCTIONS, migrations=MIGRATIONS) for name in ("home", "near", "far")]
    database = make_database(postgres18)
    database.psql(f"revoke connect on database {database.name} from public")
    with running_postgres() as elsewhere:
        elsewhere.psql(f"create role {ROLE} login createrole")
        elsewhere.psql(f"create database far owner {ROLE} template template0")
        elsewhere.psql("revoke all on database far from public")
        url = f"postgresql://{ROLE}@/far?host={elsewhere.host}&port={elsewhere.port}"
        with running_serve(folders[0], database) as server:
            server.json("tenant", "add", "near", "--folder", str(folders[1]))
            server.json("tenant", "add", "far", "--folder", str(folders[2]), "--database-url", url)
            started = (elsewhere.data_dir / "postmaster.opts").read_text()
            yield Served(server, elsewhere, started[started.index('"-c"') :].replace('"', "").strip())
            server.json("tenant", "remove", "near", "--yes", "--drop-data")


def test_a_tenant_whose_server_is_away_is_away_alone_and_comes_back_by_itself(served: Served) -> None:
    assert [served.add_note(name).status for name in ("", "near", "far")] == [200] * 3
    served.control("stop", "-m", "fast")
    away = served.wait_answer("far", 503)
    assert int(away.headers["retry-after"]) >= 1
    for count in range(2, 7):
        answers = [served.add_note(name) for name in ("", "near")]
        assert [(answer.status, answer.json) for answer in answers] == [(200, {"count": count})] * 2
        assert served.add_note("far").status == 503
    served.control("start", "-l", str(served.elsewhere.data_dir / "again.log"), "-o", served.options)
    try:
        assert served.wait_answer("far", 200).json["count"] == 2, "what it had committed is there"
        assert [each["up"] for each in served.server.json("tenant", "list")["tenants"]] == [True, True]
    finally:
        served.server.json("tenant", "remove", "far", "--yes")
        served.control("stop", "-m", "immediate")
