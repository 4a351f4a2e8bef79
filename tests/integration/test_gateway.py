"""The gateway with ordinary clients, slow ones, and handlers that fail."""

import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from flux.hostcalls.clock import SystemClock
from flux.message import Admission, HttpRequest, HttpResponse
from flux.supervisor.client_socket import ClientLate, ClientSocket
from flux.supervisor.gateway import (
    CannotListenError,
    GatewayLimits,
    PortInUseError,
    find_port_holder,
    open_listeners,
    serve_http,
)
from flux.supervisor.gateway_body import BodyCollector
from flux.supervisor.http_date import HttpDate
from tests.gateway_server import PATIENCE_S, PATIENT, Client, Closed, Gateway, answer_ok, ask, running_gateway

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
OLD_GET = b"GET /a HTTP/1.0\r\n\r\n"
HEAD = b"HEAD /a HTTP/1.1\r\nHost: x\r\n\r\n"


def post(body: bytes, extra: bytes = b"") -> bytes:
    return b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%s\r\n%s" % (len(body), extra, body)


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread will do; give up when it hangs."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)


class Gate:
    """Holds a handler until the test lets it go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.left = threading.Event()
        self._open = trio.Event()

    async def handle(self, request: HttpRequest) -> HttpResponse:
        if request.head.path == "/fresh":
            return await answer_ok(request)
        self.entered.set()
        await self._open.wait()
        self.left.set()
        return HttpResponse(200, (), b"at last")

    def open(self, gateway: Gateway) -> None:
        gateway.in_trio(self._open.set)


# --- many requests on one connection ---------------------------------------------------------------


def test_a_connection_serves_one_request_after_another() -> None:
    with running_gateway() as gateway, Client(gateway.port) as client:
        for _ in range(50):
            client.send(GET)
            assert client.read().body == b"ok"
        assert gateway.seen == ["GET /a"] * 50
        assert len({request.head.peer for request in gateway.requests}) == 1


def test_the_last_request_that_a_connection_may_make_is_answered_with_close() -> None:
    with running_gateway(attrs.evolve(PATIENT, requests_per_connection_max=3)) as gateway:
        with Client(gateway.port) as client:
            client.send(GET * 4)
            assert [client.read().all("connection") for _ in range(3)] == [[], [], ["close"]]
            assert client.wait_closed() == "closed"
        assert gateway.seen == ["GET /a"] * 3


def test_requests_sent_ahead_are_handled_one_at_a_time_and_in_order() -> None:
    at_work = []

    async def handle(request: HttpRequest) -> HttpResponse:
        at_work.append(+1)
        assert sum(at_work) == 1
        await trio.lowlevel.checkpoint()
        at_work.append(-1)
        return HttpResponse(200, (), request.body)

    with running_gateway(handle=handle) as gateway, Client(gateway.port) as client:
        client.send(b"".join(post(b"%d" % number) for number in range(200)))
        assert [client.read().body for _ in range(200)] == [b"%d" % number for number in range(200)]
        assert gateway.crashes == []


def test_a_client_that_sends_ahead_does_not_keep_the_server_for_itself() -> None:
    with running_gateway() as gateway, Client(gateway.port) as greedy:
        greedy.send(GET * 500)
        assert ask(gateway.port).status == 200
        for _ in range(500):
            greedy.read()


# --- Expect, HEAD, Date ----------------------------------------------------------------------------


def test_a_client_that_expects_100_hears_it_before_it_sends_its_body() -> None:
    with running_gateway() as gateway, Client(gateway.port) as client:
        client.send(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        assert client.read().status == 100
        assert gateway.seen == []
        client.send(b"hello")
        assert client.read().status == 200
        assert gateway.requests[0].body == b"hello"


def test_a_body_that_is_too_large_is_refused_before_it_is_sent() -> None:
    with running_gateway(body_bytes_max=10) as gateway, Client(gateway.port) as client:
        client.send(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\nExpect: 100-continue\r\n\r\n")
        answer = client.read()
        assert (answer.status, answer.header("connection")) == (413, "close")
        assert client.wait_closed() == "closed"
        assert gateway.seen == []


def test_a_request_that_its_head_is_answered_for_is_never_read_nor_handled() -> None:
    with running_gateway() as gateway:
        gateway.admission = Admission(10, answer=HttpResponse(401, (), b"no"))
        with Client(gateway.port) as client:
            client.send(GET + GET)
            assert [client.read().status for _ in range(2)] == [401, 401], "the connection goes on"
            client.send(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\nExpect: 100-continue\r\n\r\n")
            answer = client.read()
            assert (answer.status, answer.header("connection")) == (401, "close"), "and nobody is told to send that"
            assert client.wait_closed() == "closed"
        with Client(gateway.port) as client:
            # A body that looks like a request is none.
            chunk = b"%x\r\n%s\r\n0\r\n\r\n" % (len(GET), GET)
            client.send(b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk)
            assert client.read().status == 401
            assert client.wait_closed() == "closed"
        assert gateway.seen == []


async def answer_or_fail(request: HttpRequest) -> HttpResponse:
    if request.body == b"crash":
        raise RuntimeError("the handler broke")
    headers = (("X-Ours", "the function's"), ("x-more", "2"))
    return HttpResponse(200, headers, stream_of(b"a", b"b") if request.body == b"stream" else b"ok")


def test_what_an_admission_adds_stands_on_whatever_is_answered() -> None:
    admission = Admission(6, headers=(("x-ours", "1"),), drops=frozenset({"x-ours"}))
    with running_gateway(attrs.evolve(PATIENT, body_timeout_s=0.2), answer_or_fail) as gateway:
        gateway.admission = admission
        with Client(gateway.port) as client:
            client.send(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhe")
            answer = client.read()
            assert (answer.status, answer.all("x-ours")) == (408, ["1"])
    with running_gateway(handle=answer_or_fail) as gateway:
        gateway.admission = admission
        asked = {b"": 200, b"stream": 200, b"crash": 500, b"too long": 413}
        for body, status in asked.items():
            with Client(gateway.port) as client:
                client.send(post(body))
                answer = client.read()
                assert (answer.status, answer.all("x-ours")) == (status, ["1"])
        with Client(gateway.port) as client:
            client.send(GET + b"no request at all\r\n\r\n")
            assert client.read().all("x-more") == ["2"]
            refused = client.read()
            assert (refused.status, refused.all("x-ours")) == (400, []), "what one was promised the next does not get"


def test_a_request_that_finds_no_memory_is_refused_and_the_next_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    async def take(_collector: BodyCollector, _piece: bytes) -> None:
        raise MemoryError

    with running_gateway() as gateway:
        with monkeypatch.context() as patched, Client(gateway.port) as client:
            patched.setattr(BodyCollector, "take", take)
            client.send(post(b"hello"))
            answer = client.read()
            assert (answer.status, b"no memory" in answer.body) == (503, True)
            assert client.wait_closed() == "closed"
        assert [type(crash) for crash in gateway.crashes] == [MemoryError]
        assert ask(gateway.port).status == 200
        assert [request.body for request in gateway.requests] == [b""]


def test_a_client_that_sends_too_much_can_still_read_why() -> None:
    with running_gateway(body_bytes_max=10) as gateway, Client(gateway.port) as client:
        client.send(post(b"x" * 2_000_000))
        assert client.read().status == 413
        assert client.wait_closed() == "closed"


def test_head_is_answered_like_get_without_the_body() -> None:
    with running_gateway() as gateway, Client(gateway.port) as client:
        client.send(HEAD + GET)
        head, get = client.read("HEAD"), client.read()
        assert (head.body, get.body) == (b"", b"ok")
        assert head.header("content-length") == get.header("content-length") == "2"
        assert head.header("content-type") == get.header("content-type")


async def crash(_request: HttpRequest) -> HttpResponse:
    raise RuntimeError("the handler broke")


def test_every_answer_says_when_it_was_made() -> None:
    before = int(time.time())
    with (
        running_gateway(attrs.evolve(PATIENT, connections_max=2)) as gateway,
        Client(gateway.port) as first,
        Client(gateway.port) as second,
        Client(gateway.port) as third,
    ):
        first.send(GET)
        second.send(b"nonsense\r\n\r\n")
        answers = [first.read(), second.read(), third.read()]
    with running_gateway(handle=crash) as gateway:
        answers.append(ask(gateway.port))
    after = time.time()
    assert [answer.status for answer in answers] == [200, 400, 503, 500]
    for answer in answers:
        (date,) = answer.all("date")
        assert date.endswith(" GMT")
        assert before <= parsedate_to_datetime(date).timestamp() <= after


def test_a_handler_may_date_its_answer_itself() -> None:
    async def handle(_request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, (("Date", "Sun, 06 Nov 1994 08:49:37 GMT"),))

    with running_gateway(handle=handle) as gateway:
        assert ask(gateway.port).all("date") == ["Sun, 06 Nov 1994 08:49:37 GMT"]


# --- slow clients ----------------------------------------------------------------------------------


def drip(clients: list[Client], stop: threading.Event) -> None:
    """Send each one more byte of a header or a body that never ends, again and again."""
    while not stop.wait(0.05):
        for client in clients:
            client.send(b"x")


def connect_slow_clients(gateway: Gateway) -> list[Client]:
    clients = [Client(gateway.port) for _ in range(200)]
    for client in clients[:100]:
        client.send(b"GET /slow HTTP/1.1\r\nHost: x\r\nX: ")
    for client in clients[100:]:
        client.send(b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n")
    return clients


def test_two_hundred_slow_clients_do_not_stop_others() -> None:
    stop = threading.Event()
    with running_gateway() as gateway:
        clients = connect_slow_clients(gateway)
        dripping = threading.Thread(target=drip, args=(clients, stop))
        dripping.start()
        try:
            for _ in range(100):
                assert ask(gateway.port).status == 200
            answered, _, _ = select.select([client.socket for client in clients], [], [], 0)
            assert answered == [], "they were all still dripping"
        finally:
            stop.set()
            dripping.join()
            for client in clients:
                client.reset()
        assert set(gateway.seen) == {"GET /fresh"}


def test_two_hundred_slow_clients_are_cut_by_their_deadlines() -> None:
    limits = attrs.evolve(PATIENT, head_timeout_s=1, body_timeout_s=1, body_bytes_per_s_min=1024**2)
    stop = threading.Event()
    with running_gateway(limits) as gateway:
        clients = connect_slow_clients(gateway)
        dripping = threading.Thread(target=drip, args=(clients, stop))
        dripping.start()
        try:
            for client in clients:
                answer = client.read()
                assert answer.status == 408
                assert answer.header("connection") == "close"
                assert b"too slowly" in answer.body
        finally:
            stop.set()
            dripping.join()
        for client in clients:
            client.finish()
            assert client.wait_closed() in ("closed", "reset")
            client.socket.close()
        assert gateway.seen == []
        assert gateway.crashes == []


def test_a_body_that_keeps_up_the_rate_may_take_longer_than_the_timeout() -> None:
    limits = attrs.evolve(PATIENT, body_timeout_s=0.5, body_bytes_per_s_min=1)
    with running_gateway(limits) as gateway, Client(gateway.port) as client:
        client.send(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 1002\r\n\r\n" + b"x" * 1000)
        time.sleep(1)
        client.send(b"x")
        time.sleep(0.5)
        client.send(b"x")
        assert client.read().status == 200
        assert len(gateway.requests[0].body) == 1002


def test_who_connects_and_says_nothing_is_closed_without_a_word() -> None:
    with (
        running_gateway(attrs.evolve(PATIENT, head_timeout_s=0.2)) as gateway,
        Client(gateway.port) as client,
    ):
        assert client.wait_closed() == "closed"


def test_an_idle_connection_is_closed_without_a_word() -> None:
    with (
        running_gateway(attrs.evolve(PATIENT, idle_timeout_s=0.2)) as gateway,
        Client(gateway.port) as client,
    ):
        client.send(GET)
        assert client.read().status == 200
        assert client.wait_closed() == "closed"


def test_a_client_that_does_not_read_its_answer_is_cut() -> None:
    async def handle(_request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, (), b"x" * 32_000_000)

    limits = attrs.evolve(PATIENT, write_timeout_s=0.3, write_bytes_per_s_min=1024**3)
    with (
        running_gateway(limits, handle) as gateway,
        Client(gateway.port, receive_buffer_bytes=4096) as client,
    ):
        client.send(GET)
        client.wait_reset()
        with pytest.raises(Closed, match="reset"):
            client.read()
        assert gateway.crashes == []


async def test_bytes_that_come_as_the_deadline_passes_do_not_cancel_what_is_done_with_them() -> None:
    """Both are due when the loop wakes up: the work that follows has another deadline or none."""
    ours, theirs = socket.socketpair()
    with theirs:
        client = ClientSocket(ours)

        async def receive() -> str:
            try:
                assert await client.receive(trio.current_time() + 0.02) == 5
            except ClientLate:
                return "late"
            await trio.lowlevel.checkpoint()
            return "whole"

        async def hold_up_the_loop() -> None:
            theirs.send(b"hello")
            time.sleep(0.05)  # noqa: ASYNC251 - the loop is to be late.

        outcomes: list[str] = []

        async def record() -> None:
            outcomes.append(await receive())

        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(record)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(hold_up_the_loop)
        assert outcomes in (["whole"], ["late"])
        client.close()


# --- handlers that fail ----------------------------------------------------------------------------


class Sick(BaseException):
    """Derives from no `Exception`, as SystemExit does."""


def raising(error: BaseException) -> Callable[[HttpRequest], Awaitable[HttpResponse]]:
    async def handle(request: HttpRequest) -> HttpResponse:
        if request.head.path == "/fresh":
            return await answer_ok(request)
        raise error

    return handle


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("no"),
        SystemExit(3),
        GeneratorExit(),
        StopIteration(),
        RecursionError(),
        MemoryError(),
        Sick(),
        ConnectionResetError("of another connection"),
        TimeoutError(),
        ExceptionGroup("two", [ValueError("a"), OSError("b")]),
        BaseExceptionGroup("two", [ValueError("a"), SystemExit(1)]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_handler_that_raises_is_a_500_and_nothing_more(error: BaseException) -> None:
    with running_gateway(handle=raising(error)) as gateway:
        with Client(gateway.port) as client:
            client.send(GET * 2)
            answer = client.read()
            assert answer.status == 500
            assert answer.header("connection") == "close"
            assert b"INTERNAL_ERROR" in answer.body
            assert client.wait_closed() == "closed"
        assert ask(gateway.port).status == 200
        (crashed,) = gateway.crashes
        # Python turns a StopIteration that leaves a coroutine into a RuntimeError.
        assert crashed is error or crashed.__cause__ is error


def test_a_handler_that_cannot_say_its_limit_is_a_500() -> None:
    with running_gateway() as gateway:
        with Client(gateway.port) as client:
            client.send(b"POST /crash-limit HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello")
            assert client.read().status == 500
            assert client.wait_closed() == "closed"
        assert ask(gateway.port).status == 200
        assert [str(error) for error in gateway.crashes] == ["the handler cannot say"]


async def stream_of(*pieces: object) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece  # type: ignore[misc]


NO_ANSWERS: dict[str, Callable[[], Any]] = {
    "no response at all": lambda: None,
    "a dict": lambda: {"status": 200},
    "a status of text": lambda: HttpResponse("200"),  # type: ignore[arg-type]
    "a status of 100": lambda: HttpResponse(100),
    "a status of 600": lambda: HttpResponse(600),
    "a body of text": lambda: HttpResponse(200, (), "text"),  # type: ignore[arg-type]
    "a header that is two": lambda: HttpResponse(200, (("x", "a\r\nset-cookie: b"),)),
    "a header with a bare LF": lambda: HttpResponse(200, (("x", "a\nb"),)),
    "a header with a NUL": lambda: HttpResponse(200, (("x", "\0"),)),
    "a header beyond latin-1": lambda: HttpResponse(200, (("x", "→"),)),
    "a header name with a space": lambda: HttpResponse(200, (("x y", "z"),)),
    "a header name with a colon": lambda: HttpResponse(200, (("x:", "z"),)),
    "an empty header name": lambda: HttpResponse(200, (("", "z"),)),
    "a header value of a number": lambda: HttpResponse(200, (("x", 1),)),  # type: ignore[arg-type]
    "its own framing": lambda: HttpResponse(200, (("transfer-encoding", "chunked"),), b"0\r\n\r\n"),
    "a wrong length": lambda: HttpResponse(200, (("content-length", "1"),), b"ok"),
    "two lengths": lambda: HttpResponse(200, (("content-length", "2"), ("content-length", "2")), b"ok"),
    "a connection of its own": lambda: HttpResponse(200, (("connection", "keep-alive"),)),
    "an upgrade": lambda: HttpResponse(200, (("upgrade", "h2c"),)),
}


@pytest.mark.parametrize("name", NO_ANSWERS)
def test_an_answer_that_cannot_be_sent_is_a_500(name: str) -> None:
    async def handle(request: HttpRequest) -> HttpResponse:
        if request.head.path == "/fresh":
            return await answer_ok(request)
        answer: HttpResponse = NO_ANSWERS[name]()
        return answer

    with running_gateway(handle=handle) as gateway:
        with Client(gateway.port) as client:
            client.send(GET)
            assert client.read().status == 500
            assert client.wait_closed() == "closed"
        assert ask(gateway.port).status == 200
        assert len(gateway.crashes) == 1


def test_a_report_that_fails_does_not_end_the_server(capfd: pytest.CaptureFixture[str]) -> None:
    def broken(_error: BaseException) -> None:
        raise ValueError("the reporter broke too")

    with running_gateway(handle=raising(RuntimeError("first"))) as gateway:
        gateway.on_crash = broken
        with Client(gateway.port) as client:
            client.send(GET)
            assert client.read().status == 500
        assert ask(gateway.port).status == 200
    told = capfd.readouterr().err
    assert "first" in told
    assert "the reporter broke too" in told


def test_a_handler_is_not_cancelled_when_its_client_leaves() -> None:
    """An execution is recorded whole, so it runs to its end."""
    gate = Gate()
    with running_gateway(handle=gate.handle) as gateway:
        with Client(gateway.port) as client:
            client.send(GET)
            assert gate.entered.wait(PATIENCE_S)
            client.reset()
        assert ask(gateway.port).status == 200
        assert not gate.left.is_set()
        gate.open(gateway)
        assert gate.left.wait(PATIENCE_S)
    assert gateway.crashes == []


# --- streams ---------------------------------------------------------------------------------------


class Endless:
    """A stream that goes on until somebody closes it, and says when that happened."""

    def __init__(self, piece: bytes = b"tick\n") -> None:
        self.piece = piece
        self.closed = threading.Event()
        self.begun = threading.Event()

    async def pieces(self) -> AsyncIterator[bytes]:
        try:
            while True:
                self.begun.set()
                yield self.piece
                await trio.sleep(0.01)
        finally:
            self.closed.set()

    async def handle(self, request: HttpRequest) -> HttpResponse:
        if request.head.path == "/fresh":
            return await answer_ok(request)
        return HttpResponse(200, (), self.pieces())


def test_a_stream_is_chunked_and_the_connection_goes_on() -> None:
    async def handle(_request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, (), stream_of(b"one", b"", b"two"))

    with running_gateway(handle=handle) as gateway, Client(gateway.port) as client:
        for _ in range(2):
            client.send(GET)
            answer = client.read()
            assert answer.header("transfer-encoding") == "chunked"
            assert answer.body == b"onetwo"


def test_a_stream_to_an_old_client_ends_with_the_connection() -> None:
    async def handle(_request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, (), stream_of(b"one", b"two"))

    with running_gateway(handle=handle) as gateway, Client(gateway.port) as client:
        client.send(OLD_GET)
        answer = client.read()
        assert answer.header("transfer-encoding") is None
        assert answer.body == b"onetwo"


def test_a_stream_is_cancelled_when_its_client_resets() -> None:
    endless = Endless()
    with running_gateway(handle=endless.handle) as gateway:
        with Client(gateway.port) as client:
            client.send(GET)
            client.more()
            client.reset()
        assert endless.closed.wait(PATIENCE_S)
        assert ask(gateway.port).status == 200
    assert gateway.crashes == []


def test_a_stream_is_cancelled_some_time_after_its_client_closed() -> None:
    endless = Endless(piece=b"")  # Nothing is sent, so no reset can tell.
    with running_gateway(attrs.evolve(PATIENT, hang_up_grace_s=0.1), endless.handle) as gateway:
        with Client(gateway.port) as client:
            client.send(GET)
            assert endless.begun.wait(PATIENCE_S)
        assert endless.closed.wait(PATIENCE_S)
    assert gateway.crashes == []


def test_a_client_that_closed_its_side_still_gets_all_of_a_stream() -> None:
    async def slowly() -> AsyncIterator[bytes]:
        for number in range(20):
            yield b"%d " % number
            await trio.sleep(0.01)

    async def handle(_request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, (), slowly())

    with running_gateway(handle=handle) as gateway, Client(gateway.port) as client:
        client.send(GET)
        client.finish()
        assert client.read().body.split() == [b"%d" % number for number in range(20)]


def test_a_stream_is_cancelled_when_its_client_stops_reading() -> None:
    endless = Endless(b"x" * 100_000)
    limits = attrs.evolve(PATIENT, write_timeout_s=0.3, write_bytes_per_s_min=1024**3)
    with running_gateway(limits, endless.handle) as gateway:
        with Client(gateway.port, receive_buffer_bytes=4096) as client:
            client.send(GET)
            assert endless.closed.wait(PATIENCE_S)
        assert ask(gateway.port).status == 200
    assert gateway.crashes == []


async def breaking_stream() -> AsyncIterator[bytes]:
    yield b"part"
    raise RuntimeError("the stream broke")


@pytest.mark.parametrize(
    ("headers", "make"),
    [
        ((), breaking_stream),
        ((), partial(stream_of, b"part", "text")),
        ((("content-length", "100"),), partial(stream_of, b"part")),
        ((("content-length", "2"),), partial(stream_of, b"part")),
    ],
    ids=["it raises", "a piece is text", "it is shorter than it said", "it is longer than it said"],
)
@pytest.mark.parametrize("request_bytes", [GET, OLD_GET], ids=["1.1", "1.0"])
def test_a_part_of_a_stream_is_never_taken_for_the_whole(
    headers: tuple[tuple[str, str], ...], make: Callable[[], AsyncIterator[bytes]], request_bytes: bytes
) -> None:
    async def handle(request: HttpRequest) -> HttpResponse:
        if request.head.path == "/fresh":
            return await answer_ok(request)
        return HttpResponse(200, headers, make())

    with running_gateway(handle=handle) as gateway:
        with Client(gateway.port) as client:
            client.send(request_bytes)
            with pytest.raises(Closed, match="reset"):
                client.read()
                client.read_to_end()
        assert ask(gateway.port).status == 200
        assert len(gateway.crashes) == 1


def test_a_stream_that_nobody_reads_is_closed() -> None:
    endless = Endless()
    with running_gateway(handle=endless.handle) as gateway, Client(gateway.port) as client:
        client.send(HEAD + b"GET /fresh HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.read("HEAD").status == 200
        assert client.read().body == b"ok"
        assert not endless.begun.is_set()


# --- limits on all together ------------------------------------------------------------------------


def test_one_connection_too_many_is_answered_503_and_makes_no_difference() -> None:
    with running_gateway(attrs.evolve(PATIENT, connections_max=3)) as gateway:
        clients = [Client(gateway.port) for _ in range(3)]
        for client in clients:
            client.send(GET)
            assert client.read().status == 200
        for _ in range(5):
            with Client(gateway.port) as refused:
                refused.send(GET)
                answer = refused.read()
                assert answer.status == 503
                assert b"OVERLOADED" in answer.body
                assert answer.header("retry-after") == "1"
                assert refused.wait_closed() == "closed"
        for client in clients:
            client.send(GET)
            assert client.read().status == 200
            client.socket.close()
        wait_until(lambda: ask(gateway.port).status == 200)


def test_bodies_that_are_too_much_together_are_refused_and_forgotten() -> None:
    gate = Gate()
    limits = attrs.evolve(PATIENT, bodies_bytes_max=100_000)
    with (
        running_gateway(limits, gate.handle) as gateway,
        Client(gateway.port) as first,
        Client(gateway.port) as second,
    ):
        first.send(post(b"x" * 60_000))
        assert gate.entered.wait(PATIENCE_S)
        second.send(post(b"x" * 60_000))
        assert second.read().status == 503
        gate.open(gateway)
        assert first.read().body == b"at last"
        for _ in range(5):  # What was held has been given back.
            first.send(post(b"x" * 60_000))
            assert first.read().status == 200


def test_without_descriptors_new_clients_wait_and_old_ones_stay() -> None:
    """In a process of its own, as the limit is the process's."""
    program = """
import resource, trio
from tests.gateway_server import PATIENT, answer_ok
from flux.message import Admission
from flux.supervisor.gateway import open_listeners, serve_http

class Handler:
    async def admit(self, head): return Admission(100)
    async def handle(self, request): return await answer_ok(request)

async def main():
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
    listeners = await open_listeners("127.0.0.1", 0)
    print(listeners[0].socket.getsockname()[1], flush=True)
    await serve_http(listeners, Handler(), PATIENT, drain=trio.Event(),
                     on_crash=lambda error: print(str(error).splitlines()[0], flush=True))

trio.run(main)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            clients = [Client(port) for _ in range(60)]
            assert server.stdout.readline().startswith("FLX602  no new connections can be accepted, with ")
            for client in clients[:20]:
                client.send(GET)
                assert client.read().status == 200
                client.socket.close()
            for client in clients[20:]:
                client.send(GET)
                assert client.read().status == 200
                client.socket.close()
        finally:
            server.kill()


# --- coming and going ------------------------------------------------------------------------------


def test_a_drain_finishes_what_was_begun_and_closes_what_is_idle() -> None:
    gate = Gate()
    with running_gateway(handle=gate.handle) as gateway:
        with Client(gateway.port) as idle, Client(gateway.port) as busy:
            idle.send(b"GET /fresh HTTP/1.1\r\nHost: x\r\n\r\n")
            assert idle.read().status == 200
            busy.send(GET)
            assert gate.entered.wait(PATIENCE_S)
            gateway.drain()
            assert idle.wait_closed() == "closed"
            with pytest.raises(ConnectionRefusedError):
                Client(gateway.port)
            assert not gateway.ended.is_set()
            gate.open(gateway)
            answer = busy.read()
            assert (answer.body, answer.header("connection")) == (b"at last", "close")
            busy.finish()
            assert busy.wait_closed() == "closed"
        assert gateway.ended.wait(PATIENCE_S)


def test_a_drain_lets_a_half_sent_request_finish() -> None:
    with running_gateway() as gateway, Client(gateway.port) as client, Client(gateway.port) as other:
        client.send(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhe")
        assert client.read().status == 100
        other.send(GET)
        assert other.read().status == 200
        gateway.drain()
        assert other.wait_closed() == "closed"
        client.send(b"llo")
        answer = client.read()
        assert (answer.status, answer.header("connection")) == (200, "close")


def test_who_connected_just_before_a_drain_is_still_answered() -> None:
    with (
        running_gateway(attrs.evolve(PATIENT, drain_grace_s=PATIENCE_S)) as gateway,
        Client(gateway.port) as new,
        Client(gateway.port) as known,
    ):
        known.send(GET)
        assert known.read().status == 200  # So the server knows of `new` too.
        gateway.drain()
        assert known.wait_closed() == "closed"
        new.send(GET)
        answer = new.read()
        assert (answer.status, answer.header("connection")) == (200, "close")


def test_who_connects_and_says_nothing_does_not_hold_up_a_drain() -> None:
    with running_gateway(attrs.evolve(PATIENT, drain_grace_s=0.1)) as gateway, Client(gateway.port) as new:
        assert ask(gateway.port).status == 200
        gateway.drain()
        assert new.wait_closed() == "closed"


@pytest.mark.parametrize("attempt", range(4))
def test_a_drain_resets_nobody_who_managed_to_connect(attempt: int) -> None:
    """Each client is answered, or could not connect; none is left with a reset and no answer."""
    outcomes: list[str] = []

    def connect_on_and_on(port: int) -> None:
        while True:
            try:
                client = Client(port)
            except ConnectionRefusedError:
                outcomes.append("refused")
                return
            with client:
                client.send(GET)
                try:
                    outcomes.append(str(client.read().status))
                except Closed as closed:
                    outcomes.append(str(closed))

    with running_gateway() as gateway:
        threads = [threading.Thread(target=connect_on_and_on, args=(gateway.port,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(gateway.requests) > 20 + attempt)
        gateway.drain()
        for thread in threads:
            thread.join(PATIENCE_S)
    assert set(outcomes) == {"200", "refused"}
    assert outcomes.count("200") == len(gateway.requests)


class Quiet:
    async def admit(self, _head: object) -> Admission:
        return Admission(0)

    async def handle(self, request: HttpRequest) -> HttpResponse:
        return await answer_ok(request)


async def test_a_cancelled_server_leaves_nothing_open() -> None:
    listeners = await open_listeners("127.0.0.1", 0)
    port = listeners[0].socket.getsockname()[1]
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(
                partial(serve_http, listeners, Quiet(), GatewayLimits(), drain=trio.Event(), on_crash=print)
            )
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            await stream.send_all(GET)
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 OK")
            nursery.cancel_scope.cancel()
        assert await stream.receive_some() == b""
        await stream.aclose()
        with pytest.raises(OSError, match=f":{port}"):
            await trio.open_tcp_stream("127.0.0.1", port)


HOLD_A_PORT = """
import socket, time
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
time.sleep(600)
"""


def listen_once(port: int) -> None:
    async def listen() -> None:
        for listener in await open_listeners("127.0.0.1", port):
            await listener.aclose()

    trio.run(listen)


def test_a_port_in_use_is_an_error_that_names_who_has_it() -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD_A_PORT], stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            port = int(holder.stdout.readline())
            with pytest.raises(PortInUseError) as caught:
                listen_once(port)
            found = find_port_holder(port)
            assert found is not None
            assert found.pid == holder.pid
            assert caught.value.message == (
                f'port {port} on 127.0.0.1 is in use by "{found.name}" (process {holder.pid})'
            )
            # The next one is where the console of a server is that has this port.
            other = port + 2 if port < 65534 else port - 2
            assert f"--port {other}" in caught.value.remedy
        finally:
            holder.kill()
    assert find_port_holder(port) is None
    listen_once(port)


async def test_processes_may_share_a_port_when_they_all_ask_for_it() -> None:
    (first,) = await open_listeners("127.0.0.1", 0, share_port=True)
    port = first.socket.getsockname()[1]
    (second,) = await open_listeners("127.0.0.1", port, share_port=True)
    with pytest.raises(PortInUseError):
        await open_listeners("127.0.0.1", port)
    await first.aclose()
    await second.aclose()


async def test_all_addresses_of_a_name_get_the_same_port() -> None:
    listeners = await open_listeners("localhost", 0)
    assert len({listener.socket.getsockname()[1] for listener in listeners}) == 1
    for listener in listeners:
        await listener.aclose()


@pytest.mark.parametrize("host", ["no-such-host.invalid", "203.0.113.7", "a" * 300, "ä" * 64])
async def test_an_address_that_is_not_ours_is_an_error_that_names_it(host: str) -> None:
    with pytest.raises(CannotListenError) as caught:
        await open_listeners(host, 0)
    assert host in str(caught.value)
    assert "127.0.0.1" in caught.value.remedy


def test_the_date_is_made_once_a_second() -> None:
    @attrs.define
    class Clock(SystemClock):
        ns: int = 784111777 * 10**9

        def now_ns(self) -> int:
            return self.ns

    clock = Clock()
    date = HttpDate(clock)
    first = date.now()
    assert first == b"Sun, 06 Nov 1994 08:49:37 GMT"  # The example of RFC 9110, section 5.6.7.
    clock.ns += 999_999_999
    assert date.now() is first
    clock.ns += 1
    assert date.now() == b"Sun, 06 Nov 1994 08:49:38 GMT"
