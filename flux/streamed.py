"""Bodies too large to hold: what is on record of them, and of the pieces in which they travel.

An answer or an upload of any size goes through the door piece by piece. A record with the pieces in it would be as
large as all of them, so it holds what each piece *was*: its SHA-256 and its length. That is enough to tell whether a
replay wrote the same, and it is not enough to read it again: a replay that comes to a piece of an upload has nothing to
hear (`UNHEARD`), and says so.

    response.write  [piece]         recorded as  [{"bytes": 1048576, "sha256": "..."}]
    response.end    []              answered with {"bytes": ..., "sha256": ...} of the whole answer, recorded as it is
    request.read    [offset, size]  answered with the piece; recorded as {"bytes": ..., "sha256": ...}

Pieces are digested after values that must not be written down are hidden in them, so the digest of a piece with a
secret is that of its stand-in; and a replay, whose guest hears the stand-in, comes to the same. A value that lies in
two pieces is not seen. The digest of the whole is of the bytes as they were: whoever has them can check it.
"""

import hashlib
from collections.abc import Callable, Iterable

import attrs

from flux import values
from flux.hostcall import HostCall

WRITE, END, READ = "response.write", "response.end", "request.read"
WRITES = frozenset({WRITE, END})
"""What a replay of changed code performs by itself: it writes to nobody, and says what it would have written."""
PIECE_BYTES_MAX = 4 * 2**20
"""Of a piece. In base64 and with its frame it is still far below what a frame may have."""
UNHEARD = "unheard"
"""Kind of the divergence of a replay that asked for bytes which are on no record."""


@attrs.frozen
class StreamedBody:
    """A body that was not held, and is not on record."""

    sha256: str
    """Of all its bytes, as they were: 64 hexadecimal digits."""
    size_bytes: int


def describe_piece(piece: bytes) -> dict[str, object]:
    """Return what is on record of a piece."""
    return {"bytes": len(piece), "sha256": hashlib.sha256(piece).hexdigest()}


def describe_written(arguments: bytes, hide: Callable[[bytes], bytes]) -> bytes:
    """Return the arguments of `WRITE` as they are recorded; what is no piece stays as it is, and will be refused."""
    try:
        match values.decode(arguments):
            case [str() | bytes() as piece]:
                return values.encode_canonical([describe_piece(hide(to_bytes(piece)))])
    except values.ValueFormatError:
        pass  # Whoever performs it says what is wrong.
    return arguments


def describe_read(value: bytes, hide: Callable[[bytes], bytes]) -> bytes:
    """Return the answer to `READ` as it is recorded."""
    piece = values.decode(value)
    assert isinstance(piece, bytes), "the host answers with bytes"
    return values.encode_canonical(describe_piece(hide(piece)))


def to_bytes(piece: str | bytes) -> bytes:
    """Return a piece as it is sent."""
    return piece.encode() if isinstance(piece, str) else piece


def find_ended(calls: Iterable[HostCall]) -> StreamedBody | None:
    """Return what the execution that made ``calls`` streamed as its answer; None when it ended no stream.

    Read from the record of the host's own answer, never from what the guest says: so a replay comes to the same.
    """
    for call in calls:
        if call.request.name == END and call.result is not None and call.result.error is None:
            answer = values.decode(call.result.value)
            assert isinstance(answer, dict), "the host answers with an object"
            return StreamedBody(answer["sha256"], answer["bytes"])
    return None


def count_pieces(calls: Iterable[HostCall], name: str) -> int:
    """Return in how many calls of that name (`WRITE` or `READ`) a body travelled; those that failed moved none."""
    return sum(
        call.request.name == name and call.result is not None and call.result.error is None for call in calls
    )


def describe_lack(upload: StreamedBody | None, calls: Iterable[HostCall]) -> str:
    """Return what a replay lacks where ``upload`` was read by pieces, as a sentence; empty where it was not."""
    if upload is None or not count_pieces(calls, READ):
        return ""
    return (
        f"it has the SHA-256 of the request's body and not its {upload.size_bytes:,} bytes: a replay stops where the "
        "function reads them"
    )
