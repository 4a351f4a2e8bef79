"""A zygote that is kept from its work: by a busy machine, by what others of the same user have under way."""

import os
import signal
import socket
from pathlib import Path

import trio

from flux.execution import Exited
from flux.hostcall import HostCallRequest, HostCallResult
from flux.limits import Limits
from flux.redact import RedactionRules, Redactor
from flux.sandbox.conformance import make_document
from flux.sandbox.zygote import END_GRACE_S
from flux.session import RecordSession
from flux.supervisor.drive import EXIT_GRACE_S, Bounds, Driven, drive
from tests.zygote_world import children_of, failure_of, running, write_modules

DIES = """
import os, signal
from flux_guest import function

@function()
def dies(ctx, input):
    os.kill(os.getpid(), signal.SIGSEGV)
"""


class NoHost:
    """Nothing is asked of it."""

    def is_immediate(self, name: str) -> bool:
        raise AssertionError(name)

    async def perform(self, request: HostCallRequest) -> HostCallResult:
        raise AssertionError(request.name)

    def cancelled(self, request: HostCallRequest, elapsed_ns: int) -> HostCallResult:
        raise AssertionError((request.name, elapsed_ns))


async def test_a_crash_is_told_as_one_also_when_its_zygote_comes_to_it_late(tmp_path: Path) -> None:
    driven: list[Driven] = []
    async with running(write_modules(tmp_path, dies=DIES), idle_target=1) as sandbox, trio.open_nursery() as nursery:
        worker = await sandbox.acquire()
        zygote = sandbox.zygote_pid
        assert zygote is not None

        async def run() -> None:
            redactor = Redactor(RedactionRules.parse([]), bytes(32))
            document = make_document("dies")
            driven.append(
                await drive(worker, document, RecordSession(), NoHost(), Bounds(Limits(), {}), redactor=redactor)
            )

        ended = os.pidfd_open(worker.pid)
        os.kill(zygote, signal.SIGSTOP)
        try:
            nursery.start_soon(run)
            await trio.lowlevel.wait_readable(ended)
            assert worker.has_ended()
            await trio.sleep(1.5 * EXIT_GRACE_S)
        finally:
            os.kill(zygote, signal.SIGCONT)
            os.close(ended)
    await sandbox.release(worker, reusable=False)
    assert [one.outcome for one in driven] == [Exited(None, signal.SIGSEGV, "")]


async def test_how_an_import_ended_is_told_also_when_those_outside_of_the_jail_come_to_it_late(tmp_path: Path) -> None:
    others, stopped = children_of(os.getpid()), set[int]()

    def stop_keepers(_printed: str) -> None:
        stopped.update(children_of(os.getpid()) - others)
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)

    async def let_them_go_on() -> None:
        while not stopped:  # noqa: ASYNC110 - what is printed is told to a function
            await trio.sleep(0.01)
        await trio.sleep(1.5 * END_GRACE_S)
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)

    project = write_modules(tmp_path, ends="import os, time\nprint('ending', flush=True)\ntime.sleep(1)\nos._exit(3)")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(let_them_go_on)
        error = await failure_of(project, on_output=stop_keepers)
    assert "ended the process: exit code 3" in str(error)


async def test_workers_are_made_while_many_descriptors_of_the_same_user_are_under_way(tmp_path: Path) -> None:
    # As other servers' zygotes have them that have not come to what they were asked.
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for _ in range(3):
            socket.send_fds(ours, [b"."], [0] * 200)
        async with running(write_modules(tmp_path, dies=DIES), idle_target=1) as sandbox:
            worker = await sandbox.acquire()
            await sandbox.release(worker, reusable=False)
