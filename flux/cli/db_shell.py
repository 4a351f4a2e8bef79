"""``flux db shell``: a prompt on the project's database: psql, or a small one where there is none."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from flux.cli.database import database_options, with_database
from flux.cli.failures import tell as tell_failure
from flux.cli.screen import Screen
from flux.errors import FluxError

if TYPE_CHECKING:
    from flux.store.postgres import Connection, ConnectOptions
    from flux.supervisor.project_database import ProjectDatabase


@click.command()
@click.option("--plain", is_flag=True, help="The small prompt of Flux's own, also where psql is.")
@database_options
def command(plain: bool, database_url: str, pg_user: str | None) -> int:
    """A prompt on the project's database, with all rights of Flux's own role: psql where it is, else a small one.

    What is written there is on record as a write from outside.
    """
    return with_database(
        database_url, pg_user, lambda database, connection: _shell(database, connection, plain=plain)
    )


async def _shell(database: "ProjectDatabase", connection: "Connection", *, plain: bool) -> int:
    from flux.store.postgres import quote_identifier
    from flux.tenant import Tenant

    schema = Tenant().schema
    psql = None if plain else _find_psql()
    if psql is None:
        await connection.execute(f"set search_path = {quote_identifier(schema)}")
        return await _prompt(connection)
    # ctrl-c is psql's own: it ends a statement there. An ignored signal stays ignored only in who does not ask for it.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        # A prompt has all of this process: there is nothing else to wait for.
        return subprocess.call([psql], env=libpq_environment(database.options, schema))  # noqa: ASYNC221
    finally:
        signal.signal(signal.SIGINT, before)


def libpq_environment(options: "ConnectOptions", schema: str) -> dict[str, str]:
    """What psql reads: a password in the environment is its own, one among its arguments would be everybody's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG") or name == "PGTZ"}
    said: Mapping[str, str | None] = {
        "PGHOST": options.host, "PGPORT": str(options.port), "PGUSER": options.user, "PGPASSWORD": options.password,
        "PGDATABASE": options.database, "PGSSLMODE": None if options.is_unix_socket else str(options.tls),
        "PGSSLROOTCERT": options.ca_file, "PGAPPNAME": "flux db shell", "PGOPTIONS": f"-c search_path={schema}",
    }  # fmt: skip
    return {**kept, **{name: value for name, value in said.items() if value is not None}}


def _find_psql() -> str | None:
    from flux.store.embedded import find_binaries
    from flux.store.embedded_binaries import PostgresMissingError

    if found := shutil.which("psql"):
        return found
    try:
        return str(find_binaries().psql)
    except PostgresMissingError:
        return None


async def _prompt(connection: "Connection") -> int:
    """Read statements, each up to its semicolon, and show what they answer; ctrl-d or ``\\q`` ends it."""
    import trio

    from flux.cli.db_query import show_result
    from flux.sql_script import split_script

    waiting, failed = "", False
    while True:
        line = await trio.to_thread.run_sync(_read_line, "     > " if waiting else "flux > ")
        if line is None or (not waiting and line.strip() in (r"\q", "exit", "quit")):
            return 1 if failed and not sys.stdin.isatty() else 0
        waiting += line
        statements = split_script(waiting)
        last = statements[-1] if statements else None
        if last is not None and waiting[last.offset + len(last.sql) :].lstrip()[:1] != ";":
            continue  # Its end is yet to come.
        waiting = ""
        for statement in statements:
            try:
                show_result(await connection.run(statement.sql))
            except FluxError as error:
                failed = True
                tell_failure(error, [])
                if connection.is_closed:
                    raise


def _read_line(prompt: str) -> str | None:
    if sys.stdin.isatty():
        Screen.stderr().stream.write(prompt)
        sys.stderr.flush()
    return sys.stdin.readline() or None
