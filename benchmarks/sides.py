"""The sides of a comparison: servers of the same requests, each in processes of its own, and a round of one of them.

Every server has one database of its own in one Postgres 18 with fsync on. The clients are `benchmarks/load.py`:
connections are kept, with one request in flight on each. A round is so many seconds of one request on one side; the
sides take turns. With few cores the clients take their share of the machine from all sides alike.
"""

import contextlib
import json
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.request import urlopen

import attrs

from benchmarks.figures import get_resident_mb, get_tree_cpu_s, print_table, spread
from benchmarks.load import Load
from benchmarks.workloads import FUNCTIONS, SCHEMA, TABLES, WORKLOADS
from tests.conftest import Database
from tests.dev_process import running_dev, write_project
from tests.postgres_server import PostgresServer

HERE = Path(__file__).parent
SETTINGS = (
    "fsync=on", "synchronous_commit=on", "shared_buffers=256MB", "max_connections=300", "max_wal_size=8GB",
    "checkpoint_timeout=30min",
)  # fmt: skip
"""A server that keeps what it has confirmed; no checkpoint of one side's writes falls into another's round.

Connections for all sides: each keeps what its pool has opened. With 120 the last to come were refused some.
"""
SETTLE_S = 0.4
"""After a round: batches of records and of spans are written, and belong to it."""
AUDIT = f"""
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
    foreach name in array array{list(TABLES)} loop
        execute format('create trigger audit after insert or update or delete on %I '
                       'for each row execute function audit_row()', name);
    end loop;
end $$;
"""
REQUEST_LOG = """
create table request_log (
    id bigint generated always as identity primary key, at timestamptz not null default now(), trace_id text not null,
    method text not null, path text not null, request bytea not null, status int not null, response bytea not null,
    elapsed_us int not null
);
create index request_log_at on request_log (path, at);
"""
"""Where `benchmarks.peer_recording` keeps bodies."""


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
    memory_mb: float
    """Of the server's process tree when the round was over, shared pages divided."""


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
def running_peer(
    name: str, database: Database, stub_port: int, script: str, options: Sequence[str] = ()
) -> Iterator[Side]:
    """Run a peer's script."""
    server = database.server
    command = [sys.executable, str(HERE / script), "--stub", str(stub_port),
               "--database", server.host, str(server.port), server.user, database.name, *options]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = process.stdout.readline()
        if not port:
            raise RuntimeError(
                f"{script} did not start: its own words stand above; for its packages, pip install -e '.[test,bench]'"
            )
        try:
            yield Side(name, int(port), process.pid, database)
        finally:
            process.send_signal(signal.SIGTERM)


def write_service(folder: Path, stub_port: int, toml: str, more: Mapping[str, str] | None = None) -> None:
    """Write the project that answers the workloads, with ``more`` files of functions."""
    folder.mkdir()
    write_project(
        folder,
        {"service.py": FUNCTIONS.replace("STUB_PORT", str(stub_port)), **(more or {})},
        toml=f'{toml}[http]\nallow = ["127.0.0.1:{stub_port}"]\n',
        migrations={"001.sql": SCHEMA},
    )


@contextlib.contextmanager
def running_flux(name: str, database: Database, stub_port: int, folder: Path, toml: str) -> Iterator[Side]:
    """Run ``flux dev``."""
    write_service(folder, stub_port, toml)
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

    def __init__(
        self, server: PostgresServer, stub_port: int, connections: int, settle_s: float = SETTLE_S
    ) -> None:
        self._server = server
        self._stub_port = stub_port
        self._connections = connections
        self._settle_s = settle_s
        self._next = 1_000_000  # Those below are for who asks by hand.

    def measure(self, side: Side, workload: str, seconds: float) -> Round:
        """Run one round. A side that fails requests has done other work than the others: that ends the benchmark."""
        before = self._take_stock(side)
        load = run_load(side, workload, seconds, self._connections, self._next)
        if load.failed:
            raise SystemExit(
                f"{side.name} failed requests of {workload}, by status {load.failed}: {load.first_failure}"
            )
        self._next += load.count + self._connections
        time.sleep(self._settle_s)
        after = self._take_stock(side)
        server_cpu, postgres_cpu, database_bytes, wal_bytes, sent = (
            (now - then) / max(load.count, 1) for now, then in zip(after, before, strict=True)
        )
        memory_mb = get_resident_mb(side.pid)
        return Round(load, server_cpu * 1000, postgres_cpu * 1000, database_bytes, wal_bytes, sent, memory_mb)

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


def compare_rates(rounds: Sequence[Round], baseline: Sequence[Round]) -> str:
    """Return how many times the baseline's requests a second: the median of the rounds' ratios, and their spread.

    Each round is compared with the baseline's round beside it, so that what slows the machine down for a minute slows
    both.
    """
    return spread([one.load.rate / other.load.rate for one, other in zip(rounds, baseline, strict=True)], 2)


def print_results(results: dict[str, dict[str, list[Round]]], baseline: str) -> None:
    """Print a table for each request."""
    for workload, by_side in results.items():
        print(f"\n### {WORKLOADS[workload].title}\n")
        rows = [
            (
                name,
                spread([each.load.rate for each in rounds], 0),
                compare_rates(rounds, by_side[baseline]) if baseline in by_side else "",
                spread([each.load.p50_ms for each in rounds]),
                spread([each.load.p99_ms for each in rounds]),
                spread([each.server_cpu_ms for each in rounds], 2),
                spread([each.postgres_cpu_ms for each in rounds], 2),
                f"{statistics.median(each.memory_mb for each in rounds):,.0f}",
                f"{statistics.median(each.database_bytes for each in rounds):,.0f}",
                f"{statistics.median(each.wal_bytes for each in rounds):,.0f}",
                f"{statistics.median(each.sent_bytes for each in rounds):,.0f}",
            )
            for name, rounds in by_side.items()
        ]
        print_table(
            ("side", "requests/s", f"of {baseline}", "p50 ms", "p99 ms", "server CPU ms", "Postgres CPU ms", "MB",
             "bytes stored", "WAL bytes", "bytes sent"),
            rows,
        )  # fmt: skip
        print(flush=True)
