"""Layer ``seccomp`` for a process of wasm guests: two lists, one while it loads and one while it serves.

*Loading* reads the project's files, compiles its modules and evaluates its scripts, and all
of that may be hostile. Machine code comes into being here, so memory may be made
executable (``mprotect``, and never while it is writable), and images of memories are kept
in files that have no name (``memfd_create``). Nothing can be started, and no file written.

*Serving* is what the process does for the rest of its life, and it needs very little: the
sockets that it was given, memory for guests, threads for those that compute. It opens no
file, forks nothing, and no memory becomes executable any more: whoever gets out of a guest's
WebAssembly has the code that is there and none of his own.

The second list goes on top of the first, for all threads at once. What both say of calls
by another route and of unknown ones is told in `flux.sandbox.jail_seccomp`.
"""

import os
from collections.abc import Mapping, Sequence

from flux.sandbox.jail_seccomp import (
    FILTER_FLAG_ALL_THREADS,
    ONLY_IF,
    SECCOMP_SET_MODE_FILTER,
    Rule,
    Test,
    assemble,
    signals_to,
)

_THREAD = (0x3D0F00, 0x7D0F00)
"""What glibc and musl pass to clone for a thread: all is shared, and nothing is a process of its own."""
_WRITABLE, _EXECUTABLE = 2, 4
_MAP_TYPE, _MAP_PRIVATE, _MAP_ANONYMOUS, _MAP_GROWS_DOWN, _MAP_HUGE = 0xF, 0x02, 0x20, 0x100, 0x40000
_F_ADD_SEALS = 1033
_FCNTL = (1, 2, 3, 4)
"""Read and set flags: as `flux.sandbox.jail_seccomp` has it, but nothing is duplicated: each thing has one number."""
_WIRE, _SHUT_RD = 3, 0
_FIONBIO = 0x5421
_PR_SET_NAME, _PR_GET_SECCOMP, _PR_GET_NO_NEW_PRIVS = 15, 21, 39
_SOL_SOCKET, _BUFFER_SIZES, _KIND_AND_ERROR = 1, (7, 8), (3, 4, 38, 39)
_AF_UNIX, _SOCK_TYPE, _SOCK_STREAM = 1, 0xF, 1

SERVING: Sequence[str] = (
    *("read", "write", "readv", "writev", "close"),
    *("recvfrom", "recvmsg", "sendto", "getsockname"),
    *("poll", "ppoll", "epoll_ctl", "epoll_wait", "epoll_pwait"),
    *("munmap", "mremap", "brk", "madvise", "membarrier", "futex", "rseq", "set_robust_list"),
    *("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack"),
    *("sched_yield", "sched_getaffinity", "nanosleep", "clock_nanosleep", "restart_syscall"),
    *("clock_gettime", "clock_getres", "gettimeofday", "time", "getrandom", "getpid", "gettid"),
    *("exit", "exit_group"),
)
"""Calls that a serving process may make whatever their arguments. ``sendmsg`` is not among them: a descriptor
that is sent is one that somebody else has to close."""

_GUESTS_WIRES: Mapping[str, Sequence[Rule]] = {
    # A guest that has to go finds that nothing more is said to it. The host's own line is not a guest's.
    "shutdown": [(Test(0, (_WIRE,), excludes=True), Test(1, (_SHUT_RD,)))],
}

_PRIVATE_MEMORY: Mapping[str, Sequence[Rule]] = {
    # A file, or private memory, which RLIMIT_DATA counts; never executable.
    "mmap": [
        (Test(2, (0,), _EXECUTABLE), Test(3, (0,), _MAP_ANONYMOUS | _MAP_GROWS_DOWN | _MAP_HUGE)),
        (Test(2, (0,), _EXECUTABLE), Test(3, (_MAP_PRIVATE,), _MAP_TYPE | _MAP_GROWS_DOWN | _MAP_HUGE)),
    ],
    "clone": [(Test(0, _THREAD),)],
}

SERVING_ONLY_IF: Mapping[str, Sequence[Rule]] = {
    **_PRIVATE_MEMORY,
    **_GUESTS_WIRES,
    "mprotect": [(Test(2, (0,), _EXECUTABLE),)],
    "fcntl": [(Test(1, _FCNTL),)],
    "ioctl": [(Test(1, (_FIONBIO,)),)],
    # What kind of socket it is, and whether it failed; not who is at the other end.
    "getsockopt": [(Test(1, (_SOL_SOCKET,)), Test(2, _KIND_AND_ERROR))],
    "prctl": [(Test(0, (_PR_SET_NAME, _PR_GET_SECCOMP, _PR_GET_NO_NEW_PRIVS)),)],
    "prlimit64": [(Test(0, (0,)),)],
}

LOADING: Sequence[str] = (
    *SERVING,
    *(
        "pread64",
        "preadv",
        "lseek",
        "stat",
        "fstat",
        "lstat",
        "newfstatat",
        "statx",
        "access",
        "faccessat",
    ),
    *(
        "faccessat2",
        "readlink",
        "readlinkat",
        "getdents64",
        "getcwd",
        "fadvise64",
        "getrlimit",
        "getrusage",
        "uname",
    ),
    *("getuid", "geteuid", "getgid", "getegid", "getppid", "getgroups", "getresuid", "getresgid", "capget"),
    *("epoll_create1", "memfd_create", "sendmsg", "select", "pselect6"),
)
"""The same for one that loads. ``sendmsg`` hands compiled code to the supervisor, as a descriptor."""

LOADING_ONLY_IF: Mapping[str, Sequence[Rule]] = {
    **ONLY_IF,
    **_PRIVATE_MEMORY,
    **_GUESTS_WIRES,
    # Compiled code: written first, executable then, never both.
    "mprotect": [(Test(2, (0, _WRITABLE, _EXECUTABLE), _WRITABLE | _EXECUTABLE),)],
    "fcntl": [(Test(1, (*_FCNTL, _F_ADD_SEALS)),)],
    "getsockopt": SERVING_ONLY_IF["getsockopt"],
    "prctl": SERVING_ONLY_IF["prctl"],
    # Trio wakes its loop through a pair of sockets.
    "socketpair": [(Test(0, (_AF_UNIX,)), Test(1, (_SOCK_STREAM,), _SOCK_TYPE))],
    "setsockopt": [(Test(1, (_SOL_SOCKET,)), Test(2, _BUFFER_SIZES))],
    # The tighter list, for all threads at once, and with no other flag.
    "seccomp": [(Test(0, (SECCOMP_SET_MODE_FILTER,)), Test(1, (FILTER_FLAG_ALL_THREADS,)))],
}


def make_loading_filter() -> bytes:
    """Return the program for a process that loads a deployment's modules and scripts."""
    # Signals to itself only, by its number where it lives: it aborts as any C program does.
    return assemble(LOADING, {**LOADING_ONLY_IF, **signals_to(os.getpid())})


def make_serving_filter() -> bytes:
    """Return the program for one whose code is loaded."""
    return assemble(SERVING, {**SERVING_ONLY_IF, **signals_to(os.getpid())})
