"""The door: descriptor 3, one JSON array a line. See PROTOCOL.md, "The wire".

One `Channel` a process. It writes calls and reads answers, one frame at a time:
what has not been asked for is not read, so that the order in which the function
hears of things is the host's order and nothing else.
"""

import os
import sys
import traceback
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

from flux_guest import _values
from flux_guest._errors import make_host_call_error
from flux_guest._lines import LineReader
from flux_guest._machine import NOW, Machine, leave

_HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep
FRAME_BYTES_MAX = 16 * 2**20
"""PROTOCOL.md's; the host ends a function that sends a longer one."""
OUTSTANDING_MAX = 1000
"""PROTOCOL.md's, likewise."""

Deliver = Callable[[Any, dict[str, Any] | None], None]


class Channel:
    """The guest's side of the wire."""

    def __init__(self, descriptor: int = 3, project: str = "", machine: Machine | None = None) -> None:
        self._descriptor = descriptor
        self._machine = leave() if machine is None else machine
        self._project = project.rstrip(os.sep) + os.sep
        self._lines = LineReader(descriptor)
        self._last_seq = 0
        self._position_cache: dict[int, tuple[CodeType, tuple[str, str] | None]] = {}
        """By the code object's id, with the object, so that the id stays its own. (Code objects of two files
        can be equal.)"""
        self.running = False
        """An execution runs: the world is the host's."""
        self.tells_waits = False
        """The host wants to know when nothing is left to run."""
        self.now_ns = 0
        """The guest's clock, nanoseconds since the epoch: it moves with the host's answers only (`move_clock`)."""
        self.started_ns = 0
        """The clock when the function started."""
        self.task_of: Callable[[], int] = lambda: 0
        """Tells which of the function's tasks is running."""
        self.waiting: dict[int, Deliver] = {}
        """What to do with the answer of each call in flight; called with (value, error)."""
        self.heard = 0
        """Answers that were read, of calls that were given up too."""
        self.before_waits: Callable[[], None] | None = None
        """Called before the host is asked, and before its answer is waited for: either may be the end."""
        self.loops: list[Callable[[], Any]] = []
        """Weak references to the event loops that were made, for `flux_guest._leftovers`."""

    def reset(self, now_ns: int) -> None:
        """Begin a new execution."""
        self._lines.forget()
        self._last_seq = self.heard = 0
        self.waiting.clear()
        self.now_ns = self.started_ns = now_ns
        self._machine.begin(now_ns)

    def move_clock(self, to_ns: int) -> None:
        """Move the clock, for C code too; never backwards."""
        if to_ns > self.now_ns:
            self.now_ns = self._machine.page[NOW] = to_ns

    # Where in the code

    def is_user_file(self, name: str) -> bool:
        """Whether ``name``, as a code object has it, is of the project and not of a library."""
        if name.startswith(_HERE) or not name.startswith(self._project):
            return False
        return not name[len(self._project) :].startswith((".", "venv" + os.sep))

    def relative(self, name: str) -> str:
        """Return a file's name relative to the project, if it is in there."""
        return _values.printable(name.removeprefix(self._project))

    def find_place(self, error: BaseException) -> str:
        """Return ``file:line`` of the innermost line of the project that ``error`` passed, or nothing."""
        place = ""
        for frame, line in traceback.walk_tb(error.__traceback__):
            if self.is_user_file(frame.f_code.co_filename):
                place = f"{self.relative(frame.f_code.co_filename)}:{line}"
        return place

    def find_position(self) -> str | None:
        """Return the innermost line of the project's code on the stack, as JSON."""
        frame: FrameType | None = sys._getframe(1)
        cache = self._position_cache
        while frame is not None:
            code = frame.f_code
            known = cache.get(id(code))
            if known is None:
                known = cache[id(code)] = (code, self._describe(code))
            if (described := known[1]) is not None:
                return f"[{described[0]},{frame.f_lineno},{described[1]}]"
            frame = frame.f_back
        return None

    def _describe(self, code: CodeType) -> tuple[str, str] | None:
        if not self.is_user_file(code.co_filename):
            return None
        # A file name that is no UTF-8 has halves of characters in it.
        return _values.encode(self.relative(code.co_filename)), _values.encode(code.co_qualname)

    def _meta(self, otherwise: str | None = None) -> str:
        task = self.task_of()
        position = self.find_position() or otherwise
        if position is None:
            return f',{{"task":{task}}}' if task else ""
        return f',{{"at":{position},"task":{task}}}' if task else f',{{"at":{position}}}'

    # Sending

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._descriptor, view) :]
            except BrokenPipeError:
                os._exit(0)  # The host is gone; nobody is left to tell.

    def send(self, name: str, arguments: list[Any], position: str | None = None) -> int:
        """Ask the host; return the call's number. ``position`` is told when none of the project's lines runs."""
        if not self.running:
            raise RuntimeError(f"{name} was asked when the execution was over")
        if len(self.waiting) >= OUTSTANDING_MAX:
            raise RuntimeError(f"{OUTSTANDING_MAX:,} calls wait for their answers already: await some of them first")
        # Written out first: what can't travel must not use up a number.
        text = f'"{name}",{_values.encode(arguments)}{self._meta(position)}]\n'.encode()
        if len(text) > FRAME_BYTES_MAX - 100:
            raise ValueError(f"{name} was given {len(text):,} bytes; a call carries at most {FRAME_BYTES_MAX:,}")
        if self.before_waits is not None:
            self.before_waits()
        self._last_seq += 1
        self._write(b"[%d,%b" % (self._last_seq, text))
        return self._last_seq

    def tell(self, name: str, arguments: list[Any]) -> None:
        """Tell the host something that needs no answer, if it is still there to be told."""
        if not self.running:
            return  # A finalizer that runs after the end: its execution is on record already.
        self._write(f'[0,"{name}",{_values.encode(arguments)}{self._meta()}]\n'.encode())

    def cancel(self, seq: int) -> None:
        """Tell the host that nobody waits for call ``seq`` any more; its answer still comes."""
        self._write(b'["cancel",%d]\n' % seq)

    @property
    def asked(self) -> int:
        """Number of the last call."""
        return self._last_seq

    def trace(self, what: str, text: str) -> None:
        """Tell the host of the execution that it has asked to follow; ``text`` is JSON."""
        self._write(f'["trace","{what}",{text}]\n'.encode())

    def finish(self, word: str, text: str) -> None:
        """End the execution with ``return`` or ``raise``; ``text`` is JSON."""
        self._write(f'["{word}",{text}]\n'.encode())

    def say_ready(self, number: int) -> None:
        """Tell the host that nothing is left of the execution before: what it has not read is read past."""
        line = b'["ready",%d]\n' % number
        while (heard := self._lines.read()) != line:
            if not heard.endswith(b"\n"):
                os._exit(0)  # The host is gone.
        self._write(line)

    # Hearing

    def receive(self) -> None:
        """Wait for one frame and hand it to whoever waits for it."""
        if self.before_waits is not None:
            self.before_waits()
        if self.tells_waits:
            self._write(b'["wait"]\n')
        line = self._lines.read()
        if not line.endswith(b"\n"):
            os._exit(0)  # The host is gone; nobody is left to answer to.
        seq, error, value, now_ns = _values.decode(line.decode())
        self.move_clock(now_ns)
        self.heard += 1
        deliver = self.waiting.pop(seq, None)
        if deliver is not None:
            deliver(value, error)

    def call(self, name: str, arguments: list[Any]) -> Any:
        """Ask the host and wait: the way of ``def`` handlers."""
        answer: list[tuple[Any, dict[str, Any] | None]] = []
        seq = self.send(name, arguments)
        self.waiting[seq] = lambda value, error: answer.append((value, error))
        while not answer:
            self.receive()
        value, error = answer[0]
        if error is not None:
            raise make_host_call_error(error, seq)
        return _values.from_json(value)

    def sleep(self, duration_s: float) -> None:
        """Have the host wait, and this process with it."""
        until_ns = self.now_ns + round(duration_s * 1e9)
        self.call("clock.sleep", [duration_s])
        # The host measures a sleep by another clock than the one it tells.
        self.move_clock(until_ns)
