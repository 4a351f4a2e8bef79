"""Requests of many tenants over connections that are never shared between them.

The order is the security of it. For each hop, the first as well as every redirect:
the URL gets its one reading, a grant must cover its origin, only then is the name
resolved, every address judged, and the connection opened to what was judged. A
time limit stands over all of it.

`HttpClient` holds the idle connections. They are kept by tenant, grants and origin
together: a connection is somebody's, and never serves anybody else. It also
decides what may be done twice (nothing that a server could have seen, unless
asking twice is harmless) and what a redirect may carry (no credentials and no
secrets to another origin).
"""

import time
from collections import Counter, deque

import attrs
import trio

from flux.grants import Grants, Origin
from flux.hostcalls.http_exchange import AnswerHead, Connection, StaleConnectionError
from flux.hostcalls.http_network import Network
from flux.hostcalls.http_outbound import (
    BODY_HEADERS,
    CREDENTIAL_HEADERS,
    Headers,
    OutboundError,
    OutboundPolicy,
    OutboundRequest,
    OutboundResponse,
    OutboundUrl,
    Redirect,
    Substitute,
    Timings,
    check_headers,
    check_method,
    check_timeout,
    encode_carried,
    encode_headers,
    parse_location,
    parse_url,
)
from flux.hostcalls.net_tls import TlsContexts

IDLE_S_MAX = 30.0
IDLE_PER_KEY_MAX = 8
IDLE_MAX = 256
"""Idle connections kept in all; each is a file descriptor."""
CONNECTIONS_PER_TENANT_MAX = 128
"""Requests of one tenant under way at once; more wait, inside their time limit."""
REDIRECT_BODY_BYTES_MAX = 64 * 1024
"""Body of a redirect read to keep its connection; nobody sees it."""
REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})

_Key = tuple[str, Grants, str | None, Origin]


@attrs.define
class _Hop:
    """One request on its way: what to send where, and how far it came."""

    url: OutboundUrl | None
    method: str
    headers: Headers
    body: bytes = attrs.field(repr=False)
    phase: str = "starting"

    def tell_phase(self, phase: str) -> None:
        self.phase = phase


class HttpClient:
    """Makes requests for all tenants of one supervisor process."""

    def __init__(self, *, network: Network | None = None, ca_file: str | None = None) -> None:
        self.network = Network() if network is None else network
        """Who connects; ``net.open`` asks it too, so that both have the same walls."""
        self.ca_file = ca_file
        """PEM file of certificates that functions' requests trust beside the system's."""
        self.tls_contexts = TlsContexts()
        self.held: Counter[str] = Counter()
        """Connections that the functions of each tenant hold themselves: `flux.hostcalls.net`."""
        self._idle: dict[_Key, deque[Connection]] = {}
        self._idle_count = 0
        self._next_sweep_s = 0.0
        self._turns: dict[str, trio.Semaphore] = {}

    async def request(
        self, request: OutboundRequest, policy: OutboundPolicy, *, substitute: Substitute | None = None
    ) -> OutboundResponse:
        """Return the answer, or raise `OutboundError`.

        ``substitute`` replaces handles of secrets by their values, in headers and body, at the moment of
        sending; nothing that this method returns or raises has passed through it.
        """
        limit_s, limit_source = policy.timeout_s, policy.timeout_source
        if request.timeout_s is not None:
            limit_s, limit_source = request.timeout_s, "call"
        hop = _Hop(None, request.method, request.headers, request.body)
        started_ns = time.perf_counter_ns()
        try:
            check_timeout(limit_s)
            with trio.move_on_after(limit_s):
                return await self._follow(hop, request, policy, substitute, started_ns)
            where = f"{hop.method} {hop.url.without_query}" if hop.url else request.method
            waited = f"{limit_s * 1000:,.0f} ms"
            raise OutboundError("timeout", f"{where} gave no answer in {waited} ({hop.phase})")
        except OutboundError as error:
            if hop.url is not None:
                error.host, error.port = hop.url.origin.host, hop.url.origin.port
            error.limit_s, error.limit_source = limit_s, limit_source
            error.elapsed_s = (time.perf_counter_ns() - started_ns) / 1e9
            raise

    def __enter__(self) -> "HttpClient":
        return self

    def __exit__(self, *_failure: object) -> None:
        self.close_nowait()

    def close_nowait(self) -> None:
        """Close the idle connections; the client stays usable."""
        for shelf in self._idle.values():
            for connection in shelf:
                connection.close_nowait()
        self._idle.clear()
        self._idle_count = 0

    # Hops

    async def _follow(
        self,
        hop: _Hop,
        request: OutboundRequest,
        policy: OutboundPolicy,
        substitute: Substitute | None,
        started_ns: int,
    ) -> OutboundResponse:
        hop.method = check_method(request.method)
        check_headers(request.headers)
        hop.url = parse_url(request.url)
        first_origin = hop.url.origin
        redirects: list[Redirect] = []
        redirects_max = min(request.redirects, policy.redirects_max)
        while True:
            url = hop.url
            _check_grant(url, policy.grants)
            # Secrets were meant for the host that the function named, and go nowhere else.
            at_home = url.origin == first_origin
            head, body, connection = await self._exchange(
                hop, url, policy, substitute if at_home else None, follows=redirects_max > 0
            )
            location = head.find_header("location")
            if head.status not in REDIRECT_STATUSES or location is None or redirects_max == 0:
                return OutboundResponse(
                    head.status, head.headers, body, str(url), tuple(redirects), connection.address,
                    _timings(connection, head, started_ns),
                )  # fmt: skip
            if len(redirects) == redirects_max:
                raise OutboundError(
                    "redirects", f"{url.without_query} redirects again after {redirects_max} redirects"
                )
            target = parse_location(location, url)
            redirects.append(Redirect(head.status, str(url), str(target), connection.address))
            _redirect(hop, url, target, head.status, policy.grants, substitute)

    async def _exchange(
        self,
        hop: _Hop,
        url: OutboundUrl,
        policy: OutboundPolicy,
        substitute: Substitute | None,
        *,
        follows: bool,
    ) -> tuple[AnswerHead, bytes, Connection]:
        """Send one hop's request and read its answer, on a kept connection or a new one."""
        body = hop.body if substitute is None else substitute(hop.body)
        headers = encode_headers(hop.headers, url.origin, hop.method, len(body), substitute)
        key = (policy.tenant, policy.grants, policy.ca_file, url.origin)
        turns = self._turns.get(policy.tenant)
        if turns is None:
            turns = self._turns[policy.tenant] = trio.Semaphore(CONNECTIONS_PER_TENANT_MAX)
        try:
            turns.acquire_nowait()  # without a trip through the scheduler, as nearly always
        except trio.WouldBlock:
            hop.tell_phase("waiting for its turn")
            await turns.acquire()
        try:
            connection = self._find_idle(key)
            while True:
                if connection is None:
                    connection = Connection(
                        await self.network.open(
                            url.origin,
                            tenant=policy.tenant,
                            grants=policy.grants,
                            ca_file=policy.ca_file,
                            tell_phase=hop.tell_phase,
                        )
                    )
                try:
                    carried = encode_carried(policy, hop.headers, url.origin, is_private=connection.is_private)
                    head = await connection.ask(hop.method, url.target, headers + carried, body, hop.tell_phase)
                    if follows and head.status in REDIRECT_STATUSES and head.find_header("location"):
                        answer = await _discard_body(connection, hop)
                    else:
                        _check_announced_size(head, hop.method, policy.response_bytes_max)
                        answer = await connection.read_body(policy.response_bytes_max, hop.tell_phase)
                except StaleConnectionError:
                    # Only a kept connection says this, and the next one is new: once is the most.
                    connection.close_nowait()
                    connection = None
                    continue
                except BaseException:
                    connection.close_nowait()  # cancelled or broken half way: nobody else may have it
                    raise
                self._keep_idle(key, connection)
                return head, answer, connection
        finally:
            turns.release()

    # Idle connections

    def _find_idle(self, key: _Key) -> Connection | None:
        now_s = trio.current_time()
        shelf = self._idle.get(key)
        while shelf:
            connection = shelf.pop()  # the one used last is the one most likely alive
            self._idle_count -= 1
            if not shelf:
                del self._idle[key]
            if now_s - connection.idle_since_s <= IDLE_S_MAX and not connection.has_gone_stale():
                return connection
            connection.close_nowait()
        return None

    def _keep_idle(self, key: _Key, connection: Connection) -> None:
        if not connection.reusable:
            return
        if connection.idle_since_s >= self._next_sweep_s:
            self._sweep(connection.idle_since_s)
        shelf = self._idle.setdefault(key, deque())
        if len(shelf) >= IDLE_PER_KEY_MAX or self._idle_count >= IDLE_MAX:
            connection.close_nowait()
            if not shelf:
                del self._idle[key]
            return
        shelf.append(connection)
        self._idle_count += 1

    def _sweep(self, now_s: float) -> None:
        """Close what has been idle for too long; there is no task for it, requests do it in passing."""
        self._next_sweep_s = now_s + IDLE_S_MAX / 2
        for key, shelf in list(self._idle.items()):
            while shelf and now_s - shelf[0].idle_since_s > IDLE_S_MAX:
                shelf.popleft().close_nowait()
                self._idle_count -= 1
            if not shelf:
                del self._idle[key]


def _check_grant(url: OutboundUrl, grants: Grants) -> None:
    if grants.find(url.origin) is None:
        raise OutboundError(
            "refused_grant",
            f"{url.origin.scheme}://{url.origin.authority} is not granted to this function: "
            f'add "{url.origin.authority}" to its http list in flux.toml',
        )


def _redirect(
    hop: _Hop,
    source: OutboundUrl,
    target: OutboundUrl,
    status: int,
    grants: Grants,
    substitute: Substitute | None,
) -> None:
    """Turn ``hop`` into the request that a redirect asks for; raise `OutboundError` when it may not be."""
    hop.url = target  # first, so that a refusal names the host that was refused
    downgrade = source.origin.scheme == "https" and target.origin.scheme == "http"
    if downgrade and grants.find_for_downgrade(target.origin) is None:
        raise OutboundError(
            "redirects",
            f"{source.without_query} redirects from https to {target.without_query}, unencrypted: "
            f'only a grant that says "http://{target.origin.authority}" allows that',
        )
    # RFC 9110, 15.4: 303 always means "now GET that"; for 301 and 302 clients turn POST into GET.
    if (status == 303 and hop.method != "HEAD") or (status in (301, 302) and hop.method == "POST"):
        hop.method, hop.body = "GET", b""
        hop.headers = tuple((name, value) for name, value in hop.headers if name.lower() not in BODY_HEADERS)
    if source.origin == target.origin:
        return
    if substitute is not None and substitute(hop.body) != hop.body:
        raise OutboundError(
            "redirects",
            f"{source.without_query} redirects to {target.origin.authority} a body that holds a secret: "
            "secrets go to the host that the function named, and to no other",
        )
    hop.headers = tuple(
        (name, value)
        for name, value in hop.headers
        if name.lower() not in CREDENTIAL_HEADERS
        and (substitute is None or substitute(value.encode()) == value.encode())
    )


def _check_announced_size(head: AnswerHead, method: str, bytes_max: int) -> None:
    announced = head.find_header("content-length")
    if announced is not None and method != "HEAD" and announced.isdecimal() and int(announced) > bytes_max:
        raise OutboundError("too_large", f"the answer announces {announced} bytes; {bytes_max} are allowed")


async def _discard_body(connection: Connection, hop: _Hop) -> bytes:
    try:
        await connection.read_body(REDIRECT_BODY_BYTES_MAX, hop.tell_phase)
    except OutboundError as error:
        if error.kind != "too_large":
            raise
        connection.close_nowait()  # cheaper than reading on; the redirect itself is known
    return b""


def _timings(connection: Connection, head: AnswerHead, started_ns: int) -> Timings:
    total_ns = time.perf_counter_ns() - started_ns
    if connection.asked_before:
        return Timings(first_byte_ns=head.first_byte_ns, total_ns=total_ns)
    opened = connection.opened
    return Timings(opened.resolve_ns, opened.connect_ns, opened.tls_ns, head.first_byte_ns, total_ns)
