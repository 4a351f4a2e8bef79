"""The jail of the process that runs wasm guests: what it does not start without, and who ends with whom.

What somebody in it can't do is for tests/escape.
"""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from flux.execution import Level
from flux.sandbox.cgroups import NoCgroups, find_cgroups
from flux.sandbox.conformance import Talk, make_document
from flux.sandbox.jail import describe_findings, find_tenant_uid, probe_jail
from flux.sandbox.wasm import WasmSandbox, default_folder
from tests.escape.unprivileged import command_as_nobody
from tests.integration.test_zygotes import find_writable_tree, started

PATIENCE_S = 120.0
ROOT = Path(__file__).parents[2]
IS_ROOT = os.geteuid() == 0
LAYERS = ["descriptors", "environment", "limits", "privileges", "landlock", "seccomp"]
STRICT_LAYERS = [*LAYERS, "namespaces", "user", "code"]
PROBE = """
import sys
from flux.errors import FluxError
from flux.sandbox.jail import find_guest_uid, probe_jail
try:
    for finding in probe_jail(sys.argv[1], find_guest_uid(sys.argv[1], "main"), runs_wasm=True):
        print(finding.name)
except FluxError as error:
    sys.exit(str(error))
"""
ECHO = """
import { defineFunction } from "@flux/guest";
export const echo = defineFunction(async ({ input }) => input.text);
"""


@pytest.mark.parametrize(("level", "user"), [("strict", "own"), ("strict", "same"), ("core", "same")])
def test_every_layer_of_a_process_of_wasm_guests_is_tried_from_inside(level: str, user: str) -> None:
    findings = probe_jail(level, find_tenant_uid("main") if user == "own" else None, runs_wasm=True)
    assert [finding.name for finding in findings] == (
        STRICT_LAYERS if level == "strict" else [*LAYERS, "code"]
    )
    assert all(finding.ok and finding.detail for finding in findings)
    assert "a guest said 'hello'" in findings[-1].detail
    # Beside Python functions it gets one line of the doctor's, else all of them.
    other = probe_jail("core", None)
    names = [line["name"] for line in describe_findings(level, other, findings)]
    assert names[:2] == ["isolation", "wasm"] and "code" not in names
    alone = describe_findings(level, (), findings)
    assert [line["name"] for line in alone] == ["isolation", *(finding.name for finding in findings)]
    assert "JavaScript, TypeScript and wasm functions" in str(alone[0]["detail"])


def test_somebody_who_owns_nothing_has_every_layer_too() -> None:
    arguments = ["-c", PROBE, "strict"]
    command = command_as_nobody(arguments) if IS_ROOT else [sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.stdout.split() == STRICT_LAYERS, done.stderr


@pytest.mark.parametrize(
    ("number", "error", "said"),
    [
        (444, errno.ENOSYS, "layer landlock, landlock_create_ruleset(VERSION): ENOSYS"),
        (317, errno.EINVAL, "layer seccomp, seccomp(SET_MODE_FILTER): EINVAL"),
        (272, errno.EPERM, "layer namespaces, unshare("),
        (155, errno.EPERM, "layer namespaces, pivot_root: EPERM"),
    ],
)
def test_a_kernel_that_lacks_something_is_refused_by_layer_call_and_errno(
    number: int, error: int, said: str
) -> None:
    missing = [sys.executable, str(ROOT / "tests" / "missing_call.py"), str(number), str(error)]
    command = [*missing, sys.executable, "-c", PROBE, "strict"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 1
    assert f'FLX420  isolation "strict" can\'t be had here: {said}' in done.stderr


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "functions").mkdir()
    (tmp_path / "functions" / "echo.js").write_text(ECHO)
    return tmp_path


async def echo(sandbox: WasmSandbox) -> str:
    worker = await sandbox.acquire()
    try:
        await worker.start(make_document("echo", text="x"))
        return await Talk(worker).hear_body()
    finally:
        await sandbox.release(worker, reusable=False)


def oom_score_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def wait_gone(pids: list[int]) -> None:
    with trio.fail_after(PATIENCE_S):
        while any(map(lives, pids)):  # noqa: ASYNC110 - strangers tell nobody
            await trio.sleep(0.01)


@pytest.mark.parametrize("which", ["keeper", "first", "host"])
async def test_when_one_process_of_the_jail_is_killed_all_end_and_another_is_built(
    which: str, project: Path
) -> None:
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            sandbox = WasmSandbox(project, "functions", cache=default_folder())
            await nursery.start(sandbox.run)
            assert sandbox.level == Level("wasm", "strict", "wasm", sandbox.level.meter)
            host = sandbox.process_pid
            assert host is not None
            first = parent_of(host)
            keeper = parent_of(first)
            assert parent_of(keeper) == os.getpid()
            assert set(map(oom_score_of, (keeper, first, host))) == {1000}
            os.kill({"keeper": keeper, "first": first, "host": host}[which], 9)
            await wait_gone([keeper, first, host])
            assert await echo(sandbox) == "x"
            assert sandbox.restarts == 1
            nursery.cancel_scope.cancel()


async def test_in_core_it_is_one_process_that_its_record_tells_of(project: Path) -> None:
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            sandbox = WasmSandbox(project, "functions", isolation="core", cache=default_folder())
            await nursery.start(sandbox.run)
            assert (sandbox.level.isolation, await echo(sandbox)) == ("core", "x")
            assert sandbox.process_pid is not None
            assert parent_of(sandbox.process_pid) == os.getpid()
            nursery.cancel_scope.cancel()


async def test_code_beside_the_functions_is_nothing_to_it(project: Path) -> None:
    # A module of Python's that is loaded late would be the project's own, if the project were on the path.
    for folder in (project, project / "functions"):
        for name in ("traceback", "linecache", "signal", "trio"):
            (folder / f"{name}.py").write_text("import os\nos._exit(66)\n")
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            sandbox = WasmSandbox(project, "functions", cache=default_folder())
            await nursery.start(sandbox.run)
            assert await echo(sandbox) == "x"
            assert sandbox.restarts == 0
            nursery.cancel_scope.cancel()


IN_A_GROUP = """
import json, os, sys, trio
from pathlib import Path
from flux.sandbox.cgroups import Cgroups, open_cgroups
from flux.sandbox.wasm import WasmSandbox, default_folder

async def main():
    await trio.to_thread.run_sync((Path(sys.argv[1]) / "cgroup.procs").write_text, str(os.getpid()))
    cgroups = open_cgroups(())
    assert isinstance(cgroups, Cgroups), cgroups
    async with trio.open_nursery() as nursery:
        sandbox = WasmSandbox(Path(sys.argv[2]), "functions", cache=default_folder(), cgroups=cgroups)
        await nursery.start(sandbox.run)
        print(json.dumps(sandbox.process_pid), flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)
        nursery.cancel_scope.cancel()

trio.run(main)
"""


async def test_it_gets_a_control_group_of_its_own_which_ends_with_it(project: Path) -> None:
    tree = find_writable_tree()
    if tree is None:
        # Nothing is ours here, and that is found out without a try.
        assert isinstance(find_cgroups(), NoCgroups)
        return
    own = tree / f"flux-test-wasm-{os.getpid()}"
    own.mkdir()
    try:
        os.setxattr(own, "trusted.delegate", b"1")
        with started([sys.executable, "-c", IN_A_GROUP, str(own), str(project)]) as (supervisor, said, told):
            host = json.loads(await trio.to_thread.run_sync(said.readline))
            (group,) = own.glob("flux-*-*")
            inside = {int(pid) for pid in (group / "cgroup.procs").read_text().split()}
            assert inside == {host, parent_of(host), parent_of(parent_of(host))}
            told.write("\n")
            told.flush()
            assert await trio.to_thread.run_sync(supervisor.wait) == 0
        await wait_gone(list(inside))
        assert not list(own.glob("flux-*-*"))
    finally:
        for folder in (*own.glob("*/"), own):
            folder.rmdir()
