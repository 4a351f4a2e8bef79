"""A WebAssembly file as a function: any ``wasm32-wasip1`` module, of any language.

Two kinds are known. A *command* has ``_start``: it reads what to run from descriptor 0,
asks on 3, and answers there with ``["return", ...]`` or simply on its standard output.
A *reactor* has ``flux_run``, which is called after ``_initialize`` (if there is one) and
does the same. Every execution has an instance of its own.

How it wants to be served stands in a custom section ``flux``, one JSON object with the
keys of a decorator: ``{"route": "POST /thumbnail", "timeout": "10s"}``. Nothing of the
module is run to read it.
"""

import base64
import json
import signal
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

import attrs

from flux.sandbox.wasm_binary import START, FormatError, read_custom, split
from flux.sandbox.wasm_engine import BadModuleError, Engine, Linker, list_exports
from flux.sandbox.wasm_isolate import OUT_OF_FUEL, Isolate, PointerError, Trapped, rehearse
from flux.sandbox.wasm_wasi import GuestExit, define_all
from flux.sandbox.wasm_world import Door, DoorClosedError, FileTree, Start, World
from flux.sandbox.wasmtime_seam import Module, Template

SECTION = "flux"
COMMAND, REACTOR, INITIALIZE = "_start", "flux_run", "_initialize"
_DECLARED: dict[str, type | tuple[type, ...]] = {
    "name": str, "route": str, "atomic": bool, "isolation": str, "timeout": (str, int, float), "retries": int,
    "cron": str, "middleware": list,
}  # fmt: skip
MEMORY_BYTES_MAX = 2**32
"""What any module may begin with, as far as we know before there is a function's limit."""
NEARLY_FULL = 0.9
"""Of the memory allowed, from where on a guest that has trapped had none left."""

SIGNALS = {
    "UNREACHABLE": signal.SIGABRT,  # What abort() is compiled to.
    "MEMORY_OUT_OF_BOUNDS": signal.SIGSEGV,
    "STACK_OVERFLOW": signal.SIGSEGV,
    "INTEGER_DIVISION_BY_ZERO": signal.SIGFPE,
    "INTEGER_OVERFLOW": signal.SIGFPE,
}
"""What the operating system would have sent a native program that did the same; `SIGILL` for the rest."""


@attrs.frozen
class LoadedModule:
    """A module that can be run."""

    declared: dict[str, Any]
    """As the registry of the JavaScript SDK tells it."""
    template: Template
    entry: str
    """The export that is called."""
    initialize: bool
    """`INITIALIZE` is called before it."""
    memory_bytes: int
    """What every execution begins with."""


class BadFunctionFileError(ValueError):
    """A file that can't be a function; the message says why."""


def load_module(
    engine: Engine,
    path: str,
    binary: bytes,
    *,
    linker: Linker | None = None,
    compile_module: Callable[[bytes], Module] | None = None,
) -> LoadedModule:
    """Compile ``binary``, the content of ``path``; raise `BadFunctionFileError`.

    ``linker`` has all of WASI (`flux.sandbox.wasm_wasi.define_all`); ``compile_module`` compiles, or knows the
    module from another time.
    """
    try:
        section = read_custom(binary, SECTION)
        if any(kind == START for kind, _ in split(binary)):
            # It would run before anybody hears what it asks, or can end it.
            raise BadFunctionFileError(
                f"it has a start function, which runs before {COMMAND}; let the compiler export it: in AssemblyScript, "
                f"--exportStart {COMMAND}"
            )
        module = (compile_module or engine.compile)(binary)
        exports = list_exports(module)
        entry = next((name for name in (COMMAND, REACTOR) if exports.get(name) == ":"), None)
        if entry is None:
            raise BadFunctionFileError(
                f"it exports neither {COMMAND} (a command) nor {REACTOR} (a reactor), as functions without parameters"
            )
        if exports.get("memory") != "memory":
            raise BadFunctionFileError("it exports no memory")
        if linker is None:
            linker = Linker(engine)
            define_all(linker)
        template = linker.prepare(module)
        memory_bytes = rehearse(engine, template, MEMORY_BYTES_MAX)
    except (BadModuleError, FormatError) as error:
        raise BadFunctionFileError(str(error)) from error
    initialize = entry == REACTOR and exports.get(INITIALIZE) == ":"
    return LoadedModule(_declare(path, section), template, entry, initialize, memory_bytes)


def _declare(path: str, section: bytes | None) -> dict[str, Any]:
    declared: dict[str, Any] = {
        "name": PurePosixPath(path).stem, "route": None, "atomic": True, "isolation": None, "timeout": None,
        "retries": 0, "cron": None, "middleware": None, "file": path, "line": 1,
    }  # fmt: skip
    if section is None:
        return declared
    try:
        said = json.loads(section.rstrip(b"\0"))
    except ValueError as error:
        raise BadFunctionFileError(f'its custom section "{SECTION}" is not JSON: {error}') from error
    if not isinstance(said, dict):
        raise BadFunctionFileError(f'its custom section "{SECTION}" is not a JSON object')
    for key, value in said.items():
        if key not in _DECLARED:
            raise BadFunctionFileError(
                f"its custom section has a key {key!r}: known are {', '.join(_DECLARED)}"
            )
        if not isinstance(value, _DECLARED[key]) or (isinstance(value, bool) and key != "atomic"):
            raise BadFunctionFileError(f"its custom section has {key} = {json.dumps(value)}, which can't be")
    return {**declared, **said}


async def run_module(
    engine: Engine,
    module: LoadedModule,
    tree: FileTree,
    door: Door,
    start: Start,
    *,
    on_pause: Callable[[int], None] = lambda _memory_bytes: None,
    on_end: Callable[[Isolate], None] = lambda _isolate: None,
) -> None:
    """Run one execution to its end, which its door then has heard. One whose door is closed is ended."""
    world = World(door, start, tree)
    world.arguments = (str(module.declared["name"]),)
    isolate = Isolate(engine, world, memory_bytes_max=start.memory_bytes_max)
    isolate.on_turn = world.push
    # What it has answered with so far is kept by us, and as much its own.
    isolate.on_pause = lambda memory_bytes: on_pause(memory_bytes + len(world.stdout))
    try:
        try:
            instance = isolate.instantiate(module.template)
            isolate.use_memory(instance.export("memory"))
            isolate.begin_metering(start.stop_fuel, start.slice_fuel)
            if module.initialize:
                await isolate.call(instance.function(INITIALIZE), ":")
            await isolate.call(instance.function(module.entry), ":")
            say_end(world, isolate.fuel)
            say_over(world, isolate)
        except (Trapped, PointerError, GuestExit) as error:
            say_failure(
                world, isolate, error, full=isolate.memory_bytes > NEARLY_FULL * start.memory_bytes_max
            )
        except DoorClosedError:
            say_over(world, isolate)
        on_end(isolate)
        await door.send_last(world.take_outgoing())
    finally:
        isolate.close()


def say_over(world: World, isolate: Isolate) -> None:
    """Put on the wire how far a guest has come that is over."""
    world.say_over(isolate.fuel, isolate.hash_memory if world.wants_memory else None)


def say_failure(
    world: World, isolate: Isolate, error: Trapped | PointerError | GuestExit, *, full: bool
) -> None:
    """Put on the wire how a guest ended that has not come to its end, and how far it came."""
    how: dict[str, Any] | None = None
    if world.ended:
        pass  # It has answered, and then failed. Nobody is to know.
    elif isinstance(error, GuestExit):
        if error.code == 0 and world.stdout:
            say_end(world, isolate.fuel)
        else:
            how = {"exit_code": error.code}
    elif isinstance(error, Trapped) and error.kind == OUT_OF_FUEL:
        how = {"stopped": True}
    else:
        world.print(f"{error}\n".encode())
        if full:
            world.print(b"MemoryError\n")
        kind = error.kind if isinstance(error, Trapped) else "MEMORY_OUT_OF_BOUNDS"
        how = {"signal": SIGNALS.get(kind, signal.SIGILL).value}
    say_over(world, isolate)
    if how is not None:
        world.say_exit(**how)


def say_end(world: World, fuel: int) -> None:
    """Answer with what the guest has written on its standard output, unless it has answered on the wire."""
    if world.ended:
        return
    content = bytes(world.stdout)
    headers, body = [], ""
    if content:
        kind, described = _describe_body(content)
        headers, body = [["content-type", kind]], described
    answer = {"status": 200 if content else 204, "headers": headers, "body": body}
    world.submit(json.dumps(["return", answer]).encode() + b"\n", fuel)


def _describe_body(content: bytes) -> tuple[str, Any]:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return "application/octet-stream", {"$bytes": base64.b64encode(content).decode()}
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return "text/plain; charset=utf-8", text
    return "application/json", text
