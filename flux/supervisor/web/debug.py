"""One event of an execution: where it stands in the code, what names held, who had called, what had been asked by then.

The page is made of what was looked at before it is asked for (``GET debugs/ID``). An event that nobody has looked at is
a page with nothing on it but the way there: its script asks for it and loads the page again. So a link to an
event leads to it, and whoever only opens a page has nothing run.

What names held comes from a process in which the project's code ran. It is data when it arrives here, and text when it
leaves.
"""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from flux.seen_values import show
from flux.supervisor.web import words
from flux.supervisor.web.execution import Cell, make_cells
from flux.supervisor.web.executions import make_row
from flux.supervisor.web.page import Asked, Page
from flux.supervisor.web.values import Shown, show_line, show_text
from flux.verdict_marks import FAITHFUL

VALUE_ROOM = 300
"""Characters of what a name held."""
LOCALS_SHOWN = 100
STACK_SHOWN = 50


@attrs.frozen
class SourceLine:
    """A line of the code as it ran."""

    number: int
    text: str
    is_here: bool


@attrs.frozen
class EventLine:
    """An event of the list around the one that is shown."""

    number: int
    href: str
    said: str
    """What kind of event it is, where it is no line about to run."""
    place: str
    function: str
    source: str
    is_here: bool


@attrs.frozen
class Held:
    """A name, or an expression, and what it held."""

    name: str
    value: Shown


@attrs.frozen
class Caller:
    """A function that was running."""

    place: str
    function: str
    href: str
    is_here: bool
    """Its names are those that are shown."""


@attrs.frozen
class Past:
    """A value that a watched name has had."""

    number: int
    href: str
    value: Shown
    place: str
    is_now: bool
    """It is the one that it had at the event that is shown."""


@attrs.frozen
class CallThen:
    """A host call, as of the event that is shown."""

    seq: int
    href: str
    title: str
    began: str
    place: str
    answer: Shown | None
    """None: it is not told here."""
    is_wrong: bool
    is_made: bool
    is_heard: bool
    """Its answer had come."""
    is_answered: bool
    """It came, if only later."""
    is_last: bool
    is_whole: bool


@attrs.frozen
class RowThen:
    """A row, as of the event that is shown."""

    name: str
    href: str
    cells: Sequence[Cell]
    said: str


def build_debug(documents: Mapping[str, Any], asked: Asked) -> Page:
    """An event, or the way to it."""
    told = documents["debug"]
    row = make_row(told["execution"], asked.now)
    name = row.name
    at, is_open = told["at"], told.get("session") is not None
    command = ["flux", "trace", "debug", name, *([] if at is None else ["--at", str(at)])]
    if told["watch"]:
        command = ["flux", "trace", "debug", name, "--watch", told["watch"]]
    context: dict[str, Any] = {
        "row": row, "is_open": is_open, "at": at, "up": told["up"], "expression": told["expression"],
        "watch": told["watch"], "act": words.link("act", "debugs", name), "here": words.link("x", name),
        "execution": words.link_execution(name), "end": words.link("act", "debugs", name, "end"),
    }  # fmt: skip
    title = f"{row.route}, step by step"
    if is_open:
        context |= _describe(told, name)
        if at is not None:
            title = f"{context['place']} · event {at:,} of {told['total']:,}"
    return Page(
        title=title,
        template="debug.html",
        area="executions",
        context=context,
        command=words.cut(shlex.join(command), 500),
        scripts=("debug.js",),
    )


def _describe(told: Mapping[str, Any], name: str) -> dict[str, Any]:
    by_line = told["granularity"] == "line"
    verdict = told["verdict"]
    is_faithful = verdict is None or (verdict in FAITHFUL and told["divergence"] is None)
    context: dict[str, Any] = {
        "session": told["session"], "total": told["total"], "is_ended": told["ended"], "by_line": by_line,
        "thing": "event" if by_line else "host call",
        "verdict": words.cut(str(verdict or "")), "is_faithful": is_faithful,
        "reason": words.cut(str(told["reason"] or "it went another way"), 1000),
        "notes": [words.cut(str(note), 1000) for note in told["notes"]],
    }  # fmt: skip
    if told["at"] is None:
        return context
    event, frame, source = told["event"], told["frame"], told["source"]
    link = _Link(name, told)
    made = event["call"]
    between = told["between"]
    context |= {
        "place": _place(event["file"], event["line"]),
        "function": words.cut(str(event["function"] or "")),
        "kind": _name_kind(event),
        "detail": words.cut(str(event["detail"] or ""), 1000),
        "made": made,
        "began": words.duration(between["from_ms"]),
        "ended": words.duration(between["to_ms"]),
        "events": [_make_event(each, link, told["at"]) for each in told["events"]],
        "file": "" if source is None else words.cut(source["file"]),
        "source": [] if source is None else _list_source(source),
        "locals": _list_locals(frame, told["up"]),
        "local_count": 0 if frame is None else len(frame["locals"]),
        "has_frame": frame is not None,
        "looked_up": [
            Held(words.cut(each["expression"]), _show(each["value"])) for each in (frame or {}).get("values", ())
        ],
        "stack": _list_stack(frame, link, told["up"]),
        "history": _list_history(told["history"], link, told["at"]),
        "history_left_out": 0 if told["history"] is None else told["history"]["values_left_out"],
        "calls": [_make_call(call, name, made) for call in told["calls"]],
        "calls_before": told["calls_before"],
        "calls_after": told["calls_after"],
        "rows": [_make_row(each) for each in told["rows"]],
        "row_count": told["row_count"],
        "rows_unplaced": told["rows_unplaced"],
    }
    return context


@attrs.frozen
class _Link:
    """Addresses of other events, with what else is looked at."""

    name: str
    told: Mapping[str, Any]

    def to(self, at: int, up: int = 0) -> str:
        told = self.told
        return words.link("x", self.name, at=at, up=up or None, expression=told["expression"], watch=told["watch"])


def _show(value: Any) -> Shown:
    return show_text(show(value), VALUE_ROOM)


def _place(file: Any, line: Any) -> str:
    return words.cut(f"{file}:{line}") if file else ""


def _name_kind(event: Mapping[str, Any]) -> str:
    kind = words.cut(str(event["kind"]), 20)
    return {"line": "about to run", "call": "called", "return": "returns", "exception": "raises"}.get(kind, kind)


def _make_event(event: Mapping[str, Any], link: _Link, at: int) -> EventLine:
    return EventLine(
        number=event["event"],
        href=link.to(event["event"]),
        said="" if event["kind"] == "line" else _name_kind(event),
        place=_place(event["file"], event["line"]),
        function=words.cut(str(event["function"] or "")),
        source=words.cut(str(event["detail"] or event["source"] or "")),
        is_here=event["event"] == at,
    )


def _list_source(source: Mapping[str, Any]) -> list[SourceLine]:
    return [
        SourceLine(number, words.cut(text.expandtabs(4), 300), number == source["line"])
        for number, text in enumerate(source["lines"], source["first"])
    ]


def _list_locals(frame: Mapping[str, Any] | None, up: int) -> list[Held]:
    if frame is None:
        return []
    held = [Held(words.cut(str(name)), _show(value)) for name, value in frame["locals"].items()]
    if "returned" in frame and not up:
        held.insert(0, Held("(returned)", _show(frame["returned"])))
    return held[:LOCALS_SHOWN]


def _list_stack(frame: Mapping[str, Any] | None, link: _Link, up: int) -> list[Caller]:
    entries = [] if frame is None else frame["stack"]
    return [
        Caller(
            place=_place(entry["file"], entry["line"]),
            function=words.cut(str(entry["function"])),
            href=link.to(link.told["at"], number),
            is_here=number == up,
        )
        for number, entry in enumerate(entries[:STACK_SHOWN])
    ]


def _list_history(history: Mapping[str, Any] | None, link: _Link, at: int) -> list[Past]:
    values = [] if history is None else history["values"]
    now = max((number for number, value in enumerate(values) if value["event"] <= at), default=-1)
    return [
        Past(
            number=value["event"],
            href=link.to(value["event"]),
            value=_show(value["value"]),
            place=_place(value["file"], value["line"]),
            is_now=number == now,
        )
        for number, value in enumerate(values)
    ]


def _make_call(call: Mapping[str, Any], name: str, made: int) -> CallThen:
    error = call["error"]
    answer = None
    if error is not None:
        answer = show_text(f"{words.cut(error['type'])}: {error['message']}", VALUE_ROOM)
    elif call["answered"] is not None and call["whole"]:
        answer = show_line(call["result"], VALUE_ROOM)
    return CallThen(
        seq=call["seq"],
        href=f"{words.link_execution(name)}#call-{call['seq']}",
        title=words.call_title(str(call["kind"]), call["arguments"]),
        began=f"+{words.duration(call['started_ms'])}",
        place=words.place_of(call["location"]),
        answer=answer,
        is_wrong=call["heard"] and words.went_wrong(call),
        is_made=call["seq"] <= made,
        is_heard=call["heard"],
        is_answered=call["answered"] is not None,
        is_last=call["seq"] == made,
        is_whole=call["whole"],
    )


def _make_row(row: Mapping[str, Any]) -> RowThen:
    table, key = str(row["table"]), words.key_text(row["key"])
    if row["exists"] is None:
        said = f"call {row['until']} had been made, which changes it, and had not been answered"
    elif row["since"] is not None:
        said = f"since call {row['since']}" if row["exists"] else f"deleted by call {row['since']}"
        said = said if row["committed"] else f"{said}; rolled back in the end"
    else:
        said = f"until call {row['until']} changes it" if row["exists"] else f"not there until call {row['until']}"
    if not row["whole"]:
        said = f"{said}; too long to stand here"
    return RowThen(
        name=f"{words.cut(table)}[{key}]",
        href=words.link("state", table=table, key=key),
        cells=make_cells(None, row["row"]),
        said=said,
    )
