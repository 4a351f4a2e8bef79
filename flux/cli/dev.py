"""``flux dev``: serve this project on this machine, with its own database.

It prints its story on stderr (`flux.cli.serving`): what started and how long it took, what is served, each reload.
"""

import os
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flux.cli.database import URL_VARIABLE, url_option
from flux.cli.serving import log_options, run_server

if TYPE_CHECKING:
    import trio

    from flux.supervisor.story import Story


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), help="TCP port (default: flux.toml, else 4000; 0: a free one).")
@url_option("Use this Postgres instead of an embedded one.")
@click.option("--clean", is_flag=True, help="Begin with an empty embedded database: all data and records are removed.")
@log_options
@click.option("--pg-user", metavar="NAME", help="As root: who the embedded Postgres runs as.")
def command(
    port: int | None, database_url: str, clean: bool, pg_user: str | None, log_format: str, log_requests: bool
) -> int:
    """Serve this project on this machine, with its own database."""
    os.environ.pop(URL_VARIABLE, None)  # No program that a server starts is to have it.
    if clean and database_url:
        raise click.UsageError(
            f"--clean removes the embedded database; it does not touch the one of --database-url or {URL_VARIABLE}"
        )
    prepare = partial(
        _prepare, port=port, database_url=database_url, clean=clean, pg_user=pg_user, logs_requests=log_requests
    )
    return run_server(prepare, "flux.dev/1", log_format)


def _prepare(**said: Any) -> "Callable[[Story, trio.Event], Awaitable[None]]":
    from flux.project import find_project, read_project

    root = find_project(Path())
    read_project(root)  # What is wrong with flux.toml is told before the server is imported, which takes longest.

    from flux.supervisor.dev_server import serve_dev
    from flux.supervisor.server_options import ServerOptions

    return partial(serve_dev, ServerOptions(root, tells_why=True, **said))
