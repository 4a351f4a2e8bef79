"""``entropy``: randomness from the host, written down like every answer.

A guest rarely asks: its own generators follow from the seed that it starts with.
"""

import os

from flux.hostcall import Effect
from flux.hostcalls.base import CallContext, HostCallFailed, HostCallKind, check_arguments

TAKE_BYTES_MAX = 64 * 1024


class SystemEntropy:
    """The operating system's randomness."""

    def take(self, size_bytes: int) -> bytes:
        """Return ``size_bytes`` unpredictable bytes."""
        return os.urandom(size_bytes)


async def _take(context: CallContext, arguments: list[object], _seq: int) -> object:
    check_arguments("entropy.take", arguments, int)
    (size_bytes,) = arguments
    assert isinstance(size_bytes, int)
    if not 0 <= size_bytes <= TAKE_BYTES_MAX:
        raise HostCallFailed(
            "InvalidArguments", f"entropy.take gives 0 to {TAKE_BYTES_MAX} bytes", code="FLX425"
        )
    return context.entropy.take(size_bytes)


TAKE = HostCallKind(name="entropy.take", effect=Effect.OBSERVES, perform=_take, immediate=True)
"""Unpredictable bytes; takes their number."""
