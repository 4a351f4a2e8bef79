"""Finding the commit that broke it: what to run next, and what may be said of what came out.

A *probe* runs the recorded execution once on one commit, and is marked good, bad or skip. A `Bisection` says which
probe comes next and hears its mark; whoever drives it does the waiting::

    step = bisection.next_step()
    Probe      ->  run it, then bisection.tell(mark, reason)
    WantGraph  ->  ask git, then bisection.take_graph(graph)
    WantCause  ->  ask whether the commit changed what failed, then bisection.take_cause(answer)
    Found, Range, Refusal  ->  the end

It believes nobody. Both ends are seen twice before anything between them is run, for a search between ends that are
none finds something all the same; what was recorded on the bad end is one of its two. What it finds is doubted: its
parents are run again, and so is the commit itself. How often depends on what else speaks for it. Chance seldom chooses
a commit that changed the very lines which failed, or which asked something on the way there: its parents are run
twice. For any other each side is run four times, and the answer says that it took more runs than a search needs. Two
runs of one commit that differ end it, since chance would have chosen between the halves. A skip is never taken for
good or bad: where skips hide the culprit, the answer is a range.

A search takes as many runs as its suspects can be halved, one for each skip, and `DOUBTS` (see `Bisection.bound`).

The graph of commits, and which of them halves it, is `flux.bisect_graph`'s business.
"""

import enum
from collections.abc import Sequence

import attrs

from flux.bisect_graph import Graph

END_RUNS = 2
"""How often each end is seen before the search."""
PROOF_RUNS = 2
"""How often the culprit and each of its parents have been run when it is named, where the commit changed a line in the
stack of the failure, or one that asked something."""
DOUBTED_RUNS = 4
"""The same, where it did not. Of an execution that fails every other time, two runs of each would let one wrong commit
in four pass."""
DOUBTS = 4
"""Runs beside those of the search, where nothing calls for more: the ends, and the proof."""


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
    wanted: int
    """How many runs of it are wanted by now."""


@attrs.frozen
class WantGraph:
    """Both ends are proved: the commits between them are wanted."""

    good: str
    bad: str


@attrs.frozen
class WantCause:
    """Whether what ``bad`` has and ``good`` has not are lines in the stack of the failure, or of its calls."""

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


Step = Probe | WantGraph | WantCause | Found | Range | Refusal

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

    def __init__(self, bad: str, goods: Sequence[str], *, is_given: bool, is_recorded: bool) -> None:
        """``goods`` are commits that may be the good end, the best first; ``is_given``: a person named the only one.

        ``is_recorded``: what is looked for was recorded on the bad end, so it has been seen there once.
        """
        assert goods, "there is a commit to begin from"
        self._bad = bad
        self._goods = list(goods)
        self._is_given = is_given
        self._end_runs = {bad: END_RUNS - is_recorded}
        self._runs: dict[str, list[Mark]] = {}
        self._reasons: dict[str, str] = {}
        self._graph: Graph | None = None
        self._good: set[str] = set()
        self._skipped: set[str] = set()
        self._reach = 0
        """How far from skipped commits the next one is to be: it doubles with each skip, and falls with each answer."""
        self._has_cause: bool | None = None
        """What was heard of the cause; None before it is asked for."""
        self._asked: Probe | None = None

    @property
    def bound(self) -> int:
        """How many runs the search may take where nothing calls for more. The graph has been taken."""
        assert self._graph is not None, "how many commits there are is known"
        return (len(self._graph.parents) - 1).bit_length() + len(self._skipped) + DOUBTS

    @property
    def is_doubted(self) -> bool:
        """Whether no cause is on record, so that more runs had to speak."""
        return self._has_cause is False

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

    def take_cause(self, has_cause: bool) -> None:
        """Hear whether the commit that is about to be named changed lines on the way to the failure."""
        assert self._has_cause is None, "it is asked for once"
        self._has_cause = has_cause

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
        if len(marks) < self._end_runs[self._bad]:
            return self._probe(self._bad, Purpose.BAD_END, self._end_runs[self._bad])
        for good in self._goods:
            marks = self._runs.get(good, [])
            if marks and marks[0] is not Mark.GOOD:
                continue
            if len(marks) < END_RUNS:
                return self._probe(good, Purpose.GOOD_END, END_RUNS)
            return WantGraph(good, self._bad)
        return self._refuse(Why.GOOD_IS_NOT if self._is_given else Why.NO_GOOD, self._goods[-1])

    def _probe(self, commit: str, purpose: Purpose, wanted: int) -> Probe:
        return Probe(commit, purpose, len(self._runs.get(commit, [])) + 1, wanted)

    def _refuse(self, why: Why, commit: str) -> Refusal:
        return Refusal(why, commit, tuple(self._runs[commit]), self._reasons[commit])

    # --- between them --------------------------------------------------------------------------

    def _search(self) -> Step:
        graph = self._graph
        assert graph is not None, "the ends are proved"
        suspects = graph.find_suspects(self._bad, self._good)
        chosen = graph.choose(suspects, self._skipped, reach=self._reach)
        if chosen is not None:
            return Probe(chosen, Purpose.SEARCH, 1, 1)
        return self._prove(graph, suspects)

    def _prove(self, graph: Graph, suspects: frozenset[str]) -> Step:
        """Run both sides of what is left again, until they have been run often enough."""
        candidates = graph.sort(suspects)
        passed, unproved = [], []
        for parent in graph.list_outer_parents(suspects):
            marks = self._runs.get(parent, [])
            if marks[:1] == [Mark.BAD]:
                for commit in (self._bad, parent):
                    # Before a history is said to be no simple one: it may be chance that is not simple.
                    if len(self._runs[commit]) < DOUBTED_RUNS:
                        return self._probe(commit, Purpose.PROOF, DOUBTED_RUNS)
                return Range(
                    graph.sort({*candidates, parent}),
                    f"{parent[:7]} fails too, though commits that come from it pass: the failure came and went, "
                    "and this is only one of the places",
                )
            if marks[:1] == [Mark.SKIP]:
                unproved.append(parent)
                continue
            if len(marks) < PROOF_RUNS:
                return self._probe(parent, Purpose.PROOF, PROOF_RUNS)
            passed.append(parent)
        if passed and self._has_cause is None:
            return WantCause(passed[0], self._bad)
        # The bad one first: most likely its files wait ready.
        for commit in (self._bad, *passed):
            wanted = DOUBTED_RUNS
            if self._has_cause:
                wanted = PROOF_RUNS if commit != self._bad or self._has_room() else 1
            if len(self._runs[commit]) < wanted:
                return self._probe(commit, Purpose.PROOF, wanted)
        if len(candidates) > 1:
            return Range(candidates, "those before the last could not be judged")
        if not passed:
            return Range(candidates, "no parent of it could be run, so nothing shows that it passed before")
        return Found(self._bad, tuple(passed), tuple(unproved))

    def _has_room(self) -> bool:
        return sum(map(len, self._runs.values())) < self.bound
