"""An hour of mixed load on one server: does it keep anything that it should have given back?

    pip install -e '.[test,bench]'
    python benchmarks/soak.py [--quick] [--minutes 60] [--connections 4] [--graph benchmarks/soak.svg]

``flux serve`` has a Postgres 18 and a folder for temporary files of its own. Every minute is the same: each request
of `benchmarks.workloads` for a few seconds over new connections, a request answered by JavaScript, one that fails, one
whose client leaves before its answer, jobs pushed and run; then what people do: `flux trace list`, `flux why` of the
failure, `flux replay` of a sign-up, and a deploy of the project's folder, in which one file has changed. At the end of
each minute, when nothing is under way, are counted:

    server         memory of the supervisor (Pss), its file descriptors and threads
    workers        processes below it, and their memory
    files          in the folder of temporary files, and under ``.flux`` of the project
    connections    that Postgres has from this server
    database       bytes on disk, which grow with what is recorded

What is kept for good shows as a slope. It is fitted to the second half of the run by Theil and Sen (the median slope
of all pairs of minutes), as the first half fills caches. Requests that failed and were not meant to end the run.
"""

import argparse
import contextlib
import html
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

import attrs

from benchmarks.figures import get_resident_mb, print_machine, print_table
from benchmarks.sides import SETTINGS, Side, create_database, run_load, running_stub, write_service
from benchmarks.workloads import WORKLOADS
from tests.conftest import Database
from tests.dev_process import DevServer, running_serve
from tests.postgres_server import running_postgres

MORE = """\
import asyncio

from flux_guest import Context, function


@function("POST /fails")
async def fails(ctx: Context, input: dict) -> dict:
    await ctx.db.query("select email from people where id = $1", 1)
    return {"plan": input["plan"]}


@function("GET /waits")
async def waits(ctx: Context, input: dict) -> dict:
    await asyncio.sleep(0.2)
    return {}


@function("POST /pushes")
async def pushes(ctx: Context, input: dict) -> dict:
    await ctx.db.execute("insert into jobs (kind, payload) values ('pushed', 'x')")
    for number in range(input["jobs"]):
        await ctx.queue.push("works", {"number": number})
    return {}


@function
async def works(ctx: Context, input: dict) -> None:
    await ctx.db.execute("insert into jobs (kind, payload) values ('worked', $1)", str(input["number"]))
"""
JAVASCRIPT = """\
import { defineFunction } from "@flux/guest";

export const greets = defineFunction({
  route: "GET /greets/{id}",
  handler: async ({ ctx, input }) => {
    const person = await ctx.db.queryOne("select email from people where id = $1", Number(input.id));
    return { email: person.email, version: VERSION };
  },
});
"""
JOBS = 5
"""Pushed by one request."""
SETTLE_S_MAX = 60.0


@attrs.frozen
class Sample:
    """What stood there at the end of a minute."""

    minute: float
    """Since the start."""
    requests: int
    """Answered since the start."""
    supervisor_mb: float
    workers_mb: float
    processes: int
    """Below the supervisor."""
    descriptors: int
    """Of the supervisor."""
    threads: int
    files: int
    """In the folder of temporary files."""
    kept_files: int
    """Under ``.flux``, without the cache of artifacts: that has one for each deploy."""
    connections: int
    database_mb: float


CURVES: Sequence[tuple[str, str, Callable[[Sample], float]]] = (
    ("memory of the supervisor", "MB", lambda sample: sample.supervisor_mb),
    ("memory of its workers", "MB", lambda sample: sample.workers_mb),
    ("processes below it", "", lambda sample: sample.processes),
    ("file descriptors", "", lambda sample: sample.descriptors),
    ("threads", "", lambda sample: sample.threads),
    ("temporary files", "", lambda sample: sample.files),
    ("files under .flux", "", lambda sample: sample.kept_files),
    ("connections to Postgres", "", lambda sample: sample.connections),
    ("database", "MB", lambda sample: sample.database_mb),
    ("requests answered", "", lambda sample: sample.requests),
)


def fit_slope(samples: Sequence[Sample], read: Callable[[Sample], float]) -> float:
    """Return by how much a curve rises in an hour: the median slope of all pairs in the second half."""
    half = samples[len(samples) // 2 :]
    slopes = [(read(b) - read(a)) / (b.minute - a.minute) * 60 for a, b in combinations(half, 2)]
    return statistics.median(slopes) if slopes else 0.0


def draw(samples: Sequence[Sample]) -> str:
    """Return the curves as an SVG, each in a panel of its own that begins at zero."""
    width, height, left, top = 360, 130, 14, 26
    panels = []
    for place, (name, unit, read) in enumerate(CURVES):
        figures = [read(sample) for sample in samples]
        most, last = max([*figures, 1.0]), samples[-1].minute or 1.0
        points = " ".join(
            f"{sample.minute / last * (width - 2 * left):.1f},{(1 - figure / most) * (height - top - 34):.1f}"
            for sample, figure in zip(samples, figures, strict=True)
        )
        slope = fit_slope(samples, read)
        told = f"{figures[0]:,.0f} to {figures[-1]:,.0f} {unit} · {slope:+,.1f} an hour"
        x, y = place % 2 * width, place // 2 * height
        panels.append(
            f'<g transform="translate({x + left},{y + top})"><text y="-8" font-weight="bold">{html.escape(name)}</text>'
            f'<text x="{width - 2 * left}" y="-8" text-anchor="end" fill="#555">{html.escape(told)}</text>'
            f'<path d="M0 0V{height - top - 34}H{width - 2 * left}" fill="none" stroke="#bbb"/>'
            f'<polyline points="{points}" fill="none" stroke="#1f6feb" stroke-width="1.5"/>'
            f'<text y="{height - top - 20}" fill="#555">0</text>'
            f'<text x="{width - 2 * left}" y="{height - top - 20}" text-anchor="end" fill="#555">{last:.0f} min</text>'
            "</g>"
        )
    whole = (len(CURVES) + 1) // 2 * height
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * width} {whole}" font-family="sans-serif" '
        f'font-size="11"><rect width="100%" height="100%" fill="#fff"/>{"".join(panels)}</svg>\n'
    )


class Soak:
    """The server, and who uses it."""

    def __init__(self, server: DevServer, database: Database, temporary: Path, connections: int) -> None:
        self._server = server
        self._database = database
        self._temporary = temporary
        self._connections = connections
        self._side = Side("flux", server.port, server.process.pid, database)
        self._started = time.monotonic()
        self._next = 1
        self._deploys = 0
        self.requests = 0

    def pass_minute(self, busy_s: float) -> None:
        """Do once what is done every minute, with requests for so many seconds."""
        for workload in WORKLOADS:
            load = run_load(self._side, workload, busy_s / len(WORKLOADS), self._connections, self._next)
            if load.failed:
                raise RuntimeError(f"{workload}: {load.failed}")
            self._next += load.count + self._connections
            self.requests += load.count
        server = self._server
        signed_up = server.request("POST", "/signup", {"email": f"soak{self._next}@example.com"})
        failed = server.request("POST", "/fails", {})
        told = [signed_up, server.request("GET", "/greets/7"), server.request("POST", "/pushes", {"jobs": JOBS})]
        if failed.status != 500 or any(answer.status != 200 for answer in told):
            raise RuntimeError(f"{failed.status} instead of 500, and {[answer.status for answer in told]}")
        with socket.create_connection(("127.0.0.1", server.port)) as leaver:
            leaver.sendall(b"GET /waits HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            time.sleep(0.05)
        self.requests += 5
        server.json("trace", "list", "-n", "50")
        server.json("why", failed.flux_id)
        server.json("replay", signed_up.flux_id)
        self._deploys += 1
        (server.project / "functions/greets.js").write_text(JAVASCRIPT.replace("VERSION", str(self._deploys)))
        server.json("deploy")
        if (version := server.request("GET", "/greets/7").json["version"]) != self._deploys:
            raise RuntimeError(f"version {version} answers after deploy {self._deploys}")
        self._settle()

    def _settle(self) -> None:
        """Wait until all jobs have run and what is recorded is in the database."""
        deadline = time.monotonic() + SETTLE_S_MAX
        while time.monotonic() < deadline:
            if int(self._database.psql("select count(*) from jobs where kind = 'worked'")) >= JOBS * self._deploys:
                time.sleep(2.0)  # Former workers are seen off, batches written.
                return
            time.sleep(0.2)
        raise RuntimeError(f"jobs were not run within {SETTLE_S_MAX:.0f} s")

    def take_sample(self) -> Sample:
        """Count what is there now."""
        root = self._server.process.pid
        below = list_below(root)
        whole_mb = get_resident_mb(root)
        supervisor_mb = read_pss_mb(root)
        kept = self._server.project / ".flux"
        return Sample(
            minute=(time.monotonic() - self._started) / 60,
            requests=self.requests,
            supervisor_mb=supervisor_mb,
            workers_mb=whole_mb - supervisor_mb,
            processes=len(below),
            descriptors=count_entries(f"/proc/{root}/fd"),
            threads=count_entries(f"/proc/{root}/task"),
            files=sum(1 for _ in self._temporary.rglob("*")),
            kept_files=sum(1 for path in kept.rglob("*") if "artifacts" not in path.relative_to(kept).parts),
            connections=int(
                self._database.psql(
                    "select count(*) from pg_stat_activity where datname = current_database()"
                    " and pid <> pg_backend_pid()"
                )
            ),
            database_mb=int(self._database.psql("select pg_database_size(current_database())")) / 2**20,
        )


def count_entries(folder: str) -> int:
    """Return how much is listed in a folder."""
    return sum(1 for _ in Path(folder).iterdir())


def list_below(root: int) -> list[int]:
    """Return the processes below one."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(path.name))
    found, waiting = [], [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def read_pss_mb(pid: int) -> float:
    """Return a process's memory, shared pages divided among those who share them."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def main() -> None:
    """Run it and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three short minutes: to see that it works")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--busy", type=float, default=30.0, help="seconds of load in each minute (default 30)")
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--graph", type=Path, help="write the curves there, as SVG")
    parser.add_argument("--samples", type=Path, help="write what was counted there, as JSON, minute by minute")
    options = parser.parse_args()
    minutes, busy_s, period_s = (3, 2.0, 0.0) if options.quick else (options.minutes, options.busy, 60.0)
    print_machine()
    samples: list[Sample] = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fluxsoak")))
        server = stack.enter_context(running_postgres(extra_settings=SETTINGS, on_disk=True))
        stub_port = stack.enter_context(running_stub())
        project = folder / "project"
        more = {"more.py": MORE, "greets.js": JAVASCRIPT.replace("VERSION", "0")}
        write_service(project, stub_port, "", more)
        git = ["git", "-c", "user.name=soak", "-c", "user.email=soak@example.com"]
        for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "soak"]):
            subprocess.run([*git, *arguments], cwd=project, check=True)
        temporary = folder / "temporary"
        temporary.mkdir()
        os.environ["TMPDIR"] = str(temporary)  # The server's: this process has made its own already.
        flux = stack.enter_context(running_serve(project, create_database(server, "soak"), "--workers", "1"))
        soak = Soak(flux, Database(server, "soak"), temporary, options.connections)
        for passed in range(int(minutes)):
            due = time.monotonic() + period_s
            soak.pass_minute(busy_s)
            samples.append(soak.take_sample())
            print(f"minute {passed + 1}: {attrs.asdict(samples[-1])}", file=sys.stderr, flush=True)
            if options.samples:
                options.samples.write_text(json.dumps([attrs.asdict(sample) for sample in samples]))
            time.sleep(max(0.0, due - time.monotonic()))
    quarters = [samples[round(part * (len(samples) - 1) / 4)] for part in range(5)]
    print_table(
        ("", *(f"minute {sample.minute:.0f}" for sample in quarters), "slope of the second half, an hour"),
        [
            (
                f"{name} {unit}".strip(),
                *(f"{read(sample):,.0f}" for sample in quarters),
                f"{fit_slope(samples, read):+,.1f}",
            )
            for name, unit, read in CURVES
        ],
    )  # fmt: skip
    if options.graph:
        options.graph.write_text(draw(samples), encoding="utf-8")


if __name__ == "__main__":
    main()
