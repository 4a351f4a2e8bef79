"""The console's questions about two executions side by side.

B is another execution from the store, or A run again on other code. In the second case a
difference may also come from the database that was rebuilt for the replay. So where something
differs that the rebuilt database had a part in, A is run once more in it on its *own* code: what
differs there too differs by itself, and is taken for noise, unless it is a number. What then still
is not answered as it was makes the diff worthless, and it is refused.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from flux.brought import BroughtAnswer
from flux.errors import FluxError, OperatorError
from flux.execution import Execution
from flux.matching_session import Source
from flux.store import reading
from flux.store.postgres import Pool
from flux.supervisor.console_query import Query, flag, needed
from flux.supervisor.present import Document, summary_json, summary_of_execution
from flux.supervisor.present_diff import diff_json
from flux.supervisor.replay import Replay
from flux.supervisor.replay_diff import compare_sides, find_unfaithful, side_of_replay
from flux.trace_diff import Diff, Side, lacks_rows


class UndecidedError(OperatorError):
    """The two can't be compared in a way that would show anything."""

    code = "FLX317"
    exit_code = 6


class DiffHost(Protocol):
    """Who replays."""

    async def replay(
        self,
        original: Execution,
        on: str | None,
        answers: Mapping[int, BroughtAnswer],
        live: frozenset[str],
    ) -> Replay:
        """See `flux.supervisor.replay.Replayer.replay`."""

    async def rehearse(self, original: Execution) -> Replay:
        """See `flux.supervisor.replay.Replayer.replay` with `rehearses`."""


class DiffDesk:
    """Answers them."""

    def __init__(self, pool: Pool, host: DiffHost, find: Callable[[str], Awaitable[reading.Summary]]) -> None:
        """``find`` returns the execution that a text means."""
        self._pool = pool
        self._host = host
        self._find = find

    async def compare(self, name_a: str, name_b: str, query: Query) -> Document:
        """Compare two executions."""
        summary_a, a = await self._read(name_a)
        summary_b, b = await self._read(name_b)
        diff = await compare_sides(Side.of(a), Side.of(b))
        notes = _list_doubts(diff)
        return self._describe(diff, summary_a, summary_json(summary_b), query, replay=None, notes=notes)

    async def replay(self, name: str, query: Query) -> Document:
        """Compare an execution with itself on other code."""
        summary, original = await self._read(name)
        replay = await self._host.replay(original, needed(query, "on"), {}, frozenset())
        diff, learned = await self._compare_replay(original, replay)
        notes = (*_list_doubts(diff), *replay.notes, *learned)
        if replay.replayed.synthetic:
            heard = ", ".join(replay.replayed.synthetic)
            notes += (f"the replay heard stand-ins, as the values are not on record: {heard}",)
        ran = replay.replayed.execution if replay.recorded_as is None else replay.recorded_as
        return self._describe(
            diff,
            summary,
            summary_of_execution(ran),
            query,
            replay={
                "on": replay.on,
                "verdict": replay.judgement.verdict.value,
                "reason": replay.judgement.reason,
                "stopped": diff.b.stopped,
            },
            notes=notes,
        )

    async def _read(self, name: str) -> tuple[reading.Summary, Execution]:
        return await reading.get_execution(self._pool, (await self._find(name)).id)

    async def _compare_replay(self, original: Execution, replay: Replay) -> tuple[Diff, tuple[str, ...]]:
        """Return the diff, and what is to be said of how noise was told in it."""
        side = side_of_replay(replay)
        diff = await compare_sides(Side.of(original), side)
        notes: tuple[str, ...] = ()
        if diff.first is not None and Source.WORLD in replay.sources.values():
            try:
                rehearsed = await self._host.rehearse(original)
            except FluxError as error:
                notes = (f"what differs from run to run is told by rules alone: {error.message}",)
            else:
                again = rehearsed.replayed.execution
                own = await compare_sides(Side.of(original), Side(again, None, lacks_rows(again)))
                diff = await compare_sides(Side.of(original), side, own.learned)
                notes = ("what differs from run to run was learned from a replay on its own code",)
        _check_faithful(replay, diff)
        return diff, notes

    @staticmethod
    def _describe(
        diff: Diff,
        a: reading.Summary,
        b: Document,
        query: Query,
        *,
        replay: Document | None,
        notes: tuple[str, ...],
    ) -> Document:
        if diff.verdict is None:
            raise UndecidedError(
                f"nothing can be said about {a.name} and {b['name']}: {diff.reason}",
                remedy=f"flux trace {a.name} and flux trace {b['name']} show what there is",
            )
        shows_all = flag(query, "all", default=False)
        return diff_json(
            diff, diff.verdict, summary_json(a), b, replay=replay, notes=notes, shows_all=shows_all
        )


def _check_faithful(replay: Replay, diff: Diff) -> None:
    """Raise if the rebuilt database is what made the difference."""
    seq = find_unfaithful(replay, diff)
    if seq is None:
        return
    raise UndecidedError(
        f"{replay.original.name} can't be compared with its replay: the rebuilt database answers call {seq} otherwise "
        "than it was answered then, and differences may come from that",
        remedy=f"flux replay {replay.original.name} --on {replay.on} shows both answers",
    )


def _list_doubts(diff: Diff) -> tuple[str, ...]:
    """Return what the diff rests on and the reader should know, a sentence each."""
    doubts = []
    a, b = diff.a.execution, diff.b.execution
    for name, side in (("A", a), ("B", b)):
        if side.completeness:
            doubts.append(f"the record of {name} is not whole: {'; '.join(side.completeness)}")
    if a.function != b.function:
        doubts.append("they are executions of two functions")
    if diff.state is None:
        doubts.append("which rows a replay changed is not on record: its statements are compared instead")
    if diff.cut:
        doubts.append("a pair differs in so many values that only the first were looked at")
    return tuple(doubts)
