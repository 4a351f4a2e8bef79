"""A table's names and columns through time, and under which names the log has its rows.

`flux.row_shapes` reads images by these. A table that was renamed, or whose key column was, has its older changes in
the log under the older names: `list_places` has all of them for one row.
"""

import json

import attrs

from flux.row_shapes import Shape, ShapeColumn, read_image, write_image
from flux.store.postgres import Connection, Row
from flux.store.queries import QUERIES
from flux.store.row_history import Table

NOT_NOTED = 2**62
"""Stands for the transaction that gave a table the shape that it has, where nobody noted it: no snapshot saw it."""


@attrs.frozen
class Place:
    """Under what a row is in the log."""

    schema: str
    table: str
    key: str
    relid: int
    """Of the table: another one may have had that name before, or have it now."""
    is_now: bool
    """It is called so now. Then, what a table had that is gone counts as its own: it was made anew, or restored."""


@attrs.frozen
class TableHistory:
    """A table and its shapes."""

    table: Table
    shapes: tuple[Shape, ...]
    """Oldest first; the last is that of now."""
    is_partitioned: bool

    @property
    def now(self) -> Shape:
        """What it is called and what columns it has now."""
        return self.shapes[-1]

    def list_places(self, key: str) -> list[Place]:
        """Return under what the row with ``key``, in the log's form, is in the log; as it is called now comes first."""
        values = read_image(key)
        numbers = {column.number: values[column.name] for column in self.now.key}
        places = [self._place(self.table.schema, self.table.name, key)]
        for shape in reversed(self.shapes):
            names = {column.number: column.name for column in shape.key}
            if names.keys() == numbers.keys():
                image = {names[number]: value for number, value in numbers.items()}
                text = write_image(dict(sorted(image.items(), key=lambda item: item[0].encode())))
                places.append(self._place(shape.schema, shape.table, text))
        return list(dict.fromkeys(places))

    def _place(self, schema: str, table: str, key: str) -> Place:
        is_now = (schema, table) == (self.table.schema, self.table.name)
        return Place(schema, table, key, self.table.relid, is_now)


async def read_table_history(connection: Connection, table: Table) -> TableHistory:
    """Return what is known of a table's shapes."""
    shapes = [_make_shape(row) for row in await connection.fetch(QUERIES.list_table_shapes, table.relid)]
    now = await connection.fetch_row(QUERIES.get_table_now, table.relid)
    assert now is not None, "the table was just found"
    columns = _read_columns(now["columns"])
    last = shapes[-1] if shapes else None
    if last is None or (last.schema, last.table, last.columns) != (table.schema, table.name, columns):
        shapes.append(Shape(NOT_NOTED, table.schema, table.name, columns))
    return TableHistory(table, tuple(shapes), now["is_partitioned"])


def _make_shape(row: Row) -> Shape:
    return Shape(
        int(row["xid"]),
        row["schema_name"],
        row["table_name"],
        _read_columns(row["columns"]),
        row["at"],
        row["is_made"],
    )


def _read_columns(text: str) -> tuple[ShapeColumn, ...]:
    return tuple(
        ShapeColumn(column["number"], column["name"], column["type"], column["key"])
        for column in json.loads(text)
    )
