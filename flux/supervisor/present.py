"""How Flux's nouns look in JSON: the documents that the console answers with.

The command line, scripts and the web console read these; their names are a
contract (``docs/console-api.md``), so they are all made here and nowhere else. An execution that
has just ended and one that comes from the store give the same summary.

What is shown was recorded, and recorded things are hostile: bytes that are no
text, text that is no Unicode, JSON a thousand levels deep. Each has a form here,
and a document can always be encoded. Recorded JSON is passed through as it was
written, so that no number loses a digit on its way (`msgspec.Raw`); it is checked first,
for one part that can't be read would spoil the whole document.

Times are RFC 3339 in UTC, durations milliseconds, ids text. Values that JSON lacks keep
the tags of `flux.values`: ``{"$bytes": "aGk="}``.
"""

import base64
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import msgspec

from flux import ids
from flux.execution import (
    Execution,
    Exited,
    Frame,
    Interrupted,
    Killed,
    LogLine,
    Raised,
    Returned,
    Trigger,
)
from flux.hostcall import HostCall, HostCallError, Position
from flux.mutation import Mutation
from flux.store.reading import ErrorGroup, RowVersion, Summary
from flux.store.records import COLUMNS, WHOLE, make_columns
from flux.store.replays import ReplayFound
from flux.streamed import READ, WRITE, count_pieces
from flux.why import Why

Document = dict[str, Any]

DEPTH_MAX = 200
"""Recorded JSON that is nested deeper is shown as text: readers of JSON have stacks."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SURROGATES = re.compile("[\ud800-\udfff]")


# --- encoding --------------------------------------------------------------------------------------


def encode(document: Mapping[str, Any]) -> bytes:
    """Return the document as JSON on one line, whatever text is in it."""
    try:
        return msgspec.json.encode(document)
    except UnicodeEncodeError:
        # Half a character (a lone surrogate) is in no encoding of Unicode. It happens seldom, so the
        # walk through the document is left for when it does.
        return msgspec.json.encode(_without_surrogates(document))


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return _SURROGATES.sub("\ufffd", value)
    if isinstance(value, Mapping):
        return {_without_surrogates(str(key)): _without_surrogates(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_surrogates(item) for item in value]
    return value


def find_raw(data: bytes) -> msgspec.Raw | None:
    """Return recorded JSON to be passed through as it is, or None when it can't be."""
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if data.count(b"[") + data.count(b"{") > DEPTH_MAX and _is_deep(value):
        return None
    if b"\n" in data or b"\r" in data:
        data = msgspec.json.format(data, indent=-1)  # A document is one line; numbers stay as they are.
    return msgspec.Raw(data)


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(DEPTH_MAX):
        level = [
            item
            for parent in level
            if isinstance(parent, dict | list)
            for item in (parent.values() if isinstance(parent, dict) else parent)
        ]
        if not level:
            return False
    return True


def show_json(data: bytes) -> Any:
    """Return recorded JSON for a document; what can't be read as JSON is shown as text or bytes."""
    raw = find_raw(data)
    return show_text(data) if raw is None else raw


def show_text(data: bytes) -> Any:
    """Return bytes as text when they are, else tagged."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"$bytes": base64.b64encode(data).decode()}


def show_body(body: bytes, headers: Iterable[tuple[str, str]]) -> Document:
    """Return ``body`` and ``body_format``: ``json``, ``text``, ``bytes`` or ``empty``.

    The format tells JSON text from a JSON string, and tagged bytes from a JSON object that looks like
    them. Clients often send JSON and call it a form, so an object or array is JSON whatever the type.
    """
    if not body:
        return {"body": None, "body_format": "empty"}
    kind = next((value for name, value in headers if name.lower() == "content-type"), "")
    if "json" in kind.lower() or body.lstrip()[:1] in (b"{", b"["):
        raw = find_raw(body)
        if raw is not None:
            return {"body": raw, "body_format": "json"}
    shown = show_text(body)
    return {"body": shown, "body_format": "text" if isinstance(shown, str) else "bytes"}


def _show_body_of(noun: Trigger | Returned, execution: Execution) -> Document:
    """Return the body as `show_body`; of one that was streamed ``body_format: "streamed"`` and what it was."""
    if noun.streamed is None:
        return show_body(noun.body, noun.headers)
    pieces = count_pieces(execution.calls, WRITE if isinstance(noun, Returned) else READ)
    what = {"sha256": noun.streamed.sha256, "bytes": noun.streamed.size_bytes, "pieces": pieces}
    return {"body": None, "body_format": "streamed", "streamed": what}


def show_time(at_ns: int) -> str:
    """Return nanoseconds since the epoch as RFC 3339, with the store's microseconds."""
    return show_moment(_EPOCH + timedelta(microseconds=at_ns // 1000))


def show_moment(moment: datetime) -> str:
    """Return a time as RFC 3339 in UTC."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def show_position(position: Position | None) -> Document | None:
    """Return ``{file, line, function}``."""
    if position is None:
        return None
    return {"file": position.file, "line": position.line, "function": position.function}


def show_pairs(pairs: Iterable[tuple[str, str]]) -> Document:
    """Return fields by name; one that is repeated has a list, in order."""
    result: Document = {}
    for name, value in pairs:
        if name not in result:
            result[name] = value
        elif isinstance(result[name], list):
            result[name].append(value)
        else:
            result[name] = [result[name], value]
    return result


# --- summaries -------------------------------------------------------------------------------------


def summary_json(summary: Summary) -> Document:
    """Return a stored execution in short, as the contract's Summary."""
    return _summary(
        attrs.asdict(summary, recurse=False)
        | {"error_location": show_position(summary.error_location)}
        | {"completeness": list(summary.completeness)}
    )


def summary_of_execution(execution: Execution) -> Document:
    """Return an execution in short that has just ended, as it will be read from the store.

    Only the store knows what storing had to cut or change; that comes into ``completeness`` there.
    """
    columns = dict(zip(COLUMNS, make_columns(execution, execution.completeness), strict=False))
    place, completeness = columns["error_location"], columns["completeness"]
    assert place is None or isinstance(place, str)
    assert isinstance(completeness, str)
    return _summary(
        columns
        | {"error_location": None if place is None else msgspec.json.decode(place)}
        | {"completeness": [] if completeness == WHOLE else completeness.split("\n")}
    )


def _summary(columns: Mapping[str, Any]) -> Document:
    """Return the document: one place for stored and live executions."""
    failed_as: str | None = columns["error_type"]
    sentences: list[str] = columns["completeness"]
    return {
        "schema": "flux.summary/1",
        "id": str(columns["id"]),
        "name": columns["name"],
        "trigger": columns["trigger"],
        "function": columns["function"],
        "method": columns["method"],
        "path": columns["path"],
        "route": columns["route"],
        "status": columns["status"],
        "outcome": columns["outcome"],
        "error": None
        if failed_as is None
        else {
            "type": failed_as,
            "message": columns["error_message"],
            "location": columns["error_location"],
        },
        "signature": columns["signature"],
        "started_at": show_moment(columns["started_at"]),
        "elapsed_ms": columns["elapsed_ns"] / 1e6,
        "calls": columns["call_count"],
        "mutations": columns["mutation_count"],
        "sha": columns["sha"],
        "dirty": columns["dirty"],
        "deployment": columns["deployment"],
        "parent": None if columns["parent"] is None else str(columns["parent"]),
        "attempt": columns["attempt"],
        "replay_of": None if columns["replay_of"] is None else ids.make_name(columns["replay_of"]),
        "tenant": columns["tenant"],
        "completeness": "; ".join(sentences) if sentences else WHOLE,
    }


# --- an execution whole ----------------------------------------------------------------------------


def trace_json(
    summary: Document,
    execution: Execution,
    *,
    spans: Sequence[Document],
    children: Sequence[Document],
    calls: Sequence[HostCall] | None = None,
    jobs: Sequence[Document] = (),
    replays: Sequence[ReplayFound] = (),
) -> Document:
    """Return everything that an execution did, as the contract's Trace; of its calls ``calls`` alone, where given."""
    return summary | {
        "schema": "flux.trace/1",
        "input": show_input(execution),
        "output": show_output(execution),
        "user": show_user(execution),
        "stack": show_stack(execution),
        "calls": [call_json(call, execution) for call in (execution.calls if calls is None else calls)],
        "spans": list(spans),
        "mutations": [mutation_json(mutation) for mutation in execution.mutations],
        "logs": logs_of_execution(execution),
        "sandbox": {
            "kind": execution.level.kind,
            "isolation": execution.level.isolation,
            "clock": execution.level.clock,
            "served_before": execution.served_before,
        },
        "limits": [
            {"name": limit.name, "value": limit.value, "origin": limit.origin} for limit in execution.limits
        ],
        "transactions": [
            {
                "isolation": transaction.isolation,
                "snapshot": transaction.snapshot,
                "xid": transaction.xid,
                "committed": transaction.committed,
                "begun_by": transaction.begun_by,
            }
            for transaction in execution.transactions
        ],
        "cause": show_cause(execution),
        "children": list(children),
        "jobs": list(jobs),
        "replays": [replay_found_json(replay) for replay in replays],
    }


def show_user(execution: Execution) -> Any:
    """Return what ``ctx.user`` was in the end, as far as anybody has said; None: nothing."""
    user = execution.user or execution.trigger.user or execution.trigger.auth
    return show_json(user) if user else None


def show_cause(execution: Execution) -> Document | None:
    """Return what made the execution run, when another one did: that one's name, and which of its calls."""
    if execution.parent is None:
        return None
    trigger = execution.trigger
    return {"execution": ids.make_name(execution.parent), "call": trigger.call, "job": trigger.job or None}


def replay_found_json(replay: ReplayFound) -> Document:
    """Return what a replay has shown."""
    return {
        "execution": replay.name,
        "on": replay.code,
        "deployment": replay.deployment,
        "sha": replay.sha,
        "dirty": replay.dirty,
        "verdict": replay.verdict,
        "reason": replay.reason,
        "divergence": None if replay.divergence is None else json.loads(replay.divergence),
        "is_check": replay.is_check,
        "at": show_moment(replay.at),
    }


def show_input(execution: Execution) -> Any:
    """Return what came in: the request, or the data of an execution that no request began."""
    trigger = execution.trigger
    if not trigger.method:
        return show_json(trigger.body) if trigger.body else None
    return {
        "method": trigger.method,
        "path": trigger.path,
        "params": show_pairs(trigger.params),
        "query": show_pairs(trigger.query),
        "headers": show_pairs(trigger.headers),
        "client": trigger.client or None,
        "auth": show_json(trigger.auth) if trigger.auth else None,
        **_show_body_of(trigger, execution),
    }


def show_output(execution: Execution) -> Document | None:
    """Return what went out, or why the function had no answer of its own; None when it was cut off."""
    match execution.outcome:
        case Returned(status=status, headers=headers) as returned:
            return {"status": status, "headers": show_pairs(headers), **_show_body_of(returned, execution)}
        case Raised() as raised:
            return {
                "status": raised.status,
                "code": raised.code,
                "raised": {"type": raised.type, "message": raised.message, "cause": raised.cause or None},
                "violations": show_json(raised.violations),
            }
        case Killed() as killed:
            return {
                "status": execution.status,
                "killed": {
                    "limit": killed.limit,
                    "allowed": killed.allowed,
                    "origin": killed.origin,
                    "detail": killed.detail,
                },
            }
        case Exited() as exited:
            return {
                "status": execution.status,
                "exited": {
                    "exit_code": exited.exit_code,
                    "signal": exited.signal,
                    "detail": exited.detail,
                },
            }
        case Interrupted(reason=reason, status=status):
            return {"status": status, "interrupted": {"reason": reason}} if status else None


def show_stack(execution: Execution) -> list[Document]:
    """Return the frames of what was raised, from the outermost to the innermost."""
    frames: Sequence[Frame] = execution.outcome.frames if isinstance(execution.outcome, Raised) else ()
    return [
        {
            "file": frame.file,
            "line": frame.line,
            "function": frame.function,
            "user": frame.user,
            "source": frame.source,
        }
        for frame in frames
    ]


def call_json(call: HostCall, execution: Execution) -> Document:
    """Return a host call; an unanswered one lasted until the end of its execution."""
    request, result = call.request, call.result
    elapsed_ns = max(0, execution.elapsed_ns - call.started_ns) if result is None else result.elapsed_ns
    return {
        "seq": request.seq,
        "task": request.task,
        "kind": request.name,
        "arguments": show_arguments(request.name, request.arguments),
        "result": None if result is None or result.error is not None else show_json(result.value),
        "error": None if result is None or result.error is None else error_json(result.error),
        "answered": call.answered,
        "started_ms": call.started_ns / 1e6,
        "elapsed_ms": elapsed_ns / 1e6,
        "location": show_position(request.position),
    }


_ARGUMENT_NAMES = {
    "db.query": ("sql", "args"), "db.execute": ("sql", "args"), "db.begin": ("isolation",),
    "net.open": ("host", "port", "timeout_s"), "net.tls": ("connection", "options", "timeout_s"),
    "net.send": ("connection", "data", "timeout_s"), "net.recv": ("connection", "bytes_max", "timeout_s"),
    "queue.push": ("function", "payload", "options"), "invoke": ("function", "input"),
    "net.poll": ("connections", "timeout_s"), "net.shutdown": ("connection",), "net.close": ("connection",),
}  # fmt: skip
_HTTP_OPTIONS = ("headers", "body", "timeout_s")


def show_arguments(name: str, arguments: bytes) -> Any:
    """Return a call's arguments by name where they have names, else as the list that they are."""
    shown = show_json(arguments)
    if not isinstance(shown, msgspec.Raw):
        return shown
    try:
        parts = msgspec.json.decode(arguments, type=list[msgspec.Raw])
        if names := _ARGUMENT_NAMES.get(name):
            return dict(zip(names, parts, strict=True))
        if name == "http.request":
            method, url, options = parts
            named = msgspec.json.decode(options, type=dict[str, msgspec.Raw])
            return {
                "method": method,
                "url": url,
                **dict.fromkeys(_HTTP_OPTIONS),  # Each is there, were it as null.
                **named,
            }
    except (msgspec.DecodeError, ValueError):
        return shown  # The guest asked with something else, and was refused: shown as it asked.
    return shown


def error_json(error: HostCallError) -> Document:
    """Return what the guest saw raised."""
    return {
        "type": error.name,
        "message": error.message,
        "code": error.code or None,
        "details": show_json(error.details),
    }


def log_json(log: LogLine, number: int, execution: Execution) -> Document:
    """Return a line that a function logged, the ``number``-th of its execution."""
    return {
        "schema": "flux.log/1",
        "line": number,
        "at": show_time(execution.started_at_ns + log.at_ns),
        "level": log.level,
        "message": log.message,
        "fields": show_json(log.fields),
        "location": show_position(log.position),
        "execution": execution.name,
        "function": execution.function,
    }


def logs_of_execution(execution: Execution) -> list[Document]:
    """Return all lines that an execution logged, as ``flux logs`` shows them."""
    return [log_json(log, number, execution) for number, log in enumerate(execution.logs, 1)]


# --- why -------------------------------------------------------------------------------------------


def why_json(summary: Document, why: Why) -> Document:
    """Return an explanation."""
    failure = why.failure
    return {
        "schema": "flux.why/1",
        "execution": summary,
        "failure": None
        if failure is None
        else {
            "kind": failure.kind.value,
            "type": failure.type,
            "message": failure.message,
            "location": show_position(failure.location),
            "call": failure.call,
            "signature": failure.signature,
            "is_answer": failure.is_answer,
        },
        "verdict_text": list(why.verdict_text),
        "facts": [
            {"mark": fact.mark, "rule": fact.rule, "text": fact.text, "call": fact.call} for fact in why.facts
        ],
        "mutations": [mutation_json(mutation) for mutation in why.mutations],
        "next": list(why.next),
    }


def error_group_json(group: ErrorGroup) -> Document:
    """Return failures with one signature, and what the latest of them said."""
    return {
        "signature": group.signature,
        "count": group.count,
        "first": show_moment(group.first),
        "last": show_moment(group.last),
        "sample": group.sample,
        "functions": list(group.functions),
        "error": {
            "type": group.error_type,
            "message": group.error_message,
            "location": show_position(group.error_location),
        },
    }


# --- rows ------------------------------------------------------------------------------------------


def mutation_json(mutation: Mutation) -> Document:
    """Return a row before and after; images are the database's own JSON."""
    return {
        "schema_name": mutation.schema,
        "table": mutation.table,
        "key": _show_row(mutation.key),
        "op": mutation.op.value,
        "before": _show_row(mutation.before),
        "after": _show_row(mutation.after),
        "committed": mutation.committed,
        "call": mutation.call,
        "depth": mutation.depth,
        "xid": mutation.xid,
        "at": show_time(mutation.at_ns) if mutation.at_ns else None,
    }


def version_json(version: RowVersion) -> Document:
    """Return one version of a row: the change, and who made it."""
    return mutation_json(version.mutation) | {
        "version": version.version,
        "at": show_moment(version.at),
        "execution": version.name,
        "function": version.function,
        "sha": version.sha,
        "outside": version.outside,
        "migration": version.migration,
        "gap": version.gap,
    }


def _show_row(row: str | None) -> Any:
    return None if row is None else show_json(row.encode("utf-8", "surrogatepass"))
