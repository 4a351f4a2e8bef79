"""What a function returned, as the host wants it: status, headers, body.

Mistakes are found here, where the message can say what stands where, and are
raised as the function's own.
"""

import copy
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from flux_guest import _values
from flux_guest._bodies import (
    BODY_FREE,
    AnswerError,
    AsyncDoor,
    Door,
    Streamed,
    check_status,
    is_stream,
    write,
    write_blocking,
)
from flux_guest._context import HttpResponse, Response

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HALVES = re.compile("[\ud800-\udfff]")
_VALUE_REFUSED = re.compile(r"[^\t\x20-\x7e\x80-\xff]")
_OF_THE_CONNECTION = frozenset(
    {"connection", "content-length", "date", "keep-alive", "proxy-connection", "te", "trailer"}
    | {"transfer-encoding", "upgrade"}
)
"""Header fields that spoke of the connection to another server, and mean nothing on ours."""


_TEXT, _BYTES = "text/plain; charset=utf-8", "application/octet-stream"


def write_answer_blocking(door: Door, value: Any) -> Any:
    """Return ``value`` with its body written, where that is an iterator; for functions that are ``def`` throughout."""
    body = value.body if isinstance(value, Response) else value
    if not is_stream(body):
        return value
    check_status(value.status if isinstance(value, Response) else 200)
    return _with_body(value, write_blocking(door, body))


async def write_answer(door: AsyncDoor, value: Any) -> Any:
    """As `write_answer_blocking`, where there is an event loop."""
    body = value.body if isinstance(value, Response) else value
    if not is_stream(body):
        return value
    check_status(value.status if isinstance(value, Response) else 200)
    return _with_body(value, await write(door, body))


def _with_body(value: Any, body: Streamed) -> Any:
    if not isinstance(value, Response):
        return body
    answer = copy.copy(value)
    answer.body = body
    return answer


def describe_answer(value: Any) -> dict[str, Any]:
    """Return the answer's status, headers and body; raise `AnswerError`."""
    status, headers = 200, []
    if isinstance(value, Response):
        status, headers, value = value.status, _read_headers(value), value.body
        if type(status) is not int or not 200 <= status <= 599:
            raise AnswerError(f"a response has a status from 200 to 599, not {status!r}")
        if status in BODY_FREE and value is not None and value not in (b"", ""):
            raise AnswerError(f"a response with status {status} has no body; this one has {_shown(value)}")
    elif value is None:
        status = 204
    if isinstance(value, Streamed):
        if not any(name == "content-type" for name, _ in headers):
            headers.append(["content-type", _TEXT if value.is_text else _BYTES])
        return {"status": status, "headers": headers, "body": "", "streamed": True}
    if value is None or status in BODY_FREE:
        return {"status": status, "headers": headers, "body": ""}
    body: str | bytes
    if isinstance(value, bytes | bytearray | memoryview):
        body, content_type = bytes(value), _BYTES
    elif isinstance(value, str):
        body, content_type = str(value), _TEXT
    else:
        body, content_type = encode_body(value), "application/json"
    if isinstance(body, str) and not body.isascii() and (found := _HALVES.search(body)):
        raise AnswerError(f"the answer has half a character ({found[0]!r}, a lone surrogate), which no UTF-8 has")
    if not any(name == "content-type" for name, _ in headers):
        headers.append(["content-type", content_type])
    return {"status": status, "headers": headers, "body": body}


def _read_headers(response: Response) -> list[list[str]]:
    fields: list[list[str]] = []
    for name, value in response.headers.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise AnswerError(f"{name!r} is no name of a header field")
        if isinstance(response, HttpResponse) and name.lower() in _OF_THE_CONNECTION:
            continue
        for one in value if isinstance(value, list | tuple) else [value]:
            text = str(one)
            if found := _VALUE_REFUSED.search(text):
                raise AnswerError(f"the header field {name} can't hold {found[0]!r}")
            fields.append([name.lower(), text.strip(" \t")])
    return fields


def encode_body(value: Any) -> str:
    """Return JSON text for an answer's body; raise `AnswerError` that names the place which JSON has no form for."""
    try:
        return _encoder.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise AnswerError(f"the answer can't be JSON: {_find_trouble(value) or error}") from error


_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_values.default_for_answer)


def _find_trouble(value: Any) -> str:
    """Return which part of ``value`` JSON has no form for, and where it stands, or nothing."""
    above: set[int] = set()

    def look(item: Any, path: str) -> str:
        if isinstance(item, float):
            return "" if math.isfinite(item) else f"{path} is {item}"
        if item is None or isinstance(item, str | int):
            return ""
        if id(item) in above:
            return f"{path} contains itself"
        if len(above) > 500:
            return f"{path[:60]}... is nested too deeply"
        above.add(id(item))
        found = ""
        if isinstance(item, Mapping) and isinstance(item, dict):
            for key, inner in item.items():
                if key is not None and not isinstance(key, str | int | float):
                    found = f"{path} has a key of type {type(key).__name__}; keys are text"
                else:
                    found = look(inner, f"{path}.{key}")
                if found:
                    break
        elif isinstance(item, list | tuple):
            for index, inner in enumerate(item):
                if found := look(inner, f"{path}[{index}]"):
                    break
        else:
            try:
                found = look(_values.default_for_answer(item), path)
            except TypeError:
                found = f"{path} is {_values.named(item)}"
                if hasattr(type(item), "__await__"):
                    found += " that was not awaited: write await before it"
        above.discard(id(item))
        return found

    return look(value, "$")


def _shown(value: Any) -> str:
    return f"{len(value)} bytes" if isinstance(value, bytes) else _values.named(value)
