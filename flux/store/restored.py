"""A database that was restored elsewhere: making its records name what they named before.

Records name transactions by their ids and tables by their oids. ``pg_restore`` brings the rows, and neither number:
in the copy, tables have other oids, and in another cluster ids of transactions begin again. There an id of a record
would soon be that of a new transaction too. Rows would be told to be of the wrong execution, and a snapshot of then
would take what came later for what it had seen.

So the first start on a copy makes the numbers right (`adopt`), in one transaction, before anything is recorded:

- The cluster's counter is moved beyond the highest id on record, as ``pg_upgrade`` does. From then on older ids
  are lower, as everything that compares snapshots expects. The ids between are taken and rolled back. What was
  logged since the restore, without Flux, gets some of these.
- Tables are found again by their last names, and columns by theirs.
- The place is noted. The server's stamps of commits and states of transactions are believed of its own ids only.

A copy within one cluster has other oids only. One that was made of the files (``pg_basebackup``) keeps all numbers,
and is the same cluster to Flux.
"""

import contextlib
import uuid
from datetime import UTC, datetime

import attrs

from flux import ids
from flux.as_of import first_later
from flux.errors import OperatorError
from flux.execution import Execution
from flux.store.postgres import Connection, Pool, Row
from flux.store.queries import QUERIES

SKIPPED_MAX = 100_000_000
"""So many ids are skipped at most: some minutes, and half of what a cluster gives out before it freezes old rows."""

BEYOND = 10_000
"""So far beyond the highest id that can be looked up: those in recordings' snapshots can be a little higher. A
recording with one that is higher still is known when it is read (`has_ids_of_here`)."""

_BATCH = 50_000
"""So many are taken at once: a server keeps each of them in memory until they are rolled back."""

FROM_ELSEWHERE = (
    "it ran in the cluster that this database was restored from, and what it could see there can't be told from what "
    "came here"
)
"""Of an execution that a journal has from there, and of one whose snapshot has ids that were given out here."""


class IdsOutOfReachError(OperatorError):
    """Records of another cluster have ids of transactions so high that this one can't be moved beyond them."""

    code = "FLX750"
    exit_code = 6


@attrs.frozen
class Adopted:
    """What was made of a copy."""

    is_other_cluster: bool
    """Another one than the records are of; else another database of the same."""
    skipped: int
    """Ids of transactions that nobody will have."""
    tables: int
    """Tables of the records that are here."""

    def describe(self) -> str:
        """Return what happened, in a sentence."""
        whence = "from another cluster" if self.is_other_cluster else "within its cluster"
        skipped = f"; {self.skipped:,} ids of transactions were skipped" if self.skipped else ""
        return f"the database was restored {whence}: its records name {self.tables} of its tables again{skipped}"


async def adopt(connection: Connection) -> Adopted | None:
    """Make the numbers of a copy right, if the database is one; return what was done."""
    async with connection.transaction():
        await connection.fetch_value(QUERIES.lock_migrations)
        place = await connection.fetch_row(QUERIES.find_cluster)
        assert place is not None, "the migration that made the table noted where it was"
        here = (place["system_identifier"], place["log_oid"])
        if here == (place["system_identifier_then"], place["log_oid_then"]):
            return None
        is_other = place["system_identifier"] != place["system_identifier_then"]
        await connection.execute(QUERIES.lock_log)
        since = [row["xid"] for row in await connection.fetch(QUERIES.list_ids_given_since)]
        ids_found = await connection.fetch_row(QUERIES.find_highest_id, since)
        assert ids_found is not None, "it selects totals"
        given = int(ids_found["given"])
        highest = int(ids_found["highest"]) + (BEYOND if is_other else 0)
        beyond = max(highest, given)
        skipped = max(beyond + len(since) - given, 0)
        await _skip(connection, skipped, highest)
        renumbered = [str(beyond + number) for number in range(1, len(since) + 1)]
        for query in (QUERIES.renumber_changes, QUERIES.renumber_ddl, QUERIES.renumber_shapes):
            await connection.execute(query, since, renumbered)
        tables = await connection.fetch(QUERIES.list_tables_found_again, str(highest))
        old, new = [row["old"] for row in tables], [row["new"] for row in tables]
        await connection.execute(QUERIES.move_log, str(highest), old, new)
        await connection.execute(QUERIES.move_shapes, str(highest), old, new)
        # Within one cluster, what it says of older ids is as true as it was.
        came = (str(beyond + len(since) + 1), None) if is_other else (place["first_xid"], place["since"])
        await connection.execute(QUERIES.add_cluster, *here, *came)
    return Adopted(is_other, skipped, len(tables))


async def _skip(connection: Connection, count: int, highest: int) -> None:
    """Take ``count`` ids that nobody will have; ``highest`` is the highest on record."""
    if count > SKIPPED_MAX:
        raise IdsOutOfReachError(
            f"the database was restored from another cluster, whose records go to transaction {highest:,}; this "
            f"one is {count:,} behind, and Flux skips {SKIPPED_MAX:,} ids at most",
            remedy="restore a physical backup (pg_basebackup), which keeps the ids, or go on without the records: "
            "drop schema flux, flux_world cascade",
        )
    left = count
    while left > 0:
        with contextlib.suppress(_TakenBackError):
            async with connection.transaction():
                await connection.fetch_value(QUERIES.skip_transactions, min(left, _BATCH))
                raise _TakenBackError
        left -= _BATCH
    ids_given = await connection.fetch_row(QUERIES.find_ids_given)
    assert ids_given is not None and int(ids_given["given"]) >= highest, "an id that was taken is not given out again"


class _TakenBackError(Exception):
    """Rolls a savepoint back."""


async def ran_elsewhere(pool: Pool, execution_id: uuid.UUID) -> bool:
    """Return whether an execution began before the database came to this cluster."""
    async with pool.acquire() as connection:
        start = await connection.fetch_row(QUERIES.get_recording_start)
    assert start is not None, "the migration that made the table noted where it was"
    here_since: datetime = start["here_since"]
    return datetime.fromtimestamp(ids.get_unix_ms(execution_id) / 1000, UTC) < here_since


def has_ids_of_here(execution: Execution, start: Row) -> bool:
    """Return whether a record of an earlier cluster has a snapshot with ids of this one: it can't be told what it saw.

    ``start`` is of `get_recording_start`.
    """
    return execution.started_at_ns < start["here_since"].timestamp() * 1e9 and any(
        first_later(each.snapshot) > int(start["here_first_xid"]) for each in execution.transactions if each.snapshot
    )


def without_ids(execution: Execution) -> Execution:
    """Return the record of an execution of another cluster without what would name something else here."""
    transactions = tuple(
        attrs.evolve(each, snapshot="", xid=None, statements=()) for each in execution.transactions
    )
    return attrs.evolve(
        execution,
        transactions=transactions,
        ordinals=(),
        completeness=(*execution.completeness, FROM_ELSEWHERE),
    )
