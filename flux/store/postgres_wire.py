"""asyncpg's protocol core on one socket, driven by trio.

The protocol is a state machine. It turns statements into bytes and bytes into
rows, and wants three things from outside: a transport to write to, a loop to
make futures, and a connection to tell about notices and cancellation. asyncio
is not among them, so a `Wire` is all three on a plain socket: it sends at once
what the protocol writes, and *the task that waits for an answer reads the socket
itself*. No reader task, no asyncio, no other loop.

Cancelling is where drivers go wrong, so here is the rule: a statement that is
cancelled is first ended. The server is asked to stop (a CancelRequest on a
second connection, over TLS if the first one is), its last words are read, and
only then does ``trio.Cancelled`` go on. If the server does not answer in
`CANCEL_GRACE_S`, the connection is closed instead.
"""

import socket
from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import Any

import attrs
import trio

from flux.errors import BrokenInvariantError
from flux.store.asyncpg_seam import ConnectionDoesNotExistError, ProtocolCore
from flux.store.connect_options import ConnectOptions
from flux.store.database_errors import AnswerTooLarge, CannotConnect, DatabaseError, Notice, notice_of
from flux.store.postgres_answers import Notification, Row
from flux.store.postgres_bracket import Bracket
from flux.store.postgres_socket import (
    RECEIVE_BYTES_MAX,
    Tls,
    peer_address,
    request_cancel,
    wait_readable_or_writable,
)

CANCEL_GRACE_S = 5.0
"""How long a cancelled statement may take to end before its connection is closed instead, unless the options say it."""

NOTIFICATIONS_MAX = 1000
"""So many wait to be taken, the latest: whoever may send them must not fill this process."""

_NOTIFIED_BYTES = 11
"""Of a NotificationResponse, beside its texts."""
_PARSE = b"P"

TAIL_BYTES_MAX = 8
"""More bytes than these without a zero among them are not the last that the server says: see `Wire._hand_over`."""

UNASKED_BYTES_MAX = 2**20
"""A session that nobody asks anything and that says more than this is closed instead of heard out."""


class Answer:
    """The part of ``asyncio.Future`` that the protocol uses; awaiting it reads the socket till it is done."""

    __slots__ = ("_callbacks", "_error", "_is_cancelled", "_value", "_wire", "is_done")

    # asyncio.shield() hands a finished future straight back, and knows a future by this attribute.
    _asyncio_future_blocking = False

    def __init__(self, wire: "Wire") -> None:
        self._wire = wire
        self._value: Any = None
        self._error: BaseException | None = None
        self._is_cancelled = False
        self._callbacks: list[Callable[[Answer], object]] = []
        self.is_done = False

    def done(self) -> bool:
        return self.is_done

    def cancelled(self) -> bool:
        return self._is_cancelled

    def exception(self) -> BaseException | None:
        return self._error

    def set_result(self, value: object) -> None:
        self._value = value
        self.is_done = True

    def set_exception(self, error: BaseException) -> None:
        self._error = error
        self.is_done = True

    def cancel(self) -> bool:
        """Tell the protocol that nobody waits any more: it answers with `Wire._cancel_current_command`."""
        self.is_done = self._is_cancelled = True
        for callback in self._callbacks:
            callback(self)
        return True

    def add_done_callback(self, callback: "Callable[[Answer], object]") -> None:
        # The protocol's callback only has work to do after cancel(), so no other path calls it:
        # that is one call less in each statement.
        self._callbacks.append(callback)

    def __await__(self) -> Generator[Any, Any, Any]:
        if not self.is_done:
            yield from self._wire.wait_answer(self).__await__()
        if self._error is not None:
            raise self._error
        return self._value


@attrs.frozen
class _NoTimeouts:
    """What the protocol looks up before each statement."""

    command_timeout: None = None


class Wire:
    """Transport, loop and connection to one ``ProtocolCore``, over one socket.

    Nothing here waits but `wait_answer`, `flush` and `wait_message`, and each is called by the task that
    uses the connection.
    """

    def __init__(self, sock: socket.socket, tls: Tls | None, options: ConnectOptions) -> None:
        self._config = _NoTimeouts()  # the protocol reads this name
        self.options = options
        self.socket = sock
        self.tls = tls
        self.outgoing = bytearray()
        """What the socket would not take yet."""
        self._held = b""
        """A Parse, which goes with its Bind: one packet, for which the server is woken once."""
        self.is_closed = False
        self.lost_because: BaseException | None = None
        self.is_silent = False
        """It was closed as the server did not answer: what else goes there may be dead too."""
        self.tap: Callable[[bytes], None] | None = None
        """Sees the server's bytes before the protocol does."""
        self.bracket: Bracket | None = None
        """Stands between the protocol and the socket while one statement runs."""
        self.on_notice: Callable[[Notice], None] | None = None
        self.notifications: deque[Notification] = deque(maxlen=NOTIFICATIONS_MAX)
        self.answer_bytes_max = options.answer_bytes_max
        """What one answer may take; notices that somebody hears are not counted, nor notifications."""
        self.answer_s_max = options.answer_s_max
        """How long it may take to come."""
        self._answer_bytes = 0
        self._stretch: list[bytes] = []
        """What was read and not handed over, for there is no zero in it."""
        self.callback_error: Exception | None = None
        """What ``on_notice`` raised: not let into the protocol, raised by the statement instead."""
        self.is_ready = False
        self._peer = None if options.is_unix_socket else peer_address(sock)
        self._cancelling: tuple[Answer, Answer] | None = None
        self.protocol: Any = None

    # What the protocol calls, as its loop.

    def create_future(self) -> Answer:
        return Answer(self)

    def time(self) -> float:
        return trio.current_time()

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        raise BrokenInvariantError(f"asyncpg's protocol lost its connection object: {context['message']}")

    # ... as its transport.

    def get_extra_info(self, name: str, default: object = None) -> object:
        if name == "socket":
            return self.socket
        return self.tls if name == "ssl_object" else default

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if data[:1] == _PARSE and len(data) == 1 + int.from_bytes(data[1:5], "big"):
            # Of a statement without a name, asyncpg writes this by itself, and what it stands before next.
            self._held = bytes(data)
            return
        if self._held:
            data, self._held = self._held + data, b""
        if self.bracket is not None:
            data = self.bracket.wrap(bytes(data))
        if self.tls is not None:
            data = self.tls.encrypt(data)
        if self.outgoing:
            self.outgoing += data
            return
        try:
            sent = self.socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # Reading reports the loss, together with the server's last words.
        if sent < len(data):
            self.outgoing += data[sent:]

    def writelines(self, chunks: Iterable[bytes | memoryview]) -> None:
        self.write(b"".join(chunks))

    def pause_reading(self) -> None:
        """Only ``copy_out`` asks for it, and Flux does not use that."""

    def resume_reading(self) -> None:
        """As `pause_reading`."""

    def abort(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self._stretch.clear()
            if trio.lowlevel.in_trio_run():
                trio.lowlevel.notify_closing(self.socket)
            self.socket.close()

    # ... and as its connection.

    def _cancel_current_command(self, is_sent: Answer, is_over: Answer) -> None:
        self._cancelling = (is_sent, is_over)

    def _process_log_message(self, fields: dict[str, str], _statement: str | None) -> None:
        if self.on_notice is not None:
            if self.answer_bytes_max is not None:
                for text in fields.values():
                    self._answer_bytes -= len(text) if text.isascii() else len(text.encode())
            try:
                self.on_notice(notice_of(fields))
            except Exception as error:
                self.callback_error = error

    def _process_notification(self, pid: int, channel: str, payload: str) -> None:
        self.notifications.append(Notification(channel, payload, pid))
        if self.answer_bytes_max is not None:
            self._answer_bytes -= _NOTIFIED_BYTES + len(channel.encode()) + len(payload.encode())

    def _cleanup(self) -> None:
        self.abort()

    # What the connection calls.

    @property
    def is_cancelling(self) -> bool:
        """Whether the protocol has given up a statement that the server still has to end."""
        return self._cancelling is not None

    async def start(self, options: ConnectOptions) -> None:
        """Log in."""
        parameters = _StartParameters(
            user=options.user,
            password=options.password,
            database=options.database,
            server_settings={"application_name": options.application_name, **options.server_settings},
        )
        is_logged_in = Answer(self)
        self.protocol = ProtocolCore(peer_address(self.socket), is_logged_in, parameters, Row, self)
        try:
            self.protocol.connection_made(self)
            await is_logged_in
        except BaseException:
            self.abort()
            raise
        self.protocol.set_connection(self)
        self.is_ready = True

    def read_once(self) -> None:
        """Give the protocol what has arrived, if anything."""
        try:
            data = self.socket.recv(RECEIVE_BYTES_MAX)
            if not data:
                self._lose(None)
                return
            if self.tls is not None:
                data = self.tls.decrypt(data)
                if reply := self.tls.pending_output():
                    self.outgoing += reply
        except BlockingIOError:
            return
        except OSError as error:  # ssl.SSLError is one too
            self._lose(error)
            return
        self._answer_bytes += len(data)
        if self.tap is not None:
            self.tap(data)
        if self.bracket is not None:
            data = self.bracket.take(data)
        self._hand_over(data)

    def _hand_over(self, data: bytes) -> None:
        """Give the protocol ``data``; what has no zero in it waits for what has.

        To a text that ends with a zero, such as an error's or a notice's, asyncpg adds what has come of it piece by
        piece, and copies the whole each time: of 60 MB that took 17 s, of 200 MB three minutes, in which no other
        task ran. The middle of such a text has no zero, and every message has one at its head or end: so a text is
        handed over in three pieces at most, and no message is looked at for it. Nothing waits that the server expects
        an answer to. It waits for us behind ReadyForQuery, and where a statement is prepared behind its columns: of
        both, what stands behind the last zero is shorter than `TAIL_BYTES_MAX`. Messages of the log-in may end in many
        bytes without one.
        """
        if 0 not in data and self.is_ready and (self._stretch or len(data) > TAIL_BYTES_MAX):
            self._stretch.append(data)
            return
        if self._stretch:
            self._stretch.append(data)
            data = b"".join(self._stretch)
            self._stretch.clear()
        self.protocol.data_received(data)

    async def wait_answer(self, answer: Answer) -> None:
        """Read until ``answer`` is there. When cancelled, or when it is too large, end the statement first."""
        self._answer_bytes = 0
        if (most_s := self.answer_s_max) is None:
            await self._pump_or_end(answer)
            return
        with trio.move_on_after(most_s) as scope:
            await self._pump_or_end(answer)
        if scope.cancelled_caught:
            # As the server says it where the limit is its own.
            raise DatabaseError(
                Notice(
                    severity="ERROR",
                    sqlstate="57014",
                    message=f"the statement was ended: it took longer than {most_s:g} s",
                )
            )

    async def wait_message(self) -> None:
        """Wait until the server says something by itself, and take it in."""
        try:
            await trio.lowlevel.wait_readable(self.socket)
        except trio.ClosedResourceError:
            self._lose(None)
            return
        self.read_once()

    async def flush(self, bytes_left_max: int) -> None:
        """Wait until no more than ``bytes_left_max`` are still to be sent."""
        while len(self.outgoing) > bytes_left_max and not self.is_closed:
            await wait_readable_or_writable(self.socket)
            self._send_some()
            self.read_once()

    async def finish_cancel(self) -> None:
        """Have the server end the statement that the protocol has just given up, and hear it end.

        Shielded, and limited to `CANCEL_GRACE_S` or what the options say: then the connection is closed.
        """
        grace_s = CANCEL_GRACE_S if self.options.cancel_grace_s is None else self.options.cancel_grace_s
        if self._cancelling is None or grace_s == 0:
            self.hang_up()
            return
        is_sent, is_over = self._cancelling
        self._cancelling = None
        deadline = trio.current_time() + grace_s
        with trio.CancelScope(shield=True, deadline=deadline) as grace:
            try:
                # Returning only once the server has closed the second connection is what keeps the
                # cancellation from hitting the *next* statement: the signal is out by then, and a
                # server process that waits for a command ignores it.
                pid, secret = self.protocol.backend_pid, self.protocol.backend_secret
                await request_cancel(self.options, self._peer, pid, secret)
            except (OSError, CannotConnect):
                self.hang_up()  # It cannot be ended, so it is left; the server notices when it writes.
                return
            if not is_sent.is_done:
                is_sent.set_result(None)
            # What still comes is thrown away, but for a value that has begun: that is kept till its end. So the bound
            # counts here as well, and it is the one that this connection was given, whatever it was opened with.
            self._answer_bytes = 0
            try:
                await self._pump(is_over, self.answer_bytes_max)
            except AnswerTooLarge:
                self.hang_up()
                return
            await self.protocol._wait_for_cancellation()  # done already: the protocol only forgets it
        if grace.cancelled_caught:
            self.is_silent = True
            self.hang_up()

    def hang_up(self) -> None:
        """Say good-bye if that is still possible, and close."""
        self.bracket = None  # A good-bye is no statement, and nothing stands around it.
        try:
            if self.protocol is not None and self.protocol.is_connected():
                self.protocol.abort()
        finally:
            # A protocol that is over on a wire that is not would be taken for a connection by every next one.
            self.abort()

    def is_quiet(self) -> bool:
        """Whether an idle connection is alive as far as we can see: what has arrived is read first."""
        seen = bytearray()
        self.tap = seen.extend
        try:
            while not self.is_closed and self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                self.read_once()
                if len(seen) > UNASKED_BYTES_MAX:
                    self.hang_up()
            if not self.is_closed:
                self._lose(None)
        except BlockingIOError:
            pass
        except OSError as error:
            self._lose(error)
        finally:
            self.tap = None
        if not self.is_closed and _says_goodbye(seen):
            # Its last words are here and the end of file is still on its way.
            self._lose(None)
        return not self.is_closed

    async def _pump_or_end(self, answer: Answer) -> None:
        try:
            await self._pump(answer, self.answer_bytes_max)
        except BaseException:
            # Any interruption, KeyboardInterrupt included: the statement must not run on unattended.
            if self.is_ready and not answer.is_done:
                answer.cancel()
                await self.finish_cancel()
            raise

    async def _pump(self, answer: Answer, bytes_max: int | None = None) -> None:
        sock = self.socket
        while not answer.is_done:
            if bytes_max is not None and self._answer_bytes > bytes_max:
                raise AnswerTooLarge(
                    f"the answer has more than {bytes_max:,} bytes, and the statement was ended",
                    remedy="ask for fewer rows or columns: LIMIT, a narrower WHERE, or sums made by the database",
                )
            try:
                if self.outgoing:
                    await wait_readable_or_writable(sock)
                    self._send_some()
                else:
                    await trio.lowlevel.wait_readable(sock)
            except trio.ClosedResourceError:
                self._lose(None)
            if not self.is_closed:
                self.read_once()
            if self.is_closed and not answer.is_done:
                answer.set_exception(ConnectionDoesNotExistError("the connection is closed"))

    def _send_some(self) -> None:
        try:
            sent = self.socket.send(self.outgoing)
        except BlockingIOError:
            return
        except OSError:
            self.outgoing.clear()  # Reading reports the loss.
            return
        del self.outgoing[:sent]

    def _lose(self, error: BaseException | None) -> None:
        self.abort()
        self.lost_because = self.lost_because or error
        if isinstance(error, TimeoutError):  # ETIMEDOUT: the kernel has given the line up.
            self.is_silent = True
        self.protocol.connection_lost(error)


@attrs.frozen
class _StartParameters:
    """What the protocol reads when it logs in."""

    user: str
    password: str | None = attrs.field(repr=False)
    database: str
    server_settings: dict[str, str]


def _says_goodbye(seen: bytearray) -> bool:
    """Whether an ErrorResponse is among these messages: to a client that asked nothing, it is the last one."""
    start = 0
    while len(seen) - start >= 5:
        if seen[start : start + 1] == b"E":
            return True
        start += 1 + int.from_bytes(seen[start + 1 : start + 5], "big")
    return False
