"""Stepping through executions over the console: who may, what a page is shown, and how sessions end.

Executions are recorded and followed with their real walls (`tests.followed`) behind a console over a real database.
What a question costs is counted where the runs are made.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from flux.execution import Execution, Level
from flux.mutation import Mutation, Operation
from flux.store.erasures import count_erasures
from flux.store.forgetting import forget_row
from flux.supervisor import console_debugs
from flux.supervisor.bisect_run import BisectRun
from flux.supervisor.debug_history import SHOWN_MAX, History, read_history
from flux.supervisor.debug_room import AT_ONCE_MAX, OBJECTS_TIMES, DebugRoom
from flux.supervisor.debug_sessions import (
    SEEN_BYTES_MAX,
    SESSIONS_MAX,
    DebugSession,
    DebugSessions,
    SessionEndedError,
    Stand,
    TooManySessionsError,
)
from flux.supervisor.debug_view import CALL_BYTES_MAX, list_calls, list_rows, tell_time
from flux.supervisor.debug_walk import Walk
from flux.supervisor.present import encode, summary_of_execution
from flux.supervisor.replay import Replay
from flux.supervisor.web.values import read
from flux.travel import VALUES_MAX, Tap, TracePlan
from tests.conftest import Database
from tests.console_world import NOW, World, WorldHost, make_call, make_execution, open_world, raised
from tests.followed import Followed, open_followed
from tests.hostile_pages import check_page
from tests.integration.test_web_console import OURS, code_of, post, sign_in

SHOP = '''\
from flux_guest import function


def price(line):
    if line < 0:
        raise ValueError(line)
    return line * 2


@function
def bill(ctx, input):
    total = 0
    for line in input["lines"]:
        total += price(line)
    ctx.db.query("select 1")
    return {"total": total}
'''
ROWS = {"db.query": {"columns": ["n"], "types": ["int4"], "rows": [[1]], "tag": "SELECT 1"}}


class FollowingHost(WorldHost):
    """Follows executions, counts how often, and waits where it is told to."""

    def __init__(self, followed: Followed) -> None:
        super().__init__()
        self.followed = followed
        self.runs = 0
        self.waits: trio.Event | None = None

    async def follow(self, original: Execution, tap: Tap) -> Replay:
        self.runs += 1
        if self.waits is not None:
            self.waits.set()
            await trio.sleep_forever()
        return await self.followed.replayer.follow(original, tap)

    async def find_code(self, original: Execution) -> Path:  # noqa: ARG002 - the protocol's
        return Path(self.followed.live.deployment.folder)


class CodelessHost(WorldHost):
    async def find_code(self, original: Execution) -> Path:  # noqa: ARG002 - the protocol's
        return Path("/nowhere")


async def go(world: World, name: str, **order: Any) -> dict[str, Any]:
    answer = await world.ask(f"debugs/{name}", method="POST", body=json.dumps(order).encode())
    assert answer.status == 200, answer.body
    assert isinstance(answer.body, bytes)
    told: dict[str, Any] = json.loads(answer.body)
    return told


async def test_a_post_goes_and_looks_and_a_get_shows_what_was_seen(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_followed(tmp_path, {"shop.py": SHOP}) as followed:
        failed = await followed.record("bill", b'{"lines": [5, 7, -1]}', ROWS)
        fine = await followed.record("bill", b'{"lines": [5]}', ROWS)
        many = await followed.record("bill", json.dumps({"lines": [1] * 1_100}).encode(), ROWS)
        host = FollowingHost(followed)
        async with open_world(database, host=host) as world:
            await world.add(failed, fine, many)
            browser = await sign_in(world)
            page, act = f"/_flux/x/{failed.name}", f"/_flux/act/debugs/{failed.name}"

            async def see(**query: object) -> str:
                shown = await world.ask(page, headers=browser, token=None, **query)
                assert shown.status == 200 and isinstance(shown.body, bytes)
                return " ".join(check_page(shown.body).text.split())

            # A page runs nothing, and neither does who has no token, or comes from elsewhere.
            assert "Nobody has looked at where it ended" in await see()
            assert "Nobody has looked at event 7" in await see(at=7)
            for headers, refusal in (
                (browser, (403, "FORBIDDEN")), (OURS, (401, "UNAUTHORIZED")),
                (browser | {"origin": "http://127.0.0.1:4001"}, (403, "FORBIDDEN")),
                (browser | OURS | {"content-type": "text/plain"}, (415, "UNSUPPORTED_MEDIA_TYPE")),
            ):  # fmt: skip
                assert code_of(await post(world, act, {}, headers)) == refusal
            assert (await world.ask(f"debugs/{failed.name}", method="POST", body=b"{}", token=None)).status == 401
            assert code_of(await post(world, "/_flux/act/debugs/zzzzzzzz", {}, browser | OURS)) == (404, "FLX101")
            assert (await world.get(f"debugs/{failed.name}"))["state"] == "none"
            assert host.runs == 0

            answer = await post(world, act, {}, browser | OURS)
            assert answer.status == 200 and isinstance(answer.body, bytes)
            first = json.loads(answer.body)
            at, runs = first["at"], host.runs
            assert (first["event"]["kind"], first["frame"]["locals"]) == ("exception", {"line": -1})
            assert (first["verdict"], first["between"]["from_ms"]) == ("same failure", 0.0)
            text = await see(at=at)
            assert "raises ValueError: -1" in text and "→here: 6 raise ValueError(line)" in text
            # Steps within what was told cost no run, and each has its page.
            back = await go(world, failed.name, at=at, go="prev")
            back = await go(world, failed.name, at=back["at"], go="prev")
            assert back["event"]["source"] == "if line < 0:"
            out = await go(world, failed.name, at=back["at"], go="out")
            assert (out["event"]["source"], out["frame"]["locals"]["total"]) == ("total += price(line)", 24)
            begun = await go(world, failed.name, at=1, go="back")
            assert (begun["at"], begun["said"]) == (1, "it begins here")
            assert host.runs == runs
            # What is looked for may cost some; the place of who looks elsewhere is its own.
            change = await go(world, failed.name, at=out["at"], change="total", ahead=False, watch="total")
            assert [value["value"] for value in change["history"]["values"]] == [0, 10, 24]
            assert change["frame"]["locals"]["total"] == 24 and change["at"] < out["at"]
            line = await go(world, failed.name, at=change["at"], to="shop.py:5 if line == 5", ahead=False)
            assert line["frame"]["locals"] == {"line": 5}
            nowhere = await go(world, failed.name, at=line["at"], to="line > 100")
            assert (nowhere["at"], nowhere["said"]) == (line["at"], f"not after event {line['at']}: line > 100")
            up = await go(world, failed.name, at=line["at"], up=1, expression="total, input['lines'][2]")
            assert [each["value"] for each in up["frame"]["values"]] == [0, -1]
            assert up["source"]["lines"][up["source"]["line"] - up["source"]["first"]].strip() == "total += price(line)"
            text = await see(at=line["at"], up=1, expression="total, input['lines'][2]")
            assert "input['lines'][2] = -1" in text and "Names of bill()" in text
            seen = await world.get(f"debugs/{failed.name}", at=out["at"])
            assert seen == out | {"said": ""}
            twin = await world.ask(f"{page}.json", headers=browser, token=None, at=out["at"])
            assert isinstance(twin.body, bytes) and json.loads(twin.body)["documents"] == {"debug": seen}

            # Another execution is another session; each ends by itself, and only if it is the one that is meant.
            other = await go(world, fine.name)
            assert other["session"] != first["session"] and other["calls"][0]["result"]["rows"] == [[1]]
            for number, was_open in ((other["session"], False), (first["session"], True), (first["session"], False)):
                body = json.dumps({"session": number}).encode()
                ended = await world.ask(f"debugs/{failed.name}/end", method="POST", body=body)
                assert isinstance(ended.body, bytes) and json.loads(ended.body)["ended"] is was_open
            assert "Nobody has looked" in await see(at=at)
            assert (await world.get(f"debugs/{fine.name}"))["state"] == "open"
            assert (await go(world, failed.name, at=at))["at"] == at, "a number leads to the same event again"

            for body, code in (
                (b'{"at": 0}', "FLX621"), (b'{"at": 10000}', "FLX671"), (b'{"go": "home"}', "FLX621"), (b"[", "FLX621"),
                (b'{"go": "next", "to": "a.py:1"}', "FLX621"), (b'{"to": " "}', "FLX621"), (b'{"up": 9}', "FLX681"),
                (b'{"watch": "a +"}', "FLX670"), (b'{"other": 1}', "FLX621"), (b'{"to": "x.py:1 if a ="}', "FLX670"),
                (b'{"expression": "%s"}' % (b"a" * 5000), "FLX621"),
            ):  # fmt: skip
                refused = await world.ask(f"debugs/{failed.name}", method="POST", body=body)
                assert code_of(refused) == (400, code), body
            for query in ({"at": "x"}, {"at": "0"}, {"up": "99"}, {"other": "1"}):
                shown = await world.ask(page, headers=browser, token=None, **query)
                assert shown.status == 400, query

            # Of more values than are told at once, those at the event.
            near = await go(world, many.name, at=100, watch="total")
            events = [value["event"] for value in near["history"]["values"]]
            assert len(events) == 200 and min(events) < 100 < max(events) and near["history"]["values_left_out"] > 800

            # Who gives up a session gives up the run that goes on in it.
            host.waits = trio.Event()
            answers = []

            async def ask_and_wait() -> None:
                answers.append(await post(world, act, {"at": 2, "expression": "total"}, browser | OURS))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask_and_wait)
                await host.waits.wait()
                await world.ask(f"debugs/{failed.name}/end", method="POST", body=b"{}")
            assert code_of(answers[0]) == (400, "FLX686")
            # And a question has its time, also where nobody gives it up.
            monkeypatch.setattr(console_debugs, "QUESTION_S_MAX", 0.1)
            body = json.dumps({"at": 2, "expression": "total"}).encode()
            refused = await world.ask(f"debugs/{failed.name}", method="POST", body=body)
            assert code_of(refused) == (400, "FLX688")


async def test_other_languages_are_stepped_through_at_their_host_calls(database: Database) -> None:
    calls = tuple(make_call(seq, "db.query", [f"select {seq}", []], {"rows": [[seq]]}) for seq in range(1, 31))
    made = make_execution(raised(), level=Level("wasm", "core", "wasm"), calls=calls)

    async with open_world(database, host=CodelessHost()) as world:
        await world.add(made)
        browser = await sign_in(world)
        last = await go(world, made.name)
        assert (last["granularity"], last["at"], last["total"], last["verdict"]) == ("host call", 30, 30, None)
        third = await go(world, made.name, at=2, go="next")
        assert third["frame"]["locals"]["result"] == {"rows": [[3]]}
        assert (third["calls_before"], len(third["calls"]), third["calls_after"]) == (0, 13, 17)
        assert (await go(world, made.name, at=30, go="next"))["said"] == "it ends here"
        refused = await world.ask(f"debugs/{made.name}", method="POST", body=b'{"to": "total > 1"}')
        assert code_of(refused) == (400, "FLX673")
        shown = await world.ask(f"/_flux/x/{made.name}", headers=browser, token=None, at=3)
        assert isinstance(shown.body, bytes)
        page = check_page(shown.body)
        assert "Its steps are its host calls" in page.text and "target" not in page.list_values("id")
        assert f"/_flux/e/{made.name}#call-3" in page.list_values("href")


async def test_few_sessions_are_open_and_one_that_is_not_asked_ends(autojump_clock: MockClock) -> None:
    released = trio.Event()
    at_once = busiest = 0

    async def ask(_question: dict[str, Any]) -> dict[str, Any]:
        raise AssertionError("nothing is looked at here")

    async def make(number: int) -> DebugSession:
        await trio.lowlevel.checkpoint()
        execution = make_execution(raised(), at_s=number)
        return DebugSession(number, execution, {}, Walk(ask), NOW, trio.current_time(), 0)

    async def tell(session: DebugSession) -> int:
        await trio.lowlevel.checkpoint()
        return session.number

    async def wait(session: DebugSession) -> int:
        nonlocal at_once, busiest
        at_once += 1
        busiest = max(busiest, at_once)
        await released.wait()
        at_once -= 1
        return session.number

    async with trio.open_nursery() as nursery:
        sessions = DebugSessions(nursery.start_soon, DebugRoom().own, idle_s=60)
        keys = [UUID(int=number) for number in range(6)]
        for key in keys[:SESSIONS_MAX]:
            await sessions.ask(key, make, tell)
            await trio.sleep(1)
        assert sessions.find(keys[0]) is not None, "and by that the one that was used last"
        # One more takes the place of the one that was used longest ago.
        assert await sessions.ask(keys[4], make, tell) == 5
        assert [number for number, key in enumerate(keys) if sessions.find(key)] == [0, 2, 3, 4]
        # Of two who ask about the same at once, both are in one session.
        told: list[int] = []

        async def ask_same() -> None:
            told.append(await sessions.ask(keys[1], make, tell))

        async with trio.open_nursery() as both:
            both.start_soon(ask_same)
            both.start_soon(ask_same)
        assert len(set(told)) == 1
        open_keys = [key for key in keys if sessions.find(key)]
        for key in open_keys:
            nursery.start_soon(sessions.ask, key, make, wait)
        await trio.testing.wait_all_tasks_blocked()
        assert busiest == AT_ONCE_MAX
        absent = next(key for key in keys if key not in open_keys)
        with pytest.raises(TooManySessionsError):
            await sessions.ask(absent, make, tell)
        await trio.sleep(600)
        assert all(sessions.find(key) for key in open_keys), "they are being asked, however long that takes"
        released.set()
        await trio.sleep(59)
        sessions.find(open_keys[0])
        await trio.sleep(59)
        assert [bool(sessions.find(key)) for key in open_keys] == [True, False, False, False]
        sessions.close()
        assert sessions.find(open_keys[0]) is None
        await trio.testing.wait_all_tasks_blocked()
        assert not nursery.child_tasks, "nothing of a session goes on"


async def test_what_a_session_keeps_is_bounded() -> None:
    session = DebugSession(1, make_execution(), {}, Walk(refuse), NOW, 0.0, 0)
    large = b"x" * (SEEN_BYTES_MAX // 4)
    for at in range(1, 12):
        session.keep(Stand(at), large)
    assert [at for at in range(1, 12) if session.find(Stand(at))] == [8, 9, 10, 11]
    session.keep(Stand(12), large * 5)
    assert session.find(Stand(12)) is not None, "the latest is shown, however long it is"
    assert [at for at in range(1, 12) if session.find(Stand(at))] == []


async def test_servers_of_a_process_share_what_their_sessions_take() -> None:
    """Of memory all, of runs all: a tenant has one of them at most, so that the others' go on."""
    room = DebugRoom(bytes_max=1_000_000)
    released = trio.Event()
    running: list[str] = []

    def make_session(number: int, held: int) -> DebugSession:
        execution = make_execution(body=b"x" * held)
        return DebugSession(number, execution, {}, Walk(refuse), NOW, trio.current_time(), 0)

    async def tell(session: DebugSession) -> int:
        await trio.lowlevel.checkpoint()
        return session.number

    async with trio.open_nursery() as nursery:
        own = DebugSessions(nursery.start_soon, room.own)
        tenants = [DebugSessions(nursery.start_soon, room.add_part()) for _ in range(2)]

        async def open_one(sessions: DebugSessions, number: int, held: int = 300_000) -> None:
            async def make(numbered: int) -> DebugSession:
                await trio.lowlevel.checkpoint()
                return make_session(numbered, held)

            await sessions.ask(UUID(int=number), make, tell)

        def list_open(sessions: DebugSessions) -> list[int]:
            return [number for number in range(9) if UUID(int=number) in sessions._open]

        await open_one(own, 1)
        await open_one(tenants[0], 2)
        await open_one(tenants[0], 3)
        assert 900_000 < room.held_bytes <= 1_000_000
        # Who needs room gives up its own first, and then others', as long as nobody waits for them.
        await open_one(tenants[0], 4)
        assert (list_open(own), list_open(tenants[0])) == ([1], [3, 4])
        await open_one(tenants[1], 5)
        assert (list_open(own), list_open(tenants[0]), list_open(tenants[1])) == ([], [3, 4], [5])
        # What grows while it is asked counts as well: answers, values of names, and windows as the objects they are.
        session = tenants[1].find(UUID(int=5))
        assert session is not None

        async def grow(session: DebugSession) -> int:
            await trio.lowlevel.checkpoint()
            session.keep(Stand(1), b"x" * 300_000)
            session.keep(Stand(2), b"x" * 1_000)
            session.histories["i"] = History("i", ((1, b"7" * 300_000),), 0, 0)
            session.walk.kept_bytes = 400_000 // OBJECTS_TIMES
            session.sources["a.py"] = ["x" * 300_000]
            return session.number

        await tenants[1].ask(UUID(int=5), refuse_to_make, grow)
        assert (list_open(tenants[0]), list_open(tenants[1])) == ([], [5])
        assert session.find(Stand(1)) is None and session.find(Stand(2)) is not None, "all but the latest answer went"
        assert (session.histories, session.walk.kept_bytes) == ({}, 0) and room.held_bytes < 400_000

        async def wait(session: DebugSession) -> None:
            running.append(session.execution.name)
            await released.wait()

        async def ask_and_wait(sessions: DebugSessions, number: int) -> None:
            session = make_session(number, 10)

            async def make(_numbered: int) -> DebugSession:
                await trio.lowlevel.checkpoint()
                return session

            await sessions.ask(UUID(int=number), make, wait)

        nursery.start_soon(ask_and_wait, tenants[0], 6)
        nursery.start_soon(ask_and_wait, tenants[0], 7)
        await trio.testing.wait_all_tasks_blocked()
        assert len(running) == 1, "one of a tenant's"
        nursery.start_soon(ask_and_wait, tenants[1], 6)
        nursery.start_soon(ask_and_wait, own, 6)
        await trio.testing.wait_all_tasks_blocked()
        assert len(running) == AT_ONCE_MAX == 2, "one of another's; and no more"
        with pytest.raises(TooManySessionsError, match="no memory"):
            await open_one(own, 8, 2_000_000)
        released.set()
        await trio.testing.wait_all_tasks_blocked()
        assert len(running) == 4
        await open_one(own, 8, 2_000_000)
        assert (list_open(own), list_open(tenants[0]), list_open(tenants[1])) == ([8], [], []), "one may be of any size"
        nursery.cancel_scope.cancel()
    assert room.held_bytes == 0, "a server that fails leaves nothing in it"


async def refuse_to_make(number: int) -> DebugSession:
    raise AssertionError(number)


async def test_what_was_read_before_records_were_forgotten_makes_no_session() -> None:
    records = ["with the value", "without it"]
    is_read, goes_on = trio.Event(), trio.Event()
    told: list[str] = []

    async def make(number: int) -> DebugSession:
        record = records[number - 1]
        is_read.set()
        await goes_on.wait()
        return DebugSession(number, make_execution(), {"record": record}, Walk(refuse), NOW, trio.current_time(), 0)

    async def tell(session: DebugSession) -> str:
        await trio.lowlevel.checkpoint()
        return str(session.summary["record"])

    async with trio.open_nursery() as nursery:
        sessions = DebugSessions(nursery.start_soon, DebugRoom().own)

        async def ask() -> None:
            told.append(await sessions.ask(UUID(int=1), make, tell))

        async with trio.open_nursery() as asking:
            asking.start_soon(ask)
            await is_read.wait()
            sessions.close()  # As the end of an erasure does.
            goes_on.set()
        kept = sessions.find(UUID(int=1))
        assert told == ["without it"] and kept is not None and kept.summary == {"record": "without it"}

        # An answer that is ready at the moment at which all end is of the old record too.
        async def end_and_tell(session: DebugSession) -> str:
            await trio.lowlevel.checkpoint()
            sessions.close()
            return str(session.summary["record"])

        with pytest.raises(SessionEndedError):
            await sessions.ask(UUID(int=1), make, end_and_tell)
        nursery.cancel_scope.cancel()


async def test_sessions_end_when_a_row_is_forgotten_and_not_when_that_is_only_asked(database: Database) -> None:
    calls = (make_call(1, "db.query", ["select 1", []], {"rows": [["ana@forget.example"]]}),)
    made = make_execution(
        body=b'{"email": "ana@forget.example"}', level=Level("wasm", "core", "wasm"), calls=calls
    )
    async with open_world(database, host=CodelessHost()) as world:
        made = await world.run_as_guest(made, "insert into users values (1, 'ana@forget.example', 'pro')")
        database.psql("delete from users")
        assert (await go(world, made.name))["frame"]["locals"]["result"] == {"rows": [["ana@forget.example"]]}
        for key, dry_run, status in (("1", 1, 200), ("2", 0, 400), ("{", 0, 400)):
            answer = await world.ask(
                "records/forget", method="POST", body=b"{}", table="users", key=key, dry_run=dry_run
            )
            assert answer.status == status, answer.body
            assert (await world.get(f"debugs/{made.name}"))["state"] == "open", key
        answer = await world.ask("records/forget", method="POST", body=b"{}", table="users", key="1")
        assert answer.status == 200, answer.body
        assert (await world.get(f"debugs/{made.name}"))["state"] == "none"
        assert "ana@forget.example" not in json.dumps(await go(world, made.name))

        # Another server of the same database takes a row out, and tells nobody.
        other = make_execution(body=b'{"email": "eva@forget.example"}', level=Level("wasm", "core", "wasm"))
        other = await world.run_as_guest(other, "insert into users values (2, 'eva@forget.example', 'pro')")
        database.psql("delete from users")
        await go(world, other.name)
        run = BisectRun(never_ask, never_compare, summary_of_execution(other), None, None)
        world.console._runs.begin(f"the bisect of {other.name}", run, await count_erasures(world.pool, "main"))
        assert len((await world.get("bisects"))["runs"]) == 1
        await forget_row(world.pool, "main", "public", "users", "2", bytes(32), dry_run=False)
        assert (await world.get(f"debugs/{other.name}"))["state"] == "none"
        assert (await world.get("bisects"))["runs"] == []

        # One that takes a row out itself gives up all at once.
        world.console._runs.begin(f"the bisect of {made.name}", run, await count_erasures(world.pool, "main"))
        await world.run_as_guest(make_execution(), "insert into users values (3, 'ida@forget.example', 'pro')")
        database.psql("delete from users")
        answer = await world.ask("records/forget", method="POST", body=b"{}", table="users", key="3")
        assert answer.status == 200, answer.body
        assert world.console._runs.list("") == []


async def never_ask(_question: str, _body: Mapping[str, Any]) -> dict[str, Any]:
    await trio.sleep_forever()


async def never_compare(_a: str, _b: str) -> dict[str, Any]:
    await trio.sleep_forever()


@pytest.mark.parametrize("long", [0, 20_000])
async def test_of_many_values_those_nearest_to_the_event_are_told(long: int) -> None:
    """5,000 values, of which a run tells a thousand; where they are long, there is room for few."""
    runs = 0
    values = [json.dumps([10 * number + 3, "a.py", 2, "f", [f"{number}" + "x" * long]]) for number in range(5_000)]

    async def ask(question: dict[str, Any]) -> dict[str, Any]:
        nonlocal runs
        runs += 1
        await trio.lowlevel.checkpoint()
        tap = Tap(TracePlan(before=question.get("before"), after=question.get("after")))
        for value in values:
            tap.take(f'["trace","value",{value}]\n'.encode())
        told = [{"event": each.event, "value": each.values[0].rstrip("x")} for each in tap.values]
        if long:
            told = [each | {"padding": "x" * long} for each in told]
        return {"values": told, "values_left_out": tap.values_count - len(told)}

    def see(history: History, at: int) -> list[int]:
        told = read(encode(history.show(at)))
        events = [value["event"] for value in told["values"]]
        assert told["values_left_out"] + len(events) == 5_000
        assert [int(value["value"]) for value in told["values"]] == [event // 10 for event in events]
        return events

    for at, costs in ((100, 3), (25_000, 3), (49_000, 1), (60_000, 1)):
        runs = 0
        history = await read_history(ask, "i", at)
        assert runs == costs and history.serves(at)
        events = see(history, at)
        nearest = sorted(range(3, 50_000, 10), key=lambda each: abs(each - at))
        assert set(nearest[:5]) <= set(events)
        assert events == list(range(events[0], events[-1] + 10, 10)), "without a gap"
        assert len(events) == SHOWN_MAX if not long else len(events) < 60
    # It serves what is near, and nothing else.
    history = await read_history(ask, "i", 25_000)
    assert history.serves(25_010) and not history.serves(100) and not history.serves(49_000)
    assert (history.serves(28_000), history.serves(36_000)) == (not long, False)
    assert VALUES_MAX == 1_000


async def refuse(question: dict[str, Any]) -> dict[str, Any]:
    raise AssertionError(question)


def test_rows_and_calls_are_told_as_of_an_event_and_what_is_long_is_left_out() -> None:
    calls = (
        make_call(1, "db.query", ["select 1", []], {"rows": []}),
        make_call(2, "db.query", ["select 2", ["x" * CALL_BYTES_MAX]], {"rows": []}),
    )

    def change(key: int, op: Operation, before: str | None, after: str | None, call: int | None) -> Mutation:
        return Mutation("public", "users", f'{{"id": {key}}}', op, before, after, key != 7, 1, 1, call=call)

    changes = (
        change(42, Operation.UPDATE, '{"plan": "free"}', '{"plan": "pro"}', 1),
        change(42, Operation.UPDATE, '{"plan": "pro"}', '{"plan": null}', 2),
        change(7, Operation.DELETE, '{"plan": "old"}', None, 2),
        change(8, Operation.INSERT, None, '{"plan": "new"}', 2),
        change(9, Operation.INSERT, None, '{"plan": "new"}', None),
        Mutation("public", "users", None, Operation.TRUNCATE, None, None, True, 1, 1, call=1),
    )
    execution = make_execution(calls=calls, mutations=changes)
    told = list_rows(execution, 1, 1)
    assert (told["row_count"], told["rows_unplaced"]) == (3, 2)
    rows = read(encode(told))["rows"]
    seen = {row["key"]["id"]: (row["row"], row["exists"], row["since"], row["until"]) for row in rows}
    assert seen == {
        42: ({"plan": "pro"}, True, 1, None), 7: ({"plan": "old"}, True, None, 2), 8: (None, False, None, 2),
    }  # fmt: skip
    after = {row["key"]["id"]: row for row in read(encode(list_rows(execution, 2, 2)))["rows"]}
    assert (after[42]["row"], after[7]["exists"], after[7]["committed"]) == ({"plan": None}, False, False)
    first, second = list_calls(execution, 1, 1)["calls"]
    assert (first["heard"], second["heard"]) == (True, False)
    # Call 2 is on its way: what it answers and does is not of the past yet.
    going = {row["key"]["id"]: row for row in read(encode(list_rows(execution, 2, 1)))["rows"]}
    assert [going[key]["exists"] for key in (42, 7, 8)] == [None, None, None]
    assert [going[key]["row"] for key in (42, 7, 8)] == [None, None, None]
    assert [call["heard"] for call in list_calls(execution, 2, 1)["calls"]] == [True, False]
    assert first["whole"] and not second["whole"] and second["arguments"] is None
    assert tell_time(execution, 1) == {"from_ms": 1.0, "to_ms": 2.0}
    assert tell_time(execution, 0) == {"from_ms": 0.0, "to_ms": 1.0}
