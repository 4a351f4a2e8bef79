"""The rows of a table as they were, as SQL: what there is now, with what has changed since taken back.

Of a row with a key, the log's first image since is the row as it was; all of them are in ``pg_temp.flux_undo``.
Rows without a key are told apart by nothing but their values, so they are counted: as many of a kind as there are now,
less those that came since, and those that went.
"""

from collections.abc import Sequence

import attrs

from flux.sql_world import quote
from flux.store.world_catalog import Column


@attrs.frozen
class ShownColumn:
    """A column as it was."""

    column: Column
    """As it is now."""
    name: str
    """What it was called."""
    type: str
    """What type it had."""

    def of(self, row: str) -> str:
        """Return its value in ``row``, which is one of now's table."""
        value = f"{row}.{quote(self.column.name)}"
        return value if self.type == self.column.type else f"{value}::{self.type}"


@attrs.frozen
class ShownTable:
    """A table as it was."""

    schema: str
    name: str
    """What it was called: what it has in the world, and in ``pg_temp.flux_undo``."""
    now_name: str
    """What it is called now."""
    columns: tuple[ShownColumn, ...]
    """In their order."""
    has_policies: bool
    """Its rows can't all be read by a guest."""
    added: frozenset[str] = frozenset()
    """Columns that it has now and had not."""
    old_names: frozenset[str] = frozenset()
    """Names that the log may have it under."""
    is_counted: bool = False
    """Its rows can only be counted: it has no key, or had another."""

    @property
    def real(self) -> str:
        """The table itself, in SQL."""
        return f"{quote(self.schema)}.{quote(self.now_name)}"

    @property
    def stored(self) -> tuple[ShownColumn, ...]:
        """The columns whose values are not computed."""
        return tuple(shown for shown in self.columns if not shown.column.generated)

    @property
    def key(self) -> tuple[ShownColumn, ...]:
        """The columns of its primary key."""
        return tuple(shown for shown in self.columns if shown.column.is_key)

    @property
    def is_as_ever(self) -> bool:
        """Whether it has the name and the columns that it had."""
        return self.name == self.now_name and all(
            (shown.name, shown.type) == (shown.column.name, shown.column.type) for shown in self.columns
        )


def list_names(columns: Sequence[ShownColumn], row: str = "") -> str:
    """Return the columns' names, in SQL; of ``row`` if there is one."""
    prefix = f"{row}." if row else ""
    return ", ".join(f"{prefix}{quote(shown.name)}" for shown in columns)


def rows_as_of(table: ShownTable, source: str | None = None) -> str:
    """Return a query of the rows as they were, all columns in their order, for a table whose rows have keys.

    ``source`` is what stands for the table's rows of now, if not the table itself.
    """
    now = ", ".join(f"{shown.of('t')} as {quote(shown.name)}" for shown in table.columns)
    then = ", ".join(shown.of("b") for shown in table.columns)
    # Without a key, nothing has changed since.
    same = (
        " and ".join(f"k.{quote(shown.column.name)} = t.{quote(shown.column.name)}" for shown in table.key)
        or "false"
    )
    undo = f"pg_temp.flux_undo u, pg_catalog.json_populate_record(null::{table.real}"
    where = f"where u.table_name = {literal(table.name)}"
    return (
        f"select {now} from {source or table.real} t "
        f"where not exists (select from {undo}, u.key) k {where} and {same}) "
        f"union all select {then} from {undo}, u.before) b {where} and u.before is not null"
    )


def keys_of_undo(table: ShownTable) -> str:
    """Return a query of the keys of rows that have changed since."""
    keys = ", ".join(f"k.{quote(shown.column.name)}" for shown in table.key)
    return (
        f"select {keys} from pg_temp.flux_undo u, pg_catalog.json_populate_record(null::{table.real}, u.key) k "
        f"where u.table_name = {literal(table.name)}"
    )


def images_since(table: ShownTable) -> str:
    """Return a query of (image, count): by how many rows of a kind there were more then; takes token and snapshot.

    The images are written anew, so that a partition's have the columns in the table's own order.
    """
    return (
        f"select pg_catalog.to_json(r)::pg_catalog.text as image, pg_catalog.sum(i.count)::pg_catalog.int8 as count "
        f"from flux.world_images($1, $2, {literal(table.now_name)}) i, "
        f"pg_catalog.json_populate_record(null::{table.real}, i.image) r group by 1"
    )


def rows_by_count(table: ShownTable, source: str | None = None) -> str:
    """Return a query of the rows as they were, for any table; counts are in ``pg_temp.flux_counts``."""
    now = ", ".join(f"{shown.of('(n.t)')} as {quote(shown.name)}" for shown in table.columns)
    then = ", ".join(shown.of("b") for shown in table.columns)
    counts = f"pg_temp.flux_counts c where c.table_name = {literal(table.name)}"
    return (
        f"select {now} from (select t, pg_catalog.to_json(t)::pg_catalog.text as image, "
        f"pg_catalog.row_number() over (partition by pg_catalog.to_json(t)::pg_catalog.text) as number "
        f"from {source or table.real} t) n "
        f"where not exists (select from {counts} and c.image = n.image and n.number <= -c.count) "
        f"union all select {then} from (select c.image, c.count from {counts} and c.count > 0) c, "
        f"pg_catalog.generate_series(1, c.count), "
        f"pg_catalog.json_populate_record(null::{table.real}, c.image::pg_catalog.json) b"
    )


def rows_missing(table: ShownTable, source: str | None = None) -> str:
    """Return a query of whether the log has rows come that are not there: then the counts are not true."""
    return (
        f"select exists (select from pg_temp.flux_counts c left join "
        f"(select pg_catalog.to_json(t)::pg_catalog.text as image, pg_catalog.count(*) as count "
        f"from {source or table.real} t group by 1) n on n.image = c.image "
        f"where c.table_name = {literal(table.name)} and coalesce(n.count, 0) + c.count < 0)"
    )


def literal(text: str) -> str:
    """Return ``text`` as SQL writes text."""
    escaped = text.replace("'", "''")
    return f"E'{escaped}'".replace("\\", "\\\\") if "\\" in text else f"'{escaped}'"
