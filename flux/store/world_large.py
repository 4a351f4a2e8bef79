"""Written tables that are too large to copy: only the rows that a replay touches are.

Under the table's name stands a view: the rows of then without those that have been taken over, and the copy, to which
these were taken, with all indexes, checks and triggers. Triggers of the view take a row over before it is changed, and
before one is inserted, those that it could conflict with. So what must be unique is checked by the copy's own indexes.

A view knows no ON CONFLICT and no FOR UPDATE. A lock means nothing in a world; of ON CONFLICT see `World.find_refusal`.
"""

from collections.abc import Mapping

from flux.sql_world import quote
from flux.store.world_catalog import UniqueIndex
from flux.store.world_rows import ShownTable, keys_of_undo, list_names, literal, rows_as_of
from flux.store.world_views import gone_name, list_gone_statements, make_shown


def large_name(table: str) -> str:
    """Return what the copy of a large table's touched rows is called. Nobody but Flux names it so."""
    return f"{table[:50]}%copy"


def list_large_places(table: ShownTable) -> tuple[str, ...]:
    """Return where the rows of then are: those that were not taken over, whose greatest an index has, and others."""
    same = " and ".join(f"g.{quote(shown.name)} = s.{quote(shown.name)}" for shown in table.key)
    left = f"(select * from {table.real} s where not exists (select from {_gone(table)} g where {same}))"
    return f"{left} t", f"{_copy(table)} t"


def list_large_statements(table: ShownTable) -> list[str]:
    """Return the statements that make the view, and what takes rows over; the copy is there."""
    return [
        *list_gone_statements(table),
        f"create temporary view {quote(table.name)} as {make_shown(table, _copy(table))}",
        *(
            f"alter view pg_temp.{quote(table.name)} alter column {quote(shown.name)} "
            f"set default pg_catalog.nextval({literal(f'pg_temp.{quote(shown.column.sequence)}')})"
            for shown in table.columns
            if shown.column.identity and shown.column.sequence
        ),
    ]


def list_large_triggers(table: ShownTable, unique: Mapping[str, tuple[UniqueIndex, ...]]) -> list[str]:
    """Return the statements that make the view's triggers."""
    gone, copy = _gone(table), _copy(table)
    stored = list_names(table.stored)
    all_columns = list_names(table.columns)
    keys = list_names(table.key)
    key_of_old = " and ".join(f"t.{quote(shown.name)} = old.{quote(shown.name)}" for shown in table.key)
    key_of_row = " and ".join(f"g.{quote(shown.name)} = t.{quote(shown.name)}" for shown in table.key)
    new_values = ", ".join(f"new.{quote(shown.name)}" for shown in table.stored)
    # What is always generated can't be set, not even to what it is.
    changeable = [shown for shown in table.stored if shown.column.identity != "a"]
    changes = ", ".join(f"{quote(shown.name)} = new.{quote(shown.name)}" for shown in changeable)
    own, shown_as = f'"{large_name(table.name)}"', f'"{table.name}"'
    named = f"{literal(own)}, {literal(shown_as)}"

    def take_over(condition: str) -> str:
        return (
            f"with taken as (insert into {copy} ({stored}) overriding system value select {stored} from {table.real} t "
            f"where {condition} and not exists (select from {gone} g where {key_of_row}) returning {keys}) "
            f"insert into {gone} select {keys} from taken"
        )

    conflicts = ";\n        ".join(take_over(_matches(index)) for index in unique[table.now_name])
    # Its variables have names that no column has.
    body = f"""
#variable_conflict use_column
declare
    flux__filling constant pg_catalog.text := pg_catalog.current_setting('flux.filling', true);
    flux__message pg_catalog.text; flux__detail pg_catalog.text; flux__hint pg_catalog.text;
    flux__state pg_catalog.text; flux__constraint pg_catalog.text; flux__column pg_catalog.text;
    flux__table pg_catalog.text; flux__schema pg_catalog.text;
begin
    perform pg_catalog.set_config('flux.filling', 'on', true);
    if tg_op <> 'INSERT' then
        {take_over(key_of_old)};
    end if;
    if tg_op <> 'DELETE' then
        {conflicts};
    end if;
    perform pg_catalog.set_config('flux.filling', coalesce(flux__filling, ''), true);
    begin
        if tg_op = 'INSERT' then
            insert into {copy} ({stored}) overriding system value values ({new_values})
            returning {all_columns} into new;
        elsif tg_op = 'UPDATE' then
            update {copy} t set {changes} where {key_of_old} returning {list_names(table.columns, "t")} into new;
        else
            delete from {copy} t where {key_of_old};
        end if;
    exception when integrity_constraint_violation then
        get stacked diagnostics flux__message = message_text, flux__detail = pg_exception_detail,
            flux__hint = pg_exception_hint, flux__state = returned_sqlstate, flux__constraint = constraint_name,
            flux__column = column_name, flux__table = table_name, flux__schema = schema_name;
        -- A name that is empty is not the same as none.
        if flux__constraint = '' then
            raise exception using errcode = flux__state, message = pg_catalog.replace(flux__message, {named}),
                detail = flux__detail, hint = flux__hint, column = flux__column, schema = flux__schema,
                table = {literal(table.name)};
        end if;
        raise exception using errcode = flux__state, message = pg_catalog.replace(flux__message, {named}),
            detail = flux__detail, hint = flux__hint, constraint = flux__constraint, schema = flux__schema,
            table = case flux__table when {literal(large_name(table.name))} then {literal(table.name)}
                    else flux__table end;
    end;
    if not found then
        return null;
    end if;
    if tg_op = 'DELETE' then
        return old;
    end if;
    return new;
end
"""
    function = f"pg_temp.{quote(f'flux {table.name[:50]}')}"
    return [
        f"create function {function}() returns trigger language plpgsql as $flux${body}$flux$",
        f"create trigger flux_large instead of insert or update or delete on pg_temp.{quote(table.name)} "
        f"for each row execute function {function}()",
    ]


def list_large_fills(table: ShownTable) -> list[str]:
    """Return the statements that take over the rows which have changed since, as they were."""
    columns = list_names(table.stored)
    nothing = f"(select * from {table.real} where false)"
    return [
        f"insert into {_gone(table)} {keys_of_undo(table)}",
        f"insert into {_copy(table)} ({columns}) overriding system value "
        f"select {columns} from ({rows_as_of(table, nothing)}) as_of",
        f"analyze {_gone(table)}",
    ]


def _matches(index: UniqueIndex) -> str:
    """Return the condition under which a row of the table could conflict with ``new``."""
    same = " and ".join(
        f"({expression}) = (select ({expression}) from (select (new).*) n)"
        for expression in index.expressions
    )
    return f"{same} and ({index.predicate})" if index.predicate else same


def _gone(table: ShownTable) -> str:
    return f"pg_temp.{quote(gone_name(table.name))}"


def _copy(table: ShownTable) -> str:
    return f"pg_temp.{quote(large_name(table.name))}"
