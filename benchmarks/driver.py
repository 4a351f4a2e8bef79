"""What the driver costs: CPU per point SELECT, beside plain asyncpg on asyncio.

    python benchmarks/driver.py [--seconds 2] [--rounds 5] [--connections 1 8]

Two sides, interleaved, in one process each: a point SELECT by primary key on a
table of 10,000 rows, over a unix socket, by as many tasks as connections. The
figure is the client's CPU time (user and system) per statement; wall time is
beside it. Medians, with the lowest and the highest round. The server's CPU is
not counted. The two servers of one machine share its cores with the client, so
trust the ratio more than the figure.
"""

import argparse
import asyncio
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

import asyncpg
import trio

from flux.store.postgres import ConnectOptions, connect
from tests.postgres_server import running_postgres

ROWS = 10_000
SQL = "select id, email, plan from people where id = $1"
PREPARE = f"""
create table people (id int primary key, email text, plan text);
insert into people select i, 'person' || i || '@example.com', 'free' from generate_series(1, {ROWS}) i;
analyze people
"""


def measure_flux(host: str, port: int, connections: int, seconds: float) -> tuple[float, float]:
    """CPU and wall microseconds per statement, Flux's driver."""
    count = 0

    async def client(deadline: float) -> None:
        nonlocal count
        options = ConnectOptions(host=host, port=port, user="postgres")
        connection = await connect(options)
        while time.monotonic() < deadline:
            for _ in range(50):
                wanted = random.randint(1, ROWS)
                row = await connection.fetch_row(SQL, wanted)
                assert row is not None and row[0] == wanted
                count += 1
        await connection.aclose()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(connections):
                nursery.start_soon(client, time.monotonic() + seconds)

    cpu, wall = time.process_time(), time.monotonic()
    trio.run(main)
    return (time.process_time() - cpu) / count * 1e6, (time.monotonic() - wall) / count * 1e6


def measure_asyncpg(host: str, port: int, connections: int, seconds: float) -> tuple[float, float]:
    """The same with asyncpg on asyncio."""
    count = 0

    async def client(deadline: float) -> None:
        nonlocal count
        connection = await asyncpg.connect(host=host, port=port, user="postgres")
        while time.monotonic() < deadline:
            for _ in range(50):
                wanted = random.randint(1, ROWS)
                row = await connection.fetchrow(SQL, wanted)
                assert row is not None and row[0] == wanted
                count += 1
        await connection.close()

    async def main() -> None:
        await asyncio.gather(*(client(time.monotonic() + seconds) for _ in range(connections)))

    cpu, wall = time.process_time(), time.monotonic()
    asyncio.run(main())
    return (time.process_time() - cpu) / count * 1e6, (time.monotonic() - wall) / count * 1e6


SIDES = {"flux": measure_flux, "asyncpg": measure_asyncpg}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="of each round (default 2)")
    parser.add_argument("--rounds", type=int, default=5, help="per side (default 5)")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8], help="default 1 8")
    parser.add_argument("--one", nargs=5, metavar=("SIDE", "HOST", "PORT", "CONNECTIONS", "SECONDS"),
                        help="run one round of one side and print its two figures")  # fmt: skip
    arguments = parser.parse_args()
    if arguments.one:
        side, host, port, connections, seconds = arguments.one
        print(*SIDES[side](host, int(port), int(connections), float(seconds)))
        return
    with running_postgres(on_disk=True) as server:
        server.psql(PREPARE)
        print("connections  side      CPU us/statement (lowest..highest)   wall us/statement")
        for connections in arguments.connections:
            rounds: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
            for _ in range(arguments.rounds):
                for side, figures in rounds.items():
                    one = [sys.executable, Path(__file__), "--one", side, server.host, str(server.port),
                           str(connections), str(arguments.seconds)]  # fmt: skip
                    printed = subprocess.run(one, check=True, capture_output=True, text=True).stdout
                    cpu, wall = (float(figure) for figure in printed.split())
                    figures.append((cpu, wall))
            for side, figures in rounds.items():
                cpus = [cpu for cpu, _ in figures]
                print(f"{connections:>11}  {side:<8}  {statistics.median(cpus):>8.1f}  "
                      f"({min(cpus):.1f}..{max(cpus):.1f})"
                      f"{statistics.median(wall for _, wall in figures):>29.1f}")  # fmt: skip


if __name__ == "__main__":
    main()
