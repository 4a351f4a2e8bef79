"""Flux beside what people use today: the same requests, on the same Postgres, in the same run.

    pip install -e '.[test,bench]'
    python benchmarks/peers.py [--quick] [--rounds 5] [--seconds 2.5] [--connections 16] [--sides ...] [--workloads ...]

Sides, each a real server in processes of its own:

    flux       ``flux dev``: every request recorded whole, each in a fresh process
    flux warm  the same with ``[sandbox] warm = 1000``: a process serves many requests
    fastapi    FastAPI, uvicorn with uvloop, asyncpg; records nothing
    observed   the same with OpenTelemetry's instrumentation of FastAPI, asyncpg and httpx, sent to a collector over
               OTLP/HTTP, and row-audit triggers
    recorded   that, and bodies of requests and answers in a table, parameters and rows of each statement and bodies of
               outbound exchanges on the spans: what comes nearest to a whole record
    dbos       FastAPI whose handlers are durable workflows of DBOS, and what they ask of the world its steps

Before anything is measured, all sides are asked the same requests, of each kind many: their answers must be equal, and
afterwards the rows of all tables in their databases and what reached the outbound stub. So no side does less than
another. `benchmarks.sides` says how rounds are measured; reported are medians, with the lowest and highest.
"""

import argparse
import contextlib
import http.client
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.request import urlopen

from benchmarks.figures import print_machine, print_table
from benchmarks.sides import (
    AUDIT,
    REQUEST_LOG,
    SETTINGS,
    SETTLE_S,
    Bench,
    Round,
    Side,
    compare_rates,
    create_database,
    print_results,
    running_flux,
    running_peer,
    running_stub,
)
from benchmarks.workloads import SCHEMA, TABLES, WORKLOADS
from tests.postgres_server import PostgresServer, running_postgres

SIDES = ("flux", "flux warm", "fastapi", "observed", "recorded", "dbos")
BASELINES = ("fastapi", "recorded")
"""What the others are compared with: who records nothing, and who records as much as can be bolted on."""
ASKED, QUICK_ASKED = 20, 4
"""Requests of each kind that all sides are asked before anything is measured."""
ROWS = {"orders": "to_jsonb(t) - 'placed_at'"}
"""What is compared of a table whose rows hold the time; of the others, all."""
QUICK_SETTLE_S = 0.1


@contextlib.contextmanager
def running_side(name: str, server: PostgresServer, stub_port: int, folder: Path) -> Iterator[Side]:
    """Run a side with a database of its own."""
    label = name.replace(" ", "_")
    if name.startswith("flux"):
        database = create_database(server, label)
        toml = "[sandbox]\nwarm = 1000\n" if name == "flux warm" else ""
        side = running_flux(name, database, stub_port, folder / label, toml)
    elif name == "dbos":
        side = running_peer(name, create_database(server, label, SCHEMA), stub_port, "peer_dbos.py")
    else:
        scripts = [SCHEMA, *([] if name == "fastapi" else [AUDIT]), *([REQUEST_LOG] if name == "recorded" else [])]
        database = create_database(server, label, *scripts)
        options = [] if name == "fastapi" else [f"--{name}"]
        side = running_peer(name, database, stub_port, "peer_fastapi.py", options)
    with side as running:
        yield running


def ask(side: Side, connection: http.client.HTTPConnection, workload: str, number: int) -> tuple[int, object]:
    """Send one request; return status and body."""
    method, path, _params, body = WORKLOADS[workload].trigger(number)
    sent = None if body is None else json.dumps(body)
    connection.request(method, path, sent, {} if sent is None else {"Content-Type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    if answer.status != 200:
        raise SystemExit(f"{side.name} answers {method} {path} with {answer.status}: {text.decode(errors='replace')}")
    return answer.status, json.loads(text)


def describe_work(side: Side, workloads: Sequence[str], stub_port: int, asked: int) -> dict[str, object]:
    """Ask a side every kind of request; return what it answered, what its tables hold then, and what it sent out."""
    sent = count_outbound(stub_port)
    connection = http.client.HTTPConnection("127.0.0.1", side.port, timeout=60)
    work: dict[str, object] = {
        f"answers to {workload}": [ask(side, connection, workload, number) for number in range(asked)]
        for workload in workloads
    }
    connection.close()
    for table in TABLES:
        row = ROWS.get(table, "to_jsonb(t)")
        work[f"rows of {table}"] = side.database.psql(
            f"select count(*), md5(string_agg(({row})::text, ' ' order by ({row})::text)) from {table} t"
        )
    work["outbound requests"] = count_outbound(stub_port) - sent
    return work


def count_outbound(stub_port: int) -> int:
    """Return how many customers the stub was asked to make."""
    with urlopen(f"http://127.0.0.1:{stub_port}/counts") as answer:
        count: int = json.load(answer)["counts"].get("/v1/customers", 0)
    return count


def check_equal_work(sides: Sequence[Side], workloads: Sequence[str], stub_port: int, asked: int) -> None:
    """Refuse to measure sides of which one does other work than the first."""
    first, *others = sides
    expected = describe_work(first, workloads, stub_port, asked)
    for side in others:
        for what, found in describe_work(side, workloads, stub_port, asked).items():
            if found != expected[what]:
                raise SystemExit(f"{what}: {side.name} has {found}\nwhere {first.name} has {expected[what]}")
    print(
        f"checked: {asked} requests of each kind answered alike by {', '.join(side.name for side in sides)}; "
        "rows of all tables alike; outbound requests alike\n",
        flush=True,
    )


def print_ratios(results: dict[str, dict[str, list[Round]]], sides: Sequence[Side]) -> None:
    """Print requests a second of each side as ratios, for each baseline."""
    for baseline in BASELINES:
        if baseline not in (side.name for side in sides):
            continue
        print(f"\n### requests a second, {baseline} = 1\n")
        print_table(
            ("side", *(WORKLOADS[workload].title for workload in results)),
            [
                (side.name, *(compare_rates(by_side[side.name], by_side[baseline]) for by_side in results.values()))
                for side in sides
            ],
        )
    print(flush=True)


def main() -> None:
    """Run everything and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one very short round: to see that it works")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.5, help="of each round (default 2.5)")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--workloads", nargs="+", choices=list(WORKLOADS),
                        default=["noop", "point", "signup", "tpcc", "cpu"])  # fmt: skip
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    options = parser.parse_args()
    rounds, seconds, connections, settle_s, asked = (
        (1, 0.2, 4, QUICK_SETTLE_S, QUICK_ASKED)
        if options.quick
        else (options.rounds, options.seconds, options.connections, SETTLE_S, ASKED)
    )
    print_machine()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fluxbench")))
        server = stack.enter_context(running_postgres(extra_settings=SETTINGS, on_disk=True))
        stub_port = stack.enter_context(running_stub())
        sides = [stack.enter_context(running_side(name, server, stub_port, folder)) for name in options.sides]
        check_equal_work(sides, options.workloads, stub_port, asked)
        bench = Bench(server, stub_port, connections, settle_s)
        results: dict[str, dict[str, list[Round]]] = {
            workload: {side.name: [] for side in sides} for workload in options.workloads
        }
        if not options.quick:
            for workload in options.workloads:
                for side in sides:
                    bench.measure(side, workload, 0.5)  # Connections are opened, plans made, pages warm.
        for _ in range(rounds):
            for workload, by_side in results.items():
                for side in sides:
                    by_side[side.name].append(bench.measure(side, workload, seconds))
    print_ratios(results, sides)
    print_results(results, BASELINES[0])


if __name__ == "__main__":
    main()
