"""Ways from a place in an execution, for who asks over the console: what `flux.cli.debug_walk` is to a terminal.

A `Walk` holds the window of events that the last run told of, so that most steps run nothing; what lies outside of it
is asked for. It stands nowhere: each question says from where, and is answered with the number of an event, or with
None where the execution has no such place. What a step means is decided in `flux.stepping`, for all who step.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import attrs

from flux.errors import OperatorError
from flux.stepping import Search, Step
from flux.supervisor.debug import NoSuchEventError
from flux.supervisor.present import Document, encode

AROUND = 40
"""Events before and after the one that is asked about whose names come with it."""
KEPT_BYTES_MAX = 4 * 2**20
"""A window that takes more, as JSON, is not kept: what a guest tells is bounded by far more than that."""
Ask = Callable[[Document], Awaitable[Document]]
"""Answers a body of ``POST executions/ID/debug``."""


class LeftOutError(OperatorError):
    """There is more about an event than is told at once."""

    code = "FLX687"


@attrs.frozen
class Window:
    """What one run told."""

    head: Document
    """The answer without its lists: which execution, whether what is shown is what is on record."""
    events: Mapping[int, Document]
    frames: Mapping[int, Document]
    """Names and stack, of the events around the one that was asked about."""

    @property
    def total(self) -> int:
        """Events of the execution; those that are known of where it is not `ended`."""
        return int(self.head["total"])

    @property
    def ended(self) -> bool:
        """Whether the last of them was the last."""
        return bool(self.head["ended"])

    def step(self, number: int) -> Step:
        """Return an event as far as steps go by it."""
        if number not in self.events:
            raise LeftOutError(
                f"event {number:,} is left out: there is too much of it to tell at once",
                remedy="go to one further on, or look with flux trace debug --at",
            )
        event = self.events[number]
        return Step(
            number, event["kind"], event["file"], event["line"], event["function"],
            event["frame"], event["caller"], event["call"], event["heard"],
        )  # fmt: skip


class Walk:
    """See the module."""

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        """Asks something about the execution."""
        self._kept: Window | None = None
        self.kept_bytes = 0
        """What the window that is kept takes, as JSON."""

    def forget(self) -> None:
        """Give up the window: the next step is a run."""
        self._kept, self.kept_bytes = None, 0

    async def see(self, at: int | None) -> tuple[int | None, Window]:
        """Return an event with what names held at it; where the execution failed, or its last, for None."""
        kept = self._kept
        if kept is not None and at is not None and at in kept.events and at in kept.frames:
            return at, kept
        return await self._load({} if at is None else {"at": at})

    async def find(self, at: int, search: Search) -> int | None:
        """Return where a step leads from ``at``."""
        _, window = await self.see(at)
        number, step = at, 1 if search.ahead else -1
        while (number := number + step) in window.events:
            if search.wanted(window.step(number)):
                return number
        if number < 1 or (window.ended and number > window.total):
            return None
        # One run goes through all that lies outside of the window, however much that is.
        side = {"after": number - 1} if search.ahead else {"before": number + 1}
        found, _ = await self._load({"seek": search.document()} | side)
        return found

    async def reach(self, number: int) -> int | None:
        """Return ``number`` if there is such an event. Where the execution was killed, only a run can tell."""
        try:
            found, _ = await self.see(number)
        except NoSuchEventError:
            return None
        return found

    async def find_end(self, window: Window) -> int:
        """Return the last event; of an execution that was killed, the last that a run tells of now."""
        if window.ended:
            return window.total
        found, _ = await self._load({})
        return window.total if found is None else found

    async def run(self, at: int, target: Document, *, ahead: bool) -> int | None:
        """Return the nearest event in this direction at which ``target`` is."""
        found, _ = await self._load(target | {"after" if ahead else "before": at})
        return found

    async def find_change(self, at: int, name: str, *, ahead: bool) -> int | None:
        """Return the nearest event in this direction at which ``name`` had come to have another value.

        A name is another one in each call of a function: the one meant is that of the call that one stands in, as long
        as it changed there. Else it is the nearest.
        """
        side = {"after" if ahead else "before": at}
        told = await self.ask({"watch": name, "at": at, "list": False} | side)
        values = told["values"]
        if not values:
            return None
        if not ahead:
            values.reverse()
        _, window = await self.see(at)
        frame = window.step(at).frame
        return next((int(value["event"]) for value in values if value["frame"] == frame), int(values[0]["event"]))

    async def _load(self, order: Document) -> tuple[int | None, Window]:
        told = await self.ask(order | {"around": AROUND})
        head: dict[str, Any] = {name: value for name, value in told.items() if not isinstance(value, list)}
        head["notes"] = told["notes"]
        frames = [*told["frames"], *([told["frame"]] if told["frame"] is not None else [])]
        window = Window(
            head,
            {int(event["event"]): event for event in told["events"]},
            {int(frame["event"]): frame for frame in frames},
        )
        at = told["at"]
        if at is not None and told["events"]:
            size = len(encode(told))
            self._kept, self.kept_bytes = (window, size) if size <= KEPT_BYTES_MAX else (None, 0)
        return at, window
