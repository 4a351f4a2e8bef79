"""What a function gets as its input: fields of the body over the query's over the path's."""

from typing import Any

import pytest

from flux.supervisor.inputs import FIELDS_MAX, UnreadableInputError, parse_json, read_input

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"


@pytest.mark.parametrize(
    ("content_type", "body", "expected"),
    [
        ("", b"", {"id": "7", "q": "x"}),
        (JSON, b"", {"id": "7", "q": "x"}),
        (JSON, b" \n ", {"id": "7", "q": "x"}),
        (JSON, b'{"a": 1}', {"id": "7", "q": "x", "a": 1}),
        (JSON, b'{"id": 8, "q": null}', {"id": 8, "q": None}),
        (JSON, b"[1, 2]", {"id": "7", "q": "x", "body": [1, 2]}),
        (JSON, b'"text"', {"id": "7", "q": "x", "body": "text"}),
        (JSON, b'\xef\xbb\xbf{"a": 1}', {"id": "7", "q": "x", "a": 1}),
        (JSON, b'{"a": 1, "a": 2}', {"id": "7", "q": "x", "a": 2}),
        ("application/problem+json; charset=utf-8", b'{"a": 1}', {"id": "7", "q": "x", "a": 1}),
        ("Application/JSON;x=y", b'{"a": 1}', {"id": "7", "q": "x", "a": 1}),
        (FORM, b'{"a": 1}', {"id": "7", "q": "x", "a": 1}),  # What curl -d sends.
        (FORM, b"a=1&b=x+y&b=%C3%A9&id=9", {"id": "9", "q": "x", "a": "1", "b": "é"}),
        (FORM, b"no form at all", {"id": "7", "q": "x"}),
        (FORM, b"\xff\xfe", {"id": "7", "q": "x"}),
        (FORM, b"a=1&" * (FIELDS_MAX + 1), {"id": "7", "q": "x"}),
        ("text/plain", b"hello", {"id": "7", "q": "x"}),
        ("text/plain", b"{hello", {"id": "7", "q": "x"}),
        ("application/octet-stream", b'{"a": 1}', {"id": "7", "q": "x"}),
        ("multipart/form-data; boundary=x", b"--x--", {"id": "7", "q": "x"}),
    ],
)
def test_fields_of_the_body_win_over_those_of_the_query_and_the_path(
    content_type: str, body: bytes, expected: dict[str, Any]
) -> None:
    assert read_input({"id": "7"}, [("q", "w"), ("q", "x")], content_type, body) == expected


def test_a_value_with_nothing_to_merge_it_with_is_the_input_itself() -> None:
    assert read_input({}, [], JSON, b"[1]") == [1]
    assert read_input({}, [], JSON, b"null") is None
    assert read_input({}, [], "", b"") == {}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"a": ', "line 1, column 7"),
        (b'{"a": 1}\n{', "line 2, column 1"),
        (b'{"a": \xff}', "byte 7 is 0xff"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "-Infinity"),
        (b"[" * 100_000, "not JSON that can be used"),
        (b"9" * 5000, "not JSON that can be used"),
        (b'"\\ud800"', "not JSON that can be used"),
        (b"{'a': 1}", "line 1, column 2"),
    ],
)
def test_a_body_that_is_declared_as_json_and_is_none_is_the_clients_mistake(body: bytes, said: str) -> None:
    with pytest.raises(UnreadableInputError, match="the body is") as caught:
        read_input({}, [], JSON, body)
    assert said in str(caught.value)


def test_numbers_keep_their_size() -> None:
    assert parse_json(b"[18446744073709551616, -0.0, 1e3]") == [2**64, -0.0, 1000.0]
