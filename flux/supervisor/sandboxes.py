"""The sandboxes of one deployment: one for each kind of code that it has.

Python functions run in processes, JavaScript, TypeScript and wasm in isolates. Nothing
above knows which: each function has a `Sandbox`, found by `Sandboxes.find`.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import trio

from flux.config import Config
from flux.deployment import Function
from flux.errors import FluxError
from flux.execution import Level
from flux.project import Project, list_function_files
from flux.sandbox.base import BadFunctionError, Sandbox
from flux.sandbox.cgroups import Cgroups
from flux.sandbox.jail import find_guest_uid
from flux.sandbox.process import DATA_BYTES_MAX, ProcessSandbox
from flux.sandbox.processor import ProcessorTime
from flux.sandbox.residency import Residency
from flux.sandbox.wasm import WasmSandbox, default_folder
from flux.tenant import Tenant


class Sandboxes:
    """What runs one deployment. Run `run` in a nursery; started once all of its code is loaded."""

    def __init__(
        self,
        project: Project,
        tenant: Tenant,
        *,
        environment: Path | None,
        idle_workers: int,
        residency: Residency,
        cgroups: Cgroups | None,
        processor: ProcessorTime,
        on_output: Callable[[str], None],
        shuffle: int = 0,
    ) -> None:
        """``project`` is the artifact, not the folder that people edit; ``environment`` holds its packages.

        ``residency``, ``cgroups`` and ``processor`` are those of the server, for all of its deployments. With
        ``shuffle``, objects of Python's lie in another order (`flux.escapes`).
        """
        config = project.config
        runtimes = {file.runtime for file in list_function_files(project)}
        self._sandboxes: list[ProcessSandbox | WasmSandbox] = []
        if "python" in runtimes or not runtimes:
            self._sandboxes.append(
                ProcessSandbox(
                    project.root,
                    config.project.functions,
                    environment=environment,
                    isolation=config.sandbox.isolation,
                    uid=find_guest_uid(config.sandbox.isolation, tenant.name),
                    data_bytes_max=max(DATA_BYTES_MAX, *_list_memory_limits(config)),
                    timeout_s_max=max(_list_timeouts(config)),
                    idle_target=idle_workers,
                    residency=residency,
                    cgroups=cgroups,
                    processor=processor,
                    warm=config.sandbox.warm,
                    on_output=on_output,
                    shuffle=shuffle,
                )
            )
        if runtimes - {"python"}:
            self._sandboxes.append(
                WasmSandbox(
                    project.root,
                    config.project.functions,
                    isolation=config.sandbox.isolation,
                    uid=find_guest_uid(config.sandbox.isolation, tenant.name),
                    tenant=tenant.name,
                    cache=default_folder(),
                    memory_bytes_max=max(_list_memory_limits(config)),
                    cgroups=cgroups,
                    processor=processor,
                    on_output=on_output,
                )
            )

    @property
    def functions(self) -> tuple[Function, ...]:
        """What all of the code declares."""
        return tuple(function for sandbox in self._sandboxes for function in sandbox.functions)

    @property
    def middleware(self) -> dict[str, list[str]]:
        """The names of the middleware that the code declares, by its language (`flux.composition.LANGUAGES`)."""
        found: dict[str, list[str]] = {}
        for sandbox in self._sandboxes:
            language = "Python" if isinstance(sandbox, ProcessSandbox) else "JavaScript"
            found[language] = [declared.function for declared in sandbox.middleware]
        return found

    @property
    def level(self) -> Level:
        """Which walls are up around the first kind of code: the weaker ones, where there are several."""
        return self._sandboxes[0].level

    def find(self, function: Function) -> Sandbox:
        """Return where ``function`` runs."""
        return next(sandbox for sandbox in self._sandboxes if function in sandbox.functions)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep them running until cancelled. Before they are started, raises what is wrong with the code."""
        failure: FluxError | None = None
        async with trio.open_nursery() as nursery:
            # Caught in here: what leaves a nursery's block leaves it in a group, and our callers
            # want to know the error by its class.
            try:
                for sandbox in self._sandboxes:
                    await nursery.start(sandbox.run)
                self._check_names()
            except FluxError as error:
                failure = error
                nursery.cancel_scope.cancel()
            else:
                task_status.started()
        if failure is not None:
            raise failure

    def _check_names(self) -> None:
        seen: dict[str, Function] = {}
        for function in self.functions:
            other = seen.setdefault(function.name, function)
            if other is not function:
                here, there = function.position, other.position
                raise BadFunctionError(
                    f"{here.file}:{here.line}  a function named {function.name} exists already at "
                    f"{there.file}:{there.line}",
                    remedy="give one of them another name",
                )


def _list_timeouts(config: Config) -> Iterable[float]:
    yield config.limits.timeout_s
    for name in config.functions:
        yield config.get_limits(name).timeout_s


def _list_memory_limits(config: Config) -> Iterable[int]:
    yield config.limits.memory_bytes_max
    for name in config.functions:
        yield config.get_limits(name).memory_bytes_max
