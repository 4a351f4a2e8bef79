"""``flux db push``: bring the live schema to what the project says, in development."""

from typing import TYPE_CHECKING

import click

from flux.cli.database import database_options, tell, with_database
from flux.cli.screen import Piece, Screen, json_text
from flux.cli.settings import settings

if TYPE_CHECKING:
    from flux.store.postgres import Connection
    from flux.supervisor.project_database import ProjectDatabase


@click.command()
@click.option("--allow-destructive", is_flag=True, help="Also steps that take tables, columns or digits away.")
@click.option("--allow-external", is_flag=True, help="Although the database is not dev's own.")
@database_options
def command(allow_destructive: bool, allow_external: bool, database_url: str, pg_user: str | None) -> int:
    """Bring the live schema to schema.sql, where there is one; else undo what was changed by hand, and migrate.

    All of it is one transaction, and compared again before it is committed. Pending migrations then follow, as by
    flux db migrate, where there is no schema.sql.
    """
    return with_database(
        database_url,
        pg_user,
        lambda database, connection: _push(
            database, connection, allow_destructive=allow_destructive, allow_external=allow_external
        ),
    )


async def _push(
    database: "ProjectDatabase", connection: "Connection", *, allow_destructive: bool, allow_external: bool
) -> int:
    from flux.supervisor.database_diff import SCHEMA_FILE, compare_schema, push
    from flux.supervisor.database_migrate import carry_out, check_plan, install
    from flux.supervisor.database_reset import check_is_devs_own
    from flux.tenant import Tenant

    check_is_devs_own(database, allow_external=allow_external, command="flux db push")
    tenant = Tenant()
    await install(connection, tenant)
    comparison = await compare_schema(connection, database, tenant)
    follows = comparison.against != SCHEMA_FILE
    if follows:
        check_plan(comparison.migrations, allow_drift=False, allow_destructive=allow_destructive)
    steps = await push(connection, tenant, comparison, allow_destructive=allow_destructive)
    done: tuple[str, ...] = ()
    if follows:
        done = await carry_out(connection, tenant, comparison.migrations, lambda path: tell(f"✓ {path}"))
    screen = Screen.stdout()
    if settings().json:
        statements = [{"sql": step.sql, "destructive": step.loss} for step in steps]
        document = {"schema": "flux.db-push/1", "against": comparison.against, "statements": statements}
        screen.write_raw_json(json_text({**document, "done": list(done)}))
        return 0
    for step in steps:
        for index, line in enumerate(step.sql.split("\n")):
            screen.line(Piece("✓" if index == 0 else " ", "green"), f" {line}")
    if not steps and not done:
        screen.line(f"nothing to do: the live schema is what {comparison.against} {'make' if follows else 'says'}")
    return 0
