"""Layer ``namespaces`` (strict): a world that has nothing in it.

A process in its own namespaces sees no other process, no network, no System V object, and
a file system that is a read-only tmpfs with the few folders it may read mounted in place:
what it must not touch is not forbidden but absent. So a path has the same name inside and
outside, and a traceback reads the same.

Two ways lead in. Root, given a user id to become, makes the namespaces directly and then
gives root up: the guest is a user who owns nothing. Anybody else makes a *user* namespace
first, in which one is allowed the rest, and is ``nobody`` inside.

A PID namespace begins with the next child, which is its process 1: when that one ends the
kernel kills every other process in it, whatever they did to be forgotten. That is what
makes "no process is left behind" a fact and not an effort.
"""

import ctypes
import os
import struct
from collections.abc import Iterable
from pathlib import PurePosixPath

from flux.sandbox.jail_linux import (
    SYS_MOUNT,
    SYS_MOUNT_SETATTR,
    SYS_MOVE_MOUNT,
    SYS_OPEN_TREE,
    SYS_PIVOT_ROOT,
    SYS_SETHOSTNAME,
    SYS_UMOUNT2,
    SYS_UNSHARE,
    LayerRefusedError,
    call,
)

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
SEPARATE = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET

NOBODY = 65534
"""Who we are inside a user namespace."""
HOST_NAME = b"flux"

_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_FROM_DESCRIPTOR = 4
_READ_ONLY, _NO_SUID, _NO_DEVICES, _NO_EXEC = 1, 2, 4, 8  # MOUNT_ATTR_* and MS_* alike
_MS_REC, _MS_PRIVATE = 1 << 14, 1 << 18
_MNT_DETACH = 2
_STAGE = "/proc"
"""Where the new root is put together: a folder that is everywhere, and is ours to cover in our own mount namespace."""
_LINKS_MAX = 40


def separate(*, as_user: bool) -> None:
    """Leave the shared namespaces; ``as_user``: by way of a user namespace."""
    uid, gid = os.geteuid(), os.getegid()
    if as_user:
        call("namespaces", "unshare(CLONE_NEWUSER)", SYS_UNSHARE, CLONE_NEWUSER)
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{NOBODY} {uid} 1")
        _write("/proc/self/gid_map", f"{NOBODY} {gid} 1")
    call("namespaces", "unshare(NEWNS|NEWPID|NEWNET|NEWIPC|NEWUTS|NEWCGROUP)", SYS_UNSHARE, SEPARATE)
    call("namespaces", "sethostname", SYS_SETHOSTNAME, HOST_NAME, len(HOST_NAME))


def _write(path: str, text: str) -> None:
    try:
        with open(path, "w") as file:
            file.write(text)
    except OSError as error:
        raise LayerRefusedError("namespaces", f"write {path}", error.errno or 0) from error


def shrink_root(paths: Iterable[str]) -> None:
    """Replace the file system by a read-only one in which only ``paths`` are."""
    call("namespaces", "mount(/, private)", SYS_MOUNT, None, b"/", None, _MS_REC | _MS_PRIVATE, None)
    links: dict[str, str] = {}
    places = list(dict.fromkeys(resolve(path, links) for path in paths))
    # Cloned before the new root covers anything. A folder inside another one comes with it.
    trees = {place: _clone_tree(place) for place in places if not _is_below_any(place, places)}
    call(
        "namespaces", "mount(tmpfs)", SYS_MOUNT, b"flux", _STAGE.encode(), b"tmpfs",
        _NO_SUID | _NO_DEVICES | _NO_EXEC, b"size=1m,nr_inodes=4096,mode=755",
    )  # fmt: skip
    for place, (descriptor, is_folder) in trees.items():
        target = _STAGE + place
        os.makedirs(target if is_folder else os.path.dirname(target), exist_ok=True)
        if not is_folder:
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o444))
        call(
            "namespaces", f"move_mount({place})", SYS_MOVE_MOUNT, descriptor, b"", _AT_FDCWD, target.encode(),
            _MOVE_MOUNT_FROM_DESCRIPTOR,
        )  # fmt: skip
        os.close(descriptor)
    for link, text in links.items():
        if not os.path.lexists(_STAGE + link):
            os.makedirs(os.path.dirname(_STAGE + link), exist_ok=True)
            os.symlink(text, _STAGE + link)
    os.chdir(_STAGE)
    # "pivot_root(".", ".") ... the old root is stacked on the new one": pivot_root(2), then let go of it.
    call("namespaces", "pivot_root", SYS_PIVOT_ROOT, b".", b".")
    call("namespaces", "umount2(old root)", SYS_UMOUNT2, b".", _MNT_DETACH)
    os.chdir("/")
    root = os.open("/", os.O_PATH | os.O_CLOEXEC)
    _set_attributes(root, "/", _READ_ONLY | _NO_SUID | _NO_DEVICES | _NO_EXEC, recursive=False)
    os.close(root)


def resolve(path: str, links: dict[str, str]) -> str:
    """Return where ``path`` really is, and note every symbolic link on the way in ``links``.

    ``/lib64`` is a link on most systems, and the loader asks for it by that name: the new root needs
    the link beside the folder.
    """
    rest = list(PurePosixPath(path).parts[1:])
    place, followed = "/", 0
    while rest:
        step = os.path.normpath(os.path.join(place, rest.pop(0)))
        if not os.path.islink(step):
            place = step
            continue
        followed += 1
        if followed > _LINKS_MAX:
            raise LayerRefusedError("namespaces", f"readlink({path})", 40)  # ELOOP
        links[step] = os.readlink(step)
        target = PurePosixPath(place, links[step])
        rest = [*target.parts[1:], *rest]
        place = "/"
    return place


def _is_below_any(place: str, places: Iterable[str]) -> bool:
    return any(place.startswith(other.rstrip("/") + "/") for other in places if other != place)


def _clone_tree(place: str) -> tuple[int, bool]:
    """Return a read-only copy of the mounts at ``place`` that is mounted nowhere yet, and whether it is a folder."""
    descriptor = call(
        "namespaces", f"open_tree({place})", SYS_OPEN_TREE, _AT_FDCWD, place.encode(),
        _OPEN_TREE_CLONE | _AT_RECURSIVE | os.O_CLOEXEC,
    )  # fmt: skip
    _set_attributes(descriptor, place, _READ_ONLY | _NO_SUID | _NO_DEVICES, recursive=True)
    return descriptor, os.path.isdir(place)


def _set_attributes(descriptor: int, place: str, attributes: int, *, recursive: bool) -> None:
    structure = ctypes.create_string_buffer(struct.pack("=4Q", attributes, 0, 0, 0), 32)
    flags = _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    name = f"mount_setattr({place}, read-only)"
    call("namespaces", name, SYS_MOUNT_SETATTR, descriptor, b"", flags, structure, 32)
