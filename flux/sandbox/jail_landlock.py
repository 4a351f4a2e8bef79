"""Layer ``landlock``: of the file system, some folders can be read, and nothing can be written.

Landlock judges by where a file is, whoever owns it: a process that runs as root inside
this layer still can't open ``/etc/passwd``. It says nothing about looking (``stat`` tells
of any file that it exists, and how big it is), nor about changing modes, owners and times,
nor about Unix sockets in the file system. Those are for the mount namespace and seccomp to
refuse; and where they should have a hole, this layer still stands.

https://docs.kernel.org/userspace-api/landlock.html
"""

import ctypes
import os
import struct
from collections.abc import Iterable

from flux.sandbox.jail_linux import (
    PR_SET_NO_NEW_PRIVS,
    SYS_LANDLOCK_ADD_RULE,
    SYS_LANDLOCK_CREATE_RULESET,
    SYS_LANDLOCK_RESTRICT_SELF,
    call,
    prctl,
)

EXECUTE, WRITE_FILE, READ_FILE, READ_DIRECTORY = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REFER, TRUNCATE = 1 << 13, 1 << 14
"""To move a file between folders (refused everywhere before `REFER_FROM_ABI`), and to cut it."""
REFER_FROM_ABI, TRUNCATE_FROM_ABI = 2, 3
_WRITING = WRITE_FILE | sum(1 << right for right in range(4, 13))
"""With removing files and folders, and making any kind of file."""
RULE_PATH_BENEATH = 1
CREATE_RULESET_VERSION = 1

FILE_RIGHTS_OF_ABI = {1: 13, 2: 14, 3: 15, 4: 15}
"""How many rights on files each version can refuse; from 5 on it is the next number."""
FILE_RIGHTS_MAX = 16
NETWORK_FROM_ABI = 4
SCOPES_FROM_ABI = 6
_TCP_BIND_AND_CONNECT = 0b11
_ABSTRACT_SOCKETS, _SIGNALS = 0b01, 0b10


def read_abi() -> int:
    """Return Landlock's version here, 1 or more."""
    name = "landlock_create_ruleset(VERSION)"
    return call("landlock", name, SYS_LANDLOCK_CREATE_RULESET, None, 0, CREATE_RULESET_VERSION)


def restrict_to_reading(paths: Iterable[str], *, may_signal: bool = False) -> int:
    """Refuse this process and its children everything but reading ``paths``; return Landlock's version.

    ``may_signal``: also those who are not restricted together with it.
    """
    abi = read_abi()
    # Whatever this version can refuse is handled, and only reading is given back, path by path.
    rights = (1 << FILE_RIGHTS_OF_ABI.get(abi, FILE_RIGHTS_MAX)) - 1
    attributes = struct.pack("=Q", rights)
    if abi >= NETWORK_FROM_ABI:
        attributes += struct.pack("=Q", _TCP_BIND_AND_CONNECT)
    if abi >= SCOPES_FROM_ABI:
        attributes += struct.pack("=Q", _ABSTRACT_SOCKETS if may_signal else _ABSTRACT_SOCKETS | _SIGNALS)
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    ruleset = call(
        "landlock", "landlock_create_ruleset", SYS_LANDLOCK_CREATE_RULESET, buffer, len(attributes), 0
    )
    try:
        for path in paths:
            _allow_reading(ruleset, path)
        prctl("landlock", "PR_SET_NO_NEW_PRIVS", PR_SET_NO_NEW_PRIVS, 1)
        call("landlock", "landlock_restrict_self", SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return abi


def restrict_to_writing(
    paths: Iterable[str], *, programs: Iterable[str] | None = None, readable: Iterable[str] | None = None
) -> None:
    """Refuse this process and its children to write, make, rename or remove files anywhere but below ``paths``.

    With ``programs``, they can start these and no others (by name: a loader that is among them could load more). With
    ``readable``, they can read what is below these and nothing else. All in one set: in a second one moving files
    between folders would be refused, whatever it says.
    """
    abi = read_abi()
    writing = (
        _WRITING | (REFER if abi >= REFER_FROM_ABI else 0) | (TRUNCATE if abi >= TRUNCATE_FROM_ABI else 0)
    )
    handled = writing | (0 if programs is None else EXECUTE)
    handled |= 0 if readable is None else READ_FILE | READ_DIRECTORY
    buffer = ctypes.create_string_buffer(struct.pack("=Q", handled), 8)
    ruleset = call("landlock", "landlock_create_ruleset", SYS_LANDLOCK_CREATE_RULESET, buffer, 8, 0)
    try:
        for path in paths:
            _allow(ruleset, path, writing if os.path.isdir(path) else writing & (WRITE_FILE | TRUNCATE))
        for path in programs or ():
            _allow(ruleset, path, EXECUTE)
        for path in readable or ():
            _allow_reading(ruleset, path)
        prctl("landlock", "PR_SET_NO_NEW_PRIVS", PR_SET_NO_NEW_PRIVS, 1)
        call("landlock", "landlock_restrict_self", SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow_reading(ruleset: int, path: str) -> None:
    _allow(ruleset, path, READ_FILE | READ_DIRECTORY if os.path.isdir(path) else READ_FILE)


def _allow(ruleset: int, path: str, rights: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, descriptor), 12)
        name = f"landlock_add_rule({path})"
        call("landlock", name, SYS_LANDLOCK_ADD_RULE, ruleset, RULE_PATH_BENEATH, rule, 0)
    finally:
        os.close(descriptor)
