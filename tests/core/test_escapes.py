"""What several replays of one recording show about code that does not repeat itself."""

import attrs
import pytest

from flux.escapes import CAUSES, ORDERS, Escape, Observation, judge
from flux.execution import LogLine
from flux.hostcall import HostCallRequest, Position
from flux.session import Divergence

LINE = Position("functions/plans.py", 12, "choose")
OTHER_LINE = Position("functions/plans.py", 40, "choose")
ASKED = HostCallRequest(3, "db.query", b'["select $1",["a"]]', position=LINE)


def asked(argument: str, seq: int = 3) -> Divergence:
    """A replay that asked something else at call ``seq``."""
    arguments = b'["select $1",["%b"]]' % argument.encode()
    return Divergence("changed", seq, ASKED, attrs.evolve(ASKED, seq=seq, arguments=arguments))


def seen(*runs: tuple[int, Divergence | None]) -> Escape | None:
    return judge([Observation(order, divergence) for order, divergence in runs])


def test_code_that_repeats_itself_in_every_order_is_no_escape() -> None:
    assert judge([Observation(order, None) for order in ORDERS]) is None


@pytest.mark.parametrize(
    ("runs", "cause", "ways"),
    [
        ([(0, None), (0, None), (1, asked("b")), (1, asked("b"))], "addresses", 2),
        ([(0, asked("b")), (0, asked("b")), (1, asked("c")), (1, asked("c"))], "addresses", 2),
        ([(0, asked("b")), (0, asked("b")), (1, asked("b", 4)), (1, asked("b", 4))], "addresses", 2),
        ([(0, None), (0, asked("b")), (1, None), (1, None)], "chance", 2),
        ([(0, asked("b")), (0, asked("c")), (1, asked("d")), (1, asked("e"))], "chance", 4),
        ([(0, asked("b")), (0, asked("b")), (1, asked("b")), (1, asked("b"))], "surroundings", 1),
    ],
)
def test_what_changes_with_what_tells_the_cause(
    runs: list[tuple[int, Divergence | None]], cause: str, ways: int
) -> None:
    escape = seen(*runs)
    assert escape is not None
    assert (escape.cause, escape.orders, escape.ways) == (cause, 2, ways)
    assert CAUSES[cause] in escape.describe()


def test_where_a_line_stands_in_the_code_is_not_what_a_run_did() -> None:
    here = Divergence("extra", 4, None, attrs.evolve(ASKED, seq=4))
    there = Divergence("extra", 4, None, attrs.evolve(ASKED, seq=4, position=OTHER_LINE))
    escape = seen((0, here), (0, there), (1, here), (1, here))
    assert escape is not None
    assert escape.cause == "surroundings"


def test_the_line_is_that_of_the_first_call_that_differs() -> None:
    late = Divergence("extra", 9, None, attrs.evolve(ASKED, seq=9, position=OTHER_LINE))
    ended = Divergence("outcome", 0, "returned 200", "raised KeyError")
    said = Divergence("log", 1, None, LogLine(0, "info", "b", b"{}", OTHER_LINE))
    runs = [(order, run) for order, run in enumerate([ended, late, said, asked("b")]) for _ in range(2)]
    escape = seen(*runs)
    assert escape is not None
    assert escape.position == LINE
    assert escape.describe().startswith(
        "functions/plans.py:12 (choose) depends on where objects lie in memory"
    )


def test_a_missing_call_is_named_by_the_recorded_line() -> None:
    missing = Divergence("missing", 3, ASKED, None)
    escape = seen((0, missing), (0, missing), (1, None), (1, None))
    assert escape is not None
    assert escape.place == "functions/plans.py:12 (choose)"


@pytest.mark.parametrize(("seq", "place"), [(0, "its outcome"), (2, "call 2")])
def test_what_has_no_line_is_named_all_the_same(seq: int, place: str) -> None:
    found = Divergence("outcome" if seq == 0 else "extra", seq, None, "something else")
    escape = seen((0, found), (0, found), (1, None), (1, None))
    assert escape is not None
    assert escape.place == place


@pytest.mark.parametrize("runs", [[], [(0, None), (0, None)], [(0, None), (1, None), (1, None)]])
def test_too_few_runs_prove_nothing(runs: list[tuple[int, Divergence | None]]) -> None:
    with pytest.raises(ValueError, match="proves nothing"):
        seen(*runs)
