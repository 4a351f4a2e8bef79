"""Routes as an OpenAPI document: what it says, what it leaves out, and that others can read it."""

import json
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from flux.config import parse_config
from flux.deployment import Function
from flux.hostcall import Position
from flux.openapi import make_openapi

ITEM = {"title": "Item", "type": "object", "properties": {"sku": {"type": "string"}}, "required": ["sku"]}
ORDER: dict[str, Any] = {
    "title": "Order",
    "type": "object",
    "properties": {
        "id": {"type": "integer"},
        "items": {"type": "array", "items": {"$ref": "#/$defs/Item"}},
        "$ref": {"type": "string"},
        "plan": {"enum": ["free", "pro"], "default": "free"},
    },
    "required": ["id", "items"],
}
ORDERS = json.dumps({"$ref": "#/$defs/Order", "$defs": {"Order": ORDER, "Item": ITEM}})


def function(name: str, route: str | None, schema: str | None = None, description: str = "") -> Function:
    return Function(name, route, Position("a.py", 1, name), input_schema=schema, description=description)


def document(*functions: Function, toml: str = "") -> Any:
    made = make_openapi(parse_config(f'[project]\nname = "shop"\n{toml}'), "3f9c1e2d", functions)
    OpenAPIV31SpecValidator(made).validate()  # type: ignore[arg-type]
    return json.loads(json.dumps(made))


def test_a_body_is_what_the_path_has_not() -> None:
    made = document(
        function("create", "POST /orders", ORDERS, "Take an order.\n\nAt once."),
        function("change", "PUT /orders/{id}", ORDERS),
        function("nightly", None, ORDERS),
    )
    assert made["info"] == {"title": "shop", "version": "3f9c1e2d"}
    create = made["paths"]["/orders"]["post"]
    assert (create["operationId"], create["summary"]) == ("create", "Take an order.")
    body = create["requestBody"]
    order = {"$ref": "#/components/schemas/Order"}
    assert body == {"required": True, "content": {"application/json": {"schema": order}}}
    change = made["paths"]["/orders/{id}"]["put"]
    assert change["parameters"] == [{"name": "id", "in": "path", "required": True, "schema": {"type": "integer"}}]
    changed = change["requestBody"]["content"]["application/json"]["schema"]
    assert list(changed["properties"]) == ["items", "$ref", "plan"] and changed["required"] == ["items"]
    assert changed["properties"]["items"]["items"] == {"$ref": "#/components/schemas/Item"}
    assert set(made["paths"]) == {"/orders", "/orders/{id}"}
    assert "400" in change["responses"] and "default" in change["responses"]


def test_of_a_method_without_a_body_the_members_are_of_the_query() -> None:
    schema = {"type": "object", "properties": {"page": {"type": "integer", "default": 1}, "q": {"type": "string"}},
              "required": ["q"]}  # fmt: skip
    made = document(
        function("search", "GET /search", json.dumps(schema)),
        function("file", "GET /files/{path...}"),
        function("plain", "POST /plain"),
    )
    search = made["paths"]["/search"]["get"]
    assert search["parameters"] == [
        {"name": "page", "in": "query", "required": False, "schema": {"type": "integer", "default": 1}},
        {"name": "q", "in": "query", "required": True, "schema": {"type": "string"}},
    ]
    assert "requestBody" not in search
    (path,) = made["paths"]["/files/{path}"]["get"]["parameters"]
    assert path["schema"] == {"type": "string"} and "slashes" in path["description"]
    assert made["paths"]["/plain"]["post"]["requestBody"] == {"content": {"application/json": {"schema": {}}}}


def test_what_openapi_has_no_place_for_is_left_out_and_said_to_be() -> None:
    made = document(
        function("one", "GET /a/{x}"),
        function("two", "POST /a/{y}", json.dumps({"type": "object", "properties": {"y": {"type": "integer"}}})),
        function("rest", "GET /a/{all...}"),
        function("purge", "PURGE /a"),
    )
    assert list(made["paths"]) == ["/a/{all}"] or list(made["paths"]) == ["/a/{x}"]
    (item,) = made["paths"].values()
    assert item["post"]["parameters"][0]["schema"] == {"type": "integer"}
    left = {one["function"]: one["reason"] for one in made["x-flux-left-out"]}
    assert left["purge"] == "OpenAPI has no method PURGE" and len(left) == 2


def test_classes_of_one_name_stay_apart_and_those_that_are_the_same_are_one() -> None:
    other = json.dumps({"$ref": "#/$defs/Order", "$defs": {"Order": ORDER, "Item": {**ITEM, "required": []}}})
    problem = json.dumps({"$ref": "#/$defs/Problem", "$defs": {"Problem": {"type": "object", "properties": {}}}})
    made = document(
        function("a", "POST /a", ORDERS),
        function("b", "POST /b", ORDERS),
        function("c", "POST /c", other),
        function("d", "POST /d", problem),
    )
    schemas = made["components"]["schemas"]
    assert set(schemas) == {"Problem", "Order", "Item", "c.1.Order", "c.2.Item", "d.1.Problem"}
    assert schemas["c.1.Order"]["properties"]["items"]["items"] == {"$ref": "#/components/schemas/c.2.Item"}
    assert schemas["Problem"]["required"] == ["type", "title", "status", "code"]


def test_a_client_reads_what_it_has_to_show_and_for_which_routes() -> None:
    toml = """
        [http.auth]
        require = "api_key"
        secret = "LOGIN"
        issuer = ""
        audience = []
        [functions.open]
        auth = "none"
        [functions.buy]
        auth = "jwt"
        scopes = ["orders:write"]
        [functions.feed]
        auth = "jwt_optional"
    """
    functions = [function(name, f"GET /{name}") for name in ("open", "buy", "feed", "look")]
    made = document(*functions, toml=toml)
    assert {path: item["get"].get("security") for path, item in made["paths"].items()} == {
        "/open": None, "/buy": [{"jwt": ["orders:write"]}], "/feed": [{"jwt": []}, {}], "/look": [{"api_key": []}],
    }  # fmt: skip
    schemes = made["components"]["securitySchemes"]
    assert {name: scheme["scheme"] for name, scheme in schemes.items()} == {"jwt": "bearer", "api_key": "bearer"}
    other = document(*functions, toml=toml.replace("require", 'scheme = "Token"\nrequire', 1))["components"]
    assert other["securitySchemes"]["jwt"]["name"] == "authorization"  # A scheme that nobody has registered.
    assert other["securitySchemes"]["api_key"] == schemes["api_key"]


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "https://example.com/evil.json"},
        {"$ref": "#/components/responses/Problem"},
        {"properties": {"a": {"$ref": 5, "$dynamicRef": "#x"}}},
        {"$ref": "#/$defs/ä b", "$defs": {"ä b": {"type": "object"}, "__b": {"type": "object"}}},
        {"type": "object", "properties": {"a": {"enum": [{"$ref": "x"}]}}, "required": "a"},
    ],
)
def test_a_schema_that_means_harm_leads_nowhere(schema: Any) -> None:
    made = document(function("f", "POST /f", json.dumps(schema)))
    refs = [found for found in _list_refs(made) if not isinstance(found, str) or not found.startswith("#/components/")]
    assert refs == []


def _list_refs(node: Any) -> list[Any]:
    if isinstance(node, list):
        return [found for item in node for found in _list_refs(item)]
    if not isinstance(node, dict):
        return []
    found = [value for key, value in node.items() if key in ("$ref", "$dynamicRef")]
    return found + [one for key, value in node.items() if key != "enum" for one in _list_refs(value)]
