"""Large bodies through a real server, both ways, with the memory that it takes.

Anybody can run it::

    python -m tests.streams.large --bytes 500000000 --workers 2

A server of one or several processes serves functions that may hold 128 MiB. A body of the size that is asked for is
uploaded, and one as large is downloaded; then a client takes an answer as slowly as it can, and others go away in the
middle of an upload and of an answer. The bytes are counted and digested here, and compared with what the function said
and with what the record says. While they travel, the peak of the memory of the server's processes and of the guests is
read from ``/proc``. At the end the download is replayed, and the upload is,
which nobody can hear again; and no process holds any body any more.
"""

import argparse
import contextlib
import hashlib
import http.client
import json
import random
import socket
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import attrs

from tests.conftest import Database, create_database
from tests.dev_process import DevServer, running_serve, write_project
from tests.postgres_server import running_postgres

PIECE_BYTES = 2**20
PIECE = random.Random(1).randbytes(PIECE_BYTES)
"""What bodies are made of, again and again, the last time as much of it as is missing."""
SLOW_BYTES = 7 * 2**20
"""Of an answer that is taken slowly: more than all buffers between the server and its client hold."""
WAIT_S = 120.0
LOOK_S = 0.1
MIB = 2**20
GUEST_BYTES = 128 * MIB
GROWTH_BYTES_MAX = 64 * MIB
"""The server may need so much more than when it is idle, however large a body is."""
FUNCTIONS = """\
import hashlib
import random

from flux_guest import function

PIECE = random.Random(1).randbytes(2**20)


@function("GET /large/{size}")
def give(ctx, input):
    left = int(input["size"])

    def make():
        nonlocal left
        while left:
            piece = PIECE[:left]
            left -= len(piece)
            yield piece

    return ctx.response(make())


@function("PUT /large")
async def take(ctx, input):
    digest, size = hashlib.sha256(), 0
    async for piece in ctx.request.stream():
        digest.update(piece)
        size += len(piece)
    return {"sha256": digest.hexdigest(), "bytes": size}
"""
TOML = """\
[limits]
body = "64KiB"
stream = "{stream}"
memory = "128MiB"
host_calls = 100000
timeout = "30m"
"""


@attrs.define
class Peak:
    """The most memory that one process was seen to have had (``VmHWM``), in bytes."""

    server_bytes: int = 0
    """Of the server's own processes."""
    guest_bytes: int = 0
    """Of the processes that functions ran in."""


@attrs.frozen
class Seen:
    """What came out."""

    idle: Peak
    """Before the first body."""
    peak: Peak
    up_s: float
    down_s: float
    pieces: int
    """In so many the download was written."""
    verdicts: tuple[str, str]
    """Of the replays of the download and of the upload."""


def digest_of(size: int) -> str:
    """Return the SHA-256 of a body of ``size`` bytes."""
    digest = hashlib.sha256()
    for piece in make_body(size):
        digest.update(piece)
    return digest.hexdigest()


def make_body(size: int) -> Iterator[bytes]:
    """Give a body piece by piece."""
    while size:
        yield PIECE[:size]
        size -= len(PIECE[:size])


# --- memory and files, as the kernel tells them ------------------------------------------------------


def list_family(pid: int) -> list[tuple[int, bool]]:
    """Return a server's process and all below it, each with whether functions run in it."""
    found = [pid]
    for one in found:
        with contextlib.suppress(OSError):  # It has ended since.
            for task in Path(f"/proc/{one}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
    family = []
    for one in found:
        with contextlib.suppress(OSError):
            family.append((one, b"flux.sandbox." in Path(f"/proc/{one}/cmdline").read_bytes()))
    return family


def look(pid: int, peak: Peak) -> None:
    """Look once at what all processes have had in memory."""
    for one, is_guest in list_family(pid):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{one}/status").read_text().splitlines()
            had = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)
            if is_guest:
                peak.guest_bytes = max(peak.guest_bytes, had)
            else:
                peak.server_bytes = max(peak.server_bytes, had)


@contextlib.contextmanager
def looking(pid: int) -> Iterator[Peak]:
    """Look all the time, until the block ends."""
    peak, stop = Peak(), threading.Event()

    def look_on() -> None:
        while not stop.wait(LOOK_S):
            look(pid, peak)

    thread = threading.Thread(target=look_on)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()
        look(pid, peak)


def list_spooled(pid: int) -> list[str]:
    """Return the bodies that the server's processes hold."""
    held = []
    for one, is_guest in list_family(pid):
        with contextlib.suppress(OSError):
            for path in [] if is_guest else Path(f"/proc/{one}/fd").iterdir():
                with contextlib.suppress(OSError):
                    held.append(str(path.readlink()))
    return [each for each in held if "/spool/" in each]


def wait_spooled(pid: int, count: int) -> None:
    """Wait until the server holds so many bodies."""
    deadline = time.monotonic() + WAIT_S
    while len(held := list_spooled(pid)) != count:
        assert time.monotonic() < deadline, f"{count} bodies are to be held, and these are: {held}"
        time.sleep(0.02)


# --- clients ---------------------------------------------------------------------------------------


def upload(server: DevServer, size: int) -> tuple[str, dict[str, object]]:
    """Send a body; return the execution's name and its answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=WAIT_S)
    with contextlib.closing(connection):
        connection.request("PUT", "/large", make_body(size), {"content-length": str(size)})
        response = connection.getresponse()
        body = response.read()
        assert response.status == 200, body
        return str(response.headers["flux-id"]), json.loads(body)


def download(server: DevServer, size: int) -> tuple[str, str, int]:
    """Take an answer; return the execution's name, the SHA-256 of what came, and how much that was."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=WAIT_S)
    with contextlib.closing(connection):
        connection.request("GET", f"/large/{size}")
        response = connection.getresponse()
        digest, count = hashlib.sha256(), 0
        while piece := response.read(PIECE_BYTES):
            digest.update(piece)
            count += len(piece)
        return str(response.headers["flux-id"]), digest.hexdigest(), count


def open_client(server: DevServer, head: bytes) -> socket.socket:
    """Return a connection on which a request's head was sent, that takes little at a time."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
    client.settimeout(WAIT_S)
    client.connect(("127.0.0.1", server.port))
    client.sendall(head + b"host: localhost\r\n\r\n")
    return client


def vanish(client: socket.socket) -> None:
    """Go away without a word."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def check_slow_and_gone(server: DevServer) -> None:
    """Take an answer slowly, and go away in the middle of one and of an upload."""
    pid = server.process.pid
    with contextlib.closing(open_client(server, b"GET /large/%d HTTP/1.1\r\n" % SLOW_BYTES)) as slow:
        began = slow.recv(1024)
        assert began.startswith(b"HTTP/1.1 200"), began
        # It has had all of its execution, and whoever comes next need not wait for it.
        download(server, 10)
        assert list_spooled(pid), "its body waits on the disk"
        taken = bytearray(began)
        size = taken.index(b"\r\n\r\n") + 4 + SLOW_BYTES
        while len(taken) < size:
            taken += slow.recv(64 * 1024)
        assert hashlib.sha256(taken[-SLOW_BYTES:]).hexdigest() == digest_of(SLOW_BYTES)
    gone = open_client(server, b"GET /large/%d HTTP/1.1\r\n" % SLOW_BYTES)
    gone.recv(1024)
    vanish(gone)
    gone = open_client(server, b"PUT /large HTTP/1.1\r\ncontent-length: %d\r\n" % SLOW_BYTES)
    wait_spooled(pid, 0)  # Of a body whose first byte has not come, nothing is held.
    gone.sendall(PIECE[: PIECE_BYTES // 2])
    wait_spooled(pid, 1)
    vanish(gone)
    wait_spooled(pid, 0)


def exercise(server: DevServer, size: int) -> Seen:
    """Do all of it on a server that has `FUNCTIONS`; what is not as it must be fails."""
    expected = {"sha256": digest_of(size), "bytes": size}
    download(server, 10)
    idle = Peak()
    look(server.process.pid, idle)
    with looking(server.process.pid) as peak:
        began = time.monotonic()
        up, answer = upload(server, size)
        between = time.monotonic()
        down, digest, count = download(server, size)
        ended = time.monotonic()
    assert answer == expected and {"sha256": digest, "bytes": count} == expected
    check_slow_and_gone(server)
    seen_up = server.json("trace", up)["input"]["streamed"]
    seen_down = server.json("trace", down)["output"]["streamed"]
    pieces = seen_down.pop("pieces")
    assert seen_down == expected and {key: seen_up[key] for key in expected} == expected
    verdicts = (server.json("replay", down)["verdict"], server.json("replay", up, exit_code=1)["verdict"])
    return Seen(idle, peak, between - began, ended - between, pieces, verdicts)


def run(database: Database, folder: Path, size: int, workers: int = 1) -> Seen:
    """Do all of it on a server of its own."""
    toml = TOML.format(stream=f"{max(size, SLOW_BYTES) // MIB + 1}MiB")
    project = write_project(folder, {"main.py": FUNCTIONS}, toml=toml)
    with running_serve(project, database, *(["--workers", str(workers)] if workers > 1 else [])) as server:
        return exercise(server, size)


def report(seen: Seen, size: int) -> str:
    """Return what came out, for people."""
    per_s = [size / MIB / max(seconds, 0.001) for seconds in (seen.up_s, seen.down_s)]
    return (
        f"{size:,} bytes up in {seen.up_s:.1f} s ({per_s[0]:.0f} MiB/s), down in {seen.down_s:.1f} s "
        f"({per_s[1]:.0f} MiB/s) and {seen.pieces} pieces\n"
        f"server: {seen.idle.server_bytes / MIB:.0f} MiB before, {seen.peak.server_bytes / MIB:.0f} MiB at most\n"
        f"guest:  {seen.peak.guest_bytes / MIB:.0f} MiB at most, of {GUEST_BYTES // MIB} MiB that it may have\n"
        f"replays: down {seen.verdicts[0]}, up {seen.verdicts[1]} (its bytes are on no record)"
    )


def is_bounded(seen: Seen) -> bool:
    """Return whether memory did not grow with the bodies."""
    return (
        seen.peak.server_bytes - seen.idle.server_bytes <= GROWTH_BYTES_MAX
        and 0 < seen.peak.guest_bytes <= GUEST_BYTES
    )


def main(arguments: list[str] | None = None) -> int:
    """Read the command line, run and report; 0 when all was as it must be."""
    parser = argparse.ArgumentParser(prog="python -m tests.streams.large", description=__doc__.split("\n")[0])
    parser.add_argument("--bytes", type=int, default=100_000_000)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args(arguments)
    with running_postgres() as postgres, tempfile.TemporaryDirectory() as folder:
        seen = run(create_database(postgres), Path(folder), options.bytes, options.workers)
    print(report(seen, options.bytes))
    return 0 if is_bounded(seen) and seen.verdicts == ("identical", "outside") else 1


if __name__ == "__main__":
    sys.exit(main())
