"""``flux dev``: serve this project on this machine, with its own database.

It prints its story on stderr (`flux.cli.serving`): what started and how long it took, what is served, each reload.
"""

from functools import partial
from pathlib import Path

import click

from flux.cli.serving import run_server


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), help="TCP port (default: flux.toml, else 4000; 0: a free one).")
@click.option("--database-url", metavar="URL", default="", help="Use this Postgres instead of an embedded one.")
@click.option("--clean", is_flag=True, help="Begin with an empty embedded database: all data and records are removed.")
@click.option("--pg-user", metavar="NAME", help="As root: who the embedded Postgres runs as.")
def command(port: int | None, database_url: str, clean: bool, pg_user: str | None) -> int:
    """Serve this project on this machine, with its own database."""
    from flux.project import find_project, read_project

    if clean and database_url:
        raise click.UsageError("--clean removes the embedded database; it does not touch the one of --database-url")
    root = find_project(Path())
    read_project(root)  # What is wrong with flux.toml is told before the server is imported, which takes longest.

    from flux.supervisor.dev_server import serve_dev
    from flux.supervisor.server_options import ServerOptions

    options = ServerOptions(
        root,
        port=port,
        database_url=database_url,
        clean=clean,
        pg_user=pg_user,
        tells_why=True,
    )
    return run_server(partial(serve_dev, options), "flux.dev/1")
