"""Jobs: how many a second, and how long one waits when nothing else is to do.

    python benchmarks/jobs.py [--quick] [--rounds 5] [--jobs 300] [--singles 30] [--sides ...]

The sides, each on a database of its own in one Postgres (fsync on)::

    flux 1, flux 10              one and ten jobs at a time, each in a fresh worker
    flux warm 1, flux warm 10    the same with workers that serve a thousand
    pgqueuer 1, pgqueuer 10      the peer: pgqueuer on asyncpg in one process

A job writes one row of a ledger. Flux commits the row, the end of the job and the record of the attempt together; the
peer ends the job in a transaction of its own and records nothing, so what it does is no mark for what Flux does but for
what a queue in Postgres can do.

A round is, for each side in turn: ``--jobs`` jobs pushed in one transaction, and the ledger's times from first to last
of them (the database's clock, so nobody's polling is in them); CPU of the side's tree and of Postgres meanwhile. Then
``--singles`` jobs one by one, each pushed when the one before is done: the time from just before the push to the
job's own statement. That contains the push's commit, the wake-up, the claim and the start of the job.
"""

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs

from benchmarks.figures import get_percentile, get_tree_cpu_s, print_machine, print_table, spread
from benchmarks.sides import SETTINGS, create_database
from tests.conftest import Database
from tests.dev_process import database_url, running_serve, write_project
from tests.postgres_server import running_postgres

HERE = Path(__file__).parent
SIDES = ("flux 1", "flux 10", "flux warm 1", "flux warm 10", "pgqueuer 1", "pgqueuer 10")
SCHEMA = """
create table ledger (
    id bigint generated always as identity primary key, pushed timestamptz not null, began timestamptz not null
);
"""
FUNCTIONS = """\
from flux_guest import function


@function("POST /push")
async def push(ctx, input):
    at = await ctx.db.query_one("select clock_timestamp()::text as at")
    for _ in range(input["count"]):
        await ctx.queue.push("work", {"pushed": at["at"]})
    return {}


@function()
async def work(ctx, payload):
    await ctx.db.execute(
        "insert into ledger (pushed, began) values ($1::text::timestamptz, clock_timestamp())", payload["pushed"]
    )
"""
WAIT_S_MAX = 300.0
SETTLE_S = 0.3
"""After a round: what is written behind belongs to it."""


@attrs.frozen
class Side:
    """Somebody who does jobs."""

    name: str
    pid: int
    """The root of its processes."""
    database: Database
    push: Callable[[int], None]
    """Pushes so many jobs in one transaction."""


@attrs.frozen
class Round:
    """Of one side."""

    jobs_per_s: float
    side_cpu_ms: float
    postgres_cpu_ms: float
    waits_ms: list[float]


@contextlib.contextmanager
def running_flux(name: str, database: Database, folder: Path) -> Iterator[Side]:
    """Serve the project, with as many jobs at a time as the side's name says."""
    concurrency = int(name.rpartition(" ")[2])
    toml = f"[queue]\nconcurrency = {concurrency}\n[recording]\nself_check_s = 0\n[sandbox]\nwarm = "
    toml += "1000\n" if "warm" in name else "1\n"
    folder.mkdir()
    project = write_project(folder, {"jobs.py": FUNCTIONS}, toml=toml, migrations={"001.sql": SCHEMA})
    with running_serve(project, database) as server:

        def push(count: int) -> None:
            answer = server.request("POST", "/push", {"count": count})
            if answer.status != 200:
                raise RuntimeError(f"{name} does not push: {answer.body!r}")

        yield Side(name, server.process.pid, database, push)


@contextlib.contextmanager
def running_pgqueuer(name: str, database: Database) -> Iterator[Side]:
    """Run the peer."""
    database.psql(SCHEMA)
    command = [sys.executable, str(HERE / "peer_pgqueuer.py"), database_url(database), name.rpartition(" ")[2]]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        orders, answers = process.stdin, process.stdout

        def expect(word: str) -> None:
            if answers.readline().strip() != word:
                raise RuntimeError(f"{name} has ended instead of saying {word!r}")

        def push(count: int) -> None:
            orders.write(f"push {count}\n")
            orders.flush()
            expect("pushed")

        expect("ready")
        try:
            yield Side(name, process.pid, database, push)
        finally:
            process.terminate()


def wait_ledger(database: Database, rows: int) -> None:
    """Wait until the ledger has so many rows."""
    deadline = time.monotonic() + WAIT_S_MAX
    while int(database.psql("select count(*) from ledger")) < rows:
        if time.monotonic() > deadline:
            raise RuntimeError(f"the ledger has not got {rows} rows after {WAIT_S_MAX:.0f} s")
        time.sleep(0.05)


def measure(side: Side, jobs: int, singles: int) -> Round:
    """Do a round of one side."""
    database = side.database
    database.psql("truncate ledger")
    side.push(1)  # What was idle for the others' rounds wakes up.
    wait_ledger(database, 1)
    own, postgres = get_tree_cpu_s(side.pid), get_tree_cpu_s(database.server.pid)
    side.push(jobs)
    wait_ledger(database, 1 + jobs)
    time.sleep(SETTLE_S)
    own, postgres = get_tree_cpu_s(side.pid) - own, get_tree_cpu_s(database.server.pid) - postgres
    taken_s = float(
        database.psql("select extract(epoch from max(began) - min(began)) from (select began from ledger offset 1) l")
    )
    for number in range(singles):
        side.push(1)
        wait_ledger(database, 2 + jobs + number)
    waits = database.psql(
        f"select extract(epoch from began - pushed) * 1000 from ledger order by id desc limit {singles}"
    )
    return Round(
        (jobs - 1) / taken_s, own / jobs * 1000, postgres / jobs * 1000, [float(wait) for wait in waits.split()]
    )


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=300, help="pushed at once, in each round")
    parser.add_argument("--singles", type=int, default=30, help="pushed one by one, in each round")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.jobs, options.singles = 1, 40, 5
    print_machine()
    rounds: dict[str, list[Round]] = {name: [] for name in options.sides}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flux-jobs-")))
        folder.chmod(0o755)
        server = stack.enter_context(running_postgres(extra_settings=SETTINGS, on_disk=True))
        sides = []
        for name in options.sides:
            label = name.replace(" ", "_")
            database = create_database(server, label)
            if name.startswith("flux"):
                sides.append(stack.enter_context(running_flux(name, database, folder / label)))
            else:
                sides.append(stack.enter_context(running_pgqueuer(name, database)))
        for _ in range(options.rounds):
            for side in sides:
                rounds[side.name].append(measure(side, options.jobs, options.singles))
    print_table(
        ("side", "jobs/s", "side CPU ms", "Postgres CPU ms", "one job p50 ms", "p99 ms"),
        [
            (
                name,
                spread([one.jobs_per_s for one in of_side], 0),
                spread([one.side_cpu_ms for one in of_side], 2),
                spread([one.postgres_cpu_ms for one in of_side], 2),
                spread([statistics.median(one.waits_ms) for one in of_side]),
                spread([get_percentile(one.waits_ms, 99) for one in of_side]),
            )
            for name, of_side in rounds.items()
        ],
    )


if __name__ == "__main__":
    main()
