"""What the guests of one process hold together, and who has to go when it is too much.

Each guest has a limit of its own. A thousand of them within their limits are still more
than a machine has, so there is a bound for all, and two rules keep it:

A guest that would not fit is not begun: it waits for room, and is refused after a while.

Guests grow while they run, and none can be told that its memory does not grow today: what a
function sees must not depend on its neighbours. So when a guest pauses what it holds by then
is booked, and if the whole is too much then the largest ends, whoever that is. Small neighbours
of a guest that takes all it can are not harmed by it.

Between two pauses only guests that have a processor grow: a few at a time, each within its limit.
"""

from typing import Protocol

import attrs
import trio

GUEST_BYTES = 512 * 1024
"""What a guest costs beside its memory, as a rule: the part of its stack that it has used, tables, our own objects."""
ROOM_PATIENCE_S = 10.0
"""How long a guest waits for room."""
LOOK_S = 0.05
"""How often one that waits looks whether anybody still wants it."""


class NoRoomError(Exception):
    """A guest does not fit beside the others; the message says why."""


class Endable(Protocol):
    """A guest's door, as far as it matters here."""

    def end(self, why: str) -> None:
        """End the guest behind it."""

    def check_open(self) -> None:
        """Raise when nobody wants the guest any more."""


@attrs.define(eq=False)
class Place:
    """One guest in the ledger."""

    door: Endable
    held_bytes: int
    is_ended: bool = False
    """It was told to end, and its memory is as good as free."""


class Ledger:
    """The guests of one process, and what they hold. See the module."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        """What all of them may hold."""
        self._places: set[Place] = set()
        self._held_bytes = 0
        self._freed = trio.Event()
        """Set, and replaced, when a guest has left."""

    async def enter(self, door: Endable, memory_bytes: int) -> Place:
        """Wait until there is room for a guest that begins with so much memory; raise `NoRoomError`."""
        wanted = memory_bytes + GUEST_BYTES
        give_up_at = trio.current_time() + ROOM_PATIENCE_S
        while self._places and self._held_bytes + wanted > self.bytes_max:
            if trio.current_time() > give_up_at:
                raise NoRoomError(
                    self._describe(f"there was no room for one more within {ROOM_PATIENCE_S:g} s")
                )
            with trio.move_on_after(LOOK_S):
                await self._freed.wait()
            door.check_open()
        place = Place(door, wanted)
        self._places.add(place)
        self._held_bytes += wanted
        return place

    def book(self, place: Place, memory_bytes: int) -> None:
        """A guest pauses, and its memory has this size."""
        held = memory_bytes + GUEST_BYTES
        if held == place.held_bytes or place.is_ended:
            return
        self._held_bytes += held - place.held_bytes
        place.held_bytes = held
        if self._held_bytes > self.bytes_max:
            self._end_largest()

    def _end_largest(self) -> None:
        largest = max((one for one in self._places if not one.is_ended), key=lambda one: one.held_bytes)
        why = self._describe(f"this one held most, {largest.held_bytes >> 20} MiB, and was ended")
        largest.is_ended = True
        self._held_bytes -= largest.held_bytes
        largest.door.end(why)

    def leave(self, place: Place) -> None:
        """A guest is over."""
        self._places.discard(place)
        if not place.is_ended:
            self._held_bytes -= place.held_bytes
        self._freed.set()
        self._freed = trio.Event()

    def _describe(self, what: str) -> str:
        return f"the {len(self._places)} running functions hold all of {self.bytes_max >> 20} MiB: {what}"
