"""Stand-ins in a record are named, each by its part; and a verdict that rests on them says so."""

import attrs
import pytest

from flux.execution import Raised, Returned, Trigger
from flux.redact import RedactionRules, Redactor
from flux.synthetic import SHOWN_MAX, list_synthetic
from flux.verdict import Replayed, Verdict, judge
from tests.failing_executions import call, execution, frame, query

BUG = Raised("KeyError", "'amount'", (frame(21, "amount = charge['amount']"),))
REFUSED = Raised(
    "HTTPError", "no such token", (frame(9, "raise HTTPError(401)"),), status=401, code="UNAUTHORIZED"
)
RULES = RedactionRules.parse(["header:x-api-key", "json:$.card.number", "json:$.pin", "column:users.ssn"])


def redacted(**parts: object) -> Trigger:
    """A trigger as it is stored."""
    trigger = Trigger("http", method="POST", path="/pay", **parts)  # type: ignore[arg-type]
    return Redactor(RULES, b"s" * 32).trigger(trigger)


@pytest.mark.parametrize(
    ("trigger", "named"),
    [
        (redacted(headers=(("authorization", "Bearer abc"), ("accept", "*/*"))), ("header authorization",)),
        (
            redacted(headers=(("X-Api-Key", "k1"), ("cookie", "a=1; b=2"))),
            ("header X-Api-Key", "header cookie"),
        ),
        (redacted(query=(("pin", "1234"), ("page", "2"))), ("query pin",)),
        (redacted(params=(("pin", "1234"),)), ("path parameter pin",)),
        (redacted(body=b'{"card": {"number": 4111, "name": "A"}}'), ("body $.card.number",)),
        (redacted(body=b'{"orders": [{"note": "redacted:0123456789ab"}]}'), ("body $.orders[*].note",)),
        (redacted(body=b"pin=1234&page=2"), ("body",)),
        (
            redacted(auth=b'{"kind": "jwt", "subject": "u", "claims": {"pin": "1234"}}', user=b'{"pin": "1234"}'),
            ("ctx.request.auth $.claims.pin", "ctx.user $.pin"),
        ),
        (redacted(body=b'{"page": 2}', headers=(("accept", "*/*"),)), ()),
    ],
)
def test_each_part_of_a_request_that_is_a_stand_in_is_named(trigger: Trigger, named: tuple[str, ...]) -> None:
    assert list_synthetic(attrs.evolve(execution(BUG), trigger=trigger), has_secrets=True) == named


def test_answers_with_stand_ins_are_named_by_their_calls() -> None:
    handle = "flux-secret:API_KEY:" + "0" * 32
    calls = (
        query(1, "select ssn from users", [], ["ssn"], [["redacted:0123456789ab"]]),
        query(2, "select plan from users", [], ["plan"], [["free"]]),
        call(3, "secret.handle", ["API_KEY"], handle),
        call(4, "secret.reveal", ["API_KEY"], handle),
        call(5, "http.request", ["GET", "https://a.example/", {}], {"status": 200, "body": handle}),
    )
    heard = ("answer of call 1 (db.query)", "answer of call 5 (http.request)")
    record = execution(BUG, *calls)
    assert list_synthetic(record, has_secrets=True) == heard
    assert list_synthetic(record, has_secrets=False) == (heard[0], "secret API_KEY", heard[1])


def test_of_very_many_stand_ins_it_is_said_how_many_there_are() -> None:
    trigger = Trigger("http", query=tuple((f"q{n}", "redacted:0123456789ab") for n in range(50)))
    named = list_synthetic(attrs.evolve(execution(BUG), trigger=trigger), has_secrets=True)
    assert (len(named), named[-1]) == (SHOWN_MAX + 1, "30 more")


def test_a_verdict_says_that_it_rests_on_stand_ins() -> None:
    failed = execution(BUG)
    passed = Replayed(execution(Returned(201)), synthetic=("header authorization",))
    assert "stand-ins" in judge(failed, passed).reason
    assert "stand-ins" not in judge(failed, attrs.evolve(passed, synthetic=())).reason


def test_a_request_that_is_refused_for_a_stand_in_has_not_passed() -> None:
    refused = Replayed(execution(REFUSED))
    assert judge(execution(BUG), refused).verdict is Verdict.PASSED
    judgement = judge(execution(BUG), attrs.evolve(refused, synthetic=("header authorization",)))
    assert judgement.verdict is Verdict.DIVERGED
    assert "nothing is decided" in judgement.reason


def test_a_replay_that_is_identical_in_spite_of_stand_ins_is_identical() -> None:
    healthy = execution(Returned(201))
    judgement = judge(healthy, Replayed(healthy, synthetic=("header authorization",)))
    assert judgement.verdict is Verdict.IDENTICAL
