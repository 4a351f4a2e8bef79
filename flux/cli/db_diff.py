"""``flux db diff``: the live schema beside what the project says it should be."""

from typing import TYPE_CHECKING

import click

from flux.cli.database import database_options, with_database
from flux.cli.screen import Piece, Screen, json_text
from flux.cli.settings import settings
from flux.errors import FluxError

if TYPE_CHECKING:
    from flux.store.postgres import Connection
    from flux.supervisor.database_diff import Comparison
    from flux.supervisor.project_database import ProjectDatabase

_MARKS = {"missing": ("−", "red"), "extra": ("+", "yellow"), "changed": ("≠", "yellow")}


@click.command()
@database_options
def command(database_url: str, pg_user: str | None) -> int:
    """Compare the live schema with schema.sql, where there is one, else with what the applied migrations make.

    These are run in an empty database beside the live one, which is dropped again. Exit code 1 when something differs.
    """
    return with_database(database_url, pg_user, _diff)


async def _diff(database: "ProjectDatabase", connection: "Connection") -> int:
    from flux.supervisor.database_diff import compare_schema
    from flux.supervisor.database_migrate import show_plan
    from flux.tenant import Tenant

    comparison = await compare_schema(connection, database, Tenant())
    plan = show_plan(comparison.migrations)
    screen = Screen.stdout()
    if settings().json:
        document = {
            "schema": "flux.db-diff/1", "against": comparison.against,
            "pending": plan["pending"], "drift": plan["drift"],
            "differences": [
                {"kind": each.kind, "name": each.name, "change": each.change, "live": each.live, "wanted": each.wanted}
                for each in comparison.differences
            ],
        }  # fmt: skip
        screen.write_raw_json(json_text(document))
    else:
        _show(screen, comparison)
    return 1 if comparison.differences or comparison.migrations.drift else 0


def _show(screen: Screen, comparison: "Comparison") -> None:
    for drift in comparison.migrations.drift:
        screen.line(Piece("✗", "red bold"), f" {drift.detail}")
    for each in comparison.differences:
        mark, style = _MARKS[each.change]
        screen.line(Piece(mark, style), f" {each.kind} {each.name}", Piece(f"  {each.change}", "dim"))
        if each.change == "changed" and "\n" not in f"{each.live}{each.wanted}".strip():
            screen.line(Piece("    live    ", "dim"), (each.live or "").strip())
            screen.line(Piece("    wanted  ", "dim"), (each.wanted or "").strip())
    if not comparison.differences:
        screen.line(f"the live schema is what {_source(comparison)}")
    for migration in comparison.migrations.pending:
        screen.line(f"pending {migration.path}: flux db migrate")
    if comparison.differences and not settings().quiet:
        try:
            steps = comparison.plan()
        except FluxError as error:
            screen.line(Piece("flux db push can't mend it: ", "dim"), error.message.split("\n")[0])
            return
        screen.line(Piece("flux db push would run", "dim"))
        for step in steps:
            for line in step.sql.split("\n"):
                screen.line(f"    {line}")
            if step.loss is not None:
                screen.line("    ", Piece("!", "yellow"), f" {step.loss}")


def _source(comparison: "Comparison") -> str:
    if comparison.against == "migrations":
        return "the applied migrations make"
    return f"{comparison.against} says"
