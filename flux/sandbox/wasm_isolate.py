"""Running guests as fibers on trio's thread.

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

*Fuel* is the position in a guest's execution: the same guest with the same answers
has burnt the same fuel at the same place, on any machine. It also cuts a guest's
time into slices: one that burns a slice without asking for anything goes on in
another thread (Python's lock is free while wasm runs), and trio's thread serves the
others meanwhile.
"""

import ctypes
import hashlib
import time
from collections.abc import Callable
from typing import Any

import trio

from flux.sandbox.wasm_calls import Caller, breathe
from flux.sandbox.wasm_engine import BadModuleError, Engine, Linker
from flux.sandbox.wasmtime_seam import Module, Template, bindings, ffi, wasmtime

HOT_TURN_S = 0.02
"""How long a guest that computes may keep a thread before others get one; also how late it hears of its end."""
BREATH_S = 0.001
"""How long a guest may keep trio's thread by asking for what needs no waiting: that costs it no fuel, and us time."""
FUEL_MAX = 1 << 62
TABLE_ELEMENTS_MAX = 1 << 18
"""Of one table; each takes 8 bytes. Programs have one entry for each function whose address they take."""
CALL_VALUES_MAX = 12
OUT_OF_FUEL = "OUT_OF_FUEL"
"""`Trapped.kind` of a guest that was stopped where `Isolate.begin_metering` had said."""


class PointerError(Exception):
    """A guest gave an address outside of its memory."""


class Trapped(Exception):
    """A guest was ended by a trap."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        """wasmtime's name of it, such as ``MEMORY_OUT_OF_BOUNDS``; empty for one that has none."""


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


class Isolate(Caller):
    """One guest. See the module."""

    def __init__(self, engine: Engine, world: Any, *, memory_bytes_max: int) -> None:
        super().__init__()
        self.world = world
        """What the host functions know of this guest."""
        self.on_pause: Callable[[int], None] = lambda _memory_bytes: None
        """Told how large the memory is, whenever the guest waits or its turn is over."""
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
            while not done and self.parked in (None, breathe):
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
        """See `Caller.is_at_stop`."""
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
        self.enter()
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
        self.forget()
        self._view = memoryview(b"")
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
