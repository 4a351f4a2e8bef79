"""Lines from a descriptor, each read in the same way however it arrives.

How the host's bytes are cut into pieces on their way is nobody's doing. If Python code put the pieces
together, the blocks of memory that it used for that would differ from run to run, and with them the
addresses of what the function makes next (`flux_guest._layout`). The C library's streams do it in memory
of their own: seen from Python, a line is one call. It also costs a quarter of a read and a split in Python.
"""

import ctypes
import errno
import mmap
import os

_BUFFER_BYTES = 1 << 16
"""What a pipe holds. Longer lines take more reads."""
_FULLY_BUFFERED = 0
"""_IOFBF of stdio.h."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fdopen.restype, _libc.fdopen.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_char_p]
_libc.setvbuf.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
_libc.getline.restype, _libc.getline.argtypes = ctypes.c_ssize_t, [ctypes.c_void_p] * 3
_libc.clearerr.argtypes = [ctypes.c_void_p]
_purge = _libc["__fpurge"]  # As an attribute it would get the class's name, for its underscores.
_purge.argtypes = [ctypes.c_void_p]


class LineReader:
    """Reads a descriptor, which it neither opens nor closes."""

    def __init__(self, descriptor: int) -> None:
        # Not counted as used until it is: a page costs when it is touched.
        self._memory = mmap.mmap(-1, _BUFFER_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._stream = _libc.fdopen(descriptor, b"r")
        if not self._stream:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self._buffer = (ctypes.c_char * _BUFFER_BYTES).from_buffer(self._memory)
        _libc.setvbuf(self._stream, self._buffer, _FULLY_BUFFERED, _BUFFER_BYTES)
        self._line, self._capacity = ctypes.c_void_p(), ctypes.c_size_t()
        self._where = (ctypes.addressof(self._line), ctypes.addressof(self._capacity), self._stream)

    def read(self) -> bytes:
        """Return the next line with its end; without it, or nothing, at the end of the stream."""
        ctypes.set_errno(0)  # The end of a stream leaves it as it was.
        length = _libc.getline(*self._where)
        line = ctypes.string_at(self._line.value or 0, length) if length > 0 else b""
        return line if line.endswith(b"\n") else self._read_on(line)

    def _read_on(self, line: bytes) -> bytes:
        """Go on after a signal has cut a line short, or end."""
        number = ctypes.get_errno()
        if number == errno.EINTR:
            # The signal's handler has run by now.
            _libc.clearerr(self._stream)
            return line + self.read()
        if number == errno.ENOMEM:
            raise MemoryError
        if number:
            raise OSError(number, os.strerror(number))
        return line

    def forget(self) -> None:
        """Drop what has been read ahead."""
        _purge(self._stream)
