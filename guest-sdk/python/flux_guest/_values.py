"""Values on the wire: JSON with tags for what JSON lacks. See PROTOCOL.md, "Values"."""

import base64
import dataclasses
import datetime
import enum
import json
import math
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

_PLAIN = (str, bool, type(None))
_INTEGER = re.compile(r"-?[0-9]+", re.ASCII)


@dataclass(frozen=True)
class Range:
    """A PostgreSQL range: ``lower`` and ``upper`` (None: unbounded), ``bounds`` such as ``[)``."""

    lower: Any = None
    upper: Any = None
    bounds: str = "[)"
    empty: bool = False


@dataclass(frozen=True)
class Interval:
    """A PostgreSQL interval that has months, which no `datetime.timedelta` can hold."""

    months: int = 0
    days: int = 0
    microseconds: int = 0


DEPTH_MAX = 200
"""PROTOCOL.md's; the host refuses what is nested deeper."""


def to_json(value: Any, depth: int = 0) -> Any:
    """Return ``value`` in terms of what JSON has; raise TypeError or ValueError for what can't travel."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if isinstance(value, bool):
        return bool(value)
    if isinstance(value, int):
        number = int(value)
        return number if -(2**63) <= number < 2**63 else {"$int": str(number)}
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"$float": str(float(value))}
    if isinstance(value, str):
        return str(value)
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"an object's key must be text, not {type(key).__name__}")
        if depth >= DEPTH_MAX:
            raise ValueError(f"a value nested more than {DEPTH_MAX} deep can't be passed to the host")
        result = {str(key): to_json(item, depth + 1) for key, item in value.items()}
        if len(result) == 1 and next(iter(result)).startswith("$"):
            return {"$object": result}
        return result
    if isinstance(value, list | tuple):
        if depth >= DEPTH_MAX:
            raise ValueError(f"a value nested more than {DEPTH_MAX} deep can't be passed to the host")
        return [to_json(item, depth + 1) for item in value]
    if isinstance(value, bytes | bytearray | memoryview):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, Decimal):
        return {"$decimal": str(value)}
    if isinstance(value, datetime.datetime):
        return {"$datetime": value.isoformat()}
    if isinstance(value, datetime.date):
        return {"$date": value.isoformat()}
    if isinstance(value, datetime.time):
        return {"$time": value.isoformat()}
    if isinstance(value, datetime.timedelta):
        return {"$duration": [value.days, value.seconds, value.microseconds]}
    if isinstance(value, uuid.UUID):
        return {"$uuid": str(value)}
    if isinstance(value, Interval):
        return {"$interval": [value.months, value.days, value.microseconds]}
    if isinstance(value, Range):
        if value.empty:
            return {"$range": None}
        return {"$range": [to_json(value.lower), to_json(value.upper), value.bounds]}
    raise TypeError(f"a {type(value).__name__} can't be passed to the host")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected text, got {type(value).__name__}")
    return value


def _three_integers(tag: str, value: Any) -> list[int]:
    if not (isinstance(value, list) and len(value) == 3 and all(type(part) is int for part in value)):
        raise ValueError(f"{tag} holds three integers")
    return value


def _read_float(value: Any) -> float:
    if value not in ("nan", "inf", "-inf"):
        raise ValueError("$float is nan, inf or -inf")
    return float(value)


def _read_int(value: Any) -> int:
    if not _INTEGER.fullmatch(_text(value)):
        raise ValueError("$int is digits, with a minus or without")
    return int(value)


def _read_object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("$object holds an object")
    return {key: from_json(item) for key, item in value.items()}


def _read_range(value: Any) -> Range:
    if value is None:
        return Range(empty=True)
    if not (isinstance(value, list) and len(value) == 3 and value[2] in ("[)", "[]", "()", "(]")):
        raise ValueError("$range is null or [lower, upper, bounds]")
    return Range(from_json(value[0]), from_json(value[1]), value[2])


_READERS: dict[str, Callable[[Any], Any]] = {
    "$bytes": lambda v: base64.b64decode(_text(v), validate=True),
    "$decimal": lambda v: Decimal(_text(v)),
    "$datetime": lambda v: datetime.datetime.fromisoformat(_text(v)),
    "$date": lambda v: datetime.date.fromisoformat(_text(v)),
    "$time": lambda v: datetime.time.fromisoformat(_text(v)),
    "$duration": lambda v: datetime.timedelta(*_three_integers("$duration", v)),
    "$interval": lambda v: Interval(*_three_integers("$interval", v)),
    "$uuid": lambda v: uuid.UUID(_text(v)),
    "$float": _read_float,
    "$int": _read_int,
    "$object": _read_object,
    "$range": _read_range,
}


def from_json(value: Any) -> Any:
    """Return the value that the host meant; raise ValueError for a malformed tag."""
    kind = type(value)
    if kind is dict:
        if len(value) == 1:
            ((key, inner),) = value.items()
            if key.startswith("$"):
                return _read_tag(key, inner)
        return {key: from_json(item) for key, item in value.items()}
    if kind is list:
        return [from_json(item) for item in value]
    return value


def _read_tag(tag: str, inner: Any) -> Any:
    reader = _READERS.get(tag)
    if reader is None:
        raise ValueError(f"unknown tag {tag!r} from the host")
    try:
        return reader(inner)
    except (InvalidOperation, OverflowError) as error:
        raise ValueError(f"{tag} holds {str(inner)[:60]!r}: {error}") from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_decoder = json.JSONDecoder(parse_constant=_refuse_constant)


def encode(value: Any) -> str:
    """Return ``value`` as one line of JSON; raise TypeError or ValueError for what can't travel."""
    text = _encoder.encode(to_json(value))
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            # UTF-8 has no form for it, and the host would end the function for a malformed frame.
            message = "text with half a character (a lone surrogate) can't be passed to the host"
            raise ValueError(message) from None
    return text


def printable(text: str) -> str:
    """Return ``text`` with halves of characters written as escapes: for logs and messages."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def decode(text: str) -> Any:
    """Return ``text`` as JSON, tags left as they are; raise ValueError when it is none."""
    return _decoder.decode(text)


def default_for_body(value: Any) -> Any:
    """How a body shows what JSON lacks: as the text that people expect in an API."""
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, Decimal | uuid.UUID):
        return str(value)
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(f"{named(value)} can't be written as JSON; convert it first")


def named(value: Any) -> str:
    """Return the class of ``value`` with its article: ``a set``, ``an object``."""
    name = type(value).__name__
    return f"{'an' if name[:1] in 'aeioAEIO' else 'a'} {name}"


def encode_plain(value: Any) -> str:
    """Return ``value`` as plain JSON without tags; raise TypeError or ValueError for what has no form in it."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=default_for_answer)


def default_for_answer(value: Any) -> Any:
    """The same for what a function answers with, in which its own classes may stand."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    fields = getattr(type(value), "__attrs_attrs__", None)
    if fields is not None:
        return {field.name: getattr(value, field.name) for field in fields}
    if isinstance(value, enum.Enum):
        return value.value
    return default_for_body(value)
