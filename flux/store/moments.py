"""Times and snapshots in a database: what "as of" means there, read for `flux.as_of`.

A moment is a time of the database's own clock, or a snapshot as a record has it. `resolve` gives the snapshot either
way, and says which transactions can't be told to be before or after.
"""

import re
from datetime import UTC, datetime

import attrs

from flux.as_of import Logged, Mark, cut_at, first_later, first_unsure
from flux.errors import OperatorError
from flux.store.postgres import Connection, Pool, Row
from flux.store.queries import QUERIES

_SNAPSHOT = re.compile(r"([0-9]{1,19}):([0-9]{1,19}):([0-9]{1,19}(?:,[0-9]{1,19})*)?")


class MomentOutOfReachError(OperatorError):
    """Nothing is recorded of that time: it lies before the recording, or it has not come yet."""

    code = "FLX580"
    exit_code = 6


@attrs.frozen
class Moment:
    """A time, or a snapshot."""

    time: datetime | None = None
    """As of this time, by the database's clock."""
    snapshot: str | None = None
    """As this snapshot saw it, ``xmin:xmax:xid,xid``."""


@attrs.frozen
class Resolved:
    """A moment as a snapshot."""

    snapshot: str
    open: tuple[int, ...] = ()
    """Transactions that can't be told to be before or after."""


async def add_mark(pool: Pool) -> bool:
    """Note who has committed by now; return whether the server notes the times of commits itself."""
    async with pool.acquire() as connection:
        return bool(await connection.fetch_value(QUERIES.add_mark))


async def resolve(connection: Connection, moment: Moment) -> Resolved:
    """Return a moment as a snapshot. The transaction that is open reads all of it, so it sees one state."""
    row = await connection.fetch_row(QUERIES.get_snapshot)
    start = await connection.fetch_row(QUERIES.get_recording_start)
    assert row is not None and start is not None, "they select constants"
    now = Mark(row["snapshot"], row["since"], row["until"])
    if moment.snapshot is not None:
        snapshot = _check_snapshot(moment.snapshot, now)
        _check_pruned(moment, start)
        return Resolved(snapshot)
    assert moment.time is not None, "a moment is one of the two"
    time = moment.time
    if time > now.until:
        raise MomentOutOfReachError(
            f"{_utc(time)} has not come yet: the database's clock says {_utc(now.until)}",
            remedy="write a time that is past: 15m (ago), 14:00, 2026-11-24T14:00:00Z",
        )
    if time < start["began"]:
        raise MomentOutOfReachError(
            f"nothing is known of {_utc(time)}: changes are recorded since {_utc(start['began'])}",
            remedy="ask for a later time",
        )
    _check_pruned(moment, start)
    before = await _find_mark(connection, QUERIES.find_mark_before, time)
    after = await _find_mark(connection, QUERIES.find_mark_after, time) or now
    first = first_unsure(before.snapshot) if before is not None else 1
    rows = await connection.fetch(
        QUERIES.list_logged_transactions, str(first), str(first_later(after.snapshot))
    )
    logged = [Logged(int(row["xid"]), row["last_at"], row["committed_at"]) for row in rows]
    cut = cut_at(time, logged, before, after)
    return Resolved(cut.snapshot, cut.open)


async def check_log(connection: Connection, *moments: Moment) -> None:
    """Raise when the log does not reach back to one of ``moments`` any more.

    A day of the log that is dropped is gone for transactions that began before, too, and they do not see that it is
    noted. So this is asked once more after the log was read, in no transaction that began before that.
    """
    start = await connection.fetch_row(QUERIES.get_recording_start)
    assert start is not None, "it selects constants"
    for moment in moments:
        _check_pruned(moment, start)


def is_log_gone(start: Row, snapshot: str) -> bool:
    """Return whether the log lacks anything that a snapshot did not see; ``start`` is of `get_recording_start`."""
    return start["pruned_xid"] is not None and first_unsure(snapshot) <= int(start["pruned_xid"])


def _check_pruned(moment: Moment, start: Row) -> None:
    if moment.snapshot is not None:
        if not is_log_gone(start, moment.snapshot):
            return
        message = f"snapshot {moment.snapshot[:80]} is older than what is left of the log of changes, which begins at "
    else:
        assert moment.time is not None, "a moment is one of the two"
        if start["pruned_until"] is None or moment.time >= start["pruned_until"]:
            return
        message = f"nothing is known of {_utc(moment.time)}: what is left of the log of changes begins at "
    raise MomentOutOfReachError(
        f"{message}{_utc(start['pruned_until'])}",
        remedy="retention_days under [recording] says how long it is kept, and a pinned incident keeps it",
    )


async def _find_mark(connection: Connection, query: str, time: datetime) -> Mark | None:
    row = await connection.fetch_row(query, time)
    return None if row is None else Mark(row["snapshot"], row["since"], row["until"])


def _check_snapshot(text: str, now: Mark) -> str:
    found = _SNAPSHOT.fullmatch(text)
    running = [int(xid) for xid in (found[3] or "").split(",") if xid] if found else []
    if found is None or not (
        0 < int(found[1]) <= int(found[2]) < 2**63
        and running == sorted(set(running))
        and all(int(found[1]) <= xid < int(found[2]) for xid in running)
    ):
        raise MomentOutOfReachError(
            f'"{text[:80]}" is not a snapshot', remedy="write it as pg_current_snapshot() does: 712:715:713"
        )
    if first_later(text) > first_later(now.snapshot):
        raise MomentOutOfReachError(
            f"snapshot {text[:80]} is not of this database, or has not come yet: its transactions go to "
            f"{first_later(now.snapshot)}",
            remedy="flux trace ID --json has the snapshots of an execution, under transactions",
        )
    return text


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
