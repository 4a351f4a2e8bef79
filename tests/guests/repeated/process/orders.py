"""The order of sets: of text, whose hashes are fixed, and of objects, whose hashes are their addresses."""

import gc
import weakref
from collections import Counter
from typing import Any

from flux_guest import Context, function


class Plan:
    """Hashes by its address."""

    def __init__(self, name: int) -> None:
        self.name = name


class Slim:
    """Another size."""

    __slots__ = ("name",)

    def __init__(self, name: int) -> None:
        self.name = name


KEPT = {Plan(number) for number in range(40)}
CLASSES = {type(f"Made{number}", (), {"name": number}) for number in range(20)}


def _names(found: Any) -> list[Any]:
    return [one.name for one in found]


@function()
async def goes_through_sets_of_text(ctx: Context, input: dict[str, Any]) -> Any:
    words = {f"{input['text']}{number}" for number in range(100)} | {*["some", "words", "of", "ours"]}
    for word in list(words)[:3]:
        await ctx.db.execute("insert into words values ($1)", word)
    counted = Counter(word[-1] for word in words)
    return [
        list(words),
        counted.most_common(),
        hash(input["text"]),
        hash((1.5, "a", None.__class__.__name__)),
    ]


@function()
async def goes_through_sets_of_objects(ctx: Context, input: dict[str, Any]) -> Any:
    plans = {Plan(number) for number in range(30)}
    slim = {Slim(number) for number in input["list"]}
    await ctx.db.execute("insert into plans values ($1)", _names(plans))
    made = {(lambda number=number: number) for number in range(12)}
    await ctx.db.execute("insert into plans values ($1)", _names(slim))
    return [_names(plans), _names(slim), [one() for one in made]]


@function()
def goes_through_what_a_module_made(ctx: Context, input: dict[str, Any]) -> Any:
    ctx.db.execute("insert into plans values ($1)", _names(KEPT))
    ctx.log.info("classes", names=_names(CLASSES))
    return _names(KEPT - set(list(KEPT)[:5]))


@function()
async def goes_through_weak_references(ctx: Context, input: dict[str, Any]) -> Any:
    kept = [Plan(number) for number in range(20)]
    weak, by_plan = weakref.WeakSet(kept), weakref.WeakKeyDictionary({plan: plan.name for plan in kept})
    await ctx.db.execute("insert into plans values ($1)", _names(weak))
    del kept[3:9]
    return [_names(weak), list(by_plan.values())]


@function()
async def shows_addresses(ctx: Context, input: dict[str, Any]) -> Any:
    before = [object(), Plan(1), [], {}, lambda: None]
    ctx.log.info(f"made {before[1]}", shown=repr(before[0]))
    # Of an object that the log has shown: where another lies may differ alone, and then this line would be the first.
    found = await ctx.db.query("select $1", id(before[0]) % 4096)
    after = [*found, Plan(2), {*found[:1].__iter__.__name__}]
    return [[id(one) for one in before], [id(one) for one in after], id(Plan)]


@function()
async def compares_addresses_as_tasks_end(ctx: Context, input: dict[str, Any]) -> Any:
    plans = [Plan(number) for number in range(8)]
    for number in range(4):
        try:
            await ctx.db.query("select $1", number)
        except Exception as error:
            plans.append(Plan(len(str(error))))
        plans.append(Plan(number))
    return _names(sorted(plans, key=id))


@function()
def ends_what_nobody_holds(ctx: Context, input: dict[str, Any]) -> Any:
    class Ring:
        def __init__(self, number: int) -> None:
            self.number, self.itself = number, self

        def __del__(self) -> None:
            if self.number % 50 == 0:
                ctx.log.debug("gone", number=self.number)

    for number in range(1500):
        Ring(number)
        if number % 400 == 0:
            ctx.db.execute("insert into rings values ($1)", number)
    return [gc.collect(), gc.get_count()]
