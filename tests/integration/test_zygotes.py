"""Zygotes over a longer time: how many workers wait, who leaves memory, what is bounded, what is left behind."""

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest
import trio

from flux.project import read_project
from flux.sandbox import demand
from flux.sandbox.cgroups import Cgroups, NoCgroups, describe, find_cgroups, open_cgroups
from flux.sandbox.conformance import Talk, make_document
from flux.sandbox.jail import IsolationUnavailableError
from flux.sandbox.process import CPU_GRACE_S, ProcessSandbox
from flux.sandbox.process_worker import ProcessWorker
from flux.sandbox.residency import Residency
from flux.supervisor.artifacts import Artifacts
from flux.supervisor.deployments import Deployments
from flux.supervisor.environments import Environments
from flux.supervisor.isolation import Isolation
from flux.tenant import Tenant
from tests.zygote_world import (
    GOOD,
    children_of,
    descendants_of,
    is_hello,
    run,
    running,
    settled,
    state_of,
    wait_gone,
    write_modules,
)

WAITS_TO_BE_TOLD = """
from flux_guest import function

@function()
def wait(ctx, input):
    ctx.clock.fresh()
    return "{answer}"
"""


async def body_of(sandbox: ProcessSandbox, function: str) -> Any:
    frame = await run(sandbox, function)
    assert frame is not None and frame[0] == "return", frame
    return json.loads(frame[1]["body"])


# How many wait


async def test_a_rush_is_prepared_for_and_forgotten_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demand, "HALF_LIFE_S", 0.5)
    async with running(write_modules(tmp_path, a=GOOD), idle_target=2, idle_max=12) as sandbox:
        zygote = sandbox.zygote_pid
        assert zygote is not None
        await settled(sandbox, zygote)
        assert len(children_of(zygote)) == 2
        waited = 0
        async with trio.open_nursery() as watching:

            async def watch() -> None:
                nonlocal waited
                while True:
                    waited = max(waited, len(sandbox._idle))
                    await trio.sleep(0.01)

            watching.start_soon(watch)
            async with trio.open_nursery() as rush:
                for _ in range(40):
                    rush.start_soon(run, sandbox)
            while len(children_of(zygote)) != 2 or waited <= 2:  # noqa: ASYNC110 - a zygote tells nobody
                await trio.sleep(0.01)
            watching.cancel_scope.cancel()
        assert is_hello(await run(sandbox))


# Who leaves memory


async def test_the_deployment_that_was_idle_longest_gives_up_its_process_and_gets_one_when_it_is_asked(
    tmp_path: Path,
) -> None:
    residency = Residency(zygotes_max=1)
    first_folder = write_modules(tmp_path / "first", a=GOOD)
    second_folder = write_modules(tmp_path / "second", a=GOOD)
    async with running(first_folder, residency=residency) as first:
        left = first.zygote_pid
        assert left is not None
        family = {left, *children_of(left)}
        async with running(second_folder, residency=residency) as second:
            await wait_gone(*family)
            assert (first.zygote_pid, first.restarts) == (None, 0)
            assert [function.name for function in first.functions] == ["hello", "hang"]
            assert is_hello(await run(second))
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(run, first)
            assert is_hello(await run(first))
            assert first.zygote_pid not in (None, left)
            assert second.zygote_pid is None


async def test_a_deployment_at_work_keeps_its_process(tmp_path: Path) -> None:
    residency = Residency(zygotes_max=1)
    async with running(write_modules(tmp_path / "first", a=GOOD), residency=residency) as first:
        zygote = first.zygote_pid
        worker = await first.acquire()
        async with running(write_modules(tmp_path / "second", a=GOOD), residency=residency) as second:
            assert is_hello(await run(second))
            assert first.zygote_pid == zygote
            assert second.zygote_pid is not None
            await first.release(worker, reusable=False)
            assert [one.zygote_pid for one in (first, second)] == [zygote, None]
            assert is_hello(await run(second))


async def test_a_process_that_nobody_asks_for_long_ends_and_comes_back(tmp_path: Path) -> None:
    async with running(write_modules(tmp_path, a=GOOD), residency=Residency(idle_s_max=0.2)) as sandbox:
        first = sandbox.zygote_pid
        assert first is not None
        await wait_gone(first)
        assert is_hello(await run(sandbox))
        worker = await sandbox.acquire()
        at_work = sandbox.zygote_pid
        assert at_work is not None
        await trio.sleep(0.5)
        assert state_of(at_work) != ""
        await sandbox.release(worker, reusable=False)
        await wait_gone(at_work)
        assert sandbox.restarts == 0


async def test_who_was_just_given_a_worker_keeps_its_process_from_leaving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(write_modules(tmp_path, a=GOOD), idle_target=1) as sandbox:
        offer = sandbox._offer

        def offer_and_settle(worker: ProcessWorker, *, first: bool = False) -> None:
            offer(worker, first=first)
            # As another deployment does that enters at this very moment.
            if not sandbox.is_busy:
                sandbox.evict()

        monkeypatch.setattr(sandbox, "_offer", offer_and_settle)
        sandbox.evict()
        assert is_hello(await run(sandbox))


async def test_many_who_come_while_processes_leave_are_all_served(tmp_path: Path) -> None:
    residency = Residency(zygotes_max=2)
    served = 0
    async with trio.open_nursery() as nursery:
        sandboxes = []
        for number in range(3):
            sandbox = ProcessSandbox(
                write_modules(tmp_path / str(number), a=GOOD), "functions", residency=residency, idle_target=1
            )
            await nursery.start(sandbox.run)
            sandboxes.append(sandbox)

        async def ask_now_and_then(sandbox: ProcessSandbox, pause_s: float) -> None:
            nonlocal served
            for _ in range(6):
                await trio.sleep(pause_s)
                assert is_hello(await run(sandbox))
                served += 1

        async with trio.open_nursery() as asking:
            for number, sandbox in enumerate(sandboxes * 2):
                asking.start_soon(ask_now_and_then, sandbox, 0.01 * number)
        assert served == 36
        assert len(residency) <= 2
        nursery.cancel_scope.cancel()


async def test_what_runs_when_new_code_comes_ends_on_the_code_that_it_began_on(tmp_path: Path) -> None:
    project = write_modules(tmp_path / "shop", a=WAITS_TO_BE_TOLD.format(answer="old"))
    (project / "flux.toml").write_text('[project]\nname = "shop"\n')
    async with trio.open_nursery() as nursery:
        deployments = Deployments(
            nursery,
            Artifacts(tmp_path / "artifacts"),
            Environments(tmp_path / "environments"),
            Tenant(),
            idle_workers=1,
            on_output=print,
        )
        old = await deployments.prepare(read_project(project))
        deployments.activate(old)
        old.enter()
        sandbox = old.runnables["wait"].sandbox
        assert isinstance(sandbox, ProcessSandbox)
        zygote = sandbox.zygote_pid
        assert zygote is not None
        worker = await sandbox.acquire()
        await worker.start(make_document("wait"))
        talk = Talk(worker)
        seq, _, _ = await talk.hear_call()

        write_modules(project, a=WAITS_TO_BE_TOLD.format(answer="new"))
        new = await deployments.prepare(read_project(project))
        deployments.activate(new)
        assert await deployments.wait_current() is new

        await talk.answer(seq, None)
        assert await talk.hear_body() == "old"
        await sandbox.release(worker, reusable=False)
        assert sandbox.zygote_pid == zygote, "its request has not left yet"
        old.leave()
        await wait_gone(zygote)
        nursery.cancel_scope.cancel()


# What forking does not do, and what is undone


async def test_a_module_that_wants_to_know_of_forks_is_told_of_them(tmp_path: Path) -> None:
    text = """
    import os
    from flux_guest import function

    SEEN = []
    {}

    @function()
    def seen(ctx, input):
        return SEEN
    """
    hooks = "os.register_at_fork(before=lambda: SEEN.append('before'), after_in_child=lambda: SEEN.append('child'))"
    async with running(
        write_modules(tmp_path / "told", a=text.format(hooks)), idle_target=0, idle_max=0
    ) as told:
        assert await body_of(told, "seen") == ["before", "child"]
    silent = write_modules(tmp_path / "silent", a=text.format("import logging, concurrent.futures.thread"))
    async with running(silent) as sandbox:
        assert await body_of(sandbox, "seen") == []


async def test_what_was_run_before_the_first_execution_leaves_no_trace_in_it(tmp_path: Path) -> None:
    folder = write_modules(
        tmp_path,
        a="""
        import asyncio, random, signal, sys, uuid
        from flux_guest import function

        FIXED = random.Random(7)

        @function()
        async def look(ctx, input):
            other = asyncio.create_task(asyncio.sleep(0))
            await other
            return {
                "tasks": [asyncio.current_task().get_name(), other.get_name()],
                "fixed": FIXED.random(),
                "signal": signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL,
                "chance": [random.random(), str(uuid.uuid4())],
            }
        """,
    )
    printed: list[str] = []
    seen = []
    for _ in range(2):
        async with running(folder, on_output=printed.append) as sandbox:
            seen += [await body_of(sandbox, "look") for _ in range(3)]
    assert seen == [seen[0]] * 6
    assert seen[0]["tasks"] == ["Task-1", "Task-2"]
    assert seen[0]["signal"] is True
    assert printed == []


# What is bounded


@pytest.mark.parametrize("warm", [1, 3])
async def test_a_worker_has_as_much_processor_time_as_its_executions_may_last(
    tmp_path: Path, warm: int
) -> None:
    folder = write_modules(
        tmp_path,
        a="""
        import resource
        from flux_guest import function

        @function(timeout="90s")
        def limits(ctx, input):
            return resource.getrlimit(resource.RLIMIT_CPU)
        """,
    )
    async with running(folder, timeout_s_max=12.5, warm=warm) as sandbox:
        assert await body_of(sandbox, "limits") == [90 * warm + CPU_GRACE_S] * 2
    (folder / "functions" / "a.py").write_text(
        (folder / "functions" / "a.py").read_text().replace("90s", "2s")
    )
    async with running(folder, timeout_s_max=12.5, warm=warm) as sandbox:
        assert await body_of(sandbox, "limits") == [math.ceil(12.5) * warm + CPU_GRACE_S] * 2


# What is left behind

SUPERVISOR = """
import sys, trio
from pathlib import Path
from flux.sandbox.conformance import make_document
from flux.sandbox.process import ProcessSandbox

async def main():
    async with trio.open_nursery() as nursery:
        sandbox = ProcessSandbox(Path(sys.argv[1]), "functions", isolation=sys.argv[2])
        await nursery.start(sandbox.run)
        worker = await sandbox.acquire()
        await worker.start(make_document("hang"))
        print(sandbox.zygote_pid, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""
FORKS_AND_LETS_GO = (
    """
import ctypes, signal

# Past the SDK's refusal, as hostile code would: fork, then fork again and let go, deaf to what can be ignored.
libc = ctypes.CDLL(None)
if libc.fork() == 0:
    if libc.fork() == 0:
        libc.setsid()
        libc.setpgid(0, 0)
        for number in range(1, 65):
            libc.signal(number, 1)
    while True:
        libc.pause()
"""
    + GOOD
)


@pytest.fixture
def supervised(tmp_path: Path, isolation: str) -> Iterator[tuple[subprocess.Popen[str], set[int], int]]:
    """A supervisor whose module has let go of processes; all that it has started; the zygote among them."""
    folder = write_modules(tmp_path, a=FORKS_AND_LETS_GO)
    with started([sys.executable, "-c", SUPERVISOR, str(folder), isolation]) as (supervisor, said, _):
        zygote = int(said.readline())
        yield supervisor, descendants_of(supervisor.pid), zygote


@pytest.mark.parametrize("isolation", ["strict", "core"])
async def test_what_modules_leave_running_ends_with_a_supervisor_that_is_killed(
    supervised: tuple[subprocess.Popen[str], set[int], int],
) -> None:
    supervisor, family, zygote = supervised
    assert zygote in family and len(family) >= 4
    supervisor.kill()
    await wait_gone(*family)


@pytest.mark.parametrize("isolation", ["strict", "core"])
async def test_what_modules_leave_running_ends_with_a_zygote_that_is_killed(
    supervised: tuple[subprocess.Popen[str], set[int], int],
) -> None:
    supervisor, family, zygote = supervised
    os.kill(zygote, signal.SIGKILL)
    await wait_gone(*family)
    assert supervisor.poll() is None


@pytest.mark.parametrize("isolation", ["strict", "core"])
async def test_what_modules_leave_running_ends_with_the_keeper_that_is_killed(
    supervised: tuple[subprocess.Popen[str], set[int], int],
) -> None:
    supervisor, family, _zygote = supervised
    (keeper,) = children_of(supervisor.pid)
    os.kill(keeper, signal.SIGKILL)
    await wait_gone(*family)


# Control groups

IN_A_GROUP = """
import json, os, sys, trio
from pathlib import Path
from flux.sandbox.cgroups import Cgroups, open_cgroups
from flux.sandbox.process import ProcessSandbox

async def main():
    await trio.to_thread.run_sync((Path(sys.argv[1]) / "cgroup.procs").write_text, str(os.getpid()))
    cgroups = open_cgroups(())
    assert isinstance(cgroups, Cgroups), cgroups
    async with trio.open_nursery() as nursery:
        sandbox = ProcessSandbox(Path(sys.argv[2]), "functions", cgroups=cgroups)
        await nursery.start(sandbox.run)
        groups = {str(pid): Path("/proc", str(pid), "cgroup").read_text() for pid in (os.getpid(), sandbox.zygote_pid)}
        print(json.dumps([str(cgroups.folder), sandbox.zygote_pid, groups]), flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)
        nursery.cancel_scope.cancel()

trio.run(main)
"""


@contextmanager
def started(arguments: list[str]) -> Iterator[tuple[subprocess.Popen[str], IO[str], IO[str]]]:
    """A process with what it says and what it is told; killed in the end."""
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdin is not None
        try:
            yield process, process.stdout, process.stdin
        finally:
            process.kill()


def find_writable_tree() -> Path | None:
    """Return a folder of this machine's tree in which groups can be made, if we may."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.split()[0] == "cgroup2":
            folder = Path(before.split()[4])
            return folder if os.geteuid() == 0 and os.access(folder, os.W_OK) else None
    return None


def test_whether_there_are_control_groups_is_said_with_the_reason() -> None:
    found = find_cgroups()
    line = describe(found)
    assert (line["name"], line["ok"]) == ("cgroups", True)
    match found:
        case NoCgroups(reason):
            assert reason in str(line["detail"]) and "Delegate=yes" in str(line["remedy"])
        case Cgroups(folder, controllers):
            assert str(folder) in str(line["detail"]) and set(controllers) <= {"memory", "pids", "cpu"}


def test_what_no_group_controls_is_not_bounded_and_said() -> None:
    found = open_cgroups(("there-is-no-such-controller",))
    assert isinstance(found, NoCgroups)
    assert found.reason


async def test_control_groups_that_are_required_and_not_to_be_had_are_missed_by_name(tmp_path: Path) -> None:
    project = write_modules(tmp_path, a=GOOD)
    (project / "flux.toml").write_text('[project]\nname = "shop"\n[sandbox]\ncgroups = "required"\n')
    found = find_cgroups()
    if isinstance(found, Cgroups):
        return  # Going on would move this process, and whoever runs it, into a group below theirs.
    with pytest.raises(IsolationUnavailableError) as refused:
        await Isolation(Tenant()).probe(read_project(project))
    assert "layer cgroups" in refused.value.message and found.reason in refused.value.message


async def test_a_zygote_gets_a_group_of_its_own_which_ends_with_it(tmp_path: Path) -> None:
    tree = find_writable_tree()
    if tree is None:
        # Nothing is ours here, and that is found out without a try.
        assert isinstance(find_cgroups(), NoCgroups)
        return
    own = tree / f"flux-test-{os.getpid()}"
    own.mkdir()
    try:
        os.setxattr(own, "trusted.delegate", b"1")
        folder = write_modules(tmp_path, a=FORKS_AND_LETS_GO)
        arguments = [sys.executable, "-c", IN_A_GROUP, str(own), str(folder)]
        with started(arguments) as (supervisor, said, told):
            place, zygote, groups = json.loads(await trio.to_thread.run_sync(said.readline))
            assert place == str(own)
            assert groups[str(supervisor.pid)].rstrip().endswith(f"/{own.name}/flux-host")
            (group,) = own.glob("flux-*-*")
            assert groups[str(zygote)].rstrip().endswith(f"/{own.name}/{group.name}")
            inside = {int(pid) for pid in (group / "cgroup.procs").read_text().split()}
            assert {zygote, *descendants_of(zygote)} <= inside
            told.write("\n")
            told.flush()
            assert await trio.to_thread.run_sync(supervisor.wait) == 0
        await wait_gone(*inside)
        assert not list(own.glob("flux-*-*"))
    finally:
        for folder in (*own.glob("*/"), own):
            folder.rmdir()


async def test_a_group_that_a_killed_server_left_is_removed_by_the_next(tmp_path: Path) -> None:
    tree = find_writable_tree()
    if tree is None:
        assert isinstance(find_cgroups(), NoCgroups)
        return
    own = tree / f"flux-test-left-{os.getpid()}"
    own.mkdir()
    try:
        os.setxattr(own, "trusted.delegate", b"1")
        folder = write_modules(tmp_path, a=GOOD)
        for _ in range(2):
            arguments = [sys.executable, "-c", IN_A_GROUP, str(own), str(folder)]
            with started(arguments) as (supervisor, said, _):
                _, zygote, _ = json.loads(await trio.to_thread.run_sync(said.readline))
                left = [group.name.split("-")[1] for group in own.glob("flux-*-*")]
                assert left == [str(supervisor.pid)]
            await wait_gone(zygote)
    finally:
        for folder in (*own.glob("*/"), own):
            folder.rmdir()
