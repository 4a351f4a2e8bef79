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

import attrs

from flux.execution import Execution, Transaction
from flux.hostcall import HostCall
from flux.mutation import Mutation
from flux.store.postgres import Isolation


@attrs.frozen
class Claim:
    """What one call has written to one table, and so what can't have been in its way."""

    images: tuple[str, ...] = attrs.field(repr=False)
    """The rows as it left them."""
    own: frozenset[str]
    """Keys of rows that the transaction itself had changed or deleted by then."""
    own_at_end: frozenset[str] | None
    """The same at its end; None when it was never committed, so that nothing was checked then."""


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

    def find(self, call: int) -> Mapping[str, Claim]:
        """Return what a call has written, by table; empty when that proves nothing."""
        made = [each for each in self._mutations.get(call, ()) if each.after is not None]
        if not made:
            return {}
        transaction = self._find_transaction(call)
        if transaction is None:
            return {}
        mine = [each for seq in self._list_calls(transaction) for each in self._mutations[seq]]
        claims = {}
        for table in sorted({each.table for each in made}):
            changed = [each for each in mine if each.table == table and each.before is not None]
            by_then = frozenset(
                str(each.key) for each in changed if each.call is not None and self._counts(each, call)
            )
            at_end = frozenset(str(each.key) for each in changed if each.committed)
            claims[table] = Claim(
                tuple(str(each.after) for each in made if each.table == table),
                by_then,
                at_end if transaction.committed else None,
            )
        return claims

    def _counts(self, mutation: Mutation, call: int) -> bool:
        """Whether a change was made, and not yet rolled back, when ``call`` had run."""
        assert mutation.call is not None, "only changes of known calls are kept"
        if mutation.call > call:
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
