"""``flux db migrate``: apply the project's migrations, and nothing that takes data away unless told to."""

from typing import TYPE_CHECKING, Any

import click

from flux.cli.database import database_options, tell, with_database
from flux.cli.screen import Piece, Screen, json_text
from flux.cli.settings import settings

if TYPE_CHECKING:
    from flux.store.postgres import Connection
    from flux.supervisor.database_migrate import MigrationPlan
    from flux.supervisor.project_database import ProjectDatabase


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option(
    "--allow-destructive", is_flag=True, help="Also steps that take tables, columns, rows or digits away."
)
@click.option("--allow-drift", is_flag=True, help="Although files are missing, or come too early.")
@database_options
def command(
    dry_run: bool, allow_destructive: bool, allow_drift: bool, database_url: str, pg_user: str | None
) -> int:
    """Apply migrations/*.sql that this database has not had, in order, each in one transaction.

    Before anything is done, folder and database are compared: a file that was changed after it was applied, one that
    is missing and one that comes too early are drift. Steps that take something away are named with their line.
    """
    return with_database(
        database_url,
        pg_user,
        lambda database, connection: _migrate(
            database,
            connection,
            dry_run=dry_run,
            allow_destructive=allow_destructive,
            allow_drift=allow_drift,
        ),
    )


async def _migrate(
    database: "ProjectDatabase",
    connection: "Connection",
    *,
    dry_run: bool,
    allow_destructive: bool,
    allow_drift: bool,
) -> int:
    from flux.project import list_migrations
    from flux.supervisor.database_migrate import carry_out, check_plan, plan_migrations, show_plan
    from flux.tenant import Tenant

    tenant = Tenant()
    plan = await plan_migrations(connection, tenant, list_migrations(database.project))
    document: dict[str, Any] = {
        "schema": "flux.db-migrate/1",
        **show_plan(plan),
        "dry_run": dry_run,
        "done": [],
    }
    if dry_run:
        if settings().json:
            Screen.stdout().write_raw_json(json_text(document))
        else:
            _show(plan)
        return 1 if plan.drift or plan.losses else 0
    check_plan(plan, allow_drift=allow_drift, allow_destructive=allow_destructive)
    for loss in plan.losses:
        tell(f"! {loss}")
    screen = Screen.stdout()
    done = await carry_out(
        connection,
        tenant,
        plan,
        lambda path: None if settings().json else screen.line(Piece("✓", "green"), f" {path}"),
    )
    document["done"] = list(done)
    if settings().json:
        screen.write_raw_json(json_text(document))
    elif not done:
        screen.line(f"nothing to apply: {plan.applied} of {plan.applied} are applied")
    return 0


def _show(plan: "MigrationPlan") -> None:
    screen = Screen.stdout()
    for drift in plan.drift:
        screen.line(Piece("✗", "red bold"), f" {drift.detail}")
    for migration in plan.pending:
        screen.line(f"would apply {migration.path}")
        for loss in plan.losses:
            if loss.path == migration.path:
                screen.line("  ", Piece("!", "yellow"), f" {loss}")
    if not plan.pending:
        screen.line(f"nothing to apply: {plan.applied} of {plan.applied} are applied")
