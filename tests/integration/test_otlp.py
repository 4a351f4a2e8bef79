"""Sending spans: a collector that fails costs nothing but what is counted as lost."""

import json
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import pytest
import trio

from flux.execution import Execution, Level, LogLine, Raised, Returned, Trigger
from flux.hostcall import HostCall, HostCallRequest, HostCallResult, Position
from flux.supervisor import otlp
from flux.supervisor.metrics import Metric
from flux.supervisor.otlp import CollectorHeadersError, Exporter, read_headers
from flux.supervisor.spans import list_spans
from tests.stub_http import Behave, Peer, Stub, always_ok, serving

EXECUTION = Execution(
    id=uuid.UUID(int=1), tenant="main", function="order", deployment="d1", sha="3f9c1e2", dirty=False,
    trigger=Trigger(kind="http", method="GET", path="/\ud800", route="/{x}"), started_at_ns=1, seed=b"",
    level=Level("process", "strict", "vdso"), outcome=Returned(200), elapsed_ns=5,
)  # fmt: skip


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test is about how long a server waits at its end, and a busy machine encodes slowly."""
    monkeypatch.setattr(otlp, "FINISH_S", 300.0)
    monkeypatch.setattr(otlp, "SEND_S", 300.0)


def says(*statuses: int) -> Behave:
    """Answer with these statuses, one after the other, and then as all is well."""
    left = list(statuses)

    async def behave(peer: Peer) -> None:
        while True:
            await peer.read()
            status = left.pop(0) if left else 200
            await peer.write(b"HTTP/1.1 %d Said\r\nretry-after: 0\r\ncontent-length: 2\r\n\r\n{}" % status)

    return behave


def counted(metrics: Sequence[Metric]) -> dict[str, float]:
    return {
        sample.labels.get("reason", metric.name): sample.value for metric in metrics for sample in metric.samples
    }


async def export(
    behave: Behave, offer: Callable[[Exporter], None], **options: int
) -> tuple[dict[str, float], Stub, list[str]]:
    told: list[str] = []
    async with serving(behave) as stub, trio.open_nursery() as nursery:
        exporter = Exporter(
            stub.url(""), "shop", told.append, crashed, headers={"x-key": "k"}, pause_s=0.001, **options
        )  # fmt: skip
        nursery.start_soon(exporter.run)
        offer(exporter)
        await exporter.finish()
        nursery.cancel_scope.cancel()
    return counted(exporter.read()), stub, told


def crashed(error: BaseException) -> None:
    raise error


async def test_what_can_be_taken_later_is_sent_again_and_is_the_same() -> None:
    counts, stub, told = await export(says(503, 429), lambda exporter: exporter.done(EXECUTION, stored=True))
    assert (counts["otlp_spans_sent_total"], counts["otlp_executions_waiting"], len(told)) == (1, 0, 1)
    first, second, third = stub.received
    assert first.body == second.body == third.body and first.all("x-key") == ["k"]
    resource = json.loads(first.body)["resourceSpans"][0]
    assert {"key": "service.name", "value": {"stringValue": "shop"}} in resource["resource"]["attributes"]
    assert resource["scopeSpans"][0]["spans"][0]["name"] == "GET /{x}"


@pytest.mark.parametrize(("statuses", "reason", "asked"), [((400,), "refused", 1), ((503,) * 6, "unreachable", 6)])
async def test_what_is_lost_is_counted_by_why_and_told_once(statuses: tuple[int, ...], reason: str, asked: int) -> None:
    counts, stub, told = await export(says(*statuses), lambda exporter: exporter.done(EXECUTION, stored=True))
    assert (counts[reason], counts["otlp_spans_sent_total"], len(stub.received), len(told)) == (1, 0, asked, 1)


async def test_only_what_is_stored_is_sent_and_what_is_too_much_is_dropped() -> None:
    def offer(exporter: Exporter) -> None:
        for number in range(1, 5):
            exporter.done(attrs.evolve(EXECUTION, id=uuid.UUID(int=number)), stored=False)
        assert counted(exporter.read())["queue_full"] == 1
        for number in range(1, 4):
            exporter.stored(uuid.UUID(int=number))

    counts, stub, told = await export(always_ok, offer, executions_max=3)
    assert (counts["otlp_spans_sent_total"], counts["queue_full"], told) == (3, 1, [])
    assert len(stub.received) == 1


def test_headers_are_read_as_opentelemetry_has_them() -> None:
    said = {"OTEL_EXPORTER_OTLP_HEADERS": "Authorization=Bearer%20a%3Db, x-tenant=shop"}
    assert read_headers(said) == {"authorization": "Bearer a=b", "x-tenant": "shop"}
    assert read_headers({}) == {}


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ("x-tenant=shop,s3cret", "pair 2 is not name=value"),
        ("a b=s3cret", "pair 1 is not name=value"),
        ("a=s3cret%0d%0ab: c", "pair 1 has a value"),
        ("a=s3cret\u00e9", "pair 1 has a value"),
        ("Content-Length=s3cret", "pair 1 names a field that Flux sets itself"),
    ],
)
def test_headers_that_can_not_be_sent_are_refused_at_the_start_and_not_shown(said: str, problem: str) -> None:
    with pytest.raises(CollectorHeadersError, match=problem) as caught:
        read_headers({"OTEL_EXPORTER_OTLP_HEADERS": said})
    assert "s3cret" not in str(caught.value)


async def test_a_mistake_in_sending_is_told_and_counted_and_the_next_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    mistakes: list[BaseException] = []
    def list_spans_badly(execution: Execution) -> Any:
        if not mistakes:
            raise ValueError("as httpcore does for a port of 99999")
        return list_spans(execution)

    monkeypatch.setattr(otlp, "list_spans", list_spans_badly)
    async with serving(always_ok) as stub, trio.open_nursery() as nursery:
        exporter = Exporter(stub.url(""), "shop", print, mistakes.append)
        nursery.start_soon(exporter.run)
        exporter.done(EXECUTION, stored=True)
        await exporter.finish()
        exporter.done(EXECUTION, stored=True)
        await exporter.finish()
        nursery.cancel_scope.cancel()
    counts = counted(exporter.read())
    assert (counts["failed"], counts["otlp_spans_sent_total"], counts["otlp_executions_waiting"]) == (1, 1, 0)
    assert [type(error) for error in mistakes] == [ValueError]


def test_what_waits_holds_nothing_that_no_span_tells() -> None:
    line = LogLine(0, "info", "x" * 100_000)
    large = attrs.evolve(
        EXECUTION, trigger=attrs.evolve(EXECUTION.trigger, body=b"x" * 100_000), logs=(line,),
        outcome=Returned(200, (), b"x" * 100_000),
    )  # fmt: skip
    failed = attrs.evolve(EXECUTION, outcome=Returned(500, (), b'{"error": "%b"}' % (b"x" * 3000)))
    exporter = Exporter("http://collector", "shop", print, print, executions_max=10, bytes_max=12_000)
    for execution in (large, failed, large, failed, failed):
        exporter.done(execution, stored=True)
    # The last one does not fit: the body of a failure is told, and so it is counted.
    assert counted(exporter.read())["otlp_executions_waiting"] == 4
    assert all(len(kept.trigger.body) + len(kept.logs) == 0 for kept in exporter._ready)
    assert [list_spans(kept) for kept in exporter._ready] == [list_spans(one) for one in (large, failed, large, failed)]


async def test_a_request_has_no_more_than_a_collector_takes_unless_one_execution_has() -> None:
    def offer(exporter: Exporter) -> None:
        # Two fit together, each of the large ones goes alone.
        for number, size in enumerate((1_900_000, 1_900_000, 3_000_000, 9_000_000, 10)):
            headers = (("x-long", "h" * size),)
            trigger = attrs.evolve(EXECUTION.trigger, headers=headers)
            exporter.done(attrs.evolve(EXECUTION, id=uuid.UUID(int=number + 1), trigger=trigger), stored=True)

    counts, stub, told = await export(always_ok, offer)
    assert (counts["otlp_spans_sent_total"], told) == (5, [])
    sent = [json.loads(each.body) for each in stub.received]
    assert [len(each["resourceSpans"][0]["scopeSpans"][0]["spans"]) for each in sent] == [2, 1, 1, 1]


async def test_many_small_calls_weigh_what_their_spans_take() -> None:
    where = Position("functions/orders.py", 120, "create_order.<locals>.handler")
    asked = [HostCallRequest(seq, "db.query", b'["select 1",[]]', position=where) for seq in range(1, 1001)]
    calls = tuple(HostCall(request, HostCallResult(b"[]", None, 10**6), 10**9) for request in asked)
    count = 16

    def offer(exporter: Exporter) -> None:
        for number in range(1, count + 1):
            execution = attrs.evolve(EXECUTION, id=uuid.UUID(int=number), calls=calls, started_at_ns=1764163 * 10**12)
            exporter.done(execution, stored=True)

    counts, stub, told = await export(always_ok, offer)
    assert (counts["otlp_spans_sent_total"], told) == (count * 1001, [])
    assert len(stub.received) > 1
    assert max(len(each.body) for each in stub.received) <= otlp.BATCH_BYTES_MAX


async def test_what_is_left_of_a_batch_is_sent_without_another_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    all_sent, left = trio.Event(), [3]

    async def behave(peer: Peer) -> None:
        while True:
            await peer.read()
            monkeypatch.setattr(otlp, "GATHER_S", 3600.0)
            await peer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
            left[0] -= 1
            if not left[0]:
                all_sent.set()

    monkeypatch.setattr(otlp, "GATHER_S", 0.001)
    async with serving(behave) as stub, trio.open_nursery() as nursery:
        exporter = Exporter(stub.url(""), "shop", print, crashed)
        for number in range(2 * otlp.BATCH_MAX + 1):
            exporter.done(attrs.evolve(EXECUTION, id=uuid.UUID(int=number + 1)), stored=True)
        nursery.start_soon(exporter.run)
        with trio.fail_after(120):
            await all_sent.wait()
        nursery.cancel_scope.cancel()


def test_a_commit_whose_end_nobody_knows_is_told_as_an_error() -> None:
    unknown = Raised("CommitUnknown", "the connection broke during COMMIT", status=503, code="OVERLOADED")
    root, *_ = list_spans(attrs.evolve(EXECUTION, outcome=unknown))
    assert root["status"] == {"code": 2, "message": "CommitUnknown: the connection broke during COMMIT"}
