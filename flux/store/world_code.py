"""The user's own SQL in the database, turned to a world: functions, views, triggers and policies.

A view is bound to the tables that it was made on, a function to the schema that it names or to the ``search_path`` that
it sets, a trigger to its table: none of them would look into ``pg_temp``. So each that would go past the world is made
once more in it, of its own text. A function that finds the world by itself is left alone.
"""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet

import attrs

from flux.sql_script import tokens
from flux.sql_world import (
    WORLD_FUNCTIONS,
    WORLD_SCHEMA,
    find_calls,
    find_names,
    find_targets,
    quote,
    rewrite,
)
from flux.store.world_catalog import Catalog, Function, Policy, Relation, Trigger
from flux.store.world_keys import FILLING, GUARD

_CLOCK_WORDS = frozenset({"current_timestamp", "current_date", "current_time", "localtimestamp", "localtime"})
_COMMANDS = {"r": "select", "a": "insert", "w": "update", "d": "delete", "*": "all"}


@attrs.frozen
class Rewriter:
    """Turns the schema's SQL to what stands in ``pg_temp``."""

    schema: str
    relations: frozenset[str]
    """Tables, views and sequences that stand there."""
    functions: frozenset[str] = frozenset()
    """Functions that do."""

    def sql(self, text: str) -> str:
        """Return ``text`` as it is to run."""
        return rewrite(text, self.schema, self.relations, self.functions)


def choose_functions(catalog: Catalog, rewriter: Rewriter) -> frozenset[str]:
    """Return the functions that would go past the world; all of a name together, since calls go by name."""
    chosen: frozenset[str] = frozenset()
    while True:
        tried = attrs.evolve(rewriter, functions=chosen)
        found = chosen | {
            function.name
            for function in catalog.functions
            if function.is_readable and _goes_past(function, tried)
        }
        if found == chosen:
            return chosen
        chosen = found


def choose_views(catalog: Catalog, rewriter: Rewriter) -> tuple[Relation, ...]:
    """Return the views that are to be made again, each after those that it is made of.

    They are those over what stands in ``pg_temp``, over such functions, and those that tell the time.
    """
    views = {
        relation.name: relation for relation in catalog.relations.values() if relation.definition is not None
    }
    names = {name: find_names(view.definition or "") for name, view in views.items()}
    wanted = rewriter.relations | rewriter.functions | WORLD_FUNCTIONS | _CLOCK_WORDS
    chosen: dict[str, Relation] = {}
    while True:
        found = {name for name in views if name not in chosen and names[name] & (wanted | chosen.keys())}
        if not found:
            break
        chosen |= {name: views[name] for name in found}
    ordered: list[Relation] = []
    while chosen:
        # A view can't be made of itself, so there is always one that is made of no other that is left. Names of
        # columns may look like one, though: then any is as good, and the server has the last word.
        ready = [name for name in chosen if not names[name] & (chosen.keys() - {name})] or list(chosen)[:1]
        ordered += [chosen.pop(name) for name in sorted(ready)]
    return tuple(ordered)


def make_view(view: Relation, rewriter: Rewriter) -> str:
    """Return the statement that makes a view in the world."""
    options = f" with ({', '.join(view.options)})" if view.options else ""
    query = rewriter.sql((view.definition or "").rstrip().removesuffix(";"))
    return f"create temporary view {quote(view.name)}{options} as {query}"


def make_function(function: Function, rewriter: Rewriter, search_path: str) -> str:
    """Return the statement that makes a function in the world."""
    return turn_function(function.definition, rewriter, search_path, is_atomic=function.is_atomic)


def turn_function(definition: str, rewriter: Rewriter, search_path: str, *, is_atomic: bool) -> str:
    """Return the statement that makes a function with its names turned, and ``search_path`` before its own, if any."""
    spans = [(begin, end) for kind, begin, end in tokens(definition) if kind == "dollar"]
    begin, end = spans[-1] if spans and not is_atomic else (len(definition), len(definition))
    head = "".join(
        _lead_path(line, search_path) if line.lower().startswith(_SETS_PATH) else line
        for line in definition[:begin].splitlines(keepends=True)
    )
    quoted = definition[begin:end]
    if quoted:
        mark = quoted[: quoted.index("$", 1) + 1]
        quoted = mark + rewriter.sql(quoted[len(mark) : -len(mark)]) + mark
    return rewriter.sql(head) + quoted + definition[end:]


_SETS_PATH = " set search_path to "


def _lead_path(line: str, search_path: str) -> str:
    """Return a function's own setting with ``search_path`` in front of what it names: extensions may be there."""
    names = (name.strip() for name in line[len(_SETS_PATH) :].split(","))
    # Where "pg_temp" is named, it is found in that place, and where it is not, first.
    kept = [name for name in names if name.strip("'\"") not in ("", "pg_temp", "pg_catalog", WORLD_SCHEMA)]
    return f"{_SETS_PATH.upper()}{', '.join([search_path, *kept])}\n"


def make_trigger(trigger: Trigger, table: str, rewriter: Rewriter, *, is_view: bool) -> str:
    """Return the statement that makes a trigger in the world, on ``table`` of ``pg_temp``."""
    definition = rewriter.sql(trigger.definition)
    read = [(kind, begin, definition[begin:end]) for kind, begin, end in tokens(definition)]
    execute = max(begin for kind, begin, text in read if kind == "word" and text == "EXECUTE")
    when = [begin for kind, begin, text in read if kind == "word" and text == "WHEN" and begin < execute]
    head, condition = definition[:execute], ""
    if when:
        head, condition = definition[: when[0]], f" and ({definition[when[0] + 4 : execute].strip()})"
    if table != trigger.table_name:
        head = head.replace(f"pg_temp.{_as_named(trigger.table_name)} ", f"pg_temp.{quote(table)} ", 1)
    # A view has no rows that could be filled in.
    guard = "" if is_view and not condition else f"when ({GUARD}{condition}) "
    return f"{head.rstrip()} {guard}{definition[execute:]}"


def make_policy(policy: Policy, rewriter: Rewriter) -> str:
    """Return the statement that makes a row policy in the world."""
    kind = "permissive" if policy.is_permissive else "restrictive"
    using = (
        f" using ({FILLING} or ({rewriter.sql(policy.using_expression)}))" if policy.using_expression else ""
    )
    check = (
        f" with check ({FILLING} or ({rewriter.sql(policy.check_expression)}))"
        if policy.check_expression
        else ""
    )
    return (
        f"create policy {quote(policy.name)} on pg_temp.{quote(policy.table_name)} as {kind} "
        f"for {_COMMANDS[policy.command]} to {', '.join(policy.roles)}{using}{check}"
    )


def find_written(catalog: Catalog, names: Iterable[str]) -> frozenset[str]:
    """Return the tables that functions and views of ``names`` write to, and those that these call."""
    bodies: dict[str, list[str]] = {}
    for function in catalog.functions:
        if function.is_readable:
            bodies.setdefault(function.name, []).append(
                function.definition if function.is_atomic else function.body
            )
    found: set[str] = set()
    seen: set[str] = set()
    left = list(names)
    while left:
        name = left.pop()
        if name in seen:
            continue
        seen.add(name)
        relation = catalog.relations.get(name)
        if relation is not None and relation.definition is not None:
            # Whichever of them it is, a view that can be written is made of them.
            inside = find_names(relation.definition) & catalog.relations.keys()
            left += inside
            found |= {each for each in inside if catalog.relations[each].is_table}
            left += [trigger.function_name for trigger in catalog.triggers if trigger.table_name == name]
        for body in bodies.get(name, ()):
            targets = {t.name for t in find_targets(body) if t.schema in (None, catalog.schema)}
            found |= targets & catalog.relations.keys()
            left += (find_calls(body) & bodies.keys()) | (targets & catalog.relations.keys())
    return frozenset(name for name in found if catalog.relations[name].is_table)


def close_over_triggers(catalog: Catalog, written: AbstractSet[str]) -> frozenset[str]:
    """Return ``written``, and the tables that the triggers of these write to."""
    closed = {catalog.find_root(table) for table in written}
    while True:
        families = closed | {part.name for table in closed for part in catalog.list_partitions(table)}
        called = {trigger.function_name for trigger in catalog.triggers if trigger.table_name in families}
        found = {catalog.find_root(table) for table in find_written(catalog, called)}
        if found <= closed:
            return frozenset(closed)
        closed |= found


def list_code_notes(
    catalog: Catalog, rewriter: Rewriter, triggers: Iterable[Trigger], ddl: Mapping[str, str]
) -> list[str]:
    """Return what of the user's code does not do in a world what it does elsewhere, a sentence each.

    ``ddl`` has functions that were changed since, by name, and how.
    """
    notes = []
    for function in catalog.functions:
        if function.name in ddl:
            notes.append(f"function {function.name} is as it is now: {ddl[function.name]} since")
        if function.name in rewriter.functions and function.is_definers:
            notes.append(f"function {function.name} runs with the rights of whoever calls it in a replay")
        if function.is_readable and (texts := _find_in_text(function, rewriter)):
            notes.append(
                f"function {function.name} has {', '.join(texts)} in text: if it runs that, it finds what is there now"
            )
    notes += [
        f"trigger {trigger.name} of {trigger.table_name} is not SQL: its clock is today's"
        for trigger in triggers
        if trigger.language not in ("sql", "plpgsql") and trigger.function_schema != "pg_catalog"
    ]
    return notes


def _goes_past(function: Function, rewriter: Rewriter) -> bool:
    text = function.definition if function.is_atomic else function.body
    if rewriter.sql(text) != text:
        return True
    names = find_names(text)
    mentions = names & (rewriter.relations | rewriter.functions | WORLD_FUNCTIONS)
    return bool(mentions) and (_sets_path(function) or function.is_definers or function.is_atomic)


def _sets_path(function: Function) -> bool:
    return any(setting.startswith("search_path=") for setting in function.settings)


def _find_in_text(function: Function, rewriter: Rewriter) -> list[str]:
    """Return names with the schema in front that stand in text of a function which runs text."""
    if function.is_atomic or "execute" not in find_names(function.body):
        return []
    found = set()
    for kind, begin, end in tokens(function.body):
        if kind == "quoted" and function.body[begin] != '"':
            inner = function.body[begin + 1 : end - 1]
            if rewriter.sql(inner) != inner:
                found |= {f"{rewriter.schema}.{name}" for name in find_names(inner) & rewriter.relations}
    return sorted(found)


def _as_named(name: str) -> str:
    """Return a name as PostgreSQL writes it in a definition: in quotes only where it needs them."""
    is_plain = name == name.lower() and name.replace("_", "a").isalnum() and not name[0].isdigit()
    return name if is_plain and name.isascii() else quote(name)


SEARCH_PATH = f"{WORLD_SCHEMA}, pg_catalog"
"""What the world's own statements are read with: they name all the rest with its schema."""
