"""The vDSO: the kernel's own code in each process, which tells the time without a system call.

Every clock of every library ends there: ``time.time`` and ``datetime.now``, sqlite's
``datetime('now')``, OpenSSL's check of a certificate. So whoever changes the vDSO changes them
all. It is a shared object in memory: its table of symbols says where its functions begin, and each
is made to jump elsewhere. The process has its copy of the page from then on, and so have its children.

Beside it lies ``vvar``, the page that the kernel writes the time to. Nobody needs it any more, and
it could be read: it is taken away.
"""

import ctypes
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

_PAGE_BYTES = 4096
_AT_SYSINFO_EHDR = 33
_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_HASH, _DT_STRTAB, _DT_SYMTAB, _DT_GNU_HASH = 4, 5, 6, 0x6FFFFEF5
_PROT_READ, _PROT_WRITE, _PROT_EXEC = 1, 2, 4
_JUMP = b"\x48\xb8%b\xff\xe0"
"""``mov rax, address; jmp rax``: the vDSO may be far from everything else."""
_JUMP_BYTES = 12

_libc = ctypes.CDLL(None, use_errno=True)
_libc.getauxval.restype = ctypes.c_ulong
_libc.getauxval.argtypes = [ctypes.c_ulong]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


@dataclass(frozen=True, slots=True)
class Function:
    """A function of the vDSO."""

    address: int
    size_bytes: int
    """Of its code: a jump must fit."""


def redirect(targets: Mapping[str, int]) -> None:
    """Make each function of the vDSO that is in ``targets`` jump to the address there; raise OSError or ValueError.

    The functions that this kernel's vDSO lacks need no answer. One that is neither in ``targets`` nor known
    to be harmless would be a clock that nobody has thought of, so that is an error.
    """
    base = _libc.getauxval(_AT_SYSINFO_EHDR)
    if not base:
        raise ValueError("the kernel gives this process no vDSO")
    functions, end = read_functions(base)
    if not functions:
        raise ValueError("the vDSO names no function")
    for name, function in functions.items():
        if name not in targets:
            if name in _HARMLESS:
                continue
            raise ValueError(f"the vDSO has a function that is not known here: {name}")
        if function.size_bytes < _JUMP_BYTES:
            raise ValueError(f"{name} of the vDSO is too short for a jump: {function.size_bytes} bytes")
    with_writing(base, end - base, "vdso")
    for name, function in functions.items():
        if name in targets:
            ctypes.memmove(function.address, _JUMP % struct.pack("<Q", targets[name]), _JUMP_BYTES)
    without_writing(base, end - base, "vdso")


_HARMLESS = frozenset({"__vdso_sgx_enter_enclave"})
"""It enters memory that a process without the right to open a device does not have."""


def with_writing(address: int, size: int, what: str) -> None:
    """Make code writable; raise OSError that names ``what``."""
    _protect(address, size, _PROT_READ | _PROT_WRITE | _PROT_EXEC, what)


def without_writing(address: int, size: int, what: str) -> None:
    """Make it code again and nothing else."""
    _protect(address, size, _PROT_READ | _PROT_EXEC, what)


def _protect(address: int, size: int, rights: int, what: str) -> None:
    first = address & -_PAGE_BYTES
    last = (address + size + _PAGE_BYTES - 1) & -_PAGE_BYTES
    if _libc.mprotect(first, last - first, rights) != 0:
        raise OSError(ctypes.get_errno(), f"mprotect({what})")


def remove_pages_of_time() -> None:
    """Take away the pages that the kernel writes the time to; raise OSError.

    To be done when nothing reads them any more. Where they are is written in ``/proc/self/maps`` only,
    which is not there to be read in the jail: so before that.
    """
    with open("/proc/self/maps") as file:
        found = re.findall(r"^([0-9a-f]+)-([0-9a-f]+) .*\[vvar\w*\]$", file.read(), re.MULTILINE)
    if not found:
        raise OSError(0, "/proc/self/maps names no vvar")
    for first, last in found:
        if _libc.munmap(int(first, 16), int(last, 16) - int(first, 16)) != 0:
            raise OSError(ctypes.get_errno(), "munmap(vvar)")


def read_functions(base: int) -> tuple[dict[str, Function], int]:
    """Return the functions of the shared object that is in memory at ``base``, and where it ends.

    Linux: Documentation/ABI/stable/vdso; the format is ELF's (elf(5)). Names that begin with ``__vdso_``
    are those that C libraries ask for; the others are second names of the same code.
    """

    def read(form: str, offset: int) -> tuple[int, ...]:
        return struct.unpack(form, ctypes.string_at(base + offset, struct.calcsize(form)))

    table, entry_bytes, entries = *read("<Q", 32), *read("<HH", 54)
    dynamic = end = 0
    for index in range(entries):
        kind, _flags, offset, address, _, _, memory_bytes, _ = read("<IIQQQQQQ", table + index * entry_bytes)
        if kind == _PT_LOAD:
            end = max(end, address + memory_bytes)
        elif kind == _PT_DYNAMIC:
            dynamic = offset
    tags: dict[int, int] = {}
    while (pair := read("<qQ", dynamic))[0]:
        tags[pair[0]] = pair[1]
        dynamic += 16
    functions = {}
    for index in range(_count_symbols(tags, read)):
        name_at, _info, _other, section, value, size = read("<IBBHQQ", tags[_DT_SYMTAB] + 24 * index)
        name = ctypes.string_at(base + tags[_DT_STRTAB] + name_at).decode()
        if section and name.startswith("__vdso_"):
            functions[name] = Function(base + value, size)
    return functions, base + end


def _count_symbols(tags: Mapping[int, int], read: Callable[[str, int], tuple[int, ...]]) -> int:
    if _DT_HASH in tags:
        return read("<II", tags[_DT_HASH])[1]
    # Newer kernels have the GNU table only, which does not say how many there are: the last chain's end does.
    at = tags[_DT_GNU_HASH]
    buckets_count, first, bloom_words, _shift = read("<IIII", at)
    buckets = at + 16 + 8 * bloom_words
    last = max(read(f"<{buckets_count}I", buckets))
    while not read("<I", buckets + 4 * buckets_count + 4 * (last - first))[0] & 1:
        last += 1
    return last + 1
