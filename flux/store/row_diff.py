"""What became of a table's rows between two moments.

All of it is in the log: the rows that have a change which the later moment saw and the earlier did not. A row's first
such change has it as it was, the last one as it became. A row that was changed and changed back has no difference,
and is only counted. What went past the capture is in no log, and so in no difference either.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

import attrs

from flux.row_shapes import Image, Shown, read_image, show
from flux.store.moments import Moment, check_log, resolve
from flux.store.postgres import Connection, Pool, Row, quote_identifier
from flux.store.queries import QUERIES
from flux.store.row_history import Table, find_table
from flux.store.row_partitions import check_no_partition
from flux.store.row_states import StateNotKnownError, View, open_view

WRITERS_MAX = 5
"""Of each row, the latest so many changes are named."""


@attrs.frozen
class Writer:
    """Who changed a row."""

    at: datetime
    outside: bool
    migration: str | None
    execution: str | None
    """Name of the execution; None from outside, and when its record is gone."""
    function: str | None
    sha: str | None


@attrs.frozen
class RowChange:
    """What became of a row."""

    key: str | None
    """In the log's form; None without a key."""
    before: Mapping[str, str] | None
    """As it was, in the later moment's names; None where it was not there."""
    after: Mapping[str, str] | None
    """As it became, likewise."""
    count: int
    """How many changes that took; without a key, how many such rows came or went."""
    is_gap: bool = False
    """It was found otherwise than its last recorded change had left it."""
    writers: tuple[Writer, ...] = ()
    """The latest who changed it, newest first."""


@attrs.frozen
class DiffFound:
    """What became of a table's rows."""

    table: Table
    since: str
    """The earlier moment, as what it saw."""
    until: str
    """The later one."""
    changes: tuple[RowChange, ...]
    """In the order of the keys' texts."""
    more: bool
    """More rows have changed than were asked for."""
    undone: int
    """Rows that were changed and are as they were."""
    notes: tuple[str, ...]


async def find_diff(
    pool: Pool, schema: str, table_text: str, since: Moment, until: Moment, limit: int
) -> DiffFound:
    """Return what became of at most ``limit`` rows between two moments."""
    async with pool.acquire() as connection:
        found = await _find_diff(connection, schema, table_text, since, until, limit)
        await check_log(connection, since, until)
    return found


async def _find_diff(
    connection: Connection, schema: str, table_text: str, since: Moment, until: Moment, limit: int
) -> DiffFound:
    async with connection.transaction(isolation="repeatable read", read_only=True):
        await connection.fetch(QUERIES.pin_rendering)
        table = await find_table(connection, schema, table_text)
        await check_no_partition(connection, table)
        earlier = await open_view(connection, table, await resolve(connection, since), None)
        later = await open_view(connection, table, await resolve(connection, until), None)
        if not table.key_columns:
            return await _count(earlier, later, limit)
        rows = await connection.fetch(
            _sql(later), table.relid, earlier.snapshot, later.snapshot, limit + 1, WRITERS_MAX
        )
        shown = rows[:limit]
        writers = await _find_writers(connection, shown)
        was = [(row["key"], earlier.show_logged(row["before"], row["first_at"])) for row in shown]
        gaps = await earlier.find_gaps([(key, image) for key, image in was if image is not None])
    changes: list[RowChange] = []
    for row in shown:
        before = later.show_logged(row["before"], row["first_at"])
        after = later.show_logged(row["after"], row["last_at"])
        if _values(before) != _values(after):
            changes.append(
                RowChange(
                    row["key"],
                    _values(before),
                    _values(after),
                    row["count"],
                    row["key"] in gaps,
                    _list_writers(row, writers),
                )
            )
    return DiffFound(
        table,
        earlier.snapshot,
        later.snapshot,
        tuple(changes),
        len(rows) > limit,
        len(shown) - len(changes),
        later.notes,
    )


_BETWEEN = (
    "m.committed and m.relid = $1::oid and m.xid >= pg_catalog.pg_snapshot_xmin($2::text::pg_snapshot) "
    "and not pg_catalog.pg_visible_in_snapshot(m.xid, $2::text::pg_snapshot) "
    "and m.xid < pg_catalog.pg_snapshot_xmax($3::text::pg_snapshot) "
    "and pg_catalog.pg_visible_in_snapshot(m.xid, $3::text::pg_snapshot)"
)


def _sql(view: View) -> str:
    """Return the query of the rows that have changed, with their first and last image, and the latest changes."""
    return f"""
with changes as materialized (
    select {view.logged_key()} as key, m.seq, m.at, m.xid::text as xid, m.before::text as before,
           m.after::text as after, m.outside
    from flux.mutation m where {_BETWEEN} and m.key is not null
), keys as (
    select c.key from changes c group by c.key order by c.key limit $4
), numbered as (
    select c.*, pg_catalog.row_number() over (partition by c.key order by c.seq) as first,
           pg_catalog.row_number() over (partition by c.key order by c.seq desc) as last
    from changes c join keys k on k.key = c.key
)
select n.key, pg_catalog.count(*) as count,
       pg_catalog.max(n.before) filter (where n.first = 1) as before,
       pg_catalog.max(n.at) filter (where n.first = 1) as first_at,
       pg_catalog.max(n.after) filter (where n.last = 1) as after,
       pg_catalog.max(n.at) filter (where n.last = 1) as last_at,
       pg_catalog.array_agg(n.xid order by n.last) filter (where n.last <= $5) as xids,
       pg_catalog.array_agg(n.at order by n.last) filter (where n.last <= $5) as times,
       pg_catalog.array_agg(n.outside order by n.last) filter (where n.last <= $5) as outsides
from numbered n group by n.key order by n.key"""


def _values(shown: Shown | None) -> Image | None:
    return None if shown is None else shown.values


async def _find_writers(connection: Connection, rows: Sequence[Row]) -> dict[str, Row]:
    """Return who made the changes of ``rows``, by transaction."""
    times = {xid: at for row in rows for xid, at in zip(row["xids"], row["times"], strict=True)}
    found = await connection.fetch(QUERIES.list_transaction_writers, list(times), list(times.values()))
    return {row["xid"]: row for row in found}


def _list_writers(row: Row, writers: Mapping[str, Row]) -> tuple[Writer, ...]:
    """Return who made the latest changes of a row, each once."""
    found: dict[str, Writer] = {}
    for xid, at, outside in zip(row["xids"], row["times"], row["outsides"], strict=True):
        who = writers[xid]
        migration = who["migration"] if outside else None
        found.setdefault(
            xid,
            Writer(at, outside and migration is None, migration, who["name"], who["function"], who["sha"]),
        )
    return tuple(found.values())


async def _count(earlier: View, later: View, limit: int) -> DiffFound:
    """Return the rows without a key that came and went: a kind each, with how many."""
    table = later.history.table
    if earlier.then.columns != later.then.columns:
        raise StateNotKnownError(
            f"{table} has no key, and its columns changed in between: its rows can't be told apart",
            remedy="ask for two times between which its columns stayed",
        )
    place = f"{quote_identifier(table.schema)}.{quote_identifier(table.name)}"
    rows = await later.connection.fetch(
        f"""
select pg_catalog.to_json(r)::text as image, pg_catalog.sum(i.count)::int8 as count, pg_catalog.count(*) as changes
from flux.mutation m cross join lateral (values (m.before, -1), (m.after, 1)) i(image, count)
cross join lateral pg_catalog.json_populate_record(null::{place}, i.image) r
where {_BETWEEN} and i.image is not null group by 1 order by 1 limit $4""",
        table.relid, earlier.snapshot, later.snapshot, limit + 1,
    )  # fmt: skip
    changes = [
        RowChange(
            None, image if row["count"] < 0 else None, image if row["count"] > 0 else None, abs(row["count"])
        )
        for row in rows[:limit]
        if row["count"]
        for image in [show(read_image(row["image"]), later.history.now, later.then).values]
    ]
    undone = sum(not row["count"] for row in rows[:limit])
    return DiffFound(
        table, earlier.snapshot, later.snapshot, tuple(changes), len(rows) > limit, undone, later.notes
    )
