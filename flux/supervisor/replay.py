"""Running a recorded execution again, with nothing leaving.

A replay is `drive` with another session and a host that refuses: the guest asks, the
recording answers, nobody performs anything. So it needs no network and changes no
database, and there is no switch that could be forgotten: what would act is not there.

On the code that made it, a recording is followed to the letter (`flux.session.ReplaySession`);
every difference is a divergence, and a mistake of ours or something that the function takes from
its machine. On other code it answers what is still asked (`flux.matching_session`), and the
replay stops at the first question that it can't answer.

What the outcome means is `flux.verdict`'s business. That a recording can't be replayed at all
(it is cut, its code is gone) is an error with its reason, never a verdict.
"""

from collections.abc import Mapping

import attrs
import trio

from flux.deployment import Deployment
from flux.errors import BrokenInvariantError, OperatorError
from flux.execution import Execution, Killed, Outcome, Raised, Returned, Trigger
from flux.failure import find_failure
from flux.hostcall import HostCallRequest, HostCallResult
from flux.hostcalls.secret import TenantSecrets
from flux.limits import format_duration
from flux.matching_session import MatchingSession, Source
from flux.redact import Redactor
from flux.session import Divergence, ReplaySession, Session
from flux.supervisor.drive import Bounds, Driven, drive
from flux.supervisor.execute import Runnable
from flux.supervisor.inputs import UnreadableInputError, parse_json, read_input
from flux.supervisor.shelf import Shelf
from flux.supervisor.start_document import make_document
from flux.verdict import Judgement, Replayed, judge

WORKER_S_MAX = 60.0
"""How long a replay waits for a worker."""
WORKING_TREE = "."
"""The folder as it is now, in the words of the command line."""
TELLING_RUNTIMES = frozenset({"python", "javascript", "typescript"})
"""Those whose SDK says when it waits. A WebAssembly module does one thing at a time."""


class UnreplayableError(OperatorError):
    """The recording can't be run again, and no verdict would be true."""

    code = "FLX312"
    exit_code = 6


class ReplayPerformedError(BrokenInvariantError):
    """A replay came to where something would have been performed."""

    code = "FLX912"


@attrs.frozen
class Replay:
    """One replay and what it shows."""

    original: Execution
    on: str | None
    """The code that it ran on, as asked for: `WORKING_TREE`, or None for the code that made the recording."""
    deployment: Deployment
    replayed: Replayed
    judgement: Judgement
    sources: Mapping[int, Source]
    """Where each answer came from, by the call's number in the replay."""


class RefusingHost:
    """A replay's host. That it is asked at all is a mistake of ours."""

    def is_immediate(self, name: str) -> bool:  # noqa: ARG002 - the protocol's
        """See `flux.supervisor.drive.Host.is_immediate`."""
        return True

    async def perform(self, request: HostCallRequest) -> HostCallResult:
        """Refuse."""
        raise ReplayPerformedError(f"call {request.seq}, {request.name}, was to be performed during a replay")

    def cancelled(self, request: HostCallRequest, elapsed_ns: int) -> HostCallResult:  # noqa: ARG002 - the protocol's
        """Refuse."""
        raise ReplayPerformedError(f"call {request.seq}, {request.name}, was being performed during a replay")


class Replayer:
    """Replays executions of one tenant."""

    def __init__(self, shelf: Shelf, secrets: TenantSecrets) -> None:
        self._shelf = shelf
        self._secrets = secrets

    async def replay(self, original: Execution, on: str | None) -> Replay:
        """Run ``original`` again, on its own code or on the folder as it is (``on`` is `WORKING_TREE`)."""
        _check_whole(original)
        value = _read_value(original.trigger)
        borrowed = self._shelf.borrow_recorded(original) if on is None else self._shelf.borrow_working_tree()
        async with borrowed as live:
            runnable = live.runnables.get(original.function)
            if runnable is None:
                raise UnreplayableError(
                    f"there is no function {original.function} in the code to replay it on",
                    remedy="flux function list shows what there is",
                )
            run = _Run(original, runnable, value, self._secrets)
            is_same = live.deployment.id == original.deployment
            replayed, sources = await (run.run_strictly() if is_same else run.run_changed())
        return Replay(original, on, live.deployment, replayed, judge(original, replayed), sources)


class _Run:
    def __init__(
        self, original: Execution, runnable: Runnable, value: object, secrets: TenantSecrets
    ) -> None:
        self._original = original
        self._runnable = runnable
        self._value = value
        stand_ins = secrets.of_execution(original.seed).stand_ins()
        self._redactor = Redactor(runnable.rules, original.seed, stand_ins)

    async def run_strictly(self) -> tuple[Replayed, Mapping[int, Source]]:
        original = self._original
        outcome = original.outcome
        session = ReplaySession(
            original.calls,
            original.logs,
            ended=isinstance(outcome, Returned | Raised),
            cut=outcome if isinstance(outcome, Killed) and outcome.limit == "timeout" else None,
            fuel=original.fuel,
            compares_fuel=original.level.meter == self._runnable.sandbox.level.meter,
        )
        driven = await self._drive(session, tells_waits=False)
        divergence = driven.divergence
        if divergence is None and driven.outcome is not None:
            divergence = session.find_missing(driven.fuel)
        # Stopped where the recording was cut: it has done all that is on record.
        execution = self._describe_run(driven, session, outcome if driven.outcome is None else driven.outcome)
        if divergence is None and execution.outcome != outcome:
            divergence = Divergence("outcome", 0, _describe(original), _describe(execution))
        sources = {call.request.seq: Source.RECORDED for call in session.calls}
        return Replayed(execution, divergence), sources

    async def run_changed(self) -> tuple[Replayed, Mapping[int, Source]]:
        original, runnable = self._original, self._runnable
        limits = runnable.bounds.limits
        tells_waits = runnable.function.runtime in TELLING_RUNTIMES
        session = MatchingSession(
            original.calls,
            started_at_ns=original.started_at_ns,
            seed=original.seed,
            has_world=False,
            tells_waits=tells_waits,
            timeout_s=limits.timeout_s,
        )
        driven = await self._drive(session, tells_waits=tells_waits)
        waited_for = session.stalled_on if driven.outcome is None and driven.divergence is None else None
        outcome = driven.outcome or runnable.bounds.kill("timeout", format_duration(limits.timeout_s))
        execution = self._describe_run(driven, session, outcome)
        return Replayed(execution, driven.divergence, waited_for, session.fidelity), session.sources

    async def _drive(self, session: Session, *, tells_waits: bool) -> Driven:
        original, runnable = self._original, self._runnable
        bounds: Bounds = runnable.bounds
        document = make_document(
            original,
            original.trigger,
            bounds.limits,
            runnable.middleware,
            self._value,
            tells_waits=tells_waits,
        )
        try:
            with trio.fail_after(WORKER_S_MAX):
                worker = await runnable.sandbox.acquire()
        except trio.TooSlowError:
            raise UnreplayableError(
                f"no worker was free within {WORKER_S_MAX:g} s", remedy="the machine is busy: try again"
            ) from None
        try:
            return await drive(
                worker,
                document,
                session,
                RefusingHost(),
                bounds,
                redactor=self._redactor,
                tells_waits=tells_waits,
            )
        finally:
            with trio.CancelScope(shield=True):
                await runnable.sandbox.release(worker, reusable=False)

    def _describe_run(self, driven: Driven, session: Session, outcome: Outcome) -> Execution:
        runnable = self._runnable
        return attrs.evolve(
            self._original,
            deployment=runnable.deployment.id,
            sha=runnable.deployment.sha,
            dirty=runnable.deployment.dirty,
            outcome=self._redactor.outcome(outcome),
            elapsed_ns=driven.elapsed_ns,
            calls=session.calls,
            logs=session.logs,
            mutations=(),
            level=runnable.sandbox.level,
            limits=runnable.limits,
            fuel=driven.fuel,
        )


def _check_whole(execution: Execution) -> None:
    if execution.completeness:
        raise UnreplayableError(
            f"its record is not whole: {'; '.join(execution.completeness)}",
            remedy=f"flux trace {execution.name} shows what there is",
        )


def _read_value(trigger: Trigger) -> object:
    """Return the function's input as it was made of the request."""
    try:
        if trigger.kind != "http":
            return parse_json(trigger.body)
        content_type = next((value for name, value in trigger.headers if name == "content-type"), "")
        return read_input(dict(trigger.params), trigger.query, content_type, trigger.body)
    except UnreadableInputError as error:
        raise UnreplayableError(
            f"its function never ran: {error}", remedy="the request was refused as it came; send another"
        ) from error


def _describe(execution: Execution) -> str:
    failure = find_failure(execution)
    return f"answered {execution.status}" if failure is None else f"{failure.type}: {failure.message}"
