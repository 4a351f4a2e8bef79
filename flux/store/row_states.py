"""Rows as they were: the table as it is now, with all that a snapshot did not see taken back.

Of a row with a key, the first change that the snapshot did not see has the row as the snapshot saw it, before that
change; a row without such a change is as it is now. Rows without a key are told apart by nothing but their values:
they are counted.

What is answered is only what is known. A change that is in no log shows where the row of then is not what the last
recorded change had left: that row has a gap. A column that was dropped since is named as lost. Where the rows can't
be put together at all, the answer is an error that says why, and never a table that looks whole.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import attrs

from flux.as_of import is_visible
from flux.errors import OperatorError
from flux.row_shapes import Shape, Shown, find_shape, is_same, read_image, show
from flux.store.moments import Moment, Resolved, check_log, resolve
from flux.store.postgres import Connection, DatabaseError, Pool, Row, quote_identifier
from flux.store.queries import QUERIES
from flux.store.row_blame import read_live_row
from flux.store.row_history import RowVersion, Table, find_table, make_version, read_key
from flux.store.row_partitions import check_no_partition, find_row_table, list_maybe_parted
from flux.store.table_shapes import Place, TableHistory, read_table_history
from flux.store.world_rows import literal


class MomentOpenError(OperatorError):
    """It can't be told which of some transactions had been committed by then."""

    code = "FLX581"
    exit_code = 6


class StateNotKnownError(OperatorError):
    """The rows of then can't be put together from what is recorded."""

    code = "FLX582"
    exit_code = 6


class NotThereThenError(OperatorError):
    """The table was not there then."""

    code = "FLX584"
    exit_code = 3


@attrs.frozen
class RowThen:
    """A row as it was."""

    key: str | None
    """In the log's form, under the names of now; None without a key."""
    values: Mapping[str, str]
    """Its columns as they were called then, as JSON text."""
    is_gap: bool = False
    """It is not what the last recorded change had left: something changed it past the capture."""


@attrs.frozen
class StateFound:
    """Rows as they were."""

    table: Table
    snapshot: str
    """The moment, as what it saw."""
    rows: tuple[RowThen, ...]
    more: bool
    """There are more rows than were asked for."""
    lost: Mapping[str, str]
    """Columns that some of the rows lack, and why."""
    notes: tuple[str, ...]
    """What else is not sure, a sentence each."""
    writer: RowVersion | None = None
    """Of a single row: the last change that the moment saw."""


async def find_state(
    pool: Pool, schema: str, table_text: str, key_text: str | None, moment: Moment, limit: int
) -> StateFound:
    """Return the row, or at most ``limit`` rows in the order of their keys, as they were at a moment."""
    async with pool.acquire() as connection:
        async with connection.transaction(isolation="repeatable read", read_only=True):
            await connection.fetch(QUERIES.pin_rendering)
            if key_text is None:
                table, key = await find_table(connection, schema, table_text), None
                await check_no_partition(connection, table)
            else:
                table = await find_row_table(connection, schema, table_text)
                key = await read_key(connection, table, key_text)
            resolved = await resolve(connection, moment)
            view = await open_view(connection, table, resolved, key)
            found = await (view.read_table(limit) if key is None else view.read_row(key))
        await check_log(connection, moment)
    return found


@attrs.frozen
class View:
    """A table at a moment."""

    connection: Connection
    history: TableHistory
    then: Shape
    """What it was called and what columns it had."""
    snapshot: str
    notes: tuple[str, ...]

    # --- one row -----------------------------------------------------------------------------------

    async def read_row(self, key: str) -> StateFound:
        """Return one row as it was; no rows where it was not there."""
        places = self.history.list_places(key)
        last = await self._find_last(places)
        later = await self._find_later(places, last.seq if last is not None else 0)
        image: Shown | None
        if later is not None:
            image = self.show_logged(later["before"], later["at"])
        else:
            live = await read_live_row(self.connection, self.history.table, key)
            image = None if live is None else self.show_live(live)
        left = None if last is None else self.show_logged(last.mutation.after, last.at)
        is_gap = last is not None and not _agree(left, image)
        rows = () if image is None else (RowThen(key, image.values, is_gap),)
        notes = self.notes
        if image is None and is_gap:
            notes = (*notes, "the last recorded change left the row there: it went past the capture")
        return StateFound(
            self.history.table, self.snapshot, rows, False, {} if image is None else image.lost, notes, last
        )

    async def _find_last(self, places: Sequence[Place]) -> RowVersion | None:
        """Return the last change of a row that the moment saw."""
        found = [
            await self.connection.fetch_row(
                QUERIES.find_row_version_in_snapshot, place.schema, place.table, place.key, self.snapshot, place.relid,
                place.is_now,
            )
            for place in places
        ]
        return max(
            (make_version(row) for row in found if row is not None), key=lambda each: each.seq, default=None
        )

    async def _find_later(self, places: Sequence[Place], seq: int) -> Row | None:
        """Return the first change of a row after one: changes of a row are in the order of their commits."""
        found = [
            await self.connection.fetch_row(
                QUERIES.find_row_change_after, place.schema, place.table, place.key, seq, place.relid, place.is_now
            )
            for place in places
        ]
        return min((row for row in found if row is not None), key=lambda row: int(row["seq"]), default=None)

    # --- images ------------------------------------------------------------------------------------

    def show_live(self, text: str) -> Shown:
        """Return a row of now in the names of then."""
        return show(read_image(text), self.history.now, self.then)

    def show_logged(self, text: str | None, at: datetime) -> Shown | None:
        """Return an image that the log got ``at`` some time, in the names of then."""
        if text is None:
            return None
        image = read_image(text)
        return show(image, find_shape(self.history.shapes, image, at), self.then)

    # --- a table -----------------------------------------------------------------------------------

    async def read_table(self, limit: int) -> StateFound:
        """Return the table's rows as they were, ``limit`` at most."""
        if not self.history.table.key_columns:
            return await self._count_rows(limit)
        rows = await self._run(self._rows_sql(), limit)
        shown = [
            (
                row["key"],
                self.show_live(row["image"])
                if row["at"] is None
                else self.show_logged(row["image"], row["at"]),
            )
            for row in rows
        ]
        gaps = await self.find_gaps([(key, image) for key, image in shown if image is not None][:limit])
        lost: dict[str, str] = {}
        found = []
        for key, image in shown[:limit]:
            assert image is not None, "rows that were not there are not fetched"
            lost |= image.lost
            found.append(RowThen(key, image.values, key in gaps))
        return StateFound(
            self.history.table, self.snapshot, tuple(found), len(rows) > limit, lost, self.notes
        )

    async def _run(self, sql: str, limit: int) -> list[Row]:
        try:
            return await self.connection.fetch(sql, self.history.table.relid, self.snapshot, limit + 1)
        except DatabaseError as error:
            if error.sqlstate[:2] not in ("22", "23"):
                raise
            raise StateNotKnownError(
                f"a row of {self.history.table} in the log does not fit its columns of now: {error.report.message}",
                remedy="ask for one row: flux state at TABLE KEY",
            ) from error

    def _rows_sql(self) -> str:
        """Return the query of the table's rows: (key, image, at), where ``at`` is null for a row that is as now."""
        table = self.history.table
        place = f"{quote_identifier(table.schema)}.{quote_identifier(table.name)}"
        columns = [quote_identifier(name) for name in table.key_columns]
        order = ", ".join(f"r.k{number}" for number in range(len(columns)))
        live_keys = ", ".join(f"t.{name} as k{number}" for number, name in enumerate(columns))
        undo_keys = ", ".join(f"p.{name} as k{number}" for number, name in enumerate(columns))
        live_key = _key_text(
            table.key_columns, lambda name: f"pg_catalog.to_json(t.{quote_identifier(name)})::text"
        )
        live_order = ", ".join(f"t.{name}" for name in columns)
        # So many rows of now are enough: of these, no more than have changed since are taken out again.
        return f"""
with undo as materialized (
    select distinct on (s.key) s.key, s.before, s.at from (
        select {self.logged_key()} as key, m.before::text as before, m.at, m.seq
        from flux.mutation m where {_SINCE} and m.key is not null) s
    order by s.key, s.seq
), live as (
    select {live_key} as key, pg_catalog.to_json(t)::text as image, {live_keys}
    from (select t.* from {place} t order by {live_order} limit $3::int8 + (select pg_catalog.count(*) from undo)) t
)
select r.key, r.image, r.at from (
    select l.key, l.image, null::timestamptz as at, {", ".join(f"l.k{number}" for number in range(len(columns)))}
    from live l where not exists (select from undo u where u.key = l.key)
    union all
    select u.key, u.before, u.at, {undo_keys}
    from undo u cross join lateral pg_catalog.json_populate_record(null::{place}, u.key::json) p
    where u.before is not null
) r order by {order} limit $3"""

    def logged_key(self) -> str:
        """Return the key of a row of the log under the names of now, in SQL."""
        names: dict[str, list[str]] = {}
        for column in self.history.now.key:
            known = [
                each.name
                for shape in self.history.shapes
                for each in shape.key
                if each.number == column.number
            ]
            names[column.name] = list(dict.fromkeys([column.name, *known]))
        if all(len(known) == 1 for known in names.values()):
            return "m.key"
        return _key_text(
            self.history.table.key_columns,
            lambda name: (
                f"coalesce({', '.join(f'm.key::json -> {literal(each)}' for each in names[name])})::text"
            ),
        )

    async def find_gaps(self, rows: Sequence[tuple[str, Shown]]) -> set[str]:
        """Return the keys of rows that are not as their last recorded change had left them."""
        places = [(key, place) for key, _ in rows for place in self.history.list_places(key)]
        found = await self.connection.fetch(
            QUERIES.list_last_changes,
            [place.schema for _, place in places],
            [place.table for _, place in places],
            [place.key for _, place in places],
            self.snapshot,
            self.history.table.relid,
            self.history.table.schema,
            self.history.table.name,
        )
        last: dict[str, Row] = {}
        for row in sorted(found, key=lambda row: int(row["seq"])):
            last[places[row["place"] - 1][0]] = row
        return {
            key
            for key, image in rows
            if key in last and not _agree(self.show_logged(last[key]["after"], last[key]["at"]), image)
        }

    async def _count_rows(self, limit: int) -> StateFound:
        """Return the rows of a table without a key: as many of a kind as there are, less those that came since."""
        table = self.history.table
        place = f"{quote_identifier(table.schema)}.{quote_identifier(table.name)}"
        # Images are written anew, so that a partition's have the columns in the table's own order.
        rows = await self._run(
            f"""
select c.image, pg_catalog.sum(c.count)::int8 as count from (
    select pg_catalog.to_json(t)::text as image, pg_catalog.count(*) as count from {place} t group by 1
    union all
    select pg_catalog.to_json(r)::text, i.count
    from flux.mutation m cross join lateral (values (m.before, 1), (m.after, -1)) i(image, count)
    cross join lateral pg_catalog.json_populate_record(null::{place}, i.image) r
    where {_SINCE} and i.image is not null) c
group by 1 having pg_catalog.sum(c.count) <> 0 order by pg_catalog.sum(c.count) > 0, 1 limit $3""",
            limit,
        )
        if rows and rows[0]["count"] < 0:
            raise StateNotKnownError(
                f"{table} has no key, and the log has rows come that are not there: something changed it past the "
                "capture",
                remedy="add a primary key; rows are known by it from then on",
            )
        shown = [
            show(read_image(row["image"]), self.history.now, self.then)
            for row in rows
            for _ in range(min(row["count"], limit + 1))
        ]
        found = tuple(RowThen(None, image.values) for image in shown[:limit])
        return StateFound(
            table, self.snapshot, found, len(shown) > limit or len(rows) > limit, {}, self.notes
        )


_SINCE = (
    "m.committed and m.relid = $1::oid and m.xid >= pg_catalog.pg_snapshot_xmin($2::text::pg_snapshot) "
    "and not pg_catalog.pg_visible_in_snapshot(m.xid, $2::text::pg_snapshot)"
)


async def open_view(connection: Connection, table: Table, resolved: Resolved, key: str | None) -> View:
    """Return a table at a moment, or raise where its rows can't be put together."""
    history = await read_table_history(connection, table)
    if any(shape.xid in resolved.open for shape in history.shapes):
        raise _open(f"a change of the columns of {table}")
    if resolved.open:
        keys = None if key is None else [place.key for place in history.list_places(key)]
        at = await connection.fetch_value(
            QUERIES.find_open_change, table.relid, [str(xid) for xid in resolved.open], keys
        )
        if at is not None:
            raise _open(f"a change of {table} made at {at.isoformat()}")
    seen = [shape for shape in history.shapes if is_visible(shape.xid, resolved.snapshot)]
    if not seen:
        first = history.shapes[0]
        when = f" at {first.at.isoformat()}" if first.at is not None else ""
        if first.is_first:
            raise NotThereThenError(
                f"there was no table {table} then: it was made{when}", remedy="ask for a later time"
            )
        raise StateNotKnownError(
            f"changes of {table} are recorded{' since' + when.removeprefix(' at') if when else ' only later'}: what "
            "it had before is not known",
            remedy="ask for a later time",
        )
    for maybe in await list_maybe_parted(connection, table, resolved.snapshot):
        raise StateNotKnownError(
            f"{table} may have been a partition of {maybe.name} then, which was altered since, last at {maybe.at}: "
            f"changes of its rows until then are recorded as those of {maybe.name}",
            remedy=f"ask for a later time, or for {maybe.name}",
        )
    then = seen[-1]
    await _check_keys(connection, history, then, resolved.snapshot)
    return View(
        connection,
        history,
        then,
        resolved.snapshot,
        await _note_alterations(connection, history, resolved.snapshot),
    )


async def _check_keys(connection: Connection, history: TableHistory, then: Shape, snapshot: str) -> None:
    """Raise when the table had another key since, and its rows have changed."""
    since = history.shapes[history.shapes.index(then) :]
    keys = {frozenset(column.number for column in shape.key) for shape in since}
    retyped = [
        column.name
        for column in history.now.key
        if len({each.type for shape in since for each in shape.columns if each.number == column.number}) > 1
    ]
    is_counted = not history.table.key_columns
    if len(keys) == 1 and not retyped and not (is_counted and len({shape.columns for shape in since}) > 1):
        return
    what = "columns have" if is_counted else "primary key has"
    changed = await connection.fetch_value(
        f"select exists (select from flux.mutation m where {_SINCE})", history.table.relid, snapshot
    )
    if changed:
        raise StateNotKnownError(
            f"the {what} changed since, and so have rows of {history.table}: which row was which can't be told",
            remedy="ask for a time after that change: flux.ddl has it",
        )


async def _note_alterations(connection: Connection, history: TableHistory, snapshot: str) -> tuple[str, ...]:
    schemas, tables = zip(*{(shape.schema, shape.table) for shape in history.shapes}, strict=True)
    explained = {shape.xid for shape in history.shapes}
    rows = await connection.fetch(QUERIES.list_alterations, list(schemas), list(tables), snapshot)
    found = [row["at"] for row in rows if int(row["xid"]) not in explained]
    if not found:
        return ()
    if history.is_partitioned:
        raise StateNotKnownError(
            f"ALTER TABLE changed {history.table} at {found[0].isoformat()}: rows of a partition that was "
            "attached or detached are in no log",
            remedy="ask for a later time",
        )
    return (
        f"ALTER TABLE changed {history.table} at {found[0].isoformat()}: rows that it rewrote are not taken back",
    )


def _key_text(columns: Sequence[str], value: Callable[[str], str]) -> str:
    """Return the log's form of a key in SQL, with the columns' values as JSON by ``value``."""
    parts = [f"{literal(json.dumps(name, ensure_ascii=False) + ':')} || {value(name)}" for name in columns]
    return "'{' || " + " || ',' || ".join(parts) + " || '}'"


def _agree(one: Shown | None, other: Shown | None) -> bool:
    """Return whether two accounts of a row are of the same."""
    if one is None or other is None:
        return one is other
    return is_same(one, other)


def _open(what: str) -> MomentOpenError:
    return MomentOpenError(
        f"whether {what} had been committed by then can't be told: the server notes no times of commits",
        remedy="set track_commit_timestamp = on; as an execution found it is always exact: --before ID",
    )
