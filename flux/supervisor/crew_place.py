"""A worker's place in a crew: what the parent of ``flux serve --workers N`` tells each process that it starts.

Workers are processes, each a whole server with its own pools, sandboxes and journal. What they share is made by their
parent: the sockets that they accept from, the database, the console's token, and a folder in which each has a unix
socket that the others know it by (`flux.supervisor.siblings`). All of it is said in one line of JSON over a socket
that the worker inherits; nothing of it can be read from its command line or its environment.

On the same socket the worker says, a line each, that it is ready or why it can't be, and hears whose clients it is to
take as well while that one is not there. When the parent's end is closed,
however that came, the worker drains and ends.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import msgspec

from flux.store.postgres import ConnectOptions
from flux.supervisor.server_options import ServerOptions
from flux.supervisor.story import Route


@attrs.frozen
class Place:
    """What one worker is told."""

    number: int
    """From 0; whoever takes over from a worker that ended has the same."""
    count: int
    """How many there are."""
    is_first: bool
    """The crew's beginning: it says which code is served, and the others follow."""
    deploys: bool
    """The first one begins with the project's folder, whatever was served last."""
    folder: Path
    """Where the unix sockets are."""
    token: str
    """The console's."""
    secret: str
    """What a worker shows the others, so that they believe it to be one."""
    port: int
    """The TCP port of all."""
    descriptors: tuple[int, ...]
    """Sockets that it listens on, open in its process."""
    console: tuple[int, ...]
    """Sockets of the console's port, which all accept from and none closes; none where it is off."""
    options: ServerOptions
    database: Mapping[str, Any] | None
    """How to reach the embedded Postgres, which the parent runs; None: the options, or the project, name another."""
    screen: Mapping[str, Any]
    """How what it tells is to look; see `flux.cli.serving`."""

    def connect_options(self) -> ConnectOptions | None:
        """Return how the embedded Postgres is reached; None when it is not the one."""
        return None if self.database is None else ConnectOptions(**self.database)

    def socket_path(self, number: int) -> Path:
        """Return where a worker hears the others."""
        return self.folder / str(number)


def encode_place(place: Place) -> bytes:
    """Return ``place`` as a line."""
    document = attrs.asdict(place, recurse=True)
    document["folder"] = str(place.folder)
    document["options"]["root"] = str(place.options.root)
    return msgspec.json.encode(document) + b"\n"


def decode_place(line: bytes) -> Place:
    """Return what `encode_place` has made a line of."""
    document = msgspec.json.decode(line, type=dict[str, Any])
    options = document["options"] | {"root": Path(document["options"]["root"])}
    return Place(
        **document
        | {
            "folder": Path(document["folder"]),
            "descriptors": tuple(document["descriptors"]),
            "console": tuple(document["console"]),
            "options": ServerOptions(**options),
        }
    )


def encode_also(descriptors: Sequence[int]) -> bytes:
    """Return the line that names the sockets that a worker is to accept from besides its own: those and no others."""
    return msgspec.json.encode({"also": list(descriptors)}) + b"\n"


def decode_also(line: bytes) -> Sequence[int]:
    """Return what `encode_also` has made a line of."""
    return [int(descriptor) for descriptor in msgspec.json.decode(line, type=dict[str, Any])["also"]]


def encode_ready(routes: Sequence[Route]) -> bytes:
    """Return the line of a worker that takes requests."""
    return msgspec.json.encode({"ready": [attrs.asdict(route) for route in routes]}) + b"\n"


def encode_failure(code: str, message: str, remedy: str, exit_code: int) -> bytes:
    """Return the line of a worker that can't start."""
    failure = {"code": code, "message": message, "remedy": remedy, "exit_code": exit_code}
    return msgspec.json.encode({"failure": failure}) + b"\n"


@attrs.frozen
class Ready:
    """A worker takes requests."""

    routes: tuple[Route, ...]


@attrs.frozen
class Failure:
    """A worker can't start."""

    code: str
    message: str
    remedy: str
    exit_code: int


def decode_said(line: bytes) -> Ready | Failure:
    """Return what a worker says."""
    document = msgspec.json.decode(line, type=dict[str, Any])
    if "ready" in document:
        routes = (route | {"grants": tuple(route["grants"])} for route in document["ready"])
        return Ready(tuple(Route(**route) for route in routes))
    return Failure(**document["failure"])
