"""A control group of the kernel's around a server, so that all its processes together lack something.

It is made below the group that this program is in, and is gone afterwards, with the processes back where they were.
Version 1 and version 2 of the kernel's tree have other names for the same files. Who may make no group is told by
`NoGroupError` which one that was to be, and why not.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import attrs

Controller = Literal["memory", "pids"]
LIMITS = {1: {"memory": "memory.limit_in_bytes", "pids": "pids.max"}, 2: {"memory": "memory.max", "pids": "pids.max"}}
USED = {
    1: {"memory": "memory.usage_in_bytes", "pids": "pids.current"},
    2: {"memory": "memory.current", "pids": "pids.current"},
}
KILLS = {1: "memory.oom_control", 2: "memory.events"}
UNLIMITED = {1: {"memory": "-1", "pids": "max"}, 2: {"memory": "max", "pids": "max"}}
END_S_MAX = 20.0


class NoGroupError(Exception):
    """No group can be made here."""


@attrs.frozen
class ControlGroup:
    """A group with processes in it."""

    folder: Path
    version: int
    controller: Controller

    def read_used(self) -> int:
        """Return what the processes have: bytes since they are in it, or how many they are with their threads."""
        return int((self.folder / USED[self.version][self.controller]).read_text())

    def limit(self, most: int | None) -> None:
        """Let them have no more than that; None: whatever they want."""
        text = UNLIMITED[self.version][self.controller] if most is None else str(most)
        (self.folder / LIMITS[self.version][self.controller]).write_text(text)

    def count_kills(self) -> int:
        """Return how many processes the kernel has ended for want of memory."""
        lines = (self.folder / KILLS[self.version]).read_text().splitlines()
        return int(dict(line.split() for line in lines)["oom_kill"])


@contextlib.contextmanager
def around(pid: int, controller: Controller) -> Iterator[ControlGroup]:
    """Put a process and all below it into a group of their own, until the block ends."""
    version, parent = _find(controller)
    group = ControlGroup(parent / f"flux-faults-{os.getpid()}", version, controller)
    try:
        group.folder.mkdir()
    except OSError as error:
        raise NoGroupError(f"no control group for {controller} can be made in {parent}: {error.strerror}") from error
    try:
        if not (group.folder / LIMITS[version][controller]).exists():
            raise NoGroupError(f"groups in {parent} have no limit of {controller}: cgroup.subtree_control lacks it")
        _move(_list_below(pid), group.folder)
        yield group
    finally:
        deadline = time.monotonic() + END_S_MAX
        while (left := (group.folder / "cgroup.procs").read_text().split()) and time.monotonic() < deadline:
            _move([int(word) for word in left], parent)
        group.folder.rmdir()


def _move(pids: list[int], folder: Path) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # It has ended meanwhile.
            (folder / "cgroup.procs").write_text(str(pid))


def _list_below(pid: int) -> list[int]:
    found = [pid]
    for parent in found:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for thread in Path(f"/proc/{parent}/task").iterdir():
                found += [int(word) for word in (thread / "children").read_text().split()]
    return found


def _find(controller: Controller) -> tuple[int, Path]:
    """Return the version of the tree that has the controller, and the folder of the group that this process is in."""
    own: dict[str, str] = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        own |= dict.fromkeys(names.split(","), path)
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, behind = line.partition(" - ")
        root, point = before.split()[3:5]
        kind, _, options = behind.split()
        version = {"cgroup": 1, "cgroup2": 2}.get(kind)
        name = controller if version == 1 else ""
        if version is None or name not in own or (version == 1 and controller not in options.split(",")):
            continue
        if version == 2 and controller in own:
            continue  # It is in a tree of version 1.
        if Path(own[name]).is_relative_to(root):
            return version, Path(point) / Path(own[name]).relative_to(root)
    raise NoGroupError(f"there is no tree of control groups with {controller} here")
