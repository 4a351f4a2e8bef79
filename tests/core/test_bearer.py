"""Where a token stands in a request, and what may be done with it."""

import pytest

from flux.bearer import TOKEN_BYTES_MAX, TokenRefused, find_bearer, list_scopes, read_token_header
from flux.message import RawPath, RequestHead


def head(*headers: tuple[str, str]) -> RequestHead:
    return RequestHead("GET", "/", "/", RawPath("/"), (("access_token", "q"),), headers, "1.1", "192.0.2.9:1")


@pytest.mark.parametrize(
    ("value", "token"),
    [
        ("Bearer a.b.c", "a.b.c"),
        ("bEARER   a.b.c ", "a.b.c"),
        ("Bearer", None),
        ("Bearer ", None),
        ("Basic YTpi", None),
        ("a.b.c", None),
        ("Bearera.b.c", None),
    ],
)
def test_a_token_stands_behind_its_scheme(value: str, token: str | None) -> None:
    assert find_bearer(head(("authorization", value))) == token


def test_a_token_elsewhere_is_none() -> None:
    """In a URL, a cookie or another field it would stand in logs, and come with requests that its owner never made."""
    elsewhere = [("cookie", "token=a.b.c"), ("x-api-key", "a.b.c"), ("proxy-authorization", "Bearer a.b.c")]
    assert find_bearer(head(*elsewhere)) is None


@pytest.mark.parametrize(
    "headers",
    [
        [("authorization", "Bearer a.b.c"), ("authorization", "Bearer a.b.c")],
        [("authorization", "Basic YTpi"), ("authorization", "Bearer a.b.c")],
        [("authorization", ""), ("authorization", "Bearer a.b.c")],
        [("authorization", "Bearer " + "a" * (TOKEN_BYTES_MAX + 1))],
    ],
)
def test_what_could_be_read_twice_or_is_too_long_is_refused(headers: list[tuple[str, str]]) -> None:
    with pytest.raises(TokenRefused):
        find_bearer(head(*headers))


def test_a_token_that_is_refused_is_not_told() -> None:
    for token in ("secret.secret.secret", "secret", "c2VjcmV0.c2VjcmV0.c2VjcmV0", "..", "\xff.\xff.\xff"):
        with pytest.raises(TokenRefused) as refused:
            read_token_header(token, ("RS256",))
        assert "secret" not in str(refused.value)
        assert str(refused.value).isascii() and '"' not in str(refused.value), "it stands in a header of the answer"


@pytest.mark.parametrize(
    ("claims", "scopes"),
    [
        ({"scope": "a b  c"}, ("a", "b", "c")),
        ({"scp": ["a", 7, "b"]}, ("a", "b")),
        ({"scp": "a b"}, ("a", "b")),
        ({"scope": "a", "scp": ["root"]}, ("a",)),
        ({"scope": None, "scp": ["root"]}, ()),
        ({"scope": {"root": True}}, ()),
        ({}, ()),
    ],
)
def test_scopes_are_words_of_one_claim(claims: dict[str, object], scopes: tuple[str, ...]) -> None:
    assert list_scopes(claims) == scopes
