"""Rules about the function itself: its limits, its input, its rows, its history.

As in `flux.why_calls`, a rule is a function from a `Case` to facts, silent where
the record does not hold what it needs.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from flux import calls, ids
from flux.evidence import INFERRED, RECORDED, Fact, OriginStep, RowWriter
from flux.execution import Exited, Interrupted, Killed, Returned
from flux.failure import SIGNAL_NAMES, Kind, find_awaited, find_in_flight
from flux.hostcall import Position
from flux.mutation import Operation
from flux.why_calls import Rule, writer_words
from flux.why_case import (
    Case,
    clean,
    date_and_clock,
    find_input,
    list_nulled,
    name_call,
    name_origin,
    name_row,
    place,
    plural,
    short_sha,
    show,
    took,
)

_OF_VALUES = (
    Kind.UNHANDLED_EXCEPTION, Kind.HTTP_ERROR, Kind.RETURNED_ERROR, Kind.NO_ROW, Kind.VALIDATION,
    Kind.NOT_NULL_VIOLATION, Kind.CHECK_VIOLATION, Kind.FOREIGN_KEY_VIOLATION, Kind.DATABASE_ERROR,
)  # fmt: skip
"""Failures that a value may be behind, of the input or of a row."""


# --- how it ended ----------------------------------------------------------------------------------


def returned(case: Case) -> Iterator[Fact]:
    """The function answered with a status of 500 and up, and nothing raised."""
    outcome = case.execution.outcome
    if not isinstance(outcome, Returned) or case.failure is None:
        return
    yield Fact(RECORDED, "returned", f"the function returned {outcome.status} by itself; nothing raised")
    if case.failure.message:
        yield Fact(RECORDED, "returned", f"its body says: {clean(case.failure.message)}")
    asked = [call for call in case.execution.calls if not call.request.one_way]
    open_calls = sum(call.result is None for call in asked)
    if asked:
        how = "all answered" if not open_calls else f"{open_calls} of them not answered"
        yield Fact(RECORDED, "returned", f"{plural(len(asked), 'call')}, {how}")
    for call in reversed(asked):
        request, error = calls.read_http(call), calls.find_error(call)
        if error is not None and error.name != calls.CANCELLED:
            yield Fact(INFERRED, "failed-before", f"{name_call(call)} had failed before", call.request.seq)
            return
        if request is not None and request.status is not None and request.status >= 400:
            text = f"{name_call(call)} had been answered {request.status} before"
            yield Fact(INFERRED, "failed-before", text, call.request.seq)
            return


def raised_from(case: Case) -> Iterator[Fact]:
    """The exception that the raised one came from."""
    if case.raised is not None and case.raised.cause and case.error is None:
        yield Fact(RECORDED, "cause", f"it was raised while handling {clean(case.raised.cause)}")


def violations(case: Case) -> Iterator[Fact]:
    """What of the input was not as the function asked."""
    if case.kind != Kind.VALIDATION or case.raised is None:
        return
    listed = calls.read_json(case.raised.violations)
    items = [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []
    for item in items[:10]:
        text = f"{clean(str(item.get('path', '')), 100)}: {clean(str(item.get('message', '')))}"
        yield Fact(RECORDED, "violation", text)
    if len(items) > 10:
        yield Fact(RECORDED, "violation", f"{plural(len(items) - 10, 'more violation')}")


def limit(case: Case) -> Iterator[Fact]:
    """A limit that ended the function: who set it, and where the function was."""
    outcome = case.execution.outcome
    if not isinstance(outcome, Killed) or find_awaited(case.execution) is not None:
        return
    if outcome.limit not in ("protocol", "frame", "neighbours"):
        text = f"its limit, {clean(outcome.allowed, 40)}, {name_origin(outcome.origin)}"
        yield Fact(RECORDED, "limit-origin", text)
    if outcome.detail and outcome.limit != "memory":
        yield Fact(RECORDED, "limit", clean(outcome.detail))
    if outcome.limit == "host_calls":
        yield from _most_asked(case)
    elif outcome.limit != "response" and (find_in_flight(case.execution) or not _has_place(case)):
        yield from _where_it_was(case)


def _has_place(case: Case) -> bool:
    return case.failure is not None and case.failure.location is not None


def memory_error(case: Case) -> Iterator[Fact]:
    """A MemoryError that the function saw: whose limit it ran into."""
    if case.kind != Kind.LIMIT_MEMORY or case.raised is None:
        return
    in_force = case.find_limit("memory")
    if in_force is not None:
        text = f"its memory limit, {clean(in_force.value, 40)}, {name_origin(in_force.origin)}"
        yield Fact(RECORDED, "limit-origin", text)


_REFUSED = re.compile(r"\[Errno (?:1|13)\] (?:Operation not permitted|Permission denied)(?:: '.*')?", re.DOTALL)


def sandbox_refused(case: Case) -> Iterator[Fact]:
    """The kernel refused what the function asked it for: that is what the jail around it looks like from inside."""
    if case.raised is not None and case.raised.type == "PermissionError" and _REFUSED.fullmatch(case.raised.message):
        text = "its sandbox refused that: a function writes no files, starts no programs and reads only its own code"
        yield Fact(INFERRED, "sandbox-refused", text)


def _most_asked(case: Case) -> Iterator[Fact]:
    """Which line asked most: a loop shows."""
    asked: Counter[tuple[str, Position | None]] = Counter(
        (call.request.name, call.request.position) for call in case.execution.calls
    )
    for (name, position), count in asked.most_common(2):
        if count > 1:
            where = f" at {place(position)}" if position is not None else ""
            total = plural(len(case.execution.calls), "call")
            yield Fact(RECORDED, "most-asked", f"{count:,} of {total} were {clean(name, 60)}{where}")


def _where_it_was(case: Case) -> Iterator[Fact]:
    """The call in flight, or the last line that is on record, which is not where it ended."""
    in_flight = find_in_flight(case.execution)
    if in_flight is not None:
        # What was cut has no known end: its length is that of what is written down, and says nothing of the wait.
        waited = took(case.execution.elapsed_ns - in_flight.started_ns)
        how_long = "" if isinstance(case.execution.outcome, Interrupted) else f" for {waited}"
        text = f"{name_call(in_flight)} had been in flight{how_long}{case.elsewhere(in_flight)}"
        yield Fact(RECORDED, "in-flight", text, in_flight.request.seq)
        return
    last = _last_known(case)
    if last is None:
        yield Fact(RECORDED, "last-known", "it had asked for nothing: no line of it is on record")
        return
    what, position, at_ns, seq = last
    silent_ns = max(0, case.execution.elapsed_ns - at_ns)
    where = f" at {place(position)}" if position is not None else ""
    text = f"the last on record is {what}{where}, {took(at_ns)} after the start"
    yield Fact(RECORDED, "last-known", f"{text}; then {took(silent_ns)} of nothing", seq)


def _last_known(case: Case) -> tuple[str, Position | None, int, int | None] | None:
    known: list[tuple[int, str, Position | None, int | None]] = []
    for call in case.execution.calls:
        elapsed_ns = call.result.elapsed_ns if call.result is not None else 0
        ended_ns = call.started_ns + elapsed_ns
        known.append((ended_ns, name_call(call), call.request.position, call.request.seq))
    known += [
        (line.at_ns, "a log line", line.position, None)
        for line in case.execution.logs
        if line.position is not None
    ]
    if not known:
        return None
    at_ns, what, position, seq = max(known, key=lambda item: item[0])
    return what, position, at_ns, seq


def crash(case: Case) -> Iterator[Fact]:
    """A worker process that ended by itself: how, its last words, and where it was."""
    outcome = case.execution.outcome
    if not isinstance(outcome, Exited):
        return
    if outcome.signal is not None:
        name = SIGNAL_NAMES.get(outcome.signal, "a signal without a name here")
        yield Fact(RECORDED, "crash", f"the worker process was ended by signal {outcome.signal} ({name})")
        if outcome.signal == 9:
            text = "who sent it is not on record; the kernel does when the machine is out of memory"
            yield Fact(RECORDED, "crash", text)
    elif outcome.exit_code is not None:
        text = f"the worker process ended by itself with exit code {outcome.exit_code}"
        yield Fact(RECORDED, "crash", text)
    else:
        yield Fact(RECORDED, "crash", "the worker process ended; how is not on record")
    lines = [line.strip() for line in outcome.detail.splitlines() if line.strip()]
    for line in lines[-3:]:
        yield Fact(RECORDED, "last-output", f"it wrote: {clean(line)}")
    yield from _where_it_was(case)


def interrupted(case: Case) -> Iterator[Fact]:
    """It was cut off from outside."""
    if isinstance(case.execution.outcome, Interrupted):
        count = len(case.execution.calls)
        text = f"what follows is what was written down until then: {plural(count, 'call')}"
        yield Fact(RECORDED, "interrupted", text)
        yield from _where_it_was(case)


def host_error(case: Case) -> Iterator[Fact]:
    """Flux itself could not run the function."""
    if case.kind == Kind.HOST_ERROR:
        yield Fact(RECORDED, "host-error", "this is Flux's own failure, not the function's")


def deadlocked(case: Case) -> Iterator[Fact]:
    """Every task of the function waited for another one."""
    if case.kind == Kind.DEADLOCKED_GUEST:
        yield Fact(RECORDED, "deadlocked", "every task waited, and no host call was in flight to wake one")
        yield from _where_it_was(case)


def commit_failed(case: Case) -> Iterator[Fact]:
    """The transaction could not be committed after the function had answered."""
    if case.kind == Kind.COMMIT_FAILED and case.raised is not None:
        if case.raised.type == "CommitUnknown":
            text = "the connection broke during COMMIT: whether it was committed is not known here"
            yield Fact(RECORDED, "commit-failed", text)
        elif case.call is None:
            yield Fact(RECORDED, "commit-failed", "the function had ended; its COMMIT was refused")


# --- values ----------------------------------------------------------------------------------------


def null_written(case: Case) -> Iterator[Fact]:
    """Columns that this execution itself set to null."""
    if case.kind not in _OF_VALUES:
        return
    told = 0
    for mutation in case.execution.mutations:
        if mutation.op is not Operation.UPDATE or mutation.call is None:
            continue
        for column, before in list_nulled(mutation):
            told += 1
            if told <= 3:
                row = name_row(mutation.table, mutation.key)
                text = f"call {mutation.call} set {row}.{clean(column, 60)} from {show(before)} to null"
                yield Fact(RECORDED, "null-written", text, mutation.call)
    if told > 3:
        yield Fact(RECORDED, "null-written", f"{plural(told - 3, 'more column')} were set to null")


def input_absent(case: Case) -> Iterator[Fact]:
    """Fields that the input lacks: those the failure names, and those that passing peers have."""
    if case.kind not in _OF_VALUES or case.failure is None or case.failure.is_answer:
        return
    own = find_input(case.execution)
    if own is None:
        return
    lacking = [name for name in _names_meant(case) if own.get(name) is None]
    of_peers = _fields_of_peers(case, own)
    for name in sorted({*lacking, *of_peers}):
        yield Fact(RECORDED, "input-absent", _absent(own, name))
    for name, (having, asked) in sorted(of_peers.items()):
        text = f"{having} of {asked} passing neighbours have input.{clean(name, 60)}"
        yield Fact(INFERRED, "input-of-peers", text)


def _absent(own: Mapping[str, Any], name: str) -> str:
    shown = clean(name, 60)
    return f"input.{shown} is null" if name in own else f'the input has no "{shown}"'


_INPUT_NAMES = re.compile(r"\binput(?:\.get\(|\[)\s*[\"']([^\"']+)[\"']|\binput\.([A-Za-z_]\w*)(?!\w*\()")


def _names_meant(case: Case) -> set[str]:
    """Fields that the failing line asks of the input, or the failure names, or that became null in a row."""
    names = {name for pair in _INPUT_NAMES.findall(case.source) for name in pair if name}
    names |= {column for mutation in case.execution.mutations for column, _ in list_nulled(mutation)}
    if (key := case.find_name()) is not None and "input" in case.source:
        names.add(key)
    if case.kind == Kind.NOT_NULL_VIOLATION and case.error is not None:
        column = calls.read_details(case.error).get("column")
        names |= {column} if isinstance(column, str) else set()
    return names


PEERS_MIN = 3
"""Fewer neighbours say nothing."""


def _fields_of_peers(case: Case, own: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Return the fields that nearly all passing peers have and this input does not: how many of how many."""
    inputs = [found for peer in case.evidence.peers if (found := find_input(peer)) is not None]
    if len(inputs) < PEERS_MIN:
        return {}
    having = Counter(name for found in inputs for name, value in found.items() if value is not None)
    return {
        name: (count, len(inputs))
        for name, count in having.items()
        if own.get(name) is None and count * 10 >= len(inputs) * 9
    }


ROWS_SEARCHED_MAX = 100


def value_met(case: Case) -> Iterator[Fact]:
    """Where the value that a KeyError was about stands in the input or in what was read."""
    raised = case.raised
    if raised is None or raised.type != "KeyError" or case.kind != Kind.UNHANDLED_EXCEPTION:
        return
    key = None if raised.message == "None" else case.find_key()
    if key is None and raised.message != "None":
        return
    own = find_input(case.execution) or {}
    found = [name for name, value in own.items() if value == key]
    for name in found[:3]:
        yield Fact(RECORDED, "value-met", f"input.{clean(name, 60)} is {show(key)}")
    told = 0
    # A null that the call itself wrote and returned has been told, and so has a value whose writer is known:
    # see `null_written` and `value_read`.
    nulled = {mutation.call for mutation in case.execution.mutations if any(list_nulled(mutation))}
    written = {writer.call for writer in _list_writers(case) if _is_meant(case, writer)}
    for call in case.execution.calls:
        statement = calls.read_statement(call)
        seq = call.request.seq
        if statement is None or told == 3 or seq in written or (key is None and seq in nulled):
            continue
        met = {
            column
            for row in (statement.rows or ())[:ROWS_SEARCHED_MAX]
            for column, value in zip(statement.columns, row, strict=False)
            if value == key
        }
        if met:
            told += 1
            names = ", ".join(clean(column, 60) for column in sorted(met)[:3])
            text = f"{name_call(call)} returned {names} = {show(key)}{case.elsewhere(call)}"
            yield Fact(RECORDED, "value-met", text, seq)


def value_read(case: Case) -> Iterator[Fact]:
    """Values read here that another execution wrote, those that the failure speaks of first."""
    if case.failure is None or case.failure.is_answer:
        return
    writers = _list_writers(case)
    meant = [writer for writer in writers if _is_meant(case, writer)]
    for writer in (meant or writers)[:3]:
        yield Fact(RECORDED, "value-read", _read_words(case, writer), writer.call)
    if (more := len(writers) - min(3, len(meant or writers))) > 0:
        yield Fact(RECORDED, "value-read", f"who wrote {plural(more, 'more value')} read here is known, too")


def value_origin(case: Case) -> Iterator[Fact]:
    """The way that a value had come which was read here, back to where it began."""
    if case.failure is None or case.failure.is_answer:
        return
    for origin in case.evidence.origins:
        met = origin.met
        if not origin.is_known and len(origin.steps) < 2:
            continue  # Who wrote it is told already.
        last = origin.steps[-1]
        value = show(_read_value(met.value)) if met.value is not None else "null"
        back = plural(len([step for step in origin.steps if step.execution is not None]), "execution")
        place = f"{name_row(met.table, met.key)}.{clean(met.column or '', 60)}"
        text = f"{place} = {value} is followed {back} back, to {_who(last)}: {clean(origin.end, 200)}"
        yield Fact(INFERRED, "value-origin", text, met.call)
        for number, step in enumerate(origin.steps, 1):
            yield Fact(INFERRED, "value-origin", f"{number}. {_step_words(case, step)}", met.call)


def _who(step: OriginStep) -> str:
    if step.writer is not None and step.writer.migration is not None:
        return clean(step.writer.migration, 80)
    if step.writer is not None and step.writer.outside:
        return "somebody outside Flux"
    if step.execution is None:
        return "an execution whose record is gone"
    return f"{clean(step.execution, 40)} ({clean(step.function or '?', 60)})"


def _step_words(case: Case, step: OriginStep) -> str:
    at = f" in call {step.call}" if step.call is not None else ""
    writer = step.writer
    if writer is None:
        return f"{_who(step)} handed it to {clean(step.child or '?', 40)}{at}" + _read_before(step)
    place = f"{name_row(writer.table, writer.key)}.{clean(writer.column or '', 60)}"
    when = f", {date_and_clock(writer.at_ns, case.execution.started_at_ns)}" if writer.at_ns else ""
    return f"{_who(step)} wrote {place}{at}{when}" + _read_before(step)


def _read_before(step: OriginStep) -> str:
    return f"; it had read it in call {step.read_call}" if step.read_call is not None else ""


def _list_writers(case: Case) -> list[RowWriter]:
    """Return the writers of rows that the record says were read."""
    read = {(item.call, item.schema, item.table) for item in case.execution.reads}
    return [
        writer
        for writer in case.evidence.row_writers
        if (writer.call, writer.schema, writer.table) in read and writer.execution != case.execution.name
    ]


def _is_meant(case: Case, writer: RowWriter) -> bool:
    """Whether the failure speaks of this column, or of its value."""
    if writer.column is None or case.raised is None:
        return False
    if re.search(rf"\b{re.escape(writer.column)}\b", f"{case.source} {case.raised.message[:1000]}"):
        return True
    value = None if writer.value is None else _read_value(writer.value)
    key = case.find_key()
    return value == key if key is not None else value is None


def _read_value(text: str) -> object:
    return calls.read_json(text.encode("utf-8", "surrogatepass"))


def _read_words(case: Case, writer: RowWriter) -> str:
    row = name_row(writer.table, writer.key)
    if writer.column is None:
        return f"call {writer.call} read {row}, {writer_words(case, writer)}"
    value = "null" if writer.value is None else show(_read_value(writer.value))
    before = ""
    if writer.before is not None and writer.before != writer.value:
        before = f"; it was {show(_read_value(writer.before))} before"
    text = f"call {writer.call} read {row}.{clean(writer.column, 60)} = {value}"
    return f"{text}, {writer_words(case, writer)}{before}"


# --- around it -------------------------------------------------------------------------------------


def logged(case: Case) -> Iterator[Fact]:
    """What the function itself said at level error."""
    if case.failure is None or case.failure.is_answer:
        return
    for line in [line for line in case.execution.logs if line.level == "error"][-2:]:
        where = f" at {place(line.position)}" if line.position is not None else ""
        yield Fact(RECORDED, "logged", f"it logged an error{where}: {clean(line.message)}")


def counts(case: Case) -> Iterator[Fact]:
    """How often this failure happened on this code and on the code before."""
    here, before = case.evidence.count, case.evidence.previous_count
    if case.failure is None or case.failure.is_answer or here is None:
        return
    trigger = case.execution.trigger
    what = f"{trigger.method} {trigger.route or trigger.path}" if trigger.kind == "http" else ""
    what = clean(what.strip() or case.execution.function, 80)
    text = f"this failure: {here.failures:,} of {here.total:,} {what} on {short_sha(here.sha)}"
    if before is not None:
        text += f", {before.failures:,} of {before.total:,} on {short_sha(before.sha)}"
    yield Fact(RECORDED, "counts", text)


def attempts(case: Case) -> Iterator[Fact]:
    """An execution that was one of several attempts at the same request."""
    number = case.execution.attempt
    if number > 1 and not case.execution.trigger.job:
        earlier = "the one before was" if number == 2 else f"the {number - 1} before were"
        text = f"this was attempt {number} of the request; {earlier} given up after a serialization failure"
        yield Fact(RECORDED, "attempts", text)
    if case.evidence.retried_as is not None:
        text = f"the request was tried again, as {clean(case.evidence.retried_as, 40)}"
        yield Fact(RECORDED, "attempts", text)


def job(case: Case) -> Iterator[Fact]:
    """An execution that was an attempt at a job: who pushed that, and what has become of it."""
    execution, trigger = case.execution, case.execution.trigger
    if not trigger.job or trigger.kind == "replay":
        return  # A replay has the trigger of what it replays, but for its kind.
    who = "" if execution.parent is None else f", pushed by {ids.make_name(execution.parent)}"
    which = "" if trigger.call is None or not who else f" in its call {trigger.call}"
    yield Fact(RECORDED, "job", f"this was attempt {execution.attempt} at job {clean(trigger.job, 40)}{who}{which}")
    if case.failure is None:
        return
    match case.evidence.job_state:
        case "dead":
            yield Fact(RECORDED, "job", "the job has no retries left: it stays in the queue and is not run by itself")
        case "waiting" | "running":
            yield Fact(RECORDED, "job", "the job is tried again")
        case "done":
            yield Fact(RECORDED, "job", "a later attempt at the job was committed")


def warm_worker(case: Case) -> Iterator[Fact]:
    """What others may have left in the worker: it is in no record, and no replay has it."""
    served = case.execution.served_before
    if case.failure is not None and not case.failure.is_answer and served:
        before = "an execution" if served == 1 else f"{served:,} executions"
        text = f"its worker was warm: it had served {before} before, and had what they left in module state"
        yield Fact(RECORDED, "warm-worker", f"{text}; a replay begins without, and may differ")


def changes(case: Case) -> Iterator[Fact]:
    """How many rows were changed, and what stayed of that."""
    execution = case.execution
    known = len(execution.mutations)
    committed = sum(mutation.committed for mutation in execution.mutations)
    undone = known - committed
    if committed:
        stays = "it stays" if committed == 1 else "they stay"
        more = f"; {undone:,} more rolled back" if undone else ""
        yield Fact(RECORDED, "changes", f"{plural(committed, 'row change')} committed: {stays}{more}")
    elif undone:
        were = "was" if undone == 1 else "were"
        text = f"{plural(undone, 'row change')} {were} made and rolled back"
        # Whether nothing is left is only known of a transaction whose end was seen.
        if case.kind not in (Kind.INTERRUPTED, Kind.COMMIT_FAILED) and known >= execution.mutation_count:
            text += "; nothing is left behind"
        yield Fact(RECORDED, "changes", text)
    elif not execution.mutation_count and any(c.request.name.startswith("db.") for c in execution.calls):
        yield Fact(RECORDED, "changes", "no row was changed")
    if execution.mutation_count > known:
        in_all = plural(execution.mutation_count, "row change")
        yield Fact(RECORDED, "changes", f"{in_all} in all; the record holds {known:,} of them")


def completeness(case: Case) -> Iterator[Fact]:
    """What is missing from the record, and what could not be looked up."""
    for sentence in case.execution.completeness:
        yield Fact(RECORDED, "completeness", f"this record is not whole: {clean(sentence)}")
    for sentence in case.evidence.unavailable:
        yield Fact(RECORDED, "unavailable", f"could not be looked up: {clean(sentence)}")


ENDINGS: tuple[Rule, ...] = (
    returned, raised_from, violations, limit, memory_error, sandbox_refused, crash, interrupted, host_error,
    deadlocked, commit_failed,
)  # fmt: skip
"""How it ended; they come first."""

VALUES: tuple[Rule, ...] = (null_written, input_absent, value_read, value_origin, value_met)
"""What values had to do with it."""

SURROUNDINGS: tuple[Rule, ...] = (logged, counts, attempts, job, warm_worker, changes, completeness)
"""What stands around the failure; they come last."""
