"""Requests that somebody might send to see what happens: a table.

Each has what must be answered, in order, whether the connection is closed after it,
and what the handler may have seen. What is closed is followed by a second request
that must never be seen: were it, the first would have ended elsewhere than we think,
and that is all it takes to smuggle.
"""

import attrs

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
BODY_BYTES_MAX = 64 * 1024
"""The limit for a body that the expectations below assume."""

HOST = b"Host: x\r\n"


@attrs.frozen
class Hostile:
    """One attempt."""

    name: str
    raw: bytes
    statuses: tuple[int, ...] = (400,)
    """Of all answers, ``100`` included, in order."""
    seen: tuple[str, ...] = ()
    """``METHOD path`` of what the handler was given, in order."""
    closed: bool = True
    """The server closes after the last answer; otherwise the connection goes on."""
    ends: bool = False
    """The client closes its side after the last byte."""
    head_at: tuple[int, ...] = ()
    """Which of the answers are to HEAD."""
    bodies: tuple[bytes, ...] | None = None
    """Bodies that the handler was given, where they matter."""


TABLE: list[Hostile] = []


def refused(name: str, raw: bytes, status: int = 400, **more: object) -> None:
    """A request that is answered with ``status`` and closed, and takes the one after it along."""
    TABLE.append(Hostile(name, raw + SMUGGLED, (status,), **more))  # type: ignore[arg-type]


def accepted(
    name: str,
    raw: bytes,
    *seen: str,
    closed: bool = False,
    bodies: tuple[bytes, ...] | None = None,
    **more: object,
) -> None:
    """Requests that are all answered 200."""
    statuses = (200,) * len(seen)
    TABLE.append(Hostile(name, raw, statuses, seen, closed, bodies=bodies, **more))  # type: ignore[arg-type]


def get(line: bytes = b"GET /a HTTP/1.1", headers: bytes = b"", host: bytes = HOST) -> bytes:
    return line + b"\r\n" + host + headers + b"\r\n"


def post(headers: bytes, body: bytes = b"", version: bytes = b"HTTP/1.1") -> bytes:
    return b"POST /a " + version + b"\r\n" + HOST + headers + b"\r\n" + body


CHUNKED = b"Transfer-Encoding: chunked\r\n"
HELLO = b"5\r\nhello\r\n0\r\n\r\n"


# --- Transfer-Encoding beside Content-Length, and its disguises ------------------------------------

refused("TE then CL", post(CHUNKED + b"Content-Length: 5\r\n", HELLO))
refused("CL then TE", post(b"Content-Length: 5\r\n" + CHUNKED, HELLO))
refused("TE and CL of 0", post(CHUNKED + b"Content-Length: 0\r\n", HELLO))
refused("TE and CL in a GET", get(headers=CHUNKED + b"Content-Length: 3\r\n"))
refused("TE and CL, lower case", post(b"transfer-encoding: chunked\r\ncontent-length: 5\r\n", HELLO))
refused("TE and CL that is no number", post(CHUNKED + b"Content-Length: x\r\n", HELLO))
refused("TE identity and CL", post(b"Transfer-Encoding: identity\r\nContent-Length: 5\r\n", b"hello"))
refused("TE gzip and CL", post(b"Transfer-Encoding: gzip\r\nContent-Length: 5\r\n", b"hello"))
refused("two TE, chunked twice", post(CHUNKED + CHUNKED, HELLO))
refused("two TE, the second identity", post(CHUNKED + b"Transfer-Encoding: identity\r\n", HELLO))
refused("two TE, the first identity", post(b"Transfer-Encoding: identity\r\n" + CHUNKED, HELLO))
refused("two TE, the second a cow", post(CHUNKED + b"Transfer-encoding: cow\r\n", HELLO))
for value, status in {
    b"identity": 400,
    b"gzip": 400,
    b"chunked, chunked": 400,
    b"chunked,chunked": 400,
    b"chunked, identity": 400,
    b"chunked, gzip": 400,
    b"gzip, chunked": 501,
    b"identity, chunked": 501,
    b"chunked;q=1": 400,
    b"chunked;": 400,
    b'"chunked"': 400,
    b"'chunked'": 400,
    b"xchunked": 400,
    b"chunkedx": 400,
    b"chunke": 400,
    b"chunked,": 400,
    b"": 400,
    b" ": 400,
    b",": 400,
    b"chun ked": 400,
    b"chunked\x0b": 400,
    b"\x0bchunked": 400,
    b"chunked\x00": 400,
    b"chunked\x7f": 400,
    b"chunked\xa0": 400,
    b"\xa0chunked": 400,
    b"\xef\xbd\x83hunked": 400,
    b"chunked\r\n ": 400,
    b"\r\n chunked": 400,
    b"\r\n\tchunked": 400,
    b"\nchunked": 400,
    b"\rchunked": 400,
}.items():
    refused(f"TE {value!r}", post(b"Transfer-Encoding: " + value + b"\r\n", HELLO), status)
refused("TE in HTTP/1.0", post(CHUNKED, HELLO, b"HTTP/1.0"))
refused("TE with a space before the colon", post(b"Transfer-Encoding : chunked\r\n", HELLO))
refused("TE with a tab before the colon", post(b"Transfer-Encoding\t: chunked\r\n", HELLO))
refused("TE after a space", post(b" Transfer-Encoding: chunked\r\n", HELLO))
refused("TE with a NUL in its name", post(b"Transfer-Encoding\x00: chunked\r\n", HELLO))
refused("TE after a bare LF", post(b"X: y\nTransfer-Encoding: chunked\r\n", HELLO))
refused("TE after a bare CR", post(b"X: y\rTransfer-Encoding: chunked\r\n", HELLO))
refused("TE folded into another header", post(b"X: y\r\n Transfer-Encoding: chunked\r\n", HELLO))
refused("CL after a bare LF", post(b"X: y\nContent-Length: 36\r\n"))
refused("CL after a vertical tab", post(b"X: y\x0bContent-Length: 36\r\n"))
accepted("TE in capitals", post(b"TRANSFER-ENCODING: CHUNKED\r\n", HELLO), "POST /a", bodies=(b"hello",))
accepted(
    "TE with white space around",
    post(b"Transfer-Encoding: \t chunked \t\r\n", HELLO),
    "POST /a",
    bodies=(b"hello",),
)
accepted(
    "TE without white space", post(b"Transfer-Encoding:chunked\r\n", HELLO), "POST /a", bodies=(b"hello",)
)
accepted("TE in a GET", get(headers=CHUNKED) + HELLO, "GET /a", bodies=(b"hello",))
TABLE.append(
    Hostile(
        "a header that only looks like TE frames nothing",
        post(b"Transfer_Encoding: chunked\r\n", HELLO) + SMUGGLED,
        (200, 400),
        ("POST /a",),
        bodies=(b"",),
    )
)

# --- Content-Length --------------------------------------------------------------------------------

for value in [
    b"-1",
    b"-5",
    b"+5",
    b"5.0",
    b"5e0",
    b"0x5",
    b"5h",
    b"",
    b"five",
    b"5 5",
    b"5, 5",
    b"5,5",
    b"5, 6",
    b"5;",
    b"'5'",
    b"1_0",
    b"\xd9\xa5",
    b"\xef\xbc\x95",
    b"9999999999999999999",
    b"9" * 40,
    b"9" * 4000,
    b"5\x00",
    b"5\x0b",
    b"\x005",
    b"- 5",
    b"5\xa0",
    b"NaN",
    b"inf",
]:
    refused(f"CL {value[:50]!r}", post(b"Content-Length: " + value + b"\r\n", b"hello"))
refused("CL twice, equal", post(b"Content-Length: 5\r\nContent-Length: 5\r\n", b"hello"))
refused("CL twice, different", post(b"Content-Length: 5\r\nContent-Length: 0\r\n", b"hello"))
refused("CL twice, apart", post(b"Content-Length: 5\r\nX: y\r\ncontent-length: 6\r\n", b"hello"))
refused("CL with a space before the colon", post(b"Content-Length : 5\r\n", b"hello"))
refused("CL twice, the second disguised", post(b"Content-Length: 5\r\nContent-Length : 0\r\n", b"hello"))
refused("CL of 18 digits", post(b"Content-Length: 999999999999999999\r\n"), 413)
refused("CL one above the limit", post(b"Content-Length: %d\r\n" % (BODY_BYTES_MAX + 1)), 413)
refused("CL above the limit, with Expect", post(b"Content-Length: 99999\r\nExpect: 100-continue\r\n"), 413)
TABLE.append(Hostile("CL longer than the body", post(b"Content-Length: 10\r\n", b"hello"), ends=True))
TABLE.append(Hostile("CL and no body at all", post(b"Content-Length: 10\r\n"), ends=True))
accepted("CL with leading zeros", post(b"Content-Length: 0005\r\n", b"hello"), "POST /a", bodies=(b"hello",))
accepted(
    "CL at the limit", post(b"Content-Length: %d\r\n" % BODY_BYTES_MAX, b"x" * BODY_BYTES_MAX), "POST /a"
)
accepted("CL of 0", post(b"Content-Length: 0\r\n"), "POST /a", bodies=(b"",))
accepted("CL in a GET", get(headers=b"Content-Length: 5\r\n") + b"hello", "GET /a", bodies=(b"hello",))
accepted(
    "a body that is a request",
    post(b"Content-Length: %d\r\n" % len(SMUGGLED), SMUGGLED),
    "POST /a",
    bodies=(SMUGGLED,),
)
TABLE.append(
    Hostile(
        "CL shorter than the body",
        post(b"Content-Length: 2\r\n", b"{}{}") + SMUGGLED,
        (200, 400),
        ("POST /a",),
        bodies=(b"{}",),
    )
)
TABLE.append(
    Hostile("a body without CL", post(b"", b"{}") + SMUGGLED, (200, 400), ("POST /a",), bodies=(b"",))
)

# --- chunks ----------------------------------------------------------------------------------------

for size in [
    b"0x5",
    b"-5",
    b"+5",
    b" 5",
    b"\t5",
    b"5 ",
    b"g",
    b"",
    b" ",
    b"5,5",
    b"5 5",
    b"5.",
    b"_5",
    b"5h",
    b"5\x00",
    b"\x005",
    b"\xef\xbc\x95",
    b"5\r",
    b"5:",
    b"5=a",
    b"'5'",
    b"00000000000000005",
    b"5\x0b;a",
    b"5;a\x00",
    b"5;a\x01b",
    b"5;\x7f",
    b"5;a\rb",
    b"5;" + b"a" * 1100,
]:
    refused(f"chunk size {size[:20]!r}", post(CHUNKED, size + b"\r\nhello\r\n0\r\n\r\n"))
refused("chunk size after a bare LF", post(CHUNKED, b"5\nhello\r\n0\r\n\r\n"))
refused("chunk size then extension after LF", post(CHUNKED, b"5;a\nhello\r\n0\r\n\r\n"))
refused("chunk data ended by LF", post(CHUNKED, b"5\r\nhello\n0\r\n\r\n"))
refused("chunk data ended by CR", post(CHUNKED, b"5\r\nhello\r0\r\n\r\n"))
refused("chunk data ended by CR CR LF", post(CHUNKED, b"5\r\nhello\r\r\n0\r\n\r\n"))
refused("chunk longer than its size", post(CHUNKED, b"4\r\nhello\r\n0\r\n\r\n"))
refused("chunk shorter than its size", post(CHUNKED, b"6\r\nhello\r\n0\r\n\r\n"))
refused("chunk of 2**64 - 1", post(CHUNKED, b"ffffffffffffffff\r\n"), 413)
refused("chunk above the limit", post(CHUNKED, b"%x\r\n" % (BODY_BYTES_MAX + 1)), 413)
refused("chunks together above the limit", post(CHUNKED, b"8000\r\n" + b"x" * 0x8000 + b"\r\n8001\r\n"), 413)
refused(
    "chunk extensions of 9 KiB", post(CHUNKED, b"".join(b"1;%s\r\nx\r\n" % (b"a" * 1000) for _ in range(9)))
)
refused("last chunk ended by LF", post(CHUNKED, b"5\r\nhello\r\n0\n\n"))
refused("end of trailers by LF", post(CHUNKED, b"5\r\nhello\r\n0\r\n\n"))
refused("trailer without a colon", post(CHUNKED, b"0\r\nnonsense\r\n\r\n"))
refused("trailer with a space before the colon", post(CHUNKED, b"0\r\nX : y\r\n\r\n"))
refused("trailer folded", post(CHUNKED, b"0\r\nX: y\r\n z\r\n\r\n"))
refused("trailer with a NUL", post(CHUNKED, b"0\r\nX: \x00\r\n\r\n"))
refused("trailer ended by LF", post(CHUNKED, b"0\r\nX: y\n\r\n"))
refused("101 trailers", post(CHUNKED, b"0\r\n" + b"X: y\r\n" * 101 + b"\r\n"), 431)
refused("trailers of 70 KiB", post(CHUNKED, b"0\r\n" + b"X: " + b"y" * 70_000 + b"\r\n\r\n"), 431)
TABLE.append(Hostile("chunked body without its end", post(CHUNKED, b"5\r\nhello\r\n"), ends=True))
TABLE.append(Hostile("chunk cut in its data", post(CHUNKED, b"5\r\nhel"), ends=True))
TABLE.append(Hostile("chunk cut in its size", post(CHUNKED, b"5"), ends=True))
TABLE.append(Hostile("trailers without their end", post(CHUNKED, b"0\r\nX: y\r\n"), ends=True))
for name, body in {
    "chunk size in capitals": b"5\r\nhello\r\n0\r\n\r\n",
    "chunk size with leading zeros": b"0000000000000005\r\nhello\r\n0\r\n\r\n",
    "last chunk of many zeros": b"5\r\nhello\r\n0000\r\n\r\n",
    "chunk extension": b"5;a=b\r\nhello\r\n0;c\r\n\r\n",
    "chunk extension after white space": b"5 ;a\r\nhello\r\n0\t;c\r\n\r\n",
    "chunk extension, quoted": b'5;a="b;c"\r\nhello\r\n0\r\n\r\n',
    "chunks of one byte": b"1\r\nh\r\n1\r\ne\r\n1\r\nl\r\n1\r\nl\r\n1\r\no\r\n0\r\n\r\n",
    "trailers": b"5\r\nhello\r\n0\r\nX: y\r\nZ: w\r\n\r\n",
    "trailers that would frame": b"5\r\nhello\r\n0\r\nContent-Length: 9\r\nTransfer-Encoding: gzip\r\n\r\n",
    "trailers that would route": b"5\r\nhello\r\n0\r\nHost: evil\r\nAuthorization: x\r\n\r\n",
}.items():
    accepted(name, post(CHUNKED, body), "POST /a", bodies=(b"hello",))
accepted(
    "chunk data that is a request",
    post(CHUNKED, b"%x\r\n%s\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)),
    "POST /a",
    bodies=(SMUGGLED,),
)

# --- the request line ------------------------------------------------------------------------------

for line, status in {
    b"GET /a HTTP/2.0": 505,
    b"GET /a HTTP/1.9": 505,
    b"GET /a HTTP/1.2": 505,
    b"GET /a HTTP/3.0": 505,
    b"GET /a HTTP/0.9": 505,
    b"GET /a HTTP/9.9": 505,
    b"PRI * HTTP/2.0": 505,
    b"GET /a": 400,
    b"GET": 400,
    b"GET /a HTTP/1": 400,
    b"GET /a HTTP/11": 400,
    b"GET /a HTTP/1.10": 400,
    b"GET /a HTTP/01.1": 400,
    b"GET /a HTTP/1.1 ": 400,
    b"GET /a HTTP/1.1\t": 400,
    b"GET /a HTTP/1,1": 400,
    b"GET /a HTTP /1.1": 400,
    b"GET /a HTTP/ 1.1": 400,
    b"GET /a http/1.1": 400,
    b"GET /a HTTPS/1.1": 400,
    b"GET /a ICY/1.1": 400,
    b"GET /a HTTP/x.y": 400,
    b"GET /a HTTP/\xef\xbc\x91.1": 400,
    b"GET  /a HTTP/1.1": 400,
    b"GET /a  HTTP/1.1": 400,
    b"GET\t/a\tHTTP/1.1": 400,
    b"GET\x0b/a\x0bHTTP/1.1": 400,
    b"GET /a b HTTP/1.1": 400,
    b"GET /a\tb HTTP/1.1": 400,
    b"GET /a\x00 HTTP/1.1": 400,
    b"GET /a\x7f HTTP/1.1": 400,
    b"GET /\xc3\xa4 HTTP/1.1": 400,
    b"GET /\xff HTTP/1.1": 400,
    b"GET  HTTP/1.1": 400,
    b" GET /a HTTP/1.1": 400,
    b"\tGET /a HTTP/1.1": 400,
    b"\x00GET /a HTTP/1.1": 400,
    b"\xef\xbb\xbfGET /a HTTP/1.1": 400,
    b"\nGET /a HTTP/1.1": 400,
    b"\rGET /a HTTP/1.1": 400,
    b"\r\n\r\nGET /a HTTP/1.1": 400,
    b"G@T /a HTTP/1.1": 400,
    b"G(T /a HTTP/1.1": 400,
    b"GET: /a HTTP/1.1": 400,
    b'"GET" /a HTTP/1.1': 400,
    b"\xc3\x84 /a HTTP/1.1": 400,
    b"{} /a HTTP/1.1": 400,
    b"CONNECT x:443 HTTP/1.1": 405,
    b"CONNECT / HTTP/1.1": 405,
    b"CONNECT http://x/ HTTP/1.1": 405,
    b"GET x:443 HTTP/1.1": 400,
    b"GET x HTTP/1.1": 400,
    b"GET a/b HTTP/1.1": 400,
    b"GET * HTTP/1.1": 400,
    b"POST * HTTP/1.1": 400,
    b"OPTIONS ** HTTP/1.1": 400,
    b"GET ftp://x/a HTTP/1.1": 400,
    b"GET file:///etc/passwd HTTP/1.1": 400,
    b"GET javascript:alert(1) HTTP/1.1": 400,
    b"GET http:///a HTTP/1.1": 400,
    b"GET http:/a HTTP/1.1": 400,
    b"GET http:// HTTP/1.1": 400,
    b"GET http://u:p@x/a HTTP/1.1": 400,
    b"GET http://x:port/a HTTP/1.1": 400,
    b"GET http://x:123456/a HTTP/1.1": 400,
    b"GET http://x\\y/a HTTP/1.1": 400,
    b"GET http://[::1/a HTTP/1.1": 400,
    b"GET /a#b HTTP/1.1": 400,
    b"GET http://x/a#b HTTP/1.1": 400,
    b"GET /% HTTP/1.1": 400,
    b"GET /%4 HTTP/1.1": 400,
    b"GET /%zz HTTP/1.1": 400,
    b"GET /%00 HTTP/1.1": 400,
    b"GET /%ff HTTP/1.1": 400,
    b"GET /%c0%af HTTP/1.1": 400,
    b"GET /%ed%a0%80 HTTP/1.1": 400,
    b"GET /a?b=%ff HTTP/1.1": 400,
    b"GET /a?b=%00 HTTP/1.1": 400,
    b"GET /../etc/passwd HTTP/1.1": 400,
    b"GET /a/.. HTTP/1.1": 400,
    b"GET /a/./b HTTP/1.1": 400,
    b"GET /. HTTP/1.1": 400,
    b"GET /%2e%2e/etc/passwd HTTP/1.1": 400,
    b"GET /.%2e/etc/passwd HTTP/1.1": 400,
    b"GET /%2E/a HTTP/1.1": 400,
    b"GET http://x/../a HTTP/1.1": 400,
    b"GET /" + b"a" * 9000 + b" HTTP/1.1": 414,
    b"A" * 9000 + b" /a HTTP/1.1": 414,
    b"GET /a?" + b"a" * 70_000 + b" HTTP/1.1": 414,
}.items():
    refused(f"line {line[:40]!r}", get(line), status)
for line, seen in {
    b"get /a HTTP/1.1": "get /a",
    b"PATCH /a HTTP/1.1": "PATCH /a",
    b"M-SEARCH /a HTTP/1.1": "M-SEARCH /a",
    b"A!#$%&'*+-.^_`|~9 /a HTTP/1.1": "A!#$%&'*+-.^_`|~9 /a",
    b"OPTIONS * HTTP/1.1": "OPTIONS *",
    b"OPTIONS http://x HTTP/1.1": "OPTIONS *",
    b"GET http://x HTTP/1.1": "GET /",
    b"GET http://x/a HTTP/1.1": "GET /a",
    b"GET HTTP://x/a HTTP/1.1": "GET /a",
    b"GET https://x:443/a?b HTTP/1.1": "GET /a",
    b"GET http://[::1]:80/a HTTP/1.1": "GET /a",
    b"GET http://x?b=c HTTP/1.1": "GET /",
    b"GET //x/a HTTP/1.1": "GET //x/a",
    b"GET /a%2Fb HTTP/1.1": "GET /a%2Fb",
    b"GET /%252e%252e HTTP/1.1": "GET /%2e%2e",
    b"GET /... HTTP/1.1": "GET /...",
    b"GET /%C3%A4 HTTP/1.1": "GET /ä",
    b"GET /%0d%0aX:%20y HTTP/1.1": "GET /\r\nX: y",
    b"GET /a?b=%zz&%= HTTP/1.1": "GET /a",
    b'GET /<>"{}|\\^` HTTP/1.1': 'GET /<>"{}|\\^`',
    b"\r\nGET /a HTTP/1.1": "GET /a",
    b"TRACE /a HTTP/1.1": "TRACE /a",
}.items():
    accepted(f"line {line[:40]!r}", get(line), seen)

# --- what is no HTTP at all ------------------------------------------------------------------------

refused("TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(64)))
refused("a PROXY line of version 2", b"\r\n\r\n\x00\r\nQUIT\n")
refused("NULs", b"\x00" * 100)
refused("bytes from 0 to 255", bytes(range(256)))
refused("JSON", b'{"a": 1}\r\n\r\n')
refused("an empty head", b"\r\n\r\n\r\n")
refused("a status line", b"HTTP/1.1 200 OK\r\n\r\n")
refused("HTTP/0.9 and an empty line", b"GET /\r\n\r\n")
refused("a PROXY line of version 1", b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n" + get())
TABLE.append(Hostile("SSH", b"SSH-2.0-OpenSSH_9.2\r\n", ends=True))
TABLE.append(Hostile("HTTP/0.9", b"GET /\r\n", ends=True))
TABLE.append(Hostile("half a method", b"GE", ends=True))
TABLE.append(Hostile("half a head", b"GET /a HTTP/1.1\r\nHost: x\r\n", ends=True))
TABLE.append(Hostile("a head without its last byte", get()[:-1], ends=True))
TABLE.append(Hostile("one CR", b"\r", ends=True))
TABLE.append(Hostile("one CR and a head", b"\r" + get()))
TABLE.append(Hostile("nothing", b"", (), ends=True))
TABLE.append(Hostile("an empty line and no more", b"\r\n", (), ends=True))

# --- headers ---------------------------------------------------------------------------------------

for control in [*range(0x09), *range(0x0B, 0x20), 0x7F]:
    refused(
        f"control character {control:#04x} in a value", get(headers=b"X: a" + bytes([control]) + b"b\r\n")
    )
for name, header in {
    "no colon": b"nonsense\r\n",
    "empty name": b": y\r\n",
    "a space before the colon": b"X : y\r\n",
    "a tab before the colon": b"X\t: y\r\n",
    "a space in the name": b"X Y: z\r\n",
    "a NUL in the name": b"X\x00: y\r\n",
    "a bracket in the name": b"X[0]: y\r\n",
    "a slash in the name": b"X/Y: z\r\n",
    "a quote in the name": b'"X": y\r\n',
    "an umlaut in the name": b"\xc3\xa4: y\r\n",
    "DEL in the name": b"X\x7f: y\r\n",
    "folded by a space": b"X: y\r\n z\r\n",
    "folded by a tab": b"X: y\r\n\tz\r\n",
    "folded to nothing": b"X: y\r\n \r\n",
    "ended by LF": b"X: y\n",
    "ended by CR": b"X: y\r",
    "ended by LF CR": b"X: y\n\r",
    "ended by CR CR LF": b"X: y\r\r\n",
    "two Hosts, equal": b"Host: x\r\n",
    "two Hosts, different": b"Host: y\r\n",
}.items():
    refused(f"header with {name}", get(headers=header))
refused("a head ended by two LF", b"GET /a HTTP/1.1\nHost: x\n\n")
refused("a head ended by LF LF after CR LF", b"GET /a HTTP/1.1\r\nHost: x\r\n\n")
refused("a head ended by CR LF LF", b"GET /a HTTP/1.1\r\nHost: x\n\r\n")
refused("the first line folded", b"GET /a HTTP/1.1\r\n X: y\r\nHost: x\r\n\r\n")
refused("no Host", get(host=b""))
for value in [
    b"",
    b" ",
    b"x y",
    b"x/y",
    b"u@x",
    b"x:y",
    b"x:123456",
    b"[::1",
    b"x, y",
    b"\xc3\xa4",
    b"x#",
    b"x?",
    b"<x>",
]:
    refused(f"Host {value!r}", get(host=b"Host: " + value + b"\r\n"))
refused("101 headers", get(headers=b"X: y\r\n" * 100), 431)
refused("1,000 headers", get(headers=b"X: y\r\n" * 1000), 431)
refused("a header of 70 KiB", get(headers=b"X: " + b"y" * 70_000 + b"\r\n"), 431)
refused("a header name of 70 KiB", get(headers=b"X" * 70_000 + b": y\r\n"), 431)
refused("a head of 66 KiB", get(headers=b"".join(b"X%d: %s\r\n" % (n, b"y" * 1000) for n in range(66))), 431)
refused("an unknown expectation", post(b"Expect: 200-ok\r\nContent-Length: 5\r\n", b"hello"), 417)
refused("two expectations", post(b"Expect: 100-continue, x\r\nContent-Length: 5\r\n", b"hello"), 417)
refused("an empty expectation", get(headers=b"Expect: \r\n"), 417)
accepted("100 headers", get(headers=b"X: y\r\n" * 99), "GET /a")
accepted("a header of 60 KiB", get(headers=b"X: " + b"y" * 60_000 + b"\r\n"), "GET /a")
accepted("bytes above 0x7f in a value", get(headers=b"X: " + bytes(range(0x80, 0x100)) + b"\r\n"), "GET /a")
accepted("a tab in a value", get(headers=b"X: a\tb\r\n"), "GET /a")
accepted("an empty value", get(headers=b"X:\r\n"), "GET /a")
accepted("a colon in a value", get(headers=b"X: :y: z\r\n"), "GET /a")
for value in [b"x:80", b"x:", b"127.0.0.1:4000", b"[::1]:4000", b"x.example", b"xn--4ca", b"a_b"]:
    accepted(f"Host {value!r}", get(host=b"Host: " + value + b"\r\n"), "GET /a")
accepted("HTTP/1.0 without Host", b"GET /a HTTP/1.0\r\n\r\n", "GET /a", closed=True)
accepted(
    "HTTP/1.0 that would keep the connection",
    get(b"GET /a HTTP/1.0", b"Connection: keep-alive\r\n"),
    "GET /a",
    closed=True,
)
accepted("Connection: close", get(headers=b"Connection: close\r\n") + SMUGGLED, "GET /a", closed=True)
accepted(
    "Connection: CLOSE among others",
    get(headers=b"Connection: x, CLOSE\r\n") + SMUGGLED,
    "GET /a",
    closed=True,
)
accepted(
    "Connection names a header",
    post(b"Connection: content-length\r\nContent-Length: 5\r\n", b"hello"),
    "POST /a",
    bodies=(b"hello",),
)
accepted(
    "an offer of h2c",
    get(headers=b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"),
    "GET /a",
)
accepted(
    "an offer of WebSocket",
    get(headers=b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: eA==\r\n"),
    "GET /a",
)
accepted("Expect without a body", get(headers=b"Expect: 100-continue\r\n"), "GET /a")
accepted(
    "Expect in HTTP/1.0",
    b"POST /a HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
    "POST /a",
    closed=True,
)
TABLE.append(
    Hostile(
        "Expect",
        post(b"Expect: 100-continue\r\nContent-Length: 5\r\n", b"hello"),
        (100, 200),
        ("POST /a",),
        closed=False,
        bodies=(b"hello",),
    )
)
TABLE.append(
    Hostile(
        "Expect and chunks",
        post(b"Expect: 100-Continue\r\n" + CHUNKED, HELLO),
        (100, 200),
        ("POST /a",),
        closed=False,
        bodies=(b"hello",),
    )
)

# --- one after the other ---------------------------------------------------------------------------

accepted("two at once", get() + get(b"GET /b HTTP/1.1"), "GET /a", "GET /b")
accepted("a hundred at once", get() * 100, *(["GET /a"] * 100))
accepted(
    "a body between two",
    get() + post(b"Content-Length: 5\r\n", b"hello") + get(b"GET /b HTTP/1.1"),
    "GET /a",
    "POST /a",
    "GET /b",
    bodies=(b"", b"hello", b""),
)
accepted(
    "chunks between two",
    get() + post(CHUNKED, HELLO) + get(b"GET /b HTTP/1.1"),
    "GET /a",
    "POST /a",
    "GET /b",
    bodies=(b"", b"hello", b""),
)
accepted(
    "HEAD between two",
    get() + get(b"HEAD /a HTTP/1.1") + get(b"GET /b HTTP/1.1"),
    "GET /a",
    "HEAD /a",
    "GET /b",
    head_at=(1,),
)
accepted(
    "HEAD with a body",
    get(b"HEAD /a HTTP/1.1", b"Content-Length: 5\r\n") + b"hello" + get(b"GET /b HTTP/1.1"),
    "HEAD /a",
    "GET /b",
    head_at=(0,),
)
accepted("an empty line between two", get() + b"\r\n" + get(b"GET /b HTTP/1.1"), "GET /a", "GET /b")
TABLE.append(Hostile("two empty lines between two", get() + b"\r\n\r\n" + SMUGGLED, (200, 400), ("GET /a",)))
TABLE.append(
    Hostile("a good one and a bad one", get() + b"nonsense\r\n\r\n" + SMUGGLED, (200, 400), ("GET /a",))
)
TABLE.append(
    Hostile(
        "a good one and a smuggler",
        get() + post(CHUNKED + b"Content-Length: 5\r\n", HELLO) + SMUGGLED,
        (200, 400),
        ("GET /a",),
    )
)
TABLE.append(Hostile("a good one and half of one", get() + b"GET /smug", (200, 400), ("GET /a",), ends=True))
TABLE.append(Hostile("HTTP/1.0 and another", b"GET /a HTTP/1.0\r\n\r\n" + SMUGGLED, (200,), ("GET /a",)))
TABLE.append(Hostile("two and a farewell", get() * 2, (200, 200), ("GET /a", "GET /a"), ends=True))
