"""HTTP messages as values.

What the gateway hands to a handler and what it gets back. Nothing here reads
or writes a byte of the protocol: `flux.http_rules` decides whether bytes are a
request, `flux.supervisor.gateway` moves them. A `RequestHead` has therefore
already been checked, and whoever holds one may rely on what its fields say.

Bytes of header values are decoded as ISO-8859-1, one character a byte, so that
nothing is lost and `latin-1` gives the original back. RFC 9110, section 5.5,
asks a recipient to treat bytes above 0x7F as opaque data.
"""

import http
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, NewType, Protocol

import attrs

RawPath = NewType("RawPath", str)
"""A path as it was sent, with its percent-escapes, known to be decodable segment by segment.

A type of its own, because decoding twice is how ``%252F`` becomes a slash.
"""


@attrs.frozen
class RequestHead:
    """A request without its body."""

    method: str
    """As sent: methods are case-sensitive (RFC 9110, section 9.1)."""

    target: str
    """The request target as it was on the wire, for records and logs."""

    path: str
    """The path for people: percent-decoded, except that an encoded slash stays ``%2F``."""

    raw_path: RawPath
    """The path for routing (`flux.routes`): not decoded, so that ``a%2Fb`` is one segment."""

    query: tuple[tuple[str, str], ...]
    """Names and values of the query, decoded, in the order sent, repetitions kept."""

    headers: tuple[tuple[str, str], ...]
    """Names in lower case, in the order sent, repetitions kept."""

    version: str
    """``1.1`` or ``1.0``."""

    peer: str
    """Address and port of the other end of the connection, which may be a proxy."""

    def header(self, name: str) -> str | None:
        """Return the first header called ``name`` (in lower case), or None."""
        for found, value in self.headers:
            if found == name:
                return value
        return None


@attrs.frozen
class HttpRequest:
    """A whole request."""

    head: RequestHead
    """Everything but the body."""

    body: bytes = b""
    """The body, with its transfer coding undone; empty when there was none."""

    admission: "Admission | None" = None
    """What the handler said when it had seen the head; None for a request that came by no gateway."""

    upload: "Upload | None" = None
    """The body, where it is larger than is held: ``body`` is empty then. The gateway closes it, once it is answered."""


@attrs.frozen
class HttpResponse:
    """What a handler answers."""

    status: int
    """200 to 599."""

    headers: tuple[tuple[str, str], ...] = ()
    """In the order sent. Framing (``content-length``, ``transfer-encoding``) is the gateway's job."""

    body: bytes | AsyncIterator[bytes] = b""
    """All of it, or a stream that is sent piece by piece as it comes (events, NDJSON)."""


class Upload(Protocol):
    """Where a body goes that is too large to hold."""

    async def write(self, piece: bytes) -> None:
        """Take the next piece; raise `HttpRefusal` where there is no room for it."""

    def close(self) -> None:
        """Let go of it. Once is enough, and twice does no harm."""


@attrs.frozen
class Admission:
    """What a handler says of a request whose head is there, before a byte of its body is read."""

    body_bytes_max: int
    """How large the body may be; more is answered with 413."""

    answer: HttpResponse | None = None
    """The answer, where the head is enough for it: the body is not read then."""

    upload_bytes_max: int = 0
    """How large the body may be where it goes to ``open_upload``; 0: nowhere."""

    open_upload: "Callable[[], Upload] | None" = None
    """Makes a place for a body that is larger than ``body_bytes_max``."""

    headers: tuple[tuple[str, str], ...] = ()
    """What is added to whatever is answered, refusals by the gateway included."""

    drops: frozenset[str] = frozenset()
    """Header fields, in lower case, that are taken out of whatever is answered before ``headers`` are added."""

    ticket: object = None
    """What the handler wants to have again when the body is there."""

    def dress(self, response: HttpResponse) -> HttpResponse:
        """Return ``response`` with ``headers`` added and ``drops`` gone."""
        if not self.headers and not self.drops:
            return response
        kept = (header for header in response.headers if header[0].lower() not in self.drops)
        return attrs.evolve(response, headers=(*kept, *self.headers))


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    request_id: str | None = None,
    extra: Mapping[str, Any] | None = None,
) -> HttpResponse:
    """Return an error in the one envelope that Flux has: ``application/problem+json`` (RFC 9457).

    ``code`` is for programs (``NOT_FOUND``), ``detail`` for people. ``request_id``
    stays null for a request that was refused before it became an execution.
    ``extra`` adds members, such as ``violations``; it cannot replace one.
    """
    document: dict[str, Any] = {
        # "about:blank" says that the title is that of the status, which it is.
        "type": "about:blank",
        "title": reason_of(status),
        "status": status,
        "code": code,
        "detail": detail,
        "request_id": request_id,
    }
    document = document | dict(extra or {}) | document  # What is known to all comes first, for who reads it raw.
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":")) + "\n"  # curl's reader has a prompt below.
    body = text.encode("utf-8", "backslashreplace")
    return HttpResponse(status, (("content-type", "application/problem+json"),), body)


def reason_of(status: int) -> str:
    """Return the phrase that goes with ``status``, empty for one that nobody registered."""
    return _REASONS.get(status, "")


# From the RFCs where the standard library of 3.11 still has the older name, so that
# an answer reads the same on every Python.
_REASONS = {status.value: status.phrase for status in http.HTTPStatus} | {
    413: "Content Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
}
