"""The console's questions for a bisect. Whoever asks drives the search; see `flux.supervisor.bisect`.

Bodies are JSON objects::

    plan     {"executions": ["qk3f81xa"], "good": "b71d04a", "bad": "main", "functions_from": "main",
              "judged": true}
    graph    {"good": SHA, "bad": SHA, "first_parent": true, "execution": "qk3f81xa"}
    probe    {"execution": "qk3f81xa", "commit": SHA, "functions_from": SHA, "run": 1, "fresh": true}
    finding  {"commit": SHA, "parent": SHA, "failing": "qm1c3vvx", "passing": "qn8d2aa0"}

What may be left out is optional; what is not known is refused. The plan of one execution is also a GET, for who may
only read: then no probe follows.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from flux.store import reading
from flux.store.postgres import Pool
from flux.supervisor.bisect import Bisector, Finding, Probed
from flux.supervisor.console_query import BadQueryError, Query
from flux.supervisor.present import Document, show_moment, summary_json

EXECUTIONS_MAX = 200
RUNS_MAX = 100


class _Plan(msgspec.Struct, forbid_unknown_fields=True):
    executions: list[str]
    good: str | None = None
    bad: str | None = None
    functions_from: str | None = None
    judged: bool = False


class _Graph(msgspec.Struct, forbid_unknown_fields=True):
    good: str
    bad: str
    first_parent: bool = False
    execution: str | None = None


class _Probe(msgspec.Struct, forbid_unknown_fields=True):
    execution: str
    commit: str
    functions_from: str | None = None
    run: int = 1
    fresh: bool = False


class _Finding(msgspec.Struct, forbid_unknown_fields=True):
    commit: str
    parent: str
    failing: str
    passing: str | None = None


class BisectDesk:
    """Answers them, for one tenant."""

    def __init__(
        self,
        pool: Pool,
        find_bisector: Callable[[], Bisector],
        find: Callable[[str], Awaitable[reading.Summary]],
    ) -> None:
        """``find`` returns the execution that a text means."""
        self._pool = pool
        self._find_bisector = find_bisector
        self._find = find

    async def answer(self, question: str, body: bytes, _query: Query) -> Document:
        """Answer one of the questions of the module."""
        match question:
            case "plan":
                return await self._plan(_read(body, _Plan))
            case "graph":
                return await self._graph(_read(body, _Graph))
            case "probe":
                return await self._probe(_read(body, _Probe))
        return await self._describe(_read(body, _Finding))

    async def plan_for(self, name: str, query: Query) -> Document:
        """Answer where a bisect of one execution would begin, to somebody who only looks: nothing is made ready."""
        said = _Plan([name], query.get("good"), query.get("bad"), query.get("functions_from"))
        return await self._plan(said, is_begun=False)

    async def _plan(self, said: _Plan, *, is_begun: bool = True) -> Document:
        if len(said.executions) > EXECUTIONS_MAX:
            raise BadQueryError(
                f"{len(said.executions)} executions are too many for one bisect: {EXECUTIONS_MAX} are the most",
                remedy="a narrower window",
            )
        found = [
            await reading.get_execution(self._pool, (await self._find(text)).id) for text in said.executions
        ]
        bisector = self._find_bisector()
        summaries = {execution.id: summary for summary, execution in found}
        originals = [execution for _, execution in found]
        plan = await bisector.plan(
            originals, said.good, said.bad, said.functions_from, is_judged=said.judged, is_begun=is_begun
        )
        return {
            "schema": "flux.bisect-plan/1",
            "executions": [summary_json(summaries[original.id]) for original in plan.originals],
            "left_out": [{"execution": name, "reason": reason} for name, reason in plan.left_out.items()],
            "bad": {
                "sha": plan.bad,
                "source": "given" if plan.is_bad_given else "record",
                "dirty": plan.is_dirty,
                "recorded": plan.is_recorded,
            },
            "goods": [
                {"sha": good.sha, "source": good.source, "execution": good.name} for good in plan.goods
            ],
            "functions_from": None if plan.overlay is None else plan.overlay.sha,
        }

    async def _graph(self, said: _Graph) -> Document:
        original = None
        if said.execution is not None:
            _, original = await reading.get_execution(self._pool, (await self._find(said.execution)).id)
        graph = await self._find_bisector().read_graph(
            said.good, said.bad, original, first_parent=said.first_parent
        )
        return {
            "schema": "flux.bisect-graph/1",
            "commits": [[commit, *parents] for commit, parents in graph.parents.items()],
            "likelier": graph.sort(graph.likelier),
        }

    async def _probe(self, said: _Probe) -> Document:
        if not 1 <= said.run <= RUNS_MAX:
            raise BadQueryError(f"run is {said.run}", remedy=f"write a number from 1 to {RUNS_MAX}")
        summary, original = await reading.get_execution(self._pool, (await self._find(said.execution)).id)
        bisector = self._find_bisector()
        sha = await bisector.find_commit(said.commit)
        head = (await bisector.read_heads([sha]))[sha]
        overlay = await bisector.find_overlay(original, said.functions_from)
        probed = await bisector.probe(original, sha, overlay, said.run, is_fresh=said.fresh)
        return {
            "schema": "flux.bisect-probe/1",
            "execution": summary.name,
            "commit": sha,
            "subject": head.subject,
            **_probed_json(probed),
        }

    async def _describe(self, said: _Finding) -> Document:
        bisector = self._find_bisector()
        commit, parent = [await bisector.find_commit(ref) for ref in (said.commit, said.parent)]
        _, failing = await reading.get_execution(self._pool, (await self._find(said.failing)).id)
        passing = None
        if said.passing is not None:
            _, passing = await reading.get_execution(self._pool, (await self._find(said.passing)).id)
        return {
            "schema": "flux.bisect-finding/1",
            **_finding_json(await bisector.describe(commit, parent, failing, passing)),
        }


def _probed_json(probed: Probed) -> Document:
    return {
        "verdict": probed.verdict,
        "reason": probed.reason,
        "built": probed.is_built,
        "cached": probed.is_cached,
        "elapsed_ms": probed.elapsed_ns / 1e6,
        "replay": None if probed.document is None else msgspec.Raw(probed.document.encode()),
        "name": probed.replay,
    }


def _finding_json(finding: Finding) -> Document:
    head, hunks = finding.head, finding.hunks
    return {
        "commit": head.sha,
        "author": head.author,
        "date": show_moment(head.authored_at),
        "subject": head.subject,
        "files": [
            {"path": file.path, "added": file.added, "removed": file.removed} for file in finding.files
        ],
        "hunks": []
        if hunks is None
        else [{"file": hunk.path, "line": hunk.new_start, "lines": list(hunk.lines)} for hunk in hunks.hunks],
        "hunks_were_run": hunks is not None and hunks.was_run,
        "changed_path": finding.changed_path,
        "hunks_left_out": 0 if hunks is None else hunks.left_out,
    }


_T = TypeVar("_T")


def _read(body: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadQueryError(
            f"the body can't be read: {error}", remedy="docs/console-api.md shows what it takes"
        ) from error
