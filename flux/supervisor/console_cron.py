"""The console's questions about schedules: which there are, what became of their ticks, pausing and resuming them."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from flux.errors import OperatorError
from flux.schedule import CatchUp, Schedule, find_next
from flux.store import cron
from flux.store.cron import ScheduleFound, TickFound
from flux.store.postgres import Pool
from flux.supervisor.console_query import Query, number
from flux.supervisor.present import Document, show_moment

HISTORY_DEFAULT = 20
HISTORY_MAX = 1000


class NoSuchScheduleError(OperatorError):
    """No schedule is of a function of this name."""

    code = "FLX599"
    exit_code = 3


class CronDesk:
    """Answers them, for one tenant."""

    def __init__(
        self, pool: Pool, tenant: str, now: Callable[[], datetime], register: Callable[[], Awaitable[None]]
    ) -> None:
        """``register`` has the schedules of the code that is served in the database, where they are not yet."""
        self._pool = pool
        self._tenant = tenant
        self._now = now
        self._register = register

    async def list_schedules(self, _query: Query) -> Document:
        """Return all schedules."""
        return self._document(await self._list())

    async def pause(self, function: str) -> Document:
        """Let the ticks of a function pass."""
        await self._check(function)
        await cron.pause(self._pool, self._tenant, function)
        return await self._show(function)

    async def resume(self, function: str) -> Document:
        """Run the ticks of a function again, from now on."""
        await self._check(function)
        await cron.resume(self._pool, self._tenant, function, self._now().astimezone(UTC))
        return await self._show(function)

    async def history(self, function: str, query: Query) -> Document:
        """Return what became of the ticks of a function, the latest first. It may have no schedule any more."""
        ticks = await cron.list_ticks(
            self._pool, self._tenant, function, number(query, "n", HISTORY_DEFAULT, HISTORY_MAX)
        )
        if not ticks:
            await self._check(function)
        return {
            "schema": "flux.cron-history/1",
            "function": function,
            "ticks": [{"schedule": tick.schedule, "time_zone": tick.time_zone, **_tick_json(tick)} for tick in ticks],
        }

    async def _list(self) -> list[ScheduleFound]:
        await self._register()
        return await cron.list_schedules(self._pool, self._tenant)

    async def _show(self, function: str) -> Document:
        found = await self._list()
        return self._document([each for each in found if each.function == function])

    async def _check(self, function: str) -> None:
        found = await self._list()
        names = sorted({each.function for each in found})
        if function not in names:
            raise NoSuchScheduleError(
                f'no schedule is of "{function[:200]}"; there is {", ".join(names) or "none"}', remedy="flux cron list"
            )

    def _document(self, found: list[ScheduleFound]) -> Document:
        now = self._now().astimezone(UTC)
        return {"schema": "flux.cron/1", "schedules": [_schedule_json(each, now) for each in found]}


def _schedule_json(found: ScheduleFound, now: datetime) -> Document:
    schedule = Schedule(found.function, found.schedule, found.time_zone, CatchUp.ONE)
    due = None if found.paused_at is not None else find_next(schedule, now)
    return {
        "function": found.function,
        "schedule": found.schedule,
        "time_zone": found.time_zone,
        "next": None if due is None else show_moment(due),
        "paused_at": None if found.paused_at is None else show_moment(found.paused_at),
        "last": None if found.last is None else _tick_json(found.last),
    }


def _tick_json(found: TickFound) -> Document:
    return {
        "tick": show_moment(found.tick),
        "fate": found.fate.value,
        "left_out": found.left_out,
        "state": found.state,
        "execution": found.execution_name,
        "status": found.status,
        "outcome": found.outcome,
    }
