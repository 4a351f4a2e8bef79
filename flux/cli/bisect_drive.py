"""Driving a bisect from the command line: `flux.bisect_search` says what to ask, the server answers, and a `Judge` says
what it means. The log is kept here, beside the person who may go on from it.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from flux.bisect import Found, Mark, Purpose
from flux.bisect_search import AskFinding, AskGraph, AskProbe, Outcome, Run, Search
from flux.cli.bisect_judge import Judge, Judgement
from flux.cli.bisect_log import BisectLog
from flux.cli.client import INVOKE_TIMEOUT_S, Client
from flux.cli.record import Record


@attrs.define
class Driver:
    """Drives one bisect."""

    client: Client
    search: Search
    judge: Judge
    first_parent: bool
    tell: Callable[[Run], None]
    """Told of each run."""
    tell_ends: Callable[[int], None]
    """Told how many commits there are to choose from, once both ends are proved."""
    log: BisectLog | None
    question: Mapping[str, Any]
    """What the search is about, for its log."""
    resumes: bool
    _known: dict[str, Mark] = attrs.field(factory=dict)

    def drive(self) -> Outcome:
        """Search to the end."""
        while True:
            match self.search.next_step():
                case AskProbe() as asked:
                    self._run(asked)
                case AskGraph() as asked:
                    self._begin(asked)
                case AskFinding() as asked:
                    finding = None if asked.body is None else self._ask_finding(asked.body)
                    self.search.take_finding(None if finding is None else finding.data)
                case outcome:
                    if isinstance(outcome.end, Found) and self.log is not None:
                        self.log.end(outcome.end.commit)
                    return outcome

    def ask_finding(self, commit: str, parent: str) -> Record | None:
        """Ask what a commit is, and which part of it ran; None where no run of it is on record."""
        body = self.search.make_finding_body(commit, parent)
        return None if body is None else self._ask_finding(body)

    def _ask_finding(self, body: Mapping[str, Any]) -> Record:
        answer = self.client.post("bisect", "finding", body=json.dumps(body))
        return answer.record.of_schema("flux.bisect-finding/1")

    def _begin(self, asked: AskGraph) -> None:
        answer = self.client.post("bisect", "graph", body=json.dumps(asked.body), timeout_s=INVOKE_TIMEOUT_S)
        count = self.search.take_graph(answer.record.of_schema("flux.bisect-graph/1").data)
        if self.log is not None:
            good, bad = asked.ends.good, asked.ends.bad
            question = {**self.question, "good": good, "bad": bad}
            if self.resumes:
                self._known = self.log.read(question)
            self.log.start(question, bad, good, first_parent=self.first_parent)
        self.tell_ends(count)

    def _run(self, asked: AskProbe) -> None:
        is_search = asked.probe.purpose is Purpose.SEARCH
        known = self._known.get(asked.probe.commit) if is_search else None
        run = self._ask(asked) if known is None else self.search.recall(known)
        if run is None:
            return
        if is_search and self.log is not None:
            self.log.add(run.mark, run.commit, run.subject, run.reason)
        self.tell(run)

    def _ask(self, asked: AskProbe) -> Run | None:
        answer = self.client.post("bisect", "probe", body=json.dumps(asked.body), timeout_s=INVOKE_TIMEOUT_S)
        record = answer.record.of_schema("flux.bisect-probe/1")
        if record.maybe_record("replay") is None:
            judgement = Judgement(Mark.SKIP, record.text("reason"))
        else:
            judgement = self.judge(record)
        return self.search.take_probe(record.data, judgement.mark, judgement.reason)
