"""Middleware with a real ``flux dev``, in Python and in JavaScript: what goes through it, and what stands on record."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.conftest import Database
from tests.dev_process import DevServer, running_dev, write_project
from tests.postgres_server import PostgresServer

TOML = """\
[http]
middleware = ["stamp", "auth"]
[[routes]]
below = "/admin"
middleware = ["admin_only"]
[functions.login]
without = ["auth"]
[functions.order]
without = ["auth"]
middleware = ["timed"]
[functions.reserve]
without = ["auth"]
[recording]
redact = ["json:$.email"]
"""
MIDDLEWARE = """\
from flux_guest import HTTPError, middleware

USERS = {"ada": {"id": 1, "email": "ada@example.com", "is_admin": True}, "bob": {"id": 2, "is_admin": False}}


@middleware
async def stamp(ctx, call_next):
    response = ctx.response(await call_next())
    response.headers["x-stamp"] = "python"
    return response


@middleware
async def auth(ctx, call_next):
    ctx.user = USERS.get(ctx.request.headers.get("x-token"))
    if ctx.user is None:
        raise HTTPError(401)
    return await call_next()


@middleware
def admin_only(ctx, call_next):
    if not ctx.user["is_admin"]:
        return ctx.response({"only": "admins"}, status=403)
    return call_next()


@middleware
def trip(ctx, call_next):
    return {}["no such key"]
"""
SHOP = """\
from flux_guest import function


@function("POST /login")
async def login(ctx, input):
    return None


@function("GET /orders")
def orders(ctx, input):
    ctx.db.execute("insert into seen (id) values ($1)", ctx.user["id"])
    return {"for": ctx.user["id"], "told": ctx.invoke("tell", {})}


@function("GET /admin/users")
async def users(ctx, input):
    return [ctx.user["id"]]


@function()
async def tell(ctx, input):
    return {"method": ctx.request.method, "user": ctx.user and ctx.user["id"]}


@function("GET /trips", middleware=["trip"])
def trips(ctx, input):
    return "never"
"""
SCRIPT = """\
import { defineFunction, defineMiddleware, HTTPError } from "@flux/guest";

export const stamp = defineMiddleware(async ({ ctx, next }) => {
  const response = ctx.response(await next());
  response.headers["x-stamp"] = "script";
  return response;
});

export const auth = defineMiddleware(async ({ ctx, next }) => {
  if (ctx.request.headers["x-token"] !== "ada") throw new HTTPError(401);
  ctx.user = { id: 1 };
  return next();
});

export const script = defineFunction({ route: "GET /script", handler: ({ ctx }) => ({ user: ctx.user.id }) });
"""
GUIDE = (Path(__file__).parents[2] / "docs" / "guest-api.md").read_text(encoding="utf-8")


def find_example(language: str, holding: str) -> str:
    """Return the page's one example in ``language`` that holds a text."""
    blocks = re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)
    (found,) = (block for block in blocks if holding in block)
    return str(found)


FILES = {
    "guards.py": MIDDLEWARE, "shop.py": SHOP, "script.ts": SCRIPT,
    "guide_input.py": find_example("python", "class NewOrder"),
    "guide_timed.py": find_example("python", "async def timed").replace("async def auth", "async def guide_auth"),
    "guide_input.js": find_example("js", "export const reserve"),
}  # fmt: skip


@pytest.fixture(scope="module")
def server(
    postgres18: PostgresServer, make_database: object, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[DevServer, Database]]:
    database: Database = make_database(postgres18)  # type: ignore[operator]
    project = write_project(
        tmp_path_factory.mktemp("composed"), FILES, toml=TOML,
        migrations={"001.sql": "create table seen (id int);"},
    )  # fmt: skip
    with running_dev(project, database=database) as running:
        yield running, database


def test_what_is_around_a_route_runs_before_it_and_sees_its_answer(server: tuple[DevServer, Database]) -> None:
    dev, database = server
    refused = dev.request("GET", "/orders")
    assert (refused.status, refused.json["code"]) == (401, "UNAUTHORIZED")
    assert database.psql("select count(*) from seen") == "0"
    answer = dev.request("GET", "/orders", headers={"x-token": "ada"})
    assert answer.status == 200, answer.body
    assert answer.json == {"for": 1, "told": {"method": "", "user": 1}}
    assert answer.headers["x-stamp"] == "python"
    assert database.psql("select id from seen") == "1"
    login = dev.request("POST", "/login")
    assert (login.status, login.headers["x-stamp"]) == (204, "python")
    assert dev.request("GET", "/admin/users", headers={"x-token": "bob"}).status == 403
    assert dev.request("GET", "/admin/users", headers={"x-token": "ada"}).json == [1]
    script = dev.request("GET", "/script", headers={"x-token": "ada"})
    assert (script.json, script.headers["x-stamp"]) == ({"user": 1}, "script")
    assert dev.request("GET", "/script").status == 401


def test_a_trace_says_for_whom_it_ran_and_a_replay_goes_the_same_way(server: tuple[DevServer, Database]) -> None:
    dev, _ = server
    answer = dev.request("GET", "/orders", headers={"x-token": "ada"})
    trace = dev.json("trace", answer.flux_id)
    assert trace["user"]["id"] == 1 and trace["user"]["email"].startswith("redacted:")
    (told,) = trace["children"]
    assert dev.json("trace", told["name"])["user"]["id"] == 1
    shown = dev.command("trace", answer.flux_id).stdout
    assert "user" in shown and "ada@example.com" not in shown
    assert dev.json("replay", answer.flux_id)["verdict"] == "identical"
    refused = dev.request("GET", "/script")
    assert dev.json("replay", refused.flux_id)["verdict"] == "identical"


def test_a_middleware_that_fails_is_where_why_points(server: tuple[DevServer, Database]) -> None:
    dev, _ = server
    failed = dev.request("GET", "/trips", headers={"x-token": "ada"})
    assert failed.status == 500
    location = dev.json("why", failed.flux_id)["failure"]["location"]
    line = MIDDLEWARE.splitlines().index('    return {}["no such key"]') + 1
    assert (location["file"], location["line"], location["function"]) == ("functions/guards.py", line, "trip")


def test_the_list_of_functions_says_what_a_request_goes_through(server: tuple[DevServer, Database]) -> None:
    dev, _ = server
    listed = {one["name"]: one["middleware"] for one in dev.json("function", "list")["functions"]}
    assert listed == {
        "login": ["stamp"], "orders": ["stamp", "auth"], "users": ["stamp", "auth", "admin_only"], "tell": [],
        "trips": ["stamp", "auth", "trip"], "script": ["stamp", "auth"], "order": ["stamp", "timed"],
        "reserve": ["stamp"],
    }  # fmt: skip
    assert "stamp → auth → admin_only" in dev.command("function", "list").stdout


def test_the_guides_examples_do_what_the_guide_says_and_are_in_the_openapi_document(
    server: tuple[DevServer, Database],
) -> None:
    dev, _ = server
    items = [{"sku": "mug", "count": 2}, {"sku": "cap"}]
    answer = dev.request("POST", "/customers/7/orders?tags=a&tags=b", {"items": items, "plan": "pro"})
    assert answer.json == {"customer": 7, "pieces": 3, "tags": ["a", "b"]}
    assert answer.headers["server-timing"].startswith("all;dur=") and answer.headers["x-stamp"] == "python"
    refused = dev.request("POST", "/customers/7/orders", {"items": [{"count": 2}], "plan": "gold"})
    example = json.loads(find_example("json", '"code": "INPUT_VALIDATION_ERROR"'))
    assert refused.status == 400 and refused.headers["content-type"] == "application/problem+json"
    assert {**refused.json, "request_id": "…", "flux": 0, "why": 0} == {**example, "flux": 0, "why": 0}
    reserved = dev.request("POST", "/shops/3/reservations?notes=x", {"seats": 2})
    assert reserved.json == {"shop": 3, "seats": 2, "notes": 1}
    refused = dev.request("POST", "/shops/x/reservations", {"seats": "2"})
    assert [one["path"] for one in refused.json["violations"]] == ["input.shop", "input.seats"]
    document = json.loads(dev.command("function", "list", "--openapi").stdout)
    OpenAPIV31SpecValidator(document).validate()
    order = document["paths"]["/customers/{customer}/orders"]["post"]
    assert order["parameters"][0]["schema"] == {"type": "integer"}
    assert list(document["components"]["schemas"]["NewOrder"]["properties"]) == [
        "customer", "items", "plan", "deliver_on", "tags",
    ]  # fmt: skip
    seats = document["paths"]["/shops/{shop}/reservations"]["post"]["requestBody"]["content"]["application/json"]
    assert seats["schema"]["properties"]["seats"] == {"type": "integer", "minimum": 1, "maximum": 8}


def test_a_name_that_nothing_declares_is_refused_and_the_last_good_code_goes_on(
    server: tuple[DevServer, Database],
) -> None:
    dev, _ = server
    before = len(dev.story)
    (dev.project / "functions" / "guards.py").write_text(MIDDLEWARE.replace("async def auth", "async def ath"))
    dev.wait_story("FLX585", after=before)
    dev.wait_story("the last good code is served", after=before)  # The last line of it.
    told = "\n".join(dev.story[before:])
    assert "flux.toml:4" in told and "no Python module declares a middleware named auth" in told
    assert dev.request("GET", "/orders").status == 401
