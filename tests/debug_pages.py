"""Documents of the console's page about one event of an execution, as the API answers them."""

from typing import Any

DEBUG_PATHS = {"debug": "x/qk3f81xa", "debug of nobody": "x/qk3f81xa"}

PLACE = {"file": "functions/signup.py", "line": 12, "function": "price"}
EVENT = {**PLACE, "event": 118, "kind": "line", "frame": 2, "caller": 1, "call": 2, "heard": 2, "detail": None,
         "source": "cents = line['cents']"}  # fmt: skip
FRAME = {
    **PLACE, "event": 118, "kind": "line", "source": "cents = line['cents']",
    "locals": {
        "line": {"cents": 5, "note": "x"}, "order": {"$type": "Order", "fields": {"total": 12}},
        "big": {"$type": "list", "items": [1, 2], "length": 1000},
    },
    "stack": [PLACE, {"file": "functions/signup.py", "line": 30, "function": "create_user"}],
    "values": [{"expression": "len(line)", "value": 2}],
}  # fmt: skip
CALL = {
    "seq": 2, "task": 0, "kind": "db.query", "arguments": {"sql": "select 1 from users", "args": []},
    "result": {"rows": [{"n": 1}]}, "error": None, "answered": 2, "started_ms": 2.0, "elapsed_ms": 1.0,
    "location": PLACE, "whole": True, "heard": True,
}  # fmt: skip
ROW = {
    "schema_name": "public", "table": "users", "key": {"id": 42}, "row": {"plan": "free"}, "exists": True,
    "whole": True, "since": 2, "until": None, "committed": False,
}  # fmt: skip
STAND = {"at": 118, "up": 0, "expression": "len(line)", "watch": "total"}


def debug_documents(summaries: list[Any]) -> dict[str, dict[str, Any]]:
    """Documents for the page, of an event that was looked at and of one that was not."""
    execution = summaries[0]
    seen = {
        "schema": "flux.debug-session/1", "state": "open", "execution": execution, "session": 3,
        "opened_at": "2025-11-25T14:00:00.000000Z", "idle_s": 600.0, "granularity": "line", "verdict": "same failure",
        "reason": "as recorded", "divergence": None, "notes": ["a note"], "total": 240, **STAND, "said": "",
        "ended": True,
        "event": EVENT, "frame": FRAME,
        "events": [EVENT | {"event": 117, "kind": "call"}, EVENT, EVENT | {"event": 119, "kind": "exception",
                                                                           "detail": "ValueError: -1"}],
        "source": {"file": "functions/signup.py", "line": 12, "first": 11, "lines": ["def f(line):", "\tcents = 5"]},
        "history": {
            "watch": "total", "values_left_out": 4,
            "values": [{**PLACE, "event": 100, "value": 0}, {**PLACE, "event": 110, "value": "x" * 500},
                       {**PLACE, "event": 130, "value": {"$type": "unseen", "text": "no total yet"}}],
        },
        "calls": [CALL, CALL | {"seq": 3, "arguments": None, "result": None, "whole": False},
                  CALL | {"seq": 4, "error": {"type": "Timeout", "message": "no answer"}},
                  CALL | {"seq": 1, "heard": False}],
        "calls_before": 1, "calls_after": 7,
        "rows": [ROW, ROW | {"key": {"id": 7}, "row": None, "exists": False},
                 ROW | {"key": {"id": 8}, "row": None, "exists": False, "since": None, "until": 3},
                 ROW | {"key": {"id": 5}, "row": None, "exists": None, "since": None, "until": 1},
                 ROW | {"key": {"id": 9}, "row": None, "whole": False, "committed": True}],
        "row_count": 60, "rows_unplaced": 1, "between": {"from_ms": 2.0, "to_ms": 5.5},
    }  # fmt: skip
    none = {"schema": "flux.debug-session/1", "state": "none", "execution": execution, **STAND}
    return {"debug": {"debug": seen}, "debug of nobody": {"debug": none}}
