"""A program without any network: a namespace of its own, in which only loopback is up and no route leads out.

``python tests/netless.py own PROGRAM ...`` runs a program in a new one, ``... join PID PROGRAM ...`` in that of a
process. The kernel keeps the promise: whatever the program tries, nothing can reach another machine, nor a server
on this machine's own loopback. Unix sockets are files, and stay within reach.
"""

import ctypes
import fcntl
import os
import socket
import struct
import sys
from pathlib import Path

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
SIOCSIFFLAGS, IFF_UP = 0x8914, 0x1
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def enter_own() -> None:
    """Leave the network that this process is in, for one of its own."""
    uid, gid = os.getuid(), os.getgid()
    if uid == 0:
        _check(_libc.unshare(CLONE_NEWNET), "unshare(CLONE_NEWNET)")
    else:
        # Whoever is not root needs a user namespace for it, in which they stay who they are.
        _check(_libc.unshare(CLONE_NEWUSER | CLONE_NEWNET), "unshare(CLONE_NEWUSER | CLONE_NEWNET)")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


def join(pid: int) -> None:
    """Enter the network of another process."""
    kinds = ("net",) if os.getuid() == 0 else ("user", "net")
    for descriptor in [os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in kinds]:
        _check(_libc.setns(descriptor, 0), "setns")


def main(arguments: list[str]) -> None:
    """See the module."""
    match arguments:
        case ["own", *program] if program:
            enter_own()
        case ["join", pid, *program] if program:
            join(int(pid))
        case _:
            raise SystemExit(__doc__)
    os.execvp(program[0], program)


if __name__ == "__main__":
    main(sys.argv[1:])
