"""Whatever is written as an expression is read or refused, and whatever is read has an answer."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from flux.fail_if import NAMES, ExpressionError, Unknown, evaluate, parse_expression

json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.floats(allow_nan=False), st.text(max_size=4)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text("ab", max_size=2), inner, max_size=3)),
    max_leaves=8,
)
subjects = st.builds(
    lambda status, body: dict.fromkeys(NAMES, None) | {"status": status, "body": body, "error": body},
    st.integers(1, 5),
    json_values,
)
words = st.sampled_from(
    [*NAMES, "body.a", "body[0]", 'body["a"]', "and", "or", "not", "(", ")", "==", "!=", "<", ">=", "true", "null", "1",
     "-2.5", "'a'", '"b"', ".", "[", "]", "=", "nothing"]
)  # fmt: skip


@settings(max_examples=60)
@given(st.one_of(st.text(max_size=40), st.lists(words, max_size=12).map(" ".join)), subjects)
def test_any_text_is_an_expression_or_an_error_that_points_into_it(text: str, subject: dict[str, Any]) -> None:
    try:
        expression = parse_expression(text)
    except ExpressionError as error:
        column = int(error.message.split("\n")[0].rpartition(" ")[2])
        assert 1 <= column <= len(text) + 1
        return
    assert isinstance(evaluate(expression, subject), bool | Unknown)


atoms = st.sampled_from(["body.a == 1", "status < 3", "error", "true", "body", "not (status == 1)"])


@settings(max_examples=60)
@given(atoms, atoms, subjects)
def test_logic_is_that_of_three_values(one: str, other: str, subject: dict[str, Any]) -> None:
    def ask(text: str) -> bool | None:
        value = evaluate(parse_expression(text), subject)
        return None if isinstance(value, Unknown) else value

    left, right = ask(one), ask(other)
    both = False if False in (left, right) else None if None in (left, right) else True
    either = True if True in (left, right) else None if None in (left, right) else False
    assert ask(f"({one}) and ({other})") is both
    assert ask(f"({one}) or ({other})") is either
    # De Morgan, over whatever the two are.
    assert ask(f"not (({one}) and ({other}))") is ask(f"not ({one}) or not ({other})")
