"""How much processor time guests have used, as the kernel counts it.

How to think about it: a sandbox has one process that all others come from. What the kernel counts of a process has two
parts: its own time, and that of children that have ended and were waited for. So its parent knows of whoever is over,
and the living are asked each for itself, parents before their children, from the first process down: whatever a module
has forked is among them. A child that ends in between is missing then, and never counted twice, and what is missing is
there the next time.

One way around it is left: a module that has its process ignore the end of children (``SIGCHLD``) has the kernel forget
what they used. Then only what runs while it is looked at is counted.

The kernel tells hundredths of a second. They are of sums, so nothing is lost by that, only late.
"""

import contextlib
import os
from collections.abc import Callable, Iterator

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PROCESSES_MAX = 4096
"""A sandbox may have fewer; of one that forks while it is looked at, so many are."""
_PARENT, _UTIME, _CSTIME = 1, 11, 14
"""Places in ``/proc/PID/stat`` behind the process's name: proc_pid_stat(5), fields 4 and 14 to 17."""


class ProcessorTime:
    """The processor time of all sandboxes of one server, for as long as it runs."""

    def __init__(self) -> None:
        self._living: set[_Counted] = set()
        self._ended_s = 0.0

    @contextlib.contextmanager
    def counted(self, find_first: Callable[[], int]) -> Iterator[None]:
        """Count a process, and all below it that live, for as long as the block lasts.

        To be left before it is ended: afterwards nobody can be asked.
        """
        counted = _Counted(find_first)
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
    def __init__(self, find_first: Callable[[], int]) -> None:
        self._find_first = find_first
        self._read_s = 0.0

    def read_s(self) -> float:
        found_s, waiting, seen = 0.0, [(self._find_first(), 0)], 0
        while waiting and (seen := seen + 1) <= PROCESSES_MAX:
            pid, parent = waiting.pop()
            found_s += _read_s(pid, parent)
            waiting += [(child, pid) for child in _list_children(pid)]
        # A child that has just ended takes its time out of the sum until it is waited for.
        self._read_s = max(self._read_s, found_s)
        return self._read_s


def _list_children(pid: int) -> list[int]:
    """Return the children of a process without threads."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            return [int(word) for word in file.read().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _read_s(pid: int, parent: int) -> float:
    """Return what a process, and those of its children that were waited for, have used; 0 for one that is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            # The name is the process's own to choose, and may hold anything.
            fields = file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    if parent and int(fields[_PARENT]) != parent:
        return 0.0  # A stranger, who got its number.
    return sum(map(int, fields[_UTIME : _CSTIME + 1])) / _TICKS_PER_S
