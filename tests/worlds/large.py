"""A world whose code changes four rows of a large table, which is not copied for that.

``python -m tests.worlds.large --rows 2000000`` says how long it takes to prepare, and to ask.
"""

import argparse
import time
from datetime import UTC, datetime

import attrs
import trio

from flux.store.migrate import prepare
from flux.store.postgres import connect
from flux.store.world import ROWS_MAX
from flux.supervisor.world import open_world
from tests.conftest import Database, create_database
from tests.postgres_server import running_postgres
from tests.world_harness import TOKEN, ask, open_guests, plan


@attrs.frozen
class Seen:
    """What it came to."""

    answers: tuple[object, ...]
    copied: object
    """How many rows were copied in the end."""
    prepared_s: float
    updated_s: float
    """Of the statement that changes three rows."""
    read_s: float
    """Of a read by key."""


async def change_four_rows(database: Database, rows: int, rows_max: int) -> Seen:
    """Fill a table with ``rows`` rows, change two of them, and replay on what was before."""
    database.psql("create table big (id int primary key, name text unique, note text)")
    for first in range(1, rows + 1, 250_000):
        last = min(first + 249_999, rows)
        database.psql(
            f"insert into big select n, 'n' || n, repeat('x', 40) from generate_series({first}, {last}) n"
        )
    database.psql("analyze big")
    snapshot = database.psql("select pg_current_snapshot()")
    database.psql("update big set name = 'other' where id = 7; delete from big where id = 5")
    pool = await open_guests(database)
    began = time.perf_counter()
    recorded = attrs.evolve(plan(snapshot, "big"), rows_max=rows_max, started_at=datetime.now(UTC))
    async with open_world(pool, TOKEN, recorded) as world:
        prepared = time.perf_counter()
        update = await world.run("update big set name = name || '+' where id in (6, 7, 8)", [], 1)
        updated = time.perf_counter()
        insert = await world.run("insert into big values (0, 'zero', '')", [], 2)
        asking = time.perf_counter()
        read = await ask(world, "select id, name from big where id in (0, 5, 6, 7, 8) order by id")
        asked = time.perf_counter()
        copied = await ask(world, 'select count(*) as count from "big%copy"')
    await pool.aclose()
    return Seen((update.tag, insert.tag, read), copied, prepared - began, updated - prepared, asked - asking)


def main() -> None:
    """Say what it came to with so many rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2_000_000)
    rows = parser.parse_args().rows

    async def measure(database: Database) -> Seen:
        owner = await connect(database.options())
        await prepare(owner)
        await owner.aclose()
        return await change_four_rows(database, rows, min(ROWS_MAX, rows - 1))

    with running_postgres() as server:
        seen = trio.run(measure, create_database(server))
    print(
        f"{rows:,} rows: prepared in {seen.prepared_s * 1000:.0f} ms, three rows updated in "
        f"{seen.updated_s * 1000:.0f} ms, five read by key in {seen.read_s * 1000:.1f} ms; {seen.copied} copied"
    )


if __name__ == "__main__":
    main()
