"""What a failure is, record by record; the table is ``tests/failing_executions.py``."""

import unicodedata

import attrs
import pytest

from flux.execution import Execution, Killed, Raised, Returned
from flux.failure import (
    SIGNATURE_CHARACTERS_MAX,
    Kind,
    find_failure,
    list_failed_hosts,
    make_signature,
    normalise_message,
)
from tests.failing_executions import (
    ANSWERS,
    FAILING,
    HEALTHY,
    STRIPE,
    Told,
    at,
    execution,
    failed,
    frame,
    http,
    no_answer,
)

EVERY = (*FAILING, *ANSWERS)


@pytest.mark.parametrize("told", EVERY, ids=[told.name for told in EVERY])
def test_a_record_tells_how_and_where_it_failed(told: Told) -> None:
    failure = find_failure(told.execution)
    assert failure is not None
    assert failure.kind == told.kind
    assert (failure.location.line if failure.location else None) == told.line
    assert failure.call == told.call
    if told.signature:
        assert failure.signature is not None and failure.signature.startswith(told.signature)


def test_the_table_has_every_kind_of_failure() -> None:
    # The first ends nothing today; the other is told as a unique violation is.
    untold = {Kind.LIMIT_LOG, Kind.EXCLUSION_VIOLATION}
    assert {told.kind for told in EVERY} == set(Kind) - untold


@pytest.mark.parametrize("healthy", HEALTHY)
def test_a_healthy_execution_has_no_failure(healthy: Execution) -> None:
    assert find_failure(healthy) is None


def test_an_answer_below_500_is_explained_but_never_counted() -> None:
    for told in ANSWERS:
        failure = find_failure(told.execution)
        assert failure is not None and failure.is_answer and failure.signature is None
    for told in FAILING:
        failure = find_failure(told.execution)
        assert failure is not None and not failure.is_answer


def test_the_same_failure_has_the_same_signature_whatever_its_values_and_lines() -> None:
    one = execution(Raised("ValueError", "order 17 of ann@shop.example: 'x' is not 0x1f", (frame(27),)))
    two = execution(Raised("ValueError", "order 4,711 of bob@shop.example: 'yz' is not 0xff", (frame(31),)))
    other = execution(Raised("ValueError", "order 17 of ann@shop.example: 'x' is not 0x1f", (frame(27, function="f"),)))
    first, second, third = (find_failure(each) for each in (one, two, other))
    assert first is not None and second is not None and third is not None
    assert first.signature == second.signature == (
        "ValueError functions/signup.py:create_user order <n> of <email>: <text> is not <hex>"
    )
    assert third.signature != first.signature


@pytest.mark.parametrize(
    ("message", "normal"),
    [
        ("no user 019abf00-0000-7000-8000-000000000001", "no user <id>"),
        ("'NoneType' object has no attribute 'total'", "'NoneType' object has no attribute 'total'"),
        ('relation "users" does not exist', 'relation "users" does not exist'),
        ("took 1.5e+3 ms at 14:02:11", "took <n> ms at <n>"),
        ("commit 3f9c1e2d1b4a", "commit <hex>"),
        ("deadbeef is a word, deadbee1 is not", "deadbeef is a word, <hex> is not"),
        ("two\nlines\tand  more", "two lines and more"),
        ("it's Ann's", "it<text>s"),
        ("", ""),
    ],
)
def test_a_message_is_counted_without_its_values(message: str, normal: str) -> None:
    assert normalise_message(message) == normal


@pytest.mark.parametrize(
    "hostile", ["\x00\x1b]0;pwned\x07\x9b31m", "\u202egnp.exe", "\ud800", "x" * 100_000, "@" * 9_999]
)
def test_a_signature_is_one_short_line_of_visible_text(hostile: str) -> None:
    failure = find_failure(execution(Raised(hostile, hostile, (frame(1, function=hostile, file=hostile),))))
    assert failure is not None and failure.signature is not None
    assert len(failure.signature) <= SIGNATURE_CHARACTERS_MAX
    assert not {unicodedata.category(character) for character in failure.signature} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    failure.signature.encode()


def test_a_signature_that_is_cut_says_so() -> None:
    assert make_signature("a" * 300, "b") == "a" * (SIGNATURE_CHARACTERS_MAX - 1) + "…"


def test_lines_of_libraries_are_never_the_place_of_a_failure() -> None:
    library = attrs.evolve(frame(900, function="decode", file="/usr/lib/python3/json/decoder.py"), user=False)
    failure = find_failure(execution(Raised("JSONDecodeError", "no", (frame(12), library))))
    assert failure is not None and failure.location == at(12)
    bare = find_failure(execution(Raised("JSONDecodeError", "no", (library,))))
    assert bare is not None and bare.location is None


def test_a_host_is_lost_when_it_gives_no_answer_or_one_of_500() -> None:
    lost = execution(
        Returned(200),
        http(1, "GET", STRIPE, error=no_answer("HttpTimeout", "FLX409", "no answer")),
        http(2, "GET", "http://Tax.Example:8080/rate", 502),
        http(3, "GET", "https://fine.example/", 404),
        http(4, "GET", "https://refused.example/", error=failed("GrantRefused", "no", "FLX402", host="x", port=443)),
        http(5, "GET", "not a url", error=failed("HttpInvalidUrl", "no", "FLX404", host="", port=0)),
        http(6, "GET", "http://[::1]:9000/", 500),
        http(7, "GET", "https://given-up.example/", error=failed("Cancelled", "cancelled")),
    )
    assert list_failed_hosts(lost) == ("[::1]:9000", "api.stripe.com", "tax.example:8080")


def test_a_host_in_flight_is_lost_only_when_it_used_up_the_time() -> None:
    def killed(started_ms: float, limit: str = "timeout") -> Execution:
        waiting = http(1, "GET", STRIPE, open=True, started_ms=started_ms)
        return execution(Killed(limit, "2s", "flux.toml:3"), waiting, elapsed_ns=2_000_000_000)

    assert list_failed_hosts(killed(10)) == ("api.stripe.com",)
    assert list_failed_hosts(killed(1_900)) == ()
    assert list_failed_hosts(killed(10, "memory")) == ()


def test_after_a_redirect_the_host_that_failed_is_named() -> None:
    error = failed("HttpConnectError", "refused", "FLX407", host="cdn.example", port=443)
    moved = http(1, "GET", "http://shop.example/x", error=error)
    assert list_failed_hosts(execution(Returned(200), moved)) == ("cdn.example",)
