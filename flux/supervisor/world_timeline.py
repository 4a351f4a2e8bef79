"""What each statement of a recording could see, and which rows change on the way from one to the next.

A world is built as of one snapshot, the first. Where the recording saw several (each statement of READ
COMMITTED its own, each of several transactions its own), the world *moves*: the rows that others
changed between two snapshots are set to what the later one saw. Everything here decides, from the
record and the log of changes; `flux.supervisor.world` does it.

Three things make a move more than a difference of two snapshots:

- What the execution wrote itself is never moved: the replay writes it. A snapshot knows its own
  transaction no better than any other, so own ids are passed over.
- A row that somebody else changed and that the execution changed afterwards stays as the replay left it.
- A statement of READ COMMITTED that waits for a row's lock goes on with the row as the other one left it,
  although its snapshot does not see that. So rows that a recorded statement wrote are moved on before it
  runs (`Timeline.find_relocked`). Which others it waited for and then passed over, because they were no
  longer what it looked for, no log tells: `flux.supervisor.world_waits` finds them.

Within a key, changes follow each other in the order of their ``seq``, and a snapshot sees a beginning of
that order: the row's lock sees to it. So the last change that is seen is the row.
"""

import itertools
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet

import attrs
import msgspec

from flux.calls import read_statement
from flux.execution import Execution, Transaction
from flux.hostcall import HostCall
from flux.sql_draws import give_draws
from flux.store.postgres import Isolation
from flux.supervisor.world_overtaken import Claims

SUBSETS_OF_MAX = 4
"""Of so many transactions that were committed while a statement began, all subsets may have been what it saw."""


@attrs.frozen
class Snapshot:
    """What a statement can see, as ``pg_current_snapshot()`` says it."""

    xmin: int
    """Transactions with lower ids are over."""
    xmax: int
    """Those from here on had not ended, most of them not begun."""
    running: frozenset[int]
    """Between the two, those that had not ended."""
    also: frozenset[int] = frozenset()
    """Seen although all this says otherwise: a guess between two snapshots."""

    @classmethod
    def parse(cls, text: str) -> "Snapshot":
        """Read ``xmin:xmax:xid,xid``."""
        xmin, xmax, running = text.split(":")
        return cls(int(xmin), int(xmax), frozenset(int(xid) for xid in running.split(",") if xid))

    def __str__(self) -> str:
        """As PostgreSQL writes it."""
        assert not self.also, "a guess is nothing that PostgreSQL could say"
        return f"{self.xmin}:{self.xmax}:{','.join(str(xid) for xid in sorted(self.running))}"

    def sees(self, xid: int) -> bool:
        """Whether it sees what a committed transaction did."""
        return xid in self.also or xid < self.xmin or (xid < self.xmax and xid not in self.running)

    @property
    def age(self) -> tuple[int, int]:
        """Sorts snapshots of one database by when they were taken: what ends leaves the running or raises xmax.

        Sure for those that begin a transaction. One that is taken within does not name its own transaction among the
        running ones, so of two with the same xmax either may be the later one.
        """
        return self.xmax, -len(self.running)


@attrs.frozen
class Moment:
    """What one recorded call could see."""

    transaction: int
    """Which of the recorded transactions it was in, from 0."""
    before: Snapshot
    """What it saw, or the first of what it may have seen."""
    after: Snapshot | None = None
    """The last of what it may have seen, where that is another."""


@attrs.frozen
class RowChange:
    """A committed change of a row, as the log has it."""

    seq: int
    """Its place among all changes."""
    table: str
    key: str
    """The primary key, as the log writes it."""
    xid: int
    before: str | None = attrs.field(repr=False)
    """The row's image before it; None where there was none."""
    after: str | None = attrs.field(repr=False)
    """The row's image after it; None where there was none any more."""
    call: int | None = None
    """The recorded call that made it, where that is the execution's own."""

    @property
    def row(self) -> tuple[str, str]:
        """Which row it is."""
        return self.table, self.key


@attrs.frozen
class RowState:
    """A row as it is to be from now on."""

    table: str
    key: str
    image: str | None = attrs.field(repr=False)
    """As JSON; None where there is none."""


@attrs.frozen
class Contended:
    """A row that others changed while a statement ran."""

    then: RowState
    """As the statement's snapshot has it."""
    now: RowState
    """As the last of them left it."""


class Timeline:
    """What the calls of one recording could see; see the module."""

    def __init__(self, original: Execution, schema: str) -> None:
        """``original`` has its committed mutations too; ``schema`` is where its tables are."""
        transactions = original.transactions
        assert transactions, "an execution without a transaction saw nothing"
        self.transactions = transactions
        self._own = frozenset(each.xid for each in transactions if each.xid is not None)
        self._made_by = {(xid, ordinal): call for xid, ordinal, call in original.ordinals}
        self._wrote: dict[int, set[tuple[str, str]]] = {}
        self._wrote_in_vain: dict[int, set[tuple[str, str]]] = {}
        """Of them, rows whose change was rolled back; the log of changes has no place for these."""
        self._written = list_written_rows(original, schema)
        self.claims = Claims(original, schema)
        """What its calls prove of rows that others had changed."""
        for mutation in original.mutations:
            if mutation.schema == schema and mutation.key is not None and mutation.call is not None:
                row = mutation.table, mutation.key
                self._wrote.setdefault(mutation.call, set()).add(row)
                if not mutation.committed:
                    self._wrote_in_vain.setdefault(mutation.call, set()).add(row)
        failed = {
            call.request.seq
            for call in original.calls
            if call.result is not None and call.result.error is not None
        }
        self.moments: dict[int, Moment] = {}
        """By the recorded call's number, those that did not simply see what the first snapshot sees."""
        self.has_unknown = False
        """Statements of READ COMMITTED whose own snapshots are not on record."""
        for number, transaction in enumerate(transactions):
            self._add(number, transaction, failed)
        every = [
            Snapshot.parse(transactions[0].snapshot),
            *(
                snapshot
                for moment in self.moments.values()
                for snapshot in (moment.before, moment.after)
                if snapshot
            ),
        ]
        self.first = every[0]
        """What the world is built as of."""
        self.last = max(every, key=_age)
        """What it moves to at most."""
        self._own_changes: list[RowChange] = []
        self._foreign: dict[int, list[RowChange]] = {}
        """What others changed, by their transactions."""
        self._others: list[int] = []
        """Ids of these, in order."""

    def give_draws(self, call: HostCall, sql: str) -> str:
        """Return ``sql``, asked in the words of a recorded call, with what that drew; see `flux.sql_draws`."""
        return give_recorded_draws(call, sql, self._written)

    def take_changes(self, changes: Iterable[RowChange]) -> None:
        """Take from the log what changed between the first snapshot and the last, and the recording's own; in order."""
        self._own_changes.clear()
        self._foreign.clear()
        for change in changes:
            if change.call is not None:
                self._own_changes.append(change)
            else:
                self._foreign.setdefault(change.xid, []).append(change)
        self._others = sorted(self._foreign)

    def _add(self, number: int, transaction: Transaction, failed: AbstractSet[int]) -> None:
        start = Snapshot.parse(transaction.snapshot)
        if transaction.isolation == Isolation.READ_COMMITTED and not transaction.statements:
            self.has_unknown = True
        if number or transaction.statements:
            self.moments[transaction.begun_by] = Moment(number, start)
        following = [
            Snapshot.parse(each.before) if each.before else start for each in transaction.statements[1:]
        ]
        for each, upper in itertools.zip_longest(transaction.statements, following):
            before = Snapshot.parse(each.before) if each.before else start
            after = Snapshot.parse(each.after) if each.after else None
            if each.call in failed and upper is not None and upper != before:
                # It failed before anybody could ask what it had seen; what came next had seen more.
                after = upper
            self.moments[each.call] = Moment(number, before, after)

    @property
    def own(self) -> tuple[str, ...]:
        """Ids of the recorded transactions that wrote something."""
        return tuple(str(xid) for xid in sorted(self._own))

    def find_call(self, xid: int, ordinal: int) -> int | None:
        """Return which recorded call made the changes of an ordinal; None for those of others."""
        return self._made_by.get((xid, ordinal), 0) if xid in self._own else None

    def list_candidates(self, moment: Moment) -> Iterator[Snapshot]:
        """Give all that a statement may have seen, the likeliest first."""
        yield moment.before
        if moment.after is None:
            return
        between = sorted(
            self._list_come(moment.before, moment.after), key=lambda xid: self._foreign[xid][0].seq
        )
        if not between:
            return
        yield moment.after
        sizes = range(1, len(between))
        tried = (
            itertools.chain.from_iterable(itertools.combinations(between, size) for size in sizes)
            if len(between) <= SUBSETS_OF_MAX
            else (between[:size] for size in sizes)
        )
        for some in tried:
            if self._hangs_together(frozenset(some), between):
                yield attrs.evolve(moment.before, also=moment.before.also | frozenset(some))

    def _hangs_together(self, some: frozenset[int], between: Sequence[int]) -> bool:
        """Whether a snapshot can see ``some`` of ``between`` and no others: of each row, a beginning of its changes."""
        changes = sorted(
            (change for xid in between for change in self._foreign[xid]), key=lambda each: each.seq
        )
        passed_over: set[tuple[str, str]] = set()
        for change in changes:
            if change.xid not in some:
                passed_over.add(change.row)
            elif change.row in passed_over:
                return False
        return True

    def find_moved(self, here: Snapshot, there: Snapshot, done: AbstractSet[int]) -> tuple[RowState, ...]:
        """Return the rows that ``there`` sees otherwise than ``here``; ``done`` are recorded calls that were made."""
        if here == there:
            return ()
        back: dict[tuple[str, str], RowChange] = {}
        for change in self._list_foreign(there, here, done):
            back.setdefault(change.row, change)
        ahead = {change.row: change for change in self._list_foreign(here, there, done)}
        gone = [(change.seq, RowState(*change.row, change.before)) for change in back.values()]
        come = [(change.seq, RowState(*change.row, change.after)) for change in ahead.values()]
        # What is taken back, the last change first: a row goes before what it refers to.
        return tuple(state for _, state in sorted(gone, key=_seq, reverse=True) + sorted(come, key=_seq))

    def find_relocked(self, call: int, here: Snapshot, done: AbstractSet[int]) -> tuple[RowState, ...]:
        """Return the rows that a recorded call wrote and that others had changed since ``here``: as it found them."""
        wrote = self._wrote.get(call)
        moment = self.moments.get(call)
        if not wrote or moment is None or moment.after is None:
            return ()
        found = {
            change.row: change
            for change in self._list_foreign(here, moment.after, done)
            if change.row in wrote
        }
        return tuple(
            RowState(*change.row, change.after)
            for change in sorted(found.values(), key=lambda each: each.seq)
        )

    def find_contended(
        self, here: Snapshot, there: Snapshot, done: AbstractSet[int]
    ) -> dict[tuple[str, str], "Contended"]:
        """Return the rows that others changed between two snapshots: a statement may have had to wait for them."""
        found: dict[tuple[str, str], Contended] = {}
        for change in self._list_foreign(here, there, done):
            first = found.get(change.row)
            found[change.row] = Contended(
                RowState(*change.row, change.before) if first is None else first.then,
                RowState(*change.row, change.after),
            )
        return found

    def find_written(self, call: int) -> AbstractSet[tuple[str, str]]:
        """Return the rows that a recorded call changed, in vain or not."""
        return self._wrote.get(call, frozenset())

    def _list_come(self, here: Snapshot, there: Snapshot) -> list[int]:
        """Return the transactions of others that ``there`` sees and ``here`` does not."""
        # Of thousands, those of a few are neither over to one nor not begun to the other.
        near = self._others[bisect_left(self._others, here.xmin) : bisect_left(self._others, there.xmax)]
        guessed = there.also & self._foreign.keys()
        return [xid for xid in {*near, *guessed} if there.sees(xid) and not here.sees(xid)]

    def _list_foreign(self, here: Snapshot, there: Snapshot, done: AbstractSet[int]) -> list[RowChange]:
        """Return what others changed that ``there`` sees and ``here`` does not, in order, without the rows that the
        replay itself has changed since."""
        come = [change for xid in self._list_come(here, there) for change in self._foreign[xid]]
        if not come:
            return []
        covered = {change.row: change.seq for change in self._own_changes if change.call in done}
        # Until it is rolled back, its lock keeps everybody else from the row: whoever changed it did so before.
        held = set[tuple[str, str]]().union(
            *(rows for call, rows in self._wrote_in_vain.items() if call in done)
        )
        return sorted(
            (
                change
                for change in come
                if change.seq > covered.get(change.row, -1) and change.row not in held
            ),
            key=lambda each: each.seq,
        )


WrittenRows = Mapping[tuple[int, str], Sequence[str]]
"""Images of rows as they were when a call had written them, by the call and the table, in order."""


def list_written_rows(original: Execution, schema: str) -> WrittenRows:
    """Return the rows that the calls of a recording inserted or changed in the tables of ``schema``."""
    written: dict[tuple[int, str], list[str]] = {}
    for mutation in original.mutations:
        if mutation.schema == schema and mutation.call is not None and mutation.after is not None:
            written.setdefault((mutation.call, mutation.table), []).append(mutation.after)
    return written


def give_recorded_draws(call: HostCall, sql: str, written: WrittenRows) -> str:
    """Return ``sql``, asked in the words of ``call``, with what that drew; see `flux.sql_draws`."""
    statement = read_statement(call)
    if statement is None:
        return sql
    answer = None
    if statement.rows is not None and len(statement.rows) == 1:
        # What JSON lacks is tagged: {"$uuid": "..."}.
        answer = [
            next(iter(value.values())) if isinstance(value, dict) and len(value) == 1 else value
            for value in statement.rows[0]
        ]
    return give_draws(
        sql,
        lambda table: [msgspec.json.decode(image) for image in written.get((call.request.seq, table), ())],
        answer,
    )


def _seq(item: tuple[int, RowState]) -> int:
    return item[0]


@attrs.frozen
class Span:
    """What a world is to be able to move through."""

    first: Snapshot
    last: Snapshot
    own: tuple[str, ...]
    """Ids of the recorded transactions that wrote something."""
    moves: bool
    """Whether it is more than one snapshot of one transaction."""

    @classmethod
    def of(cls, timelines: Sequence[Timeline]) -> "Span":
        """Return what the recordings saw, from the first to the last."""
        every = [snapshot for timeline in timelines for snapshot in (timeline.first, timeline.last)]
        first, last = min(every, key=_age), max(every, key=_age)
        own = tuple(xid for timeline in timelines for xid in timeline.own)
        return cls(
            first, last, own, first != last or sum(len(timeline.transactions) for timeline in timelines) > 1
        )


def _age(snapshot: Snapshot) -> tuple[int, int]:
    return snapshot.age
