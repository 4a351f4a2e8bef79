"""Who hears of each execution that has ended: several, one after the other.

All of them are told before the client has its answer, in the order in which they stand here, so each is quick, and
none waits.
"""

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flux.execution import Execution
from flux.supervisor.execute import Audience
from flux.supervisor.metrics import Histogram, Metric, Sample
from flux.supervisor.present import summary_of_execution

SERIES_MAX = 500
"""Combinations of trigger, function and outcome that are told apart. Functions are a project's own, but ``flux dev``
may see any number of them come and go."""
_ATTEMPTS = ("queue", "cron")


class Audiences:
    """An `flux.supervisor.execute.Audience` that is several."""

    def __init__(self, audiences: Sequence[Audience]) -> None:
        self._audiences = audiences

    def done(self, execution: Execution, *, stored: bool) -> None:
        """See `flux.supervisor.execute.Audience.done`."""
        for audience in self._audiences:
            audience.done(execution, stored=stored)

    def stored(self, execution_id: uuid.UUID) -> None:
        """See `flux.supervisor.execute.Audience.stored`."""
        for audience in self._audiences:
            audience.stored(execution_id)


class RequestLog:
    """Tells of each execution in short."""

    def __init__(self, tell: Callable[[Mapping[str, Any]], None]) -> None:
        """``tell`` is given its summary, as the record has it."""
        self._tell = tell

    def done(self, execution: Execution, *, stored: bool) -> None:  # noqa: ARG002 - it has ended, stored or not
        """See `flux.supervisor.execute.Audience.done`."""
        self._tell(summary_of_execution(execution))

    def stored(self, _execution_id: uuid.UUID) -> None:
        """It was told of when it had ended."""


class ExecutionCounts:
    """Counts what ended how, and how long it took."""

    def __init__(self) -> None:
        self._took = Histogram(
            "execution_duration_seconds", "What executions took, by what began them and how they ended.",
            ("trigger", "function", "route", "outcome"), series_max=SERIES_MAX,
        )  # fmt: skip
        self._attempts: dict[tuple[str, str], int] = {}

    def done(self, execution: Execution, *, stored: bool) -> None:  # noqa: ARG002 - it has ended, stored or not
        """See `flux.supervisor.execute.Audience.done`."""
        trigger = execution.trigger
        outcome: str = execution.outcome.kind
        self._took.observe((trigger.kind, execution.function, trigger.route, outcome), execution.elapsed_ns / 1e9)
        if trigger.kind in _ATTEMPTS:
            key = execution.function, outcome
            if key not in self._attempts and len(self._attempts) >= SERIES_MAX:
                key = "", ""
            self._attempts[key] = self._attempts.get(key, 0) + 1

    def stored(self, _execution_id: uuid.UUID) -> None:
        """It was counted when it had ended."""

    def read(self) -> Sequence[Metric]:
        """Return what was counted so far."""
        attempts = [
            Sample(count, {"function": function, "outcome": outcome})
            for (function, outcome), count in self._attempts.items()
        ]
        return (
            self._took.read(),
            Metric("queue_attempts_total", "Attempts at jobs that have ended, those of schedules included.", attempts),
        )
