"""The statements that make a world's things in ``pg_temp``, in an order in which each finds what it needs.

Tables and sequences come first, then functions, which may have their types; then what may call functions: defaults,
views, policies, triggers. Nothing of the user's runs here: the tables are empty, and functions are only written down.
"""

import attrs

from flux.sql_world import quote
from flux.store.world_aside import list_aside_statements
from flux.store.world_catalog import Relation
from flux.store.world_code import (
    SEARCH_PATH,
    Rewriter,
    choose_functions,
    choose_views,
    list_code_notes,
    make_function,
    make_policy,
    make_trigger,
    make_view,
)
from flux.store.world_given import Given, find_given, list_given_statements
from flux.store.world_keys import FILLING, list_key_triggers
from flux.store.world_large import (
    large_name,
    list_large_places,
    list_large_statements,
    list_large_triggers,
)
from flux.store.world_plan import WorldPlan
from flux.store.world_rows import literal, rows_as_of
from flux.store.world_survey import Survey
from flux.store.world_tables import (
    list_default_statements,
    list_sequence_statements,
    list_table_statements,
)
from flux.store.world_views import list_view_statements

_OWN_TABLES = (
    "create temporary table flux_undo (table_name text, key json, before json)",
    "create temporary table flux_counts (table_name text, image text, count bigint, primary key (table_name, image))",
    "create temporary table flux_given (place text, ordinal bigint, value text, primary key (place, ordinal))",
    "create temporary table flux_changes (table_name text, op text, call text, before json, after json)",
)
"""Rows before their changes; how many of each kind there were more; what the record gives; what is changed.
Images are indexed by a hash where they are too long for a key."""


@attrs.frozen
class Script:
    """What makes a world, and what it is then called by."""

    statements: tuple[str, ...]
    rewriter: Rewriter
    views: tuple[Relation, ...]
    """Views of the user's that are made again."""
    given: tuple[Given, ...]
    """By copy, what the record shows of values."""
    copied: frozenset[str]
    """Tables that can be written, partitions among them."""
    notes: tuple[str, ...]
    """What is not as it was, a sentence each."""


def write_script(survey: Survey, plan: WorldPlan, server_version: int) -> Script:
    """Return what makes the world that ``survey`` has decided on."""
    catalog = survey.catalog
    copies = sorted(survey.copies)
    poisoned = sorted(
        name
        for name in survey.refused
        if (found := catalog.relations.get(name)) is not None and found.is_table
    )
    parts_of = {
        name: catalog.list_partitions(survey.table(name).now_name) for name in (*copies, *survey.views)
    }
    standing = {*copies, *survey.views, *poisoned} | {
        part.name for parts in parts_of.values() for part in parts
    }
    tables = Rewriter(catalog.schema, frozenset(standing | catalog.sequences.keys()))
    rewriter, views = _choose_code(survey, tables)
    given = tuple(
        find_given(
            catalog,
            number,
            survey.table(name),
            list_large_places(survey.table(name)) if name in survey.large else (f"pg_temp.{quote(name)} t",),
        )
        for number, name in enumerate(copies, 1)
    )
    places = {name: large_name(name) if name in survey.large else name for name in copies}
    statements = [*_OWN_TABLES]
    identities = frozenset(
        column.sequence
        for name in copies
        for column in survey.columns[survey.table(name).now_name]
        if column.identity and column.sequence
    )
    statements += list_sequence_statements(catalog, identities, plan.drawn)
    for name in copies:
        table = survey.table(name)
        statements += list_table_statements(catalog, table, survey.constraints, tables, places[name])
    for name in sorted(survey.settable & plan.aside):
        statements += list_aside_statements(name, places[name])
    for name in sorted(survey.views):
        table = survey.table(name)
        if name in survey.indexed:
            statements += list_view_statements(table, survey.indexes.get(table.now_name, ()))
        else:
            statements.append(f"create temporary view {quote(name)} as {rows_as_of(table)}")
        statements += [_make_part(name, part) for part in parts_of[name]]
    statements += [_make_poison(survey, name) for name in poisoned]
    for name in sorted(survey.large):
        statements += list_large_statements(survey.table(name))
    path = f"{SEARCH_PATH}, {quote(catalog.schema)}"
    statements += [
        make_function(function, rewriter, path)
        for function in catalog.functions
        if function.name in rewriter.functions
    ]
    for name, own in zip(copies, given, strict=True):
        statements += list_default_statements(survey.table(name), own, rewriter, places[name])
        if name in survey.large:
            statements += list_default_statements(survey.table(name), own, rewriter, name)
    statements += [make_view(view, rewriter) for view in views]
    triggers, notes = _write_triggers(survey, rewriter, views, places, server_version)
    statements += triggers
    for name, own in zip(copies, given, strict=True):
        statements += list_given_statements(own, places[name])
    statements += _write_policies(survey, rewriter)
    notes += survey.notes
    notes += list_code_notes(catalog, rewriter, survey.list_triggers(), survey.shapes.functions)
    notes += [f"rules of {view.name} have no effect in a replay" for view in views if view.has_rules]
    notes += [
        f"rules of {name} have no effect in a replay"
        for name in copies
        if catalog.relations[survey.table(name).now_name].has_rules
    ]
    return Script(
        tuple(statements),
        rewriter,
        views,
        given,
        frozenset(copies) | {part.name for name in copies for part in parts_of[name]},
        tuple(dict.fromkeys(notes)),
    )


def _choose_code(survey: Survey, tables: Rewriter) -> tuple[Rewriter, tuple[Relation, ...]]:
    """Return what is turned to the world in the end, and the views among it: they and functions call each other."""
    views: tuple[Relation, ...] = ()
    rewriter = tables
    while True:
        relations = tables.relations | {view.name for view in views}
        tried = attrs.evolve(tables, relations=relations)
        tried = attrs.evolve(tried, functions=choose_functions(survey.catalog, tried))
        if tried == rewriter:
            return rewriter, views
        rewriter = tried
        views = choose_views(survey.catalog, rewriter)


def _write_triggers(
    survey: Survey,
    rewriter: Rewriter,
    views: tuple[Relation, ...],
    places: dict[str, str],
    server_version: int,
) -> tuple[list[str], list[str]]:
    catalog = survey.catalog
    by_now = {survey.table(name).now_name: place for name, place in places.items()}
    statements = [
        make_trigger(trigger, by_now.get(trigger.table_name, trigger.table_name), rewriter, is_view=False)
        for trigger in survey.list_triggers()
    ]
    made = {view.name for view in views}
    statements += [
        make_trigger(trigger, trigger.table_name, rewriter, is_view=True)
        for trigger in catalog.triggers
        if trigger.table_name in made
    ]
    keys, notes = list_key_triggers(catalog, places, rewriter.relations, dict(survey.refused), server_version)
    statements += keys
    for name, place in places.items():
        # Behind all others of a row.
        noted = f"pg_temp.{quote(place)} for each"
        call = f"execute function flux_world.note_change({literal(name)})"
        statements += [
            f'create trigger "~flux_change" after insert or update or delete on {noted} row {call}',
            f'create trigger "~flux_truncate" before truncate on {noted} statement {call}',
        ]
    for name in sorted(survey.large):
        statements += list_large_triggers(survey.table(name), survey.unique_indexes)
    notes += [
        f"trigger {trigger.name} of {trigger.table_name} runs for each row in the replay, not for each statement: "
        "the table is too large to copy"
        for trigger in survey.list_triggers()
        if trigger.table_name in survey.large and not trigger.is_row
    ]
    return statements, notes


def _write_policies(survey: Survey, rewriter: Rewriter) -> list[str]:
    statements = []
    for name in sorted(survey.copies):
        table = survey.table(name)
        if not table.has_policies:
            continue
        statements += [
            f"alter table pg_temp.{quote(name)} enable row level security, force row level security",
            f"create policy flux_filling on pg_temp.{quote(name)} using ({FILLING})",
            *(
                make_policy(attrs.evolve(policy, table_name=name), rewriter)
                for policy in survey.catalog.policies
                if policy.table_name == table.now_name
            ),
        ]
    return statements


def _make_part(table: str, part: Relation) -> str:
    """Return the statement that makes a view of one partition."""
    rows = f"select * from pg_temp.{quote(table)} where {part.partition_check}"
    return f"create temporary view {quote(part.name)} as {rows}"


def _make_poison(survey: Survey, name: str) -> str:
    """Return the statement that makes something which has a table's columns, and refuses whoever asks it."""
    columns = ", ".join(f"null::{column.type} as {quote(column.name)}" for column in survey.columns[name])
    reason = f"{name} can't be shown as it was: {survey.refused[name]}"
    return f"create temporary view {quote(name)} as select {columns} from flux_world.refuse({literal(reason)}) refused"
