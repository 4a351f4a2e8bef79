"""The machine below the interpreter: its clocks and its randomness, for C code as for Python.

`hold` makes the process's vDSO (`flux_guest._vdso`) and a few functions of its C library jump
to code of ours (`_stubs.S`), which looks at one page of memory: while an execution runs, time is
what stands there, random bytes follow from the execution's seed, and the processor's time, the
process's number and which processor it is are always the same. While modules are imported, the same
code asks the kernel: a key that is drawn there must be a secret.

What a guest could read past all that (a system call of its own, the processor's counter, the
kernel's page of the time) is denied to workers: the page is gone, the jail's filter refuses the calls,
and the processor faults on ``rdtsc``. Some libraries do read that counter, OpenSSL among them: the
fault's handler answers with the time that everybody sees.

All of it is done before the jail is built and once for all workers, who inherit it. Where something can't be
done (a kernel that seals its pages, another processor), nothing is held here, and `Machine` says why:
the clocks of Python are then replaced in Python (`flux_guest._clock`), and records say so.
"""

import array
import ctypes
import platform
import struct
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

from flux_guest import _stubs, _vdso

HELD, NOW, STARTED, FILL, ERRNO_LOCATION = range(5)
"""Words of the page. ``_stubs.S`` has the same."""
_FAULTED_BYTES_AT = 64
_PAGE_BYTES = 4096
_PROT_READ, _PROT_WRITE = 1, 2
_MAP_PRIVATE, _MAP_ANONYMOUS = 2, 0x20
_NEAR_BYTES = 1 << 30
"""Of the 2 GiB that a short jump can reach."""
_STEP_BYTES = 1 << 24
_JUMP_BYTES = 5
_SYS_RT_SIGACTION, _SIGSEGV = 13, 11
_SA_SIGINFO, _SA_ONSTACK, _SA_RESTORER = 4, 0x08000000, 0x04000000
_SIGACTION_BYTES = 32
_PR_SET_TSC, _PR_TSC_ENABLE, _PR_TSC_SIGSEGV = 26, 1, 2
_FUNCTIONS = (
    *("getrandom", "getentropy", "arc4random", "arc4random_buf", "getrusage", "times", "sched_getcpu"),
    *("getpid", "gettid", "kill", "tgkill", "pthread_kill", "raise", "abort", "syscall"),
)
"""Of the C library. Some are missing from older ones, and from others."""
_INDISPENSABLE = {"getrandom", "syscall"}

Fill = Callable[[int], bytes]
"""Returns so many random bytes of the execution that runs."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.syscall.restype = ctypes.c_long
_FILL_TYPE = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_void_p, ctypes.c_size_t)


class Words(Protocol):
    """The page, word by word."""

    def __setitem__(self, index: int, value: int, /) -> None: ...


class NotHeldError(Exception):
    """Something of the machine can't be held here. The message says what."""


class Machine:
    """The machine of this process: what is held of it, and its clock."""

    def __init__(self, level: str, detail: str, page: Words, code: int = 0) -> None:
        self.level = level
        """``vdso``: held for C and Python. ``python``: not at all, so it is for Python to do what it can."""
        self.detail = detail
        """What was tried, or why it is not held: the end of a sentence."""
        self.page = page
        """Words that the code below the interpreter reads. Whoever hears the host writes `NOW`."""
        self.fill: Fill = _no_seed
        """Where C code's randomness comes from. To be set before an execution runs."""
        self._code = code

    @property
    def is_held(self) -> bool:
        """Whether clocks and randomness are held for C code too."""
        return self.level == "vdso"

    def begin(self, now_ns: int) -> None:
        """An execution starts: from here on the clocks are its own."""
        self.page[NOW] = self.page[STARTED] = now_ns
        self.page[HELD] = 1

    def end(self) -> None:
        """Nothing is an execution's any more: the clocks are the kernel's."""
        self.page[HELD] = 0

    def deny_counter(self) -> None:
        """Have the processor refuse its time stamp counter, here and in the processes forked from now on.

        The handler that then answers is put before any that an imported module has installed, which hears of all
        other faults. Raises `NotHeldError`.
        """
        _handle_faults(self._code)
        if _libc.prctl(_PR_SET_TSC, _PR_TSC_SIGSEGV, 0, 0, 0) != 0:
            raise NotHeldError(f"prctl(PR_SET_TSC): errno {ctypes.get_errno()}")


def hold() -> Machine:
    """Take over what C code sees of the machine if that can be done here. To be called before the jail is built."""
    try:
        return _hold()
    except NotHeldError as error:
        return Machine("python", str(error), array.array("q", [0, 0, 0]))


def leave() -> Machine:
    """Return a machine of which nothing is held."""
    return Machine("python", "nobody has asked for more", array.array("q", [0, 0, 0]))


def _hold() -> Machine:
    if platform.machine() != "x86_64" or sys.maxsize < 2**32:
        raise NotHeldError(f"the code for it is x86_64's, and this is {platform.machine()}")
    anchor, errno_location = _address_of("getrandom"), _address_of("__errno_location")
    if anchor is None or errno_location is None:
        raise NotHeldError("the C library has no getrandom, or keeps errno in another way")
    address = _map_near(anchor)
    code = address + _PAGE_BYTES
    ctypes.memmove(code, _stubs.CODE, len(_stubs.CODE))
    try:
        _vdso.without_writing(code, _PAGE_BYTES, "code")
        words = memoryview((ctypes.c_char * _PAGE_BYTES).from_address(address)).cast("B").cast("q")
        machine = Machine("vdso", "", words, code)
        callback = _make_callback(machine)
        words[FILL] = ctypes.cast(callback, ctypes.c_void_p).value or 0
        words[ERRNO_LOCATION] = errno_location
        targets = {f"__{name}": code + at for name, at in _stubs.ENTRIES.items() if name.startswith("vdso_")}
        _vdso.redirect(targets)
        for name in _FUNCTIONS:
            _redirect(name, code + _stubs.ENTRIES[f"c_{name}"])
        _vdso.remove_pages_of_time()
    except (OSError, ValueError) as error:
        # What has been done is harmless: nothing is held in the page, so that all of it asks the kernel.
        raise NotHeldError(_describe(error)) from error
    machine.detail = _try_out(machine)
    return machine


def _describe(error: OSError | ValueError) -> str:
    if isinstance(error, OSError) and error.errno:
        return f"{error.strerror}: errno {error.errno}"
    return str(error)


def _address_of(name: str) -> int | None:
    try:
        return ctypes.cast(getattr(_libc, name), ctypes.c_void_p).value
    except AttributeError:
        return None


def _map_near(anchor: int) -> int:
    """Return two pages within reach of ``anchor``: where the kernel would put them anyway, or below it."""
    for hint in (0, *range((anchor - _STEP_BYTES) & -_PAGE_BYTES, anchor - _NEAR_BYTES, -_STEP_BYTES)):
        address = _libc.mmap(hint, 2 * _PAGE_BYTES, _PROT_READ | _PROT_WRITE, _MAP_PRIVATE | _MAP_ANONYMOUS, -1, 0)
        if address is None or address == 2**64 - 1:
            raise NotHeldError(f"mmap: errno {ctypes.get_errno()}")
        if abs(address - anchor) < _NEAR_BYTES:
            return int(address)
        _libc.munmap(address, 2 * _PAGE_BYTES)
    raise NotHeldError("there is no free memory near the C library")


def _redirect(name: str, target: int) -> None:
    """Make a function of the C library jump to ``target``, for whoever calls it and however it was found."""
    address = _address_of(name)
    if address is None:
        if name in _INDISPENSABLE:
            raise ValueError(f"the C library has no {name}")
        return
    jump = b"\xe9" + struct.pack("<i", target - address - _JUMP_BYTES)
    _vdso.with_writing(address, _JUMP_BYTES, name)
    ctypes.memmove(address, jump, _JUMP_BYTES)
    _vdso.without_writing(address, _JUMP_BYTES, name)


_kept: list[object] = []
"""What machine code refers to and the garbage collector must not take."""


def _make_callback(machine: Machine) -> Any:
    def fill(address: int, size: int) -> int:
        ctypes.memmove(address, machine.fill(size), size)
        return size

    callback = _FILL_TYPE(fill)
    _kept.append(callback)
    return callback


def _no_seed(_size: int) -> bytes:
    raise NotHeldError("no execution has been started")


def _handle_faults(code: int) -> None:
    """Put our handler of SIGSEGV before the one that is there, which goes to the page."""
    faulted = code - _PAGE_BYTES + _FAULTED_BYTES_AT
    on_fault, restorer = code + _stubs.ENTRIES["on_fault"], code + _stubs.ENTRIES["restorer"]
    ours = struct.pack("<QQQQ", on_fault, _SA_SIGINFO | _SA_ONSTACK | _SA_RESTORER, restorer, 0)
    _sigaction(ctypes.create_string_buffer(ours, _SIGACTION_BYTES), faulted)


def _sigaction(new: "ctypes.Array[ctypes.c_char] | int", old: int | None) -> None:
    pointers = (ctypes.c_void_p(new) if isinstance(new, int) else new, ctypes.c_void_p(old))
    if _libc.syscall(ctypes.c_long(_SYS_RT_SIGACTION), ctypes.c_long(_SIGSEGV), *pointers, ctypes.c_long(8)) != 0:
        raise NotHeldError(f"rt_sigaction: errno {ctypes.get_errno()}")


def _try_out(machine: Machine) -> str:
    """Read clocks as C code does and compare; raise `NotHeldError` for one that tells something else.

    A hypervisor may ignore what the processor was asked to refuse, and a C library may keep functions of its own.
    """
    now_ns, started_ns = 1_234_567_890_123_456_789, 1_234_567_889_000_000_000
    read_counter = ctypes.CFUNCTYPE(ctypes.c_ulong)(machine._code + _stubs.ENTRIES["read_counter"])
    machine.fill = bytes
    try:
        machine.deny_counter()
        machine.begin(started_ns)
        machine.page[NOW] = now_ns
        spec = (ctypes.c_long * 2)()
        _libc.gettimeofday(spec, None)
        drawn = ctypes.create_string_buffer(b"\xff" * 16, 16)
        drawn_bytes = _libc.getrandom(drawn, 16, 0)
        seen = {
            "time.time_ns": (time.time_ns(), now_ns),
            "time.monotonic_ns": (time.monotonic_ns(), now_ns - started_ns),
            "time.process_time_ns": (time.process_time_ns(), 0),
            "gettimeofday": (spec[0] * 10**6 + spec[1], now_ns // 1000),
            "time": (_libc.time(None), now_ns // 10**9),
            "getrandom": ((drawn_bytes, drawn.raw), (16, bytes(16))),
            "rdtsc": (read_counter(), now_ns - started_ns),
        }
    finally:
        machine.page[HELD] = 0
        machine.page[NOW] = machine.page[STARTED] = 0
        machine.fill = _no_seed
        _libc.prctl(_PR_SET_TSC, _PR_TSC_ENABLE, 0, 0, 0)
        _sigaction(machine._code - _PAGE_BYTES + _FAULTED_BYTES_AT, None)
    wrong = [name for name, (got, expected) in seen.items() if got != expected]
    if wrong:
        raise NotHeldError(f"{', '.join(wrong)} told something else than they were given to tell")
    return f"tried: {', '.join(seen)}"
