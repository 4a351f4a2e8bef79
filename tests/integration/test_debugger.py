"""The debugger's prompt, over executions that really ran, and stepping back held to another tracer."""

import io
import json
import re
from collections.abc import Sequence
from pathlib import Path

import attrs

from flux.cli.debug_clock import Clock
from flux.cli.debug_prompt import Prompt
from flux.cli.debug_walk import Ask, Walk
from flux.cli.record import Record
from flux.cli.screen import Screen
from flux.execution import Execution
from flux.stepping import step_out
from flux.supervisor.present import call_json
from tests.debugging import use
from tests.followed import Followed, open_followed
from tests.worlds.step_back import compare

SHOP = '''\
import asyncio

from flux_guest import function


def price(line):
    cents = line["cents"]
    if cents < 0:
        raise ValueError(cents)
    return cents * line["count"]


@function
def charge(ctx, input):
    total = 0
    for line in input["lines"]:
        total += price(line)
    ctx.db.query("select 1")
    ctx.db.query("select 2")
    return {"total": total}


@function
async def both(ctx, input):
    async def one(n):
        await ctx.db.query("select 1")
        return n
    found = await asyncio.gather(one(1), one(2))
    done = len(found)
    return done
'''
ROWS = {"db.query": {"columns": ["n"], "types": ["int4"], "rows": [[1]], "tag": "SELECT 1"}}
LINES = b'{"lines": [{"cents": 5, "count": 2}, {"cents": 7, "count": 1}, {"cents": -1, "count": 1}]}'


async def test_stepping_back_shows_what_another_tracer_saw_of_the_first_run(tmp_path: Path) -> None:
    compared = await compare(tmp_path, events=1_100, back=1_000, changes=3)
    assert compared.wrong == []
    assert compared.back == 1_000
    assert compared.changes == 6


@attrs.define
class Session:
    """A prompt, and what it showed."""

    walk: Walk
    prompt: Prompt
    shown: io.StringIO

    def type(self, *lines: str) -> str:
        """Type lines, and return what is shown from then on."""
        self.shown.seek(0)
        self.shown.truncate()
        waiting = [*lines, "quit"]
        self.prompt.run(lambda _prompt: waiting.pop(0))
        return self.shown.getvalue()


def open_session(ask: Ask, execution: Execution) -> Session:
    calls = [json.loads(json.dumps(call_json(call, execution), default=str)) for call in execution.calls]
    trace = Record({"calls": calls, "mutations": [], "elapsed_ms": execution.elapsed_ns / 1e6})
    walk, shown = Walk(ask), io.StringIO()
    return Session(walk, Prompt(walk, lambda: Clock(trace), Screen(shown, colour=False)), shown)


async def on_prompt(followed: Followed, execution: Execution, typed: Sequence[tuple[str, str, str]]) -> None:
    """Type each command in turn; after it one stands at the line, of the kind, that is named."""

    def work(ask: Ask) -> None:
        session = open_session(ask, execution)
        for command, kind, line in typed:
            text = session.type(command)
            here = session.walk.here
            source = SHOP.split("\n")[here.line - 1].strip()
            assert (here.kind, source) == (kind, line), f"{command}: {text}"

    await use(followed, execution, work)


async def test_steps_lead_where_a_person_expects(tmp_path: Path) -> None:
    async with open_followed(tmp_path, {"shop.py": SHOP}) as followed:
        failed = await followed.record("charge", LINES, ROWS)
        await on_prompt(followed, failed, [
            ("where", "exception", "raise ValueError(cents)"),  # where it failed
            ("prev", "line", "raise ValueError(cents)"),
            ("prev", "line", "if cents < 0:"),
            ("out", "exception", "total += price(line)"),
            ("prev", "line", "total += price(line)"),
            ("prev", "line", 'for line in input["lines"]:'),
            ("prev", "line", "total += price(line)"),
            ("step", "line", 'cents = line["cents"]'),
            ("out", "line", 'for line in input["lines"]:'),
            ("rc", "call", "@function"),
            ("next", "line", "total = 0"),
            ("to shop.py:16", "line", 'for line in input["lines"]:'),
            ("next", "line", "total += price(line)"),
            ("next", "line", 'for line in input["lines"]:'),
            ("back", "return", "return cents * line[\"count\"]"),
            ("c functions/shop.py:7 if line['cents'] == 7", "line", 'cents = line["cents"]'),
            ("c cents < 0", "line", "if cents < 0:"),
            ("rc shop.py:10", "line", 'return cents * line["count"]'),
            ("change total", "line", 'for line in input["lines"]:'),
            ("next-change total", "line", 'for line in input["lines"]:'),
            ("at 1", "call", "@function"),
            ("back", "call", "@function"),
            ("c", "return", "total += price(line)"),
            ("next", "return", "total += price(line)"),
            ("rc shop.py:3", "return", "total += price(line)"),  # there is no such line: one stays
        ])  # fmt: skip
        both = await followed.record("both", b"{}", ROWS)
        await on_prompt(followed, both, [
            ("rc", "call", "@function"),
            ("to shop.py:26", "line", 'await ctx.db.query("select 1")'),
            ("next", "line", "return n"),  # of the same call, although another ran in between
            ("rc shop.py:28", "line", "found = await asyncio.gather(one(1), one(2))"),
            ("next", "line", "done = len(found)"),
            ("prev", "line", "found = await asyncio.gather(one(1), one(2))"),
        ])  # fmt: skip


async def test_a_step_over_much_is_one_question(tmp_path: Path) -> None:
    lines = json.dumps({"lines": [{"cents": 5, "count": 2}] * 300}).encode()
    async with open_followed(tmp_path, {"shop.py": SHOP}) as followed:
        fine = await followed.record("charge", lines, ROWS)

        def work(ask: Ask) -> None:
            asked: list[dict[str, object]] = []

            def count(order: dict[str, object]) -> Record:
                asked.append(order)
                return ask(order)

            walk = Walk(count, 1)
            assert walk.total > 2_000 and walk.ended
            asked.clear()
            assert walk.find(step_out(walk.here)) == walk.total
            assert len(asked) == 1

        await use(followed, fine, work)


async def test_the_prompt_tells_of_a_place_and_of_what_is_wrong_with_a_command(tmp_path: Path) -> None:
    async with open_followed(tmp_path, {"shop.py": SHOP}) as followed:
        failed = await followed.record("charge", LINES, ROWS)
        fine = await followed.record("charge", b'{"lines": [{"cents": 5, "count": 2}]}', ROWS)

        def work(ask: Ask) -> None:
            session = open_session(ask, failed)
            text = session.type("")
            assert "run again: same failure, as recorded" in text
            assert "ValueError: -1" in text
            text = session.type("p line['cents'], len(line), nothing", "up", "p total, line", "list", "down", "locals")
            assert "line['cents'] = -1" in text
            assert "len(line) = 2" in text
            assert "nothing = (no nothing yet)" in text
            assert "shop.py:17  charge()" in text
            assert "total = 17" in text
            assert '→    17          total += price(line)' in text
            assert "  cents  -1" in text
            text = session.type("stack", "watch total")
            assert "in    functions/shop.py:9  price()" in text
            assert "from  functions/shop.py:17  charge()" in text
            assert text.count("functions/shop.py:17 ") == 3, "two changes, and the caller"
            assert "it made no host call" in session.type("calls")
            assert "it changed no row" in session.type("rows")
            # An empty line does the last step again, and nothing else.
            session.type("at 4")
            session.type("back", "", "")
            assert session.walk.at == 1
            session.type("locals", "")
            assert session.walk.at == 1

        def work_fine(ask: Ask) -> None:
            session = open_session(ask, fine)
            assert "before any call · 0.0 to " in session.type("rc")
            text = session.type("to shop.py:19", "calls")
            assert "call 1 · " in text
            made, coming = [line for line in text.splitlines() if re.match(r"( → |   )\d+ .* ms  ", line)]
            assert made.startswith(" → ")
            assert not coming.startswith(" → ")

        await use(followed, failed, work)
        await use(followed, fine, work_fine)
