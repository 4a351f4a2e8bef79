"""The command line as a client, run as people run it.

Each test starts ``python -m flux`` as a process against a small HTTP server that
answers with documents in the shapes of the contract. The server's own record
of what it was asked is the oracle for what the command sent.
"""

import contextlib
import copy
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

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
    "status": 500,
    "outcome": "raised",
    "error": {
        "type": "KeyError",
        "message": "None",
        "location": {"file": "functions/pricing.py", "line": 27, "function": "amount"},
    },
    "started_at": "2026-11-24T14:02:19.504000Z",
    "elapsed_ms": 14.2,
    "calls": 3,
    "mutations": 2,
    "sha": "3f9c1e2d1b4a5c6d7e8f90123456789012345678",
    "dirty": False,
    "parent": None,
    "tenant": "default",
    "completeness": "whole",
}
PASSED = SUMMARY | {
    "id": "019abf00-0000-7000-8000-000000000002",
    "name": "qk7dd44m",
    "status": 201,
    "outcome": "returned",
    "error": None,
    "elapsed_ms": 61,
    "path": "/orders",
    "function": "create",
}
QUEUED = PASSED | {
    "id": "019abf00-0000-7000-8000-000000000003",
    "name": "qm2c3vvz",
    "trigger": "queue",
    "function": "send_welcome",
    "method": None,
    "path": None,
    "status": None,
    "parent": PASSED["id"],
    "elapsed_ms": 1340,
}
MUTATIONS = [
    {
        "table": "users",
        "key": 42,
        "op": "insert",
        "before": None,
        "after": {"id": 42, "email": "a@b.com", "plan": "free"},
        "committed": False,
        "call": 1,
        "depth": 0,
        "xid": 771,
    },
    {
        "table": "users",
        "key": 42,
        "op": "update",
        "before": {"id": 42, "email": "a@b.com", "plan": "free"},
        "after": {"id": 42, "email": "a@b.com", "plan": None},
        "committed": False,
        "call": 2,
        "depth": 0,
        "xid": 771,
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
        "error": "Timeout: no answer in 10,000 ms",
        "started_ms": 11.0,
        "elapsed_ms": 2.0,
        "location": {"file": "functions/payments.py", "line": 42, "function": "charge"},
    },
]
TRACE = SUMMARY | {
    "schema": "flux.trace/1",
    "input": {"email": "a@b.com", "名前": "山田", "note": "e\u0301clair"},
    "output": {
        "type": "about:blank",
        "title": "Internal Server Error",
        "status": 500,
        "code": "FUNCTION_ERROR",
    },
    "calls": CALLS,
    "spans": [{"name": "signup.create_user", "start_ms": 0, "elapsed_ms": 14}],
    "mutations": MUTATIONS,
    "logs": [
        {
            "at": "2026-11-24T14:02:19.510Z",
            "level": "info",
            "message": "signing up",
            "fields": {"email": "a@b.com"},
        }
    ],
    "sandbox": {"kind": "process", "isolation": "strict", "clock": "virtual"},
    "children": [QUEUED],
}
WHY = {
    "schema": "flux.why/1",
    "execution": SUMMARY,
    "failure": {
        "kind": "raised",
        "type": "KeyError",
        "message": "None",
        "location": {"file": "functions/pricing.py", "line": 27, "function": "amount"},
        "call": None,
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
        },
        {
            "signature": "KeyError: None  functions/pricing.py:27",
            "count": 22,
            "first": "2026-11-23T14:02:00Z",
            "last": "2026-11-24T14:02:19Z",
            "sample": "qk3f72xa",
            "functions": ["create_user"],
        },
    ],
}
FUNCTIONS = {
    "schema": "flux.functions/1",
    "functions": [
        {
            "name": "create_user",
            "route": "POST /signup",
            "runtime": "python",
            "grants": ["db", "http:api.stripe.com"],
            "sha": "3f9c1e2d",
        },
        {
            "name": "get",
            "route": "GET /orders/{id}",
            "runtime": "python",
            "grants": ["db(read)"],
            "sha": "3f9c1e2d",
        },
        {
            "name": "nightly",
            "route": None,
            "runtime": "javascript",
            "grants": [],
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
        },
        MUTATIONS[1]
        | {
            "version": None,
            "at": "2026-11-24T14:02:19Z",
            "execution": "qk3f72xa",
            "function": "create_user",
            "sha": "3f9c1e2",
            "outside": False,
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
        },
    ],
}
INVOKED = {"schema": "flux.invoke/1", "status": 201, "body": {"id": 42, "名": "é"}, "execution": PASSED}
LOGS = [
    {
        "at": "2026-11-24T14:02:19.510Z",
        "level": "info",
        "message": "signing up",
        "fields": {"user": 42},
        "execution": "qk3f72xa",
        "function": "create_user",
    },
    {
        "at": "2026-11-24T14:02:20.000Z",
        "level": "error",
        "message": "no plan",
        "fields": {},
        "execution": "qk3f72xa",
        "function": "create_user",
    },
]
EXECUTIONS = {"schema": "flux.executions/1", "executions": [QUEUED, PASSED, SUMMARY]}


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
