"""How much was going on: executions counted by when they began."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import attrs

from flux.store.postgres import Pool
from flux.store.queries import QUERIES


@attrs.frozen
class Bucket:
    """A piece of time."""

    since: datetime
    executions: int
    failed: int
    """Of these, the ones that went wrong: cut off, answered 500 or above, or failed with nobody to answer."""


async def count_activity(pool: Pool, since: datetime, step: timedelta, buckets: int) -> Sequence[Bucket]:
    """Return so many pieces of time from ``since`` on, with what began in each; replays do not count."""
    async with pool.acquire() as connection:
        rows = await connection.fetch(QUERIES.count_activity, since, step.total_seconds(), buckets)
    return [Bucket(since + step * row["bucket"], row["executions"], row["failed"]) for row in rows]
