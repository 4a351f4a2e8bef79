"""A world for a recording: what is asked of `flux.store.world`, and what stands then on a connection."""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime

import attrs
import msgspec
import trio

from flux.execution import Execution
from flux.mutation import Operation
from flux.store.moments import is_log_gone
from flux.store.postgres import Connection, DatabaseError, Pool, Row
from flux.store.queries import QUERIES
from flux.store.reading import LOG_GONE
from flux.store.world import World, WorldError, WorldPlan, build_world
from flux.store.world_moves import WorldMover, list_moves, make_mover
from flux.supervisor.world_drawn import list_drawn
from flux.supervisor.world_timeline import RowChange, Span, Timeline

BUILD_S_MAX = 60.0
"""How long a world may take to be built. Its transaction keeps the server from cleaning up behind others."""
CHANGED_WHOLE_MIN = 5_000
"""Rows of a table that a recording changed from which on the table is copied whole: row by row would take longer."""


def plan_world(
    original: Execution,
    schema: str,
    written: frozenset[str],
    whole: frozenset[str] = frozenset(),
    aside: frozenset[str] = frozenset(),
) -> WorldPlan | None:
    """Return the plan of the world that ``original`` saw first, or None when it saw no database.

    ``written`` are tables that are to be copied beside those that it wrote itself, ``whole`` those of which more than
    touched rows are, ``aside`` those whose rows may have to be set aside.
    """
    if not original.transactions:
        return None
    first = original.transactions[0]
    inserted: dict[str, list[Mapping[str, object]]] = {}
    own = set(written | whole)
    changed = Counter(mutation.table for mutation in original.mutations if mutation.schema == schema)
    own |= changed.keys()
    for mutation in original.mutations:
        if mutation.schema != schema:
            continue
        if mutation.op is Operation.INSERT and mutation.after is not None:
            inserted.setdefault(mutation.table, []).append(msgspec.json.decode(mutation.after))
    began_ns = next((call.started_ns for call in original.calls if call.request.seq == first.begun_by), 0)
    return WorldPlan(
        schema=schema,
        snapshot=first.snapshot,
        started_at=datetime.fromtimestamp((original.started_at_ns + began_ns) / 1e9, UTC),
        written=frozenset(own),
        whole=whole | {table for table, count in changed.items() if count >= CHANGED_WHOLE_MIN},
        inserted=inserted,
        aside=aside,
        drawn=list_drawn(original, schema),
        seed=original.name,
    )


@attrs.frozen
class Built:
    """A world that stands on a connection, and what moves it."""

    plan: WorldPlan
    world: World
    mover: WorldMover
    copied: frozenset[str]
    """Tables that may be written."""
    changes: list[Row]
    """What happened in its span."""


async def build(connection: Connection, token: bytes, plan: WorldPlan, span: Span | None) -> Built:
    """Make the world of ``plan`` on ``connection``, with a beginning to come back to; it can move within ``span``."""
    try:
        with trio.fail_after(BUILD_S_MAX):
            world = await build_world(connection, token, plan)
            changes: list[Row] = []
            if span is not None and span.moves:
                changes = await list_moves(connection, token, str(span.first), str(span.last), span.own)
            mover = await make_mover(connection, plan.schema, world)
            await mover.set_base()
    except trio.TooSlowError:
        raise WorldError(
            f"it took longer than {BUILD_S_MAX:g} s to take back all that has changed since",
            remedy="replay on the code that made the record, which needs no database",
        ) from None
    except DatabaseError as error:
        raise WorldError(
            f"the database refused a part of the world: {error.report.message}",
            remedy="replay on the code that made the record, which needs no database",
        ) from error
    return Built(plan, world, mover, world.copied, changes)


async def check_log(owner: Pool, snapshot: str) -> None:
    """Raise `WorldError` when a world as of ``snapshot`` was made from a log that does not reach back to it any more.

    It is asked while the world's transaction is open, and by another: what began before a day of the log was dropped
    does not see that it is noted. No more goes from then on, as the world holds the log until it ends.
    """
    async with owner.acquire() as connection:
        start = await connection.fetch_row(QUERIES.get_recording_start)
    assert start is not None, "it selects constants"
    if is_log_gone(start, snapshot):
        raise WorldError(
            LOG_GONE,
            remedy="replay on the code that made the record, which needs no database",
        )


def read_changes(rows: list[Row], timeline: Timeline) -> tuple[RowChange, ...]:
    """Return ``rows`` as ``timeline`` sees them: what others did, and what its own calls did."""
    return tuple(
        RowChange(
            row["seq"],
            row["table_name"],
            row["key"],
            int(row["xid"]),
            row["before"],
            row["after"],
            timeline.find_call(int(row["xid"]), row["ordinal"]),
        )
        for row in rows
    )
