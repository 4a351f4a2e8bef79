"""The commits between a good one and a bad one, and which of them to ask next.

A `Graph` holds what the bad commit has and the good one has not, as ``git rev-list --parents`` tells it. Each mark
makes the set of *suspects* smaller: a bad commit leaves itself and its ancestors, a good one takes itself and its
ancestors away. The one to ask next is the one that halves the set best, whatever it answers. That is how git
chooses too; on a line of commits it takes as many questions as the suspects can be halved.

Some commits are *likelier* than others: they changed a file that the failing run is on record to have been in. Where
these are few, the suspects are halved by weight, half of which is theirs. Any answer is as true as before; the search
is shorter where the guess is right, and longer by a run or two where it is not.

A commit that can't be judged (*skip*) is set aside. Its neighbours tend to be broken like it, so whoever searches asks
for one farther away with each skip: `choose` has a ``reach`` for that.

Nothing here asks git or runs anything.
"""

from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping

import attrs


class BrokenGraphError(ValueError):
    """What should be git's list of commits is none."""


FEW = 8
"""Likelier commits are few where they are one in so many: what they save is then more than they can cost."""


@attrs.frozen
class Graph:
    """Commits, in an order in which parents come first."""

    parents: Mapping[str, tuple[str, ...]]
    """All parents of each commit, those outside of the graph too."""
    likelier: frozenset[str] = frozenset()
    """See the module."""

    @classmethod
    def read(cls, lines: Iterable[str], *, first_parent: bool = False) -> "Graph":
        """Read ``git rev-list --topo-order --reverse --parents``: a commit and its parents a line, parents first."""
        parents: dict[str, tuple[str, ...]] = {}
        for line in lines:
            commit, *others = line.split()
            if commit in parents:
                raise BrokenGraphError(f"commit {commit} is listed twice")
            parents[commit] = tuple(others[:1] if first_parent else others)
        graph = cls(parents)
        graph.check()
        return graph

    def check(self) -> None:
        """Raise `BrokenGraphError` unless parents come first."""
        seen: set[str] = set()
        for commit, parents in self.parents.items():
            for parent in parents:
                if parent in self.parents and parent not in seen:
                    raise BrokenGraphError(f"commit {commit} is listed before its parent {parent}")
            seen.add(commit)

    def find_suspects(self, bad: str, good: Collection[str]) -> frozenset[str]:
        """Return the commits that may be the first bad one: ``bad`` and its ancestors, less the good and theirs."""
        return self._find_ancestors([bad]) - self._find_ancestors(good)

    def _find_ancestors(self, commits: Iterable[str]) -> frozenset[str]:
        """Return the commits and all that they come from, as far as they are in the graph."""
        found: set[str] = set()
        waiting = [commit for commit in commits if commit in self.parents]
        while waiting:
            commit = waiting.pop()
            if commit not in found:
                found.add(commit)
                waiting += (parent for parent in self.parents[commit] if parent in self.parents)
        return frozenset(found)

    def list_outer_parents(self, suspects: Collection[str]) -> tuple[str, ...]:
        """Return the parents of suspects that are none themselves, in the order of the graph."""
        found = dict.fromkeys(
            parent
            for commit, parents in self.parents.items()
            if commit in suspects
            for parent in parents
            if parent not in suspects
        )
        return tuple(found)

    def sort(self, commits: Collection[str]) -> tuple[str, ...]:
        """Return commits of the graph in its order."""
        return tuple(commit for commit in self.parents if commit in commits)

    def weigh_behind(self, suspects: Collection[str]) -> dict[str, int]:
        """Return for each suspect what those of the suspects weigh that it comes from, itself included.

        In the graph's order. Each weighs one, unless there are `likelier` ones.
        """
        children: dict[str, int] = dict.fromkeys(suspects, 0)
        inner: dict[str, list[str]] = {}
        for commit in self.parents:
            if commit in suspects:
                inner[commit] = [parent for parent in self.parents[commit] if parent in suspects]
                for parent in inner[commit]:
                    children[parent] += 1
        weights: dict[str, int] = {}
        likelier, heavier = 0, 0
        one = 1
        if 0 < len(self.likelier) * FEW <= len(self.parents):
            # Of all commits and not of those that are left: a guess that turns out wrong loses its weight.
            one, heavier = len(self.likelier), len(self.parents)
        # A set of suspects is a number with a bit for each. It is dropped with its last child: what is held at once
        # is as wide as the history has branches, and not as long.
        behind: dict[str, int] = {}
        for bit, (commit, parents) in enumerate(inner.items()):
            bits = 1 << bit
            if commit in self.likelier:
                likelier |= bits
            for parent in parents:
                bits |= behind[parent]
                children[parent] -= 1
                if not children[parent]:
                    del behind[parent]
            weights[commit] = one * bits.bit_count() + heavier * (bits & likelier).bit_count()
            if children[commit]:
                behind[commit] = bits
        return weights

    def choose(self, suspects: Collection[str], skipped: Collection[str], *, reach: int = 0) -> str | None:
        """Return the suspect to ask next, or None when none is left that could be asked and tell.

        The one from which all others come is known to be bad, so it is never asked. One that has more than ``reach``
        suspects between it and each that was skipped goes first, as long as there is one.
        """
        weights = self.weigh_behind(suspects)
        total = max(weights.values())
        halves = {commit: min(weight, total - weight) for commit, weight in weights.items() if weight < total}
        places = {commit: place for place, commit in enumerate(weights)}
        holes = sorted(places[commit] for commit in weights if commit in skipped)

        def find_distance(commit: str) -> int:
            at = bisect_left(holes, places[commit])
            return min((abs(hole - places[commit]) for hole in holes[max(0, at - 1) : at + 1]), default=total)

        # Among equals the first in the graph's order, so that the same history is always searched in the same way.
        open_ = [(commit, find_distance(commit)) for commit in halves if commit not in skipped]
        while open_:
            far = [commit for commit, distance in open_ if distance > reach]
            if far:
                return max(far, key=halves.__getitem__)
            reach //= 2
        return None
