"""The files of an environment: what may be among them, and whether they are still what was installed.

An environment is a folder of packages that never changes once it is built. What the
installer put there was written by strangers, so it is looked at first (`check_tree`): files
and folders, nothing that points elsewhere, nothing with a bit that gives rights, no module
that stands in Flux's own place. Then it is sealed (`seal_tree`): nobody but its owner can
write it, everybody can read it (guests may be somebody else), and a manifest holds a hash of
each file.

Before code runs with it, `Seals` compares: every file the first time, and again whenever
anything about a file is not as it was. What differs is named and refused. The manifest lies
beside the files, so this finds what an accident or a careless hand has changed, and anybody who
could write the files only; who owns the folder can write both.
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec

from flux.errors import OperatorError

MANIFEST_NAME = "manifest.json"
PACKAGES_NAME = "site-packages"
FORMAT = 1
FILES_MAX = 250_000
BYTES_MAX = 8 * 2**30
"""Enough for the largest libraries there are; more is a mistake or an attack on the disk."""
OURS = frozenset({"flux", "flux_guest"})
"""Modules that guests have from Flux."""
RIGHTS = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX
_READ_BYTES = 1 << 20


class RefusedPackageError(OperatorError):
    """A package has something that no environment may have."""

    code = "FLX534"


class EnvironmentDamagedError(OperatorError):
    """An environment is not as it was built."""

    code = "FLX535"


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an environment is, as it lies beside its files."""

    format: int
    key: str
    """Hash of all that decides what is in it."""
    python: str
    """For which Python: ``cpython-311-x86_64-linux-gnu``."""
    installer: str
    """What installed it: ``pip 26.3``."""
    ran_code: bool
    """Whether packages could run code of their own while it was built (``--allow-sdist``)."""
    packages: list[tuple[str, str]]
    """Name and version of each, in order."""
    files: dict[str, tuple[str, int]]
    """SHA-256 and size in bytes of each file, by its path in the folder of packages."""

    @property
    def modules(self) -> frozenset[str]:
        """What can be imported from it, at the top."""
        first = (path.split("/")[0] for path in self.files)
        return frozenset(name for part in first if (name := _module_of(part)))


def _module_of(entry: str) -> str:
    """Return the module that a file or folder at the top is, or nothing."""
    name = entry.partition(".")[0]
    is_none = entry == "__pycache__" or entry.endswith((".dist-info", ".pth", ".libs"))
    return "" if is_none or not name.isidentifier() else name


def walk_tree(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield all that is below ``folder``, by its path there, in order; links are not followed."""
    waiting = [""]
    while waiting:
        inside = waiting.pop()
        with os.scandir(folder / inside) as found:
            entries = sorted(found, key=lambda entry: entry.name, reverse=True)
        for entry in entries:
            path = f"{inside}/{entry.name}" if inside else entry.name
            looked = entry.stat(follow_symlinks=False)
            yield path, looked
            if stat.S_ISDIR(looked.st_mode):
                waiting.append(path)


def measure_bytes(folder: Path) -> int:
    """Return how much room everything below ``folder`` takes, while it may be changing."""
    total = 0
    waiting = [folder]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    looked = entry.stat(follow_symlinks=False)
                    total += max(looked.st_size, 512 * looked.st_blocks)
                    if stat.S_ISDIR(looked.st_mode):
                        waiting.append(Path(entry.path))
        except FileNotFoundError:
            continue
    return total


def check_tree(folder: Path) -> None:
    """Refuse a folder of packages that holds something other than plain files of plain packages."""
    total = 0
    for count, (path, looked) in enumerate(walk_tree(folder), 1):
        total += looked.st_size
        mode = looked.st_mode
        if stat.S_ISLNK(mode):
            raise _refused(folder, path, f"is a link to {str((folder / path).readlink())!r}")
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise _refused(folder, path, "is no file")
        if mode & RIGHTS and not stat.S_ISDIR(mode):
            raise _refused(
                folder, path, f"has mode {stat.S_IMODE(mode):04o}, which gives rights to who runs it"
            )
        if stat.S_ISREG(mode) and looked.st_nlink > 1:
            raise _refused(folder, path, "has a second name elsewhere, by which it could be changed")
        if not path.isprintable():
            raise _refused(folder, path, "has a name that is no text")
        if "/" not in path and _module_of(path) in OURS:
            raise _refused(folder, path, f"would stand in the place of Flux's own module {_module_of(path)}")
        if count > FILES_MAX:
            raise RefusedPackageError(f"the packages have more than {FILES_MAX:,} files", remedy=_LARGE)
    if total > BYTES_MAX:
        raise RefusedPackageError(f"the packages have more than {BYTES_MAX >> 30} GiB", remedy=_LARGE)


_LARGE = "look for the package that brings so much, and do without it"


def _refused(folder: Path, path: str, what: str) -> RefusedPackageError:
    owner = _find_owner(folder, path)
    return RefusedPackageError(
        f"{owner or 'a package'}: {ascii(path)[1:-1]} {what}",
        remedy="do without this package, or this version of it",
    )


def _find_owner(folder: Path, path: str) -> str:
    """Return name and version of the package that says the file is its own, or nothing."""
    for record in sorted(folder.glob("*.dist-info/RECORD")):
        if record.is_symlink():
            continue
        lines = record.read_text(encoding="utf-8", errors="replace").splitlines()
        if any(line.partition(",")[0] in (path, f"{path}/__init__.py") for line in lines):
            return " ".join(_split_info(record.parent.name))
    return ""


def list_packages(folder: Path) -> list[tuple[str, str]]:
    """Return name and version of each installed package, in order."""
    return sorted(_split_info(path.name) for path in folder.glob("*.dist-info"))


def _split_info(name: str) -> tuple[str, str]:
    package, _, version = name.removesuffix(".dist-info").partition("-")
    return package, version


def seal_tree(folder: Path) -> dict[str, tuple[str, int]]:
    """Let everybody read the packages and nobody but the owner write them; return each file's hash and size."""
    folder.chmod(0o755)
    files = {}
    for path, looked in walk_tree(folder):
        if stat.S_ISDIR(looked.st_mode):
            (folder / path).chmod(0o755)
        else:
            (folder / path).chmod(0o644)
            files[path] = (_hash_file(folder / path), looked.st_size)
    return files


def _hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb", buffering=0) as file:
        while data := file.read(_READ_BYTES):
            digest.update(data)
    return digest.hexdigest()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write what the environment in ``folder`` is."""
    path = folder / MANIFEST_NAME
    path.write_bytes(msgspec.json.encode(manifest))
    path.chmod(0o644)


def read_manifest(folder: Path) -> Manifest:
    """Return what the environment in ``folder`` is; raise `EnvironmentDamagedError`."""
    try:
        manifest = msgspec.json.decode((folder / MANIFEST_NAME).read_bytes(), type=Manifest)
    except (OSError, msgspec.MsgspecError) as error:
        raise _damaged(folder, f"{MANIFEST_NAME} can't be read: {error}") from error
    if manifest.format != FORMAT:
        raise _damaged(folder, f"{MANIFEST_NAME} has format {manifest.format}, and this Flux writes {FORMAT}")
    return manifest


Seal = tuple[tuple[str, int, int, int, int, int], ...]
"""What the system says of every file and folder: its inode, mode, size, and when it and what is said of it changed."""


class Seals:
    """What was compared before, so that only the first look at an environment reads all of it."""

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[Manifest, Seal]] = {}

    def check(self, folder: Path) -> Manifest:
        """Return the manifest of the environment in ``folder``; raise `EnvironmentDamagedError`."""
        manifest = read_manifest(folder)
        try:
            seal = _read_seal(folder / PACKAGES_NAME)
            if self._seen.get(folder) != (manifest, seal):
                _compare(folder, manifest)
        except OSError as error:
            raise _damaged(folder, f"{error.filename} can't be read: {error.strerror}") from error
        self._seen[folder] = (manifest, seal)
        return manifest


def _read_seal(packages: Path) -> Seal:
    return tuple(
        (path, looked.st_ino, looked.st_mode, looked.st_size, looked.st_mtime_ns, looked.st_ctime_ns)
        for path, looked in walk_tree(packages)
    )


def _compare(folder: Path, manifest: Manifest) -> None:
    packages = folder / PACKAGES_NAME
    left = dict(manifest.files)
    for path, looked in walk_tree(packages):
        mode = looked.st_mode
        expected = None if stat.S_ISDIR(mode) else left.pop(path, None)
        if expected is None and not stat.S_ISDIR(mode):
            raise _damaged(folder, f"{ascii(path)[1:-1]} was not there")
        if mode & (stat.S_IWGRP | stat.S_IWOTH) and not stat.S_ISLNK(mode):
            raise _damaged(folder, f"{ascii(path)[1:-1]} can be written by others")
        if expected is None:
            continue
        if (
            not stat.S_ISREG(mode)
            or looked.st_size != expected[1]
            or _hash_file(packages / path) != expected[0]
        ):
            raise _damaged(folder, f"{ascii(path)[1:-1]} has changed")
    if left:
        raise _damaged(folder, f"{ascii(min(left))[1:-1]} is gone")


def _damaged(folder: Path, what: str) -> EnvironmentDamagedError:
    return EnvironmentDamagedError(
        f"the packages in {folder} are not as they were installed: {what}",
        remedy="find out who writes there; flux build installs them anew",
    )
