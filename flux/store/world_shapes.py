"""What has become of tables since: names, columns and types, taken back where nothing of it is lost.

``flux.table_shape`` has the columns of each table, from which transaction on; a column keeps its number when it is
renamed. What it had then and has no more, nobody can bring back: then the table is refused, by name and with the
reason.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from flux.sql_world import quote
from flux.store.world_catalog import Catalog, Column
from flux.store.world_rows import ShownColumn, ShownTable, literal

_WIDER = {
    "smallint": {"integer", "bigint", "numeric"},
    "integer": {"bigint", "numeric"},
    "bigint": {"numeric"},
    "real": {"double precision"},
}
_MAKES_TABLE = frozenset({"CREATE TABLE", "CREATE TABLE AS", "SELECT INTO"})


@attrs.frozen
class DdlChange:
    """A change of something's shape, as ``flux.ddl`` has it."""

    command: str
    object_type: str
    object_identity: str
    dropped: bool

    def concerns(self, schema: str) -> bool:
        """Whether it was about something of ``schema``."""
        return any(f"{name}." in self.object_identity for name in (schema, quote(schema)))

    @property
    def name(self) -> str:
        """The name of what was changed, without its schema and arguments."""
        name = self.object_identity.partition("(")[0].rpartition(".")[2]
        return name.removeprefix('"').removesuffix('"').replace('""', '"')


@attrs.frozen
class Shapes:
    """The tables as they were."""

    tables: Mapping[str, ShownTable]
    """By the name that each had."""
    refused: Mapping[str, str]
    """Those that can't be shown, and why."""
    notes: tuple[str, ...]
    """What else is not as it was, a sentence each."""
    functions: Mapping[str, str]
    """Functions that were changed since, and how."""


def find_shapes(
    catalog: Catalog,
    columns: Mapping[str, Sequence[Column]],
    shapes: Sequence[Mapping[str, Any]],
    ddl: Sequence[DdlChange],
    changed: frozenset[str],
) -> Shapes:
    """Return the schema's tables as they were.

    ``shapes`` are those of ``flux.world_shapes`` that differ from now or may; ``changed`` are names of tables whose
    rows have changed since, as the log has them.
    """
    ours = [change for change in ddl if change.concerns(catalog.schema)]
    tables: dict[str, ShownTable] = {}
    refused: dict[str, str] = {}
    notes: list[str] = []
    explained: set[str] = set()
    seen: set[str] = set()
    for shape in shapes:
        name, now_name = shape["table_name"], shape["now_name"]
        if now_name is None:
            if name is not None:
                refused[name] = "it was dropped since, or moved to another schema"
            continue
        seen.add(now_name)
        if shape["columns"] is None:
            made = [change for change in ours if change.command in _MAKES_TABLE and change.name == now_name]
            touched = [
                change
                for change in ours
                if change.name == now_name or f".{now_name}." in change.object_identity
            ]
            if made and catalog.relations[now_name].parent is None:
                notes.append(f"{now_name} was made since, and is empty in the replay")
                explained.add(now_name)
            elif touched and not made:
                refused[now_name] = (
                    f"{touched[0].command} has changed it since, and its shape of then is not known"
                )
            tables[now_name] = _as_now(catalog, now_name, columns[now_name])
            continue
        shown, reason = _compare(catalog, shape, columns[now_name], changed)
        if reason is not None:
            refused[name] = reason
        else:
            tables[name] = shown
            if not shown.is_as_ever or shown.added or shown.is_counted:
                explained.add(now_name)
        if now_name != name:
            refused.setdefault(now_name, f"it was called {name} then")
            explained.add(now_name)
    for name, relation in catalog.relations.items():
        if relation.is_table and name not in seen:
            tables[name] = _as_now(catalog, name, columns[name])
    refused = {name: reason for name, reason in refused.items() if name not in tables or name in seen}
    for name in tables.keys() & refused.keys():
        if tables[name].now_name != name:
            # Another table has its name now, and that one was not there.
            del refused[name]
    functions: dict[str, str] = {}
    for change in ours:
        if change.object_type in ("function", "procedure"):
            functions[change.name] = change.command
        elif change.object_type == "materialized view" and not change.dropped:
            refused[change.name] = f"{change.command} has changed what it shows since"
        elif (note := _describe(change, explained, refused)) is not None:
            notes.append(note)
    return Shapes(tables, refused, tuple(dict.fromkeys(notes)), functions)


def list_undo_repairs(table: ShownTable) -> list[str]:
    """Return the statements that put the log's images under the names that ``table`` and its columns have."""
    names = {shown.name: shown.column.name for shown in table.columns if shown.name != shown.column.name}
    if table.name == table.now_name and not names:
        return []
    changes = [f"table_name = {literal(table.name)}"]
    if names:
        pairs = ", ".join(f"({literal(old)}, {literal(now)})" for old, now in names.items())
        changes += [
            f"{image} = (select pg_catalog.json_object_agg(coalesce(m.now_name, e.key), e.value) "
            f"from pg_catalog.json_each(u.{image}) e left join (values {pairs}) m(old, now_name) on m.old = e.key)"
            for image in ("key", "before")
        ]
    logged = ", ".join(literal(name) for name in sorted(table.old_names | {table.now_name}))
    return [f"update pg_temp.flux_undo u set {', '.join(changes)} where u.table_name in ({logged})"]


def _as_now(catalog: Catalog, name: str, columns: Sequence[Column]) -> ShownTable:
    return ShownTable(
        catalog.schema,
        name,
        name,
        tuple(ShownColumn(column, column.name, column.type) for column in columns),
        catalog.relations[name].has_policies,
    )


def _compare(
    catalog: Catalog, shape: Mapping[str, Any], columns: Sequence[Column], changed: frozenset[str]
) -> tuple[ShownTable, str | None]:
    """Return the table as it was, and the reason why it can't be shown so, if there is one."""
    then: list[dict[str, Any]] = shape["columns"]
    now = {column.number: column for column in columns}
    old_names = frozenset(table for table, _, _ in shape["old_names"])
    shown = tuple(
        ShownColumn(now[old["number"]], old["name"], old["type"]) for old in then if old["number"] in now
    )
    is_counted = {old["number"] for old in then if old["key"]} != {
        column.number for column in columns if column.is_key
    }
    table = ShownTable(
        catalog.schema,
        shape["table_name"],
        shape["now_name"],
        shown,
        catalog.relations[shape["now_name"]].has_policies,
        frozenset(column.name for column in columns) - {each.column.name for each in shown},
        old_names,
        is_counted,
    )
    gone = [old["name"] for old in then if old["number"] not in now]
    if gone:
        return table, f"column {gone[0]} was dropped since, and its values with it"
    for each in shown:
        if each.type != each.column.type and not _is_wider(each.type, each.column.type):
            return table, (
                f"column {each.name} was {each.type} and is {each.column.type}, which can't be taken back"
            )
    logged = changed & old_names
    if table.is_as_ever and not table.added:
        return table, None
    if is_counted and logged:
        return table, "its rows have changed since, and so have its columns and its key"
    if len(logged) > 1:
        return table, f"its rows have changed both as {' and as '.join(sorted(logged))}"
    if logged and any(each.name != each.column.name and each.column.is_key for each in shown):
        return table, "its rows have changed since, and its key was renamed"
    return table, None


def _is_wider(old: str, new: str) -> bool:
    if new in _WIDER.get(old, ()):
        return True
    kind, _, length = old.partition("(")
    if kind != "character varying":
        return False
    if new in ("text", "character varying"):
        return True
    new_kind, _, new_length = new.partition("(")
    return new_kind == kind and bool(length) and int(new_length.rstrip(")")) >= int(length.rstrip(")"))


def _describe(change: DdlChange, explained: set[str], refused: Mapping[str, str]) -> str | None:
    """Return what of a change is not taken back, or None when it makes no difference or was taken back."""
    what, identity = change.object_type, change.object_identity
    if what in ("index", "sequence", "comment", "schema", "extension") and not change.dropped:
        # An index decides how rows are found; one that makes them unique is named where the copy is made.
        return None
    if what in ("table", "table column", "table constraint", "default value", "index", "type", "toast table"):
        names = {change.name, *identity.replace('"', "").split(".")}
        if names & (explained | refused.keys()) or change.command in _MAKES_TABLE:
            return None
    return f"{change.command} has {'dropped' if change.dropped else 'changed'} {what} {identity} since"
