"""What programs that watch are told by a server: traces go through it, from its clients to those it asks."""

import json
import re
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests import documents
from tests.conftest import Database
from tests.dev_process import DevServer, counting_stub, running_dev, write_project

METRICS = Path(__file__).parents[2] / "docs" / "metrics.md"
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
FUNCTIONS = """
from flux_guest import function


@function("POST /orders/{id}")
async def order(ctx, input):
    job = await ctx.queue.push("mail", {"url": input["url"]})
    await ctx.queue.push("mail", {}, delay=3600)
    await ctx.http.post(input["url"] + "/pay", json={})
    await ctx.http.get(input["url"] + "/own", headers={"traceparent": "mine"})
    await ctx.invoke("stock", {"url": input["url"]})
    return {"job": job}


@function()
async def stock(ctx, input):
    return (await ctx.http.get(input["url"] + "/stock")).json()


@function()
def mail(ctx, input):
    return ctx.http.get(input["url"] + "/mail").json()
"""
TOML = """
[recording]
self_check_s = 0
[http]
allow = ["127.0.0.1:PORT"]
[telemetry]
otlp = "OTLP"
"""


def test_what_one_request_causes_is_one_trace(tmp_path: Path, database: Database) -> None:
    with counting_stub() as stub, counting_stub() as collector:
        toml = TOML.replace("PORT", str(stub.port)).replace("OTLP", collector.url(""))
        project = write_project(tmp_path, {"shop.py": FUNCTIONS}, toml=toml)
        with running_dev(project, database, "--log-format", "json", "--log-requests") as server:
            sent = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "rojo=1"}
            answer = server.request("POST", "/orders/7", {"url": stub.url("")}, sent)
            assert answer.status == 200, answer.body
            traces = wait_for_traces(server, {"order", "stock", "mail"})
            told = {seen.path: dict(seen.headers) for seen in stub.seen}
            check_metrics(server.request("GET", "/_flux/metrics").body.decode())
            replayed = server.json("replay", answer.flux_id)
            assert (replayed["verdict"], len(stub.seen)) == ("identical", 4)

    check_lines(server.story, {trace["name"] for trace in traces.values()})
    got = [
        span
        for seen in collector.seen
        for resource in json.loads(seen.body)["resourceSpans"]
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    ]
    on_record = [span for trace in traces.values() for span in trace["spans"]]
    assert {seen.path for seen in collector.seen} == {"/v1/traces"}
    assert sorted(got, key=str) == sorted(on_record, key=str), "each span once, and nothing that is not on record"
    assert told["/own"]["traceparent"] == "mine"
    spans = {name: trace["spans"] for name, trace in traces.items()}
    assert {span["traceId"] for some in spans.values() for span in some} == {TRACE}
    assert spans["order"][0]["parentSpanId"] == SPAN
    for path, function, call in (("/pay", "order", "http.request"), ("/stock", "stock", "http.request"),
                                 ("/mail", "mail", "http.request")):  # fmt: skip
        assert told[path]["traceparent"] == f"00-{TRACE}-{span_of(spans[function], call)}-01"
        assert told[path]["tracestate"] == "rojo=1"
    assert spans["stock"][0]["parentSpanId"] == span_of(spans["order"], "invoke")
    assert spans["mail"][0]["parentSpanId"] == span_of(spans["order"], "queue.push")


def check_lines(lines: list[str], names: set[str]) -> None:
    """Each line of the log is a JSON object, and those of executions are the executions that are on record."""
    documents.check_log(lines)
    said = [json.loads(line) for line in lines]
    assert [one for one in said if one["level"] == "error" or "collector" in one["message"]] == []
    events = [one["event"] for one in said]
    assert [event for event in events if event not in ("step", "note", "execution")] == ["begin", "ready", "stopping"]
    executions = [one for one in said if one["event"] == "execution"]
    assert {one["name"] for one in executions} == names and len(executions) == len(names)
    order = next(one for one in executions if one["function"] == "order")
    assert (order["path"], order["route"], order["status"], order["calls"]) == ("/orders/7", "/orders/{id}", 200, 5)
    mail = next(one for one in executions if one["function"] == "mail")
    assert (mail["trigger"], mail["parent"]) == ("queue", order["id"])


def check_metrics(text: str) -> None:
    """Read as Prometheus does: what is exported is what is described, and says what has just happened."""
    described = {
        match[1]: (match[2], set(re.findall(r"`(\w+)`", match[3])))
        for match in re.finditer(r"^\| `(flux_\w+)` \| (\w+) \| (.*?) \|", METRICS.read_text(), re.MULTILINE)
    }
    families = list(text_string_to_metric_families(text))
    exported = {one.name + "_total" * (one.type == "counter"): one for one in families}
    assert exported.keys() == described.keys()
    for name, family in exported.items():
        kind, labels = described[name]
        assert family.type == kind
        assert all(sample.labels.keys() - {"le"} == labels for sample in family.samples), name
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value for one in families for sample in one.samples
    }
    assert samples["flux_database_up",] == 1
    asked = (("function", "order"), ("outcome", "returned"), ("route", "/orders/{id}"), ("trigger", "http"))
    assert samples["flux_execution_duration_seconds_count", *asked] == 1, "the route, and not the path"
    assert samples["flux_execution_duration_seconds_bucket", asked[0], ("le", "+Inf"), *asked[1:]] == 1
    assert 0 < samples["flux_execution_duration_seconds_sum", *asked] < 600
    assert samples["flux_queue_attempts_total", ("function", "mail"), ("outcome", "returned")] == 1
    delayed = (("function", "mail"), ("state", "delayed"))
    assert samples["flux_queue_jobs", *delayed] == 1
    assert samples["flux_worker_forks_total",] >= 3
    assert samples["flux_zygotes",] == samples["flux_zygote_starts_total",] == 1


def wait_for_traces(server: DevServer, functions: set[str]) -> dict[str, Any]:
    """Wait until each of these functions has been run, and return what is on record, by its name."""
    while True:
        found = {one["function"]: one["name"] for one in server.json("trace", "list")["executions"]}
        if found.keys() >= functions:
            return {function: server.json("trace", name) for function, name in found.items()}


def span_of(spans: list[Any], name: str) -> str:
    """Return the id of the first span of this name."""
    return next(str(span["spanId"]) for span in spans if span["name"] == name)
