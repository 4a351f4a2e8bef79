"""Which deployments keep a process in memory, and which have to start one when they are asked.

A zygote holds its deployment's code, imported, and a few workers: some twenty megabytes. Old
deployments are asked for rarely (by a replay, by a tenant who sleeps), and to import their code
again takes a fraction of a second. So there is a bound on the number of zygotes, and beyond it the
one goes that has been idle longest; and one that nobody has asked for a long time goes in any case.

It decides and does not wait. A `Resident` tells what happens to it, and is told to leave.
"""

from typing import Protocol

import attrs

ZYGOTES_MAX = 16
IDLE_S_MAX = 1800.0
"""A zygote that nobody has asked for so long is ended."""


class Resident(Protocol):
    """Somebody who has a process in memory, and can do without."""

    @property
    def is_busy(self) -> bool:
        """Whether it is at work, or waited for: it can't leave now."""

    def evict(self) -> None:
        """Let the process go, at once."""

    def count_workers(self) -> tuple[int, int]:
        """Return how many workers it has, and how many of them wait for an execution."""


@attrs.frozen
class ResidencyCounts:
    """What is in memory, and what has been."""

    zygotes: int
    """Residents."""
    starts: int
    """How many there have been, those that came again counted again."""
    workers: int
    """Processes that residents have forked and that live."""
    idle: int
    """Of them, those that wait for an execution."""
    forks: int
    """Workers that were ever forked."""


@attrs.define
class Residency:
    """Who is in memory."""

    zygotes_max: int = ZYGOTES_MAX
    """Residents at a time. More only while all of them are busy."""
    idle_s_max: float = IDLE_S_MAX
    """How long a resident may be idle, in seconds."""
    _residents: dict[Resident, None] = attrs.field(factory=dict, init=False)
    """The one that was used last stands last."""
    _starts: int = attrs.field(default=0, init=False)
    _forks: int = attrs.field(default=0, init=False)

    @property
    def counts(self) -> ResidencyCounts:
        """What is in memory, and what has been."""
        pairs = [resident.count_workers() for resident in self._residents]
        return ResidencyCounts(
            len(self._residents), self._starts, sum(alive for alive, _ in pairs), sum(idle for _, idle in pairs),
            self._forks,
        )  # fmt: skip

    def count_fork(self) -> None:
        """A resident has forked a worker."""
        self._forks += 1

    def enter(self, resident: Resident) -> None:
        """``resident`` has started a process; others may have to leave for it."""
        self._residents[resident] = None
        self._starts += 1
        self.settle()

    def use(self, resident: Resident) -> None:
        """``resident`` has been asked for something."""
        if resident in self._residents:
            del self._residents[resident]
            self._residents[resident] = None

    def leave(self, resident: Resident) -> None:
        """``resident`` has no process any more."""
        self._residents.pop(resident, None)

    def settle(self) -> None:
        """Have those leave who are too many: whoever has been idle longest. (After one has become idle, too.)"""
        surplus = len(self._residents) - self.zygotes_max
        if surplus <= 0:
            return
        newest = next(reversed(self._residents))
        idle = [resident for resident in self._residents if not (resident.is_busy or resident is newest)]
        for resident in idle[:surplus]:
            resident.evict()

    def __len__(self) -> int:
        return len(self._residents)
