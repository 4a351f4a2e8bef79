"""The process that runs wasm guests, as seen from the supervisor: spawn it, hear it, hand it guests, bury it.

Its other side is `flux.sandbox.wasm_main`. It compiles and runs the user's code, in a jail
(`flux.sandbox.jail`), so nothing it says is believed without a look: whatever is no message
of the protocol is a `SandboxUnavailableError`, and its silence is the caller's to bound.

The process that we spawn is the one that runs guests or, where the jail has a PID namespace,
its keeper, which ends when it ends, in the same way, and the other way round.
"""

import contextlib
import errno
import json
import os
import re
import signal
import socket
import stat
import subprocess
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import attrs
import trio

from flux.sandbox.base import ImportFailure, SandboxUnavailableError
from flux.sandbox.declared import Declared, read_declared
from flux.sandbox.jail import ENVIRONMENT, make_command, make_refusal
from flux.sandbox.jail_plan import Plan
from flux.sandbox.output import Output
from flux.sandbox.wasm_cache import CompiledCode, make_key
from flux.sandbox.zygote import TELLING_S, has_ended, read_pid

MESSAGE_BYTES_MAX = 32 * 2**20
COMPILED_BYTES_MAX = 256 * 2**20
"""Of one module. More is not kept, and compiled again at the next start."""
DESCRIPTORS_MAX = 4
"""Sent by it and not yet claimed by a message; honest ones come one at a time."""
METER = re.compile(r"[0-9a-f]{16}")
SEND_PAUSE_S = 0.01
END_GRACE_S = 2.0
"""How long a process that has closed its socket may take to end by itself."""


@attrs.frozen
class Importing:
    """It begins to load a module."""

    module: str
    """File, relative to the project."""


@attrs.frozen
class Compiled:
    """It has compiled a module."""

    module: str
    """File, relative to the project."""
    descriptor: int
    """Of a file without a name that has the compiled code, now the receiver's."""


@attrs.frozen
class Ready:
    """The code is loaded."""

    declared: Declared
    meter: str
    """By what it counts fuel: see `flux.execution.Level`."""


@attrs.frozen
class Failed:
    """The code can't be loaded."""

    failures: tuple[ImportFailure, ...]


Message = Importing | Compiled | Ready | Failed


class WasmProcess:
    """A running host process. Made by `spawn`; whoever makes it calls `end`."""

    def __init__(
        self,
        process: "subprocess.Popen[bytes]",
        handle: int,
        control: socket.socket,
        plan: Plan,
        on_output: Callable[[str], None],
    ) -> None:
        assert process.stdout is not None
        self._process = process
        self._handle = handle
        """Pidfd of the process that we spawned."""
        self._jailed = -1
        """Pidfd of the one in the jail, once it is built."""
        self._jailed_pid = 0
        """Our number for the one in the jail, once it is built."""
        self._plan = plan
        self._control = control
        self._control.setblocking(False)
        self._output = Output(process.stdout.fileno(), on_output)
        self._buffer = bytearray()
        self._descriptors: deque[int] = deque()
        self._sending = trio.Lock()
        self.fingerprint = ""
        """Of how it compiles modules: said before it has seen any."""

    @classmethod
    def spawn(cls, plan: Plan, on_output: Callable[[str], None]) -> "WasmProcess":
        """Start a process; its ``control`` is filled in here. Raise `SandboxUnavailableError` when it can't be."""
        process = None
        try:
            ours, theirs = socket.socketpair()
            with theirs:
                plan = replace(plan, control=theirs.fileno())
                try:
                    # From this thread, not from a short-lived one: it dies with the thread that made it.
                    process = subprocess.Popen(
                        make_command(plan),
                        env=dict(ENVIRONMENT),
                        cwd="/",
                        pass_fds=[theirs.fileno()],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                    return cls(process, os.pidfd_open(process.pid), ours, plan, on_output)
                except OSError:
                    ours.close()
                    if process is not None:
                        assert process.stdout is not None
                        process.kill()
                        process.wait()
                        process.stdout.close()
                    raise
        except OSError as error:
            raise _cannot_start(error) from error

    @property
    def pid(self) -> int:
        """Our number for it; for its keeper until it is jailed."""
        return self._jailed_pid or self._process.pid

    def is_running(self) -> bool:
        """Whether it takes guests: its end of the socket is closed before it has ended.

        When it dies, the kernel lets go of its files last one first, so those of its guests' are closed a few
        microseconds before. A guest that is sent in these dies with the others.
        """
        try:
            return self._control.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
        except BlockingIOError:
            return True
        except ConnectionError:
            return False

    # Hearing it

    async def pump_output(self) -> None:
        """Hand on what modules print while they are loaded, until the end."""
        await self._output.pump()

    async def receive(self) -> Message | None:
        """Return its next message, or None once it has closed its socket."""
        while (line := await self._receive_line()) is not None:
            if self._jailed >= 0:
                return self._read(line)
            self._take_beginning(line)
        return None

    async def _receive_line(self) -> bytes | None:
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > MESSAGE_BYTES_MAX:
                raise _not_understood(bytes(self._buffer[:80]))
            await trio.lowlevel.wait_readable(self._control)
            try:
                data, descriptors, _flags, _address = socket.recv_fds(self._control, 1 << 16, 8)
            except BlockingIOError:
                continue
            except ConnectionError:
                return None
            for descriptor in descriptors:
                os.set_inheritable(descriptor, False)
            self._descriptors.extend(descriptors)
            if len(self._descriptors) > DESCRIPTORS_MAX:
                raise _not_understood(b"file descriptors without a message")
            if not data:
                return None
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    def _take_beginning(self, line: bytes) -> None:
        """What is said until the jail is built comes from our own code: none of the user's has been looked at."""
        match json.loads(line):
            case {"engine": str(fingerprint)}:
                self.fingerprint = fingerprint
            case {"unusable": {"message": str(message), "remedy": str(remedy)}}:
                raise SandboxUnavailableError(message, remedy=remedy)
            case {"jailed": True} if self._descriptors:
                self._jailed = self._descriptors.popleft()
                self._jailed_pid = read_pid(self._jailed)
            case {"jailed": True}:
                raise _cannot_start(OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
            case {"refused": told}:
                raise make_refusal(self._plan.isolation, told)
            case other:
                raise make_refusal(self._plan.isolation, other)

    def _read(self, line: bytes) -> Message:
        try:
            message: Any = json.loads(line)
            match message:
                case {"importing": str(module)}:
                    return Importing(module)
                case {"compiled": str(module)} if self._descriptors:
                    return Compiled(module, self._descriptors.popleft())
                case {
                    "ready": {"functions": list(functions), "middleware": list(middleware), "meter": str(meter)}
                } if METER.fullmatch(meter):
                    return Ready(read_declared(functions, middleware), meter)
                case {"failed": list(items)} if items:
                    return Failed(tuple(ImportFailure(**item) for item in items))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise _not_understood(line[:80]) from error
        raise _not_understood(line[:80])

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
                except OSError as error:
                    # So many descriptors are on their way between processes of this user. It passes.
                    if error.errno != errno.ETOOMANYREFS:
                        raise
                    await trio.sleep(SEND_PAUSE_S)

    # Its end

    def kill(self) -> None:
        """End it now, and its guests."""
        if self._handle >= 0 and self._process.returncode is None:
            # We have not waited for it, so the number is still its own: its keeper and it are a group.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def wait_end(self) -> str:
        """Wait until it has ended, helping after a grace; return how: ``exit code 1``, ``signal 11``."""
        with trio.move_on_after(END_GRACE_S):
            await trio.lowlevel.wait_readable(self._handle)
        if self._jailed >= 0 and has_ended(self._jailed):
            # Killed now, its keeper would say that it was killed, and not how it ended.
            with trio.move_on_after(TELLING_S):
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
        self._output.finish()
        assert self._process.stdout is not None
        self._process.stdout.close()
        trio.lowlevel.notify_closing(self._control)
        self._control.close()
        os.close(self._handle)
        self._handle = -1
        if self._jailed >= 0:
            os.close(self._jailed)
            self._jailed = -1
        while self._descriptors:
            os.close(self._descriptors.popleft())


def keep_compiled(
    cache: "CompiledCode[Any]", plan: Plan, fingerprint: str, message: Compiled, known: set[str]
) -> None:
    """Keep what a process has compiled of a file of its own, once; its word counts for no other file.

    Waits for disks: for a thread.
    """
    try:
        path = PurePosixPath(message.module)
        if message.module in known or path.suffix != ".wasm" or path.is_absolute() or ".." in path.parts:
            raise _not_understood(b"compiled code of " + message.module.encode()[:80])
        known.add(message.module)
        about = os.fstat(message.descriptor)
        if not stat.S_ISREG(about.st_mode) or about.st_size > COMPILED_BYTES_MAX:
            return
        with open(
            os.open(Path(plan.project, path), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "rb"
        ) as file:
            key = make_key(fingerprint, file.read(), plan.owner)
        cache.keep(key, os.pread(message.descriptor, about.st_size, 0))
    except OSError:
        return  # Of no use then; it is compiled again at the next start.
    finally:
        os.close(message.descriptor)


def _cannot_start(error: OSError) -> SandboxUnavailableError:
    return SandboxUnavailableError(
        f"no process can be started to load the project's code: {error.strerror}",
        remedy="the system is out of processes, descriptors or memory: see ulimit -a",
    )


def _not_understood(start: bytes) -> SandboxUnavailableError:
    return SandboxUnavailableError(
        f"the process that loads wasm functions said something that is no message of its protocol: {start!r}",
        remedy="this is not to be: what it printed stands above; please report it",
    )
