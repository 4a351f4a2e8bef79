"""The writer of each value of a row, read from the log. `flux.blame` decides; this reads for it, a page at a time."""

from collections.abc import Mapping, Sequence
from heapq import merge

import attrs

from flux.blame import Blame, Blamed
from flux.errors import OperatorError
from flux.row_shapes import read_image
from flux.store.postgres import Connection, Pool, Row, quote_identifier
from flux.store.queries import QUERIES
from flux.store.row_history import RowVersion, Table, make_mutation, make_version, read_key
from flux.store.row_partitions import find_row_table
from flux.store.table_shapes import Place, read_table_history

PAGE = 200
CHANGES_MAX = 20_000
"""A column that none of the latest so many changes wrote is told to be older."""
ROLLED_BACK_MAX = 20

_LAST = 2**63 - 1


class NoSuchRowError(OperatorError):
    """There is no such row, and no change of it is recorded."""

    code = "FLX583"
    exit_code = 3


@attrs.frozen
class BlameFound:
    """Who wrote what of a row."""

    table: Table
    key: str
    """As the log has it."""
    columns: Mapping[str, Blamed]
    """In the table's order; empty when the row is gone."""
    versions: Mapping[int, RowVersion]
    """The changes that the columns and `last` name, by their place in the order of changes."""
    gone: RowVersion | None
    """The change that deleted it; None while it is there, or when nobody saw it go."""
    is_there: bool
    rolled_back: tuple[RowVersion, ...]
    """The latest changes of it that were tried and rolled back, newest first."""


async def find_blame(pool: Pool, schema: str, table_text: str, key_text: str) -> BlameFound:
    """Return the last committed writer of each column of a row as it is now."""
    async with (
        pool.acquire() as connection,
        connection.transaction(isolation="repeatable read", read_only=True),
    ):
        await connection.fetch(QUERIES.pin_rendering)
        table = await find_row_table(connection, schema, table_text)
        key = await read_key(connection, table, key_text)
        history = await read_table_history(connection, table)
        places = history.list_places(key)
        row = await read_live_row(connection, table, key)
        seqs: list[int] = []
        columns: Mapping[str, Blamed] = {}
        if row is None:
            last = await _list_changes(connection, places, _LAST, 1)
            seqs = [each["seq"] for each in last]
        else:
            columns = await _walk(connection, Blame(read_image(row), history.shapes), places)
            seqs = [seq for each in columns.values() for seq in (each.seq, *each.between) if seq is not None]
        versions: dict[int, RowVersion] = {}
        rolled_back: list[RowVersion] = []
        for place in places:
            found = await connection.fetch(
                QUERIES.list_row_versions,
                place.schema,
                place.table,
                place.key,
                sorted(set(seqs)),
                ROLLED_BACK_MAX,
                place.relid,
                place.is_now,
            )
            for version in map(make_version, found):
                if version.mutation.committed:
                    versions[version.seq] = version
                else:
                    rolled_back.append(version)
    if row is None and not versions and not rolled_back:
        raise NoSuchRowError(
            f"there is no row {table}[{key_text}], and no change of it is recorded",
            remedy=f"its primary key is ({', '.join(table.key_columns)})",
        )
    gone = versions[seqs[0]] if row is None and seqs else None
    if gone is not None and gone.mutation.after is not None:
        gone = None  # The last that was recorded left it there: nobody saw it go.
    rolled_back.sort(key=lambda version: -version.seq)
    return BlameFound(
        table, key, columns, versions, gone, row is not None, tuple(rolled_back[:ROLLED_BACK_MAX])
    )


async def read_live_row(connection: Connection, table: Table, key: str) -> str | None:
    """Return a row as it is, as JSON; None when it is not there. The rendering is the transaction's."""
    # Tables and columns can't be parameters, so this one statement is put together here and is not in queries.sql.
    place = f"{quote_identifier(table.schema)}.{quote_identifier(table.name)}"
    same = " and ".join(f"t.{name} = k.{name}" for name in map(quote_identifier, table.key_columns))
    found = await connection.fetch_value(
        f"select pg_catalog.to_json(t)::text from {place} t, "
        f"pg_catalog.json_populate_record(null::{place}, $1::text::json) k where {same}",
        key,
    )
    return None if found is None else str(found)


async def _walk(connection: Connection, blame: Blame, places: Sequence[Place]) -> Mapping[str, Blamed]:
    below, count = _LAST, 0
    while not blame.is_done:
        rows = await _list_changes(connection, places, below, PAGE)
        blame.go_back([(row["seq"], make_mutation(row)) for row in rows])
        count += len(rows)
        if len(rows) < PAGE:
            return blame.finish()
        if count >= CHANGES_MAX:
            return blame.finish(f"it is older than the row's latest {CHANGES_MAX:,} changes")
        below = rows[-1]["seq"]
    return blame.finish()


async def _list_changes(connection: Connection, places: Sequence[Place], below: int, limit: int) -> list[Row]:
    """Return a row's committed changes before a place in the order of changes, newest first, by all its names."""
    pages = [
        await connection.fetch(
            QUERIES.list_row_changes, place.schema, place.table, place.key, below, limit, place.relid, place.is_now
        )
        for place in places
    ]
    return list(merge(*pages, key=lambda row: -row["seq"]))[:limit]
