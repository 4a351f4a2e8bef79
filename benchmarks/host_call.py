"""What the sandbox costs: a no-op through a fresh worker and a warm one, and the round trip of a host call.

    python benchmarks/host_call.py [--rounds 7] [--executions 100] [--calls 500]

`drive` runs a function in a real worker of `ProcessSandbox` with a host that answers at once, so no journal,
database or HTTP is in the figures. Beside it, interleaved in the same rounds: the same bytes echoed over a
socket pair by a forked process without any SDK, which is the floor under every process sandbox.

At the end, where a fresh worker's time goes: processor time and page faults of one execution, and the memory that a
worker in waiting shares with nobody. Faults do not depend on what else the machine does. (Another user's memory is told
to root only: without, that line says so.)
"""

import argparse
import os
import resource
import socket
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from flux.execution import Returned
from flux.hostcall import HostCallRequest, HostCallResult
from flux.limits import Limits
from flux.redact import RedactionRules, Redactor
from flux.sandbox.conformance import make_document
from flux.sandbox.process import ProcessSandbox
from flux.session import RecordSession
from flux.supervisor.drive import Bounds, drive

FUNCTIONS = """
from flux_guest import function

@function()
async def nothing(ctx, input):
    return {"ok": True}

@function()
async def ask(ctx, input):
    for _ in range(input["calls"]):
        await ctx.clock.fresh()
    return {"ok": True}

@function()
def ask_in_def(ctx, input):
    for _ in range(input["calls"]):
        ctx.clock.fresh()
    return {"ok": True}
"""


class InstantHost:
    """Answers everything at once, in place or by a task."""

    def __init__(self, *, immediate: bool) -> None:
        self._immediate = immediate

    def is_immediate(self, name: str) -> bool:  # noqa: ARG002 - the protocol's
        return self._immediate

    async def perform(self, request: HostCallRequest) -> HostCallResult:  # noqa: ARG002
        return HostCallResult(b"1767225600000000000", now_ns=1_767_225_600_000_000_000)

    def cancelled(self, request: HostCallRequest, elapsed_ns: int) -> HostCallResult:
        raise AssertionError((request, elapsed_ns))


async def execute(sandbox: ProcessSandbox, host: InstantHost, function: str, *, keep: bool, calls: int = 0) -> None:
    worker = await sandbox.acquire()
    limits = Limits(host_calls_max=calls + 1)
    driven = await drive(
        worker, make_document(function, calls=calls), RecordSession(), host, Bounds(limits, {}),
        redactor=Redactor(RedactionRules.parse([]), b"seed"), keep_worker=keep,
    )  # fmt: skip
    assert isinstance(driven.outcome, Returned), driven.outcome
    await sandbox.release(worker, reusable=driven.reusable)


def echo_bare(calls: int) -> float:
    """Microseconds a round trip of about a call's size to a forked process that only echoes."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        while data := theirs.recv(65536):
            theirs.sendall(data)
        os._exit(0)
    theirs.close()
    message = b'[123,"clock.now",[],{"at":["functions/a.py",11,"ask"]}]\n'
    started_s = time.perf_counter()
    for _ in range(calls):
        ours.sendall(message)
        ours.recv(65536)
    elapsed_s = time.perf_counter() - started_s
    ours.close()
    os.waitpid(pid, 0)
    return elapsed_s / calls * 1e6


def read_zygote(pid: int) -> dict[str, float]:
    """Return the zygote's processor time and faults, and those of its workers that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks_ms = 1000 / os.sysconf("SC_CLK_TCK")
    return {
        "zygote: faults": int(fields[7]),
        "worker: faults": int(fields[8]),
        "zygote: ms of CPU": (int(fields[11]) + int(fields[12])) * ticks_ms,
        "worker: ms of CPU": (int(fields[13]) + int(fields[14])) * ticks_ms,
    }


def read_private_kb(pid: int) -> int:
    """Return the memory that a process shares with nobody."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


async def print_costs(sandbox: ProcessSandbox, host: InstantHost, executions: int) -> None:
    """Say what one execution in a fresh worker takes, and of whom."""
    zygote = sandbox.zygote_pid
    assert zygote is not None
    before, own_before = read_zygote(zygote), resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(executions):
        await execute(sandbox, host, "nothing", keep=False)
    own = resource.getrusage(resource.RUSAGE_SELF)
    await trio.sleep(0.5)  # The last ones are still to end.
    after = read_zygote(zygote)
    own_s = own.ru_utime + own.ru_stime - own_before.ru_utime - own_before.ru_stime
    figures = {"supervisor: ms of CPU": own_s * 1000 / executions}
    figures.update({what: (after[what] - before[what]) / executions for what in before})
    for what, figure in sorted(figures.items()):
        print(f"fresh worker, {what:<26} {figure:>9,.1f}")
    worker = await sandbox.acquire()
    try:
        print(f"fresh worker, KB of its own, waiting     {read_private_kb(worker.pid):>9,}")
    except PermissionError:
        print("fresh worker, KB of its own, waiting       told to root only")
    await sandbox.release(worker, reusable=False)


async def measure(rounds: int, executions: int, calls: int) -> None:
    figures: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        functions = Path(folder) / "functions"
        functions.mkdir()
        (functions / "a.py").write_text(FUNCTIONS, encoding="utf-8")
        async with trio.open_nursery() as nursery:
            fresh = ProcessSandbox(Path(folder), "functions")
            warm = ProcessSandbox(Path(folder), "functions", warm=1_000_000, idle_target=1)
            await nursery.start(fresh.run)
            await nursery.start(warm.run)
            in_place, in_task = InstantHost(immediate=True), InstantHost(immediate=False)

            async def timed(what: str, times: int, run: Callable[[], Awaitable[None]], base_us: float = 0.0) -> float:
                started_s = time.perf_counter()
                for _ in range(times):
                    await run()
                took_us = (time.perf_counter() - started_s) / times * 1e6 - base_us
                figures.setdefault(what, []).append(took_us)
                return took_us

            for _ in range(rounds):
                await timed(
                    "no-op, fresh worker", executions, lambda: execute(fresh, in_place, "nothing", keep=False)
                )
                base_us = await timed(
                    "no-op, warm worker", executions, lambda: execute(warm, in_place, "nothing", keep=True)
                )
                for what, host, function in (
                    ("host call, answered in place", in_place, "ask"),
                    ("host call, answered by a task", in_task, "ask"),
                    ("host call of a def", in_place, "ask_in_def"),
                ):
                    started_s = time.perf_counter()
                    await execute(warm, host, function, keep=True, calls=calls)
                    took_us = (time.perf_counter() - started_s) * 1e6 - base_us
                    figures.setdefault(what, []).append(took_us / calls)
                figures.setdefault("floor: bytes echoed by a bare process", []).append(echo_bare(calls))
            await print_costs(fresh, in_place, executions)
            nursery.cancel_scope.cancel()
    for what, found in figures.items():
        low, middle, high = min(found), statistics.median(found), max(found)
        print(f"{what:<40} {middle:>9,.1f} us   ({low:,.1f} to {high:,.1f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--executions", type=int, default=100)
    parser.add_argument("--calls", type=int, default=500)
    options = parser.parse_args()
    trio.run(measure, options.rounds, options.executions, options.calls)


if __name__ == "__main__":
    main()
