"""Outbound HTTP with everybody against us: servers that lie, guests that inject, names that turn.

Every refusal has a counter beside it that says nothing arrived.
"""

import tracemalloc
from collections.abc import AsyncIterator
from functools import partial

import pytest
import trio

from flux.grants import Grants, Origin
from flux.hostcalls.http_addresses import check_address
from flux.hostcalls.http_client import HttpClient
from flux.hostcalls.http_network import Network
from flux.hostcalls.http_outbound import (
    DEFAULT_TIMEOUT_S,
    OutboundError,
    OutboundPolicy,
    OutboundRequest,
    parse_url,
)
from tests.stub_http import OK, Behave, Names, Peer, always_ok, answers, failure, get, policy_for, serving


@pytest.fixture
async def client() -> AsyncIterator[HttpClient]:
    with HttpClient() as client:
        yield client


# Addresses

PRIVATE = {
    "127.0.0.1": "loopback",
    "127.8.8.8": "loopback",
    "0.0.0.0": "unspecified",
    "0.1.2.3": "unspecified",
    "10.1.2.3": "private",
    "172.16.0.1": "private",
    "172.31.255.255": "private",
    "192.168.1.1": "private",
    "100.64.0.1": "carrier",
    "100.100.100.200": "carrier",
    "169.254.169.254": "metadata",
    "168.63.129.16": "metadata",
    "192.0.0.192": "reserved",
    "198.18.0.1": "benchmarking",
    "192.0.2.1": "documentation",
    "224.0.0.1": "multicast",
    "239.255.255.250": "multicast",
    "255.255.255.255": "reserved",
    "240.0.0.1": "reserved",
    "::1": "loopback",
    "::": "unspecified",
    "fc00::1": "private",
    "fd00:ec2::254": "private",
    "fec0::1": "private",
    "fe80::1": "link-local",
    "fe80::1%eth0": "link-local",
    "ff02::1": "multicast",
    "2001:db8::1": "documentation",
    "2001::1": "reserved",
    "5f00::1": "reserved",
    "100::1": "reserved",
    "::7f00:1": "reserved",
    "::ffff:127.0.0.1": "loopback",
    "::ffff:169.254.169.254": "metadata",
    "2002:7f00:1::1": "loopback",
    "2002:a9fe:a9fe::": "metadata",
    "64:ff9b::10.0.0.1": "private",
    "64:ff9b::a9fe:a9fe": "metadata",
    "64:ff9b:1::1": "reserved",
    "2606:4700::5efe:10.0.0.1": "private",
    "2606:4700:0:0:200:5efe:7f00:1": "loopback",
}


@pytest.mark.parametrize(("address", "kind"), PRIVATE.items())
async def test_a_name_that_points_inwards_is_refused(address: str, kind: str) -> None:
    names = Names(api_test=["8.8.8.8", address])
    with HttpClient(network=Network(names)) as client:
        error = await failure(
            client, get("https://api.test/"), OutboundPolicy("acme", Grants.parse(["api.test"]))
        )
    assert (error.kind, error.host, error.port) == ("private_address", "api.test", 443)
    assert kind in error.message
    assert names.asked == ["api.test"]


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "172.32.0.1",
        "100.128.0.1",
        "169.253.1.1",
        "2606:4700::1111",
        "2a00:1450::1",
        "::ffff:8.8.8.8",
        "64:ff9b::808:808",
        "2002:808:808::1",
    ],
)
def test_a_public_address_is_not_refused(address: str) -> None:
    assert check_address(address, Origin("https", "api.test", 443), Grants()) is not None


@pytest.mark.parametrize(
    ("host", "kind"),
    [
        ("127.0.0.1", "private_address"),
        ("[::1]", "private_address"),
        ("localhost", "private_address"),
        ("LOCALHOST.", "private_address"),
        ("[::ffff:127.0.0.1]", "private_address"),
        ("other.test", "refused_grant"),
        ("127.1", "url"),
        ("2130706433", "url"),
        ("0x7f000001", "url"),
        ("0177.0.0.1", "url"),
        ("127.0.0.01", "url"),
        ("１２７.0.0.1", "url"),
        ("127。0。0。1", "url"),
        ("u:p@127.0.0.1", "url"),
        ("localhost%00.test", "url"),
        ("[::1%25lo]", "url"),
        ("api.test@localhost", "url"),
        ("", "url"),
        ("..", "url"),
        ("api\\.test", "url"),
    ],
)
async def test_no_spelling_of_loopback_gets_through(client: HttpClient, host: str, kind: str) -> None:
    grants = Grants.parse(["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "api.test"])
    error = await failure(client, get(f"http://{host}/"), OutboundPolicy("acme", grants))
    assert error.kind == kind


async def test_a_name_that_turns_private_after_the_check_is_never_asked_again() -> None:
    turns = iter([["127.0.0.1"], ["10.0.0.1"], ["10.0.0.1"]])
    asked = []

    async def rebinding(host: str, _port: int, _limiter: trio.CapacityLimiter) -> list[str]:
        await trio.lowlevel.checkpoint()
        asked.append(host)
        return next(turns)

    async with serving(always_ok) as stub:
        policy = policy_for(stub.port, also=(f"api.test:{stub.port}",))
        with HttpClient(network=Network(rebinding)) as client:
            for _ in range(3):
                response = await client.request(get(stub.url(host="api.test")), policy)
                assert response.address == f"127.0.0.1:{stub.port}"
    assert asked == ["api.test"]
    assert (stub.connections, len(stub.received)) == (1, 3)


async def test_nothing_is_asked_of_anybody_without_a_grant() -> None:
    names = Names(api_test=["127.0.0.1"])
    async with serving(always_ok) as stub:
        with HttpClient(network=Network(names)) as client:
            for grants in ([], ["api.test"], ["*.api.test:" + str(stub.port)]):
                policy = OutboundPolicy("acme", Grants.parse(grants))
                error = await failure(client, get(stub.url(host="api.test")), policy)
                assert error.kind == "refused_grant"
    assert (names.asked, stub.connections) == ([], 0)


# What a guest may not send


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Host", "evil.test"),
        ("Content-Length", "5"),
        ("transfer-encoding", "chunked"),
        ("Connection", "close"),
        ("Keep-Alive", "1"),
        ("Upgrade", "h2c"),
        ("TE", "trailers"),
        ("Trailer", "x"),
        ("Proxy-Authorization", "x"),
        ("Expect", "100-continue"),
        ("x-a", "b\r\nx-evil: 1"),
        ("x-a", "b\nc"),
        ("x-a", "b\rc"),
        ("x-a", "b\0c"),
        ("x-a", "é"),
        ("x-a", "\x7f"),
        ("x a", "b"),
        ("x-a:", "b"),
        ("", "b"),
        ("x-a\r\nx-evil", "b"),
        ("é", "b"),
        ("x-big", "b" * 70_000),
    ],
)
async def test_a_header_that_could_move_the_end_of_the_message_is_refused(
    client: HttpClient, name: str, value: str
) -> None:
    async with serving(always_ok) as stub:
        error = await failure(client, get(stub.url(), headers=((name, value),)), policy_for(stub.port))
    assert error.kind == "header"
    assert stub.connections == 0


@pytest.mark.parametrize("method", ["", "GET /", "GET\r\n", "CONNECT", "trace", "GÉT", "A" * 33])
async def test_a_method_that_is_none_is_refused(client: HttpClient, method: str) -> None:
    async with serving(always_ok) as stub:
        error = await failure(client, OutboundRequest(method, stub.url()), policy_for(stub.port))
    assert (error.kind, stub.connections) == ("header", 0)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/path",
        "example.com",
        "//example.com/",
        "file:///etc/passwd",
        "gopher://a.test/",
        "http:/a.test",
        "http://a.test/\r\nx: y",
        "http://a.test/a b",
        "http://a.test\t/",
        "http://a.test:99999/",
        "http://a.test:x/",
        "http://a.test:/",
        "http://a.test/\ud800",
        "http://a.test/" + "a" * 20_000,
    ],
)
async def test_a_url_with_no_single_reading_is_refused(client: HttpClient, url: str) -> None:
    error = await failure(client, get(url), OutboundPolicy("acme", Grants.parse(["a.test", "*.test"])))
    assert error.kind == "url"


def test_a_password_in_a_url_is_not_repeated_in_the_refusal() -> None:
    with pytest.raises(OutboundError) as caught:
        parse_url("https://user:hunter2@api.test/")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("value", [b"a\r\nx-evil: 1", b"\x00", "é".encode()])
async def test_a_secret_that_no_header_can_carry_is_not_shown(client: HttpClient, value: bytes) -> None:
    async with serving(always_ok) as stub:
        request = get(stub.url(), headers=(("x-key", "HANDLE"),))
        with pytest.raises(OutboundError) as caught:
            await client.request(
                request, policy_for(stub.port), substitute=lambda data: data.replace(b"HANDLE", value)
            )
    assert caught.value.kind == "header"
    assert value.decode() not in caught.value.message
    assert len(stub.received) == 0


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, float("nan"), float("inf")])
async def test_a_time_limit_is_a_positive_number(client: HttpClient, timeout_s: float) -> None:
    async with serving(always_ok) as stub:
        error = await failure(client, get(stub.url(), timeout_s=timeout_s), policy_for(stub.port))
    assert (error.kind, stub.connections) == ("header", 0)


# Servers that stall

LIMITS_S = (0.2, 1.0, 5.0)
"""Tried one after the other: on a busy machine the first may pass before it comes to where the server stalls."""


async def drips(peer: Peer) -> None:
    await peer.read()
    await peer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
    for _ in range(1000):
        await peer.write(b"x")
        await trio.sleep(0.02)


async def drips_headers(peer: Peer) -> None:
    await peer.read()
    for byte in b"HTTP/1.1 200 OK\r\n" + b"x-a: b\r\n" * 1000:
        await peer.write(bytes([byte]))
        await trio.sleep(0.02)


async def never_answers(peer: Peer) -> None:
    while True:
        await peer.more()


async def never_reads(_peer: Peer) -> None:
    await trio.sleep_forever()


@pytest.mark.parametrize(
    ("behave", "body", "phase"),
    [
        (drips, b"", "body"),
        (drips_headers, b"", "headers"),
        (never_answers, b"x", "first byte"),
        (never_reads, b"x" * 30_000_000, "sending"),
    ],
    ids=["drips", "drips headers", "never answers", "never reads"],
)
async def test_a_server_that_stalls_costs_its_limit_and_no_more(
    client: HttpClient, behave: Behave, body: bytes, phase: str
) -> None:
    for limit_s in LIMITS_S:
        async with serving(behave) as stub:
            policy = policy_for(stub.port, timeout_s=limit_s)
            error = await failure(client, OutboundRequest("POST", stub.url(), body=body), policy)
            assert error.kind == "timeout"
            assert (error.limit_s, error.limit_source) == (limit_s, "default")
            assert limit_s <= error.elapsed_s < limit_s + DEFAULT_TIMEOUT_S / 2
            if phase in error.message:
                if behave is not never_reads:
                    await stub.wait_left()
                return
    raise AssertionError(error.message)


async def test_tls_that_never_shakes_hands_is_a_time_out(client: HttpClient) -> None:
    for limit_s in LIMITS_S:
        async with serving(never_answers) as stub:
            request = get(f"https://127.0.0.1:{stub.port}/", timeout_s=limit_s)
            error = await failure(client, request, policy_for(stub.port))
        assert error.kind == "timeout"
        if "negotiating TLS" in error.message:
            return
    raise AssertionError(error.message)


async def test_resolution_counts_against_the_limit() -> None:
    async def slow(_host: str, _port: int, _limiter: trio.CapacityLimiter) -> list[str]:
        await trio.sleep_forever()
        return []

    with HttpClient(network=Network(slow)) as client:
        policy = OutboundPolicy("acme", Grants.parse(["api.test"]))
        error = await failure(client, get("http://api.test/", timeout_s=0.05), policy)
    assert error.kind == "timeout"
    assert "resolving the name" in error.message


async def test_redirects_share_one_limit(client: HttpClient) -> None:
    async def slowly_on(peer: Peer) -> None:
        while True:
            await peer.read()
            await trio.sleep(0.08)
            await peer.write(b"HTTP/1.1 302 x\r\nlocation: /on\r\ncontent-length: 0\r\n\r\n")

    async with serving(slowly_on) as stub:
        error = await failure(client, get(stub.url(), timeout_s=0.2, redirects=20), policy_for(stub.port))
    assert error.kind == "timeout"
    assert len(stub.received) <= 3


# Servers that lie

HEAD = b"HTTP/1.1 200 OK\r\n"
LIES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "protocol"),
    "no HTTP": (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "protocol"),
    "HTTP/2": (b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + b"\x00" * 18, "protocol"),
    "half a head": (HEAD + b"content-le", "protocol"),
    "half a body": (HEAD + b"content-length: 10\r\n\r\nhalf", "protocol"),
    "half a chunk": (HEAD + b"transfer-encoding: chunked\r\n\r\na\r\nhalf", "protocol"),
    "no last chunk": (HEAD + b"transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n", "protocol"),
    "no number for a chunk": (HEAD + b"transfer-encoding: chunked\r\n\r\n-1\r\nx\r\n", "protocol"),
    "two lengths": (HEAD + b"content-length: 2\r\ncontent-length: 3\r\n\r\nok!", "protocol"),
    "negative length": (HEAD + b"content-length: -1\r\n\r\n", "protocol"),
    "length and chunks": (
        HEAD + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "protocol",
    ),
    "unknown coding": (HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "protocol"),
    "folded into a header": (HEAD + b"x-a: b\x00c\r\ncontent-length: 0\r\n\r\n", "protocol"),
    "space before the colon": (HEAD + b"content-length : 0\r\n\r\n", "protocol"),
    "upgrade nobody asked for": (
        b"HTTP/1.1 101 x\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n",
        "protocol",
    ),
    "interim for ever": (b"HTTP/1.1 103 Early Hints\r\n\r\n" * 40 + OK, "protocol"),
    "huge header": (HEAD + b"x-a: " + b"a" * 200_000 + b"\r\ncontent-length: 0\r\n\r\n", "too_large"),
    "header without end": (HEAD + b"x-a: " + b"a" * 2_000_000, "too_large"),
    "many headers": (HEAD + b"x-a: b\r\n" * 300 + b"content-length: 0\r\n\r\n", "too_large"),
    "announced giant": (HEAD + b"content-length: 99999999999\r\n\r\nx", "too_large"),
    "length of many digits": (HEAD + b"content-length: " + b"9" * 5000 + b"\r\n\r\nx", "protocol"),
    "giant": (HEAD + b"content-length: 20000\r\n\r\n" + b"x" * 20_000, "too_large"),
    "giant in chunks": (HEAD + b"transfer-encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 20_000, "too_large"),
    "giant until the end": (HEAD + b"\r\n" + b"x" * 20_000, "too_large"),
    "giant trailer": (
        HEAD + b"transfer-encoding: chunked\r\n\r\n0\r\nx: " + b"x" * 2_000_000 + b"\r\n\r\n",
        "too_large",
    ),
}


@pytest.mark.parametrize(("wire", "kind"), LIES.values(), ids=LIES.keys())
async def test_a_server_that_lies_is_an_error_and_its_connection_is_gone(
    client: HttpClient, wire: bytes, kind: str
) -> None:
    async with serving(answers(wire, close=True)) as stub:
        policy = policy_for(stub.port, response_bytes_max=10_000, timeout_s=5)
        error = await failure(client, get(stub.url()), policy)
        assert error.kind == kind, error.message
        assert (error.host, error.port) == ("127.0.0.1", stub.port)
        await stub.wait_left()
    assert (stub.connections, len(stub.received)) == (1, 1)


async def test_a_redirect_with_a_huge_body_is_followed_without_reading_it(client: HttpClient) -> None:
    async def huge(peer: Peer) -> None:
        request = await peer.read()
        if request.line.startswith("GET /end"):
            await peer.write(OK)
            return
        await peer.write(b"HTTP/1.1 302 x\r\nlocation: /end\r\ncontent-length: 50000000\r\n\r\n")
        for _ in range(500):
            await peer.write(b"x" * 100_000)

    async with serving(huge) as stub:
        response = await client.request(get(stub.url(), redirects=1), policy_for(stub.port))
    assert response.body == b"ok"
    assert stub.connections == 2


@pytest.mark.parametrize(
    "location",
    [
        "http://u:p@127.0.0.1/",
        "http://127.0.0.1:0/",
        "ftp://127.0.0.1/",
        "http://127.1/",
        "javascript:1",
        "http://[/",
        "http://a b/",
        "//[::1",
        "http://" + "a" * 300,
    ],
)
async def test_a_location_that_is_no_plain_url_is_refused(client: HttpClient, location: str) -> None:
    wire = b"HTTP/1.1 302 x\r\nlocation: %b\r\ncontent-length: 0\r\n\r\n" % location.encode()
    async with serving(answers(wire)) as stub:
        error = await failure(client, get(stub.url(), redirects=5), policy_for(stub.port, also=("*.test",)))
    assert error.kind == "redirects"
    assert len(stub.received) == 1


async def test_bytes_behind_an_answer_never_become_the_next_answer(client: HttpClient) -> None:
    async with serving(answers(OK + b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison")) as stub:
        for _ in range(3):
            response = await client.request(get(stub.url()), policy_for(stub.port))
            assert response.body == b"ok"
    assert (stub.connections, len(stub.received)) == (3, 3)


async def test_an_answer_sent_before_the_question_is_not_taken_for_one(client: HttpClient) -> None:
    answered, poisoned = trio.Event(), trio.Event()

    async def eager(peer: Peer) -> None:
        await peer.read()
        await peer.write(OK)
        await answered.wait()
        await peer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison")
        poisoned.set()
        await peer.more()

    async with serving(eager) as stub:
        for _ in range(2):
            answered, poisoned = trio.Event(), trio.Event()
            assert (await client.request(get(stub.url()), policy_for(stub.port))).body == b"ok"
            answered.set()
            await poisoned.wait()
    assert stub.connections == 2


async def test_an_early_answer_to_a_body_that_nobody_reads_is_heard(client: HttpClient) -> None:
    async def too_much(peer: Peer) -> None:
        while b"\r\n\r\n" not in peer.buffer:
            await peer.more()
        await peer.write(b"HTTP/1.1 413 Too Much\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        while True:
            await peer.more()
            peer.buffer = b""

    async with serving(too_much) as stub:
        request = OutboundRequest("POST", stub.url(), body=b"x" * 5_000_000)
        response = await client.request(request, policy_for(stub.port))
        assert response.status == 413
        await stub.wait_left()


async def test_a_flood_of_tiny_chunks_costs_little_memory_and_lets_others_run(
    client: HttpClient,
) -> None:
    size = 60_000
    wire = HEAD + b"transfer-encoding: chunked\r\n\r\n" + b"2\r\nxy\r\n" * (size // 2) + b"0\r\n\r\n"
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with serving(answers(wire)) as stub, trio.open_nursery() as nursery:
        policy = policy_for(stub.port, timeout_s=60)
        await client.request(get(stub.url()), policy)  # what is allocated once, is
        nursery.start_soon(count_turns)
        tracemalloc.start()
        try:
            response = await client.request(get(stub.url()), policy)
            _now, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        nursery.cancel_scope.cancel()
    assert response.body == b"xy" * (size // 2)
    assert peak_bytes < 12 * size
    assert turns > 40


@pytest.mark.parametrize("after_s", [0.0, 0.0005, 0.001, 0.002, 0.004, 0.008])
async def test_cancelling_at_any_moment_leaves_no_connection_behind(
    client: HttpClient, after_s: float
) -> None:
    async def slow(peer: Peer) -> None:
        while True:
            request = await peer.read()
            await trio.sleep(0.001)
            body = request.line.encode()
            await peer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body))
            await trio.sleep(0.001)
            await peer.write(body)

    async with serving(slow) as stub:
        policy = policy_for(stub.port)
        for turn in range(10):
            with trio.move_on_after(after_s):
                await client.request(get(stub.url(f"/cut{turn}")), policy)
            response = await client.request(get(stub.url(f"/whole{turn}")), policy)
            assert response.body == b"GET /whole%d HTTP/1.1" % turn
        client.close_nowait()
        await stub.wait_left()


async def test_names_that_fail_are_named() -> None:
    async def fails(_host: str, _port: int, _limiter: trio.CapacityLimiter, *, error: Exception) -> list[str]:
        await trio.lowlevel.checkpoint()
        raise error

    policy = OutboundPolicy("acme", Grants.parse(["api.test"]))
    for error in (OSError(-2, "Name or service not known"), UnicodeError("label too long")):
        with HttpClient(network=Network(partial(fails, error=error))) as client:
            refusal = await failure(client, get("http://api.test/"), policy)
        assert refusal.kind == "resolve"
        assert "api.test has no address" in refusal.message
    with HttpClient(network=Network(Names(api_test=[]))) as client:
        assert (await failure(client, get("http://api.test/"), policy)).kind == "resolve"
