"""Which calls are counterparts, read off small lists by eye."""

from flux.hostcall import HostCall
from flux.matching import align, make_key
from tests.failing_executions import call, execute, query

USERS = "select * from users where id = $1"


def post(seq: int, path: str, body: str, **options: object) -> HostCall:
    return call(
        seq,
        "http.request",
        ["POST", f"https://api.stripe.com{path}", {"body": body, **options}],
        {"status": 200},
    )


def grades(left: list[HostCall], right: list[HostCall]) -> list[tuple[str, int | None, int | None]]:
    return [(pair.grade.value, number(pair.left), number(pair.right)) for pair in align(left, right)]


def number(call: HostCall | None) -> int | None:
    return None if call is None else call.request.seq


def test_the_same_calls_are_exact() -> None:
    calls = [query(1, USERS, [1], ["id"], [[1]]), post(2, "/v1/charges", "10")]
    assert grades(calls, calls) == [("exact", 1, 1), ("exact", 2, 2)]


def test_one_call_more_does_not_shift_the_others() -> None:
    left = [query(1, USERS, [1], ["id"], []), post(2, "/v1/charges", "10")]
    right = [
        query(1, USERS, [1], ["id"], []),
        query(2, "select 1", [], ["a"], []),
        post(3, "/v1/charges", "10"),
    ]
    assert grades(left, right) == [("exact", 1, 1), ("new", None, 2), ("exact", 2, 3)]


def test_one_call_less_stands_where_it_stood() -> None:
    left = [
        query(1, USERS, [1], ["id"], []),
        query(2, "select 1", [], ["a"], []),
        post(3, "/v1/charges", "10"),
    ]
    right = [query(1, USERS, [1], ["id"], []), post(2, "/v1/charges", "10")]
    assert grades(left, right) == [("exact", 1, 1), ("missing", 2, None), ("exact", 3, 2)]


def test_another_amount_is_changed_and_never_exact() -> None:
    left, right = [post(1, "/v1/charges", "10")], [post(1, "/v1/charges", "1000")]
    assert grades(left, right) == [("changed", 1, 1)]


def test_calls_that_swapped_their_places_are_reordered_but_for_one() -> None:
    left = [
        query(1, USERS, [1], ["id"], []),
        execute(2, "delete from carts", []),
        post(3, "/v1/charges", "10"),
    ]
    right = [
        execute(1, "delete from carts", []),
        post(2, "/v1/charges", "10"),
        query(3, USERS, [1], ["id"], []),
    ]
    assert grades(left, right) == [("exact", 2, 1), ("exact", 3, 2), ("reordered", 1, 3)]


def test_the_third_of_two_is_new() -> None:
    left = [post(1, "/v1/charges", "10"), post(2, "/v1/charges", "10")]
    right = [*left, post(3, "/v1/charges", "10")]
    assert grades(left, right) == [("exact", 1, 1), ("exact", 2, 2), ("new", None, 3)]


def test_looking_at_the_clock_is_no_question() -> None:
    left, right = (
        [call(1, "clock.now", [], 1)],
        [call(1, "clock.now", [], 2), call(2, "entropy.take", [8], "x")],
    )
    assert grades(left, right) == []


def test_how_long_a_request_would_wait_is_nothing_to_who_answers_it() -> None:
    left, right = post(1, "/v1/charges", "10", timeout_s=5), post(1, "/v1/charges", "10", timeout_s=9)
    assert make_key(left.request).exact == make_key(right.request).exact


def test_ids_in_a_path_are_of_one_shape_and_hosts_are_not() -> None:
    one, other = (
        make_key(post(1, path, "").request)
        for path in ("/v1/charges/ch_81/refund", "/v1/charges/ch_7/refund")
    )
    assert (one.exact == other.exact, one.shape == other.shape) == (False, True)
    elsewhere = call(1, "http.request", ["POST", "https://example.com/v1/charges/ch_81/refund", {}])
    assert make_key(elsewhere.request).shape != one.shape


def test_a_statement_is_known_however_it_is_written() -> None:
    left, right = (
        query(1, USERS, [1], ["id"], []),
        query(1, "SELECT *\n FROM users\nWHERE id=$1", [1], ["id"], []),
    )
    assert grades([left], [right]) == [("exact", 1, 1)]
    assert grades([left], [query(1, USERS, [2], ["id"], [])]) == [("changed", 1, 1)]
    assert grades([left], [query(1, USERS, [1.0], ["id"], [])]) == [("changed", 1, 1)]


def test_arguments_that_nobody_can_read_are_compared_as_they_are() -> None:
    broken = call(1, "db.query", [])
    assert grades([broken], [broken]) == [("exact", 1, 1)]
