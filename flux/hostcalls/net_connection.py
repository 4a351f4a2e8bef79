"""Connections that functions hold: bytes in the open or under TLS, and how many there may be.

A library in a function thinks that it has a socket. What it has is the *handle* of a
`NetConnection`, which the host opened to an address that it judged; TLS is ended here,
so that what function and host say to each other, and what is recorded, is plain.

`Connections` are those of one execution. They end with it. What one execution may
hold or move is bounded, and so is what all executions of a tenant hold at once: each
connection is a file descriptor of the supervisor's.

Only `NetConnection` touches bytes. Receiving can be cancelled and tried again, and
loses nothing; a cancelled send leaves half a message behind, so the connection is
then good for nothing more.
"""

import ipaddress
import ssl
from collections import Counter

import trio

from flux.grants import IPAddress, split_authority
from flux.hostcalls.http_network import RECEIVE_BYTES, Wire

CONNECTIONS_MAX = 64
"""Open connections of one execution."""
TENANT_CONNECTIONS_MAX = 256
"""Open connections of all executions of a tenant."""
BYTES_MAX = 64 * 2**20
"""Bytes that one execution may send, and as many to receive: all of them are recorded."""


_BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError)
"""The other end's doing, or ours: a function may close what it is still receiving from."""


AUTHORITIES_MAX = 16
"""Times that one execution may have authorities of its own trusted: it costs the host more than the function."""


class ConnectionBrokenError(Exception):
    """The connection ended in the middle of something; the message says how."""


class TooMuchError(Exception):
    """One more connection or byte than an execution may have; the message says which limit it was."""


class TlsRefusedError(Exception):
    """No TLS came about; the message says why, ``certificate`` whether that is why."""

    def __init__(self, message: str, *, certificate: bool = False) -> None:
        super().__init__(message)
        self.certificate = certificate


class NetConnection:
    """One connection. One task may receive at a time; ``receiving`` says that somebody does."""

    def __init__(self, handle: str, host: str, port: int, wire: Wire, *, open_allowed: bool) -> None:
        self.handle = handle
        """What the function calls it: ``host:port#n``."""
        self.host = host
        """Normalised, as it was asked for."""
        self.port = port
        self.wire = wire
        self.open_allowed = open_allowed
        """A grant covers what is sent without TLS."""
        self.receiving = False
        self.closed = False
        self.tls: ssl.SSLObject | None = None
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._ready = bytearray()
        """Received, decrypted, and not asked for yet."""
        self._ended = False
        self._broken = ""
        """Why nothing can be sent any more."""
        self._sending = trio.Lock()

    @property
    def address(self) -> IPAddress:
        """The address at the other end, the one that was judged."""
        return ipaddress.ip_address(split_authority(self.wire.address)[0].strip("[]"))

    def has_something(self) -> bool:
        """Whether `receive` would return at once, the end included."""
        return bool(self._ready) or self._ended

    async def receive(self, bytes_max: int) -> bytes:
        """Return what has come, after waiting for the first of it; b"" at the end."""
        while not self.has_something():
            await self._hear()
        return self._take(bytes_max)

    async def receive_now(self, bytes_max: int) -> bytes | None:
        """As `receive`, or None when that would have to wait."""
        await self.hear_now()
        return self._take(bytes_max) if self.has_something() else None

    async def hear_now(self) -> None:
        """Take in what has arrived, without waiting for more."""
        while not self.has_something() and (self.closed or self.wire.is_readable()):
            await self._hear()
        await trio.lowlevel.checkpoint()

    def _take(self, bytes_max: int) -> bytes:
        data = bytes(self._ready[:bytes_max])
        del self._ready[: len(data)]
        return data

    async def _hear(self) -> None:
        if self.closed:
            raise ConnectionBrokenError(f"{self.handle} is closed")
        try:
            data = await self.wire.receive_some(RECEIVE_BYTES)
        except _BROKEN as error:
            self._broken = str(error)
            raise ConnectionBrokenError(f"{self.handle} broke: {error}") from error
        if self.tls is None:
            self._ready += data
            self._ended = not data
            return
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
        try:
            while part := self.tls.read(RECEIVE_BYTES):
                self._ready += part
            self._ended = True
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            # Many servers end without the farewell that TLS has; who needs to know counts what came.
            self._ended = True
        except ssl.SSLError as error:
            self._broken = error.reason or "TLS failed"
            raise ConnectionBrokenError(f"{self.handle} broke: {self._broken}") from error
        if self._outgoing.pending:  # Keys that the other end wanted renewed.
            async with self._sending:
                await self._flush(b"")

    async def send(self, data: bytes) -> None:
        """Send all of ``data``."""
        async with self._sending:
            if self._broken:
                raise ConnectionBrokenError(f"{self.handle} is broken: {self._broken}")
            try:
                if self.tls is None:
                    await self._flush(data)
                    return
                view = memoryview(data)
                while view:
                    view = view[self.tls.write(view) :]
                await self._flush(b"")
            except ssl.SSLError as error:
                self._broken = error.reason or "TLS failed"
                raise ConnectionBrokenError(f"{self.handle} broke: {self._broken}") from error
            except trio.Cancelled:
                self._broken = "a send was given up half way"
                raise

    async def _flush(self, data: bytes) -> None:
        try:
            await self.wire.send_all(data or self._outgoing.read())
        except _BROKEN as error:
            self._broken = str(error)
            raise ConnectionBrokenError(f"{self.handle} broke: {error}") from error

    async def start_tls(self, context: ssl.SSLContext, server_name: str) -> ssl.SSLObject:
        """Go on under TLS; raise `TlsRefusedError` when there is none, and be broken then."""
        self._broken = "TLS was begun and came to nothing"
        await self.hear_now()
        if self._ready:
            # CVE-2021-23222 and its kind: what came before could be taken for what came under TLS.
            raise TlsRefusedError(f"{self.handle} sent bytes in the open where TLS was to begin")
        tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name)
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._exchange()
                continue
            except ssl.SSLCertVerificationError as error:
                await self._tell_why()
                reason = f"the certificate of {server_name} does not hold: {error.verify_message}"
                raise TlsRefusedError(reason, certificate=True) from error
            except ssl.SSLError as error:
                await self._tell_why()
                raise TlsRefusedError(f"no TLS with {server_name}: {error.reason or 'it failed'}") from error
            break
        await self._flush(b"")
        self.tls, self._broken = tls, ""
        return tls

    async def _exchange(self) -> None:
        """One round of a handshake."""
        try:
            await self.wire.send_all(self._outgoing.read())
            data = await self.wire.receive_some(RECEIVE_BYTES)
        except _BROKEN as error:
            raise TlsRefusedError(f"no TLS with {self.host}: the connection broke") from error
        if not data:
            raise TlsRefusedError(f"no TLS with {self.host}: it closed the connection")
        self._incoming.write(data)

    async def _tell_why(self) -> None:
        """Send TLS's own words for the failure, if the other end still listens."""
        try:
            await self._flush(b"")
        except ConnectionBrokenError:
            return

    async def end_sending(self) -> None:
        """Tell the other end that nothing more will come."""
        async with self._sending:
            try:
                if self.tls is not None:
                    try:
                        self.tls.unwrap()
                    except ssl.SSLError:  # It wants the other end's farewell, which may come or not.
                        await self._flush(b"")
                self.wire.end_sending()
            except _BROKEN as error:
                raise ConnectionBrokenError(f"{self.handle} broke: {error}") from error

    def close_nowait(self) -> None:
        """Close, without a word."""
        self.closed = True
        self._broken = "it is closed"
        self.wire.close_nowait()


class Connections:
    """The connections of one execution."""

    def __init__(self, held: Counter[str], tenant: str) -> None:
        """``held`` counts what all executions of each tenant hold."""
        self._held = held
        self._tenant = tenant
        self._open: dict[str, NetConnection] = {}
        self._made = 0
        self._reserved = 0
        self._authorities = 0
        self._sent_bytes = 0
        self._received_bytes = 0

    def reserve(self) -> None:
        """Take the place of one more connection; raise `TooMuchError` when there is none."""
        if self._reserved >= CONNECTIONS_MAX:
            raise TooMuchError(f"{CONNECTIONS_MAX} connections are open, as many as an execution may have")
        if self._held[self._tenant] >= TENANT_CONNECTIONS_MAX:
            raise TooMuchError(f"{TENANT_CONNECTIONS_MAX} connections of this tenant's functions are open")
        self._reserved += 1
        self._held[self._tenant] += 1

    def give_back(self) -> None:
        """Give a reserved place back."""
        self._reserved -= 1
        self._held[self._tenant] -= 1
        if not self._held[self._tenant]:
            del self._held[self._tenant]

    def make_handle(self, host: str, port: int) -> str:
        """Return the name of a new connection: readable, and told once."""
        self._made += 1
        return f"[{host}]:{port}#{self._made}" if ":" in host else f"{host}:{port}#{self._made}"

    def add(self, connection: NetConnection) -> None:
        """Keep a connection in a place that was reserved."""
        self._open[connection.handle] = connection

    def find(self, handle: str) -> NetConnection | None:
        """Return the open connection of that handle, or None."""
        return self._open.get(handle)

    def count_authorities(self) -> None:
        """Count authorities of the function's own that are to be trusted; raise `TooMuchError` when it is too much."""
        self._authorities += 1
        if self._authorities > AUTHORITIES_MAX:
            raise TooMuchError(f"an execution names authorities of its own at most {AUTHORITIES_MAX} times")

    def count_sent(self, size_bytes: int) -> None:
        """Count what is about to be sent; raise `TooMuchError` when it is too much."""
        if self._sent_bytes + size_bytes > BYTES_MAX:
            raise TooMuchError(f"an execution sends at most {BYTES_MAX:,} bytes over its connections")
        self._sent_bytes += size_bytes

    def count_received(self, size_bytes: int) -> None:
        """Count what was received; raise `TooMuchError` when it is too much."""
        self._received_bytes += size_bytes
        if self._received_bytes > BYTES_MAX:
            raise TooMuchError(f"an execution receives at most {BYTES_MAX:,} bytes over its connections")

    def close(self, handle: str) -> None:
        """Close a connection, if it is open."""
        connection = self._open.pop(handle, None)
        if connection is not None:
            connection.close_nowait()
            self.give_back()

    def close_nowait(self) -> None:
        """Close them all: the execution is over."""
        for handle in list(self._open):
            self.close(handle)
