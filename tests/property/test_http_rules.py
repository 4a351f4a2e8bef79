"""However bytes are cut, they mean the same; whatever they are, they are read or refused."""

import contextlib
import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from flux.http_rules import ChunkedBody, HeadLimits, HttpRefusal, find_head, read_head, skip_empty_line
from tests.hostile_requests import TABLE

SMALL = HeadLimits(request_line_bytes_max=40, header_bytes_max=120, header_count_max=4)
LIMITS = HeadLimits()

NEARLY_HTTP = st.one_of(
    st.sampled_from([case.raw[:3000] for case in TABLE]),
    st.lists(
        st.sampled_from(
            [b"GET ", b"/a", b" HTTP/1.1", b"\r\n", b"\n", b"\r", b"Host: x", b"A", b":", b"\0", b"\xff", b"x" * 30]
        ),
        max_size=14,
    ).map(b"".join),
)  # fmt: skip
NEARLY_CHUNKS = st.lists(
    st.sampled_from(
        [b"0", b"1", b"5", b"a", b"F", b"\r\n", b"\n", b"\r", b";", b"hello", b"h", b" ", b"X: y", b"0\r\n\r\n", b"\0"]
    ),
    max_size=16,
).map(b"".join)  # fmt: skip


def find_in_pieces(pieces: list[bytes]) -> tuple[object, bytes]:
    """Feed a buffer as the gateway does; return what came of it, and the head."""
    buffer = bytearray()
    skipped = False
    searched = 0
    for number, piece in enumerate(pieces):
        buffer += piece
        if not skipped and skip_empty_line(buffer):
            skipped = True
            searched = 0
        try:
            end = find_head(buffer, searched, SMALL, ended=number == len(pieces) - 1) if buffer else -1
        except HttpRefusal as refusal:
            return (refusal.status, refusal.detail), b""
        if end >= 0:
            return end, bytes(buffer[:end])
        searched = len(buffer)
    return None, b""


def cut(raw: bytes, positions: list[int]) -> list[bytes]:
    edges = [0, *sorted(position % (len(raw) + 1) for position in positions), len(raw)]
    return [raw[start:end] for start, end in itertools.pairwise(edges)]


@settings(max_examples=800, deadline=None)
@given(raw=NEARLY_HTTP, positions=st.lists(st.integers(0, 3000), max_size=6))
def test_where_a_head_ends_does_not_depend_on_how_it_was_cut(raw: bytes, positions: list[int]) -> None:
    one_by_one = find_in_pieces([bytes([byte]) for byte in raw] + [b""])
    assert find_in_pieces([raw, b""]) == one_by_one
    assert find_in_pieces([*cut(raw, positions), b""]) == one_by_one


def unchunk(pieces: list[bytes]) -> tuple[object, bytes, bytes]:
    buffer = bytearray()
    body = ChunkedBody(20, SMALL)
    content = b""
    for piece in pieces:
        buffer += piece
        if body.done:
            continue
        try:
            content += body.feed(buffer)
        except HttpRefusal as refusal:
            return (refusal.status, refusal.detail), b"", b""
    return body.done, content, bytes(buffer) if body.done else b""


@settings(max_examples=800, deadline=None)
@given(raw=NEARLY_CHUNKS, positions=st.lists(st.integers(0, 300), max_size=6))
def test_what_a_chunked_body_says_does_not_depend_on_how_it_was_cut(raw: bytes, positions: list[int]) -> None:
    one_by_one = unchunk([bytes([byte]) for byte in raw])
    assert unchunk([raw]) == one_by_one
    assert unchunk(cut(raw, positions)) == one_by_one


@given(
    chunks=st.lists(st.binary(min_size=1, max_size=40), max_size=6),
    extension=st.sampled_from([b"", b";a", b' ; a="b"']),
    trailers=st.lists(st.sampled_from([b"X: y", b"Content-Length: 3"]), max_size=2),
    after=st.binary(max_size=10),
    positions=st.lists(st.integers(0, 400), max_size=5),
)
def test_what_was_chunked_comes_out_again(
    chunks: list[bytes], extension: bytes, trailers: list[bytes], after: bytes, positions: list[int]
) -> None:
    raw = b"".join(b"%x%s\r\n%s\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
    raw += b"0" + extension + b"\r\n" + b"".join(trailer + b"\r\n" for trailer in trailers) + b"\r\n"
    body = ChunkedBody(1000, LIMITS)
    buffer = bytearray()
    content = b""
    for piece in cut(raw + after, positions):
        buffer += piece
        if not body.done:
            content += body.feed(buffer)
    assert body.done
    assert content == b"".join(chunks)
    assert buffer == after


@settings(max_examples=800, deadline=None)
@given(st.one_of(NEARLY_HTTP, st.binary(max_size=200)))
def test_any_bytes_are_a_head_or_a_refusal(raw: bytes) -> None:
    with contextlib.suppress(HttpRefusal):
        head, framing = read_head(raw + b"\r\n\r\n", "peer", LIMITS)
        assert head.version in ("1.0", "1.1")
        assert framing.length is None or framing.length >= 0
        for name, value in head.headers:
            assert name == name.lower()
            assert not set(value) & {"\r", "\n", "\0"}
