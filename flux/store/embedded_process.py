"""Programs as children of ours: they end when we do, and when we say that one has ended, all that it started has."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import attrs
import trio

from flux.store import embedded_launcher
from flux.store.embedded_identity import Identity

KILLED_S = 7.0
"""How long the kernel may take to be rid of what was killed."""


@attrs.frozen
class Finished:
    """A program that ran to its end."""

    status: int
    output: str


def spawn(
    command: list[str],
    identity: Identity,
    folder: Path,
    *,
    output: int,
    stdin: int = subprocess.DEVNULL,
    environment: dict[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a program that ends when we do.

    The kernel watches the *thread* that forks, so this is called from trio's own
    and never from a worker thread. In a session of its own the program does not
    hear a Ctrl-C on our terminal, which is for us: we drain, then stop it.
    """
    kept = ("PATH", "LD_LIBRARY_PATH", "TMPDIR")
    inherited = {name: os.environ[name] for name in kept if name in os.environ}
    return subprocess.Popen(
        [
            sys.executable,
            "-I",
            "-S",
            embedded_launcher.__file__,
            str(os.getpid()),
            identity.argument,
            str(folder),
            *command,
        ],
        stdin=stdin,
        stdout=output,
        stderr=output,
        start_new_session=True,
        # PGDATA, PGPORT, LC_ALL and the like of whoever runs us are not meant for this server.
        env=inherited | {"LC_ALL": "C"} | (environment or {}),
    )


async def run(
    command: list[str],
    identity: Identity,
    folder: Path,
    *,
    stdin: bytes = b"",
    environment: dict[str, str] | None = None,
) -> Finished:
    """Run a program to its end. Its input and output live in memory: the disk may be full."""
    given, output = os.memfd_create("flux-stdin"), os.memfd_create("flux-output")
    try:
        os.pwrite(given, stdin, 0)
        process = spawn(command, identity, folder, output=output, stdin=given, environment=environment)
        try:
            status = await wait_exit(process)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # with the programs that it started
                with trio.CancelScope(shield=True):
                    await wait_exit(process)
                    await _wait_session_gone(process.pid)
        return Finished(status, os.pread(output, 64 * 1024, 0).decode("utf-8", "replace").strip())
    finally:
        os.close(given)
        os.close(output)


async def wait_exit(process: subprocess.Popen[bytes]) -> int:
    """Wait for a child of ours. Any number of tasks may wait for one."""
    while process.poll() is None:
        await wait_gone(process.pid)
    await trio.lowlevel.checkpoint_if_cancelled()
    return process.returncode


async def _wait_session_gone(session: int) -> None:
    """Wait until nothing of a killed session runs. They are nobody's children here, and the kernel takes its time."""
    with trio.move_on_after(KILLED_S):
        while _has_members(session):  # noqa: ASYNC110 - nobody tells of the end of another's child
            await trio.sleep(0.005)


def _has_members(session: int) -> bool:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name in the middle may hold anything, parentheses too; state, parent, group and session follow it.
            state, _parent, _group, of_session = stat.read_text().rpartition(")")[2].split()[:4]
        except (OSError, ValueError):
            continue  # It has gone while we looked.
        if int(of_session) == session and state not in "ZX":
            return True
    return False


async def wait_gone(pid: int) -> None:
    """Wait for a process that need not be our child."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        await trio.lowlevel.checkpoint()
        return
    try:
        await trio.lowlevel.wait_readable(descriptor)
    finally:
        os.close(descriptor)
