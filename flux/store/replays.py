"""What replays have shown, beside the executions that they replayed.

A replay that somebody asked for is an execution of its own (``trigger: replay``), so that it can be shown
and compared like any other; its verdict stands in ``flux.replay``. Flux's own checks of a sample leave
only the verdict, unless they found something.
"""

import uuid
from collections.abc import Sequence
from datetime import datetime

import attrs

from flux.execution import Execution
from flux.store.postgres import Connection, Pool
from flux.store.queries import QUERIES


@attrs.frozen
class ReplayFound:
    """A replay on record."""

    id: uuid.UUID
    """Of its execution."""
    name: str | None
    """Name of its execution; None when it left none."""
    code: str | None
    """What it was to run on, as asked for: None for the code that made the record, ``.`` or a commit."""
    deployment: str
    sha: str
    dirty: bool
    verdict: str
    reason: str
    divergence: str | None
    """JSON: where it left the record."""
    is_check: bool
    """Flux's own, of a sample."""
    at: datetime


@attrs.frozen
class CheckCount:
    """What Flux's own checks have shown."""

    count: int
    escaped: int
    """Of them, those that did not do the same again."""


async def add_replay(
    connection: Connection,
    execution: Execution,
    *,
    code: str | None,
    verdict: str,
    reason: str,
    divergence: str | None,
    is_check: bool,
) -> None:
    """Write down what ``execution``, a replay, has shown. ``divergence`` is JSON: where it left the record."""
    assert execution.replay_of is not None, "it is no replay"
    await connection.execute(
        QUERIES.add_replay,
        execution.id,
        execution.replay_of,
        code,
        execution.deployment,
        execution.sha,
        execution.dirty,
        verdict,
        reason,
        divergence,
        is_check,
    )


async def list_replays(pool: Pool, original: uuid.UUID, limit: int) -> list[ReplayFound]:
    """Return what replays of an execution have shown, the latest first."""
    async with pool.acquire() as connection:
        rows = await connection.fetch(QUERIES.list_replays, original, limit)
    return [ReplayFound(**dict(row.items())) for row in rows]


async def list_unchecked(pool: Pool, since: datetime, deployment: str, limit: int) -> Sequence[uuid.UUID]:
    """Return some whole executions of a deployment that were never replayed on it, in no order."""
    async with pool.acquire() as connection:
        rows = await connection.fetch(QUERIES.list_unchecked, since, deployment, limit)
    return [row["id"] for row in rows]


async def count_checks(pool: Pool, since: datetime) -> CheckCount:
    """Return what Flux's own checks have shown since an instant."""
    async with pool.acquire() as connection:
        row = await connection.fetch_row(QUERIES.count_checks, since)
    assert row is not None, "a count has a row"
    return CheckCount(row["count"], row["escaped"])
