"""``flux trace debug`` as it is used: at a prompt on a terminal, and by an editor, of requests to a running server."""

import contextlib
import fcntl
import http.client
import io
import os
import pty
import re
import socket
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import attrs
import pytest

from tests import dev_process
from tests.conftest import Database
from tests.dap_client import DapClient
from tests.dev_process import DevServer, environment, running_dev, write_project
from tests.forks import Forked

SIGNUP = """\
from flux_guest import function


def rate(plan):
    prices = {"free": 0}
    return prices[plan]


@function("POST /signup")
def create_user(ctx, input):
    user = ctx.db.query_one("insert into users (email) values ($1) returning id", input["email"])
    plan = input.get("plan", "pro")
    ctx.db.execute("update users set plan = $1 where id = $2", plan, user["id"])
    cents = rate(plan)
    return {"id": user["id"], "cents": cents}
"""
COUNT = """\
import { defineFunction } from "@flux/guest";

export default defineFunction({
  route: "GET /count",
  handler: async ({ ctx }) => {
    const { n } = await ctx.db.queryOne("select count(*)::int as n from users");
    throw new Error(`there are ${n}`);
  },
});
"""
PROMPT = r"#\d+ > "
USERS = "create table users (id bigint generated always as identity primary key, email text not null, plan text);"


@attrs.define
class Terminal:
    """A person at a prompt."""

    end: int
    process: subprocess.Popen[bytes] | Forked
    shown: str = ""

    def wait(self, pattern: str = PROMPT) -> str:
        """Read until ``pattern`` is shown, and return what came before it."""
        while (found := re.search(pattern, self.shown)) is None:
            try:
                data = os.read(self.end, 65_536)
            except OSError:  # How Linux says that the other side has closed.
                data = b""
            assert data, f"{pattern!r} is not shown: {self.shown}"
            self.shown += re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", data.decode())
        before, self.shown = self.shown[: found.start()], self.shown[found.end() :]
        return before

    def type(self, line: str) -> None:
        """Press keys, and enter."""
        os.write(self.end, line.encode() + b"\n")


def open_terminal(server: DevServer, *arguments: str) -> Terminal:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 140, 0, 0))
    process = start_flux(server, arguments, theirs, theirs, theirs)
    os.close(theirs)
    return Terminal(ours, process)


def start_flux(
    server: DevServer, arguments: Sequence[str], stdin: int, stdout: int, stderr: int
) -> subprocess.Popen[bytes] | Forked:
    """Start ``flux ARGUMENTS`` in the project's folder, on these descriptors."""
    environ = {**environment(), "TERM": "dumb"}
    if dev_process.forker is not None:
        return dev_process.forker.start(
            server.project, arguments, environ, stdin=stdin, stdout=stdout, stderr=stderr, own_session=True
        )
    return subprocess.Popen(
        [sys.executable, "-m", "flux", *arguments], cwd=server.project, env=environ, stdin=stdin, stdout=stdout,
        stderr=stderr, start_new_session=True,
    )  # fmt: skip


def test_a_failed_request_is_debugged_on_a_terminal_and_by_an_editor(tmp_path: Path, database: Database) -> None:
    files = {"signup.py": SIGNUP, "count.js": COUNT}
    project = write_project(tmp_path / "project", files, migrations={"001_users.sql": USERS})
    with running_dev(project, database) as server:
        debug_all(server)


def debug_all(server: DevServer) -> None:
    failed = server.request("POST", "/signup", {"email": "a@b.com"})
    assert failed.status == 500
    at_a_prompt(server, failed.flux_id)
    into_a_pipe(server, failed.flux_id)
    by_an_editor(server, failed.flux_id)
    over_a_port(server, failed.flux_id)
    counted = server.request("GET", "/count")
    assert counted.status == 500
    of_javascript(server, counted.flux_id)


def at_a_prompt(server: DevServer, name: str) -> None:
    terminal = open_terminal(server, "trace", "debug", name)
    try:
        text = terminal.wait()
        assert "run again: same failure, as recorded" in text
        assert "KeyError: pro" in text
        assert re.search(r"event \d+ of \d+ · call 2 · [\d.]+ to ([\d.]+) of \1 ms", text), text
        terminal.type("out")
        terminal.wait()
        terminal.type("print plan, user['id']")
        assert 'plan = "pro"' in terminal.wait()
        terminal.type("change plan")
        assert 'plan had become "pro", by functions/signup.py:12' in terminal.wait()
        terminal.type("rows")
        rows = terminal.wait()
        assert 'email "a@b.com"' in rows
        assert "plan null" in rows
        assert "rolled back in the end" in rows
        terminal.type("list")
        assert '→    13      ctx.db.execute("update users' in terminal.wait()
        terminal.type("dance")
        assert "FLX680" in terminal.wait()
        terminal.type("next")
        terminal.wait()
        terminal.type("rows")
        assert 'plan "pro"' in terminal.wait()
        terminal.type("quit")
        terminal.wait(f"to be here again: flux trace debug {name} --at ")
        assert terminal.process.wait(60) == 0
    finally:
        terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.end)


def into_a_pipe(server: DevServer, name: str) -> None:
    done = server.command("trace", "debug", name)
    assert done.returncode == 0
    assert "KeyError: pro" in done.stdout
    assert "--at" in done.stdout
    assert "--print FILE:LINE EXPR" in done.stdout
    for arguments in (["--dap", "x"], ["--dap", "70000"], ["--dap", "--watch", "plan"]):
        refused = server.command("trace", "debug", name, *arguments)
        assert refused.returncode == 2, refused
        assert "FLX100" in refused.stderr
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refused = server.command("trace", "debug", name, "--dap", str(taken.getsockname()[1]))
        assert "FLX674" in refused.stderr
    assert "FLX101" in server.command("trace", "debug", "zzzzzzzz", "--dap").stderr


@attrs.frozen
class Adapter:
    """``flux trace debug ID --dap``, as an editor starts it."""

    process: subprocess.Popen[bytes] | Forked
    stdin: io.FileIO
    stdout: BinaryIO
    stderr: BinaryIO

    def client(self) -> DapClient:
        """Speak to it over its standard streams."""
        return DapClient(lambda: os.read(self.stdout.fileno(), 65_536), self.stdin.write)


@contextlib.contextmanager
def running_adapter(server: DevServer, *arguments: str) -> Iterator[Adapter]:
    ends = [os.pipe() for _ in range(3)]
    (stdin, write_in), (read_out, stdout), (read_err, stderr) = ends
    process = start_flux(server, ["trace", "debug", *arguments], stdin, stdout, stderr)
    for descriptor in (stdin, stdout, stderr):
        os.close(descriptor)
    with io.FileIO(write_in, "w") as typed, open(read_out, "rb") as out, open(read_err, "rb") as err:
        try:
            yield Adapter(process, typed, out, err)
        finally:
            process.kill()
            process.wait()


def debug(client: DapClient, server: DevServer) -> None:
    client.ask("initialize", adapterID="flux")
    client.ask("launch")
    client.wait("initialized")
    path = str(server.project.resolve() / "functions" / "signup.py")
    told = client.ask("setBreakpoints", source={"path": path}, breakpoints=[{"line": 13}])
    assert told["breakpoints"][0]["verified"] is True
    client.ask("configurationDone")
    assert client.wait("stopped")["text"] == "KeyError: pro"
    (thread,) = client.ask("threads")["threads"]
    assert "· call 2 ·" in thread["name"]
    frame = client.ask("stackTrace", threadId=1)["stackFrames"][0]
    assert (frame["name"], frame["line"], frame["source"]["path"]) == ("rate", 6, path)
    assert client.stops("reverseContinue")["reason"] == "breakpoint"
    assert client.top() == ("create_user", 13)
    assert client.names()["plan"]["value"] == '"pro"'
    client.stops("stepBack")
    assert client.top() == ("create_user", 12)
    assert "plan" not in client.names()
    client.ask("disconnect")


def by_an_editor(server: DevServer, name: str) -> None:
    with running_adapter(server, name, "--dap") as adapter:
        debug(adapter.client(), server)
        assert adapter.process.wait(60) == 0
        assert adapter.stderr.read() == b""


def over_a_port(server: DevServer, name: str) -> None:
    with running_adapter(server, name, "--dap", "0") as adapter:
        told = re.search(rb"127\.0\.0\.1:(\d+)", adapter.stderr.readline())
        assert told is not None
        port = int(told[1])
        # A page in a browser can make it post: nothing that is HTTP comes back.
        page = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        page.request("POST", "/", b"Content-Length: 2\r\n\r\n{}", {"content-type": "text/plain"})
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            page.getresponse()
        page.close()
        assert b"FLX675" in adapter.stderr.readline()
        for _ in range(2):  # An editor, and then the next one.
            with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
                debug(DapClient(partial(connection.recv, 65_536), connection.sendall), server)


def of_javascript(server: DevServer, name: str) -> None:
    terminal = open_terminal(server, "trace", "debug", name)
    try:
        text = terminal.wait()
        assert "its steps are its host calls" in text
        assert "host call 1 of 1" in text
        terminal.type("locals")
        assert '"select count(*)::int as n from users"' in terminal.wait()
        terminal.type("list")
        assert '→     6      const { n } = await ctx.db.queryOne(' in terminal.wait()
        for command in ("change n", "print n", "c n == 1"):
            terminal.type(command)
            assert "FLX673" in terminal.wait()
        terminal.type("quit")
        assert terminal.process.wait(60) == 0
    finally:
        terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.end)

    with running_adapter(server, name, "--dap") as adapter:
        client = adapter.client()
        client.ask("initialize", adapterID="flux")
        client.ask("launch")
        assert "its steps are its host calls" in client.wait("output")["output"]
        client.ask("configurationDone")
        client.wait("stopped")
        path = str(server.project.resolve() / "functions" / "count.js")
        frame: Any = client.ask("stackTrace", threadId=1)["stackFrames"][0]
        assert (frame["line"], frame["source"]["path"]) == (6, path)
        assert {"arguments", "result", "error"} == set(client.names())
        assert "FLX673" in client.refused("evaluate", expression="n", frameId=1)
        told = client.ask("setBreakpoints", source={"path": path}, breakpoints=[{"line": 6}])
        assert told["breakpoints"][0]["verified"] is False
        client.ask("disconnect")
        assert adapter.process.wait(60) == 0
