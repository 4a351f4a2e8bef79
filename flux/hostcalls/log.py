"""``log``: what a function says about itself, as part of its execution's record.

The driver keeps log lines itself, since they answer nothing and their order with
the other calls is all that matters; this file says what a line is allowed to be.
"""

from flux import values
from flux.execution import LogLine
from flux.hostcall import HostCallRequest
from flux.hostcalls.base import LogLevel

NAME = "log.write"
"""Takes level, message and an object of fields; answers nothing."""

_LEVELS = frozenset(LogLevel)


class BadLogLineError(ValueError):
    """A guest sent something else than a log line under its name."""


def read_line(request: HostCallRequest, at_ns: int) -> LogLine:
    """Return the log line in ``request``; raise `BadLogLineError`."""
    arguments = values.decode(request.arguments)
    match arguments:
        case [str(level), str(message), dict(fields)] if level in _LEVELS:
            return LogLine(at_ns, level, message, values.encode_canonical(fields), request.position)
    raise BadLogLineError(f"log.write takes a level of {', '.join(LogLevel)}, a message and fields")
