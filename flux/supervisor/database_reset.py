"""``flux db reset``: the project's tables removed and made anew by its migrations.

What people made goes; what Flux knows stays, unless it is said that the records go too: history is what explains
why somebody wanted to begin again. Objects are dropped one by one and the schema itself stays, with
the rights on it. What belongs to an extension stays with its extension.

It is for dev's own database. Any other is refused unless it is said outright.
"""

from collections.abc import Callable

import attrs

from flux.errors import OperatorError
from flux.project import list_migrations
from flux.store.migrate import apply_user_migrations
from flux.store.postgres import Connection, DatabaseError, quote_identifier
from flux.store.queries import QUERIES
from flux.supervisor.database_migrate import install, is_installed
from flux.supervisor.project_database import ProjectDatabase
from flux.tenant import Tenant

LOCK_TIMEOUT = "15s"
"""How long a reset waits for executions that use a table. Those that come later wait for it."""


class NotDevsDatabaseError(OperatorError):
    """The database is not dev's own, and what was asked for takes data away."""

    code = "FLX593"


class RecordsInUseError(OperatorError):
    """Records can't be removed while a server writes them, or tables while executions hold them."""

    code = "FLX598"


@attrs.frozen
class Doomed:
    """What a reset would remove."""

    tables: tuple[str, ...]
    """Tables of the project's schema."""
    schemas: tuple[str, ...]
    """Other schemas that people made; removed in dev's own database only."""
    executions: int
    """Records of executions that there are."""


def check_is_devs_own(database: ProjectDatabase, *, allow_external: bool, command: str) -> None:
    """Raise unless the database is dev's own, or it was said that it may be another."""
    if not database.is_embedded and not allow_external:
        raise NotDevsDatabaseError(
            f"{command} is for dev's own database, and this one is {database.options.place}",
            remedy=f"if that is meant: {command} --allow-external",
        )


async def find_doomed(connection: Connection, database: ProjectDatabase, tenant: Tenant) -> Doomed:
    """Say what `reset` would remove."""
    rows = await connection.fetch(QUERIES.list_schema_columns, tenant.schema)
    schemas = (
        await connection.fetch(QUERIES.list_other_schemas, tenant.schema) if database.is_embedded else []
    )
    executions = (
        await connection.fetch_value(QUERIES.count_executions) if await is_installed(connection) else 0
    )
    return Doomed(
        tuple(dict.fromkeys(row["table_name"] for row in rows)),
        tuple(row["name"] for row in schemas),
        int(executions),
    )


async def reset(
    connection: Connection,
    database: ProjectDatabase,
    tenant: Tenant,
    doomed: Doomed,
    tell: Callable[[str], None],
    *,
    records: bool,
) -> tuple[str, ...]:
    """Remove what people made, and with ``records`` what Flux knows; apply the migrations and return their paths."""
    if records and await _count_servers(connection, tenant):
        raise RecordsInUseError(
            "a server uses this database, and its records can't be removed under it",
            remedy="stop the server first; or reset without --records",
        )
    files = list_migrations(database.project)  # First: a folder that can't be read removes nothing.
    await install(connection, tenant)
    try:
        async with connection.transaction():
            await connection.execute(f"set local lock_timeout = '{LOCK_TIMEOUT}'")
            await connection.fetch_value(QUERIES.lock_migrations)
            for schema in doomed.schemas:
                await connection.execute(f"drop schema {quote_identifier(schema)} cascade")
            for row in await connection.fetch(QUERIES.list_schema_drops, tenant.schema):
                await connection.execute(row["statement"])  # What depended on others may be gone with them.
            await connection.execute(QUERIES.forget_migrations_applied, tenant.name)
            if records:
                await connection.execute("drop schema flux, flux_views, flux_world cascade")
    except DatabaseError as error:
        if error.sqlstate == "55P03":
            raise RecordsInUseError(
                f"executions hold a table for longer than {LOCK_TIMEOUT}; nothing was removed",
                remedy="stop what runs, or try again",
            ) from error
        raise
    if records:
        await install(connection, tenant)
    done = []
    for migration in files:
        for path in await apply_user_migrations(connection, tenant.name, [migration]):
            tell(path)
            done.append(path)
    return tuple(done)


async def _count_servers(connection: Connection, tenant: Tenant) -> int:
    return int(await connection.fetch_value(QUERIES.count_sessions_of, tenant.role))
