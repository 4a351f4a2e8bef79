"""How two executions side by side look in JSON. See `flux.supervisor.present`, whose rules hold here too.

Where one side has no value, the document has no key for it: ``null`` is a value.
"""

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, TypeVar

import msgspec

from flux.execution import LogLine
from flux.supervisor.present import Document, call_json, mutation_json, show_json, show_position
from flux.trace_code import Ran
from flux.trace_diff import Diff, First, Found, Masked, Pair, Part, Verdict
from flux.trace_values import ABSENT, Difference

DEPTH_MAX = 100
"""A value that is nested deeper is cut there."""
CUT = "(nested too deep to be shown)"

T = TypeVar("T")


def diff_json(
    diff: Diff,
    verdict: Verdict,
    a: Document,
    b: Document,
    *,
    replay: Document | None,
    notes: Sequence[str],
    shows_all: bool,
) -> Document:
    """Return a diff; ``a`` and ``b`` are the summaries of its two sides, ``replay`` says how B came about."""
    one, other = diff.a.execution, diff.b.execution
    parts = _show_parts(diff)
    return {
        "schema": "flux.trace-diff/1",
        "verdict": verdict.value,
        "reason": diff.reason,
        "a": a,
        "b": b,
        "same_code": one.deployment == other.deployment,
        "replay": replay,
        "first_difference": None if diff.first is None else _first_json(diff.first, parts),
        "input": parts[Part.INPUT],
        "calls": parts[Part.CALL],
        "outcome": None if diff.outcome is None else parts[Part.OUTCOME],
        "state": None if diff.state is None else parts[Part.STATE],
        "logs": parts[Part.LOG],
        "only_a": [_ran_json(ran) for ran in diff.only_a],
        "only_b": [_ran_json(ran) for ran in diff.only_b],
        "left_out": diff.left_out,
        "left_out_values": [_masked_json(masked) for masked in diff.masked] if shows_all else None,
        "notes": list(notes),
    }


def first_json(diff: Diff) -> Document | None:
    """Return where two executions part, with both sides, as a whole diff has it; None where they do not."""
    return None if diff.first is None else _first_json(diff.first, _show_parts(diff))


def _show_parts(diff: Diff) -> dict[Part, list[Document]]:
    """All that differs and what stands beside it, by part; what is not known of a replay is empty."""
    one, other = diff.a.execution, diff.b.execution
    calls = _pairs(diff.calls, lambda call: call_json(call, one), lambda call: call_json(call, other))
    for pair, shown in zip(diff.calls, calls, strict=True):
        shown["grade"] = None if pair.grade is None else pair.grade.value
    numbers = {id(log): number for side in (one, other) for number, log in enumerate(side.logs, 1)}
    return {
        Part.INPUT: [_found_json(found) for found in diff.input],
        Part.CALL: calls,
        Part.OUTCOME: [_found_json(found) for found in diff.outcome or ()],
        Part.STATE: _pairs(diff.state or (), mutation_json, mutation_json),
        Part.LOG: _pairs(diff.logs, lambda log: _log_json(log, numbers), lambda log: _log_json(log, numbers)),
    }


def _first_json(first: First, parts: dict[Part, list[Document]]) -> Document:
    """The pair itself; of an outcome or an input, all its differences."""
    found = parts[first.part]
    if first.part in (Part.OUTCOME, Part.INPUT):
        return {"part": first.part.value, "index": first.index, "a": None, "b": None, "differences": found}
    return {"part": first.part.value, "index": first.index, **found[first.index]}


def _pairs(
    pairs: Sequence[Pair[T]], show_a: Callable[[T], Document], show_b: Callable[[T], Document]
) -> list[Document]:
    return [
        {
            "mark": pair.mark.value,
            "a": None if pair.a is None else show_a(pair.a),
            "b": None if pair.b is None else show_b(pair.b),
            "differences": [_found_json(found) for found in pair.differences],
        }
        for pair in pairs
    ]


def _found_json(found: Found) -> Document:
    return {**_difference_json(found.difference), "follows": found.follows}


def _masked_json(masked: Masked) -> Document:
    return {
        "in": masked.scope,
        "kind": masked.noise.value,
        **_difference_json(masked.difference),
    }


def _difference_json(difference: Difference) -> Document:
    shown: Document = {"where": difference.where, "name": difference.name or None}
    for side, value in (("a", difference.a), ("b", difference.b)):
        if value is not ABSENT:
            shown[side] = show_value(value)
    return shown


def show_value(value: object, depth: int = 0) -> Any:
    """Return a value that `flux.trace_values` read, with all its digits."""
    match value:
        case dict() | list() if depth >= DEPTH_MAX:
            return CUT
        case dict():
            return {key: show_value(item, depth + 1) for key, item in value.items()}
        case list():
            return [show_value(item, depth + 1) for item in value]
        case bool():
            return value
        case int() | Decimal():
            return msgspec.Raw(str(value).encode())
    return value


def _log_json(log: LogLine, numbers: Mapping[int, int]) -> Document:
    return {
        "line": numbers[id(log)],
        "level": log.level,
        "message": log.message,
        "fields": show_json(log.fields),
        "location": show_position(log.position),
    }


def _ran_json(ran: Ran) -> Document:
    return {"file": ran.file, "function": ran.function, "lines": list(ran.lines), "whole": ran.is_whole}
