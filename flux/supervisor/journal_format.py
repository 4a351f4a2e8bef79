"""What a journal's segment looks like, and finding what can be read of a damaged one.

A segment is a header and then frames, each one event of one execution. Executions
take turns in it. A frame stands on its own::

    marker 8 | length of the body 4 | crc32 4 | kind 1 | number 4 | execution's id 16 | body

The *marker* is drawn at random for each segment and begins every frame of it. It
is how reading goes on behind a damaged place: look for the marker, and believe
what follows when the checksum agrees. Bodies hold whatever guests send, whole
frames included, so the marker must be something no guest can know; with a fixed
one, damage would let a guest's bytes be taken for events of others.

The *number* counts the events of one execution from 0, through all segments. A
number that is not there is an event that was lost, whatever lost it.

Nothing in here reads or writes a file: bytes in, frames out.
"""

import enum
import mmap
import struct
import zlib
from collections.abc import Iterator

import attrs

JOURNAL_VERSION = 1
"""Version of this file's layout; the bodies have `flux.codec.FORMAT_VERSION`."""
MAGIC = b"fluxjrnl"
MARKER_BYTES = 8
BODY_BYTES_MAX = 2**32 - 1

_header = struct.Struct("<8sHHI8s")
_crc = struct.Struct("<I")
HEADER_BYTES = _header.size + _crc.size

_frame = struct.Struct("<8sII")
_event = struct.Struct("<BI16s")
FRAME_BYTES = _frame.size + _event.size
"""What a frame has beside its body."""


class Kind(enum.IntEnum):
    """What an event tells."""

    BEGUN = 1
    ASKED = 2
    ANSWERED = 3
    LOGGED = 4
    TRANSACTION = 5
    MUTATED = 6
    ENDED = 7
    STORED = 8


@attrs.frozen
class Header:
    """What a segment says about itself."""

    journal_version: int
    codec_version: int
    pid: int
    """Process id of the supervisor that wrote it."""
    marker: bytes


@attrs.frozen
class Frame:
    """Where in a segment an event is."""

    kind: int
    """A `Kind`, or a number that this version doesn't know."""
    number: int
    execution_id: bytes
    offset: int
    """Of the frame."""
    body_bytes: int

    @property
    def body(self) -> slice:
        """Where the body is."""
        start = self.offset + FRAME_BYTES
        return slice(start, start + self.body_bytes)


@attrs.frozen
class Hole:
    """Bytes of a segment that are no frames."""

    offset: int
    size_bytes: int


@attrs.frozen
class Scan:
    """All that can be read of a segment."""

    header: Header | None
    """None when it is damaged or was never written."""
    frames: tuple[Frame, ...] = ()
    holes: tuple[Hole, ...] = ()
    """Damaged places with readable frames behind them."""
    tail: Hole | None = None
    """What is behind the last readable frame."""
    is_torn: bool = False
    """``tail`` is the beginning of one event, which was being written at the end; otherwise it is damage."""


def make_header(codec_version: int, pid: int, marker: bytes) -> bytes:
    """Return the first bytes of a segment."""
    head = _header.pack(MAGIC, JOURNAL_VERSION, codec_version, pid & 0xFFFFFFFF, marker)
    return head + _crc.pack(zlib.crc32(head))


def make_frame(marker: bytes, kind: int, number: int, execution_id: bytes, body: bytes) -> bytes:
    """Return one event as it is written."""
    event = _event.pack(kind, number, execution_id)
    return _frame.pack(marker, len(body), zlib.crc32(body, zlib.crc32(event))) + event + body


def read_header(data: bytes | mmap.mmap) -> Header | None:
    """Return what the segment's first bytes say, or None when they can't be trusted."""
    head = bytes(data[:HEADER_BYTES])
    if len(head) < HEADER_BYTES:
        return None
    (crc,) = _crc.unpack_from(head, _header.size)
    magic, journal_version, codec_version, pid, marker = _header.unpack_from(head)
    if magic != MAGIC or crc != zlib.crc32(head[: _header.size]):
        return None
    return Header(journal_version, codec_version, pid, marker)


def scan(data: bytes | mmap.mmap) -> Scan:
    """Find every readable frame of a segment.

    Without its header a segment's first frame still shows the marker, if its checksum agrees; then the
    frames are found, though not who wrote them.
    """
    header = read_header(data)
    marker = header.marker if header else bytes(data[HEADER_BYTES : HEADER_BYTES + MARKER_BYTES])
    if header is None and _read_frame(data, HEADER_BYTES, marker) is None:
        return Scan(None, tail=Hole(0, len(data)) if len(data) else None)
    holes: list[Hole] = []
    frames: list[Frame] = []
    end = HEADER_BYTES
    for frame in _find_frames(data, marker):
        if frame.offset > end:
            holes.append(Hole(end, frame.offset - end))
        frames.append(frame)
        end = frame.body.stop
    if end == len(data):
        return Scan(header, tuple(frames), tuple(holes))
    tail = Hole(end, len(data) - end)
    return Scan(header, tuple(frames), tuple(holes), tail, is_torn=_is_beginning(data[end:], marker))


def _is_beginning(tail: bytes, marker: bytes) -> bool:
    """Say whether ``tail`` is a frame that ends too early."""
    if len(tail) < _frame.size:
        return tail.startswith(marker[: len(tail)])
    found, body_bytes, _ = _frame.unpack_from(tail)
    return bool(found == marker and FRAME_BYTES + body_bytes > len(tail))


def _find_frames(data: bytes | mmap.mmap, marker: bytes) -> Iterator[Frame]:
    place = HEADER_BYTES
    while place != -1:
        frame = _read_frame(data, place, marker)
        if frame is not None:
            yield frame
            place = frame.body.stop
        elif place < len(data):
            # One byte on: a damaged length must not make us step over the frames that follow.
            place = data.find(marker, place + 1)
        else:
            return


def _read_frame(data: bytes | mmap.mmap, offset: int, marker: bytes) -> Frame | None:
    head = bytes(data[offset : offset + FRAME_BYTES])
    if len(head) < FRAME_BYTES:
        return None
    found, body_bytes, crc = _frame.unpack_from(head)
    start = offset + FRAME_BYTES
    if found != marker or body_bytes > len(data) - start:
        return None
    with memoryview(data) as view, view[start : start + body_bytes] as body:
        if zlib.crc32(body, zlib.crc32(head[_frame.size :])) != crc:
            return None
    kind, number, execution_id = _event.unpack_from(head, _frame.size)
    return Frame(kind, number, execution_id, offset, body_bytes)
