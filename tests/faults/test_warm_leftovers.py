"""A warm worker serves on only when nothing of what it has run could still run, and speaks as a fresh one does."""

from pathlib import Path

import trio

from flux.hostcall import HostCallRequest, HostCallResult
from flux.limits import Limits
from flux.redact import RedactionRules, Redactor
from flux.sandbox.conformance import make_document
from flux.sandbox.process_worker import ProcessWorker
from flux.session import RecordSession
from flux.supervisor.drive import Bounds, Driven, drive
from tests.guests.record_and_replay import RefusingHost
from tests.zygote_world import running, wait_rested, write_modules

LEAVES = """
import asyncio
import gc
import os
import sys
import warnings

from flux_guest import function

kept = []


@function()
def nothing(ctx, input):
    return None


@function()
def tasks(ctx, input):
    async def spin():
        while True:
            await asyncio.sleep(0)

    loop = asyncio.new_event_loop()
    kept.append((loop, loop.create_task(spin())))


@function()
def callbacks(ctx, input):
    loop = asyncio.new_event_loop()
    loop.call_soon(print, "too late")
    kept.append(loop)


@function()
def timers(ctx, input):
    loop = asyncio.new_event_loop()
    loop.call_later(3600, print, "too late")
    kept.append(loop)


@function()
def finalizers(ctx, input):
    class Spinning:
        def __init__(self):
            self.itself = self

        def __del__(self):
            while True:
                pass

    Spinning()


@function()
def generators(ctx, input):
    def spinning():
        try:
            yield
        finally:
            while True:
                pass

    itself = [spinning()]
    next(itself[0])
    itself.append(itself)


@function()
def traces(ctx, input):
    sys.settrace(lambda *_: None)


@function()
def collections(ctx, input):
    gc.callbacks.append(lambda *_: None)


@function()
def answers(ctx, input):
    os.write(3, b'[1,"clock.sleep",[3600]]\\n')


@function()
def asks(ctx, input):
    # Its call has the number of the one above.
    return ctx.clock.fresh()


@function()
def descriptors(ctx, input):
    while os.dup(3) < 200:
        pass


@function()
def all_descriptors(ctx, input):
    try:
        while True:
            os.dup(3)
    except OSError:
        pass


@function()
def said_already(ctx, input):
    os.write(3, b'["return",{"status":200,"headers":[],"body":""}]\\n["ready",1]\\n')
    while True:
        pass


@function()
def closed_loops(ctx, input):
    loop = asyncio.new_event_loop()
    loop.run_until_complete(asyncio.sleep(0))
    asyncio.set_event_loop(loop)
    kept.append([asyncio.run(asyncio.sleep(0)), iter([1]), open(__file__)])


@function()
async def ends_its_tasks(ctx, input):
    kept.append(asyncio.ensure_future(asyncio.sleep(3600)))
    kept.append(asyncio.get_running_loop())


@function()
def warns(ctx, input):
    for _ in range(2):
        warnings.warn("mind the gap")
"""
SPOILS = (
    *("tasks", "callbacks", "timers", "finalizers", "generators", "traces", "collections"),
    *("descriptors", "all_descriptors", "said_already"),
)
"""What leaves something that would run in the next execution, or be missing there."""
SERVES_ON = ("nothing", "closed_loops", "answers", "asks", "ends_its_tasks", "warns", "asks")


class Patient(RefusingHost):
    """Tells the time, and lets who sleeps sleep."""

    def is_immediate(self, name: str) -> bool:
        return not name

    async def perform(self, request: HostCallRequest) -> HostCallResult:
        if request.name == "clock.now":
            return HostCallResult(b"1")
        await trio.sleep_forever()
        raise AssertionError(request)


async def execute(worker: ProcessWorker, function: str, session: RecordSession | None = None) -> Driven:
    """Run a function as a server with warm workers does."""
    return await drive(
        worker, make_document(function), session or RecordSession(), Patient(), Bounds(Limits(), {}),
        redactor=Redactor(RedactionRules(), b"seed"), keep_worker=True,
    )  # fmt: skip


async def test_a_worker_in_which_something_could_still_run_serves_nobody_again(tmp_path: Path) -> None:
    async with running(write_modules(tmp_path, a=LEAVES), warm=1000, idle_target=1) as sandbox:
        for spoiling in SPOILS:
            worker = await sandbox.acquire()
            driven = await execute(worker, spoiling)
            assert driven.outcome is not None and driven.outcome.kind == "returned", (
                spoiling,
                driven.outcome,
            )
            await sandbox.release(worker, reusable=driven.reusable)
            await wait_rested(sandbox)
            # Before the next is asked: it would answer as well when it gets that far.
            await worker.wait_exit()
            after = await sandbox.acquire()
            assert after.served == 0
            outcome = (await execute(after, "nothing")).outcome
            assert outcome is not None and outcome.kind == "returned", (spoiling, outcome)
            await sandbox.release(after, reusable=False)


async def test_a_worker_that_put_everything_away_serves_on(tmp_path: Path) -> None:
    async with running(write_modules(tmp_path, a=LEAVES), warm=1000, idle_target=1) as sandbox:
        for number, function in enumerate(SERVES_ON):
            worker = await sandbox.acquire()
            assert worker.served == number
            driven = await execute(worker, function)
            assert driven.outcome is not None and driven.outcome.kind == "returned", (
                function,
                driven.outcome,
            )
            await sandbox.release(worker, reusable=driven.reusable)
            await wait_rested(sandbox)


async def test_a_warm_worker_warns_in_the_words_of_a_fresh_one(tmp_path: Path) -> None:
    said: list[list[str]] = []
    async with running(write_modules(tmp_path, a=LEAVES), warm=1000, idle_target=1) as sandbox:
        for number in range(3):
            worker = await sandbox.acquire()
            assert worker.served == number
            session = RecordSession()
            driven = await execute(worker, "warns", session)
            assert driven.outcome is not None and driven.outcome.kind == "returned", driven.outcome
            said.append([line.message for line in session.logs])
            await sandbox.release(worker, reusable=driven.reusable)
            await wait_rested(sandbox)
    assert said[0] == said[1] == said[2]
    assert [line.partition(": ")[2] for line in said[0]] == ["UserWarning: mind the gap", ""]
    assert said[0][1].strip() == 'warnings.warn("mind the gap")'
