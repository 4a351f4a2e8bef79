"""Time windows that somebody gave a name: what ``flux incident pin`` keeps and ``flux incident list`` shows."""

from datetime import datetime

import attrs

from flux.store.postgres import DatabaseError, Pool
from flux.store.queries import QUERIES
from flux.store.retention import PruningElsewhereError

PRUNING_WAIT = "10s"
"""A day that is being taken out is waited for so long."""
LOCK_NOT_AVAILABLE = "55P03"


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


@attrs.frozen
class WindowCount:
    """What began in a window."""

    executions: int
    """Replays left out."""
    failed: int
    """Of them, those that answered 500 and up."""


async def count_window(pool: Pool, tenant: str, since: datetime, until: datetime) -> WindowCount:
    """Count what began in a window."""
    async with pool.acquire() as connection:
        row = await connection.fetch_row(QUERIES.count_window, tenant, since, until)
    assert row is not None, "an aggregate has a row"
    return WindowCount(row["executions"], row["failed"])


@attrs.frozen
class Pinned:
    """A window that has its name now."""

    log_since: datetime | None
    """Where what is left of the log of changes begins, when that is after the window does; else None."""


async def pin_incident(pool: Pool, tenant: str, name: str, since: datetime, until: datetime) -> Pinned | None:
    """Give a window a name; None when the name is another's.

    From then on nothing of it is taken out. What is being taken out is waited for.
    """
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(f"set local lock_timeout to '{PRUNING_WAIT}'")
        try:
            await connection.fetch(QUERIES.share_pins)
        except DatabaseError as error:
            if error.sqlstate != LOCK_NOT_AVAILABLE:
                raise
            raise PruningElsewhereError(
                f'the window "{name}" is not pinned: a day that is old is just being taken out, and it may be in it',
                remedy="try again in a while",
            ) from error
        if await connection.fetch_value(QUERIES.pin_incident, tenant, name, since, until) is None:
            return None
        start = await connection.fetch_row(QUERIES.get_recording_start)
    assert start is not None, "it selects constants"
    pruned = start["pruned_until"]
    return Pinned(pruned if pruned is not None and since < pruned else None)
