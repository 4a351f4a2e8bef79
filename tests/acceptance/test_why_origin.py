"""A bad value is followed back through executions and a job to its origin, and along no edge that is not there."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conftest import Database
from tests.dev_process import DevServer, running_dev, write_project
from tests.postgres_server import PostgresServer

FUNCTIONS = """\
from flux_guest import function

CENTS = {"free": 0, "pro": 2900}


@function("POST /import")
async def take_in(ctx, input):
    await ctx.db.execute("insert into raw values ($1, $2, $3)", input["id"], input["plan"], input.get("note"))


@function("POST /clean/{id}")
async def clean(ctx, input):
    row = await ctx.db.query_one("select id, plan from raw where id = $1", int(input["id"]))
    await ctx.db.execute("insert into cleaned values ($1, $2)", row["id"], row["plan"])


@function("POST /spread/{id}")
async def spread(ctx, input):
    row = await ctx.db.query_one("select id, plan from cleaned where id = $1", int(input["id"]))
    await ctx.queue.push("assign", {"user": row["id"], "tier": row["plan"]})


@function()
async def assign(ctx, input):
    await ctx.db.execute("insert into users values ($1, $2)", input["user"], input["tier"])


@function("POST /charge/{id}")
async def charge(ctx, input):
    user = await ctx.db.query_one("select id, plan from users where id = $1", int(input["id"]))
    return {"cents": CENTS[user["plan"]]}


@function("POST /set/{id}")
async def set_plan(ctx, input):
    # What else it reads is none of the value's way, or may be.
    for sql in input.get("reads", []):
        await ctx.db.query(sql)
    plan = input.get("plan", "made-up-plan")
    await ctx.db.execute(input.get("sql", "update users set plan = $2 where id = $1"), int(input["id"]), plan)


@function("POST /copy/{id}")
async def copy(ctx, input):
    row = await ctx.db.query_one(input["from"])
    await ctx.db.execute("update users set plan = $2 where id = $1", int(input["id"]), row["plan"])
"""
TABLES = """\
create table raw (id int primary key, plan text, note text);
create table cleaned (id int primary key, plan text);
create table users (id int primary key, plan text);
create table bare (plan text);
insert into cleaned values (900, 'migrated-plan');
"""


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory,
    postgres18: PostgresServer,
    make_database: Callable[[PostgresServer], Database],
) -> Iterator[tuple[DevServer, Database]]:
    database = make_database(postgres18)
    project = write_project(
        tmp_path_factory.mktemp("origin"), {"shop.py": FUNCTIONS}, migrations={"001_tables.sql": TABLES}
    )
    with running_dev(project, database) as running:
        yield running, database


def ask(server: DevServer, path: str, body: dict[str, Any] | None = None) -> str:
    answer = server.request("POST", path, body or {})
    assert answer.status < 300, answer.json
    return answer.flux_id


def origins(server: DevServer, number: int) -> tuple[str, list[str]]:
    """Charge a user, which fails, and return the failed execution and what is said of the value's origin."""
    failed = server.request("POST", f"/charge/{number}")
    assert failed.status == 500
    facts = server.json("why", failed.flux_id)["facts"]
    assert all(fact["mark"] == "≈" for fact in facts if fact["rule"] == "value-origin")
    assert not [fact for fact in facts if fact["rule"] == "unavailable"], facts
    return failed.flux_id, [fact["text"] for fact in facts if fact["rule"] == "value-origin"]


def test_a_poisoned_value_four_executions_and_a_job_back_is_traced_to_its_origin(
    server: tuple[DevServer, Database],
) -> None:
    running, database = server
    taken = ask(running, "/import", {"id": 7, "plan": "poisoned"})
    cleaned = ask(running, "/clean/7")
    spread = ask(running, "/spread/7")
    wait_row(database, 7)
    failed, told = origins(running, 7)
    assigned = database.psql("select name from flux.execution where function = 'assign'").split()[-1]
    assert told[0] == (
        f'users[7].plan = "poisoned" is followed 4 executions back, to {taken} (take_in): it came in with its request'
    )
    steps = [line.partition(" UTC")[0].rpartition(", ")[0] or line for line in told[1:]]
    assert steps == [
        f"1. {assigned} (assign) wrote users[7].plan in call {call_of(running, assigned, 'db.execute')}",
        f"2. {spread} (spread) handed it to {assigned} in call {call_of(running, spread, 'queue.push')}; it had read "
        f"it in call {call_of(running, spread, 'db.query')}",
        f"3. {cleaned} (clean) wrote cleaned[7].plan in call {call_of(running, cleaned, 'db.execute')}",
        f"4. {taken} (take_in) wrote raw[7].plan in call {call_of(running, taken, 'db.execute')}",
    ]
    shown = running.command("why", failed).stdout
    assert f"to {taken}" in shown.replace("\n", " ") and "value-origin" in shown


def call_of(server: DevServer, name: str, kind: str) -> int:
    return next(int(call["seq"]) for call in server.json("trace", name)["calls"] if call["kind"] == kind)


def wait_row(database: Database, number: int) -> None:
    deadline = time.monotonic() + 180
    while not database.psql(f"select 1 from users where id = {number}"):
        assert time.monotonic() < deadline, "the job did not run"
        time.sleep(0.05)


def test_no_edge_is_told_that_is_not_there(server: tuple[DevServer, Database]) -> None:
    running, database = server
    database.psql("insert into raw values (1, 'shared-plan', 'shared-plan'), (2, 'other-plan', null), (3, null, null)")
    database.psql("insert into bare values ('keyless-plan')")
    database.psql("insert into users select n, 'free' from generate_series(101, 112) n")

    def set_plan(number: int, **said: Any) -> tuple[str, list[str]]:
        return ask(running, f"/set/{number}", said), origins(running, number)[1]

    # 1. It made the value itself.
    assert set_plan(101)[1] == []
    # 2. It made it itself, and had read other rows.
    assert set_plan(102, reads=["select id, plan from raw where id = 2"])[1] == []
    # 3. The value came in with the request; a row that it read holds another.
    name, told = set_plan(103, plan="asked-plan", reads=["select id, plan from raw where id = 2"])
    assert told[0].endswith(f"to {name} (set_plan): it came in with its request") and len(told) == 2
    # 4. The value came in with the request, and stands in a row that it read as well: which, is not known.
    assert set_plan(104, plan="shared-plan", reads=["select id, plan from raw where id = 1"])[1] == []
    # 5. The database computed it.
    sql = "update users set plan = (select plan from raw where id = 2) where id = $1 and $2 <> ''"
    assert set_plan(105, sql=sql, reads=["select id, plan from raw where id = 2"])[1] == []
    # 6. The row that it read was read without its key.
    assert ask(running, "/copy/106", {"from": "select plan from bare"}) and origins(running, 106)[1] == []
    # 7. Two rows hold the value.
    database.psql("insert into raw values (4, 'twice-plan'), (5, 'twice-plan')")
    assert ask(running, "/copy/107", {"from": "select id, plan from raw where plan = 'twice-plan'"})
    assert origins(running, 107)[1] == []
    # 8. What it read was written from outside: the walk ends there, and names no execution behind it.
    name = ask(running, "/copy/108", {"from": "select id, plan from raw where id = 2"})
    told = origins(running, 108)[1]
    assert told[0].endswith("to somebody outside Flux: it was written outside Flux") and name in told[1]
    # 9. Since it read the row, somebody else has written the same value there: that is not who it had it from.
    name = ask(running, "/copy/109", {"from": "select id, plan from raw where id = 2"})
    later = ask(running, "/set/2", {"plan": "other-plan", "sql": "update raw set plan = $2 where id = $1", "reads": []})
    told = origins(running, 109)[1]
    assert told[0].endswith("to somebody outside Flux: it was written outside Flux")
    assert not [line for line in told if later in line]
    # 10. A null is everywhere: it is followed under its own name, and a null of another column is none of it.
    name, told = set_plan(110, plan=None, reads=["select id, note from raw where id = 2"])
    assert told[0].endswith(f"to {name} (set_plan): it came in with its request")
    # 11. A migration wrote it.
    ask(running, "/copy/111", {"from": "select id, plan from cleaned where id = 900"})
    assert origins(running, 111)[1][0].endswith(
        "to migrations/001_tables.sql: the migration migrations/001_tables.sql wrote it"
    )
    # 12. Not by a job: who only ran before is no cause.
    assert set_plan(112, plan="free-form")[1][0].endswith("it came in with its request")
