"""Who may see the console's pages and act on them, over a real database and without a browser."""

import json
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Never

import attrs
import pytest
import trio

from flux.message import HttpResponse
from flux.scopes import WORDS
from flux.store.moments import add_mark
from flux.store.tokens import TokenFound, digest_token
from flux.supervisor import console_page
from flux.supervisor.console_door import Door
from flux.supervisor.present import summary_of_execution
from flux.supervisor.web import events
from flux.supervisor.web.desk import POLICY, WebDesk
from flux.supervisor.web.session import SESSION_S, SESSIONS_MAX, Sessions
from tests.conftest import Database
from tests.console_world import TOKEN, World, make_call, make_execution, make_request, open_world, raised
from tests.hostile_pages import check_page

HOST = "127.0.0.1:4000"
OURS = {"origin": f"http://{HOST}"}


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    async with open_world(database) as opened:
        yield opened


async def post(world: World, path: str, document: object, headers: Mapping[str, str] | None = None) -> HttpResponse:
    return await world.ask(path, method="POST", body=json.dumps(document).encode(), headers=headers, token=None)


async def sign_in(world: World, token: str = TOKEN) -> dict[str, str]:
    """Show the token as the page's script does; return the header that a browser sends from then on."""
    answer = await post(world, "/_flux/session", {"token": token}, OURS)
    assert answer.status == 200, answer.body
    cookie = dict(answer.headers)["set-cookie"]
    name, _, fields = cookie.partition(";")
    assert name.startswith("flux_session_4000=") and TOKEN not in cookie
    assert {"Path=/_flux/", "HttpOnly", "SameSite=Strict", f"Max-Age={SESSION_S}"} <= set(fields.strip().split("; "))
    return {"cookie": f"other=1; {name}"}


def code_of(answer: HttpResponse) -> tuple[int, str]:
    assert isinstance(answer.body, bytes)
    return answer.status, json.loads(answer.body)["code"]


async def test_pages_are_shown_to_who_has_shown_a_token_and_to_nobody_else(world: World) -> None:
    failed = make_execution(raised())
    await world.add(failed, make_execution(at_s=1))
    browser = await sign_in(world)
    paths = ("/_flux/", "/_flux", "/_flux/executions", "/_flux/errors", f"/_flux/e/{failed.name}", "/_flux/e/@-2")
    for path in paths:
        page = await world.ask(path, headers=browser, token=None)
        assert page.status == 200, page.body
        headers = dict(page.headers)
        assert headers["content-security-policy"] == POLICY and headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        assert isinstance(page.body, bytes)
        read = check_page(page.body)
        assert f"/_flux/e/{failed.name}" in read.list_values("href") or failed.name in read.text
        # Nobody is let in by the API's token in a header, by another port's cookie, or by none.
        for stranger in ({}, {"cookie": browser["cookie"].replace("4000", "4001")}, {"cookie": "flux_session_4000=x"}):
            refused = await world.ask(path, headers=stranger, token=TOKEN)
            assert refused.status == 401 and isinstance(refused.body, bytes)
            assert failed.name not in refused.body.decode() or failed.name in path
            assert "sign-in" in check_page(refused.body).list_values("id")
        for foreign in ({"host": "evil.example"}, {"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}):
            assert code_of(await world.ask(path, headers=browser | foreign, token=None)) == (403, "FORBIDDEN")
    ended = await post(world, "/_flux/session/end", {}, browser | OURS)
    assert ended.status == 200 and "Max-Age=0" in dict(ended.headers)["set-cookie"]
    assert (await world.ask("/_flux/", headers=browser, token=None)).status == 401


async def test_a_session_is_opened_by_a_page_of_ours_with_a_good_token_alone(world: World) -> None:
    good = {"token": TOKEN}
    for document, headers, refusal in (
        ({"token": "guessed"}, OURS, (401, "UNAUTHORIZED")),
        ({"token": ""}, OURS, (401, "UNAUTHORIZED")),
        ({"token": ["x"]}, OURS, (400, "INPUT_VALIDATION_ERROR")),
        ([], OURS, (400, "INPUT_VALIDATION_ERROR")),
        (good, {}, (403, "FORBIDDEN")),
        (good, {"origin": "http://evil.example"}, (403, "FORBIDDEN")),
        (good, {"origin": "null"}, (403, "FORBIDDEN")),
        (good, OURS | {"host": "evil.example"}, (403, "FORBIDDEN")),
        (good, OURS | {"content-type": "text/plain"}, (415, "UNSUPPORTED_MEDIA_TYPE")),
    ):
        answer = await post(world, "/_flux/session", document, headers)
        assert code_of(answer) == refusal, (document, headers)
        assert "set-cookie" not in dict(answer.headers)
    broken = await world.ask("/_flux/session", method="POST", body=b"[" * 100_000, headers=OURS, token=None)
    assert code_of(broken) == (400, "INPUT_VALIDATION_ERROR")
    assert (await world.ask("/_flux/session", headers=OURS, token=None)).status == 405


async def test_a_cookie_acts_on_nothing_without_the_origin_of_a_page_of_ours(world: World) -> None:
    failed = make_execution(raised())
    await world.add(failed)
    browser = await sign_in(world)
    act = f"/_flux/act/executions/{failed.name}/replay"
    for headers, refusal in (
        (browser, (403, "FORBIDDEN")),
        (browser | {"origin": "http://evil.example"}, (403, "FORBIDDEN")),
        (browser | {"origin": "http://127.0.0.1:4001"}, (403, "FORBIDDEN")),
        (browser | OURS | {"content-type": "text/plain"}, (415, "UNSUPPORTED_MEDIA_TYPE")),
        (OURS, (401, "UNAUTHORIZED")),
    ):
        assert code_of(await post(world, act, {}, headers)) == refusal, headers
    assert (await world.ask(act, headers=browser | OURS, token=None)).status == 405
    for other in ("deploy", "secrets/x", f"executions/{failed.name}", "tokens", "records/prune"):
        assert code_of(await post(world, f"/_flux/act/{other}", {}, browser | OURS)) == (404, "NOT_FOUND")
    # And it means nothing to the API.
    assert code_of(await post(world, f"executions/{failed.name}/replay", {}, browser | OURS)) == (401, "UNAUTHORIZED")
    # What the page sends arrives: the host of this world, which replays nothing, is asked.
    with pytest.raises(AssertionError, match="KeyError"):
        await post(world, act, {}, browser | OURS)


async def test_a_page_is_the_documents_of_its_json(world: World) -> None:
    body = b'{"amount": 12345678901234567890.10}'
    failed = make_execution(raised(), body=body)
    await world.add(failed)
    browser = await sign_in(world)
    twin = await world.ask(f"/_flux/e/{failed.name}.json", headers=browser, token=None)
    assert isinstance(twin.body, bytes) and b"12345678901234567890.10" in twin.body
    document = json.loads(twin.body)
    assert (document["schema"], document["page"]) == ("flux.page/1", "execution")
    assert document["documents"] == {
        "trace": await world.get(f"executions/{failed.name}"), "why": await world.get(f"executions/{failed.name}/why"),
    }  # fmt: skip
    page = await world.ask(f"/_flux/e/{failed.name}", headers=browser, token=None)
    assert isinstance(page.body, bytes) and "12345678901234567890.10" in check_page(page.body).text
    curl = await world.ask(f"/_flux/e/{failed.name}.curl", headers=browser, token=None)
    assert isinstance(curl.body, bytes) and dict(curl.headers)["content-type"].startswith("text/plain")
    command = curl.body.decode()
    assert command.startswith("curl -i -X POST http://127.0.0.1:4000/signup") and body.decode() in command
    markdown = await world.ask(f"/_flux/e/{failed.name}.md", headers=browser, token=None)
    assert isinstance(markdown.body, bytes) and markdown.body.startswith(b"## ` POST /signup `")
    file = await world.ask(f"/_flux/e/{failed.name}.html", headers=browser, token=None)
    assert dict(file.headers)["content-disposition"] == f'attachment; filename="{failed.name}.html"'
    told = await world.get(f"executions/{failed.name[:6]}/html")
    assert (told["schema"], told["execution"]) == ("flux.html/1", failed.name)
    assert isinstance(file.body, bytes) and told["text"].splitlines()[20:] == file.body.decode().splitlines()[20:]
    for form in ("md", "html", "curl"):
        assert code_of(await world.ask(f"/_flux/e/zzzzzzzz.{form}", headers=browser, token=None)) == (404, "FLX101")
        assert (await world.ask(f"/_flux/errors.{form}", headers=browser, token=None)).status == 404
        assert (await world.ask(f"/_flux/e/{failed.name}.{form}", token=None)).status == 401
    listed = json.loads((await world.ask("/_flux/executions.json", headers=browser, token=None, q="status:500")).body)
    assert listed["documents"]["executions"] == await world.get("executions", q="status:500", n=50)


async def test_of_many_calls_a_page_asks_for_some_and_finds_text_in_all(world: World) -> None:
    calls = tuple(make_call(seq, "db.query", [f"select {seq}", []], {"rows": []}) for seq in range(1, 451))
    many = make_execution(calls=calls)
    await world.add(many)
    whole = await world.get(f"executions/{many.name}")
    page = await world.get(f"executions/{many.name}/page", **{"from": 400}, n=20)
    assert page["why"] == await world.get(f"executions/{many.name}/why")
    assert page["trace"]["calls"] == whole["calls"][400:420]
    assert page["trace"] == {key: value for key, value in whole.items() if key != "spans"} | {
        "calls": page["trace"]["calls"]
    }
    found = await world.get(f"executions/{many.name}/page", find="SELECT 44")
    assert [call["seq"] for call in found["trace"]["calls"]] == [44, *range(440, 450)]
    assert (found["passage"]["found"], found["passage"]["total"]) == (11, 450)
    for wrong in ({"from": "-1"}, {"n": 0}, {"n": 5001}, {"find": "x" * 201}):
        assert (await world.refused(f"executions/{many.name}/page", **wrong))[:2] == (400, "FLX621"), wrong
    browser = await sign_in(world)
    shown = await world.ask(f"/_flux/e/{many.name}", headers=browser, token=None, find="select 44")
    assert isinstance(shown.body, bytes)
    read = check_page(shown.body)
    assert [each for each in read.list_values("id") if each.startswith("call-")] == [
        f"call-{seq}" for seq in (44, *range(440, 450))
    ]
    # Its JSON is whole, whatever of it the page shows.
    twin = await world.ask(f"/_flux/e/{many.name}.json", headers=browser, token=None, find="select 44")
    assert isinstance(twin.body, bytes)
    assert len(json.loads(twin.body)["documents"]["trace"]["calls"]) == 450


async def test_while_text_is_looked_for_others_are_answered_and_who_goes_away_ends_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    execution = make_execution(calls=(make_call(1, "clock.now", [], 17),))
    await world.add(execution)
    began, ended = threading.Event(), threading.Event()

    def search(_calls: object, _text: str, _first: int, _room: int, between: Callable[[], None]) -> Never:
        began.set()
        try:
            while True:
                between()
        finally:
            ended.set()

    monkeypatch.setattr(console_page, "choose_calls", search)
    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(world.get, f"executions/{execution.name}/page", find="x"))
            while not began.is_set():  # noqa: ASYNC110 - another thread sets it
                await trio.sleep(0.01)
            assert await world.get("functions")
            assert not ended.is_set()
            nursery.cancel_scope.cancel()
        assert ended.is_set()


async def test_an_error_is_a_page_that_says_what_it_is(world: World) -> None:
    browser = await sign_in(world)
    for path, query, status, said in (
        ("/_flux/", {"q": "statsu:500"}, 400, "FLX105"),
        ("/_flux/", {"limit": "5"}, 400, "FLX621"),
        ("/_flux/e/zzzzzzzz", {}, 404, "FLX101"),
        ("/_flux/e/<script>alert(1)", {}, 404, "<script>alert(1)"),
        ("/_flux/errors", {"since": "yesterdayish"}, 400, "FLX110"),
        ("/_flux/i/14:00", {}, 400, "FLX657"),
        ("/_flux/i/nobody", {}, 404, "FLX527"),
        ("/_flux/b/zzzzzzzz", {}, 404, "FLX101"),
        ("/_flux/x/zzzzzzzz", {}, 404, "FLX101"),
    ):
        page = await world.ask(path, headers=browser, token=None, **query)
        assert page.status == status and isinstance(page.body, bytes)
        assert said in check_page(page.body).text
        twin = await world.ask((path.rstrip("/") if path != "/_flux/" else "/_flux/executions") + ".json",
                               headers=browser, token=None, **query)  # fmt: skip
        assert dict(twin.headers)["content-type"] == "application/problem+json" and twin.status == status
    for path in ("/_flux/nothing", "/_flux/e", "/_flux/e/a/b", "/_flux/errors.events", "/_flux/static/../desk.py",
                 "/_flux/static/none.js"):  # fmt: skip
        assert code_of(await world.ask(path, headers=browser, token=None)) == (404, "NOT_FOUND"), path
    # Who goes there with a browser sees a page, whatever the address: it is somebody else's text.
    for path in ("/_flux/nothing", "/_flux/<img src=x onerror=alert(1)>", "/_flux/tenants"):
        missing = await world.ask(path, headers=browser | {"accept": "text/html,*/*;q=0.8"}, token=None)
        headers = dict(missing.headers)
        assert missing.status == 404 and headers["content-type"].startswith("text/html")
        assert headers["content-security-policy"] == POLICY and headers["x-content-type-options"] == "nosniff"
        assert isinstance(missing.body, bytes)
        shown = check_page(missing.body).text
        assert f"the console has nothing at {path}" in shown and "flux explain" not in shown
        assert b'<a href="/_flux/">All executions</a>' in missing.body and b"<img src" not in missing.body
    api = await world.ask("/_flux/api/nothing", headers={"accept": "text/html"})
    assert dict(api.headers)["content-type"] == "application/problem+json", "the API answers programs"


async def test_a_list_grows_by_events_and_goes_on_after_the_last_one(world: World) -> None:
    browser = await sign_in(world)
    await world.add(stored := make_execution(at_s=0))
    head = browser | {"last-event-id": "2025-11-25T14:02:00Z"}
    query = "status:>=500 function:create_user"
    answer = await world.ask("/_flux/executions.events", headers=head, token=None, q=query)
    assert dict(answer.headers)["content-type"] == "text/event-stream" and not isinstance(answer.body, bytes)
    failed, passed = make_execution(raised(), at_s=1), make_execution(at_s=2)
    for execution in (passed, failed):
        world.live.publish(summary_of_execution(execution), stored=True)
    with trio.fail_after(60):
        while not (event := await anext(answer.body)):
            pass
    told = json.loads(event.partition(b"data: ")[2])
    assert (told["name"], told["status"], told["href"]) == (failed.name, "500", f"/_flux/e/{failed.name}")
    assert stored.name.encode() not in event
    await answer.body.aclose()  # type: ignore[attr-defined]
    assert world.live.counts.subscribers == 0
    refused = await world.ask("/_flux/executions.events", headers=browser, token=None, q="statsu:500")
    assert code_of(refused) == (400, "FLX105")


async def test_the_chart_counts_what_began_in_each_minute(world: World) -> None:
    await world.add(make_execution(raised(), at_s=0), make_execution(at_s=1), make_execution(at_s=-90),
                    make_execution(at_s=-3700))  # fmt: skip
    activity = await world.get("activity")
    counted = {bucket["at"][11:16]: (bucket["executions"], bucket["failed"]) for bucket in activity["buckets"]}
    assert len(counted) == 60
    assert {at: found for at, found in counted.items() if found != (0, 0)} == {"14:02": (2, 1), "14:00": (1, 0)}
    assert (await world.get("activity", minutes=120))["buckets"][-1]["executions"] == 2
    assert (await world.refused("activity", minutes=0))[:2] == (400, "FLX621")


async def test_a_token_that_is_revoked_ends_its_sessions_and_one_for_reading_acts_on_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    found = TokenFound(
        name="ci", kind="console", scopes=("read",), created_at=now, expires_at=now + timedelta(hours=1),
        revoked_at=None, last_used_at=None,
    )  # fmt: skip
    given = "flux_" + "x" * 20
    tokens: dict[bytes, TokenFound] = {digest_token(given): found}

    async def find(digest: bytes, _now: datetime) -> TokenFound | None:
        await trio.lowlevel.checkpoint()
        return tokens.get(digest)

    async def ask(path: list[str], _request: Any) -> dict[str, Any] | HttpResponse:
        await trio.lowlevel.checkpoint()
        if path == ["tail"]:
            return HttpResponse(200, (), tell())
        return {"groups": [], "not_stored": 0, "tenants": []}

    async def tell() -> AsyncIterator[bytes]:
        while True:
            await trio.lowlevel.checkpoint()
            yield b'{"heartbeat":true}\n'

    desk = WebDesk(Door(TOKEN, (), find, lambda: now), ask, lambda: now, "http", lambda: True)

    async def send(path: str, **more: Any) -> HttpResponse:
        request = make_request(f"/_flux/{path}", token=None, **more)
        answer = await desk.answer(path.split("/"), request)
        assert answer is not None
        return answer

    opened = await send("session", method="POST", body=json.dumps({"token": given}).encode(), headers=OURS)
    browser = {"cookie": dict(opened.headers)["set-cookie"].partition(";")[0]}
    assert (await send("errors", headers=browser)).status == 200
    acts = (("write", "executions/x/replay"), ("write", "queue/x/retry"), ("write", "cron/x/resume"),
            ("write", "debugs/x"), ("write", "debugs/x/end"), ("deploy", "rollback"))  # fmt: skip
    for scope in ("read", "write", "deploy", "admin"):
        tokens[digest_token(given)] = attrs.evolve(found, scopes=(scope,))
        for needed, act in acts:
            answer = await send(f"act/{act}", method="POST", body=b"{}", headers=browser | OURS)
            allowed = WORDS.index(scope) >= WORDS.index(needed)
            assert answer.status == (200 if allowed else 403), (scope, act)
        # Who else is served is what the installation's own operators see.
        assert (await send("tenants", headers=browser)).status == (200 if scope == "admin" else 403), scope
    tokens[digest_token(given)] = found
    streams = [(await send("executions.events", headers=browser)).body for _ in range(2)]
    assert not any(isinstance(stream, bytes) for stream in streams)
    assert await anext(streams[0]) == b": here\n\n"  # type: ignore[arg-type]
    tokens.clear()
    assert (await send("errors", headers=browser)).status == 401
    monkeypatch.setattr(events, "ASKED_EVERY_S", 0.0)
    for stream in streams:
        with pytest.raises(StopAsyncIteration):
            await anext(stream)  # type: ignore[arg-type]
        await stream.aclose()  # type: ignore[union-attr]


def test_sessions_end_by_themselves_and_are_not_without_number() -> None:
    now = 0.0
    sessions = Sessions(lambda: now)
    https = make_request("/_flux/session", headers={"host": "shop.example", "origin": "https://shop.example"}).head
    first = sessions.open(https, "one")
    assert first.startswith("flux_session_0=") and "Secure" in first.split("; ")

    def come_back(cookie: str) -> str | None:
        headers = {"host": "shop.example", "cookie": cookie.partition(";")[0]}
        return sessions.find_token(make_request("/_flux/", headers=headers).head)

    assert come_back(first) == "one"
    # A page on another port of the host can set a cookie of this name, which comes first.
    assert come_back("flux_session_0=made-up") is None
    sent = {"host": "shop.example", "cookie": f"flux_session_0=made-up; {first.partition(';')[0]}"}
    assert sessions.find_token(make_request("/_flux/", headers=sent).head) == "one"
    for number in range(SESSIONS_MAX):
        last = sessions.open(https, str(number))
    assert come_back(first) is None and come_back(last) == str(SESSIONS_MAX - 1)
    now = SESSION_S
    assert come_back(last) is None


async def test_a_row_two_executions_and_the_checks_have_pages(world: World) -> None:
    ran = await world.run_as_guest(make_execution(), "insert into users values (42, 'a@b.com', 'free')")
    await world.add(failed := make_execution(raised()))
    browser = await sign_in(world)
    for path, query, said in (
        ("/_flux/state", {}, "Name a table"),
        ("/_flux/state", {"table": "users", "key": "42"}, ran.name),
        (f"/_flux/d/{failed.name}..{ran.name}", {}, "Calls"),
        ("/_flux/doctor", {}, "flux explain FLX420"),
        ("/_flux/i", {}, "No incident has a name"),
        ("/_flux/i/2025-11-25T14:00:00Z..2025-11-25T15:00:00Z", {}, failed.name),
        ("/_flux/b", {}, "No bisect was begun"),
    ):
        page = await world.ask(path, headers=browser, token=None, **query)
        assert page.status == 200 and isinstance(page.body, bytes)
        assert said in check_page(page.body).text
    for path, query in (("/_flux/state", {"table": "users"}), ("/_flux/d/one", {})):
        assert (await world.ask(path, headers=browser, token=None, **query)).status == 400


async def test_the_queue_has_a_page_that_has_a_dead_job_run_again_and_only_an_installation_has_tenants(
    world: World,
) -> None:
    at = "clock_timestamp() - interval '1 hour'"
    world.database.psql(
        "insert into flux.job (id, tenant, function, run_at, state, failures, attempt, ended_at, error) values "
        f"('01900000-0000-7000-8000-000000000001', 'main', 'email', {at}, 'dead', 3, 3, {at}, 'no <b>mail</b>'),"
        f"('01900000-0000-7000-8000-000000000002', 'main', 'email', {at}, 'waiting', 0, 0, null, null),"
        "('01900000-0000-7000-8000-000000000003', 'main', 'email', 'infinity', 'waiting', 0, 0, null, null)"
    )
    world.database.psql("update flux.job set run_at = clock_timestamp() + interval '1 day' where run_at = 'infinity'")
    (depth,) = (await world.get("queue"))["functions"]
    assert depth.pop("oldest_due_ms") >= 3_600_000
    assert depth == {"function": "email", "due": 1, "delayed": 1, "running": 0, "dead": 1}
    browser = await sign_in(world)
    page = await world.ask("/_flux/queue", headers=browser, token=None, state="dead")
    assert page.status == 200 and isinstance(page.body, bytes)
    read = check_page(page.body)
    assert "no <b>mail</b>" in read.text and "Nothing runs on a schedule" in read.text
    (act,) = read.list_values("data-act")
    retried = await post(world, act, {}, browser | OURS)
    assert retried.status == 200 and json.loads(retried.body)["job"]["state"] == "waiting"
    states = "select string_agg(state, ' ' order by id) from flux.job"
    assert world.database.psql(states).strip() == "waiting waiting waiting"
    assert code_of(await post(world, act, {}, browser | OURS)) == (409, "FLX577")
    assert code_of(await post(world, "/_flux/act/cron/none/pause", {}, browser | OURS)) == (404, "FLX599")
    for path, query, status, said in (
        ("/_flux/cron/none", {}, 404, "FLX599"),
        ("/_flux/queue", {"state": "lost"}, 400, "FLX621"),
    ):
        refused = await world.ask(path, headers=browser, token=None, **query)
        assert refused.status == status and isinstance(refused.body, bytes)
        assert said in check_page(refused.body).text
    # Nobody learns here who else is served: for this server there is no such page.
    for path in ("/_flux/tenants", "/_flux/tenants.json"):
        assert code_of(await world.ask(path, headers=browser, token=None)) == (404, "NOT_FOUND")


async def test_a_row_has_a_page_at_each_change_and_as_of_any_time(world: World) -> None:
    await world.run_as_guest(make_execution(), "insert into users values (41, 'b@b.com', 'free')")
    await add_mark(world.pool)  # Who had committed by now is known from now on, also of a server that notes no times.
    await world.run_as_guest(make_execution(), "insert into users values (42, 'a@b.com', 'free')")
    await add_mark(world.pool)
    await world.run_as_guest(make_execution(), "update users set plan = 'pro' where id = 42")
    browser = await sign_in(world)
    row = {"table": "users", "key": "42"}
    newer, older = [version["at"] for version in (await world.get("state/history", **row))["versions"]]

    async def look(**query: str) -> str:
        page = await world.ask("/_flux/state", headers=browser, token=None, **query)
        assert page.status == 200 and isinstance(page.body, bytes), page.body
        return " ".join(check_page(page.body).text.split())

    assert 'As v1 left it The row as it was Column Value id 42 email "a@b.com" plan "free"' in await look(
        **row, change=older
    )
    marked = await look(**row, mark=older)
    assert 'From v1 to now Columns before and after Column Before After plan "free" "pro"' in marked
    # Just before the second change was logged the row is what the first one had left.
    before, newer = (
        (datetime.fromisoformat(at) - timedelta(microseconds=1)).isoformat().replace("+00:00", "Z")
        for at in (older, newer)
    )  # fmt: skip
    then = await look(**row, time=newer)
    assert "As of " in then and 'plan "free"' in then.partition("The row as it was")[2].partition("Versions")[0]
    between = await look(table="users", **{"from": before, "to": newer})
    assert "users[42] came" in between and "flux state diff 'users'" in between
    twin = await world.ask("/_flux/state.json", headers=browser, token=None, **row, time=newer)
    documents = json.loads(twin.body)["documents"]
    assert documents.keys() == {"history", "blame", "at"}
    assert documents["at"] == await world.get("state/at", **row, time=newer)
    for query in (
        row | {"change": "2025-11-25T14:00:00.000000Z"}, row | {"mark": "then"}, row | {"change": "now"},
        row | {"change": older, "time": newer}, row | {"from": older, "to": newer},
        {"table": "users", "from": older}, {"from": older, "to": newer}, {"time": older},
        {"mark": older, "table": "users"},
    ):  # fmt: skip
        answer = await world.ask("/_flux/state", headers=browser, token=None, **query)
        assert answer.status == 400 and isinstance(answer.body, bytes), query
        assert "FLX621" in check_page(answer.body).text
