"""``net.*`` as the host performs it: against real servers, whatever order a guest asks in.

Grants and addresses are tried in ``tests/escape/test_escape_through_sockets.py``, libraries in
``test_unmodified_libraries.py``. Here: what is lost (nothing), what is broken, and what has an end.
"""

import ssl
from pathlib import Path

import pytest
import trio
import trio.lowlevel
import trio.testing
import trustme

from flux import values
from flux.grants import Grants
from flux.hostcall import HostCallError, HostCallRequest, HostCallResult
from flux.hostcalls.base import CallContext
from flux.hostcalls.clock import SystemClock
from flux.hostcalls.entropy import SystemEntropy
from flux.hostcalls.http_client import HttpClient
from flux.hostcalls.http_network import Network
from flux.hostcalls.net_connection import AUTHORITIES_MAX, BYTES_MAX, CONNECTIONS_MAX, TENANT_CONNECTIONS_MAX
from flux.hostcalls.net_tls import CONTEXTS_MAX, TlsContexts
from flux.hostcalls.secret import TenantSecrets
from flux.limits import Limits
from flux.supervisor.perform import HostTable
from tests.stub_http import Hangup, Names, Peer, serving

HOST = "shop.test"
SECRET = "sk_live_4242"


class Guest:
    """Asks as one execution does."""

    def __init__(self, http: HttpClient, *grants: str, tenant: str = "acme", timeout_s: float = 30.0) -> None:
        self.secrets = TenantSecrets({"KEY": SECRET, "TORN": "a\r\nb-and-more"}, b"key").of_execution(b"seed")
        self.table = HostTable(
            CallContext(
                tenant=tenant, function="f", grants=Grants.parse(grants), limits=Limits(timeout_s=timeout_s),
                clock=SystemClock(), entropy=SystemEntropy(), database=None, http=http, secrets=self.secrets,
            )
        )  # fmt: skip
        self._seq = 0

    async def perform(self, name: str, *arguments: object) -> HostCallResult:
        self._seq += 1
        return await self.table.perform(HostCallRequest(self._seq, name, values.encode_canonical(list(arguments))))

    async def ask(self, name: str, *arguments: object) -> object:
        result = await self.perform(name, *arguments)
        assert result.error is None, result.error
        return values.decode(result.value)

    async def fail(self, name: str, *arguments: object) -> HostCallError:
        result = await self.perform(name, *arguments)
        assert result.error is not None, result.value
        return result.error

    async def open(self, port: int) -> str:
        answer = await self.ask("net.open", HOST, port, 5)
        assert isinstance(answer, dict)
        return str(answer["connection"])

    async def hear(self, handle: str, *, until: bytes) -> bytes:
        heard = b""
        while until not in heard:
            part = await self.ask("net.recv", handle, 7, 5)
            assert part != "", heard
            heard += part.encode() if isinstance(part, str) else part  # type: ignore[operator, union-attr]
        return heard


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def http(authority: trustme.CA, tmp_path: Path) -> HttpClient:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    names = Names(shop_test=["127.0.0.1"])
    return HttpClient(network=Network(names), ca_file=str(tmp_path / "ca.pem"))


@pytest.fixture
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(HOST).configure_cert(context)
    return context


def granted(*ports: int) -> list[str]:
    return [text for port in ports for text in (f"{HOST}:{port}", f"127.0.0.1:{port}")]


async def repeat(peer: Peer) -> None:
    while True:
        await peer.more()
        data, peer.buffer = peer.buffer, b""
        await peer.write(data)


async def be_silent(peer: Peer) -> None:
    while True:
        await peer.more()


@pytest.mark.parametrize("is_encrypted", [False, True])
async def test_a_receive_that_was_cancelled_loses_nothing(
    http: HttpClient, server_tls: ssl.SSLContext, is_encrypted: bool
) -> None:
    sent = bytes(range(256)) * 40

    async def say_slowly(peer: Peer) -> None:
        for start in range(0, len(sent), 64):
            await peer.write(sent[start : start + 64])
            await trio.lowlevel.checkpoint()
        await peer.more()

    async with serving(say_slowly, tls=server_tls if is_encrypted else None) as stub:
        guest = Guest(http, *granted(stub.port))
        with guest.table:
            handle = await guest.open(stub.port)
            if is_encrypted:
                await guest.ask("net.tls", handle, {}, 5)
            heard = b""
            turn = 0
            while len(heard) < len(sent):
                turn += 1
                with trio.move_on_after(0.0005 * (turn % 3)) as scope:
                    part = await guest.ask("net.recv", handle, 50, None)
                if not scope.cancelled_caught:
                    heard += part.encode() if isinstance(part, str) else part  # type: ignore[operator, union-attr]
            assert heard == sent


async def test_a_send_that_was_cancelled_half_way_breaks_the_connection(http: HttpClient) -> None:
    async def read_nothing(peer: Peer) -> None:
        await trio.sleep_forever()

    async with serving(read_nothing) as stub:
        guest = Guest(http, *granted(stub.port))
        with guest.table:
            handle = await guest.open(stub.port)
            error = None
            for _ in range(60):  # Until the kernel takes no more.
                result = await guest.perform("net.send", handle, "x" * 2**20, 0.05)
                error = result.error
                if error is not None:
                    break
            assert error is not None and (error.name, error.code) == ("NetTimeout", "FLX409")
            assert (await guest.fail("net.send", handle, "y", 5)).name == "NetBroken"


async def test_closing_ends_a_receive_that_waits(http: HttpClient) -> None:
    async with serving(be_silent) as stub:
        guest = Guest(http, *granted(stub.port))
        with guest.table:
            handle = await guest.open(stub.port)
            errors: list[HostCallError] = []

            async def receive(name: str, *arguments: object) -> None:
                errors.append(await guest.fail(name, *arguments))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive, "net.recv", handle, 10, None)
                await trio.testing.wait_all_tasks_blocked()
                await guest.ask("net.close", handle)
            assert [error.name for error in errors] == ["NetBroken"]
            other = await guest.open(stub.port)
            ready: list[object] = []

            async def poll() -> None:
                ready.append(await guest.ask("net.poll", [other], None))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(poll)
                await trio.testing.wait_all_tasks_blocked()
                await guest.ask("net.close", other)
            assert ready == [[other]], "who waits for it is told to look"


async def test_what_tls_says_for_itself_is_nothing_to_receive(
    http: HttpClient, server_tls: ssl.SSLContext
) -> None:
    async with serving(repeat, tls=server_tls) as stub:
        guest = Guest(http, *granted(stub.port))
        with guest.table:
            handle = await guest.open(stub.port)
            agreed = await guest.ask("net.tls", handle, {"alpn": ["h2", "http/1.1"]}, 5)
            assert isinstance(agreed, dict)
            assert agreed["version"] == "TLSv1.3" and agreed["alpn"] is None
            assert agreed["peer"]["subjectAltName"] == [["DNS", HOST]]  # type: ignore[index]
            # The server's session tickets come behind the handshake, with its first bytes at the latest.
            await guest.ask("net.send", handle, "one", 5)
            assert await guest.hear(handle, until=b"one") == b"one"
            assert await guest.ask("net.poll", [handle], 0) == []
            assert await guest.ask("net.recv", handle, 10, 0) is None


async def test_the_end_is_heard_as_often_as_it_is_asked_for(http: HttpClient) -> None:
    async def say_and_go(peer: Peer) -> None:
        await peer.write(b"bye")

    async with serving(say_and_go) as stub:
        guest = Guest(http, *granted(stub.port))
        with guest.table:
            handle = await guest.open(stub.port)
            assert await guest.hear(handle, until=b"bye") == b"bye"
            assert [await guest.ask("net.recv", handle, 10, 5) for _ in range(3)] == ["", "", ""]
            assert await guest.ask("net.poll", [handle], None) == [handle]


async def test_who_says_farewell_still_hears(http: HttpClient) -> None:
    async def answer_at_the_end(peer: Peer) -> None:
        try:
            while True:
                await peer.more()
        except Hangup:
            await peer.write(b"got %d" % len(peer.buffer))

    async with serving(answer_at_the_end) as stub:
        guest = Guest(http, *granted(stub.port))
        with guest.table:
            handle = await guest.open(stub.port)
            await guest.ask("net.send", handle, "x" * 1000, 5)
            await guest.ask("net.shutdown", handle)
            assert await guest.hear(handle, until=b"got 1000") == b"got 1000"


async def test_a_time_limit_says_whose_it_was(http: HttpClient) -> None:
    async with serving(be_silent) as stub:
        guest = Guest(http, *granted(stub.port))
        with guest.table:
            handle = await guest.open(stub.port)
            error = await guest.fail("net.recv", handle, 10, 0.05)
        details = values.decode(error.details)
        assert isinstance(details, dict)
        assert (details["host"], details["port"], details["limit_source"]) == (HOST, stub.port, "call")
        assert details["limit_s"] == 0.05
        assert f"waiting for bytes from {HOST}:{stub.port} took longer than 50 ms" in error.message


async def test_what_can_not_be_reached_is_told_apart(http: HttpClient) -> None:
    async with serving(repeat) as stub:
        port = stub.port
    guest = Guest(http, *granted(port), f"nowhere.test:{port}")
    with guest.table:
        refused = await guest.fail("net.open", HOST, port, 5)
        assert (refused.name, refused.code) == ("NetConnectError", "FLX407")
    assert http.held == {}, "a place that came to nothing is given back"


async def test_places_are_counted_for_an_execution_and_for_a_tenant(http: HttpClient) -> None:
    async with serving(be_silent) as stub:
        guests = [Guest(http, *granted(stub.port)) for _ in range(TENANT_CONNECTIONS_MAX // CONNECTIONS_MAX + 1)]
        other = Guest(http, *granted(stub.port), tenant="other")
        for guest in guests[:-1]:
            for _ in range(CONNECTIONS_MAX):
                await guest.open(stub.port)
        for guest in guests:
            assert (await guest.fail("net.open", HOST, stub.port, 5)).code == "FLX441"
        await other.open(stub.port)
        guests[0].table.__exit__()
        await guests[-1].open(stub.port)
        for guest in [*guests[1:], other]:
            guest.table.__exit__()
        assert http.held == {}
        await stub.wait_left()


async def test_bytes_that_are_received_have_an_end(http: HttpClient) -> None:
    async def pour(peer: Peer) -> None:
        while True:
            await peer.write(b"x" * 2**18)

    async with serving(pour) as stub:
        guest = Guest(http, *granted(stub.port))
        with guest.table:
            handle = await guest.open(stub.port)
            received, error = 0, None
            while error is None:
                result = await guest.perform("net.recv", handle, 2**20, 5)
                error = result.error
                received += len(result.value) - 2
            assert error.code == "FLX441"
            assert received <= BYTES_MAX


async def test_a_secret_is_put_into_the_head_of_a_request_only(http: HttpClient) -> None:
    async def keep(peer: Peer) -> None:
        await peer.read()
        await peer.write(b"ok")
        await peer.more()

    async with serving(keep) as stub:
        guest = Guest(http, *granted(stub.port))
        with guest.table:
            handle = await guest.open(stub.port)
            key, torn = guest.secrets.handle("KEY"), guest.secrets.handle("TORN")
            await guest.ask("net.send", handle, f"GET / HTTP/1.1\r\nx-key: {key}\r\n\r\n", 5)
            await guest.hear(handle, until=b"ok")
            assert stub.received[0].all("x-key") == [SECRET]
            for text in (
                f"GET / HTTP/1.1\r\nx-key: {torn}\r\n\r\n",
                f"POST / HTTP/1.1\r\n\r\n{key}",
                f"x-key: {key}\r\n\r\n",
            ):
                error = await guest.fail("net.send", handle, text, 5)
                assert (error.name, error.code) == ("NetSecretMisplaced", "FLX405")
                assert SECRET not in error.message
            # What only looks like one is what it is.
            await guest.ask("net.send", handle, "flux-secret:KEY:" + "0" * 32, 5)


async def test_contexts_are_made_once_and_only_so_many_are_kept(authority: trustme.CA) -> None:
    der = ssl.PEM_cert_to_DER_cert(authority.cert_pem.bytes().decode())
    contexts = TlsContexts()
    common = await contexts.get(None, ["http/1.1"])
    own = await contexts.get(None, ["http/1.1"], [der], system=False)
    assert await contexts.get(None, ["h2", "http/1.1", "imap"]) is common
    assert await contexts.get(None, ["http/1.1"], [der], system=False) is own
    for number in range(CONTEXTS_MAX):
        await contexts.get(None, ["http/1.1"], [der] * (number + 2), system=False)
        assert await contexts.get(None, [f"protocol-{number}", "http/1.1"]) is common
    assert await contexts.get(None, ["http/1.1"], [der], system=False) is not own


async def test_the_two_kinds_of_trust_are_not_mixed_up(authority: trustme.CA) -> None:
    der = ssl.PEM_cert_to_DER_cert(authority.cert_pem.bytes().decode())
    contexts = TlsContexts()
    system = await contexts.get(None, [])
    alone = await contexts.get(None, [], [der], system=False)
    beside = await contexts.get(None, [], [der])
    assert len(alone.get_ca_certs()) == 1
    assert len(beside.get_ca_certs()) == len(system.get_ca_certs()) + 1
    for context in (system, alone, beside):
        assert context.verify_mode is ssl.CERT_REQUIRED and context.check_hostname


async def test_authorities_of_ones_own_are_named_so_many_times(http: HttpClient, authority: trustme.CA) -> None:
    der = ssl.PEM_cert_to_DER_cert(authority.cert_pem.bytes().decode())
    async with serving(be_silent) as stub:
        guest = Guest(http, *granted(stub.port))
        with guest.table:
            handle = await guest.open(stub.port)
            codes = set()
            for _ in range(AUTHORITIES_MAX + 1):
                options = {"authorities": [der], "system": False}
                codes.add((await guest.fail("net.tls", handle, options, 0.01)).code)
            assert "FLX441" in codes
