"""The console's pages, made of documents: what they show, and that hostile documents stay text."""

import re
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import pytest

from flux.execution import Execution, LogLine
from flux.hostcall import HostCallError, Position
from flux.mutation import Mutation, Operation
from flux.store.replays import ReplayFound
from flux.supervisor.present import encode, summary_of_execution, trace_json
from flux.supervisor.spans import list_spans
from flux.supervisor.web import html, pages, tenants, values, words
from flux.supervisor.web.events import write_event
from flux.supervisor.web.page import Asked
from flux.supervisor.web.passage import PIECE_BYTES, choose_calls
from tests.console_world import make_call, make_execution, raised
from tests.debug_pages import DEBUG_PATHS, debug_documents
from tests.hostile_pages import HOSTILE, check_page, poison
from tests.incident_pages import BISECT_PATHS, INCIDENT_PATHS, bisect_documents, incident_documents

NOW = datetime(2025, 11, 25, 14, 3, tzinfo=UTC)


def make_failed(**changes: Any) -> Execution:
    calls = (
        make_call(1, "db.query", ["select * from users where id = $1", [42]], {"rows": [{"id": 42}]}),
        make_call(2, "http.request", ["POST", "https://api.stripe.com/v1/charges", {"headers": {"a": "b"}}],
                  error=HostCallError("Timeout", "no answer in 10 s", "", b"{}")),
        make_call(3, "queue.push", ["email", {"to": "a@b.com"}, {}], "job"),
    )  # fmt: skip
    place = Position("functions/signup.py", 12, "create_user")
    mutations = (
        Mutation("public", "users", '{"id": 42}', Operation.UPDATE, '{"id": 42, "plan": "free"}',
                 '{"id": 42, "plan": null}', False, 7, 1, call=2),
        Mutation("public", "orders", '{"a": 1, "b": "x y"}', Operation.INSERT, None, '{"a": 1, "b": "x y"}', True, 7, 2,
                 call=1),
    )  # fmt: skip
    logs = (LogLine(1_000_000, "warning", "plan is missing", b'{"user":42}', place),)
    made = make_execution(raised(), calls=calls, mutations=mutations, logs=logs, completeness=("a body was cut",))
    return attrs.evolve(made, **changes)


def make_replay(name: str | None, code: str | None, verdict: str, *, is_check: bool = False) -> ReplayFound:
    return ReplayFound(uuid.UUID(int=1), name, code, "d1", "3f9c1e2d", False, verdict, "as before", None, is_check, NOW)


REPLAYS = (
    make_replay("qk3f81xb", ".", "same failure"),
    make_replay(None, None, "identical", is_check=True),
    make_replay(None, "3f9c1e2", "passed"),
)
"""Of a check that found nothing, no execution is kept: there is nothing to go to."""


def trace_of(execution: Execution, **more: Any) -> Any:
    summary = summary_of_execution(execution)
    children = [summary_of_execution(make_execution(at_s=2))]
    document = trace_json(summary, execution, spans=list_spans(execution), children=children, replays=REPLAYS)
    job = {"id": "j", "function": "email", "state": "done", "execution": "qk3f81xa"}
    cause = {"execution": "qk3f81xc", "call": 3, "job": "j"}
    return values.read(encode(document | {"jobs": [job], "cause": cause} | more))


WHY = {
    "schema": "flux.why/1",
    "failure": {"location": {"file": "functions/signup.py", "line": 16, "function": "create_user"}},
    "verdict_text": ["KeyError: 'plan'", "functions/signup.py:16 in create_user()"],
    "facts": [
        {"mark": "●", "rule": "r", "text": 'the input has no "plan"', "call": None},
        {"mark": "≈", "rule": "input-of-peers", "text": "20 of 20 neighbours have it", "call": 2},
    ],
    "mutations": [],
    "next": ["flux replay qk3 --on ."],
}


AT = "2025-11-25T14:00:00.000000Z"


def make_job(state: str, **more: Any) -> dict[str, Any]:
    return {
        "id": "0193-job", "function": "email", "state": state, "attempt": 3, "failures": 2, "lost": 1, "pushed_at": AT,
        "run_at": AT, "claimed_at": AT, "ended_at": None, "error": "RuntimeError: mail server away", "has_key": False,
        "cause": {"execution": "qk3f81xa", "id": "u", "call": 3}, "execution": "qk3f81xb",
    } | more  # fmt: skip


def make_tick(fate: str, **more: Any) -> dict[str, Any]:
    run = {"state": "dead", "execution": "qk3f81xd"} if fate == "run" else {"state": None, "execution": None}
    return {"tick": AT, "fate": fate, "left_out": 2, "status": None, "outcome": "raised"} | run | more


def make_table_diff() -> dict[str, Any]:
    writer = {
        "execution": "qk3f81xa", "function": "pay", "at": AT, "sha": "3f9c1e2d", "migration": None, "outside": False,
    }  # fmt: skip
    update = {
        "key": {"id": 42}, "op": "update", "before": {"plan": "free"}, "after": {"plan": "pro"}, "count": 5,
        "gap": True, "writers": [writer],
    }  # fmt: skip
    insert = {
        "key": None, "op": "insert", "before": None, "after": {"note": "x"}, "count": 2, "gap": False, "writers": [],
    }  # fmt: skip
    ends = {"from": {"time": "2025-11-25T13:00:00.000000Z"}, "to": {"time": AT}}
    return {"changes": [update, insert], "undone": 2, "notes": ["a note"], "more": True, **ends}


def documents_of_tables() -> dict[str, dict[str, Any]]:
    """Documents for the pages of what is served, what waits, and who is served."""
    code = {
        "deployment": "d1d1d1d1d1d1", "sha": "3f9c1e2d", "dirty": True, "branch": "main", "functions": ["email"],
        "current": False, "cause": "deploy", "at": AT, "deploys": 2, "executions": 1200, "failed": 3,
        "runtime": {"python": "3.11"}, "kept": True,
    }  # fmt: skip
    depth = {"function": "email", "due": 4, "delayed": 1, "running": 2, "dead": 1, "oldest_due_ms": 61_000.0}
    counts = {"waiting": 5, "running": 2, "done": 9, "dead": 1}
    jobs = [
        make_job("dead", ended_at=AT), make_job("running"), make_job("waiting", cause=None, execution=None, error=None),
        make_job("waiting", run_at="2025-11-26T03:00:00.000000Z", attempt=0),
    ]  # fmt: skip
    schedule = {
        "function": "email", "schedule": "0 3 * * *", "time_zone": "Europe/Berlin", "next": "2025-11-26T02:00:00Z",
        "paused_at": None, "last": make_tick("run"),
    }  # fmt: skip
    paused = schedule | {"function": "bills", "paused_at": AT, "next": None, "last": make_tick("missed")}
    refused = {"turns": 0, "memory": 0, "requests": 12, "cpu": 0, "storage": 0, "stopped": 0}
    quotas = {
        "weight": 1, "concurrency": 4, "memory_bytes": 2**30, "requests_per_minute": 600, "storage_bytes": 2**31,
        "cpu_ms_per_minute": 30_000,
    }  # fmt: skip
    use = {
        "running": 2, "waiting": 1, "turns_kept": 1, "memory_bytes": 2**28, "requests": 30, "storage_bytes": None,
        "cpu_ms": 1500, "cpu_ms_total": 90_000, "refused": refused,
    }  # fmt: skip
    tenant = {
        "name": "acme", "url": "http://acme.localhost:4000", "hosts": ["acme.localhost", "acme.example"],
        "folder": "/srv/acme", "up": True, "problem": None, "database": "made", "quotas": quotas, "use": use,
        "added_at": AT,
    }  # fmt: skip
    down = tenant | {"name": "bolt", "up": False, "use": None, "problem": "its folder is gone", "added_at": None}
    cron = {"schedules": [schedule, paused]}
    return {
        "deployments": {"deployments": {"deployments": [
            code | {"current": True}, code, code | {"kept": False, "failed": 0, "cause": "start"},
        ]}},
        "queue": {"queue": {"jobs": jobs, "counts": counts, "functions": [depth]}, "cron": cron},
        "cron": {"history": {"function": "email", "ticks": [make_tick("run"), make_tick("overlap")]}, "cron": cron},
        "tenants": {"tenants": {"tenants": [tenant, down]}},
        "diff of a table": {"diff": make_table_diff()},
    }  # fmt: skip


def documents() -> dict[str, dict[str, Any]]:
    """Documents for each page."""
    summaries = [summary_of_execution(make_failed()), summary_of_execution(make_execution(at_s=1))]
    listed = values.read(encode({"executions": summaries, "not_stored": 2}))
    buckets = [{"at": f"2025-11-25T14:0{n}:00.000000Z", "executions": n, "failed": n // 2} for n in range(4)]
    group = {
        "signature": "s", "count": 1200, "first": "2025-11-25T13:00:00.000000Z", "last": "2025-11-25T14:00:00.000000Z",
        "sample": "qk3f81xa", "functions": ["create_user"],
        "error": {"type": "KeyError", "message": "'plan'", "location": {"file": "functions/signup.py", "line": 16}},
    }  # fmt: skip
    writer = {
        "execution": "qk3f81xa", "function": "create_user", "at": "2025-11-25T14:00:00.000000Z", "sha": "3f9c1e2d",
        "migration": None, "outside": False,
    }  # fmt: skip
    change = {"op": "update", "committed": False, "before": {"plan": "free"}, "after": {"plan": None}}
    version = writer | change | {"version": None, "gap": False}
    blame = {"exists": True, "columns": {"plan": writer | {"value": "free", "reason": None}}}
    found = {"where": "$.plan", "name": None, "a": "pro", "follows": False}
    call = {"kind": "db.query", "arguments": {"sql": "select 1 from users"}}
    diff = {
        "verdict": "REGRESSED", "reason": "it failed", "a": listed["executions"][1], "b": listed["executions"][0],
        "same_code": True, "first_difference": {"part": "call", "index": 0}, "input": [found], "outcome": None,
        "calls": [{"mark": "≠", "a": call, "b": None, "differences": [found]}], "left_out": {"ids": 3},
        "only_a": [{"file": "functions/signup.py", "function": "f", "lines": [1, 2]}], "only_b": [], "notes": ["so"],
    }  # fmt: skip
    return {
        **documents_of_tables(),
        "executions": {
            "executions": listed,
            "activity": {"buckets": buckets, "since": "2025-11-25T14:00:00Z", "until": "2025-11-25T14:04:00Z"},
        },
        "errors": {"errors": {"groups": [group], "not_stored": 0}},
        "execution": {"trace": trace_of(make_failed()), "why": WHY},
        "state": {"history": {"versions": [version], "notes": ["a note"]}, "blame": blame},
        "diff": {"diff": diff},
        "doctor": {"checks": {"checks": [{"name": "isolation", "ok": False, "detail": "core", "remedy": "do"}]}},
        **incident_documents(listed["executions"], group),
        **bisect_documents(listed["executions"]),
        **debug_documents(listed["executions"]),
    }


PATHS = {
    "executions": "executions", "errors": "errors", "execution": "e/qk3f81xa", "state": "state", "diff": "d/a..b",
    "doctor": "doctor", "deployments": "deployments", "queue": "queue", "cron": "cron/email", "tenants": "tenants",
    **INCIDENT_PATHS, **BISECT_PATHS, **DEBUG_PATHS,
    "diff of a table": "state",
}  # fmt: skip


PAGES = {"diff of a table": "state", "debug of nobody": "debug"}
"""Where one page has two forms."""
QUERIES = {"state": {"table": "users", "key": "42"}, "diff of a table": {"table": "users", "from": "1h", "to": "0s"}}
"""What a page is asked with, where it is asked with anything."""


def show(name: str, given: dict[str, Any], **query: str) -> bytes:
    query = QUERIES.get(name, {}) | query
    return pages.render_page(PAGES.get(name, name), given, Asked(PATHS[name], query, NOW))


def test_there_are_documents_for_each_page() -> None:
    assert documents().keys() == PATHS.keys()
    assert {PAGES.get(name, name) for name in PATHS} == pages.BUILDERS.keys()


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("name", PATHS)
def test_hostile_text_in_every_field_stays_text(name: str, kind: str) -> None:
    given = poison(documents()[name], HOSTILE[kind])
    began = time.process_time()
    said = {"executions": {"q": HOSTILE[kind][:500]}, "state": {"table": HOSTILE[kind][:500], "key": "1"}}
    page = show(name, given, **said.get(name, {}))
    assert time.process_time() - began < 5, "what is cut off is not worked on"
    read = check_page(page)
    assert len(page) < 1_000_000
    if kind == "template":
        assert "{{ 7 * 7 }}" in read.text and "49" not in read.text
    if kind == "terminal":
        assert "\\x1b]0;owned" in read.text


@pytest.mark.parametrize("name", PATHS)
def test_each_page_is_whole_and_names_its_json(name: str) -> None:
    read = check_page(show(name, documents()[name]))
    assert any(address.startswith(f"/_flux/{PATHS[name]}.json") for address in read.list_values("href"))


def test_an_execution_shows_what_it_did_and_what_is_left_of_it() -> None:
    text = " ".join(check_page(show("execution", documents()["execution"])).text.split())
    for said in (
        "KeyError: 'plan'", "This record is not whole: a body was cut", "● recorded: the input has no",
        "≈ inferred: 20 of 20 neighbours have it rule input-of-peers", "✗ http POST api.stripe.com/v1/charges",
        "Timeout: no answer in 10 s", "users[42] update, rolled back", 'plan "free" null', "orders[a=1,b=x y] insert ·",
        "warning plan is missing", "job for email: done", "$ flux why",
        "on the working tree: same failure, as before qk3f81xb",
        "on its own code: identical, as before Flux's own check", "on 3f9c1e2: passed, as before not kept",
    ):  # fmt: skip
        assert said in text, said


def read_text(name: str, **query: str) -> str:
    return " ".join(check_page(show(name, documents()[name], **query)).text.split())


def test_deployments_say_what_is_served_how_each_did_and_which_can_be_served_again() -> None:
    page = check_page(show("deployments", documents()["deployments"]))
    text = " ".join(page.text.split())
    for said in ("3f9c1e2+ ● served now", "flux deploy, 2 switches to it", "1,200", "✗ 3", "files not kept",
                 "a server was started", "python 3.11", "$ flux deployments"):  # fmt: skip
        assert said in text, said
    # What is served now has no way back to itself, and files that are gone can't be served.
    assert page.list_values("data-act") == ["/_flux/act/rollback"]
    assert page.list_values("data-body") == ['{"to": "d1d1d1d1d1d1"}']
    (question,) = page.list_values("data-ask")
    assert "/_flux/?q=deploy%3Ad1d1d1d1d1d1+sha%3A3f9c1e2d" in page.list_values("href")
    assert question.startswith("Serve 3f9c1e2+, deployment d1d1d1d1, from now on? Migrations are not undone")


def test_the_queue_says_what_is_dead_and_why_and_when_schedules_are_due() -> None:
    page = check_page(show("queue", documents()["queue"], state="all", function="it's"))
    text = " ".join(page.text.split())
    for said in ("5 waiting · 2 running · 1 dead · 9 done", "✗ dead ended 14:00:00.000", "is to run 11-26 03:00:00.000",
                 "attempt 3, 2 failed, 1 cut off, last qk3f81xb", "RuntimeError: mail server away", "not tried yet",
                 "1 min 1 s", "qk3f81xa, call 3", "nobody on record", "0 3 * * * Europe/Berlin", "11-26 02:00:00.000",
                 "14:00:00.000 dead qk3f81xd 2 times before it left out", "paused since 14:00:00.000",
                 "left out: no server was there", r"flux queue list --state 'all' --function 'it'\''s'"):  # fmt: skip
        assert said in text, said
    assert page.list_values("data-act") == [
        "/_flux/act/queue/0193-job/retry", "/_flux/act/cron/email/pause", "/_flux/act/cron/bills/resume",
    ]  # fmt: skip
    assert "/_flux/e/qk3f81xa#call-3" in page.list_values("href")
    history = read_text("cron")
    assert "left out: the run before it was not done" in history and "$ flux cron history 'email'" in history


def test_an_event_says_where_it_stands_what_names_held_and_where_else_to_go() -> None:
    seen = documents()["debug"]["debug"]
    page = check_page(show("debug", {"debug": seen}))
    text = " ".join(page.text.split())
    for said in (
        "event 118 of 240 · functions/signup.py:12 in price() · about to run", "run again: same failure, as recorded",
        "call 2 had been made, 2 ms to 6 ms after its start", "→here: 12 cents = 5", "Name Value line",
        '{"cents": 5, "note": "x"}', "Order(total=12)", "[1, 2, … 1,000 in all]", "len(line) = 2",
        "… of 502 characters",
        "110 now", "(no total yet)", "… 4 more values", "raises ValueError: -1", "users[42] since call 2; rolled back",
        "users[7] deleted by call 2", "users[8] not there until call 3",
        "users[5] call 1 had been made, which changes it, and had not been answered", "not answered yet",
        "users[9] since call 2; too long to stand here",
        "… 55 more rows", "✗ db SELECT users", "still to come", "… 7 calls after",
        "$ flux trace debug", "--watch total",
    ):  # fmt: skip
        assert said in text, (said, text)
    name = seen["execution"]["name"]
    links = page.list_values("href")
    assert f"/_flux/x/{name}?at=118&up=1&expression=len%28line%29&watch=total" in links
    assert f"/_flux/x/{name}?at=110&expression=len%28line%29&watch=total" in links
    went = seen | {"verdict": "diverged", "reason": "it asked for more"}
    assert "not what is on record: it asked for more" in check_page(show("debug", {"debug": went})).text
    empty = seen | {"at": None, "total": 0, "event": None}
    assert "It has no step" in check_page(show("debug", {"debug": empty})).text
    killed = check_page(show("debug", {"debug": empty | {"ended": False}})).text
    assert "it was ended from outside before it told of one" in killed and "no step" not in killed
    killed = check_page(show("debug", {"debug": seen | {"ended": False}})).text
    assert "event 118 of 240 that are known" in " ".join(killed.split())
    deep: Any = "bottom"
    for _ in range(300):
        deep = {"$type": "Order", "fields": {"inner": [deep]}}
    hostile = seen | {"frame": seen["frame"] | {"locals": {"deep": deep}, "returned": deep}}
    assert "Order(inner=[Order(" in check_page(show("debug", {"debug": hostile})).text
    nobody = check_page(show("debug of nobody", documents()["debug of nobody"]))
    assert "Nobody has looked at event 118 of late" in nobody.text and "look" in nobody.list_values("id")


def test_tenants_say_what_each_uses_of_what_it_may() -> None:
    text = read_text("tenants")
    for said in ("1 tenant is not up", "bolt ○ not up", "its folder is gone", "acme ● up", "executions at once 2 4",
                 "memory 256 MiB 1 GiB", "requests in a minute 30 600", "processor time in a minute 1.5 s 30.0 s",
                 "storage ? 2 GiB", "12 refused: too many in a minute", "also acme.example"):  # fmt: skip
        assert said in text, said
    assert text.index("bolt") < text.index("acme ● up"), "what is not well stands first"


def test_tenants_are_in_the_navigation_of_an_installation_alone() -> None:
    given = documents()["doctor"]
    for has_tenants in (False, True):
        page = pages.render_page("doctor", given, Asked("doctor", {}, NOW, has_tenants))
        assert ("/_flux/tenants" in check_page(page).list_values("href")) == has_tenants


def make_version(number: int | None, minute: int, before: Any, after: Any, **more: Any) -> dict[str, Any]:
    op = "insert" if before is None else "delete" if after is None else "update"
    return {
        "version": number, "at": f"2025-11-25T13:{minute:02}:00.000000Z", "op": op, "committed": True, "gap": False,
        "before": before, "after": after, "execution": f"qk3f81x{minute % 10}", "function": "pay", "sha": "3f9c1e2d",
        "outside": False, "migration": None,
    } | more  # fmt: skip


def history_of_a_row() -> dict[str, Any]:
    """It was created, changed, changed by what was rolled back, changed outside Flux, deleted."""
    versions = [
        make_version(4, 50, {"plan": "gold"}, None),
        make_version(3, 40, {"plan": "pro"}, {"plan": "gold"}, outside=True, execution=None, gap=True),
        make_version(None, 30, {"plan": "pro"}, {"plan": "evil"}, committed=False),
        make_version(2, 20, {"plan": "free"}, {"plan": "pro"}),
        make_version(1, 10, None, {"plan": "free"}),
    ]
    return {"history": {"versions": versions, "notes": []}, "blame": {"exists": False, "columns": {}}}


def look_at_row(**query: str) -> tuple[str, list[str]]:
    page = check_page(show("state", history_of_a_row(), **query))
    return " ".join(page.text.split()), page.list_values("href")


def stop(minute: int) -> str:
    return f"2025-11-25T13:{minute:02}:00.000000Z"


def test_a_row_is_stepped_through_and_what_never_was_is_said_in_words() -> None:
    text, links = look_at_row()
    line = "v1 created 13:10:00.000 v2 changed 13:20:00.000 · changed, rolled back 13:30:00.000 ? changed 13:40:00.000"
    assert f"{line} v4 deleted 13:50:00.000 now" in text and "There is no such row now." in text
    row = "/_flux/state?table=users&key=42"
    at = {minute: f"{row}&change=2025-11-25T13%3A{minute}%3A00.000000Z" for minute in (10, 20, 30, 40, 50)}
    assert [link for link in links if link.startswith(row)][:6] == [*at.values(), row]
    for change, before, after, said in (
        (10, None, 20, "As v1 left it The row as it was Column Value plan \"free\""),
        (20, 10, 30, "As v2 left it The row as it was Column Value plan \"pro\""),
        (30, 20, 40, "As the change that was rolled back left it This change was rolled back: the row never was so."),
        (40, 30, 50, "As a change outside Flux left it Something had changed the row past the capture"),
        (50, 40, None, "As v4 left it The change took the row out."),
    ):  # fmt: skip
        page = check_page(show("state", history_of_a_row(), change=stop(change)))
        assert said in " ".join(page.text.split())
        steps = {rel: found["href"] for _, found in page.elements if (rel := found.get("rel")) in ("prev", "next")}
        assert steps.get("prev") == (None if before is None else at[before])
        assert steps["next"] == (row if after is None else at[after])


def test_a_long_line_is_shown_around_the_change_that_is_looked_at() -> None:
    at = [f"2025-11-25T{number // 60:02}:{number % 60:02}:00.000000Z" for number in range(600)]
    versions = [make_version(number + 1, 0, {"n": number}, {"n": number + 1}, at=at[number]) for number in range(600)]
    given = {"history": {"versions": versions[::-1], "notes": []}, "blame": {"exists": False, "columns": {}}}
    row = "/_flux/state?table=users&key=42"
    for here, first, last in ((None, 401, 600), (at[300], 201, 400), (at[0], 1, 200)):
        page = check_page(show("state", given, **({} if here is None else {"change": here})))
        line = " ".join(page.text.split()).partition("it goes on where one steps. ")[2].partition(" now ")[0]
        assert line.startswith(f"v{first} changed") and f" v{last} changed" in line and f"v{last + 1} " not in line
        steps = {found["rel"]: found["href"] for _, found in page.elements if found.get("rel") in ("prev", "next")}
        place = 600 if here is None else at.index(here)
        for rel, beside in (("prev", place - 1), ("next", place + 1)):
            change = at[beside].replace(":", "%3A") if 0 <= beside < 600 else None
            assert steps.get(rel) == (f"{row}&change={change}" if change else None)


def test_a_time_between_two_changes_is_between_their_stops() -> None:
    found = {
        "rows": [{"plan": "pro"}], "notes": [], "lost": {"tier": "was dropped"}, "gaps": [], "written": None,
        "as_of": {"time": stop(35)},
    }  # fmt: skip
    page = check_page(show("state", history_of_a_row() | {"at": found}, time=stop(35)))
    text = " ".join(page.text.split())
    assert "As of 13:35:00.000 column tier is not known: was dropped" in text
    assert 'The row as it was Column Value plan "pro"' in text
    assert f"$ flux state at 'users' '42' --time '{stop(35)}'" in text
    steps = [found["href"][-28:] for _, found in page.elements if found.get("rel") in ("prev", "next")]
    assert steps == ["2025-11-25T13%3A30%3A00.000000Z"[-28:], "2025-11-25T13%3A40%3A00.000000Z"[-28:]]
    gone = found | {"rows": []}
    assert "There was no such row then." in check_page(
        show("state", history_of_a_row() | {"at": gone}, time="15m")).text  # fmt: skip


def test_a_marked_stop_is_compared_with_another_whichever_is_the_earlier() -> None:
    for query in ({"mark": stop(10), "change": stop(40)}, {"mark": stop(40), "change": stop(10)}):
        text, links = look_at_row(**query)
        assert "From v1 to a change outside Flux Columns before and after Column Before After " in text
        assert 'plan "free" "gold" What became of the whole table in that time' in text
        # The row was as a stop has it until the next change was logged; what was rolled back was none.
        until = [f"2025-11-25T13%3A{minute}%3A59.999999Z" for minute in (19, 49)]
        assert f"/_flux/state?table=users&from={until[0]}&to={until[1]}" in links
    text, links = look_at_row(mark=stop(20))
    assert 'From v2 to now Columns before and after Column Before After plan "pro" (absent)' in text
    assert "/_flux/state?table=users&key=42&mark=now" in links, "now is a stop that can be marked"
    text, _ = look_at_row(mark=stop(20), change=stop(20))
    assert "⚑ marked" in text and "Take the mark away" in text and "From v2" not in text


def test_an_execution_shows_its_rows_as_each_of_its_calls_left_or_found_them() -> None:
    given = documents()["execution"]

    def rows_at(**query: str) -> str:
        text = " ".join(check_page(show("execution", given, **query)).text.split())
        return text[text.index("Rows a") : text.index(" Stack ")]

    line = "as found at call 1 at call 2"
    assert rows_at() == f"Rows at each call {line} ← the first Later →"
    found, placed, ended = (rows_at(rows=call) for call in "012")
    assert found.startswith(f"Rows as found {line} ← the first Later →")
    assert "orders[a=1,b=x y] no such row, as call 1 was to find it" in found
    assert 'users[42] as call 2 was to find it users[42] Column Value id 42 plan "free"' in found
    assert 'orders[a=1,b=x y] as call 1 left it orders[a=1,b=x y] Column Value a 1 b "x y"' in placed
    assert "users[42] as call 2 left it; rolled back afterwards users[42] Column Value id 42 plan null" in ended
    assert "← Earlier the last →" in ended
    # What is no call of it is none on the page; and a table that was emptied has no rows.
    assert rows_at(rows="77") == rows_at(rows="x") == rows_at()
    emptied = {"table": "orders", "op": "truncate", "key": None, "before": None, "after": None, "call": 3}
    given["trace"]["mutations"].append(emptied | {"committed": True})
    assert "orders[a=1,b=x y] went when call 3 emptied the table" in rows_at(rows="3")


def test_a_table_between_two_times_says_what_became_of_each_row_and_who_did_it() -> None:
    page = check_page(show("diff of a table", documents()["diff of a table"]))
    text = " ".join(page.text.split())
    for said in ("13:00:00.000 to 14:00:00.000: 1 came · 1 changed; 2 rows that changed and changed back",
                 'users[42] changed Something had changed it past the capture before.', 'plan "free" "pro"',
                 "qk3f81xa pay 14:00:00.000 3f9c1e2", "4 more changes of it", "2 rows came", "more than 2 rows",
                 "$ flux state diff 'users' --from '1h' --to '0s'"):  # fmt: skip
        assert said in text, said
    assert "/_flux/state?table=users&key=42" in page.list_values("href")


def test_numbers_keep_their_digits() -> None:
    digits = "12345678901234567890.10"
    long = "9" * 5000
    read = values.read(f'{{"a": {digits}, "b": 1e400, "c": {long}}}'.encode())
    assert values.show_line(read, 10_000).text == f'{{"a": {digits}, "b": 1e400, "c": {long}}}'


def test_what_is_cut_says_how_much_there_is() -> None:
    shown = values.show("x" * 10_485_760)
    assert (len(shown.text), shown.whole) == (values.ROOM, 10_485_762)
    deep: Any = "bottom"
    for _ in range(200):
        deep = [deep]
    assert "bottom" in values.show(deep, 100_000).text


def test_an_execution_of_many_calls_is_shown_in_pieces_and_what_went_wrong_is_named() -> None:
    calls = tuple(make_call(seq, "db.query", ["select 1", []], {"rows": []}) for seq in range(1, 5001))
    wrong = make_call(4321, "db.query", ["select 1", []], error=HostCallError("DatabaseError", "no", "42P01", b"{}"))
    calls = (*calls[:4320], wrong, *calls[4321:])
    given = {"trace": trace_of(make_failed(calls=calls)), "why": WHY}
    began = time.process_time()
    first = show("execution", given)
    assert time.process_time() - began < 5
    assert len(first) < 1_000_000
    read = check_page(first)
    name = given["trace"]["name"]
    assert f"/_flux/e/{name}?from=4200#call-4321" in read.list_values("href")
    assert "call-200" in read.list_values("id") and "call-201" not in read.list_values("id")
    later = check_page(show("execution", given, from_="ignored", **{"from": "4200"}))
    assert "call-4321" in later.list_values("id") and "#call-4321" in later.list_values("href")


def test_text_is_found_among_all_calls_however_it_is_written_there() -> None:
    slow = HostCallError("TimeoutError", "slow")
    said = {"rows": [{"name": "Jörg \"J\""}]}
    calls = [
        make_call(1, "clock.now", [], 17),
        make_call(2, "db.query", ["select name from users", []], said),
        make_call(3, "http.request", ["GET", "https://api.example.com", {}], error=slow),
        *(make_call(seq, "db.query", ["select 2", []], {}) for seq in range(4, 300)),
    ]
    for text, places in (
        ("CLOCK", [0]), ("from USERS", [1]), ("jörg", [1]), ("J\u00f6rg \"j", [1]), ("timeouterror: slow", [2]),
        ("no such", []), ("select", [1, *range(3, 202)]),
    ):  # fmt: skip
        passage = choose_calls(calls, text, 0, 200)
        assert (passage.places, passage.total) == (places, 299), text
        assert [(each.seq, each.place) for each in passage.wrong] == [(3, 2)]
    # It is found where the search goes from one piece to the next, a letter of two bytes and one that folds to two too.
    for before in range(PIECE_BYTES - 12, PIECE_BYTES + 1):
        whole = make_call(1, "db.query", "x" * before + "JÖRG STRAßE" + "y" * PIECE_BYTES)
        assert choose_calls([whole], "jörg strasse", 0, 200).places == [0], before
    rest = choose_calls(calls, "select", 200, 200)
    assert (rest.found, rest.first, rest.places) == (297, 200, list(range(202, 299)))
    assert choose_calls(calls, "select", 297, 200).first == 0  # There is nothing beyond the last.


def test_who_asks_for_text_is_heard_again_and_again_and_can_end_the_search() -> None:
    calls = [make_call(1, "db.query", "x" * PIECE_BYTES * 20), *(make_call(seq, "db.query", []) for seq in range(2, 9))]
    heard = 0

    def hear() -> None:
        nonlocal heard
        heard += 1
        if heard == 30:
            raise TimeoutError

    choose_calls(calls, "", 0, 200, hear)
    assert heard == 0, "nothing is looked for"
    with pytest.raises(TimeoutError):
        choose_calls(calls, "no such", 0, 200, hear)


def test_a_page_of_some_calls_says_how_many_are_not_on_it() -> None:
    calls = tuple(make_call(seq, "db.query", ["select 1", []], {"rows": []}) for seq in range(1, 501))
    trace = trace_of(make_failed(calls=calls))
    passage = attrs.asdict(choose_calls(calls, "select", 200, 200))
    shown = {**trace, "calls": [trace["calls"][place] for place in passage["places"]]}
    read = check_page(show("execution", {"trace": shown, "why": WHY, "passage": passage}, find="select"))
    text = " ".join(read.text.split())
    assert "201 to 400 of 500 are here: the browser finds text in these alone." in text
    assert re.search(r"500 of 500 calls have select ?\. All", text) and re.search("Later calls ?: 100 more", text), text
    here = f"/_flux/e/{trace['name']}"
    assert {f"{here}?find=select#calls", f"{here}?from=400&find=select#calls"} <= {*read.list_values("href")}
    nothing = attrs.asdict(choose_calls(calls, "no such", 0, 200))
    given = {"trace": {**trace, "calls": []}, "why": WHY, "passage": nothing}
    read = check_page(show("execution", given, find="no such"))
    assert "0 of 500 calls have" in read.text and "It asked for nothing" not in read.text


@pytest.mark.parametrize("name", ["executions", "errors", "deployments", "queue", "cron", "tenants"])
def test_an_empty_page_says_what_fills_it(name: str) -> None:
    empty: dict[str, dict[str, Any]] = {
        "deployments": {"deployments": {"deployments": []}},
        "queue": {
            "queue": {"jobs": [], "functions": [], "counts": {"waiting": 0, "done": 0}}, "cron": {"schedules": []},
        },
        "cron": {"history": {"function": "email", "ticks": []}, "cron": {"schedules": []}},
        "tenants": {"tenants": {"tenants": []}},
        "executions": {"executions": {"executions": [], "not_stored": 0}},
        "errors": {"errors": {"groups": [], "not_stored": 0}},
    }
    words_ = {
        "executions": ["flux invoke NAME"], "errors": ["A function that raises"], "deployments": ["flux deploy"],
        "queue": ["ctx.queue.push(", "@function(cron=", "No job is waiting, running or dead."],
        "cron": ["It was not due yet.", "has no schedule for it any more"], "tenants": ["flux tenant add NAME"],
    }  # fmt: skip
    text = check_page(show(name, empty[name])).text
    assert all(said in text for said in words_[name])


def test_an_event_is_a_row_with_nothing_invisible() -> None:
    summary = poison(summary_of_execution(make_failed()), HOSTILE["bidi"] + "\n\ndata: {}")
    event = write_event(summary, NOW)
    assert event.count(b"\n") == 3 and event.startswith(b"id: 2025-11-25T14:01:49")
    assert b"\\\\u202e" in event
    assert write_event({"heartbeat": True}, NOW) == b": here\n\n"
    assert write_event({"gap": 3}, NOW) == b"event: gap\ndata: 3\n\n"


def test_no_template_and_no_script_passes_text_by_the_escaping() -> None:
    root = html.TEMPLATES.parent
    for path in root.rglob("*"):
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"\|\s*safe|autoescape|Markup|(inn|out)erHTML|insertAdjacentHTML|eval\(", text), path
            assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), path
            if path.suffix == ".html":
                assert not re.search(r'\sstyle=|\son\w+=|<script(?! type="module" src=)', text), path
    assert Path(root, "static", "frame.js").exists()


def test_words_are_those_of_the_command_line() -> None:
    from flux.cli import moments, render, tenant_list, tenant_show

    assert tenants.REFUSALS == tenant_show._QUOTAS
    for size in (0, 2**20, 1.5 * 2**30, 2**40):
        assert words.size(size) == tenant_list._size(size)
    for elapsed in (0, 0.3, 0.95, 14, 999.4, 999.6, 1420, 59_990, 200_000):
        assert words.duration(elapsed) == moments.duration(elapsed)
    for sql in ("insert into users values (1)", "delete from only x", "select a from b.c", "begin", 'update "U"'):
        assert render.statement(sql).startswith(words.statement(sql))
