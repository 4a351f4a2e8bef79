"""Windows of time on the console: what is in one, and replays that go on without whoever began them."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import trio
import trio.testing

from flux.execution import Trigger
from flux.supervisor.replay import UnreplayableError
from flux.supervisor.runs import AlreadyRunningError, Runs, TooManyRunsError
from tests.conftest import Database
from tests.console_world import NOW, World, make_execution, open_world, raised
from tests.integration.test_console_replays import AwayError, ReplayingHost
from tests.postgres_server import PostgresServer

WINDOW = "2025-11-25T14:00:00Z..2025-11-25T15:00:00Z"
EMPTY = "2025-11-25T12:00:00Z..2025-11-25T13:00:00Z"


@pytest.fixture
def host() -> ReplayingHost:
    return ReplayingHost()


@pytest.fixture(scope="module")
def shared_database(postgres18: PostgresServer, make_database: Callable[[PostgresServer], Database]) -> Database:
    """Making one takes a while, and each test begins with no execution in it."""
    return make_database(postgres18)


@pytest.fixture
async def world(shared_database: Database, host: ReplayingHost) -> AsyncIterator[World]:
    shared_database.psql("truncate flux.execution, flux.incident cascade")
    async with open_world(shared_database, host=host) as opened:
        yield opened


async def post(world: World, path: str, document: object) -> tuple[int, Any]:
    answer = await world.ask(path, method="POST", body=json.dumps(document).encode())
    assert isinstance(answer.body, bytes)
    return answer.status, json.loads(answer.body)


async def wait_run(world: World, window: str, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    with trio.fail_after(120):
        while not is_so(run := await world.get(f"incidents/{window}/replay")):
            await trio.lowlevel.checkpoint()
    return run


async def test_a_window_is_read_and_counted_and_may_have_a_name(world: World) -> None:
    await world.add(make_execution(raised()), make_execution(raised(), at_s=-7200), make_execution(at_s=1))
    counted = await world.get(f"incidents/{WINDOW}")
    assert (counted["name"], counted["executions"], counted["failed"]) == (None, 2, 1)
    status, _ = await post(world, "incidents", {"name": "outage", "window": "since:14:00 until:14:03"})
    assert status == 200
    assert (await world.get("incidents/outage"))["failed"] == 1
    last = await world.get("incidents/last:15m")
    assert (last["until"], last["executions"]) == ("2025-11-25T14:03:00.000000Z", 2)
    for window, code in (("14:00", "FLX657"), ("2025-11-26..2025-11-25", "FLX657"), ("nobody", "FLX527"),
                         ("14:00 status:500..14:05", "FLX657"), ("now..14:00", "FLX105")):  # fmt: skip
        assert (await world.refused(f"incidents/{window}"))[1] == code, window


async def test_replays_of_a_window_go_on_alone_and_say_what_became_of_each(world: World, host: ReplayingHost) -> None:
    passed, failed = [make_execution(raised(), at_s=second) for second in (1, 2)]
    # A replay that failed has its record in the window, and is no request of then.
    await world.add(passed, failed, make_execution(at_s=3), make_execution(raised(), at_s=4, trigger=Trigger("replay")))
    host.failures[failed.name] = UnreplayableError("its record is not whole", remedy="")
    assert (await world.get(f"incidents/{WINDOW}/replay"))["state"] == "none"
    status, begun = await post(world, f"incidents/{WINDOW}/replay", {"on": "."})
    assert (status, begun["state"], begun["total"]) == (200, "running", 2)
    run = await wait_run(world, WINDOW, lambda run: run["state"] != "running")
    assert (run["state"], run["replayed"], run["effects_left"], run["problem"]) == ("done", 2, 0, None)
    assert run["verdicts"] == {"passed": 1, "unreplayable": 1}
    (group,) = run["groups"]
    assert group["failure"] == "KeyError: 'plan'  functions/signup.py:16"
    names = {each["verdict"]: each["reasons"][0]["names"] for each in group["verdicts"]}
    assert names == {"passed": [passed.name], "unreplayable": [failed.name]}
    # A name of the same window has the same run.
    await post(world, "incidents", {"name": "outage", "window": f"since:{WINDOW.replace('..', ' until:')}"})
    assert await world.get("incidents/outage/replay") == run


async def test_one_run_of_a_window_goes_on_at_a_time_and_is_cancelled(world: World, host: ReplayingHost) -> None:
    await world.add(make_execution(raised()))
    host.is_held = True
    for window in (WINDOW, "14:00..14:03"):
        assert (await post(world, f"incidents/{window}/replay", {}))[0] == 200
    status, again = await post(world, f"incidents/{WINDOW}/replay", {"on": "."})
    assert (status, again["code"]) == (400, "FLX655") and "2025-11-25T14:00:00" in again["detail"]
    status, more = await post(world, f"incidents/{EMPTY}/replay", {})
    assert (status, more["code"]) == (400, "FLX656")
    await wait_run(world, WINDOW, lambda _: host.running == 2)
    for window in (WINDOW, "14:00..14:03"):
        assert (await post(world, f"incidents/{window}/replay/cancel", {}))[1]["state"] == "cancelled"
    with trio.fail_after(120):
        while host.running:
            await trio.lowlevel.checkpoint()
    # What is cancelled makes room, and what has nothing to do is done.
    assert (await post(world, f"incidents/{EMPTY}/replay", {}))[0] == 200
    assert (await wait_run(world, EMPTY, lambda run: run["state"] == "done"))["total"] == 0
    assert (await post(world, f"incidents/{EMPTY}/replay/cancel", {}))[1]["state"] == "done"
    assert (await post(world, "incidents/13:00..13:01/replay/cancel", {}))[1]["state"] == "none"


async def test_what_ends_all_replays_is_told_with_what_is_known_by_then(world: World, host: ReplayingHost) -> None:
    await world.add(failed := make_execution(raised()))
    host.failures[failed.name] = AwayError("the code can't be loaded", remedy="mend it")
    await post(world, f"incidents/{WINDOW}/replay", {"on": "."})
    run = await wait_run(world, WINDOW, lambda run: run["state"] != "running")
    assert (run["state"], run["replayed"]) == ("failed", 0)
    assert run["problem"] == {"code": "FLX222", "detail": "the code can't be loaded", "remedy": "mend it", "exit": 5}
    for body, said in (({"on": ""}, "no code"), ({"at": "."}, '"at"'), ({"on": 1}, "can't be read"), ([], "read")):
        status, refused = await post(world, f"incidents/{WINDOW}/replay", body)
        assert (status, refused["code"]) == (400, "FLX621") and said in refused["detail"], body


async def test_a_cancelled_run_counts_until_nothing_of_it_goes_on() -> None:
    class Slow:
        def __init__(self) -> None:
            self.cleaned = trio.Event()

        async def do(self) -> None:
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await self.cleaned.wait()

        def show(self) -> dict[str, Any]:
            return {}

    async with trio.open_nursery() as nursery:
        runs, first, second = Runs(nursery.start_soon, lambda: NOW), Slow(), Slow()
        runs.begin("first", first, 0)
        runs.begin("second", second, 0)
        await trio.testing.wait_all_tasks_blocked()
        cancelled = runs.cancel("first")
        assert cancelled is not None and cancelled["state"] == "cancelled"
        with pytest.raises(AlreadyRunningError):
            runs.begin("first", Slow(), 0)
        with pytest.raises(TooManyRunsError):
            runs.begin("third", Slow(), 0)
        first.cleaned.set()
        await trio.testing.wait_all_tasks_blocked()
        third = Slow()
        assert runs.begin("third", third, 0)["state"] == "running"
        runs.forget(0)
        assert [runs.find(key) is None for key in ("first", "second", "third")] == [False] * 3, "they are as of 0"
        runs.forget(1)
        assert all(runs.find(key) is None and runs.cancel(key) is None for key in ("first", "second", "third"))
        assert runs.list("") == []
        with pytest.raises(TooManyRunsError):
            runs.begin("fourth", Slow(), 1)
        for slow in (second, third):
            slow.cleaned.set()
        await trio.testing.wait_all_tasks_blocked()
        assert runs.begin("third", third, 1)["state"] == "running", "what was given up has its place until it has ended"
        runs.close()


async def test_a_run_that_breaks_takes_nothing_with_it_and_is_told_to_who_asks() -> None:
    class Broken:
        async def do(self) -> None:
            await trio.lowlevel.checkpoint()
            raise ZeroDivisionError

        def show(self) -> dict[str, Any]:
            return {}

    async with trio.open_nursery() as nursery:
        runs = Runs(nursery.start_soon, lambda: NOW)
        runs.begin("a run", Broken(), 0)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(ZeroDivisionError):
            runs.find("a run")
        assert runs.find("a run") is None
