"""The tables of sealed values: a tenant's key, and its secrets. What is sealed is opened elsewhere, never here.

`flux.secret` is read whole: a tenant has tens of secrets, and no more than `SECRETS_MAX`. Whoever changes one also
moves the tenant's ``version``, by which other servers on the same database learn that there is something to read.
"""

from datetime import datetime

import attrs

from flux.store.postgres import Connection
from flux.store.queries import QUERIES

SECRETS_MAX = 1000
"""Of one tenant."""
SECRETS_READ_MAX = 2 * SECRETS_MAX
"""What is read: several servers may each have added the last one."""


@attrs.frozen
class SealedSecret:
    """A secret as the database holds it."""

    name: str
    sealed: bytes
    changed_at: datetime


async def find_tenant_key(connection: Connection, tenant: str) -> bytes | None:
    """Return the tenant's key, sealed, or None before its first secret."""
    found: bytes | None = await connection.fetch_value(QUERIES.find_tenant_key, tenant)
    return found


async def keep_tenant_key(connection: Connection, tenant: str, sealed: bytes) -> bytes:
    """Keep a new tenant's key, unless another server was first; return the one that is kept."""
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
    """Keep a secret, in the place of the one that has its name."""
    async with connection.transaction():
        await connection.execute(QUERIES.put_secret, tenant, name, sealed)
        await connection.execute(QUERIES.move_secrets_version, tenant)


async def delete_secret(connection: Connection, tenant: str, name: str) -> bool:
    """Take a secret out; say whether there was one."""
    async with connection.transaction():
        was_there = await connection.fetch_value(QUERIES.delete_secret, tenant, name) is not None
        await connection.execute(QUERIES.move_secrets_version, tenant)
    return was_there
