"""What runs just now, for who waits until that, and not what begins later, has ended."""

import contextlib
from collections.abc import Iterator, Sequence

import attrs
import trio


class InFlight:
    """What runs just now."""

    def __init__(self) -> None:
        self._ended: dict[int, trio.Event] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._ended)

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Run one, for as long as the block lasts."""
        number, self._next = self._next, self._next + 1
        ended = self._ended[number] = trio.Event()
        try:
            yield
        finally:
            del self._ended[number]
            ended.set()

    def list_ends(self) -> Sequence[trio.Event]:
        """Return what is set when each of those that run now has ended."""
        return list(self._ended.values())


@attrs.frozen
class Unrest:
    """What was running, and is not in the store for all the waiting."""

    running: int = 0
    """That have not ended."""
    not_stored: int = 0
    """That have ended and are not stored."""
    unheard: tuple[int, ...] = ()
    """Workers that did not say."""

    def __bool__(self) -> bool:
        return bool(self.running or self.not_stored or self.unheard)
