"""Leaving Flux: it and what ``flux eject`` wrote give the same answers to the same requests, and leave the same rows.

The ejected application runs in a process that can't import Flux, on a database of its own. What is compared is told by
`http.client` and by a second psql.
"""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.acceptance import test_conduit
from tests.conduit_app import Client, copy_conduit
from tests.conftest import Database, create_database
from tests.dev_process import (
    Answer,
    CountingStub,
    DevServer,
    counting_stub,
    database_url,
    run_flux,
    running_dev,
    write_project,
)
from tests.ejected import eject, make_command, make_environment, migrate, running_application, running_worker
from tests.losing_proxy import LosingProxy, When, losing_proxy
from tests.postgres_server import PostgresServer
from tests.token_issuer import claims, jwk, make_key, sign

KEPT_HEADERS = frozenset(
    {
        "allow",
        "cache-control",
        "content-type",
        "retry-after",
        "set-cookie",
        "vary",
        "www-authenticate",
        "x-seen",
        "x-mark",
    }
)
"""Compared besides ``access-control-*``; the others are the server's own: its date, its name, its ids."""

EXTRA = """
import asyncio
import dataclasses
import datetime
import decimal
import enum
import sys
import time
import uuid

from flux_guest import (
    Context, DatabaseError, GrantRefusedError, HostCallError, HTTPError, HttpTimeoutError, Interval, InvokeError, Range,
    function, middleware,
)


class Kind(enum.Enum):
    BIG = "big"
    SMALL = "small"


@dataclasses.dataclass
class Wanted:
    count: int
    kind: Kind = Kind.SMALL
    on: datetime.date | None = None
    tags: list[str] = dataclasses.field(default_factory=list)


@middleware
async def mark(ctx, call_next):
    response = ctx.response(await call_next())
    response.headers["x-mark"] = "async"
    return response


@middleware
def seen(ctx, call_next):
    ctx.user = {"path": ctx.request.path}
    return call_next()


@function("POST /wanted/{count}", input=Wanted, middleware=["mark"])
async def wanted(ctx: Context, input: Wanted):
    return {"count": input.count, "kind": input.kind, "on": input.on, "tags": input.tags}


@function("GET /echo/{one}/{rest...}", middleware=["seen"])
async def echo(ctx, input):
    request = ctx.request
    return {"input": input, "path": request.path, "params": request.params, "query": request.query_list,
            "user": ctx.user, "method": request.method, "client": request.client, "scheme": request.scheme}


@function("POST /echo")
def echo_body(ctx, input):
    return {"input": input, "size": ctx.request.size, "kind": ctx.request.headers.get("content-type")}


@function("GET /types")
async def types(ctx, input):
    given = [
        decimal.Decimal("1.10"), Interval(14, 3, 5), datetime.timedelta(hours=-1), "infinity",
        datetime.datetime(2026, 1, 2, 3, 4, 5, 6, datetime.UTC), {"a": [1, None]}, [1, 2], Range(1, 5),
        uuid.UUID(int=7), b"\\x00\\xff", "happy", datetime.time(1, 2, 3),
    ]
    row = await ctx.db.query_one(
        "select $1::numeric as n, $2::interval as i, $3::interval as j, $4::date as d, $5::timestamptz as t, "
        "$6::jsonb as o, $7::int[] as a, $8::int4range as r, $9::uuid as u, $10::bytea as b, $11::mood as m, "
        "$12::time as c, \'1.2.3.0/24\'::cidr as net, point(1, 2) as p, row(1, \'x\')::pair as pair, "
        "\'empty\'::int4range as nothing, 1.5::float8 as f, null as z, 9007199254740993 as big, "
        "interval \'1 year\' as year, \'{}\'::text[] as none", *given)
    return {name: repr(value) for name, value in row.items()}


@function("GET /sync/{id}", middleware=["mark"])
def sync(ctx, input):
    with ctx.db.transaction():
        ctx.db.notes.insert(text="sync " + input["id"])
    return ctx.db.query("select count(*) from notes where text = $1", "sync " + input["id"])


@function("GET /stream")
async def stream(ctx, input):
    async def lines():
        for row in await ctx.db.query("select n from generate_series(1, 40000) n"):
            yield f"{row.n}\\n"
    return ctx.response(lines(), headers={"content-type": "text/csv", "x-seen": ["one", "two"]})


@function("GET /stream/plain")
async def stream_plain(ctx, input):
    return (row for row in (str(ctx.db.query_one("select $1::int * 2 as n", n).n) for n in range(3)))


@function("GET /stream/fails")
def stream_fails(ctx, input):
    ctx.db.notes.insert(text="never")
    yield "begun"
    raise HTTPError(409, message="half-way")


@function("PUT /upload")
async def upload(ctx, input):
    sizes = [len(piece) async for piece in ctx.request.stream()]
    return {"size": ctx.request.size, "streamed": ctx.request.is_streamed, "read": sum(sizes)}


@function("POST /fails/{how}")
async def fails(ctx, input):
    await ctx.db.notes.insert(text="undone " + input["how"])
    how = input["how"]
    if how == "http":
        raise HTTPError(409, "TAKEN", "it is taken")
    if how == "group":
        async with asyncio.TaskGroup() as group:
            group.create_task(ctx.db.query("select 1"))
            raise HTTPError(418, message="a teapot")
    if how == "nan":
        return {"n": float("nan")}
    if how == "aborted":
        try:
            await ctx.db.query("select 1 / 0")
        except DatabaseError as error:
            return {"said": error.code}
    if how == "answers":
        return ctx.response({"kept": True}, status=503)
    if how == "begin":
        await ctx.db.query("commit")
    if how == "two":
        await ctx.db.execute("select 1; select 2")
    raise KeyError(how)


@function("POST /savepoints")
async def savepoints(ctx, input):
    try:
        async with ctx.db.transaction():
            await ctx.queue.push("work", {"name": "never"})
            await ctx.db.notes.insert(id=1, text="kept not")
            await ctx.db.notes.insert(id=1, text="twice")
    except DatabaseError as error:
        await ctx.db.notes.insert(text="after")
        said = {key: error.details.get(key) for key in ("constraint", "table", "detail", "severity")}
        return said | {"code": error.code}


@function("POST /pieces", atomic=False)
async def pieces(ctx, input):
    await ctx.db.notes.insert(text="stays")
    async with ctx.db.transaction(isolation="serializable"):
        level = await ctx.db.query_one("show transaction isolation level")
        await ctx.db.notes.insert(text="stays " + level["transaction_isolation"])
    async with ctx.db.transaction():
        await ctx.db.notes.insert(text="goes")
        raise HTTPError(400, message="stop")


@function("POST /together")
async def together(ctx, input):
    task = asyncio.create_task(ctx.db.query_one("select 1 as n"))
    more = await asyncio.gather(*(ctx.db.query_one("select $1::int as n", n) for n in range(5)))
    ctx.db.notes.insert(text="not awaited")
    return [(await task).n, *(row.n for row in more)]


@function("POST /count")
async def count(ctx, input):
    n = (await ctx.db.query_one("select n from counter")).n
    await asyncio.sleep(0.01)
    await ctx.db.execute("update counter set n = $1", n + 1)
    return {"n": n + 1}


@function("POST /consumes")
async def consumes(ctx, input):
    taken = [input["items"].pop(), input["deep"]["items"].pop()]
    input["more"] = taken
    await ctx.db.query("select give_up_once()")
    await ctx.db.notes.insert(text="taken " + " ".join(taken))
    return {"taken": taken, "left": input["items"], "tries": (await ctx.db.query_one("select last_value from tries"))}


@function("POST /slow/async", timeout="400ms")
async def slow(ctx, input):
    await ctx.db.notes.insert(text="slow")
    await ctx.db.query("select pg_sleep(30)")


@function("POST /slow/def", timeout="400ms")
def slow_def(ctx, input):
    ctx.db.notes.insert(text="slow")
    ctx.db.query("select pg_sleep(30)")


@function("POST /push")
async def push(ctx, input):
    first = await ctx.queue.push("work", {"name": input["name"]}, idempotency_key=input["name"])
    again = await ctx.queue.push("work", {"name": "another"}, idempotency_key=input["name"])
    if input.get("fail"):
        raise HTTPError(400, message="no job")
    try:
        await ctx.queue.push("nobody")
    except HostCallError as error:
        return {"same": first == again, "refused": error.name, "code": error.code}


@function(retries=1)
async def work(ctx, payload):
    tries = (await ctx.db.query_one("select nextval(\'tries\') as n")).n
    await ctx.db.effects.insert(name=payload["name"], method=ctx.request.method)
    if payload["name"] == "flaky" and tries == 1 or payload["name"] == "broken":
        raise RuntimeError("it is " + payload["name"])


@function(retries=0)
async def long_work(ctx, payload):
    await ctx.db.effects.insert(name="long", method="")
    await ctx.db.query("select pg_sleep($1)", payload["seconds"])


@function(cron="0 3 * * *")
def nightly(ctx, input):
    ctx.db.effects.insert(name="nightly " + input["schedule"], method=input["tick"][10:])


@function("POST /invoke/{name}")
async def invokes(ctx, input):
    ctx.user = {"who": "me"}
    await ctx.db.notes.insert(text="of the caller")
    try:
        return {"answer": await ctx.invoke(input["name"], {"n": 2})}
    except InvokeError as error:
        return {"type": error.type, "status": error.status, "name": error.name, "code": error.code}


@function
def doubled(ctx, input):
    return {"n": input["n"] * 2, "user": ctx.user, "seen": ctx.db.query_one("select count(*) from notes").count >= 0}


@function
async def refuses(ctx, input):
    raise HTTPError(404, message="nothing here")


@function
async def turns(ctx, input):
    return await ctx.invoke("turns")


@function("GET /out")
async def out(ctx, input):
    said = []
    for url, options in (("/a", {}), ("/hang", {"timeout": 0.3}), ("/status/404", {})):
        try:
            answer = await ctx.http.post(input["base"] + url, json={"q": 1}, headers={"x-q": "1"}, **options)
            said.append([answer.status, answer.json()])
        except HttpTimeoutError as error:
            said.append([type(error).__name__, error.code])
    for url in (input["base"].replace("127.0.0.1", "localhost"), "http://example.com/", "http://u:p@example.com/", "x"):
        try:
            await ctx.http.get(url)
        except HostCallError as error:
            said.append([type(error).__name__, error.name, error.code])
    return said


@function("GET /cookie")
async def cookie(ctx, input):
    first = await ctx.http.get(input["base"] + "/cookie")
    return [first.headers.get("set-cookie"), (await ctx.http.get(input["base"] + "/cookie")).status]


@function("POST /ask")
async def ask(ctx, input):
    options = dict(input["options"])
    try:
        answer = await ctx.http.request(input["method"], input["url"], **options)
        return [answer.status, answer.body.decode()]
    except HostCallError as error:
        return [error.name, error.code]


@function("GET /nested")
def nested(ctx, input):
    ctx.db.notes.insert(text="nested")
    time.sleep(0.1)
    return ctx.invoke("doubled", {"n": 1})


@function("GET /outward")
def outward(ctx, input):
    return ctx.http.get(input["base"].replace("127.0.0.1", "localhost") + "/a").status


@function("POST /deferred", atomic=False)
async def deferred(ctx, input):
    said = []
    for values in ("(1), (1)", "(2)", "(2)"):
        try:
            async with ctx.db.transaction():
                await ctx.db.execute("insert into late values " + values)
            said.append("kept")
        except DatabaseError as error:
            said.append([error.code, error.details["constraint"]])
    return said


@function("POST /deferred/whole")
async def deferred_whole(ctx, input):
    await ctx.db.execute("insert into late values (3), (3)")


@function("POST /stubborn", timeout="400ms")
async def stubborn(ctx, input):
    await ctx.db.notes.insert(text="stubborn")
    try:
        await asyncio.sleep(30)
    except asyncio.CancelledError:
        return "done"


@function("POST /exits/{how}")
async def exits(ctx, input):
    await ctx.db.notes.insert(text="exits")
    raise {"exit": SystemExit(3), "cancel": asyncio.CancelledError(), "stop": KeyboardInterrupt()}[input["how"]]


@function("POST /exits")
def exits_in_thread(ctx, input):
    ctx.db.notes.insert(text="exits")
    sys.exit(3)


@function("POST /isolation")
async def isolation(ctx, input):
    try:
        async with ctx.db.transaction(isolation=input["level"]):
            return await ctx.db.query("show transaction isolation level")
    except HostCallError as error:
        return {"name": error.name, "code": error.code}


@function("POST /shadow")
async def shadow(ctx, input):
    await ctx.db.execute("create temporary table notes as select 'not the one' as text")
    await ctx.db.query("select set_config('search_path', 'pg_temp', false)")


@function("GET /every/note")
async def every_note(ctx, input):
    return await ctx.db.query("select * from notes")


@function("GET /notes")
async def notes(ctx, input):
    return await ctx.db.query("select text from notes")


@function("GET /loop")
def own_loop(ctx, input):
    async def ask():
        await asyncio.sleep(0)
        return ctx.db.query_one("select 7 as n").n
    return asyncio.run(ask())


LATE = []


@function("POST /late", timeout="200ms")
def late(ctx, input):
    ctx.db.notes.insert(text="undone")
    time.sleep(1)
    for call in (lambda: ctx.db.notes.insert(text="late"), lambda: ctx.queue.push("work", {"name": "late"}),
                 lambda: ctx.invoke("doubled", {"n": 1}), lambda: ctx.secrets.reveal("KNOWN_KEY")):
        try:
            LATE.append(repr(call()))
        except RuntimeError as error:
            LATE.append(str(error))


@function("GET /late")
def was_late(ctx, input):
    return LATE


@function("POST /log")
async def logs(ctx, input):
    ctx.log.info(input["text"], more=input["text"])


@function("POST /log/fails")
async def log_fails(ctx, input):
    raise ValueError(input["text"])


@function(retries=0)
async def fails_as_job(ctx, payload):
    raise ValueError(payload["text"])


@function("POST /later")
async def later(ctx, input):
    await ctx.queue.push(input["function"], input["payload"], delay=3600, idempotency_key=input.get("key"))


@function(retries=0)
async def exits_as_job(ctx, payload):
    await ctx.db.effects.insert(name="exits", method="")
    raise SystemExit(3)


@function(retries=0)
def exits_as_job_in_thread(ctx, payload):
    ctx.db.effects.insert(name="exits", method="")
    sys.exit(3)


@function("GET /who")
async def who(ctx, input):
    return ctx.request.auth


@function("GET /who/else")
def who_else(ctx, input):
    return ctx.request.auth


@function("GET /secret")
async def secret(ctx, input):
    try:
        await ctx.secrets.reveal("NOT_THERE")
    except HostCallError as error:
        return {"name": error.name, "code": error.code, "other": await ctx.secrets.reveal("KNOWN_KEY")}


@function("GET /secret/{name}")
def secret_of(ctx, input):
    said = []
    for read in (ctx.secrets.reveal, ctx.secrets.__getitem__):
        try:
            said.append([len(read(input["name"])) > 0, ctx.secrets.reveal(input["name"])])
        except HostCallError as error:
            said.append([error.name, error.code, error.details, str(error)])
    return said
"""
MIGRATION = """
create table notes (id bigserial primary key, text text not null);
create table effects (name text not null, method text not null);
create table counter (n int not null);
create sequence tries;
create table late (n int unique deferrable initially deferred);
create function give_up_once() returns void language plpgsql as $$ begin
    if nextval('tries') = 1 then raise exception 'given up' using errcode = '40001'; end if;
end $$;
create type mood as enum ('happy', 'sad');
create type pair as (a int, b text);
insert into counter values (0);
"""
TOML = """
[limits]
body = "64KiB"

[functions.stream]
stream = "1MiB"
[functions.stream_plain]
stream = "1MiB"
[functions.stream_fails]
stream = "1MiB"
[functions.upload]
stream = "256KiB"

[functions.out]
http = ["127.0.0.1:{port}"]
[functions.ask]
http = ["127.0.0.1:{port}"]
[functions.cookie]
http = ["127.0.0.1:{port}"]
[functions.outward]
http = ["localhost:{port}"]

[functions.who]
auth = "jwt"
scopes = ["read"]
[functions.who_else]
auth = "jwt_optional"

[http.auth]
jwks = "http://127.0.0.1:{port}/keys"
issuer = "https://login.example"
audience = ["shop"]

[queue]
lease = "2s"
"""


@attrs.frozen
class Pair:
    """Flux, and the application without it."""

    flux: DevServer
    flux_database: Database
    ejected: DevServer
    database: Database
    role: str
    """Whom the application and its workers connect as."""

    @property
    def url(self) -> str:
        """The application's database, as its role."""
        return url_of(self.database, self.role)

    @contextlib.contextmanager
    def running_worker(self, more: Mapping[str, str] | None = None) -> Iterator[DevServer]:
        """Run a worker as that role."""
        with running_worker(
            self.ejected.project, self.database, {"DATABASE_URL": self.url, **(more or {})}
        ) as worker:
            yield worker

    def compare(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Ask both the same; return what the ejected one answers, which is the same."""
        answers = [one.request(method, path, body, headers) for one in (self.flux, self.ejected)]
        assert describe(answers[1]) == describe(answers[0]), (method, path)
        return answers[1]

    def compare_rows(self, sql: str) -> str:
        """Ask both databases the same; return what the ejected one's holds."""
        assert self.database.psql(sql) == self.flux_database.psql(sql)
        return self.database.psql(sql)


def describe(answer: Answer) -> tuple[Any, ...]:
    """Return what of an answer has to be the same: not ids, moments, and what only developers are told."""
    headers = {
        name: re.sub('realm="[^"]*"', 'realm="the project"', value)
        for name, value in answer.headers.items()
        if name in KEPT_HEADERS or name.startswith("access-control-")
    }
    headers["has an id"] = str("x-request-id" in answer.headers)
    body: Any = answer.body
    if body and "json" in headers.get("content-type", ""):
        body = json.loads(body)
    if body and headers.get("content-type") == "application/problem+json":
        has_id = body.pop("request_id") is not None
        dropped = {"flux", "why"} | ({"detail"} if body["code"] in ("FUNCTION_ERROR", "TIMEOUT") else set())
        body = {"has_id": has_id} | {name: value for name, value in body.items() if name not in dropped}
        body = dict(
            sorted(body.items()), violations=[dict(sorted(one.items())) for one in body.get("violations", ())]
        )
    text = json.dumps(body) if not isinstance(body, bytes) else body.decode("latin-1")
    text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z?", "MOMENT", text)
    text = re.sub(r"eyJ[\w.-]+", "TOKEN", text)
    text = re.sub(r"(?<=-)[0-9a-z]{6,}(?=[\"/])", "DRAWN", text)
    return answer.status, headers, text


@pytest.fixture(scope="module")
def stub() -> Iterator[CountingStub]:
    with counting_stub() as running:
        yield running


RESET = """
truncate notes, effects, late, users, orders restart identity cascade;
update counter set n = 0;
alter sequence tries restart;
"""
RESET_BACKGROUND = """
select pg_terminate_backend(pid, 5000) from pg_stat_activity where query like '%pg_sleep%' and pid <> pg_backend_pid();
delete from background.jobs;
"""
"""A statement of a killed worker goes on, and keeps its locks."""


@pytest.fixture
def shop(shop_pair: Pair) -> Pair:
    """The shop, with the rows that its migrations made."""
    shop_pair.database.psql(RESET_BACKGROUND + RESET)
    shop_pair.flux_database.psql(RESET)
    return shop_pair


@pytest.fixture(scope="module")
def shop_pair(
    tmp_path_factory: pytest.TempPathFactory, postgres18: PostgresServer, stub: CountingStub
) -> Iterator[Pair]:
    """The tutorial's shop, with functions of many kinds beside its own."""
    place = tmp_path_factory.mktemp("shop")
    project = place / "shop"
    assert run_flux(place, "init", "shop", "--tutorial").returncode == 0
    (project / "functions" / "extra.py").write_text(EXTRA)
    (project / "migrations" / "002_extra.sql").write_text(MIGRATION)
    config = project / "flux.toml"
    config.write_text(merge_toml(config.read_text(), TOML.replace("{port}", str(stub.port))))
    (project / ".env.local").write_text("KNOWN_KEY=the key that is known\n")
    folder = eject(project, place / "application")
    environ = {"KNOWN_KEY": "the key that is known", "FUNCTION_THREADS": "2", "DATABASE_CONNECTIONS": "2"}
    with running_pair(project, folder, postgres18, environ) as pair:
        yield pair


RESET_CONDUIT = """
do $$ begin execute (
    select 'truncate ' || string_agg(tablename, ', ') || ' restart identity cascade'
    from pg_tables where schemaname = 'public'
); end $$
"""


@pytest.fixture
def conduit(conduit_pair: Pair) -> Pair:
    """Conduit, without rows."""
    conduit_pair.database.psql(RESET_CONDUIT)
    conduit_pair.flux_database.psql(RESET_CONDUIT)
    return conduit_pair


@pytest.fixture(scope="module")
def conduit_pair(tmp_path_factory: pytest.TempPathFactory, postgres18: PostgresServer) -> Iterator[Pair]:
    place = tmp_path_factory.mktemp("conduit")
    project = copy_conduit(place / "conduit")
    folder = eject(project, place / "application", "--partial")
    key = (project / ".env.local").read_text().strip().partition("=")
    with running_pair(project, folder, postgres18, {key[0]: key[2]}) as pair:
        yield pair


def merge_toml(text: str, more: str) -> str:
    """Add keys to tables that are there, and tables that are not."""
    head, _, rest = more.lstrip().partition("\n\n")
    assert head.startswith("[limits]")
    return text.replace("[limits]", head, 1) + "\n" + rest if "[limits]" in text else f"{text}\n{more}"


@contextlib.contextmanager
def running_pair(
    project: Path, folder: Path, server: PostgresServer, secrets: Mapping[str, str]
) -> Iterator[Pair]:
    theirs, ours = create_database(server), create_database(server)
    done = migrate(folder, ours)
    assert (done.returncode, done.stderr) == (0, "")
    with made_role(folder, ours) as role:
        environ = {**secrets, "DATABASE_URL": url_of(ours, role)}
        with running_dev(project, theirs) as flux, running_application(folder, ours, environ) as ejected:
            yield Pair(flux, theirs, ejected, ours, role)


@contextlib.contextmanager
def made_role(folder: Path, database: Database) -> Iterator[str]:
    """Make a role that may do what ``role.sql`` grants, and nothing else."""
    role = f"plain_{database.name}"
    database.psql(f"create role {role} login")
    try:
        done = run_role_sql(folder, database, role)
        assert (done.returncode, done.stderr) == (0, ""), done
        yield role
    finally:
        database.psql(f"drop owned by {role}; drop role {role}")


def run_role_sql(
    folder: Path, database: Database, role: str, owner: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run it as its head and the README have it."""
    command = 'psql "$DATABASE_URL" -v role=NAME -f role.sql'
    for name in ("README.md", "role.sql"):
        assert command in (folder / name).read_text()
    environ = make_environment(database, {"PATH": f"{database.server.bin_dir}:{os.environ['PATH']}"})
    if owner:
        environ["DATABASE_URL"] = url_of(database, owner)
    return subprocess.run(
        ["sh", "-c", command.replace("NAME", role)], cwd=folder, env=environ, capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip


def url_of(database: Database, role: str) -> str:
    """The URL of ``database`` for ``role``."""
    return database_url(database).replace(f"//{database.server.user}@", f"//{role}@")


def test_the_shop_answers_as_it_did_and_leaves_the_same_rows(shop: Pair) -> None:
    shop.compare("POST", "/signup", {"email": "Ana@shop.example", "plan": "pro"})
    assert shop.compare("POST", "/signup", {"email": "eve@shop.example"}).status == 500
    assert shop.compare("POST", "/signup", {"email": "ana@shop.example", "plan": "pro"}).status == 500
    for order in (
        {"user_id": 1, "item": "mug", "amount": 2},
        {"user_id": 1},
        {},
        [1],
        {"user": 9, "sku": "mug"},
    ):
        shop.compare("POST", "/orders", order)
    for path in ("/orders/1", "/orders/2", "/orders/x", "/orders/", "/orders", "/nothing", "/orders/1/2"):
        for method in ("GET", "HEAD", "DELETE", "OPTIONS", "POST"):
            shop.compare(method, path)
    assert shop.compare_rows("select id, email, plan from users order by id").startswith(
        "1|ana@shop.example|pro"
    )
    assert shop.compare_rows("select count(*) from orders")


def test_what_a_request_says_is_read_in_the_same_way(shop: Pair) -> None:
    for path in (
        "/echo/a%2Fb/c/d%20e?x=1&x=2&y=%C3%A9&z=a+b",
        "/echo/%zz/a",
        "/echo/../a",
        "/echo/%2e%2e/a",
        "/echo/a/",
        "/echo/%00/a",
        "/echo/a/%ff",
        "/echo/a/b//c",
        "/echo//b",
        "/echo/a/b?%ff",
        "/echo/a/b?p=100%",
    ):
        shop.compare("GET", path)
    claims = {"x-forwarded-for": "203.0.113.9", "x-forwarded-proto": "https", "forwarded": "for=203.0.113.9"}
    # No proxy is declared, so nobody's word counts.
    assert shop.compare("GET", "/echo/a/b", None, claims).json["client"] == "127.0.0.1"
    form = "application/x-www-form-urlencoded"
    kinds = ("application/json", form, "text/plain", "application/vnd.x+json", "image/png")
    for body in (b'{"a": 1}', b"[1]", b"a=1&b=2&b=3", b"{", b"", b"\xff", b'{"a": NaN}', b"  "):
        for kind in kinds:
            shop.compare("POST", "/echo?q=1", body, {"content-type": kind})
    half = b'{"a": "\\ud800"}'  # Told in words of their own.
    asked = [
        one.request("POST", "/echo", half, {"content-type": kinds[0]}) for one in (shop.flux, shop.ejected)
    ]
    assert [(answer.status, answer.json["code"]) for answer in asked] == [(400, "INPUT_VALIDATION_ERROR")] * 2
    assert shop.compare("POST", "/echo", b"x" * 70_000).status == 413
    assert shop.compare("PUT", "/upload", b"x" * 200_000).json["streamed"]
    assert not shop.compare("PUT", "/upload", b"x" * 20_000).json["streamed"]
    assert shop.compare("PUT", "/upload", b"x" * 300_000).status == 413
    for path, body in (
        ("/wanted/3?tags=a&tags=b", {"kind": "big"}),
        ("/wanted/x", {"on": "2026-13-01", "kind": "huge"}),
        ("/wanted/3", {"count": "4"}),
        ("/wanted/3", {"on": "2026-01-02", "tags": [1]}),
        ("/wanted/3", []),
    ):
        shop.compare("POST", path, body)


def test_statements_and_answers_have_the_same_types(shop: Pair) -> None:
    assert len(shop.compare("GET", "/types").json) == 21
    assert shop.compare("GET", "/sync/one").json == [{"count": 1}]
    assert len(shop.compare("GET", "/stream").body) > 200_000
    assert shop.compare("GET", "/stream/plain").body == b"024"
    assert shop.compare("HEAD", "/stream").body == b""
    assert shop.compare("GET", "/stream/fails").status == 409
    assert shop.compare("POST", "/together").json == [1, 0, 1, 2, 3, 4]
    assert shop.compare("GET", "/secret").json["other"] == "the key that is known"
    # Of the application's environment a function that takes the name from a request sees no more than Flux's would.
    assert shop.compare("GET", "/secret/KNOWN_KEY").json == [[True, "the key that is known"]] * 2
    for name in ("DATABASE_URL", "PATH", "FUNCTION_THREADS", "NOT_THERE", "known_key", "a%20b"):
        said = shop.compare("GET", f"/secret/{name}").json
        assert [one[:2] for one in said] == [["SecretMissing", "FLX422"]] * 2, name
        assert said[0][3].endswith("this project has KNOWN_KEY"), name
    settings = (shop.ejected.project / "settings.py").read_text()
    assert 'SECRETS: list[str] = [\'KNOWN_KEY\', \'NOT_THERE\']' in settings and "the key that is known" not in settings


def test_a_failure_leaves_nothing_behind_and_says_the_same(shop: Pair) -> None:
    for how in ("http", "group", "nan", "aborted", "begin", "two", "else"):
        assert shop.compare("POST", f"/fails/{how}").status >= 400
    assert shop.compare("POST", "/fails/answers").status == 503
    assert shop.compare("POST", "/savepoints").json["constraint"] == "notes_pkey"
    assert shop.compare("POST", "/pieces").status == 400
    for path in ("/slow/async", "/slow/def", "/stubborn"):
        assert shop.compare("POST", path).status == 504
    for path in ("/exits/exit", "/exits/stop", "/exits/cancel", "/exits"):
        assert shop.compare("POST", path).status == 500
    late = ["23505", "late_n_key"]
    assert shop.compare("POST", "/deferred").json == [late, "kept", late]
    assert shop.compare("POST", "/deferred/whole").status == 500
    assert shop.compare_rows("select n from late") == "2"
    kept = shop.compare_rows('select text from notes order by text collate "C"').splitlines()
    assert kept == ["after", "stays", "stays serializable", "undone answers"]
    shop.ejected.wait_story("KeyError: 'else'")
    assert "select pg_sleep" not in shop.database.psql(
        "select query from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    )


def test_an_isolation_level_is_no_place_for_sql(shop: Pair) -> None:
    said = [
        shop.compare("POST", "/isolation", {"level": level}).json
        for level in ("serializable", "serializable; drop table late", "", "READ COMMITTED", 1, None)
    ]
    assert said[0] == [{"transaction_isolation": "serializable"}]
    assert [one["code"] for one in said[1:5]] == ["FLX425"] * 4
    assert shop.database.psql("select to_regclass('late')") == "late"


def test_what_a_request_leaves_in_its_session_the_next_one_does_not_find(shop: Pair) -> None:
    shop.ejected.request("POST", "/shadow")
    assert [shop.compare("GET", "/notes").json for _ in range(4)] == [[]] * 4
    assert shop.compare("GET", "/loop").json == 7


def test_a_migration_while_it_serves_costs_no_answer(shop: Pair) -> None:
    for number in range(3):
        shop.database.psql("insert into notes (text) values ('kept')")
        answers = {shop.ejected.request("GET", "/every/note").status for _ in range(4)}
        assert answers == {200}, number
        shop.database.psql(f"alter table notes add column more_{number} int")
    shop.database.psql("alter table notes drop column more_0, drop column more_1, drop column more_2")


def test_a_thread_that_is_late_changes_nothing(shop: Pair) -> None:
    assert shop.ejected.request("POST", "/late").status == 504
    deadline = time.monotonic() + 60
    while len(said := shop.ejected.request("GET", "/late").json) < 4:
        assert time.monotonic() < deadline, said
        time.sleep(0.05)
    assert [one.partition(":")[2] for one in said] == [" the function has ended"] * 4
    assert (
        shop.database.psql("select (select count(*) from notes), (select count(*) from background.jobs)")
        == "0|0"
    )


def test_what_a_client_sends_makes_no_line_of_the_log(shop: Pair) -> None:
    forged = "seen\n2026-01-01 00:00:00,000 ERROR server forged\x1b[2J\r\u2028forged"
    assert shop.ejected.request("POST", "/log", {"text": forged}).status == 204
    shop.ejected.wait_story("INFO functions seen")
    assert shop.ejected.request("POST", "/log/fails", {"text": forged}).status == 500
    shop.ejected.wait_story("ValueError: seen")
    text = json.dumps({"text": forged}).replace("'", "''")
    shop.database.psql(f"insert into background.jobs (function, payload) values ('fails_as_job', '{text}')")
    with shop.running_worker() as worker:
        worker.wait_story("is dead: ValueError: seen")
    for story in (shop.ejected.story, worker.story):
        assert not [line for line in story if line.startswith(("2026-01-01", "forged")) or "\x1b" in line]


def test_what_the_database_gives_up_is_run_again(shop: Pair) -> None:
    """Each of them alone could be lost to the others: what was answered with 200 is counted, and nothing else."""
    with ThreadPoolExecutor(4) as clients:
        answers = list(clients.map(lambda _: shop.ejected.request("POST", "/count").status, range(12)))
    assert set(answers) <= {200, 500} and answers.count(200) >= 4
    assert shop.database.psql("select n from counter") == str(answers.count(200))


def test_what_is_run_again_has_the_input_that_came(shop: Pair) -> None:
    """What the first attempt took out of it is there for the second, as it is with Flux."""
    said = shop.compare("POST", "/consumes", {"items": ["a", "b"], "deep": {"items": ["c", "d"]}}).json
    assert said == {"taken": ["b", "d"], "left": ["a"], "tries": {"last_value": 2}}
    assert shop.compare_rows("select text from notes") == "taken b d"


def test_functions_reach_others_and_the_world_as_they_did(shop: Pair, stub: CountingStub) -> None:
    for name in ("doubled", "refuses", "turns", "nobody", "nightly"):
        shop.compare("POST", f"/invoke/{name}")
    base = stub.url("")
    before = len(stub.seen)
    said = shop.compare("GET", f"/out?base={base}").json
    assert said[0] == [200, {"ok": True}] and said[1][0] == "HttpTimeoutError" and len(said) == 7
    stub.release()
    seen = stub.seen[before:]
    assert [one.path for one in seen] == ["/a", "/hang", "/status/404"] * 2
    for one, other in zip(seen[:3], seen[3:], strict=True):
        fields = [{name.lower(): value for name, value in each.headers} for each in (one, other)]
        assert [each["x-q"] for each in fields] == ["1", "1"] and one.body == other.body
        assert fields[0]["content-type"] == fields[1]["content-type"] == "application/json"


def test_a_request_to_another_server_is_refused_or_sent_as_it_was(shop: Pair, stub: CountingStub) -> None:
    """Methods, headers, addresses, limits, and where a redirect may lead and what it takes along."""
    base = stub.url("")
    here, private = f"{base}/a%7Eb?x=%20&y=/", {"authorization": "Bearer mine", "x-own": "1"}
    asked: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", here, {}),
        ("POST", here, {"body": "ä", "headers": private}),
        *((method, here, {}) for method in ("GE T", "TRACE", "CONNECT", "GET\r\nx: y", "")),
        *(
            ("GET", here, {"headers": {name: value}})
            for name, value in (
                ("x", "a\r\nb: c"),
                ("x y", "a"),
                ("Host", "b"),
                ("x", "ä"),
                ("Content-Length", "1"),
            )
        ),
        ("GET", here, {"headers": {"x": "y" * 70_000}}),
        *(("GET", here, {"timeout": limit}) for limit in (0, -1)),
        *(
            ("GET", url, {})
            for url in ("ftp://a/", base + "/a b", base + "\\x", "//a", "", base + "/#x", "http://[::1/")
        ),
        *(
            (
                method,
                f"{base}/redirect/{status}?{base}/there",
                {"redirects": 1, "body": "b", "headers": private},
            )
            for method in ("POST", "PUT")
            for status in (301, 303, 307)
        ),
        *(
            ("GET", f"{base}/redirect/302?{to}", {"redirects": 2})
            for to in ("http://example.com/", "http://u@127.0.0.1/", "x://y/", f"{base}/redirect/302?/a", "")
        ),
    ]
    for method, url, options in asked:
        before = len(stub.seen)
        shop.compare("POST", "/ask", {"method": method, "url": url, "options": options})
        seen = []
        for one in stub.seen[before:]:
            fields = {(name.lower(), value) for name, value in one.headers}
            own = {(name, value) for name, value in fields if name not in ("connection", "traceparent")}
            seen.append((one.method, one.path, one.body, own))
        half = len(seen) // 2
        assert seen[:half] == seen[half:], (method, url, options)


def test_a_name_that_leads_elsewhere_when_it_is_asked_again_leads_nowhere(
    shop: Pair, stub: CountingStub
) -> None:
    """The address that was judged is connected to, and no other one."""
    (shop.ejected.project / "rebinding.py").write_text(REBINDING)
    path, before = f"/outward?base={stub.url('')}", len(stub.seen)
    environ = {"DATABASE_URL": shop.url}
    with running_application(shop.ejected.project, shop.database, environ, "rebinding:application") as server:
        assert server.request("GET", path).status == 500
        server.wait_story("can't be reached")
        assert len(stub.seen) == before
        assert server.request("GET", path).status == 200
    assert [one.path for one in stub.seen[before:]] == ["/a"]


def test_where_a_name_leads_is_judged_as_flux_judges_it(shop: Pair) -> None:
    """By Flux's own table, and for each request: what one function's grants opened is not the next one's."""
    (shop.ejected.project / "asking.py").write_text(ASKING)
    refused = (
        "127.0.0.1", "10.0.0.5", "169.254.169.254", "168.63.129.16", "224.0.0.1", "192.88.99.1", "192.0.0.9",
        "2002:a9fe:a9fe::1", "64:ff9b::a9fe:a9fe", "fec0::5", "ff02::1", "3fff::1", "::7f00:1", "::ffff:127.0.0.1",
        "2606:4700::5efe:a00:5", "fe80::1%eth0",
    )  # fmt: skip
    public = ("93.184.215.14", "2606:4700::1111", "64:ff9b::5db8:d70e")
    asked = subprocess.run(
        make_command(shop.ejected.project, "path", str(shop.ejected.project / "asking.py"), *refused, *public),
        env=make_environment(shop.database, {}), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert asked.returncode == 0, asked.stderr
    said = json.loads(asked.stdout)
    # The stand-in for the network lets nobody but loopback be connected to.
    assert said["judged"] == {**dict.fromkeys(refused, "FLX403"), **dict.fromkeys(public, "FLX407")}
    assert said["connected"] == [*public, "10.0.0.5"]
    assert said["mapped"] == "FLX407"
    # The server closes a line at its second request: each of these had one of its own.
    assert said["posts"] == [200, 200, 200] and said["lines"] == 3
    assert said["another"] == "FLX407" and said["lines_after"] == 3


def test_an_answer_to_one_user_sets_no_cookie_for_the_next(shop: Pair, stub: CountingStub) -> None:
    before = len(stub.seen)
    for _ in range(2):
        assert shop.compare("GET", f"/cookie?base={stub.url('')}").json == [
            "session=of-one-user; Path=/",
            200,
        ]
    seen = stub.seen[before:]
    assert len(seen) == 8
    assert all("cookie" not in {name.lower() for name, _ in one.headers} for one in seen)


def test_more_functions_at_once_than_threads_and_connections_do_not_wait_for_each_other(
    shop: Pair, stub: CountingStub
) -> None:
    """There are two of each. Whoever has one waits for another function, which needs one as well."""
    paths = ["/nested"] * 5 + [f"/outward?base={stub.url('')}"] * 5
    with ThreadPoolExecutor(len(paths)) as clients:
        answers = list(clients.map(lambda path: shop.ejected.request("GET", path), paths))
    assert [answer.status for answer in answers[:5]] == [200] * 5
    assert {answer.json["n"] for answer in answers[:5]} == {2}
    # A name leads to a private address: that it was refused shows that it was resolved.
    assert [describe(answer) for answer in answers[5:]] == [describe(shop.compare("GET", paths[5]))] * 5
    assert shop.database.psql("select count(*) from notes where text = 'nested'") == "5"


def test_jobs_are_done_if_and_only_if_their_work_is(shop: Pair) -> None:
    for body in ({"name": "plain"}, {"name": "undone", "fail": True}, {"name": "flaky"}, {"name": "broken"}):
        shop.compare("POST", "/push", body)
    jobs = "select function, state, failures from background.jobs order by payload <> 'null', pushed_at"
    assert shop.database.psql(jobs).splitlines() == ["work|waiting|0"] * 3
    # The flaky one is to fail the first time that it is tried, wherever it stands.
    shop.database.psql(
        "alter sequence tries restart 1; update background.jobs set due_at = now() + interval '1 h' "
        "where payload not like '%flaky%'"
    )
    with shop.running_worker() as worker:
        wait_for(shop.database, "select count(*) from effects", "1", worker)
        shop.database.psql("update background.jobs set due_at = now() where state = 'waiting'")
        wait_for(
            shop.database, "select count(*) from background.jobs where state in ('done', 'dead')", "3", worker
        )
    counted = shop.database.psql(
        "select state, failures, payload from background.jobs order by state, failures"
    )
    assert counted.splitlines() == ['dead|2|{"name":"broken"}', "done|0|null", "done|1|null"]
    assert shop.database.psql("select name, method from effects order by name").splitlines() == [
        "flaky|",
        "plain|",
    ]
    assert "RuntimeError: it is broken" in shop.database.psql(
        "select error from background.jobs where state = 'dead'"
    )


def test_no_job_stays_with_a_worker_that_can_not_run_it(shop: Pair) -> None:
    """One whose payload somebody broke, two that exit, and one whose claim was answered on a line that was lost."""
    ended = "select count(*) from background.jobs where state in ('done', 'dead')"
    with shop.running_worker() as worker:
        wait_for(shop.database, "select count(*) > 0 from background.workers", "t", worker)
        shop.database.psql(
            "insert into background.jobs (function, payload) values ('doubled', '{broken'), ('exits_as_job', '{}'), "
            "('exits_as_job_in_thread', '{}')"
        )
        wait_for(shop.database, ended, "3", worker)
        # What the table says then, and the worker never heard.
        shop.database.psql(
            "insert into background.jobs (function, payload, state, attempt, worker) select 'long_work', "
            "'{\"seconds\": 0}', 'running', 1, id from background.workers order by seen_at desc limit 1"
        )
        wait_for(shop.database, ended, "4", worker)
    assert shop.database.psql("select name from effects") == "long"
    said = shop.database.psql(
        "select function, state, attempt, lost, split_part(error, ':', 1) from background.jobs order by function"
    )
    assert said.splitlines() == [
        "doubled|dead|1|0|JSONDecodeError",
        "exits_as_job|dead|1|0|SystemExit",
        "exits_as_job_in_thread|dead|1|0|SystemExit",
        "long_work|done|2|1|",
    ]


def test_a_worker_that_is_killed_leaves_its_job_to_another(shop: Pair) -> None:
    shop.database.psql(
        "truncate effects; delete from background.jobs; insert into background.jobs (function, payload) "
        "values ('long_work', '{\"seconds\": 60}')"
    )
    asleep = (
        "select count(*) from pg_stat_activity where datname = current_database() and state = 'active' "
        "and query like '%pg_sleep($1)%' and pid <> pg_backend_pid()"
    )
    with shop.running_worker() as worker:
        wait_for(shop.database, asleep, "1", worker)
        worker.kill()
    assert shop.database.psql("select count(*) from effects") == "0"
    shop.database.psql(
        "update background.jobs set payload = '{\"seconds\": 0}'; update background.schedules "
        "set decided_until = decided_until - interval '25 h'"
    )
    with shop.running_worker() as worker:
        wait_for(shop.database, "select count(*) from background.jobs where state = 'done'", "2", worker)
    assert shop.database.psql("select name, method from effects order by name").splitlines() == [
        "long|", "nightly 0 3 * * *|T03:00:00Z",
    ]  # fmt: skip
    counts = shop.database.psql(
        "select lost, failures, attempt from background.jobs where function = 'long_work'"
    )
    assert counts == "1|0|2"


def test_a_worker_that_has_more_to_do_than_connections_is_still_heard_of(shop: Pair) -> None:
    """Each of the jobs takes longer than a lease, and its worker has one connection for them."""
    shop.database.psql(
        "delete from effects; delete from background.jobs; insert into background.jobs (function, payload) "
        "select 'long_work', '{\"seconds\": 3}' from generate_series(1, 2)"
    )
    few = {"DATABASE_CONNECTIONS": "1"}
    with (
        shop.running_worker(few) as worker,
        shop.running_worker(few),
    ):
        wait_for(shop.database, "select count(*) from background.jobs where state = 'done'", "2", worker)
    assert shop.database.psql("select sum(lost), sum(failures), max(attempt) from background.jobs") == "0|0|1"
    assert shop.database.psql("select count(*) from effects") == "2"


EAGER = """
import server.gate
from main import application

server.gate.AGAIN_S = 0.0
"""
REBINDING = """
import asyncio

from main import application

told = []
resolve = asyncio.BaseEventLoop.getaddrinfo


async def rebind(loop, host, port, **options):
    if host not in ("localhost", b"localhost"):
        return await resolve(loop, host, port, **options)
    told.append(host)
    # Nothing listens at the first, which is judged and granted.
    return await resolve(loop, "127.0.0.1" if len(told) > 1 else "127.0.0.9", port, **options)


asyncio.BaseEventLoop.getaddrinfo = rebind
"""
SIGNING = """
import asyncio
import os
import sys
import time

import jwt

import settings
from server.bearer import AuthConfig
from server.errors import OperatorError
from server.gate import TokenKeys

for name in sys.argv[1:]:
    config = AuthConfig(**{**settings.AUTH, "jwks": "", "secret": name})
    now = int(time.time())
    said = {"sub": "known", "iss": config.issuer, "aud": list(config.audience)[0], "iat": now, "exp": now + 600}
    token = jwt.encode(said, os.environ[name], algorithm="HS256")
    try:
        print(asyncio.run(TokenKeys(config, None).verify(token, time.time()))["sub"])
    except OperatorError as error:
        print(str(error).splitlines()[0])
"""
ASKING = """
import asyncio
import json
import sys

import httpcore

from server import outbound
from server.database import Refused
from server.grants import Grants

leads_to, connected, lines = {}, [], []
connect = httpcore.AnyIOBackend.connect_tcp


async def resolve(loop, host, port, **_):
    return [(0, 0, 0, "", (leads_to[host], port))]


async def connect_to_loopback(backend, host, *more):
    if host != "127.0.0.1":
        connected.append(host)
        raise httpcore.ConnectError("nobody is there")
    return await connect(backend, host, *more)


async def answer_once(reader, writer):
    lines.append(writer)
    await reader.readuntil(b"\\r\\n\\r\\n")
    writer.write(b"HTTP/1.1 200 OK\\r\\ncontent-length: 2\\r\\n\\r\\nok")
    await reader.read(1)
    writer.close()


async def ask(tls, method, port, *granted):
    options = dict(headers=None, body=None, timeout_s=None, redirects=0)
    grants = Grants.parse(f"{host}:{port}" for host in granted)
    try:
        return (await outbound.request(tls, grants, method, f"http://api.corp:{port}/", options, 30.0))["status"]
    except Refused as refused:
        return refused.code


async def main():
    asyncio.BaseEventLoop.getaddrinfo = resolve
    httpcore.AnyIOBackend.connect_tcp = connect_to_loopback
    tls, judged = httpcore.default_ssl_context(), {}
    for address in sys.argv[1:]:
        leads_to["api.corp"] = address
        judged[address] = await ask(tls, "GET", 80, "api.corp")
    leads_to["api.corp"] = "::ffff:10.0.0.5"
    mapped = await ask(tls, "GET", 80, "api.corp", "10.0.0.5")
    told = list(connected)
    server = await asyncio.start_server(answer_once, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    leads_to["api.corp"] = "127.0.0.1"
    posts = [await ask(tls, "POST", port, "api.corp", "127.0.0.1") for _ in range(3)]
    count = len(lines)
    leads_to["api.corp"] = "93.184.215.14"
    another = await ask(tls, "GET", port, "api.corp")
    print(json.dumps(dict(judged=judged, mapped=mapped, connected=told, posts=posts, lines=count, another=another,
                          lines_after=len(lines))))


asyncio.run(main())
"""
HOST = """
import contextlib

from starlette.applications import Starlette
from starlette.routing import Mount

import server.application
import server.database
from main import application

server.database.COMMIT_S = 2.0
server.application.BODY_S = 1.0
server.application.BODIES_BYTES_MAX = 50_000


@contextlib.asynccontextmanager
async def lifespan(app):
    await application.start()
    yield
    await application.stop()


routes = [Mount("/api", application), Mount("/forgotten", server.application.Application())]
host = Starlette(routes=routes, lifespan=lifespan)
"""


@pytest.fixture(scope="module")
def proxy(postgres18: PostgresServer) -> Iterator[LosingProxy]:
    with losing_proxy(postgres18) as running:
        yield running


@pytest.fixture(scope="module")
def mounted(shop_pair: Pair, proxy: LosingProxy) -> Iterator[DevServer]:
    """The shop's application within another one, on a line to the database that can be lost."""
    (shop_pair.ejected.project / "host.py").write_text(HOST)
    url = f"postgresql://{shop_pair.role}@127.0.0.1:{proxy.port}/{shop_pair.database.name}"
    with running_application(
        shop_pair.ejected.project, shop_pair.database, {"DATABASE_URL": url}, "host:host"
    ) as running:
        yield running


def test_a_token_is_believed_by_the_keys_of_its_issuer(shop: Pair, stub: CountingStub) -> None:
    known, unknown = make_key("P-256"), make_key("P-256")
    stub.pages["/keys"] = json.dumps({"keys": [jwk(known, kid="k1")]}).encode()
    now = int(time.time())
    tokens = [
        sign(known, "ES256", claims(scope="read", at=["ä", 1.5]), kid="k1"),
        sign(known, "ES256", claims(scope="read")),
        sign(known, "ES256", claims(scope="write"), kid="k1"),
        sign(known, "ES256", claims(scope="read", exp=now - 3600), kid="k1"),
        sign(known, "ES256", claims(scope="read", aud="another"), kid="k1"),
        sign(known, "ES256", claims(scope="read", iss="https://another.example"), kid="k1"),
        sign(unknown, "ES256", claims(scope="read"), kid="k1"),
        sign(unknown, "ES256", claims(scope="read"), kid="k2"),
        sign(known, "none", claims(scope="read"), kid="k1"),
        "x",
    ]
    before = len(stub.seen)
    said = []
    for path in ("/who", "/who/else"):
        shop.compare("GET", path)
        said.append(
            [shop.compare("GET", path, None, {"authorization": f"Bearer {one}"}).status for one in tokens]
        )
    assert said == [[200, 200, 403, *[401] * 7], [200, 200, 200, *[401] * 7]]
    # Once by each: a key that there is not is not asked for again at once.
    assert [one.path for one in stub.seen[before:]] == ["/keys"] * 2


def test_a_token_signed_with_the_database_url_is_not_believed(shop: Pair) -> None:
    """With --partial ``[http.auth] secret`` may name a variable of the application's own: it is missing then."""
    (shop.ejected.project / "signing.py").write_text(SIGNING)
    secrets = {"KNOWN_KEY": "k" * 32, "DATABASE_URL": f"{shop.url}?application_name={'x' * 32}"}
    asked = subprocess.run(
        make_command(shop.ejected.project, "path", str(shop.ejected.project / "signing.py"), *secrets),
        env=make_environment(shop.database, secrets), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    refused = "FLX240  the secret DATABASE_URL of [http.auth] is not there"
    assert asked.stdout.splitlines() == ["known", refused], asked.stderr


def test_keys_without_end_are_not_read(shop: Pair, mounted: DevServer, stub: CountingStub) -> None:
    key = make_key("P-256")
    stub.pages["/keys"] = json.dumps({"keys": [jwk(key, kid="k1")], "more": "x" * 2**20}).encode()
    token = {"authorization": "Bearer " + sign(key, "ES256", claims(scope="read"), kid="k1")}
    refused = mounted.request("GET", "/api/who", None, token)
    assert (refused.status, refused.headers["retry-after"]) == (503, "10")
    mounted.wait_story("more than 1,048,576 bytes")


def test_whoever_has_a_known_key_does_not_wait_for_unknown_ones(shop: Pair, stub: CountingStub) -> None:
    """Keys are asked for once, however many wait for them; and who needs no newer ones does not wait."""
    known, unknown = make_key("P-256"), make_key("P-256")
    stub.pages["/keys"] = json.dumps({"keys": [jwk(known, kid="k1")]}).encode()
    tokens = [
        {"authorization": "Bearer " + sign(key, "ES256", claims(scope="read"), kid=kid)}
        for key, kid in ((known, "k1"), (unknown, "k2"))
    ]
    (shop.ejected.project / "eager.py").write_text(EAGER)
    environ = {"DATABASE_URL": shop.url}
    with (
        running_application(shop.ejected.project, shop.database, environ, "eager:application") as server,
        ThreadPoolExecutor(12) as clients,
    ):

        def ask(token: Mapping[str, str]) -> int:
            return server.request("GET", "/who", None, token).status

        def wait_asked(times: int) -> None:
            deadline = time.monotonic() + 60
            while len(stub.seen) - before < times:
                assert time.monotonic() < deadline, server.story
                time.sleep(0.01)

        before = len(stub.seen)
        stub.held.add("/keys")
        try:
            first = [clients.submit(ask, token) for token in tokens[:1] * 6]
            wait_asked(1)
            stub.release()
            assert [one.result() for one in first] == [200] * 6
            assert len(stub.seen) - before == 1
            stranger = clients.submit(ask, tokens[1])
            wait_asked(2)
            assert [ask(tokens[0]) for _ in range(3)] == [200] * 3
            assert not stranger.done()
            stub.release()
            assert stranger.result() == 401
        finally:
            stub.held.clear()
            stub.release()
    assert [one.path for one in stub.seen[before:]] == ["/keys"] * 2


def test_another_application_can_have_it_mounted(shop: Pair, mounted: DevServer) -> None:
    for method, path in (
        ("GET", "/echo/a%2Fb/c?x=1"),
        ("OPTIONS", "/echo"),
        ("GET", "/nothing"),
        ("GET", "/types"),
    ):
        assert describe(mounted.request(method, f"/api{path}")) == describe(
            shop.ejected.request(method, path)
        )
    assert mounted.request("GET", "/forgotten/types").status == 500
    mounted.wait_story("has to await application.start()")


def test_a_body_has_to_come_and_to_find_room(mounted: DevServer) -> None:
    for _ in range(2):
        assert mounted.request("POST", "/api/echo", b"x" * 40_000).status == 200
        full = mounted.request("POST", "/api/echo", b"x" * 60_000)
        assert (full.status, full.json["code"]) == (503, "OVERLOADED") and "retry-after" in full.headers
    with socket.create_connection(("127.0.0.1", mounted.port), timeout=60) as line:
        line.sendall(b"POST /api/echo HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nx")
        assert line.recv(1 << 16).startswith(b"HTTP/1.1 408 ")


def test_a_commit_whose_answer_is_lost_is_asked_after(
    shop: Pair, mounted: DevServer, proxy: LosingProxy
) -> None:
    def count(name: str) -> str:
        return shop.database.psql(f"select count(*) from notes where text = 'sync {name}'")

    before = proxy.lost
    proxy.lose(When.AFTER)
    assert mounted.request("GET", "/api/sync/kept").status == 200
    assert count("kept") == "1"
    proxy.lose(When.BEFORE)
    undone = mounted.request("GET", "/api/sync/undone")
    assert (undone.status, undone.json["code"], undone.headers["retry-after"]) == (503, "OVERLOADED", "1")
    assert count("undone") == "0"
    # Who may not ask does not know.
    shop.database.psql("revoke execute on function pg_xact_status from public")
    try:
        proxy.lose(When.AFTER)
        unknown = mounted.request("GET", "/api/sync/unknown")
    finally:
        shop.database.psql("grant execute on function pg_xact_status to public")
    assert (unknown.status, unknown.json["code"]) == (500, "COMMIT_UNKNOWN")
    assert "retry-after" not in unknown.headers and count("unknown") == "1"
    proxy.lose(When.LATER)
    assert mounted.request("GET", "/api/sync/given-back").status == 200
    mounted.wait_story("lost when it was given back")
    assert count("given-back") == "1"
    # A line that is lost without a word: nothing comes, and nothing says that nothing will.
    proxy.lose(When.SILENTLY_AFTER)
    assert mounted.request("GET", "/api/sync/kept-silently").status == 200
    assert count("kept-silently") == "1"
    proxy.lose(When.SILENTLY_BEFORE)
    assert mounted.request("GET", "/api/sync/undone-silently").status == 503
    assert count("undone-silently") == "0"
    assert proxy.lost == before + 6
    assert mounted.request("GET", "/api/sync/again").status == 200


def wait_for(database: Database, sql: str, said: str, worker: DevServer) -> None:
    """Wait until a second psql says so."""
    deadline = time.monotonic() + 60
    while (found := database.psql(sql)) != said:
        assert time.monotonic() < deadline, (sql, found, worker.story)
        time.sleep(0.05)


def test_conduit_answers_as_it_did_and_leaves_the_same_rows(conduit: Pair) -> None:
    clients = [Client(conduit.flux), Client(conduit.ejected)]
    ana = [client.sign_up("ana") for client in clients]
    bob = [client.sign_up("bob") for client in clients]
    slugs = [one.publish("A title", "one", "two")["slug"] for one in ana]

    def ask(who: list[Client], method: str, path: str, body: object = None) -> int:
        answers = [
            client.send(method, path.replace("SLUG", slug), body)
            for client, slug in zip(who, slugs, strict=True)
        ]
        assert describe(answers[1]) == describe(answers[0]), (method, path)
        return answers[1].status

    tampered = [Client(client.server, f"{client.token}x") for client in ana]
    for who in (clients, ana, bob, tampered):
        for method, path, body in (
            ("GET", "/api/articles?tag=one", None),
            ("GET", "/api/articles/SLUG", None),
            ("GET", "/api/user", None),
            ("POST", "/api/articles/SLUG/favorite", None),
            ("POST", "/api/profiles/ana/follow", None),
            ("GET", "/api/articles/feed", None),
            ("POST", "/api/articles/SLUG/comments", {"comment": {"body": "ä <b>"}}),
            ("PUT", "/api/user", {"user": {"email": "ANA@example.org"}}),
            ("POST", "/api/articles", {"article": {}}),
            ("GET", "/api/articles/SLUG/comments", None),
            ("GET", "/api/articles?limit=x", None),
            ("PUT", "/api/articles/SLUG", {"article": {"body": "another"}}),
            ("GET", "/api/tags", None),
            (
                "POST",
                "/api/users",
                {"user": {"username": "ana", "email": "n@example.org", "password": "long enough"}},
            ),
        ):
            ask(who, method, path, body)
    assert ask(bob, "DELETE", "/api/articles/SLUG") == 403
    for headers in (
        {"origin": "https://a.example", "access-control-request-method": "POST"},
        {"origin": "https://a.example"},
        {"authorization": "Token a.b.c"},
        {"authorization": "Bearer x"},
        {"authorization": "Token " + "eyJhbGciOiJub25lIn0.e30."},
    ):
        for method in ("OPTIONS", "GET", "DELETE"):
            conduit.compare(method, "/api/user", None, headers)
    for sql in (
        "select username, email, bio, image from account order by username",
        "select username, article_id from favorite join account on account.id = account_id order by 1",
        "select title, description, body from article order by id",
        "select body from comment order by id",
    ):
        assert conduit.compare_rows(sql)
    with ThreadPoolExecutor(8) as together:
        login = {"user": {"email": "ana@example.org", "password": "no"}}
        sent = list(
            together.map(lambda _: conduit.ejected.request("POST", "/api/users/login", login), range(70))
        )
    assert {answer.status for answer in sent} == {401, 429}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in sent if answer.status == 429)


@pytest.mark.parametrize("story", [
    test_conduit.test_a_profile_says_whether_one_follows_it,
    test_conduit.test_an_article_lives_from_its_draft_to_its_end,
    test_conduit.test_readers_comment_and_take_it_back,
    test_conduit.test_lists_are_of_a_tag_an_author_a_reader_or_those_one_follows,
], ids=lambda story: story.__name__.removeprefix("test_"))  # fmt: skip
def test_conduit_without_flux_passes_the_tests_of_conduit(conduit: Pair, story: Any) -> None:
    story(Client(conduit.ejected))


SECRETS = """
def read(ctx, secrets, other):
    return [ctx.secrets["ONE"], ctx.secrets.reveal("TWO"), secrets["DATABASE_URL"], ctx.secrets["not a name"],
            other["THREE"], other.reveal("FOUR"), ctx.secrets[other]]
"""


def test_what_cannot_come_along_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    toml = '[http.auth]\nsecret = "KEY"\nissuer = "a"\naudience = ["a"]\n[functions.one]\nauth = "api_key"\n'
    one = 'from flux_guest import function\n@function("GET /one")\ndef one(ctx, input):\n    return 1\n'
    (tmp_path / "p").mkdir()
    project = write_project(tmp_path / "p", {
        "one.py": one, "web.py": "from flux_guest import asgi\nasgi.wrap(None)\n", "broken.py": "def (",
        "deep/inner.py": "import flux.ids\n", "far.py": "import functions.deep.near",
        "deep/near.py": "from .inner import x\n", "nearly.py": "from flux_guest import _channel",
        "fine.py": "from functions import one\nfrom . import one as two\n" + SECRETS,
        "page.js": "export const x = 1;", "wire.py": "import flux_guest._channel",
    }, toml=toml, migrations={"001_one.sql": "create table one (n int);"})  # fmt: skip
    (project / "functions" / "module.wasm").write_bytes(b"\0asm")
    (project / ".env.local").write_text("LOCAL=value\n")
    target = tmp_path / "out"
    refused = run_flux(project, "eject", str(target))
    assert refused.returncode == 2 and "FLX636" in refused.stderr and not target.exists()
    left_out = [
        "broken.py",
        "deep/inner.py",
        "deep/near.py",
        "far.py",
        "module.wasm",
        "nearly.py",
        "page.js",
        "web.py",
    ]
    left_out.append("wire.py")
    within = run_flux(project, "eject", "functions/out", "--partial")
    assert (
        within.returncode == 2 and "FLX637" in within.stderr and not (project / "functions" / "out").exists()
    )
    for name in (*(f"functions/{one}" for one in left_out), "[functions.one] auth", "the secret DATABASE_URL"):
        assert refused.stderr.count(f"  {name}: ") == 1, name
    done = run_flux(project, "eject", str(target), "--partial", "--json")
    answer = json.loads(done.stdout)
    names = [*(f"functions/{one}" for one in left_out), "[functions.one] auth", "the secret DATABASE_URL"]
    assert [one["what"] for one in answer["left_out"]] == names
    written = sorted(path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file())
    assert written == answer["files"]
    config = project / "flux.toml"
    said = config.read_text()
    for name in ("server", "email", "Server"):
        config.write_text(f'[project]\nfunctions = "{name}"\n' + said.replace("[project]\n", ""))
        (project / name).mkdir()
        (project / name / "gate.py").write_text(one)
        taken = run_flux(project, "eject", str(tmp_path / "taken"), "--partial")
        assert (
            taken.returncode == 2
            and "FLX636" in taken.stderr
            and f"{name}/ can't be left behind" in taken.stderr
        )
    assert not (tmp_path / "taken").exists()
    assert [path for path in written if path.startswith("functions/")] == [
        "functions/fine.py",
        "functions/one.py",
    ]
    readme = (target / "README.md").read_text()
    assert all(f"- `{one['what']}`: {one['why']}" in readme for one in answer["left_out"])
    assert (target / "functions/one.py").read_text() == one
    assert "SECRETS: list[str] = ['KEY', 'LOCAL', 'ONE', 'TWO']\n" in (target / "settings.py").read_text()
    again = run_flux(project, "eject", str(target), "--partial")
    assert again.returncode == 2 and "FLX637" in again.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "p"]


LOST = """
import flux.ids
from flux_guest import function, middleware

@middleware
def guard(ctx, call_next):
    return call_next()

@function("GET /lost")
def lost(ctx, input):
    return 1
"""
KEPT = """
from flux_guest import HostCallError, function, middleware

NAMES = ["guard"]

@middleware
def present(ctx, call_next):
    return call_next()

@function("GET /items/{id}")
def item(ctx, input):
    return input

@function("GET /items/secret", middleware=["present", "guard"])
def secret_item(ctx, input):
    return "secret"

@function("GET /admin/rows")
def admin_rows(ctx, input):
    return "secret"

@function("GET /admin/login")
def admin_login(ctx, input):
    return "login"

@function("GET /named", name="other_name")
def named(ctx, input):
    return "secret"

@function("GET /computed", middleware=NAMES)
def computed(ctx, input):
    return "secret"

@function(cron="* * * * *", middleware=["guard"])
def tidy(ctx, input):
    return "secret"

@function
def nightly(ctx, input):
    return 1

@function("POST /starts")
def starts(ctx, input):
    said = []
    for start, name in ((ctx.invoke, "secret_item"), (ctx.queue.push, "tidy"), (ctx.queue.push, "other_name")):
        try:
            start(name)
        except HostCallError as error:
            said.append(error.code)
    return said
"""
LOST_TOML = """
[http]
middleware = ["present"]
[[routes]]
below = "/admin"
middleware = ["guard"]
[functions.admin_login]
without = ["guard"]
[functions."other_name"]
middleware = ["guard"]
[[cron]]
function = "lost"
schedule = "0 3 * * *"
[[cron]]
function = "tidy"
schedule = "0 4 * * *"
[[cron]]
function = "nightly"
schedule = "0 5 * * *"
"""


def test_what_needs_something_that_is_left_out_does_not_run_without_it(shop: Pair, tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    project = write_project(tmp_path / "p", {"lost.py": LOST, "kept.py": KEPT}, toml=LOST_TOML)
    done = run_flux(project, "eject", str(tmp_path / "out"), "--partial", "--json")
    assert done.returncode == 0, done.stderr
    named = [one["what"] for one in json.loads(done.stdout)["left_out"]]
    unguarded = ["admin_rows", "other_name", "secret_item", "tidy"]  # Of "computed" it is known when it is run.
    assert named == ["functions/lost.py", "[[cron]] lost", *(f"the function {name}" for name in unguarded)]
    database = create_database(shop.database.server)
    assert migrate(tmp_path / "out", database).returncode == 0
    with running_application(tmp_path / "out", database) as server:
        for path, status in (
            ("/items/1", 200), ("/items/secret", 501), ("/admin/rows", 501), ("/admin/login", 200), ("/named", 501),
            ("/computed", 501), ("/lost", 404),
        ):  # fmt: skip
            answer = server.request("GET", path)
            assert (answer.status, b'"secret"' in answer.body) == (status, False), path
        assert server.request("POST", "/starts", {}).json == ["FLX570"] * 3
    with running_worker(tmp_path / "out", database) as worker:
        wait_for(database, "select key from background.schedules", "nightly 0 5 * * * UTC", worker)
    guards = tmp_path / "out" / "functions" / "guards.py"
    guards.write_text(LOST.partition("@function")[0].replace("import flux.ids", ""))
    listed = subprocess.run(
        make_command(tmp_path / "out", "module", "server.table"), env=make_environment(database, {}),
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert listed.returncode == 0 and "501" not in listed.stdout and "/items/secret" in listed.stdout, listed


def test_rows_come_over_whole_or_not_at_all(shop: Pair, tmp_path: Path, postgres15: PostgresServer) -> None:
    """Into a database that has had the migrations, and so a row of its own: that has to be said to go."""
    assert shop.flux.request("POST", "/signup", {"email": "ana@shop.example", "plan": "pro"}).status < 300
    assert shop.flux.request("POST", "/orders", {"user_id": 1, "item": "mug", "amount": 2}).status < 300
    assert shop.flux.request("GET", "/sync/over").status == 200
    folder, target = tmp_path / "application", create_database(shop.database.server)
    shutil.copytree(shop.ejected.project, folder)
    assert migrate(folder, target).stdout.splitlines() == ["applied 001.sql", "applied 002_extra.sql"]
    assert migrate(folder, target).stdout == ""
    target.psql(
        "insert into users (id, email, plan) overriding system value values (1, 'other@shop.example', 'free')"
    )
    path = f"{shop.database.server.bin_dir}:{os.environ['PATH']}"
    # Neither server asks for a password; that it is nobody's argument is seen by whom is started.
    script = 'for one in "$@"; do case $one in *hunter2*) exit 66 ;; esac; done\nexec "$REAL/${0##*/}" "$@"\n'
    (tmp_path / "bin").mkdir()
    for name in ("psql", "pg_dump"):
        program = tmp_path / "bin" / name
        program.write_text(f'#!/bin/sh\n[ "$PGPASSWORD" = "hunter2 @" ] || exit 67\n{script}')
        program.chmod(0o755)

    def with_password(database: Database) -> str:
        return database_url(database).replace("@/", ":hunter2%20%40@/")

    target.psql(
        "create function spoil() returns trigger language plpgsql as $$ begin "
        "insert into effects values ('spoiled', ''); new.text = 'spoiled'; return new; end $$; "
        "create trigger spoils before insert on notes for each row execute function spoil()"
    )
    older = create_database(postgres15)
    assert migrate(folder, older).returncode == 0

    def copy(*arguments: str, to: Database = target) -> subprocess.CompletedProcess[str]:
        environ = make_environment(
            to,
            {
                "PATH": f"{tmp_path}/bin:{path}",
                "REAL": str(shop.database.server.bin_dir),
                "DATABASE_URL": with_password(to),
                "SOURCE_URL": with_password(shop.flux_database),
            },
        )
        return subprocess.run(
            [str(folder / "copy_data.sh"), *arguments],
            env=environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    assert copy().returncode != 0
    assert target.psql("select email from users") == "other@shop.example"
    assert copy("--repalce").returncode == 2
    told = copy("host=/nowhere password=hunter2")
    assert (
        told.returncode == 1 and "begins with postgresql://" in told.stderr and "hunter2" not in told.stderr
    )
    for to in (target, older):  # Of which one does not know a setting that pg_dump writes.
        done = copy("--replace", to=to)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for sql in (
        "select * from users order by id",
        "select * from orders order by id",
        "select * from notes order by id",
        "select last_value from notes_id_seq",
        "select n from counter",
    ):
        assert target.psql(sql) == older.psql(sql) == shop.flux_database.psql(sql) != ""
    triggers = "select tgname, tgenabled from pg_trigger where not tgisinternal"
    assert (target.psql(triggers), older.psql(triggers)) == ("spoils|O", "")
    (folder / "migrations" / "002_extra.sql").write_text("select 1;")
    changed = migrate(folder, target)
    assert changed.returncode == 1 and "002_extra.sql was changed" in changed.stderr
    shutil.copyfile(shop.ejected.project / "migrations" / "002_extra.sql", folder / "migrations" / "002_extra.sql")
    # As pg_dump writes them, and as editors save them: Flux applies them, each in a session as it begins.
    awkward = {
        "003_set.sql": "select set_config('search_path', '', false); create table public.one (n int); "
        "set role pg_monitor; set default_transaction_read_only = on;",
        "004_bom.sql": "\ufeffcreate table two (n int);",
        "005_as.sql": "create schema aside; set search_path = aside; create table three (n int); "
        "set check_function_bodies = no",
        "006_last.sql": "create table four as select current_user::text, current_setting('check_function_bodies')",
    }
    for name, sql in awkward.items():
        (folder / "migrations" / name).write_text(sql, encoding="utf-8")
    done = migrate(folder, target)
    assert (done.returncode, done.stdout.splitlines()) == (0, [f"applied {name}" for name in awkward]), done.stderr
    assert migrate(folder, target).stdout == ""
    assert target.psql("select * from four") == f"{target.server.user}|on"
    made = "select string_agg(oid::regclass::text, ' ' order by relname) from pg_class where relname in {}"
    assert target.psql(made.format("('one', 'two', 'three', 'four')")) == "four one aside.three two"
    assert target.psql("select count(*), max(number) from background.migrations") == "6|6"
    for name, why in (("002_twice.sql", "the same number"), ("unnumbered.sql", "has no number")):
        wrong = folder / "migrations" / name
        wrong.write_text("select 1;")
        assert why in migrate(folder, target).stderr
        wrong.unlink()
    assert "usage:" in migrate(folder, target, "--aplied").stderr


OF_FLUX = "create schema flux; create table flux.job (id uuid);"
OF_APPLICATION = "create schema background; create table background.migrations (number bigint);"
"""What `copy_data.sh` knows the two kinds of databases by."""
CIRCLE = """
create table team (id int primary key, lead int not null);
create table player (id int primary key, team int not null references team, friend int references player);
alter table team add constraint leads foreign key (lead) references player on delete cascade;
create table prize (id int, team int references team deferrable) partition by list (id);
create table prize_1 partition of prize for values in (1);
alter table team add column prize int, add unique (prize);
alter table prize add foreign key (team) references team (prize) not valid;
create table fan (player int references player not enforced);
create function spoil() returns trigger language plpgsql as $$ begin new.friend = null; return new; end $$;
create trigger spoils before insert on player for each row execute function spoil();
alter table player enable always trigger spoils;
"""
KEYS = """
select conrelid::regclass, conname, condeferrable, condeferred, convalidated, pg_get_constraintdef(oid)
from pg_constraint where contype = 'f' order by 1, 2
"""


def test_rows_of_tables_that_refer_to_each_other_in_a_circle_come_over(shop: Pair) -> None:
    """By the tables' owner, who is no superuser; and what breaks a foreign key still breaks it."""
    server, role = shop.database.server, "owner_of_a_circle"
    source, target = create_database(server), create_database(server)
    source.psql(f"{OF_FLUX} {CIRCLE}")
    source.psql(
        "alter table player disable trigger spoils; with one as (insert into team values (1, 2, 1), (2, 1, 2)) "
        "insert into player values (1, 1, 2), (2, 2, 1); insert into prize values (1, 2); insert into fan values (9)"
    )
    target.psql(f"{OF_APPLICATION} create role {role} login; grant create on schema public to {role}")
    environ = make_environment(
        target,
        {
            "PATH": f"{server.bin_dir}:{os.environ['PATH']}",
            "DATABASE_URL": url_of(target, role),
            "SOURCE_URL": database_url(source),
        },
    )

    def copy(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(shop.ejected.project / "copy_data.sh"), *arguments], env=environ, capture_output=True, text=True,
            check=False, timeout=120,
        )  # fmt: skip

    try:
        target.psql(f"set role {role}; {CIRCLE}")
        keys = target.psql(KEYS)
        done = copy()
        assert done.returncode == 0 and "ERROR" not in done.stderr, done.stderr
        for sql in ("select * from team", "select * from player", "select * from prize", "select * from fan"):
            assert target.psql(sql) == source.psql(sql) != ""
        assert target.psql(KEYS) == keys and "REFERENCES player(id) NOT ENFORCED" in keys
        assert target.psql("select tgenabled from pg_trigger where tgname = 'spoils'") == "A"
        source.psql("alter table player drop constraint player_team_fkey; update player set team = 9 where id = 1")
        broken = copy("--replace")
        assert broken.returncode != 0 and 'violates foreign key constraint "player_team_fkey"' in broken.stderr
        assert target.psql("select * from player") == "1|1|2\n2|2|1" and target.psql(KEYS) == keys
        source.psql("update player set team = 1 where id = 1; insert into fan values (8)")
        done = copy("--replace")
        assert done.returncode == 0 and target.psql("select * from fan") == "9\n8", done.stderr
        assert target.psql(KEYS) == keys
    finally:
        target.psql(f"drop owned by {role}; drop role {role}")


AWKWARD = """
create table place (id int generated by default as identity primary key, name text);
create table visit (place int references place);
create function nothing() returns trigger language plpgsql as $$ begin return null; end $$;
create view places as select * from place;
create trigger instead instead of insert on places for each row execute function nothing();
create table reading (at int) partition by range (at);
create table reading_1 partition of reading for values from (0) to (10);
create table reading_2 partition of reading for values from (10) to (20);
create trigger silent before insert on reading for each row execute function nothing();
alter table reading_1 disable trigger silent;
alter table only reading_2 enable always trigger silent;
"""
EXTENSION = """
create extension hstore;
create table known (id int primary key);
create table fixed (id int primary key);
insert into known values (1), (9001);
insert into fixed values (1);
alter extension hstore add table known;
alter extension hstore add table fixed;
update pg_extension set extconfig = array['known'::regclass::oid], extcondition = array['where id > 9000']
where extname = 'hstore';
"""
"""As pg_extension_config_dump() does it, which only an extension's own script may call."""


def test_what_is_not_the_dump_s_stays_as_it_was(shop: Pair) -> None:
    """Rows of extensions, and states of triggers; and what is there already is not mixed with what comes."""
    server, role = shop.database.server, "owner_of_places"
    source, target = create_database(server), create_database(server)
    source.psql(OF_FLUX)
    target.psql(f"{OF_APPLICATION} create role {role} login")
    rights = f"grant create on schema public to {role}; grant select, insert, delete on known to {role}"
    for database in (source, target):
        database.psql(f"{EXTENSION} {rights}; set role {role}; {AWKWARD}")
    target.psql("insert into place (name) values ('ours'); insert into known values (9002)")
    source.psql(
        "insert into place values (41, 'SELECT pg_catalog.setval(1);'); select setval('place_id_seq', 50); "
        "alter table reading disable trigger all; insert into reading values (1), (11); "
        "insert into visit values (41); insert into fixed values (2); delete from known where id > 9000; "
        "insert into known values (9003)"
    )
    environ = make_environment(
        target,
        {
            "PATH": f"{server.bin_dir}:{os.environ['PATH']}",
            "DATABASE_URL": url_of(target, role),
            "SOURCE_URL": database_url(source),
        },
    )

    def copy(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(shop.ejected.project / "copy_data.sh"), *arguments], env=environ, capture_output=True, text=True,
            check=False, timeout=120,
        )  # fmt: skip

    def look() -> list[str]:
        return [
            target.psql(sql)
            for sql in (
                "select * from place",
                "select last_value from place_id_seq",
                "select * from reading order by 1",
                "select * from known order by 1",
                "select * from fixed",
                "select tgrelid::regclass, tgname, tgenabled from pg_trigger where not tgisinternal order by 1",
            )
        ]

    try:
        before = look()
        assert before[:5] == ["1|ours", "1", "", "1\n9001\n9002", "1"]
        assert before[5] == "places|instead|O\nreading|silent|O\nreading_1|silent|D\nreading_2|silent|A"
        refused = copy()
        assert refused.returncode != 0 and "public.place has rows already" in refused.stderr, refused.stderr
        target.psql("delete from place")
        refused = copy()
        assert refused.returncode != 0 and "public.known has rows already" in refused.stderr, refused.stderr
        target.psql("insert into place values (1, 'ours')")
        source.psql("alter table visit drop constraint visit_place_fkey; insert into visit values (9)")
        broken = copy("--replace")
        assert broken.returncode != 0 and 'constraint "visit_place_fkey"' in broken.stderr, broken.stderr
        target.psql("create schema kept; create table kept.late partition of reading for values from (20) to (30)")
        elsewhere = copy("--replace")
        assert elsewhere.returncode != 0 and "kept.late" in elsewhere.stderr, elsewhere.stderr
        target.psql("drop schema kept cascade")
        assert look() == before
        source.psql("delete from visit where place = 9")
        done = copy("--replace")
        assert (done.returncode, done.stderr) == (0, "")
        rows = ["41|SELECT pg_catalog.setval(1);", "50", "1\n11", "1\n9003", "1"]
        assert look() == [*rows, before[5]]
    finally:
        for database in (source, target):
            database.psql(f"drop owned by {role}")
        target.psql(f"drop role {role}")


def test_what_would_be_left_behind_or_is_swapped_copies_nothing(shop: Pair) -> None:
    server = shop.database.server
    source, target = create_database(server), create_database(server)
    tables = "create table orders (id int); create schema archive; create table archive.old (id int);"
    source.psql(f"{OF_FLUX} {tables} insert into orders select generate_series(1, 1000)")
    target.psql(f"{tables} insert into orders values (7)")
    rows = "select count(*), min(id), max(id) from orders"

    def refuse(*told: str, swapped: bool = False, more: str = "--replace") -> None:
        urls = [database_url(one) for one in ((source, target) if swapped else (target, source))]
        environ = make_environment(target, {"PATH": f"{server.bin_dir}:{os.environ['PATH']}", "DATABASE_URL": urls[0]})
        done = subprocess.run(
            [str(shop.ejected.project / "copy_data.sh"), *([more] if more else [])],
            env={**environ, "SOURCE_URL": urls[1]}, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 1 and done.stderr.startswith("copy_data.sh: nothing was changed: "), done
        assert all(one in done.stderr for one in told), done.stderr
        assert (source.psql(rows), target.psql(rows)) == ("1000|1|1000", "1|7|7")

    refuse("run migrate.py")
    target.psql(OF_APPLICATION)
    refuse("DATABASE_URL is a database that Flux uses", "swapped", swapped=True)
    source.psql("alter table flux.job rename to jobs")
    refuse("SOURCE_URL is not a database that Flux used")
    source.psql("alter table flux.jobs rename to job; insert into archive.old values (1)")
    refuse("at SOURCE_URL these tables have rows", "\narchive.old\n")
    # Of an extension's tables, those rows that it says are the project's.
    source.psql(
        f"delete from archive.old; {EXTENSION} create schema ext; alter table fixed set schema ext; "
        "alter table known set schema ext"
    )
    refuse("\next.known\n")
    source.psql("delete from ext.known where id > 9000; select lo_from_bytea(0, 'kept')")
    refuse("large objects (1)", "bytea")
    parts = "create table ev (at int) partition by range (at); create table archive.ev1 partition of ev default;"
    for database, name in ((target, "DATABASE_URL"), (source, "SOURCE_URL")):
        database.psql(parts)
        refuse(f"at {name} public.ev has the partition archive.ev1", more="")
        database.psql("drop table ev")
        source.psql("select lo_unlink(oid) from pg_largeobject_metadata")
    source.psql("create role no_reader login")
    refused = subprocess.run(
        [str(shop.ejected.project / "copy_data.sh"), "--replace"],
        env=make_environment(target, {
            "PATH": f"{server.bin_dir}:{os.environ['PATH']}", "SOURCE_URL": url_of(source, "no_reader"),
        }),
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    source.psql("drop role no_reader")
    assert refused.returncode != 0 and "permission denied for schema archive" in refused.stderr, refused
    assert target.psql(rows) == "1|7|7"


def test_role_sql_grants_all_or_nothing_and_no_table_of_an_extension(shop: Pair) -> None:
    database = create_database(shop.database.server)
    owner, role = f"owner_{database.name}", f"plain_{database.name}"
    database.psql(
        f"create role {owner} login; create role {role} login; {EXTENSION} "
        f"grant create, usage on schema public to {owner} with grant option; "
        f"create schema background authorization {owner}; set role {owner}; {OF_APPLICATION.partition(';')[2]} "
        "create table mine (id serial); create view mines as select * from mine"
    )
    rights = (
        f"select string_agg(relname || ' ' || has_table_privilege('{role}', oid, 'insert'), ', ' order by relname) "
        "from pg_class where relname in ('mine', 'mines', 'known', 'migrations')"
    )
    try:
        database.psql("create table stranger (id int)")
        refused = run_role_sql(shop.ejected.project, database, role, owner)
        assert refused.returncode == 3 and "permission denied for table stranger" in refused.stderr, refused
        assert database.psql(f"select has_schema_privilege('{role}', 'background', 'usage')") == "f"
        database.psql("drop table stranger")
        done = run_role_sql(shop.ejected.project, database, role, owner)
        assert (done.returncode, done.stderr) == (0, "")
        assert database.psql(rights) == "known false, migrations false, mine true, mines true"
        database.psql(f"set role {role}; insert into mine default values; select * from background.migrations")
        database.psql(f"set role {owner}; create table later (id serial)")
        database.psql(f"set role {role}; insert into later default values")
    finally:
        database.psql(f"drop owned by {role}, {owner}; drop role {role}, {owner}")


def test_jobs_that_wait_are_moved_once_each(shop: Pair, tmp_path: Path) -> None:
    """Out of a copy of Flux's database, as if Flux had been stopped then; and the first try breaks off half-way."""
    for body in (
        {"function": "work", "payload": {"name": "ä first"}, "key": "of the first"},
        {"function": "work", "payload": {"name": "cut"}},
        {"function": "doubled", "payload": "is not run"},
        {"function": "work", "payload": {"name": "the key that is known"}},
        {"function": "refuses", "payload": None},
    ):
        assert shop.flux.request("POST", "/later", body).status == 204
    source, target = create_database(shop.database.server), create_database(shop.database.server)
    folder = tmp_path / "application"
    shutil.copytree(shop.ejected.project, folder)
    extra = folder / "functions" / "extra.py"
    extra.write_text(extra.read_text().replace("async def refuses(", "async def declines("))
    binaries = shop.database.server.bin_dir
    dump = subprocess.run(
        [f"{binaries}/pg_dump", database_url(shop.flux_database)], capture_output=True, check=True, timeout=60
    )
    quietly = [
        f"{binaries}/psql",
        "-X",
        "-q",
        "-o",
        os.devnull,
        "-v",
        "ON_ERROR_STOP=1",
        database_url(source),
    ]
    subprocess.run(quietly, input=dump.stdout, check=True, timeout=60)
    source.psql(
        "delete from flux.job where run_at < now() + interval '30 min'; "  # Other tests'.
        "update flux.job set state = 'running', worker = gen_random_uuid(), attempt = 1 where payload like '%cut%'; "
        "update flux.job set state = 'dead', failures = 1, error = 'E: it is', ended_at = now() "
        "where function = 'doubled'; insert into flux.cron_pause (tenant, function) values ('main', 'nightly'); "
        "update flux.queue_worker set lease_until = now() + interval '1 h'"
    )

    def move(**more: str) -> tuple[int, list[str]]:
        environ = make_environment(target, {"SOURCE_URL": database_url(source), **more})
        done = subprocess.run(
            make_command(folder, "path", str(folder / "move_jobs.py")), env=environ, capture_output=True, text=True,
            check=False, timeout=60,
        )  # fmt: skip
        return done.returncode, [*done.stdout.splitlines(), *done.stderr.splitlines()[-1:]]

    code, said = move()
    assert code == 1 and "run migrate.py first" in said[0]
    assert migrate(folder, target).returncode == 0
    code, said = move()
    assert code == 1 and said[0].startswith("Flux still takes jobs of main (")
    source.psql("update flux.queue_worker set lease_until = now() - interval '1 s'")
    code, said = move(TENANT="another")
    assert code == 1 and said == ["Flux had the tenants main there: say whose jobs are meant, by TENANT=..."]
    source.psql("alter table flux.job add constraint broken check (error not like 'moved%')")
    assert move()[0] == 1
    here = "select count(*), count(distinct id) from background.jobs"
    assert (
        target.psql(here) == "3|3"
        and source.psql("select count(*) from flux.job where state = 'waiting'") == "3"
    )
    source.psql("alter table flux.job drop constraint broken")
    code, said = move()
    assert code == 1 and said[0] == "moved 2 jobs of the tenant main", said
    assert ["a secret's value" in said[1], "no function refuses here" in said[2]] == [True, True], said
    ids = "select string_agg(id::text, ',' order by id) from "
    assert target.psql(f"{ids} background.jobs") == source.psql(f"{ids} flux.job where error is not null")
    assert move() == (1, ["moved 0 jobs of the tenant main", *said[1:]]) and target.psql(here) == "3|3"
    assert source.psql("select state, count(*) from flux.job group by 1 order by 1") == "dead|3\nwaiting|2"
    # A key that another job has here: the one there is not run here, so it is not marked as moved.
    target.psql("insert into background.jobs (function, payload, idempotency) values ('work', '{}', 'taken')")
    source.psql(
        "insert into flux.job (id, tenant, function, payload, run_at, idempotency) "
        "values (gen_random_uuid(), 'main', 'work', '{}', now(), 'taken')"
    )
    taken = source.psql("select id from flux.job where idempotency = 'taken'")
    code, told = move()
    reason = f"1 stay with Flux: another job of the same function and idempotency key is here: {taken}"
    assert (code, told[0]) == (1, "moved 0 jobs of the tenant main") and reason in told, told
    assert source.psql("select state from flux.job where idempotency = 'taken'") == "waiting"
    target.psql("delete from background.jobs where idempotency = 'taken'")
    source.psql("delete from flux.job where idempotency = 'taken'")
    jobs = target.psql(
        "select function, state, attempt, failures, lost, due_at > now() + interval '50 min', "
        "idempotency = sha256('of the first') from background.jobs order by id"
    )
    assert jobs.splitlines() == ["work|waiting|0|0|0|t|t", "work|waiting|1|0|1|t|", "doubled|dead|0|1|0|t|"]
    schedules = target.psql("select key, decided_until at time zone 'UTC', paused from background.schedules")
    since = source.psql("select since at time zone 'UTC' from flux.cron_schedule")
    assert schedules == f"nightly 0 3 * * * UTC|{since}|t"
    target.psql(
        "update background.jobs set due_at = now(); "
        "update background.schedules set decided_until = decided_until - interval '25 h'; "
        "alter sequence tries restart 7"
    )
    with running_worker(folder, target) as worker:
        wait_for(target, "select count(*) from background.jobs where state = 'done'", "2", worker)
        wait_for(
            target, "select decided_until > now() - interval '1 h' from background.schedules", "t", worker
        )
    assert target.psql('select name from effects order by name collate "C"').splitlines() == [
        "cut",
        "ä first",
    ]
    # The database itself can be kept instead, and Flux be taken out of it.
    assert migrate(folder, source, "--applied").returncode == 0
    source.psql("update flux.job set state = 'waiting', error = null where error like 'moved%'")
    code, said = move(DATABASE_URL=database_url(source))
    assert code == 1 and said[0] == "moved 2 jobs of the tenant main", said
    source.psql(
        "drop schema flux, flux_views, flux_world cascade; insert into notes (text) values ('without Flux')"
    )
    assert source.psql("select count(*) from background.jobs where state = 'waiting'") == "2"
    assert source.psql("select count(*) from pg_trigger where not tgisinternal") == "0"


def test_what_is_written_is_clean_python(conduit: Pair, tmp_path: Path) -> None:
    """Of the types, too: that of what the templates and Flux's own modules hand each other is checked nowhere else."""
    folder = conduit.ejected.project
    rules = ["--select", "E,F,W,B,UP,PIE,C4,ASYNC,RET", "--line-length", "120", "--target-version", "py311"]
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", *rules, str(folder)], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    rules = "[mypy]\nstrict = True\nexplicit_package_bases = True\n[mypy-asyncpg.*]\nignore_missing_imports = True\n"
    (tmp_path / "mypy.ini").write_text(rules)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", f"--config-file={tmp_path}/mypy.ini", f"--cache-dir={tmp_path}/cache",
         "main.py", "worker.py", "migrate.py", "move_jobs.py", "settings.py", "server"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
