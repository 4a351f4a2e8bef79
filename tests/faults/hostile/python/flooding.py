"""Guests that say more than anybody wants to hear: on the wire, past it, in logs, in answers."""

import asyncio
import os

from flux_guest import Context, function


def _write(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(3, view) :]


# Expect: killed timeout
# Limits: {"timeout_s": 1}
@function()
def prints_past_the_sdk(ctx: Context, input: dict) -> None:
    line = b"x" * 99 + b"\n"
    while True:
        os.write(1, line)
        os.write(2, line)


# Expect: killed timeout
# Limits: {"timeout_s": 1, "log_bytes_max": 20000}
@function()
def logs_and_logs(ctx: Context, input: dict) -> None:
    while True:
        ctx.log.info("x" * 500)


# Expect: returned 200
# Limits: {"log_bytes_max": 20000}
# Answer: {"said": 2000}
@function()
def prints_more_than_is_kept(ctx: Context, input: dict) -> dict:
    for number in range(2000):
        print(number, "x" * 100)
    return {"said": 2000}


# Expect: killed host_calls
# Limits: {"host_calls_max": 100}
@function()
async def asks_and_asks(ctx: Context, input: dict) -> None:
    while True:
        await ctx.clock.fresh()


# Expect: raised RuntimeError
# Limits: {"host_calls_max": 100000}
@function()
async def asks_all_at_once(ctx: Context, input: dict) -> None:
    await asyncio.gather(*(asyncio.sleep(3600 + number) for number in range(10)), *(
        ctx.http.get(f"http://127.0.0.1:1/{number}") for number in range(2000)
    ))  # fmt: skip


# Expect: killed protocol
# Limits: {"host_calls_max": 100000}
@function()
def asks_without_listening(ctx: Context, input: dict) -> None:
    for number in range(1, 1100):
        _write(b'[%d,"clock.sleep",[3600]]\n' % number)
    while True:
        pass


# Expect: killed protocol
# Limits: {"host_calls_max": 100000, "timeout_s": 300}
# Repeats: the end, not the way there; how much waits depends on how fast it is answered
@function()
def lets_answers_pile_up(ctx: Context, input: dict) -> None:
    for number in range(1, 90):
        _write(b'[%d,"db.query",["select repeat(\'x\', 1000000)",[]]]\n' % number)
    while True:
        pass


# Expect: killed frame
@function()
def begins_a_line_and_never_ends_it(ctx: Context, input: dict) -> None:
    while True:
        _write(b"[" * 1_000_000)


# Expect: killed protocol
@function()
def sends_towers(ctx: Context, input: dict) -> None:
    _write(b'[1,"db.query",' + b"[" * 100_000 + b"]" * 100_000 + b"]\n")


# Expect: killed protocol
@function()
def speaks_another_language(ctx: Context, input: dict) -> None:
    _write(b"GET / HTTP/1.1\r\nHost: flux\r\n\r\n")


# Expect: killed protocol
@function()
def cancels_what_it_never_asked(ctx: Context, input: dict) -> None:
    _write(b'["cancel",7]\n')


# Expect: killed response
# Limits: {"response_bytes_max": 100000}
@function()
def answers_too_much(ctx: Context, input: dict) -> str:
    return "x" * 200_000


# Expect: killed memory or raised AnswerError
@function()
def answers_more_than_can_travel(ctx: Context, input: dict) -> str:
    return "x" * 20_000_000


# Expect: returned 200
@function()
def answers_and_goes_on(ctx: Context, input: dict) -> None:
    _write(b'["return",{"status":200,"headers":[],"body":"first"}]\n')
    while True:
        pass


# Expect: returned 200
@function()
def answers_twice(ctx: Context, input: dict) -> None:
    _write(
        b'["return",{"status":200,"headers":[],"body":"first"}]\n["return",{"status":200,"headers":[],"body":"2"}]\n'
    )
    while True:
        pass
