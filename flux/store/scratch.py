"""A database for a moment: what migrations make is seen where they have made it, and nowhere else.

It is an empty one on the same server, sorted and compared as the other is, and dropped at the end. Its name
begins like those of `flux.store.ephemeral`, so what a crash leaves is found and dropped as theirs is.
"""

import contextlib
import secrets
from collections.abc import AsyncIterator

import attrs
import trio

from flux.store.ephemeral import PREFIX, EphemeralDatabaseError, describe_locale, drop_databases
from flux.store.postgres import (
    Connection,
    ConnectionLost,
    ConnectOptions,
    DatabaseError,
    connect,
    quote_identifier,
)
from flux.store.queries import QUERIES


@contextlib.asynccontextmanager
async def open_scratch(connection: Connection, options: ConnectOptions, schema: str) -> AsyncIterator[Connection]:
    """Give a connection to an empty database that has ``schema``, which is its ``search_path``.

    ``connection`` is to the database that it is made beside, and in which Flux has been; ``options`` are that one's.
    """
    found = await connection.fetch_row(QUERIES.find_ephemeral_place)
    assert found is not None, "a role is connected to a database"
    if not found["may_create"]:
        raise EphemeralDatabaseError(
            f'role "{found["role"]}" may not create databases, and what migrations make is seen only in one of its own',
            remedy=f"alter role {quote_identifier(found['role'])} createdb",
        )
    name = f"{PREFIX}{found['instance']}_{secrets.token_hex(5)}"
    assert await connection.fetch_value(QUERIES.lock_ephemeral, name), "a name drawn at random is free"
    try:
        try:
            await connection.execute(
                f"create database {quote_identifier(name)} template template0{describe_locale(found['properties'])}"
            )
        except DatabaseError as error:
            raise EphemeralDatabaseError(
                f"the database {name} can't be made: {error.report.message}", remedy="see that the server has room"
            ) from error
        scratch = await connect(attrs.evolve(options, database=name))
        try:
            quoted = quote_identifier(schema)
            await scratch.execute(f"create schema if not exists {quoted}; set search_path = {quoted}")
            yield scratch
        finally:
            await scratch.aclose()
    finally:
        with trio.CancelScope(shield=True):
            await drop_databases(options, [name], [])
            if not connection.is_closed:
                with contextlib.suppress(ConnectionLost):  # Then the server has let go of it.
                    await connection.fetch_value(QUERIES.unlock_ephemeral, name)
