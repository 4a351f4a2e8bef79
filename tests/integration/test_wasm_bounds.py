"""What the guests of one deployment hold together has an end, and what is kept of their code has an owner."""

import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from flux.execution import Killed, Returned
from flux.failure import Kind, find_failure
from flux.hostcall import HostCallRequest, HostCallResult
from flux.limits import Limits
from flux.redact import RedactionRules, Redactor
from flux.sandbox import wasm
from flux.sandbox.base import SandboxUnavailableError
from flux.sandbox.conformance import Talk, make_document
from flux.sandbox.wasm import WasmSandbox, default_folder
from flux.sandbox.wasm_cache import CompiledCode
from flux.sandbox.wasm_engine import FIBER_STACK_BYTES, Engine
from flux.sandbox.wasm_ledger import GUEST_BYTES, ROOM_PATIENCE_S, Ledger, NoRoomError
from flux.sandbox.wasm_module import BadFunctionFileError, load_module
from flux.sandbox.wasm_process import Compiled, keep_compiled
from flux.session import Divergence, RecordSession, ReplaySession, Session
from flux.supervisor.drive import Bounds, Driven, Host, drive
from flux.verdict import Replayed, Verdict, judge
from tests.failing_executions import execution as failing
from tests.guests.record_and_replay import RefusingHost
from tests.wasm_guests import assemble, assemble_text

MIB = 2**20
PATIENCE_S = 120.0
FUNCTIONS = """
import { defineFunction } from "@flux/guest";

export const echo = defineFunction(async ({ input }) => input.text);
// Takes so many MiB, says so, and keeps them.
export const hold = defineFunction(async ({ input, ctx }) => {
  const held = [];
  for (let n = 0; n < input.mib; n++) held.push(new Uint8Array(1 << 20).fill(1));
  await ctx.call("test.echo", ["holds"]);
  return held.length;
});
// Takes them after it has heard something, and waits for nothing more.
export const gather = defineFunction(async ({ input, ctx }) => {
  await ctx.call("test.echo", ["begins"]);
  const held = [];
  for (let n = 0; n < input.mib; n++) held.push(new Uint8Array(1 << 20).fill(1));
  for (let n = 0; n < 3e6; n++) held[n % input.mib][n % 100] = n;
  return held.length;
});
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "functions").mkdir()
    (tmp_path / "functions" / "all.js").write_text(FUNCTIONS)
    return tmp_path


@asynccontextmanager
async def running(project: Path, **options: Any) -> AsyncIterator[WasmSandbox]:
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            sandbox = WasmSandbox(project, "functions", **{"cache": default_folder(), **options})
            await nursery.start(sandbox.run)
            yield sandbox
            nursery.cancel_scope.cancel()


async def echo(sandbox: WasmSandbox, text: str = "x") -> str:
    worker = await sandbox.acquire()
    try:
        await worker.start(make_document("echo", text=text))
        return await Talk(worker).hear_body()
    finally:
        await sandbox.release(worker, reusable=False)


# All guests together


async def test_the_guest_that_holds_most_goes_when_all_hold_too_much(project: Path) -> None:
    async with running(project, all_memory_bytes_max=160 * MIB) as sandbox:
        small, large = await sandbox.acquire(), await sandbox.acquire()
        await small.start(make_document("hold", mib=10))
        talk = Talk(small)
        await talk.hear_call()
        await large.start(make_document("hold", mib=100))
        await Talk(large).hear_call()
        middle = await sandbox.acquire()
        await middle.start(make_document("hold", mib=60))
        # The large one waits for its answer, and has asked for nothing more.
        assert await large.receive() == b""
        exited = await large.wait_exit()
        assert exited.signal == signal.SIGKILL and exited.eviction is not None
        assert exited.eviction.bytes_max == 160 * MIB
        assert "hold all of 160 MiB: this one held most" in exited.eviction.why
        # The others notice nothing.
        middle_talk = Talk(middle)
        await middle_talk.hear_call()
        await middle_talk.answer(1, "go on")
        assert await middle_talk.hear_body() == "60"
        await talk.answer(1, "go on")
        assert await talk.hear_body() == "10"
        for worker in (small, large, middle):
            await sandbox.release(worker, reusable=False)
        assert await echo(sandbox) == "x"
        assert sandbox.restarts == 0


class Slow(RefusingHost):
    """Answers who holds memory once it is told to."""

    def __init__(self) -> None:
        self.asked, self.told = trio.Event(), trio.Event()

    def is_immediate(self, name: str) -> bool:
        return not name

    async def perform(self, request: HostCallRequest) -> HostCallResult:
        if json.loads(request.arguments) == ["holds"]:
            self.asked.set()
            await self.told.wait()
        return HostCallResult(request.arguments)


async def run_guest(sandbox: WasmSandbox, document: bytes, session: Session, host: Host) -> Driven:
    worker = await sandbox.acquire()
    try:
        bounds = Bounds(Limits(), {})
        return await drive(
            worker, document, session, host, bounds, redactor=Redactor(RedactionRules(), bytes(32))
        )
    finally:
        await sandbox.release(worker, reusable=False)


@pytest.mark.parametrize("waits", [True, False])
async def test_a_replay_of_a_guest_that_went_for_its_neighbours_says_that_they_are_not_there(
    project: Path, waits: bool
) -> None:
    document = make_document("hold", mib=100) if waits else make_document("gather", mib=200)
    recorded = RecordSession()
    driven: list[Driven] = []
    async with running(project, all_memory_bytes_max=160 * MIB) as sandbox:
        neighbour, host = Slow(), Slow()

        async def run_evicted() -> None:
            driven.append(await run_guest(sandbox, document, recorded, host))
            neighbour.told.set()

        async def run_neighbour(mib: int) -> None:
            done = await run_guest(sandbox, make_document("hold", mib=mib), RecordSession(), neighbour)
            assert isinstance(done.outcome, Returned)

        async with trio.open_nursery() as nursery:
            if waits:
                nursery.start_soon(run_evicted)
                await host.asked.wait()
                nursery.start_soon(run_neighbour, 70)
            else:
                nursery.start_soon(run_neighbour, 30)
                await neighbour.asked.wait()
                nursery.start_soon(run_evicted)
    (evicted,) = driven
    assert isinstance(evicted.outcome, Killed)
    assert (evicted.outcome.limit, evicted.outcome.allowed) == ("neighbours", "160MiB")
    original = failing(evicted.outcome, *recorded.calls, logs=recorded.logs, fuel=evicted.fuel)
    assert [call.result is None for call in original.calls] == ([True] if waits else [False])
    failure = find_failure(original)
    assert failure is not None and failure.kind is Kind.EVICTED

    session = ReplaySession(original.calls, original.logs, ended=False, cut=None, fuel=original.fuel)
    async with running(project, all_memory_bytes_max=160 * MIB) as sandbox:
        again = await run_guest(sandbox, document, session, RefusingHost())
    # The one comes to its wait and is stopped there, the other goes on to its end.
    assert (again.outcome is None) is waits and again.divergence is None
    execution = attrs.evolve(original, outcome=again.outcome or original.outcome, calls=session.calls)
    divergence = None if waits else Divergence("outcome", 0, "killed", "answered 200")
    judged = judge(original, Replayed(execution, divergence))
    assert judged.verdict is Verdict.OUTSIDE and "neighbours" in judged.reason


class WantedDoor:
    def __init__(self) -> None:
        self.why: list[str] = []

    def end(self, why: str) -> None:
        self.why.append(why)

    def check_open(self) -> None:
        """It is open."""


async def test_a_guest_waits_for_room_and_is_refused_after_a_while(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ledger = Ledger(10 * MIB)
    first = await ledger.enter(WantedDoor(), 8 * MIB)
    began = trio.current_time()
    with pytest.raises(NoRoomError, match="no room for one more"):
        await ledger.enter(WantedDoor(), 4 * MIB)
    assert trio.current_time() - began == pytest.approx(ROOM_PATIENCE_S, abs=0.2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ledger.enter, WantedDoor(), 4 * MIB)
        await trio.sleep(1)
        ledger.leave(first)
    assert trio.current_time() - began < 2 * ROOM_PATIENCE_S


async def test_one_guest_alone_is_begun_however_large_and_nobody_goes_twice() -> None:
    ledger = Ledger(MIB)
    door = WantedDoor()
    place = await ledger.enter(door, 4 * MIB)
    ledger.book(place, 5 * MIB)
    ledger.book(place, 6 * MIB)
    assert len(door.why) == 1 and "held most, 5 MiB" in door.why[0]
    ledger.leave(place)
    await ledger.enter(door, MIB - GUEST_BYTES)  # All of it is free again.


async def test_beyond_a_number_of_guests_callers_wait_and_then_hear_why(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wasm, "PLACE_PATIENCE_S", 0.2)
    async with running(project, guests_max=2) as sandbox:
        first, second = await sandbox.acquire(), await sandbox.acquire()
        with pytest.raises(SandboxUnavailableError, match="2 executions of this deployment run at once"):
            await sandbox.acquire()
        await sandbox.release(first, reusable=False)
        assert await echo(sandbox) == "x"
        await sandbox.release(second, reusable=False)
        # Places that a dead process took are free again.
        taken = [await sandbox.acquire() for _ in range(2)]
        died = sandbox.process_pid
        assert died is not None
        os.kill(died, signal.SIGKILL)
        for worker in taken:
            await worker.wait_exit()
            await sandbox.release(worker, reusable=False)
        while sandbox.process_pid == died:  # noqa: ASYNC110 - its own line ends a moment after its guests' lines
            await trio.sleep(0.005)
        assert await echo(sandbox) == "x"


DEEP = """
  ;; Uses many frames of its stack, and waits there.
  (func $deeper (param $left i32) (result i32)
    (if (result i32) (local.get $left)
      (then (i32.add (i32.const 1) (call $deeper (i32.sub (local.get $left) (i32.const 1)))))
      (else
        (i32.store (i32.const 144) (i32.const 1))
        (i64.store (i32.const 152) (i64.const 1000000000000000))
        (call $poll_oneoff (i32.const 128) (i32.const 256) (i32.const 1) (i32.const 8)))))
  (func (export "_start") (drop (call $deeper (i32.const 150000))))
"""


async def test_a_process_that_has_much_more_memory_than_its_guests_may_hold_is_killed(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wasm, "OWN_BYTES", 0)
    monkeypatch.setattr(wasm, "RESIDENT_LOOK_S", 0.01)
    (project / "functions" / "deep.wasm").write_bytes(assemble_text(DEEP))
    said: list[str] = []
    options = {"memory_bytes_max": MIB, "all_memory_bytes_max": 100 * MIB, "guests_max": 40}
    async with running(project, on_output=said.append, **options) as sandbox:
        # Stacks are in no count of the process's own.
        deep = []
        while sandbox.restarts == 0 and len(deep) < 40:
            deep.append(await sandbox.acquire())
            await deep[-1].start(make_document("deep"))
            await trio.sleep(0.05)
        for worker in deep:
            if worker.pid != sandbox.process_pid:  # The last may have waited for the next process, and lives.
                await worker.wait_exit()
            await sandbox.release(worker, reusable=False)
        assert await echo(sandbox) == "x"
        assert sandbox.restarts == 1
    assert any("it is killed, with the guests in it" in text for text in said)


def test_the_supervisor_counts_a_guests_stack_as_the_engine_makes_it() -> None:
    assert wasm.GUEST_STACK_BYTES == FIBER_STACK_BYTES


# One guest


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ('(memory 1) (func (export "_start"))', "multi"),
        ('(memory $more i64 1) (func (export "_start"))', "memor"),
        ('(func $loop (loop $again (br $again))) (start $loop) (func (export "_start"))', "start function"),
        ("".join(["(table 1 funcref)"] * 5) + '(func (export "_start"))', "table"),
        ('(table 300000 funcref) (func (export "_start"))', "table"),
        ('(type (struct)) (func (export "_start"))', "gc"),
    ],
)
def test_what_no_limit_bounds_is_refused_when_it_is_loaded(body: str, says: str) -> None:
    with pytest.raises(BadFunctionFileError, match=f"(?i){says}"):
        load_module(Engine(), "functions/bad.wasm", assemble_text(body))


async def test_a_sleep_that_was_refused_or_given_up_takes_no_time(project: Path) -> None:
    (project / "functions" / "sleeps.js").write_text("""
import { defineFunction } from "@flux/guest";
export const sleeps = defineFunction(async ({ ctx }) => {
  const began = Date.now();
  await ctx.call("clock.sleep", [1e300]).catch(() => {});
  const timer = setTimeout(() => {}, 60_000);
  clearTimeout(timer);
  await ctx.call("clock.sleep", [2]);
  return Date.now() - began;
});
""")
    async with running(project) as sandbox:
        worker = await sandbox.acquire()
        await worker.start(make_document("sleeps"))
        talk = Talk(worker)
        answers = []
        while (frame := await talk.hear()) is not None and frame[0] != "return":
            match frame:
                case [int(seq), "clock.sleep", [seconds], *_] if seconds in (1e300, 60):
                    answers.append(seq)
                    error = {"name": "Cancelled", "message": "no", "code": None, "details": {}}
                    await worker.send(json.dumps([seq, error, None, 0]).encode() + b"\n")
                case [int(seq), "clock.sleep", *_]:
                    await talk.answer(seq, None)
        assert frame is not None and json.loads(frame[1]["body"]) == 2000
        assert len(answers) == 2
        await sandbox.release(worker, reusable=False)


# Compiled code


def list_kept(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in folder.iterdir()}


async def test_modules_are_compiled_once_for_a_tenant_and_never_for_another(
    project: Path, tmp_path: Path
) -> None:
    (project / "functions" / "all.js").unlink()
    (project / "functions" / "greet.wasm").write_bytes(assemble("greet"))
    cache = tmp_path / "cache"
    kept = []
    for tenant in ("one", "one", "two"):
        async with running(project, cache=cache, tenant=tenant):
            kept.append(list_kept(cache))
    assert len(kept[0]) == 1 and kept[1] == kept[0]
    assert len(kept[2]) == 2 and kept[2].items() >= kept[0].items()
    assert {path.stat().st_mode & 0o777 for path in cache.iterdir()} == {0o600}
    # What is damaged is compiled again, and replaced.
    (name,) = kept[0]
    whole = (cache / name).read_bytes()
    (cache / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    async with running(project, cache=cache, tenant="one") as sandbox:
        assert (cache / name).read_bytes() == whole
        worker = await sandbox.acquire()
        await worker.start(make_document("greet"))
        assert json.loads(await Talk(worker).hear_body()) == {"greeting": "hello from wasm"}
        await sandbox.release(worker, reusable=False)


@pytest.mark.parametrize("module", ["../../etc/passwd.wasm", "/etc/passwd.wasm", "functions/all.js", ""])
def test_a_process_hands_over_code_for_files_of_its_own_only(
    module: str, project: Path, tmp_path: Path
) -> None:
    sandbox = WasmSandbox(project, "functions")
    cache: CompiledCode[Any] = CompiledCode(tmp_path / "cache")
    descriptor = os.memfd_create("compiled")
    with pytest.raises(SandboxUnavailableError, match="no message of its protocol"):
        keep_compiled(cache, sandbox._plan, "f", Compiled(module, descriptor), set())
    with pytest.raises(OSError):
        os.fstat(descriptor)


def test_what_is_no_file_is_not_read(project: Path, tmp_path: Path) -> None:
    (project / "functions" / "greet.wasm").write_bytes(assemble("greet"))
    sandbox = WasmSandbox(project, "functions")
    cache: CompiledCode[Any] = CompiledCode(tmp_path / "cache")
    reader, writer = os.pipe()
    keep_compiled(cache, sandbox._plan, "f", Compiled("functions/greet.wasm", reader), set())
    os.close(writer)
    assert not (tmp_path / "cache").exists()


def test_the_folder_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flux.sandbox.wasm_cache.BYTES_MAX", 1500)
    cache: CompiledCode[Any] = CompiledCode(tmp_path / "cache")
    for number in range(5):
        cache.keep(f"{number}", b"x" * 300)
        os.utime(tmp_path / "cache" / f"{number}.cwasm", (number, number))
        if number == 2:
            assert cache.find("0") == b"x" * 300  # Of use again: it stays.
    cache.keep("5", b"x" * 300)
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {
        f"{number}.cwasm" for number in (0, 3, 4, 5)
    }
