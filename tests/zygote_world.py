"""Process sandboxes to try things with, and the kernel's own word on what has become of their processes."""

import contextlib
import os
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from flux.errors import FluxError
from flux.sandbox.conformance import Talk, make_document
from flux.sandbox.process import ProcessSandbox
from flux.sandbox.process_worker import ProcessWorker

PATIENCE_S = 300.0
"""Bounds every test: a sandbox that hangs fails."""

GOOD = """
from flux_guest import function

@function("GET /hello")
async def hello(ctx, input):
    return "hello"

@function()
def hang(ctx, input):
    import signal
    signal.pause()
"""


def write_modules(folder: Path, **modules: str) -> Path:
    """Write modules of functions; return the project that they make."""
    for name, text in modules.items():
        file = folder / "functions" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))
    return folder


@asynccontextmanager
async def running(folder: Path, **options: Any) -> AsyncIterator[ProcessSandbox]:
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            sandbox = ProcessSandbox(folder, "functions", **options)
            await nursery.start(sandbox.run)
            yield sandbox
            nursery.cancel_scope.cancel()


async def failure_of(folder: Path, **options: Any) -> FluxError:
    """Return what starting a sandbox raises: the error itself, in no group."""
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            with pytest.raises(FluxError) as caught:
                await nursery.start(ProcessSandbox(folder, "functions", **options).run)
            return caught.value


async def run(sandbox: ProcessSandbox, function: str = "hello", **inputs: Any) -> list[Any] | None:
    """Run a function that calls nothing; return its last frame."""
    worker = await sandbox.acquire()
    try:
        return await run_on(worker, function, **inputs)
    finally:
        await sandbox.release(worker, reusable=False)


async def run_on(worker: ProcessWorker, function: str = "hello", **inputs: Any) -> list[Any] | None:
    await worker.start(make_document(function, **inputs))
    talk = Talk(worker)
    while (frame := await talk.hear()) is not None and not isinstance(frame[0], str):
        pass
    return frame


async def wait_rested(sandbox: ProcessSandbox) -> None:
    """Wait until every worker that has served can serve again, or is gone."""
    while sandbox.resting:  # noqa: ASYNC110 - the sandbox has nobody who would want an event for this
        await trio.sleep(0.005)


def is_hello(frame: list[Any] | None) -> bool:
    return frame is not None and frame[0] == "return" and frame[1]["body"] == "hello"


def children_of(pid: int) -> set[int]:
    """Children of all threads of a process, zombies included."""
    found: set[int] = set()
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return found  # It has ended since.
    for thread in threads:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # The thread has.
            found |= {int(word) for word in (thread / "children").read_text().split()}
    return found


def family_of_sandbox() -> set[int]:
    """What this process has started, but for the servers that other tests of this process share."""
    family = set()
    for pid in descendants_of(os.getpid()):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue  # It has ended since.
        if b"postgres" not in command and b"tests.forks" not in command:
            family.add(pid)
    return family


def descendants_of(pid: int) -> set[int]:
    """Children, their children, and so on."""
    found = children_of(pid)
    return found.union(*map(descendants_of, found))


def state_of(pid: int) -> str:
    """``R``, ``S``, ``Z`` ...; nothing when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


async def wait_gone(*pids: int) -> None:
    """Wait until none of these processes runs. (A zombie does not: reaping it is its new parent's duty.)"""
    with trio.fail_after(PATIENCE_S):
        for pid in pids:
            while state_of(pid) not in ("", "Z", "X"):  # noqa: ASYNC110 - strangers' processes tell nobody
                await trio.sleep(0.01)


def descriptors(pid: int | str = "self") -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def wait_filled(sandbox: ProcessSandbox) -> None:
    """Wait until no worker is being made: one that comes later would be in nobody's list of processes."""
    while sandbox._forking:  # noqa: ASYNC110
        await trio.sleep(0.01)


async def settled(sandbox: ProcessSandbox, zygote: int) -> None:
    """Wait until the workers in waiting are the zygote's only children."""
    while sandbox._forking or len(children_of(zygote)) != len(sandbox._idle):  # noqa: ASYNC110
        await trio.sleep(0.01)


def count_held(zygote: int) -> tuple[int, int, int]:
    """Return how many descriptors this process and the zygote hold, and the zygote's children."""
    return descriptors(), descriptors(zygote), len(children_of(zygote))
