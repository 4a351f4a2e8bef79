"""How Flux's nouns look on a terminal.

Functions here take `Record`s and give pieces or lines; they print nothing, so
every command says the same thing in the same way: an execution is one line, a
value is JSON, a place is ``file:line``, a mutation is ``column before → after``.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from flux.cli import moments
from flux.cli.failures import MalformedAnswer
from flux.cli.record import Record
from flux.cli.screen import (
    Line,
    Piece,
    WholeLine,
    cells,
    cut,
    json_text,
    line_cells,
    pad,
    padded,
    spread,
    wrap,
    wrap_hanging,
)
from flux.verdict_marks import MARKS

PREFIX_MIN = 3
"""The shortest prefix shown in bold: what is unique on the screen is seldom unique on the server."""

VALUE_CELLS_MAX = 48
"""Longer values are cut, with a note that -v shows them whole."""

TIMELINE_ROWS_MAX = 15
"""More calls than this push the commands to type next off the screen."""

NOISE = frozenset({"clock", "entropy", "random", "log"})
"""Interfaces whose calls every execution makes; a timeline counts them instead of listing them."""

_STYLES = {"good": "bold green", "warn": "bold yellow", "bad": "bold red"}
VERDICT_MARKS = {verdict: (mark, _STYLES[tone]) for verdict, (mark, tone) in MARKS.items()}
"""How each verdict on a replay is shown."""


# --- names -----------------------------------------------------------------------------------------


class Prefixes:
    """How much of each name is needed to tell it from the others on the screen."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names: list[str] = sorted(set(names))

    def add(self, name: str) -> None:
        """Count one more name; a stream learns them one by one."""
        from bisect import bisect_left

        at = bisect_left(self._names, name)
        if at == len(self._names) or self._names[at] != name:
            self._names.insert(at, name)

    def pieces(self, name: str) -> list[Piece]:
        """The name, its needed part in bold."""
        from bisect import bisect_left

        at = bisect_left(self._names, name)
        near = [*self._names[max(0, at - 1) : at], *self._names[at + 1 : at + 2]]
        needed = max([PREFIX_MIN, *(_shared(name, other) + 1 for other in near if other != name)])
        return [Piece(name[:needed], "bold"), Piece(name[needed:], "dim")]


def _shared(one: str, other: str) -> int:
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count


# --- an execution ----------------------------------------------------------------------------------


def failed(summary: Record) -> bool:
    """Whether the execution went wrong: it was stopped, answered 5xx, or raised with nobody to answer.

    An answer of 4xx is the function's own choice, raised or not.
    """
    word = outcome_word(summary)
    if word in ("killed", "exited", "interrupted"):
        return True
    status = summary.maybe_number("status")
    if status is not None:
        return status >= 500
    return word == "raised" or summary.data.get("error") is not None


def outcome_word(summary: Record) -> str:
    """``returned``, ``raised``, ``killed``, ``exited`` or ``interrupted``."""
    outcome = summary.get("outcome")
    if isinstance(outcome, dict):  # An outcome with its particulars names itself in "kind".
        return Record(outcome, summary.path("outcome")).text("kind")
    return summary.text("outcome")


def status_piece(summary: Record) -> Piece:
    """``201``, or ``ok`` and the like where nobody asked over HTTP."""
    status = summary.maybe_number("status")
    if status is not None:
        style = "red bold" if status >= 500 else "yellow" if status >= 400 else "green"
        return Piece(f"{status:g}", style)
    word = outcome_word(summary)
    if word == "returned":
        return Piece("failed", "red bold") if failed(summary) else Piece("ok", "green")
    return Piece({"raised": "failed", "exited": "crashed", "interrupted": "cut"}.get(word, word), "red bold")


def route(summary: Record) -> str:
    """``POST /signup``, or the trigger and the function: ``cron nightly``."""
    method, path = summary.maybe_text("method"), summary.maybe_text("path")
    if path:
        return f"{method or '?'} {path}"
    return f"{trigger_word(summary)} {summary.maybe_text('function') or '?'}"


def trigger_word(summary: Record) -> str:
    """``http``, ``queue``, ``cron``, ``invoke``: what began the execution."""
    trigger = summary.get("trigger")
    if isinstance(trigger, dict):
        return Record(trigger, summary.path("trigger")).text("kind")
    return summary.text("trigger")


def took(summary: Record) -> str:
    """How long it took; an interrupted one never ended."""
    elapsed_ms = summary.maybe_number("elapsed_ms")
    return "?" if elapsed_ms is None else moments.duration(elapsed_ms)


def code(summary: Record) -> str:
    """The commit that ran: ``3f9c1e2``, with ``+`` when the tree was dirty."""
    sha = summary.maybe_text("sha") or "no code"
    return sha.removeprefix("nogit-")[:7] + ("+" if summary.data.get("dirty") else "")


def calls_text(calls: Any) -> str:
    """``3 calls``, or by kind, ``4db 1queue``, when the server counts them so."""
    if isinstance(calls, dict):
        return " ".join(f"{count}{kind}" for kind, count in calls.items() if count)
    if isinstance(calls, list):
        calls = len(calls)
    return "" if not calls else f"{calls} call" if calls == 1 else f"{calls} calls"


def error_parts(error: Any) -> tuple[str, str]:
    """The error as ``Type: message``, and where it was raised, or empty."""
    match error:
        case {"type": kind, **rest}:
            message = rest.get("message")
            location = rest.get("location")
            text = f"{kind}: {message}" if message not in (None, "") else f"{kind}"
            return text, place(location) if isinstance(location, dict) else ""
        case str():
            return error, ""
        case _:
            return json_text(error), ""


def place(location: Mapping[str, Any] | None) -> str:
    """``functions/signup.py:16``."""
    if not location or not location.get("file"):
        return ""
    line = location.get("line")
    return f"{location['file']}:{line}" if line else str(location["file"])


TABLE_HEAD = ("id", "time", "status", "route", "took", "calls", "code")


def _columns(width: int, time_cells: int) -> int:
    """What is left for the route when all other columns have their room."""
    # Indentation and id, time, status, took, calls, and the commit with its "+".
    return max(16, width - (2 + 9 + 1) - (time_cells + 1) - (6 + 1) - (1 + 8 + 2) - (9 + 1) - 8)


def table_head(width: int, time_cells: int) -> Line:
    """The heading over `summary_line`s."""
    room = _columns(width, time_cells)
    first, second, third, fourth, fifth, sixth, last = TABLE_HEAD
    text = f"  {first:<9} {second:<{time_cells}} {third:<6} {fourth:<{room}} {fifth:>8}  {sixth:<9} {last}"
    return [Piece(text, "dim")]


def summary_line(summary: Record, prefixes: Prefixes, width: int, now: datetime, time_cells: int) -> Line:
    """One execution on one line."""
    name = summary.text("name")
    started_at = moments.read_moment(summary.text("started_at"), summary.path("started_at"))
    time = moments.clock(started_at, now, milliseconds=True)
    room = _columns(width, time_cells)
    return [
        "  ",
        *padded(prefixes.pieces(name), 9),
        " ",
        Piece(pad(time, time_cells), "dim"),
        " ",
        *padded([status_piece(summary)], 6),
        " ",
        Piece(pad(cut(route(summary), room), room)),
        " ",
        pad(took(summary), 8, right=True),
        "  ",
        Piece(pad(calls_text(summary.get("calls")), 9), "dim"),
        " ",
        Piece(code(summary), "dim"),
    ]


def error_lines(summary: Record, width: int, *, whole: bool) -> list[Line]:
    """What went wrong, to stand beneath the execution on one line, or whole; nothing when nothing did."""
    error = summary.get("error")
    if error is None:
        word = outcome_word(summary)
        if word not in ("killed", "exited", "interrupted"):
            return []
        error = f"{word}: the execution did not end by itself"
    text, where = error_parts(error)
    mark, style = ("✗ ", "red") if failed(summary) else ("· ", "yellow")
    indent = " " * 13
    # The place stays whole: of the two, it is what one goes to.
    beside = cells(where) + 3 if where else 0
    if not whole:
        shown = cut(text, max(20, width - 15 - beside))
        return [[indent, Piece(mark + shown, style), Piece("   " + where if where else "", "cyan")]]
    first, *rest = wrap(text, max(20, width - 15))
    lines: list[Line] = [[indent, Piece(mark + first, style)]]
    for line in rest:
        lines.append([indent, Piece("  " + line, style)])
    if where and line_cells(lines[-1]) + beside <= width:
        return [*lines[:-1], [*lines[-1], Piece("   " + where, "cyan")]]
    return [*lines, [indent, Piece("  " + where, "cyan")]] if where else lines


def parent_line(summary: Record, names: Mapping[str, str]) -> Line | None:
    """Which execution caused this one; None when it began by itself."""
    parent = summary.data.get("parent")
    if parent is None:
        return None
    key = parent.get("name") or parent.get("id") if isinstance(parent, dict) else str(parent)
    return [Piece(f"             └ caused by {names.get(str(key), key)}", "dim")]


def header(summary: Record, width: int) -> list[Line]:
    """``POST /signup → 500 in 14 ms``, and at the right which execution this is."""
    # What was cut lasted at least until the last thing that was written down of it.
    length = f" after {took(summary)} or more" if outcome_word(summary) == "interrupted" else f" in {took(summary)}"
    left: list[Piece | str] = [Piece(route(summary), "bold"), Piece(" → "), status_piece(summary), length]
    branch = summary.maybe_text("branch")
    right = [Piece(" · ".join(filter(None, [summary.text("name"), code(summary), branch])), "dim")]
    return spread(left, right, width)


def completeness_line(summary: Record) -> Line | None:
    """A warning when the record is partial; None when it is whole."""
    completeness = summary.data.get("completeness")
    if completeness in (None, "whole", "complete", True, 1, 1.0):
        return None
    said = completeness if isinstance(completeness, str) else json_text(completeness)
    return [Piece(f"  ! this record is not whole: {said}", "yellow")]


def not_stored_line(answer: Record) -> Line | None:
    """A warning when executions have ended and the database does not take their records; else None."""
    count = answer.maybe_number("not_stored")
    if not count:
        return None
    what = "execution that has just ended is" if count == 1 else "executions that have just ended are"
    return [Piece(f"  ! {count:g} {what} not stored yet, and not shown: flux doctor", "yellow")]


# --- values ----------------------------------------------------------------------------------------


def value_text(value: Any, *, whole: bool, width: int = VALUE_CELLS_MAX) -> str:
    """A recorded value as JSON on one line, cut unless it is wanted whole."""
    text = json_text(value)
    return text if whole else cut(text, width)


def fields_text(row: Mapping[str, Any], *, whole: bool) -> str:
    """A row's columns side by side: ``email "a@b.com", plan "free"``."""
    return ", ".join(f"{name} {value_text(value, whole=whole, width=32)}" for name, value in row.items())


def block(title: str, value: Any, width: int, *, whole: bool, column: int = 8) -> list[Line]:
    """A titled value: on its title's line when it fits, else as indented JSON, cut after some lines.

    ``column`` is the room for the title, the same for blocks that stand beneath each other.
    """
    text = json_text(value)
    head = f"  {title:<{column}} "
    if cells(head) + cells(text) <= width:
        return [[Piece(head, "bold"), text]]
    import json

    lines = json.dumps(value, ensure_ascii=False, indent=2).split("\n")
    room = 12
    shown = lines if whole or len(lines) <= room + 1 else lines[:room]
    result: list[Line] = [[Piece(f"  {title}", "bold")]]
    for line in shown:
        parts = wrap_hanging(line, width - 4) if whole else [cut(line, width - 4)]
        result += [["    " + part] for part in parts]
    if len(shown) < len(lines):
        result.append([Piece(f"    … {len(lines) - len(shown)} more lines (-v)", "dim")])
    elif not whole and any(cells(line) > width - 4 for line in lines):
        result.append([Piece("    … long values are cut (-v)", "dim")])
    return result


# --- mutations -------------------------------------------------------------------------------------


def row_name(table: str, key: Any) -> str:
    """``users[42]``; a composite key as ``a=1,b=2``, the way it is typed."""
    if isinstance(key, dict):
        inner = (
            _bare(next(iter(key.values())))
            if len(key) == 1
            else ",".join(f"{name}={_bare(value)}" for name, value in key.items())
        )
    elif isinstance(key, list):
        inner = ",".join(map(_bare, key))
    else:
        inner = _bare(key)
    return f"{table}[{inner}]"


def _bare(value: Any) -> str:
    return value if isinstance(value, str) else json_text(value)


def changes(mutation: Record, *, whole: bool) -> list[str]:
    """What the mutation did, a line for each column: ``plan  "free" → null``."""
    op = mutation.text("op")
    before, after = mutation.data.get("before"), mutation.data.get("after")
    if op == "truncate":
        return ["the whole table was emptied"]
    if isinstance(before, dict) and isinstance(after, dict):
        names = [*before, *(name for name in after if name not in before)]
        changed = [
            name
            for name in names
            if before.get(name) != after.get(name) or (name in before) != (name in after)
        ]
        column = max((cells(name) for name in changed), default=0)
        return [
            f"{pad(name, column)}  {_side(before, name, whole)} → {_side(after, name, whole)}"
            for name in changed
        ] or ["written without a change"]
    if isinstance(after, dict):
        return [f"+ row   {fields_text(after, whole=whole)}"]
    if isinstance(before, dict):
        return [f"− row   {fields_text(before, whole=whole)}"]
    return [op]


def _side(row: Mapping[str, Any], name: str, whole: bool) -> str:
    return value_text(row[name], whole=whole, width=32) if name in row else "(absent)"


def mutation_lines(
    mutations: Sequence[Record], places: Mapping[int, str], width: int, *, whole: bool
) -> list[Line]:
    """Rows before and after, what was committed apart from what was not."""
    result: list[Line] = []
    for committed, title in ((True, "committed"), (False, "rolled back")):
        chosen = [mutation for mutation in mutations if mutation.flag("committed") is committed]
        if not chosen:
            continue
        result += [[], [Piece("  state, ", "bold"), Piece(title, "green" if committed else "yellow")]]
        names = [row_name(mutation.text("table"), mutation.get("key")) for mutation in chosen]
        column = min(24, max(map(cells, names)))
        for name, mutation in zip(names, chosen, strict=True):
            call = mutation.maybe_number("call")
            where = places.get(int(call), f"call {call:g}") if call is not None else ""
            for index, text in enumerate(changes(mutation, whole=whole)):
                left = f"    {pad(name if index == 0 else '', column)}  "
                if not whole:
                    room = width - cells(left) - (cells(where) + 2 if index == 0 else 0)
                    text = cut(text, max(24, room))
                right = [Piece(where, "cyan")] if where and index == 0 else []
                result += spread([left, text], right, width)
    return result


# --- calls -----------------------------------------------------------------------------------------


def call_title(kind: str, arguments: Any) -> str:
    """A host call in a few words: ``db   UPDATE users``, ``http POST api.stripe.com/v1/charges``."""
    interface = kind.partition(".")[0]
    if isinstance(arguments, dict):
        sql, url, function = (arguments.get(key) for key in ("sql", "url", "function"))
        if isinstance(sql, str):
            return f"db   {statement(sql)}"
        if isinstance(url, str):
            short = re.sub(r"^[a-z]+://", "", url).partition("?")[0]
            return f"http {arguments.get('method', 'GET')} {short}"
        if isinstance(function, str):
            return f"{interface:<4} {function}"
    if interface == "db":
        return f"db   {kind.partition('.')[2].upper()}"
    return kind


def statement(sql: str) -> str:
    """The verb and the table of a statement; its first words when it is of another make."""
    flat = " ".join(sql.split())
    found = re.match(
        r'(?i)(insert)\s+into\s+([\w."]+)|(update)\s+(?:only\s+)?([\w."]+)|(delete)\s+from\s+(?:only\s+)?([\w."]+)'
        r'|(select)\b.*?\bfrom\s+([\w."]+)',
        flat,
    )
    if found is None:
        return flat
    verb, table = (group for group in found.groups() if group is not None)
    detail = ""
    if verb.lower() == "update" and (column := re.search(r'(?i)\bset\s+([\w"]+)\s*=', flat)):
        detail = f".{column[1]}"
    return f"{verb.upper()} {table}{detail}"


def is_noise(call: Record) -> bool:
    """Whether the call is of the kind that every execution makes, and nothing is wrong with it."""
    return call.text("kind").partition(".")[0] in NOISE and call.data.get("error") is None


def went_wrong(call: Record) -> bool:
    """Whether the host refused it or failed, or the execution ended before the answer."""
    return call.data.get("error") is not None or call.data.get("answered", 1) is None


def bar(started_ms: float, elapsed_ms: float, total_ms: float, width: int) -> str:
    """Where a call lies within its execution: ``····████····``."""
    total_ms = max(total_ms, started_ms + elapsed_ms, 0.001)
    start = min(width - 1, int(started_ms / total_ms * width))
    length = max(1, min(width - start, round(elapsed_ms / total_ms * width)))
    return "·" * start + "█" * length + "·" * (width - start - length)


def ends(calls: Sequence[Record], count: int) -> tuple[Sequence[Record], Sequence[Record]]:
    """The first and the last of so many that not all are shown: things begin there, and go wrong there."""
    if len(calls) <= count + 1:  # A line to say that one is missing would take the room of that one.
        return calls, []
    return calls[: count // 3], calls[len(calls) - (count - count // 3) :]


def timeline(trace: Record, width: int, *, whole: bool) -> list[Line]:
    """The calls of an execution against time."""
    calls = trace.records("calls")
    told = [call for call in calls if whole or not is_noise(call)]
    first, last = (told, []) if whole else ends(told, TIMELINE_ROWS_MAX)
    shown = [*first, *last]
    total_ms = trace.maybe_number("elapsed_ms") or 0.0
    titles = [call_title(call.text("kind"), call.get("arguments")) for call in shown]
    title_cells = min(max([*map(cells, titles), cells(route(trace)), 16]), max(20, (width - 30) // 2))
    bar_cells = max(8, width - 4 - 9 - title_cells - 2 - 10)

    def row(started_ms: float, title: Piece, graph: Piece, length: str) -> Line:
        return [
            "    ", Piece(pad("+" + moments.duration(started_ms).replace(" ms", ""), 8), "dim"),
            Piece(pad(cut(title.text, title_cells), title_cells), title.style), "  ", graph,
            " ", pad(length, 9, right=True),
        ]  # fmt: skip

    result: list[Line] = [[], [Piece("  timeline", "bold")]]
    whole_bar = Piece(bar(0, total_ms, total_ms, bar_cells), "dim")
    result.append(row(0, Piece(route(trace), "bold"), whole_bar, took(trace)))
    for index, (call, title) in enumerate(zip(shown, titles, strict=True)):
        if last and index == len(first):
            result.append([Piece(f"    … {len(told) - len(shown)} more (-v)", "dim")])
        wrong = went_wrong(call)
        started_ms, elapsed_ms = call.number("started_ms"), call.number("elapsed_ms")
        graph = Piece(bar(started_ms, elapsed_ms, total_ms, bar_cells), "red" if wrong else "blue")
        mark = "✗ " if wrong else ""
        result.append(
            row(started_ms, Piece(mark + title, "red" if wrong else ""), graph, moments.duration(elapsed_ms))
        )
    if len(told) < len(calls):
        count = len(calls) - len(told)
        result.append([Piece(f"    … {count} clock, random and log call{'s' * (count != 1)} (-v)", "dim")])
    return result


def places_of_calls(trace: Record) -> dict[int, str]:
    """``file:line`` of each call that has one, by its number."""
    found: dict[int, str] = {}
    for call in trace.records("calls"):
        location = call.maybe_record("location")
        if location is not None and place(location.data):
            found[int(call.number("seq"))] = place(location.data)
    return found


def next_command(item: Any, where: str) -> str | tuple[str, str]:
    """A command to type, alone or with its purpose."""
    match item:
        case str():
            return item
        case {"command": str(command), "purpose": str(purpose)}:
            return command, purpose
        case _:
            raise MalformedAnswer(f"the server's answer has no command at {where}", remedy="compare versions")


def next_lines(commands: Sequence[str | tuple[str, str]], width: int) -> list[Line]:
    """The commands to type next, each whole however narrow the terminal, and with what it is for where that fits."""
    result: list[Line] = [[]]
    pairs = [command if isinstance(command, tuple) else (command, "") for command in commands]
    # Aligned, but for a command so long that the others' purposes would have no room.
    column = max((cells(command) for command, _ in pairs if cells(command) <= 34), default=0)
    for index, (command, purpose) in enumerate(pairs):
        head = "  next     " if index == 0 else "           "
        line: list[Piece | str] = [Piece(head, "bold"), Piece(pad(command, column), "cyan")]
        if purpose and cells(head) + max(column, cells(command)) + 2 + cells(purpose) <= width:
            line.append(Piece("  " + purpose, "dim"))
        result.append(WholeLine(line))
    return result
