"""How much was going on: executions counted by when they began."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import attrs

from flux.store.postgres import Pool
from flux.store.queries import QUERIES
from flux.store.summaries import SLACK


@attrs.frozen
class Bucket:
    """A piece of time."""

    since: datetime
    executions: int = 0
    failed: int = 0
    """Of these, the ones that went wrong: cut off, answered 500 or above, or failed with nobody to answer."""


async def count_activity(pool: Pool, since: datetime, step: timedelta, buckets: int) -> Sequence[Bucket]:
    """Return so many pieces of time from ``since`` on, with what began in each; replays do not count."""
    until = since + step * buckets
    async with pool.acquire() as connection:
        rows = await connection.fetch(
            QUERIES.count_activity, since, until, since - SLACK, until + SLACK, step.total_seconds()
        )
    found = {row["bucket"]: row for row in rows}
    return [
        Bucket(since + step * number, found[number]["executions"], found[number]["failed"])
        if number in found
        else Bucket(since + step * number)
        for number in range(buckets)
    ]
