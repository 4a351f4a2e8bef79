"""Stepping through executions, held to what a tracer of our own saw when the function ran outside of Flux."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from flux.errors import FluxError
from flux.execution import Execution, Returned
from flux.expression import parse_expression, parse_expressions
from flux.stepping import STOPS, Search
from flux.supervisor import replay
from flux.supervisor.debug import Debugged, Question, debug
from flux.verdict import Verdict
from tests.followed import NEVER, Followed, open_followed

WALK = '''\
from flux_guest import function


def weigh(price, n):
    weight = price * (n % 5)
    if weight > 40:
        weight -= 40
    return weight


@function
def walk(ctx, input):
    total = 0
    seen = []
    price = ctx.db.query("select price from items")[0]["price"]
    for n in range(input["n"]):
        total += weigh(price + n, n)
        if n % 50 == 0:
            seen.append(total)
    return {"total": total, "seen": seen}
'''
OTHERS = '''\
import asyncio
import sys

from flux_guest import function

TOUCHED = []


def touch(self, *_):
    TOUCHED.append(1)
    raise RuntimeError("looked at")


class Meta(type):
    __repr__ = __eq__ = __instancecheck__ = __subclasscheck__ = touch
    __hash__ = type.__hash__

    def __getattribute__(cls, name):
        TOUCHED.append(name)
        return type.__getattribute__(cls, name)


class Trap(metaclass=Meta):
    __repr__ = __str__ = __eq__ = __len__ = __iter__ = __bool__ = __format__ = __getattr__ = touch
    __class__ = price = property(touch)
    __hash__ = None

    def __init__(self):
        object.__setattr__(self, "kept", 7)


class Closed:
    __dict__ = property(touch)


class Words(str):
    __str__ = __repr__ = __len__ = __getitem__ = __eq__ = touch
    __hash__ = str.__hash__


class Pairs(dict):
    __iter__ = __repr__ = items = keys = __len__ = __getitem__ = touch


class Name(str):
    __eq__ = startswith = touch

    def __hash__(self):
        TOUCHED.append(1)
        return str.__hash__(self)


class Named:
    locals()[Name("own")] = 1


@function
def trapped(ctx, input):
    trap, closed, words, pairs = Trap(), Closed(), Words("hello"), Pairs(a=1)
    big, deep = list(range(1000)), {1: "\\x1b[31m" + "x" * 500}
    named, wide = Named(), 1 << 3000
    sys.set_int_max_str_digits(640)
    TOUCHED.clear()
    done = True
    return {"touched": TOUCHED}


@function
def caught(ctx, input):
    for key in ("a", "b"):
        try:
            {}[key]
        except KeyError:
            pass
    plan = input["plan"]
    raise LookupError(plan)


@function
async def both(ctx, input):
    async def one(n):
        await ctx.db.query("select 1")
        return n
    found = await asyncio.gather(one(1), one(2))
    def numbers():
        try:
            yield 1
        except ValueError:
            yield 2
    each = numbers()
    return [*found, next(each), each.throw(ValueError("thrown in")), next(each, 3)]


@function
def noticed(ctx, input):
    return {"traced": "flux_guest._trace" in sys.modules or sys.gettrace() is not None}


@function
def untraced(ctx, input):
    before = 1
    sys.settrace(None)
    after = 2
    return after


class Asked:
    def __getattr__(self, name):
        TOUCHED.append(name)
        raise AttributeError(name)


class Disguised(property):
    __dict__ = property.__dict__["__isabstractmethod__"]


class Slotted:
    __slots__ = ("a",)


class Borrowed:
    a = Slotted.a


@function
def disguised(ctx, input):
    hidden, borrowed = Disguised(Asked()), Borrowed()
    TOUCHED.clear()
    done = True
    return {"touched": list(TOUCHED)}
'''
ORACLE = '''\
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("walk", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
seen = []
def follow(frame, event, argument):
    if frame.f_code.co_filename != sys.argv[1]:
        return None
    names = {k: list(v) if type(v) is list else v for k, v in frame.f_locals.items() if k != "ctx"}
    seen.append([event, frame.f_lineno, names])
    return follow
class Database:
    def query(self, sql):
        return [{"price": 3}]
class Ctx:
    db = Database()
sys.settrace(follow)
module.walk(Ctx(), {"n": 250})
sys.settrace(None)
print(json.dumps(seen))
'''
KILLED = '''\
import threading

from flux_guest import function


@function(timeout="3s")
def hangs(ctx, input):
    total = 0
    for n in range(250):
        total += n
    ctx.http.get("http://example.com/")
    return total


@function(timeout="300ms")
def spins(ctx, input):
    n = 0
    while True:
        n += 1


@function(timeout="3s")
def locks(ctx, input):
    lock = threading.Lock()
    held = lock.acquire()
    again = lock.acquire()
    return again
'''
ROWS = {"db.query": {"columns": ["price"], "types": ["int4"], "rows": [[3]], "tag": "SELECT 1"}}


async def look(followed: Followed, execution: Execution, **question: Any) -> Debugged:
    return await debug(execution, Question(**question), followed.replayer.follow)


async def test_every_step_shows_what_a_debugger_of_the_original_saw(tmp_path: Path) -> None:
    async with open_followed(tmp_path, {"walk.py": WALK}) as followed:
        execution = await followed.record("walk", b'{"n": 250}', ROWS)
        file = tmp_path / "project" / "functions" / "walk.py"
        ran = await trio.run_process([sys.executable, "-c", ORACLE, str(file)], capture_stdout=True)
        oracle = json.loads(ran.stdout)
        seen = await look(followed, execution)
        assert seen.replay is not None
        assert seen.replay.judgement.verdict is Verdict.IDENTICAL
        assert seen.total == len(oracle) > 2_000
        assert seen.at == seen.total, "it had not failed, so it stands at the end"
        # Back over more than a thousand steps, a window at a time.
        at, steps = seen.total, 0
        while steps < 1_000:
            window = await look(followed, execution, at=at, around=99)
            for number in range(at, at - 100, -1):
                event, line, names = oracle[number - 1]
                shown = window.shown[number]
                assert shown.stack[0].line == line
                assert {name: value for name, value in shown.locals.items() if name != "ctx"} == names
                assert next(e.kind for e in window.events if e.number == number) == event
                steps += 1
            at -= 100
        # How a name changed, and which line did it.
        watched = await look(followed, execution, watches=True, expressions=parse_expressions("total"))
        changes, last, line = [], None, 0
        for number, (_, now, names) in enumerate(oracle, 1):
            if "n" in names and "total" not in names and "weight" not in names and "input" not in names:
                continue
            if "input" in names:
                if "total" in names and names["total"] != last:
                    last = names["total"]
                    changes.append((number, line, last))
                line = now
        assert [(value.event, value.line, value.values[0]) for value in watched.values] == changes
        # Back to where a condition held, from the middle.
        middle = seen.total // 2
        held = [n for n, (_, _, names) in enumerate(oracle[: middle - 1], 1) if names.get("weight", 0) > 40]
        back = await look(followed, execution, condition=parse_expression("weight > 40"), before=middle)
        assert back.at == held[-1]
        nothing = await look(followed, execution, condition=parse_expression("weight > 40"), before=2)
        assert nothing.at is None
        # A step leads to an event of the same call, in one run: only in it is there an input.
        own = [n for n, (kind, _, names) in enumerate(oracle, 1) if "input" in names and kind in STOPS]
        for at in (20, middle):
            ahead = await look(followed, execution, seek=Search(STOPS, ahead=True, frame=1), after=at)
            behind = await look(followed, execution, seek=Search(STOPS, ahead=False, frame=1), before=at)
            assert (ahead.at, behind.at) == (min(n for n in own if n > at), max(n for n in own if n < at))
        others = await look(followed, execution, seek=Search(STOPS, ahead=True, frame=1, is_other=True), after=20)
        stops = [n for n, (kind, _, _) in enumerate(oracle, 1) if kind in STOPS]
        assert others.at == min(n for n in stops if n > 20 and n not in own)


async def test_looking_runs_nothing_and_what_goes_another_way_is_said(tmp_path: Path) -> None:
    async with open_followed(tmp_path, {"others.py": OTHERS}) as followed:
        trapped = await followed.record("trapped", b"{}", {})
        seen = await look(followed, trapped, around=99)
        assert seen.replay is not None
        assert seen.replay.judgement.verdict is Verdict.IDENTICAL, "its answer says how often it was touched"
        names = next(shown.locals for number, shown in sorted(seen.shown.items()) if "done" in shown.locals)
        assert names["trap"] == {"$type": "Trap", "fields": {"kept": 7}}
        assert names["closed"] == {"$type": "Closed"}, "where its own dictionary can't be reached, nothing is shown"
        assert names["words"] == {"$type": "Words", "text": "hello"}
        assert names["pairs"] == {"$type": "Pairs", "fields": {"a": 1}}
        assert names["big"] == {"$type": "list", "items": list(range(20)), "length": 1000}
        assert names["named"] == {"$type": "Named"}
        assert names["wide"] == {"$type": "int", "text": "3,001 bits", "cut": True}
        assert names["deep"]["pairs"][0][1]["length"] == 505
        asked = "trap.kept, trap.price, trap == 1, len(trap), pairs['a'], len(big), words[1], nowhere, named.own"
        printed = await look(followed, trapped, place=("others.py", 65), expressions=parse_expressions(asked))
        assert printed.replay is not None
        assert printed.replay.judgement.verdict is Verdict.IDENTICAL
        (value,) = printed.values
        assert [each.get("$type") if isinstance(each, dict) else each for each in value.values] == [
            7, "unseen", "unseen", "unseen", 1, 1000, "e", "unseen", "unseen",
        ]  # fmt: skip

        disguised = await followed.record("disguised", b"{}", {})
        seen = await look(followed, disguised, around=99)
        assert seen.replay is not None
        assert seen.replay.judgement.verdict is Verdict.IDENTICAL, "nothing was asked that the function would notice"

        caught = await followed.record("caught", b'{"plan": "pro"}', {})
        seen = await look(followed, caught)
        assert seen.at is not None
        shown = seen.shown[seen.at]
        assert shown.locals["plan"] == "pro"
        assert [e.detail for e in seen.events if e.number == seen.at] == ["LookupError: pro"]
        for question, code in (
            ({"at": seen.total + 1}, "FLX671"),
            ({"at": 0}, "FLX671"),
            ({"place": ("others.py", 1), "expressions": parse_expressions("plan")}, "FLX672"),
            ({"place": ("thers.py", 51), "expressions": parse_expressions("plan")}, "FLX672"),
        ):
            with pytest.raises(FluxError) as refused:
                await look(followed, caught, **question)
            assert refused.value.code == code

        both = await followed.record("both", b"{}", ROWS)
        seen = await look(followed, both)
        assert seen.replay is not None
        assert seen.replay.judgement.verdict is Verdict.IDENTICAL
        ones = [event for event in seen.events if event.function.endswith("one")]
        assert len({event.frame for event in ones}) == 2
        for frame in {event.frame for event in ones}:
            kinds = [event.kind for event in ones if event.frame == frame]
            assert kinds == ["call", "line", "pause", "resume", "line", "return"]
        # Both were asked before either was answered.
        assert [event.asked for event in ones if event.kind == "pause"] == [1, 2]
        assert {event.heard for event in ones if event.kind == "pause"} == {0}
        assert [event.heard > 0 for event in ones if event.kind == "return"] == [True, True]
        # An error that is thrown in goes on with what had paused, and begins nothing.
        numbers = [event for event in seen.events if event.function.endswith("numbers")]
        assert len({event.frame for event in numbers}) == 1
        kinds = [event.kind for event in numbers]
        assert (kinds.count("call"), kinds.count("pause"), kinds.count("return")) == (1, 2, 1)
        assert kinds[-1] == "return"

        noticed = await followed.record("noticed", b"{}", {})
        assert isinstance(noticed.outcome, Returned)
        assert json.loads(noticed.outcome.body) == {"traced": False}
        seen = await look(followed, noticed)
        assert seen.replay is not None
        assert seen.replay.replayed.divergence is not None, "it looks for a tracer and finds one"

        untraced = await followed.record("untraced", b"{}", {})
        seen = await look(followed, untraced)
        assert any("took the tracer away" in note for note in seen.notes)


async def test_what_hung_until_its_limit_fails_as_it_did_when_it_is_replayed(tmp_path: Path) -> None:
    async with open_followed(tmp_path, {"killed.py": KILLED}) as followed:
        hung = await followed.record("hangs", b"{}", {"http.request": NEVER})
        again = await followed.replayer.replay(hung, None, {})
        assert again.replayed.divergence is None
        assert again.judgement.verdict is Verdict.OUTSIDE, again.judgement.reason


async def test_what_was_killed_is_shown_as_far_as_it_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "REPLAY_PATIENCE_S_MIN", 1.0)
    async with open_followed(tmp_path, {"killed.py": KILLED}) as followed:
        lines = ["", *KILLED.split("\n")]
        hung = await followed.record("hangs", b"{}", {"http.request": NEVER})
        seen = await look(followed, hung)
        assert (seen.total, seen.at, seen.ended) == (504, 504, False), "250 rounds of two lines, and four events"
        assert lines[seen.events[-1].line].strip() == 'ctx.http.get("http://example.com/")'
        assert seen.shown[504].locals["total"] == sum(range(250))
        assert seen.replay is not None and seen.replay.replayed.divergence is None
        assert seen.replay.judgement.verdict is Verdict.OUTSIDE
        assert any("nothing is known of what it did behind event 504" in note for note in seen.notes)
        assert (await look(followed, hung, at=504)).total == 504
        with pytest.raises(FluxError, match=r"event 505 of .* is not known: it was ended from outside"):
            await look(followed, hung, at=505)
        # Where a line hangs by itself, the last event is that line, although nothing was told behind it.
        stuck = await followed.record("locks", b"{}", {})
        seen = await look(followed, stuck)
        assert (seen.total, seen.at, seen.ended) == (4, 4, False)
        assert lines[seen.events[-1].line].strip() == "again = lock.acquire()"
        assert seen.shown[4].locals["held"] is True
        # An endless loop comes to another number each time; one stands in it.
        spun = await followed.record("spins", b"{}", {})
        seen = await look(followed, spun)
        assert seen.at is not None and 1 <= seen.at <= seen.total and not seen.ended
        assert seen.shown[seen.at].stack[0].function == "spins"
        assert seen.replay is not None and seen.replay.judgement.verdict is Verdict.SAME_FAILURE
        nowhere = await look(followed, spun, seek=Search(frozenset({"return"}), ahead=True), after=5)
        assert (nowhere.at, nowhere.ended) == (None, False)
