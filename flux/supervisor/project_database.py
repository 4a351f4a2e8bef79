"""The database of a project, for commands that work on it and serve nothing.

`open_project_database` finds the same one that ``flux dev`` would use: what the command line names, else
what ``flux.toml`` names, else the embedded server under ``.flux/pg``. An embedded one that runs, as a child of
a server, is used as it is; one that does not is started, and stopped again at the end.

The one thing that must not happen is that a command works on another database than the server that people see. So
where a server of this folder runs on a database that only its own command line names, a command that does not name it
is refused.
"""

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import attrs

from flux.errors import OperatorError
from flux.project import Project, read_project
from flux.store.embedded import SUPERUSER, PostgresInUseError, open_embedded_postgres
from flux.store.embedded_folder import is_alive
from flux.store.embedded_running import find_running_postgres
from flux.store.postgres import ConnectOptions, parse_url
from flux.supervisor.flux_folder import SERVER_FILE, prepare_flux_folder


class OtherDatabaseError(OperatorError):
    """The server of this folder uses another database than the command would."""

    code = "FLX594"


@attrs.frozen
class ProjectDatabase:
    """A project's database, ready to be connected to."""

    project: Project
    options: ConnectOptions
    """Of Flux's own role."""
    is_embedded: bool
    """It is dev's own: under the project's ``.flux/``."""
    detail: str
    """Which one it is, and whether it was started for this command."""


@contextlib.asynccontextmanager
async def open_project_database(
    root: Path, url: str = "", *, pg_user: str | None = None
) -> AsyncIterator[ProjectDatabase]:
    """Give the database of the project in ``root``, or the one that ``url`` names; raise why it can't be used."""
    project = read_project(root)
    flux_folder = prepare_flux_folder(root)
    served_place = _find_served_place(flux_folder)
    named = url or project.config.database.url
    if named:
        options = parse_url(named)
        _check_same(served_place, options.place)
        yield ProjectDatabase(project, options, is_embedded=False, detail=f"at {options.place}")
        return
    _check_same(served_place, EMBEDDED_PLACE)
    folder = flux_folder / "pg"
    if served_place and (running := find_running_postgres(folder, user=SUPERUSER, database=DATABASE)):
        yield ProjectDatabase(project, running, is_embedded=True, detail="embedded, the running server's")
        return
    try:
        async with open_embedded_postgres(folder, database=DATABASE, user=pg_user) as server:
            address, first = server.address, "made and " if server.first_run else ""
            yield ProjectDatabase(
                project, ConnectOptions(
                    host=address.host, port=address.port, user=address.user, password=address.password,
                    database=address.database,
                ), is_embedded=True, detail=f"embedded, {first}started for this command",
            )  # fmt: skip
    except PostgresInUseError as error:
        raise PostgresInUseError(
            f"{error.message}: another command, or a server that is starting or ending",
            remedy="try again once that one has ended",
        ) from error


DATABASE = "flux"
"""Name of the embedded server's database."""
EMBEDDED_PLACE = "embedded"
"""What ``.flux/dev.json`` says of the embedded database."""


def find_place(url: str) -> str:
    """Say which database a server uses that ``url`` names, as it writes it down; without one it is the embedded one."""
    return parse_url(url).place if url else EMBEDDED_PLACE


def _find_served_place(flux_folder: Path) -> str | None:
    """Where the database of the server that runs in this folder is, as it wrote it down; None when none runs."""
    try:
        document = json.loads((flux_folder / SERVER_FILE).read_bytes())
        pid, place = int(document["pid"]), str(document.get("database", ""))
    except (OSError, ValueError, LookupError, TypeError):
        return None  # None is ready. One that is starting holds the embedded server, which is told by that.
    return place if is_alive(pid) else None


def _check_same(served: str | None, wanted: str) -> None:
    if served and served != wanted:
        where = "its embedded database" if served == EMBEDDED_PLACE else f"another database: {served}"
        raise OtherDatabaseError(
            f"the server of this folder uses {where}",
            remedy="name the same one with --database-url, or stop the server to work on another"
            if served != EMBEDDED_PLACE
            else "leave --database-url out, or stop the server to work on another",
        )
