"""What the record adds to an event that is looked at: host calls by then, rows as they were, when it was.

Events have no time of their own, as the run that shows them is another one. But each knows the last host call that had
been made by then, and how many answers had come. The record says when that call was made, and the next, in which order
calls were answered, and which call changed which row. A call that was made and not answered is just that: neither its
answer nor what it did to a row is of the past yet.

A view is one of many that are kept, and a call's result may be as large as a body: what is long is left out here, with
a mark, and stands whole in the execution's own document.
"""

from collections.abc import Set as AbstractSet

from flux.execution import Execution
from flux.hostcall import HostCall
from flux.mutation import Mutation, Operation
from flux.supervisor.present import Document, call_json, mutation_json

CALLS_AROUND = 10
"""Calls before and after the last one that are told."""
CALL_BYTES_MAX = 20_000
"""Of what was asked and answered; of a longer call neither is told."""
ROWS_MAX = 50
ROW_BYTES_MAX = 20_000


def list_calls(execution: Execution, asked: int, heard: int) -> Document:
    """Return the calls around ``asked``, the last one that had been made, when ``heard`` had been answered."""
    calls = sorted(execution.calls, key=lambda call: call.request.seq)
    made = sum(call.request.seq <= asked for call in calls)
    first = max(0, made - CALLS_AROUND)
    shown = calls[first : made + CALLS_AROUND]
    return {
        "calls": [_show_call(call, execution) | {"heard": _is_heard(call, asked, heard)} for call in shown],
        "calls_before": first,
        "calls_after": max(0, len(calls) - first - len(shown)),
    }


def _is_heard(call: HostCall, asked: int, heard: int) -> bool:
    return call.request.seq <= asked and call.answered is not None and call.answered <= heard


def _show_call(call: HostCall, execution: Execution) -> Document:
    answer = 0 if call.result is None else len(call.result.value)
    is_whole = len(call.request.arguments) + answer <= CALL_BYTES_MAX
    told = call_json(call, execution)
    return told | {"whole": True} if is_whole else told | {"arguments": None, "result": None, "whole": False}


def tell_time(execution: Execution, asked: int) -> Document:
    """Return between which two moments an event was, behind which call ``asked`` had been made."""
    began = max((call.started_ns for call in execution.calls if call.request.seq <= asked), default=0)
    later = (call.started_ns for call in execution.calls if call.request.seq > asked)
    ended = min(later, default=execution.elapsed_ns)
    return {"from_ms": began / 1e6, "to_ms": max(began, ended) / 1e6}


def list_rows(execution: Execution, asked: int, heard: int) -> Document:
    """Return each row that the execution changed as it was when ``asked`` calls had been made and ``heard`` answered.

    Of a row that a call changes which was on its way then, nobody knows whether it was changed already. Those that were
    changed last come first, then those that are still to be changed, as their first change is to find them.
    """
    rows: dict[tuple[str, str, str], Mutation] = {}
    unplaced = 0
    made = {call.request.seq for call in execution.calls if _is_heard(call, asked, heard)}
    for change in execution.mutations:
        if change.key is None or change.call is None or change.op is Operation.TRUNCATE:
            unplaced += 1
            continue
        row = (change.schema, change.table, change.key)
        if row not in rows or change.call <= asked:
            rows[row] = change
    ordered = sorted(rows.values(), key=lambda change: _distance(change, asked))
    return {
        "rows": [_show_row(change, asked, made) for change in ordered[:ROWS_MAX]],
        "row_count": len(rows),
        "rows_unplaced": unplaced,
    }


def _distance(change: Mutation, asked: int) -> tuple[bool, int]:
    assert change.call is not None
    return change.call > asked, abs(change.call - asked)


def _show_row(change: Mutation, asked: int, made: AbstractSet[int]) -> Document:
    assert change.call is not None
    is_made, is_pending = change.call in made, change.call <= asked and change.call not in made
    image = change.after if is_made else change.before
    is_whole = image is None or len(image) <= ROW_BYTES_MAX
    told = mutation_json(change)
    return {
        "schema_name": change.schema,
        "table": change.table,
        "key": told["key"],
        "row": told["after" if is_made else "before"] if is_whole and not is_pending else None,
        "exists": None if is_pending else image is not None,
        "whole": is_whole or is_pending,
        "since": change.call if is_made else None,
        "until": None if is_made else change.call,
        "committed": change.committed,
    }
