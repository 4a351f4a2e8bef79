"""Looking up what `flux.why` explains from.

The record of one execution says how it failed. Around it lie other records that say more: how often
this failure happened and on which code, who else lost the same host, what passing requests of the
same function had that this one had not, who wrote the rows that it read. Each is one look-up, with a
bound on what it reads and a time limit, since a store holds millions of records and whoever
asks why is waiting. All go through an index. And all go over the connections with which records are
written, so few of them run at a time, whoever asks: requests that end must not wait for readers.

A look-up that fails or takes too long leaves the explanation without it, and the explanation
says so (`Evidence.unavailable`): facts that are merely missing would look like facts that are not so.
A healthy execution needs none of this.
"""

import base64
import re
import weakref
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import attrs
import msgspec
import trio

from flux import calls, ids
from flux.as_of import is_visible
from flux.errors import FluxError
from flux.evidence import Count, Evidence, OtherFailure, RowWriter
from flux.execution import Execution, Raised, Read, Transaction
from flux.failure import Failure, Kind, find_call, find_failure, list_failed_hosts
from flux.mutation import Operation
from flux.origins import Cell, list_cells
from flux.store.jobs import NoSuchJobError, find_job
from flux.store.postgres import Pool, quote_identifier
from flux.store.reading import (
    RowVersion,
    ShaCount,
    Summary,
    count_function,
    count_signature,
    find_previous_deployment,
    find_row_writer,
    list_children,
    list_host_failures,
    list_peers,
    list_row_history,
)
from flux.store.unique_rows import find_unique_row
from flux.supervisor.origins import find_origin

LOOKUP_TIMEOUT_S = 10.0
"""For each, once it is its turn: on a busy machine what takes ten milliseconds takes a second."""
LOOKUPS_TIMEOUT_S = 30.0
"""For all of one explanation, turns and steps that follow one another included: the command line waits a minute."""
LOOKUPS_AT_A_TIME = 2
"""Of all explanations over one pool: the smallest, a hosted tenant's, has `flux.supervisor.hosted.CONNECTIONS`."""
COUNTED_MAX = 20_000
"""Counts are of the function's latest so many executions."""
PEERS_MAX = 20
PEERS_LOOKED_AT = 1000
"""Peers are looked for among the function's nearest so many executions before: most of them may have failed."""
AROUND = timedelta(minutes=5)
"""Who else lost a host, before and after."""
HOSTS_MAX = 3
CHILDREN_LOOKED_AT = 10
HOST_FAILURES_MAX = 100
ORIGINS_MAX = 3
"""So many of the values that were read are followed, those that the failure speaks of first."""
ROWS_MAX = 5
"""The histories of so many rows are looked up, those read last first."""
VERSIONS_MAX = 100

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_turns: weakref.WeakKeyDictionary[Pool, trio.CapacityLimiter] = weakref.WeakKeyDictionary()
_Found = TypeVar("_Found")


class _NotToldError(Exception):
    """What is asked for can't be told, for the reason in the message."""


@attrs.define
class _Lookups:
    """Runs the look-ups of one explanation, in turns with those of others, and remembers which failed."""

    turns: trio.CapacityLimiter
    ends_at: float
    """On trio's clock: when to go without those that have not ended."""
    unavailable: list[str] = attrs.Factory(list)

    async def attempt(self, what: str, look_up: Callable[[], Awaitable[_Found]], default: _Found) -> _Found:
        """Return what ``look_up`` finds, or ``default`` and one more in ``unavailable``."""
        try:
            with trio.fail_at(self.ends_at):
                async with self.turns:
                    with trio.fail_after(LOOKUP_TIMEOUT_S):
                        return await look_up()
        except FluxError as error:
            self.unavailable.append(f"{what}: {error.code} {error.message}")
        except _NotToldError as error:
            self.unavailable.append(f"{what}: {error}")
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            # A json column may hold what Postgres takes for JSON and nobody else does.
            self.unavailable.append(f"{what}: a row in the history can't be read as JSON ({error})")
        except trio.TooSlowError:
            took = f"the database took longer than {LOOKUP_TIMEOUT_S:g} s"
            if trio.current_time() >= self.ends_at:
                took = f"all look-ups together took longer than {LOOKUPS_TIMEOUT_S:g} s"
            self.unavailable.append(f"{what}: {took}")
        return default


async def gather_evidence(pool: Pool, summary: Summary, execution: Execution) -> Evidence:
    """Return what is known around ``execution``, which holds all its mutations."""
    failure = find_failure(execution)
    if failure is None:
        await trio.lowlevel.checkpoint()
        return Evidence(execution)
    turns = _turns.setdefault(pool, trio.CapacityLimiter(LOOKUPS_AT_A_TIME))
    lookups = _Lookups(turns, trio.current_time() + LOOKUPS_TIMEOUT_S)
    found: dict[str, Any] = {}

    async def run(field: str, what: str, look_up: Callable[[], Awaitable[Any]], default: Any) -> None:
        found[field] = await lookups.attempt(what, look_up, default)

    async with trio.open_nursery() as nursery:

        def start(field: str, what: str, look_up: Callable[[], Awaitable[Any]], default: Any) -> None:
            nursery.start_soon(run, field, what, look_up, default)

        if execution.trigger.job:
            start("job_state", "what became of the job", partial(_job_state, pool, execution), None)
        start("peers", "passing executions to compare with", lambda: _peers(pool, summary, execution), ())
        if not failure.is_answer:
            start("counts", "the counts", partial(_counts, pool, execution, failure, lookups), (None, None))
            start("retried_as", "whether the request was tried again",
                  lambda: _retried_as(pool, execution, failure), None)
            start("host_failures", "who else lost the host", lambda: _host_failures(pool, execution), ())
            start("first_writers", "who wrote the row that was there first",
                  lambda: _first_writers(pool, execution, failure), ())
            rows = _list_rows_read(execution)
            for number, row in enumerate(rows):
                what = f"who wrote the row of {row.table} that call {row.call} read"
                start(f"row {number}", what, partial(_writers_of, pool, row), ())
    writers = [found.get("first_writers", ()), *(found[field] for field in sorted(found) if field.startswith("row "))]
    origins = [
        await lookups.attempt(
            f"where {writer.table}.{writer.column} had come from",
            partial(find_origin, pool, writer, partial(_writer_of, pool)),
            None,
        )
        for writer in _list_to_follow(execution, [writer for each in writers for writer in each])
    ]
    count, previous_count = found.get("counts", (None, None))
    return Evidence(
        execution,
        count=count,
        previous_count=previous_count,
        host_failures=found.get("host_failures", ()),
        peers=found["peers"],
        row_writers=tuple(writer for each in writers for writer in each),
        origins=tuple(origin for origin in origins if origin is not None),
        retried_as=found.get("retried_as"),
        job_state=found.get("job_state"),
        unavailable=tuple(sorted(lookups.unavailable)),
    )


async def _job_state(pool: Pool, execution: Execution) -> str | None:
    """What has become of the job that ``execution`` was an attempt at; None where its row is gone."""
    try:
        return (await find_job(pool, execution.tenant, execution.trigger.job)).state.value
    except NoSuchJobError:
        return None


async def _retried_as(pool: Pool, execution: Execution, failure: Failure) -> str | None:
    """The next attempt at the same request, when the database gave this one up for another's sake."""
    if failure.kind not in (Kind.SERIALIZATION_FAILURE, Kind.DEADLOCK):
        await trio.lowlevel.checkpoint()
        return None
    for child in await list_children(pool, execution.id, CHILDREN_LOOKED_AT):
        if child.function == execution.function and child.attempt == execution.attempt + 1:
            return child.name
    return None


# --- others ----------------------------------------------------------------------------------------


async def _peers(pool: Pool, summary: Summary, execution: Execution) -> tuple[Execution, ...]:
    return tuple(
        await list_peers(pool, execution.function, execution.sha, summary.id, PEERS_LOOKED_AT, PEERS_MAX)
    )


async def _host_failures(pool: Pool, execution: Execution) -> tuple[OtherFailure, ...]:
    at = _moment(execution.started_at_ns)
    others: dict[str, OtherFailure] = {}
    for host in list_failed_hosts(execution)[:HOSTS_MAX]:
        for other in await list_host_failures(pool, host, at - AROUND, at + AROUND, HOST_FAILURES_MAX):
            if other.id != execution.id:
                others[other.name] = OtherFailure(other.name, _to_ns(other.started_at), other.function)
    return tuple(sorted(others.values(), key=lambda other: other.started_at_ns))


async def _counts(
    pool: Pool, execution: Execution, failure: Failure, lookups: _Lookups
) -> tuple[Count | None, Count | None]:
    assert failure.signature is not None
    totals = await count_function(pool, execution.function, None, COUNTED_MAX)
    # Both are counted over the same time, or there could be more failures than executions.
    first_id = min((each.first_id for each in totals), default=execution.id)
    if execution.id < first_id:
        raise _NotToldError(f"{COUNTED_MAX:,} executions of the function came after it")
    if sum(each.count for each in totals) >= COUNTED_MAX:
        # "1 of 20,000" would be read as all there were.
        lookups.unavailable.append(f"counts beyond the function's latest {COUNTED_MAX:,} executions")
    since = _EPOCH + timedelta(milliseconds=ids.get_unix_ms(first_id))
    failures = await count_signature(
        pool, failure.signature, since, COUNTED_MAX, function=execution.function
    )
    previous = await find_previous_deployment(pool, execution.deployment)
    before = previous.sha if previous is not None else _sha_before(totals, execution.sha)
    return _count(execution.sha, totals, failures), _count(before, totals, failures)


def _count(sha: str | None, totals: Sequence[ShaCount], failures: Sequence[ShaCount]) -> Count | None:
    total = next((each.count for each in totals if each.sha == sha), 0)
    failed = next((each.count for each in failures if each.sha == sha), 0)
    return Count(sha, failed, total) if sha and total else None


def _sha_before(totals: Sequence[ShaCount], sha: str) -> str | None:
    """Return the code that ran before ``sha``, where no deployment tells: the last that began before it."""
    began = next((each.first_id for each in totals if each.sha == sha), None)
    earlier = [each for each in totals if began is not None and each.sha and each.first_id < began]
    return max(earlier, key=lambda each: each.first_id).sha if earlier else None


def _list_to_follow(execution: Execution, writers: Sequence[RowWriter]) -> list[RowWriter]:
    """Return the values to be followed to where they came from: those whose column the failure names come first."""
    followed = [each for each in writers if each.column is not None and each.execution not in (None, execution.name)]
    text = ""
    if isinstance(execution.outcome, Raised):
        lines = [frame.source for frame in execution.outcome.frames if frame.user]
        text = " ".join([execution.outcome.message, *lines])
    named = [each for each in followed if re.search(rf"\b{re.escape(each.column or '')}\b", text)]
    return (named or followed)[:ORIGINS_MAX]


# --- rows ------------------------------------------------------------------------------------------


@attrs.frozen
class _RowRead:
    """A row as a statement returned it."""

    call: int
    schema: str
    table: str
    key: Mapping[str, object]
    """Values of the primary key's columns, as they stand in the answer."""
    values: Mapping[str, object]
    """The other columns that were returned."""
    snapshot: str
    """What its transaction could see."""

    @property
    def place(self) -> tuple[str, str, str]:
        """Which row it is."""
        return self.schema, self.table, _key_text(self.key)


def _list_rows_read(execution: Execution) -> list[_RowRead]:
    """Return the rows read last, each row once, without those that the execution had changed itself before."""
    found: dict[tuple[str, str, str], _RowRead] = {}
    for read in sorted(execution.reads, key=lambda read: -read.call):
        for row in _rows_of(execution, read):
            if len(found) == ROWS_MAX:
                return list(found.values())
            if not _is_own(execution, row):
                found.setdefault(row.place, row)
    return list(found.values())


def _rows_of(execution: Execution, read: Read) -> Iterator[_RowRead]:
    call = find_call(execution, read.call)
    statement = calls.read_statement(call) if call is not None else None
    begun = [each for each in execution.transactions if each.begun_by <= read.call]
    if statement is None or not statement.rows or not begun or not begun[-1].snapshot:
        return
    for values in statement.rows[:ROWS_MAX]:
        if all(index < len(values) for _, index in (*read.key, *read.columns)):
            yield _RowRead(
                read.call, read.schema, read.table,
                {column: _plain(values[index]) for column, index in read.key},
                {column: _plain(values[index]) for column, index in read.columns},
                _snapshot_of(begun[-1], read.call),
            )  # fmt: skip


def _snapshot_of(transaction: Transaction, call: int) -> str:
    """Return what a statement could see; in READ COMMITTED that is more than its transaction saw at its start."""
    own = next((each for each in transaction.statements if each.call == call), None)
    return (own and (own.after or own.before)) or transaction.snapshot


def _is_own(execution: Execution, row: _RowRead) -> bool:
    return any(
        mutation.call is not None
        and mutation.call < row.call
        and (mutation.schema, mutation.table) == (row.schema, row.table)
        and _same_key(mutation.key, row.key)
        for mutation in execution.mutations
    )


def _same_key(text: str | None, key: Mapping[str, object]) -> bool:
    if text is None:
        return False
    logged = msgspec.json.decode(text)
    return isinstance(logged, dict) and {name: str(value) for name, value in logged.items()} == {
        name: str(value) for name, value in key.items()
    }


async def _writers_of(pool: Pool, row: _RowRead) -> tuple[RowWriter, ...]:
    """Return who wrote each column that was read; one entry a version, or a column of it."""
    versions = await _list_versions(pool, row.schema, row.table, row.key)
    seen = [version for version in versions if is_visible(version.mutation.xid, row.snapshot)]
    if not seen and len(versions) == VERSIONS_MAX:
        # All that was read here came later; the version that was seen is farther back.
        last = await find_row_writer(pool, row.schema, row.table, row.key, row.snapshot)
        seen = [last] if last is not None else []
    writers: list[RowWriter] = []
    for column, value in row.values.items():
        for version in seen:
            if not _changes(version, column):
                continue
            # READ COMMITTED reads later than its transaction's start, and what bypasses the capture
            # is not in the history. So whoever wrote it must have written what was read.
            if _is_like(_column(version.mutation.after, column), value):
                writers.append(_make_writer(row.call, version, column))
            break
    return tuple(writers)


async def _writer_of(pool: Pool, execution: Execution, cell: Cell) -> RowWriter | None:
    """Return who wrote a value that an execution read, by what its transaction saw."""
    begun = [each for each in execution.transactions if each.begun_by <= cell.call]
    call = find_call(execution, cell.call)
    if not begun or not begun[-1].snapshot or call is None:
        return None
    for read in execution.reads:
        for other, value in list_cells(read, call) if read.call == cell.call else ():
            if other == cell:
                values = {cell.column: _plain(value)}
                key = {name: _plain(each) for name, each in cell.key.items()}
                row = _RowRead(cell.call, cell.schema, cell.table, key, values, _snapshot_of(begun[-1], cell.call))
                return next(iter(await _writers_of(pool, row)), None)
    return None


async def _list_versions(
    pool: Pool, schema: str, table: str, key: Mapping[str, object]
) -> list[RowVersion]:
    """Return the committed versions of a row, newest first."""
    place = f"{quote_identifier(schema)}.{quote_identifier(table)}"
    history = await list_row_history(pool, schema, place, _key_text(key), VERSIONS_MAX)
    return [version for version in history if version.mutation.committed]


def _key_text(key: Mapping[str, object]) -> str:
    """Return a key as `list_row_history` reads it."""
    texts = {column: value if isinstance(value, str) else str(value) for column, value in key.items()}
    return ",".join(f"{column}={text}" for column, text in sorted(texts.items()))


def _changes(version: RowVersion, column: str) -> bool:
    if version.mutation.op is Operation.INSERT or version.mutation.before is None:
        return True
    return _column(version.mutation.before, column) != _column(version.mutation.after, column)


def _column(image: str | None, column: str) -> str | None:
    """Return a column's value as the log has it, as JSON; None where the row or column is not there."""
    if image is None:
        return None
    value = msgspec.json.decode(image, type=dict[str, msgspec.Raw]).get(column)
    return None if value is None else bytes(value).decode()


def _is_like(logged: str | None, read: object) -> bool:
    """Return whether the log and the answer may mean the same value; types that they write differently may."""
    if logged is None:
        return False
    value = msgspec.json.decode(logged)
    if value is None or read is None or isinstance(read, bool):
        return value is read
    if isinstance(value, str) and isinstance(read, str):
        return value == read or re.search(r"\d", value) is not None  # Times, ranges and the like.
    return type(value) is not type(read) or value == read


def _make_writer(call: int, version: RowVersion, column: str | None) -> RowWriter:
    mutation = version.mutation
    return RowWriter(
        call=call, schema=mutation.schema, table=mutation.table, key=mutation.key or "{}", column=column,
        value=mutation.after if column is None else _column(mutation.after, column),
        before=mutation.before if column is None else _column(mutation.before, column),
        execution=version.name, function=version.function, sha=version.sha, at_ns=_to_ns(version.at),
        outside=version.outside, migration=version.migration,
        execution_id=version.execution, xid=mutation.xid, ordinal=mutation.ordinal,
    )  # fmt: skip


_ALREADY = re.compile(r"Key \((.*?)\)=\((.*)\) already exists", re.DOTALL)


async def _first_writers(pool: Pool, execution: Execution, failure: Failure) -> tuple[RowWriter, ...]:
    """Return who wrote the row that a unique violation met, when it still has the values that collided."""
    call = find_call(execution, failure.call)
    error = calls.find_error(call) if call is not None else None
    if failure.kind is not Kind.UNIQUE_VIOLATION or call is None or error is None:
        return ()
    details = calls.read_details(error)
    schema, table, detail = (details.get(name) for name in ("schema", "table", "detail"))
    if not (isinstance(schema, str) and isinstance(table, str) and isinstance(detail, str)):
        return ()
    collided = _read_collision(detail)
    if collided is None:
        return ()
    key = await find_unique_row(pool, schema, table, collided)
    if key is None:
        return ()
    ended = _moment(execution.started_at_ns + execution.elapsed_ns)
    for version in await _list_versions(pool, schema, table, {name: _plain(value) for name, value in key.items()}):
        # The first that was there by then and has brought the values in: later ones only kept them.
        if version.at <= ended and any(_changes(version, column) for column in collided):
            return (_make_writer(call.request.seq, version, None),)
    return ()


def _read_collision(detail: str) -> dict[str, str] | None:
    """Return the columns and values in the server's words, or None where they can't be told apart."""
    found = _ALREADY.search(detail)
    if found is None:
        return None
    columns = [column.strip().strip('"') for column in found[1].split(", ")]
    values = [found[2]] if len(columns) == 1 else found[2].split(", ")
    if len(columns) != len(values) or any("(" in column for column in columns):
        return None  # A value with a comma, or an expression and no column.
    return dict(zip(columns, values, strict=True))


def _plain(value: object) -> object:
    """Return a value of an answer as the log of changes writes it, as far as that can be told."""
    if isinstance(value, dict) and len(value) == 1:
        ((tag, inner),) = value.items()
        if tag in ("$uuid", "$datetime", "$date", "$time", "$decimal", "$int", "$float"):
            return inner
        if tag == "$bytes":
            return "\\x" + base64.b64decode(inner).hex()
    return value


def _moment(at_ns: int) -> datetime:
    return _EPOCH + timedelta(microseconds=at_ns // 1000)


def _to_ns(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000
