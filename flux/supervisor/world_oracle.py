"""What the record says of how a statement came out.

A world can't always know what a statement saw, or which row it had to wait for; its recorded answer, and the rows that
it changed, tell. `agrees` says whether one way of running it is the recorded one.
"""

import attrs

from flux import values
from flux.hostcall import HostCall
from flux.hostcalls.base import HostCallFailed, QueryResult

SERIALIZATION_FAILURE = "40001"
"""SQLSTATE of a statement that can't have what others have changed since its transaction began."""


def agrees(call: HostCall, outcome: QueryResult | HostCallFailed) -> bool:
    """Whether a statement came out as recorded."""
    recorded = call.result
    if recorded is None:
        return True
    if recorded.error is not None or isinstance(outcome, HostCallFailed):
        return (
            recorded.error is not None
            and isinstance(outcome, HostCallFailed)
            and (recorded.error.name, recorded.error.code) == (outcome.error.name, outcome.error.code)
        )
    answer = _read_answer(call)
    if answer is None or answer.get("tag") != outcome.tag:
        return False
    return "rows" not in answer or values.encode(answer["rows"]) == values.encode(outcome.rows)


def in_recorded_order(call: HostCall, answer: QueryResult) -> QueryResult:
    """Return ``answer`` with its rows in the recorded order, where they are the same rows.

    Without ORDER BY, or where that says nothing of two rows, any order is as good as another, and code that relies on
    one sees the one of then.
    """
    if len(answer.rows) < 2:
        return answer
    recorded = _read_answer(call)
    rows = None if recorded is None else recorded.get("rows")
    if not isinstance(rows, list) or len(rows) != len(answer.rows):
        return answer
    if sorted(map(values.encode, rows)) != sorted(map(values.encode, answer.rows)):
        return answer
    return attrs.evolve(answer, rows=rows)


def find_refusal(call: HostCall, sql: str, arguments: list[object]) -> str | None:
    """Return with which message this very statement failed because of what others had changed; None: it had not."""
    recorded = call.result.error if call.result is not None else None
    if recorded is None or recorded.code != SERIALIZATION_FAILURE:
        return None
    return recorded.message if call.request.arguments == values.encode([sql, arguments]) else None


def _read_answer(call: HostCall) -> dict[str, object] | None:
    if call.result is None or call.result.error is not None:
        return None
    try:
        answer = values.decode(call.result.value)
    except values.ValueFormatError:
        return None  # Redacted or cut: it tells nothing.
    return answer if isinstance(answer, dict) else None
