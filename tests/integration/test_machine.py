"""Clocks and randomness below the interpreter: every way to ask, in real workers, against what the host has told them.

The oracle is arithmetic: the host of these tests says what time it is, so each clock must tell that. Escapes from it
are tried in tests/escape.
"""

import json
import struct
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from flux_guest import _stubs

from flux.sandbox.conformance import make_document
from flux.sandbox.jail import probe_jail
from flux.sandbox.process import ProcessSandbox
from flux.sandbox.process_worker import ProcessWorker

PATIENCE_S = 120.0
SECOND_NS = 10**9
START_NS = 1_767_225_600_000_000_000 + 123_456_789
LATER_NS = START_NS + 3661 * SECOND_NS + 987_654_321
BY_NUMBER, ABORTS = ("kill", "raise", "pthread_kill", "tgkill"), ("abort", "library's abort")
"""Ways for a process to end itself by a signal, which begin with its number, and that is not the kernel's."""
SEED, OTHER_SEED = "5eed" * 16, "0ddb" * 16

GUEST = """
import _ssl, ctypes, datetime, hashlib, mmap, os, resource, secrets, signal, sqlite3, ssl, threading, time
from flux_guest import function

libc = ctypes.CDLL(None, use_errno=True)
libc.time.restype = libc.times.restype = libc.syscall.restype = ctypes.c_long
crypto = ctypes.CDLL(_ssl.__file__)
crypto.X509_gmtime_adj.restype = ctypes.c_void_p
crypto.ASN1_STRING_get0_data.restype = ctypes.c_char_p
crypto.ASN1_STRING_get0_data.argtypes = [ctypes.c_void_p]
database = sqlite3.connect(":memory:")
code = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=7)
code.write(bytes.fromhex("0f3148c1e2204809d0c3"))  # rdtsc, all of it in rax
read_counter = ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
AT_IMPORT = [
    secrets.token_hex(), ssl.RAND_bytes(16).hex(), database.execute("select hex(randomblob(16))").fetchone()[0],
]


def clock(number, call=libc.clock_gettime):
    spec = (ctypes.c_long * 2)()
    assert call(number, spec) == 0
    return spec[0] * 10**9 + spec[1]


def utc(moment):
    return (moment - datetime.datetime(1970, 1, 1)) // datetime.timedelta(microseconds=1)


def time_of_day(call=libc.gettimeofday):
    value = (ctypes.c_long * 2)()
    assert call(value, None) == 0
    return value[0] * 10**6 + value[1]


def timespec():
    spec = (ctypes.c_long * 2)()
    assert libc.timespec_get(spec, 1) == 1
    return spec[0] * 10**9 + spec[1]


READ = {
    "ns since 1970": [
        time.time_ns, timespec, lambda: time.clock_gettime_ns(time.CLOCK_REALTIME), lambda: clock(0),
        lambda: clock(5), lambda: clock(11), lambda: clock(0, lambda *a: libc.syscall(228, *a)),
    ],
    "us since 1970": [
        time_of_day, lambda: time_of_day(lambda *a: libc.syscall(96, *a)),
        lambda: utc(datetime.datetime.now()), lambda: utc(datetime.datetime.utcnow()),
        lambda: utc(datetime.datetime.now(datetime.UTC).replace(tzinfo=None)),
    ],
    "s since 1970": [
        lambda: int(time.time()), lambda: libc.time(None), lambda: libc.syscall(201, None),
        lambda: int(database.execute("select strftime('%s', 'now')").fetchone()[0]),
        lambda: int(datetime.datetime.strptime(
            crypto.ASN1_STRING_get0_data(crypto.X509_gmtime_adj(None, 0)).decode(), "%y%m%d%H%M%SZ",
        ).replace(tzinfo=datetime.UTC).timestamp()),
        lambda: int(time.mktime(time.localtime())),
    ],
    "ms since 1970": [
        lambda: round((database.execute("select julianday('now')").fetchone()[0] - 2440587.5) * 86_400_000),
    ],
    "ns since the start": [
        time.monotonic_ns, time.perf_counter_ns, read_counter, *(lambda n=n: clock(n) for n in (1, 4, 6, 7)),
    ],
    "ticks since the start": [lambda: libc.times(None), lambda: round(os.times().elapsed * 100)],
    "ns of the processor": [
        time.process_time_ns, time.thread_time_ns, lambda: clock(2), lambda: clock(3), lambda: clock(~0 << 3 | 2),
        lambda: libc.clock(), lambda: round(os.times().user), lambda: round(os.times().system),
        lambda: sum(map(round, resource.getrusage(resource.RUSAGE_SELF))),
    ],
}


def read_all():
    return {unit: [read() for read in reads] for unit, reads in READ.items()}


@function()
def clocks(ctx, input):
    first = read_all()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 100_000)
    second = read_all()
    ctx.clock.fresh()
    return [first, second, read_all()]


def drawn(call, *rest):
    buffer = ctypes.create_string_buffer(16)
    call(buffer, 16, *rest)
    return buffer.raw.hex()


def draw():
    return [
        os.urandom(16).hex(), secrets.token_hex(16), drawn(libc.getrandom, 0), drawn(libc.getentropy),
        drawn(lambda *a: libc.syscall(318, *a), 0), ssl.RAND_bytes(16).hex(), drawn(crypto.RAND_priv_bytes),
        database.execute("select hex(randomblob(16)), random()").fetchone(), os.getpid(), libc.syscall(186),
    ]


@function()
def chance(ctx, input):
    return {"drawn": [draw(), draw()], "at import": AT_IMPORT}


@function()
def waits(ctx, input):
    import queue
    try:
        queue.Queue().get(timeout=2)
    except queue.Empty:
        pass
    assert threading.Event().wait(3) is False
    time.sleep(4)
    return time.monotonic_ns()


WAYS = {
    "kill": lambda number: os.kill(os.getpid(), number),
    "raise": signal.raise_signal,
    "pthread_kill": lambda number: signal.pthread_kill(threading.get_ident(), number),
    "tgkill": lambda number: libc.syscall(234, os.getpid(), threading.get_native_id(), number),
    "abort": lambda _number: os.abort(),
    "library's abort": lambda _number: libc.abort(),
}


@function()
def ends_itself(ctx, input):
    WAYS[input["way"]](input["signal"])


@function()
def crashes(ctx, input):
    ctypes.string_at(8)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("machine")
    (folder / "functions").mkdir()
    (folder / "functions" / "below.py").write_text(GUEST)
    return folder


@asynccontextmanager
async def running(folder: Path, **options: Any) -> AsyncIterator[ProcessSandbox]:
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            sandbox = ProcessSandbox(folder, "functions", **options)
            await nursery.start(sandbox.run)
            yield sandbox
            nursery.cancel_scope.cancel()


async def run_on(
    worker: ProcessWorker, function: str, *, seed: str = SEED, start_ns: int = START_NS, **inputs: Any
) -> tuple[Any, list[list[Any]]]:
    """Run a function to its end, or death; return its answer, or how it died, and what it asked. The clock moves
    to `LATER_NS` with the first answer."""
    start = {**json.loads(make_document(function, **inputs)), "seed": seed, "now_ns": start_ns}
    await worker.start(json.dumps(start).encode())
    buffer = b""
    asked: list[list[Any]] = []
    while True:
        while b"\n" not in buffer:
            data = await worker.receive()
            if not data:
                return await worker.wait_exit(), asked
            buffer += data
        line, _, buffer = buffer.partition(b"\n")
        frame = json.loads(line)
        if frame[0] == "return":
            return json.loads(frame[1]["body"]), asked
        assert isinstance(frame[0], int), frame
        if frame[0] > 0:
            asked.append(frame[1:3])
            await worker.send(
                json.dumps([frame[0], None, LATER_NS, start_ns + LATER_NS - START_NS]).encode() + b"\n"
            )


async def run(sandbox: ProcessSandbox, function: str, **options: Any) -> tuple[Any, list[list[Any]]]:
    """Run a function in a fresh worker."""
    worker = await sandbox.acquire()
    try:
        return await run_on(worker, function, **options)
    finally:
        await sandbox.release(worker, reusable=False)


def check_clocks(seen: list[dict[str, list[int]]], start_ns: int) -> None:
    """Assert that each clock told what the host had told, before and after it moved."""
    for now_ns, told in zip((start_ns, start_ns, start_ns + LATER_NS - START_NS), seen, strict=True):
        expected = {
            "ns since 1970": now_ns,
            "us since 1970": now_ns // 1000,
            "s since 1970": now_ns // SECOND_NS,
            "ms since 1970": now_ns // 10**6,
            "ns since the start": now_ns - start_ns,
            "ticks since the start": (now_ns - start_ns) // 10**7,
            "ns of the processor": 0,
        }
        assert told == {unit: [expected[unit]] * len(values) for unit, values in told.items()}


def test_the_bytes_are_what_an_assembler_makes_of_the_source(tmp_path: Path) -> None:
    assert _stubs.__file__ is not None
    source = Path(_stubs.__file__).with_suffix(".S")
    assembled = tmp_path / "stubs.o"
    target = ("-target", "x86_64-linux-gnu")
    subprocess.run(
        [sys.executable, "-m", "ziglang", "cc", *target, "-c", source, "-o", assembled], check=True
    )
    assert read_section(assembled.read_bytes(), b".text").hex() == _stubs.CODE.hex()


def read_section(elf: bytes, name: bytes) -> bytes:
    """Return a section of an object file, as elf(5) has it."""
    (table,), (count, names) = struct.unpack_from("<Q", elf, 40), struct.unpack_from("<HH", elf, 60)
    headers = [struct.unpack_from("<IIQQQQIIQQ", elf, table + 64 * index) for index in range(count)]
    names_at = headers[names][4]
    [found] = [one for one in headers if elf[names_at + one[0] :].startswith(name + b"\0")]
    return elf[found[4] : found[4] + found[5]]


@pytest.mark.parametrize("isolation", ["strict", "core"])
async def test_every_clock_tells_the_hosts_time_and_stands_still_in_between(
    project: Path, isolation: str
) -> None:
    async with running(project, isolation=isolation, warm=2) as sandbox:
        assert sandbox.level.clock == "vdso"
        worker = await sandbox.acquire()
        seen, asked = await run_on(worker, "clocks")
        check_clocks(seen, START_NS)
        assert asked == [["clock.now", []]]
        # The next execution of a warm worker has its own time, which may well be an earlier one.
        seen, _ = await run_on(worker, "clocks", start_ns=START_NS - 86_400 * SECOND_NS)
        check_clocks(seen, START_NS - 86_400 * SECOND_NS)
        await sandbox.release(worker, reusable=False)


async def test_randomness_of_c_code_follows_from_the_seed_and_is_real_at_import(project: Path) -> None:
    async with running(project) as sandbox, running(project, isolation="core", warm=3) as other:
        first, _ = await run(sandbox, "chance")
        again, _ = await run(sandbox, "chance")
        elsewhere, _ = await run(other, "chance")
        assert first["drawn"] == again["drawn"] == elsewhere["drawn"]
        one, two = first["drawn"]
        assert all(a != b for a, b in zip(one[:8], two[:8], strict=True)), "the same twice"
        differently, _ = await run(other, "chance", seed=OTHER_SEED)
        assert all(a != b for a, b in zip(one[:8], differently["drawn"][0][:8], strict=True)), (
            "not from the seed"
        )
        assert first["at import"] == again["at import"]
        assert not set(first["at import"]) & set(elsewhere["at import"]), (
            "what is drawn at import is a secret"
        )
        worker = await other.acquire()
        for seed in (SEED, OTHER_SEED, SEED):
            warm, _ = await run_on(worker, "chance", seed=seed)
        assert warm["drawn"] == first["drawn"]
        await other.release(worker, reusable=False)


async def test_waiting_for_another_thread_is_a_sleep_of_the_hosts(project: Path) -> None:
    async with running(project) as sandbox:
        slept_ns, asked = await run(sandbox, "waits")
        assert asked == [["clock.sleep", [seconds]] for seconds in (2.0, 3.0, 4.0)]
        assert slept_ns == LATER_NS - START_NS + 7 * SECOND_NS


@pytest.mark.parametrize("handler", ["", "import faulthandler\nfaulthandler.enable()\n"])
async def test_other_faults_than_the_counters_are_the_guests_own(tmp_path: Path, handler: str) -> None:
    (tmp_path / "functions").mkdir()
    (tmp_path / "functions" / "below.py").write_text(handler + GUEST)
    async with running(tmp_path) as sandbox:
        for way, number in (
            ("", 11),
            *((way, 11) for way in BY_NUMBER),
            *((way, 6) for way in (*BY_NUMBER, *ABORTS)),
        ):
            ended, _ = await run(sandbox, "ends_itself" if way else "crashes", way=way, signal=number)
            assert ended.signal == number, f"{way} {number}: {ended}"
            # A module's handler, put on before ours, hears of what is not for ours.
            assert ("Fatal Python error" in ended.output) == bool(handler), ended.output
        seen, _ = await run(sandbox, "clocks")
        check_clocks(seen, START_NS)


NUMPY = """
import numpy
from flux_guest import function

@function()
def told(ctx, input):
    seconds = int(numpy.datetime64("now").astype(int))
    ctx.clock.fresh()
    return [seconds, int(numpy.datetime64("now").astype(int)), str(numpy.random.SeedSequence().entropy)]
"""


async def test_numpy_tells_the_hosts_time_and_draws_from_the_seed(tmp_path: Path) -> None:
    (tmp_path / "functions").mkdir()
    (tmp_path / "functions" / "arrays.py").write_text(NUMPY)
    async with running(tmp_path) as sandbox:
        (before, after, drawn), _ = await run(sandbox, "told")
        assert (before, after) == (START_NS // SECOND_NS, LATER_NS // SECOND_NS)
        assert (await run(sandbox, "told"))[0][2] == drawn
        assert (await run(sandbox, "told", seed=OTHER_SEED))[0][2] != drawn


CLOCK_OF_ITS_OWN = """
import os, time
from flux_guest import function

reader, writer = os.pipe()
if os.fork() == 0:
    os.close(reader)
    while True:
        os.write(writer, b"%020d" % time.time_ns())
        time.sleep(0.001)
os.close(writer)
os.read(reader, 20)

@function()
def read_it(ctx, input):
    while len(told := os.read(reader, 20)) == 20:
        pass
    return len(told)
"""


async def test_a_process_that_was_started_at_import_is_no_clock_for_functions(tmp_path: Path) -> None:
    (tmp_path / "functions").mkdir()
    (tmp_path / "functions" / "own.py").write_text(CLOCK_OF_ITS_OWN)
    printed: list[str] = []
    async with running(tmp_path, on_output=printed.append) as sandbox:
        assert await run(sandbox, "read_it") == (0, [])
        assert "processes that modules started when they were imported have ended" in "".join(printed)


REFUSE_CODE_TO_BE_WRITTEN = """
    import ctypes, struct, sys
    libc = ctypes.CDLL(None, use_errno=True)
    load, equal, mask, answer = 0x20, 0x15, 0x54, 0x06
    # mprotect with writing and execution: EPERM, as where the kernel seals its pages.
    lines = [(load, 0, 0, 0), (equal, 0, 4, 10), (load, 0, 0, 32), (mask, 0, 0, 6), (equal, 0, 1, 6),
             (answer, 0, 0, 0x50001), (answer, 0, 0, 0x7FFF0000)]
    program = b"".join(struct.pack("=HBBI", *line) for line in lines)
    code = ctypes.create_string_buffer(program, len(program))
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.syscall(317, 1, 0, struct.pack("=H6xQ", len(lines), ctypes.addressof(code))) == 0
"""
TELL_LEVEL = """
    import json, trio
    from pathlib import Path
    from tests.integration.test_machine import run, running
    async def main():
        async with running(Path(sys.argv[1]), isolation="core") as sandbox:
            print(json.dumps([sandbox.level.clock, (await run(sandbox, "clocks"))[0]]))
    trio.run(main)
"""


def test_where_the_vdso_is_sealed_python_is_held_and_the_record_says_so(project: Path) -> None:
    program = textwrap.dedent(REFUSE_CODE_TO_BE_WRITTEN) + textwrap.dedent(TELL_LEVEL)
    done = subprocess.run(
        [sys.executable, "-c", program, project],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
        timeout=PATIENCE_S,
    )
    level, seen = json.loads(done.stdout)
    assert level == "python"
    first, second, third = seen
    assert first["ns since 1970"][0] == second["ns since 1970"][0] == START_NS
    assert third["ns since 1970"][0] == LATER_NS
    assert first["ns since 1970"][1] != second["ns since 1970"][1], "C code sees the real time, as is said"
    assert first["ns of the processor"][:2] == [0, 0]


def test_the_doctor_says_how_the_clock_is_held_and_what_was_tried() -> None:
    clock = next(finding for finding in probe_jail("core", None) if finding.name == "clock")
    assert clock.ok
    assert clock.detail.startswith("vdso: time stands still between calls, for C code as for Python; tried: ")
    assert "rdtsc" in clock.detail and "getrandom" in clock.detail
