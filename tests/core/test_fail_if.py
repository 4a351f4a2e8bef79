"""``--fail-if``: what expressions mean, and where a mistake in one is pointed at."""

import pytest

from flux.fail_if import DEPTH_MAX, NAMES, ExpressionError, Unknown, evaluate, parse_expression

SUBJECT = {
    "status": 200, "outcome": "returned", "verdict": "passed", "error": None, "message": None,
    "body": {"plan": "free", "items": [{"name": "mug"}, {"name": "cap"}], "total": 9.5, "ok": True, "é": "é"},
    "headers": {"content-type": "application/json"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("status != 201", True),
        ("status == 200", True),
        ("status >= 200 and status < 300", True),
        ("status == 200.0", True),
        ("status == '200'", False),
        ("status != '200'", True),
        ('body.plan == "free" and error == "KeyError"', False),
        ("error == null", True),
        ("not error == null", False),
        ("body.items[1].name == 'cap'", True),
        ("body.items[2].name == null", True),
        ('body["plan"] == "free"', True),
        ("body.nothing.there == null", True),
        ("body.plan[0] == null", True),
        ("body.items.name == null", True),
        ('headers["content-type"] == "application/json"', True),
        ("headers.content-type == 'x'", False),
        ("body.ok", True),
        ("not body.ok", False),
        ("not not body.ok", True),
        ("true", True),
        ("false or true", True),
        ("body.ok == true", True),
        ("body.ok == 1", False),
        ("body.total > 9 and body.total <= 9.5", True),
        ("body.plan < 'g'", True),
        ("status == 1 or status == 2 or status == 200", True),
        ("status == 1 and status == 2 or body.ok", True),
        ("status == 1 and (status == 2 or body.ok)", False),
        ("(status == 200) == true", True),
        ("body.items == body.items", True),
        ("body.items == body", False),
        (r"'it\'s' == 'it\'s'", True),
        (r'"\u00e9" == body["é"]', True),
        ("'\"' == '\\\"'", True),
        ("-1.5e3 < 0", True),
        ("verdict == 'passed'", True),
        ('outcome == "returned"', True),
        # What can be told is told, whatever can't be told beside it.
        ("status == 200 or body.plan < 3", True),
        ("body.plan < 3 or status == 200", True),
        ("status == 1 and body.plan < 3", False),
        ("body.plan < 3 and status == 1", False),
    ],
)
def test_an_expression_says_whether_it_holds(text: str, wanted: bool) -> None:
    assert evaluate(parse_expression(text), SUBJECT) is wanted


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("body.plan < 3", "body.plan is a text"),
        ("body.nothing > 3", "body.nothing is null"),
        ("3 < body.items", "body.items is a list"),
        ("body.ok < true", "body.ok is true or false"),
        ("body", "body is an object, neither true nor false"),
        ("error", "error is null"),
        ("status and body.ok", "status is a number"),
        ("not body.plan", "body.plan is a text"),
        ("status == 200 and body.plan < 3", "body.plan is a text"),
        ("(body.plan < 3) == true", "body.plan is a text"),
    ],
)
def test_what_can_not_be_told_is_unknown_with_its_reason(text: str, said: str) -> None:
    found = evaluate(parse_expression(text), SUBJECT)
    assert isinstance(found, Unknown) and said in found.reason


@pytest.mark.parametrize(
    ("text", "column", "said"),
    [
        ("", 1, "ends too early"),
        ("status !=", 10, "ends too early"),
        ("status = 200", 8, "'=' has no meaning"),
        ("state == 1", 1, "there is no state: an expression speaks of status"),
        ("status == 1 2", 13, "one thing too many"),
        ("(status == 1", 1, "not closed"),
        ("status == 'a", 11, "does not end"),
        ("1 < status < 3", 12, "one comparison"),
        ("body.", 6, "the name of a field is expected"),
        ("body[", 6, "a number or a text"),
        ("body[1.5]", 6, "a number"),
        ("body[1", 7, "']' is expected"),
        ("and status", 1, "'and' is no value"),
        ("status == 1 or", 15, "too early"),
        ("status\n== 1 ; 2", 13, "';' has no meaning"),
        ("status == 1e999", 11, "too large"),
        ("1x == 1", 1, "'1' has no"),
        (r"'\q' == 1", 1, "JSON does not allow"),
        ("(" * (DEPTH_MAX + 1), DEPTH_MAX + 1, "levels"),
        ("not " * (DEPTH_MAX + 1) + "body.ok", 4 * DEPTH_MAX + 1, "levels"),
        ("status == " + "9" * 41, 11, "too long"),
    ],
)
def test_a_mistake_is_pointed_at(text: str, column: int, said: str) -> None:
    with pytest.raises(ExpressionError) as raised:
        parse_expression(text)
    message, shown, mark = raised.value.message.split("\n")
    assert said in message and message.endswith(f"at column {column}")
    at = mark.index("^")
    assert at == len(mark) - 1 and (at <= len(shown))
    if column <= len(text) and text[column - 1].isprintable():
        assert shown[at] == text[column - 1]


def test_every_name_can_be_asked_for() -> None:
    for name in NAMES:
        assert evaluate(parse_expression(f"{name} == {name}"), SUBJECT) is True


def test_an_expression_of_thousands_of_characters_is_refused() -> None:
    with pytest.raises(ExpressionError, match="2,000 are the most"):
        parse_expression("status == 1 or " * 200)
