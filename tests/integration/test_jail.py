"""The jail with real processes: what it does not start without, who ends with whom, and what reaches the host.

What code inside can't do is for tests/escape. Here are the walls' foundations: kernels that lack something, processes
of the jail that are killed, and a zygote that lies to the supervisor.
"""

import contextlib
import errno
import functools
import inspect
import itertools
import json
import os
import resource
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from flux.errors import FluxError
from flux.sandbox.base import ImportFailedError, SandboxUnavailableError
from flux.sandbox.conformance import Talk, make_document
from flux.sandbox.jail import IsolationUnavailableError, find_tenant_uid, probe_jail
from flux.sandbox.jail_main import prepare_confining
from flux.sandbox.process import ProcessSandbox
from tests.escape.unprivileged import command_as_nobody
from tests.zygote_world import PATIENCE_S, descendants_of, family_of_sandbox, wait_filled, wait_gone

ROOT = Path(__file__).parents[2]
IS_ROOT = os.geteuid() == 0
_CORE_LAYERS = ["descriptors", "environment", "limits", "privileges", "landlock", "seccomp"]
LAYERS = [*_CORE_LAYERS, "clock"]
STRICT_LAYERS = [*_CORE_LAYERS, "namespaces", "user", "clock"]

HELLO = """
from flux_guest import function

@function()
def hello(ctx, input):
    return "hello"
"""
PROBE = """
import json, sys
from flux.errors import FluxError
from flux.sandbox.jail import find_guest_uid, probe_jail
for case in sys.argv[1:]:
    level, user = case.split("/")
    uid = find_guest_uid(level, "main") if user == "own" else None
    layers, refusal = [], ""
    try:
        layers = [finding.name for finding in probe_jail(level, uid)]
    except FluxError as error:
        refusal = str(error)
    print(json.dumps([layers, refusal]))
"""
"""Tries the walls of each ``LEVEL/USER`` that it is given: a process costs more than what it tries."""
PESTERED = """
import os, signal, sys, threading
os.setsid()
signal.signal(signal.SIGINT, lambda *_: None)
ended = threading.Event()
def press():
    while not ended.wait(0.002):
        os.killpg(0, signal.SIGINT)
threading.Thread(target=press).start()
try:
    from flux.sandbox.jail import probe_jail
    print(all(finding.ok for finding in probe_jail("core", None)))
finally:
    ended.set()
"""
"""Tries the walls while somebody holds ctrl-c down: a terminal's reaches all processes of its group."""
Case = tuple[str, str]
"""A level, and whether the guest is a user of its own."""
LEVELS_AND_USERS: tuple[Case, ...] = (("strict", "own"), ("strict", "same"), ("core", "same"))


@pytest.fixture
def project(tmp_path: Path) -> Callable[..., Path]:
    def write(**modules: str) -> Path:
        for name, text in modules.items():
            file = tmp_path / "functions" / f"{name}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(textwrap.dedent(text))
        return tmp_path

    return write


@asynccontextmanager
async def running(folder: Path, **options: Any) -> AsyncIterator[ProcessSandbox]:
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            sandbox = ProcessSandbox(folder, "functions", **options)
            await nursery.start(sandbox.run)
            yield sandbox
            nursery.cancel_scope.cancel()


async def failure_of(folder: Path, **options: Any) -> FluxError:
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            with pytest.raises(FluxError) as caught:
                await nursery.start(ProcessSandbox(folder, "functions", **options).run)
            return caught.value


async def run(sandbox: ProcessSandbox, function: str = "hello", memory_bytes_max: int = 2**28) -> Any:
    """Run a function in a fresh worker and return what it returned; None when it was killed."""
    worker = await sandbox.acquire()
    try:
        document = json.loads(make_document(function))
        await worker.start(json.dumps({**document, "memory_bytes_max": memory_bytes_max}).encode())
        talk = Talk(worker)
        while (frame := await talk.hear()) is not None and not isinstance(frame[0], str):
            pass
        assert frame is None or frame[0] == "return", frame
        return None if frame is None else frame[1]["body"]
    finally:
        await sandbox.release(worker, reusable=False)


def family_of(sandbox: ProcessSandbox) -> set[int]:
    """Return every process of the sandbox, from the one that is our child on."""
    assert sandbox.zygote_pid is not None
    top = sandbox.zygote_pid
    while parent_of(top) != os.getpid():
        top = parent_of(top)
    return {top, *descendants_of(top)}


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def count_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def oom_score_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def oom_scores_of(pids: set[int]) -> dict[int, int]:
    """Of those that are still there: a worker that has served ends by itself."""
    found = {}
    for pid in pids:
        # It may also end between the opening of its file and the reading.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found[pid] = oom_score_of(pid)
    return found


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@attrs.frozen
class Probed:
    """What came of trying the walls."""

    layers: list[str]
    """Those that hold; none where it was refused."""
    refusal: str


def probe(python: Callable[[list[str]], list[str]], *cases: Case) -> dict[Case, Probed]:
    """Try the walls of each case in one process; ``python`` makes a command of the interpreter's arguments."""
    command = python(["-c", PROBE, *("/".join(case) for case in cases)])
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {case: Probed(*line) for case, line in zip(cases, lines, strict=True)}


def behind(*before: str) -> Callable[[list[str]], list[str]]:
    """Return what has another program start the interpreter."""
    return lambda arguments: [*before, sys.executable, *arguments]


@functools.cache
def probe_without(number: int, error: int, cases: tuple[Case, ...]) -> dict[Case, Probed]:
    """Try the walls on a kernel that answers call ``number`` with ``error``."""
    return probe(behind(sys.executable, str(ROOT / "tests" / "missing_call.py"), str(number), str(error)), *cases)


# What it does not start without


@pytest.mark.parametrize(("level", "user"), LEVELS_AND_USERS)
def test_every_layer_is_tried_from_inside_and_holds(level: str, user: str) -> None:
    findings = probe_jail(level, find_tenant_uid("main") if user == "own" else None)
    assert [finding.name for finding in findings] == (STRICT_LAYERS if level == "strict" else LAYERS)
    assert all(finding.ok and finding.detail for finding in findings)


def test_somebody_who_owns_nothing_has_every_layer_too() -> None:
    probed = probe(command_as_nobody if IS_ROOT else behind(), ("strict", "own"))["strict", "own"]
    assert probed.layers == STRICT_LAYERS, probed.refusal


MISSING = {
    "landlock": (444, errno.ENOSYS, "layer landlock, landlock_create_ruleset(VERSION): ENOSYS"),
    "rules of landlock": (445, errno.EINVAL, "layer landlock, landlock_add_rule("),
    "putting landlock on": (446, errno.E2BIG, "layer landlock, landlock_restrict_self: E2BIG"),
    "seccomp": (317, errno.EINVAL, "layer seccomp, seccomp(SET_MODE_FILTER): EINVAL"),
    "closing descriptors": (436, errno.ENOSYS, "layer descriptors, close_range: ENOSYS"),
    "giving up capabilities": (126, errno.EPERM, "layer privileges, capset: EPERM"),
    "limits": (302, errno.EPERM, "layer limits, getrlimit("),
}
MISSING_IN_STRICT = {
    "namespaces": (272, errno.EPERM, "layer namespaces, unshare("),
    "mounts": (165, errno.EPERM, "layer namespaces, mount(/, private): EPERM"),
    "copies of mounts": (428, errno.ENOSYS, "layer namespaces, open_tree(/"),
    "read-only mounts": (442, errno.ENOSYS, "layer namespaces, mount_setattr(/"),
    "moving mounts": (429, errno.ENOSYS, "layer namespaces, move_mount(/"),
    "another root": (155, errno.EPERM, "layer namespaces, pivot_root: EPERM"),
    "a name": (170, errno.EPERM, "layer namespaces, sethostname: EPERM"),
}


@pytest.mark.parametrize(("level", "user"), LEVELS_AND_USERS)
@pytest.mark.parametrize("what", MISSING)
def test_a_kernel_that_lacks_something_is_refused_by_layer_call_and_errno(
    what: str, level: str, user: str
) -> None:
    number, error, said = MISSING[what]
    probed = probe_without(number, error, LEVELS_AND_USERS)[level, user]
    assert probed.layers == []
    assert f'FLX420  isolation "{level}" can\'t be had here: {said}' in probed.refusal


@pytest.mark.parametrize("user", ["own", "same"])
@pytest.mark.parametrize("what", MISSING_IN_STRICT)
def test_a_kernel_without_namespaces_is_refused_in_strict_and_does_for_core(what: str, user: str) -> None:
    number, error, said = MISSING_IN_STRICT[what]
    probed = probe_without(number, error, tuple(itertools.product(("strict", "core"), ("own", "same"))))
    strict = probed["strict", user]
    assert strict.layers == []
    assert f'FLX420  isolation "strict" can\'t be had here: {said}' in strict.refusal
    assert 'isolation = "core"' in strict.refusal, "what can be done is said"
    assert probed["core", user].layers == LAYERS


def test_where_user_namespaces_are_off_strict_is_refused_and_core_works() -> None:
    # The setting is a user namespace's own: the machine's is not touched.
    off = 'echo 0 > /proc/sys/user/max_user_namespaces; exec setpriv --bounding-set=-all --inh-caps=-all "$@"'
    before = ("unshare", "--user", "--map-root-user", "sh", "-c", off, "sh")
    probed = probe(behind(*before), ("strict", "own"), ("core", "own"))
    assert "layer namespaces, unshare(CLONE_NEWUSER): ENOSPC" in probed["strict", "own"].refusal
    assert "user.max_user_namespaces" in probed["strict", "own"].refusal
    assert probed["core", "own"].layers == LAYERS


def test_root_in_a_container_without_root_has_the_strict_jail_with_the_id_that_it_has() -> None:
    probed = probe(behind("unshare", "--user", "--map-root-user"), ("strict", "own"))["strict", "own"]
    assert probed.layers == STRICT_LAYERS, probed.refusal


def test_another_architecture_is_refused_by_name() -> None:
    probed = probe(behind("setarch", "i686"), ("core", "same"))["core", "same"]
    assert "layer seccomp, uname: this is linux on i686" in probed.refusal
    assert "x86_64" in probed.refusal


async def test_a_sandbox_says_why_its_jail_can_not_be_built(project: Callable[..., Path]) -> None:
    folder = project(a=HELLO)
    code = (
        "import sys, trio; from pathlib import Path; from flux.sandbox.process import ProcessSandbox\n"
        "async def main():\n"
        "    async with trio.open_nursery() as nursery:\n"
        "        await nursery.start(ProcessSandbox(Path(sys.argv[1]), 'functions').run)\n"
        "trio.run(main)"
    )
    missing = [str(ROOT / "tests" / "missing_call.py"), "444", str(errno.ENOSYS)]
    command = [sys.executable, *missing, sys.executable, "-c", code, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)  # noqa: ASYNC221
    assert "IsolationUnavailableError: FLX420" in done.stderr and "layer landlock" in done.stderr


@pytest.mark.parametrize("user", ["own", "same"])
async def test_code_that_the_guests_user_can_not_read_is_no_missing_code(
    user: str, project: Callable[..., Path]
) -> None:
    folder = project(a=HELLO)
    folder.chmod(0o700 if user == "own" and IS_ROOT else 0o000)
    uid = find_tenant_uid("main") if user == "own" else None
    try:
        if IS_ROOT and user == "same":
            # Without the rights of root even root's own folder is closed when its mode says so.
            assert isinstance(error := await failure_of(folder), IsolationUnavailableError)
        else:
            error = await failure_of(folder, uid=uid)
            assert isinstance(error, IsolationUnavailableError)
        assert f"access({folder}): " in error.message and "can't read" in error.message
        assert "chmod -R o+rX" in error.remedy
    finally:
        folder.chmod(0o755)


# What is inside


async def test_a_worker_is_somebody_else_and_has_a_number_of_its_own(project: Callable[..., Path]) -> None:
    uid = find_tenant_uid("main")
    folder = project(a=HELLO)
    folder.chmod(0o755)
    async with running(folder, uid=uid) as sandbox:
        worker = await sandbox.acquire()
        status = status_of(worker.pid)
        assert status["NSpid"].split()[0] == str(worker.pid) and len(status["NSpid"].split()) == 2
        assert set(status["Uid"].split()) == {str(uid if uid is not None else os.getuid())}
        assert status["CapEff"] == status["CapPrm"] == status["CapBnd"] == "0" * 16
        assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
        await sandbox.release(worker, reusable=False)


@pytest.mark.parametrize("isolation", ["strict", "core"])
async def test_what_python_brings_can_be_imported_and_used(
    isolation: str, project: Callable[..., Path]
) -> None:
    folder = project(
        a="""
        import contextlib, datetime, decimal, importlib, io, re, sqlite3, ssl, sys, warnings, zoneinfo
        from flux_guest import function

        @function()
        def use(ctx, input):
            database = sqlite3.connect(":memory:")
            database.execute("create table t as select 1 as one")
            ssl.create_default_context()
            zone = datetime.datetime(2026, 7, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"))
            failed = []
            for name in sorted(sys.stdlib_module_names - {"antigravity", "this", "idlelib", "turtledemo"}):
                if not name.startswith("_"):
                    try:
                        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
                            warnings.simplefilter("ignore")
                            importlib.import_module(name)
                    except ModuleNotFoundError:
                        pass  # of another system, or not built
                    except BaseException as error:
                        failed.append(f"{name}: {error!r}")
            one = database.execute("select one from t").fetchone()[0]
            return {"one": one, "offset": zone.utcoffset().seconds, "failed": failed}
        """
    )
    async with running(folder, isolation=isolation) as sandbox:
        assert json.loads(await run(sandbox, "use")) == {"one": 1, "offset": 7200, "failed": []}


async def test_importing_may_use_a_gigabyte_and_a_function_what_its_limit_says(
    project: Callable[..., Path],
) -> None:
    memory = """
    import mmap
    from flux_guest import function

    HELD = mmap.mmap(-1, {at_import}, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    @function()
    def use(ctx, input):
        return len(mmap.mmap(-1, 1200 * 2**20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    """
    error = await failure_of(project(a=textwrap.dedent(memory).format(at_import=1 << 31)))
    assert isinstance(error, ImportFailedError) and error.failures[0].type in ("OSError", "MemoryError")
    async with running(
        project(a=textwrap.dedent(memory).format(at_import=4096)), data_bytes_max=2**31
    ) as sandbox:
        assert json.loads(await run(sandbox, "use", memory_bytes_max=1400 * 2**20)) == 1200 * 2**20


# Who ends with whom


@pytest.mark.parametrize("which", ["keeper", "first", "zygote"])
async def test_when_one_process_of_the_jail_is_killed_all_end_and_another_jail_is_built(
    which: str, project: Callable[..., Path]
) -> None:
    async with running(project(a=HELLO)) as sandbox:
        await run(sandbox)
        zygote = sandbox.zygote_pid
        assert zygote is not None
        first = parent_of(zygote)
        keeper = parent_of(first)
        assert parent_of(keeper) == os.getpid()
        await wait_filled(sandbox)
        family = family_of_sandbox()
        assert {keeper, first, zygote} < family
        # Where memory runs out the kernel ends one of these, and not the server.
        scores = oom_scores_of(family)
        assert {keeper, first, zygote} < scores.keys() and set(scores.values()) == {1000}
        assert oom_score_of(os.getpid()) < 1000
        os.kill({"keeper": keeper, "first": first, "zygote": zygote}[which], 9)
        await wait_gone(*family)
        assert await run(sandbox) == "hello"
        assert sandbox.restarts == 1 and sandbox.zygote_pid != zygote


@pytest.mark.parametrize("isolation", ["strict", "core"])
async def test_a_zygote_whose_socket_others_hold_is_missed_when_it_is_killed(
    isolation: str, project: Callable[..., Path]
) -> None:
    hold = "import os, signal\nif os.fork() == 0:\n    signal.pause()\n"
    async with running(project(a=HELLO, holds=hold), isolation=isolation) as sandbox:
        assert await run(sandbox) == "hello"
        zygote = sandbox.zygote_pid
        assert zygote is not None
        await wait_filled(sandbox)
        family = family_of_sandbox()
        os.kill(zygote, 9)
        await wait_gone(*family)
        assert await run(sandbox) == "hello"
        assert sandbox.restarts == 1


async def test_a_jail_that_was_frozen_can_be_ended(project: Callable[..., Path]) -> None:
    async with running(project(a=HELLO)) as sandbox:
        await run(sandbox)
        await wait_filled(sandbox)
        family = family_of_sandbox()
        for pid in family:
            with contextlib.suppress(ProcessLookupError):  # A worker that has served is just being ended.
                os.kill(pid, 19)
    await wait_gone(*family)


# A zygote that lies

LIAR = """
import os, socket, time
from flux_guest import function

def lie(control):
    {lie}

if os.fork() == 0:
    control = socket.socket(fileno=os.dup(3))
    while True:
        try:
            lie(control)
        except BlockingIOError:
            pass
        time.sleep(0.001)

@function()
def hello(ctx, input):
    return "hello"
"""


@pytest.mark.parametrize("isolation", ["strict", "core"])
@pytest.mark.parametrize(
    "lie",
    [
        "socket.send_fds(control, [b'{\"forked\": 7}\\n'], [VICTIM])",
        "socket.send_fds(control, [b'{\"forked\": 7}\\n'], [os.pidfd_open(1)])",
        "socket.send_fds(control, [b'{\"forked\": 7}\\n'], [os.pidfd_open(os.getpid())])",
        "socket.send_fds(control, [b'{\"forked\": 7}\\n'], [0])",
        "socket.send_fds(control, [b' '], [0] * 60)",
        "control.sendall(b'{\"forked\": 7}\\n')",
        'control.sendall(b\'{"unforked": "no"}\\n\')',
        'control.sendall(b\'{"exited": 9999, "status": 0}\\n\' * 100)',
        "control.sendall(b'{\"jailed\": true}\\n')",
        "control.sendall(b'{\"refused\": 1}\\n')",
        'control.sendall(b\'{"ready": {"functions": []}}\\n\')',
        "control.sendall(b'[' * 100000 + b'\\n')",
        "control.sendall(b'\\xff\\x00\\n')",
        'control.sendall(b\'{"failed": [{"module": 1}]}\\n\')',
    ],
)
async def test_a_zygote_that_lies_has_no_workers_and_reaches_nobody(
    lie: str, isolation: str, project: Callable[..., Path]
) -> None:
    """The supervisor ends the process behind each handle when it is done: a lie must not choose whom."""
    with subprocess.Popen(["sleep", "600"], env={}) as victim:  # noqa: ASYNC220
        before = count_descriptors()
        try:
            # In core it sees the victim; in strict nobody, and shows itself.
            handle = f"os.pidfd_open({victim.pid if isolation == 'core' else 'os.getpid()'})"
            folder = project(a=LIAR.format(lie=lie.replace("VICTIM", handle)))
            with trio.fail_after(PATIENCE_S):
                async with trio.open_nursery() as nursery:
                    sandbox = ProcessSandbox(folder, "functions", isolation=isolation, idle_target=1)
                    try:
                        await nursery.start(sandbox.run)
                    except SandboxUnavailableError:
                        nursery.cancel_scope.cancel()  # It lied before it was ready.
                    else:
                        for _ in range(20):
                            with trio.move_on_after(0.5):
                                try:
                                    # A process of its own that it passes off as the worker is what is ended.
                                    assert await run(sandbox) in ("hello", None)
                                except SandboxUnavailableError:
                                    await trio.sleep(0.02)
                        nursery.cancel_scope.cancel()
            assert victim.poll() is None
        finally:
            victim.kill()
        assert count_descriptors() <= before, "descriptors that it sent are not kept"


def test_the_supervisors_own_limits_are_as_they_were() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA), os.umask(0o022)
    os.umask(before[1])
    probe_jail("core", None)
    assert before[0] == resource.getrlimit(resource.RLIMIT_DATA)


@pytest.mark.parametrize("holds_clock", [False, True])
def test_what_tightens_the_jail_around_a_worker_looks_up_no_name_that_a_project_could_have_changed(
    holds_clock: bool,
) -> None:
    """It was prepared before the project's modules ran, and runs after them, in the same process."""
    names = inspect.getclosurevars(prepare_confining(holds_clock))
    assert (names.globals, names.builtins) == ({}, {})
    assert {"put_limit", "put_pid", "call_system"} <= names.nonlocals.keys()


def test_ctrl_c_at_the_start_is_not_told_as_a_jail_that_can_not_be_had() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PESTERED], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
