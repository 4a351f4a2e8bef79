"""How much processor time somebody may use: so many seconds in a minute.

A bucket holds what may be used in a minute and fills evenly. What was used is taken out of it *afterwards*, since
nobody knows before what an execution will take, so it may come to be in debt: nothing begins until that is paid.
Over any long time, then, no more is used than the quota says; in a short one a full bucket more, and what ran on when
it was empty.

Pure: the caller says what time it is.
"""

MINUTE_S = 60.0


class CpuBudget:
    """See the module."""

    def __init__(self, s_per_minute: float, now_s: float) -> None:
        """It begins full."""
        self.s_per_minute = s_per_minute
        """The quota."""
        self._left_s = s_per_minute
        self._at_s = now_s

    def set_quota(self, s_per_minute: float, now_s: float) -> None:
        """Change how much may be used. A debt stays, and is paid at the new pace; what was left is not more."""
        self._left_s, self._at_s = min(self._get_left_s(now_s), s_per_minute), max(self._at_s, now_s)
        self.s_per_minute = s_per_minute

    def charge(self, used_s: float, now_s: float) -> None:
        """Take out what was used."""
        self._left_s, self._at_s = self._get_left_s(now_s) - used_s, max(self._at_s, now_s)

    def get_wait_s(self, now_s: float) -> float:
        """Return in how many seconds something may begin; 0: now."""
        left_s = self._get_left_s(now_s)
        # And a millisecond, so that after that time something is there.
        return 0.0 if left_s > 0 else -left_s * MINUTE_S / self.s_per_minute + 0.001

    def get_spent_s(self, now_s: float) -> float:
        """Return what is taken out at present: from 0, which is nothing, to the quota and beyond."""
        return self.s_per_minute - self._get_left_s(now_s)

    def _get_left_s(self, now_s: float) -> float:
        # A clock that went back takes nothing away.
        passed_s = max(0.0, now_s - self._at_s)
        return min(self.s_per_minute, self._left_s + passed_s * self.s_per_minute / MINUTE_S)
