"""What a version of a row is, and how people name a row.

A row is named as people name it: ``orders`` or ``shop.orders``, and ``42`` or ``a=1,b=2``. The
database itself reads the key (``042`` is 42 where the column is a number), and what it can't read is told
with the table's key columns: a key that fits no row and a key that is no key must not look alike.

`flux.store.row_versions` has the versions of one row.
"""

import json
import re
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import attrs

from flux.errors import OperatorError
from flux.mutation import OPERATION_OF_LETTER, Mutation
from flux.store.postgres import Connection, DatabaseError, Row
from flux.store.queries import QUERIES

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TABLES_SHOWN_MAX = 20


class NoSuchTableError(OperatorError):
    """There is no table of that name, or more than one."""

    code = "FLX120"
    exit_code = 3


class KeyDoesNotFitError(OperatorError):
    """The key is not one that this table's rows can have."""

    code = "FLX121"


@attrs.frozen
class RowVersion:
    """One change of one row, and who made it."""

    seq: int
    """Place in the order of all changes."""
    version: int | None
    """Counts the row's committed versions from 1; None when it was rolled back, or not counted."""
    at: datetime
    """When, in UTC."""
    mutation: Mutation
    """The row before and after."""
    outside: bool
    """It was made on a connection that was not a guest's, and by no migration of the project's."""
    migration: str | None
    """The project's migration that made it: its path."""
    gap: bool
    """The row was not as the version before had left it: something else changed it in between."""
    execution: uuid.UUID | None
    """The execution that made it; None from outside, and when its record is gone."""
    name: str | None
    """Of that execution, as all that follows."""
    trigger: str | None
    function: str | None
    method: str | None
    path: str | None
    route: str | None
    sha: str | None
    dirty: bool | None


@attrs.frozen
class Table:
    """A table of the users'."""

    relid: int
    """Its number in the database."""
    schema: str
    name: str
    key_columns: tuple[str, ...]
    """Of its primary key, in alphabetical order; empty when it has none."""

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


def make_mutation(row: Row, call: int | None = None) -> Mutation:
    """Return the mutation in a row of ``flux.mutation``."""
    at: datetime = row["at"]
    return Mutation(
        schema=row["schema_name"],
        table=row["table_name"],
        key=row["key"],
        op=OPERATION_OF_LETTER[row["op"]],
        before=row["before"],
        after=row["after"],
        committed=row["committed"],
        xid=int(row["xid"]),
        ordinal=row["ordinal"],
        depth=row["depth"],
        call=call,
        at_ns=(at - _EPOCH) // timedelta(microseconds=1) * 1000,
    )


def make_version(row: Row) -> RowVersion:
    return RowVersion(
        seq=row["seq"],
        version=row["version"],
        at=row["at"],
        mutation=make_mutation(row),
        outside=row["outside"] and row["migration"] is None,
        migration=row["migration"],
        gap=False,
        execution=row["execution"],
        name=row["name"],
        trigger=row["trigger"],
        function=row["function"],
        method=row["method"],
        path=row["path"],
        route=row["route"],
        sha=row["sha"],
        dirty=row["dirty"],
    )


# --- tables and keys as people write them ----------------------------------------------------------


async def find_table(connection: Connection, schema: str, text: str) -> Table:
    """Return the table that ``text`` names; without a schema it is the one in ``schema``, or the only one."""
    parts = _split_name(text)
    if parts is None:
        raise NoSuchTableError(
            f'"{_shown(text)}" is not the name of a table', remedy="write orders or shop.orders"
        )
    wanted_schema, name = parts
    rows = await connection.fetch(QUERIES.list_tables, [name, name.lower()])
    found = [Table(row[0], row[1], row[2], tuple(row[3])) for row in rows]
    if wanted_schema is not None:
        found = [table for table in found if table.schema in (wanted_schema, wanted_schema.lower())]
    # As written, if there is one; else as SQL would read it, in lower case.
    found = [table for table in found if table.name == name] or found
    if wanted_schema is None and len(found) > 1:
        found = [table for table in found if table.schema == schema] or found
    if len(found) > 1:
        raise NoSuchTableError(
            f'there is more than one table "{_shown(text)}"',
            remedy=f"write one of {', '.join(map(str, found))}",
        )
    if not found:
        raise await _no_such_table(connection, text)
    return found[0]


async def _no_such_table(connection: Connection, text: str) -> NoSuchTableError:
    names = [f"{row[0]}.{row[1]}" for row in await connection.fetch(QUERIES.list_table_names)]
    shown = ", ".join(names[:_TABLES_SHOWN_MAX]) + (" ..." if len(names) > _TABLES_SHOWN_MAX else "")
    return NoSuchTableError(
        f'there is no table "{_shown(text)}"',
        remedy=f"the tables are {shown}" if names else "there are no tables yet: write a migration",
    )


_NAME = r'(?:"(?:[^"]|"")+"|[^".]+)'


def _split_name(text: str) -> tuple[str | None, str] | None:
    """Schema and name, out of their quotes; None when it is no name."""
    found = re.fullmatch(rf"(?:({_NAME})\.)?({_NAME})", text.strip())
    if not found or re.search("[\0\ud800-\udfff]", text):
        return None
    schema, name = (part and _unquoted(part) for part in found.groups())
    assert name is not None
    return schema, name


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


async def read_key(connection: Connection, table: Table, text: str) -> str:
    """Return the key that ``text`` names, in the log's form."""
    columns = table.key_columns
    if not columns:
        raise KeyDoesNotFitError(
            f"table {table} has no primary key, so its rows have no history of their own",
            remedy="add a primary key; changes from then on are known by it",
        )
    return await make_key(connection, table, _split_key(table, text))


def _split_key(table: Table, text: str) -> dict[str, object]:
    """The values by column. ``a=1,b=2``; for a key of one column also the value alone, whatever it holds."""
    columns = table.key_columns
    # Split only where the name of a key column follows, so that a value may hold commas and equal signs.
    names = "|".join(re.escape(column) for column in columns)
    parts = re.split(rf"(?:^|,)\s*({names})=", text)
    if len(columns) == 1 and len(parts) == 1:
        return {columns[0]: text}
    values = dict(zip(parts[1::2], parts[2::2], strict=True))
    if parts[0].strip() or len(parts) // 2 != len(columns) or values.keys() != set(columns):
        form = ",".join(f"{column}=..." for column in columns)
        raise KeyDoesNotFitError(
            f'"{_shown(text)}" is not a key of {table}: its primary key is ({", ".join(columns)})',
            remedy=f"write {form}" + (" or the value alone" if len(columns) == 1 else ""),
        )
    return dict(values)


async def make_key(connection: Connection, table: Table, values: Mapping[str, object]) -> str:
    """Return the key with these values of the key's columns, in the log's form."""
    try:
        return str(await connection.fetch_value(QUERIES.get_key_text, table.relid, json.dumps(dict(values))))
    except DatabaseError as error:
        if error.sqlstate[:2] not in ("22", "23", "42"):
            raise
        shown = ",".join(f"{column}={value}" for column, value in values.items())
        raise KeyDoesNotFitError(
            f'"{_shown(shown)}" is not a key of {table}: {error.report.message}',
            remedy=f"its primary key is ({', '.join(table.key_columns)})",
        ) from error


def _shown(text: str) -> str:
    return text if len(text) <= 80 else text[:79] + "…"
