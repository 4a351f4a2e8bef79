"""What a server calls itself: its URL for the command line on this machine, and the names that its console answers to.

The console is closed to every ``Host`` but loopback's and those that the operator gave
(`flux.supervisor.console_door`). ``--bind`` gives one, unless it says "all addresses": which of this machine's names
a client uses is then nobody's choice, and the console stays on loopback, behind a tunnel for whoever is elsewhere.
"""

import ipaddress

import attrs

from flux.errors import OperatorError
from flux.listen_address import split_listen_address
from flux.supervisor.server_options import LOOPBACK


class BadAddressError(OperatorError):
    """What is to be listened on is no address with a port."""

    code = "FLX546"


@attrs.frozen
class ServerAddress:
    """How a server is reached."""

    url: str
    """By the command line on the same machine."""
    hosts: frozenset[str]
    """Names besides loopback that the console answers to, in lower case."""
    is_open: bool
    """Others than this machine may be able to connect."""


def read_bind(text: str) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT``; raise `BadAddressError`. An IPv6 address stands in brackets."""
    if (address := split_listen_address(text)) is None:
        raise BadAddressError(
            f'"{text[:200]}" is not HOST:PORT',
            remedy="write 127.0.0.1:4000 or [::1]:4000: brackets are for IPv6 addresses, and those need them",
        )
    return address


def name_server(host: str, port: int, scheme: str = "http") -> ServerAddress:
    """Return how a server is reached that listens on ``host``."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = host.lower().rstrip(".")
        return ServerAddress(f"{scheme}://{host}:{port}", frozenset({name}), is_open=name != "localhost")
    if address.is_unspecified:
        # Whoever listens on all addresses listens on loopback; "::" here is IPv6 alone, as listeners are made.
        here = LOOPBACK if address.version == 4 else "[::1]"
        return ServerAddress(f"{scheme}://{here}:{port}", frozenset(), is_open=True)
    shown = f"[{host}]" if address.version == 6 else host
    return ServerAddress(f"{scheme}://{shown}:{port}", frozenset({host.lower()}), is_open=not address.is_loopback)
