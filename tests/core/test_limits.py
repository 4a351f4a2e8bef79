"""Reading and writing durations and sizes."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.limits import (
    Limits,
    UnreadableQuantityError,
    format_duration,
    format_size,
    parse_duration_s,
    parse_size_bytes,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30.0),
        ("500ms", 0.5),
        ("1.5m", 90.0),
        ("2h", 7200.0),
        ("1d", 86400.0),
        ("250us", 0.00025),
        (" 10 s ", 10.0),
    ],
)
def test_a_duration_is_a_number_and_a_unit(text: str, seconds: float) -> None:
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("256MiB", 268435456), ("8MiB", 8388608), ("64KiB", 65536), ("1GiB", 1073741824), ("512B", 512),
     ("1MB", 1000000), ("3kB", 3000), ("0.5KiB", 512), ("2 GB", 2000000000)],
)  # fmt: skip
def test_a_size_is_a_number_and_a_unit(text: str, size_bytes: int) -> None:
    assert parse_size_bytes(text) == size_bytes


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("30", "is not a duration"),
        ("s", "is not a duration"),
        ("-5s", "is not a duration"),
        ("1e3s", "is not a duration"),
        ("nans", "is not a duration"),
        ("٣s", "is not a duration"),
        ("30 seconds", "is not a duration"),
        ("9" * 400 + "s", "is not a duration"),
        ("10MS", 'did you mean "10ms"?'),
        ("3min", 'no unit is called "min"'),
        ("0s", "no time at all"),
    ],
)
def test_a_duration_that_could_be_read_two_ways_is_refused(text: str, said: str) -> None:
    with pytest.raises(UnreadableQuantityError) as caught:
        parse_duration_s(text)
    assert said in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("text", "said"),
    [("256", "is not a size"), ("256mib", 'did you mean "256MiB"?'), ("1TB", 'no unit is called "TB"'),
     ("0MiB", "no space at all"), ("0.1B", "no space at all"), ("", "is not a size")],
)  # fmt: skip
def test_a_size_that_could_be_read_two_ways_is_refused(text: str, said: str) -> None:
    with pytest.raises(UnreadableQuantityError) as caught:
        parse_size_bytes(text)
    assert said in str(caught.value)
    assert caught.value.remedy


@given(st.integers(min_value=1, max_value=10**9))
def test_what_is_written_is_read_back(milliseconds: int) -> None:
    assert parse_duration_s(format_duration(milliseconds / 1000)) == milliseconds / 1000


@given(st.integers(min_value=1, max_value=2**40))
def test_a_size_that_is_written_is_read_back(size_bytes: int) -> None:
    assert parse_size_bytes(format_size(size_bytes)) == size_bytes


def test_quantities_are_written_in_the_largest_unit_that_needs_no_fraction() -> None:
    assert [format_duration(value) for value in (30.0, 0.25, 90.0, 3600.0, 1.5)] == [
        "30s", "250ms", "90s", "1h", "1500ms",
    ]  # fmt: skip
    assert [format_size(value) for value in (268435456, 1024, 1000, 0)] == ["256MiB", "1KiB", "1000B", "0B"]


def test_the_default_limits_are_the_documented_ones() -> None:
    assert attrs.asdict(Limits()) == {
        "timeout_s": 30.0,
        "memory_bytes_max": 268435456,
        "host_calls_max": 1000,
        "body_bytes_max": 8388608,
        "response_bytes_max": 8388608,
        "log_bytes_max": 1048576,
        "stream_bytes_max": 0,
    }
