"""When something is to run, and what becomes of a time that has come.

A *schedule* is a cron expression of five fields in a time zone. Its *ticks* are instants. Nothing here knows what
time it is: `decide` is told, and says for each tick since the last decision whether it is run or left out. The same
question gets the same answer, so any number of servers may ask, and the one that writes its answer down first is
the one that counts (`flux.supervisor.cron`).

What a server was not there for is *missed*: more than `LATE_S` have passed. `CatchUp` says what becomes of that. A
tick whose predecessor is not done yet is left out, unless the schedule wants every single one.

Where clocks change, schedules behave as Debian's cron does, which cronsim follows. One at a fixed time that does
not exist is run right after the gap; one that exists twice is run at the first. With a star in the minute or hour
it is real time that counts: every tick of the clock is one.
"""

import enum
import itertools
import zoneinfo
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta, tzinfo

import attrs
from cronsim import CronSim, CronSimError

from flux.errors import OperatorError

LATE_S = 60.0
"""A tick that is older when it is looked at was missed."""
RUNS_MAX = 500
"""Ticks that are decided on at once."""
_WINDOWS = (timedelta(days=1), timedelta(days=40), timedelta(days=366))
"""How far back one looks for what was missed: as far as it takes to find `RUNS_MAX` ticks."""


class BadScheduleError(OperatorError):
    """A schedule or its time zone means nothing."""

    code = "FLX597"


class CatchUp(enum.StrEnum):
    """What becomes of ticks that no server was there for."""

    SKIP = "skip"
    """They are left out."""
    ONE = "one"
    """The latest of them is run, unless a later tick is run anyway."""
    ALL = "all"
    """Each is run. So is each that comes while the one before it is not done."""


class Fate(enum.StrEnum):
    """What became of a tick."""

    RUN = "run"
    """A job was made of it."""
    OVERLAP = "overlap"
    """Left out: the run before it was not done."""
    MISSED = "missed"
    """Left out: no server was there at its time."""


@attrs.frozen
class Schedule:
    """When a function is to run."""

    function: str
    expression: str
    """Five fields: minute, hour, day, month, weekday."""
    time_zone: str = "UTC"
    """A name of the tz database: ``Europe/Berlin``."""
    catch_up: CatchUp = CatchUp.ONE


@attrs.frozen
class Tick:
    """A time that has come, and what becomes of it."""

    at: datetime
    fate: Fate
    left_out: int = 0
    """Ticks before it that were left out without being written down each."""


@attrs.frozen
class Decision:
    """What becomes of the ticks until an instant."""

    ticks: tuple[Tick, ...]
    until: datetime
    """All until then is decided."""


def check_schedule(expression: str, time_zone: str) -> None:
    """Raise `BadScheduleError` unless there are times that this means."""
    zone = _find_zone(time_zone)
    try:
        if len(expression.split()) != 5:
            raise CronSimError("it has not five fields")
        next(CronSim(expression, datetime(2024, 1, 1, tzinfo=zone)))
    except (CronSimError, StopIteration, ValueError) as error:
        raise BadScheduleError(
            f'"{expression}" is no schedule: {str(error) or "there is no such day"}',
            remedy='allowed: five fields (minute hour day month weekday), such as "0 3 * * *"',
        ) from error


def list_ticks(schedule: Schedule, after: datetime, until: datetime, most: int) -> list[datetime]:
    """Return the ticks behind ``after``, the earliest first, up to ``until`` and ``most`` of them."""
    ticks = itertools.takewhile(lambda tick: tick <= until, _ticks(schedule, after))
    return list(itertools.islice(ticks, most))


def find_next(schedule: Schedule, after: datetime) -> datetime | None:
    """Return the first tick behind ``after``; None when there is none for fifty years."""
    return next(_ticks(schedule, after), None)


def decide(schedule: Schedule, since: datetime, now: datetime, *, is_busy: bool, is_paused: bool) -> Decision:
    """Return what becomes of the ticks behind ``since`` that have come by ``now``.

    ``is_busy``: a run of this schedule is not done. While it is paused, ticks pass and nothing is owed for them.
    """
    if now <= since:  # Somebody whose clock is ahead of ours was here.
        return Decision((), since)
    if is_paused:
        return Decision((), now)
    if schedule.catch_up is CatchUp.ALL:
        due = list_ticks(schedule, since, now, RUNS_MAX)
        until = now if len(due) < RUNS_MAX else due[-1]
        return Decision(tuple(Tick(at, Fate.RUN) for at in due), until)
    due = _list_latest(schedule, since, now)
    if not due:
        return Decision((), now)
    latest, left_out = due[-1], len(due) - 1
    is_missed = (now - latest).total_seconds() > LATE_S
    fate = Fate.OVERLAP if is_busy else Fate.RUN
    if is_missed and schedule.catch_up is CatchUp.SKIP:
        fate = Fate.MISSED
    return Decision((Tick(latest, fate, left_out),), now)


def choose_schedules(
    declared: Sequence[tuple[str, str]], configured: Sequence[Schedule], time_zone: str
) -> tuple[Schedule, ...]:
    """Return what is in force of what decorators and ``flux.toml`` say: entries of the file stand for the decorator's.

    ``declared`` has functions with their decorators' schedules, which are in ``time_zone``.
    """
    named = {schedule.function for schedule in configured}
    said = [
        Schedule(function, " ".join(expression.split()), time_zone)
        for function, expression in declared
        if function not in named
    ]
    found = {(each.function, each.expression, each.time_zone): each for each in (*said, *configured)}
    return tuple(found[key] for key in sorted(found))


def _list_latest(schedule: Schedule, since: datetime, now: datetime) -> list[datetime]:
    """The ticks until ``now``; where they are more than one wants to count, the latest of them."""
    due: list[datetime] = []
    for window in _WINDOWS:
        begin = max(since, now - window)
        due = list_ticks(schedule, begin, now, 60 * 24 * 366)
        if begin == since or len(due) > RUNS_MAX:
            break
    return due


def _ticks(schedule: Schedule, after: datetime) -> Iterator[datetime]:
    """Ticks behind ``after`` in UTC. Of times that exist twice, cronsim may begin with the first again."""
    last = after
    for tick in CronSim(schedule.expression, after.astimezone(_find_zone(schedule.time_zone))):
        if (at := tick.astimezone(UTC)) > last:
            yield at
            last = at


def _find_zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise BadScheduleError(
            f'"{name}" is no time zone that is known here', remedy='write "UTC", or a name such as "Europe/Berlin"'
        ) from error
