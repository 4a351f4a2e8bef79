"""The command line as a client, run as people run it.

Each test starts ``python -m flux`` as a process against a small HTTP server that
answers with documents in the shapes of the contract. The server's own record
of what it was asked is the oracle for what the command sent.
"""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from tests.dev_process import run_flux

API = "/_flux/api"
TOKEN = "a-token-for-tests"

SUMMARY: dict[str, Any] = {
    "schema": "flux.summary/1",
    "id": "019abf00-0000-7000-8000-000000000001",
    "name": "qk3f81xa".replace("8", "7").replace("1", "2"),
    "trigger": "http",
    "function": "create_user",
    "method": "POST",
    "path": "/signup",
    "route": "/signup",
    "status": 500,
    "outcome": "raised",
    "error": {
        "type": "KeyError",
        "message": "None",
        "location": {"file": "functions/pricing.py", "line": 27, "function": "amount"},
    },
    "signature": "KeyError: None  functions/pricing.py:27",
    "started_at": "2026-11-24T14:02:19.504000Z",
    "elapsed_ms": 14.2,
    "calls": 3,
    "mutations": 2,
    "sha": "3f9c1e2d1b4a5c6d7e8f90123456789012345678",
    "dirty": False,
    "deployment": "5d41402abc4b2a76",
    "parent": None,
    "attempt": 1,
    "replay_of": None,
    "tenant": "default",
    "completeness": "whole",
}
PASSED = SUMMARY | {
    "id": "019abf00-0000-7000-8000-000000000002",
    "name": "qk7dd44m",
    "status": 201,
    "outcome": "returned",
    "error": None,
    "signature": None,
    "elapsed_ms": 61,
    "path": "/orders",
    "route": "/orders",
    "function": "create",
}
QUEUED = PASSED | {
    "id": "019abf00-0000-7000-8000-000000000003",
    "name": "qm2c3vvz",
    "trigger": "queue",
    "function": "send_welcome",
    "method": None,
    "path": None,
    "route": None,
    "status": None,
    "parent": PASSED["id"],
    "elapsed_ms": 1340,
}
MUTATIONS = [
    {
        "schema_name": "public",
        "table": "users",
        "key": {"id": 42},
        "op": "insert",
        "before": None,
        "after": {"id": 42, "email": "a@b.com", "plan": "free"},
        "committed": False,
        "call": 1,
        "depth": 0,
        "xid": 771,
        "at": "2026-11-24T14:02:19.507000Z",
    },
    {
        "schema_name": "public",
        "table": "users",
        "key": {"id": 42},
        "op": "update",
        "before": {"id": 42, "email": "a@b.com", "plan": "free"},
        "after": {"id": 42, "email": "a@b.com", "plan": None},
        "committed": False,
        "call": 2,
        "depth": 0,
        "xid": 771,
        "at": "2026-11-24T14:02:19.507000Z",
    },
]
CALLS = [
    {
        "seq": 0,
        "task": 0,
        "kind": "clock.now",
        "arguments": {},
        "result": 1764000000000000000,
        "error": None,
        "answered": 1,
        "started_ms": 0.4,
        "elapsed_ms": 0.01,
        "location": {"file": "functions/signup.py", "line": 10, "function": "create_user"},
    },
    {
        "seq": 1,
        "task": 0,
        "kind": "db.query",
        "arguments": {
            "sql": "insert into users (email, plan) values ($1, 'free') returning id",
            "args": ["a@b.com"],
        },
        "result": {"columns": ["id"], "rows": [[42]]},
        "error": None,
        "answered": 2,
        "started_ms": 2.1,
        "elapsed_ms": 4.0,
        "location": {"file": "functions/signup.py", "line": 12, "function": "create_user"},
    },
    {
        "seq": 2,
        "task": 0,
        "kind": "db.execute",
        "arguments": {"sql": "UPDATE users SET plan = $1 WHERE id = $2", "args": [None, 42]},
        "result": 1,
        "error": None,
        "answered": 3,
        "started_ms": 7.0,
        "elapsed_ms": 3.0,
        "location": {"file": "functions/signup.py", "line": 16, "function": "create_user"},
    },
    {
        "seq": 3,
        "task": 0,
        "kind": "http.request",
        "arguments": {
            "method": "POST",
            "url": "https://api.stripe.com/v1/charges?x=1",
            "json": {"amount": 12},
        },
        "result": None,
        "error": {"type": "Timeout", "message": "no answer in 10,000 ms", "code": None, "details": {}},
        "answered": 4,
        "started_ms": 11.0,
        "elapsed_ms": 2.0,
        "location": {"file": "functions/payments.py", "line": 42, "function": "charge"},
    },
]
TRACE = SUMMARY | {
    "schema": "flux.trace/1",
    "input": {
        "method": "POST", "path": "/signup", "params": {}, "query": {}, "headers": {"x-tags": ["a", "b"]},
        "client": "127.0.0.1", "auth": None,
        "body": {"email": "a@b.com", "名前": "山田", "note": "e\u0301clair"}, "body_format": "json",
    },
    "output": {
        "status": 500, "code": "FUNCTION_ERROR",
        "raised": {"type": "KeyError", "message": "None", "cause": None}, "violations": [],
    },
    "user": None,
    "stack": [],
    "calls": CALLS,
    "spans": [
        {
            "traceId": "019abf00000070008000000000000001", "spanId": "019abf0000000001", "parentSpanId": "",
            "name": "POST /signup", "kind": 2, "startTimeUnixNano": "1763992939504000000",
            "endTimeUnixNano": "1763992939518200000", "attributes": [], "status": {"code": 0}, "links": [],
        }
    ],
    "mutations": MUTATIONS,
    "logs": [
        {
            "schema": "flux.log/1",
            "line": 1,
            "at": "2026-11-24T14:02:19.510Z",
            "level": "info",
            "message": "signing up",
            "fields": {"email": "a@b.com"},
            "location": None,
            "execution": SUMMARY["name"],
            "function": "create_user",
        }
    ],
    "sandbox": {"kind": "process", "isolation": "strict", "clock": "vdso", "served_before": 0},
    "limits": [],
    "transactions": [],
    "cause": None,
    "children": [QUEUED],
    "jobs": [],
    "replays": [],
}
WHY = {
    "schema": "flux.why/1",
    "execution": SUMMARY,
    "failure": {
        "kind": "unhandled_exception",
        "type": "KeyError",
        "message": "None",
        "location": {"file": "functions/pricing.py", "line": 27, "function": "amount"},
        "call": None,
        "signature": SUMMARY["signature"],
        "is_answer": False,
    },
    "facts": [
        {"mark": "●", "rule": "null-written", "text": 'call 2 set users.plan from "free" to null', "call": 2},
        {"mark": "●", "rule": "input", "text": 'the input has no "plan"', "call": None},
        {
            "mark": "≈",
            "rule": "input-of-peers",
            "text": "20 of 20 passing neighbours have input.plan",
            "call": None,
        },
    ],
    "mutations": MUTATIONS,
    "next": ["flux bug bisect qk3 --good b71d04a", "flux trace diff qk2 qk3", "flux replay qk3 --on ."],
    "verdict_text": [
        "KeyError: None",
        "functions/pricing.py:27 in amount()  ←  functions/signup.py:21 in create_user()",
    ],
}
ERRORS = {
    "schema": "flux.errors/1",
    "groups": [
        {
            "signature": "Timeout api.stripe.com",
            "count": 1,
            "first": "2026-11-24T14:02:00Z",
            "last": "2026-11-24T14:02:00Z",
            "sample": "qt5mac2e",
            "functions": ["create"],
            "error": {"type": "Timeout", "message": "api.stripe.com", "location": None},
        },
        {
            "signature": "KeyError: None  functions/pricing.py:27",
            "count": 22,
            "first": "2026-11-23T14:02:00Z",
            "last": "2026-11-24T14:02:19Z",
            "sample": "qk3f72xa",
            "functions": ["create_user"],
            "error": SUMMARY["error"],
        },
    ],
    "not_stored": 0,
}
FUNCTIONS = {
    "schema": "flux.functions/1",
    "functions": [
        {
            "name": "create_user",
            "route": "POST /signup",
            "runtime": "python",
            "grants": ["db", "http:api.stripe.com"],
            "auth": None,
            "middleware": [],
            "sha": "3f9c1e2d",
            "error": None,
        },
        {
            "name": "get",
            "route": "GET /orders/{id}",
            "runtime": "python",
            "grants": ["db(read)"],
            "auth": None,
            "middleware": [],
            "sha": "3f9c1e2d",
            "error": None,
        },
        {
            "name": "nightly",
            "route": None,
            "runtime": "javascript",
            "grants": [],
            "auth": None,
            "middleware": [],
            "sha": "3f9c1e2d",
            "error": "SyntaxError: line 3",
        },
    ],
}
HISTORY = {
    "schema": "flux.state-history/1",
    "versions": [
        MUTATIONS[0]
        | {
            "committed": True,
            "version": 1,
            "at": "2026-11-20T09:00:00Z",
            "execution": "k7rttttt",
            "function": "create_user",
            "sha": "90aa3b1",
            "outside": False,
            "migration": None,
            "gap": False,
        },
        MUTATIONS[1]
        | {
            "version": None,
            "at": "2026-11-24T14:02:19Z",
            "execution": "qk3f72xa",
            "function": "create_user",
            "sha": "3f9c1e2",
            "outside": False,
            "migration": None,
            "gap": False,
        },
        MUTATIONS[1]
        | {
            "committed": True,
            "version": 2,
            "at": "2026-11-24T15:00:00Z",
            "execution": None,
            "function": None,
            "sha": None,
            "outside": True,
            "migration": None,
            "gap": False,
        },
        MUTATIONS[1]
        | {
            "committed": True,
            "before": {"plan": None},
            "after": {"plan": "pro"},
            "version": 3,
            "at": "2026-11-24T15:30:00Z",
            "execution": "qk7aaaaa",
            "function": "upgrade",
            "sha": "3f9c1e2",
            "outside": False,
            "migration": None,
            "gap": False,
        },
    ],
    "notes": [],
    "not_stored": 0,
}
INVOKED = {
    "schema": "flux.invoke/1", "status": 201, "body": {"id": 42, "名": "é"}, "body_format": "json", "execution": PASSED,
}  # fmt: skip
LOGS = [
    {
        "schema": "flux.log/1",
        "line": 1,
        "at": "2026-11-24T14:02:19.510Z",
        "level": "info",
        "message": "signing up",
        "fields": {"user": 42},
        "location": None,
        "execution": "qk3f72xa",
        "function": "create_user",
    },
    {
        "schema": "flux.log/1",
        "line": 2,
        "at": "2026-11-24T14:02:20.000Z",
        "level": "error",
        "message": "no plan",
        "fields": {},
        "location": None,
        "execution": "qk3f72xa",
        "function": "create_user",
    },
]
EXECUTIONS = {"schema": "flux.executions/1", "executions": [QUEUED, PASSED, SUMMARY], "not_stored": 0}


class Reply:
    """What the stub answers to one path."""

    def __init__(
        self, body: bytes, *, status: int = 200, kind: str = "application/json", keep_open: bool = False,
        cut: bool = False, location: str | None = None,
    ) -> None:  # fmt: skip
        self.body = body
        self.status = status
        self.kind = kind
        self.keep_open = keep_open
        """Leave the stream open until the server stops."""
        self.cut = cut
        """Promise more bytes than are sent."""
        self.location = location


def document(value: Any, **attributes: Any) -> Reply:
    return Reply(json.dumps(value).encode(), **attributes)


def stream(*values: Any, **attributes: Any) -> Reply:
    body = "".join(json.dumps(value) + "\n" for value in values).encode()
    return Reply(body, kind="application/x-ndjson", **attributes)


def problem(status: int, code: str, detail: str, **more: Any) -> Reply:
    return document(
        {"type": "about:blank", "title": "Problem", "status": status, "code": code, "detail": detail, **more},
        status=status, kind="application/problem+json",
    )  # fmt: skip


class Stub:
    """A loopback server that says what it was told to say, and remembers what it was asked."""

    def __init__(self) -> None:
        self.replies: dict[str, list[Reply]] = {}
        """By method and path. The last reply of a list is given again and again."""
        self.asked: list[tuple[str, str, dict[str, list[str]], bytes]] = []
        """Method, path, query and body of each request, in order."""
        self.stopping = threading.Event()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments: object) -> None:
                pass

            def do_GET(self) -> None:
                stub.answer(self)

            def do_POST(self) -> None:
                stub.answer(self)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()
        self.say_all()

    def say_all(self) -> None:
        """Give every path its ordinary answer."""
        name = SUMMARY["name"]
        for path, value in {
            "/executions": EXECUTIONS, f"/executions/{SUMMARY['id']}": TRACE, f"/executions/{name}": TRACE,
            "/executions/qk3": TRACE, "/executions/@last-error": TRACE, "/executions/qk3/why": WHY,
            "/executions/@last-error/why": WHY, "/errors": ERRORS, "/functions": FUNCTIONS,
            "/state/history": HISTORY,
        }.items():  # fmt: skip
            self.say("GET", path, document(value))
        self.say("POST", "/invoke/create", document(INVOKED))
        self.say("GET", "/tail", stream(SUMMARY, {"heartbeat": True}, PASSED, QUEUED))
        self.say("GET", "/logs", stream(*LOGS))

    def say(self, method: str, path: str, *replies: Reply) -> None:
        self.replies[f"{method} {path}"] = list(replies)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        path = unquote(parts.path)
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        self.asked.append((handler.command, path, parse_qs(parts.query), body))
        if handler.headers.get("Authorization") != f"Bearer {TOKEN}":
            reply = problem(401, "UNAUTHORIZED", "a token is needed")
        else:
            queue = self.replies.get(f"{handler.command} {path.removeprefix(API)}")
            if queue is None:
                reply = problem(404, "FLX101", f"nothing at {path}")
            else:
                reply = queue.pop(0) if len(queue) > 1 else queue[0]
        handler.send_response(reply.status)
        handler.send_header("Content-Type", reply.kind)
        if reply.location:
            handler.send_header("Location", reply.location)
        if reply.keep_open:
            handler.send_header("Transfer-Encoding", "chunked")
            handler.end_headers()
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(reply.body), reply.body))
            handler.wfile.flush()
            self.stopping.wait(30)
            return
        handler.send_header("Content-Length", str(len(reply.body) + 100 * reply.cut))
        handler.end_headers()
        with contextlib.suppress(BrokenPipeError):
            handler.wfile.write(reply.body)
        if reply.cut:
            handler.close_connection = True

    def queries(self, path: str) -> list[dict[str, list[str]]]:
        return [query for _, asked, query, _ in self.asked if asked == API + path]

    def stop(self) -> None:
        self.stopping.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(5)


@pytest.fixture
def stub() -> Iterator[Stub]:
    server = Stub()
    yield server
    server.stop()


class Ran:
    """A command that has ended."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.code = done.returncode
        self.out = done.stdout
        self.err = done.stderr


@pytest.fixture
def flux(stub: Stub, tmp_path: Path) -> Callable[..., Ran]:
    """Runs a command against the stub, in an empty folder, without a terminal."""

    def run(*arguments: str, stdin: str = "", **environment: str) -> Ran:
        known = {"FLUXRT_URL": stub.url, "FLUXRT_TOKEN": TOKEN, "PATH": os.environ["PATH"], "TZ": "UTC"}
        return Ran(run_flux(tmp_path, *arguments, stdin=stdin, environ=known | environment))

    return run


def test_why_answers_in_its_first_lines_and_ends_with_the_next_command(flux: Callable[..., Ran]) -> None:
    ran = flux("why", "qk3")
    assert ran.code == 0, ran.err
    lines = ran.out.splitlines()
    assert "POST /signup → 500" in lines[0] and SUMMARY["name"] in lines[0]
    assert lines[2].strip() == "KeyError: None"
    assert "● call 2 set users.plan" in ran.out
    assert "≈ 20 of 20 passing neighbours have input.plan" in ran.out
    assert "input-of-peers" in ran.out, "an inference names its rule"
    assert lines.index(next(line for line in lines if "next" in line)) > len(lines) - 5


@pytest.mark.parametrize(
    ("arguments", "schema"),
    [
        (["why", "qk3"], "flux.why/1"),
        (["trace", "qk3"], "flux.trace/1"),
        (["trace", "list"], "flux.executions/1"),
        (["errors"], "flux.errors/1"),
        (["function", "list"], "flux.functions/1"),
        (["state", "history", "users", "42"], "flux.state-history/1"),
        (["invoke", "create"], "flux.invoke/1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_json_is_the_servers_document_whole(flux: Callable[..., Ran], arguments: list[str], schema: str) -> None:
    ran = flux(*arguments, "--json")
    answer = json.loads(ran.out)
    assert answer["schema"] == schema
    original = {
        "flux.why/1": WHY, "flux.trace/1": TRACE, "flux.executions/1": EXECUTIONS, "flux.errors/1": ERRORS,
        "flux.functions/1": FUNCTIONS, "flux.state-history/1": HISTORY, "flux.invoke/1": INVOKED,
    }[schema]  # fmt: skip
    assert answer == original


def test_the_flags_stand_before_or_after_the_command(flux: Callable[..., Ran]) -> None:
    assert flux("--json", "errors").out == flux("errors", "--json").out


def test_tail_shows_each_execution_once_and_no_heartbeat(flux: Callable[..., Ran], stub: Stub) -> None:
    ran = flux("tail", "--no-follow", "-q", "status:>=500 since:1h", "--json")
    assert ran.code == 0, ran.err
    assert [json.loads(line)["name"] for line in ran.out.splitlines()] == [
        SUMMARY["name"], PASSED["name"], QUEUED["name"],
    ]  # fmt: skip
    (query,) = stub.queries("/tail")
    assert query["q"][0].startswith("status:>=500")


def test_a_filter_with_a_mistake_reaches_no_server(flux: Callable[..., Ran], stub: Stub) -> None:
    ran = flux("trace", "list", "-q", "statsu:500")
    assert ran.code == 2 and "FLX105" in ran.err and "did you mean status?" in ran.err
    assert stub.asked == [] and ran.out == ""


def test_invoke_sends_the_input_as_it_was_given(flux: Callable[..., Ran], stub: Stub, tmp_path: Path) -> None:
    given = {"email": "a@b.com", "名": "é"}
    (tmp_path / "input.json").write_text(json.dumps(given), encoding="utf-8")
    for arguments, stdin in (
        (["--data", json.dumps(given)], ""),
        (["--data", "@input.json"], ""),
        (["--data", "-"], json.dumps(given)),
    ):
        assert flux("invoke", "create", *arguments, stdin=stdin).code == 0
    assert [json.loads(body) for _method, _path, _query, body in stub.asked] == [{"data": given}] * 3


def test_invoke_exits_with_a_finding_when_the_function_failed(flux: Callable[..., Ran], stub: Stub) -> None:
    stub.say("POST", "/invoke/create", document(INVOKED | {"status": 500, "execution": SUMMARY}))
    assert flux("invoke", "create").code == 1


def test_what_is_no_json_is_not_sent(flux: Callable[..., Ran], stub: Stub) -> None:
    ran = flux("invoke", "create", "--data", "{nope")
    assert ran.code == 2 and "FLX100" in ran.err
    assert stub.asked == []


@pytest.mark.parametrize(
    ("status", "code", "exit_code", "shown"),
    [
        (404, "FLX101", 3, "FLX101"),
        (409, "FLX102", 3, "FLX102"),
        (401, "UNAUTHORIZED", 4, "FLX104"),
        (403, "FORBIDDEN", 4, "FLX104"),
        (500, "FUNCTION_ERROR", 5, "FLX106"),
        (503, "FLX202", 2, "FLX202"),
    ],
)
def test_an_error_of_the_server_is_told_with_its_code_and_never_an_empty_answer(
    flux: Callable[..., Ran], stub: Stub, status: int, code: str, exit_code: int, shown: str
) -> None:
    reply = problem(status, code, "what happened", remedy="what to do")
    for path in ("/executions", "/errors", "/functions", "/state/history", "/executions/qk3/why"):
        stub.say("GET", path, reply)
    for arguments in (
        ["trace", "list"], ["errors"], ["function", "list"], ["state", "history", "users", "1"], ["why", "qk3"],
    ):  # fmt: skip
        ran = flux(*arguments)
        assert (ran.code, ran.out) == (exit_code, ""), (arguments, ran.err)
        assert ran.err.startswith(shown) and "what happened" in ran.err


def test_an_error_with_json_is_one_object_on_stderr(flux: Callable[..., Ran], stub: Stub) -> None:
    stub.say("GET", "/errors", problem(503, "FLX202", "the database is down", remedy="start it"))
    ran = flux("errors", "--json")
    assert ran.out == ""
    told = json.loads(ran.err)
    assert told["code"] == "FLX202" and "the database is down" in json.dumps(told)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(b'{"schema": "flux.errors/1", "gro'),
        Reply(b"<html>a proxy</html>", kind="text/html"),
        Reply(b'{"schema": "flux.errors/1"}', cut=True),
        Reply(b"\xff\xfe"),
        Reply(b'{"schema": "flux.errors/1", "groups": NaN}'),
        document({"schema": "flux.errors/1"}),
    ],
    ids=["cut JSON", "another program", "cut body", "no UTF-8", "no JSON", "nothing in it"],
)
def test_half_an_answer_is_no_answer(flux: Callable[..., Ran], stub: Stub, reply: Reply) -> None:
    stub.say("GET", "/errors", reply)
    ran = flux("errors")
    assert ran.code == 5 and ran.out == "", (ran.out, ran.err)
    assert "Traceback" not in ran.err


def test_a_wrong_token_is_said_to_be_wrong(flux: Callable[..., Ran]) -> None:
    ran = flux("errors", FLUXRT_TOKEN="another")
    assert ran.code == 4 and "FLUXRT_TOKEN" in ran.err


def test_nobody_at_the_address_is_said(flux: Callable[..., Ran]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else takes the port meanwhile
        ran = flux("errors", FLUXRT_URL=f"http://127.0.0.1:{taken.getsockname()[1]}")
    assert ran.code == 5 and "FLX103" in ran.err and "nothing listens there" in ran.err


def test_without_any_server_the_command_says_how_to_name_one(flux: Callable[..., Ran]) -> None:
    ran = flux("errors", FLUXRT_URL="", FLUXRT_TOKEN="")
    assert ran.code == 5 and "FLX108" in ran.err and "flux dev" in ran.err


def test_the_projects_server_is_found_from_a_folder_below(flux: Callable[..., Ran], stub: Stub, tmp_path: Path) -> None:
    _write_server_file(tmp_path, stub.url, 0o600)
    below = tmp_path / "functions" / "deep"
    below.mkdir(parents=True)
    environment = {"PATH": os.environ["PATH"]}
    command = [sys.executable, "-m", "flux", "errors", "--json"]
    done = subprocess.run(command, cwd=below, env=environment, capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout) == ERRORS, done.stderr


def test_a_server_file_that_others_can_read_is_not_trusted(
    flux: Callable[..., Ran], stub: Stub, tmp_path: Path
) -> None:
    _write_server_file(tmp_path, stub.url, 0o644)
    ran = flux("errors", FLUXRT_URL="", FLUXRT_TOKEN="")
    assert ran.code == 2 and "FLX111" in ran.err and "chmod 600" in ran.err
    assert stub.asked == []


def _write_server_file(project: Path, url: str, mode: int) -> None:
    folder = project / ".flux"
    folder.mkdir()
    file = folder / "dev.json"
    file.write_text(json.dumps({"url": url, "token": TOKEN}), encoding="utf-8")
    file.chmod(mode)


HOSTILE = "\x1b]0;owned\x07\x1b[2J\u009b31m\u202ereversed\u2066\rover"
DANGEROUS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def test_nothing_recorded_reaches_the_terminal_as_a_command_to_it(flux: Callable[..., Ran], stub: Stub) -> None:
    def poison(value: Any) -> Any:
        match value:
            case str():
                return value + HOSTILE
            case dict():
                return {key: item if key in ("id", "schema") else poison(item) for key, item in value.items()}
            case list():
                return [poison(item) for item in value]
        return value

    keep = {"name": SUMMARY["name"], "started_at": SUMMARY["started_at"], "mark": "●"}
    summary = poison(SUMMARY) | keep
    stub.say("GET", "/executions", document(EXECUTIONS | {"executions": [summary]}))
    facts = [poison(fact) | {"mark": "●"} for fact in WHY["facts"]]
    stub.say("GET", "/executions/qk3/why", document(poison(WHY) | {"execution": summary, "facts": facts}))
    stub.say("GET", "/functions", document(poison(FUNCTIONS) | {"schema": FUNCTIONS["schema"]}))
    for arguments in (["trace", "list"], ["why", "qk3"], ["function", "list"]):
        ran = flux(*arguments)
        assert ran.code == 0, ran.err
        assert "owned" in ran.out, "it is shown, as text"
        assert DANGEROUS.search(ran.out) is None, (arguments, ran.out)


def test_output_into_a_pipe_has_no_colour_and_no_pager(flux: Callable[..., Ran]) -> None:
    for arguments in (["why", "qk3"], ["trace", "qk3"], ["errors"], ["state", "history", "users", "42"]):
        assert "\x1b" not in flux(*arguments).out


def test_a_reader_that_has_enough_ends_the_command_quietly(stub: Stub, tmp_path: Path) -> None:
    many = [SUMMARY | {"id": f"019abf00-0000-7000-8000-{number:012d}"} for number in range(3000)]
    stub.say("GET", "/tail", stream(*many, keep_open=True))
    environment = {"FLUXRT_URL": stub.url, "FLUXRT_TOKEN": TOKEN, "PATH": os.environ["PATH"]}
    command = f"'{sys.executable}' -m flux tail | head -n 3"
    done = subprocess.run(
        ["/bin/sh", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert len(done.stdout.splitlines()) == 3
    assert "Traceback" not in done.stderr and "Broken" not in done.stderr


def test_state_history_tells_what_was_rolled_back_and_what_came_from_outside(flux: Callable[..., Ran]) -> None:
    shown = flux("state", "history", "users", "42").out
    assert "rolled back" in shown and "outside" in shown.lower()
    assert shown.index("upgrade") < shown.index("90aa3b1"), "newest first"
    told = flux("state", "history", "users", "42", COLUMNS="40").out.partition("\n\n")[0].splitlines()
    assert len(told) > 1 and max(map(len, told)) <= 40 and " ".join(" ".join(told).split()) == shown.splitlines()[0]


def test_a_command_that_does_not_exist_names_the_near_one(flux: Callable[..., Ran]) -> None:
    ran = flux("eror")
    assert ran.code == 2 and "errors" in ran.err and "FLX100" in ran.err
