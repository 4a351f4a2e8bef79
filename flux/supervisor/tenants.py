"""The tenants of an installation: each a whole server of its own (`flux.supervisor.server`), but for the port.

How to think about it: to serve a tenant is to serve its project, from its folder, on its database, with its secrets,
its tokens, its queue, its workers. Nothing of that is shared with another tenant, so there is nothing to scope: what a
tenant's console is asked is answered from the tenant's database, where nobody else's ids are. Shared are the port
(`flux.supervisor.hosts` says whose a request is), the master key, and the turns in which executions run
(`flux.supervisor.turns`).

A tenant that can't be started, or that fails, is tried again after a while, and its hosts are answered with 503 until
then. It never takes the others along.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path

import attrs
import trio

from flux.errors import FluxError, OperatorError
from flux.fair import ShareUse
from flux.store import tenant_database, tenants
from flux.store.postgres import ConnectOptions, parse_url
from flux.store.tenants import Quotas, TenantRow
from flux.store.vault import holding_keys
from flux.supervisor.deploy import Switch
from flux.supervisor.hosted import Hosted
from flux.supervisor.hosts import Share
from flux.supervisor.server import Running, Server, open_server
from flux.supervisor.server_options import ServerOptions
from flux.supervisor.spool import SPOOL_BYTES_MAX
from flux.supervisor.story import Story
from flux.supervisor.tenant_order import BadTenantError, TenantChange, TenantOrder, name_local_host
from flux.supervisor.tenant_seal import bounded, open_database, seal_database
from flux.supervisor.tenant_story import TenantStory
from flux.supervisor.tenant_watch import TenantWatch
from flux.supervisor.turns import Share as TurnsShare
from flux.supervisor.vault import check_master_key
from flux.tenant import Tenant

RETRY_S_MAX = 60.0
STOP_S_MAX = 30.0
"""How long a tenant that is told to stop may take for it. Who waits for it are the installation's own operators."""
START_S_MAX = 300.0
"""How long adding a tenant waits for it to take requests."""


class NoSuchTenantError(OperatorError):
    """No tenant of this name is served here."""

    code = "FLX811"
    exit_code = 3


class KeptDataError(OperatorError):
    """The tenant's data was to be removed, and Flux has not made the database."""

    code = "FLX813"


@attrs.frozen
class TenantUse:
    """What a tenant uses just now; what has no quota has no number of what is used of it."""

    turns: ShareUse
    cpu_ms: int
    """Processor time since its server has started."""
    cpu_ms_spent: int | None
    """Of its quota in a minute; above the quota where it is in debt."""
    requests_spent: float | None
    """Of its quota in a minute."""
    storage_bytes: int | None
    """None: not measured yet."""
    refused: Mapping[str, int]
    """Requests that were refused since its server has started, by the quota that they met."""


@attrs.frozen
class TenantSeen:
    """A tenant and how it stands."""

    name: str
    folder: str
    hosts: tuple[str, ...]
    url: str
    """By which the machine that serves reaches it."""
    is_up: bool
    problem: str
    """Why it is not up; empty when it is, or starts."""
    quotas: Quotas
    use: TenantUse | None
    """None while it is not served."""
    is_made: bool
    """Flux made its database."""
    added_at: datetime | None


@attrs.define(eq=False)
class _Served:
    """A tenant that is in the list."""

    row: TenantRow
    share: Share
    """Its names, taken for as long as it is in the list."""
    stop: trio.Event = attrs.field(factory=trio.Event)
    ended: trio.Event = attrs.field(factory=trio.Event)
    settled: trio.Event = attrs.field(factory=trio.Event)
    """Set once it is known for the first time whether it can be served."""
    turns: TurnsShare | None = None
    """While its server runs."""
    watch: TenantWatch | None = None
    """While it is served."""
    is_up: bool = False
    problem: str = ""


class Tenants:
    """See the module."""

    def __init__(self, server: Server, story: Story) -> None:
        """``server`` is the installation's own."""
        self._server = server
        self._story = story
        self._pool = server.backing.owner
        self._hosts = server.hosts
        self._master_key = server.vault.master_key
        self._running: Running | None = None
        self._attached = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._of_name: dict[str, _Served] = {}
        self._lock = trio.Lock()
        """One is added or removed at a time."""

    @property
    def is_attached(self) -> bool:
        """Whether it has begun."""
        return self._attached.is_set()

    def attach(self, running: Running) -> None:
        """Begin: the installation's own server has code to serve."""
        self._running = running
        self._attached.set()

    async def read(self) -> None:
        """Take the names of all, which are answered with 503 until they are served."""
        for row in await tenants.list_tenants(self._pool):
            self._take(row)

    async def run(self, stop: trio.Event) -> None:
        """Serve tenants until ``stop`` is set, then drain them. Their names stay theirs: more requests may come."""
        await self._attached.wait()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for served in self._of_name.values():
                nursery.start_soon(self._serve_forever, served)
            await stop.wait()
            for served in self._of_name.values():
                served.stop.set()

    def list(self) -> Sequence[TenantSeen]:
        """Return all, by name."""
        return [_see(served) for _, served in sorted(self._of_name.items())]

    async def add(self, order: TenantOrder) -> TenantSeen:
        """Add a tenant and serve it; return once it is known whether that works."""
        async with self._lock:
            self._check_free(order)
            tenant = Tenant(order.name)
            async with self._pool.acquire() as connection, holding_keys(connection):
                await check_master_key(connection, self._master_key)  # Before anything is made.
            await tenant_database.close_own_database(self._pool, closes=self._server.is_embedded)
            if order.database_url:
                await tenant_database.check_given_database(bounded(parse_url(order.database_url)), tenant)
                hidden = order.database_url
            else:
                made = await tenant_database.make_database(self._pool, tenant)
                assert made.password is not None
                hidden = made.password
            async with self._pool.acquire() as connection, holding_keys(connection):
                await check_master_key(connection, self._master_key)
                row = TenantRow(
                    order.name, str(order.folder), (name_local_host(order.name), *order.hosts),
                    seal_database(order.name, self._master_key.get_or_make(), hidden),
                    not order.database_url, order.quotas, order.allow,
                )  # fmt: skip
                is_added = await tenants.add_tenant(connection, row)
            if not is_added:
                raise BadTenantError(
                    f'another server of this installation has a tenant "{order.name}"', remedy="start this one again"
                )
            assert self._nursery is not None
            served = self._take(row)
            self._nursery.start_soon(self._serve_forever, served)
        with trio.move_on_after(START_S_MAX):
            await served.settled.wait()
        return _see(served)

    def show(self, name: str) -> TenantSeen:
        """Return one."""
        return _see(self._find(name))

    async def set(self, name: str, change: TenantChange) -> TenantSeen:
        """Change what a tenant may use, from now on."""
        async with self._lock:
            served = self._find(name)
            quotas = change.apply(served.row.quotas)
            row = attrs.evolve(served.row, quotas=quotas)
            if not await tenants.set_tenant(self._pool, row):
                raise NoSuchTenantError(f'tenant "{name}" was removed by another server', remedy="flux tenant list")
            served.row = row
            served.share.set_rate(quotas.requests_per_minute)
            if served.watch is not None:
                served.watch.set_quotas(quotas)
            elif served.turns is not None:
                served.turns.set_quotas(quotas)
        return _see(served)

    def _find(self, name: str) -> _Served:
        served = self._of_name.get(name)
        if served is None:
            known = ", ".join(sorted(self._of_name)) or "none"
            raise NoSuchTenantError(f'no tenant is named "{name[:100]}"; there is {known}', remedy="flux tenant list")
        return served

    async def remove(self, name: str, *, drops_data: bool) -> TenantSeen:
        """Stop serving a tenant; with ``drops_data`` remove its database and roles too."""
        async with self._lock:
            served = self._find(name)
            if drops_data and not served.row.is_made:
                raise KeptDataError(
                    f'the database of tenant "{name}" was given with --database-url, so Flux does not remove it',
                    remedy="leave --drop-data out, and drop the database yourself",
                )
            served.stop.set()
            await served.ended.wait()
            await tenants.remove_tenant(self._pool, name)
            del self._of_name[name]
            self._hosts.release(served.share)
            if drops_data:
                await tenant_database.drop_database(self._pool, Tenant(name))
        return attrs.evolve(_see(served), is_up=False)

    def _check_free(self, order: TenantOrder) -> None:
        assert self._running is not None
        if order.name in self._of_name:
            raise BadTenantError(f'there is a tenant "{order.name}" already', remedy="flux tenant list")
        names = (name_local_host(order.name), *order.hosts)
        if (taken := self._hosts.find_taken(names)) is not None:
            raise BadTenantError(f'"{taken}" is another tenant\'s host', remedy="flux tenant list")
        pages = self._server.console
        if own := (self._running.address.hosts | (pages.hosts if pages else frozenset())) & set(names):
            raise BadTenantError(f'"{min(own)}" is the host of the installation\'s own console', remedy="name another")
        folders = {self._server.root.resolve(), *(Path(each.row.folder) for each in self._of_name.values())}
        if order.folder in folders:
            raise BadTenantError(f"{order.folder} is served already", remedy="each tenant has a folder of its own")

    def _take(self, row: TenantRow) -> _Served:
        url = f"http://{name_local_host(row.name)}:{self._server.port}"
        served = _Served(row, self._hosts.reserve(row.hosts, url, row.quotas.requests_per_minute))
        self._of_name[row.name] = served
        return served

    async def _serve_forever(self, served: _Served) -> None:
        """Serve one tenant until it is told to stop, however often it fails."""
        pause_s = 1.0
        story = TenantStory(self._story, served.row.name)
        try:
            while not served.stop.is_set():
                began = trio.current_time()
                try:
                    await self._serve(served, story)
                except* FluxError as group:
                    error = _first(group)
                    assert isinstance(error, FluxError)
                    served.problem = error.message
                    story.problem("this tenant", error, is_serving=False)
                except* Exception as crash:  # Whatever it is, the others are served on.
                    served.problem = f"Flux itself failed: {_first(crash)!r}"
                    story.crash(crash)
                served.is_up, served.turns, served.watch = False, None, None
                served.settled.set()
                if trio.current_time() - began > RETRY_S_MAX:
                    pause_s = 1.0
                with trio.move_on_after(pause_s):
                    await served.stop.wait()
                pause_s = min(2 * pause_s, RETRY_S_MAX)
        finally:
            served.ended.set()

    async def _serve(self, served: _Served, story: Story) -> None:
        row, tenant = served.row, Tenant(served.row.name)
        with self._server.turns.opened(row.name, row.quotas) as turns:
            served.turns = turns
            repair = partial(tenant_database.repair_guest, self._pool, tenant) if row.is_made else None
            database = await self._open_database(row)
            hosted = Hosted(
                tenant, database, repair, served.share, self._server.console, turns,
                self._server.debug_room.add_part(), self._master_key,
                self._pool, min(SPOOL_BYTES_MAX, row.quotas.storage_bytes or SPOOL_BYTES_MAX), frozenset(row.allow),
            )  # fmt: skip
            options = ServerOptions(Path(row.folder), logs_requests=self._server.options.logs_requests)
            async with trio.open_nursery() as beside:
                beside.start_soon(_cancel_late, served.stop, beside.cancel_scope)
                if not row.is_made:  # Its role and its walls are somebody else's to change, and may be others by now.
                    await tenant_database.check_given_database(database, tenant)
                async with open_server(options, story, hosted=hosted) as server:
                    work = partial(self._begin, served, server, turns)
                    await server.run(work, served.stop, told=_ignore)
                beside.cancel_scope.cancel()

    async def _begin(self, served: _Served, server: Server, turns: TurnsShare, running: Running) -> None:
        switch = await running.deployer.resume()
        if switch is None:
            switch = await running.deployer.deploy(None)
        served.is_up, served.problem = True, ""
        served.settled.set()
        server.tell_ready(running)
        served.watch = TenantWatch(
            running.deployments.processor, server.backing.owner, turns, served.row.quotas, server.story
        )
        await served.watch.run()

    async def _open_database(self, row: TenantRow) -> ConnectOptions:
        async with self._pool.acquire() as connection, holding_keys(connection):
            # Read again each time: it may be sealed with another master key by now.
            sealed = await tenants.find_database(connection, row.name)
            if sealed is None:
                raise NoSuchTenantError(f'tenant "{row.name}" was removed by another server', remedy="flux tenant list")
            return open_database(attrs.evolve(row, database_sealed=sealed), self._master_key, self._pool.options)


async def _cancel_late(stop: trio.Event, scope: trio.CancelScope) -> None:
    """End what does not end by itself: while it starts, a tenant's server waits for what its database says."""
    await stop.wait()
    await trio.sleep(STOP_S_MAX)
    scope.cancel()


def _ignore(_running: Running, _switch: Switch) -> None:
    """A tenant's deploys are its own affair, and not told on the installation's terminal."""


def _see(served: _Served) -> TenantSeen:
    row = served.row
    return TenantSeen(
        row.name, row.folder, row.hosts, served.share.address.url, served.is_up, served.problem, row.quotas,
        _see_use(served), row.is_made, row.added_at,
    )  # fmt: skip


def _see_use(served: _Served) -> TenantUse | None:
    turns, watch = served.turns, served.watch
    if turns is None or watch is None:
        return None
    refused = dict(turns.refused)
    if served.share.refused:
        refused["requests"] = served.share.refused
    spent_s = turns.find_cpu_spent_s()
    return TenantUse(
        turns.get_use(), round(watch.cpu_s * 1000), None if spent_s is None else round(spent_s * 1000),
        served.share.find_requests_spent(), watch.storage_bytes, refused,
    )  # fmt: skip


def _first(group: BaseExceptionGroup[Exception]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
