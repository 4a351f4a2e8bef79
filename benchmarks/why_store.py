"""How long questions take in a store of a million executions.

    python benchmarks/why_store.py [--quick] [--executions 1000000] [--mutations 2] [--asked 60] [--explain MS]

A small project is served and asked some hundred times, so that there are real records of nine kinds of
request, six of them failures. SQL then copies their rows over thirty days of partitions, each copy with an
id, a name, a time and, where it wrote, a transaction of its own, and row changes to go with it (so many for each
that wrote). In between, failures to be asked for are stored whole: decoded, given their new id and time, and
encoded again. After ``vacuum analyze``, as autovacuum would have done by then, ``flux dev`` serves
that database and its console's API is asked over one kept connection, the questions in turn: median, 95th
percentile and the longest. The target is a p95 of 200 ms for ``why``.

With ``--explain`` the server's log of plans that took so many milliseconds is printed at the end.
"""

import argparse
import hashlib
import http.client
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote

import attrs
import trio

from benchmarks.figures import get_percentile, print_machine, print_table
from benchmarks.sides import create_database
from flux import codec, ids
from flux.execution import Execution
from flux.store.postgres import Connection, connect
from flux.store.records import RecordStore
from tests.conftest import Database
from tests.dev_process import DevServer, running_dev, write_project
from tests.postgres_server import running_postgres

DAYS = 30
ACCOUNTS = 20_000
XID_BASE = 10_000_000
"""Copies have transaction ids from here on, in the order of their times."""
SHAS = 5
"""Commits that were served in these days, one after the other."""
SCHEMA = f"""
create table accounts (
    id int primary key, owner text not null, limit_id int, amount numeric not null check (amount >= 0)
);
insert into accounts
    select i, 'owner' || i, case when i % 10 > 0 then i end, 1000 from generate_series(1, {ACCOUNTS}) i;
create table members (id bigint generated always as identity primary key, email text not null unique);
"""
FUNCTIONS = """\
from flux_guest import Context, function


@function("GET /accounts/{id}")
async def get_account(ctx: Context, input: dict) -> dict:
    account = await ctx.db.query_one("select id, owner, amount from accounts where id = $1", int(input["id"]))
    return {"owner": account["owner"], "amount": account["amount"]}


@function("POST /limit")
async def get_limit(ctx: Context, input: dict) -> dict:
    account = await ctx.db.query_one("select id, limit_id from accounts where id = $1", input["id"])
    ctx.log.info("limit looked up", account=input["id"])
    return {"double": account["limit_id"] * 2}


@function("POST /transfer")
async def transfer(ctx: Context, input: dict) -> dict:
    await ctx.db.query("select id, amount from accounts where id = $1", input["source"])
    await ctx.db.execute("update accounts set amount = amount + $1 where id = $2", input["amount"], input["target"])
    await ctx.db.execute("update accounts set amount = amount - $1 where id = $2", input["amount"], input["source"])
    return {"moved": input["amount"]}


@function("POST /members")
async def add_member(ctx: Context, input: dict) -> dict:
    member = await ctx.db.query_one("insert into members (email) values ($1) returning id", input["email"])
    return {"id": member["id"], "plan": input["plan"]}


@function("POST /charge")
async def charge(ctx: Context, input: dict) -> dict:
    await ctx.db.query("select id, owner from accounts where id = $1", input["id"])
    answer = await ctx.http.post("http://127.0.0.1:9/v1/charges", json={"amount": input["amount"]})
    return {"status": answer.status}
"""


def make_requests(number: int) -> list[tuple[str, str, object]]:
    """Return one request of each kind; the last six fail."""
    account = number * 10 + 1  # Not a tenth one: those have no limit.
    return [
        ("GET", f"/accounts/{account}", None),
        ("POST", "/transfer", {"source": account, "target": account + 1, "amount": 5}),
        ("POST", "/members", {"email": f"m{number}@example.com", "plan": "free"}),
        ("GET", f"/accounts/{ACCOUNTS + number + 1}", None),  # TypeError: there is no such row.
        ("POST", "/limit", {"id": account + 9}),  # TypeError: a null that somebody wrote.
        ("POST", "/transfer", {"source": account, "target": account + 1, "amount": 5000}),  # Check violation.
        ("POST", "/members", {"email": f"m{number}@example.com", "plan": "free"}),  # Unique violation.
        (
            "POST",
            "/members",
            {"email": f"n{number}@example.com"},
        ),  # KeyError, and a row that was rolled back.
        ("POST", "/charge", {"id": account, "amount": 1}),  # Nobody listens there.
    ]


KINDS = 9
FAILING = 6
KIND_OF_COPY = [0] * 60 + [1] * 25 + [2] * 11 + [3, 4, 5, 6, 7, 8] * 2
"""Which kind of request every copy is of, in turn: about one in ten fails, as in a bad week."""
REPETITIONS = 20
"""Real requests of each kind."""


@attrs.frozen
class Filled:
    """A store to be asked, and what there is in it."""

    failures: tuple[str, ...]
    """Ids of the failures that were stored whole."""
    others: tuple[str, ...]
    """Ids of some copies."""
    names: tuple[str, ...]
    """Their names."""


async def fill(database: Database, executions: int, mutations: int, asked: int) -> Filled:
    """Multiply what is in the store."""
    connection = await connect(database.options())
    try:
        began = datetime.now(UTC) - timedelta(days=DAYS)
        await _make_partitions(connection, began)
        await _copy_executions(connection, executions, began)
        await _add_mutations(connection, executions, mutations, began)
        failures = await _store_failures(database, connection, executions, asked, began)
        await connection.run("vacuum analyze", [])
        wanted = "select id::text, name from flux.execution where random() < $1::float8 limit $2"
        rows = await connection.fetch(wanted, min(1.0, 20 * asked / executions), asked)
    finally:
        await connection.aclose()
    return Filled(failures, tuple(row[0] for row in rows), tuple(row[1] for row in rows))


async def _make_partitions(connection: Connection, began: datetime) -> None:
    for day in range(DAYS + 1):
        for parent in ("execution", "mutation"):
            date = (began + timedelta(days=day)).date()
            await connection.fetch_value("select flux.ensure_partition($1, $2)", parent, date)


_TEMPLATES = f"""
create temp table template as
select row_number() over (partition by kind order by id) - 1 as place, *
from (select (row_number() over (order by id) - 1) % {KINDS} as kind, e.* from flux.execution e) k
"""
_TURNS = """
create temp table turn as
select u.place - 1 as place, u.kind from unnest($1::int[]) with ordinality u (kind, place)
"""
_DEPLOYMENTS = f"""
insert into flux.deployment (id, tenant, sha, dirty, artifact_hash, functions, created_at, activated_at)
select 'd' || n, 'default', md5('commit' || n), false, 'd' || n, '[]', a.moment, a.moment
from generate_series(0, {SHAS - 1}) n,
     lateral (select $1::timestamptz + interval '{DAYS} days' * n / {SHAS} as moment) a
"""
# $1 is the beginning, $2 how many copies there will be, $3 and $4 the first and the last of this statement. Which
# kind of record a copy is of, its turn says.
_COPIES = f"""
from generate_series($3::int, $4::int) i
cross join lateral (
    select $1::timestamptz + interval '{DAYS} days' * (i::float8 / $2::int) as moment,
           md5(i::text || $1::text) as digest
) a
join turn on turn.place = i % {len(KIND_OF_COPY)}
"""
_OWN_COLUMNS = {
    "id": "(lpad(to_hex((extract(epoch from a.moment) * 1000)::bigint), 12, '0') || '7' || substr(a.digest, 1, 3) "
    "|| '8' || substr(a.digest, 4, 15))::uuid",
    "name": "translate(substr(a.digest, 20, 8), '0123456789abcdef', 'ghjkmnpqrstvwxyz')",
    "started_at": "a.moment",
    "sha": f"md5('commit' || (i::bigint * {SHAS} / ($2 + 1)))",
    "dirty": "false",
    "deployment": f"'d' || (i::bigint * {SHAS} / ($2 + 1))",
    "xid": f"case when t.xid is not null then ({XID_BASE} + i)::text::xid8 end",
}
"""Of a copy; all others are its template's."""
_MUTATIONS = f"""
insert into flux.mutation (at, xid, ordinal, relid, schema_name, table_name, op, depth, key, before, after)
select a.moment, ({XID_BASE} + i)::text::xid8, n, 'accounts'::regclass::oid, 'public', 'accounts', 'U', 1,
       '{{"id":' || k.account || '}}',
       json_build_object('id', k.account, 'owner', 'owner' || k.account, 'limit_id', 7, 'amount', 1000 + i % 90),
       json_build_object('id', k.account, 'owner', 'owner' || k.account, 'limit_id', 7, 'amount', 1005 + i % 90)
{_COPIES} and turn.kind in (1, 2)
cross join generate_series(1, $5::int) n
cross join lateral (select 1 + (i::bigint * 7919 + n * 13) % {ACCOUNTS} as account) k
"""


async def _copy_executions(connection: Connection, executions: int, began: datetime) -> None:
    await connection.run(_TEMPLATES, [])
    await connection.run(_TURNS, [KIND_OF_COPY])
    await connection.run(_DEPLOYMENTS, [began])
    columns = await connection.fetch(
        "select attname::text from pg_attribute where attrelid = 'flux.execution'::regclass and attnum > 0"
    )
    names = [str(row[0]) for row in columns]
    copy = f"""
        insert into flux.execution ({", ".join(names)})
        select {", ".join(_OWN_COLUMNS.get(name, f"t.{name}") for name in names)}
        {_COPIES}
        join template t on t.kind = turn.kind and t.place = (i / {len(KIND_OF_COPY)}) % {REPETITIONS}
        order by i
    """
    for first, last in _days(executions):
        await connection.run(copy, [began, executions, first, last])


def _days(executions: int) -> list[tuple[int, int]]:
    """Return the first and the last copy of each day."""
    bounds = [executions * day // DAYS for day in range(DAYS + 1)]
    return [(low + 1, high) for low, high in pairwise(bounds)]


async def _add_mutations(connection: Connection, executions: int, each: int, began: datetime) -> None:
    for first, last in _days(executions):
        await connection.run(_MUTATIONS, [began, executions, first, last, each])


async def _store_failures(
    database: Database, connection: Connection, executions: int, asked: int, began: datetime
) -> tuple[str, ...]:
    templates = await connection.fetch(
        f"select format, body from template where kind >= {KINDS - FAILING} order by place, kind"
    )
    stored = []
    pool = database.pool(2)
    try:
        store = RecordStore(pool)
        for number in range(asked):
            template = templates[number % len(templates)]
            execution = codec.decode_execution(template["body"], template["format"], lambda _digest: None)
            share = (number + 0.5) / asked
            execution = move(execution, began + timedelta(days=DAYS * share), int(executions * share), share)
            await store.add(execution)
            stored.append(str(execution.id))
    finally:
        await pool.aclose()
    return tuple(stored)


def move(execution: Execution, at: datetime, place: int, share: float) -> Execution:
    """Return ``execution`` as it would have been at another time."""
    at_ns = int(at.timestamp() * 1_000_000) * 1000
    xid = XID_BASE + place
    commit = int(share * SHAS)
    sha = hashlib.md5(f"commit{commit}".encode()).hexdigest()
    return attrs.evolve(
        execution,
        id=ids.make_execution_id(at_ns // 1_000_000, random.randbytes(ids.ENTROPY_BYTES)),
        started_at_ns=at_ns,
        sha=sha,
        dirty=False,
        deployment=f"d{commit}",
        transactions=tuple(attrs.evolve(each, snapshot=f"{xid}:{xid}:") for each in execution.transactions),
    )


class Console:
    """The API over one kept connection."""

    def __init__(self, server: DevServer) -> None:
        known = json.loads((server.project / ".flux" / "dev.json").read_text())
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
        self._headers = {"authorization": f"Bearer {known['token']}"}

    def ask_ms(self, path: str) -> float:
        """Ask one question; return how long the whole answer took."""
        began = time.perf_counter()
        self._connection.request("GET", f"/_flux/api/{path}", headers=self._headers)
        response = self._connection.getresponse()
        body = response.read()
        elapsed_ms = (time.perf_counter() - began) * 1000
        if response.status != 200:
            raise RuntimeError(f"{path} was answered with {response.status}: {body[:500]!r}")
        return elapsed_ms


def make_questions(filled: Filled) -> dict[str, Callable[[int], str]]:
    """Return the questions: each gives the path of its n-th asking."""

    def any_of(texts: tuple[str, ...], pattern: str) -> Callable[[int], str]:
        return lambda number: pattern.format(texts[number % len(texts)])

    def listing(filter_: str) -> Callable[[int], str]:
        return lambda _number: f"executions?q={quote(filter_)}"

    return {
        "why of a failure": any_of(filled.failures, "executions/{}/why"),
        "why of any execution": any_of(filled.others, "executions/{}/why"),
        "why by seven letters of the name": lambda n: f"executions/{filled.names[n % len(filled.names)][:7]}/why",
        "why @last-error": lambda _number: "executions/@last-error/why",
        "trace": any_of(filled.failures, "executions/{}"),
        "list": lambda _number: "executions",
        "list, page from the middle": any_of(filled.others, "executions?before={}"),
        "list status:>=500": listing("status:>=500"),
        "list route:/charge": listing("route:/charge"),
        "list route:/accounts/7": listing("route:/accounts/7"),
        "list route:/nowhere (finds nothing)": listing("route:/nowhere"),
        "list status:409 (finds nothing)": listing("status:409"),
        "list error:unique": listing("error:unique"),
        "list error:nowhere (finds nothing)": listing("error:nowhere"),
        "list function:transfer status:>=500": listing("function:transfer status:>=500"),
        "list trigger:cron (finds nothing)": listing("trigger:cron"),
        "list since:1h": listing("since:1h"),
        "tail, the last hour": lambda _number: "tail?follow=0&since=1h",
        "logs of one function, latest": lambda _number: "logs?function=get_limit",
        "errors, a day": lambda _number: "errors?since=24h",
        "errors, 30 days": lambda _number: "errors?since=30d",
        "state history": lambda number: f"state/history?table=accounts&key={1 + number * 7919 % ACCOUNTS}",
        "functions": lambda _number: "functions",
    }  # fmt: skip


def measure(project: Path, database: Database, filled: Filled, asked: int) -> list[tuple[str, list[float]]]:
    """Ask all questions, in turn."""
    with running_dev(project, database) as server:
        console = Console(server)
        found: dict[str, list[float]] = {name: [] for name in make_questions(filled)}
        for number in range(-1, asked):
            for name, path in make_questions(filled).items():
                elapsed_ms = console.ask_ms(path(max(number, 0)))
                if number >= 0:  # Once beforehand: connections are opened.
                    found[name].append(elapsed_ms)
    return list(found.items())


def main() -> None:
    """Fill, ask and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="50,000 executions, 15 askings")
    parser.add_argument("--executions", type=int, default=1_000_000)
    parser.add_argument(
        "--mutations", type=int, default=2, help="row changes of each execution that wrote (default 2)"
    )
    parser.add_argument("--asked", type=int, default=60, help="how often each question is asked (default 60)")
    parser.add_argument("--explain", type=int, metavar="MS", help="print plans that took longer")
    options = parser.parse_args()
    executions, asked = (50_000, 15) if options.quick else (options.executions, options.asked)
    settings = ["shared_buffers=512MB", "work_mem=16MB", "maintenance_work_mem=256MB", "max_wal_size=8GB"]
    if options.explain is not None:
        settings += [
            "session_preload_libraries=auto_explain", f"auto_explain.log_min_duration={options.explain}",
            "auto_explain.log_analyze=on", "auto_explain.log_buffers=on", "auto_explain.log_timing=off",
            "log_min_messages=log",
        ]  # fmt: skip
    print_machine()
    random.seed(1)
    with (
        tempfile.TemporaryDirectory(prefix="fluxbench") as folder,
        running_postgres(extra_settings=settings, on_disk=True) as server,
    ):
        database = create_database(server, "why_store")
        project = write_project(
            Path(folder), {"service.py": FUNCTIONS}, toml='[http]\nallow = ["127.0.0.1:9"]\n',
            migrations={"001.sql": SCHEMA},
        )  # fmt: skip
        with running_dev(project, database) as flux:
            for number in range(REPETITIONS):
                for request in make_requests(number):
                    flux.request(*request)
        began = time.monotonic()
        filled = trio.run(fill, database, executions, options.mutations, asked)
        filled_s = time.monotonic() - began
        database.psql("checkpoint")
        log_before = server.log_path.stat().st_size
        size = database.psql(
            "select count(*), (select count(*) from flux.mutation), "
            "pg_size_pretty(pg_database_size(current_database())) from flux.execution"
        ).split("|")
        print(
            f"{int(size[0]):,} executions, {int(size[1]):,} row changes, {size[2]}; made in {filled_s:.0f} s\n"
        )
        rows = measure(project, database, filled, asked)
        print_table(
            ("question", "median ms", "p95 ms", "longest ms"),
            [
                (
                    name,
                    f"{statistics.median(figures):.1f}",
                    f"{get_percentile(figures, 95):.1f}",
                    f"{max(figures):.1f}",
                )
                for name, figures in rows
            ],
        )
        if options.explain is not None:
            with server.log_path.open("rb") as log:
                log.seek(log_before)
                print(log.read().decode(errors="replace"))


if __name__ == "__main__":
    main()
