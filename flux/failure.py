"""What a failure is: its kind, its place, and the signature by which failures are counted.

An execution failed when its function raised, was killed, crashed, was cut off, or
answered with a status of 500 and up. `find_failure` reads that from the record
alone. The *kind* says what went wrong in terms of whose move it is: a time-out of
an outbound call is one, though the function saw an exception raised.

Kind and place follow from what is recorded. Where a kind rests on a conclusion (a
row that was None, a response that lacked a key) the conclusion needs two recorded
facts that meet: the exception's own words, and a call that fits them. `flux.why`
says such things with a "≈".

The *signature* leaves out what differs from one occurrence to the next (numbers,
ids, values, line numbers), so that the same failure has the same signature in
every execution and after a comment moved the line. An answer of 4xx that the
function chose is a `Failure` with no signature: explained, and not counted.
"""

import enum
import re

import attrs

from flux import calls
from flux.execution import (
    Execution,
    Exited,
    Frame,
    Interrupted,
    Killed,
    Raised,
    Returned,
    get_user_frame,
)
from flux.hostcall import HostCall, HostCallError, Position
from flux.sanitize import sanitize

SIGNATURE_CHARACTERS_MAX = 200


class Kind(enum.StrEnum):
    """What went wrong."""

    UNHANDLED_EXCEPTION = "unhandled_exception"
    HTTP_ERROR = "http_error"
    """The function raised an HTTPError: below 500 an answer, from 500 a failure."""
    VALIDATION = "validation"
    OUTBOUND_TIMEOUT = "outbound_timeout"
    OUTBOUND_ERROR = "outbound_error"
    """An outbound request got no answer for another reason than time."""
    OUTBOUND_STATUS = "outbound_status"
    """An outbound request was answered with 4xx or 5xx, and the function failed on it."""
    INVOKE_FAILED = "invoke_failed"
    """A function that it invoked failed, and it did not catch that."""
    GRANT_REFUSED = "grant_refused"
    SECRET_MISSING = "secret_missing"
    UNIQUE_VIOLATION = "unique_violation"
    FOREIGN_KEY_VIOLATION = "foreign_key_violation"
    NOT_NULL_VIOLATION = "not_null_violation"
    CHECK_VIOLATION = "check_violation"
    EXCLUSION_VIOLATION = "exclusion_violation"
    SERIALIZATION_FAILURE = "serialization_failure"
    DEADLOCK = "deadlock"
    """The database ended a deadlock between transactions by giving this one up."""
    TRANSACTION_ABORTED = "transaction_aborted"
    """A statement came after one that had failed in the same transaction, and was ignored."""
    DATABASE_ERROR = "database_error"
    COMMIT_FAILED = "commit_failed"
    NO_ROW = "no_row"
    """A query found no row where the code expects one."""
    STATEMENT_REFUSED = "statement_refused"
    LIMIT_TIMEOUT = "limit_timeout"
    LIMIT_MEMORY = "limit_memory"
    EVICTED = "evicted"
    """It was ended for the memory that it and its neighbours held together."""
    LIMIT_HOST_CALLS = "limit_host_calls"
    LIMIT_LOG = "limit_log"
    LIMIT_BODY = "limit_body"
    PROTOCOL_ERROR = "protocol_error"
    WORKER_CRASH = "worker_crash"
    INTERRUPTED = "interrupted"
    RETURNED_ERROR = "returned_error"
    """The function itself returned a status of 500 and up; nothing raised."""
    INVALID_RESPONSE = "invalid_response"
    """What the function returned is no HTTP answer."""
    HOST_ERROR = "host_error"
    """Flux could not run the function: no worker was free, its journal is full, a host call crashed."""
    DEADLOCKED_GUEST = "deadlocked_guest"
    """Every task of the function waited for another one."""


KIND_OF_SQLSTATE = {
    "23502": Kind.NOT_NULL_VIOLATION,
    "23503": Kind.FOREIGN_KEY_VIOLATION,
    "23505": Kind.UNIQUE_VIOLATION,
    "23514": Kind.CHECK_VIOLATION,
    "23P01": Kind.EXCLUSION_VIOLATION,
    "25P02": Kind.TRANSACTION_ABORTED,
    "40001": Kind.SERIALIZATION_FAILURE,
    "40P01": Kind.DEADLOCK,
}
"""https://www.postgresql.org/docs/current/errcodes-appendix.html"""

_KIND_OF_LIMIT = {
    "timeout": Kind.LIMIT_TIMEOUT,
    "memory": Kind.LIMIT_MEMORY,
    "neighbours": Kind.EVICTED,
    "host_calls": Kind.LIMIT_HOST_CALLS,
    "log": Kind.LIMIT_LOG,
    "body": Kind.LIMIT_BODY,
    "response": Kind.LIMIT_BODY,
    "frame": Kind.PROTOCOL_ERROR,
    "protocol": Kind.PROTOCOL_ERROR,
}

_KIND_OF_ERROR = {
    "GrantRefused": Kind.GRANT_REFUSED,
    "SecretMissing": Kind.SECRET_MISSING,
    "StatementRefused": Kind.STATEMENT_REFUSED,
    "HttpTimeout": Kind.OUTBOUND_TIMEOUT,
    "NetTimeout": Kind.OUTBOUND_TIMEOUT,
    "InvokeFailed": Kind.INVOKE_FAILED,
    "CommitFailed": Kind.COMMIT_FAILED,
    "CommitUnknown": Kind.COMMIT_FAILED,
    "DatabaseError": Kind.DATABASE_ERROR,
}

SIGNAL_NAMES = {
    1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 4: "SIGILL", 5: "SIGTRAP", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE",
    9: "SIGKILL", 10: "SIGUSR1", 11: "SIGSEGV", 12: "SIGUSR2", 13: "SIGPIPE", 14: "SIGALRM", 15: "SIGTERM",
    24: "SIGXCPU", 25: "SIGXFSZ", 31: "SIGSYS",
}  # fmt: skip
"""Linux's numbers. A record may be read on another system, so this one's table would not do."""

_HOST_CALL_ERRORS = frozenset(
    {"HostCallError", "DatabaseError", "GrantRefusedError", "HttpCallError", "HttpTimeoutError", "InvokeError"}
)
"""What the SDK raises by itself for a host call that failed."""

_ANSWER_READERS = frozenset(
    {
        "AssertionError", "AttributeError", "IndexError", "JSONDecodeError", "KeyError", "TypeError",
        "ValueError",
    }
)  # fmt: skip
"""What reading an answer raises when the answer is not the expected one."""


@attrs.frozen
class Failure:
    """How an execution failed."""

    kind: Kind
    type: str
    """Class of the exception, or what stands for it: ``HttpTimeout``, ``Killed``, ``SIGSEGV``."""
    message: str
    """As raised or observed; recorded text, hostile."""
    location: Position | None
    """The innermost line of the user's code that is on record: of the exception, else of the call that
    failed or was in flight. None when no line is recorded."""
    call: int | None
    """Seq of the host call behind it, when there is one."""
    signature: str | None
    """The same for the same failure elsewhere; None for an answer below 500."""

    @property
    def is_answer(self) -> bool:
        """The function chose to answer so: not a failure of it."""
        return self.signature is None


# --- finding ---------------------------------------------------------------------------------------


def find_failure(execution: Execution) -> Failure | None:
    """Return how ``execution`` failed, or None when it is healthy."""
    outcome = execution.outcome
    match outcome:
        case Returned(status=status):
            if status < 500:
                return None
            message = message_of_body(outcome.body)
            signature = make_signature(f"returned {status} {execution.function}", message)
            return Failure(Kind.RETURNED_ERROR, f"HTTP {status}", message, None, None, signature)
        case Raised():
            return _of_raised(execution, outcome)
        case Killed():
            return _of_killed(execution, outcome)
        case Exited():
            return _of_exited(execution, outcome)
        case Interrupted(reason=reason):
            call = find_in_flight(execution)
            return Failure(
                Kind.INTERRUPTED, "Interrupted", reason, _place(call), _seq(call),
                make_signature(f"Interrupted {execution.function}", reason),
            )  # fmt: skip


_OF_THE_FUNCTION = ("HttpInvalid", "NetInvalid", "NetTooMuch", "NetSecret")
"""What was asked for is no request, or more than there may be: nobody was asked."""


def list_failed_hosts(execution: Execution) -> tuple[str, ...]:
    """Return the hosts that failed the execution: no answer, or one of 500 and up. Sorted, no doubles."""
    hosts = set()
    for call in execution.calls:
        # First: as a rule none has failed, and to read a request whole is dear.
        if not _has_failed(call, execution):
            continue
        request = calls.read_outbound(call)
        if request is not None and request.host:
            hosts.add(sanitize(request.host))
    return tuple(sorted(hosts))


def _has_failed(call: HostCall, execution: Execution) -> bool:
    """Whether ``call``, if it went out at all, failed at its other end."""
    error = calls.find_error(call)
    if error is not None:
        return error.name.startswith(("Http", "Net")) and not error.name.startswith(_OF_THE_FUNCTION)
    if call.result is None:
        return call is find_awaited(execution)
    status = calls.read_status(call)
    return status is not None and status >= 500


def find_in_flight(execution: Execution) -> HostCall | None:
    """Return the unanswered call that has waited longest, or None when every call was answered."""
    return next((call for call in execution.calls if call.result is None and not call.request.one_way), None)


def find_awaited(execution: Execution) -> HostCall | None:
    """Return the outbound request that used up the execution's time, or None.

    It was in flight when the time limit ended the execution, and had been for more than half of it: a
    request that began a moment before the end did not use up the time.
    """
    match execution.outcome:
        case Killed(limit="timeout"):
            for call in execution.calls:
                waited_ns = execution.elapsed_ns - call.started_ns
                if call.result is not None or waited_ns * 2 < execution.elapsed_ns:
                    continue
                if calls.awaits_answer(call, execution.calls):
                    return call
    return None


def find_call(execution: Execution, seq: int | None) -> HostCall | None:
    """Return the call of that number, or None when the record has none."""
    if seq is None:
        return None
    return next((call for call in execution.calls if call.request.seq == seq), None)


def find_cause(execution: Execution) -> HostCall | None:
    """Return the failed call that the raised exception comes from, or None.

    It is on record as such, or (an exception group names no call) it is the only one that failed.
    """
    outcome = execution.outcome
    if not isinstance(outcome, Raised):
        return None
    if outcome.call is not None:
        call = find_call(execution, outcome.call)
        return call if call is not None and calls.find_error(call) is not None else None
    if outcome.type.endswith("ExceptionGroup"):
        # The others of the group were cancelled when the one failed.
        failed = [
            call
            for call in execution.calls
            if (error := calls.find_error(call)) is not None and error.name != calls.CANCELLED
        ]
        return failed[0] if len(failed) == 1 else None
    return None


def list_user_frames(outcome: Raised) -> list[Frame]:
    """Return the frames of the user's own code, innermost first."""
    return [frame for frame in reversed(outcome.frames) if frame.user]


def find_abort(execution: Execution, seq: int | None = None) -> HostCall | None:
    """Return the statement whose error aborted the transaction that call ``seq`` (None: the end) met."""
    found = None
    for call in execution.calls:
        if seq is not None and call.request.seq >= seq:
            break
        error = calls.find_error(call)
        if error is not None and error.name == "DatabaseError" and error.code != "25P02":
            found = call
        elif error is None and call.request.name in ("db.begin", "db.rollback", "db.commit"):
            found = None  # The transaction or savepoint with the error is over.
    return found


# --- raised ----------------------------------------------------------------------------------------


def _of_raised(execution: Execution, outcome: Raised) -> Failure:
    frame = get_user_frame(outcome)
    kind, call = _kind_of_raised(execution, outcome, frame, find_cause(execution))
    location = Position(frame.file, frame.line, frame.function) if frame is not None else _place(call)
    signature = None
    if outcome.status >= 500:
        signature = _signature_of_raised(outcome, kind, location, call)
    return Failure(kind, outcome.type, outcome.message, location, _seq(call), signature)


def _kind_of_raised(
    execution: Execution, outcome: Raised, frame: Frame | None, cause: HostCall | None
) -> tuple[Kind, HostCall | None]:
    error = calls.find_error(cause) if cause is not None else None
    if outcome.status < 500 and outcome.type not in _HOST_CALL_ERRORS:
        validation = outcome.type == "ValidationError" or outcome.code == "INPUT_VALIDATION_ERROR"
        return Kind.VALIDATION if validation else Kind.HTTP_ERROR, cause
    if cause is not None and error is not None and _is_passed_on(cause, outcome, frame):
        return kind_of_error(cause, error), cause
    if outcome.type == "DeadlockError":
        return Kind.DEADLOCKED_GUEST, cause
    if outcome.type == "InvalidResponse":
        return Kind.INVALID_RESPONSE, cause
    if outcome.type == "MemoryError":
        return Kind.LIMIT_MEMORY, cause
    if outcome.type in _OF_COMMIT:
        kind = KIND_OF_SQLSTATE.get(find_sqlstate(outcome), Kind.COMMIT_FAILED)
        return kind, find_abort(execution) if kind is Kind.TRANSACTION_ABORTED else cause
    if outcome.code == "OVERLOADED" and not outcome.frames:
        return Kind.HOST_ERROR, cause
    if (given_up := find_given_up(execution)) is not None:
        return Kind.OUTBOUND_TIMEOUT, given_up
    if (empty := find_empty_query(execution)) is not None:
        return Kind.NO_ROW, empty
    if (answered := find_error_answer(execution)) is not None:
        return Kind.OUTBOUND_STATUS, answered
    if outcome.type == "HTTPError" or outcome.code not in ("FUNCTION_ERROR", "DEPENDENCY_ERROR", "TIMEOUT"):
        return Kind.HTTP_ERROR, cause
    return Kind.UNHANDLED_EXCEPTION, None  # An error while handling another is its own.


def _is_passed_on(cause: HostCall, outcome: Raised, frame: Frame | None) -> bool:
    """Return whether the exception carries the call's error on, and is no second error while handling it."""
    if cause.request.name.startswith("net.") and outcome.frames and not outcome.frames[-1].user:
        return True  # A library's own exception, which it made of the connection's.
    if outcome.type in _HOST_CALL_ERRORS or outcome.type.endswith("ExceptionGroup"):
        return True
    source = frame.source if frame is not None else ""
    return not source or source.startswith("raise")


def kind_of_error(call: HostCall, error: HostCallError) -> Kind:
    """Return what went wrong with ``call``."""
    if error.name == "DatabaseError":
        kind = KIND_OF_SQLSTATE.get(error.code)
        if kind is not None:
            return kind
        return Kind.COMMIT_FAILED if call.request.name == "db.commit" else Kind.DATABASE_ERROR
    if error.name in _KIND_OF_ERROR:
        return _KIND_OF_ERROR[error.name]
    if error.name.startswith(("Http", "Net")):
        return Kind.OUTBOUND_ERROR
    return Kind.UNHANDLED_EXCEPTION


_OF_COMMIT = frozenset({"CommitFailed", "CommitUnknown"})
"""What stands for the COMMIT after the function's end that failed: no host call has its error."""

_SQLSTATE = re.compile(r"ERROR ([0-9A-Z]{5}):")


def find_sqlstate(outcome: Raised) -> str:
    """Return the SQLSTATE of a COMMIT that failed; empty when its words have none."""
    found = _SQLSTATE.match(outcome.message) if outcome.type in _OF_COMMIT else None
    return found[1] if found else ""


def find_given_up(execution: Execution) -> HostCall | None:
    """Return the outbound request that the function itself gave up, as ``asyncio.timeout`` does, or None."""
    outcome = execution.outcome
    if not isinstance(outcome, Raised) or not outcome.type.endswith(("TimeoutError", "Timeout")):
        return None
    for call in reversed(execution.calls):
        error = calls.find_error(call)
        if error is None or error.name != calls.CANCELLED:
            continue
        request = calls.read_outbound(call)
        if request is not None and calls.awaits_answer(call, execution.calls):
            # Libraries have names of their own for it.
            return call if outcome.type == "TimeoutError" or request.method.startswith("net.") else None
    return None


_NONE_MET = re.compile(
    r"'NoneType' object|argument of type 'NoneType'|non-iterable NoneType|of null\b|of undefined\b"
    r"|(?:null|undefined) is not|(?:is|are) (?:null|undefined)"
)
_ATTRIBUTE = re.compile(r"attribute '([^']*)'|reading '([^']*)'")
_SUBSCRIPT = re.compile(r"\[\s*[\"']([^\"']+)[\"']\s*\]")
_FIRST_ITEM = re.compile(r"\[\s*-?\d+\s*\]|\bnext\(|\.pop\(")


def find_empty_query(execution: Execution) -> HostCall | None:
    """Return the query without rows whose missing row the exception met, or None.

    Two facts have to meet: the exception is one that None or an empty list raises, and a query answered
    with no row in a function that is on the stack (or as the last query of all). Where the failing line
    tells which name it wanted, the query's columns must have it.
    """
    outcome = execution.outcome
    if not isinstance(outcome, Raised) or outcome.status < 500:
        return None
    frame = get_user_frame(outcome)
    source = frame.source if frame is not None else ""
    met_none = outcome.type in ("TypeError", "AttributeError") and _NONE_MET.search(outcome.message)
    met_end = outcome.type in ("IndexError", "StopIteration") and (not source or _FIRST_ITEM.search(source))
    if not met_none and not met_end:
        return None
    wanted = {group for pair in _ATTRIBUTE.findall(outcome.message) for group in pair if group}
    if not wanted and met_none:
        wanted = set(_SUBSCRIPT.findall(source))
    on_stack = {(item.file, item.function) for item in outcome.frames if item.user}
    queries = [call for call in execution.calls if call.request.name == "db.query" and call.result]
    for call in reversed(queries):
        statement = calls.read_statement(call)
        if statement is None or statement.rows is None or statement.rows:
            continue
        position = call.request.position
        near = position is not None and (position.file, position.function) in on_stack
        if (near or call is queries[-1]) and (not wanted or wanted & set(statement.columns)):
            return call
    return None


_OF_INPUT = re.compile(r"\binput\b|\brequest\b|\bparams\b|\bquery\b")


def find_error_answer(execution: Execution) -> HostCall | None:
    """Return the outbound request whose 4xx or 5xx answer the function failed on, or None.

    Its answer is the last thing that the function learned from outside before it raised: deliberately, or
    with an exception as reading an unexpected answer raises it, in a function that is on the stack.
    """
    outcome = execution.outcome
    if not isinstance(outcome, Raised) or outcome.status < 500:
        return None
    names = ("http.request", "net.recv", "db.query", "db.execute")
    asked = [call for call in execution.calls if call.request.name in names]
    request = calls.read_http(asked[-1]) if asked else None
    if request is None or request.status is None or request.status < 400:
        return None
    frame = get_user_frame(outcome)
    source = frame.source if frame is not None else ""
    if re.search(rf"\b{request.status}\b", outcome.message) is not None:
        return asked[-1]
    raised = source.startswith("raise") or (not source and outcome.type not in _ANSWER_READERS)
    if not raised and (outcome.type not in _ANSWER_READERS or _OF_INPUT.search(source) is not None):
        return None
    position = asked[-1].request.position
    on_stack = {(item.file, item.function) for item in outcome.frames if item.user}
    if raised or position is None or (position.file, position.function) in on_stack:
        return asked[-1]
    return None


# --- ended from outside ----------------------------------------------------------------------------


def _of_killed(execution: Execution, outcome: Killed) -> Failure:
    if (awaited := find_awaited(execution)) is not None and (
        request := calls.read_outbound(awaited)
    ) is not None:
        name = "NetTimeout" if request.method.startswith("net.") else "HttpTimeout"
        waited_ms = (execution.elapsed_ns - awaited.started_ns) / 1e6
        message = f"{request.method} {request.url_shown} gave no answer in {waited_ms:,.0f} ms"
        signature = make_signature(f"{name} {request.host}", "")
        return Failure(Kind.OUTBOUND_TIMEOUT, name, message, _place(awaited), _seq(awaited), signature)
    kind = _KIND_OF_LIMIT.get(outcome.limit, Kind.PROTOCOL_ERROR)
    if outcome.limit == "host_calls":
        call = execution.calls[-1] if execution.calls else None  # The one too many is not on record.
    else:
        call = find_in_flight(execution)
    location = _place(call)
    if outcome.limit == "memory" and (met := _MEMORY_ERROR.fullmatch(outcome.detail)) is not None:
        location = Position(met[1], int(met[2]), met[3])
    message = f"{outcome.limit} {outcome.allowed}".strip()
    if outcome.detail:
        message = f"{message}: {outcome.detail}" if message else outcome.detail
    where = _name_place(location) or execution.function
    detail = outcome.detail if kind is Kind.PROTOCOL_ERROR else ""
    signature = make_signature(f"Killed {outcome.limit} {where}", detail)
    return Failure(kind, "Killed", message, location, _seq(call), signature)


_MEMORY_ERROR = re.compile(r"MemoryError at (.+):(\d{1,9}) in (.+)")
"""What the driver says of a MemoryError that the interpreter raised: it has a place."""


def _of_exited(execution: Execution, outcome: Exited) -> Failure:
    if outcome.signal is not None:
        name = SIGNAL_NAMES.get(outcome.signal, f"signal {outcome.signal}")
    else:
        name = "exit" if outcome.exit_code is None else f"exit {outcome.exit_code}"
    lines = [line for line in outcome.detail.splitlines() if line.strip()]
    call = find_in_flight(execution)
    where = _name_place(_place(call)) or execution.function
    return Failure(
        Kind.WORKER_CRASH, name, lines[-1].strip() if lines else "", _place(call), _seq(call),
        make_signature(f"Exited {name} {where}", ""),
    )  # fmt: skip


def _place(call: HostCall | None) -> Position | None:
    return None if call is None else call.request.position


def _seq(call: HostCall | None) -> int | None:
    return None if call is None else call.request.seq


# --- signatures ------------------------------------------------------------------------------------

_PARTS = re.compile(
    r"""(?P<kept>'[A-Za-z_][\w.]*'\ object
                | (?:attribute|argument|named|relation|column|constraint)\ ['"][\w.]+['"])
      | (?P<email>[\w.+-]+@[\w-]+(?:\.[\w-]+)+)
      | (?P<uuid>\b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b)
      | (?P<quoted>"[^"]*" | '[^']*' | `[^`]*` | “[^”]*” | ‘[^’]*’)
      | (?P<hex>\b0x[0-9a-fA-F]+\b | \b(?=[0-9a-fA-F]*[0-9])[0-9a-fA-F]{8,}\b)
      | (?P<number>[-+]?\d+(?:[.,:_]\d+)*(?:[eE][-+]?\d+)?)
    """,
    re.VERBOSE,
)
_STANDS_FOR = {"email": "<email>", "uuid": "<id>", "quoted": "<text>", "hex": "<hex>", "number": "<n>"}
"""Names of types, attributes, tables and constraints are kept: the code has them, not the occurrence."""


def normalise_message(message: str) -> str:
    """Return ``message`` without what differs from one occurrence to the next."""
    # Cut first: a message of megabytes says who it is in its beginning, and regular expressions take time.
    text = _PARTS.sub(lambda found: _STANDS_FOR.get(found.lastgroup or "", found[0]), message[:600])
    return " ".join(text.split())


def make_signature(head: str, message: str) -> str:
    """Return a signature: ``head`` as it is, then the message normalised; one line, no control characters."""
    text = sanitize(" ".join(f"{head} {normalise_message(message)}".split()))
    return text if len(text) <= SIGNATURE_CHARACTERS_MAX else text[: SIGNATURE_CHARACTERS_MAX - 1] + "…"


def _name_place(position: Position | None) -> str:
    return "" if position is None else f"{position.file}:{position.function}"


def _signature_of_raised(
    outcome: Raised, kind: Kind, location: Position | None, call: HostCall | None
) -> str:
    where = _name_place(location)
    error = calls.find_error(call) if call is not None else None
    request = calls.read_outbound(call) if call is not None else None
    if request is not None and kind in (Kind.OUTBOUND_TIMEOUT, Kind.OUTBOUND_ERROR):
        timeout = "NetTimeout" if request.method.startswith("net.") else "HttpTimeout"
        name = timeout if kind is Kind.OUTBOUND_TIMEOUT or error is None else error.name
        return make_signature(f"{name} {request.host}", "")
    if request is not None and kind is Kind.OUTBOUND_STATUS:
        return make_signature(f"HTTP {request.status} {request.host} {outcome.type} {where}", "")
    if request is not None and kind is Kind.GRANT_REFUSED:
        return make_signature(f"GrantRefused {request.host} {where}", "")
    if error is not None and error.name == "DatabaseError" and kind is not Kind.UNHANDLED_EXCEPTION:
        details = calls.read_details(error)
        named = [str(details[key]) for key in ("constraint", "table", "column") if details.get(key)]
        about = "" if named else error.message
        return make_signature(f"DatabaseError {error.code} {' '.join(named)} {where}", about)
    return make_signature(f"{outcome.type} {where}", outcome.message)


def message_of_body(body: bytes) -> str:
    """Return what an error answer says in words: a problem's detail or title, else its first line."""
    data = calls.read_json(body) if body[:1] == b"{" else None
    if isinstance(data, dict):
        for key in ("detail", "message", "error", "title"):
            value = data.get(key)
            if isinstance(value, dict):
                value = value.get("message")
            if isinstance(value, str) and value:
                return value[:500]
    text = body[:2000].decode(errors="replace").strip()
    return text.splitlines()[0][:500] if text else ""
