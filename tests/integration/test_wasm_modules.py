"""Any WASI module is a function: of C, of its text form, and of somebody who wants out of the sandbox."""

import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from flux.sandbox.conformance import Talk, make_document
from flux.sandbox.wasm import WasmSandbox
from flux.sandbox.wasm_engine import Engine
from flux.sandbox.wasm_module import BadFunctionFileError, load_module, run_module
from flux.sandbox.wasm_world import FileTree, Start
from tests.wasm_guests import assemble, assemble_text
from tests.wasm_worlds import AnsweringDoor, answer_call, make_start

EXAMPLES = Path(__file__).parents[2] / "guest-sdk" / "wasm" / "examples"
PATIENCE_S = 180.0


class KeepingDoor(AnsweringDoor):
    """Keeps every byte, the lines that are not of the wire included."""

    def __init__(self) -> None:
        super().__init__(answer_call)
        self.said = b""

    def send_nowait(self, data: bytes) -> int:
        self.said += data
        return super().send_nowait(data)

    @property
    def lines(self) -> list[bytes]:
        """What was said, without how much fuel that took."""
        return [re.sub(rb'^(1|3\{"fuel": )[0-9]+', rb"\1~", line) for line in self.said.splitlines()]


async def run_body(body: str, files: dict[str, bytes] | None = None, memory_bytes_max: int = 16 * 2**20) -> KeepingDoor:
    """Run a module in text form as a guest; return what it said."""
    engine = Engine()
    door = KeepingDoor()
    module = load_module(engine, "functions/body.wasm", assemble_text(body))
    with trio.fail_after(PATIENCE_S):
        await run_module(
            engine, module, FileTree(files or {}), door, make_start("body", memory_bytes_max=memory_bytes_max)
        )
    return door


def start_of(body: str) -> str:
    return f'(func (export "_start") {body})'


def exits_with(call: str) -> str:
    """A program whose exit code is what a call returns: 64 for success, so that it is told from no exit."""
    return start_of(f"(call $proc_exit (i32.add (i32.const 64) {call}))")


def exit_code(door: KeepingDoor) -> int:
    said = json.loads(door.lines[-1][1:])
    return int(said["exit_code"]) - 64


@pytest.fixture(scope="module")
def order_total(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The example in C, built here. Where nobody has built one before, the compiler makes WASI's library first."""
    built = tmp_path_factory.mktemp("zig") / "order_total.wasm"
    command = [
        *(sys.executable, "-m", "ziglang", "cc", "--target=wasm32-wasi", "-Os", "-Wall", "-Werror"),
        *("-o", str(built), str(EXAMPLES / "order_total.c")),
    ]
    subprocess.run(command, check=True, timeout=900, env={**os.environ, "ZIG_LOCAL_CACHE_DIR": str(built.parent)})
    return built.read_bytes()


@asynccontextmanager
async def serving(project: Path, files: dict[str, bytes]) -> AsyncIterator[WasmSandbox]:
    (project / "functions").mkdir()
    for name, content in files.items():
        (project / "functions" / name).write_bytes(content)
    async with trio.open_nursery() as nursery:
        sandbox = WasmSandbox(project, "functions")
        await nursery.start(sandbox.run)
        yield sandbox
        nursery.cancel_scope.cancel()


async def test_a_program_in_c_asks_the_database_and_answers(tmp_path: Path, order_total: bytes) -> None:
    async with serving(tmp_path, {"order_total.wasm": order_total}) as sandbox:
        (function,) = sandbox.functions
        assert (function.route, function.timeout_s, function.runtime) == ("GET /orders/{id}/total", 5.0, "wasm")
        worker = await sandbox.acquire()
        talk = Talk(worker)
        await worker.start(make_document("order_total", id="7"))
        seq, name, arguments = await talk.hear_call()
        assert (seq, name) == (1, "db.query")
        assert arguments == ["select sum(price)::int from items where order_id = $1", [7]]
        await talk.answer(1, {"columns": ["sum"], "types": ["int4"], "rows": [[42]], "tag": "SELECT 1"})
        assert json.loads(await talk.hear_body()) == {"order": 7, "total": 42}
        await sandbox.release(worker, reusable=False)
        # One that fails says so in its own words.
        worker = await sandbox.acquire()
        await worker.start(make_document("order_total"))
        assert await Talk(worker).hear() is None
        exited = await worker.wait_exit()
        assert (exited.exit_code, exited.output) == (64, "the document has no id\n")
        await sandbox.release(worker, reusable=False)


async def test_a_program_in_c_is_exactly_repeated(order_total: bytes) -> None:
    engine = Engine()
    module = load_module(engine, "functions/order_total.wasm", order_total)
    seen = []
    for _ in range(2):
        door = KeepingDoor()
        document = make_document("order_total", id="7")
        await run_module(
            engine, module, FileTree({}), door, Start.read(document),
            on_end=lambda isolate: seen.append((isolate.fuel, isolate.snapshot())),
        )  # fmt: skip
        seen.append(door.said)
    assert seen[:2] == seen[2:]


async def test_the_example_in_text_form_is_a_function(tmp_path: Path) -> None:
    binary = Engine().assemble((EXAMPLES / "greet.wat").read_text(encoding="utf-8"))
    async with serving(tmp_path, {"greet.wasm": binary}) as sandbox:
        assert sandbox.functions[0].route == "GET /greet"
        worker = await sandbox.acquire()
        await worker.start(make_document("greet"))
        assert json.loads(await Talk(worker).hear_body()) == {"greeting": "hello"}
        await sandbox.release(worker, reusable=False)


@pytest.mark.parametrize(
    ("binary", "says"),
    [
        (b"", "does not begin as a WebAssembly module does"),
        (b"\0asm\1\0\0\0", "exports neither _start"),
        (b"\0asm\1\0\0\0\1\xff\xff\xff\xff\xff", "a number is cut off"),
        (assemble_text('(func (export "run"))'), "exports neither _start"),
        (assemble_text('(func (export "_start") (param i32))'), "exports neither _start"),
        (assemble_text(start_of(""), "{route"), "is not JSON"),
        (assemble_text(start_of(""), '{"rout": "GET /"}'), "has a key 'rout'"),
        (assemble_text(start_of(""), '{"retries": true}'), "retries = true"),
        (Engine().assemble('(module (import "env" "system" (func (param i32))) (memory (export "memory") 1)'
                           ' (func (export "_start")))'), "env::system"),
        (Engine().assemble('(module (func (export "_start")))'), "exports no memory"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_is_no_function_is_refused_with_the_reason(binary: bytes, says: str) -> None:
    with pytest.raises(BadFunctionFileError, match=says):
        load_module(Engine(), "functions/bad.wasm", binary)


HOSTILE = {
    "a buffer outside of its memory": "(call $fd_write (i32.const 2) (i32.const -8) (i32.const 1) (i32.const 8))",
    "buffers that are not there": "(call $fd_write (i32.const 3) (i32.const 67108860) (i32.const 1024) (i32.const 8))",
    "a result outside of its memory": "(call $fd_write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const -4))",
}


@pytest.mark.parametrize("call", HOSTILE.values(), ids=HOSTILE.keys())
async def test_an_address_outside_of_its_memory_ends_the_guest_as_a_native_one(call: str) -> None:
    door = await run_body(start_of(f"(drop {call})"))
    assert json.loads(door.lines[-1][1:]) == {"signal": 11}
    assert b"outside of the memory" in door.said


async def test_numbers_without_measure_are_refused() -> None:
    for call, errno in (
        ("(call $fd_write (i32.const 3) (i32.const 0) (i32.const 1000000) (i32.const 8))", 28),
        ("(call $fd_read (i32.const 0) (i32.const 0) (i32.const -1) (i32.const 8))", 28),
        ("(call $poll_oneoff (i32.const 0) (i32.const 64) (i32.const 100000) (i32.const 8))", 28),
        ("(call $fd_write (i32.const 77) (i32.const 0) (i32.const 1) (i32.const 8))", 8),
    ):
        assert exit_code(await run_body(exits_with(call))) == errno


async def test_buffers_that_overlap_hold_no_more_of_ours_than_one_write() -> None:
    # 1,024 times all of its memory: 4 GiB, of which one write takes 1 MiB.
    body = start_of("""
      (local $n i32)
      (loop $fill
        (i32.store (i32.add (i32.const 65536) (i32.mul (local.get $n) (i32.const 8))) (i32.const 0))
        (i32.store (i32.add (i32.const 65540) (i32.mul (local.get $n) (i32.const 8))) (i32.const 4194304))
        (local.set $n (i32.add (local.get $n) (i32.const 1)))
        (br_if $fill (i32.lt_u (local.get $n) (i32.const 1024))))
      (drop (call $fd_write (i32.const 2) (i32.const 65536) (i32.const 1024) (i32.const 8)))
      (call $proc_exit (i32.shr_u (i32.load (i32.const 8)) (i32.const 20)))""")
    door = await run_body(body)
    assert json.loads(door.lines[-1][1:]) == {"exit_code": 1}


async def test_lines_that_only_the_host_process_may_write_can_not_be_forged() -> None:
    # It claims to have exited, and goes on.
    text = '0{\\22exit_code\\22: 0}\\0a2\\22ha\\22\\0a'
    body = f'(data (i32.const 300) "{text}")' + start_of(
        "(call $write (i32.const 3) (i32.const 300) (i32.const 23)) (call $proc_exit (i32.const 9))"
    )
    door = await run_body(body)
    assert door.lines == [b'1~ 0{"exit_code": 0}', b'1~ 2"ha"', b'3{"fuel": ~}', b'0{"exit_code": 9}']


async def test_what_it_prints_stands_where_it_was_printed() -> None:
    line = '[0,"log.write",["info","x",{}]]'
    text = line.replace('"', "\\22") + "\\0a"
    body = f'(data (i32.const 300) "one two ") (data (i32.const 320) "{text}")' + start_of(f"""
      (call $write (i32.const 2) (i32.const 300) (i32.const 4))
      (call $write (i32.const 3) (i32.const 320) (i32.const {len(line) + 1}))
      (call $write (i32.const 2) (i32.const 304) (i32.const 4))""")
    door = await run_body(body)
    assert door.lines[:3] == [b'2"one "', b"1~ " + line.encode(), b'2"two "']
    assert json.loads(door.lines[3].removeprefix(b"1~ ")) == ["return", {"status": 204, "headers": [], "body": ""}]
    assert door.lines[4:] == [b'3{"fuel": ~}']


FILES = {"functions/data/words.txt": b"one\ntwo\n", "functions/a.js": b"//"}


@pytest.mark.parametrize(
    ("path", "errno"),
    [
        ("functions/data/words.txt", 0),
        ("functions/./data//../data/words.txt", 0),
        ("functions/data", 0),
        ("functions/missing", 44),
        ("../etc/passwd", 76),
        ("functions/../../etc/passwd", 76),
        ("etc/passwd", 44),
        ("dev/flux", 0),
        ("functions/data/words.txt/x", 44),
        ("\\ff\\fe", 44),
    ],
)
async def test_a_guest_sees_the_deployments_files_and_no_others(path: str, errno: int) -> None:
    size = 2 if path.startswith("\\") else len(path)
    engine = Engine()
    text = f"""(module
      (import "wasi_snapshot_preview1" "path_open"
        (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
      (memory (export "memory") 1) (data (i32.const 300) "{path}")
      (func (export "_start")
        (call $proc_exit (i32.add (i32.const 64)
          (call $path_open (i32.const 4) (i32.const 0) (i32.const 300) (i32.const {size}) (i32.const 0)
            (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 8))))))"""
    door = KeepingDoor()
    loaded = load_module(engine, "functions/open.wasm", engine.assemble(text))
    await run_module(engine, loaded, FileTree(FILES), door, make_start("open"))
    assert exit_code(door) == errno


async def test_what_wasi_has_and_we_have_not_is_refused_by_name() -> None:
    text = """(module
      (import "wasi_snapshot_preview1" "path_create_directory" (func $mkdir (param i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "sock_accept" (func $accept (param i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
      (memory (export "memory") 1)
      (func (export "_start")
        (drop (call $accept (i32.const 3) (i32.const 0) (i32.const 0)))
        (call $proc_exit (i32.add (i32.const 64) (call $mkdir (i32.const 4) (i32.const 0) (i32.const 1))))))"""
    engine = Engine()
    door = KeepingDoor()
    await run_module(
        engine, load_module(engine, "f.wasm", engine.assemble(text)), FileTree({}), door, make_start("f")
    )
    assert exit_code(door) == 69
    assert b"sock_accept was refused" in door.said and b"path_create_directory was refused" in door.said


async def test_memory_without_end_is_refused_at_the_limit_and_told_as_such(tmp_path: Path) -> None:
    async with serving(tmp_path, {"grow.wasm": assemble("grow")}) as sandbox:
        worker = await sandbox.acquire()
        await worker.start(make_document("grow"))
        assert await worker.receive() == b""
        exited = await worker.wait_exit()
        assert exited.output.splitlines()[-1] == "MemoryError"
        await sandbox.release(worker, reusable=False)
