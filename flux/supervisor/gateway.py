"""The HTTP server: bytes in, `HttpRequest` to the handler, bytes out.

How to think about it: a connection is one task and one loop, and the loop is
always in one of these phases, which says what its deadline means::

    IDLE    no byte of a request yet      late: closed without a word
    HEAD    the first byte has come       late: 408 (in total, however slowly it drips)
    BODY    the head was accepted         late: 408 (unless the body keeps up a minimum rate)
    ANSWER  the handler works             no deadline: that one is the handler's own
    WRITE   the answer leaves             late: reset (unless the client keeps up a minimum rate)

What is a request is decided by `flux.http_rules` on the raw bytes and by h11
after it; a message counts when both accept it. Nothing is read ahead beyond one
receive: while a request is handled, the client's next ones wait in the kernel.

Whatever happens on a connection ends at the connection. Refusals are answered
and closed, vanished clients are forgotten, and what a handler raises becomes a
500 and a call of ``on_crash``. Nothing but a cancellation reaches the nursery.

The sockets are plain non-blocking ones, tried first and waited for with
``trio.lowlevel``: a deadline is then set only where the task really sleeps, and
an answer that fits the socket's buffer costs one system call and no deadline.
"""

import contextlib
import enum
import errno
import math
import socket
import struct
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Protocol

import attrs
import h11
import trio

from flux.errors import OperatorError
from flux.http_rules import (
    BodyFraming,
    ChunkedBody,
    HeadLimits,
    HttpRefusal,
    ResponseBodyError,
    check_response,
    find_head,
    has_body,
    read_head,
    refuse_body,
    skip_empty_line,
)
from flux.message import HttpRequest, HttpResponse, RequestHead, problem, reason_of


class PortInUseError(OperatorError):
    """Another process listens where we want to."""

    code = "FLX601"


class NoDescriptorsError(OperatorError):
    """The process may open no more connections."""

    code = "FLX602"


class CannotListenError(OperatorError):
    """The address is not ours to listen on."""

    code = "FLX603"


class Handler(Protocol):
    """Who answers requests."""

    def body_bytes_max(self, head: RequestHead) -> int:
        """Return how large the body may be. Asked before a byte of it is read."""

    async def handle(self, request: HttpRequest) -> HttpResponse:
        """Answer. Whatever is raised becomes a 500 and a call of ``on_crash``."""


@attrs.frozen
class GatewayLimits:
    """How much a client may ask of the gateway, and how slowly."""

    request_line_bytes_max: int = 8 * 1024
    """Method, target and version; above it 414."""

    header_bytes_max: int = 64 * 1024
    """The whole head; above it 431. Trailers have the same limit."""

    header_count_max: int = 100
    """Header lines; above it 431."""

    head_timeout_s: float = 10
    """From a head's first byte to its last; and from a new connection to its first byte."""

    body_timeout_s: float = 30
    """For a body to begin and to catch up with ``body_bytes_per_s_min``."""

    body_bytes_per_s_min: int = 1024
    """Every byte of a body extends its deadline by as much as this rate allows it."""

    bodies_bytes_max: int = 512 * 1024 * 1024
    """What all bodies being received or handled may hold together; above it 503."""

    idle_timeout_s: float = 75
    """Between requests on one connection."""

    write_timeout_s: float = 30
    """For the client to take an answer, or one piece of a stream, with the rate below."""

    write_bytes_per_s_min: int = 1024
    """Every byte the client takes extends the deadline by as much as this rate allows it."""

    hang_up_grace_s: float = 10
    """How long a stream goes on after its client has closed its side. See `_Connection._send_stream`."""

    linger_timeout_s: float = 2
    """How long we listen after the last answer, so that the client can read it."""

    connections_max: int = 10_000
    """Above it a connection is answered 503 and closed."""

    requests_per_connection_max: int = 10_000
    """The last of them is answered with ``connection: close``."""


async def serve_http(
    listeners: list[trio.SocketListener],
    handler: Handler,
    limits: GatewayLimits,
    *,
    drain: trio.Event,
    on_crash: Callable[[BaseException], None],
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until ``drain`` is set, then finish what was begun and return.

    Draining: connections that the kernel has already taken are still accepted,
    then the listeners are closed; requests in flight are finished and answered
    with ``connection: close``; idle connections are closed at once. The deadline
    for all that belongs to the caller's cancel scope.
    """
    server = _Server(handler, limits, on_crash)
    acceptors = [_dup_socket(listener) for listener in listeners]
    try:
        async with trio.open_nursery() as connections:
            async with trio.open_nursery() as accepting:
                for acceptor in acceptors:
                    accepting.start_soon(_accept_forever, acceptor, server, connections)
                task_status.started()
                await drain.wait()
                accepting.cancel_scope.cancel()
            server.begin_drain()
            for acceptor in acceptors:
                # To close a listener resets what waits in its queue, and those clients
                # had reason to think that they were connected.
                try:
                    _accept_waiting(acceptor, server, connections, at_most=_BACKLOG)
                except OSError as error:
                    server.report(error)
            _close_all(acceptors, listeners)
    finally:
        _close_all(acceptors, listeners)


async def open_listeners(
    host: str = "127.0.0.1", port: int = 4000, *, share_port: bool = False
) -> list[trio.SocketListener]:
    """Listen on every address of ``host``, on loopback unless told otherwise.

    Port 0 takes a free one, the same for every address. With ``share_port`` several
    processes may listen on one port, and the kernel spreads connections over them.
    """
    try:
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise CannotListenError(
            f'cannot listen on "{host}": the name has no address here ({error})',
            remedy="use an address of this machine, such as 127.0.0.1, or 0.0.0.0 for all of them",
        ) from error
    listeners: list[trio.SocketListener] = []
    unavailable: CannotListenError | None = None
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            where = (address[0], port, *address[2:])
            try:
                listener = _listen(family, kind, protocol, where, share_port=share_port)
            except CannotListenError as error:
                # "localhost" has an IPv6 address even where the kernel has no IPv6.
                unavailable = error
                continue
            listeners.append(trio.SocketListener(trio.socket.from_stdlib_socket(listener)))
            port = listener.getsockname()[1]
    except BaseException:
        for opened in listeners:
            opened.socket.close()
        raise
    if not listeners and unavailable is not None:
        raise unavailable
    return listeners


class _Phase(enum.Enum):
    """What a connection is doing, and so what it means to be late."""

    IDLE = enum.auto()
    HEAD = enum.auto()
    BODY = enum.auto()
    ANSWER = enum.auto()
    WRITE = enum.auto()


class _Gone(Exception):
    """The client has closed or reset the connection."""


_BACKLOG = 1024
_ACCEPTED_AT_ONCE_MAX = 64
_RECEIVE_BYTES = 64 * 1024
_COALESCE_BYTES_MAX = 64 * 1024
_LINGER_BYTES_MAX = 64 * 1024 * 1024
_ACLOSE_TIMEOUT_S = 5.0
_REFUSALS_MAX = 128
_RETRY_ACCEPT_S = 0.1
_CAPACITY_ERRNOS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
# accept(2): "Linux accept() passes already-pending network errors on the new socket as an
# error code from accept(). [...] treat them like EAGAIN by retrying."
_RETRY_ERRNOS = frozenset(
    {
        errno.ECONNABORTED,
        errno.EINTR,
        errno.EPERM,
        errno.EPROTO,
        errno.ENETDOWN,
        errno.ENOPROTOOPT,
        errno.EHOSTDOWN,
        errno.ENONET,
        errno.EHOSTUNREACH,
        errno.EOPNOTSUPP,
        errno.ENETUNREACH,
        errno.ETIMEDOUT,
    }
)


class _Server:
    """What all connections share."""

    def __init__(
        self, handler: Handler, limits: GatewayLimits, on_crash: Callable[[BaseException], None]
    ) -> None:
        self.handler = handler
        self.limits = limits
        self.head_limits = HeadLimits(
            limits.request_line_bytes_max, limits.header_bytes_max, limits.header_count_max
        )
        self.draining = False
        self.connections: set[_Connection] = set()
        self.refusals = 0
        self.bodies_bytes = 0
        self._on_crash = on_crash

    def report(self, error: BaseException) -> None:
        """Tell the operator, whatever the operator's callback does with it."""
        try:
            self._on_crash(error)
        except Exception as second:
            # The last resort: the two errors must not vanish, and must not reach the nursery.
            traceback.print_exception(error, file=sys.stderr)
            traceback.print_exception(second, file=sys.stderr)

    def begin_drain(self) -> None:
        self.draining = True
        for connection in self.connections:
            connection.drain()


async def _accept_forever(acceptor: socket.socket, server: _Server, nursery: trio.Nursery) -> None:
    told = False
    while True:
        await trio.lowlevel.wait_readable(acceptor)
        try:
            _accept_waiting(acceptor, server, nursery, at_most=_ACCEPTED_AT_ONCE_MAX)
        except OSError as error:
            if error.errno not in _CAPACITY_ERRNOS:
                raise
            if not told:
                server.report(_no_descriptors(error, len(server.connections)))
            told = True
            # The connection stays in the queue, so the listener stays readable.
            await trio.sleep(_RETRY_ACCEPT_S)
        else:
            told = False


def _accept_waiting(acceptor: socket.socket, server: _Server, nursery: trio.Nursery, *, at_most: int) -> None:
    for _ in range(at_most):
        try:
            accepted, address = acceptor.accept()
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno in _RETRY_ERRNOS:
                continue
            raise
        accepted.setblocking(False)
        if len(server.connections) >= server.limits.connections_max:
            _refuse_connection(accepted, server, nursery)
            continue
        with contextlib.suppress(OSError):  # A client that has reset already, or no TCP at all.
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = _Connection(server, accepted, _peer_name(address))
        server.connections.add(connection)
        if server.draining:
            connection.drain()
        nursery.start_soon(connection.run)


def _refuse_connection(accepted: socket.socket, server: _Server, nursery: trio.Nursery) -> None:
    """Answer 503 without reading a byte; linger for some, so that they can read it."""
    with contextlib.suppress(OSError):
        accepted.send(_OVERLOADED)
    if server.refusals >= _REFUSALS_MAX:
        accepted.close()
        return
    server.refusals += 1
    nursery.start_soon(_linger_refused, accepted, server)


async def _linger_refused(accepted: socket.socket, server: _Server) -> None:
    try:
        await _linger(accepted, server.limits.linger_timeout_s)
    finally:
        server.refusals -= 1
        _close(accepted)


class _Connection:
    """One client, from acceptance to close."""

    __slots__ = (
        "_buffer",
        "_ended",
        "_h11",
        "_held_bytes",
        "_method",
        "_peer",
        "_phase",
        "_requests",
        "_scope",
        "_server",
        "_socket",
    )

    def __init__(self, server: _Server, accepted: socket.socket, peer: str) -> None:
        self._server = server
        self._socket = accepted
        self._peer = peer
        self._h11 = h11.Connection(h11.SERVER, server.limits.header_bytes_max)
        self._scope = trio.CancelScope()
        self._phase = _Phase.IDLE
        self._buffer = bytearray()
        """Received and not yet taken: a part of a request, or requests sent ahead."""
        self._ended = False
        """The client has closed its side; it may still be reading."""
        self._method = ""
        """Of the request being answered, once h11 knows it too: both frame the answer by it."""
        self._requests = 0
        self._held_bytes = 0
        """This request's share of ``bodies_bytes_max``."""

    async def run(self) -> None:
        """Serve this client. Raises nothing but a cancellation from outside."""
        try:
            with self._scope:
                await self._serve()
            if self._scope.cancelled_caught:
                await self._give_up()
        except _Gone:
            pass  # Nobody is left to tell, and it is no news: clients leave.
        except BaseException as error:
            _pass_cancellation(error, self._report)
            self._report(error)
        finally:
            self._release_body()
            self._server.connections.discard(self)
            _close(self._socket)

    def drain(self) -> None:
        """Close if nothing is in flight, by letting an idle client's silence look like its farewell.

        What has arrived already can still be read after this, so a request that
        crossed our decision on its way is answered.
        """
        if self._phase is _Phase.IDLE:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RD)

    # Reading a request, answering it.

    async def _serve(self) -> None:
        limits = self._server.limits
        wait_s = limits.head_timeout_s  # Who connects has something to say.
        while True:
            if self._server.draining:
                self.drain()
            self._method = ""
            try:
                raw = await self._receive_head(wait_s)
                if raw is None:
                    return
                request = await self._receive_request(raw)
            except HttpRefusal as refusal:
                await self._refuse(refusal.to_response())
                return
            self._requests += 1
            self._phase = _Phase.ANSWER
            response, close = await self._handle(request)
            del request
            self._phase = _Phase.WRITE
            if self._server.draining or self._requests >= limits.requests_per_connection_max:
                close = True
            await self._send(response, close=close)
            del response
            self._release_body()
            if self._h11.our_state is not h11.DONE:
                await self._linger()
                return
            self._h11.start_next_cycle()
            self._phase = _Phase.IDLE
            wait_s = limits.idle_timeout_s

    async def _receive_head(self, wait_s: float) -> bytes | None:
        """Return the next head's bytes, or None when there will be none."""
        server = self._server
        buffer = self._buffer
        skipped = skip_empty_line(buffer)
        searched = 0
        waited = False
        deadline = trio.current_time() + (server.limits.head_timeout_s if buffer else wait_s)
        while True:
            end = -1
            if buffer:
                self._phase = _Phase.HEAD
                end = find_head(buffer, searched, server.head_limits, ended=self._ended)
            if end >= 0:
                break
            if self._ended:
                return None
            searched = len(buffer)
            if not await self._receive(deadline):
                continue
            waited = True
            if not searched:
                deadline = trio.current_time() + server.limits.head_timeout_s
            if not skipped and skip_empty_line(buffer):
                skipped = True
                searched = 0
        if not waited:
            # Everything was in the buffer: a client that sends ahead must not keep us for itself.
            await trio.lowlevel.checkpoint()
        raw = bytes(buffer[:end])
        del buffer[:end]
        return raw

    async def _receive_request(self, raw: bytes) -> HttpRequest:
        head, framing = read_head(raw, self._peer, self._server.head_limits)
        # The second opinion, and h11's state: how to answer, and whether to go on after it.
        self._h11.receive_data(raw)
        self._next_event()
        self._method = head.method
        if framing.length == 0:
            self._next_event()
            return HttpRequest(head)
        self._phase = _Phase.BODY
        body_bytes_max = self._body_bytes_max(head)
        if framing.length is not None and framing.length > body_bytes_max:
            refuse_body(body_bytes_max)
        if framing.expects_continue:
            await self._write(self._h11.send(h11.InformationalResponse(status_code=100, headers=[])))
        return HttpRequest(head, await self._receive_body(framing, body_bytes_max))

    async def _receive_body(self, framing: BodyFraming, body_bytes_max: int) -> bytes:
        limits = self._server.limits
        chunked = ChunkedBody(body_bytes_max, self._server.head_limits) if framing.length is None else None
        remaining = framing.length or 0
        body = bytearray()
        received_bytes = 0
        started = trio.current_time()
        while True:
            if chunked is not None:
                piece = chunked.feed(self._buffer)
                body += piece
                self._hold_body(len(piece))
                if chunked.done:
                    self._h11.receive_data(b"0\r\n\r\n")
                    break
            elif taken := min(remaining, len(self._buffer)):
                self._hold_body(taken)
                self._h11.receive_data(bytes(self._buffer[:taken]))
                del self._buffer[:taken]
                remaining -= taken
                event = self._next_event()
                if isinstance(event, h11.Data):
                    body += event.data
            if chunked is None and not remaining:
                break
            if self._ended:
                raise HttpRefusal(400, "MALFORMED_REQUEST", "the connection ended within the request's body")
            allowed_s = limits.body_timeout_s + received_bytes / limits.body_bytes_per_s_min
            received_bytes += await self._receive(started + allowed_s)
        self._next_event()
        return bytes(body)

    def _next_event(self) -> object:
        """Let h11 read what it was given. It can only be stricter than our rules, never laxer."""
        try:
            return self._h11.next_event()
        except h11.RemoteProtocolError as error:
            raise HttpRefusal(error.error_status_hint, "MALFORMED_REQUEST", str(error)) from error

    def _body_bytes_max(self, head: RequestHead) -> int:
        try:
            return self._server.handler.body_bytes_max(head)
        except BaseException as error:
            _pass_cancellation(error, self._report)
            self._report(error)
            raise HttpRefusal(500, "INTERNAL_ERROR", _INTERNAL_ERROR) from error

    def _hold_body(self, body_bytes: int) -> None:
        self._held_bytes += body_bytes
        self._server.bodies_bytes += body_bytes
        if self._server.bodies_bytes > self._server.limits.bodies_bytes_max:
            raise HttpRefusal(503, "OVERLOADED", "too many large requests at once; try again")

    def _release_body(self) -> None:
        self._server.bodies_bytes -= self._held_bytes
        self._held_bytes = 0

    async def _handle(self, request: HttpRequest) -> tuple[HttpResponse, bool]:
        """Ask the handler; return its answer and whether to close after it."""
        try:
            return await self._server.handler.handle(request), False
        except BaseException as error:
            # BaseException: a handler that raises SystemExit does not end the supervisor.
            _pass_cancellation(error, self._report)
            self._report(error)
            return problem(500, "INTERNAL_ERROR", _INTERNAL_ERROR), True

    # Writing an answer.

    async def _send(self, response: HttpResponse, *, close: bool) -> None:
        method = self._method
        try:
            headers = check_response(response, method)
        except Exception as error:
            self._report(error)
            await _aclose_body(response, self._report)
            response, close = problem(500, "INTERNAL_ERROR", _INTERNAL_ERROR), True
            headers = check_response(response, method)
        if close:
            headers = [header for header in headers if header[0] != b"connection"]
            headers.append((b"connection", b"close"))
        head = self._h11.send(
            h11.Response(status_code=response.status, headers=headers, reason=_reason_bytes(response.status))
        )
        if not has_body(response.status, method):
            await _aclose_body(response, self._report)
            await self._write(head + self._h11.send(h11.EndOfMessage()))
        elif isinstance(response.body, bytes):
            # h11 gives back the body as it is, and for a body of known length ends it with nothing.
            body = self._h11.send(h11.Data(data=response.body))
            self._h11.send(h11.EndOfMessage())
            if len(body) <= _COALESCE_BYTES_MAX:
                await self._write(head + body)
            else:
                await self._write(head)
                await self._write(body)
        else:
            await self._write(head)
            await self._send_stream(response, response.body)

    async def _send_stream(self, response: HttpResponse, body: AsyncIterator[bytes]) -> None:
        """Send ``body`` piece by piece as it comes.

        Beside it we listen. A reset ends the stream at once. A client that closes its
        side may be one that half-closed and still reads, or a browser tab that is gone:
        TCP does not tell them apart. So the stream goes on for ``hang_up_grace_s``, in
        which any finite answer ends, and an endless one does not leak a task for ever.
        """
        failure: BaseException | None = None
        whole = False
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch_hang_up, nursery.cancel_scope)
                try:
                    async for piece in body:
                        if not isinstance(piece, bytes):
                            raise ResponseBodyError(
                                f"a handler's stream gave a piece of type {type(piece).__name__}",
                                remedy="yield bytes",
                            )
                        if piece:
                            await self._write(self._h11.send(h11.Data(data=piece)))
                    await self._write(self._h11.send(h11.EndOfMessage()))
                    whole = True
                except _Gone:
                    raise
                except BaseException as error:
                    _pass_cancellation(error, self._report)
                    failure = error
                nursery.cancel_scope.cancel()
        except* _Gone:
            pass  # `whole` says it.
        finally:
            await _aclose_body(response, self._report)
        if failure is not None:
            self._report(failure)
        if not whole:
            # A reset, not a polite end: the client must not take the part for the whole.
            _abort(self._socket)
            raise _Gone

    async def _watch_hang_up(self, stream_scope: trio.CancelScope) -> None:
        while len(self._buffer) < _RECEIVE_BYTES and not self._ended:
            await trio.lowlevel.wait_readable(self._socket)
            try:
                self._receive_nowait()
            except _Gone:
                stream_scope.cancel()
                return
        if self._ended:
            await trio.sleep(self._server.limits.hang_up_grace_s)
            stream_scope.cancel()

    async def _refuse(self, response: HttpResponse) -> None:
        """Answer and close, whatever the client is still sending."""
        self._phase = _Phase.WRITE
        await self._send(response, close=True)
        await self._linger()

    async def _give_up(self) -> None:
        """The deadline has passed: do what this phase calls for."""
        stuck = self._phase is _Phase.WRITE
        if self._phase in (_Phase.HEAD, _Phase.BODY):
            part = "head" if self._phase is _Phase.HEAD else "body"
            with trio.CancelScope() as self._scope:
                await self._refuse(problem(408, "REQUEST_TIMEOUT", f"the request's {part} came too slowly"))
            stuck = self._scope.cancelled_caught
        if stuck:
            # What waits in the kernel for a client that does not read would wait on.
            _abort(self._socket)

    def _report(self, error: BaseException) -> None:
        self._server.report(error)

    # The socket.

    async def _receive(self, deadline: float) -> int:
        """Wait for bytes, or for the end of them; return how many came."""
        self._scope.deadline = deadline
        await trio.lowlevel.wait_readable(self._socket)
        self._scope.deadline = math.inf
        return self._receive_nowait()

    def _receive_nowait(self) -> int:
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise _Gone from error
        if not data:
            self._ended = True
        self._buffer += data
        return len(data)

    async def _write(self, data: bytes | None) -> None:
        if not data:
            return
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise _Gone from error
        if sent == len(data):
            return
        limits = self._server.limits
        started = trio.current_time()
        with memoryview(data) as view:
            while sent < len(data):
                self._scope.deadline = started + limits.write_timeout_s + sent / limits.write_bytes_per_s_min
                await trio.lowlevel.wait_writable(self._socket)
                try:
                    sent += self._socket.send(view[sent:])
                except BlockingIOError:
                    continue
                except OSError as error:
                    raise _Gone from error
        self._scope.deadline = math.inf

    async def _linger(self) -> None:
        if not self._ended:
            await _linger(self._socket, self._server.limits.linger_timeout_s)


async def _linger(connected: socket.socket, timeout_s: float) -> None:
    """Say that we are done, then discard what still comes, for a while.

    To close a socket with unread bytes in it resets the connection, and a reset
    takes the answer away from a client that has not read it yet (RFC 9112, section 9.6).
    """
    discarded_bytes = 0
    with trio.move_on_after(timeout_s):
        try:
            connected.shutdown(socket.SHUT_WR)
            while discarded_bytes < _LINGER_BYTES_MAX:
                await trio.lowlevel.wait_readable(connected)
                try:
                    data = connected.recv(_RECEIVE_BYTES)
                except BlockingIOError:
                    continue
                if not data:
                    return
                discarded_bytes += len(data)
        except OSError:
            return  # The client has reset the connection: it wants no answer.


async def _aclose_body(response: HttpResponse, report: Callable[[BaseException], None]) -> None:
    """Let a stream that will not be read to its end clean up behind itself, within reason."""
    aclose = getattr(response.body, "aclose", None)
    if aclose is None:
        return
    with trio.CancelScope(shield=True, deadline=trio.current_time() + _ACLOSE_TIMEOUT_S):
        try:
            await aclose()
        except BaseException as error:
            _pass_cancellation(error, report)
            report(error)


def _pass_cancellation(error: BaseException, report: Callable[[BaseException], None]) -> None:
    """Raise what of ``error`` is not the handler's own: trio's cancellation, the operator's Ctrl-C.

    A handler with a nursery can raise both at once, in a group; then its own part is reported.
    """
    if isinstance(error, (trio.Cancelled, KeyboardInterrupt)):
        raise error
    if isinstance(error, BaseExceptionGroup):
        passing, rest = error.split((trio.Cancelled, KeyboardInterrupt))
        if passing is not None:
            if rest is not None:
                report(rest)
            raise passing


def _abort(connected: socket.socket) -> None:
    """Make the coming close a reset, which frees what the kernel still holds to send."""
    with contextlib.suppress(OSError):
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _close(connected: socket.socket) -> None:
    trio.lowlevel.notify_closing(connected)
    connected.close()


def _close_all(acceptors: list[socket.socket], listeners: list[trio.SocketListener]) -> None:
    for acceptor in acceptors:
        acceptor.close()
    for listener in listeners:
        listener.socket.close()


def _dup_socket(listener: trio.SocketListener) -> socket.socket:
    """Return a plain socket for the same queue; the listener stays the caller's to look at."""
    shared = listener.socket
    acceptor = socket.fromfd(shared.fileno(), shared.family, shared.type)
    acceptor.setblocking(False)
    return acceptor


def _peer_name(address: object) -> str:
    match address:
        case (str() as host, int() as port, *_):
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        case _:
            return "unix"


_INTERNAL_ERROR = "the server failed to answer; what went wrong is in its log"


def _reason_bytes(status: int) -> bytes:
    return reason_of(status).encode("ascii")


def _overloaded() -> bytes:
    response = problem(503, "OVERLOADED", "too many connections; try again")
    assert isinstance(response.body, bytes)
    lines = [*check_response(response, "GET"), (b"retry-after", b"1"), (b"connection", b"close")]
    head = b"".join(b"%s: %s\r\n" % line for line in lines)
    return b"HTTP/1.1 503 " + _reason_bytes(503) + b"\r\n" + head + b"\r\n" + response.body


_OVERLOADED = _overloaded()
"""The same for everybody, ready before it is needed."""


def _listen(
    family: int, kind: int, protocol: int, address: tuple[object, ...], *, share_port: bool
) -> socket.socket:
    try:
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _cannot_listen(error, str(address[0]), int(str(address[1]))) from error
    try:
        # Without it a restart would wait for the old connections' TIME_WAIT. On Linux it does
        # not let two processes listen on one port; that is SO_REUSEPORT, for who asks for it.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.setblocking(False)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise _cannot_listen(error, str(address[0]), int(str(address[1]))) from error
    return listener


def _cannot_listen(error: OSError, host: str, port: int) -> OperatorError:
    if error.errno == errno.EADDRINUSE:
        holder = find_port_holder(port)
        if holder is None:
            by = "another process (of another user, or in another container)"
        else:
            by = f'"{holder.name}" (process {holder.pid})'
        return PortInUseError(
            f"port {port} on {host} is in use by {by}",
            remedy=f"stop it, or take another port: flux dev --port {port + 1 if port < 65535 else port - 1}",
        )
    remedy = "use an address of this machine, such as 127.0.0.1, or 0.0.0.0 for all of them"
    if error.errno == errno.EACCES:
        remedy = "ports below 1024 are for privileged users: take a higher one, such as 4000"
    return CannotListenError(f"cannot listen on {host}, port {port}: {error.strerror}", remedy=remedy)


def _no_descriptors(error: OSError, connections: int) -> OperatorError:
    return NoDescriptorsError(
        f"no new connections can be accepted, with {connections} open: {error.strerror}",
        remedy="raise the limit of open files (ulimit -n), or lower connections_max below it",
    )


@attrs.frozen
class PortHolder:
    """A process that listens on a port."""

    pid: int
    """Its process id."""

    name: str
    """Its command's name, as the kernel has it: at most 15 characters."""


def find_port_holder(port: int) -> PortHolder | None:
    """Return the process that listens on ``port``, or None when /proc does not tell us."""
    wanted = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    if not wanted:
        return None
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        # Processes end while we look, and those of others may not be looked into.
        with contextlib.suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    if str(descriptor.readlink()) in wanted:
                        return PortHolder(int(process.name), (process / "comm").read_text().strip())
    return None


def _listening_inodes(port: int) -> Iterator[str]:
    """Read proc_pid_net(5): local address in column 2, state in 4 (0A is LISTEN), inode in 10."""
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        try:
            lines = table.read_text().splitlines()[1:]
        except FileNotFoundError:
            continue  # A kernel without IPv6.
        for line in lines:
            columns = line.split()
            if columns[3] == "0A" and int(columns[1].rpartition(":")[2], 16) == port:
                yield columns[9]
