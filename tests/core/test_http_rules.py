"""What is a request, and what may be an answer, to the byte."""

import attrs
import pytest

from flux.http_rules import (
    BodyFraming,
    ChunkedBody,
    HeadLimits,
    HttpRefusal,
    ResponseBodyError,
    ResponseFramingError,
    ResponseHeaderError,
    ResponseStatusError,
    check_response,
    find_head,
    has_body,
    read_head,
    skip_empty_line,
)
from flux.message import HttpResponse, RequestHead

LIMITS = HeadLimits()
SMALL = HeadLimits(request_line_bytes_max=20, header_bytes_max=60, header_count_max=3)


def read(raw: bytes) -> tuple[RequestHead, BodyFraming]:
    return read_head(raw, "127.0.0.1:1", LIMITS)


def test_a_head_is_read_into_its_parts() -> None:
    head, framing = read(
        b"POST /orders/a%2Fb%20c?x=1&y=a+b%21&x=&z HTTP/1.1\r\nHost: shop:4000\r\nX-Two: a\r\nx-two: \t b \t\r\n"
        b"Content-Length: 7\r\nExpect: 100-Continue\r\n\r\n"
    )
    assert head == RequestHead(
        method="POST",
        target="/orders/a%2Fb%20c?x=1&y=a+b%21&x=&z",
        path="/orders/a%2Fb c",
        raw_path=head.raw_path,
        query=(("x", "1"), ("y", "a b!"), ("x", ""), ("z", "")),
        headers=(
            ("host", "shop:4000"),
            ("x-two", "a"),
            ("x-two", "b"),
            ("content-length", "7"),
            ("expect", "100-Continue"),
        ),
        version="1.1",
        peer="127.0.0.1:1",
    )
    assert head.raw_path == "/orders/a%2Fb%20c"
    assert head.header("x-two") == "a"
    assert head.header("x-three") is None
    assert framing == BodyFraming(length=7, expects_continue=True)


def test_bytes_of_a_value_survive() -> None:
    value = bytes([*range(0x20, 0x7F), *range(0x80, 0x100)])
    head, _ = read(b"GET / HTTP/1.1\r\nHost: x\r\nX: a" + value + b"z\r\n\r\n")
    assert head.headers[1][1].encode("latin-1") == b"a" + value + b"z"


def test_the_target_of_a_proxy_says_who_is_meant() -> None:
    """RFC 9112, section 3.2.2: the Host header is then ignored."""
    head, _ = read(b"GET http://shop.example:80/a?b=c HTTP/1.1\r\nX: y\r\nHost: evil\r\n\r\n")
    assert head.headers == (("host", "shop.example:80"), ("x", "y"))
    assert (head.path, head.query) == ("/a", (("b", "c"),))
    assert head.target == "http://shop.example:80/a?b=c"


def test_a_body_of_nothing_is_not_waited_for() -> None:
    assert read(b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\r\n")[1] == BodyFraming(0, False)
    assert read(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")[1] == BodyFraming(
        None, False
    )
    old = b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    assert read(old)[1] == BodyFraming(5, False)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"GET /\r\n\r\n", "the request line is not a method, a target and a version"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nnonsense\r\n\r\n", "header line 2 has no colon"),
        (b"GET / HTTP/1.1\r\nA B: x\r\n\r\n", "the name on header line 1 has a character"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n y\r\n\r\n", "header line 2 continues the one before"),
        (b"GET / HTTP/1.1\r\nHost: \x01\r\n\r\n", "the value on header line 1 has a control character"),
        (b"GET / HTTP/1.1\r\n\r\n", "no Host header"),
        (b"GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n", 'the path has a "%"'),
        (b"GET /%ff HTTP/1.1\r\nHost: x\r\n\r\n", "the path does not decode to UTF-8"),
        (b"GET /?a=%ff HTTP/1.1\r\nHost: x\r\n\r\n", "the query does not decode to UTF-8"),
        (b"GET /%00 HTTP/1.1\r\nHost: x\r\n\r\n", "the path has an encoded NUL"),
        (b"GET /.. HTTP/1.1\r\nHost: x\r\n\r\n", "a segment of dots only"),
    ],
)
def test_a_refusal_names_what_is_wrong_and_where(raw: bytes, says: str) -> None:
    with pytest.raises(HttpRefusal) as caught:
        read(raw)
    assert caught.value.status == 400
    assert says in caught.value.detail
    response = caught.value.to_response()
    assert response.status == 400
    assert isinstance(response.body, bytes)
    assert b'"code":"MALFORMED_REQUEST"' in response.body


def test_a_refused_connect_says_what_is_allowed() -> None:
    with pytest.raises(HttpRefusal) as caught:
        read(b"CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n")
    assert caught.value.to_response().headers[-1] == ("allow", "")


# --- where a head ends -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET /12345678901234567890", 414),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20, 431),
        (b"\x16\x03\x01", 400),
        (b" GET", 400),
        (b"\n", 400),
        (b"GET / HTTP/1.1\n", 400),
        (b"GET / HTTP/1.1\r\nA: b\n", 400),
    ],
)
def test_what_never_becomes_a_head_is_refused_before_it_ends(raw: bytes, status: int) -> None:
    with pytest.raises(HttpRefusal) as caught:
        find_head(bytearray(raw), 0, SMALL)
    assert caught.value.status == status


def test_a_head_ends_with_its_empty_line() -> None:
    head = b"GET / HTTP/1.1\r\nA: b\r\n\r\n"
    for end in range(len(head)):
        assert find_head(bytearray(head[:end]), 0, SMALL) == -1
    assert find_head(bytearray(head + b"GET / HT"), 0, SMALL) == len(head)


@pytest.mark.parametrize("raw", [b"G", b"\r", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\n\r"])
def test_a_head_that_the_client_never_finishes_is_refused(raw: bytes) -> None:
    assert find_head(bytearray(raw), 0, SMALL) == -1
    with pytest.raises(HttpRefusal):
        find_head(bytearray(raw), 0, SMALL, ended=True)


def test_one_empty_line_before_a_request_is_skipped() -> None:
    buffer = bytearray(b"\r\n\r\nGET")
    assert skip_empty_line(buffer)
    assert buffer == b"\r\nGET"
    assert not skip_empty_line(bytearray(b"\nGET"))
    assert not skip_empty_line(bytearray(b"\r"))


# --- chunks ----------------------------------------------------------------------------------------


def test_what_follows_a_chunked_body_stays() -> None:
    buffer = bytearray(b"3\r\nabc\r\n0\r\n\r\nGET /")
    body = ChunkedBody(10, LIMITS)
    assert body.feed(buffer) == b"abc"
    assert body.done
    assert buffer == b"GET /"


def test_chunks_that_would_be_too_much_are_refused_before_they_come() -> None:
    body = ChunkedBody(10, LIMITS)
    assert body.feed(bytearray(b"5\r\nabcde\r\n")) == b"abcde"
    with pytest.raises(HttpRefusal) as caught:
        body.feed(bytearray(b"6\r\n"))
    assert (caught.value.status, caught.value.code) == (413, "PAYLOAD_TOO_LARGE")


# --- what may be an answer -------------------------------------------------------------------------


def lines(response: HttpResponse, method: str = "GET") -> list[tuple[bytes, bytes]]:
    return check_response(response, method)


@attrs.frozen
class Stream:
    def __aiter__(self) -> None:
        raise AssertionError("nobody reads it here")


STREAM: HttpResponse = HttpResponse(200, (), Stream())  # type: ignore[arg-type]


def test_the_gateway_says_how_long_an_answer_is() -> None:
    assert lines(HttpResponse(200, (("X-A", " b "),), b"ok")) == [(b"x-a", b"b"), (b"content-length", b"2")]
    assert lines(HttpResponse(200, (("content-length", "2"),), b"ok")) == [(b"content-length", b"2")]
    assert lines(STREAM) == []
    assert lines(attrs.evolve(STREAM, headers=(("Content-Length", "9"),))) == [(b"content-length", b"9")]


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (204, (), []),
        (204, (("content-length", "0"),), []),
        (205, (), [(b"content-length", b"0")]),
        (304, (), []),
        (304, (("content-length", "5"),), [(b"content-length", b"5")]),
    ],
)
def test_an_answer_without_content_is_framed_as_its_status_demands(
    status: int, headers: tuple[tuple[str, str], ...], expected: list[tuple[bytes, bytes]]
) -> None:
    assert lines(HttpResponse(status, headers)) == expected
    assert not has_body(status, "GET")


def test_only_an_answer_to_head_may_have_a_length_and_no_body() -> None:
    response = HttpResponse(200, (("content-length", "100"),))
    assert lines(response, "HEAD") == [(b"content-length", b"100")]
    assert not has_body(200, "HEAD")
    with pytest.raises(ResponseFramingError):
        lines(response, "GET")


@pytest.mark.parametrize("status", [0, 99, 100, 101, 199, 600, 1000, -200, "200", 200.0, None])
def test_a_status_ends_an_exchange(status: object) -> None:
    with pytest.raises(ResponseStatusError, match="status"):
        lines(HttpResponse(status))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value", [*map(chr, range(0x09)), "\n", "\r", "\x1b", "\x7f", "\u0100", "a\r\nb: c", "\ud800"]
)
def test_a_header_is_one_header(value: str) -> None:
    with pytest.raises(ResponseHeaderError):
        lines(HttpResponse(200, (("x", value),)))
    with pytest.raises(ResponseHeaderError):
        lines(HttpResponse(200, ((f"x{value}", "y"),)))


@pytest.mark.parametrize(
    "name", ["transfer-encoding", "Keep-Alive", "te", "Trailer", "upgrade", "proxy-connection"]
)
def test_framing_is_not_the_handlers(name: str) -> None:
    with pytest.raises(ResponseFramingError, match="leave it out"):
        lines(HttpResponse(200, ((name, "x"),)))


@pytest.mark.parametrize("value", ["-1", "+2", "2.0", "", "0x2", "2, 2", "3", "²"])
def test_a_length_that_is_not_the_bodys_is_refused(value: str) -> None:
    with pytest.raises((ResponseFramingError, ResponseHeaderError)):
        lines(HttpResponse(200, (("content-length", value),), b"ok"))


@pytest.mark.parametrize("body", ["text", None, 1, ["list"], bytearray(b"x"), iter([b"x"])])
def test_a_body_is_bytes_or_a_stream(body: object) -> None:
    with pytest.raises(ResponseBodyError):
        lines(HttpResponse(200, (), body))  # type: ignore[arg-type]
    with pytest.raises(ResponseBodyError):
        check_response(body, "GET")  # type: ignore[arg-type]


def test_a_handler_may_ask_for_the_connection_to_be_closed() -> None:
    assert (b"connection", b"Close") in lines(HttpResponse(200, (("Connection", "Close"),)))
    with pytest.raises(ResponseFramingError):
        lines(HttpResponse(200, (("connection", "keep-alive"),)))
