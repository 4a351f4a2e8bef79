"""One execution in forms that other programs take: a command for a shell, spans for OpenTelemetry.

Both are made of a `flux trace --json` document. Its body is read from the text and not from a `flux.cli.record`, since
it is to be sent as it came, with each digit of its numbers.
"""

import base64
import json
import shlex
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from flux import __version__
from flux.cli.record import Record
from flux.errors import OperatorError
from flux.sanitize import sanitize
from flux.synthetic import STAND_IN

_OF_THE_CONNECTION = frozenset({"host", "content-length", "connection", "transfer-encoding", "keep-alive", "expect"})
"""Header fields that whoever sends the request makes anew."""


class NotARequestError(OperatorError):
    """The execution was begun by no request, so there is none to be sent again."""

    code = "FLX607"


class _Input(msgspec.Struct):
    body: msgspec.Raw = msgspec.Raw(b"null")
    body_format: str = "empty"


class _Trace(msgspec.Struct):
    input: _Input


def curl_text(trace: Record, text: str, url: str) -> str:
    """Return the request that began an execution as a command; ``text`` is the trace as it came, ``url`` the server."""
    name = trace.text("name")
    if trace.text("trigger") != "http":
        raise NotARequestError(
            f"{name} was begun by no request, but by {trace.text('trigger')}",
            remedy=f"flux invoke {shlex.quote(trace.text('function'))} --data '...' runs its function; "
            f"flux replay {name} runs it again",
        )
    said = trace.record("input")
    said_body = msgspec.json.decode(text, type=_Trace).input
    query = [(key, value) for key, values in said.record("query").data.items() for value in _as_list(values)]
    target = quote(said.text("path"), safe="/%:@!$&'()*+,;=~-._") + ("?" + urlencode(query) if query else "")
    words = ["curl", "-i", "-X", said.text("method"), url.rstrip("/") + target]
    for field, values in said.record("headers").data.items():
        if field.lower() not in _OF_THE_CONNECTION:
            words += [word for value in _as_list(values) for word in ("-H", f"{field}: {value}")]
    before = ""
    body = _read_body(said_body)
    if body is not None:
        try:
            as_text = body.decode()
        except UnicodeDecodeError:
            as_text = None
        if as_text is not None and sanitize(as_text, newlines=True) == as_text:
            words += ["--data-raw", as_text]
        else:  # Not for a terminal, nor for a shell.
            before = f"echo {base64.b64encode(body).decode()} | base64 -d | "
            words += ["--data-binary", "@-"]
    line = before + " ".join(map(shlex.quote, words))
    return sanitize("".join(f"# {each}\n" for each in _list_doubts(trace, line)) + line + "\n", newlines=True)


def _list_doubts(trace: Record, line: str) -> Iterator[str]:
    completeness = trace.data.get("completeness")
    if completeness not in (None, "whole", []):
        said = completeness if isinstance(completeness, str) else "; ".join(map(str, completeness))
        yield "the record is not whole: " + said.replace("\n", "; ")
    if STAND_IN.search(line):
        yield "redacted:..., forgotten:... and flux-secret:... stand for values that are not on record"


def _as_list(values: Any) -> list[Any]:
    return values if isinstance(values, list) else [values]


def _read_body(said: _Input) -> bytes | None:
    raw = bytes(said.body)
    match said.body_format:
        case "empty":
            return None
        case "json":
            return raw
        case "text":
            return msgspec.json.decode(raw, type=str).encode()
    return base64.b64decode(json.loads(raw)["$bytes"])


def otlp_text(trace: Record) -> str:
    """Return an execution as a request of OpenTelemetry's protocol, in JSON: what is sent to ``/v1/traces``."""
    resource = {
        "service.name": "flux",
        "service.version": trace.maybe_text("sha") or "",
        "flux.tenant": trace.text("tenant"),
        "flux.deployment": trace.maybe_text("deployment") or "",
    }
    attributes = [{"key": key, "value": {"stringValue": value}} for key, value in resource.items()]
    scope = {"name": "flux", "version": __version__}
    spans = {"scope": scope, "spans": trace.items("spans")}
    document = {"resourceSpans": [{"resource": {"attributes": attributes}, "scopeSpans": [spans]}]}
    return json.dumps(document)
