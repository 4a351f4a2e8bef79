"""Which function answers which request."""

import json

import pytest

from flux.message import RawPath
from flux.routes import (
    Match,
    MethodNotAllowed,
    NotFound,
    RouteConflictError,
    RoutePatternError,
    RouteTable,
    answer_unmatched,
)


def table(*patterns: str) -> RouteTable[str]:
    routes: RouteTable[str] = RouteTable()
    for pattern in patterns:
        routes.add(pattern, pattern)
    return routes


def match(routes: RouteTable[str], request: str) -> object:
    method, path = request.split(" ")
    found = routes.match(method, RawPath(path))
    return (found.pattern, found.params) if isinstance(found, Match) else found


ROUTES = table(
    "GET /",
    "GET /orders",
    "POST /orders",
    "GET /orders/",
    "GET /orders/{id}",
    "DELETE /orders/{id}",
    "GET /orders/new",
    "GET /orders/{id}/items/{item}",
    "GET /orders/new/items/all",
    "GET /files/{path...}",
    "GET /files/index",
    "PUT /files/{path...}",
    "POST /a%20b/{x}",
    "OPTIONS /cors",
    "HEAD /cors",
    "GET /cors",
)


@pytest.mark.parametrize(
    ("request_", "pattern", "params"),
    [
        ("GET /", "GET /", {}),
        ("GET /orders", "GET /orders", {}),
        ("GET /orders/", "GET /orders/", {}),
        ("GET /orders/7", "GET /orders/{id}", {"id": "7"}),
        ("GET /orders/new", "GET /orders/new", {}),
        ("DELETE /orders/new", "DELETE /orders/{id}", {"id": "new"}),
        ("GET /orders/a%2Fb", "GET /orders/{id}", {"id": "a/b"}),
        ("GET /orders/a%252Fb", "GET /orders/{id}", {"id": "a%2Fb"}),
        ("GET /orders/%C3%A4+b", "GET /orders/{id}", {"id": "ä+b"}),
        ("GET /orders/1/items/2", "GET /orders/{id}/items/{item}", {"id": "1", "item": "2"}),
        ("GET /orders/new/items/2", "GET /orders/{id}/items/{item}", {"id": "new", "item": "2"}),
        ("GET /orders/new/items/all", "GET /orders/new/items/all", {}),
        ("GET /orders/%6eew", "GET /orders/new", {}),
        ("GET /files/a/b/c", "GET /files/{path...}", {"path": "a/b/c"}),
        ("GET /files/a/", "GET /files/{path...}", {"path": "a/"}),
        ("GET /files/a//b", "GET /files/{path...}", {"path": "a//b"}),
        ("GET /files/index", "GET /files/index", {}),
        ("GET /files/index/x", "GET /files/{path...}", {"path": "index/x"}),
        ("PUT /files/index", "PUT /files/{path...}", {"path": "index"}),
        ("POST /a%20b/1", "POST /a%20b/{x}", {"x": "1"}),
        ("HEAD /orders/7", "GET /orders/{id}", {"id": "7"}),
        ("HEAD /cors", "HEAD /cors", {}),
        ("OPTIONS /cors", "OPTIONS /cors", {}),
    ],
)
def test_a_request_finds_its_route(request_: str, pattern: str, params: dict[str, str]) -> None:
    assert match(ROUTES, request_) == (pattern, params)


@pytest.mark.parametrize(
    ("request_", "allow"),
    [
        ("PATCH /orders", ("GET", "HEAD", "OPTIONS", "POST")),
        ("OPTIONS /orders", ("GET", "HEAD", "OPTIONS", "POST")),
        ("POST /orders/7", ("DELETE", "GET", "HEAD", "OPTIONS")),
        ("POST /orders/new", ("DELETE", "GET", "HEAD", "OPTIONS")),
        ("GET /a%20b/1", ("OPTIONS", "POST")),
        ("get /orders", ("GET", "HEAD", "OPTIONS", "POST")),
    ],
)
def test_another_method_is_told_which_are_allowed(request_: str, allow: tuple[str, ...]) -> None:
    assert match(ROUTES, request_) == MethodNotAllowed(allow)


@pytest.mark.parametrize(
    "request_",
    [
        "GET /nothing",
        "GET /orders/7/",
        "GET /orders//items/2",
        "GET /files/",
        "GET /files",
        "GET //",
        "OPTIONS *",
    ],
)
def test_what_nobody_answers_is_not_found(request_: str) -> None:
    assert match(ROUTES, request_) == NotFound()


def test_a_miss_is_answered_with_what_is_true() -> None:
    response = answer_unmatched(NotFound(), "GET", "/a")
    assert isinstance(response.body, bytes)
    assert json.loads(response.body)["code"] == "NOT_FOUND"
    response = answer_unmatched(MethodNotAllowed(("GET", "HEAD")), "POST", "/a")
    assert (response.status, response.headers[-1]) == (405, ("allow", "GET, HEAD"))
    response = answer_unmatched(MethodNotAllowed(("GET", "HEAD")), "OPTIONS", "/a")
    assert (response.status, response.headers, response.body) == (204, (("allow", "GET, HEAD"),), b"")


@pytest.mark.parametrize(
    "pattern",
    [
        "", "/a", "GET", "GET ", "get /a", "GET  /a", "GET a", "GET\t/a", "CONNECT /a", "GET /a b", "GET /ä",
        "GET /a?b",
        "GET /a#b", "GET /%zz", "GET /%", "GET /%ff", "GET /{a}/{a}", "GET /{a...}/b", "GET /x{a}", "GET /{a}x",
        "GET /{}",
        "GET /{1a}", "GET /{a-b}", "GET /{a", "GET /a}", "GET /{a..}", "GET /..", "GET /a/./b",
        "GET /%2e%2e", "GET /\x00",
    ],
)  # fmt: skip
def test_a_pattern_that_cannot_be_read_is_named_with_what_is_wrong(pattern: str) -> None:
    with pytest.raises(RoutePatternError) as caught:
        table(pattern)
    assert f'route "{pattern}" cannot be read: ' in caught.value.message


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("GET /a", "GET /a"),
        ("GET /{a}", "GET /{b}"),
        ("GET /{a...}", "GET /{b...}"),
        ("GET /a%20b", "GET /a%20b"),
        ("GET /a", "GET /%61"),
        ("GET /x/{a}/y", "GET /x/{b}/y"),
    ],
)
def test_two_routes_for_the_same_requests_are_refused(first: str, second: str) -> None:
    with pytest.raises(RouteConflictError) as caught:
        table(first, second)
    assert first in str(caught.value)
    assert second in str(caught.value)
