"""Turning JSON input into the class that ``@function(input=...)`` names."""

import dataclasses
import functools
from typing import Any, get_type_hints

import msgspec

from flux_guest._errors import ValidationError


def make_input(kind: Any, value: Any) -> Any:
    """Return ``value`` as an instance of ``kind``; raise `ValidationError` with every violation found."""
    if not isinstance(value, dict):
        message = f"expected an object, got {type(value).__name__}"
        raise ValidationError([{"path": "input", "message": message}])
    names, required, hints = prepare(kind)
    violations = []
    accepted: dict[str, Any] = {}
    for name in names:
        if name not in value:
            if name in required:
                violations.append({"path": f"input.{name}", "message": "is required"})
            continue
        try:
            # Path and query parameters are always text, so text may stand for a number.
            strict = not isinstance(value[name], str)
            accepted[name] = msgspec.convert(value[name], hints.get(name, Any), strict=strict)
        except msgspec.ValidationError as error:
            path, message = _split(str(error))
            violations.append({"path": f"input.{name}{path}", "message": message})
    if violations:
        raise ValidationError(violations)
    try:
        return kind(**accepted)
    except (ValueError, TypeError) as error:  # a converter or __post_init__ of the user's refuses
        raise ValidationError([{"path": "input", "message": str(error)}]) from error


def _split(text: str) -> tuple[str, str]:
    message, _, path = text.partition(" - at `$")
    return path.rstrip("`"), message[:1].lower() + message[1:].replace("`", "")


@functools.cache
def prepare(kind: Any) -> tuple[list[str], set[str], dict[str, Any]]:
    """Return the class's fields, those without a default, and their types. Asked once before workers are forked."""
    names, required = _fields(kind)
    return names, required, get_type_hints(kind)


def _fields(kind: Any) -> tuple[list[str], set[str]]:
    if dataclasses.is_dataclass(kind):
        fields = [field for field in dataclasses.fields(kind) if field.init]
        missing = dataclasses.MISSING
        return [field.name for field in fields], {
            field.name for field in fields if field.default is missing and field.default_factory is missing
        }
    described = getattr(kind, "__attrs_attrs__", None)
    if described is None:
        raise TypeError(f"input= takes a dataclass or an attrs class, not {kind!r}")
    import attrs

    fields_of = [field for field in described if field.init]
    return [field.alias for field in fields_of], {
        field.alias for field in fields_of if field.default is attrs.NOTHING
    }
