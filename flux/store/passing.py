"""Executions that passed, for one that did not: what ``flux why --prove`` takes other values from."""

from flux.execution import Execution
from flux.store.postgres import Pool
from flux.store.queries import QUERIES
from flux.store.reading import decode_recording


async def list_passing(pool: Pool, execution: Execution, looked_at: int, limit: int) -> list[Execution]:
    """Return executions of the same function that passed: up to ``limit`` before it and after it, each nearest first.

    Those of the same code come first. Only the ``looked_at`` nearest on each side are considered. Without the mutations
    that they committed.
    """
    async with pool.acquire() as connection:
        rows = await connection.fetch(QUERIES.list_passing, execution.function, execution.id, looked_at, limit)
        found = [await decode_recording(connection, row["body"], row["format"]) for row in rows]
    return sorted(found, key=lambda one: one.deployment != execution.deployment)


async def find_passing_on_earlier_code(pool: Pool, execution: Execution, looked_at: int) -> Execution | None:
    """Return the last execution of the same function that passed before, on another deployment; None without one."""
    async with pool.acquire() as connection:
        row = await connection.fetch_row(
            QUERIES.find_passing_on_earlier_code, execution.function, execution.id, execution.deployment, looked_at
        )
        return None if row is None else await decode_recording(connection, row["body"], row["format"])
