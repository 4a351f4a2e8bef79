"""``flux dev``: the whole of Flux on one machine, for one project.

`serve_dev` starts things in the order in which they need each other, tells the
story of each step, serves until it is told to stop, and ends in reverse::

    project      flux.toml and the functions' files are read
    postgres     embedded under .flux/, or the one that a URL names
    backing      Flux's schema, the journal's recovery, pools, the writer
    migrations   the project's own
    deployment   packages are installed, the code is imported, workers are forked
    gateway      the port is opened; "ready"

Then it watches the files. A change makes a new deployment beside the old one and
switches; when the new code is no good, that is told and the old one goes on.

It decides nothing about how things look: a `Story` is told what happens.
"""

import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import attrs
import trio

from flux.config import CONFIG_NAME, Config
from flux.dotenv import parse_dotenv
from flux.errors import FluxError
from flux.hidden import HIDDEN_CHARACTERS_MIN
from flux.project import Project, list_migrations, read_project, read_source_version
from flux.redact import RedactionRules
from flux.store.embedded import open_embedded_postgres
from flux.store.migrate import Prepared, apply_user_migrations
from flux.store.postgres import ConnectOptions, parse_url
from flux.store.queries import QUERIES
from flux.supervisor.backing import OpenedBacking, open_backing
from flux.supervisor.console import Console
from flux.supervisor.console_door import Door
from flux.supervisor.deployments import Deployments, LiveDeployment
from flux.supervisor.environments import FOLDER_NAME as ENVIRONMENTS
from flux.supervisor.environments import Environments, count_packages
from flux.supervisor.execute import Backing, Executor
from flux.supervisor.flux_folder import (
    UnwritableFluxFolderError,
    held_folder,
    prepare_flux_folder,
    server_file,
)
from flux.supervisor.front_door import FrontDoor
from flux.supervisor.gateway import GatewayLimits, open_listeners, serve_http
from flux.supervisor.host import FunctionHost, Publisher, list_grants
from flux.supervisor.interleave import Interleaver
from flux.supervisor.isolation import Isolation, probing
from flux.supervisor.live import Live
from flux.supervisor.recovery import Recovered
from flux.supervisor.replay import Replayer
from flux.supervisor.self_check import SelfCheck
from flux.supervisor.shelf import Shelf
from flux.supervisor.watch import watch_project
from flux.supervisor.world_keeper import open_keeper
from flux.tenant import Tenant
from flux.toml_lines import find_key_lines

IDLE_WORKERS = 4
DRAIN_S = 10.0
"""How long requests in flight may take to end once the server is told to stop."""
RELOAD_QUIET_S = 0.02


@attrs.frozen
class DevOptions:
    """What the command line says."""

    root: Path
    """The project's folder."""
    port: int | None = None
    """TCP port, or None for the project's."""
    database_url: str = ""
    """An existing Postgres; empty for the project's, or else the embedded one."""
    clean: bool = False
    """Begin with an empty embedded database."""
    pg_user: str | None = None
    """Who the embedded Postgres runs as when we are root."""


@attrs.frozen
class Route:
    """A line of the list of what is served."""

    trigger: str
    """``POST``, ``GET`` ..., ``cron`` or empty."""
    path: str
    """Path, schedule or empty."""
    function: str
    """``functions.signup:create_user``."""
    grants: tuple[str, ...]


class Story(Protocol):
    """Who is told what happens."""

    def begin(self, project: Project, branch: str | None, sha: str, changed_files: int) -> None:
        """The project is read."""

    def step(self, name: str, detail: str, elapsed_s: float) -> None:
        """A step is done."""

    def note(self, text: str) -> None:
        """Something that people should know and that stops nothing."""

    def ready(self, url: str, routes: Sequence[Route], elapsed_s: float, watched: Sequence[str]) -> None:
        """Requests are taken."""

    def reload(self, changed: Sequence[str], code: str, routes: Sequence[Route], elapsed_s: float) -> None:
        """New code is served; ``code`` names it as records do."""

    def problem(self, what: str, error: FluxError, *, is_serving: bool) -> None:
        """Something failed and the server goes on, with the last good code if ``is_serving``."""

    def crash(self, error: BaseException) -> None:
        """Something in Flux itself failed; a request got a 500 for it."""

    def output(self, text: str) -> None:
        """Code printed something while it was imported."""

    def stopping(self) -> None:
        """The server drains."""


async def serve_dev(options: DevOptions, story: Story, stop: trio.Event) -> None:
    """Serve the project until ``stop`` is set; raise what keeps it from starting."""
    began = trio.current_time()
    project = read_project(options.root)
    version = await trio.to_thread.run_sync(read_source_version, project)
    story.begin(project, version.branch, version.sha, version.changed_files)
    flux_folder = prepare_flux_folder(options.root)
    port = project.config.dev.port if options.port is None else options.port
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(held_folder(flux_folder))
        listeners = await open_listeners("127.0.0.1", port)  # A port in use is known before anything is started.
        for listener in listeners:
            stack.push_async_callback(listener.aclose)
        tenant = Tenant()
        walls = await stack.enter_async_context(probing(project, tenant))
        database = await stack.enter_async_context(_open_database(options, project.config, flux_folder, story))
        secret_values = _read_secrets(options.root)
        backing_began = trio.current_time()
        opened = await stack.enter_async_context(
            open_backing(database, tenant, flux_folder / "journal", secret_values, report=story.crash)
        )
        _tell_backing(story, project, opened, trio.current_time() - backing_began)
        _tell_short_secrets(story, opened.backing)
        await _migrate(project, opened.backing, tenant, story)
        isolation = await walls.wait()
        server = _Server(options.root, project, opened, story, flux_folder, secrets.token_urlsafe(24), isolation)
        await server.run(listeners, stop, began)


@contextlib.asynccontextmanager
async def _open_database(
    options: DevOptions, config: Config, flux_folder: Path, story: Story
) -> AsyncIterator[ConnectOptions]:
    """Give the options of Flux's own role, with the embedded server running if that is the one."""
    began = trio.current_time()
    url = options.database_url or config.database.url
    isolation = config.database.isolation
    if url:
        connect_options = parse_url(url)
        story.step("postgres", f"at {connect_options.place} · {isolation}", trio.current_time() - began)
        yield connect_options
        return
    async with open_embedded_postgres(flux_folder / "pg", clean=options.clean, user=options.pg_user) as server:
        address = server.address
        first = " (initdb)" if server.first_run else ""
        detail = f"{server.version} embedded, .flux/pg{first} · {isolation}"
        story.step("postgres", detail, trio.current_time() - began)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_keep_postgres, server, story)
            yield ConnectOptions(
                host=address.host, port=address.port, user=address.user, password=address.password,
                database=address.database,
            )  # fmt: skip
            nursery.cancel_scope.cancel()


async def _keep_postgres(server: Any, story: Story) -> None:
    """Start the embedded server again when it dies; connections notice by themselves."""
    while True:
        exited = await server.wait_died()
        if exited.asked:
            return
        story.note(f"PostgreSQL ended by itself ({exited.status}); starting it again")
        await server.restart()
        story.note("PostgreSQL is back")


def _tell_backing(story: Story, project: Project, opened: OpenedBacking, elapsed_s: float) -> None:
    prepared: Prepared = opened.prepared
    recovered: Recovered = opened.recovered
    story.step("recorder", f"whole requests · {describe_redaction(project)}", elapsed_s)
    if recovered.completed:
        story.note(f"recovered from the journal: {_count(recovered.completed)} that had ended, not yet stored")
    if recovered.interrupted:
        story.note(
            f"recovered from the journal: {_count(recovered.interrupted)} that the end of the last server cut: "
            "flux trace list -q outcome:interrupted"
        )
    for sentence in recovered.damage:
        story.note(f"journal: {sentence}")
    for schema, table, reason in prepared.coverage:
        story.note(f"changes of {schema}.{table} are not wholly recorded: {reason}")
    if not prepared.event_triggers:
        story.note("this role may not create event triggers: new tables are recorded from the next start on")


def _count(executions: Sequence[object]) -> str:
    return f"{len(executions)} execution{'s' * (len(executions) != 1)}"


def describe_redaction(project: Project) -> str:
    """How much records leave out, and where that is said: ``redacting 4 fields (flux.toml:18)``."""
    rules = RedactionRules.parse(project.config.recording.redact)
    count = len(rules.headers) + len(rules.json_paths) + len(rules.columns)
    text = (project.root / CONFIG_NAME).read_text(encoding="utf-8", errors="replace")
    try:
        line = find_key_lines(text).get(("recording", "redact"))
    except ValueError:  # It was saved in the meantime, and is no TOML now: its time comes when it is read.
        line = None
    return f"redacting {count} fields ({f'{CONFIG_NAME}:{line}' if line else 'the usual ones'})"


async def _migrate(project: Project, backing: Backing, tenant: Tenant, story: Story) -> None:
    began = trio.current_time()
    migrations = await trio.to_thread.run_sync(list_migrations, project)
    async with backing.owner.acquire() as connection:
        applied = await apply_user_migrations(connection, tenant.name, migrations)
    backing.tables.forget()
    if migrations:
        names = ", ".join(Path(path).name for path in applied)
        detail = f"{names} applied" if applied else f"{len(migrations)} applied before"
        story.step("migrations", detail, trio.current_time() - began)


class _Server:
    """What runs once the backing stands."""

    def __init__(
        self,
        root: Path,
        project: Project,
        opened: OpenedBacking,
        story: Story,
        flux_folder: Path,
        token: str,
        isolation: Isolation,
    ) -> None:
        self._root = root
        self._project = project
        self._backing = opened.backing
        self._prepared = opened.prepared
        self._story = story
        self._flux_folder = flux_folder
        self._token = token
        self._isolation = isolation
        self._live = Live()
        self._executor = Executor(self._backing, Publisher(self._live), story.crash)

    async def run(self, listeners: list[trio.SocketListener], stop: trio.Event, began: float) -> None:
        url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        async with (
            open_keeper(self._backing.guests, self._backing.token, Tenant().schema) as worlds,
            trio.open_nursery() as nursery,
        ):
            deployments = Deployments(
                nursery,
                self._flux_folder / "artifacts",
                Environments(self._flux_folder / ENVIRONMENTS, self._story.note),
                Tenant(),
                idle_workers=IDLE_WORKERS,
                cgroups=self._isolation.cgroups,
                on_output=self._story.output,
            )
            shelf = Shelf(deployments, self._root)
            replayer = Replayer(shelf, self._backing, Tenant().schema, worlds)
            interleaver = Interleaver(shelf, self._backing, Tenant().schema)
            every_s = self._project.config.recording.self_check_s
            self_check = SelfCheck(
                self._backing, replayer, deployments, self._story.note, self._story.crash, every_s=every_s
            )
            host = FunctionHost(
                deployments,
                self._executor,
                replayer,
                interleaver,
                self._backing,
                lambda: [self_check.describe(), *self._checks()],
                self._counters,
            )
            console = Console(self._backing.owner, self._live, host, Door(self._token))
            front_door = FrontDoor(deployments, self._executor, console, tells_why=True)
            host.front_door = front_door
            drain = trio.Event()
            async with trio.open_nursery() as serving:
                await serving.start(_serve, listeners, front_door, drain, self._story)
                with server_file(self._flux_folder, url, self._token):
                    async with trio.open_nursery() as watching:
                        if every_s:
                            watching.start_soon(self_check.run)
                        watching.start_soon(self._deploy_forever, deployments, host, url, began)
                        await stop.wait()
                        watching.cancel_scope.cancel()
                self._story.stopping()
                self._live.close()
                drain.set()
                serving.cancel_scope.deadline = trio.current_time() + DRAIN_S
            nursery.cancel_scope.cancel()

    async def _deploy_forever(self, deployments: Deployments, host: FunctionHost, url: str, began: float) -> None:
        """Deploy the project as it is, and again whenever its files change.

        Code that is no good at the start ends nothing either: it is told, and looked at again when it is saved.
        """
        send, receive = trio.open_memory_channel[tuple[str, ...]](64)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch_project, self._root, self._project.config.project.functions, send)
            deployment_began = trio.current_time()
            is_ready = False
            if await self._deploy(deployments, host, self._project, "the functions"):
                assert deployments.current is not None
                level = deployments.current.level
                walls = f"isolation {level.isolation}, clock {level.clock}"
                what = f"process workers ×{IDLE_WORKERS}" if level.kind == "process" else "an isolate each"
                detail = f"{what} · {walls}"
                if (environment := deployments.current.environment) is not None:
                    detail += f" · {count_packages(environment.packages)} of {environment.source}"
                self._story.step("sandbox", detail, trio.current_time() - deployment_began)
                self._tell_ready(deployments, url, began)
                is_ready = True
            async for first in receive:
                reload_began = trio.current_time()
                changed = set(first)
                await trio.sleep(RELOAD_QUIET_S)
                with contextlib.suppress(trio.WouldBlock):
                    while True:
                        changed.update(receive.receive_nowait())
                is_new = await self._reload(deployments, host, sorted(changed), reload_began)
                if is_new and not is_ready:
                    self._tell_ready(deployments, url, began)
                    is_ready = True

    def _tell_ready(self, deployments: Deployments, url: str, began: float) -> None:
        assert deployments.current is not None
        watched = [f"{self._project.config.project.functions}/", "flux.toml", "migrations/"]
        self._story.ready(url, list_routes(deployments.current), trio.current_time() - began, watched)

    async def _activate(self, deployments: Deployments, live: LiveDeployment) -> None:
        """Record the deployment, then switch to it: an execution's deployment is always known."""
        deployment = live.deployment
        functions = json.dumps([function.name for function in deployment.functions])
        async with self._backing.owner.acquire() as connection:
            await connection.execute(
                QUERIES.add_deployment, deployment.id, self._backing.tenant, deployment.sha, deployment.dirty,
                deployment.id, json.loads(functions),
            )  # fmt: skip
            await connection.execute(QUERIES.activate_deployment, deployment.id)
        deployments.activate(live)

    async def _deploy(self, deployments: Deployments, host: FunctionHost, project: Project, what: str) -> bool:
        """Make the project's code current; when it is no good, tell and leave what is.

        Say whether there is news: other code, or the same as is served after some that was no good.
        """
        live: LiveDeployment | None = None
        try:
            await self._isolation.probe(project)
            live = await deployments.prepare(project)
            if deployments.is_current(live):
                was_failing, host.failure = host.failure is not None, None
                return was_failing
            await self._activate(deployments, live)
        except FluxError as error:
            host.failure = error
            self._story.problem(what, error, is_serving=deployments.current is not None)
            return False
        finally:
            self._project = project
            if live is not None and live is not deployments.current:
                live.retire()  # Its code is the same, or the database could not take it down: its workers end.
        host.failure = None
        return True

    async def _reload(
        self, deployments: Deployments, host: FunctionHost, changed: Sequence[str], began: float
    ) -> bool:
        """Take in what has changed on disk; say whether new code is served."""
        # An editor's temporary file is gone by now; files that were removed are told if that is all there is.
        told = [path for path in changed if (self._root / path).exists()] or changed
        what = told[0] if len(told) == 1 else f"{len(told)} files"
        try:
            project = read_project(self._root)
            if any(path.startswith("migrations") for path in changed):
                await _migrate(project, self._backing, Tenant(), self._story)
        except FluxError as error:
            host.failure = error
            self._story.problem(what, error, is_serving=deployments.current is not None)
            return False
        if project.config.database != self._project.config.database or project.config.dev != self._project.config.dev:
            self._story.note("[database] and [dev] are read at the start only: stop flux dev and start it again")
        if ".env.local" in changed and not self._reload_secrets():
            return False
        if not await self._deploy(deployments, host, project, what):
            return False
        assert deployments.current is not None
        current = deployments.current
        code = current.deployment.sha.removeprefix("nogit-")[:7] + "+" * current.deployment.dirty
        self._story.reload(told, code, list_routes(current), trio.current_time() - began)
        return True

    def _reload_secrets(self) -> bool:
        """Take in the secrets as they are now; say whether they can be read."""
        try:
            found = _read_secrets(self._root)
        except FluxError as error:
            self._story.problem(".env.local", error, is_serving=True)
            return False
        self._backing.secrets.replace(found)
        self._story.note(f".env.local is read again: {len(found)} secrets")
        _tell_short_secrets(self._story, self._backing)
        return True

    def _counters(self) -> Mapping[str, float | Mapping[str, float]]:
        writer, journal = self._backing.writer.counts, self._backing.journal.counts
        owner, guests = self._backing.owner.counts, self._backing.guests.counts
        return {
            "executions_running": float(self._executor.running),
            "records_waiting": float(writer.waiting),
            "records_stored_total": float(writer.stored),
            "records_reduced_total": float(writer.reduced),
            "record_write_retries_total": float(writer.retries),
            "journal_bytes_total": float(journal.written_bytes),
            "database_connections": {"owner": float(owner.open), "guests": float(guests.open)},
            "database_waiting": {"owner": float(owner.waiting), "guests": float(guests.waiting)},
        }

    def _tell_redaction(self) -> str:
        rules = RedactionRules.parse(self._project.config.recording.redact)
        names = [f"header:{name}" for name in sorted(rules.headers)]
        names += [f"json:$.{'.'.join(path)}" for path in rules.json_paths]
        names += [f"column:{table}.{column}" for table, column in sorted(rules.columns)]
        return ", ".join(names)

    def _checks(self) -> Sequence[Mapping[str, Any]]:
        writer = self._backing.writer.counts
        coverage = [f"{schema}.{table}: {reason}" for schema, table, reason in self._prepared.coverage]
        return [
            {
                "name": "recording",
                "ok": writer.stalled_since is None and writer.reduced == 0,
                "detail": f"since the start {writer.stored} stored, {writer.reduced} reduced; {writer.waiting} waiting"
                + (f", last error: {writer.last_error}" if writer.last_error else ""),
                "remedy": "" if writer.stalled_since is None else "the database does not take records: see its log",
            },
            {
                "name": "capture",
                "ok": not coverage,
                "detail": "; ".join(coverage) or "every table's changes are recorded",
                "remedy": "" if not coverage else "flux explain FLX232",
            },
            {"name": "redaction", "ok": True, "detail": self._tell_redaction(), "remedy": ""},
            {
                "name": "transactions",
                "ok": True,
                "detail": f"{self._project.config.database.isolation}, unless a function says otherwise",
                "remedy": "",
            },
            *self._isolation.checks(),
        ]


async def _serve(
    listeners: list[trio.SocketListener],
    front_door: FrontDoor,
    drain: trio.Event,
    story: Story,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    await serve_http(
        listeners, front_door, GatewayLimits(), drain=drain, on_crash=story.crash, task_status=task_status
    )


def list_routes(live: LiveDeployment) -> list[Route]:
    """Return what a deployment serves, routes first, in their order."""
    routes = []
    for runnable in live.runnables.values():
        function = runnable.function
        method, _, path = (function.route or " ").partition(" ")
        module = function.position.file.removesuffix(".py").replace("/", ".")
        routes.append(Route(method, path, f"{module}:{function.name}", tuple(list_grants(runnable))))
    return sorted(routes, key=lambda route: (not route.path, route.path, route.trigger, route.function))


def _tell_short_secrets(story: Story, backing: Backing) -> None:
    short = backing.secrets.list_too_short()
    if short:
        story.note(
            f"{', '.join(short)} in .env.local: too short to be found in what is recorded "
            f"(fewer than {HIDDEN_CHARACTERS_MIN} characters)"
        )


def _read_secrets(root: Path) -> dict[str, str]:
    path = root / ".env.local"
    try:
        return parse_dotenv(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise UnwritableFluxFolderError(f"{path} can't be read: {error}", remedy=f"look at it: ls -l {path}") from error
