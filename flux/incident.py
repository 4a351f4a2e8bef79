"""What the replays of a window say together: by failure, by verdict, and by reason.

A window is a list of executions that failed. Each has been replayed, and says in `Replayed` what came of it. The
functions here count and put in order; they find nothing out, and forget none: the sums of each count are the number of
executions. `find_common` looks at executions before any is replayed, and says what they share.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs


@attrs.frozen
class Replayed:
    """One execution of the window, and what its replay shows."""

    name: str
    """Of the execution."""
    signature: str | None
    """Equal for failures of one kind; None where it only answered so."""
    failure: str
    """How it failed, in words."""
    verdict: str
    reason: str
    notes: tuple[str, ...] = ()
    """What of the database was not as it was."""
    held: tuple[tuple[str, str], ...] = ()
    """What it would have pushed to the queue: the function, and how that compares with the record."""
    deployment: str | None = None
    """The code that it ran on; None when it could not be replayed."""


def describe_failure(summary: Mapping[str, Any]) -> str:
    """Say how an execution failed: ``KeyError: 'plan'  functions/signup.py:16``, or ``status 503``."""
    match summary.get("error"):
        case {"type": kind, **rest}:
            message, location = rest.get("message"), rest.get("location")
            text = f"{kind}: {message}" if message not in (None, "") else f"{kind}"
            match location:
                case {"file": str(file), "line": int(line)} if file and line:
                    return f"{text}  {file}:{line}"
                case {"file": str(file)} if file:
                    return f"{text}  {file}"
            return text
        case _:
            return f"status {summary.get('status') or 0}"


@attrs.frozen
class Group:
    """Executions that failed in the same way."""

    failure: str
    """In words."""
    replayed: Sequence[Replayed]

    def list_verdicts(self) -> Mapping[str, Mapping[str, Sequence[str]]]:
        """Return the names of the executions by verdict, and under each by its reason."""
        verdicts: dict[str, dict[str, list[str]]] = {}
        for one in self.replayed:
            verdicts.setdefault(one.verdict, {}).setdefault(one.reason, []).append(one.name)
        return verdicts


def group(replayed: Iterable[Replayed]) -> list[Group]:
    """Put together what failed in the same way then, the most frequent first."""
    groups: dict[str, list[Replayed]] = {}
    for one in replayed:
        groups.setdefault(one.signature or one.failure, []).append(one)
    return [Group(ones[0].failure, ones) for ones in sorted(groups.values(), key=len, reverse=True)]


def count_verdicts(replayed: Iterable[Replayed]) -> dict[str, int]:
    """Count verdicts, the most frequent first."""
    return dict(Counter(one.verdict for one in replayed).most_common())


def count_notes(replayed: Iterable[Replayed]) -> dict[str, int]:
    """Count how many executions each note is about, the most frequent first."""
    return dict(Counter(note for one in replayed for note in one.notes).most_common())


def count_held(replayed: Iterable[Replayed]) -> list[tuple[str, str, int]]:
    """Count what they would have pushed to the queue, by function and by how it compares with the record."""
    counts = Counter(held for one in replayed for held in one.held)
    return [(named, grade, count) for (named, grade), count in sorted(counts.items())]


def count_codes(replayed: Iterable[Replayed]) -> int:
    """Count the versions of the code that they ran on: more than one where it was saved meanwhile."""
    return len({one.deployment for one in replayed if one.deployment is not None})


# --- before any is replayed ------------------------------------------------------------------------


@attrs.frozen
class Common:
    """A value that executions share."""

    what: str
    """``route``, ``function``, ``code``, ``trigger``, ``failure``."""
    value: str
    count: int
    """How many have it."""


SHARED = ("failure", "route", "function", "trigger", "code")
"""What is looked at, in the order in which it tells."""


def find_common(described: Sequence[Mapping[str, Any]]) -> list[Common]:
    """Return the most frequent value of each of `SHARED` that more than half of the executions have.

    ``described`` has a text under each of `SHARED`, which is empty where it is not known.
    """
    found: list[Common] = []
    for what in SHARED:
        counts = Counter(one[what] for one in described if one[what])
        for value, count in counts.most_common(1):
            if count * 2 > len(described):
                found.append(Common(what, value, count))
    return found
