"""A FastAPI application as somebody has it, wrapped by one line: it answers as it does without Flux, and repeats."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from flux_guest import asgi
from flux_guest._registry import RegistrationError

from tests.conduit_app import replay_all
from tests.conftest import Database
from tests.dev_process import DevServer, running_dev, write_project
from tests.postgres_server import PostgresServer

APP = """\
import contextlib
import datetime
import random

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.endpoints import HTTPEndpoint
from starlette.routing import Route
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse

STEPS = []

@contextlib.asynccontextmanager
async def lifespan(app):
    yield {"made": "by the lifespan"}

app = FastAPI(lifespan=lifespan)

class Item(BaseModel):
    sku: str
    count: int = 1

def sign():
    return "signed"

@app.middleware("http")
async def mark(request, call_next):
    response = await call_next(request)
    response.headers["x-marked"] = "yes"
    return response

@app.post("/items", status_code=201)
async def create_item(item: Item, who: str = Depends(sign)):
    return {"item": item, "who": who}

@app.get("/items/{number:int}")
def show_item(number: int, q: list[str] | None = None):
    return {"number": number, "half": number / 2}

@app.get("/items/{number}/{name}.json")
async def show_file(number: str, name: str):
    return [number, name]

@app.get("/files/{path:path}")
def show_path(path: str, request: Request):
    query = request.query_params.multi_items()
    return {"path": path, "state": request.state.made, "host": request.url.netloc, "query": query}

@app.get("/missing")
def missing():
    raise HTTPException(404, "no such thing", headers={"x-why": "none"})

@app.get("/drawn")
def drawn():
    return {"number": random.random(), "at": datetime.datetime.now()}

@app.get("/broken")
async def broken():
    return 1 / 0

@app.get("/pieces")
async def pieces():
    async def make():
        for number in range(3):
            yield f"piece {number}\\n"
    return StreamingResponse(make(), media_type="text/plain", headers={"x-kind": "stream"})

@app.get("/long")
async def long():
    async def make():
        for number in range(40):
            yield bytes([number]) * 65536
    return StreamingResponse(make(), media_type="application/octet-stream")

@app.get("/broken-pieces")
async def broken_pieces():
    async def make():
        yield "one"
        raise RuntimeError("in the middle")
    return StreamingResponse(make())

@app.put("/both", operation_id="put_both")
@app.patch("/both", operation_id="patch_both")
async def both(request: Request):
    return {"method": request.method, "body": (await request.body()).decode(), "cookie": request.cookies}

class Deleting(HTTPEndpoint):
    async def delete(self, request):
        return PlainTextResponse("deleted")

app.router.routes.append(Route("/class", Deleting))

def show_name(request):
    return PlainTextResponse(request.path_params["name"])

app.mount("/admin", Starlette(routes=[Route("/x/{name}", show_name)]))
"""

FUNCTIONS = """\
from flux_guest import asgi
from functions.shop import app

@app.post("/users")
async def create_user(name: str):
    users = asgi.context().db
    return await users.query_one("insert into users (name) values ($1) returning id, name", name)

@app.post("/users/broken")
async def break_user(name: str):
    await asgi.context().db.execute("insert into users (name) values ($1)", name)
    raise ValueError(name)

asgi.wrap(app)
"""

TOML = """\
[limits]
stream = "8MiB"
"""

JSON = {"content-type": "application/json"}

PLAIN = """\
from flux_guest import asgi

async def app(scope, receive, send):
    assert scope["type"] == "http", "it has no lifespan"
    if scope["path"].endswith("/silent"):
        return
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message["body"]), message["more_body"]
    fields = [(b"Set-Cookie", b"a=1"), (b"set-cookie", b"b=2")]
    await send({"type": "http.response.start", "status": 202, "headers": fields})
    await send({"type": "http.response.body", "body": f"{scope['query_string']} {size}".encode()})
    asgi.context().log.info("after the answer")

asgi.wrap(app, at="/plain/{rest...}")
"""

QUESTIONS: tuple[tuple[str, str, Any], ...] = (
    ("POST", "/items", {"sku": "a", "count": 2}),
    ("POST", "/items", {"count": "many"}),
    ("GET", "/items/7", None),
    ("GET", "/items/7/seven%C3%A9.json", None),
    ("GET", "/files/a/b%20c/d?x=1&x=2&y=%C3%A9", None),
    ("GET", "/missing", None),
    ("GET", "/pieces", None),
    ("GET", "/long", None),
    ("PUT", "/both", {"é": "ü"}),
    ("PATCH", "/both", None),
    ("DELETE", "/class", None),
    ("POST", "/class", None),
    ("GET", "/admin/x/ana", None),
    ("GET", "/admin/none", None),
    ("GET", "/openapi.json", None),
)


@pytest.fixture(scope="module")
def database(postgres18: PostgresServer, make_database: Callable[[PostgresServer], Database]) -> Database:
    database = make_database(postgres18)
    database.psql("create table users (id bigint generated always as identity primary key, name text)")
    return database


@pytest.fixture(scope="module")
def server(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevServer]:
    folder = tmp_path_factory.mktemp("asgi")
    folder.chmod(0o755)
    modules = {"shop.py": APP, "web.py": FUNCTIONS, "plain.py": PLAIN}
    with running_dev(write_project(folder / "shop", modules, toml=TOML), database) as server:
        yield server


@contextlib.asynccontextmanager
async def asking(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Ask the application itself, without Flux: httpx's own ASGI transport, inside of its lifespan."""
    async with app.router.lifespan_context(app) as state:

        async def with_state(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, "state": dict(state)}, receive, send)

        transport = httpx.ASGITransport(with_state)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            yield client


def test_an_application_answers_as_without_flux(server: DevServer, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    names: dict[str, Any] = {}
    exec(compile(APP, "app.py", "exec"), names)

    async def ask() -> list[httpx.Response]:
        async with asking(names["app"]) as client:
            return [
                await client.request(method, path, content=None if body is None else json.dumps(body), headers=JSON)
                for method, path, body in QUESTIONS
            ]

    for (method, path, body), expected in zip(QUESTIONS, asyncio.run(ask()), strict=True):
        answer = server.request(method, path, body)
        there = expected.content.replace(b"127.0.0.1", f"127.0.0.1:{server.port}".encode())
        if path == "/openapi.json":
            assert answer.json["paths"].items() > expected.json()["paths"].items(), "and those of the other module"
            continue
        assert (answer.status, answer.body) == (expected.status_code, there), (method, path)
        for name in ("content-type", "x-marked", "x-kind", "x-why"):
            assert answer.headers.get(name) == expected.headers.get(name), (path, name)


def test_each_endpoint_is_a_function_and_a_failure_is_its_own(server: DevServer, database: Database) -> None:
    made = server.request("POST", "/users?name=ana")
    assert (made.status, made.json) == (200, {"id": 1, "name": "ana"})
    broken = server.request("POST", "/users/broken?name=bob")
    assert broken.status == 500
    why = server.json("why", broken.flux_id)
    assert why["failure"]["type"] == "ValueError", why
    assert why["failure"]["signature"] == "ValueError functions/web.py:break_user bob"
    trace = server.json("trace", broken.flux_id)
    assert trace["function"] == "break_user"
    assert database.psql("select name from users") == "ana", "what the failed one wrote was rolled back"
    for path in ("/broken", "/broken-pieces"):
        server.request("GET", path)
    server.request("GET", "/drawn")
    answer = server.request("POST", "/plain/a/b?x=%20&y", b"\0" * 5000)
    assert (answer.status, answer.body) == (202, b"b'x=+&y=' 5000")
    assert server.json("trace", answer.flux_id)["logs"][0]["message"] == "after the answer"
    answer = server.request("GET", "/plain/silent")
    assert answer.status == 500 and "returned without an answer" in answer.json["detail"]
    verdicts = {verdict: len(said) for verdict, said in replay_all(server).items()}
    assert verdicts == {"identical": len(QUESTIONS) + 3, "same failure": 4}


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/", "/"),
        ("/a/{b}/{c:int}", "/a/{b}/{c}"),
        ("/a/{rest:path}", "/a/{rest...}"),
        ("/a/{rest:path}/end", "/a/{rest2...}"),
        ("/a/{name}.json", "/a/{part2}"),
        ("/caf\u00e9 bar", "/caf%C3%A9%20bar"),
    ],
)
def test_a_path_of_starlettes_is_a_route_that_takes_no_less(path: str, route: str) -> None:
    assert asgi._translate(path) == route


async def app_of_nothing(*_: object) -> None:
    """It answers nobody."""


def test_an_application_that_lists_no_routes_is_told_where_to_be() -> None:
    with pytest.raises(RegistrationError, match=r"at='/\{rest\.\.\.\}'"):
        asgi.wrap(app_of_nothing)
