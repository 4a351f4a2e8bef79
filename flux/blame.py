"""Who is to blame for each value of a row, without any I/O.

`blame` goes back through a row's versions, from the row as it is. A column's writer is the last committed change that
gave it the value that it has: changes that wrote other columns, or the same value again, are passed by. The walk
checks itself at each step: where the value is not the one that the change before had left, something else wrote it in
between, past the capture, and then no execution is named.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

import attrs

from flux.mutation import Mutation
from flux.row_shapes import NOT_THERE, Image, Shape, Shown, find_shape, read_image, show

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

UNSEEN = "it was written past the capture"
ADDED = "it came with the column, which was added after the last change that is recorded"
OLDER = "it is older than what is recorded"


@attrs.frozen
class Blamed:
    """Where a column's value is from."""

    value: str
    """JSON text."""
    seq: int | None
    """The change that wrote it, in the order of all changes; None: not known."""
    reason: str = ""
    """Why it is not known."""
    between: tuple[int | None, int | None] = (None, None)
    """Of what was written past the capture: the changes before and after it; None: the beginning, now."""


class Blame:
    """Goes back through a row's versions, a page at a time, until each column has its writer."""

    def __init__(self, row: Image, shapes: Sequence[Shape]) -> None:
        """``row`` is as it is now, in the last of ``shapes``."""
        self._shapes = shapes
        self._now = shapes[-1]
        self._row = row
        self._open = dict(row)
        self._found: dict[str, Blamed] = {}
        self._later: int | None = None

    @property
    def is_done(self) -> bool:
        """Whether each column has its writer."""
        return not self._open

    def go_back(self, versions: Iterable[tuple[int, Mutation]]) -> None:
        """Take more versions, those that were committed, newest first; each with its place in the order of changes."""
        for seq, mutation in versions:
            before, after = self._show(mutation.before, mutation), self._show(mutation.after, mutation)
            for name in list(self._open):
                self._step(name, seq, before, after)
            if not self._open:
                return
            self._later = seq

    def finish(self, reason: str = OLDER) -> dict[str, Blamed]:
        """Return each column's writer, in the row's order; those that are not known have ``reason``."""
        for name, value in self._open.items():
            self._found[name] = Blamed(value, None, reason)
        self._open = {}
        return {name: self._found[name] for name in self._row}

    def _step(self, name: str, seq: int, before: Shown | None, after: Shown | None) -> None:
        value = self._open[name]
        if after is None:
            self._settle(name, None, UNSEEN, (seq, self._later))  # It was deleted, and is there.
        elif name not in after.values:
            self._settle(name, None, ADDED if after.lost[name] == NOT_THERE else after.lost[name])
        elif after.values[name] != value:
            self._settle(name, None, UNSEEN, (seq, self._later))
        elif before is None or before.values.get(name) != value:
            self._settle(name, seq)

    def _settle(
        self,
        name: str,
        seq: int | None,
        reason: str = "",
        between: tuple[int | None, int | None] = (None, None),
    ) -> None:
        self._found[name] = Blamed(self._open.pop(name), seq, reason, between)

    def _show(self, text: str | None, mutation: Mutation) -> Shown | None:
        if text is None:
            return None
        image = read_image(text)
        at = _EPOCH + timedelta(microseconds=mutation.at_ns // 1000)
        return show(image, find_shape(self._shapes, image, at), self._now)
