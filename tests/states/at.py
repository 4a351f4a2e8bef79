"""Tables as of a time, held against what another program read at that time, while others write.

Anybody can run it::

    python -m tests.states.at --times 200

Clients write to tables of several kinds all the time: with a key, with one of several columns, without a key, in
partitions; in short transactions and in some that stay open for a while; some are rolled back. At drawn times psql
copies all tables out of a REPEATABLE READ transaction, and its time and snapshot are noted. When all are taken, and
while the writers go on, each table is asked for as of each time and as of each snapshot, and must be the same, row
by row.

A transaction is stamped with its commit's time a moment before others see it. So that "the same time" means something,
a client that commits holds a lock meanwhile, and psql's snapshot is taken while nobody does. Transactions that are
open at that moment stay open.

At the end the last writer of each value is compared with a fold of the log from its beginning.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from collections import Counter
from datetime import datetime

import attrs
import trio

from flux.store.migrate import prepare
from flux.store.moments import Moment, add_mark
from flux.store.postgres import Connection, DatabaseError, Pool, connect
from flux.store.row_blame import find_blame
from flux.store.row_states import StateFound, find_state
from tests.conftest import Database, create_database
from tests.postgres_server import running_postgres

SCHEMA = """
create table accounts (id int primary key, amount numeric not null, note text);
create table pairs (b text, a int, n int, at timestamptz default now(), primary key (b, a));
create table loose (x int, y text);
create table parted (id int primary key, v float8) partition by range (id);
create table parted_low partition of parted for values from (0) to (50);
create table parted_high partition of parted for values from (50) to (1000);
insert into accounts select n, n * 10, 'n' || n from generate_series(1, 60) n;
insert into parted select n, n / 3.0 from generate_series(1, 99) n;
"""
TABLES = ("accounts", "pairs", "loose", "parted")
WRITERS = 4
COMMITS = 1
"""The advisory lock that whoever commits holds with the others."""


@attrs.define
class Tally:
    """What came out."""

    states: int = 0
    different: list[str] = attrs.Factory(list)
    """Tables that were not as psql had read them: which, and when."""
    open_transactions: int = 0
    """Transactions that were open when a snapshot was taken, in all."""
    changes: int = 0
    """Rows of the log."""
    blamed: int = 0
    """Values whose writer was compared."""


@attrs.frozen
class Copied:
    """What psql read."""

    time: datetime
    snapshot: str
    tables: dict[str, Counter[str]]


def draw_statement(chance: random.Random) -> str:
    """Return something that changes rows."""
    n, v, text = chance.randint(1, 60), chance.randint(-9, 9), chance.choice("abc")
    return chance.choice(
        [
            f"update accounts set amount = amount + {v} where id = {n}",
            f"update accounts set note = '{text}' where id % {chance.randint(5, 9)} = 0",
            f"delete from accounts where id = {n}",
            f"insert into accounts values ({n}, {v}) on conflict (id) do update set amount = accounts.amount + 1",
            f"insert into pairs values ('{text}', {n % 9}, {v}) on conflict (b, a) do update set n = excluded.n",
            f"update pairs set a = a + 100 where a = {n % 9} and b = '{text}'",
            f"delete from pairs where a > 99 and n > {v}",
            f"insert into loose values ({n % 4}, '{text}'), ({n % 4}, '{text}')",
            f"delete from loose where ctid in (select ctid from loose where x = {n % 4} limit 1)",
            f"update loose set y = '{text}' where x = {n % 4}",
            f"update parted set v = v * {v} where id = {n}",
            f"update parted set id = id + 40 where id = {n} and not exists (select from parted where id = {n} + 40)",
            f"delete from parted where id = {n + 20}",
            f"insert into parted values ({n}, 'NaN') on conflict do nothing",
        ]
    )


async def write(database: Database, chance: random.Random, stop: trio.Event) -> None:
    """Write until told to stop."""
    connection = await connect(database.options())
    try:
        while not stop.is_set():
            await connection.begin(chance.choice(["read committed", "repeatable read"]))
            try:
                for _ in range(chance.randint(1, 4)):
                    await connection.execute(draw_statement(chance))
                    if chance.random() < 0.2:
                        await trio.sleep(chance.random() * 0.05)
                if chance.random() < 0.15:
                    await connection.rollback()
                    continue
                await connection.fetch("select pg_advisory_lock_shared($1)", COMMITS)
                await connection.commit()
            except DatabaseError:
                await connection.settle()
            finally:
                await connection.fetch("select pg_advisory_unlock_all()")
    finally:
        await connection.aclose()


async def copy(database: Database, connection: Connection) -> Copied:
    """Have psql read all tables at once."""
    await connection.fetch("select pg_advisory_lock($1)", COMMITS)
    await connection.begin("repeatable read", read_only=True)
    row = await connection.fetch_row(
        "select pg_current_snapshot()::text, pg_export_snapshot(), clock_timestamp()"
    )
    await connection.fetch("select pg_advisory_unlock($1)", COMMITS)
    assert row is not None
    script = f"begin isolation level repeatable read; set transaction snapshot '{row[1]}'; set timezone to 'UTC';"
    script += "".join(f"copy (select '{name}', to_json(t) from {name} t) to stdout;" for name in TABLES)
    server = database.server
    done = await trio.run_process(
        [server.bin_dir / "psql", "-XqAt", "-h", server.host, "-p", str(server.port), "-U", server.user,
         "-v", "ON_ERROR_STOP=1", "-c", script, database.name],
        capture_stdout=True, stderr=subprocess.STDOUT,
    )  # fmt: skip
    await connection.rollback()
    tables: dict[str, Counter[str]] = {name: Counter() for name in TABLES}
    for line in done.stdout.decode().splitlines():
        name, _, text = line.partition("\t")
        tables[name][canonical(json.loads(text.replace("\\\\", "\\")))] += 1
    return Copied(row[2], row[0], tables)


def canonical(row: object) -> str:
    return json.dumps(row, sort_keys=True)


def rows_of(found: StateFound) -> Counter[str]:
    return Counter(
        canonical({name: json.loads(value) for name, value in row.values.items()}) for row in found.rows
    )


async def compare(pool: Pool, copied: Copied, tally: Tally) -> None:
    """Ask for each table as it was, both ways."""
    for moment in (Moment(time=copied.time), Moment(snapshot=copied.snapshot)):
        for name in TABLES:
            found = await find_state(pool, "public", name, None, moment, 10_000)
            tally.states += 1
            if rows_of(found) != copied.tables[name] or any(row.is_gap for row in found.rows):
                tally.different.append(f"{name} as of {moment}: {found.snapshot} against {copied.snapshot}")


async def compare_blame(pool: Pool, database: Database, tally: Tally) -> None:
    """Compare the writer of each value with a fold of the log, from its beginning."""
    wanted: dict[str, dict[str, int]] = {}
    log = database.psql(
        "select json_build_object('seq', seq, 'key', key, 'op', op, 'before', before, 'after', after) "
        "from flux.mutation where table_name = 'accounts' order by seq"
    )
    for line in log.splitlines():
        change = json.loads(line)
        if change["op"] == "D":
            wanted.pop(change["key"], None)
            continue
        row = wanted.setdefault(change["key"], {})
        for name, value in change["after"].items():
            if change["before"] is None or change["before"][name] != value:
                row[name] = change["seq"]
    for key, row in wanted.items():
        found = await find_blame(pool, "public", "accounts", str(json.loads(key)["id"]))
        told = {name: each.seq for name, each in found.columns.items()}
        tally.blamed += len(told)
        if told != row:
            tally.different.append(f"accounts{key}: blamed {told}, and the fold says {row}")


async def run(database: Database, *, times: int, seed: int = 1) -> Tally:
    """Do all of it in ``database``, whose server notes the times of commits."""
    chance = random.Random(seed)
    tally = Tally()
    pool = database.pool()
    database.psql(SCHEMA)
    stop = trio.Event()
    copies: list[Copied] = []
    async with trio.open_nursery() as nursery:
        for number in range(WRITERS):
            nursery.start_soon(write, database, random.Random(seed * 100 + number), stop)
        connection = await connect(database.options())
        for number in range(times):
            await trio.sleep(chance.random() * 0.1)
            copies.append(await copy(database, connection))
            if number % 5 == 0:
                await add_mark(pool)
        await connection.aclose()
        for copied in copies:
            await compare(pool, copied, tally)
        stop.set()
    await compare_blame(pool, database, tally)
    tally.open_transactions = sum(len(copied.snapshot.split(":")[2].split(",")) for copied in copies)
    tally.changes = int(database.psql("select count(*) from flux.mutation"))
    await pool.aclose()
    return tally


async def _main(times: int, seed: int) -> Tally:
    with running_postgres(extra_settings=["track_commit_timestamp=on"]) as server:
        database = create_database(server)
        connection = await connect(database.options())
        await prepare(connection)
        await connection.aclose()
        return await run(database, times=times, seed=seed)


def main() -> int:
    """Run it and say what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    said = parser.parse_args()
    began = time.monotonic()
    tally = trio.run(_main, said.times, said.seed)
    print(f"{tally.states} tables as of {said.times} times: {tally.states - len(tally.different)} equal")
    print(f"{tally.blamed} values compared with a fold of {tally.changes} changes")
    print(f"{tally.open_transactions} transactions were open at those times; {time.monotonic() - began:.0f} s")
    for line in tally.different[:10]:
        print(f"  {line}")
    return 1 if tally.different else 0


if __name__ == "__main__":
    sys.exit(main())
