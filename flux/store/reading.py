"""Everything that is read of what executions did. What a console or ``why`` needs is here or comes from here.

`get_execution` puts an execution together again: its recording, the large payloads that were stored
apart, and the rows it changed, which lie in the log of changes when they were kept and in the recording when
they were rolled back. What is missing is said in its ``completeness``.

All functions take a pool of the owner's role, and let the errors of the database through: an answer
is never empty because a look-up failed.
"""

import uuid
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import attrs
import msgspec

from flux import codec
from flux.codec import Blob
from flux.execution import Execution, LogLine
from flux.hostcall import Position
from flux.mutation import Mutation
from flux.store.moments import is_log_gone
from flux.store.postgres import Connection, Pool
from flux.store.queries import QUERIES, Condition, where
from flux.store.restored import FROM_ELSEWHERE, has_ids_of_here
from flux.store.row_history import (
    KeyDoesNotFitError,
    NoSuchTableError,
    RowVersion,
    Table,
    find_table,
    make_mutation,
)
from flux.store.row_versions import find_row_writer, list_row_history
from flux.store.summaries import (
    SLACK,
    AmbiguousExecutionError,
    NoSuchExecutionError,
    Summary,
    find_summary,
    get_summary,
    list_children,
    list_summaries,
    list_summaries_after,
    make_facts,
    make_summary,
)

__all__ = [
    "AmbiguousExecutionError", "DeploymentFound", "ErrorGroup", "HostFailure", "KeyDoesNotFitError",
    "LogPage", "Logged", "NoSuchExecutionError", "NoSuchTableError", "RowVersion", "ShaCount", "Summary",
    "Table", "count_function", "count_signature", "decode_recording", "find_blob",
    "find_previous_deployment", "find_row_writer",
    "find_summary", "find_table", "get_execution", "get_summary", "list_children", "list_error_groups",
    "list_host_failures", "list_logs", "list_logs_after", "list_peers", "list_row_history", "list_summaries",
    "list_summaries_after", "make_facts",
]  # fmt: skip

MUTATIONS_MAX = 10_000
"""Of more row changes than this, an execution is given the first."""

LOG_EXECUTIONS_MAX = 5000
LOG_PAGE = 200
"""Lines are looked for in so many executions, and recordings are fetched some at a time."""

COUNTED_MAX = 100_000
"""Counts look at so many of the latest executions."""

ROWS_GONE = "its row changes are not in the store any more"
"""Says ``completeness`` of an execution that changed rows, of which the log of changes has none."""

LOG_GONE = "what has changed in the database since it ran is not wholly in the store any more"
"""Says ``completeness`` of an execution that ran before what is left of the log of changes."""

BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
"""Before everything that was recorded."""


@attrs.frozen
class ErrorGroup:
    """Failures with one signature."""

    signature: str
    count: int
    first: datetime
    last: datetime
    sample: str
    """Name of the latest."""
    sample_id: uuid.UUID
    functions: tuple[str, ...]
    """In alphabetical order."""
    error_type: str | None
    """Of the latest, as the two that follow."""
    error_message: str | None
    error_location: Position | None


@attrs.frozen
class ShaCount:
    """How many executions there are on one commit."""

    sha: str | None
    count: int
    first_id: uuid.UUID
    last_id: uuid.UUID


@attrs.frozen
class HostFailure:
    """An execution that lost an outbound host."""

    id: uuid.UUID
    name: str
    function: str
    started_at: datetime


@attrs.frozen
class DeploymentFound:
    """A deployment, as far as finding causes needs it."""

    id: str
    sha: str | None
    dirty: bool
    created_at: datetime


@attrs.frozen
class Logged:
    """A line of an execution's log."""

    execution: Execution
    """Where it comes from; without its committed mutations."""
    number: int
    """Of the line in its execution, from 0."""
    line: LogLine


@attrs.frozen
class LogPage:
    """Lines of several executions."""

    lines: tuple[Logged, ...]
    """Oldest first."""
    is_cut: bool
    """There may be earlier lines that were asked for and are not here."""


# --- an execution whole ----------------------------------------------------------------------------


async def get_execution(
    pool: Pool, execution_id: uuid.UUID, mutations_max: int = MUTATIONS_MAX
) -> tuple[Summary, Execution]:
    """Return an execution with all that is known of it."""
    async with pool.acquire() as connection:
        row = await connection.fetch_row(QUERIES.find_execution, execution_id)
        if row is None:
            raise NoSuchExecutionError(
                f"no execution has the id {execution_id}", remedy="flux trace list shows what there is"
            )
        summary = make_summary(row)
        execution = await decode_recording(connection, row["body"], row["format"])
        rows = await connection.fetch(
            QUERIES.list_mutations_of_execution,
            execution_id,
            summary.started_at - SLACK,
            summary.started_at + timedelta(microseconds=summary.elapsed_ns // 1000) + SLACK,
            mutations_max + 1,
        )
        start = await connection.fetch_row(QUERIES.get_recording_start)
    assert start is not None, "it selects constants"
    sentences = execution.completeness
    if len(rows) > mutations_max:
        sentences += (f"of its row changes only the first {mutations_max:,} are shown",)
    calls = {(xid, ordinal): call for xid, ordinal, call in execution.ordinals}
    logged = [
        make_mutation(each, calls.get((int(each["xid"]), each["ordinal"]))) for each in rows[:mutations_max]
    ]
    mutations = _merge(execution.mutations, logged, calls)
    if execution.mutation_count and not mutations:
        sentences += (ROWS_GONE,)
    if any(is_log_gone(start, each.snapshot) for each in execution.transactions if each.snapshot):
        sentences += (LOG_GONE,)
    if has_ids_of_here(execution, start):
        sentences += (FROM_ELSEWHERE,)
    return summary, attrs.evolve(execution, mutations=mutations, completeness=sentences)


def _merge(
    recorded: Iterable[Mutation], logged: Iterable[Mutation], calls: dict[tuple[int, int], int]
) -> tuple[Mutation, ...]:
    """The rows of the recording (rolled back) and of the log, each once, in the order they were changed.

    What was rolled back may be in both: the log has it for the rows' own histories. A savepoint's rollback
    sets the ordinals back, so calls come first in the order, and a mutation of the recording knows its own.
    """
    ordered = [
        attrs.evolve(mutation, call=calls.get(_statement(mutation))) if mutation.call is None else mutation
        for mutation in recorded
    ]
    known = Counter(map(_content, ordered))
    for mutation in logged:
        if not mutation.committed and known[_content(mutation)]:
            known[_content(mutation)] -= 1
        else:
            ordered.append(mutation)
    return tuple(sorted(ordered, key=_place))


def _statement(mutation: Mutation) -> tuple[int, int]:
    return mutation.xid, mutation.ordinal


def _content(mutation: Mutation) -> tuple[object, ...]:
    place = (mutation.schema, mutation.table, mutation.key)
    return (*_statement(mutation), *place, mutation.op, mutation.before, mutation.after)


def _place(mutation: Mutation) -> tuple[bool, int, int, int]:
    return mutation.call is None, mutation.call or 0, mutation.xid, mutation.ordinal


async def decode_recording(connection: Connection, body: bytes, format_version: int) -> Execution:
    """Return the execution in a recording, with what was stored apart; its committed mutations are in the log."""
    blobs: dict[bytes, Blob] = {}
    missing: list[bytes] = []

    def find(digest: bytes) -> Blob | None:
        blob = blobs.get(digest)
        if blob is None:
            missing.append(digest)
        return blob

    execution = codec.decode_execution(body, format_version, find)
    if missing:
        rows = await connection.fetch(QUERIES.list_blobs, list(dict.fromkeys(missing)))
        blobs |= {row["sha256"]: Blob(*row) for row in rows}
        execution = codec.decode_execution(body, format_version, find)
    return execution


async def find_blob(pool: Pool, sha256: bytes) -> Blob | None:
    """Return a payload that was stored apart, by its digest."""
    async with pool.acquire() as connection:
        row = await connection.fetch_row(QUERIES.list_blobs, [sha256])
    return None if row is None else Blob(*row)


# --- others to compare with ------------------------------------------------------------------------


async def list_peers(
    pool: Pool, function: str, sha: str, before: uuid.UUID, looked_at: int, limit: int
) -> list[Execution]:
    """Return executions of ``function`` on ``sha`` that passed, the nearest before the given one first.

    Only the function's nearest ``looked_at`` executions are considered. Without their committed mutations.
    """
    async with pool.acquire() as connection:
        rows = await connection.fetch(QUERIES.list_peers, function, before, sha, looked_at, limit)
        return [await decode_recording(connection, row["body"], row["format"]) for row in rows]


async def list_error_groups(pool: Pool, since: datetime | None, limit: int) -> list[ErrorGroup]:
    """Return failures by signature, the most frequent first."""
    async with pool.acquire() as connection:
        rows = await connection.fetch(QUERIES.list_error_groups, since or BEGINNING + SLACK, limit)
    return [
        ErrorGroup(
            signature=row["signature"],
            count=row["count"],
            first=row["first"],
            last=row["last"],
            sample=row["sample"],
            sample_id=row["sample_id"],
            functions=tuple(sorted(row["functions"])),
            error_type=row["error_type"],
            error_message=row["error_message"],
            error_location=None
            if row["error_location"] is None
            else msgspec.json.decode(row["error_location"], type=Position),
        )
        for row in rows
    ]


async def count_signature(
    pool: Pool,
    signature: str,
    since: datetime | None = None,
    limit: int = COUNTED_MAX,
    *,
    function: str | None = None,
) -> list[ShaCount]:
    """Return how often this failure happened on each commit, the latest commit first; in one function or all."""
    async with pool.acquire() as connection:
        query = QUERIES.count_signature_by_sha
        rows = await connection.fetch(query, signature, since or BEGINNING, limit, function)
    return [ShaCount(*row) for row in rows]


async def count_function(
    pool: Pool, function: str, since: datetime | None = None, limit: int = COUNTED_MAX
) -> list[ShaCount]:
    """Return how often this function ran on each commit, the latest commit first."""
    async with pool.acquire() as connection:
        rows = await connection.fetch(QUERIES.count_function_by_sha, function, since or BEGINNING, limit)
    return [ShaCount(*row) for row in rows]


async def list_host_failures(
    pool: Pool, host: str, since: datetime, until: datetime, limit: int
) -> list[HostFailure]:
    """Return the executions that lost ``host`` between two instants, oldest first."""
    async with pool.acquire() as connection:
        rows = await connection.fetch(QUERIES.list_host_failures, host, since, until, limit)
    return [HostFailure(*row) for row in rows]


async def find_previous_deployment(pool: Pool, deployment: str) -> DeploymentFound | None:
    """Return what served before this deployment, on another commit."""
    async with pool.acquire() as connection:
        row = await connection.fetch_row(QUERIES.find_previous_deployment, deployment)
    return None if row is None else DeploymentFound(*row)


# --- logs ------------------------------------------------------------------------------------------


async def list_logs(
    pool: Pool,
    *,
    function: str | None = None,
    since: datetime | None = None,
    lines_max: int = 1000,
    executions_max: int = LOG_EXECUTIONS_MAX,
) -> LogPage:
    """Return the latest lines that functions logged, oldest first."""
    conditions = [] if function is None else [Condition("function_is", (function,))]
    if since is not None:
        # An execution that began before may have logged after; a day is longer than any runs.
        conditions.append(Condition("since", (since - SLACK, since - 2 * SLACK)))
    lines: list[Logged] = []
    looked_at = 0
    is_cut = False
    async with pool.acquire() as connection:
        before: list[Condition] = []
        while True:
            query, arguments = where(QUERIES.list_logs, (*conditions, *before), (LOG_PAGE,))
            rows = await connection.fetch(query, *arguments)
            for row in rows:
                lines += _select_lines(await decode_recording(connection, row["body"], row["format"]), since)
            looked_at += len(rows)
            if len(rows) < LOG_PAGE:
                break
            if len(lines) >= lines_max or looked_at >= executions_max:
                is_cut = True
                break
            before = [Condition("before_id", (rows[-1]["id"],))]
    lines.sort(key=_moment)
    is_cut = is_cut or len(lines) > lines_max
    return LogPage(tuple(lines[-lines_max:]), is_cut)


async def list_logs_after(
    pool: Pool, *, function: str | None, since: datetime, after: uuid.UUID | None, limit: int
) -> tuple[list[Logged], uuid.UUID | None]:
    """Return what ``limit`` executions logged, oldest first, and where to go on; None at the end.

    Of each execution all lines since then come together.
    """
    conditions = [Condition("since", (since - SLACK, since - 2 * SLACK))]
    conditions += [] if function is None else [Condition("function_is", (function,))]
    conditions += [] if after is None else [Condition("after_id", (after,))]
    query, arguments = where(QUERIES.list_logs_after, conditions, (limit,))
    lines: list[Logged] = []
    async with pool.acquire() as connection:
        rows = await connection.fetch(query, *arguments)
        for row in rows:
            lines += _select_lines(await decode_recording(connection, row["body"], row["format"]), since)
    return sorted(lines, key=_moment), rows[-1]["id"] if len(rows) == limit else None


def _select_lines(execution: Execution, since: datetime | None) -> list[Logged]:
    lines = [Logged(execution, number, line) for number, line in enumerate(execution.logs)]
    if since is None:
        return lines
    since_ns = (since - BEGINNING) // timedelta(microseconds=1) * 1000
    return [logged for logged in lines if _moment(logged)[0] >= since_ns]


def _moment(logged: Logged) -> tuple[int, int, int]:
    return logged.execution.started_at_ns + logged.line.at_ns, logged.execution.id.int, logged.number
