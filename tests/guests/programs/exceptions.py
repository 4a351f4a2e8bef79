"""What goes wrong is reported whole, with its line."""

import asyncio

from flux_guest import Context, HTTPError, function


class Stop(BaseException):
    """No Exception, and yet only the function's end."""


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("can't say")


# Expect: raised KeyError
@function()
async def key_error(ctx: Context, input: dict) -> dict:
    return {"a": input["absent"]}


# Expect: raised RuntimeError; db.query 1
@function()
async def chained(ctx: Context, input: dict) -> None:
    try:
        await ctx.db.query("select * from nowhere")
    except Exception as error:
        raise RuntimeError("while looking") from error


# Expect: raised DatabaseError; db.execute 2
@function()
async def unique_violation(ctx: Context, input: dict) -> None:
    await ctx.db.execute("insert into users (email) values ('a@b.com')")
    await ctx.db.execute("insert into users (email) values ('a@b.com')")


# Expect: raised HTTPError
@function()
async def chooses_its_status(ctx: Context, input: dict) -> None:
    raise ctx.error(409, "CONFLICT", "taken")


# Expect: raised HTTPError; db.query 1
@function()
async def chooses_its_status_in_a_task(ctx: Context, input: dict) -> None:
    async def refuse():
        raise HTTPError(404)

    async with asyncio.TaskGroup() as group:
        group.create_task(ctx.db.query("select 1"))
        group.create_task(refuse())


# Expect: raised ExceptionGroup
@function()
async def several(ctx: Context, input: dict) -> None:
    async def fail(n):
        raise ValueError(n)

    async with asyncio.TaskGroup() as group:
        for n in range(3):
            group.create_task(fail(n))


# Expect: raised Stop
@function()
async def base_exception(ctx: Context, input: dict) -> None:
    raise Stop("now")


# Expect: raised Mute
@function()
def unshowable(ctx: Context, input: dict) -> None:
    raise Mute


# Expect: raised RecursionError
@function()
def recursion(ctx: Context, input: dict) -> None:
    def down(n):
        return down(n + 1)

    down(0)


# Expect: raised GrantRefusedError; http.request 1
@function()
async def not_granted(ctx: Context, input: dict) -> None:
    await ctx.http.get("http://example.com/")


# Expect: raised HttpCallError; http.request 1
@function()
async def hung_up(ctx: Context, input: dict) -> None:
    await ctx.http.get(f"http://127.0.0.1:{input['port']}/hangup")


# Expect: raised HttpTimeoutError; http.request 1
@function()
async def no_answer_in_time(ctx: Context, input: dict) -> None:
    await ctx.http.get(f"http://127.0.0.1:{input['port']}/silent", timeout=0.05)


# Expect: raised ValueError
@function()
async def half_a_character_in_a_call(ctx: Context, input: dict) -> None:
    await ctx.db.query("select $1::text", "\ud800")


# Expect: raised ValueError
@function()
async def too_much_in_a_call(ctx: Context, input: dict) -> None:
    await ctx.db.query("select $1::text", "x" * (17 * 2**20))


# Expect: raised ValueError
@function()
async def too_deep_in_a_call(ctx: Context, input: dict) -> None:
    deep: list = []
    for _ in range(300):
        deep = [deep]
    await ctx.db.query("select $1::jsonb", deep)
