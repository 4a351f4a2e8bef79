"""For whom an execution runs: what was verified, what its code says, what it hands on, what stands on record."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from flux.deployment import Function
from flux.execution import Execution, Killed, Returned, Trigger
from flux.grants import Grants
from flux.hostcall import Position
from flux.hostcalls.user import USER_BYTES_MAX
from flux.limits import Limits
from flux.redact import RedactionRules
from flux.sandbox.scripted import Script, ScriptedGuest, ScriptedSandbox
from flux.store.reading import get_execution, list_children
from flux.supervisor.drive import Bounds
from flux.supervisor.present import encode, trace_json
from flux.supervisor.runnable import Runnable
from tests.conftest import Database
from tests.execution_world import DEPLOYMENT, NO_CHAIN, ExecutionWorld, open_world

RULES = RedactionRules.parse(["json:$.email"])
AUTH = {"kind": "jwt", "subject": "u42", "claims": {"sub": "u42", "email": "ada@example.com"}}
VERIFIED = Trigger("http", "GET", "/orders", "/orders", auth=json.dumps(AUTH).encode())


@pytest.fixture
async def world(database: Database, tmp_path: Path) -> AsyncIterator[ExecutionWorld]:
    async with open_world(database, tmp_path / "journal") as opened:
        yield opened


async def set_user(guest: ScriptedGuest, user: object) -> None:
    await guest.write(json.dumps([0, "user.set", [user]]).encode() + b"\n")


async def stored(world: ExecutionWorld, execution: Execution) -> Execution:
    await world.settle()
    _, found = await get_execution(world.backing.owner, execution.id)
    return found


def shown_user(execution: Execution) -> Any:
    return json.loads(encode(trace_json({}, execution, spans=[], children=[])))["user"]


async def test_a_function_hears_who_was_verified_and_its_record_says_so_as_far_as_rules_let_it(
    world: ExecutionWorld,
) -> None:
    heard: list[object] = []

    async def script(guest: ScriptedGuest, start: dict[str, Any]) -> str:
        heard.append(start["request"]["auth"])
        return "done"

    executed = await world.run(script, trigger=VERIFIED, rules=RULES)
    assert heard == [AUTH]
    record = await stored(world, executed.execution)
    shown = shown_user(record)
    assert (shown["kind"], shown["subject"], shown["claims"]["sub"]) == ("jwt", "u42", "u42")
    assert shown["claims"]["email"].startswith("redacted:")
    assert "ada@example.com" not in repr(record)
    await world.run(script, trigger=attrs.evolve(VERIFIED, auth=b""))
    assert heard == [AUTH, None]


async def test_the_user_that_was_set_last_is_on_record_redacted_whether_the_function_ends_well_or_not(
    world: ExecutionWorld,
) -> None:
    async def script(guest: ScriptedGuest, start: dict[str, Any]) -> str:
        await set_user(guest, {"id": 1})
        await set_user(guest, {"id": 7, "email": "ada@example.com", "$odd": {"$object": {"$bytes": "no tag"}}})
        if start["input"] is not None:
            raise ValueError("late")
        return "done"

    for value in (None, {"fails": True}):
        executed = await world.run(script, trigger=VERIFIED, rules=RULES, value=value)
        shown = shown_user(await stored(world, executed.execution))
        assert shown["id"] == 7 and shown["$odd"] == {"$bytes": "no tag"}
        assert shown["email"].startswith("redacted:")


@pytest.mark.parametrize("sent", [[], [1, 2], ["x" * USER_BYTES_MAX], [{"$float": "nan"}], [{"$bytes": "aGk="}]])
async def test_what_can_be_no_user_ends_a_guest_that_sends_it(world: ExecutionWorld, sent: list[object]) -> None:
    async def script(guest: ScriptedGuest, start: dict[str, Any]) -> str:
        await guest.write(json.dumps([0, "user.set", sent]).encode() + b"\n")
        await guest.call("clock.now")
        return "done"

    executed = await world.run(script)
    assert isinstance(executed.outcome, Killed) and executed.outcome.limit == "protocol"


async def test_an_invoked_function_runs_for_the_user_of_its_caller(world: ExecutionWorld) -> None:
    heard: list[object] = []

    async def caller(guest: ScriptedGuest, start: dict[str, Any]) -> str:
        option = [] if start["input"] is None else [{"user": start["input"]}]
        await guest.call("invoke", "callee", {"n": 1}, *option)
        return "done"

    async def callee(guest: ScriptedGuest, start: dict[str, Any]) -> str:
        heard.append(start.get("user"))
        return "{}"

    scripts: dict[str, Script] = {"caller": caller, "callee": callee}
    sandbox = ScriptedSandbox(scripts, world.nursery)
    runnables: dict[str, Runnable] = {}
    for name in scripts:
        runnables[name] = Runnable(
            Function(name, None, Position("script.py", 1, name)), DEPLOYMENT, sandbox, Bounds(Limits(), {}), (),
            Grants.parse(()), "repeatable read", NO_CHAIN, RULES, siblings=runnables,
        )  # fmt: skip
    user = {"id": 7, "email": "ada@example.com"}
    executed = await world.executor.execute(runnables["caller"], Trigger("invoke"), user)
    assert isinstance(executed.outcome, Returned), executed.outcome
    await world.executor.execute(runnables["caller"], Trigger("invoke"), None)
    assert heard == [user, None]
    await world.settle()
    (child,) = await list_children(world.backing.owner, executed.execution.id, 10)
    _, record = await get_execution(world.backing.owner, child.id)
    assert shown_user(record)["id"] == 7 and shown_user(record)["email"].startswith("redacted:")
    assert b"ada@example.com" not in executed.execution.calls[0].request.arguments
    for odd in ({"who": 1}, 5, {"user": "x" * USER_BYTES_MAX}):
        async def careless(guest: ScriptedGuest, start: dict[str, Any], odd: object = odd) -> str:
            with pytest.raises(RuntimeError, match="InvalidArguments"):
                await guest.call("invoke", "callee", {}, odd)
            return "done"

        runnables["caller"] = attrs.evolve(
            runnables["caller"], sandbox=ScriptedSandbox({"caller": careless}, world.nursery)
        )
        executed = await world.executor.execute(runnables["caller"], Trigger("invoke"), None)
        assert isinstance(executed.outcome, Returned), executed.outcome
