"""What becomes of a job once an attempt at it is over, and when it is tried again.

A job is done when the transaction of its execution was committed; nothing else makes it so. What ended otherwise
either failed by itself (its function raised, was killed, crashed), and then its function's ``retries`` say how often it
is tried again, with longer and longer pauses; or something else ended it (its supervisor died or was stopped, the
database gave it up for another's sake), and then it is tried again at once, which counts against nobody's
``retries`` but is not done for ever: a job that takes its supervisor down with it would never end. A job that is not
tried again is *dead*: it stays, with its payload, until somebody retries it by hand.

Nothing here waits or draws: the caller brings the counts and the chance.
"""

import enum

import attrs

from flux.limits import MIB

PAYLOAD_BYTES_MAX = MIB
"""Of a job's payload, and of the input of an invoke, as JSON."""
DELAY_S_MAX = 366 * 86_400.0
KEY_CHARACTERS_MAX = 200
"""Of an idempotency key."""
KEPT_DAYS = 7
"""So long the row of a job that is done stays, and with it its idempotency key."""
INVOKE_DEPTH_MAX = 8
"""So many functions may wait for each other: one that was begun from outside, and those invoked beneath it."""

BACKOFF_S = 1.0
"""Before the first retry of what failed by itself; it doubles with each further one."""
BACKOFF_S_MAX = 3600.0
LOST_MAX = 10
"""Attempts at one job that something else may end."""
GIVEN_UP_PAUSE_S = 0.02
"""Before the next attempt at what the database gave up; it doubles as well."""
GIVEN_UP_PAUSE_S_MAX = 10.0


class State(enum.StrEnum):
    """Of a job."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    DEAD = "dead"


class Ending(enum.Enum):
    """How an attempt ended."""

    COMMITTED = "committed"
    FAILED = "failed"
    """By itself."""
    GIVEN_UP = "given up"
    """By the database, for another transaction's sake."""
    LOST = "lost"
    """Its supervisor was stopped, or could not run it."""


@attrs.frozen
class Tries:
    """How often a job was tried before the attempt that has just ended."""

    failures: int
    """Attempts that failed by themselves, since somebody last retried it by hand."""
    lost: int
    """Attempts that something else ended."""


@attrs.frozen
class Fate:
    """What becomes of a job."""

    state: State
    delay_s: float = 0.0
    """Until it is tried again; of use where it waits."""
    failures: int = 0
    lost: int = 0
    """What the attempt adds to the counts of `Tries`."""


def decide_fate(ending: Ending, tries: Tries, retries: int, chance: float) -> Fate:
    """Return what becomes of a job whose function may be retried ``retries`` times; ``chance`` is from 0 to 1."""
    match ending:
        case Ending.COMMITTED:
            return Fate(State.DONE)
        case Ending.FAILED:
            if tries.failures >= retries:
                return Fate(State.DEAD, failures=1)
            pause_s = min(BACKOFF_S * 2.0 ** min(tries.failures, 30), BACKOFF_S_MAX)
            # Between half and the whole of it: what failed together is not to come back together.
            return Fate(State.WAITING, pause_s * (0.5 + chance / 2), failures=1)
        case Ending.GIVEN_UP | Ending.LOST:
            if tries.lost >= LOST_MAX:
                return Fate(State.DEAD, lost=1)
            pause_s = 0.0
            if ending is Ending.GIVEN_UP:
                pause_s = min(GIVEN_UP_PAUSE_S * 2.0 ** tries.lost, GIVEN_UP_PAUSE_S_MAX) * (0.5 + chance)
            return Fate(State.WAITING, pause_s, lost=1)
