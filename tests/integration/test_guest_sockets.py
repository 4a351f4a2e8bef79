"""What a function's sockets ask, and in which order, whatever the host answers: a host of the test's own says it.

The real host is in ``test_net.py``, real libraries are in ``test_unmodified_libraries.py``.
"""

import base64
import errno
import json
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from flux.sandbox.conformance import Talk, make_document
from flux.sandbox.process import ProcessSandbox
from flux.sandbox.process_worker import ProcessWorker

PATIENCE_S = 180.0
TLS = {"version": "TLSv1.3", "cipher": ["TLS_AES_256_GCM_SHA384", "TLSv1.3", 256], "alpn": None,
       "certificate": {"$bytes": "MA=="}, "peer": {"subject": [[["commonName", "x"]]]}}  # fmt: skip

Answer = Callable[[int, str, list[Any]], list[Any] | None]
"""Takes id, name and arguments of a call; returns value or error as ``[error, value]``, None for nothing yet."""


@asynccontextmanager
async def running(folder: Path, source: str, **options: Any) -> AsyncIterator[ProcessSandbox]:
    (folder / "functions").mkdir()
    header = "import asyncio, os, select, socket, ssl\nfrom flux_guest import function\n"
    (folder / "functions" / "f.py").write_text(header + textwrap.dedent(source))
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            sandbox = ProcessSandbox(folder, "functions", **options)
            await nursery.start(sandbox.run)
            yield sandbox
            nursery.cancel_scope.cancel()


async def converse(worker: ProcessWorker, function: str, answer: Answer) -> tuple[list[Any], list[list[Any]]]:
    """Run a function; return its last frame and all frames before."""
    await worker.start(make_document(function))
    talk, frames = Talk(worker), []
    now_ns = 1_767_225_600_000_000_000
    unanswered = set()
    while (frame := await talk.hear()) is not None:
        if frame[0] in ("return", "raise"):
            return frame, frames
        frames.append(frame)
        if frame[0] == "cancel":
            if frame[1] not in unanswered:
                continue
            told = [{"name": "Cancelled", "message": "it was", "code": "", "details": {}}, None]
            number = frame[1]
        else:
            number = frame[0]
            unanswered.add(number)
            given = answer(number, frame[1], frame[2])
            if given is None:
                continue
            told = given
        unanswered.discard(number)
        now_ns += 1000
        await worker.send(json.dumps([number, *told, now_ns]).encode() + b"\n")
    raise AssertionError(f"it ended without a word: {await worker.wait_exit()}, {frames}")


def told(frame: list[Any]) -> Any:
    assert frame[0] == "return", frame
    return json.loads(frame[1]["body"])


def plain(values: dict[str, Any]) -> Answer:
    """Answer every call of a name with the same value, or with those of a list one after the other."""
    left = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def answer(_number: int, name: str, arguments: list[Any]) -> list[Any] | None:
        if name == "net.open":
            return [None, {"connection": "x:1#1", "address": "192.0.2.1:1"}]
        if name == "clock.sleep" and arguments[0] > 10:
            return None  # A timer for what does not happen.
        if name not in left:
            return [None, None]
        value = left[name]
        if isinstance(value, list):
            return [None, value.pop(0)] if value else None
        return [None, value]

    return answer


def calls(frames: list[list[Any]]) -> list[str]:
    return [f"cancel {frame[1]}" if frame[0] == "cancel" else frame[1] for frame in frames]


async def run(folder: Path, source: str, answer: Answer) -> tuple[list[Any], list[list[Any]]]:
    async with running(folder, source) as sandbox:
        worker = await sandbox.acquire()
        try:
            return await converse(worker, "f", answer)
        finally:
            await sandbox.release(worker, reusable=False)


async def test_a_name_is_looked_up_without_a_word_and_connected_to_as_a_name(tmp_path: Path) -> None:
    source = """
        @function()
        def f(ctx, input):
            found = socket.getaddrinfo("Shop.Test.", 443, type=socket.SOCK_STREAM)
            again = socket.gethostbyname("shop.test")
            literal = socket.getaddrinfo("192.0.2.200", "https")[0][4]
            sixth = socket.getaddrinfo("shop.test", 80, socket.AF_INET6)[0][4][0]
            with socket.socket() as sock:
                sock.connect(found[0][4])
            with socket.socket(socket.AF_INET6) as sock:
                sock.connect((sixth, 80))
            return [found[0][4][0] == again, literal, socket.getnameinfo((again, 1), 0)[0]]
    """
    frame, frames = await run(tmp_path, source, plain({}))
    assert told(frame) == [True, ["192.0.2.200", 443], "shop.test"]
    assert [one[2][:2] for one in frames if one[1] == "net.open"] == [["shop.test", 443], ["shop.test", 80]]


async def test_what_is_read_ahead_is_cancelled_before_tls_begins(tmp_path: Path) -> None:
    source = """
        @function()
        async def f(ctx, input):
            reader, writer = await asyncio.open_connection("x", 1)
            writer.write(b"STARTTLS")
            await reader.readexactly(2)
            await writer.start_tls(ssl.create_default_context(), server_hostname="x")
            writer.write(b"secret")
            heard = await reader.readexactly(2)
            return [heard.decode(), writer.get_extra_info("cipher")[0]]
    """
    heard = iter([[None, "go"], None, [None, "ok"]])  # The second is what is read ahead: nothing comes.

    def answer(number: int, name: str, arguments: list[Any]) -> list[Any] | None:
        if name == "net.recv":
            return next(heard, None)
        return plain({"net.tls": TLS})(number, name, arguments)

    frame, frames = await run(tmp_path, source, answer)
    assert told(frame) == ["ok", TLS["cipher"][0]]  # type: ignore[index]
    names = [name for name in calls(frames) if name != "clock.sleep"]
    begun = names.index("net.tls")
    second = [one[0] for one in frames if one[1] == "net.recv"][1]
    assert names[begun - 1] == f"cancel {second}"
    assert names[begun + 1 :][:2] in (["net.recv", "net.send"], ["net.send", "net.recv"])
    assert [one[2][1] for one in frames if one[1] == "net.send"] == ["STARTTLS", "secret"]


async def test_bytes_that_came_before_tls_are_not_taken_for_what_came_under_it(tmp_path: Path) -> None:
    source = """
        @function()
        async def f(ctx, input):
            reader, writer = await asyncio.open_connection("x", 1)
            writer.write(b"STARTTLS")
            await reader.readexactly(2)
            await writer.start_tls(ssl.create_default_context(), server_hostname="x")
            return "TLS"
    """
    heard = iter(["go", "evil"])

    def answer(number: int, name: str, arguments: list[Any]) -> list[Any] | None:
        if name == "net.recv":
            return [None, next(heard)]  # The second comes at once, unasked for.
        return plain({"net.tls": TLS})(number, name, arguments)

    frame, frames = await run(tmp_path, source, answer)
    assert frame[0] == "raise"
    assert frame[1]["type"] in ("ConnectionResetError", "SSLError"), frame
    assert "net.tls" not in calls(frames) or "net.send" not in calls(frames)[calls(frames).index("net.tls") :]


async def test_one_send_is_on_its_way_at_a_time(tmp_path: Path) -> None:
    source = """
        @function()
        async def f(ctx, input):
            reader, writer = await asyncio.open_connection("x", 1)
            for number in range(10):
                writer.write(b"%d" % number)
            await asyncio.sleep(1)
            writer.close()
            await writer.wait_closed()
    """
    _frame, frames = await run(tmp_path, source, plain({"net.recv": ()}))
    assert [one[2][1] for one in frames if one[1] == "net.send"] == ["0", "123456789"]
    names = calls(frames)
    recv = next(one[0] for one in frames if one[1] == "net.recv")
    assert f"cancel {recv}" in names and names[-1] == "net.close"


async def test_a_function_that_returns_does_not_wait_for_what_is_read_ahead(tmp_path: Path) -> None:
    source = """
        @function()
        async def f(ctx, input):
            await asyncio.open_connection("x", 1)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            return ["done"]
    """
    frame, frames = await run(tmp_path, source, plain({"net.recv": ()}))
    assert told(frame) == ["done"]
    assert calls(frames)[:3] == ["net.open", "net.recv", "cancel 2"]


async def test_a_socket_that_does_not_block_says_so(tmp_path: Path) -> None:
    source = """
        @function()
        def f(ctx, input):
            sock = socket.create_connection(("x", 1))
            sock.settimeout(0)
            said = []
            for attempt in (lambda: sock.recv(10), lambda: sock.recv(1), lambda: sock.recv(10)):
                try:
                    said.append(attempt().decode())
                except BlockingIOError:
                    said.append("not now")
            return said
    """
    frame, frames = await run(tmp_path, source, plain({"net.recv": (None, "abc")}))
    assert told(frame) == ["not now", "a", "bc"]
    assert [one[2][2] for one in frames if one[1] == "net.recv"] == [0, 0]


async def test_a_warm_workers_connections_end_with_the_execution_that_opened_them(tmp_path: Path) -> None:
    source = """
        kept = []

        @function()
        def f(ctx, input):
            if not kept:
                kept.append(socket.create_connection(("x", 1)))
                return ["opened"]
            sock = kept.pop()
            ready, _, _ = select.select([socket.socket()], [], [], 0)
            said = [sock.recv(10).decode(), sock.fileno() > 3]
            try:
                sock.send(b"x")
            except BrokenPipeError:
                said.append("broken")
            sock.close()
            return said
    """
    async with running(tmp_path, source, warm=2) as sandbox:
        worker = await sandbox.acquire()
        frame, _frames = await converse(worker, "f", plain({}))
        assert told(frame) == ["opened"]
        frame, frames = await converse(worker, "f", plain({}))
        await sandbox.release(worker, reusable=False)
    assert told(frame) == ["", True, "broken"]
    assert calls(frames) == []


FAILURES = {
    "NetConnectError": "ConnectionRefusedError",
    "NetResolveError": "gaierror",
    "GrantRefused": "PermissionError",
    "NetTimeout": "TimeoutError",
    "NetTooMuch": "OSError",
    "NetBroken": "ConnectionResetError",
    "NetTlsError": "SSLError",
}


async def test_a_failure_is_what_an_operating_system_raises_and_names_its_call(tmp_path: Path) -> None:
    source = """
        @function()
        def f(ctx, input):
            socket.create_connection(("x", 1))
    """
    found = {}
    async with running(tmp_path, source) as sandbox:
        for name in FAILURES:
            error = {"name": name, "message": "why", "code": "FLX400", "details": {}}
            worker = await sandbox.acquire()
            frame, _frames = await converse(worker, "f", lambda *_call, error=error: [error, None])
            await sandbox.release(worker, reusable=False)
            assert frame[0] == "raise" and "why" in frame[1]["message"] and frame[1]["call"] == 1
            found[name] = frame[1]["type"]
    assert found == FAILURES


async def test_a_closed_socket_serves_its_files_until_the_last_is_closed(tmp_path: Path) -> None:
    """As CPython's own does: urllib closes the connection of an answer whose body has not come yet."""
    source = """
        import urllib.request

        @function()
        def f(ctx, input):
            with urllib.request.urlopen("http://shop.test/") as answer:
                body = answer.read().decode()
            connection = socket.create_connection(("shop.test", 80))
            with connection.makefile("rb") as file:
                connection.close()
                open_with_file = connection.fileno() >= 0
                line = file.readline().decode()
            try:
                connection.recv(1)
            except OSError as error:
                refused = error.errno
            return [body, open_with_file, line, connection.fileno(), refused]
    """
    heard = (b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n", b"the ", b"body", b"", b"a line\n")
    received = plain({"net.recv": tuple({"$bytes": base64.b64encode(data).decode()} for data in heard)})
    frame, frames = await run(tmp_path, source, received)
    assert told(frame) == ["the body", True, "a line\n", -1, errno.EBADF]
    asked = calls(frames)
    assert [name for name in asked if name in ("net.recv", "net.close")] == [
        "net.recv", "net.recv", "net.recv", "net.recv", "net.close", "net.recv", "net.close"
    ]  # fmt: skip
