"""Nouns as documents: the contract's names, exact values, and a form for whatever hostile thing was recorded."""

import base64
import json
import uuid
from typing import Any
from uuid import UUID

import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    Returned,
    Transaction,
    Trigger,
)
from flux.hostcall import HostCall, HostCallError, HostCallRequest, HostCallResult, Position
from flux.mutation import Mutation, Operation
from flux.supervisor import present
from flux.supervisor.spans import list_spans
from flux.trace_context import make_span_id

START_NS = 1_764_079_339_504_000_123
PLACE = Position("functions/signup.py", 16, "create_user")


def call(seq: int, name: str, arguments: bytes, result: bytes | HostCallError | None) -> HostCall:
    answer = None
    if isinstance(result, HostCallError):
        answer = HostCallResult(error=result, elapsed_ns=3_000_000)
    elif result is not None:
        answer = HostCallResult(result, elapsed_ns=3_000_000)
    request = HostCallRequest(seq, name, arguments, 0, PLACE)
    return HostCall(request, answer, 2_000_000 * seq, seq if answer is not None else None)


def execution(**changes: Any) -> Execution:
    whole = Execution(
        id=uuid.UUID("019abf00-0000-7000-8000-000000000001"), tenant="main", function="create_user",
        deployment="d1", sha="3f9c1e2d", dirty=False,
        trigger=Trigger(
            "http", "POST", "/signup", "/signup", (("id", "7"),), (("a", "1"), ("a", "2"), ("b", "3")),
            (("content-type", "application/json"), ("x", "y")), b'{"email": "a@b.com", "price": 1.10}',
        ),
        started_at_ns=START_NS, seed=bytes(32), level=Level("process", "core", "python"),
        limits=(LimitInForce("timeout", "10s", "flux.toml:12"),), outcome=Returned(201, (), b""),
        elapsed_ns=14_200_000,
    )  # fmt: skip
    return attrs.evolve(whole, **changes)


def trace(subject: Execution) -> dict[str, Any]:
    """What a reader of the console gets: encoded, and read by another JSON implementation."""
    summary = present.summary_of_execution(subject)
    document = present.trace_json(summary, subject, spans=list_spans(subject), children=[])
    data = present.encode(document)
    assert b"\n" not in data, "a document is one line"
    read = json.loads(data)
    assert isinstance(read, dict)
    return read


def test_a_trace_has_the_contracts_names() -> None:
    document = trace(execution())
    assert document.keys() >= {
        "schema", "id", "name", "trigger", "function", "method", "path", "status", "outcome", "error",
        "started_at", "elapsed_ms", "calls", "mutations", "sha", "dirty", "parent", "tenant", "completeness",
        "input", "output", "spans", "logs", "sandbox", "children",
    }  # fmt: skip
    assert document["schema"] == "flux.trace/1"
    assert document["sandbox"] == {"kind": "process", "isolation": "core", "clock": "python", "served_before": None}
    assert document["started_at"] == "2025-11-25T14:02:19.504000Z"
    assert document["elapsed_ms"] == 14.2
    assert document["completeness"] == "whole"
    assert document["limits"] == [{"name": "timeout", "value": "10s", "origin": "flux.toml:12"}]


def test_the_input_is_the_request_and_no_number_in_it_loses_a_digit() -> None:
    subject = execution()
    assert trace(subject)["input"] == {
        "method": "POST", "path": "/signup", "params": {"id": "7"}, "query": {"a": ["1", "2"], "b": "3"},
        "headers": {"content-type": "application/json", "x": "y"}, "client": None, "auth": None,
        "body": {"email": "a@b.com", "price": 1.10}, "body_format": "json",
    }  # fmt: skip
    summary = present.summary_of_execution(subject)
    text = present.encode(present.trace_json(summary, subject, spans=[], children=[]))
    assert b'"price": 1.10}' in text


@pytest.mark.parametrize(
    ("body", "kind", "shown", "form"),
    [
        (b"", "application/json", None, "empty"),
        (b'{"a": 1}', "application/x-www-form-urlencoded", {"a": 1}, "json"),
        (b"[1]", "", [1], "json"),
        (b"12", "application/json", 12, "json"),
        (b"12", "text/plain", "12", "text"),
        (b'"12"', "application/json", "12", "json"),
        (b"{broken", "application/json", "{broken", "text"),
        (b'{"a": NaN}', "application/json", '{"a": NaN}', "text"),
        (b"\xff\x00", "image/png", {"$bytes": "/wA="}, "bytes"),
        ('{"ä": "\\ud800"}'.encode(), "application/json", '{"ä": "\\ud800"}', "text"),
        (b'{\n "a":\r\n 12345678901234567890123\n}', "", {"a": 12345678901234567890123}, "json"),
        (b"[" * 100_000 + b"]" * 100_000, "application/json", "[" * 100_000 + "]" * 100_000, "text"),
        (b"[" * 250 + b"]" * 250, "application/json", "[" * 250 + "]" * 250, "text"),
    ],
)
def test_a_body_is_shown_as_what_it_is(body: bytes, kind: str, shown: object, form: str) -> None:
    subject = execution(outcome=Returned(200, (("content-type", kind),), body))
    output = trace(subject)["output"]
    assert (output["body"], output["body_format"]) == (shown, form)


def test_the_input_of_an_invoke_is_its_data() -> None:
    subject = execution(trigger=Trigger("invoke", body=b'{"user":1.50}'))
    assert trace(subject)["input"] == {"user": 1.5}
    assert trace(execution(trigger=Trigger("cron")))["input"] is None


@pytest.mark.parametrize(
    ("name", "arguments", "shown"),
    [
        ("db.query", b'["select $1",[{"$uuid":"x"}]]', {"sql": "select $1", "args": [{"$uuid": "x"}]}),
        ("db.execute", b'["delete from t",[]]', {"sql": "delete from t", "args": []}),
        ("db.begin", b"[null]", {"isolation": None}),
        ("db.commit", b"[1]", [1]),
        ("clock.now", b"[]", []),
        (
            "http.request",
            b'["POST","https://x.test/",{"body":{"$bytes":"/w=="},"headers":[["a","b"]],"redirects":2}]',
            {
                "method": "POST", "url": "https://x.test/", "headers": [["a", "b"]],
                "body": {"$bytes": "/w=="}, "timeout_s": None, "redirects": 2,
            },
        ),
        # A guest may send anything: it was refused then, and is shown as it came.
        ("db.query", b'["select"]', ["select"]),
        ("db.query", b'{"sql":1}', {"sql": 1}),
        ("http.request", b'["GET","x"]', ["GET", "x"]),
        ("http.request", b'["GET","x",[]]', ["GET", "x", []]),
        ("db.query", b"no json", "no json"),
        ("db.query", b"\xff", {"$bytes": "/w=="}),
    ],
)  # fmt: skip
def test_arguments_have_names_where_there_are_names(name: str, arguments: bytes, shown: object) -> None:
    subject = execution(calls=(call(1, name, arguments, b"null"),))
    assert trace(subject)["calls"][0]["arguments"] == shown


def test_a_call_has_its_times_its_place_and_its_answer() -> None:
    value = b'{"columns":["n"],"rows":[[{"$decimal":"1.10"}]],"tag":"SELECT 1","types":["numeric"]}'
    subject = execution(calls=(call(2, "db.query", b'["select",[]]', value),))
    assert trace(subject)["calls"] == [
        {
            "seq": 2, "task": 0, "kind": "db.query", "arguments": {"sql": "select", "args": []},
            "result": json.loads(value), "error": None, "answered": 2, "started_ms": 4.0, "elapsed_ms": 3.0,
            "location": {"file": "functions/signup.py", "line": 16, "function": "create_user"},
        }
    ]  # fmt: skip


def test_a_failed_call_has_its_error_and_an_unanswered_one_lasts_to_the_end() -> None:
    error = HostCallError("HttpTimeout", "no answer", "FLX409", b'{"host":"x.test"}')
    subject = execution(
        calls=(call(1, "http.request", b'["GET","x",{}]', error), call(2, "clock.now", b"[]", None)),
    )
    failed, unanswered = trace(subject)["calls"]
    assert failed["result"] is None
    assert failed["error"] == {
        "type": "HttpTimeout", "message": "no answer", "code": "FLX409", "details": {"host": "x.test"},
    }  # fmt: skip
    assert (unanswered["result"], unanswered["error"], unanswered["answered"]) == (None, None, None)
    assert unanswered["started_ms"] + unanswered["elapsed_ms"] == pytest.approx(14.2)


FRAMES = (Frame("functions/signup.py", 16, "create_user", True, "amount(plan)"),)


@pytest.mark.parametrize(
    ("outcome", "status", "output"),
    [
        (Raised("KeyError", "'plan'", FRAMES), 500, {
            "status": 500, "code": "FUNCTION_ERROR",
            "raised": {"type": "KeyError", "message": "'plan'", "cause": None}, "violations": [],
        }),
        (Killed("timeout", "10s", "flux.toml:12"), 504, {
            "status": 504,
            "killed": {"limit": "timeout", "allowed": "10s", "origin": "flux.toml:12", "detail": ""},
        }),
        (Exited(None, 11, "boom"), 500, {
            "status": 500, "exited": {"exit_code": None, "signal": 11, "detail": "boom"},
        }),
        (Interrupted("the supervisor ended"), None, None),
    ],
)  # fmt: skip
def test_each_outcome_has_its_output(outcome: Outcome, status: int | None, output: object) -> None:
    document = trace(execution(outcome=outcome))
    assert document["output"] == output
    assert document["status"] == status
    assert document["outcome"] == outcome.kind
    assert document["error"]["message"]


def test_an_error_names_its_place_and_the_stack_its_lines() -> None:
    document = trace(execution(outcome=Raised("KeyError", "'plan'", FRAMES)))
    assert document["error"] == {
        "type": "KeyError", "message": "'plan'",
        "location": {"file": "functions/signup.py", "line": 16, "function": "create_user"},
    }  # fmt: skip
    assert document["stack"] == [
        {
            "file": "functions/signup.py",
            "line": 16,
            "function": "create_user",
            "user": True,
            "source": "amount(plan)",
        }
    ]


def test_a_row_keeps_the_databases_own_json() -> None:
    mutation = Mutation(
        "public", "users", '{"id":42}', Operation.UPDATE, '{"id":42,"n":-0,"price":1.10}',
        '{"id":42,"n":9007199254740993,"price":null}', False, 771, 3, 1, 2, START_NS,
    )  # fmt: skip
    data = present.encode(present.mutation_json(mutation))
    assert b'{"id":42,"n":-0,"price":1.10}' in data
    document = json.loads(data)
    assert document["after"]["n"] == 9007199254740993
    del document["before"], document["after"]
    assert document == {
        "schema_name": "public", "table": "users", "key": {"id": 42}, "op": "update", "committed": False,
        "call": 2, "depth": 1, "xid": 771, "at": "2025-11-25T14:02:19.504000Z",
    }  # fmt: skip


def test_logs_have_their_time_and_number() -> None:
    subject = execution(
        logs=(LogLine(1_000_000, "info", "hi", b'{"user":42}', PLACE), LogLine(2_000_000, "stderr", "x"))
    )
    first, second = trace(subject)["logs"]
    assert first == {
        "schema": "flux.log/1", "line": 1, "at": "2025-11-25T14:02:19.505000Z", "level": "info", "message": "hi",
        "fields": {"user": 42},
        "location": {"file": "functions/signup.py", "line": 16, "function": "create_user"},
        "execution": subject.name, "function": "create_user",
    }  # fmt: skip
    assert (second["line"], second["fields"], second["location"]) == (2, {}, None)


def test_spans_follow_from_the_execution_and_have_opentelemetrys_names() -> None:
    subject = execution(
        calls=(
            call(1, "db.query", b'["select 1",[]]', b"{}"),
            call(2, "http.request", b'["GET","https://x.test/",{}]', HostCallError("HttpTimeout", "late")),
        ),
        outcome=Raised("KeyError", "'plan'", FRAMES),
        trigger=attrs.evolve(
            execution().trigger,
            correlation=(("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),),
        ),
    )
    root, first, second = trace(subject)["spans"]
    assert trace(subject)["spans"][0]["spanId"] == root["spanId"], "asking twice gives the same"
    assert root["traceId"] == first["traceId"] == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert root["parentSpanId"] == "00f067aa0ba902b7", "it goes on with its caller's trace"
    assert first["parentSpanId"] == second["parentSpanId"] == root["spanId"]
    assert len({root["spanId"], first["spanId"], second["spanId"]}) == 3
    assert (root["name"], root["status"]) == ("POST /signup", {"code": 2, "message": "KeyError: 'plan'"})
    assert root["links"] == []
    again = list_spans(attrs.evolve(subject, attempt=2, parent=UUID(int=7)))[0]
    assert again["links"] == [{"traceId": root["traceId"], "spanId": make_span_id(UUID(int=7), 0)}]
    replayed = list_spans(attrs.evolve(subject, id=UUID(int=8), replay_of=subject.id))[0]
    assert (replayed["traceId"], replayed["parentSpanId"]) == (UUID(int=8).hex, ""), "a replay is nobody's span"
    assert replayed["links"] == [{"traceId": root["traceId"], "spanId": root["spanId"]}]
    silent = attrs.evolve(subject, parent=UUID(int=9), trigger=Trigger(kind="queue", call=3))
    linked = list_spans(silent)[0]
    assert (linked["traceId"], linked["parentSpanId"]) == (subject.id.hex, "")
    assert linked["links"] == [{"traceId": UUID(int=9).hex, "spanId": make_span_id(UUID(int=9), 3)}], "older records"
    assert (int(root["startTimeUnixNano"]), int(root["endTimeUnixNano"])) == (START_NS, START_NS + 14_200_000)
    assert int(first["startTimeUnixNano"]) == START_NS + 2_000_000
    assert {"key": "db.query.text", "value": {"stringValue": "select 1"}} in first["attributes"]
    assert {"key": "code.line.number", "value": {"intValue": "16"}} in first["attributes"]
    assert second["status"] == {"code": 2, "message": "HttpTimeout: late"}


hostile_text = st.one_of(
    st.text(st.characters(), max_size=20),  # Surrogates and NUL included.
    st.sampled_from(["\ud800", "\x00", "\x1b]0;x\x07", "\u202e", '"', "\\", "\n", "</script>", "$bytes", ""]),
)
hostile_bytes = st.one_of(
    st.binary(max_size=30),
    st.sampled_from([b"{", b'"\\ud800"', b"[1e999]", b"NaN", b'{"$bytes":1}', b"[" * 5000, b"\xed\xa0\x80", b"-"]),
    st.builds(
        lambda value: json.dumps(value).encode(), st.recursive(hostile_text | st.integers(), st.lists)
    ),
)
positions = st.none() | st.builds(Position, hostile_text, st.integers(0, 2**31), hostile_text)


@given(hostile_text, hostile_bytes, positions, st.integers(-(2**70), 2**70))
def test_whatever_was_recorded_the_documents_can_be_read(
    text: str, data: bytes, place: Position | None, number: int
) -> None:
    request = HostCallRequest(1, text, data, 0, place)
    calls = tuple(
        HostCall(attrs.evolve(request, name=name), result, 0)
        for name in (text, "db.query", "http.request", "db.begin")
        for result in (None, HostCallResult(data), HostCallResult(error=HostCallError(text, text, text, data)))
    )
    outcomes: list[Outcome] = [
        Returned(200, ((text, text), (text, text)), data),
        Raised(text, text, (Frame(text, 1, text, True, text),), 400, text, data, None, text),
        Killed(text, text, text, text),
        Exited(number, None, text),
        Interrupted(text),
    ]
    for outcome in outcomes:
        subject = execution(
            function=text, sha=text, tenant=text, calls=calls, outcome=outcome, completeness=(text,),
            trigger=Trigger("http", text, text, text, ((text, text),), ((text, text),), ((text, text),), data),
            mutations=(Mutation(text, text, text, Operation.INSERT, None, text, True, 1),),
            logs=(LogLine(0, text, text, data, place),),
            transactions=(Transaction(text, text, None, True, 1),),
            limits=(LimitInForce(text, text, text),),
        )  # fmt: skip
        document = trace(subject)
        # A strict reader takes it as well: no half characters, no NaN.
        summary = present.summary_of_execution(subject)
        whole = present.trace_json(summary, subject, spans=list_spans(subject), children=[])
        assert msgspec.json.decode(present.encode(whole)) is not None
        assert document["calls"][0]["seq"] == 1


@given(st.binary(max_size=200))
def test_bytes_are_shown_so_that_they_can_be_had_back(data: bytes) -> None:
    shown = present.show_text(data)
    assert (shown.encode() if isinstance(shown, str) else base64.b64decode(shown["$bytes"])) == data
