"""Whatever the console is asked, it answers, or says what is wrong with the question; it is never at a loss."""

import contextlib
import json
import re
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import Never

import pytest
import trio
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from flux.deploy_history import Deployed
from flux.execution import Execution
from flux.git import GitMissingError
from flux.message import HttpResponse
from flux.store.deployments import DeploymentSeen
from flux.supervisor.case_export import SecretInCaseError
from flux.supervisor.vault import NoSuchSecretError
from tests.conftest import Database
from tests.console_world import World, WorldHost, make_execution, open_world, raised

ROW = re.compile(r"\| `GET ([^`?]+)` \|([^|]*)\|")
"""A question that only reads, in the table of what the console can be asked, and its parameters."""
ROWS = ROW.findall((Path(__file__).parents[2] / "docs" / "console-api.md").read_text(encoding="utf-8"))
PATHS = {re.sub(r"\b[A-Z]+\b", "{}", path): re.findall(r"`([a-z_]+)`", parameters) for path, parameters in ROWS}
"""And the names that stand with its parameters."""
NAMES = sorted({name for names in PATHS.values() for name in names})
NO_PATHS = ("{}", "{}/{}")
WORDS = (
    "@-1", "@last-error", "@-0", "@--1", "last:15m", "last:-1m", "10:00..11:00", "..", "a..b", "2025-11-25..", "0",
    "-1", "1", "1000", "99999999999999999999", "1e3", "٣", "status:>=500", "since:1h", "-error:KeyError", "id:",
    "route:/x",
    "orders", "public.orders", "pg_class", '"orders"', "flux.execution", "id=1", "id=1,id=2", "a=1,b=2", "=", ",",
    "2025-11-25T14:02:19Z", "2025-13-45", "9999-12-31T23:59:60Z", "0001-01-01", "14:02", "1:1:", "10:20:10,14",
    "' or 1=1 --", "%00", "\0", "\x1b[2J", "../..", "x" * 9000, "waiting", "dead",
)  # fmt: skip


class BareHost(WorldHost):
    """A host without git, that has deployed nothing, is trusted with no secret and can hand no case on."""

    async def list_deployments(self, limit: int) -> Sequence[DeploymentSeen]:
        return ()[:limit]

    def current(self) -> Deployed | None:
        return None

    def bisector(self) -> Never:
        raise GitMissingError("there is no git here", remedy="install it")

    def vault(self) -> Never:
        raise NoSuchSecretError("no secret is kept here", remedy="set one")

    async def export(self, original: Execution) -> Never:
        raise SecretInCaseError(f"{original.name} has a secret in it", remedy="forget it")


words = st.sampled_from(WORDS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.integers().map(str)


@st.composite
def questions(draw: st.DrawFn) -> tuple[str, dict[str, str]]:
    """A path, and parameters: mostly of that path, for others are refused unread."""
    path = draw(st.sampled_from([*PATHS, *NO_PATHS]))
    names = st.sampled_from(draw(st.sampled_from([PATHS.get(path) or NAMES, PATHS.get(path) or NAMES, NAMES])))
    return path.format(draw(words), draw(words)), draw(st.dictionaries(names, words, max_size=4))


async def ask_all(database: Database, asked: list[tuple[str, dict[str, str]]]) -> None:
    """Ask all of them, one after the other."""
    async with open_filled(database) as world:
        for path, query in asked:
            await ask(world, path, query)


@contextlib.asynccontextmanager
async def open_filled(database: Database) -> AsyncIterator[World]:
    """A world that has something to say."""
    async with open_world(database, host=BareHost()) as world:
        if not database.psql("select 1 from pg_class where relname = 'orders'"):
            database.psql("create table orders (id int primary key, note text); grant all on orders to flux_guest_main")
            await world.run_as_guest(make_execution(), "insert into orders values (1, 'one')")
            await world.add(make_execution(raised(), at_s=1))
        yield world


async def ask(world: World, path: str, query: dict[str, str]) -> None:
    """Ask once. What streams would go on for ever where it follows, so it does not."""
    follow = {"follow": "0"} if path.partition("?")[0].strip("/") in ("tail", "logs") else {}
    response: HttpResponse = await world.ask(path, **{**query, **follow})
    assert 200 <= response.status < 500, (path, query, response)
    if not isinstance(response.body, bytes):
        lines = b"".join([piece async for piece in response.body]).splitlines()
        assert all(json.loads(line) is not None for line in lines), (path, query)
    elif response.status >= 400:
        told = json.loads(response.body)
        assert told["status"] == response.status and told["code"] and told["detail"], (path, query, told)


@given(asked=st.lists(questions(), min_size=30, max_size=60))
@settings(
    max_examples=6, phases=[Phase.generate],  # What fails is named by the assertion; to shrink it takes minutes.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
def test_any_question_is_answered_or_refused_with_a_reason(
    database: Database, asked: list[tuple[str, dict[str, str]]]
) -> None:
    trio.run(partial(ask_all, database, asked))


async def test_all_that_the_documentation_lists_is_answered_or_refused_with_a_reason(database: Database) -> None:
    assert {"executions", "executions/{}/page", "debugs/{}", "executions/{}/diff/{}", "state/at", "checks"} <= {*PATHS}
    assert {"q", "find", "at", "up", "expression", "watch", "from", "snapshot", "function"} <= {*NAMES}
    async with open_filled(database) as world:
        for path, names in PATHS.items():
            await ask(world, path.format("@-1", "@last-error"), {})
            await ask(world, path.format("a\0b", "a\0b"), {})
            row = {name: value for name, value in (("table", "orders"), ("key", "1")) if name in names}
            for name in names:
                await ask(world, path.format("@last-error", "@-1"), {name: "orders"})
                await ask(world, path.format("@last-error", "@-1"), {**row, name: "1"})
                await ask(world, path.format("@last-error", "@-1"), {**row, name: "a\0b"})


@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT", "PATCH", "OPTIONS"])
async def test_a_method_that_a_path_does_not_have_is_refused(database: Database, method: str) -> None:
    async with open_world(database) as world:
        for path in ("activity", "functions", "errors", "checks", "state/at"):
            response = await world.ask(path, method=method, body=b"\xff\x00{")
            assert response.status in (404, 405), (path, response)
