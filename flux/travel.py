"""Following a replay step by step: what is asked of the guest, and what it says.

A replay does the same each time, so the number of an event is an address that holds from one run to the next. A
`TracePlan` says what one run is to tell: which events, what the names held at some of them, where an expression had
which value. Going back is another run with another plan. So however long an execution is, no run keeps more than a
window of it.

The guest tells it in frames of its own, between those of the wire. A `Tap` takes them out of the bytes, so that
whoever speaks the wire never sees them. Their content comes from a process in which the project's code runs:
it is believed as much as a log line is.
"""

from collections import deque
from typing import Any

import attrs
import msgspec

from flux.expression import Expression
from flux.seen_values import is_deep
from flux.stepping import Search

EVENTS_MAX = 5_000
"""Events that one run lists."""
FRAMES_MAX = 200
"""Events of which one run shows the names."""
UNTOLD_MAX = 100
"""Events that a guest may have had when it was killed and had not told of: `flux_guest._trace.BATCH`."""
VALUES_MAX = 1_000
"""The last so many are kept, and how many there were."""
TOLD_BYTES_MAX = 16 * 2**20
"""Of lists and frames; what comes after is dropped, and that is said. As objects they may take twenty times as much."""
VALUES_BYTES_MAX = 16 * 2**20
"""Of values; the oldest are dropped, and how many there were is known."""
LINE_BYTES_MAX = 4 * 2**20
VALUE_BYTES_MAX = 256 * 2**10
"""Longest lines of a guest that is nobody's enemy."""
_PREFIX = b'["trace",'


class Event(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One step of the project's code."""

    number: int
    """From 1; its address."""
    kind: str
    """``call``, ``line`` (about to run), ``pause``, ``resume``, ``exception``, ``return``; of a language that is
    followed at its host calls only, ``host call``."""
    file: str
    line: int
    function: str
    frame: int
    """Of the call of a function that it belongs to; a coroutine that goes on is the same one."""
    caller: int
    """The frame of the project's code that it was called from; 0 for none."""
    asked: int
    """Number of the last host call by then."""
    detail: str = ""
    """Of an exception, its type and message."""
    heard: int = 0
    """Answers to host calls that had come by then: those of `HostCall.answered` up to it."""


class StackEntry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A function that was running, and where it was."""

    file: str
    line: int
    function: str
    frame: int


class Shown(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the names of a frame held at an event."""

    event: int
    stack: list[StackEntry]
    """The innermost first."""
    locals: dict[str, Any]
    """Rendered by ``flux_guest._look``."""
    returned: Any = msgspec.UNSET
    """Of a return: the value."""
    values: list[Any] = []
    """Of each expression that was asked for at it."""


class Value(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A moment at which something was as asked for."""

    event: int
    file: str
    line: int
    """Of a change: the line that made it, which ran before the event."""
    function: str
    values: list[Any]
    """Of each expression."""
    frame: int = 0
    """See `Event.frame`."""


class End(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the guest says at the end."""

    events: int
    raised: list[tuple[str, int, int]]
    """Where exceptions began: file, line, and the last event at which one did."""
    files: list[str]
    """Of the project, that ran."""
    lines: list[int]
    """Of the file that was asked about, that ran."""
    lost: bool
    """The function has taken the tracer away."""


@attrs.frozen
class TracePlan:
    """What one run is to tell."""

    events: tuple[int, int] | None = None
    """First and last that are listed."""
    frames: tuple[int, int] | None = None
    """First and last whose names are shown."""
    place: tuple[str, int] | None = None
    """File and line where ``expressions`` are looked up."""
    expressions: tuple[Expression, ...] = ()
    watches: bool = False
    """The first of ``expressions`` is looked up at each event, and told where it has changed."""
    condition: Expression | None = None
    """Tell of events at which it holds, of those at ``place`` if there is one."""
    before: int | None = None
    """Only of values before this event."""
    after: int | None = None
    """Only of values after this event; then the first are kept, and not the last."""
    up: int = 0
    """Whose names are shown: 0, those of the function that runs; 1, of who called it; and so on."""
    seek: Search | None = None
    """Tell of the one event that it leads to, from ``before`` or ``after``."""

    def document(self) -> dict[str, object]:
        """Return it as the start document has it; PROTOCOL.md, "Tracing"."""
        said: dict[str, object] = {
            "events": self.events,
            "frames": self.frames,
            "expressions": [each.tree for each in self.expressions],
            "watches": self.watches,
            "condition": None if self.condition is None else self.condition.tree,
            "up": self.up,
        }
        if self.place is not None:
            said["print"] = {"file": self.place[0], "line": self.place[1]}
        if self.seek is not None:
            said["seek"] = self.seek.document()
            said["before"], said["after"] = self.before, self.after
        return said


_count_decoder = msgspec.json.Decoder(tuple[str, str, int])
_list_decoder = msgspec.json.Decoder(tuple[str, str, list[Event]])
_shown_decoder = msgspec.json.Decoder(tuple[str, str, Shown])
_value_decoder = msgspec.json.Decoder(tuple[str, str, Value])
_end_decoder = msgspec.json.Decoder(tuple[str, str, End])


class Tap:
    """Takes what a followed guest tells out of what it says. One for each run."""

    def __init__(self, plan: TracePlan) -> None:
        self.plan = plan
        self.events: list[Event] = []
        self.shown: dict[int, Shown] = {}
        self.values: deque[Value] = deque()
        self.values_count = 0
        self._value_bytes: deque[int] = deque()
        """Of each in ``values``."""
        self._values_bytes = 0
        """Of all of them."""
        self.end: End | None = None
        """None where the guest was ended before it could say so."""
        self.counted = 0
        """Events that it had had when it last said how many."""
        self.dropped_bytes = 0
        self._told_bytes = 0
        self._rest = b""
        self._is_inside = False
        """What comes next goes on with a line that was handed on before its end."""

    @property
    def last(self) -> int:
        """Number of the last event that is known of."""
        if self.end is not None:
            return self.end.events
        return max([self.counted, *self.shown, *(event.number for event in self.events[-1:])])

    @property
    def is_whole(self) -> bool:
        """Whether the last event that is known of was the last."""
        return self.end is not None and not self.end.lost

    def take(self, data: bytes) -> bytes:
        """Return what of ``data``, and of what was held back before, is the wire's. Empty data is the end."""
        if not data:
            rest, self._rest = self._rest, b""
            return rest
        kept: list[bytes] = []
        if self._is_inside:
            head, newline, data = data.partition(b"\n")
            kept.append(head + newline)
            self._is_inside = not newline
        *lines, rest = (self._rest + data).split(b"\n")
        kept += [line + b"\n" for line in lines if not self._hear(line)]
        if rest and (len(rest) > LINE_BYTES_MAX or not _PREFIX.startswith(rest[: len(_PREFIX)])):
            # A line that is another's is not held back: its size is somebody else's to judge.
            kept.append(rest)
            rest, self._is_inside = b"", True
        self._rest = rest
        return b"".join(kept)

    def _hear(self, line: bytes) -> bool:
        """Take a line; return False where it is none of ours."""
        if not line.startswith(_PREFIX) or len(line) > LINE_BYTES_MAX:
            return False
        try:
            self._keep(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return False  # The wire refuses it, and the record of that run says so.
        return True

    def _keep(self, line: bytes) -> None:
        what = line[len(_PREFIX) : len(_PREFIX) + 8].partition(b",")[0]
        if what == b'"end"':
            self.end = _end_decoder.decode(line)[2]
            return
        if what == b'"count"':
            self.counted = _count_decoder.decode(line)[2]
            return
        if what == b'"value"':
            if len(line) > VALUE_BYTES_MAX:
                raise msgspec.ValidationError("no value of ours is so long")
            value = _value_decoder.decode(line)[2]
            _check_depth(value.values)
            self._keep_value(value, len(line))
            return
        self._told_bytes += len(line)
        if self._told_bytes > TOLD_BYTES_MAX:
            self.dropped_bytes += len(line)
        elif what == b'"frame"':
            shown = _shown_decoder.decode(line)[2]
            _check_depth([shown.locals, shown.returned, shown.values])
            self.shown[shown.event] = shown
        else:
            self.events += _list_decoder.decode(line)[2]

    def _keep_value(self, value: Value, line_bytes: int) -> None:
        plan = self.plan
        if (plan.before is not None and value.event >= plan.before) or (
            plan.after is not None and value.event <= plan.after
        ):
            return
        self.values.append(value)
        self.values_count += 1
        self._value_bytes.append(line_bytes)
        self._values_bytes += line_bytes
        while len(self.values) > VALUES_MAX or self._values_bytes > VALUES_BYTES_MAX:
            # Whoever looks ahead wants what comes first, everybody else what came last.
            values, sizes = self.values, self._value_bytes
            (values.popleft if plan.after is None else values.pop)()
            self._values_bytes -= (sizes.popleft if plan.after is None else sizes.pop)()


def _check_depth(values: Any) -> None:
    # Reading it once is no sign that it can be written, or read, further down in other calls.
    if is_deep(values):
        raise msgspec.ValidationError("no value of ours is nested so deeply")
