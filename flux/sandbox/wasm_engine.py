"""The one door to wasmtime: compiling modules, and running guests as fibers on trio's thread.

An `Isolate` is one guest: a store with its memory, its fuel and at most one call in
progress. A call runs on a *fiber*, a stack of its own: when a host function has to
wait, the fiber is put aside and the thread goes on with something else. So five
hundred guests that wait for a database cost five hundred stacks and no thread.

The conversation, always in this order::

    isolate = Isolate(engine, world, memory_bytes_max=...)
    instance = isolate.instantiate(template)       # or link(linker, module)
    isolate.begin_metering()                       # fuel counts from here
    await isolate.call(instance.function("run"), "i:i", 7)
    isolate.close()

Host functions are plain Python: ``function(isolate, *integers)`` returns an integer,
or (only when it was defined as one that may wait) a coroutine function, which is then
awaited with no guest code on the thread. After one that may wait the guest may be put aside
for a *breath*, so that others get the thread: it notices nothing.

*Fuel* is the position in a guest's execution: the same guest with the same answers
has burnt the same fuel at the same place, on any machine. It also cuts a guest's
time into slices: one that burns a slice without asking for anything goes on in
another thread (Python's lock is free while wasm runs), and trio's thread serves the
others meanwhile.

wasmtime's Python package has no public form of the asynchronous C API, so the names
with an underscore below are private ones, and are looked for when this is imported.
Nothing here may raise through a callback: wasmtime keeps the last exception in one
variable for the whole process, where another guest would find it. A callback returns
a trap and keeps its error with its own isolate.
"""

import ctypes
import hashlib
import importlib.metadata
import itertools
import os
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import trio
import wasmtime
from wasmtime import _bindings as bindings
from wasmtime import _ffi as ffi

from flux.errors import OperatorError

WASMTIME_VERSION = importlib.metadata.version("wasmtime")
SLICE_FUEL = 5_000_000
"""Between two looks at trio's other tasks; about half a millisecond of an interpreter at work."""
HOT_TURN_S = 0.02
"""How long a guest that computes may keep a thread before others get one; also how late it hears of its end."""
BREATH_S = 0.001
"""How long a guest may keep trio's thread by asking for what needs no waiting: that costs it no fuel, and us time."""
HOT_THREADS = len(os.sched_getaffinity(0))
"""For guests that compute: as many as there are processors for us."""
WASM_STACK_BYTES = 8 * 2**20
"""At least sixteen times what an interpreter in the guest allows itself (512 KiB): a recursion without end then
ends by the interpreter's own count, at a depth that repeats, and never by ours, which does not."""
FIBER_STACK_BYTES = WASM_STACK_BYTES + 2 * 2**20
FUEL_MAX = 1 << 62
TABLE_ELEMENTS_MAX = 1 << 18
"""Of one table; each takes 8 bytes. Programs have one entry for each function whose address they take."""
CALL_VALUES_MAX = 12
OUT_OF_FUEL = "OUT_OF_FUEL"
"""`Trapped.kind` of a guest that was stopped where `Isolate.begin_metering` had said."""

_PRIVATE = (
    "_wasmtime_call_future_delete", "_wasmtime_call_future_poll", "_wasmtime_config_async_stack_size_set",
    "_wasmtime_context_fuel_async_yield_interval", "_wasmtime_context_get_fuel", "_wasmtime_context_set_fuel",
    "_wasmtime_func_call_async", "_wasmtime_global_get", "_wasmtime_instance_export_get",
    "_wasmtime_instance_pre_instantiate_async", "_wasmtime_linker_define",
    "_wasmtime_linker_define_async_func", "_wasmtime_linker_define_func", "_wasmtime_linker_define_instance",
    "_wasmtime_linker_instantiate_async", "_wasmtime_memory_data",
    "_wasmtime_memory_data_size", "_wasm_trap_delete", "_wasmtime_error_delete",
)  # fmt: skip

Wait = Callable[["Isolate"], Awaitable[int]]
"""What a host function returns that has to wait: awaited with the guest put aside; returns its answer."""
HostFunction = Callable[..., "int | Wait | None"]
"""``(isolate, *integers)``."""
Module = wasmtime.Module
Template = wasmtime.InstancePre
"""A module whose imports are settled: instantiated in microseconds."""


class WasmtimeMismatchError(OperatorError):
    """The installed wasmtime is none that this code was written for."""

    code = "FLX430"


class BadModuleError(ValueError):
    """Bytes that are no WebAssembly module which can run here; the message says why."""


class PointerError(Exception):
    """A guest gave an address outside of its memory."""


class Trapped(Exception):
    """A guest was ended by a trap."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        """wasmtime's name of it, such as ``MEMORY_OUT_OF_BOUNDS``; empty for one that has none."""


def _check_wasmtime() -> None:
    missing = [name for name in _PRIVATE if not hasattr(bindings, name)]
    if not WASMTIME_VERSION.startswith("50.") or missing:
        what = f"lacks {missing[0].strip('_')}" if missing else "is another major version"
        raise WasmtimeMismatchError(
            f"wasmtime {WASMTIME_VERSION} {what}; JavaScript, TypeScript and wasm functions run on wasmtime 50",
            remedy='install it: pip install "wasmtime>=50,<51"',
        )


_check_wasmtime()


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
            # A memory never moves while it grows: `Isolate` may keep its address.
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
            callback = _make_waiting_callback(function, long)
            make = bindings._wasmtime_linker_define_async_func
        else:
            callback = _make_callback(function, long, bool(results))
            make = bindings._wasmtime_linker_define_func
        self._kept += [callback, kind]
        encoded, encoded_name = module.encode(), name.encode()
        problem = make(
            self.raw.ptr(), encoded, len(encoded), encoded_name, len(encoded_name), kind.ptr(), callback, None, _nothing
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


# Callbacks

_here = threading.local()
"""``isolate``: whose fiber this thread is running."""
_isolates: dict[int, "Isolate"] = {}
_numbers = itertools.count(1)


def _do_nothing(_data: int) -> None:
    """A finalizer of what needs none."""


_nothing = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(_do_nothing)


def _read_arguments(values: Any, long: tuple[bool, ...]) -> list[int]:
    return [values[n].of.i64 if is_long else values[n].of.i32 for n, is_long in enumerate(long)]


def _make_callback(function: HostFunction, long: tuple[bool, ...], has_result: bool) -> Any:
    def callback(_data: Any, _caller: Any, arguments: Any, _n: int, results: Any, _m: int) -> int:
        isolate: Isolate = _here.isolate
        try:
            value = function(isolate, *_read_arguments(arguments, long))
        except BaseException as error:
            isolate.raised = error
            return ctypes.cast(ffi.wasmtime_trap_new(b"host", 4), ctypes.c_void_p).value or 0
        if has_result:
            results[0].kind, results[0].of.i32 = 0, value
        return 0

    return ffi.wasmtime_func_callback_t(callback)


def _make_waiting_callback(function: HostFunction, long: tuple[bool, ...]) -> Any:
    def callback(
        _data: Any, _caller: Any, arguments: Any, _n: int, results: Any, _m: int, trap: Any, then: Any
    ) -> None:
        isolate: Isolate = _here.isolate
        try:
            value = function(isolate, *_read_arguments(arguments, long))
            if value.__class__ is int:
                isolate.answer, isolate.parked = value, None
                # At its stop it is to stand where it stood when it was ended in a breath: behind this call.
                is_held, isolate.holds_breath = isolate.holds_breath, False
                if (not is_held and time.monotonic() > isolate.breath_at) or isolate.is_at_stop:
                    isolate.kept, isolate.answer, isolate.parked = value, None, _breathe
            else:
                isolate.answer, isolate.parked = None, value
        except BaseException as error:
            isolate.raised, isolate.answer = error, 0
            trap[0] = ffi.wasmtime_trap_new(b"host", 4)
        isolate.results = results
        then[0].callback, then[0].env, then[0].finalizer = _resume, isolate.number, _nothing

    return ffi.wasmtime_func_async_callback_t(callback)


async def _breathe(isolate: "Isolate") -> int:
    """Let others have the thread; then answer what was asked, if anybody still wants to know."""
    await trio.lowlevel.checkpoint()
    isolate.on_turn()
    return isolate.kept


def _take_answer(number: int) -> bool:
    """Whether the answer of the host function that a guest waits in is there."""
    isolate = _isolates[number]
    if isolate.answer is None:
        return False
    isolate.results[0].kind, isolate.results[0].of.i32 = 0, isolate.answer
    return True


_resume = ffi.wasmtime_func_async_continuation_callback_t(_take_answer)


class Instance:
    """A module inside an isolate."""

    def __init__(self, isolate: "Isolate", raw: Any) -> None:
        self._isolate = isolate
        self.raw = raw

    def export(self, name: str) -> Any:
        """Return an export; raise KeyError."""
        found, encoded = ffi.wasmtime_extern_t(), name.encode()
        if not bindings._wasmtime_instance_export_get(
            self._isolate.context, ctypes.byref(self.raw), encoded, len(encoded), ctypes.byref(found)
        ):
            raise KeyError(name)
        return found

    def function(self, name: str) -> Any:
        """Return an exported function, to be called by `Isolate.call`."""
        return self.export(name).of.func

    def get_global(self, name: str) -> int:
        """Return the value of an exported 32 bit global."""
        value, found = ffi.wasmtime_val_t(), self.export(name).of.global_
        bindings._wasmtime_global_get(self._isolate.context, ctypes.byref(found), ctypes.byref(value))
        return int(value.of.i32)


class Isolate:
    """One guest. See the module."""

    def __init__(self, engine: Engine, world: Any, *, memory_bytes_max: int) -> None:
        self.world = world
        """What the host functions know of this guest."""
        self.on_turn: Callable[[], None] = lambda: None
        """Called before each turn of a guest that computes, and after each breath; what it raises ends the call."""
        self.on_pause: Callable[[int], None] = lambda _memory_bytes: None
        """Told how large the memory is, whenever the guest waits or its turn is over."""
        self.number = next(_numbers)
        _isolates[self.number] = self
        self._engine = engine
        self._store = wasmtime.Store(engine.raw)
        # Tables hold pointers outside of the memory: without a limit, a guest's way around the memory's.
        self._store.set_limits(
            memory_size=memory_bytes_max, table_elements=TABLE_ELEMENTS_MAX, instances=8, tables=4, memories=1
        )
        self.context = self._store._context()
        self._stop_fuel: int | None = None
        self.begin_metering()
        self._trap = ctypes.POINTER(ffi.wasm_trap_t)()
        self._error = ctypes.POINTER(ffi.wasmtime_error_t)()
        self._arguments = (ffi.wasmtime_val_t * CALL_VALUES_MAX)()
        self._result = (ffi.wasmtime_val_t * 1)()
        self._memory: Any = None
        self._view = memoryview(b"")
        self.answer: int | None = None
        self.parked: Any = None
        self.kept = 0
        """The answer to what it asked when it was time for a breath."""
        self.breath_at = 0.0
        self.holds_breath = False
        """It takes none after the host call that is being answered. A guest may be ended in a breath, and must not be
        where an answer was there by chance, for which its replay may have to wait: both would stand at the same
        call, one behind it and one in it."""
        self.results: Any = None
        self.raised: BaseException | None = None

    # Instances

    def instantiate(self, template: Template) -> Instance:
        """Make an instance of a module whose imports are settled."""
        raw = ffi.wasmtime_instance_t()
        self._finish(
            bindings._wasmtime_instance_pre_instantiate_async(
                template.ptr(), self.context, ctypes.byref(raw), ctypes.byref(self._trap), ctypes.byref(self._error)
            )
        )
        return Instance(self, raw)

    def link(self, linker: Linker, module: Module, **more: "Any | Instance") -> Instance:
        """Make an instance of ``module`` with ``linker``'s imports and ``more``.

        ``more`` are instances, by the name that they are imported from, and memories, by ``env``.
        """
        raw, shared = ffi.wasmtime_instance_t(), linker.raw.ptr()
        # Into the linker that all share, over those of the isolate before: a copy of it would take as long as
        # everything else here. Nothing comes between this and the instantiation.
        for name, item in more.items():
            encoded = name.encode()
            if isinstance(item, Instance):
                problem = bindings._wasmtime_linker_define_instance(
                    shared, self.context, encoded, len(encoded), ctypes.byref(item.raw)
                )
            else:
                problem = bindings._wasmtime_linker_define(
                    shared, self.context, encoded, len(encoded), b"memory", 6, ctypes.byref(item)
                )
            if problem:
                raise wasmtime.WasmtimeError._from_ptr(problem)
        self._finish(
            bindings._wasmtime_linker_instantiate_async(
                shared, self.context, module.ptr(), ctypes.byref(raw),
                ctypes.byref(self._trap), ctypes.byref(self._error),
            )
        )  # fmt: skip
        return Instance(self, raw)

    def _finish(self, future: Any) -> None:
        """Run a future that never waits to its end."""
        try:
            done = self._poll(future)
            while not done and self.parked in (None, _breathe):
                if self.parked is not None:
                    self.answer, self.parked = self.kept, None
                done = self._poll(future)
        finally:
            bindings._wasmtime_call_future_delete(future)
        self._raise_failure()
        assert done, "an instance's start function asked for something that waits"

    def begin_metering(self, stop_fuel: int | None = None, slice_fuel: int | None = None) -> None:
        """Count fuel from here. (What an instantiation burns is wasmtime's own affair and changes with it.)

        A guest that has come to ``stop_fuel`` is ended by `Trapped` at its next step: when it wants to wait, or to
        say something, or to go on computing. ``slice_fuel`` is the length of its slices, if not the engine's.
        """
        self._stop_fuel = stop_fuel
        self._slice_fuel = slice_fuel or self._engine.slice_fuel
        bindings._wasmtime_context_set_fuel(self.context, FUEL_MAX)
        bindings._wasmtime_context_fuel_async_yield_interval(self.context, self._slice_fuel)

    @property
    def fuel(self) -> int:
        """Fuel burnt since `begin_metering`."""
        burnt = self._read_fuel()
        return burnt if self._stop_fuel is None else min(burnt, self._stop_fuel)

    def _read_fuel(self) -> int:
        left = ctypes.c_uint64()
        bindings._wasmtime_context_get_fuel(self.context, ctypes.byref(left))
        return FUEL_MAX - left.value

    @property
    def is_at_stop(self) -> bool:
        """It has come to where it is to be stopped."""
        return self._stop_fuel is not None and self._read_fuel() >= self._stop_fuel

    def spend_fuel(self) -> int:
        """Return the same for a guest that is about to be heard; raise `Trapped` for one that was to stop before."""
        # wasmtime looks at loops and calls. Between two looks a guest may come to ask something more.
        burnt = self._read_fuel()
        if self._stop_fuel is not None and burnt > self._stop_fuel:
            raise Trapped(OUT_OF_FUEL, f"stopped at {self._stop_fuel} units of fuel")
        return burnt

    def _approach(self, stop_fuel: int) -> None:
        """Let the next slice end where the guest is to stop, if its usual end is farther; raise `Trapped` there.

        By a slice and not by an end to all fuel: a guest that was ended between two slices then stands at the very
        instruction where it stood, and what it burns beyond that is still counted.
        """
        ahead = stop_fuel - self._read_fuel()
        if ahead <= 0:
            raise Trapped(OUT_OF_FUEL, f"stopped at {stop_fuel} units of fuel")
        bindings._wasmtime_context_fuel_async_yield_interval(self.context, min(ahead, self._slice_fuel))

    # Calling

    async def call(self, function: Any, signature: str, *arguments: int) -> int:
        """Run an export to its end and return its result, or 0 when it has none.

        Raises `Trapped`, or whatever a host function or `on_turn` has raised. A call that is cancelled is unwound.
        """
        future, results = self._start(function, signature, arguments)
        hot = False
        try:
            while True:
                if hot:
                    self.on_turn()
                    done = await trio.to_thread.run_sync(self._poll_hot, future, limiter=self._engine.hot)
                else:
                    done = self._step(future)
                if done:
                    break
                self.on_pause(self.memory_bytes)
                if self.parked is not None:
                    if self._stop_fuel is not None:
                        self._approach(self._stop_fuel)
                    wait, self.parked, hot = self.parked, None, False
                    self.answer = await wait(self)
                else:
                    hot = True
        finally:
            # Also ends a fiber that waits, when trio cancels us.
            bindings._wasmtime_call_future_delete(future)
        self.spend_fuel()
        self._raise_failure()
        return self._read_result(results)

    def call_nowait(self, function: Any, signature: str, *arguments: int) -> int:
        """The same for an export that asks for nothing that waits."""
        future, results = self._start(function, signature, arguments)
        self._finish(future)
        return self._read_result(results)

    def _start(self, function: Any, signature: str, arguments: tuple[int, ...]) -> tuple[Any, str]:
        parameters, _, results = signature.partition(":")
        for slot, kind, value in zip(self._arguments, parameters, arguments, strict=False):
            if kind == "l":
                slot.kind, slot.of.i64 = 1, value
            else:
                slot.kind, slot.of.i32 = 0, value
        future = bindings._wasmtime_func_call_async(
            self.context, ctypes.byref(function), self._arguments, len(arguments), self._result, len(results),
            ctypes.byref(self._trap), ctypes.byref(self._error),
        )  # fmt: skip
        return future, results

    def _read_result(self, results: str) -> int:
        if not results:
            return 0
        return int(self._result[0].of.i64 if results == "l" else self._result[0].of.i32)

    def _poll(self, future: Any) -> bool:
        _here.isolate = self
        self.breath_at = time.monotonic() + BREATH_S
        return bool(bindings._wasmtime_call_future_poll(future))

    def _step(self, future: Any) -> bool:
        """Poll once, to the end of a slice at most."""
        if self._stop_fuel is not None:
            self._approach(self._stop_fuel)
        return self._poll(future)

    def _poll_hot(self, future: Any) -> bool:
        """Poll from another thread until it is done, waits or has had its turn."""
        until = time.monotonic() + HOT_TURN_S
        while not self._step(future):
            if self.parked is not None or time.monotonic() > until:
                return False
        return True

    def _raise_failure(self) -> None:
        raised, self.raised = self.raised, None
        trap, self._trap = self._trap, type(self._trap)()
        error, self._error = self._error, type(self._error)()
        if raised is not None:
            if trap:
                bindings._wasm_trap_delete(trap)
            if error:
                bindings._wasmtime_error_delete(error)
            raise raised
        if error:
            raise Trapped("", str(wasmtime.WasmtimeError._from_ptr(error)).strip())
        if trap:
            described = wasmtime.Trap._from_ptr(trap)
            code = described.trap_code
            raise Trapped("" if code is None else code.name, str(described).strip())

    # Memory. Slices of a memoryview, so that a wrong address can't reach ours.

    def use_memory(self, export: Any) -> None:
        """Say which memory the guest's addresses are of."""
        self._memory = export.of.memory
        self._look(0)

    def _look(self, end: int) -> None:
        """Take in that the memory may have grown; raise `PointerError` if ``end`` is outside of it all the same."""
        size = bindings._wasmtime_memory_data_size(self.context, ctypes.byref(self._memory))
        base = ctypes.addressof(bindings._wasmtime_memory_data(self.context, ctypes.byref(self._memory)).contents)
        self._view = memoryview((ctypes.c_ubyte * size).from_address(base)).cast("B")
        if end > size:
            raise PointerError(f"address {end} is outside of the memory's {size} bytes")

    def read(self, address: int, count: int) -> bytes:
        """Return bytes of the guest's memory; raise `PointerError`."""
        address, count = address & 0xFFFFFFFF, count & 0xFFFFFFFF
        if address + count > len(self._view):
            self._look(address + count)
        return self._view[address : address + count].tobytes()

    def write(self, address: int, data: bytes | memoryview) -> None:
        """Put bytes into the guest's memory; raise `PointerError`."""
        address &= 0xFFFFFFFF
        end = address + len(data)
        if end > len(self._view):
            self._look(end)
        self._view[address:end] = data

    def snapshot(self) -> bytes:
        """Return all of the memory."""
        self._look(0)
        return self._view.tobytes()

    def hash_memory(self) -> str:
        """Return the SHA-256 of all of the memory."""
        self._look(0)
        return hashlib.sha256(self._view).hexdigest()

    @property
    def memory_bytes(self) -> int:
        """How large the memory is now."""
        self._look(0)
        return len(self._view)

    def close(self) -> None:
        """Let go of everything. No call may be in progress."""
        _isolates.pop(self.number, None)
        self._view = memoryview(b"")
        self.parked = self.raised = self.results = None
        self._store.close()


def rehearse(engine: Engine, template: Template, memory_bytes_max: int) -> int:
    """Make an instance and drop it; return how large its memory is. Raise `BadModuleError` when it can't be made.

    The engine puts an image of a memory into a file without a name when it is first used. A process that is to
    have no right to make one has its templates rehearsed before.
    """
    isolate = Isolate(engine, None, memory_bytes_max=memory_bytes_max)
    try:
        isolate.use_memory(isolate.instantiate(template).export("memory"))
        return isolate.memory_bytes
    except Trapped as error:
        raise BadModuleError(str(error)) from error
    finally:
        isolate.close()
