"""Whatever is said is on record, in its place."""

import logging
import sys
import warnings

from flux_guest import Context, function

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
logger = logging.getLogger("shop")


class Unshowable:
    def __repr__(self) -> str:
        raise ValueError("no")


# Expect: returned 204; db.query 1; 12 log lines
@function()
async def says_much(ctx: Context, input: dict) -> None:
    print("one", "two")
    print("no newline", end="")
    print(" ... now")
    print("a\nb", file=sys.stderr)
    ctx.log.debug("structured", n=1, nested={"a": [1, 2]}, odd=object, bad=Unshowable())
    logger.info("a logger made at import")
    warnings.warn("careful", stacklevel=1)
    await ctx.db.query("select 1")
    sys.stdout.write("half a character \ud800\n")
    sys.stdout.buffer.write(b"bytes\n")
    ctx.log.error("x" * 300_000)
    print("the end", end="")


# Expect: returned 200
# Limits: {"log_bytes_max": 0}
@function()
async def says_more_than_is_kept(ctx: Context, input: dict) -> dict:
    for n in range(1000):
        print("line", n)
    return {"said": 1000}


# Expect: returned 200; 3 log lines
@function()
async def says_a_line_without_end(ctx: Context, input: dict) -> dict:
    for _ in range(150):
        print("x" * 1000, end="")
    return {"said": 150_000}
