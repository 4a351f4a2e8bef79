"""How a server is: what ``flux doctor`` asks of it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flux.config import Config
from flux.redact import RedactionRules
from flux.store.migrate import Prepared
from flux.supervisor.execute import Backing
from flux.supervisor.isolation import Isolation


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
        writer = self._backing.writer.counts
        coverage = [f"{schema}.{table}: {reason}" for schema, table, reason in self._prepared.coverage]
        return [
            {
                "name": "recording",
                "ok": writer.stalled_since is None and writer.reduced == 0,
                "detail": f"since the start {writer.stored} stored, {writer.reduced} reduced; {writer.waiting} waiting"
                + (f", last error: {writer.last_error}" if writer.last_error else ""),
                "remedy": ""
                if writer.stalled_since is None
                else "the database does not take records: see its log",
            },
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

    def _tell_redaction(self) -> str:
        rules = RedactionRules.parse(self._get_config().recording.redact)
        names = [f"header:{name}" for name in sorted(rules.headers)]
        names += [f"json:$.{'.'.join(path)}" for path in rules.json_paths]
        names += [f"column:{table}.{column}" for table, column in sorted(rules.columns)]
        return ", ".join(names)
