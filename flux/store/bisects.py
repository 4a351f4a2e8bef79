"""What recorded executions did on commits, kept so that a second bisect runs nothing again.

A run is known by what it ran: the recording, the files, and what ran them. Commits that change none of the files
that are deployed share their runs. Only what would come out again is kept: whoever adds a run decides that.
"""

import uuid
from collections.abc import Sequence

import attrs

from flux.store.erasures import is_as_of
from flux.store.postgres import Pool
from flux.store.queries import QUERIES


@attrs.frozen
class RunKey:
    """What is known of a run before it is made."""

    original: uuid.UUID
    """The execution that is replayed."""
    source: str
    """Stands for the files of the commit, and those that were laid over it."""
    runtime: str
    """What runs them, and behind which walls."""
    run: int
    """Which run of the same it is, from 1."""


@attrs.frozen
class BisectRun:
    """What came out."""

    code: str | None
    """Stands for what was deployed of the files; None when nothing was."""
    verdict: str
    reason: str
    replay: str | None
    """Name of the replay's own execution; None when none was made."""
    elapsed_ns: int
    document: str | None
    """JSON: the replay as the console answers it."""


@attrs.frozen
class PassingSha:
    """A commit on which a function passed."""

    sha: str
    name: str
    """Of the latest execution that did."""


async def find_run(pool: Pool, key: RunKey, code: str | None = None) -> BisectRun | None:
    """Return the run of the same files, or with ``code`` of files of which the same was deployed; None without one."""
    async with pool.acquire() as connection:
        row = await connection.fetch_row(
            QUERIES.find_bisect_run, key.original, key.source, key.runtime, key.run, code
        )
    return None if row is None else BisectRun(**dict(row.items()))


async def add_run(pool: Pool, key: RunKey, run: BisectRun, tenant: str, erasures: int) -> None:
    """Keep a run; it takes the place of one that is there. Not if a row was forgotten since `count_erasures`: it is
    run again then."""
    async with pool.acquire() as connection, connection.transaction():
        if not await is_as_of(connection, tenant, erasures):
            return
        await connection.execute(
            QUERIES.add_bisect_run,
            *attrs.astuple(key),
            run.code,
            run.verdict,
            run.reason,
            run.replay,
            run.elapsed_ns,
            run.document,
        )


async def list_passing_shas(pool: Pool, function: str, limit: int) -> Sequence[PassingSha]:
    """Return commits on which ``function`` has passed, clean ones, that of the latest execution first."""
    async with pool.acquire() as connection:
        rows = await connection.fetch(QUERIES.list_passing_shas, function, limit)
    return [PassingSha(row["sha"], row["name"]) for row in rows]
