"""The console's questions about what is kept."""

from collections.abc import Callable
from datetime import UTC, datetime

from flux.store.postgres import Pool
from flux.store.retention import Retention, prune
from flux.supervisor.console_query import Query, flag
from flux.supervisor.present import Document, show_moment


class RecordsDesk:
    """Answers them."""

    def __init__(self, pool: Pool, retention: Callable[[], Retention]) -> None:
        self._pool = pool
        self._retention = retention

    async def prune(self, query: Query) -> Document:
        """Take out what is old, as the server does by itself each day; with ``dry_run`` only count it."""
        dry_run = flag(query, "dry_run", default=False)
        retention = self._retention()
        pruned = await prune(self._pool, retention, datetime.now(UTC), dry_run=dry_run)
        return {
            "schema": "flux.records-pruned/1",
            "dry_run": dry_run,
            "retention_days": retention.days,
            "error_retention_days": retention.error_days,
            "executions": pruned.executions,
            "kept_errors": pruned.kept_errors,
            "kept_pinned": pruned.kept_pinned,
            "log_days": pruned.log_days,
            "log_rows": pruned.log_rows,
            "log_since": None if pruned.log_since is None else show_moment(pruned.log_since),
            "blobs": pruned.blobs,
            "waiting": pruned.waiting,
        }
