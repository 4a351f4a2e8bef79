"""One session that watches the database: whether it is there, and who of all servers does what only one should.

The session waits for nothing but its own end, so a database that stops is noticed at once, and one that hangs within
seconds. Readiness (`/_flux/health`) is what it has seen last: asking the database for each probe would ask most when
it can least.

It also tries for a lock. Who has it *leads*: marks of time in the log, taking out what is old, and Flux's checks of
itself are done once for a database, however many processes and machines serve it. The lock is the session's, so it is
free again when its holder dies, however that came.
"""

from collections.abc import Awaitable, Callable

import trio

from flux.errors import FluxError
from flux.store.postgres import (
    CannotConnect,
    Connection,
    ConnectionLost,
    ConnectOptions,
    DatabaseError,
    connect,
)
from flux.store.queries import QUERIES

LOOK_S = 2.0
"""Between two looks at a session that says nothing; also how long the lock of one that died stays unnoticed."""
ANSWER_S = 5.0
"""A database that takes longer for nothing is not there."""
AGAIN_S = 0.25
"""Before it is tried again."""


class DatabaseWatch:
    """See the module."""

    def __init__(self, options: ConnectOptions, tenant: str) -> None:
        """``options`` are those of Flux's own role."""
        self._options = options
        self._tenant = tenant
        self.failure: FluxError | None = None
        """Why the database can't be used just now; None when it can."""
        self.leads = False
        """Whether what is done once is done here."""
        self._changed = trio.Event()

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            try:
                connection: Connection | None = None
                try:
                    with trio.fail_after(ANSWER_S):
                        connection = await connect(self._options)
                    while True:
                        await self._look(connection)
                finally:
                    self._set_leads(False)
                    if connection is not None:
                        connection.terminate()
            except (CannotConnect, ConnectionLost, DatabaseError) as error:
                self.failure = error
            except trio.TooSlowError:
                self.failure = ConnectionLost(
                    f"the database at {self._options.place} does not answer within {ANSWER_S:g} s",
                    remedy="see whether it runs; it is tried again and again",
                )
            await trio.sleep(AGAIN_S)

    async def lead(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do ``work``, which never ends, whenever it is ours to do; cancelled when it is not any more."""
        while True:
            await self._wait(leads=True)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(work)
                await self._wait(leads=False)
                nursery.cancel_scope.cancel()

    async def _look(self, connection: Connection) -> None:
        with trio.fail_after(ANSWER_S):
            self._set_leads(bool(await connection.fetch_value(QUERIES.try_to_lead, self._tenant, self.leads)))
        self.failure = None
        with trio.move_on_after(LOOK_S):
            await connection.wait_notification()  # There is none: it waits for the session's end.

    def _set_leads(self, leads: bool) -> None:
        if leads != self.leads:
            self.leads = leads
            self._changed.set()
            self._changed = trio.Event()

    async def _wait(self, *, leads: bool) -> None:
        while self.leads != leads:
            await self._changed.wait()
