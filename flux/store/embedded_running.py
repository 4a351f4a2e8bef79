"""Finding an embedded server that somebody else has started and runs.

A server belongs to the process that started it, and ends with it (`flux.store.embedded`). A command that only
asks it something does not need to own it: what it has to know stands in the cluster's folder.
"""

from pathlib import Path

from flux.store.connect_options import ConnectOptions
from flux.store.embedded_folder import PORT, ClusterFolder, list_servers

_SOCKET_LINE = 4
"""Of postmaster.pid: where the socket is."""
_STATUS_LINE = 7
"""Of postmaster.pid: ``ready`` once connections are taken."""


def find_running_postgres(directory: Path, *, user: str, database: str) -> ConnectOptions | None:
    """How to connect to the server that runs in ``directory``; None when none does, or not yet."""
    folder = ClusterFolder(directory.resolve())
    try:
        lines = (folder.data / "postmaster.pid").read_text().splitlines()
        password = folder.password.read_text().strip()
    except (FileNotFoundError, PermissionError):
        return None  # Who may not read this may not start a server there either, and is told so then.
    if len(lines) <= _STATUS_LINE or lines[_STATUS_LINE].strip() != "ready":
        return None
    if int(lines[0]) not in {server.pid for server in list_servers(folder)}:
        return None  # It was killed, and left its file behind.
    return ConnectOptions(
        host=lines[_SOCKET_LINE], port=PORT, user=user, password=password, database=database
    )
