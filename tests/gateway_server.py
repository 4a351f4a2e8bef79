"""A real gateway on loopback, and a client that shares no HTTP code with it.

The server runs under trio in a thread of its own. Its handler writes down every
request it was given: that list is the oracle for what got through. The client is a
plain socket and a reader of answers so small that it can be checked by eye.
"""

import contextlib
import itertools
import select
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial

import attrs
import trio

from flux.message import Admission, HttpRequest, HttpResponse, RequestHead
from flux.supervisor.client_tls import Certificate
from flux.supervisor.gateway import GatewayLimits, open_listeners, serve_http

PATIENCE_S = 300.0
"""A bound on hanging; nothing takes as long when it works."""

PATIENT = GatewayLimits(head_timeout_s=3600, body_timeout_s=3600, idle_timeout_s=3600, linger_timeout_s=5)
"""Deadlines that no slow machine meets by accident: a hundred requests beside two hundred clients took one a minute."""

Handle = Callable[[HttpRequest], Awaitable[HttpResponse]]


async def answer_ok(_request: HttpRequest) -> HttpResponse:
    return HttpResponse(200, (("content-type", "text/plain"),), b"ok")


class Gateway:
    """What a test may know of the server, and do to it."""

    def __init__(self, handle: Handle, body_bytes_max: int, certificate: Certificate | None = None) -> None:
        self.port = 0
        self.requests: list[HttpRequest] = []
        self.crashes: list[BaseException] = []
        self.ended = threading.Event()
        self.on_crash: Callable[[BaseException], None] = self.crashes.append
        self._handle = handle
        self.admission = Admission(body_bytes_max)
        self._certificate = certificate
        self._drain = trio.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self._started = threading.Event()

    async def admit(self, head: RequestHead) -> Admission:
        if head.path == "/crash-limit":
            raise RuntimeError("the handler cannot say")
        return self.admission

    async def handle(self, request: HttpRequest) -> HttpResponse:
        self.requests.append(request)
        return await self._handle(request)

    @property
    def seen(self) -> list[str]:
        return [f"{request.head.method} {request.head.path}" for request in self.requests]

    async def _main(self, limits: GatewayLimits) -> None:
        self._token = trio.lowlevel.current_trio_token()
        listeners = await open_listeners("127.0.0.1", 0)
        self.port = listeners[0].socket.getsockname()[1]
        self._started.set()
        await serve_http(
            listeners, self, limits, drain=self._drain, on_crash=lambda error: self.on_crash(error),
            certificate=self._certificate,
        )

    def run(self, limits: GatewayLimits) -> None:
        try:
            trio.run(partial(self._main, limits))
        finally:
            self.ended.set()
            self._started.set()

    def wait_started(self) -> None:
        assert self._started.wait(PATIENCE_S)
        assert self.port

    def drain(self) -> None:
        assert self._token is not None
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._drain.set)

    def in_trio(self, function: Callable[[], object]) -> None:
        """Call ``function`` in the server's thread, soon."""
        assert self._token is not None
        self._token.run_sync_soon(function)


@contextlib.contextmanager
def running_gateway(
    limits: GatewayLimits = PATIENT,
    handle: Handle = answer_ok,
    *,
    body_bytes_max: int = 64 * 1024,
    certificate: Certificate | None = None,
) -> Iterator[Gateway]:
    """Serve while the block runs, then drain; a server that does not end is a failure."""
    gateway = Gateway(handle, body_bytes_max, certificate)
    thread = threading.Thread(target=gateway.run, args=(limits,), name="gateway", daemon=True)
    thread.start()
    gateway.wait_started()
    try:
        yield gateway
    finally:
        gateway.drain()
        thread.join(PATIENCE_S)
    assert not thread.is_alive(), "the gateway did not drain"


@attrs.frozen
class Answer:
    """One answer, as it was on the wire."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    def header(self, name: str) -> str | None:
        found = self.all(name)
        return found[0] if found else None


class Closed(Exception):
    """The server has closed the connection; says whether it was a reset."""


class Client:
    """One connection to the gateway."""

    def __init__(self, port: int, *, receive_buffer_bytes: int | None = None) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(PATIENCE_S)
        if receive_buffer_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        try:
            self.socket.connect(("127.0.0.1", port))
        except OSError:
            self.socket.close()
            raise
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *pieces: bytes) -> None:
        """Send; a server that has had enough is no error here."""
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                self.socket.sendall(piece)

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Vanish without a farewell."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def more(self) -> None:
        try:
            data = self.socket.recv(65536)
        except ConnectionError as error:
            raise Closed("reset") from error
        if not data:
            raise Closed("closed")
        self.buffer += data

    def read(self, method: str = "GET") -> Answer:
        while b"\r\n\r\n" not in self.buffer:
            self.more()
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        line, *lines = head.decode("latin-1").split("\r\n")
        version, status, _ = line.split(" ", 2)
        assert version == "HTTP/1.1", line
        headers = tuple(
            (name.lower(), value.strip()) for name, _, value in (item.partition(":") for item in lines)
        )
        return Answer(int(status), headers, self._read_body(int(status), dict(headers), method))

    def _read_body(self, status: int, headers: dict[str, str], method: str) -> bytes:
        if method == "HEAD" or status in (100, 204, 304):
            return b""
        if headers.get("transfer-encoding") == "chunked":
            pieces = []
            while True:
                while b"\r\n" not in self.buffer:
                    self.more()
                size, _, self.buffer = self.buffer.partition(b"\r\n")
                pieces.append(self._take(int(size, 16)))
                assert self._take(2) == b"\r\n"
                if not pieces[-1]:
                    return b"".join(pieces)
        if "content-length" in headers:
            return self._take(int(headers["content-length"]))
        return self.read_to_end()

    def _take(self, size: int) -> bytes:
        while len(self.buffer) < size:
            self.more()
        taken, self.buffer = self.buffer[:size], self.buffer[size:]
        return taken

    def read_to_end(self) -> bytes:
        """Return what comes until the server closes; `Closed` when it resets instead."""
        while True:
            try:
                self.more()
            except Closed as closed:
                if closed.args == ("reset",):
                    raise
                taken, self.buffer = self.buffer, b""
                return taken

    def wait_reset(self) -> None:
        """Wait until the server resets, without reading anything."""
        poll = select.poll()
        poll.register(self.socket, 0)  # An error is told to who asks for nothing.
        assert poll.poll(PATIENCE_S * 1000), "it is not reset"

    def wait_closed(self) -> str:
        """Wait until the server closes and return how; fail when it says one more word."""
        try:
            said = self.read_to_end()
        except Closed as closed:
            assert not self.buffer, self.buffer
            return str(closed)
        assert said == b"", said
        return "closed"


def ask(port: int, raw: bytes = b"GET /fresh HTTP/1.1\r\nHost: x\r\n\r\n") -> Answer:
    """Ask on a connection of its own."""
    with Client(port) as client:
        client.send(raw)
        return client.read()


def cut_bytes(raw: bytes, positions: Sequence[int]) -> list[bytes]:
    """Cut ``raw`` at ``positions``."""
    edges = [0, *sorted(positions), len(raw)]
    return [raw[start:end] for start, end in itertools.pairwise(edges) if start < end]
