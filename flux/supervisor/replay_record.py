"""A replay, written down: an execution of its own, and its verdict.

It has its own id and the time at which it ran, the same input, and what the replay asked, said and
answered. Rows that it changed in its world are in its own record alone, and in no row's history. It is
stored when the answer goes out, so whoever is told its name finds it.

What it shows comes from a record, and from the log of changes. A row that was forgotten since these were read is not
brought back by it: `to_replay` gives what is to be replayed, and nothing that was made of it is stored afterwards if a
row was forgotten meanwhile (`flux.store.erasures`).
"""

import uuid
from functools import partial

import attrs

from flux import ids
from flux.execution import Execution, Interrupted
from flux.store.erasures import check_as_of, count_erasures
from flux.store.postgres import Connection
from flux.store.reading import get_execution
from flux.store.records import RecordStore, make_record
from flux.store.replays import add_replay
from flux.streamed import UNHEARD
from flux.supervisor.execute import Backing
from flux.supervisor.present import encode
from flux.supervisor.present_replay import divergence_json, is_stopped
from flux.supervisor.replay import Replay, Replayer


def make_replay_execution(backing: Backing, replay: Replay) -> Execution:
    """Return the execution that a replay is."""
    now_ns = backing.clock.now_ns()
    execution = replay.replayed.execution
    outcome = Interrupted(f"the replay was stopped: {replay.judgement.reason}")
    return attrs.evolve(
        execution,
        id=ids.make_execution_id(now_ns // 1_000_000, backing.entropy.take(ids.ENTROPY_BYTES)),
        trigger=attrs.evolve(execution.trigger, kind="replay"),
        started_at_ns=now_ns,
        outcome=outcome if is_stopped(replay) else execution.outcome,
        ordinals=(),
        reads=(),
        completeness=(),
        parent=None,
        attempt=1,
        replay_of=replay.original.id,
    )


@attrs.frozen
class ToReplay:
    """An execution that is to be replayed now."""

    execution: Execution
    """As it is on record now."""
    erasures: int
    """See `flux.store.erasures.count_erasures`; from before it was read."""


async def to_replay(backing: Backing, replayer: Replayer, original: uuid.UUID) -> ToReplay:
    """Read what is to be replayed. Again, where it was read for a batch: a row may have been forgotten since."""
    erasures = await count_erasures(backing.owner, backing.tenant)
    replayer.take_erasures(erasures)
    _, execution = await get_execution(backing.owner, original)
    return ToReplay(execution, erasures)


async def keep_replay(backing: Backing, replay: Replay, erasures: int) -> Replay:
    """Store a replay that somebody asked for; return it with the execution that it is."""
    execution = make_replay_execution(backing, replay)
    beside = partial(_add, backing.tenant, erasures, execution, replay, is_check=False)
    await RecordStore(backing.owner).insert(make_record(execution), beside)
    return attrs.evolve(replay, recorded_as=execution)


async def keep_check(backing: Backing, replay: Replay, erasures: int) -> Execution | None:
    """Store what Flux's own check has shown, and its execution where it did not do the same again."""
    execution = make_replay_execution(backing, replay)
    add = partial(_add, backing.tenant, erasures, execution, replay, is_check=True)
    divergence = replay.replayed.divergence
    # Bytes that are on no record say nothing of the function.
    if divergence is not None and divergence.kind != UNHEARD:
        await RecordStore(backing.owner).insert(make_record(execution), add)
        return execution
    async with backing.owner.acquire() as connection, connection.transaction():
        await add(connection)
    return None


async def _add(
    tenant: str, erasures: int, execution: Execution, replay: Replay, connection: Connection, *, is_check: bool
) -> None:
    await check_as_of(connection, tenant, erasures)
    divergence = replay.replayed.divergence
    await add_replay(
        connection,
        execution,
        code=replay.on,
        verdict=replay.judgement.verdict.value,
        reason=replay.judgement.reason,
        divergence=None if divergence is None else encode(divergence_json(divergence)).decode(),
        is_check=is_check,
    )
