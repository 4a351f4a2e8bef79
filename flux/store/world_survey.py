"""What a world is to be made of, decided from what the catalog and the log say.

Each table of the schema is one of these: as it was, so that the real one does; changed, so that a view takes that back;
a copy, because it is written, or because its rows can only be counted or are hidden by policies; too large for that, so
that only rows that are touched are copied; or refused.
"""

from collections.abc import Mapping

import attrs

from flux.sql_world import find_names, needs_table
from flux.store.postgres import Connection
from flux.store.queries import QUERIES
from flux.store.world_catalog import (
    Catalog,
    Column,
    Constraint,
    Trigger,
    UniqueIndex,
    read_catalog,
    read_columns,
    read_constraints,
    read_indexes,
    read_unique_indexes,
)
from flux.store.world_code import close_over_triggers, find_written
from flux.store.world_plan import WorldError, WorldPlan
from flux.store.world_rows import ShownTable
from flux.store.world_shapes import DdlChange, Shapes, find_shapes
from flux.store.world_views import can_be_indexed


@attrs.frozen
class Survey:
    """What a world is to be made of."""

    catalog: Catalog
    columns: Mapping[str, tuple[Column, ...]]
    """Of all tables, by what they are called now."""
    constraints: Mapping[str, tuple[Constraint, ...]]
    """Of tables that are copied, likewise."""
    unique_indexes: Mapping[str, tuple[UniqueIndex, ...]]
    """Likewise."""
    indexes: Mapping[str, tuple[tuple[str, ...], ...]]
    """Columns of the indexes of `indexed` tables, likewise."""
    shapes: Shapes
    changed: frozenset[str]
    """Tables whose rows have changed since, by what they were called."""
    counted: frozenset[str]
    """Those of them whose rows can only be counted."""
    copies: frozenset[str]
    """Tables to be copied, by what they were called; their partitions are not among them."""
    large: frozenset[str]
    """Those of them that are too large."""
    settable: frozenset[str]
    """Those of them beside which there can be a place for rows that were overtaken (`flux.store.world_aside`)."""
    refused: Mapping[str, str]
    """What can't be shown as it was, and why."""
    notes: tuple[str, ...]
    """What is not as it was, a sentence each."""
    migrations: frozenset[str]
    """Paths of the plan's migrations that had been applied."""

    @property
    def views(self) -> frozenset[str]:
        """Tables for which a view stands, by what they were called; partitions of theirs are not among them."""
        moved = {name for name, table in self.shapes.tables.items() if not table.is_as_ever or table.added}
        return (self.changed | moved) - self.copies - self.refused.keys()

    @property
    def indexed(self) -> frozenset[str]:
        """Those of `views` whose rows of then are in a table of their own."""
        return frozenset(name for name in self.views if can_be_indexed(self.table(name)))

    def table(self, name: str) -> ShownTable:
        """Return a table by what it was called."""
        return self.shapes.tables[name]

    def list_triggers(self) -> tuple[Trigger, ...]:
        """Return the triggers of what is copied."""
        copied = {self.table(name).now_name for name in self.copies}
        copied |= {part.name for name in copied for part in self.catalog.list_partitions(name)}
        return tuple(trigger for trigger in self.catalog.triggers if trigger.table_name in copied)


async def list_changed(connection: Connection, token: bytes, plan: WorldPlan) -> dict[tuple[str, str], bool]:
    """Return the tables whose rows have changed since, by schema and name, and whether some had no key."""
    rows = await connection.fetch(QUERIES.world_changes, token, plan.snapshot)
    return {(row["schema_name"], row["table_name"]): row["keyless"] for row in rows}


async def survey(connection: Connection, token: bytes, plan: WorldPlan) -> Survey:
    """Decide what the world of ``plan`` is to be made of; raise `WorldError` when what it writes can't be there."""
    catalog = await read_catalog(connection, plan.schema)
    names = frozenset(name for name, relation in catalog.relations.items() if relation.is_table)
    columns = await read_columns(connection, plan.schema, names)
    columns |= dict.fromkeys(names - columns.keys(), ())
    all_changed = await list_changed(connection, token, plan)
    logged = {table: keyless for (schema, table), keyless in all_changed.items() if schema == plan.schema}
    rows = await connection.fetch(QUERIES.world_ddl, token, plan.snapshot)
    ddl = [DdlChange(**dict(row)) for row in rows]
    shape_rows = [dict(row) for row in await connection.fetch(QUERIES.world_shapes, token, plan.snapshot)]
    shapes = find_shapes(catalog, columns, shape_rows, ddl, frozenset(logged))
    applied = {row["name"] for row in await connection.fetch(QUERIES.world_migrations, token, plan.snapshot)}
    changed = frozenset(
        name
        for name, table in shapes.tables.items()
        if logged.keys() & (table.old_names | {table.now_name})
        and catalog.relations[table.now_name].parent is None
    )
    counted = frozenset(
        name
        for name in changed
        if shapes.tables[name].is_counted
        or any(
            logged.get(log_name)
            for log_name in shapes.tables[name].old_names | {shapes.tables[name].now_name}
        )
    )
    refused = dict(shapes.refused)
    for name in changed - refused.keys():
        table = shapes.tables[name]
        if catalog.relations[table.now_name].inherits:
            refused[name] = "it has changed since, and it has child tables by INHERITS or is one"
        elif name in counted and (not table.is_as_ever or table.added):
            refused[name] = "its rows have no key and its columns have changed since"
    written = _find_written(catalog, shapes, plan, applied)
    for name in sorted(written):
        reason: str | None = refused.get(name)
        if reason is None and name not in shapes.tables:
            raise WorldError(f"there is no table {name} in {plan.schema} any more", remedy="")
        if reason is None and catalog.relations[shapes.tables[name].now_name].inherits:
            reason = "it has child tables by INHERITS or is one"
        if reason is not None:
            raise _can_not_be_written(name, reason)
    hidden = {name for name in changed - refused.keys() if shapes.tables[name].has_policies}
    copies = frozenset(written | (counted - refused.keys()) | hidden)
    large: set[str] = set()
    unique = await read_unique_indexes(
        connection, plan.schema, frozenset(shapes.tables[name].now_name for name in copies)
    )
    for name in sorted(copies):
        table = shapes.tables[name]
        if not await _has_more(connection, table, min(plan.rows_copied_max, plan.rows_max)):
            continue
        unlike = _why_not_large(catalog, table, unique.get(table.now_name, ()), name in counted)
        if unlike is None and any(
            name in find_names(m.sql) for m in plan.migrations if m.path not in applied
        ):
            unlike = "a migration changes it"
        if unlike is None and not (name in plan.whole or _differs_by_rows(catalog, table)):
            large.add(name)
        elif await _has_more(connection, table, plan.rows_max):
            if unlike is None:
                large.add(name)
                continue
            reason = f"it has more than {plan.rows_max:,} rows, too many to copy, and {unlike}"
            if name in written:
                raise _can_not_be_written(name, reason)
            refused[name] = reason
    copies -= refused.keys()
    families = {shapes.tables[name].now_name for name in copies}
    families |= {part.name for name in families for part in catalog.list_partitions(name)}
    constraints = await read_constraints(connection, plan.schema, frozenset(families))
    notes = list(shapes.notes)
    notes += [
        f"{schema}.{table} has changed since, and is as it is now: it is in another schema"
        for schema, table in sorted(all_changed)
        if schema != plan.schema
    ]
    made_since = {change.name for change in ddl if change.command == "CREATE INDEX"}
    notes += [
        f"unique index {each.name} of {each.table_name} was made since, and holds in the replay"
        for table_constraints in constraints.values()
        for each in table_constraints
        if each.kind == "ui" and each.name in made_since
    ]
    settable = frozenset(
        name
        for name in copies
        if (table := shapes.tables[name]).key and catalog.relations[table.now_name].kind != "p"
        and not any(name in find_names(m.sql) for m in plan.migrations if m.path not in applied)
    )
    found = Survey(
        catalog, columns, constraints, unique, {}, shapes, changed, counted, copies, frozenset(large), settable,
        refused, tuple(notes), frozenset(applied),
    )  # fmt: skip
    indexed = frozenset(found.table(name).now_name for name in found.indexed)
    return attrs.evolve(found, indexes=await read_indexes(connection, plan.schema, indexed))


async def _has_more(connection: Connection, table: ShownTable, count_max: int) -> bool:
    """Whether a table has more rows than so many."""
    found = await connection.fetch_value(f"select exists (select from {table.real} offset {count_max})")
    return bool(found)


def _differs_by_rows(catalog: Catalog, table: ShownTable) -> bool:
    """Whether something would come out otherwise where a view takes a table's place and rows are written one by one."""
    name = table.now_name
    return any(trigger.table_name == name and not trigger.is_row for trigger in catalog.triggers) or any(
        needs_table(function.body + function.definition, {name, table.name}) for function in catalog.functions
    )


def _can_not_be_written(name: str, reason: str) -> WorldError:
    return WorldError(
        f"{name} is written, and can't be rebuilt: {reason}",
        remedy="replay on the code that made the record, which needs no database",
    )


def _find_written(catalog: Catalog, shapes: Shapes, plan: WorldPlan, applied: set[str]) -> frozenset[str]:
    """Return the tables that are to be copied because something writes to them, by what they were called."""
    wanted: set[str] = set()
    for name in plan.written:
        relation = catalog.relations.get(name)
        wanted |= find_written(catalog, [name]) if relation is not None and not relation.is_table else {name}
    for migration in plan.migrations:
        if migration.path not in applied:
            # What it alters, creates an index on, or fills: whatever it names is copied.
            wanted |= find_names(migration.sql) & shapes.tables.keys()
    names_now = {table.now_name: name for name, table in shapes.tables.items()}
    now = {shapes.tables[name].now_name if name in shapes.tables else name for name in wanted}
    return frozenset(names_now.get(name, name) for name in close_over_triggers(catalog, now))


def _why_not_large(
    catalog: Catalog, table: ShownTable, unique: tuple[UniqueIndex, ...], is_counted: bool
) -> str | None:
    """Return why only the touched rows of a table can't be copied, or None when they can."""
    relation = catalog.relations[table.now_name]
    if relation.kind == "p":
        return "is partitioned"
    if table.has_policies:
        return "has row policies"
    if is_counted or not table.key:
        return "has no primary key"
    if not table.is_as_ever or table.added:
        return "has changed its columns since"
    if any(index.is_exclusion for index in unique):
        return "has an exclusion constraint"
    return None
