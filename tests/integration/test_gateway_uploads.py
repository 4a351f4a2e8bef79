"""Bodies that the gateway does not hold: where they go, and that they are let go of, whatever the client does.

The upload here is the test's own, and counts; so is the client.
"""

import threading

import attrs
import pytest

from flux.http_rules import HttpRefusal
from flux.message import Admission, HttpRequest, HttpResponse
from tests.gateway_server import PATIENCE_S, Client, running_gateway

HELD_MAX = 1000
BODY = bytes(range(256)) * 200


class Kept:
    """An upload that keeps all it gets."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.closed = threading.Event()
        self.is_full = False

    async def write(self, piece: bytes) -> None:
        assert not self.closed.is_set()
        if self.is_full:
            raise HttpRefusal(503, "OVERLOADED", "there is no room")
        self.pieces.append(piece)

    def close(self) -> None:
        self.closed.set()


async def tell_size(request: HttpRequest) -> HttpResponse:
    upload = request.upload
    kept = b"".join(upload.pieces) if isinstance(upload, Kept) else b"-"
    return HttpResponse(200, (), b"%d held, %b" % (len(request.body), b"%d kept" % len(kept) if upload else b"none"))


def admit(kept: list[Kept], *, is_full: bool = False) -> Admission:
    def open_upload() -> Kept:
        kept.append(Kept())
        kept[-1].is_full = is_full
        return kept[-1]

    return Admission(HELD_MAX, upload_bytes_max=100_000, open_upload=open_upload)


def chunked(body: bytes) -> bytes:
    cut = [body[start : start + 700] for start in range(0, len(body), 700)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in cut) + b"0\r\n\r\n"


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_that_is_larger_than_is_held_goes_to_the_upload_whole(is_chunked: bool) -> None:
    kept: list[Kept] = []
    with running_gateway(handle=tell_size) as gateway:
        gateway.admission = admit(kept)
        with Client(gateway.port) as client:
            for body in (BODY, b"x" * HELD_MAX, BODY):  # The connection goes on behind each.
                framing = b"Transfer-Encoding: chunked" if is_chunked else b"Content-Length: %d" % len(body)
                client.send(b"PUT / HTTP/1.1\r\nHost: x\r\n" + framing + b"\r\n\r\n")
                client.send(chunked(body) if is_chunked else body)
                answer = client.read()
                is_kept = len(body) > HELD_MAX
                assert answer.body == (b"0 held, %d kept" % len(body) if is_kept else b"1000 held, none")
        assert [b"".join(one.pieces) for one in kept] == [BODY, BODY]
        assert all(one.closed.wait(PATIENCE_S) for one in kept)
        assert gateway.crashes == []


def test_an_upload_is_let_go_of_when_its_client_vanishes_or_it_finds_no_room_or_is_too_large() -> None:
    kept: list[Kept] = []
    with running_gateway(handle=tell_size) as gateway:
        gateway.admission = admit(kept)
        head = b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 50000\r\n\r\n"
        for leave in (Client.finish, Client.reset):
            with Client(gateway.port) as client:
                client.send(head, BODY[:2000])
                leave(client)
                if leave is Client.finish:
                    assert client.read().status == 400
        with Client(gateway.port) as client:
            client.send(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 100001\r\n\r\n")
            assert client.read().status == 413
        with Client(gateway.port) as client:
            client.send(b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", chunked(BODY * 2))
            assert client.read().status == 413
        gateway.admission = admit(kept, is_full=True)
        with Client(gateway.port) as client:
            client.send(head, BODY[:2000])
            assert client.read().status == 503
        gateway.admission = attrs.evolve(gateway.admission, open_upload=None, upload_bytes_max=0)
        with Client(gateway.port) as client:
            client.send(head)
            assert client.read().status == 413
    # The gateway has drained: every connection has ended.
    assert all(one.closed.is_set() for one in kept) and len(kept) >= 3
    assert gateway.crashes == [] and gateway.requests == []
