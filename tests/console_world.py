"""What tests of the console stand on: executions made by hand, and a console over a real database.

The executions are stored the way that the supervisor stores them. What a function's transaction
commits goes over a guest's own connection, so that rows, capture and record are the real ones.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import attrs
import trio

from flux import ids, values
from flux.brought import BroughtAnswer
from flux.deploy_history import Deployed
from flux.execution import (
    Execution,
    Frame,
    Level,
    Outcome,
    Raised,
    Returned,
    Transaction,
    Trigger,
)
from flux.hostcall import HostCall, HostCallError, HostCallRequest, HostCallResult, Position
from flux.message import HttpRequest, HttpResponse, RawPath, RequestHead
from flux.store.deployments import DeploymentSeen
from flux.store.migrate import ensure_guest
from flux.store.postgres import Pool, connect
from flux.store.queries import QUERIES
from flux.store.records import RecordStore, commit_parameters, make_record
from flux.supervisor.at_rest import wait_rest
from flux.supervisor.bisect import Bisector
from flux.supervisor.console import Console, Invoked
from flux.supervisor.console_deploy import DeployOrder
from flux.supervisor.console_door import Door
from flux.supervisor.deploy import Switch
from flux.supervisor.guard import Progress
from flux.supervisor.in_flight import InFlight
from flux.supervisor.interleave import Interleaved
from flux.supervisor.live import Live
from flux.supervisor.present import summary_of_execution
from flux.supervisor.prove import Prover
from flux.supervisor.pytest_export import WrittenTest
from flux.supervisor.replay import Replay
from flux.supervisor.siblings import Siblings
from flux.supervisor.vault import Vault
from flux.travel import Tap
from tests import documents
from tests.conftest import Database

TOKEN = "a-token-for-tests"
API = "/_flux/api"
START_NS = 1_764_079_339_504_000_000
"""2025-11-25T14:02:19.504Z: when the first execution of this world began."""
NOW = datetime(2025, 11, 25, 14, 3, tzinfo=UTC)
"""What the console's clock says. What a guest writes has the database's own time: see `World.run_as_guest`."""
SUPERVISOR_TOKEN = b"supervisor" * 4


def make_execution(
    outcome: Outcome | None = None, *, at_s: float = 0.0, function: str = "create_user", **changes: Any
) -> Execution:
    """An execution ``at_s`` seconds after the start of the world, as different from others as a real one."""
    started_at_ns = START_NS + int(at_s * 1e9)
    body = changes.pop("body", b'{"email":"a@b.com"}')
    made = Execution(
        id=ids.make_execution_id(started_at_ns // 1_000_000, os.urandom(ids.ENTROPY_BYTES)),
        tenant="main", function=function, deployment="d1", sha="3f9c1e2d", dirty=False,
        trigger=Trigger("http", "POST", "/signup", "/signup", (), (), (("content-type", "application/json"),), body),
        started_at_ns=started_at_ns, seed=bytes(32), level=Level("process", "core", "python"),
        outcome=outcome or Returned(201, (("content-type", "application/json"),), b'{"id":42}'),
        elapsed_ns=14_200_000,
    )  # fmt: skip
    return attrs.evolve(made, **changes)


def raised(type: str = "KeyError", message: str = "'plan'", *, line: int = 16, **more: Any) -> Raised:
    """An exception out of the user's code."""
    frame = Frame("functions/signup.py", line, "create_user", True, "amount(row['plan'])")
    return Raised(type, message, (frame,), **more)


def make_call(
    seq: int, name: str, arguments: object, result: object = None, *, error: HostCallError | None = None,
    line: int = 12,
) -> HostCall:  # fmt: skip
    """A call that was answered."""
    request = HostCallRequest(
        seq, name, values.encode_canonical(arguments), 0, Position("functions/signup.py", line, "create_user")
    )
    answer = HostCallResult(b"null" if error else values.encode_canonical(result), error, 3_000_000)
    return HostCall(request, answer, 1_000_000 * seq, seq)


class WorldHost:
    """Who runs functions in these tests: one that echoes, one that fails."""

    def __init__(self) -> None:
        self.invoked: list[tuple[str, bytes]] = []
        self.is_ready = True

    def openapi(self) -> Mapping[str, Any]:
        return {"openapi": "3.1.0"}

    def functions(self) -> Sequence[Mapping[str, Any]]:
        return [
            {
                "name": name, "route": route, "runtime": "python", "grants": ["db", "http:api.stripe.com"],
                "auth": None, "middleware": [], "sha": "3f9c1e2d", "error": None,
            }
            for name, route in (("create_user", "POST /signup"), ("nightly", None))
        ]  # fmt: skip

    async def invoke(self, name: str, data: bytes) -> Invoked:
        self.invoked.append((name, data))
        execution = make_execution(function=name, trigger=Trigger("invoke", body=data))
        return Invoked(201, data, "application/json", summary_of_execution(execution))

    def expect(self, originals: Sequence[Execution]) -> None:
        raise AssertionError(originals)

    async def replay(
        self, original: Execution, on: str | None, answers: Mapping[int, BroughtAnswer], live: frozenset[str]
    ) -> Replay:
        raise AssertionError((original, on, answers, live))

    async def follow(self, original: Execution, tap: Tap) -> Replay:
        raise AssertionError((original, tap))

    async def find_code(self, original: Execution) -> Path:
        raise AssertionError(original)

    async def write_test(self, original: Execution) -> WrittenTest:
        raise AssertionError(original)

    async def deploy(self, order: DeployOrder, progress: Progress) -> Switch:
        raise AssertionError((order, progress))

    async def roll_back(self, to: str | None) -> Switch:
        raise AssertionError(to)

    async def list_deployments(self, limit: int) -> Sequence[DeploymentSeen]:
        raise AssertionError(limit)

    def current(self) -> Deployed | None:
        raise AssertionError

    def is_kept(self, deployment: str) -> bool:
        raise AssertionError(deployment)

    async def rehearse(self, original: Execution) -> Replay:
        raise AssertionError(original)

    async def interleave(
        self, executions: Sequence[Execution], on: str | None, *, check: str | None, in_turn: bool
    ) -> Interleaved:
        raise AssertionError((executions, on, check, in_turn))

    async def export(self, original: Execution) -> bytes:
        raise AssertionError(original)

    def bisector(self) -> Bisector:
        raise AssertionError("nothing is bisected here")

    def prover(self) -> Prover:
        raise AssertionError("nothing is proved here")

    def vault(self) -> Vault:
        raise AssertionError("no secrets here")

    def tenants_keeper(self) -> None:
        return None

    def checks(self) -> Sequence[Mapping[str, Any]]:
        return [{"name": "isolation", "ok": False, "detail": "process", "remedy": "flux explain FLX420"}]

    def ready(self) -> bool:
        return self.is_ready


@attrs.frozen
class World:
    """A console and what it stands on."""

    database: Database
    pool: Pool
    store: RecordStore
    live: Live
    host: WorldHost
    console: Console
    in_flight: InFlight

    async def ask(self, path: str, *, method: str = "GET", body: bytes = b"", headers: Mapping[str, str] | None = None,
                  token: str | None = TOKEN, **query: object) -> HttpResponse:  # fmt: skip
        """Ask as the command line does, without the sockets between. What is answered is held to its schemas."""
        response = await self.console.handle(
            make_request(path, method=method, body=body, headers=headers, token=token, query=query)
        )
        match dict(response.headers).get("content-type"):
            case "application/json" if isinstance(response.body, bytes):
                documents.check_text(response.body.decode())
            case "application/x-ndjson":
                return attrs.evolve(response, body=documents.CheckedBody(response.body))
            case "application/problem+json":
                assert isinstance(response.body, bytes)
                documents.check_problem(response.body)
        return response

    async def get(self, path: str, **query: object) -> dict[str, Any]:
        """Ask for a document that must come."""
        response = await self.ask(path, **query)
        assert response.status == 200, response.body
        document = read(response)
        assert isinstance(document, dict)
        return document

    async def refused(self, path: str, **query: object) -> tuple[int, str, str]:
        """Ask for what must be refused: status, code, detail and remedy as one text."""
        response = await self.ask(path, **query)
        problem = read(response)
        assert response.status >= 400, problem
        assert dict(response.headers)["content-type"] == "application/problem+json"
        assert problem["status"] == response.status
        return response.status, problem["code"], f"{problem['detail']} / {problem.get('remedy', '')}"

    async def lines(self, path: str, **query: object) -> list[dict[str, Any]]:
        """All lines of a stream that ends."""
        response = await self.ask(path, **query)
        assert response.status == 200, response.body
        assert not isinstance(response.body, bytes)
        data = b"".join([piece async for piece in response.body])
        return [json.loads(line) for line in data.splitlines()]

    async def add(self, *executions: Execution) -> None:
        """Store executions that made no transaction."""
        for execution in executions:
            await self.store.add(execution)

    async def run_as_guest(self, execution: Execution, *statements: str, keep: bool = True) -> Execution:
        """Run statements as the function's own role, with the record in the same transaction, now."""
        started_at_ns = time.time_ns()
        execution = attrs.evolve(
            execution,
            started_at_ns=started_at_ns,
            id=ids.make_execution_id(started_at_ns // 1_000_000, os.urandom(ids.ENTROPY_BYTES)),
        )
        connection = await connect(self.database.options("flux_guest_main"))
        try:
            await connection.execute("begin isolation level repeatable read")
            snapshot = await connection.fetch_value("select pg_current_snapshot()")
            xid = None
            for statement in statements:
                await connection.execute(statement)
            if keep:
                ended = Transaction("repeatable read", str(snapshot), None, True, 1)
                execution = attrs.evolve(execution, transactions=(ended,))
                record = make_record(execution)
                xid = await connection.fetch_value(
                    QUERIES.commit_record, *commit_parameters(record, SUPERVISOR_TOKEN)
                )
                await connection.execute("commit")
                assert (xid is not None) == bool(statements)
            else:
                await connection.execute("rollback")
                ended = Transaction("repeatable read", str(snapshot), None, False, 1)
                execution = attrs.evolve(execution, transactions=(ended,))
                await self.add(execution)
        finally:
            await connection.aclose()
        return execution


@contextlib.asynccontextmanager
async def open_world(
    database: Database, *, heartbeat_s: float = 10.0, host: WorldHost | None = None, live: Live | None = None,
    siblings: Siblings | None = None,
) -> AsyncIterator[World]:  # fmt: skip
    """A console over ``database``, and a guest role with a table of its own."""
    pool = database.pool()
    async with pool.acquire() as connection:
        await ensure_guest(connection, "main", "public", "")
        if not await connection.fetch_value("select count(*) from flux.supervisor"):
            await connection.execute(
                QUERIES.add_supervisor, hashlib.sha256(SUPERVISOR_TOKEN).digest(), "test"
            )
    database.psql(
        "create table if not exists users (id int primary key, email text unique, plan text);"
        "grant all on users to flux_guest_main"
    )
    in_flight, live, host = InFlight(), live or Live(), host or WorldHost()
    door = Door(TOKEN, {"shop.example"})
    async with trio.open_nursery() as nursery:
        console = Console(
            pool, live, host, door, lambda run: nursery.start_soon(run), now=lambda: NOW, heartbeat_s=heartbeat_s,
            rest=partial(wait_rest, in_flight, live, siblings),
        )  # fmt: skip
        try:
            yield World(database, pool, RecordStore(pool), live, host, console, in_flight)
        finally:
            await pool.aclose()
        nursery.cancel_scope.cancel()


def make_request(
    path: str, *, method: str = "GET", body: bytes = b"", headers: Mapping[str, str] | None = None,
    token: str | None = TOKEN, query: Mapping[str, object] | None = None, peer: str = "127.0.0.1:50000",
) -> HttpRequest:  # fmt: skip
    """A request as the gateway hands it over."""
    target = path if path.startswith("/") else f"{API}/{path}"
    target = quote(target, safe="/?&=%@+") + ("?" + urlencode(query) if query else "")
    parts = urlsplit(target)
    fields = {"host": "127.0.0.1:4000"}
    if token is not None:
        fields["authorization"] = f"Bearer {token}"
    if method == "POST":
        fields["content-type"] = "application/json"
    fields |= dict(headers or {})
    head = RequestHead(
        method=method, target=target, path=unquote(parts.path), raw_path=RawPath(parts.path),
        query=tuple(parse_qsl(parts.query, keep_blank_values=True)), headers=tuple(fields.items()),
        version="1.1", peer=peer,
    )  # fmt: skip
    return HttpRequest(head, body)


def read(response: HttpResponse) -> Any:
    """The document in an answer, read by another JSON implementation."""
    assert isinstance(response.body, bytes)
    return json.loads(response.body)
