"""The ``date`` of an answer, made anew once a second.

"An origin server with a clock [...] MUST generate a Date header field in all 2xx
(Successful), 3xx (Redirection), and 4xx (Client Error) responses" -- RFC 9110,
section 6.6.1. Ours has it on every answer: the command line takes it for the
server's clock.
"""

from email.utils import formatdate

from flux.hostcalls.clock import SystemClock

_SECOND_NS = 1_000_000_000


class HttpDate:
    """Gives the time as HTTP writes it."""

    def __init__(self, clock: SystemClock) -> None:
        self._clock = clock
        self._second = -1
        self._text = b""

    def now(self) -> bytes:
        """Return the present second, such as ``Sun, 06 Nov 1994 08:49:37 GMT``."""
        second = self._clock.now_ns() // _SECOND_NS
        if second != self._second:
            self._second = second
            self._text = formatdate(second, usegmt=True).encode("ascii")
        return self._text
