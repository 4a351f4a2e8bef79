"""The last thing a child of ours does before it becomes PostgreSQL.

Run as a script, never imported by Flux::

    python -I -S embedded_launcher.py PARENT_PID IDENTITY FOLDER PROGRAM ARGUMENT...

It changes who the process is, asks the kernel to end it together with its
parent, and becomes PROGRAM. Two orders matter. The kernel forgets a death
signal whenever credentials change, so the signal is asked for after that. And
a parent that died before we asked will never send it, so we look afterwards
whether the parent is still the one that started us.

Why a program of its own and no ``preexec_fn``: the supervisor has threads, and
Python code between fork and exec of a threaded process can deadlock. Why not
``unshare`` or ``setpriv``: not every container has them.

Whatever fails is told in one line on stderr, with exit status 125.
"""

import ctypes
import os
import signal
import sys

FAILED = 125
"""Exit status that neither postgres nor initdb nor psql use."""

_CLONE_NEWUSER = 0x10000000
_PR_SET_PDEATHSIG = 1


def become(identity: str, libc: ctypes.CDLL) -> None:
    """Change into ``self``, ``namespace:UID:GID`` or ``user:UID:GID``."""
    kind, *numbers = identity.split(":")
    if kind == "self":
        return
    uid, gid = (int(number) for number in numbers)
    if kind == "user":
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
        return
    outer_uid, outer_gid = os.geteuid(), os.getegid()
    if libc.unshare(_CLONE_NEWUSER) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"unshare(CLONE_NEWUSER): {os.strerror(error)}")
    # user_namespaces(7): without CAP_SETGID in the parent namespace, setgroups must be denied first.
    for name, line in (
        ("setgroups", "deny"),
        ("gid_map", f"{gid} {outer_gid} 1"),
        ("uid_map", f"{uid} {outer_uid} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(line)


def main(arguments: list[str]) -> None:
    """Become the program in ``arguments``, or say why not."""
    parent_pid, identity, folder, *command = arguments
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        become(identity, libc)
        os.umask(0o077)
        os.chdir(folder)
        # SIGINT is "fast shutdown" for the postmaster. A shell's "&" hands down an ignored SIGINT.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
        if os.getppid() != int(parent_pid):
            os._exit(FAILED)
        os.execv(command[0], command)
    except OSError as error:
        print(f"cannot become {command[0]} as {identity} in {folder}: {error}", file=sys.stderr, flush=True)
        os._exit(FAILED)


if __name__ == "__main__":
    main(sys.argv[1:])
