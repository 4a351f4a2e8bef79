"""The console's own port, and what the functions' port says of the pages instead of showing them.

To a browser a port is half of an origin. A page that a function answers with may hold a script of anybody, and were
the console's pages on the same port, that script would be one of theirs: it could read what they show and press their
buttons. So they have a port of their own. What a page on another port of the same host can still make a browser send
is judged at the door (`flux.supervisor.console_door`), and none of the answers is for it to read.

The API stays on the functions' port, where programs ask it with a token that no browser sends by itself; it is on
this one as well, for whoever has only this one.
"""

import socket
from collections.abc import Awaitable, Callable, Sequence

import attrs
import trio

from flux.config_console import OFF
from flux.errors import OperatorError
from flux.listen_address import split_listen_address
from flux.message import Admission, HttpRequest, HttpResponse, RequestHead, problem
from flux.supervisor.console_door import Door, is_loopback_name, without_port
from flux.supervisor.front_door import CONSOLE, CONSOLE_BODY_BYTES_MAX, is_console
from flux.supervisor.listeners import Borrowed, CannotListenError, PortInUseError, open_listeners
from flux.supervisor.server_address import name_server
from flux.supervisor.web.desk import show_missing

NEAR = 10
"""Ports after the functions' that are tried before any free one is taken."""

Socket = trio.socket.SocketType | socket.socket
Show = Callable[[HttpRequest], Awaitable[HttpResponse]]


class ConsolePortError(OperatorError):
    """The console can't listen where flux.toml says."""

    code = "FLX665"


async def open_console_port(listen: str, host: str, port: int) -> list[trio.SocketListener]:
    """Listen for the pages of a server that has ``port`` on ``host``, as ``listen`` says; nothing where it is off.

    Left to itself it is near the functions' port, so that one knows it again; and on loopback or nowhere, since the
    pages show everything, and who opened the functions to others has not said that of the console.
    """
    if listen == OFF:
        return []
    if (said := split_listen_address(listen)) is not None:
        try:
            return await open_listeners(*said)
        except (PortInUseError, CannotListenError) as error:
            raise ConsolePortError(
                f"console.listen in flux.toml: {error.message}",
                remedy=f'another address there, or none for a port near {port}, or "{OFF}"',
            ) from error
    if name_server(host, port).is_open:
        return []
    for near in range(port + 1, min(port + NEAR, 65535) + 1):
        try:
            return await open_listeners(host, near)
        except PortInUseError:
            continue
    return await open_listeners(host, 0)


@attrs.frozen
class ConsolePlace:
    """Where the pages are."""

    url: str
    """For a browser on this machine."""
    hosts: frozenset[str]
    """Names besides loopback that are this place's by what was said of it."""
    port: int
    is_open: bool
    """Others than this machine may be able to connect."""

    @property
    def pages_url(self) -> str:
        """Return what one opens to see them."""
        return f"{self.url}{CONSOLE}/"

    @classmethod
    def find(cls, sockets: Sequence[Socket], listen: str, scheme: str) -> "ConsolePlace | None":
        """Return the place of what `open_console_port` has opened; None where that is nothing."""
        if not sockets:
            return None
        host, port, *_ = sockets[0].getsockname()
        host, _ = split_listen_address(listen) or (host, port)  # A name that was written is how it is called.
        address = name_server(host, port, scheme)
        return cls(address.url, address.hosts, port, address.is_open)


@attrs.frozen
class ConsoleSockets:
    """What a server has of the console's port."""

    place: ConsolePlace | None = None
    """Where it is; None: it is off."""
    listeners: Sequence[trio.SocketListener] = ()
    """Its own."""
    borrowed: Borrowed | None = None
    """Those that it shares with the other processes of the server."""


async def open_console(listen: str, host: str, port: int, scheme: str) -> ConsoleSockets:
    """Open the console's port for a server that is one process."""
    listeners = await open_console_port(listen, host, port)
    return ConsoleSockets(ConsolePlace.find([one.socket for one in listeners], listen, scheme), listeners)


def share_console(descriptors: Sequence[int], listen: str, scheme: str) -> ConsoleSockets:
    """Accept from the console's port beside the other processes of the server, which have the same sockets."""
    borrowed = Borrowed()
    borrowed.set(descriptors)
    with borrowed.opened() as sockets:
        return ConsoleSockets(ConsolePlace.find(sockets, listen, scheme), borrowed=borrowed)


def lead(door: Door, place: ConsolePlace | None, head: RequestHead) -> HttpResponse:
    """Answer who looks for the pages on the functions' port: a browser is sent on, under the name that it has used."""
    if (refusal := door.refuse_place(head)) is not None:
        return refusal
    if place is None:
        return problem(404, "NOT_FOUND", "this server's console has no port",
                       extra={"remedy": '[console] listen = "127.0.0.1:4001" in flux.toml gives it one'})  # fmt: skip
    name = without_port(head.header("host") or "")
    if head.method not in ("GET", "HEAD") or not (place.is_open or is_loopback_name(name)):
        return problem(404, "NOT_FOUND", "the console's pages are not on this port",
                       extra={"remedy": f"on the server's machine they are at {place.pages_url}"})  # fmt: skip
    scheme = place.url.partition(":")[0]
    shown = f"[{name}]" if ":" in name else name
    _, asks, query = head.target.partition("?")
    where = f"{scheme}://{shown}:{place.port}{head.raw_path}{asks}{query}"
    headers = (("location", where), ("cache-control", "no-store"), ("referrer-policy", "no-referrer"))
    return HttpResponse(307, headers, b"")


@attrs.frozen
class ConsolePort:
    """The handler of the console's port."""

    show: Show
    """Answers what is below ``/_flux/``, pages included."""

    async def admit(self, _head: RequestHead) -> Admission:
        """See `flux.supervisor.gateway.Handler.admit`."""
        await trio.lowlevel.checkpoint()
        return Admission(CONSOLE_BODY_BYTES_MAX)

    async def handle(self, request: HttpRequest) -> HttpResponse:
        """See `flux.supervisor.gateway.Handler.handle`."""
        if is_console(request.head.path):
            return await self.show(request)
        await trio.lowlevel.checkpoint()
        if request.head.path == "/":
            return HttpResponse(307, (("location", f"{CONSOLE}/"), ("cache-control", "no-store")), b"")
        refusal = problem(404, "NOT_FOUND", "this is the console's port; functions have another",
                          extra={"remedy": f"the console is at {CONSOLE}/"})  # fmt: skip
        return show_missing(request.head, refusal) or refusal
