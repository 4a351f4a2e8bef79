"""The tables of sealed values: a tenant's key, and its secrets. What is sealed is opened elsewhere, never here.

Which key opens them is known for as long as a `holding_keys` block lasts, and not beyond: another master key is put
into force in a `changing_keys` block, of which a database has one at a time, and none beside a `holding_keys` block.
These are locks of the table, and no advisory ones: those are anybody's, and a function could hold them.

`flux.secret` is read whole: a tenant has tens of secrets, and no more than `SECRETS_MAX`. Whoever changes one also
moves the tenant's ``version``, by which other servers on the same database learn that there is something to read.
"""

import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import datetime

import attrs

from flux.store.postgres import Connection
from flux.store.queries import QUERIES

SECRETS_MAX = 1000
"""Of one tenant."""
LOCK_TIMEOUT = "30s"
"""How long another master key waits for those who open or seal."""
SECRETS_READ_MAX = 2 * SECRETS_MAX
"""What is read: several servers may each have added the last one."""


@attrs.frozen
class SealedSecret:
    """A secret as the database holds it."""

    name: str
    sealed: bytes
    changed_at: datetime


@contextlib.asynccontextmanager
async def holding_keys(connection: Connection) -> AsyncIterator[None]:
    """A transaction in which what is sealed stays sealed with what it is."""
    async with connection.transaction(isolation="read committed"):
        await connection.execute("lock table flux.tenant_key in row exclusive mode")
        yield


@contextlib.asynccontextmanager
async def changing_keys(connection: Connection) -> AsyncIterator[None]:
    """A transaction that seals everything anew, while nobody opens or seals."""
    async with connection.transaction(isolation="read committed"):
        # What this leaves behind opens with no key, should the commit be lost that the server has told of.
        await connection.execute("set local synchronous_commit to on")
        await connection.execute(f"set local lock_timeout to '{LOCK_TIMEOUT}'")
        await connection.execute("lock table flux.tenant_key in exclusive mode")  # To look is free.
        yield


async def has_tables(connection: Connection) -> bool:
    """Return whether there is what holds sealed values: before a tenant's first start there is nothing."""
    return bool(await connection.fetch_value(QUERIES.find_sealed_tables))


async def find_tenant_key(connection: Connection, tenant: str) -> bytes | None:
    """Return the tenant's key, sealed, or None before its first secret."""
    found: bytes | None = await connection.fetch_value(QUERIES.find_tenant_key, tenant)
    return found


async def keep_tenant_key(connection: Connection, tenant: str, sealed: bytes) -> bytes:
    """Keep a new tenant's key, unless another server was first; return the one that is kept.

    In a `holding_keys` block."""
    await connection.execute(QUERIES.add_tenant_key, tenant, sealed)
    found = await find_tenant_key(connection, tenant)
    assert found is not None
    return found


async def get_version(connection: Connection, tenant: str) -> int:
    """Return a number that is another one after each change of the tenant's secrets; 0 before the first."""
    return int(await connection.fetch_value(QUERIES.find_secrets_version, tenant) or 0)


async def list_secrets(connection: Connection, tenant: str) -> list[SealedSecret]:
    """Return all secrets of a tenant, by name; where there are more than `SECRETS_READ_MAX`, one more than that."""
    rows = await connection.fetch(QUERIES.list_secrets, tenant, SECRETS_READ_MAX + 1)
    return [SealedSecret(row["name"], row["sealed"], row["changed_at"]) for row in rows]


async def put_secret(connection: Connection, tenant: str, name: str, sealed: bytes) -> None:
    """Keep a secret, in the place of the one that has its name. In a `holding_keys` block."""
    await connection.execute(QUERIES.put_secret, tenant, name, sealed)
    await connection.execute(QUERIES.move_secrets_version, tenant)


async def reseal(connection: Connection, tenant: str, key: bytes, secrets: Sequence[SealedSecret]) -> None:
    """Keep a tenant's key and secrets as they are sealed now. In a `changing_keys` block."""
    for each in secrets:
        await connection.execute(QUERIES.reseal_secret, tenant, each.name, each.sealed)
    await connection.execute(QUERIES.reseal_tenant_key, tenant, key)


async def delete_secret(connection: Connection, tenant: str, name: str) -> bool:
    """Take a secret out; say whether there was one."""
    # Its row before the key's, and whoever changes keys has the key's first: each would wait for the other.
    async with holding_keys(connection):
        was_there = await connection.fetch_value(QUERIES.delete_secret, tenant, name) is not None
        await connection.execute(QUERIES.move_secrets_version, tenant)
    return was_there
