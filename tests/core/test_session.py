"""Recording and replaying, decision by decision."""

import attrs
import pytest

from flux.execution import Killed, LogLine
from flux.hostcall import HostCall, HostCallError, HostCallRequest, HostCallResult, Position
from flux.session import CANCELLED, Answer, Cut, Diverge, Divergence, Perform, RecordSession, ReplaySession


def ask(seq: int, name: str = "db.query", arguments: bytes = b"[]", task: int = 0) -> HostCallRequest:
    return HostCallRequest(seq, name, arguments, task)


def value(number: int) -> HostCallResult:
    return HostCallResult(b"%d" % number)


GIVEN_UP = HostCallResult(error=HostCallError(CANCELLED, "the function no longer waited"))
HELLO = LogLine(5, "info", "hello")


def record(*steps: tuple[str, object]) -> RecordSession:
    session = RecordSession()
    for step, what in steps:
        match step, what:
            case "ask", HostCallRequest():
                assert session.decide(what, 0) == Perform()
            case "answer", int(seq):
                session.completed(seq, value(seq))
            case "give up", int(seq):
                assert session.cancelled(seq)
                session.completed(seq, GIVEN_UP)
            case "log", LogLine():
                assert session.logged(what) is None
    return session


def replay_of(session: RecordSession, *, ended: bool = False) -> ReplaySession:
    return ReplaySession(session.calls, session.logs, ended=ended)


def test_a_recording_has_what_was_asked_what_was_answered_and_in_which_order() -> None:
    session = RecordSession()
    session.decide(ask(1), 10)
    session.decide(ask(2), 20)
    whole = session.completed(2, value(2))
    assert whole == HostCall(ask(2), value(2), 20, answered=1)
    assert session.take_replies() == [(2, value(2))]
    assert session.take_replies() == []
    assert session.calls == (HostCall(ask(1), None, 10), HostCall(ask(2), value(2), 20, 1))
    session.completed(1, value(1))
    assert [call.answered for call in session.calls] == [2, 1]
    assert not session.stalled


def test_a_call_is_answered_once() -> None:
    session = record(("ask", ask(1)), ("answer", 1))
    with pytest.raises(AssertionError, match="answered twice"):
        session.completed(1, value(1))


def test_a_call_that_is_given_up_after_its_answer_is_left_alone() -> None:
    session = record(("ask", ask(1)), ("answer", 1))
    assert not session.cancelled(1)


def test_a_replay_performs_nothing() -> None:
    session = replay_of(record(("ask", ask(1)), ("answer", 1)))
    with pytest.raises(AssertionError, match="during a replay"):
        session.completed(1, value(1))


def test_answers_come_in_the_recorded_order_whatever_the_order_of_the_questions() -> None:
    recorded = record(
        ("ask", ask(1)), ("ask", ask(2)), ("ask", ask(3)), ("answer", 3), ("answer", 1), ("answer", 2)
    )
    session = replay_of(recorded, ended=True)
    assert session.decide(ask(1), 0) == Answer(value(1))
    assert session.take_replies() == [], "the first answer was to a question not yet asked"
    session.decide(ask(2), 0)
    assert session.take_replies() == []
    session.decide(ask(3), 0)
    assert session.take_replies() == [(3, value(3)), (1, value(1)), (2, value(2))]
    assert [call.answered for call in session.calls] == [2, 3, 1]
    assert session.find_missing() is None
    assert not session.stalled


def test_a_cancelled_call_is_answered_when_the_replay_cancels_it_too() -> None:
    recorded = record(("ask", ask(1)), ("ask", ask(2)), ("give up", 1), ("answer", 2))
    session = replay_of(recorded, ended=True)
    session.decide(ask(1), 0)
    session.decide(ask(2), 0)
    assert session.take_replies() == []
    assert not session.cancelled(1), "there is nothing to stop"
    assert session.take_replies() == [(1, GIVEN_UP), (2, value(2))]


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        (ask(1, name="db.execute"), "changed"),
        (ask(1, arguments=b"[1]"), "changed"),
        (ask(1, task=1), "changed"),
        (ask(2), "extra"),
    ],
)
def test_another_question_is_a_divergence_that_has_both_sides(request_: HostCallRequest, kind: str) -> None:
    session = replay_of(record(("ask", ask(1)), ("answer", 1)))
    expected = ask(1) if kind == "changed" else None
    assert session.decide(request_, 0) == Diverge(Divergence(kind, request_.seq, expected, request_))
    assert session.calls == ()


def test_where_in_the_source_a_question_is_asked_does_not_matter() -> None:
    session = replay_of(record(("ask", ask(1)), ("answer", 1)))
    moved = attrs.evolve(ask(1), position=Position("functions/a.py", 99, "f"))
    assert session.decide(moved, 0) == Answer(value(1))


def test_a_question_that_never_comes_is_missing() -> None:
    session = replay_of(record(("ask", ask(1)), ("answer", 1), ("ask", ask(2)), ("answer", 2)), ended=True)
    session.decide(ask(1), 0)
    assert session.find_missing() == Divergence("missing", 2, ask(2), None)


@pytest.mark.parametrize(
    "line",
    [
        LogLine(9, "error", "hello"),
        LogLine(9, "info", "goodbye"),
        LogLine(9, "info", "hello", b'{"a":1}'),
    ],
)
def test_another_log_line_is_a_divergence(line: LogLine) -> None:
    session = replay_of(record(("log", HELLO)))
    assert session.logged(line) == Divergence("log", 1, HELLO, line)


def test_a_log_line_may_come_at_another_time_and_from_another_line() -> None:
    session = replay_of(record(("log", HELLO)))
    assert session.logged(attrs.evolve(HELLO, at_ns=99, position=Position("a.py", 3, "f"))) is None
    assert session.find_missing() is None
    assert session.logged(HELLO) == Divergence("log", 2, None, HELLO)


def test_a_log_line_that_never_comes_is_missing() -> None:
    session = replay_of(record(("log", HELLO)))
    assert session.find_missing() == Divergence("log", 1, HELLO, None)


# --- recordings that were cut ----------------------------------------------------------------------


def stalled(session: ReplaySession) -> bool:
    """Ask anew: a type checker takes a property for a constant."""
    return session.stalled


def test_a_replay_stalls_where_the_recording_was_cut() -> None:
    session = replay_of(record(("ask", ask(1)), ("answer", 1), ("ask", ask(2))))
    assert not stalled(session)
    session.decide(ask(1), 0)
    session.take_replies()
    assert not stalled(session)
    assert session.decide(ask(2), 0) == Answer(None)
    assert session.take_replies() == []
    assert stalled(session)
    assert session.calls[1].result is None


def test_a_replay_does_not_stall_while_there_is_more_to_ask() -> None:
    """The first call was never answered, and two more were asked after it."""
    session = replay_of(record(("ask", ask(1)), ("ask", ask(2)), ("answer", 2), ("ask", ask(3))))
    session.decide(ask(1), 0)
    assert not stalled(session)
    session.decide(ask(2), 0)
    assert session.take_replies() == [(2, value(2))]
    assert not stalled(session), "it has yet to ask for the third"
    session.decide(ask(3), 0)
    assert stalled(session)
    assert session.find_missing() is None


def test_a_replay_does_not_stall_while_there_is_more_to_say() -> None:
    session = replay_of(record(("ask", ask(1)), ("log", HELLO)))
    session.decide(ask(1), 0)
    assert not stalled(session)
    session.logged(HELLO)
    assert stalled(session)


def test_what_a_worker_wrote_past_the_sdk_is_not_waited_for() -> None:
    """The driver adds it at the end, so a replay has it only after it has stalled."""
    session = replay_of(record(("ask", ask(1)), ("log", HELLO), ("log", LogLine(9, "stderr", "Fatal error"))))
    session.decide(ask(1), 0)
    session.logged(HELLO)
    assert stalled(session)


def test_who_returned_without_waiting_does_not_stall_in_replay() -> None:
    session = replay_of(record(("ask", ask(1))), ended=True)
    session.decide(ask(1), 0)
    assert not stalled(session)
    assert session.find_missing() is None


# --- recordings that know how far the guest had come -----------------------------------------------

TIMEOUT = Killed("timeout", "10s", "Flux's default")


def at(seq: int, fuel: int | None) -> HostCallRequest:
    return attrs.evolve(ask(seq), fuel=fuel)


def test_the_same_question_come_to_by_another_way_is_a_divergence() -> None:
    session = replay_of(record(("ask", at(1, 500)), ("answer", 1), ("ask", at(2, 900)), ("answer", 2)), ended=True)
    assert session.decide(at(1, 500), 0) == Answer(value(1))
    assert session.decide(at(2, 901), 0) == Diverge(Divergence("fuel", 2, at(2, 900), at(2, 901)))


@pytest.mark.parametrize(("recorded", "replayed"), [(500, None), (None, 500), (None, None)])
def test_fuel_is_compared_where_both_have_it(recorded: int | None, replayed: int | None) -> None:
    session = replay_of(record(("ask", at(1, recorded)), ("answer", 1)), ended=True)
    assert session.decide(at(1, replayed), 0) == Answer(value(1))


def test_fuel_that_something_else_has_counted_is_compared_with_nothing() -> None:
    recorded = record(("ask", at(1, 500)), ("answer", 1))
    session = ReplaySession(recorded.calls, recorded.logs, cut=TIMEOUT, fuel=900, compares_fuel=False)
    assert session.cut == Cut(TIMEOUT, None), "it can't be stopped by another's count"
    assert session.decide(at(1, 77), 0) == Answer(value(1))
    assert session.find_missing(78) is None


def test_another_end_is_a_divergence() -> None:
    recorded = record(("ask", at(1, 500)), ("answer", 1))
    session = ReplaySession(recorded.calls, recorded.logs, ended=True, fuel=700)
    assert session.find_missing(700) == Divergence("missing", 1, at(1, 500), None), "what is missing comes first"
    session.decide(at(1, 500), 0)
    assert session.find_missing(700) is None
    assert session.find_missing() is None, "nobody knows where it ended"
    assert session.find_missing(701) == Divergence("fuel", 0, "700 units of fuel", "701 units of fuel")


def test_a_replay_knows_where_it_is_to_be_cut_off() -> None:
    recorded = record(("ask", at(1, 500)))
    assert recorded.cut is None
    assert replay_of(recorded).cut is None
    session = ReplaySession(recorded.calls, recorded.logs, cut=TIMEOUT, fuel=800)
    assert session.cut == Cut(TIMEOUT, 800)
    assert ReplaySession(recorded.calls, recorded.logs, cut=TIMEOUT).cut == Cut(TIMEOUT, None)


def test_what_the_limit_came_between_is_no_divergence() -> None:
    """Two questions in one breath, of which the first is on record."""
    recorded = record(("ask", at(1, 500)))
    session = ReplaySession(recorded.calls, recorded.logs, cut=TIMEOUT, fuel=500)
    session.decide(at(1, 500), 0)
    assert session.decide(at(2, 500), 0) == Answer(None)
    assert [call.request.seq for call in session.calls] == [1]
    assert session.decide(at(3, 501), 0) == Diverge(Divergence("extra", 3, None, at(3, 501)))
    without_fuel = ReplaySession(recorded.calls, recorded.logs, cut=TIMEOUT)
    assert isinstance(without_fuel.decide(at(2, 500), 0), Diverge)
