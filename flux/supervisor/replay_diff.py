"""A replay beside what it replayed: the comparison that diffs and guarded deploys have in common.

`flux.trace_diff` compares two executions. Of a replay some things have to be said first: why it stopped, whether
its rows are known, and whether the database that was rebuilt for it is what made a difference.
"""

from collections.abc import Set as AbstractSet

import trio

from flux.supervisor.present_replay import is_stopped
from flux.supervisor.replay import Replay
from flux.trace_diff import Diff, Mark, Side, compare, lacks_rows
from flux.trace_noise import Place


def side_of_replay(replay: Replay) -> Side:
    """Return a replay as one of two sides."""
    ran = replay.replayed.execution
    return Side(ran, _why_stopped(replay), lacks_rows(ran))


def _why_stopped(replay: Replay) -> str | None:
    """Why a replay did not come to an end of its own; None if it did."""
    if not is_stopped(replay):
        return None
    replayed = replay.replayed
    if replayed.divergence is not None:
        return f"call {replayed.divergence.seq} asks for what the record does not answer"
    assert replayed.waited_for is not None
    return f"call {replayed.waited_for.seq} is not answered within the time limit"


async def compare_sides(a: Side, b: Side, learned: AbstractSet[Place] = frozenset()) -> Diff:
    """See `flux.trace_diff.compare`. In a thread: bodies of megabytes take seconds, and others are being served."""
    return await trio.to_thread.run_sync(compare, a, b, learned)


def find_unfaithful(replay: Replay, diff: Diff) -> int | None:
    """Return the number of the call that the rebuilt database answers otherwise, so that it may be what differs.

    ``diff`` has the original beside the replay. Another id or time in the answer says nothing.
    """
    unequal = replay.replayed.fidelity.first_unequal
    if unequal is None:
        return None
    seq = unequal[0].request.seq
    pair = next((pair for pair in diff.calls if pair.a is not None and pair.a.request.seq == seq), None)
    return None if pair is not None and pair.mark is Mark.SAME else seq
