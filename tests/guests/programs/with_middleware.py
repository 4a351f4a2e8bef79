"""Middleware around a handler."""

import asyncio
import time

from flux_guest import Context, HTTPError, function, middleware


@middleware
async def auth(ctx: Context, call_next):
    if ctx.request.headers.get("authorization") != "Bearer let-me-in":
        raise HTTPError(401)
    ctx.user = {"id": 7}
    return await call_next()


@middleware
async def wrap(ctx: Context, call_next):
    row = await ctx.db.query_one("select 1 as one")
    return {"wrapped": await call_next(), "one": row.one}


@middleware
def hand_on(ctx: Context, call_next):
    return call_next()


@middleware
async def refuse(ctx: Context, call_next):
    return ctx.response({"error": "closed"}, status=403)


# Expect: returned 200; db.query 2
@function(middleware=["auth", "wrap", "hand_on"])
async def behind_three(ctx: Context, input: dict) -> dict:
    await ctx.db.query("select 2")
    return {"user": ctx.user, "query": ctx.request.query_list, "method": ctx.request.method}


# Expect: returned 403
@function(middleware=["refuse"])
async def never_reached(ctx: Context, input: dict) -> dict:
    raise AssertionError("the middleware answers")


# Expect: returned 200; db.query 2, clock.sleep 1
@function(middleware=["auth", "around_all"])
def a_def_behind_async(ctx: Context, input: dict) -> dict:
    time.sleep(0.001)
    return {"user": ctx.user, "two": ctx.db.query_one("select 2 as two").two}


@middleware
async def around_all(ctx: Context, call_next):
    pending = asyncio.create_task(ctx.db.query_one("select 1 as one"))
    await asyncio.sleep(0)
    response = ctx.response(await call_next(), headers={"x-one": str((await pending).one)})
    response.body["seen"] = True
    return response


@middleware
def in_def(ctx: Context, call_next):
    with ctx.db.transaction():
        answer = ctx.response(call_next())
    assert answer.status == 204
    return ctx.response(answer, status=202)


# Expect: returned 202; db.begin 2, db.commit 2, db.execute 1
@function(middleware=["auth", "hand_on", "in_def"])
def a_def_behind_both(ctx: Context, input: dict) -> None:
    with ctx.db.transaction():
        ctx.db.execute("select 1")


# Expect: returned 202; db.begin 1, db.commit 1
@function(middleware=["in_def", "hand_on"])
def all_are_def(ctx: Context, input: dict) -> None:
    assert ctx.user is None


@middleware
async def catches(ctx: Context, call_next):
    try:
        return await call_next()
    except KeyError as error:
        raise HTTPError(404) from error


# Expect: raised HTTPError; db.query 1
@function(middleware=["catches"])
def fails_in_a_def(ctx: Context, input: dict) -> dict:
    ctx.db.query("select 1")
    return {}["no"]


# Expect: raised TypeError
@function(middleware=["in_def"])
async def an_async_def_behind_a_def_that_needs_its_answer(ctx: Context, input: dict) -> dict:
    return {}
