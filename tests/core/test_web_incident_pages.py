"""The console's pages about windows of time and bisects: what they say of documents."""

from datetime import UTC, datetime
from typing import Any

import pytest

from flux.sanitize import sanitize
from flux.supervisor.present import encode, summary_of_execution
from flux.supervisor.web import pages, values
from flux.supervisor.web.page import Asked
from tests.console_world import make_execution, raised
from tests.hostile_pages import HOSTILE, check_page, poison
from tests.incident_pages import (
    ANSWER,
    BISECT_PATHS,
    INCIDENT_PATHS,
    NO_RUN,
    PLAN,
    RUN,
    STEPS,
    WINDOW,
    bisect_documents,
    incident_documents,
)

PATHS = INCIDENT_PATHS | BISECT_PATHS
NOW = datetime(2025, 11, 25, 14, 6, tzinfo=UTC)
GROUP = {
    "count": 23, "first": "2025-11-25T14:00:01.250000Z", "last": "2025-11-25T14:04:59.900000Z",
    "error": {"type": "KeyError", "message": "'plan'", "location": {"file": "functions/signup.py", "line": 16}},
}  # fmt: skip


def documents(name: str) -> dict[str, Any]:
    failed = [summary_of_execution(make_execution(raised(), at_s=second)) for second in (2, 1)]
    made = incident_documents(failed, GROUP) | bisect_documents(failed)
    given: dict[str, Any] = values.read(encode(made[name]))
    return given


def show(name: str, given: dict[str, Any]) -> str:
    page = check_page(pages.render_page(name, given, Asked(PATHS[name], {}, NOW)))
    return " ".join(page.text.split())


def links(name: str, given: dict[str, Any]) -> list[str]:
    return check_page(pages.render_page(name, given, Asked(PATHS[name], {}, NOW))).list_values("href")


def test_incidents_are_named_windows_and_bursts_of_failures() -> None:
    given = documents("incidents")
    text = show("incidents", given)
    assert "outage" in text and "23 of 40 executions failed" in text and "KeyError: 'plan'" in text
    # To whole seconds, with the last failure in it.
    assert "/_flux/i/2025-11-25T14:00:01Z..2025-11-25T14:05:00Z" in links("incidents", given)
    assert "/_flux/i/outage" in links("incidents", given)
    empty = show("incidents", {"incidents": {"incidents": []}, "errors": {"groups": [], "not_stored": 0}})
    assert "flux incident pin NAME 14:00..14:05" in empty and "Nothing failed in the last day" in empty


def test_an_incident_says_what_failed_what_they_share_and_what_became_of_them() -> None:
    text = show("incident", documents("incident"))
    for said in (
        "40 executions began in this window, 23 of them answered 500 or more", "23 of 23 replayed",
        "✓ 21 past it", "✗ 2 same failure", "21 end well and 2 do not, or could not be decided",
        "it got past the line qk3f81xa", "and 16 more", "a row was not as it was (3 of 23)",
        "they ran on 2 versions of it", "Held: queue.push email (as recorded) ×4", "0 effects left the sandbox",
        "function create_user: all 2", "$ flux incident replay outage --on .",
    ):  # fmt: skip
        assert said in text, (said, text)
    unnamed = documents("incident") | {"incident": WINDOW | {"name": None}}
    assert "$ flux incident replay 2025-11-25T14:00:00Z..2025-11-25T14:05:00Z --on ." in show("incident", unnamed)


def test_a_window_without_a_failure_says_so_and_has_nothing_to_replay() -> None:
    quiet = {"incident": WINDOW | {"failed": 0}, "executions": {"executions": [], "not_stored": 0}, "run": NO_RUN}
    text = show("incident", quiet)
    assert "Nothing failed in this window" in text and "Would they fail now?" not in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"state": "running", "replayed": 7, "left_ms": 4000.0}, "7 of 23 replayed, about 4.00 s left"),
        ({"state": "running", "replayed": 0}, "0 of 23 replayed"),
        ({"state": "cancelled", "replayed": 7}, "7 of 23 replayed, then it was cancelled"),
        ({"state": "failed", "problem": {"code": "FLX721", "detail": "no answer", "remedy": "wait", "exit": 5}},
         "FLX721 · no answer · wait"),
    ],
)  # fmt: skip
def test_a_run_says_how_far_it_is_on_its_page_and_to_the_page_s_script(changes: dict[str, Any], said: str) -> None:
    run = RUN | changes
    assert said in show("incident", documents("incident") | {"run": run})
    told = values.read(pages.render_progress("incident", {"run": run}))
    assert said in (told["problem"] or told["said"]) and told["of"] == 23


def test_what_a_script_is_told_has_nothing_invisible() -> None:
    hostile = poison(RUN, HOSTILE["bidi"]) | {"state": "running", "left_ms": None}
    told = pages.render_progress("incident", {"run": hostile}).decode()
    assert values.read(told.encode())["rows"]
    assert sanitize(told) == told


# --- bisects ---------------------------------------------------------------------------------------


def test_a_bisect_says_where_it_began_each_run_and_the_commit_with_its_proof() -> None:
    given = documents("bisect")
    text = show("bisect", given)
    for said in (
        "bad cccccccccccc the commit that was recorded",
        "good aaaaaaaaaaaa the last commit on which it passed qk1f81xa",
        "on files that were not committed", "5 runs · 4 commits between, about 2 to ask, 2 asked",
        "bad ccccccc rename helper · ✗ same failure · 810 ms", "1 bbbbbbb rename helper · ✗ same failure",
        "2 ddddddd rename helper · ? unreplayable · 810 ms · skipped: not built",
        "sure? aaaaaaa rename helper · ✓ past it ×2", "First bad commit bbbbbbbbbbbb", "add plan to signup", "Ana Ruiz",
        "functions/signup.py +31 −12", "functions/signup.py:16", "+a = plan[1]", "1 more places",
        "parent: call 2 db SELECT users", "commit: nothing", "good aaaaaaa ✓ past it ×2", "bbbbbbb ✗ same failure ×2",
        "5 runs, 2 of them known from before, 1 skipped", f"$ flux bug bisect {given['run']['execution']['name']}",
    ):  # fmt: skip
        assert said in text, (said, text)
    assert "/_flux/d/qmaf81xa..qmbf81xa" in links("bisect", given)
    listed = show("bisects", documents("bisects"))
    assert "first bad commit bbbbbbbbbbbb" in listed


def change_run(**changes: Any) -> dict[str, Any]:
    run = documents("bisect")["run"]
    return {"run": {**run, **changes}}


def test_a_bisect_that_names_no_commit_says_a_range_or_why_there_is_nothing() -> None:
    candidates = ["d" * 40, "e" * 40]
    left = ANSWER | {"first_bad": None, "candidates": candidates, "reason": "those before the last could not be judged",
                     "finding": None, "proof": None, "first_difference": None}  # fmt: skip
    text = show("bisect", change_run(answer=left))
    assert "One of 2 commits those before the last could not be judged" in text
    assert "dddddddddddd rename helper · skip: not built" in text and "First bad" not in text
    nothing = left | {"candidates": [], "refused": "FLX555", "reason": "✗ once, ✓ once"}
    problem = {"code": "FLX555", "detail": "✗ once, ✓ once", "remedy": "flux trace diff a b", "exit": 6}
    text = show("bisect", change_run(answer=nothing, state="failed", problem=problem))
    assert "FLX555 · ✗ once, ✓ once · flux trace diff a b" in text and "No commit can be named" in text


def test_before_a_bisect_its_page_says_where_it_would_begin_or_what_is_in_the_way() -> None:
    given = documents("bisect")["run"]
    ahead = {"execution": given["execution"], "state": "none", "plan": PLAN, "problem": None}
    text = show("bisect", {"run": ahead})
    assert "the last commit on which it passed" in text and "Find the commit" in text and "runs" not in text
    problem = {"code": "FLX559", "detail": "no commit is known", "remedy": "--good REF", "exit": 2}
    text = show("bisect", {"run": ahead | {"plan": None, "problem": problem}})
    assert "FLX559 · no commit is known · --good REF" in text and "Find the commit" in text
    empty = show("bisects", {"bisects": {"runs": []}, "executions": {"executions": []}})
    assert "flux bug bisect NAME" in empty and "Nothing failed" in empty


def test_a_bisect_tells_each_run_as_it_comes() -> None:
    running = change_run(state="running", answer=None, steps=STEPS[:2], commits=None)
    told = values.read(pages.render_progress("bisect", running))
    assert told["said"] == "2 runs · both ends are seen first" and told["of"] == 0
    assert [row["tone"] for row in told["rows"]] == ["bad", "good"]
