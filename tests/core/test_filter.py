"""The one filter grammar."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from flux.filter import (
    FILTER_CHARACTERS_MAX,
    KEYS,
    OUTCOMES,
    TRIGGERS,
    Filter,
    FilterError,
    MomentError,
    Term,
    error_text,
    matches,
    parse,
    parse_moment,
)

BERLIN = timezone(timedelta(hours=1))
NOW = datetime(2026, 11, 24, 14, 30, 15, tzinfo=BERLIN)
SUMMARY = {
    "status": 500, "method": "POST", "path": "/orders/7/items", "function": "create_user",
    "started_at": "2026-11-24T13:00:00.5Z", "error": {"type": "KeyError", "message": "'Plan' [1]"}, "sha": "3f9c1e2aa",
    "deployment": "5d41402abc4b",     "trigger": "http", "outcome": "raised", "name": "qk9d81mt",
}  # fmt: skip
BARE = SUMMARY | {
    "status": None,
    "method": None,
    "path": None,
    "function": None,
    "error": None,
    "sha": None,
    "deployment": None,
    "name": None,
}


@pytest.mark.parametrize(
    "text",
    [
        "", "   ", "status:500", "status:=500", "status:>=500", "status:>499", "status:<=500", "status:<501",
        "status:5xx",
        "-status:4xx", "-status:404", "route:/orders/{id}/items", "route:/orders/*", "route:*", "route:*/items",
        "route:/orders/{a}/{b}", 'route:"POST /orders/*"', 'route:"post  /orders/*"', '-route:"GET /orders/*"',
        "-route:/orders",
        "function:create_user", "function:create_*", "function:*user", "-function:create", "function:*", "since:2h",
        "since:2026-11-24", "since:2026-11-24T13:00:00Z", "since:14:00", "until:14:00:01", "until:2026-11-25",
        "-since:20m",
        "until:14:30", "error:KeyError", "error:keyerror", "error:plan", '''error:"KeyError: 'plan'"''', "error:[1]",
        "-error:ValueError", "sha:3f9c", "sha:3F9C", "-sha:abc",
        "deploy:5d41402abc4b", "deploy:5D4", "-deploy:41402", "deploy:5d sha:3f",
        "trigger:http", "-trigger:cron", "outcome:raised",
        "-outcome:exited", "name:qk", "name:QK9D81MT", "-name:zz", "status:5xx route:/orders/* -trigger:cron since:3h",
        "\u2003status:500\n",
    ],
)  # fmt: skip
def test_a_filter_that_means_this_execution_matches_it(text: str) -> None:
    assert matches(parse(text, NOW), SUMMARY)


@pytest.mark.parametrize(
    "text",
    [
        "status:404", "status:4xx", "-status:500", "status:>500", "status:<500", "route:/orders", "route:/orders/{id}",
        "route:/Orders/*", 'route:"GET /orders/*"', "-route:*", "function:create", "function:Create_user", "since:20m",
        "since:2026-11-25", "until:14:00", "until:2026-11-24T13:00:00Z", "-until:2026-11-25",
        "error:ValueError", "error:.*",
        "-error:plan", "sha:f9c", "deploy:3f9c", "-deploy:5d",
        "trigger:cron", "outcome:killed", "name:k9d", "name:qz", "status:500 status:404",
        "status:500 -status:500",
    ],
)  # fmt: skip
def test_a_filter_that_means_others_does_not(text: str) -> None:
    assert not matches(parse(text, NOW), SUMMARY)


@pytest.mark.parametrize(
    "key", ["status:>=100", "status:1xx", "route:*", "function:*", "sha:0", "deploy:0", "name:q", "error:x"]
)
def test_a_field_that_is_null_never_holds_so_its_negation_does(key: str) -> None:
    assert not matches(parse(key, NOW), BARE)
    assert matches(parse(f"-{key}", NOW), BARE)


def test_a_summary_without_the_field_is_an_error_and_no_answer() -> None:
    with pytest.raises(KeyError):
        matches(parse("status:500", NOW), {})


@pytest.mark.parametrize(
    ("text", "position", "says"),
    [
        ("500", 1, "has no key before it"),
        ("status", 1, "has no key before it"),
        (":500", 1, "a key is missing"),
        ('"x"', 1, "a key is missing"),
        ("-", 2, "a key is missing"),
        ("--status:500", 2, '"-status" is not a key'),
        ("statsu:500", 1, "did you mean status?"),
        ("Status:500", 1, '"Status" is not a key'),
        ("a:b status:500", 1, '"a" is not a key'),
        ("status:", 8, "status: has no value"),
        ("status: 500", 8, "status: has no value"),
        ('status:""', 8, "status: has no value"),
        ("status:600", 8, '"600" is not a value of status'),
        ("status:5x", 8, "is not a value of status"),
        ("status:>=5xx", 8, "is not a value of status"),
        ("status:=>500", 8, "is not a value of status"),
        ("status:\u0665\u0660\u0660", 8, "is not a value of status"),
        ("status:500 route:orders", 18, '"orders" is not a value of route'),
        ("route:GET", 7, "is not a value of route"),
        ("since:yesterday", 7, '"yesterday" is not a time'),
        ("until:25:00", 7, "is not a time"),
        ("since:9999999999d", 7, "is not a time"),
        ("since:999999999w", 7, "is not a time"),
        ("since:0001-01-01T00:00:00+01:00", 7, "is not a time"),
        ("sha:xyz", 5, "is not a value of sha"),
        ("deploy:nogit-1", 8, "is not a value of deploy"),
        ("deployment:5d", 1, "did you mean deploy?"),
        ("trigger:ftp", 9, "http, queue, cron, invoke, replay"),
        ("trigger:HTTP", 9, "is not a value of trigger"),
        ("outcome:failed", 9, "returned, raised, killed, exited, interrupted"),
        ("name:ilou", 6, "is not a value of name"),
        ("name:qk9d81mtx", 6, "is not a value of name"),
        ('error:"open', 7, "this quote is never closed"),
        ('error:"a"b', 10, "text right after a closing quote"),
        ('error:a"b"', 8, "a quote in the middle"),
        ('error:"a\\"', 7, "this quote is never closed"),
    ],
)
def test_a_typo_is_an_error_that_names_the_character(text: str, position: int, says: str) -> None:
    with pytest.raises(FilterError) as caught:
        parse(text, NOW)
    assert caught.value.message.startswith(f"bad filter at character {position}: ")
    assert says in str(caught.value)
    assert caught.value.remedy


def test_the_caret_stands_under_the_character() -> None:
    with pytest.raises(FilterError) as caught:
        parse("status:500 statsu:1", NOW)
    _, shown, caret = caught.value.message.split("\n")
    assert shown[caret.index("^")] == "s"
    assert caret.index("^") == shown.index("statsu")


def test_what_a_terminal_would_obey_is_not_drawn() -> None:
    with pytest.raises(FilterError) as caught:
        parse("status:500 x:\x1b[2J", NOW)
    assert "\n" not in caught.value.message


def test_a_filter_has_an_end() -> None:
    parse("status:500 " * (FILTER_CHARACTERS_MAX // 11), NOW)
    with pytest.raises(FilterError, match="4,096 are allowed"):
        parse(" " * (FILTER_CHARACTERS_MAX + 1), NOW)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30s", NOW - timedelta(seconds=30)),
        ("15m", NOW - timedelta(minutes=15)),
        ("2h", NOW - timedelta(hours=2)),
        ("1d", NOW - timedelta(days=1)),
        ("1w", NOW - timedelta(days=7)),
        ("0s", NOW),
        ("14:00", NOW.replace(minute=0, second=0)),
        ("14:30:15", NOW),
        ("14:31", NOW.replace(day=23, minute=31, second=0)),
        ("9:05", NOW.replace(hour=9, minute=5, second=0)),
        ("2026-11-24", NOW.replace(hour=0, minute=0, second=0)),
        ("2026-11-24T14:00", NOW.replace(minute=0, second=0)),
        ("2026-11-24 14:00:15", NOW.replace(minute=0)),
        ("2026-11-24T13:00:00Z", NOW.replace(minute=0, second=0)),
        ("2026-11-24t13:00:00z", NOW.replace(minute=0, second=0)),
        ("2026-11-24T13:00:00.25+00:00", NOW.replace(minute=0, second=0, microsecond=250_000)),
    ],
)
def test_a_time_is_ago_or_today_or_written_out(text: str, expected: datetime) -> None:
    assert parse_moment(text, NOW) == expected


@pytest.mark.parametrize(
    "text",
    ["", "now", "1", "-1h", "1.5h", "1H", "24:00", "14:60", "14", "20261124", "2026-W48-2", "2026-13-01",
    "2026-02-29", "1h30m",
     "2026-11-24T25:00", "2026-11-24T14:00Europe", "\u0661h", "0000-01-01", "9999-12-31T23:59:59-01:00"],
)  # fmt: skip
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(MomentError) as caught:
        parse_moment(text, NOW)
    assert caught.value.remedy


def test_now_needs_a_time_zone() -> None:
    with pytest.raises(ValueError, match="time zone"):
        parse_moment("1h", datetime(2026, 1, 1))


def test_the_canonical_text_has_absolute_times() -> None:
    found = parse("status:>=500  since:1h -trigger:cron", NOW)
    assert str(found) == "status:>=500 since:2026-11-24T12:30:15Z -trigger:cron"
    assert parse(str(found), NOW.replace(year=2030).astimezone(UTC)) == found


@pytest.mark.parametrize("key", KEYS)
def test_every_key_can_be_asked_for(key: str) -> None:
    value = {"status": "500", "route": "/", "since": "1h", "until": "1h", "sha": "3f", "deploy": "5d",
             "trigger": TRIGGERS[0],
             "outcome": OUTCOMES[0], "name": "qk"}.get(key, "x")  # fmt: skip
    (term,) = parse(f"{key}:{value}", NOW).terms
    assert term.key == key


def test_a_pattern_takes_only_what_it_says() -> None:
    assert Term("route", "like", "/a.b/{x}").pattern == r"^\/a\.b\/[^/]+$"
    assert not matches(parse("route:/a.b", NOW), SUMMARY | {"path": "/axb"})
    assert not matches(parse("route:/a/{x}", NOW), SUMMARY | {"path": "/a/b/c"})
    assert not matches(parse("route:/a", NOW), SUMMARY | {"path": "/a\n"})
    assert matches(parse("route:/a*", NOW), SUMMARY | {"path": "/a\nb"})


def test_the_text_of_an_error_is_its_type_and_message() -> None:
    assert error_text(None) == ""
    assert error_text({"type": "A", "message": "b", "more": 1}) == "A: b"
    assert error_text("as it is") == "as it is"
    assert Filter() == parse("", NOW)
