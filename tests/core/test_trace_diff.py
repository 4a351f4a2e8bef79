"""Pairs of small executions, and what a person who reads both would say of them."""

import json
import uuid
from datetime import UTC, datetime
from typing import Any

import attrs
import pytest

from flux.execution import Execution, Interrupted, LogLine, Raised, Returned, Trigger
from flux.hostcall import HostCall
from flux.ids import make_execution_id
from flux.trace_diff import Diff, First, Part, Side, Verdict, compare
from tests.failing_executions import STARTED_NS, at, call, execute, execution, failed, frame, http, query, row

SECOND = 10**9
OK = Returned(201, (("content-type", "application/json"),), b'{"ok":true}')
BUG = Raised("KeyError", "'amount'", (frame(21, "charge['amount']", "charge"),))
READ = query(
    1,
    "select id, plan from users where email = $1",
    ["a@b.com"],
    ["id", "plan"],
    [[7, "free"]],
    position=at(12),
)
WRITE = execute(2, "update users set plan = $1 where id = $2", ["pro", 7], position=at(14))
CHARGE = call(
    3, "http.request",
    ["POST", "https://api.stripe.com/v1/charges", {"headers": [], "body": '{"cents":900}', "timeout_s": None}],
    {"status": 200, "headers": [], "body": '{"amount":900}', "url": "https://api.stripe.com/v1/charges",
     "redirects": []},
    position=at(16),
)  # fmt: skip
MAIL = http(4, "POST", "https://mail.example/send", 202, position=at(18))
GOOD = execution(OK, READ, WRITE, CHARGE, MAIL)


def diff(a: Execution, b: Execution) -> Diff:
    return compare(Side.of(a), Side.of(b))


def marks(found: Diff) -> str:
    return "".join(pair.mark for pair in found.calls)


def where(found: Diff) -> list[str]:
    """What differs in the first pair that differs."""
    assert found.first is not None and found.first.part is Part.CALL
    return [each.difference.where for each in found.calls[found.first.index].differences]


# --- the eight -------------------------------------------------------------------------------------


def test_the_same_is_identical() -> None:
    found = diff(GOOD, GOOD)
    assert (found.verdict, found.first, marks(found)) == (Verdict.IDENTICAL, None, "====")
    assert sum(found.left_out.values()) == 0


def test_a_failure_that_is_gone_is_fixed_and_begins_at_the_first_call_that_only_the_repaired_code_makes() -> (
    None
):
    broken = execution(BUG, READ, WRITE, CHARGE)
    found = diff(broken, GOOD)
    assert (found.verdict, marks(found)) == (Verdict.FIXED, "===+")
    assert found.first == First(Part.CALL, 3)
    assert found.calls[3].b == MAIL and found.calls[3].a is None


def test_a_failure_that_is_new_is_regressed() -> None:
    found = diff(GOOD, execution(BUG, READ, WRITE, CHARGE))
    assert (found.verdict, marks(found), found.first) == (Verdict.REGRESSED, "===−", First(Part.CALL, 3))


def test_one_call_more_is_the_first_difference_and_shifts_nothing() -> None:
    audit = execute(3, "insert into audit (who) values ($1)", [7], position=at(15))
    found = diff(GOOD, execution(OK, READ, WRITE, audit, renumber(CHARGE, 4), renumber(MAIL, 5)))
    assert (found.verdict, marks(found), found.first) == (
        Verdict.BEHAVIOUR_CHANGED,
        "==+==",
        First(Part.CALL, 2),
    )
    assert found.calls[2].b == audit


def test_one_call_less_is_the_first_difference() -> None:
    found = diff(GOOD, execution(OK, READ, renumber(CHARGE, 2), renumber(MAIL, 3)))
    assert (found.verdict, marks(found), found.first) == (
        Verdict.BEHAVIOUR_CHANGED,
        "=−==",
        First(Part.CALL, 1),
    )
    assert found.calls[1].a == WRITE


def test_another_amount_is_the_first_difference_and_no_noise() -> None:
    cheaper = http_body(CHARGE, '{"cents":90}')
    found = diff(GOOD, execution(OK, READ, WRITE, cheaper, MAIL))
    assert (found.verdict, marks(found)) == (Verdict.BEHAVIOUR_CHANGED, "==≠=")
    assert where(found) == ["arguments.body.cents"]
    assert [(one.difference.a, one.difference.b) for one in found.calls[2].differences] == [(900, 90)]


@pytest.mark.parametrize("task", [0, 1])
@pytest.mark.parametrize("overlap", [True, False])
def test_concurrent_calls_in_another_order_are_no_difference_and_others_are(overlap: bool, task: int) -> None:
    first = attrs.evolve(http(1, "GET", "https://a.example/", 200), started_ns=0)
    second = attrs.evolve(http(2, "GET", "https://b.example/", 200), started_ns=1 if overlap else SECOND)
    if overlap:
        second = in_task(second, task)  # JavaScript has no tasks: there all calls are the first one's.
    swapped = [
        attrs.evolve(renumber(second, 1), started_ns=0),
        attrs.evolve(renumber(first, 2), started_ns=1 if overlap else SECOND),
    ]
    found = diff(execution(OK, first, second), execution(OK, *swapped))
    if overlap:
        assert (found.verdict, marks(found), found.left_out["order"]) == (Verdict.IDENTICAL, "==", 1)
    else:
        assert (found.verdict, found.left_out["order"]) == (Verdict.BEHAVIOUR_CHANGED, 0)
        assert sorted(marks(found)) == ["=", "↕"] and found.first is not None


def test_the_same_calls_that_write_other_data_differ_in_the_row() -> None:
    a = attrs.evolve(
        GOOD,
        mutations=(
            row("update", {"id": 7, "plan": "free"}, {"id": 7, "plan": "pro"}, call=2, committed=True),
        ),
    )
    b = attrs.evolve(
        GOOD,
        mutations=(
            row("update", {"id": 7, "plan": "free"}, {"id": 7, "plan": None}, call=2, committed=True),
        ),
    )
    found = diff(a, b)
    assert (found.verdict, marks(found), found.first) == (
        Verdict.BEHAVIOUR_CHANGED,
        "====",
        First(Part.STATE, 0),
    )
    assert found.state is not None
    assert [
        (one.difference.where, one.difference.a, one.difference.b) for one in found.state[0].differences
    ] == [("after.plan", "pro", None)]


def noisy(id: int, token: str, order: str, shift_s: int) -> Execution:
    """A sign-up as it is recorded on one day: what its database, its clock and its randomness gave."""
    started_ns = STARTED_NS + shift_s * SECOND
    at_text = f"2025-11-25T14:{22 + shift_s // 60:02d}:19.250000+00:00"
    moment = datetime.fromisoformat(at_text)
    insert = query(
        1, "insert into users (email, token, seen) values ($1, $2, $3) returning id, created_at",
        ["a@b.com", token, moment], ["id", "created_at"], [[id, moment]],
    )  # fmt: skip
    url = f"https://api.stripe.com/v1/customers/{id}/charges?user_id={id}"
    asked = {"headers": [["Idempotency-Key", order]], "timeout_s": 5,
             "body": f'{{"user":{id},"cents":900,"at":{started_ns // SECOND}}}'}  # fmt: skip
    date = f"Tue, 25 Nov 2025 14:{22 + shift_s // 60:02d}:19 GMT"
    answered = {"status": 200, "headers": [["Date", date], ["Content-Length", str(40 + id)]],
                "body": f'{{"charge":"ch_{token[:20]}","cents":900}}', "url": url, "redirects": []}  # fmt: skip
    charge = call(2, "http.request", ["POST", url, asked], answered)
    return attrs.evolve(
        execution(Returned(201, (), b'{"id":%d,"order":"%s"}' % (id, order.encode())), insert, charge),
        id=uuid.UUID(int=id * 7919),
        started_at_ns=started_ns,
        mutations=(
            row("insert", None, {"id": id, "email": "a@b.com", "seen": at_text}, call=1, committed=True),
        ),
        logs=(LogLine(0, "info", f"made user {id} with order {order} at {at_text}"),),
    )


NOISY = (
    noisy(42, "Ab3dEf6hIj9lMn2pQr5t", "0d4e0a63-9f1b-4a4c-9a53-0f6d5c1b2a11", 0),
    noisy(57, "Zz9yXw8vUt7sRq6pOn5m", "7c2b1f90-1d2e-4f3a-8b4c-5d6e7f809112", 180),
)


def test_nothing_but_noise_is_identical_and_counted() -> None:
    found = diff(*NOISY)
    assert (found.verdict, marks(found), found.first) == (Verdict.IDENTICAL, "==", None), found
    left_out = found.left_out
    assert (left_out["ids"], left_out["tokens"]) == (2, 2)  # The number, the order; the token, the charge.
    assert left_out["times"] >= 2
    places = {one.difference.where for one in found.masked}
    assert {"result.rows[0].id", "arguments.url.path[3]", "arguments.body.user", "key.id"} <= places


# --- what is never noise ---------------------------------------------------------------------------


def test_an_amount_that_happens_to_be_an_id_is_a_difference() -> None:
    insert = [
        query(1, "insert into users (email) values ($1) returning id", ["a@b.com"], ["id"], [[n]])
        for n in (1, 2)
    ]
    quantity = [execute(2, "insert into lines (user_id, quantity) values ($1, $2)", [1, n]) for n in (1, 2)]
    rows = [(row("insert", None, {"id": n, "email": "a@b.com"}, call=1),) for n in (1, 2)]
    a, b = (attrs.evolve(execution(OK, insert[n], quantity[n]), mutations=rows[n]) for n in (0, 1))
    found = diff(a, b)
    assert (found.verdict, marks(found), where(found)) == (
        Verdict.BEHAVIOUR_CHANGED,
        "=≠",
        ["arguments.args[1]"],
    )


def test_another_user_that_was_read_is_no_made_id() -> None:
    ids = ["0d4e0a63-9f1b-4a4c-9a53-0f6d5c1b2a11", "7c2b1f90-1d2e-4f3a-8b4c-5d6e7f809112"]
    a, b = (
        execution(
            OK, query(1, "select id from users where email = $1", ["a@b.com"], ["id"], [[uuid.UUID(one)]])
        )
        for one in ids
    )
    found = diff(a, b)
    assert (found.verdict, where(found)) == (Verdict.BEHAVIOUR_CHANGED, ["result.rows[0].id"])


def test_one_id_for_two_others_is_a_difference() -> None:
    one, two, three = (f"0d4e0a63-9f1b-4a4c-9a53-0f6d5c1b2a{n}" for n in (11, 22, 33))

    def both(first: str, second: str) -> Execution:
        return execution(
            OK,
            execute(1, "insert into a (id) values ($1)", [first]),
            execute(2, "insert into b (a_id) values ($1)", [second]),
        )

    assert diff(both(one, one), both(two, two)).verdict is Verdict.IDENTICAL
    assert marks(diff(both(one, one), both(two, three))) == "=≠"


A_HOST = "https://a.example/"


@pytest.mark.parametrize(
    ("a", "b", "place"),
    [
        (http(1, "GET", A_HOST, 200), http(1, "GET", A_HOST, 503), "result.status"),
        (http(1, "GET", A_HOST, 200), http(1, "POST", A_HOST, 200), None),
        (http(1, "GET", A_HOST, 200), http(1, "GET", "https://b.example/", 200), None),
        (http(1, "GET", A_HOST + "v1", 200), http(1, "GET", A_HOST + "v2", 200), "arguments.url.path[1]"),
        (query(1, "select 1", [], ["a"], [[1]]), query(1, "select 2", [], ["a"], [[1]]), None),
        (call(1, "http.request", ["GET", A_HOST, {}], error=failed("HttpTimeout", "no answer")),
         call(1, "http.request", ["GET", A_HOST, {}], error=failed("HttpError", "no answer")), "error.type"),
        (http(1, "GET", A_HOST, 200, timeout_s=10), http(1, "GET", A_HOST, 200, timeout_s=1), "arguments.timeout_s"),
    ],
)  # fmt: skip
def test_method_host_path_statement_status_and_error_are_differences(
    a: HostCall, b: HostCall, place: str | None
) -> None:
    found = diff(execution(OK, a), execution(OK, b))
    assert found.verdict is Verdict.BEHAVIOUR_CHANGED
    if place is None:
        assert sorted(marks(found)) == ["+", "−"]
    else:
        assert where(found) == [place]


def test_true_is_not_1_and_digits_beyond_a_float_count() -> None:
    for one, other in (
        (b"true", b"1"),
        (b"0.12345678901234567890", b"0.12345678901234567891"),
        (b"1", b"1.0"),
    ):
        found = diff(
            execution(Returned(200, (), b'{"a":%s}' % one)), execution(Returned(200, (), b'{"a":%s}' % other))
        )
        assert (found.verdict, found.first) == (Verdict.BEHAVIOUR_CHANGED, First(Part.OUTCOME, 0))


# --- what follows, what was not seen, what both do --------------------------------------------------


def of_request(body: bytes, *calls: HostCall) -> Execution:
    return attrs.evolve(
        execution(OK, *calls), trigger=Trigger("http", "POST", "/signup", "/signup", body=body)
    )


def test_what_the_request_brought_is_a_difference_and_not_the_first_to_look_at() -> None:
    def run(email: str, plan: str) -> Execution:
        return of_request(
            b'{"email":"%s"}' % email.encode(),
            execute(1, "insert into users (email) values ($1)", [email]),
            execute(2, "update users set plan = $1", [plan]),
        )

    found = diff(run("a@b.com", "free"), run("c@d.com", "pro"))
    assert (marks(found), found.first) == ("≈≠", First(Part.CALL, 1))
    same = diff(run("a@b.com", "free"), run("c@d.com", "free"))
    assert (same.verdict, marks(same), same.first) == (Verdict.BEHAVIOUR_CHANGED, "≈=", First(Part.CALL, 0))
    assert "follows" in same.reason


def test_two_failures_are_told_apart_by_function_and_not_by_line() -> None:
    moved = attrs.evolve(BUG, frames=(frame(48, "charge['amount']", "charge"),))
    again = diff(execution(BUG, READ), execution(moved, READ))
    assert (again.verdict, again.reason[:29]) == (Verdict.IDENTICAL, "both fail, in the same way, a")
    other = diff(execution(BUG, READ), execution(Raised("ValueError", "x", BUG.frames), READ))
    assert (other.verdict, other.first) == (Verdict.BEHAVIOUR_CHANGED, First(Part.OUTCOME, 0))
    assert "not in the same way" in other.reason


def test_a_replay_that_was_stopped_shows_neither_its_end_nor_what_it_would_have_asked() -> None:
    asked = attrs.evolve(MAIL, result=None, answered=None)
    stopped = Side(
        execution(OK, READ, WRITE, renumber(asked, 3)), "call 3 was never recorded", lacks_rows=True
    )
    found = compare(Side.of(execution(BUG, READ, WRITE, CHARGE)), stopped)
    assert (found.verdict, found.outcome, found.state) == (Verdict.BEHAVIOUR_CHANGED, None, None)
    assert sorted(marks(found)) == ["+", "=", "=", "?"]
    assert found.only_a == ()
    # The same question, which nobody answered there: what it would have heard is not known either.
    unheard = Side(execution(OK, READ, attrs.evolve(WRITE, result=None)), "no database", lacks_rows=True)
    assert marks(compare(Side.of(execution(OK, READ, WRITE)), unheard)) == "=?"


def test_where_nothing_differs_and_one_did_not_end_there_is_no_verdict() -> None:
    cut = execution(Interrupted("the server was ended"), READ, WRITE)
    found = diff(GOOD, cut)
    assert (found.verdict, marks(found), found.first) == (None, "==??", None)
    assert diff(cut, cut).verdict is Verdict.IDENTICAL


def test_code_that_only_one_side_ran_is_named_by_what_was_seen() -> None:
    helper = execute(3, "insert into audit (who) values ($1)", [7], position=at(40, "audit"))
    b = attrs.evolve(execution(OK, READ, WRITE, helper), deployment="another")
    found = diff(GOOD, b)
    assert [(ran.function, ran.lines, ran.is_whole) for ran in found.only_b] == [("audit", (40,), True)]
    assert [(ran.function, ran.lines, ran.is_whole) for ran in found.only_a] == [
        ("create_user", (16, 18), False)
    ]


def test_what_was_learned_from_its_own_code_is_noise_but_no_number() -> None:
    def run(word: str, number: int) -> Execution:
        return execution(OK, query(1, "select a, b from t", [], ["a", "b"], [[word, number]]))

    original = run("left", 1)
    learned = compare(Side.of(original), Side.of(run("true", 5))).learned
    assert learned == {("call 1", "result.rows[0].a"), ("call 1", "result.rows[0].b")}
    found = compare(Side.of(original), Side.of(run("next", 9)), learned)
    assert found.left_out["run_to_run"] == 1
    assert where(found) == ["result.rows[0].b"]


def test_how_long_an_error_took_is_not_compared_and_how_long_it_was_to_wait_is() -> None:
    def timed_out(elapsed_ms: float, limit_s: float) -> Execution:
        error = failed("HttpTimeout", "no answer", "FLX409", elapsed_ms=elapsed_ms, limit_s=limit_s)
        return execution(OK, call(1, "http.request", ["GET", A_HOST, {}], error=error))

    assert diff(timed_out(5_000.123, 5), timed_out(5_001.5, 5)).verdict is Verdict.IDENTICAL
    assert where(diff(timed_out(5_000, 5), timed_out(5_000, 6))) == ["error.details.limit_s"]


def test_a_library_s_own_http_has_its_date_within_a_text() -> None:
    def answer(second: int) -> Execution:
        head = f"HTTP/1.1 200 OK\r\nDate: Tue, 25 Nov 2025 14:22:{second:02d} GMT\r\n\r\n"
        received = attrs.evolve(call(1, "net.recv", ["a.example:443#1", 65536, 5], head))
        return attrs.evolve(execution(OK, received), started_at_ns=STARTED_NS + (second - 19) * SECOND)

    found = diff(answer(19), answer(40))
    assert (found.verdict, found.left_out["times"]) == (Verdict.IDENTICAL, 1)


def test_racing_tasks_find_their_own_counterparts_though_every_value_is_another() -> None:
    def run(salt: int, order: list[int]) -> Execution:
        """Three tasks insert a row each, and the database numbers them as they come."""
        made: list[HostCall] = []
        rows = []
        for number, task in enumerate(order, 1):
            token = str(uuid.UUID(int=salt << 64 | task + 1))
            id = salt * 100 + number
            insert = query(
                number, "insert into users (token) values ($1) returning id", [token], ["id"], [[id]]
            )
            made.append(attrs.evolve(in_task(insert, task), started_ns=number, answered=number))
            rows.append(row("insert", None, {"id": id, "token": token}, call=number, committed=True))
        ids = [salt * 100 + order.index(task) + 1 for task in (1, 2, 3)]
        answer = Returned(200, (), json.dumps({"ids": ids}).encode())
        return attrs.evolve(execution(answer, *made), mutations=tuple(rows))

    found = diff(run(1, [2, 1, 3]), run(2, [3, 2, 1]))
    assert (found.verdict, set(marks(found))) == (Verdict.IDENTICAL, {"="}), found.reason
    assert found.left_out["ids"] == 6
    assert found.left_out["order"] > 0


@pytest.mark.parametrize(
    ("a", "b", "is_noise"),
    [
        (
            "bjt_rTG97hrNb7DF55f5c1o7sBy3wdr3",
            "x-H659_xV8YNyxUhdu49oItmbprq-ucu",
            True,
        ),  # The first has no prefix.
        ("ch_3NxyzAB12cd34EF56gh", "ch_9MabcdEF98zy76WV5", True),
        ("ch_3NxyzAB12cd34EF56gh", "re_9MabcdEF98zy76WV54x", False),
        ("0123456789abcdef", "fedcba9876543210", True),
        ("0123456789abcdef", "fedcba98765432100", False),
        ("01ARZ3NDEKTSV4RRFFQ69G5FAV", "01BX5ZZKBKACTAV9WEVGEMMVRZ", True),
        ("sku-large-blue-12345", "sku-small-blue-12345", False),
        ("a@b.com", "c@d.com", False),
        ("confirmed", "cancelled", False),
    ],
)
def test_random_text_is_told_from_words(a: str, b: str, is_noise: bool) -> None:
    one, other = (execution(OK, execute(1, "update t set a = $1", [text])) for text in (a, b))
    assert (diff(one, other).left_out["tokens"] == 1) is is_noise
    assert (diff(one, other).verdict is Verdict.IDENTICAL) is is_noise


def test_half_a_character_in_a_record_stops_nothing() -> None:
    def run(word: str) -> Execution:
        said = attrs.evolve(execution(OK, READ), logs=(LogLine(0, "info", f"\ud800 {word}"),))
        return attrs.evolve(said, outcome=Raised("E\udfff", f"\ud800{word}", ()))

    assert diff(run("a"), run("a")).verdict is Verdict.IDENTICAL
    assert diff(run("a"), run("b")).verdict is Verdict.BEHAVIOUR_CHANGED


def test_stand_ins_of_hidden_values_are_left_out_and_counted() -> None:
    a, b = (execution(OK, execute(1, "update t set a = $1", [f"redacted:{n * 12}"])) for n in ("a", "b"))
    found = diff(a, b)
    assert (found.verdict, found.left_out["redacted"]) == (Verdict.IDENTICAL, 1)


def test_a_difference_behind_any_amount_of_noise_is_found() -> None:
    def answer(salt: int, last: str) -> Execution:
        made = [str(uuid.UUID(int=salt << 64 | number)) for number in range(1, 3001)]
        return execution(Returned(200, (), json.dumps([*made, last]).encode()))

    found = diff(answer(1, "paid"), answer(2, "open"))
    assert found.outcome is not None
    assert [one.difference.where for one in found.outcome] == ["body[3000]"]
    assert (found.verdict, found.cut) == (Verdict.BEHAVIOUR_CHANGED, True)
    same = diff(answer(1, "paid"), answer(2, "paid"))
    assert (same.verdict, same.cut) == (Verdict.IDENTICAL, True)


def test_a_replay_lives_in_the_time_of_what_it_replays() -> None:
    def tick(at_ns: int) -> HostCall:
        return execute(1, "update t set at = $1", [datetime.fromtimestamp(at_ns / 1e9, UTC)])

    original = attrs.evolve(
        execution(OK, tick(STARTED_NS)), id=make_execution_id(STARTED_NS // 1_000_000, bytes(10))
    )
    replayed = attrs.evolve(
        execution(OK, tick(STARTED_NS + 300_000)),
        trigger=attrs.evolve(original.trigger, kind="replay"),
        started_at_ns=STARTED_NS + 86_400 * SECOND,
        replay_of=original.id,
    )
    found = diff(original, replayed)
    assert (found.verdict, found.left_out["times"], found.state) == (Verdict.IDENTICAL, 1, None)


def renumber(call: HostCall, seq: int) -> HostCall:
    return attrs.evolve(call, request=attrs.evolve(call.request, seq=seq))


def in_task(call: HostCall, task: int) -> HostCall:
    return attrs.evolve(call, request=attrs.evolve(call.request, task=task))


def http_body(call_: HostCall, body: str) -> HostCall:
    options: dict[str, Any] = {"headers": [], "body": body, "timeout_s": None}
    made = call(call_.request.seq, "http.request", ["POST", "https://api.stripe.com/v1/charges", options])
    return attrs.evolve(call_, request=attrs.evolve(call_.request, arguments=made.request.arguments))
