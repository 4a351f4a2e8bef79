"""Values on their way through the sandbox's door."""

import datetime
import uuid
from collections import OrderedDict
from decimal import Decimal

import pytest

from flux import values
from flux.values import (
    Interval,
    Range,
    ValueFormatError,
    decode,
    decode_json,
    encode,
    encode_canonical,
    text_or_bytes,
)


@pytest.mark.parametrize(
    "value",
    [
        object(), {1}, {"a": {1}}, [object()], {1: 2}, {None: 1}, {b"a": 1}, 1j, lambda: 1, Exception(), range(3),
        "\ud800", {"\ud800": 1}, ["a", "\udfff"], 10**5000, -(10**5000), {"a": 10**5000},
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_cannot_travel_is_refused(value: object) -> None:
    for write in (encode, encode_canonical):
        with pytest.raises(ValueFormatError):
            write(value)


@pytest.mark.parametrize(
    "document",
    [
        b"", b"{", b"nul", b"NaN", b"[1,]", b'{"a":1} x', b"\xff", b'"\\ud800"', b"'a'",
        b"[" * 100_000, b'{"a":' * 100_000,
        b'{"$bytes":"*"}', b'{"$bytes":1}', b'{"$bytes":"a"}', b'{"$bytes":"\xc3\xa4"}', b'{"$decimal":"x"}',
        b'{"$decimal":1.5}', b'{"$datetime":"yesterday"}', b'{"$date":"2026-02-30"}', b'{"$time":"25:00"}',
        b'{"$duration":[1,2]}', b'{"$duration":["1",2,3]}', b'{"$duration":[999999999999,0,0]}', b'{"$uuid":"x"}',
        b'{"$range":[1,2]}', b'{"$range":[1,2,"{}"]}', b'{"$range":1}',
        b'{"$float":"x"}', b'{"$float":1}', b'{"$int":"x"}',
        b'{"$int":1}', b'{"$int":""}', b'{"$object":1}', b'{"$unknown":1}', b'{"$":1}', b'{"$interval":[1]}',
    ],
)  # fmt: skip
def test_what_is_no_value_is_refused(document: bytes) -> None:
    with pytest.raises(ValueFormatError):
        decode(document)


@pytest.mark.parametrize(
    ("value", "document"),
    [
        ({"b": 1, "a": [True, None, "x", 1.5]}, b'{"a":[true,null,"x",1.5],"b":1}'),
        (b"hi", b'{"$bytes":"aGk="}'),
        (bytearray(b"hi"), b'{"$bytes":"aGk="}'),
        (memoryview(b"hi"), b'{"$bytes":"aGk="}'),
        (Decimal("1.10"), b'{"$decimal":"1.10"}'),
        (datetime.date(2026, 1, 2), b'{"$date":"2026-01-02"}'),
        (datetime.timedelta(days=-1, seconds=2, microseconds=3), b'{"$duration":[-1,2,3]}'),
        (2**63 - 1, b"9223372036854775807"),
        (2**63, b'{"$int":"9223372036854775808"}'),
        (-(2**63) - 1, b'{"$int":"-9223372036854775809"}'),
        (float("nan"), b'{"$float":"nan"}'),
        (float("-inf"), b'{"$float":"-inf"}'),
        ({"$bytes": "x"}, b'{"$object":{"$bytes":"x"}}'),
        ({"$a": 1, "b": 2}, b'{"$a":1,"b":2}'),
        ({"$object": {"$a": 1}}, b'{"$object":{"$object":{"$object":{"$a":1}}}}'),
        (Range(1, None, "(]"), b'{"$range":[1,null,"(]"]}'),
        (Range(empty=True), b'{"$range":null}'),
        ((1, 2), b"[1,2]"),
        (OrderedDict(b=1, a=2), b'{"a":2,"b":1}'),
        ("ä\x00\n", '"ä\\u0000\\n"'.encode()),
    ],
)
def test_a_value_has_one_canonical_form(value: object, document: bytes) -> None:
    assert encode_canonical(value) == document
    assert encode_canonical(decode(document)) == document


def test_a_subclass_travels_as_what_it_is() -> None:
    class Text(str):
        pass

    class Number(int):
        pass

    assert encode([Text("a"), Number(5), Number(2**70)]) == b'["a",5,{"$int":"1180591620717411303424"}]'


def test_depth_is_bounded_on_the_way_in_and_out() -> None:
    def nested(depth: int) -> object:
        value: object = 1
        for _ in range(depth):
            value = [value]
        return value

    assert decode(encode(nested(values.DEPTH_MAX))) == nested(values.DEPTH_MAX)
    with pytest.raises(ValueFormatError, match="nested"):
        encode(nested(100_000))
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(ValueFormatError, match="nested"):
        encode(endless)


def test_a_malformed_tag_is_named_and_cut_short() -> None:
    with pytest.raises(ValueFormatError, match=r"\$uuid holds 'x+'") as caught:
        decode(b'{"$uuid":"' + b"x" * 10_000 + b'"}')
    assert len(str(caught.value)) < 300


def test_showing_a_value_leaves_its_tags() -> None:
    assert decode_json(b'{"$bytes":"aGk="}') == {"$bytes": "aGk="}
    with pytest.raises(ValueFormatError):
        decode_json(b"{")


def test_a_body_is_text_when_it_is_text() -> None:
    assert text_or_bytes("ä".encode()) == "ä"
    assert text_or_bytes(b"\xff\x00") == b"\xff\x00"


def test_an_interval_with_months_travels() -> None:
    value = Interval(1, 2, 3)
    assert decode(encode(value)) == value


def test_a_uuid_is_read_in_any_spelling_and_written_in_one() -> None:
    found = uuid.UUID("01890a5d-ac96-774b-bcce-b302099a8057")
    assert encode(found) == b'{"$uuid":"01890a5d-ac96-774b-bcce-b302099a8057"}'
