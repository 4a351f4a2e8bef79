"""Where a step leads, among the events of an execution that lies in the past.

A debugger of a running program decides where to stop while it runs. Here everything has happened: each event has a
number (`flux.travel`), and a step is a question about numbers, "which is the next event that ...?". So what is here
are the questions: each takes the event that one stands at, and gives what the one that is looked for is like, and in
which direction it lies. Whoever holds the events, or fetches them, does the looking.

Frames tell functions that run at the same time apart. A step over an ``await`` therefore comes out behind it in
the same function, however many others ran in between.
"""

import re

import attrs

KINDS = frozenset({"call", "line", "pause", "resume", "exception", "return", "host call"})
STOPS = frozenset({"line", "exception", "return", "host call"})
"""Kinds of events at which one stands. A ``call`` shows no line that runs, a pause and a resumption are no step."""


@attrs.frozen
class Step:
    """An event, as far as steps go by it; see `flux.travel.Event`."""

    number: int
    kind: str
    file: str
    line: int
    function: str
    frame: int
    caller: int
    asked: int
    """Number of the last host call by then."""
    heard: int
    """Answers to host calls by then."""


@attrs.frozen
class Target:
    """Where a run on or back is to stop."""

    file: str | None
    """Or the end of its path; None: any, where ``condition`` holds."""
    line: int
    condition: str | None
    """An expression; None: whenever the line is about to run."""


_TARGET = re.compile(r"(?P<file>\S+):(?P<line>[0-9]{1,12})(\s+if\s+(?P<condition>.+))?")


def read_target(text: str) -> Target:
    """Return what ``signup.py:16``, ``total > 100`` or ``signup.py:16 if total > 100`` means."""
    if (said := _TARGET.fullmatch(text)) is None:
        return Target(None, 0, text)
    return Target(said["file"].removeprefix("./"), int(said["line"]), said["condition"])


@attrs.frozen
class Search:
    """What is looked for from an event. It is data, so that whoever has the events can look: the guest too."""

    kinds: frozenset[str]
    ahead: bool
    """Among the later events, the first; else among the earlier ones, the last."""
    frame: int | None = None
    """Of this call of a function; None: of whichever."""
    is_other: bool = False
    """Of any call but that one."""

    def document(self) -> dict[str, object]:
        """Return it as JSON."""
        return {"kinds": sorted(self.kinds), "frame": self.frame, "other": self.is_other}

    def wanted(self, step: Step) -> bool:
        """Return whether it is looked for."""
        return step.kind in self.kinds and (self.frame is None or (step.frame == self.frame) != self.is_other)


def step_over(here: Step) -> Search:
    """The next line of the same function; at its end, where it returned to."""
    if here.kind == "return":
        return _find_caller(here, ahead=True)
    return Search(STOPS, ahead=True, frame=here.frame)


def step_in() -> Search:
    """The next line that ran, of whichever function."""
    return Search(STOPS, ahead=True)


def step_out(here: Step) -> Search:
    """Where the function returned to; the end of one that nobody of the project's had called."""
    if here.caller == 0 and here.kind != "return":
        return Search(frozenset({"return"}), ahead=True, frame=here.frame)
    return _find_caller(here, ahead=True)


def step_back_over(here: Step) -> Search:
    """The line of the same function that ran before; at its beginning, where it was called."""
    if here.kind == "call":
        return _find_caller(here, ahead=False)
    return Search(STOPS | {"call"}, ahead=False, frame=here.frame)


def _find_caller(here: Step, *, ahead: bool) -> Search:
    if here.caller == 0:
        return Search(STOPS, ahead, here.frame, is_other=True)
    return Search(STOPS, ahead, here.caller)
