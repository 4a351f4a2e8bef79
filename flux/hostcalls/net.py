"""``net``: the sockets that libraries in functions believe they have.

`ctx.http` says what it wants in one call. A library that nobody wrote for Flux
opens a socket, sends bytes and waits for others; the guest's SDK turns each of these
into one of the calls here. So they meet the same walls as ``http.request``: a grant
must cover host and port, the name is resolved here and nowhere else, every address is
judged, and the connection goes to what was judged (`flux.hostcalls.http_network`).

A grant speaks of http and https. For a socket, "http" is what travels in the open and
"https" what travels under TLS, which the host ends: where only the latter is granted,
nothing may be sent before `net.tls` has succeeded.

This file is where a guest's arguments become actions and failures become what the guest
sees raised; bytes are moved in `flux.hostcalls.net_connection`.
"""

import contextlib
import math
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import attrs
import trio

from flux import values
from flux.grants import Grants, InvalidHostError, Origin, normalise_host
from flux.hostcall import Effect
from flux.hostcalls.base import CallContext, HostCallFailed, HostCallKind, check_arguments
from flux.hostcalls.http_addresses import check_address
from flux.hostcalls.http_client import HttpClient
from flux.hostcalls.http_outbound import DEFAULT_TIMEOUT_S, LimitSource, OutboundError
from flux.hostcalls.net_connection import (
    CONNECTIONS_MAX,
    ConnectionBrokenError,
    Connections,
    NetConnection,
    TlsRefusedError,
    TooMuchError,
)
from flux.hostcalls.net_tls import (
    ALPN_MAX,
    AUTHORITIES_BYTES_MAX,
    AUTHORITIES_MAX,
    BadAuthoritiesError,
    describe_tls,
)

SEND_BYTES_MAX = 1 << 20
"""Of one ``net.send``."""
TIMEOUT_S_MAX = 86_400
RECEIVE_BYTES_MAX = 1 << 20
"""Of one ``net.recv``."""

_ERRORS = {
    "refused_grant": ("GrantRefused", "FLX402"),
    "private_address": ("GrantRefused", "FLX403"),
    "resolve": ("NetResolveError", "FLX406"),
    "connect": ("NetConnectError", "FLX407"),
}
"""Name that the guest sees raised, and code, of each kind of `OutboundError` that connecting can have."""

_HEAD = re.compile(rb"[A-Z]{1,32} [^ \r\n]+ HTTP/1\.[01]\r\n")
_HANDLE = b"flux-secret:"


Answer = TypeVar("Answer")


@attrs.frozen
class _Attempt:
    """Something that waits for the world: with whom, and for how long."""

    host: str
    port: int
    what: str
    """Half a sentence: ``connecting to db.example.com:5432``."""
    limit_s: float | None = None
    """None: as long as the function itself may run."""
    source: LimitSource | None = None
    """Whose limit it is."""
    started_ns: int = attrs.field(factory=time.perf_counter_ns)

    def failed(self, name: str, code: str, message: str, **more: object) -> HostCallFailed:
        """Return what the guest sees raised, with what ``flux why`` explains it by."""
        details = {
            "host": self.host,
            "port": self.port,
            "limit_s": self.limit_s,
            "limit_source": self.source,
            "elapsed_ms": round((time.perf_counter_ns() - self.started_ns) / 1e6, 3),
            **more,
        }
        return HostCallFailed(name, message, code=code, details=details)

    async def run(self, action: Callable[[], Awaitable[Answer]]) -> Answer:
        """Return what ``action`` does; raise `HostCallFailed` when it fails or takes too long."""
        try:
            with trio.move_on_after(math.inf if self.limit_s is None else self.limit_s):
                return await action()
        except OutboundError as error:
            raise self.failed(*_ERRORS[error.kind], error.message) from error
        except ConnectionBrokenError as error:
            raise self.failed("NetBroken", "FLX440", str(error)) from error
        except TooMuchError as error:
            raise self.failed("NetTooMuch", "FLX441", str(error)) from error
        except TlsRefusedError as error:
            raise self.failed("NetTlsError", "FLX408", str(error), certificate=error.certificate) from error
        # Nothing else leaves the block without a word than its deadline.
        waited = f"{(self.limit_s or 0) * 1000:,.0f} ms"
        raise self.failed("NetTimeout", "FLX409", f"{self.what} took longer than {waited}")


# --- the calls -------------------------------------------------------------------------------------


async def _open(context: CallContext, arguments: list[object], _seq: int) -> object:
    check_arguments("net.open", arguments, str, int, _SECONDS)
    host_text, port, timeout_s = str(arguments[0]), arguments[1], _read_timeout("net.open", arguments[2])
    limit_s, source = _limit_setting_up(context, timeout_s)
    attempt = _Attempt(host_text[:255], _as_port(port), f"connecting to {host_text[:255]!r}", limit_s, source)
    host = _read_host(host_text, attempt)
    if not 0 < attempt.port < 65536:
        raise attempt.failed("NetInvalidAddress", "FLX404", f"{port} is no port to connect to")
    attempt = attrs.evolve(attempt, host=host, what=f"connecting to {_authority(host, attempt.port)}")
    origin = _find_granted(context.grants, host, attempt.port)
    if origin is None:
        authority = _authority(host, attempt.port)
        message = (
            f'{authority} is not granted to this function: add "{authority}" to its http list in flux.toml'
        )
        raise attempt.failed("GrantRefused", "FLX402", message)
    connections, network = _connections(context), _client(context).network

    async def connect() -> NetConnection:
        connections.reserve()
        try:
            opened = await network.connect(
                origin, tenant=context.tenant, grants=context.grants, tell_phase=lambda _phase: None
            )
        except BaseException:
            connections.give_back()
            raise
        handle = connections.make_handle(host, origin.port)
        open_allowed = origin.scheme == "http"
        connection = NetConnection(handle, host, origin.port, opened.wire, open_allowed=open_allowed)
        connections.add(connection)
        return connection

    connection = await attempt.run(connect)
    return {"connection": connection.handle, "address": connection.wire.address}


async def _tls(context: CallContext, arguments: list[object], _seq: int) -> object:
    check_arguments("net.tls", arguments, str, dict, _SECONDS)
    connection = await _find(context, "net.tls", arguments)
    limit_s, source = _limit_setting_up(context, _read_timeout("net.tls", arguments[2]))
    authority = _authority(connection.host, connection.port)
    attempt = _Attempt(connection.host, connection.port, f"agreeing on TLS with {authority}", limit_s, source)
    asked = _read_tls_options(arguments[1])
    name = connection.host if asked.server_name is None else _read_host(asked.server_name, attempt)
    # The name is who answers: a server of many names answers as whoever it is asked for.
    for host in dict.fromkeys((connection.host, name)):
        if context.grants.find(Origin("https", host, connection.port)) is None:
            message = (
                f"TLS with {_authority(host, connection.port)} is not granted to this function: "
                f'add "https://{_authority(host, connection.port)}" to its http list in flux.toml'
            )
            raise attempt.failed("GrantRefused", "FLX402", message)
    if connection.tls is not None:
        raise _invalid("net.tls", f"{connection.handle} is under TLS already")
    client = _client(context)

    async def agree() -> object:
        # Where an address was written out for http only, it was not for https.
        check_address(
            str(connection.address), Origin("https", connection.host, connection.port), context.grants
        )
        if asked.authorities:
            _connections(context).count_authorities()
        tls_context = await client.tls_contexts.get(
            client.ca_file, asked.protocols, asked.authorities, system=asked.system, tenant=context.tenant
        )
        with _receiving(connection, "net.tls"):
            return describe_tls(await connection.start_tls(tls_context, name))

    try:
        return await attempt.run(agree)
    except BadAuthoritiesError as error:
        raise _invalid("net.tls", str(error)) from error
    except HostCallFailed as failed:
        if failed.error.name == "NetTlsError" and not asked.verify:
            message = f"{failed.error.message}; the function asked not to verify it, and Flux always does"
            raise attempt.failed("NetTlsError", "FLX408", message, certificate=True) from failed
        raise


async def _send(context: CallContext, arguments: list[object], _seq: int) -> object:
    check_arguments("net.send", arguments, str, (str, bytes), _SECONDS)
    connection = await _find(context, "net.send", arguments)
    attempt = _attempt_of(connection, "sending to", _read_timeout("net.send", arguments[2]))
    data = arguments[1]
    if isinstance(data, str):
        data = data.encode("utf-8", "surrogatepass")
    assert isinstance(data, bytes)
    if len(data) > SEND_BYTES_MAX:
        raise _invalid("net.send", f"{len(data):,} bytes at once; {SEND_BYTES_MAX:,} are allowed")
    if connection.tls is None and not connection.open_allowed:
        authority = _authority(connection.host, connection.port)
        message = f"{authority} is granted under TLS only, and this connection is in the open"
        raise attempt.failed("GrantRefused", "FLX402", message)
    whole = _substitute(context, data, attempt)

    async def send() -> None:
        _connections(context).count_sent(len(whole))
        await connection.send(whole)

    await attempt.run(send)
    return None


async def _recv(context: CallContext, arguments: list[object], _seq: int) -> object:
    check_arguments("net.recv", arguments, str, int, _SECONDS)
    connection = await _find(context, "net.recv", arguments)
    bytes_max, timeout_s = arguments[1], _read_timeout("net.recv", arguments[2])
    if type(bytes_max) is not int or not 0 < bytes_max <= RECEIVE_BYTES_MAX:
        raise _invalid("net.recv", f"from 1 to {RECEIVE_BYTES_MAX:,} bytes are received at once")
    at_once = timeout_s == 0
    attempt = _attempt_of(connection, "waiting for bytes from", None if at_once else timeout_s)

    async def receive() -> bytes | None:
        with _receiving(connection, "net.recv"):
            if at_once:
                data = await connection.receive_now(bytes_max)
            else:
                data = await connection.receive(bytes_max)
        _connections(context).count_received(len(data or b""))
        return data

    data = await attempt.run(receive)
    return None if data is None else values.text_or_bytes(data)


async def _poll(context: CallContext, arguments: list[object], _seq: int) -> object:
    check_arguments("net.poll", arguments, list, _SECONDS)
    handles, timeout_s = arguments[0], _read_timeout("net.poll", arguments[1])
    assert isinstance(handles, list)
    if not handles or len(handles) > CONNECTIONS_MAX or not all(isinstance(one, str) for one in handles):
        raise _invalid("net.poll", f"takes a list of 1 to {CONNECTIONS_MAX} connections")
    found = [await _find(context, "net.poll", [handle]) for handle in dict.fromkeys(handles)]
    ready: list[object] = []

    async def look() -> bool:
        for connection in found:
            try:
                await connection.hear_now()
            except ConnectionBrokenError:
                ready.append(connection.handle)  # Who receives will hear of it.
                continue
            if connection.has_something():
                ready.append(connection.handle)
        return bool(ready)

    with contextlib.ExitStack() as all_of_them:
        for connection in found:
            all_of_them.enter_context(_receiving(connection, "net.poll"))
        if await look() or timeout_s == 0:
            return ready
        with trio.move_on_after(math.inf if timeout_s is None else timeout_s):
            while True:
                await _wait_any(found)
                if await look():  # Under TLS, something may have come that says nothing to the function.
                    break
    return ready


async def _wait_any(connections: list[NetConnection]) -> None:
    async with trio.open_nursery() as nursery:

        async def wait(connection: NetConnection) -> None:
            with contextlib.suppress(
                trio.ClosedResourceError
            ):  # The function's doing; looking at it says so.
                await connection.wire.wait_readable()
            nursery.cancel_scope.cancel()

        for connection in connections:
            nursery.start_soon(wait, connection)


async def _shutdown(context: CallContext, arguments: list[object], _seq: int) -> object:
    check_arguments("net.shutdown", arguments, str)
    connection = await _find(context, "net.shutdown", arguments)
    await _attempt_of(connection, "ending what is sent to", None).run(connection.end_sending)
    return None


async def _close(context: CallContext, arguments: list[object], _seq: int) -> object:
    check_arguments("net.close", arguments, str)
    _connections(context).close(str(arguments[0]))
    return None


OPEN = HostCallKind(name="net.open", effect=Effect.LEAVES, perform=_open)
"""Takes host, port and a time limit; returns ``{connection, address}``."""

TLS = HostCallKind(name="net.tls", effect=Effect.LEAVES, perform=_tls)
"""Takes a connection, options and a time limit; goes on under TLS and says what was agreed."""

SEND = HostCallKind(name="net.send", effect=Effect.LEAVES, perform=_send)
"""Takes a connection, bytes and a time limit; returns when all of them are on their way."""

RECV = HostCallKind(name="net.recv", effect=Effect.LEAVES, perform=_recv)
"""Takes a connection, how much at most and a time limit; returns what has come, nothing at the end."""

POLL = HostCallKind(name="net.poll", effect=Effect.LEAVES, perform=_poll)
"""Takes connections and a time limit; returns those of which something could be received."""

SHUTDOWN = HostCallKind(name="net.shutdown", effect=Effect.LEAVES, perform=_shutdown)
"""Takes a connection; tells the other end that nothing more will come."""

CLOSE = HostCallKind(name="net.close", effect=Effect.LEAVES, perform=_close, immediate=True)
"""Takes a connection and closes it; one that is closed stays so."""


# --- arguments -------------------------------------------------------------------------------------

_SECONDS = (int, float, type(None))


@attrs.frozen
class _TlsAsked:
    server_name: str | None
    protocols: tuple[str, ...]
    verify: bool
    authorities: tuple[bytes, ...]
    system: bool


_TLS_OPTIONS = frozenset({"server_name", "alpn", "verify", "authorities", "system"})


def _read_tls_options(options: object) -> _TlsAsked:
    assert isinstance(options, dict)
    unknown = sorted(str(key) for key in options.keys() - _TLS_OPTIONS)
    if unknown:
        raise _invalid(
            "net.tls", f"no option is called {unknown[0]!r}; there are {', '.join(sorted(_TLS_OPTIONS))}"
        )
    name = options.get("server_name")
    if name is not None and not isinstance(name, str):
        raise _invalid("net.tls", "server_name is text or null")
    protocols = options.get("alpn", [])
    if not (isinstance(protocols, list) and len(protocols) <= ALPN_MAX and all(map(_is_protocol, protocols))):
        raise _invalid("net.tls", f"alpn is a list of at most {ALPN_MAX} names of protocols")
    authorities = options.get("authorities", [])
    if not (isinstance(authorities, list) and all(isinstance(one, bytes) for one in authorities)):
        raise _invalid("net.tls", "authorities is a list of certificates, each bytes in DER")
    if len(authorities) > AUTHORITIES_MAX or sum(map(len, authorities)) > AUTHORITIES_BYTES_MAX:
        raise _invalid(
            "net.tls", f"more than {AUTHORITIES_MAX} authorities, or {AUTHORITIES_BYTES_MAX:,} bytes"
        )
    verify, system = options.get("verify", True), options.get("system", True)
    if not isinstance(verify, bool) or not isinstance(system, bool):
        raise _invalid("net.tls", "verify and system are true or false")
    return _TlsAsked(name, tuple(protocols), verify, tuple(authorities), system)


def _is_protocol(value: object) -> bool:
    return isinstance(value, str) and value.isascii() and 0 < len(value) < 64


def _read_timeout(name: str, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= TIMEOUT_S_MAX:
        raise _invalid(name, f"a time limit is a number of seconds from 0 to {TIMEOUT_S_MAX:,}, or null")
    return float(value)


def _as_port(value: object) -> int:
    return value if type(value) is int else 0


def _read_host(text: str, attempt: _Attempt) -> str:
    """Return the one spelling of a host; raise `HostCallFailed` when it has none."""
    bracketed = f"[{text}]" if ":" in text else text
    try:
        return normalise_host(bracketed)
    except InvalidHostError as error:
        message = f"the host {text[:80]!r} is refused: {error}"
        raise attempt.failed("NetInvalidAddress", "FLX404", message) from error


def _invalid(name: str, problem: str) -> HostCallFailed:
    return HostCallFailed("InvalidArguments", f"{name}: {problem}", code="FLX425")


# --- what they have in common ------------------------------------------------------------------------


def _client(context: CallContext) -> HttpClient:
    client = context.http
    assert isinstance(client, HttpClient)
    return client


def _connections(context: CallContext) -> Connections:
    if context.connections is None:
        context.connections = Connections(_client(context).held, context.tenant)
    assert isinstance(context.connections, Connections)
    return context.connections


async def _find(context: CallContext, name: str, arguments: list[object]) -> NetConnection:
    handle = str(arguments[0])
    connection = _connections(context).find(handle)
    if connection is None:
        # Closed a moment ago, by a function that has given up this call as well: then it was cancelled.
        await trio.lowlevel.checkpoint_if_cancelled()
        raise HostCallFailed(
            "NetBroken",
            f"{name}: no connection {handle[:300]!r} is open",
            code="FLX440",
            details={"host": "", "port": 0},
        )
    return connection


@contextlib.contextmanager
def _receiving(connection: NetConnection, name: str) -> Iterator[None]:
    """Two who receive would each get parts of what comes."""
    if connection.receiving:
        raise _invalid(name, f"{connection.handle} is being received from already")
    connection.receiving = True
    try:
        yield
    finally:
        connection.receiving = False


def _attempt_of(connection: NetConnection, doing: str, timeout_s: float | None) -> _Attempt:
    what = f"{doing} {_authority(connection.host, connection.port)}"
    source: LimitSource | None = None if timeout_s is None else "call"
    return _Attempt(connection.host, connection.port, what, timeout_s, source)


def _limit_setting_up(context: CallContext, timeout_s: float | None) -> tuple[float, LimitSource]:
    if timeout_s is not None:
        return timeout_s, "call"
    if context.limits.timeout_s < DEFAULT_TIMEOUT_S:
        return context.limits.timeout_s, "function"
    return DEFAULT_TIMEOUT_S, "default"


def _find_granted(grants: Grants, host: str, port: int) -> Origin | None:
    """Return how ``host:port`` may be spoken to: in the open, else under TLS only, else not at all."""
    for scheme in ("http", "https"):
        origin = Origin(scheme, host, port)
        if grants.find(origin) is not None:
            return origin
    return None


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _substitute(context: CallContext, data: bytes, attempt: _Attempt) -> bytes:
    """Put the values of secrets in the place of their handles, in the head of an HTTP request.

    A body's length is said before it, so a handle in one can't be replaced any more; sending it as it is would
    be a secret that never arrives, and nobody would know why.
    """
    if _HANDLE not in data:
        return data
    head, blank, rest = data.partition(b"\r\n\r\n") if _HEAD.match(data) else (b"", b"", data)
    if context.secrets.substitute(rest) != rest:
        message = (
            "a secret's handle stands where its value can't be put in its place: over a library's own connection "
            "only in the headers of a request; use ctx.secrets.reveal for this one"
        )
        raise attempt.failed("NetSecretMisplaced", "FLX405", message)
    lines = head.split(b"\r\n")
    replaced = [context.secrets.substitute(line) for line in lines]
    if any(b"\r" in line or b"\n" in line for line in replaced):
        message = "the secret in a header has a line break, which headers can't carry"
        raise attempt.failed("NetSecretMisplaced", "FLX405", message)
    return b"\r\n".join(replaced) + blank + rest
