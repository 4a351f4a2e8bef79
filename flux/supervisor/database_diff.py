"""``flux db diff`` and ``flux db push``: the live schema beside what the project says it should be.

What it should be stands in ``schema.sql`` beside ``flux.toml``, where there is one, else in the migrations that were
applied. Both are texts that say how to make a schema, so they are run, in an empty database beside the live one, and
the two catalogs are compared. `push` brings the live one to it, in one transaction, and looks again before the commit:
what is not as it was to be by then is refused, and nothing stays.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path

import attrs

from flux.project import Migration, Project, UnreadableProjectError, list_migrations
from flux.schema_diff import CannotPushError, Difference, Schema, Step, compare, plan
from flux.sql_script import tokens
from flux.store.migrate import run_migration
from flux.store.postgres import Connection, quote_identifier
from flux.store.queries import QUERIES
from flux.store.schema_objects import read_schema, run_steps
from flux.store.scratch import open_scratch
from flux.supervisor.database_migrate import (
    DestructiveStepError,
    MigrationPlan,
    list_applied,
    plan_migrations,
)
from flux.supervisor.database_query import check_prepared
from flux.supervisor.project_database import ProjectDatabase
from flux.tenant import Tenant

SCHEMA_FILE = "schema.sql"


@attrs.frozen
class Comparison:
    """The live schema beside the one that the project says."""

    against: str
    """``schema.sql`` or ``migrations``."""
    live: Schema
    wanted: Schema
    migrations: MigrationPlan
    """How the migrations stand."""

    @property
    def differences(self) -> tuple[Difference, ...]:
        """What is not as it should be."""
        return compare(self.live, self.wanted)

    def plan(self) -> tuple[Step, ...]:
        """Return what would mend it; raise `flux.schema_diff.CannotPushError`."""
        return plan(self.live, self.wanted)


async def compare_schema(connection: Connection, database: ProjectDatabase, tenant: Tenant) -> Comparison:
    """Compare. Nothing of the live database is changed."""
    await check_prepared(connection)
    files = list_migrations(database.project)
    script = _read_schema_file(database.project)
    if script is None:
        applied = await list_applied(connection, tenant)
        scripts = [file for file in files if file.path in applied]
    else:
        scripts = [script]
    live = await read_schema(connection, tenant.schema)
    async with open_scratch(connection, database.options, tenant.schema) as scratch:
        await _make_extensions(connection, scratch, scripts)
        for each in scripts:
            async with scratch.transaction():
                await run_migration(scratch, each)
            # What it has set for its session would decide what the next one means.
            await scratch.reset()
            await scratch.execute(f"set search_path = {quote_identifier(tenant.schema)}")
        wanted = await read_schema(scratch, tenant.schema)
    against = "migrations" if script is None else SCHEMA_FILE
    return Comparison(against, live, wanted, await plan_migrations(connection, tenant, files))


async def push(
    connection: Connection, tenant: Tenant, comparison: Comparison, *, allow_destructive: bool
) -> tuple[Step, ...]:
    """Bring the live schema to what is wanted and return what was done; or raise, and nothing stays."""
    steps = comparison.plan()
    if not allow_destructive and (losses := [step.loss for step in steps if step.loss is not None]):
        raise DestructiveStepError(
            "\n".join(losses) + "\nnothing was changed", remedy="if that is meant: flux db push --allow-destructive"
        )
    if not steps:
        return ()
    async with connection.transaction():
        await connection.fetch_value(QUERIES.lock_migrations)
        await run_steps(connection, steps)
        if left := compare(await read_schema(connection, tenant.schema), comparison.wanted):
            raise CannotPushError(
                "\n".join(f"{each.kind} {each.name} would still be {each.change}" for each in left)
                + "\nnothing was changed",
                remedy="write a migration that says how: flux db migrate; in development, flux db reset makes all anew",
            )
    await connection.fetch_value(QUERIES.track_all)
    return steps


def _read_schema_file(project: Project) -> Migration | None:
    path = project.root / SCHEMA_FILE
    try:
        return Migration(number=0, path=SCHEMA_FILE, sql=Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        remedy = f"look at it: ls -l {shlex.quote(str(path))}"
        raise UnreadableProjectError(f"{path} can't be read: {error}", remedy=remedy) from error


async def _make_extensions(live: Connection, scratch: Connection, scripts: Sequence[Migration]) -> None:
    """Make the extensions that somebody made by hand in the live database, where scripts take them for granted."""
    named = {
        script.sql[begin:end].strip('"').lower() for script in scripts for _, begin, end in tokens(script.sql)
    }
    for row in await live.fetch(QUERIES.list_ephemeral_extensions):
        if row["name"].lower() not in named:
            schema = quote_identifier(row["schema_name"])
            await scratch.execute(
                f"create schema if not exists {schema}; "
                f"create extension {quote_identifier(row['name'])} schema {schema} cascade"
            )
