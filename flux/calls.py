"""What a recorded host call says: a statement and its rows, a request and its answer.

A `HostCall` holds bytes. Whoever explains, lists or shows calls needs what is in
them, and needs it of records that may be cut, old or written by a guest that
lies. So the readers here never raise for what a record holds: a call of another
kind is None, a part that can't be read is None or empty, and the reader of the
answer says that it is not known instead of making something up.

Values keep their tags (``{"$bytes": ...}``): they are for showing and comparing.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import attrs
import msgspec

from flux import values
from flux.grants import DEFAULT_PORTS, InvalidHostError, normalise_host
from flux.hostcall import HostCall, HostCallError

CANCELLED = "Cancelled"
"""Name of the error that answers a call which the guest itself gave up."""


@attrs.frozen
class HttpCall:
    """An outbound request and what came of it."""

    method: str
    """Of what a library's connection did, the call's name: ``net.recv``."""
    url: str
    """As the function wrote it, query included: show `url_shown`."""
    host: str
    """Who answered or failed: ``host``, or ``host:port`` when the port is not the scheme's own."""
    status: int | None
    """Status of the answer; None when there was none."""
    body: object
    """Body of the answer: text, or tagged bytes; None when there was no answer."""
    timeout_s: float | None
    """The limit that the call itself set."""
    has_idempotency_key: bool
    """Whether the request had an Idempotency-Key header."""

    @property
    def url_shown(self) -> str:
        """The URL without its query: queries carry keys and names."""
        return self.url.partition("?")[0].partition("#")[0]


@attrs.frozen
class StatementCall:
    """A statement and its answer."""

    sql: str
    arguments: tuple[object, ...]
    columns: tuple[str, ...]
    """Names of the answer's columns; empty without an answer."""
    rows: tuple[Sequence[object], ...] | None
    """Rows of the answer; None for ``db.execute`` and without an answer."""
    affected: int | None
    """Rows affected, for ``db.execute``; else None."""
    tag: str
    """The command tag, e.g. ``SELECT 0``."""


def read_json(data: bytes) -> Any:
    """Return ``data`` as JSON with its tags, or None when it is none."""
    try:
        return values.decode_json(data)
    except values.ValueFormatError:
        return None


def read_details(error: HostCallError) -> Mapping[str, Any]:
    """Return what is known beyond the error's message."""
    details = read_json(error.details)
    return details if isinstance(details, dict) else {}


def find_error(call: HostCall) -> HostCallError | None:
    """Return the error that the guest saw raised, or None."""
    return None if call.result is None else call.result.error


class _Answered(msgspec.Struct):
    """As much of an outbound request's answer as tells whether it is a failure. The body stays unread."""

    status: object = None


_answered_decoder = msgspec.json.Decoder(_Answered)


def read_status(call: HostCall) -> int | None:
    """Return the status that the outbound request ``call`` was answered with; None without one, or of another call."""
    if call.request.name != "http.request" or call.result is None or call.result.error is not None:
        return None
    try:
        status = _answered_decoder.decode(call.result.value).status
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
    return status if type(status) is int else None


def read_http(call: HostCall) -> HttpCall | None:
    """Return the outbound request that ``call`` is, or None when it is something else."""
    if call.request.name != "http.request":
        return None
    arguments = read_json(call.request.arguments)
    if not (isinstance(arguments, list) and len(arguments) == 3 and isinstance(arguments[1], str)):
        return None
    method, url, options = arguments
    if not isinstance(options, dict):
        options = {}
    status, body = read_status(call), None
    error = find_error(call)
    host = find_host(url)
    if error is not None:
        host = _host_of_error(error, url) or host
    elif call.result is not None:
        answer = read_json(call.result.value)
        if isinstance(answer, dict):
            body = answer.get("body")
            host = find_host(str(answer.get("url"))) or host
    timeout_s = options.get("timeout_s")
    headers = options.get("headers")
    names = [
        pair[0].lower()
        for pair in (headers if isinstance(headers, list) else [])
        if isinstance(pair, list) and pair and isinstance(pair[0], str)
    ]
    return HttpCall(
        method=method if isinstance(method, str) else "?",
        url=url,
        host=host,
        status=status,
        body=body,
        timeout_s=timeout_s if type(timeout_s) in (int, float) else None,
        has_idempotency_key="idempotency-key" in names,
    )


def read_net(call: HostCall) -> HttpCall | None:
    """Return what ``call`` did with a connection of a library's, in the same terms, or None for anything else."""
    if not call.request.name.startswith("net."):
        return None
    arguments = read_json(call.request.arguments)
    if not isinstance(arguments, list) or not arguments:
        return None
    named = arguments[0][0] if isinstance(arguments[0], list) and arguments[0] else arguments[0]
    if not isinstance(named, str):
        return None
    if call.request.name == "net.open":
        port = arguments[1] if len(arguments) > 1 and type(arguments[1]) is int else ""
        named = f"[{named}]:{port}" if ":" in named else f"{named}:{port}"
    authority = named.rpartition("#")[0] or named
    _host, colon, port = authority.rpartition(":")
    shown = find_host(f"net://{authority}")
    timeout_s = arguments[-1]
    return HttpCall(
        method=call.request.name,
        url=authority,
        host=shown.removesuffix(f":{port}") if colon and port in ("80", "443") else shown,
        status=None,
        body=None,
        timeout_s=timeout_s if type(timeout_s) in (int, float) else None,
        has_idempotency_key=False,
    )


def read_outbound(call: HostCall) -> HttpCall | None:
    """Return what ``call`` asked of another host: a request, or something of a library's connection; or None."""
    return read_http(call) or read_net(call)


def awaits_answer(call: HostCall, execution_calls: Sequence[HostCall]) -> bool:
    """Whether ``call`` waited for somebody who had been asked something.

    A transport of asyncio always has a ``net.recv`` in flight, also while nobody wants anything from the other end.
    It waits for an answer if something was sent over its connection since the last one came.
    """
    if call.request.name != "net.recv":
        return read_outbound(call) is not None
    handle = _read_handle(call)
    same = [one for one in execution_calls if one is not call and _read_handle(one) == handle]
    heard_ns = [
        one.started_ns + one.result.elapsed_ns
        for one in same
        if one.request.name == "net.recv" and one.result is not None and one.result.error is None
    ]
    said_ns = [one.started_ns for one in same if one.request.name in ("net.send", "net.tls")]
    return not heard_ns or max(said_ns, default=-1) >= max(heard_ns)


def _read_handle(call: HostCall) -> object:
    arguments = read_json(call.request.arguments) if call.request.name.startswith("net.") else None
    return arguments[0] if isinstance(arguments, list) and arguments else None


def find_function(call: HostCall) -> str | None:
    """Return the function that ``call`` pushed a job for or invoked, or None when it did neither."""
    if call.request.name not in ("queue.push", "invoke"):
        return None
    arguments = read_json(call.request.arguments)
    return arguments[0] if isinstance(arguments, list) and arguments and isinstance(arguments[0], str) else None


def find_host(url: str) -> str:
    """Return ``host`` or ``host:port`` of a URL in its one spelling; empty when it has none."""
    try:
        parts = urlsplit(url)
        port = parts.port
        host = parts.hostname or ""
        host = normalise_host(f"[{host}]" if ":" in host else host)
    except (ValueError, InvalidHostError):
        return ""
    return _with_port(host, port, parts.scheme)


def _host_of_error(error: HostCallError, url: str) -> str:
    """Return the host of the hop that failed: after a redirect it is not the URL's."""
    details = read_details(error)
    host, port = details.get("host"), details.get("port")
    if not isinstance(host, str) or not host:
        return ""
    scheme = url.partition(":")[0].lower()
    if type(port) is int and port in DEFAULT_PORTS.values() and host != _host_alone(url):
        port = None  # A redirect's hop has a scheme of its own, which no error tells.
    return _with_port(host, port if type(port) is int else None, scheme)


def _host_alone(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _with_port(host: str, port: int | None, scheme: str) -> str:
    bracketed = f"[{host}]" if ":" in host else host
    return bracketed if port in (None, 0, DEFAULT_PORTS.get(scheme)) else f"{bracketed}:{port}"


def read_statement(call: HostCall) -> StatementCall | None:
    """Return the statement that ``call`` ran, or None when it ran none."""
    if call.request.name not in ("db.query", "db.execute"):
        return None
    arguments = read_json(call.request.arguments)
    if not (isinstance(arguments, list) and arguments and isinstance(arguments[0], str)):
        return None
    parameters = arguments[1] if len(arguments) > 1 and isinstance(arguments[1], list) else []
    answer = read_json(call.result.value) if call.result is not None and call.result.error is None else None
    if not isinstance(answer, dict):
        answer = {}
    columns, rows, affected, tag = (answer.get(key) for key in ("columns", "rows", "affected", "tag"))
    return StatementCall(
        sql=arguments[0],
        arguments=tuple(parameters),
        columns=tuple(str(column) for column in columns) if isinstance(columns, list) else (),
        rows=tuple(row for row in rows if isinstance(row, list)) if isinstance(rows, list) else None,
        affected=affected if type(affected) is int else None,
        tag=tag if isinstance(tag, str) else "",
    )
