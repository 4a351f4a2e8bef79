"""The project's ``.flux/``: making it, holding it, and saying in it where the server is.

One server at a time serves a project from its folder. Two would share a journal's
folder and take each other's ``dev.json`` away, so the folder is held with a lock
(flock: it goes with its process, however that ends), and whoever comes second is told
who was first and where it listens.

A tenant's folder is written by others than the server, which has more rights there than they. What they put into
``.flux/`` before it could lead the server's writing elsewhere: so there it takes nothing that is not its own.
"""

import contextlib
import fcntl
import json
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from flux.errors import OperatorError

SERVER_FILE = "dev.json"
"""Where the server is, for the command line."""
LOCK_FILE = "lock"


class UnwritableFluxFolderError(OperatorError):
    """``.flux/`` can't be written."""

    code = "FLX522"


class ProjectInUseError(OperatorError):
    """Another server serves this project from this folder."""

    code = "FLX523"


class PlantedError(OperatorError):
    """A tenant's ``.flux/`` holds what the server has not made."""

    code = "FLX819"


def prepare_flux_folder(root: Path, *, for_tenant: bool = False) -> Path:
    """Return the project's ``.flux/``, made if it is not there and closed to others.

    Raises `PlantedError` where it is a tenant's and not the server's alone.
    """
    folder = root / ".flux"
    try:
        folder.mkdir(mode=0o755, exist_ok=True)  # Postgres may run as somebody else and has to pass through.
        if for_tenant:
            _check_own(folder)
        _write_gitignore(folder)
        for name in ("journal", "spool"):
            (folder / name).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error
    return folder


def _write_gitignore(folder: Path) -> None:
    """Keep the folder out of git. What is there already is left: with a link, it could be a file of anybody's."""
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(folder / ".gitignore", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with open(descriptor, "w") as file:
            file.write("*\n")


def _check_own(folder: Path) -> None:
    """Refuse a folder that others can write, and links in it down to what it names itself.

    Below that are copies of code and packages, which are hashed before they are used.
    """
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise _planted(folder, "is no folder")
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise _planted(folder, "can be written by others than the server")
    for pattern in ("*", "*/*"):  # One after the other, so that no link is looked through.
        for path in sorted(folder.glob(pattern)):
            mode = path.lstat().st_mode
            if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)):
                raise _planted(path, "is a link, or no file")


def _planted(path: Path, what: str) -> PlantedError:
    return PlantedError(
        f"{path} {what}, and the server writes there with its own rights",
        remedy=f"look at what it is, and move it away: ls -la {path}; the server makes a new one",
    )


@contextlib.contextmanager
def held_folder(folder: Path) -> Iterator[None]:
    """Be the only server of this project for as long as the block lasts; raise `ProjectInUseError`."""
    try:
        descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unwritable(folder, error) from error
    with open(descriptor, "r+b", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _in_use(folder, file.read(20).decode("ascii", "replace").strip()) from None
        file.truncate(0)
        file.write(b"%d\n" % os.getpid())
        yield


def _in_use(folder: Path, pid: str) -> ProjectInUseError:
    """Name the one that has it: by the lock, and by what it wrote down when it was ready."""
    holder = f"process {pid}" if pid.isdigit() else "another process"
    try:
        document = json.loads((folder / SERVER_FILE).read_bytes())
        where = f" at {document['url']}" if str(document["pid"]) == pid else ""
    except (OSError, ValueError, LookupError, TypeError):
        where = ""  # It is not ready yet, or about to end.
    return ProjectInUseError(
        f"{folder.parent} is served already{where} ({holder})",
        remedy="use that one, or stop it first with ctrl-c in its terminal"
        + (f" or kill {pid}" if pid.isdigit() else ""),
    )


@contextlib.contextmanager
def server_file(folder: Path, url: str, token: str, database: str, certificate: str = "") -> Iterator[None]:
    """Tell the command line where the server is, and which database it uses, for as long as the block lasts.

    ``database`` is for people and for comparing: it holds no password. ``certificate`` is the file of the one that the
    server shows: it names the server to the world, and not by its address on this machine.
    """
    path = folder / SERVER_FILE
    document = {"url": url, "token": token, "pid": os.getpid(), "started": time.time(), "database": database}
    if certificate:
        document["certificate"] = str(Path(certificate).resolve())
    # Made anew, so that nobody holds an older, wider descriptor of it; 0600 from its first moment; and under its
    # name only when it is whole, since others read it at any time.
    unfinished = folder / f"{SERVER_FILE}.new"
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w") as file:
        json.dump(document, file)
    unfinished.rename(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _unwritable(folder: Path, error: OSError) -> UnwritableFluxFolderError:
    return UnwritableFluxFolderError(
        f"{error.filename or folder} can't be written: {error.strerror}",
        remedy=f"free space there, or make the folder yours: ls -ld {folder}",
    )
