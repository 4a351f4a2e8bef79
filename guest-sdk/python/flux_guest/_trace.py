"""Stepping through a replay: what ran, line by line, and what its names held.

Imported by a worker whose start document asks for it (PROTOCOL.md, "Tracing"), which only a replay's does; no
other worker has this module in it. Events are counted from 1: a call, a line that is about to run, a pause and a
resumption (of a coroutine or a generator), an exception, a return. Only the project's own files have events. As a
replay is the same each time, the number of an event is an address: what one run counted, the next can be asked
about. So nothing is kept here but counts, and what was asked for goes over the wire at once.

`sys.settrace` is the seam, on every version of Python: it gives the same events on all of them. Where a frame stands
at one of them is not the same everywhere, and only `_starts` and `_pauses` ask. Values are read by
`flux_guest._look`, so that no code of the project's runs for it.
"""

import json
import opcode
import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

from flux_guest import _look
from flux_guest._channel import Channel
from flux_guest._values import printable

BATCH = 100
"""Events that are told of together. A function that is killed takes no more of them along; `flux.travel` knows it."""
VALUE_SPENT_MAX = 4_000
"""Characters and values of what is looked up at one event; see `flux_guest._look.SPENT_MAX`."""
NAMES_MAX = 100
STACK_MAX = 50
FILES_MAX = 200
LINES_MAX = 1_000
RAISED_MAX = 1_000
_dumps = json.dumps  # Whatever the project puts in its place.
_YIELD, _RESUME = opcode.opmap["YIELD_VALUE"], opcode.opmap["RESUME"]
_OPTIMIZED = 1
"""Flag of a code object whose names are variables of the interpreter, not keys of whatever its class was given."""

Call = Callable[..., Any]


def traced(call: Call, channel: Channel, plan: dict[str, Any]) -> Call:
    """Return ``call`` as it is to be called so that the function in it is followed as ``plan`` says."""
    tracer = Tracer(channel, plan)

    def follow(*arguments: Any) -> Any:
        tracer.begin()
        try:
            return call(*arguments)
        finally:
            tracer.end()

    return follow


class Tracer:
    """Follows one execution."""

    def __init__(self, channel: Channel, plan: dict[str, Any]) -> None:
        self._channel = channel
        self._listed: list[int] = plan.get("events") or [1, 0]
        self._shown: list[int] = plan.get("frames") or [1, 0]
        at = plan.get("print")
        self._print: tuple[str, int] | None = None if at is None else (at["file"], at["line"])
        """A file, or the end of its path, and a line."""
        self._expressions: list[Any] = plan.get("expressions") or []
        self._watches = bool(plan.get("watches"))
        self._condition: Any = plan.get("condition")
        self._up = int(plan.get("up") or 0)
        """Whose names are shown: 0, those of the function that runs; 1, of who called it."""
        self._looks = self._print is not None or self._watches or self._condition is not None
        self._sought: dict[str, Any] | None = plan.get("seek")
        """What the event that is looked for is like; None once it is found."""
        self._after: int | None = plan.get("after")
        self._before: int | None = plan.get("before")
        self._found: list[Any] | None = None
        """The last such event so far."""
        self._count = 0
        self._counted = 0
        """What the host knows of the count."""
        self._batch: list[Any] = []
        self._mine: dict[int, tuple[CodeType, str | None]] = {}
        """By the code object's id, with the object: the file as it is told, None of what is not the project's."""
        self._instructions: dict[int, bytes] = {}
        self._numbers: dict[int, int] = {}
        """Of frames that have not ended, by their id."""
        self._frames = 0
        self._last_lines: dict[int, int] = {}
        """By frame number: the line that ran last, which is behind a change that is seen now."""
        self._last_values: dict[int, str] = {}
        self._raising = 0
        """Id of the frame that the last event was an exception of."""
        self._raised: dict[tuple[str, int], int] = {}
        self._files: set[str] = set()
        self._lines: set[int] = set()

    def begin(self) -> None:
        """Follow what runs from here on."""
        self._channel.before_waits = self._tell_count
        sys.settrace(self._called)

    def end(self) -> None:
        """Stop, and tell how far it came."""
        kept = sys.gettrace()
        sys.settrace(None)
        self._channel.before_waits = None
        self._tell_found()
        self._flush()
        self._tell(
            "end",
            {
                "events": self._count,
                "raised": [[file, line, number] for (file, line), number in self._raised.items()],
                "files": sorted(self._files),
                "lines": sorted(self._lines),
                # == and not `is`: a bound method is made anew each time that it is looked up.
                "lost": kept != self._called,
            },
        )

    # What the interpreter says

    def _called(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        code = frame.f_code
        known = self._mine.get(id(code)) or self._learn(code)
        if known[1] is None:
            return None
        is_start = id(frame) not in self._numbers or _starts(self._instructions[id(code)], frame.f_lasti)
        if is_start:
            self._frames += 1
            self._numbers[id(frame)] = self._frames
        self._note(frame, known[1], "call" if is_start else "resume")
        return self._went_on

    def _went_on(self, frame: FrameType, event: str, argument: Any) -> Any:
        code = frame.f_code
        file = self._mine[id(code)][1]
        assert file is not None
        raising, self._raising = self._raising, 0
        if event == "line":
            self._note(frame, file, "line")
        elif event == "exception":
            self._raising = id(frame)
            if argument[0] is not StopIteration:  # How the interpreter ends a loop.
                self._note_raised(frame, file, argument)
        elif event == "return":
            leaves = raising == id(frame) and argument is None
            pauses = not leaves and _pauses(self._instructions[id(code)], frame.f_lasti)
            self._note(frame, file, "pause" if pauses else "return", argument, raises=leaves)
            if not pauses:
                number = self._numbers.pop(id(frame), 0)
                self._last_lines.pop(number, None)
                self._last_values.pop(number, None)
        return self._went_on

    def _learn(self, code: CodeType) -> tuple[CodeType, str | None]:
        name = str.__str__(code.co_filename)  # `CodeType.replace` takes what only passes for text.
        file = self._channel.relative(name) if self._channel.is_user_file(name) else None
        self._mine[id(code)] = (code, file)
        if file is not None:
            self._instructions[id(code)] = code.co_code
            if len(self._files) < FILES_MAX:
                self._files.add(file)
        return self._mine[id(code)]

    def _note_raised(self, frame: FrameType, file: str, argument: Any) -> None:
        kind, error, trace = argument
        message = ""
        if type(error) is not kind or not issubclass(kind, BaseException):
            error = None
        elif (arguments := BaseException.args.__get__(error)) and len(arguments) == 1:  # type: ignore[attr-defined]
            only = arguments[0]
            if type(only) is str:
                message = printable(only[: _look.TEXT_CHARACTERS_MAX])
            elif only is None or (type(only) is int and only.bit_length() < _look.TEXT_CHARACTERS_MAX):
                message = str(only)
        began = True
        inner = trace.tb_next if trace is not None else None
        while inner is not None:
            code = inner.tb_frame.f_code
            began = began and (self._mine.get(id(code)) or self._learn(code))[1] is None
            inner = inner.tb_next
        self._note(frame, file, "exception", detail=f"{_look.name_type(kind)}: {message}".removesuffix(": "))
        if began and len(self._raised) < RAISED_MAX:
            self._raised[file, frame.f_lineno] = self._count

    # What is told

    def _note(
        self, frame: FrameType, file: str, kind: str, returned: Any = None, *, raises: bool = False, detail: str = ""
    ) -> None:
        self._count = count = self._count + 1
        line = frame.f_lineno
        if self._looks:
            self._look_at(frame, file, line, kind)
        elif self._sought is not None:
            self._seek(frame, file, line, kind)
        if self._listed[0] <= count <= self._listed[1]:
            number = self._numbers.get(id(frame), 0)
            caller, asked, heard = self._find_caller(frame), self._channel.asked, self._channel.heard
            self._batch.append([count, kind, file, line, self._name(frame), number, caller, asked, detail, heard])
        if self._shown[0] <= count <= self._shown[1]:
            self._flush()
            look = _look.Look()
            shown = {"event": count, "stack": self._list_stack(frame), "locals": {}}
            if (seen := self._find_up(frame)) is not None:
                shown["locals"] = self._render_locals(look, seen)
                if self._expressions and not self._looks:
                    shown["values"] = [self._render(each, seen) for each in self._expressions]
            if kind == "return" and not raises:
                shown["returned"] = look.render(returned)
            self._tell("frame", shown)
        if count - self._counted >= BATCH:
            self._tell_count()

    def _seek(self, frame: FrameType, file: str, line: int, kind: str) -> None:
        """Look for the first event behind ``after``, or for the last one before ``before``."""
        assert self._sought is not None
        if self._before is not None and self._count >= self._before:
            self._tell_found()
            return
        if kind not in self._sought["kinds"] or (self._after is not None and self._count <= self._after):
            return
        number, wanted = self._numbers.get(id(frame), 0), self._sought["frame"]
        if wanted is None or (number == wanted) != self._sought["other"]:
            self._found = [self._count, file, line, self._name(frame), [], number]
            if self._before is None:
                self._tell_found()

    def _tell_found(self) -> None:
        if self._found is not None:
            self._flush()
            self._tell("value", self._found)
        self._found = self._sought = None

    def _look_at(self, frame: FrameType, file: str, line: int, kind: str) -> None:
        number = self._numbers.get(id(frame), 0)
        if self._print is not None:
            if file == self._print[0] or file.endswith(f"/{self._print[0]}"):
                if kind == "line" and len(self._lines) < LINES_MAX:
                    self._lines.add(line)
                if kind == "line" and line == self._print[1] and self._holds(frame):
                    self._tell_value(file, line, frame, [self._render(each, frame) for each in self._expressions])
        elif self._watches:
            value = self._render(self._expressions[0], frame)
            text = _dumps(value)
            before = self._last_values.get(number)
            self._last_values[number] = text
            if text != before and (before is not None or not _is_unseen(value)):
                self._tell_value(file, self._last_lines.get(number, line), frame, [value])
        elif self._holds(frame):
            self._tell_value(file, line, frame, [])
        self._last_lines[number] = line

    def _holds(self, frame: FrameType) -> bool:
        if self._condition is None:
            return True
        try:
            return bool(_look.find(self._condition, _list_names(frame)))
        except _look.Unseen:
            return False

    def _render(self, expression: Any, frame: FrameType) -> Any:
        try:
            value = _look.find(expression, _list_names(frame))
            return _look.Look(VALUE_SPENT_MAX // len(self._expressions)).render(value)
        except _look.Unseen as reason:
            return {"$type": "unseen", "text": printable(str(reason))}

    def _render_locals(self, look: _look.Look, frame: FrameType) -> dict[str, Any]:
        names = _list_names(frame)
        shown = {printable(name): look.render(names[name]) for name in list(names)[:NAMES_MAX]}
        if len(names) > NAMES_MAX:
            shown["$cut"] = len(names) - NAMES_MAX
        return shown

    def _list_stack(self, frame: FrameType) -> list[Any]:
        found: list[Any] = []
        seen: FrameType | None = frame
        while seen is not None and len(found) < STACK_MAX:
            code = seen.f_code
            known = self._mine.get(id(code)) or self._learn(code)
            if known[1] is not None:
                found.append([known[1], seen.f_lineno, self._name(seen), self._numbers.get(id(seen), 0)])
            seen = seen.f_back
        return found

    def _find_up(self, frame: FrameType) -> FrameType | None:
        """Return the frame of the project's code that is so many callers up."""
        left, seen = self._up, frame.f_back
        found: FrameType | None = frame
        while left > 0:
            while seen is not None and (self._mine.get(id(seen.f_code)) or self._learn(seen.f_code))[1] is None:
                seen = seen.f_back
            if seen is None:
                return None
            found, seen, left = seen, seen.f_back, left - 1
        return found

    def _find_caller(self, frame: FrameType) -> int:
        seen = frame.f_back
        while seen is not None:
            if (number := self._numbers.get(id(seen))) is not None:
                return number
            seen = seen.f_back
        return 0

    @staticmethod
    def _name(frame: FrameType) -> str:
        return printable(str.__str__(frame.f_code.co_qualname))

    def _tell_value(self, file: str, line: int, frame: FrameType, values: list[Any]) -> None:
        self._flush()
        number = self._numbers.get(id(frame), 0)
        self._tell("value", [self._count, file, line, self._name(frame), values, number])

    def _tell_count(self) -> None:
        """Tell what is known by now: nobody can tell anything once the function is killed."""
        self._flush()
        if self._count != self._counted:
            self._counted = self._count
            self._tell("count", self._count)

    def _flush(self) -> None:
        if self._batch:
            self._tell("events", self._batch)
            self._batch = []

    def _tell(self, what: str, said: Any) -> None:
        self._channel.trace(what, _dumps(said))


def _starts(instructions: bytes, at: int) -> bool:
    """Whether a function that is entered at ``at`` (``f_lasti``) begins there, and does not go on."""
    # RESUME says what is resumed: 0, a start. Where an error is thrown in, 3.12 stands at the YIELD_VALUE before.
    return at < 0 or (instructions[at] == _RESUME and instructions[at + 1] & 3 == 0)


def _pauses(instructions: bytes, at: int) -> bool:
    """Whether a function that is left at ``at`` will go on, where no error leaves it."""
    # Up to 3.12 it stands at what yields, from 3.13 on behind that: at what it will go on with.
    return instructions[at] == _YIELD or (instructions[at] == _RESUME and instructions[at + 1] & 3 != 0)


def _is_unseen(value: Any) -> bool:
    return type(value) is dict and value.get("$type") == "unseen"


def _list_names(frame: FrameType) -> Any:
    """Return the names of a frame and their values. The body of a class may have a mapping of the project's instead."""
    names = frame.f_locals
    if not (frame.f_code.co_flags & _OPTIMIZED or type(names) is dict):
        return {}
    # Without keys that only pass for text: looking anything up among them would ask them.
    return {name: value for name, value in names.items() if type(name) is str}
