"""Guests run in the test's own process, with a door that answers from here: for what no process lets us see.

Run as a program it prints what `describe_runs` finds, for a test that compares processes.
"""

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import trio

from flux.sandbox.javascript import LoadedScripts, load_scripts, run_script
from flux.sandbox.javascript_engine import Interpreter, Realm
from flux.sandbox.wasm import default_folder
from flux.sandbox.wasm_cache import CompiledCode
from flux.sandbox.wasm_engine import SLICE_FUEL, Engine
from flux.sandbox.wasm_world import Start

NOW_NS = 1_767_225_600_000_000_000

BUSY = """
import { defineFunction } from "@flux/guest";

const loaded = [Date.now(), Math.random(), crypto.randomUUID()];

export default defineFunction(async ({ input, ctx }) => {
  const map = new Map();
  const set = new Set();
  const found = [];
  let x = 0.1;
  for (let i = 0; i < 20000; i++) {
    x = Math.sin(x) * 1.3 + Math.cos(i) / 3 + Math.random();
    map.set(`k${i % 997}`, x);
    set.add(Math.floor(x * 1e6) % 1013);
    if (i % 2000 === 0) found.push((await ctx.db.query("select $1", i, new Date())).length);
  }
  const both = await Promise.all([ctx.clock.sleep(3), ctx.clock.sleep(1), ctx.db.query("select 1")]);
  const weak = new WeakRef({ big: new Array(1000).fill(x) });
  const nan = [...new Uint8Array(new Float64Array([0 / 0, Math.sqrt(-1), Infinity - Infinity]).buffer)];
  return { n: map.size, s: [...set].slice(0, 9), x, nan, found, both, loaded, now: new Date(), p: performance.now(),
    alive: weak.deref() !== undefined, uuid: crypto.randomUUID() };
});
"""


class AnsweringDoor:
    """Answers every call; ``answer`` is given the call's frame."""

    def __init__(self, answer: Callable[[list[Any]], Any]) -> None:
        self._answer = answer
        self._buffer = b""
        self._heard = 0
        """How many frames have been answered, where they wanted an answer. They come at any time."""
        self.frames: list[list[Any]] = []
        self.fuel_at_calls: list[int] = []

    async def send(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.send_nowait(data)

    def send_nowait(self, data: bytes) -> int:
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            fuel, _, frame = line.partition(b" ")
            if line[:1] == b"1" and frame[:1] == b"[":
                self.frames.append(json.loads(frame))
                if self.frames[-1][0] not in ("return", "raise", "cancel", 0):
                    self.fuel_at_calls.append(int(fuel[1:]))
        return len(data)

    async def send_last(self, data: bytes) -> None:
        await self.send(data)

    async def exchange(self, data: bytes) -> bytes:
        await self.send(data)
        answers = b""
        heard, self._heard = self._heard, len(self.frames)
        for frame in self.frames[heard:]:
            if isinstance(frame[0], int) and frame[0] > 0:
                reply = [frame[0], None, self._answer(frame), NOW_NS + frame[0] * 1_000_000]
                answers += json.dumps(reply).encode() + b"\n"
        return answers

    def check_open(self) -> None:
        """It is open."""


def answer_call(frame: list[Any]) -> Any:
    if frame[1] == "db.query":
        return {"columns": ["id", "pad"], "types": [], "rows": [[frame[0], "x" * 100]], "tag": "SELECT 1"}
    return None


@attrs.frozen
class Ran:
    """All that one run did, as far as it can be seen from outside."""

    frames: list[list[Any]]
    fuel: int
    fuel_at_calls: list[int]
    memory: str
    """SHA-256 of the guest's whole memory at its end."""


def make_interpreter(slice_fuel: int = SLICE_FUEL) -> tuple[Engine, Interpreter]:
    engine = Engine(slice_fuel)
    cache = CompiledCode(default_folder())
    return engine, Interpreter(engine, lambda binary: cache.compile(engine, binary))


async def load(interpreter: Interpreter, files: dict[str, str]) -> LoadedScripts:
    loaded = await load_scripts(
        interpreter,
        {path: text.encode() for path, text in files.items()},
        sorted(files),
        on_module=lambda _path: None,
        on_output=print,
    )
    assert isinstance(loaded, LoadedScripts), loaded
    return loaded


def make_start(function: str, seed: str = "5eed" * 16, memory_bytes_max: int = 128 * 2**20, **inputs: Any) -> Start:
    request = {"method": "POST", "path": "/", "params": [], "query": [], "headers": [], "body": ""}
    document = {
        "execution": "qk3f81xa", "function": function, "now_ns": NOW_NS, "seed": seed, "middleware": [],
        "memory_bytes_max": memory_bytes_max, "input": inputs, "request": request,
    }  # fmt: skip
    return Start.read(json.dumps(document).encode())


async def run(interpreter: Interpreter, scripts: LoadedScripts, start: Start) -> Ran:
    door = AnsweringDoor(answer_call)
    seen: list[tuple[int, str]] = []

    def on_end(realm: Realm) -> None:
        seen.append((realm.isolate.fuel, hashlib.sha256(realm.isolate.snapshot()).hexdigest()))

    await run_script(interpreter, scripts, door, start, on_end=on_end)
    return Ran(door.frames, seen[0][0], door.fuel_at_calls, seen[0][1])


async def describe_runs(slice_fuel: int, seed: str) -> str:
    _, interpreter = make_interpreter(slice_fuel)
    scripts = await load(interpreter, {"functions/busy.js": BUSY})
    ran = await run(interpreter, scripts, make_start("busy", seed))
    return json.dumps(attrs.asdict(ran))


def main() -> None:
    print(trio.run(describe_runs, int(sys.argv[1]), sys.argv[2]))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
