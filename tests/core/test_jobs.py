"""What becomes of a job: by how its attempt ended, and by how often it was tried."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.jobs import BACKOFF_S, BACKOFF_S_MAX, LOST_MAX, Ending, Fate, State, Tries, decide_fate

CHANCES = st.floats(0, 1, exclude_max=True)


@given(failures=st.integers(0, 50), lost=st.integers(0, 50), retries=st.integers(0, 20), chance=CHANCES)
def test_a_job_is_done_when_it_was_committed_and_never_else(
    failures: int, lost: int, retries: int, chance: float
) -> None:
    tries = Tries(failures, lost)
    assert decide_fate(Ending.COMMITTED, tries, retries, chance) == Fate(State.DONE)
    for ending in (Ending.FAILED, Ending.GIVEN_UP, Ending.LOST):
        assert decide_fate(ending, tries, retries, chance).state is not State.DONE


@pytest.mark.parametrize("retries", [0, 1, 5])
def test_a_job_that_always_fails_runs_once_and_then_as_often_as_it_has_retries(retries: int) -> None:
    failures, runs = 0, 0
    state = State.WAITING
    while state is State.WAITING:
        fate = decide_fate(Ending.FAILED, Tries(failures, 0), retries, 0.5)
        state, failures, runs = fate.state, failures + fate.failures, runs + 1
    assert (state, runs) == (State.DEAD, retries + 1)


@pytest.mark.parametrize("ending", [Ending.LOST, Ending.GIVEN_UP])
def test_what_something_else_ended_counts_for_no_retry_and_comes_to_an_end(ending: Ending) -> None:
    lost, state, fate = 0, State.WAITING, Fate(State.WAITING)
    while state is State.WAITING:
        fate = decide_fate(ending, Tries(0, lost), 0, 0.5)
        state, lost = fate.state, lost + fate.lost
        assert fate.failures == 0
    assert (state, lost) == (State.DEAD, LOST_MAX + 1)


@given(failures=st.integers(0, 1000), chance=CHANCES)
def test_pauses_double_up_to_an_hour_and_are_never_cut_below_their_half(failures: int, chance: float) -> None:
    pause_s = decide_fate(Ending.FAILED, Tries(failures, 0), 2000, chance).delay_s
    whole_s = BACKOFF_S_MAX if failures > 20 else min(BACKOFF_S * 2**failures, BACKOFF_S_MAX)
    assert whole_s / 2 <= pause_s <= whole_s
