"""Every kind of sandbox passes the same suite."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from flux.sandbox.base import Sandbox
from flux.sandbox.conformance import CHECKS, GUESTS, PATIENCE_S, check_sandbox
from flux.sandbox.process import ProcessSandbox
from flux.sandbox.scripted import ScriptedExit, ScriptedGuest, ScriptedSandbox

HERE = Path(__file__).parent


async def echo(_guest: ScriptedGuest, document: dict[str, Any]) -> str:
    return str(document["input"]["text"])


async def ask(guest: ScriptedGuest, document: dict[str, Any]) -> str:
    answer = ""
    for item in document["input"]["items"]:
        answer = await guest.call("test.echo", item)
    return answer


async def ask_at_once(guest: ScriptedGuest, document: dict[str, Any]) -> str:
    for item in document["input"]["items"]:
        await guest.ask("test.echo", item)
    order = [await guest.hear() for _ in document["input"]["items"]]
    return ",".join(guest.answers[seq][1] for seq in order)


async def give_up(guest: ScriptedGuest, _document: dict[str, Any]) -> str:
    seq = await guest.ask("test.wait")
    await guest.cancel(seq)
    await guest.hear()
    return str(guest.answers[seq][0]["name"])


async def fail(_guest: ScriptedGuest, _document: dict[str, Any]) -> str:
    raise ValueError("no luck")


async def leave(_guest: ScriptedGuest, document: dict[str, Any]) -> str:
    raise ScriptedExit(document["input"]["code"])


async def crash(_guest: ScriptedGuest, _document: dict[str, Any]) -> str:
    raise ScriptedExit(signal=11)


async def speak(guest: ScriptedGuest, document: dict[str, Any]) -> str:
    guest.output.append(document["input"]["text"])
    raise ScriptedExit(1)


async def hang(_guest: ScriptedGuest, _document: dict[str, Any]) -> str:
    await trio.sleep_forever()
    raise AssertionError("never comes here")


SCRIPTS = {script.__name__: script for script in (echo, ask, ask_at_once, give_up, fail, leave, crash, speak, hang)}


@asynccontextmanager
async def scripted() -> AsyncIterator[Sandbox]:
    async with trio.open_nursery() as nursery:
        yield ScriptedSandbox(SCRIPTS, nursery)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def process() -> AsyncIterator[Sandbox]:
    async with trio.open_nursery() as nursery:
        sandbox = ProcessSandbox(HERE, "guests")
        await nursery.start(sandbox.run)
        yield sandbox
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("make_sandbox", [scripted, process], ids=lambda make: make.__name__)
async def test_a_kind_of_sandbox(make_sandbox: Any, check: Callable[[Sandbox], Awaitable[None]]) -> None:
    with trio.fail_after(PATIENCE_S):
        async with make_sandbox() as sandbox:
            await check(sandbox)


async def test_the_suite_is_one_call_for_those_who_write_another_kind() -> None:
    await check_sandbox(scripted)


async def test_the_suite_finds_a_sandbox_that_mixes_answers_up() -> None:
    async def echo_wrongly(_guest: ScriptedGuest, _document: dict[str, Any]) -> str:
        return "something else"

    @asynccontextmanager
    async def wrong() -> AsyncIterator[Sandbox]:
        async with trio.open_nursery() as nursery:
            yield ScriptedSandbox({**SCRIPTS, "echo": echo_wrongly}, nursery)

    with pytest.RaisesGroup(AssertionError, flatten_subgroups=True):
        await check_sandbox(wrong)


def test_both_sides_of_the_suite_have_every_guest() -> None:
    assert SCRIPTS.keys() == GUESTS.keys()
