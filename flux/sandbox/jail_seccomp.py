"""Layer ``seccomp``: a list of the system calls that a guest may make, and no others.

Two lists. The *zygote* imports the user's modules and forks workers, so it may fork; a
*worker* puts the tighter list on top of that one before it runs anything, and from then
on can compute, read its code, and use the descriptors that it was given. Nobody in the
jail can make a socket that reaches anything, open a file for writing, signal a process
but itself, or have memory that its limit does not count.

A call that is not listed fails with EPERM, one that did not exist when this was written
with ENOSYS (C libraries then fall back to what they did before). Calls by another route,
the 32-bit ones of ``int 0x80`` and those of x32, have other numbers and would be judged
by the wrong line of the list: the process is killed.

Arguments are compared as the kernel takes them: the lower half where it takes an int.
What is behind a pointer can't be compared at all, which is why ``clone3`` and ``openat2``
are never allowed.
"""

import ctypes
import errno
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flux.sandbox.jail_linux import SYS_SECCOMP, LayerRefusedError, PreparedCall

CALLS: Mapping[str, int] = {
    "read": 0, "write": 1, "open": 2, "close": 3, "stat": 4, "fstat": 5, "lstat": 6, "poll": 7, "lseek": 8,
    "mmap": 9, "mprotect": 10, "munmap": 11, "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14,
    "rt_sigreturn": 15, "ioctl": 16, "pread64": 17, "readv": 19, "writev": 20, "access": 21, "select": 23,
    "sched_yield": 24, "mremap": 25, "madvise": 28, "dup": 32, "dup2": 33, "pause": 34, "nanosleep": 35,
    "getpid": 39, "sendto": 44, "recvfrom": 45, "sendmsg": 46, "recvmsg": 47, "shutdown": 48, "getsockname": 51,
    "socketpair": 53, "setsockopt": 54, "getsockopt": 55, "clone": 56, "exit": 60, "wait4": 61, "kill": 62,
    "uname": 63, "fcntl": 72, "getcwd": 79, "chdir": 80,
    "readlink": 89, "gettimeofday": 96, "getrlimit": 97, "getrusage": 98, "times": 100, "getuid": 102,
    "getgid": 104, "geteuid": 107, "getegid": 108, "getppid": 110, "getgroups": 115, "getresuid": 118,
    "getresgid": 120, "getpgid": 121, "rt_sigpending": 127, "rt_sigsuspend": 130, "sigaltstack": 131,
    "statfs": 137, "fstatfs": 138, "capget": 125, "prctl": 157, "gettid": 186, "tkill": 200, "time": 201, "futex": 202,
    "sched_getaffinity": 204, "getdents64": 217, "restart_syscall": 219, "fadvise64": 221, "clock_gettime": 228,
    "clock_getres": 229, "clock_nanosleep": 230, "exit_group": 231, "epoll_wait": 232, "epoll_ctl": 233,
    "tgkill": 234, "waitid": 247, "openat": 257, "newfstatat": 262, "readlinkat": 267, "faccessat": 269,
    "pselect6": 270, "ppoll": 271, "set_robust_list": 273, "epoll_pwait": 281, "epoll_create1": 291, "dup3": 292,
    "pipe2": 293, "preadv": 295, "prlimit64": 302, "seccomp": 317, "getrandom": 318, "memfd_create": 319,
    "membarrier": 324, "statx": 332, "rseq": 334, "pidfd_open": 434, "close_range": 436, "faccessat2": 439,
}  # fmt: skip
"""Numbers of x86_64 for every call that either list names."""
_CLONE3 = 435
_EXECVE, _EXECVEAT = 59, 322
LAST_KNOWN_CALL = 467
"""Beyond it are calls that did not exist when this was written."""

KILL_PROCESS = 0x80000000
FAIL = 0x00050000
ALLOW = 0x7FFF0000
AUDIT_ARCH_X86_64 = 0xC000003E
X32_BIT = 0x40000000
_LOAD, _EQUAL, _GREATER_OR_EQUAL, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
_NUMBER_AT, _MACHINE_AT, _ARGUMENTS_AT = 0, 4, 16
SECCOMP_SET_MODE_FILTER = 1
FILTER_FLAG_ALL_THREADS = 1
_OPERAND = struct.Struct("=I")
JUMP_MAX = 255
"""Instructions that a comparison can skip."""


@dataclass(frozen=True, slots=True)
class Test:
    """A half of an argument, masked, has one of these values, or none of them."""

    argument: int
    values: tuple[int, ...]
    mask: int = 0xFFFFFFFF
    upper: bool = False
    """Whether it is the upper half: for pointers."""
    excludes: bool = False
    """Whether it must have none of the values."""


Rule = tuple[Test, ...]
"""Tests that must all hold."""


def _rule(*tests: Test) -> Rule:
    return tests


# O_RDONLY is 0, so "opened for reading" is that none of these is set. O_TMPFILE contains O_DIRECTORY, which is fine.
_TMPFILE_ITSELF = 0o20000000
# O_PATH is refused as well: Landlock does not judge it, and nothing that only reads needs it.
_WRITES = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC | os.O_APPEND | _TMPFILE_ITSELF | os.O_PATH
_MAP_TYPE, _MAP_PRIVATE, _MAP_ANONYMOUS, _MAP_GROWS_DOWN, _MAP_HUGE = 0xF, 0x02, 0x20, 0x100, 0x40000
_FORK = (0x01200011, 0x11)
"""What glibc's fork and musl's pass to clone: no thread, no namespace, no shared memory."""
_F_DUPFD, _F_GETFD, _F_SETFD, _F_GETFL, _F_SETFL, _F_DUPFD_CLOEXEC = 0, 1, 2, 3, 4, 1030
_TCGETS, _FIONBIO, _FIOCLEX, _FIONCLEX = 0x5401, 0x5421, 0x5451, 0x5450
_AF_UNIX, _SOCK_TYPE, _SOCK_STREAM = 1, 0xF, 1
_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_GET_SECCOMP, _PR_GET_NO_NEW_PRIVS = 1, 15, 21, 39
_PR_SET_TSC, _PR_TSC_SIGSEGV = 26, 2

ALWAYS = (
    *("read", "write", "readv", "writev", "pread64", "preadv", "lseek", "close", "dup", "dup2", "dup3"),
    *(
        "stat",
        "fstat",
        "lstat",
        "newfstatat",
        "statx",
        "access",
        "faccessat",
        "faccessat2",
    ),
    *("readlink", "readlinkat", "getdents64", "getcwd", "fadvise64"),
    *("munmap", "mprotect", "mremap", "brk", "madvise", "membarrier", "futex", "set_robust_list"),
    *(
        "rt_sigaction",
        "rt_sigprocmask",
        "rt_sigreturn",
        "rt_sigpending",
        "rt_sigsuspend",
        "sigaltstack",
        "pause",
    ),
    *("sched_yield", "sched_getaffinity", "nanosleep", "clock_nanosleep", "restart_syscall", "clock_getres"),
    *(
        "getpid",
        "getppid",
        "gettid",
        "getpgid",
        "getuid",
        "geteuid",
        "getgid",
        "getegid",
        "getgroups",
        "getresuid",
    ),
    *("getresgid", "uname", "getrlimit", "exit", "exit_group"),
)
"""Calls that either list allows whatever their arguments."""

ONLY_IF: Mapping[str, Sequence[Rule]] = {
    "open": [_rule(Test(1, (0,), _WRITES))],
    "openat": [_rule(Test(2, (0,), _WRITES))],
    # A file, which can be read only; or private memory, which RLIMIT_DATA counts. It counts neither shared
    # memory nor what grows like a stack.
    "mmap": [
        _rule(Test(3, (0,), _MAP_ANONYMOUS | _MAP_GROWS_DOWN | _MAP_HUGE)),
        _rule(Test(3, (_MAP_PRIVATE,), _MAP_TYPE | _MAP_GROWS_DOWN | _MAP_HUGE)),
    ],
    "fcntl": [_rule(Test(1, (_F_DUPFD, _F_GETFD, _F_SETFD, _F_GETFL, _F_SETFL, _F_DUPFD_CLOEXEC)))],
    "ioctl": [_rule(Test(1, (_TCGETS, _FIONBIO, _FIOCLEX, _FIONCLEX)))],
    "prlimit64": [_rule(Test(0, (0,)))],
}
"""Calls that either list allows with such arguments."""

ASKING = ("clock_gettime", "gettimeofday", "time", "times", "getrusage", "getrandom")
"""What differs whenever it is asked: the time, of the day or spent, and chance. Not for workers whose clock is held."""

_LIMITS = tuple(range(1, 15))
"""All but those of processor time (0 and 15), whose signals would tell a worker how much of it has passed."""
_NOT_WAITING = os.O_NONBLOCK | os.O_DIRECT | 0o20000
"""With O_ASYNC, which has no name in Python."""
_SETS_NOTHING = (Test(2, (0,)), Test(2, (0,), upper=True))

ZYGOTE_ALWAYS = (
    *("poll", "ppoll", "select", "pselect6", "statfs", "fstatfs", *ASKING),
    *("wait4", "waitid", "pidfd_open", "sendmsg", "recvmsg", "sendto", "recvfrom", "pipe2", "chdir"),
    *("getsockname", "getsockopt", "epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait"),
    *("capget", "close_range"),
)
ZYGOTE_ONLY_IF: Mapping[str, Sequence[Rule]] = {
    # A filter for itself and its children, with no flags: none that lets one process answer for others.
    "seccomp": [_rule(Test(0, (SECCOMP_SET_MODE_FILTER,)), Test(1, (0,)))],
    "clone": [_rule(Test(0, _FORK))],
    # A module may make an event loop when it is imported, and loops wake themselves through a pair of
    # sockets. Stream only: with a datagram socket one could write to any Unix socket in the file system.
    "socketpair": [_rule(Test(0, (_AF_UNIX,)), Test(1, (_SOCK_STREAM,), _SOCK_TYPE))],
    "prctl": [
        _rule(Test(0, (_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_GET_SECCOMP, _PR_GET_NO_NEW_PRIVS))),
        _rule(Test(0, (_PR_SET_TSC,)), Test(1, (_PR_TSC_SIGSEGV,))),
    ],
}
WORKER_ONLY_IF: Mapping[str, Sequence[Rule]] = {
    "prctl": [_rule(Test(0, (_PR_SET_NAME,)))],
    # No more than close, many times. Refused, it makes the C library look into /proc, which is not there, and abort:
    # that is what os.closerange does from Python 3.13 on. Flags would part descriptors from those of other threads.
    "close_range": [_rule(Test(2, (0,)))],
    # Nothing tells a worker whether something has come yet: counting until it has would be a clock. It can
    # wait for the host's answer, by reading, and it can sleep.
    "poll": [_rule(Test(1, (0,)))],
    "ppoll": [_rule(Test(1, (0,)))],
    "select": [_rule(Test(0, (0,)))],
    "pselect6": [_rule(Test(0, (0,)))],
    "ioctl": [_rule(Test(1, (_TCGETS, _FIOCLEX, _FIONCLEX)))],
    "fcntl": [
        _rule(Test(1, (_F_DUPFD, _F_GETFD, _F_SETFD, _F_GETFL, _F_DUPFD_CLOEXEC))),
        _rule(Test(1, (_F_SETFL,)), Test(2, (0,), _NOT_WAITING)),
    ],
    "prlimit64": [
        _rule(Test(0, (0,)), Test(1, _LIMITS)),
        _rule(Test(0, (0,)), *_SETS_NOTHING),
    ],
}
SIGNALS = ("kill", "tgkill", "tkill")


def signals_to(pid: int) -> dict[str, Sequence[Rule]]:
    """Rules that let a process signal itself, as ``abort`` and ``raise`` do, and nobody else."""
    return {name: [_rule(Test(0, (pid,)))] for name in SIGNALS}


def make_zygote_filter(*, may_signal: bool) -> bytes:
    """Return the program for the process that imports modules and forks.

    ``may_signal`` where another layer keeps signals in the jail. The list is inherited by workers, who can
    have nothing that is not in it, and a filter can't know the process ids that they will have.
    """
    signals = SIGNALS if may_signal else ()
    return assemble((*ALWAYS, *ZYGOTE_ALWAYS, *signals), {**ONLY_IF, **ZYGOTE_ONLY_IF})


def make_worker_filter(pid: int, *, holds_clock: bool) -> bytes:
    """Return the program for a worker; ``holds_clock``: its C library does not ask the kernel for the time."""
    always = ALWAYS if holds_clock else (*ALWAYS, *ASKING)
    return assemble(always, {**ONLY_IF, **WORKER_ONLY_IF, **signals_to(pid)})


def make_no_programs_filter() -> bytes:
    """Return the program for a process that may do as it likes, but start no other program."""
    return b"".join((
        _instruction(_LOAD, _MACHINE_AT),
        _instruction(_EQUAL, AUDIT_ARCH_X86_64, 1, 0),
        _instruction(_RETURN, KILL_PROCESS),
        _instruction(_LOAD, _NUMBER_AT),
        _instruction(_GREATER_OR_EQUAL, X32_BIT, 0, 1),
        _instruction(_RETURN, KILL_PROCESS),
        _instruction(_EQUAL, _EXECVE, 1, 0),
        _instruction(_EQUAL, _EXECVEAT, 0, 1),
        _instruction(_RETURN, FAIL | errno.EPERM),
        _instruction(_RETURN, ALLOW),
    ))  # fmt: skip


class WorkerFilter:
    """The program for a worker, made before there is one: in a worker only its number is filled in.

    A worker that assembled its own would write to memory that it shares with every other.
    """

    _NOBODY = 0x7FF51997
    """In the place of a process id; above every one that Linux gives (2**22)."""

    def __init__(self, *, holds_clock: bool) -> None:
        program = make_worker_filter(self._NOBODY, holds_clock=holds_clock)
        operands = [operand for _code, _if_true, _if_false, operand in struct.iter_unpack("=HBBI", program)]
        assert operands.count(self._NOBODY) == len(SIGNALS)
        filter_program = _Program(program)
        self.code = filter_program.code
        """The instructions."""
        self.offsets = tuple(8 * n + 4 for n, operand in enumerate(operands) if operand == self._NOBODY)
        """Where in `code` the worker's process id is written, by `write_pid`, before `call` is made."""
        self.call = filter_program.call
        """What puts it on this process. It returns 0."""


write_pid = _OPERAND.pack_into
"""Write a process id into a buffer, at an offset."""


def assemble(always: Sequence[str], only_if: Mapping[str, Sequence[Rule]]) -> bytes:
    """Return the BPF program of a list of calls.

    A line of comparisons is as good as a tree: the kernel keeps a bitmap of the calls whose answer does
    not depend on arguments (since 5.11) and runs the program for the others only. These come first.
    """
    program = [
        _instruction(_LOAD, _MACHINE_AT),
        _instruction(_EQUAL, AUDIT_ARCH_X86_64, 1, 0),
        _instruction(_RETURN, KILL_PROCESS),
        _instruction(_LOAD, _NUMBER_AT),
        _instruction(_GREATER_OR_EQUAL, X32_BIT, 0, 1),
        _instruction(_RETURN, KILL_PROCESS),
        _instruction(_GREATER_OR_EQUAL, LAST_KNOWN_CALL + 1, 0, 1),
        _instruction(_RETURN, FAIL | errno.ENOSYS),
        # "Not there" makes C libraries use clone, whose arguments can be judged.
        _instruction(_EQUAL, _CLONE3, 0, 1),
        _instruction(_RETURN, FAIL | errno.ENOSYS),
    ]
    for name, rules in only_if.items():
        body = b"".join(_assemble_rule(rule) for rule in rules) + _instruction(_RETURN, FAIL | errno.EPERM)
        program += [_instruction(_EQUAL, CALLS[name], 0, len(body) // 8), body]
    # All of them jump to one end: the kernel translates the program for each worker anew, instruction by instruction.
    assert len(always) <= JUMP_MAX
    program += [_instruction(_EQUAL, CALLS[name], len(always) - at) for at, name in enumerate(always)]
    program += [_instruction(_RETURN, FAIL | errno.EPERM), _instruction(_RETURN, ALLOW)]
    return b"".join(program)


def _assemble_rule(rule: Rule) -> bytes:
    """Return code that allows when every test holds and else goes on behind itself."""
    code = _instruction(_RETURN, ALLOW)
    for test in reversed(rule):
        behind = len(code) // 8
        comparisons = b""
        for left, value in enumerate(reversed(test.values)):
            # On a match skip the comparisons that are left; on the last mismatch skip the whole rule.
            jumps = (left + behind, 0) if test.excludes else (left, 0 if left else behind)
            comparisons = _instruction(_EQUAL, value, *jumps) + comparisons
        at = _ARGUMENTS_AT + 8 * test.argument + 4 * test.upper
        head = _instruction(_LOAD, at) + _instruction(_AND, test.mask)
        code = head + comparisons + code
    return code


def _instruction(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, operand)


class _Header(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


class _Program:
    """A program as the kernel takes it."""

    def __init__(self, program: bytes, flags: int = 0) -> None:
        self.code = ctypes.create_string_buffer(program, len(program))
        """The instructions, which may still be changed."""
        header = _Header(len(program) // 8, ctypes.cast(self.code, ctypes.c_void_p))
        name = "seccomp(SET_MODE_FILTER)"
        self.call = PreparedCall("seccomp", name, SYS_SECCOMP, SECCOMP_SET_MODE_FILTER, flags, header)

    def install(self) -> None:
        """See `install`, below."""
        stuck = self.call()
        if stuck != 0:
            name = "seccomp(SET_MODE_FILTER)"
            raise LayerRefusedError("seccomp", name, 0, f"thread {stuck} has a filter of its own")


def install(program: bytes, *, all_threads: bool = False) -> None:
    """Put a filter on this thread and on what it will start. It must have given up new privileges before.

    With ``all_threads`` the process's other threads get it as well, or nobody.
    """
    _Program(program, FILTER_FLAG_ALL_THREADS if all_threads else 0).install()
