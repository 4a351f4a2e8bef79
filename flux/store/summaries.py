"""Finding executions: by what people type, by a filter, by what they have to do with each other.

A `Summary` is an execution without its recording: the columns that lists show. Filters are
those of `flux.filter`. Each of their terms becomes a condition in SQL; a list and the live tail, which
asks `flux.filter.matches`, must mean the same. SQL can't say one thing exactly, which is whether a text
contains another whatever the case of letters beyond ASCII: there it selects what may match, and
`matches` has the last word.

Errors are never an empty answer: whoever asks for one execution gets it, or is told why not.
"""

import re
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import msgspec

from flux.errors import OperatorError
from flux.filter import Filter, Term, matches
from flux.hostcall import Position
from flux.store.postgres import Connection, Pool, Row
from flux.store.queries import QUERIES, Condition, where
from flux.store.records import WHOLE

SLACK = timedelta(days=1)
"""An id holds the time of its start by another clock's reading; so much they may differ."""

AMBIGUOUS_SHOWN_MAX = 10
LATEST_SHOWN = 2
NO_REPLAY = Condition("trigger", ("replay",), negated=True)
"""What happened is meant, and not replays of it."""
OFFSET_MAX = 1_000_000


class NoSuchExecutionError(OperatorError):
    """No execution is called that."""

    code = "FLX101"
    exit_code = 3


class AmbiguousExecutionError(OperatorError):
    """More than one execution begins like that."""

    code = "FLX102"
    exit_code = 3


@attrs.frozen
class Summary:
    """An execution without its recording."""

    id: uuid.UUID
    name: str
    """What people see and type."""
    tenant: str
    trigger: str
    """``http``, ``invoke``, ``queue``, ``cron`` or ``replay``."""
    function: str
    method: str | None
    path: str | None
    """As the client sent it; shortened when it is very long."""
    route: str | None
    """The route's pattern that matched."""
    status: int | None
    """HTTP status of the answer; None when there was none."""
    outcome: str
    """``returned``, ``raised``, ``killed``, ``exited`` or ``interrupted``."""
    error_type: str | None
    """None when nothing failed. An answer of 4xx that the function raised has one too."""
    error_message: str | None
    """Shortened when it is very long."""
    error_location: Position | None
    signature: str | None
    """What the same failure has in common; None when it is none to count."""
    started_at: datetime
    """In UTC, to the microsecond."""
    elapsed_ns: int
    call_count: int
    mutation_count: int
    """All rows changed, rolled back ones included."""
    sha: str | None
    dirty: bool
    deployment: str | None
    """Id of the deployment."""
    parent: uuid.UUID | None
    attempt: int
    replay_of: uuid.UUID | None
    xid: int | None
    """Transaction of an atomic execution that wrote; its other transactions are in ``flux.transaction``."""
    completeness: tuple[str, ...]
    """What is missing from the record, a sentence each; empty: whole."""
    hosts_failed: tuple[str, ...]
    """Outbound hosts whose call failed."""
    format: int
    """Format of the recording."""


# --- one -------------------------------------------------------------------------------------------


async def find_summary(pool: Pool, text: str) -> Summary:
    """Return the execution that ``text`` means.

    That is a name or its beginning, a UUID or its beginning, ``@-1`` (the latest, ``@-2`` the one before) or
    ``@last-error``.
    """
    wanted = text.strip().lower()
    async with pool.acquire() as connection:
        if wanted.startswith("@"):
            return await _find_by_place(connection, wanted)
        # A name begins with a letter that no UUID has.
        if re.fullmatch(r"[0-9a-f][0-9a-f-]{0,35}", wanted) and len(wanted.replace("-", "")) <= 32:
            digits = wanted.replace("-", "")
            low, high = (uuid.UUID(digits.ljust(32, filling)) for filling in "0f")
            rows = await connection.fetch(QUERIES.find_executions_by_id_range, low, high)
        elif re.fullmatch(r"[g-z][0-9a-z]{0,7}", wanted):
            # "{" is the character behind "z": no name that starts so is beyond it.
            rows = await connection.fetch(QUERIES.find_executions_by_name, wanted, wanted + "{")
        else:
            raise NoSuchExecutionError(
                f'"{_shown(text)}" is not the name or id of an execution',
                remedy="write a name such as qk3f81xa, a UUID, the beginning of either, @-1 or @last-error",
            )
        if len(rows) == 1:
            return make_summary(rows[0])
        if not rows:
            raise NoSuchExecutionError(
                f'no execution starts with "{_shown(text)}"', remedy=await _describe_latest(connection)
            )
        raise _ambiguous(text, [make_summary(row) for row in rows])


async def get_summary(pool: Pool, execution_id: uuid.UUID) -> Summary:
    """Return the execution with this id."""
    return await find_summary(pool, str(execution_id))


async def _find_by_place(connection: Connection, wanted: str) -> Summary:
    if wanted == "@last-error":
        row = await connection.fetch_row(QUERIES.find_last_error)
        if row is None:
            raise NoSuchExecutionError("no execution has failed", remedy="flux trace list shows all")
        return make_summary(row)
    found = re.fullmatch(r"@-([0-9]{1,7})", wanted)
    if not found or not 1 <= int(found[1]) <= OFFSET_MAX:
        raise NoSuchExecutionError(
            f'"{_shown(wanted)}" is not the place of an execution',
            remedy="write @-1 for the latest, @-2 for the one before it, or @last-error",
        )
    row = await connection.fetch_row(QUERIES.find_latest_execution, int(found[1]) - 1)
    if row is None:
        raise NoSuchExecutionError(
            f"there is no execution {wanted}: fewer are recorded", remedy=await _describe_latest(connection)
        )
    return make_summary(row)


async def _describe_latest(connection: Connection) -> str:
    query, arguments = where(QUERIES.list_executions, (NO_REPLAY,), (LATEST_SHOWN,))
    latest = [make_summary(row) for row in await connection.fetch(query, *arguments)]
    if not latest:
        return "nothing is recorded yet: send a request, or use flux invoke"
    listed = " and ".join(f"{summary.name} ({summary.started_at:%H:%M:%S} UTC)" for summary in latest)
    return f"the latest {'is' if len(latest) == 1 else 'are'} {listed}: flux trace list shows more"


def _ambiguous(text: str, found: Sequence[Summary]) -> AmbiguousExecutionError:
    shown = found[:AMBIGUOUS_SHOWN_MAX]
    # Two that have the same name can only be told apart by their ids.
    is_by_id = len({summary.name for summary in shown}) < len(shown)
    lines = [
        f"{summary.id if is_by_id else summary.name}  {summary.started_at:%Y-%m-%d %H:%M:%S} UTC  "
        f"{summary.function}"
        for summary in shown
    ]
    if len(found) > len(shown):
        lines.append("... and more")
    return AmbiguousExecutionError(
        "\n".join([f'more than one execution starts with "{_shown(text)}":', *lines]),
        remedy="write more of its id" if is_by_id else "write more of its name",
    )


def _shown(text: str) -> str:
    return text if len(text) <= 80 else text[:79] + "…"


# --- lists -----------------------------------------------------------------------------------------


async def list_summaries(
    pool: Pool, filter_: Filter, limit: int, before: uuid.UUID | None = None
) -> list[Summary]:
    """Return at most ``limit`` executions that the filter means, newest first, from before the given one."""
    first = () if before is None else (Condition("before_id", (before,)),)
    return await _list(pool, QUERIES.list_executions, "before_id", filter_, limit, first)


async def list_summaries_after(
    pool: Pool, filter_: Filter, limit: int, after: uuid.UUID | None = None
) -> list[Summary]:
    """The same, oldest first, from after the given one."""
    first = () if after is None else (Condition("after_id", (after,)),)
    return await _list(pool, QUERIES.list_executions_after, "after_id", filter_, limit, first)


async def _list(
    pool: Pool, base: str, direction: str, filter_: Filter, limit: int, first: tuple[Condition, ...]
) -> list[Summary]:
    conditions = make_conditions(filter_)
    if not any(term.key in ("trigger", "name") for term in filter_.terms):
        conditions.append(NO_REPLAY)  # Replays are a filter away.
    is_exact = all(term.key != "error" for term in filter_.terms)
    found: list[Summary] = []
    async with pool.acquire() as connection:
        while True:
            query, arguments = where(base, (*conditions, *first), (limit,))
            page = [make_summary(row) for row in await connection.fetch(query, *arguments)]
            found += page if is_exact else [each for each in page if matches(filter_, make_facts(each))]
            if len(page) < limit or len(found) >= limit:
                return found[:limit]
            first = (Condition(direction, (page[-1].id,)),)


async def list_children(pool: Pool, parent: uuid.UUID, limit: int) -> list[Summary]:
    """Return what an execution caused, oldest first."""
    async with pool.acquire() as connection:
        return [make_summary(row) for row in await connection.fetch(QUERIES.list_children, parent, limit)]


def make_facts(summary: Summary) -> dict[str, Any]:
    """Return the fields that `flux.filter.matches` looks at."""
    return {
        "status": summary.status,
        "method": summary.method,
        "path": summary.path,
        "function": summary.function,
        "started_at": summary.started_at.isoformat(),
        "error": None
        if summary.error_type is None
        else {"type": summary.error_type, "message": summary.error_message or ""},
        "sha": summary.sha,
        "deployment": summary.deployment,
        "trigger": summary.trigger,
        "outcome": summary.outcome,
        "name": summary.name,
    }


def make_summary(row: Row) -> Summary:
    """Return the summary in a row of ``flux.summary``."""
    fields = dict(row.items())
    fields.pop("body", None)
    place = fields["error_location"]
    completeness = fields["completeness"]
    return Summary(
        **fields
        | {
            "error_location": None if place is None else msgspec.json.decode(place, type=Position),
            "completeness": () if completeness == WHOLE else tuple(completeness.split("\n")),
            "hosts_failed": tuple(fields["hosts_failed"] or ()),
        }
    )


# --- filters as SQL --------------------------------------------------------------------------------

_STATUS_FILTERS = {
    "=": "status_is",
    ">=": "status_min",
    ">": "status_above",
    "<=": "status_max",
    "<": "status_below",
    "class": "status_class",
}


def make_conditions(filter_: Filter) -> list[Condition]:
    """Return the conditions that select what the filter means, and for ``error:`` what it may mean."""
    conditions: list[Condition] = []
    for term in filter_.terms:
        conditions += _conditions_of(term)
    return conditions


def _conditions_of(term: Term) -> list[Condition]:
    value, negated = term.value, term.negated
    if isinstance(value, str) and re.search("[\0\ud800-\udfff]", value):
        # No text in the database holds these, so none matches; asked for, they would be an error there.
        return [Condition("nothing", negated=negated)]
    match term.key:
        case "status":
            assert isinstance(value, int)
            first = value * 100 if term.operator == "class" else value
            bounds = (first, first + 100) if term.operator == "class" else (value,)
            condition = Condition(_STATUS_FILTERS[term.operator], bounds, negated)
            is_failure = first >= 500 and term.operator in ("=", ">=", ">", "class") and not negated
            return [condition, Condition("failed")] if is_failure else [condition]
        case "since" | "until":
            assert isinstance(value, datetime)
            return [Condition(term.key, (value, _shifted(value, early=term.key == "since")), negated)]
        case "route":
            if term.method:
                return [Condition("method_path_like", (term.method, term.pattern), negated)]
            return [Condition("path_like", (term.pattern,), negated)]
        case "function":
            if "*" not in str(value):
                return [Condition("function_is", (value,), negated)]
            return [Condition("function_like", (term.pattern,), negated)]
        case "error":
            return _error_conditions(str(value).casefold(), negated)
        case "sha" | "deploy" | "name":
            return [Condition(f"{term.key}_prefix", (value,), negated)]
        case "trigger" | "outcome":
            return [Condition(term.key, (value,), negated)]


def _error_conditions(text: str, negated: bool) -> list[Condition]:
    if text.isascii():
        return [Condition("error_not_ascii" if negated else "error_ascii", (text,))]
    return [] if negated else [Condition("error_beyond_ascii")]


def _shifted(moment: datetime, *, early: bool) -> datetime:
    moment = moment.astimezone(UTC)
    try:
        return moment - SLACK if early else moment + SLACK
    except OverflowError:
        return moment  # The first and the last day of the calendar have nothing beyond them.
