"""``flux trace ID --json`` against what the stub and Postgres saw."""

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.conftest import Database
from tests.dev_process import CountingStub, DevServer, counting_stub, running_dev, write_project
from tests.postgres_server import PostgresServer

FUNCTIONS = '''\
import asyncio
from flux_guest import Context, function

STUB = "http://127.0.0.1:PORT"


@function("POST /everything/{id}")
async def everything(ctx: Context, input: dict) -> dict:
    row = await ctx.db.query_one(
        "insert into things (id, name, price, made, tags, extra, body) values ($1, $2, $3, $4, $5, $6, $7) returning *",
        int(input["id"]), input["name"], __import__("decimal").Decimal("12.50"), ctx.clock.now(), ["a", "b\\u00e9"],
        {"nested": [1, None, "\\u2603"]}, bytes(range(256)),
    )
    answers = await asyncio.gather(
        ctx.http.get(STUB + "/bytes/300"),
        ctx.http.post(STUB + "/status/503", json={"name": input["name"]}, headers={"x-test": "1"}),
        ctx.http.get(STUB + "/bytes/200000"),
    )
    await asyncio.sleep(0.02)
    rows = await ctx.db.query("select id, name from things where price > $1 order by id", 1)
    ctx.log.info("done", rows=len(rows))
    print("printed", input["name"])
    return {"id": row["id"], "statuses": [answer.status for answer in answers]}
'''
SCHEMA = """create table things (id int primary key, name text, price numeric(10, 2), made timestamptz, tags text[],
                                 extra jsonb, body bytea)"""
NAME = "Ünïcode \N{SNOWMAN} \x1b[31mred"


@pytest.fixture
def stub() -> Iterator[CountingStub]:
    with counting_stub() as stub:
        yield stub


@pytest.fixture
def dev(
    tmp_path: Path, stub: CountingStub, postgres: PostgresServer, make_database: Callable[[PostgresServer], Database]
) -> Iterator[tuple[DevServer, Database]]:
    project = write_project(
        tmp_path,
        {"f.py": FUNCTIONS.replace("PORT", str(stub.port))},
        toml=f'[http]\nallow = ["127.0.0.1:{stub.port}"]\n',
        migrations={"001.sql": SCHEMA},
    )
    database = make_database(postgres)
    with running_dev(project, database) as server:
        yield server, database


def test_a_trace_equals_what_the_stub_and_postgres_saw(dev: tuple[DevServer, Database], stub: CountingStub) -> None:
    server, database = dev
    answer = server.request("POST", "/everything/7?unused=1", {"name": NAME})
    assert answer.json == {"id": 7, "statuses": [200, 503, 200]}
    trace = server.json("trace", answer.flux_id)
    assert trace["schema"] == "flux.trace/1"
    calls = trace["calls"]

    # Outbound: as many as the stub counted, each with the method, path, body and answer that the stub knows.
    http = [call for call in calls if call["kind"] == "http.request"]
    assert len(http) == len(stub.seen) == 3
    for call in http:
        path = "/" + call["arguments"]["url"].split("/", 3)[3]
        (seen,) = (seen for seen in stub.seen if seen.path == path)
        assert call["arguments"]["method"] == seen.method
        sent = call["arguments"]["body"] or ""
        assert (sent.encode() if isinstance(sent, str) else base64.b64decode(sent["$bytes"])) == seen.body
        # When the stub saw it lies between question and answer, on the server's own clock.
        asked = datetime.fromisoformat(trace["started_at"]).timestamp() + call["started_ms"] / 1000
        assert asked - 0.05 <= seen.at <= asked + call["elapsed_ms"] / 1000 + 0.05
    bodies = {call["arguments"]["url"].rpartition("/")[2]: call["result"]["body"] for call in http}
    assert hashlib.sha256(base64.b64decode(bodies["300"]["$bytes"])).digest() == sha256_of(300)
    assert hashlib.sha256(base64.b64decode(bodies["200000"]["$bytes"])).digest() == sha256_of(200_000)
    assert json.loads(bodies["503"]) == {"error": "as asked"}
    assert {call["result"]["status"] for call in http} == {200, 503}

    # The database: rows as psql prints them.
    select = next(call for call in reversed(calls) if call["kind"] == "db.query")
    assert select["result"]["rows"] == [[7, NAME]]
    assert select["arguments"] == {"sql": "select id, name from things where price > $1 order by id", "args": [1]}
    inserted = calls[0]
    row = dict(zip(inserted["result"]["columns"], inserted["result"]["rows"][0], strict=True))
    expected = json.loads(database.psql(
        "select json_build_object('price', price::text, 'name', name, 'tags', tags, 'extra', extra, "
        "'body', encode(body, 'base64'), 'made', extract(epoch from made)) from things"
    ))  # fmt: skip
    assert row["price"] == {"$decimal": expected["price"]}
    assert row["name"] == expected["name"] == NAME
    assert row["tags"] == expected["tags"]
    assert row["extra"] == expected["extra"]
    assert base64.b64decode(row["body"]["$bytes"]) == base64.b64decode(expected["body"]) == bytes(range(256))
    made = datetime.fromisoformat(row["made"]["$datetime"]).timestamp()
    assert made == pytest.approx(float(expected["made"]), abs=1e-6)

    # The row change, from the log, is what psql has.
    (mutation,) = trace["mutations"]
    assert (mutation["table"], mutation["op"], mutation["committed"], mutation["call"]) == ("things", "insert", True, 1)
    assert mutation["after"] == json.loads(database.psql("select to_json(t) from things t"))
    assert int(mutation["xid"]) % 2**32 == int(database.psql("select xmin from things"))

    # What came in and went out.
    assert trace["input"]["body"] == {"name": NAME}
    assert trace["input"]["params"] == {"id": "7"}
    assert trace["output"]["status"] == 200
    assert trace["output"]["body"] == answer.json
    assert [log["message"] for log in trace["logs"]] == ["done", f"printed {NAME}"]
    assert trace["completeness"] == "whole"
    assert [call["seq"] for call in calls] == list(range(1, len(calls) + 1))
    asked = [call for call in calls if call["kind"].startswith(("db", "http"))]
    assert {call["location"]["file"] for call in asked} == {"functions/f.py"}
    assert server.json("trace", answer.flux_id, "--call", "1")["call"] == inserted

    # On a terminal none of it is an escape sequence.
    assert "\x1b" not in server.command("trace", answer.flux_id, "-v").stdout


def sha256_of(size: int) -> bytes:
    return hashlib.sha256((bytes(range(256)) * (size // 256 + 1))[:size]).digest()
