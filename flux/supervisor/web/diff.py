"""Two executions side by side: where they part, and all that differs."""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from flux.supervisor.web import words
from flux.supervisor.web.executions import make_row
from flux.supervisor.web.page import Asked, Page
from flux.supervisor.web.values import Shown, show_line

PAIRS_SHOWN = 500
DIFFERENCES_SHOWN = 100
"""Of one pair."""


@attrs.frozen
class Difference:
    """A value that is not the same on both sides."""

    where: str
    a: Shown | None
    """None: there is none on this side."""
    b: Shown | None
    follows: bool
    """It follows from an earlier one."""


@attrs.frozen
class Pair:
    """A call of each side, or of one alone."""

    mark: str
    a: str
    b: str
    is_first: bool
    """The first that differs."""
    differs: bool
    differences: Sequence[Difference]
    more: int
    """Differences that are not shown."""


def build_diff(documents: Mapping[str, Any], asked: Asked) -> Page:
    """Two executions side by side."""
    diff = documents["diff"]
    a, b = (make_row(diff[side], asked.now) for side in ("a", "b"))
    first = diff["first_difference"]
    first_call = first["index"] if first is not None and first["part"] == "call" else None
    parts = [(title, diff[part]) for title, part in (("Input", "input"), ("Outcome", "outcome"))]
    return Page(
        title=f"{a.name} and {b.name}",
        template="diff.html",
        area="executions",
        context={
            "a": a,
            "b": b,
            "swapped": words.link("d", f"{b.name}..{a.name}"),
            "verdict": words.cut(diff["verdict"]),
            "reason": words.cut(diff["reason"] or "", 1000),
            "same_code": diff["same_code"],
            "parts_shown": [
                (title, [_make_difference(each) for each in found[:DIFFERENCES_SHOWN]], len(found))
                for title, found in parts
                if found
            ],
            "pairs": [
                _make_pair(pair, is_first=number == first_call)
                for number, pair in enumerate(diff["calls"][:PAIRS_SHOWN])
            ],
            "pair_count": len(diff["calls"]),
            "only": [(side, _list_ran(diff[part])) for side, part in (("A", "only_a"), ("B", "only_b")) if diff[part]],
            "left_out": _list_left_out(diff["left_out"]),
            "notes": [words.cut(note, 500) for note in diff["notes"]],
        },
        command=f"flux trace diff {a.name} {b.name}",
    )


def _make_pair(pair: Mapping[str, Any], *, is_first: bool) -> Pair:
    a, b = (
        "" if pair[side] is None else words.call_title(str(pair[side]["kind"]), pair[side]["arguments"])
        for side in ("a", "b")
    )
    found = pair["differences"]
    return Pair(
        mark=words.cut(str(pair["mark"]), 20),
        a=a,
        b=b,
        is_first=is_first,
        differs=bool(found) or pair["a"] is None or pair["b"] is None,
        differences=[_make_difference(each) for each in found[:DIFFERENCES_SHOWN]],
        more=max(0, len(found) - DIFFERENCES_SHOWN),
    )


def _make_difference(found: Mapping[str, Any]) -> Difference:
    a, b = (show_line(found[side]) if side in found else None for side in ("a", "b"))
    where = found["name"] or found["where"] or "all of it"
    return Difference(words.cut(str(where)), a, b, bool(found["follows"]))


def _list_left_out(left_out: Mapping[str, Any]) -> list[str]:
    """Say what was not compared, since it is another at each run: ``3 ids``."""
    return [f"{number} {words.cut(kind, 40)}" for kind, number in left_out.items() if number]


def _list_ran(ran: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        words.cut(f"{each['file']} {each['function']}(), lines {', '.join(map(str, each['lines'][:20]))}")
        for each in ran[:DIFFERENCES_SHOWN]
    ]
