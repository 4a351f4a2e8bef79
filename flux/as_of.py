"""When is "then": a time of day as a snapshot, without any I/O.

What a reader saw is told by a snapshot, Postgres's own account of who had committed: `is_visible`. A time is turned
into one as well, so that a row as of 14:00 and a row as an execution saw it are found in one way. "As of T" means:
with everything that had been committed by T, by the commit times that the server notes
(``track_commit_timestamp``). A transaction is stamped a moment before others see it, as long as its commit takes to
reach the disk.

Where the server has no stamp, two things are still known. A transaction that logged a change after T was not
committed by T. And a `Mark`, a snapshot that Flux took at a known time, either saw it or did not. What is left
between is *open*, and whoever asks is told so: it is not guessed.
"""

from collections.abc import Iterable
from datetime import datetime

import attrs


@attrs.frozen
class Mark:
    """A snapshot that was taken at a known time."""

    snapshot: str
    """``xmin:xmax:xid,xid``."""
    since: datetime
    """It was taken at this time, or later."""
    until: datetime
    """It was taken at this time, or earlier."""


@attrs.frozen
class Logged:
    """A committed transaction that is in the log of changes."""

    xid: int
    last_at: datetime
    """When it logged its last change."""
    committed_at: datetime | None
    """The server's stamp; None when it has none."""


@attrs.frozen
class Cut:
    """A time as a snapshot."""

    snapshot: str
    """Who had committed. What is open counts as not."""
    open: tuple[int, ...] = ()
    """Transactions that can't be told to be before or after, in order."""


def is_visible(xid: int, snapshot: str) -> bool:
    """Return whether a snapshot (``xmin:xmax:xid,xid``) saw a committed transaction.

    As the manual has it: what is below xmin was over, what is at or beyond xmax had not begun, and the
    list has what was in progress.
    """
    xmin, xmax, running = snapshot.split(":")
    if xid < int(xmin):
        return True
    return xid < int(xmax) and str(xid) not in running.split(",")


def first_unsure(snapshot: str) -> int:
    """Return the lowest transaction that a snapshot may not have seen."""
    return int(snapshot.split(":")[0])


def first_later(snapshot: str) -> int:
    """Return the lowest transaction that had not begun when a snapshot was taken."""
    return int(snapshot.split(":")[1])


def cut_at(moment: datetime, logged: Iterable[Logged], before: Mark | None, after: Mark) -> Cut:
    """Return ``moment`` as a snapshot.

    ``before`` was taken by then, ``after`` then or later; ``logged`` are all transactions of the log that
    ``before`` may not have seen and that had begun when ``after`` was taken.
    """
    past: set[int] = set()
    future: set[int] = set()
    unknown: set[int] = set()
    for each in logged:
        is_past = _is_past(each, moment, before, after)
        (unknown if is_past is None else past if is_past else future).add(each.xid)
    # All that has no place in the log makes no difference; so the snapshot ends after the last that it sees.
    lowest = first_unsure(before.snapshot) if before is not None else 1
    xmax = max([lowest, *(xid + 1 for xid in past)])
    running = sorted(xid for xid in future | unknown if xid < xmax)
    xmin = running[0] if running else xmax
    return Cut(f"{xmin}:{xmax}:{','.join(map(str, running))}", tuple(sorted(unknown)))


def _is_past(each: Logged, moment: datetime, before: Mark | None, after: Mark) -> bool | None:
    if each.committed_at is not None:
        return each.committed_at <= moment
    if each.last_at > moment:
        return False
    if before is not None and before.until <= moment and is_visible(each.xid, before.snapshot):
        return True
    if after.since >= moment and not is_visible(each.xid, after.snapshot):
        return False
    return None
