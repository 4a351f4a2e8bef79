"""What there is to flip in an execution, and what it then hears."""

import json
from typing import Any

import attrs

from flux import values
from flux.execution import Execution, Raised, Returned, Trigger
from flux.failure import find_failure
from flux.hostcall import HostCall, HostCallResult
from flux.matching_session import MatchingSession, Source
from flux.prove_flips import CALLS_MAX, Code, Field, Flip, Flips, alter, list_flips
from flux.session import Answer, Diverge, Perform
from flux.supervisor.inputs import read_input
from flux.trace_values import ABSENT
from tests.failing_executions import execute, execution, failed, frame, http, query

BUG = Raised("KeyError", "'amount'", (frame(21, "amount = charge['amount']"),))
OK = Returned(201, (), b"{}")
READ = "select plan, email from users where id = $1"


def heard(outcome: Any, body: object, *calls: HostCall, **trigger: Any) -> Execution:
    """An execution of a request with this body."""
    data = json.dumps(body).encode() if body is not None else b""
    headers = (("content-type", "application/json"),)
    made = execution(outcome, *calls)
    said = {"method": "POST", "path": "/orders", "route": "/orders", "headers": headers, "body": data, **trigger}
    return attrs.evolve(made, trigger=Trigger("http", **said))


def flips_of(original: Execution, *peers: Execution, earlier: Execution | None = None) -> Flips:
    failure = find_failure(original)
    assert failure is not None
    return list_flips(original, failure, peers, earlier)


def input_of(execution: Execution) -> object:
    """What the function is given, as the server reads it."""
    trigger = execution.trigger
    kind = dict(trigger.headers).get("content-type", "")
    return read_input(dict(trigger.params), trigger.query, kind, trigger.body)


def of_site(flips: Flips, site: str) -> list[Flip]:
    return [flip for flip in flips.flips if flip.site == site]


def test_a_field_is_what_it_was_for_a_peer_and_then_absent_and_what_only_peers_have_comes_first() -> None:
    peer = heard(OK, {"who": 1, "plan": "pro"})
    flips = flips_of(heard(BUG, {"who": 2}), peer)
    assert [flip.site for flip in flips.flips] == ["input.plan", "input.who", "input.who"]
    inputs = [input_of(alter(heard(BUG, {"who": 2}), [flip]).execution) for flip in flips.flips]
    assert inputs == [{"who": 2, "plan": "pro"}, {"who": 1}, {}]
    assert flips.flips[0].text == f'input.plan is "pro", as in {peer.name} (it was absent)'


def test_fields_are_changed_where_the_function_finds_them() -> None:
    place = {"params": (("id", "404"),), "query": (("tab", "a"),), "path": "/orders/404", "route": "/orders/{id}"}
    theirs = {"params": (("id", "7 7"),), "query": (("tab", "b"),), "path": "/orders/7%207", "route": "/orders/{id}"}
    original = heard(BUG, {"address": {"zip": None, "city": "Bern"}}, **place)
    flips = flips_of(original, heard(OK, {"address": {"zip": "8001", "city": "Bern"}}, **theirs))
    together = [of_site(flips, site)[0] for site in ("input.id", "input.tab", "input.address.zip")]
    changed = alter(original, together).execution
    assert input_of(changed) == {"id": "7 7", "tab": "b", "address": {"zip": "8001", "city": "Bern"}}
    assert changed.trigger.path == "/orders/7%207"
    assert of_site(flips, "input.address") == [], "what is inside says more"
    assert not any(flip.text.startswith("input.id is absent") for flip in flips.flips), "it has another route then"


def test_a_body_of_another_kind_has_no_fields_and_that_is_said() -> None:
    flips = flips_of(heard(BUG, [1, 2]), heard(OK, [3]))
    assert flips.flips == () and flips.left_out == ("the input is no JSON object, so it has no fields to flip",)


def test_an_answer_is_a_peers_with_the_values_in_which_they_differ_and_then_the_plainest() -> None:
    original = heard(BUG, {}, query(1, READ, [5], ["plan", "email"], [[None, "a@b.com"]]))
    peer = heard(OK, {}, query(1, READ, [5], ["plan", "email"], [["pro", "c@d.com"]]))
    whole, nothing = of_site(flips_of(original, peer), "call 1")
    assert [part.site for part in whole.parts] == ["call 1 plan of row 1", "call 1 email of row 1"]
    for flip, rows in ((whole, [["pro", "c@d.com"]]), (whole.parts[0], [["pro", "a@b.com"]]), (nothing, [])):
        answer = values.decode_json(alter(original, [flip]).given[1].value)
        assert answer["rows"] == rows
    both = values.decode_json(alter(original, whole.parts).given[1].value)
    assert both["rows"] == [["pro", "c@d.com"]]


def test_a_body_is_taken_apart_too_and_keeps_the_rest_of_its_answer() -> None:
    url = "https://quotes.example/now"
    original = heard(BUG, {}, http(1, "GET", url, 200, '{"cents":null,"day":2}'))
    peer = heard(OK, {}, http(1, "GET", url, 200, '{"cents":5,"day":1}'))
    whole = of_site(flips_of(original, peer), "call 1")[0]
    part = next(part for part in whole.parts if part.site == "call 1 cents")
    answer = values.decode_json(alter(original, [part]).given[1].value)
    assert (answer["status"], json.loads(answer["body"])) == (200, {"cents": 5, "day": 2})


def test_what_failed_goes_well_and_what_went_well_does_not() -> None:
    url = "https://pay.example/charge"
    lost = http(1, "POST", url, error=failed("HttpTimeout", "no answer", "FLX409"))
    refused = execute(2, "insert into users values (1)", [], error=failed("DatabaseError", "taken", "23505"))
    fine = http(3, "GET", url, 200, "{}")
    given = {
        flip.site: alter(heard(BUG, {}, lost, refused, fine), [flip]).given
        for flip in flips_of(heard(BUG, {}, lost, refused, fine)).flips
    }
    assert values.decode_json(given["call 1"][1].value)["status"] == 200
    assert values.decode_json(given["call 2"][2].value)["affected"] == 1
    error = given["call 3"][3].error
    assert error is not None and error.name == "HttpTimeout"


def test_answers_that_differ_in_header_fields_alone_are_no_flip() -> None:
    url = "https://quotes.example/now"
    answers = [http(1, "GET", url, 200, "{}") for _ in range(2)]
    flips = flips_of(heard(BUG, {}, answers[0]), heard(OK, {}, answers[1]))
    assert [flip.peer for flip in flips.flips] == [None]


def test_of_many_calls_the_last_are_flipped_and_the_others_are_counted() -> None:
    calls = [query(seq, "select 1", [], ["n"], [[1]]) for seq in range(1, CALLS_MAX + 51)]
    flips = flips_of(heard(BUG, {}, *calls))
    assert [flip.call for flip in flips.flips][:2] == [CALLS_MAX + 50, CALLS_MAX + 49]
    assert len(flips.flips) == CALLS_MAX
    assert flips.left_out == (f"of its {CALLS_MAX + 50} answers only the last {CALLS_MAX} are flipped",)


def test_the_code_is_that_of_the_last_deployment_on_which_it_passed() -> None:
    earlier = attrs.evolve(heard(OK, {}), deployment="d0", sha="b71d04a", dirty=False)
    (flip,) = flips_of(heard(BUG, {}), earlier=earlier).flips
    assert flip.change == Code("d0", "b71d04a", dirty=False)
    assert (alter(heard(BUG, {}), [flip]).execution.deployment, flip.site) == ("d0", "code")


def test_recorded_names_and_values_are_made_visible() -> None:
    flips = flips_of(heard(BUG, {"a\x1b[2J": "b\u202e"}), heard(OK, {}))
    assert all(flip.text.isprintable() for flip in flips.flips)


# --- in a replay -----------------------------------------------------------------------------------


def replay(original: Execution, given: dict[int, HostCallResult], *lends: HostCall, has_world: bool) -> MatchingSession:
    return MatchingSession(
        original.calls, started_at_ns=original.started_at_ns, seed=bytes(32), has_world=has_world, given=given,
        lends=lends, tells_waits=False,
    )  # fmt: skip


GIVEN = HostCallResult(b'"given"')
UPDATE = execute(1, "update users set plan = $1", ["pro"])
COUNT = query(2, "select count(*) from users", [], ["count"], [[1]])


def test_what_asks_like_the_recorded_call_hears_what_is_given_whatever_its_number_is() -> None:
    first, second = (query(seq, "select $1", [seq], ["n"], [[seq]]) for seq in (1, 2))
    session = replay(execution(BUG, first, second), {2: GIVEN}, has_world=False)
    moved = attrs.evolve(second.request, seq=1)
    assert session.decide(moved, 0) == Answer(GIVEN)
    assert session.sources == {1: Source.FIXTURE}
    again = attrs.evolve(second.request, seq=2)
    assert isinstance(session.decide(again, 0), Diverge), "it is given once"


def test_behind_a_write_that_no_world_has_done_the_database_is_held_to_nothing() -> None:
    for given, first_unequal in (({}, 2), ({1: GIVEN}, None)):
        session = replay(execution(BUG, UPDATE, COUNT), given, has_world=True)
        if session.decide(UPDATE.request, 0) == Perform():
            assert UPDATE.result is not None
            session.completed(1, UPDATE.result)
        session.take_replies()
        assert session.decide(COUNT.request, 0) == Perform()
        session.completed(2, HostCallResult(b'{"columns":["count"],"rows":[[7]],"tag":"SELECT 1"}'))
        found = session.fidelity.first_unequal
        assert (None if found is None else found[0].request.seq) == first_unequal


def test_a_peers_call_answers_the_same_question_only_and_is_borrowed() -> None:
    asked = http(1, "POST", "https://pay.example/charge", 200, "{}")
    session = replay(execution(BUG), {}, asked, has_world=False)
    assert session.decide(asked.request, 0) == Answer(asked.result)
    assert session.sources == {1: Source.BORROWED}
    other = http(2, "POST", "https://pay.example/refund", 200, "{}")
    assert isinstance(session.decide(other.request, 0), Diverge)


def test_a_value_that_is_taken_is_made_up_anew_and_digits_that_python_does_not_read_are_text() -> None:
    refused = execute(1, "insert into users values (1)", [], error=failed("DatabaseError", "taken", "23505"))
    taken = Raised("DatabaseError", "taken", (frame(21, "ctx.db.execute(sql)"),), call=1)
    flips = flips_of(heard(taken, {"short": "12", "long": "1" * 5_000}, refused))
    changes = [flip.change for flip in flips.flips]
    made = [each.value for each in changes if isinstance(each, Field) and each.value is not ABSENT]
    assert made == ["1000000019", "flux-" + "1" * 5_000]
