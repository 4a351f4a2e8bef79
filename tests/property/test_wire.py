"""Whatever a guest writes is read or refused, however it is cut."""

import itertools
import json

from hypothesis import given, settings
from hypothesis import strategies as st

from flux.hostcall import HostCallResult
from flux.values import encode, encode_canonical
from flux.wire import CallReceived, Event, GuestConnection, GuestProtocolError, encode_reply
from tests.property.test_values import VALUES

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
NOTES = st.fixed_dictionaries(
    {}, optional={"at": st.tuples(st.text(), st.integers(0, 9999), st.text()), "task": st.integers(0, 9)}
)
NAMES = st.sampled_from(["db.query", "clock.now", "http.request"]) | st.text(min_size=1, max_size=100)


@st.composite
def conversations(draw: st.DrawFn) -> bytes:
    """A guest that keeps the rules."""
    lines: list[object] = []
    seq = 0
    for _ in range(draw(st.integers(0, 6))):
        kind = draw(st.sampled_from(["call", "log", "cancel"]))
        if kind == "call":
            seq += 1
            lines.append([seq, draw(NAMES), draw(st.lists(JSON, max_size=3)), draw(NOTES)])
        elif kind == "log":
            lines.append([0, "log.write", draw(st.lists(JSON, max_size=3))])
        elif seq:
            lines.append(["cancel", draw(st.integers(1, seq))])
    if draw(st.booleans()):
        lines.append(["return", draw(JSON)])
    return b"".join(json.dumps(line, ensure_ascii=draw(st.booleans())).encode() + b"\n" for line in lines)


NEARLY = st.lists(
    st.sampled_from(
        [b"[", b"]", b'"', b",", b"1", b"0", b'"return"', b'"raise"', b'"cancel"', b'"x"', b"{}", b"\n", b" ", b"\\",
         b"null", b'{"type":"a","message":"b"}', b'{"task":1}', b"\xff", b"\x00", b'[1,"x",[]]\n', b'["return",1]\n']
    ),
    max_size=14,
).map(b"".join)  # fmt: skip


def cut(raw: bytes, positions: list[int]) -> list[bytes]:
    edges = [0, *sorted(position % (len(raw) + 1) for position in positions), len(raw)]
    return [raw[start:end] for start, end in itertools.pairwise(edges)]


def listen(pieces: list[bytes]) -> tuple[list[Event], str]:
    """Return what was heard, and how it broke if it did."""
    connection = GuestConnection(frame_bytes_max=3000)
    heard: list[Event] = []
    for piece in pieces:
        try:
            heard += connection.receive(piece)
        except GuestProtocolError as error:
            return [*heard, *error.events], str(error)
    return heard, ""


@given(conversations(), st.lists(st.integers(0, 5000), max_size=6))
def test_a_guest_that_keeps_the_rules_is_heard_however_it_is_cut(raw: bytes, positions: list[int]) -> None:
    heard, broken = listen([raw])
    assert broken == ""
    assert len(heard) == raw.count(b"\n")
    assert listen(cut(raw, positions)) == (heard, "")
    assert listen([bytes([byte]) for byte in raw]) == (heard, "")
    for event, line in zip(heard, raw.splitlines(), strict=True):
        if isinstance(event, CallReceived):
            assert json.loads(event.request.arguments) == json.loads(line)[2]


@settings(max_examples=400, deadline=None)
@given(
    st.one_of(
        NEARLY,
        st.binary(max_size=80),
        conversations().flatmap(lambda raw: st.binary(max_size=3).map(raw.__add__)),
    ),
    st.lists(st.integers(0, 300), max_size=5),
)
def test_any_bytes_are_heard_or_refused_the_same_way_however_they_are_cut(
    raw: bytes, positions: list[int]
) -> None:
    whole = listen([raw + b"\n"])
    assert listen([*cut(raw, positions), b"\n"]) == whole
    assert listen([bytes([byte]) for byte in raw + b"\n"]) == whole


@given(st.integers(1, 1000), VALUES, st.integers(0, 2**62))
def test_a_reply_carries_its_value_as_it_is(seq: int, value: object, now_ns: int) -> None:
    line = encode_reply(seq, HostCallResult(encode(value), now_ns=now_ns))
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert json.loads(line) == [seq, None, json.loads(encode_canonical(value)), now_ns]
