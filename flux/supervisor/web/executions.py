"""The list of executions, and failures by kind.

A row of the list has one form, `Row`, whether it comes with the page or afterwards as an event: the page's script puts
the same texts into the same places.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import attrs

from flux.filter import FilterError, MomentError, parse
from flux.sanitize import sanitize
from flux.supervisor.web import words
from flux.supervisor.web.page import Asked, Page

BAR_WIDTH = 10
CHART_HEIGHT = 40
LIVE_OVERLAP = timedelta(seconds=30)
"""What begins this long before the page is made may end after it, and comes as an event."""


@attrs.frozen
class Row:
    """An execution in a list, as text."""

    name: str
    href: str | None
    """Its page; None in a file, which leads nowhere."""
    at: str
    """RFC 3339: the order of the list."""
    time: str
    status: str
    tone: str
    """See `flux.supervisor.web.words.Status`."""
    route: str
    took: str
    calls: str
    code: str
    error: str
    """Empty where nothing went wrong."""
    place: str
    """Where that was raised."""
    failed: bool


def make_row(summary: Mapping[str, Any], now: datetime) -> Row:
    """Return an execution as a row."""
    status = words.status_of(summary)
    error = summary.get("error") or {}
    name = words.cut(str(summary["name"]), 40)
    calls = summary["calls"]  # A whole execution has them all, where a summary has their number.
    call_count = len(calls) if isinstance(calls, list) else calls
    return Row(
        name=name,
        href=words.link_execution(name),
        at=str(summary["started_at"]),
        time=words.clock(summary["started_at"], now),
        status=status.word,
        tone=status.tone,
        route=words.route_of(summary),
        took=words.duration(summary.get("elapsed_ms")),
        calls=words.count(call_count, "call") if call_count else "",
        code=words.code_of(summary),
        error=words.error_of(summary),
        place=words.place_of(error.get("location")),
        failed=words.has_failed(summary),
    )


def write_row(row: Row) -> bytes:
    """Return a row as one line of JSON, for the page's script, which puts it in as text."""
    shown = {
        name: sanitize(value) if isinstance(value, str) else value
        for name, value in attrs.asdict(row).items()
    }
    return json.dumps(shown).encode()


@attrs.frozen
class Bar:
    """What ended in a minute, in the units of the chart's picture."""

    x: int
    failed: float
    """Height of what went wrong."""
    passed: float
    since: str
    """When the minute begins, RFC 3339."""


def build_executions(documents: Mapping[str, Any], asked: Asked) -> Page:
    """The list."""
    found: Sequence[Mapping[str, Any]] = documents["executions"]["executions"]
    text = asked.query.get("q", "")
    activity = documents.get("activity")
    command = "flux tail" if not text and "before" not in asked.query else "flux trace list"
    since = (asked.now - LIVE_OVERLAP).isoformat().replace("+00:00", "Z")
    return Page(
        title="Executions",
        template="executions.html",
        area="executions",
        context={
            "rows": [make_row(summary, asked.now) for summary in found],
            "not_stored": documents["executions"]["not_stored"],
            "query": text,
            "incident": find_incident_link(text, asked.now),
            "live": "" if "before" in asked.query else words.link("executions.events", q=text, since=since),
            "older": words.link(q=text, before=found[-1]["name"]) if len(found) >= 50 else "",
            "newest": words.link(q=text) if "before" in asked.query else "",
            "bars": [] if activity is None else make_bars(activity),
            "chart": "" if activity is None else describe_activity(activity),
            "width": 0 if activity is None else BAR_WIDTH * len(activity["buckets"]),
            "height": CHART_HEIGHT,
            "until": "" if activity is None else activity["until"],
        },
        command=command + (f" -q {quote_word(text)}" if text else ""),
        scripts=("live.js",),
        filter=text,
    )


def find_incident_link(text: str, now: datetime) -> str:
    """Return the address of the incident of a filter that says from when to when; empty of any other text."""
    try:
        terms = parse(text, now).terms
    except (FilterError, MomentError):
        return ""  # The API, which is asked first, refuses it with its reason.
    times = {term.key: term.value for term in terms if not term.negated}
    since, until = times.get("since"), times.get("until")
    if not (isinstance(since, datetime) and isinstance(until, datetime) and since <= until):
        return ""
    return words.link("i", f"{words.write_moment(since)}..{words.write_moment(until)}")


def make_bars(activity: Mapping[str, Any]) -> list[Bar]:
    """Return the chart of an activity: a bar for each bucket."""
    buckets = activity["buckets"]
    most = max([1, *(bucket["executions"] for bucket in buckets)])
    scale = CHART_HEIGHT / most
    return [
        Bar(
            x=number * BAR_WIDTH,
            failed=round(bucket["failed"] * scale, 2),
            passed=round((bucket["executions"] - bucket["failed"]) * scale, 2),
            since=bucket["at"],
        )
        for number, bucket in enumerate(buckets)
    ]


def describe_activity(activity: Mapping[str, Any]) -> str:
    """Say what the chart shows."""
    total = sum(bucket["executions"] for bucket in activity["buckets"])
    failed = sum(bucket["failed"] for bucket in activity["buckets"])
    return f"the last hour: {words.count(total, 'execution')}, {failed:,} failed"


def quote_word(text: str) -> str:
    """Return a word of a command for a shell."""
    return "'" + text.replace("'", "'\\''") + "'"


# --- failures by kind ------------------------------------------------------------------------------


@attrs.frozen
class Group:
    """Failures that have the same signature."""

    error: str
    place: str
    count: int
    first: str
    last: str
    functions: str
    sample: str
    """Name of the latest."""


def build_errors(documents: Mapping[str, Any], asked: Asked) -> Page:
    """Failures by kind."""
    since = asked.query.get("since", "")
    return Page(
        title="Errors",
        template="errors.html",
        area="errors",
        context={
            "groups": [_make_group(group, asked.now) for group in documents["errors"]["groups"]],
            "not_stored": documents["errors"]["not_stored"],
            "since": since,
            "spans": ("15m", "1h", "1d", "7d"),
        },
        command="flux errors" + (f" --since {quote_word(since)}" if since else ""),
    )


def _make_group(group: Mapping[str, Any], now: datetime) -> Group:
    error = group["error"]
    message = error["message"]
    kind = error["type"] or "no exception"
    return Group(
        error=words.cut(f"{kind}: {message}" if message else kind, words.ERROR_ROOM),
        place=words.place_of(error["location"]),
        count=group["count"],
        first=words.clock(group["first"], now),
        last=words.clock(group["last"], now),
        functions=words.cut(", ".join(group["functions"])),
        sample=words.cut(group["sample"], 40),
    )
