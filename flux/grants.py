"""Which hosts a function may reach. Everything that no grant covers is refused.

A grant is a line of an allow list in ``flux.toml``::

    api.stripe.com          that host, http on port 80 and https on port 443
    *.example.com           every name below example.com, not example.com itself
    api.example.com:8443    that host on that port only
    https://api.example.com that host over https only
    127.0.0.1:9000          that address on that port
    [::1]:9000              the same in IPv6

Think of two questions, asked at different times. `Grants.find` answers "may it
ask for this host at all?" before any name is resolved. `Grants.vouch_for` answers
"may it talk to this loopback or private address?" after resolution: only when the
address itself was written out with its port. A host *name* never vouches for what
it resolves to, because whoever runs its DNS decides that, not whoever wrote the
grant. The one exception is ``localhost:PORT``, which stands for loopback.

Both sides are compared in one spelling, `normalise_host`. What has no single
meaning has no spelling: ``0x7f.1``, ``2130706433`` and ``0177.0.0.1`` are refused
rather than guessed at.
"""

import ipaddress
import re
from collections.abc import Iterable

import attrs

from flux.errors import OperatorError

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

DEFAULT_PORTS = {"http": 80, "https": 443}
HOST_CHARACTERS_MAX = 253
"""RFC 1035, 2.3.4: 255 octets on the wire, which leaves 253 characters."""

_PLAIN_HOST = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(?:\.(?!-)[a-z0-9_-]{1,63}(?<!-))*")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")
_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)
_BROADCAST = ipaddress.IPv4Address("255.255.255.255")
_DEVIATIONS = frozenset("ßς\u200c\u200d")
"""Characters that IDNA 2003 and IDNA 2008 turn into different names: two clients, two hosts."""


class InvalidHostError(ValueError):
    """A host that has no single meaning; the message is half a sentence that says why."""


class InvalidGrantError(OperatorError):
    """A line of an allow list that can't be understood."""

    code = "FLX414"


@attrs.frozen
class Origin:
    """Where a request goes, in the one spelling that is compared."""

    scheme: str
    """``http`` or ``https``."""
    host: str
    """Normalised; an IPv6 address stands without brackets."""
    port: int
    """Always there: the scheme's own when the URL names none."""

    @property
    def authority(self) -> str:
        """Return what the ``Host`` header says: the port only when it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


@attrs.frozen
class Grant:
    """One line of an allow list."""

    text: str = attrs.field(eq=False)
    """As it was written."""
    scheme: str | None
    """None: http and https."""
    host: str
    """Normalised, without the ``*.`` of a wildcard."""
    wildcard: bool
    """Covers the names below ``host`` and not ``host``."""
    port: int | None
    """None: the scheme's own port."""
    address: IPAddress | None = attrs.field(eq=False)
    """Set when ``host`` is an address."""

    def covers(self, origin: Origin) -> bool:
        """Return whether a request to ``origin`` may be made."""
        if self.scheme is not None and self.scheme != origin.scheme:
            return False
        if origin.port != (DEFAULT_PORTS[origin.scheme] if self.port is None else self.port):
            return False
        if self.wildcard:
            return origin.host.endswith("." + self.host)
        return origin.host == self.host


@attrs.frozen(cache_hash=True)
class Grants:
    """An allow list. The empty one, the default, allows nothing."""

    grants: tuple[Grant, ...] = ()

    @classmethod
    def parse(cls, texts: Iterable[str]) -> "Grants":
        """Return the list; raise `InvalidGrantError` at the first line that can't be understood."""
        return cls(tuple(parse_grant(text) for text in texts))

    def find(self, origin: Origin) -> Grant | None:
        """Return the first grant that covers ``origin``, or None: refuse."""
        for grant in self.grants:
            if grant.covers(origin):
                return grant
        return None

    def find_for_downgrade(self, origin: Origin) -> Grant | None:
        """Return a grant that says ``http://`` in so many words: what a redirect from https needs."""
        for grant in self.grants:
            if grant.scheme == "http" and grant.covers(origin):
                return grant
        return None

    def vouch_for(self, origin: Origin, address: IPAddress) -> bool:
        """Return whether ``address``, to which ``origin`` resolved, was itself written out with its port."""
        for grant in self.grants:
            if grant.port != origin.port or grant.wildcard or grant.scheme not in (None, origin.scheme):
                continue
            if grant.address == address:
                return True
            if grant.host == "localhost" and origin.host == "localhost" and address.is_loopback:
                return True
        return False


def parse_grant(text: str) -> Grant:
    """Return the grant that ``text`` writes; raise `InvalidGrantError` when it writes none."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "", text
    try:
        if scheme and scheme not in DEFAULT_PORTS:
            raise InvalidHostError(f"{scheme!r} is not http or https")
        if any(character in rest for character in "/?#@"):
            raise InvalidHostError("a grant is a host, with no path and no user")
        wildcard = rest.startswith("*.")
        host_text, port = split_authority(rest[2:] if wildcard else rest)
        if "*" in host_text:
            raise InvalidHostError("a wildcard stands for whole labels in front: *.example.com")
        host = normalise_host(host_text)
        address = find_address(host)
        if address is not None and wildcard:
            raise InvalidHostError("an address has no names below it")
        if address is not None and (address.is_unspecified or address.is_multicast or address == _BROADCAST):
            raise InvalidHostError("this address is nobody's")
    except InvalidHostError as error:
        raise InvalidGrantError(
            f"allow list: {text!r} is not a host that can be granted: {error}",
            remedy='write "api.example.com", "*.example.com", "https://api.example.com" or "127.0.0.1:9000"',
        ) from error
    return Grant(text, scheme or None, host, wildcard, port, address)


def split_authority(text: str) -> tuple[str, int | None]:
    """Return host (an IPv6 address with its brackets) and port of ``host[:port]``."""
    if text.startswith("["):
        host, bracket, after = text.partition("]")
        host += bracket
        if not bracket or (after and not after.startswith(":")):
            raise InvalidHostError("an IPv6 address is written [::1] or [::1]:9000")
        port_text = after[1:] if after else None
    else:
        host, colon, after = text.partition(":")
        port_text = after if colon else None
    if port_text is None:
        return host, None
    if _PORT.fullmatch(port_text) is None or not 0 < int(port_text) < 65536:
        raise InvalidHostError(f"{port_text!r} is not a port from 1 to 65535")
    return host, int(port_text)


def normalise_host(text: str) -> str:
    """Return the one spelling of a host; raise `InvalidHostError` when it has none.

    Lower case, ASCII (IDNA), without a final dot; an IPv6 address compressed and without brackets.
    """
    if text.startswith("["):
        return _normalise_ipv6(text)
    if len(text) > HOST_CHARACTERS_MAX + 1:
        raise InvalidHostError(f"a host has at most {HOST_CHARACTERS_MAX} characters")
    host = text if text.isascii() else _to_ascii(text)
    host = host.lower().removesuffix(".")
    if len(host) > HOST_CHARACTERS_MAX or _PLAIN_HOST.fullmatch(host) is None:
        raise InvalidHostError("this is no host name" if host else "the host is missing")
    if _NUMBER.fullmatch(host.rpartition(".")[2]) is not None:
        # As browsers do (URL standard, "ends in a number checker"): such a host is an IPv4 address or an
        # error. C libraries also take 127.1, 0x7f000001, 017700000001 for 127.0.0.1; we take one spelling.
        try:
            if str(ipaddress.IPv4Address(host)) == host and text.isascii():
                return host
        except ValueError:
            pass  # said below, with the same words as for non-ASCII digits
        raise InvalidHostError("an IPv4 address is written as four decimal numbers: 192.0.2.1")
    return host


def find_address(host: str) -> IPAddress | None:
    """Return the address that a normalised host is, or None for a name."""
    if ":" not in host and not host[-1:].isdigit():
        return None
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _normalise_ipv6(text: str) -> str:
    inner = text[1:-1]
    if not text.endswith("]") or "%" in inner:
        raise InvalidHostError("an IPv6 address is written [::1], with no zone")
    try:
        address = ipaddress.IPv6Address(inner)
    except ValueError:
        raise InvalidHostError("this is no IPv6 address") from None
    if address.ipv4_mapped is not None:
        return f"::ffff:{address.ipv4_mapped}"  # Python's own spelling changed in 3.13.
    return str(address)


def _to_ascii(text: str) -> str:
    if _DEVIATIONS & set(text):
        raise InvalidHostError("its letters have two readings in IDNA; write the xn-- form that is meant")
    try:
        return text.encode("idna").decode("ascii")
    except UnicodeError:
        raise InvalidHostError("its letters can't be part of a host name") from None
