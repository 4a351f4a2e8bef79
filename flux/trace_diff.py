"""Two executions side by side: what differs, where it begins, and what that amounts to.

`compare` puts the calls of A and B beside each other by what they ask (`flux.matching`),
then their log lines, the rows they changed and how they ended, and looks into each pair leaf by leaf
(`flux.trace_values`). What says nothing about the code is left out and counted
(`flux.trace_noise`). B is another execution, or A itself on other code.

Three things are kept apart that a plain list of differences mixes up:

- *noise* is no difference;
- a difference that *follows* from another request, or from another answer that was heard before, is one, and
  not where to look first (``≈``);
- what was *not seen* is no difference: a replay that was stopped shows neither what it would have asked next
  nor how it would have ended, and no replay's row changes are on record. A verdict never rests on these. When
  nothing that was seen differs, and something was not seen, there is no verdict.

Everything is alike in both directions: exchanged, A and B have the same differences, and FIXED
becomes REGRESSED.
"""

import enum
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import Generic, TypeVar

import attrs

from flux.execution import Execution, Interrupted, LogLine
from flux.failure import find_failure, normalise_message
from flux.hostcall import HostCall
from flux.matching import Aligned, Grade, Key, align_keys, is_stream, make_key
from flux.mutation import Mutation
from flux.trace_code import Ran, list_code
from flux.trace_ends import compare_outcomes, compare_triggers
from flux.trace_noise import Noise, NoiseFilter, Place, Value, is_transport
from flux.trace_order import CallOrder, add_tasks
from flux.trace_values import (
    ABSENT,
    TEXT_CHARACTERS_MAX,
    Difference,
    compare_answers,
    compare_questions,
    find_differences,
    read,
    read_row,
)

DIFFERENCES_MAX = 500
"""Of one pair; a body of megabytes may differ in each of its numbers."""
MASKED_MAX = 2000
"""Of one pair, listed and counted."""
HEARD_MAX = 200
"""So many texts are looked for inside of others."""
FOLLOWS_CHARACTERS_MIN = 3
"""A shorter text occurs in others by chance."""


class Verdict(enum.StrEnum):
    """What the differences amount to."""

    IDENTICAL = "IDENTICAL"
    """Nothing but noise differs."""
    FIXED = "FIXED"
    """A fails and B does not."""
    REGRESSED = "REGRESSED"
    """B fails and A does not."""
    BEHAVIOUR_CHANGED = "BEHAVIOUR CHANGED"
    """Both fail, or neither does, and something differs."""


class Mark(enum.StrEnum):
    """How the two sides of a pair compare."""

    SAME = "="
    FOLLOWS = "≈"
    """They differ as the requests differ, or as an answer did that was heard before."""
    CHANGED = "≠"
    REORDERED = "↕"
    """The same, in another order, and nothing says that the order was open."""
    ONLY_A = "−"
    ONLY_B = "+"
    NOT_SEEN = "?"
    """Only one side has it, or was answered, and the other one was stopped before."""


class Part(enum.StrEnum):
    """Where the first difference is."""

    CALL = "call"
    OUTCOME = "outcome"
    STATE = "state"
    LOG = "log"
    INPUT = "input"


@attrs.frozen
class Side:
    """One of the two."""

    execution: Execution
    stopped: str | None = None
    """Why it did not come to an end of its own; None if it did. Its outcome then means nothing."""
    lacks_rows: bool = False
    """The rows that it changed are not on record."""

    @classmethod
    def of(cls, execution: Execution) -> "Side":
        """An execution from the store."""
        outcome = execution.outcome
        stopped = outcome.reason if isinstance(outcome, Interrupted) else None
        return cls(execution, stopped, execution.trigger.kind == "replay" and lacks_rows(execution))


def lacks_rows(replay: Execution) -> bool:
    """Whether it is not known which rows a replay changed: there was no world, and statements were answered."""
    return not replay.transactions and any(call.request.name.startswith("db.") for call in replay.calls)


@attrs.frozen
class Found:
    """A difference, and whether it is one that another one brought."""

    difference: Difference
    follows: bool = False


@attrs.frozen
class Masked:
    """What was left out."""

    scope: str
    """What it is in: ``call 3``, ``output``."""
    difference: Difference
    values: tuple[Value, ...]
    """What stands for what in it: of a text, its words."""

    @property
    def noise(self) -> Noise:
        """Why it was left out."""
        return self.values[0].noise


T = TypeVar("T")


@attrs.frozen
class Pair(Generic[T]):
    """One thing of each side, or of one."""

    mark: Mark
    a: T | None
    b: T | None
    differences: tuple[Found, ...] = ()
    grade: Grade | None = None
    """How they found each other; for calls."""
    scope: str = ""
    """What this is called when something in it is left out, by A's number; empty for what only B has."""


@attrs.frozen
class First:
    """Where the differences begin."""

    part: Part
    index: int
    """Of the pair, or of the difference, in the diff's list of this part."""


@attrs.frozen
class Diff:
    """See the module."""

    a: Side
    b: Side
    verdict: Verdict | None
    """None: nothing that was seen differs, and not all was seen."""
    reason: str
    """A sentence, with nothing recorded in it but numbers."""
    input: tuple[Found, ...]
    calls: tuple[Pair[HostCall], ...]
    outcome: tuple[Found, ...] | None
    """None: one side did not end."""
    state: tuple[Pair[Mutation], ...] | None
    """None: one side's row changes are not on record."""
    logs: tuple[Pair[LogLine], ...]
    first: First | None
    """The first call that differs; else the outcome, a row, a log line, the input."""
    only_a: tuple[Ran, ...]
    only_b: tuple[Ran, ...]
    masked: tuple[Masked, ...]
    reordered: int
    """Concurrent calls that came in another order."""
    streams: int
    """Reads of clocks and randomness, and waits, on both sides: not compared."""
    cut: bool
    """A pair differs in more than `DIFFERENCES_MAX` leaves, or more than `MASKED_MAX` were left out of it: the rest is
    not in here."""

    @property
    def left_out(self) -> dict[str, int]:
        """How much was left out, by kind; a value that stands in ten places counts once."""
        counts = Counter(value.noise for value in {value for one in self.masked for value in one.values})
        return {noise.value: counts[noise] for noise in Noise} | {
            "order": self.reordered,
            "streams": self.streams,
        }

    @property
    def learned(self) -> frozenset[Place]:
        """The places in which the two differ, noise or not: what a replay on its own code teaches."""
        pairs: Iterable[tuple[str, Sequence[Found]]] = [
            *((pair.scope, pair.differences) for pair in self.calls),
            *((pair.scope, pair.differences) for pair in self.logs),
            (Part.OUTCOME, self.outcome or ()),
        ]
        found = {(scope, one.difference.where) for scope, all_found in pairs for one in all_found}
        return frozenset(found | {(one.scope, one.difference.where) for one in self.masked})


def compare(a: Side, b: Side, learned: AbstractSet[Place] = frozenset()) -> Diff:
    """Return how ``b`` differs from ``a``; ``learned`` are places in which A differs from itself."""
    return _Comparison(a, b, learned).run()


class _Comparison:
    def __init__(self, a: Side, b: Side, learned: AbstractSet[Place]) -> None:
        self._a = a
        self._b = b
        self._noise = NoiseFilter(a.execution, b.execution, learned)
        self._heard = _Heard()
        self._masked: list[Masked] = []
        self._reordered = 0
        self._cut = False

    def run(self) -> Diff:
        # In the order in which things happen: what one thing is called decides what the next may be.
        one, other = self._a.execution, self._b.execution
        input_ = self._sift(compare_triggers(one.trigger, other.trigger), Part.INPUT, hears=True)
        calls = self._compare_calls()
        state = None
        if not (self._a.lacks_rows or self._b.lacks_rows):
            state = self._compare_rows(calls)
        logs = self._compare_logs()
        outcome = None
        if (self._a.stopped is None and self._b.stopped is None) or one == other:
            outcome = self._sift(compare_outcomes(one, other), Part.OUTCOME)
        first = _find_first(input_, calls, outcome, state, logs)
        verdict, reason = self._judge(input_, calls, outcome, state, logs, first)
        only_a, only_b = list_code(
            one, other, [(pair.a, pair.b) for pair in calls if pair.mark is not Mark.NOT_SEEN]
        )
        streams = sum(_is_left_out(call) for side in (one, other) for call in side.calls)
        return Diff(
            self._a, self._b, verdict, reason, input_, calls, outcome, state, logs, first,
            () if self._b.stopped is not None else only_a, () if self._a.stopped is not None else only_b,
            tuple(self._masked), self._reordered, streams, self._cut,
        )  # fmt: skip

    def _sift(
        self, differences: Iterable[Difference], scope: str, *, hears: bool = False
    ) -> tuple[Found, ...]:
        """Return what is no noise. ``hears``: the code was told these values, so what it does next may follow."""
        found: list[Found] = []
        left_out = 0
        for difference in differences:
            values = self._noise.find_noise(difference, scope)
            if is_transport(difference, of_input=scope == Part.INPUT):
                values = (Value(Noise.TRANSPORT, difference.where, ""),)
            if values:
                # All are looked at, for the one behind them that is no noise. Not all need to be kept.
                left_out += 1
                if left_out <= MASKED_MAX:
                    self._masked.append(Masked(scope, difference, values))
                continue
            if len(found) == DIFFERENCES_MAX:
                self._cut = True
                break
            found.append(Found(difference, scope != Part.INPUT and self._heard.explains(difference)))
        self._cut |= left_out > MASKED_MAX
        if hears:
            for each in found:
                self._heard.add(each.difference)
        return tuple(found)

    # --- calls ---------------------------------------------------------------------------------

    def _compare_calls(self) -> tuple[Pair[HostCall], ...]:
        one, other = (
            [call for call in side.execution.calls if not is_stream(call.request.name)]
            for side in (self._a, self._b)
        )
        aligned = align_keys(
            *add_tasks(
                [
                    (make_key(self._noise.hide_own(call.request, is_left=True)), call.request.task)
                    for call in one
                ],
                [
                    (make_key(self._noise.hide_own(call.request, is_left=False)), call.request.task)
                    for call in other
                ],
            )
        )
        in_order = CallOrder(one, other, aligned)
        pairs: list[Pair[HostCall]] = []
        for each in aligned:
            if each.left is None or each.right is None:
                pairs.append(self._make_single(each, one, other))
                continue
            call, counterpart = one[each.left], other[each.right]
            scope = f"call {call.request.seq}"
            found = self._sift(compare_questions(call.request, counterpart.request), scope)
            is_seen = self._is_open(self._a, call) is self._is_open(self._b, counterpart)
            if is_seen:
                found += self._sift(compare_answers(call, counterpart), scope, hears=True)
            mark = _mark(found)
            if mark is Mark.SAME and not is_seen:
                mark = Mark.NOT_SEEN
            if each.grade is Grade.REORDERED:
                if not in_order.is_open(each):
                    mark = Mark.REORDERED if mark is Mark.SAME else mark
                else:
                    self._reordered += 1
            pairs.append(Pair(mark, call, counterpart, found, each.grade, scope))
        return tuple(pairs)

    @staticmethod
    def _is_open(side: Side, call: HostCall) -> bool:
        """Whether a call has no answer because its side was stopped while it waited."""
        return side.stopped is not None and call.result is None

    def _make_single(
        self, each: Aligned, one: Sequence[HostCall], other: Sequence[HostCall]
    ) -> Pair[HostCall]:
        mark = self._mark_single(is_left=each.right is None)
        a = None if each.left is None else one[each.left]
        b = None if each.right is None else other[each.right]
        return Pair(mark, a, b, (), each.grade)

    def _mark_single(self, *, is_left: bool) -> Mark:
        """What only one side has. Where the other one was stopped, it might have come to it."""
        if (self._b if is_left else self._a).stopped is not None:
            return Mark.NOT_SEEN
        return Mark.ONLY_A if is_left else Mark.ONLY_B

    # --- rows and lines ------------------------------------------------------------------------

    def _compare_rows(self, calls: Sequence[Pair[HostCall]]) -> tuple[Pair[Mutation], ...]:
        places: tuple[dict[int, int], dict[int, int]] = ({}, {})
        for place, pair in enumerate(calls):
            if pair.a is not None and pair.b is not None:
                places[0][pair.a.request.seq] = place
                places[1][pair.b.request.seq] = place

        def make_row_key(mutation: Mutation, is_left: bool) -> Key:
            # What counterparts wrote are counterparts; what other calls wrote may be the same all the same.
            place = places[not is_left].get(mutation.call, -1) if mutation.call is not None else -1
            shape = (place, mutation.schema, mutation.table, mutation.op)
            rows = (mutation.key, mutation.before, mutation.after)
            hidden = [
                None if row is None else self._noise.hide_in(read_row(row), is_left=is_left) for row in rows
            ]
            return Key((*shape, *hidden), shape)

        def find(a: Mutation, b: Mutation) -> Iterable[Difference]:
            if self._a.stopped is None and self._b.stopped is None:
                # What was stopped has not come to its commit.
                yield from find_differences(a.committed, b.committed, "committed", fixed=True)
            for field in ("key", "before", "after"):
                left, right = getattr(a, field), getattr(b, field)
                if left != right:
                    yield from find_differences(read_row(left), read_row(right), field)

        return self._pair(
            self._a.execution.mutations, self._b.execution.mutations, make_row_key, find, Part.STATE
        )

    def _compare_logs(self) -> tuple[Pair[LogLine], ...]:
        def make_line_key(log: LogLine, is_left: bool) -> Key:
            function = None if log.position is None else (log.position.file, log.position.function)
            shape = (function, log.level, normalise_message(log.message))
            hidden = self._noise.hide_in([log.message, read(log.fields)], is_left=is_left)
            return Key((function, log.level, hidden), shape)

        def find(a: LogLine, b: LogLine) -> Iterable[Difference]:
            yield from find_differences(a.message, b.message, "message")
            if a.fields != b.fields:
                yield from find_differences(read(a.fields), read(b.fields), "fields")

        return self._pair(self._a.execution.logs, self._b.execution.logs, make_line_key, find, Part.LOG)

    def _pair(
        self,
        one: Sequence[T],
        other: Sequence[T],
        make: Callable[[T, bool], Key],
        find: Callable[[T, T], Iterable[Difference]],
        part: Part,
    ) -> tuple[Pair[T], ...]:
        """Pair what has no order of its own: where tasks run at once, lines and rows come as they come."""
        pairs: list[Pair[T]] = []
        for each in align_keys([make(item, True) for item in one], [make(item, False) for item in other]):
            a = None if each.left is None else one[each.left]
            b = None if each.right is None else other[each.right]
            if a is None or b is None:
                pairs.append(Pair(self._mark_single(is_left=b is None), a, b))
                continue
            scope = f"{part.value} {(each.left or 0) + 1}"
            found = self._sift(find(a, b), scope)
            pairs.append(Pair(_mark(found), a, b, found, None, scope))
        return tuple(pairs)

    # --- the verdict ---------------------------------------------------------------------------

    def _judge(
        self,
        input_: Sequence[Found],
        calls: Sequence[Pair[HostCall]],
        outcome: Sequence[Found] | None,
        state: Sequence[Pair[Mutation]] | None,
        logs: Sequence[Pair[LogLine]],
        first: First | None,
    ) -> tuple[Verdict | None, str]:
        unended = [
            (name, side.stopped)
            for name, side in (("A", self._a), ("B", self._b))
            if side.stopped is not None
        ]
        names = " and ".join(name for name, _ in unended)
        ends = "neither shows how it ends" if len(unended) == 2 else "how it ends is not known"
        if outcome is None:
            if first is None:
                return (
                    None,
                    f"nothing that was seen differs, but {names} did not come to an end: {unended[0][1]}",
                )
            return Verdict.BEHAVIOUR_CHANGED, f"they differ; {names} did not come to an end, so {ends}"
        differing = [
            word
            for word, differs in (
                ("what they were asked", bool(input_)),
                ("what they ask and hear", _differ(calls)),
                ("what they write", _differ(state or ())),
                ("what they log", _differ(logs)),
                ("how they end", bool(outcome)),
            )
            if differs
        ]
        failures = [find_failure(side.execution) for side in (self._a, self._b)]
        signatures = [None if failure is None else failure.signature for failure in failures]
        # Another request that passes mends nothing.
        requests = "; their requests differ" if input_ else ""
        if signatures[0] is not None and signatures[1] is None:
            return Verdict.FIXED, f"A fails, B answers {self._b.execution.status}{requests}"
        if signatures[0] is None and signatures[1] is not None:
            return Verdict.REGRESSED, f"A answers {self._a.execution.status}, B fails{requests}"
        both = "neither fails"
        if signatures[0] is not None:
            both = (
                "both fail, in the same way"
                if signatures[0] == signatures[1]
                else "both fail, not in the same way"
            )
        if not differing:
            return Verdict.IDENTICAL, f"{both}, and nothing that says anything differs"
        if _only_follows(input_, calls, outcome, state, logs):
            return (
                Verdict.BEHAVIOUR_CHANGED,
                f"{both}; the requests differ, and all else that differs follows from that",
            )
        return Verdict.BEHAVIOUR_CHANGED, f"{both}; they differ in {_enumerate(differing)}"


class _Heard:
    """Values that differ because the request or an answer did, and so explain differences behind them."""

    def __init__(self) -> None:
        self._pairs: set[tuple[str, str]] = set()
        self._texts: list[tuple[str, str]] = []
        """Those that may stand inside of longer texts."""

    def add(self, difference: Difference) -> None:
        if difference.a is ABSENT or difference.b is ABSENT:
            return
        pair = (_tell(difference.a), _tell(difference.b))
        if (
            pair not in self._pairs
            and len(self._texts) < HEARD_MAX
            and min(map(len, pair)) >= FOLLOWS_CHARACTERS_MIN
        ):
            self._texts.append(pair)
        self._pairs.add(pair)

    def explains(self, difference: Difference) -> bool:
        a, b = difference.a, difference.b
        if difference.fixed or a is ABSENT or b is ABSENT:
            return False
        if (_tell(a), _tell(b)) in self._pairs:
            return True
        if not isinstance(a, str) or not isinstance(b, str) or len(a) > TEXT_CHARACTERS_MAX:
            return False
        return any(one in a and a.replace(one, other) == b for one, other in self._texts)


# --- small things ----------------------------------------------------------------------------------


def _mark(found: Sequence[Found]) -> Mark:
    if not found:
        return Mark.SAME
    return Mark.FOLLOWS if all(each.follows for each in found) else Mark.CHANGED


def _is_left_out(call: HostCall) -> bool:
    return is_stream(call.request.name) and not call.request.name.startswith("log.")


def _tell(value: object) -> str:
    return value if isinstance(value, str) else repr(value)


_ALIKE = (Mark.SAME, Mark.NOT_SEEN)


def _differ(pairs: Sequence[Pair[T]]) -> bool:
    return any(pair.mark not in _ALIKE for pair in pairs)


def _find_first(
    input_: Sequence[Found],
    calls: Sequence[Pair[HostCall]],
    outcome: Sequence[Found] | None,
    state: Sequence[Pair[Mutation]] | None,
    logs: Sequence[Pair[LogLine]],
) -> First | None:
    """What nothing before it explains comes first; among that, calls do."""
    marks: Sequence[tuple[Part, Sequence[Mark]]] = (
        (Part.CALL, [pair.mark for pair in calls]),
        (Part.OUTCOME, [_mark([one]) for one in outcome or ()]),
        (Part.STATE, [pair.mark for pair in state or ()]),
        (Part.LOG, [pair.mark for pair in logs]),
        (Part.INPUT, [Mark.CHANGED for _ in input_]),
    )
    for passed in ((*_ALIKE, Mark.FOLLOWS), _ALIKE):
        for part, found in marks:
            if passed is not _ALIKE and part is Part.INPUT:
                continue
            for index, mark in enumerate(found):
                if mark not in passed:
                    return First(part, index)
    return None


def _only_follows(
    input_: Sequence[Found],
    calls: Sequence[Pair[HostCall]],
    outcome: Sequence[Found],
    state: Sequence[Pair[Mutation]] | None,
    logs: Sequence[Pair[LogLine]],
) -> bool:
    marks = [pair.mark for pairs in (calls, state or (), logs) for pair in pairs]
    return bool(input_) and all(mark in (*_ALIKE, Mark.FOLLOWS) for mark in [*marks, _mark(outcome)])


def _enumerate(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
