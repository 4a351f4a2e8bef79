"""A kernel that lacks a system call: ``missing_call.py NUMBER ERRNO COMMAND...`` runs a command on one.

A seccomp filter answers in the kernel's place, as a container's profile does. Written out here and not
taken from Flux, as it stands for what Flux meets.
"""

import ctypes
import os
import struct
import sys


def main() -> None:
    """Install the filter and become the command."""
    number, error = int(sys.argv[1]), int(sys.argv[2])
    code = b"".join(
        struct.pack("HBBI", *instruction)
        for instruction in (
            (0x20, 0, 0, 0),  # load the call's number
            (0x15, 0, 1, number),  # if it is this one
            (0x06, 0, 0, 0x00050000 | error),  # fail with the errno
            (0x06, 0, 0, 0x7FFF0000),  # else allow
        )
    )
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxQ", len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0, "no new privileges"
    assert libc.syscall(317, 1, 0, program) == 0, os.strerror(ctypes.get_errno())
    os.execvp(sys.argv[3], sys.argv[3:])


if __name__ == "__main__":
    main()
