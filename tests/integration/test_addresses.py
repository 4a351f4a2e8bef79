"""Where objects lie: the same in each worker, whatever its zygote did before; another on demand."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from flux_guest._lines import LineReader

from flux import wire
from flux.sandbox.addresses import describe_addresses, fixed_addresses
from flux.sandbox.process import ProcessSandbox

WORKERS = 12
FUNCTION = """
from flux_guest import Context, function

class Plain: pass
KEPT = [Plain() for _ in range(9)]
CLASSES = [type(f"C{n}", (), {}) for n in range(9)]

@function()
def show(ctx: Context, input: dict) -> list:
    made = [Plain() for _ in range(9)], [bytes(n) for n in range(15, 500, 16)], [lambda: 0 for _ in range(9)]
    return [[id(one) for one in (*KEPT, *CLASSES)], [id(one) % 16384 for group in made for one in group]]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "functions"
    folder.mkdir()
    (folder / "show.py").write_text(FUNCTION, encoding="utf-8")
    tmp_path.chmod(0o755)
    return tmp_path


def make_document(number: int) -> bytes:
    request = {"method": "POST", "path": "/", "params": [], "query": [], "headers": [], "body": ""}
    return wire.encode_start(
        {
            "execution": f"qk3f81x{number % 10}", "function": "show", "now_ns": 10**18 + number, "seed": "00" * 32,
            "memory_bytes_max": 2**28, "middleware": [], "input": {}, "request": request,
        }
    )  # fmt: skip


async def show(sandbox: ProcessSandbox, number: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return where a worker has what the module made and, within a page's neighbourhood, what it made itself."""
    worker = await sandbox.acquire()
    try:
        await worker.start(make_document(number))
        said = b""
        while not said.endswith(b"\n"):
            said += await worker.receive()
    finally:
        await sandbox.release(worker, reusable=False)
    word, answer = json.loads(said)
    assert word == "return", answer
    kept, made = json.loads(answer["body"])
    return tuple(kept), tuple(made)


async def show_all(project: Path, shuffle: int = 0) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    async with trio.open_nursery() as nursery:
        sandbox = ProcessSandbox(project, "functions", idle_target=3, shuffle=shuffle)
        await nursery.start(sandbox.run)
        shown = [await show(sandbox, number) for number in range(WORKERS)]
        nursery.cancel_scope.cancel()
    return shown


def are_fixed() -> bool:
    """Ask the system itself: two processes, each told to print an address of its own."""
    command = [sys.executable, "-c", "print(id(print))"]
    with fixed_addresses():
        return len({subprocess.check_output(command) for _ in range(4)}) == 1


async def test_each_worker_finds_objects_where_every_other_has_them(project: Path) -> None:
    first, second = await show_all(project), await show_all(project)
    assert len({kept for kept, _ in first}) == 1
    assert len({made for _, made in (*first, *second)}) == 1
    # From one start to another only where the system does as it is asked.
    assert len({kept for kept, _ in (*first, *second)}) == (1 if are_fixed() else 2)


async def test_another_order_is_another_and_as_steady(project: Path) -> None:
    shown = [await show_all(project, shuffle) for shuffle in (0, 1, 2)]
    assert [len({made for _, made in workers}) for workers in shown] == [1, 1, 1]
    assert len({workers[0] for workers in shown}) == 3


def test_the_doctor_says_what_the_system_does() -> None:
    assert describe_addresses().startswith("the same at each start" if are_fixed() else "another at each start")


def test_fixing_addresses_ends_with_its_block() -> None:
    before = Path("/proc/self/personality").read_text(encoding="ascii")
    with fixed_addresses() as refused:
        within = Path("/proc/self/personality").read_text(encoding="ascii")
        assert refused in (0, errno.EPERM, errno.ENOSYS)
        assert (before == within) == bool(refused or int(before, 16) & 0x40000)
    assert Path("/proc/self/personality").read_text(encoding="ascii") == before


# --- lines, however they arrive ---


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, LineReader]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, LineReader(theirs.fileno())


@pytest.mark.parametrize("piece_bytes", [1, 7, 4096, 10**6])
def test_a_line_is_read_whole_in_whatever_pieces_it_comes(
    ends: tuple[socket.socket, LineReader], piece_bytes: int
) -> None:
    ours, reader = ends
    lines = [b"a\n", b"\n", b"x" * 70_000 + b"\n", b"\0\xff\n", b"b" * 3 + b"\n"]
    text = b"".join(lines)
    if piece_bytes < 100:
        lines = [line for line in lines if len(line) < 100]
        text = b"".join(lines)

    def send() -> None:
        for start in range(0, len(text), piece_bytes):
            ours.sendall(text[start : start + piece_bytes])

    thread = threading.Thread(target=send)
    thread.start()
    assert [reader.read() for _ in lines] == lines
    thread.join()


def test_the_end_of_a_stream_is_what_is_left_and_then_nothing(ends: tuple[socket.socket, LineReader]) -> None:
    ours, reader = ends
    ours.sendall(b"whole\nhalf")
    ours.shutdown(socket.SHUT_WR)
    assert [reader.read(), reader.read(), reader.read()] == [b"whole\n", b"half", b""]


def test_a_signal_neither_ends_a_line_nor_loses_a_part_of_it(ends: tuple[socket.socket, LineReader]) -> None:
    ours, reader = ends
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, _frame: heard.append(number))
    main = threading.main_thread().ident
    assert main is not None

    def send() -> None:
        for part in (b"one ", b"line\n"):
            ours.sendall(part)
            for _ in range(20):
                signal.pthread_kill(main, signal.SIGUSR2)
                time.sleep(0.001)

    thread = threading.Thread(target=send)
    try:
        thread.start()
        assert reader.read() == b"one line\n"
        thread.join()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert heard


def test_what_was_read_ahead_can_be_forgotten(ends: tuple[socket.socket, LineReader]) -> None:
    ours, reader = ends
    ours.sendall(b"first\nsecond\n")
    assert reader.read() == b"first\n"
    reader.forget()
    ours.sendall(b"third\n")
    assert reader.read() == b"third\n"


def test_a_descriptor_that_is_closed_is_an_error_and_no_end() -> None:
    ours, theirs = socket.socketpair()
    reader = LineReader(theirs.fileno())
    ours.close()
    number = theirs.fileno()
    os.close(number)
    try:
        with pytest.raises(OSError) as caught:
            reader.read()
        assert caught.value.errno == errno.EBADF
    finally:
        theirs.detach()
