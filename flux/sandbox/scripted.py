"""Sandbox kind for tests: guests are coroutines in this process, and speak the same wire.

A *script* plays one guest. It gets the start document and a `ScriptedGuest`, calls
the host through it, and returns bytes or raises, or ends in ways that a real guest
may end, or writes bytes that no honest guest would write. Nothing waits for the
operating system, so a test can draw trio's schedule and the clock.

It passes `flux.sandbox.conformance.check_sandbox` as the others do, but for what
needs a process: a guest that computes for ever without a checkpoint can't be killed.
"""

import json
import signal
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import attrs
import trio

from flux.deployment import Function
from flux.execution import Level
from flux.hostcall import Position
from flux.sandbox.base import Exit, Worker

WIRE_BYTES = 200_000
"""What the wire holds each way before a writer waits: about what a socket pair does."""


class ScriptedExit(BaseException):
    """A script raises it to end as a process would."""

    def __init__(self, exit_code: int | None = None, signal: int | None = None) -> None:
        super().__init__()
        self.exit_code = exit_code
        self.signal = signal


class _Pipe:
    """Bytes one way, with a limit and an end."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._waiting = trio.lowlevel.ParkingLot()
        self.closed = False

    def write_nowait(self, data: bytes) -> int:
        """Put what fits; all when nobody will read it."""
        if self.closed:
            return len(data)
        taken = data[: WIRE_BYTES - len(self._data)]
        self._data += taken
        self._waiting.unpark_all()
        return len(taken)

    async def write(self, data: bytes) -> None:
        """Put all of it, waiting for room."""
        await trio.lowlevel.checkpoint()
        while data := data[self.write_nowait(data) :]:
            await self._waiting.park()

    async def read(self) -> bytes:
        """Return what is there, waiting for the first byte; nothing at the end."""
        await trio.lowlevel.checkpoint()
        while not self._data and not self.closed:
            await self._waiting.park()
        data = bytes(self._data)
        self._data.clear()
        self._waiting.unpark_all()
        return data

    def close(self) -> None:
        """Nothing comes any more; what is there can still be read."""
        self.closed = True
        self._waiting.unpark_all()


class ScriptedGuest:
    """The guest's side: what a script may do."""

    def __init__(self, outward: _Pipe, inward: _Pipe, output: list[str]) -> None:
        self._outward = outward
        self._inward = inward
        self._buffer = bytearray()
        self._last_seq = 0
        self.output = output
        """What it writes past the SDK."""
        self.answers: dict[int, tuple[Any, Any]] = {}
        """(error, value) of each call, as they came."""

    async def write(self, data: bytes) -> None:
        """Put bytes on the wire, whatever they are."""
        await self._outward.write(data)

    async def ask(self, name: str, *arguments: Any) -> int:
        """Make a call and wait for nothing; return its number."""
        self._last_seq += 1
        await self.write(json.dumps([self._last_seq, name, list(arguments)]).encode() + b"\n")
        return self._last_seq

    async def hear(self) -> int:
        """Wait for one answer; return which call's it is. Its end is the host's."""
        while b"\n" not in self._buffer:
            data = await self._inward.read()
            if not data:
                raise ScriptedExit(0)
            self._buffer += data
        line, _, rest = self._buffer.partition(b"\n")
        self._buffer = bytearray(rest)
        seq, error, value, _now_ns = json.loads(line)
        self.answers[seq] = (error, value)
        return int(seq)

    async def call(self, name: str, *arguments: Any) -> Any:
        """Make a call and wait for its answer; raise `RuntimeError` with the name of its error."""
        seq = await self.ask(name, *arguments)
        while seq not in self.answers:
            await self.hear()
        error, value = self.answers[seq]
        if error is not None:
            raise RuntimeError(error["name"])
        return value

    async def log(self, message: str) -> None:
        """Log a line."""
        await self.write(json.dumps([0, "log.write", ["info", message, {}]]).encode() + b"\n")

    async def cancel(self, seq: int) -> None:
        """Give a call up."""
        await self.write(b'["cancel",%d]\n' % seq)

    def close_wire(self) -> None:
        """Close descriptor 3 and go on."""
        self._outward.close()


Script = Callable[[ScriptedGuest, dict[str, Any]], Awaitable[bytes | str | dict[str, Any] | None]]
"""Plays one execution: takes the guest's side and the start document; returns the answer's body, or a whole answer."""


class ScriptedWorker:
    """See `flux.sandbox.base.Worker`."""

    meter = None

    def __init__(self, pid: int, scripts: Mapping[str, Script], nursery: trio.Nursery) -> None:
        self.pid = pid
        self.served = 0
        self._scripts = scripts
        self._nursery = nursery
        self._scope = trio.CancelScope()
        self._outward, self._inward = _Pipe(), _Pipe()
        self._documents: list[bytes] = []
        self._output: list[str] = []
        self._exit: Exit | None = None
        self._exited = trio.Event()
        self._running = False

    async def start(self, document: bytes) -> None:
        """See `flux.sandbox.base.Worker.start`."""
        await trio.lowlevel.checkpoint()
        self._documents.append(document)
        if not self._running:
            self._running = True
            self._nursery.start_soon(self._live)

    async def _live(self) -> None:
        exited = Exit(None, signal.SIGKILL)
        with self._scope:
            try:
                while self._documents:
                    await self._run(json.loads(self._documents.pop(0)))
                self._running = False
                return  # It waits for another document.
            except ScriptedExit as ended:
                exited = Exit(ended.exit_code, ended.signal)
        self._end(exited)

    def _end(self, exited: Exit) -> None:
        self._exit = attrs.evolve(exited, output=self.take_output())
        self._outward.close()
        self._inward.close()
        self._exited.set()

    async def _run(self, document: dict[str, Any]) -> None:
        guest = ScriptedGuest(self._outward, self._inward, self._output)
        try:
            body = await self._scripts[document["function"]](guest, document)
        except Exception as error:
            frame = ["raise", {"type": type(error).__name__, "message": str(error)}]
        else:
            answer = body if isinstance(body, dict) else {"status": 200, "headers": [], "body": body or ""}
            frame = ["return", answer]
        await guest.write(json.dumps(frame).encode() + b"\n")

    async def receive(self) -> bytes:
        """See `flux.sandbox.base.Worker.receive`."""
        return await self._outward.read()

    async def send(self, data: bytes) -> None:
        """See `flux.sandbox.base.Worker.send`."""
        await self._inward.write(data)

    def send_nowait(self, data: bytes) -> int:
        """See `flux.sandbox.base.Worker.send_nowait`."""
        return self._inward.write_nowait(data)

    def take_output(self) -> str:
        """See `flux.sandbox.base.Worker.take_output`."""
        text = "".join(self._output)
        self._output.clear()
        return text

    def kill(self) -> None:
        """See `flux.sandbox.base.Worker.kill`."""
        if self._running:
            self._scope.cancel()
        elif self._exit is None:
            self._end(Exit(None, signal.SIGKILL))

    def has_ended(self) -> bool:
        """See `flux.sandbox.base.Worker.has_ended`."""
        return self._exit is not None

    async def wait_exit(self) -> Exit:
        """See `flux.sandbox.base.Worker.wait_exit`."""
        await self._exited.wait()
        assert self._exit is not None
        return self._exit


class ScriptedSandbox:
    """See `flux.sandbox.base.Sandbox`."""

    level = Level("scripted", "none", "none")

    def __init__(self, scripts: Mapping[str, Script], nursery: trio.Nursery) -> None:
        """Scripts by the names of the functions that they play; their tasks run in ``nursery``."""
        self._scripts = scripts
        self._nursery = nursery
        self._made = 0
        self._idle: list[ScriptedWorker] = []

    @property
    def functions(self) -> tuple[Function, ...]:
        """See `flux.sandbox.base.Sandbox.functions`."""
        return tuple(Function(name, None, Position("script.py", 1, name)) for name in self._scripts)

    async def acquire(self, *, fresh: bool = False) -> ScriptedWorker:
        """See `flux.sandbox.base.Sandbox.acquire`."""
        await trio.lowlevel.checkpoint()
        if self._idle and not fresh:
            return self._idle.pop()
        self._made += 1
        return ScriptedWorker(self._made, self._scripts, self._nursery)

    async def release(self, worker: Worker, *, reusable: bool) -> None:
        """See `flux.sandbox.base.Sandbox.release`."""
        assert isinstance(worker, ScriptedWorker), "a worker goes back to the sandbox that it came from"
        worker.served += 1
        if reusable:
            self._idle.append(worker)
        else:
            worker.kill()
