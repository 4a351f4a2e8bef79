"""Libraries that were not written for Flux, recorded against real servers and replayed with every server down.

The programs are in ``tests/guests/libraries``. Each is recorded once; then the servers are stopped, which a
socket of our own confirms, and each is replayed twice under another zygote, whose host performs nothing. What the
servers counted is the other oracle.
"""

import base64
import json
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest
import trio
import trustme

from flux import values
from flux.execution import Returned
from flux.hostcall import HostCall
from flux.hostcalls.http_client import HttpClient
from flux.hostcalls.http_network import Network
from flux.sandbox.process import ProcessSandbox
from tests.conftest import Database
from tests.guests.record_and_replay import HERE, Lab, Program, Result, describe, read_programs
from tests.postgres_server import PostgresServer, running_postgres
from tests.stub_http import Hangup, Names, Peer, Stub, serving
from tests.tls_proxy import tls_proxy

PROGRAMS = read_programs(HERE / "libraries")
HOST = "shop.test"
PASSWORD = "tr0ub4dor-and-3"
REPLAYS = 2
PATHS_MIN = 16


@attrs.frozen
class Seen:
    """What came of it."""

    results: dict[str, Result]
    counted: list[int]
    """Requests and connections that each server counted when all was recorded."""
    counted_after: list[int]
    """The same after the replays."""
    refused: list[int]
    """Ports at which nobody listened during the replays."""
    ports: list[int]
    asked_names: set[str]
    """Names that were resolved: by the host, while recording."""
    heads: list[tuple[str, str]]
    """Header fields that the servers saw."""


async def answer_http(peer: Peer) -> None:
    while True:
        request = await peer.read()
        path = request.line.split(" ")[1].partition("?")[0]
        more = b""
        match path:
            case "/count":
                body = json.dumps({"count": len(peer.stub.received)}).encode()
            case "/login":
                body, more = b"{}", b"set-cookie: sid=0123456789abcdef; Path=/\r\n"
            case "/headers":
                body = json.dumps(dict(request.headers)).encode()
            case _:
                body = request.body
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n%bcontent-length: %d\r\n\r\n"
        await peer.write(head % (more, len(body)) + body)
        if "close" in request.all("connection"):
            return


def answer_lines(tls: ssl.SSLContext) -> Callable[[Peer], object]:
    """Return a server that repeats lines in capitals, slowly where they say so, and begins TLS when asked."""

    async def behave(peer: Peer) -> None:
        while True:
            while b"\n" not in peer.buffer:
                try:
                    await peer.more()
                except Hangup:
                    return
            line, _, peer.buffer = peer.buffer.partition(b"\n")
            if line == b"STARTTLS":
                await peer.write(b"go on\n")
                peer.stream = trio.SSLStream(peer.stream, tls, server_side=True, https_compatible=True)
                continue
            if line == b"slow":
                await trio.sleep(0.1)
            await peer.write(line.upper() + b"\n")

    return behave


def is_refused(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


async def record_and_replay(database: Database, folder: Path) -> Seen:
    authority, private = trustme.CA(), trustme.CA()
    ca_file = str(folder / "ca.pem")
    authority.cert_pem.write_to_path(ca_file)
    server_tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(HOST).configure_cert(server_tls)
    private_tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    private.issue_cert(HOST).configure_cert(private_tls)
    names = Names(shop_test=["127.0.0.1"])
    pool = database.pool()
    hba = ["host all app 127.0.0.1/32 scram-sha-256", "local all app scram-sha-256"]
    stubs: list[Stub] = []
    first = ProcessSandbox(HERE, "libraries", idle_target=3)
    second = ProcessSandbox(HERE, "libraries", idle_target=5)
    recordings = {}
    async with trio.open_nursery() as nursery:
        with HttpClient(network=Network(names), ca_file=ca_file) as http:
            await nursery.start(first.run)
            with running_postgres(tcp=True, hba_lines=hba) as server:
                server.psql(f"create role app login password '{PASSWORD}'")
                async with (
                    serving(answer_http) as plain,
                    serving(answer_http, tls=server_tls) as tls,
                    serving(answer_http, tls=private_tls) as own,
                    serving(answer_lines(server_tls)) as lines,  # type: ignore[arg-type]
                    tls_proxy(server, server_tls) as proxy,
                ):
                    stubs = [plain, tls, own, lines]
                    ports = [plain.port, tls.port, own.port, lines.port, server.port, proxy.port]
                    grants = [text for port in ports for text in (f"{HOST}:{port}", f"127.0.0.1:{port}")]
                    more = {
                        "host": HOST, "port": plain.port, "tls_port": tls.port, "lines_port": lines.port,
                        "pg_port": server.port, "pg_tls_port": proxy.port, "password": PASSWORD,
                        "database": "postgres", "own_port": own.port,
                        "own_authority": private.cert_pem.bytes().decode(),
                    }  # fmt: skip
                    lab = Lab(pool, http, grants, more)
                    await lab.prepare()
                    for program in PROGRAMS:
                        recordings[program.function] = await lab.record(first, program)
                    for stub in stubs:
                        await stub.wait_left()
        counted = [number for stub in stubs for number in (stub.connections, len(stub.received))]
        refused = [port for port in ports if is_refused(port)]
        await nursery.start(second.run)
        replays = {program.function: [] for program in PROGRAMS}
        for _ in range(REPLAYS):
            for program in PROGRAMS:
                recorded, document, seed = recordings[program.function]
                replays[program.function].append(await lab.replay(second, program, recorded, document, seed))
        nursery.cancel_scope.cancel()
    await pool.aclose()
    return Seen(
        results={name: Result(recordings[name][0], tuple(replays[name])) for name in recordings},
        counted=counted,
        counted_after=[number for stub in stubs for number in (stub.connections, len(stub.received))],
        refused=refused,
        ports=ports,
        asked_names=set(names.asked),
        heads=[pair for stub in stubs for request in stub.received for pair in request.headers],
    )


@pytest.fixture(scope="module")
def seen(
    postgres18: PostgresServer,
    make_database: Callable[[PostgresServer], Database],
    tmp_path_factory: pytest.TempPathFactory,
) -> Seen:
    return trio.run(record_and_replay, make_database(postgres18), tmp_path_factory.mktemp("libraries"))


by_name = pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: f"{program.file}:{program.function}")


@by_name
def test_a_library_works_unmodified_through_host_calls(program: Program, seen: Seen) -> None:
    recorded = seen.results[program.function].recorded
    assert describe(recorded.driven.outcome) == program.outcome, recorded.driven.outcome
    counts = Counter(call.request.name for call in recorded.calls)
    assert {name: counts[name] for name in program.calls} == program.calls
    assert all(name.startswith("net.") or name == "clock.sleep" for name in counts)


def compared(call: HostCall) -> tuple[object, ...]:
    request = call.request
    return (request.seq, request.name, request.arguments, request.task, request.position, call.result, call.answered)


@by_name
def test_it_replays_exactly_with_every_server_down(program: Program, seen: Seen) -> None:
    result = seen.results[program.function]
    assert isinstance(result.recorded.driven.outcome, Returned)
    for replayed in result.replayed:
        assert replayed.driven.divergence is None
        assert replayed.driven.outcome == result.recorded.driven.outcome
        assert list(map(compared, replayed.calls)) == list(map(compared, result.recorded.calls))
        assert replayed.missing is None


def test_the_servers_were_down_and_nobody_asked_them_again(seen: Seen) -> None:
    assert len(PROGRAMS) >= PATHS_MIN
    assert seen.refused == seen.ports
    assert seen.counted_after == seen.counted
    assert sum(seen.counted) > PATHS_MIN


def test_names_are_resolved_by_the_host_only(seen: Seen) -> None:
    assert seen.asked_names == {HOST}


def test_what_is_on_record_is_plain_and_holds_no_credentials(seen: Seen) -> None:
    said = {name: list(texts_of(result.recorded.calls)) for name, result in seen.results.items()}
    everything = b"".join(data for parts in said.values() for data in parts)
    for secret in (b"t0ken-of-mine", b"correct horse", b"0123456789abcdef", PASSWORD.encode()):
        assert secret not in everything
    assert base64.b64encode(b"acme:correct horse") not in everything
    assert ("authorization", "Bearer t0ken-of-mine") in seen.heads, "the server had it"
    assert any("0123456789abcdef" in value for name, value in seen.heads if name == "cookie")
    for name in ("http_client_under_tls", "requests_session_with_cookies", "httpx_async", "aiohttp_under_tls"):
        assert any(b" HTTP/1.1\r\n" in data for data in said[name]), "TLS ends in the host"
    assert any(b"select random()" in data for data in said["asyncpg_under_tls"])
    assert any(b"under tls\n" in data for data in said["asyncio_starts_tls"])


def texts_of(calls: tuple[HostCall, ...]) -> Iterator[bytes]:
    """What was sent and received, as the record has it."""
    for call in calls:
        content = None
        if call.request.name == "net.send":
            arguments = values.decode(call.request.arguments)
            assert isinstance(arguments, list)
            content = arguments[1]
        elif call.request.name == "net.recv" and call.result is not None:
            content = values.decode(call.result.value)
        if content is not None:
            yield content.encode() if isinstance(content, str) else content  # type: ignore[misc]
