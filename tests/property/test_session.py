"""Recording then replay: the same guest hears the same answers in the same order.

The guest here is a set of tasks that ask, wait, cancel and log, all of it decided by what
they hear. It is recorded against a host that answers in any order, and replayed with none.
"""

import random
from collections.abc import Callable

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st

from flux.execution import LogLine
from flux.hostcall import HostCallError, HostCallRequest, HostCallResult
from flux.session import CANCELLED, Diverge, Divergence, Perform, RecordSession, ReplaySession, Session

GIVEN_UP = HostCallResult(error=HostCallError(CANCELLED, "the function no longer waited"))


@attrs.define
class Guest:
    """Does something pseudo-random after each thing that it hears; equal answers, equal deeds."""

    seed: int
    session: Session
    perform: Callable[[HostCallRequest], None]
    stop_performing: Callable[[int], None]
    heard: list[tuple[int, bytes]] = attrs.Factory(list)
    divergence: Divergence | None = None
    ended: bool = False
    _seq: int = 0
    _waiting: set[int] = attrs.Factory(set)
    _state: int = 0
    _first_lie: int = -1

    def think(self, lie_at: int | None = None) -> None:
        """Run until it has nothing to do but wait: ask, cancel, log."""
        chance = random.Random(f"{self.seed} {self._state} {self.heard}")
        self._state += 1
        for _ in range(chance.randint(0, 3)):
            deed = chance.choice(["ask", "ask", "cancel", "log"])
            if deed == "ask" and self._seq < 12:
                self._ask(chance, lie_at)
            elif deed == "cancel" and self._waiting:
                seq = chance.choice(sorted(self._waiting))
                if self.session.cancelled(seq):
                    self.stop_performing(seq)
            elif deed == "log":
                line = LogLine(0, "info", f"{chance.random()}")
                self.divergence = self.divergence or self.session.logged(line)
            if self.divergence:
                return
        if not self._waiting and self._seq < 12 and chance.random() < 0.8:
            self._ask(chance, lie_at)
        self.ended = not self._waiting or chance.random() < 0.05

    def _ask(self, chance: random.Random, lie_at: int | None) -> None:
        self._seq += 1
        arguments = b"[%d]" % chance.randint(0, 99)
        if self._seq == lie_at:
            arguments = b'["another"]'
        request = HostCallRequest(self._seq, "db.query", arguments, chance.randint(0, 3))
        match self.session.decide(request, 0):
            case Perform():
                self._waiting.add(self._seq)
                self.perform(request)
            case Diverge(divergence):
                self.divergence = divergence
            case _:
                self._waiting.add(self._seq)

    def hear(self) -> bool:
        """Take one reply, as a guest does: it reads the next only when it has nothing left to do."""
        if not self._inbox:
            self._inbox = self.session.take_replies()
        if not self._inbox:
            return False
        seq, result = self._inbox.pop(0)
        self._waiting.discard(seq)
        self.heard.append((seq, result.error.name.encode() if result.error else result.value))
        return True

    _inbox: list[tuple[int, HostCallResult]] = attrs.Factory(list)


def record(seed: int, host_seed: int, cut_after: int) -> tuple[Guest, RecordSession]:
    session = RecordSession()
    at_work: list[int] = []
    guest = Guest(seed, session, lambda request: at_work.append(request.seq), lambda seq: give_up(seq))

    def give_up(seq: int) -> None:
        at_work.remove(seq)
        session.completed(seq, GIVEN_UP)

    host = random.Random(host_seed)
    guest.think()
    for _ in range(cut_after):
        if guest.ended:
            break
        if at_work and host.random() < 0.7:
            seq = at_work.pop(host.randrange(len(at_work)))
            session.completed(seq, HostCallResult(b"%d" % host.randint(0, 9)))
        elif guest.hear():
            guest.think()
    while not guest.ended and guest.hear():
        guest.think()
    return guest, session


def never(*_: object) -> None:
    raise AssertionError("a replay performed something")


def replay(
    seed: int, recorded: Guest, session: RecordSession, lie_at: int | None = None
) -> tuple[Guest, ReplaySession]:
    again = ReplaySession(session.calls, session.logs, ended=recorded.ended)
    guest = Guest(seed, again, never, never)
    guest.think(lie_at)
    while not guest.ended and not guest.divergence and guest.hear():
        guest.think(lie_at)
    return guest, again


SEEDS = st.integers(0, 10**9)


@settings(max_examples=600, deadline=None)
@given(SEEDS, SEEDS, st.integers(0, 60))
def test_a_replay_hears_what_the_recorded_one_heard(seed: int, host_seed: int, cut_after: int) -> None:
    recorded, session = record(seed, host_seed, cut_after)
    guest, again = replay(seed, recorded, session)
    assert guest.divergence is None
    assert guest.heard == recorded.heard
    assert guest.ended == recorded.ended
    assert again.find_missing() is None
    assert [attrs.evolve(call, started_ns=0) for call in again.calls] == list(session.calls)
    assert again.logs == session.logs
    cut_in_a_call = not recorded.ended and any(call.result is None for call in session.calls)
    assert again.stalled == cut_in_a_call


@settings(max_examples=300, deadline=None)
@given(SEEDS, SEEDS, st.integers(1, 12))
def test_the_first_different_question_is_where_a_replay_diverges(
    seed: int, host_seed: int, lie_at: int
) -> None:
    recorded, session = record(seed, host_seed, 60)
    guest, again = replay(seed, recorded, session, lie_at)
    asked = {call.request.seq: call.request for call in session.calls}
    if lie_at not in asked:
        assert guest.divergence is None
        return
    assert guest.divergence is not None
    assert (guest.divergence.kind, guest.divergence.seq) == ("changed", lie_at)
    assert guest.divergence.expected == asked[lie_at]
    assert len(again.calls) == lie_at - 1


@settings(max_examples=300, deadline=None)
@given(SEEDS, SEEDS, st.integers(0, 12))
def test_who_stops_early_has_something_missing(seed: int, host_seed: int, keep: int) -> None:
    _, session = record(seed, host_seed, 60)
    full = ReplaySession(session.calls, session.logs, ended=True)
    for call in session.calls[:keep]:
        full.decide(call.request, 0)
        full.take_replies()
    missing = full.find_missing()
    if keep < len(session.calls):
        assert missing == Divergence("missing", keep + 1, session.calls[keep].request, None)
    elif session.logs:
        assert missing == Divergence("log", 1, session.logs[0], None)
    else:
        assert missing is None
