"""What each statement could see, and which rows change on the way from one to the next."""

from itertools import pairwise
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.execution import StatementSnapshot, Transaction
from flux.hostcall import HostCall, HostCallError, HostCallRequest, HostCallResult
from flux.mutation import Mutation, Operation
from flux.supervisor.world_timeline import Moment, RowChange, RowState, Snapshot, Span, Timeline
from tests.recordings import version_1

OWN = 105
"""The recorded transaction."""


def change(
    seq: int, xid: int, key: str, before: str | None, after: str | None, call: int | None = None
) -> RowChange:
    return RowChange(seq, "t", key, xid, before, after, call)


def call(seq: int, error: str | None = None) -> HostCall:
    result = HostCallResult(error=None if error is None else HostCallError("DatabaseError", "no", error))
    return HostCall(HostCallRequest(seq, "db.query", b"[]"), result, 0)


def wrote(call_seq: int, key: str) -> Mutation:
    return Mutation("public", "t", key, Operation.UPDATE, "a", "b", True, OWN, call=call_seq)


def timeline(*statements: StatementSnapshot, changes: tuple[RowChange, ...] = (), **fields: Any) -> Timeline:
    transaction = Transaction("read committed", "100:100:", OWN, True, 1, statements=statements)
    more = {"transactions": (transaction,), "ordinals": (), "calls": (), "mutations": (), **fields}
    made = Timeline(attrs.evolve(version_1.EXECUTIONS[0], **more), "public")
    made.take_changes(changes)
    return made


@given(st.integers(1, 50), st.sets(st.integers(1, 50)), st.integers(1, 60))
def test_a_snapshot_sees_what_had_ended(xmax: int, ended: set[int], xid: int) -> None:
    running = sorted(set(range(1, xmax)) - ended)
    xmin = min(running, default=xmax)
    text = f"{xmin}:{xmax}:{','.join(map(str, running))}"
    assert Snapshot.parse(text).sees(xid) == (xid < xmax and xid in ended)
    assert str(Snapshot.parse(text)) == text


def test_snapshots_are_ordered_by_when_they_were_taken() -> None:
    ordered = ["100:100:", "100:102:100", "100:103:100,101", "100:103:101", "103:103:", "103:109:105"]
    snapshots = [Snapshot.parse(text) for text in ordered]
    assert all(earlier.age < later.age for earlier, later in pairwise(snapshots))


def test_rows_move_to_what_the_later_snapshot_saw_and_back() -> None:
    changes = (
        change(1, 100, "1", "a", "b"), change(2, 101, "1", "b", "c"), change(3, 100, "2", None, "x"),
        change(4, 101, "3", "y", None), change(5, 102, "1", "c", "d"),
    )  # fmt: skip
    made = timeline(changes=changes)
    early, late = Snapshot.parse("100:100:"), Snapshot.parse("102:102:")
    ahead = made.find_moved(early, late, frozenset())
    assert ahead == (RowState("t", "1", "c"), RowState("t", "2", "x"), RowState("t", "3", None))
    back = made.find_moved(late, early, frozenset())
    assert set(back) == {RowState("t", "1", "a"), RowState("t", "2", None), RowState("t", "3", "y")}
    assert made.find_moved(late, late, frozenset()) == ()


def test_what_the_execution_wrote_is_the_replays_and_stays_above_what_was_there_before() -> None:
    changes = (
        change(1, 100, "1", "a", "b"), change(2, OWN, "1", "b", "own", call=3), change(3, 106, "1", "own", "later"),
    )  # fmt: skip
    made = timeline(changes=changes)
    early, late, latest = (Snapshot.parse(text) for text in ("100:100:", "106:106:", "107:107:"))
    assert made.find_moved(early, late, frozenset()) == (RowState("t", "1", "b"),)
    assert made.find_moved(early, late, {3}) == ()
    assert made.find_moved(early, latest, {3}) == (RowState("t", "1", "later"),)


def test_what_the_execution_wrote_in_vain_is_its_own_until_it_is_rolled_back() -> None:
    changes = (change(1, 100, "1", "a", "b"), change(2, 100, "2", "p", "q"))
    made = timeline(changes=changes, mutations=(attrs.evolve(wrote(3, "1"), committed=False),))
    early, late = Snapshot.parse("100:100:"), Snapshot.parse("106:106:")
    both = (RowState("t", "1", "b"), RowState("t", "2", "q"))
    assert made.find_moved(early, late, frozenset()) == both
    # It waited for the other one's change and wrote above it; no log has that write.
    assert made.find_moved(early, late, {3}) == both[1:]


def test_no_snapshot_sees_the_later_of_two_changes_of_a_row_alone() -> None:
    changes = (change(1, 100, "1", "a", "b"), change(2, 101, "1", "b", "c"), change(3, 102, "2", None, "x"))
    made = timeline(changes=changes)
    moment = Moment(0, Snapshot.parse("100:100:"), Snapshot.parse("103:103:"))
    guesses = [snapshot.also for snapshot in made.list_candidates(moment)]
    assert guesses[:2] == [frozenset(), frozenset()]
    assert set(guesses[2:]) == {frozenset({100}), frozenset({102}), frozenset({100, 101}), frozenset({100, 102})}


def test_a_row_that_was_waited_for_is_as_the_other_one_left_it() -> None:
    statement = StatementSnapshot(3, "100:100:", "101:101:")
    changes = (
        change(1, 100, "1", "a", "b"),
        change(2, OWN, "1", "b", "own", call=3),
        change(3, 100, "2", "a", "b"),
    )
    made = timeline(statement, changes=changes, mutations=(wrote(3, "1"),))
    before = Snapshot.parse("100:100:")
    assert made.find_relocked(3, before, frozenset()) == (RowState("t", "1", "b"),)
    assert made.find_relocked(4, before, frozenset()) == ()


@pytest.mark.parametrize("others", range(5))
def test_a_statement_may_have_seen_any_of_those_who_committed_while_it_began(others: int) -> None:
    after = f"{100 + others}:{100 + others}:"
    statement = StatementSnapshot(2, "100:100:", after)
    changes = tuple(change(n, 100 + n, str(n), "a", "b") for n in range(others))
    made = timeline(statement, changes=changes)
    candidates = list(made.list_candidates(made.moments[2]))
    seen = [frozenset(xid for xid in range(100, 110) if each.sees(xid)) for each in candidates]
    assert seen[0] == frozenset()
    if others:
        assert seen[1] == frozenset(range(100, 100 + others))
    assert len(seen) == len(set(seen)) == 2 ** min(others, 4), "each set once"


def test_what_a_failed_statement_saw_lies_before_what_the_next_one_saw() -> None:
    statements = (
        StatementSnapshot(2, "100:100:"),
        StatementSnapshot(3, "104:104:"),
        StatementSnapshot(4, "106:106:"),
    )
    made = timeline(*statements, calls=(call(2, "23505"), call(3), call(4, "23505")))
    early, late = Snapshot.parse("100:100:"), Snapshot.parse("104:104:")
    assert made.moments[2] == Moment(0, early, late)
    assert made.moments[3] == Moment(0, late)
    assert made.moments[4] == Moment(0, Snapshot.parse("106:106:"))
    assert (made.first, made.last) == (early, Snapshot.parse("106:106:"))


def test_read_committed_without_its_statements_snapshots_says_so() -> None:
    assert timeline().has_unknown
    assert not timeline(StatementSnapshot(2, "100:100:")).has_unknown


def test_several_transactions_are_several_moments() -> None:
    transactions = (
        Transaction("repeatable read", "100:100:", 100, True, 1, statements=(StatementSnapshot(2),)),
        Transaction("repeatable read", "103:104:103", None, True, 5, statements=(StatementSnapshot(6),)),
    )
    made = timeline(transactions=transactions)
    assert {seq: (each.transaction, str(each.before)) for seq, each in made.moments.items()} == {
        1: (0, "100:100:"), 2: (0, "100:100:"), 5: (1, "103:104:103"), 6: (1, "103:104:103"),
    }  # fmt: skip
    span = Span.of([made, timeline(StatementSnapshot(2, "109:109:"))])
    assert (str(span.first), str(span.last), span.moves) == ("100:100:", "109:109:", True)
    assert span.own == ("100", "105")
