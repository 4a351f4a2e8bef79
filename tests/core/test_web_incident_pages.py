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
from tests.incident_pages import INCIDENT_PATHS, NO_RUN, RUN, WINDOW, incident_documents

NOW = datetime(2025, 11, 25, 14, 6, tzinfo=UTC)
GROUP = {
    "count": 23, "first": "2025-11-25T14:00:01.250000Z", "last": "2025-11-25T14:04:59.900000Z",
    "error": {"type": "KeyError", "message": "'plan'", "location": {"file": "functions/signup.py", "line": 16}},
}  # fmt: skip


def documents(name: str) -> dict[str, Any]:
    failed = [summary_of_execution(make_execution(raised(), at_s=second)) for second in (2, 1)]
    given: dict[str, Any] = values.read(encode(incident_documents(failed, GROUP)[name]))
    return given


def show(name: str, given: dict[str, Any]) -> str:
    page = check_page(pages.render_page(name, given, Asked(INCIDENT_PATHS[name], {}, NOW)))
    return " ".join(page.text.split())


def links(name: str, given: dict[str, Any]) -> list[str]:
    return check_page(pages.render_page(name, given, Asked(INCIDENT_PATHS[name], {}, NOW))).list_values("href")


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
