"""What a replay shows: each verdict from a pair of small executions, and what it must not be taken for."""

import attrs
import pytest

from flux.execution import Killed, Raised, Returned
from flux.hostcall import HostCall, HostCallError, HostCallRequest, HostCallResult
from flux.matching_session import Fidelity
from flux.session import Divergence
from flux.verdict import Replayed, Verdict, judge
from tests.failing_executions import at, call, execute, execution, frame, query

READ = query(1, "select plan from users where id = $1", [1], ["plan"], [["free"]])
CHARGE = call(
    2,
    "http.request",
    ["POST", "https://api.stripe.com/v1/charges", {"body": "10"}],
    {"status": 200, "body": "{}"},
)
WRITE = execute(3, "update users set plan = $1", ["pro"])
BUG = Raised("KeyError", "'amount'", (frame(21, "amount = charge['amount']"),))
OK = Returned(201, (), b"{}")


FAILED = execution(BUG, READ, CHARGE)


def stopped(kind: str, *calls: HostCall) -> Replayed:
    """Stopped at the last of ``calls``, for a reason that may be wrong: the calls themselves decide."""
    asked = attrs.evolve(calls[-1], result=None, answered=None)
    divergence = Divergence(kind, asked.request.seq, None, asked.request)
    return Replayed(execution(OK, *calls[:-1], asked), divergence)


def test_the_same_exception_in_the_same_function_is_the_same_failure_on_any_line() -> None:
    moved = Raised("KeyError", "'amount'", (frame(48, "amount = charge['amount']"),))
    assert judge(FAILED, Replayed(execution(moved, READ, CHARGE))).verdict is Verdict.SAME_FAILURE


def test_the_same_exception_from_another_function_is_another_failure() -> None:
    elsewhere = Raised("KeyError", "'amount'", (frame(5, function="refund"),))
    assert judge(FAILED, Replayed(execution(elsewhere, READ, CHARGE))).verdict is Verdict.OTHER_FAILURE


def test_an_answer_is_passed() -> None:
    assert judge(FAILED, Replayed(execution(OK, READ, CHARGE, WRITE))).verdict is Verdict.PASSED


def test_a_new_question_after_all_the_old_ones_is_past_it() -> None:
    extra = call(3, "http.request", ["POST", "https://mail.example/send", {}])
    judgement = judge(FAILED, stopped("new", READ, CHARGE, extra))
    assert judgement.verdict is Verdict.PAST_IT
    assert judgement.grades == {"exact": 2, "reordered": 0, "changed": 0, "new": 1, "missing": 0}


def test_rows_that_it_writes_before_it_asks_for_what_was_never_recorded_are_past_it_too() -> None:
    extra = call(4, "http.request", ["POST", "https://mail.example/send", {}])
    judgement = judge(FAILED, stopped("new", READ, CHARGE, WRITE, extra))
    assert judgement.verdict is Verdict.PAST_IT
    assert (judgement.grades["exact"], judgement.grades["new"]) == (2, 2)


@pytest.mark.parametrize(
    "replayed",
    [
        stopped("new", READ, call(2, "http.request", ["GET", "https://mail.example/", {}])),
        stopped(
            "changed",
            READ,
            call(2, "http.request", ["POST", "https://api.stripe.com/v1/charges", {"body": "99"}]),
        ),
        stopped(
            "new",
            READ,
            call(2, "http.request", ["POST", "https://api.stripe.com/v1/charges", {"body": "99"}]),
        ),
        stopped(
            "new",
            attrs.evolve(READ, result=None),
            CHARGE,
            call(3, "http.request", ["GET", "https://mail.example/", {}]),
        ),
        stopped(
            "new",
            READ,
            execute(2, "update users set plan = $1", ["pro"]),
            attrs.evolve(CHARGE, request=attrs.evolve(CHARGE.request, seq=3)),
            call(4, "http.request", ["GET", "https://mail.example/", {}]),
        ),
    ],
    ids=[
        "before the charge", "another charge", "another charge, called new", "an answer not heard",
        "a write before the charge",
    ],
)
def test_leaving_before_the_failure_decides_nothing(replayed: Replayed) -> None:
    assert judge(FAILED, replayed).verdict is Verdict.DIVERGED


SELECT = "select id, price_cents as cents from products where id = $1"
MENDED = SELECT.replace("price_cents as ", "")
NO_COLUMN = HostCallError("DatabaseError", 'column "price_cents" does not exist', "42703", b"{}")
MISTAKEN = call(2, "db.query", [SELECT, [1]], error=NO_COLUMN, position=at(16))
BAD_COLUMN = execution(Raised("DatabaseError", "no column", (frame(16),), call=2), READ, MISTAKEN)
ROWS = {"columns": ["id", "cents"], "types": ["int4", "int4"], "rows": [[1, 900]]}
MAIL = call(4, "http.request", ["POST", "https://mail.example/send", {}])
INSERT = execute(3, "insert into orders (cents) values ($1)", [900])


def test_a_statement_that_failed_and_is_mended_is_past_it() -> None:
    mended = call(2, "db.query", [MENDED, [1]], ROWS, position=at(48))
    judgement = judge(BAD_COLUMN, stopped("new", READ, mended, INSERT, MAIL))
    assert judgement.verdict is Verdict.PAST_IT
    assert "but for the statement that failed" in judgement.reason
    # The same statement with another argument is it too: what failed was that argument.
    other = call(2, "db.query", [SELECT, [2]], ROWS, position=at(16))
    assert judge(BAD_COLUMN, stopped("new", READ, other, INSERT, MAIL)).verdict is Verdict.PAST_IT


@pytest.mark.parametrize(
    "calls",
    [
        (READ, call(2, "db.query", [MENDED, [1]], ROWS, position=at(48, "refund")), INSERT, MAIL),
        (READ, call(2, "db.query", [MENDED, [1]], ROWS), INSERT, MAIL),
        (READ, call(2, "db.query", [MENDED, [1]], error=NO_COLUMN, position=at(16)), INSERT, MAIL),
        (READ, call(2, "db.query", ["select now()", []], ROWS, position=at(16)), INSERT, MAIL),
        (READ, call(2, "db.query", [f"delete {MENDED[6:]}", [1]], ROWS, position=at(16)), INSERT, MAIL),
        (READ, INSERT, MAIL),
        (call(1, "db.query", [MENDED, [1]], ROWS, position=at(48)), INSERT, MAIL),
    ],
    ids=[
        "in another function", "nobody knows where", "it fails too", "something else", "another verb", "left out",
        "what came before is not there",
    ],
)  # fmt: skip
def test_a_statement_in_the_place_of_the_one_that_failed_must_be_much_the_same(calls: tuple[HostCall, ...]) -> None:
    assert judge(BAD_COLUMN, stopped("new", *calls)).verdict is Verdict.DIVERGED


TIMED_OUT = attrs.evolve(
    CHARGE,
    result=HostCallResult(
        error=HostCallError("HttpTimeout", "no answer", "FLX409", b'{"host":"api.stripe.com"}')
    ),
)
TIMEOUT = Raised("HttpTimeoutError", "no answer", (frame(20),), call=2)


def test_a_recorded_time_out_that_fails_it_again_is_outside() -> None:
    original = execution(TIMEOUT, READ, TIMED_OUT)
    assert judge(original, Replayed(execution(TIMEOUT, READ, TIMED_OUT))).verdict is Verdict.OUTSIDE


def test_a_time_out_that_the_code_copes_with_is_passed() -> None:
    original = execution(TIMEOUT, READ, TIMED_OUT)
    assert judge(original, Replayed(execution(OK, READ, TIMED_OUT, WRITE))).verdict is Verdict.PASSED


def test_waiting_for_what_never_came_is_outside() -> None:
    open_call = attrs.evolve(CHARGE, result=None, answered=None)
    original = execution(Killed("timeout", "10s", "flux.toml:3"), READ, open_call, elapsed_ns=10**10)
    waited = HostCallRequest(2, open_call.request.name, open_call.request.arguments)
    assert (
        judge(original, Replayed(execution(OK, READ, open_call), waited_for=waited)).verdict
        is Verdict.OUTSIDE
    )


EVICTED = Killed("neighbours", "1GiB", "Flux's default", "this one held most, 200 MiB, and was ended")


def test_who_was_ended_for_its_neighbours_memory_failed_from_outside_if_it_gets_as_far() -> None:
    original = execution(EVICTED, READ, CHARGE)
    went_on = Divergence("outcome", 0, "killed", "answered 200")
    new = Divergence("call", 3, None, WRITE.request)
    for replayed in (
        Replayed(execution(OK, READ, CHARGE)),
        Replayed(execution(OK, READ, CHARGE), went_on),
        Replayed(execution(EVICTED, READ, CHARGE)),
        Replayed(execution(EVICTED, READ, CHARGE, WRITE), new),
    ):
        judged = judge(original, replayed)
        assert judged.verdict is Verdict.OUTSIDE and "neighbours" in judged.reason
    other = attrs.evolve(CHARGE, request=attrs.evolve(CHARGE.request, name="http.other"))
    left = Divergence("call", 2, CHARGE.request, other.request)
    assert judge(original, Replayed(execution(EVICTED, READ, other), left)).verdict is Verdict.DIVERGED


def test_waiting_for_something_else_is_another_failure() -> None:
    sleep = call(3, "clock.sleep", [60], open=True)
    replayed = Replayed(execution(OK, READ, CHARGE, sleep), waited_for=sleep.request)
    assert judge(FAILED, replayed).verdict is Verdict.OTHER_FAILURE


def test_a_database_that_disagrees_comes_before_any_success() -> None:
    fidelity = Fidelity(2, 1, (READ, HostCallResult(b"[]")))
    assert (
        judge(FAILED, Replayed(execution(OK, READ, CHARGE), fidelity=fidelity)).verdict is Verdict.UNFAITHFUL
    )


def test_what_had_not_failed_is_identical_or_changed() -> None:
    healthy = execution(OK, READ, CHARGE, WRITE)
    assert judge(healthy, Replayed(healthy)).verdict is Verdict.IDENTICAL
    assert judge(healthy, Replayed(execution(Returned(202), READ, CHARGE, WRITE))).verdict is Verdict.CHANGED
    assert judge(healthy, Replayed(execution(OK, READ, CHARGE))).verdict is Verdict.CHANGED
    assert judge(healthy, Replayed(execution(BUG, READ, CHARGE, WRITE))).verdict is Verdict.CHANGED
