"""Schedules: looking at the clock, and making a job of each tick that is to be run.

`Cron.run` sleeps until the next tick of the code that is current and then asks the database to decide on it
(`flux.store.cron`). All servers of a database do that, and each tick is decided once. What runs is a job of the
queue, so a tick is as safe as a push: it is run by whichever server has room, taken over from one that
dies, and done if and only if its execution was committed.

There is no state here that would be missed: a server that starts again reads up to when all is decided, and goes on
from there.
"""

import contextlib
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime

import trio

from flux import ids
from flux.errors import FluxError
from flux.schedule import Fate, Schedule, find_next
from flux.store import cron
from flux.store.cron import DECIDE_S_MAX
from flux.store.postgres import ConnectionLost
from flux.store.queries import QUERIES
from flux.supervisor.deployments import Deployments, LiveDeployment, list_schedules
from flux.supervisor.execute import Backing

LOOK_S = 1.0
"""How long a change of the code, or of the clock, may go unseen."""
LOOK_BACK_S = 15.0
"""How often we look whether all is decided though our clock says that nothing is due: somebody may have changed it."""
AGAIN_S = 2.0
"""Before the database is asked again that did not answer."""
PRUNE_EVERY_S = 6 * 3600.0


class Cron:
    """See the module."""

    def __init__(
        self,
        backing: Backing,
        deployments: Deployments,
        *,
        report: Callable[[BaseException], None],
        note: Callable[[str], None],
    ) -> None:
        """``report`` hears of failures of Flux itself, ``note`` of what a person may want to know."""
        self._backing = backing
        self._deployments = deployments
        self._report = report
        self._note = note
        self._is_away = False
        """The database has not answered, and that was told."""
        self._turn = trio.Lock()
        """Whoever looks holds it: what is decided is decided on the schedules that were registered last."""
        self._live: LiveDeployment | None = None
        self._schedules: Sequence[Schedule] = ()
        """Those of `_live`."""
        self._next: dict[Schedule, datetime | None] = {}
        """When each is due, as far as we know."""
        self._late: dict[Schedule, None] = {}
        """Those that could not be decided on when it was last tried, which is their order: all others go first."""
        self._looked_s = self._pruned_s = float("-inf")
        self.counts = {fate.value: 0 for fate in Fate}
        """Ticks that were decided on here, by what became of them."""

    async def run(self) -> None:
        """Decide on ticks until cancelled."""
        await self._deployments.wait_current()
        while True:
            is_done = await self._attempt(self._look)
            is_done = await self._attempt(self._prune) and is_done
            if is_done:
                self._is_away = False
            await trio.sleep(LOOK_S if is_done else AGAIN_S)

    async def _attempt(self, do: Callable[[], Awaitable[None]]) -> bool:
        """Do something with the database; False, and told once, when it does not answer."""
        try:
            await do()
        except FluxError as error:
            self._tell_away(f"{error.code} {error.message}")
            return False
        except Exception as crash:
            self._report(crash)
            return False
        return True

    def _tell_away(self, why: str) -> None:
        if not self._is_away:
            self._is_away = True
            self._note(f"schedules wait for the database: {why}")

    async def register(self) -> None:
        """Have the schedules of the code that is current in the database now, and not with the next look.

        For whoever was told that the code is served and asks for its schedules. Raise `FluxError` as the database does.
        """
        async with self._turn:
            await self._register(self._now())

    async def _register(self, now: datetime) -> None:
        live = self._deployments.current
        if live is None or live is self._live:
            return
        schedules = list_schedules(live.config, (runnable.function for runnable in live.runnables.values()))
        with self._within():
            async with self._backing.owner.acquire() as connection:
                await cron.register(connection, self._backing.tenant, schedules, now)
        self._live, self._schedules, self._next, self._late = live, schedules, {}, {}

    async def _look(self) -> None:
        async with self._turn:
            await self._register(self._now())
            if trio.current_time() - self._looked_s >= LOOK_BACK_S:
                self._next, self._looked_s = {}, trio.current_time()
            # So one that can't be decided on, as somebody has locked its row for instance, keeps no others from it.
            for schedule in [each for each in self._schedules if each not in self._late] + list(self._late):
                now = self._now()
                if schedule not in self._next or ((due := self._next[schedule]) is not None and due <= now):
                    await self._decide(schedule, now)
            if self._late:
                raise self._too_slow(f" for {len(self._late)} of {len(self._schedules)} schedules")

    async def _decide(self, schedule: Schedule, now: datetime) -> None:
        self._late.pop(schedule, None)
        self._late[schedule] = None  # Until it is decided on, whatever comes in between.
        with trio.move_on_after(DECIDE_S_MAX):
            async with self._backing.owner.acquire() as connection:
                decision = await cron.decide_due(connection, self._backing.tenant, schedule, now, self._make_id)
            for tick in decision.ticks:
                self.counts[tick.fate.value] += 1
                self.counts[Fate.MISSED.value] += tick.left_out
            self._next[schedule] = find_next(schedule, decision.until)
            del self._late[schedule]

    async def _prune(self) -> None:
        if trio.current_time() - self._pruned_s >= PRUNE_EVERY_S:
            with self._within():
                async with self._backing.owner.acquire() as connection:
                    await connection.execute(QUERIES.prune_cron_ticks, cron.HISTORY_DAYS)
            self._pruned_s = trio.current_time()

    @contextlib.contextmanager
    def _within(self) -> Iterator[None]:
        try:
            with trio.fail_after(DECIDE_S_MAX):
                yield
        except trio.TooSlowError:
            raise self._too_slow() from None

    def _too_slow(self, what: str = "") -> ConnectionLost:
        return ConnectionLost(
            f"{self._backing.owner.options.place} did not answer within {DECIDE_S_MAX:g} s{what}",
            remedy="see whether it runs, and who holds locks; it is asked again and again",
        )

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._backing.clock.now_ns() / 1e9, UTC)

    def _make_id(self) -> uuid.UUID:
        now_ms = self._backing.clock.now_ns() // 1_000_000
        return ids.make_execution_id(now_ms, self._backing.entropy.take(ids.ENTROPY_BYTES))
