"""One wasm guest, as seen from the supervisor: a socket to the process that runs it.

The process is shared with other guests of the same deployment, so a guest is ended by
closing its socket, and how it ended is told on the socket as well: see the kinds of
lines in `flux.sandbox.wasm_world`. Those that are not the guest's are taken out here; the
rest is the wire, and goes up unread.
"""

import contextlib
import json
import os
import re
import signal
import socket

import attrs
import trio

from flux.sandbox.base import Eviction, Exit, Reading
from flux.sandbox.wasm_world import ORDER

RECEIVE_BYTES = 1 << 18
OUTPUT_CHARACTERS_MAX = 64 * 1024
LINE_BYTES_MAX = 1 << 20
"""A line of the host process's own has at most 64 KiB of text, escaped."""
NO_WORD = "the process that runs wasm functions ended it without a word, or was killed: see the server's output"
WHY_CHARACTERS_MAX = 500
UNHEARD_BYTES_MAX = 64 * 2**20
"""A guest that is over sends what was on its way, and no more."""
FUEL_MAX = 2**63 - 1
_EXIT, _OUTPUT, _OVER, _NEWLINE = b"023\n"
_OURS = (_EXIT, _OUTPUT, _OVER)
_HASH = re.compile(r"[0-9a-f]{64}|")


class WasmWorker:
    """See the module, and `flux.sandbox.base.Worker`."""

    served = 0
    """An isolate serves once."""

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self.pid = pid
        """Of the process; all guests of a deployment have the same."""
        self._connection = connection
        self._descriptor = connection.fileno()
        connection.setblocking(False)
        self._at_start = True
        """The next byte begins a line."""
        self._line: bytearray | None = None
        """A line of the host process's that is not whole yet."""
        self._output = ""
        self._exit: Exit | None = None
        self._over = trio.Event()
        self._killed = False
        self._closed = False
        self._order: dict[str, int | bool] = {}
        self._reading: Reading | None = None

    async def start(self, document: bytes) -> None:
        """See `flux.sandbox.base.Worker.start`."""
        order = ORDER + json.dumps(self._order).encode() + b"\n" if self._order else b""
        await self.send(order + document + b"\n")

    async def send(self, data: bytes) -> None:
        """See `flux.sandbox.base.Worker.send`."""
        view = memoryview(data)
        while view := view[self.send_nowait(view) :]:
            await trio.lowlevel.wait_writable(self._descriptor)

    def send_nowait(self, data: bytes | memoryview) -> int:
        """See `flux.sandbox.base.Worker.send_nowait`."""
        sent = 0
        try:
            while sent < len(data):
                sent += self._connection.send(memoryview(data)[sent:], socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return sent
        except OSError:
            return len(data)  # It is gone: whoever reads the wire learns so.
        return sent

    async def receive(self) -> bytes:
        """See `flux.sandbox.base.Worker.receive`."""
        while True:
            if self._killed or self._exit is not None:
                await trio.lowlevel.checkpoint()
                return b""
            await trio.lowlevel.wait_readable(self._descriptor)
            data = None if self._killed else self._read_nowait()
            if data is None:
                continue
            if not data:
                self._end(None, None, NO_WORD)
                return b""
            wire = self._take_lines(data)
            if wire:
                return wire

    def _read_nowait(self) -> bytes | None:
        """Return what is there, empty at the end, None when there is nothing."""
        try:
            return self._connection.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return None
        except ConnectionError:
            return b""

    def _take_lines(self, data: bytes) -> bytes:
        """Return ``data`` without the host process's own lines, which are heard."""
        plain = self._line is None and not (self._at_start and data[0] in _OURS)
        if plain and b"\n2" not in data and b"\n3" not in data and b"\n0" not in data:
            self._at_start = data[-1] == _NEWLINE
            return data
        wire = bytearray()
        at = 0
        while at < len(data):
            end = data.find(b"\n", at) + 1
            part = data[at : end or len(data)]
            if self._line is not None:
                self._line += part
            elif self._at_start and data[at] in _OURS:
                self._line = bytearray(part)
            else:
                wire += part
            self._at_start = end > 0
            if self._line is not None and (end > 0 or len(self._line) > LINE_BYTES_MAX):
                self._hear(bytes(self._line))
                self._line = None
            at = end or len(data)
        return bytes(wire)

    def _hear(self, line: bytes) -> None:
        """Take a line of the host process's own. It runs the project's code, so nothing it says must break us."""
        try:
            match json.loads(line[1:]):
                case str(text) if line[0] == _OUTPUT:
                    self._output = (self._output + text)[-OUTPUT_CHARACTERS_MAX:]
                case {"fuel": int(fuel), **more} if line[0] == _OVER and _is_fuel(fuel):
                    memory = str(more.get("memory", ""))
                    self._reading = Reading(fuel, memory if _HASH.fullmatch(memory) else "")
                case {"stopped": True} if line[0] == _EXIT:
                    self._set_exit(Exit(None, None, is_stopped=True))
                case {"evicted": str(why), "bytes_max": int(bytes_max)} if line[0] == _EXIT:
                    eviction = Eviction(why[:WHY_CHARACTERS_MAX], bytes_max)
                    self._set_exit(Exit(None, signal.SIGKILL, self.take_output(), eviction=eviction))
                case {"exit_code": int(code)} if 0 <= code <= 255:
                    self._end(code, None)
                case {"signal": int(number)} if 0 < number < 65:
                    self._end(None, number)
                case _:
                    self._end(None, None, f"it ended with {line[:200]!r}")
        except (ValueError, RecursionError):
            self._end(None, None, f"it ended with {line[:200]!r}")

    def take_output(self) -> str:
        """See `flux.sandbox.base.Worker.take_output`."""
        output, self._output = self._output, ""
        return output

    # Its fuel

    @property
    def meter(self) -> "WasmWorker":
        """See `flux.sandbox.base.Worker.meter`."""
        return self

    def stop_at(self, fuel: int) -> None:
        """See `flux.sandbox.base.Meter.stop_at`."""
        self._order["stop_fuel"] = fuel

    def ask_memory(self) -> None:
        """See `flux.sandbox.base.Meter.ask_memory`."""
        self._order["memory"] = True

    def slice_by(self, fuel: int) -> None:
        """See `flux.sandbox.base.Meter.slice_by`."""
        self._order["slice_fuel"] = fuel

    async def wait_reading(self) -> Reading | None:
        """See `flux.sandbox.base.Meter.wait_reading`."""
        unheard = bytearray()
        while self._reading is None and len(unheard) < UNHEARD_BYTES_MAX:
            if self._exit is not None and not self._killed:
                break  # How it ended is the last that is told of it.
            await trio.lowlevel.wait_readable(self._descriptor)
            data = self._read_nowait()
            if data:
                unheard += self._take_lines(data)
            elif data is not None:
                return None
        await trio.lowlevel.checkpoint()
        return None if self._reading is None else attrs.evolve(self._reading, unheard=bytes(unheard))

    # Its end

    def _end(self, exit_code: int | None, number: int | None, instead: str = "") -> None:
        """It has ended by itself; ``instead`` is said of one that has left no words."""
        if self._exit is None:
            self._set_exit(Exit(exit_code, number, self.take_output() or instead))

    def _set_exit(self, how: Exit) -> None:
        if self._exit is None:
            self._exit = how
            self._over.set()

    def kill(self) -> None:
        """See `flux.sandbox.base.Worker.kill`. Its process notices within a turn, and nobody hears it till then."""
        if self._closed or self._killed:
            return
        self._killed = True
        self._set_exit(Exit(None, signal.SIGKILL, ""))
        with contextlib.suppress(OSError):  # Its process may be gone already.
            self._connection.shutdown(socket.SHUT_WR)

    async def wait_gone(self) -> None:
        """Wait until its process has let go of it."""
        while self._read_nowait() != b"":
            await trio.lowlevel.wait_readable(self._descriptor)

    def has_ended(self) -> bool:
        """See `flux.sandbox.base.Worker.has_ended`."""
        return self._exit is not None

    async def wait_exit(self) -> Exit:
        """See `flux.sandbox.base.Worker.wait_exit`."""
        while self._exit is None:
            # An exit is told on the wire: somebody must listen.
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen_for_exit)
                await self._over.wait()
                nursery.cancel_scope.cancel()
        await trio.lowlevel.checkpoint()
        return self._exit

    async def _listen_for_exit(self) -> None:
        while self._exit is None:
            await self.receive()

    def close(self) -> None:
        """Let go of it: a guest that still runs is over."""
        if not self._closed:
            self._closed = True
            trio.lowlevel.notify_closing(self._descriptor)
            self._connection.close()


def _is_fuel(said: int) -> bool:
    return type(said) is int and 0 <= said <= FUEL_MAX  # True would be one, too.


def make_pair(pid: int) -> tuple[WasmWorker, int]:
    """Return a worker and the descriptor of its other end, which is the caller's; raise OSError."""
    ours, theirs = socket.socketpair()
    try:
        return WasmWorker(ours, pid), os.dup(theirs.fileno())
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
