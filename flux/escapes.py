"""Code that does not repeat itself, and why: by experiment.

A replay by the very code that made a recording, with the recorded answers, must do the same. When it does
not, something got in that no record holds. What it was can't be seen in one run, but it can be told from
several, when one thing at a time is changed. The one thing that Flux can change at will is the order in which
objects lie in memory (a sandbox's ``shuffle``): sets of objects without a hash of their own follow it, and
so does whatever prints or compares an ``id()``.

So the recording is replayed twice in each of several orders, `ORDERS`, and `judge` looks at what the runs did:

====================  =============================  ==========================================
in one order          in another order               what it depends on
====================  =============================  ==========================================
twice the same        something else                 ``addresses``: where objects lie
not twice the same    (does not matter)              ``chance``: a clock, randomness, a number of the
                                                     system's that is not held in this sandbox
twice the same        the same, but not as recorded  ``surroundings``: what is the same for all of
                                                     these runs and was not for the recorded one
====================  =============================  ==========================================

It says no more than that. A function may depend on addresses in a way that none of these orders brings
out: then it reads ``surroundings``. What it names is the first call, log line or outcome that differs and the
line of the code that it comes from; the set that was gone through is there or above.
"""

from collections.abc import Iterable, Sequence

import attrs

from flux.execution import LogLine
from flux.hostcall import HostCallRequest, Position
from flux.session import Divergence

ORDERS = (0, 0, 1, 1, 2, 2, 3, 3)
"""The orders of objects to replay in; 0 is what recordings are made in."""

CAUSES = {
    "addresses": "depends on where objects lie in memory, which is nobody's to foretell: "
    "sort what comes out of a set, or give its objects a __hash__",
    "chance": "depends on something that is never the same twice and is not on record",
    "surroundings": "depends on something outside of it that has changed since it was recorded",
}
"""What an escape depends on, and what to do."""


@attrs.frozen
class Observation:
    """What one replay by the same code did."""

    order: int
    """The order of objects in memory that it ran in."""
    divergence: Divergence | None
    """Where it left the recording; None when it did the same."""


@attrs.frozen
class Escape:
    """What a function depends on that no record holds."""

    cause: str
    """One of `CAUSES`."""
    divergence: Divergence
    """Where a replay first left the recording."""
    position: Position | None
    """The line of the user's code that asked or said what differs; None for an outcome."""
    orders: int
    """In how many orders it was run."""
    ways: int
    """How many different things it did."""

    @property
    def place(self) -> str:
        """``file:line (function)``, or what differs when no line is known."""
        if self.position is None:
            return (
                f"its {self.divergence.kind}" if self.divergence.seq == 0 else f"call {self.divergence.seq}"
            )
        return f"{self.position.file}:{self.position.line} ({self.position.function})"

    def describe(self) -> str:
        """Return it as a sentence for a person."""
        return f"{self.place} {self.explain()}"

    def explain(self) -> str:
        """Return what the code there depends on, and what that was seen by."""
        runs = "the same run" if self.ways == 1 else f"{self.ways} different runs"
        return (
            f"{CAUSES[self.cause]} ({runs} in {self.orders} orders of objects, each tried more than once)"
        )


def judge(observations: Iterable[Observation]) -> Escape | None:
    """Return what the runs show, or None when all of them did as recorded.

    There must be at least two of them in each of at least two orders.
    """
    by_order: dict[int, list[Divergence | None]] = {}
    for one in observations:
        by_order.setdefault(one.order, []).append(one.divergence)
    if len(by_order) < 2 or min(map(len, by_order.values())) < 2:
        raise ValueError(
            "one run in an order of objects proves nothing: two or more in each of two or more orders"
        )
    divergences = [found for runs in by_order.values() for found in runs if found is not None]
    if not divergences:
        return None
    ways = {order: {_what(found) for found in runs} for order, runs in by_order.items()}
    all_ways = set[object]().union(*ways.values())
    if any(len(seen) > 1 for seen in ways.values()):
        cause = "chance"
    elif len(all_ways) > 1:
        cause = "addresses"
    else:
        cause = "surroundings"
    first = _find_first(divergences)
    return Escape(cause, first, find_position(first), len(by_order), len(all_ways))


def find_position(divergence: Divergence) -> Position | None:
    """Return the line of the user's code where a replay left its recording, if one is known."""
    for side in (divergence.actual, divergence.expected):
        if isinstance(side, HostCallRequest | LogLine) and side.position is not None:
            return side.position
    return None


def _what(divergence: Divergence | None) -> object:
    """What a run did, as far as another run can do the same."""
    if divergence is None:
        return None
    match divergence.actual:
        case HostCallRequest(name=name, arguments=arguments, task=task):
            return (divergence.kind, divergence.seq, name, arguments, task)
        case LogLine(level=level, message=message, fields=fields):
            return (divergence.kind, divergence.seq, level, message, fields)
        case other:
            return (divergence.kind, divergence.seq, other)


def _find_first(divergences: Sequence[Divergence]) -> Divergence:
    """Return the earliest: a call before an outcome, and of the log lines the first."""
    return min(divergences, key=lambda found: (found.seq == 0, found.kind == "log", found.seq))
