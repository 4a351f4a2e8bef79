"""Machine code that was compiled before.

The JavaScript interpreter takes seconds to compile and milliseconds to load again, and
it is the same for every project. So it is kept in a folder of the user's. What is
loaded from there is run as it is: the folder must be ours and nobody else may write in
it, or it is not used. Only what we ourselves brought is kept, never a project's module.

A file's name is a hash of the module, of everything that decides what it is compiled
to, and of wasmtime's version. It is written under another name and renamed: a file that
is there is whole, and one that another process has mapped never changes.
"""

import hashlib
import os
import stat
import tempfile
from pathlib import Path

from flux.sandbox.wasm_engine import Engine, Module


class CompiledCode:
    """The folder, or None for a process that may keep nothing."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def compile(self, engine: Engine, binary: bytes) -> Module:
        """Return the module in ``binary``, which is one of ours."""
        path = self._find_place(engine, binary)
        if path is not None:
            try:
                known = engine.load(path.read_bytes())
            except OSError:
                known = None  # Not there yet, or gone: what is compiled now is as good.
            if known is not None:
                return known
        module = engine.compile(binary)
        if path is not None:
            self._keep(path, bytes(module.serialize()))
        return module

    def _find_place(self, engine: Engine, binary: bytes) -> Path | None:
        if self._folder is None:
            return None
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = self._folder.stat()
        except OSError:
            return None
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o022:
            return None
        key = hashlib.sha256(engine.fingerprint.encode() + hashlib.sha256(binary).digest()).hexdigest()
        return self._folder / f"{key[:32]}.cwasm"

    def _keep(self, path: Path, compiled: bytes) -> None:
        try:
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix="unfinished-", delete=False) as file:
                file.write(compiled)
            Path(file.name).rename(path)
        except OSError:
            return  # A full disk costs the next start some seconds, and nothing else.
