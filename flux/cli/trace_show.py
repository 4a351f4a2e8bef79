"""``flux trace ID``: everything that one execution did.

In the order of the execution: what came in, each host call with its place,
arguments and result, the rows that changed, what was logged, what went out.
Long values are shortened and counted; ``-v`` shows them whole and ``--call N`` shows one call whole.
"""

from datetime import datetime
from typing import Any

import click

from flux.cli import moments, render
from flux.cli.client import open_client
from flux.cli.complete import execution_ids
from flux.cli.failures import NoSuchId
from flux.cli.record import Record
from flux.cli.screen import Line, Piece, Screen, cells, cut, json_text, pad, spread, wrap, wrap_hanging
from flux.cli.settings import settings

CALLS_SHOWN = 40
LOGS_SHOWN = 20
REPLAYS_SHOWN = 5
VALUES_WIDTH_MIN = 24


@click.command()
@click.argument("id", metavar="ID", shell_complete=execution_ids)
@click.option("--call", "seq", type=int, metavar="N", help="Show call N alone, with its values whole.")
def command(id: str, seq: int | None) -> None:
    """Everything that one execution did. `flux trace ID` is short for this.

    ID is a name, a UUID, the beginning of either, @last-error or @-1 (the latest).
    """
    said = settings()
    answer = open_client().get("executions", id)
    trace = answer.record.of_schema("flux.trace/1")
    screen = Screen.stdout()
    if seq is not None:
        call = _find_call(trace, seq)
        if said.json:
            screen.write_raw_json(
                json_text({"schema": "flux.call/1", "execution": trace.text("name"), "call": call.data})
            )
        else:
            screen.page(_call_whole(trace, call, screen.width))
        return
    if said.json:
        screen.write_raw_json(answer.text)
        return
    screen.page(lines(trace, screen.width, whole=said.verbose, quiet=said.quiet))


def lines(trace: Record, width: int, *, whole: bool, quiet: bool) -> list[Line]:
    """The whole view."""
    result: list[Line] = [*render.header(trace, width), *_circumstances(trace, width)]
    error = trace.get("error")
    if error is not None:
        text, where = render.error_parts(error)
        result.append([])
        result += [["  ", Piece(line, "bold red")] for line in wrap(text, width - 2)]
        if where:
            result.append(["  ", Piece(where, "cyan")])
    if (warning := render.completeness_line(trace)) is not None:
        result.append(warning)
    result += [[], *_input(trace.get("input"), width, whole=whole)]
    if trace.data.get("user") is not None:
        result += render.block("user", trace.get("user"), width, whole=whole)
    result += _calls(trace, width, whole=whole)
    places = render.places_of_calls(trace)
    result += render.mutation_lines(trace.records("mutations"), places, width, whole=whole)
    result += _logs(trace, width, whole=whole)
    if whole and trace.items("spans"):
        result += [
            [],
            [Piece("  spans", "bold")],
            *[["    " + json_text(item)] for item in trace.items("spans")],
        ]
    result += [[], *_output(trace.get("output"), width, whole=whole)]
    result += _children(trace)
    result += _replays(trace, width, whole=whole)
    if not quiet and (commands := _next(trace)):
        result += render.next_lines(commands, width)
    return result


def _circumstances(trace: Record, width: int) -> list[Line]:
    """When, why and where it ran."""
    started_at = moments.read_moment(trace.text("started_at"), "started_at")
    parts = [started_at.strftime("%Y-%m-%d %H:%M:%S.") + f"{started_at.microsecond // 1000:03d}"]
    parts += [render.trigger_word(trace), trace.maybe_text("function") or "no function", _sandbox(trace)]
    if (original := trace.maybe_text("replay_of")) is not None:
        parts.append(f"replay of {original}")
    if trace.data.get("cause") is not None:
        cause = trace.record("cause")
        call = cause.maybe_number("call")
        parts.append(f"caused by {cause.text('execution')}" + (f", call {call:g}" if call is not None else ""))
    if render.trigger_word(trace) in ("queue", "cron"):
        parts.append(f"attempt {trace.number('attempt'):g}")
    return [[Piece(line, "dim")] for line in wrap(" · ".join(parts), width)]


def _sandbox(trace: Record) -> str:
    sandbox = trace.get("sandbox")
    if not isinstance(sandbox, dict):
        return f"sandbox {json_text(sandbox)}"
    said = [str(sandbox.get("kind"))]
    # A kind whose isolation has the same name has one only; the name twice tells nothing.
    said += [f"isolation {_plain(sandbox['isolation'])}"] if sandbox.get("isolation") not in (None, said[0]) else []
    said += [f"clock {_plain(sandbox['clock'])}"] if sandbox.get("clock") is not None else []
    served = sandbox.get("served_before")
    said += [f"warm (had served {_plain(served)})"] if served not in (None, 0) else []
    return "sandbox " + ", ".join(said)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json_text(value)


# --- what came in and went out ---------------------------------------------------------------------


def _input(value: Any, width: int, *, whole: bool) -> list[Line]:
    """The body first, then what else a request has; what the view's first line says is not said again."""
    if whole or not isinstance(value, dict) or "headers" not in value:
        return render.block("input", value, width, whole=whole)
    result = _body("input", value, width)
    for key in ("params", "query"):
        if value.get(key):
            result += render.block(key, value[key], width, whole=False)
    return [*result, *_headers(value["headers"], width)]


def _output(value: Any, width: int, *, whole: bool) -> list[Line]:
    """The answer's body and headers; of an execution without an answer of its own, how it ended."""
    if whole or not isinstance(value, dict):
        return render.block("output", value, width, whole=whole)
    if "headers" in value:
        return [*_body("output", value, width), *_headers(value["headers"], width)]
    kept = {key: _without_nothing(item) for key, item in value.items()}
    if isinstance(raised := kept.get("raised"), dict):
        # What was raised stands at the top of the view; what it came from does not.
        kept["raised"] = {key: item for key, item in raised.items() if key not in ("type", "message")}
    return render.block("output", _without_nothing(kept), width, whole=False)


def _body(label: str, value: dict[str, Any], width: int) -> list[Line]:
    match value.get("body_format"), value.get("streamed"):
        case "empty", _:
            return [[Piece(f"  {label:<9}", "bold"), Piece("no body", "dim")]]
        case "streamed", {"bytes": int(size), "sha256": str(digest), "pieces": int(pieces)}:
            done = "read" if label == "input" else "written"
            said = f"{size:,} bytes, streamed, {done} in {pieces:,} piece{'s' * (pieces != 1)}"
            return [
                [Piece(f"  {label:<9}", "bold"), Piece(said, "dim")],
                [Piece(f"  {'':<9}SHA-256 {digest}", "dim")],
            ]
    return render.block(label, value.get("body"), width, whole=False)


def _headers(headers: Any, width: int) -> list[Line]:
    if not isinstance(headers, dict) or not headers:
        return []
    return [
        [Piece("  headers  ", "bold"), Piece(cut(render.fields_text(headers, whole=False), width - 11), "dim")]
    ]


def _without_nothing(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: item for key, item in value.items() if item not in (None, [], {})}


# --- calls -----------------------------------------------------------------------------------------


def _calls(trace: Record, width: int, *, whole: bool) -> list[Line]:
    calls = trace.records("calls")
    if not calls:
        return [[], [Piece("  calls    ", "bold"), "none"]]
    first, last = (calls, []) if whole else render.ends(calls, CALLS_SHOWN)
    shown = [*first, *last]
    total_ms = trace.maybe_number("elapsed_ms") or 0.0
    number_cells = len(f"{max(call.number('seq') for call in calls):g}")
    titles = [render.call_title(call.text("kind"), call.get("arguments")) for call in shown]
    title_cells = min(max(map(cells, titles)), max(24, width // 2 - 14))
    bar_cells = max(8, width - 4 - number_cells - 1 - 8 - title_cells - 2 - 10)
    result: list[Line] = [[], [Piece("  calls", "bold")]]
    for index, (call, title) in enumerate(zip(shown, titles, strict=True)):
        if last and index == len(first):
            result.append([Piece(f"    … {len(calls) - len(shown)} more (-v)", "dim")])
        wrong = render.went_wrong(call)
        started_ms, elapsed_ms = call.number("started_ms"), call.number("elapsed_ms")
        colour = "red" if wrong else ""
        result.append(
            [
                "    ",
                Piece(pad(f"{call.number('seq'):g}", number_cells, right=True), "bold"),
                Piece(pad(f" +{moments.duration(started_ms)}".replace(" ms", ""), 9), "dim"),
                Piece(pad(cut("✗ " * wrong + title, title_cells), title_cells), colour),
                "  ",
                Piece(render.bar(started_ms, elapsed_ms, total_ms, bar_cells), colour or "blue"),
                pad(moments.duration(elapsed_ms), 10, right=True),
            ]
        )
        result += _call_values(call, number_cells + 13, width, whole=whole)
    return result


def _call_values(call: Record, indent: int, width: int, *, whole: bool) -> list[Line]:
    """Beneath a call: what was asked and answered, and from which line."""
    location = call.maybe_record("location")
    where = render.place(location.data) if location is not None else ""
    asked = _asked(call.get("arguments"))
    error = call.data.get("error")
    if error is not None:
        answered = f"✗ {render.error_parts(error)[0]}"
    else:
        answered = "✗ no answer" if render.went_wrong(call) else _answered(call.data.get("result"))
    room = width - indent
    if whole:
        text = f"{asked} → {answered}"
        values: list[Line] = [[Piece(" " * indent + line, "dim")] for line in wrap(text, max(20, room))]
        return [*values, [" " * indent, Piece(where, "cyan")]] if where else values
    room -= cells(where) + 2 if where else 0
    half = max(VALUES_WIDTH_MIN, room) - 3
    answered = cut(answered, max(half // 2, half - cells(asked)))
    text = f"{cut(asked, max(8, half - cells(answered)))} → {answered}"
    return spread([Piece(" " * indent + text, "dim")], [Piece(where, "cyan")] if where else [], width)


def _asked(arguments: Any) -> str:
    """The arguments, less what the call's title already says."""
    match arguments:
        case {"sql": str(), **rest}:
            values = rest.get("args", rest.get("arguments", rest.get("parameters")))
            return json_text(values) if values is not None else json_text(rest) if rest else "()"
        case {"url": str(), **rest}:
            kept = {
                key: value for key, value in rest.items() if key != "method" and value not in (None, {}, "")
            }
            return json_text(kept) if kept else "()"
        case _:
            return json_text(arguments)


def _answered(result: Any) -> str:
    match result:
        case {"rows": list() as rows}:
            count = f"{len(rows)} row{'s' * (len(rows) != 1)}"
            return f"{count} {json_text(rows)}" if rows else count
        case _:
            return json_text(result)


def _find_call(trace: Record, seq: int) -> Record:
    calls = trace.records("calls")
    for call in calls:
        if call.number("seq") == seq:
            return call
    numbers = [int(call.number("seq")) for call in calls]
    raise NoSuchId(
        f"{trace.text('name')} has no call {seq}: "
        + (f"its calls are {min(numbers)} to {max(numbers)}" if numbers else "it made none"),
        remedy=f"flux trace {trace.text('name')}",
    )


def _call_whole(trace: Record, call: Record, width: int) -> list[Line]:
    title = render.call_title(call.text("kind"), call.get("arguments"))
    location = call.maybe_record("location")
    function = location.maybe_text("function") if location is not None else None
    where = render.place(location.data) if location is not None else ""
    seq = Piece(f"call {call.number('seq'):g}", "bold")
    left: list[Piece | str] = [seq, f" of {trace.text('name')} · {title}"]
    began, length = (moments.duration(call.number(key)) for key in ("started_ms", "elapsed_ms"))
    result: list[Line] = [
        *spread(left, [Piece(f"+{began}, took {length}", "dim")], width),
        [Piece(where, "cyan"), f" in {function}()" if function else ""],
        [],
    ]
    result += render.block("kind", call.text("kind"), width, whole=True, column=9)
    sql = call.get("arguments").get("sql") if isinstance(call.get("arguments"), dict) else None
    if isinstance(sql, str) and "\n" in sql:
        result.append([Piece("  sql", "bold")])
        result += [
            ["    " + part] for line in sql.split("\n") for part in wrap_hanging(line, width - 4)
        ]
    result += render.block("arguments", call.get("arguments"), width, whole=True, column=9)
    if call.data.get("error") is not None:
        result += render.block("error", call.data["error"], width, whole=True, column=9)
    elif render.went_wrong(call):
        return [*result, [Piece("  result    ", "bold"), Piece("no answer: the execution ended before", "red")]]
    return result + render.block("result", call.data.get("result"), width, whole=True, column=9)


# --- the rest --------------------------------------------------------------------------------------


def _logs(trace: Record, width: int, *, whole: bool) -> list[Line]:
    logs = trace.records("logs")
    if not logs:
        return []
    shown = logs if whole else logs[:LOGS_SHOWN]
    started_at = moments.read_moment(trace.text("started_at"), "started_at")
    result: list[Line] = [[], [Piece("  logs", "bold")]]
    for log in shown:
        level = log.maybe_text("level") or "info"
        fields = log.data.get("fields")
        text = _plain(log.get("message"))
        if fields:
            text += "  " + (fields_text(fields) if isinstance(fields, dict) else json_text(fields))
        head = f"    {pad(_log_time(log, started_at), 8)} "
        body = wrap(text, max(20, width - 21)) if whole else [cut(text, max(20, width - 21))]
        result.append([Piece(head, "dim"), Piece(pad(level, 7) + " ", LEVELS.get(level, "")), body[0]])
        result += [[" " * 21 + line] for line in body[1:]]
    if len(shown) < len(logs):
        result.append([Piece(f"    … {len(logs) - len(shown)} more (-v)", "dim")])
    return result


LEVELS = {"debug": "dim", "info": "cyan", "warn": "yellow", "warning": "yellow", "error": "red"}


def fields_text(fields: dict[str, Any]) -> str:
    """A log line's fields: ``user=42 plan="free"``."""
    return " ".join(f"{name}={json_text(value)}" for name, value in fields.items())


def _log_time(log: Record, started_at: datetime) -> str:
    at = log.data.get("at")
    if isinstance(at, str):
        elapsed = moments.read_moment(at, log.path("at")) - started_at
        return "+" + moments.duration(max(0.0, elapsed.total_seconds() * 1000)).replace(" ms", "")
    return f"+{at:g}" if isinstance(at, int | float) else ""


def _children(trace: Record) -> list[Line]:
    children = trace.items("children")
    waiting = _jobs(trace)
    if not children:
        return [[], [Piece("  caused", "bold")], *waiting] if waiting else []
    result: list[Line] = [[], [Piece("  caused", "bold")]]
    for index, child in enumerate(children):
        if isinstance(child, str):
            result.append(["    " + child])
            continue
        summary = Record(child, f"children[{index}]")
        result.append(
            [f"    {summary.text('name')}  ", render.status_piece(summary), f"  {render.route(summary)}"]
        )
    return [*result, *waiting]


def _jobs(trace: Record) -> list[Line]:
    """The jobs that it has pushed and that are not done: those that are done are executions."""
    result: list[Line] = []
    for job in trace.records("jobs"):
        state = job.text("state")
        if state != "done":
            error = job.maybe_text("error")
            told = f"  {job.text('function')}" + (f"  {error}" if error is not None and state == "dead" else "")
            shown = Piece(state, "bold red" if state == "dead" else "cyan")
            result.append([f"    job {job.text('id')}  ", shown, told])
    return result


def _replays(trace: Record, width: int, *, whole: bool) -> list[Line]:
    """What replays of it have shown, the latest first."""
    replays = trace.records("replays")
    if not replays:
        return []
    result: list[Line] = [[], [Piece("  replays", "bold")]]
    for replay in replays if whole else replays[:REPLAYS_SHOWN]:
        verdict = replay.text("verdict")
        mark, style = render.VERDICT_MARKS.get(verdict, ("?", "bold"))
        code = {None: "its own code", ".": "the project's folder"}.get(replay.maybe_text("on"), "commit")
        sha = replay.text("sha").removeprefix("nogit-")[:7] + "+" * replay.flag("dirty")
        at = moments.read_moment(replay.text("at"), "at").strftime("%H:%M:%S")
        who = "Flux's own check" if replay.flag("is_check") else replay.maybe_text("execution") or "not kept"
        said: Line = ["    ", Piece(f"{mark} {verdict}", style), f" on {code} ({sha})"]
        result += spread(said, [Piece(f"{at} · {who}", "dim")], width)
    if not whole and len(replays) > REPLAYS_SHOWN:
        result.append([Piece(f"    ... {len(replays) - REPLAYS_SHOWN} more (-v)", "dim")])
    return result


def _next(trace: Record) -> list[str | tuple[str, str]]:
    name = trace.text("name")
    commands: list[str | tuple[str, str]] = []
    if render.failed(trace):
        commands.append((f"flux why {name}", "what went wrong"))
    calls = trace.records("calls")
    if calls:
        commands.append((f"flux trace {name} --call {calls[-1].number('seq'):g}", "one call whole"))
    return commands
