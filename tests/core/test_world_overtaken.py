"""What a recording proves of rows that others had changed, and in which ways a statement may have run."""

from typing import Any

import attrs
import pytest

from flux.execution import Execution, StatementSnapshot, Transaction
from flux.hostcall import HostCall, HostCallRequest, HostCallResult
from flux.mutation import Mutation, Operation
from flux.supervisor.world_overtaken import Claims
from flux.supervisor.world_timeline import RowChange, Timeline
from flux.supervisor.world_waits import WAYS_MAX, list_ways
from tests.recordings import version_1

INSERT, UPDATE, DELETE = Operation.INSERT, Operation.UPDATE, Operation.DELETE


def wrote(call: int, key: str, op: Operation, *, committed: bool = True) -> Mutation:
    before, after = None if op is INSERT else "old", None if op is DELETE else "new"
    return Mutation("public", "t", key, op, before, after, committed, 105, call=call)


def call(seq: int, name: str = "db.query") -> HostCall:
    return HostCall(HostCallRequest(seq, name, b"[]"), HostCallResult(), 0)


def recording(*mutations: Mutation, isolation: str = "repeatable read", **more: Any) -> Execution:
    transaction = Transaction(isolation, "100:100:", 105, True, 1)
    return attrs.evolve(
        version_1.EXECUTIONS[0],
        **{"transactions": (transaction,), "ordinals": (), "calls": (), "mutations": mutations, **more},
    )


def test_a_row_in_the_way_of_what_was_written_had_been_overtaken() -> None:
    claims = Claims(recording(wrote(3, "1", INSERT)), "public")
    assert claims.find_images(3) == {"t": ["new"]} and claims.find_images(4) == {}
    assert claims.is_overtaken(3, "t", "1", at_commit=False)
    assert claims.is_overtaken(3, "t", "2", at_commit=True)


def test_read_committed_sees_what_is_there_and_proves_nothing() -> None:
    claims = Claims(recording(wrote(3, "1", INSERT), isolation="read committed"), "public")
    assert claims.find_images(3) == {}
    assert not claims.is_overtaken(3, "t", "1", at_commit=False)


@pytest.mark.parametrize("op", [UPDATE, DELETE])
def test_what_the_transaction_took_out_of_the_way_itself_had_not(op: Operation) -> None:
    claims = Claims(recording(wrote(2, "1", op), wrote(3, "1", INSERT), wrote(4, "2", op)), "public")
    assert not claims.is_overtaken(3, "t", "1", at_commit=False)
    # What it took away later was in the way before, but for what is looked for at COMMIT.
    assert claims.is_overtaken(3, "t", "2", at_commit=False)
    assert not claims.is_overtaken(3, "t", "2", at_commit=True)


def test_what_was_never_committed_was_never_checked_at_commit() -> None:
    given = Transaction("repeatable read", "100:100:", 105, False, 1)
    claims = Claims(recording(wrote(3, "1", INSERT, committed=False), transactions=(given,)), "public")
    assert claims.is_overtaken(3, "t", "1", at_commit=False)
    assert not claims.is_overtaken(3, "t", "1", at_commit=True)


@pytest.mark.parametrize(("end", "is_overtaken"), [("db.rollback", True), ("db.commit", False)])
def test_what_was_rolled_back_before_is_nobodys_doing(end: str, is_overtaken: bool) -> None:
    calls = (call(1, "db.begin"), call(2), call(3, end), call(4), call(5, "db.begin"), call(6), call(7, "db.rollback"))
    gone = wrote(2, "1", DELETE, committed=False)
    made = Claims(recording(gone, wrote(4, "1", INSERT), wrote(6, "1", INSERT, committed=False), calls=calls), "public")
    assert made.is_overtaken(4, "t", "1", at_commit=False) is is_overtaken
    # In the block itself it is the transaction's own doing.
    in_block = Claims(recording(gone, wrote(2, "1", INSERT, committed=False), calls=calls), "public")
    assert not in_block.is_overtaken(2, "t", "1", at_commit=False)


def test_each_transaction_stands_for_itself() -> None:
    transactions = tuple(Transaction("serializable", "100:100:", 100 + n, True, n) for n in (1, 10))
    claims = Claims(recording(wrote(2, "1", DELETE), wrote(12, "1", INSERT), transactions=transactions), "public")
    assert claims.is_overtaken(12, "t", "1", at_commit=False)


def contended(count: int) -> tuple[Timeline, HostCall]:
    """A statement during which ``count`` others changed a row each."""
    statement = StatementSnapshot(2, "100:100:", f"{100 + count}:{100 + count}:")
    transaction = Transaction("read committed", "100:100:", None, True, 1, statements=(statement,))
    timeline = Timeline(recording(transactions=(transaction,)), "public")
    timeline.take_changes(RowChange(n, "t", str(n), 100 + n, f"then {n}", f"now {n}") for n in range(count))
    return timeline, call(2)


def test_a_statement_is_run_again_with_the_rows_that_it_touched_until_it_touches_no_more() -> None:
    timeline, asked = contended(2)
    candidates = list(timeline.list_candidates(timeline.moments[2]))
    ways = list_ways(timeline, asked, candidates, frozenset())
    first, second = ("t", "0"), ("t", "1")
    way = next(ways)
    assert not way.waited and way.contended.keys() == {first, second}
    # With LIMIT it takes the next when the first is not what it looks for any more.
    way = ways.send(frozenset({first}))
    assert way.waited == {first} and str(way.snapshot) == "100:100:"
    assert (way.contended[first].then.image, way.contended[first].now.image) == ("then 0", "now 0")
    assert ways.send(frozenset({second})).waited == {first, second}
    # It touched no others: another snapshot, or no more of the others, is the next thing to try.
    assert ways.send(frozenset({second})).waited == {first}


def test_a_statement_that_touches_everything_is_not_run_for_ever() -> None:
    timeline, asked = contended(4)
    ways = list_ways(timeline, asked, list(timeline.list_candidates(timeline.moments[2])), frozenset())
    way, count = next(ways), 1
    with pytest.raises(StopIteration):
        while True:
            way = ways.send(frozenset(way.contended))
            count += 1
    assert 16 < count <= WAYS_MAX
