"""Rules about host calls: what the world outside the function answered, or did not.

A rule is a function from a `Case` to facts. It speaks when the record holds what
it needs and is silent otherwise; it never guesses, and what it concludes rather
than reads is marked `INFERRED`. The order of `RULES` is the order of the facts.
"""

import re
from collections.abc import Callable, Iterator

from flux import calls
from flux.calls import HttpCall
from flux.evidence import INFERRED, RECORDED, Fact, RowWriter
from flux.execution import Killed
from flux.failure import Kind, find_abort, message_of_body
from flux.hostcall import HostCall
from flux.limits import format_duration
from flux.mutation import Operation
from flux.why_case import (
    Case,
    clean,
    date_and_clock,
    name_call,
    name_error,
    name_origin,
    name_row,
    place,
    plural,
    read_row,
    short_sha,
    show,
    took,
)

Rule = Callable[[Case], Iterator[Fact]]

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_OUTBOUND = (Kind.OUTBOUND_TIMEOUT, Kind.OUTBOUND_ERROR, Kind.OUTBOUND_STATUS)
_DATABASE = (
    Kind.UNIQUE_VIOLATION, Kind.FOREIGN_KEY_VIOLATION, Kind.NOT_NULL_VIOLATION, Kind.CHECK_VIOLATION,
    Kind.EXCLUSION_VIOLATION, Kind.SERIALIZATION_FAILURE, Kind.DEADLOCK, Kind.DATABASE_ERROR,
    Kind.COMMIT_FAILED,
)  # fmt: skip


# --- outbound requests -----------------------------------------------------------------------------


def outbound_timeout(case: Case) -> Iterator[Fact]:
    """An outbound request that was not answered in time, and whose limit that was."""
    call, request = case.call, _request(case)
    if case.kind != Kind.OUTBOUND_TIMEOUT or call is None or request is None:
        return
    seq = call.request.seq
    waited_ns = case.execution.elapsed_ns - call.started_ns
    if call.result is not None:
        waited_ns = call.result.performed_ns
    yield Fact(
        RECORDED,
        "outbound-timeout",
        f"outside your code: {name_call(call)} was not answered in {took(waited_ns)}{case.elsewhere(call)}",
        seq,
    )
    if (text := _whose_limit(case, call, request)) is not None:
        yield Fact(RECORDED, "limit-origin", text, seq)
    yield from _idempotency(call, request)


def _whose_limit(case: Case, call: HostCall, request: HttpCall) -> str | None:
    if isinstance(case.execution.outcome, Killed):
        killed = case.execution.outcome
        own = "the call sets none of its own"
        if request.timeout_s is not None:
            own = f"the call's own, {_duration(request.timeout_s)}, had not run out"
        return (
            f"the limit, {clean(killed.allowed, 40)}, is the whole function's "
            f"and {name_origin(killed.origin)}; {own}"
        )
    error = calls.find_error(call)
    if error is None:
        return None
    if error.name == calls.CANCELLED:
        where = case.failure.location if case.failure is not None else None
        return "the function itself gave it up" + (f" at {place(where)}" if where is not None else "")
    details = calls.read_details(error)
    limit = _duration(details.get("limit_s"))
    position = call.request.position
    match details.get("limit_source"):
        case "call":
            return f"its limit, {limit}, is set by the call itself"
        case "function":
            timeout = case.find_limit("timeout")
            origin = f", which {name_origin(timeout.origin)}" if timeout is not None else ""
            return f"its limit, {limit}, is the function's time limit{origin}"
        case "default":
            own = f": {place(position)} sets none" if position is not None else ""
            return f"its limit, {limit}, is Flux's default{own}"
    return None


def _duration(value: object) -> str:
    if isinstance(value, int | float) and 0 < value < 1e9:
        return format_duration(value)
    return "not recorded"


def _idempotency(call: HostCall, request: HttpCall) -> Iterator[Fact]:
    if request.method.upper() in _SAFE_METHODS or request.method.startswith("net."):
        return
    if request.has_idempotency_key:
        text = "an Idempotency-Key header was sent: asking again does it once"
    else:
        text = "no Idempotency-Key header was sent: whether it was done over there is not known"
    yield Fact(RECORDED, "idempotency-key", text, call.request.seq)


def outbound_error(case: Case) -> Iterator[Fact]:
    """An outbound request that got no answer for another reason than time."""
    call, request, error = case.call, _request(case), case.error
    if case.kind != Kind.OUTBOUND_ERROR or call is None or request is None or error is None:
        return
    own = error.name.startswith(("HttpInvalid", "NetInvalid", "NetTooMuch", "NetSecret"))
    outside = "" if own else "outside your code: "
    yield Fact(
        RECORDED,
        "outbound-error",
        f"{outside}{name_call(call)} got no answer{case.elsewhere(call)}: {name_error(error)}",
        call.request.seq,
    )
    if outside and error.name not in ("HttpResolveError", "HttpConnectError", "HttpTlsError"):
        yield from _idempotency(call, request)


def error_answer(case: Case) -> Iterator[Fact]:
    """An outbound request that was answered with 4xx or 5xx, and what the answer said."""
    call, request = case.call, _request(case)
    if case.kind != Kind.OUTBOUND_STATUS or call is None or request is None or call.result is None:
        return
    seq = call.request.seq
    text = f"{name_call(call)} was answered {request.status} in {took(call.result.performed_ns)}"
    yield Fact(RECORDED, "error-answer", f"{text}{case.elsewhere(call)}", seq)
    if isinstance(request.body, str) and request.body.strip():
        said = message_of_body(request.body.encode("utf-8", "replace"))
        yield Fact(RECORDED, "error-answer", f"its body says: {clean(said)}", seq)
    if (key := case.find_name()) is not None and _lacks(request.body, key):
        yield Fact(RECORDED, "answer-lacks", f'its body has no "{clean(key, 60)}"', seq)
    if not case.source.startswith("raise"):
        yield Fact(INFERRED, "error-answer", "the function read that answer as if it were a good one", seq)


def _lacks(body: object, key: str) -> bool:
    data = calls.read_json(body.encode("utf-8", "replace")) if isinstance(body, str) else None
    return isinstance(data, dict) and key not in data


def answer_lacks(case: Case) -> Iterator[Fact]:
    """A KeyError about a name that the last answer, or the last rows, do not have."""
    key = case.find_name()
    if case.raised is not None and case.raised.type == "AttributeError":
        found = re.match(r"the row has no column '([^']*)'", case.raised.message)
        key = found[1] if found else None
    if key is None or case.kind != Kind.UNHANDLED_EXCEPTION:
        return
    for call in reversed(case.execution.calls):
        request, statement = calls.read_http(call), calls.read_statement(call)
        if not case.is_on_stack(call) or (request is None and statement is None):
            continue
        if request is not None and _lacks(request.body, key):
            text = f'the answer to {name_call(call)} has no "{clean(key, 60)}"'
            yield Fact(RECORDED, "answer-lacks", text, call.request.seq)
        if statement is not None and statement.columns and key not in statement.columns:
            text = f'the rows of {name_call(call)} have no column "{clean(key, 60)}"'
            yield Fact(RECORDED, "answer-lacks", text, call.request.seq)
        return


def same_host(case: Case) -> Iterator[Fact]:
    """Other executions that lost the same host at about the same time."""
    others, request = case.evidence.host_failures, _request(case)
    if not others or request is None or case.kind not in _OUTBOUND:
        return
    times = sorted(other.started_at_ns for other in others)
    seen_ns = case.execution.started_at_ns
    first, last = date_and_clock(times[0], seen_ns), date_and_clock(times[-1], seen_ns)
    when = f", {first}" if first == last else f", {first} to {last}"
    text = f"{plural(len(others), 'other execution')} lost {clean(request.host, 80)} too"
    yield Fact(RECORDED, "same-host", text + (when if first else ""))


def grant_refused(case: Case) -> Iterator[Fact]:
    """A request to a host that no grant covers, and what flux.toml would have to say."""
    call, request, error = case.call, _request(case), case.error
    if case.kind != Kind.GRANT_REFUSED or call is None or error is None:
        return
    seq = call.request.seq
    yield Fact(
        RECORDED, "grant-refused",
        f"{name_call(call)} was refused{case.elsewhere(call)}, nothing was sent: {clean(error.message)}", seq,
    )  # fmt: skip
    if request is not None and (text := grant_text(case)) is not None:
        yield Fact(RECORDED, "grant-refused", f"no grant covers it; to give one, flux.toml needs {text}", seq)


def grant_text(case: Case) -> str | None:
    """Return what flux.toml needs so that the refused request is allowed, or None when that is unknown."""
    request, error = _request(case), case.error
    if request is None or error is None or not request.host:
        return None
    host = request.host
    if error.code == "FLX403":
        # What a name resolves to vouches for nothing: the address itself has to be written, and only the
        # refusal tells it.
        found = re.search(r'the allow list says "([^"]+)"', error.message)
        if found is None:
            return None
        host = found[1]
    function = case.execution.function
    header = function if re.fullmatch(r"[A-Za-z0-9_-]+", function) else None
    if header is None or re.search(r'["\\]', host):
        return None
    return f'[functions.{header}] http = ["{clean(host, 260)}"]'


def secret_missing(case: Case) -> Iterator[Fact]:
    """A secret that the project does not have."""
    if case.kind == Kind.SECRET_MISSING and case.call is not None and case.error is not None:
        text = f"{name_call(case.call)}{case.elsewhere(case.call)}: {clean(case.error.message)}"
        yield Fact(RECORDED, "secret-missing", text, case.call.request.seq)


# --- the database ----------------------------------------------------------------------------------

_ALREADY = re.compile(r"Key \((.*?)\)=\((.*)\) already exists", re.DOTALL)
_ABSENT = re.compile(r"Key \((.*?)\)=\((.*)\) is not present in table \"(.*?)\"", re.DOTALL)
_REFERENCED = re.compile(r"Key \((.*?)\)=\((.*)\) is still referenced from table \"(.*?)\"", re.DOTALL)


def database_error(case: Case) -> Iterator[Fact]:
    """A statement that the database refused: the constraint, the values, and who was there first."""
    call, error = case.call, case.error
    if case.kind not in _DATABASE or call is None or error is None:
        return
    seq = call.request.seq
    details = {key: value for key, value in calls.read_details(error).items() if isinstance(value, str)}
    yield Fact(RECORDED, "database-error", f"{_refusal(case, call, details)}{case.elsewhere(call)}", seq)
    if call.request.name == "db.commit":
        text = "it was found at the end of the transaction, by its COMMIT"
        yield Fact(RECORDED, "database-error", text, seq)
    yield from _values_of(call)
    if (detail := details.get("detail")) is not None:
        yield Fact(RECORDED, "database-error", _detail_words(detail), seq)
    if (hint := details.get("hint")) is not None:
        yield Fact(RECORDED, "database-error", f"the database's hint: {clean(hint)}", seq)
    if case.kind == Kind.UNIQUE_VIOLATION:
        yield from _first_there(case, call, details)


def _refusal(case: Case, call: HostCall, details: dict[str, str]) -> str:
    error = case.error
    assert error is not None
    constraint, table, column = (clean(details.get(key, ""), 80) for key in ("constraint", "table", "column"))
    of_table = f" of {table}" if table else ""
    name = name_call(call)
    match case.kind:
        case Kind.UNIQUE_VIOLATION if constraint:
            return f"{name} broke the unique constraint {constraint}{of_table}"
        case Kind.FOREIGN_KEY_VIOLATION if constraint:
            return f"{name} broke the foreign key {constraint}{of_table}"
        case Kind.CHECK_VIOLATION if constraint:
            return f"{name} broke the check {constraint}{of_table}"
        case Kind.EXCLUSION_VIOLATION if constraint:
            return f"{name} broke the exclusion constraint {constraint}{of_table}"
        case Kind.NOT_NULL_VIOLATION if column:
            return f"{name} put null into {f'{table}.' if table else ''}{column}, which is not null"
    return f"{name} failed: {name_error(error)}"


def _detail_words(detail: str) -> str:
    if found := _ALREADY.match(detail):
        return f"{clean(found[1], 80)} = {clean(found[2], 80)} was there already"
    if found := _ABSENT.match(detail):
        return f"no row of {clean(found[3], 80)} has {clean(found[1], 80)} = {clean(found[2], 80)}"
    if found := _REFERENCED.match(detail):
        return f"{clean(found[1], 80)} = {clean(found[2], 80)} is still referenced from {clean(found[3], 80)}"
    return f"the database says: {clean(detail)}"


def _values_of(call: HostCall) -> Iterator[Fact]:
    statement = calls.read_statement(call)
    if statement is None or not statement.arguments:
        return
    shown = ", ".join(f"${number} = {show(value)}" for number, value in enumerate(statement.arguments[:8], 1))
    more = f" … {len(statement.arguments) - 8} more" if len(statement.arguments) > 8 else ""
    yield Fact(RECORDED, "arguments", f"its values: {shown}{more}", call.request.seq)


def _first_there(case: Case, call: HostCall, details: dict[str, str]) -> Iterator[Fact]:
    """Who wrote the row that was there first: this execution itself, or an earlier one."""
    seq = call.request.seq
    for mutation in case.execution.mutations:
        if mutation.op not in (Operation.INSERT, Operation.UPDATE) or mutation.table != details.get("table"):
            continue
        if mutation.call is None or mutation.call >= seq or not _has_values(mutation.after, details):
            continue
        row = name_row(mutation.table, mutation.key)
        text = f"this execution itself had written it: {row}, in call {mutation.call}"
        yield Fact(RECORDED, "first-writer", text, mutation.call)
        return
    for writer in case.evidence.row_writers:
        if writer.call == seq:
            text = f"{name_row(writer.table, writer.key)} was {writer_words(case, writer)}"
            yield Fact(RECORDED, "first-writer", text, seq)


def _has_values(after: str | None, details: dict[str, str]) -> bool:
    found = _ALREADY.match(details.get("detail", ""))
    row = read_row(after)
    if found is None or not row:
        return False
    columns = [column.strip().strip('"') for column in found[1].split(",")]
    # Compared as Postgres writes the whole key: a value may itself hold a comma.
    texts = [value if isinstance(value, str) else show(value) for value in (row.get(c) for c in columns)]
    return ", ".join(texts) == found[2]


def writer_words(case: Case, writer: RowWriter) -> str:
    """Say who wrote a row: ``written by q81x... (create_user on 3f9c1e2) at 13:58:02 UTC``."""
    moment = date_and_clock(writer.at_ns, case.execution.started_at_ns)
    when = f" at {moment}" if moment else ""
    if writer.outside:
        return f"written outside Flux{when}"
    if writer.migration is not None:
        return f"written by {clean(writer.migration, 80)}{when}"
    if writer.execution is None:
        return f"written{when} by an execution that is not on record"
    on = f"on {short_sha(writer.sha)}" if writer.sha else ""
    known = [clean(writer.function or "", 80), on]
    by = f" ({' '.join(part for part in known if part)})" if any(known) else ""
    return f"written by {clean(writer.execution, 40)}{by}{when}"


def isolation(case: Case) -> Iterator[Fact]:
    """Under which isolation a transaction lost against another one."""
    if case.kind not in (Kind.SERIALIZATION_FAILURE, Kind.DEADLOCK) or case.call is None:
        return
    begun = [item for item in case.execution.transactions if item.begun_by <= case.call.request.seq]
    if begun and begun[-1].isolation:
        level = clean(begun[-1].isolation, 40)
        text = f"its transaction ran at {level} and lost against a concurrent one"
        if case.kind == Kind.DEADLOCK:
            text = "it and another transaction each waited for a lock that the other held"
        yield Fact(RECORDED, "isolation", text, case.call.request.seq)


def transaction_aborted(case: Case) -> Iterator[Fact]:
    """A statement after an error that the function had caught: Postgres ignores it."""
    call, error = case.call, case.error
    if case.kind != Kind.TRANSACTION_ABORTED or call is None or error is None:
        return
    first: HostCall | None = call
    if error.code == "25P02":
        text = f"{name_call(call)} was ignored{case.elsewhere(call)}: its transaction had failed already"
        yield Fact(RECORDED, "transaction-aborted", text, call.request.seq)
        first = find_abort(case.execution, call.request.seq)
        error = calls.find_error(first) if first is not None else None
    if first is not None and error is not None:
        text = f"{name_call(first)} had failed{case.elsewhere(first)}: {name_error(error)}"
        yield Fact(RECORDED, "transaction-aborted", text, first.request.seq)
        text = "the function caught that and went on; a caught error needs its own ctx.db.transaction()"
        yield Fact(INFERRED, "transaction-aborted", text, first.request.seq)


def no_row(case: Case) -> Iterator[Fact]:
    """A query that found no row where the code uses one."""
    call = case.call
    if case.kind != Kind.NO_ROW or call is None:
        return
    seq = call.request.seq
    yield Fact(RECORDED, "no-row", f"{name_call(call)} found no row{case.elsewhere(call)}", seq)
    yield from _values_of(call)
    yield Fact(INFERRED, "no-row", "what was None is the row that was not found", seq)
    statement = calls.read_statement(call)
    for mutation in case.execution.mutations:
        if mutation.op is not Operation.DELETE or mutation.call is None or mutation.call >= seq:
            continue
        if statement is not None and re.search(rf"\b{re.escape(mutation.table)}\b", statement.sql):
            row = name_row(mutation.table, mutation.key)
            text = f"call {mutation.call} of this execution had deleted {row}"
            yield Fact(RECORDED, "no-row", text, mutation.call)


def refused_statement(case: Case) -> Iterator[Fact]:
    """A statement that guests may not send."""
    if case.kind == Kind.STATEMENT_REFUSED and case.call is not None and case.error is not None:
        text = f"{name_call(case.call)} was not sent{case.elsewhere(case.call)}: {clean(case.error.message)}"
        yield Fact(RECORDED, "statement-refused", text, case.call.request.seq)


# --- the others ------------------------------------------------------------------------------------


def invoke_failed(case: Case) -> Iterator[Fact]:
    """A function that was invoked and failed: it is an execution of its own, which says why."""
    call, error = case.call, case.error
    if case.kind != Kind.INVOKE_FAILED or call is None or error is None:
        return
    seq = call.request.seq
    yield Fact(RECORDED, "invoke-failed", f"{name_call(call)}{case.elsewhere(call)}: {clean(error.message)}", seq)
    if (name := find_invoked(case)) is not None:
        yield Fact(RECORDED, "invoke-failed", f"that is execution {name}, which has a record of its own", seq)


def find_invoked(case: Case) -> str | None:
    """Return the name of the execution that was invoked and whose failure this one passes on, or None."""
    if case.kind != Kind.INVOKE_FAILED or case.error is None:
        return None
    name = calls.read_details(case.error).get("execution")
    return name if isinstance(name, str) and _NAME.fullmatch(name) else None


_NAME = re.compile(r"[0-9a-z]{8}")


def call_failed(case: Case) -> Iterator[Fact]:
    """A call that the host could not perform as it was asked, for a reason that has no rule of its own."""
    if case.kind == Kind.UNHANDLED_EXCEPTION and case.call is not None and case.error is not None:
        text = f"{name_call(case.call)} failed{case.elsewhere(case.call)}: {name_error(case.error)}"
        yield Fact(RECORDED, "call-failed", text, case.call.request.seq)


def empty_before_answer(case: Case) -> Iterator[Fact]:
    """The last query before a 4xx answer found no row: that is what most of them say."""
    if case.failure is None or not case.failure.is_answer:
        return
    queries = [call for call in case.execution.calls if call.request.name in ("db.query", "db.execute")]
    statement = calls.read_statement(queries[-1]) if queries else None
    if statement is None:
        return
    if statement.rows == () or statement.affected == 0:
        what = "found no row" if statement.rows is not None else "changed no row"
        last = queries[-1]
        yield Fact(RECORDED, "no-row", f"{name_call(last)} {what}{case.elsewhere(last)}", last.request.seq)
        yield from _values_of(last)


CAUGHT_MAX = 4


def caught_errors(case: Case) -> Iterator[Fact]:
    """Calls that failed and did not end the function."""
    answer = case.failure is None or case.failure.is_answer
    told = {case.call.request.seq} if case.call is not None and not answer else set()
    if case.kind == Kind.TRANSACTION_ABORTED and case.call is not None:
        first = find_abort(case.execution, case.call.request.seq)
        told.add(0 if first is None else first.request.seq)
    caught = []
    for call in case.execution.calls:
        error = calls.find_error(call)
        if error is not None and error.name != calls.CANCELLED and call.request.seq not in told:
            caught.append((call, error))
    for call, error in caught[-CAUGHT_MAX:]:
        text = f"{name_call(call)} had failed{case.elsewhere(call)}: {name_error(error)}"
        yield Fact(RECORDED, "caught-error", text, call.request.seq)
    if len(caught) > CAUGHT_MAX:
        text = f"{plural(len(caught) - CAUGHT_MAX, 'earlier call')} failed as well"
        yield Fact(RECORDED, "caught-error", text)


def left_outside(case: Case) -> Iterator[Fact]:
    """Requests that had been answered well before the failure: no rollback undoes them."""
    if case.failure is None or case.failure.is_answer:
        return
    done = []
    for call in case.execution.calls:
        request = calls.read_http(call)
        if request is None or request.status is None or request.method.upper() in _SAFE_METHODS:
            continue
        if request.status < 400:
            done.append((call, request.status))
    for call, status in done[:3]:
        text = f"{name_call(call)} had been answered {status}: that is done, and no rollback undoes it"
        yield Fact(RECORDED, "left-outside", text, call.request.seq)
    if len(done) > 3:
        text = f"{plural(len(done) - 3, 'more request')} had been answered well, too"
        yield Fact(RECORDED, "left-outside", text)


def _request(case: Case) -> HttpCall | None:
    return None if case.call is None else calls.read_outbound(case.call)


RULES: tuple[Rule, ...] = (
    outbound_timeout, outbound_error, error_answer, same_host, grant_refused, secret_missing, database_error,
    isolation, transaction_aborted, no_row, refused_statement, invoke_failed, call_failed, answer_lacks,
    empty_before_answer, caught_errors, left_outside,
)  # fmt: skip
