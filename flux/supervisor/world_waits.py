"""The ways in which a statement of READ COMMITTED may have run while others were committing.

Such a statement finds its rows by its snapshot. One that it is to change or to lock, and that another transaction
holds, it waits for. When that one has committed, PostgreSQL looks at the row again, at this row alone and as it is now,
and goes on with it if it is still what the statement looks for (EvalPlanQual, in its source). All other rows stay as
the snapshot has them. So what came of it need not be what any snapshot sees: ``delete ... where n % 2 = 0`` deletes
neither the row that was 0 and became 1 meanwhile, nor the one that was 1 and became 2.

A record has the rows that were changed, and none of those that were waited for and then passed over. So the statement
is run as of a snapshot, whoever runs it says which of the rows that others changed it *touched*, and it is run again
with these as the others left them. That goes on until it touches no more of them: with LIMIT, it takes the next.
"""

from collections.abc import Generator, Mapping, Sequence
from collections.abc import Set as AbstractSet

import attrs

from flux.hostcall import HostCall
from flux.supervisor.world_timeline import Contended, Snapshot, Timeline

WAYS_MAX = 64
"""In how many ways one statement is run."""

Location = tuple[str, str]
"""A row: its table and its key, as the log writes it."""


@attrs.frozen
class Way:
    """One way in which a statement may have run."""

    snapshot: Snapshot
    """What it found its rows by."""
    contended: Mapping[Location, Contended]
    """Rows that others changed before it had ended, and that the snapshot does not see so."""
    waited: frozenset[Location] = frozenset()
    """Those of them that it waited for, and has as the others left them."""


def list_ways(
    timeline: Timeline, call: HostCall, candidates: Sequence[Snapshot], done: AbstractSet[int]
) -> Generator[Way, frozenset[Location], None]:
    """Give the ways, the likeliest first; take which of a way's contended rows were touched when it was gone.

    ``candidates`` are what it may have seen, the first and the last of these before all others.
    """
    count = 0
    # Those that it changed are known, and as they were when it had them (`Timeline.find_relocked`).
    written = timeline.find_written(call.request.seq)

    def find(here: Snapshot, there: Snapshot) -> dict[Location, Contended]:
        found = timeline.find_contended(here, there, done)
        return {row: contended for row, contended in found.items() if row not in written}

    for snapshot in candidates:
        if count == WAYS_MAX:
            return
        touched_first = yield Way(snapshot, find(snapshot, candidates[1]))
        count += 1
        for until in candidates[1:]:
            contended = find(snapshot, until)
            waited = touched_first & contended.keys()
            known: frozenset[Location] = frozenset()
            while waited > known:
                if count == WAYS_MAX:
                    return
                touched = yield Way(snapshot, contended, waited)
                count += 1
                known, waited = waited, waited | (touched & contended.keys())
