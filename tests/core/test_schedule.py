"""When something is to run, and what becomes of a time that has come: all of it with a clock that is given."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.schedule import (
    BadScheduleError,
    CatchUp,
    Fate,
    Schedule,
    check_schedule,
    choose_schedules,
    decide,
    find_next,
    list_ticks,
)

BERLIN = ZoneInfo("Europe/Berlin")
NOON = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def ticks(expression: str, begin: str, end: str, zone: str = "Europe/Berlin") -> list[str]:
    """The ticks between two local times, in UTC."""
    schedule = Schedule("f", expression, zone)
    local = ZoneInfo(zone)
    after, until = (datetime.fromisoformat(text).replace(tzinfo=local).astimezone(UTC) for text in (begin, end))
    return [f"{tick:%m-%d %H:%M}" for tick in list_ticks(schedule, after, until, 100)]


def test_a_time_that_does_not_exist_is_run_right_after_the_gap() -> None:
    # On 29 March 2026 Berlin's clocks go from 02:00 to 03:00, which is 01:00 UTC.
    assert ticks("30 2 * * *", "2026-03-28 00:00", "2026-03-30 23:00") == ["03-28 01:30", "03-29 01:00", "03-30 00:30"]
    assert ticks("0,30 2 * * *", "2026-03-29 00:00", "2026-03-29 23:00") == ["03-29 01:00"], "once, not twice"


def test_a_time_that_exists_twice_is_run_once_at_the_first() -> None:
    # On 25 October 2026 they go back from 03:00 to 02:00: 02:30 is 00:30 and 01:30 UTC.
    assert ticks("30 2 * * *", "2026-10-24 00:00", "2026-10-26 23:00") == ["10-24 00:30", "10-25 00:30", "10-26 01:30"]


def test_with_a_star_it_is_real_time_that_counts() -> None:
    assert ticks("0 * * * *", "2026-03-29 00:30", "2026-03-29 04:30") == ["03-29 00:00", "03-29 01:00", "03-29 02:00"]
    assert ticks("*/30 * * * *", "2026-10-25 01:45", "2026-10-25 03:15") == [
        "10-25 00:00", "10-25 00:30", "10-25 01:00", "10-25 01:30", "10-25 02:00",
    ]  # fmt: skip


@pytest.mark.parametrize("day", ["2026-03-29", "2026-10-25"])
@pytest.mark.parametrize("expression", ["30 2 * * *", "0,30 2 * * *", "15 * * * *", "*/10 2 * * *", "59 1-3 * * *"])
def test_no_tick_is_lost_or_doubled_where_clocks_change_whenever_one_looks(day: str, expression: str) -> None:
    begin = datetime.fromisoformat(f"{day} 00:00").replace(tzinfo=BERLIN).astimezone(UTC)
    schedule = Schedule("f", expression, "Europe/Berlin", CatchUp.ALL)
    whole = list_ticks(schedule, begin, begin + timedelta(hours=8), 1000)
    looked = []
    since = begin
    for minutes in range(0, 8 * 60, 7):
        decision = decide(schedule, since, begin + minutes * MINUTE, is_busy=False, is_paused=False)
        looked += [tick.at for tick in decision.ticks]
        since = decision.until
    assert looked == [tick for tick in whole if tick <= since]
    assert len(set(whole)) == len(whole) and whole == sorted(whole)


@given(
    st.sampled_from(["* * * * *", "*/7 * * * *", "0 3 * * *", "30 2 * * SUN", "0 0 1 * *"]),
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"]),
    st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1)),
    st.lists(st.integers(0, 500_000), min_size=1, max_size=6),
)
def test_decisions_in_pieces_are_those_of_one_look(
    expression: str, zone: str, begin: datetime, steps: list[int]
) -> None:
    schedule = Schedule("f", expression, zone, CatchUp.ALL)
    since = start = begin.replace(tzinfo=UTC)
    now, found = since, []
    for step_s in [*steps, 0]:
        now += timedelta(seconds=step_s / 50)
        while since < now:  # A server asks again until all is decided, and others ask the same.
            decision = decide(schedule, since, now, is_busy=False, is_paused=False)
            assert decide(schedule, since, now, is_busy=True, is_paused=False) == decision, "none is left out"
            found += [tick.at for tick in decision.ticks]
            since = decision.until
    assert found == list_ticks(schedule, start, now, 100_000)


@pytest.mark.parametrize(
    ("catch_up", "since", "is_busy", "expected"),
    [
        (CatchUp.ONE, NOON - MINUTE, False, [("12:00", Fate.RUN, 0)]),
        (CatchUp.ONE, NOON - MINUTE, True, [("12:00", Fate.OVERLAP, 0)]),
        (CatchUp.SKIP, NOON - MINUTE, True, [("12:00", Fate.OVERLAP, 0)]),
        (CatchUp.ALL, NOON - MINUTE, True, [("12:00", Fate.RUN, 0)]),
        (CatchUp.ONE, NOON - 4 * MINUTE, False, [("12:00", Fate.RUN, 3)]),
        (CatchUp.SKIP, NOON - 4 * MINUTE, False, [("12:00", Fate.RUN, 3)]),
        (CatchUp.ALL, NOON - 3 * MINUTE, False, [(f"{at}", Fate.RUN, 0) for at in ("11:58", "11:59", "12:00")]),
        (CatchUp.ONE, NOON, False, []),
        (CatchUp.ONE, NOON + timedelta(hours=1), False, []),
    ],
)
def test_what_becomes_of_ticks_that_have_come(
    catch_up: CatchUp, since: datetime, is_busy: bool, expected: list[tuple[str, Fate, int]]
) -> None:
    now = NOON + timedelta(seconds=1) if since < NOON else NOON
    decision = decide(Schedule("f", "* * * * *", "UTC", catch_up), since, now, is_busy=is_busy, is_paused=False)
    assert [(f"{tick.at:%H:%M}", tick.fate, tick.left_out) for tick in decision.ticks] == expected
    assert decision.until == max(since, now), "never back"


def test_a_tick_that_nobody_was_there_for_is_caught_up_with_as_the_schedule_says() -> None:
    since, now = NOON - timedelta(days=3), NOON
    daily = {kind: Schedule("f", "0 3 * * *", "UTC", kind) for kind in CatchUp}
    decided = {
        kind: decide(schedule, since, now, is_busy=False, is_paused=False).ticks for kind, schedule in daily.items()
    }
    assert [(tick.at.day, tick.fate, tick.left_out) for tick in decided[CatchUp.ONE]] == [(26, Fate.RUN, 2)]
    assert [(tick.at.day, tick.fate, tick.left_out) for tick in decided[CatchUp.SKIP]] == [(26, Fate.MISSED, 2)]
    assert [(tick.at.day, tick.fate) for tick in decided[CatchUp.ALL]] == [(day, Fate.RUN) for day in (24, 25, 26)]


def test_nothing_is_owed_for_a_pause() -> None:
    schedule = Schedule("f", "* * * * *", "UTC", CatchUp.ALL)
    assert decide(schedule, NOON - timedelta(days=9), NOON, is_busy=False, is_paused=True).ticks == ()
    assert decide(schedule, NOON - timedelta(days=9), NOON, is_busy=False, is_paused=True).until == NOON


def test_years_without_a_server_are_no_reason_to_count_for_ever() -> None:
    minutely = Schedule("f", "* * * * *", "UTC")
    (tick,) = decide(minutely, NOON - timedelta(days=4000), NOON, is_busy=False, is_paused=False).ticks
    assert tick.at == NOON and tick.left_out >= 500
    yearly = Schedule("f", "0 0 29 2 *", "UTC")
    assert find_next(yearly, NOON) == datetime(2028, 2, 29, tzinfo=UTC)


@pytest.mark.parametrize(
    ("expression", "zone"),
    [
        ("61 * * * *", "UTC"), ("* * *", "UTC"), ("0 0 30 2 *", "UTC"), ("", "UTC"), ("x x x x x", "UTC"),
        ("*/5 * * * * *", "UTC"), ("0 3 * * *", "Europe/Atlantis"), ("0 3 * * *", "../../etc/passwd"),
    ],
)  # fmt: skip
def test_a_schedule_that_means_no_time_is_refused(expression: str, zone: str) -> None:
    with pytest.raises(BadScheduleError):
        check_schedule(expression, zone)


def test_entries_of_the_file_stand_for_the_decorators_schedule() -> None:
    entry = Schedule("a", "0 1 * * *", "Asia/Tokyo", CatchUp.SKIP)
    assert choose_schedules([("a", "0 2 * * *"), ("b", "0  3 * * *")], [entry, entry], "Europe/Berlin") == (
        entry,
        Schedule("b", "0 3 * * *", "Europe/Berlin"),
    )
