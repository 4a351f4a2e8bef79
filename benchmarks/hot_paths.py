"""Profiles of the supervisor's hot paths: what it calls for one request, and how often.

    python benchmarks/hot_paths.py [noop point signup tpcc] [--requests 100] [--write]

Requests go one after the other through the executor of ``parts.py``, recorded whole, with warm workers, under
``cProfile`` with ``time.thread_time``. Counts are the thing to read: they do not depend on what else the machine
does. Times are the supervisor's thread's own, and the profiler lengthens them, small functions most. What runs
in workers, Postgres and the writer's thread is not in it.

``--write`` puts each profile into ``benchmarks/profiles/WORKLOAD.txt``, to be committed with the code that it is of:
a change then shows as a difference of these files.
"""

import argparse
import cProfile
import pstats
import re
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import trio

from benchmarks.parts import NoAudience, open_harness
from benchmarks.sides import SETTINGS, running_stub
from benchmarks.workloads import WORKLOADS
from flux.supervisor.execute import Executor
from tests.postgres_server import PostgresServer, running_postgres

PROFILES = Path(__file__).parent / "profiles"
HOT = ("noop", "point", "signup", "tpcc")
LINES = 40
WARM_UP = 20


class Turns(trio.abc.Instrument):
    """Counts the turns of trio's loop, and the steps of tasks."""

    def __init__(self) -> None:
        self.turns = 0
        self.steps = 0

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - trio's signature
        """Count one turn."""
        self.turns += 1

    def before_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002 - trio's signature
        """Count one step."""
        self.steps += 1


def get_package(file: str) -> str:
    """Return whose code a file of a profile is."""
    if file == "~":
        return "built-in"
    if found := re.search(r"/site-packages/([^/.]+)", file):
        return found[1]
    if found := re.search(r"/(flux|benchmarks|tests)/", file):
        return found[1]
    return "stdlib"


def shorten(file: str, line: int, name: str) -> str:
    """Return where a function is, without what is of this machine alone."""
    name = re.sub(r" at 0x[0-9a-f]+", "", name)
    if file == "~":
        return name
    parts = Path(file).parts
    for marker in ("site-packages", f"python{sys.version_info.major}.{sys.version_info.minor}", "flux", "benchmarks"):
        if marker in parts:
            last = len(parts) - 1 - parts[::-1].index(marker)
            kept = parts[last:] if marker in {"flux", "benchmarks"} else parts[last + 1 :]
            return f"{'/'.join(kept)}:{line} {name}"
    return f"{Path(file).name}:{line} {name}"


async def profile(workload: str, requests: int, server: PostgresServer, stub_port: int, folder: Path) -> str:
    """Return the profile of one workload as text."""
    async with open_harness(server, stub_port, folder, f"hot_{workload}") as harness:
        executor = Executor(harness.backing, NoAudience())
        for _ in range(WARM_UP):
            await harness.request(executor, workload, fresh=False)
        profiler = cProfile.Profile(time.thread_time)
        profiler.enable()
        for _ in range(requests):
            await harness.request(executor, workload, fresh=False)
        profiler.disable()
        turns = Turns()  # In a pass of its own, as trio's calls of an instrument would count among the functions'.
        trio.lowlevel.add_instrument(turns)
        for _ in range(requests):
            await harness.request(executor, workload, fresh=False)
        trio.lowlevel.remove_instrument(turns)
    return lay_out(workload, requests, turns, pstats.Stats(profiler))


def lay_out(workload: str, requests: int, turns: Turns, stats: pstats.Stats) -> str:
    """Return figures of a request: totals, shares by package, and the functions with most time of their own."""
    functions: dict[tuple[str, int, str], tuple[int, float]] = {
        # What runs the requests is not what is measured.
        where: (calls, own_s)
        for where, (_primitive, calls, own_s, _total, _callers) in stats.stats.items()  # type: ignore[attr-defined]
        if not where[0].endswith("hot_paths.py")
    }
    total_s = sum(own_s for _, own_s in functions.values())
    packages: dict[str, list[float]] = defaultdict(lambda: [0, 0.0])
    for (file, _, _), (calls, own_s) in functions.items():
        package = packages[get_package(file)]
        package[0] += calls
        package[1] += own_s
    lines = [
        f"{WORKLOADS[workload].title}: {requests} requests through the executor, recorded whole, warm workers",
        f"Python {sys.version.split()[0]}",
        f"command: python benchmarks/hot_paths.py {workload} --requests {requests}",
        "",
        f"{sum(calls for calls, _ in functions.values()) / requests:10,.1f}  function calls a request",
        f"{turns.turns / requests:10,.1f}  turns of the loop a request",
        f"{turns.steps / requests:10,.1f}  steps of tasks a request",
        "",
        "  own time  calls a request  package",
    ]
    for name, (calls, own_s) in sorted(packages.items(), key=lambda item: -item[1][1]):
        lines.append(f"{own_s / total_s:9.1%}  {calls / requests:15,.1f}  {name}")
    lines += ["", "  own time  calls a request  function"]
    for where, (calls, own_s) in sorted(functions.items(), key=lambda item: -item[1][1])[:LINES]:
        lines.append(f"{own_s / total_s:9.1%}  {calls / requests:15,.1f}  {shorten(*where)}")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Profile what was named."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"of {', '.join(WORKLOADS)}; default: {HOT}")
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--write", action="store_true", help="keep each in benchmarks/profiles/")
    options = parser.parse_args()
    if unknown := set(options.workloads) - set(WORKLOADS):
        parser.error(f"no such workload: {', '.join(sorted(unknown))}")
    with running_postgres(extra_settings=SETTINGS, on_disk=True) as server, running_stub() as stub_port:
        for workload in options.workloads or HOT:
            with tempfile.TemporaryDirectory(prefix="fluxbench") as folder:
                found = trio.run(profile, workload, options.requests, server, stub_port, Path(folder))
            print(found, flush=True)
            if options.write:
                PROFILES.mkdir(exist_ok=True)
                (PROFILES / f"{workload}.txt").write_text(found, encoding="utf-8")


if __name__ == "__main__":
    main()
