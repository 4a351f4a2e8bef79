"""``sys.stdout`` and ``sys.stderr`` of a function: each printed line is a log line, in its place.

They stand in for the real ones before the project's modules are imported, since
a logging handler made then keeps the stream that it found. While no execution
runs, what is written goes to the process's own descriptor.
"""

import io
import os
from typing import Any

from flux_guest import _values
from flux_guest._channel import Channel

LINE_CHARACTERS_MAX = 64 * 1024
"""A longer line is logged in pieces of this size."""


class LineStream(io.TextIOBase):
    """One of the two."""

    def __init__(self, channel: Channel, level: str, descriptor: int) -> None:
        self._channel = channel
        self._level = level
        self._descriptor = descriptor
        self._pending: list[str] = []
        self._pending_characters = 0
        self._bytes = _ByteStream(self)

    @property
    def encoding(self) -> str:  # type: ignore[override]  # a plain attribute in typeshed
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        return "backslashreplace"

    @property
    def buffer(self) -> "_ByteStream":
        """For those who print bytes."""
        return self._bytes

    def fileno(self) -> int:
        return self._descriptor

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if not self._channel.running:
            data = memoryview(text.encode("utf-8", "backslashreplace"))
            while data:
                data = data[os.write(self._descriptor, data) :]
            return len(text)
        start = 0
        while (end := text.find("\n", start)) >= 0:
            self._add(text[start:end])
            self._send()
            start = end + 1
        self._add(text[start:])
        return len(text)

    def _add(self, text: str) -> None:
        while text:
            room = LINE_CHARACTERS_MAX - self._pending_characters
            self._pending.append(text[:room])
            self._pending_characters += len(text[:room])
            text = text[room:]
            if text:
                self._send()

    def _send(self) -> None:
        line = _values.printable("".join(self._pending))
        self._pending.clear()
        self._pending_characters = 0
        self._channel.tell("log.write", [self._level, line, {}])

    def finish(self) -> None:
        """Log what was printed without a newline."""
        if self._pending:
            self._send()


class _ByteStream(io.RawIOBase):
    def __init__(self, stream: LineStream) -> None:
        self._stream = stream

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = bytes(data)
        self._stream.write(view.decode("utf-8", "backslashreplace"))
        return len(view)
