"""``clock``: the guest's only clock.

A guest has no clock of its own. It asks, we answer and write the answer down,
and a replay hears the same time again. Every answer of every host call carries
the time as well; between two answers a guest's time stands still.
"""

import math
import time

import trio

from flux.hostcall import Effect
from flux.hostcalls.base import CallContext, Clock, HostCallFailed, HostCallKind, check_arguments

SLEEP_S_MAX = 24 * 3600.0


class SystemClock:
    """The host's wall clock, which steps back where somebody sets it."""

    def now_ns(self) -> int:
        """Return nanoseconds since the Unix epoch."""
        return time.time_ns()


class SteadyClock:
    """The clock of one execution, which never steps back.

    It is no longer-lived than that: a server's would stand still for as long as the host's had once been ahead.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last_ns = 0

    def now_ns(self) -> int:
        """Return nanoseconds since the Unix epoch, at least what it returned before."""
        # An NTP step backwards would make a guest's answers travel in time.
        self._last_ns = max(self._last_ns, self._clock.now_ns())
        return self._last_ns


async def _now(context: CallContext, arguments: list[object], _seq: int) -> object:
    check_arguments("clock.now", arguments)
    return context.clock.now_ns()


async def _sleep(_context: CallContext, arguments: list[object], _seq: int) -> object:
    check_arguments("clock.sleep", arguments, (int, float))
    (seconds,) = arguments
    assert isinstance(seconds, int | float)
    if not (math.isfinite(seconds) and 0 <= seconds <= SLEEP_S_MAX):
        raise HostCallFailed(
            "InvalidArguments", f"clock.sleep takes 0 to {SLEEP_S_MAX:.0f} seconds", code="FLX425"
        )
    await trio.sleep(seconds)
    return None


NOW = HostCallKind(name="clock.now", effect=Effect.OBSERVES, perform=_now, immediate=True)
"""Nanoseconds since the Unix epoch, from the host's wall clock."""

SLEEP = HostCallKind(name="clock.sleep", effect=Effect.OBSERVES, perform=_sleep)
"""Waits; takes seconds."""
