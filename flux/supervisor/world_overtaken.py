"""Which rows had been overtaken when a recording wrote beside them.

In REPEATABLE READ and SERIALIZABLE a transaction goes on seeing rows that others have changed or deleted since, and
PostgreSQL lets it insert what these would forbid. The record proves that it did: a row that was written, and stayed
written to the statement's end, is in conflict with none that was there. So a row which the snapshot shows and which
conflicts with a written one had been taken out of the way by somebody: by the transaction itself, and then the record
has that too, or by another, and then it was *overtaken*. `Claims` says what a call has proved, without any I/O.

A conflict that is checked at COMMIT proves nothing before that, and what the transaction took out of the way later
counts too.
"""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet

from flux.execution import Execution, Transaction
from flux.hostcall import HostCall
from flux.mutation import Mutation
from flux.store.postgres import Isolation


class Claims:
    """What each call of a recording proves; see the module."""

    def __init__(self, original: Execution, schema: str) -> None:
        """``original`` has its committed mutations too; ``schema`` is where its tables are."""
        self._transactions = [
            each for each in original.transactions if each.isolation != Isolation.READ_COMMITTED
        ]
        self._begins = sorted(each.begun_by for each in original.transactions)
        self._undone_by = _find_undone(original.calls)
        self._mutations: dict[int, list[Mutation]] = {}
        if self._transactions:
            for mutation in original.mutations:
                if mutation.schema == schema and mutation.key is not None and mutation.call is not None:
                    self._mutations.setdefault(mutation.call, []).append(mutation)

    def find_images(self, call: int) -> Mapping[str, list[str]]:
        """Return the rows that a call has written, by table, where that proves something."""
        images: dict[str, list[str]] = {}
        if self._find_transaction(call) is not None:
            for mutation in self._mutations.get(call, ()):
                if mutation.after is not None:
                    images.setdefault(mutation.table, []).append(mutation.after)
        return images

    def is_overtaken(self, call: int, table: str, key: str, *, at_commit: bool) -> bool:
        """Whether a row that conflicts with what ``call`` has written had been overtaken by others.

        ``at_commit``: the conflict is looked for at COMMIT only.
        """
        transaction = self._find_transaction(call)
        if transaction is None or (at_commit and not transaction.committed):
            return False
        own = (
            mutation
            for seq in self._list_calls(transaction)
            for mutation in self._mutations[seq]
            if (mutation.table, mutation.key) == (table, key) and mutation.before is not None
        )
        return not any(each.committed if at_commit else self._counts(each, call) for each in own)

    def _counts(self, mutation: Mutation, call: int) -> bool:
        """Whether a change was made, and not yet rolled back, when ``call`` had run."""
        if mutation.call is None or mutation.call > call:
            return False
        undone_by = None if mutation.committed else self._undone_by.get(mutation.call)
        return undone_by is None or undone_by > call

    def _find_transaction(self, call: int) -> Transaction | None:
        begun_by = max((each for each in self._begins if each <= call), default=None)
        return next((each for each in self._transactions if each.begun_by == begun_by), None)

    def _list_calls(self, transaction: Transaction) -> AbstractSet[int]:
        """Return the calls of a transaction that wrote something."""
        following = min((each for each in self._begins if each > transaction.begun_by), default=None)
        return {
            seq
            for seq in self._mutations
            if seq >= transaction.begun_by and (following is None or seq < following)
        }


def _find_undone(calls: Iterable[HostCall]) -> dict[int, int]:
    """Return by which call each call inside a block was rolled back, where the guest rolled the block back."""
    undone: dict[int, int] = {}
    blocks: list[list[int]] = []
    for call in calls:
        seq = call.request.seq
        if blocks:
            blocks[-1].append(seq)
        if call.result is None or call.result.error is not None:
            continue
        match call.request.name:
            case "db.begin":
                blocks.append([])
            case "db.commit" if blocks:
                inner = blocks.pop()
                if blocks:
                    blocks[-1] += inner
            case "db.rollback" if blocks:
                for each in blocks.pop():
                    undone.setdefault(each, seq)
    return undone
