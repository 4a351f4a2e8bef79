"""Whom a function runs for: what it may set, and what an invoked function gets of it."""

import datetime
import decimal
import enum
from dataclasses import dataclass, field

from flux_guest import Context, HTTPError, function


class Plan(enum.Enum):
    FREE = "free"


@dataclass
class User:
    id: int
    plan: Plan = Plan.FREE
    born: datetime.date = datetime.date(1815, 12, 10)
    tags: list[str] = field(default_factory=lambda: ["a"])


# Expect: returned 200; db.query 1, invoke 3
@function()
async def runs_for_what_it_sets(ctx: Context, input: dict) -> dict:
    assert ctx.user is None
    before = await ctx.invoke("price", {"n": 1})
    ctx.user = User(7)
    assert ctx.user == User(7)
    seen = await ctx.invoke("price", {"n": 1})
    assert seen == {"id": 7, "plan": "free", "born": "1815-12-10", "tags": ["a"]}
    ctx.user = await ctx.db.query_one("select 1.50::numeric as credit, '2026-01-02'::date as since")
    assert ctx.user.credit == decimal.Decimal("1.50")
    refused = []
    for odd in (object(), float("nan"), "\ud800", "x" * 70_000):
        try:
            ctx.user = odd
        except (TypeError, ValueError) as error:
            refused.append(str(error)[:40])
    ctx.user = None
    return {"before": before, "refused": refused, "after": await ctx.invoke("price", None)}


# Expect: returned 200; invoke 1
@function()
def runs_for_it_without_await(ctx: Context, input: dict) -> dict:
    ctx.user = "ada"
    return {"seen": ctx.invoke("price", {}), "auth": ctx.request.auth}


# Expect: raised HTTPError
@function()
async def refuses_a_stranger(ctx: Context, input: dict) -> dict:
    ctx.user = {"id": 8}
    raise HTTPError(403)
