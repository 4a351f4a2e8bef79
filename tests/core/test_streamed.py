"""What is on record of pieces, and what a replay makes of it."""

import hashlib
import json

import pytest

from flux import codec, streamed, values
from flux.execution import Returned, Trigger
from flux.hostcall import HostCall, HostCallError, HostCallRequest, HostCallResult
from flux.matching_session import MatchingSession, Source
from flux.redact import RedactionRules, Redactor
from flux.session import Answer, Diverge, Divergence, Perform, ReplaySession, Session
from flux.streamed import StreamedBody
from flux.verdict import Replayed, Verdict, judge
from tests.console_world import make_execution, raised

SECRET = "sk_live_abcdef"


def describe(data: bytes) -> dict[str, object]:
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def make_request(seq: int, name: str, *arguments: object) -> HostCallRequest:
    return HostCallRequest(seq, name, values.encode_canonical(list(arguments)))


def test_a_piece_is_recorded_by_its_digest_and_a_secret_in_it_by_its_stand_in() -> None:
    redactor = Redactor(RedactionRules(), bytes(32), [(SECRET, "flux-secret:KEY")])
    for piece in ("plain text", b"\xff\x00", f"Bearer {SECRET}"):
        recorded = redactor.request(make_request(1, streamed.WRITE, piece))
        data = piece.encode() if isinstance(piece, str) else piece
        assert json.loads(recorded.arguments) == [describe(data.replace(SECRET.encode(), b"flux-secret:KEY"))]
    asked = make_request(2, streamed.READ, 0, 100)
    heard = redactor.result(asked, HostCallResult(values.encode(f"a {SECRET}".encode())))
    assert json.loads(heard.value) == describe(b"a flux-secret:KEY")
    wrong = make_request(3, streamed.WRITE, 7)
    assert redactor.request(wrong) == wrong, "what is no piece is the host's to refuse"


def test_the_length_and_the_digest_are_the_hosts_word() -> None:
    said = HostCallResult(values.encode(describe(b"abc")))
    refused = HostCallResult(error=HostCallError("StreamEnded", "it has had its end", "FLX712"))
    calls = [
        HostCall(make_request(1, streamed.WRITE, "abc"), HostCallResult(), 0, 1),
        HostCall(make_request(2, streamed.END), said, 0, 2),
        HostCall(make_request(3, streamed.END), refused, 0, 3),
    ]
    assert streamed.find_ended(calls) == StreamedBody(hashlib.sha256(b"abc").hexdigest(), 3)
    assert streamed.find_ended(calls[:1]) is None


def test_a_streamed_body_is_read_from_a_record_and_older_records_have_none() -> None:
    body = StreamedBody("ab" * 32, 500_000_000)
    execution = make_execution(
        Returned(200, streamed=body), trigger=Trigger("http", "PUT", "/up", streamed=body)
    )
    stored = codec.encode_execution(execution)
    assert codec.decode_execution(stored.body, stored.format, lambda _: None) == execution
    assert codec.decode(Returned, codec.encode(Returned(200))).streamed is None


UPLOAD = (
    HostCall(make_request(1, "clock.now"), HostCallResult(b"1"), 0, 1),
    HostCall(make_request(2, streamed.READ, 0, 5), HostCallResult(values.encode(describe(b"lines"))), 0, 2),
)


@pytest.mark.parametrize("strict", [True, False])
def test_a_replay_stops_where_bytes_are_asked_for_that_are_on_no_record(strict: bool) -> None:
    session: Session = (
        ReplaySession(UPLOAD, ())
        if strict
        else MatchingSession(UPLOAD, started_at_ns=0, seed=bytes(32), has_world=False, tells_waits=False)
    )
    assert isinstance(session.decide(UPLOAD[0].request, 0), Answer)
    stopped = session.decide(UPLOAD[1].request, 0)
    assert isinstance(stopped, Diverge) and stopped.divergence.kind == streamed.UNHEARD
    for original in (make_execution(calls=UPLOAD), make_execution(raised(), calls=UPLOAD)):
        judgement = judge(original, Replayed(original, stopped.divergence))
        assert judgement.verdict is Verdict.OUTSIDE
        assert "call 2 reads the request's body" in judgement.reason


def test_other_code_may_write_other_pieces_and_read_none() -> None:
    session = MatchingSession((), started_at_ns=0, seed=bytes(32), has_world=False, tells_waits=False)
    assert isinstance(session.decide(make_request(1, streamed.WRITE, "another"), 0), Perform)
    session.completed(1, HostCallResult())
    assert session.take_replies() == [(1, HostCallResult(now_ns=0))]
    assert session.sources == {1: Source.HELD}
    asked = session.decide(make_request(2, streamed.READ, 0, 5), 0)
    assert asked == Diverge(Divergence(streamed.UNHEARD, 2, None, make_request(2, streamed.READ, 0, 5)))


def test_a_refusal_that_is_on_record_is_heard_again() -> None:
    refused = HostCallResult(error=HostCallError("StreamRefused", "not here", "FLX711"))
    calls = [
        HostCall(make_request(1, streamed.WRITE, "a"), refused, 0, 1),
        HostCall(make_request(2, streamed.READ, 0, 5), refused, 0, 2),
    ]
    session = MatchingSession(calls, started_at_ns=0, seed=bytes(32), has_world=False, tells_waits=False)
    for call in calls:
        assert isinstance(session.decide(call.request, 0), Answer)


@pytest.mark.parametrize(("pieces", "same"), [("ab", True), ("ba", False), ("a", False), ("abb", False)])
def test_the_same_pieces_are_the_same_answer_whatever_they_were_digested_with(pieces: str, same: bool) -> None:
    ended = HostCallResult(values.encode({"bytes": 99, "sha256": "of what the client got, and no replay hears"}))
    calls = [
        HostCall(make_request(1, streamed.WRITE, "a"), HostCallResult(), 0, 1),
        HostCall(make_request(2, streamed.WRITE, "b"), HostCallResult(), 0, 2),
        HostCall(make_request(3, streamed.END), ended, 0, 3),
    ]
    session = MatchingSession(calls, started_at_ns=0, seed=bytes(32), has_world=False, tells_waits=False)
    for seq, piece in enumerate(pieces, 1):
        assert isinstance(session.decide(make_request(seq, streamed.WRITE, piece), 0), Perform)
        session.completed(seq, HostCallResult())
        session.take_replies()
    decision = session.decide(make_request(len(pieces) + 1, streamed.END), 0)
    assert isinstance(decision, Answer if same else Perform)
