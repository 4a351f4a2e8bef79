"""Values on the wire: JSON with tags for what JSON lacks. See PROTOCOL.md, "Values"."""

import base64
import datetime
import json
import math
import uuid
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

_PLAIN = (str, bool, type(None))


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


def to_json(value: Any) -> Any:
    """Return ``value`` in terms of what JSON has; raise TypeError for what can't travel."""
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
        result = {key: to_json(item) for key, item in value.items()}
        if len(result) == 1 and next(iter(result)).startswith("$"):
            return {"$object": result}
        return result
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
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


_READERS: dict[str, Any] = {
    "$bytes": lambda v: base64.b64decode(v, validate=True),
    "$decimal": Decimal,
    "$datetime": datetime.datetime.fromisoformat,
    "$date": datetime.date.fromisoformat,
    "$time": datetime.time.fromisoformat,
    "$duration": lambda v: datetime.timedelta(*v),
    "$interval": lambda v: Interval(*v),
    "$uuid": uuid.UUID,
    "$float": float,
    "$int": int,
    "$object": lambda v: {key: from_json(item) for key, item in v.items()},
    "$range": lambda v: Range(empty=True) if v is None else Range(from_json(v[0]), from_json(v[1]), v[2]),
}


def from_json(value: Any) -> Any:
    """Return the value that the host meant."""
    kind = type(value)
    if kind is dict:
        if len(value) == 1:
            ((key, inner),) = value.items()
            if key in _READERS:
                return _READERS[key](inner)
            if key.startswith("$"):
                raise ValueError(f"unknown tag {key!r} from the host")
        return {key: from_json(item) for key, item in value.items()}
    if kind is list:
        return [from_json(item) for item in value]
    return value


_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_decoder = json.JSONDecoder()


def encode(value: Any) -> str:
    """Return ``value`` as one line of JSON."""
    return _encoder.encode(to_json(value))


def decode(text: str) -> Any:
    """Return ``text`` as JSON, tags left as they are."""
    return _decoder.decode(text)


def default_for_body(value: Any) -> Any:
    """How a response body shows what JSON lacks: as the text that people expect in an API."""
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, Decimal | uuid.UUID):
        return str(value)
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(f"a {type(value).__name__} can't be answered as JSON; convert it first")


def encode_body(value: Any) -> str:
    """Return a response body's JSON text; raise TypeError or ValueError for what JSON lacks."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, default=default_for_body)
