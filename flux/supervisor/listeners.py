"""Taking a port, and saying who has it when it is taken.

How to think about it: a name can stand for several addresses (``localhost`` for an
IPv4 and an IPv6 one), and a server that listens on half of them answers half of its
clients. So all addresses are tried, one port is used for all, and what fails is an
error that names the address and, from ``/proc``, the process that holds the port.
"""

import contextlib
import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs
import trio

from flux.errors import OperatorError

BACKLOG = 1024
"""Connections that the kernel may accept before we do."""


class PortInUseError(OperatorError):
    """Another process listens where we want to."""

    code = "FLX601"


class CannotListenError(OperatorError):
    """The address is not ours to listen on."""

    code = "FLX603"


@attrs.frozen
class PortHolder:
    """A process that listens on a port."""

    pid: int
    """Its process id."""

    name: str
    """Its command's name, as the kernel has it: at most 15 characters."""


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


async def open_shared_listeners(host: str, port: int, count: int) -> list[list[trio.SocketListener]]:
    """Listen ``count`` times on one port, for as many processes: the kernel spreads connections over them.

    The port is taken for one first. With SO_REUSEPORT alone, another server of the same user that shares its port too
    would be joined, and each would get half of the other's requests.
    """
    for listener in (alone := await open_listeners(host, port)):
        port = listener.socket.getsockname()[1]
        listener.socket.close()
    assert alone, "there is an address, or an error"
    return [await open_listeners(host, port, share_port=True) for _ in range(count)]


def adopt_listeners(descriptors: Sequence[int]) -> list[trio.SocketListener]:
    """Return listening sockets that this process has inherited."""
    return [trio.SocketListener(trio.socket.from_stdlib_socket(socket.socket(fileno=one))) for one in descriptors]


def get_port(listeners: Sequence[trio.SocketListener]) -> int:
    """Return the port that all of them have."""
    return int(listeners[0].socket.getsockname()[1])


class Borrowed:
    """Listening sockets of other processes that are not there just now: what waits in them is accepted meanwhile."""

    def __init__(self) -> None:
        self._descriptors: Sequence[int] = ()
        self._changed = trio.Event()

    def set(self, descriptors: Sequence[int]) -> None:
        """Have these be all; they stay open in this process, whoever owns them."""
        self._descriptors = descriptors
        self._changed.set()
        self._changed = trio.Event()

    @contextlib.contextmanager
    def opened(self) -> Iterator[Sequence[socket.socket]]:
        """Sockets for those of now, until who waits on them has ended.

        Closed by `set` they would be closed under a task that a client has just woken: it could not accept, and that
        would end the server.
        """
        with contextlib.ExitStack() as stack:
            yield [stack.enter_context(socket.socket(fileno=os.dup(one))) for one in self._descriptors]

    async def wait_changed(self) -> None:
        """Wait until they are others."""
        await self._changed.wait()


def open_unix_listener(path: Path) -> trio.SocketListener:
    """Listen under a name in a folder of ours; what an earlier process has left of that name goes."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.bind(str(path))
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return trio.SocketListener(trio.socket.from_stdlib_socket(listener))


def stop_handshakes(listener: socket.socket) -> None:
    """Let no new client begin to connect; those that have begun still finish.

    To close a listener resets whoever the kernel has taken since the last accept, and those
    clients think that they are connected. So before the last accept the first packets of new
    clients are dropped, unanswered: they try again after a second, which is when the listener
    is closed, or is another process's. Raises OSError where the kernel has no socket filters.
    """
    program = ctypes.create_string_buffer(_DROP_NEW_CLIENTS)
    filter_program = struct.pack("HL", len(_DROP_NEW_CLIENTS) // 8, ctypes.addressof(program))
    listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filter_program)


_SO_ATTACH_FILTER = 26  # asm-generic/socket.h
_DROP_NEW_CLIENTS = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in (
        (0x30, 0, 0, 13),  # Load byte 13 of the TCP header: the flags.
        (0x54, 0, 0, 0x12),  # Of which SYN and ACK
        (0x15, 0, 1, 0x02),  # are, on a client's first packet, SYN alone:
        (0x06, 0, 0, 0),  # dropped;
        (0x06, 0, 0, 0xFFFFFFFF),  # everything else passes.
    )
)
"""A classic BPF program (linux/filter.h): code, jump if true, jump if false, operand."""


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
        listener.listen(BACKLOG)
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
        # One further is where the console of who has this port is, as a rule.
        other = port + 2 if port < 65534 else port - 2
        return PortInUseError(
            f"port {port} on {host} is in use by {by}",
            remedy=f"stop it, or take another port: flux dev --port {other}, flux serve --bind {host}:{other}",
        )
    remedy = "use an address of this machine, such as 127.0.0.1, or 0.0.0.0 for all of them"
    if error.errno == errno.EACCES:
        remedy = "ports below 1024 are for privileged users: take a higher one, such as 4000"
    return CannotListenError(f"cannot listen on {host}, port {port}: {error.strerror}", remedy=remedy)


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
