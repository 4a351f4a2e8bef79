"""The process sandbox with real processes: imports that fail, pools under load, and everything that may be killed."""

import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from flux.errors import FluxError
from flux.sandbox.base import BadFunctionError, ImportFailedError, SandboxUnavailableError
from flux.sandbox.conformance import make_document
from flux.sandbox.jail_privileges import KEPT_VARIABLES, ONE_THREAD
from flux.sandbox.process import ProcessSandbox
from tests.repetitions import TIMES
from tests.zygote_world import (
    GOOD,
    PATIENCE_S,
    children_of,
    count_held,
    failure_of,
    family_of_sandbox,
    is_hello,
    run,
    run_on,
    running,
    settled,
    wait_filled,
    wait_gone,
    wait_rested,
    write_modules,
)

EXECUTIONS = 200 * TIMES
"""After which a sandbox has what it had."""


@pytest.fixture(autouse=True)
def no_child_of_ours_is_left() -> Iterator[None]:
    before = children_of(os.getpid())
    yield
    assert children_of(os.getpid()) <= before


@pytest.fixture
def project(tmp_path: Path) -> Callable[..., Path]:
    return lambda **modules: write_modules(tmp_path, **modules)


# Imports


async def test_modules_in_folders_and_packages_are_imported_and_what_they_print_is_handed_on(
    project: Callable[..., Path],
) -> None:
    printed: list[str] = []
    folder = project(
        **{
            "a": "import sys; print('from a'); print('to stderr', file=sys.stderr)",
            "orders/__init__": "from flux_guest import function\n"
            "@function('GET /all')\ndef all_orders(ctx, input): ...",
            "orders/pay": "from functions.orders import all_orders\nfrom flux_guest import function\n"
            "@function('POST /pay/{id}', timeout='250ms', atomic=False)\ndef pay(ctx, input): ...",
            "plain/folder/deep": "from flux_guest import function\n"
            "@function(name='deep.er', timeout=3)\ndef f(ctx, input): ...",
        }
    )
    async with running(folder, on_output=printed.append) as sandbox:
        found = {function.name: function for function in sandbox.functions}
    assert found.keys() == {"all_orders", "pay", "deep.er"}
    assert (found["pay"].route, found["pay"].timeout_s, found["pay"].atomic) == ("POST /pay/{id}", 0.25, False)
    assert found["deep.er"].timeout_s == 3.0
    assert (found["pay"].position.file, found["pay"].position.line) == ("functions/orders/pay.py", 3)
    assert sorted("".join(printed).splitlines()) == ["from a", "to stderr"]


IMPORTS = {
    "syntax": ("x = 1\ndef f(:\n    pass\n", "SyntaxError", 2),
    "exception": ("import math\n\nmath.sqrt(-1)\n", "ValueError", 3),
    "missing": ("\nimport there_is_no_such_module\n", "ModuleNotFoundError", 2),
    "exit": ("import sys\nsys.exit(3)\n", "SystemExit", 2),
    "unshowable": ("class E(Exception):\n    def __str__(self): 1/0\nraise E\n", "E", 3),
    "half_a_character": ("raise ValueError('\\ud800')\n", "ValueError", 1),
    "deep": ("def f(): f()\nf()\n", "RecursionError", 1),
    "thread": ("import threading\nthreading.Thread(target=print).start()\n", "RuntimeError", 2),
    "route": ("from flux_guest import function\n@function('orders')\ndef f(ctx, input): ...\n", "RegistrationError", 2),
    "isolation": (
        "from flux_guest import function\n@function(isolation='dirty')\ndef f(ctx, input): ...\n",
        "RegistrationError",
        2,
    ),
    "timeout": (
        "from flux_guest import function\n@function(timeout=-1)\ndef f(ctx, input): ...\n",
        "RegistrationError",
        2,
    ),
    "not_a_function": ("from flux_guest import function\nfunction()(3)\n", "RegistrationError", 2),
    "middleware": (
        "from flux_guest import middleware\n@middleware\nasync def auth(ctx): ...\n", "RegistrationError", 2,
    ),
    "input": (
        "from flux_guest import function\n@function(input=dict)\ndef f(ctx, input): ...\n",
        "RegistrationError",
        2,
    ),
    "input_type": (
        "import dataclasses\nfrom flux_guest import function\n@dataclasses.dataclass\nclass A:\n    b: 'NoSuch'\n"
        "@function(input=A)\ndef f(ctx, input): ...\n",
        "NameError",
        6,
    ),
}


@pytest.mark.parametrize("what", IMPORTS)
async def test_an_import_that_fails_is_one_plain_error_with_its_line(
    what: str, project: Callable[..., Path]
) -> None:
    text, kind, line = IMPORTS[what]
    folder = project(good=GOOD)
    (folder / "functions" / "bad.py").write_text(text)
    error = await failure_of(folder)
    assert isinstance(error, ImportFailedError)
    (failed,) = error.failures
    assert (failed.type, failed.file, failed.line) == (kind, "functions/bad.py", line)
    assert failed.type.rpartition(".")[2] in failed.traceback
    assert str(folder) not in failed.traceback
    json.dumps(failed.message).encode().decode()


async def test_each_module_that_fails_is_named_once_however_many_import_it(project: Callable[..., Path]) -> None:
    folder = project(
        a="import functions.broken",
        b="import functions.broken",
        broken="from flux_guest import function\n@function()\ndef f(ctx, input): ...\nraise KeyError('x')\n",
        other="1/0",
    )
    error = await failure_of(folder)
    assert isinstance(error, ImportFailedError)
    assert [(one.file, one.line, one.type) for one in error.failures] == [
        ("functions/broken.py", 4, "KeyError"),
        ("functions/other.py", 1, "ZeroDivisionError"),
    ]


async def test_a_name_declared_twice_names_both_places(project: Callable[..., Path]) -> None:
    error = await failure_of(project(a=GOOD, b=GOOD))
    assert isinstance(error, ImportFailedError)
    assert "'hello' exists already at a.py:4" in error.failures[0].message
    assert error.failures[0].file == "functions/b.py"


async def test_a_timeout_that_is_no_duration_is_refused_with_its_place(project: Callable[..., Path]) -> None:
    error = await failure_of(
        project(a="from flux_guest import function\n\n@function(timeout='10 parsecs')\ndef f(ctx, input): ...")
    )
    assert isinstance(error, BadFunctionError)
    assert error.message.startswith("functions/a.py:3  timeout of f")


@pytest.mark.parametrize(
    ("text", "how"),
    [
        ("import os; os._exit(3)", "exit code 3"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "signal 11"),
        ("import ctypes; ctypes.string_at(0)", "signal 11"),
        ("import os; os.close(3); import time; time.sleep(1000)", "signal 9"),
    ],
)
async def test_an_import_that_ends_the_process_names_the_module_and_how(
    text: str, how: str, project: Callable[..., Path]
) -> None:
    error = await failure_of(project(a=GOOD, crash=text))
    assert isinstance(error, SandboxUnavailableError)
    assert error.message == f"importing functions/crash.py ended the process: {how}"


async def test_an_import_without_end_is_stopped_and_says_where_it_stood(project: Callable[..., Path]) -> None:
    printed: list[str] = []
    folder = project(a=GOOD, slow="def wait():\n    while True:\n        pass\n\nwait()\n")
    for deadline_s in (2.0, 10.0, 50.0, 250.0):
        printed.clear()
        error = await failure_of(folder, import_deadline_s=deadline_s, on_output=printed.append)
        assert isinstance(error, SandboxUnavailableError)
        assert f"took more than {deadline_s:g} s" in error.message
        # On a busy machine a zygote may need longer than the first deadlines to come to the module at all.
        if 'functions/slow.py", line' in "".join(printed):
            break
    assert "importing functions/slow.py took" in error.message
    assert 'functions/slow.py", line' in "".join(printed)


async def test_a_module_that_writes_to_the_zygotes_own_door_is_understood_as_that(
    project: Callable[..., Path],
) -> None:
    error = await failure_of(project(a="import os; os.write(3, b'hello\\n')"))
    assert isinstance(error, SandboxUnavailableError)
    assert "no message of its protocol" in error.message


async def test_a_project_without_functions_is_ready_and_empty(tmp_path: Path) -> None:
    async with running(tmp_path) as sandbox:
        assert sandbox.functions == ()


async def test_time_and_randomness_at_import_are_real(project: Callable[..., Path]) -> None:
    folder = project(
        a="""
        import secrets, time
        from flux_guest import function
        KEY, AT = secrets.token_hex(), time.time()

        @function()
        def key(ctx, input):
            return {"key": KEY, "at": AT}
        """
    )
    seen = []
    for _ in range(2):
        async with running(folder) as sandbox:
            frame = await run(sandbox, "key")
            assert frame is not None
            seen.append(json.loads(frame[1]["body"]))
    assert seen[0]["key"] != seen[1]["key"]
    assert seen[0]["at"] < seen[1]["at"]


# The pool


async def test_hundreds_of_callers_at_once_are_all_served_with_few_forks_in_flight(
    project: Callable[..., Path],
) -> None:
    served = 0
    async with running(project(a=GOOD)) as sandbox:

        async def one() -> None:
            nonlocal served
            assert is_hello(await run(sandbox))
            served += 1

        async with trio.open_nursery() as nursery:
            for _ in range(200):
                nursery.start_soon(one)
    assert served == 200


async def test_hundreds_of_executions_leave_no_descriptor_and_no_process(project: Callable[..., Path]) -> None:
    async with running(project(a=GOOD), idle_max=4) as sandbox:
        assert is_hello(await run(sandbox))
        zygote = sandbox.zygote_pid
        assert zygote is not None
        await settled(sandbox, zygote)
        held = count_held(zygote)
        for _ in range(EXECUTIONS):
            assert is_hello(await run(sandbox))
        # The zygote has a descriptor more while it forks or buries: only what is never given back is a leak.
        with trio.move_on_after(PATIENCE_S / 10):
            while count_held(zygote) != held:  # noqa: ASYNC110 - the zygote tells nobody
                await trio.sleep(0.01)
        assert count_held(zygote) == held
        assert sandbox.restarts == 0


async def test_callers_who_give_up_at_any_moment_lose_no_worker(project: Callable[..., Path]) -> None:
    async with running(project(a=GOOD), idle_target=1) as sandbox:

        async def impatient(patience_s: float) -> None:
            with trio.move_on_after(patience_s):
                await run(sandbox)

        for _ in range(5):
            async with trio.open_nursery() as nursery:
                for number in range(40):
                    nursery.start_soon(impatient, number / 1000)
        assert is_hello(await run(sandbox))
        zygote = sandbox.zygote_pid
        assert zygote is not None
        await settled(sandbox, zygote)


async def test_a_warm_worker_serves_as_often_as_it_may(project: Callable[..., Path]) -> None:
    async with running(project(a=GOOD), warm=3, idle_target=1) as sandbox:
        pids = []
        for _ in range(7):
            worker = await sandbox.acquire()
            pids.append(worker.pid)
            assert is_hello(await run_on(worker))
            await sandbox.release(worker, reusable=True)
            await wait_rested(sandbox)
    counts = [pids.count(pid) for pid in dict.fromkeys(pids)]
    assert counts[0] == 3
    assert max(counts) == 3


async def test_who_wants_a_fresh_worker_gets_one_however_many_warm_ones_wait(project: Callable[..., Path]) -> None:
    async with running(project(a=GOOD), warm=100, idle_target=1) as sandbox:
        used: set[int] = set()
        for _ in range(3):
            workers = [await sandbox.acquire() for _ in range(4)]
            for worker in workers:
                used.add(worker.pid)
                assert is_hello(await run_on(worker))
                await sandbox.release(worker, reusable=True)
            await wait_rested(sandbox)
            fresh = await sandbox.acquire(fresh=True)
            assert (fresh.served, fresh.pid in used) == (0, False)
            assert is_hello(await run_on(fresh))
            await sandbox.release(fresh, reusable=False)


async def test_a_warm_worker_that_comes_back_is_not_given_to_who_wants_a_fresh_one(
    project: Callable[..., Path],
) -> None:
    async with running(project(a=GOOD), warm=100, idle_target=1) as sandbox:
        busy = [await sandbox.acquire() for _ in range(3)]
        zygote = sandbox.zygote_pid
        assert zygote is not None
        got: list[int] = []

        async def want() -> None:
            worker = await sandbox.acquire(fresh=True)
            got.append(worker.served)
            await sandbox.release(worker, reusable=False)

        for worker in busy:
            assert is_hello(await run_on(worker))
        os.kill(zygote, signal.SIGSTOP)
        async with trio.open_nursery() as nursery:
            for _ in range(40):  # More than wait.
                nursery.start_soon(want)
            await trio.testing.wait_all_tasks_blocked()
            for worker in busy:
                await sandbox.release(worker, reusable=True)
            await wait_rested(sandbox)
            warm = await sandbox.acquire()
            assert warm.served == 1
            await sandbox.release(warm, reusable=True)
            os.kill(zygote, signal.SIGCONT)
        assert got == [0] * 40


async def test_a_worker_that_was_killed_while_it_waited_is_not_handed_out(project: Callable[..., Path]) -> None:
    async with running(project(a=GOOD), idle_target=3) as sandbox:
        zygote = sandbox.zygote_pid
        assert zygote is not None
        await settled(sandbox, zygote)
        waiting = children_of(zygote)
        for pid in waiting:
            os.kill(pid, signal.SIGKILL)
        await wait_gone(*waiting)
        for _ in range(5):
            assert is_hello(await run(sandbox))


async def test_a_worker_killed_while_it_runs_is_known_by_its_signal(project: Callable[..., Path]) -> None:
    async with running(project(a=GOOD)) as sandbox:
        worker = await sandbox.acquire()
        await worker.start(make_document("hang"))
        os.kill(worker.pid, signal.SIGKILL)
        assert await worker.receive() == b""
        assert (await worker.wait_exit()).signal == signal.SIGKILL
        await sandbox.release(worker, reusable=False)


async def test_an_end_of_which_no_signal_tells_is_known_all_the_same(project: Callable[..., Path]) -> None:
    # A signal that comes just before the zygote waits for us is heard when we speak. This one never is.
    deaf = "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])\n"
    async with running(project(a=deaf + GOOD), idle_target=1) as sandbox:
        worker, other = await sandbox.acquire(), await sandbox.acquire()
        await wait_rested(sandbox)  # Nothing is asked of the zygote that would wake it.
        await worker.start(make_document("hang"))
        os.kill(worker.pid, signal.SIGKILL)
        with trio.fail_after(PATIENCE_S):
            assert (await worker.wait_exit()).signal == signal.SIGKILL
        assert other.is_running()
        await sandbox.release(worker, reusable=False)
        await sandbox.release(other, reusable=False)
        for _ in range(5):
            assert is_hello(await run(sandbox))


async def test_a_zygote_that_is_killed_is_replaced_and_those_who_wait_are_served(
    project: Callable[..., Path],
) -> None:
    served = 0
    async with running(project(a=GOOD), idle_target=1) as sandbox:
        busy = await sandbox.acquire()
        await busy.start(make_document("hang"))
        first = sandbox.zygote_pid
        assert first is not None

        async def one() -> None:
            nonlocal served
            # Those whose worker dies with the zygote hear nothing; they are not those who wait.
            while not is_hello(await run(sandbox)):
                pass
            served += 1

        async with trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(one)
            await trio.sleep(0.01)
            os.kill(first, signal.SIGKILL)
            exited = await busy.wait_exit()
        assert (exited.exit_code, exited.signal) == (None, None)
        assert "was killed" in exited.output
        await wait_gone(busy.pid)
        await sandbox.release(busy, reusable=False)
        assert served == 30
        assert (sandbox.restarts, sandbox.zygote_pid != first) == (1, True)


async def test_a_zygote_that_can_not_be_replaced_is_an_error_to_callers_and_tried_again(
    project: Callable[..., Path],
) -> None:
    folder = project(a=GOOD)
    async with running(folder) as sandbox:
        pid = sandbox.zygote_pid
        assert pid is not None
        (folder / "functions" / "a.py").write_text("1/0")
        os.kill(pid, signal.SIGKILL)
        while True:
            try:
                await run(sandbox)
            except SandboxUnavailableError as error:
                assert "functions/a.py:1  ZeroDivisionError" in error.message
                break
        (folder / "functions" / "a.py").write_text(GOOD)
        while True:
            try:
                assert is_hello(await run(sandbox))
                break
            except SandboxUnavailableError:
                await trio.sleep(0.05)


async def test_a_sandbox_that_is_taken_down_says_so_to_those_who_wait(project: Callable[..., Path]) -> None:
    refused: list[FluxError] = []
    folder = project(a=GOOD)
    async with trio.open_nursery() as outer:
        sandbox = ProcessSandbox(folder, "functions", idle_target=0)

        async def wait() -> None:
            try:
                worker = await sandbox.acquire()
            except SandboxUnavailableError as error:
                refused.append(error)
            else:
                await sandbox.release(worker, reusable=False)

        async with trio.open_nursery() as inner:
            await inner.start(sandbox.run)
            pid = sandbox.zygote_pid
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)  # So that nobody can be served.
            for _ in range(3):
                outer.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            inner.cancel_scope.cancel()
    assert len(refused) == 3
    with pytest.raises(SandboxUnavailableError):
        await sandbox.acquire()
    await wait_gone(pid)


async def test_no_descriptor_left_is_an_error_to_the_caller_and_no_end(project: Callable[..., Path]) -> None:
    import resource

    async with running(project(a=GOOD), idle_target=0, idle_max=0) as sandbox:
        assert is_hello(await run(sandbox))
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        gc.collect()  # What other tests have left to it would be closed meanwhile, and leave room.
        lowest = os.open(os.devnull, os.O_RDONLY)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 2, hard))
        try:
            with pytest.raises(SandboxUnavailableError, match="Too many open files"):
                await run(sandbox)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert is_hello(await run(sandbox))


# Who ends with whom

SUPERVISOR = """
import sys, trio
from pathlib import Path
from flux.sandbox.conformance import make_document
from flux.sandbox.jail_privileges import KEPT_VARIABLES, ONE_THREAD
from flux.sandbox.process import ProcessSandbox

async def main():
    async with trio.open_nursery() as nursery:
        sandbox = ProcessSandbox(Path(sys.argv[1]), "functions")
        await nursery.start(sandbox.run)
        worker = await sandbox.acquire()
        await worker.start(make_document("hang"))
        print(sandbox.zygote_pid, worker.pid, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


async def test_a_supervisor_that_is_killed_leaves_no_process(project: Callable[..., Path]) -> None:
    folder = project(a=GOOD)
    arguments = [sys.executable, "-c", SUPERVISOR, str(folder)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as supervisor:  # noqa: ASYNC220
        try:
            assert supervisor.stdout is not None
            line = await trio.to_thread.run_sync(supervisor.stdout.readline)
            zygote, worker = map(int, line.split())
            family = {zygote, *children_of(zygote)}
            assert worker in family
        finally:
            supervisor.kill()
        await wait_gone(*family)


@pytest.mark.parametrize("isolation", ["strict", "core"])
async def test_what_modules_leave_running_ends_with_the_sandbox(
    isolation: str, project: Callable[..., Path]
) -> None:
    folder = project(
        a="""
        import ctypes
        from flux_guest import function

        # Past the SDK's refusal, as hostile code would: fork, then fork again and let go.
        libc = ctypes.CDLL(None)
        if libc.fork() == 0:
            if libc.fork() == 0:
                libc.setsid()
                libc.setpgid(0, 0)
            libc.pause()

        @function()
        def hello(ctx, input):
            return "hello"
        """
    )
    async with running(folder, isolation=isolation, idle_target=1) as sandbox:
        assert is_hello(await run(sandbox))
        await wait_filled(sandbox)
        family = family_of_sandbox()
        assert len(family) >= 4
    await wait_gone(*family)


async def test_a_worker_can_leave_nothing_running(project: Callable[..., Path]) -> None:
    folder = project(
        a="""
        import ctypes
        from flux_guest import function

        @function()
        def forks(ctx, input):
            libc = ctypes.CDLL(None, use_errno=True)
            return {"fork": libc.fork(), "errno": ctypes.get_errno()}
        """
    )
    async with running(folder) as sandbox:
        frame = await run(sandbox, "forks")
        assert frame is not None and json.loads(frame[1]["body"]) == {"fork": -1, "errno": 1}


async def test_a_worker_has_only_its_own_descriptors_and_an_empty_environment(
    project: Callable[..., Path],
) -> None:
    folder = project(
        a="""
        import os, sys
        from flux_guest import function

        @function()
        def show(ctx, input):
            descriptors = []
            for number in range(256):
                try:
                    os.fstat(number)
                    descriptors.append(number)
                except OSError:
                    pass
            return {"descriptors": descriptors, "environment": sorted(os.environ), "cwd": os.getcwd()}
        """
    )
    os.environ["SECRET_OF_THE_SUPERVISOR"] = "x"
    try:
        async with running(folder) as sandbox:
            frame = await run(sandbox, "show")
    finally:
        del os.environ["SECRET_OF_THE_SUPERVISOR"]
    assert frame is not None
    shown = json.loads(frame[1]["body"])
    assert shown["descriptors"] == [0, 1, 2, 3]
    assert shown["environment"] == sorted([*KEPT_VARIABLES, *ONE_THREAD])
    assert shown["cwd"] == str(folder)


async def test_a_decorator_without_parentheses_makes_a_function_without_a_route(
    project: Callable[..., Path],
) -> None:
    bare = GOOD + "\n@function\ndef bare(ctx, input):\n    return 'hello'\n"
    async with running(project(a=bare)) as sandbox:
        assert {found.name: found.route for found in sandbox.functions}["bare"] is None
        assert is_hello(await run(sandbox, "bare"))
