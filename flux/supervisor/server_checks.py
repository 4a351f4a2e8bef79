"""How a server is: what ``flux doctor`` asks of it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from flux.config import Config
from flux.redact import RedactionRules
from flux.store.migrate import Prepared
from flux.supervisor.execute import Backing
from flux.supervisor.isolation import Isolation


@attrs.frozen
class RecordingTally:
    """What became of the records of one process."""

    stored: int
    reduced: int
    """Of them, those that the database refused whole."""
    waiting: int
    is_stalled: bool
    """The present write fails or hangs."""
    last_error: str
    """Why the last write that failed did."""


def describe_recording(tallies: Sequence[RecordingTally]) -> Mapping[str, Any]:
    """Return how recording goes in all processes together."""
    stored, reduced, waiting = (
        sum(getattr(one, name) for one in tallies) for name in ("stored", "reduced", "waiting")
    )
    errors = sorted({one.last_error for one in tallies} - {""})
    is_stalled = any(one.is_stalled for one in tallies)
    return {
        "name": "recording",
        "ok": not is_stalled and reduced == 0,
        "detail": f"since the start {stored} stored, {reduced} reduced; {waiting} waiting"
        + (f", last error: {'; '.join(errors)}" if errors else ""),
        "remedy": "the database does not take records: see its log" if is_stalled else "",
    }


class ServerChecks:
    """See the module."""

    def __init__(
        self,
        backing: Backing,
        prepared: Prepared,
        isolation: Isolation,
        get_config: Callable[[], Config],
    ) -> None:
        """``get_config`` returns what is in force just now."""
        self._backing = backing
        self._prepared = prepared
        self._isolation = isolation
        self._get_config = get_config

    def checks(self) -> Sequence[Mapping[str, Any]]:
        """Return what is in force, each with whether it is as it should be."""
        coverage = [f"{schema}.{table}: {reason}" for schema, table, reason in self._prepared.coverage]
        return [
            describe_recording([self.tally()]),
            {
                "name": "capture",
                "ok": not coverage,
                "detail": "; ".join(coverage) or "every table's changes are recorded",
                "remedy": "" if not coverage else "flux explain FLX232",
            },
            {"name": "redaction", "ok": True, "detail": self._tell_redaction(), "remedy": ""},
            {
                "name": "transactions",
                "ok": True,
                "detail": f"{self._get_config().database.isolation}, unless a function says otherwise",
                "remedy": "",
            },
            *self._isolation.checks(),
        ]

    def tally(self) -> RecordingTally:
        """Return what became of this process's records."""
        counts = self._backing.writer.counts
        return RecordingTally(
            counts.stored, counts.reduced, counts.waiting, counts.stalled_since is not None, counts.last_error
        )

    def _tell_redaction(self) -> str:
        rules = RedactionRules.parse(self._get_config().recording.redact)
        names = [f"header:{name}" for name in sorted(rules.headers)]
        names += [f"json:$.{'.'.join(path)}" for path in rules.json_paths]
        names += [f"column:{table}.{column}" for table, column in sorted(rules.columns)]
        return ", ".join(names)
