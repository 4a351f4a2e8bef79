"""``response``: an answer of any size, written piece by piece.

The pieces wait on the host's disk until the execution is over and its transaction committed: what a client hears is
what is so. Each piece is answered when it is taken, so a function writes no faster than the disk does, and neither side
ever holds more than a few of them. They are performed one after the other, in the order in which they are asked, and
nothing more is heard of the function meanwhile: so pieces that were not waited for lie as they were recorded, and the
end stands behind all of them.
"""

from flux.hostcall import Effect
from flux.hostcalls.base import CallContext, HostCallFailed, HostCallKind, Streams, check_arguments
from flux.streamed import END, PIECE_BYTES_MAX, WRITE, to_bytes


async def _write(context: CallContext, arguments: list[object], _seq: int) -> object:
    check_arguments(WRITE, arguments, (str, bytes))
    (piece,) = arguments
    assert isinstance(piece, str | bytes)
    data = to_bytes(piece)
    if not 0 < len(data) <= PIECE_BYTES_MAX:
        raise HostCallFailed(
            "InvalidArguments", f"{WRITE} takes 1 to {PIECE_BYTES_MAX:,} bytes, not {len(data):,}", code="FLX425"
        )
    await _get_streams(context, WRITE).write(data)
    return None


async def _end(context: CallContext, arguments: list[object], _seq: int) -> object:
    check_arguments(END, arguments)
    body = await _get_streams(context, END).end()
    return {"bytes": body.size_bytes, "sha256": body.sha256}


def _get_streams(context: CallContext, call: str) -> Streams:
    if context.streams is None:
        raise HostCallFailed(
            "StreamRefused", f"{call}: this execution answers no HTTP request, so nobody takes a stream", code="FLX711"
        )
    return context.streams


WRITE_CALL = HostCallKind(name=WRITE, effect=Effect.EMITS, perform=_write, immediate=True)
"""Takes the next piece of the answer."""

END_CALL = HostCallKind(name=END, effect=Effect.EMITS, perform=_end, immediate=True)
"""Ends the answer; returns how long it is and its SHA-256."""
