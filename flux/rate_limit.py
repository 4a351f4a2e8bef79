"""How often somebody may ask: token buckets, in one process's memory.

A bucket holds ``burst`` tokens and fills at ``count`` in ``per_s`` seconds; a request takes one, and one that finds
none is told how long to wait. Each process has its own buckets: behind N processes a client gets up to N times the
rate. To share them would cost each request a round trip to the database, to refuse requests that cost less.

Memory is bounded whatever addresses come: IPv6 addresses count by their /64 (which is what one customer gets, and may
fill alone), and beyond `BUCKETS_MAX` the bucket that was longest not asked for is forgotten, which fills it. Whoever
wants a full one by that way has to come from so many other addresses first.

Pure: the caller says what time it is.
"""

import ipaddress
import math
import re
from collections import OrderedDict
from collections.abc import Hashable

import attrs

from flux.caller import read_address

BUCKETS_MAX = 100_000

_RATE = re.compile(r"([1-9][0-9]{0,8})\s*/\s*([a-z]+)")
_PERIODS_S = {"s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_IPV6_PREFIX = 64


@attrs.frozen
class RateLimit:
    """How often, and who is counted."""

    count: int
    """Requests in ``per_s`` seconds."""

    per_s: float
    """Length of the time, in seconds."""

    by: str = "client"
    """``client``: its address; ``subject``: whom the token or key stands for; ``claim:NAME``: a claim of the token.
    Who has no such thing is counted by address."""

    burst: int | None = None
    """Requests that may come at once; None: ``count``."""

    @property
    def capacity(self) -> float:
        """Tokens in a full bucket."""
        return float(self.count if self.burst is None else self.burst)

    @property
    def tokens_per_s(self) -> float:
        """How fast it fills."""
        return self.count / self.per_s

    @property
    def text(self) -> str:
        """As people write it."""
        unit = next((unit for unit, period_s in _PERIODS_S.items() if period_s == self.per_s), f"{self.per_s:g}s")
        return f"{self.count}/{unit}"


def parse_rate(text: str) -> tuple[int, float]:
    """Return count and seconds of ``100/min``; raise ValueError."""
    match = _RATE.fullmatch(text.strip())
    if match is None or match[2] not in _PERIODS_S:
        raise ValueError(f"{text!r} is no rate")
    return int(match[1]), _PERIODS_S[match[2]]


def group_address(client: str) -> str:
    """Return what an address is counted as: an IPv6 address as its /64."""
    address = read_address(client)
    if not isinstance(address, ipaddress.IPv6Address):
        return client if address is None else str(address)
    return str(ipaddress.IPv6Network((address, _IPV6_PREFIX), strict=False))


class Buckets:
    """The buckets of all limits of one process."""

    def __init__(self, buckets_max: int = BUCKETS_MAX) -> None:
        self._buckets_max = buckets_max
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()
        """(tokens, when that was so), by the limit and who is counted; longest not asked for first."""

    def __len__(self) -> int:
        return len(self._buckets)

    def get_spent(self, limit: RateLimit, who: Hashable, now_s: float) -> float:
        """Return how many tokens are taken out of a bucket."""
        tokens, at_s = self._buckets.get((limit, who), (limit.capacity, now_s))
        return max(0.0, limit.capacity - tokens - max(0.0, now_s - at_s) * limit.tokens_per_s)

    def take(self, limit: RateLimit, who: Hashable, now_s: float) -> float:
        """Take a token of ``who``; return 0, or the seconds after which there will be one."""
        key = (limit, who)
        tokens, at_s = self._buckets.pop(key, (limit.capacity, now_s))
        # A clock that went back takes no token away.
        tokens = min(limit.capacity, tokens + max(0.0, now_s - at_s) * limit.tokens_per_s)
        wait_s = 0.0
        if tokens >= 1:
            tokens -= 1
        else:
            wait_s = (1 - tokens) / limit.tokens_per_s
        self._buckets[key] = (tokens, now_s)
        while len(self._buckets) > self._buckets_max:
            self._buckets.popitem(last=False)
        return wait_s


def retry_after(wait_s: float) -> str:
    """Return the value of ``Retry-After``: whole seconds, and none too early."""
    return str(max(1, math.ceil(wait_s)))
