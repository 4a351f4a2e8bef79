"""``flux trace diff``: two executions side by side, and the first call that differs.

The verdict stands in the first lines, then how the requests differ, then each call of A beside
its counterpart of B. The first one that differs is shown with both sides in full: what was asked, what
was answered, and where in the code. What was left out (ids, times, random text) is counted at
the end; ``--all`` shows it. On a narrow terminal the two sides stand beneath each other.
"""

import shlex
from collections.abc import Callable, Sequence

import click

from flux.cli import moments, render
from flux.cli.client import INVOKE_TIMEOUT_S, Answer, Client, open_client
from flux.cli.complete import execution_ids
from flux.cli.failures import EXIT_FINDING, UsageError
from flux.cli.record import Record
from flux.cli.screen import Line, Piece, Screen, cells, cut, json_text, pad, spread, wrap
from flux.cli.settings import settings
from flux.sanitize import sanitize

STYLES = {
    "IDENTICAL": ("=", "bold green"),
    "FIXED": ("✓", "bold green"),
    "REGRESSED": ("✗", "bold red"),
    "BEHAVIOUR CHANGED": ("≠", "bold yellow"),
}
FINE = frozenset({"IDENTICAL", "FIXED"})
"""Verdicts that are no finding."""
MARK_STYLES = {"=": "dim", "≈": "cyan", "≠": "yellow", "↕": "yellow", "+": "green", "−": "red", "?": "dim"}
MARK_WORDS = {
    "≈": "≈ follows from the request or from an earlier answer",
    "↕": "↕ in another order",
    "?": "? not seen: the other side was stopped before",
}
LEFT_OUT = (
    ("ids", "id", "ids"),
    ("times", "time", "times"),
    ("tokens", "random token", "random tokens"),
    ("redacted", "redacted value", "redacted values"),
    ("run_to_run", "value that differs from run to run", "values that differ from run to run"),
    ("transport", "transport header", "transport headers"),
    ("order", "concurrent call in another order", "concurrent calls in another order"),
    ("streams", "clock, random or wait call", "clock, random and wait calls"),
)
WIDE = 84
"""From this width on, A and B stand beside each other."""
ROWS_MAX = 40
"""Calls shown; what is left out then is the same on both sides."""
AROUND = 2
"""Calls that are the same, shown before and after one that is not."""
DIFFERENCES_SHOWN = 8
COLUMN_MAX = 44


@click.command()
@click.argument("a", metavar="A", shell_complete=execution_ids)
@click.argument("b", metavar="B", shell_complete=execution_ids)
@click.option("--all", "shows_all", is_flag=True, help="Show what was left out as noise, too.")
def command(a: str, b: str, shows_all: bool) -> int:
    """Two executions side by side: the first call that differs, and what it amounts to.

    A and B are executions. B may also be A@REF, which is A run again on that commit, or . for A on the
    project's folder as it is; nothing leaves in either.
    """
    said = settings()
    answer = _ask(open_client(), a, b, shows_all=shows_all)
    diff = answer.record.of_schema("flux.trace-diff/1")
    screen = Screen.stdout()
    if said.json:
        screen.write_raw_json(answer.text)
    else:
        screen.page(lines(diff, screen.width, whole=said.verbose, quiet=said.quiet))
    return 0 if diff.text("verdict") in FINE else EXIT_FINDING


def _ask(client: Client, a: str, b: str, *, shows_all: bool) -> Answer:
    query = {"all": 1} if shows_all else {}
    if b == ".":
        return client.post("executions", a, "diff", body="{}", timeout_s=INVOKE_TIMEOUT_S, on=".", **query)
    name, separator, ref = b.rpartition("@")
    if not (separator and name):  # @-1 and @last-error have nothing before the @.
        return client.get("executions", a, "diff", b, **query)
    if not ref:
        raise UsageError(f"flux trace diff: {b} names no commit", remedy=f"flux trace diff {a} {a}@HEAD")
    if name != a and _name(client, name) != _name(client, a):
        raise UsageError(
            f"flux trace diff: {b} is a replay of another execution than {a}",
            remedy=f"flux trace diff {a} {a}@{ref}, or flux trace diff {name} {b}",
        )
    return client.post("executions", a, "diff", body="{}", timeout_s=INVOKE_TIMEOUT_S, on=ref, **query)


def _name(client: Client, id: str) -> str:
    return client.get("executions", id).record.text("name")


def lines(diff: Record, width: int, *, whole: bool, quiet: bool) -> list[Line]:
    """The whole answer."""
    verdict = diff.text("verdict")
    mark, style = STYLES.get(verdict, ("?", "bold"))
    result: list[Line] = [
        *_sides(diff, width),
        [],
        ["  ", Piece(f"{mark} {verdict}", style)],
        *[["    " + line] for line in wrap(_sentence(diff.text("reason")), width - 4)],
    ]
    for note in diff.items("notes"):
        result += [
            [Piece("  ! " if index == 0 else "    ", "yellow"), line]
            for index, line in enumerate(wrap(str(note), width - 4))
        ]
    result += _input(diff, width, whole=whole)
    result += _calls(diff, width, whole=whole)
    result += first_lines(diff, width, whole=whole)
    result += _rest(diff, width, whole=whole)
    result += _code(diff, width)
    result += _left_out(diff, width, whole=whole)
    return result if quiet else [*result, *render.next_lines(_next(diff), width)]


def _sentence(reason: str) -> str:
    return reason[:1].upper() + reason[1:]


# --- the two ---------------------------------------------------------------------------------------


def _sides(diff: Record, width: int) -> list[Line]:
    result: list[Line] = []
    replay = diff.maybe_record("replay")
    for name in ("a", "b"):
        side = diff.record(name)
        told: list[Piece | str] = [
            Piece(f"{name.upper()} ", "bold"),
            Piece(side.text("name"), "bold"),
            "  ",
            *_status(replay if name == "b" else None, side),
            f"  {render.took(side)}",
        ]
        what = render.route(side)
        if name == "b" and replay is not None:
            on = replay.text("on")
            what = f"A on {'the project’s folder' if on == '.' else on}"
        result += spread(
            told, [Piece(cut(what, max(16, width // 2)) + f" · {render.code(side)}", "dim")], width
        )
    if diff.flag("same_code"):
        result.append([Piece("both ran the same code", "dim")])
    return result


def _status(replay: Record | None, side: Record) -> list[Piece]:
    if replay is not None and replay.maybe_text("stopped") is not None:
        return [Piece("stopped", "yellow")]
    return [render.status_piece(side)]


def _input(diff: Record, width: int, *, whole: bool) -> list[Line]:
    found = diff.records("input")
    if not found:
        return []
    return [[], [Piece("  input", "bold")], *difference_lines(found, width, 4, whole=whole)]


# --- calls -----------------------------------------------------------------------------------------


def _calls(diff: Record, width: int, *, whole: bool) -> list[Line]:
    calls = diff.records("calls")
    if not calls:
        return [[], [Piece("  calls    ", "bold"), "neither asked for anything"]]
    shown = set(range(len(calls))) if whole else _choose(calls)
    result: list[Line] = [[], _head(width)]
    skipped = 0
    for index, call in enumerate(calls):
        if index not in shown:
            skipped += 1
            continue
        if skipped:
            result.append([Piece(f"       … {skipped} more (-v)", "dim")])
            skipped = 0
        result += _row(call, index + 1, width)
    if skipped:
        result.append([Piece(f"       … {skipped} more (-v)", "dim")])
    marks = {call.text("mark") for call in calls}
    for mark, words in MARK_WORDS.items():
        if mark in marks:
            result.append([Piece(f"       {words}", "dim")])
    return result


def _choose(calls: Sequence[Record]) -> set[int]:
    """Which calls to show: what differs and what stands around it; of the others, the first."""
    if len(calls) <= ROWS_MAX:
        return set(range(len(calls)))
    differing = [index for index, call in enumerate(calls) if call.text("mark") != "="][: ROWS_MAX // 2]
    around = {near for index in differing for near in range(index - AROUND, index + AROUND + 1)}
    return (around | set(range(3)) | {len(calls) - 1}) & set(range(len(calls)))


def _half(width: int) -> int:
    return (width - 12) // 2


def _head(width: int) -> Line:
    if width < WIDE:
        return ["  ", Piece("  #  calls", "bold")]
    half = _half(width)
    return ["  ", Piece(f"  #  {pad('A', half)}  {pad('B', half)}", "bold")]


def _row(call: Record, number: int, width: int) -> list[Line]:
    mark = call.text("mark")
    style = MARK_STYLES.get(mark, "")
    a, b = call.maybe_record("a"), call.maybe_record("b")
    if width >= WIDE:
        half = _half(width)
        return [
            [
                "  ",
                Piece(f"{number:>3}  ", "dim"),
                _cell(a, half),
                "  ",
                _cell(b, half),
                " ",
                Piece(mark, style),
            ]
        ]
    # Beneath each other, and once where both are the same.
    head: list[Piece | str] = ["  ", Piece(f"{number:>3} ", "dim"), Piece(f"{mark} ", style)]
    room = width - 10
    if mark in ("=", "≈", "↕") and a is not None:
        return [[*head, _cell(a, room)]]
    result: list[Line] = []
    for name, side in (("A", a), ("B", b)):
        if side is not None:
            start: Line = head if not result else [" " * 8]
            result.append([*start, Piece(f"{name} ", "bold"), _cell(side, room)])
    return result


def _cell(call: Record | None, width: int) -> Piece:
    if call is None:
        return Piece(pad("—", width), "dim")
    title = render.call_title(call.text("kind"), call.get("arguments"))
    wrong = render.went_wrong(call)
    took = moments.duration(call.number("elapsed_ms"))
    room = width - cells(took) - 2
    text = pad(cut("✗ " * wrong + title, room), room) + "  " + took
    return Piece(text, "red" if wrong else "")


def first_lines(diff: Record, width: int, *, whole: bool) -> list[Line]:
    """The first call that differs, with both its sides."""
    first = diff.maybe_record("first_difference")
    if first is None:
        return []
    part = first.text("part")
    if part != "call":
        names = {
            "outcome": "how they end",
            "state": "a changed row",
            "log": "a log line",
            "input": "the input",
        }
        return [
            [],
            ["  ", Piece(f"no call differs; the first difference is {names.get(part, part)}", "bold")],
        ]
    number = int(first.number("index")) + 1
    result: list[Line] = [[], ["  ", Piece(f"first call that differs: {number}", "bold")]]
    for name in ("a", "b"):
        side = first.maybe_record(name)
        if side is None:
            told = (
                "not reached: it was stopped before" if first.text("mark") == "?" else "does not ask for this"
            )
            result.append(["    ", Piece(name.upper() + " ", "bold"), Piece(told, "dim")])
            continue
        location = side.maybe_record("location")
        where = "" if location is None else render.place(location.data)
        function = "" if location is None else (location.maybe_text("function") or "")
        title = cut(
            f"call {side.number('seq'):g}  {render.call_title(side.text('kind'), side.get('arguments'))}",
            width - 8,
        )
        place: list[Piece | str] = []
        if where:
            place = [Piece(where, "cyan"), Piece(f" in {function}()" if function else "", "dim")]
        result += spread(["    ", Piece(name.upper() + " ", "bold"), title], place, width)
        if not first.items("differences"):
            result += _whole_call(side, width, whole=whole)
    found = first.records("differences")
    return [*result, *difference_lines(found, width, 6, whole=whole)]


def _whole_call(call: Record, width: int, *, whole: bool) -> list[Line]:
    """What a call asked and heard, when there is nothing to compare it with."""
    error = call.data.get("error")
    answered = (
        f"✗ {render.error_parts(error)[0]}" if error is not None else json_text(call.data.get("result"))
    )
    result: list[Line] = []
    for name, text in (("asked", json_text(call.get("arguments"))), ("heard", answered)):
        shown = wrap(text, width - 14) if whole else [cut(text, width - 14)]
        for index, line in enumerate(shown):
            result.append(["      ", Piece(f"{name if index == 0 else '':<6}", "dim"), line])
    return result


# --- values ----------------------------------------------------------------------------------------


def difference_lines(found: Sequence[Record], width: int, indent: int, *, whole: bool) -> list[Line]:
    """Each value that differs, with both its sides."""
    shown = found if whole else found[:DIFFERENCES_SHOWN]
    places = [_where(one) for one in shown]
    column = min(COLUMN_MAX, max(map(cells, places), default=0))
    result: list[Line] = []
    for one, where in zip(shown, places, strict=True):
        a, b = (_side(one, name) for name in ("a", "b"))
        mark = "≈" if one.flag("follows") else "≠"
        room = width - indent - column - 4
        one_line = f"{a} → {b}"
        head: list[Piece | str] = [" " * indent, Piece(mark + " ", MARK_STYLES[mark])]
        if cells(where) <= column and cells(one_line) <= room:
            result.append([*head, Piece(pad(where, column)), "  ", one_line])
            continue
        result.append([*head, where])
        for name, text in (("A", a), ("B", b)):
            space = max(16, width - indent - 6)
            for index, line in enumerate(wrap(text, space) if whole else [_cut_middle(text, space)]):
                result.append([" " * (indent + 4), Piece(f"{name if index == 0 else ' '} ", "bold"), line])
    if len(shown) < len(found):
        result.append([" " * indent, Piece(f"… {len(found) - len(shown)} more (-v)", "dim")])
    return result


def _where(difference: Record) -> str:
    """The path to a value; a parameter, which has a number only, with the column that it is for."""
    where, name = sanitize(difference.text("where")), difference.maybe_text("name")
    return f"{where} ({sanitize(name)})" if name and where.startswith("arguments.args[") else where


def _cut_middle(text: str, width: int) -> str:
    """The text in so many cells, its beginning and its end kept: values often differ in either."""
    shown = cut(text, width)
    if shown == text or width < 24:
        return shown
    return cut(text, width * 2 // 3) + text[-(width // 3 - 1) :] if text.isascii() else shown


def _side(difference: Record, name: str) -> str:
    return json_text(difference.data[name]) if name in difference.data else "(absent)"


# --- how they end, what they changed and said ------------------------------------------------------


def _rest(diff: Record, width: int, *, whole: bool) -> list[Line]:
    result: list[Line] = []
    if diff.data.get("outcome") is None:
        result += [[], [Piece("  outcome  ", "bold"), Piece("not known for both sides", "dim")]]
    elif diff.records("outcome"):
        errors = _errors(diff, width)
        # What was raised is told with its place.
        told = ("outcome", "error") if errors else ()
        found = [one for one in diff.records("outcome") if one.text("where") not in told]
        result += [[], [Piece("  outcome", "bold")], *difference_lines(found, width, 4, whole=whole), *errors]
    state = diff.data.get("state")
    if state is not None:
        result += _pairs("state", diff.records("state"), _row_title, width, whole=whole)
    return result + _pairs("log", diff.records("logs"), _log_title, width, whole=whole)


def _errors(diff: Record, width: int) -> list[Line]:
    """What either side raised, and where."""
    result: list[Line] = []
    for name in ("a", "b"):
        error = diff.record(name).data.get("error")
        if error is not None:
            text, where = render.error_parts(error)
            left: list[Piece | str] = [f"    {name.upper()} ", Piece(cut(f"✗ {text}", width - 7), "red")]
            result += spread(left, [Piece(where, "cyan")] if where else [], width)
    return result


def _pairs(
    title: str,
    pairs: Sequence[Record],
    name: Callable[[Record | None, Record | None], str],
    width: int,
    *,
    whole: bool,
) -> list[Line]:
    """Rows or log lines that are not the same on both sides."""
    differing = [pair for pair in pairs if pair.text("mark") != "="]
    if not differing:
        return []
    alike = len(pairs) - len(differing)
    said = f"{alike} alike" if alike else ""
    result: list[Line] = [[], [Piece(f"  {title}", "bold"), Piece(f"    {said}" if said else "", "dim")]]
    for pair in differing if whole else differing[:DIFFERENCES_SHOWN]:
        mark = pair.text("mark")
        a, b = pair.maybe_record("a"), pair.maybe_record("b")
        only = " (only A)" if b is None else " (only B)" if a is None else ""
        head = Piece(f"{mark} ", MARK_STYLES.get(mark, ""))
        result.append(["    ", head, cut(name(a, b), width - 7 - len(only)), Piece(only, "dim")])
        result += difference_lines(pair.records("differences"), width, 6, whole=whole)
    if not whole and len(differing) > DIFFERENCES_SHOWN:
        result.append([Piece(f"    … {len(differing) - DIFFERENCES_SHOWN} more (-v)", "dim")])
    return result


def _row_title(a: Record | None, b: Record | None) -> str:
    either = a if a is not None else b
    assert either is not None
    undone = [name for name, side in (("A", a), ("B", b)) if side is not None and not side.flag("committed")]
    present = (a is not None) + (b is not None)
    kept = (
        "" if not undone else ", rolled back" if len(undone) == present else f", rolled back in {undone[0]}"
    )
    return f"{either.text('op')} {render.row_name(either.text('table'), either.get('key'))}{kept}"


def _log_title(a: Record | None, b: Record | None) -> str:
    log = a if a is not None else b
    assert log is not None
    return f"{log.text('level')}: {log.text('message')}"


# --- what only one ran, what was left out ----------------------------------------------------------


def _code(diff: Record, width: int) -> list[Line]:
    result: list[Line] = []
    for name in ("a", "b"):
        for index, ran in enumerate(diff.records(f"only_{name}")):
            head = f"  only {name.upper()} ran  " if index == 0 else " " * 14
            numbers = _spans([int(line) for line in ran.items("lines")])
            what = f"{ran.text('function')}()" if ran.flag("whole") else f"part of {ran.text('function')}()"
            left: list[Piece | str] = [
                Piece(head, "bold"),
                Piece(f"{ran.text('file')}:{numbers}", "cyan"),
                f"  {what}",
            ]
            result += spread(left, [], width)
    if not result:
        return []
    note = "as far as calls, log lines and stacks show it"
    return [[], *result, [" " * 14, Piece(note, "dim")]]


def _spans(numbers: Sequence[int]) -> str:
    """``15–17, 21``."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(f"{first}" if first == last else f"{first}–{last}" for first, last in spans)


def _left_out(diff: Record, width: int, *, whole: bool) -> list[Line]:
    counts = diff.record("left_out")
    told = [
        f"{counts.number(key):g} {one if counts.number(key) == 1 else many}"
        for key, one, many in LEFT_OUT
        if counts.number(key)
    ]
    result: list[Line] = [[]]
    values = diff.data.get("left_out_values")
    hint = "" if values is not None or not told else "  (--all)"
    first, *rest = wrap((", ".join(told) or "nothing") + hint, width - 13)
    result.append([Piece("  left out   ", "bold"), first])
    result += [[" " * 13 + line] for line in rest]
    if values is not None:
        for masked in diff.records("left_out_values"):
            scope = f"{masked.text('in')}: {masked.text('where')}"
            text = f"{_side(masked, 'a')} → {_side(masked, 'b')}"
            kind = Piece(f" {masked.text('kind')}", "dim")
            line: list[Piece | str] = ["    ", Piece(scope, "dim"), "  ", text, kind]
            if whole or sum(map(cells, (scope, text, kind.text))) + 6 <= width:
                result.append(line)
            else:
                result += [
                    ["    ", Piece(scope, "dim"), kind],
                    *[["      " + part] for part in wrap(text, width - 6)],
                ]
    return result


def _next(diff: Record) -> list[str | tuple[str, str]]:
    a, b = diff.record("a").text("name"), diff.record("b").text("name")
    verdict, replay = diff.text("verdict"), diff.maybe_record("replay")
    commands: list[str | tuple[str, str]] = []
    if verdict == "REGRESSED" and replay is None:
        commands.append((f"flux why {b}", "why B fails"))
    if replay is not None:
        on = shlex.quote(replay.text("on"))  # A branch may be called almost anything.
        commands.append((f"flux replay {a} --on {on}", "where each answer came from"))
    elif diff.record("a").data.get("error") is not None and verdict != "FIXED":
        commands.append((f"flux trace diff {a} .", "A on the project's folder"))
    first = diff.maybe_record("first_difference")
    if first is not None and first.text("part") == "call":
        for name, id in (("a", a), ("b", b)):
            side = first.maybe_record(name)
            if side is not None:
                commands.append(
                    (f"flux trace {id} --call {side.number('seq'):g}", f"the call of {name.upper()} whole")
                )
    return commands or [(f"flux trace {a}", "everything that A did")]
