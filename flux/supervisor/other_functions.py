"""The other functions of a deployment, as one execution reaches them: pushed to the queue, or invoked.

A push is a statement in the execution's own transaction (`ExecutionDatabase.state`). An invoke is an execution beneath
it, with its own record, limits and transaction; whoever gives up the caller gives up what it waits for. A function that
waits for itself, through others or not, would wait for ever or for its limit, and a chain that grows with each
step holds a process and a connection at each: both are refused.
"""

import uuid
from collections.abc import Awaitable, Callable, Collection, Mapping

import attrs

from flux import ids, values
from flux.errors import FluxError
from flux.execution import Execution, Exited, Interrupted, Killed, Outcome, Raised, Returned, Trigger
from flux.hostcalls.base import Clock, Entropy, HostCallFailed
from flux.hostcalls.secret import TenantSecrets
from flux.jobs import INVOKE_DEPTH_MAX
from flux.store.jobs import hash_key
from flux.store.queries import QUERIES
from flux.supervisor.database import ExecutionDatabase
from flux.supervisor.inputs import parse_json
from flux.supervisor.job_payload import hide_secrets
from flux.trace_context import TRACEPARENT, TRACESTATE, Trace
from flux.values import text_or_bytes

STOPPED = "the server was stopped before the function ended"
NOT_AWAITED = "the function that invoked it no longer waited for it"


@attrs.frozen
class Cause:
    """What made an execution run, beside its trigger."""

    parent: uuid.UUID | None = None
    """The execution that caused it."""
    chain: tuple[str, ...] = ()
    """Functions that wait for it, the outermost first."""
    interruption: str = STOPPED
    """Why it was interrupted, should that happen."""


NOBODY = Cause()

Run = Callable[[str, Trigger, object, Cause], Awaitable[tuple[Execution, Outcome]]]
"""Runs a function of the same deployment to its end: its name, trigger and input, and the cause. Returns the
execution as it is recorded, and its outcome unredacted."""


class OtherFunctions:
    """See `flux.hostcalls.base.Functions`."""

    def __init__(
        self,
        names: Collection[str],
        run: Run,
        head: Execution,
        cause: Cause,
        database: ExecutionDatabase,
        token: bytes,
        secrets: TenantSecrets,
        clock: Clock,
        entropy: Entropy,
        trace: Trace,
    ) -> None:
        """``head`` is the execution that asks, and ``cause`` its own."""
        self._names = names
        self._run = run
        self._head = head
        self._cause = cause
        self._database = database
        self._token = token
        self._secrets = secrets
        self._clock = clock
        self._entropy = entropy
        self._trace = trace

    def names(self) -> Collection[str]:
        """See `flux.hostcalls.base.Functions.names`."""
        return self._names

    async def push(
        self, function: str, payload: bytes, delay_s: float, idempotency_key: str | None, call_seq: int
    ) -> str:
        """See `flux.hostcalls.base.Functions.push`."""
        job = ids.make_execution_id(self._clock.now_ns() // 1_000_000, self._entropy.take(ids.ENTROPY_BYTES))
        head, stored = self._head, hide_secrets(self._secrets, job, payload)
        carried = dict(self._trace.carry(call_seq))
        pushed = await self._database.state(
            QUERIES.push_job,
            (
                self._token, job, head.tenant, function, stored, hash_key(idempotency_key), head.id, call_seq, delay_s,
                carried[TRACEPARENT], carried.get(TRACESTATE),
            ),
            call_seq,
        )  # fmt: skip
        return str(pushed)

    async def invoke(self, function: str, value: bytes, user: bytes, call_seq: int) -> Mapping[str, object]:
        """See `flux.hostcalls.base.Functions.invoke`."""
        chain = (*self._cause.chain, self._head.function)
        if function in chain:
            way = " → ".join((*chain, function))
            raise HostCallFailed(
                "InvokeCycle", f"{function} is waiting for this already: {way}", code="FLX573",
                details={"function": function},
            )  # fmt: skip
        if len(chain) >= INVOKE_DEPTH_MAX:
            raise HostCallFailed(
                "InvokeTooDeep", f"{len(chain)} functions wait for each other already: {' → '.join(chain)}",
                code="FLX574", details={"depth_max": INVOKE_DEPTH_MAX},
            )  # fmt: skip
        trigger = Trigger(
            kind="invoke", body=value, call=call_seq, user=user, correlation=self._trace.carry(call_seq)
        )
        cause = Cause(self._head.id, chain, NOT_AWAITED)
        try:
            execution, outcome = await self._run(function, trigger, parse_json(value), cause)
        except FluxError as error:
            # Nothing ran, because nothing could be recorded.
            raise HostCallFailed(
                "InvokeFailed", f"{function} could not be run: {error.code} {error.message}", code="FLX575",
                details={"function": function, "status": 503, "code": "OVERLOADED"},
            ) from error  # fmt: skip
        if isinstance(outcome, Returned):
            kind = next((content for name, content in outcome.headers if name.lower() == "content-type"), "")
            return {
                "execution": execution.name,
                "status": outcome.status,
                "content_type": kind,
                "body": text_or_bytes(outcome.body),
            }
        raise _failed(function, execution, outcome)


def _failed(function: str, execution: Execution, outcome: Outcome) -> HostCallFailed:
    """What the caller sees raised for an execution that ended in ``outcome``."""
    details: dict[str, object] = {"function": function, "execution": execution.name, "status": execution.status or 503}
    match outcome:
        case Raised():
            details |= {"type": outcome.type, "message": outcome.message, "code": outcome.code}
            if outcome.violations != b"[]":
                details["violations"] = values.decode_json(outcome.violations)
            said = f"{outcome.type}: {outcome.message}" if outcome.message else outcome.type
        case Killed():
            details |= {"type": "Killed", "code": "TIMEOUT" if outcome.limit == "timeout" else "FUNCTION_ERROR"}
            said = f"it was killed by its limit {outcome.limit} ({outcome.allowed}, {outcome.origin})"
        case Exited():
            details |= {"type": "Exited", "code": "FUNCTION_ERROR"}
            how = f"signal {outcome.signal}" if outcome.signal else f"exit code {outcome.exit_code}"
            said = f"its process ended by itself: {how}"
        case Interrupted():
            details |= {"type": "Interrupted", "code": "FUNCTION_ERROR"}
            said = outcome.reason
        case Returned():
            raise AssertionError("an answer is no failure")
    return HostCallFailed("InvokeFailed", f"{function} failed: {said}", code="FLX575", details=details)
