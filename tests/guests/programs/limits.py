"""Beyond what is allowed."""

import asyncio

from flux_guest import Context, function


# Expect: killed timeout; db.query 1
# Limits: {"timeout_s": 0.7}
@function()
async def computes_for_ever(ctx: Context, input: dict) -> None:
    await ctx.db.query("select 1")
    while True:
        pass


# Expect: killed timeout; http.request 1
# Limits: {"timeout_s": 0.7}
@function()
async def waits_for_ever(ctx: Context, input: dict) -> None:
    await ctx.http.get(f"http://127.0.0.1:{input['port']}/silent")


# Expect: killed memory; db.query 1
# Limits: {"memory_bytes_max": 100000000}
@function()
async def eats_memory(ctx: Context, input: dict) -> None:
    await ctx.db.query("select 1")
    eaten = []
    while True:
        eaten.append(bytearray(1_000_000))


# Expect: returned 200
# Limits: {"memory_bytes_max": 100000000}
@function()
async def survives_a_memory_error(ctx: Context, input: dict) -> dict:
    try:
        bytearray(10**9)
    except MemoryError:
        return {"caught": True}
    return {"caught": False}


# Expect: killed host_calls; db.query 5
# Limits: {"host_calls_max": 5}
@function()
async def asks_too_often(ctx: Context, input: dict) -> None:
    for _ in range(10):
        await ctx.db.query("select 1")


# Expect: raised RuntimeError; db.query 1000
# Limits: {"host_calls_max": 100000}
@function()
async def asks_too_much_at_once(ctx: Context, input: dict) -> None:
    await asyncio.gather(*(ctx.db.query("select pg_sleep(0.5)") for _ in range(1001)))
