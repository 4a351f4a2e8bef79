"""Driving a bisect: `flux.bisect` says what to run, the server runs it, a `Judge` says what it means.

What comes out is an `Outcome`, whatever it is: a commit, a range, or why there is neither. With several executions, a
commit is bad where one of them fails, and good where all pass. Those that do not fail on the bad end have nothing to
be found by, and are left out and named.
"""

import json
from collections.abc import Callable, Mapping
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
from flux.cli.bisect_judge import Judge, Judgement
from flux.cli.bisect_log import BisectLog
from flux.cli.client import INVOKE_TIMEOUT_S, Client
from flux.cli.record import Record


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
    good: Record | None
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


@attrs.define
class Driver:
    """Drives one bisect."""

    client: Client
    plan: Record
    judge: Judge
    first_parent: bool
    is_fresh: bool
    tell: Callable[[Run], None]
    """Told of each run."""
    tell_ends: Callable[[int], None]
    """Told how many commits there are to choose from, once both ends are proved."""
    log: BisectLog | None
    question: Mapping[str, Any]
    """What the search is about, for its log."""
    resumes: bool
    _runs: list[Run] = attrs.field(factory=list)
    _left_out: dict[str, str] = attrs.field(factory=dict)
    _known: dict[str, Mark] = attrs.field(factory=dict)
    _names: list[str] = attrs.field(factory=list)

    def drive(self) -> Outcome:
        """Search to the end."""
        bad = self.plan.record("bad")
        goods = {good.text("sha"): good for good in self.plan.records("goods")}
        self._names = [execution.text("name") for execution in self.plan.records("executions")]
        self._left_out |= {one.text("execution"): one.text("reason") for one in self.plan.records("left_out")}
        is_given = any(good.text("source") == "given" for good in goods.values())
        is_recorded = bad.flag("recorded")
        bisection = Bisection(bad.text("sha"), list(goods), is_given=is_given, is_recorded=is_recorded)
        good: Record | None = None
        while True:
            match bisection.next_step():
                case Probe() as probe:
                    self._run(bisection, probe)
                case WantGraph() as ends:
                    good = goods[ends.good]
                    bisection.take_graph(self._begin(ends))
                case WantCause() as want:
                    finding = self.ask_finding(want.bad, want.good)
                    bisection.take_cause(finding is not None and finding.flag("changed_path"))
                case end:
                    if isinstance(end, Found) and self.log is not None:
                        self.log.end(end.commit)
                    return Outcome(
                        end, tuple(self._runs), bad.text("sha"), good, is_recorded,
                        None if good is None else bisection.bound, bisection.is_doubted, self._left_out,
                    )  # fmt: skip

    def ask_finding(self, commit: str, parent: str) -> Record | None:
        """Ask what a commit is, and which part of it ran; None where no run of it is on record."""
        failing, passing = self.find_pair(commit, parent)
        if failing is None:
            return None
        order = {"commit": commit, "parent": parent, "failing": failing, "passing": passing}
        answer = self.client.post("bisect", "finding", body=json.dumps(order))
        return answer.record.of_schema("flux.bisect-finding/1")

    def find_pair(self, commit: str, parent: str) -> tuple[str | None, str | None]:
        """Return the names of a replay on a commit, and of one of the same execution on its parent."""
        failing = next((run for run in self._runs if run.commit == commit and run.replay is not None), None)
        if failing is None:
            return None, None
        same = (run for run in self._runs if (run.commit, run.execution) == (parent, failing.execution))
        return failing.replay, next((run.replay for run in same if run.replay is not None), None)

    def _begin(self, ends: WantGraph) -> Graph:
        body = {
            "good": ends.good, "bad": ends.bad, "first_parent": self.first_parent, "execution": self._names[0],
        }  # fmt: skip
        answer = self.client.post("bisect", "graph", body=json.dumps(body), timeout_s=INVOKE_TIMEOUT_S)
        told = answer.record.of_schema("flux.bisect-graph/1")
        rows, likelier = told.items("commits"), told.items("likelier")
        graph = Graph({row[0]: tuple(row[1:]) for row in rows}, frozenset(likelier))
        if self.log is not None:
            question = {**self.question, "good": ends.good, "bad": ends.bad}
            if self.resumes:
                self._known = self.log.read(question)
            self.log.start(question, ends.bad, ends.good, first_parent=self.first_parent)
        self.tell_ends(len(graph.parents))
        return graph

    def _run(self, bisection: Bisection, probe: Probe) -> None:
        known = self._known.get(probe.commit) if probe.purpose is Purpose.SEARCH else None
        run = self._ask(probe) if known is None else self._recall(probe, known)
        self._runs.append(run)
        if probe.purpose is Purpose.SEARCH and self.log is not None:
            self.log.add(run.mark, run.commit, run.subject, run.reason)
        bisection.tell(run.mark, run.reason)
        self.tell(run)

    def _recall(self, probe: Probe, mark: Mark) -> Run:
        return Run(
            probe.commit, probe.purpose, probe.run, probe.wanted, "", mark, mark.value, "as the log has it", 0.0,
            self._names[0], None, is_cached=True,
        )  # fmt: skip

    def _ask(self, probe: Probe) -> Run:
        """Run the executions until one fails; the first time on the bad end all, to see which do."""
        chooses = probe.purpose is Purpose.BAD_END and probe.run == 1 and len(self._names) > 1
        runs = []
        for name in self._names:
            runs.append(self._ask_one(probe, name))
            if runs[-1].mark is Mark.BAD and not chooses:
                break
        failing = [run for run in runs if run.mark is Mark.BAD]
        if chooses and failing:
            self._names = [run.execution for run in failing]
            self._left_out |= {run.execution: f"{run.verdict}: {run.reason}" for run in runs if run not in failing}
        mark = mark_all([run.mark for run in runs])
        decisive = next(run for run in runs if mark is Mark.GOOD or run.mark is mark)
        return attrs.evolve(
            decisive,
            elapsed_ms=sum(run.elapsed_ms for run in runs),
            is_cached=all(run.is_cached for run in runs),
        )

    def _ask_one(self, probe: Probe, name: str) -> Run:
        body = {
            "execution": name,
            "commit": probe.commit,
            "functions_from": self.plan.maybe_text("functions_from"),
            "run": probe.run,
            "fresh": self.is_fresh,
        }
        answer = self.client.post("bisect", "probe", body=json.dumps(body), timeout_s=INVOKE_TIMEOUT_S)
        record = answer.record.of_schema("flux.bisect-probe/1")
        if record.maybe_record("replay") is None:
            judgement = Judgement(Mark.SKIP, record.text("reason"))
        else:
            judgement = self.judge(record)
        return Run(
            probe.commit,
            probe.purpose,
            probe.run,
            probe.wanted,
            record.text("subject"),
            judgement.mark,
            record.text("verdict"),
            judgement.reason,
            record.number("elapsed_ms"),
            name,
            record.maybe_text("name"),
            record.flag("cached"),
        )
