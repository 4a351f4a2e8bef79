"""Sockets as libraries know them, made of host calls.

A library that was not written for Flux opens a `socket.socket` and talks. While a
function runs, that class is `HostSocket`: it has no descriptor, and each thing that it
does is a question to the host (``net.open``, ``net.send``, ``net.recv`` ...), so it is
granted, recorded, and answered from the record in a replay.

Three things make the imitation hold:

- **Names stay names.** `getaddrinfo` asks nobody: it gives each name an address out of
  those that are reserved for documentation, and `connect` turns it back. The host
  resolves, once, and connects to what it judged.
- **TLS is the host's** (`flux_guest._sockets_tls`): a socket carries plain bytes.
- **Descriptors are numbers of our own**, far beyond any real one. `select` knows them
  (`flux_guest._sockets_select`), the kernel does not.

While a module is imported nothing is different from any Python; the jail refuses it then.
"""

import asyncio
import errno
import ipaddress
import os
import socket
import ssl
from collections.abc import Iterable
from typing import Any, NoReturn

from flux_guest._channel import Channel
from flux_guest._errors import HostCallError

RECEIVE_BYTES = 64 * 1024
"""What is asked for at once, whatever the library wants: the rest waits here. Fewer questions, fewer records."""
SEND_BYTES = 256 * 1024
DESCRIPTOR_MIN = 1 << 20
"""Real descriptors end far below: the jail allows some dozens."""
TYPE_FLAGS = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC

_NO_SUCH_SOCKET = (
    "a function has outgoing TCP connections only, so that all it does is on record: no {what} here; "
    "see docs/host-calls/net.md"
)
_DOCUMENTATION = [
    ipaddress.ip_network(text) for text in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")
]
_DOCUMENTATION_6 = int(ipaddress.IPv6Address("2001:db8::"))
NAMES_MAX = sum(network.num_addresses - 2 for network in _DOCUMENTATION)
"""Names that one execution may look up; RFC 5737 reserves no more."""

_OPTIONS = {
    socket.SOL_SOCKET: {
        *(socket.SO_KEEPALIVE, socket.SO_LINGER, socket.SO_OOBINLINE, socket.SO_RCVBUF, socket.SO_SNDBUF),
        *(socket.SO_RCVLOWAT, socket.SO_RCVTIMEO, socket.SO_SNDTIMEO, socket.SO_REUSEADDR),
    },
    socket.IPPROTO_TCP: {
        *(
            socket.TCP_NODELAY,
            socket.TCP_KEEPCNT,
            socket.TCP_KEEPIDLE,
            socket.TCP_KEEPINTVL,
            socket.TCP_MAXSEG,
        ),
        *(socket.TCP_QUICKACK, socket.TCP_USER_TIMEOUT, socket.TCP_CORK),
    },
    socket.IPPROTO_IPV6: {socket.IPV6_V6ONLY},
    socket.IPPROTO_IP: {socket.IP_TOS, socket.IP_TTL},
}
"""Options that a library may set: how bytes travel, which is the host's to know. They are remembered and no more."""

RealSocket = socket.socket
"""Python's own class."""


def make_os_error(error: HostCallError) -> OSError:
    """Return what a library expects to see raised for a failed ``net`` call; raise it from ``error``."""
    message = str(error)
    match error.name:
        case "GrantRefused" | "NetSecretMisplaced":
            return PermissionError(errno.EACCES, message)
        case "NetResolveError" | "NetInvalidAddress":
            return socket.gaierror(socket.EAI_NONAME, message)
        case "NetConnectError":
            return ConnectionRefusedError(errno.ECONNREFUSED, message)
        case "NetTimeout":
            return TimeoutError(message)
        case "NetTlsError":
            kind = ssl.SSLCertVerificationError if error.details.get("certificate") else ssl.SSLError
            return kind(1, message)
        case "NetBroken":
            return ConnectionResetError(errno.ECONNRESET, message)
        case "NetTooMuch":
            return OSError(errno.EMFILE, message)
        case "Cancelled":
            return ConnectionAbortedError(errno.ECONNABORTED, message)
    return OSError(errno.EINVAL, message)


class Network:
    """What the sockets of one process share."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.generation = 0
        """Number of the execution: what a warm worker kept from an earlier one is closed."""
        self.sockets: dict[int, HostSocket] = {}
        """By descriptor."""
        self.hellos: dict[bytes, Any] = {}
        """Beginnings of TLS that are on their way to a socket: `flux_guest._sockets_tls.HostTlsObject`."""
        self.hello_count = 0
        self._last_descriptor = DESCRIPTOR_MIN
        self._addresses: dict[str, str] = {}
        self._names: dict[str, str] = {}

    def begin(self) -> None:
        """Begin a new execution."""
        self.generation += 1
        self.sockets.clear()
        self.hellos.clear()
        self.hello_count = 0
        self._last_descriptor = DESCRIPTOR_MIN
        self._addresses.clear()
        self._names.clear()

    def add(self, new: "HostSocket") -> int:
        """Return the descriptor of a new socket."""
        self._last_descriptor += 1
        self.sockets[self._last_descriptor] = new
        return self._last_descriptor

    def take_hello(self, data: Any) -> Any:
        """Return the beginning of TLS that ``data`` stands for, or None: it is what it is."""
        return self.hellos.pop(bytes(data), None) if self.hellos else None

    def ask(self, name: str, arguments: list[Any]) -> Any:
        """Ask the host and wait; failures are errors of the operating system."""
        try:
            return self.channel.call(name, arguments)
        except HostCallError as error:
            raise make_os_error(error) from error

    # Names

    def find_address(self, name: str, family: int) -> str:
        """Return the address that stands for ``name``."""
        name = name.removesuffix(".").lower()
        number = len(self._addresses)
        address = self._addresses.get(name)
        if address is None:
            if number >= NAMES_MAX:
                raise socket.gaierror(
                    socket.EAI_MEMORY, f"{NAMES_MAX} names were looked up; an execution may look up no more"
                )
            for network in _DOCUMENTATION:
                if number < network.num_addresses - 2:
                    address = str(network[number + 1])
                    break
                number -= network.num_addresses - 2
            assert address is not None
            self._addresses[name] = address
            self._names[address] = name
        if family != socket.AF_INET6:
            return address
        address = str(ipaddress.IPv6Address(_DOCUMENTATION_6 + int(ipaddress.IPv4Address(address))))
        self._names[address] = name
        return address

    def find_name(self, address: str) -> str:
        """Return the name that ``address`` stands for; what stands for none is itself."""
        return self._names.get(address, address)


_network: Network | None = None


def set_network(network: Network) -> Network:
    """Make ``network`` the process's; once."""
    global _network
    _network = network
    return network


def get_network() -> Network:
    """Return the process's network."""
    assert _network is not None, "flux_guest._sockets_names.take_over was not called"
    return _network


def refuse(what: str) -> NoReturn:
    """Raise what a function sees that asks for another kind of socket."""
    raise PermissionError(errno.EPERM, _NO_SUCH_SOCKET.format(what=what))


class HostSocket(RealSocket):
    """A TCP connection that the host holds. What a library sets about it that only the kernel knows, is kept."""

    def __new__(cls, *arguments: Any, **options: Any) -> Any:
        if cls is HostSocket and not get_network().channel.running:
            return RealSocket(*arguments, **options)
        return super().__new__(cls)

    def __init__(self, family: int = -1, type: int = -1, proto: int = -1, fileno: int | None = None) -> None:
        # Not the base's: it would ask the kernel.
        network = get_network()
        self._io_refs, self._closed, self._gone = 0, True, True
        self._family = socket.AF_INET if family == -1 else int(family)
        kind = socket.SOCK_STREAM if type == -1 else int(type)
        self._kind = kind & ~TYPE_FLAGS
        self._protocol = 0 if proto == -1 else int(proto)
        if fileno is not None:
            refuse("sockets from descriptors")
        if self._family not in (socket.AF_INET, socket.AF_INET6):
            refuse(f"sockets of family {self._family}")
        if self._kind != socket.SOCK_STREAM or self._protocol not in (0, socket.IPPROTO_TCP):
            refuse("UDP or raw sockets")
        self._timeout_s = 0.0 if kind & socket.SOCK_NONBLOCK else socket.getdefaulttimeout()
        self._network = network
        self._generation = network.generation
        self.connection: str | None = None
        """What the host calls it, once it is connected."""
        self._peer: tuple[Any, ...] | None = None
        self._options: dict[tuple[int, int], Any] = {}
        self.received = bytearray()
        """Heard and not taken yet."""
        self.ended = False
        """Nothing more will be heard."""
        self.is_read_ahead = False
        """A transport of asyncio receives from it."""
        self._closed, self._gone = False, False
        # Closed, it still serves the files that `makefile` has made of it, until the last of them is closed.
        self._descriptor = network.add(self)

    def __repr__(self) -> str:
        state = "closed" if self._closed else self.connection or "not connected"
        return f"<{self.__class__.__qualname__} {state}>"

    # What it is

    @property
    def family(self) -> Any:
        return socket.AddressFamily(self._family)

    @property
    def type(self) -> Any:
        return socket.SocketKind(self._kind)

    @property
    def proto(self) -> int:
        return self._protocol

    @property
    def timeout(self) -> float | None:
        return self._timeout_s

    def gettimeout(self) -> float | None:
        return self._timeout_s

    def settimeout(self, value: float | None, /) -> None:
        if value is not None and not float(value) >= 0:
            raise ValueError("Timeout value out of range")
        self._timeout_s = None if value is None else float(value)

    def getblocking(self) -> bool:
        return self._timeout_s != 0

    def setblocking(self, flag: bool, /) -> None:
        self._timeout_s = None if flag else 0.0

    def fileno(self) -> int:
        return -1 if self._gone else self._descriptor

    def get_inheritable(self) -> bool:
        return False

    def set_inheritable(self, inheritable: bool) -> None:
        if inheritable:
            refuse("sockets for other programs")

    def getsockname(self) -> Any:
        self._check()
        return ("0.0.0.0", 0) if self._family == socket.AF_INET else ("::", 0, 0, 0)

    def getpeername(self) -> Any:
        self._check()
        if self._peer is None:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        return self._peer

    def getsockopt(self, level: int, optname: int, buflen: int | None = None, /) -> Any:
        self._check()
        if level == socket.SOL_SOCKET and optname == socket.SO_ERROR:
            return 0
        if level == socket.SOL_SOCKET and optname == socket.SO_TYPE:
            return self._kind
        if optname not in _OPTIONS.get(level, ()):
            refuse(f"option {optname} of level {level}")
        value = self._options.get((level, optname), 0)
        if buflen is None:
            return value
        data = value.to_bytes(4, "little", signed=True) if isinstance(value, int) else bytes(value)
        return data[:buflen]

    def setsockopt(self, level: int, optname: int, value: Any, optlen: int | None = None, /) -> None:  # noqa: ARG002
        self._check()
        if optname not in _OPTIONS.get(level, ()):
            refuse(f"option {optname} of level {level}")
        self._options[level, optname] = int(value) if isinstance(value, int) else bytes(value)

    def _check(self) -> None:
        if self._gone:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    # Connecting

    def ask_open(self, address: Any) -> list[Any]:
        """Return the arguments of ``net.open`` for ``address``, checked."""
        self._check()
        if self.connection is not None:
            raise OSError(errno.EISCONN, os.strerror(errno.EISCONN))
        if not isinstance(address, tuple) or not 2 <= len(address) <= (
            2 if self._family == socket.AF_INET else 4
        ):
            raise TypeError(f"an address is a tuple of host and port, not {type(address).__name__}")
        host, port = address[:2]
        if isinstance(host, bytes | bytearray):
            host = host.decode("ascii")
        if not isinstance(host, str):
            raise TypeError(f"a host is text, not {type(host).__name__}")
        port = int(port)
        if not 0 <= port <= 65535:
            raise OverflowError("port must be 0-65535.")
        timeout_s = (
            self._timeout_s or None
        )  # One that does not block is connected when this returns, as it may.
        self._peer = (host, port) if self._family == socket.AF_INET else (host, port, 0, 0)
        return [self._network.find_name(host), port, timeout_s]

    def opened(self, answer: dict[str, Any]) -> None:
        """Take the answer of ``net.open``."""
        self.connection = answer["connection"]

    def connect(self, address: Any, /) -> None:
        self.opened(self._network.ask("net.open", self.ask_open(address)))

    def connect_ex(self, address: Any, /) -> int:
        try:
            self.connect(address)
        except OSError as error:
            return error.errno or errno.EIO
        return 0

    def bind(self, address: Any, /) -> None:
        self._check()
        if not (isinstance(address, tuple) and address[:2] in (("", 0), ("0.0.0.0", 0), ("::", 0))):
            refuse("addresses of one's own")

    def listen(self, backlog: int = 0, /) -> None:  # noqa: ARG002
        refuse("listening")

    def accept(self) -> Any:
        refuse("listening")

    # Hearing

    def ask_receive(self, timeout_s: float | None) -> list[Any]:
        """Return the arguments of ``net.recv``."""
        return [self._get_connection(), RECEIVE_BYTES, timeout_s]

    def heard(self, answer: Any) -> bool:
        """Take the answer of ``net.recv``; False when nothing has come."""
        if answer is None:
            return False
        data = answer.encode() if isinstance(answer, str) else answer
        self.received += data
        self.ended = not data
        return True

    def _get_connection(self) -> str:
        self._check()
        if self._generation != self._network.generation:
            raise ConnectionResetError(
                errno.ECONNRESET, "the connection ended with the execution that opened it"
            )
        if self.connection is None:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        return self.connection

    @property
    def is_from_before(self) -> bool:
        """Its execution is over, and the connection with it."""
        return self._generation != self._network.generation

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        if bufsize < 0:
            raise ValueError("negative buffersize in recv")
        if flags & ~(socket.MSG_PEEK | socket.MSG_DONTWAIT | socket.MSG_WAITALL | socket.MSG_NOSIGNAL):
            refuse(f"receiving with flags {flags}")
        self._check()
        if self.is_from_before:
            return b""
        timeout_s = 0.0 if flags & socket.MSG_DONTWAIT else self._timeout_s
        wanted = bufsize if flags & socket.MSG_WAITALL else min(bufsize, 1)
        while len(self.received) < wanted and not self.ended:
            answer = self._network.ask("net.recv", self.ask_receive(timeout_s))
            if not self.heard(answer):
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        data = bytes(self.received[:bufsize])
        if not flags & socket.MSG_PEEK:
            del self.received[: len(data)]
        return data

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        with memoryview(buffer).cast("B") as view:
            if nbytes < 0:
                raise ValueError("negative buffersize in recv_into")
            data = self.recv(nbytes or len(view), flags)
            view[: len(data)] = data
        return len(data)

    def recvfrom(self, bufsize: int, flags: int = 0, /) -> tuple[bytes, Any]:
        return self.recv(bufsize, flags), None

    def recvfrom_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> tuple[int, Any]:
        return self.recv_into(buffer, nbytes, flags), None

    def recvmsg(self, bufsize: int, ancbufsize: int = 0, flags: int = 0, /) -> Any:  # noqa: ARG002
        return self.recv(bufsize, flags), [], 0, None

    def recvmsg_into(self, buffers: Iterable[Any], ancbufsize: int = 0, flags: int = 0, /) -> Any:  # noqa: ARG002
        for buffer in buffers:
            return self.recv_into(buffer, 0, flags), [], 0, None
        return 0, [], 0, None

    # Saying

    def ask_send(self, data: Any) -> tuple[list[Any], int]:
        """Return the arguments of ``net.send`` for the beginning of ``data``, and how long that is."""
        part = bytes(data[:SEND_BYTES])
        connection = self._get_connection()
        return [connection, text_or_bytes(part), self._timeout_s or None], len(part)

    def send(self, data: Any, flags: int = 0, /) -> int:
        if flags & ~(socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT | socket.MSG_MORE):
            refuse(f"sending with flags {flags}")
        self._check()
        if self.is_from_before:
            raise BrokenPipeError(errno.EPIPE, "the connection ended with the execution that opened it")
        with memoryview(data).cast("B") as view:
            hello = self._network.take_hello(view)
            if hello is not None:
                hello.agree(self)
                return len(view)
            arguments, size = self.ask_send(view)
        if size:
            self._network.ask("net.send", arguments)
        return size

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        with memoryview(data).cast("B") as view:
            sent = 0
            while sent < len(view):
                sent += self.send(view[sent:], flags)

    def sendmsg(
        self, buffers: Iterable[Any], ancdata: Iterable[Any] = (), flags: int = 0, address: Any = None, /
    ) -> int:
        if list(ancdata):
            refuse("descriptors or credentials to send")
        if address is not None:
            refuse("sending to an address")
        return self.send(b"".join(bytes(buffer) for buffer in buffers), flags)

    def sendto(self, data: Any, *where: Any) -> int:
        if self.connection is None or where[-1:] not in ((), (None,)):
            refuse("sending to an address")
        return self.send(data)

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        if offset:
            file.seek(offset)
        sent = 0
        while count is None or sent < count:
            data = file.read(min(SEND_BYTES, SEND_BYTES if count is None else count - sent))
            if not data:
                break
            self.sendall(data)
            sent += len(data)
        return sent

    def sendmsg_afalg(self, *_arguments: Any, **_options: Any) -> NoReturn:
        refuse("the kernel's cryptography")

    # The end

    def shutdown(self, how: int, /) -> None:
        connection = self._get_connection()
        if how in (socket.SHUT_RD, socket.SHUT_RDWR):
            self.ended = True
        if how in (socket.SHUT_WR, socket.SHUT_RDWR):
            self._network.ask("net.shutdown", [connection])

    def _real_close(self, _ss: Any = None) -> None:
        self._gone = True
        if not self._let_go():
            return
        channel = self._network.channel
        if self.connection is None or not channel.running:
            return  # When the execution is over, so is the connection.
        if asyncio._get_running_loop() is None:
            self._network.ask("net.close", [self.connection])
            return
        seq = channel.send("net.close", [self.connection])  # A loop goes on meanwhile.
        channel.waiting[seq] = _ignore

    def _let_go(self) -> bool:
        """Forget the descriptor; False when it is not of this execution."""
        if self._generation != self._network.generation:
            return False
        self._network.sockets.pop(self._descriptor, None)
        return True

    def detach(self) -> int:
        self._closed, self._gone = True, True
        self._let_go()
        return self._descriptor

    def dup(self) -> Any:
        refuse("copies of sockets")

    def __getstate__(self) -> NoReturn:
        raise TypeError(f"cannot pickle {self.__class__.__name__!r} object")


def _ignore(_value: Any, _error: dict[str, Any] | None) -> None:
    """The answer of a call that nobody waits for."""


def text_or_bytes(data: bytes) -> str | bytes:
    """Return ``data`` as text where it is UTF-8: shorter on the wire, and readable in the record."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data
