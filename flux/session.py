"""Recording and replaying, without any I/O.

A *session* decides, for each host call of one execution, whether the host is to
perform it, to answer it from a recording, or to stop because the guest has left
the recorded path. Whoever drives the session (the supervisor, a test, a fuzzer)
does the waiting; the session only decides.

The conversation::

    decision = session.decide(request, at_ns)
    Perform  ->  the driver asks the real host, then session.completed(seq, result)
    Answer   ->  the answer is in the recording; it is among the replies in its turn
    Diverge  ->  the driver stops the guest; decision.divergence says why

    session.take_replies()  ->  what the guest is to hear now, in this order

The order of replies is part of a recording: a guest reads one at a time, and only
when it has nothing left to do, so the same replies in the same order make it do
the same things. That is the whole of replaying concurrency.

Log lines are not questions; they are compared as a stream of their own.

Where a kind of sandbox counts what its guests burn, a recording has the count (*fuel*) at each
call and at the end. It is an exact position: a guest that asks the same with other fuel behind it
has come there by another way, which is a divergence before anything else shows it. And a guest
that a time limit has ended is stopped at the same unit when it is replayed, not by a clock.
"""

from collections.abc import Sequence
from typing import Protocol

import attrs

from flux.execution import Killed, LogLine
from flux.hostcall import HostCall, HostCallRequest, HostCallResult
from flux.streamed import READ, UNHEARD

CANCELLED = "Cancelled"
"""Name of the error that answers a call which the guest has cancelled."""


@attrs.frozen
class Divergence:
    """Where a replay left its recording."""

    kind: str
    """``changed``: another question; ``extra``: one more; ``missing``: one less; ``fuel``: the same call, or the
    same end, come to by another way; ``unheard``: it asked for bytes that are on no record (`flux.streamed`);
    ``log`` or ``outcome``: it said or ended something else."""
    seq: int
    """Number of the host call, or of the log line for ``log``; 0 for ``outcome``, and for ``fuel`` at the end."""
    expected: HostCallRequest | LogLine | str | None
    """What the recording has there."""
    actual: HostCallRequest | LogLine | str | None
    """What the replay did."""


@attrs.frozen
class Perform:
    """The host is to do it."""


@attrs.frozen
class Answer:
    """The recording has the answer; it comes in its turn, or never if it never came."""

    result: HostCallResult | None


@attrs.frozen
class Diverge:
    """The guest has left the recorded path."""

    divergence: Divergence


@attrs.frozen
class Cut:
    """How a recorded guest was ended from outside."""

    outcome: Killed
    """By which limit."""
    fuel: int | None
    """Where it was then, if that is known: its replay is to be stopped there, whatever it does."""


Decision = Perform | Answer | Diverge
Reply = tuple[int, HostCallResult]


class Session(Protocol):
    """What a driver needs of a session."""

    def decide(self, request: HostCallRequest, at_ns: int) -> Decision:
        """Say what is to happen to ``request``, asked ``at_ns`` after the execution's start."""

    def completed(self, seq: int, result: HostCallResult) -> HostCall:
        """Take the host's answer to a call that was to be performed; return the call, now whole."""

    def cancelled(self, seq: int) -> bool:
        """Take note that the guest waits no more for ``seq``; True: the driver is to stop performing it."""

    def take_replies(self) -> list[Reply]:
        """Return what the guest is to hear now, and forget it."""

    def waits(self) -> None:
        """Take note that the guest has nothing left to do until it hears an answer, if it was asked to say so."""

    def logged(self, line: LogLine) -> Divergence | None:
        """Take a log line."""

    @property
    def cut(self) -> Cut | None:
        """How this guest is to end, if it is the replay of one that was cut off."""

    @property
    def stalled(self) -> bool:
        """True when the guest waits for answers of which none will come: as recorded, it was cut off here."""

    @property
    def calls(self) -> tuple[HostCall, ...]:
        """All calls so far, by seq."""

    @property
    def logs(self) -> tuple[LogLine, ...]:
        """All log lines so far."""


class RecordSession:
    """Lets everything happen and writes it down."""

    def __init__(self) -> None:
        self._calls: dict[int, HostCall] = {}
        self._logs: list[LogLine] = []
        self._replies: list[Reply] = []
        self._answered = 0

    def decide(self, request: HostCallRequest, at_ns: int) -> Decision:
        """See `Session.decide`."""
        self._calls[request.seq] = HostCall(request, None, at_ns)
        return Perform()

    def completed(self, seq: int, result: HostCallResult) -> HostCall:
        """See `Session.completed`."""
        asked = self._calls[seq]
        assert asked.result is None, f"call {seq} was answered twice"
        self._answered += 1
        whole = HostCall(asked.request, result, asked.started_ns, self._answered)
        self._calls[seq] = whole
        self._replies.append((seq, result))
        return whole

    def cancelled(self, seq: int) -> bool:
        """See `Session.cancelled`."""
        return self._calls[seq].result is None

    def waits(self) -> None:
        """Never called: nobody asks a guest that is recorded to say so."""

    def take_replies(self) -> list[Reply]:
        """See `Session.take_replies`."""
        replies, self._replies = self._replies, []
        return replies

    def logged(self, line: LogLine) -> Divergence | None:
        """See `Session.logged`."""
        self._logs.append(line)
        return None

    @property
    def cut(self) -> Cut | None:
        """A recording guest ends as it may."""
        return None

    @property
    def stalled(self) -> bool:
        """A recording guest can always be answered yet."""
        return False

    @property
    def calls(self) -> tuple[HostCall, ...]:
        """See `Session.calls`."""
        return tuple(self._calls.values())

    @property
    def logs(self) -> tuple[LogLine, ...]:
        """See `Session.logs`."""
        return tuple(self._logs)


class ReplaySession:
    """Answers the same code from its own recording, strictly.

    Every question must equal the recorded one: name, arguments, task, and fuel where both
    have it. Where in the source it was asked is not compared, as a comment moves lines and
    changes nothing.

    ``ended`` says that the recorded guest returned or raised. Then it did not wait for
    what was never answered, and neither is its replay `stalled`. ``cut`` is its outcome if a limit
    that is measured from outside has ended it (time), and ``fuel`` is where it was at its end. Without
    ``compares_fuel`` none of that is held against it: it was counted by something else (`Level.meter`).
    """

    def __init__(
        self,
        calls: Sequence[HostCall],
        logs: Sequence[LogLine],
        *,
        ended: bool = False,
        cut: Killed | None = None,
        fuel: int | None = None,
        compares_fuel: bool = True,
    ) -> None:
        self._recorded = {call.request.seq: call for call in calls}
        self._recorded_logs = tuple(logs)
        answered = [call for call in calls if call.answered is not None]
        self._order = sorted(answered, key=lambda call: call.answered or 0)
        self._next = 0
        self._asked: dict[int, HostCall] = {}
        self._cancelled: set[int] = set()
        self._logs: list[LogLine] = []
        self._unanswered = len(calls) - len(answered)
        self._logs_to_hear = 0 if ended else _count_lines_of_guest(self._recorded_logs)
        self._ended = ended
        self._compares_fuel = compares_fuel
        self._fuel = fuel if compares_fuel else None
        self._cut = None if cut is None else Cut(cut, self._fuel)

    def decide(self, request: HostCallRequest, at_ns: int) -> Decision:
        """See `Session.decide`."""
        recorded = self._recorded.get(request.seq)
        if recorded is None:
            if self._cut is not None and _is_at_most(request.fuel, self._cut.fuel):
                # In one breath with the last call on record, and the limit came between the two.
                return Answer(None)
            return Diverge(Divergence("extra", request.seq, None, request))
        expected = recorded.request
        asked = (request.name, request.arguments, request.task)
        if asked != (expected.name, expected.arguments, expected.task):
            return Diverge(Divergence("changed", request.seq, expected, request))
        if self._compares_fuel and _differ(expected.fuel, request.fuel):
            return Diverge(Divergence("fuel", request.seq, expected, request))
        if request.name == READ and recorded.result is not None and recorded.result.error is None:
            return Diverge(Divergence(UNHEARD, request.seq, expected, request))
        self._asked[request.seq] = HostCall(request, recorded.result, at_ns, recorded.answered)
        return Answer(recorded.result)

    def completed(self, seq: int, result: HostCallResult) -> HostCall:  # noqa: ARG002 - the protocol's
        """Never called: this session lets nothing be performed."""
        raise AssertionError(f"call {seq} was performed during a replay")

    def cancelled(self, seq: int) -> bool:
        """See `Session.cancelled`."""
        self._cancelled.add(seq)
        return False

    def waits(self) -> None:
        """Never called: the recorded order is all that there is to know."""

    def take_replies(self) -> list[Reply]:
        """See `Session.take_replies`: as many as the recorded order allows by now."""
        replies: list[Reply] = []
        while self._next < len(self._order):
            call = self._order[self._next]
            seq, result = call.request.seq, call.result
            assert result is not None
            if seq not in self._asked:
                break
            if result.error is not None and result.error.name == CANCELLED and seq not in self._cancelled:
                break
            replies.append((seq, result))
            self._next += 1
        return replies

    def logged(self, line: LogLine) -> Divergence | None:
        """See `Session.logged`."""
        index = len(self._logs)
        self._logs.append(line)
        expected = self._recorded_logs[index] if index < len(self._recorded_logs) else None
        if expected is None or (expected.level, expected.message, expected.fields) != (
            line.level,
            line.message,
            line.fields,
        ):
            return Divergence("log", index + 1, expected, line)
        return None

    @property
    def cut(self) -> Cut | None:
        """See `Session.cut`."""
        return self._cut

    @property
    def stalled(self) -> bool:
        """See `Session.stalled`: all that was recorded has been asked, said and heard, and it waits on."""
        return (
            not self._ended
            and self._unanswered > 0
            and self._next == len(self._order)
            and len(self._asked) == len(self._recorded)
            and len(self._logs) >= self._logs_to_hear
        )

    @property
    def calls(self) -> tuple[HostCall, ...]:
        """See `Session.calls`."""
        return tuple(self._asked.values())

    @property
    def logs(self) -> tuple[LogLine, ...]:
        """See `Session.logs`."""
        return tuple(self._logs)

    def find_missing(self, fuel: int | None = None) -> Divergence | None:
        """Return the first recorded call or log line that the replay, now ended, never came to.

        If there is none: that it ended elsewhere, when ``fuel`` says where it ended.
        """
        for seq, call in self._recorded.items():
            if seq not in self._asked:
                return Divergence("missing", seq, call.request, None)
        if len(self._logs) < len(self._recorded_logs):
            return Divergence("log", len(self._logs) + 1, self._recorded_logs[len(self._logs)], None)
        if _differ(self._fuel, fuel):
            return Divergence("fuel", 0, f"{self._fuel} units of fuel", f"{fuel} units of fuel")
        return None


def _differ(recorded: int | None, replayed: int | None) -> bool:
    return recorded is not None and replayed is not None and recorded != replayed


def _is_at_most(fuel: int | None, limit: int | None) -> bool:
    return fuel is not None and limit is not None and fuel <= limit


def _count_lines_of_guest(logs: Sequence[LogLine]) -> int:
    """Count the log lines but for the last ones that came past the SDK: the driver adds those at the end."""
    count = len(logs)
    while count and logs[count - 1].level == "stderr" and logs[count - 1].position is None:
        count -= 1
    return count
