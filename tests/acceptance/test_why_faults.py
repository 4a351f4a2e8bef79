"""Seeded faults, one function each: ``flux why`` names the category and the line, and never guesses.

Each fault below says in its own table row what an honest reader would say. Lines are found by the
marker ``# here`` in the source, so the oracle is the text of the program and not Flux.
"""

import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import attrs
import pytest

from tests.conftest import Database
from tests.dev_process import (
    COMMAND_S_MAX,
    CountingStub,
    DevServer,
    counting_stub,
    running_dev,
    write_project,
)
from tests.postgres_server import PostgresServer

SCHEMA = """
create table users (id int primary key, email text unique not null, plan text check (plan in ('free', 'pro')));
create table orders (id int primary key, user_id int not null references users (id), total int not null);
insert into users values (1, 'ana@example.com', 'free'), (2, 'ben@example.com', null);
create table counters (id int primary key, n int not null);
insert into counters values (1, 0), (2, 0);
"""


@attrs.frozen
class Fault:
    """One function that fails, and what is to be said of it."""

    name: str
    source: str
    """Body of the handler; ``# here`` marks the line to be named."""
    kind: str
    status: int = 500
    says: tuple[str, ...] = ()
    """What must be among the facts or the verdict."""
    is_async: bool = True
    options: str = ""
    has_line: bool = True


FAULTS = [
    Fault("unhandled", 'return {"x": {}["plan"]}  # here', "unhandled_exception", says=("KeyError",)),
    Fault("nested", 'return helper(None)', "unhandled_exception", says=("TypeError", "helper")),
    Fault("outbound_timeout", 'await ctx.http.get(STUB + "/hang", timeout=0.4)  # here', "outbound_timeout",
          says=("400 ms", "127.0.0.1")),
    Fault("function_timeout", 'await ctx.http.get(STUB + "/hang")  # here', "outbound_timeout", 504,
          ("127.0.0.1",), options=', timeout="2s"'),
    Fault("outbound_status",
          'answer = await ctx.http.get(STUB + "/status/503")\n    return {"id": answer.json()["id"]}  # here',
          "outbound_status", says=("503",)),
    Fault("refused_grant", 'await ctx.http.get("http://api.example.com/x")  # here', "grant_refused",
          says=("api.example.com",)),
    Fault("unique", 'await ctx.db.execute("insert into users values (9, $1, \'free\')", "ana@example.com")  # here',
          "unique_violation", says=("users_email_key",)),
    Fault("foreign_key", 'await ctx.db.execute("insert into orders values (1, 77, 5)")  # here',
          "foreign_key_violation",
          says=("orders_user_id_fkey",)),
    Fault("not_null", 'await ctx.db.execute("insert into orders values (1, 1, null)")  # here', "not_null_violation",
          says=("total",)),
    Fault("check", 'await ctx.db.execute("update users set plan = \'gold\' where id = 1")  # here', "check_violation",
          says=("users_plan_check",)),
    Fault("sql", 'await ctx.db.query("select * from nowhere")  # here', "database_error", says=("nowhere",)),
    Fault("aborted", 'try:\n        await ctx.db.execute("insert into users values (1, \'x\', \'free\')")\n'
          '    except Exception:\n        pass\n    await ctx.db.query("select 1")  # here', "transaction_aborted"),
    Fault("transaction_control", 'await ctx.db.execute("commit")  # here', "statement_refused", says=("COMMIT",)),
    Fault("no_row", 'user = await ctx.db.query_one("select id, plan from users where id = $1", 404)\n'
          '    return {"plan": user["plan"]}  # here', "no_row"),
    Fault("memory", 'return len(bytearray(400 * 1024 * 1024))  # here',
          "limit_memory", says=("64MiB",), has_line=False),
    Fault("calls", 'while True:\n        await ctx.clock.fresh()', "limit_host_calls", says=("30",), has_line=False),
    Fault("spinning", 'while True:\n        pass',
          "limit_timeout", 504, says=("500ms",), options=', timeout="500ms"', has_line=False),
    Fault("crash", 'import os, signal\n    os.kill(os.getpid(), signal.SIGSEGV)',
          "worker_crash", says=("SIGSEGV",), has_line=False),
    Fault("exit_code", 'import os\n    os._exit(3)', "worker_crash", says=("3",), has_line=False),
    Fault("returned", 'return ctx.response({"error": "no"}, status=500)',
          "returned_error", says=("can't tell",), has_line=False),
    Fault("stale_value", 'user = await ctx.db.query_one("select id, plan from users where id = 2")\n'
          '    return {"price": PRICES[user["plan"]]}  # here', "unhandled_exception", says=("plan",)),
    Fault("secret", 'await ctx.secrets.reveal("NOT_THERE")  # here', "secret_missing", says=("NOT_THERE",)),
    Fault("sync", 'rows = ctx.db.query("select 1 / 0")  # here',
          "database_error", says=("division by zero",), is_async=False),
    Fault("http_error", 'raise ctx.error(409, "CONFLICT", "taken")  # here', "http_error", 409, ("taken",)),
    Fault("library_timeout", 'requests.get(STUB + "/hang", timeout=1.5)  # here',
          "outbound_timeout", says=("its limit, 1500ms", "net.recv 127.0.0.1"), is_async=False),
    Fault("library_without_a_limit", 'requests.get(STUB + "/hang")  # here',
          "outbound_timeout", 504, ("net.recv 127.0.0.1",), options=', timeout="3s"', is_async=False),
    Fault("library_gives_up",
          'limit = aiohttp.ClientTimeout(total=2)\n'
          '    async with aiohttp.ClientSession(timeout=limit) as session:\n'
          '        await session.get(STUB + "/hang")  # here',
          "outbound_timeout", says=("net.recv 127.0.0.1", "gave it up")),
    Fault("library_without_a_grant", 'httpx.get("http://api.example.com/x")  # here',
          "grant_refused", says=("api.example.com", 'http = ["api.example.com"]'), is_async=False),
    Fault("deadlocked_guest", 'import asyncio\n    await asyncio.get_running_loop().create_future()',
          "deadlocked_guest",
          has_line=False),
]  # fmt: skip

HEADER = '''\
import asyncio
from dataclasses import dataclass

import aiohttp
import httpx
import requests
from flux_guest import Context, function

STUB = "http://127.0.0.1:PORT"
PRICES = {"free": 0, "pro": 9}


def helper(value: object) -> int:
    return len(value)  # here


@dataclass
class Order:
    id: int
    total: int


@function("POST /validated", input=Order)
async def validated(ctx: Context, input: Order) -> dict:
    return {"id": input.id}


@function("POST /bump/{first}/{second}")
async def bump(ctx: Context, input: dict) -> dict:
    await ctx.db.execute("update counters set n = n + 1 where id = $1", int(input["first"]))
    await asyncio.sleep(0.4)
    await ctx.db.execute("update counters set n = n + 1 where id = $1", int(input["second"]))
    return {"ok": True}


@function("GET /healthy/{id}")
async def healthy(ctx: Context, input: dict) -> dict:
    await ctx.http.get(STUB + "/status/404")
    return dict(await ctx.db.query_one("select id, email from users where id = $1", int(input["id"])))
'''


def write_function(fault: Fault) -> str:
    word = "async def" if fault.is_async else "def"
    return (
        f'\n\n@function("POST /{fault.name}"{fault.options})\n{word} {fault.name}(ctx: Context, input: dict):\n'
        f"    {fault.source}\n"
    )


@pytest.fixture(scope="module")
def stub() -> Iterator[CountingStub]:
    with counting_stub() as stub:
        yield stub


@pytest.fixture(scope="module")
def source(stub: CountingStub) -> str:
    return HEADER.replace("PORT", str(stub.port)) + "".join(map(write_function, FAULTS))


@pytest.fixture(scope="module")
def dev(
    tmp_path_factory: pytest.TempPathFactory,
    source: str,
    stub: CountingStub,
    postgres18: PostgresServer,
    make_database: Callable[[PostgresServer], Database],
) -> Iterator[DevServer]:
    toml = f'[limits]\nhost_calls = 30\nmemory = "64MiB"\n[http]\nallow = ["127.0.0.1:{stub.port}"]\n'
    project = write_project(
        tmp_path_factory.mktemp("faults"), {"faults.py": source}, toml=toml, migrations={"001.sql": SCHEMA}
    )
    with running_dev(project, make_database(postgres18)) as server:
        yield server


def find_marked_line(source: str, name: str) -> int:
    """The line that ends in ``# here``: in the function of that name, else in the helper."""
    lines = source.splitlines()
    start = next(index for index, line in enumerate(lines) if re.match(rf"(async )?def {name}\(", line))
    for index in range(start, len(lines)):
        if index > start and lines[index].startswith("@function"):
            break
        if lines[index].endswith("# here"):
            return index + 1
    return next(index + 1 for index, line in enumerate(lines) if line.endswith("# here"))


def told(why: dict) -> str:
    return "\n".join([*(why.get("verdict_text") or []), *(fact["text"] for fact in why["facts"])])


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_seeded_fault_is_named_with_its_line(dev: DevServer, source: str, fault: Fault) -> None:
    answer = dev.request("POST", f"/{fault.name}", {})
    assert answer.status == fault.status, answer.body
    why = dev.json("why", answer.flux_id)
    assert why["failure"]["kind"] == fault.kind, told(why)
    location = why["failure"]["location"]
    if fault.has_line:
        assert location["file"] == "functions/faults.py"
        assert location["line"] == find_marked_line(source, fault.name), told(why)
    elif location is not None:
        # Never a guess: a place that is named lies in the function itself.
        assert location["function"].split(".")[0] == fault.name, location
    for text in fault.says:
        assert text in told(why), told(why)


def test_a_validation_error_lists_every_violation(dev: DevServer) -> None:
    answer = dev.request("POST", "/validated", {"total": "many"})
    assert answer.status == 400
    assert {violation["path"] for violation in answer.json["violations"]} == {"input.id", "input.total"}
    why = dev.json("why", answer.flux_id)
    assert why["failure"]["kind"] == "validation"
    assert "input.id" in told(why) and "input.total" in told(why)


def test_a_deadlock_is_run_again_and_the_attempt_that_lost_explains_itself(dev: DevServer) -> None:
    deadline = time.monotonic() + COMMAND_S_MAX
    listed: list = []
    while not listed:  # On a busy machine the first may be done before the second begins.
        assert time.monotonic() < deadline, "the database gave up neither of the two"
        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(lambda path: dev.request("POST", path, {}), ["/bump/1/2", "/bump/2/1"]))
        assert [answer.status for answer in answers] == [200, 200]
        listed = dev.json("trace", "list", "-q", "function:bump outcome:raised")["executions"]
    why = dev.json("why", listed[0]["name"])
    assert why["failure"]["kind"] in ("deadlock", "serialization_failure")
    assert "tried again" in told(why)
    healed = dev.json("trace", "list", "-q", "function:bump outcome:returned")["executions"]
    assert any(one["parent"] == listed[0]["id"] for one in healed)


@pytest.mark.parametrize("user", [1, 2])
def test_a_healthy_request_has_no_failure(dev: DevServer, user: int) -> None:
    answer = dev.request("GET", f"/healthy/{user}")
    assert answer.status == 200
    why = dev.json("why", answer.flux_id)
    assert why["failure"] is None
    shown = dev.command("why", answer.flux_id)
    assert "no failure" in shown.stdout.lower() or "nothing failed" in shown.stdout.lower()


def test_a_value_that_an_earlier_execution_wrote_is_followed_to_it(dev: DevServer) -> None:
    first = dev.request("POST", "/stale_value", {})
    why = dev.json("why", first.flux_id)
    assert "written by migrations/001.sql" in told(why)
