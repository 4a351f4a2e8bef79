"""Guests that end as they please, and that try to take others with them."""

import contextlib
import ctypes
import os
import signal
import sys

from flux_guest import Context, function


# Expect: exited signal 11
@function()
def reads_nowhere(ctx: Context, input: dict) -> None:
    ctypes.string_at(0)


# Expect: exited signal 6
@function()
def aborts(ctx: Context, input: dict) -> None:
    os.abort()


# Expect: exited 0
@function()
def leaves_without_an_answer(ctx: Context, input: dict) -> None:
    os._exit(0)


# Expect: exited 7
@function()
async def leaves_after_a_write(ctx: Context, input: dict) -> None:
    await ctx.db.query("select 1")
    sys.exit(7)


# Expect: interrupted
@function()
def kills_itself(ctx: Context, input: dict) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# Expect: exited signal 15
@function()
def terminates_itself(ctx: Context, input: dict) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)


# Expect: exited signal 31
@function()
def calls_by_another_table(ctx: Context, input: dict) -> None:
    # x32's getpid: a number that the list would judge by the wrong line.
    ctypes.CDLL(None).syscall(0x40000000 | 39)


# Expect: returned 200
# Answer: {"refused": 5}
@function()
def kills_whom_it_can_reach(ctx: Context, input: dict) -> dict:
    refused = 0
    libc = ctypes.CDLL(None, use_errno=True)
    for pid in (os.getppid(), 1, -1, 0, -2):
        refused += libc.kill(pid, signal.SIGKILL) == -1
    return {"refused": refused}


# Expect: killed protocol
@function()
def closes_its_door_and_stays(ctx: Context, input: dict) -> None:
    os.close(3)
    while True:
        pass


# Expect: killed timeout
# Limits: {"timeout_s": 1}
@function()
def closes_everything_else(ctx: Context, input: dict) -> None:
    os.closerange(0, 3)
    os.closerange(4, 1 << 20)
    while True:
        pass


def is_open(descriptor: int) -> bool:
    with contextlib.suppress(OSError):
        return bool(os.fstat(descriptor))
    return False


# Expect: returned 200
# Answer: {"open": [0, 1, 2, 3]}
@function()
def has_the_c_library_close_what_it_has_no_use_for(ctx: Context, input: dict) -> dict:
    # Where the kernel's close_range is refused the library looks into /proc, which is not there, and aborts.
    os.dup2(0, 200)
    ctypes.CDLL(None).closefrom(4)
    return {"open": [descriptor for descriptor in range(256) if is_open(descriptor)]}


# Expect: exited 1 or raised TypeError
@function()
def poisons_the_interpreter(ctx: Context, input: dict) -> dict:
    import builtins
    import json

    builtins.len = None
    builtins.isinstance = None
    json.dumps = json.loads = None
    sys.modules.clear()
    return {"answered": True}


# Expect: raised Exception
@function()
def raises_what_can_not_be_shown(ctx: Context, input: dict) -> None:
    class Unshowable(Exception):
        def __str__(self) -> str:
            raise MemoryError

        __repr__ = __str__

    Unshowable.__qualname__ = "Exception"
    raise Unshowable


# Expect: raised ValueError
@function()
def raises_a_message_of_megabytes(ctx: Context, input: dict) -> None:
    raise ValueError("x" * 30_000_000)


class Endless(Exception):
    """Its cause is its effect."""


# Expect: raised Endless
@function()
def raises_from_itself(ctx: Context, input: dict) -> None:
    first, second = Endless("a"), Endless("b")
    first.__cause__, second.__cause__ = second, first
    raise first
