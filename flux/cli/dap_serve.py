"""Carrying the Debug Adapter Protocol: over standard input and output, or over a port of loopback.

Over a port, what answers has the rights of whoever started it, so it is not for everybody on this machine: the kernel
is asked whose the other end is, and another user's is refused. A page in a browser of the same user's is refused by
the first bytes that it sends (`flux.dap_frames`). One editor is served at a time, and the next when it has gone.
"""

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from flux.cli.dap_session import Session
from flux.cli.screen import Piece, Screen
from flux.dap_frames import BadFrameError, FrameReader, read_message, write_frame
from flux.errors import FluxError, OperatorError

LOOPBACK = "127.0.0.1"
FIRST_FRAME_S = 30.0
"""Whoever has said nothing by then makes room for the next."""
READ_BYTES = 65_536
ROOT_USER = 0
_ENDS = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_ESTABLISHED = "01"


class PortError(OperatorError):
    """The port for editors can't be had."""

    code = "FLX674"


class StrangerError(OperatorError):
    """Somebody else has connected."""

    code = "FLX684"


def serve_stdio(session: Session) -> None:
    """Talk to the editor that has started this process."""
    converse(session, lambda: os.read(sys.stdin.fileno(), READ_BYTES), _write_out)


def serve_port(port: int, open_session: Callable[[], Session]) -> None:
    """Talk to the editors that connect, one after the other, until ctrl-c."""
    story = Screen.stderr()
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, port))
            listener.listen(1)
        except OSError as error:
            raise PortError(
                f"port {port} of {LOOPBACK} can't be had: {error.strerror or error}",
                remedy="--dap 0 takes a free one",
            ) from error
        story.line(f"editors attach at {LOOPBACK}:{listener.getsockname()[1]}, ctrl-c to stop")
        while True:
            connection, peer = listener.accept()
            with connection:
                try:
                    check_peer(peer, listener.getsockname()[1])
                    _serve_connection(connection, open_session())
                except FluxError as error:
                    story.line(Piece(error.code, "bold red"), f"  {error.message}")
                except OSError as error:
                    story.line(f"the editor's connection was lost: {error.strerror or error}")


def _serve_connection(connection: socket.socket, session: Session) -> None:
    connection.settimeout(FIRST_FRAME_S)

    def read() -> bytes:
        data = connection.recv(READ_BYTES)
        connection.settimeout(None)  # A person may think as long as they like.
        return data

    converse(session, read, connection.sendall)


def converse(session: Session, read: Callable[[], bytes], write: Callable[[bytes], None]) -> None:
    """Carry messages until one side ends; raise `BadFrameError` where what comes is none, after saying so."""
    frames = FrameReader()
    while not session.is_over:
        try:
            body = frames.next_body()
            if body is None:
                if not (data := read()):
                    frames.check_whole()
                    return
                frames.feed(data)
                continue
        except BadFrameError as error:
            write(write_frame(session.refuse(error)))
            raise
        try:
            messages = session.handle(read_message(body))
        except BadFrameError as error:
            messages = [session.refuse(error)]
        for message in messages:
            write(write_frame(message))


def check_peer(peer: tuple[str, int], port: int) -> None:
    """Raise `StrangerError` unless the other end of a connection to ``port`` is this user's, or root's."""
    owner = find_owner(peer, port)
    if owner is None:
        raise StrangerError(f"who connects from {peer[0]}:{peer[1]} is not known here, and is not answered")
    if owner not in (os.geteuid(), ROOT_USER):
        raise StrangerError(f"user {owner} connects, and this execution is not shown to them")


def find_owner(peer: tuple[str, int], port: int) -> int | None:
    """Return the user whose socket connects from ``peer``, as the kernel lists it."""
    plain, ours = (f"{_read_word(socket.inet_aton(address)):08X}" for address in (peer[0], LOOPBACK))
    mapped = f"{0:016X}{_read_word(bytes((0, 0, 255, 255))):08X}"  # How a socket of IPv6 sees an address of IPv4.
    ends = {(f"{before}{plain}:{peer[1]:04X}", f"{before}{ours}:{port:04X}") for before in ("", mapped)}
    for table in _ENDS:
        try:
            lines = table.read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            # One that nobody holds any more stands there as root's.
            is_held = len(fields) > 9 and fields[3] == _ESTABLISHED and fields[9] != "0"
            if is_held and (fields[1], fields[2]) in ends:
                return int(fields[7])
    return None


def _read_word(part: bytes) -> int:
    # The kernel prints addresses as words of its own byte order.
    return int.from_bytes(part, sys.byteorder)


def _write_out(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
