"""One HTTP/1.1 connection, and one exchange on it at a time.

h11 decides what bytes mean; we move them. After the answer's last byte the
connection is fit for another exchange only if both sides are done, nothing else
has arrived, and nobody was cancelled in between. In every other case it is
closed: a connection about which there is any doubt may hold half of somebody
else's answer.

We drive h11 ourselves, rather than through httpcore, because what is decided here
needs to be seen: how many bytes of a request the kernel took, and whether bytes
are left over behind an answer. It also costs half the CPU
(``benchmarks/outbound_http.py``).
"""

import time
from collections.abc import Callable
from functools import cached_property
from ipaddress import ip_address

import attrs
import h11
import trio

from flux.hostcalls.http_addresses import find_refusal
from flux.hostcalls.http_network import RECEIVE_BYTES, Opened
from flux.hostcalls.http_outbound import Headers, OutboundError

ANSWER_HEADER_BYTES_MAX = 64 * 1024
ANSWER_HEADERS_MAX = 256
INTERIM_ANSWERS_MAX = 16
"""1xx answers before the real one; more is somebody keeping us busy."""
CHUNKS_PER_TURN_MAX = 512
"""Chunks handled before other tasks get their turn: one receive may hold ten thousand tiny ones."""
JOIN_BYTES_MAX = 64 * 1024
"""Bodies up to this size travel in one write with their headers."""
IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
"""RFC 9110, 9.2.2: asking twice means what asking once means."""


class StaleConnectionError(Exception):
    """A kept connection ended before it answered, and asking again on a new one is safe."""


@attrs.frozen
class AnswerHead:
    """Status line and header fields of an answer."""

    status: int
    headers: Headers
    first_byte_ns: int
    """From the first byte sent to the first received, in nanoseconds."""

    def find_header(self, name: str) -> str | None:
        """Return the first value of a header, given in lower case, or None."""
        return next((value for key, value in self.headers if key == name), None)


class Connection:
    """A connection to one origin, for one tenant. ``ask``, then ``read_body``; then ``reusable`` tells."""

    def __init__(self, opened: Opened) -> None:
        self.opened = opened
        self._wire = opened.wire
        self._stream = opened.stream
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=ANSWER_HEADER_BYTES_MAX)
        self._asked = 0
        self._send_failed = False
        self.reusable = False
        """True between exchanges, when another may follow."""
        self.idle_since_s = 0.0
        """When the last exchange ended, on trio's clock."""

    @property
    def address(self) -> str:
        """``ip:port`` of the other end."""
        return self._wire.address

    @cached_property
    def is_private(self) -> bool:
        """Whether the other end is at an address that only one's own network has."""
        return find_refusal(ip_address(self.address.rpartition(":")[0].strip("[]"))) is not None

    @property
    def asked_before(self) -> bool:
        """Whether an earlier exchange used this connection."""
        return self._asked > 1

    def has_gone_stale(self) -> bool:
        """Return whether the other end closed this idle connection, or spoke unasked."""
        return self._wire.is_readable()

    def close_nowait(self) -> None:
        """Close; safe to call twice."""
        self.reusable = False
        self._wire.close_nowait()

    async def ask(
        self,
        method: str,
        target: str,
        headers: list[tuple[bytes, bytes]],
        body: bytes,
        tell_phase: Callable[[str], None],
    ) -> AnswerHead:
        """Send a request and return the head of its answer; raise `OutboundError`.

        Raises `StaleConnectionError` when a kept connection turned out to have ended and the request
        may be sent again: it is idempotent, or the kernel took no byte of it.
        """
        self.reusable = False
        self._asked += 1
        sent_before, received_before = self._wire.sent_bytes, self._wire.received_bytes
        started_ns = time.perf_counter_ns()
        tell_phase("sending the request")
        await self._send(method, target, headers, body)
        tell_phase("waiting for the first byte of the answer")
        data = await self._receive()
        if not data:
            if self.asked_before and (method in IDEMPOTENT_METHODS or self._wire.sent_bytes == sent_before):
                raise StaleConnectionError
            hint = "; it may have seen the request, so Flux does not repeat it" if self.asked_before else ""
            raise OutboundError("protocol", f"the server closed the connection without an answer{hint}")
        if self._wire.received_bytes == received_before:
            # Decrypted now, received before we asked: an answer to nothing, waiting for a question.
            raise OutboundError("protocol", "the server answered before it was asked")
        first_byte_ns = time.perf_counter_ns() - started_ns
        tell_phase("reading the answer's headers")
        self._http.receive_data(data)
        return _check_head(await self._read_head(), first_byte_ns)

    async def read_body(self, bytes_max: int, tell_phase: Callable[[str], None]) -> bytes:
        """Return the answer's body; raise `OutboundError` when it is longer, or ends early."""
        tell_phase("reading the answer's body")
        body = bytearray()  # not a list of parts: a body in two-byte chunks would weigh twenty times its size
        chunks = 0
        while True:
            event = self._next_event()
            if event is h11.NEED_DATA:
                chunks = 0
                self._http.receive_data(await self._receive())
            elif isinstance(event, h11.Data):
                if len(body) + len(event.data) > bytes_max:
                    raise OutboundError("too_large", f"the answer's body passes {bytes_max} bytes")
                body += event.data
                chunks += 1
                if chunks % CHUNKS_PER_TURN_MAX == 0:
                    await trio.lowlevel.checkpoint()
            else:
                break
        self._finish()
        return bytes(body)

    async def _send(self, method: str, target: str, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        try:
            head = self._http.send(h11.Request(method=method, target=target, headers=headers))
            if body:
                self._http.send(h11.Data(data=body))
            self._http.send(h11.EndOfMessage())
        except h11.LocalProtocolError:
            # Without h11's words: they quote the header, and the header may hold a secret.
            raise OutboundError("header", "this request can't be written as HTTP/1.1") from None
        assert head is not None
        try:
            if len(body) <= JOIN_BYTES_MAX:
                await self._stream.send_all(head + body)
            else:
                await self._stream.send_all(head)
                await self._stream.send_all(body)
        except trio.BrokenResourceError:
            # A server may answer (413, say) and hang up before it has read everything: listen first.
            self._send_failed = True

    async def _receive(self) -> bytes:
        try:
            return bytes(await self._stream.receive_some(RECEIVE_BYTES))
        except trio.BrokenResourceError:
            return b""  # a reset; h11 knows whether the answer was whole, and says so if it wasn't

    async def _read_head(self) -> h11.Response:
        interim = 0
        while True:
            event = self._next_event()
            if event is h11.NEED_DATA:
                self._http.receive_data(await self._receive())
            elif isinstance(event, h11.Response):
                return event
            elif isinstance(event, h11.InformationalResponse) and interim < INTERIM_ANSWERS_MAX:
                interim += 1
            else:
                raise OutboundError("protocol", "the server sent no answer that HTTP/1.1 knows")

    def _next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        try:
            return self._http.next_event()
        except h11.RemoteProtocolError as error:
            words = str(error)
            if "too long" in words or "large" in words:
                raise OutboundError(
                    "too_large", f"the answer's headers pass {ANSWER_HEADER_BYTES_MAX} bytes"
                ) from error
            raise OutboundError("protocol", f"the answer breaks HTTP/1.1: {words[:200]}") from error

    def _finish(self) -> None:
        left_over, at_end = self._http.trailing_data
        done = self._http.our_state is h11.DONE and self._http.their_state is h11.DONE
        if not done or left_over or at_end or self._send_failed:
            self.close_nowait()
            return
        self._http.start_next_cycle()
        self.idle_since_s = trio.current_time()
        self.reusable = True


def _check_head(response: h11.Response, first_byte_ns: int) -> AnswerHead:
    if len(response.headers) > ANSWER_HEADERS_MAX:
        raise OutboundError("too_large", f"the answer has more than {ANSWER_HEADERS_MAX} headers")
    headers = tuple((name.decode("ascii"), _decode_value(value)) for name, value in response.headers)
    names = {name for name, _value in headers}
    if "transfer-encoding" in names and "content-length" in names:
        # RFC 9112, 6.3: "ought to be handled as an error". Whoever is between us and the server may
        # have believed the other one.
        raise OutboundError("protocol", "the answer says two things about where it ends")
    return AnswerHead(response.status_code, headers, first_byte_ns)


def _decode_value(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
