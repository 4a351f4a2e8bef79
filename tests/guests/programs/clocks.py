"""Every clock that Python code asks shows the host's time, which stands still between two answers."""

import asyncio
import datetime
import time
from datetime import datetime as imported_class
from time import monotonic, time_ns
from time import time as imported_time

from flux_guest import Context, function


class Later(datetime.datetime):
    """A subclass keeps its class."""


def _read(ctx: Context) -> list:
    return [
        *(time.time(), time_ns(), imported_time(), time.monotonic(), monotonic(), time.perf_counter_ns()),
        *(time.process_time(), time.clock_gettime(time.CLOCK_REALTIME), time.clock_gettime_ns(time.CLOCK_BOOTTIME)),
        *(list(time.localtime()), time.ctime(), time.strftime("%Y-%m-%d %H:%M:%S"), time.asctime()),
        *(datetime.datetime.now(), imported_class.utcnow(), datetime.date.today(), datetime.datetime.today()),
        *(datetime.datetime.now(datetime.UTC), Later.now(), ctx.clock.now()),
    ]


# Expect: returned 200; db.query 1
@function()
async def clocks_stand_still(ctx: Context, input: dict) -> dict:
    before = _read(ctx)
    for _ in range(100_000):
        pass
    assert _read(ctx) == before, "time has moved while nothing was asked"
    await ctx.db.query("select pg_sleep(0.01)")
    after = _read(ctx)
    assert time.monotonic() >= 0.01
    assert after != before
    assert type(Later.now()) is Later
    assert ctx.clock.now() == datetime.datetime.now(datetime.UTC)
    assert abs(time.time() - datetime.datetime.now().timestamp()) < 1e-6
    return {"before": before, "after": after}


# Expect: returned 200; clock.now 1
@function()
async def asks_for_the_time(ctx: Context, input: dict) -> dict:
    before = ctx.clock.now()
    return {"before": before, "after": await ctx.clock.fresh()}


# Expect: returned 200; clock.sleep 2
@function()
async def sleeps(ctx: Context, input: dict) -> dict:
    start = time.monotonic()
    await asyncio.sleep(0.02)
    time.sleep(0.01)  # noqa: ASYNC251 - what happens then is the question
    return {"slept": time.monotonic() - start, "enough": time.monotonic() - start >= 0.03}
