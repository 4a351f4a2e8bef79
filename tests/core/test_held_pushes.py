"""A replay of changed code that pushes jobs: what it hears, and that nobody performs anything."""

import json

import pytest

from flux import values
from flux.hostcall import HostCall, HostCallRequest, HostCallResult
from flux.matching_session import MatchingSession, Source
from flux.session import Answer, Diverge

RECORDED = HostCall(
    HostCallRequest(1, "queue.push", values.encode_canonical(["welcome", {"n": 1}, {}])),
    HostCallResult(b'{"job":"01a21587-edb7-7f0b-9c40-79561b7251e4"}', None, 1000, 2000), 0, 1,
)  # fmt: skip


def hear(*asked: list[object], functions: frozenset[str] | None = None) -> tuple[list[HostCallResult], MatchingSession]:
    """What a guest hears that pushes each of ``asked``."""
    session = MatchingSession(
        [RECORDED], started_at_ns=0, seed=bytes(32), has_world=False, tells_waits=False, functions=functions
    )
    heard = []
    for seq, arguments in enumerate(asked, 1):
        request = HostCallRequest(seq, "queue.push", values.encode_canonical(arguments))
        assert isinstance(session.decide(request, 0), Answer), "it goes on, and nobody is to push anything"
        ((answered, result),) = session.take_replies()
        assert answered == seq
        heard.append(result)
    return heard, session


def test_a_push_as_recorded_is_answered_from_the_record() -> None:
    ((answer,), session) = hear(["welcome", {"n": 1}, {}])
    assert json.loads(answer.value) == {"job": "01a21587-edb7-7f0b-9c40-79561b7251e4"}
    assert session.sources == {1: Source.RECORDED} and session.is_on_track


@pytest.mark.parametrize("arguments", [["welcome", {"n": 2}, {}], ["other", {"n": 1}, {}]])
def test_any_other_push_hears_an_id_that_no_job_has_the_same_in_each_replay(arguments: list[object]) -> None:
    (first, session), (second, _) = hear(arguments, arguments), hear(arguments, arguments)
    ids = [json.loads(answer.value)["job"] for answer in first]
    assert first == second and len(set(ids)) == 2
    assert all(one.startswith("00000000-0000-8000-8000-") for one in ids)
    assert session.sources == {1: Source.HELD, 2: Source.HELD}


def test_a_push_for_a_function_that_the_code_does_not_have_fails_as_it_would_have() -> None:
    ((answer,), _) = hear(["gone", {}, {}], functions=frozenset({"welcome"}))
    assert answer.error is not None and (answer.error.name, answer.error.code) == ("UnknownFunction", "FLX570")


def test_an_invoke_that_was_not_recorded_stops_the_replay() -> None:
    session = MatchingSession([RECORDED], started_at_ns=0, seed=bytes(32), has_world=False)
    assert isinstance(session.decide(HostCallRequest(1, "invoke", b'["price",{}]'), 0), Diverge)
