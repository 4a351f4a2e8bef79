"""The routes of a deployment as an OpenAPI 3.1 document.

What a function takes is known where it names a class or a schema for its input: the guest has described that as JSON
Schema when its code was loaded (`flux.deployment.Function.input_schema`), so no code of a project runs for this. Such
an input is merged of the path, the query and the body, and is taken apart again here: its members that are named in
the path are parameters of the path; of methods that have no body, the others are parameters of the query; of the
rest they are the body. What a function answers is not declared anywhere, so nothing is claimed of it.

OpenAPI can't say all that a route can: two paths that differ only in the names of their parameters are one path to
it, and it knows eight methods. What has no place is listed under ``x-flux-left-out``, with the reason.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence

import attrs

from flux.bearer import BEARER
from flux.config import Config
from flux.deployment import Function

METHODS = ("GET", "PUT", "POST", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE")
BODYLESS = ("GET", "HEAD", "DELETE", "OPTIONS", "TRACE")
"""Methods whose requests have no body as a rule (RFC 9110, section 9.3)."""
_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(\.\.\.)?\}")
_ODD = re.compile(r"[^A-Za-z0-9._-]")
_DEFS = "#/$defs/"
_COMPONENTS = "#/components/schemas/"

Json = dict[str, object]

_PROBLEM: Json = {
    "title": "Problem",
    "description": "What every answer of 400 and above is, unless the function chose its own (RFC 9457).",
    "type": "object",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string", "description": "INPUT_VALIDATION_ERROR, UNAUTHORIZED, NOT_FOUND ..."},
        "detail": {"type": "string"},
        "request_id": {
            "type": ["string", "null"],
            "description": "As in the header x-request-id; null where it was refused before any code ran.",
        },
        "violations": {
            "description": "Of input that does not fit: each thing that is wrong with it.",
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"path": {"type": "string"}, "message": {"type": "string"}},
                "required": ["path", "message"],
            },
        },
    },
    "required": ["type", "title", "status", "code"],
}


@attrs.frozen
class _Operation:
    """A function and the place that its route has."""

    function: Function
    method: str
    path: str
    """The path as OpenAPI writes it."""
    params: tuple[str, ...]
    """Names of its parameters, in order."""
    tail: str | None
    """The parameter that takes all that is left of a path."""


def make_openapi(config: Config, version: str, functions: Sequence[Function]) -> Json:
    """Return the document for ``functions``; ``version`` is that of their code."""
    schemas: dict[str, object] = {"Problem": _PROBLEM}
    paths: dict[str, Json] = {}
    path_of_shape: dict[str, str] = {}
    schemes: dict[str, object] = {}
    left_out: list[Json] = []
    for operation in _list_operations(functions):
        function = operation.function
        # To OpenAPI, templates that differ by their names only are one; the first names its parameters.
        shape = _PARAMETER.sub("{}", operation.path)
        path = path_of_shape.setdefault(shape, operation.path)
        item = paths.setdefault(path, {})
        why = None
        if operation.method not in METHODS:
            why = f"OpenAPI has no method {operation.method}"
        elif operation.method.lower() in item:
            why = f"to OpenAPI it is the path {path}, which another function answers"
        if why is None:
            names = tuple(found[0] for found in _PARAMETER.findall(path))
            described = item[operation.method.lower()] = _describe(operation, names, schemas)
            table = config.get_function(function.name)
            asked = table.auth or config.gate.auth.require
            if asked == "api_key":
                schemes[asked] = _API_KEY
                described["security"] = [{asked: list(table.scopes)}]
            elif asked != "none":
                schemes["jwt"] = _describe_jwt(config.gate.auth.scheme)
                needed = {"jwt": list(table.scopes)}
                described["security"] = [needed] if asked == "jwt" else [needed, {}]
        else:
            left_out.append({"function": function.name, "route": function.route, "reason": why})
    document: Json = {
        "openapi": "3.1.0",
        "info": {"title": config.project.name, "version": version},
        "paths": {path: item for path, item in paths.items() if item},
        "components": {
            "schemas": schemas,
            "securitySchemes": schemes,
            "responses": {
                "Problem": {
                    "description": "It went wrong, and how.",
                    "content": {"application/problem+json": {"schema": {"$ref": _COMPONENTS + "Problem"}}},
                }
            },
        },
    }
    if left_out:
        document["x-flux-left-out"] = left_out
    return document


_API_KEY: Json = {"type": "http", "scheme": "bearer", "description": "A key of flux token create --api-key."}


def _describe_jwt(scheme: str) -> Json:
    """Return how a client shows its token; OpenAPI knows the schemes that are registered, and any header."""
    if scheme.lower() == BEARER.lower():
        return {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
    return {"type": "apiKey", "in": "header", "name": "authorization", "description": f"{scheme}, a space and a JWT."}


def _list_operations(functions: Sequence[Function]) -> Iterator[_Operation]:
    for function in sorted(functions, key=lambda one: (one.route or "").partition(" ")[2]):
        if function.route is None:
            continue
        method, _, pattern = function.route.partition(" ")
        found = _PARAMETER.findall(pattern)
        tail = next((name for name, dots in found if dots), None)
        path = _PARAMETER.sub(lambda match: "{" + match[1] + "}", pattern)
        yield _Operation(function, method, path, tuple(name for name, _ in found), tail)


def _describe(operation: _Operation, names: Sequence[str], schemas: dict[str, object]) -> Json:
    """Return the operation; ``names`` are those that its parameters have in the document's path."""
    function = operation.function
    schema, properties, required = _read_input(function, schemas)
    described: Json = {"operationId": function.name}
    if function.description:
        described["summary"] = function.description.partition("\n")[0]
        if "\n" in function.description:
            described["description"] = function.description
    parameters: list[Json] = []
    for said, name in zip(names, operation.params, strict=True):
        parameter: Json = {"name": said, "in": "path", "required": True}
        if name == operation.tail:
            parameter["description"] = "All that is left of the path, slashes included."
        parameters.append({**parameter, "schema": properties.get(name, {"type": "string"})})
    others = {name: one for name, one in properties.items() if name not in operation.params}
    if operation.method in BODYLESS:
        parameters += [
            {"name": name, "in": "query", "required": name in required, "schema": one} for name, one in others.items()
        ]
    elif function.input_schema is None:
        described["requestBody"] = {"content": {"application/json": {"schema": {}}}}
    elif others or not properties:
        whole = others == properties
        body: object = schema if whole else _make_object(others, required)
        needed = any(name in required for name in others)
        described["requestBody"] = {"required": needed, "content": {"application/json": {"schema": body}}}
    if parameters:
        described["parameters"] = parameters
    problem = {"$ref": "#/components/responses/Problem"}
    responses: Json = {"2XX": {"description": "What the function answers."}}
    if function.input_schema is not None:
        responses["400"] = problem
    described["responses"] = {**responses, "default": problem}
    return described


def _make_object(properties: Mapping[str, object], required: Sequence[str]) -> Json:
    made: Json = {"type": "object", "properties": dict(properties)}
    if needed := [name for name in required if name in properties]:
        made["required"] = needed
    return made


def _read_input(function: Function, schemas: dict[str, object]) -> tuple[object, dict[str, object], list[str]]:
    """Return the schema of an input, its members and which of them are required; its classes go into ``schemas``."""
    if function.input_schema is None:
        return {}, {}, []
    said = json.loads(function.input_schema)
    defs = said.pop("$defs", {})
    name_of = _name_classes(function.name, defs if isinstance(defs, dict) else {}, schemas)
    for name, one in name_of.items():
        schemas[one] = _point(defs[name], name_of)
    schema = _point(said, name_of)
    top = schema
    if isinstance(schema, dict) and isinstance(reference := schema.get("$ref"), str):
        top = schemas[reference.removeprefix(_COMPONENTS)]
    properties = top.get("properties") if isinstance(top, dict) else None
    required = top.get("required") if isinstance(top, dict) else None
    return (
        schema,
        dict(properties) if isinstance(properties, dict) else {},
        [name for name in required if isinstance(name, str)] if isinstance(required, list) else [],
    )


def _name_classes(function: str, defs: Mapping[str, object], schemas: Mapping[str, object]) -> dict[str, str]:
    """Return the name of each class in the document: its own, unless another class of the project has that.

    Two functions share a class where all that the two say of their classes agrees: what a class refers to is a part
    of it.
    """
    plain = {name: _ODD.sub("_", name) for name in defs}
    clash = len(set(plain.values())) < len(plain) or any(
        one in schemas and schemas[one] != _point(defs[name], plain) for name, one in plain.items()
    )
    if not clash:
        return plain
    prefix = _ODD.sub("_", function)
    return {name: f"{prefix}.{number}.{_ODD.sub('_', name)}" for number, name in enumerate(defs, 1)}


def _point(schema: object, name_of: Mapping[str, str]) -> object:
    """Return ``schema`` with its references led to where the classes are in the document.

    A reference to anything else is taken out: whoever reads the document must not be made to fetch something.
    """
    if isinstance(schema, list):
        return [_point(item, name_of) for item in schema]
    if not isinstance(schema, dict):
        return schema
    pointed: Json = {}
    for key, value in schema.items():
        if key in ("$ref", "$dynamicRef"):
            name = name_of.get(value.removeprefix(_DEFS)) if isinstance(value, str) else None
            if key == "$ref" and name is not None and value.startswith(_DEFS):
                pointed[key] = _COMPONENTS + name
        elif key in ("default", "const", "enum", "examples"):
            pointed[key] = value
        elif key == "properties" and isinstance(value, dict):
            # Names that senders use, "$ref" among them.
            pointed[key] = {name: _point(item, name_of) for name, item in value.items()}
        else:
            pointed[key] = _point(value, name_of)
    return pointed
