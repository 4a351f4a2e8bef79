"""Replaying many executions: several at a time, each told when it has ended.

That is what a window of an incident is, what a guarded deploy looks at, and what any other question to more than one
execution is: what became of each, as soon as it is known. `ask_many` reads executions from the store no earlier than
they are needed, a batch at a time: those of a batch ran near each other, so they are announced together and can share
a world (`flux.supervisor.world_keeper`). What is asked of each is the caller's; for `replay_many` it is one replay.

That one of them can't be replayed is an answer, and the others go on. Whatever else goes wrong says nothing of that
one alone (the database is away, the code can't be loaded), and ends all of it.
"""

import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Generic, Protocol, TypeVar

import attrs
import trio

from flux.brought import BroughtAnswer
from flux.errors import FluxError
from flux.execution import Execution
from flux.store.reading import NoSuchExecutionError
from flux.supervisor.replay import Replay, UnreplayableError

AT_ONCE = 2
"""A replay computes, so more than there are processors to spare gain little."""
BATCH = 50
"""Executions that are read at once, as many as one world serves: so many whole records are held in memory."""


class ReplayHost(Protocol):
    """Who replays."""

    def expect(self, originals: Sequence[Execution]) -> None:
        """Prepare to replay these soon. See `flux.supervisor.replay.Replayer.expect`."""

    async def replay(
        self,
        original: Execution,
        on: str | None,
        answers: Mapping[int, BroughtAnswer],
        live: frozenset[str],
    ) -> Replay:
        """Run ``original`` again; nothing leaves but to ``live``. See `flux.supervisor.replay.Replayer.replay`."""


T = TypeVar("T")


@attrs.frozen
class Told(Generic[T]):
    """One of the executions, and what was found of it."""

    number: int
    """Its place among those that were asked for, from 0."""
    result: T | FluxError
    """That, or why it can't be said."""


ReadExecution = Callable[[uuid.UUID], Awaitable[Execution]]
Expect = Callable[[Sequence[Execution]], None]
Ask = Callable[[Execution], Awaitable[T]]


def replay_many(
    originals: Sequence[uuid.UUID],
    on: str | None,
    *,
    read: ReadExecution,
    host: ReplayHost,
    at_once: int = AT_ONCE,
) -> contextlib.AbstractAsyncContextManager[AsyncIterator[Told[Replay]]]:
    """Replay ``originals`` on the code that ``on`` names. See `ask_many`."""

    async def replay(original: Execution) -> Replay:
        return await host.replay(original, on, {}, frozenset())

    return ask_many(originals, replay, read=read, expect=host.expect, at_once=at_once)


@contextlib.asynccontextmanager
async def ask_many(
    originals: Sequence[uuid.UUID], ask: Ask[T], *, read: ReadExecution, expect: Expect, at_once: int = AT_ONCE
) -> AsyncIterator[AsyncIterator[Told[T]]]:
    """Ask of each of ``originals``, ``at_once`` of them at a time; give each answer as it comes.

    ``read`` returns an execution with its committed mutations, ``expect`` hears of those that are asked soon. Whoever
    takes no more of them, or leaves the block, stops what is running. An error that is not about one of them alone
    comes out of the iteration.
    """
    failure: FluxError | None = None
    send, receive = trio.open_memory_channel[Told[T] | FluxError](0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(_run, originals, ask, read, expect, at_once, send))
        # Caught in here: what leaves a nursery's block leaves it in a group.
        try:
            yield _take(receive)
        except FluxError as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _take(receive: trio.MemoryReceiveChannel[Told[T] | FluxError]) -> AsyncIterator[Told[T]]:
    async for told in receive:
        if isinstance(told, FluxError):
            raise told
        yield told


async def _run(
    originals: Sequence[uuid.UUID],
    ask: Ask[T],
    read: ReadExecution,
    expect: Expect,
    at_once: int,
    send: trio.MemorySendChannel[Told[T] | FluxError],
) -> None:
    give, take = trio.open_memory_channel[tuple[int, Execution]](0)

    async def work() -> None:
        async for number, original in take:
            result: T | FluxError
            try:
                result = await ask(original)
            except FluxError as error:
                if error.exit_code != UnreplayableError.exit_code:
                    await send.send(error)
                    return
                result = error
            await send.send(Told(number, result))

    # Not `async with` for the channels: closing would then be a checkpoint, at which a cancellation hides an error.
    with send:
        async with trio.open_nursery() as nursery:
            for _ in range(at_once):
                nursery.start_soon(work)
            with give:
                await _give_all(originals, read, expect, give, send)


async def _give_all(
    originals: Sequence[uuid.UUID],
    read: ReadExecution,
    expect: Expect,
    give: trio.MemorySendChannel[tuple[int, Execution]],
    send: trio.MemorySendChannel[Told[T] | FluxError],
) -> None:
    """Read the executions and hand them out; tell of those that can't be read."""
    for batch in _batches(originals):
        found: list[tuple[int, Execution]] = []
        for number, id in batch:
            try:
                found.append((number, await read(id)))
            except FluxError as error:
                # Its record is of a format that is not known here, or is gone since it was listed.
                is_its_own = error.exit_code in (NoSuchExecutionError.exit_code, UnreplayableError.exit_code)
                await send.send(Told(number, error) if is_its_own else error)
                if not is_its_own:
                    return
        expect([original for _, original in found])
        while found:
            # Not held any longer than it takes: records can be large.
            await give.send(found.pop(0))


def _batches(originals: Sequence[uuid.UUID]) -> Iterator[list[tuple[int, uuid.UUID]]]:
    numbered = list(enumerate(originals))
    for start in range(0, len(numbered), BATCH):
        yield numbered[start : start + BATCH]
