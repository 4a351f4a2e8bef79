"""Fuel on record: with each call, at the end, and where a limit came; and replays that are held to it.

Guests run in the process that the supervisor uses, under the real `drive`. Where a test has to choose what is on
its way at which moment, it plays that process itself, at the other end of a worker's socket.
"""

import json
import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio

from flux import codec, values
from flux.execution import Exited, Killed, LogLine, Raised, Returned, Trigger
from flux.grants import Grants
from flux.hostcall import HostCall, HostCallRequest, HostCallResult
from flux.limits import Limits
from flux.redact import RedactionRules, Redactor
from flux.sandbox import wasm_isolate
from flux.sandbox.base import Reading, Worker
from flux.sandbox.conformance import make_document
from flux.sandbox.wasm import WasmSandbox, default_folder
from flux.sandbox.wasm_engine import Engine
from flux.sandbox.wasm_module import LoadedModule, load_module, run_module
from flux.sandbox.wasm_worker import make_pair
from flux.sandbox.wasm_world import DoorClosedError, FileTree
from flux.session import Divergence, RecordSession, ReplaySession, Session
from flux.store.reading import get_execution
from flux.supervisor.drive import Bounds, Driven, drive
from flux.supervisor.runnable import Runnable
from tests.conftest import Database
from tests.execution_world import DEPLOYMENT, INVOKE, NO_CHAIN, NO_RULES, open_world
from tests.wasm_guests import assemble_text
from tests.wasm_worlds import AnsweringDoor, answer_call, make_start

PATIENCE_S = 180.0
SCRIPT = """
import { defineFunction } from "@flux/guest";
export const asks = defineFunction(async ({ ctx }) => {
  const rows = [];
  for (let i = 0; i < 3; i++) rows.push((await ctx.db.query("select $1::int as n", i)).length + Math.random());
  return rows;
});
export const computes_for_ever = defineFunction(async ({ ctx }) => {
  console.log("before");
  await ctx.db.query("select 1");
  console.log("after");
  const seen = new Map();
  for (let i = 0; ; i++) seen.set(i % 1001, Math.random());
});
export const gets_a_cookie = defineFunction(async ({ ctx }) => {
  await ctx.db.query("select 1");
  const response = await ctx.http.get("http://127.0.0.1:9/");
  await ctx.db.query("select 2");
  return response.headers;
});
export const waits_for_ever = defineFunction(async ({ ctx }) => {
  console.log("before");
  await ctx.clock.sleep(3600000);
});
"""
LINE = '[1,"db.query",["select 1",[]]%s]\n'


def make_module(said: str) -> bytes:
    """Return a command that writes ``said`` on the wire, hears an answer and ends."""
    data = "".join(f"\\{byte:02x}" for byte in said.encode())
    return assemble_text(f"""
      (data (i32.const 1024) "{data}")
      (func (export "_start")
        (call $write (i32.const 3) (i32.const 1024) (i32.const {len(said)}))
        (i32.store (i32.const 0) (i32.const 4096))
        (i32.store (i32.const 4) (i32.const 4096))
        (drop (call $fd_read (i32.const 3) (i32.const 0) (i32.const 1) (i32.const 8))))""")


@attrs.frozen
class Ran:
    """One execution."""

    driven: Driven
    calls: Sequence[HostCall]
    logs: Sequence[LogLine]
    reading: Reading | None


class Rows:
    """A host that has rows for every question, and time for every sleep."""

    def is_immediate(self, name: str) -> bool:  # noqa: ARG002 - the protocol's
        return False

    async def perform(self, request: HostCallRequest) -> HostCallResult:
        if request.name == "clock.sleep":
            await trio.sleep_forever()
        if request.name == "http.request":
            cookie = ["set-cookie", "session=" + "secret" * 20]
            answer = {"status": 200, "headers": [cookie], "body": "", "url": "http://127.0.0.1:9/", "redirects": []}
            return HostCallResult(values.encode(answer), now_ns=1_767_225_600_000_000_000)
        answer = {"columns": ["n"], "types": ["int4"], "rows": [[1]], "tag": "SELECT 1"}
        return HostCallResult(values.encode(answer), now_ns=1_767_225_600_000_000_000)

    def cancelled(self, request: HostCallRequest, elapsed_ns: int) -> HostCallResult:
        raise AssertionError(f"{request.name} was not given up by anybody ({elapsed_ns})")


async def drive_worker(worker: Worker, function: str, session: Session, timeout_s: float) -> Driven:
    return await drive(
        worker, make_document(function), session, Rows(), Bounds(Limits(timeout_s=timeout_s), {}),
        redactor=Redactor(RedactionRules.parse([]), b"seed"), keep_worker=True,
    )  # fmt: skip


async def run(
    sandbox: WasmSandbox,
    function: str,
    session: RecordSession | ReplaySession,
    *,
    timeout_s: float = 20.0,
    slice_fuel: int = 5_000_000,
) -> Ran:
    worker = await sandbox.acquire()
    worker.ask_memory()
    worker.slice_by(slice_fuel)
    with trio.fail_after(PATIENCE_S):
        driven = await drive_worker(worker, function, session, timeout_s)
        reading = await worker.wait_reading()
    await sandbox.release(worker, reusable=False)
    return Ran(driven, session.calls, session.logs, reading)


@asynccontextmanager
async def two_processes(project: Path) -> AsyncIterator[tuple[WasmSandbox, WasmSandbox]]:
    functions = project / "functions"
    functions.mkdir()
    (functions / "script.js").write_text(SCRIPT)
    (functions / "honest.wasm").write_bytes(make_module(LINE % ""))
    (functions / "notes_its_fuel.wasm").write_bytes(make_module(LINE % ',{"fuel":7}'))
    (functions / "forges_a_count.wasm").write_bytes(make_module("17 " + LINE % ""))
    (functions / "forges_its_end.wasm").write_bytes(make_module('3{"fuel":7}\n' + LINE % ""))
    async with trio.open_nursery() as nursery:
        sandboxes = [WasmSandbox(project, "functions", cache=default_folder()) for _ in range(2)]
        for sandbox in sandboxes:
            await nursery.start(sandbox.run)
        yield sandboxes[0], sandboxes[1]
        nursery.cancel_scope.cancel()


def replay_of(recorded: Ran, change: Callable[[HostCall], HostCall] = lambda call: call) -> ReplaySession:
    """Return the session of a replay, from what the stored form keeps of a record."""
    calls = [change(codec.decode(HostCall, codec.encode(call))) for call in recorded.calls]
    outcome = recorded.driven.outcome
    cut = outcome if isinstance(outcome, Killed) else None
    ended = isinstance(outcome, Returned | Raised)
    return ReplaySession(calls, recorded.logs, ended=ended, cut=cut, fuel=recorded.driven.fuel)


async def test_fuel_is_on_record_with_each_call_and_a_replay_is_held_to_it(tmp_path: Path) -> None:
    async with two_processes(tmp_path) as (first, second):
        assert first.level.meter == second.level.meter != "", "only then fuel can be compared"
        recorded = await run(first, "asks", RecordSession())
        fuel = [call.request.fuel or 0 for call in recorded.calls]
        assert len(fuel) == 3 and 0 < fuel[0] < fuel[1] < fuel[2] < (recorded.driven.fuel or 0)
        assert recorded.reading is not None and recorded.reading.memory_sha256

        session = replay_of(recorded)
        replayed = await run(second, "asks", session, slice_fuel=90_000)
        assert replayed.driven.divergence is None
        assert session.find_missing(replayed.driven.fuel) is None
        assert attrs.evolve(replayed.driven, elapsed_ns=0) == attrs.evolve(recorded.driven, elapsed_ns=0)
        assert replayed.reading == recorded.reading

        def shift(call: HostCall) -> HostCall:
            shifted = (call.request.fuel or 0) + (1 if call.request.seq == 2 else 0)
            return attrs.evolve(call, request=attrs.evolve(call.request, fuel=shifted))

        other = await run(second, "asks", replay_of(recorded, shift))
        assert other.driven.divergence == Divergence(
            "fuel", 2, shift(recorded.calls[1]).request, recorded.calls[1].request
        )

        # Records from before there was fuel.
        def strip(call: HostCall) -> HostCall:
            return attrs.evolve(call, request=attrs.evolve(call.request, fuel=None))

        old = attrs.evolve(recorded, driven=attrs.evolve(recorded.driven, fuel=None))
        without = await run(second, "asks", replay_of(old, strip))
        assert without.driven.outcome == recorded.driven.outcome


async def test_fuel_is_on_record_while_the_record_holds_what_the_guest_has_heard(tmp_path: Path) -> None:
    async with two_processes(tmp_path) as (first, second):
        recorded = await run(first, "gets_a_cookie", RecordSession())
        assert b"secretsecret" not in codec.encode(recorded.calls[1])
        assert [call.request.fuel is not None for call in recorded.calls] == [True, True, False]
        assert recorded.driven.fuel is None
        session = replay_of(recorded)
        replayed = await run(second, "gets_a_cookie", session)
        assert replayed.driven.divergence is None and session.find_missing(replayed.driven.fuel) is None
        # The replay has read something shorter; to compare its fuel would have been to see a difference in it.
        assert replayed.reading is not None and recorded.reading is not None
        assert replayed.reading.fuel != recorded.reading.fuel


@pytest.mark.parametrize("function", ["computes_for_ever", "waits_for_ever"])
async def test_a_guest_that_a_limit_has_ended_ends_at_the_same_unit_when_it_is_replayed(
    tmp_path: Path, function: str
) -> None:
    async with two_processes(tmp_path) as (first, second):
        recorded = await run(first, function, RecordSession(), timeout_s=0.25)
        assert isinstance(recorded.driven.outcome, Killed) and recorded.driven.outcome.limit == "timeout"
        assert recorded.driven.fuel is not None and recorded.reading is not None
        # No clock ends a replay: here it would have ended it at once.
        for slice_fuel in (77_777, 1 << 40):
            session = replay_of(recorded)
            replayed = await run(second, function, session, timeout_s=0.001, slice_fuel=slice_fuel)
            assert replayed.driven.outcome == recorded.driven.outcome
            assert (replayed.driven.fuel, replayed.reading) == (recorded.driven.fuel, recorded.reading)
            assert session.find_missing(replayed.driven.fuel) is None
            assert [line.message for line in replayed.logs] == [line.message for line in recorded.logs]


async def test_no_guest_says_its_own_fuel_nor_that_it_is_over(tmp_path: Path) -> None:
    async with two_processes(tmp_path) as (sandbox, _):
        honest = await run(sandbox, "honest", RecordSession())
        assert isinstance(honest.driven.outcome, Returned)
        for function in ("notes_its_fuel", "forges_a_count", "forges_its_end"):
            forged = await run(sandbox, function, RecordSession())
            outcome = forged.driven.outcome
            assert isinstance(outcome, Killed) and outcome.limit == "protocol", function
            assert "malformed" in outcome.detail
            assert forged.calls == ()
            # The host's own word is on record all the same.
            assert (forged.driven.fuel or 0) > 10
            assert forged.reading is not None and forged.reading.fuel >= (forged.driven.fuel or 0)


# --- what is on its way when the limit comes -------------------------------------------------------

HEARD = b'1100 [1,"db.query",["select 1",[]]]\n'
LOG = b'1%d [0,"log.write",["info","late",{}]]\n'
OVER = b'3{"fuel": 900}\n'
UNHEARD: dict[str, tuple[bytes, int | None, list[str]]] = {
    "nothing": (OVER, 900, []),
    "a log line": (LOG % 300 + OVER, 900, ["late"]),
    "a question": (b'1300 [2,"db.query",[]]\n' + OVER, 299, []),
    "a question behind a log line": (LOG % 200 + b'1300 [2,"clock.now",[]]\n' + LOG % 400 + OVER, 299, ["late"]),
    "a question in the same breath": (b'1100 [2,"db.query",[]]\n' + OVER, 100, []),
    "its answer": (b'1300 ["return",{"status":200,"headers":[],"body":""}]\n' + OVER, 299, []),
    "half a frame": (b'1300 [2,"db.que\n' + OVER, 299, []),
    "something malformed": (LOG % 200 + b"1300 nonsense\n" + LOG % 400 + OVER, 299, ["late"]),
    "its last words": (b'2"words\\n"\n' + OVER, 900, ["words"]),
    "an end by itself": (b'3{"fuel": 700}\n0{"signal": 11}\n', 700, []),
    "no word": (b"", None, []),
}


@pytest.mark.parametrize(("unheard", "fuel", "logs"), UNHEARD.values(), ids=UNHEARD.keys())
async def test_a_record_that_a_limit_ends_ends_in_front_of_what_nobody_has_heard(
    unheard: bytes, fuel: int | None, logs: list[str]
) -> None:
    worker, theirs = make_pair(os.getpid())
    host = trio.socket.from_stdlib_socket(socket.socket(fileno=theirs))

    async def play_the_process() -> None:
        said = await host.recv(1 << 16)  # The document.
        assert said.endswith(b"\n")
        await host.send(HEARD)
        while await host.recv(1 << 16):
            pass  # The answer; then it is told to end.
        if unheard:
            await host.send(unheard)
        host.close()

    session = RecordSession()
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(play_the_process)
            driven = await drive_worker(worker, "f", session, 0.2)
    worker.close()
    assert isinstance(driven.outcome, Killed) and driven.outcome.limit == "timeout"
    assert [call.request.seq for call in session.calls] == [1]
    assert driven.fuel == fuel
    assert [line.message for line in session.logs] == logs


async def test_a_guest_that_ends_by_itself_is_on_record_with_how_far_it_came() -> None:
    worker, theirs = make_pair(os.getpid())
    os.write(theirs, HEARD + b'3{"fuel": 700, "memory": "%b"}\n' % (b"ab" * 32) + b'0{"exit_code": 3}\n')
    with trio.fail_after(PATIENCE_S):
        driven = await drive_worker(worker, "f", RecordSession(), 5.0)
        assert await worker.wait_reading() == Reading(700, "ab" * 32)
    assert (driven.outcome, driven.fuel) == (Exited(3, None, ""), 700)
    os.close(theirs)
    worker.close()


@pytest.mark.parametrize(
    "line", [b'3{"fuel": -1}\n', b'3{"fuel": 1e99}\n', b"3[]\n", b'3{"memory": "x"}\n', b'3{"fuel": true}\n']
)
async def test_a_process_that_tells_nonsense_of_its_guest_is_not_believed(line: bytes) -> None:
    worker, theirs = make_pair(os.getpid())
    os.write(theirs, line)
    with trio.fail_after(PATIENCE_S):
        driven = await drive_worker(worker, "f", RecordSession(), 5.0)
    assert isinstance(driven.outcome, Exited) and driven.fuel is None
    os.close(theirs)
    worker.close()


# --- being stopped ---------------------------------------------------------------------------------

CHATTERBOX = """
  (data (i32.const 1024) "[0,\\22log.write\\22,[\\22info\\22,\\22x\\22,{}]]\\0a")
  (func $say (call $write (i32.const 3) (i32.const 1024) (i32.const 32)))
  (func (export "_start") (local $n i32)
    (i32.store (i32.const 16) (i32.const 1024))
    (i32.store (i32.const 20) (i32.const 32))
    ;; In a row, where the engine does not look at its fuel.
    (drop (call $fd_write (i32.const 3) (i32.const 16) (i32.const 1) (i32.const 24)))
    (drop (call $fd_write (i32.const 3) (i32.const 16) (i32.const 1) (i32.const 24)))
    (drop (call $fd_write (i32.const 3) (i32.const 16) (i32.const 1) (i32.const 24)))
    (drop (call $fd_write (i32.const 2) (i32.const 16) (i32.const 1) (i32.const 24)))
    (loop $again
      (call $say)
      (i32.store (i32.const 2048) (i32.add (i32.load (i32.const 2048)) (i32.const 1)))
      (call $say)
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br_if $again (i32.lt_u (local.get $n) (i32.const 5))))
    (drop (call $fd_write (i32.const 3) (i32.const 16) (i32.const 1) (i32.const 24))))
"""


class HearingDoor(AnsweringDoor):
    """Keeps the fuel in front of each frame, and the lines that are the host's own."""

    def __init__(self) -> None:
        super().__init__(answer_call)
        self.said = b""

    def send_nowait(self, data: bytes) -> int:
        self.said += data
        return super().send_nowait(data)

    @property
    def fuel_of_frames(self) -> list[int]:
        return [int(line[1:].split(b" ")[0]) for line in self.said.splitlines() if line[:1] == b"1"]


async def run_to(module: LoadedModule, engine: Engine, stop_fuel: int | None, slice_fuel: int) -> HearingDoor:
    door = HearingDoor()
    start = attrs.evolve(make_start("f"), stop_fuel=stop_fuel, slice_fuel=slice_fuel, wants_memory=True)
    await run_module(engine, module, FileTree({}), door, start)
    return door


@pytest.mark.parametrize("slice_fuel", [7, 5_000_000])
async def test_a_guest_is_stopped_at_any_unit_and_nothing_that_it_does_later_is_heard(slice_fuel: int) -> None:
    engine = Engine()
    module = load_module(engine, "functions/f.wasm", assemble_text(CHATTERBOX))
    whole = await run_to(module, engine, None, slice_fuel)
    *everything, end = whole.fuel_of_frames
    assert len(set(everything)) == 14
    assert end == everything[-1], "its answer, which the host gives for it once it has returned: that costs nothing"
    around = {fuel + by for fuel in everything for by in (-1, 0, 1)}
    for stop_fuel in sorted(around | set(range(0, end, 11))):
        door = await run_to(module, engine, stop_fuel, slice_fuel)
        if stop_fuel <= end:
            assert door.fuel_of_frames == [fuel for fuel in everything if fuel <= stop_fuel], stop_fuel
            assert door.said.splitlines()[-1] == b'0{"stopped": true}'
            assert json.loads(door.said.splitlines()[-2][1:])["fuel"] == stop_fuel
        else:
            assert door.said == whole.said


# --- the records of a server -----------------------------------------------------------------------


async def test_a_stored_record_has_fuel_unless_something_in_it_is_redacted(database: Database, tmp_path: Path) -> None:
    with_key = Trigger("http", "POST", "/", headers=(("authorization", "Bearer a key of some length"),), body=b"{}")
    async with two_processes(tmp_path) as (sandbox, _), open_world(database, tmp_path / "journal") as world:
        function = next(function for function in sandbox.functions if function.name == "asks")
        runnable = Runnable(
            function=function, deployment=DEPLOYMENT, sandbox=sandbox, bounds=Bounds(Limits(), {}), limits=(),
            grants=Grants.parse([]), isolation="repeatable read", chain=NO_CHAIN, rules=NO_RULES,
        )  # fmt: skip
        whole = await world.executor.execute(runnable, INVOKE, {})
        redacted = await world.executor.execute(runnable, with_key, {})
        await world.settle()
        ids = [executed.execution.id for executed in (whole, redacted)]
        records = [(await get_execution(world.backing.owner, one))[1] for one in ids]
    assert [execution.status for execution in records] == [200, 200]
    assert records[0].level.meter and records[0].level == records[1].level
    fuel = [call.request.fuel for call in records[0].calls]
    assert len(fuel) == 3 and None not in fuel and records[0].fuel is not None
    assert [call.request.fuel for call in records[1].calls] == [None] * 3 and records[1].fuel is None


class ClosingDoor(HearingDoor):
    """Is closed at the n-th look. Its answers come all at once, or one at a time."""

    def __init__(self, looks: int, *, one_by_one: bool) -> None:
        super().__init__()
        self._looks = looks
        self._one_by_one = one_by_one
        self._ready: list[bytes] = []

    def check_open(self) -> None:
        self._looks -= 1
        if self._looks < 0:
            raise DoorClosedError

    async def exchange(self, data: bytes) -> bytes:
        self._ready += (await super().exchange(data)).splitlines(keepends=True)
        self.check_open()
        now = self._ready[: 1 if self._one_by_one else None]
        del self._ready[: len(now)]
        return b"".join(now)


ASKING = """
  (data (i32.const 1024) "[   ,\\22clock.now\\22,[]]\\0a")
  (func $ask (param $n i32)
    (i32.store8 (i32.const 1025) (i32.add (i32.const 48) (local.get $n)))
    (call $write (i32.const 3) (i32.const 1024) (i32.const 21)))
  (func $hear (param $at i32)
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (i32.const 30))
    (drop (call $fd_read (i32.const 3) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func (export "_start")
    (call $ask (i32.const 1)) (call $ask (i32.const 2)) (call $ask (i32.const 3))
    (call $hear (i32.const 4096)) (call $hear (i32.const 4196))
    (call $write (i32.const 2) (i32.const 4096) (i32.const 9))
    (call $ask (i32.const 4)) (call $hear (i32.const 4296)) (call $hear (i32.const 4396))
    (call $hear (i32.const 4496)))
"""


async def test_wherever_a_guest_is_ended_its_replay_is_stopped_in_the_same_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It takes a breath after each call, and may be ended in each; the machine is another, so answers come later."""
    monkeypatch.setattr(wasm_isolate, "BREATH_S", -1.0)
    engine = Engine()
    module = load_module(engine, "functions/f.wasm", assemble_text(ASKING))
    start = attrs.evolve(make_start("f"), wants_memory=True)

    async def run_it(door: ClosingDoor, stop_fuel: int | None) -> dict[str, object]:
        await run_module(engine, module, FileTree({}), door, attrs.evolve(start, stop_fuel=stop_fuel))
        over: dict[str, object] = json.loads(next(line for line in door.said.splitlines() if line[:1] == b"3")[1:])
        return {**over, "frames": door.frames, "printed": b'2"' in door.said}

    states = set()
    for looks in range(100):
        ended = await run_it(ClosingDoor(looks, one_by_one=False), None)
        if len(ended["frames"]) == 5:  # type: ignore[arg-type]
            break  # It has come to its answer.
        assert isinstance(ended["fuel"], int)
        for one_by_one in (False, True):
            assert await run_it(ClosingDoor(1000, one_by_one=one_by_one), ended["fuel"]) == ended, looks
        states.add(ended["fuel"])
    assert len(states) > 5
