"""Calls that are given up, and what becomes of what runs besides."""

import asyncio

from flux_guest import Context, function


# Expect: returned 200; http.request 1, clock.sleep 1
@function()
async def wait_for_a_silent_host(ctx: Context, input: dict) -> dict:
    try:
        await asyncio.wait_for(ctx.http.get(f"http://127.0.0.1:{input['port']}/silent"), 0.05)
    except TimeoutError:
        return {"timeout": True}
    return {"timeout": False}


# Expect: returned 200; http.request 2, db.query 1, clock.sleep 1
@function()
async def the_first_wins(ctx: Context, input: dict) -> dict:
    url = f"http://127.0.0.1:{input['port']}"
    slow = asyncio.create_task(ctx.http.get(url + "/silent"))
    quick = asyncio.create_task(ctx.http.post(url + "/echo", body="ok"))
    async with asyncio.timeout(10):
        done, _ = await asyncio.wait([slow, quick], return_when=asyncio.FIRST_COMPLETED)
    slow.cancel()
    gone = await asyncio.gather(slow, return_exceptions=True)
    row = await ctx.db.query_one("select 1 as one")
    return {"done": len(done), "gone": type(gone[0]).__name__, "one": row.one}


# Expect: raised ValueError; db.query 2, http.request 1
@function()
async def one_fails_and_its_group_is_cancelled(ctx: Context, input: dict) -> None:
    cleaned = []

    async def wait():
        try:
            await ctx.http.get(f"http://127.0.0.1:{input['port']}/silent")
        finally:
            cleaned.append(await ctx.db.query_one("select 'cleaned' as word"))

    async def fail():
        await ctx.db.query("select 1")
        raise ValueError("the second task")

    async with asyncio.TaskGroup() as group:
        group.create_task(wait())
        group.create_task(fail())


# Expect: returned 200; db.query 1; 2 log lines
@function()
async def left_running(ctx: Context, input: dict) -> dict:
    async def background():
        try:
            await asyncio.Event().wait()
        finally:
            ctx.log.info("cleaning up")

    task = asyncio.create_task(background())
    await ctx.db.query("select 1")
    return {"done": task.done()}


# Expect: returned 200; db.execute 1
@function()
async def never_awaited(ctx: Context, input: dict) -> dict:
    ctx.db.execute("insert into users (email) values ('forgotten@example.com')")
    return {"ok": True}


# Expect: returned 200; db.execute 1; 1 log lines
@function()
async def never_awaited_and_failed(ctx: Context, input: dict) -> dict:
    ctx.db.execute("insert into nowhere values (1)")
    return {"ok": True}


# Expect: raised DeadlockError; db.query 1
@function()
async def waits_for_nobody(ctx: Context, input: dict) -> None:
    await ctx.db.query("select 1")
    await asyncio.Event().wait()


# Expect: returned 200; 1 log lines
@function()
async def a_deadlock_can_be_caught(ctx: Context, input: dict) -> dict:
    try:
        await asyncio.Queue().get()
    except RuntimeError as error:
        ctx.log.warning("caught", error=type(error).__name__)
    except Exception as error:
        ctx.log.warning("caught", error=type(error).__name__)
        return {"caught": type(error).__name__}
    return {}


# Expect: raised CancelledError
@function()
async def cancels_itself(ctx: Context, input: dict) -> None:
    asyncio.current_task().cancel()
    await asyncio.sleep(0)
