"""Record many executions, replay them in other processes, and compare all there is to compare.

Anybody can run it::

    python -m tests.guests.repeat --kind javascript --executions 10000
    python -m tests.guests.repeat --kind typescript --executions 1000 --python python3.13

The functions are in ``repeated/``, a folder a kind (`tests.guests.repeat_kinds`); each execution runs one of
them with another seed and another input. What they ask is answered by `Outside`, with values, times and an
order that nobody can foretell. Only what the record of an execution holds in its stored form goes to its replay.

A replay runs in another process, among other executions, in other slices of time, and where several are meant
by ``--python`` in another version of Python. It must come to the same outcome, the same calls with the same
arguments from the same lines in the same order, the same log lines, and, where the kind of sandbox counts fuel,
to the same fuel at every call and at the end, and the same memory to the last byte.

Python hashes objects by their addresses. Flux makes addresses repeat, as far as it can; a replay that differs all
the same is run again in other orders of objects, and what that shows (`flux.escapes`) is told with its line. With
``--order 3`` all replays run in another order than the recordings, which brings out what depends on it.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import attrs
import msgspec
import trio

from flux import codec, escapes, values, wire
from flux.execution import Execution, Killed, LogLine, Raised, Returned, Trigger
from flux.hostcall import HostCall, HostCallError, HostCallRequest, HostCallResult
from flux.limits import Limits
from flux.redact import RedactionRules, Redactor
from flux.sandbox.base import Sandbox, Worker
from flux.session import CANCELLED, Divergence, RecordSession, ReplaySession, Session
from flux.supervisor.drive import Bounds, Driven, Host, drive
from tests.guests.repeat_kinds import KINDS, Kind, Runner

MEMORY_BYTES_MAX = {"process": 256 * 2**20, "wasm": 24 * 2**20}
"""By kind of sandbox. A process has its libraries in there, numpy among them."""
HOST_CALLS_MAX = 25
TIMEOUT_S = 30.0
"""Of functions that declare none."""
RECORD_CONCURRENCY = 12
REPLAYS: tuple[tuple[int, int | None], ...] = ((1, 100_000), (5, None), (9, 777_777), (16, 60_000_000))
"""How many at once, and in slices of how much fuel: a sandbox of its own for each, and a part of the recordings."""
SHOWN_MAX = 5
LABELLED_MAX = 100
"""Recordings whose replay differed and that are run again to see why."""
LABEL_CONCURRENCY = 4

_T = TypeVar("_T")


@attrs.frozen
class Recording:
    """What goes from the recorder to those who replay."""

    body: bytes
    """The execution in its stored form."""
    format: int
    blobs: dict[bytes, codec.Blob]
    memory_sha256: str
    """Of the guest's memory at its end; empty for kinds that don't tell."""
    memory_fuel: int | None
    """Where that end was."""

    def read(self) -> Execution:
        """Return the execution."""
        return codec.decode_execution(self.body, self.format, self.blobs.get)


@attrs.define
class Tally:
    """How many replays came to what."""

    executions: int = 0
    calls: int = 0
    identical: int = 0
    different: dict[str, int] = attrs.field(factory=dict)
    """By function and what differed first."""
    told: dict[str, int] = attrs.field(factory=dict)
    """Of those, by the function and what further replays showed that it depends on."""
    by_addresses: int = 0
    """Of those, how many depend on where objects lie and on nothing else."""
    outcomes: dict[str, int] = attrs.field(factory=dict)
    elapsed_s: float = 0.0

    def add(self, execution: Execution, difference: str | None) -> None:
        """Count one replay."""
        self.executions += 1
        self.calls += len(execution.calls)
        described = describe(execution)
        self.outcomes[described] = self.outcomes.get(described, 0) + 1
        if difference is None:
            self.identical += 1
        else:
            what = f"{execution.function}: {difference}"
            self.different[what] = self.different.get(what, 0) + 1

    def label(self, function: str, escape: escapes.Escape | None) -> None:
        """Count what the function of one differing replay depends on."""
        if escape is None:
            described = f"{function}: repeated itself in every order when it was run again"
        else:
            described = f"{function}: {escape.describe()}"
            self.by_addresses += escape.cause == "addresses"
        self.told[described] = self.told.get(described, 0) + 1


class Outside:
    """The host of a recording: it answers with what nobody can foretell, when nobody can foretell."""

    def __init__(self) -> None:
        self._chance = random.SystemRandom()

    def is_immediate(self, name: str) -> bool:
        return name in ("clock.now", "entropy.take")

    async def perform(self, request: HostCallRequest) -> HostCallResult:
        arguments = values.decode_json(request.arguments)
        assert isinstance(arguments, list)
        chance = self._chance
        if request.name == "clock.sleep":
            await trio.sleep(arguments[0])
        elif self.is_immediate(request.name):
            await trio.lowlevel.checkpoint()
        else:
            await trio.sleep(chance.random() * 0.004)
        value: Any = None
        match request.name:
            case "clock.now":
                value = time.time_ns()
            case "entropy.take":
                value = chance.randbytes(arguments[0])
            case "db.query":
                if chance.random() < 0.05:
                    refusal = HostCallError("DatabaseError", f"no row {chance.random()}", "23505", b'{"table":"t"}')
                    return HostCallResult(error=refusal, now_ns=time.time_ns())
                rows = [[chance.getrandbits(40), chance.random(), chance.randbytes(9).hex()] for _ in range(5)]
                types = ["int8", "float8", "text"]
                value = {"columns": ["a", "b", "c"], "types": types, "rows": rows, "tag": "SELECT 5"}
            case "db.execute":
                value = {"affected": chance.randrange(9), "tag": "UPDATE"}
            case "http.request":
                value = {
                    "status": chance.choice([200, 201, 404, 503]), "headers": [["x-at", str(time.time_ns())]],
                    "body": json.dumps({"n": chance.random()}), "url": arguments[1], "redirects": [],
                }  # fmt: skip
            case _:
                pass
        return HostCallResult(values.encode(value), now_ns=time.time_ns())

    def cancelled(self, request: HostCallRequest, elapsed_ns: int) -> HostCallResult:
        error = HostCallError(CANCELLED, f"{request.name} was given up")
        return HostCallResult(error=error, elapsed_ns=elapsed_ns, now_ns=time.time_ns())


class Nobody:
    """The host of a replay: it is never asked."""

    def is_immediate(self, name: str) -> bool:
        raise AssertionError(f"{name} came to the host during a replay")

    async def perform(self, request: HostCallRequest) -> HostCallResult:
        raise AssertionError(f"{request.name} came to the host during a replay")

    def cancelled(self, request: HostCallRequest, elapsed_ns: int) -> HostCallResult:  # noqa: ARG002 - the protocol's
        raise AssertionError(f"{request.name} came to the host during a replay")


async def _run(
    sandbox: Sandbox, execution: Execution, session: Session, host: Host, slice_fuel: int | None = None
) -> tuple[Driven, str, int | None]:
    """Run what ``execution`` says; return how it went, and the guest's memory at its end with its fuel."""
    timeout_s = next(f.timeout_s for f in sandbox.functions if f.name == execution.function) or TIMEOUT_S
    memory_bytes_max = MEMORY_BYTES_MAX[execution.level.kind]
    limits = Limits(timeout_s=timeout_s, memory_bytes_max=memory_bytes_max, host_calls_max=HOST_CALLS_MAX)
    worker: Worker = await sandbox.acquire()
    try:
        if worker.meter is not None:
            worker.meter.ask_memory()
            if slice_fuel is not None:
                worker.meter.slice_by(slice_fuel)
        driven = await drive(
            worker, make_document(execution), session, host, Bounds(limits, {}),
            redactor=Redactor(RedactionRules.parse([]), execution.seed), keep_worker=True,
        )  # fmt: skip
        reading = await worker.meter.wait_reading() if worker.meter is not None else None
    finally:
        await sandbox.release(worker, reusable=False)
    return driven, reading.memory_sha256 if reading else "", reading.fuel if reading else None


def make_document(execution: Execution) -> bytes:
    """Return the start document of an execution, from its record."""
    body = execution.trigger.body.decode()
    request = {"method": "POST", "path": "/", "params": [], "query": [], "headers": [], "body": body}
    return wire.encode_start(
        {
            "execution": execution.name, "function": execution.function, "now_ns": execution.started_at_ns,
            "seed": execution.seed.hex(), "memory_bytes_max": MEMORY_BYTES_MAX[execution.level.kind],
            "middleware": [], "input": json.loads(body), "request": request,
        }
    )  # fmt: skip


async def record_one(sandbox: Sandbox, function: str, number: int) -> Recording:
    """Run ``function`` for real and return its recording."""
    chance = random.SystemRandom()
    given = {"n": number, "text": chance.randbytes(8).hex(), "list": [chance.randrange(1000) for _ in range(20)]}
    begun = Execution(
        id=uuid.uuid4(), tenant="acme", function=function, deployment="d-1", sha="", dirty=False,
        trigger=Trigger("invoke", body=json.dumps(given).encode()), started_at_ns=time.time_ns(),
        seed=chance.randbytes(32), level=sandbox.level,
    )  # fmt: skip
    session = RecordSession()
    driven, memory, memory_fuel = await _run(sandbox, begun, session, Outside())
    assert driven.outcome is not None
    whole = attrs.evolve(
        begun, outcome=driven.outcome, elapsed_ns=driven.elapsed_ns, calls=session.calls, logs=session.logs,
        fuel=driven.fuel,
    )  # fmt: skip
    encoded = codec.encode_execution(whole)
    blobs = {blob.sha256: blob for blob in encoded.blobs}
    return Recording(encoded.body, encoded.format, blobs, memory, memory_fuel)


async def replay_one(sandbox: Sandbox, recording: Recording, slice_fuel: int | None = None) -> Divergence | None:
    """Replay a recording; return what differed first, or None when nothing did."""
    recorded = recording.read()
    cut = recorded.outcome if isinstance(recorded.outcome, Killed) and recorded.outcome.limit == "timeout" else None
    ended = isinstance(recorded.outcome, Returned | Raised)
    session = ReplaySession(recorded.calls, recorded.logs, ended=ended, cut=cut, fuel=recorded.fuel)
    driven, memory, memory_fuel = await _run(sandbox, recorded, session, Nobody(), slice_fuel)
    divergence = driven.divergence or session.find_missing(driven.fuel)
    if divergence is not None:
        return divergence
    if driven.outcome != recorded.outcome:
        return Divergence("outcome", 0, str(recorded.outcome), str(driven.outcome))
    if list(map(_compared_call, session.calls)) != list(map(_compared_call, recorded.calls)):
        return Divergence("calls", 0, None, None)
    if list(map(_compared_line, session.logs)) != list(map(_compared_line, recorded.logs)):
        return Divergence("log lines", 0, None, None)
    if driven.fuel != recorded.fuel:
        return Divergence("fuel at the end", 0, str(recorded.fuel), str(driven.fuel))
    if memory != recording.memory_sha256 and memory_fuel == recording.memory_fuel:
        return Divergence("memory at the end", 0, recording.memory_sha256, memory)
    return None


def _tell(divergence: Divergence) -> str:
    if divergence.seq:
        return f"{divergence.kind} at {divergence.seq}"
    return f"{divergence.kind}: {divergence.actual} for {divergence.expected}"


def _compared_call(call: HostCall) -> tuple[object, ...]:
    """What a replay repeats of a call: everything but when it was."""
    return (call.request, call.result, call.answered)


def _compared_line(line: LogLine) -> tuple[object, ...]:
    return (line.level, line.message, line.fields, line.position)


def describe(execution: Execution) -> str:
    """Return what came of an execution, in two words."""
    match execution.outcome:
        case Returned(status=status):
            return f"returned {status}"
        case Raised(type=kind):
            return f"raised {kind}"
        case Killed(limit=limit):
            return f"killed {limit}"
        case outcome:
            return outcome.kind


async def _each(items: Iterable[_T], concurrency: int, do: Callable[[_T], Awaitable[None]]) -> None:
    """Do something with every item, ``concurrency`` at a time."""
    waiting = iter(items)

    async def work() -> None:
        for item in waiting:
            await do(item)

    async with trio.open_nursery() as nursery:
        for _ in range(concurrency):
            nursery.start_soon(work)


async def record(kind: Kind, executions: int) -> list[Recording]:
    """Run the functions of ``kind`` in turn, ``executions`` times in all."""
    recordings: list[Recording] = []
    with tempfile.TemporaryDirectory() as scratch:
        async with trio.open_nursery() as nursery:
            sandbox = kind.make_sandbox(Path(scratch), RECORD_CONCURRENCY)
            await nursery.start(sandbox.run)
            names = sorted(function.name for function in sandbox.functions)

            async def one(number: int) -> None:
                recordings.append(await record_one(sandbox, names[number % len(names)], number))

            await _each(range(executions), RECORD_CONCURRENCY, one)
            nursery.cancel_scope.cancel()
    return recordings


async def replay(kind: Kind, recordings: Sequence[Recording], order: int = 0) -> Tally:
    """Replay each recording once, in one of several sandboxes and in another sequence; count what came of it.

    ``order`` is that of the objects in memory, for kinds that have one.
    """
    tally, started_s = Tally(), time.monotonic()
    shuffled, differing = list(recordings), list[Recording]()
    random.SystemRandom().shuffle(shuffled)

    async def replay_part(part: Sequence[Recording], concurrency: int, slice_fuel: int | None) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            in_order = kind.make_in_order
            made = kind.make_sandbox(Path(scratch), concurrency) if in_order is None else in_order(concurrency, order)
            async with running(made) as sandbox:

                async def one(recording: Recording) -> None:
                    divergence = await replay_one(sandbox, recording, slice_fuel)
                    tally.add(recording.read(), None if divergence is None else _tell(divergence))
                    if divergence is not None:
                        differing.append(recording)

                await _each(part, concurrency, one)

    async with trio.open_nursery() as nursery:
        for number, (concurrency, slice_fuel) in enumerate(REPLAYS):
            nursery.start_soon(replay_part, shuffled[number :: len(REPLAYS)], concurrency, slice_fuel)
    if kind.make_in_order is not None:
        labelled = differing[:LABELLED_MAX]
        for recording, escape in zip(labelled, await find_escapes(kind, labelled), strict=True):
            tally.label(recording.read().function, escape)
    tally.elapsed_s = time.monotonic() - started_s
    return tally


async def find_escapes(kind: Kind, recordings: Sequence[Recording]) -> list[escapes.Escape | None]:
    """Replay each recording in several orders of objects; return what it depends on."""
    assert kind.make_in_order is not None
    seen: list[list[escapes.Observation]] = [[] for _ in recordings]
    for order in dict.fromkeys(escapes.ORDERS) if recordings else ():
        async with running(kind.make_in_order(LABEL_CONCURRENCY, order)) as sandbox:

            async def one(index: int, order: int = order, sandbox: Sandbox = sandbox) -> None:
                for _ in range(escapes.ORDERS.count(order)):
                    divergence = await replay_one(sandbox, recordings[index])
                    seen[index].append(escapes.Observation(order, divergence))

            await _each(range(len(recordings)), LABEL_CONCURRENCY, one)
    return [escapes.judge(observations) for observations in seen]


@asynccontextmanager
async def running(sandbox: Runner) -> AsyncIterator[Runner]:
    """Run a sandbox as long as somebody is here."""
    async with trio.open_nursery() as nursery:
        await nursery.start(sandbox.run)
        yield sandbox
        nursery.cancel_scope.cancel()


# --- the command -----------------------------------------------------------------------------------


def _write(path: Path, recordings: Sequence[Recording]) -> None:
    path.write_bytes(msgspec.msgpack.encode([attrs.asdict(recording) for recording in recordings]))


def _read(path: Path) -> list[Recording]:
    read = []
    for one in msgspec.msgpack.decode(path.read_bytes()):
        blobs = {digest: codec.Blob(**blob) for digest, blob in one["blobs"].items()}
        read.append(Recording(**{**one, "blobs": blobs}))
    return read


def _run_part(python: str, *arguments: str) -> str:
    """Run a part of the work in a process of its own; return what it printed."""
    command = [python, "-m", "tests.guests.repeat", *arguments]
    root = Path(__file__).parents[2]
    return subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE, text=True).stdout


def main(arguments: list[str] | None = None) -> int:
    """Read the command line, record, replay and report; 0 when every replay was identical, or differed in what
    depends on addresses and is told with its line."""
    parser = argparse.ArgumentParser(prog="python -m tests.guests.repeat", description=__doc__.split("\n")[0])
    parser.add_argument("--kind", choices=[*KINDS], required=True)
    parser.add_argument("--executions", type=int, default=1000)
    parser.add_argument("--python", action="append", help="interpreter that replays; may be given several times")
    parser.add_argument("--order", type=int, default=0, help="of objects in memory, for the replays: 1, 2, 3 ...")
    parser.add_argument("--record", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--replay", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    kind = KINDS[options.kind]
    if options.record is not None:
        _write(options.record, trio.run(record, kind, options.executions))
        return 0
    if options.replay is not None:
        print(json.dumps(attrs.asdict(trio.run(replay, kind, _read(options.replay), options.order))))
        return 0
    is_all_well = True
    with tempfile.TemporaryDirectory() as scratch:
        recorded_by: Counter[str] = Counter()
        for python in options.python or [sys.executable]:
            recorder = python if kind.is_bound_to_python else sys.executable
            path = Path(scratch) / f"by-{recorder.replace('/', '-')}"
            if not recorded_by[recorder]:
                _run_part(recorder, "--kind", kind.name, "--executions", str(options.executions), "--record", str(path))
                recorded_by[recorder] += 1
            order = str(options.order)
            part = _run_part(python, "--kind", kind.name, "--replay", str(path), "--order", order)
            tally = Tally(**json.loads(part))
            print(_report(kind, python, tally), flush=True)
            told = tally.identical + tally.by_addresses
            is_all_well = is_all_well and told == tally.executions == options.executions
    return 0 if is_all_well else 1


def _report(kind: Kind, python: str, tally: Tally) -> str:
    outcomes = ", ".join(f"{count} {what}" for what, count in sorted(tally.outcomes.items()))
    lines = [
        f"{kind.name}, replayed by {python}: {tally.identical} of {tally.executions} identical, "
        f"{tally.calls} calls, in {tally.elapsed_s:.0f} s",
        f"  {outcomes}",
    ]
    lines += [f"  {count} x {what}" for what, count in sorted(tally.different.items())[:SHOWN_MAX]]
    lines += [f"  {count} told: {what}" for what, count in sorted(tally.told.items())]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
