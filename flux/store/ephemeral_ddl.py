"""What an ephemeral database has beside the tenant's schema, how that is made there, and which tables need their rows.

Pure: the decisions of `flux.store.ephemeral`.
"""

import re
from collections.abc import Iterable
from collections.abc import Set as AbstractSet

from flux.sql_world import CHANCE_FUNCTIONS, WORLD_SCHEMA, find_names, quote
from flux.store.world_code import SEARCH_PATH, Rewriter, turn_function

EPHEMERAL_SQL = f"""
create schema {WORLD_SCHEMA};
create function {WORLD_SCHEMA}.now() returns timestamptz language sql stable as $$
    select coalesce(nullif(pg_catalog.current_setting('flux.world_now', true), '')::pg_catalog.timestamptz,
                    pg_catalog.now()) $$;
create function {WORLD_SCHEMA}.transaction_timestamp() returns timestamptz language sql stable as $$
    select {WORLD_SCHEMA}.now() $$;
create function {WORLD_SCHEMA}.statement_timestamp() returns timestamptz language sql stable as $$
    select {WORLD_SCHEMA}.now() $$;
create function {WORLD_SCHEMA}.clock_timestamp() returns timestamptz language sql volatile as $$
    select {WORLD_SCHEMA}.now() $$;
create function {WORLD_SCHEMA}.timeofday() returns text language sql volatile as $$
    select pg_catalog.to_char({WORLD_SCHEMA}.now(), 'Dy Mon DD HH24:MI:SS.US YYYY TZ') $$;
create function {WORLD_SCHEMA}.age(timestamp) returns interval language sql stable as $$
    select pg_catalog.age({WORLD_SCHEMA}.now()::pg_catalog.date::pg_catalog.timestamp, $1) $$;
create function {WORLD_SCHEMA}.age(timestamptz) returns interval language sql stable as $$
    select pg_catalog.age({WORLD_SCHEMA}.now()::pg_catalog.date::pg_catalog.timestamptz, $1) $$;
create function {WORLD_SCHEMA}.given(name text) returns text language plpgsql volatile as $$
declare
    all_given constant pg_catalog.jsonb := nullif(pg_catalog.current_setting('flux.given', true), '');
    value constant pg_catalog.text := all_given -> name ->> 0;
begin
    if value is not null then
        perform pg_catalog.set_config('flux.given',
            pg_catalog.jsonb_set(all_given, array[name], (all_given -> name) - 0)::pg_catalog.text, true);
    end if;
    return value;
end $$
"""
"""Tells the time of then, and gives columns the values that the record has for them, one after the other."""
CHANCE = (*sorted(CHANCE_FUNCTIONS), "draw")
"""Functions that are there as a world has them, to be taken over from the tenant's database."""


def turn_statement(kind: str, statement: str, schema: str) -> str:
    """Return a statement that makes an object of ``schema``, for a database in which the time is that of then."""
    nothing = Rewriter(schema, frozenset())
    if kind != "function":
        return nothing.sql(statement)
    language = _LANGUAGE.search(statement)
    if language is None or language["name"] not in ("sql", "plpgsql"):
        return statement  # Text of another language, in which the same words mean something else.
    path = f"{SEARCH_PATH}, {quote(schema)}"
    return turn_function(statement, nothing, path, is_atomic=_BODY_TEXT.search(statement) is None)


_LANGUAGE = re.compile(r"^ LANGUAGE (?P<name>\w+)", re.MULTILINE)
"""As ``pg_get_functiondef`` writes it, before the body."""
_BODY_TEXT = re.compile(r"^AS \$", re.MULTILINE)
"""How the body of a function begins that is text."""


def find_needed_tables(
    names: AbstractSet[str],
    tables: AbstractSet[str],
    neighbours: Iterable[tuple[str, str | None, str | None]],
    texts: Iterable[tuple[str, str]],
) -> frozenset[str]:
    """Return those of ``tables`` whose rows statements need that use ``names``.

    ``neighbours`` are (table, table at the other end of a foreign key, text of a trigger's function); ``texts``
    are views and functions by name. A name that is meant otherwise, a column's say, costs a copy and no more.
    """
    leads_to: dict[str, set[str]] = {}
    for table, neighbour, body in neighbours:
        if neighbour is not None:
            leads_to.setdefault(table, set()).add(neighbour)
            leads_to.setdefault(neighbour, set()).add(table)
        if body is not None:
            leads_to.setdefault(table, set()).update(find_names(body))
    for name, body in texts:
        leads_to.setdefault(name, set()).update(find_names(body))
    found: set[str] = set()
    ahead = list(names)
    while ahead:
        name = ahead.pop()
        if name not in found:
            found.add(name)
            ahead += leads_to.get(name, ())
    return frozenset(found & tables)
