"""What is taken out of the store because it is old, and what is kept all the same.

Records lie in a partition for each day. Those that succeeded go first; those that failed are kept longer, and those in
the window of a pinned incident for as long as it is pinned. Rows that are deleted leave their room behind, and a day
with one failure in it would keep the disk of all its successes for as long as the failure is kept. So what is to stay
of a day is copied to a new partition, and the old one is dropped; only where most of a day stays, rows are deleted.

The log of changes goes by whole days, all rows of a day at once: a world, or a table as of a time, is made of
everything that changed since, so a log with holes is none. It is kept from the earliest pinned incident on.

`flux.pruned` has how far the log was pruned, written in the transaction that prunes: whoever goes back further is
refused, where it would look as if nothing had changed.

A window may be pinned while this goes on. Each transaction that takes something out asks anew what is pinned, and
whoever pins waits for the one in progress (`QUERIES.lock_pins`): what is pinned is kept from there on, or was gone
before.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from enum import Enum

import attrs
import trio

from flux.errors import OperatorError
from flux.store.postgres import Connection, ConnectionLost, DatabaseError, Pool, quote_identifier
from flux.store.queries import QUERIES

LOCK_TIMEOUT = "2s"
"""A partition is dropped when nobody holds its table for long; else it is dropped the next time."""
SLACK = timedelta(days=1)
"""Before a pinned window, for what its executions saw and clocks that were set."""

UNLOCK_S_MAX = 10.0

CLOCKS_APART_MAX = timedelta(days=1)
"""Clocks that are further apart than this say nothing about what is old."""

_LOCKED = ("55P03", "40P01")
"""Somebody held the table for too long, or waited for us while we waited for him."""
_COPIED_PART_MAX = 0.5
"""Of a day of which more than this stays, the rest is deleted."""
_BOUNDS = "in_bounds"
"""A check of a copy while it is made."""


class PruningElsewhereError(OperatorError):
    """Another server, or somebody's command, is just taking out what is old."""

    code = "FLX608"
    exit_code = 5


class ClocksApartError(OperatorError):
    """The server's clock and the database's tell different days, so nobody knows what is old."""

    code = "FLX609"
    exit_code = 6


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
    """Days that somebody holds: they, and those after them, go the next time."""


async def prune(pool: Pool, retention: Retention, now: datetime, *, dry_run: bool = False) -> Pruned:
    """Take out what is older than it is to be kept; ``dry_run`` only counts.

    ``now`` is by the caller's clock. What is old is so by the database's as well.
    """
    async with pool.acquire() as connection, _alone(connection):
        now = _agree_on(now, await connection.fetch_value(QUERIES.get_clock))
        return await _prune(connection, retention, now, dry_run=dry_run)


def _agree_on(ours: datetime, theirs: datetime) -> datetime:
    """Return the earlier of two clocks' times; raise where one of them must be wrong."""
    if abs(ours - theirs) > CLOCKS_APART_MAX:
        raise ClocksApartError(
            f"nothing is taken out: this server's clock says {ours.astimezone(UTC):%Y-%m-%d %H:%M} UTC, the database's "
            f"{theirs.astimezone(UTC):%Y-%m-%d %H:%M} UTC",
            remedy="set the clock that is wrong, then flux records prune",
        )
    return min(ours, theirs)


async def _prune(connection: Connection, retention: Retention, now: datetime, *, dry_run: bool) -> Pruned:
    today = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    cutoff = today - timedelta(days=retention.days)
    error_cutoff = min(cutoff, today - timedelta(days=retention.error_days))
    log_cutoff = await _find_log_cutoff(connection, cutoff)
    counts = await connection.fetch_row(QUERIES.count_prunable, cutoff, error_cutoff)
    assert counts is not None, "counts have a row"
    days = await connection.fetch(QUERIES.list_old_partitions, "mutation", log_cutoff)
    rows = 0
    waiting = 0
    done = 0
    for day in days:
        count = int(await connection.fetch_value(f"select count(*) from flux.{quote_identifier(day['name'])}"))
        if dry_run or (dropped := await _drop_log(connection, day["name"], day["until"])) is _Step.DONE:
            rows, done = rows + count, done + 1
        else:
            waiting += dropped is _Step.HELD
            break  # A later day must not go before an earlier one.
    blobs = await connection.fetch_value(QUERIES.count_old_blobs, error_cutoff - SLACK)
    executions = counts["executions"]
    if not dry_run:
        executions = 0
        for day in await connection.fetch(QUERIES.list_old_partitions, "execution", cutoff):
            taken = await _prune_day(connection, day["name"], error_cutoff)
            if taken is None:
                waiting += 1
                break  # Whoever reads for long holds other days too, and at each of them requests would wait.
            executions += taken
        async with connection.transaction():
            await connection.fetch(QUERIES.lock_pins)
            log_cutoff = await _find_log_cutoff(connection, cutoff)
            executions += _count(await connection.execute(QUERIES.prune_executions, cutoff, error_cutoff))
            await connection.execute(QUERIES.prune_moments, log_cutoff - SLACK)
        async with connection.transaction():
            await connection.execute(QUERIES.prune_replays, error_cutoff)
            await connection.execute(QUERIES.prune_transactions, cutoff)
            await connection.execute(QUERIES.prune_blobs, error_cutoff - SLACK)
    return Pruned(
        executions, counts["kept_errors"], counts["kept_pinned"], done, rows,
        days[done - 1]["until"] if done else None, blobs, waiting,
    )  # fmt: skip


@asynccontextmanager
async def _alone(connection: Connection) -> AsyncIterator[None]:
    """Nobody else prunes for as long as the block lasts."""
    if not await connection.fetch_value(QUERIES.lock_pruning):
        raise PruningElsewhereError(
            "what is old is just being taken out, by a server or by somebody else", remedy="try again in a while"
        )
    try:
        yield
    finally:
        with trio.move_on_after(UNLOCK_S_MAX, shield=True), suppress(ConnectionLost):
            # A connection that is lost has let go of it.
            await connection.fetch_value(QUERIES.unlock_pruning)


async def _find_log_cutoff(connection: Connection, cutoff: datetime) -> datetime:
    """Return until when the log may go: pinned windows need all of it that came after they began."""
    earliest = await connection.fetch_value(QUERIES.find_earliest_pin)
    return cutoff if earliest is None else min(cutoff, earliest - SLACK)


class _Step(Enum):
    """What became of a day of the log."""

    DONE = "done"
    HELD = "held"
    """Somebody reads it: it goes the next time."""
    PINNED = "pinned"
    """Somebody has pinned an incident since, which needs it."""


async def _drop_log(connection: Connection, name: str, until: datetime) -> _Step:
    """Drop a day of the log, and note that it is gone."""
    partition = f"flux.{quote_identifier(name)}"
    try:
        async with connection.transaction():
            await connection.execute(f"set local lock_timeout to '{LOCK_TIMEOUT}'")
            await connection.fetch(QUERIES.lock_pins)
            if await _find_log_cutoff(connection, until) < until:
                return _Step.PINNED
            await connection.execute(f"lock table {partition} in access exclusive mode")
            await connection.execute(
                "insert into flux.pruned (until, xid) "
                f"select $1, (select m.xid from {partition} m order by m.xid desc limit 1) "
                "on conflict (until) do update set xid = excluded.xid",
                until,
            )
            await connection.execute(f"drop table {partition}")
    except DatabaseError as error:
        if error.sqlstate not in _LOCKED:
            raise
        return _Step.HELD
    return _Step.DONE


_KEPT = """\
((e.signature is not null or e.status >= 500) is true and e.id >= flux.uuid_floor($1)
 or exists (select from flux.incident i where i.tenant = e.tenant and e.started_at between i.since and i.until))"""
"""What stays of a day that is old; the same as `QUERIES.prune_executions` leaves in the default partition."""


async def _prune_day(connection: Connection, name: str, error_cutoff: datetime) -> int | None:
    """Take out of a day's partition what is old; return how much that was, or None where somebody holds it."""
    partition = f"flux.{quote_identifier(name)}"
    row = await connection.fetch_row(
        f"select count(*) as all, count(*) filter (where {_KEPT}) as kept from {partition} e", error_cutoff
    )
    assert row is not None, "counts have a row"
    total, kept = int(row["all"]), int(row["kept"])
    if total == kept > 0:
        return 0
    try:
        async with connection.transaction():
            await connection.execute(f"set local lock_timeout to '{LOCK_TIMEOUT}'")
            await connection.fetch(QUERIES.lock_pins)
            # Who reads may go on until the old one is dropped.
            await connection.execute(f"lock table {partition} in share row exclusive mode")
            if kept > total * _COPIED_PART_MAX:
                delete = f"delete from {partition} e where not {_KEPT}"
                return _count(await connection.execute(delete, error_cutoff))
            return await _copy_day(connection, name, error_cutoff)
    except DatabaseError as error:
        if error.sqlstate not in _LOCKED:
            raise
        return None


def _count(tag: str) -> int:
    """Return of how many rows a statement's tag says that they are gone."""
    return int(tag.rpartition(" ")[2])


async def _copy_day(connection: Connection, name: str, error_cutoff: datetime) -> int:
    """Put what is kept of a day in the place of the day; return how much is gone.

    From the drop to the commit all requests wait, as their records go to the table that the day is a part of. So all
    that takes as long as there are rows is done before: the copy has its indexes, and a check that says what the bounds
    say. It is attached with these, and nothing is read for it.
    """
    partition, copy = f"flux.{quote_identifier(name)}", f"flux.{quote_identifier(name + '_kept')}"
    bounds = await connection.fetch_row(QUERIES.get_partition_bounds, partition)
    assert bounds is not None, "it is locked"
    await connection.execute(
        f"create table {copy} (like flux.execution including defaults including storage including indexes, "
        f"constraint {_BOUNDS} check ({bounds['meaning']})) "
        "with (autovacuum_vacuum_insert_scale_factor = 0.05)"  # As `flux.ensure_partition` does.
    )
    count = await connection.fetch_value(
        f"with copied as (insert into {copy} select * from {partition} e where {_KEPT} returning 1) "
        "select count(*) from copied",
        error_cutoff,
    )
    gone = int(await connection.fetch_value(f"select count(*) from {partition}")) - int(count)
    await connection.execute(f"drop table {partition}")
    if not count:
        await connection.execute(f"drop table {copy}")
        return gone
    await connection.execute(f"alter table {copy} rename to {quote_identifier(name)}")
    await connection.execute(f"alter table flux.execution attach partition {partition} {bounds['said']}")
    await connection.execute(f"alter table {partition} drop constraint {_BOUNDS}")
    return gone
