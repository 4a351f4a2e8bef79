"""Sets, dicts and hashes: the same order in every process."""

import asyncio

from flux_guest import Context, function


# Expect: returned 200; db.query 1
@function()
async def sets_and_dicts(ctx: Context, input: dict) -> dict:
    words = {f"word{n}" for n in range(200)}
    row = await ctx.db.query_one("select $1::text[] as words", list(words))
    return {"words": row.words, "hash": hash("flux"), "dict": dict.fromkeys(words)}


# Expect: returned 200; db.query 20
@function()
async def sets_of_tasks(ctx: Context, input: dict) -> dict:
    order = []

    async def ask(n):
        await ctx.db.query("select $1::int", n)
        order.append(n)

    tasks = {asyncio.create_task(ask(n)) for n in range(20)}
    done, _ = await asyncio.wait(tasks)
    return {"order": order, "names": [task.get_name() for task in done], "set": [t.get_name() for t in tasks]}


# Expect: returned 200; db.query 6
@function()
async def cancelled_in_order(ctx: Context, input: dict) -> dict:
    order = []

    async def wait(n):
        try:
            await asyncio.Event().wait()
        finally:
            await ctx.db.query("select $1::int", n)
            order.append(n)

    try:
        async with asyncio.TaskGroup() as group:
            for n in range(6):
                group.create_task(wait(n))
            await asyncio.sleep(0)
            raise KeyError
    except* KeyError:
        pass
    return {"order": order}
