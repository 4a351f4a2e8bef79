"""What a recorded failure as a test is made of: text that can't become code, smaller documents, derived answers."""

import ast
import uuid
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from flux import values
from flux.derived import derive
from flux.execution import Execution, Level, Raised, Trigger
from flux.failure import find_failure
from flux.hostcall import HostCall, HostCallRequest, HostCallResult
from flux.pytest_file import write_test
from flux.reduce import reduce

HOSTILE = "coding: utf-7 +AAo-import os+AAo- \n\r\u2028\x0cimport os #\x1b]0;x\x07\u202e\"\"\"'''\\"
EXECUTION = Execution(
    id=uuid.UUID(int=7), tenant="main", function="shop.sign_up", deployment="", sha="", dirty=False,
    trigger=Trigger(
        "http", "POST", "/" + HOSTILE, headers=(("x", HOSTILE),), query=((HOSTILE, HOSTILE),), body=HOSTILE.encode()
    ),
    started_at_ns=1, seed=bytes(32), level=Level("process", "process", "python"),
    outcome=Raised(HOSTILE, HOSTILE, (), 500),
    calls=(
        HostCall(
            HostCallRequest(1, "db.query", values.encode_canonical([HOSTILE, [{HOSTILE: HOSTILE}]])),
            HostCallResult(values.encode_canonical({"rows": [[HOSTILE]]}), None, 1), 0, 1,
        ),
    ),
)  # fmt: skip


def test_hostile_text_in_a_recorded_failure_is_literals_and_comments_of_its_test() -> None:
    failure = find_failure(EXECUTION)
    assert failure is not None
    text = write_test(EXECUTION, failure, middleware=[HOSTILE], timeout_s=1, notes=[HOSTILE])
    # As bytes: so Python looks for a declaration of the encoding, and has to find ours.
    tree = ast.parse(text.encode())
    assert [type(node).__name__ for node in tree.body] == ["ImportFrom", "Assign", "FunctionDef"]
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert called == {"Recording", "Call", "Failure", "assert_fixed"}
    assert text.isprintable() or set(text) - set(filter(str.isprintable, text)) == {"\n"}
    held = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    assert held.count(HOSTILE) == 10
    assert HOSTILE.encode() in held


def reduce_while(document: Any, still: Callable[[Any], bool]) -> Any:
    proposals = reduce(document, [()])
    try:
        candidate = next(proposals)
        while True:
            candidate = proposals.send(still(candidate))
    except StopIteration as end:
        return end.value


def test_a_document_is_reduced_to_what_still_shows_the_same() -> None:
    document = {"noise": [1, 2, 3], "users": [{"id": n, "plan": None if n == 5 else "pro"} for n in range(9)]}
    seen = []

    def still(candidate: Any) -> bool:
        seen.append(candidate)
        return any(user.get("plan", "") is None for user in candidate.get("users", []))

    assert reduce_while(document, still) == {"users": [{"plan": None}]}
    assert len(document["users"]) == 9, "what it was given stays as it was"
    assert len(seen) < 40


def ask(sql: str, *arguments: object) -> HostCallRequest:
    return HostCallRequest(1, "db.query", values.encode_canonical([sql, list(arguments)]))


PLAIN = "update users set plan = $1, at = now() where id = $2 returning id, users.plan"


@pytest.mark.parametrize(
    ("sql", "then", "now", "rows"),
    [
        (PLAIN, [None, 7], ["free", 7], [[7, "free"]]),
        ("insert into users (plan, id) values ($1, $2) returning *", [None, 7], ["free", 7], [[7, "free"]]),
        (PLAIN, [None, 7], ["free", 8], None),
        (PLAIN, [None, 7], [3, 7], None),
        ("update users set plan = $1 || 'x' where id = $2 returning id, plan", ["a", 7], ["b", 7], None),
        ("update users set plan = $1, old = $1 where id = $2 returning id, plan", ["a", 7], ["b", 7], None),
        ("update users set plan = $1 where id = $2 returning id, upper(plan) as plan", ["a", 7], ["b", 7], None),
        ("update users set plan = case when id = $1 then 'x' end returning id, plan", [1], [2], None),
        ("insert into users (id, plan) values ($1, $2) on conflict do nothing returning *", [1, "a"], [1, "b"], None),
        ("select id, plan from users where plan = $1", ["a"], ["b"], None),
    ],
)  # fmt: skip
def test_an_answer_is_derived_only_where_values_are_written_and_returned_as_they_are(
    sql: str, then: list[object], now: list[object], rows: list[list[object]] | None
) -> None:
    answer = {"columns": ["id", "plan"], "types": ["int4", "text"], "rows": [[7, then[0]]], "tag": "UPDATE 1"}
    recorded = HostCall(ask(sql, *then), HostCallResult(values.encode_canonical(answer), None, 5), 0, 1)
    derived = derive(recorded, ask(sql, *now))
    if rows is None:
        assert derived is None
        return
    assert derived is not None
    assert derived.result is not None
    assert values.decode(derived.result.value) == {**answer, "rows": rows}
    assert derived == attrs.evolve(recorded, request=ask(sql, *now), result=derived.result)
