"""How the workers of one crew speak to each other: HTTP, over unix sockets in a folder that only they know.

Each worker listens there once it serves code, and stops when it drains, so whoever answers is ready. The *lead* is
the one with the lowest number that answers: questions about records, and orders like a deploy, are all the lead's
(`Siblings.forward`), so they have one answer and one order whichever worker a client reached.

A worker that does not answer is not waited for: its successor finds out by itself what it missed.
"""

import contextlib
import hmac
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

import h11
import msgspec
import trio

from flux.errors import OperatorError
from flux.message import HttpRequest, HttpResponse, problem
from flux.supervisor.crew_place import Place

SECRET_HEADER = "x-flux-crew"
CONNECT_S = 2.0
ASK_S = 10.0
"""How long another worker may take for an answer, unless the caller says otherwise."""
PIECE_BYTES = 64 * 1024
WHOLE_BYTES_MAX = 2**20
"""An answer of known length up to this is passed on as it is, a longer one piece by piece."""

_HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "content-length", "te", "trailer", "upgrade", "expect", "date"}
)

_SAFE = frozenset({"GET", "HEAD"})
"""Methods that order nothing: to ask again is what a client would do."""


class SiblingGoneError(OperatorError):
    """Another worker ended, or does not answer."""

    code = "FLX632"
    exit_code = 5


class Siblings:
    """The other workers, as one of them reaches them."""

    def __init__(self, place: Place) -> None:
        self._place = place

    @property
    def number(self) -> int:
        """Our own."""
        return self._place.number

    @property
    def others(self) -> list[int]:
        """All numbers but ours, in order, whether somebody answers to them or not."""
        return [number for number in range(self._place.count) if number != self._place.number]

    def is_there(self, number: int) -> bool:
        """Whether a worker has begun to listen and has not ended in an orderly way. It may be dead all the same."""
        return self._place.socket_path(number).exists()

    def knows(self, secret: str | None) -> bool:
        """Whether somebody who shows this is one of us."""
        return secret is not None and hmac.compare_digest(secret.encode("latin-1"), self._place.secret.encode())

    async def forward(self, request: HttpRequest) -> HttpResponse | None:
        """Have the lead answer; None when that is us.

        Of a lead that ends before it answers, the next one takes over what was only asked; an order it does not.
        """
        head = request.head
        for number in range(self._place.number):
            try:
                stream = await self._connect(number)
            except SiblingGoneError:
                continue
            fields = [(name, value) for name, value in head.headers if name not in _HOP_BY_HOP]
            try:
                return await _exchange(stream, head.method, head.target, fields, request.body)
            except SiblingGoneError as error:
                if head.method in _SAFE:
                    continue
                # What it has done of it nobody knows: so it is not asked of the next one.
                refusal = problem(503, error.code, error.message, extra={"remedy": error.remedy, "exit": 5})
                return HttpResponse(503, (*refusal.headers, ("retry-after", "1")), refusal.body)
        return None

    async def ask(self, number: int, method: str, path: str, document: Mapping[str, Any] | None = None) -> Any:
        """Return what one of the others answers; raise `SiblingGoneError`. The deadline is the caller's."""
        response = await self._request(number, method, path, b"" if document is None else msgspec.json.encode(document))
        body = response.body
        assert isinstance(body, bytes), "what workers ask each other has a length"
        answer = msgspec.json.decode(body)
        if response.status != 200:
            raise SiblingGoneError(
                f"worker {number} answered {response.status}: {answer.get('code')} {answer.get('detail')}",
                remedy="flux doctor says how it is",
            )
        return answer

    async def ask_all(
        self, method: str, path: str, document: Mapping[str, Any] | None = None, *, patience_s: float = ASK_S
    ) -> dict[int, Any]:
        """Return the answers of all others by their numbers: an error where one answered so, nothing for who is not
        there."""
        answers: dict[int, Any] = {}

        async def ask(number: int) -> None:
            if not self.is_there(number):
                return
            try:
                with trio.fail_after(patience_s):
                    answers[number] = await self.ask(number, method, path, document)
            except SiblingGoneError as error:
                answers[number] = error
            except trio.TooSlowError:
                answers[number] = SiblingGoneError(
                    f"worker {number} did not answer in {patience_s:g} s", remedy="flux doctor says how it is"
                )

        async with trio.open_nursery() as nursery:
            for number in self.others:
                nursery.start_soon(ask, number)
        return answers

    async def listen(self, number: int, path: str) -> AsyncGenerator[bytes, None]:
        """Give the lines of an endless answer of one of the others; raise `SiblingGoneError` at its end."""
        response = await self._request(number, "GET", path, b"")
        body = response.body
        assert not isinstance(body, bytes), "an endless answer has no length"
        rest = b""
        async with contextlib.aclosing(body) as pieces:  # type: ignore[type-var]
            async for piece in pieces:
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    yield line
        raise SiblingGoneError(f"worker {number} has ended", remedy="another one takes its place")

    async def _request(self, number: int, method: str, path: str, body: bytes) -> HttpResponse:
        fields = [("host", "localhost"), (SECRET_HEADER, self._place.secret), ("content-type", "application/json")]
        return await _exchange(await self._connect(number), method, path, fields, body)

    async def _connect(self, number: int) -> trio.SocketStream:
        try:
            with trio.fail_after(CONNECT_S):
                return await trio.open_unix_socket(self._place.socket_path(number))
        except (OSError, trio.TooSlowError) as error:
            raise SiblingGoneError(
                f"worker {number} is not there: {error}", remedy="it is started again, unless the server ends"
            ) from error


async def _exchange(
    stream: trio.SocketStream, method: str, target: str, fields: list[tuple[str, str]], body: bytes
) -> HttpResponse:
    """Send a request and return the answer, whose body may still be coming."""
    connection = h11.Connection(h11.CLIENT)
    is_kept = False
    try:
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields]
        headers += [(b"content-length", b"%d" % len(body)), (b"connection", b"close")]
        sent = connection.send(h11.Request(method=method, target=target.encode("latin-1"), headers=headers))
        data = connection.send(h11.Data(data=body)) if body else b""
        assert sent is not None and data is not None
        await stream.send_all(sent + data)
        connection.send(h11.EndOfMessage())
        response = await _next_event(stream, connection)
        while isinstance(response, h11.InformationalResponse):
            response = await _next_event(stream, connection)
        assert isinstance(response, h11.Response)
        kept = tuple(
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in response.headers.raw_items()
            if name.decode("latin-1").lower() not in _HOP_BY_HOP
        )
        length = next((int(value) for name, value in response.headers if name == b"content-length"), None)
        pieces = _Pieces(stream, connection)
        if (length is not None and length <= WHOLE_BYTES_MAX) or method == "HEAD":
            return HttpResponse(response.status_code, kept, b"".join([piece async for piece in pieces]))
        is_kept = True
        return HttpResponse(response.status_code, kept, pieces)
    except (trio.BrokenResourceError, h11.RemoteProtocolError) as error:
        raise SiblingGoneError(
            f"the worker that was asked ended before it answered: {error}",
            remedy="what it had begun is not known to be done: look before you ask again",
        ) from error
    finally:
        if not is_kept:
            await trio.aclose_forcefully(stream)


async def _next_event(stream: trio.SocketStream, connection: h11.Connection) -> Any:
    while True:
        event = connection.next_event()
        if event is not h11.NEED_DATA:
            return event
        connection.receive_data(await stream.receive_some(PIECE_BYTES))


class _Pieces:
    """The body of an answer as it comes. A class, so that one that nobody reads can be closed all the same."""

    def __init__(self, stream: trio.SocketStream, connection: h11.Connection) -> None:
        self._stream = stream
        self._connection = connection

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            event = await _next_event(self._stream, self._connection)
        except (trio.BrokenResourceError, h11.RemoteProtocolError) as error:
            raise SiblingGoneError("the worker that was asked ended in the middle of its answer") from error
        if isinstance(event, h11.Data):
            return bytes(event.data)
        await self.aclose()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Let go of the connection."""
        await trio.aclose_forcefully(self._stream)
