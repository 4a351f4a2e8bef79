"""Middleware around a handler."""

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


# Expect: raised LookupError
@function(middleware=["no_such"])
async def behind_nothing(ctx: Context, input: dict) -> dict:
    return {}


# Expect: raised TypeError
@function(middleware=["auth"])
def a_def_behind_async(ctx: Context, input: dict) -> dict:
    return {}
