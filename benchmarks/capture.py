"""What the capture costs: statements of a guest on a captured table, beside the same table without triggers.

    python benchmarks/capture.py [--rows 1 50 1000 20000 100000]

Three tables of one shape: ``plain`` has its capture triggers disabled,
``captured`` is as Flux installs it, and ``triggered`` has an AFTER ROW trigger of
the user's that does nothing, which makes the capture look after the order of
changes. Each round is an insert of so many rows, an update of all, an update of
all keys, a delete of all; the tables take turns. Figures are wall time of the
statement at the client, medians with the lowest and highest.
"""

import argparse
import statistics
import time

import trio

from flux.store.migrate import prepare
from flux.store.postgres import Connection, ConnectOptions, connect
from tests.postgres_server import PostgresServer, running_postgres

TABLES = ("plain", "captured", "triggered")
STATEMENTS = {
    "insert": "insert into {table} select i, 'some text', i from generate_series(1, {rows}) i",
    "update": "update {table} set n = n + 1",
    "new keys": "update {table} set id = -id",
    "delete": "delete from {table}",
}
SETUP = """
select flux.ensure_guest_role('bench', 'bench', 'x');
create function bench.nothing() returns trigger language plpgsql as 'begin return null; end';
create table bench.plain (id int primary key, v text, n int);
create table bench.captured (id int primary key, v text, n int);
create table bench.triggered (id int primary key, v text, n int);
create trigger nothing after insert or update or delete on bench.triggered
    for each row execute function bench.nothing();
alter event trigger flux_ddl disable;
alter table bench.plain disable trigger all;
"""


async def measure(connection: Connection, rows: int, rounds: int) -> dict[tuple[str, str], list[float]]:
    """Milliseconds of each statement on each table."""
    figures: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for table in TABLES:
            for name, sql in STATEMENTS.items():
                began = time.perf_counter()
                await connection.execute(sql.format(table=table, rows=rows))
                figures.setdefault((table, name), []).append((time.perf_counter() - began) * 1000)
    return figures


async def run(server: PostgresServer, sizes: list[int]) -> None:
    """Print the table."""
    owner = await connect(ConnectOptions(host=server.host, port=server.port, user=server.user, database="postgres"))
    await prepare(owner)
    await owner.execute(SETUP)
    guest = await connect(
        ConnectOptions(host=server.host, port=server.port, user="flux_guest_bench", database="postgres")
    )
    guest.on_notice = lambda _: None
    print("   rows  statement  table      ms (lowest..highest)")
    for rows in sizes:
        figures = await measure(guest, rows, rounds=200 if rows == 1 else 3 if rows > 5000 else 20)
        await owner.execute("truncate flux.mutation")
        for name in STATEMENTS:
            for table in TABLES:
                taken = figures[table, name]
                print(f"{rows:>7}  {name:<9}  {table:<9}  {statistics.median(taken):>8.2f}  "
                      f"({min(taken):.2f}..{max(taken):.2f})")  # fmt: skip
    await guest.aclose()
    await owner.aclose()


def main() -> None:
    """Parse, start a server, measure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 50, 1000, 20_000, 100_000])
    arguments = parser.parse_args()
    with running_postgres(on_disk=True) as server:
        trio.run(run, server, arguments.rows)


if __name__ == "__main__":
    main()
