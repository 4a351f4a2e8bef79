"""JavaScript is held to the vectors of PROTOCOL.md: each value comes in and goes out as the same."""

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from flux import values
from flux.sandbox.wasm_world import Start
from tests.wasm_worlds import Ran, load, make_interpreter, make_start, run

VECTORS = json.loads(
    (Path(__file__).parents[2] / "guest-sdk" / "vectors" / "values.json").read_text(encoding="utf-8")
)
ECHO = """
import { defineFunction } from "@flux/guest";
export default defineFunction(async ({ input, ctx }) => {
  const answer = await ctx.call("test.echo", [input.value]);
  return typeof answer;
});
"""


def with_input(text: str) -> Start:
    """A start document whose input's value is ``text``, letter for letter."""
    start = make_start("echo", value="HERE")
    return Start.read(start.document.rstrip(b"\n").replace(b'"HERE"', text.encode()))


@pytest.fixture(scope="module")
def echoed() -> dict[str, Ran]:
    async def run_all() -> dict[str, Ran]:
        _, interpreter = make_interpreter()
        scripts = await load(interpreter, {"functions/echo.js": ECHO})
        texts = [one["json"] for one in VECTORS["values"]]
        return {text: await run(interpreter, scripts, with_input(text)) for text in texts}

    return trio.run(run_all)


def as_javascript_has_it(described: dict[str, Any]) -> object:
    """What a value is to JavaScript: it has one kind of number, and UUIDs are text to it."""
    value = values.decode(described["json"].encode())
    if described["type"] == "uuid":
        return str(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return int(value)
    return value


@pytest.mark.parametrize("described", VECTORS["values"], ids=lambda one: one["json"][:40])
def test_a_value_goes_out_as_it_came_in(described: dict[str, Any], echoed: dict[str, Ran]) -> None:
    asked = echoed[described["json"]].frames[0]
    assert asked[1] == "test.echo", asked
    (sent,) = asked[2]
    expected = as_javascript_has_it(described)
    assert values.encode_canonical(values.decode(json.dumps(sent).encode())) == values.encode_canonical(expected)
