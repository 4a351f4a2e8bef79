"""Code that only one of two executions is known to have run.

A record does not say which lines ran. It says where each host call and each log line stands
in the code, and the stack of what was raised. So what is listed here was seen to run on one
side and not seen on the other, which is less than that it did not run there; whoever shows it
says so.

Functions are compared by file and name. Lines within a function are compared only where both
ran the same code: an edit moves every line behind it.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import attrs

from flux.execution import Execution, Raised
from flux.hostcall import HostCall, Position


@attrs.frozen
class Ran:
    """Lines of one function that only one side is known to have run."""

    file: str
    function: str
    lines: tuple[int, ...]
    """In order; by that side's code."""
    is_whole: bool
    """The other side is not known to have run any line of the function."""


_Functions = defaultdict[tuple[str, str], set[int]]


def list_code(
    a: Execution, b: Execution, calls: Sequence[tuple[HostCall | None, HostCall | None]]
) -> tuple[tuple[Ran, ...], tuple[Ran, ...]]:
    """Return what only ``a`` ran, and what only ``b`` did; ``calls`` are pairs of counterparts."""
    seen_a, seen_b = _collect(_list_positions(a)), _collect(_list_positions(b))
    if a.deployment == b.deployment:
        return _subtract(seen_a, seen_b), _subtract(seen_b, seen_a)
    # Of other code, lines count that are known to have no counterpart: those of a call that only one side made.
    single_a = _collect(_place(call) for call, other in calls if other is None)
    single_b = _collect(_place(call) for other, call in calls if other is None)
    return _leave(seen_a, seen_b, single_a), _leave(seen_b, seen_a, single_b)


def _list_positions(execution: Execution) -> Iterator[Position | None]:
    for call in execution.calls:
        yield call.request.position
    for log in execution.logs:
        yield log.position
    if isinstance(execution.outcome, Raised):
        for frame in execution.outcome.frames:
            if frame.user:
                yield Position(frame.file, frame.line, frame.function)


def _place(call: HostCall | None) -> Position | None:
    return None if call is None else call.request.position


def _collect(positions: Iterator[Position | None]) -> _Functions:
    found: _Functions = defaultdict(set)
    for position in positions:
        if position is not None:
            found[position.file, position.function].add(position.line)
    return found


def _subtract(seen: _Functions, other: _Functions) -> tuple[Ran, ...]:
    return _make(
        (where, lines - other.get(where, set()), where not in other) for where, lines in seen.items()
    )


def _leave(seen: _Functions, other: _Functions, single: _Functions) -> tuple[Ran, ...]:
    return _make(
        (where, lines if where not in other else single.get(where, set()), where not in other)
        for where, lines in seen.items()
    )


def _make(found: Iterator[tuple[tuple[str, str], set[int], bool]]) -> tuple[Ran, ...]:
    return tuple(
        Ran(file, function, tuple(sorted(lines)), is_whole)
        for (file, function), lines, is_whole in sorted(found, key=lambda one: one[0])
        if lines
    )
