"""A case file of any content whose checksum fits is a case or refused: the checksum protects nobody from its author."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from flux.case_file import Case, CaseFileError, decode_case, encode_case, encode_content
from tests.core.test_case_file import make_case, pack

WHOLE = make_case()
CONTENT = encode_content(WHOLE)
FIELDS = msgspec.msgpack.decode(CONTENT)
RECORD = FIELDS[1]
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.binary(max_size=40)
    | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)  # fmt: skip


def read(content: bytes) -> Case | None:
    """The case, or None where it is refused; any other error is one of ours."""
    try:
        return decode_case(pack(content))
    except CaseFileError as error:
        assert error.message
        return None


@st.composite
def altered(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes changed, left out, put in and moved, a few times."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(changed)))
        stop = start + draw(st.integers(0, 12))
        odd = st.sampled_from([bytes(changed[:9]), b"\xc1", b"\xdd\xff\xff\xff\xff"])
        changed[start:stop] = draw(st.binary(max_size=12) | odd)
    return bytes(changed)


@given(altered(CONTENT))
def test_a_content_that_was_altered_and_signed_again_is_a_case_or_refused(content: bytes) -> None:
    case = read(content)
    # What is read is whole: it can be written, and is then read as the same.
    assert case is None or decode_case(encode_case(case)) == case


@given(altered(RECORD))
def test_a_record_that_was_altered_inside_a_case_is_a_case_or_refused(record: bytes) -> None:
    case = read(msgspec.msgpack.encode([FIELDS[0], record, *FIELDS[2:]]))
    assert case is None or decode_case(encode_case(case)) == case


@settings(max_examples=40)
@given(st.integers(0, len(FIELDS) - 1), anything)
def test_a_field_of_any_other_kind_is_refused_or_fits(index: int, value: object) -> None:
    fields = list(FIELDS)
    fields[index] = value
    case = read(msgspec.msgpack.encode(fields))
    assert case is None or decode_case(encode_case(case)) == case


@given(st.binary(max_size=300))
def test_any_bytes_are_no_case(data: bytes) -> None:
    assert read(data) is None
