"""What a schema is made of, as a world needs to know it: PostgreSQL's own words, read once.

Definitions are asked for with nothing but ``pg_catalog`` in ``search_path``, so each names all that is the
user's with its schema. What is turned to the world's own things is then told by that name, and by nothing else.
"""

from collections.abc import Iterable
from typing import TypeVar

import attrs

from flux.store.postgres import Connection
from flux.store.queries import QUERIES

_Noun = TypeVar("_Noun")


def _names(found: Iterable[str] | None) -> tuple[str, ...]:
    """Return an array of the server's, which is null when it is empty."""
    return tuple(found or ())


@attrs.frozen
class Relation:
    """A table or a view of the schema."""

    name: str
    relid: int
    """Its OID."""
    kind: str
    """As ``pg_class.relkind``: r a table, p a partitioned one, v a view, m a materialised one."""
    has_policies: bool
    """Row policies are switched on."""
    partition_key: str | None
    """By what it is partitioned."""
    parent: str | None
    """Of a partition, the table that it is one of."""
    bound: str | None
    """Of a partition, ``FOR VALUES ...``."""
    partition_check: str | None
    """Of a partition, the condition that its rows fulfil."""
    inherits: bool
    """It has child tables by INHERITS, or is one."""
    definition: str | None
    """Of a view, its query."""
    options: tuple[str, ...] = attrs.field(converter=_names)
    """As ``pg_class.reloptions``."""
    has_rules: bool
    """It has rules, beside the one that makes a view."""

    @property
    def is_table(self) -> bool:
        """Whether it has rows of its own, or its partitions have."""
        return self.kind in ("r", "p")


@attrs.frozen
class Column:
    """A column of a table."""

    table_name: str
    name: str
    number: int
    """As ``pg_attribute.attnum``: it outlives a change of the name."""
    type: str
    collation: str | None
    """Where it is not the type's own."""
    is_required: bool
    """NOT NULL."""
    identity: str
    """a GENERATED ALWAYS AS IDENTITY, d BY DEFAULT; empty: neither."""
    generated: str
    """s STORED, v VIRTUAL; empty: not computed."""
    expression: str | None
    """Its default, or what computes it."""
    is_key: bool
    """It is of the primary key."""
    sequence: str | None
    """The sequence that is owned by it."""

    @property
    def default(self) -> str | None:
        """What gives its value when nobody does, but for a sequence of its identity."""
        return None if self.generated else self.expression

    @property
    def counts(self) -> bool:
        """Whether a sequence makes its values."""
        return bool(self.identity) or (self.default or "").startswith("nextval(")

    @property
    def tells_time(self) -> bool:
        """Whether its value is the time of the transaction, unless somebody gives another."""
        return self.default in ("now()", "CURRENT_TIMESTAMP", "transaction_timestamp()")

    @property
    def is_drawn(self) -> bool:
        """Whether its default may be another one each time: it calls something that is no clock and no sequence."""
        return not self.counts and not self.tells_time and "(" in (self.default or "")


@attrs.frozen
class Constraint:
    """A key, a check, an exclusion, or an index of none of them."""

    table_name: str
    name: str
    kind: str
    """As ``pg_constraint.contype``, and ``i`` and ``ui`` for plain and unique indexes."""
    definition: str

    @property
    def is_index(self) -> bool:
        """Whether the definition is a statement of its own."""
        return self.kind in ("i", "ui")


@attrs.frozen
class UniqueIndex:
    """What must be unique in a table, or exclude each other."""

    table_name: str
    name: str
    expressions: tuple[str, ...] = attrs.field(converter=_names)
    operators: tuple[str, ...] = attrs.field(converter=_names)
    """By which two values of each are the same, or exclude each other."""
    predicate: str | None
    is_exclusion: bool
    is_deferrable: bool
    """It may be checked at COMMIT only."""


@attrs.frozen
class ForeignKey:
    """A foreign key from or to a table of the schema."""

    number: int
    """Its OID."""
    name: str
    child_schema: str
    child: str
    parent_schema: str
    parent: str
    child_columns: tuple[str, ...] = attrs.field(converter=_names)
    parent_columns: tuple[str, ...] = attrs.field(converter=_names)
    """In the order of ``child_columns``."""
    match: str
    """s SIMPLE, f FULL."""
    on_delete: str
    """a NO ACTION, r RESTRICT, c CASCADE, n SET NULL, d SET DEFAULT."""
    on_update: str
    is_deferrable: bool
    is_deferred: bool
    """INITIALLY DEFERRED."""
    definition: str


@attrs.frozen
class Trigger:
    """A trigger of the user's."""

    table_name: str
    name: str
    definition: str
    function_schema: str
    function_name: str
    language: str
    """Of its function."""
    is_row: bool
    """FOR EACH ROW."""


@attrs.frozen
class Policy:
    """A row policy."""

    table_name: str
    name: str
    is_permissive: bool
    command: str
    """As ``pg_policy.polcmd``."""
    roles: tuple[str, ...] = attrs.field(converter=_names)
    using_expression: str | None
    check_expression: str | None


@attrs.frozen
class Function:
    """A function or procedure of the user's."""

    name: str
    language: str
    body: str
    definition: str
    """The statement that makes it."""
    settings: tuple[str, ...] = attrs.field(converter=_names)
    """Its SET clauses."""
    is_definers: bool
    """SECURITY DEFINER."""
    is_atomic: bool
    """Its body is bound to what it names, not read each time."""

    @property
    def is_readable(self) -> bool:
        """Whether its body is SQL, or a language of SQL."""
        return self.language in ("sql", "plpgsql")


@attrs.frozen
class NumberSource:
    """A sequence."""

    name: str
    type: str
    start_value: int
    min_value: int
    max_value: int
    increment_by: int
    cycle: bool
    last_value: int | None
    """What it gave last, now; None: nothing yet."""
    table_name: str | None
    """The table whose column owns it."""
    column_name: str | None


@attrs.frozen
class Catalog:
    """All of a schema."""

    schema: str
    relations: dict[str, Relation]
    """By name."""
    functions: tuple[Function, ...]
    triggers: tuple[Trigger, ...]
    policies: tuple[Policy, ...]
    foreign_keys: tuple[ForeignKey, ...]
    sequences: dict[str, NumberSource]
    """By name."""

    def find_root(self, table: str) -> str:
        """Return the table whose partition ``table`` is, or itself."""
        while (relation := self.relations.get(table)) is not None and relation.parent is not None:
            table = relation.parent
        return table

    def list_partitions(self, table: str) -> tuple[Relation, ...]:
        """Return the partitions of a table, each before its own."""
        found: list[Relation] = []
        for relation in self.relations.values():
            if relation.parent == table:
                found += [relation, *self.list_partitions(relation.name)]
        return tuple(found)


_OfTable = TypeVar("_OfTable", Column, Constraint, UniqueIndex)


async def read_catalog(connection: Connection, schema: str) -> Catalog:
    """Read ``schema``; from then on nothing but ``pg_catalog`` is in the session's ``search_path``."""
    await connection.fetch_value("select pg_catalog.set_config('search_path', 'pg_catalog', false)")
    relations = await _read(connection, Relation, QUERIES.list_world_relations, schema)
    sequences = await _read(connection, NumberSource, QUERIES.list_schema_sequences, schema)
    return Catalog(
        schema,
        {relation.name: relation for relation in relations},
        await _read(connection, Function, QUERIES.list_world_functions, schema),
        await _read(connection, Trigger, QUERIES.list_world_triggers, schema),
        await _read(connection, Policy, QUERIES.list_world_policies, schema),
        await _read(connection, ForeignKey, QUERIES.list_world_foreign_keys, schema),
        {sequence.name: sequence for sequence in sequences},
    )


async def read_columns(
    connection: Connection, schema: str, tables: frozenset[str]
) -> dict[str, tuple[Column, ...]]:
    """Return the columns of ``tables``, in their order."""
    return _by_table(await _read(connection, Column, QUERIES.list_world_columns, schema, sorted(tables)))


async def read_constraints(
    connection: Connection, schema: str, tables: frozenset[str]
) -> dict[str, tuple[Constraint, ...]]:
    """Return what ``tables`` demand of their rows, foreign keys aside."""
    return _by_table(
        await _read(connection, Constraint, QUERIES.list_world_constraints, schema, sorted(tables))
    )


async def read_unique_indexes(
    connection: Connection, schema: str, tables: frozenset[str]
) -> dict[str, tuple[UniqueIndex, ...]]:
    """Return what must be unique in ``tables``."""
    return _by_table(
        await _read(connection, UniqueIndex, QUERIES.list_world_unique_indexes, schema, sorted(tables))
    )


async def read_indexes(
    connection: Connection, schema: str, tables: frozenset[str]
) -> dict[str, tuple[tuple[str, ...], ...]]:
    """Return the columns, as SQL names them, of each index of ``tables`` that is of columns and of all rows."""
    indexes: dict[str, list[tuple[str, ...]]] = {}
    for row in await connection.fetch(QUERIES.list_world_indexes, schema, sorted(tables)):
        indexes.setdefault(row["table_name"], []).append(tuple(row["columns"]))
    return {table: tuple(each) for table, each in indexes.items()}


async def _read(
    connection: Connection, kind: type[_Noun], query: str, *arguments: object
) -> tuple[_Noun, ...]:
    rows = await connection.fetch(query, *arguments)
    return tuple(kind(**dict(row)) for row in rows)


def _by_table(found: tuple[_OfTable, ...]) -> dict[str, tuple[_OfTable, ...]]:
    tables: dict[str, list[_OfTable]] = {}
    for each in found:
        tables.setdefault(each.table_name, []).append(each)
    return {table: tuple(each) for table, each in tables.items()}
