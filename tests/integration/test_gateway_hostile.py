"""The gateway with everybody against it, over real sockets.

The oracle is the handler's own list of what it was given: a request that is refused
is not in it, and neither is what came after it on the same connection.
"""

import gc
import random
import tracemalloc
from collections.abc import Iterator

import pytest

from tests import documents
from tests.gateway_server import PATIENT, Client, Closed, Gateway, ask, cut_bytes, running_gateway
from tests.hostile_requests import BODY_BYTES_MAX, TABLE, Hostile

AFTER = b"GET /after HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with running_gateway(PATIENT, body_bytes_max=BODY_BYTES_MAX) as gateway:
        yield gateway


def attempt(gateway: Gateway, case: Hostile, pieces: list[bytes]) -> None:
    """Send ``pieces`` and compare everything that can be seen from either side."""
    gateway.requests.clear()
    gateway.crashes.clear()
    seen = list(case.seen)
    with Client(gateway.port) as client:
        client.send(*pieces)
        if case.ends:
            client.finish()
        statuses = []
        for index in range(len(case.statuses)):
            answer = client.read("HEAD" if index in case.head_at else "GET")
            statuses.append(answer.status)
            if answer.status >= 400:
                assert answer.header("content-type") == "application/problem+json"
                if index not in case.head_at:
                    documents.check_problem(answer.body)
                assert answer.header("connection") == "close"
        assert tuple(statuses) == case.statuses
        if case.closed or case.ends:
            assert client.wait_closed() == "closed"
        else:
            client.send(AFTER)
            assert client.read().status == 200
            seen.append("GET /after")
        assert client.buffer == b""
    assert ask(gateway.port).status == 200
    seen.append("GET /fresh")
    assert gateway.seen == seen
    if case.bodies is not None:
        assert tuple(request.body for request in gateway.requests[: len(case.bodies)]) == case.bodies
    assert gateway.crashes == []


def cut_small(raw: bytes) -> list[bytes]:
    """Byte by byte; where that would take for ever, byte by byte around the edges of a long middle."""
    if len(raw) <= 2000:
        return cut_bytes(raw, range(len(raw)))
    return cut_bytes(raw, [*range(100), *range(100, len(raw) - 100, 997), *range(len(raw) - 100, len(raw))])


def cut_somewhere(raw: bytes, seed: str) -> list[bytes]:
    chance = random.Random(seed)
    return cut_bytes(raw, [chance.randrange(len(raw)) for _ in range(chance.randint(1, 5))] if raw else [])


CASES = [pytest.param(case, id=case.name) for case in TABLE]


def test_the_table_is_long_enough_and_names_nothing_twice() -> None:
    names = [case.name for case in TABLE]
    assert len(names) >= 200
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("case", CASES)
def test_a_hostile_request_is_answered_and_hides_no_other(gateway: Gateway, case: Hostile) -> None:
    attempt(gateway, case, [case.raw])


@pytest.mark.parametrize("case", CASES)
def test_byte_by_byte_the_answer_is_the_same(gateway: Gateway, case: Hostile) -> None:
    attempt(gateway, case, cut_small(case.raw))


@pytest.mark.parametrize("case", CASES)
def test_however_it_is_cut_the_answer_is_the_same(gateway: Gateway, case: Hostile) -> None:
    attempt(gateway, case, cut_somewhere(case.raw, case.name))


def test_memory_stays_flat_however_often_they_try(gateway: Gateway) -> None:
    def round_of_all() -> None:
        for case in TABLE:
            attempt(gateway, case, [case.raw])

    tracemalloc.start()
    try:
        round_of_all()
        gateway.requests.clear()
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        round_of_all()
        gateway.requests.clear()
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 64 * 1024, f"{len(TABLE)} attempts left {after - before} bytes behind"


def test_a_client_that_leaves_anywhere_leaves_nothing_behind(gateway: Gateway) -> None:
    """Resets and closes after each byte of a request: nobody crashes, and others are served."""
    raw = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
    gateway.requests.clear()
    for end in range(len(raw)):
        with Client(gateway.port) as client:
            client.send(raw[:end])
            if end % 2:
                client.reset()
    assert ask(gateway.port).status == 200
    assert gateway.seen == ["GET /fresh"]
    assert gateway.crashes == []


def test_random_bytes_never_crash_it(gateway: Gateway) -> None:
    chance = random.Random(7)
    gateway.crashes.clear()
    for _ in range(300):
        case = chance.choice(TABLE)
        raw = bytearray(case.raw[:4000])
        for _ in range(chance.randint(1, 6)):
            if raw:
                raw[chance.randrange(len(raw))] = chance.randrange(256)
        with Client(gateway.port) as client:
            client.send(bytes(raw))
            client.finish()
            try:
                said = client.read_to_end()
            except Closed:
                said = client.buffer
            assert said == b"" or said.startswith(b"HTTP/1.1 ")
    assert ask(gateway.port).status == 200
    assert gateway.crashes == []
