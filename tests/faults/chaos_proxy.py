"""A Postgres server that fails at the n-th message: a proxy on loopback that knows where messages begin and end.

It counts the messages of one role's connections in one direction, login included, and does its harm to the n-th:
the line is closed or reset before it, in its middle or behind it, the message comes byte by byte, late, or never.
Or a statement is refused: what the client has sent is exchanged for one that the server itself refuses, with the
SQLSTATE of a full disk, of an administrator who ends it, or of a serialization failure.

What the server then does is its own: behind this there is a real one.
"""

import contextlib
import enum
import socket
import struct
from collections.abc import AsyncIterator

import attrs
import trio

from flux.store.postgres import ConnectOptions
from tests.execution_world import served_on_loopback
from tests.postgres_server import PostgresServer

PIECES_MAX = 64
"""So many bytes at each end of a message are sent one by one; what is between them goes at once."""
LATE_S = 0.02
_HEAD = struct.Struct("!cI")


class Direction(enum.Enum):
    """Whose messages."""

    OUT = "to the server"
    IN = "from the server"


class Harm(enum.Enum):
    """What is done to a message."""

    CLOSED = "closed before"
    RESET = "reset before"
    TORN = "torn in the middle"
    BEHIND = "reset behind"
    PIECES = "byte by byte"
    LATE = "late"
    HELD = "never comes"
    DISK_FULL = "refused: 53100"
    SHUTDOWN = "refused: 57P01"
    CONFLICT = "refused: 40001"


REFUSED = {Harm.DISK_FULL: "53100", Harm.SHUTDOWN: "57P01", Harm.CONFLICT: "40001"}
"""Only of statements, so of what goes to the server."""
_BEFORE_LINE_ENDS = {Harm.CLOSED: 0.0, Harm.RESET: 0.0, Harm.TORN: 0.5, Harm.BEHIND: 1.0}
"""How much of the message still passes."""


@attrs.define
class ChaosProxy:
    """See the module."""

    server: PostgresServer
    role: bytes = b""
    """Connections whose login holds this are counted and harmed; the others pass."""
    direction: Direction = Direction.OUT
    harm: Harm | None = None
    at: int = 0
    """Number of the message that is harmed, or of the statement that is refused; 0: none is."""
    seen: int = 0
    struck: bool = False
    port: int = 0
    _held: trio.Event = attrs.field(factory=trio.Event)

    def arm(self, role: bytes, direction: Direction, harm: Harm, at: int) -> None:
        """Count from here, and harm the ``at``-th."""
        self.role, self.direction, self.harm, self.at = role, direction, harm, at
        self.seen, self.struck = 0, False

    def disarm(self) -> None:
        """Harm nothing any more, and let go of lines that were held: they end."""
        self.at = 0
        self._held.set()
        self._held = trio.Event()

    def options(self, options: ConnectOptions) -> ConnectOptions:
        """The same database by this way."""
        return attrs.evolve(options, host="127.0.0.1", port=self.port)

    def is_due(self, line_role: bytes, direction: Direction) -> bool:
        """Count a message, or a statement where one is to be refused; whether it is the one to harm."""
        if direction is not self.direction or not self.role or self.role not in line_role:
            return False
        self.seen += 1
        if self.seen != self.at or self.struck:
            return False
        self.struck = True
        return True

    async def serve(self, client: trio.SocketStream) -> None:
        """One connection, to its end."""
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        path = f"{self.server.host}/.s.PGSQL.{self.server.port}"
        with contextlib.suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            async with await trio.open_unix_socket(path) as backend, trio.open_nursery() as nursery:
                line = _Line(self, client, backend, nursery.cancel_scope)
                nursery.start_soon(line.outward)
                nursery.start_soon(line.inward)
        with contextlib.suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            await client.aclose()

    async def wait_let_go(self) -> None:
        """Wait for `disarm`."""
        await self._held.wait()


@attrs.define
class _Line:
    """One connection through the proxy."""

    proxy: ChaosProxy
    client: trio.SocketStream
    backend: trio.SocketStream
    scope: trio.CancelScope
    role: bytes = b""
    """The login's parameters, once they are known."""
    is_held: bool = False

    async def outward(self) -> None:
        """From the client. The login's first message has no letter."""
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            buffer = bytearray()
            while len(buffer) < 4 or len(buffer) < int.from_bytes(buffer[:4], "big"):
                if not (data := await self.client.receive_some(65536)):
                    self.scope.cancel()
                    return
                buffer += data
            size = int.from_bytes(buffer[:4], "big")
            self.role = bytes(buffer[:size])
            await self._pass(self.role, self.backend, Direction.OUT)
            await self._pump(self.client, self.backend, Direction.OUT, buffer[size:])
        self.scope.cancel()

    async def inward(self) -> None:
        """From the server."""
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self._pump(self.backend, self.client, Direction.IN, bytearray())
        self.scope.cancel()

    async def _pump(
        self, source: trio.SocketStream, target: trio.SocketStream, direction: Direction, buffer: bytearray
    ) -> None:
        statement: list[bytes] = []  # What came since the last one was whole, where statements are refused.
        while True:
            whole: list[bytes] = []  # Messages that nobody harms go together, as they came.
            while len(buffer) >= _HEAD.size:
                size = 1 + _HEAD.unpack_from(buffer)[1]
                if len(buffer) < size:
                    break
                message = bytes(buffer[:size])
                del buffer[:size]
                if self.proxy.harm in REFUSED and direction is Direction.OUT:
                    statement.append(message)
                    if message[:1] in b"QS":
                        whole += self._refuse_if_due(statement)
                        statement = []
                    elif message[:1] in b"pdcfXH":  # Passwords, COPY, the end, and Flush: nothing to wait with.
                        whole += statement
                        statement = []
                    continue
                if self.proxy.is_due(self.role, direction):
                    if whole:
                        await target.send_all(b"".join(whole))
                        whole = []
                    await self._harm(message, target)
                else:
                    whole.append(message)
            if whole and not self.is_held:
                await target.send_all(b"".join(whole))
            if not (data := await source.receive_some(65536)):
                return
            if not self.is_held:
                buffer += data

    async def _pass(self, message: bytes, target: trio.SocketStream, direction: Direction) -> None:
        if self.proxy.harm not in REFUSED and self.proxy.is_due(self.role, direction):
            await self._harm(message, target)
        else:
            await target.send_all(message)

    def _refuse_if_due(self, statement: list[bytes]) -> list[bytes]:
        if not self.proxy.is_due(self.role, Direction.OUT):
            return statement
        assert self.proxy.harm is not None
        state = REFUSED[self.proxy.harm]
        refused = f"do $chaos$ begin raise exception 'refused on purpose' using errcode = '{state}'; end $chaos$"
        # A COMMIT that fails has ended its transaction all the same.
        if statement[0][5:].rstrip(b"\0; ").lower() == b"commit":
            refused = f"rollback; {refused}"
        text = refused.encode() + b"\0"
        return [_HEAD.pack(b"Q", 4 + len(text)) + text]

    async def _harm(self, message: bytes, target: trio.SocketStream) -> None:
        harm = self.proxy.harm
        match harm:
            case Harm.PIECES:
                for n in range(min(len(message), PIECES_MAX)):
                    await target.send_all(message[n : n + 1])
                    await trio.lowlevel.checkpoint()
                if rest := message[PIECES_MAX:]:
                    await target.send_all(rest)
            case Harm.LATE:
                await trio.sleep(LATE_S)
                await target.send_all(message)
            case Harm.HELD:
                self.is_held = True
                await self.proxy.wait_let_go()
                self.scope.cancel()
                await trio.lowlevel.checkpoint()
            case _:
                assert harm is not None
                part = int(len(message) * _BEFORE_LINE_ENDS[harm])
                if part:
                    await target.send_all(message[:part])
                if harm is not Harm.CLOSED:
                    self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.scope.cancel()
                await trio.lowlevel.checkpoint()


@contextlib.asynccontextmanager
async def chaos_proxy(server: PostgresServer) -> AsyncIterator[ChaosProxy]:
    """A proxy that harms nothing yet, until the block ends."""
    proxy = ChaosProxy(server)
    async with served_on_loopback(proxy.serve) as proxy.port:
        yield proxy
