"""Dates, times and intervals in Postgres's binary form: laws, and the edges of what Python can hold."""

from datetime import UTC, date, datetime, time, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.store import column_values as values
from flux.store.column_values import Interval

DAYS = st.one_of(st.integers(-2_451_545, 2_145_031_948), st.sampled_from([2**31 - 1, -(2**31)]))
"""4713 BC to 5874897, which is all that a Postgres date can be, and both infinities."""

MICROSECONDS = st.one_of(
    st.integers(-211_813_488_000_000_000, 9_223_371_331_199_999_999), st.sampled_from([2**63 - 1, -(2**63)])
)


@given(DAYS)
def test_each_date_that_postgres_has_comes_back(days: int) -> None:
    assert values.encode_date(values.decode_date((days,))) == (days,)


@given(MICROSECONDS)
def test_each_timestamp_that_postgres_has_comes_back(microseconds: int) -> None:
    naive = values.decode_timestamp((microseconds,))
    aware = values.decode_timestamptz((microseconds,))
    assert values.encode_timestamp(naive) == values.encode_timestamptz(aware) == (microseconds,)
    if isinstance(aware, datetime):
        assert aware.tzinfo is UTC
        assert aware.replace(tzinfo=None) == naive
    else:
        assert isinstance(naive, str)
        in_zone = naive.removesuffix(" BC") + "+00" + " BC" * naive.endswith(" BC")
        assert aware == (naive if "infinity" in naive else in_zone)


@given(st.dates())
def test_a_python_date_comes_back(day: date) -> None:
    assert values.decode_date(values.encode_date(day)) == day
    assert values.encode_date(day.isoformat()) == values.encode_date(day)


@given(st.datetimes(timezones=st.timezones()))
def test_an_aware_datetime_comes_back_as_the_same_instant(moment: datetime) -> None:
    try:
        in_utc = moment.astimezone(UTC)
    except OverflowError:
        return  # the first and last hours of Python's calendar lie outside of it in UTC
    assert values.decode_timestamptz(values.encode_timestamptz(moment)) == in_utc


@given(st.integers(0, 86_400_000_000))
def test_each_time_of_day_comes_back(microseconds: int) -> None:
    assert values.encode_time(values.decode_time((microseconds,))) == (microseconds,)


@given(st.integers(-(2**31), 2**31 - 1), st.integers(-(2**31), 2**31 - 1), st.integers(-(2**63), 2**63 - 1))
def test_each_interval_with_months_comes_back_part_by_part(months: int, days: int, microseconds: int) -> None:
    read = values.decode_interval((months, days, microseconds))
    if isinstance(read, Interval):
        assert values.encode_interval(read) == (months, days, microseconds)
    else:
        assert months == 0
        assert read == timedelta(days, 0, microseconds)


@given(st.timedeltas())
def test_a_timedelta_comes_back_and_keeps_one_sign(length: timedelta) -> None:
    months, days, microseconds = values.encode_interval(length)
    assert values.decode_interval((months, days, microseconds)) == length
    assert days * microseconds >= 0


@pytest.mark.parametrize(
    ("days", "text"),
    [(2**31 - 1, "infinity"), (-(2**31), "-infinity"), (-730_120, "0001-12-31 BC"), (2_921_940, "10000-01-01"),
     (-2_451_507, "4713-01-01 BC"), (2_145_031_948, "5874897-12-31")],
)  # fmt: skip
def test_dates_beyond_python_read_as_postgres_writes_them(days: int, text: str) -> None:
    assert values.decode_date((days,)) == text
    assert values.encode_date(text) == (days,)


@pytest.mark.parametrize(
    "text", ["", "now", "today", "2026-1-1", "2026-02-30", "2026-01-01 00:00:00", "٢٠٢٦-01-01", "epoch"]
)
def test_text_that_is_no_date_of_postgres_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        values.encode_date(text)


@pytest.mark.parametrize(
    ("encode", "value"),
    [
        (values.encode_date, 5),
        (values.encode_timestamp, datetime(2026, 1, 1, tzinfo=UTC)),
        (values.encode_timestamptz, datetime(2026, 1, 1)),
        (values.encode_timestamptz, date(2026, 1, 1)),
        (values.encode_time, 5),
        (values.encode_interval, 5),
    ],
)
def test_what_would_have_to_be_guessed_is_refused(encode: object, value: object) -> None:
    with pytest.raises(TypeError):
        encode(value)  # type: ignore[operator]


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20,
))  # fmt: skip
def test_json_comes_back(value: object) -> None:
    try:
        wire = values.encode_json(value)
    except UnicodeEncodeError:
        return  # a lone surrogate, which is no text
    assert values.decode_json(wire) == value
    assert values.decode_jsonb(values.encode_jsonb(value)) == value


def test_json_of_another_version_or_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="version 2"):
        values.decode_jsonb(b"\x02{}")
    with pytest.raises(ValueError, match="not JSON compliant"):
        values.encode_json(float("nan"))


def test_midnight_at_the_end_of_the_day_is_text() -> None:
    assert values.decode_time((86_400_000_000,)) == "24:00:00"
    assert values.encode_time("24:00:00") == (86_400_000_000,)
    assert values.encode_time(time(23, 59, 59, 999_999)) == (86_399_999_999,)
