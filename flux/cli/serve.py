"""``flux serve``: serve what was deployed, without watching files.

It prints its story on stderr (`flux.cli.serving`), and goes on with the deployment that was served last.
"""

import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flux.cli.database import URL_VARIABLE, url_option
from flux.cli.failures import UsageError
from flux.cli.serving import log_options, run_server
from flux.cli.settings import settings

if TYPE_CHECKING:
    import trio

    from flux.supervisor.story import Story


@click.command()
@click.option("--bind", metavar="HOST:PORT", help="Where to listen (default: 127.0.0.1, and the port of flux.toml).")
@click.option("--deploy", "deploys", is_flag=True, help="Begin with the project's folder, whatever was served last.")
@click.option("--workers", metavar="N", type=click.IntRange(1, 64), default=1,
              help="Serve with so many processes on one port; one a core is usual.")  # fmt: skip
@click.option("--tls-cert", metavar="FILE", default="", help="Speak TLS, with this certificate.")
@click.option("--tls-key", metavar="FILE", default="", help="The certificate's key.")
@log_options
@url_option("Use this Postgres instead of an embedded one.")
@click.option("--pg-user", metavar="NAME", help="As root: who the embedded Postgres runs as.")
def command(
    bind: str | None, deploys: bool, workers: int, tls_cert: str, tls_key: str, database_url: str, pg_user: str | None,
    log_format: str, log_requests: bool,
) -> int:  # fmt: skip
    """Serve what was deployed last, or the project's folder if nothing was, until SIGTERM or SIGINT."""
    os.environ.pop(URL_VARIABLE, None)  # No program that a server starts is to have it.
    if bool(tls_cert) != bool(tls_key):
        raise UsageError("flux serve: --tls-cert and --tls-key belong together", remedy="name both files, or neither")
    prepare = partial(
        _prepare, bind, workers=workers, deploys=deploys, log_format=log_format,
        options={
            "database_url": database_url, "pg_user": pg_user, "tls_certificate": tls_cert, "tls_key": tls_key,
            "logs_requests": log_requests,
        },
    )  # fmt: skip
    return run_server(prepare, "flux.serve/1", log_format)


def _prepare(
    bind: str | None, *, workers: int, deploys: bool, log_format: str, options: Mapping[str, Any]
) -> "Callable[[Story, trio.Event], Awaitable[None]]":
    from flux.project import find_project, read_project
    from flux.supervisor.server_address import read_bind
    from flux.supervisor.server_options import LOOPBACK, ServerOptions

    host, port = (LOOPBACK, None) if bind is None else read_bind(bind)
    root = find_project(Path())
    read_project(root)  # What is wrong with flux.toml is told before the server is imported, which takes longest.

    from flux.supervisor.crew import serve_crew
    from flux.supervisor.serve_server import serve_deployed

    said_of_server = ServerOptions(root, host=host, port=port, **options)
    if workers == 1:
        return partial(serve_deployed, said_of_server, deploys=deploys)
    said = settings()
    return partial(
        serve_crew, said_of_server, workers=workers, deploys=deploys,
        # -P: the folder that we were started in is nobody's to put modules into.
        command=[sys.executable, "-P", "-m", "flux.cli.serve_worker"],
        screen={"log_format": log_format, "no_color": said.no_color, "quiet": said.quiet},
    )  # fmt: skip
