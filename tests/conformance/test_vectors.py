"""Host and guest are held to the same files: ``guest-sdk/vectors``, the letter of PROTOCOL.md.

Neither side is the other's oracle. Each vector says what a frame or a value means,
in words that belong to no language, and each side is compared with that.
"""

import datetime
import json
import math
import socket
import uuid
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from flux_guest import _values as guest_values
from flux_guest._channel import Channel

from flux import values as host_values
from flux.hostcall import HostCallError, HostCallResult, Position
from flux.wire import (
    CallReceived,
    CancelReceived,
    Event,
    GuestConnection,
    GuestProtocolError,
    RaiseReceived,
    ReturnReceived,
    WaitReceived,
    encode_reply,
)

VECTORS = Path(__file__).parents[2] / "guest-sdk" / "vectors"
VALUES = json.loads((VECTORS / "values.json").read_text(encoding="utf-8"))
WIRE = json.loads((VECTORS / "wire.json").read_text(encoding="utf-8"))

Side = Any
"""The module with one side's `Range`, `Interval`, ``to_json`` and ``from_json``."""
SIDES = [pytest.param(host_values, id="host"), pytest.param(guest_values, id="guest")]


def make(side: Side, kind: str, value: Any) -> Any:
    """Return the Python value that a vector's type and value describe."""
    match kind:
        case "list":
            return [make(side, *item) for item in value]
        case "object":
            return {key: make(side, *item) for key, item in value.items()}
        case "range" if value is None:
            return side.Range(empty=True)
        case "range":
            return side.Range(make(side, *value[0]), make(side, *value[1]), value[2])
        case "interval":
            return side.Interval(*value)
    return SCALARS[kind](value)


SCALARS: dict[str, Callable[[Any], Any]] = {
    "null": lambda _value: None,
    "bool": lambda value: value,
    "int": int,
    "float": float,
    "text": lambda value: value,
    "bytes": bytes.fromhex,
    "decimal": Decimal,
    "datetime": datetime.datetime.fromisoformat,
    "date": datetime.date.fromisoformat,
    "time": datetime.time.fromisoformat,
    "duration": lambda value: datetime.timedelta(*value),
    "uuid": uuid.UUID,
}


def same(one: Any, other: Any) -> bool:
    """Equal, of the same type, and alike where == is too kind: -0.0, 1.10 and 1.1, NaN."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return math.isnan(one) == math.isnan(other) and repr(one) == repr(other)
    if isinstance(one, Decimal):
        return one.as_tuple() == other.as_tuple()
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


def host_decode(text: str) -> Any:
    return host_values.decode(text.encode())


def guest_decode(text: str) -> Any:
    return guest_values.from_json(guest_values.decode(text))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("vector", VALUES["values"], ids=lambda vector: vector["json"])
def test_a_value_means_the_same_on_both_sides_and_comes_back_as_it_was(side: Side, vector: Any) -> None:
    decode = host_decode if side is host_values else guest_decode
    expected = make(side, vector["type"], vector["value"])
    assert same(decode(vector["json"]), expected)
    # What is written need not be the same text, but it must be the same JSON.
    encoded = side.encode(expected)
    assert same(json.loads(encoded), json.loads(vector["json"]))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("vector", VALUES["malformed"], ids=lambda vector: vector["json"] or "nothing")
def test_what_is_no_value_is_refused_by_both_sides(side: Side, vector: Any) -> None:
    decode = host_decode if side is host_values else guest_decode
    with pytest.raises(ValueError):
        decode(vector["json"])


@pytest.mark.parametrize("vector", VALUES["canonical"], ids=lambda vector: vector["json"])
def test_equal_values_have_one_canonical_form(vector: Any) -> None:
    value = host_values.decode_json(vector["json"].encode())
    connection = GuestConnection()
    (event,) = connection.receive(b'[1,"db.query",[%b]]\n' % vector["json"].encode())
    assert isinstance(event, CallReceived)
    assert event.request.arguments.decode() == f"[{vector['canonical']}]"
    assert host_values.decode_json(vector["canonical"].encode()) == value


def test_a_value_beyond_json_is_refused_before_it_is_sent() -> None:
    for value in (object(), {1: "a key that is no text"}, {"deep": [object()]}):
        with pytest.raises(TypeError):
            guest_values.encode(value)
        with pytest.raises(host_values.ValueFormatError):
            host_values.encode(value)
    for side in (guest_values, host_values):
        with pytest.raises(ValueError):
            side.encode(["half a character: \ud800"])  # type: ignore[attr-defined]


def described(event: Event) -> dict[str, Any]:
    """Return an event in the words of wire.json."""
    match event:
        case CallReceived(request):
            place = request.position
            assert request.one_way is (request.seq == 0)
            return {
                "event": "call",
                "seq": request.seq,
                "name": request.name,
                "arguments": json.loads(request.arguments),
                "task": request.task,
                "at": None if place is None else [place.file, place.line, place.function],
            }
        case CancelReceived(seq):
            return {"event": "cancel", "seq": seq}
        case ReturnReceived(value):
            return {"event": "return", "value": json.loads(value)}
        case RaiseReceived(report):
            return {"event": "raise", "report": msgspec.to_builtins(report)}
        case WaitReceived():
            return {"event": "wait"}


def lines(frames: list[str]) -> bytes:
    return b"".join(frame.encode() + b"\n" for frame in frames)


@pytest.mark.parametrize("size", [1, 7, 1 << 20], ids=["byte by byte", "by sevens", "at once"])
@pytest.mark.parametrize("vector", WIRE["from_guest"], ids=lambda vector: vector["what"])
def test_the_host_reads_each_frame_as_written_however_it_is_cut(vector: Any, size: int) -> None:
    connection = GuestConnection()
    stream = lines(vector["frames"])
    events: list[Event] = []
    for start in range(0, len(stream), size):
        events += connection.receive(stream[start : start + size])
    assert [described(event) for event in events] == vector["events"]


@pytest.mark.parametrize("vector", WIRE["refused"], ids=lambda vector: vector["what"])
def test_the_host_refuses_each_broken_frame_and_says_why(vector: Any) -> None:
    with pytest.raises(GuestProtocolError, match=vector["says"]):
        GuestConnection().receive(lines(vector["frames"]))


def test_a_line_that_is_too_long_is_refused_before_it_ends() -> None:
    with pytest.raises(GuestProtocolError, match="more than 100 bytes"):
        GuestConnection(frame_bytes_max=100).receive(b"[" * 101)
    with pytest.raises(GuestProtocolError, match="more than 100 bytes"):
        GuestConnection(frame_bytes_max=100).receive(b"[" * 101 + b"\n")


def test_too_many_calls_in_flight_are_refused() -> None:
    connection = GuestConnection(outstanding_max=2)
    connection.receive(b'[1,"clock.now",[]]\n[2,"clock.now",[]]\n')
    connection.reply(1, HostCallResult())
    connection.receive(b'[3,"clock.now",[]]\n')
    with pytest.raises(GuestProtocolError, match="more than 2 calls"):
        connection.receive(b'[4,"clock.now",[]]\n')


@pytest.fixture
def wire() -> Any:
    """A guest's channel and the host's end of its descriptor."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel = Channel(theirs.fileno(), "/srv/shop")
        channel.running = True
        yield channel, ours


@pytest.mark.parametrize(
    "vector", [v for v in WIRE["from_guest"] if "sdk" in v], ids=lambda vector: vector["what"]
)
def test_the_guest_sends_frames_that_mean_what_is_written(wire: Any, vector: Any) -> None:
    channel, host = wire
    for word, *rest in vector["sdk"]:
        match word:
            case "call":
                channel.send(rest[0], guest_values.from_json(rest[1]))
            case "tell":
                channel.tell(rest[0], guest_values.from_json(rest[1]))
            case "cancel":
                channel.cancel(rest[0])
            case "task":
                channel.task_of = lambda number=rest[0]: number
            case "finish":
                channel.finish(rest[0], guest_values.encode(guest_values.from_json(rest[1])))
            case _:
                raise AssertionError(f"wire.json has an unknown word {word}")
    events = GuestConnection().receive(host.recv(1 << 16))
    assert [described(event) for event in events] == vector["events"]


def test_the_guest_tells_the_innermost_line_of_the_projects_code(wire: Any) -> None:
    channel, host = wire
    names = {"channel": channel}
    library = compile("def ask(): channel.send('clock.now', [])", "/usr/lib/python3/library.py", "exec")
    project = compile("def handler():\n    ask()\nhandler()", "/srv/shop/functions/orders.py", "exec")
    exec(library, names)
    exec(project, names)
    (event,) = GuestConnection().receive(host.recv(1 << 16))
    assert isinstance(event, CallReceived)
    assert event.request.position == Position("functions/orders.py", 2, "handler")


@pytest.mark.parametrize("vector", WIRE["to_guest"], ids=lambda vector: vector["what"])
def test_an_answer_is_written_and_heard_as_the_file_says(wire: Any, vector: Any) -> None:
    error = vector["error"]
    result = HostCallResult(
        value=json.dumps(vector["value"], separators=(",", ":")).encode(),
        error=None
        if error is None
        else HostCallError(
            error["name"],
            error["message"],
            error["code"],
            json.dumps(error["details"], separators=(",", ":")).encode(),
        ),
        now_ns=vector["now_ns"],
    )
    frame = encode_reply(vector["seq"], result)
    assert json.loads(frame) == json.loads(vector["frame"])
    assert frame.endswith(b"\n") and frame.count(b"\n") == 1

    channel, host = wire
    heard: list[tuple[Any, Any]] = []
    channel.waiting[vector["seq"]] = lambda value, error: heard.append((value, error))
    host.sendall(vector["frame"].encode() + b"\n")
    channel.receive()
    assert heard == [(vector["value"], error)]
    assert channel.now_ns == vector["now_ns"]


def test_the_guests_clock_never_steps_back(wire: Any) -> None:
    channel, host = wire
    channel.reset(100)
    host.sendall(b"[1,null,null,200]\n[2,null,null,150]\n")
    channel.receive()
    assert channel.now_ns == 200
    channel.receive()
    assert channel.now_ns == 200


def test_a_guest_that_was_asked_to_says_when_it_waits_and_no_other_may(wire: Any) -> None:
    channel, host = wire
    assert [described(event) for event in GuestConnection(tells_waits=True).receive(b'["wait"]\n')] == [
        {"event": "wait"}
    ]
    for connection, frame in (
        (GuestConnection(), b'["wait"]\n'),
        (GuestConnection(tells_waits=True), b'["wait",1]\n'),
    ):
        with pytest.raises(GuestProtocolError):
            connection.receive(frame)
    channel.tells_waits = True
    seq = channel.send("clock.now", [])
    channel.waiting[seq] = lambda _value, _error: None
    host.sendall(encode_reply(seq, HostCallResult(b"1")))
    channel.receive()
    assert host.recv(1000).splitlines()[-1] == b'["wait"]'
