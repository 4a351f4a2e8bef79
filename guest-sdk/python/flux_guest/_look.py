"""Values as they are, without asking them: nothing of the project's runs.

Whoever steps through an execution wants to see what its names held, and an execution that is looked at must go on as
it would have. So no ``__repr__``, ``__str__``, ``__eq__``, ``__len__``, property or other descriptor of a class of the
project is called here: `render` and `find` read containers through the methods of the built-in types, slots through
the descriptors that the interpreter made, and an instance's dictionary through the interpreter's own door. Whether
a value is of a type is asked of its type: ``isinstance`` would ask the value.

What comes out is JSON: what JSON has is itself, all else is an object with ``$type``. It has bounds, and says where
it was cut: ``length`` is there wherever not all is.
"""

import datetime
import itertools
import math
import types
import uuid
from collections.abc import Iterable
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from flux_guest._values import printable

TEXT_CHARACTERS_MAX = 200
ITEMS_MAX = 20
DEPTH_MAX = 5
SPENT_MAX = 20_000
"""Characters and values of one `Look`."""
INTEGER_BITS_MAX = 2_000
"""Fewer digits than the least that a function can have Python refuse to write out (``sys.set_int_max_str_digits``)."""
_INTEGER_EXACT = 2**53
"""Beyond it, readers of JSON may lose digits."""
_OURS = "flux_guest"

_get_mro = type.__dict__["__mro__"].__get__
_get_namespace = type.__dict__["__dict__"].__get__
_get_qualname = type.__dict__["__qualname__"].__get__
_get_args = BaseException.__dict__["args"].__get__
_get_uuid_number = uuid.UUID.__dict__["int"].__get__
_get_function_name = types.FunctionType.__dict__["__qualname__"].__get__
# A module's names are anybody's to change, and what stands there then would be asked.
_isfinite = math.isfinite
_DATETIME, _DATE, _TIME = datetime.datetime, datetime.date, datetime.time
_TIMEDELTA, _TIMEZONE = datetime.timedelta, datetime.timezone
_MISSING = object()
_PLAIN = (bool, int, float, str, bytes, type(None), Decimal)


class Unseen(Exception):
    """There is no such value, or seeing it would run code; the message says which."""


def is_of(value: Any, kind: type) -> bool:
    """Whether ``value`` is of ``kind``, a built-in type, or of one below it. ``isinstance`` asks the value itself."""
    return issubclass(type(value), kind)


def _is_one_of(kind: type, *kinds: type) -> bool:
    # `in` would ask the class, by `==`, when it is none of them.
    return any(kind is each for each in kinds)


def name_type(kind: type) -> str:
    """Return a class's name; a metaclass has no say in it."""
    return printable(str.__str__(_get_qualname(kind)))


class Look:
    """Renders values, with one budget for all of them."""

    def __init__(self, spent_max: int = SPENT_MAX) -> None:
        self._left = spent_max

    def render(self, value: Any, depth: int = 0) -> Any:
        """Return ``value`` as JSON has it; see the module."""
        self._left -= 1
        kind = type(value)
        if kind is bool or value is None:
            return value
        if self._left <= 0:
            return {"$type": name_type(kind), "cut": True}
        if issubclass(kind, str):
            return self._text(kind, str.__str__(value))
        if issubclass(kind, int):
            return self._integer(kind, value)
        if issubclass(kind, float):
            number = float.__float__(value)
            if not _isfinite(number):
                return {"$type": name_type(kind), "text": str(number)}
            return number if kind is float else {"$type": name_type(kind), "value": number}
        for base in (bytes, bytearray):
            if issubclass(kind, base):
                return self._bytes(kind, base, value)
        if depth >= DEPTH_MAX:
            return {"$type": name_type(kind), "cut": True}
        if issubclass(kind, dict):
            return self._mapping(kind, value, depth)
        for container in (list, tuple, set, frozenset):
            if issubclass(kind, container):
                return self._items(kind, container, value, depth)
        return self._object(kind, value, depth)

    def _text(self, kind: type, text: str) -> Any:
        shown = printable(text[:TEXT_CHARACTERS_MAX])
        self._left -= len(shown)
        if len(text) > TEXT_CHARACTERS_MAX:
            return {"$type": name_type(kind), "text": shown, "length": len(text)}
        return shown if kind is str else {"$type": name_type(kind), "text": shown}

    def _integer(self, kind: type, value: int) -> Any:
        number = int.__index__(value)
        if number.bit_length() > INTEGER_BITS_MAX:
            return {"$type": name_type(kind), "text": f"{number.bit_length():,} bits", "cut": True}
        if not -_INTEGER_EXACT < number < _INTEGER_EXACT:
            text = str(number)
            self._left -= len(text)
            return {"$type": name_type(kind), "text": text}
        return number if kind is int else {"$type": name_type(kind), "value": number}

    def _bytes(self, kind: type, base: Any, value: Any) -> Any:
        start = bytes(base.__getitem__(value, slice(0, TEXT_CHARACTERS_MAX)))
        self._left -= len(start)
        return {"$type": name_type(kind), "text": repr(start)[2:-1], "length": base.__len__(value)}

    def _items(self, kind: type, base: Any, value: Any, depth: int) -> Any:
        length = base.__len__(value)
        shown = [self.render(item, depth + 1) for item in _first(base.__iter__(value))]
        if kind is list and length == len(shown):
            return shown
        return {"$type": name_type(kind), "items": shown, **({"length": length} if length > len(shown) else {})}

    def _mapping(self, kind: type, value: Any, depth: int) -> Any:
        pairs = [(key, self.render(item, depth + 1)) for key, item in _first(dict.items(value))]
        length = dict.__len__(value)
        cut = {"length": length} if length > len(pairs) else {}
        if all(type(key) is str and len(key) <= TEXT_CHARACTERS_MAX and key[:1] != "$" for key, _ in pairs):
            shown = {printable(key): item for key, item in pairs}
            return shown if kind is dict and not cut else {"$type": name_type(kind), "fields": shown, **cut}
        return {"$type": name_type(kind), "pairs": [[self.render(key, depth + 1), item] for key, item in pairs], **cut}

    def _object(self, kind: type, value: Any, depth: int) -> Any:
        name = name_type(kind)
        if (text := _tell_known(kind, value)) is not None:
            self._left -= len(text)
            return {"$type": name, "text": text}
        if issubclass(kind, type):
            return {"$type": "type", "name": name_type(value)}
        if kind is types.FunctionType:
            return {"$type": "function", "name": printable(str.__str__(_get_function_name(value)))}
        shown: dict[str, Any] = {"$type": name}
        if issubclass(kind, BaseException):
            shown["args"] = self.render(list(_get_args(value)), depth + 1)
        fields = [] if _is_opaque(kind) else list(_first(_list_fields(kind, value)))
        if fields:
            shown["fields"] = {printable(key): self.render(item, depth + 1) for key, item in fields}
        return shown


def _first(found: Iterable[Any]) -> Iterable[Any]:
    # zip with a range ends before it takes one more.
    return [item for _, item in zip(range(ITEMS_MAX), found, strict=False)]


def _tell_known(kind: type, value: Any) -> str | None:
    """Return the text of what the standard library alone has made, or None."""
    if kind is Decimal:
        return str(value)
    if _is_one_of(kind, _DATETIME, _TIME):
        # An offset is asked of the zone, which may be a class of the project's.
        return str(value) if _is_one_of(type(value.tzinfo), type(None), _TIMEZONE, ZoneInfo) else None
    if _is_one_of(kind, _DATE, _TIMEDELTA):
        return str(value)
    return _tell_uuid(value) if kind is uuid.UUID else None


def _tell_uuid(value: uuid.UUID) -> str | None:
    # Its own `str` asks whatever was put in the place of its number.
    try:
        number = _get_uuid_number(value)
    except AttributeError:
        return None
    if type(number) is not int or not 0 <= number < 1 << 128:
        return None
    digits = f"{number:032x}"
    return "-".join(digits[start:end] for start, end in itertools.pairwise((0, 8, 12, 16, 20, 32)))


def _is_opaque(kind: type) -> bool:
    """Whether the inside of a value is ours or the interpreter's, and tells nothing of the function."""
    module = _find_own(kind, "__module__")
    return type(module) is not str or module.partition(".")[0] == _OURS


def _find_in_class(kind: type, name: str) -> Any:
    for each in _get_mro(kind):
        found = _find_own(each, name)
        if found is not _MISSING:
            return found
    return _MISSING


def _find_own(kind: type, name: str) -> Any:
    """Return what a class itself has of this name. Looking it up would ask keys that the project made."""
    return next((item for key, item in _get_namespace(kind).items() if type(key) is str and key == name), _MISSING)


def _get_dictionary(kind: type, value: Any) -> dict[Any, Any]:
    """Return an instance's own dictionary, or an empty one. A class's property of this name is passed by."""
    for each in _get_mro(kind):
        door = _find_own(each, "__dict__")
        # Another class's descriptor under this name would be asked for what it is of, which may be code.
        is_own = type(door) is types.GetSetDescriptorType and door.__objclass__ is each and door.__name__ == "__dict__"
        if is_own and each is not type:
            try:
                found = door.__get__(value)
            except (AttributeError, TypeError):
                return {}
            return found if is_of(found, dict) else {}
    return {}


def _list_fields(kind: type, value: Any) -> Iterable[tuple[str, Any]]:
    for key, item in dict.items(_get_dictionary(kind, value)):
        if type(key) is str:
            yield key, item
    for each in _get_mro(kind):
        for name, door in _get_namespace(each).items():
            if type(door) is types.MemberDescriptorType and type(name) is str and not name.startswith("__"):
                try:
                    item = door.__get__(value)
                except (AttributeError, TypeError):
                    continue  # A slot that was never set, or another class's.
                yield name, item


# --- the value that an expression names ------------------------------------------------------------


def find(expression: list[Any], names: Any) -> Any:
    """Return what a parsed expression (PROTOCOL.md, "Tracing") has for value among ``names``; raise `Unseen`."""
    match expression:
        case ["name", name]:
            if name not in names:
                raise Unseen(f"no {name} yet")
            return names[name]
        case ["literal", value]:
            return value
        case ["attribute", inner, name]:
            return _find_attribute(find(inner, names), name)
        case ["item", inner, key]:
            return _find_item(find(inner, names), key)
        case ["length", inner]:
            return _measure(find(inner, names))
        case ["not", inner]:
            return not _is_true(find(inner, names))
        case ["and", *parts]:
            return all(_is_true(find(part, names)) for part in parts)
        case ["or", *parts]:
            return any(_is_true(find(part, names)) for part in parts)
        case ["compare", sign, left, right]:
            return _compare(sign, find(left, names), find(right, names))
    raise Unseen("no expression that this guest knows")


def _find_attribute(value: Any, name: str) -> Any:
    kind = type(value)
    for key, item in dict.items(_get_dictionary(kind, value)):
        if type(key) is str and key == name:
            return item
    found = _find_in_class(kind, name)
    if found is _MISSING:
        raise Unseen(f"a {name_type(kind)} has no {name}")
    if type(found) is types.MemberDescriptorType:
        try:
            return found.__get__(value)
        except (AttributeError, TypeError):
            raise Unseen(f"{name} was never set") from None
    if _find_in_class(type(found), "__get__") is not _MISSING:
        raise Unseen(f"{name} is computed: reading it would run code")
    return found


def _find_item(value: Any, key: Any) -> Any:
    if is_of(value, dict):
        # Looking it up would compare it with keys of the project's.
        for known, item in dict.items(value):
            if type(known) is type(key) and known == key:
                return item
        raise Unseen(f"no key {key!r}")
    for base in (list, tuple, str, bytes):
        if is_of(value, base):
            if type(key) is not int:
                raise Unseen(f"a {base.__name__} has no key {key!r}")
            try:
                return base.__getitem__(value, key)
            except IndexError:
                raise Unseen(f"no index {key}") from None
    raise Unseen(f"reading an item of a {name_type(type(value))} would run code")


def _measure(value: Any) -> int:
    for base in (dict, list, tuple, set, frozenset, str, bytes, bytearray):
        if is_of(value, base):
            return int(base.__len__(value))
    raise Unseen(f"the length of a {name_type(type(value))} would run code")


def _is_true(value: Any) -> bool:
    if _is_one_of(type(value), *_PLAIN):
        return bool(value)
    return _measure(value) > 0


def _compare(sign: str, left: Any, right: Any) -> bool:
    if sign in ("is", "is not"):
        return (left is right) == (sign == "is")
    for kind in (type(left), type(right)):
        if not _is_one_of(kind, *_PLAIN):
            raise Unseen(f"comparing a {name_type(kind)} would run code")
    try:
        match sign:
            case "==":
                return bool(left == right)
            case "!=":
                return bool(left != right)
            case "<":
                return bool(left < right)
            case "<=":
                return bool(left <= right)
            case ">":
                return bool(left > right)
            case ">=":
                return bool(left >= right)
    except (TypeError, ArithmeticError):
        raise Unseen(f"a {type(left).__name__} and a {type(right).__name__} have no order") from None
    raise Unseen(f"no comparison {sign}")
