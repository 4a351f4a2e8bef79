"""The console's answers over a real database, with executions stored the way the supervisor stores them."""

import base64
import json
import os
import signal
import uuid
from collections.abc import AsyncIterator, Callable

import attrs
import pytest
import trio

from flux.execution import Execution, Exited, Interrupted, Killed, LogLine, Outcome, Returned, Trigger
from flux.hostcall import HostCallError
from flux.store.migrate import prepare
from flux.store.postgres import connect
from flux.store.records import RecordWriter, make_record
from flux.supervisor.present import logs_of_execution, summary_of_execution
from tests.conftest import Database, create_database
from tests.console_world import (
    TOKEN,
    World,
    make_call,
    make_execution,
    make_request,
    open_world,
    raised,
    read,
)
from tests.postgres_server import PostgresServer, running_postgres


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    async with open_world(database) as opened:
        yield opened


@pytest.fixture(scope="module")
def shared_database(
    postgres18: PostgresServer, make_database: Callable[[PostgresServer], Database]
) -> Database:
    """One database for the tests that ask and leave nothing behind: making one takes a while."""
    database = make_database(postgres18)
    trio.run(_add_one, database)
    return database


async def _add_one(database: Database) -> None:
    async with open_world(database) as opened:
        await opened.add(make_execution())


@pytest.fixture
async def asked(shared_database: Database) -> AsyncIterator[World]:
    """A console that is only asked, over a database with one execution."""
    async with open_world(shared_database) as opened:
        yield opened


# --- executions ------------------------------------------------------------------------------------


async def test_a_live_execution_and_a_stored_one_look_the_same(world: World) -> None:
    outcomes: list[Outcome] = [
        Returned(201, (), b"{}"),
        Returned(503, (), b'{"detail":"busy"}'),
        raised(),
        raised("HTTPError", "no such order", status=404, code="NOT_FOUND"),
        raised("ValueError", "half \ud800 and \x00 nul " + "x" * 5000),
        Killed("timeout", "10s", "flux.toml:12"),
        Exited(None, 11, "boom"),
        Interrupted("the supervisor ended"),
    ]
    for number, outcome in enumerate(outcomes):
        execution = make_execution(
            outcome, at_s=number, parent=uuid.uuid4() if number == 1 else None, attempt=number + 1,
            completeness=("a body was cut", "a log was cut") if number == 2 else (),
        )  # fmt: skip
        await world.add(execution)
        listed = (await world.get("executions", n=1))["executions"]
        shown = json.loads(json.dumps(summary_of_execution(execution)))
        if number == 4:  # What storing changes, only the stored one can tell.
            assert "surrogates" in (shown := shown | {"completeness": listed[0]["completeness"]})["completeness"]
        assert listed == [shown]
    assert listed[0]["status"] is None
    traced = (await world.get("executions/@-6"))["completeness"]
    assert traced == "a body was cut; a log was cut"


async def test_lists_are_newest_first_and_go_on_where_they_ended(world: World) -> None:
    executions = [make_execution(at_s=number) for number in range(5)]
    await world.add(*executions)
    names = [execution.name for execution in reversed(executions)]
    document = await world.get("executions", n=2)
    assert document["schema"] == "flux.executions/1"
    assert [summary["name"] for summary in document["executions"]] == names[:2]
    rest = await world.get("executions", before=names[1], n=10)
    assert [summary["name"] for summary in rest["executions"]] == names[2:]


async def test_a_filter_selects(world: World) -> None:
    await world.add(
        make_execution(raised(), at_s=0), make_execution(at_s=1), make_execution(at_s=2, function="nightly")
    )
    for query, count in (
        ("status:>=500", 1), ("error:keyerror", 1), ("function:night*", 1), ("status:201", 2), ("-outcome:raised", 2),
        ("since:2025-11-25T14:02:20Z", 2), ("", 3),
    ):  # fmt: skip
        assert len((await world.get("executions", q=query))["executions"]) == count, query


@pytest.mark.parametrize("form", ["name", "name prefix", "uuid", "uuid prefix", "capitals", "@-1", "@last-error"])
async def test_an_execution_is_found_by_what_people_type(world: World, form: str) -> None:
    await world.add(make_execution(at_s=0))
    wanted = make_execution(raised(), at_s=1)
    await world.add(wanted)
    text = {
        "name": wanted.name, "name prefix": wanted.name[:7], "uuid": str(wanted.id),
        "uuid prefix": str(wanted.id)[:30], "capitals": wanted.name.upper(),
    }.get(form, form)  # fmt: skip
    trace = await world.get(f"executions/{text}")
    assert (trace["schema"], trace["id"]) == ("flux.trace/1", str(wanted.id))
    assert (await world.get(f"executions/{text}/why"))["execution"]["id"] == str(wanted.id)


async def test_an_unknown_id_is_404_and_an_ambiguous_one_409(world: World) -> None:
    status, code, text = await world.refused("executions/zzzzzzzz")
    assert (status, code) == (404, "FLX101")
    assert (await world.refused("executions/@last-error"))[:2] == (404, "FLX101")
    assert (await world.refused("executions/not an id/why"))[:2] == (404, "FLX101")
    executions = [make_execution(at_s=number) for number in range(3)]
    await world.add(*executions)
    status, code, text = await world.refused(f"executions/{str(executions[0].id)[:6]}")
    assert (status, code) == (409, "FLX102")
    assert all(execution.name in text for execution in executions)
    assert read(await world.ask("executions/zzzzzzzz"))["exit"] == 3


async def test_a_trace_tells_what_was_asked_answered_and_changed(world: World) -> None:
    execution = make_execution(
        calls=(
            make_call(1, "db.query", ["insert into users values ($1)", [1]], {"columns": [], "rows": []}),
            make_call(2, "http.request", ["POST", "https://api.test/x", {"body": b"\xff\x00"}],
                      {"status": 200, "body": b"\xfe", "headers": []}),
        ),
        mutation_count=1,
    )  # fmt: skip
    stored = await world.run_as_guest(execution, "insert into users values (1, 'a@b.com', 'free')")
    child = make_execution(id=uuid.UUID(int=stored.id.int + 1), parent=stored.id, function="nightly")
    await world.add(child)
    trace = await world.get(f"executions/{stored.name}")
    assert trace["calls"][0]["arguments"] == {"sql": "insert into users values ($1)", "args": [1]}
    assert trace["calls"][1]["arguments"]["body"] == {"$bytes": "/wA="}
    assert trace["calls"][1]["result"]["body"] == {"$bytes": "/g=="}
    (mutation,) = trace["mutations"]
    assert mutation["after"] == {"id": 1, "email": "a@b.com", "plan": "free"}
    assert (mutation["table"], mutation["key"], mutation["op"], mutation["committed"], mutation["before"]) == (
        "users", {"id": 1}, "insert", True, None,
    )  # fmt: skip
    assert str(mutation["xid"]) == world.database.psql(f"select xid from flux.execution where id = '{stored.id}'")
    assert [each["name"] for each in trace["children"]] == [child.name]


async def test_large_bodies_come_back_whole(world: World) -> None:
    body = bytes(range(256)) * 1024
    await world.add(make_execution(Returned(200, (("content-type", "image/png"),), body)))
    output = (await world.get("executions/@-1"))["output"]
    assert base64.b64decode(output["body"]["$bytes"]) == body


# --- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "code", "word"),
    [
        ("executions?n=0", "FLX621", "1 to 1000"),
        ("executions?n=1001", "FLX621", "1 to 1000"),
        ("executions?n=x", "FLX621", "number"),
        ("executions?limit=3", "FLX621", '"limit"'),
        ("executions?n=3&n=4", "FLX621", "twice"),
        ("executions?q=status", "FLX105", "status"),
        ("executions?q=colour:red", "FLX105", "colour"),
        ("executions?before=zzz", "FLX101", "zzz"),
        ("errors?since=yesterday", "FLX110", "yesterday"),
        ("tail?follow=yes", "FLX621", "0 or 1"),
        ("tail?since=soon", "FLX110", "soon"),
        ("logs?function=nobody", "FLX113", "create_user"),
        ("state/history?table=users", "FLX621", '"key"'),
        ("state/history?key=1", "FLX621", '"table"'),
        ("state/history?table=nothing&key=1", "FLX120", "nothing"),
        ("state/history?table=users&key=abc", "FLX121", "abc"),
        ("executions/@-1/why?prove=1", "FLX621", "prove"),
    ],
)
async def test_a_question_that_means_nothing_is_refused_and_says_why(
    asked: World, path: str, code: str, word: str
) -> None:
    status, found, text = await asked.refused(path)
    assert 400 <= status < 500
    assert found == code
    assert word in text


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("nothing", "GET", 404), ("executions/a/b", "GET", 404), ("executions", "POST", 405),
        ("invoke/create_user", "GET", 405), ("/_flux/nothing", "GET", 404), ("/_flux/api/", "GET", 404),
        ("executions", "DELETE", 405), ("/_flux/health", "POST", 405),
    ],
)  # fmt: skip
async def test_an_unknown_path_is_404_and_a_wrong_method_405(asked: World, path: str, method: str, status: int) -> None:
    response = await asked.ask(path, method=method)
    assert response.status == status
    assert (status == 405) == ("allow" in dict(response.headers))


@pytest.mark.parametrize(
    ("headers", "token", "status"),
    [
        ({}, TOKEN, 200),
        ({}, None, 401),
        ({}, "wrong", 401),
        ({}, "", 401),
        ({}, TOKEN + "x", 401),
        ({"authorization": f"Basic {TOKEN}"}, None, 401),
        ({"authorization": "Bearer \xff"}, None, 401),
        ({"authorization": f"bearer {TOKEN}"}, None, 200),
        ({"host": "localhost:4000"}, TOKEN, 200),
        ({"host": "LOCALHOST."}, TOKEN, 200),
        ({"host": "[::1]:4000"}, TOKEN, 200),
        ({"host": "127.9.9.9"}, TOKEN, 200),
        ({"host": "shop.example:443"}, TOKEN, 200),
        ({"host": "evil.example"}, TOKEN, 403),
        ({"host": "localhost.evil.example"}, TOKEN, 403),
        ({"host": "127.0.0.1.evil.example"}, TOKEN, 403),
        ({"host": "[::1].evil.example"}, TOKEN, 403),
        ({"host": ""}, TOKEN, 403),
        ({"origin": "http://127.0.0.1:4000"}, TOKEN, 200),
        ({"origin": "http://127.0.0.1:4001"}, TOKEN, 403),
        ({"origin": "https://evil.example"}, TOKEN, 403),
        ({"origin": "null"}, TOKEN, 403),
        ({"origin": "http://["}, TOKEN, 403),
        ({"sec-fetch-site": "cross-site"}, TOKEN, 403),
        ({"sec-fetch-site": "same-origin"}, TOKEN, 200),
    ],
)
async def test_only_who_has_the_token_and_comes_from_here_may_ask(
    asked: World, headers: dict[str, str], token: str | None, status: int
) -> None:
    response = await asked.ask("functions", headers=headers, token=token)
    assert response.status == status
    if status != 200:
        problem = read(response)
        assert problem["code"] == {401: "UNAUTHORIZED", 403: "FORBIDDEN"}[status]
        assert TOKEN not in json.dumps(problem)


async def test_a_form_of_another_site_can_not_invoke(asked: World) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        response = await asked.ask(
            "invoke/create_user", method="POST", body=b'{"data":1}', headers={"content-type": kind}
        )
        assert response.status == 415
    assert asked.host.invoked == []


# --- functions -------------------------------------------------------------------------------------


async def test_functions_are_listed(asked: World) -> None:
    document = await asked.get("functions")
    assert document["schema"] == "flux.functions/1"
    assert document["functions"][0] == {
        "name": "create_user", "route": "POST /signup", "runtime": "python", "grants": ["db", "http:api.stripe.com"],
        "auth": None, "middleware": [], "sha": "3f9c1e2d", "error": None,
    }  # fmt: skip


async def test_an_invoke_gives_the_input_as_it_was_written(asked: World) -> None:
    body = b'{"data": {"price": 1.10, "n": 12345678901234567890123}}'
    response = await asked.ask("invoke/create_user", method="POST", body=body)
    assert response.status == 200
    assert isinstance(response.body, bytes)
    assert asked.host.invoked == [("create_user", b'{"price": 1.10, "n": 12345678901234567890123}')]
    assert b'{"price": 1.10, "n": 12345678901234567890123}' in response.body
    document = read(response)
    assert (document["schema"], document["status"], document["body_format"]) == ("flux.invoke/1", 201, "json")
    assert document["execution"]["trigger"] == "invoke"


async def test_an_invoke_without_data_gives_null(asked: World) -> None:
    await asked.ask("invoke/nightly", method="POST", body=b"{}")
    assert asked.host.invoked == [("nightly", b"null")]


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"dat": 1}', b'{"data": "\\ud800"}', b"\xff", b"[" * 99999])
async def test_an_invoke_with_a_bad_body_runs_nothing(asked: World, body: bytes) -> None:
    response = await asked.ask("invoke/create_user", method="POST", body=body)
    assert (response.status, read(response)["code"]) == (400, "FLX621")
    assert asked.host.invoked == []


@pytest.mark.parametrize("path", ["deploy", "rollback"])
@pytest.mark.parametrize(
    "body", [b"[]", b"{", b"\xff", b'{"no": 1}', b'{"on": 1, "to": 1}', b'{"on": "", "to": ""}',
             b'{"on": true}', b'{"to": ["a"]}', b'{"on": "%s"}' % (b"x" * 201), b"[" * 99999],
)  # fmt: skip
async def test_a_deploy_with_a_bad_body_deploys_nothing(asked: World, path: str, body: bytes) -> None:
    """The host of these tests fails when it is asked to."""
    response = await asked.ask(path, method="POST", body=body)
    assert (response.status, read(response)["code"]) == (400, "FLX621")


async def test_a_deploy_takes_the_token_and_a_json_post_of_this_site(asked: World) -> None:
    json_post = {"content-type": "application/json"}
    for path in ("deploy", "rollback"):
        assert (await asked.ask(path)).status == 405
        assert (await asked.ask(path, method="POST", body=b"{}", token=None)).status == 401
        form = {"content-type": "text/plain"}
        assert (await asked.ask(path, method="POST", body=b"{}", headers=form)).status == 415
        other_site = {**json_post, "origin": "https://evil.example"}
        assert (await asked.ask(path, method="POST", body=b"{}", headers=other_site)).status == 403
    assert (await asked.ask("deployments", token=None)).status == 401


async def test_an_unknown_function_is_404_and_the_known_are_named(asked: World) -> None:
    response = await asked.ask("invoke/creat_user", method="POST", body=b"{}")
    problem = read(response)
    assert (response.status, problem["code"], problem["exit"]) == (404, "FLX113", 3)
    assert "create_user" in problem["detail"]


async def test_checks_begin_with_the_database(asked: World) -> None:
    first, second, third = (await asked.get("checks"))["checks"]
    assert (first["name"], first["ok"]) == ("database", True)
    assert first["detail"].startswith("PostgreSQL 18")
    assert (second["name"], second["ok"]) == ("rights", True) and "track_commit_timestamp" in second["detail"]
    assert third["name"] == "isolation"


# --- failures and rows -----------------------------------------------------------------------------


async def test_failures_are_grouped_and_the_most_frequent_come_first(world: World) -> None:
    await world.add(
        make_execution(raised("ValueError", "order 17 is unknown"), at_s=0),
        make_execution(raised("KeyError"), at_s=1),
        make_execution(raised("ValueError", "order 18 is unknown"), at_s=2, function="nightly"),
        make_execution(raised("HTTPError", "gone", status=404), at_s=3),
        make_execution(at_s=4),
    )
    last = make_execution(raised("ValueError", "order 19 is unknown"), at_s=5)
    await world.add(last)
    document = await world.get("errors")
    assert document["schema"] == "flux.errors/1"
    first, second = document["groups"]
    assert (first["count"], second["count"]) == (3, 1)
    assert (first["sample"], first["functions"]) == (last.name, ["create_user", "nightly"])
    assert (first["first"], first["last"]) == ("2025-11-25T14:02:19.504000Z", "2025-11-25T14:02:24.504000Z")
    assert first["error"]["message"] == "order 19 is unknown"
    since = await world.get("errors", since="2025-11-25T14:02:24Z")
    assert [group["count"] for group in since["groups"]] == [1]


async def test_a_row_has_a_history_with_who_made_it(world: World) -> None:
    created = await world.run_as_guest(make_execution(at_s=0), "insert into users values (1, 'a@b.com', 'free')")
    world.database.psql("update users set email = 'b@b.com' where id = 1")
    await world.run_as_guest(make_execution(raised(), at_s=1), "update users set plan = null where id = 1", keep=False)
    document = await world.get("state/history", table="users", key="1")
    assert document["schema"] == "flux.state-history/1"
    outside, inside = document["versions"]
    assert (outside["outside"], outside["execution"], outside["version"]) == (True, None, 2)
    assert outside["after"] == {"id": 1, "email": "b@b.com", "plan": "free"}
    assert (inside["outside"], inside["execution"], inside["function"], inside["sha"]) == (
        False, created.name, "create_user", "3f9c1e2d",
    )  # fmt: skip
    assert (inside["version"], inside["op"], inside["committed"], inside["key"]) == (1, "insert", True, {"id": 1})
    assert (await world.get("state/history", table="public.users", key="id=1"))["versions"] == document["versions"]
    assert (await world.get("state/history", table="users", key="2"))["versions"] == []


# --- not stored yet --------------------------------------------------------------------------------


async def test_who_asks_right_after_its_request_finds_the_execution(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flux.supervisor.console.SETTLE_TIMEOUT_S", 60.0)  # Busy machines store slowly.
    earlier, execution = make_execution(at_s=0), make_execution(raised(), at_s=1)
    await world.add(earlier)
    world.live.publish(summary_of_execution(execution), stored=False)
    found: list[str] = []

    async def ask() -> None:
        found.append((await world.get("executions/@-1"))["name"])
        found.append((await world.get("executions"))["executions"][0]["name"])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.sleep(0.05)
        assert found == []
        await world.add(execution)
        world.live.mark_stored(execution.id)
    assert found == [execution.name, execution.name]


async def test_what_can_not_be_stored_is_said_and_never_taken_for_something_else(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flux.supervisor.console.SETTLE_TIMEOUT_S", 0.05)
    earlier, execution = make_execution(at_s=0), make_execution(raised(), at_s=1)
    await world.add(earlier)
    world.live.publish(summary_of_execution(execution), logs_of_execution(execution), stored=False)
    for text in ("@-1", "@last-error", execution.name, str(execution.id), execution.name[:4]):
        status, code, said = await world.refused(f"executions/{text}")
        assert (status, code) == (503, "FLX720"), text
        assert "nothing is lost" in said
    assert (await world.get(f"executions/{earlier.name}"))["name"] == earlier.name
    assert (await world.get("executions"))["not_stored"] == 1
    assert (await world.get("errors"))["not_stored"] == 1
    assert (await world.get("state/history", table="users", key="1"))["not_stored"] == 1
    # The live streams show it all the same.
    assert [line["name"] for line in await world.lines("tail", follow=0)] == [earlier.name, execution.name]


# --- streams ---------------------------------------------------------------------------------------


async def test_five_hundred_executions_are_each_shown_once_while_they_are_being_stored(world: World) -> None:
    """Some tails begin before, some in the middle: each shows every execution from its ``since`` on once."""
    executions = [make_execution(raised() if n % 7 == 0 else None, at_s=n / 500) for n in range(500)]
    writer = RecordWriter(world.pool)
    tails: list[list[dict[str, object]]] = []

    async def tail() -> None:
        response = await world.ask("tail", since="2025-11-25T00:00:00Z")
        assert not isinstance(response.body, bytes)
        shown: list[dict[str, object]] = []
        tails.append(shown)
        async for piece in response.body:
            shown += [json.loads(line) for line in piece.splitlines()]
        await response.body.aclose()  # type: ignore[attr-defined]  # as the gateway does

    async def produce() -> None:
        for number, execution in enumerate(executions):
            if number % 50 == 0:
                nursery.start_soon(tail)
            if number % 5 == 0:  # As one that has committed its record with its data.
                await world.add(execution)
                world.live.publish(summary_of_execution(execution), stored=True)
            else:
                world.live.publish(summary_of_execution(execution), stored=False)
                # early binding of the id: the callback runs later
                writer.submit(make_record(execution), lambda id=execution.id: world.live.mark_stored(id))  # type: ignore[misc]
                await trio.sleep(0.001)

    async with trio.open_nursery() as nursery:
        await nursery.start(writer.run)
        await produce()
        await writer.flush()
        nursery.start_soon(tail)
        with trio.fail_after(120):
            while len(tails) < 11 or any(len(shown) < 500 for shown in tails):  # noqa: ASYNC110 - no event tells
                await trio.sleep(0.02)
        world.live.close()
        with trio.fail_after(60):
            while world.live.counts.subscribers:  # noqa: ASYNC110 - no event tells
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    wanted = {execution.name for execution in executions}
    for shown in tails:
        assert len(shown) == 500
        assert {summary["name"] for summary in shown} == wanted


async def test_a_tail_shows_what_its_filter_means_in_history_and_live(world: World) -> None:
    await world.add(make_execution(raised(), at_s=0), make_execution(at_s=1))
    response = await world.ask("tail", q="status:>=500", since="1000d")
    assert not isinstance(response.body, bytes)
    assert dict(response.headers)["content-type"] == "application/x-ndjson"
    stream = response.body
    assert [json.loads(line)["status"] for line in (await anext(aiter(stream))).splitlines()] == [500]
    for outcome in (None, raised("ValueError")):
        world.live.publish(summary_of_execution(make_execution(outcome, at_s=2)), stored=True)
    (line,) = (await anext(aiter(stream))).splitlines()
    assert json.loads(line)["error"]["type"] == "ValueError"
    await stream.aclose()  # type: ignore[attr-defined]
    assert world.live.counts.subscribers == 0


async def test_a_tail_without_since_begins_now(world: World) -> None:
    await world.add(make_execution(at_s=0))
    response = await world.ask("tail")
    assert not isinstance(response.body, bytes)
    late = make_execution(at_s=1)
    world.live.publish(summary_of_execution(late), stored=True)
    assert json.loads(await anext(aiter(response.body)))["name"] == late.name
    await response.body.aclose()  # type: ignore[attr-defined]


def logging(at_s: float, *messages: str, **changes: object) -> Execution:
    lines = tuple(LogLine(number * 1_000_000, "info", text, b'{"n":1.0}') for number, text in enumerate(messages))
    return make_execution(at_s=at_s, logs=lines, **changes)


async def test_logs_are_told_oldest_first_and_of_one_function_when_asked(world: World) -> None:
    first, second = logging(0, "a", "b"), logging(1, "c\nd", function="nightly")
    await world.add(first, second, make_execution(at_s=2))
    lines = await world.lines("logs")
    assert [line["message"] for line in lines] == ["a", "b", "c\nd"]
    assert lines[1] == {
        "schema": "flux.log/1", "line": 2, "at": "2025-11-25T14:02:19.505000Z", "level": "info", "message": "b",
        "fields": {"n": 1.0},
        "location": None, "execution": first.name, "function": "create_user",
    }  # fmt: skip
    assert [line["message"] for line in await world.lines("logs", function="nightly")] == ["c\nd"]
    since = await world.lines("logs", since="2025-11-25T14:02:19.505Z")
    assert [line["message"] for line in since] == ["b", "c\nd"]


async def test_followed_logs_join_history_and_present(world: World) -> None:
    stored, waiting, late = logging(0, "a"), logging(1, "b1", "b2"), logging(2, "c")
    await world.add(stored)
    world.live.publish(summary_of_execution(waiting), logs_of_execution(waiting), stored=False)
    response = await world.ask("logs", follow=1, since="2025-11-25T00:00:00Z")
    assert not isinstance(response.body, bytes)
    await world.add(waiting)
    world.live.mark_stored(waiting.id)
    world.live.publish(summary_of_execution(late), logs_of_execution(late), stored=True)
    world.live.close()
    data = b"".join([piece async for piece in response.body])
    assert [json.loads(line)["message"] for line in data.splitlines()] == ["a", "b1", "b2", "c"]


async def test_long_histories_are_read_page_by_page(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flux.supervisor.console.PAGE", 3)
    executions = [logging(number, f"m{number}") for number in range(8)]
    await world.add(*executions)
    assert [line["name"] for line in await world.lines("tail", follow=0, since="1000d")] == [
        execution.name for execution in executions
    ]
    assert [line["message"] for line in await world.lines("logs", since="1000d")] == [f"m{n}" for n in range(8)]


# --- a database that is down -----------------------------------------------------------------------


async def test_a_database_that_is_down_is_503_and_never_an_empty_answer() -> None:
    with running_postgres() as server:
        database = create_database(server)
        connection = await connect(database.options())
        await prepare(connection)
        await connection.aclose()
        async with open_world(database) as world:
            await world.add(make_execution(raised()))
            os.kill(server.pid, signal.SIGINT)
            with trio.fail_after(120):
                while (await world.ask("executions")).status == 200:  # noqa: ASYNC110 - another process ends
                    await trio.sleep(0.05)
            for path in (
                "executions", "executions/@-1", "executions/@-1/why", "errors", "tail?since=1h", "tail?follow=0",
                "state/history?table=users&key=1", "logs", "logs?since=1h&follow=1", "logs?function=gone",
            ):  # fmt: skip
                status, code, _text = await world.refused(path)
                assert (status, code[:4]) == (503, "FLX2"), path
            assert (await world.get("functions"))["functions"], "what needs no database goes on"
            assert (await world.get("checks"))["checks"][0]["ok"] is False
            assert world.live.counts.subscribers == 0


async def test_a_database_that_hangs_is_503_as_well(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flux.supervisor.console.STORE_TIMEOUT_S", 0.2)
    async with world.pool.acquire() as connection, connection.transaction():
        await connection.execute("lock table flux.execution in access exclusive mode")
        assert (await world.refused("executions"))[:2] == (503, "FLX721")
    assert (await world.get("executions"))["executions"] == []


# --- for machines ----------------------------------------------------------------------------------


async def test_health_needs_no_token_and_says_when_it_is_not_ready(asked: World) -> None:
    assert (await asked.ask("/_flux/health", token=None, headers={"host": "10.0.0.7"})).status == 200
    asked.host.is_ready = False
    assert (await asked.ask("/_flux/health", token=None)).status == 503


async def test_metrics_are_prometheus_text(asked: World) -> None:
    asked.live.publish(summary_of_execution(make_execution()), stored=True)
    asked.live.publish(summary_of_execution(make_execution(raised())), stored=False)
    subscription = asked.live.subscribe(lambda _published: ())
    response = await asked.ask("/_flux/metrics", token=None)
    assert isinstance(response.body, bytes)
    lines = response.body.decode().splitlines()
    for line in (
        'flux_executions_total{outcome="returned"} 1', 'flux_executions_total{outcome="raised"} 1',
        "# TYPE flux_executions_total counter", "flux_executions_not_stored 1", "flux_live_subscribers 1",
        "# TYPE flux_live_subscribers gauge", "# TYPE flux_live_lines_lost_total counter",
        "flux_live_lines_lost_total 0",
    ):  # fmt: skip
        assert line in lines, line
    subscription.close()


async def test_metrics_from_elsewhere_need_the_token(asked: World) -> None:
    for headers, peer in (({}, "10.0.0.7:1"), ({"x-forwarded-for": "10.0.0.7"}, "127.0.0.1:1")):
        request = make_request("/_flux/metrics", token=None, headers=headers, peer=peer)
        assert (await asked.console.handle(request)).status == 401
        request = make_request("/_flux/metrics", headers=headers, peer=peer)
        assert (await asked.console.handle(request)).status == 200


async def test_an_explanation_of_a_failed_call_reaches_the_reader(world: World) -> None:
    error = HostCallError("HttpTimeout", "no answer", "FLX409", b'{"host":"api.test","limit_s":10}')
    call = make_call(1, "http.request", ["POST", "https://api.test/x", {}], error=error, line=42)
    outcome = attrs.evolve(raised("HttpTimeoutError", "no answer"), call=1)
    await world.add(make_execution(outcome, calls=(call,), trigger=Trigger("invoke", body=b"{}")))
    why = await world.get("executions/@last-error/why")
    assert why["schema"] == "flux.why/1"
    assert (why["failure"]["kind"], why["failure"]["call"]) == ("outbound_timeout", 1)
    assert why["failure"]["location"]["file"] == "functions/signup.py"
    assert why["facts"] and all(fact.keys() == {"mark", "rule", "text", "call"} for fact in why["facts"])
    assert any(command.startswith("flux ") for command in why["next"])
