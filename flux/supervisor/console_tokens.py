"""The console's questions about tokens: making one, which is the only time that it is shown, rotating, revoking."""

import re
import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import msgspec

from flux.errors import OperatorError
from flux.limits import UnreadableQuantityError, parse_duration_s
from flux.scopes import WORDS
from flux.store import tokens
from flux.store.postgres import Pool
from flux.store.tokens import API, CONSOLE, TokenFound, digest_token
from flux.supervisor.console_door import TOKEN_PREFIX
from flux.supervisor.console_query import BadQueryError, Query
from flux.supervisor.present import Document, show_moment

EXPIRES_S_MAX = 3650 * 86_400.0
GRACE_S_MAX = 30 * 86_400.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,99}\Z", re.ASCII)
_SCOPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/*-]{0,99}\Z", re.ASCII)
_SCOPES_MAX = 50


_T = TypeVar("_T", bound=msgspec.Struct)


class NoSuchTokenError(OperatorError):
    """No token of this name is left to revoke."""

    code = "FLX804"
    exit_code = 3


class TokenNameInUseError(OperatorError):
    """Another token of this name is good."""

    code = "FLX805"


class BadTokenError(OperatorError):
    """What is asked for can't be a token."""

    code = "FLX806"


class _Order(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    kind: str = CONSOLE
    scopes: list[str] | None = None
    expires: str | None = None


class _Which(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    kind: str = CONSOLE


class _Rotation(_Which):
    grace: str | None = None


class TokensDesk:
    """Answers them, for one tenant."""

    def __init__(self, pool: Pool, tenant: str, now: Callable[[], datetime]) -> None:
        self._pool = pool
        self._tenant = tenant
        self._now = now

    async def list_tokens(self, _query: Query) -> Document:
        """Return all, revoked ones too."""
        found = await tokens.list_tokens(self._pool, self._tenant)
        return {"schema": "flux.tokens/1", "tokens": [self._token_json(each) for each in found]}

    async def create(self, body: bytes) -> Document:
        """Make one."""
        order = _decode(body, _Order)
        _check_order(order)
        scopes = order.scopes or (["read"] if order.kind == CONSOLE else [])
        now = self._now().astimezone(UTC)
        expires_at = None if order.expires is None else now + timedelta(seconds=_read_duration(order.expires))
        text = _draw(order.kind)
        kept = await tokens.add_token(
            self._pool, self._tenant, order.kind, order.name, digest_token(text), scopes, now, expires_at
        )
        if kept is None:
            raise TokenNameInUseError(
                f'a token is named "{order.name}" already, and is not revoked',
                remedy="give this one another name, or revoke that one first: flux token revoke " + order.name,
            )
        return {"schema": "flux.token/1", "token": text, **self._token_json(kept)}

    async def rotate(self, body: bytes) -> Document:
        """Give one another value; the old one is good for a while, if that is said, or is refused from now on."""
        said = _decode(body, _Rotation)
        now = self._now().astimezone(UTC)
        grace_s = 0.0 if said.grace is None else _read_grace(said.grace)
        text = _draw(said.kind)
        found = await tokens.rotate_token(
            self._pool, self._tenant, said.kind, said.name, digest_token(text), now, now + timedelta(seconds=grace_s)
        )
        if found is None:
            raise NoSuchTokenError(
                f'no {said.kind[:20]} token named "{said.name[:200]}" can be used',
                remedy=f"flux token list; make one: flux token create {said.name[:200]}",
            )
        return {"schema": "flux.token/1", "token": text, **self._token_json(found)}

    async def revoke(self, body: bytes) -> Document:
        """Have one refused from now on."""
        which = _decode(body, _Which)
        now = self._now().astimezone(UTC)
        found = await tokens.revoke_token(self._pool, self._tenant, which.kind, which.name, now)
        if found is None:
            raise NoSuchTokenError(
                f'no {which.kind[:20]} token named "{which.name[:200]}" is left to revoke', remedy="flux token list"
            )
        return {"schema": "flux.tokens/1", "tokens": [self._token_json(found)]}

    def _token_json(self, found: TokenFound) -> Document:
        def show(moment: datetime | None) -> str | None:
            return None if moment is None else show_moment(moment)

        return {
            "name": found.name,
            "kind": found.kind,
            "scopes": list(found.scopes),
            "good": found.is_good(self._now()),
            "created_at": show(found.created_at),
            "expires_at": show(found.expires_at),
            "revoked_at": show(found.revoked_at),
            "last_used_at": show(found.last_used_at),
        }


def _check_order(order: _Order) -> None:
    if order.kind not in (CONSOLE, API):
        raise BadTokenError(f'"{order.kind[:100]}" is no kind of token', remedy=f"{CONSOLE} or {API}")
    if not _NAME.match(order.name):
        raise BadTokenError(
            f'"{order.name[:200]}" can\'t be a token\'s name',
            remedy="letters, digits and ._@-, 100 at most: ci-deploys",
        )
    scopes = order.scopes or []
    if order.kind == CONSOLE:
        if len(scopes) > 1 or (scopes and scopes[0] not in WORDS):
            raise BadTokenError(
                f'"{", ".join(scopes)[:200]}" is no scope of the console',
                remedy=f"one of {', '.join(WORDS)}: each has what is before it",
            )
    elif len(scopes) > _SCOPES_MAX or not all(_SCOPE.match(scope) for scope in scopes):
        raise BadTokenError("these can't be scopes", remedy=f"words without spaces, {_SCOPES_MAX} at most: orders:read")


def _draw(kind: str) -> str:
    return f"{TOKEN_PREFIX}{kind}_{secrets.token_urlsafe(32)}"


def _read_grace(text: str) -> float:
    try:
        seconds = parse_duration_s(text)
    except UnreadableQuantityError as error:
        raise BadTokenError(f"grace {error.message}", remedy=error.remedy) from error
    if seconds > GRACE_S_MAX:
        raise BadTokenError(f'"{text}" is too long for both values to be good', remedy="30d at most")
    return seconds


def _read_duration(text: str) -> float:
    try:
        seconds = parse_duration_s(text)
    except UnreadableQuantityError as error:
        raise BadTokenError(f"expires {error.message}", remedy=error.remedy) from error
    if not 1 <= seconds <= EXPIRES_S_MAX:
        raise BadTokenError(f'"{text}" is no time after which a token may expire', remedy="from 1s to 3650d")
    return seconds


def _decode(body: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadQueryError(f"the body is not what it should be: {error}", remedy="see docs/console-api.md") from error
