"""Taking a row out of the store: which records and changes hold it, and writing them anew without it.

`flux.forget` and `flux.forget_images` decide what goes; here it is found and written, in one transaction: all of it or
nothing. All records are read, in the order of their start, a page at a time, so that what a record was caused by comes
before it; and what came in meanwhile is read at the end. A dry run does the same and writes nothing, so what it counts
is what would be done.

It can be done once: what to look for is in the row's log, and that is gone afterwards. So what would be left for later,
in a job that is to run, refuses all of it.

The row itself stays as it is, where it still is: it is the application's.
"""

import re
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import datetime, timedelta

import attrs

from flux import codec
from flux.errors import OperatorError
from flux.execution import Execution
from flux.forget import Forgetter, RowValue, reads_row
from flux.forget_images import Column, Images, list_values
from flux.forget_images import Row as RowToForget
from flux.hidden import HIDDEN_CHARACTERS_MIN
from flux.mutation import Mutation
from flux.row_shapes import read_image
from flux.store.postgres import Connection, Pool, Row, quote_identifier
from flux.store.queries import QUERIES
from flux.store.reading import decode_recording
from flux.store.records import COLUMNS, make_record
from flux.store.row_blame import read_live_row
from flux.store.row_history import Table, make_mutation, read_key
from flux.store.row_partitions import find_row_table
from flux.store.table_shapes import TableHistory, read_table_history

PAGE = 200
VALUES_MAX = 500
"""Each is looked for in every record."""

LATE = timedelta(days=1)
"""Records of executions that began so long ago, or later, may come in while others are read."""

_FIRST = uuid.UUID(int=0)
_REWRITTEN = ("path", "error_type", "error_message", "error_location", "signature", "completeness", "hosts_failed",
              "format", "body")  # fmt: skip


class NothingToForgetError(OperatorError):
    """Of this row, nothing is recorded that it does not have now."""

    code = "FLX604"
    exit_code = 3


class TooManyValuesError(OperatorError):
    """The row had more different values than can be looked for."""

    code = "FLX605"
    exit_code = 6


class ForgettingElsewhereError(OperatorError):
    """Somebody else is just taking a row out of the records."""

    code = "FLX606"
    exit_code = 5


class StillToRunError(OperatorError):
    """Jobs that are to run hold values of the row."""

    code = "FLX616"
    exit_code = 6


@attrs.frozen
class Forgotten:
    """What was, or would be, taken out."""

    table: Table
    key: str
    """As it was in the log."""
    is_there: bool
    """The row is still in its table: what it has now stays everywhere."""
    values: int
    """Different values that were looked for."""
    shared: int
    """Of them, those that other rows of the table have too, or that are too short to be told from others."""
    executions: int
    calls: int
    replays: int
    """Of the executions, those that are replays."""
    changes: int
    """Of the row, in the log."""
    elsewhere: Mapping[str, int]
    """Changes of rows of other tables, or other rows, that held a value of the row's own, by table."""
    blobs: int
    jobs: int
    """That had failed for good."""
    jobs_waiting: int
    """That are to run and hold such values; in a dry run alone, as there is no other with such jobs."""
    pinned: Sequence[str]
    """Pinned incidents that some of the executions are in."""


async def forget_row(
    pool: Pool, tenant: str, schema: str, table_text: str, key_text: str, secret: bytes, *, dry_run: bool
) -> Forgotten:
    """Take a row out of what was recorded. ``secret`` makes the tokens, and is to be thrown away."""
    async with pool.acquire() as connection, connection.transaction(isolation="read committed"):
        await connection.fetch(QUERIES.pin_rendering)
        start = await connection.fetch_row(QUERIES.lock_forgetting)
        assert start is not None, "it selects constants"
        if not start["is_alone"]:
            raise ForgettingElsewhereError(
                "another row is just being taken out of the records", remedy="try again when that is done"
            )
        table = await find_row_table(connection, schema, table_text)
        key = await read_key(connection, table, key_text)
        history = await read_table_history(connection, table)
        work = _Work(connection, tenant, history, key, secret, dry_run=dry_run)
        return await work.run(start["at"])


class _Work:
    """One erasure."""

    def __init__(
        self, connection: Connection, tenant: str, history: TableHistory, key: str, secret: bytes, *, dry_run: bool
    ) -> None:
        self._connection = connection
        self._tenant = tenant
        self._history = history
        self._table = history.table
        self._key = key
        self._places = history.list_places(key)
        self._secret = secret
        self._dry_run = dry_run
        self._executions: list[uuid.UUID] = []
        self._calls = self._replays = 0
        self._own: set[int] = set()
        """The row's changes in the log."""
        self._late: set[uuid.UUID] = set()
        """Records that were read and are as young as those that may still come."""
        self._blobs_before: set[bytes] = set()
        self._blobs_after: set[bytes] = set()
        """That records use, of any tenant: equal bodies are stored once."""

    async def run(self, began: datetime) -> Forgotten:
        row = await self._read_row()
        values, seeds, last_seq = await self._read_log(row)
        values = await self._mark_shared(values)
        forgetter = Forgetter({place.table for place in self._places}, values, self._secret)
        images = Images(row, forgetter.own, self._secret)
        if not self._dry_run:
            self._refuse_waiting(await self._count_waiting(forgetter))  # Before all is read for nothing.
        since = began - LATE
        await self._rewrite_executions(forgetter, images, row, seeds, since)
        # First the jobs: one that ends after this held no such value, and the record of one that ended before is there.
        jobs, waiting = await self._rewrite_jobs(forgetter)
        if not self._dry_run:
            self._refuse_waiting(waiting)
            # From here on nothing is stored that was made of records as they were: `flux.store.erasures`.
            await self._connection.fetch(QUERIES.end_erasure)
        await self._rewrite_late(forgetter, images, row, seeds, since)
        changes = await self._rewrite_row(images)
        if not changes and not self._executions:
            if row.live:
                why = "the row has all the values now that it ever had"
            elif last_seq:
                why = "what is on record of it has nothing that is left"
            else:
                why = "no change of it is on record"
            raise NothingToForgetError(
                f"nothing of {self._table}[{self._key}] is there to be forgotten: {why}",
                remedy="delete the row, or overwrite what is to go, and forget it then" if row.live
                else f"flux state history {self._table} shows what is recorded of a key",
            )  # fmt: skip
        elsewhere = await self._rewrite_others(forgetter, images)
        pinned = await self._connection.fetch(QUERIES.list_pinned_names, self._tenant, self._executions)
        await self._list_blobs_of_others()
        bodies = sorted(self._blobs_before), sorted(self._blobs_after), began
        blobs = await self._connection.fetch_value(QUERIES.count_unused_blobs, *bodies)
        if not self._dry_run:
            await self._rewrite_replays(forgetter, seeds)
            await self._connection.execute(QUERIES.remove_blobs, *bodies)
            await self._connection.execute(
                QUERIES.add_forgotten, self._tenant, self._table.schema, self._table.name,
                images.erase(self._table.schema, self._table.name, self._key), last_seq,
                len(self._executions), changes + elsewhere.total(),
            )  # fmt: skip
        return Forgotten(
            self._table, self._key, bool(row.live), len(values), sum(_is_common(value) for value in values),
            len(self._executions), self._calls, self._replays, changes, dict(sorted(elsewhere.items())), blobs,
            jobs, waiting, tuple(each["name"] for each in pinned),
        )  # fmt: skip

    # --- what is to go -----------------------------------------------------------------------------

    async def _read_row(self) -> RowToForget:
        live = await read_live_row(self._connection, self._table, self._key)
        tables: dict[tuple[str, str], dict[str, Column]] = {}
        for each in await self._connection.fetch(QUERIES.list_known_columns):
            tables.setdefault((each["schema_name"], each["table_name"]), {})[each["name"]] = Column(
                each["number"], each["name"], each["type"], each["is_required"], each["is_enum"], each["is_key"],
                each["is_reference"],
            )  # fmt: skip
        return RowToForget(
            tables,
            frozenset((place.schema, place.table, place.key) for place in self._places),
            {column.number: column.name for column in self._history.now.columns},
            {} if live is None else read_image(live),
        )

    async def _read_log(self, row: RowToForget) -> tuple[list[RowValue], set[uuid.UUID], int]:
        """Return the values that are to go, the executions that changed the row or caused that, and its last change."""
        found: dict[RowValue, None] = {}
        xids: set[str] = set()
        rolled_back: set[uuid.UUID] = set()
        last = 0
        images = []
        async for change in self._list_row_log():
            last = max(last, change["seq"])
            if change["committed"]:
                xids.add(change["xid"])
            elif change["execution"] is not None:
                rolled_back.add(change["execution"])
            for text in (change["key"], change["before"], change["after"]):
                if text is not None:
                    images.append((change["schema_name"], change["table_name"], read_image(text)))
            if len(images) >= PAGE * 10:
                found |= dict.fromkeys(list_values(row, images))
                images = []
        found |= dict.fromkeys(list_values(row, images))
        looked_for = sum(not value.is_measure for value in found)
        if looked_for > VALUES_MAX:
            raise TooManyValuesError(
                f"{self._table}[{self._key}] had {looked_for:,} different values, and each would be looked for in "
                f"every record: {VALUES_MAX} is the most",
                remedy="flux records prune takes out what is old; what is left may be few enough",
            )
        seeds = await self._connection.fetch(QUERIES.list_row_executions, sorted(xids), sorted(rolled_back))
        return list(found), {each["id"] for each in seeds}, last

    async def _list_row_log(self) -> AsyncIterator[Row]:
        for place in self._places:
            last = 0
            while True:
                page = await self._connection.fetch(
                    QUERIES.list_row_log, place.schema, place.table, place.key, last, PAGE, place.relid, place.is_now
                )
                for change in page:
                    yield change
                if len(page) < PAGE:
                    break
                last = page[-1]["seq"]

    async def _mark_shared(self, values: Iterable[RowValue]) -> list[RowValue]:
        """Return the values, with a mark on those that another row of the table has in the same column."""
        columns = {column.name for column in self._history.now.columns}
        by_column: dict[str, list[str]] = {}
        values = list(values)
        for value in values:
            if len(value.text) >= HIDDEN_CHARACTERS_MIN and value.names[0] in columns:
                by_column.setdefault(value.names[0], []).append(value.text)
        shared = {
            (name, text)
            for name, texts in by_column.items()
            for text in await self._list_shared(name, texts)
        }
        return [attrs.evolve(value, is_shared=(value.names[0], value.text) in shared) for value in values]

    async def _list_shared(self, column: str, texts: Sequence[str]) -> list[str]:
        # Tables and columns can't be parameters, so this one statement is put together here and is not in queries.sql.
        place = f"{quote_identifier(self._table.schema)}.{quote_identifier(self._table.name)}"
        name = quote_identifier(column)
        same = " and ".join(f"t.{each} = k.{each}" for each in map(quote_identifier, self._table.key_columns))
        rows = await self._connection.fetch(
            f"select distinct t.{name}::text as value from {place} t, "
            f"pg_catalog.json_populate_record(null::{place}, $1::text::json) k "
            f"where t.{name}::text = any ($2::text[]) and not ({same})",
            self._key,
            list(texts),
        )
        return [row["value"] for row in rows]

    # --- records -----------------------------------------------------------------------------------

    async def _rewrite_executions(
        self, forgetter: Forgetter, images: Images, row: RowToForget, touched: set[uuid.UUID], since: datetime
    ) -> None:
        last = _FIRST
        while True:
            page = await self._connection.fetch(QUERIES.list_recordings_after, self._tenant, last, PAGE)
            for stored in page:
                if stored["started_at"] >= since - timedelta(seconds=1):  # Ids are in milliseconds.
                    self._late.add(stored["id"])
                await self._rewrite_recording(stored, forgetter, images, row, touched)
            if len(page) < PAGE:
                return
            last = page[-1]["id"]

    async def _rewrite_late(
        self, forgetter: Forgetter, images: Images, row: RowToForget, touched: set[uuid.UUID], since: datetime
    ) -> None:
        """Rewrite what was stored after its place had been passed: records are in the order of their start."""
        found = await self._connection.fetch(QUERIES.list_ids_since, self._tenant, since)
        ids = [each["id"] for each in found if each["id"] not in self._late]
        for start in range(0, len(ids), PAGE):
            page = await self._connection.fetch(QUERIES.list_recordings, self._tenant, ids[start : start + PAGE])
            for stored in page:
                await self._rewrite_recording(stored, forgetter, images, row, touched)

    async def _rewrite_recording(
        self, stored: Row, forgetter: Forgetter, images: Images, row: RowToForget, touched: set[uuid.UUID]
    ) -> None:
        digests = codec.list_blobs(stored["body"], stored["format"])
        execution = await decode_recording(self._connection, stored["body"], stored["format"])
        is_touched = (
            not touched.isdisjoint((execution.id, execution.parent, execution.replay_of))
            or reads_row(execution, row.places)
        )  # fmt: skip
        if is_touched:
            touched.add(execution.id)
        changed = forgetter.execution(execution, is_touched=is_touched, image=images.mutation)
        if changed is execution:
            self._blobs_after.update(digests)
        else:
            self._blobs_before.update(digests)
            await self._rewrite(execution, changed)

    async def _list_blobs_of_others(self) -> None:
        last = _FIRST
        while True:
            page = await self._connection.fetch(QUERIES.list_bodies_of_others, self._tenant, last, PAGE)
            for stored in page:
                self._blobs_after.update(codec.list_blobs(stored["body"], stored["format"]))
            if len(page) < PAGE:
                return
            last = page[-1]["id"]

    async def _rewrite(self, execution: Execution, changed: Execution) -> None:
        self._executions.append(execution.id)
        self._replays += execution.replay_of is not None
        self._calls += sum(one != other for one, other in zip(execution.calls, changed.calls, strict=True))
        record = make_record(changed)
        self._blobs_after.update(blob.sha256 for blob in record.blobs)
        if self._dry_run:
            return
        for blob in sorted(record.blobs, key=lambda blob: blob.sha256):
            await self._connection.execute(QUERIES.add_blob, blob.sha256, blob.size_bytes, blob.cut, blob.body)
        columns = dict(zip(COLUMNS, record.values, strict=True))
        await self._connection.execute(
            QUERIES.rewrite_execution, execution.id, *(columns[name] for name in _REWRITTEN)
        )

    async def _rewrite_replays(self, forgetter: Forgetter, touched: set[uuid.UUID]) -> None:
        """Rewrite what replays have shown: also of an execution that held nothing, whose replay asked for more."""
        last = _FIRST
        while True:
            page = await self._connection.fetch(QUERIES.list_replays_to_rewrite, self._tenant, last, PAGE)
            for replay in page:
                said = replay["reason"], None if replay["divergence"] is None else replay["divergence"].encode()
                is_touched = not touched.isdisjoint((replay["id"], replay["original"]))
                reason, divergence = forgetter.verdict(*said, is_touched=is_touched)
                if (reason, divergence) != said:
                    where = None if divergence is None else divergence.decode()
                    await self._connection.execute(QUERIES.rewrite_replay, replay["id"], reason, where)
            if len(page) < PAGE:
                break
            last = page[-1]["id"]
        await self._connection.execute(QUERIES.remove_bisect_runs, self._tenant)

    async def _rewrite_jobs(self, forgetter: Forgetter) -> tuple[int, int]:
        """Rewrite jobs that run no more; return how many, and how many hold values and are to run."""
        rewritten = waiting = 0
        for job in await self._connection.fetch(QUERIES.list_jobs_to_rewrite, self._tenant):
            payload, error = _hide_job(forgetter, job)
            if (payload, error) == (job["payload"], job["error"]):
                continue
            if _is_waiting(job, payload):
                waiting += 1
                payload = job["payload"]
            else:
                rewritten += 1
            if self._dry_run or await self._connection.fetch_value(QUERIES.rewrite_job, job["id"], payload, error):
                continue
            waiting += 1  # Somebody has just had it run again.
        return rewritten, waiting

    async def _count_waiting(self, forgetter: Forgetter) -> int:
        jobs = await self._connection.fetch(QUERIES.list_jobs_to_rewrite, self._tenant)
        return sum(_is_waiting(job, _hide_job(forgetter, job)[0]) for job in jobs)

    def _refuse_waiting(self, waiting: int) -> None:
        if not waiting:
            return
        holding = "1 job that is to run holds" if waiting == 1 else f"{waiting:,} jobs that are to run hold"
        raise StillToRunError(
            f"{holding} values of {self._table}[{self._key}], so nothing was forgotten: a second time, nobody would "
            "know what to look for",
            remedy="let them end, and forget the row then. flux queue list shows them",
        )

    # --- the log of changes ------------------------------------------------------------------------

    async def _rewrite_row(self, images: Images) -> int:
        count = 0
        async for change in self._list_row_log():
            self._own.add(change["seq"])
            count += await self._rewrite_change(change, images.erased(make_mutation(change)))
        return count

    async def _rewrite_others(self, forgetter: Forgetter, images: Images) -> Counter[str]:
        """Rewrite changes of other rows that hold what is the row's own; return how many, by table."""
        found: Counter[str] = Counter()
        pattern = _make_pattern(forgetter.own.spellings)
        if pattern is None:
            return found
        for where in await self._connection.fetch(QUERIES.find_changes_that_hold, self._tenant, pattern):
            change = await self._connection.fetch_row(QUERIES.get_change, where["tableoid"], where["ctid"])
            if change is None or change["seq"] in self._own:
                continue  # The row's own are done, or in a dry run counted.
            if await self._rewrite_change(change, images.hidden(make_mutation(change))):
                found[f"{change['schema_name']}.{change['table_name']}"] += 1
        return found

    async def _rewrite_change(self, change: Row, changed: Mutation) -> bool:
        if changed == make_mutation(change):
            return False
        if not self._dry_run:
            await self._connection.execute(
                QUERIES.rewrite_change, change["tableoid"], change["ctid"], changed.key, changed.before, changed.after
            )
        return True


def _is_common(value: RowValue) -> bool:
    return value.is_shared or value.is_measure or len(value.text) < HIDDEN_CHARACTERS_MIN


def _hide_job(forgetter: Forgetter, job: Row) -> tuple[bytes | None, str | None]:
    """Return payload and error without the row's values."""
    return (
        None if job["payload"] is None else forgetter.own.hide_json(job["payload"]),
        None if job["error"] is None else forgetter.own.hide_text(job["error"]),
    )


def _is_waiting(job: Row, hidden: bytes | None) -> bool:
    return bool(job["state"] != "dead" and hidden != job["payload"])


def _make_pattern(spellings: Iterable[bytes]) -> str | None:
    """Return a regular expression for all that is looked for, as PostgreSQL reads it; None for nothing."""
    texts = []
    for spelling in spellings:
        try:
            text = spelling.decode()
        except UnicodeDecodeError:
            continue  # Bytes that are no text: images have them in other spellings.
        if "\0" not in text:
            texts.append(text)
    return "|".join(map(_escape, texts)) or None


def _escape(text: str) -> str:
    return re.sub(r"([\\.^$*+?()\[\]{}|])", r"\\\1", text)


