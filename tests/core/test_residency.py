"""Which deployments keep a process in memory."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.sandbox.residency import Residency


@attrs.define(eq=False)
class Guest:
    """A resident that does as it is told."""

    residency: Residency
    is_busy: bool = False
    is_here: bool = False

    def enter(self) -> "Guest":
        self.is_here = True
        self.residency.enter(self)
        return self

    def evict(self) -> None:
        assert self.is_here and not self.is_busy
        self.is_here = False
        self.residency.leave(self)


def test_the_one_that_was_used_longest_ago_leaves_for_a_new_one() -> None:
    residency = Residency(zygotes_max=2)
    first, second = Guest(residency).enter(), Guest(residency).enter()
    residency.use(first)
    third = Guest(residency).enter()
    assert (first.is_here, second.is_here, third.is_here) == (True, False, True)


def test_who_is_busy_stays_and_leaves_when_the_work_is_done() -> None:
    residency = Residency(zygotes_max=1)
    busy = Guest(residency, is_busy=True).enter()
    new = Guest(residency, is_busy=True).enter()
    assert (busy.is_here, new.is_here, len(residency)) == (True, True, 2)
    busy.is_busy = False
    residency.settle()
    assert (busy.is_here, new.is_here) == (False, True)


def test_a_new_one_does_not_leave_for_itself() -> None:
    residency = Residency(zygotes_max=1)
    busy = Guest(residency, is_busy=True).enter()
    new = Guest(residency).enter()
    assert busy.is_here and new.is_here


@pytest.mark.parametrize("most", [1, 3])
@given(steps=st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["ask", "work", "rest"])), max_size=60))
def test_there_are_never_more_than_may_be_unless_they_are_busy(most: int, steps: list[tuple[int, str]]) -> None:
    residency = Residency(zygotes_max=most)
    guests = [Guest(residency) for _ in range(6)]
    for number, step in steps:
        guest = guests[number]
        if not guest.is_here:
            guest.enter()
        residency.use(guest)
        guest.is_busy = {"ask": guest.is_busy, "work": True, "rest": False}[step]
        residency.settle()
        here = [one for one in guests if one.is_here]
        idle = [one for one in here if not one.is_busy and one is not guest]
        assert len(here) <= most or not idle
        assert len(residency) == len(here)
