"""The project's migrations, applied to a world's copies: the code to be replayed may need what they make.

All tables that a migration names are copies, and a guest's role owns nothing else: so what changes shapes can change
nothing but copies, and what it creates is temporary. PostgreSQL has no DDL in a READ ONLY transaction, so that is what
each statement of DDL is not run in; it is taken back if it has written to a table of the user's, as a function could
that it calls. A role may do more to itself than to tables, though (its settings, its password, what it gives away): so
only what makes and changes things of a schema is run. Everything else of a migration is run READ ONLY.
"""

import re
from collections.abc import Sequence

import attrs

from flux.sql_script import split_script
from flux.sql_world import find_calls, find_names, quote
from flux.store.database_errors import BadQueryArgument, DatabaseError, StatementRefused
from flux.store.migrate import UserMigration
from flux.store.postgres import Connection
from flux.store.queries import QUERIES
from flux.store.world_catalog import Catalog
from flux.store.world_code import SEARCH_PATH, Rewriter
from flux.store.world_plan import WorldError

_DDL = frozenset({"create", "alter", "drop", "comment"})
_NO_MATTER = frozenset({"grant", "revoke", "analyze", "vacuum"})
"""What changes nothing that a replay could see."""
_OBJECTS = frozenset({
    "aggregate", "cast", "collation", "column", "constraint", "domain", "extension", "function", "index", "operator",
    "policy", "procedure", "routine", "rule", "schema", "sequence", "statistics", "table", "trigger", "type", "view",
})  # fmt: skip
"""What DDL may be about. Of roles, databases and what a server has beside them, it would be done for good."""
_MODIFIERS = frozenset({
    "global", "local", "materialized", "on", "or", "recursive", "replace", "temp", "temporary", "unique", "unlogged",
})  # fmt: skip
"""What may stand before the object."""
_CONCURRENTLY = re.compile(r"\bconcurrently\b", re.IGNORECASE)


@attrs.frozen
class Migrated:
    """What stands in ``pg_temp`` once migrations have been applied."""

    relations: frozenset[str]
    """Tables, views and sequences."""
    tables: frozenset[str]
    """Those of them that are tables."""
    functions: frozenset[str]


async def apply_migrations(
    connection: Connection,
    token: bytes,
    migrations: Sequence[UserMigration],
    catalog: Catalog,
    rewriter: Rewriter,
) -> Migrated:
    """Apply ``migrations`` in their order; raise `WorldError` when one can't be. No transaction may be open."""
    path = f"pg_temp, {SEARCH_PATH}, {quote(catalog.schema)}"
    await connection.fetch_value("select pg_catalog.set_config('search_path', $1, false)", path)
    for migration in sorted(migrations, key=lambda each: each.number):
        # What is not there yet is made by it, in the world.
        names = find_names(migration.sql)
        calls = find_calls(migration.sql) - {function.name for function in catalog.functions}
        rewriter = attrs.evolve(
            rewriter,
            relations=rewriter.relations | (names - catalog.relations.keys()),
            functions=rewriter.functions | _find_made(migration.sql, calls),
        )
        for statement in split_script(migration.sql.removeprefix("\ufeff")):
            word = statement.words[0] if statement.words else ""
            if word in _NO_MATTER or statement.words[:3] == ("alter", "default", "privileges"):
                continue
            is_ddl = word in _DDL
            if is_ddl and (kind := _find_object(statement.words)) not in _OBJECTS:
                raise _failed(migration, f"{word} {kind} would be done for good, and not to a copy")
            sql = _CONCURRENTLY.sub("", statement.sql, count=1) if is_ddl else statement.sql
            if is_ddl and _runs_query(sql, statement.words):
                raise _failed(migration, "it makes a table of a query")
            try:
                await connection.begin(read_only=not is_ddl)
                await connection.execute(rewriter.sql(sql))
                if is_ddl and await connection.fetch_value(QUERIES.world_has_written, token):
                    await connection.rollback()
                    raise _failed(migration, "it writes to tables that are not the world's")
                await connection.commit()
            except (DatabaseError, StatementRefused, BadQueryArgument) as error:
                reason = error.report.message if isinstance(error, DatabaseError) else error.message
                raise _failed(migration, reason) from error
    rows = await connection.fetch(QUERIES.list_world_standing)
    return Migrated(
        frozenset(row["name"] for row in rows if row["kind"] != "function"),
        frozenset(row["name"] for row in rows if row["kind"] in ("r", "p")),
        frozenset(row["name"] for row in rows if row["kind"] == "function"),
    )


def _find_object(words: tuple[str, ...]) -> str:
    """Return which kind of object a statement of DDL is about."""
    return next((word for word in words[1:] if word not in _MODIFIERS), "")


def _find_made(sql: str, calls: frozenset[str]) -> frozenset[str]:
    """Return the functions that a migration makes."""
    return frozenset(
        name
        for statement in split_script(sql)
        if {"function", "procedure"} & set(statement.words)
        for name in find_names(statement.sql.partition("(")[0]) & calls
    )


def _runs_query(sql: str, words: tuple[str, ...]) -> bool:
    if words[:2] == ("create", "materialized"):
        return True
    is_table = words[0] == "create" and "table" in words
    return is_table and {"as", "select"} <= find_names(sql)


def _failed(migration: UserMigration, reason: str) -> WorldError:
    return WorldError(
        f"{migration.path} can't be applied to the world: {reason}",
        remedy="replay on the code that made the record, which needs no database",
    )
