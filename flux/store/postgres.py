"""The one door to Postgres: asyncpg's protocol core, driven by trio.

``asyncpg.protocol.Protocol`` is a state machine. It turns statements into
bytes and bytes into rows, and wants three things from outside: a transport to
write to, a loop to make futures, and a connection to tell about notices and
cancellation. asyncio is not among them, so a `_Wire` is all three on a plain
socket: it sends at once what the protocol writes, and *the task that waits for
an answer reads the socket itself*. No reader task, no asyncio, no other loop.

Cancelling is where drivers go wrong, so here is the rule: a statement that is
cancelled is first ended. The server is asked to stop (a CancelRequest on a
second connection, over TLS if the first one is), its last words are read, and
only then does ``trio.Cancelled`` go on. The connection is usable afterwards,
and whether it is inside a transaction is what the server last said, not what we
hoped: a cancelled BEGIN may well have run. If the server does not answer in
`CANCEL_GRACE_S`, the connection is closed instead.

Nothing of asyncpg leaves this module except `Range`; the types of values are
listed in `flux.store.column_values`. The names used here are asyncpg's private
ones, so its version is pinned, and checked at import.
"""

import contextlib
import re
import socket
import ssl
import struct
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable, Iterator, Sequence
from enum import StrEnum
from types import TracebackType
from typing import Any, Protocol

import asyncpg
import asyncpg.compat
import asyncpg.protocol.protocol as core
import attrs
import trio

from flux.errors import BrokenInvariantError
from flux.store import column_values as values
from flux.store.column_values import Interval
from flux.store.connect_options import BadDatabaseUrl, ConnectOptions, TlsMode, parse_url
from flux.store.database_errors import (
    BadQueryArgument,
    CannotConnect,
    CommitUnknown,
    ConnectionBusy,
    ConnectionLost,
    DatabaseError,
    DriverMismatch,
    Notice,
    PoolClosed,
    StatementRefused,
    UnreadableAnswer,
    notice_of,
)

__all__ = [
    "BadDatabaseUrl", "BadQueryArgument", "CannotConnect", "Column", "CommitUnknown", "ConnectOptions",
    "Connection", "ConnectionBusy", "ConnectionLost", "DatabaseError", "DriverMismatch", "Interval",
    "Isolation", "Notice", "Notification", "Pool", "PoolClosed", "PoolCounts", "Range", "Result", "Row",
    "StatementRefused", "TlsMode", "UnreadableAnswer", "connect", "parse_url", "quote_identifier",
]  # fmt: skip

CANCEL_GRACE_S = 5.0
"""How long a cancelled statement may take to end before its connection is closed instead."""

COMMIT_S_MAX = 60.0
"""How long COMMIT may take, since it is not interrupted: half an answer to it helps nobody."""

RECEIVE_BYTES_MAX = 65536
SEND_QUEUE_BYTES_MAX = 262144
SEND_QUEUE_BYTES_LOW = 65536
"""COPY stops taking rows when more than the former waits to be sent, until the latter is left."""

NAMED_STATEMENT_CHARS_MAX = 32768
"""A longer statement is not kept prepared: it is hardly the one that comes again."""

Range = asyncpg.Range
"""A range's value: ``Range(lower, upper, lower_inc=True, upper_inc=False, empty=False)``."""


# What there is to know about answers.


class Isolation(StrEnum):
    """Postgres's isolation levels, in its words."""

    READ_COMMITTED = "read committed"
    """Each statement sees what was committed before it began."""

    REPEATABLE_READ = "repeatable read"
    """All statements see what was committed before the first."""

    SERIALIZABLE = "serializable"
    """As if transactions ran one after another."""


class Row(asyncpg.Record):  # type: ignore[misc]  # asyncpg ships no types
    """One row: ``row["name"]``, ``row[0]``, ``tuple(row)``, ``dict(row)``."""

    __slots__ = ()


@attrs.frozen
class Column:
    """One column of an answer."""

    name: str
    """As the statement names it; not always unique."""

    type_name: str
    """The type's name, as ``int4``, ``text[]`` or an enum's own."""

    type_oid: int
    """The type's number; a domain's is that of its base type."""

    table_oid: int
    """Number of the table that the column comes from as it is, or 0."""

    column_number: int
    """Number of the column in that table, or 0."""


@attrs.frozen
class Result:
    """All of one statement's answer."""

    columns: tuple[Column, ...]
    """The columns; known without rows too, and empty if the statement returns none."""

    rows: list[tuple[Any, ...]]
    """The rows, in order."""

    tag: str
    """What the server did, as ``INSERT 0 1``; empty for an empty statement."""


@attrs.frozen
class Notification:
    """What a NOTIFY said."""

    channel: str
    """The channel's name."""

    payload: str
    """The text sent along; may be empty."""

    backend_pid: int
    """Process id of the server's process that sent it."""


# The seam: asyncpg's private names, checked once.


class _TimeoutScope(Protocol):
    async def __aenter__(self) -> Any: ...

    async def __aexit__(self, *exc_info: object) -> Any: ...


def _check_driver() -> None:
    """Refuse an asyncpg whose inner parts are not those that this module was written against."""
    wanted = {
        core.Protocol: "prepare bind_execute query copy_in close_statement set_connection get_settings "
        "is_in_transaction is_connected abort data_received connection_made connection_lost "
        "backend_pid backend_secret _wait_for_cancellation _request_cancel",
        core.PreparedStatementState: "_init_types _init_codecs _get_attributes",
        core.ConnectionSettings: "get_data_codec register_data_types add_python_codec "
        "set_builtin_type_codec clear_type_cache",
        asyncpg.compat: "timeout",
    }
    missing = [
        f"{owner.__name__}.{name}"
        for owner, names in wanted.items()
        for name in names.split()
        if not hasattr(owner, name)
    ]
    if missing or not asyncpg.__version__.startswith("0.32."):
        raise DriverMismatch(
            f"asyncpg {asyncpg.__version__} is installed, and Flux builds on the inner parts of 0.32"
            + (f"; not found: {', '.join(missing)}" if missing else ""),
            remedy="pip install 'asyncpg>=0.32,<0.33'",
        )


def _timeout_without_asyncio(original: Callable[[float | None], _TimeoutScope]) -> Callable[..., _TimeoutScope]:
    """asyncpg enters ``timeout(None)`` around a wait, which means no limit and yet needs asyncio's loop.

    Deadlines are trio's here, so None is all we ever pass; who passes more gets the original.
    """

    def timeout(delay: float | None) -> _TimeoutScope:
        return contextlib.nullcontext() if delay is None else original(delay)

    return timeout


_check_driver()
asyncpg.compat.timeout = _timeout_without_asyncio(asyncpg.compat.timeout)


class _Answer:
    """The part of ``asyncio.Future`` that the protocol uses. Awaiting it reads the socket until it is done."""

    __slots__ = ("_callbacks", "_error", "_is_cancelled", "_value", "_wire", "is_done")

    # asyncio.shield() hands a finished future straight back, and knows a future by this attribute.
    _asyncio_future_blocking = False

    def __init__(self, wire: "_Wire") -> None:
        self._wire = wire
        self._value: Any = None
        self._error: BaseException | None = None
        self._is_cancelled = False
        self._callbacks: list[Callable[[_Answer], object]] = []
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
        """Tell the protocol that nobody waits any more: it answers with `_Wire._cancel_current_command`."""
        self.is_done = self._is_cancelled = True
        for callback in self._callbacks:
            callback(self)
        return True

    def add_done_callback(self, callback: "Callable[[_Answer], object]") -> None:
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


class _Tls:
    """TLS over a pair of buffers, so that the socket stays ours to wait for."""

    def __init__(self, context: ssl.SSLContext, server_hostname: str | None) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_hostname)

    def encrypt(self, data: bytes | bytearray | memoryview) -> bytes:
        """What to send for ``data``."""
        self._tls.write(data)
        return self._outgoing.read()

    def decrypt(self, data: bytes) -> bytes:
        """What ``data`` says; may be nothing yet."""
        self._incoming.write(data)
        plain = bytearray()
        # SSLWantReadError: all that is there was read. SSLZeroReturnError: the server said good-bye,
        # and its end of file follows.
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            while chunk := self._tls.read(RECEIVE_BYTES_MAX):
                plain += chunk
        return bytes(plain)

    def pending_output(self) -> bytes:
        """What TLS itself wants to say, such as a new key."""
        return self._outgoing.read() if self._outgoing.pending else b""

    async def handshake(self, sock: socket.socket) -> None:
        """Agree on keys over ``sock``; ``ssl.SSLError`` when that fails."""
        while True:
            try:
                self._tls.do_handshake()
                is_agreed = True
            except ssl.SSLWantReadError:
                is_agreed = False
            await _send_all(sock, self.pending_output())
            if is_agreed:
                return
            await trio.lowlevel.wait_readable(sock)
            data = sock.recv(RECEIVE_BYTES_MAX)
            if not data:
                raise ConnectionResetError("the server hung up during the TLS handshake")
            self._incoming.write(data)


class _Wire:
    """Transport, loop and connection to one ``core.Protocol``, over one socket.

    Nothing here waits but `wait_answer`, `flush` and `wait_message`, and each is called by the task that
    uses the connection.
    """

    def __init__(self, sock: socket.socket, tls: _Tls | None, options: ConnectOptions) -> None:
        self._config = _NoTimeouts()  # the protocol reads this name
        self.options = options
        self.socket = sock
        self.tls = tls
        self.outgoing = bytearray()
        """What the socket would not take yet."""
        self.is_closed = False
        self.lost_because: BaseException | None = None
        self.tap: Callable[[bytes], None] | None = None
        """Sees the server's bytes before the protocol does."""
        self.on_notice: Callable[[Notice], None] | None = None
        self.notifications: deque[Notification] = deque()
        self.callback_error: Exception | None = None
        """What ``on_notice`` raised: not let into the protocol, raised by the statement instead."""
        self.is_ready = False
        self._cancelling: tuple[_Answer, _Answer] | None = None
        self.protocol: Any = None

    # What the protocol calls, as its loop.

    def create_future(self) -> _Answer:
        return _Answer(self)

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
            if trio.lowlevel.in_trio_run():
                trio.lowlevel.notify_closing(self.socket)
            self.socket.close()

    # ... and as its connection.

    def _cancel_current_command(self, is_sent: _Answer, is_over: _Answer) -> None:
        self._cancelling = (is_sent, is_over)

    def _process_log_message(self, fields: dict[str, str], _statement: str | None) -> None:
        if self.on_notice is not None:
            try:
                self.on_notice(notice_of(fields))
            except Exception as error:
                self.callback_error = error

    def _process_notification(self, pid: int, channel: str, payload: str) -> None:
        self.notifications.append(Notification(channel, payload, pid))

    def _cleanup(self) -> None:
        self.abort()

    # What this module calls.

    async def start(self, options: ConnectOptions) -> None:
        """Log in."""
        parameters = _StartParameters(
            user=options.user,
            password=options.password,
            database=options.database,
            server_settings={"application_name": options.application_name, **options.server_settings},
        )
        is_logged_in = _Answer(self)
        self.protocol = core.Protocol(_address(self.socket), is_logged_in, parameters, Row, self)
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
        if self.tap is not None:
            self.tap(data)
        self.protocol.data_received(data)

    async def wait_answer(self, answer: _Answer) -> None:
        """Read until ``answer`` is there. When cancelled, end the statement first."""
        try:
            await self._pump(answer)
        except BaseException:
            # Any interruption, KeyboardInterrupt included: the statement must not run on unattended.
            if self.is_ready and not answer.is_done:
                answer.cancel()
                await self.finish_cancel()
            raise

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
            await _wait_readable_or_writable(self.socket)
            self._send_some()
            self.read_once()

    async def finish_cancel(self) -> None:
        """Have the server end the statement that the protocol has just given up, and hear it end.

        Shielded, and limited to `CANCEL_GRACE_S`: then the connection is closed.
        """
        if self._cancelling is None:
            self.hang_up()
            return
        is_sent, is_over = self._cancelling
        self._cancelling = None
        deadline = trio.current_time() + CANCEL_GRACE_S
        with trio.CancelScope(shield=True, deadline=deadline) as grace:
            try:
                # Returning only once the server has closed the second connection is what keeps the
                # cancellation from hitting the *next* statement: the signal is out by then, and a
                # server process that waits for a command ignores it.
                await _request_cancel(self)
            except OSError:
                self.hang_up()  # It cannot be ended, so it is left; the server notices when it writes.
                return
            if not is_sent.is_done:
                is_sent.set_result(None)
            await self._pump(is_over)
            await self.protocol._wait_for_cancellation()  # done already: the protocol only forgets it
        if grace.cancelled_caught:
            self.hang_up()

    def hang_up(self) -> None:
        """Say good-bye if that is still possible, and close."""
        if self.protocol is not None and self.protocol.is_connected():
            self.protocol.abort()
        self.abort()

    def is_quiet(self) -> bool:
        """Whether an idle connection is alive as far as we can see: what has arrived is read first."""
        try:
            while not self.is_closed and self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                self.read_once()
            if not self.is_closed:
                self._lose(None)
        except BlockingIOError:
            pass
        except OSError as error:
            self._lose(error)
        return not self.is_closed

    async def _pump(self, answer: _Answer) -> None:
        sock = self.socket
        while not answer.is_done:
            try:
                if self.outgoing:
                    await _wait_readable_or_writable(sock)
                    self._send_some()
                else:
                    await trio.lowlevel.wait_readable(sock)
            except trio.ClosedResourceError:
                self._lose(None)
            if not self.is_closed:
                self.read_once()
            if self.is_closed and not answer.is_done:
                answer.set_exception(asyncpg.ConnectionDoesNotExistError("the connection is closed"))

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
        self.protocol.connection_lost(error)


@attrs.frozen
class _StartParameters:
    """What the protocol reads when it logs in."""

    user: str
    password: str | None = attrs.field(repr=False)
    database: str
    server_settings: dict[str, str]


async def _wait_readable_or_writable(sock: socket.socket) -> None:
    """Output is pending. The server may refuse it until we have read its own: wait for either."""

    async def watch(wait: Callable[[socket.socket], Awaitable[None]]) -> None:
        await wait(sock)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, trio.lowlevel.wait_readable)
        nursery.start_soon(watch, trio.lowlevel.wait_writable)


async def _send_all(sock: socket.socket, data: bytes) -> None:
    while data:
        try:
            data = data[sock.send(data) :]
        except BlockingIOError:
            await trio.lowlevel.wait_writable(sock)


# Opening a socket.


def _address(sock: socket.socket) -> Any:
    """Where ``sock`` leads; asyncpg wants a str for a unix socket and a tuple otherwise."""
    return sock.getpeername()


async def _open_socket(options: ConnectOptions, address: Any = None) -> tuple[socket.socket, _Tls | None]:
    """A connected socket, with TLS as ``options`` ask; at ``address`` if given, so as to meet the same server."""
    if options.is_unix_socket:
        stream = await trio.open_unix_socket(options.socket_path)
    else:
        host, port = (options.host, options.port) if address is None else address[:2]
        stream = await trio.open_tcp_stream(host, port)
    sock = socket.socket(fileno=stream.socket.detach())
    try:
        sock.setblocking(False)
        if options.is_unix_socket:
            return sock, None
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return sock, await _start_tls(sock, options)
    except BaseException:
        sock.close()
        raise


async def _start_tls(sock: socket.socket, options: ConnectOptions) -> _Tls | None:
    if options.tls is TlsMode.DISABLE:
        return None
    await _send_all(sock, struct.pack("!ii", 8, 80877103))  # SSLRequest
    await trio.lowlevel.wait_readable(sock)
    # One byte and no more: whatever a man in the middle adds in clear text must not be taken for
    # something said under TLS (CVE-2021-23222).
    answer = sock.recv(1)
    if answer == b"N" and options.tls is TlsMode.PREFER:
        return None
    if answer == b"N":
        raise CannotConnect(
            f"{options.place}: the server does not speak TLS, and sslmode is {options.tls}",
            remedy='set "ssl = on" in postgresql.conf, or use sslmode=disable where the network is trusted',
        )
    if answer != b"S":
        raise ConnectionResetError("it hung up, or is no Postgres server")
    tls = _Tls(_tls_context(options), options.host)
    await tls.handshake(sock)
    return tls


def _tls_context(options: ConnectOptions) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=options.ca_file)
    match options.tls:
        case TlsMode.VERIFY_FULL:
            pass
        case TlsMode.VERIFY_CA:
            context.check_hostname = False
        case _:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_REQUIRED if options.ca_file else ssl.CERT_NONE
    return context


async def _request_cancel(wire: _Wire) -> None:
    """Ask the server to end what ``wire``'s server process does, and wait until it has been told."""
    address = None if wire.options.is_unix_socket else _address(wire.socket)
    sock, tls = await _open_socket(wire.options, address)
    try:
        request = struct.pack("!iiii", 16, 80877102, wire.protocol.backend_pid, wire.protocol.backend_secret)
        await _send_all(sock, request if tls is None else tls.encrypt(request))
        while True:
            await trio.lowlevel.wait_readable(sock)
            if not sock.recv(RECEIVE_BYTES_MAX):
                return
    except ConnectionResetError:
        return  # Some servers and proxies reset instead of closing; they have read the request.
    finally:
        sock.close()


# Types: what a statement's columns and parameters are in Python.

_AS_TEXT = {
    600: "point", 601: "lseg", 602: "path", 603: "box", 604: "polygon", 628: "line", 718: "circle",
    1560: "bit", 1562: "varbit", 3220: "pg_lsn", 2970: "txid_snapshot", 5038: "pg_snapshot",
}  # fmt: skip
"""Types for which asyncpg has classes of its own, or numbers that mean nothing: here they are Postgres's text."""

_IN_PYTHON: list[tuple[int, str, Callable[[Any], Any], Callable[[Any], Any], str]] = [
    (1082, "date", values.encode_date, values.decode_date, "tuple"),
    (1083, "time", values.encode_time, values.decode_time, "tuple"),
    (1114, "timestamp", values.encode_timestamp, values.decode_timestamp, "tuple"),
    (1184, "timestamptz", values.encode_timestamptz, values.decode_timestamptz, "tuple"),
    (1186, "interval", values.encode_interval, values.decode_interval, "tuple"),
]
"""Types for which asyncpg would bend a value: it writes 9999-12-31 as infinity, and a month as 30 days."""

_IN_PYTHON_JSON = [
    (114, "json", values.encode_json, values.decode_json, "binary"),
    (3802, "jsonb", values.encode_jsonb, values.decode_jsonb, "binary"),
]

_DESCRIBE_TYPES = """
select t.oid, n.nspname as ns, t.typname as name, t.typtype as kind,
       case when t.typtype = 'd' then t.typbasetype end as basetype,
       format_type(t.typbasetype, null) as basetype_name,
       e.oid as elemtype, e.typdelim::text as elemdelim, format_type(e.oid, null) as elemtype_name,
       coalesce(r.rngsubtype, m.rngsubtype) as range_subtype,
       format_type(coalesce(r.rngsubtype, m.rngsubtype), null) as range_subtype_name,
       (select array_agg(a.atttypid order by a.attnum) from pg_catalog.pg_attribute a
         where a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped) as attrtypoids,
       (select array_agg(a.attname::text order by a.attnum) from pg_catalog.pg_attribute a
         where a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped) as attrnames
  from pg_catalog.pg_type t
  join pg_catalog.pg_namespace n on n.oid = t.typnamespace
  left join pg_catalog.pg_type e on t.typlen = -1 and t.typelem <> 0 and e.oid = t.typelem
  left join pg_catalog.pg_range r on r.rngtypid = t.oid
  left join pg_catalog.pg_range m on m.rngmultitypid = t.oid
 where t.oid = any($1)
"""
"""What types are: by kind, and made of what. One look-up by number, where asyncpg's own recursive
query is dear enough to be compiled by the server."""

BUILT_IN_OID_MAX = 9999
"""Higher numbers are handed out by each cluster for itself, and mean something else in the next."""

_built_in_types: dict[int, dict[str, Any]] = {}
"""Descriptions of the types that are the same on every server, so that one connection asks for all."""


def _set_codecs(settings: Any, *, json_as_text: bool) -> None:
    for oid, name in _AS_TEXT.items():
        settings.set_builtin_type_codec(oid, name, "pg_catalog", "scalar", "text", "text")
    for oid, name, encode, decode, form in _IN_PYTHON + ([] if json_as_text else _IN_PYTHON_JSON):
        settings.add_python_codec(oid, name, "pg_catalog", [], "scalar", encode, decode, form)


@attrs.define
class _Types:
    """The types one connection has met."""

    settings: Any
    """asyncpg's registry of codecs."""

    known: dict[int, dict[str, Any]] = attrs.field(factory=dict)
    """What the server said about types, by number."""

    def find(self, oid: int) -> dict[str, Any] | None:
        return self.known.get(oid) or _built_in_types.get(oid)

    def undescribed(self, oids: Iterable[int]) -> set[int]:
        """Those among ``oids``, and what they are made of, that the server has to be asked about."""
        asked: set[int] = set()
        for oid in oids:
            described = self.find(oid)
            if described is None:
                asked.add(oid)
            else:
                asked |= self.undescribed(part for part in _parts(described) if not self._has_codec(part))
        return asked

    def learn(self, asked: set[int], descriptions: Iterable[dict[str, Any]]) -> None:
        """Take in the server's answer; a type of which it says nothing is one we may not see: text."""
        for described in descriptions:
            oid = described["oid"]
            (_built_in_types if oid <= BUILT_IN_OID_MAX else self.known)[oid] = described
            asked.discard(oid)
        for oid in asked:
            self.known[oid] = {"oid": oid, "ns": "pg_catalog", "name": f"type {oid}", "kind": b"?"}

    def register(self, oid: int) -> None:
        """Make values of type ``oid`` readable and writable."""
        described = self.find(oid)
        assert described is not None, f"type {oid} is registered before it is described"
        if described["kind"] == b"?" or self._has_codec(oid):
            # A codec that is there and still does not do is a pseudo-type's, anyarray for one.
            self._register_as_text(described)
            return
        try:
            parts = self._with_parts(oid)
            for part in parts:
                if part["kind"] == b"c" and not self._has_codec(part["oid"]):
                    self._register_composite(part)
            self.settings.register_data_types(parts)
        except asyncpg.UnsupportedClientFeatureError:
            # Of newer servers' types, and of composites and ranges made of something that travels as
            # text, asyncpg knows no binary form. Their text is exact, and every type has one.
            self._register_as_text(described)

    def _register_as_text(self, described: dict[str, Any]) -> None:
        self.settings.set_builtin_type_codec(
            described["oid"], described["name"], described["ns"], "scalar", "text", "text"
        )

    def _register_composite(self, described: dict[str, Any]) -> None:
        oid, parts = described["oid"], self._with_parts(described["oid"])
        for part in parts:
            if part["kind"] == b"c" and part["oid"] != oid and not self._has_codec(part["oid"]):
                self._register_composite(part)
        self.settings.add_python_codec(
            oid, described["name"], described["ns"], parts, "composite", _same, _fields, "tuple"
        )

    def _with_parts(self, oid: int) -> list[dict[str, Any]]:
        """The descriptions of ``oid`` and all it is made of, parts first."""
        described = self.find(oid)
        if described is None or described["kind"] == b"?":
            return []
        parts: list[dict[str, Any]] = []
        for part in _parts(described):
            parts += (each for each in self._with_parts(part) if each not in parts)
        return [*parts, described]

    def _has_codec(self, oid: int) -> bool:
        return self.settings.get_data_codec(oid) is not None


def _parts(described: dict[str, Any]) -> list[int]:
    single = [described.get(name) for name in ("basetype", "elemtype", "range_subtype")]
    return [oid for oid in single if oid] + list(described.get("attrtypoids") or ())


def _same(value: Any) -> Any:
    return value


def _fields(record: Any) -> dict[str, Any]:
    return dict(record.items())


# Statements.

_COPY_WITH_CLIENT = re.compile(
    r"(?:\s|--[^\n]*\n|/\*.*?\*/)*copy\b.*\b(?:from\s+stdin|to\s+stdout)\b", re.IGNORECASE | re.DOTALL
)

_RESET = """
set session authorization default; reset all; close all; unlisten *;
select pg_advisory_unlock_all(); discard temp; discard sequences
"""
"""DISCARD ALL without dropping the prepared statements, which are the reason to keep a connection."""


@attrs.frozen
class _Statement:
    """A prepared statement."""

    state: Any
    """asyncpg's side of it."""

    columns: tuple[Column, ...]
    """What it returns."""


class Connection:
    """One session with a database. `connect` makes one; one task uses it at a time.

    Statements are prepared once per connection and kept (least recently used go first). Values travel
    as ``$1``, ``$2`` ...; their types are listed in `flux.store.column_values`.
    """

    def __init__(self, wire: _Wire) -> None:
        self._wire = wire
        self._protocol = wire.protocol
        self._types = _Types(self._protocol.get_settings())
        self._statements: OrderedDict[str, _Statement] = OrderedDict()
        self._to_close: list[Any] = []
        self._statement_count = 0
        self._savepoint_count = 0
        self._is_busy = False
        self.is_dirty = False
        """Whether the session's settings, locks or channels were touched: the pool then resets it."""
        _set_codecs(self._types.settings, json_as_text=wire.options.json_as_text)

    def __repr__(self) -> str:
        return f"<Connection {self.backend_pid} to {self._wire.options.place}>"

    @property
    def backend_pid(self) -> int:
        """Process id of the server's process at the other end."""
        return int(self._protocol.backend_pid)

    @property
    def server_version(self) -> str:
        """As the server says it, ``18.6`` for instance."""
        return str(self._types.settings.server_version)

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open, failed ones included, by the server's last word."""
        return bool(self._protocol.is_in_transaction())

    @property
    def is_closed(self) -> bool:
        """Whether this connection is over."""
        return self._wire.is_closed

    @property
    def uses_tls(self) -> bool:
        """Whether what is said here is encrypted."""
        return self._wire.tls is not None

    @property
    def on_notice(self) -> Callable[[Notice], None] | None:
        """Called with each notice as it arrives, synchronously; what it raises, the statement raises."""
        return self._wire.on_notice

    @on_notice.setter
    def on_notice(self, callback: Callable[[Notice], None] | None) -> None:
        self._wire.on_notice = callback

    # Statements.

    async def execute(self, sql: str, *args: object) -> str:
        """Run ``sql`` for its effect; returns the command's tag.

        Without arguments it may hold several statements: they are one transaction unless they say
        otherwise, and the tag is the last one's.
        """
        if args:
            return (await self._query(sql, args))[2]
        with self._exclusive():
            if "stdin" in sql.lower():
                self._wire.tap = _CopyRefusal(self._wire)
            try:
                tag: str = await self._protocol.query(sql, None)
            except AttributeError as error:
                # asyncpg decodes the tag, and the empty statement has none.
                if error.name != "decode" or error.obj is not None:
                    raise
                tag = ""
            except Exception as error:
                raise self._translated(error) from None
            finally:
                self._wire.tap = None
            self._raise_callback_error()
            return tag

    async def fetch(self, sql: str, *args: object) -> list[Row]:
        """All rows of one statement."""
        return (await self._query(sql, args))[1]

    async def fetch_row(self, sql: str, *args: object) -> Row | None:
        """The first row of one statement, or None without one."""
        rows = (await self._query(sql, args))[1]
        return rows[0] if rows else None

    async def fetch_value(self, sql: str, *args: object) -> Any:
        """The first column of the first row of one statement, or None without one."""
        rows = (await self._query(sql, args))[1]
        return rows[0][0] if rows else None

    async def run(self, sql: str, args: Sequence[object] = ()) -> Result:
        """All there is to know about one statement's answer. ``sql`` is exactly one statement."""
        statement, rows, tag = await self._query(sql, args)
        return Result(statement.columns, [tuple(row) for row in rows], tag)

    async def copy_records(
        self, table: str, columns: Sequence[str], records: Iterable[Sequence[object]], *, schema: str | None = None
    ) -> int:
        """Add rows to ``table``, fast; returns their number. ``records`` is consumed as the server takes it."""
        place = ".".join(quote_identifier(part) for part in (schema, table) if part)
        names = ", ".join(quote_identifier(column) for column in columns)
        with self._exclusive():
            feed = _CopyFeed(self._wire, records)
            try:
                statement = await self._statement(f"select {names} from {place}")
                tag = await self._protocol.copy_in(
                    f"copy {place} ({names}) from stdin (format binary)", None, None, feed, statement.state, None
                )
            except Exception as error:
                await self._copy_failed(error, feed, place)
                raise AssertionError("unreachable: _copy_failed() raises") from error
            self._raise_callback_error()
            return int(tag.rpartition(" ")[2])

    # Transactions.

    async def begin(self, isolation: Isolation | str | None = None, *, read_only: bool = False) -> None:
        """Open a transaction. If this is cancelled, it may have been opened: ask `in_transaction`."""
        level = f" isolation level {Isolation(isolation)}" if isolation is not None else ""
        await self.execute(f"begin{level}{' read only' if read_only else ''}")

    async def commit(self) -> None:
        """Commit. Cancellation waits until the answer is there, at most `COMMIT_S_MAX`.

        `CommitUnknown` says that the connection broke before the answer; `DatabaseError` that the
        transaction was rolled back instead.
        """
        tag = ""
        deadline = trio.current_time() + COMMIT_S_MAX
        with trio.CancelScope(shield=True, deadline=deadline) as scope:
            try:
                tag = await self.execute("commit")
            except ConnectionLost as error:
                raise CommitUnknown(
                    f"the connection broke during COMMIT, so whether it took place is not known: {error.message}",
                    remedy="look whether its rows are there before running it again",
                ) from error
        if scope.cancelled_caught:
            self.terminate()
            raise CommitUnknown(
                f"no answer to COMMIT in {COMMIT_S_MAX:g} s, so whether it took place is not known",
                remedy="look whether its rows are there before running it again",
            )
        if tag != "COMMIT":
            # The server answers ROLLBACK, and no error, when an earlier statement had failed.
            raise DatabaseError(
                Notice(severity="ERROR", sqlstate="25P02", message="the transaction was rolled back at COMMIT",
                       detail="A statement in it had failed before.")
            )  # fmt: skip

    async def rollback(self) -> None:
        """Undo the open transaction."""
        await self.execute("rollback")

    @contextlib.asynccontextmanager
    async def transaction(
        self, *, isolation: Isolation | str | None = None, read_only: bool = False
    ) -> AsyncIterator[None]:
        """A transaction around a block: committed at its end, rolled back if it raises or is cancelled.

        Inside a transaction it is a savepoint, and then has no isolation of its own.
        """
        if self.in_transaction:
            if isolation is not None or read_only:
                raise StatementRefused(
                    "isolation and read only are a whole transaction's, and this one is inside another",
                    remedy="give them to the outer transaction",
                )
            async with self._savepoint():
                yield
            return
        try:
            await self.begin(isolation, read_only=read_only)
            yield
        except BaseException:
            await self.settle()
            raise
        await self.commit()

    async def settle(self) -> None:
        """Leave no transaction open: rolled back, shielded, and the connection is closed if that fails."""
        if self.is_closed or not self.in_transaction:
            return
        deadline = trio.current_time() + CANCEL_GRACE_S
        with trio.CancelScope(shield=True, deadline=deadline) as scope:
            try:
                await self.rollback()
            except (DatabaseError, ConnectionLost):
                self.terminate()  # The server rolls back what its client left open.
        if scope.cancelled_caught:
            self.terminate()

    async def reset(self) -> None:
        """Make the session as new: settings, role, locks, channels, temporary tables."""
        await self.execute(_RESET)
        self._wire.notifications.clear()
        self.is_dirty = False

    # Notifications.

    async def listen(self, channel: str) -> None:
        """Hear what is sent with NOTIFY on ``channel``."""
        self.is_dirty = True
        await self.execute(f"listen {quote_identifier(channel)}")

    async def wait_notification(self) -> Notification:
        """The next notification, in the order they came."""
        with self._exclusive():
            if self._wire.notifications:
                await trio.lowlevel.checkpoint()
            while not self._wire.notifications:
                if self.is_closed:
                    raise self._lost()
                await self._wire.wait_message()
            return self._wire.notifications.popleft()

    # The end.

    def terminate(self) -> None:
        """Close at once. What runs, fails with `ConnectionLost`."""
        self._wire.hang_up()

    async def aclose(self) -> None:
        """Close. The server rolls back what is open."""
        self._wire.hang_up()
        await trio.lowlevel.checkpoint()

    def check_alive(self) -> bool:
        """Whether the server still is at the other end, as far as the socket knows; for an idle connection."""
        return self._wire.is_quiet()

    # Inside.

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        self._enter()
        try:
            yield
        finally:
            self._is_busy = False

    def _enter(self) -> None:
        if self._is_busy:
            raise ConnectionBusy(
                f"two tasks use one connection at the same time: {self!r}",
                remedy="take a connection of its own from the pool for each task",
            )
        if self._wire.is_closed:
            raise self._lost()
        self._is_busy = True

    async def _query(self, sql: str, args: Sequence[object]) -> tuple[_Statement, list[Row], str]:
        # The way every statement goes, so written out: no context manager, no helper on the good path.
        self._enter()
        try:
            statement = self._statements.get(sql)
            if statement is None:
                return await self._query_anew(sql, args)
            self._statements.move_to_end(sql)
            try:
                rows, tag, _ = await self._protocol.bind_execute(statement.state, args, "", 0, True, None)
            except (asyncpg.InvalidCachedStatementError, asyncpg.InvalidSQLStatementNameError) as error:
                # The schema has changed under the prepared statement, or somebody deallocated it.
                self._forget_statements()
                if self.in_transaction:
                    raise self._translated(error) from None
                return await self._query_anew(sql, args)
            if self._wire.callback_error is not None:
                self._raise_callback_error()
            return statement, rows, tag.decode() if tag else ""
        except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
            raise self._translated(error) from None
        except (ArithmeticError, ValueError, LookupError, TypeError, BufferError) as error:
            raise self._translated(error) from error  # A value of the answer could not be decoded.
        finally:
            self._is_busy = False

    async def _query_anew(self, sql: str, args: Sequence[object]) -> tuple[_Statement, list[Row], str]:
        statement = await self._statement(sql)
        try:
            rows, tag, _ = await self._protocol.bind_execute(statement.state, args, "", 0, True, None)
        except (asyncpg.InterfaceError, asyncpg.DataError) as error:
            if _is_about_arguments(error):
                # Nothing was sent after Parse: the server is still inside the transaction that Parse
                # began, with its locks and its now(). Close comes with the Sync that ends it.
                self._statements.pop(sql, None)
                await self._protocol.close_statement(statement.state, None)
            raise
        self._raise_callback_error()
        return statement, rows, tag.decode() if tag else ""

    async def _statement(self, sql: str) -> _Statement:
        """``sql``, prepared."""
        if (statement := self._statements.get(sql)) is not None:
            self._statements.move_to_end(sql)
            return statement
        if _COPY_WITH_CLIENT.match(sql):
            raise StatementRefused(
                "COPY from stdin and to stdout need a stream of rows beside the statement",
                remedy="use copy_records() to write rows, and a SELECT to read them",
            )
        while self._to_close:
            await self._protocol.close_statement(self._to_close.pop(), None)
        is_kept = self._wire.options.statement_cache_size > 0 and len(sql) <= NAMED_STATEMENT_CHARS_MAX
        self._statement_count += 1
        described = _RowDescription()
        self._wire.tap = described
        try:
            state = await self._protocol.prepare(
                f"flux_{self._statement_count}" if is_kept else "", sql, None, record_class=Row
            )
        finally:
            self._wire.tap = None
        if await self._learn_types(state) and not is_kept:
            state.mark_unprepared()  # Learning has used the unnamed statement for itself.
        state._init_codecs()
        statement = _Statement(state, described.columns(state._get_attributes()))
        if is_kept:
            self._statements[sql] = statement
            if len(self._statements) > self._wire.options.statement_cache_size:
                self._to_close.append(self._statements.popitem(last=False)[1].state)
        return statement

    async def _learn_types(self, state: Any) -> bool:
        """See to it that ``state`` can be encoded and decoded; whether the server had to be asked."""
        has_asked = False
        for _ in range(8):  # Registering a composite makes asyncpg forget derived types: look again.
            unknown = state._init_types()
            if not unknown:
                return has_asked
            while asked := self._types.undescribed(unknown):
                has_asked = True
                statement = await self._statement(_DESCRIBE_TYPES)
                rows, _, _ = await self._protocol.bind_execute(
                    statement.state, [sorted(asked)], "", 0, True, None
                )
                self._types.learn(asked, (dict(row.items()) for row in rows))
            for oid in sorted(unknown):
                self._types.register(oid)
        raise BrokenInvariantError(f"types {sorted(state._init_types())} cannot be resolved: {state.query!r}")

    def _forget_statements(self) -> None:
        self._to_close += [statement.state for statement in self._statements.values()]
        self._statements.clear()

    def _raise_callback_error(self) -> None:
        error, self._wire.callback_error = self._wire.callback_error, None
        if error is not None:
            raise error

    async def _copy_failed(self, error: Exception, feed: "_CopyFeed", place: str) -> None:
        """End a COPY that went wrong, and raise what it was."""
        if self._wire._cancelling is not None:
            await self._wire.finish_cancel()
        if feed.interruption is not None:
            raise feed.interruption
        if isinstance(error, asyncpg.PostgresError):
            raise self._translated(error) from None
        if feed.count:
            raise BadQueryArgument(
                f"record {feed.count} for {place} does not fit its columns, and none was added: {error}",
                remedy="each record holds one value per column; COPY converts no types",
            ) from error
        raise self._translated(error) from error

    @contextlib.asynccontextmanager
    async def _savepoint(self) -> AsyncIterator[None]:
        self._savepoint_count += 1
        name = f"flux_{self._savepoint_count}"
        await self.execute(f"savepoint {name}")
        try:
            yield
        except BaseException:
            if not self.is_closed and self.in_transaction:
                deadline = trio.current_time() + CANCEL_GRACE_S
                with trio.CancelScope(shield=True, deadline=deadline) as scope:
                    try:
                        await self.execute(f"rollback to savepoint {name}; release savepoint {name}")
                    except (DatabaseError, ConnectionLost):
                        self.terminate()  # Nothing may be committed of which we do not know what it holds.
                if scope.cancelled_caught:
                    self.terminate()
            raise
        await self.execute(f"release savepoint {name}")

    def _lost(self) -> ConnectionLost:
        because = self._wire.lost_because
        return ConnectionLost(
            f"the connection to {self._wire.options.place} is closed" + (f": {because}" if because else ""),
            remedy="see whether the server runs, and look into its log",
        )

    def _translated(self, error: Exception) -> Exception:
        """``error``, which asyncpg raised, as one of ours."""
        match error:
            case asyncpg.ConnectionDoesNotExistError():
                cause = error.__cause__ or self._wire.lost_because
                return ConnectionLost(
                    f"the connection to {self._wire.options.place} broke before the answer came"
                    + (f": {cause}" if cause else ""),
                    remedy="see whether the server runs, and look into its log",
                )
            case asyncpg.InterfaceError() | asyncpg.DataError() if _is_about_arguments(error):
                return BadQueryArgument(str(error.args[0]), remedy="flux explain FLX224 lists what fits what")
            case asyncpg.PostgresError():
                return DatabaseError(_report_of(error))
            case asyncpg.OutdatedSchemaCacheError():
                # A composite type has changed. Nothing to repeat, the statement has run.
                self._types.known.clear()
                self._types.settings.clear_type_cache()
                self._forget_statements()
        return UnreadableAnswer(
            f"the statement ran, but its answer cannot be read: {error}",
            remedy="cast the column to text in the statement",
        )


class _RowDescription:
    """Takes the RowDescription out of what the server says: asyncpg keeps the columns' origins to itself."""

    def __init__(self) -> None:
        self._seen = bytearray()

    def __call__(self, data: bytes) -> None:
        self._seen += data

    def columns(self, attributes: Sequence[Any]) -> tuple[Column, ...]:
        """The columns of the statement described; ``attributes`` are asyncpg's, in the same order."""
        return tuple(
            Column(attribute.name, attribute.type.name, attribute.type.oid, table_oid, number)
            for attribute, (table_oid, number) in zip(attributes, self._origins(), strict=True)
        )

    def _origins(self) -> Iterator[tuple[int, int]]:
        for kind, body in _messages(self._seen):
            if kind == b"T":
                offset = 2
                for _ in range(int.from_bytes(body[:2], "big")):
                    offset = body.index(0, offset) + 1
                    yield struct.unpack_from("!Ih", body, offset)
                    offset += 18


class _CopyRefusal:
    """Answers the server when a script makes it wait for COPY's rows: there are none to come."""

    _FAIL = b"Flux sends rows with copy_records, not with COPY ... FROM STDIN\x00"

    def __init__(self, wire: _Wire) -> None:
        self._wire = wire
        self._seen = bytearray()

    def __call__(self, data: bytes) -> None:
        self._seen += data
        for kind, body in _messages(self._seen):
            del self._seen[: 5 + len(body)]
            if kind == b"G":  # CopyInResponse
                self._wire.write(b"f" + struct.pack("!i", 4 + len(self._FAIL)) + self._FAIL)


def _messages(data: bytes | bytearray) -> list[tuple[bytes, bytes]]:
    """The whole messages at the start of ``data``: kind and body."""
    messages, offset = [], 0
    while len(data) - offset >= 5:
        end = offset + 1 + int.from_bytes(data[offset + 1 : offset + 5], "big")
        if end > len(data):
            break
        messages.append((bytes(data[offset : offset + 1]), bytes(data[offset + 5 : end])))
        offset = end
    return messages


class _CopyFeed:
    """Hands COPY its records, and waits while the socket is full.

    asyncpg ends a COPY properly when its source raises an ``Exception``. Cancellation is none, so it is
    carried through as one, and raised again when the COPY is over.
    """

    def __init__(self, wire: _Wire, records: Iterable[Sequence[object]]) -> None:
        self._wire = wire
        self._records = iter(records)
        self.count = 0
        """Records handed out."""
        self.interruption: BaseException | None = None
        """What ended the source: cancellation, or an error of the caller's own iterator."""

    def __aiter__(self) -> "_CopyFeed":
        return self

    async def __anext__(self) -> Sequence[object]:
        try:
            if len(self._wire.outgoing) > SEND_QUEUE_BYTES_MAX:
                await self._wire.flush(SEND_QUEUE_BYTES_LOW)
            record = next(self._records)
        except StopIteration:
            raise StopAsyncIteration from None
        except BaseException as error:
            self.interruption = error
            raise _CopyInterrupted from error
        self.count += 1
        return record


class _CopyInterrupted(Exception):
    """Stands for `_CopyFeed.interruption` while asyncpg ends the COPY."""


def _is_about_arguments(error: Exception) -> bool:
    """Whether asyncpg, and not the server, refused the arguments: it uses one class for both."""
    return isinstance(error, asyncpg.InterfaceError) or getattr(error, "severity", None) is None


def _report_of(error: asyncpg.PostgresError) -> Notice:
    position = getattr(error, "position", None)
    return Notice(
        severity=getattr(error, "severity_en", None) or getattr(error, "severity", None) or "ERROR",
        sqlstate=error.sqlstate or "",
        message=str(error.args[0]),
        detail=error.detail,
        hint=error.hint,
        position=int(position) if position else None,
        where=error.context,
        schema=error.schema_name,
        table=error.table_name,
        column=error.column_name,
        data_type=error.data_type_name,
        constraint=error.constraint_name,
        routine=error.server_source_function,
    )


def quote_identifier(name: str) -> str:
    """``name`` as SQL writes it whatever it holds; Postgres allows anything but a zero byte."""
    return '"' + name.replace('"', '""') + '"'


# Connecting.

_REMEDIES = {
    "28P01": "check the password in the database URL",
    "28000": "check the user's name, and whether pg_hba.conf lets it in from here (with or without TLS)",
    "3D000": "create it (createdb), or name another one in the database URL",
    "53300": "close other clients, or raise max_connections in postgresql.conf",
    "57P03": "try again in a moment: the server is starting up, or shutting down",
}


async def connect(options: ConnectOptions) -> Connection:
    """Open a connection; `CannotConnect` says why that failed and what to do."""
    with trio.move_on_after(options.connect_timeout_s):
        try:
            sock, tls = await _open_socket(options)
            wire = _Wire(sock, tls, options)
            await wire.start(options)
            return Connection(wire)
        except asyncpg.ConnectionDoesNotExistError as error:
            raise CannotConnect(
                f"{options.place}: the server hung up during log-in"
                + (f": {error.__cause__}" if error.__cause__ else ""),
                remedy="look into the server's log; if it wants TLS, use sslmode=require",
            ) from None
        except asyncpg.PostgresError as error:
            raise CannotConnect(
                f"{options.place}: {error.args[0]}",
                remedy=_REMEDIES.get(error.sqlstate or "", "look into the server's log"),
                sqlstate=error.sqlstate,
            ) from None
        except (asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
            raise CannotConnect(
                f"{options.place}: log-in failed: {error}",
                remedy="use password, md5 or scram-sha-256 for this user in pg_hba.conf",
            ) from error
        except ssl.SSLError as error:
            raise CannotConnect(
                f"{options.place}: TLS failed: {error}",
                remedy="check sslmode, the host's name in the certificate, and sslrootcert in the database URL",
            ) from error
        except OSError as error:
            raise CannotConnect(
                f"{options.place}: not reached: {_why(error)}",
                remedy="start the server there, or correct host and port in the database URL",
            ) from error
    raise CannotConnect(
        f"{options.place}: no answer in {options.connect_timeout_s:g} s",
        remedy="check host, port and firewall; connect_timeout in the database URL waits longer",
    )


def _why(error: OSError) -> str:
    """The reasons behind trio's "all attempts to connect failed"."""
    causes = getattr(error.__cause__, "exceptions", None) or [error.__cause__ or error]
    return "; ".join(dict.fromkeys(str(cause) for cause in causes))


# The pool.


@attrs.frozen
class PoolCounts:
    """What a pool has at one moment."""

    open: int
    """Connections open, in use or idle."""

    idle: int
    """Connections open and in nobody's hands."""

    waiting: int
    """Tasks that wait for a connection."""


class Pool:
    """Connections to share: at most ``size``, opened when wanted, handed out first come, first served.

    What comes back is settled first: an open transaction is rolled back, a dirty session reset, both
    shielded; a connection for which that fails is closed. One whose server died is noticed when it is
    next taken, and replaced. A pool has no task of its own; who wants ``min_idle`` connections open
    ahead of time and those idle for ``max_idle_s`` closed without traffic, runs `keep` in a nursery.
    """

    def __init__(
        self,
        options: ConnectOptions,
        size: int,
        *,
        min_idle: int = 0,
        max_idle_s: float = 600.0,
        on_connect: Callable[[Connection], Awaitable[None]] | None = None,
        reset: bool = True,
    ) -> None:
        self.options = options
        self.size = size
        self._min_idle = min_idle
        self._max_idle_s = max_idle_s
        self._on_connect = on_connect
        self._reset = reset
        self._slots = trio.Semaphore(size, max_value=size)
        self._idle: deque[tuple[float, Connection]] = deque()
        self._open_count = 0
        self._is_closed = False

    @property
    def counts(self) -> PoolCounts:
        """How many connections there are, and how many tasks wait for one."""
        return PoolCounts(self._open_count, len(self._idle), self._slots.statistics().tasks_waiting)

    def acquire(self) -> "_Lease":
        """``async with pool.acquire() as connection``: yours until the block ends."""
        return _Lease(self)

    async def take(self) -> Connection:
        """A connection, to be handed back with `give_back`; `acquire` does both."""
        try:
            self._slots.acquire_nowait()
        except trio.WouldBlock:
            await self._slots.acquire()
        try:
            while True:
                if self._is_closed:
                    raise PoolClosed("the pool is closed", remedy="this happens while Flux shuts down")
                if not self._idle:
                    return await self._open()
                # The one used last: its server process is warm, and the others may grow old.
                _, connection = self._idle.pop()
                if connection.check_alive():
                    return connection
                self._open_count -= 1
        except BaseException:
            self._slots.release()
            raise

    async def give_back(self, connection: Connection) -> None:
        """Settle ``connection`` and keep it for the next, or close it."""
        try:
            await connection.settle()
            if connection.is_dirty and self._reset:
                await self._reset_or_close(connection)
        finally:
            connection.on_notice = None
            if self._is_closed:
                connection.terminate()
            if connection.is_closed:
                self._open_count -= 1
            else:
                self._idle.append((trio.current_time(), connection))
            self._slots.release()
            self._trim()

    async def keep(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep ``min_idle`` connections open, and close those idle for too long, until cancelled."""
        while not self._is_closed:
            self._trim()
            while len(self._idle) < self._min_idle and self._open_count < self.size and not self._is_closed:
                await self.give_back(await self._open_in_slot())
            task_status.started()
            task_status = trio.TASK_STATUS_IGNORED
            await trio.sleep(min(self._max_idle_s / 2, 30.0))

    async def aclose(self) -> None:
        """Close what is idle now, and the rest when it comes back; who waits gets `PoolClosed`."""
        self._is_closed = True
        while self._idle:
            self._close(self._idle.popleft()[1])
        await trio.lowlevel.checkpoint()

    async def _open_in_slot(self) -> Connection:
        await self._slots.acquire()
        try:
            return await self._open()
        except BaseException:
            self._slots.release()
            raise

    async def _open(self) -> Connection:
        self._open_count += 1
        try:
            connection = await connect(self.options)
        except BaseException:
            self._open_count -= 1
            raise
        try:
            if self._on_connect is not None:
                await self._on_connect(connection)
                connection.is_dirty = False
        except BaseException:
            self._close(connection)
            raise
        return connection

    async def _reset_or_close(self, connection: Connection) -> None:
        deadline = trio.current_time() + CANCEL_GRACE_S
        with trio.CancelScope(shield=True, deadline=deadline) as scope:
            try:
                if not connection.is_closed:
                    await connection.reset()
            except (DatabaseError, ConnectionLost):
                connection.terminate()  # A session in an unknown state is worth less than a new one.
        if scope.cancelled_caught:
            connection.terminate()

    def _trim(self) -> None:
        oldest_wanted = trio.current_time() - self._max_idle_s
        while len(self._idle) > self._min_idle and self._idle[0][0] < oldest_wanted:
            self._close(self._idle.popleft()[1])

    def _close(self, connection: Connection) -> None:
        connection.terminate()
        self._open_count -= 1


class _Lease:
    """A connection on loan. Written as a class: ``asynccontextmanager`` costs as much as a third of a query."""

    __slots__ = ("_connection", "_pool")

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def __aenter__(self) -> Connection:
        self._connection = await self._pool.take()
        return self._connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._pool.give_back(self._connection)
