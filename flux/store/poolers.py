"""Noticing a connection pooler that shares sessions.

A pooler in *transaction mode* gives a session to whoever has a transaction, and the next transaction to another one.
Flux keeps things in sessions: LISTEN, locks that outlive a transaction, prepared statements, and who a guest is.
None of that fails there; it goes to somebody else. So it is tried, before anything else is done.

What can't be with PostgreSQL itself: two connections that are open have one and the same server process. A pooler in
transaction mode gives the second one the process that the first has just left. One in session mode passes, and so it
should.
"""

from flux.errors import OperatorError
from flux.store.postgres import Connection, ConnectOptions, DatabaseError, connect
from flux.store.queries import QUERIES

TRIES = 3
"""A pooler that was just busy may give another process once."""


class SharedSessionError(OperatorError):
    """The database is reached through a pooler that shares sessions."""

    code = "FLX635"


async def check_own_session(first: Connection, options: ConnectOptions) -> None:
    """Raise `SharedSessionError` when another connection gets the server process of ``first``.

    ``options`` are those that ``first`` was made with.
    """
    second = await connect(options)
    try:
        for _ in range(TRIES):
            pid = await first.fetch_value(QUERIES.get_server_process)
            if await second.fetch_value(QUERIES.get_server_process) == pid:
                raise _shared(options)
    except DatabaseError as error:
        # What one connection has prepared, the other finds there; or it does not find what it has prepared itself.
        if error.sqlstate in (_PREPARED_ALREADY, _NOT_PREPARED):
            raise _shared(options) from error
        raise
    finally:
        second.terminate()


_PREPARED_ALREADY = "42P05"
_NOT_PREPARED = "26000"


def _shared(options: ConnectOptions) -> SharedSessionError:
    return SharedSessionError(
        f"a connection pooler at {options.place} shares sessions among connections (transaction mode)",
        remedy="name the database itself, or a pool in session mode: Flux has pools of its own",
    )
