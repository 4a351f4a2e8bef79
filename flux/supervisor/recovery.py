"""Turning the journals of dead supervisors into records, at start.

For each execution there is one question: does the database have its record?

    yes                                     nothing is left to do
    no, it ended outside a transaction      it is stored as it ended
    no, it ended inside one                 the transaction never committed: interrupted, and rolled back
    no, it had not ended                    interrupted

`make_interrupted` decides what an interrupted execution's record says; it is given
what is known and invents nothing. `recover` asks, stores, and deletes the journals
when the database has everything. Killed at any point and run again, it comes to the
same records: the primary key of ``flux.execution`` refuses a second one.

A supervisor's death does not stop what it had sent to Postgres. A COMMIT may still be
running when we look. So nothing here trusts that a record is absent: `Store.add`
inserts, which waits for a running insert of the same key, and learns from the refusal.
"""

import uuid
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Protocol

import attrs
import trio

from flux import ids
from flux.execution import Execution, Interrupted, Level, Transaction, Trigger
from flux.mutation import Mutation
from flux.store.postgres import ConnectionLost
from flux.supervisor.left_behind import LeftBehind, claim, is_over

ASK_S = 60.0
"""How long the database may take to say what it has of one execution. As many as are left may take as much longer."""


class Store(Protocol):
    """What recovery needs of the database."""

    async def exists(self, execution_id: uuid.UUID) -> bool:
        """Say whether the record of this execution is there."""

    async def list_committed(self, execution_id: uuid.UUID, xids: Collection[int]) -> frozenset[int]:
        """Return the ids of this execution's marked transactions that committed.

        Waits while one of ``xids``, all that the journal knows of, is still running.
        """

    async def add(self, execution: Execution) -> bool:
        """Store a record for good, its rolled-back mutations included; False when it was there already.

        Waits for a transaction that is just about to commit a record with the same id; `trio.TooSlowError` after as
        long as a record of this size may take.
        """


@attrs.frozen
class Recovered:
    """What recovery found and did."""

    interrupted: tuple[uuid.UUID, ...] = ()
    """Recorded as interrupted."""
    completed: tuple[uuid.UUID, ...] = ()
    """Had ended, and were recorded as they ended."""
    already_stored: tuple[uuid.UUID, ...] = ()
    """Nothing was missing in the database."""
    discarded_segments: int = 0
    """Files of journals that were done with."""
    segments_in_use: int = 0
    """Files of living supervisors, left alone."""
    damage: tuple[str, ...] = ()
    """What could not be read, a sentence each, with the file. Files that are damaged, and not just cut off at the
    end, are kept as ``*.damaged``; those of another version of Flux are left as they are."""


async def recover(folder: Path, store: Store) -> Recovered:
    """Bring what is in the journals left behind in ``folder`` into the database, then delete them.

    Safe at any time, also beside running supervisors and beside another recovery. An error of ``store``
    passes through and leaves every journal as it was.
    """
    interrupted: list[uuid.UUID] = []
    completed: list[uuid.UUID] = []
    already_stored: list[uuid.UUID] = []
    with await trio.to_thread.run_sync(claim, folder) as claimed:
        for done_before, execution_id in enumerate(claimed.ids):
            left = claimed.read(execution_id)
            try:
                with trio.fail_after(ASK_S):
                    if left.is_stored or await store.exists(execution_id):
                        already_stored.append(execution_id)
                        continue
                    if left.ended is not None and not left.in_transaction:
                        done, execution = completed, left.ended
                    else:
                        xids = {mutation.xid for mutation in left.mutations}
                        xids |= {transaction.xid for transaction in left.transactions if transaction.xid is not None}
                        committed = await store.list_committed(execution_id, frozenset(xids))
                        done, execution = interrupted, make_interrupted(left, committed)
                added = await store.add(execution)
            except trio.TooSlowError as error:
                raise ConnectionLost(
                    f"the database gave no answer in time when execution {execution_id}, which a server left in the "
                    f"journal, was stored: {done_before:,} of {len(claimed.ids):,} are",
                    remedy="start again once it answers: what is stored stays, and the journal has the others",
                ) from error
            (done if added else already_stored).append(execution_id)
        return Recovered(
            interrupted=tuple(interrupted),
            completed=tuple(completed),
            already_stored=tuple(already_stored),
            discarded_segments=claimed.discard(),
            segments_in_use=claimed.in_use,
            damage=claimed.damage,
        )


def make_interrupted(left: LeftBehind, committed: frozenset[int]) -> Execution:
    """Return the record of an execution whose supervisor ended first.

    ``committed`` holds the ids of its transactions that the database has; its record is not there.
    """
    transactions, doubts = _judge_transactions(left.transactions, committed)
    by_whom = f"the supervisor ended (pid {left.pid})" if left.pid is not None else "the supervisor ended"
    if left.ended is None:
        reason = f"{by_whom} before the function did"
        known = attrs.evolve(left.head or _make_unknown(left.id), calls=left.calls, logs=left.logs)
    else:
        reason = f"{by_whom} while it was committing"
        if not committed:
            reason += "; the database does not have it, so nothing was committed"
        known = left.ended
    mutations = _merge(left.mutations, known.mutations)
    # The rows of committed transactions are in the store's own log, by the xid; a record lists the others.
    rolled_back = tuple(
        attrs.evolve(mutation, committed=False) for mutation in mutations if mutation.xid not in committed
    )
    return attrs.evolve(
        known,
        outcome=Interrupted(reason),
        elapsed_ns=known.elapsed_ns if left.ended is not None else _last_ns(left),
        mutations=rolled_back,
        mutation_count=max(known.mutation_count, len(mutations)),
        transactions=transactions or tuple(attrs.evolve(t, committed=False) for t in known.transactions),
        completeness=(*known.completeness, *_list_losses(left), *doubts),
    )


def _make_unknown(execution_id: uuid.UUID) -> Execution:
    """Return what the id alone tells."""
    return Execution(
        id=execution_id,
        tenant="",
        function="",
        deployment="",
        sha="",
        dirty=False,
        trigger=Trigger(kind="unknown"),
        started_at_ns=ids.get_unix_ms(execution_id) * 1_000_000,
        seed=b"",
        level=Level(kind="unknown", isolation="unknown", clock="unknown"),
    )


def _list_losses(left: LeftBehind) -> Iterable[str]:
    if left.ended is not None:
        return ()  # the whole record was written down, whatever happened to its parts
    if left.head is None:
        return (
            "how it began is lost: its function, its input and its code are not known, "
            "and its start only to the millisecond",
            *left.lost,
        )
    return left.lost


def _judge_transactions(
    transactions: tuple[Transaction, ...], committed: frozenset[int]
) -> tuple[tuple[Transaction, ...], list[str]]:
    """Say of each transaction whether it committed, and what is doubtful about that."""
    doubts: list[str] = []
    judged = list(transactions)
    unclaimed = committed - {transaction.xid for transaction in transactions}
    # A transaction has no id until it writes, so the journal may know it without. Only when there is one
    # such, and one id to give, is it certain that they belong together.
    open_ones = [index for index, one in enumerate(judged) if one.xid is None and not is_over(one)]
    if len(open_ones) == 1 and len(unclaimed) == 1:
        (xid,) = unclaimed
        judged[open_ones[0]] = attrs.evolve(judged[open_ones[0]], xid=xid)
    else:
        doubts += [
            f"transaction {xid} committed; which call began it is not known" for xid in sorted(unclaimed)
        ]
    for index, transaction in enumerate(judged):
        if transaction.xid in committed:
            judged[index] = attrs.evolve(transaction, committed=True)
        elif transaction.committed and transaction.xid is not None:
            doubts.append(
                f"the server said that transaction {transaction.xid} had committed, "
                "but the database has nothing of it"
            )
    return tuple(judged), doubts


def _merge(journalled: tuple[Mutation, ...], recorded: tuple[Mutation, ...]) -> tuple[Mutation, ...]:
    """Return ``journalled``, which is in order, and what only the record has."""
    rest = Counter(_identity(mutation) for mutation in journalled)
    only_recorded = []
    for mutation in recorded:
        if rest[_identity(mutation)]:
            rest[_identity(mutation)] -= 1
        else:
            only_recorded.append(mutation)
    return (*journalled, *only_recorded)


def _identity(mutation: Mutation) -> Mutation:
    """The row and what happened to it, without what only the record or only the journal may know."""
    return attrs.evolve(mutation, committed=False, call=None, at_ns=0)


def _last_ns(left: LeftBehind) -> int:
    """When the last event that the journal has took place, since the start."""
    times = [0, *(line.at_ns for line in left.logs), *(one.ended_ns for one in left.transactions)]
    for call in left.calls:
        times.append(call.started_ns + (call.result.elapsed_ns if call.result is not None else 0))
    return max(times)
