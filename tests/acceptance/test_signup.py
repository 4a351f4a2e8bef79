"""The case that Flux exists for: a sign-up whose payment provider never answers.

The function inserts a user, updates its plan and asks a stub that stays silent; its
own time limit fires. What Flux then says is compared with what a second psql and the
stub know.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Database
from tests.dev_process import CountingStub, DevServer, counting_stub, running_dev, write_project
from tests.postgres_server import PostgresServer

SIGNUP = '''\
from flux_guest import Context, function


@function("POST /signup", timeout="3500ms")
async def create_user(ctx: Context, input: dict) -> dict:
    user = await ctx.db.query_one(
        "insert into users (email, plan) values ($1, 'free') returning id", input["email"]
    )
    await ctx.db.execute("update users set plan = $1 where id = $2", input.get("plan"), user["id"])
    await ctx.http.post("http://127.0.0.1:PORT/hang", json={"email": input["email"]})
    return {"id": user["id"]}
'''
HTTP_LINE = 10
UPDATE_LINE = 9
USERS = "create table users (id bigint generated always as identity primary key, email text, plan text);"


@pytest.fixture
def stub() -> Iterator[CountingStub]:
    with counting_stub() as stub:
        yield stub


@pytest.fixture
def server(
    tmp_path: Path, stub: CountingStub, postgres18: PostgresServer, make_database: Callable[[PostgresServer], Database]
) -> Iterator[tuple[DevServer, Database]]:
    database = make_database(postgres18)
    project = write_project(
        tmp_path,
        {"signup.py": SIGNUP.replace("PORT", str(stub.port))},
        toml=f'[functions.create_user]\nhttp = ["127.0.0.1:{stub.port}"]\n',
        migrations={"001.sql": USERS},
    )
    with running_dev(project, database) as server:
        yield server, database


def test_a_silent_provider_is_explained_from_the_record_alone(
    server: tuple[DevServer, Database], stub: CountingStub
) -> None:
    dev, database = server
    answer = dev.request("POST", "/signup", {"email": "a@b.com", "plan": "pro"})
    assert answer.status == 504
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json["code"] == "TIMEOUT"
    assert answer.json["request_id"] == answer.headers["x-request-id"]
    assert database.psql("select count(*) from users").strip() == "0"
    assert len(stub.seen) == 1

    why = dev.json("why", answer.flux_id)
    assert why["schema"] == "flux.why/1"
    assert why["execution"]["name"] == answer.flux_id
    assert why["execution"]["status"] == 504
    assert why["failure"]["kind"] == "outbound_timeout"
    assert why["failure"]["location"]["file"] == "functions/signup.py"
    assert why["failure"]["location"]["line"] == HTTP_LINE
    told = "\n".join(fact["text"] for fact in why["facts"]) + "\n".join(why.get("verdict_text", []))
    assert f"127.0.0.1:{stub.port}" in told
    assert "3500ms" in told
    changes = [(m["table"], m["op"], m["committed"]) for m in why["mutations"]]
    assert changes == [("users", "insert", False), ("users", "update", False)]
    assert (why["mutations"][1]["before"]["plan"], why["mutations"][1]["after"]["plan"]) == ("free", "pro")
    assert why["next"]

    shown = dev.command("why", answer.flux_id)
    assert shown.returncode == 0
    assert f"functions/signup.py:{HTTP_LINE}" in shown.stdout
    assert 'plan "free" → "pro"' in " ".join(shown.stdout.split())
    assert "rolled back" in shown.stdout
