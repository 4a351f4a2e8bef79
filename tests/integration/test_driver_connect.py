"""Getting in, or being told why not and what to do: addresses, passwords, TLS, versions.

Certificates are made here by an authority of the test's own, so a good one and
a bad one differ in nothing but what is wrong.
"""

import contextlib
import ssl
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio
import trustme

from flux.store.postgres import CannotConnect, ConnectOptions, TlsMode, connect, parse_url
from tests.postgres_server import PostgresServer, running_postgres
from tests.tls_proxy import tls_proxy


@attrs.frozen
class Certificates:
    """What a server shows, and what a client may trust."""

    context: ssl.SSLContext
    """The server's: a certificate for "localhost"."""

    ca_file: str
    """The authority that signed it."""

    other_ca_file: str
    """One that did not."""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("tls")
    authority, other = trustme.CA(), trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    other.cert_pem.write_to_path(str(folder / "other.pem"))
    return Certificates(context, str(folder / "ca.pem"), str(folder / "other.pem"))


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """On loopback, without TLS, and with passwords."""
    hba_lines = [
        "host all with_scram all scram-sha-256", "host all with_md5 all md5", "host all with_clear all password",
        "host all nobody all reject", "hostssl all wants_tls all trust", "host all wants_tls all reject",
    ]  # fmt: skip
    with running_postgres(tcp=True, hba_lines=hba_lines) as running:
        running.psql("create role wants_tls login; create role nobody login")
        running.psql("create role with_clear login password 'pä ss'; create role with_scram login password 'pä ss'")
        running.psql("set password_encryption = 'md5'; create role with_md5 login password 'pä ss'")
        yield running


def options(port: int, **more: object) -> ConnectOptions:
    settings = {"host": "127.0.0.1", "port": port, "user": "postgres", "connect_timeout_s": 30.0}
    return ConnectOptions(**{**settings, **more})  # type: ignore[arg-type]


# TLS.


@pytest.mark.parametrize(
    ("mode", "host", "trusts", "is_encrypted"),
    [
        (TlsMode.DISABLE, "localhost", False, False),
        (TlsMode.PREFER, "localhost", False, True),
        (TlsMode.REQUIRE, "localhost", False, True),
        (TlsMode.REQUIRE, "127.0.0.1", True, True),
        (TlsMode.VERIFY_CA, "127.0.0.1", True, True),
        (TlsMode.VERIFY_FULL, "localhost", True, True),
    ],
)
async def test_tls_is_what_was_asked_for(
    server: PostgresServer, certificates: Certificates, mode: TlsMode, host: str, trusts: bool, is_encrypted: bool
) -> None:
    ca_file = certificates.ca_file if trusts else None
    async with tls_proxy(server, certificates.context) as proxy:
        connection = await connect(options(proxy.port, tls=mode, host=host, ca_file=ca_file))
        assert connection.uses_tls is is_encrypted
        assert await connection.fetch_value("select 1") == 1
        await connection.aclose()
        assert (proxy.encrypted, proxy.plain) == ((1, 0) if is_encrypted else (0, 1))


@pytest.mark.parametrize(
    ("mode", "host", "ca", "says"),
    [
        (TlsMode.REQUIRE, "localhost", "other", "certificate verify failed"),
        (TlsMode.VERIFY_CA, "localhost", "other", "certificate verify failed"),
        (TlsMode.VERIFY_CA, "localhost", "system's", "certificate verify failed"),
        (TlsMode.VERIFY_FULL, "localhost", "other", "certificate verify failed"),
        (TlsMode.VERIFY_FULL, "127.0.0.1", "right", "IP address mismatch"),
        (TlsMode.VERIFY_FULL, "localhost", "missing", "cannot be read"),
    ],
)
async def test_a_certificate_that_does_not_hold_is_refused(
    server: PostgresServer, certificates: Certificates, mode: TlsMode, host: str, ca: str, says: str
) -> None:
    ca_file = {"other": certificates.other_ca_file, "right": certificates.ca_file, "missing": "/nowhere/ca.pem",
               "system's": None}[ca]  # fmt: skip
    async with tls_proxy(server, certificates.context) as proxy:
        with pytest.raises(CannotConnect, match=says) as caught:
            await connect(options(proxy.port, tls=mode, host=host, ca_file=ca_file))
        assert "sslrootcert" in caught.value.remedy


async def test_tls_is_not_given_up_for_a_server_without_it(server: PostgresServer) -> None:
    for mode in (TlsMode.REQUIRE, TlsMode.VERIFY_CA, TlsMode.VERIFY_FULL):
        with pytest.raises(CannotConnect, match="does not speak TLS"):
            await connect(options(server.port, tls=mode))
    connection = await connect(options(server.port, host="::1", tls=TlsMode.PREFER))
    assert not connection.uses_tls
    await connection.aclose()


async def test_large_answers_copy_and_cancellation_go_through_tls(
    server: PostgresServer, certificates: Certificates
) -> None:
    async with tls_proxy(server, certificates.context) as proxy:
        safe = options(proxy.port, host="localhost", tls=TlsMode.VERIFY_FULL, ca_file=certificates.ca_file)
        connection = await connect(safe)
        text = "ä" * 3_000_000
        assert await connection.fetch_value("select $1::text", text) == text
        assert len(await connection.fetch("select repeat('x', 1000) from generate_series(1, 20000)")) == 20_000
        for _ in range(5):
            with trio.move_on_after(0.1) as scope:
                await connection.fetch("select pg_sleep(300)")
            assert scope.cancelled_caught
            assert await connection.fetch_value("select 1") == 1
        await connection.execute("create temp table t (i int, s text)")
        assert await connection.copy_records("t", ("i", "s"), ((i, "x" * 1000) for i in range(5000))) == 5000
        await connection.aclose()
        assert (proxy.encrypted, proxy.encrypted_cancels, proxy.plain) == (6, 5, 0)


async def test_nothing_said_in_clear_text_counts_once_tls_is_agreed() -> None:
    # CVE-2021-23222: a man in the middle adds bytes of a log-in to the server's one-byte answer.
    error = await _connect_to(b"S" + LOGGED_IN, tls=TlsMode.REQUIRE)
    assert "TLS failed" in error.message or "not reached" in error.message


# Passwords and names.


@pytest.mark.parametrize("user", ["with_scram", "with_md5", "with_clear"])
async def test_passwords_of_each_kind_let_in_and_keep_out(server: PostgresServer, user: str) -> None:
    connection = await connect(options(server.port, user=user, password="pä ss", database="postgres"))
    assert await connection.fetch_value("select current_user") == user
    await connection.aclose()
    for wrong in ("pä  ss", "", None):
        with pytest.raises(CannotConnect) as caught:
            await connect(options(server.port, user=user, password=wrong, database="postgres"))
        assert "password" in caught.value.remedy or "password" in caught.value.message
        assert "pä" not in str(caught.value), "a message never holds a password"


@pytest.mark.parametrize(
    ("changes", "sqlstate", "remedy"),
    [
        ({"database": "missing"}, "3D000", "createdb"),
        ({"user": "missing", "database": "postgres"}, "28000", "user's name"),
        ({"user": "nobody", "database": "postgres"}, "28000", "pg_hba.conf"),
        ({"user": "wants_tls", "database": "postgres"}, "28000", "TLS"),
    ],
)
async def test_whom_the_server_does_not_let_in_is_told_why(
    server: PostgresServer, changes: dict[str, object], sqlstate: str, remedy: str
) -> None:
    with pytest.raises(CannotConnect) as caught:
        await connect(options(server.port, **changes))
    assert caught.value.sqlstate == sqlstate
    assert remedy in caught.value.remedy


async def test_too_many_clients_are_told_so(server: PostgresServer) -> None:
    opened = []
    with pytest.raises(CannotConnect) as caught:
        for _ in range(100):
            opened.append(await connect(options(server.port)))
    assert caught.value.sqlstate == "53300"
    for connection in opened:
        connection.terminate()


# Addresses.


async def test_an_address_where_nobody_listens_is_named(tmp_path: Path) -> None:
    for wrong in (
        ConnectOptions(host="127.0.0.1", port=1, user="x"),
        ConnectOptions(host="no-such-host.invalid", user="x"),
        ConnectOptions(host=str(tmp_path), user="x"),
        ConnectOptions(host="a..b", user="x"),
        ConnectOptions(host="\0", user="x"),
    ):
        with pytest.raises(CannotConnect, match=r"not reached|no address") as caught:
            await connect(wrong)
        assert "database URL" in caught.value.remedy


async def test_a_url_leads_where_it_says(server: PostgresServer) -> None:
    host, port = server.host.replace("/", "%2F"), server.port
    for url in (
        f"postgres://postgres@{host}:{port}/postgres?application_name=by%20socket",
        f"postgresql://with_scram:p%C3%A4%20ss@127.0.0.1:{port}/postgres?sslmode=prefer&application_name=by%20socket",
        f"postgres://postgres@[::1]:{port}/postgres?options=-c%20statement_timeout%3D123s&application_name=by%20socket",
        f"postgres://localhost:{port}/postgres?user=postgres&application_name=by%20socket&connect_timeout=20",
    ):
        connection = await connect(parse_url(url))
        assert await connection.fetch_value("show application_name") == "by socket"
        if "statement_timeout" in url:
            assert await connection.fetch_value("show statement_timeout") == "123s"
        await connection.aclose()


# Servers that are none, or too old.


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


def _parameter(name: str, value: str) -> bytes:
    return _message(b"S", f"{name}\0{value}\0".encode())


LOGGED_IN = (
    _message(b"R", struct.pack("!i", 0))
    + _parameter("server_version", "13.14 (Debian 13.14-0+deb11u1)")
    + _parameter("server_encoding", "UTF8")
    + _message(b"K", struct.pack("!ii", 1, 2))
    + _message(b"Z", b"I")
)


async def _connect_to(*answers: bytes, hang: bool = False, tls: TlsMode = TlsMode.DISABLE) -> CannotConnect:
    """What connecting to a server fails with that gives these answers, one to each thing it hears."""

    async def serve(stream: trio.SocketStream) -> None:
        for answer in answers:
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.receive_some(4096)
                await stream.send_all(answer)
        if hang:
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        with pytest.raises(CannotConnect) as caught:
            await connect(options(port, tls=tls, connect_timeout_s=0.5 if hang else 30.0))
        nursery.cancel_scope.cancel()
    return caught.value


async def test_a_server_that_never_answers_is_given_up() -> None:
    assert "no answer in 0.5 s" in (await _connect_to(hang=True)).message


async def test_what_is_no_postgres_server_is_not_taken_for_one() -> None:
    # Of a message that says it is 0 bytes long, the protocol core never came back.
    for answer in (
        b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0" * 100, b"", b"E\0\0\0\x04", b"R\0\0\0\0", b"R\xff\xff\xff\xff",
        LOGGED_IN[:9] + b"S\0\0\0\0", b"SSH-2.0-OpenSSH_9.2p1\r\n", b"J\0\0\0\n5.5.5-10.11",
    ):  # fmt: skip
        error = await _connect_to(answer)
        assert error.code == "FLX202"
        assert error.remedy


async def test_a_server_that_is_too_old_is_refused_with_its_version() -> None:
    error = await _connect_to(LOGGED_IN)
    assert "PostgreSQL 13.14" in error.message
    assert "14 or newer" in error.message + error.remedy
