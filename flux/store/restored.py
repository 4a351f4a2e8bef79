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

A copy within one cluster has other oids only: all ids go on, and those beyond the restore's own are of the copy.

One that was made of the files keeps all numbers, and nothing is changed. ``pg_basebackup`` keeps the cluster's
identifier too; ``pg_upgrade`` and ``pg_createsubscriber`` do not. So the identifier does not say what a copy is. The
row of `flux.cluster` does: it has the id that it was written under, and of files the server knows that id as well.

What can't be made right is refused by name: executions that wrote and were recorded on the copy before (their
recordings have the copy's ids within), and transactions that have an id of before and may log a row with it once they
go on.
"""

import contextlib
import uuid
from datetime import UTC, datetime

import attrs
import trio

from flux import ids
from flux.as_of import first_later
from flux.errors import OperatorError
from flux.execution import Execution
from flux.store.postgres import Connection, DatabaseError, Pool, Row
from flux.store.queries import QUERIES

SKIPPED_MAX = 100_000_000
"""So many ids are skipped at most: some minutes, and half of what a cluster gives out before it freezes old rows."""

BEYOND = 10_000
"""So far beyond the highest id that can be looked up: those in recordings' snapshots can be a little higher. A
recording with one that is higher still is known when it is read (`has_ids_of_here`)."""

TRIES = 60
"""So often it is looked whether transactions with ids of before have ended."""

PAUSE_S = 1.0
"""So long they are waited for, each time."""

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


class RecordedOnCopyError(OperatorError):
    """A server recorded executions on a copy before its numbers were made right."""

    code = "FLX751"
    exit_code = 6


class WritersOnCopyError(OperatorError):
    """Transactions on a copy hold ids among those of its records, and don't end."""

    code = "FLX752"
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
    for _ in range(TRIES):
        with contextlib.suppress(_WritersError):
            async with connection.transaction():
                return await _adopt(connection)
        await trio.sleep(PAUSE_S)
    writers = await connection.fetch(QUERIES.list_writers)
    raise WritersOnCopyError(
        "the database was restored, and before Flux makes its records' numbers right, transactions that write to it "
        f"have to end: {_name_sessions({row['pid'] for row in writers})}",
        remedy="stop what writes to the database (select pg_terminate_backend(PID)) and start Flux again",
    )


def _name_sessions(pids: set[int]) -> str:
    return f"those of PID {', '.join(map(str, sorted(pids)))} don't" if pids else "new ones come all the time"


async def _adopt(connection: Connection) -> Adopted | None:
    await connection.fetch_value(QUERIES.lock_migrations)
    place = await connection.fetch_row(QUERIES.find_cluster)
    assert place is not None, "the migration that made the table noted where it was"
    here = (place["system_identifier"], place["log_oid"])
    if here == (place["system_identifier_then"], place["log_oid_then"]):
        return None
    is_other = place["system_identifier"] != place["system_identifier_then"]
    is_known = place["system_identifier_then"] != 0
    if is_known and place["is_written_here"] and place["log_oid"] == place["log_oid_then"]:
        # The very files, with another identifier: all numbers are what they were.
        await connection.execute(QUERIES.add_cluster, *here, place["first_xid"], place["since"])
        return None
    try:
        await connection.execute(QUERIES.lock_log)
    except DatabaseError as error:
        if error.sqlstate == "55P03":  # lock_not_available
            raise _WritersError from error
        raise
    if is_other:
        highest, taken, skipped = await _make_room(connection)
        # By this clock: ids of executions have the time of a server, which is not that of the database.
        came = (str(taken + 1), datetime.now(UTC))
    else:
        # Of within the cluster, what it says of older ids is as true as it was. What came since has higher ids.
        highest, skipped = _widen(int(place["written_by"]), await _find_given(connection)), 0
        came = (place["first_xid"], place["since"])
    tables = await connection.fetch(QUERIES.list_tables_found_again, str(highest))
    old, new = [row["old"] for row in tables], [row["new"] for row in tables]
    await connection.execute(QUERIES.move_log, str(highest), old, new)
    await connection.execute(QUERIES.move_shapes, str(highest), old, new)
    await connection.execute(QUERIES.add_cluster, *here, *came)
    return Adopted(is_other, skipped, len(tables))


async def _make_room(connection: Connection) -> tuple[int, int, int]:
    """Move the cluster's ids beyond those of the records, and what was logged since the restore behind these.

    Return the highest id of the records, the highest that is taken, and how many were skipped.
    """
    if await connection.fetch_value(QUERIES.has_records_of_here):
        raise RecordedOnCopyError(
            "the database was restored from another cluster, and executions were recorded on the copy before Flux "
            "could make its records' numbers right: what they saw can't be told from what the records of before saw",
            remedy="restore the backup again, with no server running on it until one starts, or go on without the "
            "records: drop schema flux, flux_views, flux_world cascade",
        )
    since = [row["xid"] for row in await connection.fetch(QUERIES.list_ids_given_since)]
    ids_found = await connection.fetch_row(QUERIES.find_highest_id, since)
    assert ids_found is not None, "it selects totals"
    given = int(ids_found["given"])
    highest = int(ids_found["highest"]) + BEYOND
    beyond = max(highest, given)
    taken = beyond + len(since)
    skipped = max(taken - given, 0)
    await _skip(connection, skipped, highest)
    # Who has an id may be about to log a row with it, and waits for us. Ids that are given out from here on are higher.
    writers = await connection.fetch(QUERIES.list_writers)
    if any(_widen(int(row["xid"]), taken) <= taken for row in writers):
        raise _WritersError
    renumbered = [str(beyond + number) for number in range(1, len(since) + 1)]
    for query in (QUERIES.renumber_changes, QUERIES.renumber_ddl, QUERIES.renumber_shapes):
        await connection.execute(query, since, renumbered)
    return highest, taken, skipped


async def _find_given(connection: Connection) -> int:
    ids_given = await connection.fetch_row(QUERIES.find_ids_given)
    assert ids_given is not None, "it selects a value"
    return int(ids_given["given"])


def _widen(xid: int, near: int) -> int:
    """Return the whole id of which the server shows the lower half: the one that is nearest to another."""
    return near + (xid - near + 2**31) % 2**32 - 2**31


async def _skip(connection: Connection, count: int, highest: int) -> None:
    """Take ``count`` ids that nobody will have; ``highest`` is the highest on record."""
    if count > SKIPPED_MAX:
        raise IdsOutOfReachError(
            f"the database was restored from another cluster, whose records go to transaction {highest:,}; this "
            f"one is {count:,} behind, and Flux skips {SKIPPED_MAX:,} ids at most",
            remedy="restore a physical backup (pg_basebackup), which keeps the ids, or go on without the records: "
            "drop schema flux, flux_views, flux_world cascade",
        )
    left = count
    while left > 0:
        with contextlib.suppress(_TakenBackError):
            async with connection.transaction():
                await connection.fetch_value(QUERIES.skip_transactions, min(left, _BATCH))
                raise _TakenBackError
        left -= _BATCH
    assert await _find_given(connection) >= highest, "an id that was taken is not given out again"


class _TakenBackError(Exception):
    """Rolls a savepoint back."""


class _WritersError(Exception):
    """Rolls back what was done: transactions have ids of before, and it is tried again when they may have ended."""


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
