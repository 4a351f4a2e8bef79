"""The request that began an execution, as a command for a shell.

It is made of the trace's document. The body is taken from the text and never read as numbers, since it is to be sent as
it came, with each digit. What a terminal or a shell would not take as it is travels as base64.
"""

import base64
import json
import shlex
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from flux.errors import OperatorError
from flux.sanitize import sanitize
from flux.synthetic import STAND_IN

_OF_THE_CONNECTION = frozenset({"host", "content-length", "connection", "transfer-encoding", "keep-alive", "expect"})
"""Header fields that whoever sends the request makes anew."""


class NotARequestError(OperatorError):
    """The execution was begun by no request, so there is none to be sent again."""

    code = "FLX607"


class _Streamed(msgspec.Struct):
    bytes: int
    sha256: str


class _Input(msgspec.Struct):
    method: str = ""
    path: str = ""
    query: dict[str, Any] = {}
    headers: dict[str, Any] = {}
    body: msgspec.Raw = msgspec.Raw(b"null")
    body_format: str = "empty"
    streamed: _Streamed | None = None


class _Head(msgspec.Struct):
    name: str
    trigger: str
    function: str
    completeness: str = "whole"


class _Trace(msgspec.Struct):
    input: _Input


def write_curl(text: str, url: str) -> str:
    """Return the request that began an execution as a command; ``text`` is its trace, ``url`` the server."""
    trace = msgspec.json.decode(text, type=_Head)
    if trace.trigger != "http":
        raise NotARequestError(
            f"{trace.name} was begun by no request, but by {trace.trigger}",
            remedy=f"flux invoke {shlex.quote(trace.function)} --data '...' runs its function; "
            f"flux replay {trace.name} runs it again",
        )
    said = msgspec.json.decode(text, type=_Trace).input
    query = [(key, value) for key, values in said.query.items() for value in _as_list(values)]
    target = quote(said.path, safe="/%:@!$&'()*+,;=~-._") + ("?" + urlencode(query) if query else "")
    words = ["curl", "-i", "-X", said.method, url.rstrip("/") + target]
    for field, values in said.headers.items():
        if field.lower() not in _OF_THE_CONNECTION:
            words += [word for value in _as_list(values) for word in ("-H", f"{field}: {value}")]
    before = ""
    body = _read_body(said)
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
    if said.streamed is not None:
        words += ["--data-binary", "@BODY"]
    line = before + " ".join(map(shlex.quote, words))
    return sanitize("".join(f"# {each}\n" for each in _list_doubts(trace, said, line)) + line + "\n", newlines=True)


def _list_doubts(trace: _Head, said: _Input, line: str) -> Iterator[str]:
    if trace.completeness != "whole":
        yield "the record is not whole: " + trace.completeness.replace("\n", "; ")
    if (body := said.streamed) is not None:
        yield f"the body is not on record: BODY is to be the file of {body.bytes} bytes whose SHA-256 is {body.sha256}"
    if STAND_IN.search(line):
        yield "redacted:..., forgotten:... and flux-secret:... stand for values that are not on record"


def _as_list(values: Any) -> list[Any]:
    return values if isinstance(values, list) else [values]


def _read_body(said: _Input) -> bytes | None:
    raw = bytes(said.body)
    match said.body_format:
        case "empty" | "streamed":
            return None
        case "json":
            return raw
        case "text":
            return msgspec.json.decode(raw, type=str).encode()
    return base64.b64decode(json.loads(raw)["$bytes"])
