"""The kinds of functions that `tests.guests.repeat` repeats: where their programs are and who runs them."""

from collections.abc import Callable
from pathlib import Path

import attrs

from flux.sandbox.process import ProcessSandbox
from flux.sandbox.wasm import WasmSandbox, default_folder
from flux.sandbox.wasm_engine import Engine

HERE = Path(__file__).parent
PROGRAMS = HERE / "repeated"
"""A folder a kind; every function in it takes part."""

Runner = ProcessSandbox | WasmSandbox


@attrs.frozen
class Kind:
    """How the functions of one kind are run."""

    name: str
    make_sandbox: Callable[[Path, int], Runner]
    """Given a folder to write to, and how many executions there will be at a time."""
    is_bound_to_python: bool = False
    """A recording means something to the same version of Python only."""
    make_in_order: Callable[[int, int], Runner] | None = None
    """Given how many at a time, and an order of objects in memory (`flux.escapes.ORDERS`); None for kinds whose
    memory is the same to the last byte."""


def _make_process(_scratch: Path, concurrency: int) -> Runner:
    return _make_process_in_order(concurrency, 0)


def _make_process_in_order(concurrency: int, order: int) -> Runner:
    return ProcessSandbox(HERE, "repeated/process", idle_target=concurrency, shuffle=order)


def _make_scripts(folder: str) -> Callable[[Path, int], Runner]:
    return lambda _scratch, _concurrency: WasmSandbox(HERE, f"repeated/{folder}", cache=default_folder())


def _make_wasi(scratch: Path, _concurrency: int) -> Runner:
    folder = scratch / "functions"
    folder.mkdir()
    engine = Engine()
    prelude = (PROGRAMS / "wasi" / "prelude.txt").read_text(encoding="utf-8")
    for path in sorted((PROGRAMS / "wasi").glob("*.wat")):
        module = engine.assemble(f"(module\n{prelude}\n{path.read_text(encoding='utf-8')})")
        (folder / path.with_suffix(".wasm").name).write_bytes(module)
    return WasmSandbox(scratch, "functions")


KINDS = {
    kind.name: kind
    for kind in (
        Kind("process", _make_process, is_bound_to_python=True, make_in_order=_make_process_in_order),
        Kind("javascript", _make_scripts("javascript")),
        Kind("typescript", _make_scripts("typescript")),
        Kind("wasi", _make_wasi),
    )
}
