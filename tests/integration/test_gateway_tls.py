"""The gateway with TLS, asked by Python's own client and by bytes that are no TLS."""

import http.client
import os
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trustme

from flux.cli.client import Client, Server
from flux.errors import FluxError
from flux.message import HttpRequest, HttpResponse
from flux.supervisor.client_tls import BadCertificateError, Certificate
from tests.gateway_server import PATIENCE_S, Gateway, running_gateway

BODY_BYTES = 3_000_000


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(authority: trustme.CA, tmp_path: Path) -> tuple[Path, Path]:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    write(authority, certificate, key)
    return certificate, key


def write(authority: trustme.CA, certificate: Path, key: Path) -> None:
    made = authority.issue_cert("127.0.0.1")
    made.cert_chain_pems[0].write_to_path(certificate)
    made.private_key_pem.write_to_path(key)


@pytest.fixture
def gateway(files: tuple[Path, Path]) -> Iterator[Gateway]:
    with running_gateway(handle=echo, body_bytes_max=2 * BODY_BYTES, certificate=Certificate(*files)) as running:
        yield running


async def echo(request: HttpRequest) -> HttpResponse:
    """Give the body back, whole or, for ``/pieces``, in pieces."""
    if request.head.path != "/pieces":
        return HttpResponse(200, (), request.body)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(request.body), 100_000):
            yield request.body[start : start + 100_000]

    return HttpResponse(200, (), pieces())


def connect(authority: trustme.CA, port: int, context: ssl.SSLContext | None = None) -> http.client.HTTPSConnection:
    context = context or ssl.create_default_context()
    authority.configure_trust(context)
    return http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=PATIENCE_S)


def test_requests_and_bodies_of_any_size_pass_on_one_connection(authority: trustme.CA, gateway: Gateway) -> None:
    connection = connect(authority, gateway.port)
    for size in (0, 1, 16_384, BODY_BYTES):
        for path in ("/", "/pieces"):
            body = os.urandom(size)
            connection.request("POST", path, body)
            answer = connection.getresponse()
            assert (answer.status, answer.read() == body) == (200, True)
    sock = connection.sock
    assert isinstance(sock, ssl.SSLSocket)
    assert sock.version() in ("TLSv1.2", "TLSv1.3")
    connection.close()
    assert len(gateway.requests) == 8
    assert gateway.crashes == []


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_older_tls_and_no_tls_get_nothing(authority: trustme.CA, gateway: Gateway) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.minimum_version = ssl.TLSVersion.TLSv1
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        connect(authority, gateway.port, old).request("GET", "/")
    with socket.create_connection(("127.0.0.1", gateway.port), PATIENCE_S) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        heard = b""
        while piece := plain.recv(4096):
            heard += piece
    assert b"HTTP/1.1" not in heard
    assert gateway.requests == []
    assert gateway.crashes == []


def test_a_new_certificate_is_for_new_connections_and_a_bad_one_for_none(
    authority: trustme.CA, files: tuple[Path, Path]
) -> None:
    certificate = Certificate(*files)
    with running_gateway(handle=echo, certificate=certificate) as gateway:
        first = connect(authority, gateway.port)
        first.request("GET", "/")
        first.getresponse().read()
        before = shown(first)
        write(authority, *files)
        certificate.reload()
        second = connect(authority, gateway.port)
        second.connect()
        after = shown(second)
        assert after != before
        first.request("GET", "/")
        assert first.getresponse().status == 200
        files[1].write_text("no key")
        with pytest.raises(BadCertificateError, match="not a certificate and its key"):
            certificate.reload()
        third = connect(authority, gateway.port)
        third.connect()
        assert shown(third) == after
        for connection in (first, second, third):
            connection.close()
        files[0].unlink()
        with pytest.raises(BadCertificateError, match="can't be read"):
            Certificate(*files)


def test_the_command_line_believes_the_certificate_of_the_servers_own_file_and_no_other(
    authority: trustme.CA, files: tuple[Path, Path]
) -> None:
    async def answer(_request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, (("content-type", "application/json"),), b'{"schema":"flux.checks/1"}')

    with running_gateway(handle=answer, certificate=Certificate(*files)) as gateway:
        server = Server(f"https://127.0.0.1:{gateway.port}", "t", ".flux/dev.json", str(files[0]))
        client = Client(server)
        assert client.get("checks").record.text("schema") == "flux.checks/1"
        client.close()
        write(authority, *files)  # And the server has not been told.
        with pytest.raises(FluxError, match="does not show the certificate"):
            Client(server).get("checks")
        with pytest.raises(FluxError, match="CERTIFICATE_VERIFY_FAILED"):
            Client(Server(server.url, "t", "--server")).get("checks")
    assert len(gateway.requests) == 1


def shown(connection: http.client.HTTPSConnection) -> bytes | None:
    assert isinstance(connection.sock, ssl.SSLSocket)
    return connection.sock.getpeercert(binary_form=True)
