"""What executions that are stepped through may take of one process: runs at a time, and memory.

A server and its tenants' servers are one process, so they share one `DebugRoom`, as they share turns
(`flux.supervisor.turns`). Each server has its part of it: the installation's own may have all of the runs, a tenant's
all but one, so that none keeps the others waiting by itself.

What is held is counted rather than measured: bytes of what is kept as it came, and of what is kept as objects so many
for each byte of JSON as the worst of it has been seen to take. Nobody's work is lost with a session that makes room:
its next step is a run more. So those that nobody waits for are ended, the one's own first who needs the room, and then
those that were used longest ago.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Protocol

import attrs
import trio

from flux.execution import Execution

AT_ONCE_MAX = 2
"""Questions that are answered at a time; others wait."""
HELD_BYTES_MAX = 128 * 2**20
"""By all sessions together."""
OBJECT_BYTES = 200
"""Of each object of a record, beside its text."""
OBJECTS_TIMES = 20
"""How much more memory JSON takes once it is read."""


class Holder(Protocol):
    """A session, as far as it takes room."""

    used_at: float
    asking: int

    @property
    def held_bytes(self) -> int:
        """What it holds."""

    def shed(self) -> None:
        """Give up what can be asked for again."""


@attrs.frozen(eq=False)
class DebugPart:
    """One server's part of a room."""

    room: "DebugRoom"
    limiter: trio.CapacityLimiter
    """Of its own runs; `DebugRoom.limiter` is that of all."""


@attrs.frozen
class _Held:
    part: DebugPart
    end: Callable[[], object]


class DebugRoom:
    """See the module."""

    def __init__(self, bytes_max: int = HELD_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._held: dict[Holder, _Held] = {}
        self.limiter = trio.CapacityLimiter(AT_ONCE_MAX)
        """Of the runs of all."""
        self.own = DebugPart(self, trio.CapacityLimiter(AT_ONCE_MAX))
        """Of the server that the process belongs to."""

    def add_part(self) -> DebugPart:
        """Return a tenant's part."""
        return DebugPart(self, trio.CapacityLimiter(max(1, AT_ONCE_MAX - 1)))

    @property
    def held_bytes(self) -> int:
        """What all sessions hold."""
        return sum(holder.held_bytes for holder in self._held)

    def enter(self, holder: Holder, part: DebugPart, end: Callable[[], object]) -> bool:
        """Take a session in, if there is room for it; one alone may be of any size. ``end`` ends it."""
        self._held[holder] = _Held(part, end)
        self._end_idle(holder)
        if self.held_bytes > self._bytes_max and len(self._held) > 1:
            del self._held[holder]
            return False
        return True

    def leave(self, holder: Holder) -> None:
        """A session has ended."""
        self._held.pop(holder, None)

    def settle(self, holder: Holder) -> None:
        """A session has been asked, and may have grown by that: keep all of them within the bounds."""
        if holder in self._held:
            self._end_idle(holder)
            if self.held_bytes > self._bytes_max:
                holder.shed()

    def _end_idle(self, holder: Holder) -> None:
        part = self._held[holder].part
        idle = [each for each in self._held if each is not holder and not each.asking]
        for each in sorted(idle, key=lambda each: (self._held[each].part is not part, each.used_at)):
            if self.held_bytes <= self._bytes_max:
                return
            self._held[each].end()
            self.leave(each)


def measure_record(execution: Execution) -> int:
    """Return about how many bytes of memory an execution takes with all of its mutations."""
    calls, mutations, logs = execution.calls, execution.mutations, execution.logs
    texts: list[str | bytes | None] = [execution.trigger.body, execution.user]
    for call in calls:
        texts += [call.request.arguments, None if call.result is None else call.result.value]
    for mutation in mutations:
        texts += [mutation.key, mutation.before, mutation.after]
    for line in logs:
        texts += [line.message, line.fields]
    objects = len(calls) + len(mutations) + len(logs) + len(execution.reads) + len(execution.transactions)
    statements = sum(len(transaction.statements) for transaction in execution.transactions)
    keys = sum(len(read.key) for read in execution.reads)
    return _measure(texts) + OBJECT_BYTES * (objects + statements + keys + len(execution.ordinals))


def measure_lines(lines: Sequence[str]) -> int:
    """Return how many bytes of memory the lines of a file take."""
    return _measure(lines)


def _measure(texts: Sequence[str | bytes | None]) -> int:
    return sum(map(sys.getsizeof, texts))
