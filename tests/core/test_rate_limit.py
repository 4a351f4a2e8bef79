"""How often somebody may ask."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.rate_limit import Buckets, RateLimit, group_address, parse_rate, retry_after

TEN_A_MINUTE = RateLimit(10, 60.0)


def test_a_bucket_gives_its_burst_at_once_and_then_its_rate() -> None:
    buckets = Buckets()
    assert [buckets.take(TEN_A_MINUTE, "a", 0.0) for _ in range(10)] == [0.0] * 10
    assert buckets.take(TEN_A_MINUTE, "a", 0.0) == pytest.approx(6.0)
    assert buckets.take(TEN_A_MINUTE, "b", 0.0) == 0.0, "another client has its own"
    assert buckets.take(TEN_A_MINUTE, "a", 5.9) > 0
    assert buckets.take(TEN_A_MINUTE, "a", 6.01) == 0.0
    assert buckets.take(TEN_A_MINUTE, "a", 6.01) > 0


@given(
    st.integers(1, 20), st.sampled_from([1.0, 60.0]), st.integers(1, 20),
    st.lists(st.floats(0, 30, allow_nan=False), max_size=60),
)  # fmt: skip
def test_no_client_gets_more_than_its_burst_and_its_rate(
    count: int, per_s: float, burst: int, gaps: list[float]
) -> None:
    limit, buckets, now, given_ = RateLimit(count, per_s, burst=burst), Buckets(), 0.0, 0
    for gap in gaps:
        now += gap
        wait_s = buckets.take(limit, "a", now)
        given_ += wait_s == 0.0
        if wait_s:
            later = Buckets()  # Who waits as long as it was told is answered.
            later._buckets.update(buckets._buckets)
            assert later.take(limit, "a", now + wait_s * 1.000001 + 1e-6) == 0.0
    assert given_ <= burst + now * count / per_s + 1e-6


def test_a_flood_of_addresses_takes_bounded_memory_and_does_not_fill_the_flooders_own_bucket() -> None:
    buckets = Buckets(buckets_max=100)
    for _ in range(10):
        buckets.take(TEN_A_MINUTE, "flooder", 0.0)
    for number in range(5_000):
        buckets.take(TEN_A_MINUTE, number, 0.0)
        if number % 50 == 0:  # It goes on asking.
            assert buckets.take(TEN_A_MINUTE, "flooder", 0.0) > 0
    assert len(buckets) == 100


def test_a_customer_with_a_whole_ipv6_network_is_one() -> None:
    assert group_address("2001:db8:1:2::1") == group_address("2001:db8:1:2:ffff::9") == "2001:db8:1:2::/64"
    assert group_address("2001:db8:1:3::1") != group_address("2001:db8:1:2::1")
    assert group_address("192.0.2.9") == "192.0.2.9" == group_address("::ffff:192.0.2.9")
    assert group_address("") == ""


@pytest.mark.parametrize(("text", "rate"), [("100/min", (100, 60.0)), ("5/s", (5, 1.0)), (" 1 / h ", (1, 3600.0))])
def test_a_rate_is_a_number_and_a_time(text: str, rate: tuple[int, float]) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "100", "0/min", "-1/s", "1.5/s", "100/fortnight", "100 per min", "1e9/s"])
def test_anything_else_is_no_rate(text: str) -> None:
    with pytest.raises(ValueError, match="is no rate"):
        parse_rate(text)


def test_nobody_is_told_to_come_back_too_early() -> None:
    assert [retry_after(wait_s) for wait_s in (0.001, 1.0, 1.2)] == ["1", "1", "2"]
