"""Values on their way through the sandbox's door, as JSON that keeps their types.

Guest and host exchange JSON. JSON has no bytes, no decimal, no time; so every
value that it lacks travels as an object with one key that begins with ``$``:

    {"$bytes": "aGk="}          base64                       bytes
    {"$decimal": "1.10"}        digits kept                   Decimal
    {"$datetime": "2026-01-02T03:04:05.000006+00:00"}         datetime
    {"$date": "2026-01-02"}  {"$time": "03:04:05+01:00"}      date, time
    {"$duration": [days, seconds, microseconds]}              timedelta
    {"$uuid": "..."}                                          UUID
    {"$interval": [months, days, microseconds]}               Interval: one with months
    {"$range": [lower, upper, "[)"]}  or  {"$range": null}    Range; null is the empty range
    {"$float": "nan"}  "inf"  "-inf"                          float
    {"$int": "18446744073709551616"}                          int beyond 64 bits
    {"$object": {...}}          an object whose only key begins with ``$``

`encode_canonical` gives equal values equal bytes (sorted keys, no white space),
so that a replay compares without parsing. Plain values, by far the most, are
recognised without being copied. ``guest-sdk/PROTOCOL.md`` says the same to guests,
and ``guest-sdk/vectors/values.json`` holds both sides to it.
"""

import base64
import binascii
import datetime
import json
import math
import re
import uuid
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from types import UnionType

import attrs
import msgspec

type_of_plain = frozenset({str, bool, type(None)})
_LISTS = (list, tuple)
_OBJECTS = (dict, Mapping)
"""In this order: to ask an abstract class is dear, and most are a dict."""
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
_INTEGER = re.compile(r"-?[0-9]+", re.ASCII)
DEPTH_MAX = 200
"""Nesting beyond this is refused: no honest value needs it, and C stacks are finite."""


class ValueFormatError(ValueError):
    """A value that can't travel, or bytes that are no value; the message says which and where."""


@attrs.frozen
class Range:
    """A PostgreSQL range."""

    lower: object = None
    """Lower bound, or None when unbounded."""
    upper: object = None
    """Upper bound, or None when unbounded."""
    bounds: str = "[)"
    """``[`` or ``(`` and ``]`` or ``)``."""
    empty: bool = False
    """The empty range has no bounds."""


@attrs.frozen(order=False)
class Interval:
    """A PostgreSQL interval that has months: "1 mon" is no number of days, so no timedelta holds it."""

    months: int = 0
    """Years and months, in months."""
    days: int = 0
    microseconds: int = 0
    """Hours and less, in microseconds."""


def to_json(value: object, depth: int = 0) -> object:
    """Return ``value`` in terms of what JSON has; raise `ValueFormatError` for what can't travel."""
    kind = type(value)
    if kind in type_of_plain:
        return value
    if kind is int:
        return value if INT64_MIN <= value <= INT64_MAX else {"$int": str(value)}  # type: ignore[operator]
    if kind is float:
        return value if math.isfinite(value) else {"$float": str(value)}  # type: ignore[arg-type]
    if depth > DEPTH_MAX:
        raise ValueFormatError(f"a value is nested more than {DEPTH_MAX} deep")
    if isinstance(value, _LISTS):
        return [item if type(item) in type_of_plain else to_json(item, depth + 1) for item in value]
    if isinstance(value, _OBJECTS):
        result: dict[str, object] = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueFormatError(f"an object's key must be text, not {type(key).__name__}")
            result[key] = item if type(item) in type_of_plain else to_json(item, depth + 1)
        if len(result) == 1 and next(iter(result)).startswith("$"):
            return {"$object": result}
        return result
    for known, tag in _TAGS:
        if isinstance(value, known):
            return tag(value)
    raise ValueFormatError(f"a {type(value).__name__} can't pass between function and host")


def _range_to_json(value: Range) -> object:
    if value.empty:
        return {"$range": None}
    return {"$range": [to_json(value.lower), to_json(value.upper), value.bounds]}


_TAGS: tuple[tuple[type | UnionType, Callable[..., object]], ...] = (
    (bytes | bytearray | memoryview, lambda v: {"$bytes": base64.b64encode(v).decode()}),
    (Decimal, lambda v: {"$decimal": str(v)}),
    (datetime.datetime, lambda v: {"$datetime": v.isoformat()}),  # before date: it is one
    (datetime.date, lambda v: {"$date": v.isoformat()}),
    (datetime.time, lambda v: {"$time": v.isoformat()}),
    (datetime.timedelta, lambda v: {"$duration": [v.days, v.seconds, v.microseconds]}),
    (uuid.UUID, lambda v: {"$uuid": str(v)}),
    (Range, _range_to_json),
    (Interval, lambda v: {"$interval": [v.months, v.days, v.microseconds]}),
    (bool, lambda v: bool(v)),
    (int, lambda v: to_json(int(v))),
    (float, lambda v: to_json(float(v))),
    (str, lambda v: str(v)),
)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueFormatError(f"expected text, got {type(value).__name__}")
    return value


def _range_from_json(value: object) -> Range:
    if value is None:
        return Range(empty=True)
    if not (isinstance(value, list) and len(value) == 3 and value[2] in ("[)", "[]", "()", "(]")):
        raise ValueFormatError("$range is null or [lower, upper, bounds]")
    return Range(from_json(value[0]), from_json(value[1]), value[2])


def _three_ints(value: object, form: str) -> list[int]:
    if not (isinstance(value, list) and len(value) == 3 and all(type(part) is int for part in value)):
        raise ValueFormatError(form)
    return value


def _duration_from_json(value: object) -> datetime.timedelta:
    return datetime.timedelta(*_three_ints(value, "$duration is [days, seconds, microseconds]"))


def _interval_from_json(value: object) -> Interval:
    return Interval(*_three_ints(value, "$interval is [months, days, microseconds]"))


def _object_from_json(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ValueFormatError("$object holds an object")
    return {key: from_json(item) for key, item in value.items()}


def _float_from_json(value: object) -> float:
    if value not in ("nan", "inf", "-inf"):
        raise ValueFormatError("$float is nan, inf or -inf")
    return float(_text(value))


def _int_from_json(value: object) -> int:
    if not _INTEGER.fullmatch(_text(value)):
        raise ValueFormatError("$int is digits, with a minus or without")
    return int(_text(value))


_READERS: dict[str, Callable[[object], object]] = {
    "$bytes": lambda v: base64.b64decode(_text(v), validate=True),
    "$decimal": lambda v: Decimal(_text(v)),
    "$datetime": lambda v: datetime.datetime.fromisoformat(_text(v)),
    "$date": lambda v: datetime.date.fromisoformat(_text(v)),
    "$time": lambda v: datetime.time.fromisoformat(_text(v)),
    "$duration": _duration_from_json,
    "$interval": _interval_from_json,
    "$uuid": lambda v: uuid.UUID(_text(v)),
    "$range": _range_from_json,
    "$float": _float_from_json,
    "$int": _int_from_json,
    "$object": _object_from_json,
}


def from_json(value: object) -> object:
    """Return the value that `to_json` was given; raise `ValueFormatError` for a malformed tag."""
    kind = type(value)
    if kind is dict:
        items: dict[str, object] = value  # type: ignore[assignment]
        if len(items) == 1:
            ((tag, inner),) = items.items()
            if tag.startswith("$"):
                return _read_tag(tag, inner)
        return {key: from_json(item) for key, item in items.items()}
    if kind is list:
        return [from_json(item) for item in value]  # type: ignore[attr-defined]
    return value


def _read_tag(tag: str, inner: object) -> object:
    reader = _READERS.get(tag)
    if reader is None:
        raise ValueFormatError(f"unknown tag {tag!r}; a plain object with this key travels in $object")
    try:
        return reader(inner)
    except (ValueError, InvalidOperation, binascii.Error, OverflowError) as error:
        if isinstance(error, ValueFormatError):
            raise
        raise ValueFormatError(f"{tag} holds {str(inner)[:60]!r}: {error}") from error


_decoder = msgspec.json.Decoder()
_encoder = msgspec.json.Encoder()
_canonical_encoder = msgspec.json.Encoder(order="deterministic")


def encode(value: object) -> bytes:
    """Return ``value`` as JSON; an object's keys keep their order."""
    try:
        return _encoder.encode(to_json(value))
    except ValueFormatError:
        raise
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        # ValueError: half a character, or an integer of more digits than Python writes.
        raise ValueFormatError(f"this value can't be written as JSON: {error}") from error


def encode_canonical(value: object) -> bytes:
    """Return ``value`` as JSON in its one canonical form: equal values, equal bytes."""
    try:
        return _canonical_encoder.encode(to_json(value))
    except ValueFormatError:
        raise
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        # ValueError: half a character, or an integer of more digits than Python writes.
        raise ValueFormatError(f"this value can't be written as JSON: {error}") from error


def encode_json(document: object) -> bytes:
    """Return what `decode_json` gave, as JSON again; an object's keys keep their order."""
    return _encoder.encode(document)


def encode_json_canonical(document: object) -> bytes:
    """The same in the canonical form."""
    return _canonical_encoder.encode(document)


def decode(data: bytes) -> object:
    """Return the value in ``data``; raise `ValueFormatError` when it is none."""
    try:
        return from_json(_decoder.decode(data))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ValueFormatError(f"this is not JSON: {error}") from error


def decode_json(data: bytes) -> object:
    """Return ``data`` as JSON with the tags left as they are: for showing, not for using."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ValueFormatError(f"this is not JSON: {error}") from error


def read_scalar(value: object) -> str | None:
    """Return the text of a text, a number or a tagged value, as it is in JSON; None for anything else."""
    match value:
        case str():
            return value
        case int() | float() if not isinstance(value, bool):
            return json.dumps(value)
        case dict() if len(value) == 1:
            ((tag, inner),) = value.items()
            return inner if tag.startswith("$") and isinstance(inner, str) else None
    return None


def text_or_bytes(data: bytes) -> str | bytes:
    """Return ``data`` as text when it is UTF-8, else as it is: bodies stay readable and exact."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data
