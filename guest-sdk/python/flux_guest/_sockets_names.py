"""Looking up names without asking anybody: `socket.getaddrinfo` and its kin, and putting it all in place.

Each name has an address that stands for it in this execution (`Network.find_address`), of which the host never
hears: `HostSocket.connect` turns it back. What is an address already is itself.
"""

import ipaddress
import socket
from collections.abc import Callable
from typing import Any, NoReturn

from flux_guest import _sockets, _values
from flux_guest._channel import Channel
from flux_guest._sockets import TYPE_FLAGS, HostSocket, Network, get_network, refuse

_SERVICES = {"http": 80, "https": 443, "postgres": 5432, "postgresql": 5432}


def _read_port(port: Any) -> int:
    if port is None or port in ("", b""):
        return 0
    if isinstance(port, bytes):
        port = port.decode("ascii")
    if isinstance(port, str):
        known = _SERVICES.get(port)
        if known is None and not port.isdecimal():
            raise socket.gaierror(socket.EAI_SERVICE, f"no service is called {port!r} here: give its port")
        port = int(port) if known is None else known
    return int(port)


def _find_literal(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address that ``host`` writes in the one way that is taken for one."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def getaddrinfo(
    host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
) -> list[tuple[Any, ...]]:
    """As `socket.getaddrinfo`, without asking anybody: the host resolves when it connects."""
    number = _read_port(port)
    if isinstance(host, bytes | bytearray):
        host = host.decode("ascii")
    if host is None or host == "":
        host = "::1" if family == socket.AF_INET6 else "127.0.0.1"
    if not isinstance(host, str):
        raise TypeError("getaddrinfo() argument 1 must be string or None")
    kind = socket.SOCK_STREAM if type in (0, -1) else int(type) & ~TYPE_FLAGS
    literal = _find_literal(host)
    if literal is not None:
        found = socket.AF_INET if literal.version == 4 else socket.AF_INET6
        if family not in (0, found):
            raise socket.gaierror(socket.EAI_ADDRFAMILY, "Address family for hostname not supported")
        address = str(host)
    elif flags & socket.AI_NUMERICHOST:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    else:
        found = socket.AF_INET6 if family == socket.AF_INET6 else socket.AF_INET
        address = get_network().find_address(_values.printable(host), found)
    where: tuple[Any, ...] = (address, number) if found == socket.AF_INET else (address, number, 0, 0)
    protocol = proto or (socket.IPPROTO_TCP if kind == socket.SOCK_STREAM else 0)
    name = host if flags & socket.AI_CANONNAME else ""
    return [(socket.AddressFamily(found), socket.SocketKind(kind), protocol, name, where)]


def getnameinfo(address: Any, flags: int) -> tuple[str, str]:
    """As `socket.getnameinfo`, of what this execution has looked up."""
    host, port = str(address[0]), int(address[1])
    named = host if flags & socket.NI_NUMERICHOST else get_network().find_name(host)
    if named == host and flags & socket.NI_NAMEREQD:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return named, str(port)


def gethostbyname(name: Any, /) -> str:
    """As `socket.gethostbyname`."""
    return str(getaddrinfo(name, 0, socket.AF_INET)[0][4][0])


def gethostbyname_ex(name: Any, /) -> tuple[str, list[str], list[str]]:
    """As `socket.gethostbyname_ex`."""
    return str(name), [], [gethostbyname(name)]


def gethostbyaddr(address: Any, /) -> tuple[str, list[str], list[str]]:
    """As `socket.gethostbyaddr`, of what this execution has looked up."""
    name = get_network().find_name(str(address))
    if name == str(address):
        raise socket.herror(1, "Unknown host")
    return name, [], [str(address)]


_NAMES = (getaddrinfo, getnameinfo, gethostbyname, gethostbyname_ex, gethostbyaddr)


def take_over(channel: Channel) -> Network:
    """Put all of it in place; once, before the project's modules are imported."""
    network = _sockets.set_network(Network(channel))
    socket.socket = HostSocket  # type: ignore[misc]
    for function in _NAMES:
        setattr(
            socket, function.__name__, _while_running(channel, function, getattr(socket, function.__name__))
        )
    for name in ("socketpair", "fromfd", "send_fds", "recv_fds", "if_nameindex"):
        setattr(socket, name, _while_running(channel, _refusing(name), getattr(socket, name)))
    return network


def _while_running(
    channel: Channel, ours: Callable[..., Any], real: Callable[..., Any]
) -> Callable[..., Any]:
    def either(*arguments: Any, **options: Any) -> Any:
        return (ours if channel.running else real)(*arguments, **options)

    either.__name__, either.__doc__ = real.__name__, ours.__doc__
    return either


def _refusing(name: str) -> Callable[..., NoReturn]:
    def refusing(*_arguments: Any, **_options: Any) -> NoReturn:
        refuse(name)

    return refusing
