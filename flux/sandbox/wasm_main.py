"""The process that runs a deployment's JavaScript, TypeScript and wasm functions.

It is started by `flux.sandbox.jail_main`, in three steps, each with fewer rights than the
one before:

`prepare`   before the jail is built. Nothing of the project's is read but bytes to be hashed.
            The interpreter is compiled, or known from another time; so is what was compiled
            of the project's modules.
loading     in the jail. The project's files are read, its modules compiled and its scripts
            evaluated: hostile code may run from here on.
serving     in a tighter jail: no file can be opened, and no memory made executable.

JSON lines go to the supervisor, on descriptor 3:

    {"engine": "8f1c..."}                fingerprint of how modules are compiled; the first that is said
    {"unusable": {"message": ..., "remedy": ...}}   this machine lacks something; then it ends
    {"jailed": true}                     from `flux.sandbox.jail_main`, or why not
    {"importing": "functions/a.ts"}      what it is at
    {"compiled": "functions/a.wasm"}     with a descriptor: compiled code, to be kept
    {"ready": {"functions": [...], "middleware": [...], "meter": "19ab..."}}   the code is loaded; the last is
                                         `flux.execution.Level.meter`
    {"failed": [{...}, ...]}             it is not: one entry for each place that failed

and from there comes one byte ``G`` a guest, with one descriptor: a stream socket, on
which first the start document arrives, as one line, and then the wire goes both ways
(`flux.sandbox.wasm_world` says what else is on it). When the supervisor stops writing,
the guest is over.
"""

import hashlib
import json
import mmap
import os
import socket
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import trio

from flux.errors import OperatorError
from flux.sandbox.base import SandboxUnavailableError
from flux.sandbox.jail_linux import SYS_MPROTECT, call, die_with_parent
from flux.sandbox.jail_plan import Plan
from flux.sandbox.javascript import LoadedScripts, load_scripts, run_script
from flux.sandbox.javascript_engine import Interpreter
from flux.sandbox.wasm_cache import CompiledCode, make_key
from flux.sandbox.wasm_door import SocketDoor
from flux.sandbox.wasm_engine import Engine, Linker
from flux.sandbox.wasm_ledger import Ledger, NoRoomError
from flux.sandbox.wasm_module import BadFunctionFileError, LoadedModule, load_module, run_module
from flux.sandbox.wasm_wasi import define_all
from flux.sandbox.wasm_world import DoorClosedError, FileTree, Start
from flux.sandbox.wasmtime_seam import Module

CONTROL = 3
UNUSABLE_STATUS = 72
SCRIPTS = (".js", ".ts")
METER_CHARACTERS = 16
FILE_BYTES_MAX = 64 * 2**20
"""Files that are larger are not in the tree that guests see: all of it is kept in memory."""
PIPE_BYTES = 1 << 16
PROBE = """(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\\10\\00\\00\\00\\05\\00\\00\\00") (data (i32.const 16) "hello")
  (func (export "_start") (local $n i32)
    (loop $long
      (br_if $long (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 2000000))))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"""
"""A guest that computes for more than a slice, so that a thread has to be started, and says hello."""


class _Apart:
    """Compiles in a process of its own: compiling starts threads, and only a process without any can be jailed."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.fingerprint = engine.fingerprint

    def load(self, compiled: bytes) -> Module | None:
        return self._engine.load(compiled)

    def compile_to_bytes(self, binary: bytes) -> bytes:
        reader, writer = os.pipe()
        parent = os.getpid()
        child = os.fork()
        if child == 0:
            try:
                die_with_parent(parent)
                with open(writer, "wb") as pipe:
                    pipe.write(Engine().compile_to_bytes(binary))
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        os.close(writer)
        with open(reader, "rb") as pipe:
            compiled = pipe.read()
        _, status = os.waitpid(child, 0)
        if status != 0:
            raise SandboxUnavailableError(
                "the JavaScript interpreter could not be compiled; why is printed above",
                remedy="is there enough memory? It takes about 500 MiB, once",
            )
        return compiled


class Host:
    """The deployment's code, and its guests. Made by `prepare`, before the jail."""

    def __init__(self, plan: Plan) -> None:
        self._project = Path(plan.project)
        self._folder = plan.functions
        self._control: socket.socket | None = None
        # Without threads, for the jail's sake: see `_Apart`.
        self.engine = Engine(parallel=False)
        _tell({"engine": self.engine.fingerprint})
        cache: CompiledCode[Module] = CompiledCode(Path(plan.cache) if plan.cache else None)
        paths = _list_files(self._project, plan.functions)
        self._interpreter: Interpreter | None = None
        if any(is_script(path) for path in paths):
            apart = _Apart(self.engine)
            self._interpreter = Interpreter(self.engine, lambda binary: cache.compile(apart, binary))
        # Here and not with each module: a callback is made of memory that is writable and executable.
        self._linker = Linker(self.engine)
        define_all(self._linker)
        self._callbacks = _find_writable_code()
        self._compiled: dict[bytes, bytes] = {}
        """Compiled modules by the hashes of what they were."""
        for path in paths:
            if path.endswith(".wasm") and (binary := _read_file(self._project / path)) is not None:
                kept = cache.find(make_key(self.engine.fingerprint, binary, plan.owner))
                if kept is not None:
                    self._compiled[hashlib.sha256(binary).digest()] = kept
        self._scripts: LoadedScripts | None = None
        self._modules: dict[str, LoadedModule] = {}
        self._tree = FileTree({})
        self._ledger = Ledger(plan.guest_memory_bytes_max)

    # Loading

    async def run(self, confine: Callable[[], None]) -> None:
        """Load, report, and run guests until the supervisor closes the control socket."""
        files = self._read_files()
        # From here on code of the project's is looked at.
        self._tree = FileTree(files)
        paths = [path for path in sorted(files) if not path.endswith(".d.ts")]
        failures, functions = self._load_modules(files, [path for path in paths if path.endswith(".wasm")])
        self._compiled.clear()
        if self._interpreter is not None:
            loaded = await load_scripts(
                self._interpreter, files, [path for path in paths if is_script(path)],
                on_module=lambda path: _tell({"importing": path}), on_output=_print,
            )  # fmt: skip
            if isinstance(loaded, LoadedScripts):
                self._scripts = loaded
                self._interpreter.rehearse(loaded.image, loaded.memory_bytes)
                runtimes = {".js": "javascript", ".ts": "typescript"}
                functions += [
                    {**one, "runtime": runtimes[PurePosixPath(one["file"]).suffix]}
                    for one in loaded.functions
                ]
            else:
                failures += loaded
        if failures:
            _tell({"failed": failures})
            return
        self._confine(confine)
        middleware = [] if self._scripts is None else list(self._scripts.middleware)
        _tell({"ready": {"functions": functions, "middleware": middleware, "meter": self._describe_meter()}})
        with socket.socket(fileno=CONTROL) as self._control:
            self._control.setblocking(False)
            async with trio.open_nursery() as nursery:
                while (connection := await self._receive_guest()) is not None:
                    nursery.start_soon(self._serve, connection)
                nursery.cancel_scope.cancel()

    def _describe_meter(self) -> str:
        """Return a name for all that decides how much fuel the same code with the same answers burns."""
        others = "" if self._interpreter is None else self._interpreter.fingerprint
        return hashlib.sha256(f"{self.engine.fingerprint} {others}".encode()).hexdigest()[:METER_CHARACTERS]

    def _confine(self, confine: Callable[[], None]) -> None:
        """Give up what only loading needs. From here on no memory is writable and executable, or becomes so."""
        for start, size in self._callbacks:
            call("code", "mprotect(callbacks)", SYS_MPROTECT, start, size, mmap.PROT_READ | mmap.PROT_EXEC)
        confine()

    def _read_files(self) -> dict[str, bytes]:
        """Return the files of the functions folder, by their paths in the project."""
        found = {path: _read_file(self._project / path) for path in _list_files(self._project, self._folder)}
        return {path: content for path, content in found.items() if content is not None}

    def _load_modules(
        self, files: dict[str, bytes], paths: list[str]
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Compile wasm files; return what failed, and what they declare."""
        failures, functions = [], []
        for path in paths:
            _tell({"importing": path})
            try:
                module = load_module(
                    self.engine, path, files[path], linker=self._linker,
                    compile_module=partial(self._compile, path),
                )  # fmt: skip
            except BadFunctionFileError as error:
                place = {"file": path, "line": 1, "traceback": f"{path}: {error}"}
                failures.append({"module": path, "type": "BadModule", "message": str(error), **place})
                continue
            self._modules[module.declared["name"]] = module
            functions.append({**module.declared, "runtime": "wasm"})
        return failures, functions

    def _compile(self, path: str, binary: bytes) -> Module:
        """Return the module in ``binary``, the content of ``path``; raise `BadModuleError`."""
        kept = self._compiled.get(hashlib.sha256(binary).digest())
        module = None if kept is None else self.engine.load(kept)
        if module is not None:
            return module
        compiled = Engine().compile_to_bytes(binary)
        _hand_over(path, compiled)
        module = self.engine.load(compiled)
        assert module is not None, "an engine can load what one like it has compiled"
        return module

    # Serving

    async def _receive_guest(self) -> socket.socket | None:
        """Return the socket of the next guest, or None when there will be none."""
        assert self._control is not None
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
        except DoorClosedError:
            pass
        except Exception:
            # Ours, not the guest's. The supervisor sees a guest that ended without a word; this is why.
            _print(traceback.format_exc())
        finally:
            door.close()

    async def _run(self, door: SocketDoor, start: Start) -> None:
        module, scripts = self._modules.get(start.function), self._scripts
        begun = module or scripts
        assert begun is not None, "only what was declared is started"
        try:
            place = await self._ledger.enter(door, begun.memory_bytes)
        except NoRoomError as error:
            await self._say_evicted(door, str(error))
            return

        def book(memory_bytes: int) -> None:
            self._ledger.book(place, memory_bytes)

        try:
            if module is not None:
                await run_module(self.engine, module, self._tree, door, start, on_pause=book)
            else:
                assert self._interpreter is not None and scripts is not None
                await run_script(self._interpreter, scripts, door, start, on_pause=book)
            if door.ended is not None:
                await self._say_evicted(door, door.ended)
        finally:
            self._ledger.leave(place)

    async def _say_evicted(self, door: SocketDoor, why: str) -> None:
        """Tell of a guest that was ended, or not begun, for the memory that others hold."""
        told = {"evicted": why, "bytes_max": self._ledger.bytes_max}
        await door.send_last(b"0%b\n" % json.dumps(told).encode())

    # Trying

    def try_guest(self, confine: Callable[[], None]) -> str:
        """Run a guest as a project's is run, in the jail for serving; return what it has answered."""
        return trio.run(self._try_guest, confine)

    async def _try_guest(self, confine: Callable[[], None]) -> str:
        module = load_module(self.engine, "probe.wasm", self.engine.assemble(PROBE), linker=self._linker)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self._confine(confine)
            document = {"function": "probe", "now_ns": 0, "seed": "", "memory_bytes_max": 2**20}
            start = Start.read(json.dumps(document).encode())
            await run_module(self.engine, module, FileTree({}), SocketDoor(theirs), start)
            said = ours.recv(PIPE_BYTES).partition(b" ")[2].splitlines()[0]
        return str(json.loads(said)[1]["body"])


def _find_writable_code() -> list[tuple[int, int]]:
    """Return where memory is writable and executable, and how much: ctypes makes its callbacks in such."""
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        place, permissions = line.split()[:2]
        if permissions.startswith("rwx"):
            start, end = (int(word, 16) for word in place.split("-"))
            found.append((start, end - start))
    return found


def is_script(path: str) -> bool:
    """Whether a file is JavaScript or TypeScript with code in it."""
    return path.endswith(SCRIPTS) and not path.endswith(".d.ts")


def _list_files(project: Path, folder: str) -> list[str]:
    """Return the paths of the functions folder's files in the project, links left out."""
    found = []
    for place, folders, names in os.walk(project / folder) if folder else ():
        folders[:] = [name for name in folders if name != "__pycache__"]
        paths = [Path(place, name) for name in names]
        found += [
            path.relative_to(project).as_posix() for path in paths if path.is_file() and not path.is_symlink()
        ]
    return sorted(found)


def _read_file(path: Path) -> bytes | None:
    """Return a file's content, or None when it is too large to be kept."""
    # Never by a link, which might lead out of the project while we still see all of the machine.
    with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "rb") as file:
        content = file.read(FILE_BYTES_MAX + 1)
    return content if len(content) <= FILE_BYTES_MAX else None


def _tell(message: dict[str, Any]) -> None:
    """Say something to the supervisor, who listens."""
    line = memoryview(json.dumps(message).encode() + b"\n")
    while line:
        line = line[os.write(CONTROL, line) :]


def _hand_over(path: str, compiled: bytes) -> None:
    """Give compiled code to the supervisor, in a file without a name."""
    descriptor = os.memfd_create("compiled")
    with open(descriptor, "wb") as file:
        file.write(compiled)
        file.flush()
        # Not with a duplicate: nobody may have another number for this line (`flux.sandbox.wasm_filter`).
        control = socket.socket(fileno=CONTROL)
        try:
            socket.send_fds(control, [json.dumps({"compiled": path}).encode() + b"\n"], [descriptor])
        finally:
            control.detach()


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def prepare(plan: Plan) -> Host:
    """Get ready what needs this machine's files; does not return when something is missing."""
    try:
        return Host(plan)
    except OperatorError as error:
        _tell({"unusable": {"message": f"{error.code}  {error.message}", "remedy": error.remedy}})
        os._exit(UNUSABLE_STATUS)


def main(host: Host, confine: Callable[[], None]) -> None:
    """Load and serve; ``confine`` puts on the tighter jail."""
    try:
        trio.run(host.run, confine)
    except BaseException:
        _print(traceback.format_exc())
        os._exit(1)
    # No interpreter's clean-up: it would write to what callbacks are made of.
    os._exit(0)
