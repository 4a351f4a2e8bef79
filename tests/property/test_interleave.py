"""Gates give every transaction the view that it had, in whatever order a machine comes to them.

The oracle is a server that is played here: it hands out ids, lists what is in progress, and decides what is visible
by the order of what happens alone. A history is played on it freely and recorded; then the same transactions are
played again, and at each step any run whose gate is open may be the next. Who saw whom must be the same.
"""

import attrs
from hypothesis import given
from hypothesis import strategies as st

from flux.interleave import (
    Blocked,
    Claim,
    Gate,
    Interleaving,
    Kind,
    Part,
    Run,
    Snapshot,
    View,
    count_at_once,
    count_overlapping,
)

Tx = tuple[int, int]
"""Run and part."""


@attrs.define
class Server:
    """What PostgreSQL does with ids and snapshots."""

    next_xid: int = 100
    running: set[int] = attrs.field(factory=set)
    committed: list[Tx] = attrs.field(factory=list)
    saw: dict[tuple[Tx, int], frozenset[Tx]] = attrs.field(factory=dict)
    """By transaction and number of its snapshot: whose commits came before."""

    def take_snapshot(self, tx: Tx, number: int) -> Snapshot:
        self.saw[tx, number] = frozenset(self.committed)
        return Snapshot(self.next_xid, frozenset(self.running))

    def assign(self) -> int:
        xid = self.next_xid
        self.next_xid += 1
        self.running.add(xid)
        return xid

    def end(self, tx: Tx, xid: int | None, *, commits: bool) -> None:
        self.running.discard(xid or 0)
        if commits and xid is not None:
            self.committed.append(tx)


@attrs.frozen
class Plan:
    """A transaction that is to be."""

    writes: bool
    commits: bool
    views: int


plans = st.lists(
    st.lists(
        st.builds(Plan, st.booleans(), st.sampled_from([True, True, True, False]), st.integers(1, 3)),
        max_size=3,
    ),
    min_size=1,
    max_size=5,
)


def record(data: st.DataObject, planned: list[list[Plan]]) -> tuple[list[Run], Server]:
    """Play ``planned`` in any order; return what a record has of it."""
    server = Server()
    steps = {
        run: [
            (part, step)
            for part, plan in enumerate(parts)
            for step in (*range(plan.views), "end")
        ]
        for run, parts in enumerate(planned)
    }  # fmt: skip
    views: dict[Tx, list[View]] = {}
    xids: dict[Tx, int | None] = {}
    edges: dict[int, list[int]] = {run: [] for run in steps}
    clock = 0
    while left := [run for run, rest in steps.items() if rest]:
        run = data.draw(st.sampled_from(left))
        part, step = steps[run].pop(0)
        tx, plan = (run, part), planned[run][part]
        clock += 1
        edges[run].append(clock)
        if step == "end":
            server.end(tx, xids[tx], commits=plan.commits)
            continue
        assert isinstance(step, int)
        snapshot = server.take_snapshot(tx, step)
        views.setdefault(tx, []).append(View((1, part * 10 + step + 1), snapshot, snapshot))
        if step == 0:
            xids[tx] = server.assign() if plan.writes else None
    runs = [
        Run(
            tuple(
                Part(tuple(views[run, part]), xids[run, part], plan.commits)
                for part, plan in enumerate(parts)
            ),
            began_ns=min(edges[run], default=0),
            ended_ns=max(edges[run], default=0),
        )
        for run, parts in enumerate(planned)
    ]
    return runs, server


class Player:
    """One run that is played again: a generator of gates, and what is done behind each."""

    def __init__(self, number: int, run: Run, gates: Interleaving, server: Server) -> None:
        self.steps = self._play(number, run, gates, server)
        self.gate: Gate | None = next(self.steps, None)

    def go_on(self) -> None:
        self.gate = next(self.steps, None)

    @staticmethod
    def _play(number: int, run: Run, gates: Interleaving, server: Server):  # type: ignore[no-untyped-def]
        yield gates.start(number)
        for index, part in enumerate(run.parts):
            tx = (number, index)
            for n, view in enumerate(part.views):
                gate = gates.begin(number, view.call) if n == 0 else gates.state(number, view.call)
                yield gate
                server.take_snapshot(tx, n)
                gates.passed(gate)
            if not part.committed:
                gates.rolled_back(number)
                continue
            gate = gates.commit(number, wrote=part.xid is not None)
            yield gate
            server.end(tx, part.xid, commits=True)
            gates.passed(gate)
        gates.ended(number)


@given(st.data(), plans)
def test_whoever_saw_whom_then_sees_them_again_and_nobody_is_stopped(
    data: st.DataObject, planned: list[list[Plan]]
) -> None:
    runs, recorded = record(data, planned)
    gates, server = Interleaving(runs), Server()
    players = [Player(number, run, gates, server) for number, run in enumerate(runs)]
    while left := [player for player in players if player.gate is not None]:
        able = [player for player in left if player.gate is not None and gates.is_open(player.gate)]
        assert able, "the recorded order itself would do"
        assert gates.find_stuck({n: player.gate for n, player in enumerate(left)}) is None
        data.draw(st.sampled_from(able)).go_on()
    assert server.saw == recorded.saw
    assert gates.relaxed == []


def run_of(*parts: Part) -> Run:
    return Run(parts, 0, 10)


def view(seq: int, xmax: int, *running: int) -> View:
    snapshot = Snapshot(xmax, frozenset(running))
    return View((1, seq), snapshot, snapshot)


def lost_update() -> list[Run]:
    """Two runs read in one transaction each and write in another, both from what they read at first."""
    return [
        run_of(Part((view(1, 100),), None, True), Part((view(2, 100),), 100, True)),
        run_of(Part((view(1, 100),), None, True), Part((view(2, 101),), 101, True)),
    ]


def test_half_a_fix_that_reads_and_writes_in_one_transaction_still_begins_before_the_other_ends() -> None:
    gates = Interleaving(lost_update())
    gates.passed(gates.begin(0, (1, 1)))
    gates.passed(gates.state(0, (1, 2)))
    commit = gates.commit(0, wrote=True)
    assert not gates.is_open(commit), "the other one had read before it"
    gates.passed(gates.begin(1, (1, 1)))
    assert gates.is_open(commit)
    second = gates.state(1, (1, 2))
    assert not gates.is_open(second), "what it writes came behind the first one's end"
    gates.passed(commit)
    assert gates.is_open(second)
    gates.passed(second)
    assert gates.is_open(gates.commit(1, wrote=True))


def test_a_write_that_nothing_recorded_stands_for_ends_where_the_recorded_write_did() -> None:
    gates = Interleaving(lost_update())
    gates.passed(gates.begin(0, None))
    assert gates.is_open(gates.state(0, None))
    commit = gates.commit(0, wrote=True)
    assert not gates.is_open(commit)
    gates.passed(gates.begin(1, None))
    assert gates.is_open(commit)


def test_a_lock_that_the_fix_takes_is_let_through_once_nothing_else_moves_and_counted() -> None:
    runs = lost_update()
    runs[1] = run_of(
        runs[1].parts[0], Part((view(2, 100),), 101, True)
    )  # It began to write before the first one's end.
    gates = Interleaving(runs)
    gates.passed(gates.begin(0, None))
    gates.passed(gates.begin(1, None))
    gates.passed(gates.state(0, (1, 2)))
    commit = gates.commit(0, wrote=True)
    assert gates.find_stuck({0: commit, 1: None}) is None, "the other one is at work"
    assert gates.find_stuck({0: commit, 1: Blocked(frozenset())}) is None, "nobody holds its lock any more"
    stuck = gates.find_stuck({0: commit, 1: Blocked(frozenset({0}))})
    assert stuck == commit
    opened = gates.relax(stuck)
    assert gates.is_open(opened)
    assert len(gates.relaxed) == 1
    gates.passed(opened)


def test_a_circle_of_locks_is_the_servers_to_break() -> None:
    gates = Interleaving([*lost_update(), run_of()])
    gates.passed(gates.begin(0, None))
    waiting = attrs.evolve(gates.commit(0, wrote=True), run=2)
    circle = {0: Blocked(frozenset({1})), 1: Blocked(frozenset({0}))}
    assert gates.find_stuck({**circle, 2: waiting}) is None
    assert gates.find_stuck({**circle, 1: Blocked(frozenset({2})), 2: waiting}) == waiting


def test_what_never_comes_holds_nobody_up() -> None:
    gates = Interleaving(lost_update())
    gates.passed(gates.begin(0, None))
    commit = gates.commit(0, wrote=True)
    gates.ended(1)
    assert gates.is_open(commit)


def test_an_attempt_that_the_database_gave_up_is_over_for_all() -> None:
    failed, again = (
        Part((view(1, 100),), 101, False),
        Part((View((2, 1), *[Snapshot(102, frozenset())] * 2),), 102, True),
    )
    gates = Interleaving([run_of(Part((view(1, 100),), 100, True)), run_of(failed, again)])
    gates.passed(gates.begin(0, (1, 1)))
    commit = gates.commit(0, wrote=True)
    assert not gates.is_open(commit)
    gates.attempt_ended(1, 1)
    second = gates.begin(1, (2, 1), attempt=2)
    assert not gates.is_open(second)
    assert gates.is_open(commit)
    gates.passed(commit)
    assert gates.is_open(second)


@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.integers(1, 8)).map(lambda one: (one[0], one[0] + one[1])),
        max_size=12,
    )
)
def test_what_ran_at_the_same_time_is_counted_as_by_looking_at_each_moment(
    intervals: list[tuple[int, int]],
) -> None:
    moments = [[n for n, (begin, end) in enumerate(intervals) if begin <= at < end] for at in range(40)]
    assert count_at_once(intervals) == max(map(len, moments))
    together = {n for moment in moments if len(moment) > 1 for n in moment}
    assert count_overlapping(intervals) == len(together)


def test_a_snapshot_is_read_as_postgres_writes_it() -> None:
    snapshot = Snapshot.parse("10:20:10,14,15")
    assert [xid for xid in range(8, 22) if snapshot.sees(xid)] == [8, 9, 11, 12, 13, 16, 17, 18, 19]
    assert Snapshot.parse("7:7:").sees(6)
    assert not Snapshot.parse("7:7:").sees(7)
    assert Kind.COMMIT == "commit"


def test_a_statement_that_waited_for_another_run_comes_behind_its_statements_again() -> None:
    bracket = View((1, 2), Snapshot(101, frozenset({100})), Snapshot(102, frozenset({101})))
    second = Part((view(1, 101, 100), bracket), 101, True, (Claim((1, 2), 5, 9, is_bracketed=True),), 10)
    runs = [run_of(Part((view(1, 100),), 100, True, (Claim((1, 2), 4, 5),), 6)), run_of(second)]
    gates = Interleaving(runs)
    gates.passed(gates.begin(1, (1, 1)))
    waiting = gates.state(1, (1, 2))
    assert not gates.is_open(waiting), "the other one had the lock first"
    gates.passed(gates.begin(0, (1, 1)))
    gates.passed(gates.state(0, (1, 2)))
    commit = gates.commit(0, wrote=True)
    assert gates.is_open(waiting), "it may come and wait, as it did"
    assert gates.is_open(commit)


def test_a_statement_that_failed_for_another_run_comes_behind_it_again_and_one_that_did_not_is_free() -> None:
    first = run_of(Part((view(1, 100),), 100, True, (), 6))
    for failed, ended_ns, is_free in ((True, 6, False), (False, 6, True), (True, 10, True)):
        claim = Claim((1, 2), 5, 9, failed=failed)
        gates = Interleaving(
            [attrs.evolve(first, parts=(attrs.evolve(first.parts[0], ended_ns=ended_ns),)),
             run_of(Part((view(1, 101, 100),), 101, False, (claim,), 10))]
        )  # fmt: skip
        gates.passed(gates.begin(1, (1, 1)))
        assert gates.is_open(gates.state(1, (1, 2))) == is_free
