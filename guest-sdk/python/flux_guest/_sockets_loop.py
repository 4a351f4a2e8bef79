"""asyncio's connections, made of host calls.

`asyncio.BaseEventLoop` connects and begins TLS in terms of a few methods that each
kind of loop has its own of; `SocketLoop` has ours, so that ``create_connection``,
``start_tls``, streams and all that stands on them are Python's own code.

`HostTransport` reads ahead, as any transport does: one ``net.recv`` is in flight while
its protocol wants to hear. Nobody waits for that one at the end. It has one
``net.send`` in flight at most, because two could be performed in either order; what is
written meanwhile waits and goes together.
"""

import asyncio
import socket
from asyncio import sslproto, transports, trsock
from collections.abc import Callable
from typing import Any, NoReturn

from flux_guest import _values
from flux_guest._channel import Channel
from flux_guest._errors import HostCallError, make_host_call_error
from flux_guest._sockets import SEND_BYTES, HostSocket, get_network, make_os_error, text_or_bytes
from flux_guest._sockets_tls import SERVER_HELLO, HostTlsObject

_IN_THE_OPEN = "the server sent bytes in the open, or ended, where TLS was to begin"
"""See `flux_guest._sockets_tls.check_nothing_waits`."""


def _same(value: Any) -> Any:
    return value


def _refuse(*_arguments: Any, **_options: Any) -> NoReturn:
    raise PermissionError(
        "a function has outgoing TCP connections only, no servers, processes, pipes or signals of its own, so that "
        "all it does is on record"
    )


class SocketLoop(asyncio.BaseEventLoop):
    """What a loop has to have for connections. See `flux_guest._loop.HostLoop` for the rest."""

    channel: Channel
    unawaited: set[int]
    """Calls in flight whose answers nobody waits for at the end: they are cancelled then."""
    call_host: Callable[[str, list[Any], Callable[[Any], Any]], Any]
    """Asks the host."""

    async def _ask(self, name: str, arguments: list[Any]) -> Any:
        try:
            return await self.call_host(name, arguments, _same)
        except HostCallError as error:
            raise make_os_error(error) from error

    async def getaddrinfo(self, host: Any, port: Any, **hints: Any) -> Any:
        return socket.getaddrinfo(host, port, **hints)

    async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> Any:
        return socket.getnameinfo(sockaddr, flags)

    async def sock_connect(self, sock: Any, address: Any) -> None:
        sock.opened(await self._ask("net.open", sock.ask_open(address)))

    async def sock_recv(self, sock: Any, nbytes: int) -> bytes:
        if not sock.received and not sock.ended and not sock.is_from_before:
            sock.heard(await self._ask("net.recv", sock.ask_receive(None)))
        sock.settimeout(0)
        return bytes(sock.recv(nbytes))

    async def sock_recv_into(self, sock: Any, buf: Any) -> int:
        data = await self.sock_recv(sock, memoryview(buf).nbytes)
        memoryview(buf).cast("B")[: len(data)] = data
        return len(data)

    async def sock_sendall(self, sock: Any, data: Any) -> None:
        with memoryview(data).cast("B") as view:
            hello = get_network().take_hello(view)
            if hello is not None:
                hello.agree(sock)
                return
            sent = 0
            while sent < len(view):
                arguments, size = sock.ask_send(view[sent:])
                await self._ask("net.send", arguments)
                sent += size

    def _make_socket_transport(
        self,
        sock: Any,
        protocol: Any,
        waiter: Any = None,
        *,
        extra: Any = None,
        server: Any = None,  # noqa: ARG002
    ) -> "HostTransport":
        return HostTransport(self, sock, protocol, waiter, extra)

    def _make_ssl_transport(
        self,
        rawsock: Any,
        protocol: Any,
        sslcontext: Any,
        waiter: Any = None,
        *,
        server_side: bool = False,
        server_hostname: Any = None,
        extra: Any = None,
        server: Any = None,  # noqa: ARG002 - asyncio's signature
        ssl_handshake_timeout: Any = None,
        ssl_shutdown_timeout: Any = None,
        call_connection_made: bool = True,
    ) -> Any:
        ssl_protocol = sslproto.SSLProtocol(
            self,
            protocol,
            sslcontext,
            waiter,
            server_side,
            server_hostname,
            call_connection_made,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        HostTransport(self, rawsock, ssl_protocol, None, extra)
        return ssl_protocol._app_transport

    create_server = create_datagram_endpoint = create_unix_connection = create_unix_server = _refuse
    subprocess_exec = subprocess_shell = connect_read_pipe = connect_write_pipe = _refuse
    connect_accepted_socket = sock_sendfile = _refuse
    add_reader = add_writer = add_signal_handler = _refuse  # type: ignore[assignment]
    sock_accept = sock_sendto = sock_recvfrom = sock_recvfrom_into = _refuse


class HostTransport(transports._FlowControlMixin):
    """A connection, for a protocol."""

    _start_tls_compatible = True

    def __init__(self, loop: SocketLoop, sock: HostSocket, protocol: Any, waiter: Any, extra: Any) -> None:
        known = {
            "socket": trsock.TransportSocket(sock),
            "sockname": sock.getsockname(),
            "peername": sock.getpeername(),
        }
        super().__init__({**(extra or {}), **known}, loop)
        self._host_loop = loop
        self._channel = loop.channel
        self._sock = sock
        sock.is_read_ahead = True
        self._connection = sock._get_connection()
        self._protocol = protocol
        self._position = loop.channel.find_position()
        """The function's line that last wrote, or opened it: reading ahead is for its sake."""
        self._buffer = bytearray()
        self._sending = False
        self._receiving = 0
        """The ``net.recv`` in flight; 0 when there is none."""
        self._cancelled = 0
        """The one that was given up."""
        self._held: list[tuple[Any, Any]] = []
        """Heard while the protocol did not want to hear."""
        self._paused = False
        self._ended = False
        """The other end will say no more."""
        self._closing = False
        self._failure: BaseException | None = None
        """Why it ends, when it does not end well."""
        self._lost = False
        self._farewell = False
        """We are to say no more, once what waits is sent."""
        self._hello: HostTlsObject | None = None
        """TLS is to begin, once what waits is sent and nothing is being received."""
        loop.call_soon(protocol.connection_made, self)
        loop.call_soon(self._read_on)
        if waiter is not None:
            loop.call_soon(_set_done, waiter)

    def __repr__(self) -> str:
        return f"<{self.__class__.__name__} {self._connection}>"

    # Its protocol

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    def get_protocol(self) -> Any:
        return self._protocol

    def is_closing(self) -> bool:
        return self._closing

    # Hearing

    def is_reading(self) -> bool:
        return not (self._paused or self._closing or self._ended)

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            held, self._held = self._held, []
            for value, error in held:
                self._host_loop.call_soon(self._hear, value, error)
            self._read_on()

    def _read_on(self) -> None:
        if self._receiving or self._held or not self.is_reading() or self._hello is not None:
            return
        if self._sock.received:  # Left by one who used the socket itself.
            data = bytes(self._sock.received)
            self._sock.received.clear()
            self._host_loop.call_soon(self._hear, data, None)
            return
        arguments = [self._connection, 64 * 1024, None]
        self._receiving = self._send_call("net.recv", arguments, self._received)
        self._host_loop.unawaited.add(self._receiving)

    def _send_call(self, name: str, arguments: list[Any], deliver: Callable[[int, Any, Any], None]) -> int:
        channel = self._channel
        seq = channel.send(name, arguments, self._position)
        channel.waiting[seq] = lambda value, error: deliver(seq, value, error)
        return seq

    def _received(self, seq: int, value: Any, error: dict[str, Any] | None) -> None:
        # In the loop's select: nothing of the function's may run here.
        self._host_loop.unawaited.discard(seq)
        if not self._host_loop.is_closed():
            self._host_loop.call_soon(self._hear_answer, seq, value, error)

    def _hear_answer(self, seq: int, value: Any, error: dict[str, Any] | None) -> None:
        self._receiving = 0
        if self._lost or self._closing:
            return
        if self._hello is not None:
            if error is not None and error["name"] == "Cancelled":
                self._go_on()
            else:
                self._answer_hello(None, ConnectionResetError(_IN_THE_OPEN))
            return
        failure = None if error is None else _make_failure(error, seq)
        data = _values.from_json(value)
        self._hear(data.encode() if isinstance(data, str) else data, failure)

    def _hear(self, data: Any, failure: OSError | None) -> None:
        if self._lost or self._closing:
            return
        if self._paused:
            self._held.append((data, failure))
            return
        if failure is not None:
            self._fail(failure)
            return
        try:
            if data:
                self._give(data)
            else:
                self._end()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._fail(error, "Fatal error: the protocol failed on what it was given.")
            return
        self._read_on()

    def _give(self, data: bytes) -> None:
        if not isinstance(self._protocol, asyncio.BufferedProtocol):
            self._protocol.data_received(data)
            return
        while data:
            room = memoryview(self._protocol.get_buffer(len(data)))
            if not len(room):
                raise RuntimeError("get_buffer() returned an empty buffer")
            part = data[: len(room)]
            room[: len(part)] = part
            self._protocol.buffer_updated(len(part))
            data = data[len(part) :]

    def _end(self) -> None:
        self._ended = self._sock.ended = True
        if not self._protocol.eof_received():
            self.close()

    # Saying

    def write(self, data: Any) -> None:
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if self._farewell:
            raise RuntimeError("Cannot call write() after write_eof()")
        if not data or self._lost or self._closing:
            return
        self._position = self._channel.find_position() or self._position
        hello = get_network().take_hello(data)
        if hello is not None:
            self._hello = hello
        else:
            self._buffer += data
        self._go_on()
        self._maybe_pause_protocol()  # type: ignore[attr-defined]

    def get_write_buffer_size(self) -> int:
        return len(self._buffer)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if not self._farewell and not self._closing:
            self._farewell = True
            self._go_on()

    def _go_on(self) -> None:
        """Do the next thing that is to be done in order: send, begin TLS, say farewell, close."""
        if self._sending or self._lost:
            return
        if self._buffer:
            part = bytes(self._buffer[:SEND_BYTES])
            del self._buffer[: len(part)]
            self._ask("net.send", [self._connection, text_or_bytes(part), None], self._sent)
        elif self._hello is not None:
            if self._held:
                self._answer_hello(None, ConnectionResetError(_IN_THE_OPEN))
                return
            if self._receiving:
                self._stop_reading()
                return
            self._ask("net.tls", self._hello.ask_tls(self._connection, None), self._answer_hello)
        elif self._closing:
            self._lose()
        elif self._farewell and not self._ended_sending:
            self._ended_sending = True
            self._ask("net.shutdown", [self._connection], self._sent)

    _ended_sending = False

    def _ask(self, name: str, arguments: list[Any], then: Callable[[Any, OSError | None], None]) -> None:
        self._sending = True

        def answered(seq: int, value: Any, error: dict[str, Any] | None) -> None:
            if self._host_loop.is_closed():
                return  # As when `asyncio.run` has ended: nobody is there to go on.
            failure = None if error is None else _make_failure(error, seq)
            self._host_loop.call_soon(done, _values.from_json(value), failure)

        def done(value: Any, failure: OSError | None) -> None:
            self._sending = False
            if not self._lost:
                then(value, failure)

        self._send_call(name, arguments, answered)

    def _sent(self, _value: Any, failure: OSError | None) -> None:
        if failure is not None:
            self._fail(failure)
            return
        self._maybe_resume_protocol()  # type: ignore[attr-defined]
        self._go_on()

    def _answer_hello(self, value: Any, failure: OSError | None) -> None:
        hello, self._hello = self._hello, None
        assert hello is not None
        if failure is None:
            hello.agreed(value)
        else:
            hello.failed(failure)
        self._hear(SERVER_HELLO, None)
        self._read_on()
        self._go_on()

    # The end

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        self._hello = None
        self._stop_reading()
        if not self._sending and not self._buffer:
            self._host_loop.call_soon(self._lose)

    def abort(self) -> None:
        self._force_close(None)

    def _fail(self, error: BaseException, message: str = "") -> None:
        if message and not isinstance(error, OSError):
            context = {"message": message, "exception": error, "transport": self, "protocol": self._protocol}
            self._host_loop.call_exception_handler(context)
        self._force_close(error)

    def _force_close(self, error: BaseException | None) -> None:
        if self._lost:
            return
        self._closing = True
        self._failure = self._failure or error
        self._buffer.clear()
        self._hello = None
        self._stop_reading()
        self._host_loop.call_soon(self._lose)

    def _stop_reading(self) -> None:
        if self._receiving in self._channel.waiting and self._receiving != self._cancelled:
            self._cancelled = self._receiving
            self._host_loop.unawaited.discard(self._receiving)
            self._channel.cancel(self._receiving)

    def _lose(self) -> None:
        if self._lost:
            return
        self._lost = True
        try:
            self._protocol.connection_lost(self._failure)
        finally:
            self._sock.close()


def _make_failure(error: dict[str, Any], seq: int) -> OSError:
    told = make_host_call_error(error, seq)
    failure = make_os_error(told)
    failure.__cause__ = told
    return failure


def _set_done(waiter: asyncio.Future[Any]) -> None:
    if not waiter.cancelled():
        waiter.set_result(None)
