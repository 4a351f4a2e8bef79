"""The process that runs a deployment's JavaScript, TypeScript and wasm functions.

Run by the supervisor as ``python -m flux.sandbox.wasm_main PROJECT FUNCTIONS PARENT CONTROL
CACHE``: the folders, the supervisor's process id, the descriptor of the control socket,
and where compiled code may be kept. JSON lines go to the supervisor, as from the zygote
of Python functions:

    {"importing": "functions/a.ts"}      what it is at
    {"ready": {"functions": [...]}}      the code is loaded
    {"failed": [{...}, ...]}             it is not: one entry for each place that failed

and from there comes one byte ``G`` a guest, with one descriptor: a stream socket, on
which first the start document arrives, as one line, and then the wire goes both ways
(`flux.sandbox.wasm_world` says what else is on it). When the supervisor stops writing,
the guest is over.

After "ready" it opens no file and starts no process: what it needs is in its memory.
"""

import ctypes
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import trio

from flux.sandbox.javascript import LoadedScripts, load_scripts, run_script
from flux.sandbox.javascript_engine import Interpreter
from flux.sandbox.wasm_cache import CompiledCode
from flux.sandbox.wasm_door import SocketDoor
from flux.sandbox.wasm_engine import Engine
from flux.sandbox.wasm_module import BadFunctionFileError, LoadedModule, load_module, run_module
from flux.sandbox.wasm_world import FileTree, Start

PR_SET_PDEATHSIG = 1
SCRIPTS = (".js", ".ts")
FILE_BYTES_MAX = 64 * 2**20
"""Files that are larger are not in the tree that guests see: all of it is kept in memory."""


class Host:
    """The deployment's code, loaded, and its guests."""

    def __init__(self, project: Path, control: socket.socket, cache: CompiledCode) -> None:
        self._project = project
        self._control = control
        self._engine = Engine()
        self._cache = cache
        self._interpreter: Interpreter | None = None
        self._scripts: LoadedScripts | None = None
        self._modules: dict[str, LoadedModule] = {}
        self._tree = FileTree({})

    def _say(self, message: dict[str, Any]) -> None:
        self._control.setblocking(True)
        self._control.sendall(json.dumps(message).encode() + b"\n")
        self._control.setblocking(False)

    async def run(self, folder: str) -> None:
        """Load, report, and run guests until the supervisor closes the control socket."""
        files = _read_files(self._project, folder)
        paths = [path for path in sorted(files) if not path.endswith(".d.ts")]
        scripts = [path for path in paths if path.endswith(SCRIPTS)]
        if scripts:
            self._interpreter = Interpreter(
                self._engine, lambda binary: self._cache.compile(self._engine, binary)
            )
        # From here on code of the project's is looked at.
        self._tree = FileTree(files)
        failures, functions = self._load_modules(files, [path for path in paths if path.endswith(".wasm")])
        if self._interpreter is not None:
            loaded = await load_scripts(
                self._interpreter, files, scripts,
                on_module=lambda path: self._say({"importing": path}), on_output=_print,
            )  # fmt: skip
            if isinstance(loaded, LoadedScripts):
                self._scripts = loaded
                runtimes = {".js": "javascript", ".ts": "typescript"}
                functions += [
                    {**one, "runtime": runtimes[PurePosixPath(one["file"]).suffix]}
                    for one in loaded.functions
                ]
            else:
                failures += loaded
        if failures:
            self._say({"failed": failures})
            return
        self._say({"ready": {"functions": functions}})
        async with trio.open_nursery() as nursery:
            while (connection := await self._receive_guest()) is not None:
                nursery.start_soon(self._serve, connection)
            nursery.cancel_scope.cancel()

    def _load_modules(
        self, files: dict[str, bytes], paths: list[str]
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Compile wasm files; return what failed, and what they declare."""
        failures, functions = [], []
        for path in paths:
            self._say({"importing": path})
            try:
                module = load_module(self._engine, path, files[path])
            except BadFunctionFileError as error:
                place = {"file": path, "line": 1, "traceback": f"{path}: {error}"}
                failures.append({"module": path, "type": "BadModule", "message": str(error), **place})
                continue
            self._modules[module.declared["name"]] = module
            functions.append({**module.declared, "runtime": "wasm"})
        return failures, functions

    async def _receive_guest(self) -> socket.socket | None:
        """Return the socket of the next guest, or None when there will be none."""
        while True:
            await trio.lowlevel.wait_readable(self._control)
            try:
                data, descriptors, _flags, _address = socket.recv_fds(self._control, 1, 1)
            except BlockingIOError:
                continue
            except ConnectionError:
                return None
            if descriptors:
                return socket.socket(fileno=descriptors[0])
            if not data:
                return None
            # A guest whose descriptor we had no room for: its socket is closed already, and it is over.

    async def _serve(self, connection: socket.socket) -> None:
        """Run one guest. Whatever it does ends it, and nobody else."""
        door = SocketDoor(connection)
        try:
            start = await door.read_start()
            if start is not None:
                await self._run(door, start)
        except Exception:
            # Ours, not the guest's. The supervisor sees a guest that ended without a word; this is why.
            _print(traceback.format_exc())
        finally:
            door.close()

    async def _run(self, door: SocketDoor, start: Start) -> None:
        module = self._modules.get(start.function)
        if module is not None:
            await run_module(self._engine, module, self._tree, door, start)
        else:
            assert self._interpreter is not None and self._scripts is not None, (
                "only what was declared is started"
            )
            await run_script(self._interpreter, self._scripts, door, start)


def _read_files(project: Path, folder: str) -> dict[str, bytes]:
    """Return the files of the functions folder, by their paths in the project."""
    return {
        path.relative_to(project).as_posix(): path.read_bytes()
        for path in sorted((project / folder).rglob("*"))
        if path.is_file() and path.stat().st_size <= FILE_BYTES_MAX and "__pycache__" not in path.parts
    }


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _die_with_parent(parent: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:  # It died before the request took hold.
        os._exit(0)


def main(arguments: list[str], run: Callable[..., None] = trio.run) -> None:
    """Read the command line and serve."""
    project, folder, parent, control, cache = arguments
    _die_with_parent(int(parent))
    connection = socket.socket(fileno=int(control))
    os.set_inheritable(connection.fileno(), False)
    run(Host(Path(project), connection, CompiledCode(Path(cache) if cache else None)).run, folder)


if __name__ == "__main__":
    main(sys.argv[1:])
