"""The door: descriptor 3, one JSON array a line. See PROTOCOL.md, "The wire".

One `Channel` a process. It writes calls and reads answers, one frame at a time:
what has not been asked for is not read, so that the order in which the function
hears of things is the host's order and nothing else.
"""

import os
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from flux_guest import _values
from flux_guest._errors import make_host_call_error

_HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep


class Channel:
    """The guest's side of the wire."""

    def __init__(self, descriptor: int = 3, project: str = "") -> None:
        self._descriptor = descriptor
        self._project = project.rstrip(os.sep) + os.sep
        self._buffer = bytearray()
        self._last_seq = 0
        self._position_cache: dict[Any, str | None] = {}
        self.now_ns = 0
        """The guest's clock, nanoseconds since the epoch: it moves with the host's answers only."""
        self.started_ns = 0
        """The clock when the function started."""
        self.task_of: Callable[[], int] = lambda: 0
        """Tells which of the function's tasks is running."""
        self.waiting: dict[int, Callable[[Any, dict[str, Any] | None], None]] = {}
        """What to do with the answer of each call in flight; called with (value, error)."""

    def reset(self, now_ns: int) -> None:
        """Begin a new execution."""
        self._buffer.clear()
        self._last_seq = 0
        self.waiting.clear()
        self.now_ns = self.started_ns = now_ns

    # Sending

    def _write(self, text: str) -> None:
        data = memoryview(text.encode() + b"\n")
        while data:
            data = data[os.write(self._descriptor, data) :]

    def _meta(self) -> str:
        task = self.task_of()
        position = self._find_position()
        if position is None and not task:
            return ""
        if position is None:
            return f',{{"task":{task}}}'
        return f',{{"at":{position},"task":{task}}}' if task else f',{{"at":{position}}}'

    def _find_position(self) -> str | None:
        """Return the innermost line of the project's code on the stack, as JSON."""
        frame: FrameType | None = sys._getframe(2)
        cache = self._position_cache
        while frame is not None:
            code = frame.f_code
            prefix = cache.get(code, "")
            if prefix == "":
                prefix = cache[code] = self._describe(code)
            if prefix is not None:
                file, function = prefix.split("\0")
                return f"[{file},{frame.f_lineno},{function}]"
            frame = frame.f_back
        return None

    def _describe(self, code: Any) -> str | None:
        name = code.co_filename
        if name.startswith(_HERE) or not name.startswith(self._project):
            return None
        relative = name[len(self._project) :]
        if relative.startswith((".", "venv")):
            return None
        # A file name that is no UTF-8 has halves of characters in it.
        return f"{_values.encode(_values.printable(relative))}\0{_values.encode(code.co_qualname)}"

    def send(self, name: str, arguments: list[Any]) -> int:
        """Ask the host; return the call's number."""
        text = _values.encode(arguments)  # First: a value that can't travel must not use up a number.
        self._last_seq += 1
        seq = self._last_seq
        self._write(f'[{seq},"{name}",{text}{self._meta()}]')
        return seq

    def tell(self, name: str, arguments: list[Any]) -> None:
        """Tell the host something that needs no answer."""
        self._write(f'[0,"{name}",{_values.encode(arguments)}{self._meta()}]')

    def cancel(self, seq: int) -> None:
        """Tell the host that nobody waits for call ``seq`` any more; its answer still comes."""
        self._write(f'["cancel",{seq}]')

    def finish(self, word: str, text: str) -> None:
        """End the execution with ``return`` or ``raise``; ``text`` is JSON."""
        self._write(f'["{word}",{text}]')

    # Hearing

    def receive(self) -> None:
        """Wait for one frame and hand it to whoever waits for it."""
        buffer = self._buffer
        end = buffer.find(b"\n")
        while end < 0:
            data = os.read(self._descriptor, 1 << 18)
            if not data:
                os._exit(0)  # The host is gone; nobody is left to answer to.
            scanned = len(buffer)
            buffer += data
            end = buffer.find(b"\n", scanned)
        line = buffer[:end].decode()
        del buffer[: end + 1]
        seq, error, value, now_ns = _values.decode(line)
        self.now_ns = max(self.now_ns, now_ns)
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
