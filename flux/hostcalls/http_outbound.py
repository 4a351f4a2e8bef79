"""The nouns of outbound HTTP, and what makes a request well-formed. No I/O.

A request is checked here, whole, before anything else happens to it: what has
two readings (a user in the URL, a line break in a header, a second ``Host``) is
refused, never repaired, because a repair is a guess about which reading the next
program will take.

Secrets stay handles in everything that is kept: `OutboundRequest`, errors and
records. Only `encode_headers` and the client's sending path ask for the value.
"""

import math
import re
from collections.abc import Callable
from typing import Literal
from urllib.parse import quote, urljoin

import attrs

from flux import __version__
from flux.grants import DEFAULT_PORTS, Grants, InvalidHostError, Origin, normalise_host, split_authority
from flux.trace_context import FIELDS, OWN_NETWORK, Propagation

DEFAULT_TIMEOUT_S = 10.0
"""Flux's own limit of one request, when neither the call nor the function sets one."""
DEFAULT_RESPONSE_BYTES_MAX = 8 * 1024 * 1024
DEFAULT_REDIRECTS_MAX = 20
URL_CHARACTERS_MAX = 16 * 1024
REQUEST_HEADERS_MAX = 256
REQUEST_HEADER_BYTES_MAX = 64 * 1024

Kind = Literal[
    "refused_grant", "private_address", "resolve", "connect", "tls", "timeout",
    "protocol", "too_large", "redirects", "url", "header",
]  # fmt: skip
LimitSource = Literal["call", "function", "default"]
Substitute = Callable[[bytes], bytes]
"""Replaces every handle of a secret by its value."""
Headers = tuple[tuple[str, str], ...]

HOST_OWNED_HEADERS = frozenset(
    {
        "connection", "content-length", "expect", "host", "http2-settings", "keep-alive",
        "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
        "transfer-encoding", "upgrade",
    }
)  # fmt: skip
"""What says where a message goes and where it ends. Two opinions on that are request smuggling."""
CREDENTIAL_HEADERS = frozenset({"authorization", "cookie"})
"""Not repeated to another origin (RFC 9110, 15.4)."""
BODY_HEADERS = frozenset({"content-type", "content-encoding", "content-language", "content-location"})

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_FIELD_VALUE = re.compile(rb"[\t\x20-\x7e]*")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^?#]*)(\?[^#]*)?(?:#.*)?", re.DOTALL)
_REFUSED_IN_URL = re.compile(r"[\x00-\x20\x7f\\]")
_SAFE_TARGET = "!$%&'()*+,-./:;=?@_~[]"
_PLAIN_TARGET = re.compile(r"[A-Za-z0-9" + re.escape(_SAFE_TARGET) + "]*")


class OutboundError(Exception):
    """A request that got no answer a guest may have. Never holds the value of a secret."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind: Kind = kind
        self.message = message
        self.host = ""
        """Normalised host of the hop that failed; empty when the URL names none."""
        self.port = 0
        self.limit_s: float | None = None
        """The time limit in force."""
        self.limit_source: LimitSource | None = None
        """Whose limit it was."""
        self.elapsed_s = 0.0


@attrs.frozen
class OutboundUrl:
    """A URL that has one reading."""

    origin: Origin
    target: str
    """Path and query as they are sent: ASCII, never empty."""

    def __str__(self) -> str:
        return f"{self.origin.scheme}://{self.origin.authority}{self.target}"

    @property
    def without_query(self) -> str:
        """Return what may be shown anywhere: queries carry keys and names."""
        return str(self).partition("?")[0]


@attrs.frozen
class OutboundRequest:
    """What a guest asks for. Secrets are handles here."""

    method: str
    url: str
    headers: Headers = ()
    body: bytes = attrs.field(default=b"", repr=False)
    timeout_s: float | None = None
    """The call's own limit; None takes the policy's."""
    redirects: int = 0
    """Redirects to follow; 0 hands the 3xx answer to the guest."""


@attrs.frozen
class OutboundPolicy:
    """What a guest gets, whatever it asks for."""

    tenant: str
    """Connections are never shared across tenants."""
    grants: Grants
    timeout_s: float = DEFAULT_TIMEOUT_S
    """Limit of a call that sets none, from resolution to the last byte."""
    timeout_source: LimitSource = "default"
    response_bytes_max: int = DEFAULT_RESPONSE_BYTES_MAX
    redirects_max: int = DEFAULT_REDIRECTS_MAX
    ca_file: str | None = None
    """PEM file of certificates to trust beside the system's."""
    carried: Headers = ()
    """Fields of the trace that the request belongs to, for requests that have none of their own."""
    carried_to: Propagation = OWN_NETWORK
    """Which hosts are sent them."""


@attrs.frozen
class Redirect:
    """One redirect that was followed."""

    status: int
    url: str
    """Who sent it."""
    location: str
    """Where it led, made absolute."""
    address: str
    """``ip:port`` that answered."""


@attrs.frozen
class Timings:
    """Where the time went, in nanoseconds; of the last hop, but for ``total_ns``."""

    resolve_ns: int = 0
    """0 on a connection that was already there, as the next two."""
    connect_ns: int = 0
    tls_ns: int = 0
    first_byte_ns: int = 0
    """From the first byte sent to the first received."""
    total_ns: int = 0
    """All hops, from the call to the last byte of the body."""


@attrs.frozen
class OutboundResponse:
    """What came back."""

    status: int
    headers: Headers
    """Names in lower case, in the order received; repeated ones are repeated."""
    body: bytes = attrs.field(repr=False)
    """As it came over the wire after transfer coding: gzip stays gzip, so hashes agree on both sides."""
    url: str
    redirects: tuple[Redirect, ...]
    address: str
    """``ip:port`` that answered: the one that was judged."""
    timings: Timings


def parse_url(text: str) -> OutboundUrl:
    """Return the one reading of ``text``; raise `OutboundError` when it has none or several."""
    if len(text) > URL_CHARACTERS_MAX:
        raise OutboundError("url", f"the URL has {len(text)} characters; {URL_CHARACTERS_MAX} are allowed")
    if _REFUSED_IN_URL.search(text) is not None:
        raise OutboundError("url", "the URL has a space, backslash or control character: percent-encode it")
    match = _URL.fullmatch(text)
    if match is None:
        raise OutboundError("url", f'"{text[:80]}" is no absolute URL: write https://host/path')
    scheme, authority, path, query = match.groups()
    scheme = scheme.lower()
    if scheme not in DEFAULT_PORTS:
        raise OutboundError("url", f'the URL\'s scheme is "{scheme[:20]}": only http and https leave Flux')
    if "@" in authority:
        # Not repeated in the message: what stands before the @ is a password.
        raise OutboundError("url", "the URL carries a user name: send an authorization header instead")
    try:
        host_text, port = split_authority(authority)
        host = normalise_host(host_text)
    except InvalidHostError as error:
        raise OutboundError("url", f'the URL\'s host "{authority[:80]}" is refused: {error}') from error
    origin = Origin(scheme, host, DEFAULT_PORTS[scheme] if port is None else port)
    target = (path or "/") + (query or "")
    if _PLAIN_TARGET.fullmatch(target) is None:
        try:
            target = quote(target, safe=_SAFE_TARGET)
        except UnicodeEncodeError:
            raise OutboundError("url", "the URL holds half a character (a lone surrogate)") from None
    return OutboundUrl(origin, target)


def parse_location(text: str, base: OutboundUrl) -> OutboundUrl:
    """Return where a redirect leads; relative ones are meant against ``base``."""
    if _REFUSED_IN_URL.search(text) is not None:
        raise OutboundError("redirects", "the redirect's location has a space or a control character")
    try:
        return parse_url(urljoin(str(base), text))
    except ValueError:
        raise OutboundError("redirects", "the redirect's location is no URL") from None
    except OutboundError as error:
        raise OutboundError("redirects", f"the redirect's location is refused: {error.message}") from error


def check_method(method: str) -> str:
    """Return the method in capitals, or raise `OutboundError`."""
    if _TOKEN.fullmatch(method) is None or len(method) > 32:
        raise OutboundError("header", f"{method[:40]!r} is no HTTP method")
    method = method.upper()
    if method in ("CONNECT", "TRACE"):
        raise OutboundError("header", f"{method} is not for functions: it speaks to proxies")
    return method


def check_headers(headers: Headers) -> None:
    """Raise `OutboundError` for what a guest may not send. Messages name headers, never their values."""
    if len(headers) > REQUEST_HEADERS_MAX:
        raise OutboundError("header", f"{len(headers)} headers; {REQUEST_HEADERS_MAX} are allowed")
    size_bytes = 0
    for name, value in headers:
        if _TOKEN.fullmatch(name) is None:
            raise OutboundError("header", f"{name[:60]!r} is no header name")
        if name.lower() in HOST_OWNED_HEADERS:
            raise OutboundError("header", f"{name} is set by Flux, which sends the message: leave it out")
        if not value.isascii() or _FIELD_VALUE.fullmatch(value.encode()) is None:
            raise OutboundError(
                "header", f"the value of {name} has a line break, control or non-ASCII character: encode it"
            )
        size_bytes += len(name) + len(value) + 4
    if size_bytes > REQUEST_HEADER_BYTES_MAX:
        raise OutboundError(
            "header", f"headers of {size_bytes} bytes; {REQUEST_HEADER_BYTES_MAX} are allowed"
        )


def check_timeout(timeout_s: float) -> None:
    """Raise `OutboundError` unless ``timeout_s`` is a positive, finite number of seconds."""
    if not (math.isfinite(timeout_s) and timeout_s > 0):
        raise OutboundError("header", f"a time limit is a number of seconds above 0, not {timeout_s}")


def encode_headers(
    headers: Headers, origin: Origin, method: str, body_bytes: int, substitute: Substitute | None
) -> list[tuple[bytes, bytes]]:
    """Return the header fields to send, with the values of secrets in them: don't keep the result."""
    fields = [(b"host", origin.authority.encode())]
    names = set()
    for name, value in headers:
        encoded = value.strip(" \t").encode()
        if substitute is not None:
            encoded = substitute(encoded)
            if _FIELD_VALUE.fullmatch(encoded) is None:
                raise OutboundError(
                    "header", f"the secret in {name} has a character that headers can't carry"
                )
        lower = name.lower()
        names.add(lower)
        fields.append((lower.encode(), encoded))
    for default, default_value in _DEFAULT_HEADERS:
        if default not in names:
            fields.append((default.encode(), default_value))
    if body_bytes or method in ("POST", "PUT", "PATCH"):
        fields.append((b"content-length", b"%d" % body_bytes))
    return fields


def encode_carried(
    policy: OutboundPolicy, headers: Headers, origin: Origin, *, is_private: bool
) -> list[tuple[bytes, bytes]]:
    """Return the fields of the trace to send to ``origin``: none where the function has set its own."""
    if any(name.lower() in FIELDS for name, _value in headers):
        return []
    if not policy.carried_to.covers(origin, is_private=is_private):
        return []
    return [(name.encode(), value.encode()) for name, value in policy.carried]


_DEFAULT_HEADERS = (
    ("user-agent", f"flux/{__version__}".encode()),
    ("accept", b"*/*"),
    # Nothing is unpacked on the way, so nothing packed is asked for. A function that wants gzip says so.
    ("accept-encoding", b"identity"),
)
