"""Who may speak to the console, and how a refusal looks.

The console can run functions and show everything that was ever recorded, so it is closed to whoever does not have a
token: the server's own, which is new at each start and allows everything, or one that ``flux token create`` made, which
allows what its scope says until it expires or is revoked. A browser adds two ways around that, and both are closed
here. A page of another site can make a browser send requests to loopback: so ``Origin`` must be absent or ours. And a
name of the attacker's can be made to mean 127.0.0.1 (DNS rebinding): so ``Host`` must be a loopback name, or one that
the operator gave. Bodies have to be JSON, which no form of another site can send unasked.
"""

import hmac
import ipaddress
from collections.abc import Awaitable, Callable, Collection
from datetime import UTC, datetime
from urllib.parse import urlsplit

import attrs
import trio

from flux.message import HttpResponse, RequestHead, problem
from flux.scopes import Scope, allows
from flux.store.tokens import CONSOLE, TokenFound, digest_token

_FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")


FindToken = Callable[[bytes, datetime], Awaitable[TokenFound | None]]
"""Looks a token up by its digest, at a time."""

TOKEN_PREFIX = "flux_"
"""What tokens that were made begin with, so that they are found where they should not be. Others are not looked up."""
TOKEN_CHARACTERS_MAX = 100
LOOKUPS_AT_ONCE = 2
"""Whoever guesses tokens shall not have all of the console's connections."""


async def _find_none(_digest: bytes, _now: datetime) -> TokenFound | None:
    await trio.lowlevel.checkpoint()
    return None


@attrs.frozen
class Door:
    """What is asked of a request before anything else is."""

    token: str
    """The bearer token of this start of the server."""
    hosts: Collection[str] = ()
    """Names besides loopback under which the console is reached, without port, in lower case."""
    find_token: FindToken = _find_none
    """Looks up the others."""
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    """By this clock they expire."""
    _lookups: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(LOOKUPS_AT_ONCE), init=False)

    async def refuse(self, head: RequestHead, needed: Scope) -> HttpResponse | None:
        """Return the answer to a request that may not come in, or None when it may."""
        if (refusal := self.refuse_place(head)) is not None:
            return refusal
        scheme, _, given = (head.header("authorization") or "").partition(" ")
        given = given.strip()
        if scheme.lower() != "bearer" or not given:
            return _unauthorised("a bearer token is needed")
        return await self.refuse_token(given, needed) or self.refuse_body(head)

    def refuse_body(self, head: RequestHead) -> HttpResponse | None:
        """Return the answer to a body of a kind that pages of other sites can send, or None."""
        if head.method == "POST" and not _is_json(head):
            return problem(415, "UNSUPPORTED_MEDIA_TYPE", "a POST to the console is application/json")
        return None

    async def refuse_token(self, given: str, needed: Scope) -> HttpResponse | None:
        """Return the answer to who shows a token that is not good for ``needed``, or None."""
        # Compared as bytes: compare_digest takes text only when it is ASCII, and headers are anything.
        if hmac.compare_digest(given.encode("latin-1", "replace"), self.token.encode()):
            return None
        found, now = None, self.now()
        if given.startswith(TOKEN_PREFIX) and len(given) <= TOKEN_CHARACTERS_MAX:
            async with self._lookups:
                found = await self.find_token(digest_token(given), now)
        if found is None or found.kind != CONSOLE:
            return _unauthorised("this token is not the server's")
        if not found.is_good(now):
            how = "was revoked" if found.revoked_at is not None else "has expired"
            return _unauthorised(f'the token "{found.name}" {how}', remedy="flux token create makes another one")
        if not allows(found.scopes, needed):
            return problem(
                403, "FORBIDDEN",
                f'the token "{found.name}" has the scope {", ".join(found.scopes)}, and this takes {needed.word}',
                extra={"remedy": f"use one that has it: flux token create NAME --scope {needed.word}"},
            )  # fmt: skip
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
        if origin is not None and _get_site(origin) != host.lower():
            return problem(403, "FORBIDDEN", f'requests from the site "{origin[:200]}" are refused')
        if head.header("sec-fetch-site") in ("cross-site", "same-site"):
            return problem(403, "FORBIDDEN", "requests that another site makes are refused")
        return None

    def is_from_here(self, head: RequestHead) -> bool:
        """Return whether a request comes from this machine, for this machine, and through no proxy."""
        return (
            _is_loopback(without_port(head.peer))
            and is_loopback_name(without_port(head.header("host") or ""))
            and not any(head.header(name) for name in _FORWARDED)
        )

    def _is_ours(self, host: str) -> bool:
        name = without_port(host)
        return is_loopback_name(name) or name in self.hosts


def _unauthorised(said: str, *, remedy: str = "the token is in .flux/dev.json, or in FLUXRT_TOKEN") -> HttpResponse:
    refusal = problem(401, "UNAUTHORIZED", said, extra={"remedy": remedy})
    return attrs.evolve(refusal, headers=(*refusal.headers, ("www-authenticate", "Bearer")))


def _is_json(head: RequestHead) -> bool:
    kind = (head.header("content-type") or "").partition(";")[0].strip().lower()
    return kind == "application/json"


def without_port(host: str) -> str:
    """``[::1]:4000`` is ``::1``; ``localhost.:4000`` is ``localhost``. What is no host stays no host."""
    if host.startswith("["):
        inner, _, rest = host[1:].partition("]")
        return inner.lower() if not rest or rest[:1] == ":" else host
    name, _, port = host.rpartition(":")
    if name and port.isdigit() and ":" not in name:
        host = name
    return host.lower().rstrip(".")


def _get_site(origin: str) -> str | None:
    """Return host and port of an ``Origin``; None where it has none, or can't be read."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def is_loopback_name(name: str) -> bool:
    """Say whether a name means this machine, whoever resolves it."""
    # RFC 6761, section 6.3: names under "localhost." mean this machine, whoever resolves them.
    return name == "localhost" or name.endswith(".localhost") or _is_loopback(name)


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
