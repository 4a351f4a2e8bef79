"""Copies of tables, as statements that make them in ``pg_temp``.

``CREATE TABLE ... (LIKE ...)`` would do but for three things: it gives indexes other names, and an error names them; it
binds defaults and checks to functions of the real clock and of real chance; and it leaves out foreign keys, triggers
and policies. So a copy is made of the catalog's texts.
"""

import re
from collections.abc import Mapping, Sequence

import attrs

from flux.sql_script import tokens
from flux.sql_world import WORLD_SCHEMA, find_names, quote
from flux.store.world_catalog import Catalog, Column, Constraint, NumberSource
from flux.store.world_code import Rewriter
from flux.store.world_given import Given
from flux.store.world_keys import FILLING
from flux.store.world_rows import ShownTable, literal

_NOT_VALID = re.compile(r"^CHECK (?P<condition>.*) NOT VALID$", re.DOTALL)


def list_sequence_statements(
    catalog: Catalog, of_identities: frozenset[str], drawn: Mapping[str, Sequence[int]]
) -> list[str]:
    """Return the statements that make the schema's sequences, but for those that tables make with their identities.

    A sequence has no rows to say what it gave then: it goes on from where it is, or with what the record has.
    """
    statements = []
    for sequence in catalog.sequences.values():
        if sequence.name in of_identities:
            continue
        following = drawn.get(sequence.name, ())
        start = following[0] if following else _next(sequence)
        statements.append(
            f"create temporary sequence {quote(sequence.name)} as {sequence.type} {_bounds(sequence)} start {start}"
        )
    return statements


def list_table_statements(
    catalog: Catalog,
    table: ShownTable,
    constraints: Mapping[str, Sequence[Constraint]],
    rewriter: Rewriter,
    copy: str,
) -> list[str]:
    """Return the statements that make an empty copy of ``table``, called ``copy``, with its partitions."""
    relation = catalog.relations[table.now_name]
    renamed = {shown.column.name: shown.name for shown in table.columns if shown.column.name != shown.name}
    own = _Texts(rewriter, renamed)
    by = f" partition by {own.sql(relation.partition_key)}" if relation.partition_key else ""
    columns = ", ".join(
        _define(catalog, shown.name, shown.type, shown.column, own) for shown in table.columns
    )
    statements = [f"create temporary table {quote(copy)} ({columns}){by}"]
    statements += [
        f"alter sequence pg_temp.{quote(sequence)} owned by pg_temp.{quote(copy)}.{quote(shown.name)}"
        for shown in table.columns
        if (sequence := shown.column.sequence) and not shown.column.identity and sequence in catalog.sequences
    ]
    statements += [
        _make_constraint(constraint, own, copy)
        for constraint in constraints.get(table.now_name, ())
        if not find_names(constraint.definition) & table.added
    ]
    for part in catalog.list_partitions(table.now_name):
        parent = table.name if part.parent == table.now_name else str(part.parent)
        by = f" partition by {part.partition_key}" if part.partition_key else ""
        statements.append(
            f"create temporary table {quote(part.name)} partition of pg_temp.{quote(parent)} {part.bound}{by}"
        )
        statements += [
            _make_constraint(constraint, own, part.name) for constraint in constraints.get(part.name, ())
        ]
    return statements


def list_default_statements(table: ShownTable, given: Given, rewriter: Rewriter, copy: str) -> list[str]:
    """Return the statements that give a copy's columns their defaults, once there are the functions that these call."""
    own = _Texts(rewriter, {})
    statements = []
    for shown in table.columns:
        if shown.column.default is None:
            continue
        default = own.sql(shown.column.default)
        if shown.column.is_drawn and not given.is_empty:
            place = f"{literal(f'{given.table}.{shown.name}')}, {literal(str(given.number))}"
            default = f"coalesce({WORLD_SCHEMA}.given({place})::{shown.type}, {default})"
        statements.append(
            f"alter table pg_temp.{quote(copy)} alter column {quote(shown.name)} set default {default}"
        )
    return statements


@attrs.frozen
class _Texts:
    """The texts of one table's catalog, turned to what the table is called in the world, and its columns."""

    rewriter: Rewriter
    renamed: Mapping[str, str]
    """What columns were called, by what they are called."""

    def sql(self, text: str) -> str:
        text = self.rewriter.sql(text)
        if not self.renamed:
            return text
        parts: list[str] = []
        position = 0
        for kind, begin, end in tokens(text):
            name = text[begin:end].strip('"').replace('""', '"')
            if kind in ("word", "quoted") and text[begin] != "'" and name in self.renamed:
                parts += [text[position:begin], quote(self.renamed[name])]
                position = end
        return "".join(parts) + text[position:]


def _make_constraint(constraint: Constraint, own: _Texts, copy: str) -> str:
    """Return the statement that makes a constraint or an index on a copy, by its own name."""
    definition = constraint.definition
    if constraint.is_index:
        # On a partitioned table it says ONLY, which would leave the partitions without.
        definition = definition.replace(" ON ONLY ", " ON ", 1)
        read = list(tokens(definition))
        on = next(i for i, (_, begin, end) in enumerate(read) if definition[begin:end] == "ON")
        # ON schema.table USING ...
        begin, end = read[on + 1][1], read[on + 3][2]
        return f"{definition[:begin]}pg_temp.{quote(copy)}{own.sql(definition[end:])}"
    not_valid = _NOT_VALID.match(definition)
    if not_valid is not None:
        # Rows that were there before it need not fulfil it.
        definition = f"CHECK ({FILLING} or ({not_valid['condition']}))"
    return f"alter table pg_temp.{quote(copy)} add constraint {quote(constraint.name)} {own.sql(definition)}"


def _define(catalog: Catalog, name: str, type_name: str, column: Column, own: _Texts) -> str:
    text = f"{quote(name)} {type_name}"
    if column.collation:
        text += f" collate {column.collation}"
    if column.generated:
        kind = "stored" if column.generated == "s" else "virtual"
        text += f" generated always as ({own.sql(column.expression or '')}) {kind}"
    elif column.identity:
        always = "always" if column.identity == "a" else "by default"
        sequence = catalog.sequences.get(column.sequence or "")
        options = (
            "" if sequence is None
            else f" (sequence name pg_temp.{quote(sequence.name)} {_bounds(sequence)} start {sequence.start_value})"
        )  # fmt: skip
        text += f" generated {always} as identity{options}"
    return text + (" not null" if column.is_required else "")


def _next(sequence: NumberSource) -> int:
    if sequence.last_value is None:
        return sequence.start_value
    following = sequence.last_value + sequence.increment_by
    return following if sequence.min_value <= following <= sequence.max_value else sequence.start_value


def _bounds(sequence: NumberSource) -> str:
    return (
        f"increment by {sequence.increment_by} minvalue {sequence.min_value} maxvalue {sequence.max_value}"
        f"{' cycle' if sequence.cycle else ''}"
    )
