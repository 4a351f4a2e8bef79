"""The file of changes that are meant: what it may say, and what of it is refused with its line."""

import datetime

import pytest

from flux.accepted import AcceptFileError, parse_acceptances, write_entry

GOOD = """\
[[accept]]
signature = "9f2c51d0a7b3"
what = "quote: answer body.total"
reason = " prices include VAT "
until = 2026-12-31

[[accept]]
signature = "000000000000"
reason = "x"
until = 2026-01-01
"""


def test_entries_are_read_and_hold_up_to_their_last_day() -> None:
    one, other = parse_acceptances(GOOD)
    assert (one.signature, one.reason, one.what, other.what) == (
        "9f2c51d0a7b3", "prices include VAT", "quote: answer body.total", "",
    )  # fmt: skip
    assert one.holds(datetime.date(2026, 12, 31)) and not one.holds(datetime.date(2027, 1, 1))
    assert parse_acceptances("") == ()


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("[[accept]]", "[accept]", "is not TOML"),
        ('signature = "000000000000"', 'signature = "000"', "flux.accept.toml:7  the signature"),
        ('signature = "000000000000"', 'signature = "9f2c51d0a7b3"', "flux.accept.toml:7  there is another entry"),
        ('signature = "000000000000"', "signature = 1", "flux.accept.toml:7  the signature"),
        ('reason = "x"', 'reason = "  "', "flux.accept.toml:7  the entry for 000000000000 has no reason"),
        ('reason = "x"\n', "", "has no reason"),
        ('reason = "x"', f'reason = "{"x" * 501}"', "has no reason"),
        ("until = 2026-01-01", 'until = "2026-01-01"', "has no end"),
        ("until = 2026-01-01", "until = 2026-01-01T00:00:00Z", "has no end"),
        ("until = 2026-01-01", "", "has no end"),
        ("until = 2026-01-01", "until = 2026-01-01\nuntill = 2", "flux.accept.toml:7  an entry has no untill"),
        ("[[accept]]\nsignature", "[[accepted]]\nsignature", "flux.accept.toml:1  there is no accepted here"),
        ('what = "quote: answer body.total"', "what = 3", "flux.accept.toml:1  what is no text"),
    ],
)  # fmt: skip
def test_what_has_no_meaning_is_refused_with_its_line(old: str, new: str, told: str) -> None:
    assert old in GOOD
    head, found, tail = GOOD.rpartition(old) if "accept" not in old else GOOD.partition(old)
    with pytest.raises(AcceptFileError) as caught:
        parse_acceptances(head + new + tail)
    assert told in caught.value.message and found and caught.value.remedy


def test_a_list_that_is_none_is_refused() -> None:
    for text in ("accept = 3", "accept = [1]", "[accept]\nsignature = 'x'"):
        with pytest.raises(AcceptFileError):
            parse_acceptances(text)


def test_an_entry_that_is_proposed_holds_once_somebody_has_said_why() -> None:
    today = datetime.date(2026, 11, 26)
    entry = write_entry("9f2c51d0a7b3", 'order: POST "evil"\x1b[31m\n]]', today)
    with pytest.raises(AcceptFileError, match="has no reason"):
        parse_acceptances(entry)
    (read,) = parse_acceptances(entry.replace('reason = ""', 'reason = "meant"'))
    assert (read.signature, read.until) == ("9f2c51d0a7b3", datetime.date(2026, 12, 26))
    assert "\x1b" not in entry and len(entry.splitlines()) == 5
