"""Stub servers on loopback for tests of outbound HTTP: raw sockets that count what arrives.

They share no HTTP code with what they test, so that their counters are an oracle.
"""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import attrs
import pytest
import trio

from flux.grants import Grants
from flux.hostcalls.http_client import HttpClient
from flux.hostcalls.http_outbound import OutboundError, OutboundPolicy, OutboundRequest

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@attrs.frozen
class Received:
    """A request as a stub saw it."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]


class Hangup(Exception):
    """The client closed the connection."""


@attrs.define
class Peer:
    """One connection, from the stub's side, read without any HTTP library."""

    stream: trio.abc.Stream
    stub: "Stub"
    buffer: bytes = b""

    async def more(self) -> None:
        try:
            data = await self.stream.receive_some(65536)
        except trio.BrokenResourceError:
            data = b""
        if not data:
            raise Hangup
        self.buffer += data

    async def read(self) -> Received:
        while b"\r\n\r\n" not in self.buffer:
            await self.more()
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        line, *fields = head.decode("latin-1").split("\r\n")
        headers = [(f.partition(":")[0].lower(), f.partition(":")[2].strip()) for f in fields]
        size = int(dict(headers).get("content-length", "0"))
        while len(self.buffer) < size:
            await self.more()
        body, self.buffer = self.buffer[:size], self.buffer[size:]
        request = Received(line, headers, body)
        self.stub.received.append(request)
        return request

    async def write(self, data: bytes) -> None:
        await self.stream.send_all(data)


@attrs.define
class Stub:
    """A server that counts."""

    port: int
    connections: int = 0
    received: list[Received] = attrs.Factory(list)
    open_connections: int = 0

    @property
    def lines(self) -> list[str]:
        return [request.line for request in self.received]

    async def wait_left(self) -> None:
        """Wait until every connection is closed."""
        with trio.fail_after(60):
            while self.open_connections:  # noqa: ASYNC110 - a counter, not an event: it may rise again
                await trio.sleep(0.001)

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"


Behave = Callable[[Peer], Awaitable[None]]


async def always_ok(peer: Peer) -> None:
    while True:
        await peer.read()
        await peer.write(OK)


def answers(data: bytes, *, close: bool = False) -> Behave:
    """Answer each request with ``data`` as it is."""

    async def behave(peer: Peer) -> None:
        while True:
            await peer.read()
            await peer.write(data)
            if close:
                return

    return behave


@asynccontextmanager
async def serving(
    behave: Behave, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> AsyncIterator[Stub]:
    (listener,) = await trio.open_tcp_listeners(0, host=host)
    stub = Stub(listener.socket.getsockname()[1])

    async def handle(stream: trio.abc.Stream) -> None:
        stub.connections += 1
        stub.open_connections += 1
        try:
            if tls is not None:
                stream = trio.SSLStream(stream, tls, server_side=True, https_compatible=True)
            await behave(Peer(stream, stub))
        except (Hangup, trio.BrokenResourceError):
            pass  # the client's right, and what many tests are about; the counters tell
        finally:
            stub.open_connections -= 1
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, handle, [listener])
        yield stub
        nursery.cancel_scope.cancel()


def policy_for(
    *ports: int, tenant: str = "acme", also: tuple[str, ...] = (), **options: object
) -> OutboundPolicy:
    grants = [f"127.0.0.1:{port}" for port in ports]
    return OutboundPolicy(tenant, Grants.parse([*grants, *also]), **options)  # type: ignore[arg-type]


class Names:
    """A resolver that knows these names and counts the questions."""

    def __init__(self, **addresses: list[str]) -> None:
        self.addresses = {name.replace("_", "."): found for name, found in addresses.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str, _port: int, _limiter: trio.CapacityLimiter) -> list[str]:
        await trio.lowlevel.checkpoint()
        self.asked.append(host)
        return self.addresses[host]


def get(url: str, **options: object) -> OutboundRequest:
    return OutboundRequest("GET", url, **options)  # type: ignore[arg-type]


async def failure(client: HttpClient, request: OutboundRequest, policy: OutboundPolicy) -> OutboundError:
    with pytest.raises(OutboundError) as caught:
        await client.request(request, policy)
    return caught.value
