"""Names become addresses, addresses are judged, and what was judged is what we connect to.

A guest with a grant for ``api.example.com`` must not reach the database next
door because somebody pointed that name at 10.0.0.5. So a name is resolved once;
*every* address that comes back is judged (`http_addresses`); and the socket is
opened to one of those very addresses. Nothing resolves the name a second time,
which is the gap that DNS rebinding lives in.

`Network` does the waiting, `check_address` the deciding. A `Wire` is a TCP socket
that knows how many bytes it has moved: the exchange above it asks that, to tell a
request that never left from one that may have been received.
"""

import itertools
import os
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import attrs
import trio

from flux.grants import Grants, IPAddress, Origin, find_address
from flux.hostcalls.http_addresses import check_address
from flux.hostcalls.http_outbound import OutboundError

RECEIVE_BYTES = 64 * 1024
NEXT_ADDRESS_S = 0.25
"""RFC 8305, 8: how long to wait for one address before the next one is tried beside it."""
RESOLVER_THREADS = 4
"""Names that one tenant may have in resolution at once. ``getaddrinfo`` can't be cancelled, only left
behind in its thread, so a tenant whose name servers hang must not use up the threads of the others."""

Resolver = Callable[[str, int, trio.CapacityLimiter], Awaitable[list[str]]]
"""Takes host, port and the tenant's limiter of threads; returns numeric addresses; raises OSError."""

async def resolve_with_system(host: str, port: int, limiter: trio.CapacityLimiter) -> list[str]:
    """Ask the system's resolver. A cancelled caller goes at once; the thread ends when it ends."""
    ask = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    found = await trio.to_thread.run_sync(ask, abandon_on_cancel=True, limiter=limiter)
    return [str(sockaddr[0]) for _family, _type, _proto, _name, sockaddr in found]


class Wire(trio.abc.Stream):
    """A TCP socket that counts."""

    def __init__(self, tcp: trio.socket.SocketType, address: str) -> None:
        self._socket = tcp
        self.address = address
        """``ip:port`` of the other end, the one that was judged."""
        self.sent_bytes = 0
        """Bytes that the kernel took; encrypted ones, with TLS."""
        self.received_bytes = 0

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send everything, or raise `trio.BrokenResourceError`; ``sent_bytes`` then says how far it came."""
        with memoryview(data) as view:
            sent = 0
            while sent < len(view):
                try:
                    count = await self._socket.send(view[sent:])
                except OSError as error:
                    raise trio.BrokenResourceError(error.strerror) from error
                sent += count
                self.sent_bytes += count

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the kernel has room."""
        await trio.lowlevel.wait_writable(self._socket)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return what there is, b"" at the end; raise `trio.BrokenResourceError` after a reset."""
        try:
            data = await self._socket.recv(RECEIVE_BYTES if max_bytes is None else max_bytes)
        except OSError as error:
            raise trio.BrokenResourceError(error.strerror) from error
        self.received_bytes += len(data)
        return data

    def is_readable(self) -> bool:
        """Return whether an idle connection has something to say: that it ended, as a rule."""
        return self._socket.is_readable()

    async def wait_readable(self) -> None:
        """Wait until something has come, the end included."""
        await trio.lowlevel.wait_readable(self._socket)

    def end_sending(self) -> None:
        """Tell the other end that nothing more will come."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise trio.BrokenResourceError(error.strerror) from error

    def close_nowait(self) -> None:
        """Close without a word, TLS or not: there is nothing here that could be cancelled half way."""
        self._socket.close()

    async def aclose(self) -> None:
        """Close, as trio's streams do."""
        self.close_nowait()
        await trio.lowlevel.checkpoint()


@attrs.define
class Opened:
    """A connection just made."""

    wire: Wire
    stream: trio.abc.Stream
    """``wire``, or TLS over it."""
    resolve_ns: int
    connect_ns: int
    tls_ns: int = 0


class Network:
    """Makes connections to judged addresses, and no others."""

    def __init__(self, resolve: Resolver = resolve_with_system) -> None:
        self._resolve = resolve
        self._limiters: dict[str, trio.CapacityLimiter] = {}
        self._tls_contexts: dict[str | None, ssl.SSLContext] = {}

    async def open(
        self,
        origin: Origin,
        *,
        tenant: str,
        grants: Grants,
        ca_file: str | None,
        tell_phase: Callable[[str], None],
    ) -> Opened:
        """Connect to ``origin``, whose grant is already checked; raise `OutboundError` when it can't be."""
        opened = await self.connect(origin, tenant=tenant, grants=grants, tell_phase=tell_phase)
        if origin.scheme == "https":
            tell_phase("negotiating TLS")
            started_ns = time.perf_counter_ns()
            try:
                opened.stream = await self._start_tls(opened.wire, origin, ca_file)
            except BaseException:
                opened.wire.close_nowait()
                raise
            opened.tls_ns = time.perf_counter_ns() - started_ns
        return opened

    async def connect(
        self, origin: Origin, *, tenant: str, grants: Grants, tell_phase: Callable[[str], None]
    ) -> Opened:
        """Connect without TLS, whatever the scheme: it says which grants vouch for a private address."""
        times = [time.perf_counter_ns()]
        tell_phase("resolving the name")
        addresses = await self._find_addresses(origin, tenant, grants)
        times.append(time.perf_counter_ns())
        tell_phase("connecting")
        wire = await _connect_any(addresses, origin.port)
        times.append(time.perf_counter_ns())
        return Opened(wire, wire, *(after - before for before, after in itertools.pairwise(times)))

    async def _find_addresses(self, origin: Origin, tenant: str, grants: Grants) -> list[IPAddress]:
        if find_address(origin.host) is not None:
            return [check_address(origin.host, origin, grants)]
        limiter = self._limiters.get(tenant)
        if limiter is None:
            limiter = self._limiters[tenant] = trio.CapacityLimiter(RESOLVER_THREADS)
        try:
            texts = await self._resolve(origin.host, origin.port, limiter)
        except (OSError, UnicodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "the name can't be asked for"
            raise OutboundError("resolve", f"{origin.host} has no address: {reason}") from error
        # All of them, before the first is used: a name with one good and one private address is a trap
        # that would otherwise depend on the order of the answers.
        addresses = [check_address(text, origin, grants) for text in dict.fromkeys(texts)]
        if not addresses:
            raise OutboundError("resolve", f"{origin.host} has no address")
        return addresses

    async def _start_tls(self, wire: Wire, origin: Origin, ca_file: str | None) -> trio.abc.Stream:
        context = self._tls_contexts.get(ca_file)
        if context is None:
            context = self._tls_contexts[ca_file] = make_tls_context(ca_file, ["http/1.1"])
        stream = trio.SSLStream(wire, context, server_hostname=origin.host, https_compatible=True)
        try:
            await stream.do_handshake()
        except trio.BrokenResourceError as error:
            cause = error.__cause__
            match cause:
                case ssl.SSLCertVerificationError():
                    reason = f"its certificate does not hold: {cause.verify_message}"
                case ssl.SSLError():
                    reason = cause.reason or "the handshake failed"
                case _:
                    reason = "the connection broke during the handshake"
            raise OutboundError("tls", f"no TLS with {origin.host} at {wire.address}: {reason}") from error
        return stream


def make_tls_context(ca_file: str | None, protocols: Sequence[str]) -> ssl.SSLContext:
    """Return a context that verifies, and offers ``protocols``; ``ca_file`` holds authorities of our own."""
    context = ssl.create_default_context()
    if protocols:
        context.set_alpn_protocols(list(protocols))
    if ca_file is not None:
        try:
            context.load_verify_locations(cafile=ca_file)  # beside the system's, not instead
        except (OSError, ssl.SSLError) as error:
            raise OutboundError(
                "tls", f"the extra certificates in {ca_file} can't be read: {error}"
            ) from error
    return context


async def _connect(address: IPAddress, port: int) -> Wire:
    tcp = trio.socket.socket(
        socket.AF_INET6 if address.version == 6 else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP
    )
    try:
        # One write carries a request; waiting to fill a packet would only add the peer's delayed ACK.
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        await tcp.connect((str(address), port))
    except BaseException:
        tcp.close()
        raise
    return Wire(tcp, f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}")


async def _connect_any(addresses: list[IPAddress], port: int) -> Wire:
    """Try addresses in order, the next one beside the last after a moment: RFC 8305 in small."""
    failures: list[str] = []
    if len(addresses) == 1:
        try:
            return await _connect(addresses[0], port)
        except OSError as error:
            raise _cannot_connect([f"{addresses[0]}: {_reason(error)}"], port) from error
    winners: list[Wire] = []
    try:
        async with trio.open_nursery() as nursery:

            async def attempt(address: IPAddress, failed: trio.Event) -> None:
                try:
                    wire = await _connect(address, port)
                except OSError as error:
                    failures.append(f"{address}: {_reason(error)}")
                    failed.set()
                    return
                winners.append(wire)
                nursery.cancel_scope.cancel()

            for address in addresses:
                failed = trio.Event()
                nursery.start_soon(attempt, address, failed)
                with trio.move_on_after(NEXT_ADDRESS_S):
                    await failed.wait()
    except BaseException:
        for wire in winners:
            wire.close_nowait()
        raise
    if not winners:
        raise _cannot_connect(failures, port)
    for late in winners[1:]:
        late.close_nowait()
    return winners[0]


def _reason(error: OSError) -> str:
    # trio words it "Error connecting to (address): reason"; the address is ours to say.
    return str(error) if error.errno is None else os.strerror(error.errno)


def _cannot_connect(failures: list[str], port: int) -> OutboundError:
    return OutboundError("connect", f"no connection to port {port} of {'; '.join(failures)}")
