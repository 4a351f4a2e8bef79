"""A place in an execution, and the ways from there; what the debugger's prompt and its editors stand on.

A `Walk` stands at one event and moves. It keeps the window of events that the server told last, so that most steps
ask nobody. What lies outside of it is asked for, and going back is the same as going on: the answer to either is
a number.

It neither shows nor reads commands: whatever leads somewhere returns where that is, or None where the execution has no
such place, and who asked decides whether to `go` there.
"""

from collections.abc import Callable
from typing import Any

import attrs

from flux.cli.failures import EXIT_FINDING, NotWhole
from flux.cli.record import Record
from flux.errors import OperatorError
from flux.stepping import Search, Step

AROUND = 40
"""Events before and after the one that is asked about whose names come with it."""
Ask = Callable[[dict[str, object]], Record]
"""Sends a body to ``POST executions/ID/debug``."""


class NothingToStepError(OperatorError):
    """The execution has no event."""

    code = "FLX682"
    exit_code = EXIT_FINDING


@attrs.frozen
class Place:
    """A line, and what must hold when it is about to run."""

    file: str | None
    """None for any, where there is a condition."""
    line: int = 0
    condition: str | None = None

    def order(self) -> dict[str, object]:
        """Return what asks for it."""
        found: dict[str, object] = {}
        if self.file is not None:
            found = {"file": self.file, "line": self.line}
        return found if self.condition is None else found | {"condition": self.condition}


@attrs.frozen
class Change:
    """A moment at which a name had another value than before."""

    event: int
    place: str
    """The line that made it, and its function: ``signup.py:12 in create_user()``."""
    value: Any


class Walk:
    """See the module."""

    def __init__(self, ask: Ask, at: int | None = None) -> None:
        """Begin at event ``at``, or where the execution failed, or at its end."""
        self.ask = ask
        """Asks the server something about the same execution."""
        self._steps: dict[int, Step] = {}
        self._lines: dict[int, Record] = {}
        self._frames: dict[tuple[int, int], Record] = {}
        self._sources: dict[str, list[str] | None] = {}
        self._total = 0
        self.told = self._load(at)
        """The first answer: which execution, and whether what is shown is what is on record."""
        found = self.told.maybe_number("at")
        if found is None:
            name = self.told.record("execution").text("name")
            if not self.ended:
                raise NothingToStepError(
                    f"nothing is known of the steps of {name}: it was ended from outside before it told of one",
                    remedy=f"flux trace show {name} shows what is on record",
                )
            raise NothingToStepError(
                f"{name} has no step: none of the project's own lines ran, and it asked for nothing",
                remedy=f"flux trace show {name} shows what is on record",
            )
        self.at = int(found)
        """Number of the event."""

    @property
    def total(self) -> int:
        """Events of the execution; those that are known of where it is not `ended`."""
        return self._total

    @property
    def ended(self) -> bool:
        """Whether the last of them was the last: nobody knows of one that was killed."""
        return self.told.flag("ended")

    @property
    def end(self) -> str:
        """What is said where one can go no further."""
        return "it ends here" if self.ended else "no event behind this one is known"

    @property
    def by_line(self) -> bool:
        """Whether there are lines and names, and not host calls alone."""
        return self.told.text("granularity") == "line"

    @property
    def here(self) -> Step:
        """The event that it stands at."""
        return self.step(self.at)

    def step(self, number: int) -> Step:
        """Return the event of this number."""
        if number not in self._steps:
            self._load(number)
        return self._get(number)

    def event(self, number: int) -> Record:
        """Return the event of this number as the server tells it."""
        self.step(number)
        return self._lines[number]

    def go(self, number: int) -> None:
        """Stand at this event; raise what the server says where there is none."""
        self.step(number)
        self.at = number

    def find(self, search: Search) -> int | None:
        """Return where a step leads."""
        number = self.at
        while (number := number + (1 if search.ahead else -1)) in self._steps:
            if search.wanted(self._get(number)):
                return number
        if number < 1 or (self.ended and number > self.total):
            return None
        # One run goes through all that lies outside of the window, however much that is.
        side: dict[str, object] = {"after": number - 1} if search.ahead else {"before": number + 1}
        found = self._read({"seek": search.document()} | side).maybe_number("at")
        return None if found is None else int(found)

    def find_end(self) -> int:
        """Return the last event; of an execution that was killed, the last that a run tells of now."""
        if self.ended:
            return self.total
        found = self._read({}).maybe_number("at")
        return self.at if found is None else int(found)

    def _get(self, number: int) -> Step:
        if number not in self._steps:
            raise NotWhole(f"the server left event {number:,} out: there is too much of it to tell at once")
        return self._steps[number]

    def run(self, places: list[Place], *, ahead: bool) -> tuple[int, Place] | None:
        """Return the nearest event in this direction at which one of ``places`` is, and which."""
        found = []
        for place in places:
            values = self.ask(place.order() | self._side(ahead)).records("values")
            if values:
                found.append((int(values[0 if ahead else -1].number("event")), place))
        if not found:
            return None
        return (min if ahead else max)(found, key=lambda each: each[0])

    def check_line(self, file: str, line: int) -> None:
        """Raise what the server says where a line never ran."""
        self.ask(self._only() | {"file": file, "line": line})

    def find_change(self, name: str, *, ahead: bool) -> Change | None:
        """Return the nearest event in this direction at which ``name`` had come to have another value.

        A name is another one in each call of a function: the one meant is that of the call that one stands in, as long
        as it changed there. Else it is the nearest.
        """
        frame = self.here.frame
        values = self.ask(self._side(ahead) | {"watch": name}).records("values")
        if not ahead:
            values.reverse()
        if not values:
            return None
        same = (value for value in values if int(value.number("frame")) == frame)
        value = next(same, values[0])
        return Change(
            int(value.number("event")),
            f"{value.text('file')}:{value.number('line'):.0f} in {value.text('function')}()",
            value.get("value"),
        )

    def _side(self, ahead: bool) -> dict[str, object]:
        return self._only() | {"after" if ahead else "before": self.at}

    def _only(self) -> dict[str, object]:
        return {"at": self.at, "list": False}

    def frame(self, up: int = 0) -> Record:
        """Return what names held here, in the function that is so many callers up."""
        if (self.at, up) not in self._frames:
            if up:
                self._frames[self.at, up] = self.ask(self._only() | {"up": up}).record("frame")
            else:
                self._keep_frames(self.ask(self._only() | {"around": AROUND}))
        return self._frames[self.at, up]

    def look_up(self, expressions: str, up: int = 0) -> list[tuple[str, Any]]:
        """Return what each expression was here, as it was read."""
        frame = self.ask(self._only() | {"up": up, "expression": expressions}).record("frame")
        return [(each.text("expression"), each.get("value")) for each in frame.records("values")]

    def source(self, file: str) -> list[str] | None:
        """Return the lines of a file as it ran; None where its code is not kept."""
        if file not in self._sources:
            told = self.ask(self._only() | {"source": file}).record("source").maybe_text("text")
            self._sources[file] = None if told is None else told.split("\n")
        return self._sources[file]

    def _load(self, at: int | None) -> Record:
        return self._read({} if at is None else {"at": at})

    def _read(self, order: dict[str, object]) -> Record:
        told = self.ask(order | {"around": AROUND}).of_schema("flux.debug/1")
        if told.maybe_number("at") is None:
            return told  # Nothing was found: what is known stays.
        self._total = int(told.number("total"))
        self._lines = {int(event.number("event")): event for event in told.records("events")}
        self._steps = {number: _read_step(number, event) for number, event in self._lines.items()}
        self._keep_frames(told)
        return told

    def _keep_frames(self, told: Record) -> None:
        self._frames = {(int(each.number("event")), 0): each for each in told.records("frames")}
        if (frame := told.maybe_record("frame")) is not None:
            self._frames[int(frame.number("event")), 0] = frame


def _read_step(number: int, event: Record) -> Step:
    numbers = (int(event.number(name)) for name in ("frame", "caller", "call", "heard"))
    return Step(
        number, event.text("kind"), event.text("file"), int(event.number("line")), event.text("function"), *numbers
    )
