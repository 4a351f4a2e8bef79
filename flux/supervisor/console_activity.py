"""The console's question about how much was going on lately: what a chart shows, or an alarm watches."""

from collections.abc import Callable
from datetime import datetime, timedelta

from flux.store.activity import count_activity
from flux.store.postgres import Pool
from flux.supervisor.console_query import Query, number
from flux.supervisor.present import Document, show_moment

BUCKETS = 60
MINUTES_MAX = 7 * 24 * 60


async def answer_activity(pool: Pool, now: Callable[[], datetime], query: Query) -> Document:
    """Count executions of the last ``minutes``, in sixty pieces that end with the current minute."""
    minutes = number(query, "minutes", BUCKETS, MINUTES_MAX)
    until = now().replace(second=0, microsecond=0) + timedelta(minutes=1)
    since = until - timedelta(minutes=minutes)
    buckets = await count_activity(pool, since, timedelta(minutes=minutes) / BUCKETS, BUCKETS)
    return {
        "schema": "flux.activity/1",
        "since": show_moment(since),
        "until": show_moment(until),
        "buckets": [
            {"at": show_moment(bucket.since), "executions": bucket.executions, "failed": bucket.failed}
            for bucket in buckets
        ],
    }
