"""The way out of a wasm guest: its end of a stream socket, inside the process that runs it.

What goes over it is told by `flux.sandbox.wasm_world`; here are only bytes, and who waits for them.
"""

import contextlib
import errno
import select
import socket

import trio

from flux.sandbox.wasm_world import ORDER, DoorClosedError, Start

RECEIVE_BYTES = 1 << 18
DOCUMENT_BYTES_MAX = 64 * 2**20
"""The limit on bodies speaks much earlier."""
GONE = {errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN}


class SocketDoor:
    """A guest's way out: one end of a stream socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._descriptor = connection.fileno()
        connection.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLRDHUP)
        self._ahead = b""
        """What came behind the document."""
        self.ended: str | None = None
        """Why `end` was called."""

    async def read_start(self) -> Start | None:
        """Return what to run, or None when there will be nothing."""
        line = await self._read_line()
        if line is None or not line.startswith(ORDER):
            return None if line is None else Start.read(line)
        document = await self._read_line()
        return None if document is None else Start.read(document, line[len(ORDER) :])

    async def _read_line(self) -> bytes | None:
        buffer, self._ahead = bytearray(self._ahead), b""
        while (end := buffer.find(b"\n")) < 0:
            data = await self._receive()
            if not data or len(buffer) > DOCUMENT_BYTES_MAX:
                return None
            buffer += data
        self._ahead = bytes(buffer[end + 1 :])
        return bytes(buffer[:end])

    async def exchange(self, data: bytes) -> bytes:
        """See `flux.sandbox.wasm_world.Door`."""
        if data:
            await self.send(data)
        if self._ahead:
            ahead, self._ahead = self._ahead, b""
            return ahead
        return await self._receive()

    async def _receive(self) -> bytes:
        while True:
            await trio.lowlevel.wait_readable(self._descriptor)
            try:
                return self._connection.recv(RECEIVE_BYTES)
            except BlockingIOError:
                continue
            except OSError as error:
                if error.errno in GONE:
                    return b""
                raise

    async def send(self, data: bytes) -> None:
        """See `flux.sandbox.wasm_world.Door`."""
        view = memoryview(data)
        while view:
            try:
                view = view[self._connection.send(view, socket.MSG_NOSIGNAL) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._descriptor)
            except OSError as error:
                if error.errno in GONE:
                    raise DoorClosedError from error
                raise
        self.check_open()

    def send_nowait(self, data: bytes) -> int:
        """See `flux.sandbox.wasm_world.Door`."""
        try:
            return self._connection.send(data, socket.MSG_NOSIGNAL)
        except OSError as error:
            if error.errno in GONE:
                raise DoorClosedError from error
            if isinstance(error, BlockingIOError):
                return 0
            raise

    async def send_last(self, data: bytes) -> None:
        """See `flux.sandbox.wasm_world.Door`."""
        with contextlib.suppress(DoorClosedError):
            await self.send(data)

    def end(self, why: str) -> None:
        """Let the guest find its door closed, wherever it is: see `flux.sandbox.wasm_ledger`."""
        self.ended = why
        try:
            self._connection.shutdown(socket.SHUT_RD)
        except OSError as error:
            if error.errno not in GONE:
                raise

    def check_open(self) -> None:
        """See `flux.sandbox.wasm_world.Door`."""
        # Not by reading: answers that nobody has asked for yet may stand before the end.
        if self._poll.poll(0):
            raise DoorClosedError

    def close(self) -> None:
        """Let go of it: the supervisor learns that the guest is over."""
        self._connection.close()
