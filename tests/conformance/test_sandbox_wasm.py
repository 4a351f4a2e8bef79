"""Sandbox kind ``wasm`` passes the suite of all kinds: JavaScript where it can, modules where it can't."""

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from flux.sandbox.base import Sandbox
from flux.sandbox.conformance import CHECKS, PATIENCE_S
from flux.sandbox.wasm import WasmSandbox, default_folder
from tests.wasm_guests import assemble

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("conformance")
    shutil.copytree(HERE / "guests_javascript", folder / "functions")
    for name in ("leave", "crash", "speak", "hang"):
        (folder / "functions" / f"{name}.wasm").write_bytes(assemble(name))
    return folder


@asynccontextmanager
async def wasm(project: Path) -> AsyncIterator[Sandbox]:
    async with trio.open_nursery() as nursery:
        sandbox = WasmSandbox(project, "functions", cache=default_folder())
        await nursery.start(sandbox.run)
        yield sandbox
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_wasm_is_a_kind_of_sandbox(project: Path, check: Callable[[Sandbox], Awaitable[None]]) -> None:
    with trio.fail_after(2 * PATIENCE_S):
        async with wasm(project) as sandbox:
            with trio.fail_after(PATIENCE_S):
                await check(sandbox)
