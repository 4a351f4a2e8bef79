"""Finding the commit that broke it: what to run next, and what may be said of what came out.

A *probe* runs the recorded execution once on one commit, and is marked good, bad or skip. A `Bisection` says which
probe comes next and hears its mark; whoever drives it does the waiting::

    step = bisection.next_step()
    Probe      ->  run it, then bisection.tell(mark, reason)
    WantGraph  ->  ask git, then bisection.take_graph(graph)
    Found, Range, Refusal  ->  the end

It believes nobody. Both ends are run twice before anything between them is, for a search between ends that are
none finds something all the same. What it finds is run again at the end, with its parents: a commit is named when it
failed each time and a parent passed each time. Two runs of one commit that differ end it, since chance would have
chosen between the halves. A skip is never taken for good or bad: where skips hide the culprit, the answer is a range.

The graph of commits, and which of them halves it, is `flux.bisect_graph`'s business.
"""

import enum
from collections.abc import Sequence

import attrs

from flux.bisect_graph import Graph

END_RUNS = 2
"""How often each end is run before the search."""
PROOF_RUNS = 4
"""How often the culprit and each of its parents have been run when it is named. Of an execution that fails every
other time, two runs of each would let one wrong commit in four pass."""


class Mark(enum.StrEnum):
    """What a probe says of its commit."""

    GOOD = "good"
    BAD = "bad"
    SKIP = "skip"


class Purpose(enum.StrEnum):
    """Why a commit is run."""

    BAD_END = "bad end"
    GOOD_END = "good end"
    SEARCH = "search"
    PROOF = "proof"


@attrs.frozen
class Probe:
    """One run that is to be made."""

    commit: str
    purpose: Purpose
    run: int
    """Which run of this commit it is, from 1."""


@attrs.frozen
class WantGraph:
    """Both ends are proved: the commits between them are wanted."""

    good: str
    bad: str


@attrs.frozen
class Found:
    """The first bad commit."""

    commit: str
    parents: tuple[str, ...]
    """Its parents that passed in each of their runs."""
    unproved: tuple[str, ...]
    """Its other parents, which could not be run: only that a good commit comes from them speaks for them."""


@attrs.frozen
class Range:
    """It is one of these, and no run can tell which."""

    candidates: tuple[str, ...]
    """From the oldest to the newest."""
    reason: str


class Why(enum.StrEnum):
    """Why there is no answer."""

    BAD_IS_NOT = "the bad end does not fail"
    GOOD_IS_NOT = "the good end does not pass"
    NO_GOOD = "no good end is known"
    FLAKY = "flaky"


@attrs.frozen
class Refusal:
    """Nothing can be said, and what stands in the way."""

    why: Why
    commit: str
    marks: tuple[Mark, ...]
    """What its runs said."""
    reason: str
    """What the last of them said, in words."""


Step = Probe | WantGraph | Found | Range | Refusal

# Words of `flux.verdict.Verdict`, which is not imported: the command line would wait for all that judging takes.
GOOD_VERDICTS = frozenset({"passed", "past it"})
BAD_VERDICTS = frozenset({"same failure"})
FAILING_VERDICTS = BAD_VERDICTS | {"other failure"}


def mark_verdict(verdict: str, *, any_failure: bool = False) -> Mark:
    """Return what a replay's verdict says of its code: only what is the same failure is bad, unless any is."""
    if verdict in GOOD_VERDICTS:
        return Mark.GOOD
    if verdict in (FAILING_VERDICTS if any_failure else BAD_VERDICTS):
        return Mark.BAD
    return Mark.SKIP


def mark_all(marks: Sequence[Mark]) -> Mark:
    """Return what several executions say of one commit: bad if one fails there, good if all pass."""
    if Mark.BAD in marks:
        return Mark.BAD
    return Mark.GOOD if marks and all(mark is Mark.GOOD for mark in marks) else Mark.SKIP


class Bisection:
    """See the module."""

    def __init__(self, bad: str, goods: Sequence[str], *, is_given: bool) -> None:
        """``goods`` are commits that may be the good end, the best first; ``is_given``: a person named the only one."""
        assert goods, "there is a commit to begin from"
        self._bad = bad
        self._goods = list(goods)
        self._is_given = is_given
        self._runs: dict[str, list[Mark]] = {}
        self._reasons: dict[str, str] = {}
        self._graph: Graph | None = None
        self._good: set[str] = set()
        self._skipped: set[str] = set()
        self._reach = 0
        """How far from skipped commits the next one is to be: it doubles with each skip, and falls with each answer."""
        self._asked: Probe | None = None

    def next_step(self) -> Step:
        """Return what is to be done next."""
        step = self._find_flaky() or self._prove_ends() or self._search()
        self._asked = step if isinstance(step, Probe) else None
        return step

    def tell(self, mark: Mark, reason: str = "") -> None:
        """Hear what the probe said that was asked for last."""
        probe = self._asked
        assert probe is not None, "a probe was asked for"
        self._asked = None
        self._runs.setdefault(probe.commit, []).append(mark)
        self._reasons[probe.commit] = reason
        if probe.purpose is not Purpose.SEARCH:
            return
        match mark:
            case Mark.GOOD:
                self._good.add(probe.commit)
            case Mark.BAD:
                self._bad = probe.commit
            case Mark.SKIP:
                self._skipped.add(probe.commit)
        self._reach = self._reach * 2 + 1 if mark is Mark.SKIP else self._reach // 4

    def take_graph(self, graph: Graph) -> None:
        """Hear which commits there are between the ends."""
        assert self._graph is None and self._bad in graph.parents, "it is the graph that was asked for"
        self._graph = graph
        for commit in self._goods:
            # Good ends that were none are between the ends now, and what they said counts.
            match self._runs.get(commit, [])[:1]:
                case [Mark.BAD] if commit in graph.parents:
                    self._bad = commit
                case [Mark.SKIP]:
                    self._skipped.add(commit)

    # --- the ends ------------------------------------------------------------------------------

    def _find_flaky(self) -> Refusal | None:
        for commit, marks in self._runs.items():
            if len(set(marks)) > 1:
                return self._refuse(Why.FLAKY, commit)
        return None

    def _prove_ends(self) -> Step | None:
        if self._graph is not None:
            return None
        marks = self._runs.get(self._bad, [])
        if marks and marks[0] is not Mark.BAD:
            return self._refuse(Why.BAD_IS_NOT, self._bad)
        if len(marks) < END_RUNS:
            return Probe(self._bad, Purpose.BAD_END, len(marks) + 1)
        for good in self._goods:
            marks = self._runs.get(good, [])
            if marks and marks[0] is not Mark.GOOD:
                continue
            if len(marks) < END_RUNS:
                return Probe(good, Purpose.GOOD_END, len(marks) + 1)
            return WantGraph(good, self._bad)
        return self._refuse(Why.GOOD_IS_NOT if self._is_given else Why.NO_GOOD, self._goods[-1])

    def _refuse(self, why: Why, commit: str) -> Refusal:
        return Refusal(why, commit, tuple(self._runs[commit]), self._reasons[commit])

    # --- between them --------------------------------------------------------------------------

    def _search(self) -> Step:
        graph = self._graph
        assert graph is not None, "the ends are proved"
        suspects = graph.find_suspects(self._bad, self._good)
        chosen = graph.choose(suspects, self._skipped, reach=self._reach)
        if chosen is not None:
            return Probe(chosen, Purpose.SEARCH, 1)
        return self._prove(graph, suspects)

    def _prove(self, graph: Graph, suspects: frozenset[str]) -> Step:
        """Run both sides of what is left again, until they have been run often enough."""
        candidates = graph.sort(suspects)
        parents = graph.list_outer_parents(suspects)
        passed, unproved = [], []
        # The bad one first: most likely it was the last to be run, and waits ready.
        for commit in (self._bad, *parents):
            marks = self._runs.get(commit, [])
            if commit != self._bad and marks[:1] == [Mark.BAD]:
                return Range(
                    graph.sort({*candidates, commit}),
                    f"{commit[:7]} fails too, though commits that come from it pass: the failure came and went, "
                    "and this is only one of the places",
                )
            if commit != self._bad and marks[:1] == [Mark.SKIP]:
                unproved.append(commit)
                continue
            if len(marks) < PROOF_RUNS:
                return Probe(commit, Purpose.PROOF, len(marks) + 1)
            if commit != self._bad:
                passed.append(commit)
        if len(candidates) > 1:
            return Range(candidates, "those before the last could not be judged")
        if not passed:
            return Range(candidates, "no parent of it could be run, so nothing shows that it passed before")
        return Found(self._bad, tuple(passed), tuple(unproved))
