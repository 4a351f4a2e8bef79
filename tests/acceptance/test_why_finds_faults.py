"""Faults planted in a running project: ``flux why`` names the kind and the line of each.

The project's source is the oracle: the line that is at fault carries a comment with
the fault's name, and the kind stands beside it in `FAULTS`. Healthy requests in
between must be told to have no failure.
"""

import re
import shlex
from collections.abc import Callable, Iterator

import attrs
import pytest

from tests.conftest import Database
from tests.dev_process import CountingStub, DevServer, counting_stub, running_dev, write_project
from tests.postgres_server import PostgresServer

FUNCTIONS = '''\
import asyncio
import os
import signal

import attrs

from flux_guest import Context, HTTPError, function

STUB = "http://127.0.0.1:PORT"
PRICES = {"free": 0, "pro": 12}


def price(plan):
    return PRICES[plan]  # at fault: key-error


@function("POST /key-error")
async def key_error(ctx: Context, input: dict) -> dict:
    return {"price": price(input.get("plan"))}


@function("POST /nothing-found")
async def nothing_found(ctx: Context, input: dict) -> dict:
    user = await ctx.db.query_one("select id, email from users where id = $1", 4711)
    return {"email": user["email"]}  # at fault: nothing-found


@function("POST /unique")
async def unique(ctx: Context, input: dict) -> dict:
    await ctx.db.execute("insert into users (email, age) values ('taken@b.com', 1)")  # at fault: unique
    return {}


@function("POST /foreign-key")
async def foreign_key(ctx: Context, input: dict) -> dict:
    await ctx.db.execute("insert into orders (user_id) values ($1)", 4711)  # at fault: foreign-key
    return {}


@function("POST /not-null")
async def not_null(ctx: Context, input: dict) -> dict:
    await ctx.db.users.insert(email=input.get("email"), age=1)  # at fault: not-null
    return {}


@function("POST /check")
def check(ctx: Context, input: dict) -> dict:
    ctx.db.execute("insert into users (email, age) values ($1, $2)", "c@b.com", -3)  # at fault: check
    return {}


@function("POST /caught")
async def caught(ctx: Context, input: dict) -> dict:
    try:
        await ctx.db.execute("insert into users (email, age) values ('taken@b.com', 1)")
    except Exception:
        ctx.log.info("never mind")
    await ctx.db.execute("update users set age = 2")  # at fault: caught
    return {}


@function("POST /no-column")
async def no_column(ctx: Context, input: dict) -> dict:
    return await ctx.db.query("select nme from users")  # at fault: no-column


@function("POST /commit-sql")
async def commit_sql(ctx: Context, input: dict) -> dict:
    await ctx.db.execute("commit")  # at fault: commit-sql
    return {}


@function("POST /slow-provider", timeout="2s")
async def slow_provider(ctx: Context, input: dict) -> dict:
    await ctx.http.post(f"{STUB}/hang", timeout=0.4)  # at fault: slow-provider
    return {}


@function("POST /impatient")
async def impatient(ctx: Context, input: dict) -> dict:
    async with asyncio.timeout(0.4):  # at fault: impatient
        await ctx.http.get(f"{STUB}/hang")
    return {}


@function("POST /nobody-there")
async def nobody_there(ctx: Context, input: dict) -> dict:
    await ctx.http.get("http://127.0.0.1:1/")  # at fault: nobody-there
    return {}


@function("POST /bad-answer")
async def bad_answer(ctx: Context, input: dict) -> dict:
    answer = await ctx.http.post(f"{STUB}/status/503")
    if not answer.ok:
        raise RuntimeError("payment is down")  # at fault: bad-answer
    return {}


@function("POST /not-granted")
async def not_granted(ctx: Context, input: dict) -> dict:
    await ctx.http.get("https://api.example.com/v1")  # at fault: not-granted
    return {}


@function("POST /no-secret")
async def no_secret(ctx: Context, input: dict) -> dict:
    return {"key": ctx.secrets["STRIPE_KEY"]}  # at fault: no-secret


@function("POST /too-long", timeout="2500ms")
async def too_long(ctx: Context, input: dict) -> dict:
    await ctx.db.query("select pg_sleep(60)")  # at fault: too-long
    return {}


@function("POST /too-much")
def too_much(ctx: Context, input: dict) -> dict:
    blocks = []
    while True:
        blocks.append(bytearray(16 << 20))  # at fault: too-much


@function("POST /too-often")
async def too_often(ctx: Context, input: dict) -> dict:
    while True:
        await ctx.db.query("select 1")  # at fault: too-often


@function("POST /crash")
def crash(ctx: Context, input: dict) -> dict:
    os.kill(os.getpid(), signal.SIGSEGV)


@function("POST /exit")
def exit(ctx: Context, input: dict) -> dict:
    os._exit(3)


@function("POST /waits-for-itself")
async def waits_for_itself(ctx: Context, input: dict) -> dict:
    await asyncio.get_running_loop().create_future()  # at fault: waits-for-itself


@attrs.frozen
class Age:
    age: int


@function("POST /invalid", input=Age)
async def invalid(ctx: Context, input: Age) -> dict:
    return {}


@function("POST /absent")
async def absent(ctx: Context, input: dict) -> dict:
    if not await ctx.db.query("select id from orders where id = $1", 4711):
        raise HTTPError(404, "NOT_FOUND", "no such order")  # at fault: absent


@function("POST /by-itself")
async def by_itself(ctx: Context, input: dict) -> dict:
    return ctx.response({"detail": "sorry"}, status=500)


@function("POST /wrote-it")
async def wrote_it(ctx: Context, input: dict) -> dict:
    await ctx.db.execute("update users set plan = $1 where id = 1", input["plan"])
    return {}


@function("POST /read-it")
async def read_it(ctx: Context, input: dict) -> dict:
    user = await ctx.db.query_one("select id, plan from users where id = 1")
    return {"price": PRICES[user["plan"]]}  # at fault: read-it


@function("POST /healthy")
async def healthy(ctx: Context, input: dict) -> dict:
    await ctx.http.post(f"{STUB}/charge")
    return await ctx.db.query("select id from users")
'''

TABLES = """
create table users (
    id bigint generated always as identity primary key,
    email text not null unique, age int not null constraint users_age_check check (age >= 0), plan text
);
create table orders (id bigint generated always as identity primary key, user_id bigint references users);
insert into users (email, age, plan) values ('taken@b.com', 30, 'free');
"""


@attrs.frozen
class Fault:
    """A request, and what went wrong in it."""

    path: str
    kind: str
    told: tuple[str, ...]
    """Parts of what is said."""
    body: object = attrs.field(factory=lambda: {"email": "a@b.com"})

    @property
    def line(self) -> int | None:
        """The line that carries its name, or None when no line can be on record."""
        lines = FUNCTIONS.splitlines()
        return next((n for n, line in enumerate(lines, 1) if line.endswith(f"# at fault: {self.path}")), None)


FAULTS = (
    Fault("key-error", "unhandled_exception", ("KeyError: None", "functions/faults.py:14 in price()")),
    Fault("nothing-found", "no_row", ("(SELECT users) found no row", "$1 = 4711")),
    Fault("unique", "unique_violation", ("unique constraint users_email_key of users", "taken@b.com")),
    Fault("foreign-key", "foreign_key_violation", ("no row of users has user_id = 4711",)),
    Fault("not-null", "not_null_violation", ("put null into users.email", 'has no "email"'), {}),
    Fault("check", "check_violation", ("broke the check users_age_check of users",)),
    Fault("caught", "transaction_aborted", ("had failed", "23505")),
    Fault("no-column", "database_error", ('column "nme" does not exist',)),
    Fault("commit-sql", "statement_refused", ("COMMIT is refused",)),
    Fault("slow-provider", "outbound_timeout", ("is set by the call itself", "no Idempotency-Key", "127.0.0.1:")),
    Fault("impatient", "outbound_timeout", ("the function itself gave it up", "/hang")),
    Fault("nobody-there", "outbound_error", ("got no answer", "127.0.0.1:1")),
    Fault("bad-answer", "outbound_status", ("was answered 503",)),
    Fault("not-granted", "grant_refused", ('[functions.not_granted] http = ["api.example.com"]',)),
    Fault("no-secret", "secret_missing", ("STRIPE_KEY",)),
    Fault("too-long", "limit_timeout", ("2500ms, is set by", "had been in flight")),
    Fault("too-much", "limit_memory", ("128MiB, is set by flux.toml:",)),
    Fault("too-often", "limit_host_calls", ("its limit, 50, is set by flux.toml:", "50 of 50 calls were db.query")),
    Fault("crash", "worker_crash", ("SIGSEGV",)),
    Fault("exit", "worker_crash", ("exit code 3",)),
    Fault("waits-for-itself", "deadlocked_guest", ("every task waited",)),
    Fault("invalid", "validation", ("no failure: it answered 400", "age"), {"age": "old"}),
    Fault("absent", "http_error", ("no failure: it answered 404", "(SELECT orders) found no row")),
    Fault("by-itself", "returned_error", ("I can't tell why. What is known:", "returned 500 by itself")),
    Fault("read-it", "unhandled_exception", ('plan = "gift", written by', "(wrote_it on")),
)


@pytest.fixture(scope="module")
def stub() -> Iterator[CountingStub]:
    with counting_stub() as stub:
        yield stub


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory,
    stub: CountingStub,
    postgres18: PostgresServer,
    make_database: Callable[[PostgresServer], Database],
) -> Iterator[DevServer]:
    project = write_project(
        tmp_path_factory.mktemp("faults"),
        {"faults.py": FUNCTIONS.replace("PORT", str(stub.port))},
        toml=(
            '[limits]\nmemory = "128MiB"\nhost_calls = 50\n'
            f'[http]\nallow = ["127.0.0.1:{stub.port}", "127.0.0.1:1"]\n'
        ),
        migrations={"001.sql": TABLES},
    )
    with running_dev(project, make_database(postgres18)) as server:
        yield server


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.path for fault in FAULTS])
def test_a_planted_fault_is_found_by_its_kind_and_line(fault: Fault, server: DevServer) -> None:
    if fault.path == "read-it":
        assert server.request("POST", "/wrote-it", {"plan": "gift"}).status == 200
    answer = server.request("POST", f"/{fault.path}", fault.body)
    why = server.json("why", answer.flux_id)
    said = "\n".join([*why["verdict_text"], *(fact["text"] for fact in why["facts"]), *why["next"]])
    assert why["failure"]["kind"] == fault.kind, said
    assert why["execution"]["status"] == answer.status
    location = why["failure"]["location"]
    if fault.line is not None:
        assert (location["file"], location["line"]) == ("functions/faults.py", fault.line)
    elif fault.path != "invalid":  # there it is the function's first line
        assert location is None
    for part in fault.told:
        assert part in said
    # What is said to be at a line of the project is a line that has something to do with it.
    for line in {int(number) for number in re.findall(r"functions/faults\.py:(\d+)", said)}:
        assert FUNCTIONS.splitlines()[line - 1].strip()


def test_healthy_requests_have_no_failure(server: DevServer) -> None:
    for _ in range(3):
        answer = server.request("POST", "/healthy", {})
        assert answer.status == 200
        why = server.json("why", answer.flux_id)
        assert why["failure"] is None
        assert why["verdict_text"][0].startswith("no failure: it answered 200")


def test_what_is_offered_to_type_can_be_typed(server: DevServer) -> None:
    answer = server.request("POST", "/read-it", {})
    for step in server.json("why", answer.flux_id)["next"]:
        assert step.startswith("flux ")
        done = server.command(*shlex.split(step)[1:])
        # That code still fails is a finding, which a replay ends with.
        findings = {0, 1} if step.startswith("flux replay ") else {0}
        assert done.returncode in findings and not done.stderr, (step, done.stderr)
