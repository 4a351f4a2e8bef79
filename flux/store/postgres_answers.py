"""What a statement answers with: rows, columns, the command's tag; and what a NOTIFY says.

Plain values. A `Row` is asyncpg's record under a name of ours, made in C, which
is why it is no attrs class.
"""

from enum import StrEnum
from typing import Any

import attrs

from flux.store.asyncpg_seam import Record


class Isolation(StrEnum):
    """Postgres's isolation levels, in its words."""

    READ_COMMITTED = "read committed"
    """Each statement sees what was committed before it began."""

    REPEATABLE_READ = "repeatable read"
    """All statements see what was committed before the first."""

    SERIALIZABLE = "serializable"
    """As if transactions ran one after another."""


class Row(Record):  # type: ignore[misc]  # asyncpg ships no types
    """One row: ``row["name"]``, ``row[0]``, ``tuple(row)``, ``dict(row)``."""

    __slots__ = ()


@attrs.frozen
class Column:
    """One column of an answer."""

    name: str
    """As the statement names it; not always unique."""

    type_name: str
    """The type's name, as ``int4``, ``text[]`` or an enum's own."""

    type_oid: int
    """The type's number; a domain's is that of its base type."""

    table_oid: int
    """Number of the table that the column comes from as it is, or 0."""

    column_number: int
    """Number of the column in that table, or 0."""


@attrs.frozen
class Result:
    """All of one statement's answer."""

    columns: tuple[Column, ...]
    """The columns; known without rows too, and empty if the statement returns none."""

    rows: list[tuple[Any, ...]]
    """The rows, in order."""

    tag: str
    """What the server did, as ``INSERT 0 1``; empty for an empty statement."""


@attrs.frozen
class Notification:
    """What a NOTIFY said."""

    channel: str
    """The channel's name."""

    payload: str
    """The text sent along; may be empty."""

    backend_pid: int
