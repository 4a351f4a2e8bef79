"""Whatever a record holds, an explanation comes, and every line, call and value in it is the record's.

Records are drawn at random from parts as the driver writes them, as a guest that
lies would have them written, and as a crash would cut them. Drawing one takes a tenth of a second:
``FLUX_TEST_TIMES`` (`tests.repetitions`) draws more of them.
"""

import json
import re
import uuid
from typing import Any

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st

from flux import why
from flux.evidence import Evidence, Origin, OriginStep
from flux.execution import (
    Execution,
    Exited,
    Frame,
    Interrupted,
    Killed,
    Level,
    LimitInForce,
    LogLine,
    Outcome,
    Raised,
    Read,
    Returned,
    Transaction,
    Trigger,
)
from flux.failure import Kind, find_failure, list_failed_hosts
from flux.hostcall import HostCall, HostCallError, HostCallRequest, HostCallResult, Position
from flux.mutation import Mutation, Operation
from flux.sanitize import sanitize
from tests.failing_executions import ANSWERS, FAILING
from tests.repetitions import TIMES

FILES = [f"functions/file{number}.py" for number in range(4)]
FILE_AND_LINE = re.compile(r"functions/\w+\.py:\d+")
TELLING = [
    "'NoneType' object is not subscriptable", "list index out of range", "'id'", "None", "ERROR 40001: x", "\ud800", "",
]  # fmt: skip
texts = st.text(max_size=30) | st.sampled_from(TELLING)
numbers = st.integers(-3, 2**62)
positions = st.builds(Position, st.sampled_from(FILES), st.integers(1, 9_999), st.sampled_from(["f", "g", "C.m"]))
frames = st.builds(
    Frame,
    st.sampled_from(FILES),
    st.integers(1, 9_999),
    st.sampled_from(["f", "g", "C.m"]),
    st.booleans(),
    st.sampled_from(["", "raise X()", 'x = row["id"]', "rows[0]", 'input["plan"]']),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def _bytes(value: Any) -> bytes:
    return json.dumps(value).encode()


any_bytes = st.binary(max_size=30) | json_values.map(_bytes)
urls = texts | st.sampled_from(
    ["https://api.stripe.com/v1?k=1", "http://127.0.0.1:9000/", "http://[::1]/", "//", "http://a:b:c/"]
)
options = st.fixed_dictionaries({}, optional={"headers": json_values, "timeout_s": json_values})
statements = st.sampled_from(["select * from users", "commit", "INSERT into x", ""])
arguments = (
    st.tuples(st.sampled_from(["GET", "POST", "x"]), urls, options).map(_bytes)
    | st.tuples(statements, st.lists(json_values, max_size=3)).map(_bytes)
    | any_bytes
)
statuses = json_values | st.integers(100, 599)
columns = json_values | st.lists(st.sampled_from(["id", "plan"]))
answers = (
    st.fixed_dictionaries({"status": statuses, "body": json_values, "url": json_values}).map(_bytes)
    | st.fixed_dictionaries({"columns": columns, "rows": json_values}).map(_bytes)
    | any_bytes
)
DETAILS = ["host", "port", "limit_s", "limit_source", "detail", "hint", "table", "column", "constraint", "secret"]
details = any_bytes | st.dictionaries(
    st.sampled_from(DETAILS),
    json_values | st.sampled_from(["default", "call", "function", "Key (a)=(1) already exists."]),
).map(_bytes)
ERRORS = ["DatabaseError", "HttpTimeout", "HttpConnectError", "GrantRefused", "SecretMissing", "Cancelled", "X"]
errors = st.builds(
    HostCallError,
    st.sampled_from(ERRORS),
    texts,
    st.sampled_from(["23505", "23503", "25P02", "40001", "40P01", "FLX402", "FLX403", ""]),
    details,
)
results = st.builds(HostCallResult, answers, st.none() | errors, numbers, numbers)
names = st.sampled_from(
    ["http.request", "db.query", "db.execute", "db.begin", "db.rollback", "db.commit", "clock.now", "?"]
)
row_values = json_values | st.dictionaries(st.sampled_from(["id", "plan"]), json_values)
rows = st.none() | row_values.map(json.dumps) | texts
mutations = st.builds(
    Mutation, texts, texts, rows, st.sampled_from(Operation), rows, rows, st.booleans(), numbers,
    call=st.none() | st.integers(0, 6),
)  # fmt: skip
outcomes: st.SearchStrategy[Outcome] = st.one_of(
    st.builds(Returned, st.sampled_from([200, 404, 500, 503]), body=any_bytes),
    st.builds(
        Raised,
        st.sampled_from(
            ["KeyError", "TypeError", "IndexError", "TimeoutError", "HTTPError", "ValidationError", "CommitFailed",
             "DatabaseError", "HttpTimeoutError", "ExceptionGroup", "MemoryError", "DeadlockError", "E"]
        ) | texts,
        texts, st.lists(frames, max_size=7).map(tuple), st.sampled_from([400, 404, 500, 502]),
        st.sampled_from(["FUNCTION_ERROR", "NOT_FOUND", "OVERLOADED", "x"]), any_bytes,
        st.none() | st.integers(0, 7), texts,
    ),
    st.builds(
        Killed,
        st.sampled_from(
            ["timeout", "memory", "neighbours", "host_calls", "log", "response", "frame", "protocol", "?"]
        ),
        texts, texts,
        texts | st.sampled_from([f"MemoryError at {FILES[0]}:7 in f"]),
    ),
    st.builds(Exited, st.none() | st.integers(0, 255), st.none() | st.integers(1, 64), texts),
    st.builds(Interrupted, texts),
)  # fmt: skip


@st.composite
def records(draw: st.DrawFn) -> Execution:
    """Any execution."""
    calls = tuple(
        HostCall(
            HostCallRequest(seq, draw(names), draw(arguments), position=draw(st.none() | positions)),
            draw(st.none() | results), draw(numbers), seq,
        )
        for seq in range(1, draw(st.integers(0, 6)) + 1)
    )  # fmt: skip
    made = tuple(draw(st.lists(mutations, max_size=3)))
    lines = st.builds(LogLine, numbers, st.sampled_from(["info", "error"]), texts, any_bytes, st.none() | positions)
    transactions = st.builds(Transaction, texts, texts, st.none(), st.booleans(), numbers)
    reads = st.builds(Read, st.integers(0, 6), texts, texts, st.just(()), st.just(()))
    return Execution(
        id=uuid.UUID(int=draw(st.integers(0, 2**128 - 1))), tenant="default", function=draw(texts), deployment="d",
        sha=draw(texts), dirty=False, trigger=Trigger("http", "POST", draw(texts), draw(texts), body=draw(any_bytes)),
        started_at_ns=draw(numbers), seed=bytes(32), level=Level("process", "process", "python"),
        limits=(LimitInForce("timeout", draw(texts), draw(texts)),), outcome=draw(outcomes), elapsed_ns=draw(numbers),
        calls=calls, mutations=made, mutation_count=draw(st.integers(0, 5)),
        logs=tuple(draw(st.lists(lines, max_size=2))),
        transactions=tuple(draw(st.lists(transactions, max_size=1))),
        reads=tuple(draw(st.lists(reads, max_size=2))),
        completeness=tuple(draw(st.lists(texts, max_size=2))), attempt=draw(st.integers(1, 4)),
    )  # fmt: skip


writers = st.builds(
    why.RowWriter, st.integers(0, 6), texts, texts, rows.map(lambda row: row or ""), st.none() | texts, rows, rows,
    st.none() | texts, st.none() | texts, st.none() | texts, numbers, st.booleans(),
)  # fmt: skip

steps = st.builds(
    OriginStep, st.none() | texts, st.none() | texts, st.none() | st.integers(0, 6), st.none() | writers,
    st.none() | texts, st.none() | st.integers(0, 6),
)  # fmt: skip
origins = st.builds(
    Origin, writers, st.lists(steps, min_size=1, max_size=3).map(tuple), texts, st.booleans()
)


@st.composite
def all_evidence(draw: st.DrawFn) -> Evidence:
    """Any execution with anything looked up."""
    counts = st.none() | st.builds(why.Count, texts, numbers, numbers)
    return Evidence(
        draw(records()), draw(counts), draw(counts),
        tuple(draw(st.lists(st.builds(why.OtherFailure, texts, numbers, texts), max_size=3))),
        tuple(draw(st.lists(records(), max_size=4))), tuple(draw(st.lists(writers, max_size=4))),
        retried_as=draw(st.none() | texts), job_state=draw(st.none() | texts),
        unavailable=tuple(draw(st.lists(texts, max_size=2))), origins=tuple(draw(st.lists(origins, max_size=2))),
    )  # fmt: skip


def places_on_record(execution: Execution) -> set[str]:
    """Every line that the record names, gathered without the code under test."""
    places = {call.request.position for call in execution.calls} | {line.position for line in execution.logs}
    found = {f"{place.file}:{place.line}" for place in places if place is not None}
    if isinstance(execution.outcome, Raised):
        found |= {f"{frame.file}:{frame.line}" for frame in execution.outcome.frames}
    if isinstance(execution.outcome, Killed):
        found |= set(FILE_AND_LINE.findall(execution.outcome.detail))
    return found


def check(evidence: Evidence) -> None:
    """Raise AssertionError when the explanation says what the record does not."""
    execution = evidence.execution
    explained = why.explain(evidence)
    assert explained.verdict_text and len(explained.verdict_text) <= 2
    said = [*explained.verdict_text, *(fact.text for fact in explained.facts)]
    for line in said:
        assert line == sanitize(line) and len(line) < 2_000
    for step in explained.next:
        assert step == sanitize(step) and len(step) < 400
    allowed = places_on_record(execution)
    assert set(FILE_AND_LINE.findall("\n".join(said))) <= allowed
    assert {fact.call for fact in explained.facts} - {None} <= (
        {call.request.seq for call in execution.calls}
        | {mutation.call for mutation in execution.mutations}
        | {writer.call for writer in evidence.row_writers}
        | {origin.met.call for origin in evidence.origins}
    )
    failure = explained.failure
    assert failure == find_failure(execution)
    if failure is None:
        assert execution.status < 500 and explained.verdict_text[0].startswith("no failure: ")
    else:
        assert failure.kind in Kind
        place = failure.location
        assert place is None or f"{place.file}:{place.line}" in allowed
        assert failure.call is None or failure.call in {call.request.seq for call in execution.calls}
    assert all(host == sanitize(host) for host in list_failed_hosts(execution))


@settings(max_examples=120 * TIMES, deadline=None)
@given(all_evidence())
def test_any_record_is_explained_and_nothing_in_the_explanation_is_invented(evidence: Evidence) -> None:
    check(evidence)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from((*FAILING, *ANSWERS)), st.data())
def test_a_record_that_was_cut_is_explained_from_what_is_left(told: Any, data: st.DataObject) -> None:
    whole = told.execution
    kept = data.draw(st.integers(0, len(whole.calls)))
    calls = whole.calls[:kept]
    if calls and data.draw(st.booleans()):  # the answer of the last one never came
        calls = (*calls[:-1], attrs.evolve(calls[-1], result=None))
    outcome = whole.outcome
    if isinstance(outcome, Raised) and data.draw(st.booleans()):
        outcome = attrs.evolve(outcome, frames=outcome.frames[: data.draw(st.integers(0, 2))])
    check(Evidence(attrs.evolve(whole, calls=calls, outcome=outcome), **told.evidence))
