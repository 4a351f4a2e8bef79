"""The process that runs wasm guests, as seen from the supervisor: spawn it, hear it, hand it guests, bury it.

Its other side is `flux.sandbox.wasm_main`. It compiles and runs the user's code, so
nothing it says is believed without a look: whatever is no message of the protocol is a
`SandboxUnavailableError`, and its silence is the caller's to bound.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import trio

from flux.deployment import Function
from flux.sandbox.base import ImportFailure, SandboxUnavailableError
from flux.sandbox.declared import read_function

MESSAGE_BYTES_MAX = 32 * 2**20
OUTPUT_READS_MAX = 16
"""Reads at a time: a module that prints without end must not keep us here."""
END_GRACE_S = 2.0
"""How long a process that has closed its socket may take to end by itself."""


@attrs.frozen
class Importing:
    """It begins to load a module."""

    module: str
    """File, relative to the project."""


@attrs.frozen
class Ready:
    """The code is loaded."""

    functions: tuple[Function, ...]


@attrs.frozen
class Failed:
    """The code can't be loaded."""

    failures: tuple[ImportFailure, ...]


Message = Importing | Ready | Failed


class WasmProcess:
    """A running host process. Made by `spawn`; whoever makes it calls `end`."""

    def __init__(
        self, process: "subprocess.Popen[bytes]", handle: int, control: socket.socket, on_output: Callable[[str], None]
    ) -> None:
        assert process.stdout is not None
        self._process = process
        self._handle = handle
        self._control = control
        self._control.setblocking(False)
        self._output = process.stdout.fileno()
        os.set_blocking(self._output, False)
        self._on_output = on_output
        self._buffer = bytearray()
        self._sending = trio.Lock()

    @classmethod
    def spawn(
        cls, project: Path, functions_folder: str, *, cache: Path | None, on_output: Callable[[str], None]
    ) -> "WasmProcess":
        """Start a process; raise `SandboxUnavailableError` when the system refuses."""
        environment = {
            "PYTHONHASHSEED": "0",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUTF8": "1",
            "LANG": "C.UTF-8",
            "TZ": "UTC",
        }
        process = None
        try:
            ours, theirs = socket.socketpair()
            with theirs:
                arguments = [
                    *(sys.executable, "-s", "-P", "-m", "flux.sandbox.wasm_main"),
                    *(str(project), functions_folder, str(os.getpid()), str(theirs.fileno()), str(cache or "")),
                ]
                try:
                    # From this thread, not from a short-lived one: it dies with the thread that made it.
                    process = subprocess.Popen(
                        arguments,
                        env=environment,
                        cwd=project,
                        pass_fds=[theirs.fileno()],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                    return cls(process, os.pidfd_open(process.pid), ours, on_output)
                except OSError:
                    ours.close()
                    if process is not None:
                        assert process.stdout is not None
                        process.kill()
                        process.wait()
                        process.stdout.close()
                    raise
        except OSError as error:
            raise SandboxUnavailableError(
                f"no process can be started to load the project's code: {error.strerror}",
                remedy="the system is out of processes, descriptors or memory: see ulimit -a",
            ) from error

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    # Hearing it

    async def pump_output(self) -> None:
        """Hand on what modules print while they are loaded, until the end."""
        while True:
            await trio.lowlevel.wait_readable(self._output)
            if not self._take_output():
                return

    def _take_output(self) -> bool:
        """Hand on what is there to read; return False at its end."""
        try:
            for _ in range(OUTPUT_READS_MAX):
                data = os.read(self._output, 1 << 16)
                if not data:
                    return False
                self._on_output(data.decode(errors="backslashreplace"))
        except BlockingIOError:
            pass
        return True

    async def receive(self) -> Message | None:
        """Return its next message, or None once it has closed its socket."""
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > MESSAGE_BYTES_MAX:
                raise _not_understood(bytes(self._buffer[:80]))
            await trio.lowlevel.wait_readable(self._control)
            try:
                data = self._control.recv(1 << 16)
            except BlockingIOError:
                continue
            except ConnectionError:
                return None
            if not data:
                return None
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return _read_message(line)

    # Asking it

    async def send_guest(self, descriptor: int) -> None:
        """Hand it a guest's socket. A process that is gone is no error here: the guest's own socket tells."""
        async with self._sending:
            while self._handle >= 0:
                try:
                    socket.send_fds(self._control, [b"G"], [descriptor], socket.MSG_NOSIGNAL)
                    return
                except BlockingIOError:
                    with contextlib.suppress(trio.ClosedResourceError):
                        await trio.lowlevel.wait_writable(self._control)
                except ConnectionError:
                    return

    # Its end

    def kill(self) -> None:
        """End it now, and its guests."""
        if self._handle >= 0 and self._process.returncode is None:
            signal.pidfd_send_signal(self._handle, signal.SIGKILL)

    async def wait_end(self) -> str:
        """Wait until it has ended, helping after a grace; return how: ``exit code 1``, ``signal 11``."""
        with trio.move_on_after(END_GRACE_S):
            await trio.lowlevel.wait_readable(self._handle)
        self.kill()
        await trio.lowlevel.wait_readable(self._handle)
        status = self._process.wait()
        return f"signal {-status}" if status < 0 else f"exit code {status}"

    async def end(self) -> None:
        """Kill it, hand on what it printed, let go of everything."""
        with trio.CancelScope(shield=True):
            if self._process.returncode is None:
                self.kill()
                await trio.lowlevel.wait_readable(self._handle)
                self._process.wait()
        self._take_output()
        assert self._process.stdout is not None
        self._process.stdout.close()
        trio.lowlevel.notify_closing(self._control)
        self._control.close()
        os.close(self._handle)
        self._handle = -1


def _read_message(line: bytes) -> Message:
    try:
        message: Any = json.loads(line)
        match message:
            case {"importing": str(module)}:
                return Importing(module)
            case {"ready": {"functions": list(items)}}:
                return Ready(tuple(read_function(item) for item in items))
            case {"failed": list(items)} if items:
                return Failed(tuple(ImportFailure(**item) for item in items))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _not_understood(line[:80]) from error
    raise _not_understood(line[:80])


def _not_understood(start: bytes) -> SandboxUnavailableError:
    return SandboxUnavailableError(
        f"the process that loads wasm functions said something that is no message of its protocol: {start!r}",
        remedy="this is not to be: what it printed stands above; please report it",
    )
