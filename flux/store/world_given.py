"""What a record shows of values that nobody can make again: what sequences gave, and defaults that draw.

The n-th row that a replay inserts into a table gets what the n-th of the record got. The rows of a record that no
transaction kept are among them: they drew too. How the count is kept is in ``flux_world.follow_record``.
"""

import re
from collections.abc import Mapping, Sequence

import attrs
import msgspec

from flux.sql_world import quote
from flux.store.postgres import Connection
from flux.store.world_catalog import Catalog, Column
from flux.store.world_keys import GUARD
from flux.store.world_rows import ShownTable, literal


@attrs.frozen
class Given:
    """What the record shows of values that nobody can make again, of one table."""

    number: int
    """The table's, in names that only Flux has to do with."""
    table: str
    columns: tuple[str, ...]
    """Columns whose values are given again."""
    sequences: Mapping[str, str]
    """Sequences that give again what they gave, by column."""

    steps: Mapping[str, int]
    """By what each sequence goes on."""
    places: tuple[str, ...]
    """Where its rows of then are, for a look at the greatest number."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing that it could give."""
        return not (self.columns or self.sequences)

    def list_values(self, rows: Sequence[Mapping[str, object]]) -> list[tuple[str, int, str]]:
        """Return (place, ordinal, value) of each that ``rows`` show, which were inserted in that order."""
        return [
            (f"{self.table}.{name}", ordinal, _text(row[name]))
            for name in (*self.columns, *self.sequences)
            for ordinal, row in enumerate(rows, 1)
            if row.get(name) is not None
        ]


def find_given(catalog: Catalog, number: int, table: ShownTable, places: tuple[str, ...]) -> Given:
    """Return what a record could show of ``table``."""
    sequences = {
        shown.name: sequence
        for shown in table.columns
        if shown.column.counts and (sequence := find_sequence(shown.column)) in catalog.sequences
    }
    return Given(
        number,
        table.name,
        tuple(shown.name for shown in table.columns if shown.column.is_drawn),
        sequences,
        {sequence: catalog.sequences[sequence].increment_by for sequence in sequences.values()},
        places,
    )


def find_sequence(column: Column) -> str:
    """Return the sequence that makes a column's values; empty when it can't be told."""
    if column.sequence is not None:
        return column.sequence
    # Not its own: named in its default, "nextval('public.numbers'::regclass)".
    named = re.match(r"nextval\('(.*)'::regclass\)", column.default or "")
    names = [] if named is None else re.findall(r'"(?:[^"]|"")*"|[^.]+', named[1].replace("''", "'"))
    return str(names[-1]).removeprefix('"').removesuffix('"').replace('""', '"') if names else ""


def list_given_statements(given: Given, copy: str) -> list[str]:
    """Return the statements that make a copy give what the record shows."""
    if given.is_empty:
        return []
    number = given.number
    arguments = ", ".join(
        literal(text)
        for text in (
            str(number),
            *(
                text
                for column, sequence in given.sequences.items()
                for text in (f"{given.table}.{column}", f"pg_temp.{quote(sequence)}")
            ),
        )
    )
    counters = [f"create temporary sequence flux_{kind}_{number} minvalue 0 start 0" for kind in ("at", "in")]
    return counters + [
        # "!" sorts before any letter: triggers fire in the order of their names.
        f"create trigger {quote(f'!flux_{when}_{level}')} {when} insert on pg_temp.{quote(copy)} for each {level} "
        f"when ({GUARD}) execute function flux_world.follow_record({arguments})"
        for when in ("before", "after")
        for level in ("statement", "row")
    ]


async def give(
    connection: Connection, tables: Sequence[Given], inserted: Mapping[str, Sequence[Mapping[str, object]]]
) -> None:
    """Let ``tables`` give what ``inserted`` shows, from its beginning; what was given before is forgotten."""
    values = [value for each in tables for value in each.list_values(inserted.get(each.table, ()))]
    for each in tables:
        rows = inserted.get(each.table, ())
        for column, sequence in each.sequences.items():
            numbers = [number for row in rows if isinstance(number := row.get(column), int)]
            fresh = await _find_fresh(connection, each, column, numbers)
            await connection.fetch_value(
                f"select flux_world.start({literal(f'pg_temp.{quote(sequence)}')}, $1)",
                numbers[0] if numbers else fresh,
            )
            if numbers:
                # After the last that the record has.
                values.append((f"{each.table}.{column}", len(rows) + 1, str(fresh)))
        if not each.is_empty:
            for kind in ("at", "in"):
                await connection.fetch_value(
                    f"select pg_catalog.setval('pg_temp.flux_{kind}_{each.number}', 0)"
                )
    await connection.execute("delete from pg_temp.flux_given")
    places, ordinals, texts = zip(*values, strict=True) if values else ((), (), ())
    await connection.execute(
        "insert into pg_temp.flux_given select * from rows from (pg_catalog.unnest($1::pg_catalog.text[]), "
        "pg_catalog.unnest($2::pg_catalog.int8[]), pg_catalog.unnest($3::pg_catalog.text[]))",
        list(places), list(ordinals), list(texts),
    )  # fmt: skip


async def _find_fresh(connection: Connection, given: Given, column: str, numbers: Sequence[int]) -> int:
    """Return a number that no row has."""
    step = given.steps[given.sequences[column]]
    order, worst = ("desc", max) if step > 0 else ("asc", min)
    name = quote(column)
    known = [*numbers]
    for place in given.places:
        last = await connection.fetch_value(
            f"select t.{name} from {place} where t.{name} is not null order by t.{name} {order} limit 1"
        )
        known += [] if last is None else [int(last)]
    return step + worst(known, default=0)


def _text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
