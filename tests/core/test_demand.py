"""How many workers wait for work: what was asked for in the last seconds decides."""

import pytest

from flux.sandbox.demand import HALF_LIFE_S, WINDOW_S, Demand


def wanted_after(times_s: list[float], at_s: float, *, least: int = 2, most: int = 32) -> int:
    demand = Demand(least, most)
    for time_s in times_s:
        demand.take(time_s)
    return demand.count_wanted(at_s)


def test_nobody_who_asks_leaves_the_least() -> None:
    assert wanted_after([], 1e9) == 2
    assert wanted_after([1.0], 1.0) == 2


def test_as_many_wait_as_were_taken_at_once() -> None:
    assert wanted_after([5.0] * 12, 5.0) == 12


def test_no_rush_makes_more_than_the_most() -> None:
    assert wanted_after([5.0] * 500, 5.0) == 32


def test_a_steady_stream_needs_what_comes_within_a_window() -> None:
    each_s = WINDOW_S / 8
    assert 8 <= wanted_after([each_s * n for n in range(2000)], each_s * 2000) <= 9


@pytest.mark.parametrize(("half_lives", "left"), [(0, 16), (1, 8), (2, 4), (3, 2), (50, 2)])
def test_a_rush_is_forgotten_by_halves(half_lives: int, left: int) -> None:
    assert wanted_after([0.0] * 16, half_lives * HALF_LIFE_S) == left


def test_a_smaller_rush_does_not_hide_a_greater_one() -> None:
    assert wanted_after([0.0] * 20 + [1.0] * 3, 1.0) > 15


def test_a_rush_counts_again_when_the_last_is_forgotten() -> None:
    later_s = 20 * HALF_LIFE_S
    assert wanted_after([0.0] * 20 + [later_s] * 6, later_s) == 6
