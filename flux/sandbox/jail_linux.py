"""The jail's only door to the kernel: raw system calls, each checked, each named when it fails.

Whoever sets up a layer of the jail calls through here and says which layer it is. A call
that fails becomes a `LayerRefusedError` that knows the layer, the call and the errno, so
what a person reads in the end is the kernel's own answer and not a guess.

Numbers are those of x86_64. `check_machine` refuses any other architecture by name: a
seccomp filter with another machine's numbers would be a wall with holes in it.

Imported by the process that becomes a guest, so this and its neighbours (``jail_*``) need
the standard library only.
"""

import ctypes
import errno
import os
import platform
import sys
from typing import NoReturn

MACHINE = "x86_64"

SYS_MPROTECT = 10
SYS_MOUNT = 165
SYS_UMOUNT2 = 166
SYS_PIVOT_ROOT = 155
SYS_SETHOSTNAME = 170
SYS_CAPGET = 125
SYS_CAPSET = 126
SYS_PRCTL = 157
SYS_UNSHARE = 272
SYS_PRLIMIT64 = 302
SYS_SECCOMP = 317
SYS_OPEN_TREE = 428
SYS_MOVE_MOUNT = 429
SYS_CLOSE_RANGE = 436
SYS_MOUNT_SETATTR = 442
SYS_LANDLOCK_CREATE_RULESET = 444
SYS_LANDLOCK_ADD_RULE = 445
SYS_LANDLOCK_RESTRICT_SELF = 446

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_GET_NO_NEW_PRIVS = 39
PR_GET_SECCOMP = 21
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


system_call = _libc.syscall
"""Makes a `PreparedCall` of its words; negative when that is refused."""


class LayerRefusedError(Exception):
    """A layer of the jail can't be set up here."""

    def __init__(self, layer: str, call: str, number: int, detail: str = "") -> None:
        super().__init__(f"{layer}: {call}: {errno.errorcode.get(number, number)}")
        self.layer = layer
        """The layer's name: ``landlock``, ``seccomp`` and the like."""
        self.call = call
        """The system call, with the arguments that matter."""
        self.number = number
        """Its errno; 0 when no call failed but an answer was not what it has to be."""
        self.detail = detail
        """What was found instead, for the latter."""


def call(
    layer: str, name: str, number: int, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None
) -> int:
    """Make a system call for ``layer`` and return its result; raise `LayerRefusedError` naming it ``name``."""
    result = try_call(number, *arguments)
    if result < 0:
        raise LayerRefusedError(layer, name, -result)
    return result


def try_call(number: int, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """Make a system call; return its result, or the negated errno."""
    # Every integer as a long: a bare Python int is passed as a C int, and the upper half is then undefined.
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    result: int = _libc.syscall(ctypes.c_long(number), *words)
    return -ctypes.get_errno() if result < 0 else result


Word = int | ctypes.Array[ctypes.c_char] | ctypes.Structure
"""An argument, or what one points to."""


class PreparedCall:
    """A system call whose arguments are converted once, for whoever makes it in many forked processes.

    Buffers among the arguments may still be changed in place.
    """

    def __init__(self, layer: str, name: str, number: int, *arguments: Word) -> None:
        self._layer, self._name = layer, name
        self.words = tuple(ctypes.c_long(_address_of(word)) for word in (number, *arguments))
        """Its number and arguments, for `system_call`."""
        self._kept = arguments

    def __call__(self) -> int:
        """Make the call and return its result; raise `LayerRefusedError`."""
        result: int = _libc.syscall(*self.words)
        if result < 0:
            self.refuse()
        return result

    def refuse(self) -> NoReturn:
        """Raise for the call that has just failed."""
        raise LayerRefusedError(self._layer, self._name, ctypes.get_errno())


def _address_of(word: Word) -> int:
    return word if isinstance(word, int) else ctypes.addressof(word)


def prctl(layer: str, name: str, option: int, *arguments: int) -> int:
    """Call prctl for ``layer``; the kernel wants unused arguments to be zero."""
    words = (*arguments, 0, 0, 0, 0)[:4]
    return call(layer, f"prctl({name})", SYS_PRCTL, option, *words)


def check_machine() -> None:
    """Refuse a machine whose system calls this module has no numbers for."""
    machine = platform.machine()
    if machine != MACHINE or sys.maxsize < 2**32 or sys.platform != "linux":
        raise LayerRefusedError(
            "seccomp",
            "uname",
            0,
            f"this is {sys.platform} on {machine}; the jail knows the system calls of {MACHINE}",
        )


def tell_end_of_parent(signal_number: int) -> None:
    """Have the kernel send us a signal when our parent ends. (Changing credentials undoes it: call it again then.)"""
    prctl("process", "PR_SET_PDEATHSIG", PR_SET_PDEATHSIG, signal_number)


def die_with_parent(parent: int) -> None:
    """Have the kernel end us when ``parent`` ends; see `tell_end_of_parent`."""
    tell_end_of_parent(9)
    if os.getppid() != parent:  # It ended before the request took hold.
        os._exit(0)
