"""``request``: the body of a request that is too large to hold, read piece by piece.

It lies on the host's disk, whole, before the function begins: so a client that is slow or goes away costs no function
and no transaction. A function may read it from any offset, and as often as it likes.
"""

from flux.hostcall import Effect
from flux.hostcalls.base import CallContext, HostCallFailed, HostCallKind, check_arguments
from flux.streamed import PIECE_BYTES_MAX, READ


async def _read(context: CallContext, arguments: list[object], _seq: int) -> object:
    check_arguments(READ, arguments, int, int)
    offset, size = arguments
    assert isinstance(offset, int) and isinstance(size, int)
    if isinstance(offset, bool) or isinstance(size, bool) or offset < 0 or not 0 < size <= PIECE_BYTES_MAX:
        raise HostCallFailed(
            "InvalidArguments",
            f"{READ} takes an offset of 0 or more, and a size of 1 to {PIECE_BYTES_MAX:,} bytes",
            code="FLX425",
        )
    if context.streams is None:
        raise HostCallFailed("StreamRefused", f"{READ}: this execution has no HTTP request", code="FLX711")
    return await context.streams.read(offset, size)


READ_CALL = HostCallKind(name=READ, effect=Effect.OBSERVES, perform=_read)
"""Returns a piece of the request's body; nothing behind its end."""
