"""Python's memory in one place, so that forking a worker costs little however much of it there is.

A fork copies an entry of the page tables for each page of 4 KB that the zygote has, and the end of the worker takes
each of them down again: for a small project that is a millisecond for every execution, before a single line has run,
and for a large one ten. Memory in *huge* pages of 2 MB is copied five hundred entries at a time, and stays cheap
when a few of the small pages in it have been written to since.

Python asks the system for a megabyte at a time (an *arena*) and gets it wherever there is room, between one
library and the next, where no two of them make a huge page. So `gather` gives it a region of addresses for its own
(``jail_arenas.S``), and `Arenas.fold` asks for huge pages when the project is imported and nothing has been forked:
only where all of a huge page is in use already, and not for what each worker is going to write to.

It changes nothing that a function can see, and where it can't be done all is as it was, only dearer. ``flux doctor``
says so.
"""

import contextlib
import ctypes
import errno
import mmap
import os
import struct

CODE = bytes.fromhex("""
    488b07488d1430483b570877215750524889c7ba03000000b80a0000000f055a595f4885c075114889174889c8c3488b4718488b
    7f20ffe031c0c30f1f440000483b77107232483b7708732c488d0416483b0775034889374889f74889d65756ba04000000b81c00
    00000f055e5f31d2b80a0000000f05c3488b4728488b7f20ffe0
""")
"""``jail_arenas.S``, assembled; a test compares."""
MACHINE = "x86_64"
"""What the code is for."""
_FREE_AT = 0x40
"""Where in the code its second function begins; the first is at its beginning."""
_PLACE = 0x6000_0000_0000
"""Far from programs, libraries and stacks: what must be near to one of them still finds room."""
HUGE_BYTES = 2 * 2**20
REGION_BYTES = 2**30
"""Of addresses. What does not fit lies where it always did."""
_PROT_NONE, _MAP_NORESERVE = 0, 0x4000
_MADV_COLLAPSE = 25
"""Of linux/mman.h, since Linux 6.1."""
_FAILED = 2**64 - 1

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
]
_libc.sbrk.restype, _libc.sbrk.argtypes = ctypes.c_size_t, [ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class _Allocator(ctypes.Structure):
    """PyObjectArenaAllocator, of Python's C API."""

    _fields_ = [("context", ctypes.c_void_p), ("alloc", ctypes.c_void_p), ("free", ctypes.c_void_p)]


class Arenas:
    """The region. Lives as long as the process."""

    def __init__(self, begin: int, code: int, before: _Allocator, heap: int) -> None:
        self.begin = begin
        """Where it begins."""
        self._heap = heap
        """Where the C library's memory begins, for what is larger than 512 bytes; 0 when that is not known."""
        table = struct.pack(
            "=6Q", begin, begin + REGION_BYTES, begin, before.alloc, before.context or 0, before.free
        )
        self._table = ctypes.create_string_buffer(table, len(table))
        allocator = _Allocator(ctypes.addressof(self._table), code, code + _FREE_AT)
        ctypes.pythonapi.PyObject_SetArenaAllocator(ctypes.byref(allocator))

    @property
    def end(self) -> int:
        """Where the memory ends that has been asked for."""
        return int(struct.unpack_from("=Q", self._table)[0])

    def fill_up(self) -> None:
        """Ask for memory up to the end of a huge page. To be called before a fork.

        What is asked for after one is another mapping to the kernel, and no huge page lies in two.
        """
        end = self.end
        # Refused where there is a limit on memory already: one huge page less.
        _libc.mprotect(end, -end % HUGE_BYTES, mmap.PROT_READ | mmap.PROT_WRITE)

    def fold(self, fresh: range) -> int:
        """Have huge pages where there is memory all through, but for ``fresh`` and what comes after; return how many.

        ``fresh`` is what nobody has used yet, and each worker will.
        """
        end = min(self.end, fresh.start) if self.begin <= fresh.start else self.end
        return _fold(self.begin, end) + (_fold(self._heap, _libc.sbrk(0)) if self._heap else 0)


def _fold(begin: int, end: int) -> int:
    first = -(-begin // HUGE_BYTES) * HUGE_BYTES
    # Refused where some of it is not there, where the system has no huge page left, or before Linux 6.1.
    return sum(
        _libc.madvise(address, HUGE_BYTES, _MADV_COLLAPSE) == 0
        for address in range(first, end - HUGE_BYTES + 1, HUGE_BYTES)
    )


def gather() -> Arenas | None:
    """Let what Python allocates from now on lie together; return None where that can't be had.

    To be called before the jail is built, and once.
    """
    if os.uname().machine != MACHINE:
        return None
    kind = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    code = _libc.mmap(None, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE, kind, -1, 0)
    region = _libc.mmap(_PLACE, REGION_BYTES + HUGE_BYTES, _PROT_NONE, kind | _MAP_NORESERVE, -1, 0)
    if _FAILED in (code, region):
        return None
    ctypes.memmove(code, CODE, len(CODE))
    if _libc.mprotect(code, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_EXEC) != 0:
        return None
    before = _Allocator()
    ctypes.pythonapi.PyObject_GetArenaAllocator(ctypes.byref(before))
    return Arenas(-(-region // HUGE_BYTES) * HUGE_BYTES, code, before, _find_heap())


def _find_heap() -> int:
    """Return where the C library's memory begins, 0 when it is not told."""
    with contextlib.suppress(OSError), open("/proc/self/maps") as file:
        for line in file:
            if line.endswith("[heap]\n"):
                return int(line.partition("-")[0], 16)
    return 0


def describe_folding() -> str:
    """Return what ``flux doctor`` says of huge pages, having asked for one."""
    kind = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    length = 2 * HUGE_BYTES
    tried = _libc.mmap(None, length, mmap.PROT_READ | mmap.PROT_WRITE, kind, -1, 0)
    if tried == _FAILED:
        number = ctypes.get_errno()
    else:
        aligned = -(-tried // HUGE_BYTES) * HUGE_BYTES
        ctypes.memset(aligned, 1, mmap.PAGESIZE)
        number = 0 if _libc.madvise(aligned, HUGE_BYTES, _MADV_COLLAPSE) == 0 else ctypes.get_errno()
        _libc.munmap(tried, length)
    if number == 0:
        return "huge: what Python functions are forked from lies in pages of 2 MB, as far as there are any"
    reason = f"{errno.errorcode.get(number, str(number))} ({os.strerror(number)})"
    return f"small: a fork takes longer, the more memory a project has: madvise(MADV_COLLAPSE): {reason}"
