"""Two schemas beside each other: what differs, and what would make one into the other.

A schema is a set of objects, each with its definition in PostgreSQL's own words; these are equal where the objects
are. `compare` names what differs. `plan` gives the statements that bring one schema to the other, in groups: in a group
any order may work, and whoever runs them finds it by trying (`flux.store.schema_objects.run_steps`). What takes data
away is marked. What can't be changed in place, such as a label that an enum is to lose, is refused by name; a plan
never drops a table to make it anew.

Whether a plan was good is not decided here: whoever carries it out compares again before the commit.
"""

from collections.abc import Iterable, Mapping

import attrs

from flux.errors import OperatorError
from flux.migration_plan import loses_by_type

_HOLDERS = frozenset({"table", "partition", "column", "sequence"})
"""Kinds whose removal takes data away."""
_TYPES = frozenset({"extension", "enum", "domain", "composite type"})
"""Kinds that columns are of, or their types."""
_DEPENDENTS = ("row policy", "row security", "trigger", "view", "materialized view", "index", "constraint")
"""Kinds that go first where they change or go, as others stand on what they stand on. None holds data of its own."""
_VIEWS = frozenset({"view", "materialized view"})
_BENEATH_VIEWS = _VIEWS | {"column", "function"}
"""Kinds that can't be changed while a view stands on them."""


class CannotPushError(OperatorError):
    """The live schema can't be brought to what is wanted."""

    code = "FLX592"


@attrs.frozen
class SchemaObject:
    """One thing that a schema holds."""

    kind: str
    """``table``, ``column``, ``constraint`` ..."""
    name: str
    """Within its schema: ``users``, ``users.plan``."""
    definition: str
    """What it is, in PostgreSQL's words: two are the same where this is."""
    creation: str
    """The statement that makes it."""
    removal: str
    """The statement that removes it."""
    table: str | None = None
    """Of what belongs to a table, that table."""
    parts: Mapping[str, str | None] = attrs.field(factory=dict)
    """Of a column: ``place`` (ALTER TABLE ... ALTER COLUMN), ``type``, ``default``, ``required``, ``rest``. Of an enum:
    its labels, in order, as keys."""

    @property
    def key(self) -> tuple[str, str]:
        """By what it is found in another schema."""
        return self.kind, self.name


@attrs.frozen
class Difference:
    """An object that is not the same on both sides."""

    kind: str
    name: str
    live: str | None
    """Its definition in the live schema; None: it has none."""
    wanted: str | None
    """What it is to be; None: it is not to be there."""

    @property
    def change(self) -> str:
        """``missing``, ``extra`` or ``changed``, as the live schema has it."""
        return "missing" if self.live is None else "extra" if self.wanted is None else "changed"


@attrs.frozen
class Step:
    """A statement of a plan; some are several, in their order."""

    group: int
    """Steps of a lower group come first."""
    sql: str
    loss: str | None = None
    """What it takes away; None: nothing."""


Schema = Mapping[tuple[str, str], SchemaObject]


def make_schema(objects: Iterable[SchemaObject]) -> Schema:
    """Return the objects by what they are found by."""
    return {each.key: each for each in objects}


def compare(live: Schema, wanted: Schema) -> tuple[Difference, ...]:
    """Return what differs. What belongs to a table that only one side has is not listed beside it."""
    found = []
    for key in sorted(live.keys() | wanted.keys()):
        has, should = live.get(key), wanted.get(key)
        if has is not None and should is not None and has.definition == should.definition:
            continue
        table = next(each.table for each in (has, should) if each is not None)
        if table is not None and (("table", table) in live) != (("table", table) in wanted):
            continue
        definitions = [None if each is None else each.definition for each in (has, should)]
        found.append(Difference(*key, *definitions))
    return tuple(found)


def plan(live: Schema, wanted: Schema) -> tuple[Step, ...]:
    """Return what brings ``live`` to ``wanted``; raise `CannotPushError` for what can't be changed in place."""
    steps: list[Step] = []
    refused: list[str] = []
    for difference in compare(live, wanted):
        key = (difference.kind, difference.name)
        has, should = live.get(key), wanted.get(key)
        if has is None:
            assert should is not None
            steps.append(_create(should))
        elif should is None:
            steps.append(_remove(has))
        elif has.kind in _DEPENDENTS:
            steps += [_remove(has), _create(should)]
        elif has.kind in ("function", "sequence"):
            steps.append(Step(2, should.creation.rstrip() if has.kind == "function" else _alter_sequence(should)))
        elif has.kind == "column" and has.parts["rest"] == should.parts["rest"]:
            steps.append(_alter_column(has, should))
        elif has.kind == "enum" and _grows(has, should):
            steps.append(Step(1, _add_labels(has, should)))
        else:
            refused.append(f"{has.kind} {has.name}: it is {has.definition}, and was to be {should.definition}")
    if any(difference.live is not None and difference.kind in _BENEATH_VIEWS for difference in compare(live, wanted)):
        # Views stand on columns, functions and each other, and have no rows of their own: all are made again.
        steps += [_remove(each) for each in live.values() if each.kind in _VIEWS]
        views = {each.name for each in wanted.values() if each.kind in _VIEWS}
        steps += [_create(each) for each in wanted.values() if each.kind in _VIEWS or each.table in views]
    # What a new table brings along, and what a dropped one takes along, is not among the differences.
    for each in wanted.values():
        is_new = each.table is not None and ("table", each.table) in wanted and ("table", each.table) not in live
        if is_new and each.kind != "column":
            steps.append(_create(each))
    for each in live.values():
        is_foreign_key = each.kind == "constraint" and each.definition.startswith("FOREIGN KEY")
        if is_foreign_key and ("table", each.table or "") not in wanted:
            steps.append(_remove(each))  # Two tables that refer to each other could not be dropped one by one.
    if refused:
        raise CannotPushError(
            "\n".join(refused) + "\nnothing was changed",
            remedy="write a migration that says how: flux db migrate; in development, flux db reset makes all anew",
        )
    return tuple(sorted(dict.fromkeys(steps), key=lambda step: step.group))


def _create(each: SchemaObject) -> Step:
    is_last = each.kind in _DEPENDENTS or each.kind == "owner of sequence"
    return Step(4 if is_last else 1 if each.kind in _TYPES else 2, each.creation.rstrip())


def _remove(each: SchemaObject) -> Step:
    if each.kind in _DEPENDENTS:
        return Step(0, each.removal)
    return Step(3, each.removal, f"drops {each.kind} {each.name}" if each.kind in _HOLDERS else None)


def _alter_sequence(should: SchemaObject) -> str:
    return should.creation.replace("create sequence", "alter sequence", 1)


def _alter_column(has: SchemaObject, should: SchemaObject) -> Step:
    place, new_type = should.parts["place"], should.parts["type"]
    statements, loss = [], None
    if has.parts["type"] != new_type:
        if has.parts["default"] is not None:
            statements.append(f"{place} drop default")
        statements.append(f"{place} type {new_type} using {should.parts['name']}::{new_type}")
        if loses_by_type(str(has.parts["type"]), str(new_type)):
            loss = f"narrows {should.name} from {has.parts['type']} to {new_type}"
    if should.parts["default"] is not None and (statements or has.parts["default"] != should.parts["default"]):
        statements.append(f"{place} set default {should.parts['default']}")
    elif has.parts["default"] is not None and should.parts["default"] is None and not statements:
        statements.append(f"{place} drop default")
    if has.parts["required"] != should.parts["required"]:
        statements.append(f"{place} {'set' if should.parts['required'] else 'drop'} not null")
    return Step(2, ";\n".join(statements), loss)


def _grows(has: SchemaObject, should: SchemaObject) -> bool:
    """Whether an enum only gets labels."""
    labels = list(should.parts)
    return [label for label in labels if label in has.parts] == list(has.parts)


def _add_labels(has: SchemaObject, should: SchemaObject) -> str:
    head = has.removal.replace("drop type", "alter type", 1)
    statements, before = [], None
    for label, quoted in should.parts.items():
        if label not in has.parts:
            first = next(iter(has.parts.values()), None)
            where = f" after {before}" if before is not None else f" before {first}" if first is not None else ""
            statements.append(f"{head} add value {quoted}{where}")
        before = quoted
    return ";\n".join(statements)
