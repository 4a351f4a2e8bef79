"""PostgreSQL behind a line that is lost at the next COMMIT: before the server hears it, before its answer is heard, or
with the question that follows. A line that is lost silently stays open, and nothing more comes through.

It stands on loopback in front of a server's unix socket, and passes on everything else as it is.
"""

import contextlib
import enum
import socket
import threading
from collections.abc import Iterator

from tests.postgres_server import PostgresServer

_COMMIT = b"Q\x00\x00\x00\x0bcommit\x00"


class When(enum.Enum):
    """When the line is lost."""

    BEFORE = enum.auto()
    AFTER = enum.auto()
    LATER = enum.auto()
    SILENTLY_BEFORE = enum.auto()
    SILENTLY_AFTER = enum.auto()


class LosingProxy:
    """See the module."""

    def __init__(self, server: PostgresServer) -> None:
        self.lost = 0
        """How often it was."""
        self._when: When | None = None
        self._target = f"{server.host}/.s.PGSQL.{server.port}"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def lose(self, when: When) -> None:
        """Lose the line of whoever commits next."""
        self._when = when

    def close(self) -> None:
        """Take no more connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # It was closed.
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._target)
                is_muted, is_silent = threading.Event(), threading.Event()
                for pump in (self._pump_out, self._pump_in):
                    threading.Thread(target=pump, args=(client, server, is_muted, is_silent), daemon=True).start()

    def _pump_out(
        self, client: socket.socket, server: socket.socket, is_muted: threading.Event, is_silent: threading.Event
    ) -> None:
        is_over = is_dropped = False
        with contextlib.suppress(OSError):
            while (data := client.recv(1 << 16)) and not is_over:
                if data.endswith(_COMMIT) and self._when is not None:
                    when, self._when = self._when, None
                    self.lost += 1
                    if when is When.BEFORE:
                        break
                    is_over = when is When.LATER
                    is_dropped = when is When.SILENTLY_BEFORE
                    if when is When.SILENTLY_AFTER:
                        is_silent.set()
                    elif not is_over:
                        is_muted.set()
                if not is_dropped:
                    server.sendall(data)
        _close(client, server)

    def _pump_in(
        self, client: socket.socket, server: socket.socket, is_muted: threading.Event, is_silent: threading.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 16):
                if is_silent.is_set():
                    continue
                if is_muted.is_set():
                    assert b"COMMIT\x00" in data, data
                    break
                client.sendall(data)
        _close(client, server)


def _close(*lines: socket.socket) -> None:
    for line in lines:
        with contextlib.suppress(OSError):
            line.shutdown(socket.SHUT_RDWR)
        line.close()


@contextlib.contextmanager
def losing_proxy(server: PostgresServer) -> Iterator[LosingProxy]:
    """A `LosingProxy` for as long as the block lasts."""
    proxy = LosingProxy(server)
    try:
        yield proxy
    finally:
        proxy.close()
