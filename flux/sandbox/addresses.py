"""Processes whose memory lies where it lay last time.

Linux moves a program's memory about, each time it is started, so that who attacks it can't know its
addresses. Python hashes an object that has no hash of its own by its address; so functions that go through
a set of such objects would take another order in each zygote. A guest's walls do not rest on its not
knowing addresses (it runs code of its own choice anyway), so guests are started without the moving, where
the system allows that. Where it does not (a container's seccomp profile may refuse the call), everything
else works, and ``flux doctor`` says so.
"""

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator

ADDR_NO_RANDOMIZE = 0x0040000
"""Of linux/personality.h."""
_QUERY = 0xFFFFFFFF

_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def fixed_addresses() -> Iterator[int]:
    """Let programs that this thread starts in the meantime have fixed addresses; yield 0, or why not (errno).

    The kernel looks at the thread that starts a program, and when it does; nothing of ours moves.
    """
    before = _libc.personality(_QUERY)
    refused = 0
    if before == -1 or _libc.personality(before | ADDR_NO_RANDOMIZE) == -1:
        refused = ctypes.get_errno()
    elif not _libc.personality(_QUERY) & ADDR_NO_RANDOMIZE:
        refused = errno.ENOSYS  # It said yes and did nothing: some emulations of Linux do.
    try:
        yield refused
    finally:
        if not refused:
            _libc.personality(before)


def describe_addresses() -> str:
    """Return what ``flux doctor`` says of guests' addresses."""
    with fixed_addresses() as refused:
        if not refused:
            return "the same at each start, so that sets of objects without a hash repeat their order"
    reason = errno.errorcode.get(refused, str(refused))
    return (
        "another at each start, so a set of objects without a hash may take another order in a replay: "
        f"personality(ADDR_NO_RANDOMIZE): {reason} ({os.strerror(refused)})"
    )
