"""An execution as spans, with OpenTelemetry's field names.

Nobody instruments anything for this: the spans follow from the recorded calls. So do their
ids (`flux.trace_context`), so that asking twice gives the same spans, and an exporter that sends
them twice does no harm. They belong to the trace of whoever caused the execution, beneath its span.

The form is the JSON of OpenTelemetry's protocol, in which whole numbers of 64 bits are text:
https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding
"""

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from flux.calls import find_function, read_net
from flux.execution import Execution
from flux.failure import find_failure
from flux.hostcall import HostCall
from flux.supervisor.present import Document, show_arguments
from flux.trace_context import Trace, make_span_id, read_trace

_KIND_INTERNAL, _KIND_SERVER, _KIND_CLIENT, _KIND_PRODUCER, _KIND_CONSUMER = 1, 2, 3, 4, 5
_KIND_OF_TRIGGER = {"http": _KIND_SERVER, "queue": _KIND_CONSUMER}
_STATUS_UNSET, _STATUS_ERROR = 0, 2


def list_spans(execution: Execution) -> list[Document]:
    """Return the execution and its calls, the execution first."""
    trigger = execution.trigger
    trace, root_id = _read_trace(execution), make_span_id(execution.id, 0)
    start = execution.started_at_ns
    failure = find_failure(execution)
    failed = failure is not None and not failure.is_answer
    attributes: Document = {
        "flux.execution": execution.name,
        "flux.function": execution.function,
        "flux.trigger": trigger.kind,
    }
    name = execution.function
    if trigger.kind == "http":
        name = f"{trigger.method} {trigger.route or trigger.path}"
        attributes |= {
            "http.request.method": trigger.method,
            "http.route": trigger.route,
            "url.path": trigger.path,
            "http.response.status_code": execution.status,
        }
    kind = _KIND_OF_TRIGGER.get(trigger.kind, _KIND_INTERNAL)
    message = f"{failure.type}: {failure.message}" if failure is not None and failed else ""
    parent_id = "" if trace.parent is None else trace.parent.span_id
    root = _span(
        trace.id, root_id, parent_id, name, kind, start, start + execution.elapsed_ns, attributes, failed, message
    )
    root["links"] = _links(execution)
    return [root, *(_span_of_call(call, execution, trace.id, root_id) for call in execution.calls)]


def _read_trace(execution: Execution) -> Trace:
    """Return the trace of an execution. A replay has the trigger of what it replayed, and a trace of its own."""
    return read_trace(execution.id, () if execution.replay_of is not None else execution.trigger.correlation)


def _links(execution: Execution) -> list[Document]:
    """Return spans that this one has to do with and that are not above it: what it replayed, the attempt before, and
    the call that caused it where that did not hand its trace on, as in older records."""
    trigger, parent = execution.trigger, execution.parent
    if execution.replay_of is not None:
        trace = read_trace(execution.replay_of, trigger.correlation)
        return [{"traceId": trace.id, "spanId": make_span_id(execution.replay_of, 0)}]
    if parent is None:
        return []
    is_again = execution.attempt > 1 and trigger.kind not in ("queue", "cron")  # A job's parent is who pushed it.
    if is_again:
        trace = read_trace(parent, trigger.correlation)
        return [{"traceId": trace.id, "spanId": make_span_id(parent, 0)}]
    if trigger.call is None or _read_trace(execution).parent is not None:
        return []
    return [{"traceId": parent.hex, "spanId": make_span_id(parent, trigger.call)}]


def _span_of_call(call: HostCall, execution: Execution, trace_id: str, root_id: str) -> Document:
    request, result = call.request, call.result
    elapsed_ns = max(0, execution.elapsed_ns - call.started_ns) if result is None else result.elapsed_ns
    start = execution.started_at_ns + call.started_ns
    attributes: Document = {"flux.call": request.seq, "flux.task": request.task}
    name, kind = request.name, _KIND_INTERNAL
    shown = show_arguments(request.name, request.arguments)
    arguments: Mapping[str, Any] = shown if isinstance(shown, dict) else {}
    if request.name in ("db.query", "db.execute") and "sql" in arguments:
        kind = _KIND_CLIENT
        attributes |= {"db.system.name": "postgresql", "db.query.text": _text_of(arguments["sql"])}
    elif request.name == "http.request" and "url" in arguments:
        kind = _KIND_CLIENT
        attributes |= {
            "http.request.method": _text_of(arguments["method"]),
            "url.full": _text_of(arguments["url"]),
        }
    elif (function := find_function(call)) is not None:
        kind = _KIND_PRODUCER if name == "queue.push" else _KIND_CLIENT
        attributes |= {"flux.callee": function}
    elif (outbound := read_net(call)) is not None:
        kind = _KIND_CLIENT
        attributes |= {"server.address": outbound.host}
    if request.position is not None:
        attributes |= {
            "code.file.path": request.position.file,
            "code.line.number": request.position.line,
            "code.function.name": request.position.function,
        }
    error = result.error if result is not None else None
    message = f"{error.name}: {error.message}" if error is not None else ""
    return _span(
        trace_id, make_span_id(execution.id, request.seq), root_id, name, kind, start, start + elapsed_ns,
        attributes, error is not None, message,
    )  # fmt: skip


def _text_of(raw: msgspec.Raw) -> str:
    value = msgspec.json.decode(raw)
    return value if isinstance(value, str) else json.dumps(value)


def _span(
    trace_id: str, span_id: str, parent_id: str, name: str, kind: int, start_ns: int, end_ns: int,
    attributes: Mapping[str, Any], failed: bool, message: str,
) -> Document:  # fmt: skip
    return {
        "traceId": trace_id,
        "spanId": span_id,
        "parentSpanId": parent_id,
        "name": name,
        "kind": kind,
        "startTimeUnixNano": str(start_ns),
        "endTimeUnixNano": str(end_ns),
        "attributes": [
            {
                "key": key,
                "value": {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value},
            }
            for key, value in attributes.items()
        ],
        "status": {"code": _STATUS_ERROR, "message": message} if failed else {"code": _STATUS_UNSET},
    }
