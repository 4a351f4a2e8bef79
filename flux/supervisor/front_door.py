"""Which request goes where, and what the client hears.

`FrontDoor` is the gateway's handler: paths under ``/_flux/`` are the console's, the
rest are looked up in the current deployment's routes and become executions. What
the client hears of a failure is the one error envelope, with the execution's id in
it; what went wrong inside stays inside, except on a development machine, where
the person who asks is the one who wrote the code.
"""

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from flux.execution import (
    Execution,
    Exited,
    Interrupted,
    Killed,
    Outcome,
    Raised,
    Returned,
    Trigger,
    get_user_frame,
)
from flux.message import Admission, HttpRequest, HttpResponse, RequestHead, problem
from flux.rate_limit import retry_after
from flux.routes import Match, answer_unmatched
from flux.supervisor.console import Console
from flux.supervisor.console_machines import RETRY_AFTER_S
from flux.supervisor.deployments import Deployments
from flux.supervisor.execute import Executed, Executor, StoreStalledError
from flux.supervisor.gate import UNMATCHED_BODY_BYTES_MAX, Gate, Ticket
from flux.supervisor.inputs import UnreadableInputError, read_input
from flux.supervisor.journal import JournalError
from flux.supervisor.runnable import Runnable
from flux.supervisor.spool import SpooledAnswer
from flux.supervisor.streams import SpooledUpload
from flux.supervisor.turns import QuotaError
from flux.trace_context import FIELDS
from flux.values import decode_json

CONSOLE = "/_flux"
CONSOLE_BODY_BYTES_MAX = 16 * 2**20

_FOR_PROGRAMS = frozenset({"api", "health", "live", "metrics"})
"""First words below ``/_flux/`` that no page has."""
_OWN_HEADERS = frozenset({"x-request-id", "flux-id"})


class FrontDoor:
    """See the module."""

    def __init__(
        self,
        deployments: Deployments,
        gate: Gate,
        executor: Executor,
        console: Console,
        *,
        tells_why: bool,
        lead: Callable[[RequestHead], HttpResponse],
        open_upload: Callable[[], SpooledUpload] | None = None,
    ) -> None:
        """``lead`` answers who looks for the console's pages, which are not on this port; ``open_upload`` makes a
        place for a body that is too large to hold; None: such bodies are refused."""
        self._deployments = deployments
        self._gate = gate
        self._executor = executor
        self._console = console
        self._tells_why = tells_why
        self._lead = lead
        self._open_upload = open_upload

    async def admit(self, head: RequestHead) -> Admission:
        """See `flux.supervisor.gateway.Handler.admit`."""
        if is_console(head.path):
            return Admission(CONSOLE_BODY_BYTES_MAX)
        current = self._deployments.current
        if current is None:
            return Admission(UNMATCHED_BODY_BYTES_MAX)
        admission = await self._gate.admit(current, head)
        ticket = admission.ticket
        if self._open_upload is None or not isinstance(ticket, Ticket) or not isinstance(ticket.found, Match):
            return admission
        bytes_max = ticket.found.target.bounds.limits.stream_bytes_max
        return attrs.evolve(admission, upload_bytes_max=bytes_max, open_upload=self._open_upload)

    async def handle(self, request: HttpRequest) -> HttpResponse:
        """See `flux.supervisor.gateway.Handler.handle`."""
        head = request.head
        if is_page(head.path):
            return self._lead(head)
        if is_console(head.path):
            return await self._console.handle(request)
        current = self._deployments.current
        if current is None:
            detail = "the functions are not ready: the server says why, and serves them once they can be loaded"
            return _later(problem(503, "OVERLOADED", detail))
        admission = request.admission
        if admission is None or not isinstance(admission.ticket, Ticket) or admission.ticket.live is not current:
            # Other code is served than when its head came, and that may ask for more.
            admission = await self._gate.admit(current, head)
            if admission.answer is not None:
                return admission.answer
        ticket = admission.ticket
        assert isinstance(ticket, Ticket), "who is not answered has a ticket"
        found = ticket.found
        if not isinstance(found, Match):
            return answer_unmatched(found, head.method, head.path)
        current.enter()
        try:
            return await self._run(found.target, make_trigger(request, found, ticket), request)
        finally:
            current.leave()

    async def show(self, request: HttpRequest) -> HttpResponse:
        """Answer what came by the console's own port, where its pages are."""
        return await self._console.handle(request)

    async def _run(self, runnable: Runnable, trigger: Trigger, request: HttpRequest) -> HttpResponse:
        try:
            try:
                content_type = request.head.header("content-type") or ""
                value = read_input(dict(trigger.params), trigger.query, content_type, request.body)
            except UnreadableInputError as error:
                executed = self._executor.refuse(runnable, trigger, _unreadable(error))
            else:
                upload = request.upload.spool if isinstance(request.upload, SpooledUpload) else None
                executed = await self._executor.execute(runnable, trigger, value, upload=upload)
        except QuotaError as error:
            refusal = problem(error.status, "OVERLOADED" if error.status == 503 else "RATE_LIMITED", error.message)
            return attrs.evolve(refusal, headers=(*refusal.headers, ("retry-after", retry_after(error.retry_s))))
        except (JournalError, StoreStalledError) as error:
            # Unrecorded work is what Flux exists to prevent, so it is refused.
            why = f"{error.code} {error.message}" if self._tells_why else error.code
            return _later(problem(503, "OVERLOADED", f"nothing can be recorded at present: {why}"))
        return self.respond(executed)

    def respond(self, executed: Executed) -> HttpResponse:
        """Return what the client hears of ``executed``."""
        execution, outcome = executed.execution, executed.outcome
        ids = (("x-request-id", str(execution.id)), ("flux-id", execution.name))
        if isinstance(outcome, Returned):
            # There is one id of an answer, and it is not the function's to give.
            headers = [header for header in outcome.headers if header[0].lower() not in _OWN_HEADERS]
            if outcome.streamed is None:
                return HttpResponse(outcome.status, (*headers, *ids), outcome.body)
            assert executed.stream is not None, "what was streamed to an HTTP request lies in a spool"
            headers.append(("content-length", str(outcome.streamed.size_bytes)))
            return HttpResponse(outcome.status, (*headers, *ids), SpooledAnswer(executed.stream))
        response = problem(
            execution.status or 503,
            _code_of(outcome),
            self._detail_of(outcome),
            request_id=str(execution.id),
            extra=self._extra(execution, outcome),
        )
        if _may_be_asked_again(outcome):
            response = _later(response)
        return HttpResponse(response.status, (*response.headers, *ids), response.body)

    def _extra(self, execution: Execution, outcome: Outcome) -> Mapping[str, Any]:
        extra: dict[str, Any] = {}
        if isinstance(outcome, Raised) and outcome.violations != b"[]":
            extra["violations"] = decode_json(outcome.violations)
        if self._tells_why:
            extra |= {"flux": execution.name, "why": f"flux why {execution.name}"}
        return extra

    def _detail_of(self, outcome: Outcome) -> str:
        if isinstance(outcome, Raised) and outcome.status < 500:
            return outcome.message  # The function's own words for the client.
        if isinstance(outcome, Raised) and outcome.code not in ("FUNCTION_ERROR", "OVERLOADED") and outcome.message:
            return outcome.message
        if not self._tells_why:
            return "the function failed; the operator finds out why by the request's id"
        match outcome:
            case Raised():
                frame = get_user_frame(outcome)
                place = f" ({frame.file}:{frame.line})" if frame else ""
                return f"{outcome.type}: {outcome.message}{place}"
            case Killed():
                return f"the function was stopped: {outcome.limit} ({outcome.allowed}, {outcome.origin})"
            case Exited():
                how = f"signal {outcome.signal}" if outcome.signal else f"exit code {outcome.exit_code}"
                return f"the function's process ended by itself: {how}"
            case Interrupted():
                return outcome.reason
            case Returned():
                raise AssertionError("an answer needs no explanation")


def make_trigger(request: HttpRequest, found: Match[Runnable], ticket: Ticket) -> Trigger:
    """Return the HTTP request as a trigger."""
    head = request.head
    correlation = tuple((name, value) for name, value in head.headers if name in ("x-request-id", *FIELDS))
    return Trigger(
        kind="http",
        method=head.method,
        path=head.path,
        route=found.pattern.partition(" ")[2],
        params=tuple(found.params.items()),
        query=head.query,
        headers=head.headers,
        body=request.body,
        streamed=request.upload.spool.body if isinstance(request.upload, SpooledUpload) else None,
        correlation=correlation,
        client=ticket.caller.client,
        scheme=ticket.caller.scheme,
        host=ticket.caller.host,
        auth=ticket.auth,
    )


def _may_be_asked_again(outcome: Outcome) -> bool:
    """Whether to say when it may be asked again: what failed was neither the client's nor the function's.

    Not of a COMMIT of which nobody knows: asked again, it may be done twice. Of a function's own 503 it is to say.
    """
    if not isinstance(outcome, Raised) or outcome.type in ("CommitUnknown", "HTTPError"):
        return False
    return outcome.status == 503 and outcome.code == "OVERLOADED"


def _later(response: HttpResponse) -> HttpResponse:
    """Add when it may be asked again: a database's restart, or a burst, takes about so long."""
    return attrs.evolve(response, headers=(*response.headers, ("retry-after", str(RETRY_AFTER_S))))


def is_console(path: str) -> bool:
    return path == CONSOLE or path.startswith(CONSOLE + "/")


def is_page(path: str) -> bool:
    """Say whether a path is the console's and for people: one of its pages, or what these ask for."""
    return is_console(path) and path.removeprefix(CONSOLE).strip("/").partition("/")[0] not in _FOR_PROGRAMS


def _unreadable(error: UnreadableInputError) -> Raised:
    violations = b'[{"path":"body","message":"is not JSON"}]'
    return Raised("ValidationError", str(error), status=400, code="INPUT_VALIDATION_ERROR", violations=violations)


def _code_of(outcome: Outcome) -> str:
    match outcome:
        case Raised(code=code):
            return code
        case Killed(limit="timeout"):
            return "TIMEOUT"
        case _:
            return "FUNCTION_ERROR"
