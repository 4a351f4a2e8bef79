"""One forked worker, as seen from the supervisor: three pipes and a pidfd.

Its process may lie, hang or die at any moment. Bytes go to it and come from it
here, unread; how it ended is told by the zygote, whose child it is (`exited`).
The pidfd makes a kill reach this process or nobody, never a stranger who got its
number later.

A worker's descriptors are open until `close`; nothing here reads or writes a
number that is no longer its own.
"""

import contextlib
import os
import select
import signal
import socket
from collections.abc import Callable

import trio

from flux.sandbox.base import Exit
from flux.sandbox.zygote import CLOSED_BY_PEER

RECEIVE_BYTES = 1 << 18
OUTPUT_BYTES_MAX = 64 * 1024
"""What is kept of a worker's writes past the SDK; the last of it counts."""
OUTPUT_READS_MAX = 32
"""Reads at a time: more than any pipe holds, and an end to it when a guest writes faster than we read."""
ZYGOTE_DIED = "the process that forks workers was killed, and its workers with it"


def _ask_nobody() -> None:
    """There is no zygote yet."""


class ProcessWorker:
    """See the module, and `flux.sandbox.base.Worker`."""

    meter = None
    """Nobody counts what a process of the operating system's burns to the unit."""

    def __init__(self, start: int, output: int, wire: socket.socket) -> None:
        self._start = start
        self._output = output
        self._wire = wire
        self._wire_descriptor = wire.fileno()
        self._tail = bytearray()
        self._exit: Exit | None = None
        self._exited = trio.Event()
        self._closed = False
        self._handle = -1
        self._ask_exits: Callable[[], None] = _ask_nobody
        self.pid = 0
        self.served = 0
        """Executions that it has finished."""

    def forked(self, pid: int, handle: int, ask_exits: Callable[[], None] = _ask_nobody) -> None:
        """The zygote has forked it; ``handle`` is its pidfd, from now on its own.

        ``ask_exits`` has the zygote say which of its workers have ended.
        """
        self.pid, self._handle, self._ask_exits = pid, handle, ask_exits

    # The wire

    async def start(self, document: bytes) -> None:
        """See `flux.sandbox.base.Worker.start`."""
        await self._write(self._start, document + b"\n")

    async def _write(self, descriptor: int, data: bytes) -> None:
        view = memoryview(data)
        while view := view[_write_nowait(descriptor, view) :]:
            await trio.lowlevel.wait_writable(descriptor)

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
                if error.errno in CLOSED_BY_PEER:
                    return b""
                raise

    async def rest(self) -> bool:
        """Have it put things in order after an execution; return whether nothing is left that the next could meet."""
        expected = b'["ready",%d]\n' % self.served
        await self.send(expected)  # Behind answers that it may not have read.
        await self.start(b'{"ready":%d}' % self.served)
        heard = b""
        while len(heard) < len(expected):
            data = await self.receive()
            if not data:
                return False
            heard += data
        return heard == expected

    async def send(self, data: bytes) -> None:
        """See `flux.sandbox.base.Worker.send`."""
        await self._write(self._wire_descriptor, data)

    def send_nowait(self, data: bytes) -> int:
        """See `flux.sandbox.base.Worker.send_nowait`."""
        return _write_nowait(self._wire_descriptor, memoryview(data))

    # What it writes past the SDK

    async def pump_output(self) -> None:
        """Keep the pipe of its descriptors 1 and 2 empty until it ends or is let go."""
        with contextlib.suppress(trio.ClosedResourceError):
            while not self._closed:
                await trio.lowlevel.wait_readable(self._output)
                if not self._read_output():
                    return

    def _read_output(self) -> bool:
        """Read what is there; return False at its end."""
        # `close` may have come between our being woken and our running: the number is then another's.
        if self._closed:
            return False
        try:
            for _ in range(OUTPUT_READS_MAX):
                data = os.read(self._output, OUTPUT_BYTES_MAX)
                if not data:
                    return False
                self._tail += data
                del self._tail[:-OUTPUT_BYTES_MAX]
        except BlockingIOError:
            pass
        return True

    def take_output(self) -> str:
        """See `flux.sandbox.base.Worker.take_output`."""
        self._read_output()
        text = self._tail.decode(errors="backslashreplace")
        self._tail.clear()
        return text

    # Its end

    def kill(self) -> None:
        """See `flux.sandbox.base.Worker.kill`."""
        if self._handle >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)

    def exited(self, status: int | None) -> None:
        """Its wait status is known; None when the zygote died before it could tell."""
        if self._exit is not None:
            return
        output = self.take_output()
        if status is None:
            self._exit = Exit(None, None, output or ZYGOTE_DIED)
        elif os.WIFSIGNALED(status):
            self._exit = Exit(None, os.WTERMSIG(status), output)
        else:
            self._exit = Exit(os.WEXITSTATUS(status), None, output)
        self._exited.set()

    def is_running(self) -> bool:
        """Look whether its process has ended: a pidfd is readable from then on."""
        poll = select.poll()
        poll.register(self._handle, select.POLLIN)
        return self._exit is None and not poll.poll(0)

    def has_ended(self) -> bool:
        """See `flux.sandbox.base.Worker.has_ended`: the kernel says so before the zygote says how."""
        return not self.is_running()

    async def wait_exit(self) -> Exit:
        """See `flux.sandbox.base.Worker.wait_exit`."""
        if self._exit is None and self._handle >= 0:
            handle = os.dup(self._handle)  # Ours may be closed meanwhile.
            try:
                await trio.lowlevel.wait_readable(handle)
            finally:
                os.close(handle)
            self._ask_exits()
        await self._exited.wait()
        assert self._exit is not None
        return self._exit

    def close(self) -> None:
        """Let go of its descriptors: one that still lives sees end of file and ends."""
        if self._closed:
            return
        self._closed = True
        for descriptor in (self._start, self._output, self._wire_descriptor):
            trio.lowlevel.notify_closing(descriptor)
        self._wire.close()
        os.close(self._start)
        os.close(self._output)
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def _write_nowait(descriptor: int, view: memoryview) -> int:
    """Write what fits; return how many bytes went, all when nobody is left to read them."""
    written = 0
    try:
        while written < len(view):
            written += os.write(descriptor, view[written:])
    except BlockingIOError:
        return written
    except OSError as error:
        if error.errno not in CLOSED_BY_PEER:
            raise
        return len(view)  # It is gone: whoever reads the wire learns so.
    return written
