"""The console's bisects as runs: begun, watched and cancelled by the execution that they are about.

``POST bisect/plan`` and its like are the questions that a command drives by itself; a run here drives the same ones,
and goes on when whoever asked for it has gone (`flux.supervisor.runs`).
"""

from collections.abc import Awaitable, Callable
from functools import partial

import msgspec

from flux.errors import FluxError
from flux.store import reading
from flux.supervisor.bisect_run import BisectRun
from flux.supervisor.console_bisect import BisectDesk
from flux.supervisor.console_diff import DiffDesk
from flux.supervisor.console_query import BadQueryError, Query, Question
from flux.supervisor.present import Document, encode, summary_json
from flux.supervisor.runs import Runs
from flux.supervisor.work_stream import describe_problem

KIND = "the bisect of "
REF_ROOM = 200


class _Order(msgspec.Struct, forbid_unknown_fields=True):
    good: str | None = None
    bad: str | None = None


class BisectRunsDesk:
    """Answers them, for one tenant."""

    def __init__(
        self, bisects: BisectDesk, diffs: DiffDesk, runs: Runs, find: Callable[[str], Awaitable[reading.Summary]],
        count_erasures: Callable[[], Awaitable[int]],
    ) -> None:  # fmt: skip
        """``find`` returns the execution that a text means; ``count_erasures`` is that of the
        tenant (`flux.store.erasures`)."""
        self._count_erasures = count_erasures
        self._bisects = bisects
        self._diffs = diffs
        self._runs = runs
        self._find = find

    def find(self, method: str, path: list[str], body: bytes) -> Question | None:
        """Return what is asked below ``bisects``, or None when nothing is there."""
        match path:
            case []:
                return Question("GET", self._list)
            case [name] if method == "POST":
                return Question("POST", partial(self._begin, name, body))
            case [name]:
                return Question("GET", partial(self._show, name))
            case [name, "cancel"]:
                return Question("POST", partial(self._cancel, name))
        return None

    async def _list(self, _query: Query) -> Document:
        self._runs.forget(await self._count_erasures())
        return {"schema": "flux.bisect-runs/1", "runs": self._runs.list(KIND)}

    async def _begin(self, name: str, body: bytes, _query: Query) -> Document:
        order = _read(body)
        erasures = await self._count_erasures()
        self._runs.forget(erasures)
        summary = summary_json(await self._find(name))
        work = BisectRun(self._ask, self._compare, summary, order.good, order.bad)
        return self._runs.begin(KIND + str(summary["name"]), work, erasures)

    async def _show(self, name: str, _query: Query) -> Document:
        """Return how far it is; where none was begun, where it would begin, or why it can't."""
        summary = summary_json(await self._find(name))
        self._runs.forget(await self._count_erasures())
        return self._runs.find(KIND + str(summary["name"])) or await self._look_ahead(summary)

    async def _look_ahead(self, summary: Document) -> Document:
        plan = problem = None
        try:
            plan = await self._bisects.plan_for(str(summary["name"]), {})
        except FluxError as error:
            problem = describe_problem(error)
        return {
            "schema": "flux.bisect-run/1", "execution": summary, "state": "none", "plan": plan, "problem": problem,
        }  # fmt: skip

    async def _cancel(self, name: str, _query: Query) -> Document:
        summary = summary_json(await self._find(name))
        self._runs.forget(await self._count_erasures())
        return self._runs.cancel(KIND + str(summary["name"])) or await self._look_ahead(summary)

    async def _ask(self, question: str, body: Document) -> Document:
        return await self._bisects.answer(question, encode(body), {})

    async def _compare(self, a: str, b: str) -> Document:
        return await self._diffs.compare(a, b, {})


def _read(body: bytes) -> _Order:
    example = '{"good": "b71d04a", "bad": "main"}, each of which may be left out'
    try:
        order = msgspec.json.decode(body, type=_Order)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadQueryError(f"the body can't be read: {error}", remedy=example) from error
    for ref in (order.good, order.bad):
        if ref is not None and not 1 <= len(ref) <= REF_ROOM:
            raise BadQueryError(f'"{ref[:80]}" names no commit', remedy=example)
    return order
