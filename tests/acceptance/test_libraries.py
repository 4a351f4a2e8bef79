"""A project on requests and aiohttp, as typed: it runs, it is on record, it is replayed with its server gone."""

import socket
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import Database
from tests.dev_process import CountingStub, DevServer, counting_stub, running_dev, write_project
from tests.postgres_server import PostgresServer

SOURCE = """\
import asyncio

import aiohttp
import requests
from flux_guest import function

STUB = "http://127.0.0.1:PORT"


@function("POST /charge")
def charge(ctx, input):
    with requests.Session() as session:
        session.headers["authorization"] = "Bearer " + ctx.secrets.reveal("STUB_KEY")
        session.get(STUB + "/prices")
        answer = session.post(STUB + "/charges", json={"cents": 900})
    return {"amount": answer.json()["amount"]}  # here


@function("POST /gather")
async def gather(ctx, input):
    async with aiohttp.ClientSession() as session:
        async def ask(path):
            async with session.get(STUB + path) as answer:
                return answer.status

        return await asyncio.gather(ask("/slow/40"), ask("/slow/5"), ask("/status/404"))
"""
KEY = "sk_live_of_the_stub"


@pytest.fixture(scope="module")
def stub() -> Iterator[CountingStub]:
    with counting_stub() as stub:
        yield stub


@pytest.fixture(scope="module")
def server(
    stub: CountingStub,
    postgres18: PostgresServer,
    make_database: Callable[[PostgresServer], Database],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[DevServer]:
    database = make_database(postgres18)
    folder = tmp_path_factory.mktemp("libraries")
    folder.chmod(0o755)
    project = write_project(
        folder / "shop",
        {"shop.py": SOURCE.replace("PORT", str(stub.port))},
        toml=f'[http]\nallow = ["127.0.0.1:{stub.port}"]\n',
    )
    (project / ".env.local").write_text(f"STUB_KEY={KEY}\n")
    with running_dev(project, database) as server:
        yield server


def test_a_project_on_libraries_is_recorded_and_replayed_with_its_server_gone(
    server: DevServer, stub: CountingStub
) -> None:
    charged = server.request("POST", "/charge", {})
    assert charged.status == 500  # The stub's answer has no amount.
    gathered = server.request("POST", "/gather", {})
    assert (gathered.status, gathered.json) == (200, [200, 200, 404])

    trace = server.json("trace", charged.flux_id)
    sent = [call["arguments"] for call in trace["calls"] if call["kind"] == "net.send"]
    assert sent[0]["connection"].startswith(f"127.0.0.1:{stub.port}#")
    assert sent[0]["data"].startswith("GET /prices HTTP/1.1\r\n")
    assert KEY not in str(trace) and KEY in str(stub.seen)
    why = server.json("why", charged.flux_id)
    assert why["failure"]["location"]["line"] == 1 + SOURCE.splitlines().index(
        '    return {"amount": answer.json()["amount"]}  # here'
    )

    seen = len(stub.seen)
    stub.close()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", stub.port)) != 0
    assert server.json("replay", charged.flux_id, exit_code=1)["verdict"] == "same failure"
    assert server.json("replay", gathered.flux_id)["verdict"] == "identical"

    file = server.project / "functions" / "shop.py"
    told = len(server.story)
    file.write_text(file.read_text().replace('["amount"]', '.get("amount", 0)'))
    server.wait_story("shop.py", after=told)
    assert server.json("replay", charged.flux_id, "--on", ".")["verdict"] == "passed"
    assert len(stub.seen) == seen
