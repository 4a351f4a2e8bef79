"""Which pages may read answers."""

import pytest

from flux.cors import CorsRules, answer_preflight, is_preflight, make_headers, normalise_origin
from flux.message import RawPath, RequestHead

RULES = CorsRules(origins=("https://app.example.com", "https://*.shop.example", "http://localhost:5173"))


def head(method: str = "GET", *headers: tuple[str, str]) -> RequestHead:
    return RequestHead(method, "/", "/", RawPath("/"), (), headers, "1.1", "192.0.2.9:1")


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://app.example.com", True),
        ("https://APP.example.com:443", True),
        ("http://app.example.com", False),
        ("https://app.example.com:8443", False),
        ("https://app.example.com.evil.example", False),
        ("https://evilapp.example.com", False),
        ("https://a.shop.example", True),
        ("https://a.b.shop.example", True),
        ("https://shop.example", False),
        ("https://evilshop.example", False),
        ("https://.shop.example", False),
        ("https://*.shop.example", False),
        ("http://localhost:5173", True),
        ("http://localhost", False),
        ("null", False),
        ("", False),
        ("https://app.example.com/", False),
        ("https://user@app.example.com", False),
        ("https://app.example.com https://evil.example", False),
        ("https://app.exampl\u00e9.com", False),
    ],
)
def test_an_origin_is_allowed_when_it_is_named(origin: str, allowed: bool) -> None:
    asked = head("GET", ("origin", origin))
    headers = dict(make_headers(RULES, asked))
    assert headers.get("access-control-allow-origin") == (origin if allowed else None)
    assert headers["vary"] == "origin", "another site's answer must not come out of a cache"


def test_two_origins_are_none() -> None:
    named = ("origin", "https://app.example.com")
    assert dict(make_headers(RULES, head("GET", named, named))) == {"vary": "origin"}
    asked = head("OPTIONS", named, ("origin", "https://evil.example"), ("access-control-request-method", "GET"))
    assert answer_preflight(RULES, asked, ("GET",)).status == 403


def test_a_question_is_answered_with_what_there_is_and_never_with_what_was_asked() -> None:
    asked = head(
        "OPTIONS", ("origin", "https://app.example.com"), ("access-control-request-method", "EVIL"),
        ("access-control-request-headers", "x-evil"),
    )  # fmt: skip
    assert is_preflight(asked)
    answer = answer_preflight(RULES, asked, ("GET", "POST"))
    assert answer.status == 204
    headers = dict(answer.headers)
    assert headers["access-control-allow-methods"] == "GET, POST"
    assert headers["access-control-allow-headers"] == "content-type"
    assert headers["access-control-max-age"] == "600"
    assert "evil" not in repr(answer).lower()


def test_methods_can_be_narrowed_and_not_widened() -> None:
    rules = CorsRules(origins=("*",), methods=("GET", "DELETE"))
    asked = head("OPTIONS", ("origin", "https://a.example"), ("access-control-request-method", "GET"))
    assert dict(answer_preflight(rules, asked, ("GET", "POST")).headers)["access-control-allow-methods"] == "GET"


def test_for_all_is_said_as_for_all_and_can_be_cached() -> None:
    assert dict(make_headers(CorsRules(origins=("*",)), head("GET", ("origin", "https://x.example")))) == {
        "access-control-allow-origin": "*",
        "access-control-expose-headers": "x-request-id, flux-id, retry-after",
    }


def test_credentials_are_said_to_those_who_are_named_only() -> None:
    rules = CorsRules(origins=("https://app.example.com",), credentials=True, expose=("x-total",))
    named = dict(make_headers(rules, head("GET", ("origin", "https://app.example.com"))))
    assert named["access-control-allow-credentials"] == "true"
    assert named["access-control-expose-headers"].endswith(", x-total")
    evil = dict(make_headers(rules, head("GET", ("origin", "https://evil.example"))))
    assert "access-control-allow-credentials" not in evil


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("https://Shop.example:443", "https://shop.example"),
        ("http://shop.example:8080", "http://shop.example:8080"),
        ("https://*.shop.example", "https://*.shop.example"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("https://*", None),
        ("https://a.*.example", None),
        ("ftp://shop.example", None),
        ("shop.example", None),
        ("https://shop.example/path", None),
        ("https://shop..example", None),
    ],
)
def test_an_origin_has_one_form(text: str, normal: str | None) -> None:
    assert normalise_origin(text) == normal
