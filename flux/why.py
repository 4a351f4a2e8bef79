"""Why an execution ended as it did: the decision behind ``flux why``.

`explain` takes what is on record and says what follows from it, in the order in
which a person wants to hear it: the answer in one or two lines, the facts that
carry it, the rows that changed, the commands to type next. It reads and concludes;
it waits for nothing, so the same evidence always gives the same explanation.

Three promises hold it together. A fact marked ``●`` is in the record; what a rule
concludes is marked ``≈`` and names the rule. A line of code is only named when the
record names it. And where the record does not say why, the explanation says so:
"I can't tell why" is an answer, a guess is not.

``docs/why.md`` lists the rules.
"""

import re

import attrs

from flux import calls
from flux.evidence import Count, Evidence, Fact, OtherFailure, RowWriter
from flux.execution import Exited, Interrupted, Killed, Raised, Returned
from flux.failure import Failure, Kind, find_abort, find_empty_query, list_user_frames, message_of_body
from flux.mutation import Mutation
from flux.why_calls import RULES as CALL_RULES
from flux.why_calls import find_invoked, grant_text
from flux.why_case import Case, clean, history_command, make_command, place_in, took
from flux.why_rules import ENDINGS, SURROUNDINGS, VALUES

__all__ = ["Count", "Evidence", "Fact", "OtherFailure", "RowWriter", "Why", "explain"]

CANNOT_TELL = "I can't tell why. What is known:"
CALLERS_MAX = 5
NEXT_MAX = 6


@attrs.frozen
class Why:
    """An explanation."""

    failure: Failure | None
    """How it failed; None for a healthy execution. An answer below 500 is one with ``is_answer``."""
    verdict_text: tuple[str, ...]
    """The answer, in one or two lines."""
    facts: tuple[Fact, ...]
    """What carries the answer, what matters most first."""
    mutations: tuple[Mutation, ...]
    """Every row that was changed, rolled back ones included, in order."""
    next: tuple[str, ...]
    """What to type next, or what to write into flux.toml. Commands are quoted for a POSIX shell."""


def explain(evidence: Evidence) -> Why:
    """Return why the execution of ``evidence`` ended as it did."""
    case = Case.of(evidence)
    facts = [fact for rule in (*ENDINGS, *CALL_RULES, *VALUES, *SURROUNDINGS) for fact in rule(case)]
    unique = tuple(dict.fromkeys(facts))
    return Why(case.failure, _verdict(case), unique, case.execution.mutations, _next(case))


# --- the answer ------------------------------------------------------------------------------------


def _verdict(case: Case) -> tuple[str, ...]:
    failure, outcome = case.failure, case.execution.outcome
    if failure is None:
        assert isinstance(outcome, Returned)
        text = f"no failure: it answered {outcome.status} in {took(case.execution.elapsed_ns)}"
        said = message_of_body(outcome.body) if outcome.status >= 400 else ""
        return (f"{text}: {clean(said)}" if said else text,)
    if not _is_known(case, failure):
        return (CANNOT_TELL,)
    stack = _stack(case)
    return (_headline(case, failure), *([stack] if stack else []))


def _is_known(case: Case, failure: Failure) -> bool:
    """Return whether the record holds a cause, and not only an end."""
    match failure.kind:
        case Kind.RETURNED_ERROR:
            return any(
                calls.find_error(call) is not None
                or ((request := calls.read_http(call)) is not None and (request.status or 0) >= 400)
                for call in case.execution.calls
            )
        case Kind.WORKER_CRASH:
            outcome = case.execution.outcome
            assert isinstance(outcome, Exited)
            return bool(outcome.detail.strip()) or outcome.signal is not None or bool(outcome.exit_code)
        case Kind.UNHANDLED_EXCEPTION:
            return failure.location is not None or case.error is not None or bool(failure.message)
    return True


def _headline(case: Case, failure: Failure) -> str:
    outcome = case.execution.outcome
    message = clean(failure.message)
    if failure.kind is Kind.OUTBOUND_TIMEOUT and isinstance(outcome, Killed):
        return f"{clean(failure.type, 80)}: {message}"
    match outcome:
        case Raised(status=status, code=code) if failure.is_answer:
            return f"no failure: it answered {status} {clean(code, 80)}: {message}"
        case Raised():
            return f"{clean(failure.type, 80)}: {message}" if message else clean(failure.type, 80)
        case Killed():
            return f"Killed: {_killed_words(outcome)}"
        case Exited(signal=int()):
            return f"{clean(failure.type, 80)}: a signal ended the worker process"
        case Exited(exit_code=int() as code):
            return f"exit code {code}: the worker process ended by itself, without an answer"
        case Interrupted():
            return f"Interrupted: {message}"
    return f"{clean(failure.type, 80)}: {message}" if message else clean(failure.type, 80)


def _killed_words(outcome: Killed) -> str:
    allowed = clean(outcome.allowed, 40)
    match outcome.limit:
        case "timeout":
            return f"it ran longer than its limit, {allowed}"
        case "memory":
            return f"it needed more memory than its limit, {allowed}"
        case "neighbours":
            return f"all running functions held more memory than they may together, {allowed}, and it had to go"
        case "host_calls":
            return f"it made more host calls than its limit, {allowed}"
        case "log":
            return f"it logged more than its limit, {allowed}"
        case "body" | "response":
            return f"its answer is larger than its limit, {allowed}"
        case "frame":
            return f"it sent more at once than the door takes, {allowed}"
        case "protocol":
            return "it broke the protocol between function and host"
    return f"it passed its limit {clean(outcome.limit, 40)}, {allowed}"


def _stack(case: Case) -> str:
    """Return the failing line and its callers, innermost first; empty when no line is on record."""
    if case.raised is not None and (frames := list_user_frames(case.raised)):
        shown = [place_in(frame.file, frame.line, frame.function) for frame in frames[:CALLERS_MAX]]
        if len(frames) > CALLERS_MAX:
            shown.append(f"{len(frames) - CALLERS_MAX} more")
        return "  ←  ".join(shown)
    location = case.failure.location if case.failure is not None else None
    return "" if location is None else place_in(location.file, location.line, location.function)


# --- what to do next -------------------------------------------------------------------------------

_FLX = re.compile(r"FLX[0-9]{3}")
_OF_THE_CODE = frozenset(
    {
        Kind.UNHANDLED_EXCEPTION, Kind.HTTP_ERROR, Kind.NO_ROW, Kind.OUTBOUND_STATUS, Kind.UNIQUE_VIOLATION,
        Kind.FOREIGN_KEY_VIOLATION, Kind.NOT_NULL_VIOLATION, Kind.CHECK_VIOLATION, Kind.RETURNED_ERROR,
        Kind.INVALID_RESPONSE, Kind.DATABASE_ERROR, Kind.STATEMENT_REFUSED, Kind.TRANSACTION_ABORTED,
    }
)  # fmt: skip
"""Failures that other code would not have had: whether the code at hand has them, a replay shows."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,79}")
_MODULE = re.compile(r"No module named '(?P<name>[A-Za-z_][A-Za-z0-9_]{0,79})'")


def _next(case: Case) -> tuple[str, ...]:
    execution, failure = case.execution, case.failure
    name = execution.name
    if failure is None:
        return (f"flux trace {name}",)
    steps: list[str | None] = []
    if failure.kind is Kind.GRANT_REFUSED and (text := grant_text(case)) is not None:
        steps.append(f"add to flux.toml: {text}")
    if failure.kind is Kind.SECRET_MISSING and case.error is not None:
        secret = calls.read_details(case.error).get("secret")
        if isinstance(secret, str) and _NAME.fullmatch(secret):
            steps.append(f"add to .env.local: {secret}=...")
    if case.raised is not None and case.raised.type == "ModuleNotFoundError":
        # Had a package of the project's the module, it would have been found.
        missing = _MODULE.fullmatch(case.raised.message)
        if missing is not None:
            told = f"the package that has {missing['name']}, unless that is a module of yours"
            steps.append(f"add to requirements.txt: {told}")
    if (invoked := find_invoked(case)) is not None:
        steps.append(f"flux why {invoked}")
    if case.evidence.job_state == "dead":
        steps.append(make_command("flux", "queue", "retry", execution.trigger.job))
    if failure.kind in _OF_THE_CODE and not (failure.is_answer or execution.completeness):
        steps.append(f"flux replay {name} --on .")
        # A tree that has changes since its commit may fail by these alone: history does not know them.
        if not (execution.dirty or execution.sha.startswith("nogit-")):
            steps.append(f"flux bug bisect {name}")
    seq = _call_to_show(case)
    steps.append(f"flux trace {name}" if seq is None else f"flux trace {name} --call {seq}")
    if not failure.is_answer:
        steps += _histories(case)
    if failure.kind is Kind.LIMIT_TIMEOUT and case.call is None and execution.level.kind == "process":
        # It was killed between its calls, so no line is on record. Run again line by line, it shows the loop.
        steps.append(f"flux trace debug {name}")
    if execution.logs:
        steps.append(f"flux trace {name}" if seq is not None else None)
    steps += _pages(case)
    if not failure.is_answer:
        if case.evidence.peers:
            # The nearest execution of the same function that passed: what did it do otherwise?
            steps.append(f"flux trace diff {case.evidence.peers[0].name} {name}")
        here = case.evidence.count
        steps.append("flux errors" if here is not None and here.failures > 1 else None)
    return tuple(dict.fromkeys(step for step in steps if step is not None))[:NEXT_MAX]


def _pages(case: Case) -> list[str | None]:
    """Return the page of the error's code, when it has one."""
    code = case.error.code if case.error is not None else ""
    if case.kind in (Kind.HOST_ERROR, Kind.COMMIT_FAILED) and case.raised is not None and not code:
        code = case.raised.message[:6]
    return [f"flux explain {code}"] if _FLX.fullmatch(code) else []


def _call_to_show(case: Case) -> int | None:
    """Return the call whose details say most."""
    if case.call is None:
        empty = find_empty_query(case.execution)
        return None if empty is None else empty.request.seq
    if case.kind == Kind.TRANSACTION_ABORTED:
        first = find_abort(case.execution, case.call.request.seq)
        return case.call.request.seq if first is None else first.request.seq
    return case.call.request.seq


def _histories(case: Case) -> list[str | None]:
    """Return commands for the rows that the failure has to do with."""
    rows = [(writer.table, writer.key) for writer in case.evidence.row_writers]
    rows += [(m.table, m.key) for m in case.execution.mutations if m.key is not None]
    return [history_command(table, key) for table, key in list(dict.fromkeys(rows))[:2]]
