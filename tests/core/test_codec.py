"""The stored form: what is written is read again equal, and what is not exactly a noun is refused."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flux import codec
from flux.codec import BLOB_BYTES_MIN, BODY_BYTES_MAX, Blob, CodecError
from flux.execution import Execution, Interrupted, Outcome, Raised, Returned, Trigger
from flux.hostcall import HostCall, HostCallRequest, HostCallResult, Position
from flux.mutation import Mutation, Operation
from tests import strategies
from tests.recordings import version_1, version_1_fuel, version_1_whole

RECORDINGS = Path(__file__).parents[1] / "recordings"
NOUNS = {
    HostCallRequest: strategies.requests,
    HostCallResult: strategies.results,
    HostCall: strategies.calls,
    Mutation: strategies.mutations,
    Trigger: strategies.triggers,
    Execution: strategies.executions,
}


def no_blobs(_digest: bytes) -> Blob | None:
    return None


def large(execution: Execution) -> tuple[codec.EncodedExecution, dict[bytes, Blob]]:
    encoded = codec.encode_execution(execution)
    return encoded, {blob.sha256: blob for blob in encoded.blobs}


# --- what is written is read again -----------------------------------------------------------------


@given(st.data())
@pytest.mark.parametrize("noun_class", NOUNS)
def test_a_noun_is_read_as_it_was_written(noun_class: type, data: st.DataObject) -> None:
    noun = data.draw(NOUNS[noun_class])
    assert codec.decode(noun_class, codec.encode(noun)) == noun


@given(strategies.outcomes)
def test_an_outcome_keeps_its_kind(outcome: Outcome) -> None:
    data = codec.encode(outcome)
    assert codec.decode(Outcome, data) == outcome
    assert codec.decode(type(outcome), data) == outcome


@given(strategies.executions)
def test_an_execution_is_read_as_it_was_recorded(execution: Execution) -> None:
    encoded = codec.encode_execution(execution)
    assert codec.decode_execution(encoded.body, encoded.format, no_blobs) == execution
    assert encoded.completeness == execution.completeness
    assert codec.list_blobs(encoded.body, encoded.format) == ()


def test_the_form_is_an_array_of_the_fields() -> None:
    # Read with a decoder that knows nothing of nouns: this is the format, and other programs may rely on it.
    assert msgspec.msgpack.decode(codec.encode(Position("a.py", 3, "f"))) == ["a.py", 3, "f"]
    assert msgspec.msgpack.decode(codec.encode(Interrupted("gone"))) == ["interrupted", "gone", 0]


@given(strategies.HOSTILE_TEXT)
def test_text_that_is_no_unicode_is_stored_as_near_as_can_be(text: str) -> None:
    execution = attrs.evolve(version_1.EXECUTIONS[0], outcome=Raised("KeyError", text))
    encoded = codec.encode_execution(execution)
    read = codec.decode_execution(encoded.body, encoded.format, no_blobs)
    assert isinstance(read.outcome, Raised)
    is_unicode = not any("\ud800" <= character <= "\udfff" for character in text)
    if is_unicode:
        assert read == execution
    else:
        assert len(encoded.completeness) == len(execution.completeness) + 1
        assert "U+FFFD" in read.completeness[-1] and read.completeness == encoded.completeness
        # Pairs of surrogates become the character that they mean.
        assert read.outcome.message == text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


# --- what isn't is refused -------------------------------------------------------------------------

REQUEST = codec.encode(HostCallRequest(1, "db.query", b"[]", 0, Position("a.py", 1, "f")))


@pytest.mark.parametrize("length", range(len(REQUEST)))
def test_a_noun_that_was_cut_anywhere_is_refused(length: int) -> None:
    with pytest.raises(CodecError):
        codec.decode(HostCallRequest, REQUEST[:length])


@pytest.mark.parametrize(
    "array",
    [
        [1, "db.query", b"[]", 0, None, False, "one more"],
        [1, "db.query", b"[]", 0, None],
        [],
        {"seq": 1, "name": "db.query", "arguments": b"[]", "task": 0, "position": None, "one_way": False},
        ["1", "db.query", b"[]", 0, None, False],
        [1, b"db.query", b"[]", 0, None, False],
        [1, "db.query", "[]", 0, None, False],
        [1, "db.query", b"[]", 0, ["a.py", 1], False],
        [1, "db.query", b"[]", 0, None, 0],
        [1.5, "db.query", b"[]", 0, None, False],
        [1, "db.query", b"[]", 0, ["a.py", 1, "f", "more"], False],
        None,
        7,
    ],
    ids=repr,
)
def test_a_shape_that_is_not_the_nouns_is_refused(array: object) -> None:
    with pytest.raises(CodecError):
        codec.decode(HostCallRequest, msgspec.msgpack.encode(array))


@pytest.mark.parametrize("array", [["vanished", "x"], ["returned"], ["interrupted", "x", "y"], [0, "x"], []])
def test_an_outcome_of_no_known_kind_is_refused(array: object) -> None:
    with pytest.raises(CodecError):
        codec.decode(Outcome, msgspec.msgpack.encode(array))


def test_one_noun_is_not_taken_for_another() -> None:
    with pytest.raises(CodecError):
        codec.decode(Interrupted, codec.encode(Returned(200)))
    with pytest.raises(CodecError, match="not a noun that is stored"):
        codec.encode(object())


@given(st.binary(max_size=200))
def test_any_bytes_are_a_record_or_refused(data: bytes) -> None:
    for read in (
        lambda: codec.decode(Execution, data),
        lambda: codec.decode_execution(data, codec.FORMAT_VERSION, no_blobs),
        lambda: codec.list_blobs(data, codec.FORMAT_VERSION),
    ):
        with pytest.raises(CodecError):
            read()


@settings(max_examples=300)
@given(st.data())
def test_a_record_with_one_wrong_bit_is_refused_or_unchanged(data: st.DataObject) -> None:
    execution = version_1.EXECUTIONS[0]
    body = bytearray(codec.encode_execution(execution).body)
    place = data.draw(st.integers(0, len(body) * 8 - 1))
    body[place // 8] ^= 1 << place % 8
    try:
        read = codec.decode_execution(bytes(body), codec.FORMAT_VERSION, version_1.BLOBS.get)
    except CodecError:
        return
    assert read == codec.decode_execution(
        codec.encode_execution(execution).body, codec.FORMAT_VERSION, version_1.BLOBS.get
    )


def test_a_number_that_no_format_holds_is_refused() -> None:
    with pytest.raises(CodecError, match="can't be stored"):
        codec.encode(attrs.evolve(version_1.EXECUTIONS[0], mutation_count=2**64))


def test_a_record_of_a_newer_format_is_refused_with_what_to_do() -> None:
    with pytest.raises(CodecError, match="format 2") as caught:
        codec.decode_execution(b"", 2, no_blobs)
    assert "upgrade" in caught.value.remedy


# --- payloads that leave ---------------------------------------------------------------------------


def with_large_payloads(size_bytes: int) -> Execution:
    payload = b"x" * size_bytes
    request = HostCallRequest(1, "http.request", b'["' + payload + b'"]')
    mutation = Mutation("public", "t", '{"id":1}', Operation.UPDATE, "é" * size_bytes, None, False, 5)
    return attrs.evolve(
        version_1.EXECUTIONS[1],
        trigger=Trigger("http", "POST", "/", body=payload),
        outcome=Returned(200, (), payload),
        calls=(HostCall(request, HostCallResult(b'"' + payload + b'"'), 0, 1),),
        mutations=(mutation,),
    )


def test_large_payloads_leave_the_record_and_come_back() -> None:
    execution = with_large_payloads(BLOB_BYTES_MIN + 1)
    encoded, blobs = large(execution)
    assert len(encoded.body) < 5000
    # The request's body and the answer's are equal, so they are one blob.
    assert len(encoded.blobs) == 4
    assert set(codec.list_blobs(encoded.body, encoded.format)) == set(blobs)
    for blob in encoded.blobs:
        assert blob.sha256 == hashlib.sha256(blob.body).digest()
        assert (blob.size_bytes, blob.cut) == (len(blob.body), False)
    assert codec.decode_execution(encoded.body, encoded.format, blobs.get) == execution


def test_a_payload_of_exactly_the_limit_stays() -> None:
    execution = attrs.evolve(version_1.EXECUTIONS[1], outcome=Returned(200, (), b"x" * BLOB_BYTES_MIN))
    assert codec.encode_execution(execution).blobs == ()


def test_a_body_that_is_too_large_is_cut_and_the_record_says_so() -> None:
    body = b"0123456789abcdef" * (BODY_BYTES_MAX // 16) + b"the end"
    execution = attrs.evolve(version_1.EXECUTIONS[1], trigger=Trigger("http", "POST", "/", body=body))
    encoded, blobs = large(execution)
    (blob,) = encoded.blobs
    assert (blob.cut, blob.size_bytes, blob.sha256) == (True, len(body), hashlib.sha256(body).digest())
    read = codec.decode_execution(encoded.body, encoded.format, blobs.get)
    assert read.trigger.body == body[:BODY_BYTES_MAX]
    assert read.completeness == encoded.completeness
    assert read.completeness[-1] == f"the request's body is cut: 8MiB of {len(body):,} bytes are kept"


def test_a_payload_that_is_missing_stands_empty_and_is_said_to_be_missing() -> None:
    execution = with_large_payloads(BLOB_BYTES_MIN + 1)
    encoded, blobs = large(execution)
    digest = hashlib.sha256(execution.trigger.body).digest()
    del blobs[digest]
    read = codec.decode_execution(encoded.body, encoded.format, blobs.get)
    assert read.trigger.body == b"" and read.calls == execution.calls
    assert read.completeness == (f"a payload is missing from the store and stands empty here: sha256 {digest.hex()}",)


def test_a_noun_on_its_own_keeps_its_payload_whatever_the_size() -> None:
    request = HostCallRequest(1, "http.request", b"x" * (BODY_BYTES_MAX + 1))
    assert codec.decode(HostCallRequest, codec.encode(request)) == request
    reference = msgspec.msgpack.encode([1, "http.request", [b"\0" * 32], 0, None, False])
    with pytest.raises(CodecError, match="only whole records"):
        codec.decode(HostCallRequest, reference)


# --- growing ---------------------------------------------------------------------------------------


def test_a_field_that_was_added_later_has_its_default_in_older_records(monkeypatch: pytest.MonkeyPatch) -> None:
    @attrs.frozen
    class Grown:
        first: int
        second: str = "as before"

    monkeypatch.setitem(codec._FIELDS_OF_VERSION_1, Grown, 1)
    monkeypatch.setattr("typing.get_type_hints", lambda _class: {"first": int, "second": str})
    codec._add(Grown)
    try:
        assert codec.decode(Grown, msgspec.msgpack.encode([1])) == Grown(1)
        assert codec.decode(Grown, codec.encode(Grown(1, "new"))) == Grown(1, "new")
        with pytest.raises(CodecError):
            codec.decode(Grown, msgspec.msgpack.encode([]))
    finally:
        del codec._shapes[Grown]


KEPT = {
    "version_1.msgpack": version_1.EXECUTIONS,
    "version_1_fuel.msgpack": version_1_fuel.EXECUTIONS,
    "version_1_whole.msgpack": version_1_whole.EXECUTIONS,
}
"""Each file of ``tests/recordings`` with records, and what is in it."""


def _recorded(name: str) -> Any:
    return msgspec.msgpack.decode((RECORDINGS / name).read_bytes())


@pytest.mark.parametrize(
    ("name", "number"), [(name, number) for name in KEPT for number in range(len(KEPT[name]))]
)
def test_records_of_version_1_that_are_kept_are_still_read(name: str, number: int) -> None:
    recorded = _recorded(name)[number]
    assert codec.decode_execution(recorded, 1, version_1.BLOBS.get) == KEPT[name][number]
    for wanted in codec.list_blobs(recorded, 1):
        assert wanted in version_1.BLOBS


def test_all_that_is_kept_is_read() -> None:
    assert {path.name for path in RECORDINGS.glob("*.msgpack")} == set(KEPT)
    assert all(len(_recorded(name)) == len(executions) for name, executions in KEPT.items())


def _set_fields(value: object) -> Iterator[tuple[str, str]]:
    """Give (noun, field) for each field in ``value`` that is not as it is where nobody has set it."""
    if isinstance(value, tuple):
        for item in value:
            yield from _set_fields(item)
    elif attrs.has(type(value)):
        for field in attrs.fields(type(value)):
            if getattr(value, field.name) != field.default:
                yield type(value).__name__, field.name
            yield from _set_fields(getattr(value, field.name))


def test_each_field_of_each_noun_is_set_in_a_record_that_is_kept() -> None:
    """A field that is in none of them could change its place or its meaning, and nobody would see that."""
    kept = {found for name in KEPT for record in _recorded(name)
            for found in _set_fields(codec.decode_execution(record, 1, version_1.BLOBS.get))}  # fmt: skip
    nouns = [noun for noun in codec._shapes if attrs.has(noun)]
    assert len(nouns) == len(codec._FIELDS_OF_VERSION_1)
    fields = {
        (noun.__name__, field.name)
        for noun in nouns
        for field in attrs.fields(noun)
        if field.name != "kind" or codec._tag(noun) is None  # The kind of an outcome is its class.
    }
    assert fields - kept == set(), "keep a record with these set: a new file in tests/recordings"


def test_a_field_more_than_is_known_is_said_to_be_of_a_newer_flux() -> None:
    record = msgspec.msgpack.decode(codec.encode(version_1.EXECUTIONS[0]))
    for longer in ([*record, "one more"], [*record[:6], [*record[6], "one more"], *record[7:]]):
        with pytest.raises(CodecError, match="these bytes are no Execution") as caught:
            codec.decode(Execution, msgspec.msgpack.encode(longer))
        assert "a newer Flux" in caught.value.remedy and "upgrade" in caught.value.remedy
    with pytest.raises(CodecError) as caught:
        codec.decode(Execution, msgspec.msgpack.encode(record[:-8]))
    assert "newer" not in caught.value.remedy
