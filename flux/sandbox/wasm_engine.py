"""Compiling modules, and what they may import.

One `Engine` a process says how modules are compiled: so that what a guest computes is the
same everywhere, and that its fuel is counted. A `Linker` holds the host functions; what is
linked there runs in isolates (`flux.sandbox.wasm_isolate`).
"""

import hashlib
import os
from typing import Any

import attrs
import trio

from flux.sandbox.wasm_calls import NOTHING, HostFunction, make_callback, make_waiting_callback
from flux.sandbox.wasmtime_seam import WASMTIME_VERSION, Module, Template, bindings, wasmtime

SLICE_FUEL = 5_000_000
"""Between two looks at trio's other tasks; about half a millisecond of an interpreter at work."""
HOT_THREADS = len(os.sched_getaffinity(0))
"""For guests that compute: as many as there are processors for us."""
WASM_STACK_BYTES = 8 * 2**20
"""At least sixteen times what an interpreter in the guest allows itself (512 KiB): a recursion without end then
ends by the interpreter's own count, at a depth that repeats, and never by ours, which does not."""
FIBER_STACK_BYTES = WASM_STACK_BYTES + 2 * 2**20


class BadModuleError(ValueError):
    """Bytes that are no WebAssembly module which can run here; the message says why."""


class Engine:
    """How modules are compiled. One a process."""

    def __init__(self, slice_fuel: int = SLICE_FUEL, *, parallel: bool = True) -> None:
        """``slice_fuel`` is how long a guest may keep the thread, in fuel. It changes nothing that a guest sees.

        Without ``parallel`` it compiles in this thread and starts no other.
        """
        self.slice_fuel = slice_fuel
        config = wasmtime.Config()
        settings: dict[str, Any] = {
            "consume_fuel": True,
            # Two machines may give other bits to a NaN, and a relaxed instruction another result.
            "cranelift_nan_canonicalization": True,
            "wasm_relaxed_simd_deterministic": True,
            "wasm_threads": False,
            # What a limit on one memory does not bound: several of them, and a heap beside them.
            "wasm_multi_memory": False,
            "wasm_memory64": False,
            "wasm_gc": False,
            "max_wasm_stack": WASM_STACK_BYTES,
            # A memory never moves while it grows: an isolate may keep its address.
            "memory_reservation": 1 << 32,
            "memory_may_move": False,
        }
        for name, value in settings.items():
            setattr(config, name, value)
        config.parallel_compilation = parallel
        bindings._wasmtime_config_async_stack_size_set(config.ptr(), FIBER_STACK_BYTES)
        described = repr((WASMTIME_VERSION, sorted(settings.items()), FIBER_STACK_BYTES))
        self.fingerprint = hashlib.sha256(described.encode()).hexdigest()
        """Of all that decides what a module is compiled to; the processor is wasmtime's own check."""
        self.raw = wasmtime.Engine(config)
        self.kept: list[object] = []
        """wasmtime holds bare pointers to callbacks and their types, in what was linked even when the linker is
        gone: they stay as long as the process."""
        self.hot = trio.CapacityLimiter(HOT_THREADS)
        """Threads for guests that compute."""

    def compile(self, binary: bytes) -> Module:
        """Return the module in ``binary``; raise `BadModuleError`."""
        try:
            return wasmtime.Module(self.raw, binary)
        except wasmtime.WasmtimeError as error:
            raise BadModuleError(str(error).strip()) from error

    def compile_to_bytes(self, binary: bytes) -> bytes:
        """Return the compiled code of the module in ``binary``, for `load`; raise `BadModuleError`."""
        return bytes(self.compile(binary).serialize())

    def assemble(self, text: str) -> bytes:
        """Return the binary form of a module in text form, which is ours and so has no mistakes."""
        return bytes(wasmtime.wat2wasm(text))

    def load(self, compiled: bytes) -> Module | None:
        """Return a module from what `compile_to_bytes` gave, or None when it is of another wasmtime or processor.

        It is machine code that will be run: it must come from a place where only we write.
        """
        try:
            return wasmtime.Module.deserialize(self.raw, compiled)
        except wasmtime.WasmtimeError:
            return None


class Linker:
    """What modules may import."""

    def __init__(self, engine: Engine) -> None:
        self.raw = wasmtime.Linker(engine.raw)
        self.raw.allow_shadowing = True
        self._kept = engine.kept

    def define(self, module: str, name: str, signature: str, function: HostFunction, *, waits: bool = False) -> None:
        """Define a host function.

        ``signature`` is parameters and results, ``i`` for 32 and ``l`` for 64 bits: ``"iil:i"``. Only with
        ``waits`` may it return a `Wait`.
        """
        parameters, _, results = signature.partition(":")
        kinds = {"i": wasmtime.ValType.i32(), "l": wasmtime.ValType.i64()}
        # In a variable: the pointer of a temporary one would point to nothing.
        kind = wasmtime.FuncType([kinds[k] for k in parameters], [kinds[k] for k in results])
        long = tuple(letter == "l" for letter in parameters)
        callback: Any
        if waits:
            callback = make_waiting_callback(function, long)
            make = bindings._wasmtime_linker_define_async_func
        else:
            callback = make_callback(function, long, bool(results))
            make = bindings._wasmtime_linker_define_func
        self._kept += [callback, kind]
        encoded, encoded_name = module.encode(), name.encode()
        problem = make(
            self.raw.ptr(), encoded, len(encoded), encoded_name, len(encoded_name), kind.ptr(), callback, None, NOTHING
        )
        if problem:
            raise wasmtime.WasmtimeError._from_ptr(problem)

    def prepare(self, module: Module) -> Template:
        """Settle the imports of ``module``; raise `BadModuleError` when one is not defined."""
        try:
            return self.raw.instantiate_pre(module)
        except wasmtime.WasmtimeError as error:
            raise BadModuleError(str(error).strip()) from error


@attrs.frozen
class Import:
    """What a module wants from outside."""

    module: str
    name: str
    signature: str | None
    """As `Linker.define` takes it; None for what is no function of integers."""


def list_imports(module: Module) -> list[Import]:
    """Return what ``module`` imports."""
    found = []
    for item in module.imports:
        signature = _signature(item.type) if isinstance(item.type, wasmtime.FuncType) else None
        found.append(Import(item.module, item.name or "", signature))
    return found


def list_exports(module: Module) -> dict[str, str | None]:
    """Return what ``module`` exports: signatures of functions, ``memory`` for memories, None for the rest."""
    found: dict[str, str | None] = {}
    for item in module.exports:
        if isinstance(item.type, wasmtime.FuncType):
            found[item.name] = _signature(item.type)
        else:
            found[item.name] = "memory" if isinstance(item.type, wasmtime.MemoryType) else None
    return found


def _signature(kind: wasmtime.FuncType) -> str | None:
    letters = {"i32": "i", "i64": "l"}
    try:
        parameters = "".join(letters[str(one)] for one in kind.params)
        return f"{parameters}:{''.join(letters[str(one)] for one in kind.results)}"
    except KeyError:
        return None
