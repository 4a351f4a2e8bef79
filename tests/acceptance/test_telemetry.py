"""What programs that watch are told by a server: traces go through it, from its clients to those it asks."""

from pathlib import Path
from typing import Any

from tests.conftest import Database
from tests.dev_process import DevServer, counting_stub, running_dev, write_project

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
FUNCTIONS = """
from flux_guest import function


@function("POST /orders/{id}")
async def order(ctx, input):
    job = await ctx.queue.push("mail", {"url": input["url"]})
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
"""


def test_what_one_request_causes_is_one_trace(tmp_path: Path, database: Database) -> None:
    with counting_stub() as stub:
        project = write_project(tmp_path, {"shop.py": FUNCTIONS}, toml=TOML.replace("PORT", str(stub.port)))
        with running_dev(project, database) as server:
            sent = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "rojo=1"}
            answer = server.request("POST", "/orders/7", {"url": stub.url("")}, sent)
            assert answer.status == 200, answer.body
            traces = wait_for_traces(server, {"order", "stock", "mail"})
            told = {seen.path: dict(seen.headers) for seen in stub.seen}
            replayed = server.json("replay", answer.flux_id)
            assert (replayed["verdict"], len(stub.seen)) == ("identical", 4)

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


def wait_for_traces(server: DevServer, functions: set[str]) -> dict[str, Any]:
    """Wait until each of these functions has been run, and return what is on record, by its name."""
    while True:
        found = {one["function"]: one["name"] for one in server.json("trace", "list")["executions"]}
        if found.keys() >= functions:
            return {function: server.json("trace", name) for function, name in found.items()}


def span_of(spans: list[Any], name: str) -> str:
    """Return the id of the first span of this name."""
    return next(str(span["spanId"]) for span in spans if span["name"] == name)
