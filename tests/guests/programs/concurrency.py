"""Database, HTTP and sleep at once; who is first is in the record."""

import asyncio

from flux_guest import Context, function


# Expect: returned 200; db.query 3, http.request 2, clock.sleep 1; 6 log lines
@function()
async def gather_all(ctx: Context, input: dict) -> dict:
    url = f"http://127.0.0.1:{input['port']}"
    done = []

    async def one(name, awaitable):
        await awaitable
        done.append(name)
        ctx.log.info("done", name=name)

    await asyncio.gather(
        one("query", ctx.db.query("select 1 as one")),
        one("slow query", ctx.db.query("select pg_sleep(0.03)")),
        one("post", ctx.http.post(url + "/echo", json={"n": 1})),
        one("slow post", ctx.http.post(url + "/slow", json={"n": 2})),
        one("sleep", asyncio.sleep(0.02)),
        one("last query", ctx.db.query("select 2 as two")),
    )
    return {"done": done}


# Expect: returned 200; db.query 50
@function()
async def fifty_at_once(ctx: Context, input: dict) -> dict:
    rows = await asyncio.gather(*(ctx.db.query_one("select $1::int * 2 as n", n) for n in range(50)))
    return {"numbers": [row.n for row in rows]}


# Expect: returned 200; db.query 3, http.request 1
@function()
async def first_completed(ctx: Context, input: dict) -> dict:
    tasks = [asyncio.create_task(ctx.db.query_one("select $1::int as n", n), name=str(n)) for n in range(3)]
    tasks.append(asyncio.create_task(ctx.http.get(f"http://127.0.0.1:{input['port']}/slow"), name="http"))
    order = []
    pending = set(tasks)
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        order += [task.get_name() for task in done]
    return {"order": order}


# Expect: returned 200; db.query 4
@function()
async def as_they_come(ctx: Context, input: dict) -> dict:
    async def ask(n):
        return (await ctx.db.query_one("select $1::int as n", n)).n

    return {"order": [await one for one in asyncio.as_completed([ask(n) for n in range(4)])]}


# Expect: returned 200; db.query 10
@function()
async def in_a_task_group(ctx: Context, input: dict) -> dict:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(ctx.db.query_one("select $1::int as n", n)) for n in range(10)]
    return {"sum": sum(task.result().n for task in tasks)}


# Expect: returned 200; clock.sleep 1+
@function()
async def sleep_sort(ctx: Context, input: dict) -> dict:
    order = []

    async def sleep(n):
        await asyncio.sleep(n / 100)
        order.append(n)

    await asyncio.gather(sleep(3), sleep(1), sleep(2))
    return {"order": order}


# Expect: returned 200; db.query 1
@function()
async def yields_until_answered(ctx: Context, input: dict) -> dict:
    task = asyncio.create_task(ctx.db.query_one("select 1 as n"))
    rounds = 0
    while not task.done():
        rounds += 1
        await asyncio.sleep(0)
    return {"rounds": rounds}


# Expect: returned 200
@function()
async def queues_and_locks(ctx: Context, input: dict) -> dict:
    queue: asyncio.Queue = asyncio.Queue(2)
    lock, seen = asyncio.Lock(), []

    async def produce(name):
        for n in range(5):
            await queue.put((name, n))

    async def consume():
        while len(seen) < 10:
            item = await queue.get()
            async with lock:
                await asyncio.sleep(0)
                seen.append(item)

    await asyncio.gather(produce("a"), produce("b"), consume())
    return {"seen": seen}
