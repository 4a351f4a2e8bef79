"""How many workers should wait for work: as many as the last seconds would have had a use for.

A worker that waits costs memory; one that is forked when a request is there already costs
that request a few milliseconds. Requests come in bursts, so what counts is not how many
come in a second but how many come faster than workers can be forked: the most that were
taken within one window. That number is forgotten again, half of it in each half-life, until
what is left is what the sandbox keeps in any case.

It only counts: times are told to it, and nothing here waits.
"""

import math

import attrs

WINDOW_S = 0.1
"""What is forked meanwhile comes too late for a burst. A fork takes a few milliseconds, more with others beside it."""
HALF_LIFE_S = 10.0


@attrs.define
class Demand:
    """What one sandbox is asked for."""

    least: int
    """Workers that wait however little is asked for."""
    most: int
    """Workers that wait however much is asked for."""
    _peak: float = 0.0
    """The most that were taken within a window, as of `_peak_at_s`."""
    _peak_at_s: float = 0.0
    _taken: int = 0
    """Workers taken since `_window_began_s`."""
    _window_began_s: float = -math.inf

    def take(self, now_s: float) -> None:
        """A worker is asked for."""
        if now_s - self._window_began_s >= WINDOW_S:
            self._window_began_s, self._taken = now_s, 0
        self._taken += 1
        peak = self._peak_at(now_s)
        if self._taken > peak:
            self._peak, self._peak_at_s = float(self._taken), now_s

    def count_wanted(self, now_s: float) -> int:
        """Return how many workers should wait at this time."""
        # More than half a worker is a worker, and what has almost been forgotten is none.
        return max(self.least, min(self.most, round(self._peak_at(now_s))))

    def _peak_at(self, now_s: float) -> float:
        return self._peak * math.pow(0.5, (now_s - self._peak_at_s) / HALF_LIFE_S)
