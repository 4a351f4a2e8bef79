"""The console's questions about rows through time: history, blame, the rows as of a moment, and what became of them.

A moment is ``time``, ``before`` (an execution: as it was before it began) or ``snapshot``. Of an execution that used
the database the answer is what its first transaction saw, exactly; of any other it is as of the time of its start.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

from flux.filter import parse_moment
from flux.store import reading
from flux.store.moments import Moment
from flux.store.postgres import Pool
from flux.store.row_blame import find_blame
from flux.store.row_diff import find_diff
from flux.store.row_states import find_state
from flux.store.row_versions import list_history_notes
from flux.supervisor.console_query import BadQueryError, Query, needed, number
from flux.supervisor.present import Document, show_moment, version_json
from flux.supervisor.present_state import blame_json, diff_json, state_json

VERSIONS_MAX = 1000
ROWS_DEFAULT = 1000
ROWS_MAX = 10_000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class StateDesk:
    """Answers them."""

    def __init__(
        self,
        pool: Pool,
        schema: str,
        find: Callable[[str], Awaitable[reading.Summary]],
        settle: Callable[[], Awaitable[int]],
        now: Callable[[], datetime],
    ) -> None:
        """``find`` returns the execution that a text means; ``settle`` waits until records are stored."""
        self._pool = pool
        self._schema = schema
        self._find = find
        self._settle = settle
        self._now = now

    async def history(self, query: Query) -> Document:
        """Answer with every version of a row."""
        table, key = (needed(query, name) for name in ("table", "key"))
        limit = number(query, "n", VERSIONS_MAX, VERSIONS_MAX)
        waiting = await self._settle()
        versions = await reading.list_row_history(self._pool, self._schema, table, key, limit)
        return {
            "schema": "flux.state-history/1",
            "versions": [version_json(version) for version in versions],
            "notes": await list_history_notes(self._pool, self._schema, table, key),
            "not_stored": waiting,
        }

    async def blame(self, query: Query) -> Document:
        """Answer with the writer of each column of a row."""
        table, key = (needed(query, name) for name in ("table", "key"))
        waiting = await self._settle()
        found = await find_blame(self._pool, self._schema, table, key)
        return blame_json(found) | {"not_stored": waiting}

    async def at(self, query: Query) -> Document:
        """Answer with the row, or the rows, as of a moment."""
        table = needed(query, "table")
        limit = number(query, "n", ROWS_DEFAULT, ROWS_MAX)
        waiting = await self._settle()
        moment, as_of = await self._moment(query)
        found = await find_state(self._pool, self._schema, table, query.get("key"), moment, limit)
        return state_json(found, as_of) | {"not_stored": waiting}

    async def diff(self, query: Query) -> Document:
        """Answer with what became of the rows between two times."""
        table = needed(query, "table")
        limit = number(query, "n", ROWS_DEFAULT, ROWS_MAX)
        since, until = (parse_moment(needed(query, name), self._now()) for name in ("from", "to"))
        if since > until:
            raise BadQueryError(
                f"from, {show_moment(since)}, is later than to, {show_moment(until)}",
                remedy="write the earlier one first",
            )
        waiting = await self._settle()
        found = await find_diff(
            self._pool, self._schema, table, Moment(time=since), Moment(time=until), limit
        )
        document = diff_json(found, {"time": show_moment(since)}, {"time": show_moment(until)})
        return document | {"not_stored": waiting}

    async def _moment(self, query: Query) -> tuple[Moment, Document]:
        """Return the moment that is meant, and how the answer tells it."""
        said = [name for name in ("time", "before", "snapshot") if query.get(name)]
        if len(said) != 1:
            raise BadQueryError(
                "as of when is not said" if not said else f"as of when is said twice: {' and '.join(said)}",
                remedy="one of time=..., before=ID and snapshot=... says it",
            )
        as_of: Document = {"time": None, "execution": None}
        match said[0]:
            case "time":
                time = parse_moment(query["time"], self._now())
                return Moment(time=time), as_of | {"time": show_moment(time)}
            case "snapshot":
                return Moment(snapshot=query["snapshot"]), as_of
        summary, execution = await reading.get_execution(self._pool, (await self._find(query["before"])).id)
        if execution.replay_of is not None:
            raise BadQueryError(
                f"{summary.name} is a replay: it saw the rows that its original had seen",
                remedy=f"flux trace {summary.name} names the original",
            )
        as_of |= {"execution": summary.name}
        snapshots = [each.snapshot for each in execution.transactions if each.snapshot]
        if snapshots:
            return Moment(snapshot=snapshots[0]), as_of
        time = _EPOCH + timedelta(microseconds=execution.started_at_ns // 1000)
        return Moment(time=time), as_of | {"time": show_moment(time)}
