"""Asking the server, over the console's JSON API.

`open_client` finds the server (``--server``, else ``FLUXRT_URL``, else the nearest
``.flux/dev.json``) and gives a `Client`. Its answers are whole or they are errors:
a body that ends early, is no JSON or comes from some other program raises
`MalformedAnswer`; refusals become the error with the server's own code, so the exit
code tells them apart.

`http.client` and `json` come from the standard library and are imported here, so only by
commands that ask.
"""

import http.client
import json
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote, urlencode, urlsplit

from flux.cli.failures import (
    AmbiguousId,
    CutAnswer,
    MalformedAnswer,
    NoServer,
    NoSuchId,
    NotAuthorised,
    ServerRefused,
    ServerUnreachable,
    UntrustedServerFile,
    UsageError,
    of_code,
)
from flux.cli.record import Record
from flux.cli.settings import settings

API = "/_flux/api"
CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 60.0
INVOKE_TIMEOUT_S = 3600.0
"""The server ends functions by their own limit; this only ends waiting for a server that is gone."""

SILENCE_MAX_S = 60.0
"""A stream without even a heartbeat for so long counts as broken."""

ANSWER_BYTES_MAX = 256 * 1024 * 1024
LINE_BYTES_MAX = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Server:
    """Where to ask."""

    url: str
    """As it was given: ``http://127.0.0.1:4000``."""

    token: str
    """Sent as a bearer token; empty for none."""

    source: str
    """What named it, for error messages."""

    certificate: str = ""
    """File with the certificate that it shows, where it is known: no other is believed then."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One JSON document from the server."""

    text: str
    """Exactly as sent: ``--json`` prints this, so no number loses a digit."""

    record: Record
    """The same, read."""


class _KnownServer(http.client.HTTPSConnection):
    """A connection to a server of this machine, whose certificate is a file here.

    The certificate is for the name that clients use, and we ask 127.0.0.1: so it is compared, and its name is not.
    """

    def __init__(self, host: str, port: int | None, certificate: str) -> None:
        import ssl

        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        super().__init__(host, port, timeout=CONNECT_TIMEOUT_S, context=context)
        self._certificate = certificate

    def connect(self) -> None:
        """Connect, and see who answers before anything is said."""
        import ssl

        super().connect()
        pem = Path(self._certificate).read_text(encoding="ascii", errors="replace")
        end = "-----END CERTIFICATE-----"
        first = pem[pem.find("-----BEGIN CERTIFICATE-----") : pem.find(end) + len(end)]
        if self.sock.getpeercert(binary_form=True) != ssl.PEM_cert_to_DER_cert(first):
            self.close()
            raise OSError(f"it does not show the certificate in {self._certificate}: kill -HUP has the server read it")


class Client:
    """One connection to one server, kept for the questions of one command."""

    def __init__(self, server: Server) -> None:
        self.server = server
        """Where the questions go."""
        parts = _checked_url(server)
        self._prefix = parts.path.rstrip("/") + API
        assert parts.hostname is not None  # _checked_url saw to it.
        # RFC 6761, section 6.3: names below "localhost" mean this machine, and not every resolver knows.
        is_here = parts.hostname.endswith(".localhost")
        self._host = parts.netloc if is_here else None
        host = "127.0.0.1" if is_here else parts.hostname
        self._connection: http.client.HTTPConnection
        if parts.scheme == "https" and server.certificate:
            self._connection = _KnownServer(host, parts.port, server.certificate)
        else:
            kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
            self._connection = kind(host, parts.port, timeout=CONNECT_TIMEOUT_S)

    def close(self) -> None:
        """Drop the connection."""
        self._connection.close()

    def get(self, *path: str, timeout_s: float = ANSWER_TIMEOUT_S, **query: object) -> Answer:
        """Ask for one JSON document. Each part of the path is quoted; a query value of None is left out."""
        return self._answer("GET", path, query, None, timeout_s)

    def post(self, *path: str, body: str, timeout_s: float = ANSWER_TIMEOUT_S, **query: object) -> Answer:
        """Send one JSON document and read the one that comes back."""
        return self._answer("POST", path, query, body, timeout_s)

    def download(self, *path: str, kind: str, timeout_s: float = ANSWER_TIMEOUT_S) -> bytes:
        """Ask for bytes of the media type ``kind``."""
        return self._read_all(self._ask("GET", path, {}, None, timeout_s, kind))

    def stream(
        self, *path: str, endless: bool, line_bytes_max: int = LINE_BYTES_MAX, **query: object
    ) -> "Stream":
        """Ask for JSON lines; an ``endless`` stream ends only when the server or the connection goes."""
        response = self._ask("GET", path, query, None, SILENCE_MAX_S)
        return Stream(self, response, endless=endless, line_bytes_max=line_bytes_max)

    def stream_work(self, *path: str, body: str, **query: object) -> "Stream":
        """Have the server do something, and hear of it in JSON lines. Whoever goes before its end stops it."""
        response = self._ask("POST", path, query, body, SILENCE_MAX_S)
        if self._connection.sock is not None:
            # Closed with a reset, which the server hears at once: one that only hangs up may still be reading.
            self._connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return Stream(self, response, endless=False, line_bytes_max=ANSWER_BYTES_MAX)

    def _answer(
        self,
        method: str,
        path: tuple[str, ...],
        query: Mapping[str, object],
        body: str | None,
        timeout_s: float,
    ) -> Answer:
        response = self._ask(method, path, query, body, timeout_s)
        text = _decoded(self._read_all(response), self.server)
        return Answer(text, Record(_parsed(text, self.server)))

    def _ask(
        self,
        method: str,
        path: tuple[str, ...],
        query: Mapping[str, object],
        body: str | None,
        timeout_s: float,
        wanted: str = "json",
    ) -> http.client.HTTPResponse:
        target = self._prefix + "".join("/" + quote(part, safe="") for part in path)
        said = {key: str(value) for key, value in query.items() if value is not None}
        target += "?" + urlencode(said) if said else ""
        accepted = "application/json, application/x-ndjson" if wanted == "json" else wanted
        headers = {"Accept": accepted, "User-Agent": "flux"}
        if self._host is not None:
            headers["Host"] = self._host
        if self.server.token:
            headers["Authorization"] = f"Bearer {self.server.token}"
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            if self._connection.sock is None:
                self._connection.connect()
            self._connection.sock.settimeout(timeout_s)
            self._connection.request(method, target, body.encode() if body is not None else None, headers)
            response = self._connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            self.fail(error)
        if response.status >= 300:
            self._refuse(response, path)
        kind = response.headers.get_content_type()
        if wanted not in kind:
            self.close()
            raise MalformedAnswer(
                f"{self.server.url} answered with {kind}, not {wanted.replace('json', 'JSON')}: is it a Flux server?",
                remedy=f"the address comes from {self.server.source}; flux dev prints the right one",
            )
        return response

    def _read_all(self, response: http.client.HTTPResponse) -> bytes:
        try:
            body = response.read(ANSWER_BYTES_MAX + 1)
            # read(amount) does not raise when the connection ends before content-length bytes came.
            if response.length and len(body) <= ANSWER_BYTES_MAX:
                raise http.client.IncompleteRead(body, response.length)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            self.fail(error)
        if len(body) > ANSWER_BYTES_MAX:
            self.close()
            raise MalformedAnswer(
                f"the server's answer is longer than {ANSWER_BYTES_MAX >> 20} MiB",
                remedy="ask for less: -n, --since, or a narrower filter",
            )
        return body

    def fail(self, error: Exception) -> NoReturn:
        """Say in our words what went wrong with the connection."""
        server = self.server
        if isinstance(error, http.client.IncompleteRead):
            raise CutAnswer(
                f"the answer of {server.url} ends early: the connection was cut", remedy="try again"
            ) from error
        if isinstance(error, http.client.HTTPException) and not isinstance(error, OSError):
            raise MalformedAnswer(
                f"{server.url} does not answer in HTTP: {type(error).__name__}",
                remedy=f"the address comes from {server.source}; flux dev prints the right one",
            ) from error
        match error:
            case ConnectionRefusedError():
                # A server that ends by itself takes its file along.
                left_over = server.source.endswith("dev.json")
                cause = "nothing listens there" + " any more; it did not end by itself" * left_over
            case socket.gaierror():
                cause = f"its name cannot be looked up ({error.strerror})"
            case TimeoutError():
                cause = "it did not answer in time"
            case http.client.RemoteDisconnected():
                cause = "it closed the connection without an answer"
            case _:
                cause = str(getattr(error, "strerror", None) or error or type(error).__name__)
        raise ServerUnreachable(
            f"no answer from {server.url} ({server.source}): {cause}",
            remedy="start it with flux dev, or name another with --server URL or FLUXRT_URL",
        ) from error

    def _refuse(self, response: http.client.HTTPResponse, path: tuple[str, ...]) -> NoReturn:
        """Turn an error answer into the error that it describes."""
        body = self._read_all(response)
        problem: Mapping[str, Any] = {}
        if "json" in response.headers.get_content_type():
            with suppress(MalformedAnswer):  # Then the status is all there is to tell, and it is told.
                parsed = _parsed(_decoded(body, self.server), self.server)
                problem = parsed if isinstance(parsed, dict) else {}
        code = str(problem.get("code") or "")
        title = str(problem.get("title") or response.reason or "")
        detail = str(problem.get("detail") or title)
        remedy = str(problem.get("remedy") or "")
        status = response.status
        if _is_flux_code(code):
            raise of_code(code, problem.get("exit"))(detail, remedy=remedy)
        if status in (401, 403):
            raise NotAuthorised(
                f"{self.server.url} refused the token from {self.server.source}: {detail}"
                if self.server.token
                else f"{self.server.url} wants a token and none was given: {detail}",
                remedy=remedy or "set FLUXRT_TOKEN, or run this inside the project that flux dev serves",
            )
        if status == 404 and len(path) > 1 and problem:
            raise NoSuchId(
                f'nothing is called "{path[1]}": {detail}',
                remedy=remedy or "flux trace list, flux function list",
            )
        if status == 409 and path[:1] == ("executions",) and problem:
            raise AmbiguousId(f'"{path[1]}" is not one execution: {detail}', remedy=remedy)
        raise ServerRefused(
            f"{self.server.url} answered {status} to /{'/'.join(path)}"
            + (f" ({code})" if code else "")
            + (f": {detail}" if detail else ""),
            remedy=remedy
            or ("is it a Flux server of this version?" if status == 404 else "see the server's log"),
        )


class Stream:
    """JSON lines as they come."""

    def __init__(
        self,
        client: Client,
        response: http.client.HTTPResponse,
        *,
        endless: bool,
        line_bytes_max: int = LINE_BYTES_MAX,
    ) -> None:
        self._client = client
        self._line_bytes_max = line_bytes_max
        self._response = response
        self._endless = endless
        # Only a counted or chunked body shows where it ends; any other may have been cut at any line.
        self._shows_its_end = response.chunked or response.length is not None

    @property
    def began_at(self) -> str | None:
        """The server's clock when it began to answer (RFC 3339), or None when it did not say."""
        date = self._response.headers.get("Date")
        with suppress(ValueError, TypeError):  # A date that is none is no date.
            return parsedate_to_datetime(date).isoformat() if date else None
        return None

    def __iter__(self) -> Iterator[Answer]:
        """Each line. A cut stream raises: `MalformedAnswer`, or `ServerUnreachable` for a lost connection."""
        pending = bytearray()
        while True:
            try:
                data = self._response.read1(65536)
                if not data and self._response.length:
                    raise http.client.IncompleteRead(b"", self._response.length)
            except (OSError, http.client.HTTPException) as error:
                self._client.close()
                self._client.fail(error)
            if not data:
                break
            # A long line comes in many pieces, which are not looked through again with each.
            lines: list[bytes] = []
            if b"\n" in data:
                *lines, data = (bytes(pending) + data).split(b"\n")
                pending.clear()
            pending += data
            if len(pending) > self._line_bytes_max:
                self._client.close()
                raise MalformedAnswer(f"a line of the answer is longer than {self._line_bytes_max >> 20} MiB")
            for line in lines:
                if line.strip():
                    yield self._read(line)
        if pending.strip() or not (self._shows_its_end or self._endless):
            self._client.close()
            raise CutAnswer(
                f"the answer of {self._client.server.url} ends early: the connection was cut",
                remedy="try again",
            )

    def _read(self, line: bytes) -> Answer:
        text = _decoded(line, self._client.server)
        return Answer(text.strip(), Record(_parsed(text, self._client.server)))


def open_client(*, connect_timeout_s: float = CONNECT_TIMEOUT_S) -> Client:
    """A client for the server that the command line, the environment or the project names."""
    client = Client(find_server(settings().server))
    client._connection.timeout = connect_timeout_s
    return client


def open_client_again(client: Client) -> Client:
    """A client for the server that is named by now: started anew it has another token, perhaps another port."""
    try:
        server = find_server(settings().server)
    except (NoServer, UntrustedServerFile):  # It is away, or about to write down where it is.
        return client
    if server == client.server:
        return client
    client.close()
    return Client(server)


def find_server(given: str | None) -> Server:
    """Where the server is; raises when nothing says so."""
    token = os.environ.get("FLUXRT_TOKEN", "")
    url, source = given, "--server"
    if not url:
        url, source = os.environ.get("FLUXRT_URL"), "FLUXRT_URL"
    if url and token:
        return Server(url, token, source)
    path = _find_server_file()
    if path is None:
        if url:
            return Server(url, "", source)
        raise NoServer(
            "which server? No --server, no FLUXRT_URL, and no .flux/dev.json here or above",
            remedy="run flux dev in your project, or say --server http://HOST:PORT",
        )
    if not url:
        found = _read_server_file(path)
        return Server(found.url, token or found.token, found.source, found.certificate)
    # The URL was given without a token: if it is this project's server, its token is known.
    with suppress(UntrustedServerFile):  # Nobody asked for that file; without it there is no token.
        found = _read_server_file(path)
        if found.url.rstrip("/") == url.rstrip("/"):
            return Server(url, found.token, source, found.certificate)
    return Server(url, "", source)


def _find_server_file() -> Path | None:
    folder = Path.cwd()
    for parent in (folder, *folder.parents):
        path = parent / ".flux" / "dev.json"
        if path.exists():
            return path
    return None


def _read_server_file(path: Path) -> Server:
    """Read ``.flux/dev.json``, if nobody else could have written or read it.

    Parents are searched too, so in a shared folder the file could be another
    user's, who would then be sent what ``flux invoke --data`` sends.
    """
    remedy = "start flux dev again, which writes it, or say --server URL with FLUXRT_TOKEN"
    try:
        descriptor = os.open(path, os.O_RDONLY)
        with os.fdopen(descriptor, encoding="utf-8") as file:
            status = os.fstat(descriptor)
            if status.st_uid != os.geteuid():
                raise UntrustedServerFile(
                    f"{path} belongs to user {status.st_uid}, not to you", remedy=remedy
                )
            if status.st_mode & 0o077:
                raise UntrustedServerFile(
                    f"{path} has mode {status.st_mode & 0o777:04o}: others can reach the token in it",
                    remedy=f"chmod 600 {path}, then start flux dev again for a new token",
                )
            data = json.loads(file.read(65536))
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        raise UntrustedServerFile(f"{path} cannot be read: {cause}", remedy=remedy) from error
    url, token = (data.get("url"), data.get("token", "")) if isinstance(data, dict) else (None, None)
    if not isinstance(url, str) or not isinstance(token, str):
        raise UntrustedServerFile(f"{path} has no url and token", remedy=remedy)
    return Server(url, token, str(path), str(data.get("certificate", "")))


def _checked_url(server: Server) -> Any:
    try:
        parts = urlsplit(server.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            raise ValueError("write http://HOST:PORT or https://HOST")
        if "@" in parts.netloc:
            raise ValueError("put the token into FLUXRT_TOKEN, not into the URL")
        if parts.query or parts.fragment:
            raise ValueError("leave out what follows ? or #")
        if not server.url.isascii() or not server.url.isprintable() or " " in server.url:
            raise ValueError("it has characters that no URL has")
    except ValueError as error:
        raise UsageError(f'"{server.url}" ({server.source}) is no server\'s URL: {error}') from None
    if not server.token.isascii() or not server.token.isprintable() or " " in server.token:
        raise UsageError(
            f"the token for {server.url} has characters that no token has", remedy="check FLUXRT_TOKEN"
        )
    return parts


def _is_flux_code(code: str) -> bool:
    return len(code) == 6 and code.startswith("FLX") and code.isascii() and code[3:].isdigit()


def _decoded(body: bytes, server: Server) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise MalformedAnswer(f"the answer of {server.url} is not UTF-8: {error.reason}") from error


def _parsed(text: str, server: Server) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise MalformedAnswer(
            f"the answer of {server.url} is cut or is not JSON: {error}",
            remedy="try again; if it stays so, please report it",
        ) from error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
