"""The functions of `flux.sandbox.conformance.GUESTS` for sandboxes that run Python."""

import asyncio
import os
import signal

from flux_guest import Context, function


def _call(ctx: Context, name: str, arguments: list) -> asyncio.Future:
    """Make a call that ``ctx`` has no method for."""
    return ctx.db._door(name, arguments, lambda value: value)


@function()
async def echo(ctx: Context, input: dict) -> str:
    return input["text"]


@function()
async def ask(ctx: Context, input: dict) -> str:
    answer = ""
    for item in input["items"]:
        answer = await _call(ctx, "test.echo", [item])
    return answer


@function()
async def ask_at_once(ctx: Context, input: dict) -> str:
    answers = []

    async def one(item: str) -> None:
        answers.append(await _call(ctx, "test.echo", [item]))

    await asyncio.gather(*map(one, input["items"]))
    return ",".join(answers)


@function()
async def give_up(ctx: Context, input: dict) -> str:
    call = _call(ctx, "test.wait", [])
    heard = asyncio.get_running_loop().create_future()
    ctx.db._door._loop._channel.waiting[1] = lambda _value, error: heard.set_result(error["name"])
    call.cancel()
    return await heard


@function()
async def fail(ctx: Context, input: dict) -> None:
    raise ValueError("no luck")


@function()
def leave(ctx: Context, input: dict) -> None:
    os._exit(input["code"])


@function()
def crash(ctx: Context, input: dict) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


@function()
def speak(ctx: Context, input: dict) -> None:
    data = input["text"].encode()
    while data:
        data = data[os.write(2, data) :]
    os._exit(1)


@function()
def hang(ctx: Context, input: dict) -> None:
    while True:
        signal.pause()
