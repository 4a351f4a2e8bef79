"""The values that a watched name has had, as a session keeps them: a stretch of those around a place.

There may be any number of them, so a run tells of the first or of the last thousand, of those before an event or after
it. What was told is a stretch without gaps, and it is known how many there were on either side. It serves every event
that has enough of it on both sides; for another one it is asked anew.
"""

import math
from collections.abc import Iterable, Sequence

import attrs
import msgspec

from flux.supervisor.debug_walk import Ask
from flux.supervisor.present import Document, encode

BYTES_MAX = 2**20
"""Of a stretch, as JSON; those nearest to the event it was asked for are kept."""
SHOWN_MAX = 200
"""Values that an answer has, of those nearest to its event."""
_VALUE_OVERHEAD_BYTES = 150
"""Of each value in memory, beside its JSON."""


@attrs.frozen
class History:
    """A stretch of them, in the order of events."""

    name: str
    values: Sequence[tuple[int, bytes]]
    """Event and JSON of each."""
    before: int
    """How many there were before them."""
    after: int
    """How many there were after them."""

    @property
    def held_bytes(self) -> int:
        """What it takes in memory."""
        return sum(len(data) + _VALUE_OVERHEAD_BYTES for _, data in self.values)

    def serves(self, at: int) -> bool:
        """Whether it has those nearest to event ``at``: half of what is shown on each side, or all that there are.

        One that is short because its values are long would serve nothing by that; it has to have a quarter of itself.
        """
        wanted = max(1, min(SHOWN_MAX // 2, len(self.values) // 4))
        behind = self._count_behind(at)
        return (not self.before or behind >= wanted) and (not self.after or len(self.values) - behind >= wanted)

    def show(self, at: int) -> Document:
        """Return those nearest to event ``at``, and how many are left out."""
        first = max(0, min(self._count_behind(at) - SHOWN_MAX // 2, len(self.values) - SHOWN_MAX))
        shown = [msgspec.Raw(data) for _, data in self.values[first : first + SHOWN_MAX]]
        left_out = self.before + self.after + len(self.values) - len(shown)
        return {"watch": self.name, "values": shown, "values_left_out": left_out}

    def _count_behind(self, at: int) -> int:
        return sum(event <= at for event, _ in self.values)


async def read_history(ask: Ask, name: str, at: int) -> History:
    """Ask what values ``name`` has had around event ``at``."""
    question: Document = {"watch": name, "at": at, "list": False}
    told = await ask(question)
    found = _keep_nearest(name, told["values"], at, before=told["values_left_out"])
    if not told["values_left_out"] or found.serves(at):
        return found
    earlier, later = await ask(question | {"before": at + 1}), await ask(question | {"after": at})
    return _keep_nearest(
        name, [*earlier["values"], *later["values"]], at,
        before=earlier["values_left_out"], after=later["values_left_out"],
    )  # fmt: skip


def _keep_nearest(name: str, values: Iterable[Document], at: int, *, before: int = 0, after: int = 0) -> History:
    """Keep what there is room for, of values in the order of events."""
    written = [(int(value["event"]), encode(value)) for value in values]
    room, far = BYTES_MAX, math.inf
    for event, data in sorted(written, key=lambda each: abs(each[0] - at)):
        room -= len(data)
        if room < 0:
            far = abs(event - at)
            break
    kept = [each for each in written if abs(each[0] - at) < far] or written[-1:]
    first = written.index(kept[0]) if kept else 0
    return History(name, tuple(kept), before + first, after + len(written) - first - len(kept))
