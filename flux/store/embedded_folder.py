"""The directory of an embedded cluster: whose it is, what lies in it, who still uses it.

::

    marker        says that Flux made this directory, so that nothing else is ever removed
    lock          held with flock(2) by the supervisor that uses the cluster; holds its pid
    password      of the superuser, mode 0600
    data/         PostgreSQL's own
    postgres.log  what the server says; postgres.log.1 is the one before
    .s.PGSQL.5432 the socket, unless the path is too long for one

Nothing here waits. The kernel is asked through /proc who runs PostgreSQL in
this directory: a process whose program is ``postgres`` (or ``initdb``) and whose working
directory lies here. Unlike a process id in a file, that can be neither stale
nor taken over by somebody else.
"""

import fcntl
import hashlib
import os
import secrets
import shutil
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import attrs

from flux.errors import OperatorError
from flux.store.embedded_identity import Identity

PORT = 5432
"""Part of the socket's name; nothing listens on TCP."""

SOCKET_PATH_BYTES_MAX = 107
"""``sun_path`` of unix(7) has 108 bytes, one of them for the terminating NUL."""

LOG_BYTES_MAX = 8 * 1024 * 1024
"""A log larger than this is put aside at the next start."""

LOG_TAIL_LINES = 12

SUPERVISOR_SETTING = "flux.supervisor"
"""A setting of our own on the server's command line: which supervisor started it."""

_MARKER_TEXT = "Flux made this directory: an embedded PostgreSQL cluster. `flux dev --clean` empties it.\n"

_PROGRAMS = ("postgres", "initdb")


class PostgresInUseError(OperatorError):
    """Another supervisor, or somebody else's PostgreSQL, uses this directory."""

    code = "FLX205"


class PostgresDirectoryError(OperatorError):
    """The directory is not one that Flux may use."""

    code = "FLX209"


@attrs.frozen
class ClusterFolder:
    """Paths of one cluster."""

    path: Path
    """Absolute, symbolic links resolved: /proc shows it this way too."""

    @property
    def marker(self) -> Path:
        """What makes it ours."""
        return self.path / "marker"

    @property
    def lock(self) -> Path:
        """Held by whoever uses it."""
        return self.path / "lock"

    @property
    def password(self) -> Path:
        """The superuser's."""
        return self.path / "password"

    @property
    def data(self) -> Path:
        """PGDATA."""
        return self.path / "data"

    @property
    def log(self) -> Path:
        """The server's stderr."""
        return self.path / "postgres.log"


@attrs.frozen
class ServerProcess:
    """A process of PostgreSQL found at work in a cluster's directory."""

    pid: int
    parent_pid: int
    supervisor_pid: int | None
    """Of the postmaster that we started: its supervisor. None for its children and for strangers."""


@contextmanager
def claim_folder(directory: Path) -> Iterator[ClusterFolder]:
    """Make the directory if need be, and hold its lock. `BlockingIOError` while somebody else does.

    The lock's file is never removed: two processes could then hold the locks of
    two files of the same name.
    """
    folder = ClusterFolder(directory.resolve())
    try:
        folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not folder.marker.exists():
            # Another supervisor may be here at the same moment, as new as we are.
            ours = (folder.marker, folder.lock)
            strangers = sorted(entry.name for entry in folder.path.iterdir() if entry not in ours)
            if strangers:
                raise PostgresDirectoryError(
                    f"{folder.path} was not made by Flux: it has no marker file, and it holds {strangers[0]}",
                    remedy="name a directory that is empty or does not exist yet",
                )
            folder.marker.write_text(_MARKER_TEXT)
        lock = os.open(folder.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        raise _not_usable(folder.path, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()} {os.uname().nodename}\n".encode(), 0)
        yield folder
    finally:
        os.close(lock)


def describe_holder(directory: Path) -> tuple[str, bool]:
    """Who holds the lock, in words, and whether that process is known to be dead."""
    with suppress(OSError, ValueError):
        pid_text, host = (directory.resolve() / "lock").read_text().split(maxsplit=1)
        host = host.strip()
        if host != os.uname().nodename:
            return f"process {pid_text} on {host}", False
        return f"process {pid_text}", not is_alive(int(pid_text))
    return "another process", False


def empty_folder(folder: ClusterFolder) -> None:
    """Remove the cluster; the marker and our lock stay."""
    for entry in list(folder.path.iterdir()):
        if entry in (folder.marker, folder.lock):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def discard_unfinished(folder: ClusterFolder) -> None:
    """Remove what an initdb that was killed has left."""
    for entry in folder.path.glob("data.new-*"):
        shutil.rmtree(entry)


def get_password(folder: ClusterFolder, identity: Identity) -> str:
    """The superuser's password, made up at the first call."""
    try:
        return folder.password.read_text().strip()
    except FileNotFoundError:
        if folder.data.exists():
            raise PostgresDirectoryError(
                f"{folder.password} is gone, and without it nobody can log in to the cluster beside it",
                remedy="put the file back, or start again without the data: flux dev --clean",
            ) from None
    password = secrets.token_urlsafe(32)
    unfinished = folder.password.with_suffix(".new")
    unfinished.unlink(missing_ok=True)
    with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(password + "\n")
        file.flush()
        os.fsync(file.fileno())
    hand_over(unfinished, identity)
    unfinished.rename(folder.password)
    return password


def hand_over(path: Path, identity: Identity) -> None:
    """Give ``path``, and all beneath it, to whoever PostgreSQL runs as."""
    if identity.kind == "self" or os.geteuid() != 0:
        return

    def give(each: Path) -> None:
        if each.lstat().st_uid != identity.owner_uid:
            os.chown(each, identity.owner_uid, identity.owner_gid, follow_symlinks=False)

    give(path)
    if path.is_dir():
        for parent, folders, files in os.walk(path):
            for name in (*folders, *files):
                give(Path(parent) / name)


def write_settings(data: Path, text: str, identity: Identity) -> None:
    """Keep ``flux.conf``, which ``postgresql.conf`` includes, as this version of Flux wants it."""
    settings = data / "flux.conf"
    if settings.exists() and settings.read_text() == text:
        return
    unfinished = data / "flux.conf.new"
    unfinished.write_text(text)
    hand_over(unfinished, identity)
    unfinished.rename(settings)


def adopt_new_data(folder: ClusterFolder, unfinished: Path) -> None:
    """Let the finished cluster take its place, so that it is there whole or not at all."""
    unfinished.rename(folder.data)
    descriptor = os.open(folder.path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_log(folder: ClusterFolder, identity: Identity) -> int:
    """A descriptor that appends to the log, after putting a large one aside."""
    with suppress(FileNotFoundError):
        if folder.log.stat().st_size > LOG_BYTES_MAX:
            folder.log.rename(folder.log.with_name("postgres.log.1"))
    descriptor = os.open(folder.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    hand_over(folder.log, identity)
    return descriptor


def read_log_tail(log: Path, start: int) -> str:
    """The last lines written since byte ``start``."""
    with log.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(start, end - 16 * 1024))
        text = file.read().decode("utf-8", "replace")
    return "\n".join(text.splitlines()[-LOG_TAIL_LINES:])


# -- the socket ---------------------------------------------------------------


def get_socket_folder(folder: ClusterFolder, identity: Identity) -> Path:
    """Where the socket lies: beside the data, or in a private directory when that path will not do.

    A comma will not do either: libpq reads one in a host as the start of the next host.
    """
    name = f"/.s.PGSQL.{PORT}"
    if len(os.fsencode(folder.path)) + len(name) <= SOCKET_PATH_BYTES_MAX and "," not in str(folder.path):
        return folder.path
    digest = hashlib.sha256(os.fsencode(folder.path)).hexdigest()[:16]
    # Somebody we drop to cannot reach root's runtime directory.
    runtime = os.environ.get("XDG_RUNTIME_DIR", "") if identity.kind == "self" else ""
    if runtime and (len(runtime) > 64 or "," in runtime or not Path(runtime).is_dir()):
        runtime = ""
    # Not a random name: a client of an earlier start, or a shell's history, still finds it.
    private = Path(runtime or "/tmp") / f"flux-{identity.owner_uid}-{digest}"
    with suppress(FileExistsError):
        private.mkdir(mode=0o700)
        hand_over(private, identity)
    found = private.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != identity.owner_uid or found.st_mode & 0o077:
        raise PostgresDirectoryError(
            f"{private}, where the socket should go, is not private to user id {identity.owner_uid}: "
            f"owner {found.st_uid}, mode {stat.filemode(found.st_mode)}",
            remedy=f"find out who made it and remove it, or use a shorter path than {folder.path}",
        )
    return private


def discard_socket_folder(folder: ClusterFolder, socket_folder: Path) -> None:
    """Remove the private directory once the server, which removes its own socket, has ended."""
    if socket_folder != folder.path:
        with suppress(OSError):  # not empty after a hard kill: the next start uses what is there
            socket_folder.rmdir()


# -- who is at work here ------------------------------------------------------


def is_alive(pid: int) -> bool:
    """Whether a process has this id (which says nothing about which process)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def list_servers(folder: ClusterFolder) -> list[ServerProcess]:
    """Every process of PostgreSQL, postmaster or child, that works in this directory."""
    found: list[ServerProcess] = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal() and _works_here(int(process.name), folder):
            # It may end while we look: then it is no longer of interest.
            with suppress(FileNotFoundError, ProcessLookupError, IndexError):
                words = process.joinpath("cmdline").read_bytes().split(b"\0")
                # "pid (name) state ppid ...", and the name may hold spaces and brackets.
                parent = int(process.joinpath("stat").read_text().rpartition(")")[2].split()[1])
                found.append(ServerProcess(int(process.name), parent, _find_supervisor(words)))
    return found


def signal_server(pid: int, folder: ClusterFolder, number: signal.Signals) -> None:
    """Signal a process found by `list_servers`, unless its id has come to mean something else."""
    with suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            if _works_here(pid, folder):  # looked up after opening: from here on it is the same process
                signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)


def discard_stale_pid_files(folder: ClusterFolder, socket_folder: Path) -> None:
    """Remove lock files of a dead server whose process id has been given to something else.

    PostgreSQL takes any living process with that id for its predecessor and
    refuses to start. Call this only when `list_servers` finds nobody. When the id
    is free PostgreSQL clears the files away itself; that is left to it, since it
    then also checks that nobody is attached to the old shared memory.
    """
    for path in (folder.data / "postmaster.pid", socket_folder / f".s.PGSQL.{PORT}.lock"):
        try:
            lines = path.read_text().splitlines()
        except FileNotFoundError:
            continue
        first = lines[0].strip().lstrip("-") if lines else ""
        if not first.isdecimal():
            # A kill or a full disk cut the file short; PostgreSQL calls it bogus and refuses to start.
            path.unlink()
        elif is_alive(int(first)) and not _is_shared_memory_in_use(lines):
            path.unlink()


def _is_shared_memory_in_use(lines: list[str]) -> bool:
    """Whether anybody is attached to the segment named in line 7 of ``postmaster.pid``."""
    if len(lines) < 7 or len(lines[6].split()) != 2:
        return False
    segment = lines[6].split()[1]
    table = Path("/proc/sysvipc/shm")
    if not table.exists():
        return False
    header, *rows = (line.split() for line in table.read_text().splitlines())
    return any(row[header.index("shmid")] == segment and row[header.index("nattch")] != "0" for row in rows)


def _works_here(pid: int, folder: ClusterFolder) -> bool:
    try:
        program = Path(f"/proc/{pid}/exe").readlink()
        place = Path(f"/proc/{pid}/cwd").readlink()
    except OSError:  # gone, a kernel thread, or somebody else's: none of them works in a directory of ours
        return False
    # " (deleted)" follows the name of a program that an upgrade has replaced.
    return program.name.removesuffix(" (deleted)") in _PROGRAMS and place.is_relative_to(folder.path)


def _find_supervisor(words: list[bytes]) -> int | None:
    prefix = f"{SUPERVISOR_SETTING}=".encode()
    for word in words:
        if word.startswith(prefix) and word.removeprefix(prefix).isdigit():
            return int(word.removeprefix(prefix))
    return None


def _not_usable(path: Path, error: OSError) -> PostgresDirectoryError:
    existing = next(parent for parent in (path, *path.parents) if os.path.lexists(parent))
    return PostgresDirectoryError(
        f"{path} cannot be used: {error.strerror}: {error.filename} "
        f"(we are user id {os.geteuid()}, {existing} belongs to user id {existing.lstat().st_uid})",
        remedy="run Flux as the user who made the directory, or name another directory",
    )
