"""Reading the journals that supervisors left behind when they died.

A living supervisor holds a lock on each of its segments; a segment whose lock we
get has no owner any more. `claim` takes all such segments of a folder and keeps
their locks, so that two supervisors which start together don't both recover them.

What an execution did is spread over segments, between events of others. So the
segments are first indexed (where is which event?) and then each execution is read
by itself: memory holds the index and one execution, whatever the journals' size.

Nothing is invented and nothing dropped in silence. Every gap is a sentence in
`LeftBehind.lost`, of the executions it may concern, and in `Claim.damage`.
"""

import fcntl
import mmap
import os
import struct
import uuid
from collections.abc import Iterator
from pathlib import Path

import attrs

from flux import codec
from flux.errors import FluxError, OperatorError
from flux.execution import Execution, LogLine, Transaction
from flux.hostcall import HostCall, HostCallRequest, HostCallResult
from flux.mutation import Mutation
from flux.supervisor.journal import (
    ANSWERED_HEAD,
    ASKED_HEAD,
    ENDED_HEAD,
    MUTATED_HEAD,
    MUTATION_HEAD,
    SUFFIX,
)
from flux.supervisor.journal_format import JOURNAL_VERSION, Frame, Kind, Scan, scan

DAMAGED_SUFFIX = ".damaged"


class JournalUnreadableError(OperatorError):
    """Journals that were left behind can't be opened."""

    code = "FLX703"


@attrs.frozen
class LeftBehind:
    """What a journal knows of one execution."""

    id: uuid.UUID
    pid: int | None
    """Process id of the supervisor that ran it; None when the segment's header is damaged."""
    head: Execution | None
    """As it was known at its start; None when that event is lost."""
    calls: tuple[HostCall, ...] = ()
    """By seq; without a result where no answer was written down."""
    logs: tuple[LogLine, ...] = ()
    transactions: tuple[Transaction, ...] = ()
    """Those that ended as they ended; ``committed`` means that the server had said so."""
    mutations: tuple[Mutation, ...] = ()
    """Images of all changed rows, whatever became of them."""
    ended: Execution | None = None
    """The whole record, when its end was written down."""
    in_transaction: bool = False
    """The record in ``ended`` was to be committed by the guest's own transaction."""
    is_stored: bool = False
    """The database had the record."""
    lost: tuple[str, ...] = ()
    """What is missing, a sentence each."""


@attrs.define(eq=False)
class _Segment:
    path: Path
    fd: int
    data: mmap.mmap | bytes
    scan: Scan
    is_damaged: bool = False
    """Something in it could not be read, beyond an event that was being written at the end."""


class Claim:
    """The segments left behind in a folder, locked by us until `release`."""

    def __init__(self, folder: Path, segments: list[_Segment], in_use: int, damage: list[str]) -> None:
        self.folder = folder
        self.in_use = in_use
        """Segments of living supervisors; they were left alone."""
        self._segments = segments
        self._damage = damage
        self._trails: dict[bytes, list[tuple[_Segment, Frame]]] = {}
        """By execution: where its events are."""
        for segment in segments:
            for frame in segment.scan.frames:
                self._trails.setdefault(frame.execution_id, []).append((segment, frame))
            self._damage += _describe_damage(segment)

    @property
    def ids(self) -> list[uuid.UUID]:
        """The executions of which something is known, oldest first."""
        return [uuid.UUID(bytes=execution_id) for execution_id in sorted(self._trails)]

    @property
    def damage(self) -> tuple[str, ...]:
        """What could not be read, a sentence each, with the file. Complete once every execution was read."""
        return tuple(self._damage)

    def read(self, execution_id: uuid.UUID) -> LeftBehind:
        """Return all that the journals know of an execution."""
        events = sorted(self._trails[execution_id.bytes], key=lambda event: event[1].number)
        reader = _Reader(execution_id)
        for segment, frame in events:
            try:
                reader.take(frame.kind, bytes(segment.data[frame.body]))
            except (FluxError, ValueError, struct.error) as error:
                # Its checksum is right, so it is what was written: by another Flux, or by a bug of this one.
                segment.is_damaged = True
                reader.lost.append(f"event {frame.number} of it can't be decoded: {error}")
                self._damage.append(f"{segment.path}: event at byte {frame.offset} can't be decoded: {error}")
        header = events[-1][0].scan.header
        return reader.conclude(header.pid if header else None, list(_describe_lost(events)))

    def discard(self) -> int:
        """Delete the segments, now that the database has all; return how many.

        Damaged ones stay under another name: perhaps somebody can read more of them than we can.
        """
        for segment in self._segments:
            if segment.is_damaged:
                segment.path.rename(segment.path.with_suffix(DAMAGED_SUFFIX))
            else:
                segment.path.unlink(missing_ok=True)
        count = len(self._segments)
        self.release()
        return count

    def release(self) -> None:
        """Let the segments go as they are. Does nothing the second time."""
        for segment in self._segments:
            if isinstance(segment.data, mmap.mmap):
                segment.data.close()
            os.close(segment.fd)
        self._segments.clear()
        self._trails.clear()

    def __enter__(self) -> "Claim":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def claim(folder: Path) -> Claim:
    """Take all segments in ``folder`` that belong to no living supervisor."""
    segments: list[_Segment] = []
    damage: list[str] = []
    in_use = 0
    try:
        for path in _list_segments(folder):
            fd = _lock(path)
            if fd is None:
                in_use += 1
                continue
            segment = _read_segment(path, fd)
            if isinstance(segment, _Segment):
                segments.append(segment)
            else:
                os.close(fd)
                damage += [segment] if segment else []
    except OSError as error:
        Claim(folder, segments, in_use, []).release()
        raise JournalUnreadableError(
            f"the journals in {folder} can't be read: {error}",
            remedy="they hold executions that the database lacks: make them readable, or move them away",
        ) from error
    return Claim(folder, segments, in_use, damage)


def read_left_behind(folder: Path) -> list[LeftBehind]:
    """Return what the journals left behind in ``folder`` know, oldest execution first; change nothing."""
    with claim(folder) as claimed:
        return [claimed.read(execution_id) for execution_id in claimed.ids]


class _Reader:
    """Puts the events of one execution together."""

    def __init__(self, execution_id: uuid.UUID) -> None:
        self.lost: list[str] = []
        self._id = execution_id
        self._head: Execution | None = None
        self._calls: dict[int, HostCall] = {}
        self._logs: list[LogLine] = []
        self._transactions: list[Transaction] = []
        self._mutations: list[Mutation] = []
        self._ended: Execution | None = None
        self._in_transaction = False
        self._is_stored = False

    def take(self, kind: int, body: bytes) -> None:
        """Take the next event."""
        match Kind(kind):
            case Kind.BEGUN:
                self._head = codec.decode(Execution, body)
            case Kind.ASKED:
                (started_ns,) = ASKED_HEAD.unpack_from(body)
                request = codec.decode(HostCallRequest, body[ASKED_HEAD.size :])
                self._calls[request.seq] = HostCall(request, None, started_ns)
            case Kind.ANSWERED:
                seq, answered = ANSWERED_HEAD.unpack_from(body)
                result = codec.decode(HostCallResult, body[ANSWERED_HEAD.size :])
                if seq in self._calls:
                    self._calls[seq] = attrs.evolve(self._calls[seq], result=result, answered=answered)
                else:
                    self.lost.append(f"host call {seq} was answered, but what was asked is not known")
            case Kind.LOGGED:
                self._logs.append(codec.decode(LogLine, body))
            case Kind.TRANSACTION:
                self._take_transaction(codec.decode(Transaction, body))
            case Kind.MUTATED:
                self._mutations += _split_mutations(body)
            case Kind.ENDED:
                (self._in_transaction,) = ENDED_HEAD.unpack_from(body)
                self._ended = codec.decode(Execution, body[ENDED_HEAD.size :])
            case Kind.STORED:
                self._is_stored = True

    def conclude(self, pid: int | None, lost: list[str]) -> LeftBehind:
        """Return the whole."""
        return LeftBehind(
            id=self._id,
            pid=pid,
            head=self._head,
            calls=tuple(self._calls[seq] for seq in sorted(self._calls)),
            logs=tuple(self._logs),
            transactions=tuple(self._transactions),
            mutations=tuple(self._mutations),
            ended=self._ended,
            in_transaction=self._in_transaction,
            is_stored=self._is_stored,
            lost=(*self.lost, *lost),
        )

    def _take_transaction(self, transaction: Transaction) -> None:
        # Told of twice: as it began and as it ended. A call may begin another once the first has ended.
        for index, known in enumerate(self._transactions):
            if known.begun_by == transaction.begun_by and not is_over(known):
                self._transactions[index] = transaction
                return
        self._transactions.append(transaction)


def is_over(transaction: Transaction) -> bool:
    """Say whether the journal knows how ``transaction`` ended."""
    return transaction.committed or transaction.ended_ns > 0


def _split_mutations(body: bytes) -> Iterator[Mutation]:
    call, count = MUTATED_HEAD.unpack_from(body)
    place = MUTATED_HEAD.size
    for _ in range(count):
        (length,) = MUTATION_HEAD.unpack_from(body, place)
        place += MUTATION_HEAD.size
        mutation = codec.decode(Mutation, body[place : place + length])
        place += length
        yield mutation if mutation.call is not None else attrs.evolve(mutation, call=call)


def _list_segments(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == SUFFIX)
    except FileNotFoundError:
        return []  # no supervisor ever ran here


def _lock(path: Path) -> int | None:
    """Return a descriptor that holds the segment's lock, or None when a living supervisor holds it."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None  # its owner was done with it just now
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    except OSError:
        os.close(fd)
        raise
    return fd


def _read_segment(path: Path, fd: int) -> "_Segment | str":
    """Return the segment, or why it is to be left alone; nothing to say when it is gone already."""
    found = os.fstat(fd)
    if not found.st_nlink:
        return ""
    data = mmap.mmap(fd, 0, prot=mmap.PROT_READ) if found.st_size else b""
    result = scan(data)
    header = result.header
    if header and (header.journal_version, header.codec_version) != (JOURNAL_VERSION, codec.FORMAT_VERSION):
        if isinstance(data, mmap.mmap):
            data.close()
        return (
            f"{path}: written by another version of Flux (journal {header.journal_version}, records "
            f"{header.codec_version}); start that version once, it brings these executions into the database"
        )
    is_torn = result.tail is None or result.is_torn
    is_damaged = bool(result.holes) or not is_torn or (header is None and found.st_size > 0)
    return _Segment(path, fd, data, result, is_damaged)


def _describe_damage(segment: _Segment) -> Iterator[str]:
    found = segment.scan
    if found.header is None and segment.is_damaged:
        yield f"{segment.path}: the header is damaged"
    for hole in found.holes:
        yield f"{segment.path}: {hole.size_bytes} bytes at byte {hole.offset} can't be read"
    if found.tail is not None and found.is_torn:
        yield f"{segment.path}: the last event was cut off after {found.tail.size_bytes} bytes"
    elif found.tail is not None:
        yield f"{segment.path}: the last {found.tail.size_bytes} bytes can't be read"


def _describe_lost(events: list[tuple[_Segment, Frame]]) -> Iterator[str]:
    numbers = {frame.number for _, frame in events}
    missing = max(numbers) + 1 - len(numbers)
    if missing:
        yield f"{missing} of its {max(numbers) + 1} known events can't be found in the journal"
    for segment in {id(segment): segment for segment, _ in events}.values():
        unread = sum(hole.size_bytes for hole in segment.scan.holes)
        if unread:
            yield f"{unread} bytes of the journal can't be read; events of it may have been among them"
        if segment.scan.tail is not None:
            yield (
                f"the journal ends with {segment.scan.tail.size_bytes} bytes that are not a whole event; "
                "it may have been one of it"
            )
