"""Writing one execution's events into the journal: what `flux.supervisor.drive` tells, and what its database does."""

import uuid

from flux.execution import LogLine, Transaction
from flux.hostcall import HostCallRequest, HostCallResult
from flux.mutation import Mutation
from flux.supervisor.journal import Journal


class JournalScribe:
    """Writes one execution's events into the journal."""

    def __init__(self, journal: Journal, execution_id: uuid.UUID) -> None:
        self._journal = journal
        self._id = execution_id.bytes

    def asked(self, request: HostCallRequest, started_ns: int) -> None:
        self._journal.asked(self._id, request, started_ns)

    def answered(self, seq: int, result: HostCallResult, answered: int) -> None:
        self._journal.answered(self._id, seq, result, answered)

    def logged(self, line: LogLine) -> None:
        self._journal.logged(self._id, line)

    def transaction(self, transaction: Transaction) -> None:
        self._journal.transaction(self._id, transaction)

    def mutated(self, call: int, mutations: tuple[Mutation, ...]) -> None:
        self._journal.mutated(self._id, call, mutations)
