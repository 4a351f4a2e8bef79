"""The one door to wasmtime: nobody else imports it.

Its Python package has no public form of the asynchronous C API, so names with an
underscore are used that are private, and are looked for here, when this is imported.
"""

import importlib.metadata

import wasmtime
from wasmtime import _bindings as bindings
from wasmtime import _ffi as ffi

from flux.errors import OperatorError

__all__ = ["WASMTIME_VERSION", "Module", "Template", "WasmtimeMismatchError", "bindings", "ffi", "wasmtime"]

WASMTIME_VERSION = importlib.metadata.version("wasmtime")

_PRIVATE = (
    "_wasmtime_call_future_delete", "_wasmtime_call_future_poll", "_wasmtime_config_async_stack_size_set",
    "_wasmtime_context_fuel_async_yield_interval", "_wasmtime_context_get_fuel", "_wasmtime_context_set_fuel",
    "_wasmtime_func_call_async", "_wasmtime_instance_export_get",
    "_wasmtime_instance_pre_instantiate_async", "_wasmtime_linker_define",
    "_wasmtime_linker_define_async_func", "_wasmtime_linker_define_func", "_wasmtime_linker_define_instance",
    "_wasmtime_linker_instantiate_async", "_wasmtime_memory_data",
    "_wasmtime_memory_data_size", "_wasm_trap_delete", "_wasmtime_error_delete",
)  # fmt: skip

Module = wasmtime.Module
Template = wasmtime.InstancePre
"""A module whose imports are settled: instantiated in microseconds."""


class WasmtimeMismatchError(OperatorError):
    """The installed wasmtime is none that this code was written for."""

    code = "FLX430"


def _check_wasmtime() -> None:
    missing = [name for name in _PRIVATE if not hasattr(bindings, name)]
    if not WASMTIME_VERSION.startswith("50.") or missing:
        what = f"lacks {missing[0].strip('_')}" if missing else "is another major version"
        raise WasmtimeMismatchError(
            f"wasmtime {WASMTIME_VERSION} {what}; JavaScript, TypeScript and wasm functions run on wasmtime 50",
            remedy='install it: pip install "wasmtime>=50,<51"',
        )


_check_wasmtime()
