"""What the ``flux db`` commands have in common: which database, and how they wait for it.

These commands are no clients of a server: they work on the project's database themselves, whether a server runs
or not (`flux.supervisor.project_database`). All of it is imported when one of them runs.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from flux.cli.screen import Screen
from flux.cli.settings import settings
from flux.errors import FluxError

if TYPE_CHECKING:
    from flux.store.postgres import Connection
    from flux.supervisor.project_database import ProjectDatabase

_T = TypeVar("_T")

URL_VARIABLE = "FLUXRT_DATABASE_URL"
"""Says what ``--database-url`` says, where no other user of the machine can read it: a command line is open to all."""


def url_option(help_text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the option that names another database than the project's, or the variable that does."""
    return click.option(
        "--database-url", metavar="URL", default="", envvar=URL_VARIABLE, help=f"{help_text} Or {URL_VARIABLE}."
    )


def database_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say which database."""
    pg_user = click.option("--pg-user", metavar="NAME", help="As root: who the embedded Postgres runs as.")
    return url_option("This Postgres instead of the project's (as of flux dev).")(pg_user(command))


def with_database(
    database_url: str,
    pg_user: str | None,
    work: "Callable[[ProjectDatabase, Connection], Awaitable[_T]]",
) -> _T:
    """Open the project's database, tell which one it is, and do ``work`` on a connection of Flux's own role."""
    import trio

    from flux.project import find_project
    from flux.store.postgres import connect
    from flux.supervisor.project_database import open_project_database

    async def main() -> _T:
        async with open_project_database(find_project(Path()), database_url, pg_user=pg_user) as database:
            tell(f"database {database.detail}")
            connection = await connect(database.options)
            try:
                return await work(database, connection)
            finally:
                await connection.aclose()

    try:
        return trio.run(main)
    except BaseExceptionGroup as group:
        raise _first(group) from group


def tell(text: str) -> None:
    """Say something on stderr that is no part of the answer."""
    said = settings()
    if not said.quiet and not said.json:
        Screen.stderr(colour=False if said.no_color else None).line(text)


def _first(error: BaseException) -> BaseException:
    """What a group of nurseries is about: an error of Flux's, else the first that is none of cancellation's."""
    while isinstance(error, BaseExceptionGroup):
        error = next((each for each in error.exceptions if isinstance(each, FluxError)), error.exceptions[0])
    return error
