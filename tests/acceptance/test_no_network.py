"""Replays with no network at all, and with a role that may write nothing: what can't be reached can't be harmed.

The executions are recorded by a server like any other. Then it ends, the guests' role loses each right to write, and a
server begins in a network namespace that has no route, not even to this machine's own loopback. What is replayed
there, of any kind and on any code, must do what it did; the stub, a second psql and the kernel are witnesses.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

from tests.conftest import Database
from tests.dev_process import CountingStub, DevServer, counting_stub, running_dev, write_project
from tests.postgres_server import PostgresServer

MIGRATION = """
create table orders (id bigint generated always as identity primary key, item text not null, state text);
create table mails (id bigint generated always as identity primary key, address text not null);
insert into orders (item, state) values ('first', 'open');
create function write_behind() returns bigint language plpgsql as $$
declare n bigint;
begin
    -- Nothing that reads its text can tell where it writes.
    execute 'insert into pub' || 'lic.mails (address) values ($1) returning id' into n using 'behind@b.com';
    return n;
end $$;
"""
PYTHON = """\
import asyncio
import uuid
from flux_guest import function

STUB = "http://127.0.0.1:PORT"


@function("POST /order")
async def order(ctx, input):
    row = await ctx.db.query_one("insert into orders (item, state) values ($1, 'new') returning id", input["item"])
    await ctx.db.execute("update orders set state = 'closed' where item = 'first'")
    charge = await ctx.http.post(STUB + "/charge", json={"order": row["id"], "key": str(uuid.uuid4())})
    await ctx.http.post(STUB + "/mail", json={"to": input["to"]})
    return {"id": row["id"], "charged": charge.json()["amount"]}


@function("POST /many")
async def many(ctx, input):
    paths = ["/slow/30", "/slow/1", "/slow/10"]
    answers = await asyncio.gather(*(ctx.http.get(STUB + path) for path in paths))
    return {"at": ctx.clock.now().isoformat(), "statuses": [answer.status for answer in answers]}


@function("POST /library")
def library(ctx, input):
    import urllib.request

    with urllib.request.urlopen(STUB + "/status/200") as answer:
        return {"status": answer.status, "body": answer.read().decode()}
"""
SCRIPT = """\
import { defineFunction } from "@flux/guest";

export default defineFunction({
  route: "POST /script",
  handler: async ({ input, ctx }) => {
    const rows = await ctx.db.query("insert into orders (item) values ($1) returning id", input.item);
    const answers = await Promise.all(["/slow/20", "/slow/1"].map((path) => fetch("http://127.0.0.1:PORT" + path)));
    return { id: rows[0].id, drawn: crypto.randomUUID(), statuses: answers.map((answer) => answer.status) };
  },
});
"""
TYPED = """\
import { defineFunction } from "@flux/guest";

type Input = { item: string };

export default defineFunction<Input>({
  route: "POST /typed",
  handler: async ({ input, ctx }): Promise<unknown> => {
    const answer = await ctx.http.get("http://127.0.0.1:PORT/status/200");
    await ctx.db.execute("update orders set state = $1 where item = 'first'", input.item as string);
    throw new Error(`status ${answer.status} is not what was hoped for`);
  },
});
"""
FAILING = """\
    return {"id": row["id"], "charged": charge.json()["amount"]}
"""
REPAIRED = """\
    await ctx.db.execute("insert into mails (address) values ($1)", input["to"])
    await ctx.db.execute("delete from orders where item = 'first'")
    return {"id": row["id"], "charged": charge.json().get("amount", 0)}
"""
BEHIND = """\
    return await ctx.db.query_one("select write_behind() as n")
"""


@attrs.define
class Recorded:
    """What was recorded, and who sees whether anything is done."""

    project: Path
    database: Database
    stub: CountingStub
    names: dict[str, str]
    """Executions by path."""

    def see(self) -> tuple[int, str]:
        """What has been done to the world outside: requests that came, and all rows and sequences."""
        rows = self.database.psql(
            "select coalesce(string_agg(o::text, ';' order by id), '') from orders o "
            "union all select coalesce(string_agg(m::text, ';' order by id), '') from mails m "
            "union all select string_agg(sequencename || last_value, ';' order by sequencename) from pg_sequences "
            "where schemaname = 'public'"
        )
        return len(self.stub.seen), rows


@pytest.fixture(scope="module")
def recorded(
    tmp_path_factory: pytest.TempPathFactory,
    postgres18: PostgresServer,
    make_database: Callable[[PostgresServer], Database],
) -> Iterator[Recorded]:
    folder = tmp_path_factory.mktemp("netless")
    folder.chmod(0o755)
    with counting_stub() as stub:
        files = {"app.py": PYTHON, "script.js": SCRIPT, "typed.ts": TYPED}
        project = write_project(
            folder / "app",
            {name: text.replace("PORT", str(stub.port)) for name, text in files.items()},
            toml=f'[http]\nallow = ["127.0.0.1:{stub.port}"]\n',
            migrations={"001.sql": MIGRATION},
        )
        database = make_database(postgres18)
        with running_dev(project, database) as server:
            names = {
                path: server.request("POST", path, {"item": "tea", "to": "a@b.com"}).flux_id
                for path in ("/order", "/many", "/library", "/script", "/typed")
            }
        role = database.psql("select role_name from flux.guest")
        database.psql(f"revoke insert, update, delete, truncate on all tables in schema public from {role}, public")
        yield Recorded(project, database, stub, names)


@pytest.fixture(scope="module")
def netless(recorded: Recorded) -> Iterator[DevServer]:
    with running_dev(recorded.project, recorded.database, is_netless=True) as server:
        yield server


def test_there_is_no_network(recorded: Recorded, netless: DevServer) -> None:
    routes = Path(f"/proc/{netless.process.pid}/net/route").read_text().splitlines()
    assert len(routes) == 1, "the heading alone"
    before = len(recorded.stub.seen)
    failed = netless.json("invoke", "library", "--data", "{}", exit_code=1)
    assert failed["status"] == 500, "a request that is no replay finds nobody"
    assert len(recorded.stub.seen) == before


@pytest.mark.parametrize(
    ("path", "verdict"),
    [("/order", "same failure"), ("/many", "identical"), ("/library", "identical"), ("/script", "identical"),
     ("/typed", "same failure")],
)  # fmt: skip
def test_what_ran_does_the_same_again(recorded: Recorded, netless: DevServer, path: str, verdict: str) -> None:
    before = recorded.see()
    code = 0 if verdict == "identical" else 1
    replay = netless.json("replay", recorded.names[path], exit_code=code)
    assert (replay["verdict"], replay["divergence"], replay["sent"]) == (verdict, None, 0)
    assert {call["grade"] for call in replay["calls"]} == {"exact"}
    assert recorded.see() == before


def test_repaired_code_writes_to_its_own_copies_alone(recorded: Recorded, netless: DevServer) -> None:
    before = recorded.see()
    told = len(netless.story)
    app = recorded.project / "functions" / "app.py"
    app.write_text(app.read_text().replace(FAILING, REPAIRED))
    netless.wait_story("app.py", after=told)
    replay = netless.json("replay", recorded.names["/order"], "--on", ".")
    assert (replay["verdict"], replay["sent"], replay["stopped"]) == ("passed", 0, 0)
    assert replay["fidelity"]["matched"] == replay["fidelity"]["equal"] >= 1
    incident = netless.json("incident", "replay", "last:1h", "-q", "route:/order")
    assert (incident["verdicts"], incident["effects_left"]) == ({"passed": 1}, 0)
    assert recorded.see() == before


def test_a_function_of_the_database_that_writes_is_refused_by_postgres(recorded: Recorded, netless: DevServer) -> None:
    role = recorded.database.psql("select role_name from flux.guest")
    # With every right to write: what refuses it then is the transaction that it runs in.
    recorded.database.psql(f"grant all on all tables in schema public to {role}")
    recorded.database.psql(f"grant all on all sequences in schema public to {role}")
    before = recorded.see()
    told = len(netless.story)
    app = recorded.project / "functions" / "app.py"
    text = app.read_text()
    app.write_text(text.replace(REPAIRED, BEHIND).replace(FAILING, BEHIND))
    netless.wait_story("app.py", after=told)
    replay = netless.json("replay", recorded.names["/order"], "--on", ".", exit_code=0)
    assert replay["verdict"] == "past it", "it went further, to what nothing can answer"
    assert any("refused by PostgreSQL" in note for note in replay["notes"])
    assert recorded.see() == before
