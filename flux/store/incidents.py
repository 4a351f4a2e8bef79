"""Time windows that somebody gave a name: what ``flux incident pin`` keeps and ``flux incident list`` shows."""

from datetime import datetime

import attrs

from flux.store.postgres import Pool
from flux.store.queries import QUERIES


@attrs.frozen
class Incident:
    """A window with a name."""

    name: str
    since: datetime
    until: datetime
    pinned_at: datetime
    count: int
    """Executions that began in it."""
    failed: int
    """Of them, those that answered 500 and up."""


async def list_incidents(pool: Pool, tenant: str) -> list[Incident]:
    """Return all of a tenant's, the latest window first."""
    async with pool.acquire() as connection:
        rows = await connection.fetch(QUERIES.list_incidents, tenant)
    return [Incident(**dict(row.items())) for row in rows]


async def find_incident(pool: Pool, tenant: str, name: str) -> tuple[datetime, datetime] | None:
    """Return from when to when the window of this name is, or None."""
    async with pool.acquire() as connection:
        row = await connection.fetch_row(QUERIES.find_incident, tenant, name)
    return None if row is None else (row["since"], row["until"])


async def pin_incident(pool: Pool, tenant: str, name: str, since: datetime, until: datetime) -> bool:
    """Give a window a name; False when the name is another's."""
    async with pool.acquire() as connection:
        return await connection.fetch_value(QUERIES.pin_incident, tenant, name, since, until) is not None
