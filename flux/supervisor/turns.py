"""The turns in which executions of several tenants run, and what a tenant may not have more of.

Without tenants nobody waits here. With them an execution begins when it has a turn (`flux.fair`): of all tenants
together `TURNS_MAX` run at once, of one as many as its quota says; some turns are kept for each, so that executions
that last, whoever's they are, never keep a tenant out that has none. A request waits for its turn as long as its
function may run; when too many wait already, or the tenant's storage is used up, it is refused at once with 503, and
when its processor time is, with 429. What is refused is on record nowhere, as nothing of it has run; it is counted by
the quota's name. Jobs wait for as long as it takes.

What an execution invokes runs in its own turn: were it to wait for another, all turns could be held by executions that
wait for one.
"""

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterator

import attrs
import trio

from flux.cpu_budget import CpuBudget
from flux.errors import OperatorError
from flux.execution import Trigger
from flux.fair import FairQueue, ShareBounds, ShareUse, Turn
from flux.store.tenants import Quotas
from flux.supervisor.execute import Audience, Backing, Executed, Executor
from flux.supervisor.job_attempt import JobAttempt
from flux.supervisor.other_functions import NOBODY, Cause
from flux.supervisor.runnable import Runnable
from flux.supervisor.spool import Spool

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
    status = 503
    retry_s = 5.0
    """After how long it may be asked again: nobody knows when a turn ends, so that is a guess."""

    def __init__(self, quota: str, message: str, *, remedy: str) -> None:
        """``quota`` names which one."""
        super().__init__(message, remedy=remedy)
        self.quota = quota


class CpuQuotaError(QuotaError):
    """A tenant has used the processor time that its quota gives."""

    code = "FLX730"
    status = 429

    def __init__(self, spent_s: float, s_per_minute: float, wait_s: float) -> None:
        super().__init__(
            "cpu",
            f"the quota of processor time is used up: {spent_s:.1f} of {s_per_minute:g} s in a minute",
            remedy=f"ask again in {math.ceil(wait_s)} s, or ask for a larger quota",
        )
        self.retry_s = wait_s


class Turns:
    """Hands them out. One for a server, its tenants included."""

    def __init__(self, turns_max: int = TURNS_MAX) -> None:
        """``turns_max`` counts once there are tenants."""
        self._turns_max = turns_max
        self._queue = FairQueue(_UNBOUNDED)
        self._asked: dict[Turn, _Asked] = {}
        self._tenants = 0
        self._queue.add_share(_OWN, ShareBounds())
        self.own = Share(self, _OWN)
        """Of the installation's own project."""

    @contextlib.contextmanager
    def opened(self, tenant: str, quotas: Quotas) -> Iterator["Share"]:
        """Give a tenant a share, for as long as the block lasts."""
        self._queue.add_share(tenant, _bounds(quotas))
        self._tenants += 1
        self._count_turns()
        share = Share(self, tenant)
        share.set_quotas(quotas)
        try:
            yield share
        finally:
            # Requests that were taken before are the gateway's, and some may still be on their way here.
            share.close("stopped", "its server has ended")
            self._queue.remove_share(tenant)
            self._tenants -= 1
            self._count_turns()
            self._grant()

    def set_quotas(self, share: str, quotas: Quotas) -> None:
        """Change what a share may have."""
        self._queue.set_bounds(share, _bounds(quotas))
        for turn, asked in self._asked.items():
            if turn.share == share and turn.memory_bytes > quotas.memory_bytes:
                asked.heard.set()  # It has its turn already, or can't have one any more, and is in the others' way.
        self._grant()

    def get_use(self, share: str) -> ShareUse:
        """Return what a share has."""
        return self._queue.get_use(share)

    def ask(self, share: str, memory_bytes: int) -> "_Asked":
        """Ask for a turn, which lasts until `end`."""
        asked = _Asked(self._queue.ask(share, memory_bytes))
        self._asked[asked.turn] = asked
        self._grant()
        return asked

    def end(self, asked: "_Asked") -> None:
        """End a turn, or give up waiting for it."""
        self._queue.end(asked.turn)
        del self._asked[asked.turn]
        self._grant()

    def _count_turns(self) -> None:
        """Two for each share at least, the installation's own included: else none could be kept."""
        most = max(self._turns_max, 2 * (self._tenants + 1)) if self._tenants else _UNBOUNDED
        self._queue.set_turns_max(most)

    def _grant(self) -> None:
        for turn in self._queue.grant():
            self._asked[turn].heard.set()


@attrs.frozen(eq=False)
class _Asked:
    """Somebody who has asked for a turn."""

    turn: Turn
    heard: trio.Event = attrs.field(factory=trio.Event)
    """Set when it is granted, or never will be."""


def _bounds(quotas: Quotas) -> ShareBounds:
    return ShareBounds(quotas.weight, quotas.concurrency, quotas.memory_bytes)


class Share:
    """The turns of one tenant."""

    def __init__(self, turns: Turns, name: str) -> None:
        self._turns = turns
        self._name = name
        self._quotas: Quotas | None = None
        self._cpu: CpuBudget | None = None
        self._closed_by = self._closed = ""
        self._changed = trio.Event()
        """Set, and replaced, when it is opened or its quotas change."""
        self.refused: Counter[str] = Counter()
        """Requests that were refused, by the quota that they met."""

    def set_quotas(self, quotas: Quotas) -> None:
        """Change what it may have, from now on."""
        self._quotas = quotas
        self._turns.set_quotas(self._name, quotas)
        s_per_minute, now = (quotas.cpu_ms_per_minute or 0) / 1000, trio.current_time()
        if not s_per_minute:
            self._cpu = None
        elif self._cpu is None:
            self._cpu = CpuBudget(s_per_minute, now)
        else:
            self._cpu.set_quota(s_per_minute, now)
        self._tell()

    def charge_cpu(self, used_s: float) -> None:
        """Processor time was used."""
        if self._cpu is not None:
            self._cpu.charge(used_s, trio.current_time())

    def get_use(self) -> ShareUse:
        """Return what it has."""
        return self._turns.get_use(self._name)

    def find_cpu_spent_s(self) -> float | None:
        """Return what is used of the quota of processor time; None without one."""
        return None if self._cpu is None else self._cpu.get_spent_s(trio.current_time())

    def close(self, quota: str, reason: str) -> None:
        """Give no more turns: requests hear ``reason``, jobs wait."""
        self._closed_by, self._closed = quota, reason

    def open(self) -> None:
        """Give turns again."""
        self._closed = ""
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def taken(self, memory_bytes: int, wait_s: float) -> "_Taken":
        """Have a turn for as long as the block lasts.

        To enter it raises `QuotaError` when there is none within ``wait_s``, which may be for ever.
        """
        return _Taken(self, memory_bytes, wait_s)

    async def take(self, memory_bytes: int, wait_s: float) -> "_Asked":
        """Wait for a turn, which lasts until `end`; raise `QuotaError`."""
        try:
            self._check_memory(memory_bytes)
            if math.isinf(wait_s):
                await self._wait_open()
            else:
                self._check_open()
            # Nothing waits between that and the question: a share that is closed is not asked.
            asked = self._turns.ask(self._name, memory_bytes)
            try:
                await self._wait_granted(asked, memory_bytes, wait_s)
            except BaseException:
                self._turns.end(asked)
                raise
        except QuotaError as error:
            self.refused[error.quota] += 1
            raise
        return asked

    def end(self, asked: "_Asked") -> None:
        """End a turn."""
        self._turns.end(asked)

    async def _wait_granted(self, asked: "_Asked", memory_bytes: int, wait_s: float) -> None:
        if asked.turn.is_granted:
            return
        with trio.move_on_after(wait_s):
            await asked.heard.wait()
        if not asked.turn.is_granted:
            self._check_memory(memory_bytes)
            raise QuotaError("turns", f"no turn within {wait_s:g} s: too much runs already", remedy="ask again later")

    def _check_memory(self, memory_bytes: int) -> None:
        if self._quotas is not None and memory_bytes > self._quotas.memory_bytes:
            raise QuotaError(
                "memory",
                f"the function's memory limit, {memory_bytes:,} bytes, is above what its tenant may have",
                remedy="lower memory under [limits] in flux.toml, or ask for a larger quota",
            )

    def _check_open(self) -> None:
        if self._closed:
            raise QuotaError(self._closed_by, self._closed, remedy="make room, or ask for a larger quota")
        if self._cpu is not None and (wait_s := self._cpu.get_wait_s(trio.current_time())):
            raise CpuQuotaError(self._cpu.get_spent_s(trio.current_time()), self._cpu.s_per_minute, wait_s)
        if self._turns.get_use(self._name).waiting >= WAITING_MAX:
            raise QuotaError("turns", "too many requests wait already", remedy="ask again later")

    async def _wait_open(self) -> None:
        while True:
            wait_s = 0.0 if self._cpu is None else self._cpu.get_wait_s(trio.current_time())
            if not self._closed and not wait_s:
                return
            changed = self._changed
            with trio.move_on_after(wait_s or math.inf):
                await changed.wait()


class _Taken:
    """A block that has a turn. A class and no generator, as each execution has one."""

    __slots__ = ("_asked", "_memory_bytes", "_share", "_wait_s")

    def __init__(self, share: Share, memory_bytes: int, wait_s: float) -> None:
        self._share = share
        self._memory_bytes = memory_bytes
        self._wait_s = wait_s
        self._asked: _Asked | None = None

    async def __aenter__(self) -> None:
        self._asked = await self._share.take(self._memory_bytes, self._wait_s)

    async def __aexit__(self, *_failure: object) -> None:
        assert self._asked is not None
        self._share.end(self._asked)


class FairExecutor(Executor):
    """Runs functions, each execution in a turn."""

    def __init__(
        self, backing: Backing, audience: Audience, report: Callable[[BaseException], None], share: Share
    ) -> None:
        super().__init__(backing, audience, report)
        self._share = share

    async def execute(
        self,
        runnable: Runnable,
        trigger: Trigger,
        value: object,
        cause: Cause = NOBODY,
        upload: Spool | None = None,
    ) -> Executed:
        """See `Executor.execute`; raises `QuotaError` when it gets no turn: then nothing ran."""
        if cause.parent is not None:  # It has its caller's.
            return await super().execute(runnable, trigger, value, cause, upload)
        limits = runnable.bounds.limits
        async with self._share.taken(limits.memory_bytes_max, limits.timeout_s):
            return await super().execute(runnable, trigger, value, cause, upload)

    async def execute_job(self, runnable: Runnable, trigger: Trigger, value: object, job: JobAttempt) -> Executed:
        """See `Executor.execute_job`."""
        memory_bytes = runnable.bounds.limits.memory_bytes_max
        async with self._share.taken(memory_bytes, math.inf):
            return await super().execute_job(runnable, trigger, value, job)
