"""``HOST:PORT``, as the command line and ``flux.toml`` take it: where to listen."""


def split_listen_address(text: str) -> tuple[str, int] | None:
    """Return host and port; None where it is not ``HOST:PORT``. IPv6 addresses stand in brackets, and nothing else."""
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not bare or not (port.isascii() and port.isdigit() and int(port) <= 65535):
        return None
    return None if (bare != host) != (":" in bare) else (bare, int(port))
