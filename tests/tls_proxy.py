"""TLS before a Postgres server that has none: not every build of the server speaks it.

To a client this is a server that answers SSLRequest with yes; behind it stands
the plain one, over its unix socket. The proxy keeps count of what it sees, so
that a test need not believe the driver about what was encrypted.
"""

import contextlib
import ssl
import struct
from collections.abc import AsyncIterator

import attrs
import trio

from tests.postgres_server import PostgresServer

SSL_REQUEST = struct.pack("!ii", 8, 80877103)
CANCEL_CODE = struct.pack("!i", 80877102)


@attrs.define
class TlsProxy:
    """A running proxy, and what it has seen."""

    server: PostgresServer
    context: ssl.SSLContext
    port: int = 0
    """On 127.0.0.1 and ::1."""

    encrypted: int = 0
    """Connections that asked for TLS and agreed on keys."""

    plain: int = 0
    """Connections that did not ask."""

    encrypted_cancels: int = 0
    """CancelRequests that came over TLS."""

    async def serve(self, client: trio.SocketStream) -> None:
        """One connection, to its end."""
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError, ConnectionError):
            head = await client.receive_some(8)
            stream: trio.abc.Stream = client
            if head == SSL_REQUEST:
                await client.send_all(b"S")
                stream = trio.SSLStream(client, self.context, server_side=True, https_compatible=True)
                await stream.do_handshake()
                self.encrypted += 1
                head = bytes(await stream.receive_some(65536))
                self.encrypted_cancels += head[4:8] == CANCEL_CODE
            else:
                self.plain += 1
            async with await trio.open_unix_socket(f"{self.server.host}/.s.PGSQL.{self.server.port}") as backend:
                await backend.send_all(head)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._forward, stream, backend, nursery.cancel_scope)
                    nursery.start_soon(self._forward, backend, stream, nursery.cancel_scope)

    @staticmethod
    async def _forward(source: trio.abc.Stream, target: trio.abc.Stream, scope: trio.CancelScope) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await source.receive_some(65536):
                await target.send_all(data)
        scope.cancel()


@contextlib.asynccontextmanager
async def tls_proxy(server: PostgresServer, context: ssl.SSLContext) -> AsyncIterator[TlsProxy]:
    """A proxy that shows the certificate in ``context``, until the block ends."""
    proxy = TlsProxy(server, context)
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        proxy.port = listeners[0].socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, proxy.serve, listeners)
        yield proxy
        nursery.cancel_scope.cancel()
