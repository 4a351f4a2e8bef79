"""What a quota of processor time lets through, whatever is used."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.cpu_budget import CpuBudget


def test_what_was_used_is_paid_at_the_pace_of_the_quota() -> None:
    budget = CpuBudget(6, 0)
    assert budget.get_wait_s(0) == 0
    budget.charge(9, 0)
    assert budget.get_spent_s(0) == 9
    assert budget.get_wait_s(0) == pytest.approx(30, abs=0.01), "3 s of debt, a tenth of a second in a second"
    assert budget.get_wait_s(29.9) > 0
    assert budget.get_wait_s(30.1) == 0
    assert budget.get_spent_s(1000) == 0, "no more than a minute's is saved up"


def test_another_quota_holds_at_once_and_forgives_no_debt() -> None:
    budget = CpuBudget(60, 0)
    budget.charge(70, 0)
    budget.set_quota(6, 0)
    assert budget.get_wait_s(0) == pytest.approx(100, abs=0.01)
    budget.set_quota(600, 0)
    assert budget.get_wait_s(0) == pytest.approx(1, abs=0.01)


@given(
    st.floats(0.1, 1000),
    st.lists(st.tuples(st.floats(0, 100), st.floats(0, 50)), max_size=60),
)
def test_over_any_time_no_more_begins_than_the_quota_and_one_overrun(
    s_per_minute: float, steps: list[tuple[float, float]]
) -> None:
    budget, now, used, overrun = CpuBudget(s_per_minute, 0), 0.0, 0.0, 0.0
    for pause_s, wanted_s in steps:
        now += pause_s
        if not budget.get_wait_s(now):  # Who may not begin does not.
            budget.charge(wanted_s, now)
            used, overrun = used + wanted_s, max(overrun, wanted_s)
        assert used <= s_per_minute * (1 + now / 60) + overrun + 1e-6
        if wait_s := budget.get_wait_s(now):
            assert not budget.get_wait_s(now + wait_s), "after the time that it names it is paid"
