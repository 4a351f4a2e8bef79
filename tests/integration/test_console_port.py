"""Where the console's pages are: their own port, which is found near the functions', and what that one says of them."""

from collections.abc import Mapping

import attrs
import pytest
import trio

from flux.config import WrongValueError, parse_config
from flux.message import HttpRequest, HttpResponse, RawPath, RequestHead
from flux.supervisor.console_door import Door
from flux.supervisor.console_port import (
    ConsolePlace,
    ConsolePort,
    ConsolePortError,
    lead,
    open_console,
    open_console_port,
    share_console,
)
from flux.supervisor.front_door import is_page
from flux.supervisor.listeners import get_port, open_listeners

PLACE = ConsolePlace("http://127.0.0.1:4001", frozenset({"127.0.0.1"}), 4001, is_open=False)
OPEN = attrs.evolve(PLACE, hosts=frozenset(), is_open=True)


def ask(path: str, method: str = "GET", **headers: str) -> HttpRequest:
    fields = {"host": "127.0.0.1:4000"} | {name.replace("_", "-"): value for name, value in headers.items()}
    plain = path.partition("?")[0]
    return HttpRequest(RequestHead(method, path, plain, RawPath(plain), (), tuple(fields.items()), "1.1", "peer:1"))


def headers_of(answer: HttpResponse) -> Mapping[str, str]:
    return dict(answer.headers)


async def test_the_pages_are_near_functions_that_are_on_loopback_and_nowhere_near_open_ones() -> None:
    functions = await open_listeners("127.0.0.1", 0)
    first = await open_console_port("", "127.0.0.1", get_port(functions))
    second = await open_console_port("", "127.0.0.1", get_port(functions))
    assert len({get_port(functions), get_port(first), get_port(second)}) == 3
    assert {one.socket.getsockname()[0] for one in (*first, *second)} == {"127.0.0.1"}
    assert await open_console_port("", "0.0.0.0", 4000) == []
    assert await open_console_port("off", "127.0.0.1", get_port(functions)) == []
    taken = get_port(functions)
    with pytest.raises(ConsolePortError, match=rf"console\.listen in flux\.toml: port {taken} on .* is in use"):
        await open_console_port(f"127.0.0.1:{taken}", "127.0.0.1", taken)
    opened = await open_console("localhost:0", "0.0.0.0", taken, "https")
    assert opened.place is not None and opened.place.url == f"https://localhost:{get_port(opened.listeners)}"
    shared = share_console([one.socket.fileno() for one in opened.listeners], "localhost:0", "https")
    assert shared.place == opened.place and shared.listeners == () and shared.borrowed is not None
    for listener in (*functions, *first, *second, *opened.listeners):
        await listener.aclose()


@pytest.mark.parametrize("said", ['"4001"', '"nowhere"', '"::1:4001"', '"127.0.0.1:70000"', "4001", "true", '["off"]'])
def test_what_is_no_place_for_the_console_is_told_with_its_line(said: str) -> None:
    with pytest.raises(WrongValueError, match=r"flux\.toml:4  console\.listen is ") as raised:
        parse_config(f'[project]\nname = "shop"\n[console]\nlisten = {said}\n')
    assert '"127.0.0.1:4001", or "off"' in raised.value.remedy + str(raised.value)
    assert parse_config('[project]\nname = "shop"\n[console]\nlisten = "[::1]:0"\n').console.listen == "[::1]:0"


def test_pages_are_told_from_what_programs_ask() -> None:
    for path in ("", "/", "//", "/e/abc", "/errors", "/session", "/act/x", "/static/frame.js", "/apis", "//e/a"):
        assert is_page(f"/_flux{path}"), path
    for path in ("/api", "/api/", "/api/executions", "//api/executions", "/health", "/health/", "/live", "/metrics"):
        assert not is_page(f"/_flux{path}"), path
    assert not is_page("/_fluxed") and not is_page("/e/abc")


def test_who_looks_for_pages_among_the_functions_is_sent_on_by_the_name_that_was_used() -> None:
    door = Door("token", frozenset({"shop.example"}))
    page = "/_flux/d/a..b%2F?q=status%3A500&x"
    names = {"127.0.0.1:4000": "127.0.0.1", "localhost": "localhost", "a.localhost:1": "a.localhost", "[::1]": "[::1]"}
    for host, shown in names.items():
        for method in ("GET", "HEAD"):
            answer = lead(door, PLACE, ask(page, method, host=host).head)
            assert (answer.status, headers_of(answer)["location"]) == (307, f"http://{shown}:4001{page}")
    beyond = ask("/_flux/", host="shop.example").head
    assert headers_of(lead(door, OPEN, beyond))["location"] == "http://shop.example:4001/_flux/"
    answer = lead(door, PLACE, beyond)
    assert answer.status == 404 and b"http://127.0.0.1:4001/_flux/" in answer.body
    assert lead(door, PLACE, ask("/_flux/session", "POST").head).status == 404
    off = lead(door, None, ask("/_flux/").head)
    assert off.status == 404 and b"[console] listen" in off.body
    # Nobody is sent anywhere by a name that is not ours, or for a page of another site.
    for stranger in ({"host": "evil.example"}, {"origin": "http://evil.example"}, {"sec_fetch_site": "cross-site"}):
        assert lead(door, PLACE, ask("/_flux/", **stranger).head).status == 403


async def test_the_consoles_port_has_no_functions() -> None:
    asked: list[str] = []

    async def show(request: HttpRequest) -> HttpResponse:
        await trio.lowlevel.checkpoint()
        asked.append(request.head.path)
        return HttpResponse(200, (), b"")

    port = ConsolePort(show)
    assert (await port.admit(ask("/_flux/").head)).answer is None
    root = await port.handle(ask("/"))
    assert (root.status, headers_of(root)["location"]) == (307, "/_flux/")
    assert (await port.handle(ask("/orders", "POST"))).status == 404
    assert (await port.handle(ask("/_flux/api/executions"))).status == 200
    assert (await port.handle(ask("/_flux/errors"))).status == 200
    assert asked == ["/_flux/api/executions", "/_flux/errors"]
