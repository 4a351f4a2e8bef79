"""Replaying many executions: several at a time, each told when it has ended.

That is what a window of an incident is, and what any other question to more than one execution is: what
became of each, as soon as it is known. `replay_many` reads executions from the store no earlier than they are needed, a
batch at a time: those of a batch ran near each other, so they are announced together and can share a world
(`flux.supervisor.world_keeper`).

That one of them can't be replayed is an answer, and the others go on. Whatever else goes wrong says nothing of that
one alone (the database is away, the code can't be loaded), and ends all of it.
"""

import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Protocol

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


@attrs.frozen
class Told:
    """One of the executions, and what its replay has shown."""

    number: int
    """Its place among those that were asked for, from 0."""
    result: Replay | FluxError
    """The replay, or why there can be none."""


ReadExecution = Callable[[uuid.UUID], Awaitable[Execution]]


@contextlib.asynccontextmanager
async def replay_many(
    originals: Sequence[uuid.UUID],
    on: str | None,
    *,
    read: ReadExecution,
    host: ReplayHost,
    at_once: int = AT_ONCE,
) -> AsyncIterator[AsyncIterator[Told]]:
    """Replay ``originals``, ``at_once`` of them at a time, on the code that ``on`` names; give each as it ends.

    ``read`` returns an execution with its committed mutations. Whoever takes no more of them, or leaves the block,
    stops what is running. An error that is not about one of them alone comes out of the iteration.
    """
    failure: FluxError | None = None
    send, receive = trio.open_memory_channel[Told | FluxError](0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_run, originals, on, read, host, at_once, send)
        # Caught in here: what leaves a nursery's block leaves it in a group.
        try:
            yield _take(receive)
        except FluxError as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _take(receive: trio.MemoryReceiveChannel[Told | FluxError]) -> AsyncIterator[Told]:
    async for told in receive:
        if isinstance(told, FluxError):
            raise told
        yield told


async def _run(
    originals: Sequence[uuid.UUID],
    on: str | None,
    read: ReadExecution,
    host: ReplayHost,
    at_once: int,
    send: trio.MemorySendChannel[Told | FluxError],
) -> None:
    give, take = trio.open_memory_channel[tuple[int, Execution]](0)

    async def work() -> None:
        async for number, original in take:
            result: Replay | FluxError
            try:
                result = await host.replay(original, on, {}, frozenset())
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
                await _give_all(originals, read, host, give, send)


async def _give_all(
    originals: Sequence[uuid.UUID],
    read: ReadExecution,
    host: ReplayHost,
    give: trio.MemorySendChannel[tuple[int, Execution]],
    send: trio.MemorySendChannel[Told | FluxError],
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
        host.expect([original for _, original in found])
        while found:
            # Not held any longer than it takes: records can be large.
            await give.send(found.pop(0))


def _batches(originals: Sequence[uuid.UUID]) -> Iterator[list[tuple[int, uuid.UUID]]]:
    numbered = list(enumerate(originals))
    for start in range(0, len(numbered), BATCH):
        yield numbered[start : start + BATCH]
