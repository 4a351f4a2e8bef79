"""Several things at once: who is first is in the record."""

import asyncio
from typing import Any

from flux_guest import Context, function


async def _ask(ctx: Context, number: int) -> Any:
    try:
        return [list(row.values()) for row in await ctx.db.query("select $1", number)][:1]
    except Exception as error:
        return str(error)


@function()
async def takes_them_as_they_come(ctx: Context, input: dict[str, Any]) -> Any:
    return [await one for one in asyncio.as_completed([_ask(ctx, number) for number in range(6)])]


@function()
async def gives_up_all_but_the_first(ctx: Context, input: dict[str, Any]) -> Any:
    tasks = {asyncio.create_task(_ask(ctx, number)) for number in range(5)}
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    left = await asyncio.gather(*pending, return_exceptions=True)
    return [[task.get_name() for task in done], [task.result() for task in done], [repr(one) for one in left]]


@function()
async def fails_in_a_group(ctx: Context, input: dict[str, Any]) -> Any:
    order: list[Any] = []

    async def one(number: int) -> None:
        try:
            order.append((number, await _ask(ctx, number)))
            if number == input["n"] % 6:
                raise LookupError(number)
        finally:
            order.append(number)
            ctx.log.info("ended", number=number)

    try:
        async with asyncio.TaskGroup() as group:
            for number in range(6):
                group.create_task(one(number))
    except* LookupError as errors:
        order.append(str(errors.exceptions))
    return order


@function()
async def works_from_a_queue(ctx: Context, input: dict[str, Any]) -> Any:
    queue: asyncio.Queue[int] = asyncio.Queue(3)
    lock, seen = asyncio.Lock(), []

    async def work(name: str) -> None:
        while (number := await queue.get()) >= 0:
            found = await _ask(ctx, number)
            async with lock:
                await asyncio.sleep(0)
                seen.append((name, number, found))

    workers = [asyncio.create_task(work(name)) for name in "abc"]
    for number in (*range(9), -1, -1, -1):
        await queue.put(number)
    await asyncio.gather(*workers)
    return seen


@function()
async def asks_of_all_kinds(ctx: Context, input: dict[str, Any]) -> Any:
    url = "http://shop.test/prices"
    found = await asyncio.gather(
        _ask(ctx, 1), ctx.http.get(url), ctx.db.execute("update prices set n = $1", input["n"]),
        ctx.clock.fresh(), ctx.http.post(url, json=input["list"]), asyncio.sleep(0.002, "slept"),
    )  # fmt: skip
    return [str(one) if not hasattr(one, "status") else (one.status, one.json()) for one in found]


@function()
async def forgets_what_it_asked(ctx: Context, input: dict[str, Any]) -> Any:
    asyncio.create_task(_ask(ctx, 1))  # noqa: RUF006 - that nobody holds it is the point
    ctx.db.execute("update prices set n = $1", 1)
    await asyncio.sleep(0)
    return await _ask(ctx, 2)
