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
from flux.session import RecordSession
from flux.supervisor.drive import EXIT_GRACE_S, Bounds, Driven, drive
from tests.zygote_world import running, write_modules

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


async def test_workers_are_made_while_many_descriptors_of_the_same_user_are_under_way(tmp_path: Path) -> None:
    # As other servers' zygotes have them that have not come to what they were asked.
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for _ in range(3):
            socket.send_fds(ours, [b"."], [0] * 200)
        async with running(write_modules(tmp_path, dies=DIES), idle_target=1) as sandbox:
            worker = await sandbox.acquire()
            await sandbox.release(worker, reusable=False)
