"""Faults that are planted where ``flux why --prove`` can find them, and some where it can't.

Anybody can run all of them::

    python -m tests.proofs.seeded

One `flux dev` serves a function for each. First each is asked so that it passes, then what it depends on is spoilt (a
field of the request, a row, what another server says, its code), and it is asked again and fails. The oracle is what
was spoilt: `Fault.sites` names it, and nothing of Flux has a say in that. Faults without sites fail whatever they hear.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from tests.conftest import create_database
from tests.dev_process import CountingStub, DevServer, counting_stub, running_dev, write_project
from tests.postgres_server import running_postgres

TOML = '[limits]\nhost_calls = 30\n[http]\nallow = ["127.0.0.1:PORT", "127.0.0.1:1"]\n'

TABLES = """
create table users (id int primary key, email text unique, plan text);
create table orders (id int primary key, user_id int not null references users (id), cents int check (cents > 0));
create table places (id int primary key, path text);
insert into users select n, 'user' || n || '@example.com', 'free' from generate_series(1, 9) n;
insert into places values (1, '/status/200');
"""

HEADER = """\
import asyncio
import os
import signal

from flux_guest import Context, function

STUB = "http://127.0.0.1:PORT"
PRICES = {"free": 0, "pro": 9}
SERVED = []


@function("POST /run-sql")
async def run_sql(ctx: Context, input: dict) -> dict:
    await ctx.db.execute(input["sql"])
    return {}


@function
async def picky(ctx: Context, input: dict) -> dict:
    return {"price": PRICES[input["plan"]]}
"""


@attrs.frozen
class Fault:
    """A function, how it passes, and what makes it fail."""

    name: str
    source: str
    """Body of the handler."""
    sites: tuple[str, ...] = ()
    """What was spoilt, as ``causes[].flips[].site``; several are needed together. Empty: nothing that it heard."""
    good: Any = None
    """Input with which it passes; None: it never does."""
    bad: Any = attrs.field(factory=dict)
    """Input with which it fails."""
    spoil: str = ""
    """SQL that is run in between."""
    page: tuple[str, bytes, bytes] | None = None
    """A path of the stub, what it says first, and what later."""
    options: str = ""
    new_source: str = ""
    """Body of the handler as it is deployed in between; empty: it stays."""


FAULTS = (
    Fault("absent_field", 'return {"price": PRICES[input["plan"]]}', ("input.plan",), {"plan": "pro", "who": 1},
          {"who": 2}),
    Fault("wrong_type", 'return {"n": input["n"] + 1}', ("input.n",), {"n": 3}, {"n": "three"}),
    Fault("taken", 'await ctx.db.execute("insert into users values ($1, $2)", input["id"], input["email"])\n'
          "    return {}", ("input.email",), {"id": 21, "email": "new@example.com"},
          {"id": 22, "email": "user3@example.com"}),
    Fault("no_such_user", 'await ctx.db.execute("insert into orders values ($1, $2, 5)", input["id"], input["user"])\n'
          "    return {}", ("input.user",), {"id": 1, "user": 4}, {"id": 2, "user": 77}),
    Fault("broken_check", 'await ctx.db.execute("insert into orders values ($1, 1, $2)", input["id"], input["cents"])\n'
          "    return {}", ("input.cents",), {"id": 11, "cents": 5}, {"id": 12, "cents": -5}),
    Fault("nested_field", 'return {"zip": input["address"]["zip"].strip()}', ("input.address.zip",),
          {"address": {"zip": "8001", "city": "Zug"}}, {"address": {"zip": None, "city": "Bern"}}),
    Fault("no_row", 'row = await ctx.db.query_one("select plan from users where id = $1", input["id"])\n'
          '    return {"plan": row["plan"]}', ("input.id",), {"id": 3}, {"id": 404}),
    Fault("too_much_work", 'for _ in range(input["size"]):\n        pass\n    return {}', ("input.size",), {"size": 3},
          {"size": 10**13}, options=', timeout="1s"'),
    Fault("crash", 'if input["mode"] == "fast":\n        os.kill(os.getpid(), signal.SIGSEGV)\n    return {}',
          ("input.mode",), {"mode": "slow"}, {"mode": "fast"}),
    Fault("spoilt_row", 'row = await ctx.db.query_one("select plan, email from users where id = 5")\n'
          '    return {"price": PRICES[row["plan"]]}', ("call 1 plan of row 1",), {},
          spoil="update users set plan = null, email = 'other@example.com' where id = 5"),
    Fault("lost_row", 'row = await ctx.db.query_one("select plan from users where id = 6")\n'
          '    return {"plan": row["plan"]}', ("call 1",), {}, spoil="delete from users where id = 6"),
    Fault("wrong_place", 'row = await ctx.db.query_one("select path from places where id = 1")\n'
          '    answer = await ctx.http.get(STUB + row["path"])\n    assert answer.ok\n    return {}',
          ("call 1 path of row 1",), {}, spoil="update places set path = '/status/503' where id = 1"),
    Fault("spoilt_body", 'answer = await ctx.http.get(STUB + "/quote")\n'
          '    return {"cents": answer.json()["cents"] * 2}', ("call 1 cents",), {},
          page=("/quote", b'{"cents": 5, "day": 1}', b'{"cents": null, "day": 2}')),
    Fault("bad_status", 'answer = await ctx.http.get(STUB + "/status/503")\n    assert answer.ok\n'
          "    return {}", ("call 1",)),
    Fault("time_out", 'await ctx.http.get(STUB + "/hang", timeout=0.3)\n    return {}', ("call 1",)),
    Fault("impatient", 'async with asyncio.timeout(0.3):\n        await ctx.http.get(STUB + "/hang")\n    return {}',
          ("call 1",)),
    Fault("nobody_there", 'await ctx.http.get("http://127.0.0.1:1/")\n    return {}', ("call 1",)),
    Fault("no_secret", 'return {"length": len(await ctx.secrets.reveal("NOT_THERE"))}', ("call 1",)),
    Fault("invoked_fails", 'return await ctx.invoke("picky", {"plan": "gold"})', ("call 1",)),
    Fault("aborted", 'try:\n        await ctx.db.execute("insert into users values (1)")\n    except Exception:\n'
          '        pass\n    return {"n": len(await ctx.db.query("select id from users"))}', ("call 1",)),
    Fault("two_fields", 'first = PRICES[input["a"]]\n    return {"sum": first + PRICES[input["b"]]}',
          ("input.a", "input.b"), {"a": "pro", "b": "free", "c": 1}, {"a": "x", "b": "y", "c": 2}),
    Fault("field_and_row", 'row = await ctx.db.query_one("select plan from users where id = 7")\n'
          '    return {"sum": PRICES[input["plan"]] + PRICES[row["plan"]]}', ("input.plan", "call 1"), {"plan": "pro"},
          {"plan": "gold"}, spoil="update users set plan = 'gift' where id = 7"),
    Fault("new_code", 'return {"price": PRICES.get(input["plan"], 5)}', ("code",), {"plan": "pro"}, {"plan": "pro"},
          new_source='return {"price": PRICES[input["plan"].upper()]}'),
    Fault("new_statement", 'return {"n": len(await ctx.db.query("select id from users"))}', ("code",), {}, {},
          new_source='return {"n": len(await ctx.db.query("select idd from users"))}'),
    Fault("always", 'return {}["nothing"]'),
    Fault("says_so", 'return ctx.response({"error": "no"}, status=500)'),
    Fault("exits", "os._exit(3)"),
    Fault("waits_for_itself", "await asyncio.get_running_loop().create_future()"),
    Fault("asks_for_ever", "while True:\n        await ctx.clock.fresh()"),
)  # fmt: skip


@attrs.frozen
class Seen:
    """What ``flux why --prove`` said of a fault."""

    fault: Fault
    name: str
    """Of the execution that failed."""
    why: Any
    """Its JSON."""
    elapsed_s: float

    @property
    def causes(self) -> list[tuple[str, ...]]:
        """The sites of each set that it names."""
        return [tuple(flip["site"] for flip in cause["flips"]) for cause in self.why["proof"]["causes"]]

    @property
    def is_right(self) -> bool:
        """Whether it names what was spoilt first, or says that nothing on record is the cause."""
        facts = [fact["text"] for fact in self.why["facts"] if fact["mark"] == "↻"]
        if not self.fault.sites:
            return not self.causes and facts[0].startswith("no cause in the record")
        return bool(self.causes) and self.fault.sites in self.causes


def write_functions(faults: Sequence[Fault], port: int, *, is_new: bool) -> str:
    """The project's one file, before or after what is deployed in between."""
    parts = [HEADER]
    for fault in faults:
        body = fault.new_source if is_new and fault.new_source else fault.source
        route = f'"POST /{fault.name}"{fault.options}'
        parts.append(f"\n\n@function({route})\nasync def {fault.name}(ctx: Context, input: dict):\n    {body}\n")
    return "".join(parts).replace("PORT", str(port))


def make_project(folder: Path, faults: Sequence[Fault], stub: CountingStub) -> Path:
    """Write the project that has them."""
    for fault in faults:
        if fault.page is not None:
            stub.pages[fault.page[0]] = fault.page[1]
    return write_project(
        folder, {"faults.py": write_functions(faults, stub.port, is_new=False)},
        toml=TOML.replace("PORT", str(stub.port)), migrations={"001.sql": TABLES},
    )  # fmt: skip


def fail_all(server: DevServer, stub: CountingStub, faults: Sequence[Fault]) -> list[str]:
    """Have each pass, spoil what it depends on, and have it fail; return the names of what failed."""
    for fault in faults:
        if fault.good is not None:
            answer = server.request("POST", f"/{fault.name}", fault.good)
            assert answer.status == 200, (fault.name, answer.body)
    for fault in faults:
        if fault.spoil:
            assert server.request("POST", "/run-sql", {"sql": fault.spoil}).status == 200
        if fault.page is not None:
            stub.pages[fault.page[0]] = fault.page[2]
    if any(fault.new_source for fault in faults):
        told = len(server.story)
        (server.project / "functions" / "faults.py").write_text(write_functions(faults, stub.port, is_new=True))
        server.wait_story("reload", after=told)
    names = []
    for fault in faults:
        answer = server.request("POST", f"/{fault.name}", fault.bad)
        assert answer.status >= 500, (fault.name, answer.status, answer.body)
        names.append(answer.flux_id)
    return names


def prove(server: DevServer, fault: Fault, name: str) -> Seen:
    """Ask why, with proof."""
    began_s = time.monotonic()
    why = server.json("why", name, "--prove")
    return Seen(fault, name, why, time.monotonic() - began_s)


def main() -> int:
    """Run all, or those that are named."""
    parser = argparse.ArgumentParser(description="plant faults, and have each proved")
    parser.add_argument("names", nargs="*", help="these faults; without any, all")
    said = parser.parse_args()
    faults = [fault for fault in FAULTS if not said.names or fault.name in said.names]
    wrong = 0
    with tempfile.TemporaryDirectory() as folder, counting_stub() as stub, running_postgres() as postgres:
        project = make_project(Path(folder), faults, stub)
        with running_dev(project, create_database(postgres)) as server:
            for fault, name in zip(faults, fail_all(server, stub, faults), strict=True):
                seen = prove(server, fault, name)
                wrong += not seen.is_right
                mark, runs = "ok   " if seen.is_right else "WRONG", seen.why["proof"]["runs"]
                print(f"{mark} {fault.name:18} {runs:3} runs {seen.elapsed_s:5.1f} s  {seen.causes}", flush=True)
                if not seen.is_right or said.names:
                    print(server.command("why", name, "--prove", "-v").stdout)
    print(f"{len(faults) - wrong} of {len(faults)} are right")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
