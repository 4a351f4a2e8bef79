"""A client's socket with TLS on it, and the certificate that the server shows.

`TlsClientSocket` is a `ClientSocket` whose bytes pass through OpenSSL's memory buffers. Its handshake is nothing that a
caller sees: it happens in the first bytes that come, so the limits that hold for a head hold for it too.

A certificate can be replaced while the server runs: `Certificate.reload` tries the new files, and new connections get
them once they are found good. What is found bad changes nothing.
"""

import contextlib
import signal
import socket
import ssl
from pathlib import Path
from typing import Protocol

import trio

from flux.errors import FluxError, OperatorError
from flux.supervisor.client_socket import RECEIVE_BYTES, ClientGone, ClientSocket
from flux.supervisor.server_options import ServerOptions

PIECE_BYTES = 64 * 1024


class BadCertificateError(OperatorError):
    """A certificate or its key can't be used."""

    code = "FLX633"


class Certificate:
    """A certificate with its key, from two files in PEM."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate = certificate
        self._key = key
        self.context = self._load()
        """What new connections use."""

    def reload(self) -> None:
        """Take the files as they are now; raise what is wrong with them, and go on with the ones before."""
        self.context = self._load()

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        # A client that renegotiates makes the server compute for nothing.
        context.options |= ssl.OP_NO_RENEGOTIATION
        for path in (self._certificate, self._key):
            try:
                path.read_bytes()
            except OSError as error:
                raise BadCertificateError(
                    f"{path} can't be read: {error.strerror}", remedy="name a file that the server's user may read"
                ) from error
        try:
            # Without a function, OpenSSL would ask for a passphrase on the terminal, and wait.
            context.load_cert_chain(self._certificate, self._key, password=lambda: b"")
        except (ssl.SSLError, ValueError) as error:
            raise BadCertificateError(
                f"{self._certificate} and {self._key} are not a certificate and its key: {error}",
                remedy="both are PEM; the certificate comes before those that signed it; the key has no passphrase",
            ) from error
        return context


def open_certificate(options: ServerOptions) -> Certificate | None:
    """Return what the options name; None when they name none."""
    if not options.tls_certificate:
        return None
    return Certificate(Path(options.tls_certificate), Path(options.tls_key))


class Told(Protocol):
    """Who hears of a reload. A `flux.supervisor.story.Story` is one."""

    def note(self, text: str) -> None:
        """It was done."""

    def problem(self, what: str, error: FluxError, *, is_serving: bool) -> None:
        """It was not."""


async def reload_on_hangup(certificate: Certificate | None, story: Told) -> None:
    """Take a new certificate with each SIGHUP."""
    with trio.open_signal_receiver(signal.SIGHUP) as signals:
        async for _number in signals:
            if certificate is None:
                story.note("SIGHUP: there is no certificate to read again; flux deploy serves other code")
                continue
            try:
                certificate.reload()
            except BadCertificateError as error:
                story.problem("SIGHUP: the certificate", error, is_serving=True)
            else:
                story.note("the certificate was read again: new connections are shown it")


class TlsClientSocket(ClientSocket):
    """See the module."""

    __slots__ = ("_incoming", "_is_open", "_outgoing", "_tls", "_unsent")

    def __init__(self, accepted: socket.socket, context: ssl.SSLContext) -> None:
        super().__init__(accepted)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._is_open = False
        """The handshake is done."""
        self._unsent = b""
        """Of OpenSSL's own messages, what the kernel had no room for."""

    def receive_nowait(self) -> int:
        """See `ClientSocket.receive_nowait`."""
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise ClientGone from error
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
        count = 0
        try:
            if not self._is_open:
                self._tls.do_handshake()
                self._is_open = True
            while piece := self._tls.read(PIECE_BYTES):
                self.buffer += piece
                count += len(piece)
            self.ended = True  # It said that it has nothing more to say.
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLEOFError:
            # Cut off without a farewell. What is missing of a request is missed by its own length.
            self.ended = True
        except ssl.SSLError as error:
            self._flush()  # OpenSSL's word on what was wrong.
            raise ClientGone from error
        self._flush()
        return count

    async def write(self, data: bytes, timeout_s: float, bytes_per_s_min: float) -> None:
        """See `ClientSocket.write`."""
        for start in range(0, len(data), PIECE_BYTES):
            try:
                self._tls.write(data[start : start + PIECE_BYTES])
            except ssl.SSLError as error:
                raise ClientGone from error
            sealed, self._unsent = self._unsent + self._outgoing.read(), b""
            await super().write(sealed, timeout_s, bytes_per_s_min)

    async def linger(self, timeout_s: float) -> None:
        """See `ClientSocket.linger`."""
        # It wants the client's farewell as well, which we don't wait for.
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        self._flush()
        await super().linger(timeout_s)

    def _flush(self) -> None:
        """Send what OpenSSL has to say by itself; what does not fit goes before the next answer."""
        self._unsent += self._outgoing.read()
        if self._unsent:
            with contextlib.suppress(OSError):
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
