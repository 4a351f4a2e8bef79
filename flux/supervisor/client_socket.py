"""One client's socket: bytes received and sent, with deadlines, and the ways to part.

How to think about it: a plain non-blocking socket that is tried first and waited
for, with ``trio.lowlevel``, only when it would block. A deadline is then set only
where the task really sleeps, and an answer that fits the socket's buffer costs one
system call and no deadline.

Two things can happen that are nobody's error, so they are exceptions of their own:
`ClientGone` (reset, or nobody left to send to) and `ClientLate` (the deadline of
this one wait has passed). A deadline belongs to a wait and never outlives it: what
the caller does with the bytes that came in time is not cut short by it.
"""

import contextlib
import socket
import struct

import trio

RECEIVE_BYTES = 64 * 1024
"""At most this much is received at once."""

_LINGER_BYTES_MAX = 64 * 1024 * 1024


class ClientGone(Exception):
    """The client has closed or reset the connection."""


class ClientLate(Exception):
    """The client has let a deadline pass."""


class ClientSocket:
    """An accepted connection's socket and what has been received on it."""

    __slots__ = ("_socket", "_wait", "buffer", "ended")

    def __init__(self, accepted: socket.socket) -> None:
        accepted.setblocking(False)
        self._socket = accepted
        self._wait: trio.CancelScope | None = None
        self.buffer = bytearray()
        """Received and not yet taken. Whoever takes from it deletes from its start."""
        self.ended = False
        """The client has closed its side; it may still be reading."""

    async def receive(self, deadline: float) -> int:
        """Wait for bytes, or for the end of them; return how many came."""
        with trio.CancelScope(deadline=deadline) as self._wait:
            await trio.lowlevel.wait_readable(self._socket)
        late = self._wait.cancelled_caught
        self._wait = None
        if late:
            raise ClientLate
        return self.receive_nowait()

    def hasten(self, deadline: float) -> None:
        """Bring the deadline of the `receive` that is under way, if one is, forward to ``deadline``."""
        if self._wait is not None:
            self._wait.deadline = min(self._wait.deadline, deadline)

    async def wait_readable(self) -> None:
        """Wait, without a deadline, until `receive_nowait` has something to say."""
        await trio.lowlevel.wait_readable(self._socket)

    def receive_nowait(self) -> int:
        """Take what has arrived into ``buffer``; return how many bytes."""
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise ClientGone from error
        if not data:
            self.ended = True
        self.buffer += data
        return len(data)

    async def write(self, data: bytes, timeout_s: float, bytes_per_s_min: float) -> None:
        """Send all of ``data``; be late ``timeout_s`` after the client falls behind the rate."""
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise ClientGone from error
        if sent == len(data):
            return
        started = trio.current_time()
        with memoryview(data) as view:
            while sent < len(data):
                with trio.CancelScope(deadline=started + timeout_s + sent / bytes_per_s_min) as wait:
                    await trio.lowlevel.wait_writable(self._socket)
                if wait.cancelled_caught:
                    raise ClientLate
                try:
                    sent += self._socket.send(view[sent:])
                except BlockingIOError:
                    continue
                except OSError as error:
                    raise ClientGone from error

    # Parting.

    def stop_reading(self) -> None:
        """Let an idle client's silence look like its farewell.

        What has arrived already can still be received after this, so a request that
        crossed our decision on its way is seen.
        """
        with contextlib.suppress(OSError):  # The client was quicker.
            self._socket.shutdown(socket.SHUT_RD)

    async def linger(self, timeout_s: float) -> None:
        """Say that we are done, then discard what still comes, for a while.

        To close a socket with unread bytes in it resets the connection, and a reset
        takes the answer away from a client that has not read it yet (RFC 9112, section 9.6).
        """
        discarded_bytes = 0
        with trio.move_on_after(timeout_s):
            try:
                self._socket.shutdown(socket.SHUT_WR)
                while discarded_bytes < _LINGER_BYTES_MAX and not self.ended:
                    await trio.lowlevel.wait_readable(self._socket)
                    try:
                        data = self._socket.recv(RECEIVE_BYTES)
                    except BlockingIOError:
                        continue
                    if not data:
                        return
                    discarded_bytes += len(data)
            except OSError:
                return  # The client has reset the connection: it wants no answer.

    def abort(self) -> None:
        """Make the coming `close` a reset, which frees what the kernel still holds to send."""
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def close(self) -> None:
        """Close; whoever still waits on the socket is woken with an error."""
        trio.lowlevel.notify_closing(self._socket)
        self._socket.close()
