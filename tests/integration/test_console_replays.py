"""The console's replays of many executions: a stream of what became of each, and what is announced before them."""

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import attrs
import pytest
import trio

from flux.brought import BroughtAnswer
from flux.deployment import Deployment
from flux.errors import OperatorError
from flux.execution import Execution, Returned
from flux.message import HttpResponse
from flux.supervisor import console_replay, console_replays, replay_many
from flux.supervisor.replay import Replay, UnreplayableError
from flux.verdict import Replayed, judge
from tests.conftest import Database
from tests.console_world import World, WorldHost, make_execution, open_world, raised, read
from tests.postgres_server import PostgresServer

WINDOW = "since:2025-11-25T14:00:00Z until:2025-11-25T15:00:00Z"


class AwayError(OperatorError):
    """What says nothing of one execution alone."""

    code = "FLX222"
    exit_code = 5


class ReplayingHost(WorldHost):
    """Replays by answering 200; what is to go wrong, or to last, is said before, by the execution's name."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: dict[str, Exception] = {}
        self.expected: list[list[str]] = []
        self.replayed: list[str] = []
        self.running = self.most_at_once = 0
        self.is_held = False

    def expect(self, originals: Sequence[Execution]) -> None:
        self.expected.append([original.name for original in originals])

    async def replay(
        self, original: Execution, on: str | None, answers: Mapping[int, BroughtAnswer], live: frozenset[str]
    ) -> Replay:
        assert (on, answers, live) == (".", {}, frozenset())
        self.running += 1
        self.most_at_once = max(self.running, self.most_at_once)
        try:
            await trio.lowlevel.checkpoint()
            if self.is_held:
                await trio.sleep_forever()
            if (failure := self.failures.get(original.name)) is not None:
                raise failure
        finally:
            self.running -= 1
        self.replayed.append(original.name)
        execution = attrs.evolve(original, outcome=Returned(200, (), b"{}"), deployment="d2")
        deployment = Deployment("d2", "3f9c1e2d", False, None, "", ())
        replayed = Replayed(execution)
        return Replay(original, on, deployment, replayed, judge(original, replayed), {})


@pytest.fixture
def host() -> ReplayingHost:
    return ReplayingHost()


@pytest.fixture(scope="module")
def shared_database(
    postgres18: PostgresServer, make_database: Callable[[PostgresServer], Database]
) -> Database:
    """Making one takes a while, and each test begins with no execution in it."""
    return make_database(postgres18)


@pytest.fixture
async def world(shared_database: Database, host: ReplayingHost) -> AsyncIterator[World]:
    shared_database.psql("truncate flux.execution cascade")
    async with open_world(shared_database, heartbeat_s=0.05, host=host) as opened:
        yield opened


async def add(world: World, count: int) -> list[str]:
    """Store failing executions; return their names, the oldest first."""
    executions = [make_execution(raised(), at_s=number / 1000) for number in range(count)]
    await world.add(*executions)
    return [execution.name for execution in executions]


async def ask(world: World, **body: Any) -> HttpResponse:
    return await world.ask("replays", method="POST", body=json.dumps({"q": WINDOW, **body}).encode(), on=".")


async def lines(response: HttpResponse) -> list[dict[str, Any]]:
    assert response.status == 200, response.body
    assert not isinstance(response.body, bytes)
    return [line async for piece in response.body if "heartbeat" not in (line := json.loads(piece))]


async def test_each_replay_is_told_as_it_ends_and_the_last_line_says_that_these_were_all(
    world: World, host: ReplayingHost
) -> None:
    names = await add(world, 5)
    host.failures[names[1]] = UnreplayableError("its record is not whole: log lines", remedy="")
    head, *replays, end = await lines(await ask(world))
    assert head == {"schema": "flux.replays/1", "on": ".", "total": 5, "not_stored": 0}
    assert end == {"end": {"replayed": 5, "problem": None}}
    by_number = {replay["number"]: replay for replay in replays}
    assert [by_number[number]["execution"]["name"] for number in range(5)] == names
    assert [by_number[number]["verdict"] for number in range(5)] == [
        "passed", "unreplayable", "passed", "passed", "passed"
    ]  # fmt: skip
    assert by_number[0]["schema"] == "flux.replay/1"
    assert by_number[1]["reason"] == "FLX312 its record is not whole: log lines"
    assert host.expected == [names]


async def test_a_window_is_read_a_batch_at_a_time_and_no_more_run_at_once_than_was_said(
    world: World, host: ReplayingHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_many, "BATCH", 3)
    monkeypatch.setattr(console_replays, "PAGE", 4)
    names = await add(world, 8)
    replays = (await lines(await ask(world, at_once=1)))[1:-1]
    assert [replay["execution"]["name"] for replay in replays] == names == host.replayed
    assert (host.expected, host.most_at_once) == ([names[:3], names[3:6], names[6:]], 1)


async def test_replays_are_told_without_their_calls_to_who_wants_verdicts(world: World) -> None:
    await add(world, 1)
    whole = (await lines(await ask(world)))[1]
    lean = (await lines(await ask(world, calls=False)))[1]
    assert (whole["calls"], whole["replayed"]["output"]["body"]) == ([], {})
    assert "calls" not in lean
    assert lean["replayed"]["output"] is None
    assert (lean["verdict"], lean["grades"]) == (whole["verdict"], whole["grades"])


async def test_a_window_without_executions_has_a_beginning_and_an_end(world: World) -> None:
    assert await lines(await ask(world)) == [
        {"schema": "flux.replays/1", "on": ".", "total": 0, "not_stored": 0},
        {"end": {"replayed": 0, "problem": None}},
    ]


async def test_what_is_not_about_one_of_them_ends_all_and_is_told(world: World, host: ReplayingHost) -> None:
    names = await add(world, 20)
    host.failures[names[4]] = AwayError("the database is away", remedy="flux doctor")
    end = (await lines(await ask(world)))[-1]["end"]
    assert end["problem"] == {
        "code": "FLX222", "detail": "the database is away", "remedy": "flux doctor", "exit": 5
    }  # fmt: skip
    assert end["replayed"] < 20
    assert len(host.replayed) < 20


async def test_a_record_that_can_not_be_read_is_unreplayable_and_the_others_go_on(world: World) -> None:
    names = await add(world, 3)
    id = next(one["id"] for one in (await world.get("executions"))["executions"] if one["name"] == names[1])
    world.database.psql(f"update flux.execution set format = 9999 where id = '{id}'")
    head, *replays, end = await lines(await ask(world))
    assert (head["total"], end["end"]["problem"]) == (3, None)
    told = {replay["execution"]["name"]: replay["verdict"] for replay in replays}
    assert told == {names[0]: "passed", names[1]: "unreplayable", names[2]: "passed"}


async def test_a_fault_of_flux_cuts_the_stream_and_is_raised_to_who_sends_it(
    world: World, host: ReplayingHost
) -> None:
    names = await add(world, 2)
    host.failures[names[0]] = ZeroDivisionError("a fault")
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        await lines(await ask(world))


async def test_who_goes_stops_what_is_running(world: World, host: ReplayingHost) -> None:
    await add(world, 5)
    host.is_held = True
    response = await ask(world, at_once=3)
    body = response.body
    assert not isinstance(body, bytes)
    stream = aiter(body)
    assert json.loads(await anext(stream))["total"] == 5
    while host.running < 3:
        # One that is silent says that it lives.
        assert json.loads(await anext(stream)) == {"heartbeat": True}
    assert host.most_at_once == 3
    await body.aclose()  # type: ignore[attr-defined]
    with trio.fail_after(180):
        while host.running:
            await trio.lowlevel.checkpoint()
    assert host.replayed == []


async def test_a_stream_that_nobody_reads_begins_nothing(world: World, host: ReplayingHost) -> None:
    await add(world, 2)
    response = await ask(world)
    await response.body.aclose()  # type: ignore[union-attr]
    await trio.testing.wait_all_tasks_blocked()
    assert host.expected == []


async def test_a_server_that_stops_says_so_and_how_far_it_was(world: World, host: ReplayingHost) -> None:
    await add(world, 3)
    host.is_held = True
    response = await ask(world)
    assert not isinstance(response.body, bytes)
    stream = aiter(response.body)
    await anext(stream)
    while not host.running:
        await anext(stream)
    world.console.close()
    end = json.loads(await anext(stream))["end"]
    assert (end["replayed"], end["problem"]["code"], end["problem"]["exit"]) == (0, "FLX347", 5)
    assert "0 of 3" in end["problem"]["detail"]
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    assert host.running == 0


async def test_more_than_can_be_replayed_is_refused_before_any_is(
    world: World, host: ReplayingHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console_replays, "EXECUTIONS_MAX", 2)
    await add(world, 3)
    status, code, text = await world.refused("replays", method="POST", body=b'{"q": ""}', on=".")
    assert (status, code) == (400, "FLX346")
    assert "narrower" in text
    assert host.expected == []


MEANINGLESS = [
    b"", b"{}", b"[]", b'{"q": 1}', b'{"q": "", "more": 1}', b'{"q": "", "at_once": 0}', b'{"q": "nosuch:1"}',
    b'{"q": "", "at_once": 33}', b'{"q": "", "at_once": "2"}', b'{"q": "since:yesterdayish"}', b"[" * 100_000,
    b'{"q": "' + b"\xff" + b'"}',
]  # fmt: skip


async def test_a_body_of_replays_that_means_nothing_is_refused(world: World, host: ReplayingHost) -> None:
    for body in MEANINGLESS:
        status, code, _ = await world.refused("replays", method="POST", body=body, on=".")
        assert (status, code[:3]) == (400, "FLX"), body
    assert host.expected == []


# --- what is announced ---------------------------------------------------------------------------------


async def test_executions_are_announced_with_their_records(world: World, host: ReplayingHost) -> None:
    names = await add(world, 3)
    executions = (await world.get("executions"))["executions"]
    body = json.dumps({"executions": [one["id"] for one in executions]}).encode()
    answer = await world.ask("expect", method="POST", body=body)
    assert (answer.status, read(answer)) == (200, {"schema": "flux.expected/1", "executions": 3})
    assert host.expected == [names[::-1]]
    assert read(await world.ask("expect", method="POST", body=b'{"executions": []}'))["executions"] == 0


ANNOUNCES_NOTHING = [
    b"", b"{}", b"[]", b"nul", b'{"executions": "x"}', b'{"executions": ["qk3f81xa"]}', b'{"executions": [1]}',
    b'{"executions": {}}', b'{"executions": [], "more": []}', b'{"others": []}', b'{"executions": [null]}',
    b'{"executions": ["' + b"\xff" + b'"]}', b'{"executions": ' + b"[" * 100_000,
]  # fmt: skip


async def test_a_body_that_announces_nothing_is_refused(world: World, host: ReplayingHost) -> None:
    for body in ANNOUNCES_NOTHING:
        status, code, text = await world.refused("expect", method="POST", body=body)
        assert (status, code, text.partition(" / ")[2] != "") == (400, "FLX621", True), body
    assert host.expected == []


async def test_an_execution_that_is_not_there_is_not_announced(world: World, host: ReplayingHost) -> None:
    await add(world, 1)
    known = (await world.get("executions"))["executions"][0]["id"]
    unknown = "01900000-0000-7000-8000-000000000000"
    body = json.dumps({"executions": [known, unknown]}).encode()
    status, code, text = await world.refused("expect", method="POST", body=body)
    assert (status, code) == (404, "FLX101")
    assert unknown in text
    assert host.expected == []


async def test_no_more_are_announced_at_once_than_a_server_holds_in_memory(
    world: World, host: ReplayingHost
) -> None:
    await add(world, 1)
    known = (await world.get("executions"))["executions"][0]["id"]
    most = console_replay.EXPECTED_MAX
    body = json.dumps({"executions": [known] * (most + 1)}).encode()
    status, code, text = await world.refused("expect", method="POST", body=body)
    assert (status, code) == (400, "FLX621")
    assert str(most) in text
    assert host.expected == []


@pytest.mark.parametrize("path", ["expect", "replays"])
async def test_neither_is_asked_with_get_nor_without_the_token(world: World, path: str) -> None:
    assert (await world.ask(path)).status == 405
    assert (await world.ask(path, method="POST", body=b"{}", token=None)).status == 401
