"""Step backwards through an execution, and compare every step with what a tracer saw when the function first ran.

Anybody can run it::

    python -m tests.worlds.step_back --events 100000 --back 5000

The tracer is this program's own: it runs the function's source as plain Python in this process, with the same
answers, under `sys.settrace`, and keeps a copy of what the names held at each event. Then the function is recorded by
Flux, in a worker behind its walls, and the debugger goes back from the end, event by event. Each must have the tracer's
kind, line and values. After that it goes back from change to change of two names, which must be the tracer's changes,
each with the line that made it.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import attrs
import trio

from flux.cli.debug_walk import Ask, Walk
from tests.debugging import use
from tests.followed import open_followed

SOURCE = '''\
from flux_guest import function


def weigh(price, n):
    weight = price * (n % 5)
    if weight > 40:
        weight -= 40
    return weight


@function
def walk(ctx, input):
    total, last = 0, []
    price = ctx.db.query("select price from items")[0]["price"]
    for n in range(input["n"]):
        total += weigh(price + n, n)
        if n % 7 == 0:
            last = [*last[-3:], {"n": n, "total": total}]
    return {"total": total}
'''
EVENTS_A_ROUND = 8
ROWS = {"db.query": {"columns": ["price"], "types": ["int4"], "rows": [[3]], "tag": "SELECT 1"}}


@attrs.frozen
class Seen:
    """An event, as our own tracer saw it."""

    kind: str
    line: int
    function: str
    names: dict[str, Any]
    """All but ``ctx``."""
    frame: int
    """Tells calls of a function apart."""


@attrs.frozen
class Compared:
    """What came of it."""

    events: int
    back: int
    changes: int
    wrong: list[str]


class Database:
    """Answers as the table of the recording does."""

    def query(self, _sql: str) -> list[dict[str, int]]:
        return [{"price": 3}]


class Context:
    db = Database()


def trace_plainly(rounds: int) -> list[Seen]:
    """Run the function here, without Flux, and return what it did."""
    # Without the decorator, which would enter the function among those of this process.
    source = SOURCE.replace("from flux_guest import function", "function = lambda given: given")
    space: dict[str, Any] = {}
    exec(compile(source, "traced-here", "exec"), space)
    seen: list[Seen] = []
    numbers: dict[int, int] = {}

    def follow(frame: FrameType, event: str, _argument: object) -> Any:
        code: CodeType = frame.f_code
        if code.co_filename != "traced-here":
            return None
        if event == "call":
            numbers[id(frame)] = len(seen)
        names = {name: value for name, value in frame.f_locals.items() if name != "ctx"}
        copied = json.loads(json.dumps(names))
        seen.append(Seen(event, frame.f_lineno, code.co_name, copied, numbers[id(frame)]))
        return follow

    before = sys.gettrace()
    sys.settrace(follow)
    try:
        space["walk"](Context(), {"n": rounds})
    finally:
        sys.settrace(before)
    return seen


def list_changes(seen: list[Seen], name: str) -> list[tuple[int, int, Any]]:
    """Return each event at which a name was another than before in its call, the line behind that, and the value."""
    found: list[tuple[int, int, Any]] = []
    values: dict[int, Any] = {}
    lines: dict[int, int] = {}
    for number, event in enumerate(seen, 1):
        if name in event.names and values.get(event.frame, seen) != event.names[name]:
            values[event.frame] = event.names[name]
            found.append((number, lines.get(event.frame, event.line), event.names[name]))
        lines[event.frame] = event.line
    return found


def go_back(ask: Ask, seen: list[Seen], back: int, changes: int) -> Compared:
    """Go back ``back`` events, and ``changes`` changes of each name, and compare."""
    walk, wrong = Walk(ask), []
    if walk.total != len(seen) or walk.at != walk.total:
        wrong.append(f"{walk.total} events, at {walk.at}; the tracer saw {len(seen)}")
    back = min(back, walk.total - 1)
    for number in range(walk.total, walk.total - back - 1, -1):
        walk.go(number)
        names = {name: value for name, value in walk.frame().record("locals").data.items() if name != "ctx"}
        here = walk.here
        known = seen[number - 1]
        if (here.kind, here.line, here.function, names) != (known.kind, known.line, known.function, known.names):
            wrong.append(f"event {number}: {here} {names}; the tracer saw {known}")
    found = 0
    for name in ("total", "last"):
        walk.go(walk.total)
        for number, line, value in list_changes(seen, name)[-1 : -changes - 1 : -1]:
            change = walk.find_change(name, ahead=False)
            if change is None or (change.event, change.place, change.value) != (
                number,
                f"functions/walk.py:{line} in walk()",
                value,
            ):
                wrong.append(f"{name}: {change}; the tracer saw {value} at {number}, by line {line}")
                break
            walk.go(change.event)
            found += 1
    return Compared(len(seen), back, found, wrong)


async def compare(folder: Path, events: int, back: int, changes: int) -> Compared:
    """Record, and go back."""
    rounds = events // EVENTS_A_ROUND + 1
    seen = trace_plainly(rounds)
    async with open_followed(folder, {"walk.py": SOURCE}) as followed:
        execution = await followed.record("walk", json.dumps({"n": rounds}).encode(), ROWS)
        return await use(followed, execution, lambda ask: go_back(ask, seen, back, changes))


def main() -> int:
    """Run it as a command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=20_000, help="of the execution, or a few more")
    parser.add_argument("--back", type=int, default=5_000, help="events to step back")
    parser.add_argument("--changes", type=int, default=50, help="changes of each name to go back to")
    said = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        compared = trio.run(compare, Path(folder), said.events, said.back, said.changes)
    for line in compared.wrong[:20]:
        print(line)
    print(
        f"{compared.events:,} events; {compared.back:,} steps back and {compared.changes:,} changes compared, "
        f"{len(compared.wrong):,} wrong; {time.monotonic() - began:.1f} s"
    )
    return 1 if compared.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
