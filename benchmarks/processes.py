"""One, two and four supervisors as one server: ``flux serve --workers N``.

    python benchmarks/processes.py [--quick] [--rounds 5] [--seconds 3] [--connections 16] [--workers 1 2 4]

The same clients, requests and Postgres as in `peers.py`. Each number of supervisors serves a project of its
own, all the time, from a database of its own; they are asked in turn. Workers are warm (a thousand requests each), as
with fresh ones the start of processes would be most of what is measured. Clients, supervisors, workers and Postgres
share the cores: where CPU per request times requests a second is all of them, more supervisors can't give more.
"""

import argparse
import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import print_machine
from benchmarks.sides import (
    SETTINGS,
    Bench,
    Round,
    Side,
    create_database,
    print_results,
    running_stub,
    write_service,
)
from benchmarks.workloads import SHORT
from tests.conftest import Database
from tests.dev_process import running_serve
from tests.postgres_server import running_postgres


@contextlib.contextmanager
def running_supervisors(count: int, database: Database, stub_port: int, folder: Path) -> Iterator[Side]:
    """Serve the workloads from so many processes."""
    write_service(folder, stub_port, "[sandbox]\nwarm = 1000\n")
    with running_serve(folder, database, "--workers", str(count)) as server:
        yield Side(name_of(count), server.port, server.process.pid, database)


def name_of(count: int) -> str:
    """Return what a side is called."""
    return f"{count} supervisor{'s' if count > 1 else ''}"


def main() -> None:
    """Run the rounds and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round: to see that it works")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each round (default 3)")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4], help="numbers of supervisors")
    options = parser.parse_args()
    rounds, seconds = (1, 0.7) if options.quick else (options.rounds, options.seconds)
    print_machine()
    results: dict[str, dict[str, list[Round]]] = {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fluxbench")))
        server = stack.enter_context(running_postgres(extra_settings=SETTINGS, on_disk=True))
        stub_port = stack.enter_context(running_stub())
        sides = [
            stack.enter_context(
                running_supervisors(count, create_database(server, f"n{count}"), stub_port, folder / str(count))
            )
            for count in options.workers
        ]
        bench = Bench(server, stub_port, options.connections)
        for workload in SHORT:
            for side in sides:
                bench.measure(side, workload, 0.5)  # Connections are opened, plans made, pages warm.
            results[workload] = {side.name: [] for side in sides}
        for _ in range(rounds):
            for workload in SHORT:
                for side in sides:
                    results[workload][side.name].append(bench.measure(side, workload, seconds))
    print_results(results, name_of(options.workers[0]))


if __name__ == "__main__":
    main()
