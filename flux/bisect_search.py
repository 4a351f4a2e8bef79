"""A whole bisect of executions, asked question by question: what the command line and the console both drive.

`flux.bisect` says which commit is run next. Around it stand the executions: a commit is bad where one of them fails,
and good where all pass, and those that do not fail on the bad end have nothing to be found by and are left out.
`Search` knows this, and asks for what it needs in the bodies of the console's API::

    step = search.next_step()
    AskProbe    ->  run it, then search.take_probe(document, mark, reason)
    AskGraph    ->  ask git, then search.take_graph(document)
    AskFinding  ->  ask what the commit changed, then search.take_finding(document)
    Outcome     ->  the end

Whoever drives it does the waiting, and says what a probe means for its commit.
"""

from collections.abc import Mapping
from typing import Any

import attrs

from flux.bisect import (
    Bisection,
    Found,
    Mark,
    Probe,
    Purpose,
    Range,
    Refusal,
    WantCause,
    WantGraph,
    mark_all,
)
from flux.bisect_graph import Graph

Document = Mapping[str, Any]


@attrs.frozen
class Run:
    """One run of the executions on a commit."""

    commit: str
    purpose: Purpose
    number: int
    """Which run of this commit, from 1."""
    wanted: int
    """How many runs of it were wanted by then."""
    subject: str
    """Of the commit."""
    mark: Mark
    verdict: str
    """Of the execution that decided."""
    reason: str
    elapsed_ms: float
    execution: str
    """Name of the execution that decided."""
    replay: str | None
    """Name of its replay; None when there was none."""
    is_cached: bool
    """Nothing was run: it was before, or stands in the log."""


@attrs.frozen
class Outcome:
    """What came of it."""

    end: Found | Range | Refusal
    runs: tuple[Run, ...]
    bad: str
    good: Document | None
    """The good end, as the plan names it; None when none was proved."""
    is_recorded: bool
    """What is looked for was recorded on the bad end, too."""
    bound: int | None
    """How many runs a search of so many commits may take where nothing calls for more; None: it never began."""
    is_doubted: bool
    """The commit changed no line of the failure's stack or calls, so more runs had to speak for it."""
    left_out: Mapping[str, str]
    """Executions that had no part in it, and why."""

    def of(self, commit: str) -> tuple[Run, ...]:
        """The runs of a commit."""
        return tuple(run for run in self.runs if run.commit == commit)


@attrs.frozen
class AskProbe:
    """An execution is to be run on a commit."""

    probe: Probe
    body: Document
    """Of ``POST bisect/probe``."""


@attrs.frozen
class AskGraph:
    """Both ends are proved."""

    ends: WantGraph
    body: Document
    """Of ``POST bisect/graph``."""


@attrs.frozen
class AskFinding:
    """What a commit changed decides how often it is run."""

    body: Document | None
    """Of ``POST bisect/finding``; None: no run of the commit is on record, so nothing can be asked."""


class Search:
    """See the module."""

    def __init__(self, plan: Document, *, first_parent: bool = False, is_fresh: bool = False) -> None:
        """``plan`` is the answer to ``POST bisect/plan``; ``is_fresh``: what was run before is run again."""
        self._plan = plan
        self._first_parent = first_parent
        self._is_fresh = is_fresh
        self._names: list[str] = [execution["name"] for execution in plan["executions"]]
        self._left_out: dict[str, str] = {one["execution"]: one["reason"] for one in plan["left_out"]}
        self._goods: dict[str, Document] = {good["sha"]: good for good in plan["goods"]}
        is_given = any(good["source"] == "given" for good in self._goods.values())
        self._bad: str = plan["bad"]["sha"]
        self._bisection = Bisection(
            self._bad, list(self._goods), is_given=is_given, is_recorded=plan["bad"]["recorded"]
        )
        self._good: Document | None = None
        self._runs: list[Run] = []
        self._asked: Probe | None = None
        self._round: list[Run] = []
        """Of the probe that is asked: a run of each execution so far."""

    @property
    def runs(self) -> tuple[Run, ...]:
        """Those that were made."""
        return tuple(self._runs)

    def next_step(self) -> AskProbe | AskGraph | AskFinding | Outcome:
        """Return what is to be asked next."""
        if self._asked is not None:
            return self._ask(self._asked)
        match self._bisection.next_step():
            case Probe() as probe:
                self._asked, self._round = probe, []
                return self._ask(probe)
            case WantGraph() as ends:
                body = {
                    "good": ends.good, "bad": ends.bad, "first_parent": self._first_parent,
                    "execution": self._names[0],
                }  # fmt: skip
                self._good = self._goods[ends.good]
                return AskGraph(ends, body)
            case WantCause() as want:
                return AskFinding(self.make_finding_body(want.bad, want.good))
            case end:
                return Outcome(
                    end, self.runs, self._bad, self._good, self._plan["bad"]["recorded"],
                    None if self._good is None else self._bisection.bound, self._bisection.is_doubted, self._left_out,
                )  # fmt: skip

    def take_probe(self, document: Document, mark: Mark, reason: str) -> Run | None:
        """Hear what a probe found and what that means; return the run, once all executions it takes were asked.

        They are asked until one fails; the first time on the bad end all, to see which do.
        """
        probe = self._asked
        assert probe is not None, "a probe was asked for"
        name = self._names[len(self._round)]
        self._round.append(
            Run(
                probe.commit, probe.purpose, probe.run, probe.wanted, document["subject"], mark, document["verdict"],
                reason, document["elapsed_ms"], name, document["name"], document["cached"],
            )
        )
        chooses = probe.purpose is Purpose.BAD_END and probe.run == 1 and len(self._names) > 1
        is_last = len(self._round) == len(self._names) or (mark is Mark.BAD and not chooses)
        return self._end_round(chooses=chooses) if is_last else None

    def recall(self, mark: Mark) -> Run:
        """Hear that the commit of the probe was marked in an earlier search."""
        probe = self._asked
        assert probe is not None and not self._round, "nothing of it was run"
        return self._tell(
            Run(
                probe.commit, probe.purpose, probe.run, probe.wanted, "", mark, mark.value, "as the log has it", 0.0,
                self._names[0], None, is_cached=True,
            )
        )

    def take_graph(self, document: Document) -> int:
        """Hear which commits there are between the ends; return how many there are to choose from."""
        graph = Graph({row[0]: tuple(row[1:]) for row in document["commits"]}, frozenset(document["likelier"]))
        self._bisection.take_graph(graph)
        return len(graph.parents)

    def take_finding(self, document: Document | None) -> None:
        """Hear what the commit changed; None where that could not be asked."""
        self._bisection.take_cause(document is not None and document["changed_path"])

    def make_finding_body(self, commit: str, parent: str) -> Document | None:
        """Return what asks what a commit is, and which part of it ran; None where no run of it is on record."""
        failing, passing = self.find_pair(commit, parent)
        if failing is None:
            return None
        return {"commit": commit, "parent": parent, "failing": failing, "passing": passing}

    def find_pair(self, commit: str, parent: str) -> tuple[str | None, str | None]:
        """Return the names of a replay on a commit, and of one of the same execution on its parent."""
        failing = next((run for run in self._runs if run.commit == commit and run.replay is not None), None)
        if failing is None:
            return None, None
        same = (run for run in self._runs if (run.commit, run.execution) == (parent, failing.execution))
        return failing.replay, next((run.replay for run in same if run.replay is not None), None)

    def _ask(self, probe: Probe) -> AskProbe:
        body = {
            "execution": self._names[len(self._round)],
            "commit": probe.commit,
            "functions_from": self._plan["functions_from"],
            "run": probe.run,
            "fresh": self._is_fresh,
        }
        return AskProbe(probe, body)

    def _end_round(self, *, chooses: bool) -> Run:
        runs = self._round
        failing = [run for run in runs if run.mark is Mark.BAD]
        if chooses and failing:
            self._names = [run.execution for run in failing]
            self._left_out |= {run.execution: f"{run.verdict}: {run.reason}" for run in runs if run not in failing}
        mark = mark_all([run.mark for run in runs])
        decisive = next(run for run in runs if mark is Mark.GOOD or run.mark is mark)
        return self._tell(
            attrs.evolve(
                decisive,
                elapsed_ms=sum(run.elapsed_ms for run in runs),
                is_cached=all(run.is_cached for run in runs),
            )
        )

    def _tell(self, run: Run) -> Run:
        self._asked = None
        self._runs.append(run)
        self._bisection.tell(run.mark, run.reason)
        return run
