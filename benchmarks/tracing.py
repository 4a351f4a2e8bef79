"""What time travel costs executions that nobody steps through: a no-op with the tracer within reach, and without it.

    python benchmarks/tracing.py [--rounds 9] [--executions 100]

Two environments of the same Python and packages, which differ in two files: one has the guest SDK as it is, the other
one without the modules that trace (`flux_guest._trace`) and look at values (`flux_guest._look`). In each a process has
a sandbox with real workers, and they take turns. If a worker that is not traced loaded or asked anything of these
modules, the second would fail or differ.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Mapping
from pathlib import Path

import trio

from benchmarks.figures import print_machine, print_table, spread
from benchmarks.host_call import InstantHost, execute, read_zygote
from flux.sandbox.process import ProcessSandbox

ROOT = Path(__file__).parents[1]
SDK = ROOT / "guest-sdk" / "python" / "flux_guest"
TRACER = ("_trace.py", "_look.py")
FINDS = "from importlib.util import find_spec; assert (find_spec('flux_guest._trace') is not None)"
FUNCTIONS = """
from flux_guest import function

@function()
async def nothing(ctx, input):
    return {"ok": True}
"""


async def serve() -> None:
    """Be one side: for each number on stdin run so many executions, and say what one took."""
    with tempfile.TemporaryDirectory() as folder:
        functions = Path(folder) / "functions"
        functions.mkdir()
        (functions / "a.py").write_text(FUNCTIONS, encoding="utf-8")
        async with trio.open_nursery() as nursery:
            fresh = ProcessSandbox(Path(folder), "functions")
            warm = ProcessSandbox(Path(folder), "functions", warm=1_000_000, idle_target=1)
            await nursery.start(fresh.run)
            await nursery.start(warm.run)
            while line := await trio.to_thread.run_sync(sys.stdin.readline):
                figures = await measure("fresh", fresh, int(line)) | await measure("warm", warm, int(line))
                print(json.dumps(figures), flush=True)
            nursery.cancel_scope.cancel()


async def measure(kind: str, sandbox: ProcessSandbox, executions: int) -> Mapping[str, float]:
    """Return how long a no-op took and the processor time of its worker, which tells it when that has ended."""
    host, zygote = InstantHost(immediate=True), sandbox.zygote_pid
    assert zygote is not None
    before, began_s = read_zygote(zygote), time.perf_counter()
    for _ in range(executions):
        await execute(sandbox, host, "nothing", keep=kind == "warm")
    figures = {f"{kind}, us": (time.perf_counter() - began_s) / executions * 1e6}
    if kind == "fresh":
        await trio.sleep(0.5)  # The last ones are still to end.
        after = read_zygote(zygote)
        each = {what: (after[what] - before[what]) / executions for what in before}
        figures["fresh, worker: us of CPU"] = each["worker: ms of CPU"] * 1e3
        figures["fresh, worker: faults"] = each["worker: faults"]
    return figures


def make_environment(folder: Path, *left_out: str) -> Path:
    """Make an environment whose SDK lacks these files; return its Python."""
    sdk = folder / "sdk"
    shutil.copytree(SDK, sdk / SDK.name, ignore=shutil.ignore_patterns("__pycache__", *left_out))
    venv.create(folder / "venv")
    python = folder / "venv" / "bin" / "python"
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], stdout=subprocess.PIPE, text=True,
        check=True,
    ).stdout.strip()  # fmt: skip
    places = [sdk, ROOT, Path(sysconfig.get_path("purelib"))]
    (Path(site) / "sides.pth").write_text("".join(f"{place}\n" for place in places))
    subprocess.run([python, "-c", f"{FINDS} is {not left_out}"], check=True)
    return python


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round: to see that it works")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--executions", type=int, default=100)
    parser.add_argument("--side", action="store_true", help="what this starts itself")
    said = parser.parse_args()
    if said.side:
        trio.run(serve)
        return
    print_machine()
    rounds, executions = (1, 10) if said.quick else (said.rounds, said.executions)
    figures: dict[str, list[Mapping[str, float]]] = {"with the tracer": [], "without it": []}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        pythons = [make_environment(Path(folder) / "with"), make_environment(Path(folder) / "without", *TRACER)]
        sides = [
            subprocess.Popen([python, __file__, "--side"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for python in pythons
        ]
        for number in range(rounds):
            turns = list(zip(figures, sides, strict=True))
            for name, side in turns if number % 2 else turns[::-1]:
                assert side.stdin is not None and side.stdout is not None
                print(executions, file=side.stdin, flush=True)
                figures[name].append(json.loads(side.stdout.readline()))
        for side in sides:
            side.communicate()
    whole, bare = figures.values()
    print_table(
        ["a no-op", *figures, "ratio of medians"],
        [
            [what, *(spread([each[what] for each in side], 0) for side in (whole, bare)),
             f"{statistics.median(each[what] for each in whole) / statistics.median(each[what] for each in bare):.2f}"]
            for what in whole[0]
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
