"""What is made of records while a row is taken out of them.

A replay reads a record, runs, and is stored; a row may be forgotten in between, and then what it shows has values that
nobody looks for any more. To wait for replays would not help: another begins while all records are read. So whoever
makes something of a record counts the erasures *before* reading it (`count_erasures`), and stores it only if there was
none since, under a lock that the end of an erasure takes for itself (`is_as_of`). What was stored before that end is
found by it (`flux.store.forgetting`).
"""

from flux.errors import OperatorError
from flux.store.postgres import Connection, Pool
from flux.store.queries import QUERIES


class ForgottenMeanwhileError(OperatorError):
    """A row was taken out of the records while something was made of one."""

    code = "FLX740"
    exit_code = 6


async def count_erasures(pool: Pool, tenant: str) -> int:
    """Return a number that is another one once a row has been taken out of the tenant's records."""
    async with pool.acquire() as connection:
        return int(await connection.fetch_value(QUERIES.count_erasures, tenant))


async def is_as_of(connection: Connection, tenant: str, erasures: int) -> bool:
    """Whether no row was taken out since ``count_erasures`` said so, nor is until the transaction ends.

    It does not wait for an erasure that is just ending: after it, the answer would be no.
    """
    return bool(await connection.fetch_value(QUERIES.share_erasures)) and (
        await connection.fetch_value(QUERIES.count_erasures, tenant) == erasures
    )


async def check_as_of(connection: Connection, tenant: str, erasures: int) -> None:
    """Raise `ForgottenMeanwhileError` unless `is_as_of`."""
    if not await is_as_of(connection, tenant, erasures):
        raise ForgottenMeanwhileError(
            "a row was taken out of the records meanwhile: what this shows may hold values of it, and was not stored",
            remedy="ask again: it is made of the records as they are now",
        )
