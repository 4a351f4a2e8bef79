"""TLS as the host ends it for functions: whom it trusts, and what is told of the other end.

The host verifies, always: the certificate must be for the name, and signed by an
authority that the machine trusts or, if the function names authorities of its own
(a database's private one), by one of those. Nobody switches that off: a function
that asks for no verification gets it all the same, and the refusal says so.

HTTP/2 is not offered. Its frames would be opaque in the record, and every server
that speaks it speaks HTTP/1.1.
"""

import ssl
from collections import OrderedDict
from collections.abc import Sequence

from flux.hostcalls.http_network import make_tls_context

AUTHORITIES_MAX = 32
AUTHORITIES_BYTES_MAX = 64 * 1024
ALPN_MAX = 8
CONTEXTS_MAX = 64
"""Contexts kept: to make one costs milliseconds, for it reads the system's authorities."""


class BadAuthoritiesError(ValueError):
    """What the function names as authorities are no certificates."""


_Key = tuple[str | None, tuple[str, ...], tuple[bytes, ...], bool]


class TlsContexts:
    """Makes and keeps contexts."""

    def __init__(self) -> None:
        self._kept: OrderedDict[_Key, ssl.SSLContext] = OrderedDict()

    def get(
        self, ca_file: str | None, protocols: Sequence[str], authorities: Sequence[bytes], *, system: bool
    ) -> ssl.SSLContext:
        """Return a context that trusts ``authorities`` and, with ``system``, the machine's and ``ca_file``'s."""
        offered = tuple(protocol for protocol in protocols if protocol != "h2")
        key = (ca_file, offered, tuple(authorities), system)
        context = self._kept.pop(key, None)
        if context is None:
            context = make_tls_context(ca_file, offered) if system else _make_bare_context(offered)
            for authority in authorities:
                try:
                    context.load_verify_locations(cadata=authority)
                except (ssl.SSLError, ValueError) as error:
                    raise BadAuthoritiesError("one of the authorities is no certificate") from error
        self._kept[key] = context
        if len(self._kept) > CONTEXTS_MAX:
            self._kept.popitem(last=False)
        return context


def _make_bare_context(protocols: Sequence[str]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # It verifies, and trusts nobody yet.
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


def describe_tls(tls: ssl.SSLObject) -> dict[str, object]:
    """Return what the function's library may ask of its TLS connection."""
    certificate = tls.getpeercert(binary_form=True)
    cipher = tls.cipher()
    return {
        "version": tls.version(),
        "cipher": list(cipher) if cipher is not None else None,
        "alpn": tls.selected_alpn_protocol(),
        "certificate": certificate,
        "peer": _to_lists(tls.getpeercert()),
    }


def _to_lists(value: object) -> object:
    """Tuples of tuples, as `ssl` has the parts of a name, as lists."""
    match value:
        case dict():
            return {str(key): _to_lists(item) for key, item in value.items()}
        case tuple() | list():
            return [_to_lists(item) for item in value]
    return value
