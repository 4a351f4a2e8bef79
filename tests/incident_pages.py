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


BISECT_PATHS = {"bisects": "b", "bisect": "b/qk3f81xa"}


def make_step(sha: str, mark: str, verdict: str, purpose: str = "search", run: int = 1) -> dict[str, Any]:
    """A run of a commit."""
    return {
        "sha": sha * 40, "verdict": verdict, "mark": mark, "elapsed_ms": 810.0, "reason": "not built",
        "subject": "rename helper", "execution": "qk3f81xa", "replay": f"qm{sha}f81xa", "cached": False,
        "purpose": purpose, "run": run, "wanted": run,
    }  # fmt: skip


STEPS = [
    make_step("c", "bad", "same failure", "bad end"), make_step("a", "good", "past it", "good end"),
    make_step("b", "bad", "same failure"), make_step("d", "skip", "unreplayable"),
    make_step("a", "good", "past it", "proof", 2),
]  # fmt: skip
PLAN = {
    "bad": {"sha": "c" * 40, "source": "record", "dirty": True, "recorded": True},
    "goods": [{"sha": "a" * 40, "source": "records", "execution": "qk1f81xa"}],
}  # fmt: skip
FINDING = {
    "commit": "b" * 40, "author": "Ana Ruiz", "date": "2025-11-22T14:00:00.000000Z", "subject": "add plan to signup",
    "files": [{"path": "functions/signup.py", "added": 31, "removed": 12}], "changed_path": True,
    "hunks": [{"file": "functions/signup.py", "line": 16, "lines": ["-a = 1", "+a = plan[1]"]}],
    "hunks_were_run": True, "hunks_left_out": 1,
}  # fmt: skip
CALL = {"seq": 2, "kind": "db.query", "arguments": {"sql": "select 1 from users"}, "location": None}
ANSWER = {
    "schema": "flux.bisect/1", "first_bad": "b" * 40, "candidates": ["b" * 40], "refused": None, "reason": None,
    "steps": [], "skipped": 1, "runs": 5, "cached": 2, "finding": FINDING, "log": None, "left_out": [],
    "proof": [{"sha": "a" * 40, "role": "parent"}, {"sha": "b" * 40, "role": "commit"}],
    "first_difference": {"part": "call", "index": 0, "a": CALL, "b": None},
    "said": {"ends": ["good aaaaaaa ✓ past it ×2"], "proofs": ["bbbbbbb ✗ same failure ×2"], "more": ""},
}  # fmt: skip


def bisect_documents(summaries: list[Any]) -> dict[str, dict[str, Any]]:
    """Documents for each of the pages about bisects, of executions that failed."""
    run = {
        "schema": "flux.bisect-run/1", "execution": summaries[0], "plan": PLAN, "commits": 4, "steps": STEPS,
        "answer": ANSWER, "state": "done", "problem": None,
    }  # fmt: skip
    return {
        "bisects": {"bisects": {"runs": [run]}, "executions": {"executions": summaries}},
        "bisect": {"run": run},
    }
