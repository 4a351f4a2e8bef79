"""``flux db query``: run one statement with the rights that functions have."""

import sys
from typing import TYPE_CHECKING

import click

from flux.cli.database import database_options, tell, with_database
from flux.cli.screen import Screen, json_text
from flux.cli.settings import settings
from flux.cli.table import table_lines

if TYPE_CHECKING:
    from flux.store.postgres import Connection, Result


@click.command()
@click.argument("sql", metavar="SQL")
@click.option("--write", is_flag=True, help="Let it write, and commit; on record as a write from outside.")
@database_options
def command(sql: str, write: bool, database_url: str, pg_user: str | None) -> None:
    """Run one SQL statement under the role of the functions, READ ONLY unless --write.

    SQL is the statement, or - to read it from stdin.
    """
    if sql == "-":
        sql = sys.stdin.read()
    if not sql.strip():
        raise click.UsageError("the statement is empty")
    with_database(database_url, pg_user, lambda _database, connection: _query(connection, sql, write=write))


async def _query(connection: "Connection", sql: str, *, write: bool) -> None:
    from flux.supervisor.database_query import run_query
    from flux.tenant import Tenant

    show_result(await run_query(connection, Tenant(), sql, write=write))


def show_result(result: "Result") -> None:
    """Print a statement's answer."""
    from flux.supervisor.statements import outward
    from flux.values import to_json

    rows = [[to_json(outward(value)) for value in row] for row in result.rows]
    screen = Screen.stdout()
    if settings().json:
        columns = [{"name": column.name, "type": column.type_name} for column in result.columns]
        screen.write_raw_json(
            json_text({"schema": "flux.db-query/1", "columns": columns, "rows": rows, "tag": result.tag})
        )
        return
    screen.page(table_lines([column.name for column in result.columns], rows))
    if result.columns:
        tell(f"{len(rows)} row{'s' * (len(rows) != 1)}")
    else:
        screen.line(result.tag)
