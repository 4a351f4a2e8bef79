"""What each kind of sandbox costs: time, memory, starting, metering, and what hostile guests do to their neighbours.

    python benchmarks/sandboxes.py [--quick] [--rounds 7] [--no-peers] [--only one_at_a_time memory]

Parts, each a table:

    one_at_a_time   a function that does nothing and one of five host calls, one after the other: seconds of each
    many_at_once    the same, sixteen in flight: executions a second, and processor time of each
    over_http       a function that does nothing behind ``flux dev``, with journal and record, beside HTTP servers
    memory          500 guests that wait for an answer at once: how soon, and what each has of its own
    starting        from a deployment's files to its first answer
    metering        what fuel costs, and cutting a guest's time into slices
    neighbours      how long a no-op takes while a hostile guest of the same deployment does its worst

All but metering and HTTP are the sandbox alone: Flux's own loop drives it, with a host that answers everything at
once (`benchmarks.sandbox_guests`). Beside it stand a cold ``python`` process and a bare fork, and Deno and workerd if
npm can install them into a folder that goes away with the run (`benchmarks.sandbox_peers` says what they are asked).
Sides take turns within each round; figures are medians of the rounds with the lowest and highest.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import attrs
import trio
import wasmtime

from benchmarks import sandbox_peers
from benchmarks.figures import get_percentile, get_tree_cpu_s, print_machine, print_table, spread
from benchmarks.load import Load
from benchmarks.sandbox_guests import (
    MODULES,
    SIDES,
    AnySandbox,
    Side,
    execute,
    get_private_kib,
    let_loose,
    running,
    suspend,
    write_project,
)
from benchmarks.sandbox_peers import DenoWorkers, run_cold_python, run_fork
from benchmarks.sides import SETTINGS, create_database
from flux.sandbox.wasm_engine import SLICE_FUEL, Engine
from flux.sandbox.wasm_module import load_module, run_module
from flux.sandbox.wasm_world import FileTree
from tests.dev_process import running_dev
from tests.dev_process import write_project as write_flux_project
from tests.postgres_server import running_postgres
from tests.wasm_worlds import AnsweringDoor, answer_call, make_start

HERE = Path(__file__).parent
AT_ONCE = 16
CALLS: Mapping[str, int] = {"nothing": 0, "five": 5}
NEIGHBOURS = 2
NEVER = 1 << 40
"""Fuel of a slice that no guest here comes to the end of."""


@attrs.frozen
class Size:
    """How much of everything."""

    rounds: int
    executions: int
    """Of each function in a round."""
    suspended: int
    seconds: float
    """Of a round over HTTP, and with a hostile guest."""


WHOLE = Size(rounds=7, executions=200, suspended=500, seconds=2.0)
QUICK = Size(rounds=2, executions=20, suspended=50, seconds=0.5)


class Figures:
    """What was measured, by row and column."""

    def __init__(self) -> None:
        self._figures: dict[str, dict[str, list[float]]] = {}

    def add(self, row: str, column: str, figure: float) -> None:
        """Take one figure of one round."""
        self._figures.setdefault(row, {}).setdefault(column, []).append(figure)

    def show(self, heading: str, columns: Mapping[str, int], base: tuple[str, str] | None = None) -> None:
        """Print a table; ``columns`` have their digits. ``base`` is a row, and the column in which it is 1."""
        headings = [heading, *columns, *([f"of {base[0]}"] if base else [])]
        rows = []
        for name, found in self._figures.items():
            row = [name]
            row += [spread(found[each], digits) if each in found else "" for each, digits in columns.items()]
            if base is not None:
                row.append(f"{statistics.median(found[base[1]]) / self._median(*base):.2f}")
            rows.append(row)
        print_table(headings, rows)
        print(flush=True)

    def _median(self, row: str, column: str) -> float:
        return statistics.median(self._figures[row][column])


class Bench:
    """The sandboxes, the peers, and how much of everything."""

    def __init__(self, size: Size, folder: Path, peers: Mapping[str, Path]) -> None:
        self.size = size
        self.folder = folder
        self.project = folder / "project"
        self.peers = peers
        write_project(self.project)

    @contextlib.contextmanager
    def deno(self) -> Iterator[DenoWorkers | None]:
        """A Deno of workers, where there is one."""
        if "deno" not in self.peers:
            yield None
            return
        deno = DenoWorkers(self.peers["deno"], self.folder)
        try:
            yield deno
        finally:
            deno.close()

    @contextlib.asynccontextmanager
    async def sandboxes(self):  # type: ignore[no-untyped-def]
        """All sides, running."""
        async with contextlib.AsyncExitStack() as stack:
            yield [(side, await stack.enter_async_context(running(side, self.project))) for side in SIDES]


# The sandbox alone


async def measure_one_at_a_time(bench: Bench) -> None:
    """Print how long single executions take."""
    figures = Figures()
    size = bench.size
    with bench.deno() as deno:
        async with bench.sandboxes() as sandboxes:
            for number in range(size.rounds + 1):

                def add(row: str, what: str, times_s: list[float], kept: bool = number > 0) -> None:
                    if kept:  # The first round compiles, fills caches and grows pools.
                        figures.add(row, f"{what}, us", statistics.median(times_s) * 1e6)
                        figures.add(row, f"{what} p99, us", get_percentile(times_s, 99) * 1e6)

                for what, calls in CALLS.items():
                    for side, sandbox in sandboxes:
                        times = [await execute(side, sandbox, what) for _ in range(size.executions)]
                        add(side.name, what, times)
                    add("bare fork", what, [run_fork(calls) for _ in range(size.executions)])
                    if deno is not None:
                        add("Deno, a worker each", what, deno.measure(calls, size.executions, 1)[0])
                add(
                    "cold python",
                    "nothing",
                    [run_cold_python() for _ in range(max(3, size.executions // 20))],
                )
    columns = {"nothing, us": 0, "nothing p99, us": 0, "five, us": 0, "five p99, us": 0}
    figures.show("one at a time", columns, ("bare fork", "nothing, us"))


async def measure_many_at_once(bench: Bench) -> None:
    """Print how many executions fit into a second."""
    figures = Figures()
    size = bench.size
    with bench.deno() as deno:
        async with bench.sandboxes() as sandboxes:
            for number in range(size.rounds + 1):

                def add(row: str, what: str, elapsed_s: float, cpu_s: float, kept: bool = number > 0) -> None:
                    if kept:
                        figures.add(row, f"{what}/s", size.executions / elapsed_s)
                        figures.add(row, f"{what}, CPU ms", cpu_s / size.executions * 1000)

                for what, calls in CALLS.items():
                    for side, sandbox in sandboxes:
                        cpu_s, began = get_tree_cpu_s(os.getpid()), time.perf_counter()
                        await execute_at_once(side, sandbox, what, size.executions)
                        elapsed_s = time.perf_counter() - began
                        add(side.name, what, elapsed_s, get_tree_cpu_s(os.getpid()) - cpu_s)
                    if deno is not None:
                        cpu_s = get_tree_cpu_s(deno.pid)
                        elapsed_s = deno.measure(calls, size.executions, AT_ONCE)[1]
                        add("Deno, a worker each", what, elapsed_s, get_tree_cpu_s(deno.pid) - cpu_s)
    columns = {"nothing/s": 0, "nothing, CPU ms": 2, "five/s": 0, "five, CPU ms": 2}
    figures.show(f"{AT_ONCE} at once", columns, ("Python warm", "nothing/s"))


async def execute_at_once(side: Side, sandbox: AnySandbox, function: str, count: int) -> None:
    """Run a function so often, `AT_ONCE` in flight."""
    left = count

    async def run() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await execute(side, sandbox, function)

    async with trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            nursery.start_soon(run)


async def measure_memory(bench: Bench) -> None:
    """Print what guests cost that only wait."""
    figures = Figures()
    count = bench.size.suspended

    def add(row: str, started_s: float, private_kib: float) -> None:
        figures.add(row, "until all wait, ms", started_s * 1000)
        figures.add(row, "of its own, KiB", private_kib)

    for _ in range(max(1, bench.size.rounds // 2)):
        for side in SIDES:
            if side.warm:
                continue
            async with running(side, bench.project) as sandbox:
                await execute(side, sandbox, "nothing")
                seen = await suspend(sandbox, count)
            add(side.name, seen.started_s, seen.private_kib)
            figures.add(side.name, "until all have answered, ms", seen.ended_s * 1000)
        with bench.deno() as deno:
            if deno is not None:
                deno.measure(0, 1, 1)
                before = get_private_kib(deno.pid)
                started_s = deno.suspend(count)
                add("Deno, a worker each", started_s, (get_private_kib(deno.pid) - before) / count)
                deno.release()
    columns = {"until all wait, ms": 0, "until all have answered, ms": 0, "of its own, KiB": 0}
    figures.show(f"{count} guests that wait", columns)


async def measure_starting(bench: Bench) -> None:
    """Print how long a deployment takes to its first answer."""
    figures = Figures()
    for number in range(bench.size.rounds + 1):
        kept = number > 0  # The first start ever compiles the interpreter.
        for side in SIDES:
            if side.warm:
                continue
            began = time.perf_counter()
            async with running(side, bench.project) as sandbox:
                await execute(side, sandbox, "nothing")
                if kept:
                    figures.add(side.name, "ms", (time.perf_counter() - began) * 1000)
        for name, program in bench.peers.items():
            with sandbox_peers.serving(name, program, bench.folder) as (_, _, elapsed_s):
                if kept:
                    figures.add(f"{name}, as a server", "ms", elapsed_s * 1000)
        if kept:
            figures.add("cold python", "ms", run_cold_python() * 1000)
    figures.show("files to first answer", {"ms": 0})


async def measure_neighbours(bench: Bench) -> None:
    """Print how long a no-op takes while others misbehave."""
    figures = Figures()
    for number in range(bench.size.rounds + 1):
        for side in SIDES:
            if not side.hostile:
                continue
            async with running(side, bench.project) as sandbox:
                await execute(side, sandbox, "nothing")
                for hostile in ("", *side.hostile):
                    times_s = await ask_beside(side, sandbox, hostile, bench.size.seconds)
                    if number > 0:
                        row = f"{side.name}: {hostile or 'nobody'}"
                        figures.add(row, "p50, ms", statistics.median(times_s) * 1000)
                        figures.add(row, "p99, ms", get_percentile(times_s, 99) * 1000)
                        figures.add(row, "longest, ms", max(times_s) * 1000)
                        figures.add(row, "answers", len(times_s))
    columns = {"p50, ms": 1, "p99, ms": 1, "longest, ms": 1, "answers": 0}
    figures.show("no-op beside", columns)


async def ask_beside(side: Side, sandbox: AnySandbox, hostile: str, seconds: float) -> list[float]:
    """Run no-ops for so long, with a hostile guest always there; return the seconds of each no-op."""
    times_s: list[float] = []

    async def misbehave() -> None:
        while True:
            await let_loose(side, sandbox, hostile)

    async def ask() -> None:
        while trio.current_time() < until:
            times_s.append(await execute(side, sandbox, "nothing"))

    async with trio.open_nursery() as nursery:
        if hostile:
            nursery.start_soon(misbehave)
            await trio.sleep(0.05)
        until = trio.current_time() + seconds
        async with trio.open_nursery() as neighbours:
            for _ in range(NEIGHBOURS):
                neighbours.start_soon(ask)
        nursery.cancel_scope.cancel()
    return times_s


# Metering

_COMPUTING: Mapping[str, str] = {
    "arithmetic": """(local $n i32) (local $x i32)
      (loop $again
        (local.set $x (i32.xor (i32.mul (local.get $x) (i32.const 1664525)) (local.get $n)))
        (local.set $n (i32.add (local.get $n) (i32.const 1)))
        (br_if $again (i32.lt_u (local.get $n) (i32.const 10000000))))
      (i32.store (i32.const 0) (local.get $x))""",
    "memory": """(local $n i32)
      (loop $again
        (i32.store (i32.and (i32.mul (local.get $n) (i32.const 68)) (i32.const 0x3fffc))
          (i32.add (i32.load (i32.and (local.get $n) (i32.const 0x3fffc))) (i32.const 1)))
        (local.set $n (i32.add (local.get $n) (i32.const 4)))
        (br_if $again (i32.lt_u (local.get $n) (i32.const 20000000))))""",
    "calls": "(i32.store (i32.const 0) (call $fibonacci (i32.const 27)))",
}


def _make_computing(body: str) -> str:
    return f"""(module (memory (export "memory") 8)
      (func $fibonacci (param $n i32) (result i32)
        (if (result i32) (i32.lt_u (local.get $n) (i32.const 2)) (then (local.get $n)) (else (i32.add
          (call $fibonacci (i32.sub (local.get $n) (i32.const 1)))
          (call $fibonacci (i32.sub (local.get $n) (i32.const 2)))))))
      (func (export "_start") {body}))"""


def _run_raw(text: str, *, has_fuel: bool) -> Callable[[], float]:
    """Return what runs a module once, with wasmtime alone, and gives the seconds of CPU."""
    config = wasmtime.Config()
    config.consume_fuel = has_fuel
    config.cranelift_nan_canonicalization = True
    engine = wasmtime.Engine(config)
    module = wasmtime.Module(engine, bytes(wasmtime.wat2wasm(text)))

    def run() -> float:
        store = wasmtime.Store(engine)
        if has_fuel:
            store.set_fuel(1 << 62)
        start = wasmtime.Instance(store, module, []).exports(store)["_start"]
        assert isinstance(start, wasmtime.Func)
        began = time.process_time()
        start(store)
        return time.process_time() - began

    return run


async def measure_metering(bench: Bench) -> None:
    """Print what it costs to count, and to take turns: in CPU, which others on the machine change less."""
    figures = Figures()
    runs: dict[tuple[str, str], Callable[[], float]] = {}
    for name, body in _COMPUTING.items():
        text = _make_computing(body)
        runs[name, "no fuel, ms"] = _run_raw(text, has_fuel=False)
        runs[name, "fuel, ms"] = _run_raw(text, has_fuel=True)
    engines = {
        "no slices, ms": Engine(NEVER),
        "slices, ms": Engine(),
        "slices of a tenth, ms": Engine(SLICE_FUEL // 10),
    }
    guests = {
        (name, column): (engine, load_module(engine, f"{name}.wasm", engine.assemble(_make_computing(body))))
        for name, body in _COMPUTING.items()
        for column, engine in engines.items()
    }
    for number in range(bench.size.rounds + 1):
        found = {place: run() for place, run in runs.items()}
        for place, (engine, module) in guests.items():
            began = time.process_time()
            await run_module(engine, module, FileTree({}), AnsweringDoor(answer_call), make_start("x"))
            found[place] = time.process_time() - began
        if number > 0:
            for (name, column), seconds in found.items():
                figures.add(name, column, seconds * 1000)
            for name in _COMPUTING:
                ratio = found[name, "fuel, ms"] / found[name, "no fuel, ms"]
                figures.add(name, "fuel costs, %", (ratio - 1) * 100)
    columns = dict.fromkeys(("no fuel, ms", "fuel, ms", "fuel costs, %", *engines), 1)
    figures.show("a guest that computes, CPU", columns)


# Behind HTTP

_ROUTES: Mapping[str, tuple[str, str]] = {
    "Python fresh": (
        "a.py",
        'from flux_guest import function\n\n@function("POST /noop")\nasync def noop(ctx, input):\n'
        '    return {"ok": True}\n',
    ),
    "JavaScript fresh": (
        "a.js",
        'import { defineFunction } from "@flux/guest";\nexport default defineFunction({ name: "noop", '
        'route: "POST /noop", handler: async () => ({ ok: true }) });\n',
    ),
}


def run_load(port: int, seconds: float) -> Load:
    """Run the clients, in their own process."""
    command = [sys.executable, str(HERE / "load.py"), str(port), "noop", "--seconds", str(seconds),
               "--connections", str(AT_ONCE)]  # fmt: skip
    return Load(**json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


async def measure_over_http(bench: Bench) -> None:
    """Print what whole servers do."""
    await trio.to_thread.run_sync(_measure_over_http, bench)


def _measure_over_http(bench: Bench) -> None:
    figures = Figures()
    with contextlib.ExitStack() as stack:
        postgres = stack.enter_context(running_postgres(extra_settings=SETTINGS, on_disk=True))
        ports: dict[str, tuple[int, int]] = {}
        for number, name in enumerate(("Python fresh", "Python warm", "JavaScript fresh", "WASI fresh")):
            file, text = _ROUTES.get(name, _ROUTES["Python fresh"])
            folder = bench.folder / f"http{number}"
            folder.mkdir()
            toml = "[sandbox]\nwarm = 1000000\n" if name == "Python warm" else ""
            write_flux_project(folder, {} if name == "WASI fresh" else {file: text}, toml=toml)
            if name == "WASI fresh":
                section = '(@custom "flux" "{\\22name\\22: \\22noop\\22, \\22route\\22: \\22POST /noop\\22}")'
                text = MODULES["nothing"].replace("(module", f"(module {section}", 1)
                (folder / "functions").mkdir()
                (folder / "functions" / "noop.wasm").write_bytes(Engine().assemble(text))
            server = stack.enter_context(running_dev(folder, create_database(postgres, f"b{number}")))
            ports[f"flux dev, {name}"] = server.port, server.process.pid
        for name, program in bench.peers.items():
            port, pid, _ = stack.enter_context(sandbox_peers.serving(name, program, bench.folder))
            ports[f"{name}, one isolate for all, nothing recorded"] = port, pid
        for number in range(bench.size.rounds + 1):
            for name, (port, pid) in ports.items():
                cpu_s = get_tree_cpu_s(pid)
                load = run_load(port, bench.size.seconds)
                if number > 0:
                    figures.add(name, "requests/s", load.rate)
                    figures.add(name, "p50, ms", load.p50_ms)
                    figures.add(name, "p99, ms", load.p99_ms)
                    figures.add(name, "CPU ms", (get_tree_cpu_s(pid) - cpu_s) / max(1, load.count) * 1000)
                    figures.add(name, "failed", sum(load.failed.values()))
    columns = {"requests/s": 0, "p50, ms": 1, "p99, ms": 1, "CPU ms": 2, "failed": 0}
    figures.show("no-op over HTTP", columns, ("flux dev, Python warm", "requests/s"))


PARTS = {
    "one_at_a_time": measure_one_at_a_time,
    "many_at_once": measure_many_at_once,
    "over_http": measure_over_http,
    "memory": measure_memory,
    "starting": measure_starting,
    "metering": measure_metering,
    "neighbours": measure_neighbours,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two short rounds: to see that it works")
    parser.add_argument("--rounds", type=int)
    parser.add_argument(
        "--no-peers", action="store_true", help="without Deno and workerd; nothing is fetched"
    )
    parser.add_argument(
        "--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="these parts alone"
    )
    options = parser.parse_args()
    size = QUICK if options.quick else WHOLE
    if options.rounds is not None:
        size = attrs.evolve(size, rounds=options.rounds)
    print_machine()
    with tempfile.TemporaryDirectory(prefix="fluxbench") as name:
        folder = Path(name)
        folder.chmod(0o755)  # Guests have a user of their own when this runs as root.
        peers = {} if options.no_peers else sandbox_peers.install(folder)
        bench = Bench(size, folder, peers)
        for part in options.only:
            print(f"\n### {part.replace('_', ' ')}\n", flush=True)
            trio.run(partial(PARTS[part], bench))


if __name__ == "__main__":
    main()
