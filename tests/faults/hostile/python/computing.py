"""Guests that want all of the processor's time, and those that do not mean to end."""

import asyncio
import itertools
import os
import re
import signal
import sys
import threading

from flux_guest import Context, function


# Expect: killed timeout
# Limits: {"timeout_s": 1}
@function()
def spins(ctx: Context, input: dict) -> None:
    while True:
        pass


# Expect: killed timeout
# Limits: {"timeout_s": 1}
@function()
def spins_whatever_is_raised_in_it(ctx: Context, input: dict) -> None:
    for number in range(1, 65):
        try:
            signal.signal(number, lambda *_: None)
        except (OSError, ValueError):
            continue  # SIGKILL and SIGSTOP are nobody's to catch.
    while True:
        try:
            while True:
                pass
        except BaseException:
            continue


# Expect: killed timeout
# Limits: {"timeout_s": 1}
@function()
def matches_a_regex_for_ever(ctx: Context, input: dict) -> bool:
    return re.match(r"(a+)+$", "a" * 40 + "!") is None


# Expect: killed timeout
# Limits: {"timeout_s": 1}
@function()
def computes_in_c_for_ever(ctx: Context, input: dict) -> bool:
    return "needle" in itertools.repeat("hay")


# Expect: killed timeout
# Limits: {"timeout_s": 1}
@function()
def multiplies_for_ever(ctx: Context, input: dict) -> int:
    number = 3
    while True:
        number = (number * number) % (1 << 200_000) | 1


# Expect: killed timeout
# Limits: {"timeout_s": 1}
@function()
def waits_in_finally_for_ever(ctx: Context, input: dict) -> dict:
    try:
        return {"ended": True}
    finally:
        while True:
            pass


# Expect: raised ZeroDivisionError
@function()
def fails_in_finally(ctx: Context, input: dict) -> None:
    try:
        raise KeyError("the first")
    finally:
        1 / 0  # noqa: B018


# Expect: returned 200
# Answer: {"swallowed": true}
@function()
def returns_out_of_finally(ctx: Context, input: dict) -> dict:
    try:
        raise KeyError("nobody hears of it")
    finally:
        return {"swallowed": True}  # noqa: B012


# Expect: killed timeout
# Limits: {"timeout_s": 1}
@function()
def has_a_generator_that_will_not_close(ctx: Context, input: dict) -> None:
    def stubborn():
        while True:
            try:
                yield
            except GeneratorExit:
                while True:
                    pass

    generator = stubborn()
    next(generator)
    generator.close()


# Expect: raised RuntimeError
@function()
def has_a_generator_that_ignores_its_end(ctx: Context, input: dict) -> None:
    sys.unraisablehook = lambda _told: None  # It would print where the generator lies in memory.

    def stubborn():
        while True:
            try:
                yield
            except GeneratorExit:
                continue

    generator = stubborn()
    next(generator)
    generator.close()


# Expect: killed timeout
# Limits: {"timeout_s": 1}
@function()
def leaves_an_object_that_will_not_die(ctx: Context, input: dict) -> dict:
    class Undead:
        def __del__(self) -> None:
            while True:
                pass

    Undead()
    return {}


# Expect: killed timeout
# Limits: {"timeout_s": 1}
@function()
def traces_itself_for_ever(ctx: Context, input: dict) -> None:
    def trace(*_arguments: object) -> None:
        while True:
            pass

    sys.setprofile(trace)
    len("x")


# Expect: killed timeout
# Limits: {"timeout_s": 1}
@function()
def locks_itself_out(ctx: Context, input: dict) -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


# Expect: raised DeadlockError
@function()
async def awaits_for_ever(ctx: Context, input: dict) -> None:
    await asyncio.get_running_loop().create_future()


# Expect: raised DeadlockError
@function()
async def awaits_each_other(ctx: Context, input: dict) -> None:
    first, second = asyncio.Event(), asyncio.Event()

    async def wait(mine: asyncio.Event, other: asyncio.Event) -> None:
        await other.wait()
        mine.set()

    await asyncio.gather(wait(first, second), wait(second, first))


# Expect: killed host_calls
# Limits: {"host_calls_max": 50}
@function()
async def leaves_a_task_that_will_not_be_cancelled(ctx: Context, input: dict) -> dict:
    async def stubborn() -> None:
        while True:
            try:
                await asyncio.sleep(0.001)
            except asyncio.CancelledError:
                continue

    asyncio.get_running_loop().create_task(stubborn())
    await asyncio.sleep(0)
    return {}


# Expect: killed host_calls
# Limits: {"host_calls_max": 20}
@function()
async def never_lets_the_loop_rest(ctx: Context, input: dict) -> None:
    loop = asyncio.get_running_loop()

    def again() -> None:
        loop.call_soon(again)

    again()
    await loop.create_future()


# Expect: killed timeout
# Limits: {"timeout_s": 1}
@function()
def stops_itself(ctx: Context, input: dict) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)
