"""An execution as spans, with OpenTelemetry's field names.

Nobody instruments anything for this: the spans follow from the recorded calls. So do their
ids, so that asking twice gives the same spans, and an exporter that sends them twice does no
harm. The caller's own trace is linked and not continued: its id is no identity here,
since a caller may send the same one again.

The form is the JSON of OpenTelemetry's protocol, in which whole numbers of 64 bits are text:
https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding
"""

import hashlib
import json
import re
import uuid
from collections.abc import Mapping
from typing import Any

import msgspec

from flux.calls import find_function, read_net
from flux.execution import Execution
from flux.failure import find_failure
from flux.hostcall import HostCall
from flux.supervisor.present import Document, show_arguments

_KIND_INTERNAL, _KIND_SERVER, _KIND_CLIENT, _KIND_PRODUCER, _KIND_CONSUMER = 1, 2, 3, 4, 5
_KIND_OF_TRIGGER = {"http": _KIND_SERVER, "queue": _KIND_CONSUMER}
_STATUS_UNSET, _STATUS_ERROR = 0, 2


def list_spans(execution: Execution) -> list[Document]:
    """Return the execution and its calls, the execution first."""
    trigger = execution.trigger
    trace_id, root_id = execution.id.hex, make_span_id(execution.id, 0)
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
    root = _span(
        trace_id, root_id, "", name, kind, start, start + execution.elapsed_ns, attributes, failed, message
    )
    root["links"] = _links(execution)
    return [root, *(_span_of_call(call, execution, trace_id, root_id) for call in execution.calls)]


_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}(?:-.*)?")


def _links(execution: Execution) -> list[Document]:
    """Return the caller's span, when it sent a valid one (https://www.w3.org/TR/trace-context/), and the one that
    pushed or invoked it."""
    trigger, parent = execution.trigger, execution.parent
    found = _TRACEPARENT.fullmatch(dict(trigger.correlation).get("traceparent", ""))
    links: list[Document] = [{"traceId": found[1], "spanId": found[2]}] if found else []
    if parent is not None and trigger.call is not None:
        links.append({"traceId": parent.hex, "spanId": make_span_id(parent, trigger.call)})
    return links


def make_span_id(execution_id: uuid.UUID, seq: int) -> str:
    """Return the id of the span of call ``seq``; 0 is the execution itself."""
    return hashlib.sha256(f"{execution_id} {seq}".encode()).hexdigest()[:16]


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
