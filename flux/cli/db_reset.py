"""``flux db reset``: remove the project's tables and make them anew by its migrations."""

import sys
from typing import TYPE_CHECKING

import click

from flux.cli.database import database_options, with_database
from flux.cli.failures import UsageError
from flux.cli.screen import Piece, Screen, json_text
from flux.cli.settings import settings

if TYPE_CHECKING:
    from flux.store.postgres import Connection
    from flux.supervisor.database_reset import Doomed
    from flux.supervisor.project_database import ProjectDatabase

NAMED_MAX = 12
"""So many tables are named in the question."""


@click.command()
@click.option("--records", is_flag=True, help="Also what Flux has recorded: executions, histories of rows.")
@click.option("--allow-external", is_flag=True, help="Although the database is not dev's own.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@database_options
def command(records: bool, allow_external: bool, yes: bool, database_url: str, pg_user: str | None) -> int:
    """Remove all tables, views, functions and types of the project's schema, and apply the migrations again.

    What Flux has recorded stays, unless --records is said. In dev's own database other schemas that people made go too.
    """
    return with_database(
        database_url,
        pg_user,
        lambda database, connection: _reset(
            database, connection, records=records, allow_external=allow_external, yes=yes
        ),
    )


async def _reset(
    database: "ProjectDatabase", connection: "Connection", *, records: bool, allow_external: bool, yes: bool
) -> int:
    from flux.supervisor.database_reset import check_is_devs_own, find_doomed, reset
    from flux.tenant import Tenant

    check_is_devs_own(database, allow_external=allow_external, command="flux db reset")
    tenant = Tenant()
    doomed = await find_doomed(connection, database, tenant)
    if not yes and not _agrees(database, doomed, records=records):
        return 1
    screen = Screen.stdout()
    is_json = settings().json
    done = await reset(
        connection, database, tenant, doomed,
        lambda path: None if is_json else screen.line(Piece("✓", "green"), f" {path}"), records=records,
    )  # fmt: skip
    if is_json:
        document = {
            "schema": "flux.db-reset/1", "removed": {"tables": list(doomed.tables), "schemas": list(doomed.schemas)},
            "records_removed": doomed.executions if records else 0, "done": list(done),
        }  # fmt: skip
        screen.write_raw_json(json_text(document))
    else:
        kept = "removed" if records else "kept"
        screen.line(
            f"{len(doomed.tables)} tables removed, {len(done)} migrations applied, {doomed.executions} records {kept}"
        )
    return 0


def _agrees(database: "ProjectDatabase", doomed: "Doomed", *, records: bool) -> bool:
    if not sys.stdin.isatty():
        raise UsageError("flux db reset asks before it removes anything, and there is no terminal to ask on",
                         remedy="say that it may: flux db reset --yes")  # fmt: skip
    screen = Screen.stderr(colour=False if settings().no_color else None)
    named = ", ".join(doomed.tables[:NAMED_MAX]) or "no table"
    more = f" and {len(doomed.tables) - NAMED_MAX} more" if len(doomed.tables) > NAMED_MAX else ""
    screen.line(f"this removes from the database ({database.detail}):")
    screen.line(f"  tables   {named}{more}, with all rows, and views, functions and types beside them")
    if doomed.schemas:
        screen.line(f"  schemas  {', '.join(doomed.schemas)}")
    screen.line(f"  records  {doomed.executions} executions: " + ("removed" if records else "they stay"))
    return click.confirm("go on?", default=False, err=True)
