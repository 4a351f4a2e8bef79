"""Sending spans: a collector that fails costs nothing but what is counted as lost."""

import json
import uuid
from collections.abc import Callable, Sequence

import attrs
import pytest
import trio

from flux.execution import Execution, Level, Returned, Trigger
from flux.supervisor.metrics import Metric
from flux.supervisor.otlp import Exporter, read_headers
from tests.stub_http import Behave, Peer, Stub, always_ok, serving

EXECUTION = Execution(
    id=uuid.UUID(int=1), tenant="main", function="order", deployment="d1", sha="3f9c1e2", dirty=False,
    trigger=Trigger(kind="http", method="GET", path="/\ud800", route="/{x}"), started_at_ns=1, seed=b"",
    level=Level("process", "strict", "vdso"), outcome=Returned(200), elapsed_ns=5,
)  # fmt: skip


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
        exporter = Exporter(stub.url(""), "shop", told.append, headers={"x-key": "k"}, pause_s=0.001, **options)
        nursery.start_soon(exporter.run)
        offer(exporter)
        await exporter.finish()
        nursery.cancel_scope.cancel()
    return counted(exporter.read()), stub, told


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
