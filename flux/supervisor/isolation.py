"""Which walls are up: tried at the start, told to whoever asks.

While the database starts, a process that is thrown away builds the jail that functions will
run in and tries its walls from inside. A wall that is missing keeps ``flux dev`` from
starting; it is never gone without. What was seen is what ``flux doctor`` prints.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio

from flux.config import Config
from flux.errors import FluxError
from flux.sandbox.jail import LayerFinding, describe_findings, find_guest_uid, probe_jail
from flux.tenant import Tenant


class Isolation:
    """The level that is in force and what was seen of it."""

    def __init__(self, tenant: Tenant) -> None:
        self._tenant = tenant
        self._level = ""
        self._findings: tuple[LayerFinding, ...] = ()

    async def probe(self, config: Config) -> None:
        """Try the level that ``config`` wants, unless it was; raise `IsolationUnavailableError`."""
        level = config.sandbox.isolation
        if level != self._level:
            uid = find_guest_uid(level, self._tenant.name)
            self._findings = await trio.to_thread.run_sync(probe_jail, level, uid)
            self._level = level

    def checks(self) -> Sequence[Mapping[str, Any]]:
        """What was seen, as the doctor shows it."""
        return describe_findings(self._level, self._findings)


class Probing:
    """A probe that is under way."""

    def __init__(self, isolation: Isolation, config: Config) -> None:
        self._isolation = isolation
        self._config = config
        self._failure: FluxError | None = None
        self._done = trio.Event()

    async def run(self) -> None:
        """Try the walls; what is wrong is for `wait` to raise."""
        try:
            await self._isolation.probe(self._config)
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
async def probing(config: Config, tenant: Tenant) -> AsyncIterator[Probing]:
    """Try the walls beside whatever else has to be started."""
    async with trio.open_nursery() as nursery:
        probe = Probing(Isolation(tenant), config)
        nursery.start_soon(probe.run)
        yield probe
