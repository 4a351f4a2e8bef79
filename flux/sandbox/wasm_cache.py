"""Machine code that was compiled before.

A module takes seconds to compile and milliseconds to load again, so what came of it is
kept in a folder of the user's. What is loaded from there is run as it is. So:

The folder is the supervisor's: nobody else may write in it, or it is not used. Processes that
run guests see it only before they are jailed, when they have read nothing of a project's.
What they compile in the jail they hand to the supervisor, who keeps it under a name of his own.

A file's name, its *key*, is a hash of the module, of everything that decides what it is compiled
to, wasmtime's version included, and of its *owner*. The interpreter, compiled before any code of
a project's was looked at, is everybody's. A project's modules are their tenant's: a module that
finds a hole in the compiler decides what is kept for its own tenant, and for nobody else.

A file is written under another name and renamed, so one that is there is whole. It begins with a
hash of the rest: one that is damaged all the same is taken for absent, and replaced.
"""

import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Generic, Protocol, TypeVar

BYTES_MAX = 2**30
"""Of the whole folder; the files that were longest of no use go first."""
UNFINISHED_AGE_S = 3600.0
"""From when on a file that was not renamed never will be."""
_HEAD = b"flux compiled code 1\n"
_DIGEST_BYTES = 32
_SUFFIX, _UNFINISHED = ".cwasm", "unfinished-"

Compiled = TypeVar("Compiled", covariant=True)


class Compiler(Protocol[Compiled]):
    """What `CompiledCode.compile` needs of `flux.sandbox.wasm_engine.Engine`."""

    @property
    def fingerprint(self) -> str:
        """Of all that decides what a module is compiled to."""

    def compile_to_bytes(self, binary: bytes) -> bytes:
        """Return compiled code to be loaded by any engine of this fingerprint."""

    def load(self, compiled: bytes) -> Compiled | None:
        """Return a module from that, or None when it is of another wasmtime or processor."""


def make_key(fingerprint: str, binary: bytes, owner: str = "") -> str:
    """Return the name under which compiled code is kept; ``owner`` is whose it is, nobody's when empty."""
    digest = hashlib.sha256(binary).digest()
    # Lengths are fixed but for the last: no two of these run into each other.
    return hashlib.sha256(hashlib.sha256(fingerprint.encode()).digest() + digest + owner.encode()).hexdigest()


class CompiledCode(Generic[Compiled]):
    """The folder, or None for a process that may keep nothing."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def compile(self, engine: Compiler[Compiled], binary: bytes) -> Compiled:
        """Return the module in ``binary``, which is one of ours."""
        key = make_key(engine.fingerprint, binary)
        kept = self.find(key)
        known = None if kept is None else engine.load(kept)
        if known is not None:
            return known
        compiled = engine.compile_to_bytes(binary)
        self.keep(key, compiled)
        loaded = engine.load(compiled)
        assert loaded is not None, "an engine can load what it has compiled"
        return loaded

    def find(self, key: str) -> bytes | None:
        """Return what is kept under ``key``, or None when nothing is, or it is damaged."""
        folder = self._check_folder()
        if folder is None:
            return None
        path = folder / f"{key}{_SUFFIX}"
        try:
            content = path.read_bytes()
            os.utime(path)  # It is of use again: see `_prune`.
        except OSError:
            return None  # Not there, or just being pruned: what is compiled now is as good.
        start = len(_HEAD) + _DIGEST_BYTES
        compiled = content[start:]
        if content[:start] != _HEAD + hashlib.sha256(compiled).digest():
            return None
        return compiled

    def keep(self, key: str, compiled: bytes) -> None:
        """Keep compiled code under ``key``. A folder that can't be used costs the next start some seconds."""
        folder = self._check_folder()
        if folder is None:
            return
        try:
            with tempfile.NamedTemporaryFile(dir=folder, prefix=_UNFINISHED, delete=False) as file:
                file.write(_HEAD + hashlib.sha256(compiled).digest())
                file.write(compiled)
            Path(file.name).rename(folder / f"{key}{_SUFFIX}")
            _prune(folder)
        except OSError:
            return  # A full disk: see above.

    def _check_folder(self) -> Path | None:
        """Return the folder if it is ours and nobody else can write in it."""
        if self._folder is None:
            return None
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = self._folder.lstat()
        except OSError:
            return None
        ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
        return self._folder if ours and not stat.S_IMODE(found.st_mode) & 0o022 else None


def _prune(folder: Path) -> None:
    """Delete what was never finished, and what was longest of no use beyond `BYTES_MAX`."""
    left = BYTES_MAX
    for path, about in sorted(_list(folder), key=lambda entry: entry[1].st_mtime, reverse=True):
        left -= about.st_size
        is_old = path.name.startswith(_UNFINISHED) and about.st_mtime < time.time() - UNFINISHED_AGE_S
        if is_old or left < 0:
            path.unlink(missing_ok=True)


def _list(folder: Path) -> Iterable[tuple[Path, os.stat_result]]:
    for path in folder.iterdir():
        if path.suffix == _SUFFIX or path.name.startswith(_UNFINISHED):
            try:
                yield path, path.stat()
            except FileNotFoundError:
                continue  # Somebody else prunes as well.
