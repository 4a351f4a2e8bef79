"""A world moved from one snapshot to another, and put back to its beginning.

A world (`flux.store.world`) stands as of one snapshot. It moves row by row: which rows, and to what,
is decided above (`flux.supervisor.world_timeline`); here they are set. A row of a copied table is
written there; a row of another is written into what the table's view takes from. All of it happens in the
world's own transaction, so a savepoint undoes it.

To begin again is to go back to a savepoint that was made before the first statement. Sequences do not
go back with a transaction, and what a session keeps beside its transaction does not either: so both are seen to.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Literal

import attrs

from flux.store.postgres import Connection, Row
from flux.store.queries import QUERIES
from flux.store.world import World, WorldError, quote
from flux.store.world_aside import LOCATE_ASIDE, REFUSE_LOCK, aside_name, list_known, list_locked, make_setter
from flux.store.world_catalog import Column, read_columns
from flux.store.world_given import give
from flux.store.world_large import large_name
from flux.store.world_views import then_name

MOVES_MAX = 200_000
"""Changes between the first and the last snapshot of a world, at most: they are held in memory."""
BASE = "flux_base"
"""The savepoint at the beginning."""

_SET_VIEWED = """
update pg_temp.flux_undo u set before = m.image::pg_catalog.json
from rows from (pg_catalog.unnest($1::pg_catalog.text[]), pg_catalog.unnest($2::pg_catalog.text[]),
                pg_catalog.unnest($3::pg_catalog.text[])) m (table_name, key, image)
where u.table_name = m.table_name and u.key::pg_catalog.text = m.key
"""
"""Images travel as text: as values of type json they would be what a guest's connection makes of them."""
RowState = tuple[str, str, str | None]
"""A row as it is to be: its table, its key and its image, both as the log writes them; None for no row."""


async def list_moves(
    connection: Connection, token: bytes, since: str, until: str, own: Sequence[str]
) -> list[Row]:
    """Return what changed between two snapshots and what the transactions ``own`` changed, in order.

    For a connection on which nothing of a guest's has run: the token travels on it.
    """
    rows = await connection.fetch(QUERIES.world_moves, token, since, until, list(own), MOVES_MAX + 1)
    if len(rows) > MOVES_MAX:
        raise WorldError(
            f"more than {MOVES_MAX:,} rows changed between the first and the last of its statements",
            remedy="replay on the code that made the record, which needs no database",
        )
    keyless = sorted({row["table_name"] for row in rows if row["key"] is None})
    if keyless:
        raise WorldError(
            f"rows of {', '.join(keyless)} changed between its statements, and without a primary key they can't be "
            "told apart",
            remedy="give the table a primary key; later executions can then be replayed",
        )
    return rows


@attrs.frozen
class _Copy:
    """How to write rows of a copied table, or rows of then of another; each statement takes an array."""

    insert: str
    upsert: str
    delete: str
    locate: str
    """Gives the keys of those that are there, each with where it is and who has changed or locked it."""
    set_aside: str
    """Sets rows aside, where there is a place for them; takes images."""
    is_plain: bool
    """Nothing but its key is unique."""


@attrs.frozen
class _Sequence:
    name: str
    """As regclass reads it."""
    last_value: int
    """At the beginning."""
    is_called: bool


class WorldMover:
    """Sets rows of a world that stands on a connection; see the module."""

    def __init__(
        self,
        connection: Connection,
        copies: Mapping[str, _Copy],
        deferred: Sequence[str],
        world: World,
    ) -> None:
        self._connection = connection
        self._copies = copies
        self._deferred = ", ".join(f"pg_temp.{quote(name)}" for name in deferred)
        self._world = world
        self._sequences: list[_Sequence] = []

    async def set_rows(self, states: Sequence[RowState]) -> None:
        """Make rows what they are to be; ``states`` in the order in which they became that."""
        viewed = [state for state in states if state[0] not in self._copies]
        if viewed:
            tables, keys, images = zip(*viewed, strict=True)
            await self._connection.run(_SET_VIEWED, [list(tables), list(keys), list(images)])
        copied = [state for state in states if state[0] in self._copies]
        if not copied:
            return
        # So that no trigger and no policy of the user's has anything to do with it.
        await self._fill(value="on")
        copied.sort(key=lambda state: state[0])
        for table, group in groupby(copied, lambda state: state[0]):
            some = list(group)
            is_plain = self._copies[table].is_plain
            # All rows go before any comes where two of them may have exchanged what is to be unique.
            await self._write(table, [state for state in some if state[2] is None or not is_plain], "delete")
            coming = [state for state in some if state[2] is not None]
            await self._write(table, coming, "upsert" if is_plain else "insert")
        await self._fill(value="")

    async def _fill(self, *, value: str) -> None:
        await self._connection.fetch_value("select pg_catalog.set_config('flux.filling', $1, true)", value)

    async def _write(
        self, table: str, states: list[RowState], how: Literal["delete", "insert", "upsert"]
    ) -> None:
        if not states:
            return
        copy = self._copies[table]
        match how:
            case "delete":
                await self._connection.run(copy.delete, [[key for _, key, _ in states]])
            case "insert":
                await self._connection.run(copy.insert, [[image for _, _, image in states]])
            case "upsert":
                await self._connection.run(copy.upsert, [[image for _, _, image in states]])

    async def locate_rows(self, rows: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
        """Return where rows of copied tables are, by table and key.

        A statement that changes a row, or locks it, makes this another.
        """
        places: dict[tuple[str, str], str] = {}
        for table, group in groupby(sorted(rows), lambda row: row[0]):
            copy = self._copies.get(table)
            if copy is not None and table not in self._world.viewed:
                found = await self._connection.fetch(copy.locate, [key for _, key in group])
                places |= {(table, row["key"]): row["place"] for row in found}
        return places

    async def find_conflicts(self, table: str, images: Sequence[str]) -> list[Row]:
        """Return (image, is_deferrable) of the rows of a copied table that could not be beside ``images``."""
        query = self._world.conflicts.get(table)
        if query is None:
            return []
        if table not in self._world.hidden:
            return await self._connection.fetch(query, list(images))
        await self._fill(value="on")
        rows = await self._connection.fetch(query, list(images))
        await self._fill(value="")
        return rows

    async def list_changed_by_anybody(self, table: str, keys: Sequence[str]) -> frozenset[str]:
        """Return those of ``keys`` whose rows somebody has changed since, the recording itself or others."""
        return frozenset(row["key"] for row in await self._connection.fetch(list_known(table), list(keys)))

    async def set_aside(self, table: str, images: Sequence[str]) -> None:
        """Keep rows of a copied table to be seen, and out of everybody's way; of ``images``, their keys will do."""
        await self._fill(value="on")
        await self._connection.run(self._copies[table].set_aside, [list(images)])
        await self._fill(value="")

    async def drop_aside(self, tables: Iterable[str]) -> None:
        """Let rows that were set aside be seen no more."""
        await self._fill(value="on")
        for table in sorted(tables):
            await self._connection.execute(f"delete from pg_temp.{quote(aside_name(table))}")
        await self._fill(value="")

    async def locate_aside(self, tables: Iterable[str]) -> list[str]:
        """Return where the rows are that were set aside; a lock on one makes this another."""
        return [
            row["place"]
            for table in sorted(tables)
            for row in await self._connection.fetch(LOCATE_ASIDE.format(quote(aside_name(table))))
        ]

    async def list_locked(self, table: str) -> dict[str, str]:
        """Return images of the rows of a copied table that are locked, by where they are and who has locked them."""
        return {row["place"]: row["image"] for row in await self._connection.fetch(list_locked(table))}

    async def set_refusal(self, message: str) -> None:
        """Say what is said when a row is refused that was set aside; nothing: what the server says."""
        await self._connection.fetch_value("select pg_catalog.set_config('flux.refusal', $1, true)", message)

    async def refuse_lock(self) -> None:
        """Fail as a statement does that would lock a row which others have changed."""
        await self._connection.execute(REFUSE_LOCK)

    async def check_deferred(self) -> None:
        """Check now what COMMIT would check, and let what comes next be checked at its own COMMIT."""
        await self._connection.execute("set constraints all immediate")
        if self._deferred:
            await self._connection.execute(f"set constraints {self._deferred} deferred")

    async def set_sequences(self, inserted: Mapping[str, Sequence[Mapping[str, object]]]) -> None:
        """Let sequences go on as they did in a recording that ``inserted`` these rows, by table."""
        await give(self._connection, self._world.given, inserted)

    async def set_base(self) -> None:
        """Make this the beginning that `reset` comes back to."""
        for row in await self._connection.fetch(QUERIES.list_world_sequences):
            state = await self._connection.fetch_row(f"select last_value, is_called from {row['name']}")
            assert state is not None, "a sequence has one row"
            self._sequences.append(
                _Sequence(
                    row["name"],
                    state["last_value"],
                    state["is_called"],
                )
            )
        await self._connection.execute(f"savepoint {BASE}")

    async def reset(self) -> None:
        """Go back to the beginning."""
        await self._connection.execute(f"rollback to savepoint {BASE}")
        await self._connection.reset_in_transaction()
        for sequence in self._sequences:
            await self._set_sequence(sequence.name, sequence.last_value, is_called=sequence.is_called)

    async def _set_sequence(self, name: str, value: int, *, is_called: bool) -> None:
        await self._connection.fetch_value("select pg_catalog.setval($1, $2, $3)", name, value, is_called)


async def make_mover(connection: Connection, schema: str, world: World) -> WorldMover:
    """Return what moves ``world``, of ``schema``, which stands on ``connection``."""
    columns = await read_columns(connection, schema, world.copied | world.viewed)
    unique = await connection.fetch(QUERIES.list_world_unique)
    # A view has nothing to be unique by.
    not_plain = {row["table_name"] for row in unique} | world.large
    copies = {
        table: _describe_rows_of_then(schema, table, rows)
        if table in world.viewed
        else _describe(
            schema,
            table,
            rows,
            is_plain=table not in not_plain,
            rows_place=large_name(table) if table in world.large else None,
        )
        for table, rows in columns.items()
    }
    deferred = await connection.fetch(QUERIES.list_world_deferred)
    return WorldMover(connection, copies, [row["name"] for row in deferred], world)


def _describe_rows_of_then(schema: str, table: str, columns: Sequence[Column]) -> _Copy:
    """Return how to write what is beside a table's view: nothing is computed there, and nothing but the key unique."""
    plain = [attrs.evolve(column, generated="") for column in columns]
    return _describe(schema, table, plain, is_plain=True, place=then_name(table))


def _describe(
    schema: str,
    table: str,
    columns: Sequence[Column],
    *,
    is_plain: bool,
    place: str | None = None,
    rows_place: str | None = None,
) -> _Copy:
    """Return how to write rows of ``table`` where they are in the world: in ``place``, or under the table's name.

    ``rows_place`` is where they lie, if that is another.
    """
    copy = rows_place or place or table
    place = quote(place or table)
    stored = [quote(column.name) for column in columns if not column.generated]
    keys = [quote(column.name) for column in columns if column.is_key]
    names = ", ".join(stored)
    records = (
        "pg_catalog.unnest($1::pg_catalog.text[]) m (image), "
        f"pg_catalog.json_populate_record(null::{quote(schema)}.{quote(table)}, m.image::pg_catalog.json) r"
    )
    values = ", ".join(f"r.{name}" for name in stored)
    insert = (
        f"insert into pg_temp.{place} ({names}) overriding system value select {values} from {records}"
    )
    same = " and ".join(f"t.{key} = r.{key}" for key in keys)
    others = ", ".join(f"{name} = excluded.{name}" for name in stored if name not in keys)
    return _Copy(
        insert=insert,
        upsert=f"{insert} on conflict ({', '.join(keys)}) do {f'update set {others}' if others else 'nothing'}",
        delete=(
            f"delete from pg_temp.{place} t using {records} "
            f"where {same}"
        ),
        locate=(
            "select m.image as key, pg_catalog.concat(t.tableoid, t.ctid, t.xmax) as place "
            f"from pg_temp.{quote(copy)} t, {records} where {same}"
        ),
        set_aside=make_setter(table, copy, stored, keys),
        is_plain=is_plain,
    )
