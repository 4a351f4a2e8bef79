"""A few executions of each kind are recorded and replayed. ``python -m tests.guests.repeat`` does thousands."""

import pytest
import trio

from tests.guests import repeat
from tests.guests.repeat_kinds import KINDS

FUNCTIONS = {"javascript": 23, "typescript": 7, "wasi": 11}
"""How many there are of each kind; each runs once."""


@pytest.mark.parametrize("name", FUNCTIONS)
def test_replays_in_other_processes_are_identical(name: str) -> None:
    kind = KINDS[name]
    recordings = trio.run(repeat.record, kind, FUNCTIONS[name])
    executions = [recording.read() for recording in recordings]
    ran = {execution.function for execution in executions}
    assert len(ran) == FUNCTIONS[name], "each function of the kind takes part"
    assert all(recording.memory_sha256 for recording in recordings)
    assert all(execution.fuel and call.request.fuel for execution in executions for call in execution.calls)
    tally = trio.run(repeat.replay, kind, recordings)
    assert (tally.identical, tally.different) == (len(recordings), {})
