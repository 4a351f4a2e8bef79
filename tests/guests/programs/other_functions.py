"""Jobs that are pushed and functions that are invoked."""

import asyncio
import datetime
import uuid
from decimal import Decimal

from flux_guest import Context, HostCallError, InvokeError, function


# Expect: returned 200; queue.push 4
@function()
async def pushes(ctx: Context, input: dict) -> list:
    day = {"day": datetime.date(2026, 1, 2), "price": Decimal("1.10"), "id": uuid.UUID(int=7), "$bytes": "no tag"}
    return [
        await ctx.queue.push("work", day),
        await ctx.queue.push("work", [1, None], delay=datetime.timedelta(minutes=1)),
        await ctx.queue.push("work", None, delay=0.5, idempotency_key="once"),
        await ctx.queue.push("work"),
    ]


# Expect: returned 200; invoke 4, queue.push 1
@function()
async def invokes_at_once(ctx: Context, input: dict) -> dict:
    answers = await asyncio.gather(*(ctx.invoke("price", {"n": n}) for n in range(3)))
    try:
        await ctx.invoke("broken", {})
    except InvokeError as error:
        job = await ctx.queue.push("work", error.execution)
        return {"sum": sum(answer["n"] for answer in answers), "job": job, "type": error.type, "status": error.status}


# Expect: returned 200; invoke 3, queue.push 2
@function()
def asks_in_a_def(ctx: Context, input: dict) -> dict:
    codes = []
    for name, payload in (("nobody", {}), ("work", "x" * 2_000_000)):
        try:
            ctx.queue.push(name, payload)
        except HostCallError as error:
            codes.append(error.code)
    refused = []
    for value in (float("nan"), {1, 2}, "\ud800"):
        try:
            ctx.queue.push("work", value)
        except (ValueError, TypeError) as error:
            refused.append(type(error).__name__)
    page, nothing = ctx.invoke("page", None), ctx.invoke("nothing")
    return {"codes": codes, "refused": refused, "page": page, "nothing": nothing, "echo": ctx.invoke("price", [1.5])}


# Expect: raised InvokeError; invoke 1
@function()
async def fails_with_it(ctx: Context, input: dict) -> None:
    await ctx.invoke("broken", {})
