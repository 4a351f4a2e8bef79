"""Executions that are recorded while another client writes, and then asked again in the world that they saw."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import attrs
import trio

from flux import values
from flux.execution import Execution, Returned
from flux.hostcall import HostCall
from flux.hostcalls.base import HostCallFailed
from flux.sandbox.scripted import ScriptedGuest
from flux.store.postgres import Connection
from flux.store.reading import get_execution
from flux.supervisor.world import WorldDatabase
from flux.supervisor.world_keeper import WorldKeeper
from tests.execution_world import ExecutionWorld

Say = Callable[[str], Awaitable[str]]
"""Lets another client run SQL, to its end."""
Play = Callable[[ScriptedGuest, Say], Awaitable[None]]


async def record(world: ExecutionWorld, play: Play, **options: Any) -> Execution:
    """Run ``play`` as a function; return what is on record of it."""

    async def say(statement: str) -> str:
        return await trio.to_thread.run_sync(world.database.psql, statement)

    async def script(guest: ScriptedGuest, _document: dict[str, Any]) -> str:
        await play(guest, say)
        return "done"

    executed = await world.run(script, **options)
    assert isinstance(executed.outcome, Returned), executed.outcome
    await world.settle()
    pool = world.database.pool(1)
    try:
        return (await get_execution(pool, executed.execution.id))[1]
    finally:
        await pool.aclose()


async def ask_again(lent: WorldDatabase, original: Execution) -> int:
    """Ask all that was recorded; see that the answers are the recorded ones; return how many they are.

    0 where the world is to be built again with what it needs.
    """
    calls = {call.request.seq: call for call in original.calls}
    lent.follow(calls.get)
    for call in calls.values():
        assert call.result is not None
        heard = await repeat(lent, call)
        if lent.needed_aside:
            return 0
        assert heard == (call.result.value if call.result.error is None else call.result.error.code), (heard, call)
    return len(calls)


@contextlib.asynccontextmanager
async def lend_whole(keeper: WorldKeeper, original: Execution, **options: Any) -> AsyncIterator[WorldDatabase]:
    """Give the world in which ``original`` can be asked all that it asked; see that it answers as recorded."""
    aside: frozenset[str] = frozenset()
    while True:
        async with keeper.lend(original, aside=aside, **options) as lent:
            if await ask_again(lent, original):
                yield lent
                return
            assert not lent.needed_aside <= aside, "it has what it needed"
            aside |= lent.needed_aside


async def repeat(lent: WorldDatabase, call: HostCall) -> object:
    """Ask one thing again; return its answer as it is recorded, or the code of its error."""
    arguments = values.decode(call.request.arguments)
    assert isinstance(arguments, list)
    seq = call.request.seq
    try:
        match call.request.name:
            case "db.begin":
                return values.encode(await lent.begin(arguments[0], seq))
            case "db.commit":
                await lent.commit(arguments[0], seq)
                return values.encode(None)
            case "db.rollback":
                await lent.rollback(arguments[0], seq)
                return values.encode(None)
        answer = await lent.run(arguments[0], arguments[1], seq)
    except HostCallFailed as failed:
        return failed.error.code
    return values.encode(attrs.asdict(answer, recurse=False))


async def commit_once_waited_for(world: ExecutionWorld, other: Connection) -> None:
    """Commit what ``other`` has done when somebody waits for it."""
    waiting = (
        "select count(*) from pg_locks l join pg_stat_activity a using (pid) "
        "where not l.granted and a.datname = current_database()"
    )
    with trio.fail_after(120):
        while await trio.to_thread.run_sync(world.database.psql, waiting) == "0":  # noqa: ASYNC110 - the server's state
            await trio.sleep(0.01)
    await other.commit()
