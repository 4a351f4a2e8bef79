"""Looking at many schedules: each is decided on, whatever keeps the others from it."""

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
import trio
from trio.testing import MockClock

from flux.schedule import Decision, Schedule
from flux.store import cron as decisions
from flux.store.postgres import ConnectionLost, ConnectOptions
from flux.supervisor import cron
from flux.supervisor.cron import Cron

DECIDED_S = 0.1
"""What one decision takes: some exchanges with a server far away."""


class Base:
    """In the place of the database and its pool: decisions take their time, and some never come."""

    options = ConnectOptions(host="nowhere", user="flux")

    def __init__(self, harm: dict[str, Callable[[], object]]) -> None:
        self.decided: Counter[str] = Counter()
        self.tried: Counter[str] = Counter()
        self.pruned = 0
        self.harm = harm
        """What becomes of the decision on a function's schedule, instead."""

    @contextlib.asynccontextmanager
    async def acquire(self) -> AsyncIterator["Base"]:
        yield self

    async def execute(self, _sql: str, *_arguments: object) -> None:
        self.pruned += 1

    async def register(self, _base: object, _tenant: str, _schedules: Sequence[Schedule], _now: datetime) -> None:
        pass

    async def decide_due(
        self, _base: object, _tenant: str, schedule: Schedule, now: datetime, _make_id: object
    ) -> Decision:
        self.tried[schedule.function] += 1
        await trio.sleep(DECIDED_S)
        if schedule.function in self.harm:
            self.harm[schedule.function]()
            await trio.sleep_forever()
        self.decided[schedule.function] += 1
        return Decision((), now)


def lose() -> None:
    raise ConnectionLost("lost on purpose", remedy="none")


async def watch(
    monkeypatch: pytest.MonkeyPatch, count: int, harm: dict[str, Callable[[], object]]
) -> tuple[Base, list[str]]:
    """Ten minutes of ``count`` schedules; what was decided on, and what people were told."""
    base = Base(harm)
    schedules = [Schedule(f"f{n}", "0 0 1 1 *") for n in range(count)]
    monkeypatch.setattr(decisions, "register", base.register)
    monkeypatch.setattr(decisions, "decide_due", base.decide_due)
    monkeypatch.setattr(cron, "list_schedules", lambda _config, _functions: schedules)
    start = datetime(2026, 3, 1, tzinfo=UTC).timestamp()
    clock = SimpleNamespace(now_ns=lambda: int((start + trio.current_time()) * 1e9))

    async def wait_current() -> None:
        pass

    deployments = SimpleNamespace(wait_current=wait_current, current=SimpleNamespace(config=None, runnables={}))
    reports: list[BaseException] = []
    notes: list[str] = []
    backing = SimpleNamespace(owner=base, clock=clock, tenant="main", entropy=None)
    looking = Cron(backing, deployments, report=reports.append, note=notes.append)  # type: ignore[arg-type]
    with trio.move_on_after(600):
        await looking.run()
    assert reports == []
    return base, notes


async def test_a_look_that_takes_long_comes_to_all_schedules(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    base, notes = await watch(monkeypatch, 400, {})  # Which takes 40 s.
    assert len(base.decided) == 400 and base.pruned == 1 and notes == []


async def test_schedules_that_can_not_be_decided_on_keep_no_others_from_it(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    base, notes = await watch(monkeypatch, 7, {"f0": lambda: None, "f2": lose, "f5": lose})
    assert set(base.decided) == {"f1", "f3", "f4", "f6"}
    assert min(base.decided.values()) > 5 and min(base.tried[name] for name in ("f0", "f2", "f5")) > 5
    # They end no pruning either, and are told of once.
    assert base.pruned == 1 and len(notes) == 1 and "lost on purpose" in notes[0]
