"""A filter's text says all of it, and no text does more than be refused."""

import contextlib
from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from flux.filter import KEYS, OUTCOMES, TRIGGERS, Filter, FilterError, Term, matches, parse

NOW = datetime(2026, 11, 24, 14, 30, 15, tzinfo=UTC)
TEXT = st.text(min_size=1, max_size=12)
MOMENTS = st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1)).map(
    lambda moment: moment.replace(tzinfo=timezone(timedelta(hours=2)))
)
METHODS = st.none() | st.text("ABCXYZ", min_size=1, max_size=5)
PATHS = st.builds(lambda first, rest: first + rest, st.sampled_from("/*"), st.text(max_size=10))
NAMES = st.text("0123456789abcdefghjkmnpqrstvwxyz", min_size=1, max_size=8)
STATUSES = st.integers(100, 599)
TERMS = st.one_of(
    st.builds(
        Term, st.just("status"), st.sampled_from(["=", ">=", ">", "<=", "<"]), STATUSES, negated=st.booleans()
    ),
    st.builds(Term, st.just("status"), st.just("class"), st.integers(1, 5), negated=st.booleans()),
    st.builds(Term, st.just("since"), st.just(">="), MOMENTS, negated=st.booleans()),
    st.builds(Term, st.just("until"), st.just("<"), MOMENTS, negated=st.booleans()),
    st.builds(Term, st.just("route"), st.just("like"), PATHS, METHODS, st.booleans()),
    st.builds(Term, st.just("function"), st.just("like"), TEXT, negated=st.booleans()),
    st.builds(Term, st.just("error"), st.just("contains"), TEXT, negated=st.booleans()),
    st.builds(
        Term,
        st.just("sha"),
        st.just("prefix"),
        st.text("0123456789abcdef", min_size=1),
        negated=st.booleans(),
    ),
    st.builds(
        Term,
        st.just("deploy"),
        st.just("prefix"),
        st.text("0123456789abcdef", min_size=1),
        negated=st.booleans(),
    ),
    st.builds(Term, st.just("trigger"), st.just("="), st.sampled_from(TRIGGERS), negated=st.booleans()),
    st.builds(Term, st.just("outcome"), st.just("="), st.sampled_from(OUTCOMES), negated=st.booleans()),
    st.builds(Term, st.just("name"), st.just("prefix"), NAMES, negated=st.booleans()),
)
FILTERS = st.lists(TERMS, max_size=5).map(lambda terms: Filter(tuple(terms)))


@given(FILTERS)
def test_a_filters_text_is_read_back_as_the_same_filter(filter_: Filter) -> None:
    assert parse(str(filter_), NOW) == filter_


@given(TERMS, st.lists(TERMS, max_size=3))
def test_terms_hold_together_and_a_minus_turns_one_round(term: Term, others: list[Term]) -> None:
    summary = {
        "status": 404, "method": "ABC", "path": "/a/b", "function": "f", "started_at": "2026-01-01T00:00:00Z",
        "error": "a", "sha": "0f", "deployment": "0f1e",
        "trigger": "http", "outcome": "raised", "name": "qk9d81mt",
    }  # fmt: skip
    turned = Term(term.key, term.operator, term.value, term.method, not term.negated)
    assert matches(Filter((term,)), summary) is not matches(Filter((turned,)), summary)
    each = [matches(Filter((one,)), summary) for one in (term, *others)]
    assert matches(Filter((term, *others)), summary) is all(each)


PIECES = st.sampled_from(
    [*KEYS, ":", "-", '"', " ", "\\", "500", ">=", "*", "/a", "{", "}", "1h", "14:00", "\n", "\x1b", "é"]
)


@given(st.text(max_size=40) | st.lists(PIECES, max_size=12).map("".join))
def test_any_text_is_a_filter_or_an_error_with_a_next_step(text: str) -> None:
    with contextlib.suppress(FilterError):
        found = parse(text, NOW)
        assert parse(str(found), NOW) == found
        return
    try:
        parse(text, NOW)
    except FilterError as error:
        assert error.remedy
