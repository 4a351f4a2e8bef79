"""Where a database is and how to get in, as plain values.

A `ConnectOptions` says everything the driver needs to open one connection; a
URL, as people write it into ``flux.toml`` or ``--database-url``, becomes one in
`parse_url`. Nothing here touches the network. Parsing refuses what it does not
know: an option that were silently ignored, ``sslmode`` misspelt for instance,
would be a connection without TLS that everybody believes to have it.
"""

import getpass
import re
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from urllib.parse import parse_qsl, unquote

import attrs

from flux.errors import OperatorError

SCHEMES = ("postgres", "postgresql")
DEFAULT_PORT = 5432


class BadDatabaseUrl(OperatorError):
    """A database URL that cannot be read."""

    code = "FLX203"


class TlsMode(StrEnum):
    """How much TLS is asked for; the words are libpq's. A unix socket never uses TLS."""

    DISABLE = "disable"
    """Never."""

    PREFER = "prefer"
    """If the server offers it; nothing is verified. Keeps nobody out, keeps nothing secret for sure."""

    REQUIRE = "require"
    """Encrypted or not at all. The certificate is verified only if ``ca_file`` is given, as libpq does."""

    VERIFY_CA = "verify-ca"
    """Encrypted, and the certificate is signed by ``ca_file`` or by an authority the system trusts."""

    VERIFY_FULL = "verify-full"
    """As ``verify-ca``, and the certificate is for this host."""


def _settings(settings: Mapping[str, str]) -> Mapping[str, str]:
    return MappingProxyType(dict(settings))


@attrs.frozen(kw_only=True, hash=False)
class ConnectOptions:
    """How to open a connection."""

    host: str = "localhost"
    """Name or address; a folder (it starts with ``/``) means the unix socket in it."""

    port: int = DEFAULT_PORT
    """TCP port; for a unix socket the number in the socket's name."""

    user: str = attrs.field(factory=getpass.getuser)
    """Role to log in as; by default the name of the operating system's user."""

    password: str | None = attrs.field(default=None, repr=False)
    """Password, or None if the server asks for none."""

    database: str = attrs.field()
    """Database; by default the one named like the user, as libpq has it."""

    tls: TlsMode = TlsMode.PREFER
    """How much TLS is asked for."""

    ca_file: str | None = None
    """PEM file with the authorities to trust, or None for the system's."""

    application_name: str = "flux"
    """What ``pg_stat_activity`` shows."""

    server_settings: Mapping[str, str] = attrs.field(factory=dict, converter=_settings)
    """Settings of the session, from its first moment; ``RESET ALL`` comes back to them."""

    json_as_text: bool = False
    """Whether ``json`` and ``jsonb`` are their exact text (str) instead of Python values."""

    statement_cache_size: int = 256
    """Prepared statements kept per connection; 0 keeps none, which some proxies need."""

    connect_timeout_s: float = 10.0
    """How long opening a connection may take, in seconds, all addresses and the log-in included."""

    answer_bytes_max: int | None = None
    """What one answer may take, notices included unless somebody hears them; None: whatever comes."""

    answer_s_max: float | None = None
    """How long one answer may take to come, in seconds. Kept on this side, where no SQL can lift it."""

    cancel_grace_s: float | None = None
    """How long a cancelled statement may take to end before its connection is closed instead, in seconds; None: as long
    as the driver has it. 0: the server is not asked to end it, and the connection is closed at once."""

    @database.default
    def _database_of_the_user(self) -> str:
        return self.user

    @property
    def is_unix_socket(self) -> bool:
        """Whether ``host`` is a folder."""
        return self.host.startswith("/")

    @property
    def socket_path(self) -> str:
        """Path of the unix socket."""
        return f"{self.host}/.s.PGSQL.{self.port}"

    @property
    def place(self) -> str:
        """For messages: where, who and which database, and never the password."""
        where = self.socket_path if self.is_unix_socket else f"host {self.host} port {self.port}"
        return f'{where}, user "{self.user}", database "{self.database}"'


def parse_url(url: str) -> ConnectOptions:
    """``postgres://user:password@host:port/database?sslmode=...&host=/socket/folder`` as options.

    The query may hold host, port, user, password, dbname, sslmode, sslrootcert, application_name,
    connect_timeout (seconds) and options (``-c name=value``); anything else is refused by name.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in SCHEMES:
        raise _bad(url, "it does not start with postgres://")
    # urlsplit() would turn the host to lower case, and a percent-encoded host may be a folder.
    rest, _, query = rest.partition("?")
    authority, _, database = rest.partition("/")
    login, _, where = authority.rpartition("@")
    user, _, password = login.partition(":")
    host, port = _split_host(url, where)
    found = {"user": unquote(user), "password": unquote(password), "host": unquote(host), "port": port,
             "dbname": unquote(database)}  # fmt: skip
    try:
        found.update(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    except ValueError:
        raise _bad(url, "the part after ? is not name=value&name=value") from None
    return _options(url, {name: value for name, value in found.items() if value})


def masked(url: str) -> str:
    """``url`` without its passwords, for messages and logs."""
    url = re.sub(r"//([^:/?#]*):.*@", r"//\1:***@", url)
    return re.sub(r"([?&]password=)[^&]*", r"\1***", url)


def _split_host(url: str, where: str) -> tuple[str, str]:
    if where.startswith("["):
        host, bracket, tail = where[1:].partition("]")
        if not bracket or (tail and not tail.startswith(":")):
            raise _bad(url, "the IPv6 address is not written as [address] or [address]:port")
        return host, tail[1:]
    host, _, port = where.partition(":")
    if "," in where:
        raise _bad(url, "it names several hosts, and Flux connects to one")
    return host, port


def _options(url: str, found: dict[str, str]) -> ConnectOptions:
    values: dict[str, object] = {}
    for name, value in found.items():
        match name:
            case "user" | "password" | "host" | "application_name":
                values[name] = value
            case "dbname":
                values["database"] = value
            case "sslrootcert":
                values["ca_file"] = value
            case "port":
                values["port"] = _number(url, name, value, 65535)
            case "connect_timeout":
                values["connect_timeout_s"] = float(_number(url, name, value, 86400))
            case "sslmode":
                if value not in list(TlsMode):
                    raise _bad(url, f"sslmode is {value!r}; it can be {', '.join(TlsMode)}")
                values["tls"] = TlsMode(value)
            case "options":
                values["server_settings"] = {"options": value}
            case _:
                raise _bad(url, f"it has an option {name!r} that Flux does not know")
    return ConnectOptions(**values)  # type: ignore[arg-type]


def _number(url: str, name: str, value: str, highest: int) -> int:
    if not value.isascii() or not value.isdecimal() or not 1 <= int(value) <= highest:
        raise _bad(url, f"{name} is {value!r}; it can be 1 to {highest}")
    return int(value)


def _bad(url: str, why: str) -> BadDatabaseUrl:
    return BadDatabaseUrl(
        f"the database URL {masked(url)!r} cannot be read: {why}",
        remedy="write postgres://user:password@host:port/database, special characters percent-encoded",
    )
