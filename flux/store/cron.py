"""The schedules' tables: deciding on ticks, once over all servers, and showing what became of them.

A decision is one transaction: the schedule's row is locked, so servers decide one after the other; the tick's own
row is unique, so even one that came in between would be noticed; and the job is made with it or not at all.
"""

import json
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import attrs

from flux.schedule import Decision, Fate, Schedule, decide
from flux.store.postgres import Connection, Pool
from flux.store.queries import QUERIES

HISTORY_DAYS = 90
"""For so long it is known what became of a tick."""
DECIDE_S_MAX = 30.0
"""How long deciding may take: then the database is asked again, on another line."""


@attrs.frozen
class TickFound:
    """What became of a tick."""

    schedule: str
    time_zone: str
    tick: datetime
    fate: Fate
    left_out: int
    """Ticks before it that were left out and have no row."""
    job: uuid.UUID | None
    state: str | None
    """Of its job: ``waiting``, ``running``, ``done``, ``dead``; None where it was not run."""
    execution_name: str | None
    """Name of the job's last attempt that has ended."""
    status: int | None
    outcome: str | None
    """Of that execution."""


@attrs.frozen
class ScheduleFound:
    """A schedule as the database knows it."""

    function: str
    schedule: str
    time_zone: str
    paused_at: datetime | None
    """Since when the function's schedules are paused; None: they are not."""
    last: TickFound | None
    """What became of its last tick; None: there was none yet."""


async def register(connection: Connection, tenant: str, schedules: Sequence[Schedule], now: datetime) -> None:
    """Say which schedules the code has that is served now. One that is new owes nothing for the time before ``now``."""
    async with connection.transaction(most_s=DECIDE_S_MAX):
        await connection.execute(
            QUERIES.retire_cron_schedules, tenant, [each.function for each in schedules],
            [each.expression for each in schedules], [each.time_zone for each in schedules],
        )  # fmt: skip
        for each in schedules:
            await connection.execute(QUERIES.add_cron_schedule, *_key(tenant, each), now)


async def decide_due(
    connection: Connection, tenant: str, schedule: Schedule, now: datetime, make_id: Callable[[], uuid.UUID]
) -> Decision:
    """Decide what becomes of the ticks of ``schedule`` that have come, and make jobs of those that are to be run."""
    key = _key(tenant, schedule)
    # Left open on a line that is dead, it would keep the schedule from every server.
    async with connection.transaction(most_s=DECIDE_S_MAX):
        found = await connection.fetch_row(QUERIES.lock_cron_schedule, *key)
        if found is None:  # Another server's code had it no more.
            await connection.execute(QUERIES.add_cron_schedule, *key, now)
            return Decision((), now)
        decision = decide(schedule, found["since"], now, is_busy=found["is_busy"], is_paused=found["is_paused"])
        for tick in decision.ticks:
            job = make_id() if tick.fate is Fate.RUN else None
            payload = {"schedule": schedule.expression, "tick": tick.at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}
            await connection.fetch(
                QUERIES.add_cron_tick, *key, tick.at, tick.fate.value, tick.left_out, job, json.dumps(payload).encode()
            )
        await connection.execute(QUERIES.move_cron_schedule, *key, decision.until)
    return decision


async def list_schedules(pool: Pool, tenant: str) -> list[ScheduleFound]:
    """Return all schedules, by function."""
    async with pool.acquire() as connection:
        rows = await connection.fetch(QUERIES.list_cron_schedules, tenant)
    return [
        ScheduleFound(
            row["function"], row["schedule"], row["time_zone"], row["paused_at"],
            None if row["tick"] is None else _read_tick({**dict(row.items()), "job": None}),
        )
        for row in rows
    ]  # fmt: skip


async def list_ticks(pool: Pool, tenant: str, function: str, limit: int) -> list[TickFound]:
    """Return what became of the ticks of a function, the latest first."""
    async with pool.acquire() as connection:
        rows = await connection.fetch(QUERIES.list_cron_ticks, tenant, function, limit)
    return [_read_tick(dict(row.items())) for row in rows]


async def pause(pool: Pool, tenant: str, function: str) -> None:
    """Let the ticks of a function pass."""
    async with pool.acquire() as connection:
        await connection.execute(QUERIES.pause_cron, tenant, function)


async def resume(pool: Pool, tenant: str, function: str, now: datetime) -> None:
    """Run the ticks of a function again that come behind ``now``."""
    async with pool.acquire() as connection:
        await connection.execute(QUERIES.resume_cron, tenant, function, now)


def _key(tenant: str, schedule: Schedule) -> tuple[str, str, str, str]:
    return tenant, schedule.function, schedule.expression, schedule.time_zone


def _read_tick(row: dict[str, object]) -> TickFound:
    fields = {field.name: row[field.name] for field in attrs.fields(TickFound)}
    fields["fate"] = fate = Fate(str(row["fate"]))
    if fate is Fate.RUN and row["state"] is None:
        fields["state"] = "done"  # Only jobs that are done are ever removed.
    return TickFound(**fields)  # type: ignore[arg-type]
