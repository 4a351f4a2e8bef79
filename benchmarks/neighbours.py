"""How long a tenant waits while another one floods the server.

    python benchmarks/neighbours.py [--quick] [--rounds 5] [--seconds 3] [--connections 2] [--flood 64]

One ``flux serve`` with two tenants, each with a database of its own in one Postgres (on disk, fsync on). Few clients
ask the quiet tenant, and meanwhile, in turn::

    alone                  nobody else asks
    beside a neighbour's   many clients ask the other tenant
    beside its own         as many clients ask the quiet tenant itself

The last is what one team's flood does without tenants. The flood is one of requests that do nothing, then one of
transactions of five statements, so that first the supervisor and then Postgres is what is short. Workers are warm. Of a
round the median and the 99th percentile of the few clients is kept, and what the many were answered.
"""

import argparse
import contextlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import attrs

from benchmarks.figures import print_machine, print_table, spread
from benchmarks.load import Load
from benchmarks.sides import SETTINGS, create_database, running_stub
from benchmarks.workloads import FUNCTIONS, SCHEMA, WORKLOADS
from tests.dev_process import DevServer, running_serve, write_project
from tests.postgres_server import running_postgres

HERE = Path(__file__).parent
QUIET, OTHER = "quiet", "other"
ARMS: dict[str, str | None] = {"alone": None, "beside a neighbour's": OTHER, "beside its own": QUIET}
"""Who is flooded."""
FLOODS = ("noop", "order")
FLOOD_LEAD_S = 0.7
"""The flood begins so long before those who are measured, and ends as long after them."""


@attrs.frozen
class Round:
    """What the few clients saw, and the many."""

    few: Load
    many: Load | None


@contextlib.contextmanager
def running_tenants(folder: Path, stub_port: int) -> Iterator[DevServer]:
    """Serve the workloads for two tenants."""
    for name in ("home", QUIET, OTHER):
        (folder / name).mkdir()
        write_project(
            folder / name,
            {"service.py": FUNCTIONS.replace("STUB_PORT", str(stub_port))},
            toml="[sandbox]\nwarm = 1000\n",
            migrations={"001.sql": SCHEMA},
        )
    with running_postgres(extra_settings=SETTINGS, on_disk=True) as postgres:
        database = create_database(postgres, "home")
        with running_serve(folder / "home", database) as server:
            first = server.command("tenant", "add", QUIET, "--folder", str(folder / QUIET))
            if first.returncode:  # It says what everybody may still do in a database that was given.
                database.psql("; ".join(re.findall(r"(?:revoke|grant) connect [^;\n]*", first.stderr)))
                server.json("tenant", "add", QUIET, "--folder", str(folder / QUIET))
            server.json("tenant", "add", OTHER, "--folder", str(folder / OTHER))
            yield server


def start_load(port: int, host: str, workload: str, seconds: float, connections: int) -> subprocess.Popen[str]:
    """Start clients of a tenant, in a process of their own."""
    return subprocess.Popen(
        [sys.executable, str(HERE / "load.py"), str(port), workload, "--seconds", str(seconds),
         "--connections", str(connections), "--host", f"{host}.localhost"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def read_load(process: subprocess.Popen[str]) -> Load:
    """Wait for clients to end and return what they saw."""
    printed = process.communicate()[0]
    if process.returncode:
        raise RuntimeError("clients have failed, see above")
    return Load(**json.loads(printed))


def measure(port: int, asked: str, flood: str, flooded: str | None, options: argparse.Namespace) -> Round:
    """Do a round."""
    many = None
    if flooded is not None:
        lasting = options.seconds + 2 * FLOOD_LEAD_S
        many = start_load(port, flooded, flood, lasting, options.flood)
        with contextlib.suppress(subprocess.TimeoutExpired):
            many.wait(FLOOD_LEAD_S)
    few = read_load(start_load(port, QUIET, asked, options.seconds, options.connections))
    return Round(few, None if many is None else read_load(many))


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round: to see that it works")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each round (default 3)")
    parser.add_argument("--connections", type=int, default=2, help="few: of the quiet tenant's clients")
    parser.add_argument("--flood", type=int, default=64, help="many: connections of the flood")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 1, 1.0
    print_machine()
    seen: dict[tuple[str, str, str], list[Round]] = {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fluxbench")))
        folder.chmod(0o755)
        port = stack.enter_context(running_tenants(folder, stack.enter_context(running_stub()))).port
        for host in (QUIET, OTHER):
            for workload in (*FLOODS, "point"):
                read_load(start_load(port, host, workload, 0.5, 16))  # Connections are opened, pages warm.
        for _ in range(options.rounds):
            for flood in FLOODS:
                for asked in ("noop", "point"):
                    for arm, flooded in ARMS.items():
                        result = measure(port, asked, flood, flooded, options)
                        seen.setdefault((flood, asked, arm), []).append(result)
    for flood in FLOODS:
        print(f"\n### a flood of {WORKLOADS[flood].title}, {options.flood} connections\n")
        rows = []
        for (of_flood, asked, arm), rounds in seen.items():
            if of_flood == flood:
                many = [each.many for each in rounds if each.many is not None]
                rows.append((
                    WORKLOADS[asked].title, arm,
                    spread([each.few.p50_ms for each in rounds]), spread([each.few.p99_ms for each in rounds]),
                    str(sum(sum(each.few.failed.values()) for each in rounds)),
                    spread([each.rate for each in many], 0) if many else "",
                    str(sum(sum(each.failed.values()) for each in many)) if many else "",
                ))  # fmt: skip
        print_table(("asked", "flood", "p50 ms", "p99 ms", "failed", "the flood: answers/s", "failed"), rows)


if __name__ == "__main__":
    main()
