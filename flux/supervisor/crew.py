"""The parent of ``flux serve --workers N``: it makes what workers share, starts them, and starts again what dies.

A worker is a whole server in a process of its own (`flux.supervisor.crew_member`). The parent serves nothing itself
and holds what must outlive any of them: the lock on the project's folder, ``.flux/dev.json``, the embedded Postgres,
and the listening sockets, one set for each worker (SO_REUSEPORT). A worker's sockets stay open while there is no
worker: nobody else can take the port, and another worker takes its clients meanwhile.

A worker that dies is started again, later and later if that goes on. What it had begun is in its journal, and its
successor makes records of it before it serves. Only a server without any worker that ever gets ready gives up, with
what the last one said.
"""

import contextlib
import secrets
import signal
import socket
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import attrs
import trio

from flux.errors import OperatorError
from flux.project import read_project, read_source_version
from flux.supervisor.client_tls import open_certificate
from flux.supervisor.console_port import ConsolePlace, open_console_port
from flux.supervisor.crew_place import Failure, Place, Ready, decode_said, encode_also, encode_place
from flux.supervisor.flux_folder import held_folder, prepare_flux_folder, server_file
from flux.supervisor.listeners import get_port, open_shared_listeners
from flux.supervisor.project_database import find_place
from flux.supervisor.server_address import name_server
from flux.supervisor.server_options import ServerOptions
from flux.supervisor.server_start import open_database
from flux.supervisor.story import Story

STOP_S = 60.0
"""How long workers may take to end: requests are drained, records stored. Then they are killed."""
PAUSE_S = 0.5
"""Before a worker that died is started again; it doubles each time that its successor dies before it is ready."""
PAUSE_S_MAX = 30.0
GIVES_UP_AFTER = 5
"""Starts that fail in a row, while no worker serves."""
LINE_BYTES_MAX = 4 * 2**20


class CrewGivesUpError(OperatorError):
    """No worker of a server can be started."""

    code = "FLX630"
    exit_code = 1


class WorkerNotStartedError(OperatorError):
    """A worker says why it can't start."""

    code = "FLX631"


async def serve_crew(
    options: ServerOptions,
    story: Story,
    stop: trio.Event,
    *,
    workers: int,
    deploys: bool,
    command: Sequence[str],
    screen: Mapping[str, Any],
) -> None:
    """Serve with so many processes until ``stop`` is set; raise what keeps the server from starting.

    ``command`` starts a worker, given the number of its end of a socket; ``screen`` says how what it tells is to look.
    """
    began = trio.current_time()
    project = read_project(options.root)
    version = await trio.to_thread.run_sync(read_source_version, project)
    story.begin(project, version.branch, version.sha, version.changed_files)
    flux_folder = prepare_flux_folder(options.root)
    port = project.config.dev.port if options.port is None else options.port
    scheme = "http" if open_certificate(options) is None else "https"  # One that is no good is said at once.
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(held_folder(flux_folder))
        listeners = await open_shared_listeners(options.host, port, workers)
        for listener in (one for several in listeners for one in several):
            stack.callback(listener.socket.close)
        listen = project.config.console.listen
        console = await open_console_port(listen, options.host, get_port(listeners[0]))
        for listener in console:
            stack.callback(listener.socket.close)
        database = await stack.enter_async_context(open_database(options, project.config, flux_folder, story))
        is_embedded = not (options.database_url or project.config.database.url)
        # Not below .flux/: the name of a unix socket has room for a hundred characters.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flux-crew-")))
        address = name_server(options.host, listeners[0][0].socket.getsockname()[1], scheme)
        token = secrets.token_urlsafe(24)
        model = Place(
            number=0, count=workers, is_first=False, deploys=deploys, folder=folder, token=token,
            secret=secrets.token_urlsafe(24), port=listeners[0][0].socket.getsockname()[1], descriptors=(),
            console=tuple(one.socket.fileno() for one in console),
            options=options, screen=screen,
            database={name: getattr(database, name) for name in ("host", "port", "user", "password", "database")}
            if is_embedded else None,
        )  # fmt: skip
        places = [
            attrs.evolve(model, number=number, descriptors=tuple(one.socket.fileno() for one in several))
            for number, several in enumerate(listeners)
        ]
        crew = Crew(places, command, story)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crew.run)
            nursery.start_soon(_reload_on_hangup, crew)
            async with trio.open_nursery() as waiting:
                waiting.start_soon(_cancel_when, stop, waiting.cancel_scope)
                await crew.wait_ready()
                waiting.cancel_scope.cancel()
            if not stop.is_set():
                place = find_place(options.database_url or project.config.database.url)
                with server_file(flux_folder, address.url, token, place, options.tls_certificate):
                    story.step("workers", f"{workers} processes on one port", trio.current_time() - began)
                    pages = ConsolePlace.find([one.socket for one in console], listen, scheme)
                    told = "" if pages is None else pages.pages_url
                    story.ready(address.url, crew.routes, trio.current_time() - began, (), told)
                    await stop.wait()
            story.stopping()
            for listener in (*(one for several in listeners for one in several), *console):
                # What clients have begun waits in sockets that the workers have as well, and they finish it.
                listener.socket.close()
            await crew.stop()
            nursery.cancel_scope.cancel()


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


async def _reload_on_hangup(crew: "Crew") -> None:
    with trio.open_signal_receiver(signal.SIGHUP) as signals:
        async for _number in signals:
            crew.reload()


class Crew:
    """The workers of one server."""

    def __init__(self, places: Sequence[Place], command: Sequence[str], story: Story) -> None:
        self._command = command
        self._story = story
        self._members = [_Member(place) for place in places]
        self._is_stopping = False
        self._changed = trio.Event()
        self.routes: Sequence[Any] = ()
        """What the first worker serves, once it is ready."""

    async def run(self) -> None:
        """Start all, and start again what ends, until told to stop; raise why no worker can be started."""
        async with trio.open_nursery() as nursery:
            first, *others = self._members
            # It brings the database to where Flux needs it, and says which code is served. The others follow.
            first.place = attrs.evolve(first.place, is_first=True)
            nursery.start_soon(self._keep, first)
            while not first.is_ready:
                await self._changed.wait()
            for member in others:
                nursery.start_soon(self._keep, member)

    async def wait_ready(self) -> None:
        """Wait until all take requests."""
        while not all(member.is_ready for member in self._members):
            await self._changed.wait()

    async def stop(self) -> None:
        """Have all finish what they have begun, and end them."""
        self._is_stopping = True
        for member in self._members:
            member.signal(signal.SIGTERM)
        with trio.move_on_after(STOP_S) as scope:
            while any(member.process is not None for member in self._members):
                await self._changed.wait()
        if scope.cancelled_caught:
            left = [str(member.place.number) for member in self._members if member.process is not None]
            self._story.note(f"worker {', '.join(left)} did not end within {STOP_S:g} s and is killed")

    def reload(self) -> None:
        """Have all read again what can be read again."""
        for member in self._members:
            if member.is_ready:
                member.signal(signal.SIGHUP)

    async def _keep(self, member: "_Member") -> None:
        """Have a worker of this number run until told to stop."""
        failures = 0
        while True:
            was_ready = await self._run(member)
            if self._is_stopping:
                return
            is_start = member.place.is_first
            if is_start and not was_ready:
                raise self._describe_failure(member)
            member.place = attrs.evolve(member.place, is_first=False)
            failures = 0 if was_ready else failures + 1
            if failures >= GIVES_UP_AFTER and not any(other.is_ready for other in self._members):
                raise self._give_up(member, failures)
            pause_s = min(PAUSE_S * 2 ** max(0, failures - 1), PAUSE_S_MAX)
            self._story.note(f"{self._describe_end(member)}; it is started again in {pause_s:g} s")
            await trio.sleep(pause_s)

    async def _run(self, member: "_Member") -> bool:
        """Run one process to its end; return whether it was ready."""
        ours, theirs = socket.socketpair()
        was_ready = False
        member.failure = None
        with ours:
            ours.setblocking(False)
            control = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
            with theirs:
                # Those of the others too, whose clients it may have to take.
                shared = (one for each in self._members for one in each.place.descriptors)
                descriptors = (*shared, *member.place.console, theirs.fileno())
                # In a session of its own: ctrl-c in a terminal is for the parent, which then says what is to be done.
                member.process = process = await trio.lowlevel.open_process(
                    [*self._command, str(theirs.fileno())], stdin=DEVNULL, pass_fds=descriptors, start_new_session=True
                )
            try:
                with contextlib.suppress(trio.BrokenResourceError):  # It died while it was told its place, or later.
                    await control.send_all(encode_place(member.place))
                    member.control = ours
                    async for line in _read_lines(control):
                        match decode_said(line):
                            case Ready(routes=routes):
                                self.routes = self.routes or routes
                                was_ready = member.is_ready = True
                                self._tell_changed()
                            case Failure() as failure:
                                member.failure = failure
                await process.wait()
            finally:
                if process.returncode is None:
                    process.kill()
                    with trio.CancelScope(shield=True):
                        await process.wait()
                member.exit_code = process.returncode
                member.process, member.control, member.is_ready, member.also = None, None, False, ()
                self._tell_changed()
        return was_ready

    def _tell_changed(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
        if not self._is_stopping:
            self._share_out()

    def _share_out(self) -> None:
        """Have the first worker that is ready take the clients of those that are not."""
        orphans = [one for member in self._members if not member.is_ready for one in member.place.descriptors]
        for member in self._members:
            if member.is_ready:
                member.take_also(orphans)
                orphans = []

    def _describe_end(self, member: "_Member") -> str:
        number = member.place.number
        if (failure := member.failure) is not None:
            return f"worker {number} could not start: {failure.code} {failure.message}"
        code = member.exit_code
        how = f"exit code {code}" if code is None or code >= 0 else f"signal {signal.Signals(-code).name}"
        return f"worker {number} ended by itself ({how})"

    def _describe_failure(self, member: "_Member") -> OperatorError:
        if (failure := member.failure) is None:
            return WorkerNotStartedError(
                f"{self._describe_end(member)} before it was ready", remedy="what it said stands above"
            )
        return WorkerNotStartedError(f"{failure.code} {failure.message}", remedy=failure.remedy)

    def _give_up(self, member: "_Member", failures: int) -> CrewGivesUpError:
        remedy = member.failure.remedy if member.failure is not None else "what they said stands above"
        return CrewGivesUpError(
            f"no worker serves, and {failures} starts in a row have failed: {self._describe_end(member)}", remedy=remedy
        )


@attrs.define(eq=False)
class _Member:
    """One number of a crew, and the process that has it just now."""

    place: Place
    process: trio.Process | None = None
    is_ready: bool = False
    failure: Failure | None = None
    """What the last process said that could not start."""
    exit_code: int | None = None
    control: socket.socket | None = None
    """Our end of what we speak to it over."""
    also: Sequence[int] = ()
    """Sockets of others that it has been told to accept from."""

    def take_also(self, descriptors: Sequence[int]) -> None:
        """Have it accept from these sockets besides its own, and from no others."""
        if self.control is not None and list(descriptors) != list(self.also):
            self.also = descriptors
            with contextlib.suppress(OSError):  # It has just died, and others are told.
                self.control.send(encode_also(descriptors))

    def signal(self, number: signal.Signals) -> None:
        """Send it to the process, if there is one."""
        if self.process is not None:
            self.process.send_signal(number)


async def _read_lines(stream: trio.SocketStream) -> Any:
    """Give what a worker says, a line each."""
    rest = b""
    async for data in stream:
        *lines, rest = (rest + data).split(b"\n")
        assert len(rest) <= LINE_BYTES_MAX, "a worker says whole lines"
        for line in lines:
            yield line
