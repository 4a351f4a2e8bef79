"""One execution that runs again beside others: its sandbox, its session, and a host that performs statements only."""

import attrs

from flux.execution import Execution, Returned
from flux.hostcall import HostCallRequest, HostCallResult
from flux.hostcalls.base import CallContext
from flux.hostcalls.clock import SteadyClock
from flux.limits import format_duration
from flux.matching import Counterparts
from flux.matching_session import MatchingSession
from flux.redact import Redactor
from flux.supervisor.execute import Backing
from flux.supervisor.interleave_database import GatedDatabase
from flux.supervisor.perform import HostTable
from flux.supervisor.replay import TELLING_RUNTIMES, describe_again, drive_again
from flux.supervisor.replay_hosts import AnswerHost, RefusingHost
from flux.supervisor.replay_redaction import RulesInForce, find_by_number, redact_again
from flux.supervisor.replay_secrets import ReplayedSecrets
from flux.supervisor.runnable import Runnable
from flux.supervisor.statements import commit_failed
from flux.synthetic import list_synthetic
from flux.verdict import Replayed

HELD_S_MAX = 120.0
"""How long one may take that is held back. By its own clock, which is that of its record, its limit is its own."""


class Attempt:
    """One execution, run again."""

    def __init__(
        self,
        backing: Backing,
        runnable: Runnable,
        value: object,
        recorded: Execution,
        database: GatedDatabase,
        rules: RulesInForce,
    ) -> None:
        self._runnable = runnable
        self._value = value
        self._recorded = recorded
        self._database = database
        self._secrets = backing.secrets.of_execution(recorded.seed)
        self._rules = rules.add(runnable.rules)
        self._are_newer = rules.are_newer(runnable.rules)
        self._redactor = Redactor(self._rules, recorded.seed, self._secrets.stand_ins())
        if self._are_newer:
            # What stood in the request is looked for in all that comes behind it, as it was for the record.
            self._redactor.trigger(recorded.trigger)
        self.secrets = ReplayedSecrets(self._secrets, self._redactor)
        self._context = CallContext(
            tenant=backing.tenant,
            function=runnable.function.name,
            grants=runnable.grants,
            limits=runnable.bounds.limits,
            clock=SteadyClock(backing.clock),
            entropy=backing.entropy,
            database=database,
            http=None,
            secrets=self._secrets,
        )

    def redact(self, recorded: Execution) -> Execution:
        """Return a record as it is to be laid beside what ran again."""
        if not self._are_newer:
            return recorded
        return redact_again(recorded, Redactor(self._rules, recorded.seed, self._secrets.stand_ins()))

    async def run(self) -> Replayed:
        """Run it to its end, its transaction included; return what it did."""
        recorded, runnable = self._recorded, self._runnable
        compared = self.redact(recorded)
        limits = runnable.bounds.limits
        tells_waits = runnable.function.runtime in TELLING_RUNTIMES
        session = MatchingSession(
            compared.calls,
            heard=recorded.calls if compared is not recorded else (),
            started_at_ns=recorded.started_at_ns,
            seed=recorded.seed,
            has_world=True,
            tells_waits=tells_waits,
            timeout_s=limits.timeout_s,
            functions=frozenset(runnable.siblings),
        )
        # The session ends it by the time of the record. Being held back takes none of that.
        patient = attrs.evolve(runnable.bounds, limits=attrs.evolve(limits, timeout_s=HELD_S_MAX))
        gated = _GatedHost(self._context, self._redactor, self._database, compared, recorded)
        host = AnswerHost(gated, self._context, answers_http=recorded.trigger.kind == "http")
        driven = await drive_again(
            recorded, runnable, self._value, session, host, patient, self._redactor, self.secrets,
            tells_waits=tells_waits,
        )  # fmt: skip
        waited_for = session.stalled_on if driven.outcome is None and driven.divergence is None else None
        outcome = driven.outcome or runnable.bounds.kill("timeout", format_duration(limits.timeout_s))
        keeps = driven.divergence is None and isinstance(outcome, Returned)
        error = await self._database.finish(keeps=keeps)
        if error is not None:
            outcome = commit_failed(error.code, error.message)
        described = describe_again(compared, runnable, driven, session, self._redactor.outcome(outcome))
        execution = attrs.evolve(described, transactions=tuple(self._database.transactions))
        synthetic = list_synthetic(recorded, has_secrets=self.secrets.are_whole)
        return Replayed(execution, driven.divergence, waited_for, session.fidelity, synthetic=synthetic)


class _GatedHost(RefusingHost):
    """Performs statements, and tells the database which recorded ones they are."""

    def __init__(
        self,
        context: CallContext,
        redactor: Redactor,
        database: GatedDatabase,
        compared: Execution,
        recorded: Execution,
    ) -> None:
        """``compared`` is ``recorded``, by all rules that hold."""
        self._table = HostTable(context)
        self._redactor = redactor
        self._database = database
        self._compared = Counterparts(compared.calls)
        self._recorded = recorded.calls

    def is_immediate(self, name: str) -> bool:
        """See `flux.supervisor.drive.Host.is_immediate`."""
        return not name.startswith("db.")

    async def perform(self, request: HostCallRequest) -> HostCallResult:
        """Perform a statement; refuse anything else."""
        if not request.name.startswith("db."):
            return await super().perform(request)
        counterpart = find_by_number(self._recorded, self._compared.take(self._redactor.request(request)))
        if counterpart is not None:
            self._database.counterparts[request.seq] = counterpart
        return await self._table.perform(request)

    def cancelled(self, request: HostCallRequest, elapsed_ns: int) -> HostCallResult:
        """See `flux.supervisor.drive.Host.cancelled`."""
        return self._table.cancelled(request, elapsed_ns)
