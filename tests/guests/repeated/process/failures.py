"""Ways to end that are no answers."""

import ctypes
import json
import os
import sys
from typing import Any

from flux_guest import Context, HTTPError, function


@function()
async def raises_what_it_was_told(ctx: Context, input: dict[str, Any]) -> Any:
    for number in range(20):
        found = await ctx.db.query("select $1", number)
        if found and found[0].a % 5 == 0:
            raise LookupError(f"{found[0]} of {len(found)}")
    return None


@function()
def recurses_for_ever(ctx: Context, input: dict[str, Any]) -> Any:
    ctx.db.execute("update deep set n = $1", 0)
    depth = 0

    def deeper() -> None:
        nonlocal depth
        depth += 1
        deeper()

    try:
        deeper()
    except RecursionError as error:
        return [depth, str(error)]


@function()
async def refuses_by_status(ctx: Context, input: dict[str, Any]) -> Any:
    answer = await ctx.http.get("http://shop.test/prices")
    if answer.status != 200:
        raise HTTPError(409, "PRICES", f"the shop said {answer.status}")
    return json.loads(answer.body)


@function()
async def exits_by_chance(ctx: Context, input: dict[str, Any]) -> Any:
    number = (await ctx.http.get("http://shop.test/number")).status % 3
    print("leaving with", number)
    if number == 0:
        os._exit(3)
    if number == 1:
        sys.exit(4)
    ctypes.string_at(0)


@function()
def asks_more_than_it_may(ctx: Context, input: dict[str, Any]) -> Any:
    for number in range(100):
        ctx.db.execute("update asked set n = $1", number)
