"""The parent of several workers, with small scripts for workers: what dies is started again, or given up by name."""

import os
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from flux.cli.serving import find_first
from flux.errors import OperatorError
from flux.message import HttpRequest, HttpResponse, RawPath, RequestHead
from flux.supervisor import crew
from flux.supervisor.crew import Crew, CrewGivesUpError, WorkerNotStartedError
from flux.supervisor.crew_place import Place
from flux.supervisor.gateway import serve_http
from flux.supervisor.listeners import (
    Borrowed,
    get_port,
    open_listeners,
    open_shared_listeners,
    open_unix_listener,
)
from flux.supervisor.server_options import ServerOptions
from flux.supervisor.siblings import Siblings
from tests.gateway_server import PATIENT, Client, Gateway

PATIENCE_S = 60.0
WORKER = """
import json, os, signal, socket, sys, time
control = socket.socket(fileno=int(sys.argv[1]))
lines = control.makefile("rb")
place = json.loads(lines.readline())
folder = place["folder"]
open(f"{folder}/starts", "a").write(f"{place['number']} {os.getpid()}\\n")
def fail(message):
    failure = {"code": "FLX202", "message": message, "remedy": "start it", "exit_code": 5}
    control.sendall(json.dumps({"failure": failure}).encode() + b"\\n")
    sys.exit(5)
def ready():
    control.sendall(json.dumps({"ready": []}).encode() + b"\\n")
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
"""
SERVES = WORKER + """
ready()
for line in lines:
    open(f"{folder}/also{place['number']}", "ab").write(line)
"""
FAILS_ONCE_ITS_FILE_IS_THERE = WORKER + """
if os.path.exists(f"{folder}/broken"):
    fail("the database is away")
ready()
time.sleep(600)
"""


class Told:
    """A story of which only notes are looked at."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@asynccontextmanager
async def crew_of(folder: Path, script: str, count: int) -> AsyncIterator[tuple[Crew, Told, Sequence[Place]]]:
    """Run a crew whose workers are ``script``, and raise what it raises."""
    listeners = await open_shared_listeners("127.0.0.1", 0, count)
    port = listeners[0][0].socket.getsockname()[1]
    places = [
        Place(
            number, count, is_first=False, deploys=False, folder=folder, token="t", secret="s", port=port,
            descriptors=(several[0].socket.fileno(),), console=(), options=ServerOptions(folder), database=None,
            screen={},
        )
        for number, several in enumerate(listeners)
    ]  # fmt: skip
    told = Told()
    made = Crew(places, [sys.executable, "-S", "-E", "-c", script], told)  # type: ignore[arg-type]
    try:
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(made.run)
                yield made, told, places
                await made.stop()
                nursery.cancel_scope.cancel()
    finally:
        for several in listeners:
            several[0].socket.close()


def list_starts(folder: Path) -> list[tuple[int, int]]:
    """Number and process id of each worker that was started, in order."""
    lines = (folder / "starts").read_text().splitlines()
    return [(int(number), int(pid)) for number, pid in map(str.split, lines)]


async def wait_also(folder: Path, number: int, *heard: list[int]) -> None:
    """Wait until a worker has been told to take these clients, in this order."""
    path = trio.Path(folder / f"also{number}")
    lines = [f'{{"also":{str(one).replace(" ", "")}}}' for one in heard]
    while not await path.exists() or (await path.read_text()).split() != lines:  # noqa: ASYNC110 - another process.
        await trio.sleep(0.01)


async def test_what_dies_is_started_again_and_another_takes_its_clients_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew, "PAUSE_S", 0.01)
    async with crew_of(tmp_path, SERVES, 2) as (made, told, places):
        await made.wait_ready()
        # While the second was not there, the first one had its clients; then it was told to leave them.
        fds = [place.descriptors[0] for place in places]
        await wait_also(tmp_path, 0, [fds[1]], [])
        (first, pid), _ = list_starts(tmp_path)
        assert first == 0
        os.kill(pid, signal.SIGKILL)
        await wait_also(tmp_path, 1, [fds[0]], [])
        await made.wait_ready()
        assert [number for number, _ in list_starts(tmp_path)] == [0, 1, 0]
        assert told.notes == ["worker 0 ended by itself (signal SIGKILL); it is started again in 0.01 s"]
        # The port is the crew's all the while.
        with pytest.raises(OperatorError, match="in use"):
            await open_shared_listeners("127.0.0.1", places[0].port, 1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", places[0].port))


async def test_a_first_worker_that_cannot_start_ends_the_server_with_its_own_words(tmp_path: Path) -> None:
    (tmp_path / "broken").touch()
    with pytest.RaisesGroup(WorkerNotStartedError, flatten_subgroups=True) as caught:
        async with crew_of(tmp_path, FAILS_ONCE_ITS_FILE_IS_THERE, 2) as (made, _, _):
            await made.wait_ready()
    error = find_first(caught.value)
    assert "FLX202 the database is away" in str(error)
    assert len(list_starts(tmp_path)) == 1


async def test_a_server_without_any_worker_gives_up_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "PAUSE_S", 0.01)
    with pytest.RaisesGroup(CrewGivesUpError, flatten_subgroups=True) as caught:
        async with crew_of(tmp_path, FAILS_ONCE_ITS_FILE_IS_THERE, 1) as (made, _, _):
            await made.wait_ready()
            (tmp_path / "broken").touch()
            os.kill(list_starts(tmp_path)[0][1], signal.SIGKILL)
            await trio.sleep_forever()
    error = find_first(caught.value)
    assert "5 starts in a row have failed" in str(error) and "FLX202" in str(error)
    assert len(list_starts(tmp_path)) == 6


async def test_what_a_lead_takes_along_is_asked_again_and_what_it_was_told_is_not(tmp_path: Path) -> None:
    model = Place(
        number=2, count=3, is_first=False, deploys=False, folder=tmp_path, token="t", secret="s", port=1,
        descriptors=(), console=(), options=ServerOptions(tmp_path), database=None, screen={},
    )  # fmt: skip
    asked: list[tuple[int, bytes]] = []

    async def die(number: int, stream: trio.SocketStream) -> None:
        """Take a part of the request and go, as who is killed does."""
        async with stream:
            asked.append((number, await stream.receive_some(4)))

    async with trio.open_nursery() as nursery:
        for number in (0, 1):
            listener = open_unix_listener(model.socket_path(number))
            nursery.start_soon(trio.serve_listeners, partial(die, number), [listener])
        siblings = Siblings(model)
        assert await siblings.forward(HttpRequest(make_head("GET"))) is None  # We answer it.
        assert asked == [(0, b"GET "), (1, b"GET ")]
        told = await siblings.forward(HttpRequest(make_head("POST")))
        assert told is not None and told.status == 503 and b"FLX632" in told.body
        assert asked[2:] == [(0, b"POST")]
        nursery.cancel_scope.cancel()


async def test_who_connects_as_a_socket_goes_back_to_its_owner_does_not_end_the_server() -> None:
    async def answer(_request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, (), b"here")

    [lent] = await open_listeners("127.0.0.1", 0)
    gateway, borrowed, drain = Gateway(answer, 100), Borrowed(), trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(
            partial(serve_http, [], gateway, PATIENT, drain=drain, on_crash=gateway.on_crash, borrowed=borrowed)
        )
        for _ in range(50):
            borrowed.set([lent.socket.fileno()])
            await trio.testing.wait_all_tasks_blocked()
            with Client(get_port([lent])) as client:
                borrowed.set([])  # Before anybody has heard that somebody connected.
                await trio.testing.wait_all_tasks_blocked()
                borrowed.set([lent.socket.fileno()])
                client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                assert (await trio.to_thread.run_sync(client.read)).body == b"here"

        # Lent to a server that may open no more files: it says so, and goes on once it may.
        assert gateway.crashes == []
        borrowed.set([])
        await trio.testing.wait_all_tasks_blocked()
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        with Client(get_port([lent])) as client:
            client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            os.close(free := os.dup(0))
            resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
            try:
                borrowed.set([lent.socket.fileno()])
                with trio.fail_after(PATIENCE_S):
                    while not gateway.crashes:  # noqa: ASYNC110 - a list
                        await trio.sleep(0.01)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, before)
            assert (await trio.to_thread.run_sync(client.read)).body == b"here"
        assert [getattr(crash, "code", "") for crash in gateway.crashes] == ["FLX602"]
        drain.set()
    await lent.aclose()


def make_head(method: str) -> RequestHead:
    return RequestHead(method, "/a", "/a", RawPath("/a"), (), (("host", "localhost"),), "1.1", "127.0.0.1:1")
