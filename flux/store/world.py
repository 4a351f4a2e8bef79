"""The database as one transaction saw it, for a replay to ask and to write to.

A *world* is one READ ONLY transaction on a guest's connection. In it, under their own names
and in front of the real ones,

- each table that the replay writes is a temporary copy, filled with the rows of then,
- each other table that has changed since is a view that takes the changes back,
- functions and views that would go past these are made again (`flux.store.world_code`),
- sequences are temporary, and give what the record shows they gave,

and the rest are the real tables, which are as they were. Postgres itself refuses to write to
anything that is not temporary, whatever the SQL says. The rows of then are the rows of now,
with every change that the recorded snapshot did not see taken back (`flux.store.world_rows`).

Where that can't be done, the thing is *refused*: whoever asks a statement that names it learns
the reason, and everything else is answered. What is there and is not as it was is told as a
note: a verdict must not rest on a check that was not made. `WorldError` is raised where there
is no world at all.
"""

from collections.abc import Mapping

import attrs

from flux.sql_world import (
    drop_locks,
    find_names,
    find_targets,
    has_upsert,
    locks_rows,
    needs_table,
    quote,
    rewrite,
)
from flux.store.postgres import Connection
from flux.store.world_aside import make_conflicts
from flux.store.world_code import SEARCH_PATH, find_written
from flux.store.world_given import Given, give
from flux.store.world_large import large_name, list_large_fills
from flux.store.world_migrations import Migrated, apply_migrations
from flux.store.world_plan import ROWS_MAX, WorldError, WorldPlan
from flux.store.world_rows import (
    ShownTable,
    images_since,
    list_names,
    literal,
    rows_as_of,
    rows_by_count,
    rows_missing,
)
from flux.store.world_script import Script, write_script
from flux.store.world_shapes import list_undo_repairs
from flux.store.world_survey import Survey, list_changed, survey
from flux.store.world_views import list_view_fills

__all__ = ["NEEDS_TABLE", "REFUSED", "ROWS_MAX", "World", "WorldError", "WorldPlan", "build_world", "quote"]

NEEDS_TABLE = "FX315"
"""SQLSTATE of a statement that would write to a table which has no copy; the error names the table."""
REFUSED = "FX316"
"""SQLSTATE of a statement that the world can't answer truly; the message says why."""
_TAKE_UNDO = """
insert into pg_temp.flux_undo (table_name, key, before)
select u.table_name, u.key, u.before from flux.world_undo($1, $2) u
"""
"""Takes down the rows that changed since, as they were. No casts: they could name a type of the guest's."""


@attrs.frozen
class World:
    """What stands on a connection now."""

    schema: str
    """Where the guest's tables are."""
    tables: frozenset[str]
    """All tables of the schema."""
    shadowed: frozenset[str]
    """Tables, views and sequences that have something in their place."""
    copied: frozenset[str]
    """Tables that can be written, partitions aside."""
    partitions: frozenset[str]
    """Their partitions."""
    large: frozenset[str]
    """Those of them of which only touched rows are copied."""
    whole: frozenset[str]
    """Tables that were to be copied whole; those of them that are `large` have too many rows."""
    viewed: frozenset[str]
    """Tables that stand as views, with their rows of then in a table beside each."""
    functions: frozenset[str]
    """Functions that are made again."""
    written_by_functions: Mapping[str, frozenset[str]]
    """Tables that functions write to, by the functions' names."""
    written_by_views: Mapping[str, frozenset[str]]
    """Tables that a view's rows go to, by the views' names."""
    keys: Mapping[str, tuple[str, ...]]
    """Columns of the primary keys of copied tables that have one."""
    conflicts: Mapping[str, str]
    """Queries of what is in the way of rows, for copied tables that others have changed (`flux.store.world_aside`)."""
    hidden: frozenset[str]
    """Copied tables with policies, which hide rows from the guest."""
    settable: frozenset[str]
    """Copied tables whose rows can be set aside, in a world that has a place for them."""
    aside: frozenset[str]
    """Those of them that have it."""
    given: tuple[Given, ...]
    """What a record can show of the values that copies give."""
    refused: Mapping[str, str]
    """What can't be shown as it was, and why."""
    notes: tuple[str, ...]
    """What is not as it was, a sentence each."""

    def rewrite(self, sql: str) -> str:
        """Return a guest's statement as it is to run."""
        if locks_rows(sql) and find_names(sql) & self.large:
            # A view knows no locks, and in a world nobody else could wait for one.
            sql = drop_locks(sql)
        return rewrite(sql, self.schema, self.shadowed, self.functions)

    def find_needed(self, sql: str) -> frozenset[str]:
        """Return the tables that a guest's statement can only be run on as copies, and that are none."""
        mentioned = find_names(sql)
        names = {target.name for target in find_targets(sql) if target.schema in (None, self.schema)}
        if locks_rows(sql):
            names |= mentioned
        for name in names & self.written_by_views.keys():
            names |= self.written_by_views[name]
        for name in mentioned & self.written_by_functions.keys():
            names |= self.written_by_functions[name]
        return frozenset(names & self.tables - self.copied - self.partitions)

    def find_needed_whole(self, sql: str) -> frozenset[str]:
        """Return those of the large tables that a guest's statement needs more of than the rows that are touched.

        There may be too many to copy; then `find_refusal` says so in a world that was to have them.
        """
        return frozenset(name for name in self.large - self.whole if needs_table(sql, {name}))

    def may_write(self, sql: str) -> bool:
        """Whether a guest's statement may change rows, as far as its text tells."""
        mentioned = find_names(sql)
        return bool(find_targets(sql) or mentioned & self.written_by_functions.keys()) or "truncate" in mentioned

    def find_refusal(self, sql: str) -> str | None:
        """Return why a guest's statement can't be answered, or None when it can."""
        for name in sorted(find_names(sql) & self.refused.keys()):
            return f"{name} can't be shown as it was: {self.refused[name]}"
        targets = {target.name for target in find_targets(sql)} & self.large & self.whole
        if targets and has_upsert(sql):
            return f"{min(targets)} is too large to copy, and so there is no ON CONFLICT on it in a replay"
        return None


async def build_world(connection: Connection, token: bytes, plan: WorldPlan) -> World:
    """Make the world on ``connection``, a guest's that has run nothing of a guest's; leave its transaction open.

    Raises `WorldError`. Whoever calls ends the transaction and the session: nothing of it may be left to others.
    """
    found = await survey(connection, token, plan)
    version = int(
        await connection.fetch_value(
            "select pg_catalog.current_setting('server_version_num')::pg_catalog.int4"
        )
    )
    script = write_script(found, plan, version)
    await connection.fetch_value("select pg_catalog.set_config('search_path', $1, false)", SEARCH_PATH)
    await connection.execute("set check_function_bodies = off")
    # Whether a row is gone is asked of each; that looks dear to the planner, and is not: nothing is worth compiling.
    await connection.execute("set jit = off")
    await connection.execute(";\n".join(script.statements))
    # Statements that the session keeps prepared would go on asking the tables that they were planned on.
    await connection.execute("discard plans")
    await connection.begin("repeatable read", read_only=True)
    await _take_undo(connection, token, plan, found)
    refused = await _fill(connection, token, plan, found)
    await _fill_views(connection, found)
    world = _describe(found, script, refused, plan)
    if pending := [each for each in plan.migrations if each.path not in found.migrations]:
        await _set_scene(connection, plan, found)
        await connection.commit()
        migrated = await apply_migrations(connection, token, pending, found.catalog, script.rewriter)
        named = frozenset().union(*(find_names(each.sql) for each in pending))
        world = _add_migrated(world, migrated, named)
        await connection.begin("repeatable read", read_only=True)
        await connection.execute("delete from pg_temp.flux_undo")
        await _take_undo(connection, token, plan, found)
        # Copies are as they were; tables that views look at may have changed once more.
        await _fill_views(connection, found)
    await give(connection, script.given, plan.inserted)
    await _set_scene(connection, plan, found)
    return world


async def _take_undo(connection: Connection, token: bytes, plan: WorldPlan, found: Survey) -> None:
    await connection.execute(_TAKE_UNDO, token, plan.snapshot)
    for table in found.shapes.tables.values():
        for statement in list_undo_repairs(table):
            await connection.execute(statement)
    known = {name for each in found.changed for name in _log_names(found.table(each))} | found.refused.keys()
    changed = await list_changed(connection, token, plan)
    if not {table for schema, table in changed if schema == plan.schema} <= known:
        raise WorldError("tables began to change while the world was being built", remedy="try again")


async def _fill(connection: Connection, token: bytes, plan: WorldPlan, found: Survey) -> dict[str, str]:
    """Fill the copies; return what is refused, now that its rows have been counted."""
    refused = dict(found.refused)
    await _set(connection, "flux.filling", "on")
    for name in sorted(found.copies):
        table = found.table(name)
        if name in found.large:
            for statement in list_large_fills(table):
                await connection.execute(statement)
            continue
        arguments: list[object] = []
        source = None
        if table.has_policies:
            columns = ", ".join(
                f"{quote(column.name)} {column.type}" for column in found.columns[table.now_name]
            )
            source = f"(select * from flux.world_rows($1, {literal(table.now_name)}) as r({columns}))"
            arguments.append(token)
        if name in found.counted:
            await connection.execute(
                f"insert into pg_temp.flux_counts select {literal(name)}, i.image, i.count "
                f"from ({images_since(table)}) i where i.count <> 0",
                token, plan.snapshot,
            )  # fmt: skip
            if await connection.fetch_value(rows_missing(table, source), *arguments):
                refused[name] = "its rows have no key, and are not those that the log of changes leads to"
                continue
        rows = rows_by_count(table, source) if name in found.counted else rows_as_of(table, source)
        names = list_names(table.stored)
        await connection.execute(
            f"insert into pg_temp.{quote(name)} ({names}) overriding system value select {names} from ({rows}) as_of",
            *arguments,
        )
    await _set(connection, "flux.filling", "")
    return refused


async def _fill_views(connection: Connection, found: Survey) -> None:
    """Fill, or fill anew, what is beside the views of tables that have changed."""
    for name in sorted(found.indexed):
        for statement in list_view_fills(found.table(name)):
            await connection.execute(statement)


async def _set_scene(connection: Connection, plan: WorldPlan, found: Survey) -> None:
    """Give the guest's statements their time and the place where they look for names."""
    for name, value in (
        ("flux.world_now", _find_now(plan, found)),
        ("flux.world_seed", plan.seed or plan.snapshot),
        ("search_path", f"{SEARCH_PATH}, {quote(plan.schema)}"),
    ):
        await _set(connection, name, value)


async def _set(connection: Connection, name: str, value: str) -> None:
    await connection.fetch_value("select pg_catalog.set_config($1, $2, false)", name, value)


def _describe(found: Survey, script: Script, refused: dict[str, str], plan: WorldPlan) -> World:
    catalog = found.catalog
    # Whatever names it in a function or a view asks for it too.
    mentions = {function.name: function.body + function.definition for function in catalog.functions}
    mentions |= {
        relation.name: relation.definition for relation in catalog.relations.values() if relation.definition
    }
    names = {name: find_names(text) for name, text in mentions.items()} if refused else {}
    while more := {name for name in names.keys() - refused.keys() if names[name] & refused.keys()}:
        refused |= {name: f"it asks for {min(names[name] & refused.keys())}" for name in more}
    by_function = {function.name: find_written(catalog, [function.name]) for function in catalog.functions}
    by_view = {
        name: find_written(catalog, [name])
        for name, relation in catalog.relations.items()
        if relation.definition
    }
    return World(
        schema=catalog.schema,
        tables=frozenset(name for name, relation in catalog.relations.items() if relation.is_table),
        shadowed=script.rewriter.relations,
        copied=found.copies,
        partitions=script.copied - found.copies,
        large=found.large,
        whole=plan.whole,
        viewed=found.indexed,
        functions=script.rewriter.functions,
        written_by_functions={name: tables for name, tables in by_function.items() if tables},
        written_by_views={name: tables for name, tables in by_view.items() if tables},
        keys={
            name: tuple(sorted(shown.name for shown in found.table(name).key))
            for name in found.copies
            if found.table(name).key
        },
        conflicts={
            name: query
            for name in found.copies & found.changed
            if (query := _make_conflicts(found, name)) is not None
        },
        hidden=frozenset(name for name in found.copies if found.table(name).has_policies),
        settable=found.settable,
        aside=found.settable & plan.aside,
        given=script.given,
        refused=refused,
        notes=script.notes,
    )


def _make_conflicts(found: Survey, name: str) -> str | None:
    table = found.table(name)
    return make_conflicts(
        table,
        large_name(name) if name in found.large else name,
        found.unique_indexes.get(table.now_name, ()),
        has_parts=found.catalog.relations[table.now_name].kind == "p",
    )


def _add_migrated(world: World, migrated: Migrated, named: frozenset[str]) -> World:
    """Return the world that ``world`` is once migrations have been applied; they name ``named``."""
    dropped = (world.copied | world.partitions) - migrated.relations
    return attrs.evolve(
        world,
        tables=world.tables | migrated.tables,
        shadowed=world.shadowed | migrated.relations,
        copied=(world.copied | (migrated.tables - world.partitions)) - dropped,
        functions=world.functions | migrated.functions,
        conflicts={name: query for name, query in world.conflicts.items() if name not in named},
        refused={**world.refused, **dict.fromkeys(dropped, "a migration of the code drops or renames it")},
    )


def _find_now(plan: WorldPlan, found: Survey) -> str:
    for name, rows in plan.inserted.items():
        for column in found.columns.get(name, ()):
            for row in rows:
                value = row.get(column.name)
                if column.tells_time and isinstance(value, str):
                    return value
    return plan.started_at.isoformat()


def _log_names(table: ShownTable) -> frozenset[str]:
    return table.old_names | {table.now_name}
