"""Tables that have changed since and that a replay does not write: a view stands for each, and takes the changes back.

Two tables are beside it: the keys of the rows that have changed, and these rows as they were, with the indexes that
the table has. The view is the table without the former, and the latter. It is one SELECT over a plain UNION ALL, with
what is *gone* asked by a condition above: so PostgreSQL sees through it, and finds a row by an index of both, a row
for each of a join's, and the first ten in an index's order. A condition inside the union, or a join there, would have
it read all rows for each of these.

Of a table whose columns have changed since, rows are read from the images themselves (`rows_as_of`): right, and slow.
"""

from collections.abc import Sequence

from flux.sql_world import quote
from flux.store.world_rows import ShownTable, keys_of_undo, list_names, literal

_IS_THEN = '"flux then"'
"""A column of the union: the row is one of then. No column of a user's is called so."""


def can_be_indexed(table: ShownTable) -> bool:
    """Whether the rows of then can stand in a table of their own, with the columns that the table has now."""
    return bool(table.key) and table.is_as_ever and not table.added and not table.is_counted


def gone_name(table: str) -> str:
    """Return what the table of changed rows' keys is called, without its schema. Nobody but Flux names it so."""
    return f"{table[:50]}%gone"


def then_name(table: str) -> str:
    """Return what the table of rows as they were is called, likewise."""
    return f"{table[:50]}%then"


def list_gone_statements(table: ShownTable) -> list[str]:
    """Return the statements that make the table of keys of rows which are not to be seen any more."""
    gone = f"pg_temp.{quote(gone_name(table.name))}"
    keys = list_names(table.key)
    return [
        f"create temporary table {quote(gone_name(table.name))} as select {keys} from {table.real} with no data",
        f"alter table {gone} add primary key ({keys})",
    ]


def make_shown(table: ShownTable, others: str) -> str:
    """Return the query of the table's rows but for those that are gone, and of those in ``others``, a table like it."""
    columns = list_names(table.columns)
    same = " and ".join(f"g.{quote(shown.name)} = t.{quote(shown.name)}" for shown in table.key)
    gone = f"exists (select from pg_temp.{quote(gone_name(table.name))} g where {same})"
    # "is not true" keeps PostgreSQL from making a join of it, which it could not push conditions into.
    return (
        f"select {list_names(table.columns, 't')} from (select {columns}, false as {_IS_THEN} from {table.real} "
        f"union all select {columns}, true from {others}) t where t.{_IS_THEN} or ({gone}) is not true"
    )


def list_view_statements(table: ShownTable, indexes: Sequence[tuple[str, ...]]) -> list[str]:
    """Return the statements that make the view and what is beside it; ``indexes`` are columns, as SQL names them."""
    then = quote(then_name(table.name))
    # Nothing but its key is required of a row of then: what is asked of rows now may not have been.
    return [
        *list_gone_statements(table),
        f"create temporary table {then} as select {list_names(table.columns)} from {table.real} with no data",
        f"alter table pg_temp.{then} add primary key ({list_names(table.key)})",
        *(f"create index on pg_temp.{then} ({', '.join(columns)})" for columns in indexes),
        f"create temporary view {quote(table.name)} as {make_shown(table, f'pg_temp.{then}')}",
    ]


def list_view_fills(table: ShownTable) -> list[str]:
    """Return the statements that fill what is beside the view from ``pg_temp.flux_undo``, whatever is there."""
    gone, then = (f"pg_temp.{quote(name)}" for name in (gone_name(table.name), then_name(table.name)))
    return [
        f"delete from {gone}",
        f"delete from {then}",
        f"insert into {gone} {keys_of_undo(table)}",
        f"insert into {then} ({list_names(table.columns)}) select {list_names(table.columns, 'b')} "
        f"from pg_temp.flux_undo u, pg_catalog.json_populate_record(null::{table.real}, u.before) b "
        f"where u.table_name = {literal(table.name)} and u.before is not null",
        f"analyze {gone}",
        f"analyze {then}",
    ]
