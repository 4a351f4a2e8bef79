"""The console's questions about the queue: what waits, runs and failed, and having a dead job run again."""

from collections.abc import Sequence

from flux.jobs import State
from flux.store import jobs
from flux.store.jobs import Depth, Job
from flux.store.postgres import Pool
from flux.supervisor.console_query import BadQueryError, Query, number
from flux.supervisor.present import Document, show_moment

LIST_DEFAULT = 50
LIST_MAX = 1000
UNFINISHED = (State.WAITING, State.RUNNING, State.DEAD)
"""What is listed unless a state is asked for: what is done is an execution like any other."""


class QueueDesk:
    """Answers them, for one tenant."""

    def __init__(self, pool: Pool, tenant: str) -> None:
        self._pool = pool
        self._tenant = tenant

    async def list_jobs(self, query: Query) -> Document:
        """Return jobs and how many there are."""
        limit = number(query, "n", LIST_DEFAULT, LIST_MAX)
        found = await jobs.list_jobs(self._pool, self._tenant, _read_states(query), query.get("function"), limit)
        counts = await jobs.count_jobs(self._pool, self._tenant)
        depths = await jobs.list_depths(self._pool, self._tenant)
        return {
            "schema": "flux.queue/1",
            "jobs": [job_json(job) for job in found],
            "counts": {state.value: count for state, count in counts.items()},
            "functions": [_depth_json(depth) for depth in depths],
        }

    async def retry(self, text: str) -> Document:
        """Have a dead job run again."""
        job = await jobs.find_job(self._pool, self._tenant, text)
        await jobs.retry(self._pool, self._tenant, job)
        return {
            "schema": "flux.job/1",
            "job": job_json(await jobs.find_job(self._pool, self._tenant, str(job.id))),
        }


def _read_states(query: Query) -> Sequence[State]:
    text = query.get("state")
    if text is None:
        return UNFINISHED
    if text == "all":
        return tuple(State)
    if text not in tuple(State):
        raise BadQueryError(f'state is "{text}"', remedy=f"write {', '.join(State)} or all")
    return (State(text),)


def _depth_json(depth: Depth) -> Document:
    return {
        "function": depth.function,
        "due": depth.due,
        "delayed": depth.delayed,
        "running": depth.running,
        "dead": depth.dead,
        "oldest_due_ms": round(depth.oldest_due_s * 1000, 1),
    }


def job_json(job: Job) -> Document:
    """Return a job; its payload is shown by its executions alone, where it is redacted."""
    return {
        "id": str(job.id),
        "function": job.function,
        "state": job.state.value,
        "attempt": job.attempt,
        "failures": job.failures,
        "lost": job.lost,
        "pushed_at": show_moment(job.pushed_at),
        "run_at": show_moment(job.run_at),
        "claimed_at": None if job.claimed_at is None else show_moment(job.claimed_at),
        "ended_at": None if job.ended_at is None else show_moment(job.ended_at),
        "error": job.error,
        "has_key": job.has_key,
        "cause": None
        if job.parent is None
        else {"execution": job.parent_name, "id": str(job.parent), "call": job.parent_call},
        "execution": job.execution_name,
    }
