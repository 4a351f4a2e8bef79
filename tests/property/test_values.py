"""What is encoded comes out the same, and equal values have equal bytes."""

import datetime
import json

from hypothesis import given
from hypothesis import strategies as st

from flux.values import Range, ValueFormatError, decode, decode_json, encode, encode_canonical

ZONES = st.timedeltas(datetime.timedelta(hours=-23), datetime.timedelta(hours=23)).map(
    lambda offset: datetime.timezone(datetime.timedelta(seconds=int(offset.total_seconds())))
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**80), 2**80),
    st.floats(),
    st.text(),
    st.sampled_from(["$bytes", "$object", "$", "$int"]),
    st.binary(),
    st.decimals(),
    st.datetimes(timezones=st.none() | ZONES),
    st.dates(),
    st.times(timezones=st.none() | ZONES),
    st.timedeltas(),
    st.uuids(),
    st.builds(Range, st.integers(), st.none() | st.integers(), st.sampled_from(["[)", "[]", "()", "(]"])),
    st.just(Range(empty=True)),
)
KEYS = st.text() | st.sampled_from(["$bytes", "$object", "$", "$range", "a"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)


def same(one: object, other: object) -> bool:
    """Equality that also minds the type, NaN, and the digits of a decimal."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float) and isinstance(other, float):
        return str(one) == str(other)  # Tells -0.0 from 0.0, and takes NaN for itself.
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, datetime.datetime | datetime.time) and isinstance(
        other, datetime.datetime | datetime.time
    ):
        return one.isoformat() == other.isoformat()
    return str(one) == str(other) and repr(one) == repr(other)


@given(VALUES)
def test_every_value_comes_out_as_it_went_in(value: object) -> None:
    assert same(decode(encode(value)), value)
    assert same(decode(encode_canonical(value)), value)


@given(VALUES)
def test_the_canonical_form_is_its_own(value: object) -> None:
    assert encode_canonical(decode(encode_canonical(value))) == encode_canonical(value)
    assert encode_canonical(decode(encode(value))) == encode_canonical(value)


@given(st.dictionaries(KEYS, VALUES, max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_matter(value: dict[str, object], chance: object) -> None:
    keys = list(value)
    chance.shuffle(keys)  # type: ignore[attr-defined]
    assert encode_canonical({key: value[key] for key in keys}) == encode_canonical(value)


@given(VALUES)
def test_what_travels_is_json_to_anybody(value: object) -> None:
    document = encode_canonical(value)
    assert json.loads(document) == decode_json(document)
    assert b"\n" not in document


@given(
    st.binary(max_size=60)
    | st.text(st.sampled_from('{}[]",:$bytesintobjectdat0123-.eE\\u d8'), max_size=40).map(str.encode)
)
def test_any_bytes_are_a_value_or_refused(data: bytes) -> None:
    try:
        value = decode(data)
    except ValueFormatError:
        return
    assert decode(encode_canonical(value)) == value
