"""Which transaction saw which, and how to have it so again.

Executions that ran at the same time meet in the database, and a bug of theirs (two that both
found the name free) is in what each could see of the others. The record has it: each
transaction's snapshot and id. So for each pair it is known whether ``v`` was visible to ``t``,
and *gates* are enough to have the same again, whatever the machine is doing::

    begin of t      waits for the commit of every v that t saw
    commit of v     waits for the begin of every t that must not see v
    statement of t  waits until every v that it had to wait for has made all its own

The third is for locks: a statement that waited for ``v`` is not to come before it now and make ``v``
wait instead. The recorded order keeps all gates, so code that does what was recorded is never stopped by one for
good. Changed code may be: it makes other transactions, or holds a lock that another one needs
in front of its gate. Whoever runs it then asks `Interleaving.find_stuck` and relaxes the gate
that is named, and how often that was done is a part of the answer.

A transaction of changed code *stands for* the recorded ones whose statements it makes: its
begin is that of the first, its commit that of the last.

`Interleaving` is told what happens and waits for nothing. Runs are numbers: all attempts of one
request are one run, and a *part* is one recorded transaction of it.
"""

import enum
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet

import attrs

Call = tuple[int, int]
"""A recorded host call of a run: the number of the attempt from 1, and its seq."""


@attrs.frozen
class Snapshot:
    """What a transaction could see."""

    xmax: int
    """The first id that had not been given out."""
    in_progress: frozenset[int]
    """Ids below it whose transactions had not ended."""

    @classmethod
    def parse(cls, text: str) -> "Snapshot":
        """Read ``xmin:xmax:ids``, as PostgreSQL writes a ``pg_snapshot``."""
        _, xmax, ids = text.split(":")
        return cls(int(xmax), frozenset(int(id) for id in ids.split(",") if id))

    def sees(self, xid: int) -> bool:
        """Whether what transaction ``xid`` committed is visible."""
        return xid < self.xmax and xid not in self.in_progress

    def __str__(self) -> str:
        """Return it as PostgreSQL reads it."""
        ids = sorted(self.in_progress)
        return f"{ids[0] if ids else self.xmax}:{self.xmax}:{','.join(map(str, ids))}"

    @property
    def size(self) -> int:
        """How much it sees. Snapshots of one server grow, so of two the one that sees less is the earlier."""
        return self.xmax - len(self.in_progress)


@attrs.frozen
class View:
    """A snapshot and the host call that took it."""

    call: Call
    least: Snapshot
    """It saw all that this one sees."""
    most: Snapshot
    """It saw nothing that this one does not see. For a statement of READ COMMITTED the record has the snapshots right
    before and right after it; else both are the same."""


@attrs.frozen
class Claim:
    """A statement that may have had to wait for a lock."""

    call: Call
    asked_ns: int
    answered_ns: int
    """Both in nanoseconds since the Unix epoch, and as the asker saw it: the server may have been done before."""
    failed: bool = False
    """It was answered with an error."""
    is_bracketed: bool = False
    """The record has the snapshots right before and right after it, as in READ COMMITTED."""


@attrs.frozen
class Part:
    """One recorded transaction of a run."""

    views: tuple[View, ...]
    """The first is its begin. A transaction with READ COMMITTED takes one for each statement."""
    xid: int | None
    """None when it wrote nothing: then nobody could see whether it had ended."""
    committed: bool
    claims: tuple[Claim, ...] = ()
    """In the order in which they were made."""
    ended_ns: int = 0
    """When it had made its last statement, in nanoseconds since the Unix epoch."""

    @property
    def may_hold_locks(self) -> bool:
        """Whether others may have waited for it: of one that was rolled back, that it had no id is not known."""
        return self.xid is not None or not self.committed

    @property
    def leaves_something(self) -> bool:
        """Whether others can see it once it has ended."""
        return self.committed and self.xid is not None


@attrs.frozen
class Run:
    """One request."""

    parts: tuple[Part, ...]
    """In the order in which they began."""
    began_ns: int
    ended_ns: int
    """Nanoseconds since the Unix epoch."""


class Kind(enum.StrEnum):
    """Of an event."""

    VIEW = "begin"
    """A snapshot was taken."""
    STATED = "stated"
    """It has made all its statements."""
    COMMIT = "commit"
    END = "end"
    """All attempts of the run are over."""


@attrs.frozen
class Event:
    """Something that happens once in a run."""

    kind: Kind
    run: int
    part: int = 0
    view: int = 0


@attrs.frozen
class Gate:
    """What a run is about to do, and what must have happened before."""

    kind: Kind
    run: int
    waits_for: frozenset[Event]
    brings: tuple[Event, ...]
    """What will have happened once it has done it."""


@attrs.frozen
class Blocked:
    """A run whose statement waits inside the database for locks."""

    by: frozenset[int]
    """Runs that hold them."""


Standing = Gate | Blocked | None
"""Where a run stands: in front of a gate, waiting for a lock, or at work."""


@attrs.define
class _Progress:
    """Where a run is in its record."""

    next: int = 0
    """The first part that nothing stands for yet."""
    first: int | None = None
    """The parts that the open transaction stands for, both ends included; None when it stands for none."""
    last: int = -1


class Interleaving:
    """See the module."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = tuple(runs)
        self._happened: set[Event] = set()
        self._progress = [_Progress() for _ in self._runs]
        self._part_of = [_place_calls(run) for run in self._runs]
        self._writers = [
            (Event(Kind.COMMIT, number, index), part.xid)
            for number, run in enumerate(self._runs)
            for index, part in enumerate(run.parts)
            if part.xid is not None and part.leaves_something
        ]
        self.relaxed: list[tuple[Gate, frozenset[Event]]] = []
        """Gates that were opened although something was missing, and what."""

    # What a run is about to do

    def start(self, run: int) -> Gate:
        """It starts: after those that had ended before it was recorded to start."""
        began_ns = self._runs[run].began_ns
        earlier = (
            Event(Kind.END, number)
            for number, other in enumerate(self._runs)
            if number != run and other.ended_ns < began_ns
        )
        return Gate(Kind.VIEW, run, frozenset(earlier), ())

    def begin(self, run: int, call: Call | None, attempt: int = 1) -> Gate:
        """It begins a transaction; ``call`` is the recorded counterpart of what it begins it for, if there is one.

        ``attempt`` is the run's own: parts of earlier attempts are not stood for any more.
        """
        progress, parts = self._progress[run], self._runs[run].parts
        while progress.next < len(parts) and _attempt_of(parts[progress.next]) < attempt:
            progress.next += 1
        found = self._part_of[run].get(call) if call is not None else None
        if found is None or found < progress.next:
            found = progress.next
        if found >= len(parts) or _attempt_of(parts[found]) > attempt:
            # More than was recorded: nothing is known of what it is to see.
            progress.first = None
            return Gate(Kind.VIEW, run, frozenset(), self._reached(run, progress.next - 1))
        progress.first = progress.last = found
        return self._view_gate(run, found, 0)

    def state(self, run: int, call: Call | None) -> Gate:
        """It makes a statement in the open transaction; ``call`` is its recorded counterpart."""
        progress = self._progress[run]
        found = self._part_of[run].get(call) if call is not None else None
        if found is None or call is None or progress.first is None:
            return Gate(Kind.VIEW, run, frozenset(), ())
        if found > progress.last:
            # What was apart then is together now.
            self._happened.update(Event(Kind.STATED, run, n) for n in range(progress.last, found))
            progress.last = found
        elif found < progress.last:
            return Gate(Kind.VIEW, run, frozenset(), ())
        view = max(
            (n for n, one in enumerate(self._runs[run].parts[found].views) if one.call <= call), default=0
        )
        gate = self._view_gate(run, found, view)
        ahead = self._list_ahead(run, found, call, self._runs[run].parts[found].views[view])
        return attrs.evolve(gate, waits_for=gate.waits_for | ahead)

    def commit(self, run: int, *, wrote: bool) -> Gate:
        """It commits the open transaction, which has written something or not."""
        progress, parts = self._progress[run], self._runs[run].parts
        if progress.first is None:
            return Gate(Kind.COMMIT, run, frozenset(), ())
        if wrote and not any(part.leaves_something for part in parts[progress.first : progress.last + 1]):
            # It has written where the record only read: that is what was written later then.
            attempt = _attempt_of(parts[progress.last])
            later = range(progress.last + 1, len(parts))
            progress.last = next(
                (n for n in later if parts[n].leaves_something and _attempt_of(parts[n]) == attempt),
                progress.last,
            )
        # It has taken all the snapshots that it will take.
        self._happened.update(self._reached(run, progress.last))
        self._happened.update(Event(Kind.STATED, run, n) for n in range(progress.last + 1))
        waits_for: set[Event] = set()
        if wrote:
            for part in parts[progress.first : progress.last + 1]:
                waits_for |= self._list_blind(run, part)
        commits = (Event(Kind.COMMIT, run, n) for n in range(progress.first, progress.last + 1))
        return Gate(Kind.COMMIT, run, frozenset(waits_for), tuple(commits))

    def rolled_back(self, run: int) -> None:
        """The open transaction ended without a trace. Nobody needs to wait for it any more."""
        progress = self._progress[run]
        if progress.first is not None:
            self._happened.update(self._reached(run, progress.last))
            self._happened.update(
                Event(Kind.COMMIT, run, n) for n in range(progress.first, progress.last + 1)
            )
            self._close(run)

    def attempt_ended(self, run: int, attempt: int) -> None:
        """The database gave the run up, and it will be run again: what is left of that attempt never comes."""
        parts = self._runs[run].parts
        last = max((n for n, part in enumerate(parts) if _attempt_of(part) <= attempt), default=-1)
        self._happened.update(self._reached(run, last))
        self._release(run, range(last + 1))
        self._progress[run] = _Progress(next=last + 1)

    def ended(self, run: int) -> None:
        """All of it is over: what it has not done it never will."""
        last = len(self._runs[run].parts) - 1
        self._happened.update(self._reached(run, last))
        self._release(run, range(last + 1))
        self._happened.add(Event(Kind.END, run))

    # Gates

    def is_open(self, gate: Gate) -> bool:
        """Whether all has happened that must have happened before."""
        return gate.waits_for <= self._happened

    def passed(self, gate: Gate) -> None:
        """It has done it."""
        self._happened.update(gate.brings)
        if gate.kind is Kind.COMMIT:
            self._close(gate.run)

    def relax(self, gate: Gate) -> Gate:
        """Return ``gate`` without what it waits for in vain, and keep note of it."""
        missing = gate.waits_for - self._happened
        self.relaxed.append((gate, missing))
        return attrs.evolve(gate, waits_for=gate.waits_for - missing)

    def find_stuck(self, standings: Mapping[int, Standing]) -> Gate | None:
        """Return the gate to relax when no run can go on by itself, else None.

        ``standings`` are those of all runs that have not ended. A run that waits for a lock goes on by itself
        once one at work lets go of it; and a circle of locks is PostgreSQL's to break, which it does.
        """
        gates = [one for one in standings.values() if isinstance(one, Gate)]
        if not gates or any(self.is_open(gate) for gate in gates):
            return None
        held = {run for run, standing in standings.items() if isinstance(standing, Gate)}
        blocked = {run: one.by for run, one in standings.items() if isinstance(one, Blocked)}
        grows = True
        while grows:
            more = {run for run, by in blocked.items() if run not in held and by & held}
            grows = bool(more)
            held |= more
        if len(held) < len(standings):
            return None

        def order(gate: Gate) -> tuple[int, int, int]:
            return len(gate.waits_for - self._happened), self._runs[gate.run].began_ns, gate.run

        return min(gates, key=order)

    # Inside

    def _view_gate(self, run: int, part: int, view: int) -> Gate:
        snapshot = self._runs[run].parts[part].views[view].least
        seen = (
            event
            for event, xid in self._writers
            if event.run != run and xid is not None and snapshot.sees(xid)
        )
        brings = (*self._reached(run, part - 1), *(Event(Kind.VIEW, run, part, n) for n in range(view + 1)))
        return Gate(Kind.VIEW, run, frozenset(seen), brings)

    def _list_blind(self, run: int, part: Part) -> AbstractSet[Event]:
        """Return the taking of each snapshot of another run's that does not see ``part``."""
        if part.xid is None or not part.leaves_something:
            return frozenset()
        return {
            Event(Kind.VIEW, number, index, n)
            for number, other in enumerate(self._runs)
            if number != run
            for index, one in enumerate(other.parts)
            for n, view in enumerate(one.views)
            if not view.most.sees(part.xid)
        }

    def _list_ahead(self, run: int, part: int, call: Call, view: View) -> AbstractSet[Event]:
        """Return the statements of those that the recorded statement ``call`` had to wait for, as far as can be told.

        Of READ COMMITTED that is exact: who committed while it ran. Elsewhere a statement that waited for somebody
        who then committed fails, so only those that failed are asked. Who was rolled back in the meantime may have
        held the lock as well.
        """
        claim = next((one for one in self._runs[run].parts[part].claims if one.call == call), None)
        if claim is None:
            return frozenset()

        def may_have_waited(other: Part) -> bool:
            if not other.leaves_something or other.xid is None:
                return other.may_hold_locks and claim.asked_ns < other.ended_ns <= claim.answered_ns
            if claim.is_bracketed:
                return view.most.sees(other.xid) and not view.least.sees(other.xid)
            return claim.failed and not view.most.sees(other.xid) and other.ended_ns <= claim.answered_ns

        return {
            Event(Kind.STATED, number, index)
            for number, other in enumerate(self._runs)
            if number != run
            for index, one in enumerate(other.parts)
            if may_have_waited(one)
        }

    def _reached(self, run: int, part: int) -> tuple[Event, ...]:
        """Return all snapshots of a run's parts up to ``part``, and the commits of those before the open ones."""
        progress, parts = self._progress[run], self._runs[run].parts
        views = [
            Event(Kind.VIEW, run, n, view) for n in range(part + 1) for view in range(len(parts[n].views))
        ]
        done = progress.next if progress.first is None else progress.first
        over = range(min(done, part + 1))
        return (*views, *(Event(kind, run, n) for n in over for kind in (Kind.STATED, Kind.COMMIT)))

    def _release(self, run: int, parts: Iterable[int]) -> None:
        for n in parts:
            self._happened.update((Event(Kind.STATED, run, n), Event(Kind.COMMIT, run, n)))

    def _close(self, run: int) -> None:
        progress = self._progress[run]
        if progress.first is not None:
            progress.next = progress.last + 1
        progress.first = None


def find_earliest(runs: Sequence[Run]) -> Snapshot | None:
    """Return the snapshot that sees least, before all that the runs did; None when there is none."""
    snapshots = (view.least for run in runs for part in run.parts for view in part.views)
    return min(snapshots, key=lambda snapshot: snapshot.size, default=None)


def count_overlapping(intervals: Sequence[tuple[int, int]]) -> int:
    """Return how many of ``intervals`` (begin, end) were not alone for all of their time."""
    ordered = sorted(range(len(intervals)), key=lambda n: intervals[n])
    overlapping: set[int] = set()
    latest: int | None = None
    for n in ordered:
        if latest is not None and intervals[n][0] < intervals[latest][1]:
            overlapping |= {n, latest}
        if latest is None or intervals[n][1] > intervals[latest][1]:
            latest = n
    return len(overlapping)


def count_at_once(intervals: Sequence[tuple[int, int]]) -> int:
    """Return how many of ``intervals`` (begin, end) there were at one moment, at most."""
    edges = sorted([(begin, 1) for begin, _ in intervals] + [(end, -1) for _, end in intervals])
    most = now = 0
    for _, step in edges:
        now += step
        most = max(most, now)
    return most


def _attempt_of(part: Part) -> int:
    return part.views[0].call[0]


def _place_calls(run: Run) -> "_Places":
    return _Places([part.views[0].call for part in run.parts])


class _Places:
    """For a recorded call, the part that it belongs to: the last that was begun by then in its attempt."""

    def __init__(self, begun_by: Sequence[Call]) -> None:
        self._begun_by = begun_by

    def get(self, call: Call) -> int | None:
        """Return the part's number; None for a call before the first."""
        found = [n for n, begun in enumerate(self._begun_by) if begun[0] == call[0] and begun <= call]
        return found[-1] if found else None
