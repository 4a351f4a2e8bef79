"""A recorded failure as a test: it fails on the code of then and passes on the fixed one, with nothing around it."""

import ast
import sys
from pathlib import Path

import trio

from flux.supervisor.pytest_export import write_smallest_test
from tests.dev_process import NETLESS
from tests.followed import open_followed

CODE = '''\
from flux_guest import function

CENTS = {"free": 0, "pro": 2900}


@function
def sign_up(ctx, input):
    if ctx.request.headers.get("x-shop") != "7":
        return "another shop's"
    row = ctx.db.query("update users set plan = $1 where id = 7 returning id, plan", input.get("plan"))[0]
    return CENTS[row["plan"]]
'''
ANSWER = {"columns": ["id", "plan"], "types": ["int4", "text"], "rows": [[7, None], [8, None]], "tag": "UPDATE 2"}
HEADERS = (("content-type", "application/json"), ("x-shop", "7"), ("x-noise", "noise"))
ROWS = {"db.query": ANSWER}
HOSTILE = b'{"noise": {"a": [1, 2, 3]}, "more": "\\"\\"\\"\\nimport os\\u2028#"}'


async def test_an_exported_test_is_small_fails_and_passes_once_it_is_fixed(tmp_path: Path) -> None:
    async with open_followed(tmp_path, {"shop.py": CODE}) as followed:
        execution = await followed.record("sign_up", HOSTILE, ROWS, HEADERS)
        written = await write_smallest_test(execution, followed.replayer, seconds_max=600)
    assert written.is_smallest
    assert "noise" not in written.text
    assert "headers=[('x-shop', '7')]," in written.text, "without it, it does not fail"
    assert f"seed='{'00' * 32}'" in written.text, "it draws nothing, and what is redacted follows from the seed"
    assert "import os" not in written.text
    assert "'rows': [[8, None]]" in written.text, "one row is enough to fail"
    ast.parse(written.text)
    project = tmp_path / "project"
    test = project / "tests" / "test_it.py"
    test.parent.mkdir()
    test.write_text(written.text)
    options = ["-q", "-p", "no:cacheprovider", str(test)]
    run = [sys.executable, str(NETLESS), "own", sys.executable, "-m", "pytest", *options]
    before = await trio.run_process(run, capture_stdout=True, check=False)
    assert before.returncode == 1, before.stdout
    assert b"sign_up still fails as it did: KeyError: None" in before.stdout
    shop = project / "functions" / "shop.py"
    shop.write_text(CODE.replace('get("plan")', 'get("plan", "free")'))
    after = await trio.run_process(run, capture_stdout=True, check=False)
    assert after.returncode == 0, after.stdout
