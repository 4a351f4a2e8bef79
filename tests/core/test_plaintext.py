"""Plain bytes of connections taken apart: each part is found, over any chunks, and joined they are the chunk again."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.plaintext import Kind, Part, Received, Sent

REQUEST = (
    b"POST /a?key=1 HTTP/1.1\r\nHost: x\r\nAuthorization:Bearer abc\r\nX-Empty:\r\nX-Spaced: \t v \r\n\r\n"
    b'{"password":"p"}'
)
ANSWER = b"HTTP/1.1 200 OK\r\nSet-Cookie: sid=1\r\n\r\nbody: no header\r\n"
STARTUP = (8 + 10).to_bytes(4) + (3 << 16).to_bytes(4) + b"user\0app\0\0"
SSL_REQUEST = (8).to_bytes(4) + (80877103).to_bytes(4)


def message(letter: bytes, content: bytes) -> bytes:
    return letter + (len(content) + 4).to_bytes(4) + content


def parts_of(stream: Sent | Received, *chunks: bytes) -> list[Part]:
    found = []
    for chunk in chunks:
        parts = stream.split(chunk)
        assert b"".join(part.data for part in parts) == chunk
        found += parts
    return found


def of_kind(parts: list[Part], kind: Kind) -> list[tuple[str, bytes]]:
    return [(part.name, part.data) for part in parts if part.kind is kind]


def test_a_request_in_one_chunk() -> None:
    parts = parts_of(Sent(), REQUEST)
    assert of_kind(parts, Kind.TARGET) == [("", b"/a?key=1")]
    assert of_kind(parts, Kind.HEADER) == [
        ("Host", b"x"),
        ("Authorization", b"Bearer abc"),
        ("X-Spaced", b"v "),
    ]
    assert of_kind(parts, Kind.BODY) == [("", b'{"password":"p"}')]


@pytest.mark.parametrize("place", range(24, len(REQUEST)))
def test_a_request_torn_anywhere_behind_its_first_line(place: int) -> None:
    parts = parts_of(Sent(), REQUEST[:place], REQUEST[place:])
    values = of_kind(parts, Kind.HEADER)
    joined = {
        name: b"".join(data for _, data in pairs) for name, pairs in itertools.groupby(values, lambda p: p[0])
    }
    assert joined["Authorization"].strip() == b"Bearer abc"
    assert b"".join(data for _, data in of_kind(parts, Kind.BODY)) == b'{"password":"p"}'


def test_one_request_after_another() -> None:
    parts = parts_of(Sent(), REQUEST, b"more of the body", REQUEST)
    assert [data for name, data in of_kind(parts, Kind.HEADER) if name == "Authorization"] == [
        b"Bearer abc"
    ] * 2


def test_an_answer() -> None:
    parts = parts_of(Received(), ANSWER, b"more")
    assert of_kind(parts, Kind.HEADER) == [("Set-Cookie", b"sid=1")]
    assert b"".join(data for _, data in of_kind(parts, Kind.BODY)) == b"body: no header\r\nmore"


def test_what_is_no_http_is_a_body() -> None:
    assert parts_of(Sent(), b"EHLO x\r\nAUTH PLAIN abc\r\n")[0].kind is Kind.BODY
    assert parts_of(Received(), b"220 ready\r\n")[0].kind is Kind.BODY


def test_a_line_without_an_end_is_not_kept_for_ever() -> None:
    stream = Sent()
    parts_of(stream, b"GET / HTTP/1.1\r\n")
    parts = parts_of(stream, *[b"x" * 10_000] * 20)
    assert parts[-1].kind is Kind.BODY


def test_what_a_client_of_postgres_answers_about_itself() -> None:
    chunks = (
        SSL_REQUEST,
        STARTUP,
        message(b"p", b"hunter22\0"),
        message(b"Q", b"select 1\0") + message(b"p", b"x"),
    )
    parts = parts_of(Sent(), *chunks)
    assert of_kind(parts, Kind.PASSWORD) == [("", b"hunter22\0"), ("", b"x")]


@pytest.mark.parametrize("step", [1, 2, 3, 5, 7])
def test_messages_of_postgres_torn_anywhere(step: int) -> None:
    stream = Sent()
    parts_of(stream, STARTUP)
    said = (
        message(b"p", b"hunter22\0")
        + message(b"S", b"")
        + message(b"Q", b"select 1\0")
        + message(b"p", b"other")
    )
    parts = parts_of(stream, *(said[place : place + step] for place in range(0, len(said), step)))
    assert b"".join(data for _, data in of_kind(parts, Kind.PASSWORD)) == b"hunter22\0other"


@given(
    st.lists(
        st.binary(max_size=60) | st.sampled_from([REQUEST, ANSWER, STARTUP, SSL_REQUEST, b"\r\n\r\n", b":"])
    )
)
def test_whatever_comes_is_joined_again(chunks: list[bytes]) -> None:
    parts_of(Sent(), *chunks)
    parts_of(Received(), *chunks)
