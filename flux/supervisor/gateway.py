"""The HTTP server: bytes in, `HttpRequest` to the handler, bytes out.

How to think about it: here connections are accepted, counted and drained; what is
said on one of them is `gateway_connection`'s, and ``listeners`` takes the port.
The names that others need are all importable from here.

No client reaches the nursery: `Connection.run` raises nothing, what ``accept``
reports of a client's bad luck is ignored, and running out of descriptors makes
new clients wait and old ones stay.
"""

import contextlib
import errno
import socket
from collections.abc import Callable

import trio

from flux.errors import OperatorError
from flux.http_rules import check_response
from flux.message import problem, reason_of
from flux.supervisor.client_socket import ClientSocket
from flux.supervisor.client_tls import Certificate
from flux.supervisor.gateway_connection import Connection, GatewayLimits, Handler, Server
from flux.supervisor.listeners import (
    BACKLOG,
    Borrowed,
    CannotListenError,
    PortHolder,
    PortInUseError,
    find_port_holder,
    open_listeners,
    stop_handshakes,
)

__all__ = [
    "CannotListenError",
    "GatewayLimits",
    "Handler",
    "NoDescriptorsError",
    "PortHolder",
    "PortInUseError",
    "find_port_holder",
    "open_listeners",
    "serve_http",
]


class NoDescriptorsError(OperatorError):
    """The process may open no more connections."""

    code = "FLX602"


async def serve_http(
    listeners: list[trio.SocketListener],
    handler: Handler,
    limits: GatewayLimits,
    *,
    drain: trio.Event,
    on_crash: Callable[[BaseException], None],
    borrowed: Borrowed | None = None,
    certificate: Certificate | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until ``drain`` is set, then finish what was begun and return.

    Draining: nobody can connect any more, and connections that the kernel has already
    taken are still accepted; then the listeners are closed. Requests in flight are finished and answered
    with ``connection: close``; idle connections are closed at once, but for those
    that have just been made, whose first request may be on its way. An endless
    stream is the handler's to end. The deadline for all that belongs to the
    caller's cancel scope.

    With ``certificate`` clients speak TLS. ``borrowed`` sockets are accepted from as well, and stay as they are: they
    are others'.
    """
    server = Server(handler, limits, on_crash, certificate)
    acceptors = [_dup_socket(listener) for listener in listeners]
    try:
        async with trio.open_nursery() as connections:
            async with trio.open_nursery() as accepting:
                for acceptor in acceptors:
                    accepting.start_soon(_accept_forever, acceptor, server, connections)
                if borrowed is not None:
                    accepting.start_soon(_accept_borrowed, borrowed, server, connections)
                task_status.started()
                await drain.wait()
                server.begin_drain()
                for acceptor in acceptors:
                    try:
                        stop_handshakes(acceptor)
                    except OSError as error:
                        server.report(error)
                await trio.sleep(_HANDSHAKE_S)
                accepting.cancel_scope.cancel()
            for acceptor in acceptors:
                # To close a listener resets what waits in its queue, and those clients
                # had reason to think that they were connected.
                try:
                    _accept_waiting(acceptor, server, connections, at_most=BACKLOG)
                except OSError as error:
                    server.report(error)
            _close_all(acceptors, listeners)
    finally:
        _close_all(acceptors, listeners)


_ACCEPTED_AT_ONCE_MAX = 64
_REFUSALS_MAX = 128
_RETRY_ACCEPT_S = 0.1
_HANDSHAKE_S = 0.05
"""How long a drain waits for clients whose handshake has begun: a round trip to them."""
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


async def _accept_forever(acceptor: socket.socket, server: Server, nursery: trio.Nursery) -> None:
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


async def _accept_borrowed(borrowed: Borrowed, server: Server, connections: trio.Nursery) -> None:
    told = False
    while True:
        with contextlib.ExitStack() as opened:
            try:
                acceptors = opened.enter_context(borrowed.opened())
            except OSError as error:
                if error.errno not in _CAPACITY_ERRNOS:
                    raise
                if not told:
                    server.report(_no_descriptors(error, len(server.connections)))
                told = True
                await trio.sleep(_RETRY_ACCEPT_S)
                continue
            told = False
            async with trio.open_nursery() as accepting:
                for acceptor in acceptors:
                    accepting.start_soon(_accept_forever, acceptor, server, connections)
                await borrowed.wait_changed()
                accepting.cancel_scope.cancel()


def _accept_waiting(acceptor: socket.socket, server: Server, nursery: trio.Nursery, *, at_most: int) -> None:
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
        connection = Connection(server, accepted, _peer_name(address))
        server.connections.add(connection)
        if server.draining:
            connection.drain()
        nursery.start_soon(connection.run)


def _refuse_connection(accepted: socket.socket, server: Server, nursery: trio.Nursery) -> None:
    """Answer 503 without reading a byte; linger for some, so that they can read it."""
    if server.certificate is not None:
        accepted.close()  # Nothing can be said before a handshake, and a handshake is what there is no room for.
        return
    with contextlib.suppress(OSError):
        accepted.send(_OVERLOADED % server.date.now())
    if server.refusals >= _REFUSALS_MAX:
        accepted.close()
        return
    server.refusals += 1
    nursery.start_soon(_linger_refused, ClientSocket(accepted), server)


async def _linger_refused(refused: ClientSocket, server: Server) -> None:
    try:
        await refused.linger(server.limits.linger_timeout_s)
    finally:
        server.refusals -= 1
        refused.close()


def _overloaded() -> bytes:
    response = problem(503, "OVERLOADED", "too many connections; try again")
    assert isinstance(response.body, bytes)
    lines = [*check_response(response, "GET"), (b"retry-after", b"1"), (b"connection", b"close")]
    head = b"HTTP/1.1 503 %s\r\n" % reason_of(503).encode("ascii")
    head += b"".join(b"%s: %s\r\n" % line for line in lines)
    return head + b"date: %s\r\n\r\n" + response.body


_OVERLOADED = _overloaded()
"""The same for everybody but for the date, ready before it is needed."""


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


def _no_descriptors(error: OSError, connections: int) -> OperatorError:
    return NoDescriptorsError(
        f"no new connections can be accepted, with {connections} open: {error.strerror}",
        remedy="raise the limit of open files (ulimit -n), or lower connections_max below it",
    )
