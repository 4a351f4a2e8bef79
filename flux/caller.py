"""Who made a request: the other end of the connection, or the client of a proxy that is declared.

A header says what whoever sent it wants to be believed. So ``X-Forwarded-For`` and its kin count only when
the connection comes from an address that ``flux.toml`` declares as a proxy (``[http] proxies``), and only as far as
declared proxies have written them: each one appends the address that *it* saw, so the list is read from its right end,
and the first address that is no declared proxy is the client. What stands to its left is the client's own claim.

Two notations exist, and a proxy that writes one passes the other on as the client sent it. So one of them is in
force, by name (`ProxyRules.headers`), and never "whichever is there".
"""

import functools
import ipaddress
import re
from collections.abc import Sequence
from typing import Literal

import attrs

from flux.message import RequestHead

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

HOPS_MAX = 50
CHARACTERS_MAX = 8 * 1024
"""So much of a list is looked at, from its end: it may be as long as a head, and who sends it decides that."""


@attrs.frozen
class ProxyRules:
    """Whose word is believed, and in which notation."""

    networks: tuple[Network, ...] = ()
    """Addresses of proxies; empty: no header is believed."""

    headers: Literal["x-forwarded", "forwarded"] = "x-forwarded"
    """``X-Forwarded-For``, ``-Proto`` and ``-Host``, or ``Forwarded`` (RFC 7239)."""

    def is_proxy(self, address: Address) -> bool:
        """Whether that address is declared."""
        return any(address in network for network in self.networks)


@attrs.frozen
class Caller:
    """Who made a request, and how the client addressed us."""

    client: str
    """Address without port; empty where the connection has none (a Unix socket)."""

    scheme: str
    """``http`` or ``https``."""

    host: str
    """Host, with its port if one was given."""


@attrs.frozen
class _Hop:
    """What one proxy has said; None: nothing that can be read."""

    client: Address | None
    scheme: str | None = None
    host: str | None = None


def find_caller(head: RequestHead, rules: ProxyRules, *, scheme: str = "http") -> Caller:
    """Return who made the request; ``scheme`` is what the connection itself is."""
    host = head.header("host") or ""
    peer = _read_peer(head.peer)
    if peer is None or not rules.is_proxy(peer):
        return Caller("" if peer is None else str(peer), scheme, host)
    hops = _read_forwarded(head) if rules.headers == "forwarded" else _read_x_forwarded(head)
    client = peer
    for hop in reversed(hops):
        if not rules.is_proxy(client):
            break
        if hop.client is None:
            break  # "unknown", or a name that its proxy gave it: behind that nobody's word can be judged.
        client = hop.client
    # Of scheme and host the nearest proxy's word counts, which is the last.
    said = hops[-1] if hops else _Hop(None)
    return Caller(str(client), said.scheme or scheme, said.host or host)


def read_address(text: str) -> Address | None:
    """Return the address in ``1.2.3.4``, ``1.2.3.4:80``, ``[::1]:80`` or ``::1``; None for anything else.

    An IPv4 address that is written as an IPv6 one is the IPv4 address: rules and limits mean the same machine.
    """
    text = text.strip()
    if text.startswith("["):
        inner, bracket, port = text[1:].partition("]")
        if not bracket or (port and not _PORT.fullmatch(port)):
            return None
        text = inner
    elif text.count(":") == 1:
        text, _, port = text.partition(":")
        if not _PORT.fullmatch(":" + port):
            return None
    try:
        # A scope ("fe80::1%eth0") names an interface of ours, and is no part of who it is.
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def read_network(text: str) -> Network:
    """Return the addresses that ``10.0.0.0/8`` or ``127.0.0.1`` stand for; raise ValueError."""
    return ipaddress.ip_network(text.strip(), strict=True)


# The kernel's word and short. A client asks again and again, and one that keeps its connection has the same port.
_read_peer = functools.lru_cache(1024)(read_address)
_PORT = re.compile(r":[0-9]{1,5}")
_SCHEMES = ("http", "https")
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]{1,253})(?::[0-9]{1,5})?")
# RFC 7239, section 4, with the quoted string of RFC 9110, section 5.6.4.
_PAIR = re.compile(r'\s*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)=(?:([!#$%&\'*+.^_`|~0-9A-Za-z:\[\]-]+)|"((?:[^"\\]|\\.)*)")\s*')


def _read_x_forwarded(head: RequestHead) -> list[_Hop]:
    clients = _list_values(head, "x-forwarded-for")[-HOPS_MAX:]
    scheme = _last(_list_values(head, "x-forwarded-proto"))
    host = _last(_list_values(head, "x-forwarded-host"))
    hops = [_Hop(read_address(client)) for client in clients]
    last = hops.pop() if hops else _Hop(None)
    return [*hops, attrs.evolve(last, scheme=_as_scheme(scheme), host=_as_host(host))]


def _read_forwarded(head: RequestHead) -> list[_Hop]:
    hops = []
    for element in _split_quoted(_joined(head, "forwarded"), ",")[-HOPS_MAX:]:
        pairs: dict[str, str] = {}
        for part in _split_quoted(element, ";"):
            match = _PAIR.fullmatch(part)
            # "Each parameter MUST NOT occur more than once per field-value": an element with two readings has none.
            if match is None or match[1].lower() in pairs:
                pairs = {}
                break
            pairs[match[1].lower()] = match[2] if match[2] is not None else re.sub(r"\\(.)", r"\1", match[3])
        hops.append(
            _Hop(read_address(pairs.get("for", "")), _as_scheme(pairs.get("proto")), _as_host(pairs.get("host")))
        )
    return hops


def _split_quoted(text: str, separator: str) -> list[str]:
    """Cut at ``separator`` outside of quotes.

    A quote that never closes is a client's, and must not take what our proxy appended with it: then quotes count
    for nothing.
    """
    parts, start, is_quoted, index = [], 0, False, 0
    while index < len(text):
        character = text[index]
        if is_quoted and character == "\\":
            index += 1
        elif character == '"':
            is_quoted = not is_quoted
        elif character == separator and not is_quoted:
            parts.append(text[start:index])
            start = index + 1
        index += 1
    parts = text.split(separator) if is_quoted else [*parts, text[start:]]
    return [part for part in parts if part.strip()]


def _list_values(head: RequestHead, name: str) -> list[str]:
    return [value.strip() for value in _joined(head, name).split(",") if value.strip()]


def _joined(head: RequestHead, name: str) -> str:
    return ",".join(value for found, value in head.headers if found == name)[-CHARACTERS_MAX:]


def _last(values: Sequence[str]) -> str | None:
    return values[-1] if values else None


def _as_scheme(text: str | None) -> str | None:
    return text.lower() if text is not None and text.lower() in _SCHEMES else None


def _as_host(text: str | None) -> str | None:
    return text if text is not None and _HOST.fullmatch(text) else None
