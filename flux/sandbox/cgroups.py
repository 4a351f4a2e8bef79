"""Bounds on all processes of a zygote together: a control group for each, where they are to be had.

Every process of a jail has limits of its own. How many there are, and what they use together, only a
cgroup bounds: memory, so that a tenant's guests can't push others out of the machine's; processes; and
a smaller share of the processor than the server's when both want it.

Groups can be made where somebody has *delegated* a part of the tree to us: systemd does with
``Delegate=yes`` in a unit, a container runtime with a writable ``/sys/fs/cgroup``. As root we could
write anywhere, and would get in the way of whoever keeps the tree; so root, too, takes only what is
marked as delegated, or a tree that begins with us. Where nothing is delegated that is reported, and
nothing is refused unless the configuration says ``cgroups = "required"``.

The kernel lets a group have processes or groups below it that are controlled, never both. So the
server first moves with all that is in its group into a group below, ``flux-host``, and makes the
others beside it. Version 2 only; the old one has no delegation that is safe.
"""

import contextlib
import errno
import itertools
import os
from collections.abc import Mapping
from pathlib import Path

import attrs
import trio

CONTROLLERS = ("memory", "pids", "cpu")
HOST_GROUP = "flux-host"
PROCESSES_MAX = 1024
"""Of one zygote: its workers, and what a module may have forked."""
MEMORY_SHARE = 0.75
"""Of the memory that there is, a zygote and its workers get at most; the rest is for the database and us."""
CPU_WEIGHT = 50
"""Half of what a group gets that says nothing, and of what the server gets."""
MOVES_MAX = 100
"""A process that forks while it is moved leaves a child behind, who is moved the next time."""
REMOVALS_MAX, REMOVAL_PAUSE_S = 50, 0.02
"""Processes that were killed have yet to end."""
DELEGATION_MARKS = ("trusted.delegate", "user.delegate")
"""systemd's: extended attributes of a folder whose inside is somebody else's."""
REMEDY = "Delegate=yes in the server's unit, or a container with a writable /sys/fs/cgroup"

_numbers = itertools.count(1)


@attrs.frozen
class NoCgroups:
    """There are none to be had, and why."""

    reason: str


@attrs.frozen
class Cgroups:
    """A part of the tree that is ours."""

    folder: Path
    """The group that we were started in."""
    controllers: tuple[str, ...]
    """What can be bounded in groups below it."""
    limits: Mapping[str, str]
    """What is written to which file of a new group."""

    def make(self) -> "Group":
        """Make a group for a zygote; raise OSError."""
        group = Group(self.folder / f"flux-{os.getpid()}-{next(_numbers)}")
        group.folder.mkdir()
        try:
            for name, value in self.limits.items():
                (group.folder / name).write_text(value)
        except OSError:
            group.folder.rmdir()
            raise
        return group


@attrs.frozen
class Group:
    """A zygote's group."""

    folder: Path

    def kill(self) -> None:
        """End every process in it, whatever it did not to be found. (Since Linux 5.14; elsewhere nothing.)"""
        with contextlib.suppress(FileNotFoundError):
            (self.folder / "cgroup.kill").write_text("1")

    async def remove(self) -> None:
        """Remove it, once all that is in it has ended. What the kernel keeps, the next server removes."""
        for _ in range(REMOVALS_MAX):
            if self.remove_nowait():
                return
            self.kill()
            await trio.sleep(REMOVAL_PAUSE_S)

    def remove_nowait(self) -> bool:
        """Remove it; return False while something in it has not ended yet."""
        try:
            self.folder.rmdir()
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno == errno.EBUSY:
                return False
            raise
        return True


def find_cgroups(controllers: tuple[str, ...] = CONTROLLERS) -> Cgroups | NoCgroups:
    """Return where groups could be made, or why nowhere. Changes nothing."""
    mount = _find_mount()
    if mount is None:
        return NoCgroups("no tree of version 2 is mounted")
    mounted, point = mount
    own = _read_own_path()
    if own is None:
        return NoCgroups("this process is in no group of version 2")
    if not Path(own).is_relative_to(mounted):
        return NoCgroups(f"the group of this process, {own}, is not in the tree that is mounted on {point}")
    folder = point / Path(own).relative_to(mounted)
    try:
        offered = (folder / "cgroup.controllers").read_text().split()
    except OSError as error:
        return NoCgroups(f"{error.filename} can't be read: {error.strerror}")
    found = tuple(name for name in controllers if name in offered)
    if controllers and not found:
        names = ", ".join(controllers)
        return NoCgroups(f"{folder} controls none of {names}: version 1 has them, or nobody passes them on")
    if not os.access(folder, os.W_OK) or not os.access(folder / "cgroup.subtree_control", os.W_OK):
        return NoCgroups(f"{folder} can't be written to: it is not delegated")
    if os.geteuid() == 0 and own != "/" and not _is_marked(folder):
        return NoCgroups(f"{folder} is not marked as delegated")
    limits = {name: value for name, value in _make_limits().items() if name.partition(".")[0] in found}
    return Cgroups(folder, found, limits)


def open_cgroups(controllers: tuple[str, ...] = CONTROLLERS) -> Cgroups | NoCgroups:
    """Make ready to make groups; return where, or why nowhere."""
    cgroups = find_cgroups(controllers)
    if isinstance(cgroups, NoCgroups):
        return cgroups
    try:
        if _has_to_be_empty(cgroups.folder):
            _move_into(cgroups.folder, HOST_GROUP)
        switched_on = " ".join(f"+{name}" for name in cgroups.controllers)
        (cgroups.folder / "cgroup.subtree_control").write_text(switched_on)
        _sweep(cgroups.folder)
    except OSError as error:
        return NoCgroups(f"{error.filename or cgroups.folder} can't be written: {error.strerror}")
    return cgroups


def describe(cgroups: Cgroups | NoCgroups) -> dict[str, str | bool]:
    """Return the line of it that ``flux doctor`` prints."""
    match cgroups:
        case NoCgroups(reason):
            detail, remedy = f"not in force, each process is bounded by itself: {reason}", REMEDY
        case Cgroups(folder, controllers):
            detail, remedy = f"{', '.join(controllers)} of a deployment's processes together, below {folder}", ""
    return {"name": "cgroups", "ok": True, "detail": detail, "remedy": remedy}


def _find_mount() -> tuple[str, Path] | None:
    """Return which part of the tree is mounted, and where."""
    with open("/proc/self/mountinfo") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            if after.split()[0] == "cgroup2":
                fields = before.split()
                return fields[3], Path(fields[4])
    return None


def _read_own_path() -> str | None:
    with open("/proc/self/cgroup") as file:
        for line in file:
            number, controllers, path = line.rstrip("\n").split(":", 2)
            if number == "0" and not controllers:
                return path
    return None


def _is_marked(folder: Path) -> bool:
    for name in DELEGATION_MARKS:
        with contextlib.suppress(OSError):
            if os.getxattr(folder, name) == b"1":
                return True
    return False


def _has_to_be_empty(folder: Path) -> bool:
    """Whether it is any group but the first of all, which alone may have both."""
    return (folder / "cgroup.type").exists()


def _move_into(folder: Path, name: str) -> None:
    """Move every process of a group into one below it."""
    target = folder / name
    target.mkdir(exist_ok=True)
    for _ in range(MOVES_MAX):
        processes = (folder / "cgroup.procs").read_text().split()
        if not processes:
            return
        for process in processes:
            with contextlib.suppress(ProcessLookupError):  # It has ended since.
                (target / "cgroup.procs").write_text(process)
    raise OSError(errno.EBUSY, "processes come faster than they can be moved", str(folder))


def _sweep(folder: Path) -> None:
    """Remove the groups of servers that could not do it themselves any more."""
    for group in folder.glob("flux-*-*"):
        owner = group.name.split("-")[1]
        if owner.isdecimal() and not Path("/proc", owner).exists():
            Group(group).kill()
            Group(group).remove_nowait()


def _make_limits() -> dict[str, str]:
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "memory.max": str(int(memory_bytes * MEMORY_SHARE)),
        "pids.max": str(PROCESSES_MAX),
        "cpu.weight": str(CPU_WEIGHT),
    }
