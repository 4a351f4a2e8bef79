"""``http.request``: how a function reaches the rest of the world.

A function has no sockets. It names a method, a URL, headers and a body; we ask in
its place, write the answer down, and a replay hears the same answer with every
server down. What may be asked is decided by grants (`flux.grants`), how it is done
by `flux.hostcalls.http_client`; this file is where a guest's arguments become a
request and a failure becomes something that the guest sees raised, with the facts
that ``flux why`` explains it by.

``docs/host-calls/http.md`` says the same to those who write functions.
"""

from flux import values
from flux.hostcall import Effect
from flux.hostcalls.base import CallContext, HostCallFailed, HostCallKind, check_arguments
from flux.hostcalls.http_client import HttpClient
from flux.hostcalls.http_outbound import (
    DEFAULT_TIMEOUT_S,
    Kind,
    LimitSource,
    OutboundError,
    OutboundPolicy,
    OutboundRequest,
)

__all__ = ["REQUEST", "HttpClient"]

_ERRORS: dict[Kind, tuple[str, str]] = {
    "refused_grant": ("GrantRefused", "FLX402"),
    "private_address": ("GrantRefused", "FLX403"),
    "url": ("HttpInvalidUrl", "FLX404"),
    "header": ("HttpInvalidRequest", "FLX405"),
    "resolve": ("HttpResolveError", "FLX406"),
    "connect": ("HttpConnectError", "FLX407"),
    "tls": ("HttpTlsError", "FLX408"),
    "timeout": ("HttpTimeout", "FLX409"),
    "protocol": ("HttpProtocolError", "FLX411"),
    "too_large": ("HttpTooLarge", "FLX412"),
    "redirects": ("HttpRedirectError", "FLX413"),
}
"""Name that the guest sees raised, and code, of each kind of `OutboundError`."""

_OPTIONS = frozenset({"headers", "body", "timeout_s", "redirects"})


async def _request(context: CallContext, arguments: list[object], seq: int) -> object:
    request = _read_arguments(arguments)
    client = context.http
    assert isinstance(client, HttpClient)
    timeout_s, source = _default_limit(context.limits.timeout_s)
    policy = OutboundPolicy(
        context.tenant, context.grants, timeout_s=timeout_s, timeout_source=source, ca_file=client.ca_file,
        carried=() if context.trace is None else context.trace.carry(seq), carried_to=context.propagation,
    )  # fmt: skip
    try:
        response = await client.request(request, policy, substitute=context.secrets.substitute)
    except OutboundError as error:
        raise _to_guest(error, request) from error
    return {
        "status": response.status,
        "headers": [[name, value] for name, value in response.headers],
        "body": values.text_or_bytes(response.body),
        "url": response.url,
        "redirects": [
            {"status": redirect.status, "url": redirect.url, "location": redirect.location}
            for redirect in response.redirects
        ],
    }


REQUEST = HostCallKind(name="http.request", effect=Effect.LEAVES, perform=_request)
"""Takes method, URL and ``{headers, body, timeout_s, redirects}``; returns the answer."""


def _default_limit(function_timeout_s: float) -> tuple[float, LimitSource]:
    if function_timeout_s < DEFAULT_TIMEOUT_S:
        return function_timeout_s, "function"
    return DEFAULT_TIMEOUT_S, "default"


def _read_arguments(arguments: list[object]) -> OutboundRequest:
    """Return the request that a guest's arguments ask for; raise `HostCallFailed` for any other shape."""
    check_arguments(REQUEST.name, arguments, str, str, dict)
    method, url, options = arguments
    assert isinstance(method, str) and isinstance(url, str) and isinstance(options, dict)
    unknown = sorted(str(key) for key in options.keys() - _OPTIONS)
    if unknown:
        raise _invalid(f"no option is called {unknown[0]!r}; there are {', '.join(sorted(_OPTIONS))}")
    headers = options.get("headers") or []
    if not isinstance(headers, list):
        raise _invalid("headers is a list of [name, value]")
    pairs: list[tuple[str, str]] = []
    for pair in headers:
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair)):
            raise _invalid("headers is a list of [name, value], both text")
        pairs.append((pair[0], pair[1]))
    body = options.get("body")
    if isinstance(body, str):
        try:
            body = body.encode()
        except UnicodeEncodeError:
            raise _invalid("the body holds half a character (a lone surrogate); send bytes") from None
    if body is not None and not isinstance(body, bytes):
        raise _invalid(f"body is text, bytes or null, not {type(body).__name__}")
    timeout_s = options.get("timeout_s")
    if timeout_s is not None and (isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float)):
        raise _invalid("timeout_s is a number of seconds or null")
    redirects = options.get("redirects", 0)
    if type(redirects) is not int or redirects < 0:
        raise _invalid("redirects is the number of redirects to follow, 0 or more")
    return OutboundRequest(method, url, tuple(pairs), body or b"", timeout_s, redirects)


def _invalid(problem: str) -> HostCallFailed:
    return HostCallFailed("InvalidArguments", f"{REQUEST.name}: {problem}", code="FLX425")


def _to_guest(error: OutboundError, request: OutboundRequest) -> HostCallFailed:
    """Return what the guest sees raised, with what ``flux why`` needs to explain it."""
    name, code = _ERRORS[error.kind]
    return HostCallFailed(
        name,
        error.message,
        code=code,
        details={
            "host": error.host,
            "port": error.port,
            "limit_s": error.limit_s,
            "limit_source": error.limit_source,
            "elapsed_ms": round(error.elapsed_s * 1000, 3),
            "has_idempotency_key": any(key.lower() == "idempotency-key" for key, _value in request.headers),
        },
    )
