"""Windows of time as people type them."""

from datetime import datetime, timedelta, timezone

import pytest

from flux.cli import moments
from flux.cli.failures import UsageError
from flux.cli.window import window_terms
from flux.filter import FilterError

NOW = datetime(2026, 11, 26, 14, 3, tzinfo=timezone(timedelta(hours=1)))


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "local_now", lambda: NOW)


@pytest.mark.parametrize(
    ("window", "terms"),
    [
        ("13:00..13:05", "since:2026-11-26T12:00:00Z until:2026-11-26T12:05:00Z"),
        # It goes on: its end is of today, too, and not the last time that it was 14:05.
        ("14:00..14:05", "since:2026-11-26T13:00:00Z until:2026-11-26T13:05:00Z"),
        ("23:50..00:10", "since:2026-11-25T22:50:00Z until:2026-11-25T23:10:00Z"),
        ("2026-11-01..2026-11-02", "since:2026-10-31T23:00:00Z until:2026-11-01T23:00:00Z"),
        ("2026-11-01T00:00:00Z..2026-11-01T00:00:00.5Z",
         "since:2026-11-01T00:00:00Z until:2026-11-01T00:00:00.500000Z"),
        ("last:15m", "since:2026-11-26T12:48:00Z"),
    ],
)  # fmt: skip
def test_a_window_is_two_times_of_which_the_second_comes_after_the_first(window: str, terms: str) -> None:
    assert window_terms(window, "flux incident replay") == terms


@pytest.mark.parametrize(
    "window", ["", "14:00", "..", "14:00..", "..14:00", "2026-11-02..2026-11-01", "last:15m status:500", "now..14:00",
               "14:00 status:500..14:05"],
)  # fmt: skip
def test_what_is_no_window_is_refused(window: str) -> None:
    with pytest.raises((UsageError, FilterError)):
        window_terms(window, "flux incident replay")
