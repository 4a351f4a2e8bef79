"""Answers that the caller of a replay brings, where the record has none.

``--answer 3=timeout`` answers call 3 of the replay as if nobody had answered it, ``3=503`` with
that status and no body, ``3=rate.json`` with the body in a file, ``3=@qk1`` as another
execution was answered that asked the same kind of thing. Whatever is brought is shown as such: a
verdict that rests on it says so. Only outbound requests can be answered this way; what the
database says is never made up.
"""

import re
from collections.abc import Mapping, Sequence

import attrs

from flux import calls, values
from flux.errors import OperatorError
from flux.hostcall import HostCall, HostCallError, HostCallRequest, HostCallResult
from flux.matching import make_key

TIMEOUT = "timeout"
DEFAULT_TIMEOUT_S = 10.0
"""What a request waits that says nothing itself: `flux.hostcalls.http_outbound`."""
NS = 1_000_000_000
_STATUS = re.compile(r"[2-5][0-9]{2}", re.ASCII)


class BadAnswerError(OperatorError):
    """An answer that was brought fits no call."""

    code = "FLX314"
    exit_code = 2


@attrs.frozen
class Timeout:
    """Nobody answers within the request's own limit."""


@attrs.frozen
class Status:
    """An answer of this status, without a body."""

    status: int


@attrs.frozen
class Content:
    """An answer of status 200 with this body."""

    body: str


@attrs.frozen
class Borrowed:
    """The answer that another execution got."""

    name: str
    """Of that execution."""
    calls: Sequence[HostCall]
    """All that it asked."""


BroughtAnswer = Timeout | Status | Content | Borrowed


def read_answer(text: str) -> Timeout | Status | None:
    """Return what ``timeout`` and ``503`` mean, or None: then it is a file's or an execution's name."""
    if text == TIMEOUT:
        return Timeout()
    return Status(int(text)) if _STATUS.fullmatch(text) else None


def make_result(request: HostCallRequest, answer: BroughtAnswer) -> HostCallResult:
    """Return ``answer`` as the result of ``request``; raise `BadAnswerError` where it can't be one."""
    http = calls.read_http(HostCall(request, None, 0))
    if http is None:
        raise BadAnswerError(
            f"call {request.seq} of the replay is {request.name}, and only outbound requests can be given an answer",
            remedy="flux replay --json shows the calls by number",
        )
    match answer:
        case Timeout():
            limit_s = DEFAULT_TIMEOUT_S if http.timeout_s is None else http.timeout_s
            host, _, port = http.host.partition(":")
            details: dict[str, object] = {
                "host": host, "port": int(port) if port.isdigit() else None, "limit_s": limit_s,
                "limit_source": "default" if http.timeout_s is None else "call", "elapsed_ms": limit_s * 1000,
                "has_idempotency_key": http.has_idempotency_key,
            }  # fmt: skip
            message = f"{http.method} {http.url_shown} gave no answer in {limit_s * 1000:,.0f} ms"
            error = HostCallError("HttpTimeout", message, "FLX409", values.encode_canonical(details))
            return HostCallResult(error=error, elapsed_ns=round(limit_s * NS))
        case Status(status):
            return HostCallResult(_encode(http.url, status, ""))
        case Content(body):
            return HostCallResult(_encode(http.url, 200, body))
        case Borrowed(name, asked):
            shape = make_key(request).shape
            for call in asked:
                if call.result is not None and make_key(call.request).shape == shape:
                    return call.result
            raise BadAnswerError(
                f"{name} asked nothing like call {request.seq} ({http.method} {http.url_shown}) and was answered",
                remedy=f"flux trace {name} shows what it asked",
            )


def _encode(url: str, status: int, body: str) -> bytes:
    headers = [["content-type", "application/json"]]
    answer: Mapping[str, object] = {
        "status": status, "headers": headers, "body": body, "url": url, "redirects": []
    }  # fmt: skip
    return values.encode(answer)
