"""One row through time: every version of it, and the execution that made each.

A table that was renamed, or whose key's columns were, has its older changes in the log under the older names: they are
of the same row, and come with the others, under the names of then. A key of other columns is another key. What can't be
known by this one is said in a note.

A version from outside Flux is shown as such. And where the row was found otherwise than its last known
version had left it, something changed it past the capture: the version says so with ``gap``.
"""

from collections.abc import Mapping, Sequence

import attrs

from flux.mutation import Operation
from flux.row_shapes import Shown, find_shape, is_same, read_image, show
from flux.store.postgres import Connection, Pool, quote_identifier
from flux.store.queries import QUERIES
from flux.store.row_history import RowVersion, make_key, make_version, read_key
from flux.store.row_partitions import find_row_table, list_maybe_parted
from flux.store.table_shapes import TableHistory, read_table_history

KEY_CHANGES_MAX = 100
"""Among so many of the latest versions, those are looked for where the row came from another key or went to one."""


async def list_row_history(
    pool: Pool, schema: str, table_text: str, key_text: str, limit: int = 1000
) -> list[RowVersion]:
    """Return the versions of a row, newest first; ``schema`` is where a table without one is looked for.

    An empty list says that the table and the key are right, and no change of that row is recorded.
    """
    async with pool.acquire() as connection:
        table = await find_row_table(connection, schema, table_text)
        key = await read_key(connection, table, key_text)
        history = await read_table_history(connection, table)
        places = history.list_places(key)
        rows = await connection.fetch(
            QUERIES.list_row_history,
            [place.schema for place in places],
            [place.table for place in places],
            [place.key for place in places],
            table.relid,
            limit + 1,  # One more than asked for, so that the last one shown knows what came before it.
        )
    versions = [make_version(row) for row in rows]
    return [
        attrs.evolve(version, gap=_is_gap(history, version, versions[index + 1 :]))
        for index, version in enumerate(versions[:limit])
    ]


async def list_history_notes(pool: Pool, schema: str, table_text: str, key_text: str) -> list[str]:
    """Return what is not in a row's history, a sentence each."""
    async with pool.acquire() as connection:
        table = await find_row_table(connection, schema, table_text)
        key = await read_key(connection, table, key_text)
        history = await read_table_history(connection, table)
        numbers = {column.number for column in history.now.key}
        before = next((each for each in reversed(history.shapes) if {c.number for c in each.key} != numbers), None)
        notes = []
        if before is not None:
            shape = history.shapes[history.shapes.index(before) + 1]
            when = "" if shape.at is None else f" at {shape.at:%Y-%m-%d %H:%M:%S} UTC"
            was = f"was ({', '.join(column.name for column in before.key)})" if before.key else "was none"
            notes.append(f"the primary key {was} and was changed{when}: changes from before are not known by this key")
        notes += await _note_other_keys(connection, history, key)
        notes += [
            f"it may have been a partition of {each.name}, which was altered last at {each.at}: what changed its rows "
            f"until then is in the history of {each.name}"
            for each in await list_maybe_parted(connection, table)
        ]
        for row in await connection.fetch(QUERIES.list_forgotten, table.schema, table.name, key):
            notes.append(
                f"what the row had until {row['at']:%Y-%m-%d %H:%M:%S} UTC was forgotten then: tokens, nulls and least "
                "values stand for it"
            )
    return notes


async def _note_other_keys(connection: Connection, history: TableHistory, key: str) -> list[str]:
    """Say under which key a row was before, and is since: an update of a key takes one out and brings another."""
    notes = []
    places = history.list_places(key)
    rows = await connection.fetch(
        QUERIES.list_row_history, [each.schema for each in places], [each.table for each in places],
        [each.key for each in places], history.table.relid, KEY_CHANGES_MAX,
    )  # fmt: skip
    for version in map(make_version, rows):
        mutation = version.mutation
        if not mutation.committed or mutation.op not in (Operation.INSERT, Operation.DELETE):
            continue
        row = await connection.fetch_row(
            QUERIES.find_key_change, history.table.relid, str(mutation.xid), mutation.ordinal
        )
        assert row is not None, "it selects from nothing"
        gone, come = row["gone"] or [], row["come"] or []
        if (len(gone), len(come)) != (1, 1):
            continue  # Two rows: which became which is in no log.
        at = f"{version.at:%Y-%m-%d %H:%M:%S} UTC"
        if mutation.op is Operation.INSERT:
            notes.append(f"the statement that brought it at {at} took out {gone[0]}: before, it may have been that row")
        else:
            notes.append(f"the statement that took it out at {at} brought {come[0]}: since, it may be that row")
    return notes


async def find_row_writer(
    pool: Pool, schema: str, table: str, key: Mapping[str, object], snapshot: str
) -> RowVersion | None:
    """Return the last version of a row that ``snapshot`` saw, or None when none is recorded.

    ``key`` has the value of each column of the primary key, as JSON values: what a statement returned.
    """
    async with pool.acquire() as connection:
        found = await find_row_table(connection, schema, f"{quote_identifier(schema)}.{quote_identifier(table)}")
        text = await make_key(connection, found, key)
        for place in (await read_table_history(connection, found)).list_places(text):
            row = await connection.fetch_row(
                QUERIES.find_row_version_in_snapshot, place.schema, place.table, place.key, snapshot, place.relid,
                place.is_now,
            )  # fmt: skip
            if row is not None:
                return make_version(row)
    return None


def _is_gap(history: TableHistory, version: RowVersion, older: Sequence[RowVersion]) -> bool:
    earlier = next((each for each in older if each.mutation.committed), None)
    if earlier is None or not version.mutation.committed:
        return False  # The first that is known: the row may be older than the capture.
    left, found = earlier.mutation.after, version.mutation.before
    if left == found:
        return False
    if left is None or found is None:
        return True
    # A column that was added, dropped or renamed in between changes the image, and is no gap. Numbers are compared as
    # they are written: floats would take two different ones for the same.
    return not is_same(_show(history, left, earlier), _show(history, found, version))


def _show(history: TableHistory, text: str, version: RowVersion) -> Shown:
    image = read_image(text)
    return show(image, find_shape(history.shapes, image, version.at), history.now)
