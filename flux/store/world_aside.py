"""Rows of a copy that are seen and no longer in anybody's way.

In REPEATABLE READ a transaction sees the rows of its snapshot, and whether a new row may come is decided by those that
are there now. So it can insert a key that it still sees when another transaction has deleted that row, and then it sees
both. It can read the old one and do nothing else with it: to change it ends in SQLSTATE 40001.

A table can't hold both under a unique index. But a table may have a child (INHERITS): a query of the copy reads the
child's rows too, and no index of the copy knows them. So a row that was overtaken is set *aside*, into such a child,
whose trigger refuses to have it changed. For a lock (``for update``) there is no trigger: whether a statement has
locked such a row is looked up behind it.

Which rows these are is decided above (`flux.supervisor.world_overtaken`). `make_conflicts` finds those that could not
be beside a row that the recording wrote.
"""

from collections.abc import Sequence

from flux.sql_world import quote
from flux.store.world_catalog import UniqueIndex
from flux.store.world_keys import GUARD
from flux.store.world_rows import ShownTable, literal

_FAIL = (
    "raise exception using errcode = '40001', message = coalesce(nullif(pg_catalog.current_setting('flux.refusal', "
    "true), ''), 'could not serialize access due to concurrent update')"
)
REFUSE_LOCK = f"do $flux$begin {_FAIL}; end$flux$"
"""Fails as the server does where a statement would lock a row that others have changed."""
LOCATE_ASIDE = "select pg_catalog.concat(t.ctid, t.xmax) as place from pg_temp.{} t order by t.ctid"
"""Where the rows of a child are, and who has locked each."""
_IMAGE = '"flux image"'
"""No column of a user's is called so."""


def aside_name(table: str) -> str:
    """Return what the child is called, without its schema. Nobody but Flux names it so."""
    return f"{table[:50]}%aside"


def list_aside_statements(table: str, copy: str) -> list[str]:
    """Return the statements that make the child of ``copy``, which is what the copy of ``table`` is called."""
    aside, function = quote(aside_name(table)), f"pg_temp.{quote(f'flux aside {table[:40]}')}"
    return [
        f"create temporary table {aside} () inherits (pg_temp.{quote(copy)})",
        f"create function {function}() returns trigger language plpgsql as $flux$begin {_FAIL}; end$flux$",
        f"create trigger flux_aside before update or delete on pg_temp.{aside} for each row when ({GUARD}) "
        f"execute function {function}()",
    ]


def make_conflicts(table: ShownTable, copy: str, indexes: Sequence[UniqueIndex], *, has_parts: bool) -> str | None:
    """Return a query of the rows of ``copy`` that could not be beside some others; None when all could.

    It takes the images of the others, and gives images, and whether the conflict is checked at COMMIT only.
    """
    if not table.is_as_ever or not table.key:
        return None
    place = f"pg_temp.{quote(copy)}"
    rows = place if has_parts else f"only {place}"
    given = (
        f"(select r.* from pg_catalog.unnest($1::pg_catalog.text[]) m ({_IMAGE}), "
        f"pg_catalog.json_populate_record(null::{place}, m.{_IMAGE}::pg_catalog.json) r)"
    )

    def compare(index: UniqueIndex) -> str:
        where = f"where {index.predicate}" if index.predicate else ""
        names = [f"e{number}" for number, _ in enumerate(index.expressions)]
        values = ", ".join(f"({text}) as {name}" for text, name in zip(index.expressions, names, strict=True))
        same = " and ".join(
            f"t.{name} {operator} n.{name}" for name, operator in zip(names, index.operators, strict=True)
        )
        return (
            f"select t.{_IMAGE}, {'true' if index.is_deferrable else 'false'} as is_deferrable "
            f"from (select pg_catalog.to_json(s)::pg_catalog.text as {_IMAGE}, {values} from {rows} s {where}) t "
            f"join (select {values} from {given} s {where}) n on {same}"
        )

    compared = " union all ".join(compare(index) for index in indexes)
    if not compared:
        return None
    return (
        f"select {_IMAGE} as image, pg_catalog.bool_and(is_deferrable) as is_deferrable "
        f"from ({compared}) c group by 1"
    )


def list_locked(copy: str) -> str:
    """Return a query of (image, place) of the rows of a copy that are locked, or whose change was rolled back."""
    return (
        "select pg_catalog.to_json(t)::pg_catalog.text as image, pg_catalog.concat(t.ctid, t.xmax) as place "
        f"from only pg_temp.{quote(copy)} t where t.xmax <> 0"
    )


def make_setter(table: str, copy: str, stored: Sequence[str], keys: Sequence[str]) -> str:
    """Return the statement that sets rows of ``copy`` aside; it takes their images, of which the keys will do."""
    place, names = f"pg_temp.{quote(copy)}", ", ".join(stored)
    same = " and ".join(f"t.{key} = r.{key}" for key in keys)
    return (
        f"with gone as (delete from only {place} t using pg_catalog.unnest($1::pg_catalog.text[]) m (image), "
        f"pg_catalog.json_populate_record(null::{place}, m.image::pg_catalog.json) r where {same} returning t.*) "
        f"insert into pg_temp.{quote(aside_name(table))} ({names}) select {names} from gone"
    )


def list_known(table: str) -> str:
    """Return a query of which of the keys $1 are of rows that somebody has changed since; of the replay's own too."""
    return (
        "select u.key::pg_catalog.text as key from pg_temp.flux_undo u "
        f"where u.table_name = {literal(table)} and u.key::pg_catalog.text = any ($1::pg_catalog.text[])"
    )
