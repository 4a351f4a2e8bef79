"""Turning what a request brings into the class that ``@function(input=...)`` names."""

import functools
from collections.abc import Collection
from typing import Any

from flux_guest._context import Request
from flux_guest._errors import ValidationError
from flux_guest._input_types import ClassReader, Found, ReaderMaker, is_array, name_json

_FORM = "application/x-www-form-urlencoded"


@functools.cache
def prepare(kind: Any) -> ClassReader:
    """Return the class's reader; raise for a type that no JSON can become. Asked once before workers are forked."""
    return ReaderMaker().make_class(kind, kind.__name__)


def describe(kind: Any) -> dict[str, Any]:
    """Return the class as JSON Schema, with the classes that it refers to under ``$defs``."""
    defs: dict[str, Any] = {}
    return {**prepare(kind).describe(defs), "$defs": defs}


def make_input(kind: Any, value: Any, request: Request) -> Any:
    """Return ``value`` as an instance of ``kind``; raise `ValidationError` with every violation found."""
    found = Found()
    result = None
    if isinstance(value, dict):
        reader, texts = prepare(kind), _list_texts(value, request)
        result = reader.build(_gather(reader, value, texts, request), "input", found, lambda one: one.name in texts)
    else:
        found.add("input", f"expected an object, got {name_json(value)}")
    if found.violations:
        raise ValidationError(found.violations)
    return result


def _list_texts(value: dict[str, Any], request: Request) -> Collection[str]:
    """Return the names whose values were text on the way: of the path, the query, or a form."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    # A form whose body is JSON after all is read as JSON.
    if kind == _FORM and not request.is_streamed and request.body.lstrip()[:1] not in (b"{", b"["):
        return {name for name, said in value.items() if isinstance(said, str)}
    return {
        name
        for name, said in value.items()
        if isinstance(said, str) and said == request.query.get(name, request.params.get(name))
    }


def _gather(reader: ClassReader, value: dict[str, Any], texts: Collection[str], request: Request) -> dict[str, Any]:
    """A list that comes from the query is all that stands there under its name: ``?tag=a&tag=b``."""
    lists = [one for one in reader.fields if one.name in texts and is_array(one.reader) and one.name in request.query]
    if not lists:
        return value
    return {**value, **{one.name: [said for name, said in request.query_list if name == one.name] for one in lists}}
