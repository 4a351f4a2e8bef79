"""What a project's modules print while they load, as whole lines.

`print` may write a line in pieces, and a pipe may be read between two of them. Whoever hears it puts something before
each line; a line in two halves would be told as two. So the beginning of a line is kept until the rest is there, or
nothing more can come, or it is longer than a line may be, or it has waited: what a module says before it hangs is what
somebody will want to read.
"""

import codecs
import math
import os
from collections.abc import Callable

import trio

READ_BYTES = 1 << 16
READS_MAX = 16
"""At a time: a module that prints without end must not keep us here."""
LINE_CHARS_MAX = 1 << 16
"""A line longer than this is told in parts."""
PATIENCE_S = 2.0
"""How long the beginning of a line waits for the rest."""


class Output:
    """The reading end of the pipe that modules print to. It does not own the descriptor."""

    def __init__(self, descriptor: int, on_output: Callable[[str], None]) -> None:
        """``on_output`` hears lines, one or more at a time, each with its end; only the last one may have none."""
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._on_output = on_output
        # A character may be cut in two just as a line may.
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._begun = ""

    async def pump(self) -> None:
        """Hand on what is printed, until the end."""
        while True:
            with trio.move_on_after(PATIENCE_S if self._begun else math.inf) as patience:
                await trio.lowlevel.wait_readable(self._descriptor)
            if patience.cancelled_caught:
                self._tell("", final=True)
            elif not self._take():
                return

    def finish(self) -> None:
        """Hand on what is still there, as nothing more will come."""
        self._take()
        self._tell(self._decoder.decode(b"", final=True), final=True)

    def _take(self) -> bool:
        """Hand on what is there to read; return False at its end."""
        try:
            for _ in range(READS_MAX):
                data = os.read(self._descriptor, READ_BYTES)
                if not data:
                    return False
                self._tell(self._decoder.decode(data))
        except BlockingIOError:
            pass
        return True

    def _tell(self, text: str, *, final: bool = False) -> None:
        whole, end, begun = text.rpartition("\n")
        told = self._begun + whole + end if end else ""
        self._begun = begun if end else self._begun + begun
        if final or len(self._begun) > LINE_CHARS_MAX:
            told, self._begun = told + self._begun, ""
        if told:
            self._on_output(told)
