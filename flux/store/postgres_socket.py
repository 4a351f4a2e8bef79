"""Sockets to a database: opened, encrypted if asked for, and never anything but bytes.

A socket here is non-blocking and waited for with trio. TLS runs over a pair of
buffers (`Tls`) beside the socket, so that whoever owns the connection keeps
reading and writing the socket itself. Nothing in this module knows statements.
"""

import contextlib
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from flux.store.connect_options import ConnectOptions, TlsMode
from flux.store.database_errors import CannotConnect

RECEIVE_BYTES_MAX = 65536
"""How much is taken from a socket at a time."""
QUIET_S, PROBE_S, DEAD_S = 30, 10, 120
"""A line that is quiet for so long is probed, so often; one on which nothing is confirmed for so long is over."""


class Tls:
    """TLS over a pair of buffers, so that the socket stays ours to wait for."""

    def __init__(self, context: ssl.SSLContext, server_hostname: str | None) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_hostname)

    def encrypt(self, data: bytes | bytearray | memoryview) -> bytes:
        """What to send for ``data``."""
        self._tls.write(data)
        return self._outgoing.read()

    def decrypt(self, data: bytes) -> bytes:
        """What ``data`` says; may be nothing yet."""
        self._incoming.write(data)
        plain = bytearray()
        # SSLWantReadError: all that is there was read. SSLZeroReturnError: the server said good-bye,
        # and its end of file follows.
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            while chunk := self._tls.read(RECEIVE_BYTES_MAX):
                plain += chunk
        return bytes(plain)

    def pending_output(self) -> bytes:
        """What TLS itself wants to say, such as a new key."""
        return self._outgoing.read() if self._outgoing.pending else b""

    async def handshake(self, sock: socket.socket) -> None:
        """Agree on keys over ``sock``; ``ssl.SSLError`` when that fails."""
        while True:
            try:
                self._tls.do_handshake()
                is_agreed = True
            except ssl.SSLWantReadError:
                is_agreed = False
            await send_all(sock, self.pending_output())
            if is_agreed:
                return
            data = await receive_some(sock)
            if not data:
                raise ConnectionResetError("the server hung up during the TLS handshake")
            self._incoming.write(data)
async def wait_readable_or_writable(sock: socket.socket) -> None:
    """Output is pending. The server may refuse it until we have read its own: wait for either."""

    async def watch(wait: Callable[[socket.socket], Awaitable[None]]) -> None:
        # A socket that is closed meanwhile is ready too: the next read or write says so.
        with contextlib.suppress(trio.ClosedResourceError):
            if sock.fileno() >= 0:  # it may be closed before this task has its turn
                await wait(sock)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, trio.lowlevel.wait_readable)
        nursery.start_soon(watch, trio.lowlevel.wait_writable)


async def send_all(sock: socket.socket, data: bytes) -> None:
    while data:
        try:
            data = data[sock.send(data) :]
        except BlockingIOError:
            await trio.lowlevel.wait_writable(sock)


async def receive_some(sock: socket.socket, bytes_max: int = RECEIVE_BYTES_MAX) -> bytes:
    """What arrives next, at least a byte; empty when the other side hung up."""
    while True:
        await trio.lowlevel.wait_readable(sock)
        with contextlib.suppress(BlockingIOError):  # readiness is a hint
            return sock.recv(bytes_max)

def peer_address(sock: socket.socket) -> Any:
    """Where ``sock`` leads; asyncpg wants a str for a unix socket and a tuple otherwise."""
    return sock.getpeername()


async def open_socket(options: ConnectOptions, address: Any = None) -> tuple[socket.socket, Tls | None]:
    """A connected socket, with TLS as ``options`` ask.

    ``address`` comes before the host in ``options``: it leads to the same server again.
    """
    if options.is_unix_socket:
        stream = await trio.open_unix_socket(options.socket_path)
    else:
        host, port = (options.host, options.port) if address is None else address[:2]
        stream = await trio.open_tcp_stream(host, port)
    sock = socket.socket(fileno=stream.socket.detach())
    try:
        sock.setblocking(False)
        if options.is_unix_socket:
            return sock, None
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # The kernel's own patience is two hours where nothing is said, and a quarter of an hour where something is. Not
        # a minute either: a server that has no room for more of a COPY confirms nothing, and may be busy.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, QUIET_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_S * 1000)
        return sock, await _start_tls(sock, options)
    except BaseException:
        sock.close()
        raise


async def _start_tls(sock: socket.socket, options: ConnectOptions) -> Tls | None:
    if options.tls is TlsMode.DISABLE:
        return None
    await send_all(sock, struct.pack("!ii", 8, 80877103))  # SSLRequest
    # One byte and no more: whatever a man in the middle adds in clear text must not be taken for
    # something said under TLS (CVE-2021-23222).
    answer = await receive_some(sock, 1)
    if answer == b"N" and options.tls is TlsMode.PREFER:
        return None
    if answer == b"N":
        raise CannotConnect(
            f"{options.place}: the server does not speak TLS, and sslmode is {options.tls}",
            remedy='set "ssl = on" in postgresql.conf, or use sslmode=disable where the network is trusted',
        )
    if answer != b"S":
        raise ConnectionResetError("it hung up, or is no Postgres server")
    tls = Tls(_tls_context(options), options.host)
    await tls.handshake(sock)
    return tls


def _tls_context(options: ConnectOptions) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise CannotConnect(
            f"{options.place}: the authorities in {options.ca_file!r} cannot be read: {error}",
            remedy="set sslrootcert in the database URL to a PEM file with certificates",
        ) from error
    match options.tls:
        case TlsMode.VERIFY_FULL:
            pass
        case TlsMode.VERIFY_CA:
            context.check_hostname = False
        case _:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_REQUIRED if options.ca_file else ssl.CERT_NONE
    return context


async def request_cancel(
    options: ConnectOptions, address: Any, backend_pid: int, backend_secret: int
) -> None:
    """Ask the server at ``address`` to end what its process does, and wait until it has been told.

    The server tells nobody whether it did; it hangs up when the signal is out.
    """
    sock, tls = await open_socket(options, address)
    try:
        request = struct.pack("!iiii", 16, 80877102, backend_pid, backend_secret)
        await send_all(sock, request if tls is None else tls.encrypt(request))
        while await receive_some(sock):
            pass
    except ConnectionResetError:
        return  # Some servers and proxies reset instead of closing; they have read the request.
    finally:
        sock.close()
