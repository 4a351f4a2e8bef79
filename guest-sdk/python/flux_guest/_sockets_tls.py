"""TLS as libraries know it, of which the host does everything.

A library wraps a socket (`ssl.SSLContext.wrap_socket`), or has an object between two
buffers encrypt and decrypt (`wrap_bio`: asyncio, anyio). Neither encrypts here. Where
TLS would begin, the host is asked to begin it (``net.tls``), and what goes back and
forth stays plain: so it is on record, and so a replay needs no keys.

With two buffers the object never sees the socket. So its "ClientHello" is a line that
stands for it in `Network.hellos`; the socket that is given that line to send asks the
host in its place, and "hears" `SERVER_HELLO`. All bytes behind are what they are.

The contexts are Python's own. What they were told is told to the host: the protocols
for ALPN, and authorities of the library's own. A whole bundle of public ones (certifi's)
is not: the host has its own. The host verifies whatever the context says.
"""

import ssl
from collections.abc import Callable
from typing import Any, NoReturn

from flux_guest._channel import Channel
from flux_guest._sockets import HostSocket, get_network

AUTHORITIES_MAX = 32
"""More than so many are a bundle, of which the machine has one too."""
SERVER_HELLO = b"flux: TLS is on\n"
_NO_SERVERS = "a function has outgoing connections only: no TLS for servers"
_NO_CERTIFICATES = "TLS is ended by the host, which has no certificate of the function's to show to a server"


def describe_context(context: ssl.SSLContext, server_name: str | bytes | None) -> dict[str, Any]:
    """Return the options of ``net.tls``: what the context was told, and whom the library means."""
    if isinstance(server_name, bytes):
        server_name = server_name.decode("ascii")
    kept = context.__dict__
    if kept.get("_flux_has_client_certificate"):
        raise ssl.SSLError(1, _NO_CERTIFICATES)
    options: dict[str, Any] = {
        # A library that has looked up the name itself may mean the address that stands for it.
        "server_name": get_network().find_name(server_name) if server_name else None,
        "alpn": kept.get("_flux_alpn", []),
        "verify": context.verify_mode != ssl.CERT_NONE,
    }
    authorities = context.get_ca_certs(binary_form=True)
    if 0 < len(authorities) <= AUTHORITIES_MAX:
        options["authorities"] = authorities
        options["system"] = bool(kept.get("_flux_trusts_system"))
    return options


def check_nothing_waits(sock: HostSocket) -> None:
    """Raise an error when ``sock`` has heard more in the open than was taken from it.

    CVE-2021-23222 and its kind: it could be taken for what came under TLS.
    """
    if sock.received:
        raise ssl.SSLError(1, "the server sent bytes in the open where TLS was to begin")


class _Agreed:
    """What can be asked of a TLS connection."""

    context: ssl.SSLContext
    server_hostname: str | None
    server_side = False
    session: Any = None
    session_reused = False
    _agreed: dict[str, Any] | None

    def _get(self) -> dict[str, Any]:
        if self._agreed is None:
            raise ValueError("handshake not done yet")
        return self._agreed

    def getpeercert(self, binary_form: bool = False) -> Any:
        agreed = self._get()
        if binary_form:
            return agreed["certificate"]
        return {key: _to_tuples(value) for key, value in (agreed["peer"] or {}).items()}

    def version(self) -> str | None:
        return None if self._agreed is None else self._agreed["version"]

    def cipher(self) -> Any:
        return (
            None if self._agreed is None or self._agreed["cipher"] is None else tuple(self._agreed["cipher"])
        )

    def selected_alpn_protocol(self) -> str | None:
        return None if self._agreed is None else self._agreed["alpn"]

    def selected_npn_protocol(self) -> None:
        return None

    def shared_ciphers(self) -> None:
        return None

    def compression(self) -> None:
        return None

    def get_channel_binding(self, cb_type: str = "tls-unique") -> bytes | None:
        if cb_type not in ssl.CHANNEL_BINDING_TYPES:
            raise ValueError(f"{cb_type} channel binding type not implemented")
        return None  # It is of the host's connection, whose keys stay there.

    def get_verified_chain(self) -> list[bytes]:
        return [self._get()["certificate"]]

    def get_unverified_chain(self) -> list[bytes]:
        return [self._get()["certificate"]]

    def verify_client_post_handshake(self) -> NoReturn:
        raise ssl.SSLError(1, _NO_CERTIFICATES)


def _to_tuples(value: Any) -> Any:
    return tuple(_to_tuples(item) for item in value) if isinstance(value, list) else value


class HostTlsSocket(_Agreed, HostSocket):
    """A socket under TLS; `ssl.SSLSocket` for libraries."""

    do_handshake_on_connect: bool
    suppress_ragged_eofs: bool

    def __init__(self, *_arguments: Any, **_options: Any) -> None:
        raise TypeError(
            f"{self.__class__.__name__} does not have a public constructor. Instances are returned by wrap_socket()."
        )

    @classmethod
    def wrap(
        cls,
        sock: HostSocket,
        context: ssl.SSLContext,
        server_hostname: str | None,
        do_handshake_on_connect: bool,
        suppress_ragged_eofs: bool,
    ) -> "HostTlsSocket":
        """Return a socket in the place of ``sock``, which is then closed without its connection."""
        if context.check_hostname and not server_hostname:
            raise ValueError("check_hostname requires server_hostname")
        wrapped: HostTlsSocket = cls.__new__(cls)
        wrapped.__dict__.update(sock.__dict__)
        wrapped._io_refs, wrapped._closed = 0, False
        wrapped._network.sockets[sock.fileno()] = wrapped
        sock._closed, sock._gone = True, True  # As after detach: the connection is another object's.
        wrapped.context, wrapped.server_hostname = context, server_hostname
        wrapped.do_handshake_on_connect = do_handshake_on_connect
        wrapped.suppress_ragged_eofs = suppress_ragged_eofs
        wrapped._agreed = None
        if wrapped.connection is not None and do_handshake_on_connect:
            try:
                wrapped.do_handshake()
            except BaseException:
                wrapped.close()
                raise
        return wrapped

    @property
    def _sslobj(self) -> "HostTlsSocket | None":
        """Libraries look there whether TLS is on, and ask it what was agreed."""
        return None if self._agreed is None else self

    def do_handshake(self, block: bool = False) -> None:  # noqa: ARG002 - ssl's signature
        if self._agreed is None:
            check_nothing_waits(self)
            options = describe_context(self.context, self.server_hostname)
            arguments = [self._get_connection(), options, self._timeout_s or None]
            self._agreed = self._network.ask("net.tls", arguments)

    def connect(self, address: Any, /) -> None:
        super().connect(address)
        if self.do_handshake_on_connect:
            self.do_handshake()

    def read(self, len: int = 1024, buffer: Any = None) -> Any:
        return self.recv(len) if buffer is None else self.recv_into(buffer, len)

    def write(self, data: Any) -> int:
        return self.send(data)

    def pending(self) -> int:
        return len(self.received)

    def unwrap(self) -> NoReturn:
        raise OSError("the host ends TLS with its connection: close it")


class HostTlsObject(_Agreed, ssl.SSLObject):
    """TLS between two buffers; see the module."""

    _incoming: ssl.MemoryBIO
    _outgoing: ssl.MemoryBIO
    _context: ssl.SSLContext
    _server_name: str | None
    _failure: OSError | None
    _begun: bool
    _answered: bool

    def __init__(self, *_arguments: Any, **_options: Any) -> None:
        raise TypeError(
            f"{self.__class__.__name__} does not have a public constructor. Instances are returned by wrap_bio()."
        )

    @classmethod
    def make(
        cls,
        context: ssl.SSLContext,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_hostname: str | None,
    ) -> "HostTlsObject":
        """Return a new one."""
        if context.check_hostname and not server_hostname:
            raise ValueError("check_hostname requires server_hostname")
        made: HostTlsObject = cls.__new__(cls)
        made._incoming, made._outgoing = incoming, outgoing
        made._context, made._server_name = context, server_hostname
        made._agreed = None
        made._failure = None
        made._begun = made._answered = False
        return made

    @property
    def context(self) -> ssl.SSLContext:  # type: ignore[override]
        return self._context

    @property
    def server_hostname(self) -> str | None:  # type: ignore[override]
        return self._server_name

    # Between here and the socket

    def ask_tls(self, connection: str, timeout_s: float | None) -> list[Any]:
        """Return the arguments of ``net.tls``."""
        return [connection, describe_context(self._context, self._server_name), timeout_s]

    def agreed(self, answer: dict[str, Any]) -> None:
        """Take the answer of ``net.tls``."""
        self._agreed = answer

    def failed(self, failure: OSError) -> None:
        """There will be no TLS; whoever does the handshake is to hear why."""
        self._failure = failure

    def agree(self, sock: HostSocket) -> None:
        """Begin TLS on ``sock``, which was given our hello to send."""
        try:
            check_nothing_waits(sock)
            arguments = self.ask_tls(sock._get_connection(), sock.gettimeout() or None)
            self.agreed(sock._network.ask("net.tls", arguments))
        except OSError as error:
            self.failed(error)
            sock.received.clear()
        sock.received += SERVER_HELLO

    # As ssl.SSLObject

    def do_handshake(self) -> None:
        if not self._begun:
            self._begun = True
            network = get_network()
            network.hello_count += 1
            hello = b"flux: begin TLS, the %d-th time\n" % network.hello_count
            network.hellos[hello] = self
            self._outgoing.write(hello)
        if not self._answered:
            if self._incoming.pending < len(SERVER_HELLO):
                if self._incoming.eof:
                    raise ssl.SSLEOFError(8, "EOF occurred in violation of protocol")
                raise ssl.SSLWantReadError(2, "The operation did not complete (read)")
            self._incoming.read(len(SERVER_HELLO))
            self._answered = True
        if self._failure is not None:
            raise self._failure

    def read(self, len: int = 1024, buffer: Any = None) -> Any:
        size = len
        if buffer is not None:
            room = memoryview(buffer).nbytes
            size = min(len, room) if len > 0 else room
        data = self._incoming.read(size)
        if not data and not self._incoming.eof and size:
            raise ssl.SSLWantReadError(2, "The operation did not complete (read)")
        if buffer is None:
            return data
        memoryview(buffer)[: data.__len__()] = data
        return data.__len__()

    def write(self, data: Any) -> int:
        self._get()
        return self._outgoing.write(data)

    def pending(self) -> int:
        return self._incoming.pending

    def unwrap(self) -> None:
        """Nothing is between the two ends that would have to be ended."""


def take_over(channel: Channel) -> None:
    """Put all of it in place; once, before the project's modules are imported."""
    context = ssl.SSLContext
    real_wrap, real_bio = context.wrap_socket, context.wrap_bio
    real_alpn, real_chain, real_default = (
        context.set_alpn_protocols,
        context.load_cert_chain,
        context.load_default_certs,
    )
    real_paths = context.set_default_verify_paths

    def wrap_socket(
        self: ssl.SSLContext,
        sock: Any,
        server_side: bool = False,
        do_handshake_on_connect: bool = True,
        suppress_ragged_eofs: bool = True,
        server_hostname: Any = None,
        session: Any = None,
    ) -> Any:
        if not isinstance(sock, HostSocket):
            return real_wrap(
                self,
                sock,
                server_side,
                do_handshake_on_connect,
                suppress_ragged_eofs,
                server_hostname,
                session,
            )
        if server_side:
            raise PermissionError(_NO_SERVERS)
        return HostTlsSocket.wrap(sock, self, server_hostname, do_handshake_on_connect, suppress_ragged_eofs)

    def wrap_bio(
        self: ssl.SSLContext,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: Any = None,
        session: Any = None,
    ) -> Any:
        if not channel.running:
            return real_bio(self, incoming, outgoing, server_side, server_hostname, session)
        if server_side:
            raise PermissionError(_NO_SERVERS)
        return HostTlsObject.make(self, incoming, outgoing, server_hostname)

    def set_alpn_protocols(self: ssl.SSLContext, alpn_protocols: Any) -> None:
        real_alpn(self, alpn_protocols)
        self.__dict__["_flux_alpn"] = list(alpn_protocols)

    def load_cert_chain(self: ssl.SSLContext, *arguments: Any, **options: Any) -> None:
        real_chain(self, *arguments, **options)
        self.__dict__["_flux_has_client_certificate"] = True

    def load_default_certs(self: ssl.SSLContext, *arguments: Any, **options: Any) -> None:
        real_default(self, *arguments, **options)
        self.__dict__["_flux_trusts_system"] = True

    def set_default_verify_paths(self: ssl.SSLContext) -> None:
        real_paths(self)
        self.__dict__["_flux_trusts_system"] = True

    replacements: list[Callable[..., Any]] = [
        wrap_socket, wrap_bio, set_alpn_protocols, load_cert_chain, load_default_certs, set_default_verify_paths
    ]  # fmt: skip
    for replacement in replacements:
        setattr(context, replacement.__name__, replacement)
    ssl.SSLSocket = HostTlsSocket  # type: ignore[misc, assignment]
