"""The database as one transaction saw it, for a replay to ask and to write to.

A *world* is one READ ONLY transaction on a guest's connection. In it, under their own names
and in front of the real ones,

- each table that the replay writes is a temporary copy, filled with the rows of then,
- each other table that has changed since is a view that takes the changes back,

and the rest are the real tables, which are as they were. Postgres itself refuses to write to
anything that is not temporary, whatever the SQL says. The rows of then are the rows of now,
with every change that the recorded snapshot did not see taken back: the log of changes has the
image before each (``flux.mutation``), and the first of them for a row is the row as it was.

What a copy does not have (foreign keys, triggers) is told as a note: a verdict must not rest on
a check that was not made. What can't be rebuilt raises `WorldError`.
"""

import re
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime

import attrs

from flux.errors import OperatorError
from flux.sql_world import WORLD_SCHEMA, rewrite
from flux.store.postgres import Connection
from flux.store.queries import QUERIES

_CLOCK = re.compile(r"\b((?:now|transaction_timestamp|statement_timestamp|clock_timestamp)\(\))")
_TAKE_UNDO = """
insert into pg_temp.flux_undo (table_name, key, before)
select u.table_name, u.key, u.before from flux.world_undo($1, $2) u
"""
"""Takes down the rows that changed since, as they were. No casts: they could name a type of the guest's."""
ROWS_MAX = 1_000_000
"""Rows of a written table that are copied at most."""


class WorldError(OperatorError):
    """The database can't be rebuilt as the execution saw it."""

    code = "FLX313"
    exit_code = 6


@attrs.frozen
class WorldPlan:
    """What a world is to be."""

    schema: str
    """Where the guest's tables are."""
    snapshot: str
    """``pg_current_snapshot()`` of the recorded transaction."""
    started_at: datetime
    """About when the transaction began: what ``now()`` says, unless a recorded row tells better."""
    written: frozenset[str]
    """Tables of the schema that are copied."""
    inserted: Mapping[str, Sequence[Mapping[str, object]]] = attrs.Factory(dict)
    """By table, the rows that the recorded transaction inserted, as JSON has them: they tell what its sequences gave
    and what time it was."""


@attrs.frozen
class World:
    """What stands on a connection now."""

    tables: frozenset[str]
    """All tables of the schema."""
    shadowed: frozenset[str]
    """Those of them that have a copy or a view."""
    notes: tuple[str, ...]
    """What is not as it was, a sentence each."""


@attrs.frozen
class _Column:
    name: str
    is_identity: bool
    is_generated: bool
    default: str | None
    is_key: bool

    @property
    def counts(self) -> bool:
        """Whether a sequence makes its values."""
        return self.is_identity or (self.default or "").startswith("nextval(")

    @property
    def tells_time(self) -> bool:
        """Whether its value is the time of the transaction, unless somebody gives another."""
        return self.default in ("now()", "CURRENT_TIMESTAMP", "transaction_timestamp()")


async def build_world(connection: Connection, token: bytes, plan: WorldPlan) -> World:
    """Make the world on ``connection``, a guest's that has run nothing of a guest's; leave its transaction open.

    Raises `WorldError`. Whoever calls ends the transaction and the session: nothing of it may be left to others.
    """
    change = await connection.fetch_value(QUERIES.world_ddl, token, plan.snapshot)
    if change is not None:
        raise WorldError(
            f"tables have changed their shape since: {change}",
            remedy="replay it on a database whose tables are as they were, or without one",
        )
    changed = await _list_changed(connection, token, plan)
    columns = await _list_columns(connection, plan.schema, changed | plan.written)
    missing = plan.written - columns.keys()
    if missing:
        raise WorldError(
            f"there is no table {', '.join(sorted(missing))} in {plan.schema} any more", remedy=""
        )
    await connection.execute("create temporary table flux_undo (table_name text, key json, before json)")
    for table in sorted(plan.written):
        await _make_copy(connection, plan, table, columns[table])
    for table in sorted(changed - plan.written):
        await connection.execute(
            f"create temporary view {quote(table)} as {_as_of(plan.schema, table, columns[table])}"
        )
    await connection.begin("repeatable read", read_only=True)
    await connection.execute(_TAKE_UNDO, token, plan.snapshot)
    if not await _list_changed(connection, token, plan) <= changed:
        raise WorldError("tables began to change while the world was being built", remedy="try again")
    for table in sorted(plan.written):
        await _fill_copy(connection, plan, table, columns[table])
    notes = await _list_notes(connection, plan)
    for name, value in (
        ("search_path", f"{WORLD_SCHEMA}, pg_catalog, {quote(plan.schema)}"),
        ("flux.world_now", _find_now(plan, columns)),
    ):
        await connection.fetch_value("select pg_catalog.set_config($1, $2, true)", name, value)
    tables = await connection.fetch(QUERIES.list_world_tables, plan.schema)
    return World(frozenset(row["table_name"] for row in tables), frozenset(changed | plan.written), notes)


def quote(name: str) -> str:
    """Return ``name`` as SQL writes any name."""
    return '"' + name.replace('"', '""') + '"'


async def _list_changed(connection: Connection, token: bytes, plan: WorldPlan) -> frozenset[str]:
    rows = await connection.fetch(QUERIES.world_changes, token, plan.snapshot)
    keyless = sorted(row["table_name"] for row in rows if row["keyless"])
    if keyless:
        raise WorldError(
            f"{', '.join(keyless)} has changed since and has no primary key, so its rows can't be told apart",
            remedy="give the table a primary key; later executions can then be replayed",
        )
    return frozenset(row["table_name"] for row in rows)


async def _list_columns(
    connection: Connection, schema: str, tables: AbstractSet[str]
) -> dict[str, tuple[_Column, ...]]:
    rows = await connection.fetch(QUERIES.list_world_columns, schema, sorted(tables))
    found: dict[str, list[_Column]] = {}
    for row in rows:
        found.setdefault(row["table_name"], []).append(
            _Column(
                row["column_name"],
                row["is_identity"],
                row["is_generated"],
                row["default_expression"],
                row["is_key"],
            )
        )
    return {table: tuple(columns) for table, columns in found.items()}


def _as_of(schema: str, table: str, columns: Sequence[_Column]) -> str:
    """Return a query of the table's rows as they were; all its columns, in their order."""
    real = f"{quote(schema)}.{quote(table)}"
    names = ", ".join(f"t.{quote(column.name)}" for column in columns)
    then = ", ".join(f"b.{quote(column.name)}" for column in columns)
    literal = _literal(table)
    # Without a key, nothing has changed since: `_list_changed` has seen to that.
    same = (
        " and ".join(
            f"k.{quote(column.name)} = t.{quote(column.name)}" for column in columns if column.is_key
        )
        or "false"
    )
    return (
        f"select {names} from {real} t where not exists (select from pg_temp.flux_undo u, "
        f"pg_catalog.json_populate_record(null::{real}, u.key) k where u.table_name = {literal} and {same}) "
        f"union all select {then} from pg_temp.flux_undo u, "
        f"pg_catalog.json_populate_record(null::{real}, u.before) b "
        f"where u.table_name = {literal} and u.before is not null"
    )


async def _make_copy(connection: Connection, plan: WorldPlan, table: str, columns: Sequence[_Column]) -> None:
    copy = f"pg_temp.{quote(table)}"
    await connection.execute(
        f"create temporary table {quote(table)} (like {quote(plan.schema)}.{quote(table)} including all)"
    )
    for column in columns:
        if column.is_generated or column.default is None:
            continue
        if column.counts:
            sequence = quote(f"{table}_{column.name}_flux_seq"[:63])
            await connection.execute(f"create temporary sequence {sequence}")
            await connection.execute(
                f"alter sequence pg_temp.{sequence} owned by {copy}.{quote(column.name)}"
            )
            default = f"pg_catalog.nextval({_literal(f'pg_temp.{sequence}')}::pg_catalog.regclass)"
        else:
            default = _CLOCK.sub(rf"{WORLD_SCHEMA}.\1", rewrite(column.default, plan.schema, frozenset()))
            if default == column.default:
                continue
        await connection.execute(
            f"alter table {copy} alter column {quote(column.name)} set default {default}"
        )


async def _fill_copy(connection: Connection, plan: WorldPlan, table: str, columns: Sequence[_Column]) -> None:
    copy = f"pg_temp.{quote(table)}"
    count = await connection.fetch_value(
        f"select pg_catalog.count(*) from (select from {quote(plan.schema)}.{quote(table)} limit {ROWS_MAX + 1}) t"
    )
    if count > ROWS_MAX:
        raise WorldError(
            f"{table} has more than {ROWS_MAX:,} rows, too many to copy for a replay that writes to it",
            remedy="replay on the code that made the record, which needs no database",
        )
    stored = [column for column in columns if not column.is_generated]
    names = ", ".join(quote(column.name) for column in stored)
    rows = _as_of(plan.schema, table, columns)
    await connection.execute(
        f"insert into {copy} ({names}) overriding system value select {names} from ({rows}) as_of"
    )
    for column in columns:
        if column.counts:
            given = [row.get(column.name) for row in plan.inserted.get(table, ())]
            numbers = [number for number in given if isinstance(number, int)]
            most = await connection.fetch_value(f"select pg_catalog.max({quote(column.name)}) from {copy}")
            await connection.execute(
                "select pg_catalog.setval(pg_catalog.pg_get_serial_sequence($1, $2), $3, false)",
                copy, column.name, min(numbers, default=(most or 0) + 1),
            )  # fmt: skip


def _find_now(plan: WorldPlan, columns: Mapping[str, Sequence[_Column]]) -> str:
    for table, rows in plan.inserted.items():
        for column in columns.get(table, ()):
            for row in rows:
                value = row.get(column.name)
                if column.tells_time and isinstance(value, str):
                    return value
    return plan.started_at.isoformat()


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


async def _list_notes(connection: Connection, plan: WorldPlan) -> tuple[str, ...]:
    rows = await connection.fetch(QUERIES.list_world_gaps, plan.schema, sorted(plan.written))
    kinds = (
        ("foreign_keys", "foreign key", "foreign keys"),
        ("triggers", "trigger", "triggers"),
        ("policies", "row policy", "row policies"),
    )
    return tuple(
        f"a {one} of {row['table_name']} has no effect in a replay"
        if row[kind] == 1
        else f"{row[kind]} {many} of {row['table_name']} have no effect in a replay"
        for row in rows
        for kind, one, many in kinds
        if row[kind]
    )
