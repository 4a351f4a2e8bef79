"""What the columns of an answer are: of which table, and which of them are its key.

Postgres tells, for each column of an answer, the table and column it was taken
from, as numbers. `TableCatalog` knows the names behind the numbers. It asks once
for each table; a number never comes back for another table.
"""

import contextlib
from collections.abc import Iterable

import attrs

from flux.errors import FluxError
from flux.store.postgres import Column, Pool
from flux.store.queries import QUERIES


@attrs.frozen
class _Table:
    schema: str
    name: str
    columns: dict[int, str]
    """By number."""
    key: frozenset[int]
    """Numbers of the primary key's columns."""


_HAS_DEFERRABLE = "select exists (select from pg_catalog.pg_trigger t where t.tgdeferrable)"
"""Deferrable constraints that are enforced by an index alone have a trigger too."""

Found = tuple[str, str, tuple[tuple[str, int], ...], tuple[tuple[str, int], ...]]
"""Schema, table, key and other columns, as in `flux.execution.Read`."""


class TableCatalog:
    """Names and keys of tables by their numbers."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._tables: dict[int, _Table] = {}
        self._has_deferrable: bool | None = None

    def forget(self) -> None:
        """Ask again: tables may have got other keys, names or constraints."""
        self._tables.clear()
        self._has_deferrable = None

    async def has_deferrable(self) -> bool:
        """Whether any constraint or trigger of this database can wait until COMMIT. Raises what the database says."""
        if self._has_deferrable is None:
            async with self._pool.acquire() as connection:
                self._has_deferrable = bool(await connection.fetch_value(_HAS_DEFERRABLE))
        return self._has_deferrable

    def knows(self, columns: tuple[Column, ...]) -> bool:
        """Whether the tables that these come from have been asked for; without one there is nothing to ask."""
        return all(column.table_oid in self._tables or not column.table_oid for column in columns)

    async def learn(self, columns: tuple[Column, ...]) -> None:
        """Ask for those that are not known.

        A database that can't be asked is no reason to fail a statement that has run: then nothing is known.
        """
        missing = {column.table_oid for column in columns} - {0} - self._tables.keys()
        with contextlib.suppress(FluxError):
            await self._learn(missing)

    def list_reads(self, columns: tuple[Column, ...]) -> list[Found]:
        """Return, for each table whose whole key is among ``columns``, which of them are what.

        Of columns from a table that is not known, nothing.
        """
        known = [(oid, self._tables.get(oid)) for oid in sorted({column.table_oid for column in columns})]
        return [found for oid, table in known if table and (found := self._match(table, oid, columns))]

    def _match(self, table: _Table, oid: int, columns: Iterable[Column]) -> Found | None:
        places: dict[int, int] = {}
        for index, column in enumerate(columns):
            if column.table_oid == oid and column.column_number in table.columns:
                if column.column_number in table.key and column.column_number in places:
                    return None  # A self-join: which key belongs to which column can't be told.
                places[column.column_number] = index
        if not table.key or not table.key <= places.keys():
            return None
        key = sorted((table.columns[number], places[number]) for number in table.key)
        rest = sorted((table.columns[number], index) for number, index in places.items() if number not in table.key)
        return table.schema, table.name, tuple(key), tuple(rest)

    async def _learn(self, oids: Iterable[int]) -> None:
        asked = sorted(oids)
        async with self._pool.acquire() as connection:
            rows = await connection.fetch(QUERIES.describe_tables, asked)
        for oid in asked:
            mine = [row for row in rows if row["relid"] == oid]
            self._tables[oid] = _Table(
                mine[0]["schema_name"] if mine else "",
                mine[0]["table_name"] if mine else "",
                {row["number"]: row["name"] for row in mine},
                frozenset(row["number"] for row in mine if row["is_key"]),
            )
