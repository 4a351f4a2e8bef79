"""Whatever the console is asked, it answers, or says what is wrong with the question; it is never at a loss."""

import json
from functools import partial

import pytest
import trio
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from flux.message import HttpResponse
from tests.conftest import Database
from tests.console_world import World, make_execution, open_world, raised

PATHS = (
    "executions", "executions/{}", "executions/{}/why", "executions/{}/case", "executions/{}/html",
    "executions/{}/diff/{}", "activity", "incidents", "incidents/{}", "incidents/{}/replay", "bisects", "cron",
    "cron/{}/history", "queue", "tokens", "functions", "errors", "state/history", "state/blame", "state/at",
    "state/diff", "records/export", "tail", "logs", "checks", "{}", "{}/{}",
)  # fmt: skip
"""Of docs/console-api.md those that only read, and what is none of them."""
NAMES = (
    "q", "n", "before", "after", "since", "follow", "table", "key", "time", "snapshot", "from", "to", "all", "minutes",
    "state", "function", "kept",
)  # fmt: skip
WORDS = (
    "@-1", "@last-error", "@-0", "@--1", "last:15m", "last:-1m", "10:00..11:00", "..", "a..b", "2025-11-25..", "0",
    "-1", "1", "1000", "99999999999999999999", "1e3", "٣", "status:>=500", "since:1h", "-error:KeyError", "id:",
    "route:/x",
    "orders", "public.orders", "pg_class", '"orders"', "flux.execution", "id=1", "id=1,id=2", "a=1,b=2", "=", ",",
    "2025-11-25T14:02:19Z", "2025-13-45", "9999-12-31T23:59:60Z", "0001-01-01", "14:02", "1:1:", "10:20:10,14",
    "' or 1=1 --", "%00", "\0", "\x1b[2J", "../..", "x" * 9000, "waiting", "dead",
)  # fmt: skip
words = st.sampled_from(WORDS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.integers().map(str)
questions = st.tuples(
    st.builds(lambda path, one, other: path.format(one, other), st.sampled_from(PATHS), words, words),
    st.dictionaries(st.sampled_from(NAMES), words, max_size=4),
)


async def ask_all(database: Database, asked: list[tuple[str, dict[str, str]]]) -> None:
    """Ask in a world that has something to say."""
    async with open_world(database) as world:
        if not database.psql("select 1 from pg_class where relname = 'orders'"):
            database.psql("create table orders (id int primary key, note text); grant all on orders to flux_guest_main")
            await world.run_as_guest(make_execution(), "insert into orders values (1, 'one')")
            await world.add(make_execution(raised(), at_s=1))
        for path, query in asked:
            await ask(world, path, query)


async def ask(world: World, path: str, query: dict[str, str]) -> None:
    """Ask once. What streams would go on for ever where it follows, so it does not."""
    follow = {"follow": "0"} if path in ("tail", "logs") else {}
    response: HttpResponse = await world.ask(path, **{**query, **follow})
    assert 200 <= response.status < 500, (path, query, response)
    if not isinstance(response.body, bytes):
        lines = b"".join([piece async for piece in response.body]).splitlines()
        assert all(json.loads(line) is not None for line in lines), (path, query)
    elif response.status >= 400:
        told = json.loads(response.body)
        assert told["status"] == response.status and told["code"] and told["detail"], (path, query, told)


@given(asked=st.lists(questions, min_size=30, max_size=60))
@settings(
    max_examples=6, phases=[Phase.generate],  # What fails is named by the assertion; to shrink it takes minutes.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
def test_any_question_is_answered_or_refused_with_a_reason(
    database: Database, asked: list[tuple[str, dict[str, str]]]
) -> None:
    trio.run(partial(ask_all, database, asked))


@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT", "PATCH", "OPTIONS"])
async def test_a_method_that_a_path_does_not_have_is_refused(database: Database, method: str) -> None:
    async with open_world(database) as world:
        for path in ("activity", "functions", "errors", "checks", "state/at"):
            response = await world.ask(path, method=method, body=b"\xff\x00{")
            assert response.status in (404, 405), (path, response)
