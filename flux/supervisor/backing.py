"""Everything behind the functions of one tenant, opened in order and closed in reverse.

`open_backing` brings the database to where Flux needs it, makes records of what an
earlier supervisor left in the journal, and then opens what executions share:
pools, the record writer, a journal of their own. After it, functions may run.
At the end nothing is lost: the writer stores what waits before the journal is closed.
"""

import contextlib
import hashlib
import hmac
import os
import secrets as randomness
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

import attrs
import trio

from flux.errors import FluxError
from flux.hostcalls.clock import SystemClock
from flux.hostcalls.entropy import SystemEntropy
from flux.hostcalls.http import HttpClient
from flux.hostcalls.secret import TenantSecrets
from flux.store.ephemeral import drop_leftovers
from flux.store.migrate import Prepared, ensure_guest, prepare
from flux.store.poolers import check_own_session
from flux.store.postgres import Connection, ConnectionLost, ConnectOptions, DatabaseError, Pool
from flux.store.queries import QUERIES
from flux.store.records import RecordWriter
from flux.supervisor.execute import Backing
from flux.supervisor.journal import Journal
from flux.supervisor.recovery import Recovered, recover
from flux.supervisor.recovery_store import DatabaseStore
from flux.supervisor.spool import SPOOL_BYTES_MAX, SpoolFolder
from flux.supervisor.tables import TableCatalog
from flux.tenant import Tenant

FLUSH_S = 20.0
"""How long the end waits for records to reach the database; the journal keeps the others for the next start."""
PARTITIONS_EVERY_S = 6 * 3600.0
OWNER_CONNECTIONS = 8
GUEST_CONNECTIONS = 32
OWN_CONNECTIONS = (OWNER_CONNECTIONS, GUEST_CONNECTIONS)
SPOOL_FOLDER = "spool"


@attrs.frozen
class OpenedBacking:
    """A tenant's backing and how its database stands."""

    backing: Backing
    prepared: Prepared
    recovered: Recovered


@contextlib.asynccontextmanager
async def open_backing(
    options: ConnectOptions,
    tenant: Tenant,
    journal_folder: Path,
    secrets: Mapping[str, str],
    *,
    report: Callable[[BaseException], None],
    connections: tuple[int, int] = OWN_CONNECTIONS,
    repair_guest: Callable[[str], Awaitable[None]] | None = None,
    spool_bytes_max: int = SPOOL_BYTES_MAX,
) -> AsyncIterator[OpenedBacking]:
    """Open what the functions of ``tenant`` run on; ``options`` are those of Flux's own role.

    ``connections``: how many of Flux's own at most, and of the functions'. ``repair_guest`` gives the functions' role
    the password that it is handed, where Flux's own role may not. ``spool_bytes_max`` is for bodies that are too large
    to hold; they lie beside the journal.
    """
    owner = Pool(options, connections[0])
    token = randomness.token_bytes(32)
    digest = hashlib.sha256(token).digest()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(owner.aclose)
        async with owner.acquire() as connection:
            await check_own_session(connection, options)
            prepared = await prepare(connection)
            notice_secret = str(await connection.fetch_value(QUERIES.get_notice_secret))
            password = derive_guest_password(notice_secret, tenant)
            if repair_guest is not None:
                await repair_guest(password)
            await ensure_guest(connection, tenant.name, tenant.schema, password)
            description = f"{socket.gethostname()}, process {os.getpid()}"
            await connection.execute(QUERIES.add_supervisor, digest, description)
            await drop_leftovers(connection, options)
        stack.push_async_callback(_withdraw_token, owner, digest)
        recovered = await recover(journal_folder, DatabaseStore(owner))
        # Not the role that the database named: a function of it may be a tenant's.
        guest_options = attrs.evolve(options, user=tenant.role, password=password)
        guests = Pool(guest_options, connections[1])
        stack.push_async_callback(guests.aclose)
        journal = Journal(journal_folder)
        stack.callback(journal.close)
        writer = RecordWriter(owner)
        http = stack.enter_context(HttpClient())
        async with trio.open_nursery() as nursery:
            backing = Backing(
                tenant=tenant.name,
                guests=guests,
                owner=owner,
                writer=writer,
                journal=journal,
                http=http,
                spools=SpoolFolder(journal_folder.parent / SPOOL_FOLDER, bytes_max=spool_bytes_max),
                secrets=TenantSecrets(secrets, hashlib.sha256(b"handles" + notice_secret.encode()).digest()),
                tables=TableCatalog(owner),
                clock=SystemClock(),
                entropy=SystemEntropy(),
                token=token,
                notice_secret=notice_secret,
                give_back=lambda pool, connection: nursery.start_soon(_give_back, pool, connection, report),
            )
            nursery.start_soon(writer.run)
            nursery.start_soon(_keep_partitions, owner, report)
            try:
                yield OpenedBacking(backing, prepared, recovered)
            finally:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + FLUSH_S):
                    await writer.flush()
                nursery.cancel_scope.cancel()


async def _give_back(pool: Pool, connection: Connection, report: Callable[[BaseException], None]) -> None:
    try:
        await pool.give_back(connection)
    except FluxError as error:  # The pool has closed the connection; only the reason is worth telling.
        report(error)


def derive_guest_password(notice_secret: str, tenant: Tenant) -> str:
    """Return the guest role's password: the same for every supervisor of a database, known to no guest."""
    return hmac.new(notice_secret.encode(), b"guest " + tenant.name.encode(), hashlib.sha256).hexdigest()


async def _withdraw_token(owner: Pool, digest: bytes) -> None:
    with trio.move_on_after(5.0, shield=True):
        with contextlib.suppress(DatabaseError, ConnectionLost):  # It dies with our memory in any case.
            async with owner.acquire() as connection:
                await connection.execute(QUERIES.remove_supervisor, digest)


async def _keep_partitions(owner: Pool, report: Callable[[BaseException], None]) -> None:
    """Make tomorrow's partitions in time, for as long as the supervisor runs."""
    while True:
        await trio.sleep(PARTITIONS_EVERY_S)
        try:
            async with owner.acquire() as connection:
                await connection.fetch_value(QUERIES.ensure_partitions, 7)
        except Exception as error:  # Whatever it is, rows go to the default partition meanwhile.
            report(error)
