"""What each kind of sandbox must do, as one suite: `check_sandbox`.

The suite brings no guests of its own, since each kind runs other code. Whoever
checks a kind makes a sandbox in which the functions of `GUESTS` are declared and do
what stands there; then every kind is asked the same questions, through the `Worker`
protocol alone. A check that fails raises `AssertionError`.

Nothing here knows what a host call is: the suite answers with whatever it likes.
"""

import json
import re
import signal
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import trio

from flux.sandbox.base import Exit, Sandbox, Worker

GUESTS = {
    "echo": 'returns the "text" of its input',
    "ask": 'calls test.echo with each of its input\'s "items", one after the other, and returns the last answer',
    "ask_at_once": 'calls test.echo with each of its input\'s "items", then hears them all; '
    "returns the answers, joined by commas, in the order in which they came",
    "give_up": "calls test.wait, cancels that call, hears its answer and returns the answer's error name",
    "fail": "raises an exception of class ValueError that says: no luck",
    "leave": 'ends its process with the exit code of its input\'s "code"',
    "crash": "ends its process by SIGSEGV",
    "speak": 'writes the "text" of its input past the SDK, to descriptor 2, and ends its process with exit code 1',
    "hang": "never answers, and waits",
}
"""The functions that must be there, and what each does."""

PATIENCE_S = 30.0
"""Bounds every check: a sandbox that hangs fails."""
BIG_BYTES = 3 * 2**20
"""More than any pipe or socket holds."""
EXECUTIONS = 50
HANGING = 12

MakeSandbox = Callable[[], AbstractAsyncContextManager[Sandbox]]


async def check_sandbox(make_sandbox: MakeSandbox) -> None:
    """Raise `AssertionError` unless the sandboxes of ``make_sandbox`` are what `flux.sandbox.base` says."""
    for check in CHECKS:
        with trio.fail_after(PATIENCE_S):
            async with make_sandbox() as sandbox:
                await check(sandbox)


def make_document(function: str, **inputs: Any) -> bytes:
    """Return a start document."""
    request = {"method": "POST", "path": "/", "params": [], "query": [], "headers": [], "body": ""}
    return json.dumps(
        {
            "execution": "qk3f81xa",
            "function": function,
            "now_ns": 1_767_225_600_000_000_000,
            "seed": "5eed" * 16,
            "memory_bytes_max": 512 * 2**20,
            "middleware": [],
            "input": inputs,
            "request": request,
        }
    ).encode()


class Talk:
    """One execution, seen frame by frame."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._buffer = bytearray()

    async def hear(self) -> list[Any] | None:
        """Return the guest's next frame, or None when it has closed the wire."""
        while b"\n" not in self._buffer:
            data = await self._worker.receive()
            if not data:
                assert not self._buffer, "the guest closed the wire within a frame"
                return None
            self._buffer += data
        line, _, rest = self._buffer.partition(b"\n")
        if self._worker.meter is not None:
            assert re.match(rb"1[0-9]+ ", line), f"a frame came without its fuel: {bytes(line[:30])!r}"
            line = line.partition(b" ")[2]
        self._buffer = bytearray(rest)
        frame: list[Any] = json.loads(line)
        return frame

    async def hear_call(self) -> tuple[int, str, list[Any]]:
        """Return the guest's next frame, which must be a call."""
        frame = await self.hear()
        assert frame is not None and isinstance(frame[0], int), f"expected a call, got {frame}"
        return frame[0], frame[1], frame[2]

    async def hear_body(self) -> str:
        """Return the body of the guest's answer, which must be its next frame."""
        frame = await self.hear()
        assert frame is not None and frame[0] == "return", f"expected an answer, got {frame}"
        return str(frame[1]["body"])

    async def answer(self, seq: int, value: Any) -> None:
        """Answer a call."""
        await self._worker.send(json.dumps([seq, None, value, 1_767_225_600_000_000_001]).encode() + b"\n")

    async def refuse(self, seq: int, name: str) -> None:
        """Answer a call with an error."""
        error = {"name": name, "message": "", "code": "", "details": {}}
        await self._worker.send(json.dumps([seq, error, None, 1_767_225_600_000_000_001]).encode() + b"\n")


async def _run(sandbox: Sandbox, function: str, **inputs: Any) -> str:
    """Run a function that calls nothing, to its answer."""
    worker = await sandbox.acquire()
    try:
        await worker.start(make_document(function, **inputs))
        return await Talk(worker).hear_body()
    finally:
        await sandbox.release(worker, reusable=False)


async def _exit_of(sandbox: Sandbox, function: str, **inputs: Any) -> Exit:
    worker = await sandbox.acquire()
    try:
        await worker.start(make_document(function, **inputs))
        assert await Talk(worker).hear() is None, "a guest that has ended has closed its wire"
        return await worker.wait_exit()
    finally:
        await sandbox.release(worker, reusable=False)


async def declares_what_it_runs(sandbox: Sandbox) -> None:
    """The functions are known by name."""
    assert GUESTS.keys() <= {function.name for function in sandbox.functions}
    assert sandbox.level.kind


async def runs_a_function(sandbox: Sandbox) -> None:
    """One document in, one answer out, whatever is in them."""
    assert await _run(sandbox, "echo", text="hello") == "hello"
    odd = "ünï \U0001f600 \u2028 \\ \" \x00 \x7f"
    assert await _run(sandbox, "echo", text=odd) == odd


async def runs_many_one_after_the_other(sandbox: Sandbox) -> None:
    """A pool does not dry up."""
    for number in range(EXECUTIONS):
        assert await _run(sandbox, "echo", text=str(number)) == str(number)


async def runs_many_at_once(sandbox: Sandbox) -> None:
    """Each caller gets its own worker and its own answer."""
    workers: list[Worker] = []

    async def one(number: int) -> None:
        worker = await sandbox.acquire()
        try:
            # Not by its process: several workers may share one.
            assert all(other is not worker for other in workers)
            workers.append(worker)
            talk = Talk(worker)
            await worker.start(make_document("ask", items=[number]))
            seq, name, arguments = await talk.hear_call()
            assert (seq, name, arguments) == (1, "test.echo", [number])
            await talk.answer(seq, f"answer {number}")
            assert await talk.hear_body() == f"answer {number}"
        finally:
            await sandbox.release(worker, reusable=False)

    async with trio.open_nursery() as nursery:
        for number in range(EXECUTIONS):
            nursery.start_soon(one, number)


async def carries_answers_in_their_order(sandbox: Sandbox) -> None:
    """Answers come in the order in which they were sent, not in which they were asked for."""
    worker = await sandbox.acquire()
    try:
        talk = Talk(worker)
        await worker.start(make_document("ask_at_once", items=["a", "b", "c"]))
        calls = [await talk.hear_call() for _ in range(3)]
        assert [call[0] for call in calls] == [1, 2, 3]
        for seq, _name, arguments in (calls[1], calls[2], calls[0]):
            await talk.answer(seq, arguments[0])
        assert await talk.hear_body() == "b,c,a"
    finally:
        await sandbox.release(worker, reusable=False)


async def carries_big_frames(sandbox: Sandbox) -> None:
    """A frame of megabytes comes through whole, in both directions and as a document."""
    big = "x" * BIG_BYTES
    worker = await sandbox.acquire()
    try:
        talk = Talk(worker)
        await worker.start(make_document("ask", items=[big]))
        seq, _name, arguments = await talk.hear_call()
        assert arguments == [big]
        await talk.answer(seq, big + "y")
        assert await talk.hear_body() == big + "y"
    finally:
        await sandbox.release(worker, reusable=False)


async def sends_without_waiting_what_fits(sandbox: Sandbox) -> None:
    """`send_nowait` takes a part of what is too much, and everything once nobody is there."""
    worker = await sandbox.acquire()
    await worker.start(make_document("hang"))
    filler = b" " * BIG_BYTES
    sent = worker.send_nowait(filler)
    assert 0 < sent < len(filler)
    while worker.send_nowait(filler):
        pass
    worker.kill()
    await worker.wait_exit()
    assert worker.send_nowait(filler) == len(filler)
    await worker.send(filler)
    await sandbox.release(worker, reusable=False)


async def carries_a_cancelled_call(sandbox: Sandbox) -> None:
    """A call is given up by its number, and still answered."""
    worker = await sandbox.acquire()
    try:
        talk = Talk(worker)
        await worker.start(make_document("give_up"))
        seq, name, _arguments = await talk.hear_call()
        assert name == "test.wait"
        assert await talk.hear() == ["cancel", seq]
        await talk.refuse(seq, "Cancelled")
        assert await talk.hear_body() == "Cancelled"
    finally:
        await sandbox.release(worker, reusable=False)


async def tells_a_failure(sandbox: Sandbox) -> None:
    """An exception ends the execution, not the wire."""
    worker = await sandbox.acquire()
    try:
        await worker.start(make_document("fail"))
        frame = await Talk(worker).hear()
        assert frame is not None and frame[0] == "raise"
        assert (frame[1]["type"], frame[1]["message"]) == ("ValueError", "no luck")
    finally:
        await sandbox.release(worker, reusable=False)


async def tells_exit_codes_and_signals(sandbox: Sandbox) -> None:
    """How a guest ended is known exactly."""
    for code in (0, 1, 3, 255):
        exited = await _exit_of(sandbox, "leave", code=code)
        assert (exited.exit_code, exited.signal) == (code, None)
    exited = await _exit_of(sandbox, "crash")
    assert (exited.exit_code, exited.signal) == (None, signal.SIGSEGV)


async def keeps_last_words(sandbox: Sandbox) -> None:
    """What a guest wrote past the SDK is known when it has ended; of very much, the end."""
    exited = await _exit_of(sandbox, "speak", text="last words\n")
    assert exited.exit_code == 1
    assert exited.output == "last words\n"
    exited = await _exit_of(sandbox, "speak", text="".join(f"line {n}\n" for n in range(30_000)))
    assert re.search(r"line 29998\nline 29999\n\Z", exited.output)


async def kills_at_once(sandbox: Sandbox) -> None:
    """A kill ends a guest whatever it does, wakes whoever listens, and may come twice or too early."""
    worker = await sandbox.acquire()
    await worker.start(make_document("hang"))
    async with trio.open_nursery() as nursery:

        async def listen() -> None:
            assert await worker.receive() == b""

        nursery.start_soon(listen)
        await trio.sleep(0.01)
        worker.kill()
        worker.kill()
    exited = await worker.wait_exit()
    assert (exited.exit_code, exited.signal) == (None, signal.SIGKILL)
    worker.kill()
    await sandbox.release(worker, reusable=False)
    unused = await sandbox.acquire()
    unused.kill()
    assert (await unused.wait_exit()).signal == signal.SIGKILL
    await sandbox.release(unused, reusable=False)
    assert await _run(sandbox, "echo", text="next") == "next"


async def serves_beside_guests_that_hang_and_after_they_are_killed(sandbox: Sandbox) -> None:
    """Guests that answer nothing keep nobody from being served, and a kill of all of them ends nobody else."""
    workers = [await sandbox.acquire() for _ in range(HANGING)]
    for worker in workers:
        await worker.start(make_document("hang"))
    assert await _run(sandbox, "echo", text="beside") == "beside"
    asking = await sandbox.acquire()
    talk = Talk(asking)
    await asking.start(make_document("ask", items=["x"]))
    seq, _name, _arguments = await talk.hear_call()
    for worker in workers:
        worker.kill()
    for worker in workers:
        assert (await worker.wait_exit()).signal == signal.SIGKILL
        await sandbox.release(worker, reusable=False)
    await talk.answer(seq, "still here")
    assert await talk.hear_body() == "still here"
    await sandbox.release(asking, reusable=False)
    assert await _run(sandbox, "echo", text="after") == "after"


async def can_be_left_at_a_deadline(sandbox: Sandbox) -> None:
    """Every wait can be cancelled, and the guest killed afterwards."""
    worker = await sandbox.acquire()
    await worker.start(make_document("hang"))
    for wait in (worker.receive, worker.wait_exit):
        with trio.move_on_after(0.01) as deadline:
            await wait()
        assert deadline.cancelled_caught
    worker.kill()
    assert await worker.receive() == b""
    await sandbox.release(worker, reusable=False)


async def loses_no_worker_to_a_cancelled_caller(sandbox: Sandbox) -> None:
    """Callers may give up at any moment; those who stay are served."""
    served = 0

    async def impatient(patience_s: float) -> None:
        with trio.move_on_after(patience_s):
            worker = await sandbox.acquire()
            await sandbox.release(worker, reusable=False)

    async def patient() -> None:
        nonlocal served
        assert await _run(sandbox, "echo", text="here") == "here"
        served += 1

    async with trio.open_nursery() as nursery:
        for number in range(EXECUTIONS):
            nursery.start_soon(impatient, number / 5000)
            nursery.start_soon(patient)
    assert served == EXECUTIONS


CHECKS: tuple[Callable[[Sandbox], Awaitable[None]], ...] = (
    declares_what_it_runs,
    runs_a_function,
    runs_many_one_after_the_other,
    runs_many_at_once,
    carries_answers_in_their_order,
    carries_big_frames,
    sends_without_waiting_what_fits,
    carries_a_cancelled_call,
    tells_a_failure,
    tells_exit_codes_and_signals,
    keeps_last_words,
    kills_at_once,
    serves_beside_guests_that_hang_and_after_they_are_killed,
    can_be_left_at_a_deadline,
    loses_no_worker_to_a_cancelled_caller,
)
"""The suite, a sentence each. `check_sandbox` runs them all; a test may run them one by one."""
