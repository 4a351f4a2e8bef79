"""The console's question about the steps of one execution.

The body says what is to be seen, all of it optional::

    {"at": 118, "around": 50, "file": "functions/signup.py", "line": 16, "expression": "plan, total",
     "watch": "total", "condition": "total > 100", "before": 118, "after": 118, "up": 1,
     "list": false, "source": "functions/signup.py", "seek": {"kinds": ["line"], "frame": 3, "other": false}}

An expression without a file is looked up at the event that is shown. ``list`` says whether the steps around it are
told, or only those whose names are shown. ``source`` asks for the text of a file as it ran. ``seek`` leads to the
next event of these kinds behind ``after``, or to the last in front of ``before``, in one run however far that is.
"""

from collections.abc import Awaitable, Callable, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, Protocol

import attrs
import msgspec
import trio

from flux.execution import Execution
from flux.expression import Expression, parse_expression, parse_expressions
from flux.stepping import KINDS, Search
from flux.store import reading
from flux.store.postgres import Pool
from flux.supervisor.artifacts import CodeGoneError
from flux.supervisor.console_query import BadQueryError
from flux.supervisor.debug import Debugged, Question, debug, is_followed
from flux.supervisor.present import Document, call_json, summary_json
from flux.supervisor.present_replay import divergence_json
from flux.supervisor.replay import Replay
from flux.travel import FRAMES_MAX, Event, Shown, Tap, Value

FILES_MAX = 100
FILE_BYTES_MAX = 2**20
SOURCE_CHARACTERS_MAX = 200
SOURCES = (".py", ".js", ".mjs", ".ts", ".mts")
"""How names of files end whose text is shown: a deployment has others, which are nobody's to read here."""
UP_MAX = 50
"""A stack that is told has no more functions."""
Code = dict[str, Sequence[str]]
"""Lines of files, by their name in the project."""


class DebugHost(Protocol):
    """Who runs executions so that their steps are seen."""

    async def follow(self, original: Execution, tap: Tap) -> Replay:
        """See `flux.supervisor.replay.Replayer.follow`."""

    async def find_code(self, original: Execution) -> Path:
        """Return the folder of the code that made ``original``; raise `CodeGoneError`."""


class _Sought(msgspec.Struct, forbid_unknown_fields=True):
    kinds: frozenset[str]
    frame: int | None = None
    other: bool = False


class _Asked(msgspec.Struct, forbid_unknown_fields=True):
    at: int | None = None
    around: int = 0
    file: str | None = None
    line: int | None = None
    expression: str | None = None
    watch: str | None = None
    condition: str | None = None
    before: int | None = None
    after: int | None = None
    up: int = 0
    list: bool = True
    source: str | None = None
    seek: _Sought | None = None


async def answer_debug(
    pool: Pool, host: DebugHost, find: Callable[[str], Awaitable[reading.Summary]], name: str, body: bytes
) -> Document:
    """Show what ``body`` asks of the execution that ``name`` means; ``find`` returns it."""
    summary, execution = await reading.get_execution(pool, (await find(name)).id)
    return await look(execution, summary_json(summary), host, body)


async def look(execution: Execution, summary: Document, host: DebugHost, body: bytes) -> Document:
    """Show what ``body`` asks of ``execution``, which has all of its mutations; ``summary`` is what is told of it."""
    question, source = _read(body)
    debugged = await debug(execution, question, host.follow)
    files = {event.file for event in debugged.events}
    if source is not None:
        _check_source(source)
        files.add(source)
    if debugged.replay is not None:
        code = await trio.to_thread.run_sync(read_code, Path(debugged.replay.deployment.folder), files)
    else:
        try:
            code = await trio.to_thread.run_sync(read_code, await host.find_code(execution), files)
        except CodeGoneError as error:
            code = {}
            debugged = attrs.evolve(debugged, notes=(*debugged.notes, error.message))
    document = debugged_json(summary, execution, question, debugged, code)
    if source is not None:
        document["source"] = {"file": source, "text": "\n".join(code[source]) if source in code else None}
    return document


def _check_source(file: str) -> None:
    if not file.endswith(SOURCES):
        raise BadQueryError(f"{file[:200]} is no file of code", remedy=f"one that ends in {', '.join(SOURCES)}")


def _read(body: bytes) -> tuple[Question, str | None]:
    """Return what is asked, and the file whose text is."""
    try:
        asked = msgspec.json.decode(body, type=_Asked) if body.strip() else _Asked()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadQueryError(f"the body can't be read: {error}", remedy='send {}, or {"at": 118}') from error
    if asked.before is not None and asked.after is not None:
        raise BadQueryError("it is looked for on one side", remedy='"before", or "after"')
    if (asked.file is None) != (asked.line is None):
        raise BadQueryError("file and line go together", remedy='{"file": "functions/signup.py", "line": 16}')
    kinds = [each is not None for each in (asked.watch, asked.expression, asked.condition, asked.seek)]
    if sum(kinds) > 1 or (asked.file is not None and (asked.watch is not None or asked.seek is not None)):
        raise BadQueryError(
            "one thing is looked for at a time", remedy='"watch", or "file" and "line", or "condition", or "seek"'
        )
    if asked.seek is not None and (asked.before is None) == (asked.after is None):
        raise BadQueryError("it is not said from where one seeks", remedy='"before", or "after"')
    if asked.seek is not None and not asked.seek.kinds <= KINDS:
        raise BadQueryError("there is no such kind of event", remedy=", ".join(sorted(KINDS)))
    if not 0 <= asked.up < UP_MAX:
        raise BadQueryError(f'"up" is {asked.up}', remedy=f"0 to {UP_MAX - 1}")
    if not 0 <= asked.around < FRAMES_MAX // 2:
        raise BadQueryError(f'"around" is {asked.around}', remedy=f"0 to {FRAMES_MAX // 2 - 1}")
    place = None if asked.file is None or asked.line is None else (asked.file, asked.line)
    expressions: tuple[Expression, ...] = ()
    if asked.watch is not None:
        expressions = (parse_expression(asked.watch),)
    elif asked.expression is not None:
        expressions = parse_expressions(asked.expression)
    question = Question(
        at=asked.at,
        around=asked.around,
        up=asked.up,
        lists=asked.list,
        place=place,
        expressions=expressions,
        watches=asked.watch is not None,
        condition=None if asked.condition is None else parse_expression(asked.condition),
        before=asked.before,
        after=asked.after,
        seek=None
        if asked.seek is None
        else Search(asked.seek.kinds, asked.after is not None, asked.seek.frame, asked.seek.other),
    )
    return question, asked.source


def read_code(folder: Path, files: AbstractSet[str]) -> Code:
    """Return the lines of ``files``, as far as they are of the deployment: it is the guest that names them."""
    found: Code = {}
    root = folder.resolve()
    for name in sorted(files)[:FILES_MAX]:
        try:
            path = (root / name).resolve()
            if path.is_relative_to(root) and path.is_file() and path.stat().st_size <= FILE_BYTES_MAX:
                found[name] = path.read_text(encoding="utf-8", errors="replace").split("\n")
        except (OSError, ValueError):
            continue  # Its line is shown by its number alone.
    return found


def debugged_json(
    summary: Document, original: Execution, question: Question, debugged: Debugged, code: Code
) -> Document:
    """Return what was seen; ``summary`` is the execution's, ``code`` the lines of its files."""
    replay = debugged.replay
    frames = {number: _shown_json(shown, debugged, question, code) for number, shown in debugged.shown.items()}
    return {
        "schema": "flux.debug/1",
        "execution": summary,
        "granularity": "line" if is_followed(original) else "host call",
        "verdict": None if replay is None else replay.judgement.verdict.value,
        "reason": None if replay is None else replay.judgement.reason,
        "divergence": None
        if replay is None or replay.replayed.divergence is None
        else divergence_json(replay.replayed.divergence),
        "total": debugged.total,
        "ended": debugged.ended,
        "at": debugged.at,
        "events": [_event_json(event, code) for event in debugged.events],
        "frame": _call_frame(original, debugged, code) if replay is None else frames.get(debugged.at or 0),
        "frames": list(frames.values()),
        "values": [_value_json(value, question) for value in debugged.values],
        "values_left_out": debugged.values_count - len(debugged.values),
        "notes": list(debugged.notes),
    }


def _find_source(code: Code, file: str, line: int) -> str | None:
    lines = code.get(file, ())
    return lines[line - 1].strip()[:SOURCE_CHARACTERS_MAX] if 0 < line <= len(lines) else None


def _event_json(event: Event, code: Code) -> Document:
    return {
        "event": event.number,
        "kind": event.kind,
        "file": event.file,
        "line": event.line,
        "function": event.function,
        "frame": event.frame,
        "caller": event.caller,
        "call": event.asked,
        "heard": event.heard,
        "detail": event.detail or None,
        "source": _find_source(code, event.file, event.line),
    }


def _shown_json(shown: Shown, debugged: Debugged, question: Question, code: Code) -> Document:
    kind = next((event.kind for event in debugged.events if event.number == shown.event), None)
    inner = shown.stack[0] if shown.stack else None
    found: dict[str, Any] = {
        "event": shown.event,
        "kind": kind,
        "file": None if inner is None else inner.file,
        "line": None if inner is None else inner.line,
        "function": None if inner is None else inner.function,
        "source": None if inner is None else _find_source(code, inner.file, inner.line),
        "locals": shown.locals,
        "stack": [{"file": each.file, "line": each.line, "function": each.function} for each in shown.stack],
    }
    if shown.returned is not msgspec.UNSET:
        found["returned"] = shown.returned
    if shown.values:
        texts = [each.text for each in question.expressions]
        found["values"] = [
            {"expression": text, "value": value} for text, value in zip(texts, shown.values, strict=False)
        ]
    return found


def _call_frame(original: Execution, debugged: Debugged, code: Code) -> Document | None:
    """Return a host call as a frame: its names are what was asked, and what was answered."""
    if debugged.at is None:
        return None
    event = debugged.events[debugged.at - 1]
    call = call_json(original.calls[debugged.at - 1], original)
    return {
        "event": event.number,
        "kind": event.kind,
        "file": event.file or None,
        "line": event.line or None,
        "function": event.function or None,
        "source": _find_source(code, event.file, event.line),
        "locals": {"arguments": call["arguments"], "result": call["result"], "error": call["error"]},
        "stack": [],
    }


def _value_json(value: Value, question: Question) -> Document:
    texts = [each.text for each in question.expressions]
    found: Any = value.values[0] if len(texts) == 1 and value.values else dict(zip(texts, value.values, strict=False))
    return {
        "event": value.event,
        "file": value.file,
        "line": value.line,
        "function": value.function,
        "frame": value.frame,
        "value": found if texts else True,
    }
