"""A deployment's JavaScript and TypeScript: loading it once, running it often.

Loading goes through the project's modules one by one, so that each failure is told with
its own file and line, as Python's are. It ends with an image of the interpreter's memory
(`flux.sandbox.javascript_engine`); running is a call in a copy of that.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import attrs

from flux.sandbox.javascript_engine import LOAD_MEMORY_BYTES, Handles, Interpreter, Realm, ScriptWorld, Thrown
from flux.sandbox.javascript_modules import BOOT, SDK, UnresolvedImportError, resolve
from flux.sandbox.wasm_isolate import PointerError, Trapped
from flux.sandbox.wasm_module import NEARLY_FULL, say_failure, say_over
from flux.sandbox.wasm_wasi import GuestExit
from flux.sandbox.wasm_world import NOTHING, Door, DoorClosedError, FileTree, Start
from flux.sandbox.wasmtime_seam import Template
from flux.typescript import UnsupportedSyntaxError, erase_types

LINE_OF_STACK = re.compile(r"^\s*at (?:.* \()?(?P<file>.+?):(?P<line>\d+)(?::\d+)?\)?$")
MISSING_EXPORT = re.compile(r"Could not find export '(?P<name>[^']+)' in module '(?P<module>[^']+)'")
IMPORT = re.compile(r"""\b(?:import|export)\b(?P<names>[^;'"]*?)\bfrom\s*["'](?P<specifier>[^"'\n]+)["']""")
OUT_OF_MEMORY = "out of memory"
Failure = dict[str, Any]
"""As the zygote of Python functions tells it: see `flux.sandbox.base.ImportFailure`."""


class _ClosedDoor:
    """While code is loaded nobody is there to ask."""

    async def exchange(self, data: bytes) -> bytes:  # noqa: ARG002 - the protocol's signature
        """See `Door`."""
        return b""

    async def send(self, data: bytes) -> None:
        """See `Door`."""

    def send_nowait(self, data: bytes) -> int:
        """See `Door`."""
        return len(data)

    async def send_last(self, data: bytes) -> None:
        """See `Door`."""

    def check_open(self) -> None:
        """See `Door`."""


@attrs.frozen
class LoadedScripts:
    """Modules that have been evaluated."""

    functions: tuple[dict[str, Any], ...]
    """What they declare, as the registry of the SDK tells it."""
    middleware: tuple[dict[str, Any], ...]
    """Likewise."""
    image: Template
    handles: Handles
    tree: FileTree
    """The files as the interpreter reads them."""
    memory_bytes: int
    """Of the image: what every execution begins with."""


async def load_scripts(
    interpreter: Interpreter,
    files: dict[str, bytes],
    modules: list[str],
    *,
    on_module: Callable[[str], None],
    on_output: Callable[[str], None],
) -> LoadedScripts | list[Failure]:
    """Evaluate ``modules``, paths of ``files``; return what they declare, or each thing that failed, once."""
    readable, failures = _make_readable(files, modules)
    if failures:
        return failures
    tree = FileTree(interpreter.sdk | readable)
    world = ScriptWorld(_ClosedDoor(), NOTHING, tree)
    realm = interpreter.open(world, LOAD_MEMORY_BYTES)
    try:
        realm.boot()
        await realm.evaluate(f'import "{SDK}/run.js"; import "{SDK}/web.js";', f"{BOOT}/sdk")
        handles = await realm.take_handles()
        await realm.evaluate("delete globalThis.__flux;", f"{BOOT}/hide")
        found: dict[tuple[str, int, str, str], Failure] = {}
        for number, path in enumerate(modules):
            on_module(path)
            source = files[path].decode("utf-8", "replace")
            try:
                await realm.evaluate(_boot(path, source), f"{BOOT}/{number}")
            except (Thrown, Trapped, GuestExit) as error:
                failure = _describe(error, path, world, files)
                # A module that others import fails once for each of them, always at the same place.
                place = (failure["file"], failure["line"], failure["type"], failure["message"])
                found.setdefault(place, failure)
                if not isinstance(error, Thrown):
                    break  # The interpreter itself was ended.
        for text in _read_output(world.take_outgoing()):
            on_output(text)
        if found:
            return list(found.values())
        return await _finish(interpreter, realm, handles, tree)
    finally:
        realm.isolate.close()


def _read_output(said: bytes) -> Iterator[str]:
    """Yield what modules have printed or logged while they were loaded."""
    for line in said.splitlines():
        try:
            # Of a line of the guest's, the kind and the fuel are in front.
            match json.loads(line[1:] if line[:1] == b"2" else line.partition(b" ")[2]):
                case str(text):
                    yield text
                case [0, "log.write", [_, str(text), _], *_]:
                    yield text + "\n"
        except ValueError:
            continue  # Cut where a flood of it was cut.


def _make_readable(files: dict[str, bytes], modules: list[str]) -> tuple[dict[str, bytes], list[Failure]]:
    """Return the files with types erased from TypeScript, and what could not be."""
    readable, failures = dict(files), []
    for path in modules:
        try:
            text = files[path].decode("utf-8")
            if path.endswith(".ts"):
                readable[path] = erase_types(text, path).encode()
        except UnsupportedSyntaxError as error:
            failures.append(_failure(path, "SyntaxError", str(error), path, error.line, f"{path}:{error.line}"))
        except UnicodeDecodeError as error:
            line = files[path].count(b"\n", 0, error.start) + 1
            message = f"the file is not UTF-8 text: byte 0x{files[path][error.start]:02x}"
            failures.append(_failure(path, "SyntaxError", message, path, line, f"{path}:{line}"))
    return readable, failures


def _boot(path: str, source: str) -> str:
    quoted = json.dumps(path)
    return (
        f"import * as exported from {quoted};\n"
        f'import {{ load }} from "{SDK}/run.js";\n'
        f"load({quoted}, exported, {json.dumps(source)});"
    )


def _failure(module: str, kind: str, message: str, file: str, line: int, stack: str) -> Failure:
    return {"module": module, "type": kind, "message": message, "file": file, "line": line, "traceback": stack}


def _describe(
    error: Thrown | Trapped | GuestExit, module: str, world: ScriptWorld, files: dict[str, bytes]
) -> Failure:
    unresolved, world.unresolved = world.unresolved, []
    if isinstance(error, Thrown) and unresolved and "could not load module" in error.text:
        importer, specifier, why = unresolved[-1]
        line = _find_line(files.get(importer, b""), specifier)
        return _failure(module, "ImportError", why, importer, line, f"{importer}:{line}")
    if isinstance(error, Thrown) and (missing := MISSING_EXPORT.search(error.text)) is not None:
        importer, line = _find_import(missing["name"], missing["module"], [module, *world.tree.files], files)
        hint = ""
        if importer.endswith(".ts"):
            hint = f"; if it is a type, write: import type {{ {missing['name']} }}"
        why = f"{missing['module']} exports no {missing['name']}{hint}"
        return _failure(module, "ImportError", why, importer, line, f"{importer}:{line}")
    text, stack = (error.text, error.stack) if isinstance(error, Thrown) else (str(error), "")
    kind, _, message = text.partition(": ")
    if not re.fullmatch(r"[A-Za-z_$][\w$]*", kind):
        kind, message = "Error", text
    file, line = module, 1
    for row in stack.splitlines():
        match = LINE_OF_STACK.match(row)
        if match is not None and match["file"] in files:
            file, line = match["file"], int(match["line"])
            break
    shown = [f"{text}"] + [row for row in stack.splitlines() if SDK not in row and BOOT not in row]
    return _failure(module, kind, message, file, line, "\n".join(shown))


def _find_import(name: str, module: str, importers: list[str], files: dict[str, bytes]) -> tuple[str, int]:
    """Return where ``name`` is imported from ``module``: QuickJS tells neither file nor line."""
    for importer in importers:
        text = files.get(importer, b"").decode("utf-8", "replace")
        for found in IMPORT.finditer(text):
            try:
                means = resolve(importer, found["specifier"], {*files, SDK})
            except UnresolvedImportError:
                continue
            place = re.search(rf"(?<![\w$]){re.escape(name)}(?![\w$])", found["names"])
            if means == module and place is not None:
                return importer, text.count("\n", 0, found.start("names") + place.start()) + 1
    return importers[0], 1


def _find_line(source: bytes, specifier: str) -> int:
    """Return the line that names ``specifier`` in quotes: QuickJS tells no line of an import that it can't load."""
    for number, row in enumerate(source.decode("utf-8", "replace").splitlines(), 1):
        if f'"{specifier}"' in row or f"'{specifier}'" in row:
            return number
    return 1


async def _finish(interpreter: Interpreter, realm: Realm, handles: Handles, tree: FileTree) -> LoadedScripts:
    await realm.evaluate(
        f'import {{ describe }} from "{SDK}/run.js"; globalThis.__flux = describe();',
        f"{BOOT}/functions",
    )
    declared = json.loads(await realm.read_global("__flux"))
    await realm.evaluate("delete globalThis.__flux;", f"{BOOT}/end")
    memory = realm.freeze()
    return LoadedScripts(
        tuple(declared["functions"]), tuple(declared["middleware"]), interpreter.make_image(memory), handles, tree,
        len(memory),
    )  # fmt: skip


async def run_script(
    interpreter: Interpreter,
    scripts: LoadedScripts,
    door: Door,
    start: Start,
    *,
    on_pause: Callable[[int], None] = lambda _memory_bytes: None,
    on_end: Callable[[Realm], None] = lambda _realm: None,
) -> None:
    """Run one execution to its end, which its door then has heard. One whose door is closed is ended.

    ``on_end`` is shown the realm before it is closed.
    """
    world = ScriptWorld(door, start, scripts.tree)
    realm = interpreter.open(
        world, max(start.memory_bytes_max, scripts.memory_bytes), scripts.image,
        stop_fuel=start.stop_fuel, slice_fuel=start.slice_fuel,
    )  # fmt: skip
    isolate = realm.isolate
    isolate.on_turn, isolate.on_pause = world.push, on_pause
    try:
        try:
            await realm.drive(scripts.handles)
            say_over(world, isolate)
        except Thrown as error:
            if not world.ended:
                full = isolate.memory_bytes > NEARLY_FULL * start.memory_bytes_max
                world.submit(_report(error, full=full), isolate.fuel)
            say_over(world, isolate)
        except (Trapped, PointerError, GuestExit) as error:
            say_failure(world, isolate, error, full=isolate.memory_bytes > NEARLY_FULL * start.memory_bytes_max)
        except DoorClosedError:
            say_over(world, isolate)
        on_end(realm)
        await door.send_last(world.take_outgoing())
    finally:
        isolate.close()


def _report(error: Thrown, *, full: bool) -> bytes:
    """Return the end of an execution whose SDK could not tell of it any more."""
    kind = "MemoryError" if full or OUT_OF_MEMORY in error.text else "InternalError"
    report = {"type": kind, "message": error.text[:8000] or OUT_OF_MEMORY}
    return json.dumps(["raise", report]).encode() + b"\n"


