"""Who is next, when several tenants want to run and there is not room for all.

A `FairQueue` hands out *turns*: an execution has one from its beginning to its end. Each tenant has a *share* with
bounds of its own (turns at once, memory that these may come to) and a weight. Among those that wait and may run, the
next turn goes to the one that has had the fewest for its weight: start-time fair queueing (Goyal, Vin, Cheng 1996), a
turn as the unit. So of two shares that always have somebody waiting, neither gets ahead of the other by more than a
turn of each, however many requests either sends; and within a share it is first come, first served.

A share that was idle begins where the others are: it has not saved up turns for a burst.

A turn is not taken back, so whoever has turns that last could have them all. Therefore half of the turns are *kept*:
each share has some, by its weight and one at least, that nobody else is given, also while it wants none. A share that
has fewer turns than are kept for it waits for nobody but itself. The price is that they stand empty while it is idle.

Pure: no clock and no waiting. `flux.supervisor.turns` waits.
"""

from collections import deque
from collections.abc import Sequence

import attrs


@attrs.frozen
class ShareBounds:
    """What a share may have."""

    weight: int = 100
    """Two shares of 200 and 100 that both always wait get turns two to one."""
    turns_max: int | None = None
    """Turns at once; None: as many as there are."""
    memory_bytes_max: int | None = None
    """What its turns may come to together; None: any."""


@attrs.frozen
class ShareUse:
    """What a share has just now."""

    turns: int
    memory_bytes: int
    """What these come to together."""
    waiting: int
    """How many wait for one."""
    kept: int
    """Turns that nobody else is given."""


@attrs.define(eq=False)
class Turn:
    """Somebody's place in the queue, and then his turn."""

    share: str
    memory_bytes: int
    place: "_Share" = attrs.field(repr=False)
    """The share itself: another one may have its name by the time at which the turn ends."""
    is_granted: bool = False


@attrs.define(eq=False)
class _Share:
    bounds: ShareBounds
    waiting: deque[Turn] = attrs.field(factory=deque)
    turns: int = 0
    memory_bytes: int = 0
    had: float = 0.0
    """Turns that it has had for its weight, on the scale of `FairQueue._now`."""
    kept: int = 0
    """Turns that no other share is given."""

    @property
    def unused(self) -> int:
        """How many of those that are kept it does not have."""
        return max(0, self.kept - self.turns)

    def may_run(self) -> bool:
        """Whether its first that waits fits into its own bounds."""
        if not self.waiting:
            return False
        bounds = self.bounds
        if bounds.turns_max is not None and self.turns >= bounds.turns_max:
            return False
        needed = self.memory_bytes + self.waiting[0].memory_bytes
        return bounds.memory_bytes_max is None or needed <= bounds.memory_bytes_max


class FairQueue:
    """See the module."""

    def __init__(self, turns_max: int) -> None:
        """``turns_max``: turns of all shares at once. With fewer than two for each share none are kept."""
        self._turns_max = turns_max
        self._turns = 0
        self._now = 0.0
        """What the share that had the last turn had had before it."""
        self._shares: dict[str, _Share] = {}

    def add_share(self, name: str, bounds: ShareBounds) -> None:
        """Add a share. What is kept for it may be in use by turns of before, until they end."""
        assert name not in self._shares
        self._shares[name] = _Share(bounds, had=self._now)
        self._keep()

    def remove_share(self, name: str) -> None:
        """Take a share out. Who waits in it gets no turn any more; turns that it has count until they end."""
        del self._shares[name]
        self._keep()

    def set_bounds(self, name: str, bounds: ShareBounds) -> None:
        """Change what a share may have: what it has above that ends by itself."""
        self._shares[name].bounds = bounds
        self._keep()

    def set_turns_max(self, turns_max: int) -> None:
        """Change how many turns there are: what is above that ends by itself."""
        self._turns_max = turns_max
        self._keep()

    def count_waiting(self, name: str) -> int:
        """Return how many wait in a share."""
        return len(self._shares[name].waiting)

    def get_use(self, name: str) -> ShareUse:
        """Return what a share has."""
        share = self._shares[name]
        return ShareUse(share.turns, share.memory_bytes, len(share.waiting), share.kept)

    def ask(self, name: str, memory_bytes: int) -> Turn:
        """Ask for a turn: it is granted by this or a later call of `grant`."""
        share = self._shares[name]
        turn = Turn(name, memory_bytes, share)
        if not share.waiting:
            share.had = max(share.had, self._now)
        share.waiting.append(turn)
        return turn

    def grant(self) -> Sequence[Turn]:
        """Return the turns that begin now."""
        granted = []
        while (free := self._turns_max - self._turns) > 0:
            unused = sum(share.unused for share in self._shares.values())
            able = [
                share
                for share in self._shares.values()
                if share.may_run() and (share.unused > 0 or free > unused)
            ]
            if not able:
                break
            share = min(able, key=lambda each: each.had)
            turn = share.waiting.popleft()
            turn.is_granted = True
            self._now = max(self._now, share.had)
            share.had += 1 / share.bounds.weight
            share.turns += 1
            share.memory_bytes += turn.memory_bytes
            self._turns += 1
            granted.append(turn)
        return granted

    def end(self, turn: Turn) -> None:
        """End a turn, or give up waiting for it."""
        share = turn.place
        if not turn.is_granted:
            share.waiting.remove(turn)
            return
        turn.is_granted = False
        share.turns -= 1
        share.memory_bytes -= turn.memory_bytes
        self._turns -= 1

    def _keep(self) -> None:
        """Share out half of the turns. With one at least for each they are never more than there are."""
        shares = self._shares.values()
        weights = sum(share.bounds.weight for share in shares)
        is_enough = self._turns_max >= 2 * len(shares)
        for share in shares:
            kept = max(1, self._turns_max // 2 * share.bounds.weight // weights) if is_enough else 0
            most = share.bounds.turns_max
            share.kept = kept if most is None else min(kept, most)
