"""How much processor time guests have used, as the kernel counts it.

How to think about it: a sandbox has one process that others are forked from, and these do the work and end. What the
kernel counts of a process has two parts: its own time, and that of children that have ended and were waited for. So the
first process knows of all that is over, and the living ones are asked each for itself, the first one first. A child
that ends in between is missing then, and never counted twice, and what is missing is there the next time. Nobody can
work and not be counted: workers may not fork (`flux.sandbox.jail_seccomp`), and what a module forks as it is imported
is a child of the first process.

The kernel tells hundredths of a second. They are of sums, so nothing is lost by that, only late.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PARENT, _UTIME, _CSTIME = 1, 11, 14
"""Places in ``/proc/PID/stat`` behind the process's name: proc_pid_stat(5), fields 4 and 14 to 17."""


class ProcessorTime:
    """The processor time of all sandboxes of one server, for as long as it runs."""

    def __init__(self) -> None:
        self._living: set[_Counted] = set()
        self._ended_s = 0.0

    @contextlib.contextmanager
    def counted(
        self, find_first: Callable[[], int], list_children: Callable[[], Iterable[int]] = lambda: ()
    ) -> Iterator[None]:
        """Count a process, and those of its children that live, for as long as the block lasts.

        To be left before it is ended: afterwards nobody can be asked.
        """
        counted = _Counted(find_first, list_children)
        self._living.add(counted)
        try:
            yield
        finally:
            self._living.remove(counted)
            self._ended_s += counted.read_s()

    def read_s(self) -> float:
        """Return how many seconds of a processor were used. It never falls."""
        return self._ended_s + sum(counted.read_s() for counted in self._living)


class _Counted:
    def __init__(self, find_first: Callable[[], int], list_children: Callable[[], Iterable[int]]) -> None:
        self._find_first = find_first
        self._list_children = list_children
        self._read_s = 0.0

    def read_s(self) -> float:
        first = self._find_first()
        found_s = _read_s(first) + sum(_read_s(child, parent=first) for child in self._list_children())
        # A child that has just ended takes its time out of the sum until it is waited for.
        self._read_s = max(self._read_s, found_s)
        return self._read_s


def _read_s(pid: int, parent: int | None = None) -> float:
    """Return what a process, and those of its children that were waited for, have used; 0 for one that is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            # The name is the process's own to choose, and may hold anything.
            fields = file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    if parent is not None and int(fields[_PARENT]) != parent:
        return 0.0  # A stranger, who got its number.
    return sum(map(int, fields[_UTIME : _CSTIME + 1])) / _TICKS_PER_S
