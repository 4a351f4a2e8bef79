"""Rows through time in a log of ten million changes, and what a change and a record take on the disk.

    python benchmarks/history.py [--quick] [--mutations 10000000] [--versions 20] [--asked 300] [--records 20000]

A table is changed by real statements, some thousand rows each, so that the capture's own triggers write the log: each
row gets so many versions. A second table of ten thousand rows has a hundredth of its rows changed after the moment that
is asked for. The log is marked after each version, as servers do each ten seconds. After ``vacuum analyze``, as
autovacuum would have done by then, random rows are asked for, the questions in turn: every version, who wrote each
value, the row at a snapshot and at a time in the middle of the log, and a small table whole. What is timed is what the
server does, without HTTP and without the command line.

Sizes are those of the tables with their indexes. The record is one of an HTTP request with five calls, two of them
statements, stored as a server's batches store it.
"""

import argparse
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from datetime import datetime

import attrs
import trio

from benchmarks.figures import get_percentile, print_machine, print_table
from flux import values
from flux.hostcall import HostCall, HostCallRequest, HostCallResult, Position
from flux.store.migrate import prepare
from flux.store.moments import Moment, add_mark
from flux.store.postgres import Connection, Pool
from flux.store.records import COLUMNS, make_record
from flux.store.row_blame import find_blame
from flux.store.row_states import find_state
from flux.store.row_versions import list_row_history
from tests.conftest import Database, create_database
from tests.postgres_server import running_postgres
from tests.stored_executions import make_execution

STATEMENT_ROWS = 20_000
"""Rows that one statement changes."""
SMALL_ROWS = 10_000


async def write_log(pool: Pool, connection: Connection, mutations: int, versions: int) -> tuple[str, datetime]:
    """Change rows until the log has so many changes; return a snapshot and a time in the middle of it."""
    rows = mutations // versions
    await connection.execute(
        "create table public.accounts (id int primary key, owner text not null, amount numeric not null, note text)"
    )
    await connection.execute("create table public.small (id int primary key, amount int not null)")
    await connection.execute(f"insert into public.small select i, i from generate_series(1, {SMALL_ROWS}) i")
    middle: tuple[str, datetime] | None = None
    for version in range(versions):
        if version == versions // 2:
            row = await connection.fetch_row("select pg_current_snapshot()::text, clock_timestamp()")
            assert row is not None, "it selects functions"
            middle = row[0], row[1]
            await connection.execute("update public.small set amount = amount + 1 where id % 100 = 0")
        for low in range(1, rows + 1, STATEMENT_ROWS):
            high = min(rows, low + STATEMENT_ROWS - 1)
            await connection.execute(
                "insert into public.accounts select i, 'owner ' || i, i, null "
                f"from generate_series({low}, {high}) i"
                if version == 0
                else f"update public.accounts set amount = amount + 1 where id between {low} and {high}"
            )
        await add_mark(pool)
    assert middle is not None, "there are two versions at least"
    return middle


def make_call(seq: int, name: str, arguments: object, answer: object) -> HostCall:
    request = HostCallRequest(
        seq, name, values.encode_canonical(arguments), 0, Position("functions/orders.py", seq, "f")
    )
    return HostCall(request, HostCallResult(values.encode(answer), None, 900_000, 1), seq * 1_000_000, seq)


async def write_records(pool: Pool, count: int) -> None:
    """Store records as the batches of a server do."""
    chance = random.Random(1)
    for start in range(0, count, 500):
        records = []
        for _ in range(min(500, count - start)):
            number = chance.randrange(10**6)
            row = [[number, f"owner {number}", f"{number}.50"]]
            calls = (
                make_call(1, "clock.now", [], number),
                make_call(2, "db.query", ["select id, owner, amount from accounts where id = $1", [number]],
                          {"columns": ["id", "owner", "amount"], "types": ["int4", "text", "numeric"], "rows": row,
                           "tag": "SELECT 1"}),
                make_call(3, "http.request", ["POST", f"https://api.example.com/v1/charges/{number}", {"body": "{}"}],
                          {"status": 200, "headers": [["content-type", "application/json"]], "body": '{"ok": true}',
                           "url": f"https://api.example.com/v1/charges/{number}", "redirects": []}),
                make_call(4, "db.execute", ["update accounts set amount = $2 where id = $1", [number, "1.50"]],
                          {"affected": 1, "tag": "UPDATE 1"}),
                make_call(5, "log", ["info", "charged", {"account": number}], None),
            )  # fmt: skip
            records.append(make_record(make_execution(calls=calls)).values)
        async with pool.acquire() as connection:
            await connection.copy_records("execution", COLUMNS, records, schema="flux")


async def time_questions(
    pool: Pool, rows: int, asked: int, snapshot: str, at: datetime
) -> dict[str, list[float]]:
    """Ask for random rows, the questions in turn; return the milliseconds of each."""
    chance = random.Random(7)
    questions: dict[str, Callable[[str], Awaitable[object]]] = {
        "state history": lambda key: list_row_history(pool, "public", "accounts", key),
        "state blame": lambda key: find_blame(pool, "public", "accounts", key),
        "state at a snapshot": lambda key: find_state(pool, "public", "accounts", key, Moment(snapshot=snapshot), 1),
        "state at a time": lambda key: find_state(pool, "public", "accounts", key, Moment(time=at), 1),
        f"state at, {SMALL_ROWS:,} rows": lambda _key: find_state(
            pool, "public", "small", None, Moment(snapshot=snapshot), SMALL_ROWS
        ),
    }
    times: dict[str, list[float]] = {name: [] for name in questions}
    for number in range(asked):
        key = str(chance.randint(1, rows))
        for name, ask in questions.items():
            if name.endswith("rows") and number % 20:
                continue
            began = time.perf_counter()
            await ask(key)
            times[name].append((time.perf_counter() - began) * 1000)
    return times


@attrs.frozen
class Sizes:
    """What lies on the disk."""

    mutations: int
    mutation_bytes: int
    records: int
    record_bytes: int


def measure(database: Database) -> Sizes:
    """Return how much the log and the records take, with indexes."""

    def of(table: str) -> tuple[int, int]:
        count = database.psql(f"select count(*) from flux.{table}")
        size = database.psql(
            "select sum(pg_total_relation_size(inhrelid)) from pg_inherits "
            f"where inhparent = 'flux.{table}'::regclass"
        )
        return int(count), int(size)

    return Sizes(*of("mutation"), *of("execution"))


async def run(database: Database, said: argparse.Namespace) -> None:
    pool = database.pool()
    rows = said.mutations // said.versions
    async with pool.acquire() as connection:
        await prepare(connection)
        empty = measure(database)
        began = time.perf_counter()
        snapshot, at = await write_log(pool, connection, said.mutations, said.versions)
        took_s = time.perf_counter() - began
    await write_records(pool, said.records)
    database.psql("vacuum analyze")
    sizes = measure(database)
    print(f"{sizes.mutations:,} changes of {rows:,} rows, written in {took_s:.0f} s; {sizes.records:,} records\n")
    times = await time_questions(pool, rows, said.asked, snapshot, at)
    print_table(
        ["question", "p50 ms", "p95 ms", "p99 ms", "longest ms", "asked"],
        [
            [name, f"{statistics.median(each):.1f}", *(f"{get_percentile(each, n):.1f}" for n in (95, 99)),
             f"{max(each):.1f}", str(len(each))]
            for name, each in times.items()
        ],
    )  # fmt: skip
    print(f"\nbytes a change: {(sizes.mutation_bytes - empty.mutation_bytes) / sizes.mutations:.0f}")
    print(f"bytes a record of five calls: {(sizes.record_bytes - empty.record_bytes) / sizes.records:.0f}")
    await pool.aclose()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small log, to see that it works")
    parser.add_argument("--mutations", type=int, default=10_000_000)
    parser.add_argument("--versions", type=int, default=20, help="changes of each row")
    parser.add_argument("--asked", type=int, default=300, help="rows that are asked for")
    parser.add_argument("--records", type=int, default=20_000)
    said = parser.parse_args()
    if said.quick:
        said.mutations, said.asked, said.records = 100_000, 40, 2_000
    print_machine()
    with running_postgres(extra_settings=["track_commit_timestamp=on"]) as server:
        trio.run(run, create_database(server), said)


if __name__ == "__main__":
    main()
