"""A bisect as a run: what ``flux bug bisect`` does, begun on a page.

The search is `flux.bisect_search`, the questions are those of the API, and the verdict decides what a run means for its
commit. What ends without an answer is raised, with all that was run still told.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from flux.bisect import Found, Mark, mark_verdict
from flux.bisect_answer import explain_more, find_refusal, list_ends, list_proofs, make_document, run_json
from flux.bisect_search import AskFinding, AskGraph, AskProbe, Outcome, Run, Search
from flux.errors import FluxError
from flux.supervisor.present import Document

NOT_COMPARED = 6
"""Exit code of what says that two executions can't be compared."""

Ask = Callable[[str, Document], Awaitable[Document]]
"""Asks ``bisect/plan`` and the like, by the last word and the body."""
Compare = Callable[[str, str], Awaitable[Document]]


class BisectRun:
    """See `flux.supervisor.runs.RunWork`."""

    def __init__(self, ask: Ask, compare: Compare, summary: Document, good: str | None, bad: str | None) -> None:
        """``summary`` is of the execution that failed."""
        self._ask = ask
        self._compare = compare
        self._summary = summary
        self._order = {"executions": [summary["name"]], "good": good, "bad": bad}
        self._plan: Document | None = None
        self._search: Search | None = None
        self._commits: int | None = None
        self._answer: Document | None = None

    async def do(self) -> None:
        """Search to the end."""
        self._plan = await self._ask("plan", self._order)
        self._search = search = Search(self._plan)
        while True:
            match search.next_step():
                case AskProbe() as asked:
                    probed = await self._ask("probe", dict(asked.body))
                    mark = Mark.SKIP if probed["replay"] is None else mark_verdict(probed["verdict"])
                    search.take_probe(probed, mark, probed["reason"])
                case AskGraph() as asked:
                    self._commits = search.take_graph(await self._ask("graph", dict(asked.body)))
                case AskFinding() as asked:
                    search.take_finding(None if asked.body is None else await self._ask("finding", dict(asked.body)))
                case outcome:
                    await self._end(search, outcome)
                    return

    def show(self) -> Document:
        """Return the plan, the runs so far, and the answer once there is one."""
        return {
            "schema": "flux.bisect-run/1",
            "execution": self._summary,
            "plan": self._plan,
            "commits": self._commits,
            "steps": [] if self._search is None else [_show_run(run) for run in self._search.runs],
            "answer": self._answer,
        }

    async def _end(self, search: Search, outcome: Outcome) -> None:
        finding = diff = None
        if isinstance(outcome.end, Found):
            parent = outcome.end.parents[0]
            body = search.make_finding_body(outcome.end.commit, parent)
            assert body is not None, "the commit was run"
            finding = await self._ask("finding", dict(body))
            diff = await self._find_difference(*search.find_pair(outcome.end.commit, parent))
        refusal = find_refusal(outcome)
        said: dict[str, Any] = {"ends": [], "proofs": [], "more": ""}
        if refusal is None:
            said |= {"ends": list_ends(outcome), "more": explain_more(outcome)}
        if isinstance(outcome.end, Found):
            said["proofs"] = list_proofs(outcome, outcome.end)
        self._answer = {**make_document(outcome, refusal, finding, diff, None), "said": said}
        if refusal is not None:
            raise refusal

    async def _find_difference(self, failing: str | None, passing: str | None) -> Document | None:
        if failing is None or passing is None:
            return None
        try:
            return await self._compare(passing, failing)
        except FluxError as error:
            if error.exit_code != NOT_COMPARED:
                raise
            return None  # They can't be compared, and the answer has no difference.


def _show_run(run: Run) -> Document:
    return {**run_json(run), "purpose": run.purpose.value, "run": run.number, "wanted": run.wanted}
