"""A server of one project: what ``flux dev`` and ``flux serve`` have in common.

`open_server` starts things in the order in which they need each other, telling the story of each step, and ends them
in reverse::

    project      flux.toml and the functions' files are read
    postgres     embedded under .flux/, or the one that a URL names
    backing      Flux's schema, the journal's recovery, pools, the writer
    walls        the jail is tried

`Server.run` opens the port and does its caller's work beside: which code is served, and when it is another, is decided
there, with the `Deployer`. Told to stop, it finishes the requests in flight and returns.
"""

import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

import attrs
import trio

from flux.config import Config
from flux.project import Project, read_project, read_source_version
from flux.store.erasures import count_erasures
from flux.store.tokens import find_token
from flux.supervisor.artifacts import Artifacts
from flux.supervisor.at_rest import wait_rest
from flux.supervisor.audiences import Audiences, ExecutionCounts, RequestLog
from flux.supervisor.backing import OWN_CONNECTIONS, OpenedBacking, open_backing
from flux.supervisor.bisect import Bisector
from flux.supervisor.client_tls import Certificate, open_certificate
from flux.supervisor.console import Console
from flux.supervisor.console_door import Door
from flux.supervisor.console_machines import Readiness
from flux.supervisor.console_port import ConsolePort, ConsoleSockets, lead, open_console, share_console
from flux.supervisor.console_records import retention_of
from flux.supervisor.crew_desk import (
    CrewDesk,
    CrewDoor,
    describe_own,
    list_crew_checks,
    list_other_metrics,
    spread,
)
from flux.supervisor.crew_live import CrewLive
from flux.supervisor.crew_place import Place
from flux.supervisor.cron import Cron
from flux.supervisor.database_watch import DatabaseWatch
from flux.supervisor.debug_room import DebugRoom
from flux.supervisor.deploy import Deployer, Switch
from flux.supervisor.deployments import Deployments, with_isolation
from flux.supervisor.environments import FOLDER_NAME as ENVIRONMENTS
from flux.supervisor.environments import Environments, count_packages
from flux.supervisor.execute import Audience
from flux.supervisor.flux_folder import held_folder, prepare_flux_folder, server_file
from flux.supervisor.front_door import FrontDoor
from flux.supervisor.gate import Gate
from flux.supervisor.gateway import GatewayLimits, Handler, open_listeners, serve_http
from flux.supervisor.guard import Guard
from flux.supervisor.host import FunctionHost, Publisher
from flux.supervisor.hosted import CONNECTIONS, ISOLATION, Hosted
from flux.supervisor.hosts import Hosts, Served
from flux.supervisor.interleave import Interleaver
from flux.supervisor.isolation import Isolation, probing
from flux.supervisor.listeners import Borrowed, adopt_listeners, get_port, open_unix_listener
from flux.supervisor.live import Live
from flux.supervisor.master_key import MasterKey
from flux.supervisor.otlp import Exporter, read_headers
from flux.supervisor.project_database import find_place
from flux.supervisor.queue import Queue
from flux.supervisor.replay import Replayer
from flux.supervisor.self_check import SelfCheck
from flux.supervisor.server_address import ServerAddress, name_server
from flux.supervisor.server_checks import ServerChecks
from flux.supervisor.server_metrics import ReplayCounts, ServerMetrics
from flux.supervisor.server_options import ServerOptions
from flux.supervisor.server_start import (
    open_database,
    read_secrets,
    tell_backing,
    tell_recovered,
    tell_short_secrets,
)
from flux.supervisor.shelf import Shelf
from flux.supervisor.siblings import Siblings
from flux.supervisor.spool import SPOOL_BYTES_MAX
from flux.supervisor.story import Story, list_routes
from flux.supervisor.streams import SpooledUpload
from flux.supervisor.turns import FairExecutor, Turns
from flux.supervisor.upkeep import Upkeep
from flux.supervisor.vault import Vault
from flux.supervisor.world_keeper import open_keeper
from flux.tenant import Tenant

IDLE_WORKERS = 4
DRAIN_S = 10.0
"""How long requests in flight may take to end once the server is told to stop."""


@attrs.frozen
class Running:
    """What a server's work is done with."""

    deployments: Deployments
    deployer: Deployer
    host: FunctionHost
    address: ServerAddress
    """Where requests are taken."""
    console_key: str
    """What opens the console, behind the address of its pages."""
    take_requests: Callable[[], Awaitable[None]] | None = None
    """Begins to take them, for whoever has code to serve first; None where they are taken already."""


@contextlib.asynccontextmanager
async def open_server(
    options: ServerOptions, story: Story, place: Place | None = None, hosted: Hosted | None = None
) -> AsyncIterator["Server"]:
    """Give a server of the project for as long as the block lasts; raise what keeps it from starting.

    ``place``: it is one process of several, whose parent has the folder, the port and the database.
    ``hosted``: it is a tenant's.
    """
    began = trio.current_time()
    project = with_isolation(read_project(options.root), None if hosted is None else ISOLATION)
    version = await trio.to_thread.run_sync(read_source_version, project)
    story.begin(project, version.branch, version.sha, version.changed_files)
    flux_folder = prepare_flux_folder(options.root, for_tenant=hosted is not None)
    port = project.config.dev.port if options.port is None else options.port
    certificate = open_certificate(options)
    listen, scheme = project.config.console.listen, "http" if certificate is None else "https"
    async with contextlib.AsyncExitStack() as stack:
        if place is None:
            stack.enter_context(held_folder(flux_folder))
            # A port in use is known before anything is started.
            listeners = await open_listeners(options.host, port) if hosted is None else []
            console = ConsoleSockets() if hosted is None else ConsoleSockets(hosted.console)
            if listeners:
                console = await open_console(listen, options.host, get_port(listeners), scheme)
        else:
            listeners = adopt_listeners(place.descriptors)
            console = share_console(place.console, listen, scheme)
        for listener in (*listeners, *console.listeners):
            stack.push_async_callback(listener.aclose)
        tenant = Tenant() if hosted is None else hosted.tenant
        walls = await stack.enter_async_context(probing(project, tenant))
        database = None if place is None else place.connect_options()
        if hosted is not None:
            database = hosted.database
        if database is None:
            database = await stack.enter_async_context(open_database(options, project.config, flux_folder, story))
        secret_values = read_secrets(options.root, for_tenant=hosted is not None)
        backing_began = trio.current_time()
        opened = await stack.enter_async_context(
            open_backing(
                database, tenant, flux_folder / "journal", secret_values, report=story.crash,
                connections=OWN_CONNECTIONS if hosted is None else CONNECTIONS,
                repair_guest=None if hosted is None else hosted.repair_guest,
                spool_bytes_max=SPOOL_BYTES_MAX if hosted is None else hosted.spool_bytes_max,
            )
        )
        if place is None or place.is_first:
            tell_backing(story, project, opened, trio.current_time() - backing_began)
        tell_recovered(story, opened.recovered)
        backing = opened.backing
        master_key = MasterKey(flux_folder) if hosted is None else hosted.master_key
        vault = Vault(
            backing.owner, tenant.name, master_key, backing.secrets, secret_values,
            installation=None if hosted is None else hosted.installation,
        )
        await vault.load()
        if place is None or place.is_first:
            tell_short_secrets(story, backing)
        yield Server(
            options, project, opened, vault, story, flux_folder, walls.wait, listeners, console, began, place,
            hosted, certificate,
        )  # fmt: skip


class Server:
    """What runs once the backing stands."""

    def __init__(
        self,
        options: ServerOptions,
        project: Project,
        opened: OpenedBacking,
        vault: Vault,
        story: Story,
        flux_folder: Path,
        wait_walls: Callable[[], Awaitable[Isolation]],
        listeners: Sequence[trio.SocketListener],
        console: ConsoleSockets,
        began: float,
        place: Place | None,
        hosted: Hosted | None,
        certificate: Certificate | None,
    ) -> None:
        self.root = options.root
        self.project = project
        """The project's folder as it was at the start."""
        self.backing = opened.backing
        self.vault = vault
        self.story = story
        self.options = options
        """What the command line said."""
        self._prepared = opened.prepared
        self._flux_folder = flux_folder
        self._wait_walls = wait_walls
        self._listeners = list(listeners)
        self._console = console
        self.console = console.place
        """Where the pages are; None where they are off."""
        self._began = began
        url = options.database_url or project.config.database.url
        self.is_embedded = hosted is None and not url
        """Its database is the one that Flux runs for this project."""
        self._database_place = find_place(url) if hosted is None else hosted.database.place
        self._hosted = hosted
        self._tenant = Tenant() if hosted is None else hosted.tenant
        self.hosts = Hosts()
        """Whose the requests are that this server takes; a tenant's server takes none by itself."""
        self.turns = Turns()
        """Those of the installation, where this is its own server."""
        self.debug_room = DebugRoom()
        """That of the installation, likewise."""
        self._place = place
        self._siblings = None if place is None else Siblings(place)
        self.certificate = certificate
        """What clients are shown; None without TLS."""
        self._scheme = "http" if certificate is None else "https"
        self.borrowed = None if place is None else Borrowed()
        """Sockets of other processes of the server that are not there; None where there is only one."""

    async def run(
        self,
        work: Callable[[Running], Awaitable[None]],
        stop: trio.Event,
        *,
        told: Callable[[Running, Switch], None],
    ) -> None:
        """Serve until ``stop`` is set, doing ``work`` beside; ``told`` hears of each switch to other code."""
        isolation = await self._wait_walls()
        place, siblings, hosted, tenant = self._place, self._siblings, self._hosted, self._tenant
        token = secrets.token_urlsafe(24) if place is None else place.token
        address = name_server(self.options.host, self.port, self._scheme) if hosted is None else hosted.hosts.address
        if address.is_open and self.certificate is None and (place is None or place.is_first):
            self.story.note(
                f"listening on {self.options.host}, where others may reach it, without TLS: docs/security.md says what"
            )
        if self._console.listeners and self.console is not None and self.console.is_open and self.certificate is None:
            self.story.note("the console listens where others may reach it, without TLS: docs/security.md says what")
        async with (
            open_keeper(self.backing.guests, self.backing.token, tenant.schema) as worlds,
            trio.open_nursery() as nursery,
        ):
            live = Live() if siblings is None else CrewLive(siblings, nursery)
            turns = self.turns.own if hosted is None else hosted.turns
            executions = ExecutionCounts()
            audiences: list[Audience] = [Publisher(live), executions]
            if self.options.logs_requests:
                audiences.append(RequestLog(self.story.executed))
            exporter = self._make_exporter()
            if exporter is not None:
                audiences.append(exporter)
                nursery.start_soon(exporter.run)
            audience = Audiences(audiences)
            executor = FairExecutor(self.backing, audience, self.story.crash, turns)
            watch = DatabaseWatch(self.backing.owner.options, tenant.name)
            readiness = Readiness(find_failure=lambda: watch.failure)
            deployments = Deployments(
                nursery,
                Artifacts(self._flux_folder / "artifacts", self.root, self.story.note),
                Environments(self._flux_folder / ENVIRONMENTS, self.story.note, for_tenant=hosted is not None),
                tenant,
                idle_workers=IDLE_WORKERS,
                cgroups=isolation.cgroups,
                isolation=None if hosted is None else ISOLATION,
                addresses_allowed=None if hosted is None else hosted.addresses_allowed,
                on_output=self.story.output,
            )

            def get_config() -> Config:
                current = deployments.current
                return self.project.config if current is None else current.config

            checks = ServerChecks(self.backing, self._prepared, isolation, get_config)
            shelf = Shelf(deployments, self.root)
            replayer = Replayer(shelf, self.backing, tenant.schema, worlds)
            replayer.take_erasures(await count_erasures(self.backing.owner, self.backing.tenant))
            interleaver = Interleaver(shelf, self.backing, tenant.schema)
            every_s = self.project.config.recording.self_check_s
            self_check = SelfCheck(
                self.backing, replayer, deployments, self.story.note, self.story.crash, every_s=every_s
            )

            def hear(switch: Switch) -> None:
                host.failure = None
                told(running, switch)

            deployer = Deployer(deployments, shelf, self.backing, self.root, probe=isolation.probe, told=hear)
            find_made = partial(find_token, self.backing.owner, self.backing.tenant)
            gate = Gate(
                self.backing.http, find_made, self.backing.secrets.find, self.story.note, self.backing.clock,
                scheme=address.url.partition(":")[0],
            )  # fmt: skip
            cron = Cron(self.backing, deployments, report=self.story.crash, note=self.story.note)
            replays = ReplayCounts()
            counted = ServerMetrics(
                self.backing, executor, executions, deployments.residency, gate, cron, self_check, replays,
                () if exporter is None else (exporter.read,),
            )  # fmt: skip
            guard = Guard(self.backing.owner, replayer, shelf, self.root, tenant.name)
            host = FunctionHost(
                deployments,
                deployer,
                guard,
                executor,
                replayer,
                interleaver,
                Bisector(deployments, shelf, replayer, self.backing, self.root),
                self.backing,
                self.vault,
                lambda: [self_check.describe(), *checks.checks()],
                replays,
            )
            pages_at = self.console
            door = Door(token, address.hosts | (pages_at.hosts if pages_at is not None else set()), find_made)
            console = Console(
                self.backing.owner, live, host, door, lambda run: nursery.start_soon(run),
                schema=tenant.schema, tenant=tenant.name,
                recording=lambda: get_config().recording, readiness=readiness,
                rest=partial(wait_rest, executor.in_flight, live, siblings),
                counters=counted.read, shared=counted.read_shared,
                others=None if siblings is None else partial(list_other_metrics, siblings),
                worker="" if place is None else str(place.number),
                checks_elsewhere=None if siblings is None else partial(list_crew_checks, siblings, checks.tally),
                url=address.url, debugs=self.debug_room.own if hosted is None else hosted.debugs,
                register_schedules=cron.register,
            )  # fmt: skip
            front_door = FrontDoor(
                deployments, gate, executor, console, tells_why=self.options.tells_why,
                lead=partial(lead, door, pages_at),
                open_upload=partial(SpooledUpload, self.backing.spools, gate.count_refusal),
            )  # fmt: skip
            host.front_door = front_door
            self.hosts.set_own(front_door)
            running = Running(deployments, deployer, host, address, f"#t={token}")
            await deployer.keep_recorded()
            upkeep = Upkeep(self.backing.owner, lambda: retention_of(get_config().recording), self.story.crash)
            drain = trio.Event()
            said = self.project.config.queue
            queue = Queue(
                self.backing, executor, deployments, concurrency=said.concurrency, lease_s=said.lease,
                report=self.story.crash, note=self.story.note,
            )  # fmt: skip
            async with trio.open_nursery() as serving:
                handler: Served = self.hosts
                desk: Handler = front_door
                if place is not None and siblings is not None:
                    handler = CrewDoor(front_door, door, siblings)
                    desk = CrewDesk(
                        siblings, front_door, live, deployments, deployer, metrics=console.machines.count,
                        checks=lambda: describe_own(checks.tally(), self_check.describe() if watch.leads else None),
                        in_flight=executor.in_flight,
                    )  # fmt: skip
                    host.spread = partial(spread, siblings)

                async def take_requests() -> None:
                    if hosted is not None:
                        await serving.start(hosted.hosts.serve, front_door, drain)
                        return
                    if place is not None:
                        others = open_unix_listener(place.socket_path(place.number))
                        await serving.start(_serve, [others], desk, drain, self.story)
                    more = (self.borrowed, self.certificate)
                    await serving.start(_serve, self._listeners, handler, drain, self.story, *more)
                    if self._console.place is not None:
                        pages = (list(self._console.listeners), ConsolePort(handler.show))
                        more = (self._console.borrowed, self.certificate)
                        await serving.start(_serve, *pages, drain, self.story, *more)

                if place is None:
                    await take_requests()
                else:
                    running = attrs.evolve(running, take_requests=take_requests)
                await serving.start(queue.run, drain)
                with contextlib.ExitStack() as told_where:
                    if place is None:
                        where = server_file(
                            self._flux_folder, address.url, token, self._database_place, self.options.tls_certificate
                        )
                        told_where.enter_context(where)
                    async with trio.open_nursery() as working:
                        working.start_soon(watch.run)
                        if every_s:
                            working.start_soon(watch.lead, self_check.run)
                        working.start_soon(cron.run)
                        working.start_soon(watch.lead, upkeep.run)
                        working.start_soon(self.vault.follow, self.story.crash)
                        working.start_soon(work, running)
                        await stop.wait()
                        readiness.is_draining = True
                        working.cancel_scope.cancel()
                self.story.stopping()
                live.close()
                console.close()
                drain.set()
                serving.cancel_scope.deadline = trio.current_time() + DRAIN_S
            if exporter is not None:
                await exporter.finish()
            nursery.cancel_scope.cancel()

    def _make_exporter(self) -> Exporter | None:
        """Return who sends spans to the project's collector; None where it names none."""
        url = self.project.config.telemetry.otlp
        if not url or self._hosted is not None:  # A tenant's code that names one is refused before it is served.
            return None
        name = self.project.config.project.name
        return Exporter(url, name, self.story.note, self.story.crash, headers=read_headers())

    @property
    def port(self) -> int:
        """Where it listens."""
        return get_port(self._listeners)

    def tell_sandbox(self, running: Running, elapsed_s: float) -> None:
        """Say what stands around the functions that are served."""
        current = running.deployments.current
        assert current is not None
        level = current.level
        walls = f"isolation {level.isolation}, clock {level.clock}"
        what = f"process workers ×{IDLE_WORKERS}" if level.kind == "process" else "an isolate each"
        detail = f"{what} · {walls}"
        if (environment := current.environment) is not None:
            detail += f" · {count_packages(environment.packages)} of {environment.source}"
        self.story.step("sandbox", detail, elapsed_s)

    def tell_ready(self, running: Running, watched: Sequence[str] = (), *, tells_console: bool = False) -> None:
        """Say that requests are taken, and where the console is; with ``tells_console`` as a link with the token."""
        current = running.deployments.current
        assert current is not None
        pages = "" if self.console is None else self.console.pages_url
        self.story.ready(
            running.address.url, list_routes(current), trio.current_time() - self._began, watched,
            pages and pages + (running.console_key if tells_console else ""),
        )  # fmt: skip


async def _serve(
    listeners: list[trio.SocketListener],
    handler: Handler,
    drain: trio.Event,
    story: Story,
    borrowed: Borrowed | None = None,
    certificate: Certificate | None = None,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    await serve_http(
        listeners, handler, GatewayLimits(), drain=drain, on_crash=story.crash, borrowed=borrowed,
        certificate=certificate, task_status=task_status,
    )  # fmt: skip
