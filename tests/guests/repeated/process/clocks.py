"""Time, as Python, C and a database in the process tell it, between calls and races."""

import asyncio
import datetime
import logging
import sqlite3
import time
from typing import Any

from flux_guest import Context, function


def _read() -> list[Any]:
    return [
        *(time.time_ns(), time.time(), time.monotonic_ns(), time.perf_counter(), time.process_time()),
        *(
            datetime.datetime.now().isoformat(),
            datetime.datetime.now(datetime.UTC).isoformat(),
            str(datetime.date.today()),
        ),
        *(time.strftime("%c"), time.localtime().tm_yday),
    ]


@function()
async def reads_clocks_between_calls(ctx: Context, input: dict[str, Any]) -> Any:
    seen = [_read()]
    for number in range(3):
        try:
            await ctx.db.query("select $1", number, time.time_ns() % 1000)
        except Exception as error:
            ctx.log.warning("refused", at=time.time(), why=str(error))
        seen.append(_read())
    seen.append([str(await ctx.clock.fresh())])
    return seen


@function()
def asks_a_database_in_the_process(ctx: Context, input: dict[str, Any]) -> Any:
    with sqlite3.connect(":memory:") as database:
        database.execute("create table seen (n integer, at text default current_timestamp)")
        database.executemany("insert into seen (n) values (?)", [(n,) for n in input["list"]])
        first = database.execute("select datetime('now'), strftime('%f', 'now'), julianday('now')").fetchone()
        ctx.db.execute("insert into seen values ($1)", first[0])
        second = database.execute(
            "select datetime('now'), strftime('%f', 'now'), julianday('now')"
        ).fetchone()
        rows = database.execute("select n, at from seen order by n, rowid limit 5").fetchall()
    return [first, second, rows]


@function()
async def races_a_timer(ctx: Context, input: dict[str, Any]) -> Any:
    try:
        async with asyncio.timeout(0.002):
            found = await ctx.db.query("select $1", input["n"])
            return {"in time": [list(row.values()) for row in found], "at": time.monotonic()}
    except TimeoutError:
        return {"late": time.monotonic()}
    except Exception as error:
        return {"refused": str(error)}


@function()
async def sleeps_in_an_order(ctx: Context, input: dict[str, Any]) -> Any:
    order: list[tuple[int, float]] = []

    async def nap(number: int) -> None:
        await asyncio.sleep(0.001 * (input["list"][number] % 4))
        order.append((number, time.monotonic()))

    await asyncio.gather(*map(nap, range(6)))
    return order


@function()
def logs_as_people_do(ctx: Context, input: dict[str, Any]) -> Any:
    logger = logging.getLogger("shop")
    logger.propagate = False
    handler = logging.StreamHandler()
    handler.setFormatter(
        logging.Formatter("%(asctime)s.%(msecs)d %(process)d %(threadName)s %(relativeCreated)d %(message)s")
    )
    logger.addHandler(handler)
    logger.warning("plan %s", input["text"])
    ctx.db.execute("insert into logged values ($1)", time.time())
    logger.error("plan %s", time.time())
    return None
