"""Opening a connection, or saying why it cannot be opened and what to do about it."""

import re
import ssl

import trio

from flux.store.asyncpg_seam import (
    ConnectionDoesNotExistError,
    InterfaceError,
    InternalClientError,
    PostgresError,
)
from flux.store.connect_options import ConnectOptions
from flux.store.database_errors import CannotConnect
from flux.store.postgres_connection import Connection
from flux.store.postgres_messages import LogInCheck, NotPostgres
from flux.store.postgres_socket import open_socket
from flux.store.postgres_wire import Wire

SERVER_VERSION_MIN = 14
"""The oldest server whose statements Flux uses."""

_REMEDIES = {
    "28P01": "check the password in the database URL",
    "28000": "check the user's name, and whether pg_hba.conf lets it in from here (with or without TLS)",
    "3D000": "create it (createdb), or name another one in the database URL",
    "53300": "close other clients, or raise max_connections in postgresql.conf",
    "57P03": "try again in a moment: the server is starting up, or shutting down",
}


async def connect(options: ConnectOptions) -> Connection:
    """Open a connection; `CannotConnect` says why that failed and what to do."""
    with trio.move_on_after(options.connect_timeout_s):
        try:
            sock, tls = await open_socket(options)
            wire = Wire(sock, tls, options)
            wire.tap = LogInCheck()
            await wire.start(options)
            wire.tap = None
            connection = Connection(wire)
            _check_version(connection, options.place)
            return connection
        except NotPostgres as error:
            raise CannotConnect(
                f"{options.place}: what answers there is no Postgres server: {error}",
                remedy="correct host and port in the database URL",
            ) from None
        except ConnectionDoesNotExistError as error:
            raise CannotConnect(
                f"{options.place}: the server hung up during log-in"
                + (f": {error.__cause__}" if error.__cause__ else ""),
                remedy="look into the server's log; if it wants TLS, use sslmode=require",
            ) from None
        except PostgresError as error:
            raise CannotConnect(
                f"{options.place}: {error.args[0]}",
                remedy=_REMEDIES.get(error.sqlstate or "", "look into the server's log"),
                sqlstate=error.sqlstate,
            ) from None
        except (InterfaceError, InternalClientError) as error:
            raise CannotConnect(
                f"{options.place}: log-in failed: {error}",
                remedy="use password, md5 or scram-sha-256 for this user in pg_hba.conf",
            ) from error
        except ssl.SSLError as error:
            raise CannotConnect(
                f"{options.place}: TLS failed: {error}",
                remedy="check sslmode, sslrootcert, and the host's name in the certificate",
            ) from error
        except ValueError as error:
            raise CannotConnect(
                f"{options.place}: that is no address: {error}",
                remedy="correct the host in the database URL",
            ) from error
        except OSError as error:
            raise CannotConnect(
                f"{options.place}: not reached: {_why(error)}",
                remedy="start the server there, or correct host and port in the database URL",
            ) from error
    raise CannotConnect(
        f"{options.place}: no answer in {options.connect_timeout_s:g} s",
        remedy="check host, port and firewall; connect_timeout in the database URL waits longer",
    )


def _check_version(connection: Connection, place: str) -> None:
    """Refuse a server that lacks what Flux's SQL is written in."""
    # "13.14 (Debian 13.14-0+deb11u1)", "18.6", "19beta1"; what starts with no number is somebody's own.
    major = re.match(r"\d+", connection.server_version)
    if major is not None and int(major[0]) < SERVER_VERSION_MIN:
        connection.terminate()
        raise CannotConnect(
            f"{place}: the server is PostgreSQL {connection.server_version}, and Flux needs"
            f" {SERVER_VERSION_MIN} or newer",
            remedy="name a newer server in the database URL, or upgrade this one",
        )


def _why(error: OSError) -> str:
    """The reasons behind trio's "all attempts to connect failed"."""
    causes = getattr(error.__cause__, "exceptions", None) or [error.__cause__ or error]
    return "; ".join(dict.fromkeys(str(cause) for cause in causes))
