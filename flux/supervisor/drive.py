"""The one loop that sees guest, session and host.

`drive` carries one execution through a worker: it hands over what to run, takes
what the guest asks, lets the session decide, has the host perform, and sends the
answers back in the session's order. It cannot tell recording from replaying; that
is the session's business.

What it adds is the execution's edge: whatever a guest does (too slow, too much,
malformed, gone) becomes an `Outcome`, never an exception. Exceptions that leave
`drive` are Flux's own or the caller's: a host call that crashed, a journal that
can't be written, cancellation. The worker is then killed.

The order of things for each call, which everything else relies on::

    asked      written to the journal, then performed
    answered   written to the journal, then sent to the guest
"""

import signal
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import attrs
import trio

from flux import values
from flux.execution import (
    Exited,
    Interrupted,
    Killed,
    LogLine,
    Outcome,
    Raised,
    Returned,
)
from flux.guest_ends import read_answer, read_report
from flux.hostcall import HostCallError, HostCallRequest, HostCallResult
from flux.hostcalls import log, user
from flux.limits import Limits, format_duration, format_size
from flux.redact import Redactor
from flux.sandbox.base import Exit, Reading, Worker
from flux.session import CANCELLED, Answer, Diverge, Divergence, Perform, Session
from flux.store.postgres import is_away
from flux.supervisor.spool import SpoolError, SpoolFullError
from flux.wire import (
    CallReceived,
    CancelReceived,
    Event,
    GuestConnection,
    GuestFrameTooLargeError,
    GuestProtocolError,
    RaisedReport,
    RaiseReceived,
    ReturnReceived,
    WaitReceived,
    encode_reply,
)

REPLAY_PATIENCE = 20
REPLAY_PATIENCE_S_MIN = 60.0
"""A guest that is to be stopped where its recording was cut has no time limit of its own, but it must end:
it gets this many times what the recorded one had, and at least so long."""
EXIT_GRACE_S = 2.0
"""How long a guest that has closed its wire may take to end; then it is killed."""
TELLING_GRACE_S = 30.0
"""How long it may take until somebody tells how a guest ended that has ended, and how far it had come."""
UNREAD_BYTES_MAX = 64 * 2**20
"""Answers that wait for the guest to read them. Reading from it must go on meanwhile: a guest that writes
a long question reads nothing until we have taken it, so nobody may wait here for its reading."""
LINE_OVERHEAD_BYTES = 64
"""What a log line counts beyond its text, so that empty ones are not free."""
OUTPUT_LINES_MAX = 200
"""Lines written past the SDK that are kept; the last ones count."""


class Host(Protocol):
    """Who performs host calls."""

    def is_immediate(self, name: str) -> bool:
        """Whether performing never waits."""

    async def perform(self, request: HostCallRequest) -> HostCallResult:
        """Do what the guest asks; a failure that the guest shall see is part of the answer."""

    def cancelled(self, request: HostCallRequest, elapsed_ns: int) -> HostCallResult:
        """Return the answer to a call that the guest gave up."""


class Scribe(Protocol):
    """Who writes events down before the guest hears of them."""

    def asked(self, request: HostCallRequest, started_ns: int) -> None:
        """A question, about to be performed."""

    def answered(self, seq: int, result: HostCallResult, answered: int) -> None:
        """An answer, about to be sent."""

    def logged(self, line: LogLine) -> None:
        """A log line."""


Hears = Callable[[HostCallRequest, HostCallResult], HostCallResult]
"""Takes a question and its recorded answer; returns what the guest hears, the same object where that is the answer."""


@attrs.frozen
class Bounds:
    """What one execution may use, and who says so."""

    limits: Limits
    origins: Mapping[str, str]
    """Whose limit it is, by its key in ``flux.toml``: ``timeout``, ``memory``, ``host_calls`` ..."""

    def kill(self, limit: str, allowed: str, detail: str = "") -> Killed:
        """Return the outcome of passing a limit."""
        return Killed(limit, allowed, self.origins.get(limit, "Flux's default"), detail)


@attrs.frozen
class Driven:
    """How it went."""

    outcome: Outcome | None
    """None when a replay was stopped: it left its recording, or came to where the recording was cut."""
    elapsed_ns: int
    reusable: bool = False
    """The guest ended well and waits for its next execution."""
    divergence: Divergence | None = None
    """Where a replay left its recording."""
    log_bytes_dropped: int = 0
    """What was logged beyond the limit."""
    fuel: int | None = None
    """How far the guest had come; see `flux.execution.Execution.fuel`."""
    user: bytes = b""
    """See `flux.execution.Execution.user`."""


async def drive(
    worker: Worker,
    document: bytes,
    session: Session,
    host: Host,
    bounds: Bounds,
    *,
    redactor: Redactor,
    scribe: Scribe | None = None,
    keep_worker: bool = False,
    began_ns: int | None = None,
    tells_waits: bool = False,
    is_document_on_record: bool = True,
    hears: Hears | None = None,
) -> Driven:
    """Run one execution on ``worker``; return how it ended. Kills the worker unless it is reusable.

    ``began_ns`` is when the execution began, on `time.perf_counter_ns`, if that was before: what is asked for is timed
    from then. (How long ago it was would be wrong by as long as this process is held up between asking and using it.)
    ``document`` is what the guest reads from descriptor 0, one line of JSON. With ``keep_worker`` a guest
    that has ended well gets an answer to everything it still waits for, so that it can serve again; not where it
    ended without reading an answer that was being written.
    ``tells_waits``: ``document`` asks the guest to say when it waits, for a session that wants to know.
    ``hears`` says what a replay's guest is to hear in place of a recorded answer, which stays what the session has.

    Fuel is put on record as long as the record holds all that the guest has heard. Once it has heard what is
    stored redacted (from the start, unless ``is_document_on_record``), its replay hears something else, of
    another length, and comes to other fuel on the same way.
    """
    conversation = _Conversation(worker, session, host, bounds, redactor, scribe, began_ns, tells_waits)
    conversation.is_exact = is_document_on_record
    conversation.hears = hears
    driven: Driven | None = None
    try:
        driven = await conversation.run(document, keep_worker)
        return driven
    finally:
        if driven is None or not driven.reusable:
            worker.kill()


class _Stop(Exception):
    """Ends the conversation from within."""

    def __init__(self, outcome: Outcome | None, divergence: Divergence | None = None) -> None:
        super().__init__()
        self.outcome = outcome
        self.divergence = divergence


class _Ending:
    """A block of a conversation: whatever ends it inside ends it everywhere.

    A class and no generator, as each host call has one.
    """

    __slots__ = ("_conversation",)

    def __init__(self, conversation: "_Conversation") -> None:
        self._conversation = conversation

    def __enter__(self) -> None: ...

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> bool:
        if not isinstance(error, Exception):
            return False  # All is well, or it is cancelled.
        self._conversation.end(error)
        return True


class _Performer:
    """A task that performs one host call after the other.

    The next call finds it where the last one left it, which costs half of what a task and a scope for each call do.
    A guest that asks one thing after the other needs one.
    """

    __slots__ = ("_given", "_waiting", "scope")

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        """Cancelled when the guest gives up the call that it performs, which is its last one then."""
        self._given: tuple[HostCallRequest, int] | None = None
        self._waiting: trio.lowlevel.Task | None = None

    def give(self, request: HostCallRequest, at_ns: int) -> None:
        """Have it perform ``request``, which was asked ``at_ns`` after the start."""
        assert self._given is None, "it performs one call at a time"
        self._given = request, at_ns
        if self._waiting is not None:
            trio.lowlevel.reschedule(self._waiting)
            self._waiting = None

    async def take(self) -> tuple[HostCallRequest, int]:
        """Wait for what it is to perform."""
        if self._given is None:
            self._waiting = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._stop_waiting)
        assert self._given is not None
        taken, self._given = self._given, None
        return taken

    def _stop_waiting(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._waiting = None
        return trio.lowlevel.Abort.SUCCEEDED


class _Conversation:
    def __init__(
        self,
        worker: Worker,
        session: Session,
        host: Host,
        bounds: Bounds,
        redactor: Redactor,
        scribe: Scribe | None,
        began_ns: int | None,
        tells_waits: bool,
    ) -> None:
        self._worker = worker
        self._session = session
        self._host = host
        self._bounds = bounds
        self._redactor = redactor
        self._scribe = scribe
        self._wire = GuestConnection(is_metered=worker.meter is not None, tells_waits=tells_waits)
        self._untaken: deque[Event] = deque()
        """What the guest has said and nobody has looked at yet."""
        self.is_exact = True
        """The record holds all that the guest has heard."""
        self.hears: Hears | None = None
        """See `drive`."""
        self._fuel = self._wire.fuel
        """Where it stood when it began the last frame that was taken."""
        self._is_to_stop = False
        """The guest will be stopped where it was cut off when it was recorded."""
        self._started_ns = time.perf_counter_ns() if began_ns is None else began_ns
        self._performing: dict[int, _Performer] = {}
        """Who performs, by the number of the call; a call that is in here may be given up."""
        self._idle: list[_Performer] = []
        self._recorded: dict[int, HostCallRequest] = {}
        """Questions in flight as the record has them."""
        self._unredacted: dict[int, HostCallResult] = {}
        """What the guest is to hear where the record holds something else."""
        self._outgoing = bytearray()
        self._sending = False
        """The task that sends is at work, because the guest reads more slowly than we answer."""
        self._call_count = 0
        self._log_bytes = 0
        self._log_bytes_dropped = 0
        self._user = b""
        """What ``ctx.user`` was last set to, as the record has it."""
        self._stop: _Stop | None = None
        self._failure: Exception | None = None
        """What Flux itself ran into; it ends the execution and is raised as it is, in no group."""
        self._nursery: trio.Nursery | None = None
        self._ending = _Ending(self)

    def _elapsed_ns(self) -> int:
        return time.perf_counter_ns() - self._started_ns

    async def run(self, document: bytes, keep_worker: bool) -> Driven:
        limits = self._bounds.limits
        self._worker.take_output()  # Of the execution before, written after its end.
        timeout_s = limits.timeout_s
        cut, meter = self._session.cut, self._worker.meter
        if cut is not None and cut.fuel is not None and meter is not None:
            self._is_to_stop = True
            meter.stop_at(cut.fuel)
            timeout_s = max(REPLAY_PATIENCE * timeout_s, REPLAY_PATIENCE_S_MIN)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.cancel_scope.deadline = trio.current_time() + timeout_s
            with self._ending:
                await self._worker.start(document)
                while True:
                    await self._listen()
        if self._failure is not None:
            raise self._failure
        # Nothing else ends the block without a word than its deadline.
        stop = self._stop or _Stop(self._bounds.kill("timeout", format_duration(limits.timeout_s)))
        elapsed_ns = self._elapsed_ns()
        ended_well = isinstance(stop.outcome, Returned | Raised)
        if not ended_well:
            self._worker.kill()  # Before its last words are read: they must not grow meanwhile.
        if self._stop is None:
            self._fuel = await self._find_cut()
        try:
            self._keep_output()
        except _Stop as reason:
            stop = reason  # Of a replay: the last words are others than those recorded.
        reusable = keep_worker and ended_well and await self._dismiss()
        fuel = self._fuel if self.is_exact else None
        return Driven(
            stop.outcome, elapsed_ns, reusable, stop.divergence, self._log_bytes_dropped, fuel, self._user
        )

    def end(self, why: Exception) -> None:
        """End the conversation everywhere; `run` says why. The first to say so is right."""
        if isinstance(why, _Stop):
            self._stop = self._stop or why
        else:
            self._failure = self._failure or why
        assert self._nursery is not None
        self._nursery.cancel_scope.cancel()

    # Hearing the guest

    async def _listen(self) -> None:
        data = await self._worker.receive()
        if not data:
            raise _Stop(await self._describe_exit())
        try:
            events = self._wire.receive(data)
        except GuestProtocolError as error:
            # What it asked before it broke the rules is on record, and an answer that it gave stands.
            await self._take_all(error.events)
            self._fuel = self._wire.fuel
            if isinstance(error, GuestFrameTooLargeError):
                raise _Stop(self._bounds.kill("frame", "16MiB", str(error))) from error
            raise _Stop(self._bounds.kill("protocol", "PROTOCOL.md", str(error))) from error
        await self._take_all(events)
        self._flush()

    async def _take_all(self, events: Sequence[Event]) -> None:
        self._untaken.extend(events)
        while self._untaken:
            await self._take(self._untaken.popleft())
            if self._session.stalled and not self._is_to_stop:
                cut = self._session.cut
                raise _Stop(None if cut is None else cut.outcome)

    async def _take(self, event: Event) -> None:
        self._fuel = _get_fuel(event)
        match event:
            case CallReceived(request) if request.one_way:
                self._take_line(request)
            case CallReceived(request):
                await self._take_call(request)
            case CancelReceived(seq):
                if self._session.cancelled(seq) and seq in self._performing:
                    self._performing[seq].scope.cancel()
                # Of a replay: an answer that was recorded as cancelled waits for this.
                self._collect_replies()
            case WaitReceived():
                self._session.waits()
                self._collect_replies()
            case ReturnReceived(value):
                raise _Stop(read_answer(value, self._bounds.limits, self._session.calls, self._bounds.kill))
            case RaiseReceived(report):
                raise _Stop(self._read_report(report))

    async def _take_call(self, request: HostCallRequest) -> None:
        limits = self._bounds.limits
        self._call_count += 1
        if self._call_count > limits.host_calls_max:
            detail = f"call {self._call_count} would have been {request.name}"
            raise _Stop(self._bounds.kill("host_calls", str(limits.host_calls_max), detail))
        at_ns = self._elapsed_ns()
        recorded = self._redactor.request(request)
        if not self.is_exact:
            recorded = attrs.evolve(recorded, fuel=None)
        match self._session.decide(recorded, at_ns):
            case Perform():
                if self._scribe is not None:
                    self._scribe.asked(recorded, at_ns)
                self._recorded[request.seq] = recorded
                if self._host.is_immediate(request.name):
                    self._complete(request, self._since_asked(await self._host.perform(request), at_ns))
                else:
                    self._begin(request, at_ns)
            case Answer():
                self._recorded[request.seq] = recorded
                self._collect_replies()
            case Diverge(divergence):
                raise _Stop(None, divergence)

    def _begin(self, request: HostCallRequest, at_ns: int) -> None:
        if self._idle:
            performer = self._idle.pop()
        else:
            performer = _Performer()
            assert self._nursery is not None
            self._nursery.start_soon(self._perform, performer)
        # Here and not in the task: the guest may give it up before the task has run at all.
        self._performing[request.seq] = performer
        performer.give(request, at_ns)

    async def _perform(self, performer: _Performer) -> None:
        with self._ending:
            with performer.scope as scope:
                while True:
                    request, at_ns = await performer.take()
                    began_ns = self._elapsed_ns()
                    self._answer(request, await self._host.perform(request), at_ns)
                    if scope.cancel_called:  # Given up in the moment in which it was done.
                        break
                    self._idle.append(performer)
            if scope.cancelled_caught:
                self._answer(request, self._host.cancelled(request, self._elapsed_ns() - began_ns), at_ns)

    def _answer(self, request: HostCallRequest, result: HostCallResult, at_ns: int) -> None:
        del self._performing[request.seq]
        self._complete(request, self._since_asked(result, at_ns))
        self._flush()

    def _since_asked(self, result: HostCallResult, at_ns: int) -> HostCallResult:
        """Return the answer to a question that arrived ``at_ns`` after the start; its host told how long itself took.

        A call lasts from its question's arrival, not from when somebody came to it: else it would end in its trace
        before the world has heard of it, by as long as we were held up.
        """
        elapsed_ns = self._elapsed_ns() - at_ns
        # A replay that begins again hands on the answers of before, and those may have taken longer than this.
        held_up_ns = max(0, elapsed_ns - result.elapsed_ns)
        return HostCallResult(
            result.value, result.error, result.elapsed_ns + held_up_ns, result.now_ns, held_up_ns
        )

    def _complete(self, request: HostCallRequest, result: HostCallResult) -> None:
        kept = self._redactor.result(self._recorded.pop(request.seq), result)
        if kept is not result and kept != result:
            self._unredacted[request.seq] = result
        call = self._session.completed(request.seq, kept)
        if self._scribe is not None:
            assert call.answered is not None
            self._scribe.answered(request.seq, kept, call.answered)
        self._collect_replies()

    def _collect_replies(self) -> None:
        # Together with the session's decision and without a checkpoint between them, so that the order on
        # the wire is the order in the record.
        for seq, result in self._session.take_replies():
            heard = self._unredacted.pop(seq, result)
            # Who performs has taken the question out; what is left was answered from a record.
            recorded = self._recorded.pop(seq, None)
            if recorded is not None and self.hears is not None:
                heard = self.hears(recorded, result)
            self.is_exact = self.is_exact and heard is result
            self._outgoing += self._wire.reply(seq, heard)
        if len(self._outgoing) > UNREAD_BYTES_MAX:
            # Not how many exactly: a replay sends them in other pieces, and is to end in the same words.
            detail = f"more than {format_size(UNREAD_BYTES_MAX)} of answers wait and it does not read them"
            raise _Stop(self._bounds.kill("protocol", "PROTOCOL.md", detail))

    def _flush(self) -> None:
        """Send what the guest will take now; the rest goes as it reads."""
        if self._sending or not self._outgoing:
            return
        del self._outgoing[: self._worker.send_nowait(bytes(self._outgoing))]
        if self._outgoing:
            self._sending = True
            assert self._nursery is not None
            self._nursery.start_soon(self._send_rest)

    async def _send_rest(self) -> None:
        with self._ending:
            while self._outgoing:
                data = bytes(self._outgoing)
                self._outgoing.clear()
                await self._worker.send(data)
            self._sending = False

    def _take_line(self, request: HostCallRequest) -> None:
        try:
            match request.name:
                case log.NAME:
                    self._keep_line(log.read_line(request, self._elapsed_ns()))
                case user.NAME:
                    self._user = self._redactor.user(user.read_user(request))
                case other:
                    detail = f"{other} was sent without a number; only {log.NAME} and {user.NAME} want no answer"
                    raise _Stop(self._bounds.kill("protocol", "PROTOCOL.md", detail))
        except (log.BadLogLineError, user.BadUserError, values.ValueFormatError) as error:
            raise _Stop(self._bounds.kill("protocol", "PROTOCOL.md", str(error))) from error

    def _keep_line(self, line: LogLine) -> None:
        size = len(line.message) + len(line.fields) + LINE_OVERHEAD_BYTES
        if self._log_bytes + size > self._bounds.limits.log_bytes_max:
            self._log_bytes_dropped += size
            return
        self._log_bytes += size
        kept = self._redactor.log(line)
        divergence = self._session.logged(kept)
        if divergence is not None:
            raise _Stop(None, divergence)
        if self._scribe is not None:
            self._scribe.logged(kept)

    def _keep_output(self) -> None:
        """What the guest wrote past the SDK, by C code or a dying interpreter, is logged as well."""
        lines = self._worker.take_output().splitlines()
        for text in lines[-OUTPUT_LINES_MAX:]:
            self._keep_line(LogLine(self._elapsed_ns(), "stderr", text))

    # The end

    def _read_report(self, report: RaisedReport) -> Outcome:
        outcome = read_report(report, self._bounds.limits, self._bounds.kill)
        # Of a database that is away, or a disk without room, nobody is told that the function has a fault. It is read
        # from the call's answer, so a replay comes to the same.
        if isinstance(outcome, Raised) and self._is_host_away(report):
            return attrs.evolve(outcome, status=503, code="OVERLOADED")
        return outcome

    def _is_host_away(self, report: RaisedReport) -> bool:
        call = next((call for call in self._session.calls if call.request.seq == report.call), None)
        error = None if call is None or call.result is None else call.result.error
        if error is None or report.type not in (error.name, "HostCallError"):
            return False
        return is_away(error.code) if error.name == "DatabaseError" else error.code in _NO_DISK

    async def _read_meter(self) -> Reading | None:
        meter = self._worker.meter
        if meter is not None:
            # Without it the replay of what was cut off is not exact: on a busy machine that is worth a wait.
            with trio.move_on_after(TELLING_GRACE_S):
                return await meter.wait_reading()
        return None

    async def _find_cut(self) -> int | None:
        """Return how far the guest had come that was cut off just now, as far as the record goes.

        What it had asked by then and nobody has heard is not on record, and did not happen: so the record ends
        in front of the first such question. Log lines are no questions; they are kept.
        """
        reading = await self._read_meter()
        if reading is None or self._fuel is None:
            return None
        events, end = [*self._untaken], reading.fuel
        try:
            events += self._wire.receive(reading.unheard)
        except GuestProtocolError as error:
            events += error.events
            assert self._wire.fuel is not None
            end = max(self._wire.fuel - 1, self._fuel)
        for event in events:
            fuel = _get_fuel(event)
            try:
                if fuel is None or not isinstance(event, CallReceived) or not event.request.one_way:
                    raise _Stop(None)
                self._take_line(event.request)
                self._fuel = fuel
            except _Stop:
                return None if fuel is None else max(fuel - 1, self._fuel)
        return end

    async def _describe_exit(self) -> Outcome:
        exited: Exit | None = None
        with trio.move_on_after(EXIT_GRACE_S):
            exited = await self._worker.wait_exit()
        if exited is None and self._worker.has_ended():
            # It did not go on. Who tells how it ended has not come to it: on a busy machine that takes longer.
            with trio.move_on_after(TELLING_GRACE_S):
                exited = await self._worker.wait_exit()
            if exited is None:
                exited = Exit(None, None, "its process ended, and nobody has told how")
        reading = await self._read_meter()
        self._fuel = None if reading is None else reading.fuel
        cut = self._session.cut
        if exited is not None and exited.is_stopped and cut is not None:
            return cut.outcome
        if exited is None:
            return self._bounds.kill("protocol", "PROTOCOL.md", "it closed its door without an answer and went on")
        if exited.eviction is not None:
            return self._bounds.kill("neighbours", format_size(exited.eviction.bytes_max), exited.eviction.why)
        if exited.output.strip().rpartition("\n")[2].strip() == "MemoryError":
            limit = format_size(self._bounds.limits.memory_bytes_max)
            return self._bounds.kill("memory", limit, "MemoryError while the worker was starting or ending")
        if exited.signal == signal.SIGKILL:
            # Not by us: we stop listening before we kill. By whom, nobody can tell.
            reason = (
                "its worker process was killed by SIGKILL: by the kernel, as when memory runs out, "
                "by somebody outside, or by itself"
            )
            return Interrupted(reason, status=500)
        return Exited(exited.exit_code, exited.signal, exited.output.strip()[-4000:])

    async def _dismiss(self) -> bool:
        """Answer what the guest still waits for: it listens until it has heard everything. False: it does not."""
        if self._sending:
            # The end came in the middle of a write, and how much of that went nobody knows: what is sent now would be
            # taken for the rest of a line.
            return False
        error = HostCallResult(error=_OVER)
        for seq in sorted(self._wire.outstanding):
            self._outgoing += encode_reply(seq, error)
        data = bytes(self._outgoing)
        rest = data[self._worker.send_nowait(data) :]
        if not rest:
            return True
        with trio.move_on_after(EXIT_GRACE_S) as patience:
            await self._worker.send(rest)
        return not patience.cancelled_caught


def _get_fuel(event: Event) -> int | None:
    return event.request.fuel if isinstance(event, CallReceived) else event.fuel


_NO_DISK = (SpoolError.code, SpoolFullError.code)
_OVER = HostCallError(CANCELLED, "the execution is over")
