"""Who may speak to the console, and how a refusal looks.

The console can run functions and show everything that was ever recorded, so it is
closed to whoever does not have its token. A browser adds two ways around that,
and both are closed here. A page of another site can make a browser send requests
to loopback: so ``Origin`` must be absent or ours. And a name of the attacker's
can be made to mean 127.0.0.1 (DNS rebinding): so ``Host`` must be a loopback name, or one
that the operator gave. Bodies have to be JSON, which no form of another site can send unasked.
"""

import hmac
import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

import attrs

from flux.message import HttpResponse, RequestHead, problem

_FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")


@attrs.frozen
class Door:
    """What is asked of a request before anything else is."""

    token: str
    """The bearer token."""
    hosts: Collection[str] = ()
    """Names besides loopback under which the console is reached, without port, in lower case."""

    def refuse(self, head: RequestHead) -> HttpResponse | None:
        """Return the answer to a request that may not come in, or None when it may."""
        if (refusal := self.refuse_place(head)) is not None:
            return refusal
        scheme, _, given = (head.header("authorization") or "").partition(" ")
        # Compared as bytes: compare_digest takes text only when it is ASCII, and headers are anything.
        if scheme.lower() != "bearer" or not hmac.compare_digest(
            given.strip().encode("latin-1", "replace"), self.token.encode()
        ):
            is_wrong = scheme.lower() == "bearer" and given.strip()
            said = "this token is not the server's" if is_wrong else "a bearer token is needed"
            refusal = problem(
                401, "UNAUTHORIZED", said, extra={"remedy": "the token is in .flux/dev.json, or in FLUXRT_TOKEN"}
            )
            return attrs.evolve(refusal, headers=(*refusal.headers, ("www-authenticate", "Bearer")))
        if head.method == "POST" and not _is_json(head):
            return problem(415, "UNSUPPORTED_MEDIA_TYPE", "a POST to the console is application/json")
        return None

    def refuse_place(self, head: RequestHead) -> HttpResponse | None:
        """Return the answer to a request for another host or from another site, or None."""
        host = head.header("host") or ""
        if not self._is_ours(host):
            return problem(
                403, "FORBIDDEN", f'this console is not called "{host[:200]}"',
                extra={"remedy": "use 127.0.0.1 or localhost, or the host that the server was given"},
            )  # fmt: skip
        origin = head.header("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return problem(403, "FORBIDDEN", f'requests from the site "{origin[:200]}" are refused')
        if head.header("sec-fetch-site") in ("cross-site", "same-site"):
            return problem(403, "FORBIDDEN", "requests that another site makes are refused")
        return None

    def is_from_here(self, head: RequestHead) -> bool:
        """Return whether a request comes from this machine, for this machine, and through no proxy."""
        return (
            _is_loopback(_without_port(head.peer))
            and _is_loopback_name(_without_port(head.header("host") or ""))
            and not any(head.header(name) for name in _FORWARDED)
        )

    def _is_ours(self, host: str) -> bool:
        name = _without_port(host)
        return _is_loopback_name(name) or name in self.hosts


def _is_json(head: RequestHead) -> bool:
    kind = (head.header("content-type") or "").partition(";")[0].strip().lower()
    return kind == "application/json"


def _without_port(host: str) -> str:
    """``[::1]:4000`` is ``::1``; ``localhost.:4000`` is ``localhost``. What is no host stays no host."""
    if host.startswith("["):
        inner, _, rest = host[1:].partition("]")
        return inner.lower() if not rest or rest[:1] == ":" else host
    name, _, port = host.rpartition(":")
    if name and port.isdigit() and ":" not in name:
        host = name
    return host.lower().rstrip(".")


def _is_loopback_name(name: str) -> bool:
    # RFC 6761, section 6.3: names under "localhost." mean this machine, whoever resolves them.
    return name == "localhost" or name.endswith(".localhost") or _is_loopback(name)


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
