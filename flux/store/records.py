"""Writing executions down: what a record is, and three ways to store one.

A `Record` is an execution as a row of ``flux.execution``: columns that lists and filters
need, and the encoded execution itself. `make_record` decides all of it without waiting.
Guests write what they like into an execution, so every text that becomes a column is made
storable and short here; the whole of it is in the record's body.

How a record reaches the table depends on what it says:

* an execution with a transaction takes its record along into it: `commit_parameters` are the values of
  ``QUERIES.commit_record``, sent on the guest's own connection just before COMMIT;
* the others go through a `RecordWriter`, which collects for some milliseconds and writes many at once;
* recovery, which must know before it deletes a journal, uses a `RecordStore`.

A record's blobs are stored before it: no record points to what isn't there. And all ways are safe to
repeat: an execution that has a record is left as it is.
"""

import contextlib
import re
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from typing import TypeVar

import attrs
import trio

from flux import codec, failure, values
from flux.codec import Blob
from flux.execution import Execution, Outcome, Raised, Returned
from flux.hostcall import Position
from flux.limits import MIB
from flux.mutation import Mutation
from flux.store.postgres import (
    BadQueryArgument,
    CannotConnect,
    Connection,
    ConnectionLost,
    DatabaseError,
    Pool,
    sending_s,
)
from flux.store.queries import QUERIES

COLUMNS = (
    "id", "name", "tenant", "trigger", "function", "method", "path", "route", "status", "outcome",
    "error_type", "error_message", "error_location", "signature", "started_at", "elapsed_ns", "call_count",
    "mutation_count", "sha", "dirty", "deployment", "parent", "attempt", "replay_of", "completeness",
    "hosts_failed", "format", "body",
)  # fmt: skip
"""Of ``flux.execution``, in the order of ``flux.commit_record``; ``xid`` only the database knows."""

WHOLE = "whole"
"""What ``completeness`` says when nothing is missing; else it has a sentence a line."""

NAME_CHARACTERS_MAX = 200
TEXT_CHARACTERS_MAX = 2000
HOSTS_MAX = 32
"""Columns are for lists and filters, and indexed ones must be small; the body has everything."""

RECORD_BODY_BYTES_MAX = 256 * MIB
"""Postgres has no value beyond 1 GiB and needs its memory several times over: a larger record is reduced."""

BATCH_RECORDS_MAX = 256
BATCH_BYTES_MAX = 16 * MIB
BATCH_WAIT_S = 0.01
"""A batch is written when it has so many records, or its first has waited so long."""

ROLLED_BACK_ROWS_MAX = 200
"""So many rows that were changed in vain go into one statement."""

WRITE_S_MAX = 60.0
"""A write that takes longer, beside the time that its bytes have, is given up and tried again."""

RETRY_S_MIN, RETRY_S_MAX = 0.05, 5.0

_T = TypeVar("_T")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_OWN_FAULTS = ("0A", "21", "22", "23", "54")
"""Classes of SQLSTATE that speak of the values sent, not of the server's state."""


@attrs.frozen
class Record:
    """An execution, ready to be stored."""

    id: uuid.UUID
    """Of the execution."""
    values: tuple[object, ...] = attrs.field(repr=False)
    """One for each of `COLUMNS`."""
    blobs: tuple[Blob, ...] = ()
    """Stored before the record."""
    rolled_back: tuple[Mutation, ...] = ()
    """Rows that the execution changed in vain, for the histories of these rows."""
    size_bytes: int = 0
    """About how much memory it takes."""


@attrs.frozen
class WriterCounts:
    """What a `RecordWriter` has done and has before it."""

    waiting: int
    """Records that are not stored yet."""
    waiting_bytes: int
    """Their size."""
    stored: int
    """Records stored, or found to be stored already."""
    reduced: int
    """Among them: records that the database refused whole, stored without what they hold."""
    retries: int
    """Writes that failed and were tried again."""
    stalled_since: float | None
    """Since when the present write fails or hangs, on trio's clock; None: all is well."""
    last_error: str
    """Why the last write that failed did; stays when all is well again."""


# --- making ----------------------------------------------------------------------------------------


def make_record(execution: Execution) -> Record:
    """Return the record of ``execution``. Of its mutations, it holds those that were rolled back; of a replay, all."""
    is_replay = execution.replay_of is not None
    rolled_back = tuple(
        mutation for mutation in execution.mutations if is_replay or not mutation.committed
    )
    holds_all = len(rolled_back) == len(execution.mutations)
    encoded = codec.encode_execution(execution if holds_all else attrs.evolve(execution, mutations=rolled_back))
    if is_replay:
        rolled_back = ()  # Its world's rows are no rows of the tables, and have no place in their histories.
    columns = (*make_columns(execution, encoded.completeness), encoded.format, encoded.body)
    size_bytes = len(encoded.body) + sum(len(blob.body) for blob in encoded.blobs)
    size_bytes += count_bytes(rolled_back)
    record = Record(execution.id, columns, encoded.blobs, rolled_back, size_bytes)
    if len(encoded.body) > RECORD_BODY_BYTES_MAX:
        return make_reduced(record, f"it has {len(encoded.body):,} bytes")
    return record


def count_bytes(mutations: Iterable[Mutation]) -> int:
    """About how large the images of ``mutations`` are."""
    return sum(len(m.before or "") + len(m.after or "") for m in mutations)


def make_columns(execution: Execution, completeness: tuple[str, ...]) -> tuple[object, ...]:
    """Return the values of `COLUMNS` but for the last two, ``format`` and ``body``: what lists show.

    It costs little, so the live tail can have the same values before anything is encoded.
    """
    found = failure.find_failure(execution)
    trigger = execution.trigger
    hosts = failure.list_failed_hosts(execution)
    status = execution.status
    return (
        execution.id,
        execution.name,
        _name(execution.tenant),
        _name(trigger.kind),
        _name(execution.function),
        _name(trigger.method) or None,
        _text(trigger.path) or None,
        _text(trigger.route) or None,
        status if 0 < status < 1000 else None,  # 0: there was no answer
        execution.outcome.kind,
        _name(found.type) if found else None,
        _text(found.message) if found else None,
        _place(found.location) if found and found.location else None,
        _text(found.signature, failure.SIGNATURE_CHARACTERS_MAX * 2) if found and found.signature else None,
        _EPOCH + timedelta(microseconds=execution.started_at_ns // 1000),
        min(execution.elapsed_ns, 2**63 - 1),
        len(execution.calls),
        min(execution.mutation_count, 2**31 - 1),
        _name(execution.sha),
        execution.dirty,
        _name(execution.deployment),
        execution.parent,
        execution.attempt,
        execution.replay_of,
        _sentences(completeness),
        [_name(host) for host in hosts[:HOSTS_MAX]] or None,
    )


def commit_parameters(record: Record, token: bytes) -> tuple[object, ...]:
    """Return the values of ``QUERIES.commit_record``: the supervisor's token and the record."""
    return (token, *record.values)


def make_reduced(record: Record, reason: str) -> Record:
    """Return ``record`` without calls, logs and bodies, since it can't be stored whole for ``reason``."""
    blobs = {blob.sha256: blob for blob in record.blobs}
    by_name = dict(zip(COLUMNS, record.values, strict=True))
    body, format_version = by_name["body"], by_name["format"]
    assert isinstance(body, bytes) and isinstance(format_version, int)
    execution = codec.decode_execution(body, format_version, blobs.get)
    sentence = f"the record can't be stored whole ({reason}): calls, logs, bodies and rows are left out"
    trigger = attrs.evolve(
        execution.trigger, body=b"", headers=(), params=(), query=(), correlation=()
    )
    reduced = attrs.evolve(
        execution, trigger=trigger, outcome=_without_body(execution.outcome), calls=(), logs=(), mutations=(),
        reads=(), completeness=(*execution.completeness, sentence),
    )  # fmt: skip
    return make_record(reduced)


def _without_body(outcome: Outcome) -> Outcome:
    match outcome:
        case Returned():
            return attrs.evolve(outcome, body=b"", headers=())
        case Raised():
            return attrs.evolve(outcome, violations=b"[]")
        case _:
            return outcome


def make_storable(text: str) -> str:
    """Return ``text`` with U+FFFD for what a database of Unicode texts has no place for: NUL, surrogates."""
    return text if text.isascii() and "\0" not in text else _UNSTORABLE.sub("\ufffd", text)


def _text(text: str, characters_max: int = TEXT_CHARACTERS_MAX) -> str:
    if len(text) > characters_max:
        text = text[: characters_max - 1] + "…"
    return make_storable(text)


def _name(text: str) -> str:
    return _text(text, NAME_CHARACTERS_MAX)


def _place(position: Position) -> str:
    # JSON, since both a file's name and a function's may hold any character.
    place = {"file": _text(position.file), "line": position.line, "function": _text(position.function)}
    return values.encode(place).decode()


def _sentences(completeness: tuple[str, ...]) -> str:
    lines = [_text(sentence.replace("\n", " ")) for sentence in completeness]
    return "\n".join(lines) or WHOLE


# --- storing one -----------------------------------------------------------------------------------


def writing_s(size_bytes: int) -> float:
    """How many seconds a write of ``size_bytes`` may take as a whole."""
    return WRITE_S_MAX + sending_s(size_bytes)


@attrs.frozen
class RecordStore:
    """Stores one record at a time; what it has said is stored, is durable."""

    pool: Pool
    """Connections of the owner's role."""

    async def exists(self, execution_id: uuid.UUID) -> bool:
        """Whether the execution has a record."""
        async with self.pool.acquire() as connection:
            return await connection.fetch_value(QUERIES.find_execution_id, execution_id) is not None

    async def add(self, execution: Execution) -> None:
        """Store the execution unless it has a record. Waits for a transaction that is just committing one."""
        await self.insert(make_record(execution))

    async def insert(
        self, record: Record, beside: "Beside | None" = None, *, most_s: float | None = None
    ) -> "Inserted":
        """Store ``record`` unless its execution has one; reduced, if the database refuses it whole.

        ``beside`` is done in the same transaction if the record is new, and nothing is stored when it raises. After
        ``most_s`` seconds the server ends the transaction; None: after as long as a record of its size may take.
        """
        try:
            is_new = await self._insert(record, beside, most_s)
        except (DatabaseError, BadQueryArgument) as error:
            if not _is_own_fault(error):
                raise
            reduced = make_reduced(record, _reason(error))
            return Inserted(await self._insert(reduced, beside, most_s), is_reduced=True)
        return Inserted(is_new, is_reduced=False)

    async def _insert(self, record: Record, beside: "Beside | None", most_s: float | None) -> bool:
        async with _writing(self.pool, writing_s(record.size_bytes) if most_s is None else most_s) as connection:
            await _add_blobs(connection, record.blobs)
            is_new = await connection.fetch_value(QUERIES.add_execution, *record.values) is not None
            if is_new:
                await _add_rolled_back(connection, record.id, record.rolled_back)
                if beside is not None:
                    await beside(connection)
            return is_new


Beside = Callable[[Connection], Awaitable[None]]
"""What else belongs into a record's transaction."""


@attrs.frozen
class Inserted:
    """What became of a record."""

    is_new: bool
    """False: the execution had a record already, and keeps it."""
    is_reduced: bool
    """The database refused the whole record; what it does take was stored, and says so."""


@contextlib.asynccontextmanager
async def _writing(pool: Pool, most_s: float) -> AsyncIterator[Connection]:
    """A transaction that writes records: it takes no longer than who waits for it.

    Given up on a line that is dead, it stays open at the server, which hears of no end; it would have the records'
    keys, and the next try would wait for it, for as long as the server keeps a line that says nothing.
    """
    async with pool.acquire() as connection, connection.transaction(most_s=most_s):
        yield connection


async def _add_blobs(connection: Connection, blobs: Iterable[Blob]) -> None:
    # In one order everywhere: two transactions that add the same two must not wait for each other.
    for blob in sorted({blob.sha256: blob for blob in blobs}.values(), key=lambda blob: blob.sha256):
        await connection.execute(QUERIES.add_blob, blob.sha256, blob.size_bytes, blob.cut, blob.body)


_LETTER = {"insert": "I", "update": "U", "delete": "D", "truncate": "T"}


async def _add_rolled_back(
    connection: Connection, execution_id: uuid.UUID, mutations: Sequence[Mutation]
) -> None:
    # Some at a time: an image may be large, and a message has to fit into memory.
    for start in range(0, len(mutations), ROLLED_BACK_ROWS_MAX):
        await _add_some_rolled_back(
            connection, execution_id, mutations[start : start + ROLLED_BACK_ROWS_MAX]
        )


async def _add_some_rolled_back(
    connection: Connection, execution_id: uuid.UUID, mutations: Sequence[Mutation]
) -> None:
    await connection.execute(
        QUERIES.add_rolled_back_mutations,
        execution_id,
        [_EPOCH + timedelta(microseconds=m.at_ns // 1000) if m.at_ns else None for m in mutations],
        [str(m.xid) for m in mutations],
        [m.ordinal for m in mutations],
        [make_storable(m.schema) for m in mutations],
        [make_storable(m.table) for m in mutations],
        [_LETTER[m.op] for m in mutations],
        [m.depth for m in mutations],
        [m.key if m.key is None else make_storable(m.key) for m in mutations],
        [m.before if m.before is None else make_storable(m.before) for m in mutations],
        [m.after if m.after is None else make_storable(m.after) for m in mutations],
    )


def _is_own_fault(error: DatabaseError | BadQueryArgument) -> bool:
    """Whether the record is to blame, so that trying again would never help."""
    return isinstance(error, BadQueryArgument) or error.sqlstate[:2] in _OWN_FAULTS


def _reason(error: DatabaseError | BadQueryArgument) -> str:
    return error.message.partition("\n")[0]


# --- storing many ----------------------------------------------------------------------------------


async def _in_time(size_bytes: int, write: Callable[[], Awaitable[_T]]) -> _T:
    with trio.fail_after(writing_s(size_bytes)):
        return await write()


class RecordWriter:
    """Takes records at once and stores them soon, many in one transaction.

    Nothing is ever dropped: while the database is away, records wait here, and `wait_room` lets no more
    work begin than there is memory for. They are in the journal meanwhile, so that even the end of
    this process loses none. A record that the database refuses for what it holds is stored reduced, and
    says so.
    """

    def __init__(self, pool: Pool, *, waiting_max: int = 10_000, waiting_bytes_max: int = 256 * MIB) -> None:
        self._pool = pool
        self._store = RecordStore(pool)
        self._waiting_max = waiting_max
        self._waiting_bytes_max = waiting_bytes_max
        self._queue: deque[tuple[Record, Callable[[], None]]] = deque()
        self._batch_max = BATCH_RECORDS_MAX
        """So many records are tried together: fewer after a write that failed, more again after one that did not."""
        self._additions: deque[tuple[Callable[[], Awaitable[object]], int]] = deque()
        self._additions_submitted = self._additions_done = 0
        self._waiting_bytes = 0
        self._submitted = self._stored = self._reduced = self._retries = 0
        self._last_error = ""
        self._write_began: float | None = None
        self._is_failing = False
        self._arrived = trio.Event()
        self._progress = trio.lowlevel.ParkingLot()

    @property
    def counts(self) -> WriterCounts:
        """How it stands."""
        began = self._write_began
        is_stalled = began is not None and (self._is_failing or trio.current_time() - began > 1.0)
        return WriterCounts(
            len(self._queue), self._waiting_bytes, self._stored, self._reduced, self._retries,
            began if is_stalled else None, self._last_error,
        )  # fmt: skip

    def submit(self, record: Record, on_stored: Callable[[], None]) -> None:
        """Take ``record`` without waiting. ``on_stored`` is called when it is durable, and must not raise."""
        self._queue.append((record, on_stored))
        self._waiting_bytes += record.size_bytes
        self._submitted += 1
        self._arrived.set()

    def submit_addition(self, add: Callable[[], Awaitable[object]], size_bytes: int = 0) -> None:
        """Take something that is to be added to the database beside a record, and try until it is there.

        ``size_bytes`` is about how much it sends.
        """
        self._additions.append((add, size_bytes))
        self._additions_submitted += 1
        self._arrived.set()

    @property
    def has_room(self) -> bool:
        """Whether there is room for another record. Ask before work begins that will make one."""
        return len(self._queue) < self._waiting_max and self._waiting_bytes < self._waiting_bytes_max

    async def wait_room(self) -> None:
        """Wait until there is room for another record."""
        await trio.lowlevel.checkpoint()
        while not self.has_room:
            await self._progress.park()

    async def flush(self) -> None:
        """Wait until all that was submitted before is durable."""
        await trio.lowlevel.checkpoint()
        wanted, additions = self._submitted, self._additions_submitted
        while self._stored < wanted or self._additions_done < additions:
            await self._progress.park()

    async def insert(self, record: Record, over: Pool | None = None, most_s: float | None = None) -> bool:
        """Store one record now; False when its execution had one. Raises what the database says.

        It waits for a transaction that is just committing a record of the same execution, so the answer
        also tells what became of that transaction. ``over`` another pool than the writer's; ``most_s`` as of
        `RecordStore.insert`.
        """
        store = self._store if over is None else RecordStore(over)
        return (await store.insert(record, most_s=most_s)).is_new

    async def write_blobs(self, blobs: Sequence[Blob]) -> None:
        """Store the blobs of a record that goes into a guest's transaction. Raises what the database says."""
        if blobs:
            async with self._pool.acquire() as connection:
                await _add_blobs(connection, blobs)

    async def add_rolled_back(self, execution_id: uuid.UUID, mutations: Sequence[Mutation]) -> None:
        """Put what an execution changed in vain into the rows' histories, when its record went elsewhere."""
        if mutations:
            async with _writing(self._pool, writing_s(count_bytes(mutations))) as connection:
                await _add_rolled_back(connection, execution_id, mutations)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Store what is submitted, until cancelled; `flush` first."""
        task_status.started()
        while True:
            await self._arrived.wait()
            if len(self._queue) < BATCH_RECORDS_MAX:
                await trio.sleep(BATCH_WAIT_S)
            while self._queue:
                await self._write_batch()
                if len(self._queue) < BATCH_RECORDS_MAX:
                    break
            if not self._queue:
                await self._add_one()
            if not self._queue and not self._additions:
                self._arrived = trio.Event()

    async def _add_one(self) -> None:
        if self._additions:
            add, size_bytes = self._additions[0]
            await self._insist(partial(_in_time, size_bytes, partial(self._add, add)))
            self._additions.popleft()
            self._additions_done += 1
            self._progress.unpark_all()

    async def _add(self, add: Callable[[], Awaitable[object]]) -> None:
        try:
            await add()
        except (DatabaseError, BadQueryArgument) as error:
            if not _is_own_fault(error):
                raise
            self._reduced += 1
            self._last_error = error.message

    async def _write_batch(self) -> None:
        # The records stay in the queue until they are durable: a cancellation here loses nothing.
        batch, is_stored = await self._insist(self._copy_some)
        if is_stored:
            self._done(len(batch))
            return
        # One of them is refused, or is there already: each on its own then.
        for record in batch:
            inserted = await self._insist(partial(_in_time, record.size_bytes, partial(self._store.insert, record)))
            self._reduced += inserted.is_reduced
            self._done(1)

    async def _copy_some(self) -> tuple[list[Record], bool]:
        """Try to store those records that are next; return them with whether they are stored, as `_copy` says it.

        When it raises, the next try has half of them: on a line that is too slow for all, some come through.
        """
        batch: list[Record] = []
        size_bytes = 0
        for record, _ in islice(self._queue, self._batch_max):
            if batch and size_bytes + record.size_bytes > BATCH_BYTES_MAX:
                break
            size_bytes += record.size_bytes
            batch.append(record)
        most = self._batch_max
        self._batch_max = max(1, len(batch) // 2)
        is_stored = await _in_time(size_bytes, partial(self._copy, batch, size_bytes))
        self._batch_max = min(most * 2, BATCH_RECORDS_MAX)
        return batch, is_stored

    async def _copy(self, batch: list[Record], size_bytes: int) -> bool:
        """Store all of ``batch``, or nothing and answer False when one of its records is to blame."""
        try:
            async with _writing(self._pool, writing_s(size_bytes)) as connection:
                await _add_blobs(connection, (blob for record in batch for blob in record.blobs))
                await connection.copy_records(
                    "execution", COLUMNS, [record.values for record in batch], schema="flux"
                )
                for record in batch:
                    await _add_rolled_back(connection, record.id, record.rolled_back)
        except (DatabaseError, BadQueryArgument) as error:
            if _is_own_fault(error):
                return False
            raise
        return True

    async def _insist(self, write: Callable[[], Awaitable[_T]]) -> _T:
        """Run ``write``, which has a limit of its own, until the database has answered it."""
        pause_s = RETRY_S_MIN
        self._write_began = trio.current_time()
        while True:
            tried_at = trio.current_time()
            try:
                answer = await write()
            except (DatabaseError, CannotConnect, ConnectionLost) as error:
                self._last_error = error.message
            except trio.TooSlowError:
                self._last_error = f"the database did not answer in {trio.current_time() - tried_at:.0f} s"
            else:
                self._is_failing = False
                self._write_began = None
                return answer
            self._is_failing = True
            self._retries += 1
            await trio.sleep(pause_s)
            pause_s = min(pause_s * 2, RETRY_S_MAX)

    def _done(self, count: int) -> None:
        for _ in range(count):
            record, on_stored = self._queue.popleft()
            self._waiting_bytes -= record.size_bytes
            self._stored += 1
            on_stored()
        self._progress.unpark_all()
