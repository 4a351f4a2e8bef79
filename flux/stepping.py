"""Where a step leads, among the events of an execution that lies in the past.

A debugger of a running program decides where to stop while it runs. Here everything has happened: each event has a
number (`flux.travel`), and a step is a question about numbers, "which is the next event that ...?". So what is here
are the questions: each takes the event that one stands at, and gives what the one that is looked for is like, and in
which direction it lies. Whoever holds the events, or fetches them, does the looking.

Frames tell functions that run at the same time apart. A step over an ``await`` therefore comes out behind it in
the same function, however many others ran in between.
"""

import re
from collections.abc import Callable

import attrs

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


Wanted = Callable[[Step], bool]


@attrs.frozen
class Search:
    """What is looked for from an event."""

    wanted: Wanted
    ahead: bool
    """Among the later events, the first; else among the earlier ones, the last."""


def step_over(here: Step) -> Search:
    """The next line of the same function; at its end, where it returned to."""
    if here.kind == "return":
        return Search(_in_caller(here), ahead=True)
    return Search(lambda step: step.frame == here.frame and step.kind in STOPS, ahead=True)


def step_in() -> Search:
    """The next line that ran, of whichever function."""
    return Search(lambda step: step.kind in STOPS, ahead=True)


def step_out(here: Step) -> Search:
    """Where the function returned to; the end of one that nobody of the project's had called."""
    if here.caller == 0 and here.kind != "return":
        return Search(lambda step: step.frame == here.frame and step.kind == "return", ahead=True)
    return Search(_in_caller(here), ahead=True)


def step_back_over(here: Step) -> Search:
    """The line of the same function that ran before; at its beginning, where it was called."""
    if here.kind == "call":
        return Search(_in_caller(here), ahead=False)
    return Search(
        lambda step: step.frame == here.frame and (step.kind in STOPS or step.kind == "call"), ahead=False
    )


def _in_caller(here: Step) -> Wanted:
    if here.caller == 0:
        return lambda step: step.frame != here.frame and step.kind in STOPS
    return lambda step: step.frame == here.caller and step.kind in STOPS
