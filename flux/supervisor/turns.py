"""The turns in which executions of several tenants run, and what a tenant may not have more of.

Without tenants nobody waits here. With them an execution begins when it has a turn (`flux.fair`): of all tenants
together `TURNS_MAX` run at once, of one as many as its quota says; some turns are kept for each, so that executions
that last, whoever's they are, never keep a tenant out that has none. A request waits for its turn as long as its
function may run; when too many wait already, or the tenant's storage is used up, it is refused at once with 503, and on
record nowhere: nothing of it has run. Jobs wait for as long as it takes.

What an execution invokes runs in its own turn: were it to wait for another, all turns could be held by executions that
wait for one.
"""

import contextlib
import math
from collections.abc import AsyncIterator, Callable, Iterator

import trio

from flux.errors import OperatorError
from flux.execution import Trigger
from flux.fair import FairQueue, ShareBounds, Turn
from flux.store.tenants import Quotas
from flux.supervisor.execute import Audience, Backing, Executed, Executor
from flux.supervisor.job_attempt import JobAttempt
from flux.supervisor.other_functions import NOBODY, Cause
from flux.supervisor.runnable import Runnable

TURNS_MAX = 64
"""Executions at once, of all tenants together: more where there are more than `TURNS_MAX / 2` tenants, two for each.
One that waits for a database or another service has its turn too."""
WAITING_MAX = 512
"""Requests of one tenant that wait for a turn; more are refused."""


_OWN = ""
"""The share of the installation's own project: no tenant has this name."""
_UNBOUNDED = 2**62


class QuotaError(OperatorError):
    """A tenant has all that its quota gives."""

    code = "FLX816"
    exit_code = 1


class Turns:
    """Hands them out. One for a server, its tenants included."""

    def __init__(self, turns_max: int = TURNS_MAX) -> None:
        """``turns_max`` counts once there are tenants."""
        self._turns_max = turns_max
        self._queue = FairQueue(_UNBOUNDED)
        self._began: dict[Turn, trio.Event] = {}
        self._tenants = 0
        self._queue.add_share(_OWN, ShareBounds())
        self.own = Share(self, _OWN)
        """Of the installation's own project."""

    @contextlib.contextmanager
    def opened(self, tenant: str, quotas: Quotas) -> Iterator["Share"]:
        """Give a tenant a share, for as long as the block lasts."""
        bounds = ShareBounds(quotas.weight, quotas.concurrency, quotas.memory_bytes)
        self._queue.add_share(tenant, bounds)
        self._tenants += 1
        self._count_turns()
        share = Share(self, tenant, quotas.memory_bytes)
        try:
            yield share
        finally:
            # Requests that were taken before are the gateway's, and some may still be on their way here.
            share.close("its server has ended")
            self._queue.remove_share(tenant)
            self._tenants -= 1
            self._count_turns()
            self._grant()

    def count_waiting(self, share: str) -> int:
        """Return how many wait in a share."""
        return self._queue.count_waiting(share)

    @contextlib.contextmanager
    def asked(self, share: str, memory_bytes: int) -> Iterator[trio.Event]:
        """Ask for a turn, which lasts to the end of the block; the event is set when it begins."""
        turn = self._queue.ask(share, memory_bytes)
        self._began[turn] = trio.Event()
        try:
            self._grant()
            yield self._began[turn]
        finally:
            self._queue.end(turn)
            del self._began[turn]
            self._grant()

    def _count_turns(self) -> None:
        """Two for each share at least, the installation's own included: else none could be kept."""
        most = max(self._turns_max, 2 * (self._tenants + 1)) if self._tenants else _UNBOUNDED
        self._queue.set_turns_max(most)

    def _grant(self) -> None:
        for turn in self._queue.grant():
            self._began[turn].set()


class Share:
    """The turns of one tenant."""

    def __init__(self, turns: Turns, name: str, memory_bytes_max: int | None = None) -> None:
        self._turns = turns
        self._name = name
        self._memory_bytes_max = memory_bytes_max
        self._closed = ""
        self._opened = trio.Event()
        self._opened.set()

    def close(self, reason: str) -> None:
        """Give no more turns: requests hear ``reason``, jobs wait."""
        if not self._closed:
            self._opened = trio.Event()
        self._closed = reason

    def open(self) -> None:
        """Give turns again."""
        self._closed = ""
        self._opened.set()

    @contextlib.asynccontextmanager
    async def taken(self, memory_bytes: int, wait_s: float) -> AsyncIterator[None]:
        """Have a turn; raise `QuotaError` when there is none within ``wait_s``, which may be for ever."""
        is_patient = math.isinf(wait_s)
        if self._memory_bytes_max is not None and memory_bytes > self._memory_bytes_max:
            raise QuotaError(
                f"the function's memory limit, {memory_bytes:,} bytes, is above what its tenant may have",
                remedy="lower memory under [limits] in flux.toml, or ask for a larger quota",
            )
        if self._closed and not is_patient:
            raise QuotaError(self._closed, remedy="make room, or ask for a larger quota")
        if not is_patient and self._turns.count_waiting(self._name) >= WAITING_MAX:
            raise QuotaError("too many requests wait already", remedy="ask again later")
        if is_patient:
            await self._opened.wait()
        # Nothing waits between that and the question: a share that is closed is not asked.
        with self._turns.asked(self._name, memory_bytes) as began:
            with trio.move_on_after(wait_s):
                await began.wait()
            if not began.is_set():
                raise QuotaError(f"no turn within {wait_s:g} s: too much runs already", remedy="ask again later")
            yield


class FairExecutor(Executor):
    """Runs functions, each execution in a turn."""

    def __init__(
        self, backing: Backing, audience: Audience, report: Callable[[BaseException], None], share: Share
    ) -> None:
        super().__init__(backing, audience, report)
        self._share = share

    async def execute(
        self, runnable: Runnable, trigger: Trigger, value: object, cause: Cause = NOBODY
    ) -> Executed:
        """See `Executor.execute`; raises `QuotaError` when it gets no turn: then nothing ran."""
        if cause.parent is not None:  # It has its caller's.
            return await super().execute(runnable, trigger, value, cause)
        limits = runnable.bounds.limits
        async with self._share.taken(limits.memory_bytes_max, limits.timeout_s):
            return await super().execute(runnable, trigger, value, cause)

    async def execute_job(self, runnable: Runnable, trigger: Trigger, value: object, job: JobAttempt) -> Executed:
        """See `Executor.execute_job`."""
        memory_bytes = runnable.bounds.limits.memory_bytes_max
        async with self._share.taken(memory_bytes, math.inf):
            return await super().execute_job(runnable, trigger, value, job)
