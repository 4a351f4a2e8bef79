"""How a guest said that it ended: what its last frame means, for whoever speaks the wire with it.

An answer that can't be sent is the function's own mistake, and found before its transaction is committed. Its body is
in it, or the function has written it piece by piece (`flux.streamed`): then what was written is asked of the host's own
answer to the end of the stream, and never of the guest.
"""

from collections.abc import Callable, Iterable

import msgspec

from flux import values
from flux.errors import FluxError
from flux.execution import Frame, Killed, Outcome, Raised, Returned
from flux.hostcall import HostCall
from flux.http_rules import check_response, has_body
from flux.limits import Limits, format_size
from flux.message import HttpResponse
from flux.streamed import END, StreamedBody, find_ended
from flux.wire import RaisedReport

Kill = Callable[[str, str, str], Killed]
"""Takes a limit's name, its value as people write it, and what was seen."""
_LENGTH = "content-length"


class _Answer(msgspec.Struct, forbid_unknown_fields=True):
    status: int
    headers: list[tuple[str, str]]
    body: msgspec.Raw
    streamed: bool = False


_decoder = msgspec.json.Decoder(_Answer)


def read_answer(value: bytes, limits: Limits, calls: Iterable[HostCall], kill: Kill) -> Outcome:
    """Return how an execution ends that made ``calls`` and answered ``value``."""
    if len(value) > limits.response_bytes_max:
        allowed = format_size(limits.response_bytes_max)
        return kill("response", allowed, f"the function returned {len(value):,} bytes")
    try:
        answer = _decoder.decode(value)
        body = values.decode(answer.body)
    except (msgspec.MsgspecError, values.ValueFormatError, RecursionError) as error:
        return kill("protocol", "PROTOCOL.md", f"a malformed answer: {error}")
    content = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
    if not isinstance(content, bytes):
        return kill("protocol", "PROTOCOL.md", "an answer's body is text or bytes")
    headers = tuple((name, item) for name, item in answer.headers)
    streamed: StreamedBody | None = None
    if answer.streamed:
        streamed = find_ended(calls)
        if streamed is None or content:
            return kill("protocol", "PROTOCOL.md", f"an answer that is a stream has no body, and a {END} before it")
        lengths = [item for name, item in headers if name.lower() == _LENGTH and item != str(streamed.size_bytes)]
        if lengths:
            return _invalid(f"the answer says that it has {lengths[0][:20]} bytes, and has {streamed.size_bytes}")
        if streamed.size_bytes and not has_body(answer.status, "GET"):
            return _invalid(f"an answer with status {answer.status} has no body, and this one was streamed")
        headers = tuple((name, item) for name, item in headers if name.lower() != _LENGTH)
    try:
        check_response(HttpResponse(answer.status, headers, content), "GET")
    except FluxError as error:
        # The function's own mistake, found where it can still be rolled back and recorded.
        return _invalid(error.message)
    return Returned(answer.status, headers, content, streamed)


def read_report(report: RaisedReport, limits: Limits, kill: Kill) -> Outcome:
    """Return how an execution ends that has raised what ``report`` tells of."""
    if report.status < 400:
        return kill("protocol", "PROTOCOL.md", f"{report.status} is no status of a failure")
    if report.type == "MemoryError":
        where = next((frame for frame in reversed(report.frames) if frame.user), None)
        detail = f"MemoryError at {where.file}:{where.line} in {where.function}" if where else "MemoryError"
        return kill("memory", format_size(limits.memory_bytes_max), detail)
    return Raised(
        type=report.type,
        message=report.message,
        frames=tuple(Frame(f.file, f.line, f.function, f.user, f.source) for f in report.frames),
        status=report.status,
        code=report.code,
        violations=values.encode_canonical(report.violations),
        call=report.call,
        cause=report.cause,
    )


def _invalid(why: str) -> Raised:
    return Raised("InvalidResponse", why)
