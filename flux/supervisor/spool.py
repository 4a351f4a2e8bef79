"""Bodies on the disk: what is too large to hold, between a client and a function.

A `Spool` is one body in an unnamed file of the flux folder. It has no name, so it is gone when the supervisor is,
however that ends: nothing has to be cleaned up, and nobody finds it. It is written once, from its beginning to its end,
then read from anywhere; its digest is made on the way. Whoever opens one closes it.

All spools of one tenant share a `SpoolFolder`, which bounds what they take together, and stops while the disk still has
room for others: on the same disk are the journal, without which nothing runs at all, and often the database.

The disk is waited for in threads, a piece at a time: neither a slow disk nor a large piece holds up other requests.
"""

import errno
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO

import trio

from flux.errors import OperatorError
from flux.limits import GIB, MIB, format_size
from flux.streamed import StreamedBody

SPOOL_BYTES_MAX = 8 * GIB
"""What the bodies of one tenant may take on the disk at once."""
FREE_BYTES_MIN = 512 * MIB
"""What a disk must have left for others, else no piece is taken."""
CLOSE_BYTES = 16 * MIB
"""A file with more than that is closed in a thread: to give its room back took the disk 0.2 s for a GiB."""
READ_BYTES = 256 * 1024
"""What is read for a client at a time."""


class SpoolError(OperatorError):
    """A body could not be written to the disk, or not be read from it."""

    code = "FLX714"


class SpoolFullError(SpoolError):
    """A body finds no room: the tenant has its share of the disk, or the disk is nearly full."""

    code = "FLX713"


class SpoolFolder:
    """Where the bodies of one tenant lie, and how much they take."""

    def __init__(
        self, folder: Path, *, bytes_max: int = SPOOL_BYTES_MAX, free_bytes_min: int = FREE_BYTES_MIN
    ) -> None:
        self.folder = folder
        self.bytes_max = bytes_max
        self.free_bytes_min = free_bytes_min
        self.held_bytes = 0
        """What all open spools take."""

    def open(self) -> "Spool":
        """Return a new body, which is empty. It takes a descriptor from its first piece on: it may never come."""
        return Spool(self)

    def hold(self, size_bytes: int) -> None:
        """Count ``size_bytes`` more; raise `SpoolFullError` where the share does not allow it."""
        if self.held_bytes + size_bytes > self.bytes_max:
            raise SpoolFullError(
                f"the bodies that are under way take {self.held_bytes:,} bytes on the disk, of the "
                f"{format_size(self.bytes_max)} that they may take together",
                remedy="try again once others have been sent",
            )
        self.held_bytes += size_bytes


class Spool:
    """One body. See the module."""

    def __init__(self, folder: SpoolFolder) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._digest = hashlib.sha256()
        self._writing = trio.Lock()
        self._is_closed = False
        self.size_bytes = 0
        """What was written so far."""

    @property
    def body(self) -> StreamedBody:
        """What it is, as far as it was written."""
        return StreamedBody(self._digest.hexdigest(), self.size_bytes)

    async def write(self, piece: bytes) -> None:
        """Write the next piece, whole; raise `SpoolError`, and then the body is not to be used any more."""
        async with self._writing:
            self._folder.hold(len(piece))
            offset, self.size_bytes = self.size_bytes, self.size_bytes + len(piece)
            try:
                # Not given up any more: a piece that is counted and not there would be found out by nobody.
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(self._write, piece, offset)
            except OSError as error:
                raise _explain(error, self._folder.folder) from error

    def _write(self, piece: bytes, offset: int) -> None:
        descriptor = self._open().fileno()
        disk = os.fstatvfs(descriptor)
        if disk.f_bavail * disk.f_frsize < self._folder.free_bytes_min + len(piece):
            raise OSError(errno.ENOSPC, f"less than {format_size(self._folder.free_bytes_min)} would be left")
        view = memoryview(piece)
        while view:
            written = os.pwrite(descriptor, view, offset)
            view, offset = view[written:], offset + written
        self._digest.update(piece)

    def _open(self) -> IO[bytes]:
        if self._file is None:
            self._folder.folder.mkdir(mode=0o700, exist_ok=True)
            # Without a name where the file system can (O_TMPFILE), else without it at once.
            self._file = tempfile.TemporaryFile(dir=self._folder.folder, buffering=0)  # noqa: SIM115 - closed by `close`
        return self._file

    async def read(self, offset: int, size: int) -> bytes:
        """Return at most ``size`` bytes from ``offset``; fewer only at the end."""
        wanted = max(0, min(size, self.size_bytes - offset))
        if not wanted:
            await trio.lowlevel.checkpoint()
            return b""
        try:
            data = await trio.to_thread.run_sync(os.pread, self._open().fileno(), wanted, offset)
        except OSError as error:
            raise _explain(error, self._folder.folder) from error
        if len(data) < wanted:
            raise SpoolError(
                f"a body on the disk in {self._folder.folder} has {offset + len(data):,} bytes, and "
                f"{self.size_bytes:,} were written",
                remedy="look at the health of that disk (dmesg)",
            )
        return data

    def close(self) -> None:
        """Let go of it, and of the room that it takes."""
        if self._is_closed:
            return
        self._is_closed = True
        self._folder.held_bytes -= self.size_bytes
        if self._file is None:
            return
        if self.size_bytes > CLOSE_BYTES:
            # Nobody waits for it, nor is there anything to tell: what was in it is not asked for any more.
            trio.lowlevel.start_thread_soon(self._file.close, lambda _closed: None)
        else:
            self._file.close()


class SpooledAnswer:
    """A spool on its way to a client: an answer's body, as the gateway takes one. Closes the spool at its end."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._offset = 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        piece = await self._spool.read(self._offset, READ_BYTES)
        if not piece:
            raise StopAsyncIteration
        self._offset += len(piece)
        return piece

    async def aclose(self) -> None:
        """Close the spool, whether all of it was sent or nothing."""
        self._spool.close()
        await trio.lowlevel.checkpoint()


def _explain(error: OSError, folder: Path) -> SpoolError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return SpoolFullError(
            f"no room for a body in {folder}: {error.strerror}",
            remedy="make room on that disk, or move the project to a larger one",
        )
    return SpoolError(
        f"a body can't be kept in {folder}: {error.strerror or error}", remedy="look at the folder and its disk"
    )
