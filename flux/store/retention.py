"""What is taken out of the store because it is old, and what is kept all the same.

Records lie in a partition for each day. An old one loses the records of executions that succeeded; those that
failed are kept longer, and those in the window of a pinned incident for as long as it is pinned. A partition that is
empty then is dropped. The log of changes goes by whole days, all rows of a day at once: a world, or a table as of a
time, is made of everything that changed since, so a log with holes is none. It is kept from the earliest pinned
incident on.

`flux.pruned` has how far the log was pruned, written in the transaction that prunes: whoever goes back further is
refused, where it would look as if nothing had changed.
"""

from datetime import UTC, datetime, timedelta

import attrs

from flux.store.postgres import Connection, DatabaseError, Pool, quote_identifier
from flux.store.queries import QUERIES

LOCK_TIMEOUT = "2s"
"""A partition is dropped when nobody holds its table for long; else it is dropped the next time."""
SLACK = timedelta(days=1)
"""Before a pinned window, for what its executions saw and clocks that were set."""

_LOCKED = "55P03"


@attrs.frozen
class Retention:
    """How long things are kept."""

    days: int
    """Records of executions that succeeded, and the log of changes."""
    error_days: int
    """Records of executions that failed."""


@attrs.frozen
class Pruned:
    """What was, or would be, taken out."""

    executions: int
    kept_errors: int
    """Records older than ``days`` that are kept because the execution failed."""
    kept_pinned: int
    """Records that are kept for a pinned incident alone."""
    log_days: int
    """Days of the log of changes."""
    log_rows: int
    log_since: datetime | None
    """From where on the log is kept; None where nothing of it is that old."""
    blobs: int
    waiting: int
    """Empty partitions that somebody holds: they are dropped the next time."""


async def prune(pool: Pool, retention: Retention, now: datetime, *, dry_run: bool = False) -> Pruned:
    """Take out what is older than it is to be kept; ``dry_run`` only counts."""
    today = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    cutoff = today - timedelta(days=retention.days)
    error_cutoff = min(cutoff, today - timedelta(days=retention.error_days))
    async with pool.acquire() as connection:
        earliest = await connection.fetch_value(QUERIES.find_earliest_pin)
        log_cutoff = cutoff if earliest is None else min(cutoff, earliest - SLACK)
        counts = await connection.fetch_row(QUERIES.count_prunable, cutoff, error_cutoff)
        assert counts is not None, "counts have a row"
        days = await connection.fetch(QUERIES.list_old_partitions, "mutation", log_cutoff)
        rows = 0
        waiting = 0
        done = 0
        for day in days:
            count = int(
                await connection.fetch_value(f"select count(*) from flux.{quote_identifier(day['name'])}")
            )
            if dry_run or await _drop_log(connection, day["name"], day["until"]):
                rows, done = rows + count, done + 1
            else:
                waiting += 1
                break  # A later day must not go before an earlier one.
        blobs = await connection.fetch_value(QUERIES.count_old_blobs, error_cutoff - SLACK)
        if not dry_run:
            await connection.execute(QUERIES.prune_executions, cutoff, error_cutoff)
            for day in await connection.fetch(QUERIES.list_old_partitions, "execution", cutoff):
                waiting += not await _drop_if_empty(connection, day["name"])
            async with connection.transaction():
                await connection.execute(QUERIES.prune_replays, error_cutoff)
                await connection.execute(QUERIES.prune_transactions, cutoff)
                await connection.execute(QUERIES.prune_moments, log_cutoff - SLACK)
                await connection.execute(QUERIES.prune_blobs, error_cutoff - SLACK)
    return Pruned(
        counts["executions"], counts["kept_errors"], counts["kept_pinned"], done, rows,
        days[done - 1]["until"] if done else None, blobs, waiting,
    )  # fmt: skip


async def _drop_log(connection: Connection, name: str, until: datetime) -> bool:
    """Drop a day of the log, and note that it is gone; False where somebody holds it."""
    partition = f"flux.{quote_identifier(name)}"
    try:
        async with connection.transaction():
            await connection.execute(f"set local lock_timeout to '{LOCK_TIMEOUT}'")
            await connection.execute(f"lock table {partition} in access exclusive mode")
            await connection.execute(
                "insert into flux.pruned (until, xid) "
                f"select $1, (select m.xid from {partition} m order by m.xid desc limit 1) "
                "on conflict (until) do update set xid = excluded.xid",
                until,
            )
            await connection.execute(f"drop table {partition}")
    except DatabaseError as error:
        if error.sqlstate != _LOCKED:
            raise
        return False
    return True


async def _drop_if_empty(connection: Connection, name: str) -> bool:
    """Drop a partition that holds nothing any more; False where it is empty and somebody holds it."""
    partition = f"flux.{quote_identifier(name)}"
    try:
        async with connection.transaction():
            await connection.execute(f"set local lock_timeout to '{LOCK_TIMEOUT}'")
            if await connection.fetch_value(f"select exists (select from {partition})"):
                return True
            await connection.execute(f"lock table {partition} in access exclusive mode")
            if not await connection.fetch_value(f"select exists (select from {partition})"):
                await connection.execute(f"drop table {partition}")
    except DatabaseError as error:
        if error.sqlstate != _LOCKED:
            raise
        return False
    return True
