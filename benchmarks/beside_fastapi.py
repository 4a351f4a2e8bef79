"""Flux beside what people use today: the same four requests, on the same Postgres, in the same run.

    pip install -e '.[test,bench]'
    python benchmarks/beside_fastapi.py [--quick] [--rounds 5] [--seconds 3] [--connections 16]

Sides, each a real server in processes of its own:

    flux       ``flux dev``: every request recorded whole, each in a fresh process
    flux warm  the same with ``[sandbox] warm = 1000``: a process serves many requests
    fastapi    FastAPI, uvicorn with uvloop, asyncpg; records nothing
    observed   the same with OpenTelemetry's instrumentation of FastAPI, asyncpg and httpx, sent to a
               collector over OTLP/HTTP, and row-audit triggers

Requests (`benchmarks.workloads`): a no-op; a point SELECT; a sign-up (SELECT, outbound POST to a stub,
INSERT, UPDATE, enqueue); an order (a transaction of five statements). The clients are
`benchmarks/load.py`: 16 kept connections, one request in flight on each. Every server has one database of
its own in one Postgres 18 with fsync on. Rounds are interleaved: each round asks each side in turn.

Reported are medians of the rounds, with the lowest and highest: requests a second, median and 99th
percentile of the waiting time, CPU of the server (its process tree) and of Postgres per request, and what
a request left behind: growth of the server's database, WAL, and bytes sent to the collector.
With few cores the clients take their share of the machine from all sides alike.
"""

import argparse
import contextlib
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import attrs

from benchmarks.figures import get_resident_mb, get_tree_cpu_s, print_machine, print_table, spread
from benchmarks.load import Load
from benchmarks.workloads import FUNCTIONS, SCHEMA, WORKLOADS
from tests.conftest import Database
from tests.dev_process import running_dev, write_project
from tests.postgres_server import PostgresServer, running_postgres

HERE = Path(__file__).parent
SETTINGS = (
    "fsync=on", "synchronous_commit=on", "shared_buffers=256MB", "max_connections=120", "max_wal_size=8GB",
    "checkpoint_timeout=30min",
)  # fmt: skip
"""A server that keeps what it has confirmed; no checkpoint of one side's writes falls into another's round."""
SETTLE_S = 0.4
"""After a round: batches of records and of spans are written, and belong to it."""
AUDIT = """
create table audit (
    id bigint generated always as identity primary key, at timestamptz not null default now(),
    table_name text not null, operation text not null, transaction xid8 not null default pg_current_xact_id(),
    before jsonb, after jsonb
);
create index audit_at on audit (table_name, at);
create function audit_row() returns trigger language plpgsql as $$
begin
    insert into audit (table_name, operation, before, after)
    values (tg_table_name, tg_op, case when tg_op <> 'INSERT' then to_jsonb(old) end,
            case when tg_op <> 'DELETE' then to_jsonb(new) end);
    return null;
end $$;
do $$
declare name text;
begin
    foreach name in array array['people', 'users', 'products', 'orders', 'lines', 'jobs'] loop
        execute format('create trigger audit after insert or update or delete on %I '
                       'for each row execute function audit_row()', name);
    end loop;
end $$;
"""


@attrs.frozen
class Side:
    """A running server."""

    name: str
    port: int
    pid: int
    """Root of its process tree."""
    database: Database


@attrs.frozen
class Round:
    """What one round of one request on one side showed."""

    load: Load
    server_cpu_ms: float
    """A request, as all that follows."""
    postgres_cpu_ms: float
    database_bytes: float
    wal_bytes: float
    sent_bytes: float


def create_database(server: PostgresServer, name: str, *scripts: str) -> Database:
    """Return a new database in which ``scripts`` were run."""
    server.psql(f"create database {name} template template0")
    database = Database(server, name)
    for script in scripts:
        database.psql(script)
    return database


@contextlib.contextmanager
def running_stub() -> Iterator[int]:
    """Run the stub; gives its port."""
    command = [sys.executable, str(HERE / "stub_server.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdin is not None
        yield int(process.stdout.readline())
        process.stdin.close()


@contextlib.contextmanager
def running_peer(name: str, database: Database, stub_port: int, *, observed: bool) -> Iterator[Side]:
    """Run the FastAPI service."""
    server = database.server
    command = [sys.executable, str(HERE / "peer_fastapi.py"), "--stub", str(stub_port),
               "--database", server.host, str(server.port), server.user, database.name]  # fmt: skip
    command += ["--observed"] if observed else []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = process.stdout.readline()
        if not port:
            raise RuntimeError("the peer did not start: are its packages there? pip install -e '.[bench]'")
        try:
            yield Side(name, int(port), process.pid, database)
        finally:
            process.send_signal(signal.SIGTERM)


@contextlib.contextmanager
def running_flux(name: str, database: Database, stub_port: int, folder: Path, toml: str) -> Iterator[Side]:
    """Run ``flux dev``."""
    folder.mkdir()
    write_project(
        folder,
        {"service.py": FUNCTIONS.replace("STUB_PORT", str(stub_port))},
        toml=f'{toml}[http]\nallow = ["127.0.0.1:{stub_port}"]\n',
        migrations={"001.sql": SCHEMA},
    )
    with running_dev(folder, database) as server:
        print(f"{name}: " + next(" ".join(line.split()) for line in server.story if "✓ sandbox" in line))
        yield Side(name, server.port, server.process.pid, database)


def run_load(side: Side, workload: str, seconds: float, connections: int, first: int) -> Load:
    """Run the clients, in their own process."""
    command = [sys.executable, str(HERE / "load.py"), str(side.port), workload, "--seconds", str(seconds),
               "--connections", str(connections), "--first", str(first)]  # fmt: skip
    return Load(**json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


class Bench:
    """The servers, and where the next request's number is kept."""

    def __init__(self, server: PostgresServer, stub_port: int, connections: int) -> None:
        self._server = server
        self._stub_port = stub_port
        self._connections = connections
        self._next = 1

    def measure(self, side: Side, workload: str, seconds: float) -> Round:
        """Run one round."""
        before = self._take_stock(side)
        load = run_load(side, workload, seconds, self._connections, self._next)
        self._next += load.count + sum(load.failed.values()) + self._connections
        time.sleep(SETTLE_S)
        after = self._take_stock(side)
        server_cpu, postgres_cpu, database_bytes, wal_bytes, sent = (
            (now - then) / max(load.count, 1) for now, then in zip(after, before, strict=True)
        )
        return Round(load, server_cpu * 1000, postgres_cpu * 1000, database_bytes, wal_bytes, sent)

    def _take_stock(self, side: Side) -> tuple[float, float, float, float, float]:
        database_bytes, wal_bytes = side.database.psql(
            "select sum(pg_total_relation_size(c.oid)), pg_current_wal_insert_lsn() - '0/0' "
            "from pg_class c join pg_namespace n on n.oid = c.relnamespace "
            "where c.relkind in ('r', 'm') and n.nspname not like 'pg\\_%'"
        ).split("|")
        with urlopen(f"http://127.0.0.1:{self._stub_port}/counts") as answer:
            sent = json.load(answer)["bytes"].get("/v1/traces", 0)
        return (
            get_tree_cpu_s(side.pid), get_tree_cpu_s(self._server.pid), float(database_bytes), float(wal_bytes), sent,
        )  # fmt: skip


def print_results(results: dict[str, dict[str, list[Round]]], baseline: str) -> None:
    """Print a table for each request."""
    for workload, by_side in results.items():
        print(f"\n### {WORKLOADS[workload].title}\n")
        base = (
            statistics.median(each.load.rate for each in by_side[baseline]) if baseline in by_side else None
        )
        rows = []
        for name, rounds in by_side.items():
            rates = [each.load.rate for each in rounds]
            failed = sum(sum(each.load.failed.values()) for each in rounds)
            rows.append((
                name,
                spread(rates, 0),
                f"{statistics.median(rates) / base:.2f}" if base else "",
                spread([each.load.p50_ms for each in rounds]),
                spread([each.load.p99_ms for each in rounds]),
                spread([each.server_cpu_ms for each in rounds], 2),
                spread([each.postgres_cpu_ms for each in rounds], 2),
                f"{statistics.median(each.database_bytes for each in rounds):,.0f}",
                f"{statistics.median(each.wal_bytes for each in rounds):,.0f}",
                f"{statistics.median(each.sent_bytes for each in rounds):,.0f}",
                str(failed),
            ))  # fmt: skip
        print_table(
            ("side", "requests/s", f"of {baseline}", "p50 ms", "p99 ms", "server CPU ms", "Postgres CPU ms",
             "bytes stored", "WAL bytes", "bytes sent", "failed"),
            rows,
        )  # fmt: skip
        print(flush=True)


def main() -> None:
    """Run everything and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two short rounds: to see that it works")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each round (default 3)")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--workloads", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--sides", nargs="+", choices=["flux", "flux warm", "fastapi", "observed"],
                        default=["flux", "flux warm", "fastapi", "observed"])  # fmt: skip
    options = parser.parse_args()
    rounds, seconds = (2, 0.7) if options.quick else (options.rounds, options.seconds)
    print_machine()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fluxbench")))
        server = stack.enter_context(running_postgres(extra_settings=SETTINGS, on_disk=True))
        stub_port = stack.enter_context(running_stub())
        sides = []
        for name in options.sides:
            label = name.replace(" ", "_")
            if name.startswith("flux"):
                database = create_database(server, label)
                toml = "[sandbox]\nwarm = 1000\n" if name == "flux warm" else ""
                sides.append(
                    stack.enter_context(running_flux(name, database, stub_port, folder / label, toml))
                )
            else:
                scripts = (SCHEMA, AUDIT) if name == "observed" else (SCHEMA,)
                database = create_database(server, label, *scripts)
                sides.append(
                    stack.enter_context(running_peer(name, database, stub_port, observed=name == "observed"))
                )
        bench = Bench(server, stub_port, options.connections)
        results: dict[str, dict[str, list[Round]]] = {}
        for workload in options.workloads:
            for side in sides:
                bench.measure(side, workload, 0.5)  # Connections are opened, plans made, pages warm.
            results[workload] = {side.name: [] for side in sides}
        for _ in range(rounds):
            for workload in options.workloads:
                for side in sides:
                    results[workload][side.name].append(bench.measure(side, workload, seconds))
        memory = {side.name: get_resident_mb(side.pid) for side in sides}
    print_results(results, "fastapi")
    print("Memory after it all (MB, proportional): "
          + ", ".join(f"{name} {megabytes:.0f}" for name, megabytes in memory.items()))  # fmt: skip


if __name__ == "__main__":
    main()
