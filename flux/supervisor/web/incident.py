"""Windows of time: those that have a name, what failed in one, and whether it would on the code as it is."""

import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import attrs

from flux.incident import describe_failure, find_common
from flux.supervisor.web import words
from flux.supervisor.web.executions import make_row
from flux.supervisor.web.page import Asked, Page
from flux.supervisor.web.run import NONE, Progress, Row, read_problem
from flux.verdict_marks import FINE, MARKS, UNKNOWN

ROWS_SHOWN = 50
KINDS_SHOWN = 50
REASONS_SHOWN = 20
NOTES_SHOWN = 20
NAMES_SHOWN = 5
"""Executions that are links under one reason."""


# --- all of them -----------------------------------------------------------------------------------


@attrs.frozen
class Pinned:
    """A window that has a name."""

    name: str
    href: str
    time: str
    counts: str
    failed: bool


@attrs.frozen
class Burst:
    """Failures of one kind, and the window that they are in."""

    error: str
    place: str
    count: int
    time: str
    href: str


def build_incidents(documents: Mapping[str, Any], asked: Asked) -> Page:
    """Windows with a name, and failures of late by when they were."""
    pinned = documents["incidents"]["incidents"]
    groups = sorted(documents["errors"]["groups"], key=lambda group: str(group["last"]), reverse=True)
    return Page(
        title="Incidents",
        template="incidents.html",
        area="incidents",
        context={
            "pinned": [_make_pinned(each, asked.now) for each in pinned],
            "bursts": [_make_burst(group, asked.now) for group in groups[:KINDS_SHOWN]],
        },
        command="flux incident list",
    )


def _make_pinned(incident: Mapping[str, Any], now: datetime) -> Pinned:
    name = words.cut(str(incident["name"]))
    return Pinned(
        name=name,
        href=words.link("i", name),
        time=_span(incident, now),
        counts=f"{incident['failed']:,} of {words.count(incident['executions'], 'execution')} failed",
        failed=bool(incident["failed"]),
    )


def _make_burst(group: Mapping[str, Any], now: datetime) -> Burst:
    error = group["error"]
    kind, message = error["type"] or "no exception", error["message"]
    # To the second, so that it can be typed; what began within the last one is in it.
    since = words.read_moment(group["first"]).replace(microsecond=0)
    until = words.read_moment(group["last"]).replace(microsecond=0) + timedelta(seconds=1)
    return Burst(
        error=words.cut(f"{kind}: {message}" if message else str(kind), words.ERROR_ROOM),
        place=words.place_of(error["location"]),
        count=group["count"],
        time=f"{words.clock(group['first'], now)} to {words.clock(group['last'], now)}",
        href=words.link("i", f"{words.write_moment(since)}..{words.write_moment(until)}"),
    )


def _span(window: Mapping[str, Any], now: datetime) -> str:
    return f"{words.clock(window['since'], now)} to {words.clock(window['until'], now)}"


# --- one of them -----------------------------------------------------------------------------------


@attrs.frozen
class Kind:
    """Executions that failed in the same way."""

    failure: str
    count: int
    samples: Sequence[str]
    """Names of the latest."""


@attrs.frozen
class Reason:
    """Why a verdict is so, and of which executions it is."""

    text: str
    count: int
    names: Sequence[str]
    more: int


@attrs.frozen
class Verdict:
    """A verdict under a failure."""

    mark: str
    tone: str
    word: str
    count: int
    reasons: Sequence[Reason]


def build_incident(documents: Mapping[str, Any], asked: Asked) -> Page:
    """What failed in a window, and whether it would on the code as it is."""
    incident, run = documents["incident"], documents["run"]
    found: Sequence[Mapping[str, Any]] = documents["executions"]["executions"]
    name = words.cut(str(incident["name"] or ""))
    since, until = (words.read_moment(incident[key]) for key in ("since", "until"))
    window = f"{words.write_moment(since)}..{words.write_moment(until)}"
    meant = name or window
    rows = [make_row(summary, asked.now) for summary in found]
    described = [_describe(summary) for summary in found]
    progress = show_incident_progress(run)
    on = words.cut(str(run.get("on", ".")))
    return Page(
        title=f"Incident {name}" if name else "Incident",
        template="incident.html",
        area="incidents",
        context={
            "name": name,
            "time": _span(incident, asked.now),
            "executions": incident["executions"],
            "failed": incident["failed"],
            "not_stored": documents["executions"]["not_stored"],
            "terms": f"since:{words.write_moment(since)} until:{words.write_moment(until)}",
            "list_href": words.link(q=f"since:{words.write_moment(since)} until:{words.write_moment(until)}"),
            "rows": rows[:ROWS_SHOWN],
            "listed": len(found),
            "common": find_common(described) if len(found) > 1 else [],
            "kinds": list_kinds(found),
            "progress": progress,
            "progress_at": words.link("i", f"{meant}.progress"),
            "act": words.link("act", "incidents", meant, "replay"),
            "cancel": words.link("act", "incidents", meant, "replay", "cancel"),
            "here": words.link("i", meant),
            "on": on,
            "code": "the working tree" if on == "." else on,
            "result": None if run["state"] == "none" else _make_result(run),
        },
        command=f"flux incident replay {meant} --on {shlex.quote(on)}",
        scripts=("run.js", "incident.js"),
    )


def _describe(summary: Mapping[str, Any]) -> dict[str, str]:
    return {
        "failure": words.cut(describe_failure(summary), words.ERROR_ROOM),
        "route": words.cut(f"{summary.get('method') or ''} {summary.get('route') or ''}".strip()),
        "function": words.cut(str(summary.get("function") or "")),
        "trigger": words.cut(str(summary["trigger"])),
        "code": words.code_of(summary) if summary.get("sha") else "",
    }


def list_kinds(found: Sequence[Mapping[str, Any]]) -> list[Kind]:
    """Put executions together by how they failed, the most frequent first."""
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for summary in found:
        kinds.setdefault(str(summary.get("signature") or describe_failure(summary)), []).append(summary)
    return [
        Kind(
            failure=words.cut(describe_failure(ones[0]), words.ERROR_ROOM),
            count=len(ones),
            samples=[words.cut(str(one["name"]), 40) for one in ones[:NAMES_SHOWN]],
        )
        for ones in sorted(kinds.values(), key=len, reverse=True)[:KINDS_SHOWN]
    ]


def show_incident_progress(run: Mapping[str, Any]) -> Progress:
    """Say how far the replays of a window are."""
    if run["state"] == "none":
        return NONE
    done, total = run["replayed"], run["total"]
    said = f"{done:,} of {total:,} replayed"
    if run["state"] == "running" and run["left_ms"] is not None:
        said += f", about {words.duration(run['left_ms'])} left"
    elif run["state"] == "cancelled":
        said += ", then it was cancelled"
    rows = []
    for verdict, count in run["verdicts"].items():
        mark, tone = MARKS.get(verdict, UNKNOWN)
        rows.append(Row(tone, words.cut(f"{mark} {count:,} {verdict}")))
    return Progress(run["state"], said, done, total, rows, read_problem(run))


def _make_result(run: Mapping[str, Any]) -> dict[str, Any]:
    """What the replays say, as `flux incident replay` prints it."""
    notes = [f"{words.cut(note['note'], 500)} ({note['count']:,} of {run['replayed']:,})" for note in run["notes"]]
    if run["codes"] > 1:
        notes.insert(0, f"the code was saved meanwhile: they ran on {run['codes']} versions of it")
    return {
        "groups": [
            {
                "failure": words.cut(each["failure"], words.ERROR_ROOM),
                "count": each["count"],
                "verdicts": [_make_verdict(verdict) for verdict in each["verdicts"]],
            }
            for each in run["groups"][:KINDS_SHOWN]
        ],
        "group_count": len(run["groups"]),
        "notes": notes[:NOTES_SHOWN],
        "note_count": len(notes),
        "held": [
            words.cut(f"queue.push {each['function']} ({each['grade']}) ×{each['count']:,}")
            for each in run["held"][:NOTES_SHOWN]
        ],
        "not_stored": run["not_stored"],
        "unsettled": sum(count for verdict, count in run["verdicts"].items() if verdict not in FINE),
        "replayed": run["replayed"],
        "effects_left": run["effects_left"],
    }


def _make_verdict(said: Mapping[str, Any]) -> Verdict:
    mark, tone = MARKS.get(said["verdict"], UNKNOWN)
    return Verdict(
        mark=mark,
        tone=tone,
        word=words.cut(said["verdict"]),
        count=said["count"],
        reasons=[
            Reason(
                text=words.cut(each["reason"], 500),
                count=each["count"],
                names=[words.cut(name, 40) for name in each["names"][:NAMES_SHOWN]],
                more=max(0, each["count"] - NAMES_SHOWN),
            )
            for each in said["reasons"][:REASONS_SHOWN]
        ],
    )
