"""Sandbox kind ``process``: each execution in an operating system process of its own.

A *zygote* (``flux_guest.zygote``, a child of ours) imports the deployment's code
once. For each worker we hand it three descriptors and it forks: that takes a
millisecond or two, so `ProcessSandbox` keeps a few workers forked ahead. The
zygote reports exits, since the workers are its children; we hold a pidfd of each,
so that a kill never hits a stranger.

Who ends with whom: workers die with the zygote and the zygote dies with us (each
asks the kernel for that before it runs anything), so a ``kill -9`` of the
supervisor leaves no process behind.

Everything here is one process's view of others that may lie, hang or die at any
moment: every wait either ends with their death or belongs to a caller's time-out.
"""

import contextlib
import errno
import fcntl
import json
import math
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from flux.deployment import Function
from flux.errors import FluxError
from flux.execution import Level
from flux.hostcall import Position
from flux.limits import parse_duration_s
from flux.sandbox.base import (
    BadFunctionError,
    Exit,
    ImportFailedError,
    ImportFailure,
    SandboxUnavailableError,
    Worker,
)

RECEIVE_BYTES = 1 << 18
OUTPUT_BYTES_MAX = 64 * 1024
"""What is kept of a worker's writes past the SDK; the last of it counts."""
START_DEADLINE_S = 60.0
"""Importing a project may be slow; an import that takes longer hangs."""
FORK_DEADLINE_S = 10.0
RESTART_PAUSE_S = 0.2
REAP_DEADLINE_S = 5.0
PIPE_BYTES = 1 << 20

_closed_by_peer = {errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN}


class ProcessWorker:
    """One forked worker, as seen from the supervisor."""

    def __init__(self, start: int, output: int, wire: socket.socket) -> None:
        self._start = start
        self._output = output
        self._wire = wire
        self._wire_descriptor = wire.fileno()
        self._tail = bytearray()
        self._exit: Exit | None = None
        self._exited = trio.Event()
        self._closed = False
        self.pid = 0
        self.handle = -1
        """The worker's pidfd."""
        self.served = 0
        """Executions that it has finished."""

    def forked(self, pid: int, handle: int) -> None:
        """The zygote has forked it."""
        self.pid, self.handle = pid, handle

    async def start(self, document: bytes) -> None:
        """See `flux.sandbox.base.Worker.start`."""
        await self._write(self._start, document + b"\n")

    async def _write(self, descriptor: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(descriptor, view) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(descriptor)
            except OSError as error:
                if error.errno not in _closed_by_peer:
                    raise
                return  # It is gone: whoever reads the wire learns so.

    async def receive(self) -> bytes:
        """See `flux.sandbox.base.Worker.receive`."""
        while True:
            # Wait first: a guest is hardly ever ahead of us, and a read that finds data
            # at once again and again would starve the other executions.
            await trio.lowlevel.wait_readable(self._wire_descriptor)
            try:
                return os.read(self._wire_descriptor, RECEIVE_BYTES)
            except BlockingIOError:
                continue
            except OSError as error:
                if error.errno in _closed_by_peer:
                    return b""
                raise

    async def send(self, data: bytes) -> None:
        """See `flux.sandbox.base.Worker.send`."""
        try:
            sent = os.write(self._wire_descriptor, data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            if error.errno not in _closed_by_peer:
                raise
            return
        if sent < len(data):
            await self._write(self._wire_descriptor, data[sent:])

    async def pump_output(self) -> None:
        """Keep the pipe of its descriptors 1 and 2 empty until it ends or is let go."""
        while not self._closed:
            try:
                await trio.lowlevel.wait_readable(self._output)
                data = os.read(self._output, 1 << 16)
            except BlockingIOError:
                continue
            except trio.ClosedResourceError:
                return
            if not data:
                return
            self._tail += data
            if len(self._tail) > OUTPUT_BYTES_MAX:
                del self._tail[:-OUTPUT_BYTES_MAX]

    def take_output(self) -> str:
        """Return what it wrote past the SDK since the last time."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._output, 1 << 16):
                self._tail += data
        text = bytes(self._tail[-OUTPUT_BYTES_MAX:]).decode(errors="backslashreplace")
        self._tail.clear()
        return text

    def kill(self) -> None:
        """See `flux.sandbox.base.Worker.kill`."""
        if self.handle >= 0 and self._exit is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.handle, signal.SIGKILL)

    def exited(self, status: int | None) -> None:
        """Its wait status is known; None when the zygote died before it could tell."""
        if self._exit is not None:
            return
        output = "" if self._closed else self.take_output()
        if status is None:
            self._exit = Exit(None, None, output)
        elif os.WIFSIGNALED(status):
            self._exit = Exit(None, os.WTERMSIG(status), output)
        else:
            self._exit = Exit(os.WEXITSTATUS(status), None, output)
        self._exited.set()

    @property
    def alive(self) -> bool:
        """No exit has been reported."""
        return self._exit is None

    async def wait_exit(self) -> Exit:
        """See `flux.sandbox.base.Worker.wait_exit`."""
        await self._exited.wait()
        assert self._exit is not None
        return self._exit

    def close(self) -> None:
        """Let go of its descriptors: one that still lives sees end of file and ends."""
        if self._closed:
            return
        self._closed = True
        for descriptor in (self._start, self._output, self._wire_descriptor, self.handle):
            if descriptor >= 0:
                trio.lowlevel.notify_closing(descriptor)
        self._wire.close()
        for descriptor in (self._start, self._output, self.handle):
            if descriptor >= 0:
                os.close(descriptor)
        self.handle = -1


class ProcessSandbox:
    """A deployment's zygote and its workers. Run `run` in a nursery, then `acquire`."""

    level = Level("process", "process", "python")

    def __init__(
        self,
        project: Path,
        functions_folder: str,
        *,
        idle_target: int = 4,
        warm: int = 1,
        on_output: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self._project = project
        self._functions_folder = functions_folder
        self._idle_target = idle_target
        self._warm = warm
        self._on_output = on_output
        self._control: socket.socket | None = None
        self._zygote: subprocess.Popen[bytes] | None = None
        self._forking: deque[ProcessWorker] = deque()
        self._idle: deque[ProcessWorker] = deque()
        self._workers: dict[int, ProcessWorker] = {}
        self._waiting: deque[trio.lowlevel.Task] = deque()
        self._idle_changed = trio.Condition()
        self._functions: tuple[Function, ...] = ()
        self._closing = False
        self._failure: FluxError | None = None
        self.restarts = 0
        """How often the zygote died and was started again."""

    @property
    def functions(self) -> tuple[Function, ...]:
        """See `flux.sandbox.base.Sandbox.functions`."""
        return self._functions

    @property
    def zygote_pid(self) -> int | None:
        """The zygote's process id while it lives."""
        return None if self._zygote is None else self._zygote.pid

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep a zygote alive until cancelled; started once the code is imported.

        Raises `ImportFailedError` when it can't be, at the first start only: later
        the same files were good once, so a failure is reported to those who wait.
        """
        first = True
        try:
            while True:
                async with trio.open_nursery() as nursery:
                    self._spawn()
                    reader = _ControlReader(self._control_socket())
                    try:
                        with trio.fail_after(START_DEADLINE_S):
                            nursery.start_soon(self._pump_zygote_output)
                            await self._wait_ready(reader)
                    except trio.TooSlowError:
                        raise SandboxUnavailableError(
                            f"importing {self._functions_folder}/ took more than {START_DEADLINE_S:.0f} s",
                            remedy="something at module level waits or computes: move it into a function",
                        ) from None
                    if first:
                        task_status.started()
                        first = False
                    self._failure = None
                    self._fill()
                    await self._serve(reader, nursery)
                    nursery.cancel_scope.cancel()
                self._zygote_died()
                self.restarts += 1
                await trio.sleep(RESTART_PAUSE_S)
        except FluxError as error:
            self._failure = error
            self._zygote_died()
            if first:
                raise
            async with self._idle_changed:
                self._idle_changed.notify_all()
        finally:
            self._closing = True
            await self._close()

    # The zygote

    def _spawn(self) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        arguments = [
            *(sys.executable, "-s", "-P", "-m", "flux_guest.zygote"),
            *(str(self._project), self._functions_folder, str(os.getpid()), str(theirs.fileno())),
        ]
        environment = {
            "PYTHONHASHSEED": "0",  # Fixed, so that sets and dicts of text repeat their order.
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUTF8": "1",
            "LANG": "C.UTF-8",
            "TZ": "UTC",
        }
        with theirs:
            # From this thread, not from a short-lived one: the zygote dies with the thread that made it.
            self._zygote = subprocess.Popen(
                arguments,
                env=environment,
                cwd=self._project,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._control = ours

    def _control_socket(self) -> socket.socket:
        assert self._control is not None
        return self._control

    async def _pump_zygote_output(self) -> None:
        assert self._zygote is not None and self._zygote.stdout is not None
        descriptor = self._zygote.stdout.fileno()
        os.set_blocking(descriptor, False)
        while True:
            await trio.lowlevel.wait_readable(descriptor)
            data = os.read(descriptor, 1 << 16)
            if not data:
                return
            self._on_output(data.decode(errors="backslashreplace"))

    async def _wait_ready(self, reader: "_ControlReader") -> None:
        message = await reader.receive()
        if message is None:
            assert self._zygote is not None
            status = await trio.to_thread.run_sync(self._zygote.wait)
            how = f"signal {-status}" if status < 0 else f"exit code {status}"
            raise SandboxUnavailableError(
                f"the process that imports {self._functions_folder}/ ended with {how}",
                remedy="what it printed stands above; an import that exits or crashes Python does this",
            )
        if "failed" in message:
            raise ImportFailedError(tuple(ImportFailure(**item) for item in message["failed"]))
        self._functions = tuple(_read_function(item) for item in message["ready"]["functions"])

    async def _serve(self, reader: "_ControlReader", nursery: trio.Nursery) -> None:
        """Take the zygote's messages until it dies."""
        while (message := await reader.receive()) is not None:
            if "forked" in message:
                worker = self._forking.popleft()
                worker.forked(message["forked"], reader.take_descriptor())
                self._workers[worker.pid] = worker
                nursery.start_soon(worker.pump_output)
                self._idle.append(worker)
                async with self._idle_changed:
                    self._idle_changed.notify()
            elif "exited" in message:
                exited = self._workers.pop(message["exited"], None)
                if exited is not None:
                    exited.exited(message["status"])
                    if exited in self._idle:
                        self._idle.remove(exited)
                        exited.close()
                        self._fill()

    def _fill(self) -> None:
        """Ask for as many workers as there should be in waiting."""
        while not self._closing and len(self._idle) + len(self._forking) < self._idle_target:
            self._fork()

    def _fork(self) -> None:
        start_theirs, start_ours = os.pipe2(os.O_CLOEXEC)
        output_ours, output_theirs = os.pipe2(os.O_CLOEXEC)
        wire_ours, wire_theirs = socket.socketpair()
        os.set_blocking(start_ours, False)
        os.set_blocking(output_ours, False)
        wire_ours.setblocking(False)
        worker = ProcessWorker(start_ours, output_ours, wire_ours)
        theirs = [start_theirs, output_theirs, wire_theirs.fileno()]
        try:
            socket.send_fds(self._control_socket(), [b"F"], theirs)
        except OSError:
            worker.close()  # The zygote is dying; the reader of its messages finds out.
        else:
            self._forking.append(worker)
        finally:
            os.close(start_theirs)
            os.close(output_theirs)
            wire_theirs.close()

    def _zygote_died(self) -> None:
        """Its workers die with it."""
        for worker in (*self._forking, *self._workers.values()):
            worker.exited(None)
        for worker in (*self._forking, *self._idle):
            worker.close()
        self._forking.clear()
        self._idle.clear()
        self._workers.clear()
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._zygote is not None:
            self._zygote.kill()
            self._zygote.wait()
            if self._zygote.stdout is not None:
                self._zygote.stdout.close()
            self._zygote = None

    async def _close(self) -> None:
        with trio.CancelScope(shield=True):
            self._zygote_died()
            async with self._idle_changed:
                self._idle_changed.notify_all()

    # Workers

    async def acquire(self) -> ProcessWorker:
        """See `flux.sandbox.base.Sandbox.acquire`; raise `SandboxUnavailableError`."""
        async with self._idle_changed:
            while True:
                if self._failure is not None:
                    raise self._failure
                if self._closing:
                    raise SandboxUnavailableError("this deployment is being taken down")
                while self._idle:
                    worker = self._idle.popleft()
                    if worker.alive:
                        self._fill()
                        return worker
                    worker.close()
                if self._control is not None and not self._forking:
                    self._fork()
                await self._idle_changed.wait()

    async def release(self, worker: Worker, *, reusable: bool) -> None:
        """See `flux.sandbox.base.Sandbox.release`."""
        assert isinstance(worker, ProcessWorker), "a worker goes back to the sandbox that it came from"
        worker.served += 1
        if reusable and worker.alive and worker.served < self._warm and not self._closing:
            self._idle.appendleft(worker)
            async with self._idle_changed:
                self._idle_changed.notify()
            return
        worker.kill()
        worker.close()


class _ControlReader:
    """Reads the zygote's messages and the descriptors that come with them."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._buffer = b""
        self._descriptors: deque[int] = deque()

    async def receive(self) -> dict[str, Any] | None:
        """Return the next message, or None when the zygote is gone."""
        while b"\n" not in self._buffer:
            await trio.lowlevel.wait_readable(self._control)
            try:
                data, descriptors, _flags, _address = socket.recv_fds(self._control, 1 << 16, 64)
            except BlockingIOError:
                continue
            except OSError as error:
                if error.errno in _closed_by_peer:
                    return None
                raise
            for descriptor in descriptors:
                fcntl.fcntl(descriptor, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
            self._descriptors.extend(descriptors)
            if not data:
                return None
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def take_descriptor(self) -> int:
        """Return the oldest descriptor that came and was not taken."""
        return self._descriptors.popleft()


def _read_function(item: dict[str, Any]) -> Function:
    timeout = item["timeout"]
    where = f"{item['file']}:{item['line']}"
    if isinstance(timeout, str):
        try:
            timeout = parse_duration_s(timeout)
        except FluxError as error:
            raise BadFunctionError(
                f"{where}  timeout of {item['name']}: {error.message}", remedy=error.remedy
            ) from error
    if isinstance(timeout, int | float) and not (timeout > 0 and math.isfinite(timeout)):
        raise BadFunctionError(f"{where}  timeout of {item['name']} must be above zero, not {timeout}")
    return Function(
        name=str(item["name"]),
        route=item["route"],
        position=Position(str(item["file"]), int(item["line"]), str(item["name"])),
        atomic=bool(item["atomic"]),
        isolation=item["isolation"],
        timeout_s=None if timeout is None else float(timeout),
        retries=int(item["retries"]),
        cron=item["cron"],
        middleware=None if item["middleware"] is None else tuple(item["middleware"]),
    )
