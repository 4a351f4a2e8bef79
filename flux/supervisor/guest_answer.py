"""What a guest's answer says, read where it can still be refused.

An answer that can't be sent is the function's own mistake, and found before its transaction is committed. Its body is
in it, or the function has written it piece by piece (`flux.streamed`): then what was written is asked of the host's own
answer to the end of the stream, and never of the guest.
"""

from collections.abc import Callable, Iterable

import msgspec

from flux import values
from flux.errors import FluxError
from flux.execution import Killed, Outcome, Raised, Returned
from flux.hostcall import HostCall
from flux.http_rules import check_response, has_body
from flux.limits import format_size
from flux.message import HttpResponse
from flux.streamed import END, StreamedBody, find_ended

Kill = Callable[[str, str, str], Killed]
"""Takes a limit's name, its value as people write it, and what was seen."""
_LENGTH = "content-length"


class _Answer(msgspec.Struct, forbid_unknown_fields=True):
    status: int
    headers: list[tuple[str, str]]
    body: msgspec.Raw
    streamed: bool = False


_decoder = msgspec.json.Decoder(_Answer)


def read_answer(value: bytes, response_bytes_max: int, calls: Iterable[HostCall], kill: Kill) -> Outcome:
    """Return how an execution ends that made ``calls`` and answered ``value``."""
    if len(value) > response_bytes_max:
        return kill("response", format_size(response_bytes_max), f"the function returned {len(value):,} bytes")
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


def _invalid(why: str) -> Raised:
    return Raised("InvalidResponse", why)
