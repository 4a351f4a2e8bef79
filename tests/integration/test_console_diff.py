"""The console's diffs: of stored executions, and of one and its replay, whose database may be to blame."""

from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any

import attrs
import pytest

from flux.brought import BroughtAnswer
from flux.deployment import Deployment
from flux.execution import Execution, Returned
from flux.hostcall import HostCall
from flux.matching_session import Fidelity, Source
from flux.session import Divergence
from flux.store import reading
from flux.supervisor.console_diff import DiffDesk, UndecidedError
from flux.supervisor.present import encode
from flux.supervisor.replay import Replay, UnreplayableError
from flux.verdict import Replayed, judge
from tests.conftest import Database
from tests.console_world import World, make_call, make_execution, open_world, raised, read


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    async with open_world(database) as opened:
        yield opened


def select(code: str, cents: int = 900) -> HostCall:
    """A statement whose answer a rebuilt database may give or not."""
    answer = {
        "columns": ["code", "cents"],
        "types": ["text", "int4"],
        "rows": [[code, cents]],
        "tag": "SELECT 1",
    }
    return make_call(1, "db.query", ["select code, cents from orders", []], answer)


def replay_of(original: Execution, *calls: HostCall, stopped: bool = False, unequal: bool = False) -> Replay:
    """A replay on the folder, in which the database answered ``calls``."""
    execution = attrs.evolve(original, deployment="d2", calls=calls, mutations=())
    divergence = Divergence("new", calls[-1].request.seq, None, calls[-1].request) if stopped else None
    fidelity = Fidelity()
    if unequal:
        assert calls[0].result is not None
        fidelity = Fidelity(1, 0, (original.calls[0], calls[0].result))
    replayed = Replayed(execution, divergence, fidelity=fidelity)
    sources = {call.request.seq: Source.WORLD for call in calls}
    deployment = Deployment("d2", "3f9c1e2d", False, None, "", ())
    return Replay(original, ".", deployment, replayed, judge(original, replayed), sources)


@attrs.define
class ReplayingHost:
    """Answers with replays that were prepared."""

    replayed: Replay
    rehearsed: Replay | None = None
    """On its own code; None: that is gone."""
    rehearsals: int = 0

    async def replay(
        self, original: Execution, on: str | None, answers: Mapping[int, BroughtAnswer], live: frozenset[str]
    ) -> Replay:
        assert (original.id, on, answers, live) == (self.replayed.original.id, ".", {}, frozenset())
        return self.replayed

    async def rehearse(self, original: Execution) -> Replay:
        assert original.id == self.replayed.original.id
        self.rehearsals += 1
        if self.rehearsed is None:
            raise UnreplayableError("its code is gone", remedy="")
        return self.rehearsed


async def diff(world: World, host: ReplayingHost) -> Any:
    """Compare the host's execution with its replay; return the document."""
    await world.add(host.replayed.original)
    desk = DiffDesk(world.pool, host, partial(reading.find_summary, world.pool))
    document = await desk.replay(host.replayed.original.name, {"on": "."})
    encode(document)
    return document


async def test_two_stored_executions_are_compared_and_a_bad_question_is_refused(world: World) -> None:
    a = make_execution(calls=(select("k4f"),))
    b = make_execution(raised(), at_s=1.0, calls=(select("zz9"),))
    await world.add(a, b)
    document = await world.get(f"executions/{a.name}/diff/{b.name}")
    assert (document["schema"], document["verdict"], document["left_out_values"]) == (
        "flux.trace-diff/1",
        "REGRESSED",
        None,
    )
    first = document["first_difference"]
    assert first["differences"] == [
        {"where": "result.rows[0].code", "name": "code", "a": "k4f", "b": "zz9", "follows": False}
    ]
    assert (await world.get(f"executions/{a.name}/diff/{b.name}", all=1))["left_out_values"] == []
    for path, query, said in (
        (f"executions/{a.name}/diff/zzzzzzzz", {}, (404, "FLX101")),
        (f"executions/{a.name}/diff/{b.name}", {"all": 2}, (400, "FLX621")),
        (f"executions/{a.name}/diff/{b.name}", {"on": "."}, (400, "FLX621")),
    ):
        assert (await world.refused(path, **query))[:2] == said
    response = await world.ask(f"executions/{a.name}/diff", method="POST", body=b"{}")
    assert (response.status, read(response)["code"]) == (400, "FLX621")
    assert (await world.ask(f"executions/{a.name}/diff")).status == 405


async def test_what_differs_on_its_own_code_too_is_noise(world: World) -> None:
    original = make_execution(calls=(select("k4f"),))
    host = ReplayingHost(
        replay_of(original, select("zz9"), unequal=True), replay_of(original, select("ab1"), unequal=True)
    )
    document = await diff(world, host)
    assert (document["verdict"], document["left_out"]["run_to_run"]) == ("IDENTICAL", 1)
    assert (host.rehearsals, document["state"]) == (1, None)
    assert "learned" in " ".join(document["notes"])


async def test_an_amount_that_the_rebuilt_database_gives_otherwise_is_no_verdict_on_the_code(
    world: World,
) -> None:
    original = make_execution(calls=(select("k4f"),))
    wrong = replay_of(original, select("k4f", 90), unequal=True)
    with pytest.raises(UndecidedError, match="answers call 1 otherwise") as refused:
        await diff(world, ReplayingHost(wrong, wrong))
    assert (refused.value.code, refused.value.exit_code) == ("FLX317", 6)


async def test_without_its_own_code_rules_alone_tell_noise_and_that_is_said(world: World) -> None:
    original = make_execution(calls=(select("k4f"),))
    with pytest.raises(UndecidedError):
        await diff(world, ReplayingHost(replay_of(original, select("zz9"), unequal=True)))
    changed = attrs.evolve(
        replay_of(original, select("k4f")),
        replayed=Replayed(attrs.evolve(original, outcome=Returned(200, (), b'{"id":7}'), mutations=())),
    )
    document = await diff(world, ReplayingHost(changed))
    assert document["verdict"] == "BEHAVIOUR CHANGED"
    assert "by rules alone: its code is gone" in " ".join(document["notes"])


async def test_a_replay_that_stops_without_a_difference_decides_nothing(world: World) -> None:
    original = make_execution(calls=(select("k4f"),))
    asked = attrs.evolve(select("k4f"), result=None, answered=None)
    with pytest.raises(UndecidedError, match="call 1 asks for what the record does not answer"):
        await diff(world, ReplayingHost(replay_of(original, asked, stopped=True)))


async def test_where_nothing_differs_its_own_code_is_not_run(world: World) -> None:
    original = make_execution(calls=(select("k4f"),))
    host = ReplayingHost(replay_of(original, select("k4f")))
    assert (await diff(world, host))["verdict"] == "IDENTICAL"
    assert host.rehearsals == 0
