"""Host functions as wasmtime calls them: whose guest asks, and where the answer goes.

A `Caller` is a guest as far as its host calls matter; `flux.sandbox.wasm_isolate` has the
rest of it. Host functions are plain Python: ``function(isolate, *integers)`` returns an
integer, or (only when it was defined as one that may wait) a coroutine function, which is
then awaited with no guest code on the thread. After one that may wait the guest may be put
aside for a *breath*, so that others get the thread: it notices nothing.

Nothing here may raise through a callback: wasmtime keeps the last exception in one variable
for the whole process, where another guest would find it. A callback returns a trap and keeps
its error with its own isolate.
"""

import ctypes
import itertools
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from flux.sandbox.wasmtime_seam import ffi

Wait = Callable[[Any], Awaitable[int]]
"""What a host function returns that has to wait: takes its isolate, awaited with the guest put aside for the answer."""
HostFunction = Callable[..., "int | Wait | None"]
"""``(isolate, *integers)``."""

_here = threading.local()
"""``isolate``: whose fiber this thread is running."""
_callers: dict[int, "Caller"] = {}
_numbers = itertools.count(1)


class Caller:
    """A guest that asks."""

    def __init__(self) -> None:
        self.number = next(_numbers)
        _callers[self.number] = self
        self.on_turn: Callable[[], None] = lambda: None
        """Called before each turn of a guest that computes, and after each breath; what it raises ends the call."""
        self.answer: int | None = None
        self.parked: Any = None
        """The `Wait` that its fiber is put aside for."""
        self.kept = 0
        """The answer to what it asked when it was time for a breath."""
        self.breath_at = 0.0
        self.holds_breath = False
        """It takes none after the host call that is being answered. A guest may be ended in a breath, and must not be
        where an answer was there by chance, for which its replay may have to wait: both would stand at the same
        call, one behind it and one in it."""
        self.results: Any = None
        self.raised: BaseException | None = None

    @property
    def is_at_stop(self) -> bool:
        """It has come to where it is to be stopped."""
        return False

    def enter(self) -> None:
        """Its fiber is about to run, in this thread."""
        _here.isolate = self

    def forget(self) -> None:
        """It asks for nothing any more."""
        _callers.pop(self.number, None)
        self.parked = self.raised = self.results = None


def _do_nothing(_data: int) -> None:
    """A finalizer of what needs none."""


NOTHING = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(_do_nothing)


def _read_arguments(values: Any, long: tuple[bool, ...]) -> list[int]:
    return [values[n].of.i64 if is_long else values[n].of.i32 for n, is_long in enumerate(long)]


def make_callback(function: HostFunction, long: tuple[bool, ...], has_result: bool) -> Any:
    """Return what wasmtime calls for a function that never waits; ``long`` says which arguments have 64 bits."""

    def callback(_data: Any, _caller: Any, arguments: Any, _n: int, results: Any, _m: int) -> int:
        isolate: Caller = _here.isolate
        try:
            value = function(isolate, *_read_arguments(arguments, long))
        except BaseException as error:
            isolate.raised = error
            return ctypes.cast(ffi.wasmtime_trap_new(b"host", 4), ctypes.c_void_p).value or 0
        if has_result:
            results[0].kind, results[0].of.i32 = 0, value
        return 0

    return ffi.wasmtime_func_callback_t(callback)


def make_waiting_callback(function: HostFunction, long: tuple[bool, ...]) -> Any:
    """The same for one that may return a `Wait`."""

    def callback(
        _data: Any, _caller: Any, arguments: Any, _n: int, results: Any, _m: int, trap: Any, then: Any
    ) -> None:
        isolate: Caller = _here.isolate
        try:
            value = function(isolate, *_read_arguments(arguments, long))
            if value.__class__ is int:
                isolate.answer, isolate.parked = value, None
                # At its stop it is to stand where it stood when it was ended in a breath: behind this call.
                is_held, isolate.holds_breath = isolate.holds_breath, False
                if (not is_held and time.monotonic() > isolate.breath_at) or isolate.is_at_stop:
                    isolate.kept, isolate.answer, isolate.parked = value, None, breathe
            else:
                isolate.answer, isolate.parked = None, value
        except BaseException as error:
            isolate.raised, isolate.answer = error, 0
            trap[0] = ffi.wasmtime_trap_new(b"host", 4)
        isolate.results = results
        then[0].callback, then[0].env, then[0].finalizer = _resume, isolate.number, NOTHING

    return ffi.wasmtime_func_async_callback_t(callback)


async def breathe(isolate: Caller) -> int:
    """Let others have the thread; then answer what was asked, if anybody still wants to know."""
    await trio.lowlevel.checkpoint()
    isolate.on_turn()
    return isolate.kept


def _take_answer(number: int) -> bool:
    """Whether the answer of the host function that a guest waits in is there."""
    isolate = _callers[number]
    if isolate.answer is None:
        return False
    isolate.results[0].kind, isolate.results[0].of.i32 = 0, isolate.answer
    return True


_resume = ffi.wasmtime_func_async_continuation_callback_t(_take_answer)
