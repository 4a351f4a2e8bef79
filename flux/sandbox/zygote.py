"""One zygote, as seen from the supervisor: spawn it, hear it, ask it for workers, bury it.

A zygote is a process of ours, in a jail (`flux.sandbox.jail`), that imports a
deployment's code and forks a worker whenever it is asked (``flux_guest.zygote``). It
runs the user's modules, so nothing it says is believed without a look: whatever is
no message of the protocol is a `SandboxUnavailableError`, a worker that it shows us
must be a child of its own, and its silence is the caller's to bound.

The process that we spawn is the zygote itself or, where the jail has a PID namespace,
its keeper, which ends when the zygote ends, in the same way, and the other way round.
A worker then has two numbers, the zygote's for it and ours; which is meant is said below.

The conversation, over a socket that is the zygote's descriptor 3::

    spawn
    <- jailed, with its pidfd              kept here; a jail that can't be built is raised
    <- ClockTaken(level)                   before any of the user's code runs, so it can be believed
    <- Importing(module), one for each     what it is at, should it die or hang there
    <- Ready(declared) | Failed(failures)
    -> request_worker(start, output, wire, cpu_s)
    <- Forked(pid, pidfd) | NotForked(reason)   in the order of the requests
    <- Exited(pid, status)
    None                                   it has ended
"""

import contextlib
import errno
import fcntl
import json
import os
import select
import signal
import socket
import struct
import subprocess
from collections import deque
from collections.abc import Callable
from pathlib import Path

import attrs
import trio

from flux.sandbox.addresses import fixed_addresses
from flux.sandbox.base import ImportFailure, SandboxUnavailableError
from flux.sandbox.cgroups import Group
from flux.sandbox.declared import Declared, read_declared
from flux.sandbox.jail import ENVIRONMENT, make_command, make_refusal
from flux.sandbox.jail_plan import Plan
from flux.sandbox.output import Output

MESSAGE_BYTES_MAX = 32 * 2**20
"""A project of ten thousand functions stays below a tenth of it."""
DESCRIPTORS_MAX = 64
"""Sent by the zygote and not yet claimed by a message; honest ones come one at a time."""
END_GRACE_S = 2.0
"""How long a zygote that has closed its socket may take to end by itself."""
TELLING_S = 30.0
"""How long those outside of the jail may take to end like a zygote that has ended: on a busy machine, for seconds."""
_REQUEST = struct.Struct("=I")
CLOSED_BY_PEER = {errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN}


@attrs.frozen
class ClockTaken:
    """It has taken over its clock, as far as that can be done here."""

    level: str
    """As `flux.execution.Level.clock` has it."""


@attrs.frozen
class Importing:
    """It begins to import a module."""

    module: str
    """File, relative to the project."""


@attrs.frozen
class Ready:
    """The code is imported."""

    declared: Declared


@attrs.frozen
class Failed:
    """The code can't be imported."""

    failures: tuple[ImportFailure, ...]


@attrs.frozen
class Forked:
    """A worker has been forked."""

    pid: int
    """The zygote's number for it."""
    handle: int
    """Its pidfd, now the receiver's; -1 when we had no descriptor left to take it."""
    host_pid: int
    """Our number for it; 0 when it has ended already."""


@attrs.frozen
class NotForked:
    """A worker could not be forked."""

    reason: str


@attrs.frozen
class Exited:
    """A worker has ended."""

    pid: int
    """The zygote's number for it."""
    status: int
    """Its wait status."""


Message = ClockTaken | Importing | Ready | Failed | Forked | NotForked | Exited


class Zygote:
    """A running zygote. Made by `spawn`; whoever makes it calls `end`."""

    def __init__(
        self,
        process: "subprocess.Popen[bytes]",
        handle: int,
        control: socket.socket,
        plan: Plan,
        group: Group | None,
        on_output: Callable[[str], None],
    ) -> None:
        assert process.stdout is not None
        self._process = process
        self._handle = handle
        """Pidfd of the process that we spawned."""
        self._jailed = -1
        """Pidfd of the one in the jail, once it is built."""
        self._jailed_pid = 0
        self._plan = plan
        self._group = group
        self._control = control
        self._output = Output(process.stdout.fileno(), on_output)
        self._buffer = bytearray()
        self._descriptors: deque[int] = deque()

    @classmethod
    def spawn(
        cls,
        project: Path,
        functions_folder: str,
        *,
        environment: Path | None,
        isolation: str,
        uid: int | None,
        warm: bool,
        data_bytes_max: int,
        group: Group | None = None,
        shuffle: int = 0,
        on_output: Callable[[str], None],
    ) -> "Zygote":
        """Start a zygote, in ``group`` if there is one; raise `SandboxUnavailableError` when the system refuses.

        The group is the zygote's from then on, and removed with it.
        """
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise _cannot_start(error) from error
        with theirs:
            plan = Plan(
                isolation=isolation,
                parent=os.getpid(),
                control=theirs.fileno(),
                program="zygote",
                project=str(project.absolute()),
                environment=str(environment.absolute()) if environment is not None else "",
                functions=functions_folder,
                warm=warm,
                uid=uid,
                data_bytes_max=data_bytes_max,
                cgroup="" if group is None else str(group.folder),
                shuffle=shuffle,
            )
            process = None
            try:
                ours.setblocking(False)
                # From this thread, not from a short-lived one: the zygote dies with the thread that made it.
                with fixed_addresses():
                    process = subprocess.Popen(
                        make_command(plan),
                        env=dict(ENVIRONMENT),
                        cwd=project,
                        pass_fds=[theirs.fileno()],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                return cls(process, os.pidfd_open(process.pid), ours, plan, group, on_output)
            except OSError as error:
                ours.close()
                if process is not None:
                    assert process.stdout is not None
                    process.kill()
                    process.wait()
                    process.stdout.close()
                raise _cannot_start(error) from error

    @property
    def pid(self) -> int:
        """Our number for it; for its keeper until it is jailed."""
        return self._jailed_pid or self._process.pid

    @property
    def spawned_pid(self) -> int:
        """Our number for the process that we spawned. All others are below it, those that modules make too."""
        return self._process.pid

    # Hearing it

    async def pump_output(self) -> None:
        """Hand on what its modules print, until the end."""
        await self._output.pump()

    async def receive(self) -> Message | None:
        """Return its next message, or None once it has closed its socket."""
        while (line := await self._receive_line()) is not None:
            if self._jailed >= 0:
                return self._read(line)
            self._take_jailed(line)
        return None

    async def _receive_line(self) -> bytes | None:
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > MESSAGE_BYTES_MAX:
                raise _not_understood(bytes(self._buffer[:80]))
            await trio.lowlevel.wait_readable(self._control)
            try:
                data, descriptors, _flags, _address = socket.recv_fds(self._control, 1 << 16, 64)
            except BlockingIOError:
                continue
            except OSError as error:
                if error.errno in CLOSED_BY_PEER:
                    return None
                raise
            for descriptor in descriptors:
                fcntl.fcntl(descriptor, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
            self._descriptors.extend(descriptors)
            # They count as ours from the moment they are sent.
            if len(self._descriptors) > DESCRIPTORS_MAX:
                raise _not_understood(b"file descriptors without a worker")
            if not data:
                return None
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    def _take_jailed(self, line: bytes) -> None:
        """The first line comes from the code that builds the jail, before any of the user's runs."""
        match json.loads(line):
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
            match json.loads(line):
                case {"clock": ("vdso" | "python") as level, "detail": str()}:
                    return ClockTaken(level)
                case {"importing": str(module)}:
                    return Importing(module)
                case {"forked": int(pid)}:
                    return self._take_child(pid, self._descriptors.popleft() if self._descriptors else -1)
                case {"unforked": str(reason)}:
                    return NotForked(reason)
                case {"exited": int(pid), "status": int(status)}:
                    return Exited(pid, status)
                case {"ready": {"functions": list(functions), "middleware": list(middleware)}}:
                    return Ready(read_declared(functions, middleware, "python"))
                case {"failed": list(items)} if items:
                    return Failed(tuple(ImportFailure(**item) for item in items))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise _not_understood(line[:80]) from error
        raise _not_understood(line[:80])

    def _take_child(self, pid: int, handle: int) -> Forked:
        """Take a worker by its pidfd.

        The zygote may show us any process that it can see, and we would kill it when we are done.
        """
        if handle < 0:
            return Forked(pid, -1, 0)
        try:
            host_pid = read_pid(handle)
            if host_pid == 0 or read_parent(host_pid) in (self._jailed_pid, None):
                return Forked(pid, handle, host_pid)
            if not has_ended(self._jailed):
                raise _not_understood(b"a process that is no child of its own")
        except BaseException:
            os.close(handle)
            raise
        # Its parent has died, and it is another's child until it dies too. We kill nobody on a dead one's word.
        os.close(handle)
        return Forked(pid, -1, 0)

    # Asking it

    def request_worker(self, start: int, output: int, wire: int, cpu_s: int) -> None:
        """Ask for a worker with these as its descriptors 0, 1 and 2, and 3; raise OSError if it can't be asked.

        It can use ``cpu_s`` seconds of the processor before the kernel ends it.
        """
        socket.send_fds(self._control, [_REQUEST.pack(cpu_s)], [start, output, wire])

    def ask_exits(self) -> None:
        """Have it tell now which workers have ended; nothing to do where it cannot be asked.

        It tells by itself, but for an end that falls into the moment before it waits for us again.
        """
        if self._control.fileno() < 0:
            return  # It has ended, and with it every worker: they hear so from whoever closed it.
        # Full: it has requests to read, and tells after the first. Broken: its own end says all.
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionError):
            self._control.send(_REQUEST.pack(0))

    def print_stack(self) -> None:
        """Have it print where it stands: faulthandler does, even inside an endless loop of C code."""
        if self._jailed >= 0 and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._jailed, signal.SIGUSR1)

    # Its end

    def kill(self) -> None:
        """End it now. Its workers end with it, and whatever else is in the jail."""
        if self._handle >= 0 and self._process.returncode is None:
            # We have not waited for it, so the number is still its own. Nobody in the jail can leave the
            # process group; one that its modules forked without telling us ends here too.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            if self._group is not None:
                self._group.kill()

    async def end_with_leader(self) -> None:
        """Wait until what we spawned has ended, then end what it left: that may hold its socket open."""
        handle = os.dup(self._handle)  # Whoever ends the zygote waits as well, and one descriptor has one waiter.
        try:
            await trio.lowlevel.wait_readable(handle)
        finally:
            os.close(handle)
        self.kill()

    async def wait_end(self) -> str:
        """Wait until it has ended, helping after a grace; return how: ``exit code 1``, ``signal 11``."""
        with trio.move_on_after(END_GRACE_S):
            await trio.lowlevel.wait_readable(self._handle)
        if self._jailed >= 0 and has_ended(self._jailed):
            # Killed now, they would say that it was killed, and not how it ended.
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
            if self._group is not None:
                await self._group.remove()
        self._output.finish()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._control.close()
        os.close(self._handle)
        self._handle = -1
        if self._jailed >= 0:
            os.close(self._jailed)
            self._jailed = -1
        while self._descriptors:
            os.close(self._descriptors.popleft())


def has_ended(handle: int) -> bool:
    """Return whether the process behind a pidfd has ended."""
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(0))


def read_pid(handle: int) -> int:
    """Return our number for the process behind a pidfd; 0 when it has ended and was waited for."""
    with open(f"/proc/self/fdinfo/{handle}") as file:
        for line in file:
            if line.startswith("Pid:"):
                return max(0, int(line.split()[1]))
    raise _not_understood(b"a descriptor that is no process")


def read_parent(pid: int) -> int | None:
    """Return a process's parent, or None when there is no such process any more."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            # After the name, which may hold anything, spaces and brackets too.
            return int(file.read().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None


def _cannot_start(error: OSError) -> SandboxUnavailableError:
    return SandboxUnavailableError(
        f"no process can be started to import the project's code: {error.strerror}",
        remedy="the system is out of processes, descriptors or memory: see ulimit -a",
    )


def _not_understood(start: bytes) -> SandboxUnavailableError:
    return SandboxUnavailableError(
        f"the process that imports the project's code said something that is no message of its protocol: {start!r}",
        remedy="does a module write to file descriptor 3 when it is imported? That one is Flux's",
    )
