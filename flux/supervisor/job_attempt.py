"""One attempt at a job: whose it is, and what becomes of the job with the attempt's record.

The record of an attempt and the job's end are stored in one transaction, always. Where the attempt has written
something, that is its own transaction, and `JobAttempt.parameters` go with its record into it. Else `store` makes one.
Both are refused when somebody else has the job by now; then the attempt is one that failed, whatever it did.
"""

import uuid
from collections.abc import Callable

from flux import calls
from flux.execution import Execution, Interrupted, Raised, Returned
from flux.failure import Kind, find_failure
from flux.jobs import Ending, Fate, State, Tries, decide_fate
from flux.store.jobs import ERROR_CHARACTERS_MAX, Claimed, settle
from flux.store.postgres import CannotConnect, CommitUnknown, Connection, ConnectionLost, Pool, PoolClosed
from flux.store.records import Record, RecordStore, make_storable


class _TakenOverError(Exception):
    """The job is somebody else's: nothing is to be stored."""


class JobAttempt:
    """See the module."""

    def __init__(
        self,
        claimed: Claimed,
        worker: uuid.UUID,
        retries: int,
        owner: Pool,
        chance: float,
        is_given_up: Callable[[Execution], bool],
    ) -> None:
        """``is_given_up`` says whether the database ended an execution for another's sake; ``chance`` is from 0 to 1.
        """
        self.claimed = claimed
        self._worker = worker
        self._retries = retries
        self._owner = owner
        self._chance = chance
        self._is_given_up = is_given_up
        self.is_settled = False
        """What becomes of the job is stored, or it is somebody else's."""

    @property
    def parameters(self) -> tuple[object, ...]:
        """What ``QUERIES.commit_job_record`` takes behind the record's own parameters."""
        return self.claimed.id, self._worker, self.claimed.attempt

    async def store(
        self, execution: Execution, record: Record, over: Pool | None = None, most_s: float | None = None
    ) -> bool:
        """Store the record and what becomes of the job; False, and neither, when somebody else has the job.

        ``record`` is that of ``execution``. ``over`` another pool than its own; ``most_s`` as of `RecordStore.insert`.
        """
        fate = self._decide(execution)
        failure = find_failure(execution) if fate.state is not State.DONE else None
        error = None if failure is None else make_storable(f"{failure.type}: {failure.message}"[:ERROR_CHARACTERS_MAX])

        async def settle_job(connection: Connection) -> None:
            if not await settle(connection, self.claimed, self._worker, fate, execution.id, error):
                raise _TakenOverError

        try:
            # A record that is there already came with the job's end: its COMMIT was not answered the first time.
            await RecordStore(over or self._owner).insert(record, settle_job, most_s=most_s)
        except _TakenOverError:
            self.is_settled = True
            return False
        self.is_settled = True
        return True

    async def give_back(self, delay_s: float, error: str) -> None:
        """Have the job run again, since nothing became of the attempt."""
        fate = decide_fate(Ending.LOST, self._tries, self._retries, self._chance)
        async with self._owner.acquire() as connection:
            await settle(
                connection, self.claimed, self._worker, Fate(fate.state, delay_s, lost=1), None, make_storable(error)
            )
        self.is_settled = True

    @property
    def _tries(self) -> Tries:
        return Tries(self.claimed.failures, self.claimed.lost)

    def _decide(self, execution: Execution) -> Fate:
        return decide_fate(self._find_ending(execution), self._tries, self._retries, self._chance)

    def _find_ending(self, execution: Execution) -> Ending:
        match execution.outcome:
            case Returned():
                return Ending.COMMITTED
            case Interrupted():
                return Ending.LOST
        if self._is_given_up(execution):
            return Ending.GIVEN_UP
        failure = find_failure(execution)
        if failure is not None and failure.kind is Kind.HOST_ERROR:
            return Ending.LOST
        return Ending.LOST if _has_lost_the_database(execution) else Ending.FAILED


_OF_CONNECTIONS = (CannotConnect.code, ConnectionLost.code, CommitUnknown.code, PoolClosed.code)


def _has_lost_the_database(execution: Execution) -> bool:
    """Whether its connection broke, or none was to be had: then nothing could be committed, whatever it raised."""
    errors = [error for call in execution.calls if (error := calls.find_error(call)) is not None]
    if any(error.name == "DatabaseError" and error.code in _OF_CONNECTIONS for error in errors):
        return True
    outcome = execution.outcome
    if not isinstance(outcome, Raised) or outcome.type != "CommitFailed":
        return False
    return outcome.message.startswith(tuple(f"ERROR {code}" for code in _OF_CONNECTIONS))
