"""Each guest program recorded in one process and replayed in others; what both did is compared.

The programs are in ``programs/``, functions like a user's, each under a comment that says what it
is to do::

    # Expect: returned 200; db.query 2, clock.sleep 1; 3 log lines
    # Input: {"n": 3}
    # Limits: {"timeout_s": 0.5}

A recording is made by the real `drive` with the real host: Postgres, a stub HTTP server, sleeping. Its
replays run under another zygote, in workers that were forked as the n-th, with a host that refuses to
perform anything.
"""

import hashlib
import json
import os
import re
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import attrs
import trio

from flux import wire
from flux.execution import Exited, Killed, LogLine, Outcome, Raised, Returned
from flux.grants import Grants
from flux.hostcall import HostCall, HostCallRequest, HostCallResult
from flux.hostcalls.base import CallContext, Clock, HostCallFailed
from flux.hostcalls.clock import SystemClock
from flux.hostcalls.entropy import SystemEntropy
from flux.hostcalls.http_client import HttpClient
from flux.hostcalls.secret import TenantSecrets
from flux.limits import Limits
from flux.redact import RedactionRules, Redactor
from flux.sandbox.base import Sandbox
from flux.sandbox.process import ProcessSandbox
from flux.sandbox.wasm import WasmSandbox
from flux.session import Divergence, RecordSession, ReplaySession
from flux.store.postgres import Pool
from flux.store.queries import QUERIES
from flux.supervisor.changes import Changes
from flux.supervisor.database import ExecutionDatabase
from flux.supervisor.drive import Bounds, Driven, drive
from flux.supervisor.perform import HostTable
from flux.supervisor.tables import TableCatalog
from tests.conftest import Database
from tests.stub_http import Hangup, Peer, serving

HERE = Path(__file__).parent
SECRETS = {"API_KEY": "sk_live_4242", "PEPPER": "grains"}
SCHEMA = """
create table users (id bigint generated always as identity primary key, email text unique, plan text default 'free');
create table accounts (name text primary key, amount numeric not null check (amount >= 0));
insert into accounts values ('alice', 100), ('bob', 50);
"""
REPLAYS = 2
"""Of each recording, one after the other in the order of the programs: each at another fork index."""


@attrs.frozen
class Program:
    """One function and what it is to do."""

    function: str
    file: str
    outcome: str
    """``returned 200``, ``raised KeyError``, ``killed timeout``, ``exited 3``, ``exited signal 11``."""
    calls: dict[str, int]
    more: set[str]
    """Calls of which there may be more: two timers may be due at once, or one after the other."""
    log_count: int
    input: dict[str, object]
    limits: Limits
    atomic: bool
    middleware: tuple[str, ...]


@attrs.frozen
class Run:
    """What one run of a program did."""

    driven: Driven
    calls: tuple[HostCall, ...]
    logs: tuple[LogLine, ...]
    missing: Divergence | None = None


@attrs.frozen
class Result:
    """A recording and its replays."""

    recorded: Run
    replayed: tuple[Run, ...]


class OtherFunctionsStub:
    """Functions that a program may push jobs for and invoke: what they come to is settled."""

    def names(self) -> Collection[str]:
        return ("work", "price", "page", "nothing", "broken")

    async def push(
        self, function: str, payload: bytes, delay_s: float, idempotency_key: str | None, call_seq: int
    ) -> str:
        await trio.lowlevel.checkpoint()
        said = f"{function} {payload!r} {delay_s} {idempotency_key} {call_seq}"
        return str(uuid.UUID(bytes=hashlib.sha256(said.encode()).digest()[:16]))

    async def invoke(self, function: str, value: bytes, user: bytes, call_seq: int) -> Mapping[str, object]:
        await trio.sleep(0.001 * (10 - call_seq % 10))
        match function:
            case "price" if user:
                kind, body = "application/json", user.decode()
            case "broken":
                details = {"function": function, "execution": "qk3f81xa", "status": 404, "type": "HTTPError"}
                raise HostCallFailed("InvokeFailed", "broken failed: HTTPError: gone", code="FLX575", details=details)
            case "page":
                kind, body = "text/html; charset=utf-8", "<p>\u00fc</p>"
            case "nothing":
                kind, body = "", ""
            case _:
                kind, body = "application/json", value.decode()
        return {"execution": "qk3f81xa", "status": 200, "content_type": kind, "body": body}


def read_programs(folder: Path = HERE / "programs") -> list[Program]:
    """Return all programs, from what their files say about them."""
    return [program for path in sorted(folder.glob("*.py")) for program in _read_file(path)]


def _read_file(path: Path) -> Iterator[Program]:
    expect, decorated = r"# Expect: (?P<expect>.*\n(?:# .*\n)*)", r"@function\((?P<options>.*)\)\n"
    block = re.compile(expect + decorated + r"(?:async )?def (?P<name>\w+)")
    for found in block.finditer(path.read_text(encoding="utf-8")):
        lines = found["expect"].replace("\n# ", "\n").splitlines()
        outcome, *parts = lines[0].split("; ")
        logs = [part for part in parts if part.endswith(" log lines")]
        calls = [one.split(" ") for part in parts if part not in logs for one in part.split(", ")]
        notes = dict(line.split(": ", 1) for line in lines[1:] if re.match(r"(Input|Limits): ", line))
        options = found["options"]
        middleware = re.search(r"middleware=\[(.*?)\]", options)
        yield Program(
            function=found["name"],
            file=path.name,
            outcome=outcome,
            calls={name: int(count.rstrip("+")) for name, count in calls},
            more={name for name, count in calls if count.endswith("+")},
            log_count=int(logs[0].split(" ")[0]) if logs else 0,
            input=json.loads(notes.get("Input", "{}")),
            limits=Limits(**json.loads(notes.get("Limits", "{}"))),
            atomic="atomic=False" not in options,
            middleware=tuple(re.findall(r'"(\w+)"', middleware[1])) if middleware else (),
        )


def describe(outcome: Outcome | None) -> str:
    """Return an outcome in the words of the programs' comments."""
    match outcome:
        case Returned(status=status):
            return f"returned {status}"
        case Raised(type=kind):
            return f"raised {kind}"
        case Killed(limit=limit):
            return f"killed {limit}"
        case Exited(signal=int(number)):
            return f"exited signal {number}"
        case Exited(exit_code=code):
            return f"exited {code}"
    return "stopped"


class RefusingHost:
    """A replay's host: it performs nothing, so what a replay knows is from its recording."""

    def is_immediate(self, name: str) -> bool:
        raise AssertionError(f"{name} came to the host during a replay")

    async def perform(self, request: HostCallRequest) -> HostCallResult:
        raise AssertionError(f"{request.name} came to the host during a replay")

    def cancelled(self, request: HostCallRequest, elapsed_ns: int) -> HostCallResult:  # noqa: ARG002 - the protocol's
        raise AssertionError(f"{request.name} came to the host during a replay")


class Lab:
    """Where programs are recorded and replayed."""

    def __init__(
        self, pool: Pool, http: HttpClient, grants: Sequence[str], more: Mapping[str, object]
    ) -> None:
        """``more`` is part of every program's input: where the servers are."""
        self._pool = pool
        self._http = http
        self._grants = Grants.parse(grants)
        self._more = more
        self._token = os.urandom(32)
        self._clock: Clock = SystemClock()

    async def prepare(self) -> None:
        """Let executions mark their transactions."""
        async with self._pool.acquire() as connection:
            await connection.run(QUERIES.add_supervisor, [hashlib.sha256(self._token).digest(), "tests"])

    async def record(self, sandbox: Sandbox, program: Program) -> tuple[Run, dict[str, object], bytes]:
        """Run a program for real; return what it did, and the document and seed it ran with."""
        seed, execution_id = os.urandom(32), uuid.uuid4()
        started_ns = self._clock.now_ns()
        secrets = TenantSecrets(SECRETS, b"key of the tests").of_execution(seed)
        redactor = Redactor(RedactionRules.parse([]), seed, secrets.stand_ins())
        body = {**program.input, **self._more}
        document: dict[str, object] = {
            "execution": "qk3f81xa",
            "function": program.function,
            "now_ns": started_ns,
            "seed": seed.hex(),
            "memory_bytes_max": program.limits.memory_bytes_max,
            "middleware": list(program.middleware),
            "input": body,
            "request": {
                "method": "POST",
                "path": f"/{program.function}",
                "params": [],
                "query": [["ref", "mail"], ["ref", "web"]],
                "headers": [["authorization", "Bearer let-me-in"]],
                "body": json.dumps(body),
            },
        }
        database = ExecutionDatabase(
            self._pool,
            Changes("no secret of this database's", redactor, lambda _call, _mutations: None),
            TableCatalog(self._pool),
            atomic=program.atomic,
            isolation="read committed",
            mark=lambda snapshot, isolation: (self._token, execution_id, snapshot, isolation),
            now_ns=self._clock.now_ns,
            elapsed_ns=lambda: self._clock.now_ns() - started_ns,
            tell=lambda _transaction: None,
        )
        context = CallContext(
            tenant="acme",
            function=program.function,
            grants=self._grants,
            limits=program.limits,
            clock=self._clock,
            entropy=SystemEntropy(),
            database=database,
            http=self._http,
            secrets=secrets,
            functions=OtherFunctionsStub(),
        )
        session = RecordSession()
        worker = await sandbox.acquire()
        try:
            with HostTable(context) as host:
                driven = await drive(
                    worker, wire.encode_start(document), session, host, Bounds(program.limits, {}),
                    redactor=redactor,
                )  # fmt: skip
        finally:
            await sandbox.release(worker, reusable=False)
            # What a program wrote is undone: each begins with the same tables.
            await database.roll_back()
            await database.close()
        return Run(driven, session.calls, session.logs), document, seed

    async def replay(
        self, sandbox: Sandbox, program: Program, recorded: Run, document: dict[str, object], seed: bytes
    ) -> Run:
        """Run a program from its recording."""
        outcome, fuel = recorded.driven.outcome, recorded.driven.fuel
        ended = isinstance(outcome, Returned | Raised)
        cut = outcome if isinstance(outcome, Killed) and outcome.limit == "timeout" else None
        session = ReplaySession(recorded.calls, recorded.logs, ended=ended, cut=cut, fuel=fuel)
        secrets = TenantSecrets(SECRETS, b"key of the tests").of_execution(seed)
        worker = await sandbox.acquire()
        try:
            driven = await drive(
                worker, wire.encode_start(document), session, RefusingHost(), Bounds(program.limits, {}),
                redactor=Redactor(RedactionRules.parse([]), seed, secrets.stand_ins()),
            )  # fmt: skip
        finally:
            await sandbox.release(worker, reusable=False)
        return Run(driven, session.calls, session.logs, session.find_missing(driven.fuel))


async def behave(peer: Peer) -> None:
    """The stub: ``/silent`` never answers, ``/slow`` takes its time, ``/error`` fails, others repeat the body."""
    while True:
        request = await peer.read()
        path = request.line.split(" ")[1]
        if path == "/silent":
            await trio.sleep_forever()
        if path == "/slow":
            await trio.sleep(0.05)
        if path == "/hangup":
            raise Hangup
        status = b"500 Internal Server Error" if path == "/error" else b"200 OK"
        head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        await peer.write(head % (status, len(request.body)) + request.body)


Runner = ProcessSandbox | WasmSandbox


def make_process_sandbox(idle: int, say: Callable[[str], None]) -> Runner:
    """Return a sandbox of the programs in Python."""
    return ProcessSandbox(HERE, "programs", on_output=say, idle_target=idle)


async def record_and_replay(
    database: Database,
    programs: list[Program],
    say: Callable[[str], None] = lambda _text: None,
    make_sandbox: Callable[[int, Callable[[str], None]], Runner] = make_process_sandbox,
) -> dict[str, Result]:
    """Record every program, then replay every recording `REPLAYS` times, in another sandbox."""
    database.psql(SCHEMA)
    results: dict[str, Result] = {}
    pool = database.pool()
    with HttpClient() as http:
        async with serving(behave) as stub, trio.open_nursery() as nursery:
            lab = Lab(pool, http, [f"127.0.0.1:{stub.port}"], {"port": stub.port})
            await lab.prepare()
            first = make_sandbox(4, say)
            second = make_sandbox(7, say)
            await nursery.start(first.run)
            recordings = {program.function: await lab.record(first, program) for program in programs}
            await nursery.start(second.run)
            replays: dict[str, list[Run]] = {program.function: [] for program in programs}
            for _ in range(REPLAYS):
                for program in programs:
                    recorded, document, seed = recordings[program.function]
                    replays[program.function].append(await lab.replay(second, program, recorded, document, seed))
            for program in programs:
                results[program.function] = Result(recordings[program.function][0], tuple(replays[program.function]))
            nursery.cancel_scope.cancel()
    await pool.aclose()
    return results
