"""What is a request, and what may be an answer, to the byte.

h11 parses HTTP/1.1 as tolerantly as clients deserve. A server whose records are
evidence, and that may stand behind a proxy, cannot be tolerant: wherever two
readers of the same bytes can disagree about where a message ends, a request can
be smuggled past one of them. So these rules read the raw bytes first and refuse
whatever has two readings; what passes then goes through h11 as well, and a
message counts only when both accept it.

How to think about it: every function here is a function of the bytes alone, not
of how the network cut them up. A refusal belongs to the *first* offending
position, so the same bytes are answered the same way in one piece or one by one.

    find_head      where the head ends, or that it never will
    read_head      head -> RequestHead and BodyFraming
    ChunkedBody    chunked coding -> body
    check_response what a handler may answer

A refusal is an `HttpRefusal`. It always closes the connection: after bytes that
could not be understood there is no telling where the next request begins.
"""

import re
from collections.abc import Sequence
from typing import NoReturn
from urllib.parse import unquote

import attrs

from flux.errors import GuestError
from flux.message import HttpResponse, RawPath, RequestHead, problem


class HttpRefusal(Exception):
    """The client's bytes are no request that we take; says what to answer."""

    def __init__(
        self, status: int, code: str, detail: str, *, headers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = headers

    def to_response(self) -> HttpResponse:
        """Return the answer that tells the client."""
        response = problem(self.status, self.code, self.detail)
        return attrs.evolve(response, headers=response.headers + self.headers)


class ResponseHeaderError(GuestError):
    """A handler's header could be read as more than one, or as none."""

    code = "FLX611"


class ResponseFramingError(GuestError):
    """A handler tried to say where its answer ends."""

    code = "FLX612"


class ResponseStatusError(GuestError):
    """A handler's status is not one that ends an exchange."""

    code = "FLX613"


class ResponseBodyError(GuestError):
    """A handler's answer, or its body, is not of a kind that can be sent."""

    code = "FLX614"


@attrs.frozen
class BodyFraming:
    """How the body of a request is delimited (RFC 9112, section 6.3)."""

    length: int | None
    """Bytes in the body, or None when it is chunked."""

    expects_continue: bool
    """The client waits for ``100 Continue`` before it sends the body."""


@attrs.frozen
class HeadLimits:
    """How large a head may be."""

    request_line_bytes_max: int = 8 * 1024
    """Method, target and version. RFC 9112, section 3, asks for at least 8000."""

    header_bytes_max: int = 64 * 1024
    """The whole head, with its request line and the empty line."""

    header_count_max: int = 100
    """Header lines."""


# RFC 9110, section 5.6.2.
_TOKEN = rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+"
# RFC 9110, section 5.5, without the leave to replace control characters: they are refused.
_VALUE = rb"[\t\x20-\x7e\x80-\xff]*"
_REQUEST_LINE = rb"(" + _TOKEN + rb") ([\x21-\x7e]+) HTTP/([0-9]\.[0-9])"
_HEADER_LINE = _TOKEN + rb":" + _VALUE

_request_line_re = re.compile(_REQUEST_LINE)
_header_line_re = re.compile(_HEADER_LINE)
_head_re = re.compile(_REQUEST_LINE + rb"\r\n((?:" + _HEADER_LINE + rb"\r\n)*)\r\n")
_first_byte_re = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]")
_chunk_line_re = re.compile(rb"([0-9A-Fa-f]{1,16})((?:[ \t]*;" + _VALUE + rb")?)")
_host_re = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]+)(?::[0-9]{0,5})?")
_digits_re = re.compile(r"[0-9]{1,18}")
_escape_re = re.compile(r"%(?![0-9A-Fa-f]{2})")
_encoded_slash_re = re.compile(r"%2f", re.IGNORECASE)
_name_re = re.compile(_TOKEN.decode("ascii"))
_control_re = re.compile(r"[^\t\x20-\x7e\x80-\xff]")

_CARRIAGE_RETURN = 0x0D

CHUNK_LINE_BYTES_MAX = 1024
"""The longest line with a chunk's size and extensions."""

CHUNK_EXTENSION_BYTES_MAX = 8 * 1024
"""All chunk extensions of one body. Nobody uses them but to make servers work for nothing."""

_FRAMING = frozenset({"transfer-encoding", "keep-alive", "proxy-connection", "te", "trailer", "upgrade"})
"""Headers about this connection or this coding, which a handler knows nothing of."""


def find_head(buffer: bytearray, searched: int, limits: HeadLimits, *, ended: bool = False) -> int:
    """Return where the head at the start of ``buffer`` ends, or -1 when more bytes are needed.

    ``searched`` is how much of the buffer an earlier call has seen. ``ended``
    says that no more bytes will come. Call `skip_empty_line` first.
    """
    # A CR alone may become the empty line that `skip_empty_line` takes away.
    if buffer and not _first_byte_re.match(buffer) and (buffer != b"\r" or ended):
        # A TLS hello, a stray line end, a body longer than it said. Nothing after it helps.
        _malformed("a request line begins with a method")
    end = buffer.find(b"\r\n\r\n", max(0, searched - 3), limits.header_bytes_max)
    if end >= 0:
        end += 4
    seen = min(len(buffer), limits.header_bytes_max) if end < 0 else end
    # Checked before the rest is there: a head with bare line feeds may never have an end.
    line = buffer.find(b"\n", 0, min(seen, limits.request_line_bytes_max))
    if line < 0 and seen >= limits.request_line_bytes_max:
        raise HttpRefusal(
            414,
            "URI_TOO_LONG",
            f"the request line has more than {limits.request_line_bytes_max} bytes",
        )
    # An LF that has just come may have its CR in what was searched before.
    start = searched - 1 if searched and buffer[searched - 1] == _CARRIAGE_RETURN else searched
    if buffer.count(b"\n", start, seen) != buffer.count(b"\r\n", start, seen):
        _malformed("a line ends with a line feed alone; HTTP's lines end with CR LF")
    if end < 0 and len(buffer) >= limits.header_bytes_max:
        raise HttpRefusal(
            431,
            "HEADERS_TOO_LARGE",
            f"the request's head has more than {limits.header_bytes_max} bytes",
        )
    if end < 0 and ended:
        _malformed("the connection ended within the request's head")
    return end


def skip_empty_line(buffer: bytearray) -> bool:
    """Remove one CR LF from the start of ``buffer``, and say whether there was one.

    "A server that is expecting to receive and parse a request-line SHOULD ignore
    at least one empty line (CRLF) received prior to the request-line."
    -- RFC 9112, section 2.2. One is what old clients send after a body.
    """
    if buffer.startswith(b"\r\n"):
        del buffer[:2]
        return True
    return False


def read_head(raw: bytes, peer: str, limits: HeadLimits) -> tuple[RequestHead, BodyFraming]:
    """Read a whole head, as `find_head` delimits it."""
    if raw.count(b"\r\n") - 2 > limits.header_count_max:
        raise HttpRefusal(
            431, "HEADERS_TOO_LARGE", f"the request has more than {limits.header_count_max} headers"
        )
    match = _head_re.fullmatch(raw)
    if match is None:
        _explain(raw)
    method, target, version, block = (part.decode("latin-1") for part in match.groups())
    if version not in ("1.1", "1.0"):
        raise HttpRefusal(505, "HTTP_VERSION_NOT_SUPPORTED", f"this server speaks HTTP/1.1, not {version}")
    headers = []
    hosts = []
    lengths = []
    codings = []
    expects_continue = False
    for line in block.split("\r\n")[:-1]:
        name, _, value = line.partition(":")
        name = name.lower()
        value = value.strip(" \t")
        headers.append((name, value))
        if name == "host":
            hosts.append(value)
        elif name == "content-length":
            lengths.append(value)
        elif name == "transfer-encoding":
            codings.append(value)
        elif name == "expect":
            expects_continue = _read_expect(value, version) or expects_continue
    if method == "CONNECT":
        # "An empty Allow field value indicates that the resource allows no methods."
        # -- RFC 9110, section 10.2.1. The resource here is a tunnel.
        raise HttpRefusal(405, "METHOD_NOT_ALLOWED", "this server opens no tunnels", headers=(("allow", ""),))
    _check_hosts(hosts, version)
    authority, raw_path, path, query = _read_target(method, target)
    if authority is not None:
        # "When an origin server receives a request with an absolute-form of request-target,
        # the origin server MUST ignore the received Host header field (if any) and instead
        # use the host information of the request-target." -- RFC 9112, section 3.2.2
        headers = [("host", authority), *(header for header in headers if header[0] != "host")]
    length = _read_framing(lengths, codings, version)
    return (
        RequestHead(method, target, path, raw_path, query, tuple(headers), version, peer),
        BodyFraming(length, expects_continue and length != 0),
    )


class ChunkedBody:
    """Undoes the chunked transfer coding (RFC 9112, section 7.1), without h11's tolerance.

    Give it what has come in with `feed` until ``done``. Extensions are counted and
    dropped. So are trailers, all of them: a recipient "MAY selectively retain or
    discard the received trailer fields" (RFC 9112, section 7.1.2), and a trailer taken
    for a header would have passed every check that looks at headers.
    """

    def __init__(self, body_bytes_max: int, limits: HeadLimits) -> None:
        self.done = False
        self._body_bytes_max = body_bytes_max
        self._limits = limits
        self._body_bytes = 0
        self._extension_bytes = 0
        self._trailer_bytes = 0
        self._trailer_count = 0
        self._remaining = 0
        self._part = "size"

    def feed(self, buffer: bytearray) -> bytes:
        """Take from the start of ``buffer`` what belongs to this body; return what of it is content."""
        pieces: list[bytes] = []
        position = 0
        while not self.done:
            if self._part == "data":
                piece = bytes(buffer[position : position + self._remaining])
                pieces.append(piece)
                position += len(piece)
                self._remaining -= len(piece)
                if self._remaining:
                    break
                self._part = "data end"
            if self._part == "data end":
                end = bytes(buffer[position : position + 2])
                if end != b"\r\n"[: len(end)]:
                    _malformed("a chunk is longer than its size says")
                if len(end) < 2:
                    break
                position += 2
                self._part = "size"
            line = self._find_line(buffer, position)
            if line is None:
                break
            position += len(line) + 2
            if self._part == "size":
                self._read_size(line)
            else:
                self._read_trailer(line)
        del buffer[:position]
        return b"".join(pieces)

    def _find_line(self, buffer: bytearray, position: int) -> bytes | None:
        line_bytes_max = CHUNK_LINE_BYTES_MAX
        if self._part == "trailers":
            line_bytes_max = self._limits.header_bytes_max - self._trailer_bytes
        window_end = position + line_bytes_max + 2
        end = buffer.find(b"\r\n", position, window_end)
        seen = end if end >= 0 else min(len(buffer), window_end)
        if buffer.find(b"\n", position, seen) >= 0:
            _malformed("a line of a chunked body ends with a line feed alone")
        if end >= 0:
            return bytes(buffer[position:end])
        if len(buffer) >= window_end:
            if self._part == "size":
                _malformed(f"the line before a chunk has more than {CHUNK_LINE_BYTES_MAX} bytes")
            self._refuse_trailers()
        return None

    def _read_size(self, line: bytes) -> None:
        match = _chunk_line_re.fullmatch(line)
        if match is None:
            _malformed("a chunk does not begin with its size in hexadecimal digits")
        self._extension_bytes += len(match[2])
        if self._extension_bytes > CHUNK_EXTENSION_BYTES_MAX:
            _malformed(f"the body's chunk extensions have more than {CHUNK_EXTENSION_BYTES_MAX} bytes")
        self._remaining = int(match[1], 16)
        self._body_bytes += self._remaining
        if self._body_bytes > self._body_bytes_max:
            refuse_body(self._body_bytes_max)
        self._part = "data" if self._remaining else "trailers"

    def _read_trailer(self, line: bytes) -> None:
        if not line:
            self.done = True
            return
        self._trailer_bytes += len(line) + 2
        self._trailer_count += 1
        if (
            self._trailer_count > self._limits.header_count_max
            or self._trailer_bytes >= self._limits.header_bytes_max
        ):
            self._refuse_trailers()
        if not _header_line_re.fullmatch(line):
            _malformed("a line after the last chunk is not a header")

    def _refuse_trailers(self) -> NoReturn:
        raise HttpRefusal(
            431,
            "HEADERS_TOO_LARGE",
            f"the body's trailers have more than {self._limits.header_bytes_max} bytes "
            f"or {self._limits.header_count_max} lines",
        )


def refuse_body(body_bytes_max: int) -> NoReturn:
    """Refuse a body that is, or says that it will be, larger than ``body_bytes_max``."""
    raise HttpRefusal(413, "PAYLOAD_TOO_LARGE", f"the limit for a body here is {body_bytes_max} bytes")


def check_response(response: HttpResponse, method: str) -> list[tuple[bytes, bytes]]:
    """Return the header lines to send for ``response``, its framing included; raise if it cannot be sent.

    A stream of unknown length gets no framing here: whether it can be chunked
    depends on the client's HTTP version, and h11 knows that.
    """
    if not isinstance(response, HttpResponse):
        raise ResponseBodyError(
            f"a handler answered with {type(response).__name__}", remedy="answer with an HttpResponse"
        )
    status = response.status
    if not isinstance(status, int) or not 200 <= status <= 599:
        raise ResponseStatusError(
            f"a handler answered with status {status!r}", remedy="answer with a status of 200 to 599"
        )
    if not isinstance(response.body, bytes) and not hasattr(response.body, "__aiter__"):
        raise ResponseBodyError(
            f"a handler answered with a body of type {type(response.body).__name__}",
            remedy="answer with bytes, or with an async iterator of bytes",
        )
    lines = []
    length: bytes | None = None
    for name, value in response.headers:
        line = _check_header(name, value)
        if line[0] == b"content-length":
            if length is not None or not _digits_re.fullmatch(value):
                _refuse_framing("content-length", value)
            length = line[1]
        else:
            lines.append(line)
    if status == 204:
        # "A server MUST NOT send a Content-Length header field in any response with a
        # status code of 1xx (Informational) or 204 (No Content)." -- RFC 9110, section 8.6
        return lines
    if status == 304:
        return lines if length is None else [*lines, (b"content-length", length)]
    if status == 205:
        # "A server MUST NOT generate content in a 205 response." -- RFC 9110, section 15.3.6
        return [*lines, (b"content-length", b"0")]
    if isinstance(response.body, bytes):
        actual = b"%d" % len(response.body)
        if length is None or (length == actual):
            length = actual
        elif method != "HEAD" or response.body:
            # Only an answer to HEAD has a length and no body to measure.
            _refuse_framing("content-length", length.decode("ascii"))
        lines.append((b"content-length", length))
    elif length is not None:
        lines.append((b"content-length", length))
    return lines


def has_body(status: int, method: str) -> bool:
    """Say whether an answer of ``status`` to ``method`` has content (RFC 9110, sections 9.3.2, 15)."""
    return method != "HEAD" and status not in (204, 205, 304)


def _check_header(name: str, value: str) -> tuple[bytes, bytes]:
    if not isinstance(name, str) or not isinstance(value, str) or not _name_re.fullmatch(name):
        raise ResponseHeaderError(
            f"a handler answered with a header called {name!r:.100}",
            remedy="a header's name has letters, digits and dashes only, and its value is text",
        )
    if wrong := _control_re.search(value):
        raise ResponseHeaderError(
            f'a handler\'s header "{name}" has {wrong.group()!r} at position {wrong.start()}',
            remedy="percent-encode it: such a character could end the header and begin another",
        )
    lowered = name.lower()
    if lowered in _FRAMING or (lowered == "connection" and value.strip(" \t").lower() != "close"):
        _refuse_framing(name, value)
    return lowered.encode("ascii"), value.strip(" \t").encode("latin-1")


def _refuse_framing(name: str, value: str) -> NoReturn:
    raise ResponseFramingError(
        f'a handler answered with the header "{name}: {value:.100}"',
        remedy="leave it out: the gateway says how long an answer is and how it is sent",
    )


def _read_expect(value: str, version: str) -> bool:
    if version == "1.0":
        # "A server that receives a 100-continue expectation in an HTTP/1.0 request MUST
        # ignore that expectation." -- RFC 9110, section 10.1.1
        return False
    if value.lower() != "100-continue":
        raise HttpRefusal(417, "EXPECTATION_FAILED", "the only expectation known here is 100-continue")
    return True


def _check_hosts(hosts: Sequence[str], version: str) -> None:
    # "A server MUST respond with a 400 (Bad Request) status code to any HTTP/1.1 request
    # message that lacks a Host header field and to any request message that contains more
    # than one Host header field line or a Host header field with an invalid field value."
    # -- RFC 9112, section 3.2
    if len(hosts) > 1:
        _malformed("the request has more than one Host header")
    if not hosts and version == "1.1":
        _malformed("the request has no Host header")
    if hosts and not _host_re.fullmatch(hosts[0]):
        _malformed("the request's Host header is not a host with or without a port")


def _read_target(method: str, target: str) -> tuple[str | None, RawPath, str, tuple[tuple[str, str], ...]]:
    """Return the authority (None unless the target has one), the path, raw and decoded, and the query."""
    authority = None
    if target == "*":
        if method != "OPTIONS":
            _malformed('the target "*" goes with OPTIONS only')
        return None, RawPath("*"), "*", ()
    if "#" in target:
        _malformed("the target has a fragment, which a client keeps to itself")
    if not target.startswith("/"):
        scheme, separator, rest = target.partition("://")
        if not separator or scheme.lower() not in ("http", "https"):
            _malformed('the target is neither a path, nor a URL of http or https, nor "*"')
        cut = re.search(r"[/?]", rest)
        authority = rest[: cut.start()] if cut else rest
        # The expression has no "@": "a sender MUST NOT generate the userinfo subcomponent"
        # -- RFC 9110, section 4.2.4
        if not _host_re.fullmatch(authority):
            _malformed("the target's authority is not a host with or without a port")
        target = rest[len(authority) :]
        if not target and method == "OPTIONS":
            return authority, RawPath("*"), "*", ()  # RFC 9112, section 3.2.4
        if not target.startswith("/"):
            target = "/" + target
    raw_path, _, raw_query = target.partition("?")
    return authority, RawPath(raw_path), _read_path(raw_path), _read_query(raw_query) if raw_query else ()


def _read_path(raw: str) -> str:
    if "%" not in raw and "/." not in raw:
        return raw
    if _escape_re.search(raw):
        _malformed('the path has a "%" that two hexadecimal digits do not follow')
    # Only the slash stays encoded. What else is decoded is checked once, here, so that
    # whoever decodes segments of the raw path later cannot fail.
    path = "/".join(
        "%2F".join(_decode(part, "path") for part in _encoded_slash_re.split(segment))
        for segment in raw.split("/")
    )
    for segment in path.split("/"):
        if segment in (".", ".."):
            # Clients resolve them before sending (RFC 3986, section 5.2.4); who sends
            # them anyway hopes that somebody behind us will.
            _malformed("the path has a segment of dots only")
    return path


def _read_query(raw: str) -> tuple[tuple[str, str], ...]:
    """Read a query as HTML forms write it: ``+`` is a space, and a stray ``%`` is itself."""
    pairs = []
    for pair in raw.split("&"):
        if pair:
            name, _, value = pair.partition("=")
            name, value = name.replace("+", " "), value.replace("+", " ")
            pairs.append((_decode(name, "query"), _decode(value, "query")))
    return tuple(pairs)


def _decode(text: str, where: str) -> str:
    if "%" not in text:
        return text
    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError:
        _malformed(f"the {where} does not decode to UTF-8")
    if "\0" in decoded:
        # Postgres has no place for it in text: refused at the door, not when the record is written.
        _malformed(f"the {where} has an encoded NUL")
    return decoded


def _read_framing(lengths: Sequence[str], codings: Sequence[str], version: str) -> int | None:
    """Return the body's length, or None when it is chunked; refuse whatever could be read two ways."""
    if codings:
        if lengths:
            # RFC 9112, section 6.3, lets a server go by Transfer-Encoding. It ought to be
            # "handled as an error" and closed: it is what smuggled requests are made of.
            _malformed("the request has both Transfer-Encoding and Content-Length")
        if version == "1.0":
            # "A server [...] that receives an HTTP/1.0 message containing a Transfer-Encoding
            # header field MUST treat the message as if the framing is faulty".
            # -- RFC 9112, section 6.1
            _malformed("the request has a Transfer-Encoding and is HTTP/1.0, which has none")
        if len(codings) > 1:
            _malformed("the request has more than one Transfer-Encoding header")
        names = [name.strip(" \t") for name in codings[0].lower().split(",")]
        if names != ["chunked"]:
            if names[-1] == "chunked" and "chunked" not in names[:-1]:
                raise HttpRefusal(501, "NOT_IMPLEMENTED", "the only transfer coding known here is chunked")
            _malformed('the Transfer-Encoding is not exactly "chunked"')
        return None
    if not lengths:
        return 0
    if len(lengths) > 1:
        _malformed("the request has more than one Content-Length header")
    if not _digits_re.fullmatch(lengths[0]):
        _malformed("the Content-Length is not a number of at most 18 digits")
    return int(lengths[0])


def _explain(raw: bytes) -> NoReturn:
    """Refuse a head that is not one, naming the first line that is wrong."""
    first, *lines = raw[:-4].split(b"\r\n")
    if not _request_line_re.fullmatch(first):
        _malformed("the request line is not a method, a target and a version, with one space between them")
    for number, line in enumerate(lines, start=1):
        if _header_line_re.fullmatch(line):
            continue
        if line[:1] in (b" ", b"\t"):
            _malformed(f"header line {number} continues the one before, a form that HTTP has given up")
        name, colon, _ = line.partition(b":")
        if not colon:
            _malformed(f"header line {number} has no colon")
        if not re.fullmatch(_TOKEN, name):
            _malformed(f"the name on header line {number} has a character that names do not have")
        _malformed(f"the value on header line {number} has a control character")
    _malformed("the request's head is not one")


def _malformed(detail: str) -> NoReturn:
    raise HttpRefusal(400, "MALFORMED_REQUEST", detail)
