"""Documents of the console's pages about incidents and bisects, as the API answers them."""

from typing import Any

INCIDENT_PATHS = {"incidents": "i", "incident": "i/outage"}

RUN = {
    "schema": "flux.incident-run/1", "window": "2025-11-25T14:00:00.000000Z..2025-11-25T14:05:00.000000Z", "on": ".",
    "total": 23, "not_stored": 1, "replayed": 23, "left_ms": None, "verdicts": {"past it": 21, "same failure": 2},
    "groups": [
        {
            "failure": "KeyError: 'plan'  functions/signup.py:16", "count": 23,
            "verdicts": [
                {"verdict": "past it", "count": 21,
                 "reasons": [{"reason": "it got past the line", "count": 21, "names": ["qk3f81xa"] * 21}]},
                {"verdict": "same failure", "count": 2,
                 "reasons": [{"reason": "as recorded", "count": 2, "names": ["qk7f81xb", "qk7f81xc"]}]},
            ],
        }
    ],
    "notes": [{"note": "a row was not as it was", "count": 3}], "codes": 2,
    "held": [{"function": "email", "grade": "as recorded", "count": 4}], "effects_left": 0,
    "state": "done", "began_at": "2025-11-25T14:01:00.000000Z", "ended_at": "2025-11-25T14:02:00.000000Z",
    "problem": None,
}  # fmt: skip
NO_RUN = {"schema": "flux.incident-run/1", "window": RUN["window"], "state": "none"}
WINDOW = {
    "name": "outage", "since": "2025-11-25T14:00:00.000000Z", "until": "2025-11-25T14:05:00.000000Z",
    "executions": 40, "failed": 23,
}  # fmt: skip


def incident_documents(summaries: list[Any], group: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Documents for each of the pages, of executions that failed."""
    return {
        "incidents": {
            "incidents": {"incidents": [{**WINDOW, "pinned_at": "2025-11-25T14:06:00.000000Z"}]},
            "errors": {"groups": [group], "not_stored": 0},
        },
        "incident": {"incident": WINDOW, "executions": {"executions": summaries, "not_stored": 1}, "run": RUN},
    }
