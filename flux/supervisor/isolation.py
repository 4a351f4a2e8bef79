"""Which walls are up: tried at the start, told to whoever asks.

While the database starts, a process that is thrown away builds the jail that functions will
run in and tries its walls from inside. A wall that is missing keeps ``flux dev`` from
starting; it is never gone without. Control groups, which not every machine has to give, are
looked for as well and missed only where the configuration requires them. What was seen is
what ``flux doctor`` prints.
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio

from flux.errors import FluxError
from flux.project import Project, list_function_files
from flux.sandbox.cgroups import Cgroups, NoCgroups, open_cgroups
from flux.sandbox.cgroups import describe as describe_cgroups
from flux.sandbox.jail import LayerFinding, describe_findings, find_guest_uid, make_refusal, probe_jail
from flux.tenant import Tenant


class Isolation:
    """The level that is in force and what was seen of it."""

    def __init__(self, tenant: Tenant) -> None:
        self._tenant = tenant
        self._level = ""
        self._findings: dict[bool, tuple[LayerFinding, ...]] = {}
        """Of each kind of jail that was tried; True is that of wasm guests."""
        self._cgroups: Cgroups | NoCgroups | None = None

    @property
    def cgroups(self) -> Cgroups | None:
        """Where zygotes get control groups of their own, if anywhere."""
        return self._cgroups if isinstance(self._cgroups, Cgroups) else None

    async def probe(self, project: Project) -> None:
        """Try the level that ``project`` wants, for each kind of code that it has, unless it was.

        Raises `IsolationUnavailableError`.
        """
        level = project.config.sandbox.isolation
        if self._cgroups is None:
            self._cgroups = await trio.to_thread.run_sync(open_cgroups)
        if project.config.sandbox.cgroups == "required" and isinstance(self._cgroups, NoCgroups):
            told = {"layer": "cgroups", "call": "looking for a tree of ours", "errno": 0}
            raise make_refusal(level, {**told, "detail": self._cgroups.reason})
        if level != self._level:
            self._level, self._findings = level, {}
        for runs_wasm in list_kinds(project):
            if runs_wasm not in self._findings:
                uid = find_guest_uid(level, self._tenant.name)
                probe = partial(probe_jail, level, uid, runs_wasm=runs_wasm)
                self._findings[runs_wasm] = await trio.to_thread.run_sync(probe)

    def checks(self) -> Sequence[Mapping[str, Any]]:
        """What was seen, as the doctor shows it."""
        lines = describe_findings(self._level, self._findings.get(False, ()), self._findings.get(True, ()))
        return lines if self._cgroups is None else [*lines, describe_cgroups(self._cgroups)]


def describe_warm(warm: int, functions: Iterable[str]) -> Mapping[str, Any]:
    """Return the doctor's line on workers that serve more than once: whose module state lasts."""
    names = ", ".join(sorted(functions))
    detail = "each execution has a fresh worker"
    if warm > 1 and names:
        detail = f"a worker serves up to {warm:,} executions, and module state lasts from one to the next: {names}"
    return {"name": "warm", "ok": True, "detail": detail, "remedy": ""}


def list_kinds(project: Project) -> list[bool]:
    """Return which jails the project's functions need: False is that of Python, True that of wasm guests."""
    runtimes = {file.runtime for file in list_function_files(project)}
    return [False] * ("python" in runtimes or not runtimes) + [True] * bool(runtimes - {"python"})


class Probing:
    """A probe that is under way."""

    def __init__(self, isolation: Isolation, project: Project) -> None:
        self._isolation = isolation
        self._project = project
        self._failure: FluxError | None = None
        self._done = trio.Event()

    async def run(self) -> None:
        """Try the walls; what is wrong is for `wait` to raise."""
        try:
            await self._isolation.probe(self._project)
        except FluxError as error:
            self._failure = error
        self._done.set()

    async def wait(self) -> Isolation:
        """Return what was seen; raise `IsolationUnavailableError`."""
        await self._done.wait()
        if self._failure is not None:
            raise self._failure
        return self._isolation


@asynccontextmanager
async def probing(project: Project, tenant: Tenant) -> AsyncIterator[Probing]:
    """Try the walls beside whatever else has to be started."""
    async with trio.open_nursery() as nursery:
        probe = Probing(Isolation(tenant), project)
        nursery.start_soon(probe.run)
        yield probe
