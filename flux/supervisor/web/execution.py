"""One execution: why it ended so, what it asked for, what it changed, what it said.

Its calls are drawn against time, each as a row with its bar. Of many calls the page shows some at a time; what went
wrong among the others is named above them, so that it is not to be looked for.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs

from flux.supervisor.web import words
from flux.supervisor.web.executions import Row, make_row
from flux.supervisor.web.page import Asked, Page
from flux.supervisor.web.passage import CALLS_SHOWN, FIND_CHARACTERS_MAX, choose, read_first
from flux.supervisor.web.rows_then import make_rows_then
from flux.supervisor.web.values import ROOM_IN_LINE, Shown, show, show_line, show_text

CALLS_IN_FILE = 2000
"""Calls in a file, which has no further page."""
MUTATIONS_SHOWN = 200
LOGS_SHOWN = 200
OTHERS_SHOWN = 100
"""Executions and jobs that this one caused."""
COMMAND_ROOM = 500
"""A command with less is copied whole."""
BAR_SCALE = 1000
"""Width of a bar's picture: the whole execution."""
MARK_WORDS = {"●": "recorded", "↻": "seen in a replay", "≈": "inferred"}
"""What a fact's mark says, for who does not see it."""


@attrs.frozen
class Fact:
    """Something that is known of how the execution ended."""

    mark: str
    meaning: str
    text: str
    rule: str
    """By which it was inferred; empty for what was seen."""
    call: int | None


@attrs.frozen
class Call:
    """A host call and its bar."""

    seq: int
    title: str
    kind: str
    task: str
    started: str
    took: str
    x: float
    """Where its bar begins, of `BAR_SCALE`."""
    width: float
    wrong: bool
    place: str
    function: str
    sql: Shown | None
    """A statement stands as it was written, not as JSON."""
    arguments: Shown
    result: Shown | None
    error: Shown | None
    """What the function saw raised instead of a result."""
    answered: bool


@attrs.frozen
class Cell:
    """A column of a changed row."""

    column: str
    before: Shown | None
    """None: there was none."""
    after: Shown | None


@attrs.frozen
class Change:
    """A row that was changed."""

    table: str
    key: str
    op: str
    cells: Sequence[Cell]
    committed: bool
    call: int | None
    href: str
    """The row's history."""


@attrs.frozen
class Log:
    """A line that was logged."""

    time: str
    level: str
    message: Shown
    fields: Shown | None
    place: str


@attrs.frozen
class Replayed:
    """What a replay has shown."""

    code: str
    """On which code, in words."""
    verdict: str
    reason: str
    execution: str
    """Name of its own execution; empty where none was kept, as of a check that found nothing."""
    who: str
    """What stands where there is no execution to go to."""


@attrs.frozen
class Part:
    """A titled value."""

    title: str
    value: Shown


def build_file(documents: Mapping[str, Any], asked: Asked) -> Page:
    """Everything about one execution, in a file that leads nowhere."""
    page = build_execution(documents, asked, CALLS_IN_FILE)
    children = [attrs.evolve(row, href=None) for row in page.context["children"]]
    changes = [attrs.evolve(change, href="") for change in page.context["changes"]]
    wrong = [(seq, href if href.startswith("#") else "") for seq, href in page.context["wrong"]]
    context = {
        "is_file": True, "children": children, "changes": changes, "wrong": wrong, "earlier": "", "later": "",
        "rows_then": None,  # To step through them takes a server.
    }  # fmt: skip
    return attrs.evolve(page, context={**page.context, **context})


def build_execution(documents: Mapping[str, Any], asked: Asked, room: int = CALLS_SHOWN) -> Page:
    """Everything about one execution, with so many of its calls."""
    trace, why = documents["trace"], documents["why"]
    name, calls, now = words.cut(str(trace["name"]), 40), trace["calls"], asked.now
    passage, text = documents.get("passage"), asked.query.get("find", "")
    if passage is None:  # The document has all calls, as for a file.
        seqs, bad = [call["seq"] for call in calls], [words.went_wrong(call) for call in calls]
        passage = attrs.asdict(choose(seqs, bad, None, read_first(asked.query), room))
        calls = [calls[place] for place in passage["places"]]
    first, found = passage["first"], passage["found"]
    row = make_row(trace, now)
    failure = why["failure"]
    return Page(
        title=f"{row.route} → {row.status}",
        template="execution.html",
        area="executions",
        context={
            "row": row,
            "moment": words.read_moment(trace["started_at"]).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3],
            "circumstances": describe_circumstances(trace),
            "completeness": "" if trace["completeness"] == "whole" else words.cut(trace["completeness"], 1000),
            "verdict": [words.cut(line, 1000) for line in why["verdict_text"]],
            "failure": "" if failure is None else words.place_of(failure["location"]),
            "failure_function": "" if failure is None else words.cut((failure["location"] or {}).get("function") or ""),
            "facts": [make_fact(fact) for fact in why["facts"]],
            "next": [_make_command(item) for item in why["next"]],
            "calls": [make_call(call, trace["elapsed_ms"]) for call in calls],
            "call_count": passage["total"],
            "found": found,
            "find": text,
            "find_max": FIND_CHARACTERS_MAX,
            "here": words.link("e", name),
            "first": first,
            "earlier": words.link("e", name, from_=max(0, first - room) or None, find=text) if first else "",
            "later": words.link("e", name, from_=first + room, find=text) if first + room < found else "",
            "wrong": [(each["seq"], _link_call(name, each, passage["places"], room)) for each in passage["wrong"]],
            "wrong_count": passage["wrong_count"],
            "scale": BAR_SCALE,
            "changes": [make_change(each) for each in trace["mutations"][:MUTATIONS_SHOWN]],
            "change_count": len(trace["mutations"]),
            "rows_then": make_rows_then(name, trace["mutations"], asked.query.get("rows", ""), 0 if text else first),
            "logs": [_make_log(log, now) for log in trace["logs"][:LOGS_SHOWN]],
            "log_count": len(trace["logs"]),
            "stack": [_make_frame(frame) for frame in trace["stack"]],
            "parts_shown": list_parts(trace),
            "cause": trace["cause"] and {**trace["cause"], "execution": words.cut(trace["cause"]["execution"], 40)},
            "children": _list_children(trace["children"], now),
            "child_count": len(trace["children"]),
            "jobs": [_cut_texts(job) for job in trace["jobs"][:OTHERS_SHOWN]],
            "replays": [make_replayed(replay) for replay in trace["replays"]],
            "replay_of": words.cut(trace["replay_of"] or "", 40),
            "is_http": trace["trigger"] == "http",
            "is_file": False,
            "curl": words.link("e", f"{name}.curl"),
            "markdown": words.link("e", f"{name}.md"),
            "file": words.link("e", f"{name}.html"),
            "debug": words.link("x", name),
            "pytest": words.link("act", "executions", name, "pytest"),
            "act": words.link("act", "executions", name, "replay", on="."),
        },
        command=f"flux why {name}",
        scripts=("execution.js", "steps.js"),
    )


def _link_call(name: str, wrong: Mapping[str, Any], places: Sequence[int], room: int) -> str:
    """Return the address of a call, which may be on another page."""
    place, seq = wrong["place"], wrong["seq"]
    if place in places:
        return f"#call-{seq}"
    return words.link("e", name, from_=place - place % room or None) + f"#call-{seq}"


def describe_circumstances(trace: Mapping[str, Any]) -> list[str]:
    """Return when, why and where it ran, in a few words each."""
    sandbox = trace["sandbox"]
    said = [words.cut(str(trace["trigger"]), 20), words.cut(str(trace["function"] or "no function"))]
    said.append(words.cut(f"sandbox {sandbox['kind']}, isolation {sandbox['isolation']}, clock {sandbox['clock']}"))
    if sandbox["served_before"]:
        said.append(f"warm, had served {sandbox['served_before']}")
    if trace["attempt"] and trace["trigger"] in ("queue", "cron"):
        said.append(f"attempt {trace['attempt']}")
    if trace["deployment"]:
        said.append(f"deployment {words.cut(trace['deployment'], 16)}")
    return said


def make_fact(fact: Mapping[str, Any]) -> Fact:
    """Return a fact of ``why``."""
    mark = words.cut(str(fact["mark"]), 20)
    return Fact(
        mark=mark,
        meaning=MARK_WORDS.get(mark, mark),
        text=words.cut(str(fact["text"]), 1000),
        rule=words.cut(str(fact["rule"] or "")) if mark == "≈" else "",
        call=fact["call"],
    )


def make_call(call: Mapping[str, Any], total_ms: float) -> Call:
    """Return a call, and its bar in an execution that took so long."""
    started, elapsed = call["started_ms"], call["elapsed_ms"]
    total = max(total_ms, started + elapsed, 0.001)
    arguments, location = call["arguments"], call["location"] or {}
    sql = arguments.get("sql") if isinstance(arguments, dict) else None
    rest = arguments
    if isinstance(sql, str):
        rest = {key: value for key, value in arguments.items() if key != "sql"}
    error = call["error"]
    return Call(
        seq=call["seq"],
        title=words.call_title(str(call["kind"]), arguments),
        kind=words.cut(str(call["kind"])),
        task="" if call["task"] in (None, 0) else str(call["task"]),
        started=f"+{words.duration(started)}",
        took=words.duration(elapsed),
        x=round(started / total * BAR_SCALE, 1),
        # A bar is there to be seen, however short what it stands for was.
        width=round(max(4.0, elapsed / total * BAR_SCALE), 1),
        wrong=words.went_wrong(call),
        place=words.place_of(location),
        function=words.cut(str(location.get("function") or "")),
        sql=show_text(sql) if isinstance(sql, str) else None,
        arguments=show(rest),
        result=None if error is not None or call["answered"] is None else show(call["result"]),
        error=None if error is None else show_text(f"{words.cut(error['type'])}: {error['message']}"),
        answered=call["answered"] is not None,
    )


def make_change(mutation: Mapping[str, Any]) -> Change:
    """Return a row's change: the columns that are others than before, of one that is new or gone all."""
    table, key = str(mutation["table"]), mutation["key"]
    shown_key = "" if key is None else words.key_text(key)
    return Change(
        table=words.cut(table),
        key=shown_key,
        op=words.cut(str(mutation["op"]), 20),
        cells=make_cells(mutation["before"], mutation["after"]),
        committed=bool(mutation["committed"]),
        call=mutation["call"],
        href=words.link("state", table=table, key=shown_key) if shown_key else "",
    )


def make_cells(before: Any, after: Any) -> list[Cell]:
    """Return the columns of a change. An image that is no row has none."""
    rows = [row for row in (before, after) if isinstance(row, dict)]
    cells = []
    for column in dict.fromkeys(column for row in rows for column in row):
        if _differs(rows, column):
            was, now = (
                show_line(row[column], ROOM_IN_LINE) if isinstance(row, dict) and column in row else None
                for row in (before, after)
            )
            cells.append(Cell(words.cut(str(column)), was, now))
    return cells


def _differs(rows: Sequence[Mapping[str, Any]], column: str) -> bool:
    """Say whether a column is to be shown: always of one row alone, of two where they are not the same."""
    if len(rows) == 1:
        return True
    before, after = rows
    return (column in before) != (column in after) or before[column] != after[column]


def make_replayed(replay: Mapping[str, Any]) -> Replayed:
    """Return what a replay has shown. Flux's own check of a sample keeps no execution unless it found something."""
    code = {None: "its own code", ".": "the working tree"}.get(replay["on"])
    return Replayed(
        code=code or words.cut(str(replay["on"])),
        verdict=words.cut(str(replay["verdict"])),
        reason=words.cut(str(replay["reason"])),
        execution=words.cut(replay["execution"] or "", 40),
        who="Flux's own check" if replay["is_check"] else "not kept",
    )


def _make_log(log: Mapping[str, Any], now: datetime) -> Log:
    return Log(
        time=words.clock(log["at"], now),
        level=words.cut(str(log["level"]), 20),
        message=show_text(str(log["message"])),
        fields=show_line(log["fields"], 500) if log["fields"] else None,
        place=words.place_of(log["location"]),
    )


def _make_frame(frame: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "place": words.place_of(frame),
        "function": words.cut(str(frame["function"])),
        "source": words.cut(str(frame["source"] or "")),
        "user": frame["user"],
    }


def list_parts(trace: Mapping[str, Any]) -> list[Part]:
    """Return what came in and went out: the bodies first, then what else there is of them."""
    parts: list[Part] = []
    for title, value in (("Input", trace["input"]), ("Output", trace["output"])):
        if isinstance(value, dict) and "body_format" in value:
            body = value["body"]
            shown = show_text(body) if value["body_format"] == "text" and isinstance(body, str) else show(body)
            parts.append(Part(f"{title}: body ({value['body_format']})", shown))
            rest = {key: item for key, item in value.items() if key not in ("body", "body_format") and item}
            parts.append(Part(f"{title}: head", show(rest)))
        elif value is not None:
            parts.append(Part(title, show(value)))
    if trace["user"] is not None:
        parts.append(Part("User", show(trace["user"])))
    return parts


def _list_children(children: Sequence[Mapping[str, Any]], now: datetime) -> list[Row]:
    return [make_row(child, now) for child in children[:OTHERS_SHOWN]]


def _make_command(item: Any) -> str:
    return words.cut(str(item["command"] if isinstance(item, dict) else item), COMMAND_ROOM)


def _cut_texts(document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: words.cut(value) if isinstance(value, str) else value for key, value in document.items()}
