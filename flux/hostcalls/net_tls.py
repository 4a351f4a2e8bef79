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
from functools import partial

import trio

from flux.hostcalls.http_network import make_tls_context

AUTHORITIES_MAX = 32
AUTHORITIES_BYTES_MAX = 64 * 1024
ALPN_MAX = 8
CONTEXTS_MAX = 64
"""Contexts with authorities of functions that are kept."""
PROTOCOLS = frozenset(
    {"http/1.1", "http/1.0", "postgresql", "mqtt", "imap", "pop3", "ftp", "xmpp-client", "irc"}
)
"""What is offered by ALPN, the first one of those that were asked for: each is a context of its own."""


class BadAuthoritiesError(ValueError):
    """What the function names as authorities are no certificates."""


class TlsContexts:
    """Makes and keeps contexts.

    To make one that trusts the machine's authorities costs tens of milliseconds, for each of a hundred and fifty
    certificates is read. So it is done in a thread, one at a time for a tenant, and those that have no authorities
    of a function's are kept for ever: there are few.
    """

    def __init__(self) -> None:
        self._common: dict[tuple[str | None, str | None], ssl.SSLContext] = {}
        self._own: OrderedDict[tuple[str | None, str | None, tuple[bytes, ...], bool], ssl.SSLContext] = (
            OrderedDict()
        )
        self._limiters: dict[str, trio.CapacityLimiter] = {}

    async def get(
        self,
        ca_file: str | None,
        protocols: Sequence[str],
        authorities: Sequence[bytes] = (),
        *,
        system: bool = True,
        tenant: str = "",
    ) -> ssl.SSLContext:
        """Return a context that trusts ``authorities`` and, with ``system``, the machine's and ``ca_file``'s."""
        offered = next((protocol for protocol in protocols if protocol in PROTOCOLS), None)
        if system and not authorities:
            context = self._common.get((ca_file, offered))
            if context is None:
                context = self._common[ca_file, offered] = await self._make(
                    tenant, ca_file, offered, (), True
                )
            return context
        key = (ca_file, offered, tuple(authorities), system)
        context = self._own.pop(key, None)
        if context is None:
            context = await self._make(tenant, *key)
        self._own[key] = context
        if len(self._own) > CONTEXTS_MAX:
            self._own.popitem(last=False)
        return context

    async def _make(
        self,
        tenant: str,
        ca_file: str | None,
        offered: str | None,
        authorities: Sequence[bytes],
        system: bool,
    ) -> ssl.SSLContext:
        limiter = self._limiters.get(tenant)
        if limiter is None:
            limiter = self._limiters[tenant] = trio.CapacityLimiter(1)
        make = partial(_make_context, ca_file, [offered] if offered else [], authorities, system)
        return await trio.to_thread.run_sync(make, limiter=limiter)


def _make_context(
    ca_file: str | None, protocols: Sequence[str], authorities: Sequence[bytes], system: bool
) -> ssl.SSLContext:
    context = make_tls_context(ca_file, protocols) if system else _make_bare_context(protocols)
    for authority in authorities:
        try:
            context.load_verify_locations(cadata=authority)
        except (ssl.SSLError, ValueError) as error:
            raise BadAuthoritiesError("one of the authorities is no certificate") from error
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
