"""The functions that `benchmarks.sandboxes` runs, once for each kind of sandbox, and how one is run.

Each kind has the same functions: ``nothing`` answers at once, ``five`` makes five host calls one after the other,
``wait`` makes one that is not answered until somebody says so, and the hostile ones take what they can. A function is
run by Flux's own `drive` with a host that answers everything at once, so what is measured is the sandbox: no
journal, no database, no HTTP.
"""

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import attrs
import trio

from benchmarks.host_call import InstantHost
from flux.execution import Returned
from flux.hostcall import HostCallRequest, HostCallResult
from flux.limits import Limits
from flux.redact import RedactionRules, Redactor
from flux.sandbox.conformance import make_document
from flux.sandbox.jail import find_guest_uid
from flux.sandbox.process import ProcessSandbox
from flux.sandbox.wasm import WasmSandbox, default_folder
from flux.sandbox.wasm_engine import Engine
from flux.session import RecordSession
from flux.supervisor.drive import Bounds, drive

HOSTILE_S = 0.5
"""How long a hostile guest may go on."""
PYTHON = """
import ctypes
import os
import re
from flux_guest import function

@function()
async def nothing(ctx, input):
    return {"ok": True}

@function()
async def five(ctx, input):
    for _ in range(5):
        await ctx.clock.fresh()
    return {"ok": True}

@function()
async def wait(ctx, input):
    await ctx.clock.fresh()
    return {"ok": True}

@function()
def spin(ctx, input):
    while True:
        pass

@function()
def regex(ctx, input):
    return re.match(r"(a+)+$", "a" * 40 + "!")

@function()
def memory(ctx, input):
    eaten = []
    while True:
        eaten.append(bytearray(1_000_000))

@function()
def logs(ctx, input):
    while True:
        ctx.log.info("x" * 500)

@function()
def output(ctx, input):
    while True:
        os.write(2, b"x" * 99 + b"\\n")

@function()
async def calls(ctx, input):
    while True:
        await ctx.clock.fresh()

@function()
def forks(ctx, input):
    libc = ctypes.CDLL(None)
    while True:
        libc.fork()
"""
JAVASCRIPT = """
import { defineFunction } from "@flux/guest";

export const nothing = defineFunction(async () => ({ ok: true }));
export const five = defineFunction(async ({ ctx }) => {
  for (let n = 0; n < 5; n++) await ctx.clock.fresh();
  return { ok: true };
});
export const wait = defineFunction(async ({ ctx }) => {
  await ctx.clock.fresh();
  return { ok: true };
});
export const spin = defineFunction(async () => {
  for (;;);
});
export const regex = defineFunction(async () => /^(a+)+$/.test(`${"a".repeat(40)}!`));
export const memory = defineFunction(async () => {
  const eaten = [];
  for (;;) eaten.push(new Uint8Array(1 << 20).fill(1));
});
export const logs = defineFunction(async ({ ctx }) => {
  for (;;) ctx.log.info("x".repeat(500));
});
export const calls = defineFunction(async ({ ctx }) => {
  for (;;) await ctx.clock.fresh();
});
"""
_CALLS = 1000
_CALL = '[%4d,"clock.now",[]]\n'
_CALL_BYTES = len(_CALL % 1)
_LOG = '[0,"log.write",["info","' + "x" * 500 + '",{}]]\n'


def _text(content: str) -> str:
    return "".join(f"\\{byte:02x}" for byte in content.encode())


def _module(body: str) -> str:
    frames = "".join(_CALL % number for number in range(1, _CALLS + 1))
    return f"""(module
      (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 4)
      (data (i32.const 100) "{_text('{"ok": true}')}") (data (i32.const 1024) "{_text(_LOG)}")
      (data (i32.const 65536) "{_text(frames)}")
      (func $write (param $descriptor i32) (param $at i32) (param $size i32)
        (i32.store (i32.const 0) (local.get $at)) (i32.store (i32.const 4) (local.get $size))
        (drop (call $fd_write (local.get $descriptor) (i32.const 0) (i32.const 1) (i32.const 8))))
      (func $read (param $descriptor i32)
        (i32.store (i32.const 0) (i32.const 8192)) (i32.store (i32.const 4) (i32.const 4096))
        (drop (call $fd_read (local.get $descriptor) (i32.const 0) (i32.const 1) (i32.const 8))))
      (func $ask (param $times i32) (local $number i32)
        (loop $next
          (call $write (i32.const 3)
            (i32.add (i32.const 65536) (i32.mul (local.get $number) (i32.const {_CALL_BYTES})))
            (i32.const {_CALL_BYTES}))
          (call $read (i32.const 3))
          (local.set $number (i32.add (local.get $number) (i32.const 1)))
          (br_if $next (i32.lt_u (local.get $number) (local.get $times)))))
      (func $answer (call $write (i32.const 1) (i32.const 100) (i32.const 12)))
      (func (export "_start") (call $read (i32.const 0)) {body}))"""


MODULES: Mapping[str, str] = {
    name: _module(body)
    for name, body in {
        "nothing": "(call $answer)",
        "five": "(call $ask (i32.const 5)) (call $answer)",
        "wait": "(call $ask (i32.const 1)) (call $answer)",
        "spin": "(loop $again (br $again))",
        "memory": "(loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) (unreachable)",
        "logs": f"(loop $again (call $write (i32.const 3) (i32.const 1024) (i32.const {len(_LOG)})) (br $again))",
        "output": "(loop $again (call $write (i32.const 2) (i32.const 1024) (i32.const 100)) (br $again))",
        "calls": f"(call $ask (i32.const {_CALLS})) (loop $again (br $again))",
    }.items()
}

AnySandbox = ProcessSandbox | WasmSandbox


@attrs.frozen
class Side:
    """A kind of sandbox."""

    name: str
    folder: str
    """Of its functions, in the benchmark's project."""
    make: Callable[[Path], AnySandbox]
    """Given the project."""
    hostile: tuple[str, ...]
    """Its hostile functions."""
    warm: bool = False


def _make_process(project: Path, *, warm: int = 1) -> ProcessSandbox:
    return ProcessSandbox(project, "python", uid=find_guest_uid("strict", "bench"), warm=warm)


_HOSTILE_SCRIPTS = ("spin", "regex", "memory", "logs", "calls")
SIDES = (
    Side(
        "Python fresh",
        "python",
        _make_process,
        ("spin", "regex", "memory", "logs", "output", "calls", "forks"),
    ),
    Side("Python warm", "python", lambda project: _make_process(project, warm=1_000_000), (), warm=True),
    Side(
        "JavaScript fresh",
        "javascript",
        lambda project: WasmSandbox(project, "javascript", cache=default_folder()),
        _HOSTILE_SCRIPTS,
    ),
    Side(
        "WASI fresh",
        "wasi",
        lambda project: WasmSandbox(project, "wasi", cache=default_folder()),
        ("spin", "memory", "logs", "output", "calls"),
    ),
)


def write_project(project: Path) -> None:
    """Write all functions, a folder for each kind."""
    engine = Engine()
    files = {"python/a.py": PYTHON.encode(), "javascript/a.js": JAVASCRIPT.encode()}
    files |= {f"wasi/{name}.wasm": engine.assemble(text) for name, text in MODULES.items()}
    for name, content in files.items():
        path = project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@contextlib.asynccontextmanager
async def running(side: Side, project: Path) -> AsyncIterator[AnySandbox]:
    """Run a sandbox of ``side``."""
    async with trio.open_nursery() as nursery:
        sandbox = side.make(project)
        await nursery.start(sandbox.run)
        yield sandbox
        nursery.cancel_scope.cancel()


HOST = InstantHost(immediate=True)
_LIMITS = Limits()


async def execute(side: Side, sandbox: AnySandbox, function: str) -> float:
    """Run a function that answers; return the seconds from asking for a worker to its answer."""
    began = time.perf_counter()
    worker = await sandbox.acquire()
    driven = await drive(
        worker, make_document(function), RecordSession(), HOST, Bounds(_LIMITS, {}),
        redactor=Redactor(RedactionRules.parse([]), b"seed"), keep_worker=side.warm,
    )  # fmt: skip
    elapsed_s = time.perf_counter() - began
    await sandbox.release(worker, reusable=driven.reusable)
    if not isinstance(driven.outcome, Returned):
        raise RuntimeError(f"{side.name}: {function} ended with {driven.outcome}")
    return elapsed_s


async def let_loose(side: Side, sandbox: AnySandbox, function: str) -> str:
    """Run a hostile function to its end; return how it ended."""
    worker = await sandbox.acquire()
    limits = Limits(timeout_s=HOSTILE_S, memory_bytes_max=96 * 2**20)
    driven = await drive(
        worker, make_document(function), RecordSession(), HOST, Bounds(limits, {}),
        redactor=Redactor(RedactionRules.parse([]), b"seed"),
    )  # fmt: skip
    await sandbox.release(worker, reusable=False)
    if driven.outcome is None or isinstance(driven.outcome, Returned):
        raise RuntimeError(f"{side.name}: {function} was to be ended, and ended with {driven.outcome}")
    return driven.outcome.kind


class Gate:
    """A host that answers when it is opened."""

    def __init__(self) -> None:
        self.asked = 0
        self.open = trio.Event()
        self.all_asked = trio.Event()
        self.awaited = 0
        """How many are to ask before ``all_asked``."""

    def is_immediate(self, name: str) -> bool:  # noqa: ARG002 - the protocol's
        return False

    async def perform(self, request: HostCallRequest) -> HostCallResult:
        self.asked += 1
        if self.asked == self.awaited:
            self.all_asked.set()
        await self.open.wait()
        return await HOST.perform(request)

    def cancelled(self, request: HostCallRequest, elapsed_ns: int) -> HostCallResult:
        return HOST.cancelled(request, elapsed_ns)


@attrs.frozen
class Suspended:
    """Many guests, each waiting for an answer."""

    started_s: float
    """From the first start until all have asked."""
    ended_s: float
    """From the first answer until all have answered."""
    private_kib: float
    """Memory of its own that each has while it waits."""


async def suspend(sandbox: AnySandbox, count: int) -> Suspended:
    """Let so many guests wait at once, look at them, and let them go on."""
    gate = Gate()
    gate.awaited = count
    pids: set[int] = set()
    host_before = {pid: get_private_kib(pid) for pid in _list_hosts(sandbox)}

    async def one() -> None:
        worker = await sandbox.acquire()
        pids.add(worker.pid)
        driven = await drive(
            worker, make_document("wait"), RecordSession(), gate, Bounds(Limits(timeout_s=300), {}),
            redactor=Redactor(RedactionRules.parse([]), b"seed"),
        )  # fmt: skip
        await sandbox.release(worker, reusable=False)
        if not isinstance(driven.outcome, Returned):
            raise RuntimeError(f"a guest that waited ended with {driven.outcome}")

    async with trio.open_nursery() as nursery:
        began = time.perf_counter()
        for _ in range(count):
            nursery.start_soon(one)
        await gate.all_asked.wait()
        started_s = time.perf_counter() - began
        private_kib = sum(get_private_kib(pid) - host_before.get(pid, 0.0) for pid in pids) / count
        began = time.perf_counter()
        gate.open.set()
    return Suspended(started_s, time.perf_counter() - began, private_kib)


def _list_hosts(sandbox: AnySandbox) -> tuple[int, ...]:
    """Return the process in which guests share memory, if they do."""
    pid = sandbox.process_pid if isinstance(sandbox, WasmSandbox) else None
    return () if pid is None else (pid,)


def get_private_kib(pid: int) -> float:
    """Return what a process has of memory that nobody shares."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return float(sum(int(line.split()[1]) for line in lines if line.startswith("Private_")))
