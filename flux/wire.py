"""The wire between guest and host: one JSON array a line, on the guest's descriptor 3.

Pure, in the manner of h11: bytes go in, events come out, and the caller does the
waiting. `GuestConnection` is the host's side. It believes nothing: each frame
has its type, its size and its turn, and whatever breaks a rule is a
`GuestProtocolError` that names it. ``guest-sdk/PROTOCOL.md`` is the text, and
``guest-sdk/vectors/wire.json`` holds both sides to it.

From the guest::

    [id, "db.query", [args]]                     a call; ids count 1, 2, 3 ...
    [id, "db.query", [args], {"at": [file, line, function], "task": 2}]
    [0, "log.write", [args], ...]                a call that wants no answer
    ["cancel", id]                               the guest no longer waits for this one
    ["return", value]                            the end
    ["raise", {"type": ..., "message": ..., ...}]  the end, badly

To the guest, one for each call with an id, in the order of completion::

    [id, null, value, now_ns]
    [id, {"name": ..., "message": ..., "code": ..., "details": {...}}, null, now_ns]

A sandbox that counts what its guests burn (*fuel*: `flux.sandbox.wasm_isolate`) puts the count
in front of each frame that a guest begins, ``1<fuel> <frame>``. Each line of the guest's has
it, whatever is in it, so no guest can say it of itself.
"""

import re
from typing import Annotated, Any

import attrs
import msgspec

from flux import values
from flux.hostcall import HostCallRequest, HostCallResult, Position

FRAME_BYTES_MAX = 16 * 2**20
"""Longest line, either way; the body limit is lower and speaks first."""
OUTSTANDING_MAX = 1000
"""Calls that a guest may have in flight."""
FUEL_MAX = 2**63 - 1


class GuestProtocolError(Exception):
    """The guest broke the wire's rules; the message says which."""

    events: "tuple[Event, ...]" = ()
    """What came before it in the same bytes, whole and in order. How the kernel cut the stream must not
    decide what is known of a guest's last moments."""


class GuestFrameTooLargeError(GuestProtocolError):
    """A line of the guest's is longer than allowed."""


_Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
"""JSON's integers have no end; the columns they are stored in have."""


class _Meta(msgspec.Struct, forbid_unknown_fields=True):
    at: tuple[str, _Count, str] | None = None
    task: _Count = 0


class _Call(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    id: int
    name: str
    arguments: msgspec.Raw
    meta: _Meta | msgspec.UnsetType = msgspec.UNSET


class RaisedFrame(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """One line of the guest's stack: [file, line, function, user, source]."""

    file: str
    line: _Count
    function: str
    user: bool = False
    source: str = ""


class RaisedReport(msgspec.Struct, forbid_unknown_fields=True):
    """What the guest tells of the exception that ended it."""

    type: str
    message: str
    frames: list[RaisedFrame] = []
    status: int = 500
    code: str = "FUNCTION_ERROR"
    violations: list[dict[str, str]] = []
    call: _Count | None = None
    cause: str = ""


@attrs.frozen
class CallReceived:
    """The guest asks."""

    request: HostCallRequest


@attrs.frozen
class CancelReceived:
    """The guest no longer waits for an answer that it has not had yet."""

    seq: int
    fuel: int | None = None
    """As in `HostCallRequest`; so in the other events."""


@attrs.frozen
class ReturnReceived:
    """The guest has answered."""

    value: bytes
    """JSON, as it came."""
    fuel: int | None = None


@attrs.frozen
class RaiseReceived:
    """The guest has failed."""

    report: RaisedReport
    fuel: int | None = None


@attrs.frozen
class WaitReceived:
    """The guest has nothing left to do until it hears an answer. Said only by a guest that was asked to."""

    fuel: int | None = None


Event = CallReceived | CancelReceived | ReturnReceived | RaiseReceived | WaitReceived

_call_decoder = msgspec.json.Decoder(_Call)
_raise_decoder = msgspec.json.Decoder(tuple[str, RaisedReport])
_end_decoder = msgspec.json.Decoder(tuple[str, msgspec.Raw])
_cancel_decoder = msgspec.json.Decoder(tuple[str, int])
_wait_decoder = msgspec.json.Decoder(tuple[str])
_any_decoder = msgspec.json.Decoder()
_list_decoder = msgspec.json.Decoder(list[Any])
_canonical = msgspec.json.Encoder(order="deterministic")
_encoder = msgspec.json.Encoder()

NAME_LENGTH_MAX = 100
_word = re.compile(rb'[ \t\r]*\[[ \t\r]*"([^"]*)"')
"""How a frame begins that is no call."""
_fuel = re.compile(rb"1([0-9]{1,19}) ")
_FUEL_BYTES_MAX = 21

_no_bracket = re.compile(rb'"(?:[^"\\]|\\.)*"|[^\[\]{}"]+', re.DOTALL)
_FRAME_DEPTH_MAX = values.DEPTH_MAX + 10
"""A frame is some levels around its values."""


def _is_too_deep(line: bytes) -> bool:
    """Whether values nest deeper in ``line`` than any honest one does.

    Counted here, because how deep a decoder follows differs between versions of Python.
    """
    if line.count(b"[") + line.count(b"{") <= _FRAME_DEPTH_MAX:
        return False
    depth = 0
    for bracket in _no_bracket.sub(b"", line):
        depth += 1 if bracket in b"[{" else -1
        if depth > _FRAME_DEPTH_MAX:
            return True
    return False


class GuestConnection:
    """The host's side of one guest's wire."""

    def __init__(
        self,
        frame_bytes_max: int = FRAME_BYTES_MAX,
        outstanding_max: int = OUTSTANDING_MAX,
        *,
        is_metered: bool = False,
        tells_waits: bool = False,
    ) -> None:
        """``is_metered``: the sandbox puts the guest's fuel in front of each frame. ``tells_waits``: the guest was
        asked to say when it waits."""
        self._tells_waits = tells_waits
        self._frame_bytes_max = frame_bytes_max
        self._line_bytes_max = frame_bytes_max + (_FUEL_BYTES_MAX if is_metered else 0)
        self.fuel: int | None = 0 if is_metered else None
        """Where the guest stood when it began the frame that was read last."""
        self._outstanding_max = outstanding_max
        self._buffer = bytearray()
        self._last_seq = 0
        self._outstanding: set[int] = set()
        self._ended = False

    @property
    def outstanding(self) -> frozenset[int]:
        """Calls that have had no answer yet."""
        return frozenset(self._outstanding)

    @property
    def ended(self) -> bool:
        """The guest has returned or raised."""
        return self._ended

    def receive(self, data: bytes) -> list[Event]:
        """Take bytes from the guest and return what they say; raise `GuestProtocolError`."""
        *lines, rest = data.split(b"\n")
        events: list[Event] = []
        try:
            for line in lines:
                if self._buffer:
                    line, self._buffer = bytes(self._buffer + line), bytearray()
                self._check_size(len(line), self._line_bytes_max)
                events.append(self._read(line))
            self._buffer += rest
            self._check_size(len(self._buffer), self._line_bytes_max)
        except GuestProtocolError as error:
            error.events = tuple(events)
            raise
        return events

    def _check_size(self, frame_bytes: int, allowed: int) -> None:
        if frame_bytes > allowed:
            raise GuestFrameTooLargeError(f"a frame has more than {self._frame_bytes_max} bytes")

    def _read(self, line: bytes) -> Event:
        if self.fuel is not None:
            line = self._take_fuel(line, self.fuel)
            self._check_size(len(line), self._frame_bytes_max)
        if self._ended:
            raise GuestProtocolError("a frame came after the function's end")
        if _is_too_deep(line):
            raise GuestProtocolError("a frame is nested too deeply")
        try:
            if word := _word.match(line):
                return self._read_word(word[1], line)
            return self._read_call(line)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise GuestProtocolError(f"a malformed frame: {error}") from error

    def _take_fuel(self, line: bytes, before: int) -> bytes:
        """Take from ``line`` what the sandbox has put there; return the guest's own part."""
        found = _fuel.match(line)
        if found is None or not before <= int(found[1]) <= FUEL_MAX:
            raise GuestProtocolError(
                f"fuel from {before} was due in front of a frame, and {line[:21]!r} came"
            )
        self.fuel = int(found[1])
        return line[found.end() :]

    def _read_call(self, line: bytes) -> Event:
        call = _call_decoder.decode(line)
        if not 0 < len(call.name) <= NAME_LENGTH_MAX:
            raise GuestProtocolError("a host call's name has 1 to 100 characters")
        arguments = _canonical.encode(_list_decoder.decode(call.arguments))
        meta = call.meta
        position, task = None, 0
        if meta is not msgspec.UNSET:
            task = meta.task
            if meta.at is not None:
                position = Position(*meta.at)
        one_way = call.id == 0
        if not one_way:
            if call.id != self._last_seq + 1:
                raise GuestProtocolError(f"call id {call.id} came where {self._last_seq + 1} was due")
            if len(self._outstanding) >= self._outstanding_max:
                raise GuestProtocolError(f"more than {self._outstanding_max} calls are waiting for an answer")
            self._last_seq = call.id
            self._outstanding.add(call.id)
        return CallReceived(
            HostCallRequest(call.id, call.name, arguments, task, position, one_way, self.fuel)
        )

    def _read_word(self, word: bytes, line: bytes) -> Event:
        match word:
            case b"return":
                value = bytes(_end_decoder.decode(line)[1])
                _any_decoder.decode(value)  # Raw is not validated until somebody looks.
                self._ended = True
                return ReturnReceived(value, self.fuel)
            case b"raise":
                report = _raise_decoder.decode(line)[1]
                if not 100 <= report.status <= 599:
                    raise GuestProtocolError(f"{report.status} is no HTTP status")
                self._ended = True
                return RaiseReceived(report, self.fuel)
            case b"cancel":
                seq = _cancel_decoder.decode(line)[1]
                if not 0 < seq <= self._last_seq:
                    raise GuestProtocolError(f"call {seq} was cancelled, but never made")
                return CancelReceived(seq, self.fuel)
            case b"wait" if self._tells_waits:
                _wait_decoder.decode(line)
                return WaitReceived(self.fuel)
        raise GuestProtocolError(f"unknown frame {word[:40]!r}")

    def reply(self, seq: int, result: HostCallResult) -> bytes:
        """Return the line that answers call ``seq``."""
        self._outstanding.remove(seq)
        return encode_reply(seq, result)


def encode_reply(seq: int, result: HostCallResult) -> bytes:
    """Return the line that carries ``result``; the value is already JSON and is not parsed again."""
    if result.error is None:
        return b"[%d,null,%b,%d]\n" % (seq, result.value, result.now_ns)
    error = result.error
    described = _encoder.encode(
        {
            "name": error.name,
            "message": error.message,
            "code": error.code,
            "details": msgspec.Raw(error.details),
        }
    )
    return b"[%d,%b,null,%d]\n" % (seq, described, result.now_ns)


def encode_start(document: dict[str, object]) -> bytes:
    """Return the document that a guest reads from descriptor 0: what to run, and with what."""
    return values.encode(document)
