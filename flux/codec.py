"""The stored form of what an execution did: the only place that knows it.

Think of it as a table of shapes. A noun is written as a MessagePack array of its
fields, in the order in which its class lists them; a member of a union (an
`Outcome`) begins with its ``kind``. The shapes are made once, at import, from
the classes themselves; reading checks each value's type and each array's length,
so bytes that are not exactly a noun raise `CodecError` and never become half of one.

Two forms are made of the same arrays:

* `encode` and `decode`: one noun as it is. The journal writes these, one by one.
* `encode_execution` and `decode_execution`: a whole record for the database, compressed
  with zstd. Payloads above `BLOB_BYTES_MIN` leave as `Blob` values, stored
  once by their content, and a reference stays.

Growing: a record is read for as long as anybody keeps one, so a noun's fields are never
reordered, renamed or taken away within a format version. A new field goes last, has a
default, and is not counted in `_FIELDS_OF_VERSION_1`: older records then read as having the
default, under the same `FORMAT_VERSION`. A Flux from before the field refuses a record that has it,
and says that a newer one may have written it. Anything else is a new `FORMAT_VERSION`, with a reader for the
old. ``tests/recordings`` holds records of each version for ever, and each field is set in one of them.
"""

import functools
import hashlib
import operator
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar, overload

import attrs
import msgspec
import zstandard

from flux.errors import FluxError
from flux.execution import (
    Execution,
    Exited,
    Frame,
    Interrupted,
    Killed,
    Level,
    LimitInForce,
    LogLine,
    Outcome,
    Raised,
    Read,
    Returned,
    StatementSnapshot,
    Transaction,
    Trigger,
)
from flux.hostcall import HostCall, HostCallError, HostCallRequest, HostCallResult, Position
from flux.limits import MIB, format_size
from flux.mutation import Mutation
from flux.streamed import StreamedBody

FORMAT_VERSION = 1
"""What new records are written in; `decode_execution` reads this one and all before it."""

BLOB_BYTES_MIN = 64 * 1024
"""A payload longer than this leaves the record as a `Blob`."""

BODY_BYTES_MAX = 8 * MIB
"""Of a longer request or answer only so much is kept, and the record says so."""

PAYLOAD_BYTES_MAX = 64 * MIB
"""The same for what a host call carried. Four times the largest frame, so only a changed limit meets it:
arguments and answers are JSON, of which a part is of little use."""

RECORD_BYTES_MAX = 1024 * MIB
"""A record that claims to be larger than this once decompressed is not one of ours."""

_COMPRESSION_LEVEL = 3

_T = TypeVar("_T")


class CodecError(FluxError):
    """Bytes that should be a record, or a part of one, and are not."""

    code = "FLX710"
    exit_code = 6


@attrs.frozen
class Blob:
    """A payload too large for a record, by its content."""

    sha256: bytes
    """Digest of the whole payload, also when it was cut: 32 bytes."""
    size_bytes: int
    """Length of the whole payload, also when it was cut."""
    cut: bool
    """True when ``body`` is only the beginning."""
    body: bytes = attrs.field(repr=False)
    """The payload."""


@attrs.frozen
class EncodedExecution:
    """An execution as it is stored."""

    format: int
    """The format's version, to be kept beside ``body``."""
    body: bytes = attrs.field(repr=False)
    """The record."""
    blobs: tuple[Blob, ...]
    """What left the record: to be stored before it, so that no record points nowhere."""
    completeness: tuple[str, ...]
    """The execution's own completeness and what storing it took away."""


# --- one noun --------------------------------------------------------------------------------------


def encode(noun: object) -> bytes:
    """Return the stored form of one noun. Lone surrogates, which no encoding has, become U+FFFD."""
    array = _shape_of(type(noun)).pack(noun, None)
    return _written(array)[0]


@overload
def decode(cls: type[_T], data: bytes) -> _T: ...
@overload
def decode(cls: types.UnionType, data: bytes) -> Any: ...
def decode(cls: Any, data: bytes) -> Any:
    """Return the noun of class ``cls`` (or of the union ``Outcome``) in ``data``, or raise `CodecError`."""
    shape = _shape_of(cls)
    return shape.unpack(_read(shape, data), _no_blobs)


# --- a whole record --------------------------------------------------------------------------------


def encode_execution(execution: Execution) -> EncodedExecution:
    """Return the record of ``execution``, its large payloads apart."""
    outlet = _Outlet()
    array = list(_EXECUTION.pack(execution, outlet))
    array[_COMPLETENESS] = completeness = (*execution.completeness, *outlet.sentences)
    packed, is_mended = _written(tuple(array))
    if is_mended:
        completeness = (*completeness, "lone surrogates in its texts are stored as U+FFFD")
        array[_COMPLETENESS] = completeness
        packed, _ = _written(tuple(array))
    # A compressor must not be used by two threads at once, and costs more to make than to use: so they are
    # kept in a list, whose pop and append are each one step.
    compressor = _compressors.pop() if _compressors else _new_compressor()
    body = compressor.compress(packed)
    _compressors.append(compressor)
    return EncodedExecution(FORMAT_VERSION, body, tuple(outlet.blobs.values()), tuple(completeness))


def decode_execution(
    body: bytes, format_version: int, find_blob: Callable[[bytes], Blob | None]
) -> Execution:
    """Return the execution in a record; ``find_blob`` gives what left it, by digest, or None.

    A payload that isn't found stays empty, and ``completeness`` says so. `list_blobs` tells beforehand
    which will be asked for.
    """
    missing: list[bytes] = []

    def find(digest: bytes) -> bytes:
        blob = find_blob(digest)
        if blob is None:
            missing.append(digest)
            return b""
        return blob.body

    execution: Execution = _EXECUTION.unpack(_read(_EXECUTION, _decompressed(body, format_version)), find)
    if not missing:
        return execution
    sentences = tuple(
        f"a payload is missing from the store and stands empty here: sha256 {digest.hex()}"
        for digest in dict.fromkeys(missing)
    )
    return attrs.evolve(execution, completeness=execution.completeness + sentences)


def list_blobs(body: bytes, format_version: int) -> tuple[bytes, ...]:
    """Return the digests of what left this record, each once, in order."""
    found = _references(_read(_EXECUTION, _decompressed(body, format_version)))
    return tuple(dict.fromkeys(reference.sha256 for reference in found))


def _decompressed(body: bytes, format_version: int) -> bytes:
    if format_version != FORMAT_VERSION:
        raise CodecError(
            f"this record has format {format_version}; this Flux reads {FORMAT_VERSION}",
            remedy="a newer Flux wrote it: upgrade this one"
            if format_version > FORMAT_VERSION
            else "no Flux that is known wrote that: find out who has changed the row",
        )
    try:
        size = zstandard.frame_content_size(body)
        if not 0 <= size <= RECORD_BYTES_MAX:
            raise CodecError(f"this record claims to have {size:,} bytes; {RECORD_BYTES_MAX:,} are possible")
        return zstandard.ZstdDecompressor().decompress(body)
    except zstandard.ZstdError as error:
        raise CodecError(f"this record is damaged: {error}") from error


def _new_compressor() -> zstandard.ZstdCompressor:
    return zstandard.ZstdCompressor(level=_COMPRESSION_LEVEL, write_checksum=True, write_content_size=True)


_compressors: list[zstandard.ZstdCompressor] = []


# --- payloads that leave ---------------------------------------------------------------------------


class _Reference(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """Stands in a record for a payload that has left it."""

    sha256: bytes


@attrs.define
class _Outlet:
    """Where large payloads leave."""

    blobs: dict[bytes, Blob] = attrs.field(factory=dict)
    """By digest: equal payloads leave once."""
    sentences: list[str] = attrs.field(factory=list)
    """What was cut."""

    def take(self, payload: bytes, what: str) -> tuple[bytes]:
        """Keep ``payload``; return the array that stands for it."""
        digest = hashlib.sha256(payload).digest()
        if digest not in self.blobs:
            size_max = BODY_BYTES_MAX if what.endswith("body") else PAYLOAD_BYTES_MAX
            is_cut = len(payload) > size_max
            self.blobs[digest] = Blob(digest, len(payload), is_cut, payload[:size_max] if is_cut else payload)
            if is_cut:
                self.sentences.append(
                    f"{what} is cut: {format_size(size_max)} of {len(payload):,} bytes are kept"
                )
        return (digest,)


_PAYLOADS = {
    (Trigger, "body"): "the request's body",
    (Returned, "body"): "the answer's body",
    (Raised, "violations"): "the list of violations",
    (HostCallRequest, "arguments"): "a host call's arguments",
    (HostCallResult, "value"): "a host call's answer",
    (HostCallError, "details"): "the details of a host call's error",
    (LogLine, "fields"): "a log line's fields",
    (Mutation, "before"): "the image of a row before its change",
    (Mutation, "after"): "the image of a row after its change",
}
"""The fields that may leave, and how ``completeness`` calls them."""


def _references(value: object) -> Iterator[_Reference]:
    if isinstance(value, _Reference):
        yield value
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield from _references(getattr(value, name))
    elif isinstance(value, tuple):
        for item in value:
            yield from _references(item)


def _no_blobs(_digest: bytes) -> bytes:
    raise CodecError("this part of a record refers to a payload elsewhere; only whole records may")


# --- shapes ----------------------------------------------------------------------------------------

_FIELDS_OF_VERSION_1: dict[type, int] = {
    Trigger: 9, Frame: 5, Returned: 3, Raised: 8, Killed: 4, Exited: 3, Interrupted: 1, LogLine: 5,
    Transaction: 6, Read: 5, Level: 3, LimitInForce: 3, Execution: 23, Position: 3, HostCallError: 4,
    HostCallRequest: 6, HostCallResult: 4, HostCall: 4, Mutation: 12, StatementSnapshot: 3, StreamedBody: 2,
}  # fmt: skip
"""How many fields each noun has in version 1 (or had when it came), ``kind`` aside: these must be there, later ones
may lack."""

_Pack = Callable[[Any, _Outlet | None], Any]
_Find = Callable[[bytes], bytes]
_Unpack = Callable[[Any, _Find], Any]


@attrs.frozen
class _Shape:
    """How one type is stored."""

    stored: Any
    """The type that msgspec checks against."""
    pack: Any
    """(value, outlet or None) -> what msgspec writes; None when the value itself is."""
    unpack: Any
    """(what msgspec read, find) -> the value; None when that itself is."""
    decoder: msgspec.msgpack.Decoder[Any] | None = None
    """Reads it on its own; nouns have one."""
    name: str = ""
    """What a noun is called."""


_shapes: dict[Any, _Shape] = {}


def _shape_of(noun_type: Any) -> _Shape:
    shape = _shapes.get(noun_type)
    if shape is None:
        raise CodecError(f"{noun_type!r} is not a noun that is stored")
    return shape


def _read(shape: _Shape, data: bytes) -> Any:
    assert shape.decoder is not None  # `_add` gives every noun one.
    try:
        return shape.decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        # Within a version nouns grow by fields: one more than is known is a newer Flux's, or damage.
        is_longer = "at most length" in str(error)
        raise CodecError(
            f"these bytes are no {shape.name}: {error}",
            remedy="a newer Flux may have written them, with a field that this one does not know: upgrade this one"
            if is_longer
            else "",
        ) from error


_writer = msgspec.msgpack.Encoder(uuid_format="bytes")


def _written(array: tuple[Any, ...]) -> tuple[bytes, bool]:
    """The array's bytes, and whether texts had to be mended for that."""
    try:
        return _writer.encode(array), False
    except UnicodeEncodeError:
        return _writer.encode(_mended(array)), True
    except (OverflowError, TypeError) as error:
        raise CodecError(f"this can't be stored: {error}") from error


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return _mended_text(value)
    if isinstance(value, tuple):
        return tuple(map(_mended, value))
    return value


def _mended_text(text: str) -> str:
    # UTF-16 knows surrogates: pairs of them become the character they mean, the others U+FFFD.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _add(noun_class: type) -> None:
    """Make the shape of ``noun_class``; those of its fields come first."""
    hints = typing.get_type_hints(noun_class)
    names = [field.name for field in attrs.fields(noun_class) if field.name != "kind" or not _tag(noun_class)]
    shapes = {name: _field_shape(noun_class, name, hints[name]) for name in names}
    required = _FIELDS_OF_VERSION_1[noun_class]
    assert len(names) >= required, f"{noun_class.__name__} lost fields that version 1 has"
    defaults = {field.name: field.default for field in attrs.fields(noun_class)}
    stored = msgspec.defstruct(
        noun_class.__name__,
        [
            (name, shapes[name].stored) if index < required else (name, shapes[name].stored, defaults[name])
            for index, name in enumerate(names)
        ],
        array_like=True, forbid_unknown_fields=True, frozen=True, gc=False,
        tag=_tag(noun_class), tag_field="kind" if _tag(noun_class) else None,
    )  # fmt: skip
    _shapes[noun_class] = _Shape(
        stored,
        _noun_pack(noun_class, names, shapes),
        _noun_unpack(noun_class, names, shapes),
        msgspec.msgpack.Decoder(stored),
        noun_class.__name__,
    )


def _tag(noun_class: type) -> str | None:
    """The ``kind`` of a union's member: the same for all of the class."""
    hint = typing.get_type_hints(noun_class).get("kind")
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Literal else None


def _noun_pack(noun_class: type, names: list[str], shapes: dict[str, _Shape]) -> _Pack:
    get, tag = operator.attrgetter(*names), _tag(noun_class)
    converted = [(index, shapes[name].pack) for index, name in enumerate(names) if shapes[name].pack]
    single = len(names) == 1
    if not (converted or single or tag):
        return lambda noun, _outlet: get(noun)

    def pack(noun: Any, outlet: _Outlet | None) -> tuple[Any, ...]:
        fields: Any = (get(noun),) if single else get(noun)
        if converted:
            fields = list(fields)
            for index, convert in converted:
                fields[index] = convert(fields[index], outlet)
        return (tag, *fields) if tag else tuple(fields)

    return pack


def _noun_unpack(noun_class: type, names: list[str], shapes: dict[str, _Shape]) -> _Unpack:
    get = operator.attrgetter(*names)
    converted = [(index, shapes[name].unpack) for index, name in enumerate(names) if shapes[name].unpack]
    single = len(names) == 1

    def unpack(stored: Any, find: _Find) -> Any:
        fields = [get(stored)] if single else list(get(stored))
        for index, convert in converted:
            fields[index] = convert(fields[index], find)
        return noun_class(*fields)

    return unpack


def _field_shape(noun_class: type, name: str, hint: Any) -> _Shape:
    what = _PAYLOADS.get((noun_class, name))
    return _type_shape(hint) if what is None else _payload_shape(hint, what)


def _type_shape(hint: Any) -> _Shape:
    if hint in _shapes:
        return _shapes[hint]
    arguments = typing.get_args(hint)
    if isinstance(hint, types.UnionType):
        inner = tuple(argument for argument in arguments if argument is not type(None))
        if len(inner) == 1 and inner[0] in _shapes:
            return _optional(_shapes[inner[0]])
    elif typing.get_origin(hint) is tuple and arguments[-1] is Ellipsis and arguments[0] in _shapes:
        return _many(_shapes[arguments[0]])
    return _Shape(hint, None, None)


def _optional(shape: _Shape) -> _Shape:
    pack, unpack = shape.pack, shape.unpack
    return _Shape(
        shape.stored | None,
        lambda value, outlet: None if value is None else pack(value, outlet),
        lambda stored, find: None if stored is None else unpack(stored, find),
    )


def _many(shape: _Shape) -> _Shape:
    pack, unpack = shape.pack, shape.unpack
    return _Shape(
        tuple[shape.stored, ...],  # type: ignore[name-defined]
        lambda value, outlet: tuple([pack(item, outlet) for item in value]) if value else (),
        lambda stored, find: tuple([unpack(item, find) for item in stored]),
    )


def _union(union: types.UnionType) -> _Shape:
    members = {member: _shapes[member] for member in typing.get_args(union)}
    by_stored = {shape.stored: shape.unpack for shape in members.values()}
    stored: Any = functools.reduce(operator.or_, by_stored)
    return _Shape(
        stored,
        lambda value, outlet: members[type(value)].pack(value, outlet),
        lambda read, find: by_stored[type(read)](read, find),
        msgspec.msgpack.Decoder(stored),
        " or ".join(member.__name__ for member in members),
    )


def _payload_shape(hint: Any, what: str) -> _Shape:
    """A payload, or the reference that stands for it. Images of rows are text; blobs are bytes."""
    is_text = hint is not bytes

    def pack(value: Any, outlet: _Outlet | None) -> Any:
        if outlet is None or value is None or len(value) <= BLOB_BYTES_MIN:
            return value
        return outlet.take(_mended_text(value).encode() if is_text else value, what)

    def unpack(stored: Any, find: _Find) -> Any:
        if type(stored) is not _Reference:
            return stored
        found = find(stored.sha256)
        # Of a text that was cut, the last character may be half there.
        return found.decode("utf-8", "ignore") if is_text else found

    return _Shape(hint | _Reference, pack, unpack)


for _noun_class in (
    Position, Frame, StreamedBody, Trigger, Returned, Raised, Killed, Exited, Interrupted, HostCallError,
    HostCallRequest, HostCallResult, HostCall, LogLine, StatementSnapshot, Transaction, Read, Level, LimitInForce,
    Mutation,
):  # fmt: skip
    _add(_noun_class)
_shapes[Outcome] = _union(Outcome)
_add(Execution)

_EXECUTION = _shapes[Execution]
_COMPLETENESS = [field.name for field in attrs.fields(Execution)].index("completeness")
