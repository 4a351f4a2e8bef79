"""One client of the gateway: from its first byte to the close.

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
500 and a report. Nothing but a cancellation leaves `Connection.run`.
"""

import enum
import socket
import sys
import traceback
from collections.abc import AsyncIterator, Callable
from typing import Protocol

import attrs
import h11
import trio

from flux.hostcalls.clock import SystemClock
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
from flux.message import Admission, HttpRequest, HttpResponse, RequestHead, problem, reason_of
from flux.supervisor.client_socket import RECEIVE_BYTES, ClientGone, ClientLate, ClientSocket
from flux.supervisor.client_tls import Certificate, TlsClientSocket
from flux.supervisor.gateway_body import BodyCollector, get_bytes_max
from flux.supervisor.http_date import HttpDate


class Handler(Protocol):
    """Who answers requests."""

    async def admit(self, head: RequestHead) -> Admission:
        """Say what is to become of a request, before a byte of its body is read. Whatever is raised becomes a 500."""

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
    """How long a stream goes on after its client has closed its side. See `Connection._send_stream`."""

    drain_grace_s: float = 0.5
    """While draining: for the first byte of a connection that was made before we stopped listening."""

    linger_timeout_s: float = 2
    """How long we listen after the last answer, so that the client can read it."""

    connections_max: int = 10_000
    """Above it a connection is answered 503 and closed."""

    requests_per_connection_max: int = 10_000
    """The last of them is answered with ``connection: close``."""


class _Phase(enum.Enum):
    """What a connection is doing, and so what it means to be late."""

    IDLE = enum.auto()
    HEAD = enum.auto()
    BODY = enum.auto()
    ANSWER = enum.auto()
    WRITE = enum.auto()


_NO_ADMISSION = Admission(0)
_COALESCE_BYTES_MAX = 64 * 1024
_ACLOSE_TIMEOUT_S = 5.0


class Server:
    """What all connections of one gateway share."""

    def __init__(
        self,
        handler: Handler,
        limits: GatewayLimits,
        on_crash: Callable[[BaseException], None],
        certificate: Certificate | None = None,
    ) -> None:
        self.handler = handler
        self.certificate = certificate
        """What is shown to clients; None: they are spoken to without TLS."""
        self.limits = limits
        self.head_limits = HeadLimits(
            limits.request_line_bytes_max, limits.header_bytes_max, limits.header_count_max
        )
        self.draining = False
        self.connections: set[Connection] = set()
        self.refusals = 0
        self.bodies_bytes = 0
        self.date = HttpDate(SystemClock())
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
        """Tell every connection that its present request, if it has one, is its last."""
        self.draining = True
        for connection in self.connections:
            connection.drain()


class Connection:
    """One client, from acceptance to close."""

    __slots__ = (
        "_admission",
        "_h11",
        "_held_bytes",
        "_method",
        "_peer",
        "_phase",
        "_requests",
        "_server",
        "_socket",
    )

    def __init__(self, server: Server, accepted: socket.socket, peer: str) -> None:
        self._server = server
        certificate = server.certificate
        self._socket = ClientSocket(accepted) if certificate is None else TlsClientSocket(accepted, certificate.context)
        self._peer = peer
        self._h11 = h11.Connection(h11.SERVER, server.limits.header_bytes_max)
        self._phase = _Phase.IDLE
        self._method = ""
        """Of the request being answered, once h11 knows it too: both frame the answer by it."""
        self._admission = _NO_ADMISSION
        """Of the request being answered, once there is one."""
        self._requests = 0
        self._held_bytes = 0
        """This request's share of ``bodies_bytes_max``."""

    async def run(self) -> None:
        """Serve this client. Raises nothing but a cancellation from outside."""
        try:
            if await self._serve_in_time():
                return
            # Here and not where it was caught: the exception would keep alive what was received.
            await self._give_up()
        except ClientGone:
            pass  # Nobody is left to tell, and it is no news: clients leave.
        except BaseException as error:
            _pass_cancellation(error, self._report)
            self._report(error)
        finally:
            self._release_body()
            self._server.connections.discard(self)
            self._socket.close()

    def drain(self) -> None:
        """Close if nothing is in flight and nothing has arrived.

        A client that has had answers knows that an idle connection may close. One that
        has just connected has a request on its way, and gets a moment for it.
        """
        if self._phase is not _Phase.IDLE:
            return
        if self._requests:
            self._socket.stop_reading()
        else:
            self._socket.hasten(trio.current_time() + self._server.limits.drain_grace_s)

    # Reading a request, answering it.

    async def _serve_in_time(self) -> bool:
        try:
            await self._serve()
        except ClientLate:
            return False
        return True

    async def _serve(self) -> None:
        limits = self._server.limits
        # Who connects has something to say.
        wait_s = limits.drain_grace_s if self._server.draining else limits.head_timeout_s
        while True:
            if self._server.draining:
                self.drain()
            self._method = ""
            self._admission = _NO_ADMISSION
            refusal = None
            try:
                raw = await self._receive_head(wait_s)
                if raw is None:
                    return
                request = await self._receive_request(raw)
            except HttpRefusal as error:
                refusal = error.to_response()
            if refusal is not None:
                await self._refuse(refusal)
                return
            self._requests += 1
            self._phase = _Phase.ANSWER
            if isinstance(request, HttpResponse):
                # A body that was not read stands between us and the next request.
                response, close = request, self._h11.their_state is not h11.DONE
            else:
                try:
                    response, close = await self._handle(request)
                finally:
                    if request.upload is not None:
                        request.upload.close()
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
        buffer = self._socket.buffer
        skipped = skip_empty_line(buffer)
        searched = 0
        waited = False
        deadline = trio.current_time() + (server.limits.head_timeout_s if buffer else wait_s)
        while True:
            end = -1
            if buffer:
                self._phase = _Phase.HEAD
                end = find_head(buffer, searched, server.head_limits, ended=self._socket.ended)
            if end >= 0:
                break
            if self._socket.ended:
                return None
            searched = len(buffer)
            if not await self._socket.receive(deadline):
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

    async def _receive_request(self, raw: bytes) -> HttpRequest | HttpResponse:
        """Return the whole request; or its answer, where the head was enough for one."""
        head, framing = read_head(raw, self._peer, self._server.head_limits)
        # The second opinion, and h11's state: how to answer, and whether to go on after it.
        self._h11.receive_data(raw)
        self._next_event()
        self._method = head.method
        if framing.length == 0:
            self._next_event()
        # Kept before it is looked at: refusals below carry its headers.
        self._admission = admission = await self._admit(head)
        if admission.answer is not None:
            return admission.answer
        if framing.length == 0:
            return HttpRequest(head, admission=admission)
        self._phase = _Phase.BODY
        body_bytes_max = get_bytes_max(admission)
        if framing.length is not None and framing.length > body_bytes_max:
            refuse_body(body_bytes_max)
        if framing.expects_continue:
            await self._write(self._h11.send(h11.InformationalResponse(status_code=100, headers=[])))
        collector = BodyCollector(admission, framing.length, self._hold_body)
        try:
            await self._receive_body(framing, collector)
        except MemoryError as error:
            collector.close()
            self._report(error)
            raise HttpRefusal(503, "OVERLOADED", "there is no memory for this request; try again") from error
        except BaseException:
            collector.close()
            raise
        return HttpRequest(head, collector.finish(), admission, collector.upload)

    async def _receive_body(self, framing: BodyFraming, collector: BodyCollector) -> None:
        limits = self._server.limits
        buffer = self._socket.buffer
        chunked = ChunkedBody(collector.bytes_max, self._server.head_limits) if framing.length is None else None
        remaining = framing.length or 0
        # What came in one piece with the head counts for the rate as well.
        received_bytes = len(buffer) if framing.length is None else min(framing.length, len(buffer))
        started = trio.current_time()
        while True:
            if chunked is not None:
                await collector.take(chunked.feed(buffer))
                if chunked.done:
                    self._h11.receive_data(b"0\r\n\r\n")
                    break
            elif taken := min(remaining, len(buffer)):
                self._h11.receive_data(bytes(buffer[:taken]))
                del buffer[:taken]
                remaining -= taken
                event = self._next_event()
                if isinstance(event, h11.Data):
                    await collector.take(bytes(event.data))
            if chunked is None and not remaining:
                break
            if self._socket.ended:
                raise HttpRefusal(400, "MALFORMED_REQUEST", "the connection ended within the request's body")
            allowed_s = limits.body_timeout_s + received_bytes / limits.body_bytes_per_s_min
            received_bytes += await self._socket.receive(started + allowed_s)
        self._next_event()

    def _next_event(self) -> object:
        """Let h11 read what it was given. It can only be stricter than our rules, never laxer."""
        try:
            return self._h11.next_event()
        except h11.RemoteProtocolError as error:
            raise HttpRefusal(error.error_status_hint, "MALFORMED_REQUEST", str(error)) from error

    async def _admit(self, head: RequestHead) -> Admission:
        try:
            return await self._server.handler.admit(head)
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
            response = self._admission.dress(response)
            headers = check_response(response, method)
        except Exception as error:
            self._report(error)
            await _aclose_body(response, self._report)
            response, close = self._admission.dress(problem(500, "INTERNAL_ERROR", _INTERNAL_ERROR)), True
            headers = check_response(response, method)
        if not any(name == b"date" for name, _ in headers):
            # A function that passes on an answer of somebody else's may say when that one was made.
            headers.append((b"date", self._server.date.now()))
        if close:
            headers = [header for header in headers if header[0] != b"connection"]
            headers.append((b"connection", b"close"))
        reason = reason_of(response.status).encode("ascii")
        head = self._h11.send(h11.Response(status_code=response.status, headers=headers, reason=reason))
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
            is_finite = any(name == b"content-length" for name, _ in headers)
            await self._send_stream(head, response, response.body, is_finite=is_finite)

    async def _send_stream(
        self, head: bytes | None, response: HttpResponse, body: AsyncIterator[bytes], *, is_finite: bool
    ) -> None:
        """Send ``head``, then ``body`` piece by piece as it comes.

        Beside it we listen. A reset ends the stream at once. A client that closes its
        side may be one that half-closed and still reads, or a browser tab that is gone:
        TCP does not tell them apart. So a stream of unknown length goes on for ``hang_up_grace_s``,
        and an endless one does not leak a task for ever. One whose length was told is sent to its end,
        as long as somebody takes it.
        """
        failure: BaseException | None = None
        whole = False
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch_hang_up, nursery.cancel_scope, is_finite)
                try:
                    await self._write(head)
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
                except (ClientGone, ClientLate):
                    pass  # `whole` says it.
                except BaseException as error:
                    _pass_cancellation(error, self._report)
                    failure = error
                nursery.cancel_scope.cancel()
        finally:
            await _aclose_body(response, self._report)
        if failure is not None:
            self._report(failure)
        if not whole:
            # A reset, not a polite end: the client must not take the part for the whole.
            self._socket.abort()
            raise ClientGone

    async def _watch_hang_up(self, stream_scope: trio.CancelScope, is_finite: bool) -> None:
        connected = self._socket
        while len(connected.buffer) < RECEIVE_BYTES and not connected.ended:
            await connected.wait_readable()
            try:
                connected.receive_nowait()
            except ClientGone:
                stream_scope.cancel()
                return
        if connected.ended and not is_finite:
            await trio.sleep(self._server.limits.hang_up_grace_s)
            stream_scope.cancel()

    async def _refuse(self, response: HttpResponse) -> None:
        """Answer and close, whatever the client is still sending."""
        self._release_body()
        self._phase = _Phase.WRITE
        await self._send(response, close=True)
        await self._linger()

    async def _give_up(self) -> None:
        """The client is late: do what this phase calls for."""
        if self._phase in (_Phase.HEAD, _Phase.BODY):
            part = "head" if self._phase is _Phase.HEAD else "body"
            try:
                await self._refuse(problem(408, "REQUEST_TIMEOUT", f"the request's {part} came too slowly"))
            except ClientLate:
                pass  # It does not read either: now the phase is WRITE.
            else:
                return
        if self._phase is _Phase.WRITE:
            # What waits in the kernel for a client that does not read would wait on.
            self._socket.abort()

    def _report(self, error: BaseException) -> None:
        self._server.report(error)

    async def _write(self, data: bytes | None) -> None:
        if data:
            limits = self._server.limits
            await self._socket.write(data, limits.write_timeout_s, limits.write_bytes_per_s_min)

    async def _linger(self) -> None:
        await self._socket.linger(self._server.limits.linger_timeout_s)


async def _aclose_body(response: HttpResponse, report: Callable[[BaseException], None]) -> None:
    """Let a stream that will not be read to its end clean up behind itself, within reason."""
    # What a handler answered with may be anything, and this is where such an answer ends.
    aclose = getattr(getattr(response, "body", None), "aclose", None)
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


_INTERNAL_ERROR = "the server failed to answer; what went wrong is in its log"
