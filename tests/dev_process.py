"""``flux dev`` as people run it: a real process, asked over HTTP and by the real command line.

``running_dev(project)`` starts ``flux dev`` as a process in a project's folder and waits for
its ``ready`` line. Everything that a test then learns comes from outside: from
`http.client`, from ``flux`` as a process of its own, from a second ``psql``, from a
`CountingStub`'s list of what reached it.
"""

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import attrs

from tests import documents
from tests.conftest import Database
from tests.forks import Forked, Forker

START_S_MAX = 180.0
STOP_S_MAX = 90.0
COMMAND_S_MAX = 600.0
API_TYPES = ("application/json", "application/x-ndjson")
"""Of what the console answers with documents."""
REQUEST_S_MAX = 120.0
NETLESS = Path(__file__).with_name("netless.py")
"""Runs a program without any network."""

forker: Forker | None = None
"""Starts ``flux`` without importing it again (`tests.forks`); None: ``python -m flux`` is started as it is typed."""


def write_project(
    folder: Path, functions: Mapping[str, str], *, toml: str = "", migrations: Mapping[str, str] | None = None
) -> Path:
    """Write a project: files under ``functions/``, what follows ``[project]`` in flux.toml, migrations by name."""
    for name, source in functions.items():
        path = folder / "functions" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    (folder / "flux.toml").write_text(f'[project]\nname = "test"\n{toml}')
    for name, sql in (migrations or {}).items():
        (folder / "migrations").mkdir(exist_ok=True)
        (folder / "migrations" / name).write_text(sql)
    return folder


def database_url(database: Database) -> str:
    """The URL of a test's database, over its unix socket."""
    server = database.server
    return f"postgresql://{server.user}@/{database.name}?host={quote(server.host, safe='')}&port={server.port}"


@attrs.frozen
class Answer:
    """An HTTP answer."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def flux_id(self) -> str:
        """The execution's name."""
        return self.headers["flux-id"]


@attrs.define
class DevServer:
    """A running ``flux dev`` or ``flux serve``."""

    project: Path
    process: subprocess.Popen[bytes] | Forked
    story: list[str]
    """Lines of its stderr so far."""
    port: int = 0
    reader: threading.Thread = attrs.field(factory=threading.Thread)
    """Reads its stderr until it ends."""
    is_netless: bool = False
    """It has a network of its own, with loopback and nothing else; who asks it has to be in there."""

    def request(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send one request on a connection of its own; a body that is not bytes is sent as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=REQUEST_S_MAX)
        fields = dict(headers or {})
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            fields.setdefault("content-type", "application/json")
        try:
            connection.request(method, path, body, fields)
            response = connection.getresponse()
            answer = Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()
        if path.startswith("/_flux/") and answer.headers.get("content-type", "") in API_TYPES:
            documents.check_text(answer.body.decode())
        if answer.headers.get("content-type") == "application/problem+json" and method != "HEAD":
            documents.check_problem(answer.body)
        return answer

    def command(self, *arguments: str, timeout_s: float = COMMAND_S_MAX) -> subprocess.CompletedProcess[str]:
        """Run ``flux ARGUMENTS`` in the project's folder."""
        via = [sys.executable, str(NETLESS), "join", str(self.process.pid)] if self.is_netless else []
        return run_flux(self.project, *arguments, timeout_s=timeout_s, via=via)

    def json(self, *arguments: str, exit_code: int = 0) -> Any:
        """Run ``flux ARGUMENTS --json`` and return what it prints."""
        done = self.command(*arguments, "--json")
        assert done.returncode == exit_code, f"flux {arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return json.loads(done.stdout)

    def wait_story(self, text: str, *, after: int = 0) -> str:
        """Wait until a line of the server's stderr, not one of the first ``after``, holds ``text``."""
        deadline = time.monotonic() + START_S_MAX
        while time.monotonic() < deadline:
            for line in self.story[after:]:
                if text in line:
                    return line
            assert self.process.poll() is None, "the server ended:\n" + "\n".join(self.story)
            time.sleep(0.02)
        raise AssertionError(f"{text!r} is not told:\n" + "\n".join(self.story))

    def stop(self) -> int:
        """End it as ctrl-c does; return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        exit_code = self.process.wait(STOP_S_MAX)
        self.reader.join()
        return exit_code

    def kill(self) -> None:
        """End it as a power cut does."""
        self.process.kill()
        self.process.wait()
        self.reader.join()


def run_flux(
    folder: Path, *arguments: str, timeout_s: float = COMMAND_S_MAX, via: Sequence[str] = (), stdin: str = "",
    environ: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:  # fmt: skip
    """Run ``flux ARGUMENTS`` in ``folder``, in its own `environment` unless told; ``via`` a program that runs it.

    What it prints with ``--json`` is held to its schemas.
    """
    environ = environment() if environ is None else environ
    if forker is not None and not via:
        done = forker.run(folder, arguments, environ, stdin, timeout_s)
    else:
        done = subprocess.run(
            [*via, sys.executable, "-m", "flux", *arguments], cwd=folder, input=stdin, capture_output=True, text=True,
            timeout=timeout_s, env=environ, check=False,
        )  # fmt: skip
    if "--json" in arguments:
        documents.check_command(arguments, done.stdout, done.stderr)
    return done


def environment() -> dict[str, str]:
    """What a child of a test sees: no colours, no server and no Postgres of somebody else."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FLUXRT_", "PG", "COLUMNS"))}
    return {**kept, "NO_COLOR": "1", "TZ": "UTC", "PYTHONUNBUFFERED": "1"}


def start_dev(project: Path, *arguments: str, port: int = 0, is_netless: bool = False) -> DevServer:
    """Start ``flux dev``, on a free port unless one is given, without waiting for anything."""
    return start_server(project, "dev", "--port", str(port), *arguments, is_netless=is_netless)


def start_server(
    project: Path, *arguments: str, is_netless: bool = False, flux: Path | None = None, more: Mapping[str, str] = {}
) -> DevServer:
    """Start ``flux ARGUMENTS``, a command that serves, without waiting for anything; of the Flux in folder ``flux``.

    ``more`` is in its environment besides.
    """
    process: subprocess.Popen[bytes] | Forked
    if forker is not None and not is_netless and flux is None:
        process = forker.start_server(project, arguments, environment() | {**more})
    else:
        via = [sys.executable, str(NETLESS), "own"] if is_netless else []
        process = subprocess.Popen(
            [*via, sys.executable, "-m", "flux", *arguments], cwd=project,
            env=environment() | {**more} | ({} if flux is None else {"PYTHONPATH": str(flux)}),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
    return _follow(DevServer(project, process, [], is_netless=is_netless))


def start_process(command: Sequence[str], folder: Path, environ: Mapping[str, str]) -> DevServer:
    """Start another program that serves, without waiting for anything."""
    process = subprocess.Popen(
        command, cwd=folder, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    return _follow(DevServer(folder, process, []))


def _follow(server: DevServer) -> DevServer:
    """Have what it says on stderr read, to its end."""
    process = server.process

    def read() -> None:
        assert process.stderr is not None
        with process.stderr:
            for line in process.stderr:
                server.story.append(line.decode(errors="replace").rstrip("\n"))

    server.reader = threading.Thread(target=read, daemon=True)
    server.reader.start()
    return server


@contextlib.contextmanager
def running_dev(
    project: Path, database: Database | None = None, *arguments: str, is_netless: bool = False
) -> Iterator[DevServer]:
    """Run ``flux dev`` for as long as the block lasts; on the embedded Postgres unless ``database`` is given."""
    if database is not None:
        arguments = ("--database-url", database_url(database), *arguments)
    with serving(start_dev(project, *arguments, is_netless=is_netless)) as server:
        yield server


@contextlib.contextmanager
def running_serve(project: Path, database: Database, *arguments: str) -> Iterator[DevServer]:
    """Run ``flux serve`` on a free port of loopback for as long as the block lasts; a variable names the database."""
    more = {"FLUXRT_DATABASE_URL": database_url(database)}
    with serving(start_server(project, "serve", "--bind", "127.0.0.1:0", *arguments, more=more)) as server:
        yield server


@contextlib.contextmanager
def serving(server: DevServer) -> Iterator[DevServer]:
    """Wait until ``server`` is ready, and end it with the block unless the block has done so."""
    try:
        wait_ready(server)
        yield server
        if server.process.poll() is None:
            assert server.stop() == 0, "the server did not end well:\n" + "\n".join(server.story)
    finally:
        server.kill()


def wait_ready(server: DevServer) -> None:
    """Wait until ``server`` takes requests, and learn its port."""
    server.wait_story("ready")
    url = re.search(r"http://127\.0\.0\.1:(\d+)", "\n".join(server.story))
    assert url is not None, "\n".join(server.story)
    server.port = int(url[1])


@attrs.frozen
class Seen:
    """A request as the stub saw it."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    at: float
    """Seconds since the Unix epoch."""


class CountingStub:
    """A server on loopback that answers by path and keeps what reached it.

    ``/hang`` never answers, ``/status/N`` answers N, ``/bytes/N`` N bytes 0 to 255 again and again,
    ``/slow/MS`` waits, ``/cookie`` sets one, ``/redirect/N?URL`` leads there with the status N; a path in ``pages``
    gets that, anything else ``{"ok": true}``.
    """

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.pages: dict[str, bytes] = {}
        self.held: set[str] = set()
        """Paths that are answered when they are released."""
        self._released = threading.Event()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_arguments: object) -> None:
                """Tests say themselves what they saw."""

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", "0")))
                released = stub._released  # Before it is seen: who sees it may let it go.
                stub.seen.append(Seen(self.command, self.path, tuple(self.headers.items()), body, time.time()))
                status, content, kind = 200, stub.pages.get(self.path, b'{"ok": true}'), "application/json"
                _, word, *rest = self.path.partition("?")[0].split("/")
                if word == "hang" or self.path in stub.held:
                    released.wait(120)
                if word == "hang":
                    self.close_connection = True
                    return
                if word == "status":
                    status, content = int(rest[0]), b'{"error": "as asked"}'
                elif word == "bytes":
                    size, kind = int(rest[0]), "application/octet-stream"
                    content = (bytes(range(256)) * (size // 256 + 1))[:size]
                elif word == "redirect":
                    status = int(rest[0])
                elif word == "slow":
                    time.sleep(int(rest[0]) / 1000)
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(content)))
                if word == "redirect":
                    self.send_header("location", self.path.partition("?")[2])
                if word == "cookie":
                    self.send_header("set-cookie", "session=of-one-user; Path=/")
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def url(self, path: str) -> str:
        """The URL of ``path`` here."""
        return f"http://127.0.0.1:{self.port}{path}"

    def release(self) -> None:
        """Let go of requests that it left hanging; those that come from then on hang again."""
        released, self._released = self._released, threading.Event()
        released.set()

    def close(self) -> None:
        """End it, and let go of requests that it left hanging."""
        self._released.set()
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def counting_stub() -> Iterator[CountingStub]:
    """A `CountingStub` for as long as the block lasts."""
    stub = CountingStub()
    try:
        yield stub
    finally:
        stub.close()
