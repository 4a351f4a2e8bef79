"""What the command line says about a server."""

from pathlib import Path

import attrs

LOOPBACK = "127.0.0.1"


@attrs.frozen
class ServerOptions:
    """How a project is to be served."""

    root: Path
    """The project's folder."""
    host: str = LOOPBACK
    """Name or address to listen on."""
    port: int | None = None
    """TCP port, or None for the project's."""
    database_url: str = ""
    """An existing Postgres; empty for the project's, or else the embedded one."""
    tls_certificate: str = ""
    """File with the certificate that clients are shown; empty: no TLS."""
    tls_key: str = ""
    """File with its key."""
    clean: bool = False
    """Begin with an empty embedded database."""
    pg_user: str | None = None
    """Who the embedded Postgres runs as when we are root."""
    logs_requests: bool = False
    """Each execution is told of."""
    tells_why: bool = False
    """Error answers say what failed: for a machine on which whoever asks wrote the code."""
