"""Running a program as a user who owns nothing, where the tests run as root."""

import shlex
import sys
from pathlib import Path

NOBODY = 65534


def command_as_nobody(arguments: list[str]) -> list[str]:
    """Return the command that runs ``python ARGUMENTS`` as nobody.

    Where the interpreter lies in a folder that is closed to others (root's home, as a rule), that folder
    is covered, in a mount namespace of the command's own, by an open one that holds the interpreter only.
    """
    lines = ["set -e", "mount --make-rprivate /"]
    closed = _closed_parent(Path(sys.base_prefix))
    if closed is not None:
        inside = shlex.quote(sys.base_prefix)
        lines += [
            "mount -t tmpfs -o mode=755 none /mnt",
            "mkdir /mnt/kept",
            f"mount --bind {inside} /mnt/kept",
            f"mount -t tmpfs -o mode=755 none {shlex.quote(str(closed))}",
            f"mkdir -p {inside}",
            f"mount --move /mnt/kept {inside}",
            "umount /mnt",
        ]
    program = shlex.join([sys.executable, *arguments])
    lines.append(f"exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups --inh-caps=-all {program}")
    return ["unshare", "--mount", "sh", "-c", "\n".join(lines)]


def _closed_parent(path: Path) -> Path | None:
    """Return the outermost folder above ``path`` that others can't pass, or None."""
    for folder in reversed(path.parents):
        if not folder.stat().st_mode & 0o001:
            return folder
    return None
