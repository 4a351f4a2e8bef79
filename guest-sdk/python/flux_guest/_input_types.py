"""What the types of an input mean: one reader for each, which turns JSON into the type and says what is wrong with it.

A reader is made of a type once, when the code is loaded (`make_reader`), so a type that no JSON can become is found
then. Reading goes on after the first violation: whoever sends an input hears of all of them at once. A reader
also says what it reads as JSON Schema, for the description of the routes.

Where JSON is the sender's, types are strict: ``"5"`` is no int. Text of a path, a query or a form is always text, so
there it may stand for a number, a bool and so on (``lax``), if that is what is declared.
"""

import collections
import collections.abc
import dataclasses
import datetime
import enum
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, Union, get_args, get_origin

import msgspec

from flux_guest import _values

VIOLATIONS_MAX = 100
DEFS = "#/$defs/"


@dataclass
class Found:
    """What is wrong, as far as it was looked for."""

    violations: list[dict[str, str]] = field(default_factory=list)

    def add(self, path: str, message: str) -> None:
        """Note a violation; beyond the most that are told it is dropped."""
        if len(self.violations) < VIOLATIONS_MAX:
            self.violations.append({"path": path, "message": message})

    @property
    def is_full(self) -> bool:
        """Nobody would hear of more."""
        return len(self.violations) >= VIOLATIONS_MAX


class Reader(Protocol):
    """Turns JSON into one type."""

    def read(self, value: Any, path: str, found: Found, lax: bool) -> Any:
        """Return ``value`` as the type; what is wrong with it goes into ``found``, and the answer is then of no use."""

    def describe(self, defs: dict[str, Any]) -> dict[str, Any]:
        """Return its JSON Schema. Classes go into ``defs``, and are referred to."""


def name_json(value: Any) -> str:
    """Return what a JSON value is, as JSON calls it."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case list():
            return "an array"
    return "an object"


class _Anything:
    def read(self, value: Any, path: str, found: Found, lax: bool) -> Any:  # noqa: ARG002 - the protocol's
        return value

    def describe(self, defs: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002 - the protocol's
        return {}


_SCALARS: dict[Any, dict[str, Any]] = {
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
}


_FORMATS: dict[Any, str] = {datetime.datetime: "date-time", datetime.time: "time"}
"""msgspec names no format of those that may lack an offset."""


@dataclass
class _Leaf:
    """A type that msgspec reads."""

    kind: Any

    def read(self, value: Any, path: str, found: Found, lax: bool) -> Any:
        try:
            return msgspec.convert(value, self.kind, strict=not (lax and isinstance(value, str)))
        except msgspec.ValidationError as error:
            message, _, inner = str(error).partition(" - at `$")
            found.add(path + inner.rstrip("`"), message[:1].lower() + message[1:].replace("`", ""))
        return None

    def describe(self, defs: dict[str, Any]) -> dict[str, Any]:
        known = _SCALARS.get(self.kind)
        if known is not None:
            return dict(known)
        schema = msgspec.json.schema(self.kind, ref_template=DEFS + "{name}")
        defs.update(schema.pop("$defs", {}))
        if (said := _FORMATS.get(_strip(self.kind))) is not None:
            schema.setdefault("format", said)
        return schema


@dataclass
class _Choice:
    """Some values and no others: a Literal, an Enum."""

    value_of_json: list[tuple[Any, Any]]

    def read(self, value: Any, path: str, found: Found, lax: bool) -> Any:
        for said, meant in self.value_of_json:
            # 1 and True are equal, and not the same.
            if (type(said) is type(value) and said == value) or (lax and isinstance(value, str) and str(said) == value):
                return meant
        choices = ", ".join(_shown(said) for said, _ in self.value_of_json)
        found.add(path, f"expected one of {choices}, got {_shown(value)}")
        return None

    def describe(self, defs: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002 - the protocol's
        return {"enum": [said for said, _ in self.value_of_json]}


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return f'"{value}"' if len(value) <= 50 else "other text"
    return name_json(value) if isinstance(value, dict | list) else "null" if value is None else str(value).lower()


@dataclass
class _Union:
    members: list[Reader]
    names: list[str]

    def read(self, value: Any, path: str, found: Found, lax: bool) -> Any:
        tried: list[Found] = []
        is_chosen = isinstance(value, dict) and sum(isinstance(member, ClassReader) for member in self.members) > 1
        for member in self.members:
            # A class that is not meant is not looked at: with classes in one another, each level would double the work.
            if is_chosen and isinstance(member, ClassReader) and not member.may_be_meant(value):
                continue
            attempt = Found()
            result = member.read(value, path, attempt, lax)
            if not attempt.violations:
                return result
            if not _is_none(member):
                tried.append(attempt)
        # A member that refuses what it is given as such says so at this very path.
        inside = [attempt for attempt in tried if all(item["path"] != path for item in attempt.violations)]
        is_one_and_null = len(tried) == 1 == sum(not _is_none(member) for member in self.members)
        closest = inside[0] if len(inside) == 1 else tried[0] if is_one_and_null and value is not None else None
        if closest is None:
            found.add(path, f"expected {' or '.join(self.names)}, got {name_json(value)}")
        else:
            for violation in closest.violations:
                found.add(**violation)
        return None

    def describe(self, defs: dict[str, Any]) -> dict[str, Any]:
        return {"anyOf": [member.describe(defs) for member in self.members]}


def _is_none(reader: Reader) -> bool:
    return isinstance(reader, _Leaf) and reader.kind is type(None)


@dataclass
class _Array:
    """Arrays, as whatever Python has for them."""

    make: Callable[[list[Any]], Any]
    item: Reader
    limits: Any
    is_unique: bool = False

    def read(self, value: Any, path: str, found: Found, lax: bool) -> Any:
        if not isinstance(value, list):
            found.add(path, f"expected an array, got {name_json(value)}")
            return None
        _check_limits(self.limits, list[Any], value, path, found)
        items = []
        for index, item in enumerate(value):
            if found.is_full:
                return None
            items.append(self.item.read(item, f"{path}[{index}]", found, lax))
        if found.violations:
            return None
        try:
            return self.make(items)
        except TypeError as error:  # A set of what has no hash.
            found.add(path, str(error))
            return None

    def describe(self, defs: dict[str, Any]) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": "array", "items": self.item.describe(defs)}
        if self.is_unique:
            schema["uniqueItems"] = True
        return schema | _describe_limits(self.limits, list[Any])


@dataclass
class _Tuple:
    items: list[Reader]

    def read(self, value: Any, path: str, found: Found, lax: bool) -> Any:
        if not isinstance(value, list) or len(value) != len(self.items):
            got = f"an array of {len(value)}" if isinstance(value, list) else name_json(value)
            found.add(path, f"expected an array of {len(self.items)}, got {got}")
            return None
        pairs = enumerate(zip(self.items, value, strict=True))
        return tuple(reader.read(item, f"{path}[{index}]", found, lax) for index, (reader, item) in pairs)

    def describe(self, defs: dict[str, Any]) -> dict[str, Any]:
        count = len(self.items)
        items = [reader.describe(defs) for reader in self.items]
        return {"type": "array", "prefixItems": items, "items": False, "minItems": count, "maxItems": count}


@dataclass
class _Dict:
    key: Reader
    value: Reader
    limits: Any

    def read(self, value: Any, path: str, found: Found, lax: bool) -> Any:
        if not isinstance(value, dict):
            found.add(path, f"expected an object, got {name_json(value)}")
            return None
        _check_limits(self.limits, dict[Any, Any], value, path, found)
        result = {}
        for name, item in value.items():
            if found.is_full:
                return None
            before = len(found.violations)
            key = self.key.read(name, f"{path}.{name}", found, True)  # Names are always text.
            item = self.value.read(item, f"{path}.{name}", found, lax)
            if len(found.violations) == before:
                try:
                    result[key] = item
                except TypeError as error:
                    found.add(f"{path}.{name}", str(error))
        return result

    def describe(self, defs: dict[str, Any]) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": "object", "additionalProperties": self.value.describe(defs)}
        return schema | _describe_limits(self.limits, dict[Any, Any])


def _check_limits(limits: Any, plain: Any, value: Any, path: str, found: Found) -> None:
    if limits is not None:
        _Leaf(typing.Annotated[plain, limits]).read(value, path, found, lax=False)


def _describe_limits(limits: Any, plain: Any) -> dict[str, Any]:
    if limits is None:
        return {}
    schema = msgspec.json.schema(typing.Annotated[plain, limits])
    return {name: value for name, value in schema.items() if name not in ("type", "items", "additionalProperties")}


@dataclass
class Field:
    """A field of a class."""

    name: str
    reader: Reader
    is_required: bool
    default: Any
    """Its default where that has a form in JSON, else `NO_DEFAULT`."""


NO_DEFAULT = object()


@dataclass
class ClassReader:
    """A dataclass or an attrs class."""

    kind: Any
    name: str
    """What it is called in descriptions: its own name, with a number where others have it too."""
    fields: list[Field] = field(default_factory=list)

    def read(self, value: Any, path: str, found: Found, lax: bool) -> Any:
        if not isinstance(value, dict):
            found.add(path, f"expected an object, got {name_json(value)}")
            return None
        return self.build(value, path, found, lambda _field: lax)

    def build(self, value: dict[str, Any], path: str, found: Found, is_lax: Callable[[Field], bool]) -> Any:
        """Read an object whose fields are lax one by one. Names that the class does not have are passed over."""
        before = len(found.violations)
        accepted: dict[str, Any] = {}
        for one in self.fields:
            if found.is_full:
                return None
            if one.name in value:
                accepted[one.name] = one.reader.read(value[one.name], f"{path}.{one.name}", found, is_lax(one))
            elif one.is_required:
                found.add(f"{path}.{one.name}", "is required")
        if len(found.violations) > before:
            return None
        try:
            return self.kind(**accepted)
        except (ValueError, TypeError) as error:  # A converter, a validator or a __post_init__ of the user's refuses.
            found.add(path, str(error) or type(error).__name__)
            return None

    def may_be_meant(self, value: dict[str, Any]) -> bool:
        """Whether an object can be of this class rather than of another: its fields of one value have that value.

        Without such fields, those that are required are there.
        """
        tags = [
            (one.name, one.reader.value_of_json[0][0])
            for one in self.fields
            if isinstance(one.reader, _Choice) and len(one.reader.value_of_json) == 1
        ]
        if tags:
            return all(value.get(name) == said for name, said in tags)
        return all(one.name in value for one in self.fields if one.is_required)

    def describe(self, defs: dict[str, Any]) -> dict[str, Any]:
        """See `Reader.describe`."""
        if self.name not in defs:
            properties: dict[str, Any] = {}
            schema = defs[self.name] = {"title": self.kind.__name__, "type": "object", "properties": properties}
            text = (self.kind.__doc__ or "").strip()
            if text and not text.startswith(f"{self.kind.__name__}("):  # Which dataclasses write themselves.
                schema["description"] = text
            for one in self.fields:
                described = one.reader.describe(defs)
                properties[one.name] = described if one.default is NO_DEFAULT else {**described, "default": one.default}
            if required := [one.name for one in self.fields if one.is_required]:
                schema["required"] = required
        return {"$ref": DEFS + self.name}


_BOUNDS = ("gt", "ge", "lt", "le", "multiple_of", "pattern", "min_length", "max_length", "tz")
"""What of a `msgspec.Meta` is checked."""


class UnreadableTypeError(TypeError):
    """A type that no JSON can become; the message says where it stands."""


_ARRAYS: dict[Any, tuple[Callable[[list[Any]], Any], bool]] = {
    list: (list, False),
    set: (set, True),
    frozenset: (frozenset, True),
    collections.abc.Sequence: (list, False),
    collections.abc.MutableSequence: (list, False),
    collections.abc.Collection: (list, False),
    collections.abc.Iterable: (list, False),
    collections.abc.Set: (frozenset, True),
    collections.abc.MutableSet: (set, True),
}
_OBJECTS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


class ReaderMaker:
    """Makes the readers of one input; a class that comes again, in itself too, has one reader."""

    def __init__(self) -> None:
        self._classes: dict[Any, ClassReader] = {}
        self._named: collections.Counter[str] = collections.Counter()

    def make(self, kind: Any, where: str) -> Reader:
        """Return the reader of ``kind``; raise `UnreadableTypeError` with ``where``."""
        limits = None
        if get_origin(kind) is typing.Annotated:
            inner, *notes = get_args(kind)
            limits = next((note for note in notes if isinstance(note, msgspec.Meta)), None)
            if limits is None:
                return self.make(inner, where)  # Notes for others than us.
            if self._is_whole(inner):
                if any(getattr(limits, bound) is not None for bound in _BOUNDS):
                    raise UnreadableTypeError(
                        f"{where} has bounds where none are checked: write them at what they bound, "
                        "as in Annotated[int, msgspec.Meta(ge=1)] | None"
                    )
                return self.make(inner, where)
            if not self._is_container(inner):
                return self._make_leaf(typing.Annotated[inner, limits], where)
            kind = inner
        origin, arguments = get_origin(kind) or kind, get_args(kind)
        if kind is Any or kind is object:
            return _Anything()
        if is_class(kind):
            return self.make_class(kind, where)
        if origin is Union or origin is types.UnionType:
            readers = [self.make(argument, where) for argument in arguments]
            return _Union(readers, [_name_type(argument) for argument in arguments])
        if origin is Literal:
            return _Choice([(argument, argument) for argument in arguments])
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            return _Choice([(member.value, member) for member in kind])
        if origin is tuple and arguments and arguments[-1:] != (...,):
            return _Tuple([self.make(argument, where) for argument in arguments])
        if origin is tuple:
            return _Array(tuple, self.make(arguments[0] if arguments else Any, where), limits)
        if origin in _ARRAYS:
            make, is_unique = _ARRAYS[origin]
            return _Array(make, self.make(arguments[0] if arguments else Any, where), limits, is_unique)
        if origin in _OBJECTS:
            key, value = arguments or (str, Any)
            return _Dict(self.make(key, where), self.make(value, where), limits)
        if isinstance(kind, typing.NewType):
            return self.make(kind.__supertype__, where)
        return self._make_leaf(kind, where)

    def _is_whole(self, kind: Any) -> bool:
        is_fixed_tuple = get_origin(kind) is tuple and get_args(kind)[-1:] != (...,)
        return is_fixed_tuple or is_class(kind) or get_origin(kind) in (Union, types.UnionType, Literal)

    def _is_container(self, kind: Any) -> bool:
        origin = get_origin(kind) or kind
        return origin in _ARRAYS or origin in _OBJECTS or origin is tuple

    def _make_leaf(self, kind: Any, where: str) -> Reader:
        try:
            msgspec.json.schema(kind)
        except (TypeError, RuntimeError):
            # What msgspec says of it is about how to use msgspec.
            raise UnreadableTypeError(f"{where} is {_name_type(kind)}, which no JSON can become") from None
        return _Leaf(kind)

    def make_class(self, kind: Any, where: str) -> ClassReader:
        """Return the reader of a dataclass or an attrs class."""
        if kind in self._classes:
            return self._classes[kind]
        self._named[kind.__name__] += 1
        number = self._named[kind.__name__]
        name = kind.__name__ if number == 1 else f"{kind.__name__}.{number}"
        reader = self._classes[kind] = ClassReader(kind, name)
        hints = typing.get_type_hints(kind, include_extras=True)
        for said, hinted, is_required, default in _list_fields(kind):
            made = self.make(hints.get(hinted, Any), f"{where}.{said}")
            reader.fields.append(Field(said, made, is_required, NO_DEFAULT if is_required else _read_default(default)))
        return reader


def is_array(reader: Reader) -> bool:
    """Whether it reads arrays, or those and null."""
    if isinstance(reader, _Union):
        return all(is_array(member) or _is_none(member) for member in reader.members)
    return isinstance(reader, _Array)


def is_class(kind: Any) -> bool:
    """Whether it is a dataclass or an attrs class."""
    return isinstance(kind, type) and (dataclasses.is_dataclass(kind) or hasattr(kind, "__attrs_attrs__"))


def _list_fields(kind: Any) -> list[tuple[str, str, bool, Any]]:
    """Return the name, the name that its type has, whether it is required, and the default of each field."""
    if dataclasses.is_dataclass(kind):
        missing = dataclasses.MISSING
        return [
            (one.name, one.name, one.default is missing and one.default_factory is missing, one.default)
            for one in dataclasses.fields(kind)
            if one.init
        ]
    import attrs

    fields = [one for one in attrs.fields(kind) if one.init]
    return [(one.alias, one.name, one.default is attrs.NOTHING, one.default) for one in fields]


def _read_default(default: Any) -> Any:
    try:
        return msgspec.json.decode(_values.encode_plain(default))
    except (TypeError, ValueError):
        return NO_DEFAULT  # A factory, or a value of a class that JSON has no form for.


def _strip(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is typing.Annotated else kind


def _name_type(kind: Any) -> str:
    plain = _strip(kind)
    return "null" if plain is type(None) else getattr(plain, "__name__", None) or str(plain)
