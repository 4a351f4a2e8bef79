"""Laws of hiding: JSON stays JSON, nothing hidden is left, and what is hidden once is hidden for good."""

import base64
import json

from hypothesis import given
from hypothesis import strategies as st

from flux import values
from flux.execution import Trigger
from flux.hidden import HIDDEN_CHARACTERS_MIN, HiddenValues
from flux.redact import RedactionRules, Redactor
from flux.sql_columns import find_sensitive

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
secrets = st.text(st.characters(exclude_categories=["Cs"]), min_size=HIDDEN_CHARACTERS_MIN, max_size=20)
numbers = st.integers(-(2**63), 2**63 - 1)
documents = st.recursive(
    st.none()
    | st.booleans()
    | numbers
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
    | st.binary(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(texts.filter(lambda key: key[:1] != "$"), inner, max_size=4)
    ),
    max_leaves=10,
)


def holds(document: object, value: str) -> bool:
    """Whether ``value`` is anywhere in ``document``."""
    match document:
        case str():
            return value in document
        case bytes():
            return value.encode() in document
        case dict():
            return any(holds(item, value) for pair in document.items() for item in pair)
        case list():
            return any(holds(item, value) for item in document)
    return False


@given(documents, secrets, texts, texts)
def test_what_is_hidden_is_nowhere_in_the_value_that_is_left(
    document: object, secret: str, before: str, behind: str
) -> None:
    stand_in = "redacted:000000000000"
    if secret in stand_in:
        return
    planted = [document, before + secret + behind, {secret: [secret.encode() + b"\xff"]}]
    hidden = HiddenValues([(secret, stand_in)])
    data = hidden.hide_json(values.encode_canonical(planted))
    left = values.decode(data)
    assert isinstance(left, list) and len(left) == 3
    # What stands before and behind a value may make it anew together with the stand-in: then it says nothing.
    assert not holds(left, secret) or holds(left, stand_in)
    assert not holds(left[2], secret)


@given(documents, secrets)
def test_what_holds_nothing_hidden_is_left_as_it_is(document: object, secret: str) -> None:
    data = values.encode_canonical([document])
    if holds(document, secret) or secret.encode() in data or json.dumps(secret)[1:-1].encode() in data:
        return
    assert HiddenValues([(secret, "x")]).hide_json(data) == data


@given(st.binary(max_size=60), secrets)
def test_bytes_that_are_no_json_break_nothing(data: bytes, secret: str) -> None:
    hidden = HiddenValues([(secret, "-")])
    hidden.hide_json(data + secret.encode() + data)
    assert len(hidden.hide(secret.encode())) == 1
    hidden.hide_json(b'{"$bytes":"' + base64.b64encode(data)[:-1] + b'"}')


json_documents = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["password", "a", "b"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    json_documents,
    st.lists(st.tuples(st.sampled_from(["cookie", "x-id", "authorization"]), texts), max_size=3),
)
def test_redacting_twice_is_redacting_once(document: object, headers: list[tuple[str, str]]) -> None:
    rules = RedactionRules.parse(["json:$.password", "json:$.*.password", "json:$[*].password"])
    trigger = Trigger("http", headers=tuple(headers), body=json.dumps(document).encode())
    once = Redactor(rules, b"seed").trigger(trigger)
    assert Redactor(rules, b"seed").trigger(once) == once
    json.loads(once.body)


@given(st.text("abcssn'\"$1(),=<> \n-/*;eEvaluesinto", max_size=60))
def test_any_text_is_read_as_sql_without_a_word(sql: str) -> None:
    for wanted in (sql, "insert into users (ssn) values (" + sql, "update users set ssn = $1 " + sql):
        sensitive = find_sensitive(wanted, {"users"}, {"ssn"})
        assert all(0 <= start < end <= len(wanted) for start, end in sensitive.literals)
