"""One execution carried through: honest guests, hostile ones, and what Flux itself may run into.

Guests are scripts in memory (`flux.sandbox.scripted`), so that trio's schedule and its clock can be
drawn; real processes do the same in ``tests/guests`` and at the end of this file.
"""

import contextlib
import os
import random
import socket
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from flux import values
from flux.errors import FluxError, OperatorError
from flux.execution import Exited, Killed, LogLine, Raised, Returned
from flux.hostcall import HostCall, HostCallError, HostCallRequest, HostCallResult
from flux.limits import Limits
from flux.redact import RedactionRules, Redactor
from flux.sandbox.conformance import make_document
from flux.sandbox.process_worker import ProcessWorker
from flux.sandbox.scripted import Script, ScriptedExit, ScriptedGuest, ScriptedSandbox
from flux.session import CANCELLED, RecordSession, ReplaySession
from flux.supervisor.drive import UNREAD_BYTES_MAX, Bounds, Driven, drive

Document = dict[str, Any]


class NoteError(OperatorError):
    """A journal that can't be written."""

    code = "FLX799"


PATIENCE_S = 120.0
HELD_UP_S = 0.02
"""For how long ``test.block`` holds up all that we do."""


@attrs.define
class World:
    """A host whose answers a test decides, and a scribe that keeps what it is told, in order."""

    performing: int = 0
    """Calls in progress."""
    performing_max: int = 0
    finished: list[int] = attrs.Factory(list)
    """Calls in the order in which the host was done with them."""
    written: list[tuple[str, int]] = attrs.Factory(list)
    """("asked" or "answered", seq), as the scribe was told."""
    fail_at: tuple[str, int] | None = None
    """Where the scribe fails."""
    took_ns: dict[int, int] = attrs.Factory(dict)
    """How long each call took its host, by the host's own word."""

    def is_immediate(self, name: str) -> bool:
        return name in ("test.now", "test.block_now")

    async def perform(self, request: HostCallRequest) -> HostCallResult:
        arguments = values.decode(request.arguments)
        assert isinstance(arguments, list)
        self.performing += 1
        self.performing_max = max(self.performing_max, self.performing)
        began_ns = time.perf_counter_ns()
        try:
            match request.name:
                case "test.sleep":
                    await trio.sleep(arguments[0])
                case "test.wait":
                    await trio.sleep_forever()
                case "test.crash":
                    raise NoteError("the host is broken")
                case "test.bug":
                    raise KeyError("a bug of ours")
                case "test.block" | "test.block_now":
                    time.sleep(HELD_UP_S)  # noqa: ASYNC251 - the loop is to be held up.
                case "test.big":
                    arguments = ["x" * arguments[0]]
                case _:
                    pass
        finally:
            self.performing -= 1
        self.finished.append(request.seq)
        took_ns = arguments[0] if request.name == "test.before" else time.perf_counter_ns() - began_ns
        self.took_ns[request.seq] = took_ns
        return HostCallResult(values.encode(arguments[0] if arguments else None), None, took_ns, len(self.finished))

    def cancelled(self, request: HostCallRequest, elapsed_ns: int) -> HostCallResult:
        return HostCallResult(error=HostCallError(CANCELLED, f"{request.name} was given up"), elapsed_ns=elapsed_ns)

    def asked(self, request: HostCallRequest, started_ns: int) -> None:  # noqa: ARG002 - the protocol's
        self._write("asked", request.seq)

    def answered(self, seq: int, result: HostCallResult, answered: int) -> None:  # noqa: ARG002
        self._write("answered", seq)

    def logged(self, line: LogLine) -> None:  # noqa: ARG002
        self._write("logged", len([one for one in self.written if one[0] == "logged"]) + 1)

    def _write(self, what: str, seq: int) -> None:
        if self.fail_at == (what, seq):
            raise NoteError("no room for the journal")
        self.written.append((what, seq))


@attrs.frozen
class Done:
    """What is known when it is over."""

    driven: Driven
    calls: tuple[HostCall, ...]
    logs: tuple[LogLine, ...]
    world: World


async def run(script: Script, *, world: World | None = None, keep: bool = False, **limits: Any) -> Done:
    """Record one execution of ``script``."""
    world = world or World()
    session = RecordSession()
    raised: Exception | None = None
    async with trio.open_nursery() as nursery:
        sandbox = ScriptedSandbox({"f": script}, nursery)
        worker = await sandbox.acquire()
        try:
            driven = await drive(
                worker, make_document("f"), session, world, Bounds(Limits(**limits), {"timeout": "flux.toml:3"}),
                redactor=Redactor(RedactionRules.parse([]), b"seed"), scribe=world, keep_worker=keep,
            )  # fmt: skip
        except Exception as error:
            raised = error  # Kept as it came: this nursery would put it into a group.
        finally:
            await sandbox.release(worker, reusable=False)
            nursery.cancel_scope.cancel()
    if raised is not None:
        raise raised
    return Done(driven, session.calls, session.logs, world)


async def write_and_wait(data: bytes, guest: ScriptedGuest, _document: Document) -> str:
    await guest.write(data)
    await trio.sleep_forever()
    raise AssertionError("never comes here")


# Honest guests


async def test_fifty_concurrent_calls_are_answered_in_the_order_of_the_record(autojump_clock: MockClock) -> None:
    delays = list(range(1, 51))
    random.Random(4).shuffle(delays)

    async def script(guest: ScriptedGuest, _document: Document) -> str:
        for delay in delays:
            await guest.ask("test.sleep", delay)
        heard = [await guest.hear() for _ in delays]
        return ",".join(map(str, heard))

    done = await run(script, timeout_s=1000.0)
    assert isinstance(done.driven.outcome, Returned)
    order = sorted((call for call in done.calls), key=lambda call: call.answered or 0)
    assert [call.request.seq for call in order] == done.world.finished
    assert done.driven.outcome.body.decode() == ",".join(map(str, done.world.finished))
    assert done.world.performing_max == 50
    for seq in range(1, 51):
        assert done.world.written.index(("asked", seq)) < done.world.written.index(("answered", seq))
    assert [seq for what, seq in done.world.written if what == "answered"] == done.world.finished


async def test_a_call_lasts_from_its_question_also_when_we_come_to_it_late() -> None:
    async def script(guest: ScriptedGuest, _document: Document) -> str:
        await guest.write(b'[1,"test.block",[]]\n[2,"test.block",[]]\n')
        return ",".join([str(await guest.hear()) for _ in range(2)])

    done = await run(script)
    elapsed_ns = [call.result.elapsed_ns for call in done.calls if call.result is not None]
    # One is begun when the other is done, and both were asked before.
    assert len(elapsed_ns) == 2 and sum(elapsed_ns) >= 3 * HELD_UP_S * 1e9
    # Their limits are their host's, and it knows of no hold-up.
    results = {call.request.seq: call.result for call in done.calls}
    assert {seq: result and result.performed_ns for seq, result in results.items()} == done.world.took_ns
    assert sum(result.held_up_ns for result in results.values() if result) >= HELD_UP_S * 1e9


async def test_a_call_ends_after_it_began_also_where_the_host_answers_at_once(autojump_clock: MockClock) -> None:
    async def script(guest: ScriptedGuest, _document: Document) -> str:
        await guest.write(b'[1,"test.block_now",[]]\n[2,"test.block_now",[]]\n')
        return ",".join([str(await guest.hear()) for _ in range(2)])

    first, second = (await run(script)).calls
    assert first.result is not None and second.result is not None
    assert first.started_ns + first.result.elapsed_ns <= second.started_ns
    assert second.started_ns + HELD_UP_S * 1e9 <= second.started_ns + second.result.elapsed_ns


async def test_an_answer_that_is_handed_on_took_as_long_as_it_did_when_it_came(autojump_clock: MockClock) -> None:
    async def script(guest: ScriptedGuest, _document: Document) -> str:
        return str(await guest.hear()) if await guest.ask("test.before", 800_000_000_000) else ""

    (call,) = (await run(script)).calls
    assert call.result is not None
    assert (call.result.elapsed_ns, call.result.held_up_ns) == (800_000_000_000, 0)


async def test_a_cancelled_call_is_answered_once_and_its_performing_ends(autojump_clock: MockClock) -> None:
    async def script(guest: ScriptedGuest, _document: Document) -> str:
        await guest.cancel(await guest.ask("test.wait"))
        await guest.hear()
        return str(guest.answers[1][0]["name"])

    done = await run(script)
    assert isinstance(done.driven.outcome, Returned)
    assert done.driven.outcome.body == b"Cancelled"
    assert done.world.performing == 0
    (call,) = done.calls
    assert call.result is not None and call.result.error is not None and call.result.error.name == CANCELLED


async def test_a_call_that_is_cancelled_in_the_same_breath_is_never_performed(autojump_clock: MockClock) -> None:
    async def script(guest: ScriptedGuest, _document: Document) -> str:
        await guest.write(b'[1,"test.sleep",[5]]\n["cancel",1]\n["cancel",1]\n')
        await guest.hear()
        return str(guest.answers[1][0]["name"])

    done = await run(script)
    assert isinstance(done.driven.outcome, Returned)
    assert done.driven.outcome.body == b"Cancelled"
    assert done.world.finished == []


async def test_a_cancel_that_comes_after_the_answer_changes_nothing() -> None:
    async def script(guest: ScriptedGuest, _document: Document) -> str:
        first = await guest.call("test.echo", "a")
        await guest.cancel(1)
        return str(first + await guest.call("test.echo", "b"))

    done = await run(script)
    assert isinstance(done.driven.outcome, Returned)
    assert done.driven.outcome.body == b"ab"
    assert [call.result is not None and call.result.error for call in done.calls] == [None, None]


async def test_what_is_still_performed_when_the_function_ends_is_stopped(autojump_clock: MockClock) -> None:
    async def script(guest: ScriptedGuest, _document: Document) -> str:
        await guest.ask("test.wait")
        await guest.call("test.echo", 1)
        return "done"

    done = await run(script)
    assert isinstance(done.driven.outcome, Returned)
    assert done.world.performing == 0
    assert [call.result is None for call in done.calls] == [True, False]


async def test_a_guest_that_writes_much_while_it_reads_nothing_is_not_waited_for(autojump_clock: MockClock) -> None:
    """Both sides write more than the wire holds; the host must go on reading or neither would ever end."""

    async def script(guest: ScriptedGuest, _document: Document) -> str:
        text = "x" * 150_000
        for _ in range(20):
            await guest.ask("test.echo", text)
        for _ in range(20):
            await guest.hear()
        return str(all(value == text for _error, value in guest.answers.values()))

    done = await run(script)
    assert isinstance(done.driven.outcome, Returned)
    assert done.driven.outcome.body == b"True"


async def test_a_worker_is_kept_for_another_execution_and_nothing_of_the_first_comes_with_it() -> None:
    async def script(guest: ScriptedGuest, _document: Document) -> str:
        guest.output.append("words after the end\n")
        await guest.ask("test.wait")
        return "done"

    done = await run(script, keep=True)
    assert done.driven.reusable


@pytest.mark.parametrize("reads_it", [True, False])
async def test_a_worker_whose_guest_left_an_answer_half_written_is_not_kept(reads_it: bool) -> None:
    # A real socket: of what does not fit, a part has gone, and behind it the next execution's line would be torn.
    question, end = b'[1,"test.big",[300000]]\n', b'["return",{"status":200,"headers":[],"body":""}]\n'
    ours, theirs = socket.socketpair()
    descriptors = [os.open(os.devnull, os.O_RDWR) for _ in range(2)]
    heard = bytearray()

    async def guest() -> None:
        theirs.send(question)
        await trio.lowlevel.wait_readable(theirs)  # Its answer has begun.
        while reads_it and not heard.endswith(b"\n"):
            await trio.lowlevel.wait_readable(theirs)
            heard.extend(theirs.recv(2**20))
        theirs.send(end)

    with ours, theirs:
        for end_of_it in (ours, theirs):
            end_of_it.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        start, output = descriptors
        worker = ProcessWorker(start, output, ours)
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(guest)
                driven = await drive(
                    worker, make_document("f"), RecordSession(), World(), Bounds(Limits(), {}),
                    redactor=Redactor(RedactionRules.parse([]), b"seed"), keep_worker=True,
                )  # fmt: skip
        with contextlib.suppress(BlockingIOError):
            while True:
                heard += theirs.recv(2**20)
        worker.close()
    assert isinstance(driven.outcome, Returned)
    assert heard.endswith(b"\n") == reads_it, "what it is about: its answer did not fit"
    assert driven.reusable == reads_it


# Hostile guests

MALFORMED = {
    "no JSON": b"hello\n",
    "a number out of turn": b'[2,"test.echo",[1]]\n',
    "a repeated number": b'[1,"test.now",[]]\n[1,"test.now",[]]\n',
    "arguments that are no list": b'[1,"test.echo",{}]\n',
    "an unknown word": b'["shout",1]\n',
    "cancelling what was never asked": b'["cancel",7]\n',
    "a frame after the end": b'["return",{"status":200,"headers":[],"body":""}]\n[1,"test.now",[]]\n',
    "an answer without a body": b'["return",{"status":200}]\n',
    "an answer with a key too many": b'["return",{"status":200,"headers":[],"body":"","more":1}]\n',
    "an answer that is no text": b'["return",{"status":200,"headers":[],"body":7}]\n',
    "a failure with the status of a success": b'["raise",{"type":"E","message":"","status":200}]\n',
    "nesting without end": b"[" * 100_000 + b"\n",
    "no UTF-8": b'[1,"test.echo",["\xff"]]\n',
    "a log line of no level": b'[0,"log.write",["loud","x",{}]]\n',
    "a log line that is none": b'[0,"log.write",[1]]\n',
    "another call without a number": b'[0,"db.query",["select 1",[]]]\n',
    "a negative number": b'[-1,"test.now",[]]\n',
    "an empty line": b"\n",
}


@pytest.mark.parametrize("what", MALFORMED)
async def test_a_guest_that_breaks_the_wires_rules_is_killed_and_the_rule_is_named(what: str) -> None:
    done = await run(partial(write_and_wait, MALFORMED[what]))
    if what == "a frame after the end":
        # What it answered before it broke the rule stands.
        assert isinstance(done.driven.outcome, Returned)
        return
    assert isinstance(done.driven.outcome, Killed)
    assert done.driven.outcome.limit == "protocol"
    assert done.driven.outcome.detail
    assert not done.driven.reusable


@settings(max_examples=60, deadline=None)
@given(cuts=st.lists(st.integers(1, 40), max_size=30), what=st.sampled_from(sorted(MALFORMED)))
def test_how_the_bytes_are_cut_does_not_change_the_end(cuts: list[int], what: str) -> None:
    data = b'[1,"test.echo",[1]]\n[0,"log.write",["info","hi",{}]]\n' + MALFORMED[what].replace(b"[1,", b"[2,", 1)

    async def in_pieces(guest: ScriptedGuest, _document: Document) -> str:
        rest = data
        for cut in cuts:
            await guest.write(rest[:cut])
            await trio.lowlevel.checkpoint()
            rest = rest[cut:]
        await guest.write(rest)
        await trio.sleep_forever()
        raise AssertionError("never comes here")

    whole = trio.run(run, partial(write_and_wait, data), clock=MockClock(autojump_threshold=0))
    pieces = trio.run(run, in_pieces, clock=MockClock(autojump_threshold=0))
    assert pieces.driven.outcome == whole.driven.outcome
    assert [call.request for call in pieces.calls] == [call.request for call in whole.calls]
    assert [line.message for line in pieces.logs] == [line.message for line in whole.logs]


async def test_a_frame_without_end_is_cut_off() -> None:
    async def script(guest: ScriptedGuest, _document: Document) -> str:
        await guest.write(b'[1,"test.echo",["')
        while True:
            await guest.write(b"x" * 100_000)

    done = await run(script)
    assert isinstance(done.driven.outcome, Killed)
    assert (done.driven.outcome.limit, done.driven.outcome.allowed) == ("frame", "16MiB")


async def test_a_flood_of_calls_ends_at_their_limit() -> None:
    async def script(guest: ScriptedGuest, _document: Document) -> str:
        while True:
            await guest.ask("test.now")

    done = await run(script, host_calls_max=100)
    assert isinstance(done.driven.outcome, Killed)
    assert (done.driven.outcome.limit, done.driven.outcome.allowed) == ("host_calls", "100")
    assert done.driven.outcome.detail == "call 101 would have been test.now"
    assert len(done.calls) == 100


async def test_a_flood_of_log_lines_is_counted_and_dropped_until_time_is_up(autojump_clock: MockClock) -> None:
    async def script(guest: ScriptedGuest, _document: Document) -> str:
        for number in range(5000):
            await guest.log(f"line {number}")
        await guest.log("")
        return "done"

    done = await run(script, log_bytes_max=10_000)
    assert isinstance(done.driven.outcome, Returned)
    assert 0 < len(done.logs) < 200
    assert done.logs[0].message == "line 0"
    assert done.driven.log_bytes_dropped > 300_000


async def test_a_guest_that_reads_no_answers_is_ended_before_they_fill_the_memory(
    autojump_clock: MockClock,
) -> None:
    size = 1_000_000

    async def script(guest: ScriptedGuest, _document: Document) -> str:
        for _ in range(200):
            await guest.ask("test.big", size)
        await trio.sleep_forever()
        raise AssertionError("never comes here")

    done = await run(script)
    assert isinstance(done.driven.outcome, Killed)
    assert done.driven.outcome.limit == "protocol"
    assert "does not read" in done.driven.outcome.detail
    assert len(done.world.finished) * size < UNREAD_BYTES_MAX * 1.5


async def test_a_silent_guest_is_killed_at_its_deadline_and_the_limit_says_whose_it_is(
    autojump_clock: MockClock,
) -> None:
    done = await run(partial(write_and_wait, b""), timeout_s=2.5)
    assert done.driven.outcome == Killed("timeout", "2500ms", "flux.toml:3")
    assert trio.current_time() >= 2.5


async def test_a_call_in_progress_at_the_deadline_is_on_record_without_an_answer(autojump_clock: MockClock) -> None:
    done = await run(partial(write_and_wait, b'[1,"test.wait",[]]\n'), timeout_s=1.0)
    assert isinstance(done.driven.outcome, Killed)
    assert [(call.request.name, call.result) for call in done.calls] == [("test.wait", None)]
    assert done.world.written == [("asked", 1)]


@pytest.mark.parametrize("goes_on", [False, True])
async def test_a_guest_that_closes_its_door(goes_on: bool, autojump_clock: MockClock) -> None:
    async def script(guest: ScriptedGuest, _document: Document) -> str:
        guest.close_wire()
        if goes_on:
            await trio.sleep_forever()
        raise ScriptedExit(0)

    done = await run(script)
    if goes_on:
        assert isinstance(done.driven.outcome, Killed)
        assert done.driven.outcome.limit == "protocol"
    else:
        assert done.driven.outcome == Exited(0, None, "")


async def test_what_a_guest_said_before_it_died_is_on_record() -> None:
    async def script(guest: ScriptedGuest, _document: Document) -> str:
        await guest.log("before")
        await guest.ask("test.now")
        guest.output.append("Fatal Python error: deep trouble\n")
        raise ScriptedExit(signal=6)

    done = await run(script)
    assert done.driven.outcome == Exited(None, 6, "Fatal Python error: deep trouble")
    assert [line.message for line in done.logs] == ["before"]
    assert [call.result is not None for call in done.calls] == [True]


async def test_an_answer_that_can_not_be_sent_is_the_functions_own_failure() -> None:
    async def script(guest: ScriptedGuest, _document: Document) -> str:
        answer = '["return",{"status":200,"headers":[["x","a\\r\\nb"]],"body":""}]\n'
        await guest.write(answer.encode())
        await trio.sleep_forever()
        raise AssertionError("never comes here")

    done = await run(script)
    assert isinstance(done.driven.outcome, Raised)
    assert done.driven.outcome.type == "InvalidResponse"


# What Flux itself runs into


@pytest.mark.parametrize("where", [("asked", 2), ("answered", 2), ("logged", 1)])
async def test_a_journal_that_can_not_be_written_ends_it_with_the_plain_error(where: tuple[str, int]) -> None:
    reached: list[int] = []

    async def script(guest: ScriptedGuest, _document: Document) -> str:
        reached.append(await guest.call("test.echo", 1))
        reached.append(await guest.call("test.echo", 2))
        await guest.log("hello")
        reached.append(await guest.call("test.echo", 3))
        return "done"

    with pytest.raises(NoteError):
        await run(script, world=World(fail_at=where))
    # The guest never hears what is not written down.
    assert reached == [1, 2][: 2 if where == ("logged", 1) else 1]


@pytest.mark.parametrize(("call", "kind"), [("test.crash", FluxError), ("test.bug", KeyError)])
async def test_a_host_call_that_crashes_ends_it_with_the_plain_error(call: str, kind: type[Exception]) -> None:
    async def script(guest: ScriptedGuest, _document: Document) -> str:
        await guest.ask("test.wait")
        await guest.ask(call)
        await trio.sleep_forever()
        raise AssertionError("never comes here")

    world = World()
    with pytest.raises(kind):
        await run(script, world=world)
    assert world.performing == 0


async def test_a_caller_that_is_cancelled_leaves_no_guest_and_no_call(autojump_clock: MockClock) -> None:
    world = World()
    ended: list[str] = []

    async def script(guest: ScriptedGuest, _document: Document) -> str:
        try:
            await guest.call("test.wait")
        finally:
            ended.append("guest")
        return "done"

    with trio.move_on_after(1) as scope:
        await run(script, world=world)
    assert scope.cancelled_caught
    assert (world.performing, ended) == (0, ["guest"])


# Any schedule

Step = tuple[str, int]
steps = st.lists(
    st.tuples(st.sampled_from(["sleep", "echo", "now", "cancel", "hear", "log"]), st.integers(0, 3)), max_size=25
)


def play(plan: list[Step]) -> Callable[[ScriptedGuest, Document], Awaitable[str]]:
    """Return a guest that takes the steps of ``plan`` and tells what it heard, in order."""

    async def script(guest: ScriptedGuest, _document: Document) -> str:
        asked: list[int] = []
        heard: list[int] = []
        for what, number in plan:
            match what:
                case "sleep":
                    asked.append(await guest.ask("test.sleep", number))
                case "echo":
                    asked.append(await guest.ask("test.echo", number))
                case "now":
                    asked.append(await guest.ask("test.now"))
                case "cancel" if asked:
                    await guest.cancel(asked[number % len(asked)])
                case "hear" if len(heard) < len(asked):
                    heard.append(await guest.hear())
                case "log":
                    await guest.log(f"heard {heard}")
                case _:
                    pass
        while len(heard) < len(asked):
            heard.append(await guest.hear())
        errors = [error["name"] if error else None for error, _value in (guest.answers[seq] for seq in heard)]
        return str([heard, errors])

    return script


async def replay(script: Script, recorded: Done) -> tuple[Driven, ReplaySession]:
    session = ReplaySession(recorded.calls, recorded.logs, ended=isinstance(recorded.driven.outcome, Returned | Raised))
    async with trio.open_nursery() as nursery:
        sandbox = ScriptedSandbox({"f": script}, nursery)
        worker = await sandbox.acquire()
        driven = await drive(
            worker, make_document("f"), session, World(), Bounds(Limits(), {}),
            redactor=Redactor(RedactionRules.parse([]), b"seed"),
        )  # fmt: skip
        nursery.cancel_scope.cancel()
    return driven, session


@settings(max_examples=150, deadline=None)
@given(plan=steps, schedule=st.random_module())
def test_whatever_a_guest_does_its_replay_hears_the_same_in_the_same_order(
    plan: list[Step], schedule: object
) -> None:
    script = play(plan)
    recorded = trio.run(run, script, clock=MockClock(autojump_threshold=0))
    assert isinstance(recorded.driven.outcome, Returned)
    driven, session = trio.run(replay, script, recorded, clock=MockClock(autojump_threshold=0))
    assert driven.divergence is None
    assert driven.outcome == recorded.driven.outcome
    assert session.find_missing() is None
    assert [(call.request, call.result, call.answered) for call in session.calls] == [
        (call.request, call.result, call.answered) for call in recorded.calls
    ]


@settings(max_examples=60, deadline=None)
@given(plan=steps, cut=st.integers(0, 30), schedule=st.random_module())
def test_a_record_ends_where_the_guest_did(plan: list[Step], cut: int, schedule: object) -> None:
    """The guest dies at any step: each question on record was asked, each answer was performed, none twice."""

    async def dies(guest: ScriptedGuest, document: Document) -> str:
        await play(plan[:cut])(guest, document)
        raise ScriptedExit(signal=11)

    done = trio.run(run, dies, clock=MockClock(autojump_threshold=0))
    assert done.driven.outcome == Exited(None, 11, "")
    asked = [step for step in plan[:cut] if step[0] in ("sleep", "echo", "now")]
    assert len(done.calls) == len(asked)
    answered = [call for call in done.calls if call.result is not None and call.result.error is None]
    assert {call.request.seq for call in answered} == set(done.world.finished)
    assert sorted(call.answered or 0 for call in done.calls if call.result) == list(
        range(1, 1 + len([call for call in done.calls if call.result]))
    )
