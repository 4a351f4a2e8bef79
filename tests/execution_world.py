"""Executions in this process over a real Postgres: the real executor, scripted guests, a wire that can be cut.

`open_world` gives an `ExecutionWorld`: `run` plays a script as a function, through the executor, the
journal, the record writer and a database of its own. What became of it is asked of ``psql``, and of the
journal's files, never of the executor.

`CuttingProxy` stands between the guests' pool and the server. It counts exchanges (a Query or a Sync, and
the server's ReadyForQuery) and cuts the line before the n-th reaches the server, or after the server has
done it and before the client hears so.
"""

import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import trio

from flux.composition import Chain
from flux.deployment import Deployment, Function
from flux.execution import Execution, Trigger
from flux.grants import Grants
from flux.hostcall import Position
from flux.limits import Limits
from flux.redact import RedactionRules
from flux.sandbox.scripted import Script, ScriptedSandbox
from flux.store.postgres import ConnectOptions, Pool
from flux.supervisor.backing import open_backing
from flux.supervisor.drive import Bounds
from flux.supervisor.execute import Backing, Executed, Executor
from flux.supervisor.runnable import Runnable
from flux.supervisor.spool import Spool
from flux.tenant import Tenant
from tests.conftest import Database
from tests.postgres_server import PostgresServer

NO_RULES = RedactionRules()
NO_CHAIN = Chain((), ())
INVOKE = Trigger("invoke")
DEPLOYMENT = Deployment("d1", "3f9c1e2d" * 5, False, "main", "/nowhere", ())


class Heard:
    """An audience that writes down what it is told."""

    def __init__(self) -> None:
        self.done_: list[tuple[Execution, bool]] = []
        self.stored_: list[uuid.UUID] = []
        self.too_early: list[uuid.UUID] = []
        """Stored before they were told to have ended."""

    def done(self, execution: Execution, *, stored: bool) -> None:
        self.done_.append((execution, stored))

    def stored(self, execution_id: uuid.UUID) -> None:
        self.stored_.append(execution_id)
        if all(execution.id != execution_id for execution, _ in self.done_):
            self.too_early.append(execution_id)


@attrs.define
class ExecutionWorld:
    """What executions run on."""

    database: Database
    backing: Backing
    executor: Executor
    heard: Heard
    nursery: trio.Nursery
    reports: list[BaseException]
    """What the parts that run by themselves reported."""

    async def run(
        self,
        script: Script,
        *,
        atomic: bool = True,
        isolation: str = "repeatable read",
        timeout_s: float = 120.0,
        rules: RedactionRules = NO_RULES,
        retries: int = 0,
        trigger: Trigger = INVOKE,
        value: object = None,
        limits: Limits | None = None,
        allow: tuple[str, ...] = (),
        upload: Spool | None = None,
    ) -> Executed:
        """Play ``script`` as a function."""
        function = Function("play", None, Position("script.py", 1, "play"), atomic=atomic, retries=retries)
        runnable = Runnable(
            function=function,
            deployment=DEPLOYMENT,
            sandbox=ScriptedSandbox({"play": script}, self.nursery),
            bounds=Bounds(limits or Limits(timeout_s=timeout_s), {}),
            limits=(),
            grants=Grants.parse(allow),
            isolation=isolation,
            chain=NO_CHAIN,
            rules=rules,
        )
        return await self.executor.execute(runnable, trigger, value, upload=upload)

    async def settle(self) -> None:
        """Wait until every record that was handed to the writer is in the database, and every session is clean."""
        with trio.fail_after(120):
            await self.backing.writer.flush()
            guests = self.backing.guests
            while guests.counts.idle < guests.counts.open:  # noqa: ASYNC110 - counts of the pool, which tells nobody
                await trio.sleep(0.005)

    def records(self) -> list[tuple[str, str, str]]:
        """Outcome, error's type and error's message of each record, oldest first, as psql has them."""
        rows = self.database.psql(
            "select outcome, coalesce(error_type, ''), coalesce(error_message, '') from flux.execution order by id"
        )
        return [(one, two, three) for one, two, three in (row.split("|", 2) for row in rows.splitlines())]


def guest_options(database: Database) -> ConnectOptions:
    """How the guests' own role connects."""
    return database.options("flux_guest_main")


@contextlib.asynccontextmanager
async def open_world(
    database: Database,
    journal: Path,
    *,
    secrets: Mapping[str, str] | None = None,
    options: ConnectOptions | None = None,
    guests: Callable[[ConnectOptions], ConnectOptions] = lambda options: options,
    guest_connections: int = 4,
) -> AsyncIterator[ExecutionWorld]:
    """A world over ``database``; ``guests`` may send the guests' connections another way."""
    reports: list[BaseException] = []
    async with open_backing(
        options or database.options(), Tenant(), journal, secrets or {}, report=reports.append
    ) as opened:
        backing = opened.backing
        await backing.guests.aclose()
        pool = Pool(guests(backing.guests.options), guest_connections)
        backing = attrs.evolve(backing, guests=pool)
        heard = Heard()
        try:
            async with trio.open_nursery() as nursery:
                yield ExecutionWorld(database, backing, Executor(backing, heard), heard, nursery, reports)
                nursery.cancel_scope.cancel()
        finally:
            await pool.aclose()


@attrs.define
class CuttingProxy:
    """See the module."""

    server: PostgresServer
    port: int = 0
    exchanges: int = 0
    """Seen so far on connections of guests, login not counted."""
    cut_at: int | None = None
    """Number of the exchange at which the line is cut, once."""
    after: bool = False
    """The server has done it; else it never hears of it."""
    in_part: bool = False
    """All of the exchange comes through but its end: of what the client sends, or with ``after`` of the answer."""
    was_cut: bool = False
    goes_down: bool = False
    """With the cut, all lines are cut and none is opened until `up`."""
    is_down: bool = False
    on_exchange: Callable[[int], None] = lambda _number: None
    """Told the number of each exchange, before it reaches the server."""
    _lines: set[trio.CancelScope] = attrs.field(factory=set)

    def up(self) -> None:
        """Open lines again."""
        self.is_down = False

    def cut_all(self) -> None:
        """Cut what there is."""
        self.is_down = self.goes_down
        if self.goes_down:
            for scope in tuple(self._lines):
                scope.cancel()

    def options(self, options: ConnectOptions) -> ConnectOptions:
        """The same database by this way."""
        return attrs.evolve(options, host="127.0.0.1", port=self.port)

    async def serve(self, client: trio.SocketStream) -> None:
        """One connection, to its end."""
        if self.is_down:
            await client.aclose()
            return
        line = _Line(self, client)
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError, ConnectionError):
            path = f"{self.server.host}/.s.PGSQL.{self.server.port}"
            async with await trio.open_unix_socket(path) as backend, trio.open_nursery() as nursery:
                self._lines.add(nursery.cancel_scope)
                nursery.start_soon(line.outward, backend, nursery.cancel_scope)
                nursery.start_soon(line.inward, backend, nursery.cancel_scope)
            self._lines = {scope for scope in self._lines if not scope.cancel_called}
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await client.aclose()


class _Line:
    """One connection through the proxy."""

    def __init__(self, proxy: CuttingProxy, client: trio.SocketStream) -> None:
        self._proxy = proxy
        self._client = client
        self._swallow = False

    async def outward(self, backend: trio.abc.Stream, scope: trio.CancelScope) -> None:
        """From the client: whole messages, so that they can be counted, and all that one Sync ends together.

        The server acts on a statement before the Sync that ends its exchange, COMMIT included.
        """
        buffer = bytearray()
        exchange = b""
        is_started = is_guests = False
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await self._client.receive_some(65536):
                buffer += data
                while True:
                    head = 4 if not is_started else 5
                    if len(buffer) < head:
                        break
                    size = int.from_bytes(buffer[head - 4 : head], "big") + head - 4
                    if len(buffer) < size:
                        break
                    message = bytes(buffer[:size])
                    del buffer[:size]
                    if not is_started:
                        is_guests = b"flux_guest_" in message
                    elif is_guests and message[:1] in b"QS":
                        proxy = self._proxy
                        proxy.exchanges += 1
                        proxy.on_exchange(proxy.exchanges)
                        if proxy.exchanges == proxy.cut_at and not proxy.was_cut:
                            proxy.was_cut = True
                            if not proxy.after:
                                if proxy.in_part:
                                    await backend.send_all(exchange + message[:-1])
                                proxy.cut_all()
                                scope.cancel()
                                return
                            self._swallow = True
                    exchange += message
                    if is_started and message[:1] in b"PBDEC":
                        continue
                    is_started = True
                    await backend.send_all(exchange)
                    exchange = b""
        scope.cancel()

    async def inward(self, backend: trio.abc.Stream, scope: trio.CancelScope) -> None:
        """To the client; nothing any more once the line is to be cut, which is when the server is ready again."""
        seen = bytearray()
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await backend.receive_some(65536):
                if self._swallow:
                    seen += data
                    if seen[-6:-1] == b"Z\0\0\0\5":
                        if self._proxy.in_part:
                            await self._client.send_all(seen[:-6])
                        self._proxy.cut_all()
                        break
                else:
                    await self._client.send_all(data)
        scope.cancel()


@contextlib.asynccontextmanager
async def served_on_loopback(serve: Callable[[trio.SocketStream], Awaitable[object]]) -> AsyncIterator[int]:
    """Have ``serve`` called with each client of a port of its own, which is given, until the block ends."""
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def cutting_proxy(server: PostgresServer) -> AsyncIterator[CuttingProxy]:
    """A proxy that cuts nothing yet, until the block ends."""
    proxy = CuttingProxy(server)
    async with served_on_loopback(proxy.serve) as proxy.port:
        yield proxy


def sql(statement: str, *parameters: Any) -> tuple[str, str, list[Any]]:
    """The arguments of a scripted guest's ``call`` for a statement."""
    return ("db.query", statement, list(parameters))
