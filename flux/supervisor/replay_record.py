"""A replay, written down: an execution of its own, and its verdict.

It has its own id and the time at which it ran, the same input, and what the replay asked, said and
answered. Rows that it changed in its world are in its own record alone, and in no row's history. It is
stored when the answer goes out, so whoever is told its name finds it.
"""

import attrs

from flux import ids
from flux.execution import Execution, Interrupted
from flux.store.records import RecordStore, make_record
from flux.store.replays import add_replay
from flux.supervisor.execute import Backing
from flux.supervisor.present import encode
from flux.supervisor.present_replay import divergence_json, is_stopped
from flux.supervisor.replay import Replay


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


async def keep_replay(backing: Backing, replay: Replay) -> Replay:
    """Store a replay that somebody asked for; return it with the execution that it is."""
    execution = make_replay_execution(backing, replay)
    await RecordStore(backing.owner).insert(make_record(execution))
    await _add(backing, execution, replay, is_check=False)
    return attrs.evolve(replay, recorded_as=execution)


async def keep_check(backing: Backing, replay: Replay) -> Execution | None:
    """Store what Flux's own check has shown, and its execution where it did not do the same again."""
    execution = make_replay_execution(backing, replay)
    is_finding = replay.replayed.divergence is not None
    if is_finding:
        await RecordStore(backing.owner).insert(make_record(execution))
    await _add(backing, execution, replay, is_check=True)
    return execution if is_finding else None


async def _add(backing: Backing, execution: Execution, replay: Replay, *, is_check: bool) -> None:
    divergence = replay.replayed.divergence
    await add_replay(
        backing.owner,
        execution,
        code=replay.on,
        verdict=replay.judgement.verdict.value,
        reason=replay.judgement.reason,
        divergence=None if divergence is None else encode(divergence_json(divergence)).decode(),
        is_check=is_check,
    )
