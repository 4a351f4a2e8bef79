"""The layers that every process can put on by itself: descriptors, environment, limits, privileges.

They take away what a process inherits: open descriptors, variables, the right to use the
machine up, the capabilities of root. None of them needs a privilege to be put on.
"""

import contextlib
import ctypes
import os
import resource
import struct
from collections.abc import Iterable

from flux.sandbox.jail_linux import (
    PR_CAP_AMBIENT,
    PR_CAP_AMBIENT_CLEAR_ALL,
    PR_CAPBSET_DROP,
    PR_CAPBSET_READ,
    PR_SET_DUMPABLE,
    PR_SET_NO_NEW_PRIVS,
    SYS_CAPGET,
    SYS_CAPSET,
    SYS_CLOSE_RANGE,
    SYS_PRCTL,
    SYS_PRLIMIT64,
    LayerRefusedError,
    PreparedCall,
    call,
    prctl,
    try_call,
)

CAP_KILL, CAP_SETGID, CAP_SETUID, CAP_SETPCAP, CAP_SYS_ADMIN = 5, 6, 7, 8, 21
_CAPABILITY_VERSION_3 = 0x20080522

GIB = 2**30
MIB = 2**20
ADDRESS_SPACE_BYTES = 16 * GIB
"""A bound on page tables, which no other limit counts; memory itself is RLIMIT_DATA's."""
STACK_BYTES = 8 * MIB
"""RLIMIT_DATA does not count stacks: one that may grow is memory past the limit."""
DESCRIPTORS_MAX = 256
"""Of a worker."""
ZYGOTE_DESCRIPTORS_MAX = 4096
"""Of the process that forks workers. It uses few, but Linux refuses to send one to a process whose user has more than
this many under way, and each zygote's share is what the server has asked it for: with a bound as low as a worker's, a
handful of them would wait for each other for ever."""
PROCESSES_MAX = 4096
"""Of one jail: workers in waiting and at work. Holds where the jail has a user id, or user namespace, of its own."""

_LIMIT = struct.Struct("=2Q")
"""What is in force, and how far it may be raised."""

OOM_SCORE = b"1000"
"""As high as it goes: proc(5), oom_score_adj."""
KEPT_VARIABLES = ("LANG", "TZ")
"""Read by C code at any time; the rest did its work when the interpreter started."""
ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")
"""Set to 1: libraries of numbers start a thread for each processor as soon as they are loaded, which fails here."""


def offer_to_kernel() -> None:
    """Have the kernel end this process and those to come from it before any other, where memory runs out.

    It ends the largest one else, and in a container that is the server or its database as often as the function.
    Where that can't be said (``/proc`` may not be written to), it chooses as it always does.
    """
    with contextlib.suppress(OSError):
        descriptor = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, OOM_SCORE)
        finally:
            os.close(descriptor)


def close_descriptors(keep: Iterable[int]) -> None:
    """Close every descriptor but these: whatever was open by mistake ends here."""
    first = 0
    for descriptor in sorted(keep):
        if descriptor > first:
            call("descriptors", "close_range", SYS_CLOSE_RANGE, first, descriptor - 1, 0)
        first = descriptor + 1
    call("descriptors", "close_range", SYS_CLOSE_RANGE, first, 0xFFFFFFFF, 0)


def clear_environment() -> None:
    """Forget every variable but the ones in `KEPT_VARIABLES`, and ask libraries for one thread."""
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    os.environ.clear()
    os.environ.update(kept)
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))


def limit_resources(
    data_bytes_max: int,
    *,
    counts_processes: bool,
    reserves_addresses: bool = False,
    descriptors_max: int = DESCRIPTORS_MAX,
    file_bytes_max: int = 0,
) -> None:
    """Bound what this process and its children can use.

    ``counts_processes`` only where the count is the jail's own: it is kept by user, and elsewhere the
    server's and everybody else's processes would be in it. ``reserves_addresses`` for one that reserves
    gigabytes of addresses for each guest and uses few of them.
    """
    limits = {
        "DATA": data_bytes_max,
        "STACK": STACK_BYTES,
        "NOFILE": descriptors_max,
        "FSIZE": file_bytes_max,
        "CORE": 0,
        "MEMLOCK": 0,
        "MSGQUEUE": 0,
        "SIGPENDING": 64,
        "NICE": 0,
        "RTPRIO": 0,
    }
    if counts_processes:
        limits["NPROC"] = PROCESSES_MAX
    if not reserves_addresses:
        limits["AS"] = ADDRESS_SPACE_BYTES
    for name, value in limits.items():
        number = getattr(resource, f"RLIMIT_{name}")
        soft, hard = _get_limit(name, number)
        # Never raise what somebody above us has set lower.
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        _set_limit(name, number, (bound if soft == resource.RLIM_INFINITY else min(bound, soft), bound))


def end_files() -> None:
    """Let no file be written any more, not even one without a name."""
    _set_limit("FSIZE", resource.RLIMIT_FSIZE, (0, 0))


class WorkerLimits:
    """Bounds of one worker, made ready before there is one: no children, and an end of its processor time."""

    def __init__(self) -> None:
        self.cpu_s = ctypes.create_string_buffer(_LIMIT.size)
        """Its seconds of processor time, written by `write_limit` before `calls` are made."""
        none = ctypes.create_string_buffer(_LIMIT.size)
        soft, hard = _get_limit("NOFILE", resource.RLIMIT_NOFILE)  # Never raise what somebody has set lower.
        few = _LIMIT.pack(min(soft, DESCRIPTORS_MAX), min(hard, DESCRIPTORS_MAX))
        descriptors = ctypes.create_string_buffer(few, _LIMIT.size)
        self.calls = tuple(
            PreparedCall("limits", f"prlimit(RLIMIT_{name})", SYS_PRLIMIT64, 0, number, values, 0)
            for name, number, values in (
                ("NPROC", resource.RLIMIT_NPROC, none),
                ("NOFILE", resource.RLIMIT_NOFILE, descriptors),
                ("CPU", resource.RLIMIT_CPU, self.cpu_s),
            )
        )
        """What puts them on this process. Each returns 0."""


write_limit = _LIMIT.pack_into
"""Write a limit into a buffer, at 0: what is in force, and how far it may be raised."""


def _get_limit(name: str, number: int) -> tuple[int, int]:
    try:
        return resource.getrlimit(number)
    except OSError as error:
        raise LayerRefusedError("limits", f"getrlimit(RLIMIT_{name})", error.errno or 0) from error


def _set_limit(name: str, number: int, values: tuple[int, int]) -> None:
    try:
        resource.setrlimit(number, values)
    except OSError as error:
        raise LayerRefusedError("limits", f"setrlimit(RLIMIT_{name})", error.errno or 0) from error
    except ValueError as error:
        raise LayerRefusedError("limits", f"setrlimit(RLIMIT_{name})", 0, str(error)) from error


def read_capabilities() -> int:
    """Return the effective capabilities as bits."""
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), 8)
    data = ctypes.create_string_buffer(24)
    call("privileges", "capget", SYS_CAPGET, header, data)
    low, _, _, high, _, _ = struct.unpack("=6I", data.raw)
    return int(low | high << 32)


def has_capabilities(*numbers: int) -> bool:
    """Whether all of these are effective."""
    effective = read_capabilities()
    return all(effective >> number & 1 for number in numbers)


def drop_privileges(uid: int | None) -> None:
    """Give up every capability, for good; become ``uid``, who owns nothing and has no groups, unless None."""
    if has_capabilities(CAP_SETPCAP):
        number = 0
        while try_call(SYS_PRCTL, PR_CAPBSET_READ, number, 0, 0, 0) >= 0:
            prctl("privileges", f"PR_CAPBSET_DROP, {number}", PR_CAPBSET_DROP, number)
            number += 1
    prctl("privileges", "PR_CAP_AMBIENT_CLEAR_ALL", PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    if uid is not None:
        _become(uid)
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), 8)
    call("privileges", "capset", SYS_CAPSET, header, ctypes.create_string_buffer(24))
    prctl("privileges", "PR_SET_NO_NEW_PRIVS", PR_SET_NO_NEW_PRIVS, 1)
    # Nobody of the same user attaches to it or reads its memory through /proc.
    prctl("privileges", "PR_SET_DUMPABLE", PR_SET_DUMPABLE, 0)


def _become(uid: int) -> None:
    try:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        raise LayerRefusedError("user", f"setresuid({uid})", error.errno or 0) from error
