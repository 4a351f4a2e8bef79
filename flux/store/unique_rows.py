"""The row that was there first: whose key a unique violation speaks of.

The server names the columns of the constraint and their values (``Key (email)=(a@b.com) already
exists.``), and not the row. Its history goes by its primary key, so the row is looked up by the
constraint's columns. They have a unique index, so that is one look whatever the table's size.
"""

from collections.abc import Mapping

import msgspec

from flux.store.postgres import Pool, quote_identifier
from flux.store.row_history import find_table


async def find_unique_row(
    pool: Pool, schema: str, table: str, columns: Mapping[str, str]
) -> dict[str, object] | None:
    """Return the primary key of the row that has these values now, or None when there is none (any more).

    ``columns`` are the values as the server writes them; the server reads them as its own.
    """
    async with pool.acquire() as connection:
        found = await find_table(connection, schema, f"{quote_identifier(schema)}.{quote_identifier(table)}")
        if not found.key_columns:
            return None
        # Tables and columns can't be parameters, so this one statement is put together here and is not in
        # queries.sql. Values stay parameters, and get the types of the table's own columns.
        place = f"{quote_identifier(found.schema)}.{quote_identifier(found.name)}"
        terms = " and ".join(f"t.{name} = wanted.{name}" for name in map(quote_identifier, columns))
        keys = ", ".join(f"'{name}', t.{quote_identifier(column)}" for name, column in _names(found.key_columns))
        key = await connection.fetch_value(
            f"select pg_catalog.json_build_object({keys})::text from {place} t, "
            f"pg_catalog.json_populate_record(null::{place}, $1::text::json) wanted where {terms} limit 1",
            msgspec.json.encode(dict(columns)).decode(),
        )
    if key is None:
        return None
    values = msgspec.json.decode(str(key), type=dict[str, object])
    return {column: values[name] for name, column in _names(found.key_columns)}


def _names(columns: tuple[str, ...]) -> list[tuple[str, str]]:
    """A harmless name for each column: the columns' own may hold quotes."""
    return [(f"k{number}", column) for number, column in enumerate(columns)]
