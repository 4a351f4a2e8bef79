"""The journal: what executions did, on the local disk before anybody acts on it.

The store is across a socket and takes a record when its execution is over. The
journal is a file of this machine that takes every event as it happens, with one
``write`` each, *before* the guest hears the answer. So after ``kill -9`` of the
supervisor all that any function ever knew is on the disk, and the next start
turns it into records (`flux.supervisor.recovery`).

The life of an execution here, by its 16-byte id::

    begin  (asked | answered | logged | transaction | mutated)*  ended+  stored

``ended`` may come twice: a commit that fails gives the execution another end. The
last one counts. ``stored`` means the database has the record for good; a segment
all of whose executions are stored is deleted once it is full, or at `close`.

When the disk is full the journal says so with `JournalFullError`, and whoever
asked must not go on as if the event were written. It never leaves half a frame in
front of others, and it numbers events so that one which failed is missed later.

All methods but `wait_durable` return at once and belong to one thread. They don't
survive a fork: a child that keeps these descriptors open keeps the locks, too.
"""

import contextlib
import enum
import errno
import fcntl
import os
import struct
from collections.abc import Sequence
from pathlib import Path

import attrs
import trio

from flux import codec
from flux.errors import BrokenInvariantError, OperatorError
from flux.execution import Execution, LogLine, Transaction
from flux.hostcall import HostCallRequest, HostCallResult
from flux.mutation import Mutation
from flux.supervisor.journal_format import HEADER_BYTES, MARKER_BYTES, Kind, make_frame, make_header

SEGMENT_BYTES_MAX = 16 * 1024 * 1024
SUFFIX = ".journal"
FOLDER_MODE, FILE_MODE = 0o700, 0o600

# How bodies begin, beside what the codec makes. flux/supervisor/left_behind.py reads them.
ASKED_HEAD = struct.Struct("<q")
"""started_ns"""
ANSWERED_HEAD = struct.Struct("<qq")
"""seq, answered"""
MUTATED_HEAD = struct.Struct("<qI")
"""call's seq, number of mutations"""
MUTATION_HEAD = struct.Struct("<I")
"""Length of one mutation"""
ENDED_HEAD = struct.Struct("<?")
"""in_transaction"""

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class JournalError(OperatorError):
    """The journal can't be written."""

    code = "FLX701"


class JournalFullError(JournalError):
    """There is no room for the journal."""

    code = "FLX702"


class Fsync(enum.Enum):
    """When events are on the disk itself, and not only with the kernel."""

    NEVER = "never"
    """The kernel decides. Events survive the death of the supervisor, not of the machine."""
    GROUP = "group"
    """`Journal.wait_durable` waits for the disk; those who wait at the same time share one ``fdatasync``."""


@attrs.frozen
class JournalCounts:
    """What a journal did and holds."""

    executions: int
    """Executions that have begun and are not stored."""
    segments: int
    """Files on the disk."""
    kept_bytes: int
    """What those files hold."""
    events: int
    """Events written since the start."""
    written_bytes: int
    """Bytes written since the start, those of deleted segments included."""
    failures: int
    """Events that could not be written; each was reported with an error to whoever told of it."""
    marks_lost: int
    """Times it could not be noted that an execution is stored. Recovery asks the database then."""
    not_removed: int
    """Segments that are of no more use and could not be deleted; tried again with each new segment."""


@attrs.define(eq=False)
class _Entry:
    """An execution that is not stored yet."""

    number: int = 0
    """Of its next event."""
    segments: list["_Segment"] = attrs.field(factory=list)
    """Where its events are; the last one is the latest."""


class _Segment:
    """One file, locked by us for as long as it is open."""

    __slots__ = ("fd", "is_broken", "path", "size_bytes", "unstored")

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.fd = fd
        self.size_bytes = 0
        self.unstored = 0  # executions with events in here that are not stored
        self.is_broken = False  # nothing may be written behind what is there

    def append(self, data: bytes) -> None:
        """Write all of ``data``, or nothing and raise `OSError`."""
        size = len(data)
        try:
            written = os.write(self.fd, data)
            while written < size:  # a full disk takes a part first, and refuses the next
                written += os.write(self.fd, memoryview(data)[written:])
        except OSError as error:
            if error.errno not in _NO_ROOM:
                self.is_broken = True
            try:
                os.ftruncate(self.fd, self.size_bytes)
            except OSError as truncate_error:
                self.is_broken = True
                error.add_note(f"and what was written of it could not be taken back: {truncate_error}")
            raise
        self.size_bytes += size


class Journal:
    """The segments that one supervisor writes. See the module's docstring."""

    def __init__(
        self, folder: Path, *, fsync: Fsync = Fsync.NEVER, segment_bytes_max: int = SEGMENT_BYTES_MAX
    ) -> None:
        """Prepare ``folder`` and open the first segment in it."""
        self.folder = folder
        self.fsync = fsync
        self._segment_bytes_max = segment_bytes_max
        self._marker = os.urandom(MARKER_BYTES)
        self._entries: dict[bytes, _Entry] = {}
        self._full: list[_Segment] = []  # no longer written to, except for marks
        self._not_removed: list[Path] = []
        self._segment_number = 0
        self._events = self._written_bytes = self._failures = self._marks_lost = 0
        self._is_closed = False
        # What wait_durable knows, in numbers of events.
        self._durable = self._doubtful = 0
        self._unsynced: list[_Segment] = []
        self._sync_under_way: trio.Event | None = None
        self._prepare_folder()
        self._segment = self._open_segment()

    # -- Events ------------------------------------------------------------------------------------------

    def begin(self, execution: Execution) -> None:
        """Take an execution of which all is known that is known at the start.

        When this raises, the execution is not in the journal and must not run.
        """
        execution_id = execution.id.bytes
        if execution_id in self._entries:
            raise BrokenInvariantError(f"execution {execution.id} has begun twice")
        # Encoded first: an execution that can't be encoded must not stay behind as begun.
        body = codec.encode(execution)
        self._entries[execution_id] = _Entry()
        try:
            self._append(execution_id, Kind.BEGUN, body)
        except JournalError:
            del self._entries[execution_id]
            raise

    def asked(self, execution_id: bytes, request: HostCallRequest, started_ns: int) -> None:
        """Take a question, before the host performs it."""
        self._append(execution_id, Kind.ASKED, ASKED_HEAD.pack(started_ns) + codec.encode(request))

    def answered(self, execution_id: bytes, seq: int, result: HostCallResult, answered: int) -> None:
        """Take the answer to call ``seq``, before the guest hears it as its ``answered``-th."""
        self._append(execution_id, Kind.ANSWERED, ANSWERED_HEAD.pack(seq, answered) + codec.encode(result))

    def logged(self, execution_id: bytes, line: LogLine) -> None:
        """Take a log line."""
        self._append(execution_id, Kind.LOGGED, codec.encode(line))

    def transaction(self, execution_id: bytes, transaction: Transaction) -> None:
        """Take a transaction that has begun, and again when it has ended."""
        self._append(execution_id, Kind.TRANSACTION, codec.encode(transaction))

    def mutated(self, execution_id: bytes, call_seq: int, mutations: Sequence[Mutation]) -> None:
        """Take the images of changed rows, before COMMIT is sent: nothing else knows their xid."""
        parts = [MUTATED_HEAD.pack(call_seq, len(mutations))]
        for mutation in mutations:
            encoded = codec.encode(mutation)
            parts += (MUTATION_HEAD.pack(len(encoded)), encoded)
        self._append(execution_id, Kind.MUTATED, b"".join(parts))

    def ended(self, execution_id: bytes, execution: Execution, in_transaction: bool) -> None:
        """Take the whole record, before it is stored or committed.

        ``in_transaction``: the guest's own transaction commits it together with the data, so it is true only
        if the database has it. Otherwise recovery stores it as it is.
        """
        self._append(execution_id, Kind.ENDED, ENDED_HEAD.pack(in_transaction) + codec.encode(execution))

    def stored(self, execution_id: bytes) -> None:
        """Take note that the database has the record for good, and delete what is of no more use."""
        entry = self._get_entry(execution_id)
        del self._entries[execution_id]
        # The mark goes into each segment with events of it: every segment must tell the truth alone, because
        # the others may be gone by then, and the record too if its retention has ended. All marks come before
        # the first deletion, so that no cut leaves an execution without its beginning and without a mark.
        mark = make_frame(self._marker, Kind.STORED, entry.number, execution_id, b"")
        done = []
        for segment in entry.segments:
            segment.unstored -= 1
            if segment is not self._segment and not segment.unstored:
                done.append(segment)
            if segment not in done or len(entry.segments) > 1:
                self._mark(segment, mark)
        for segment in done:
            self._full.remove(segment)
            self._remove(segment)

    # -- The whole ---------------------------------------------------------------------------------------

    async def wait_durable(self) -> None:
        """With `Fsync.GROUP`, wait until all events so far are on the disk itself; else return at once.

        Raises `JournalError` when the disk refused: events so far may be lost if the machine stops now.
        """
        await trio.lowlevel.checkpoint()
        wanted = self._events
        while self.fsync is Fsync.GROUP and self._durable < wanted:
            if self._sync_under_way is not None:
                await self._sync_under_way.wait()
            else:
                await self._sync()
            # After a failed fsync the kernel forgets what it could not write, and the next one succeeds. So
            # the events of a failed one stay doubtful, whatever follows.
            if wanted <= self._doubtful:
                raise JournalError(
                    f"the journal in {self.folder} could not be brought to the disk",
                    remedy="look at the disk's health (dmesg); the journal goes on in a new file",
                )

    @property
    def counts(self) -> JournalCounts:
        """What was done, and what is held."""
        segments = self._open_segments()
        return JournalCounts(
            executions=len(self._entries),
            segments=len(segments),
            kept_bytes=sum(segment.size_bytes for segment in segments),
            events=self._events,
            written_bytes=self._written_bytes,
            failures=self._failures,
            marks_lost=self._marks_lost,
            not_removed=len(self._not_removed),
        )

    def close(self) -> None:
        """End in order: delete segments whose executions are all stored, leave the others to recovery."""
        if self._is_closed:
            return
        segments = self._open_segments()
        self._is_closed = True
        self._entries.clear()
        self._full.clear()
        for segment in segments:
            if segment.unstored:
                os.close(segment.fd)
            else:
                self._remove(segment)
        self._remove_again()

    # -- Writing -----------------------------------------------------------------------------------------

    def _append(self, execution_id: bytes, kind: Kind, body: bytes) -> None:
        entry = self._get_entry(execution_id)
        number = entry.number
        entry.number = number + 1  # also when the write fails: recovery sees by it that an event is missing
        frame = make_frame(self._marker, kind, number, execution_id, body)
        try:
            segment = self._write(frame)
        except JournalError:
            self._failures += 1
            raise
        self._events += 1
        self._written_bytes += len(frame)
        if not entry.segments or entry.segments[-1] is not segment:
            entry.segments.append(segment)
            segment.unstored += 1

    def _write(self, frame: bytes) -> _Segment:
        segment = self._segment
        if segment.is_broken or HEADER_BYTES < segment.size_bytes > self._segment_bytes_max - len(frame):
            segment = self._rotate()
        try:
            try:
                segment.append(frame)
            except OSError:
                if not segment.is_broken:
                    raise
                segment = self._rotate()  # an I/O error, or a limit on the size of one file
                segment.append(frame)
        except OSError as error:
            raise self._explain(error) from error
        return segment

    def _get_entry(self, execution_id: bytes) -> _Entry:
        try:
            return self._entries[execution_id]
        except KeyError:
            state = "is closed and" if self._is_closed else "does not know the execution it"
            raise BrokenInvariantError(
                f"the journal in {self.folder} {state} was told of an event of execution {execution_id.hex()}"
            ) from None

    def _mark(self, segment: _Segment, mark: bytes) -> None:
        if segment.is_broken:
            self._marks_lost += 1
            return
        try:
            segment.append(mark)
            self._written_bytes += len(mark)
        except OSError:
            # The record is stored and that is what matters. Without the mark recovery asks the database.
            self._marks_lost += 1

    def _explain(self, error: OSError) -> JournalError:
        if error.errno in (*_NO_ROOM, errno.EFBIG):
            return JournalFullError(
                f"no room for the journal in {self.folder}: {error.strerror}",
                remedy="make room on that disk; until then requests are refused with 503",
            )
        return JournalError(
            f"the journal in {self.folder} can't be written: {error.strerror or error}",
            remedy="look at the folder and its disk; until then requests are refused with 503",
        )

    # -- Segments ----------------------------------------------------------------------------------------

    def _prepare_folder(self) -> None:
        try:
            self.folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            found = self.folder.stat()
            if found.st_uid != os.geteuid():
                raise JournalError(
                    f"the journal's folder {self.folder} belongs to user id {found.st_uid}, and Flux runs as "
                    f"user id {os.geteuid()}",
                    remedy="it holds what requests and answers held: give it to Flux's user",
                )
            if found.st_mode & 0o077:
                self.folder.chmod(FOLDER_MODE)
        except OSError as error:
            raise self._explain(error) from error

    def _open_segments(self) -> list[_Segment]:
        return [] if self._is_closed else [*self._full, self._segment]

    def _rotate(self) -> _Segment:
        """Go on in a new segment. When there can be none, all stays as it is."""
        full = self._segment
        self._segment = self._open_segment()
        if self.fsync is Fsync.GROUP:
            self._unsynced.append(full)
        if full.unstored:
            self._full.append(full)
        else:
            self._remove(full)
        self._remove_again()
        return self._segment

    def _open_segment(self) -> _Segment:
        """Create a file that nobody else has, and lock it.

        Recovery of another supervisor may come between the two and take the new file for one left behind.
        Then it holds the lock, or it has deleted the file and let it go; in both cases we take the next name.
        """
        while True:
            self._segment_number += 1
            path = self.folder / f"{os.getpid()}-{self._segment_number:06d}{SUFFIX}"
            try:
                fd = os.open(
                    path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, FILE_MODE
                )
            except FileExistsError:
                continue  # of an earlier process with our number
            except OSError as error:
                raise self._explain(error) from error
            segment = _Segment(path, fd)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(fd).st_nlink:
                    segment.append(make_header(codec.FORMAT_VERSION, os.getpid(), self._marker))
                    if self.fsync is Fsync.GROUP:
                        self._sync_folder()
                    return segment
            except BlockingIOError:
                pass  # recovery has it; it deletes empty files
            except OSError as error:
                with contextlib.suppress(OSError):  # it holds nothing, and recovery deletes it as well
                    path.unlink()
                os.close(fd)
                raise self._explain(error) from error
            os.close(fd)

    def _remove(self, segment: _Segment) -> None:
        if segment in self._unsynced:
            self._unsynced.remove(segment)
        try:
            # Before the lock goes with the descriptor: nobody is to find it unlocked.
            segment.path.unlink(missing_ok=True)
        except OSError:
            self._not_removed.append(segment.path)
        os.close(segment.fd)

    def _remove_again(self) -> None:
        paths, self._not_removed = self._not_removed, []
        for path in paths:
            try:
                path.unlink(missing_ok=True)
            except OSError:
                self._not_removed.append(path)

    # -- The disk itself ---------------------------------------------------------------------------------

    async def _sync(self) -> None:
        self._sync_under_way = trio.Event()
        reached = self._events
        segments = [*self._unsynced, self._segment]
        self._unsynced = []
        try:
            # Copies: a segment may be removed, and its descriptor closed, while the thread is at work.
            descriptors = [os.dup(segment.fd) for segment in segments]
            with trio.CancelScope(shield=True):  # others wait for it too, and a thread can't be cancelled
                await trio.to_thread.run_sync(_sync_and_close, descriptors)
        except OSError:
            self._doubtful = reached
            for segment in segments:
                segment.is_broken = True
        else:
            self._durable = reached
        finally:
            self._sync_under_way.set()
            self._sync_under_way = None

    def _sync_folder(self) -> None:
        fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _sync_and_close(descriptors: list[int]) -> None:
    errors: list[OSError] = []
    for descriptor in descriptors:
        try:
            os.fdatasync(descriptor)
        except OSError as error:
            errors.append(error)
        finally:
            os.close(descriptor)
    if errors:
        raise errors[0]
