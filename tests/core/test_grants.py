"""Which hosts a grant covers: tables, with the answers written by hand."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.grants import Grants, InvalidGrantError, InvalidHostError, Origin, normalise_host, parse_grant


def origin(text: str) -> Origin:
    """Read ``scheme://host:port``, the host as it is: an oracle must not use the code under test."""
    scheme, _, rest = text.partition("://")
    host, _, port = rest.rpartition(":")
    return Origin(scheme, host.strip("[]"), int(port))


@pytest.mark.parametrize(
    ("grant", "covered", "refused"),
    [
        (
            "api.stripe.com",
            ["https://api.stripe.com:443", "http://api.stripe.com:80"],
            ["https://api.stripe.com:80", "http://api.stripe.com:443", "https://api.stripe.com:8443",
             "https://stripe.com:443", "https://x.api.stripe.com:443", "https://api.stripe.com.evil.test:443",
             "https://evilapi.stripe.com:443"],
        ),
        (
            "*.example.com",
            ["https://a.example.com:443", "https://a.b.example.com:443"],
            ["https://example.com:443", "https://aexample.com:443", "https://a.example.com:8443"],
        ),
        ("*.example.com:8443", ["https://a.example.com:8443"], ["https://a.example.com:443"]),
        (
            "https://api.test",
            ["https://api.test:443"],
            ["http://api.test:80", "https://api.test:444", "http://api.test:443"],
        ),
        ("http://api.test:8080", ["http://api.test:8080"], ["https://api.test:8080", "http://api.test:80"]),
        ("127.0.0.1:9000", ["http://127.0.0.1:9000"], ["http://127.0.0.1:9001", "http://127.0.0.2:9000"]),
        ("[::1]:9000", ["http://[::1]:9000"], ["http://[::1]:80", "http://127.0.0.1:9000"]),
        ("API.Stripe.COM.", ["https://api.stripe.com:443"], []),
        ("bücher.test", ["https://xn--bcher-kva.test:443"], ["https://bucher.test:443"]),
        ("[0:0::0:1]:9000", ["http://[::1]:9000"], []),
    ],
)  # fmt: skip
def test_a_grant_covers_what_it_says_and_nothing_else(
    grant: str, covered: list[str], refused: list[str]
) -> None:
    grants = Grants.parse([grant])
    assert [text for text in covered if grants.find(origin(text)) is None] == []
    assert [text for text in refused if grants.find(origin(text)) is not None] == []


def test_nothing_is_granted_until_something_is() -> None:
    assert Grants().find(origin("https://example.com:443")) is None


@pytest.mark.parametrize(
    "text",
    [
        "", "*", "*.", "*.*.example.com", "a*.example.com", "example.com/", "example.com/path",
        "u@example.com", "ftp://example.com", "https://", "example.com:", "example.com:0",
        "example.com:65536", "example.com:８０", "example.com:http", "::1", "[::1", "[::1]x",
        "[fe80::1%eth0]:80", "[::g]", "127.1", "2130706433", "0x7f.0.0.1", "0177.0.0.1", "1.2.3.4.5",
        "0.0.0.0:80", "[::]:80", "224.0.0.1", "255.255.255.255", "*.127.0.0.1", " example.com",
        "exa mple.com", "a..b", "-a.com", "a-.com", ".example.com", "a" * 64 + ".com", "straße.de",
        "a\u200db.com", "exa\nmple.com", "１２７.0.0.1",
        "ex%61mple.com",
    ],
)  # fmt: skip
def test_an_allow_list_refuses_what_it_could_misread(text: str) -> None:
    with pytest.raises(InvalidGrantError) as caught:
        Grants.parse(["api.stripe.com", text])
    assert repr(text) in str(caught.value)
    assert str(caught.value).startswith("FLX414")


@pytest.mark.parametrize(
    ("grant", "asked", "address", "vouched"),
    [
        ("127.0.0.1:9000", "http://127.0.0.1:9000", "127.0.0.1", True),
        ("127.0.0.1:9000", "http://127.0.0.1:9001", "127.0.0.1", False),
        ("127.0.0.1", "http://127.0.0.1:80", "127.0.0.1", False),
        ("localhost:9000", "http://localhost:9000", "127.0.0.1", True),
        ("localhost:9000", "http://localhost:9000", "::1", True),
        ("localhost:9000", "http://localhost:9000", "10.0.0.1", False),
        ("localhost", "http://localhost:80", "127.0.0.1", False),
        ("api.test:9000", "http://api.test:9000", "127.0.0.1", False),
        ("*.test:9000", "http://api.test:9000", "127.0.0.1", False),
        ("10.0.0.5:9000", "http://db.test:9000", "10.0.0.5", True),
        ("https://10.0.0.5:9000", "http://db.test:9000", "10.0.0.5", False),
        ("[fd00::1]:9000", "http://db.test:9000", "fd00::1", True),
    ],
)
def test_a_private_address_is_reached_only_where_it_was_written_out(
    grant: str, asked: str, address: str, *, vouched: bool
) -> None:
    assert Grants.parse([grant]).vouch_for(origin(asked), ipaddress.ip_address(address)) is vouched


def test_only_a_grant_that_says_http_lets_a_redirect_leave_https() -> None:
    plain = origin("http://api.test:80")
    assert Grants.parse(["api.test"]).find_for_downgrade(plain) is None
    assert Grants.parse(["http://api.test"]).find_for_downgrade(plain) is not None


@pytest.mark.parametrize(
    ("written", "normal"),
    [("Example.COM", "example.com"), ("example.com.", "example.com"), ("[::FFFF:1.2.3.4]", "::ffff:1.2.3.4"),
     ("BÜCHER.test", "xn--bcher-kva.test"), ("ex。ample", "ex.ample"), ("_dmarc.a.test", "_dmarc.a.test"),
     ("192.0.2.1", "192.0.2.1")],
)  # fmt: skip
def test_a_host_has_one_spelling(written: str, normal: str) -> None:
    assert normalise_host(written) == normal


@given(st.text(max_size=60))
def test_a_normal_host_stays_as_it_is(text: str) -> None:
    try:
        once = normalise_host(text)
    except InvalidHostError:
        return
    assert once.isascii()
    assert once == once.lower()
    assert normalise_host(f"[{once}]" if ":" in once else once) == once


@given(st.integers(0, 2**32 - 1), st.sampled_from(["{}", "0x{:x}", "0{:o}"]))
def test_an_ipv4_address_in_one_number_is_never_a_host(number: int, form: str) -> None:
    with pytest.raises(InvalidHostError):
        normalise_host(form.format(number))


def test_a_grant_keeps_the_words_it_was_written_in() -> None:
    assert parse_grant("API.stripe.com.").text == "API.stripe.com."
