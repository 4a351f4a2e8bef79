"""Code that is being served, and the switch from one to the next.

A project's files are copied into an *artifact* (`flux.supervisor.artifacts`), a folder named by
the hash of what is in it, and run from there. So what runs can't change under its feet, a
traceback shows the lines that ran, and the same code has the same deployment id. Which functions
there are is what the sandbox says once it has imported the code, inside of the jail: nothing of
a project is imported here.

One deployment is *current*. A new one is made ready beside it (its code imported,
its workers forked) before the switch, which is one assignment: a request takes
whichever is current when it arrives and keeps it. The old one drains and ends.
Code that can't be imported never becomes current: the last good code goes on.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import attrs
import trio

from flux.composition import check_middleware, make_chain
from flux.config import DEFAULT_ORIGIN, Config
from flux.config_values import did_you_mean
from flux.deployment import Deployment, Function
from flux.errors import OperatorError
from flux.execution import Level, LimitInForce
from flux.grants import Grants, parse_grant
from flux.limits import Limits, format_duration, format_size
from flux.project import (
    Project,
    SourceVersion,
    hash_artifact,
    list_function_files,
    read_source_version,
)
from flux.redact import RedactionRules
from flux.routes import RouteTable
from flux.sandbox.base import ImportFailedError, ImportFailure, Sandbox
from flux.sandbox.cgroups import Cgroups
from flux.sandbox.processor import ProcessorTime
from flux.sandbox.residency import Residency
from flux.schedule import BadScheduleError, CatchUp, Schedule, check_schedule, choose_schedules
from flux.supervisor.artifacts import ID_DIGITS, Artifacts, describe_changing
from flux.supervisor.drive import Bounds
from flux.supervisor.environments import Environment, Environments
from flux.supervisor.runnable import Runnable
from flux.supervisor.sandboxes import Sandboxes
from flux.tenant import Tenant


class TenantCollectorError(OperatorError):
    """A tenant's project wants its spans sent somewhere."""

    code = "FLX724"


class AddressNotAllowedError(OperatorError):
    """A tenant's ``flux.toml`` grants the way to an address that the tenant was not allowed."""

    code = "FLX814"


class UnknownFunctionError(OperatorError):
    """``flux.toml`` names a function that the code does not declare."""

    code = "FLX518"


STANDBY_S = 600.0
"""How long code that was replaced by a deploy stands by: who takes a deploy back mostly does so within minutes."""


class LiveDeployment:
    """A deployment whose code is imported and whose workers wait."""

    def __init__(
        self,
        deployment: Deployment,
        sandboxes: Sandboxes,
        runnables: Mapping[str, Runnable],
        config: Config,
        artifact_hash: str,
        environment: Environment | None = None,
    ) -> None:
        self.deployment = deployment
        self.config = config
        """What its own ``flux.toml`` says."""
        self.artifact_hash = artifact_hash
        """All 64 digits of what its id begins."""
        self.environment = environment
        """The project's packages, None when it needs none."""
        self.runnables = runnables
        """By the functions' names."""
        self.routes: RouteTable[Runnable] = RouteTable()
        for runnable in runnables.values():
            if runnable.function.route is not None:
                position = runnable.function.position
                self.routes.add(runnable.function.route, runnable, f"{position.file}:{position.line}")
        self._sandboxes = sandboxes
        self._in_use = 0
        self._retired = False
        self._idle = trio.Event()

    @property
    def level(self) -> Level:
        """Which walls stand around its functions."""
        return self._sandboxes.level

    @property
    def in_use(self) -> int:
        """Requests and replays that are running on it."""
        return self._in_use

    def enter(self) -> None:
        """A request begins to use it."""
        self._in_use += 1

    def leave(self) -> None:
        """A request is over."""
        self._in_use -= 1
        self._settle()

    def retire(self) -> None:
        """No request will enter any more."""
        self._retired = True
        self._settle()

    def _settle(self) -> None:
        if self._retired and self._in_use == 0:
            self._idle.set()

    async def wait_idle(self) -> None:
        """Wait until it is retired and the last request has left it."""
        await self._idle.wait()


class Deployments:
    """What is served, and making the next one ready. Runs its sandboxes in ``nursery``."""

    def __init__(
        self,
        nursery: trio.Nursery,
        artifacts: Artifacts,
        environments: Environments,
        tenant: Tenant,
        *,
        idle_workers: int,
        cgroups: Cgroups | None = None,
        isolation: str | None = None,
        addresses_allowed: frozenset[str] | None = None,
        on_output: Callable[[str], None],
    ) -> None:
        """``isolation`` is the level of all code, whatever its own ``flux.toml`` says; None: what that says.

        ``addresses_allowed`` are those that its ``flux.toml`` may grant; None: any.
        """
        self._nursery = nursery
        self._isolation = isolation
        self._addresses_allowed = addresses_allowed
        self._cgroups = cgroups
        self.residency = Residency()
        """Which of its processes are in memory."""
        self.processor = ProcessorTime()
        """What all of its code has used, replays included."""
        self._environments = environments
        self._tenant = tenant
        self.artifacts = artifacts
        self._idle_workers = idle_workers
        self._on_output = on_output
        self.current: LiveDeployment | None = None
        self._standby: LiveDeployment | None = None
        """What was current before, with its workers; see `activate`."""
        self._activated = trio.Event()

    async def prepare(self, project: Project, version: SourceVersion | None = None) -> LiveDeployment:
        """Return the project's code as a deployment that is ready, and not yet current.

        ``version`` says which code it is where its folder does not.

        Installs the packages that it needs, unless they are there. Raises what is wrong with it:
        `InstallFailedError`, `ImportFailedError`, `RouteConflictError` and their kin.
        """
        try:
            if version is None:
                version = await trio.to_thread.run_sync(read_source_version, project)
        except OSError as error:
            raise describe_changing(project, error) from error
        environment = None
        if any(
            file.runtime == "python" for file in await trio.to_thread.run_sync(list_function_files, project)
        ):
            environment = await self._environments.provide(project.root)
        artifact = await trio.to_thread.run_sync(self.artifacts.make, project)
        return await self._load(
            attrs.evolve(project, root=artifact.folder), artifact.hash, version, environment
        )

    def find_kept(self, deployment_id: str, sha: str) -> Project:
        """Return the folder of code that was deployed before, as it was; see `Artifacts.find`."""
        return self.artifacts.find(deployment_id, sha)

    async def prepare_kept(
        self, deployment_id: str, sha: str, *, dirty: bool, branch: str | None = None, shuffle: int = 0
    ) -> LiveDeployment:
        """Return code that was deployed before, ready and not yet current; raise `CodeGoneError`.

        ``deployment_id``, ``sha`` and ``dirty`` are what a record says of it. With ``shuffle``, objects lie in another
        order (`flux.escapes`).
        """
        project = await trio.to_thread.run_sync(self.find_kept, deployment_id, sha)
        environment = None
        if any(
            file.runtime == "python" for file in await trio.to_thread.run_sync(list_function_files, project)
        ):
            environment = await self._environments.provide(project.root)
        version = SourceVersion(sha=sha, branch=branch, changed_files=int(dirty))
        return await self._load(
            project, await trio.to_thread.run_sync(hash_artifact, project), version, environment, shuffle
        )

    async def _load(
        self,
        project: Project,
        artifact_hash: str,
        version: SourceVersion,
        environment: Environment | None,
        shuffle: int = 0,
    ) -> LiveDeployment:
        """Start the sandboxes of an artifact; ``project`` is that folder."""
        id = artifact_hash[:ID_DIGITS]
        self.artifacts.enter(id)
        try:
            live, scope = await self._start(project, artifact_hash, version, environment, shuffle)
        except BaseException:
            self.artifacts.leave(id)
            raise
        self._nursery.start_soon(self._end_when_idle, live, scope)
        return live

    async def _start(
        self,
        project: Project,
        artifact_hash: str,
        version: SourceVersion,
        environment: Environment | None,
        shuffle: int,
    ) -> tuple[LiveDeployment, trio.CancelScope]:
        project = with_isolation(project, self._isolation)
        config, folder = project.config, project.root
        sandboxes = Sandboxes(
            project,
            self._tenant,
            environment=environment.packages_folder if environment is not None else None,
            idle_workers=self._idle_workers,
            residency=self.residency,
            cgroups=self._cgroups,
            processor=self.processor,
            on_output=self._on_output,
            shuffle=shuffle,
        )
        try:
            scope = await self._nursery.start(_run_sandboxes, sandboxes)
        except ImportFailedError as error:
            remedy = explain_missing(error.failures[0], folder, environment)
            if remedy is None:
                raise
            raise ImportFailedError(error.failures, remedy=remedy) from error
        try:
            deployment = Deployment(
                id=artifact_hash[:ID_DIGITS],
                sha=version.sha,
                dirty=version.dirty,
                branch=version.branch,
                folder=str(folder),
                functions=sandboxes.functions,
            )
            _check_config(config, sandboxes.functions)
            check_middleware(config, sandboxes.functions, sandboxes.middleware)
            if self._addresses_allowed is not None:
                _check_addresses(config, sandboxes.functions, self._addresses_allowed)
                _check_collector(config)
            rules = RedactionRules.parse(config.recording.redact)
            runnables: dict[str, Runnable] = {}
            for function in sandboxes.functions:
                made = make_runnable(function, deployment, sandboxes.find(function), config, rules)
                runnables[function.name] = attrs.evolve(made, siblings=runnables)
            live = LiveDeployment(deployment, sandboxes, runnables, config, artifact_hash, environment)
        except BaseException:
            scope.cancel()
            raise
        return live, scope

    async def _end_when_idle(self, live: LiveDeployment, scope: trio.CancelScope) -> None:
        try:
            await live.wait_idle()
        finally:
            self.artifacts.leave(live.deployment.id)
        scope.cancel()

    def activate(self, live: LiveDeployment, *, keeps_before: bool = False) -> None:
        """Make ``live`` current; the one before it ends with its last request.

        With ``keeps_before`` not yet: it stands by for `STANDBY_S`, in case somebody wants it back.
        """
        before, self.current = self.current, live
        if self._standby is not None:
            self._standby.retire()
            self._standby = None
        if before is not None and keeps_before:
            self._standby = before
            self._nursery.start_soon(self._end_standby, before)
        elif before is not None:
            before.retire()
        self._activated.set()

    async def _end_standby(self, live: LiveDeployment) -> None:
        with trio.move_on_after(STANDBY_S):
            await live.wait_idle()
        if self._standby is live:
            self._standby = None
            live.retire()

    def take_standby(self, deployment_id: str, sha: str, *, dirty: bool) -> LiveDeployment | None:
        """Give what stands by, if it is that code: whoever takes it makes it current, or retires it."""
        live = self._standby
        if live is None:
            return None
        found = live.deployment
        if (found.id, found.sha, found.dirty) != (deployment_id, sha, dirty):
            return None
        self._standby = None
        return live

    def is_current(self, live: LiveDeployment) -> bool:
        """Whether ``live`` is what is served already: the same files, from the same commit."""
        return self.current is not None and self.current.deployment == live.deployment

    async def wait_current(self) -> LiveDeployment:
        """Return what is current, waiting for the first."""
        await self._activated.wait()
        assert self.current is not None
        return self.current


def with_isolation(project: Project, level: str | None) -> Project:
    """Return ``project`` as if its ``flux.toml`` asked for that level of isolation; as it is for None."""
    if level is None:
        return project
    sandbox = attrs.evolve(project.config.sandbox, isolation=level)
    return attrs.evolve(project, config=attrs.evolve(project.config, sandbox=sandbox))


async def _run_sandboxes(
    sandboxes: Sandboxes, *, task_status: trio.TaskStatus[trio.CancelScope] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.CancelScope() as scope:
        started: trio.TaskStatus[None] = _Relay(task_status, scope)
        await sandboxes.run(task_status=started)


class _Relay:
    """Hands the sandbox's "started" on, with the scope that ends it."""

    def __init__(self, status: trio.TaskStatus[trio.CancelScope], scope: trio.CancelScope) -> None:
        self._status = status
        self._scope = scope

    def started(self, value: None = None) -> None:  # noqa: ARG002 - the protocol's signature
        """See `trio.TaskStatus`."""
        self._status.started(self._scope)


def explain_missing(failure: ImportFailure, project: Path, environment: Environment | None) -> str | None:
    """Return what to do about a module that is in no package of the project's, None when that is not why."""
    missing = re.fullmatch(r"No module named '(?P<top>\w+)[\w.]*'", failure.message)
    if failure.type != "ModuleNotFoundError" or missing is None:
        return None
    top = missing["top"]
    is_own = (project / top).is_dir() or (project / f"{top}.py").is_file()
    if is_own or (environment is not None and top in environment.modules):
        return None
    if environment is None:
        return f"this project names no packages: write the one that has {top} into requirements.txt, and save"
    return f"{top} is not in {environment.source}: add the package that has it there, and save"


def make_runnable(
    function: Function, deployment: Deployment, sandbox: Sandbox, config: Config, rules: RedactionRules
) -> Runnable:
    """Return the function with its limits and grants: Flux's, the project's, the decorator's, its own table's."""
    bounds = make_bounds(function, config)
    return Runnable(
        function=function,
        deployment=deployment,
        sandbox=sandbox,
        bounds=bounds,
        limits=describe_limits(bounds),
        grants=Grants.parse(config.get_http_allow(function.name)),
        isolation=function.isolation or config.database.isolation,
        chain=make_chain(function, config),
        rules=rules,
        # An isolate serves once: making it anew costs less than asking whether it is as it was.
        warm=config.sandbox.warm if function.runtime == "python" else 1,
        jobs_max=config.get_function(function.name).concurrency,
        propagation=config.telemetry.propagate,
    )


LIMIT_KEYS = ("timeout", "memory", "host_calls", "body", "response", "log", "stream")


def make_bounds(function: Function, config: Config) -> Bounds:
    """Return the limits in force for ``function`` and whose each one is."""
    limits: Limits = config.get_limits(function.name)
    origins = {key: config.get_limit_origin(function.name, key) for key in LIMIT_KEYS}
    if function.timeout_s is not None and f"functions.{function.name}.timeout" not in config.origins:
        limits = attrs.evolve(limits, timeout_s=function.timeout_s)
        origins["timeout"] = f"@function(timeout=...) at {function.position.file}:{function.position.line}"
    return Bounds(limits, origins)


def describe_limits(bounds: Bounds) -> tuple[LimitInForce, ...]:
    """Return the limits as the record keeps them."""
    limits = bounds.limits
    texts = {
        "timeout": format_duration(limits.timeout_s),
        "memory": format_size(limits.memory_bytes_max),
        "host_calls": str(limits.host_calls_max),
        "body": format_size(limits.body_bytes_max),
        "response": format_size(limits.response_bytes_max),
        "log": format_size(limits.log_bytes_max),
        "stream": format_size(limits.stream_bytes_max) if limits.stream_bytes_max else "none",
    }
    return tuple(LimitInForce(key, texts[key], bounds.origins.get(key, DEFAULT_ORIGIN)) for key in LIMIT_KEYS)


def _check_config(config: Config, functions: tuple[Function, ...]) -> None:
    """Refuse a ``flux.toml`` that speaks of functions which do not exist: a typo there takes a grant away."""
    names = {function.name for function in functions}
    for name in config.functions:
        if name not in names:
            line = next(
                (origin for key, origin in config.origins.items() if key.startswith(f"functions.{name}.")),
                "flux.toml",
            )
            raise UnknownFunctionError(
                f"{line}  [functions.{name}] names no function: there is {', '.join(sorted(names)) or 'none'}",
                remedy=f"{did_you_mean(name, names)}correct the name, or remove the table",
            )
    for entry in config.cron:
        if entry.function not in names:
            raise UnknownFunctionError(
                f"flux.toml  a [[cron]] entry names {entry.function}, which is no function: "
                f"there is {', '.join(sorted(names)) or 'none'}",
                remedy=f"{did_you_mean(entry.function, names)}correct the name, or remove the entry",
            )
    _check_schedules(config, functions)
    if config.gate.auth.public_key:
        # Imported by those who need it: see there.
        from flux.supervisor.signing_keys import check_public_key

        check_public_key(config.gate.auth)


def _check_addresses(config: Config, functions: tuple[Function, ...], allowed: frozenset[str]) -> None:
    """Refuse a ``flux.toml`` of a tenant's that grants the way to an address which the installation has not allowed.

    To write an address out vouches for it, loopback and the inner network included. Whoever runs the machine may do
    that; a tenant may do it only for what was allowed to it.
    """
    asked = [(function.name, text) for function in functions for text in config.get_http_allow(function.name)]
    if url := config.gate.auth.jwks:
        asked.append(("[http.auth]", url.partition("://")[2].partition("/")[0]))  # Flux itself asks there.
    for who, text in asked:
        grant = parse_grant(text)
        if (grant.address is not None or grant.host == "localhost") and text not in allowed:
            raise AddressNotAllowedError(
                f'flux.toml lets {who} reach "{text}": addresses are not a tenant\'s to grant',
                remedy="name the host, or ask whoever runs the installation: flux tenant add --allow",
            )


def _check_collector(config: Config) -> None:
    """Refuse a tenant's collector: the server itself would ask that address, from inside its network."""
    if config.telemetry.otlp:
        raise TenantCollectorError(
            "flux.toml has telemetry.otlp, and a tenant has no collector of its own",
            remedy="take the line out of the tenant's flux.toml",
        )


def list_schedules(config: Config, functions: Iterable[Function]) -> tuple[Schedule, ...]:
    """Return when functions are to run by themselves."""
    declared = [(function.name, function.cron) for function in functions if function.cron is not None]
    zone = config.project.time_zone
    configured = [
        Schedule(entry.function, entry.schedule, entry.time_zone or zone, CatchUp(entry.catch_up))
        for entry in config.cron
    ]
    return choose_schedules(declared, configured, zone)


def _check_schedules(config: Config, functions: tuple[Function, ...]) -> None:
    """Refuse a schedule that means no time, and say where it stands."""
    said = [
        (config.origins[f"cron[{index}].schedule"], entry.schedule, entry.time_zone or config.project.time_zone)
        for index, entry in enumerate(config.cron)
    ]
    said += [
        (f"{function.position.file}:{function.position.line}", function.cron, config.project.time_zone)
        for function in functions
        if function.cron is not None
    ]
    for place, expression, zone in said:
        try:
            check_schedule(expression, zone)
        except BadScheduleError as error:
            raise BadScheduleError(f"{place}  {error.message}", remedy=error.remedy) from error
