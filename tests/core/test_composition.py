"""Which middleware stands around a function, and what is refused before anything is served."""

import attrs
import pytest

from flux.composition import (
    Chain,
    NoMiddlewareHereError,
    NotAroundError,
    RoutesMatchNothingError,
    UnknownMiddlewareError,
    check_middleware,
    is_below,
    make_chain,
)
from flux.config import Config, parse_config
from flux.deployment import Function
from flux.errors import OperatorError
from flux.hostcall import Position

NAMES = {"Python": ["log", "auth", "admin", "audit"], "JavaScript": ["log", "auth", "admin"]}


def config(text: str) -> Config:
    return parse_config(f'[project]\nname = "shop"\n{text}')


def function(
    name: str = "f", route: str | None = "GET /f", own: tuple[str, ...] | None = None, runtime: str = "python"
) -> Function:
    return Function(name, route, Position(f"functions/{name}", 7, name), runtime=runtime, middleware=own)


GLOBAL = '[http]\nmiddleware = ["log", "auth"]\n'
ADMIN = '[[routes]]\nbelow = "/admin"\nmiddleware = ["admin", "log"]\n'


@pytest.mark.parametrize(
    ("text", "made", "over_http", "otherwise"),
    [
        ("", function(), (), ()),
        ("", function(own=("a", "b")), ("a", "b"), ("a", "b")),
        (GLOBAL, function(), ("log", "auth"), ()),
        (GLOBAL, function(own=("audit",)), ("log", "auth", "audit"), ("audit",)),
        (GLOBAL, function(own=("auth", "audit")), ("log", "auth", "audit"), ("auth", "audit")),
        (GLOBAL, function(route=None, own=("audit",)), ("audit",), ("audit",)),
        (GLOBAL, function(route=None), (), ()),
        (GLOBAL + ADMIN, function(route="POST /admin/{id}"), ("log", "auth", "admin"), ()),
        (GLOBAL + ADMIN, function(route="POST /users"), ("log", "auth"), ()),
        (GLOBAL + ADMIN + 'without = ["auth"]', function(route="GET /admin"), ("log", "admin"), ()),
        (GLOBAL + '[functions.f]\nwithout = ["auth"]', function(), ("log",), ()),
        (GLOBAL + '[functions.f]\nwithout = ["auth"]\nmiddleware = ["auth"]', function(), ("log", "auth"), ("auth",)),
        ('[functions.f]\nmiddleware = ["b"]', function(own=("a",)), ("b",), ("b",)),
        ('[functions.f]\nmiddleware = []', function(own=("a",)), (), ()),
    ],
)
def test_a_function_has_what_is_around_its_route_and_what_it_names_itself(
    text: str, made: Function, over_http: tuple[str, ...], otherwise: tuple[str, ...]
) -> None:
    chain = make_chain(made, config(text))
    assert chain.list_for("http") == over_http
    assert {kind: chain.list_for(kind) for kind in ("invoke", "queue", "cron")} == dict.fromkeys(
        ("invoke", "queue", "cron"), otherwise
    )


@pytest.mark.parametrize(
    ("route", "below", "is_inside"),
    [
        ("GET /admin", "/admin", True),
        ("GET /admin/", "/admin", True),
        ("GET /admin/users/{id}", "/admin/", True),
        ("GET /adm%69n/x", "/admin", True),
        ("GET /administrators", "/admin", False),
        ("GET /{page}", "/admin", False),
        ("GET /{rest...}", "/admin", False),
        ("GET /orgs/{id}/admin", "/orgs/{org}/admin", True),
        ("GET /orgs/mine/admin", "/orgs/{org}/admin", False),
        ("GET /x", "/", True),
        ("GET /", "/", True),
        ("GET /", "/x", False),
    ],
)
def test_a_route_is_below_a_path_by_whole_segments_of_its_pattern(route: str, below: str, is_inside: bool) -> None:
    assert is_below(route, below) is is_inside


@pytest.mark.parametrize(
    ("text", "made", "error", "said"),
    [
        ('[http]\nmiddleware = ["ath"]', function(), UnknownMiddlewareError, "flux.toml:4  no Python module declares"),
        (GLOBAL, function(own=("adit",)), UnknownMiddlewareError, "functions/f:7  no Python module declares"),
        ('[functions.f]\nmiddleware = ["x"]', function(own=("log",)), UnknownMiddlewareError, "flux.toml:4  no Python"),
        ('[http]\nmiddleware = ["audit"]', function(runtime="typescript"), UnknownMiddlewareError, "no JavaScript"),
        (
            ADMIN.replace('"log"', '"x"'), function(route="GET /admin"), UnknownMiddlewareError,
            "flux.toml:5  no Python module declares a middleware named x",
        ),
        (GLOBAL, function(runtime="wasm"), NoMiddlewareHereError, "flux.toml:4  log is to stand around f"),
        ("", function(runtime="wasm", own=("log",)), NoMiddlewareHereError, "functions/f:7  log"),
        (ADMIN, function(), RoutesMatchNothingError, "flux.toml:4  there is no route below /admin"),
        ('[functions.f]\nwithout = ["auth"]', function(), NotAroundError, "flux.toml:4  nothing puts auth around f"),
        (GLOBAL + '[functions.f]\nwithout = ["log"]', function(route=None), NotAroundError, "f has no route"),
        (
            ADMIN + 'without = ["auth"]', function(route="GET /admin"), NotAroundError,
            "flux.toml:6  nothing before puts auth around routes",
        ),
    ],
)  # fmt: skip
def test_what_could_leave_a_door_open_is_refused_with_its_place(
    text: str, made: Function, error: type[OperatorError], said: str
) -> None:
    with pytest.raises(error) as raised:
        check_middleware(config(text), [made], NAMES)
    assert said in raised.value.message
    assert raised.value.remedy


def test_what_is_served_without_in_so_many_words_is_served() -> None:
    text = GLOBAL + '[functions.total]\nwithout = ["log", "auth"]'
    total = function("total", runtime="wasm")
    check_middleware(config(text), [total, function("g", runtime="typescript")], NAMES)
    assert make_chain(total, config(text)) == Chain((), ())
    assert make_chain(attrs.evolve(total, name="other"), config(text)).around == ("log", "auth")
