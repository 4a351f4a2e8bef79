"""The queue's tables: claiming jobs, ending them, and showing them to people.

Everything here is over connections of Flux's own role. That a job is done is said elsewhere, too: inside the
transaction of the attempt that did it (``QUERIES.commit_job_record``).
"""

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime

import attrs

from flux.errors import OperatorError
from flux.jobs import LOST_MAX, Fate, State
from flux.store.postgres import Connection, Pool, Row
from flux.store.queries import QUERIES
from flux.trace_context import TRACEPARENT, TRACESTATE, Fields

CHANNEL = "flux_job"
"""What is notified of each push, with its COMMIT."""
CLAIM_S_MAX = 30.0
"""How long claiming may take; nobody else claims meanwhile."""
ERROR_CHARACTERS_MAX = 500
AMBIGUOUS_SHOWN = 5


class NoSuchJobError(OperatorError):
    """No job, or more than one, has an id that begins so."""

    code = "FLX576"
    exit_code = 3


class JobNotDeadError(OperatorError):
    """A job was to be retried by hand that is not dead."""

    code = "FLX577"


@attrs.frozen
class Claimed:
    """A job that is a supervisor's to run."""

    id: uuid.UUID
    function: str
    payload: bytes
    """JSON."""
    parent: uuid.UUID | None
    """The execution that pushed it."""
    parent_call: int | None
    """And the host call."""
    attempt: int
    """Number of the attempt that it was claimed for, from 1."""
    failures: int
    lost: int
    """See `flux.jobs.Tries`."""
    tick: datetime | None = None
    """The time for which a schedule made it; None: a function pushed it."""
    traceparent: str | None = None
    """What tells its attempts which trace they belong to; None: nobody pushed it, or an older Flux did."""
    tracestate: str | None = None
    """What came with that."""

    @property
    def trace(self) -> Fields:
        """Return the two as header fields."""
        said = ((TRACEPARENT, self.traceparent), (TRACESTATE, self.tracestate))
        return tuple((name, value) for name, value in said if value is not None)


@attrs.frozen
class Job:
    """A job as people see it; its payload is not."""

    id: uuid.UUID
    function: str
    state: State
    attempt: int
    """Runs so far, the present one included."""
    failures: int
    lost: int
    pushed_at: datetime
    run_at: datetime
    """When it is due, or was."""
    claimed_at: datetime | None
    ended_at: datetime | None
    error: str | None
    """How its last attempt failed."""
    parent: uuid.UUID | None
    parent_name: str | None
    """Name of the execution that pushed it; None when its record is gone, or not stored yet."""
    parent_call: int | None
    execution_name: str | None
    """Name of the last attempt that has ended."""
    has_key: bool
    """It was pushed with an idempotency key."""


@attrs.frozen
class Depth:
    """What the queue holds of one function, but what is done."""

    function: str
    due: int
    delayed: int
    """Jobs that wait for their time."""
    running: int
    dead: int
    oldest_due_s: float
    """For how long the job has been due that has been due longest; 0: none is."""


def hash_key(key: str | None) -> bytes | None:
    """Return what stands for an idempotency key in the table: it may hold what nobody else is to read."""
    return None if key is None else hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


async def claim(
    connection: Connection, tenant: str, most: Mapping[str, int | None], count_max: int, worker: uuid.UUID
) -> list[Claimed]:
    """Claim jobs of the functions in ``most``, which says how many of each may run at once, None for any number."""
    # Left open on a line that is dead, it would keep every server from claiming.
    async with connection.transaction(most_s=CLAIM_S_MAX):
        if any(limit is not None for limit in most.values()):
            await connection.fetch_value(QUERIES.lock_job_claims, tenant)
        rows = await connection.fetch(
            QUERIES.claim_jobs, tenant, list(most), list(most.values()), count_max, worker
        )
    return [Claimed(**dict(row.items())) for row in rows]


async def settle(
    connection: Connection, job: Claimed, worker: uuid.UUID, fate: Fate, execution: uuid.UUID | None, error: str | None
) -> bool:
    """Say what becomes of ``job``; False: somebody else has it by now."""
    found = await connection.fetch_value(
        QUERIES.settle_job, job.id, worker, job.attempt, fate.state.value, fate.delay_s, fate.failures, fate.lost,
        execution, error,
    )  # fmt: skip
    return found is not None


async def take_over(pool: Pool, tenant: str) -> int:
    """Give back what supervisors ran that have ended; return how many jobs that were."""
    async with pool.acquire() as connection:
        return len(await connection.fetch(QUERIES.take_over_jobs, tenant, LOST_MAX))


async def list_jobs(
    pool: Pool, tenant: str, states: Sequence[State], function: str | None, limit: int
) -> list[Job]:
    """Return jobs in ``states``, the latest first."""
    async with pool.acquire() as connection:
        rows = await connection.fetch(
            QUERIES.list_jobs, tenant, [state.value for state in states], function, limit
        )
    return [_read(row) for row in rows]


async def list_depths(pool: Pool, tenant: str) -> list[Depth]:
    """Return what the queue holds that is not done, by function."""
    async with pool.acquire() as connection:
        rows = await connection.fetch(QUERIES.list_queue_depths, tenant)
    return [Depth(**dict(row.items())) for row in rows]


async def count_jobs(pool: Pool, tenant: str) -> dict[State, int]:
    """Return how many jobs there are in each state, all states named."""
    async with pool.acquire() as connection:
        rows = await connection.fetch(QUERIES.count_jobs, tenant)
    counts = {row["state"]: int(row["count"]) for row in rows}
    return {state: counts.get(state.value, 0) for state in State}


async def list_jobs_of(pool: Pool, parent: uuid.UUID, limit: int) -> list[Job]:
    """Return the jobs that an execution has pushed, in their order."""
    async with pool.acquire() as connection:
        rows = await connection.fetch(QUERIES.list_jobs_of_parent, parent, limit)
    return [_read(row) for row in rows]


async def find_job(pool: Pool, tenant: str, text: str) -> Job:
    """Return the job whose id is ``text`` or begins so; raise `NoSuchJobError`."""
    digits = text.lower().replace("-", "")
    if not (0 < len(digits) <= 32 and all(digit in "0123456789abcdef" for digit in digits)):
        raise NoSuchJobError(
            f'"{text[:100]}" is not the id of a job, nor the beginning of one', remedy="flux queue list"
        )
    first, last = uuid.UUID(digits.ljust(32, "0")), uuid.UUID(digits.ljust(32, "f"))
    async with pool.acquire() as connection:
        rows = await connection.fetch(QUERIES.find_jobs, tenant, first, last)
    if not rows:
        raise NoSuchJobError(f'no job has an id that begins with "{text}"', remedy="flux queue list")
    if len(rows) > 1:
        shown = ", ".join(str(row["id"]) for row in rows[:AMBIGUOUS_SHOWN])
        raise NoSuchJobError(
            f'more than one job has an id that begins with "{text}": {shown}', remedy="type more of it"
        )
    return _read(rows[0])


async def retry(pool: Pool, tenant: str, job: Job) -> None:
    """Have a dead job run again; raise `JobNotDeadError`."""
    async with pool.acquire() as connection:
        if await connection.fetch_value(QUERIES.retry_job, tenant, job.id) is None:
            raise JobNotDeadError(
                f"job {job.id} is {job.state.value}, and only a dead one is retried by hand",
                remedy="flux queue dead-letter lists those",
            )


def _read(row: Row) -> Job:
    values = dict(row.items())
    return Job(**{**values, "state": State(values["state"])})
