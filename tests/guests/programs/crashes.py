"""Ways to die."""

import ctypes
import os
import signal
import sys

from flux_guest import Context, function


# Expect: exited 3; db.query 1; 1 log lines
@function()
async def exits(ctx: Context, input: dict) -> None:
    await ctx.db.query("select 1")
    print("last words", end="")
    sys.exit(3)


# Expect: exited 1; 1 log lines
@function()
def exits_with_words(ctx: Context, input: dict) -> None:
    sys.exit("no such thing")


# Expect: exited 4
@function()
def exits_at_once(ctx: Context, input: dict) -> None:
    os._exit(4)


# Expect: exited 0; db.query 1
@function()
async def exits_as_if_all_was_well(ctx: Context, input: dict) -> None:
    await ctx.db.query("select 1")
    os._exit(0)


# Expect: exited signal 11
@function()
def kills_itself(ctx: Context, input: dict) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


# Expect: exited signal 11; db.query 1
@function()
async def reads_nowhere(ctx: Context, input: dict) -> None:
    await ctx.db.query("select 1")
    ctypes.string_at(0)


# Expect: exited 5
@function()
def speaks_past_the_sdk(ctx: Context, input: dict) -> None:
    os.write(2, b"a dying interpreter's words\n")
    os._exit(5)


# Expect: killed protocol
@function()
def closes_the_door(ctx: Context, input: dict) -> None:
    os.close(3)
    signal.pause()
