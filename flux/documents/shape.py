"""The words in which the shape of a document is written down, and how they become a JSON Schema.

A shape is a tree of plain dicts as JSON Schema has them, made by the functions below: `record`, `listing`, `text` and
so on. Each takes first what the member means. A shape that recurs is a `Shared`, which stands once in a schema, under
``$defs``, however often it is meant.

`render` writes a shape as a schema in one of two forms:

*open*
    what is published. Members that it does not name may be there, words that it does not list, and where one of several
    records stands, another one: a later version of the same document may have them, and who validates must not refuse
    what a newer server says.
*strict*
    what the tests hold the code to: no member, no word and no record but those that are written down.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import attrs

Schema = dict[str, Any]
"""A JSON Schema, or a part of one."""

DIALECT = "https://json-schema.org/draft/2020-12/schema"


@attrs.frozen
class Shared:
    """A shape that has a name of its own in a schema."""

    name: str
    schema: Schema


@attrs.frozen
class AnotherRecord:
    """The record that a later version may have where one of several stands."""

    marks: tuple[Schema, ...]
    """What each of the others is known by. It is none of that, so the others are still held to what they are."""


@attrs.frozen
class Kind:
    """One kind of document."""

    name: str
    """``trace``: its documents say ``"schema": "flux.trace/1"``."""
    what: str
    """What such a document is, a sentence or two."""
    sources: tuple[str, ...]
    """Which commands print it with ``--json``, and which questions of the console's API it answers."""
    shape: Schema
    lines: tuple[Schema, ...] = ()
    """What else stands in the lines of a stream that this document begins, or is a line of."""
    version: int = 1
    is_tagged: bool = True
    """Its documents say in ``schema`` what they are. What has no such member is known by where it stands."""

    @property
    def tag(self) -> str:
        """What the document's ``schema`` says, where it has one; else the name of the kind and of its form."""
        return f"flux.{self.name}/{self.version}"


def kind(
    name: str, what: str, sources: Iterable[str], members: Mapping[str, Schema],
    optional: Mapping[str, Schema] | None = None, lines: Iterable[Schema] = (), more: Schema | None = None,
) -> Kind:  # fmt: skip
    """Return a kind of document with these members beside ``schema``; ``more`` are further keywords of its schema."""
    shape = record(what, {"schema": tag(name)} | dict(members), optional) | (more or {})
    return Kind(name, what, tuple(sources), shape, tuple(lines))


def untagged(name: str, sources: Iterable[str], shape: Schema) -> Kind:
    """Return a kind of document without the member ``schema``."""
    return Kind(name, shape["description"], tuple(sources), shape, is_tagged=False)


def tag(name: str) -> Schema:
    """Return the member that says what a document is."""
    return {"description": "What this document is, and the number of its form.", "const": f"flux.{name}/1"}


# --- values ------------------------------------------------------------------------------------------


def text(what: str) -> Schema:
    """A text."""
    return {"description": what, "type": "string"}


def moment(what: str) -> Schema:
    """A time."""
    return {"description": f"{what} RFC 3339, in UTC.", "type": "string", "format": "date-time", "pattern": "Z$"}


def flag(what: str) -> Schema:
    """Yes or no."""
    return {"description": what, "type": "boolean"}


def whole(what: str, *, least: int = 0) -> Schema:
    """A whole number."""
    return {"description": what, "type": "integer", "minimum": least}


def number(what: str) -> Schema:
    """A number that is not negative."""
    return {"description": what, "type": "number", "minimum": 0}


def milliseconds(what: str) -> Schema:
    """How long something took."""
    return number(f"{what} In milliseconds.")


def word(what: str, words: Iterable[str]) -> Schema:
    """One of a few words."""
    return {"description": what, "type": "string", "enum": [str(each) for each in words]}


def anything(what: str) -> Schema:
    """Any JSON: what was recorded is nobody's to describe."""
    return {"description": what}


# --- what is made of values --------------------------------------------------------------------------


def record(what: str, members: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    """An object with these members; those that are ``optional`` may be missing."""
    schema: Schema = {"description": what, "type": "object", "properties": {**members, **(optional or {})}}
    return schema | ({"required": list(members)} if members else {})


def listing(what: str, item: Schema) -> Schema:
    """A list."""
    return {"description": what, "type": "array", "items": item}


def texts(what: str) -> Schema:
    """A list of texts."""
    return listing(what, {"type": "string"})


def mapping(what: str, value: Schema) -> Schema:
    """An object whose members have names that nobody can list here, and values of one shape."""
    return {"description": what, "type": "object", "additionalProperties": value}


def counts(what: str, words: Iterable[str] | None = None) -> Schema:
    """How many, by name; of ``words`` each is there."""
    if words is None:
        return mapping(what, {"type": "integer", "minimum": 0})
    return record(what, {str(each): whole(f"How many: {each}.") for each in words})


def maybe(shape: Schema) -> Schema:
    """The same, or null."""
    if "$ref" in shape:
        return {"description": shape["description"], "anyOf": [{"$ref": shape["$ref"]}, {"type": "null"}]}
    if "anyOf" in shape:
        return shape | {"anyOf": [*shape["anyOf"], {"type": "null"}]}
    if "enum" in shape:
        return shape | {"type": [shape["type"], "null"], "enum": [*shape["enum"], None]}
    return shape | {"type": [shape["type"], "null"]}


def either(what: str, *records: Schema) -> Schema:
    """One of several records; a later version may have more of them.

    Each is known by the first member that it needs and no other has, else by one that always says the same.
    """
    plain = [each["$ref"].schema if "$ref" in each else each for each in records]
    return {"description": what, "anyOf": [*records, AnotherRecord(tuple(_mark(each, plain) for each in plain))]}


def _mark(schema: Schema, all_of_them: list[Schema]) -> Schema:
    others = {name for other in all_of_them if other is not schema for name in other["properties"]}
    for name in schema["required"]:
        if name not in others:
            return {"required": [name]}
    constants = {name: member for name, member in schema["properties"].items() if "const" in member}
    assert constants, f"nothing tells this record from the others: {schema['description']}"
    name, member = next(iter(constants.items()))
    return {"required": [name], "properties": {name: member}}


def of(shared: Shared, what: str = "") -> Schema:
    """A shared shape where it is meant."""
    return {"description": what or shared.schema["description"], "$ref": shared}


def where_text(member: str, then: Mapping[str, Schema]) -> Schema:
    """Keywords that say what other members are where ``member`` is a text."""
    return {
        "if": {"properties": {member: {"type": "string"}}, "additionalProperties": True},
        "then": {"properties": dict(then), "additionalProperties": True},
    }


# --- the schema --------------------------------------------------------------------------------------


def render(kind: Kind, *, is_strict: bool = False) -> Schema:
    """Return a kind's JSON Schema; its ``$defs`` has the shapes that recur, and ``line`` of a stream's other lines."""
    shared: dict[str, Schema] = {}
    body: Schema = _render(kind.shape, shared, is_strict)
    if kind.lines:
        said = "What else stands in the lines of such a stream: these have no `schema`."
        shared["line"] = _render(either(said, *kind.lines), shared, is_strict)
    head = {"$schema": DIALECT, "title": kind.tag}
    return head | body | ({"$defs": dict(sorted(shared.items()))} if shared else {})


def _render(node: Any, shared: dict[str, Schema], is_strict: bool) -> Any:
    match node:
        case Shared():
            if node.name not in shared:
                shared[node.name] = {}  # Its place is taken: a shape may mean itself.
                shared[node.name] = _render(node.schema, shared, is_strict)
            return f"#/$defs/{node.name}"
        case dict():
            said = {key: _render(value, shared, is_strict) for key, value in node.items() if key != "properties"}
            if "properties" in node:  # Names of members are no keywords.
                members = node["properties"].items()
                said["properties"] = {name: _render(member, shared, is_strict) for name, member in members}
            if "enum" in node and not is_strict:
                said["examples"] = [each for each in said.pop("enum") if each is not None]
            if is_strict and "properties" in node and "additionalProperties" not in node:
                said["additionalProperties"] = False
            return said
        case AnotherRecord():
            return {
                "description": "What a later version may say here.", "type": "object",
                "not": {"anyOf": list(node.marks)},
            }  # fmt: skip
        case list():
            kept = (each for each in node if not (is_strict and isinstance(each, AnotherRecord)))
            return [_render(each, shared, is_strict) for each in kept]
    return node
