"""Outbound HTTP against stub servers on loopback, whose counters say what really arrived."""

import hashlib
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing
import trustme

from flux import __version__, values
from flux.grants import Grants
from flux.hostcalls.base import HostCallFailed
from flux.hostcalls.http import REQUEST
from flux.hostcalls.http_client import HttpClient
from flux.hostcalls.http_network import Network
from flux.hostcalls.http_outbound import OutboundError, OutboundPolicy, OutboundRequest
from flux.limits import Limits
from flux.trace_context import Propagation
from tests.stub_http import OK, Behave, Names, Peer, always_ok, answers, failure, get, policy_for, serving

MakeClient = Callable[..., HttpClient]


@pytest.fixture
async def make_client() -> AsyncIterator[MakeClient]:
    """Make clients, and close what they kept open, while trio still runs."""
    with ExitStack() as stack:
        yield lambda *names: stack.enter_context(HttpClient(network=Network(*names)))


@pytest.fixture
async def client(make_client: MakeClient) -> HttpClient:
    return make_client()


# What is sent and what comes back


async def test_what_the_function_sends_arrives_and_the_answer_comes_back_whole(client: HttpClient) -> None:
    answer = b"HTTP/1.1 201 Created\r\nX-One: 1\r\nx-one: 2\r\nContent-Length: 5\r\n\r\nhello"
    async with serving(answers(answer)) as stub:
        request = OutboundRequest("post", stub.url("/a?b=c#d"), (("X-Key", "v"), ("x-key", "w")), b"{}")
        response = await client.request(request, policy_for(stub.port))
    (seen,) = stub.received
    assert seen.line == "POST /a?b=c HTTP/1.1"
    assert seen.body == b"{}"
    assert seen.all("x-key") == ["v", "w"]
    assert seen.all("host") == [f"127.0.0.1:{stub.port}"]
    assert seen.all("user-agent") == [f"flux/{__version__}"]
    assert (response.status, response.body) == (201, b"hello")
    assert [value for name, value in response.headers if name == "x-one"] == ["1", "2"]
    assert response.url == stub.url("/a?b=c")
    assert response.address == f"127.0.0.1:{stub.port}"
    assert response.timings.connect_ns > 0
    assert response.timings.total_ns >= response.timings.first_byte_ns > 0


async def test_a_function_may_name_its_own_user_agent(client: HttpClient) -> None:
    async with serving(always_ok) as stub:
        await client.request(get(stub.url(), headers=(("User-Agent", "mine"),)), policy_for(stub.port))
    assert stub.received[0].all("user-agent") == ["mine"]


@pytest.mark.parametrize("chunked", [False, True])
async def test_bodies_are_equal_by_hash_on_both_sides(client: HttpClient, *, chunked: bool) -> None:
    sent = bytes(range(256)) * 9000 + b"\r\n0\r\n\r\n\x1f\x8b"
    if chunked:
        pieces = [sent[start : start + 50_000] for start in range(0, len(sent), 50_000)]
        wire = b"transfer-encoding: chunked\r\n\r\n"
        wire += b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    else:
        wire = b"content-length: %d\r\n\r\n%b" % (len(sent), sent)
    async with serving(answers(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n" + wire)) as stub:
        request = OutboundRequest("PUT", stub.url(), body=sent)
        response = await client.request(request, policy_for(stub.port))
    want = hashlib.sha256(sent).hexdigest()
    assert hashlib.sha256(stub.received[0].body).hexdigest() == want
    assert hashlib.sha256(response.body).hexdigest() == want
    assert stub.received[0].all("accept-encoding") == ["identity"]


async def test_the_environment_names_no_proxy(client: HttpClient, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(always_ok) as proxy, serving(always_ok) as stub:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url())
        await client.request(get(stub.url()), policy_for(stub.port, proxy.port))
    assert (proxy.connections, stub.connections) == (0, 1)


async def test_no_cookie_is_remembered(client: HttpClient) -> None:
    async with serving(answers(b"HTTP/1.1 200 OK\r\nset-cookie: a=b\r\ncontent-length: 0\r\n\r\n")) as stub:
        for _ in range(2):
            await client.request(get(stub.url()), policy_for(stub.port))
    assert [request.all("cookie") for request in stub.received] == [[], []]


# Connections


async def test_a_connection_serves_again_but_only_its_own_tenant_and_grants(client: HttpClient) -> None:
    async with serving(always_ok) as stub:
        for _ in range(5):
            await client.request(get(stub.url()), policy_for(stub.port))
        assert stub.connections == 1
        await client.request(get(stub.url()), policy_for(stub.port, tenant="globex"))
        assert stub.connections == 2
        await client.request(get(stub.url()), policy_for(stub.port, also=("api.test",)))
        assert stub.connections == 3
        await client.request(get(stub.url()), policy_for(stub.port, tenant="globex"))
        assert stub.connections == 3
        client.close_nowait()
        await client.request(get(stub.url()), policy_for(stub.port))
        assert stub.connections == 4


async def test_concurrent_requests_each_get_their_own_answer(client: HttpClient) -> None:
    async def echo(peer: Peer) -> None:
        while True:
            path = (await peer.read()).line.split()[1].encode()
            await trio.sleep(0.001 * (len(path) % 3))
            await peer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(path), path))

    heard: dict[str, bytes] = {}

    async def ask(number: int) -> None:
        for turn in range(3):
            path = f"/{'x' * (number % 5)}{number}-{turn}"
            heard[path] = (await client.request(get(stub.url(path)), policy)).body

    async with serving(echo) as stub:
        policy = policy_for(stub.port)
        async with trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(ask, number)
    assert len(heard) == 120
    assert [path for path, body in heard.items() if body != path.encode()] == []
    assert stub.connections <= 40


async def test_an_idle_connection_that_the_server_closed_is_not_used(client: HttpClient) -> None:
    async with serving(answers(OK, close=True)) as stub:
        for _ in range(3):
            await client.request(OutboundRequest("POST", stub.url()), policy_for(stub.port))
            await stub.wait_left()
    assert (stub.connections, len(stub.received)) == (3, 3)


@pytest.mark.parametrize(("method", "hits"), [("GET", 3), ("PUT", 3), ("POST", 2)])
async def test_a_request_is_repeated_only_when_asking_twice_is_harmless(
    client: HttpClient, method: str, hits: int
) -> None:
    async def answers_once(peer: Peer) -> None:
        await peer.read()
        await peer.write(OK)
        await peer.read()  # heard, and never answered

    async with serving(answers_once) as stub:
        policy = policy_for(stub.port)
        await client.request(OutboundRequest(method, stub.url()), policy)
        if method == "POST":
            error = await failure(client, OutboundRequest(method, stub.url()), policy)
            assert error.kind == "protocol"
            assert "does not repeat" in error.message
        else:
            await client.request(OutboundRequest(method, stub.url()), policy)
    assert len(stub.received) == hits


@pytest.mark.parametrize("stage", ["before headers", "inside headers", "inside body"])
async def test_a_cancelled_request_leaves_its_connection_to_nobody(client: HttpClient, stage: str) -> None:
    reached = trio.Event()

    async def stalls(peer: Peer) -> None:
        request = await peer.read()
        if "/stall" in request.line:
            part = {
                "before headers": b"",
                "inside headers": b"HTTP/1.1 200 OK\r\ncont",
                "inside body": OK[:-1],
            }
            await peer.write(part[stage])
            reached.set()
            await peer.read()
        await peer.write(OK)
        await peer.read()

    async with serving(stalls) as stub:
        policy = policy_for(stub.port)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.request, get(stub.url("/stall")), policy)
            await reached.wait()
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        response = await client.request(get(stub.url("/next")), policy)
    assert response.body == b"ok"
    assert stub.connections == 2
    assert stub.lines == ["GET /stall HTTP/1.1", "GET /next HTTP/1.1"]


async def test_a_cancelled_connection_is_closed_at_once(client: HttpClient) -> None:
    reached = trio.Event()

    async def never(peer: Peer) -> None:
        await peer.read()
        reached.set()
        await peer.read()

    async with serving(never) as stub:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.request, get(stub.url()), policy_for(stub.port))
            await reached.wait()
            nursery.cancel_scope.cancel()
        await stub.wait_left()


async def test_one_tenant_may_fill_its_own_turns_only(
    client: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flux.hostcalls.http_client.CONNECTIONS_PER_TENANT_MAX", 2)

    async def silent(peer: Peer) -> None:
        await peer.read()
        if "/ok" in peer.stub.lines[-1]:
            await peer.write(OK)
        await peer.read()

    async with serving(silent) as stub, trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(client.request, get(stub.url("/hang")), policy_for(stub.port))
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert stub.connections == 2
        response = await client.request(get(stub.url("/ok")), policy_for(stub.port, tenant="globex"))
        assert response.status == 200
        assert stub.connections == 3
        error = await failure(client, get(stub.url("/ok"), timeout_s=0.05), policy_for(stub.port))
        assert "waiting for its turn" in error.message
        nursery.cancel_scope.cancel()


# Names, addresses, TLS


async def test_a_name_is_resolved_once_and_the_judged_address_is_the_one_used(
    make_client: MakeClient,
) -> None:
    names = Names(api_test=["127.0.0.1"])
    client = make_client(names)
    async with serving(always_ok) as stub:
        policy = policy_for(stub.port, also=(f"api.test:{stub.port}",))
        response = await client.request(get(stub.url(host="API.test.")), policy)
        assert response.address == f"127.0.0.1:{stub.port}"
        assert names.asked == ["api.test"]
        assert stub.received[0].all("host") == [f"api.test:{stub.port}"]
        names.addresses["api.test"] = ["10.0.0.1"]  # rebinding: the next connection is judged again
        client.close_nowait()
        error = await failure(client, get(stub.url(host="api.test")), policy)
    assert (error.kind, error.host, error.port) == ("private_address", "api.test", stub.port)
    assert stub.connections == 1


async def test_a_name_in_another_script_travels_as_ascii(make_client: MakeClient) -> None:
    names = Names(**{"xn--bcher-kva_test": ["127.0.0.1"]})
    async with serving(always_ok) as stub:
        policy = policy_for(stub.port, also=(f"bücher.test:{stub.port}",))
        client = make_client(names)
        await client.request(get(stub.url("/é?ü=1", host="BÜCHER.test")), policy)
    assert stub.received[0].all("host") == [f"xn--bcher-kva.test:{stub.port}"]
    assert stub.lines == ["GET /%C3%A9?%C3%BC=1 HTTP/1.1"]


async def test_ipv6_loopback_is_reached_where_it_was_written_out(client: HttpClient) -> None:
    async with serving(always_ok, host="::1") as stub:
        policy = OutboundPolicy("acme", Grants.parse([f"[::1]:{stub.port}"]))
        response = await client.request(get(stub.url(host="[::1]")), policy)
    assert response.address == f"[::1]:{stub.port}"
    assert stub.received[0].all("host") == [f"[::1]:{stub.port}"]


async def test_localhost_with_its_port_stands_for_loopback(client: HttpClient) -> None:
    async with serving(always_ok) as stub:
        policy = OutboundPolicy("acme", Grants.parse([f"localhost:{stub.port}"]))
        assert (await client.request(get(stub.url(host="localhost")), policy)).status == 200
        assert (await failure(client, get(stub.url()), policy)).kind == "refused_grant"


async def test_a_dead_address_is_passed_over_for_the_next(make_client: MakeClient) -> None:
    names = Names(api_test=["127.0.0.2", "127.0.0.1"])
    async with serving(always_ok) as stub:
        port = stub.port
        policy = policy_for(port, also=(f"127.0.0.2:{port}", f"api.test:{port}"))
        client = make_client(names)
        response = await client.request(get(stub.url(host="api.test")), policy)
    assert response.address == f"127.0.0.1:{port}"


async def test_a_refused_connection_is_named(client: HttpClient) -> None:
    async with serving(always_ok) as stub:
        port = stub.port
    error = await failure(client, get(f"http://127.0.0.1:{port}/"), policy_for(port))
    assert error.kind == "connect"
    assert f"port {port} of 127.0.0.1: Connection refused" in error.message


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


def tls_context(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*names).configure_cert(context)
    return context


async def test_https_is_verified_against_system_and_extra_certificates(
    make_client: MakeClient, authority: trustme.CA, ca_file: str
) -> None:
    names = Names(api_test=["127.0.0.1"], other_test=["127.0.0.1"])
    client = make_client(names)
    async with serving(always_ok, tls=tls_context(authority, "api.test")) as stub:
        also = (f"api.test:{stub.port}", f"other.test:{stub.port}")
        trusting = policy_for(stub.port, also=also, ca_file=ca_file)
        for _ in range(3):
            response = await client.request(get(f"https://api.test:{stub.port}/"), trusting)
            assert response.body == b"ok"
        assert stub.connections == 1
        wrong_name = await failure(client, get(f"https://other.test:{stub.port}/"), trusting)
        unknown = await failure(
            client, get(f"https://api.test:{stub.port}/"), policy_for(stub.port, also=also)
        )
    assert wrong_name.kind == unknown.kind == "tls"
    assert "other.test" in wrong_name.message
    assert "issuer" in unknown.message
    assert len(stub.received) == 3


async def test_https_to_a_server_without_tls_is_an_error_of_tls(client: HttpClient) -> None:
    async with serving(answers(OK)) as stub:

        async def plain(peer: Peer) -> None:
            await peer.more()
            await peer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        async with serving(plain) as other:
            error = await failure(client, get(f"https://127.0.0.1:{other.port}/"), policy_for(other.port))
    assert error.kind == "tls"
    assert stub.connections == 0


# Redirects


def redirects_to(location: str, status: int = 302) -> Behave:
    return answers(
        b"HTTP/1.1 %d Found\r\nlocation: %b\r\ncontent-length: 4\r\n\r\ngone" % (status, location.encode())
    )


async def test_a_redirect_is_an_answer_unless_following_was_asked_for(client: HttpClient) -> None:
    async with serving(redirects_to("/elsewhere")) as stub:
        response = await client.request(get(stub.url()), policy_for(stub.port))
    assert (response.status, response.body, response.redirects) == (302, b"gone", ())
    assert len(stub.received) == 1


@pytest.mark.parametrize(
    ("status", "method", "second"),
    [
        (301, "POST", "GET"), (302, "POST", "GET"), (303, "POST", "GET"), (303, "PUT", "GET"),
        (302, "PUT", "PUT"), (307, "POST", "POST"), (308, "POST", "POST"), (303, "HEAD", "HEAD"),
        (301, "GET", "GET"),
    ],
)  # fmt: skip
async def test_a_redirect_changes_the_method_as_the_standard_says(
    client: HttpClient, status: int, method: str, second: str
) -> None:
    async def moved(peer: Peer) -> None:
        request = await peer.read()
        body = b"" if request.line.startswith("HEAD") else b"gone"
        await peer.write(
            b"HTTP/1.1 %d x\r\nlocation: ../b?c=d#e\r\ncontent-length: 4\r\n\r\n" % status + body
        )
        request = await peer.read()
        await peer.write(OK if not request.line.startswith("HEAD") else OK[:-2])
        await peer.read()

    async with serving(moved) as stub:
        headers = (("content-type", "text/plain"), ("x-kept", "1"), ("authorization", "Bearer t"))
        body = b"" if method in ("GET", "HEAD") else b"body"
        request = OutboundRequest(method, stub.url("/a/x"), headers, body, redirects=1)
        response = await client.request(request, policy_for(stub.port))
    assert stub.lines[1] == f"{second} /b?c=d HTTP/1.1"
    keeps = second == method
    assert stub.received[1].body == (body if keeps else b"")
    assert stub.received[1].all("content-type") == (["text/plain"] if keeps else [])
    assert stub.received[1].all("x-kept") == ["1"]
    assert stub.received[1].all("authorization") == ["Bearer t"]
    (redirect,) = response.redirects
    assert (redirect.status, redirect.url, redirect.location) == (
        status,
        stub.url("/a/x"),
        stub.url("/b?c=d"),
    )
    assert response.url == stub.url("/b?c=d")
    assert stub.connections == 1


async def test_a_redirect_loop_ends(client: HttpClient) -> None:
    async with serving(redirects_to("/again")) as stub:
        error = await failure(client, get(stub.url(), redirects=7), policy_for(stub.port))
        assert (error.kind, len(stub.received)) == ("redirects", 8)
        capped = policy_for(stub.port, redirects_max=2)
        error = await failure(client, get(stub.url(), redirects=1000), capped)
    assert (error.kind, len(stub.received)) == ("redirects", 8 + 3)


async def test_a_trace_is_told_to_those_who_may_hear_of_it_and_no_further_by_a_redirect(client: HttpClient) -> None:
    carried = (("traceparent", "00-" + "1" * 32 + "-" + "2" * 16 + "-01"), ("tracestate", "a=1"))
    async with serving(always_ok) as other, serving(redirects_to(other.url("/x"))) as stub:

        async def told(propagation: Propagation, *headers: tuple[str, str]) -> list[list[str]]:
            policy = policy_for(stub.port, other.port, carried=carried, carried_to=propagation)
            await client.request(get(stub.url(), headers=headers, redirects=1), policy)
            seen = (stub.received.pop(), other.received.pop())
            return [one.all("traceparent") + one.all("tracestate") for one in seen]

        ours = [value for _name, value in carried]
        assert await told(Propagation("private")) == [ours, ours]
        assert await told(Propagation("listed", Grants.parse([f"127.0.0.1:{stub.port}"]))) == [ours, []]
        assert await told(Propagation("listed")) == [[], []]
        assert await told(Propagation("all"), ("TraceParent", "mine")) == [["mine"], ["mine"]]
        assert await told(Propagation("all"), ("tracestate", "b=2")) == [["b=2"], ["b=2"]]


async def test_a_redirect_needs_a_grant_of_its_own(client: HttpClient) -> None:
    async with serving(always_ok) as secret, serving(redirects_to(secret.url("/x"))) as stub:
        error = await failure(client, get(stub.url(), redirects=3), policy_for(stub.port))
    assert (error.kind, error.host, error.port) == ("refused_grant", "127.0.0.1", secret.port)
    assert secret.connections == 0


async def test_a_redirect_to_a_private_address_is_refused_like_any_request(make_client: MakeClient) -> None:
    names = Names(metadata_test=["169.254.169.254"])
    client = make_client(names)
    async with serving(redirects_to("http://metadata.test/latest")) as stub:
        error = await failure(client, get(stub.url(), redirects=3), policy_for(stub.port, also=("*.test",)))
    assert (error.kind, error.host) == ("private_address", "metadata.test")


async def test_credentials_and_secrets_stay_with_the_host_they_were_meant_for(client: HttpClient) -> None:
    def substitute(data: bytes) -> bytes:
        return data.replace(b"flux-secret:KEY:00ff", b"s3cr3t")

    headers = (
        ("Authorization", "Bearer t"),
        ("Cookie", "a=b"),
        ("x-key", "flux-secret:KEY:00ff"),
        ("x-kept", "1"),
    )
    async with serving(always_ok) as other, serving(redirects_to(other.url("/x"), 307)) as stub:
        request = OutboundRequest("POST", stub.url(), headers, b"plain", redirects=1)
        policy = policy_for(stub.port, other.port)
        await client.request(request, policy, substitute=substitute)
        first, second = stub.received[0], other.received[0]
        assert (first.all("x-key"), first.all("authorization")) == (["s3cr3t"], ["Bearer t"])
        for name in ("authorization", "cookie", "x-key"):
            assert second.all(name) == []
        assert (second.all("x-kept"), second.body) == (["1"], b"plain")
        with_secret = attrs.evolve(request, body=b'{"key": "flux-secret:KEY:00ff"}')
        with pytest.raises(OutboundError) as caught:
            await client.request(with_secret, policy, substitute=substitute)
    assert stub.received[1].body == b'{"key": "s3cr3t"}'
    assert caught.value.kind == "redirects"
    assert "s3cr3t" not in str(caught.value)
    assert len(other.received) == 1


async def test_a_redirect_out_of_https_needs_a_grant_that_says_so(
    make_client: MakeClient, authority: trustme.CA, ca_file: str
) -> None:
    async with serving(always_ok) as plain:
        context = tls_context(authority, "127.0.0.1")
        async with serving(redirects_to(plain.url()), tls=context) as stub:
            request = get(f"https://127.0.0.1:{stub.port}/", redirects=1)
            policy = policy_for(stub.port, plain.port, ca_file=ca_file)
            error = await failure(make_client(), request, policy)
            assert (error.kind, plain.connections) == ("redirects", 0)
            said = policy_for(stub.port, ca_file=ca_file, also=(f"http://127.0.0.1:{plain.port}",))
            assert (await make_client().request(request, said)).body == b"ok"


# The host call


@attrs.define
class Context:
    """As much of a call's context as http.request touches."""

    grants: Grants
    http: HttpClient
    tenant: str = "acme"
    limits: Limits = attrs.Factory(Limits)
    trace: None = None
    propagation: Propagation = attrs.Factory(Propagation)

    @property
    def secrets(self) -> "Context":
        return self

    def substitute(self, data: bytes) -> bytes:
        return data.replace(b"flux-secret:KEY:00ff", b"s3cr3t")


async def perform(context: Context, *arguments: object) -> object:
    return await REQUEST.perform(context, list(arguments), 1)  # type: ignore[arg-type]


async def test_the_host_call_answers_with_what_values_can_carry(client: HttpClient) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n"
    async with (
        serving(answers(head + b"\xff\x00\x01")) as binary,
        serving(answers(head + "€".encode())) as text,
    ):
        context = Context(Grants.parse([f"127.0.0.1:{binary.port}", f"127.0.0.1:{text.port}"]), client)
        options = {"headers": [["x-key", "flux-secret:KEY:00ff"]], "body": "ü flux-secret:KEY:00ff"}
        answer = await perform(context, "POST", text.url(), options)
        raw = await perform(context, "GET", binary.url(), {})
    assert answer == {
        "status": 200, "headers": [["content-length", "3"]], "body": "€", "url": text.url(), "redirects": [],
    }  # fmt: skip
    assert isinstance(raw, dict)
    assert raw["body"] == b"\xff\x00\x01"
    assert values.decode(values.encode(raw)) == raw
    assert text.received[0].body == "ü s3cr3t".encode()
    assert text.received[0].all("x-key") == ["s3cr3t"]


@pytest.mark.parametrize(
    ("timeout_s", "limits", "limit_s", "source"),
    [(0.05, Limits(), 0.05, "call"), (None, Limits(timeout_s=0.06), 0.06, "function")],
)
async def test_a_time_out_says_whose_limit_it_was(
    client: HttpClient, timeout_s: float | None, limits: Limits, limit_s: float, source: str
) -> None:
    async def silent(peer: Peer) -> None:
        while True:
            await peer.read()

    async with serving(silent) as stub:
        context = Context(Grants.parse([f"127.0.0.1:{stub.port}"]), client, limits=limits)
        with pytest.raises(HostCallFailed) as caught:
            options = {"timeout_s": timeout_s, "headers": [["Idempotency-Key", "k"]]}
            await perform(context, "POST", stub.url("/v1/charges?key=k"), options)
    error = caught.value.error
    details = values.decode(error.details)
    assert isinstance(details, dict)
    assert (error.name, error.code) == ("HttpTimeout", "FLX409")
    assert error.message.startswith(
        f"POST {stub.url('/v1/charges')} gave no answer in {limit_s * 1000:.0f} ms"
    )
    assert details["elapsed_ms"] >= limit_s * 1000
    del details["elapsed_ms"]
    assert details == {
        "host": "127.0.0.1", "port": stub.port, "limit_s": limit_s, "limit_source": source,
        "has_idempotency_key": True,
    }  # fmt: skip


async def test_a_refused_host_is_named_with_the_line_that_would_grant_it(client: HttpClient) -> None:
    with pytest.raises(HostCallFailed) as caught:
        await perform(
            Context(Grants.parse(["api.stripe.com"]), client), "GET", "https://api.mailgun.net/v3", {}
        )
    error = caught.value.error
    assert (error.name, error.code) == ("GrantRefused", "FLX402")
    assert 'add "api.mailgun.net" to its http list in flux.toml' in error.message


@pytest.mark.parametrize(
    "arguments",
    [["GET"], ["GET", "http://a.test/", None], [1, "http://a.test/", {}], ["GET", "u", {"header": []}],
     ["GET", "u", {"headers": {"a": "b"}}], ["GET", "u", {"headers": [["a"]]}],
     ["GET", "u", {"headers": [["a", 1]]}],
     ["GET", "u", {"body": {"a": 1}}], ["GET", "u", {"timeout_s": "1"}], ["GET", "u", {"timeout_s": True}],
     ["GET", "u", {"redirects": -1}], ["GET", "u", {"redirects": True}], ["GET", "u", {"body": "\ud800"}]],
)  # fmt: skip
async def test_arguments_of_another_shape_are_refused(client: HttpClient, arguments: list[object]) -> None:
    with pytest.raises(HostCallFailed) as caught:
        await perform(Context(Grants(), client), *arguments)
    assert (caught.value.error.name, caught.value.error.code) == ("InvalidArguments", "FLX425")


async def test_a_name_server_that_hangs_costs_its_own_tenant_only(make_client: MakeClient) -> None:
    release = threading.Event()

    async def hangs(_host: str, _port: int, limiter: trio.CapacityLimiter) -> list[str]:
        if _host == "good.test":
            return ["127.0.0.1"]
        await trio.to_thread.run_sync(release.wait, abandon_on_cancel=True, limiter=limiter)
        return []

    client = make_client(hangs)
    try:
        async with serving(always_ok) as stub:
            policy = policy_for(stub.port, also=(f"*.test:{stub.port}",))
            with trio.fail_after(60):
                async with trio.open_nursery() as nursery:
                    for number in range(10):
                        request = get(stub.url(host=f"bad{number}.test"), timeout_s=0.1)
                        nursery.start_soon(failure, client, request, policy)
                other = policy_for(stub.port, tenant="globex", also=(f"*.test:{stub.port}",))
                assert (await client.request(get(stub.url(host="good.test")), other)).status == 200
    finally:
        release.set()
