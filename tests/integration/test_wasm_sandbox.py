"""The process of wasm guests under load, with guests that misbehave, and with everything killed that can be."""

import json
import os
import select
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from flux.sandbox.base import ImportFailedError, SandboxUnavailableError
from flux.sandbox.conformance import Talk, make_document
from flux.sandbox.wasm import WasmSandbox, default_folder
from flux.sandbox.wasm_cache import CompiledCode
from flux.sandbox.wasm_engine import Engine
from flux.sandbox.wasm_worker import make_pair
from tests.wasm_guests import assemble

PATIENCE_S = 120.0
FUNCTIONS = """
import { defineFunction } from "@flux/guest";

export const echo = defineFunction(async ({ input }) => input.text);
export const ask = defineFunction(async ({ input, ctx }) => ctx.call("test.echo", [input.text]));
export const spin = defineFunction(async () => {
  for (;;);
});
export const flood = defineFunction(async ({ ctx }) => {
  for (;;) ctx.log.info("x".repeat(1000));
});
export const regex = defineFunction(async () => /^(a+)+$/.test("a".repeat(50) + "!"));
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "functions").mkdir()
    (tmp_path / "functions" / "all.js").write_text(FUNCTIONS)
    return tmp_path


@asynccontextmanager
async def running(project: Path, **options: float | Callable[[str], None]) -> AsyncIterator[WasmSandbox]:
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            sandbox = WasmSandbox(project, "functions", cache=default_folder(), **options)  # type: ignore[arg-type]
            await nursery.start(sandbox.run)
            yield sandbox
            nursery.cancel_scope.cancel()


async def echo(sandbox: WasmSandbox, text: str) -> str:
    worker = await sandbox.acquire()
    try:
        await worker.start(make_document("echo", text=text))
        return await Talk(worker).hear_body()
    finally:
        await sandbox.release(worker, reusable=False)


@pytest.mark.parametrize("function", ["spin", "regex", "flood"])
async def test_guests_that_take_all_they_can_leave_their_neighbours_served(project: Path, function: str) -> None:
    async with running(project) as sandbox:
        busy = []
        for _ in range(4):
            worker = await sandbox.acquire()
            await worker.start(make_document(function))
            busy.append(worker)
        for number in range(20):
            assert await echo(sandbox, str(number)) == str(number)
        for worker in busy:
            worker.kill()
            assert (await worker.wait_exit()).signal == signal.SIGKILL
            await worker.wait_gone()  # Its process has let go of it: it computes no longer.
            await sandbox.release(worker, reusable=False)
        assert await echo(sandbox, "after") == "after"
        assert sandbox.restarts == 0


async def test_five_hundred_guests_wait_at_once(project: Path) -> None:
    async with running(project) as sandbox:
        workers = []
        for number in range(500):
            worker = await sandbox.acquire()
            await worker.start(make_document("ask", text=str(number)))
            workers.append((worker, Talk(worker)))
        for number, (_, talk) in enumerate(workers):
            assert await talk.hear_call() == (1, "test.echo", [str(number)])
        for number, (worker, talk) in reversed(list(enumerate(workers))):
            await talk.answer(1, f"answer {number}")
            assert await talk.hear_body() == f"answer {number}"
            await sandbox.release(worker, reusable=False)


async def test_a_killed_process_is_replaced_and_its_guests_are_told_as_ended(project: Path) -> None:
    async with running(project) as sandbox:
        worker = await sandbox.acquire()
        await worker.start(make_document("ask", text="x"))
        await Talk(worker).hear_call()
        killed = sandbox.process_pid
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        assert await worker.receive() == b""
        exited = await worker.wait_exit()
        assert (exited.exit_code, exited.signal) == (None, None)
        assert "without a word" in exited.output
        await sandbox.release(worker, reusable=False)
        while sandbox.process_pid == killed:  # noqa: ASYNC110 - another process ends
            await trio.sleep(0.01)
        assert await echo(sandbox, "again") == "again"
        assert sandbox.restarts == 1


async def test_a_process_that_does_not_let_go_of_a_guest_is_killed(project: Path) -> None:
    said: list[str] = []
    async with running(project, release_grace_s=0.2, on_output=said.append) as sandbox:
        worker = await sandbox.acquire()
        await worker.start(make_document("ask", text="x"))
        await Talk(worker).hear_call()
        stuck = sandbox.process_pid
        assert stuck is not None
        os.kill(stuck, signal.SIGSTOP)
        await sandbox.release(worker, reusable=False)
        while sandbox.process_pid in (stuck, None):  # noqa: ASYNC110 - another process ends
            await trio.sleep(0.01)
        assert await echo(sandbox, "again") == "again"
    assert any("could not be ended" in text for text in said)


def test_it_dies_with_its_supervisor(project: Path) -> None:
    program = f"""
    import sys, trio
    from pathlib import Path
    from flux.sandbox.wasm import WasmSandbox, default_folder

    async def main():
        async with trio.open_nursery() as nursery:
            sandbox = WasmSandbox(Path({str(project)!r}), "functions", cache=default_folder())
            await nursery.start(sandbox.run)
            print(sandbox.process_pid, flush=True)
            await trio.sleep_forever()

    trio.run(main)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
    poll = select.poll()
    poll.register(child, select.POLLIN)
    assert poll.poll(PATIENCE_S * 1000), "it lives on"
    os.close(child)


async def test_loading_that_never_ends_is_given_up(project: Path) -> None:
    (project / "functions" / "slow.js").write_text("for (;;);\n")
    for deadline_s in (2.0, 10.0, 50.0, 250.0):
        sandbox = WasmSandbox(project, "functions", cache=default_folder(), load_deadline_s=deadline_s)
        with trio.fail_after(PATIENCE_S + deadline_s), pytest.raises(SandboxUnavailableError) as caught:
            await sandbox.run()
        assert f"took more than {deadline_s:g} s" in caught.value.message
        # On a busy machine a process may need longer than the first deadlines to come to the module at all.
        if "loading functions/slow.js took" in caught.value.message:
            break
    else:
        raise AssertionError(caught.value.message)


async def test_memory_that_loading_takes_has_an_end(project: Path) -> None:
    (project / "functions" / "hungry.js").write_text("const a = [];\nfor (;;) a.push(new Array(1e6).fill(a));\n")
    sandbox = WasmSandbox(project, "functions", cache=default_folder(), load_deadline_s=PATIENCE_S)
    with trio.fail_after(PATIENCE_S), pytest.raises(ImportFailedError) as caught:
        await sandbox.run()
    assert [(one.file, one.line) for one in caught.value.failures] == [("functions/hungry.js", 2)]


async def test_a_failure_that_several_modules_meet_is_told_once(project: Path) -> None:
    functions = project / "functions"
    (functions / "lib.js").write_text("export const x = 1;\nthrow new RangeError('not today');\n")
    for name in ("a", "b"):
        (functions / f"{name}.js").write_text('import { x } from "./lib.js";\nexport const y = x;\n')
    sandbox = WasmSandbox(project, "functions", cache=default_folder())
    with trio.fail_after(PATIENCE_S), pytest.raises(ImportFailedError) as caught:
        await sandbox.run()
    (failure,) = caught.value.failures
    assert (failure.type, failure.message, failure.file, failure.line) == (
        "RangeError", "not today", "functions/lib.js", 2,
    )  # fmt: skip


async def test_a_module_that_waits_while_it_is_loaded_is_refused(project: Path) -> None:
    (project / "functions" / "waits.js").write_text("await new Promise(() => {});\n")
    sandbox = WasmSandbox(project, "functions", cache=default_folder())
    with trio.fail_after(PATIENCE_S), pytest.raises(ImportFailedError, match="waits while it is loaded"):
        await sandbox.run()


async def test_what_modules_print_while_they_load_is_handed_on(project: Path) -> None:
    (project / "functions" / "talks.js").write_text('console.log("loading", { a: 1 });\n')
    said: list[str] = []
    async with running(project, on_output=said.append) as sandbox:
        assert await echo(sandbox, "x") == "x"
    assert 'loading {"a":1}\n' in "".join(said)


def test_compiled_code_is_kept_where_only_we_write(tmp_path: Path) -> None:
    engine = Engine()
    binary = assemble("greet")
    folder = tmp_path / "cache"
    CompiledCode(folder).compile(engine, binary)
    (kept,) = folder.iterdir()
    assert kept.suffix == ".cwasm"
    assert folder.stat().st_mode & 0o077 == 0
    # What is there is taken, what is no code of ours is not, and a folder that others may write in is not used.
    before, whole = kept.stat().st_ino, kept.read_bytes()
    CompiledCode(folder).compile(engine, binary)
    assert kept.stat().st_ino == before
    for damaged in (b"damaged", whole[:-1], whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:], b""):
        kept.write_bytes(damaged)
        CompiledCode(folder).compile(engine, binary)
        assert kept.read_bytes() == whole
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    CompiledCode(open_to_all).compile(engine, binary)
    assert list(open_to_all.iterdir()) == []


@pytest.mark.parametrize("cut", range(1, 40, 3))
async def test_lines_of_the_process_are_understood_however_they_are_cut(cut: int) -> None:
    worker, theirs = make_pair(1)
    said = b'[1,"a",[]]\n2"one\\n"\n[2,"2",[]]\n2"two"\n0{"exit_code": 3}\n'
    heard = b""
    with trio.fail_after(PATIENCE_S):
        for start in range(0, len(said), cut):
            os.write(theirs, said[start : start + cut])
            # Each part is heard before the next is sent, unless it says nothing to those above.
            with trio.move_on_after(0.02):
                heard += await worker.receive()
        os.close(theirs)
        while data := await worker.receive():
            heard += data
        exited = await worker.wait_exit()
    assert heard == b'[1,"a",[]]\n[2,"2",[]]\n'
    assert (exited.exit_code, exited.output) == (3, "one\ntwo")
    worker.close()


@pytest.mark.parametrize("line", [b"0nonsense\n", b'0{"exit_code": 1e9}\n', b"0[]\n", b'0{"signal": -1}\n'])
async def test_an_exit_that_makes_no_sense_is_still_an_exit(line: bytes) -> None:
    worker, theirs = make_pair(1)
    os.write(theirs, line)
    with trio.fail_after(PATIENCE_S):
        assert await worker.receive() == b""
        exited = await worker.wait_exit()
    assert (exited.exit_code, exited.signal) == (None, None)
    assert json.dumps(exited.output)
    os.close(theirs)
    worker.close()
