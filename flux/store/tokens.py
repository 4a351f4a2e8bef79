"""Tokens: who may speak to the console, and, of the kind ``api``, to a project's own routes.

A token is 256 random bits that are shown once. What is kept is its SHA-256: with so many bits a slow hash would add
nothing, and the table is of no use to whoever reads it. Whether a token has expired is decided by whoever asks, by his
clock.
"""

import hashlib
from collections.abc import Sequence
from datetime import datetime

import attrs

from flux.store.postgres import Pool
from flux.store.queries import QUERIES

CONSOLE = "console"
API = "api"


@attrs.frozen
class TokenFound:
    """A token as the database knows it."""

    kind: str
    """`CONSOLE` or `API`."""
    name: str
    """What people called it; of one kind and name there is one that is not revoked."""
    scopes: tuple[str, ...]
    """What it allows: of the console, one of `flux.scopes.WORDS`; of a project's routes, words of the project's own."""
    created_at: datetime
    expires_at: datetime | None
    """None: it does not expire."""
    revoked_at: datetime | None
    """From when on it is refused, which may be later: it was rotated. None: it was not revoked."""
    last_used_at: datetime | None
    """To a minute; None: never."""

    def is_good(self, now: datetime) -> bool:
        """Say whether it may be used at ``now``."""
        return all(end is None or now < end for end in (self.revoked_at, self.expires_at))


def digest_token(text: str) -> bytes:
    """Return what is kept of a token."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


async def find_token(pool: Pool, tenant: str, digest: bytes, now: datetime) -> TokenFound | None:
    """Return the token of this digest, whether it is good or not; one that is, is noted as used."""
    async with pool.acquire() as connection:
        row = await connection.fetch_row(QUERIES.find_token, tenant, digest, now)
    return None if row is None else _read(dict(row.items()))


async def add_token(
    pool: Pool, tenant: str, kind: str, name: str, digest: bytes, scopes: Sequence[str], now: datetime,
    expires_at: datetime | None,
) -> TokenFound | None:  # fmt: skip
    """Keep a new token; None when there is one of this name that is not revoked."""
    async with pool.acquire() as connection:
        row = await connection.fetch_row(
            QUERIES.add_token, tenant, kind, name, digest, list(scopes), now, expires_at
        )
    return None if row is None else _read(dict(row.items()))


async def list_tokens(pool: Pool, tenant: str) -> list[TokenFound]:
    """Return all tokens of a tenant, revoked ones too, the latest first."""
    async with pool.acquire() as connection:
        rows = await connection.fetch(QUERIES.list_tokens, tenant)
    return [_read(dict(row.items())) for row in rows]


async def revoke_token(pool: Pool, tenant: str, kind: str, name: str, now: datetime) -> TokenFound | None:
    """Have a token refused from now on; None when none of this name is left to revoke."""
    async with pool.acquire() as connection:
        row = await connection.fetch_row(QUERIES.revoke_token, tenant, kind, name, now)
    return None if row is None else _read(dict(row.items()))


async def rotate_token(
    pool: Pool, tenant: str, kind: str, name: str, digest: bytes, now: datetime, old_ends_at: datetime
) -> TokenFound | None:
    """Keep another value for a token that is good, and have the old one refused later; None when there is none."""
    async with pool.acquire() as connection:
        row = await connection.fetch_row(QUERIES.rotate_token, tenant, kind, name, digest, now, old_ends_at)
    return None if row is None else _read(dict(row.items()))


def _read(row: dict[str, object]) -> TokenFound:
    return TokenFound(**{**row, "scopes": tuple(row["scopes"])})  # type: ignore[arg-type]
