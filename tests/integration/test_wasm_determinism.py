"""The same code with the same answers does the same thing, to the last unit of fuel and the last byte of memory."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from flux.sandbox.wasm_engine import SLICE_FUEL
from tests.wasm_worlds import BUSY, load, make_interpreter, make_start, run

PROGRAM = Path(__file__).parents[1] / "wasm_worlds.py"
SEED = "5eed" * 16


def run_in_a_process(slice_fuel: int, seed: str, hash_seed: str) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    command = [sys.executable, str(PROGRAM), str(slice_fuel), seed]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def test_other_processes_and_other_slices_come_to_the_same_fuel_and_memory() -> None:
    first = run_in_a_process(SLICE_FUEL, SEED, "0")
    assert first["frames"][-1][0] == "return"
    assert len(first["fuel_at_calls"]) == 13
    assert first["fuel_at_calls"] == sorted(set(first["fuel_at_calls"]))
    for slice_fuel, hash_seed in ((SLICE_FUEL, "1"), (100_000, "2"), (7_777_777, "3")):
        assert run_in_a_process(slice_fuel, SEED, hash_seed) == first


def test_another_seed_comes_to_something_else() -> None:
    first = run_in_a_process(SLICE_FUEL, SEED, "0")
    other = run_in_a_process(SLICE_FUEL, "ab" * 32, "0")
    assert first["memory"] != other["memory"]
    assert first["frames"][-1] != other["frames"][-1]


async def test_an_execution_leaves_nothing_behind_for_the_next() -> None:
    files = {
        "functions/busy.js": BUSY,
        "functions/stain.js": """
import { defineFunction } from "@flux/guest";
let count = 0;
globalThis.stained ??= 0;
export default defineFunction(async ({ ctx }) => {
  count += 1;
  globalThis.stained += 1;
  Array.prototype.sum = () => 1;
  await ctx.db.query("select 1");
  return { count, stained: globalThis.stained };
});
export const look = defineFunction(async () => ({ count, stained: globalThis.stained, sum: typeof [].sum }));
""",
    }
    _, interpreter = make_interpreter()
    scripts = await load(interpreter, files)
    for _ in range(3):
        body = (await run(interpreter, scripts, make_start("stain"))).frames[-1][1]["body"]
        assert json.loads(body) == {"count": 1, "stained": 1}
    seen = json.loads((await run(interpreter, scripts, make_start("look"))).frames[-1][1]["body"])
    assert seen == {"count": 0, "stained": 0, "sum": "undefined"}


async def test_the_same_files_give_the_same_memory_to_begin_with() -> None:
    _, interpreter = make_interpreter()
    runs = [
        await run(interpreter, await load(interpreter, {"functions/busy.js": BUSY}), make_start("busy"))
        for _ in range(2)
    ]
    assert runs[0] == runs[1]


@pytest.mark.parametrize("memory_mib", [32, 64])
async def test_memory_runs_out_at_the_same_place(memory_mib: int) -> None:
    source = """
import { defineFunction } from "@flux/guest";
export default defineFunction(async () => {
  const kept = [];
  for (;;) kept.push(new Array(10000).fill(kept.length));
});
"""
    _, interpreter = make_interpreter()
    scripts = await load(interpreter, {"functions/eat.js": source})
    start = make_start("eat", memory_bytes_max=memory_mib * 2**20)
    first, second = [await run(interpreter, scripts, start) for _ in range(2)]
    assert first == second
    assert first.frames[-1][1]["type"] == "MemoryError"


async def test_many_executions_at_once_do_not_change_each_other() -> None:
    _, interpreter = make_interpreter(slice_fuel=200_000)
    scripts = await load(interpreter, {"functions/busy.js": BUSY})
    seeds = [f"{number:02x}" * 32 for number in range(6)]
    alone = {seed: await run(interpreter, scripts, make_start("busy", seed)) for seed in seeds}
    together = {}

    async def one(seed: str) -> None:
        together[seed] = await run(interpreter, scripts, make_start("busy", seed))

    async with trio.open_nursery() as nursery:
        for seed in seeds:
            nursery.start_soon(one, seed)
    assert together == alone
