"""The checks between a client and a function: other sites' pages, rates, and who it is.

`Gate.admit` sees a request's head and says what becomes of it, before a byte of its body is read and before anything
is run. What it refuses is no execution: nothing of the project's has run, there is nothing to replay, and who floods us
with refusals must not fill the database with them. Refusals are counted (``flux_requests_refused_total``) and told,
a line for the first of a kind and then one a minute.

What it decides by is what the deployment's own ``flux.toml`` says; the decisions themselves are
`flux.cors`, `flux.caller`, `flux.rate_limit` and `flux.bearer`.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import attrs
import trio

from flux.bearer import BEARER, AuthConfig, TokenRefused, find_bearer, list_scopes
from flux.caller import Caller, find_caller
from flux.cors import OWN, answer_preflight, is_preflight, make_headers
from flux.errors import OperatorError
from flux.hostcalls.base import Clock
from flux.hostcalls.http import HttpClient
from flux.message import Admission, HttpResponse, RequestHead, problem
from flux.rate_limit import Buckets, RateLimit, group_address, retry_after
from flux.routes import Found, Match, NotFound, answer_unmatched
from flux.store.postgres import DatabaseError
from flux.store.tokens import API, TokenFound, digest_token
from flux.supervisor.console_door import TOKEN_CHARACTERS_MAX, TOKEN_PREFIX, FindToken
from flux.supervisor.deployments import LiveDeployment
from flux.supervisor.inputs import UnreadableInputError, parse_json
from flux.supervisor.runnable import Runnable

if TYPE_CHECKING:
    from flux.supervisor.token_keys import TokenKeys

UNMATCHED_BODY_BYTES_MAX = 8 * 2**20
"""A request that nobody answers is refused for that, not for its size."""

TELL_AGAIN_S = 60.0
_CONFIGS_MAX = 4
"""Of so many ``[http.auth]`` the keys are kept: the one before is still served while it drains."""
LOOKUPS_AT_ONCE = 4
API_PREFIX = f"{TOKEN_PREFIX}{API}_"
_NEEDED = {"jwt": "a bearer token", "api_key": "an API key, as a bearer token,"}


@attrs.frozen
class Ticket:
    """What was found out of a request that may come in."""

    live: LiveDeployment
    """The deployment that it was admitted to: what was checked for one says nothing about the next."""
    found: Found[Runnable]
    """Which function answers it, if one does."""
    caller: Caller
    """Who made it."""
    claims: Mapping[str, Any] = attrs.field(factory=dict)
    """What its token says, or of a key its name as ``sub``; empty where none was asked for."""
    auth: bytes = b""
    """Who it was made for, as `flux.execution.Trigger.auth` has it; empty where nobody was asked."""


class _Refusal(Exception):
    """Not this request."""

    def __init__(self, response: HttpResponse) -> None:
        super().__init__(response.status)
        self.response = response


class Gate:
    """See the module. One for a server: buckets, keys and counts outlive deployments."""

    def __init__(
        self,
        http: HttpClient,
        find_token: FindToken,
        find_secret: Callable[[str], str | None],
        note: Callable[[str], None],
        clock: Clock,
        now: Callable[[], float] = trio.current_time,
        *,
        scheme: str = "http",
    ) -> None:
        """``http`` fetches keys, ``find_token`` looks one of ours up; ``note`` hears of refusals.

        ``now`` gives seconds that never go back; ``scheme`` is that of connections.
        """
        self._scheme = scheme
        self._http = http
        self._find_token = find_token
        self._lookups = trio.CapacityLimiter(LOOKUPS_AT_ONCE)
        self._find_secret = find_secret
        self._note = note
        self._clock = clock
        self._now = now
        self._buckets = Buckets()
        self._keys: dict[AuthConfig, TokenKeys] = {}
        self._refused: Counter[str] = Counter()
        self._told: dict[str, tuple[float, int]] = {}

    @property
    def refused(self) -> Mapping[str, int]:
        """Requests refused so far, by the code that they were answered with."""
        return self._refused

    async def admit(self, live: LiveDeployment, head: RequestHead) -> Admission:
        """Say what becomes of a request that ``live`` is to answer."""
        config = live.config.gate
        found = live.routes.match(head.method, head.raw_path)
        admission = Admission(
            found.target.bounds.limits.body_bytes_max if isinstance(found, Match) else UNMATCHED_BODY_BYTES_MAX
        )
        if config.cors is not None:
            headers = make_headers(config.cors, head)
            if is_preflight(head):
                methods = live.routes.list_methods(head.raw_path)
                if not methods:
                    unknown = answer_unmatched(NotFound(), head.method, head.path)
                    return attrs.evolve(admission, answer=unknown, headers=headers)
                answer = answer_preflight(config.cors, head, methods)
                if answer.status == 403:
                    self.count_refusal("FORBIDDEN", "another site's page asked, and [http.cors] does not name it")
                return attrs.evolve(admission, answer=answer, headers=headers)
            admission = attrs.evolve(admission, headers=headers, drops=OWN)
        ticket = Ticket(live, found, find_caller(head, config.proxies, scheme=self._scheme))
        try:
            # By address first: who guesses tokens is counted as well.
            self._limit(ticket, by_client=True)
            ticket = await self._identify(ticket, head)
            self._limit(ticket, by_client=False)
        except _Refusal as refusal:
            return attrs.evolve(admission, answer=refusal.response)
        return attrs.evolve(admission, ticket=ticket)

    def _limit(self, ticket: Ticket, *, by_client: bool) -> None:
        """Refuse a client that asks too often."""
        for place, limit in _limits_of(ticket):
            if (limit.by == "client") is not by_client:
                continue
            wait_s = self._buckets.take(limit, (place, _who(ticket, limit.by)), self._now())
            if wait_s:
                self.count_refusal("RATE_LIMITED", f"more than {limit.text} of one {limit.by}, by {place}")
                detail = f"asked too often: {limit.text} are answered; try again in {retry_after(wait_s)} s"
                raise _refuse(429, "RATE_LIMITED", detail, ("retry-after", retry_after(wait_s)))

    async def _identify(self, ticket: Ticket, head: RequestHead) -> Ticket:
        """Return the ticket with who the request is made for, where the function asks that; or refuse."""
        if not isinstance(ticket.found, Match):
            return ticket
        config = ticket.live.config
        name = ticket.found.target.function.name
        table, kind = config.get_function(name), config.get_auth(name)
        if kind == "none":
            return ticket
        token = None
        scheme = BEARER if kind == "api_key" else config.gate.auth.scheme
        challenge = f'{scheme} realm="flux"'
        try:
            token = find_bearer(head, scheme)
            if token is None and kind == "jwt_optional":
                return ticket
            if token is None:
                raise TokenRefused(f"{_NEEDED[kind]} is needed")
            if kind != "api_key":
                claims = await self._find_keys(config.gate.auth).verify(token, self._clock.now_ns() / 1e9)
                auth, scopes = _write_auth(claims), list_scopes(claims)
            else:
                found = await self._find_api_key(token)
                claims, scopes = {"sub": found.name}, found.scopes
                auth = json.dumps({"kind": "api_key", "subject": found.name, "scopes": list(scopes)}).encode()
        except TokenRefused as refused:
            self.count_refusal("UNAUTHORIZED", str(refused))
            # RFC 6750, section 3.1: who brought nothing is told what is needed, and no error.
            error = "" if token is None else f', error="invalid_token", error_description="{refused}"'
            raise _refuse(401, "UNAUTHORIZED", str(refused), ("www-authenticate", challenge + error)) from refused
        except (OperatorError, DatabaseError) as error:
            # We don't know, so nobody is let in, and nobody is told that it is the token.
            self.count_refusal("OVERLOADED", f"who asked could not be found out, {error.code}")
            detail = f"who asks can't be found out at present: {error.code}"
            raise _refuse(503, "OVERLOADED", detail, ("retry-after", "10")) from error
        missing = [scope for scope in table.scopes if scope not in scopes]
        if missing:
            self.count_refusal("FORBIDDEN", "a scope was missing")
            challenge += f', error="insufficient_scope", scope="{" ".join(table.scopes)}"'
            raise _refuse(403, "FORBIDDEN", f"this needs the scope {missing[0]}", ("www-authenticate", challenge))
        return attrs.evolve(ticket, claims=claims, auth=auth)

    async def _find_api_key(self, token: str) -> TokenFound:
        """Return the key that was made as ``token``; raise `TokenRefused`."""
        found, now = None, datetime.fromtimestamp(self._clock.now_ns() / 1e9, UTC)
        # What can't be one is not looked up, and whoever guesses does not get all connections for it.
        if token.startswith(API_PREFIX) and len(token) <= TOKEN_CHARACTERS_MAX:
            async with self._lookups:
                found = await self._find_token(digest_token(token), now)
        if found is None or found.kind != API or not found.is_good(now):
            raise TokenRefused("the key is unknown, was revoked or has expired")
        return found

    def _find_keys(self, config: AuthConfig) -> "TokenKeys":
        keys = self._keys.get(config)
        if keys is None:
            # Imported by those who need it: see there.
            from flux.supervisor.token_keys import TokenKeys

            keys = TokenKeys(config, self._http, self._find_secret, self._note)
            while len(self._keys) >= _CONFIGS_MAX:
                self._keys.pop(next(iter(self._keys)))
            self._keys[config] = keys
        return keys

    def count_refusal(self, code: str, why: str) -> None:
        """Count a request that was not let in, and tell it. ``why`` is not the client's to choose."""
        self._refused[code] += 1
        now = self._now()
        told_at, count = self._told.get(why, (-TELL_AGAIN_S, 0))
        count += 1
        if now - told_at >= TELL_AGAIN_S:
            # A line a kind, and kinds are of flux.toml: whoever is refused decides neither how many nor what they say.
            times = f"{count} times" if count > 1 else "once"
            self._note(f"refused with {code}, {times}: {why}")
            told_at, count = now, 0
        self._told[why] = (told_at, count)


def _refuse(status: int, code: str, detail: str, header: tuple[str, str]) -> _Refusal:
    response = problem(status, code, detail)
    return _Refusal(attrs.evolve(response, headers=(*response.headers, header)))


def _write_auth(claims: Mapping[str, Any]) -> bytes:
    """Return who a token is for, as the record and the function get it; raise `TokenRefused` for what can't travel."""
    auth = json.dumps({"kind": "jwt", "subject": claims.get("sub", ""), "claims": claims}, ensure_ascii=False)
    try:
        data = auth.encode()
        parse_json(data)
    except (UnicodeEncodeError, UnreadableInputError) as error:
        raise TokenRefused("the token says what can't be handed on") from error
    return data


def _who(ticket: Ticket, by: str) -> str:
    """Return who is counted. Of what tokens say only a digest: their length is not ours to choose."""
    name = {"client": "", "subject": "sub"}.get(by, by.partition(":")[2])
    said = ticket.claims.get(name) if name else None
    if said is None or said == "":
        return group_address(ticket.caller.client)
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _limits_of(ticket: Ticket) -> list[tuple[str, RateLimit]]:
    """Return which limits hold for the request, each with the table that sets it."""
    config, limits = ticket.live.config, []
    if config.gate.rate_limit is not None:
        limits.append(("[http.rate_limit]", config.gate.rate_limit))
    if isinstance(ticket.found, Match):
        name = ticket.found.target.function.name
        own = config.get_function(name).rate_limit
        if own is not None:
            limits.append((f"[functions.{name}.rate_limit]", own))
    return limits
